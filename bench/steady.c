#include "bench/steady.h"

#include "server/described.h"

#include <stdio.h>
#include <string.h>

#define MOST_SLABS (MATMUL_MAX_PARTS / 3)
#define MOST_STEPS 2 /* streamed layers that prefetch-group fetches ahead: a longer ring costs more than it gives */

struct status steady_case(const char *hardware, const char *model, enum plan_phase phase, uint32_t batch,
                          uint32_t context, struct plan_case *out) {
    *out = (struct plan_case){
        .compute = COMPUTE_INT8, .kv_type = KV_F16, .phase = phase, .batch = batch, .context = context};
    TRY(described_hardware(hardware, &out->hardware));
    TRY(described_model(model, &out->model));
    return plan_case_measure(out);
}

/* What is looked for. */
enum wish {
    MOST_FREED, /* in time */
    QUICKEST,   /* that fits */
};

struct search {
    const struct plan_case *plan_case;
    const struct policy *policy;
    enum wish wish;
    struct steady *best;
};

static bool is_better(const struct search *search, const struct plan_choice *choice, const struct plan_load *load) {
    const struct steady *best = search->best;
    if (search->wish == QUICKEST) {
        return choice->short_slabs == 0 &&
               (!best->possible || choice->prediction.iteration_ns < best->choice.prediction.iteration_ns);
    }
    double freed = (double)plan_freed_slabs(&choice->plan) * (double)load->slab_bytes;
    return choice->prediction.iteration_ns <= search->plan_case->deadline_ns &&
           (!best->possible || freed > steady_freed_bytes(best));
}

/* Makes one plan of the policy, with layers cut into `slabs`; a plan that it refuses is none. */
static struct status try_options(struct search *search, uint32_t slabs, uint64_t deadline_ns,
                                 const struct policy_options *options, const char *text) {
    struct plan_load load;
    struct plan_limits limits;
    struct plan_choice choice;
    TRY(plan_case_load(search->plan_case, slabs, &load, &limits));
    limits.floor_slabs = search->wish == MOST_FREED ? INT32_MIN : limits.floor_slabs;
    struct policy_request request = {.load = &load, .deadline_ns = deadline_ns, .limits = limits, .options = *options};
    struct status status = search->policy->place(&request, &choice);
    if (!status_failed(&status) && is_better(search, &choice, &load)) {
        struct steady *best = search->best;
        *best = (struct steady){
            .policy = search->policy->name, .possible = true, .load = load, .choice = choice, .options = *options};
        snprintf(best->options_text, sizeof best->options_text, "%s", text);
    }
    return STATUS_SUCCESS;
}

/* The policies that choose by the deadline. A deadline of 1 ns asks for the quickest plan that fits. */
static struct status try_own_choice(struct search *search, bool cut) {
    const struct policy_options options = {0};
    uint64_t deadline_ns = search->wish == MOST_FREED ? search->plan_case->deadline_ns : 1;
    for (uint32_t slabs = 1; slabs <= (cut ? MOST_SLABS : 1); slabs *= 2) {
        TRY(try_options(search, slabs, deadline_ns, &options, ""));
    }
    return STATUS_SUCCESS;
}

static struct status try_percents(struct search *search) {
    char text[48];
    for (uint32_t slabs = 1; slabs <= MOST_SLABS; slabs *= 2) {
        for (uint32_t i = 0; i <= slabs; i++) {
            const struct policy_options options = {.percent = 100.0 * i / slabs};
            snprintf(text, sizeof text, "%.4g %%", options.percent);
            TRY(try_options(search, slabs, UINT64_MAX, &options, text));
        }
    }
    return STATUS_SUCCESS;
}

static struct status try_groups(struct search *search) {
    const uint32_t layers = search->plan_case->model.shape.layers;
    char text[48];
    for (uint32_t group = 1; group <= layers; group++) {
        for (uint32_t streamed = 0; streamed <= group; streamed++) {
            for (uint32_t step = 1; step <= MOST_STEPS; step++) {
                const struct policy_options options = {
                    .group = group, .group_streamed = streamed, .prefetch_step = step};
                snprintf(text, sizeof text, "%u of %u, %u ahead", streamed, group, step);
                TRY(try_options(search, 1, UINT64_MAX, &options, text));
            }
        }
    }
    return STATUS_SUCCESS;
}

static struct status search_plans(const struct plan_case *plan_case, const char *policy, enum wish wish,
                                  struct steady *out) {
    struct search search = {.plan_case = plan_case, .wish = wish, .best = out};
    const struct policy_options none = {0};
    *out = (struct steady){.policy = policy};
    TRY(policy_find(policy, &search.policy));
    if (strcmp(policy, "flexgen") == 0) {
        return try_percents(&search);
    }
    if (strcmp(policy, "prefetch-group") == 0) {
        return try_groups(&search);
    }
    if (search.policy->keeps_deadlines) {
        return try_own_choice(&search, strcmp(policy, "metronome") == 0);
    }
    return try_options(&search, 1, UINT64_MAX, &none, "");
}

struct status steady_most_freed(const struct plan_case *plan_case, const char *policy, struct steady *out) {
    return search_plans(plan_case, policy, MOST_FREED, out);
}

struct status steady_quickest(const struct plan_case *plan_case, const char *policy, struct steady *out) {
    return search_plans(plan_case, policy, QUICKEST, out);
}

/* The next batch to try: every one of the small ones, then an eighth more each time. */
static uint32_t next_batch(uint32_t batch) {
    return batch + (batch < 16 ? 1 : batch / 8);
}

struct status steady_batch(const struct plan_case *plan_case, const char *policy, uint64_t tpot_ns, uint32_t most_batch,
                           uint32_t *batch, double *tokens_per_s, struct steady *best) {
    *batch = 0;
    *tokens_per_s = 0;
    *best = (struct steady){.policy = policy};
    for (uint32_t tried = 1; tried <= most_batch; tried = next_batch(tried)) {
        struct plan_case with = *plan_case;
        struct steady steady;
        with.batch = tried;
        TRY(plan_case_measure(&with));
        TRY(steady_quickest(&with, policy, &steady));
        if (!steady.possible || steady.choice.prediction.iteration_ns > tpot_ns) {
            break; /* a larger batch takes more memory, and more time */
        }
        double rate = tried * 1e9 / (double)steady.choice.prediction.iteration_ns;
        if (rate > *tokens_per_s) {
            *batch = tried;
            *tokens_per_s = rate;
            *best = steady;
        }
    }
    return STATUS_SUCCESS;
}
