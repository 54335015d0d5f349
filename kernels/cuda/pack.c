/* Packing for the cuda device: from rows as the file has them to the groups of packed.h. It moves bits and computes
 * nothing. Threads: any; pure. */
#include "kernels/cuda/packed.h"

#include "base/check.h"
#include "kernels/blocks.h"
#include "kernels/cuda/cuda_internal.h"

#include <string.h>

/* Where one row goes: the regions of its group, and which of the group's rows it is. */
struct row_place {
    enum tensor_type type;
    uint32_t row;
    uint8_t *codes, *scales, *supers;
};

/* The lane that holds columns 4t .. 4t+3 of the row, t = quarter; the row's quads of a block have i % 2 == row / 8. */
static uint32_t lane_of(const struct row_place *place, uint32_t quarter) {
    return place->row % 8 * 4 + quarter;
}

/* ---- float types: a quad is 4 values of 2 or 4 bytes ---- */

static void place_floats(const struct row_place *place, const uint8_t *in, uint32_t columns) {
    const uint32_t value_bytes = tensor_traits(place->type)->block_bytes, quad_bytes = 4 * value_bytes;
    const uint32_t upper = place->row / 8;
    for (uint32_t column = 0; column < columns; column += 4) {
        const uint32_t half = column / 16 % 2, lane = lane_of(place, column / 4 % 4);
        uint8_t *block = place->codes + (size_t)(column / 32) * (32 * 16 * value_bytes);
        uint8_t *quad = value_bytes == 4 ? block + ((half * 2 + upper) * 32 + lane) * 16
                                         : block + (half * 32 + lane) * 16 + upper * 8;
        const uint32_t left = columns - column;
        memcpy(quad, in + (size_t)column * value_bytes, left < 4 ? left * value_bytes : quad_bytes);
    }
}

/* ---- quantized types ---- */

/* The codes of block `block` (32 columns, counted over the row). */
static void place_codes(const struct row_place *place, uint32_t block, const uint8_t codes[BLOCK_COLUMNS]) {
    const enum tensor_type type = place->type;
    const uint32_t odd = block % 2;
    const uint8_t flip = type == TENSOR_Q8_0 ? 0x80 : type == TENSOR_Q4_0 ? 8 : type == TENSOR_Q6_K ? 32 : 0;
    uint8_t *unit = place->codes + (size_t)(block / 2) * (size_t)CUDA_CODE_BYTES(type);
    for (uint32_t column = 0; column < BLOCK_COLUMNS; column++) {
        const uint32_t quad = column / 16 * 2 + place->row / 8, lane = lane_of(place, column / 4 % 4), k = column % 4;
        const uint8_t code = codes[column] ^ flip;
        if (type == TENSOR_Q8_0) {
            unit[odd * 512 + lane * 16 + quad * 4 + k] = code;
            continue;
        }
        unit[lane * 16 + quad * 4 + k] |= (uint8_t)((code & 15) << 4 * odd);
        if (type == TENSOR_Q5_K) {
            unit[512 + lane * 4 + k] |= (uint8_t)((code >> 4 & 1) << (4 * odd + quad));
        } else if (type == TENSOR_Q6_K) {
            unit[512 + lane * 8 + odd * 4 + k] |= (uint8_t)((code >> 4 & 3) << 2 * quad);
        }
    }
}

/* The scales of one block of Q8_0, Q4_0 or Q4_1; `in` is the file's block. */
static void place_scales(const struct row_place *place, uint32_t block, const uint8_t *in) {
    const uint32_t g = place->row % 8, at = place->row / 8 * 4 + block % 2 * 2;
    uint8_t *unit = place->scales + (size_t)(block / 2) * (size_t)CUDA_SCALE_BYTES(place->type);
    if (place->type == TENSOR_Q4_1) {
        memcpy(unit + g * 16 + at, in, 2);
        memcpy(unit + g * 16 + 8 + at, in + 2, 2);
    } else {
        memcpy(unit + g * 8 + at, in, 2);
    }
}

/* The scales of one file block of 256 columns, number `super` of its row. */
static void place_k_scales(const struct row_place *place, uint32_t super, const uint8_t *in) {
    const uint32_t g = place->row % 8, upper = place->row / 8;
    for (uint32_t run = 0; run < 8; run++) {
        uint8_t *unit = place->scales + ((size_t)super * 4 + run / 2) * 64 + g * 8 + upper * 4;
        if (place->type == TENSOR_Q6_K) {
            memcpy(unit + run % 2 * 2, in + 192 + run * 2, 2);
        } else {
            block_read_k_scale(in + 4, run, unit + run % 2, unit + 2 + run % 2);
        }
    }
    if (place->type == TENSOR_Q6_K) {
        memcpy(place->supers + super * 32 + g * 4 + upper * 2, in + 208, 2);
    } else {
        memcpy(place->supers + super * 64 + g * 8 + upper * 4, in, 4);
    }
}

static void place_blocks(const struct row_place *place, const uint8_t *in, uint32_t columns) {
    const struct tensor_traits *traits = tensor_traits(place->type);
    const uint32_t runs = traits->block_elements / BLOCK_COLUMNS;
    for (uint32_t i = 0; i < columns / traits->block_elements; i++, in += traits->block_bytes) {
        for (uint32_t run = 0; run < runs; run++) {
            uint8_t codes[BLOCK_COLUMNS];
            block_read_codes(place->type, in, run, codes);
            place_codes(place, i * runs + run, codes);
        }
        if (runs == 1) {
            place_scales(place, i, in);
        } else {
            place_k_scales(place, i, in);
        }
    }
}

size_t cuda_packed_bytes(const struct device *device, enum tensor_type type, uint32_t rows, uint32_t columns) {
    (void)device;
    return (rows / CUDA_GROUP_ROWS + (rows % CUDA_GROUP_ROWS != 0)) * cuda_group_bytes(type, columns);
}

void cuda_pack(const struct device *device, enum tensor_type type, uint32_t rows, uint32_t columns, const void *source,
               void *packed) {
    const size_t row_bytes = tensor_row_bytes(type, columns), group_bytes = cuda_group_bytes(type, columns);
    const size_t units = cuda_units(columns);
    memset(packed, 0, cuda_packed_bytes(device, type, rows, columns));
    for (uint32_t row = 0; row < rows; row++) {
        uint8_t *group = (uint8_t *)packed + row / CUDA_GROUP_ROWS * group_bytes;
        const struct row_place place = {
            .type = type,
            .row = row % CUDA_GROUP_ROWS,
            .codes = group,
            .scales = group + units * (size_t)CUDA_CODE_BYTES(type),
            .supers = group + units * (size_t)(CUDA_CODE_BYTES(type) + CUDA_SCALE_BYTES(type)),
        };
        const uint8_t *in = (const uint8_t *)source + row * row_bytes;
        if (tensor_traits(type)->block_elements == 1) {
            place_floats(&place, in, columns);
        } else {
            place_blocks(&place, in, columns);
        }
    }
}
