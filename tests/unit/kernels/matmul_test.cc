// op_matmul, op_embed and packing on the cpu device: every type, instruction set and mode against plain loops in
// double, and bit for bit against each other.
#include "tests/unit/kernels/cpu_rig.h"

#include <algorithm>
#include <memory>

namespace {

const enum tensor_type all_types[] = {TENSOR_F32,  TENSOR_F16,  TENSOR_BF16, TENSOR_Q8_0, TENSOR_Q4_0,
                                      TENSOR_Q4_1, TENSOR_Q4_K, TENSOR_Q5_K, TENSOR_Q6_K};

bool quantized(enum tensor_type type) {
    return tensor_traits(type)->block_elements > 1;
}

// A matrix as a file has it: random codes, scales of both signs, and the values that they stand for.
struct Matrix {
    enum tensor_type type;
    uint32_t rows, columns;
    std::vector<uint8_t> file;
    std::vector<float> values;

    Matrix(struct random_state *random, enum tensor_type type, uint32_t rows, uint32_t columns)
        : type(type), rows(rows), columns(columns), file(tensor_row_bytes(type, columns) * rows),
          values(static_cast<size_t>(rows) * columns) {
        for (uint8_t &byte : file) {
            byte = static_cast<uint8_t>(random_u64(random));
        }
        const struct tensor_traits *traits = tensor_traits(type);
        for (size_t at = 0; at < file.size(); at += traits->block_bytes) {
            set_scales(random, &file[at]);
        }
        const size_t row_bytes = tensor_row_bytes(type, columns);
        for (uint32_t row = 0; row < rows; row++) {
            tensor_dequantize_row(type, &file[row * row_bytes], &values[static_cast<size_t>(row) * columns], columns);
        }
    }

    struct weight pack(Rig &rig, Buffer<uint8_t> &packed) const {
        device_pack(rig.device, type, rows, columns, file.data(), packed.data());
        return {packed.data(), type, rows, columns};
    }

  private:
    void set_scales(struct random_state *random, uint8_t *block) const {
        const float value = static_cast<float>(random_unit(random) * 2 - 1);
        const uint16_t half = tensor_f32_to_f16(value), second = tensor_f32_to_f16(value / 4);
        switch (type) {
        case TENSOR_F32:
            memcpy(block, &value, 4);
            break;
        case TENSOR_F16:
            memcpy(block, &half, 2);
            break;
        case TENSOR_BF16:
            memcpy(block, reinterpret_cast<const uint8_t *>(&value) + 2, 2);
            break;
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

std::vector<double> product(const Matrix &matrix, const std::vector<float> &x, uint32_t n) {
    std::vector<double> out(static_cast<size_t>(n) * matrix.rows);
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t row = 0; row < matrix.rows; row++) {
            for (uint32_t column = 0; column < matrix.columns; column++) {
                out[static_cast<size_t>(i) * matrix.rows + row] +=
                    static_cast<double>(matrix.values[static_cast<size_t>(row) * matrix.columns + column]) *
                    x[static_cast<size_t>(i) * matrix.columns + column];
            }
        }
    }
    return out;
}

// What int8 compute sees of x: each block of 32 rounded to 127 steps of its largest.
std::vector<float> quantized_to_int8(std::vector<float> x) {
    for (size_t at = 0; at < x.size(); at += 32) {
        float largest = 0;
        for (size_t i = at; i < at + 32; i++) {
            largest = std::max(largest, std::fabs(x[i]));
        }
        for (size_t i = at; i < at + 32 && largest > 0; i++) {
            x[i] = std::nearbyint(x[i] * (127 / largest)) * (largest / 127);
        }
    }
    return x;
}

struct device_limits limits_for(uint32_t rows, uint32_t columns) {
    struct device_limits limits = {};
    limits.rows = rows;
    limits.columns = columns;
    limits.vocabulary = limits.logit_rows = limits.sequences = limits.query_heads = limits.kv_heads = 1;
    limits.head_dim = 8;
    limits.context = 1;
    return limits;
}

// Runs one product of n rows, `chunk` rows a call, and checks that nothing around the output was written.
std::vector<float> run(Rig &rig, const Matrix &matrix, const std::vector<float> &x, uint32_t n, uint32_t chunk) {
    const size_t gap = 5, out_stride = matrix.rows + gap, x_stride = matrix.columns + 3;
    Buffer<uint8_t> packed(rig, device_packed_bytes(rig.device, matrix.type, matrix.rows, matrix.columns));
    Buffer<float> in(rig, n * x_stride), out(rig, n * out_stride);
    for (uint32_t i = 0; i < n; i++) {
        std::copy_n(&x[static_cast<size_t>(i) * matrix.columns], matrix.columns, &in[i * x_stride]);
    }
    struct matmul_part part = {};
    part.weight = matrix.pack(rig, packed);
    part.out_stride = out_stride;
    for (uint32_t first = 0; first < n; first += chunk) {
        part.out = out.data() + first * out_stride;
        op_matmul(rig.stream, &part, 1, in.data() + first * x_stride, x_stride, std::min(chunk, n - first));
    }
    rig.sync();
    std::vector<float> result;
    for (uint32_t i = 0; i < n; i++) {
        result.insert(result.end(), &out[i * out_stride], &out[i * out_stride] + matrix.rows);
        for (size_t column = matrix.rows; column < out_stride; column++) {
            EXPECT_TRUE(is_poison(out[i * out_stride + column])) << "wrote past row " << i;
        }
    }
    return result;
}

struct Shape {
    uint32_t rows, columns, n;
};

std::vector<Shape> shapes_of(enum tensor_type type) {
    const uint32_t block = tensor_traits(type)->block_elements;
    if (block == 1) {
        return {{1, 1, 1}, {15, 7, 2}, {16, 32, 3}, {17, 33, 9}, {50, 100, 6}, {100, 257, 17}};
    }
    return {{1, block, 1},      {15, block, 2}, {16, 2 * block, 3},
            {17, 3 * block, 9}, {50, block, 6}, {100, 2 * block, 17}};
}

TEST(Matmul, MatchesPlainLoopsAndIsTheSameInEveryInstructionSet) {
    struct random_state random;
    random_seed(&random, 1);
    for (enum compute_mode compute : {COMPUTE_INT8, COMPUTE_F32}) {
        for (enum tensor_type type : all_types) {
            for (const Shape &shape : shapes_of(type)) {
                SCOPED_TRACE(std::string(tensor_traits(type)->name) + (compute == COMPUTE_INT8 ? " int8 " : " f32 ") +
                             std::to_string(shape.rows) + "x" + std::to_string(shape.columns) + " n " +
                             std::to_string(shape.n));
                const Matrix matrix(&random, type, shape.rows, shape.columns);
                const std::vector<float> x = random_floats(&random, static_cast<size_t>(shape.n) * shape.columns, 3);
                std::vector<float> first;
                for (const std::string &isa : instruction_sets()) {
                    Rig rig(isa, compute, 1, limits_for(shape.n, std::max(shape.rows, shape.columns)));
                    const std::vector<float> out = run(rig, matrix, x, shape.n, shape.n);
                    if (compute == COMPUTE_INT8 && quantized(type)) {
                        EXPECT_LE(relative_error(out, product(matrix, quantized_to_int8(x), shape.n)), 1e-5) << isa;
                        if (out.size() > 100) { // one output alone may cancel to nearly nothing
                            EXPECT_LE(relative_error(out, product(matrix, x, shape.n)), 2e-2) << isa;
                        }
                    } else {
                        EXPECT_LE(relative_error(out, product(matrix, x, shape.n)), 1e-5) << isa;
                    }
                    if (first.empty()) {
                        first = out;
                    }
                    EXPECT_TRUE(same_bits(out, first)) << isa << " differs from scalar";
                }
            }
        }
    }
}

TEST(Matmul, ARowDependsOnNeitherItsNeighboursNorChunksNorThreads) {
    struct random_state random;
    random_seed(&random, 2);
    const uint32_t n = 37, rows = 50;
    for (enum compute_mode compute : {COMPUTE_INT8, COMPUTE_F32}) {
        for (enum tensor_type type : all_types) {
            const uint32_t columns = quantized(type) ? 256 : 131;
            const Matrix matrix(&random, type, rows, columns);
            const std::vector<float> x = random_floats(&random, static_cast<size_t>(n) * columns);
            for (const std::string &isa : instruction_sets()) {
                SCOPED_TRACE(std::string(tensor_traits(type)->name) + " " + isa);
                Rig one(isa, compute, 1, limits_for(n, columns)), three(isa, compute, 3, limits_for(n, columns));
                const std::vector<float> whole = run(one, matrix, x, n, n);
                for (uint32_t chunk : {1, 2, 7, 16}) {
                    EXPECT_TRUE(same_bits(run(one, matrix, x, n, chunk), whole)) << "chunk " << chunk;
                }
                EXPECT_TRUE(same_bits(run(three, matrix, x, n, n), whole)) << "3 threads";
                EXPECT_TRUE(same_bits(run(three, matrix, x, n, 5), whole)) << "3 threads, chunk 5";
            }
        }
    }
}

// More rows than fit the chunk that a task keeps in cache, more groups than tasks.
TEST(Matmul, ManyRowsAreCutIntoChunks) {
    struct random_state random;
    random_seed(&random, 3);
    const uint32_t n = 140, rows = 600, columns = 4096;
    const std::string isa = instruction_sets().back();
    if (isa == "scalar") {
        GTEST_SKIP() << "takes long without AVX2";
    }
    const Matrix matrix(&random, TENSOR_Q4_1, rows, columns);
    const std::vector<float> x = random_floats(&random, static_cast<size_t>(n) * columns);
    Rig one(isa, COMPUTE_INT8, 1, limits_for(n, columns)), two(isa, COMPUTE_INT8, 2, limits_for(n, columns));
    const std::vector<float> whole = run(two, matrix, x, n, n);
    EXPECT_TRUE(same_bits(run(one, matrix, x, n, n), whole));
    EXPECT_TRUE(same_bits(run(one, matrix, x, n, 1), whole));
}

TEST(Matmul, PartsOfMixedTypesBiasAndAccumulate) {
    struct random_state random;
    random_seed(&random, 4);
    const uint32_t n = 11, columns = 256;
    const Matrix matrices[] = {Matrix(&random, TENSOR_Q4_K, 40, columns), Matrix(&random, TENSOR_Q6_K, 24, columns),
                               Matrix(&random, TENSOR_F16, 7, columns)};
    const std::vector<float> x = random_floats(&random, n * columns);
    for (const std::string &isa : instruction_sets()) {
        for (enum compute_mode compute : {COMPUTE_INT8, COMPUTE_F32}) {
            Rig rig(isa, compute, 2, limits_for(n, columns));
            Buffer<float> in(rig, x), bias(rig, random_floats(&random, 40));
            std::vector<std::unique_ptr<Buffer<uint8_t>>> packed;
            std::vector<std::unique_ptr<Buffer<float>>> out;
            struct matmul_part parts[3] = {};
            for (int i = 0; i < 3; i++) {
                const Matrix &matrix = matrices[i];
                packed.push_back(std::make_unique<Buffer<uint8_t>>(
                    rig, device_packed_bytes(rig.device, matrix.type, matrix.rows, columns)));
                out.push_back(std::make_unique<Buffer<float>>(rig, std::vector<float>(n * matrix.rows, 2.5f)));
                parts[i].weight = matrix.pack(rig, *packed[i]);
                parts[i].out = out[i]->data();
                parts[i].out_stride = matrix.rows;
                parts[i].bias = i != 1 ? bias.data() : nullptr;
                parts[i].accumulate = i != 2;
            }
            op_matmul(rig.stream, parts, 3, in.data(), columns, n);
            rig.sync();
            for (int i = 0; i < 3; i++) {
                std::vector<float> expected = run(rig, matrices[i], x, n, n);
                for (size_t at = 0; at < expected.size(); at++) {
                    if (parts[i].bias) {
                        expected[at] += bias[at % matrices[i].rows];
                    }
                    if (parts[i].accumulate) {
                        expected[at] += 2.5f;
                    }
                }
                EXPECT_TRUE(same_bits(out[i]->values(), expected)) << isa << " part " << i;
            }
        }
    }
}

// Blocks of zeros and of numbers whose reciprocal is infinite count as zeros; what is not finite stays in its row.
TEST(Matmul, Int8OfExtremeActivations) {
    struct random_state random;
    random_seed(&random, 5);
    const uint32_t columns = 96;
    const Matrix matrix(&random, TENSOR_Q8_0, 33, columns);
    std::vector<float> x = random_floats(&random, 6 * columns);
    std::fill_n(&x[0], columns, 0.0f);
    std::fill_n(&x[columns], columns, 1e-42f);
    std::transform(&x[2 * columns], &x[3 * columns], &x[2 * columns], [](float v) { return v * 1e30f; });
    x[3 * columns + 40] = NAN;
    x[4 * columns + 40] = -INFINITY;
    std::vector<float> first;
    for (const std::string &isa : instruction_sets()) {
        Rig rig(isa, COMPUTE_INT8, 1, limits_for(6, columns));
        const std::vector<float> out = run(rig, matrix, x, 6, 6);
        for (uint32_t i = 0; i < 33; i++) {
            EXPECT_EQ(out[i], 0);
            EXPECT_EQ(out[33 + i], 0);
            EXPECT_TRUE(std::isfinite(out[2 * 33 + i]));
            EXPECT_TRUE(std::isnan(out[3 * 33 + i]));
            EXPECT_TRUE(std::isnan(out[4 * 33 + i]));
        }
        const std::vector<float> last(out.begin() + 5 * 33, out.end());
        EXPECT_TRUE(same_bits(run(rig, matrix, {x.begin() + 5 * columns, x.end()}, 1, 1), last));
        if (first.empty()) {
            first = last;
        }
        EXPECT_TRUE(same_bits(last, first)) << isa;
    }
}

TEST(Pack, KeepsTheBitsPerWeight) {
    struct random_state random;
    random_seed(&random, 6);
    Rig rig("scalar", COMPUTE_INT8, 1, limits_for(1, 1024));
    for (enum tensor_type type : all_types) {
        const size_t file = tensor_row_bytes(type, 1024) * 64;
        const size_t packed = device_packed_bytes(rig.device, type, 64, 1024);
        EXPECT_EQ(packed % 64, 0u);
        EXPECT_GE(packed, file) << tensor_traits(type)->name;
        EXPECT_LE(static_cast<double>(packed), 1.03 * static_cast<double>(file)) << tensor_traits(type)->name;
    }
}

TEST(Embed, GivesTheExactRows) {
    struct random_state random;
    random_seed(&random, 7);
    for (const std::string &isa : instruction_sets()) {
        for (enum tensor_type type : all_types) {
            const uint32_t columns = quantized(type) ? 512 : 77, rows = 53, n = 30;
            const Matrix table(&random, type, rows, columns);
            Rig rig(isa, COMPUTE_INT8, 2, limits_for(n, columns));
            Buffer<uint8_t> packed(rig, device_packed_bytes(rig.device, type, rows, columns));
            Buffer<uint32_t> ids(rig, n);
            Buffer<float> out(rig, n * columns);
            const struct weight weight = table.pack(rig, packed);
            for (uint32_t i = 0; i < n; i++) {
                ids[i] = i == 0 ? rows - 1 : static_cast<uint32_t>(random_below(&random, rows));
            }
            op_embed(rig.stream, out.data(), weight, ids.data(), n);
            rig.sync();
            for (uint32_t i = 0; i < n; i++) {
                const std::vector<float> row(&table.values[static_cast<size_t>(ids[i]) * columns],
                                             &table.values[static_cast<size_t>(ids[i]) * columns] + columns);
                const std::vector<float> got(&out[static_cast<size_t>(i) * columns],
                                             &out[static_cast<size_t>(i) * columns] + columns);
                EXPECT_TRUE(same_bits(got, row)) << isa << " " << tensor_traits(type)->name << " row " << i;
            }
        }
    }
}

TEST(Embed, RefusesAnIdOutsideTheTable) {
    struct random_state random;
    random_seed(&random, 8);
    Rig rig("scalar", COMPUTE_INT8, 1, limits_for(2, 32));
    const Matrix table(&random, TENSOR_F32, 20, 32);
    Buffer<uint8_t> packed(rig, device_packed_bytes(rig.device, TENSOR_F32, 20, 32));
    Buffer<uint32_t> ids(rig, std::vector<uint32_t>{19, 20});
    Buffer<float> out(rig, 64);
    op_embed(rig.stream, out.data(), table.pack(rig, packed), ids.data(), 2);
    const struct status status = stream_sync(rig.stream);
    EXPECT_EQ(status.code, STATUS_DEVICE);
    EXPECT_NE(std::string(status.message).find("id 20 of a table of 20"), std::string::npos) << status.message;
}

} // namespace
