/* Offload policies: who decides what lives in host memory. Ours, and the field's as baselines, on one pipeline.
 *
 * Owns: the table of policies. Each is a pure function, in its own file in policies/, from a load, a deadline, limits
 * and its options to a plan; a new one is a file and a row. Threads: any. */
#ifndef METRONOME_OFFLOAD_POLICY_H
#define METRONOME_OFFLOAD_POLICY_H

#include "base/status.h"
#include "offload/choose.h"

#include <stdbool.h>
#include <stdint.h>

/* What the user sets by hand. A policy reads its own and ignores the rest. */
struct policy_options {
    /* metronome, select-n */
    double interval; /* one layer in so many lives in host memory, come what may; 0: chosen. Whole for select-n */
    /* select-n */
    uint32_t interval_least, interval_most; /* the range to choose from; 0: no bound */
    /* flexgen */
    double percent;               /* of the weights in host memory; below 0: by its cost model, from the next three */
    double layer_flops;           /* of one layer for this load */
    double peak_flops_per_s;      /* of the device, as its maker states it */
    double peak_link_bytes_per_s; /* of the link, likewise */
    /* prefetch-group */
    uint32_t group, group_streamed; /* the last so many of every `group` layers */
    uint32_t prefetch_step;         /* streamed layers to fetch ahead: the ring's length in layers */
};

struct policy_request {
    const struct plan_load *load;
    uint64_t deadline_ns;      /* of an iteration */
    struct plan_limits limits; /* staging other than 0 overrides the policy's own ring, if whole layers fit it */
    struct policy_options options;
};

struct policy {
    const char *name, *summary;
    bool keeps_deadlines; /* chooses by the deadline: a choice that is not feasible is to be refused before it is run */
    bool every_iteration; /* chooses anew for each of them, unless the user pins an interval */
    bool moves_parts;     /* of layers, which are then cut as finely as pays; else whole ones move */
    const char *by_hand;  /* the option by which the user says how much leaves the device; NULL: it is chosen */

    /* Fills *choice; `feasible`, `late_ns` and `short_slabs` mean what choose.h says, whoever chose. Fails for options
     * that make no sense and for weights that host memory cannot hold, and says which. */
    struct status (*place)(const struct policy_request *request, struct plan_choice *choice);
};

/* In the order of the table in the documentation; ends with NULL. */
extern const struct policy *const policies[];

/* STATUS_NOT_FOUND names the ones there are. */
struct status policy_find(const char *name, const struct policy **out);

/* The whole-layer intervals, "the last of every i", that keep the deadline (from `least` on) and free the floor (up to
 * `most`), with a ring of one layer. least > most: the load cannot be kept on this device. `least` is layers + 1 when
 * not even one streamed layer meets the deadline; `most` is that when nothing need leave the device. */
struct policy_range {
    uint32_t least, most;
};
struct policy_range policy_interval_range(const struct policy_request *request);

#endif
