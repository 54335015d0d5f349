// Quantizing at load: against gguf-py's own quantizers, and what they cannot be given.
extern "C" {
#include "base/random.h"
#include "models/quantize.h"
}
#include <cmath>
#include <gtest/gtest.h>
#include <limits>
#include <string>
#include <vector>

namespace {

std::string hex_of(const std::vector<uint8_t> &bytes) {
    std::string text;
    for (uint8_t byte : bytes) {
        char digits[3];
        snprintf(digits, sizeof digits, "%02x", byte);
        text += digits;
    }
    return text;
}

std::vector<uint8_t> quantized(enum tensor_type type, const std::vector<float> &values) {
    std::vector<uint8_t> row(tensor_row_bytes(type, values.size()));
    quantize_row(type, values.data(), row.data(), values.size());
    return row;
}

std::vector<float> dequantized(enum tensor_type type, const std::vector<uint8_t> &row, size_t columns) {
    std::vector<float> values(columns);
    tensor_dequantize_row(type, row.data(), values.data(), columns);
    return values;
}

std::vector<float> hashed(uint64_t seed, size_t count, float size) {
    std::vector<float> values;
    for (size_t i = 0; i < count; i++) {
        values.push_back(float(int64_t(random_hash(seed, i) >> 40) - (1 << 23)) / float(1 << 23) * size);
    }
    return values;
}

// What gguf.quants.quantize (gguf 0.19) gives for these values.
TEST(Quantize, GivesGgufPysBlocks) {
    EXPECT_EQ(
        hex_of(quantized(TENSOR_Q8_0, hashed(7, 64, 3))),
        "b3253cbac4eb0f097fb7b705f15b967b65a3a73ea884c332f3d224f076a175a287fdf425790ac9349e7ab079ab8bef7f17dba5a95f38"
        "ad9c0d9f09072859d13711107a9a");
    EXPECT_EQ(hex_of(quantized(TENSOR_Q4_1, hashed(7, 64, 3))),
              "f8358ac12bb3240648a87f53a368e72de12f0d720f3674c1dfb8241a811f828fa2d046bf8985f212");
}

TEST(Quantize, ErrorsAreHalfAStep) {
    for (uint64_t seed = 0; seed < 200; seed++) {
        const float size = std::pow(10.0f, float(seed % 5) - 2);
        const std::vector<float> values = hashed(seed, 96, size);
        for (enum tensor_type type : {TENSOR_Q8_0, TENSOR_Q4_1}) {
            const std::vector<float> back = dequantized(type, quantized(type, values), values.size());
            const double step = 2.0 * size / (type == TENSOR_Q8_0 ? 254 : 15);
            for (size_t i = 0; i < values.size(); i++) {
                ASSERT_NEAR(back[i], values[i], step * 0.51 + size * 4e-3 + 1e-7) << "seed " << seed << " value " << i;
            }
        }
    }
}

TEST(Quantize, ConstantsAndZerosComeBack) {
    for (enum tensor_type type : {TENSOR_Q8_0, TENSOR_Q4_1}) {
        const std::vector<float> zeros(32, 0), ones(32, -0.5f);
        EXPECT_EQ(dequantized(type, quantized(type, zeros), 32), zeros);
        for (float value : dequantized(type, quantized(type, ones), 32)) {
            EXPECT_NEAR(value, -0.5, 5e-4);
        }
    }
}

// A weight that is not a number is heard, and does not become a number.
TEST(Quantize, WhatIsNotFiniteIsNotHidden) {
    for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
        for (enum tensor_type type : {TENSOR_Q8_0, TENSOR_Q4_1}) {
            std::vector<float> values = hashed(1, 64, 1);
            values[40] = bad;
            const std::vector<float> back = dequantized(type, quantized(type, values), 64);
            EXPECT_FALSE(std::isnan(back[31]));
            EXPECT_TRUE(std::isnan(back[40]));
        }
    }
}

TEST(Quantize, FiveBitsWidenToTheSameValues) {
    std::vector<uint8_t> row(tensor_row_bytes(TENSOR_Q5_0, 320)), wide(tensor_row_bytes(TENSOR_Q8_0, 320));
    for (size_t i = 0; i < row.size(); i++) {
        row[i] = i % 22 == 1 ? 0x2c : uint8_t(random_hash(3, i)); // scales that are numbers
    }
    quantize_widen_q5_0(row.data(), wide.data(), 320);
    EXPECT_EQ(dequantized(TENSOR_Q8_0, wide, 320), dequantized(TENSOR_Q5_0, row, 320));
}

} // namespace
