/* A small seeded random number generator (xoshiro256**, Blackman and Vigna 2018), so that one seed makes a run.
 * Threads: one owner per state. */
#ifndef METRONOME_BASE_RANDOM_H
#define METRONOME_BASE_RANDOM_H

#include <stdint.h>

struct random_state {
    uint64_t s[4];
};

void random_seed(struct random_state *state, uint64_t seed);
uint64_t random_u64(struct random_state *state);

/* Uniform in [0, bound); bound > 0. */
uint64_t random_below(struct random_state *state, uint64_t bound);

/* Uniform in [0, 1), 53 bits. */
double random_unit(struct random_state *state);

/* One well-mixed 64-bit hash of two values (splitmix64 finalizer): the same on every machine. */
uint64_t random_hash(uint64_t a, uint64_t b);

#endif
