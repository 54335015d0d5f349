/* Two models on one bus: what each policy chooses, and what then happens to both. FlexGen knows nothing of a neighbour;
 * select-n and metronome tell the bus coordinator what they could do with how much of the link, and keep to what it
 * grants (offload/grant.h). Threads: any. */
#include "bench/paper.h"

#include <math.h>
#include <stdlib.h>

#define ITERATIONS 400
#define SLABS (MATMUL_MAX_PARTS / 3)

static const char *const models[2] = {"opt-13b", "llama-2-13b"};

static struct status open_cases(const char *hardware, struct plan_case cases[2]) {
    for (int i = 0; i < 2; i++) {
        TRY(steady_case(hardware, models[i], PLAN_DECODE, 1, PAPER_SEQUENCE, &cases[i]));
        cases[i].deadline_ns = (uint64_t)PAPER_BUS_TPOT_MS * 1000000;
    }
    return STATUS_SUCCESS;
}

/* FlexGen by its cost model: the peak rates that the makers state. */
static struct status choose_by_model(const struct plan_case *c, struct shared_engine *out) {
    const struct policy *policy;
    struct plan_limits limits;
    struct plan_choice choice;
    TRY(policy_find("flexgen", &policy));
    TRY(plan_case_load(c, SLABS, &out->load, &limits));
    struct policy_request request = {.load = &out->load,
                                     .deadline_ns = c->deadline_ns,
                                     .limits = PLAN_UNLIMITED,
                                     .options = {.percent = -1,
                                                 .layer_flops = plan_case_layer_flops(c),
                                                 .peak_flops_per_s = c->hardware.f16_flops_per_s,
                                                 .peak_link_bytes_per_s = c->hardware.link_nominal_bytes_per_s}};
    TRY(policy->place(&request, &choice));
    out->plan = choice.plan;
    return STATUS_SUCCESS;
}

static struct status choose_by_hand(const struct plan_case *c, struct shared_engine *out) {
    struct steady steady;
    TRY(steady_most_freed(c, "flexgen", &steady));
    if (!steady.possible) {
        return status_error(STATUS_INVALID, "flexgen cannot keep %d ms for %s even alone", PAPER_BUS_TPOT_MS,
                            c->model.shape.name);
    }
    out->load = steady.load;
    out->plan = steady.choice.plan;
    return STATUS_SUCCESS;
}

/* What one engine could do, from the least to the most that its promise allows with the bus to itself: every whole
 * interval, or as many placements as there are candidates, evenly apart. */
struct offer {
    struct grant_member member;
    struct plan plan[GRANT_MAX_CANDIDATES];
    struct plan_load load;
};

static void add_candidate(const struct plan_case *c, const struct plan *plan, struct offer *offer) {
    uint64_t bytes = plan->streamed_slabs * offer->load.slab_bytes;
    offer->member.candidate[offer->member.count] = (struct grant_candidate){
        .bytes_per_s = (uint64_t)((double)bytes * 1e9 / (double)c->deadline_ns), .host_bytes = bytes};
    offer->plan[offer->member.count++] = *plan;
}

static struct status make_offer(const struct plan_case *c, const char *policy, struct offer *offer) {
    struct steady most;
    struct plan plan;
    *offer = (struct offer){0};
    TRY(steady_most_freed(c, policy, &most));
    if (!most.possible) {
        return status_error(STATUS_INVALID, "%s cannot keep %d ms for %s even alone", policy, PAPER_BUS_TPOT_MS,
                            c->model.shape.name);
    }
    offer->load = most.load;
    plan_none(&offer->load, &plan);
    add_candidate(c, &plan, offer);
    const uint32_t layers = offer->load.layers, most_slabs = most.choice.plan.streamed_slabs;
    uint32_t before = 0;
    for (uint32_t i = layers; i > 0 && most.load.slabs == 1 && offer->member.count < GRANT_MAX_CANDIDATES; i--) {
        plan_groups(&offer->load, i, 1, 1, most.choice.plan.staging, &plan);
        if (plan.streamed_slabs > before && plan.streamed_slabs <= most_slabs) {
            add_candidate(c, &plan, offer);
            before = plan.streamed_slabs;
        }
    }
    for (uint32_t i = 1; i < GRANT_MAX_CANDIDATES && most.load.slabs > 1; i++) {
        plan_nested(&offer->load, most_slabs * i / (GRANT_MAX_CANDIDATES - 1), most.choice.plan.staging, &plan);
        add_candidate(c, &plan, offer);
    }
    return STATUS_SUCCESS;
}

static struct status choose_together(const struct plan_case cases[2], const char *policy, struct paper_bus *out) {
    struct offer *offers = calloc(2, sizeof *offers);
    struct grant_scratch *scratch = grant_scratch_create();
    struct status status = offers && scratch ? STATUS_SUCCESS : status_error(STATUS_NO_MEMORY, "no memory for grants");
    for (int i = 0; i < 2 && !status_failed(&status); i++) {
        status = make_offer(&cases[i], policy, &offers[i]);
    }
    if (!status_failed(&status)) {
        const struct grant_member members[2] = {offers[0].member, offers[1].member};
        uint32_t granted[2] = {0, 0}; /* nothing streamed needs nothing of the link: it fits */
        grant_solve(scratch, members, 2, (uint64_t)cases[0].hardware.link_bytes_per_s, granted);
        for (int i = 0; i < 2; i++) {
            out->engine[i].load = offers[i].load;
            out->engine[i].plan = offers[i].plan[granted[i]];
        }
    }
    grant_scratch_destroy(scratch);
    free(offers);
    return status;
}

struct status paper_compute_bus(const char *hardware, struct paper_bus bus[PAPER_PAIRS]) {
    struct plan_case cases[2];
    TRY(open_cases(hardware, cases));
    for (int i = 0; i < 2; i++) {
        TRY(choose_by_model(&cases[i], &bus[PAIR_FLEXGEN_MODEL].engine[i]));
        TRY(choose_by_hand(&cases[i], &bus[PAIR_FLEXGEN_HAND].engine[i]));
    }
    TRY(choose_together(cases, "select-n", &bus[PAIR_SELECT_N]));
    TRY(choose_together(cases, "metronome", &bus[PAIR_METRONOME]));
    for (int pair = 0; pair < PAPER_PAIRS; pair++) {
        for (int i = 0; i < 2; i++) {
            struct shared_engine *engine = &bus[pair].engine[i];
            engine->deadline_ns = cases[i].deadline_ns;
            bus[pair].alone_ns[i] = (double)plan_predict(&engine->load, &engine->plan).iteration_ns;
        }
        shared_bus_run(bus[pair].engine, 2, cases[0].hardware.link_bytes_per_s, ITERATIONS);
    }
    return STATUS_SUCCESS;
}
