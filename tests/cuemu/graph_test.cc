// The emulator's graphs keep CUDA's rules, and tell when they are broken.
#include "tests/cuemu/include/cuemu.h"

#include <cuda_runtime.h>

#include <gtest/gtest.h>
#include <vector>

namespace {

__global__ void add(int *x, int value) {
    *x += value;
}
__global__ void multiply(int *x, int value) {
    *x *= value;
}
__global__ void unknown(int *x, int value) {
    *x -= value;
}

class Graph : public ::testing::Test {
  protected:
    void SetUp() override {
        ASSERT_EQ(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, 0), cudaSuccess);
        ASSERT_EQ(cudaStreamCreateWithPriority(&other, cudaStreamNonBlocking, 0), cudaSuccess);
        ASSERT_EQ(cudaEventCreateWithFlags(&event, cudaEventDefault), cudaSuccess);
        ASSERT_EQ(cudaMalloc(reinterpret_cast<void **>(&x), sizeof *x), cudaSuccess);
        ASSERT_EQ(cudaGraphCreate(&graph, 0), cudaSuccess);
        cuemu::entry(add);
        cuemu::entry(multiply);
        set(0);
    }
    void TearDown() override {
        cuemu_recover();
        cuemu_set_seed(0);
        cuemu_set_delay_us(0);
        cudaGraphDestroy(graph);
        cudaStreamDestroy(stream);
        cudaStreamDestroy(other);
        cudaEventDestroy(event);
        cudaFree(x);
    }
    void set(int value) {
        cudaMemcpyAsync(x, &value, sizeof value, cudaMemcpyHostToDevice, stream);
        cudaStreamSynchronize(stream);
    }
    int get() {
        int value = -1;
        EXPECT_EQ(cudaMemcpyAsync(&value, x, sizeof value, cudaMemcpyDeviceToHost, stream), cudaSuccess);
        EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
        return value;
    }
    // Parameters of a kernel of (x, value); they are good until the next call.
    struct cudaKernelNodeParams *kernel(void (*function)(int *, int), int value) {
        this->value = value;
        params = {};
        params.func = reinterpret_cast<void *>(function);
        params.kernelParams = pointers;
        return &params;
    }
    cudaGraphNode_t node(void (*function)(int *, int), int value, std::vector<cudaGraphNode_t> after = {}) {
        cudaGraphNode_t made = nullptr;
        EXPECT_EQ(cudaGraphAddKernelNode(&made, graph, after.data(), after.size(), kernel(function, value)),
                  cudaSuccess);
        return made;
    }
    cudaGraphExec_t instantiate() {
        cudaGraphExec_t exec = nullptr;
        EXPECT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
        return exec;
    }

    cudaStream_t stream = nullptr, other = nullptr;
    cudaEvent_t event = nullptr;
    cudaGraph_t graph = nullptr;
    int *x = nullptr;

  private:
    int value = 0;
    void *pointers[2] = {&x, &value};
    struct cudaKernelNodeParams params = {};
};

// A launch takes the arguments as they were when it was made; an update is for those that come.
TEST_F(Graph, TakesArgumentsWhenTheyAreSet) {
    cudaGraphNode_t first = node(add, 5), second = node(multiply, 3, {first});
    cudaGraphExec_t exec = instantiate();
    cuemu_set_delay_us(500);
    EXPECT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess); // 15
    EXPECT_EQ(cudaGraphExecKernelNodeSetParams(exec, second, kernel(multiply, 2)), cudaSuccess);
    EXPECT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess); // 40
    EXPECT_EQ(cudaGraphExecKernelNodeSetParams(exec, first, kernel(add, 1)), cudaSuccess);
    EXPECT_EQ(get(), 40);
    cudaGraphExec_t again = instantiate(); // updates leave the graph alone
    set(0);
    EXPECT_EQ(cudaGraphLaunch(again, stream), cudaSuccess);
    EXPECT_EQ(get(), 15);
    cudaGraphExecDestroy(exec);
    cudaGraphExecDestroy(again);
}

TEST_F(Graph, CopiesBothWays) {
    int in = 7, out = 0, late = 9;
    cudaGraphNode_t to, from;
    ASSERT_EQ(cudaGraphAddMemcpyNode1D(&to, graph, nullptr, 0, x, &in, sizeof in, cudaMemcpyHostToDevice), cudaSuccess);
    cudaGraphNode_t kernel = node(add, 1, {to});
    ASSERT_EQ(cudaGraphAddMemcpyNode1D(&from, graph, &kernel, 1, &out, x, sizeof out, cudaMemcpyDeviceToHost),
              cudaSuccess);
    cudaGraphExec_t exec = instantiate();
    cudaGraphLaunch(exec, stream);
    cudaStreamSynchronize(stream);
    EXPECT_EQ(out, 8);
    EXPECT_EQ(cudaGraphExecMemcpyNodeSetParams1D(exec, to, x, &late, sizeof late, cudaMemcpyHostToDevice), cudaSuccess);
    cudaGraphLaunch(exec, stream);
    cudaStreamSynchronize(stream);
    EXPECT_EQ(out, 10);
    EXPECT_EQ(cudaGraphExecMemcpyNodeSetParams1D(exec, to, &late, x, sizeof late, cudaMemcpyDeviceToHost),
              cudaErrorInvalidValue)
        << "a copy keeps its direction";
    EXPECT_EQ(cudaGraphExecMemcpyNodeSetParams1D(exec, to, x, &late, 0, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    cudaGraphExecDestroy(exec);
}

// A wait is for the record that is the latest at the launch; a record is made at the launch, on its stream.
TEST_F(Graph, WaitsForTheLatestRecordOfTheLaunch) {
    cudaGraphNode_t wait;
    ASSERT_EQ(cudaGraphAddEventWaitNode(&wait, graph, nullptr, 0, event), cudaSuccess);
    cudaGraphNode_t work = node(multiply, 10, {wait}), record;
    cudaEvent_t done;
    cudaEventCreateWithFlags(&done, cudaEventDefault);
    ASSERT_EQ(cudaGraphAddEventRecordNode(&record, graph, &work, 1, done), cudaSuccess);
    cudaGraphExec_t exec = instantiate();
    cuemu_set_seed(2);
    cuemu_set_delay_us(1000);
    for (int i = 1; i <= 20; i++) {
        int seen = -1;
        cudaMemcpyAsync(x, &i, sizeof i, cudaMemcpyHostToDevice, other);
        cudaEventRecord(event, other);
        ASSERT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);
        cudaEventRecord(event, other); // comes later, and is not waited for
        cudaStreamWaitEvent(other, done, 0);
        cudaMemcpyAsync(&seen, x, sizeof seen, cudaMemcpyDeviceToHost, other);
        cudaStreamSynchronize(other);
        ASSERT_EQ(seen, 10 * i);
        float ms = -1;
        ASSERT_EQ(cudaEventElapsedTime(&ms, event, done), cudaSuccess);
    }
    EXPECT_EQ(cudaGraphExecEventWaitNodeSetEvent(exec, wait, done), cudaSuccess);
    EXPECT_EQ(cudaGraphExecEventRecordNodeSetEvent(exec, record, event), cudaSuccess);
    EXPECT_EQ(cudaGraphExecEventRecordNodeSetEvent(exec, wait, event), cudaErrorInvalidValue);
    EXPECT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);
    EXPECT_EQ(cudaEventSynchronize(event), cudaSuccess);
    EXPECT_EQ(get(), 2000);
    cudaGraphExecDestroy(exec);
    cudaEventDestroy(done);
}

// Only dependencies order nodes: without one some order breaks what leans on it.
TEST_F(Graph, AnOrderThatNobodyAskedForIsNotKept) {
    for (bool chained : {true, false}) {
        cudaGraphDestroy(graph);
        cudaGraphCreate(&graph, 0);
        cudaGraphNode_t first = node(add, 1);
        node(multiply, 2, chained ? std::vector<cudaGraphNode_t>{first} : std::vector<cudaGraphNode_t>{});
        cudaGraphExec_t exec = instantiate();
        int others = 0;
        for (uint64_t seed = 1; seed <= 20; seed++) {
            cuemu_set_seed(seed);
            set(1);
            cudaGraphLaunch(exec, stream);
            others += get() != 4;
        }
        EXPECT_TRUE(chained ? others == 0 : others > 0) << others;
        cudaGraphExecDestroy(exec);
    }
}

TEST_F(Graph, RefusesWhatCudaRefuses) {
    cudaGraphNode_t first = node(add, 1), made, stranger = reinterpret_cast<cudaGraphNode_t>(this);
    EXPECT_EQ(cudaGraphAddKernelNode(&made, graph, &stranger, 1, kernel(add, 1)), cudaErrorInvalidValue);
    cudaGraphNode_t twice[] = {first, first};
    EXPECT_EQ(cudaGraphAddKernelNode(&made, graph, twice, 2, kernel(add, 1)), cudaErrorInvalidValue);
    EXPECT_EQ(cudaGraphAddKernelNode(&made, graph, nullptr, 0, kernel(unknown, 1)), cudaErrorInvalidDeviceFunction);
    struct cudaKernelNodeParams *wide = kernel(add, 1);
    wide->blockDim = dim3(2048);
    EXPECT_EQ(cudaGraphAddKernelNode(&made, graph, nullptr, 0, wide), cudaErrorInvalidConfiguration);
    cudaGraphExec_t exec = instantiate();
    EXPECT_EQ(cudaGraphExecKernelNodeSetParams(exec, first, kernel(multiply, 1)), cudaErrorInvalidValue);
    EXPECT_EQ(cudaGraphExecEventWaitNodeSetEvent(exec, first, event), cudaErrorInvalidValue);
    EXPECT_EQ(cudaGraphExecKernelNodeSetParams(exec, stranger, kernel(add, 1)), cudaErrorInvalidValue);
    EXPECT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);
    EXPECT_EQ(get(), 1);
    cudaGraphExecDestroy(exec);
}

TEST_F(Graph, EveryCallMayFail) {
    cudaGraphNode_t first = node(add, 1), made;
    cudaGraphExec_t exec = instantiate(), unmade;
    cudaGraph_t empty;
    cuemu_fail_call("cudaGraphCreate", 0, cudaErrorMemoryAllocation);
    EXPECT_EQ(cudaGraphCreate(&empty, 0), cudaErrorMemoryAllocation);
    cuemu_fail_call("cudaGraphAddKernelNode", 0, cudaErrorMemoryAllocation);
    EXPECT_EQ(cudaGraphAddKernelNode(&made, graph, nullptr, 0, kernel(add, 1)), cudaErrorMemoryAllocation);
    cuemu_fail_call("cudaGraphInstantiate", 0, cudaErrorMemoryAllocation);
    EXPECT_EQ(cudaGraphInstantiate(&unmade, graph, 0), cudaErrorMemoryAllocation);
    cuemu_fail_call("cudaGraphExecKernelNodeSetParams", 0, cudaErrorNotSupported);
    EXPECT_EQ(cudaGraphExecKernelNodeSetParams(exec, first, kernel(add, 2)), cudaErrorNotSupported);
    cuemu_fail_call("cudaGraphLaunch", 0, cudaErrorLaunchFailure);
    EXPECT_EQ(cudaGraphLaunch(exec, stream), cudaErrorLaunchFailure);
    EXPECT_EQ(get(), 0);
    const uint64_t launches = cuemu_calls("cudaGraphLaunch"), calls = cuemu_calls(nullptr);
    EXPECT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);
    EXPECT_EQ(cuemu_calls("cudaGraphLaunch") - launches, 1u);
    EXPECT_EQ(cuemu_calls(nullptr) - calls, 1u);
    EXPECT_EQ(get(), 1);
    cuemu_fail_kernel(cudaErrorIllegalAddress);
    EXPECT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess) << "found when somebody waits";
    EXPECT_EQ(cudaStreamSynchronize(stream), cudaErrorIllegalAddress);
    cuemu_recover();
    cudaGraphExecDestroy(exec);
}

} // namespace
