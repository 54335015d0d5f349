/* What iterations take with a placement of weights, for plays of foresee(), which ask for thousands.
 *
 * What is computed is the record's to say, for any rows and context. What copies add depends on that alone as long as
 * the placement holds: it is predicted, by the one model of time, at points an eighth of an octave apart, as they are
 * asked for, and taken to be straight between them; the true line bends upwards, so that nothing is told too short.
 * Owns: nothing. Threads: one owner. */
#ifndef METRONOME_SCHEDULER_ITERATION_TIMES_H
#define METRONOME_SCHEDULER_ITERATION_TIMES_H

#include "offload/offload.h"
#include "scheduler/foresee.h"

#define ITERATION_TIMES_POINTS (64 * 8)

struct iteration_times {
    const struct offload *offload;
    const struct offload_placement *placement;
    double pace; /* measured over recorded times of computing */
    struct {
        uint64_t iteration_ns, least_ns; /* 0: not asked for yet */
    } point[ITERATION_TIMES_POINTS];
};

/* The record is set. What is pointed to stays as it is while iteration_times_of() is used. */
void iteration_times_init(struct iteration_times *times, const struct offload *offload,
                          const struct offload_placement *placement, double pace);

/* For struct foresight: `times` is a struct iteration_times, rows > 0. */
struct foreseen_time iteration_times_of(void *times, uint32_t rows, double context);

#endif
