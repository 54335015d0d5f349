/* A neighbour on the link who takes half of it at random times, and whose fault a late iteration is.
 *
 * Owns: the times at which it comes and goes, drawn from a seed before the run, and the judgement. Threads: on sim one;
 * on cpu a thread of its own changes the pace, which is one atomic number there. */
#ifndef METRONOME_BENCH_NEIGHBOUR_H
#define METRONOME_BENCH_NEIGHBOUR_H

#include "bench/rig.h"
#include "kernels/sim/sim.h"

#include <pthread.h>

struct neighbour {
    struct rig *rig;
    double full_bytes_per_s;
    struct sim_link_step *steps; /* (count) ascending; the link is whole at the start */
    uint32_t count;
    uint32_t past; /* steps before the last iteration that was judged */
    pthread_t thread;
    bool threaded, stop;
    uint32_t absent_slabs;  /* of the iteration before */
    uint64_t due_ns, round; /* of the next token, by the run's first one; which round of the rig that is */
    uint64_t iterations, drops, late, late_drop, late_after, late_plan, late_tokens, slabs, bytes;
};

/* Begins a run of about `span_ns` in which it comes and goes every `mean_ns`, a tenth of it at the least. */
void neighbour_begin(struct rig *rig, uint64_t span_ns, uint64_t mean_ns, uint64_t seed, struct neighbour *neighbour);

/* Judges one iteration that began at `begin_ns`. One that took longer than the promise is blamed on
 *  - the drop, if the link became slower while it ran: what was on its way had been promised before;
 *  - the drop before, if no plan could have kept the deadline: more was absent from the device than the link, as slow
 * as it is now, carries by then, and all of it has to pass to be computed with;
 *  - the plan otherwise. */
void neighbour_judge(struct neighbour *neighbour, uint64_t begin_ns, const struct offload_report *report);

/* The link is whole again. */
void neighbour_end(struct neighbour *neighbour);

#endif
