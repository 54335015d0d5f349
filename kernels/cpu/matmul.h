/* The matmul and embedding kernels of the cpu device: what each instruction set provides, and the quantized
 * activations that they read. For kernels/cpu/ only. Threads: any; the kernels are pure.
 *
 * THE ARITHMETIC. One output is one chain of fused multiply-adds in the order of the columns, begun at 0, the same in
 * every instruction set and for every number of rows.
 *
 *   f32    for each column:             sum = fma(w, x, sum)
 *   int8   for each block of 32 (Q6_K: for each half of one):
 *                                       sum = fma((float)(dot - offset * q_sum), scale * x_scale, sum)
 *          and then for types with a minimum:
 *                                       sum = fma(minimum, x_scale * (float)q_sum, sum)
 *          where dot is the exact integer sum of code * q, and a block of activations x is quantized to
 *          x_scale = max|x| / 127, q = round_to_even(x * (127 / max|x|)), q_sum = the sum of its q.
 *          A block whose max|x| is below 2^-100 counts as zeros; one that holds a NaN or an infinity gives NaN.
 *
 * Then: sum + bias if there is one, and out + that if the part accumulates. A weight w is scale * (code - offset) +
 * minimum, whose only rounding is the last; scale and minimum are the products of the file's own numbers, exact in
 * f32. */
#ifndef METRONOME_KERNELS_CPU_MATMUL_H
#define METRONOME_KERNELS_CPU_MATMUL_H

#include "kernels/cpu/packed.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Rows of activations that are quantized together and lie side by side. */
#define MATMUL_TILE 8

/* One block of 32 columns of a tile's rows. A tile is an array of columns / 32 of them. */
struct activation_block {
    _Alignas(64) int8_t q[MATMUL_TILE][PACKED_BLOCK];
    float scale[MATMUL_TILE];
    float scaled_sum[MATMUL_TILE]; /* scale * (float)(sum of the block's q) */
    int32_t sum[2][MATMUL_TILE];   /* of q's two halves */
};

/* A group of 16 output rows times a run of activation rows. */
struct matmul_job {
    enum tensor_type type;
    uint32_t columns;
    const uint8_t *group;                /* packed */
    const struct activation_block *tile; /* int8: the first row's tile, of which it is the first */
    const float *x;                      /* f32: (rows, columns) */
    size_t x_stride;
    uint32_t rows;
    float *out; /* (rows, outputs) */
    size_t out_stride;
    uint32_t outputs; /* 1 .. 16: fewer in a matrix's last group */
    const float *bias;
    bool accumulate;
};

struct matmul_kernels {
    /* Quantizes `rows` <= MATMUL_TILE rows of x into a tile; the next, up to a power of 2, become zeros. */
    void (*quantize)(struct activation_block *tile, const float *x, size_t x_stride, uint32_t rows, uint32_t columns);
    void (*multiply_int8)(const struct matmul_job *job); /* quantized types */
    void (*multiply_f32)(const struct matmul_job *job);  /* all types */
    /* out (columns) = row `lane` of a group. */
    void (*dequantize_row)(enum tensor_type type, uint32_t columns, const uint8_t *group, uint32_t lane, float *out);
};

extern const struct matmul_kernels matmul_scalar, matmul_avx2, matmul_avx512;

#endif
