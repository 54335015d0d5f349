#include "server/simulate_run.h"

#include "server/described.h"
#include "server/link_schedule.h"
#include "server/runtime.h"
#include "server/slo_log.h"
#include "server/trace_file.h"

#include <stdio.h>

#define STEPS_A_DRAIN 16

/* Who looks on at a run: the link changes by its schedule, the files get what happened. */
struct onlooker {
    struct link_schedule schedule;
    size_t link_step;         /* the next of its steps */
    struct trace_file *trace; /* NULL: none */
    uint32_t steps;
    struct slo_log_file *log; /* NULL: none */
};

static void before_step(void *context, struct engine *engine, uint64_t since_ns) {
    struct onlooker *onlooker = context;
    const struct link_schedule *schedule = &onlooker->schedule;
    while (onlooker->link_step < schedule->count &&
           schedule->steps[onlooker->link_step].at_s * 1e9 <= (double)since_ns) {
        engine_set_link(engine, schedule->steps[onlooker->link_step++].bytes_per_s);
    }
    if (onlooker->trace && ++onlooker->steps % STEPS_A_DRAIN == 0) {
        trace_file_drain(onlooker->trace, engine);
    }
}

static void ended(void *context, const struct request *request, enum finish_reason finish) {
    struct onlooker *onlooker = context;
    if (onlooker->log) {
        slo_log_add(onlooker->log, request, "", "default", finish);
    }
}

static struct status onlooker_open(const struct config *config, struct runtime *runtime, struct onlooker *out) {
    *out = (struct onlooker){0};
    TRY(link_schedule_parse(config->link_schedule, &out->schedule));
    if (*config->slo_log) {
        struct explain_state state = explain_state_of(config, runtime->engine);
        TRY(slo_log_open(config->slo_log, &state, device_now_ns(runtime->device), &out->log));
    }
    struct status status = STATUS_SUCCESS;
    if (*config->trace_file) {
        status = trace_file_open(config->trace_file, &out->trace);
    }
    if (status_failed(&status)) {
        slo_log_close(out->log);
    }
    return status;
}

static void onlooker_close(struct onlooker *onlooker, struct engine *engine) {
    if (onlooker->trace) {
        trace_file_drain(onlooker->trace, engine);
        trace_file_close(onlooker->trace);
    }
    slo_log_close(onlooker->log);
}

static struct status replay_on(const struct config *config, const struct trace *trace, const bool *dropped,
                               struct replay_outcome *outcomes, struct runtime *runtime, struct simulated_run *run) {
    char label[64];
    struct onlooker onlooker;
    TRY(onlooker_open(config, runtime, &onlooker));
    struct progress bar;
    struct engine_stats stats;
    engine_stats(runtime->engine, &stats);
    run->weight_bytes = stats.offload.weight_bytes_device + stats.offload.weight_bytes_host;
    run->kv_tokens = runtime->kv_tokens;
    double own = trace_rate(trace);
    struct replay_config replay = {.trace = trace,
                                   .stretch = own > 0 ? own / run->rate : 1,
                                   .ttft_ns = (uint64_t)(config->slo_ttft_ms * 1e6),
                                   .tpot_ns = (uint64_t)(config->slo_tpot_ms * 1e6),
                                   .vocabulary = model_shape(runtime->model)->vocabulary,
                                   .longest = runtime->context < runtime->kv_tokens ? runtime->context
                                                                                    : (uint32_t)runtime->kv_tokens,
                                   .dropped = dropped,
                                   .watch = {.context = &onlooker, .before_step = before_step, .ended = ended},
                                   .bar = &bar};
    snprintf(label, sizeof label, "%s, %.3f requests/s", run->policy, run->rate);
    progress_begin(&bar, label, trace->count);
    struct status status = replay_run(runtime->engine, runtime->device, &replay, outcomes, &run->report);
    progress_end(&bar);
    onlooker_close(&onlooker, runtime->engine);
    return status;
}

struct status simulate_hardware(struct config *config) {
    if (!*config->hardware || !*config->model) {
        return status_error(STATUS_INVALID, "simulate takes --hardware NAME and --model NAME, such as --hardware a10 "
                                            "--model opt-13b");
    }
    struct hardware hardware;
    char text[32];
    TRY(described_hardware(config->hardware, &hardware));
    TRY(config_set(config, "device", "sim", SOURCE_COMMAND_LINE));
    if (config->device_memory == 0) {
        snprintf(text, sizeof text, "%llu", (unsigned long long)hardware.device_memory_bytes);
        TRY(config_set(config, "device_memory", text, SOURCE_COMMAND_LINE));
    }
    if (config->link_gbps == 0) {
        snprintf(text, sizeof text, "%.6f", hardware.link_bytes_per_s / 1e9);
        TRY(config_set(config, "link_gbps", text, SOURCE_COMMAND_LINE));
    }
    return STATUS_SUCCESS;
}

struct status simulate_run(struct config *config, const struct trace *trace, const bool *dropped,
                           struct replay_outcome *outcomes, struct simulated_run *run) {
    struct runtime runtime;
    char text[32];
    snprintf(text, sizeof text, "%llu", (unsigned long long)run->device_memory);
    TRY(config_set(config, "device_memory", text, SOURCE_COMMAND_LINE));
    TRY(config_set(config, "offload.policy", run->policy, SOURCE_COMMAND_LINE));
    TRY(runtime_open_simulated(config, &runtime));
    struct status status = replay_on(config, trace, dropped, outcomes, &runtime, run);
    runtime_close(&runtime);
    return status;
}
