// op_matmul by cuBLAS, on a cuda device that is not asked to be invariant: a GPU's own, or the emulator's. What it
// gives against the same product of what it is given: weights and activations rounded to 16 bits.
#include "tests/unit/kernels/matmul_rig.h"

namespace {

const uint32_t LEAST_ROWS = 8; // from so many rows on it multiplies here

struct device_config library_config(bool invariant = false, uint32_t library_rows = LEAST_ROWS) {
    struct device_config config = {};
    config.name = "cuda";
    config.invariant = invariant;
    config.library_rows = library_rows;
    return config;
}

// As f32: quantized and BF16 weights rounded to bf16, F16 ones as they are.
Matrix as_unpacked(const Matrix &matrix) {
    Matrix plain = matrix;
    std::vector<float> values(static_cast<size_t>(matrix.rows) * matrix.columns);
    for (uint32_t row = 0; row < matrix.rows; row++) {
        tensor_dequantize_row(matrix.type, &matrix.file[row * tensor_row_bytes(matrix.type, matrix.columns)],
                              &values[static_cast<size_t>(row) * matrix.columns], matrix.columns);
    }
    values = matrix.type == TENSOR_F16 || matrix.type == TENSOR_F32 ? values : rounded_to_bits(values, 8);
    plain.type = TENSOR_F32;
    plain.file.resize(values.size() * sizeof(float));
    memcpy(plain.file.data(), values.data(), plain.file.size());
    return plain;
}

std::vector<float> expected_product(const Matrix &matrix, const std::vector<float> &x, uint32_t n) {
    const bool f32 = matrix.type == TENSOR_F32;
    return reference_product(as_unpacked(matrix), f32 ? x : rounded_to_bits(x, matrix.type == TENSOR_F16 ? 11 : 8), n);
}

// How far 16 bits may be from the exact product. Random numbers give 2e-3 to 3e-3, and in F16 2.3e-4; own kernels up to
// 8e-3 for quantized weights.
double bound_of(enum tensor_type type) {
    return type == TENSOR_F32 ? 1e-6 : type == TENSOR_F16 ? 6e-4 : 4e-3;
}

class Library : public ::testing::Test {
  protected:
    void SetUp() override {
        const struct device_config config = library_config();
        struct device *device = nullptr;
        const struct status status = device_open(&config, &device);
        if (status.code != STATUS_OK) {
            GTEST_SKIP() << status.message;
        }
        const struct device_limits limits = limits_for(LEAST_ROWS, 64);
        const struct status prepared = device_prepare(device, &limits);
        const bool own = device_info(device).invariant;
        device_close(device);
        if (prepared.code != STATUS_OK || own) {
            GTEST_SKIP() << "cuBLAS is not here" << prepared.message;
        }
    }

    // x (n, columns) times the matrix; x's rows lie a little apart, and poison lies between those of the output.
    static std::vector<float> product(const struct device_config &config, const Matrix &matrix,
                                      const std::vector<float> &x, uint32_t n) {
        Bench bench(config);
        const struct device_limits limits = limits_for(std::max(n, LEAST_ROWS), matrix.columns);
        EXPECT_OK(device_prepare(bench.device, &limits));
        const size_t x_stride = matrix.columns + 3, out_stride = matrix.rows + 5;
        std::vector<float> apart(n * x_stride, NAN);
        for (uint32_t i = 0; i < n; i++) {
            std::copy_n(&x[static_cast<size_t>(i) * matrix.columns], matrix.columns, &apart[i * x_stride]);
        }
        const Packed packed(bench, matrix);
        Buffer<float> in(bench, apart), out(bench, n * out_stride);
        struct matmul_part part = {};
        part.weight = packed.weight();
        part.out = out.at();
        part.out_stride = out_stride;
        op_matmul(bench.stream, &part, 1, in.at(), x_stride, n);
        return rows_without_gaps(out.read(), n, matrix.rows, out_stride);
    }
};

TEST_F(Library, MultipliesEveryTypeFromSoManyRowsOn) {
    Random random(31);
    for (enum tensor_type type : all_types) {
        const uint32_t block = tensor_traits(type)->block_elements;
        double worst = 0, own_worst = 0;
        const std::pair<uint32_t, uint32_t> shapes[] = {
            {1, block}, {15, block == 1 ? 7 : block}, {33, block == 1 ? 131 : 2 * block}, {100, block == 1 ? 64 : 512}};
        for (const auto &[rows, columns] : shapes) {
            const Matrix matrix(random, type, rows, columns);
            for (uint32_t n : {LEAST_ROWS - 1, LEAST_ROWS, LEAST_ROWS + 1, 37u}) {
                SCOPED_TRACE(std::string(tensor_traits(type)->name) + " " + std::to_string(rows) + "x" +
                             std::to_string(columns) + " by " + std::to_string(n));
                const std::vector<float> x = random.normals(static_cast<size_t>(n) * columns, 3);
                const std::vector<float> out = product(library_config(), matrix, x, n);
                const std::vector<float> own = product(library_config(true), matrix, x, n);
                if (type == TENSOR_F32 || n < LEAST_ROWS) {
                    EXPECT_TRUE(same_bits(out, own));
                    continue;
                }
                EXPECT_LE(relative_error(out, expected_product(matrix, x, n)), 1e-5);
                if (out.size() > 100) { // one output alone may cancel to nearly nothing
                    const std::vector<float> exact = reference_product(matrix, x, n);
                    worst = std::max(worst, relative_error(out, exact));
                    own_worst = std::max(own_worst, relative_error(own, exact));
                    EXPECT_FALSE(quantized(type) && same_bits(out, own)) << "own kernels have multiplied";
                }
            }
        }
        printf("%-5s %.1e; own kernels %.1e\n", tensor_traits(type)->name, worst, own_worst);
        EXPECT_LE(worst, bound_of(type)) << tensor_traits(type)->name;
    }
}

// Three matrices in slabs, as layers have them, one of them in types that are staged otherwise, and one in F32: biases,
// sums, outputs of which some lie side by side.
TEST_F(Library, PartsOfMixedTypesWithBiasAndAccumulated) {
    Random random(32);
    const uint32_t n = 19, columns = 256, cuts[] = {0, 16, 64, 80, 107};
    const enum tensor_type types[3][4] = {{TENSOR_Q4_K, TENSOR_Q4_K, TENSOR_Q6_K, TENSOR_Q4_K},
                                          {TENSOR_F16, TENSOR_Q8_0, TENSOR_F16, TENSOR_F16},
                                          {TENSOR_BF16, TENSOR_BF16, TENSOR_F32, TENSOR_BF16}};
    const std::vector<float> x = random.normals(n * columns);
    for (unsigned flags = 0; flags < 4; flags++) {
        const bool biased = flags & 1, accumulated = flags & 2;
        SCOPED_TRACE(flags);
        Bench bench(library_config());
        const struct device_limits limits = limits_for(n, columns);
        ASSERT_OK(device_prepare(bench.device, &limits));
        const uint32_t rows = cuts[4], stride = 2 * rows + 7;
        const std::vector<float> bias = random.normals(rows);
        Buffer<float> in(bench, x), biases(bench, bias);
        Buffer<float> pair(bench, std::vector<float>(n * stride, 2.5f)),
            lone(bench, std::vector<float>(n * rows, 2.5f));
        std::vector<Matrix> matrices;
        std::vector<std::unique_ptr<Packed>> packed;
        std::vector<struct matmul_part> parts;
        matrices.reserve(12);
        for (int slab = 0; slab < 4; slab++) {
            for (int i = 0; i < 3; i++) { // the first two in one buffer
                matrices.emplace_back(random, types[i][slab], cuts[slab + 1] - cuts[slab], columns);
                packed.push_back(std::make_unique<Packed>(bench, matrices.back()));
                struct matmul_part part = {};
                part.weight = packed.back()->weight();
                part.bias = biased && i != 1 ? biases.at() + cuts[slab] : nullptr;
                part.out = (i == 2 ? lone.at() : pair.at() + i * rows) + cuts[slab];
                part.out_stride = i == 2 ? rows : stride;
                part.accumulate = accumulated && i != 2;
                parts.push_back(part);
            }
        }
        op_matmul(bench.stream, parts.data(), static_cast<uint32_t>(parts.size()), in.at(), columns, n);
        const std::vector<float> pairs = pair.read(), lones = lone.read();
        for (size_t p = 0; p < parts.size(); p++) {
            const Matrix &matrix = matrices[p];
            const uint32_t first = cuts[p / 3];
            std::vector<float> expected = expected_product(matrix, x, n), out;
            for (uint32_t i = 0; i < n; i++) {
                for (uint32_t row = 0; row < matrix.rows; row++) {
                    float &value = expected[i * matrix.rows + row];
                    value += (parts[p].bias ? bias[first + row] : 0) + (parts[p].accumulate ? 2.5f : 0);
                    out.push_back(p % 3 == 2 ? lones[i * rows + first + row]
                                             : pairs[i * stride + p % 3 * rows + first + row]);
                }
            }
            EXPECT_LE(relative_error(out, expected), 1e-5) << "part " << p;
        }
        for (uint32_t i = 0; i < n; i++) {
            for (uint32_t column = 2 * rows; column < stride; column++) {
                EXPECT_EQ(pairs[i * stride + column], 2.5f);
            }
        }
    }
}

// A matrix higher than what is unpacked at once, as that of a vocabulary: pieces of it, one of which is cut.
TEST_F(Library, ATileAfterTheOther) {
    Random random(33);
    const uint32_t n = 12, columns = 64, heights[] = {500, 16, 211};
    for (enum tensor_type type : {TENSOR_F16, TENSOR_Q4_1}) {
        Bench bench(library_config());
        const struct device_limits limits = limits_for(n, columns); // 64 rows a tile
        ASSERT_OK(device_prepare(bench.device, &limits));
        const std::vector<float> x = random.normals(n * columns);
        const uint32_t rows = heights[0] + heights[1] + heights[2];
        Buffer<float> in(bench, x), out(bench, n * rows);
        std::vector<Matrix> matrices;
        std::vector<std::unique_ptr<Packed>> packed;
        std::vector<float> expected(n * rows);
        struct matmul_part parts[3] = {};
        matrices.reserve(3);
        for (uint32_t i = 0, first = 0; i < 3; first += heights[i++]) {
            matrices.emplace_back(random, type, heights[i], columns);
            packed.push_back(std::make_unique<Packed>(bench, matrices[i]));
            parts[i].weight = packed[i]->weight();
            parts[i].out = out.at() + first;
            parts[i].out_stride = rows;
            const std::vector<float> piece = expected_product(matrices[i], x, n);
            for (uint32_t row = 0; row < n; row++) {
                std::copy_n(&piece[row * heights[i]], heights[i], &expected[row * rows + first]);
            }
        }
        op_matmul(bench.stream, parts, 3, in.at(), columns, n);
        EXPECT_LE(relative_error(out.read(), expected), 1e-5) << tensor_traits(type)->name;
    }
}

// F16: a factor for all rows, which neither a row that is not finite nor one that is huge may spoil for the others.
TEST_F(Library, ExtremeActivationsInF16) {
    Random random(34);
    const uint32_t columns = 96, rows = 33, n = 9;
    const Matrix matrix(random, TENSOR_F16, rows, columns);
    std::vector<float> x = random.normals(n * columns);
    std::fill_n(&x[0], columns, 0.0f);
    std::for_each(&x[columns], &x[2 * columns], [](float &value) { value *= 10000; });
    x[3 * columns + 40] = NAN;
    x[4 * columns + 40] = -INFINITY;
    for (float scale : {1.0f, 1e30f, 1e-30f}) {
        std::vector<float> scaled = x;
        std::for_each(scaled.begin(), scaled.end(), [&](float &value) { value *= scale; });
        const std::vector<float> out = product(library_config(), matrix, scaled, n);
        const std::vector<float> expected = expected_product(matrix, scaled, n);
        for (uint32_t i = 0; i < n; i++) {
            const std::vector<float> ours(&out[i * rows], &out[i * rows] + rows);
            const std::vector<float> want(&expected[i * rows], &expected[i * rows] + rows);
            if (i == 3 || i == 4) {
                EXPECT_TRUE(std::none_of(ours.begin(), ours.end(), [](float value) { return std::isfinite(value); }));
            } else {
                EXPECT_LE(relative_error(ours, want), 1e-5) << "row " << i << " times " << scale;
            }
        }
    }
}

// Sums over ranks: the first adds bias and residual.
TEST_F(Library, PartsOfASumOverRanks) {
    Random random(35);
    const uint32_t n = 9, columns = 64, rows = 48;
    struct device_config config = library_config();
    config.ranks = 2;
    struct device *device = nullptr;
    const struct status status = device_open(&config, &device);
    if (status.code != STATUS_OK) {
        GTEST_SKIP() << status.message;
    }
    device_close(device);
    Bench bench(config);
    const struct device_limits limits = limits_for(n, columns);
    ASSERT_OK(device_prepare(bench.device, &limits));
    EXPECT_FALSE(device_info(bench.device).invariant);
    const Matrix matrix(random, TENSOR_Q8_0, rows, columns);
    const std::vector<float> x = random.normals(n * columns), bias = random.normals(rows);
    Buffer<float> in(bench, x), biases(bench, bias), out(bench, std::vector<float>(n * rows, 2.5f));
    const Packed packed(bench, matrix);
    struct matmul_part part = {};
    part.weight = packed.weight();
    part.bias = biases.at();
    part.out = out.at();
    part.out_stride = rows;
    part.accumulate = true;
    op_matmul_partial(bench.stream, &part, 1, in.at(), columns, n);
    op_all_reduce(bench.stream, out.at(), n, rows);
    std::vector<float> expected = expected_product(matrix, x, n);
    for (size_t i = 0; i < expected.size(); i++) {
        expected[i] = 2 * expected[i] + bias[i % rows] + 2.5f;
    }
    EXPECT_LE(relative_error(out.read(), expected), 1e-5);
}

// A device says whether rows depend on their batch as soon as it is known.
TEST_F(Library, SaysWhetherItMultiplies) {
    struct Case {
        bool invariant;
        enum compute_mode compute;
        uint32_t rows, library_rows;
        bool before, after;
    };
    for (const Case &c :
         {Case{false, COMPUTE_INT8, 4096, 0, false, false},
          Case{false, COMPUTE_INT8, 255, 0, false, true}, // no batch is large enough
          Case{false, COMPUTE_INT8, 256, 0, false, false}, Case{false, COMPUTE_INT8, 8, 8, false, false},
          Case{true, COMPUTE_INT8, 4096, 0, true, true}, Case{false, COMPUTE_F32, 4096, 0, true, true}}) {
        struct device_config config = library_config(c.invariant, c.library_rows);
        config.compute = c.compute;
        Bench bench(config);
        const struct device_limits limits = limits_for(c.rows, 64);
        EXPECT_EQ(device_info(bench.device).invariant, c.before);
        ASSERT_OK(device_prepare(bench.device, &limits));
        EXPECT_EQ(device_info(bench.device).invariant, c.after) << c.rows << " rows";
    }
}

} // namespace
