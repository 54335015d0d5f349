/* The paper's cases, worked out. Threads: any. */
#include "bench/paper.h"

#define MOST_BATCH 1024 /* looked at */

static const char *const policy_names[PAPER_POLICIES] = {"flexgen", "select-n", "metronome"};

static struct status impossible(const char *policy, const struct plan_case *c) {
    return status_error(STATUS_INVALID, "%s has no plan for %s on %s: the paper's figures are for another machine",
                        policy, c->model.shape.name, c->hardware.name);
}

/* The last of every `interval` layers is streamed: the first one that is says how many. */
static uint32_t whole_interval(const struct plan *plan) {
    uint32_t first = 0;
    while (first + 1 < plan->layers && plan->streamed[first] == 0) {
        first++;
    }
    return first + 1;
}

static struct status compute_interval(const char *hardware, struct paper_interval *out) {
    struct steady whole, any;
    TRY(steady_case(hardware, "opt-6.7b", out->phase, out->batch, PAPER_SEQUENCE, &out->plan_case));
    out->plan_case.deadline_ns = (uint64_t)((1 + PAPER_SLACK) * (double)plan_case_resident_ns(&out->plan_case));
    TRY(steady_most_freed(&out->plan_case, "select-n", &whole));
    TRY(steady_most_freed(&out->plan_case, "metronome", &any));
    if (!whole.possible || whole.choice.plan.streamed_slabs == 0 || !any.possible) {
        return impossible("select-n", &out->plan_case);
    }
    out->ratio = (double)plan_slab_ns(&whole.load) / (double)whole.load.layer_ns;
    out->least = whole_interval(&whole.choice.plan);
    out->any = plan_interval(&any.load, &any.choice.plan);
    return STATUS_SUCCESS;
}

/* Is a share of every layer in host memory in time? */
static struct status try_percent(const struct plan_case *c, uint32_t part, uint32_t slabs, bool *kept, double *freed) {
    const struct policy *policy;
    struct plan_load load;
    struct plan_limits limits;
    struct plan_choice choice;
    TRY(policy_find("flexgen", &policy));
    TRY(plan_case_load(c, slabs, &load, &limits));
    struct policy_request request = {.load = &load,
                                     .deadline_ns = c->deadline_ns,
                                     .limits = PLAN_UNLIMITED,
                                     .options = {.percent = 100.0 * part / slabs}};
    TRY(policy->place(&request, &choice));
    *kept = choice.feasible;
    *freed = (double)plan_freed_slabs(&choice.plan) * (double)load.slab_bytes;
    return STATUS_SUCCESS;
}

/* The highest share of the weights that keeps the promise in every one of the cases. */
static struct status flexgen_for_all(const struct plan_case *cases, uint32_t count, double *percent, double *freed) {
    const uint32_t slabs = MATMUL_MAX_PARTS / 3;
    for (uint32_t part = slabs; part > 0; part--) {
        bool all = true;
        for (uint32_t i = 0; i < count && all; i++) {
            TRY(try_percent(&cases[i], part, slabs, &all, freed));
        }
        if (all) {
            *percent = 100.0 * part / slabs;
            return STATUS_SUCCESS;
        }
    }
    *percent = *freed = 0;
    return STATUS_SUCCESS;
}

static struct status compute_memory(const char *hardware, struct paper *paper) {
    static const uint32_t batches[PAPER_BATCHES] = {4, 8, 16, 32};
    enum { CASES = 2 * PAPER_BATCHES };
    struct plan_case cases[CASES];
    double flexgen = 0;
    for (uint32_t i = 0; i < CASES; i++) {
        struct paper_memory *memory = &paper->memory[i];
        memory->phase = i < PAPER_BATCHES ? PLAN_PREFILL : PLAN_DECODE;
        memory->batch = batches[i % PAPER_BATCHES];
        TRY(steady_case(hardware, "opt-13b", memory->phase, memory->batch, PAPER_SEQUENCE, &cases[i]));
        cases[i].deadline_ns = (uint64_t)((1 + PAPER_SLACK) * (double)plan_case_resident_ns(&cases[i]));
        memory->deadline_ns = cases[i].deadline_ns;
    }
    TRY(flexgen_for_all(cases, CASES, &paper->flexgen_percent, &flexgen));
    if (flexgen <= 0) {
        return impossible("flexgen", &cases[0]);
    }
    for (uint32_t i = 0; i < CASES; i++) {
        paper->memory[i].freed_bytes[PAPER_FLEXGEN] = flexgen;
        for (int policy = PAPER_SELECT_N; policy < PAPER_POLICIES; policy++) {
            struct steady steady;
            TRY(steady_most_freed(&cases[i], policy_names[policy], &steady));
            paper->memory[i].freed_bytes[policy] = steady.possible ? steady_freed_bytes(&steady) : 0;
        }
    }
    return STATUS_SUCCESS;
}

static struct status compute_throughput(const char *hardware, struct paper *paper) {
    static const double promises_ms[PAPER_PROMISES] = {57.5, 60, 65, 70, 75, 80, 90, 100, 125, 150, 200, 300, 400};
    struct plan_case c;
    TRY(steady_case(hardware, "opt-13b", PLAN_DECODE, 1, PAPER_SERVED, &c));
    for (uint32_t i = 0; i < PAPER_PROMISES; i++) {
        struct paper_throughput *row = &paper->throughput[i];
        row->tpot_ms = promises_ms[i];
        for (int policy = 0; policy < PAPER_POLICIES; policy++) {
            struct steady steady;
            TRY(steady_batch(&c, policy_names[policy], (uint64_t)(row->tpot_ms * 1e6), MOST_BATCH, &row->batch[policy],
                             &row->tokens_per_s[policy], &steady));
        }
    }
    return STATUS_SUCCESS;
}

struct status paper_compute(const char *hardware, struct paper *out) {
    *out = (struct paper){.interval = {{.phase = PLAN_PREFILL, .batch = 16}, {.phase = PLAN_DECODE, .batch = 128}}};
    TRY(compute_interval(hardware, &out->interval[0]));
    TRY(compute_interval(hardware, &out->interval[1]));
    TRY(compute_memory(hardware, out));
    TRY(compute_throughput(hardware, out));
    return paper_compute_bus(hardware, out->bus);
}
