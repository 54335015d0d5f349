/* How a matrix lies in the cuda device's memory once device_pack() has packed it.
 *
 * Rows go in groups of 16, zero-padded: the height of a tensor core's product. A group is one contiguous run of three
 * regions, padded to 64 bytes: codes, scales, and the super-scales that Q4_K, Q5_K and Q6_K have. Columns go in units
 * of 64, zero-padded, of two blocks of 32; a region has one run of fixed length for each unit (super-scales: for each
 * 4 units). So a warp reads a unit with one or a few loads of 16 bytes a lane, side by side, and every load is already
 * in the registers where the tensor cores want it: no shuffle, no shared memory.
 *
 * Lane l of a warp has g = l / 4 and t = l % 4. Of each block of 32 columns it holds four QUADS, which are 4 weights
 * of one row, side by side:
 *
 *   quad i (0 .. 3) is row g + 8 * (i % 2), columns 16 * (i / 2) + 4t .. + 3.
 *
 * That is the A operand of mma.m16n8k32 (8 bits). For 16-bit types, quads 0 and 1 are the A operand of one
 * mma.m16n8k16 and quads 2 and 3 that of another, whose k slots 2t, 2t+1, 2t+8 and 2t+9 are columns 4t .. 4t+3: a sum
 * of products does not mind the order as long as the activations are laid out by the same rule (matmul_stage.cu).
 *
 * Codes of a unit; `[lane]` stands for 32 runs, lane after lane:
 *   F32          [2 blocks][4 quads][lane] 4 floats
 *   F16, BF16    [2 blocks][2 halves][lane] quad 2h, then quad 2h+1
 *   Q8_0         [2 blocks][lane] 4 quads of int8
 *   4, 5, 6 bits [lane] 4 words, word i with quad i of block 0 in the low nibbles and of block 1 in the high ones; then
 *   Q5_K         [lane] 1 word: bit r of byte k is bit 4 of the code at quad r % 4 of block r / 4, column k
 *   Q6_K         [lane] 2 words, one a block: bits 2i, 2i+1 of byte k are bits 4 and 5 of quad i, column k
 * Q4_0 and Q6_K have two's complement codes (q - 8, q - 32), the other types unsigned ones.
 *
 * Scales of a unit; rows g and g + 8 lie side by side:
 *   Q8_0, Q4_0   [8 g][2 rows][2 blocks] f16 d
 *   Q4_1         [8 g] {[2 rows][2 blocks] f16 d, then the same of m}
 *   Q4_K, Q5_K   [8 g][2 rows] {2 blocks' uint8 sc, 2 blocks' uint8 mn}
 *   Q6_K         [8 g][2 rows][4 halves of a block] int8 sc
 * Super-scales of 4 units:
 *   Q4_K, Q5_K   [8 g][2 rows] {f16 d, f16 dmin}
 *   Q6_K         [8 g][2 rows] f16 d
 *
 * Sizes are macros because C, C++ and device code read them, as constants. Threads: any; pure. */
#ifndef METRONOME_KERNELS_CUDA_PACKED_H
#define METRONOME_KERNELS_CUDA_PACKED_H

#include "kernels/tensor.h"

#include <stddef.h>
#include <stdint.h>

#define CUDA_GROUP_ROWS 16
#define CUDA_UNIT_COLUMNS 64
#define CUDA_SUPER_UNITS 4

#define CUDA_CODE_BYTES(type)                               \
    ((type) == TENSOR_F32                            ? 4096 \
     : (type) == TENSOR_F16 || (type) == TENSOR_BF16 ? 2048 \
     : (type) == TENSOR_Q8_0                         ? 1024 \
     : (type) == TENSOR_Q5_K                         ? 640  \
     : (type) == TENSOR_Q6_K                         ? 768  \
                                                     : 512)
#define CUDA_SCALE_BYTES(type) ((type) < TENSOR_Q8_0 ? 0 : (type) == TENSOR_Q4_1 ? 128 : 64)
#define CUDA_SUPER_BYTES(type) ((type) == TENSOR_Q4_K || (type) == TENSOR_Q5_K ? 64 : (type) == TENSOR_Q6_K ? 32 : 0)

/* Units of a row, and bytes of a group, of a matrix with so many columns. */
static inline uint32_t cuda_units(uint32_t columns) {
    return columns / CUDA_UNIT_COLUMNS + (columns % CUDA_UNIT_COLUMNS != 0);
}
static inline size_t cuda_group_bytes(enum tensor_type type, uint32_t columns) {
    const size_t units = cuda_units(columns), supers = (units + CUDA_SUPER_UNITS - 1) / CUDA_SUPER_UNITS;
    const size_t bytes =
        units * (size_t)(CUDA_CODE_BYTES(type) + CUDA_SCALE_BYTES(type)) + supers * (size_t)CUDA_SUPER_BYTES(type);
    return (bytes + 63) & ~(size_t)63;
}

#endif
