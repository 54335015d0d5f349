#include "bench/peak.h"

#include "base/clock.h"
#include "bench/peak_loops.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define TRIES 20 /* one of them is not disturbed */
#define TRY_NS (5 * NS_PER_MS)
#define TURNS 20000          /* of an arithmetic loop between two looks at the clock: well below a millisecond */
#define LEAST_READ (1 << 20) /* bytes, likewise */
#define MOST_THREADS 256
#define PIECE ((size_t)256) /* bytes: what a turn of the reading loop takes at most */

static _Atomic uint32_t sink;
void peak_sink(uint32_t result) {
    atomic_store_explicit(&sink, result, memory_order_relaxed);
}

/* One thread's part of a measurement. */
struct part {
    pthread_t thread;
    enum peak_kind kind;
    const struct peak_loops *loops;
    const uint8_t *bytes;
    size_t count;
    double per_s; /* the best try */
};

static double run_loop(const struct part *part, const struct peak_operands *operands) {
    switch (part->kind) {
    case PEAK_READ: {
        double done = 0;
        while (done < LEAST_READ) {
            done += part->loops->read(part->bytes, part->count);
        }
        return done;
    }
    case PEAK_INT8:
        return part->loops->int8(operands, TURNS);
    default:
        return part->loops->f32(operands, TURNS);
    }
}

static void *run_part(void *context) {
    struct part *part = context;
    const struct peak_operands operands = {.codes = {1, 2, 3}, .floats = {1, 2, 3}, .activations = {1, 2, 3}};
    for (int try = 0; try < TRIES; try++) {
        double done = 0;
        const uint64_t begin_ns = clock_now_ns();
        uint64_t now_ns;
        do {
            done += run_loop(part, &operands);
            now_ns = clock_now_ns();
        } while (now_ns - begin_ns < TRY_NS);
        const double per_s = done * 1e9 / (double)(now_ns - begin_ns);
        part->per_s = per_s > part->per_s ? per_s : part->per_s;
    }
    return NULL;
}

static const struct peak_loops *loops_of(const char *isa) {
    return strcmp(isa, "avx512") == 0 ? &peak_avx512 : strcmp(isa, "avx2") == 0 ? &peak_avx2 : &peak_scalar;
}

struct status peak_measure(enum peak_kind kind, const char *isa, uint32_t threads, size_t bytes, double *per_s) {
    struct part parts[MOST_THREADS];
    threads = threads < 1 ? 1 : threads > MOST_THREADS ? MOST_THREADS : threads;
    const size_t each = (bytes / threads / PIECE + 1) * PIECE;
    uint8_t *memory = kind == PEAK_READ ? aligned_alloc(PIECE, each * threads) : NULL;
    if (kind == PEAK_READ && memory == NULL) {
        return status_error(STATUS_NO_MEMORY, "no memory to read: %zu bytes", bytes);
    }
    for (uint32_t i = 0; i < threads; i++) {
        parts[i] = (struct part){.kind = kind, .loops = loops_of(isa), .count = each};
        if (memory) {
            parts[i].bytes = memset(memory + i * each, 1, each); /* pages nobody wrote are one page of zeros */
        }
    }
    uint32_t started = 0;
    while (started + 1 < threads && pthread_create(&parts[started].thread, NULL, run_part, &parts[started]) == 0) {
        started++;
    }
    run_part(&parts[started]);
    *per_s = parts[started].per_s;
    for (uint32_t i = 0; i < started; i++) {
        pthread_join(parts[i].thread, NULL);
        *per_s += parts[i].per_s;
    }
    free(memory);
    return started + 1 < threads ? status_error(STATUS_NO_MEMORY, "no thread %u of %u to be had", started + 2, threads)
                                 : STATUS_SUCCESS;
}
