/* Tensor types: their sizes, half precision, and the scalar dequantizers that everything else is tested against.
 *
 * The layouts are those of ggml-common.h in ggml-org/ggml. Files are read in place, so nothing here is assumed to be
 * aligned, and halves are little-endian as GGUF has them. Threads: any; pure. */
#include "kernels/tensor.h"

#include "base/check.h"

#include <string.h>

static const struct tensor_traits traits[TENSOR_FILE_TYPES] = {
    [TENSOR_F32] = {"F32", 1, 4},       [TENSOR_F16] = {"F16", 1, 2},       [TENSOR_BF16] = {"BF16", 1, 2},
    [TENSOR_Q8_0] = {"Q8_0", 32, 34},   [TENSOR_Q4_0] = {"Q4_0", 32, 18},   [TENSOR_Q4_1] = {"Q4_1", 32, 20},
    [TENSOR_Q4_K] = {"Q4_K", 256, 144}, [TENSOR_Q5_K] = {"Q5_K", 256, 176}, [TENSOR_Q6_K] = {"Q6_K", 256, 210},
    [TENSOR_Q5_0] = {"Q5_0", 32, 22},
};

const struct tensor_traits *tensor_traits(enum tensor_type type) {
    CHECK((unsigned)type < TENSOR_FILE_TYPES);
    return &traits[type];
}

size_t tensor_row_bytes(enum tensor_type type, size_t columns) {
    const struct tensor_traits *t = tensor_traits(type);
    CHECK(columns % t->block_elements == 0);
    return columns / t->block_elements * t->block_bytes;
}

static float float_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t bits_of_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* IEEE 754 binary16: 1 sign bit, 5 of exponent with bias 15, 10 of fraction. */
float tensor_f16_to_f32(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16;
    uint32_t exponent = half >> 10 & 31;
    uint32_t fraction = half & 0x3ff;
    if (exponent == 31) { /* infinity, NaN */
        return float_of_bits(sign | 0x7f800000 | fraction << 13);
    }
    if (exponent == 0) { /* zero, subnormal: fraction * 2^-24, exact in f32 */
        float magnitude = (float)fraction * 0x1p-24f;
        return sign ? -magnitude : magnitude;
    }
    return float_of_bits(sign | (exponent + 112) << 23 | fraction << 13);
}

uint16_t tensor_f32_to_f16(float value) {
    uint32_t bits = bits_of_float(value);
    uint32_t sign = bits >> 16 & 0x8000;
    uint32_t magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) { /* NaN stays NaN, quiet */
        return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x1ff));
    }
    if (magnitude >= 0x477ff000) { /* 65520 and more round to infinity */
        return (uint16_t)(sign | 0x7c00);
    }
    if (magnitude < 0x38800000) { /* below 2^-14: adding 1/2 leaves the result's bits, rounded, in the fraction */
        return (uint16_t)(sign | (bits_of_float(float_of_bits(magnitude) + 0.5f) - bits_of_float(0.5f)));
    }
    uint32_t odd = magnitude >> 13 & 1;
    return (uint16_t)(sign | ((magnitude - (112u << 23) + 0xfff + odd) >> 13));
}

static float read_half(const uint8_t *bytes) {
    return tensor_f16_to_f32((uint16_t)(bytes[0] | bytes[1] << 8));
}

static void dequantize_f32(const uint8_t *block, float *out) {
    memcpy(out, block, sizeof *out);
}

static void dequantize_f16(const uint8_t *block, float *out) {
    *out = read_half(block);
}

static void dequantize_bf16(const uint8_t *block, float *out) {
    *out = float_of_bits((uint32_t)(block[0] | block[1] << 8) << 16);
}

static void dequantize_q8_0(const uint8_t *block, float *out) {
    float d = read_half(block);
    for (int i = 0; i < 32; i++) {
        out[i] = d * (float)(int8_t)block[2 + i];
    }
}

/* Byte i of the nibbles holds value i below and value i + 16 above. */
static void dequantize_q4_0(const uint8_t *block, float *out) {
    float d = read_half(block);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)((block[2 + i] & 15) - 8);
        out[i + 16] = d * (float)((block[2 + i] >> 4) - 8);
    }
}

static void dequantize_q4_1(const uint8_t *block, float *out) {
    float d = read_half(block), m = read_half(block + 2);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)(block[4 + i] & 15) + m;
        out[i + 16] = d * (float)(block[4 + i] >> 4) + m;
    }
}

/* The fifth bit of value i is bit i of the 32 after the scale. */
static void dequantize_q5_0(const uint8_t *block, float *out) {
    float d = read_half(block);
    for (int i = 0; i < 16; i++) {
        int low = (block[6 + i] & 15) | (block[2 + i / 8] >> i % 8 & 1) << 4;
        int high = block[6 + i] >> 4 | (block[4 + i / 8] >> i % 8 & 1) << 4;
        out[i] = d * (float)(low - 16);
        out[i + 16] = d * (float)(high - 16);
    }
}

/* The 6-bit scale and minimum of sub-block 0..7, packed into 12 bytes: the first four of each lie in the low 6 bits
 * of bytes 0..3 and 4..7; the last four have their low nibbles in bytes 8..11 and their two high bits on top. */
static void unpack_scale(const uint8_t *packed, int sub_block, float *scale, float *minimum) {
    int i = sub_block & 3;
    if (sub_block < 4) {
        *scale = (float)(packed[i] & 63);
        *minimum = (float)(packed[i + 4] & 63);
    } else {
        *scale = (float)((packed[i + 8] & 15) | packed[i] >> 6 << 4);
        *minimum = (float)(packed[i + 8] >> 4 | packed[i + 4] >> 6 << 4);
    }
}

/* f16 d, f16 dmin, scales[12], nibbles[128]: each run of 32 bytes holds one sub-block below and the next above. */
static void dequantize_q4_k(const uint8_t *block, float *out) {
    float d = read_half(block), dmin = read_half(block + 2);
    for (int s = 0; s < 8; s++) {
        const uint8_t *nibbles = block + 16 + s / 2 * 32;
        float scale, minimum;
        unpack_scale(block + 4, s, &scale, &minimum);
        for (int i = 0; i < 32; i++) {
            int q = nibbles[i] >> (s % 2 * 4) & 15;
            out[s * 32 + i] = d * scale * (float)q - dmin * minimum;
        }
    }
}

/* The same with high bits[32] before the nibbles: bit s of byte i is the fifth bit of value i of sub-block s. */
static void dequantize_q5_k(const uint8_t *block, float *out) {
    float d = read_half(block), dmin = read_half(block + 2);
    const uint8_t *high = block + 16;
    for (int s = 0; s < 8; s++) {
        const uint8_t *nibbles = block + 48 + s / 2 * 32;
        float scale, minimum;
        unpack_scale(block + 4, s, &scale, &minimum);
        for (int i = 0; i < 32; i++) {
            int q = (nibbles[i] >> (s % 2 * 4) & 15) | (high[i] >> s & 1) << 4;
            out[s * 32 + i] = d * scale * (float)q - dmin * minimum;
        }
    }
}

/* low nibbles[128], high bit pairs[64], int8 scales[16], f16 d. Each half of the block is four runs of 32 values: runs
 * 0 and 1 have their low bits in the low nibbles of bytes 0..31 and 32..63, runs 2 and 3 in the high ones; run r has
 * its high bits at bit 2r of 32 bytes. */
static void dequantize_q6_k(const uint8_t *block, float *out) {
    float d = read_half(block + 208);
    for (int run = 0; run < 8; run++) {
        int half = run / 4, r = run % 4;
        const uint8_t *low = block + half * 64 + r % 2 * 32;
        const uint8_t *high = block + 128 + half * 32;
        const uint8_t *scales = block + 192 + run * 2;
        for (int i = 0; i < 32; i++) {
            int q = (low[i] >> (r / 2 * 4) & 15) | (high[i] >> (r * 2) & 3) << 4;
            out[run * 32 + i] = d * (float)(int8_t)scales[i / 16] * (float)(q - 32);
        }
    }
}

void tensor_dequantize_row(enum tensor_type type, const void *row, float *out, size_t columns) {
    static void (*const dequantize[TENSOR_FILE_TYPES])(const uint8_t *block, float *out) = {
        [TENSOR_F32] = dequantize_f32,   [TENSOR_F16] = dequantize_f16,   [TENSOR_BF16] = dequantize_bf16,
        [TENSOR_Q8_0] = dequantize_q8_0, [TENSOR_Q4_0] = dequantize_q4_0, [TENSOR_Q4_1] = dequantize_q4_1,
        [TENSOR_Q4_K] = dequantize_q4_k, [TENSOR_Q5_K] = dequantize_q5_k, [TENSOR_Q6_K] = dequantize_q6_k,
        [TENSOR_Q5_0] = dequantize_q5_0,
    };
    const struct tensor_traits *t = tensor_traits(type);
    CHECK(columns % t->block_elements == 0);
    const uint8_t *block = row;
    for (size_t column = 0; column < columns; column += t->block_elements) {
        dequantize[type](block, out + column);
        block += t->block_bytes;
    }
}
