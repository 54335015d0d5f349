// cuBLAS where it is not, and where it fails; and that the emulator's sums depend on the batch, so that tests of a
// device that is to be invariant would see it multiply.
#include "tests/cuemu/include/cuemu.h"
#include "tests/unit/kernels/matmul_rig.h"

namespace {

const uint32_t ROWS = 40, COLUMNS = 320;

struct device_config library_config(bool invariant = false) {
    struct device_config config = {};
    config.name = "cuda";
    config.invariant = invariant;
    config.library_rows = 4;
    return config;
}

bool contains(const std::string &text, const char *part) {
    return text.find(part) != std::string::npos;
}

class CuBlas : public ::testing::Test {
  protected:
    void TearDown() override {
        cuemu_recover();
    }
    static struct status prepare(struct device *device) {
        const struct device_limits limits = limits_for(16, COLUMNS);
        return device_prepare(device, &limits);
    }
    // The first rows of a product of n.
    std::vector<float> rows_of(Bench &bench, uint32_t n, uint32_t rows) {
        const std::vector<float> x(all_x.begin(), all_x.begin() + n * COLUMNS);
        const Packed packed(bench, matrix);
        Buffer<float> in(bench, x), out(bench, n * ROWS);
        struct matmul_part part = {};
        part.weight = packed.weight();
        part.out = out.at();
        part.out_stride = ROWS;
        op_matmul(bench.stream, &part, 1, in.at(), COLUMNS, n);
        const std::vector<float> all = out.read();
        return {all.begin(), all.begin() + rows * ROWS};
    }

    Random random{41};
    const Matrix matrix{random, TENSOR_BF16, ROWS, COLUMNS};
    const std::vector<float> all_x = random.normals(16 * COLUMNS);
};

TEST_F(CuBlas, SumsInAnOrderOfItsOwn) {
    for (bool invariant : {false, true}) {
        Bench bench(library_config(invariant));
        ASSERT_OK(prepare(bench.device));
        EXPECT_EQ(device_info(bench.device).invariant, invariant);
        EXPECT_EQ(bool(same_bits(rows_of(bench, 6, 3), rows_of(bench, 9, 3))), invariant);
        EXPECT_EQ(bool(same_bits(rows_of(bench, 3, 3), rows_of(bench, 9, 3))), invariant);
    }
}

// Said once, and own kernels multiply.
TEST_F(CuBlas, IsNotHere) {
    Bench bench(library_config()), invariant(library_config(true));
    for (int time = 0; time < 2; time++) {
        cuemu_fail_call("dlopen cuBLAS", 0, cudaErrorNotSupported);
        ::testing::internal::CaptureStderr();
        ASSERT_OK(prepare(bench.device));
        const std::string log = ::testing::internal::GetCapturedStderr();
        EXPECT_EQ(contains(log, "device cuda: cuBLAS: libcublas.so.13: cannot open shared object file; install it "
                                "(package libcublas-13-0)"),
                  time == 0)
            << log;
        EXPECT_TRUE(device_info(bench.device).invariant);
    }
    cuemu_recover();
    ASSERT_OK(prepare(invariant.device));
    EXPECT_TRUE(same_bits(rows_of(bench, 9, 9), rows_of(invariant, 9, 9)));
    ASSERT_OK(prepare(bench.device)); // it has been installed
    EXPECT_FALSE(device_info(bench.device).invariant);
}

TEST_F(CuBlas, CannotBeSetUp) {
    Bench bench(library_config());
    cuemu_fail_call("cublasCreate", 0, cudaErrorNotSupported);
    struct status status = prepare(bench.device);
    EXPECT_EQ(status.code, STATUS_DEVICE);
    EXPECT_STREQ(status.message,
                 "cublasCreate: the library was not initialized; with --invariant on it goes without cuBLAS");
    const char *const buffers[] = {"staged activations", "staged activations", "unpacked weights", "cuBLAS's workspace",
                                   "scales of products"};
    for (unsigned i = 0; i < 5; i++) {
        cuemu_fail_call("cudaMalloc", i, cudaErrorMemoryAllocation);
        status = prepare(bench.device);
        EXPECT_EQ(status.code, STATUS_NO_MEMORY);
        EXPECT_TRUE(contains(status.message, buffers[i])) << status.message;
    }
    ASSERT_OK(prepare(bench.device)); // and nothing was left behind
}

TEST_F(CuBlas, FailsItsStream) {
    for (const char *call : {"cublasSetStream", "cublasSetWorkspace", "cublasGemmEx", "cudaLaunchKernelExC"}) {
        Bench bench(library_config());
        ASSERT_OK(prepare(bench.device));
        {
            const Packed packed(bench, matrix);
            Buffer<float> in(bench, all_x), out(bench, 16 * ROWS);
            struct matmul_part part = {};
            part.weight = packed.weight();
            part.out = out.at();
            part.out_stride = ROWS;
            cuemu_fail_call(call, 0, cudaErrorLaunchFailure);
            for (int time = 0; time < 2; time++) {
                op_matmul(bench.stream, &part, 1, in.at(), COLUMNS, 16);
            }
            const struct status status = stream_sync(bench.stream);
            EXPECT_EQ(status.code, STATUS_DEVICE);
            EXPECT_TRUE(contains(status.message, call)) << status.message;
            EXPECT_EQ(contains(status.message, "--invariant on"), call[1] != 'u' || call[2] == 'b') << status.message;
            stream_destroy(bench.stream); // the buffers' destructors need one that works
            ASSERT_OK(stream_create(bench.device, STREAM_COMPUTE, &bench.stream));
            EXPECT_TRUE(std::isnan(out.read()[0])) << "a failed stream goes on";
        }
    }
}

} // namespace
