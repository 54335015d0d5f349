#include "server/resimulate.h"

#include "server/simulate_run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What all runs share. */
struct resimulation {
    const struct config *config;
    struct trace trace;
    struct replay_outcome *outcomes; /* (trace.count) */
};

static bool is_promised(const struct resimulation *again, const struct config *config, uint32_t index) {
    const struct trace_promise *own = &again->trace.promises[index];
    return own->own ? own->ttft_ns > 0 || own->tpot_ns > 0 : config->slo_ttft_ms > 0 || config->slo_tpot_ms > 0;
}

static double kept_share(const struct resimulation *again, const struct config *config) {
    uint32_t promised = 0, kept = 0;
    for (uint32_t i = 0; i < again->trace.count; i++) {
        if (is_promised(again, config, i)) {
            promised++;
            kept += replay_kept(&again->outcomes[i]);
        }
    }
    return promised > 0 ? (double)kept / promised : 1;
}

static struct status run_once(struct resimulation *again, struct config *config, double *kept) {
    TRY(simulate_hardware(config));
    char *policy = strdup(config->offload_policy); /* config's own copy is replaced on the way */
    if (!policy) {
        return status_error(STATUS_NO_MEMORY, "no memory for a policy's name");
    }
    double rate = trace_rate(&again->trace);
    struct simulated_run run = {.policy = policy, .rate = rate > 0 ? rate : 1, .device_memory = config->device_memory};
    struct status status = simulate_run(config, &again->trace, NULL, again->outcomes, &run);
    free(policy);
    if (status.code == STATUS_OK) {
        *kept = kept_share(again, config);
    }
    return status;
}

/* With one option changed, if `advice` is not NULL. Files and links that belong to this machine's servers are left
 * alone. */
static struct status run_with(struct resimulation *again, const struct advice *advice, double *kept) {
    static const char *const left_alone[] = {"trace_file", "slo_log", "offload.record", "offload.bus"};
    struct config config;
    config_init(&config);
    struct status status = config_overlay(&config, again->config);
    for (size_t i = 0; i < sizeof left_alone / sizeof left_alone[0] && status.code == STATUS_OK; i++) {
        status = config_set(&config, left_alone[i], "", SOURCE_DEFAULT);
    }
    if (status.code == STATUS_OK && advice) {
        status = config_set(&config, advice->option, advice->value, SOURCE_COMMAND_LINE);
    }
    if (status.code == STATUS_OK) {
        status = run_once(again, &config, kept);
    }
    config_free(&config);
    return status;
}

/* What kept more comes first; a promise that is merely looser comes after what mends, and what did not run last. */
static double worth(const struct advice *advice) {
    bool looser = strncmp(advice->option, "slo.", 4) == 0;
    return !advice->tried ? -1 : looser ? advice->kept : 1 + advice->kept;
}

static int by_kept(const void *a, const void *b) {
    double kept = worth(a), other_kept = worth(b);
    return kept != other_kept ? (kept < other_kept ? 1 : -1) : 0;
}

static void try_advice(struct resimulation *again, struct cause_report *report) {
    for (uint32_t i = 0; i < report->advice_count; i++) {
        struct advice *advice = &report->advice[i];
        if (advice->simulated) {
            advice->kept = 0;
            advice->failure = run_with(again, advice, &advice->kept);
            advice->tried = advice->failure.code == STATUS_OK;
        }
    }
    qsort(report->advice, report->advice_count, sizeof report->advice[0], by_kept);
}

static struct status run_all(struct resimulation *again, struct explanation *explanation) {
    TRY(status_context(run_with(again, NULL, &explanation->resimulated_kept), "re-simulation"));
    snprintf(explanation->resimulated_on, sizeof explanation->resimulated_on, "%.60s on %.30s", again->config->model,
             again->config->hardware);
    for (uint32_t i = 0; i < explanation->cause_count && i < RESIMULATE_CAUSES; i++) {
        try_advice(again, &explanation->causes[i]);
    }
    return STATUS_SUCCESS;
}

struct status resimulate(const struct config *config, const struct slo_log *log, struct explanation *explanation) {
    struct resimulation again = {.config = config};
    TRY(slo_log_trace(log, &again.trace));
    again.outcomes = calloc(again.trace.count, sizeof *again.outcomes);
    struct status status =
        again.outcomes ? run_all(&again, explanation)
                       : status_error(STATUS_NO_MEMORY, "no memory for %u requests' outcomes", again.trace.count);
    free(again.outcomes);
    trace_free(&again.trace);
    return status;
}
