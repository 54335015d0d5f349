/* Packing: from rows as the file has them to the groups of packed.h.
 *
 * Owns: where each code and scale goes. No arithmetic on values happens here: packing moves bits.
 * Threads: any; pure. */
#include "kernels/cpu/packed.h"

#include "base/check.h"
#include "kernels/blocks.h"
#include "kernels/cpu/cpu_internal.h"

#include <string.h>

/* One block of 32 columns of one row: codes as packed.h numbers them. */
typedef uint8_t block_codes[PACKED_BLOCK];

/* ---- placing ---- */

static void place_codes(enum tensor_type type, const block_codes codes, uint32_t row, uint8_t *out) {
    uint32_t quad[8], low[4] = {0}, fifth = 0, sixth[2] = {0};
    memcpy(quad, codes, sizeof quad);
    if (type == TENSOR_Q8_0) {
        for (int i = 0; i < 8; i++) {
            memcpy(out + 64 * i + 4 * row, &quad[i], 4);
        }
        return;
    }
    for (int i = 0; i < 8; i++) {
        low[i / 2] |= (quad[i] & 0x0f0f0f0fu) << i % 2 * 4;
        fifth |= (quad[i] >> 4 & 0x01010101u) << i;
        sixth[i / 4] |= (quad[i] >> 4 & 0x03030303u) << i % 4 * 2;
    }
    for (int j = 0; j < 4; j++) {
        memcpy(out + 64 * j + 4 * row, &low[j], 4);
    }
    if (type == TENSOR_Q5_K) {
        memcpy(out + 256 + 4 * row, &fifth, 4);
    } else if (type == TENSOR_Q6_K) {
        memcpy(out + 256 + 4 * row, &sixth[0], 4);
        memcpy(out + 320 + 4 * row, &sixth[1], 4);
    }
}

/* Places the scales of one file block, which makes one unit at `out`. */
static void place_scales(enum tensor_type type, const uint8_t *in, uint32_t row, uint8_t *out) {
    switch (type) {
    case TENSOR_Q4_K:
    case TENSOR_Q5_K:
        memcpy(out + 2 * row, in, 2);
        memcpy(out + 32 + 2 * row, in + 2, 2);
        for (uint32_t block = 0; block < 8; block++) {
            block_read_k_scale(in + 4, block, out + 64 + 16 * block + row, out + 192 + 16 * block + row);
        }
        break;
    case TENSOR_Q6_K:
        memcpy(out + 2 * row, in + 208, 2);
        for (uint32_t half = 0; half < 16; half++) {
            out[32 + 16 * half + row] = in[192 + half];
        }
        break;
    case TENSOR_Q4_1:
        memcpy(out + 2 * row, in, 2);
        memcpy(out + 32 + 2 * row, in + 2, 2);
        break;
    default:
        memcpy(out + 2 * row, in, 2);
    }
}

static void pack_quantized_row(enum tensor_type type, uint32_t columns, const uint8_t *in, uint32_t row,
                               uint8_t *group) {
    const struct tensor_traits *traits = tensor_traits(type);
    for (uint32_t i = 0; i < columns / traits->block_elements; i++) {
        uint8_t *codes_out = group + packed_scale_bytes(type);
        for (uint32_t block = 0; block < packed_unit_blocks(type); block++) {
            block_codes codes;
            block_read_codes(type, in, block, codes);
            place_codes(type, codes, row, codes_out);
            codes_out += packed_code_bytes(type);
        }
        place_scales(type, in, row, group);
        group += packed_unit_bytes(type);
        in += traits->block_bytes;
    }
}

/* A few columns of all rows at a time, so that what is written stays in the cache. */
#define FLOAT_COLUMNS 64

/* Up to 16 rows of values of `value_bytes`, 2 or 4. */
static void pack_float_group(uint32_t value_bytes, uint32_t columns, uint32_t rows, const uint8_t *in, size_t row_bytes,
                             uint8_t *group) {
    for (uint32_t first = 0; first < columns; first += FLOAT_COLUMNS) {
        const uint32_t end = columns - first < FLOAT_COLUMNS ? columns : first + FLOAT_COLUMNS;
        for (uint32_t row = 0; row < rows; row++) {
            const uint8_t *from = in + row * row_bytes;
            if (value_bytes == 4) {
                for (size_t column = first; column < end; column++) {
                    memcpy(group + (column * PACKED_ROWS + row) * 4, from + column * 4, 4);
                }
            } else {
                for (size_t column = first; column < end; column++) {
                    memcpy(group + (column * PACKED_ROWS + row) * 2, from + column * 2, 2);
                }
            }
        }
    }
}

size_t cpu_packed_bytes(const struct device *device, enum tensor_type type, uint32_t rows, uint32_t columns) {
    (void)device;
    return packed_groups(rows) * packed_group_bytes(type, columns);
}

void cpu_pack(const struct device *device, enum tensor_type type, uint32_t rows, uint32_t columns, const void *source,
              void *packed) {
    (void)device;
    const struct tensor_traits *traits = tensor_traits(type);
    CHECK(columns % traits->block_elements == 0);
    const size_t row_bytes = tensor_row_bytes(type, columns), group_bytes = packed_group_bytes(type, columns);
    memset(packed, 0, packed_groups(rows) * group_bytes);
    for (uint32_t first = 0; first < rows; first += PACKED_ROWS) {
        const uint32_t in_group = rows - first < PACKED_ROWS ? rows - first : PACKED_ROWS;
        const uint8_t *in = (const uint8_t *)source + first * row_bytes;
        uint8_t *group = (uint8_t *)packed + first / PACKED_ROWS * group_bytes;
        if (!packed_is_quantized(type)) {
            pack_float_group(traits->block_bytes, columns, in_group, in, row_bytes, group);
            continue;
        }
        for (uint32_t row = 0; row < in_group; row++) {
            pack_quantized_row(type, columns, in + row * row_bytes, row, group);
        }
    }
}
