#include "models/quantize.h"

#include "base/check.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { BLOCK = 32, HALF = BLOCK / 2 };

static uint8_t *put_half(uint8_t *at, float value) {
    const uint16_t half = tensor_f32_to_f16(value);
    memcpy(at, &half, sizeof half);
    return at + sizeof half;
}

static bool all_finite(const float *values) {
    for (int i = 0; i < BLOCK; i++) {
        if (!isfinite(values[i])) {
            return false;
        }
    }
    return true;
}

/* The largest magnitude becomes 127. */
static void quantize_q8_0(const float *values, uint8_t *block) {
    float most = 0;
    for (int i = 0; i < BLOCK; i++) {
        most = fmaxf(most, fabsf(values[i]));
    }
    const float d = most / 127, inverse = d > 0 ? 1 / d : 0;
    uint8_t *codes = put_half(block, d);
    for (int i = 0; i < BLOCK; i++) {
        codes[i] = (uint8_t)(int8_t)roundf(values[i] * inverse);
    }
}

/* The smallest value becomes 0 and the largest 15. */
static void quantize_q4_1(const float *values, uint8_t *block) {
    float least = values[0], most = values[0];
    for (int i = 1; i < BLOCK; i++) {
        least = fminf(least, values[i]);
        most = fmaxf(most, values[i]);
    }
    const float d = (most - least) / 15, inverse = d > 0 ? 1 / d : 0;
    uint8_t *codes = put_half(put_half(block, d), least);
    for (int i = 0; i < HALF; i++) {
        const int low = (int)((values[i] - least) * inverse + 0.5f);
        const int high = (int)((values[i + HALF] - least) * inverse + 0.5f);
        codes[i] = (uint8_t)((low < 15 ? low : 15) | (high < 15 ? high : 15) << 4);
    }
}

void quantize_row(enum tensor_type type, const float *values, void *row, size_t columns) {
    CHECK((type == TENSOR_Q8_0 || type == TENSOR_Q4_1) && columns % BLOCK == 0);
    uint8_t *block = row;
    for (size_t at = 0; at < columns; at += BLOCK) {
        if (!all_finite(values + at)) {
            memset(block, 0, tensor_traits(type)->block_bytes);
            put_half(block, NAN);
        } else if (type == TENSOR_Q8_0) {
            quantize_q8_0(values + at, block);
        } else {
            quantize_q4_1(values + at, block);
        }
        block += tensor_traits(type)->block_bytes;
    }
}

/* The scale stays; codes of five bits that count from 16 become bytes that count from 0. */
void quantize_widen_q5_0(const void *row, void *out, size_t columns) {
    CHECK(columns % BLOCK == 0);
    const uint8_t *from = row;
    uint8_t *to = out;
    for (size_t at = 0; at < columns; at += BLOCK) {
        memcpy(to, from, sizeof(uint16_t));
        for (int i = 0; i < HALF; i++) {
            const int low = (from[6 + i] & 15) | (from[2 + i / 8] >> i % 8 & 1) << 4;
            const int high = from[6 + i] >> 4 | (from[4 + i / 8] >> i % 8 & 1) << 4;
            to[2 + i] = (uint8_t)(int8_t)(low - 16);
            to[2 + i + HALF] = (uint8_t)(int8_t)(high - 16);
        }
        from += tensor_traits(TENSOR_Q5_0)->block_bytes;
        to += tensor_traits(TENSOR_Q8_0)->block_bytes;
    }
}
