/* Where each sequence's time goes, from measurements of every iteration, and what is written down when a token is late
 * for it. Nothing here decides anything. */
#include "scheduler/engine_internal.h"

/* What iterations without prompts took, for engines that have no record: by powers of two of their rows, a running
 * average that follows one of them by a part of the difference, and a disturbed one no further than that part. */
#define NORMAL_FOLLOWS 16

static uint32_t bucket_of(uint32_t rows) {
    return 31 - (uint32_t)__builtin_clz(rows | 1);
}

/* Has a sequence in this iteration rows of a prompt, rather than the one of a token that generates? */
static uint32_t prompt_rows_of(const struct sequence *sequence) {
    return sequence->count - sequence->computed > 1 ? sequence->scheduled : 0;
}

static uint64_t predicted_ns(const struct engine *engine, uint32_t rows, uint64_t context) {
    return rows > 0 ? offload_least_ns(engine->offload, rows, (double)context / rows) : 0;
}

void account_begin(struct engine *engine, const struct offload_demand *demand) {
    struct iteration_cost *cost = &engine->cost;
    uint64_t context = 0; /* of those that generate */
    *cost = (struct iteration_cost){.deadline_ns = demand->deadline_ns};
    for (uint32_t i = 0; i < engine->running_count; i++) {
        const struct sequence *sequence = engine->running[i];
        uint32_t prompt = prompt_rows_of(sequence);
        cost->prompt_rows += prompt;
        cost->decode_rows += sequence->scheduled - prompt;
        context += sequence->scheduled > prompt ? sequence->computed : 0;
    }
    if (engine->recorded) {
        cost->decode_ns = predicted_ns(engine, cost->decode_rows, context);
        cost->whole_ns = predicted_ns(engine, demand->rows, demand->context_tokens);
        cost->link_bytes_per_s = engine->record.link_bytes_per_s;
    } else {
        cost->decode_ns = cost->decode_rows > 0 ? engine->normal_ns[bucket_of(cost->decode_rows)] : 0;
        cost->whole_ns = cost->prompt_rows == 0 ? cost->decode_ns : 0; /* unknown otherwise */
        cost->link_bytes_per_s = engine->config.link_bytes_per_s;
    }
    engine->forward_ns = device_now_ns(engine->device);
}

/* Without a record: what this iteration teaches, and what is known of one with prompts once it is over. */
static void learn_normal(struct engine *engine) {
    struct iteration_cost *cost = &engine->cost;
    uint64_t waited = cost->stall_ns + cost->kv_stall_ns;
    uint64_t compute_ns = cost->device_ns > waited ? cost->device_ns - waited : 0;
    if (cost->prompt_rows > 0) {
        cost->whole_ns = compute_ns;
        cost->decode_ns = cost->decode_ns < compute_ns ? cost->decode_ns : 0;
        return;
    }
    uint64_t *normal = &engine->normal_ns[bucket_of(cost->decode_rows)];
    if (*normal == 0) {
        *normal = compute_ns;
        return;
    }
    int64_t change = ((int64_t)compute_ns - (int64_t)*normal) / NORMAL_FOLLOWS;
    int64_t most = (int64_t)*normal / NORMAL_FOLLOWS;
    *normal = (uint64_t)((int64_t)*normal + (change < most ? change : most));
}

/* The sequence's part of the iteration that has ended on the device. */
static void note_rows(struct engine *engine, const struct sequence *sequence, uint64_t now) {
    const uint32_t prompt = prompt_rows_of(sequence);
    struct span span = {.begin_ns = sequence->account.until_ns, .end_ns = now, .request = sequence->request->id};
    if (!engine->timeline.spans) {
        return;
    }
    if (sequence->scheduled == 0) {
        span.kind = SPAN_HELD;
    } else if (prompt > 0) {
        span.kind = SPAN_PREFILL;
        span.count = prompt;
        span.detail = sequence->computed;
    } else {
        span.kind = SPAN_DECODE;
        span.count = sequence_generated(sequence);
    }
    timeline_add(&engine->timeline, &span);
}

/* The time before the iteration's first op was the host's, or that of whoever was to take the events. `usual` is what
 * the iteration was to one that generates. */
static void spend_iteration(struct engine *engine, struct sequence *sequence, const struct spent *usual, uint64_t now) {
    const uint32_t prompt = prompt_rows_of(sequence);
    const bool again = sequence->computed < sequence->reached;
    struct account *account = &sequence->account;
    uint64_t before = engine->forward_ns > account->until_ns ? engine->forward_ns - account->until_ns : 0;
    uint64_t blocked = engine->blocked_ns < before ? engine->blocked_ns : before;
    account->spent.ns[CAUSE_CLIENT_SLOW] += blocked;
    account->spent.ns[CAUSE_HOST_TIME] += before - blocked;
    if (prompt == 0 && sequence->scheduled > 0 && !again) {
        spent_add(&account->spent, usual);
    } else {
        causes_of_iteration(&engine->cost, prompt, sequence->scheduled > 0, again, &account->spent);
    }
    note_rows(engine, sequence, now);
    account->until_ns = now;
}

void account_end(struct engine *engine) {
    const uint64_t now = device_now_ns(engine->device);
    const struct offload_waits waits = offload_waits(engine->offload);
    struct iteration_cost *cost = &engine->cost;
    cost->device_ns = now - engine->forward_ns;
    cost->stall_ns = waits.stall_ns;
    cost->kv_stall_ns = waits.kv_stall_ns;
    cost->copied_bytes = waits.copied_bytes;
    cost->link_bytes = waits.link_bytes;
    cost->link_ns = waits.link_ns;
    if (!engine->recorded) {
        learn_normal(engine);
    }
    struct spent usual = {0};
    causes_of_iteration(cost, 0, true, false, &usual);
    pthread_mutex_lock(&engine->stats_lock);
    for (uint32_t i = 0; i < engine->running_count; i++) {
        spend_iteration(engine, engine->running[i], &usual, now);
    }
    pthread_mutex_unlock(&engine->stats_lock);
    engine->blocked_ns = 0;
    engine->ended_ns = now;
}

void account_iteration(struct engine *engine, uint64_t begin_ns) {
    if (!engine->timeline.spans) {
        return;
    }
    const struct iteration_cost *cost = &engine->cost;
    const uint64_t forward = engine->forward_ns, ended = engine->ended_ns, now = device_now_ns(engine->device);
    const uint64_t stalled = forward + (cost->stall_ns < cost->device_ns ? cost->stall_ns : cost->device_ns);
    const uint64_t kv_stalled = stalled + cost->kv_stall_ns < ended ? stalled + cost->kv_stall_ns : ended;
    const struct span spans[] = {{begin_ns, now, 0, SPAN_ITERATION, cost->decode_rows + cost->prompt_rows,
                                  cost->prompt_rows, engine->running_count},
                                 {begin_ns, forward, 0, SPAN_COMPOSE, 0, 0, 0},
                                 {forward, ended, 0, SPAN_DEVICE, cost->copied_bytes, 0, 0},
                                 {forward, stalled, 0, SPAN_STALL, 0, 0, 0},
                                 {stalled, kv_stalled, 0, SPAN_KV_STALL, 0, 0, 0},
                                 {ended, now, 0, SPAN_COMMIT, 0, 0, 0}};
    pthread_mutex_lock(&engine->stats_lock);
    for (size_t i = 0; i < sizeof spans / sizeof spans[0]; i++) {
        bool stall = spans[i].kind == SPAN_STALL || spans[i].kind == SPAN_KV_STALL;
        if (!stall || spans[i].begin_ns < spans[i].end_ns) {
            timeline_add(&engine->timeline, &spans[i]);
        }
    }
    pthread_mutex_unlock(&engine->stats_lock);
}

static void note(struct engine *engine, const struct sequence *sequence, enum span_kind kind, uint64_t begin_ns,
                 uint64_t end_ns) {
    const struct request_outcome *outcome = &sequence->request->outcome;
    struct span span = {.begin_ns = begin_ns,
                        .end_ns = end_ns,
                        .request = sequence->request->id,
                        .kind = kind,
                        .count = outcome->tokens,
                        .detail = outcome->late_tokens};
    pthread_mutex_lock(&engine->stats_lock);
    timeline_add(&engine->timeline, &span);
    pthread_mutex_unlock(&engine->stats_lock);
}

void account_finish(struct engine *engine, struct sequence *sequence) {
    struct request_outcome *outcome = &sequence->request->outcome;
    outcome->admitted_ns = sequence->admitted_ns;
    outcome->first_token_ns = sequence->first_token_ns;
    outcome->last_token_ns = sequence->last_token_ns;
    outcome->tokens = sequence_generated(sequence);
    note(engine, sequence, SPAN_REQUEST, sequence->request->arrival_ns, device_now_ns(engine->device));
}

void account_admit(struct engine *engine, struct sequence *sequence) {
    struct account *account = &sequence->account;
    const uint64_t now = device_now_ns(engine->device);
    note(engine, sequence, sequence->preempted ? SPAN_PREEMPTED : SPAN_WAIT, account->until_ns, now);
    uint64_t waited = now > account->until_ns ? now - account->until_ns : 0;
    account->spent.ns[sequence->preempted ? CAUSE_KV_PREEMPTION : CAUSE_QUEUE] += waited;
    account->until_ns = now > account->until_ns ? now : account->until_ns;
}

/* The token that was generated last, as a run of its own. */
static struct late_run late_token(const struct engine *engine, const struct sequence *sequence, uint64_t late_ns) {
    const struct account *account = &sequence->account;
    return (struct late_run){.request = sequence->request->id,
                             .cause = causes_blame(&account->spent, late_ns),
                             .first_token = sequence_generated(sequence) - 1,
                             .tokens = 1,
                             .latest_token = sequence_generated(sequence) - 1,
                             .begin_ns = account->begin_ns,
                             .at_ns = account->until_ns,
                             .late_ns = late_ns,
                             .ttft_ns = sequence->promise.ttft_ns,
                             .tpot_ns = sequence->promise.tpot_ns,
                             .spent = account->spent,
                             .running = engine->running_count,
                             .waiting = engine->waiting.count + engine->behind.count,
                             .kv_blocks_free = offload_kv_free(engine->offload)};
}

void account_token(struct engine *engine, struct sequence *sequence, uint64_t late_ns) {
    struct account *account = &sequence->account;
    struct request_outcome *outcome = &sequence->request->outcome;
    if (late_ns == 0) {
        account->spent = (struct spent){0};
        account->begin_ns = account->until_ns;
        account->run = 0;
        return;
    }
    struct late_run token = late_token(engine, sequence, late_ns);
    if (account->run == 0) {
        deadlines_note_late(engine, sequence, &token);
    }
    pthread_mutex_lock(&engine->stats_lock);
    engine->stats.late_tokens[token.cause]++;
    engine->class_stats[sequence->request->class_index].late_tokens[token.cause]++;
    late_ring_note(&engine->late, &token, &account->run);
    pthread_mutex_unlock(&engine->stats_lock);
    outcome->late_tokens++;
    outcome->late_by[token.cause]++;
    if (late_ns > outcome->worst.late_ns) {
        outcome->worst = token;
    }
}

uint32_t engine_timeline(struct engine *engine, struct span *out, uint32_t capacity, uint64_t *dropped) {
    pthread_mutex_lock(&engine->stats_lock);
    uint32_t count = timeline_take(&engine->timeline, out, capacity);
    if (dropped) {
        *dropped = engine->timeline.dropped;
    }
    pthread_mutex_unlock(&engine->stats_lock);
    return count;
}

uint32_t engine_late_runs(const struct engine *engine, struct late_run *out, uint32_t capacity) {
    struct engine *own = (struct engine *)engine; /* the lock is the only thing written */
    pthread_mutex_lock(&own->stats_lock);
    uint32_t count = late_ring_read(&engine->late, out, capacity);
    pthread_mutex_unlock(&own->stats_lock);
    return count;
}
