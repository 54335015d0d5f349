// The cuda device when something is wrong: machines without a driver or a GPU, calls that fail, kernels that break the
// device. The emulator plays the machine.
#include "tests/cuemu/include/cuemu.h"
#include "tests/unit/kernels/kernel_test.h"

namespace {

bool contains(const char *text, const char *part) {
    return std::string(text).find(part) != std::string::npos;
}

struct device_config cuda_config() {
    struct device_config config = {};
    config.name = "cuda";
    return config;
}

struct status open_cuda() {
    struct device_config config = cuda_config();
    struct device *device = nullptr;
    struct status status = device_open(&config, &device);
    device_close(device);
    return status;
}

class Failure : public ::testing::Test {
  protected:
    void TearDown() override {
        cuemu_set_machine(machine);
        cuemu_recover();
    }
    void set_gpus(int count, unsigned timer_speed = 0) {
        struct cuemu_machine other = machine;
        other.devices = count;
        other.timer_speed = timer_speed;
        cuemu_set_machine(other);
    }
    const struct cuemu_machine machine = cuemu_machine();
};

TEST_F(Failure, AMachineThatCannotIsToldApart) {
    struct Case {
        int driver, devices, capability;
        enum status_code code;
        const char *says;
    };
    const Case cases[] = {
        {0, 0, 80, STATUS_DEVICE, "device cuda: there is no NVIDIA driver here (libcuda.so.1 was not found)"},
        {12040, 1, 80, STATUS_DEVICE, "the NVIDIA driver is too old: it has CUDA 12.4 and this build needs 13.0"},
        {13000, 0, 80, STATUS_DEVICE, "there is a driver and no GPU (cudaGetDeviceCount)"},
        {13010, 1, 75, STATUS_UNSUPPORTED, "has compute capability 7.5; it takes 8.0 (Ampere) or later"},
        {13010, 1, 90, STATUS_OK, ""},
    };
    for (const Case &c : cases) {
        struct cuemu_machine other = machine;
        other.driver_version = c.driver;
        other.devices = c.devices;
        other.capability = c.capability;
        cuemu_set_machine(other);
        struct status status = open_cuda();
        EXPECT_EQ(status.code, c.code) << c.says;
        EXPECT_TRUE(contains(status.message, c.says)) << status.message;
    }
}

// Whichever call fails at the opening, it is named, and nothing is left behind (the address sanitizer looks).
TEST_F(Failure, EveryCallOfTheOpeningMayFail) {
    const char *const calls[] = {"cudaGetDeviceCount",
                                 "cudaGetDeviceProperties",
                                 "cudaSetDevice",
                                 "cudaDeviceGetStreamPriorityRange",
                                 "cudaHostAlloc",
                                 "cudaStreamCreateWithPriority",
                                 "cudaEventCreateWithFlags",
                                 "cudaEventRecord",
                                 "cudaEventSynchronize",
                                 "cudaMemGetInfo"};
    for (const char *call : calls) {
        cuemu_fail_call(call, 0, cudaErrorLaunchFailure);
        struct status status = open_cuda();
        EXPECT_EQ(status.code, STATUS_DEVICE) << call;
        EXPECT_TRUE(contains(status.message, "unspecified launch failure (cudaErrorLaunchFailure)")) << status.message;
        EXPECT_EQ(cudaPeekAtLastError(), cudaSuccess) << "an error left over from " << call;
        EXPECT_OK(open_cuda());
    }
}

TEST_F(Failure, AFullGpuSaysWhoHasTheMemory) {
    struct cuemu_machine small = machine;
    small.memory_bytes = 64 << 20;
    cuemu_set_machine(small);
    struct device_config config = cuda_config();
    config.device_memory = 100 << 20; // more than there is
    Bench bench(config);
    void *first, *second;
    ASSERT_OK(device_alloc(bench.device, 40 << 20, "the arena", &first));
    struct status status = device_alloc(bench.device, 30 << 20, "activations", &second);
    EXPECT_EQ(status.code, STATUS_NO_MEMORY);
    EXPECT_STREQ(
        status.message,
        "activations: cudaMalloc of 30 MiB: out of memory: the GPU has 24 MiB free of 64 MiB; this process holds "
        "40 MiB, and CUDA and other processes (nvidia-smi lists them) 0 B");
    device_free(bench.device, first);
    cuemu_fail_call("cudaHostAlloc", 0, cudaErrorMemoryAllocation);
    status = device_alloc_host(bench.device, 1 << 20, "the pool", &first);
    EXPECT_EQ(status.code, STATUS_NO_MEMORY);
    EXPECT_STREQ(status.message, "the pool: cudaHostAlloc of 1 MiB: out of memory; lower host_memory, or free RAM");
    EXPECT_EQ(device_info(bench.device).host_used, 0u);
}

// Large pinned memory is mapped, touched and registered: zeros, counted, given back; what fails leaves nothing behind.
TEST_F(Failure, LargeHostMemory) {
    struct device_config config = cuda_config();
    Bench bench(config);
    const size_t bytes = (96 << 20) + 4096;
    void *pool = nullptr;
    ASSERT_OK(device_alloc_host(bench.device, bytes, "the pool", &pool));
    auto *values = static_cast<unsigned char *>(pool);
    for (size_t i = 0; i < bytes; i += 4096) {
        ASSERT_EQ(values[i], 0) << i;
    }
    values[bytes - 1] = 1;
    EXPECT_EQ(device_info(bench.device).host_used, bytes);
    EXPECT_EQ(cudaHostRegister(pool, bytes, 0), cudaErrorHostMemoryAlreadyRegistered);
    EXPECT_EQ(cudaGetLastError(), cudaErrorHostMemoryAlreadyRegistered);
    device_free_host(bench.device, pool);
    EXPECT_EQ(device_info(bench.device).host_used, 0u);
    EXPECT_EQ(cudaHostUnregister(pool), cudaErrorHostMemoryNotRegistered);
    EXPECT_EQ(cudaGetLastError(), cudaErrorHostMemoryNotRegistered);

    cuemu_fail_call("cudaDeviceGetPCIBusId", 0, cudaErrorInvalidDevice); // then it lies anywhere
    ASSERT_OK(device_alloc_host(bench.device, bytes, "the pool", &pool));
    device_free_host(bench.device, pool);
    EXPECT_EQ(cudaPeekAtLastError(), cudaSuccess);

    cuemu_fail_call("cudaHostRegister", 0, cudaErrorMemoryAllocation);
    struct status status = device_alloc_host(bench.device, bytes, "the pool", &pool);
    EXPECT_EQ(status.code, STATUS_NO_MEMORY);
    EXPECT_TRUE(contains(status.message, "the pool: cudaHostRegister of 96")) << status.message;
    EXPECT_TRUE(contains(status.message, "ulimit -l")) << status.message;
    EXPECT_EQ(device_info(bench.device).host_used, 0u);
    EXPECT_EQ(cudaPeekAtLastError(), cudaSuccess);
}

TEST_F(Failure, HostMemoryThatIsNotThere) {
    struct device_config config = cuda_config();
    config.host_memory = UINT64_C(1) << 50;
    Bench bench(config);
    void *pool = nullptr;
    struct status status = device_alloc_host(bench.device, size_t{1} << 45, "the pool", &pool);
    EXPECT_EQ(status.code, STATUS_NO_MEMORY);
    EXPECT_TRUE(contains(status.message, "the pool needs 32 TiB of host memory, and ")) << status.message;
}

// Several GPUs: too few of them, and no NCCL.
TEST_F(Failure, SeveralGpus) {
    set_gpus(2);
    struct device_config config = cuda_config();
    config.ranks = 3;
    struct device *device = nullptr;
    struct status status = device_open(&config, &device);
    EXPECT_EQ(status.code, STATUS_DEVICE);
    EXPECT_TRUE(contains(status.message, "device cuda: rank 2: it takes GPU 2 and there are 2")) << status.message;
    config.ranks = 2;
    config.all_reduce = ALL_REDUCE_NCCL;
    cuemu_fail_call("dlopen", 0, cudaErrorNotSupported);
    status = device_open(&config, &device);
    EXPECT_TRUE(contains(status.message, "device cuda: sums over GPUs take NCCL here: libnccl.so.2")) << status.message;
}

// Sixteen ones on each rank and what is made of them.
struct Sums {
    explicit Sums(const struct device_config &config) : bench(config) {
        void *address = nullptr;
        EXPECT_OK(device_alloc(bench.device, 64, "a test's buffer", &address));
        x = static_cast<float *>(address);
        EXPECT_OK(device_alloc_host(bench.device, 64, "a test's values", &address));
        host = static_cast<float *>(address);
        EXPECT_OK(event_create(bench.device, &done));
        for (uint32_t rank = 0; rank < config.ranks; rank++) {
            float *own = static_cast<float *>(device_rank_host(bench.device, host, rank));
            std::fill(own, own + 16, 1.0f);
        }
        stream_copy(bench.stream, x, host, 64, COPY_HOST_TO_DEVICE);
        EXPECT_OK(stream_sync(bench.stream));
    }
    ~Sums() {
        stream_sync(bench.stream); // kernels of failed ranks have been let go of
        cuemu_recover();
        event_destroy(done);
        device_free(bench.device, x);
        device_free_host(bench.device, host);
    }
    struct status wait() {
        event_record(done, bench.stream);
        return event_sync(done);
    }
    Bench bench;
    float *x, *host;
    struct event *done;
};

// A sum that NCCL refuses, and a rank whose calls CUDA refuses or whose kernel breaks its GPU: before the sum, in it,
// or with a graph. Nobody waits for it.
TEST_F(Failure, OneOfSeveralRanks) {
    struct Case {
        enum all_reduce all_reduce;
        const char *call; // NULL: a kernel of rank `skip`
        unsigned skip;
    };
    set_gpus(3);
    for (const Case &c : {Case{ALL_REDUCE_NCCL, "ncclAllReduce", 1}, Case{ALL_REDUCE_NCCL, "cudaLaunchKernelExC", 1},
                          Case{ALL_REDUCE_NCCL, nullptr, 0}, Case{ALL_REDUCE_NCCL, nullptr, 2},
                          Case{ALL_REDUCE_PEER, "cudaLaunchKernelExC", 1},
                          Case{ALL_REDUCE_PEER, "cudaLaunchKernelExC", 4}, // rank 1's sum
                          Case{ALL_REDUCE_PEER, "cudaGraphLaunch", 1}, Case{ALL_REDUCE_PEER, nullptr, 0},
                          Case{ALL_REDUCE_PEER, nullptr, 1}, Case{ALL_REDUCE_PEER, nullptr, 2}}) {
        SCOPED_TRACE(std::string(c.call ? c.call : "a kernel") + " " + std::to_string(c.skip));
        struct device_config config = cuda_config();
        config.ranks = 3;
        config.all_reduce = c.all_reduce;
        Sums sums(config);
        EXPECT_STREQ(device_info(sums.bench.device).sums, c.all_reduce == ALL_REDUCE_NCCL ? "NCCL" : "peer memory");
        const bool graphs = c.call && strcmp(c.call, "cudaGraphLaunch") == 0;
        if (c.call) {
            cuemu_fail_call(c.call, c.skip, cudaErrorLaunchFailure);
        } else {
            cuemu_fail_kernel_of(static_cast<int>(c.skip), cudaErrorIllegalAddress);
        }
        for (int i = 0; i < (graphs ? 3 : 1); i++) {
            if (graphs) {
                stream_repeat_begin(sums.bench.stream);
            }
            op_scale(sums.bench.stream, sums.x, 2, 1, 16);
            op_all_reduce(sums.bench.stream, sums.x, 1, 16);
            op_all_reduce(sums.bench.stream, sums.x, 1, 16);
            if (graphs) {
                stream_repeat_end(sums.bench.stream);
            }
        }
        struct status status = sums.wait();
        EXPECT_EQ(status.code, STATUS_DEVICE);
        EXPECT_TRUE(contains(status.message, "rank ")) << status.message;
        EXPECT_TRUE(contains(status.message, c.call ? c.call : "an illegal memory access")) << status.message;
        op_all_reduce(sums.bench.stream, sums.x, 1, 16);
        status = sums.wait();
        EXPECT_EQ(status.code, STATUS_DEVICE) << "a sum after one that failed";
    }
}

// What rank 1 alone has been given goes to its own GPU, as a graph from the second time on, when rank 0, of which
// nothing is held back, is waited for first.
TEST_F(Failure, OneRankAloneIsHeldBack) {
    set_gpus(2);
    struct device_config config = cuda_config();
    config.ranks = 2;
    Sums sums(config);
    const float one = 1;
    const uint64_t graphs = cuemu_calls("cudaGraphLaunch");
    for (int i = 0; i < 3; i++) {
        stream_repeat_begin(sums.bench.stream);
        op_all_reduce(sums.bench.stream, sums.x, 1, 16);
        EXPECT_OK(stream_sync(sums.bench.stream));
        for (int j = 0; j < 4; j++) {
            stream_copy_to_rank(sums.bench.stream, 1, sums.x + j, &one, sizeof one);
        }
        EXPECT_OK(stream_sync(sums.bench.stream));
        stream_repeat_end(sums.bench.stream);
    }
    EXPECT_EQ(cuemu_calls("cudaGraphLaunch") - graphs, 2u);
    stream_copy(sums.bench.stream, sums.host, sums.x, 64, COPY_DEVICE_TO_HOST);
    EXPECT_OK(sums.wait());
    EXPECT_EQ(sums.host[0], 4); // 2 of both, then twice one more
    EXPECT_EQ(sums.host[4], 8);
    EXPECT_EQ(static_cast<float *>(device_rank_host(sums.bench.device, sums.host, 1))[0], 1);
}

// Where nobody asks for the event of the rank that has failed, the others wait for a minute, of which a thousand are
// one here.
TEST_F(Failure, NoRankWaitsForEver) {
    set_gpus(2, 1000);
    struct device_config config = cuda_config();
    config.ranks = 2;
    Sums sums(config);
    op_scale(sums.bench.stream, sums.x, 2, 1, 16);
    cuemu_fail_kernel_of(1, cudaErrorIllegalAddress);
    op_all_reduce(sums.bench.stream, sums.x, 1, 16);
    const struct status status = stream_sync(sums.bench.stream);
    EXPECT_EQ(status.code, STATUS_DEVICE);
    EXPECT_TRUE(contains(status.message, "all_reduce: nothing came from rank 1 in 60 s")) << status.message;
}

// What keeps GPUs from adding up over peer memory: asked for, it is said; else NCCL adds up.
TEST_F(Failure, SumsThatAreLeftToNccl) {
    struct Case {
        const char *call;
        unsigned skip;
        const char *says;
    };
    struct device_config config = cuda_config();
    config.ranks = 2;
    for (const Case &c :
         {Case{"apart", 0, "device cuda: GPU 0 has no access to the memory of GPU 1"},
          Case{"deaf", 0, "all_reduce: nothing came from rank "}, Case{"garbled", 0, "rank 0 has added up "},
          Case{"cudaDeviceCanAccessPeer", 0, "cudaDeviceCanAccessPeer: out of memory"},
          Case{"cudaDeviceEnablePeerAccess", 0, "cudaDeviceEnablePeerAccess: out of memory"},
          Case{"cudaHostAlloc", 2, "cudaHostAlloc: out of memory"}, // after those of the ranks
          Case{"cudaHostAlloc", 3, "cudaHostAlloc: out of memory"},
          Case{"cudaMalloc", 1, "rank 1: the inbox of sums: cudaMalloc of 32 MiB"},
          Case{"cudaMalloc", 2, "the trial of sums: cudaMalloc of "},
          Case{"cudaFuncGetAttributes", 9, "cudaFuncGetAttributes: out of memory"},
          Case{"cudaStreamCreateWithPriority", 3, "cudaStreamCreateWithPriority: out of memory"},
          Case{"cudaMemsetAsync", 1, "rank 1: cudaMemsetAsync: out of memory"},
          Case{"cudaLaunchKernelExC", 2, "rank 0: cudaLaunchKernelExC: out of memory"}}) {
        SCOPED_TRACE(c.call);
        for (enum all_reduce all_reduce : {ALL_REDUCE_PEER, ALL_REDUCE_AUTO}) {
            set_gpus(2, 1000);
            struct cuemu_machine two = cuemu_machine();
            two.apart = strcmp(c.call, "apart") == 0;
            two.deaf = strcmp(c.call, "deaf") == 0;
            two.garbled = strcmp(c.call, "garbled") == 0;
            cuemu_set_machine(two);
            cuemu_fail_call(c.call, c.skip, cudaErrorMemoryAllocation);
            config.all_reduce = all_reduce;
            if (all_reduce == ALL_REDUCE_PEER) {
                struct device *device = nullptr;
                struct status status = device_open(&config, &device);
                EXPECT_NE(status.code, STATUS_OK);
                EXPECT_TRUE(contains(status.message, c.says)) << status.message;
                device_close(device);
            } else {
                Sums sums(config);
                EXPECT_STREQ(device_info(sums.bench.device).sums, "NCCL");
                op_all_reduce(sums.bench.stream, sums.x, 1, 16);
                stream_copy(sums.bench.stream, sums.host, sums.x, 64, COPY_DEVICE_TO_HOST);
                EXPECT_OK(sums.wait());
                EXPECT_EQ(sums.host[15], 2);
            }
            EXPECT_EQ(cudaPeekAtLastError(), cudaSuccess);
        }
    }
}

// Every call that enqueues: its stream fails with the call's name, and does nothing more.
TEST_F(Failure, WhatCannotBeEnqueuedFailsItsStream) {
    const char *const calls[] = {"cudaLaunchKernelExC", "cudaMemcpyAsync", "cudaEventRecord", "cudaStreamWaitEvent"};
    for (const char *call : calls) {
        Bench bench(cuda_config());
        struct stream *bystander;
        struct event *event, *other;
        ASSERT_OK(stream_create(bench.device, STREAM_COPY, &bystander));
        ASSERT_OK(event_create(bench.device, &event));
        ASSERT_OK(event_create(bench.device, &other));
        event_record(other, bystander);
        {
            Buffer<float> x(bench, std::vector<float>(8, 1.0f)), y(bench, 8);
            cuemu_fail_call(call, 0, cudaErrorLaunchFailure);
            op_scale(bench.stream, x.at(), 2, 1, 8);
            stream_copy(bench.stream, y.at(), x.at(), 32, COPY_DEVICE_TO_DEVICE);
            event_record(event, bench.stream);
            stream_wait(bench.stream, other);
            struct status status = stream_sync(bench.stream);
            EXPECT_EQ(status.code, STATUS_DEVICE);
            EXPECT_TRUE(contains(status.message, call)) << status.message;
            EXPECT_OK(stream_sync(bystander));
            uint64_t launches = cuemu_count().launches;
            op_scale(bench.stream, x.at(), 2, 1, 8);
            EXPECT_EQ(cuemu_count().launches, launches) << "a failed stream goes on";
            EXPECT_EQ(cudaPeekAtLastError(), cudaSuccess);
            stream_destroy(bench.stream); // the buffers' destructors need one that works
            ASSERT_OK(stream_create(bench.device, STREAM_COMPUTE, &bench.stream));
        }
        stream_destroy(bystander);
        event_destroy(event);
        event_destroy(other);
    }
}

// Work that repeats, when CUDA makes no graph of it or does not change one: it is launched one by one, right as ever,
// which is counted, and not tried again for its shape. A launch that fails is its stream's failure.
TEST_F(Failure, WhatIsNoGraphIsLaunchedOneByOne) {
    struct Case {
        const char *call;
        uint64_t graphs, refusals;
        bool fails;
    };
    const Case cases[] = {{"", 5, 0, false},
                          {"cudaGraphCreate", 0, 1, false},
                          {"cudaGraphAddMemcpyNode1D", 0, 1, false},
                          {"cudaGraphAddKernelNode", 0, 1, false},
                          {"cudaGraphAddEventRecordNode", 0, 1, false},
                          {"cudaGraphAddEventWaitNode", 0, 1, false},
                          {"cudaGraphInstantiate", 0, 1, false},
                          {"cudaGraphUpload", 0, 1, false},
                          {"cudaGraphExecKernelNodeSetParams", 1, 1, false},
                          {"cudaGraphExecMemcpyNodeSetParams1D", 1, 1, false},
                          {"cudaGraphExecEventRecordNodeSetEvent", 1, 1, false},
                          {"cudaGraphExecEventWaitNodeSetEvent", 1, 1, false},
                          {"cudaGraphLaunch", 0, 0, true}};
    for (const Case &c : cases) {
        SCOPED_TRACE(c.call);
        Bench bench(cuda_config());
        struct stream *copies;
        struct event *arrived[2], *done[2];
        ASSERT_OK(stream_create(bench.device, STREAM_COPY, &copies));
        for (int i = 0; i < 2; i++) {
            ASSERT_OK(event_create(bench.device, &arrived[i]));
            ASSERT_OK(event_create(bench.device, &done[i]));
        }
        {
            Buffer<float> x(bench, std::vector<float>(8, 1.0f)), y(bench, std::vector<float>(16));
            if (*c.call) {
                cuemu_fail_call(c.call, 0, cudaErrorLaunchFailure);
            }
            float expected = 1;
            for (int i = 0; i < 6; i++) {
                event_record(arrived[i % 2], copies);
                stream_repeat_begin(bench.stream);
                stream_wait(bench.stream, arrived[i % 2]);
                op_scale(bench.stream, x.at(), static_cast<float>(i + 1), 1, 8);
                stream_copy(bench.stream, y.at() + i % 2 * 8, x.at(), 32, COPY_DEVICE_TO_DEVICE);
                event_record(done[i % 2], bench.stream);
                stream_repeat_end(bench.stream);
                struct status status = event_sync(done[i % 2]);
                EXPECT_EQ(status_failed(&status), c.fails && i > 0);
                expected *= static_cast<float>(i + 1);
            }
            if (c.fails) {
                struct status status = stream_sync(bench.stream);
                EXPECT_TRUE(contains(status.message, "cudaGraphLaunch: unspecified launch failure")) << status.message;
                stream_destroy(bench.stream); // the buffers' destructors need one that works
                ASSERT_OK(stream_create(bench.device, STREAM_COMPUTE, &bench.stream));
            } else {
                EXPECT_EQ(x.read()[0], expected);
                EXPECT_EQ(y.read()[8], expected);
                EXPECT_EQ(y.read()[0], expected / 6);
            }
            EXPECT_EQ(cudaPeekAtLastError(), cudaSuccess);
            cuemu_recover();
        }
        const struct launch_count count = device_launch_count(bench.device);
        EXPECT_EQ(count.graphs, c.graphs);
        EXPECT_EQ(count.refusals, c.refusals);
        stream_destroy(copies);
        for (int i = 0; i < 2; i++) {
            event_destroy(arrived[i]);
            event_destroy(done[i]);
        }
    }
}

// A kernel that touches what it must not takes the whole device with it, and is found when somebody waits.
TEST_F(Failure, ABrokenDeviceTellsEverybodyWhoWaits) {
    struct device_config config = cuda_config();
    Bench bench(config);
    struct stream *copies;
    struct event *event;
    void *memory;
    ASSERT_OK(stream_create(bench.device, STREAM_COPY, &copies));
    ASSERT_OK(event_create(bench.device, &event));
    ASSERT_OK(device_alloc(bench.device, 64, "a buffer", &memory));
    cuemu_fail_kernel(cudaErrorIllegalAddress);
    op_scale(bench.stream, static_cast<float *>(memory), 2, 1, 8);
    event_record(event, bench.stream);
    struct status status = stream_sync(bench.stream);
    EXPECT_EQ(status.code, STATUS_DEVICE);
    EXPECT_TRUE(contains(status.message, ": an illegal memory access was encountered (cudaErrorIllegalAddress)"))
        << status.message; // of the record, if the kernel was quick, or of the wait
    EXPECT_EQ(stream_sync(copies).code, STATUS_DEVICE);
    EXPECT_EQ(event_sync(event).code, STATUS_DEVICE);
    EXPECT_TRUE(event_query(event)) << "who waits for it shall be told, not kept";
    event_time_ns(event);
    cuemu_recover();
    device_free(bench.device, memory);
    event_destroy(event);
    stream_destroy(copies);
}

} // namespace
