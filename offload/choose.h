/* The choice of a placement: the most device memory freed whose predicted iteration time meets the deadline.
 *
 * Owns: the search, and the reason for what it found. The times are plan_predict()'s. Pure. Threads: any. */
#ifndef METRONOME_OFFLOAD_CHOOSE_H
#define METRONOME_OFFLOAD_CHOOSE_H

#include "base/status.h"
#include "offload/plan.h"

enum plan_family {
    PLAN_NESTED,   /* any number of slabs; neighbours differ by one slab */
    PLAN_EVEN,     /* any number of slabs, perfectly even */
    PLAN_INTERVAL, /* whole layers: the last of every i */
};

/* Why a plan streams as much as it does, and not more. */
enum plan_why {
    PLAN_WHY_SLO,    /* more would miss the deadline */
    PLAN_WHY_MEMORY, /* no more may live in host memory; or so much must, whatever the deadline says */
    PLAN_WHY_BUS,    /* more does not fit what the bus coordinator granted */
    PLAN_WHY_PINNED, /* the configuration says so */
};
const char *plan_why_name(enum plan_why why); /* "slo", "memory", "bus", "pinned" */

struct plan_limits {
    int32_t floor_slabs; /* device memory that must be freed, the ring paid for: plan_freed_slabs(). Below 0: the ring
                            may take that much of what is free. Without a floor: INT32_MIN */
    uint32_t max_slabs;  /* that may live in host memory at most; UINT32_MAX: all of the model */
    uint32_t bus_slabs;  /* that may be streamed per iteration at most, by the bus grant; UINT32_MAX: no grant */
    uint32_t staging;    /* slots in the ring, which are there whatever is streamed; 0: as many as pay */
    uint32_t near;       /* streamed slabs at which to look first, of a plan found before; 0: none */
    uint32_t soon_slabs; /* the tuner's alone: so many will have to leave anyway, and a rise up to them does not wait */
};
#define PLAN_UNLIMITED \
    ((struct plan_limits){.floor_slabs = INT32_MIN, .max_slabs = UINT32_MAX, .bus_slabs = UINT32_MAX})

/* If the choice is not feasible, `plan` is the fastest one that reaches the floor, late by late_ns; or if none does,
 * the one that frees the most, which is short by short_slabs. The bus grant does not bind it then. */
struct plan_choice {
    struct plan plan;
    struct plan_prediction prediction;
    enum plan_why why;
    bool feasible; /* the floor is reached and the deadline met */
    uint64_t late_ns;
    uint32_t short_slabs;
};

/* Of the family's plans within the limits that meet the deadline, the one that frees the most device memory, the ring
 * counted; among equals the one with the most slabs in host memory, whose ring is the longer; nothing streamed if no
 * ring pays for itself. With limits.staging 0 the ring is searched up to twice what the fullest layer streams and two
 * more, beyond which a slot buys one slab at the very best.
 *
 * PLAN_NESTED: predicted time never falls when a slab is added, nor rises when a slot is, so the number of slabs is
 * found by galloping from limits.near: three predictions if it has not moved. The other families are scanned. */
struct plan_choice plan_choose(const struct plan_load *load, uint64_t deadline_ns, const struct plan_limits *limits,
                               enum plan_family family);

/* Why `plan` streams no more, if it was chosen within `limits`. */
enum plan_why plan_reason(const struct plan_load *load, const struct plan_limits *limits, const struct plan *plan,
                          bool feasible);

/* What is short, by how much and what would mend it, in words; for a choice that is not feasible. */
struct status plan_refusal(const struct plan_load *load, uint64_t deadline_ns, const struct plan_limits *limits,
                           const struct plan_choice *choice);

/* Slots that the ring wants for `streamed_slabs` nested slabs: those of the fullest layer, which is computed with, and
 * beside them as many as the link fills in the meantime. */
uint32_t plan_staging(const struct plan_load *load, uint32_t streamed_slabs);

/* The number of slabs to cut a layer into, a power of two up to `most`: the smallest with which plan_choose() frees at
 * least 99 % of what the best one does. `whole` describes whole layers (slabs 1). Finer slabs need a smaller ring and
 * fill the deadline better; every copy pays copy_ns. */
uint32_t plan_slabs(const struct plan_load *whole, uint64_t deadline_ns, uint32_t most);
struct plan_load plan_cut(const struct plan_load *whole, uint32_t slabs);

#endif
