/* The kernels of op_sample() on the cpu device: passes over a row, once for each instruction set, all to the same bits.
 *
 * sample_kernels.h spells them in plain C that compilers vectorise; sample_scalar.c, sample_avx2.c and sample_avx512.c
 * compile it three times. Threads: any; pure. */
#ifndef METRONOME_KERNELS_CPU_SAMPLE_H
#define METRONOME_KERNELS_CPU_SAMPLE_H

#include "kernels/cpu/cpu_internal.h"

#define SAMPLE_SLICE 1024 /* tokens whose mass is summed up by itself */
#define SAMPLE_GROUP 64   /* tokens of which the largest weight is found by itself */
#define SAMPLE_SLICES (SAMPLE_MOST_TOKENS / SAMPLE_SLICE)

struct sample_candidate {
    float weight;
    uint32_t token;
};

struct sample_kernels {
    /* The largest that is a number; -INFINITY if none is. */
    float (*largest)(const float *values, uint32_t count);
    /* weights (count), and slices: the mass of each SAMPLE_SLICE of them; returns all of it. */
    uint64_t (*weigh)(float *weights, uint64_t *slices, const float *logits, uint32_t count, float largest,
                      float inverse_temperature, float least);
    /* In order, the largest weight of each group of SAMPLE_GROUP tokens; returns how many there are. */
    uint32_t (*group)(struct sample_candidate *out, const float *weights, uint32_t count);
    /* In order, the tokens whose weight is at least `bound`, above 0; returns how many there are. `out` has room for
     * `count`. */
    uint32_t (*collect)(struct sample_candidate *out, const float *weights, uint32_t count, float bound);
};

extern const struct sample_kernels sample_kernels_scalar, sample_kernels_avx2, sample_kernels_avx512;

#endif
