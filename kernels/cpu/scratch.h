/* The state of the cpu device's heavy ops: which kernels, and the scratch that they work in.
 *
 * Owns: memory sized once for the device's limits; ops run one at a time, so there is one of each. For the files
 * pack.c, matmul.c, embed.c, attention.c, sample.c and scratch.c only. */
#ifndef METRONOME_KERNELS_CPU_SCRATCH_H
#define METRONOME_KERNELS_CPU_SCRATCH_H

#include "kernels/cpu/attention.h"
#include "kernels/cpu/cpu_internal.h"
#include "kernels/cpu/matmul.h"

struct cpu_math {
    const struct matmul_kernels *matmul;
    const struct attention_kernels *attention;

    struct activation_block *activations; /* the quantized input of one matmul, tile after tile */
    size_t activation_capacity;

    uint8_t *workers; /* for each worker the scratch of one attention tile, worker_bytes apart */
    size_t worker_bytes;
    uint32_t head_dim; /* the longest head that it holds */

    float *partials; /* results of single spans, attention_state_floats() each, when few rows share many threads */
    size_t partial_capacity;
    uint32_t *tile_starts; /* (sequences + 1): the index of each segment's first tile */
    uint32_t sequences;

    uint8_t *sampling; /* for each worker the scratch of one row, sampling_bytes apart */
    size_t sampling_bytes;
    uint32_t vocabulary; /* of the longest row that it holds */
};

#endif
