#include "server/simulate_run.h"

#include "server/runtime.h"

#include <stdio.h>

static struct status replay_on(const struct config *config, const struct trace *trace, const bool *dropped,
                               struct replay_outcome *outcomes, struct runtime *runtime, struct simulated_run *run) {
    char label[64];
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
                                   .bar = &bar};
    snprintf(label, sizeof label, "%s, %.3f requests/s", run->policy, run->rate);
    progress_begin(&bar, label, trace->count);
    struct status status = replay_run(runtime->engine, runtime->device, &replay, outcomes, &run->report);
    progress_end(&bar);
    return status;
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
