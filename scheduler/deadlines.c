/* When tokens are due, and what follows from it: who is lost, how many prompt tokens fit beside those that generate,
 * and what an iteration asks of the offload engine.
 *
 * Times to come are the offload engine's predictions; without a record there are none, and nothing is lost before it is
 * late. */
#include "scheduler/engine_internal.h"
#include "scheduler/prompt_rows.h"

#define NEVER UINT64_MAX
#define CATCH_UP 8
#define AVOIDABLE 4     /* what is late by more than one part in so many no reserve would have helped */
#define USUAL_ANSWER 64 /* tokens, before any has ended */
#define MOST_HELD 16    /* iterations for which a prompt waits at the most until tokens are ahead enough for it */

/* For so many iterations after one with a prompt the next one is expected: it needs room in the time of tokens that is
 * not taken up by copies already. */
#define PROMPTS_EXPECTED 32

/* What iterations of tokens and prompts take of what the record says is followed quickly when it rises, for a token is
 * late at once, and slowly when it falls. */
#define RATIO_RISE 2
#define RATIO_FALL 16
#define MOST_RATIO 4.0
#define PACE_ITERATIONS 32 /* of which the pace is a mean */

uint64_t deadlines_first_token(const struct sequence *sequence) {
    const uint64_t ttft_ns = sequence->promise.ttft_ns;
    return ttft_ns > 0 ? sequence->request->arrival_ns + ttft_ns : NEVER;
}

/* When the next token of a sequence that has generated `generated` is due. */
static uint64_t token_due(const struct sequence *sequence, uint32_t generated) {
    const uint64_t tpot_ns = sequence->promise.tpot_ns;
    if (sequence->first_token_ns == 0) {
        return deadlines_first_token(sequence);
    }
    return tpot_ns > 0 ? sequence->first_token_ns + generated * tpot_ns : NEVER;
}

uint64_t deadlines_judge(struct sequence *sequence, uint64_t now) {
    uint64_t due = token_due(sequence, sequence_generated(sequence) - 1);
    bool late = now > due;
    if (sequence->first_token_ns == 0) {
        sequence->late_first = late;
    } else {
        sequence->late_later += late;
    }
    return late ? now - due : 0;
}

bool deadlines_lost(const struct engine *engine, const struct sequence *sequence, uint64_t now) {
    uint64_t due = deadlines_first_token(sequence);
    if (sequence->first_token_ns != 0 || due == NEVER) {
        return false;
    }
    uint32_t done = sequence->computed + sequence->found * KV_BLOCK_TOKENS, chunk = engine->config.prefill_chunk;
    uint32_t left = sequence->count - done;
    uint32_t rows = left < chunk ? left : chunk, chunks = (left + chunk - 1) / chunk;
    return now + chunks * offload_least_ns(engine->offload, rows, done + left / 2.0) > due;
}

/* Until a sequence's next token is due; NEVER if none is, or if it is late already: it then hurries nobody. */
static uint64_t time_left(const struct sequence *sequence, uint64_t now) {
    uint64_t due = token_due(sequence, sequence_generated(sequence));
    return due == NEVER || due <= now ? NEVER : due - now;
}

static uint64_t tpot_of(const struct sequence *sequence) {
    return sequence->promise.tpot_ns > 0 ? sequence->promise.tpot_ns : NEVER;
}

/* What its tokens are to be ahead, so that a prompt which is in no hurry leaves them that. Nothing else does: weights
 * that came back for it would make late what is in time, and take the room of the next blocks. */
static uint64_t reserve_of(const struct engine *engine, const struct sequence *sequence) {
    return (uint64_t)(engine->reserve.share * (double)sequence->promise.tpot_ns);
}

/* How long the iteration with a generating sequence's next token may take. A token that is further ahead than
 * `reserve_ns` leaves its time to those after it (struct offload_demand, slack_ns); one that is not gets there over the
 * next CATCH_UP, for an iteration whose slabs come back to the device gains nothing yet. */
static uint64_t next_token_share(const struct sequence *sequence, uint64_t reserve_ns, uint64_t now) {
    const uint64_t tpot_ns = tpot_of(sequence), left = time_left(sequence, now);
    const uint64_t wanted = tpot_ns < NEVER ? tpot_ns + reserve_ns : 0;
    return left < wanted ? tpot_ns - (wanted - left) / CATCH_UP : tpot_ns;
}

/* What is left of the time to the first token goes to what is left of the prompt. A first token that cannot come in
 * time, with an iteration that takes at least `least_ns`, hurries nobody. */
static uint64_t prompt_share(const struct engine *engine, const struct sequence *sequence, uint64_t now,
                             uint64_t least_ns) {
    const uint64_t usual = tpot_of(sequence);
    uint64_t left_ns = time_left(sequence, now);
    if (left_ns == NEVER || engine->waiting.count > 0) {
        return usual;
    }
    double left = sequence->count - sequence->computed;
    uint64_t share = (uint64_t)((double)left_ns * sequence->scheduled / left);
    return share < least_ns ? usual : share;
}

/* What the device computes, by the record, with `decode_rows` tokens that attend to `decode_context` positions together
 * and `prompt_rows` more that attend to `prompt_context` each. The record knows of rows beyond what sequences there can
 * be as those of one prompt, which read its keys and values once: what tokens read of their own comes on top. */
static double mixed_compute_ns(const struct engine *engine, uint32_t decode_rows, double decode_context,
                               uint32_t prompt_rows, double prompt_context) {
    const struct offload *offload = engine->offload;
    const uint32_t rows = decode_rows + prompt_rows;
    const double mean = (decode_context + prompt_rows * prompt_context) / rows;
    const double alike_ns = (double)offload_least_ns(offload, rows, mean);
    if (decode_rows == 0 || rows <= engine->config.max_sequences) {
        return alike_ns;
    }
    const double own_ns = (double)offload_least_ns(offload, decode_rows, decode_context / decode_rows) -
                          (double)offload_least_ns(offload, decode_rows, 1);
    const double apart_ns = (double)offload_least_ns(offload, rows, prompt_context) + own_ns;
    return apart_ns > alike_ns ? apart_ns : alike_ns;
}

struct offload_demand deadlines_demand(const struct engine *engine, uint64_t now) {
    struct offload_demand demand = {.deadline_ns = NEVER,
                                    .rows = engine->inputs->rows,
                                    .crowded = engine->crowded,
                                    .next_blocks = engine->next_blocks,
                                    .soon_blocks = engine->soon_blocks,
                                    .room_blocks = engine->room_blocks};
    for (uint32_t i = 0; i < engine->running_count; i++) {
        const struct sequence *sequence = engine->running[i];
        uint32_t rows = sequence->scheduled;
        demand.context_tokens += (uint64_t)rows * (sequence->computed + (rows + 1) / 2);
        demand.decode_rows += sequence->first_token_ns != 0 ? rows : 0;
    }
    const uint64_t least_ns =
        offload_least_ns(engine->offload, demand.rows, (double)demand.context_tokens / demand.rows);
    uint64_t slack_ns = NEVER;
    for (uint32_t i = 0; i < engine->running_count; i++) {
        const struct sequence *sequence = engine->running[i];
        if (sequence->scheduled > 0) {
            uint64_t left = time_left(sequence, now);
            slack_ns = left < slack_ns ? left : slack_ns;
            uint64_t share = sequence->first_token_ns != 0 ? next_token_share(sequence, 0, now)
                                                           : prompt_share(engine, sequence, now, least_ns);
            demand.deadline_ns = share < demand.deadline_ns ? share : demand.deadline_ns;
        }
    }
    demand.slack_ns = slack_ns != NEVER && slack_ns > demand.deadline_ns ? slack_ns - demand.deadline_ns : 0;
    demand.steady = engine->since_prompt >= PROMPTS_EXPECTED && demand.rows == demand.decode_rows;
    return demand;
}

/* Tokens, and what rows of the prompt that is next may join. */
struct joined {
    const struct engine *engine;
    uint32_t decode_rows, begin; /* the prompt's next position */
    double context;              /* of the tokens together */
    uint64_t share_ns;
};

/* Positions that a row attends to in the mean, with so many of the prompt. */
static double mean_context(const struct joined *joined, uint32_t rows) {
    return (joined->context + rows * (joined->begin + rows / 2.0)) / (joined->decode_rows + rows);
}

/* What the device computes with so many of the prompt, by the record and by what such iterations have taken of it. */
static double joined_compute_ns(const struct joined *joined, uint32_t rows) {
    return mixed_compute_ns(joined->engine, joined->decode_rows, joined->context, rows, joined->begin + rows / 2.0) *
           joined->engine->joined_ratio;
}

static uint64_t joined_iteration_ns(const struct joined *joined, uint32_t rows) {
    return offload_predict(joined->engine->offload, joined->decode_rows + rows, mean_context(joined, rows))
        .iteration_ns;
}

/* Is it over in time? What is computed leaves a reserve against what is not foreseen. */
static bool is_in_time(const void *argument, uint32_t rows) {
    const struct joined *joined = argument;
    return joined_compute_ns(joined, rows) <= (double)joined->share_ns * (1 - 1.0 / PROMPT_RESERVE) &&
           joined_iteration_ns(joined, rows) <= joined->share_ns;
}

/* The prompt that is next for rows: the first that runs, else the first in line; NULL if there is none. */
static const struct sequence *next_prompt(const struct engine *engine) {
    for (uint32_t i = 0; i < engine->running_count; i++) {
        if (engine->running[i]->scheduled == 0) {
            return engine->running[i];
        }
    }
    const struct sequence_queue *line = engine->waiting.count > 0 ? &engine->waiting : &engine->behind;
    return line->count > 0 ? queue_at(line, 0) : NULL;
}

/* Would the fewest rows of the prompt make a token late, and would an iteration without them not? */
static bool makes_late(const struct joined *joined, uint64_t now) {
    const struct engine *engine = joined->engine;
    const uint64_t without_ns = joined_iteration_ns(joined, 0);
    uint64_t left = NEVER;
    for (uint32_t i = 0; i < engine->running_count; i++) {
        const struct sequence *sequence = engine->running[i];
        if (sequence->scheduled > 0) {
            uint64_t own = time_left(sequence, now), usual = tpot_of(sequence);
            if (without_ns >= usual) {
                return false;
            }
            own = own < NEVER ? own : usual; /* late already: it need not fall further behind */
            left = own < left ? own : left;
        }
    }
    return (uint64_t)joined_compute_ns(joined, LEAST_PROMPT_ROWS) > left ||
           joined_iteration_ns(joined, LEAST_PROMPT_ROWS) > left;
}

uint32_t deadlines_prompt_rows(struct engine *engine, uint32_t decode_rows, uint32_t most, uint64_t now) {
    const struct sequence *prompt = next_prompt(engine);
    if (decode_rows == 0 || most <= LEAST_PROMPT_ROWS || !engine->recorded || engine->config.order == ORDER_FCFS ||
        !prompt) {
        return most;
    }
    const bool hurries = deadlines_first_token(prompt) != NEVER;
    struct joined joined = {.engine = engine, .decode_rows = decode_rows, .begin = prompt->computed, .share_ns = NEVER};
    for (uint32_t i = 0; i < engine->running_count; i++) {
        const struct sequence *sequence = engine->running[i];
        if (sequence->scheduled > 0) {
            uint64_t own = next_token_share(sequence, hurries ? 0 : reserve_of(engine, sequence), now);
            joined.share_ns = own < joined.share_ns ? own : joined.share_ns;
            joined.context += sequence->computed;
        }
    }
    if (joined.share_ns == NEVER) {
        return most;
    }
    const uint32_t rows = prompt_rows_most(most, &engine->prompt_steps, is_in_time, &joined);
    /* One whose first token is to come, and nobody was promised when, waits until the tokens are ahead enough. */
    const bool may_wait = !hurries && prompt->first_token_ns == 0 && engine->prompt_held < MOST_HELD;
    if (rows == LEAST_PROMPT_ROWS && may_wait && makes_late(&joined, now)) {
        engine->prompt_held++;
        return 0;
    }
    engine->prompt_held = 0;
    return rows;
}

void deadlines_expect(struct engine *engine, const struct offload_demand *demand) {
    bool mixed = demand->decode_rows > 0 && demand->rows > demand->decode_rows;
    engine->since_prompt = demand->rows > demand->decode_rows ? 0 : engine->since_prompt + 1;
    engine->mixed_ns = 0;
    if (!mixed) {
        return;
    }
    double context = 0; /* of the tokens */
    for (uint32_t i = 0; i < engine->running_count; i++) {
        const struct sequence *sequence = engine->running[i];
        context += sequence->first_token_ns != 0 && sequence->scheduled > 0 ? sequence->computed + 1 : 0;
    }
    const uint32_t prompt_rows = demand->rows - demand->decode_rows;
    const double all = (double)demand->context_tokens;
    engine->mixed_ns = offload_least_ns(engine->offload, demand->rows, all / demand->rows);
    engine->joined_ns =
        mixed_compute_ns(engine, demand->decode_rows, context, prompt_rows, (all - context) / prompt_rows);
}

static double within(double ratio) {
    return ratio < 1 / MOST_RATIO ? 1 / MOST_RATIO : ratio > MOST_RATIO ? MOST_RATIO : ratio;
}

/* By sums rather than by a mean of ratios: it is the long ones that a first token waits for. */
static void learn_pace(struct engine *engine, double measured_ns) {
    const double recorded_ns = (double)engine->cost.whole_ns, kept = 1 - 1.0 / PACE_ITERATIONS;
    double *measured = &engine->paced_measured_ns, *recorded = &engine->paced_recorded_ns;
    *measured = kept * *measured + within(measured_ns / recorded_ns) * recorded_ns;
    *recorded = kept * *recorded + recorded_ns;
}

double deadlines_pace(const struct engine *engine) {
    return engine->paced_recorded_ns > 0 ? engine->paced_measured_ns / engine->paced_recorded_ns : 1;
}

void deadlines_note_late(struct engine *engine, const struct sequence *sequence, const struct late_run *token) {
    const enum cause cause = token->cause;
    bool elsewhere = cause == CAUSE_QUEUE || cause == CAUSE_KV_PREEMPTION || cause == CAUSE_CLIENT_SLOW;
    bool avoidable = token->late_ns <= token->tpot_ns / AVOIDABLE;
    engine->stumbled = engine->stumbled || (sequence->first_token_ns != 0 && !elsewhere && avoidable);
}

/* Requests of so many tokens may be late as the percentile of their class allows. */
static void learn_reserve(struct engine *engine) {
    const double typical = engine->admission.typical > 1 ? engine->admission.typical : USUAL_ANSWER;
    double percentile = 0;
    for (uint32_t i = 0; i < engine->running_count; i++) {
        const struct request *request = engine->running[i]->request;
        if (request->promise.tpot_ns > 0) {
            const double own = engine->classes.items[request->class_index].percentile;
            percentile = own > percentile ? own : percentile;
        }
    }
    if (percentile > 0 || engine->stumbled) {
        reserve_note(&engine->reserve, engine->stumbled, (1 - percentile / 100) / typical);
    }
    engine->stumbled = false;
}

static void follow(double *ratio, double measured) {
    measured = within(measured);
    *ratio += (measured - *ratio) / (measured > *ratio ? RATIO_RISE : RATIO_FALL);
}

void deadlines_learn(struct engine *engine) {
    learn_reserve(engine);
    const struct offload_report report = offload_report(engine->offload);
    const double computed_ns = (double)(report.measured_ns - report.stall_ns);
    if (engine->recorded && engine->cost.whole_ns > 0) {
        learn_pace(engine, computed_ns - (double)engine->cost.kv_stall_ns);
    }
    if (engine->mixed_ns > 0) {
        follow(&engine->mixed_ratio, computed_ns / (double)engine->mixed_ns);
        follow(&engine->joined_ratio, computed_ns / engine->joined_ns);
    }
}
