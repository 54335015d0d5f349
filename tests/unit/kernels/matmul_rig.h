// What the tests of op_matmul share: matrices as files have them, the same packed on a device, and the exact product.
// Only for tests.
#ifndef METRONOME_TESTS_UNIT_KERNELS_MATMUL_RIG_H
#define METRONOME_TESTS_UNIT_KERNELS_MATMUL_RIG_H

#include "tests/unit/kernels/kernel_test.h"

extern "C" {
#include "kernels/reference/reference.h"
}

#include <algorithm>

inline const enum tensor_type all_types[] = {TENSOR_F32,  TENSOR_F16,  TENSOR_BF16, TENSOR_Q8_0, TENSOR_Q4_0,
                                             TENSOR_Q4_1, TENSOR_Q4_K, TENSOR_Q5_K, TENSOR_Q6_K};

inline bool quantized(enum tensor_type type) {
    return tensor_traits(type)->block_elements > 1;
}

// A matrix as a file has it: random codes under scales of both signs.
struct Matrix {
    enum tensor_type type;
    uint32_t rows, columns;
    std::vector<uint8_t> file;

    Matrix(Random &random, enum tensor_type matrix_type, uint32_t matrix_rows, uint32_t matrix_columns)
        : type(matrix_type), rows(matrix_rows), columns(matrix_columns),
          file(tensor_row_bytes(matrix_type, matrix_columns) * matrix_rows) {
        for (uint8_t &byte : file) {
            byte = static_cast<uint8_t>(random.below(256));
        }
        for (size_t at = 0; at < file.size(); at += tensor_traits(type)->block_bytes) {
            set_scales(random, &file[at]);
        }
    }

    struct weight reference() const {
        return {file.data(), type, rows, columns};
    }
    // The rows begin .. end - 1, as a matrix of their own.
    Matrix rows_between(uint32_t begin, uint32_t end) const {
        Matrix piece = *this;
        const size_t row_bytes = tensor_row_bytes(type, columns);
        piece.rows = end - begin;
        piece.file.assign(file.begin() + begin * row_bytes, file.begin() + end * row_bytes);
        return piece;
    }

  private:
    void set_scales(Random &random, uint8_t *block) const {
        const float value = random.normal();
        const uint16_t half = tensor_f32_to_f16(value), second = tensor_f32_to_f16(value / 4);
        switch (type) {
        case TENSOR_F32:
            memcpy(block, &value, 4);
            break;
        case TENSOR_BF16:
            memcpy(block, reinterpret_cast<const uint8_t *>(&value) + 2, 2);
            break;
        case TENSOR_F16:
        case TENSOR_Q8_0:
        case TENSOR_Q4_0:
            memcpy(block, &half, 2);
            break;
        case TENSOR_Q4_1:
        case TENSOR_Q4_K:
        case TENSOR_Q5_K:
            memcpy(block, &half, 2);
            memcpy(block + 2, &second, 2);
            break;
        default:
            memcpy(block + 208, &half, 2);
        }
    }
};

// A matrix packed on a device.
class Packed {
  public:
    Packed(Bench &bench, const Matrix &matrix) : matrix_(matrix), buffer_(bench, packed_bytes(bench, matrix)) {
    }
    struct weight weight() const {
        return {buffer_.at(), matrix_.type, matrix_.rows, matrix_.columns};
    }

  private:
    const Matrix &matrix_;
    Buffer<uint8_t> buffer_;

    static std::vector<uint8_t> packed_bytes(const Bench &bench, const Matrix &matrix) {
        const size_t bytes = device_packed_bytes(bench.device, matrix.type, matrix.rows, matrix.columns);
        uint8_t *packed = static_cast<uint8_t *>(aligned_alloc(64, bytes));
        device_pack(bench.device, matrix.type, matrix.rows, matrix.columns, matrix.file.data(), packed);
        std::vector<uint8_t> result(packed, packed + bytes);
        free(packed);
        return result;
    }
};

inline struct device_limits limits_for(uint32_t rows, uint32_t columns) {
    struct device_limits limits = {};
    limits.rows = rows;
    limits.columns = columns;
    limits.vocabulary = limits.logit_rows = limits.sequences = limits.query_heads = limits.kv_heads = 1;
    limits.head_dim = 8;
    limits.context = 1;
    return limits;
}

inline std::vector<float> reference_product(const Matrix &matrix, const std::vector<float> &x, uint32_t n) {
    std::vector<float> out(static_cast<size_t>(n) * matrix.rows);
    struct matmul_part part = {};
    part.weight = matrix.reference();
    part.out = out.data();
    part.out_stride = matrix.rows;
    ref_matmul(&part, 1, x.data(), matrix.columns, n);
    return out;
}

// The rows of an output that lie `stride` apart, without the poison that must still be between them.
inline std::vector<float> rows_without_gaps(const std::vector<float> &all, uint32_t n, uint32_t width, size_t stride) {
    std::vector<float> result;
    for (uint32_t i = 0; i < n; i++) {
        const float *row = &all[i * stride];
        result.insert(result.end(), row, row + width);
        for (size_t column = width; column < stride; column++) {
            EXPECT_TRUE(std::isnan(row[column])) << "wrote past the end of row " << i;
        }
    }
    return result;
}

// Rounded to nearest even to `bits` significant bits.
inline std::vector<float> rounded_to_bits(std::vector<float> x, int bits) {
    for (float &value : x) {
        int exponent = 0;
        const float fraction = std::frexp(value, &exponent);
        value = std::ldexp(std::nearbyint(std::ldexp(fraction, bits)), exponent - bits);
    }
    return x;
}

#endif
