/* When tokens are due, and what follows from it: who is lost, how many prompt tokens fit beside those that generate,
 * and what an iteration asks of the offload engine.
 *
 * Times to come are the offload engine's predictions; without a record there are none, and nothing is lost before it is
 * late. */
#include "scheduler/engine_internal.h"

#define NEVER UINT64_MAX
#define LEAST_PROMPT_ROWS 16
#define CATCH_UP 8
#define RESERVE 10 /* of the time of a token, one part in so many */

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
    const struct request *request = sequence->request;
    return request->promise.ttft_ns > 0 ? request->arrival_ns + request->promise.ttft_ns : NEVER;
}

/* When the next token of a sequence that has generated `generated` is due. */
static uint64_t token_due(const struct sequence *sequence, uint32_t generated) {
    const uint64_t tpot_ns = sequence->request->promise.tpot_ns;
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
    return sequence->request->promise.tpot_ns > 0 ? sequence->request->promise.tpot_ns : NEVER;
}

/* How long the iteration with a generating sequence's next token may take. A token that comes early leaves its time to
 * those after it (struct offload_demand, slack_ns); one that has fallen behind catches up over the next CATCH_UP, for
 * an iteration whose slabs come back to the device gains nothing yet. */
static uint64_t next_token_share(const struct sequence *sequence, uint64_t now) {
    const uint64_t tpot_ns = tpot_of(sequence);
    uint64_t left = time_left(sequence, now);
    return left < tpot_ns ? tpot_ns - (tpot_ns - left) / CATCH_UP : tpot_ns;
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

struct offload_demand deadlines_demand(const struct engine *engine, uint64_t now) {
    struct offload_demand demand = {.deadline_ns = NEVER,
                                    .rows = engine->inputs->rows,
                                    .crowded = engine->crowded,
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
            uint64_t share = sequence->first_token_ns != 0 ? next_token_share(sequence, now)
                                                           : prompt_share(engine, sequence, now, least_ns);
            demand.deadline_ns = share < demand.deadline_ns ? share : demand.deadline_ns;
        }
    }
    demand.slack_ns = slack_ns != NEVER && slack_ns > demand.deadline_ns ? slack_ns - demand.deadline_ns : 0;
    demand.steady = engine->since_prompt >= PROMPTS_EXPECTED && demand.rows == demand.decode_rows;
    return demand;
}

/* Is an iteration of tokens and prompts over in `share_ns`? What the device computes in it, by the record and by what
 * such iterations have taken of it, leaves a reserve against what is not foreseen. */
static bool is_in_time(const struct engine *engine, uint32_t rows, double context, uint64_t share_ns) {
    double least_ns = (double)offload_least_ns(engine->offload, rows, context) * engine->mixed_ratio;
    return least_ns <= (double)share_ns * (1 - 1.0 / RESERVE) &&
           offload_predict(engine->offload, rows, context).iteration_ns <= share_ns;
}

/* Where the prompt that is next for rows has come to: the first that runs, else the first in line. False if there is
 * none. */
static bool prompt_context(const struct engine *engine, uint32_t *context) {
    for (uint32_t i = 0; i < engine->running_count; i++) {
        const struct sequence *sequence = engine->running[i];
        if (sequence->scheduled == 0) {
            *context = sequence->computed;
            return true;
        }
    }
    *context = engine->waiting.count > 0 ? queue_at(&engine->waiting, 0)->computed : 0;
    return engine->waiting.count + engine->behind.count > 0;
}

uint32_t deadlines_prompt_rows(struct engine *engine, uint32_t decode_rows, uint32_t most, uint64_t now) {
    uint64_t share = NEVER;
    uint32_t begin;
    double context = 0;
    if (decode_rows == 0 || most <= LEAST_PROMPT_ROWS || !engine->recorded || engine->config.order == ORDER_FCFS ||
        !prompt_context(engine, &begin)) {
        return most;
    }
    for (uint32_t i = 0; i < engine->running_count; i++) {
        const struct sequence *sequence = engine->running[i];
        if (sequence->scheduled > 0) {
            uint64_t own = next_token_share(sequence, now);
            share = own < share ? own : share;
            context += sequence->computed;
        }
    }
    if (share == NEVER) {
        return most;
    }
    /* In steps of a few rows, for an iteration is not worth more of our own time; from the last answer on, by strides
     * that double, for the next one is near it. */
    uint32_t good = 1, bad = (most - 1) / LEAST_PROMPT_ROWS + 2, guess = engine->prompt_steps, stride = 1;
    while (good + 1 < bad) {
        uint32_t steps = guess > good && guess < bad ? guess : good + (bad - good) / 2;
        uint32_t rows = steps * LEAST_PROMPT_ROWS < most ? steps * LEAST_PROMPT_ROWS : most;
        double mean = (context + rows * (begin + rows / 2.0)) / (decode_rows + rows);
        if (is_in_time(engine, decode_rows + rows, mean, share)) {
            good = steps;
            guess = steps + stride;
        } else {
            bad = steps;
            guess = steps > stride ? steps - stride : 0;
        }
        stride *= 2;
    }
    engine->prompt_steps = good;
    return good * LEAST_PROMPT_ROWS < most ? good * LEAST_PROMPT_ROWS : most;
}

void deadlines_expect(struct engine *engine, const struct offload_demand *demand) {
    bool mixed = demand->decode_rows > 0 && demand->rows > demand->decode_rows;
    engine->since_prompt = demand->rows > demand->decode_rows ? 0 : engine->since_prompt + 1;
    double context = (double)demand->context_tokens / demand->rows;
    engine->mixed_ns = mixed ? offload_least_ns(engine->offload, demand->rows, context) : 0;
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

void deadlines_learn(struct engine *engine) {
    const struct offload_report report = offload_report(engine->offload);
    const double computed_ns = (double)(report.measured_ns - report.stall_ns);
    if (engine->recorded && engine->cost.whole_ns > 0) {
        learn_pace(engine, computed_ns - (double)engine->cost.kv_stall_ns);
    }
    if (engine->mixed_ns > 0) {
        double ratio = within(computed_ns / (double)engine->mixed_ns);
        engine->mixed_ratio += (ratio - engine->mixed_ratio) / (ratio > engine->mixed_ratio ? RATIO_RISE : RATIO_FALL);
    }
}
