/* Who is admitted with which promise, decided when a request is submitted.
 *
 * After every iteration, and before one that has taken what was submitted goes to the device, the engine publishes what
 * admission has to know (struct admission_view, under the engine's lock); the submitter's thread copies it, adds what
 * has been submitted since and the request itself, and plays the next iterations ahead (foresee.h) with the one model
 * of time, at the pace that iterations have lately had. How far such predictions are to be trusted is learnt from what
 * came of them: a margin, for each class, that grows with every first token that it did not cover and shrinks with the
 * others, so that as many are late in the long run as the class's percentile allows (quantile.h). A first token that is
 * in time and was predicted to come early says nothing: what it had to spare was lent to the offloading. Neither does
 * one that the margin would cover by now, be it late: of many that were admitted before the first of them was late, the
 * first says it for all. */
#include "scheduler/admission.h"
#include "base/clock.h"
#include "scheduler/engine_internal.h"
#include "scheduler/quantile.h"

#include <stdlib.h>
#include <string.h>

#define NEVER UINT64_MAX
#define FIRST_MARGIN 0.1 /* of the promised time, before anything is learnt */
#define MOST_MARGIN 0.8
#define PATIENCE 16         /* promised times without an admission, after which a margin is too careful, ... */
#define RELIEF 0.75         /* ... and becomes so much of what it was */
#define RELIEVED 0.25       /* but no less than this */
#define MARGIN_STEP 0.1     /* what the margin grows by for one that it did not cover */
#define RENEWED 4           /* sequences in line whose share of the cache is looked at after an iteration */
#define TYPICAL_WEIGHT 0.05 /* of the latest answer in the usual length of answers */

const char *shortage_name(enum shortage shortage) {
    static const char *const names[] = {"none", "ttft", "tpot", "memory", "queue"};
    return names[shortage];
}

struct status admission_create(struct engine *engine) {
    struct admission_state *state = &engine->admission;
    uint32_t running = engine->config.max_sequences, waiting = engine->config.max_queue + running + 1;
    state->view.running = calloc(running, sizeof *state->view.running);
    state->view.waiting = calloc(waiting, sizeof *state->view.waiting);
    state->running = calloc(running, sizeof *state->running);
    state->waiting = calloc(waiting, sizeof *state->waiting);
    state->played = calloc(running, sizeof *state->played);
    state->pending = calloc(waiting, sizeof(struct sequence *));
    state->keys = calloc((size_t)engine->config.context / KV_BLOCK_TOKENS + 1, sizeof *state->keys);
    for (uint32_t i = 0; i < SLO_MAX_CLASSES; i++) {
        state->margin[i] = FIRST_MARGIN;
    }
    return state->view.running && state->view.waiting && state->running && state->waiting && state->played &&
                   state->pending && state->keys
               ? STATUS_SUCCESS
               : status_error(STATUS_NO_MEMORY, "no memory for admission's view of the queue");
}

void admission_destroy(struct engine *engine) {
    struct admission_state *state = &engine->admission;
    free(state->view.running);
    free(state->view.waiting);
    free(state->running);
    free(state->waiting);
    free(state->played);
    free(state->pending);
    free(state->keys);
}

/* ---- the engine's side ---- */

/* How many tokens a sequence will still generate: as many as it may, or what answers usually have. */
static uint32_t tokens_to_come(uint32_t most, double typical) {
    uint32_t expected = typical > 0 && 2 * typical < most ? (uint32_t)(2 * typical) : most;
    return expected > 0 ? expected : 1;
}

/* With `context` positions in the cache by the time that it runs, and as much to come as it may generate. */
static struct foreseen foreseen_at(const struct sequence *sequence, uint32_t context) {
    bool generates = sequence->first_token_ns != 0 && sequence->count - sequence->computed == 1;
    return (struct foreseen){.due_ns = sequence->first_token_ns != 0 ? NEVER : deadlines_first_token(sequence),
                             .tpot_ns = sequence->promise.tpot_ns,
                             .left = generates ? 0 : sequence->count - context,
                             .context = context,
                             .to_come = sequence->capacity - sequence->count,
                             .blocks = sequence->block_count,
                             .stays = sequence->preempted,
                             .gives_way = sequence->on_sufferance};
}

/* One that waits. What it holds, if it was preempted, counts as free. */
static struct foreseen foreseen_waiting(const struct sequence *sequence) {
    uint32_t found = sequence->computed + sequence->found * KV_BLOCK_TOKENS;
    uint32_t expected = sequence->expected * KV_BLOCK_TOKENS;
    found = sequence->admitted_ns == 0 && expected > found ? expected : found;
    struct foreseen out = foreseen_at(sequence, found);
    out.blocks = 0;
    return out;
}

static uint32_t mean_left(const struct sequence_queue *queue) {
    uint64_t sum = 0;
    uint32_t looked = queue->count < 16 ? queue->count : 16;
    for (uint32_t i = 0; i < looked; i++) {
        sum += queue_at(queue, i)->count - queue_at(queue, i)->computed;
    }
    return looked > 0 ? (uint32_t)(sum / looked) : 0;
}

/* How many of a prompt's first blocks the cache has, with `guess` of them tried first. */
static uint32_t known_blocks(const struct engine *engine, const uint64_t *keys, uint32_t count, uint32_t guess) {
    uint32_t good = 0, bad = count + 1; /* so many are known, so many are not */
    while (good + 1 < bad) {
        uint32_t blocks = guess > good && guess < bad ? guess : good + (bad - good) / 2;
        if (prefix_may_know(engine->prefix, keys[blocks - 1])) {
            good = blocks;
            guess = blocks + 1;
        } else {
            bad = blocks;
            guess = 0;
        }
    }
    return good;
}

/* What is expected of the cache changes while one waits: a few are looked at anew after each iteration, in turn. */
static void renew_expected(struct engine *engine, struct admission_view *view) {
    const struct sequence_queue *line = &engine->waiting;
    uint32_t *next = &engine->admission.renewed;
    for (uint32_t i = 0; i < RENEWED && i < line->count; i++) {
        *next = *next + 1 < line->count ? *next + 1 : 0;
        struct sequence *sequence = queue_at(line, *next);
        if (!sequence->keys || sequence->preempted) {
            continue;
        }
        const struct admission *admission = &sequence->request->admission;
        uint32_t shared = admission->shared_tokens > admission->cached_tokens ? admission->shared_tokens : 0;
        uint32_t known = known_blocks(engine, sequence->keys, sequence->key_count, sequence->expected);
        sequence->expected = known > shared / KV_BLOCK_TOKENS ? known : shared / KV_BLOCK_TOKENS;
        view->waiting[*next] = foreseen_waiting(sequence);
    }
}

/* Of the line only what is new in it, for hundreds may wait: where it is as it was, nobody has anything computed but
 * who was preempted, and the next. */
static void publish_waiting(struct engine *engine, struct admission_view *view) {
    const struct sequence_queue *line = &engine->waiting;
    bool same = view->waiting_version == line->version + 1;
    view->waiting_version = line->version + 1;
    view->waiting_count = line->count;
    for (uint32_t i = 0; i < line->count && !(same && i > 0 && !queue_at(line, i - 1)->preempted); i++) {
        view->waiting[i] = foreseen_waiting(queue_at(line, i));
    }
}

void admission_publish(struct engine *engine) {
    struct admission_state *state = &engine->admission;
    struct admission_view *view = &state->view;
    if (!engine->recorded) {
        return;
    }
    uint64_t now = device_now_ns(engine->device);
    uint32_t blocks = available_blocks(engine), lent = offload_kv_excess(engine->offload);
    pthread_mutex_lock(&engine->lock);
    view->now_ns = now;
    view->running_count = engine->running_count;
    for (uint32_t i = 0; i < engine->running_count; i++) {
        view->running[i] = foreseen_at(engine->running[i], engine->running[i]->computed);
    }
    publish_waiting(engine, view);
    renew_expected(engine, view);
    view->behind_count = engine->behind.count;
    view->behind_left = mean_left(&engine->behind);
    view->admissions = engine->admissions;
    view->blocks_free = blocks;
    view->blocks_lent = lent;
    view->typical = state->typical;
    view->pace = deadlines_pace(engine);
    view->mixed = engine->mixed_ratio / view->pace;
    offload_copy_placement(engine->offload, prefix_idle(engine->prefix, PREFIX_DEVICE), &view->placement);
    pthread_mutex_unlock(&engine->lock);
}

void admission_first_token(struct engine *engine, const struct sequence *sequence, uint64_t now) {
    const struct request *request = sequence->request;
    const struct admission *admission = &request->admission;
    if (admission->predicted_ttft_ns == 0 || admission->outcome == ADMITTED_BEST_EFFORT) {
        return;
    }
    const uint32_t index = request->class_index;
    const double predicted_ns = (double)admission->predicted_ttft_ns, promised_ns = (double)request->promise.ttft_ns;
    const double measured_ns = (double)(now - request->arrival_ns);
    struct class_stats *own = &engine->class_stats[index];
    pthread_mutex_lock(&engine->lock);
    double late_share = 1 - engine->classes.items[index].percentile / 100;
    double *margin = &engine->admission.margin[index];
    bool says = sequence->late_first || 2 * predicted_ns > promised_ns;
    bool over = says && measured_ns > predicted_ns + *margin * promised_ns;
    *margin = quantile_track(*margin, over, late_share / 2, MARGIN_STEP, MOST_MARGIN);
    pthread_mutex_unlock(&engine->lock);
    pthread_mutex_lock(&engine->stats_lock);
    own->first_tokens++;
    own->first_in_time += !sequence->late_first;
    histogram_observe(&own->ttft_ratio, measured_ns / predicted_ns);
    pthread_mutex_unlock(&engine->stats_lock);
}

void admission_ended(struct engine *engine, const struct sequence *sequence) {
    double *typical = &engine->admission.typical, tokens = sequence_generated(sequence);
    *typical = *typical > 0 ? *typical + TYPICAL_WEIGHT * (tokens - *typical) : tokens;
}

void admission_computed(struct engine *engine, struct sequence *sequence) {
    struct admission_state *state = &engine->admission;
    if (!sequence->keys) {
        return;
    }
    pthread_mutex_lock(&engine->lock);
    if (sequence->pending > 0) {
        struct sequence *last = state->pending[--state->pending_count];
        state->pending[sequence->pending - 1] = last;
        last->pending = sequence->pending;
        sequence->pending = 0;
    }
    pthread_mutex_unlock(&engine->lock);
}

/* ---- the submitter's side ---- */

/* What of a prompt need not be computed for it: what the cache has, on the device or parked, and what others compute
 * whose first tokens are due before its own. */
static void look_for_prompt(struct engine *engine, struct request *request, uint64_t due_ns) {
    struct admission_state *state = &engine->admission;
    const bool scored = request->sampling.echo && request->sampling.logprobs;
    state->key_count = engine->config.prefix_cache && !scored ? (request->prompt_count - 1) / KV_BLOCK_TOKENS : 0;
    prefix_keys(engine->prefix, &request->salt, request->prompt, state->key_count, state->keys);
    uint32_t cached = known_blocks(engine, state->keys, state->key_count, 0), shared = cached;
    pthread_mutex_lock(&engine->lock);
    for (uint32_t i = 0; i < state->pending_count; i++) {
        const struct sequence *other = state->pending[i];
        while (shared < state->key_count && shared < other->key_count && other->keys[shared] == state->keys[shared] &&
               deadlines_first_token(other) <= due_ns) {
            shared++;
        }
    }
    pthread_mutex_unlock(&engine->lock);
    request->admission.cached_tokens = cached * KV_BLOCK_TOKENS;
    request->admission.shared_tokens = shared * KV_BLOCK_TOKENS;
}

struct status admission_note(struct engine *engine, struct sequence *sequence) {
    const struct admission_state *state = &engine->admission;
    if (state->key_count == 0) {
        return STATUS_SUCCESS;
    }
    sequence->keys = malloc(state->key_count * sizeof *sequence->keys);
    if (!sequence->keys) {
        return status_error(STATUS_NO_MEMORY, "no memory for the hashes of a prompt of %u tokens",
                            sequence->request->prompt_count);
    }
    memcpy(sequence->keys, state->keys, state->key_count * sizeof *sequence->keys);
    sequence->key_count = state->key_count;
    sequence->expected = sequence->request->admission.shared_tokens / KV_BLOCK_TOKENS;
    return STATUS_SUCCESS;
}

void admission_submitted(struct engine *engine, struct sequence *sequence) {
    struct admission_state *state = &engine->admission;
    if (sequence->keys) {
        state->pending[state->pending_count++] = sequence;
        sequence->pending = state->pending_count;
    }
}

/* Takes a copy of what is known, with what has been submitted since, in order. Under the lock. */
static void take_view(struct engine *engine, struct foresight *out) {
    struct admission_state *state = &engine->admission;
    const struct admission_view *view = &state->view;
    *out = (struct foresight){.now_ns = view->now_ns,
                              .time_of = iteration_times_of,
                              .times = &state->times,
                              .mixed = view->mixed,
                              .most_rows = engine->limits.rows,
                              .chunk = engine->config.prefill_chunk,
                              .most_running = engine->config.max_sequences,
                              .blocks_free = view->blocks_free,
                              .blocks_lent = view->blocks_lent,
                              .running = state->played,
                              .running_count = view->running_count,
                              .waiting = state->waiting,
                              .waiting_count = view->waiting_count,
                              .behind_count = view->behind_count,
                              .behind_left = view->behind_left,
                              .behind_share = BEHIND_SHARE,
                              .admissions = view->admissions};
    memcpy(state->running, view->running, view->running_count * sizeof *view->running);
    memcpy(state->waiting, view->waiting, view->waiting_count * sizeof *view->waiting);
    for (uint32_t i = 0; i < view->running_count; i++) {
        state->running[i].to_come = tokens_to_come(state->running[i].to_come, view->typical);
    }
    for (uint32_t i = 0; i < view->waiting_count; i++) {
        state->waiting[i].to_come = tokens_to_come(state->waiting[i].to_come, view->typical);
    }
    state->placement = view->placement;
    iteration_times_init(&state->times, engine->offload, &state->placement, view->pace);
    for (uint32_t i = 0; i < engine->submitted.count; i++) {
        const struct sequence *sequence = queue_at(&engine->submitted, i);
        struct foreseen each = foreseen_waiting(sequence);
        each.to_come = tokens_to_come(each.to_come, view->typical);
        each.from_ns = sequence->request->arrival_ns;
        if (each.due_ns == NEVER) {
            out->behind_left = (out->behind_left * out->behind_count + each.left) / (out->behind_count + 1);
            out->behind_count++;
        } else {
            admission_insert(state->waiting, &out->waiting_count, &each);
        }
    }
}

uint32_t admission_insert(struct foreseen *waiting, uint32_t *count, const struct foreseen *each) {
    uint32_t at = *count;
    for (; at > 0 && waiting[at - 1].due_ns > each->due_ns && !waiting[at - 1].stays; at--) {
        waiting[at] = waiting[at - 1];
    }
    waiting[at] = *each;
    (*count)++;
    return at;
}

/* What a play says about a promise. */
static void judge(const struct foresaw *seen, const struct foresaw *without, const struct promise *promise,
                  double margin, uint64_t arrival_ns, struct admission *out) {
    out->shortage = SHORT_OF_NOTHING;
    out->predicted_ttft_ns = seen->first_ns != NEVER ? seen->first_ns - arrival_ns : NEVER;
    uint64_t room_ns = (uint64_t)((double)promise->ttft_ns * (1 - margin));
    if (promise->ttft_ns > 0 && out->predicted_ttft_ns > room_ns) {
        out->shortage = seen->for_blocks ? SHORT_OF_MEMORY : seen->for_places ? SHORT_OF_PLACES : SHORT_OF_TTFT;
    } else if (without && seen->late > without->late) {
        out->shortage = SHORT_OF_PLACES;
    } else if (seen->least_tpot_ns != NEVER && seen->token_ns > seen->least_tpot_ns) {
        out->shortage = SHORT_OF_TPOT;
    } else if (seen->least_tpot_ns != NEVER && seen->overfull) {
        out->shortage = SHORT_OF_MEMORY;
    }
    out->promised = *promise;
    out->predicted_tpot_ns = seen->token_ns;
}

/* Plays ahead with the request in line, and once more without it if somebody is late. */
static void predict(struct engine *engine, const struct foresight *view, const struct request *request,
                    const struct promise *promise, uint32_t to_come, double margin, struct admission *out) {
    struct admission_state *state = &engine->admission;
    const uint64_t arrival_ns = request->arrival_ns;
    const uint64_t horizon_ns = promise->ttft_ns > 0 ? 4 * promise->ttft_ns : 60 * NS_PER_S;
    struct foresight play = *view;
    struct foreseen own = {.due_ns = promise->ttft_ns > 0 ? arrival_ns + promise->ttft_ns : NEVER,
                           .tpot_ns = promise->tpot_ns,
                           .from_ns = arrival_ns,
                           .left = request->prompt_count - request->admission.shared_tokens,
                           .context = request->admission.shared_tokens,
                           .to_come = to_come};
    if (play.running_count == 0 && play.waiting_count == 0 && play.now_ns < arrival_ns) {
        play.now_ns = arrival_ns;
    }
    /* Whoever had nothing to do has not looked at the clock since. */
    const uint64_t begin_ns = play.now_ns, until_ns = (begin_ns > arrival_ns ? begin_ns : arrival_ns) + horizon_ns;
    memcpy(state->played, state->running, view->running_count * sizeof *state->running);
    uint32_t at = admission_insert(state->waiting, &play.waiting_count, &own), count = play.waiting_count;
    struct foresaw seen = foresee(&play, at, until_ns), without = {0};
    memmove(state->waiting + at, state->waiting + at + 1, (count - at - 1) * sizeof own); /* the next may try, too */
    bool compare = seen.late > 0 && view->waiting_count > 0;
    if (compare) {
        play = *view;
        play.now_ns = begin_ns;
        memcpy(state->played, state->running, view->running_count * sizeof *state->running);
        without = foresee(&play, view->waiting_count - 1, until_ns);
        without.late += without.first_ns > state->waiting[view->waiting_count - 1].due_ns;
    }
    judge(&seen, compare ? &without : NULL, promise, margin, arrival_ns, out);
    uint64_t most_ns = until_ns - arrival_ns;
    out->predicted_ttft_ns = out->predicted_ttft_ns < most_ns ? out->predicted_ttft_ns : most_ns;
}

static void settle(struct request *request, enum admission_outcome outcome, uint32_t class_index,
                   const struct promise *promise) {
    request->admission.outcome = outcome;
    request->class_index = class_index;
    request->promise = *promise;
}

/* Who admits nobody learns nothing: the class's margin shrinks with the time in which nobody was. Under the lock. */
static void relieve(struct engine *engine, const struct request *request) {
    struct admission_state *state = &engine->admission;
    const uint32_t index = request->class_index;
    const uint64_t ttft_ns = engine->classes.items[index].promise.ttft_ns;
    if (request->arrival_ns > state->admitted_ns[index] + PATIENCE * ttft_ns) {
        double relieved = state->margin[index] * RELIEF;
        if (state->admitted_ns[index] > 0 && relieved >= RELIEVED) {
            state->margin[index] = relieved;
        }
        state->admitted_ns[index] = request->arrival_ns;
    }
}

void admission_decide(struct engine *engine, struct request *request) {
    struct admission_state *state = &engine->admission;
    struct foresight view;
    struct slo_classes classes;
    double margins[SLO_MAX_CLASSES];
    pthread_mutex_lock(&engine->lock);
    classes = engine->classes;
    relieve(engine, request);
    memcpy(margins, state->margin, sizeof margins);
    take_view(engine, &view);
    double typical = state->view.typical;
    pthread_mutex_unlock(&engine->lock);

    uint32_t index = request->class_index;
    CHECK(index < classes.count);
    struct promise promise = request->has_promise ? request->promise : classes.items[index].promise;
    request->admission = (struct admission){.asked_class = index};
    state->key_count = 0;
    if (!engine->recorded || (promise.ttft_ns == 0 && promise.tpot_ns == 0) || engine->config.order == ORDER_FCFS) {
        settle(request, promise.ttft_ns + promise.tpot_ns > 0 ? ADMITTED : ADMITTED_WITHOUT, index, &promise);
        return;
    }
    look_for_prompt(engine, request, promise.ttft_ns > 0 ? request->arrival_ns + promise.ttft_ns : NEVER);
    uint32_t left = engine->config.context - request->prompt_count;
    uint32_t most = request->sampling.max_tokens < left ? request->sampling.max_tokens : left;
    uint32_t to_come = tokens_to_come(most, typical);
    for (bool lesser = false;; lesser = true) {
        const struct slo_class *own = &classes.items[index];
        predict(engine, &view, request, &promise, to_come, margins[index], &request->admission);
        if (request->admission.shortage == SHORT_OF_NOTHING) {
            settle(request, lesser ? ADMITTED_LESSER : ADMITTED, index, &promise);
            return;
        }
        if (own->on_miss != ON_MISS_DOWNGRADE) {
            settle(request, own->on_miss == ON_MISS_REFUSE ? ADMISSION_REFUSED : ADMITTED_BEST_EFFORT, index, &promise);
            return;
        }
        index = own->lesser;
        promise = classes.items[index].promise;
        if (promise.ttft_ns == 0 && promise.tpot_ns == 0) {
            settle(request, ADMITTED_LESSER, index, &promise);
            return;
        }
    }
}

/* The time until which it would have to come again: when what is short is predicted to be there. */
static uint64_t retry_after_ns(const struct admission *admission) {
    uint64_t promised = admission->promised.ttft_ns;
    uint64_t over =
        promised > 0 && admission->predicted_ttft_ns > promised ? admission->predicted_ttft_ns - promised : 0;
    return over > NS_PER_S ? over : NS_PER_S;
}

struct status admission_refusal(struct request *request) {
    struct admission *admission = &request->admission;
    admission->retry_after_ns = retry_after_ns(admission);
    bool tpot = admission->shortage == SHORT_OF_TPOT;
    return status_error(STATUS_BUSY,
                        "the promise of %.10g ms %s cannot be kept now: %.1f ms are predicted, short of %s",
                        (double)(tpot ? admission->promised.tpot_ns : admission->promised.ttft_ns) / 1e6,
                        tpot ? "a token" : "to the first token",
                        (double)(tpot ? admission->predicted_tpot_ns : admission->predicted_ttft_ns) / 1e6,
                        shortage_name(admission->shortage));
}

void admission_count(struct engine *engine, const struct request *request) {
    const struct admission *admission = &request->admission;
    if (admission->outcome == ADMITTED) {
        pthread_mutex_lock(&engine->lock);
        engine->admission.admitted_ns[request->class_index] = request->arrival_ns;
        pthread_mutex_unlock(&engine->lock);
    }
    pthread_mutex_lock(&engine->stats_lock);
    struct class_stats *asked = &engine->class_stats[admission->asked_class];
    struct class_stats *got = &engine->class_stats[request->class_index];
    got->admitted += admission->outcome == ADMITTED || admission->outcome == ADMITTED_LESSER;
    got->best_effort += admission->outcome == ADMITTED_BEST_EFFORT;
    asked->downgraded += admission->outcome == ADMITTED_LESSER;
    if (admission->outcome == ADMISSION_REFUSED) {
        asked->refused[admission->shortage]++;
        histogram_observe(&asked->refused_ttft_s, (double)admission->predicted_ttft_ns / (double)NS_PER_S);
    }
    pthread_mutex_unlock(&engine->stats_lock);
}

struct status engine_set_classes(struct engine *engine, const struct slo_classes *classes) {
    for (uint32_t i = 0; i < classes->count; i++) {
        const struct slo_class *each = &classes->items[i];
        if (!each->offered || each->promise.ttft_ns + each->promise.tpot_ns == 0) {
            continue;
        }
        if (!engine->recorded) {
            return status_error(STATUS_INVALID,
                                "class %s: a promise where there was none takes a restart, which measures what "
                                "iterations take",
                                each->name);
        }
        if (each->promise.tpot_ns > 0 && each->promise.tpot_ns < engine->least_token_ns) {
            return status_error(STATUS_INVALID, "class %s: tpot_ms is %.3f, and one token takes %.3f ms here; raise it",
                                each->name, (double)each->promise.tpot_ns / 1e6, (double)engine->least_token_ns / 1e6);
        }
    }
    pthread_mutex_lock(&engine->lock);
    engine->classes = *classes;
    pthread_mutex_unlock(&engine->lock);
    return STATUS_SUCCESS;
}
