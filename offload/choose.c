#include "offload/choose.h"

#include "base/bytes.h"
#include "base/check.h"
#include "base/clock.h"

const char *plan_why_name(enum plan_why why) {
    static const char *const names[] = {
        [PLAN_WHY_SLO] = "slo", [PLAN_WHY_MEMORY] = "memory", [PLAN_WHY_BUS] = "bus", [PLAN_WHY_PINNED] = "pinned"};
    return names[why];
}

static uint32_t least(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

/* Slots of a ring that are left for slabs, and how many slabs a ring can stream: the fullest layer must fit it. */
static uint32_t slots_for_slabs(const struct plan_load *load, uint32_t staging) {
    return staging > load->kv_copies ? staging - load->kv_copies : 0;
}
static uint32_t most_for_ring(const struct plan_load *load, uint32_t staging) {
    return load->layers * slots_for_slabs(load, staging);
}

static uint32_t slabs_of_fullest(uint32_t layers, uint32_t streamed_slabs) {
    return (streamed_slabs + layers - 1) / layers;
}

uint32_t plan_staging(const struct plan_load *load, uint32_t streamed_slabs) {
    uint64_t slab_ns = plan_slab_ns(load), filled = (load->layer_ns + slab_ns - 1) / slab_ns;
    uint32_t fullest = slabs_of_fullest(load->layers, streamed_slabs);
    return fullest + (filled < fullest ? (uint32_t)filled : fullest);
}

/* The family's member with `member` slabs, or of interval `member`. */
static void place(const struct plan_load *load, enum plan_family family, uint32_t member, uint32_t staging,
                  struct plan *plan) {
    switch (family) {
    case PLAN_NESTED:
        plan_nested(load, member, staging, plan);
        break;
    case PLAN_EVEN:
        plan_even(load, member, staging, plan);
        break;
    case PLAN_INTERVAL:
        plan_groups(load, member, 1, load->slabs, staging, plan);
        break;
    }
}

struct search {
    const struct plan_load *load;
    uint64_t deadline_ns;
    enum plan_family family;
    uint32_t cap; /* slabs streamed at most */
};

/* The longest ring that is looked at. */
static uint32_t most_staging(const struct search *search) {
    const struct plan_load *load = search->load;
    uint32_t fullest = search->family == PLAN_INTERVAL ? load->slabs : slabs_of_fullest(load->layers, search->cap);
    return 2 * (fullest + load->kv_copies) + 2;
}

static bool meets(const struct search *search, uint32_t member, uint32_t staging) {
    struct plan plan;
    place(search->load, search->family, member, staging, &plan);
    return plan_predict(search->load, &plan).iteration_ns <= search->deadline_ns;
}

/* The most nested slabs that meet the deadline, by galloping away from `near` and halving what it leapt over. */
static uint32_t gallop(const struct search *search, uint32_t cap, uint32_t staging, uint32_t near) {
    uint32_t good = 0, bad = cap + 1; /* nothing streamed is known to meet it */
    uint32_t at = near > 0 && near < cap ? near : cap, step = 1;
    while (good + 1 < bad) {
        if (meets(search, at, staging)) {
            good = at;
        } else {
            bad = at;
        }
        if (good > 0 && bad <= cap) {
            at = good + (bad - good) / 2; /* between a hit and a miss */
        } else if (good > 0) {
            at = least(good + step, cap);
            step *= 2;
        } else {
            at = bad > step ? bad - step : 1;
            step *= 2;
        }
    }
    return good;
}

/* The most slabs of the family that meet the deadline with a ring of `staging`; 0 if none do. *member names them. */
static uint32_t most_slabs(const struct search *search, uint32_t staging, uint32_t near, uint32_t *member) {
    const struct plan_load *load = search->load;
    if (search->family == PLAN_INTERVAL) {
        bool fits = slots_for_slabs(load, staging) >= load->slabs;
        for (uint32_t interval = 1; interval <= load->layers && fits; interval++) {
            uint32_t slabs = load->layers / interval * load->slabs;
            if (slabs <= search->cap && meets(search, interval, staging)) {
                *member = interval;
                return slabs;
            }
        }
        return *member = 0;
    }
    uint32_t cap = least(search->cap, most_for_ring(load, staging));
    if (cap == 0) {
        return *member = 0;
    }
    if (search->family == PLAN_NESTED) {
        return *member = gallop(search, cap, staging, near);
    }
    uint32_t slabs = cap;
    while (slabs > 0 && !meets(search, slabs, staging)) {
        slabs--;
    }
    return *member = slabs;
}

/* Fills choice->plan with the best plan that meets the deadline, which the one with nothing streamed does. */
static void search_best(const struct search *search, const struct plan_limits *limits, struct plan_choice *choice) {
    const struct plan_load *load = search->load;
    uint32_t best_member = 0, best_slabs = 0, best_staging = limits->staging;
    if (limits->staging > 0) {
        best_slabs = most_slabs(search, limits->staging, limits->near, &best_member);
    }
    uint32_t last = limits->staging > 0 ? 0 : most_staging(search), near = limits->near;
    for (uint32_t staging = 1; staging <= last && search->cap >= staging + (best_slabs - best_staging); staging++) {
        uint32_t member, slabs = most_slabs(search, staging, near, &member);
        int64_t gain = (int64_t)slabs - staging - (best_slabs - best_staging);
        if (gain > 0 || (gain == 0 && best_slabs > 0 && slabs > best_slabs)) {
            best_member = member;
            best_slabs = slabs;
            best_staging = staging;
        }
        near = slabs;
    }
    if (best_slabs > 0) {
        place(load, search->family, best_member, best_staging, &choice->plan);
    } else {
        plan_none(load, &choice->plan);
        choice->plan.staging = limits->staging;
    }
    choice->prediction = plan_predict(load, &choice->plan);
}

/* Takes a plan into *choice if it comes nearer to freeing `floor` slabs than the one there, or as near and faster. */
static void take_if_better(const struct search *search, uint32_t member, uint32_t staging, int64_t floor,
                           struct plan_choice *choice) {
    struct plan plan;
    place(search->load, search->family, member, staging, &plan);
    int64_t freed = plan_freed_slabs(&plan), held = plan_freed_slabs(&choice->plan);
    freed = freed < floor ? freed : floor;
    held = held < floor ? held : floor;
    if (plan.streamed_slabs > search->cap || freed < held) {
        return;
    }
    struct plan_prediction prediction = plan_predict(search->load, &plan);
    if (freed > held || prediction.iteration_ns < choice->prediction.iteration_ns) {
        choice->plan = plan;
        choice->prediction = prediction;
    }
}

/* Fills choice->plan with the fastest plan that frees `floor` slabs, or if none does with one that frees the most. */
static void search_fastest(const struct search *search, const struct plan_limits *limits, struct plan_choice *choice) {
    const struct plan_load *load = search->load;
    int64_t floor = limits->floor_slabs;
    uint32_t first = limits->staging > 0 ? limits->staging : 1;
    uint32_t last = limits->staging > 0 ? limits->staging : most_staging(search);
    plan_none(load, &choice->plan);
    choice->plan.staging = limits->staging;
    choice->prediction = plan_predict(load, &choice->plan);
    if (plan_freed_slabs(&choice->plan) >= floor) {
        return;
    }
    for (uint32_t staging = first; staging <= last; staging++) {
        uint32_t cap = least(search->cap, most_for_ring(load, staging));
        if (search->family != PLAN_INTERVAL) {
            take_if_better(search, floor + staging < cap ? (uint32_t)(floor + staging) : cap, staging, floor, choice);
        }
        for (uint32_t i = 1;
             search->family == PLAN_INTERVAL && load->slabs <= slots_for_slabs(load, staging) && i <= load->layers;
             i++) {
            take_if_better(search, i, staging, floor, choice);
        }
    }
}

enum plan_why plan_reason(const struct plan_load *load, const struct plan_limits *limits, const struct plan *plan,
                          bool feasible) {
    if (!feasible) {
        return plan->streamed_slabs > 0 ? PLAN_WHY_MEMORY : PLAN_WHY_SLO;
    }
    if (plan->streamed_slabs >= least(load->layers * load->slabs, limits->max_slabs)) {
        return PLAN_WHY_MEMORY;
    }
    return plan->streamed_slabs >= limits->bus_slabs ? PLAN_WHY_BUS : PLAN_WHY_SLO;
}

struct plan_choice plan_choose(const struct plan_load *load, uint64_t deadline_ns, const struct plan_limits *limits,
                               enum plan_family family) {
    CHECK(limits->staging <= PLAN_MAX_STAGING);
    uint32_t all = least(load->layers * load->slabs, limits->max_slabs);
    uint64_t in_time = deadline_ns / plan_slab_ns(load); /* what the link can carry by the deadline, at the very most */
    struct search search = {.load = load, .deadline_ns = deadline_ns, .family = family};
    search.cap = least(all, limits->bus_slabs);
    search.cap = in_time < search.cap ? (uint32_t)in_time : search.cap;
    struct plan_choice choice = {.feasible = false};
    bool in_time_at_all = plan_compute_ns(load) <= deadline_ns;
    if (in_time_at_all && load->kv_copies > 0) { /* with a ring that is there and holds them */
        plan_none(load, &choice.plan);
        choice.plan.staging = limits->staging;
        in_time_at_all = plan_predict(load, &choice.plan).iteration_ns <= deadline_ns;
    }
    if (in_time_at_all) {
        search_best(&search, limits, &choice);
        choice.feasible = plan_freed_slabs(&choice.plan) >= limits->floor_slabs;
    }
    if (choice.feasible) {
        choice.why = plan_reason(load, limits, &choice.plan, true);
        return choice;
    }
    search.cap = all;
    search_fastest(&search, limits, &choice);
    choice.why = plan_reason(load, limits, &choice.plan, false);
    int64_t freed = plan_freed_slabs(&choice.plan);
    choice.short_slabs = freed < limits->floor_slabs ? (uint32_t)(limits->floor_slabs - freed) : 0;
    choice.late_ns = choice.prediction.iteration_ns > deadline_ns ? choice.prediction.iteration_ns - deadline_ns : 0;
    return choice;
}

struct status plan_refusal(const struct plan_load *load, uint64_t deadline_ns, const struct plan_limits *limits,
                           const struct plan_choice *choice) {
    char a[16], b[16], c[16];
    double takes_ms = (double)choice->prediction.iteration_ns / NS_PER_MS, due_ms = (double)deadline_ns / NS_PER_MS;
    double late_ms = (double)choice->late_ns / NS_PER_MS;
    uint64_t floor = limits->floor_slabs > 0 ? (uint64_t)limits->floor_slabs * load->slab_bytes : 0;
    if (choice->short_slabs > 0) {
        uint64_t lacks = choice->short_slabs * load->slab_bytes;
        uint64_t can = floor > lacks ? floor - lacks : 0;
        return status_error(STATUS_NO_MEMORY,
                            "%s of weights must leave the device and at most %s can, staging slots "
                            "counted: %s short. "
                            "Raise device_memory or host_memory, or lower context or kv_tokens",
                            bytes_format(floor, a, sizeof a), bytes_format(can, b, sizeof b),
                            bytes_format(lacks, c, sizeof c));
    }
    if (choice->plan.streamed_slabs == 0) {
        return status_error(STATUS_INVALID,
                            "an iteration takes %.3f ms with every layer on the device and is due "
                            "after %.3f ms: "
                            "%.3f ms late. Relax the SLO, or lower the batch or the context",
                            takes_ms, due_ms, late_ms);
    }
    if (limits->floor_slabs <= 0) { /* by hand, or by a policy that does not know the deadline */
        return status_error(STATUS_INVALID,
                            "streaming %s an iteration takes %.3f ms, due after %.3f ms: %.3f ms late, though memory "
                            "asks for none of it. Stream less, or relax the SLO",
                            bytes_format(choice->prediction.bytes_streamed, b, sizeof b), takes_ms, due_ms, late_ms);
    }
    return status_error(STATUS_NO_MEMORY,
                        "%s of weights must leave the device; streaming %s an iteration then "
                        "takes %.3f ms, due after "
                        "%.3f ms: %.3f ms late. Raise device_memory, relax the SLO, or lower "
                        "context or kv_tokens",
                        bytes_format(floor, a, sizeof a), bytes_format(choice->prediction.bytes_streamed, b, sizeof b),
                        takes_ms, due_ms, late_ms);
}

struct plan_load plan_cut(const struct plan_load *whole, uint32_t slabs) {
    CHECK(whole->slabs == 1 && slabs > 0 && slabs <= PLAN_MAX_SLABS);
    struct plan_load load = *whole;
    load.slabs = slabs;
    load.slab_bytes = (whole->slab_bytes + slabs - 1) / slabs;
    return load;
}

uint32_t plan_slabs(const struct plan_load *whole, uint64_t deadline_ns, uint32_t most) {
    const struct plan_limits limits = PLAN_UNLIMITED;
    uint64_t freed[PLAN_MAX_SLABS + 1] = {0}, best = 0;
    for (uint32_t slabs = 1; slabs <= least(most, PLAN_MAX_SLABS); slabs *= 2) {
        struct plan_load load = plan_cut(whole, slabs);
        struct plan_choice choice = plan_choose(&load, deadline_ns, &limits, PLAN_NESTED);
        freed[slabs] = (uint64_t)plan_freed_slabs(&choice.plan) * load.slab_bytes;
        best = freed[slabs] > best ? freed[slabs] : best;
    }
    uint32_t slabs = 1;
    while (freed[slabs] < best - best / 100) {
        slabs *= 2;
    }
    return slabs;
}
