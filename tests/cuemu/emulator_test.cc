// The emulator itself: what it computes is what a GPU would, and what it is there to find, it finds.
#include "tests/cuemu/include/cuemu.h"

#include <cuda_runtime.h>
#include <cuemu_ptx.h>

#include <cstdlib>
#include <gtest/gtest.h>
#include <thread>
#include <vector>

namespace {

// A stream, launches on it, and buffers that are freed in the end.
class Emulator : public ::testing::Test {
  protected:
    void SetUp() override {
        ASSERT_EQ(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, 0), cudaSuccess);
    }
    void TearDown() override {
        cuemu_recover();
        cuemu_set_seed(0);
        cuemu_set_delay_us(0);
        ASSERT_EQ(cudaStreamDestroy(stream), cudaSuccess);
        for (void *buffer : buffers) {
            ASSERT_EQ(cudaFree(buffer), cudaSuccess);
        }
    }
    template <typename T> T *alloc(size_t count) {
        void *address = nullptr;
        EXPECT_EQ(cudaMalloc(&address, count * sizeof(T)), cudaSuccess);
        buffers.push_back(address);
        return static_cast<T *>(address);
    }
    template <typename... P, typename... A>
    cudaError_t launch(dim3 grid, dim3 block, size_t shared_bytes, void (*kernel)(P...), A... arguments) {
        cudaLaunchConfig_t config = {};
        config.gridDim = grid;
        config.blockDim = block;
        config.dynamicSmemBytes = shared_bytes;
        config.stream = stream;
        return cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...);
    }
    template <typename T> std::vector<T> read(const T *from, size_t count) {
        std::vector<T> values(count);
        EXPECT_EQ(cudaMemcpyAsync(values.data(), from, count * sizeof(T), cudaMemcpyDeviceToHost, stream), cudaSuccess);
        EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
        return values;
    }

    cudaStream_t stream = nullptr;

  private:
    std::vector<void *> buffers;
};

// Death tests run the whole test in a process of its own: streams are threads.
class EmulatorDeathTest : public Emulator {
  protected:
    void SetUp() override {
        ::testing::FLAGS_gtest_death_test_style = "threadsafe";
        Emulator::SetUp();
    }
    // Launches, waits, and expects to die with `says`.
    template <typename... P, typename... A>
    void dies(const char *says, dim3 block, void (*kernel)(P...), A... arguments) {
        EXPECT_DEATH(
            {
                launch(1, block, 0, kernel, arguments...);
                cudaStreamSynchronize(stream);
            },
            says);
    }
};

// ---- blocks ----

__global__ void reverse(int *out, int count) {
    CUDA_DYNAMIC_SHARED(int, shared);
    int i = static_cast<int>(threadIdx.x);
    shared[i] = i;
    __syncthreads();
    out[blockIdx.x * count + i] = shared[count - 1 - i];
}

TEST_F(Emulator, BarriersHoldInEverySchedule) {
    for (uint64_t seed : {0, 1, 2, 3, 17}) {
        cuemu_set_seed(seed);
        int *out = alloc<int>(3 * 777);
        ASSERT_EQ(launch(3, 777, 777 * sizeof(int), reverse, out, 777), cudaSuccess);
        std::vector<int> got = read(out, 3 * 777);
        for (int i = 0; i < 3 * 777; i++) {
            ASSERT_EQ(got[i], 776 - i % 777) << "seed " << seed;
        }
    }
}

__global__ void reverse_without_barrier(int *out, int count) {
    CUDA_DYNAMIC_SHARED(int, shared);
    int i = static_cast<int>(threadIdx.x);
    shared[i] = i;
    out[i] = shared[count - 1 - i];
}

TEST_F(Emulator, AMissingBarrierGivesWrongNumbers) {
    int *out = alloc<int>(256);
    launch(1, 256, 1024, reverse_without_barrier, out, 256);
    std::vector<int> got = read(out, 256);
    int wrong = 0;
    for (int i = 0; i < 256; i++) {
        wrong += got[i] != 255 - i;
    }
    EXPECT_GT(wrong, 50);
}

__global__ void divergent_barrier(int *out) {
    if (threadIdx.x < 10) {
        __syncthreads();
    } else {
        __syncwarp(0xffffffff); // lanes 0 .. 9 never come
    }
    *out = 1;
}

TEST_F(EmulatorDeathTest, ABarrierThatIsNotReachedIsFound) {
    dies("nobody can go on: 10 of the block's 32 threads wait", 32, divergent_barrier, alloc<int>(1));
}

__global__ void votes(int *out) {
    int i = static_cast<int>(threadIdx.x);
    out[i] = __syncthreads_count(i % 3 == 0);
    out[64 + i] = static_cast<int>(__ballot_sync(0xffffffff, i % 2));
    out[128 + i] = __shfl_xor_sync(0xffffffffu, i, 5);
    out[192 + i] = __shfl_down_sync(0xffffffffu, i, 3, 8);
    out[256 + i] = __reduce_add_sync(0xffffffffu, i);
    if (i % 32 < 16) { // two groups of one warp, at once
        out[320 + i] = __shfl_sync(0x0000ffffu, i, 7);
    } else {
        out[320 + i] = __shfl_sync(0xffff0000u, i, 23);
    }
}

TEST_F(Emulator, LanesVoteAndShuffle) {
    int *out = alloc<int>(384);
    launch(1, 64, 0, votes, out);
    std::vector<int> got = read(out, 384);
    for (int i = 0; i < 64; i++) {
        int base = i / 32 * 32;
        EXPECT_EQ(got[i], 22);
        EXPECT_EQ(static_cast<unsigned>(got[64 + i]), 0xaaaaaaaau);
        EXPECT_EQ(got[128 + i], i ^ 5);
        EXPECT_EQ(got[192 + i], i % 8 + 3 < 8 ? i + 3 : i);
        EXPECT_EQ(got[256 + i], i < 32 ? 496 : 496 + 32 * 32);
        EXPECT_EQ(got[320 + i], base + (i % 32 < 16 ? 7 : 23));
    }
}

__global__ void mask_without_itself() {
    __shfl_sync(0x0000fffeu, 1, 1);
}
__global__ void masks_that_differ() {
    __shfl_sync(threadIdx.x == 0 ? 0xffffffffu : 0x7fffffffu, 1, 1);
}
__global__ void operations_that_differ() {
    if (threadIdx.x == 0) {
        __syncwarp();
    } else {
        __ballot_sync(0xffffffffu, 1);
    }
}

TEST_F(EmulatorDeathTest, LanesThatDoNotAgreeAreFound) {
    dies("leaves out its own lane", 32, mask_without_itself);
    dies("meet with masks", 32, masks_that_differ);
    dies("meet in different operations", 32, operations_that_differ);
}

__global__ void sum_atomically(float *sum, int *most) {
    atomicAdd(sum, 1.0f);
    atomicMax(most, static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x));
}

TEST_F(Emulator, AtomicsAdd) {
    float *sum = alloc<float>(1);
    int *most = alloc<int>(1);
    cudaMemsetAsync(sum, 0, sizeof *sum, stream);
    launch(dim3(2, 3, 2), dim3(4, 5, 2), 0, sum_atomically, sum, most);
    EXPECT_EQ(read(sum, 1)[0], 12 * 40);
    EXPECT_EQ(read(most, 1)[0], 1 * 4 + 3);
}

// ---- memory ----

__global__ void write_at(float *values, long index) {
    values[index] = 1;
}
__global__ void read_at(float *out, const float *values, long index) {
    *out = values[index];
}

TEST_F(EmulatorDeathTest, WritesAndReadsOutsideAreFound) {
    float *values = alloc<float>(100), *out = alloc<float>(1);
    dies("write_at: wrote 0 bytes after the end of 400 bytes of device memory", 1, write_at, values, 100L);
    dies("write_at: wrote 4 bytes before 400 bytes of device memory", 1, write_at, values, -1L);
    dies("write_at, block .0, 0, 0., thread .0, 0, 0.: touches", 1, write_at, values, 2000L);
    dies("read_at, .*touches", 1, read_at, out, values, 2000L);
    dies("no device memory|null pointer", 1, read_at, out, static_cast<const float *>(nullptr), 0L);
}

TEST_F(Emulator, MemoryThatWasNotWrittenIsNaN) {
    float *values = alloc<float>(10), *out = alloc<float>(1);
    launch(1, 1, 0, read_at, out, values, 5L);
    EXPECT_TRUE(std::isnan(read(out, 1)[0]));
}

TEST_F(Emulator, RefusesWhatTheRuntimeRefuses) {
    float *values = alloc<float>(100);
    float host[100];
    EXPECT_EQ(launch(1, 1025, 0, write_at, values, 0L), cudaErrorInvalidConfiguration);
    EXPECT_EQ(launch(dim3(1, 65536), 1, 0, write_at, values, 0L), cudaErrorInvalidConfiguration);
    EXPECT_EQ(launch(0, 1, 0, write_at, values, 0L), cudaErrorInvalidConfiguration);
    EXPECT_EQ(launch(1, 1, 48 * 1024 + 1, write_at, values, 0L), cudaErrorInvalidValue) << "without asking";
    EXPECT_EQ(cudaFuncSetAttribute(write_at, cudaFuncAttributeMaxDynamicSharedMemorySize, 99 * 1024), cudaSuccess);
    EXPECT_EQ(launch(1, 1, 99 * 1024, write_at, values, 0L), cudaSuccess);
    EXPECT_EQ(cudaFuncSetAttribute(write_at, cudaFuncAttributeMaxDynamicSharedMemorySize, 100 * 1024),
              cudaErrorInvalidValue);
    EXPECT_EQ(cudaMemcpyAsync(values, host, 404, cudaMemcpyHostToDevice, stream), cudaErrorInvalidValue) << "too long";
    EXPECT_EQ(cudaMemcpyAsync(host, host, 4, cudaMemcpyHostToDevice, stream), cudaErrorInvalidValue) << "not there";
    EXPECT_EQ(cudaMemcpyAsync(values, values, 4, cudaMemcpyHostToDevice, stream), cudaErrorInvalidValue);
    EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue);
    EXPECT_EQ(cudaGetLastError(), cudaSuccess);
    EXPECT_EQ(cudaFree(host), cudaErrorInvalidValue);
}

// ---- tensor cores and copies in the background ----

// One warp multiplies (16, 16) by (16, 8); fragments by the PTX manual, read from plain row-major matrices.
template <bool BF16> __global__ void multiply(float *out, const uint16_t *a, const uint16_t *b) {
    int lane = static_cast<int>(threadIdx.x), group = lane / 4, pair = lane % 4 * 2;
    auto at = [](const uint16_t *m, int width, int row, int column) {
        return static_cast<uint32_t>(m[row * width + column]);
    };
    uint32_t left[4], right[2];
    for (int r = 0; r < 4; r++) {
        int row = group + r % 2 * 8, column = pair + r / 2 * 8;
        left[r] = at(a, 16, row, column) | at(a, 16, row, column + 1) << 16;
    }
    for (int r = 0; r < 2; r++) {
        right[r] = at(b, 8, pair + r * 8, group) | at(b, 8, pair + r * 8 + 1, group) << 16;
    }
    float sums[4] = {};
    if (BF16) {
        mma_m16n8k16_bf16(sums, left, right);
    } else {
        mma_m16n8k16_f16(sums, left, right);
    }
    for (int r = 0; r < 4; r++) {
        out[(group + r / 2 * 8) * 8 + pair + r % 2] = sums[r];
    }
}

TEST_F(Emulator, TensorCoresMultiply) {
    std::vector<float> a(256), b(128);
    std::vector<uint16_t> a16(256), b16(128);
    for (bool bf16 : {false, true}) {
        auto pack = [bf16](float value) {
            return bf16 ? __bfloat16_as_ushort(__float2bfloat16_rn(value)) : __half_as_ushort(__float2half_rn(value));
        };
        for (int i = 0; i < 256; i++) {
            a16[i] = pack(a[i] = static_cast<float>(i * 7 % 23 - 11)); // small whole numbers: exact in both types
        }
        for (int i = 0; i < 128; i++) {
            b16[i] = pack(b[i] = static_cast<float>(i * 5 % 17 - 8));
        }
        uint16_t *da = alloc<uint16_t>(256), *db = alloc<uint16_t>(128);
        float *out = alloc<float>(128);
        cudaMemcpyAsync(da, a16.data(), 512, cudaMemcpyHostToDevice, stream);
        cudaMemcpyAsync(db, b16.data(), 256, cudaMemcpyHostToDevice, stream);
        launch(1, 32, 0, bf16 ? multiply<true> : multiply<false>, out, da, db);
        std::vector<float> got = read(out, 128);
        for (int row = 0; row < 16; row++) {
            for (int column = 0; column < 8; column++) {
                float sum = 0;
                for (int k = 0; k < 16; k++) {
                    sum += a[row * 16 + k] * b[k * 8 + column];
                }
                ASSERT_EQ(got[row * 8 + column], sum) << row << ", " << column;
            }
        }
    }
}

// Rows of 16 bytes come in by cp.async and are turned around in shared memory.
__global__ void copy_around(uint4 *out, const uint4 *in, int waits) {
    __shared__ uint4 shared[64];
    unsigned i = threadIdx.x;
    cp_async_16(&shared[i], &in[i], i != 5);
    cp_async_commit();
    if (waits) {
        cp_async_wait<0>();
    }
    __syncthreads();
    out[i] = shared[63 - i];
    __syncthreads();
    cp_async_wait<0>();
}

TEST_F(Emulator, CopiesInTheBackgroundComeWithTheWait) {
    uint4 *in = alloc<uint4>(64), *out = alloc<uint4>(64);
    std::vector<uint4> values(64);
    for (unsigned i = 0; i < 64; i++) {
        values[i] = {i, i, i, i};
    }
    cudaMemcpyAsync(in, values.data(), 1024, cudaMemcpyHostToDevice, stream);
    launch(1, 64, 0, copy_around, out, in, 1);
    std::vector<uint4> got = read(out, 64);
    for (unsigned i = 0; i < 64; i++) {
        EXPECT_EQ(got[i].z, 63 - i == 5 ? 0 : 63 - i);
    }
    launch(1, 64, 0, copy_around, out, in, 0);
    got = read(out, 64);
    for (unsigned i = 0; i < 64; i++) {
        EXPECT_EQ(got[i].z, 0xffffffffu) << "without the wait nothing has come";
    }
}

// ---- streams ----

TEST_F(Emulator, StreamsRunBesideEachOtherAndEventsOrderThem) {
    cuemu_set_seed(1);
    cuemu_set_delay_us(300);
    cudaStream_t other;
    cudaEvent_t event;
    ASSERT_EQ(cudaStreamCreateWithPriority(&other, cudaStreamNonBlocking, 0), cudaSuccess);
    ASSERT_EQ(cudaEventCreateWithFlags(&event, cudaEventDefault), cudaSuccess);
    int *value = alloc<int>(1);
    int late = 0;
    for (bool wait : {true, false}) {
        for (int i = 0; i < 60; i++) {
            int seen = -1;
            cudaMemcpyAsync(value, &i, sizeof i, cudaMemcpyHostToDevice, stream);
            cudaEventRecord(event, stream);
            if (wait) {
                cudaStreamWaitEvent(other, event, 0);
            }
            cudaMemcpyAsync(&seen, value, sizeof seen, cudaMemcpyDeviceToHost, other);
            cudaStreamSynchronize(other);
            cudaStreamSynchronize(stream);
            late += seen != i;
        }
        EXPECT_TRUE(wait ? late == 0 : late > 5) << late << " of 60 came too late";
    }
    cudaEventDestroy(event);
    cudaStreamDestroy(other);
}

// ---- the report ----

TEST_F(Emulator, CountsKernelsAndShapes) {
    struct cuemu_count before = cuemu_count();
    float *values = alloc<float>(1);
    for (int i = 0; i < 3; i++) {
        launch(1, 1, 16 * i, read_at, values, values, 0L);
    }
    struct cuemu_count after = cuemu_count();
    EXPECT_EQ(after.launches - before.launches, 3u);
    EXPECT_EQ(after.threads - before.threads, 3u);
    EXPECT_GE(after.shapes - before.shapes, 2u);
}

// ---- several GPUs ----

__global__ void write_system(uint32_t *out, uint32_t value) {
    store_system(out, value);
    store_system(reinterpret_cast<uint4 *>(out) + 1, make_uint4(value, value, value, value));
}

TEST_F(EmulatorDeathTest, AWriteToAnotherGpuTakesAccess) {
    struct cuemu_machine machine = cuemu_machine(), two = machine;
    two.devices = 2;
    cuemu_set_machine(two);
    int can = 0;
    EXPECT_EQ(cudaDeviceCanAccessPeer(&can, 0, 1), cudaSuccess);
    EXPECT_EQ(can, 1);
    EXPECT_EQ(cudaDeviceCanAccessPeer(&can, 0, 0), cudaSuccess);
    EXPECT_EQ(can, 0);
    EXPECT_EQ(cudaDeviceCanAccessPeer(&can, 0, 2), cudaErrorInvalidDevice);
    ASSERT_EQ(cudaSetDevice(1), cudaSuccess);
    uint32_t *theirs = alloc<uint32_t>(8);
    ASSERT_EQ(cudaSetDevice(0), cudaSuccess);
    dies("GPU 1, whose memory its own GPU has no access to", 1, write_system, theirs, 7u);
    EXPECT_EQ(cudaDeviceEnablePeerAccess(1, 0), cudaSuccess);
    EXPECT_EQ(cudaDeviceEnablePeerAccess(1, 0), cudaErrorPeerAccessAlreadyEnabled);
    EXPECT_EQ(cudaGetLastError(), cudaErrorPeerAccessAlreadyEnabled);
    ASSERT_EQ(launch(1, 1, 0, write_system, theirs, 7u), cudaSuccess);
    ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    EXPECT_EQ(theirs[0], 7u);
    EXPECT_EQ(theirs[7], 7u);
    two.deaf = true;
    cuemu_set_machine(two);
    ASSERT_EQ(launch(1, 1, 0, write_system, theirs, 8u), cudaSuccess);
    ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    EXPECT_EQ(theirs[4], 7u);
    cuemu_set_machine(machine);
}

// A GPU's failure is its own.
TEST_F(Emulator, AGpuBreaksAlone) {
    struct cuemu_machine machine = cuemu_machine(), two = machine;
    two.devices = 2;
    cuemu_set_machine(two);
    uint32_t *ours = alloc<uint32_t>(8);
    cuemu_fail_kernel_of(1, cudaErrorIllegalAddress);
    ASSERT_EQ(launch(1, 1, 0, write_system, ours, 5u), cudaSuccess);
    ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    EXPECT_EQ(ours[0], 5u) << "it was another GPU's kernel that was to fail";
    ASSERT_EQ(cudaSetDevice(1), cudaSuccess);
    cudaStream_t theirs;
    ASSERT_EQ(cudaStreamCreateWithPriority(&theirs, cudaStreamNonBlocking, 0), cudaSuccess);
    cudaLaunchConfig_t config = {};
    config.gridDim = config.blockDim = 1;
    config.stream = theirs;
    uint32_t *nowhere = nullptr;
    ASSERT_EQ(cudaLaunchKernelEx(&config, write_system, nowhere, 6u), cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(theirs), cudaErrorIllegalAddress);
    ASSERT_EQ(cudaSetDevice(0), cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    cuemu_recover();
    EXPECT_EQ(cudaStreamDestroy(theirs), cudaSuccess);
    cuemu_set_machine(machine);
}

} // namespace
