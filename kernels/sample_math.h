/* The arithmetic of sampling, spelled once for the reference, the cpu device and kernels: every operation is rounded by
 * itself (the Makefile forbids compilers to fuse them), so all of them get the same bits.
 *
 * For kernels/ only. Threads: any; pure. */
#ifndef METRONOME_KERNELS_SAMPLE_MATH_H
#define METRONOME_KERNELS_SAMPLE_MATH_H

#include "kernels/sample.h"

#include <math.h>
#include <string.h>

#ifdef __CUDACC__
#define SAMPLE_MATH __host__ __device__ static inline
#else
#define SAMPLE_MATH static inline
#endif

#define SAMPLE_ONE 0x1.0p34f /* the largest logit's weight */

SAMPLE_MATH uint32_t sample_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

SAMPLE_MATH float sample_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* A token's weight: a whole number up to SAMPLE_ONE, 0 where it is less than `least`; NaN and -INFINITY have none.
 * exp() to about 1e-7 by Cody and Waite's reduction and a polynomial of degree 6, in a form that compilers vectorise.
 * A float of at most 2^34 that is rounded to a whole number is one exactly. */
SAMPLE_MATH float sample_weight(float logit, float largest, float inverse_temperature, float least) {
    /* exp(-32) is nothing. Not a constant, for which compilers would make a way of its own that is no vector's. */
    const float lowest = -32.0f / inverse_temperature;
    float below = logit - largest;
    below = below > lowest ? below : lowest;
    const float x = below * inverse_temperature;
    const int32_t power = (int32_t)(x * 1.44269504f - 0.5f); /* truncated after that is rounded to nearest */
    float r = x - (float)power * 0.693359375f;
    r -= (float)power * -2.12194440e-4f;
    float p = 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const float y = p * sample_of_bits((uint32_t)(power + 34 + 127) << 23);
    const float most = y < 0x1.0p23f ? 0x1.0p23f : 0.0f; /* floats above that are whole */
    const float whole = (y + most) - most;
    return whole >= least ? whole : 0.0f;
}

/* A logit after bias and penalties. */
SAMPLE_MATH float sample_change(float logit, const struct sample_change *change, const struct sample_row *row) {
    logit += change->bias;
    if (change->count & SAMPLE_SEEN) {
        logit = logit > 0 ? logit / row->repetition : logit * row->repetition;
    }
    const uint32_t times = change->count & ~SAMPLE_SEEN;
    return logit - (row->frequency * (float)times + (times > 0 ? row->presence : 0.0f));
}

/* floor(a * b / 2^64) */
SAMPLE_MATH uint64_t sample_share(uint64_t a, uint64_t b) {
    const uint64_t low = 0xffffffffu, a1 = a >> 32, a0 = a & low, b1 = b >> 32, b0 = b & low;
    const uint64_t middle = a1 * b0 + (a0 * b0 >> 32), cross = a0 * b1 + (middle & low);
    return a1 * b1 + (middle >> 32) + (cross >> 32);
}

/* The mass that top_p wants of a total: the first token is always wanted. */
SAMPLE_MATH uint64_t sample_goal(uint64_t top_p, uint64_t total) {
    const uint64_t goal = sample_share(top_p, total);
    return goal > 0 ? goal : 1;
}

/* ---- where top_k and top_p cut ----
 * Kept are the tokens of more weight than `weight`, and of those with this very weight the first `ties`. */
struct sample_cut {
    float weight;
    uint32_t ties;
};

/* A weight that is not 0 in three digits, the first of which follows its logarithm: 32 buckets for each power of 2. */
#define SAMPLE_BUCKETS (34 * 32 + 1)
#define SAMPLE_LEVELS 3
SAMPLE_MATH uint32_t sample_key(float weight) {
    return sample_bits(weight) - 0x3f800000u; /* less that of 1 */
}
SAMPLE_MATH float sample_weight_of(uint32_t key) {
    return sample_of_bits(key + 0x3f800000u);
}
/* The bits of a key below the digit of `level`. */
SAMPLE_MATH uint32_t sample_below(int level) {
    return level == 0 ? 18 : level == 1 ? 9 : 0;
}
/* Whether the digits of a key above `level` are those of `path`. */
SAMPLE_MATH bool sample_on_path(uint32_t key, uint32_t path, int level) {
    return level == 0 || key >> sample_below(level - 1) == path >> sample_below(level - 1);
}
SAMPLE_MATH uint32_t sample_digit(uint32_t key, int level) {
    return level == 0 ? key >> 18 : key >> sample_below(level) & 511;
}

/* Of tokens with this one weight as many as it takes to have `most` tokens or the mass `goal`, where those before them
 * are `count` and `mass`. */
SAMPLE_MATH uint32_t sample_ties(float weight, uint32_t most, uint64_t goal, uint32_t count, uint64_t mass) {
    const uint64_t one = (uint64_t)weight, by_mass = (goal - mass - 1) / one + 1;
    return by_mass < most - count ? (uint32_t)by_mass : most - count;
}

#endif
