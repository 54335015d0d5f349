/* Engines that decode side by side, each on a device of its own, with one bus to host memory between them.
 *
 * Owns: the time that iterations take then, event by event: each engine computes its layers in turn and copies ahead
 * through its ring as plan.h says, and copies that are under way together share the bus equally (kernels/sim/bus.h).
 * One engine alone takes what plan_predict() says. Threads: any. */
#ifndef METRONOME_BENCH_SHARED_BUS_H
#define METRONOME_BENCH_SHARED_BUS_H

#include "offload/plan.h"

#define SHARED_BUS_MOST 8

struct shared_engine {
    struct plan_load load; /* its link_bytes_per_s is not asked for */
    struct plan plan;
    /* filled in */
    double mean_ns;                                   /* of an iteration */
    uint64_t longest_ns;                              /* iteration */
    uint64_t iterations, late, deadline_ns, streamed; /* late: longer than deadline_ns, which the caller sets */
};

/* Runs all of them until each has done `iterations`, after as many as it takes to settle. */
void shared_bus_run(struct shared_engine *engines, uint32_t count, double bus_bytes_per_s, uint32_t iterations);

#endif
