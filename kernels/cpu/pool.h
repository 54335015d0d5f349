/* A fork-join pool: shares the tasks of one op out over the cores.
 *
 * Owns its threads. Tasks go to whoever is free next, in ascending order; which worker runs a task is chance, so
 * nothing may depend on it. Threads: pool_run() from one thread at a time; it takes part in the work. */
#ifndef METRONOME_KERNELS_CPU_POOL_H
#define METRONOME_KERNELS_CPU_POOL_H

#include "base/status.h"
#include "kernels/cpu/cpu_internal.h"
#include "kernels/cpu/timeline.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

struct pool_worker {
    struct pool *pool;
    uint32_t index; /* 1 .. threads-1; the caller of pool_run() is worker 0 */
    pthread_t thread;
};

struct pool {
    /* The job in hand: written by pool_run() when the last one has finished, read by who has claimed a task of it. */
    cpu_task *task;
    void *context;
    uint32_t tasks;

    _Atomic bool stopping;

    struct timeline started;  /* jobs */
    struct timeline finished; /* tasks of all jobs */
    uint64_t granted;         /* tasks of all jobs handed out by pool_run() */
    /* The job's number in the high half, how many of its tasks are unclaimed in the low half. */
    _Alignas(64) _Atomic uint64_t claims;

    struct pool_worker *workers; /* (threads - 1) */
    uint32_t started_workers;
};

struct status pool_init(struct pool *pool, uint32_t threads);
void pool_destroy(struct pool *pool); /* joins; also after a pool_init() that failed */

void pool_run(struct pool *pool, uint32_t tasks, cpu_task *task, void *context);

#endif
