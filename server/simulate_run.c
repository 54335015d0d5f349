#include "server/simulate_run.h"

#include "server/described.h"
#include "server/link_schedule.h"
#include "server/runtime.h"
#include "server/slo_log.h"
#include "server/trace_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

static void note_admission(const struct config *config, const struct engine *engine, struct simulated_admission *out) {
    struct class_stats stats;
    *out = (struct simulated_admission){.asked = strcmp(config->slo_on_miss, "refuse") == 0};
    engine_class_stats(engine, 0, &stats); /* a trace's requests are of the default class */
    out->admitted = stats.admitted;
    out->first_tokens = stats.first_tokens;
    out->first_in_time = stats.first_in_time;
    memcpy(out->refused, stats.refused, sizeof out->refused);
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
    note_admission(config, runtime.engine, &run->admission);
    runtime_close(&runtime);
    return status;
}

/* Which of those that were refused keep their promises when nobody is. */
static struct status repeat(struct config *config, const struct trace *trace, const struct replay_outcome *outcomes,
                            struct replay_outcome *others, struct simulated_run *run) {
    struct simulated_run otherwise = {.policy = run->policy, .rate = run->rate, .device_memory = run->device_memory};
    TRY(config_set(config, "slo.on_miss", "best_effort", SOURCE_COMMAND_LINE));
    struct status status = simulate_run(config, trace, NULL, others, &otherwise);
    TRY(config_set(config, "slo.on_miss", "refuse", SOURCE_COMMAND_LINE));
    TRY(status);
    for (uint32_t i = 0; i < trace->count; i++) {
        bool refused = outcomes[i].finish == FINISH_NONE;
        run->admission.kept_otherwise += refused && replay_kept(&others[i]);
    }
    run->admission.all_otherwise = otherwise.report.kept;
    run->admission.repeated = true;
    return STATUS_SUCCESS;
}

struct status simulate_admission(struct config *config, const struct trace *trace, struct simulated_run *run) {
    if (strcmp(config->slo_on_miss, "refuse") != 0) {
        return simulate_run(config, trace, NULL, NULL, run);
    }
    struct replay_outcome *outcomes = calloc(trace->count, sizeof *outcomes);
    struct replay_outcome *others = calloc(trace->count, sizeof *others);
    struct status status = status_error(STATUS_NO_MEMORY, "no memory for %u requests", trace->count);
    if (outcomes && others) {
        status = simulate_run(config, trace, NULL, outcomes, run);
    }
    if (status.code == STATUS_OK) {
        status = repeat(config, trace, outcomes, others, run);
    }
    free(outcomes);
    free(others);
    return status;
}
