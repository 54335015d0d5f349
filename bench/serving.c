#include "bench/serving.h"

#include <stdlib.h>
#include <string.h>

#define STREAM_PROMPT 16 /* tokens */
#define STREAM_SETTLE 64 /* iterations: the last rise after a prompt comes some 48 after it */
#define STREAM_MEASURED 96
#define MOST_STREAMS 64

struct bench_engine {
    struct device *device;
    struct model *model;
    struct engine *engine;
};

static void close_engine(struct bench_engine *bench) {
    if (bench->engine) {
        engine_destroy(bench->engine);
    }
    if (bench->model) {
        model_close(bench->model);
    }
    device_close(bench->device);
}

static struct status open_engine(const struct serving_case *serving, const struct serving_setting *setting,
                                 uint32_t places, struct bench_engine *bench) {
    const char *here = serving->device ? serving->device : "cpu";
    const bool paced = serving->hardware || strcmp(here, "cpu") == 0; /* a GPU's link is as fast as it is */
    struct device_config device = {.name = serving->hardware ? "sim" : here,
                                   .hardware = serving->hardware,
                                   .device_memory = serving->device_memory,
                                   .threads = serving->threads,
                                   .link_bytes_per_s = paced ? serving->link_bytes_per_s : 0,
                                   .invariant = true}; /* tokens are compared */
    struct engine_config engine = {.context = serving->context,
                                   .max_sequences = places,
                                   .max_queue = serving->requests > MOST_STREAMS ? serving->requests : MOST_STREAMS,
                                   .max_batch_tokens = 512,
                                   .device_memory = serving->device_memory,
                                   .offload_policy = setting->policy,
                                   .offload_options = setting->options,
                                   .offload_slabs = setting->slabs,
                                   .kv_tokens = serving->device_memory > 0 ? 0 : serving->context,
                                   .link_bytes_per_s = (uint64_t)serving->link_bytes_per_s,
                                   .promise = {.ttft_ns = serving->ttft_ns, .tpot_ns = serving->tpot_ns},
                                   .record = serving->record};
    TRY(device_open(&device, &bench->device));
    TRY(serving->hardware ? model_open_described(&serving->described, &bench->model)
                          : model_open_weights(serving->model, &bench->model));
    return engine_create(&engine, bench->model, bench->device, &bench->engine);
}

/* Device memory that the placement in force frees. */
static double saved_bytes(const struct offload_report *report) {
    return (double)report->weight_bytes_host - (double)report->staging_bytes;
}

struct status serving_sizes(const struct serving_case *serving, uint32_t places, double *weights, double *rest) {
    const struct serving_setting setting = {.policy = "none"};
    struct bench_engine bench = {0};
    struct serving_case without = *serving;
    without.tpot_ns = without.device_memory = 0;
    struct status status = open_engine(&without, &setting, places, &bench);
    if (!status_failed(&status)) {
        struct engine_stats stats;
        engine_stats(bench.engine, &stats);
        *weights = (double)stats.offload.weight_bytes_device;
        *rest = (double)device_info(bench.device).device_used - *weights;
    }
    close_engine(&bench);
    return status;
}

/* ---- a load ---- */

/* Tokens of requests that kept their promise, a second, from the begin until the last request had its first token:
 * after that nobody waits, and a policy may well give time for memory. */
static double rate_while_crowded(const struct replay_outcome *outcomes, uint32_t count) {
    uint64_t end_ns = 0;
    double tokens = 0;
    for (uint32_t i = 0; i < count; i++) {
        end_ns = outcomes[i].first_token_ns > end_ns ? outcomes[i].first_token_ns : end_ns;
    }
    for (uint32_t i = 0; i < count; i++) {
        const struct replay_outcome *outcome = &outcomes[i];
        tokens += replay_kept(outcome) ? outcome->crowd_tokens : 0;
    }
    return end_ns > 0 ? tokens * 1e9 / (double)end_ns : 0;
}

static struct status run_load(const struct serving_case *serving, struct bench_engine *bench,
                              struct serving_result *out) {
    struct trace trace;
    struct trace_shape shape = {.count = serving->requests,
                                .rate = serving->rate > 0 ? serving->rate : 1e6,
                                .burstiness = 1,
                                .prompt_tokens = serving->prompt_tokens,
                                .output_tokens = serving->output_tokens,
                                .prompt_deviation = serving->prompt_deviation,
                                .output_deviation = serving->output_deviation,
                                .seed = serving->seed};
    struct engine_stats stats;
    engine_stats(bench->engine, &stats);
    struct replay_config replay = {.trace = &trace,
                                   .stretch = 1,
                                   .ttft_ns = serving->ttft_ns,
                                   .tpot_ns = serving->tpot_ns,
                                   .vocabulary = model_shape(bench->model)->vocabulary,
                                   .longest = serving->context};
    struct replay_outcome *outcomes = calloc(serving->requests, sizeof *outcomes);
    if (!outcomes) {
        return status_error(STATUS_NO_MEMORY, "no memory for what becomes of %u requests", serving->requests);
    }
    struct status status = trace_draw(&shape, &trace);
    if (!status_failed(&status)) {
        status = replay_run(bench->engine, bench->device, &replay, outcomes, &out->report);
        trace_free(&trace);
    }
    for (uint32_t i = 0; serving->tokens_hash && i < serving->requests; i++) {
        serving->tokens_hash[i] = outcomes[i].tokens_hash;
    }
    out->kept_tokens_per_s = status_failed(&status) ? 0 : rate_while_crowded(outcomes, serving->requests);
    free(outcomes);
    if (!status_failed(&status)) {
        const struct record *record = engine_record(bench->engine);
        out->saved_bytes = out->report.host_bytes_mean - (double)stats.offload.staging_bytes;
        out->record = record ? *record : (struct record){0};
    }
    return status;
}

struct status serving_run(const struct serving_case *serving, const struct serving_setting *setting,
                          struct serving_result *out) {
    struct bench_engine bench = {0};
    *out = (struct serving_result){0};
    struct status status = open_engine(serving, setting, setting->places, &bench);
    if (!status_failed(&status) && serving->warm_up) {
        struct serving_case before = *serving;
        before.seed = serving->seed + 1;
        before.tokens_hash = NULL;
        status = run_load(&before, &bench, out);
    }
    if (!status_failed(&status)) {
        status = run_load(serving, &bench, out);
    }
    close_engine(&bench);
    return status;
}

/* ---- steady decoding ---- */

struct streams {
    uint32_t prompt[MOST_STREAMS][STREAM_PROMPT];
    struct request requests[MOST_STREAMS];
    uint32_t begun, ended;
    struct engine_event events[2 * MOST_STREAMS];
};

static struct status submit_streams(struct bench_engine *bench, uint32_t count, uint32_t tokens,
                                    struct streams *streams) {
    uint32_t vocabulary = model_shape(bench->model)->vocabulary;
    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t j = 0; j < STREAM_PROMPT; j++) {
            streams->prompt[i][j] = (i * 7919 + j * 104729) % vocabulary;
        }
        streams->requests[i] = (struct request){
            .prompt = streams->prompt[i],
            .prompt_count = STREAM_PROMPT,
            .arrival_ns = device_now_ns(bench->device),
            .sampling = {.top_p = 1, .repetition_penalty = 1, .max_tokens = tokens, .ignore_eos = true}};
        TRY(engine_submit(bench->engine, &streams->requests[i]));
    }
    return STATUS_SUCCESS;
}

static struct status step_streams(struct bench_engine *bench, struct streams *streams) {
    bool idle;
    TRY(engine_step(bench->engine, &idle));
    for (uint32_t count; (count = engine_poll(bench->engine, streams->events, 2 * MOST_STREAMS)) > 0;) {
        for (uint32_t i = 0; i < count; i++) {
            const struct engine_event *event = &streams->events[i];
            streams->begun += event->has_token && !event->request->owner;
            event->request->owner = streams; /* it has had its first token */
            streams->ended += event->finish != FINISH_NONE;
            if (event->finish == FINISH_ERROR) {
                return event->status;
            }
        }
    }
    return STATUS_SUCCESS;
}

static struct status measure_streams(const struct serving_case *serving, struct bench_engine *bench, uint32_t count,
                                     struct streams *streams, struct serving_stream *out) {
    struct engine_stats stats;
    uint32_t tokens = serving->context - STREAM_PROMPT - 1;
    TRY(submit_streams(bench, count, tokens, streams));
    for (uint32_t i = 0; streams->begun < count || i < STREAM_SETTLE; i += streams->begun == count) {
        TRY(step_streams(bench, streams));
    }
    uint64_t used = device_info(bench->device).device_used;
    uint64_t copies = device_link_count(bench->device).host_to_device_copies;
    for (uint32_t i = 0; i < STREAM_MEASURED && streams->ended == 0; i++) {
        TRY(step_streams(bench, streams));
        engine_stats(bench->engine, &stats);
        const struct offload_report *report = &stats.offload;
        out->bytes += (double)report->bytes_streamed;
        out->saved_bytes += saved_bytes(report);
        out->iteration_ns += (double)report->measured_ns;
        out->iterations++;
        out->late += out->iteration_ns > (double)out->iterations * (double)serving->tpot_ns;
    }
    if (out->iterations == 0) {
        return status_error(STATUS_INVALID, "a context of %u tokens is too short to decode steadily", serving->context);
    }
    out->copies = (double)(device_link_count(bench->device).host_to_device_copies - copies);
    out->device_allocated = (double)device_info(bench->device).device_used - (double)used;
    out->bytes /= out->iterations;
    out->saved_bytes /= out->iterations;
    out->iteration_ns /= out->iterations;
    for (uint32_t i = 0; i < count; i++) {
        engine_cancel(bench->engine, &streams->requests[i]);
    }
    while (streams->ended < count) {
        TRY(step_streams(bench, streams));
    }
    return STATUS_SUCCESS;
}

struct status serving_stream(const struct serving_case *serving, const struct serving_setting *setting,
                             struct serving_stream *out) {
    struct bench_engine bench = {0};
    struct streams *streams = calloc(1, sizeof *streams);
    *out = (struct serving_stream){0};
    if (!streams) {
        return status_error(STATUS_NO_MEMORY, "no memory for the sequences of a benchmark");
    }
    uint32_t count = setting->places < MOST_STREAMS ? setting->places : MOST_STREAMS;
    struct status status = open_engine(serving, setting, 4 * MOST_STREAMS, &bench); /* never crowded */
    if (!status_failed(&status)) {
        status = measure_streams(serving, &bench, count, streams, out);
    }
    close_engine(&bench);
    free(streams);
    return status;
}
