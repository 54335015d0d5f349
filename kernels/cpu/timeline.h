/* A counter that only grows and that threads can wait for: what the queues, the events and the pool of the `cpu`
 * device synchronize by.
 *
 * A waiter spins for a bounded time and then sleeps on a futex, so that a hot device answers in well under a
 * microsecond and an idle one costs nothing. Everything a thread wrote before it advanced a timeline is seen by those
 * that waited for that value. Threads: any. */
#ifndef METRONOME_KERNELS_CPU_TIMELINE_H
#define METRONOME_KERNELS_CPU_TIMELINE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct timeline {
    _Alignas(64) _Atomic uint64_t value;
    _Atomic uint64_t wanted; /* the least value that a thread sleeps for; UINT64_MAX: none does */
    _Atomic uint32_t rings;  /* the futex: changes at every wake */
};

void timeline_init(struct timeline *timeline);

static inline uint64_t timeline_value(const struct timeline *timeline) {
    return atomic_load_explicit(&timeline->value, memory_order_acquire);
}

/* Adds `count` to the value and wakes whoever waits for it. */
void timeline_advance(struct timeline *timeline, uint64_t count);

/* Returns when the value is at least `target`: spins up to `spin_ns`, then sleeps. False if it was there
 * already, true if there was a wait. */
bool timeline_wait(struct timeline *timeline, uint64_t target, uint64_t spin_ns);

/* Tells the core that this is a spin loop. */
static inline void timeline_pause(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

#endif
