/* Packing: from rows as the file has them to the groups of packed.h.
 *
 * Owns: reading GGML's blocks code by code, and placing the codes. No arithmetic on values happens here: packing
 * moves bits. Threads: any; pure. */
#include "kernels/cpu/packed.h"

#include "base/check.h"
#include "kernels/cpu/cpu_internal.h"

#include <string.h>

/* One block of 32 columns of one row: codes as packed.h numbers them. */
typedef uint8_t block_codes[PACKED_BLOCK];

/* ---- reading the file's blocks; `in` is the whole file block, `block` counts 32 columns inside it ---- */

static void read_nibbles(const uint8_t *in, block_codes codes) { /* Q4_0, Q4_1: `in` is past the scales */
    for (int i = 0; i < 16; i++) {
        codes[i] = in[i] & 15;
        codes[i + 16] = in[i] >> 4;
    }
}

static void read_q8_0(const uint8_t *in, block_codes codes) {
    for (int i = 0; i < 32; i++) {
        codes[i] = in[2 + i] ^ 0x80;
    }
}

static void read_q4_k(const uint8_t *in, uint32_t block, block_codes codes) {
    const uint8_t *low = in + 16 + block / 2 * 32;
    for (int i = 0; i < 32; i++) {
        codes[i] = low[i] >> block % 2 * 4 & 15;
    }
}

static void read_q5_k(const uint8_t *in, uint32_t block, block_codes codes) {
    const uint8_t *high = in + 16, *low = in + 48 + block / 2 * 32;
    for (int i = 0; i < 32; i++) {
        codes[i] = (uint8_t)((low[i] >> block % 2 * 4 & 15) | (high[i] >> block & 1) << 4);
    }
}

static void read_q6_k(const uint8_t *in, uint32_t block, block_codes codes) {
    const uint32_t half = block / 4, quarter = block % 4;
    const uint8_t *low = in + half * 64 + quarter % 2 * 32, *high = in + 128 + half * 32;
    for (int i = 0; i < 32; i++) {
        codes[i] = (uint8_t)((low[i] >> quarter / 2 * 4 & 15) | (high[i] >> 2 * quarter & 3) << 4);
    }
}

static void read_codes(enum tensor_type type, const uint8_t *in, uint32_t block, block_codes codes) {
    switch (type) {
    case TENSOR_Q4_0:
        return read_nibbles(in + 2, codes);
    case TENSOR_Q4_1:
        return read_nibbles(in + 4, codes);
    case TENSOR_Q8_0:
        return read_q8_0(in, codes);
    case TENSOR_Q4_K:
        return read_q4_k(in, block, codes);
    case TENSOR_Q5_K:
        return read_q5_k(in, block, codes);
    default:
        CHECK(type == TENSOR_Q6_K);
        return read_q6_k(in, block, codes);
    }
}

/* The 6-bit scale and minimum of sub-block `block`, as Q4_K and Q5_K fold 8 of each into 12 bytes. */
static void read_k_scale(const uint8_t *in, uint32_t block, uint8_t *scale, uint8_t *minimum) {
    if (block < 4) {
        *scale = in[block] & 63;
        *minimum = in[block + 4] & 63;
    } else {
        *scale = (uint8_t)((in[block + 4] & 15) | (in[block - 4] >> 6) << 4);
        *minimum = (uint8_t)((in[block + 4] >> 4) | (in[block] >> 6) << 4);
    }
}

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
            read_k_scale(in + 4, block, out + 64 + 16 * block + row, out + 192 + 16 * block + row);
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
            read_codes(type, in, block, codes);
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
