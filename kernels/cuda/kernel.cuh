// What every kernel file includes: the launch, dynamic shared memory, reports of bad input, and the sums over a warp
// and a block that all kernels share. CUDA C++ only.
//
// Owns the seam between nvcc and the emulator (tests/cuemu): no other file but ptx.cuh asks which of them compiles it.
// Threads: launch() the host's.
#ifndef METRONOME_KERNELS_CUDA_KERNEL_CUH
#define METRONOME_KERNELS_CUDA_KERNEL_CUH

#include <cuda_runtime.h>

extern "C" {
#include "base/check.h"
#include "kernels/cuda/cuda_internal.h"
}

// CUDA_DYNAMIC_SHARED(float, tile): a pointer to the block's dynamic shared memory, 16-byte aligned.
// CUDA_ENTRY(kernel): the address by which CUDA's C interface knows a kernel.
#ifdef __CUDACC__
#define CUDA_ENTRY(kernel) reinterpret_cast<const void *>(kernel)
#define CUDA_DYNAMIC_SHARED(type, name)                              \
    extern __shared__ __align__(16) unsigned char dynamic_shared_[]; \
    type *name = reinterpret_cast<type *>(dynamic_shared_)
#endif

constexpr unsigned WARP = 32;
constexpr unsigned EVERY_LANE = 0xffffffffu;

template <typename... Parameters>
void launch_values(struct stream *stream, dim3 grid, dim3 block, size_t shared_bytes, void (*kernel)(Parameters...),
                   const Parameters &...values) {
    static constexpr size_t sizes[] = {sizeof(Parameters)...};
    void *pointers[] = {const_cast<void *>(static_cast<const void *>(&values))...};
    struct cudaKernelNodeParams params = {};
    params.func = const_cast<void *>(CUDA_ENTRY(kernel));
    params.gridDim = grid;
    params.blockDim = block;
    params.sharedMemBytes = static_cast<unsigned>(shared_bytes);
    params.kernelParams = pointers;
    cuda_launch(stream, &params, sizes, sizeof...(Parameters));
}

// Enqueues kernel<<<grid, block, shared_bytes>>>(arguments...) on the stream, which fails if CUDA refuses. More than 48
// KiB of dynamic shared memory must have been allowed with cudaFuncSetAttribute().
template <typename... Parameters, typename... Arguments>
void launch(struct stream *stream, dim3 grid, dim3 block, size_t shared_bytes, void (*kernel)(Parameters...),
            Arguments &&...arguments) {
    launch_values(stream, grid, block, shared_bytes, kernel, static_cast<Parameters>(arguments)...);
}

// Blocks of `size` items that cover `count`.
__host__ __device__ constexpr unsigned blocks_for(size_t count, unsigned size) {
    return static_cast<unsigned>((count + size - 1) / size);
}

// Says once what was wrong with the input; the host reads it when it waits for the stream.
__device__ inline void cuda_report(struct cuda_fault *fault, enum cuda_fault_kind kind, uint32_t row, uint32_t value,
                                   uint32_t bound) {
    if (atomicCAS(&fault->kind, static_cast<uint32_t>(CUDA_FAULT_NONE), static_cast<uint32_t>(CUDA_FAULT_CLAIMED)) ==
        CUDA_FAULT_NONE) {
        fault->row = row;
        fault->value = value;
        fault->bound = bound;
        __threadfence_system();
        atomicExch(&fault->kind, static_cast<uint32_t>(kind));
    }
}

// The sum of the warp's 32 values, in every lane, always added in the same order.
template <typename T> __device__ T warp_sum(T value) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
        value += __shfl_xor_sync(EVERY_LANE, value, step);
    }
    return value;
}

__device__ inline float warp_max(float value) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
        value = fmaxf(value, __shfl_xor_sync(EVERY_LANE, value, step));
    }
    return value;
}

#endif
