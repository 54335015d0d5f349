/* Reading GGML's quantized blocks: the layouts are those of ggml-common.h in ggml-org/ggml. */
#include "kernels/blocks.h"

#include "base/check.h"

static void read_nibbles(const uint8_t *in, uint8_t codes[BLOCK_COLUMNS]) { /* Q4_0, Q4_1: `in` is past the scales */
    for (int i = 0; i < 16; i++) {
        codes[i] = in[i] & 15;
        codes[i + 16] = in[i] >> 4;
    }
}

static void read_q8_0(const uint8_t *in, uint8_t codes[BLOCK_COLUMNS]) {
    for (int i = 0; i < 32; i++) {
        codes[i] = in[2 + i] ^ 0x80;
    }
}

static void read_q4_k(const uint8_t *in, uint32_t block, uint8_t codes[BLOCK_COLUMNS]) {
    const uint8_t *low = in + 16 + block / 2 * 32;
    for (int i = 0; i < 32; i++) {
        codes[i] = low[i] >> block % 2 * 4 & 15;
    }
}

static void read_q5_k(const uint8_t *in, uint32_t block, uint8_t codes[BLOCK_COLUMNS]) {
    const uint8_t *high = in + 16, *low = in + 48 + block / 2 * 32;
    for (int i = 0; i < 32; i++) {
        codes[i] = (uint8_t)((low[i] >> block % 2 * 4 & 15) | (high[i] >> block & 1) << 4);
    }
}

static void read_q6_k(const uint8_t *in, uint32_t block, uint8_t codes[BLOCK_COLUMNS]) {
    const uint32_t half = block / 4, quarter = block % 4;
    const uint8_t *low = in + half * 64 + quarter % 2 * 32, *high = in + 128 + half * 32;
    for (int i = 0; i < 32; i++) {
        codes[i] = (uint8_t)((low[i] >> quarter / 2 * 4 & 15) | (high[i] >> 2 * quarter & 3) << 4);
    }
}

void block_read_codes(enum tensor_type type, const uint8_t *in, uint32_t block, uint8_t codes[BLOCK_COLUMNS]) {
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

void block_read_k_scale(const uint8_t *in, uint32_t block, uint8_t *scale, uint8_t *minimum) {
    if (block < 4) {
        *scale = in[block] & 63;
        *minimum = in[block + 4] & 63;
    } else {
        *scale = (uint8_t)((in[block + 4] & 15) | (in[block - 4] >> 6) << 4);
        *minimum = (uint8_t)((in[block + 4] >> 4) | (in[block] >> 6) << 4);
    }
}
