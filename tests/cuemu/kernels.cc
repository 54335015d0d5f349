// The kernels that the program has, and launches of them by address, as CUDA's C interface makes them.
//
// Threads: any; one lock.
#include "tests/cuemu/internal.h"

#include <map>
#include <memory>
#include <mutex>
#include <vector>

namespace {

constexpr size_t ALIGNMENT = 16; // of each argument

struct Known {
    const size_t *sizes;
    size_t count;
    cuemu::Invoke invoke;
};

struct Kernels {
    std::mutex lock;
    std::map<const void *, Known> known;
};

Kernels &kernels() {
    static auto *only = new Kernels;
    return *only;
}

bool find(const void *kernel, Known *out) {
    std::lock_guard<std::mutex> hold(kernels().lock);
    auto at = kernels().known.find(kernel);
    if (at == kernels().known.end()) {
        return false;
    }
    *out = at->second;
    return true;
}

struct alignas(ALIGNMENT) Slot {
    unsigned char bytes[ALIGNMENT];
};

// A launch's own copy of the arguments, and where each of them is.
struct Arguments {
    std::vector<Slot> slots;
    std::vector<void *> pointers;

    Arguments(const Known &kernel, void *const *values) : pointers(kernel.count) {
        size_t needed = 0;
        for (size_t i = 0; i < kernel.count; i++) {
            needed += (kernel.sizes[i] + ALIGNMENT - 1) / ALIGNMENT;
        }
        slots.resize(needed);
        Slot *at = slots.data();
        for (size_t i = 0; i < kernel.count; i++) {
            pointers[i] = memcpy(at, values[i], kernel.sizes[i]);
            at += (kernel.sizes[i] + ALIGNMENT - 1) / ALIGNMENT;
        }
    }
};

} // namespace

const void *cuemu::know(const void *kernel, const size_t *sizes, size_t count, Invoke invoke) {
    std::lock_guard<std::mutex> hold(kernels().lock);
    kernels().known[kernel] = {sizes, count, invoke};
    return kernel;
}

cudaError_t cuemu::make_launch(const void *kernel, dim3 grid, dim3 block, size_t shared_bytes, void *const *arguments,
                               Launch *out) {
    Known known;
    if (!find(kernel, &known)) {
        return cudaErrorInvalidDeviceFunction;
    }
    const uint64_t threads = static_cast<uint64_t>(block.x) * block.y * block.z;
    if (threads == 0 || threads > 1024 || block.z > 64 || grid.x == 0 || grid.x > 0x7fffffff || grid.y == 0 ||
        grid.y > 65535 || grid.z == 0 || grid.z > 65535) {
        return cudaErrorInvalidConfiguration;
    }
    if (shared_bytes > shared_limit(kernel)) {
        return cudaErrorInvalidValue;
    }
    auto copy = std::make_shared<const Arguments>(known, arguments);
    *out = {grid, block, shared_bytes, kernel,
            [kernel, copy, invoke = known.invoke] { invoke(kernel, copy->pointers.data()); }};
    return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attributes, const void *kernel) {
    ENTER("cudaFuncGetAttributes");
    Known known;
    REFUSE_UNLESS(find(kernel, &known), cudaErrorInvalidDeviceFunction);
    *attributes = {};
    return cudaSuccess;
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *kernel, void **arguments) {
    ENTER("cudaLaunchKernelExC");
    REFUSE_UNLESS(config->stream, cudaErrorNotSupported);
    REFUSE_UNLESS(cuemu::device_of(config->stream) == cuemu::current_device(), cudaErrorInvalidResourceHandle);
    cuemu::Launch launch;
    const cudaError_t error =
        cuemu::make_launch(kernel, config->gridDim, config->blockDim, config->dynamicSmemBytes, arguments, &launch);
    REFUSE_UNLESS(error == cudaSuccess, error);
    cuemu::enqueue(config->stream, std::move(launch));
    return cudaSuccess;
}
