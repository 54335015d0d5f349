// Tensor types: sizes, half precision, and the scalar dequantizers against numbers from gguf-py.
//
// The golden numbers are what gguf.quants.dequantize (gguf 0.19 of ggml-org/llama.cpp) gives for the bytes that
// file_bytes() below makes, computed once in Python.
extern "C" {
#include "kernels/tensor.h"
}
#include <cmath>
#include <cstring>
#include <gtest/gtest.h>
#include <limits>
#include <vector>

namespace {

struct Golden {
    enum tensor_type type;
    std::vector<size_t> scales; // where a block has its f16 scale, and then its f16 minimum
    std::vector<std::pair<size_t, float>> values;
    double checksum; // sum of value i times (i % 17 + 1)
};

const Golden GOLDEN[] = {
    {TENSOR_Q8_0,
     {0},
     {{0, 0x1.7886p+0f}, {1, 0x1.0e36p+1f}, {31, -0x1.a94p-1f}, {32, 0x1.1712p+1f}, {53, 0x1.3efp+1f}},
     -57.949310302734375},
    {TENSOR_Q4_0,
     {0},
     {{0, -0x1.a94p-5f}, {1, 0x1.1b8p-5f}, {31, 0.0f}, {32, 0x1.f02p-3f}, {53, 0x1.1b8p-4f}, {63, -0x1.f02p-3f}},
     -12.21624755859375},
    {TENSOR_Q4_1,
     {0, 2},
     {{0, -0x1.a5cp-5f}, {1, -0x1.ef4p-3f}, {31, -0x1.a78p-4f}, {32, -0x1.0958p-1f}, {63, -0x1.1aap-2f}},
     -145.08230590820312},
    {TENSOR_Q4_K,
     {0, 2},
     {{0, 0x1.5c366p+4f}, {1, 0x1.fb9cp+3f}, {255, 0x1.80e78p+3f}, {256, 0x1.3c20cp+4f}, {511, 0x1.20ed8p+5f}},
     85223.37133789062},
    {TENSOR_Q5_K,
     {0, 2},
     {{0, 0x1.e5886p+4f}, {1, 0x1.fb9cp+3f}, {255, 0x1.a2208p+3f}, {256, 0x1.1e4e6p+5f}, {511, 0x1.ef94p+2f}},
     121142.03845214844},
    {TENSOR_Q6_K,
     {208},
     {{0, -0x1.8c2e2p+4f}, {1, 0x1.d58cp+4f}, {255, -0x1.09c8p+0f}, {256, -0x1.46b08p+4f}, {511, 0x1.22b2cp+5f}},
     5259.890533447266},
    {TENSOR_Q5_0,
     {0},
     {{0, 0x1.3ef0000000000p-3f},
      {1, -0x1.1b80000000000p-5f},
      {31, 0x1.1b80000000000p-6f},
      {32, 0x1.f020000000000p-3f},
      {53, -0x1.a940000000000p-4f},
      {63, 0x1.1b80000000000p-3f}},
     13.998504638671875},
};

// Two blocks with a scale of 0.0173 (b + 1) and a minimum of -0.311 (b + 1) in block b.
std::vector<uint8_t> file_bytes(const Golden &golden) {
    size_t block_bytes = tensor_traits(golden.type)->block_bytes;
    std::vector<uint8_t> bytes(2 * block_bytes);
    for (size_t i = 0; i < bytes.size(); i++) {
        bytes[i] = (uint8_t)(i * 37 + i / 251 * 101 + 11);
    }
    for (size_t block = 0; block < 2; block++) {
        for (size_t k = 0; k < golden.scales.size(); k++) {
            uint16_t half = tensor_f32_to_f16((float)((k ? -0.311 : 0.0173) * (double)(block + 1)));
            memcpy(&bytes[block * block_bytes + golden.scales[k]], &half, sizeof half);
        }
    }
    return bytes;
}

TEST(Tensor, DequantizesAsGgufPyDoes) {
    for (const Golden &golden : GOLDEN) {
        const struct tensor_traits *traits = tensor_traits(golden.type);
        SCOPED_TRACE(traits->name);
        std::vector<uint8_t> bytes = file_bytes(golden);
        size_t columns = 2 * traits->block_elements;
        ASSERT_EQ(tensor_row_bytes(golden.type, columns), bytes.size());
        std::vector<uint8_t> odd(bytes.size() + 1); // files promise no alignment
        memcpy(&odd[1], bytes.data(), bytes.size());
        std::vector<float> out(columns);
        tensor_dequantize_row(golden.type, &odd[1], out.data(), columns);
        double checksum = 0;
        for (size_t i = 0; i < columns; i++) {
            checksum += (double)out[i] * (double)(i % 17 + 1);
        }
        EXPECT_EQ(checksum, golden.checksum);
        for (const auto &value : golden.values) {
            EXPECT_EQ(out[value.first], value.second) << "value " << value.first;
        }
    }
}

TEST(Tensor, PlainTypesAreWhatTheySay) {
    const float values[] = {0, -1.5f, 3.140625f, 65504};
    float out[4];
    tensor_dequantize_row(TENSOR_F32, values, out, 4);
    EXPECT_EQ(memcmp(out, values, sizeof out), 0);
    uint16_t halves[4], brains[4];
    for (int i = 0; i < 4; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        brains[i] = (uint16_t)(bits >> 16);
        halves[i] = tensor_f32_to_f16(values[i]);
    }
    tensor_dequantize_row(TENSOR_F16, halves, out, 4);
    EXPECT_EQ(memcmp(out, values, sizeof out), 0);
    tensor_dequantize_row(TENSOR_BF16, brains, out, 3);
    EXPECT_EQ(out[1], -1.5f);
    EXPECT_EQ(out[2], 3.140625f);
}

TEST(Tensor, EveryHalfComesBack) {
    for (uint32_t half = 0; half < 65536; half++) {
        float value = tensor_f16_to_f32((uint16_t)half);
        if ((half & 0x7c00) == 0x7c00 && (half & 0x3ff)) {
            EXPECT_TRUE(std::isnan(value)) << half;
            EXPECT_TRUE(std::isnan(tensor_f16_to_f32(tensor_f32_to_f16(value)))) << half;
        } else {
            EXPECT_EQ(tensor_f32_to_f16(value), half);
        }
    }
}

// Between two neighbours the nearer one, in the middle the even one: checked at every pair of finite halves.
TEST(Tensor, HalvesRoundToNearestEven) {
    for (uint32_t half = 0; half < 0x7bff; half++) {
        double low = tensor_f16_to_f32((uint16_t)half), high = tensor_f16_to_f32((uint16_t)(half + 1));
        float middle = (float)((low + high) / 2);
        ASSERT_EQ(tensor_f32_to_f16(middle), half + (half & 1)) << half;
        ASSERT_EQ(tensor_f32_to_f16(std::nextafter(middle, 0.0f)), half) << half;
        ASSERT_EQ(tensor_f32_to_f16(-std::nextafter(middle, 1e30f)), (half + 1) | 0x8000) << half;
    }
    EXPECT_EQ(tensor_f32_to_f16(65519.996f), 0x7bff);
    EXPECT_EQ(tensor_f32_to_f16(65520), 0x7c00);
    EXPECT_EQ(tensor_f32_to_f16(-std::numeric_limits<float>::infinity()), 0xfc00);
    EXPECT_EQ(tensor_f32_to_f16(std::numeric_limits<float>::denorm_min()), 0);
}

TEST(TensorDeathTest, APartOfABlockIsABug) {
    ::testing::FLAGS_gtest_death_test_style = "threadsafe";
    EXPECT_DEATH(tensor_row_bytes(TENSOR_Q4_K, 255), "must hold");
    EXPECT_DEATH(tensor_traits((enum tensor_type)TENSOR_FILE_TYPES), "must hold");
}

} // namespace
