#include "scheduler/replay.h"

#include "base/check.h"
#include "base/clock.h"
#include "base/random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define EVENTS_AT_ONCE 256

/* A request from its submission to its last event. */
struct live {
    struct request request;
    uint32_t index;            /* in the trace */
    struct live *next, **link; /* among the live ones */
};

struct replay {
    struct engine *engine;
    struct device *device;
    const struct replay_config *config;
    struct replay_outcome *outcomes; /* (trace->count) */
    struct replay_report *report;
    uint64_t begin_ns;  /* of the trace, on the device's clock */
    uint32_t submitted; /* requests of the trace that have come, refused ones too */
    uint32_t ended;     /* of them, those that are done with, */
    uint32_t started;   /* and those that have their first token, or will have none */
    bool crowd_over;    /* that is all of the trace */
    struct live *live;  /* lent to the engine */
    uint64_t iterations_before, late_before, preemptions_before, streamed_before, queries_before, hits_before;
    double host_bytes_sum;
    double *errors; /* (error_capacity) of predictions, as shares: a ring of the latest */
    uint32_t error_count;
    struct engine_event events[EVENTS_AT_ONCE];
};

enum { ERROR_CAPACITY = 1 << 16 };

/* ---- requests out ---- */

/* Of the trace's request `index`, since the begin. */
static uint64_t arrival_of(const struct replay *replay, uint32_t index) {
    return (uint64_t)((double)replay->config->trace->requests[index].arrival_ns * replay->config->stretch);
}

static struct promise promise_of(const struct replay_config *config, uint32_t index) {
    const struct trace_promise *own = config->trace->promises ? &config->trace->promises[index] : NULL;
    return own && own->own ? (struct promise){.ttft_ns = own->ttft_ns, .tpot_ns = own->tpot_ns}
                           : (struct promise){.ttft_ns = config->ttft_ns, .tpot_ns = config->tpot_ns};
}

static struct status make_request(struct replay *replay, uint32_t index, struct live **out) {
    const struct trace *trace = replay->config->trace;
    const struct trace_request *source = &trace->requests[index];
    const uint32_t longest = replay->config->longest;
    uint32_t output = source->output_tokens < longest ? source->output_tokens : longest - 1;
    uint32_t prompt = source->prompt_tokens;
    prompt = prompt > longest - output ? longest - output : prompt;
    struct live *live = calloc(1, sizeof *live);
    uint32_t *ids = malloc((size_t)source->prompt_tokens * sizeof *ids);
    if (live == NULL || ids == NULL) {
        free(live);
        free(ids);
        return status_error(STATUS_NO_MEMORY, "no memory for a prompt of %u tokens", source->prompt_tokens);
    }
    trace_prompt(trace, index, replay->config->vocabulary, ids);
    memmove(ids, ids + (source->prompt_tokens - prompt), (size_t)prompt * sizeof *ids);
    replay->outcomes[index].clipped = prompt < source->prompt_tokens || output < source->output_tokens;
    live->index = index;
    live->request =
        (struct request){.prompt = ids,
                         .prompt_count = prompt,
                         .sampling = {.top_p = 1, .repetition_penalty = 1, .max_tokens = output, .ignore_eos = true},
                         .arrival_ns = replay->begin_ns + arrival_of(replay, index),
                         .has_promise = trace->promises && trace->promises[index].own,
                         .promise = promise_of(replay->config, index),
                         .owner = live};
    live->next = replay->live;
    live->link = &replay->live;
    if (live->next) {
        live->next->link = &live->next;
    }
    replay->live = *out = live;
    return STATUS_SUCCESS;
}

static void free_request(struct live *live) {
    *live->link = live->next;
    if (live->next) {
        live->next->link = live->link;
    }
    free(live->request.prompt);
    free(live);
}

static void tell_end(const struct replay *replay, const struct request *request, enum finish_reason finish) {
    if (replay->config->watch.ended) {
        replay->config->watch.ended(replay->config->watch.context, request, finish);
    }
}

/* Submits every request that has come by now. */
static struct status submit_due(struct replay *replay) {
    const struct trace *trace = replay->config->trace;
    uint64_t now = device_now_ns(replay->device) - replay->begin_ns;
    while (replay->submitted < trace->count && arrival_of(replay, replay->submitted) <= now) {
        uint32_t index = replay->submitted++;
        replay->outcomes[index].arrival_ns = arrival_of(replay, index);
        if (replay->config->dropped && replay->config->dropped[index]) {
            replay->outcomes[index].dropped = true;
            replay->ended++;
            replay->started++;
            continue;
        }
        struct live *live = NULL;
        TRY(make_request(replay, index, &live));
        struct status status = engine_submit(replay->engine, &live->request);
        if (status.code == STATUS_BUSY) {
            tell_end(replay, &live->request, FINISH_NONE);
        }
        if (status_failed(&status)) {
            free_request(live);
            if (status.code != STATUS_BUSY) {
                return status_context(status, "request %u of the trace", index + 1);
            }
            replay->ended++;
            replay->started++;
        }
    }
    return STATUS_SUCCESS;
}

/* ---- events in ---- */

static void take_token(struct replay *replay, struct replay_outcome *outcome, uint32_t token, uint64_t now) {
    const struct promise promise = promise_of(replay->config, (uint32_t)(outcome - replay->outcomes));
    uint64_t due = UINT64_MAX;
    if (outcome->tokens == 0) {
        outcome->first_token_ns = now;
        due = promise.ttft_ns > 0 ? outcome->arrival_ns + promise.ttft_ns : due;
    } else if (promise.tpot_ns > 0) {
        due = outcome->first_token_ns + outcome->tokens * promise.tpot_ns;
    }
    outcome->last_token_ns = now;
    outcome->tokens++;
    outcome->tokens_hash = random_hash(outcome->tokens_hash, token);
    outcome->late_tokens += now > due;
}

/* Once nobody is left who waits for a first token: what there is by now came while others waited. */
static void note_crowd(struct replay *replay) {
    const uint32_t count = replay->config->trace->count;
    const bool over = replay->started == count;
    for (uint32_t i = 0; over && !replay->crowd_over && i < count; i++) {
        replay->outcomes[i].crowd_tokens = replay->outcomes[i].tokens;
    }
    replay->crowd_over = over;
}

static struct status take_events(struct replay *replay) {
    struct status fault = STATUS_SUCCESS;
    uint64_t now = device_now_ns(replay->device) - replay->begin_ns;
    for (uint32_t count; (count = engine_poll(replay->engine, replay->events, EVENTS_AT_ONCE)) > 0;) {
        for (uint32_t i = 0; i < count; i++) {
            const struct engine_event *event = &replay->events[i];
            struct live *live = event->request->owner;
            struct replay_outcome *outcome = &replay->outcomes[live->index];
            replay->started += outcome->tokens == 0 && (event->has_token || event->finish != FINISH_NONE);
            if (event->has_token) {
                take_token(replay, outcome, event->token, now);
            }
            if (event->finish != FINISH_NONE) {
                outcome->finish = event->finish;
                replay->ended++;
                tell_end(replay, &live->request, event->finish);
                free_request(live);
                if (event->finish == FINISH_ERROR) {
                    fault = event->status;
                }
            }
        }
    }
    note_crowd(replay);
    if (replay->config->bar) {
        progress_update(replay->config->bar, replay->ended);
    }
    return fault;
}

static void note_iteration(struct replay *replay) {
    struct engine_stats stats;
    engine_stats(replay->engine, &stats);
    const struct offload_report *offload = &stats.offload;
    replay->host_bytes_sum += (double)offload->weight_bytes_host;
    if (stats.running > replay->report->running_most) {
        replay->report->running_most = stats.running;
    }
    if (offload->predicted_ns > 0 && offload->measured_ns > 0) {
        replay->errors[replay->error_count++ % ERROR_CAPACITY] =
            fabs((double)offload->predicted_ns - (double)offload->measured_ns) / (double)offload->measured_ns;
    }
}

/* ---- the report ---- */

static int compare_doubles(const void *a, const void *b) {
    const double *one = a, *other = b;
    return *one < *other ? -1 : *one > *other;
}

double replay_quantile(const double *ascending, uint32_t count, double q) {
    if (count == 0) {
        return 0;
    }
    double rank = ceil(q * count);
    return ascending[rank < 1 ? 0 : (uint32_t)rank - 1];
}

static struct replay_times times_of(double *values, uint32_t count) {
    struct replay_times times = {0};
    qsort(values, count, sizeof *values, compare_doubles);
    for (uint32_t i = 0; i < count; i++) {
        times.mean_ms += values[i] / count;
    }
    times.p50_ms = replay_quantile(values, count, 0.5);
    times.p90_ms = replay_quantile(values, count, 0.9);
    times.p99_ms = replay_quantile(values, count, 0.99);
    return times;
}

static void count_outcome(const struct replay_outcome *outcome, const struct trace_request *request,
                          const struct promise *promise, struct replay_report *report) {
    if (outcome->dropped) {
        report->dropped++;
        return;
    }
    report->clipped += outcome->clipped;
    if (outcome->finish == FINISH_NONE) {
        report->refused++;
        return;
    }
    if (outcome->finish != FINISH_LENGTH && outcome->finish != FINISH_STOP) {
        report->failed++;
        return;
    }
    bool late_first = promise->ttft_ns > 0 && outcome->first_token_ns - outcome->arrival_ns > promise->ttft_ns;
    uint32_t late_others = outcome->late_tokens - late_first;
    report->prompt_tokens += request->prompt_tokens;
    report->output_tokens += outcome->tokens;
    report->kept_ttft += !late_first;
    report->kept_tpot += late_others == 0;
    if (outcome->late_tokens == 0) {
        report->kept++;
        report->kept_tokens += outcome->tokens;
    }
    double end = (double)outcome->last_token_ns / 1e9;
    report->seconds = end > report->seconds ? end : report->seconds;
}

/* Fills the times; `values` (trace->count) is scratch. */
static void collect_times(const struct replay *replay, double *values) {
    const uint32_t requests = replay->config->trace->count;
    struct replay_times *const times[] = {&replay->report->ttft, &replay->report->tpot, &replay->report->e2e};
    for (int kind = 0; kind < 3; kind++) {
        uint32_t count = 0;
        for (uint32_t i = 0; i < requests; i++) {
            const struct replay_outcome *outcome = &replay->outcomes[i];
            if (outcome->tokens == 0 || (kind == 1 && outcome->tokens < 2)) {
                continue;
            }
            uint64_t first = outcome->first_token_ns - outcome->arrival_ns;
            uint64_t rest = outcome->last_token_ns - outcome->first_token_ns;
            double ns = kind == 0   ? (double)first
                        : kind == 1 ? (double)rest / (outcome->tokens - 1)
                                    : (double)(first + rest);
            values[count++] = ns / (double)NS_PER_MS;
        }
        *times[kind] = times_of(values, count);
    }
}

static void report_run(struct replay *replay, double *values) {
    struct replay_report *report = replay->report;
    const struct trace *trace = replay->config->trace;
    report->requests = trace->count;
    for (uint32_t i = 0; i < trace->count; i++) {
        const struct promise promise = promise_of(replay->config, i);
        count_outcome(&replay->outcomes[i], &trace->requests[i], &promise, report);
    }
    collect_times(replay, values);
    struct engine_stats stats;
    engine_stats(replay->engine, &stats);
    report->iterations = stats.iterations - replay->iterations_before;
    report->late_iterations = stats.offload.total_late - replay->late_before;
    report->preemptions = stats.preemptions - replay->preemptions_before;
    report->prefix_queries = stats.prefix_queries - replay->queries_before;
    report->prefix_hits = stats.prefix_hits - replay->hits_before;
    report->bytes_streamed = device_link_count(replay->device).host_to_device_bytes - replay->streamed_before;
    report->host_bytes_mean = report->iterations > 0 ? replay->host_bytes_sum / (double)report->iterations : 0;
    uint32_t errors = replay->error_count < ERROR_CAPACITY ? replay->error_count : ERROR_CAPACITY;
    qsort(replay->errors, errors, sizeof *replay->errors, compare_doubles);
    report->predicted_error_median = replay_quantile(replay->errors, errors, 0.5);
}

/* ---- the run ---- */

/* Takes back what is still lent to the engine, after a failure: all of it ends within an iteration. */
static void take_back(struct replay *replay) {
    for (struct live *live = replay->live; live; live = live->next) {
        engine_cancel(replay->engine, &live->request);
    }
    while (replay->live) {
        bool idle = false;
        struct status status = engine_step(replay->engine, &idle); /* of an engine that failed: ends them, too */
        (void)status;
        status = take_events(replay);
        (void)status;
    }
}

static struct status run(struct replay *replay) {
    const struct trace *trace = replay->config->trace;
    while (replay->ended < trace->count) {
        TRY(submit_due(replay));
        if (replay->config->watch.before_step) {
            replay->config->watch.before_step(replay->config->watch.context, replay->engine,
                                              device_now_ns(replay->device) - replay->begin_ns);
        }
        bool idle = false;
        TRY(engine_step(replay->engine, &idle));
        TRY(take_events(replay));
        if (!idle) {
            note_iteration(replay);
        } else if (replay->submitted < trace->count) {
            device_sleep_until_ns(replay->device, replay->begin_ns + arrival_of(replay, replay->submitted));
        }
    }
    return STATUS_SUCCESS;
}

static struct status begin_and_run(struct replay *replay, double *values) {
    struct engine_stats stats;
    engine_stats(replay->engine, &stats);
    replay->iterations_before = stats.iterations;
    replay->late_before = stats.offload.total_late;
    replay->preemptions_before = stats.preemptions;
    replay->queries_before = stats.prefix_queries;
    replay->hits_before = stats.prefix_hits;
    replay->streamed_before = device_link_count(replay->device).host_to_device_bytes;
    replay->begin_ns = device_now_ns(replay->device);
    struct status status = run(replay);
    if (status_failed(&status)) {
        take_back(replay);
        return status;
    }
    report_run(replay, values);
    return STATUS_SUCCESS;
}

struct status replay_run(struct engine *engine, struct device *device, const struct replay_config *config,
                         struct replay_outcome *outcomes, struct replay_report *out) {
    const uint32_t count = config->trace->count;
    CHECK(count > 0 && config->stretch >= 0 && config->vocabulary > 0 && config->longest > 1);
    *out = (struct replay_report){0};
    struct replay_outcome *own = calloc(count, sizeof *own);
    double *values = calloc(count, sizeof *values), *errors = calloc(ERROR_CAPACITY, sizeof *errors);
    struct replay *replay = calloc(1, sizeof *replay);
    struct status status = status_error(STATUS_NO_MEMORY, "no memory to replay %u requests", count);
    if (own && values && errors && replay) {
        *replay = (struct replay){
            .engine = engine, .device = device, .config = config, .outcomes = own, .report = out, .errors = errors};
        status = begin_and_run(replay, values);
        if (outcomes) {
            memcpy(outcomes, own, count * sizeof *own);
        }
    }
    free(replay);
    free(errors);
    free(values);
    free(own);
    return status;
}
