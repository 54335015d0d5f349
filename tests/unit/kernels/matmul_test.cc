// op_matmul, op_embed and packing: every type and mode against the references, and on the cpu device bit for bit in
// every instruction set, however the rows are cut and whoever computes them.
#include "tests/unit/kernels/matmul_rig.h"

namespace {

// x (n, columns) times the matrix, `chunk` rows a call. Between rows of the output lies poison, which must stay.
std::vector<float> product(Bench &bench, const Matrix &matrix, const std::vector<float> &x, uint32_t n,
                           uint32_t chunk) {
    const struct device_limits limits = limits_for(chunk, std::max(matrix.rows, matrix.columns));
    EXPECT_OK(device_prepare(bench.device, &limits));
    const size_t out_stride = matrix.rows + 5;
    const Packed packed(bench, matrix);
    Buffer<float> in(bench, x), out(bench, n * out_stride);
    struct matmul_part part = {};
    part.weight = packed.weight();
    part.out_stride = out_stride;
    for (uint32_t first = 0; first < n; first += chunk) {
        part.out = out.at() + first * out_stride;
        op_matmul(bench.stream, &part, 1, in.at() + static_cast<size_t>(first) * matrix.columns, matrix.columns,
                  std::min(chunk, n - first));
    }
    return rows_without_gaps(out.read(), n, matrix.rows, out_stride);
}

// What int8 compute sees of x: each block of 32 rounded to 127 steps of its largest.
std::vector<float> rounded_to_int8(std::vector<float> x) {
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

// What a device sees of x: under int8 compute every device rounds the activations of quantized weights to int8, and
// cuda those of 16-bit weights to the weights' type.
std::vector<float> as_seen(const Setting &setting, enum tensor_type type, const std::vector<float> &x) {
    if (setting.compute == COMPUTE_F32 || type == TENSOR_F32) {
        return x;
    }
    if (quantized(type)) {
        return rounded_to_int8(x);
    }
    return strcmp(setting.device, "cuda") != 0 ? x : rounded_to_bits(x, type == TENSOR_F16 ? 11 : 8);
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

class EveryMode : public ::testing::TestWithParam<enum compute_mode> {};
INSTANTIATE_TEST_SUITE_P(Matmul, EveryMode, ::testing::Values(COMPUTE_INT8, COMPUTE_F32),
                         [](const auto &mode) { return mode.param == COMPUTE_INT8 ? "int8" : "f32"; });

TEST_P(EveryMode, MatchesTheReferenceAndIsTheSameInEveryInstructionSet) {
    Random random(1);
    for (enum tensor_type type : all_types) {
        for (const Shape &shape : shapes_of(type)) {
            SCOPED_TRACE(std::string(tensor_traits(type)->name) + " " + std::to_string(shape.rows) + "x" +
                         std::to_string(shape.columns) + " by " + std::to_string(shape.n));
            const Matrix matrix(random, type, shape.rows, shape.columns);
            const std::vector<float> x = random.normals(static_cast<size_t>(shape.n) * shape.columns, 3);
            const std::vector<float> exact = reference_product(matrix, x, shape.n);
            std::vector<float> expected, first;
            const char *device = "";
            for (const Setting &setting : every_setting(GetParam())) {
                Bench bench(setting);
                const std::vector<float> out = product(bench, matrix, x, shape.n, shape.n);
                if (strcmp(device, setting.device) != 0) {
                    expected = reference_product(matrix, as_seen(setting, type, x), shape.n);
                }
                EXPECT_LE(relative_error(out, expected), 1e-5) << setting.name();
                if (out.size() > 100) { // one output alone may cancel to nearly nothing
                    EXPECT_LE(relative_error(out, exact), 2e-2) << setting.name();
                }
                first = strcmp(device, setting.device) == 0 ? first : out;
                device = setting.device;
                EXPECT_TRUE(same_bits(out, first)) << setting.name();
            }
        }
    }
}

TEST_P(EveryMode, ARowDependsOnNeitherItsNeighboursNorChunksNorThreads) {
    Random random(2);
    const uint32_t n = 37, rows = 50;
    for (enum tensor_type type : all_types) {
        const uint32_t columns = quantized(type) ? 256 : 131;
        const Matrix matrix(random, type, rows, columns);
        const std::vector<float> x = random.normals(static_cast<size_t>(n) * columns);
        for (Setting setting : every_setting(GetParam())) {
            setting.threads = setting.threads == 2 ? 3 : 1;
            SCOPED_TRACE(tensor_traits(type)->name + (" " + setting.name()));
            Bench bench(setting);
            const std::vector<float> whole = product(bench, matrix, x, n, n);
            for (uint32_t chunk : {1, 2, 7, 16}) {
                EXPECT_TRUE(same_bits(product(bench, matrix, x, n, chunk), whole)) << "chunk " << chunk;
            }
        }
    }
}

// Around the numbers at which devices change to another kernel or another tile.
TEST_P(EveryMode, AnyNumberOfRowsGivesTheSameBits) {
    Random random(20);
    const uint32_t n = 70, rows = 24;
    for (enum tensor_type type : all_types) {
        const uint32_t columns = quantized(type) ? 768 : 715;
        const Matrix matrix(random, type, rows, columns);
        const std::vector<float> x = random.normals(static_cast<size_t>(n) * columns);
        for (const Setting &setting : every_setting(GetParam())) {
            SCOPED_TRACE(tensor_traits(type)->name + (" " + setting.name()));
            Bench bench(setting);
            const std::vector<float> whole = product(bench, matrix, x, n, n);
            EXPECT_LE(relative_error(whole, reference_product(matrix, as_seen(setting, type, x), n)), 1e-5);
            for (uint32_t first : {1, 9, 17, 32, 33, 65}) {
                const std::vector<float> expected(whole.begin(), whole.begin() + static_cast<size_t>(first) * rows);
                EXPECT_TRUE(same_bits(product(bench, matrix, x, first, first), expected)) << first << " rows";
            }
        }
    }
}

// A matrix in pieces, cut where the header allows it, takes no more bytes and gives the same bits.
TEST_P(EveryMode, PiecesGiveWhatTheWholeGives) {
    Random random(21);
    const uint32_t rows = 100, columns = 256, cuts[] = {0, 16, 64, 80, rows};
    for (enum tensor_type type : all_types) {
        const Matrix matrix(random, type, rows, columns);
        std::vector<Matrix> pieces;
        for (int i = 0; i < 4; i++) {
            pieces.push_back(matrix.rows_between(cuts[i], cuts[i + 1]));
        }
        for (uint32_t n : {3u, 40u}) {
            const std::vector<float> x = random.normals(static_cast<size_t>(n) * columns);
            for (const Setting &setting : every_setting(GetParam())) {
                Bench bench(setting);
                const std::vector<float> whole = product(bench, matrix, x, n, n);
                std::vector<std::unique_ptr<Packed>> packed;
                Buffer<float> in(bench, x), out(bench, static_cast<size_t>(n) * rows);
                struct matmul_part parts[4] = {};
                size_t bytes = 0;
                for (int i = 0; i < 4; i++) {
                    packed.push_back(std::make_unique<Packed>(bench, pieces[i]));
                    parts[i].weight = packed[i]->weight();
                    parts[i].out = out.at() + cuts[i];
                    parts[i].out_stride = rows;
                    bytes += device_packed_bytes(bench.device, type, pieces[i].rows, columns);
                }
                op_matmul(bench.stream, parts, 4, in.at(), columns, n);
                EXPECT_TRUE(same_bits(out.read(), whole)) << setting.name() << " " << tensor_traits(type)->name;
                EXPECT_LE(bytes, device_packed_bytes(bench.device, type, rows, columns)) << setting.name();
            }
        }
    }
}

// More rows than the chunk that a task keeps in cache, more groups than tasks.
TEST(Matmul, ManyRowsAreCutIntoChunks) {
    Random random(3);
    const uint32_t n = 140, rows = 600, columns = 4096;
    const Setting best = cpu_settings().back();
    if (std::string(best.isa) == "scalar") {
        GTEST_SKIP() << "takes long in plain C";
    }
    const Matrix matrix(random, TENSOR_Q4_1, rows, columns);
    const std::vector<float> x = random.normals(static_cast<size_t>(n) * columns);
    Bench bench(best);
    EXPECT_TRUE(same_bits(product(bench, matrix, x, n, n), product(bench, matrix, x, n, 1)));
}

TEST_P(EveryMode, PartsOfMixedTypesWithBiasAndAccumulated) {
    Random random(4);
    const uint32_t n = 11, columns = 256;
    const Matrix matrices[] = {Matrix(random, TENSOR_Q4_K, 40, columns), Matrix(random, TENSOR_Q6_K, 24, columns),
                               Matrix(random, TENSOR_F16, 7, columns)};
    const std::vector<float> x = random.normals(n * columns), bias = random.normals(40);
    for (const Setting &setting : every_setting(GetParam())) {
        Bench bench(setting);
        const struct device_limits limits = limits_for(n, columns);
        ASSERT_OK(device_prepare(bench.device, &limits));
        Buffer<float> in(bench, x), biases(bench, bias);
        std::vector<std::unique_ptr<Packed>> packed;
        std::vector<std::unique_ptr<Buffer<float>>> out;
        struct matmul_part parts[3] = {};
        for (int i = 0; i < 3; i++) {
            packed.push_back(std::make_unique<Packed>(bench, matrices[i]));
            out.push_back(std::make_unique<Buffer<float>>(bench, std::vector<float>(n * matrices[i].rows, 2.5f)));
            parts[i].weight = packed[i]->weight();
            parts[i].out = out[i]->at();
            parts[i].out_stride = matrices[i].rows;
            parts[i].bias = i != 1 ? biases.at() : nullptr;
            parts[i].accumulate = i != 2;
        }
        op_matmul(bench.stream, parts, 3, in.at(), columns, n);
        ASSERT_OK(stream_sync(bench.stream)); // product() prepares the device anew
        for (int i = 0; i < 3; i++) {
            std::vector<float> expected = product(bench, matrices[i], x, n, n);
            for (size_t at = 0; at < expected.size(); at++) {
                expected[at] += parts[i].bias ? bias[at % matrices[i].rows] : 0;
                expected[at] += parts[i].accumulate ? 2.5f : 0;
            }
            EXPECT_TRUE(same_bits(out[i]->read(), expected)) << setting.name() << " part " << i;
        }
    }
}

// Blocks of zeros and of numbers whose reciprocal is infinite count as zeros; what is not finite stays in its row.
TEST(Matmul, ExtremeActivationsInInt8) {
    Random random(5);
    const uint32_t columns = 96, rows = 33;
    const Matrix matrix(random, TENSOR_Q8_0, rows, columns);
    std::vector<float> x = random.normals(6 * columns);
    std::fill_n(&x[0], columns, 0.0f);
    std::fill_n(&x[columns], columns, 1e-42f);
    std::for_each(&x[2 * columns], &x[3 * columns], [](float &value) { value *= 1e30f; });
    x[3 * columns + 40] = NAN;
    x[4 * columns + 40] = -INFINITY;
    for (const Setting &setting : every_setting()) {
        Bench bench(setting);
        const std::vector<float> out = product(bench, matrix, x, 6, 6);
        for (uint32_t i = 0; i < rows; i++) {
            EXPECT_EQ(out[i], 0);
            EXPECT_EQ(out[rows + i], 0);
            EXPECT_TRUE(std::isfinite(out[2 * rows + i]));
            EXPECT_TRUE(std::isnan(out[3 * rows + i]));
            EXPECT_TRUE(std::isnan(out[4 * rows + i]));
        }
        const std::vector<float> last_x(x.end() - columns, x.end()), last(out.end() - rows, out.end());
        EXPECT_TRUE(same_bits(product(bench, matrix, last_x, 1, 1), last)) << setting.name();
    }
}

TEST(Pack, KeepsTheBitsPerWeight) {
    Bench bench(every_setting().front());
    for (enum tensor_type type : all_types) {
        const size_t file = tensor_row_bytes(type, 1024) * 64;
        const size_t packed = device_packed_bytes(bench.device, type, 64, 1024);
        EXPECT_EQ(packed % 64, 0u);
        EXPECT_GE(packed, file) << tensor_traits(type)->name;
        EXPECT_LE(static_cast<double>(packed), 1.03 * static_cast<double>(file)) << tensor_traits(type)->name;
    }
}

TEST(Embed, GivesTheExactRows) {
    Random random(7);
    for (const Setting &setting : every_setting()) {
        for (enum tensor_type type : all_types) {
            const uint32_t columns = quantized(type) ? 512 : 77, rows = 53, n = 30;
            const Matrix table(random, type, rows, columns);
            Bench bench(setting);
            const struct device_limits limits = limits_for(n, columns);
            ASSERT_OK(device_prepare(bench.device, &limits));
            std::vector<uint32_t> ids(n, rows - 1);
            std::generate(ids.begin() + 1, ids.end(), [&random] { return random.below(rows); });
            std::vector<float> expected(n * columns);
            ref_embed(expected.data(), table.reference(), ids.data(), n);

            const Packed packed(bench, table);
            Buffer<uint32_t> device_ids(bench, ids);
            Buffer<float> out(bench, n * columns);
            op_embed(bench.stream, out.at(), packed.weight(), device_ids.at(), n);
            EXPECT_TRUE(same_bits(out.read(), expected)) << setting.name() << " " << tensor_traits(type)->name;
        }
    }
}

TEST(Embed, RefusesAnIdOutsideTheTable) {
    Random random(8);
    const Matrix table(random, TENSOR_F32, 20, 32);
    struct device_config config = cpu_config();
    Device cpu(config);
    const struct device_limits limits = limits_for(2, 32);
    ASSERT_OK(device_prepare(cpu.device, &limits));
    uint8_t *packed = cpu.alloc<uint8_t>(device_packed_bytes(cpu.device, TENSOR_F32, 20, 32));
    uint32_t *ids = cpu.alloc<uint32_t>(2);
    float *out = cpu.alloc<float>(64);
    ids[0] = 19;
    ids[1] = 20;
    device_pack(cpu.device, TENSOR_F32, 20, 32, table.file.data(), packed);
    struct stream *stream = cpu.stream(STREAM_COMPUTE);
    op_embed(stream, out, {packed, TENSOR_F32, 20, 32}, ids, 2);
    const struct status status = stream_sync(stream);
    EXPECT_EQ(status.code, STATUS_DEVICE);
    EXPECT_NE(std::string(status.message).find("id 20 of a table of 20"), std::string::npos) << status.message;
}

TEST(AddRows, RefusesARowOutsideTheTable) {
    struct device_config config = cpu_config();
    Device cpu(config);
    float *table = cpu.alloc<float>(20 * 32), *out = cpu.alloc<float>(64);
    uint32_t *ids = cpu.alloc<uint32_t>(2);
    std::fill(table, table + 20 * 32, 1.0f);
    std::fill(out, out + 64, 1.0f);
    ids[0] = 19;
    ids[1] = 20;
    struct stream *stream = cpu.stream(STREAM_COMPUTE);
    op_add_rows(stream, out, table, 20, ids, 1, 32);
    ASSERT_OK(stream_sync(stream));
    EXPECT_EQ(out[31], 2);
    EXPECT_EQ(out[32], 1);
    op_add_rows(stream, out, table, 20, ids, 2, 32);
    const struct status status = stream_sync(stream);
    EXPECT_EQ(status.code, STATUS_DEVICE);
    EXPECT_NE(std::string(status.message).find("id 20 of a table of 20"), std::string::npos) << status.message;
}

} // namespace
