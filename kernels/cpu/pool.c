#include "kernels/cpu/pool.h"

#include <stdlib.h>
#include <string.h>

/* How long a worker stays awake for the next job. Within one iteration jobs follow each other in microseconds; between
 * iterations the workers sleep. */
#define POOL_SPIN_NS 50000

static bool claim(struct pool *pool, uint32_t *remaining) {
    uint64_t claims = atomic_load_explicit(&pool->claims, memory_order_acquire);
    do {
        *remaining = (uint32_t)claims;
        if (*remaining == 0) {
            return false;
        }
    } while (!atomic_compare_exchange_weak_explicit(&pool->claims, &claims, claims - 1, memory_order_acq_rel,
                                                    memory_order_acquire));
    return true;
}

/* Works until nothing is unclaimed. A claimed task keeps its job from finishing, so the job's fields stand still
 * between a claim and the report of it in `finished`: a worker that comes late takes tasks of the job that is in hand
 * when it claims, whichever woke it. */
static void work(struct pool *pool, uint32_t worker) {
    uint32_t done = 0;
    uint32_t remaining;
    while (claim(pool, &remaining)) {
        pool->task(pool->context, pool->tasks - remaining, worker);
        done++;
    }
    if (done > 0) {
        timeline_advance(&pool->finished, done);
    }
}

static void *worker_main(void *argument) {
    struct pool_worker *worker = argument;
    struct pool *pool = worker->pool;
    uint64_t seen = 0;
    for (;;) {
        timeline_wait(&pool->started, seen + 1, POOL_SPIN_NS);
        seen = timeline_value(&pool->started);
        if (atomic_load(&pool->stopping)) {
            return NULL;
        }
        work(pool, worker->index);
    }
}

struct status pool_init(struct pool *pool, uint32_t threads) {
    *pool = (struct pool){0};
    timeline_init(&pool->started);
    timeline_init(&pool->finished);
    if (threads == 1) {
        return STATUS_SUCCESS;
    }
    pool->workers = calloc(threads - 1, sizeof *pool->workers);
    if (!pool->workers) {
        return status_error(STATUS_NO_MEMORY, "no memory for a pool of %u threads", threads);
    }
    for (uint32_t i = 0; i < threads - 1; i++) {
        pool->workers[i] = (struct pool_worker){.pool = pool, .index = i + 1};
        int error = pthread_create(&pool->workers[i].thread, NULL, worker_main, &pool->workers[i]);
        if (error) {
            return status_error(STATUS_IO, "cannot start compute thread %u of %u: %s", i + 2, threads, strerror(error));
        }
        pool->started_workers++;
    }
    return STATUS_SUCCESS;
}

void pool_destroy(struct pool *pool) {
    atomic_store(&pool->stopping, true);
    timeline_advance(&pool->started, 1);
    for (uint32_t i = 0; i < pool->started_workers; i++) {
        pthread_join(pool->workers[i].thread, NULL);
    }
    free(pool->workers);
    *pool = (struct pool){0};
}

void pool_run(struct pool *pool, uint32_t tasks, cpu_task *task, void *context) {
    if (tasks <= 1 || pool->started_workers == 0) {
        for (uint32_t i = 0; i < tasks; i++) {
            task(context, i, 0);
        }
        return;
    }
    pool->task = task;
    pool->context = context;
    pool->tasks = tasks;
    pool->granted += tasks;
    uint64_t job = timeline_value(&pool->started) + 1;
    atomic_store_explicit(&pool->claims, job << 32 | tasks, memory_order_release);
    timeline_advance(&pool->started, 1);
    work(pool, 0);
    timeline_wait(&pool->finished, pool->granted, POOL_SPIN_NS);
}
