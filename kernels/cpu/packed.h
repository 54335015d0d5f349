/* How a matrix lies in the cpu device's memory once device_pack() has packed it.
 *
 * Rows go in groups of 16, zero-padded, so that a SIMD lane is an output row and no kernel ever sums across lanes.
 * A group is one contiguous run, padded to 64 bytes, that kernels read strictly onwards: two streams, codes here and
 * scales there, would cost the memory's prefetchers most of their speed.
 *
 *   F32, F16, BF16   for each column its 16 values.
 *   quantized        units of 1 block of 32 columns (Q8_0, Q4_0, Q4_1) or 8 (Q4_K, Q5_K, Q6_K), each its scales and
 *                    then its blocks' codes, 64 bytes at a time: bytes 4r .. 4r+3 are row r's.
 *
 * Codes are unsigned. Call a row's columns 4i .. 4i+3 of a block its quad i (0 .. 7), 4 bytes in column order:
 *
 *   Q8_0             quads 0 .. 7, 64 bytes each; a code is q + 128.
 *   4, 5 and 6 bits  4 x 64 bytes, each quad 2j in the low nibbles and quad 2j+1 in the high ones; then
 *   Q5_K             64 bytes with bit 4 of quad i in bit i of each byte;
 *   Q6_K             2 x 64 bytes with bits 4 and 5 of quad 4h+f in bits 2f, 2f+1 of the h-th; a code is q.
 *
 * A unit's scales, each for 16 rows: Q4_0, Q8_0 f16 d; Q4_1 f16 d, f16 m; Q4_K, Q5_K f16 d, f16 dmin, then 8 x uint8
 * sc and 8 x uint8 mn; Q6_K f16 d, then 16 x int8 sc (one a half block).
 *
 * Threads: any; pure. */
#ifndef METRONOME_KERNELS_CPU_PACKED_H
#define METRONOME_KERNELS_CPU_PACKED_H

#include "kernels/tensor.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PACKED_ROWS 16  /* rows of a group */
#define PACKED_BLOCK 32 /* columns of a block: of weights, of activations, of a dequantized tile */

/* What follows from the type alone; constant where the type is, so that kernels specialise. */
static inline bool packed_is_quantized(enum tensor_type type) {
    return type >= TENSOR_Q8_0;
}
static inline bool packed_has_minimum(enum tensor_type type) {
    return type == TENSOR_Q4_1 || type == TENSOR_Q4_K || type == TENSOR_Q5_K;
}

/* w is scale * (code - (1 << shift)) + minimum; -1: there is nothing to take off. */
static inline int packed_offset_shift(enum tensor_type type) {
    return type == TENSOR_Q4_0 ? 3 : type == TENSOR_Q6_K ? 5 : type == TENSOR_Q8_0 ? 7 : -1;
}

/* Bytes of one block's codes of a group; of one column of a float type. */
static inline size_t packed_code_bytes(enum tensor_type type) {
    switch (type) {
    case TENSOR_F32:
        return PACKED_ROWS * 4;
    case TENSOR_F16:
    case TENSOR_BF16:
        return PACKED_ROWS * 2;
    case TENSOR_Q8_0:
        return PACKED_ROWS * 32;
    case TENSOR_Q5_K:
        return PACKED_ROWS * 20;
    case TENSOR_Q6_K:
        return PACKED_ROWS * 24;
    default:
        return PACKED_ROWS * 16;
    }
}

/* Blocks of a unit, and bytes of its scales. */
static inline uint32_t packed_unit_blocks(enum tensor_type type) {
    return type == TENSOR_Q4_K || type == TENSOR_Q5_K || type == TENSOR_Q6_K ? 8 : 1;
}
static inline size_t packed_scale_bytes(enum tensor_type type) {
    switch (type) {
    case TENSOR_F32:
    case TENSOR_F16:
    case TENSOR_BF16:
        return 0;
    case TENSOR_Q4_1:
        return PACKED_ROWS * 4;
    case TENSOR_Q4_K:
    case TENSOR_Q5_K:
        return PACKED_ROWS * 20;
    case TENSOR_Q6_K:
        return PACKED_ROWS * 18;
    default:
        return PACKED_ROWS * 2;
    }
}
static inline size_t packed_unit_bytes(enum tensor_type type) {
    return packed_scale_bytes(type) + packed_unit_blocks(type) * packed_code_bytes(type);
}
static inline size_t packed_group_bytes(enum tensor_type type, uint32_t columns) {
    const size_t bytes = packed_is_quantized(type)
                             ? columns / PACKED_BLOCK / packed_unit_blocks(type) * packed_unit_bytes(type)
                             : columns * packed_code_bytes(type);
    return (bytes + 63) & ~(size_t)63;
}
static inline uint32_t packed_groups(uint32_t rows) {
    return rows / PACKED_ROWS + (rows % PACKED_ROWS != 0);
}

#endif
