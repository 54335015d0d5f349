#include "server/explain.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB (1024.0 * 1024.0)

/* ---- ranking ---- */

static void count_run(const struct late_run *run, struct cause_report *report) {
    report->late_tokens += run->tokens;
    report->runs++;
    report->lost_ns += run->late_ns;
    if (report->example_count < EXPLAIN_EXAMPLES) {
        report->examples[report->example_count++] = *run;
    }
}

static int by_loss(const void *a, const void *b) {
    const struct cause_report *one = a, *other = b;
    return one->lost_ns < other->lost_ns ? 1 : one->lost_ns > other->lost_ns ? -1 : (int)one->cause - (int)other->cause;
}

/* ---- advice ---- */

/* What advice is given from: the runs of one cause, and the state. */
struct case_of {
    const struct explain_state *state;
    const struct late_run *worst;
    struct cause_report *report;
};

static struct advice *add(struct case_of *of, const char *option, const char *why, bool simulated) {
    static struct advice none;
    if (of->report->advice_count == EXPLAIN_ADVICE) {
        return &none;
    }
    struct advice *advice = &of->report->advice[of->report->advice_count++];
    *advice = (struct advice){.option = option, .why = why, .simulated = simulated};
    return advice;
}

static void add_text(struct case_of *of, const char *option, const char *value, const char *why, bool simulated) {
    struct advice *advice = add(of, option, why, simulated);
    snprintf(advice->value, sizeof advice->value, "%s", value);
}

static void add_count(struct case_of *of, const char *option, uint64_t value, const char *why) {
    struct advice *advice = add(of, option, why, true);
    snprintf(advice->value, sizeof advice->value, "%llu", (unsigned long long)value);
}

static void add_mebibytes(struct case_of *of, const char *option, double bytes, const char *why) {
    struct advice *advice = add(of, option, why, true);
    snprintf(advice->value, sizeof advice->value, "%.0fMiB", bytes / MIB + 0.5);
}

/* The promise that this would have kept, rounded up to two digits. */
static void add_promise(struct case_of *of, const char *why) {
    const struct late_run *worst = of->worst;
    const bool first = worst->latest_token == 0;
    const struct config *config = of->state->config;
    double promised = first ? config->slo_ttft_ms : config->slo_tpot_ms;
    if (promised <= 0) {
        return; /* it was the request's own: no option is at fault */
    }
    double least = promised + (double)worst->late_ns / 1e6 / (first ? 1 : worst->latest_token);
    double step = 1;
    while (step * 100 < least) {
        step *= 10;
    }
    struct advice *advice = add(of, first ? "slo.ttft_ms" : "slo.tpot_ms", why, true);
    snprintf(advice->value, sizeof advice->value, "%.0f", ((double)(uint64_t)(least / step) + 1) * step);
}

static void add_room(struct case_of *of, const char *why) {
    const struct config *config = of->state->config;
    if (config->device_memory > 0) {
        add_mebibytes(of, "device_memory", (double)config->device_memory * 1.25, why);
    } else if (of->state->kv_blocks > 0) {
        add_count(of, "kv_tokens", (uint64_t)of->state->kv_blocks * KV_BLOCK_TOKENS * 2, why);
    }
}

static void add_fewer_sequences(struct case_of *of, const char *why) {
    uint32_t running = of->worst->running;
    if (running > 1) {
        add_count(of, "max_sequences", (running + 1) / 2, why);
    }
}

/* All weights at home, where the options have them streamed. */
static void add_home(struct case_of *of, const char *why) {
    const struct explain_state *state = of->state;
    if (state->config->device_memory > 0 && state->weight_bytes_host > 0) {
        add_mebibytes(of, "device_memory", (double)state->config->device_memory + (double)state->weight_bytes_host,
                      why);
    }
}

static bool is_policy(const struct case_of *of, const char *name) {
    return strcmp(of->state->config->offload_policy, name) == 0;
}

static void advise_queue(struct case_of *of) {
    const struct config *config = of->state->config;
    const struct late_run *worst = of->worst;
    if (strcmp(config->scheduler_order, "fcfs") == 0) {
        add_text(of, "scheduler.order", "deadlines", "the earliest due go first", true);
    }
    if (worst->running >= config->max_sequences) {
        add_count(of, "max_sequences", config->max_sequences * 2, "every place was taken");
    }
    if (worst->running < config->max_sequences || worst->kv_blocks_free < of->state->kv_blocks / 4) {
        add_room(of, "KV blocks were short, or soon would have been");
    }
    add_promise(of, "what the load leaves time for; requests come faster than they are served");
}

static void advise_prefill(struct case_of *of) {
    const struct config *config = of->state->config;
    uint64_t chunk = config->prefill_chunk > 0 ? config->prefill_chunk : config->max_batch_tokens;
    if (is_policy(of, "none")) {
        add_text(of, "offload.policy", "metronome", "what iterations cost is then known: chunks fit the deadlines",
                 true);
    }
    if (strcmp(config->scheduler_order, "fcfs") == 0) {
        add_text(of, "scheduler.order", "deadlines", "chunks leave the tokens beside them their time", true);
    }
    if (chunk > 16) {
        add_count(of, "prefill_chunk", chunk / 4 > 16 ? chunk / 4 : 16,
                  "shorter chunks delay the tokens beside them less");
    }
    add_promise(of, "time for a chunk beside each token");
}

static void advise_copies(struct case_of *of) {
    const struct config *config = of->state->config;
    if (config->offload_interval > 0) {
        add_text(of, "offload.interval", "0", "the policy streams what the promise leaves time for", true);
    }
    if (!is_policy(of, "metronome") && !is_policy(of, "none")) {
        add_text(of, "offload.policy", "metronome", "decides anew in every iteration what the link has time for", true);
    }
    add_home(of, "all weights stay on the device");
    add_promise(of, "time for the copies");
}

static void advise_link(struct case_of *of) {
    const struct config *config = of->state->config;
    advise_copies(of);
    if (!*config->offload_bus) {
        add_text(of, "offload.bus", "link0", "if it is other engines of ours: they share the link by their promises",
                 false);
    }
}

static void advise_preemption(struct case_of *of) {
    uint64_t host = of->state->config->offload_kv_host_memory;
    add_room(of, "room for more KV blocks");
    add_mebibytes(of, "offload.kv_host_memory", host > 0 ? (double)host * 4 : 256 * MIB,
                  "more preempted KV parks instead of being computed again");
    add_fewer_sequences(of, "fewer sequences share the KV cache");
}

static void advise_host(struct case_of *of) {
    const struct config *config = of->state->config;
    if (strcmp(config->device, "cpu") == 0 && config->threads > 1) {
        struct advice *advice = add(of, "threads", "leaves a core to the host's own work", false);
        snprintf(advice->value, sizeof advice->value, "%llu", (unsigned long long)config->threads - 1);
    }
    add_fewer_sequences(of, "less to sample and detokenize between iterations");
    add_promise(of, "time for the host's part");
}

static void advise_device(struct case_of *of) {
    const struct config *config = of->state->config;
    if (*config->offload_record) {
        add_text(of, "offload.record", "", "measured anew at the start, if the record is of a faster machine", false);
    }
    if (strcmp(config->device, "cpu") == 0 && config->threads > 1) {
        struct advice *advice = add(of, "threads", "as many as cores are free: others use them, too", false);
        snprintf(advice->value, sizeof advice->value, "%llu", (unsigned long long)config->threads - 1);
    }
    add_promise(of, "what the device gives");
}

static void advise_compute(struct case_of *of) {
    if (of->worst->latest_token > 0) {
        add_fewer_sequences(of, "fewer tokens in an iteration");
    }
    add_promise(of, "what the work takes by itself");
}

static void advise(struct case_of *of) {
    static void (*const advisers[CAUSES])(struct case_of *) = {[CAUSE_COMPUTE] = advise_compute,
                                                               [CAUSE_QUEUE] = advise_queue,
                                                               [CAUSE_PREFILL_OF_OTHERS] = advise_prefill,
                                                               [CAUSE_COPY_STALL] = advise_copies,
                                                               [CAUSE_LINK_CONTENTION] = advise_link,
                                                               [CAUSE_KV_PREEMPTION] = advise_preemption,
                                                               [CAUSE_HOST_TIME] = advise_host,
                                                               [CAUSE_DEVICE] = advise_device};
    if (advisers[of->report->cause]) {
        advisers[of->report->cause](of);
    }
}

struct explain_state explain_state_of(const struct config *config, const struct engine *engine) {
    struct engine_stats stats;
    engine_stats(engine, &stats);
    return (struct explain_state){
        .config = config, .kv_blocks = stats.kv_blocks, .weight_bytes_host = stats.offload.weight_bytes_host};
}

void explain_rank(const struct late_run *runs, uint32_t count, const struct explain_state *state,
                  struct explanation *out) {
    struct cause_report reports[CAUSES] = {0};
    const struct late_run *worst[CAUSES] = {0};
    for (uint32_t i = 0; i < count; i++) {
        enum cause cause = runs[i].cause;
        count_run(&runs[i], &reports[cause]);
        worst[cause] = !worst[cause] || runs[i].late_ns > worst[cause]->late_ns ? &runs[i] : worst[cause];
    }
    out->runs = count;
    out->cause_count = 0;
    for (int i = 0; i < CAUSES; i++) {
        reports[i].cause = (enum cause)i;
        if (reports[i].runs > 0) {
            struct case_of of = {.state = state, .worst = worst[i], .report = &reports[i]};
            advise(&of);
            out->causes[out->cause_count++] = reports[i];
        }
    }
    qsort(out->causes, out->cause_count, sizeof out->causes[0], by_loss);
}

const char *explain_cause(enum cause cause) {
    static const char *const words[CAUSES] = {
        [CAUSE_COMPUTE] = "the work itself took longer than was promised",
        [CAUSE_QUEUE] = "requests waited to be admitted",
        [CAUSE_PREFILL_OF_OTHERS] = "prompts of other requests were computed beside them",
        [CAUSE_COPY_STALL] = "compute waited for weights from host memory, on a link as fast as recorded",
        [CAUSE_LINK_CONTENTION] = "the link to host memory was slower than recorded: something else used it",
        [CAUSE_KV_PREEMPTION] = "sequences were preempted, for KV blocks were short",
        [CAUSE_HOST_TIME] = "the host took its time between iterations",
        [CAUSE_CLIENT_SLOW] = "tokens were not taken from the engine: clients, or the server's thread, are slow",
        [CAUSE_DEVICE] = "the device was slower than recorded: something else used it"};
    return words[cause];
}
