#include "base/random.h"

static uint64_t splitmix64(uint64_t *state) {
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

void random_seed(struct random_state *state, uint64_t seed) {
    for (int i = 0; i < 4; i++) {
        state->s[i] = splitmix64(&seed);
    }
}

static uint64_t rotate_left(uint64_t value, int count) {
    return (value << count) | (value >> (64 - count));
}

uint64_t random_u64(struct random_state *state) {
    uint64_t *s = state->s;
    uint64_t result = rotate_left(s[1] * 5, 7) * 9;
    uint64_t t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate_left(s[3], 45);
    return result;
}

uint64_t random_below(struct random_state *state, uint64_t bound) {
    uint64_t limit = UINT64_MAX - UINT64_MAX % bound;
    uint64_t value;
    do {
        value = random_u64(state);
    } while (value >= limit);
    return value % bound;
}

double random_unit(struct random_state *state) {
    return (double)(random_u64(state) >> 11) * 0x1.0p-53;
}

uint64_t random_hash(uint64_t a, uint64_t b) {
    uint64_t state = a;
    uint64_t mixed = splitmix64(&state) ^ b;
    return splitmix64(&mixed);
}
