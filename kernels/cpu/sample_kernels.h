/* The passes of op_sample() over a row. Included by sample_scalar.c, sample_avx2.c and sample_avx512.c, which define
 * SAMPLE_KERNELS, the name of the table that comes out.
 *
 * Sums are of whole numbers below 2^53 and so exact in any order: lanes are for speed alone. Threads: any; pure. */
#ifndef METRONOME_KERNELS_CPU_SAMPLE_KERNELS_H
#define METRONOME_KERNELS_CPU_SAMPLE_KERNELS_H

#include "kernels/cpu/sample.h"
#include "kernels/sample_math.h"

#define LANES 32

static float largest(const float *values, uint32_t count) {
    float lane[LANES], most = -INFINITY;
    for (uint32_t j = 0; j < LANES; j++) {
        lane[j] = -INFINITY;
    }
    uint32_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        for (uint32_t j = 0; j < LANES; j++) {
            lane[j] = values[i + j] > lane[j] ? values[i + j] : lane[j];
        }
    }
    for (; i < count; i++) {
        most = values[i] > most ? values[i] : most;
    }
    for (uint32_t j = 0; j < LANES; j++) {
        most = lane[j] > most ? lane[j] : most;
    }
    return most;
}

static uint64_t sum(const float *weights, uint32_t count) {
    double lane[LANES] = {0}, total = 0;
    uint32_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        for (uint32_t j = 0; j < LANES; j++) {
            lane[j] += (double)weights[i + j];
        }
    }
    for (; i < count; i++) {
        total += (double)weights[i];
    }
    for (uint32_t j = 0; j < LANES; j++) {
        total += lane[j];
    }
    return (uint64_t)total;
}

static uint64_t weigh(float *restrict weights, uint64_t *slices, const float *restrict logits, uint32_t count,
                      float most, float inverse_temperature, float least) {
    uint64_t total = 0;
    for (uint32_t slice = 0, begin = 0; begin < count; slice++, begin += SAMPLE_SLICE) {
        const uint32_t end = count - begin < SAMPLE_SLICE ? count : begin + SAMPLE_SLICE;
        for (uint32_t i = begin; i < end; i++) {
            weights[i] = sample_weight(logits[i], most, inverse_temperature, least);
        }
        slices[slice] = sum(weights + begin, end - begin);
        total += slices[slice];
    }
    return total;
}

static uint32_t group(struct sample_candidate *out, const float *weights, uint32_t count) {
    uint32_t groups = 0;
    for (uint32_t begin = 0; begin < count; begin += SAMPLE_GROUP) {
        const uint32_t size = count - begin < SAMPLE_GROUP ? count - begin : SAMPLE_GROUP;
        out[groups++] = (struct sample_candidate){largest(weights + begin, size), begin};
    }
    return groups;
}

static uint32_t collect(struct sample_candidate *out, const float *weights, uint32_t count, float bound) {
    uint32_t found = 0;
    for (uint32_t begin = 0; begin < count; begin += LANES) {
        const uint32_t end = count - begin < LANES ? count : begin + LANES;
        if (largest(weights + begin, end - begin) < bound) {
            continue;
        }
        for (uint32_t i = begin; i < end; i++) {
            out[found] = (struct sample_candidate){weights[i], i};
            found += weights[i] >= bound;
        }
    }
    return found;
}

const struct sample_kernels SAMPLE_KERNELS = {
    .largest = largest,
    .weigh = weigh,
    .group = group,
    .collect = collect,
};

#endif
