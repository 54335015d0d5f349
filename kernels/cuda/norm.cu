// Norms: a block of threads for each row.
//
// Sums go in one order whatever the number of rows: a thread adds the groups of four values that are its own, a warp
// its threads, the block its warps.
//
// Roofline: 4 bytes read and 4 written a value, 4 more read where it is added; what a row is read for a second and
// third time comes from L1. 512 rows of 4096 are 17 MB: 5 us of H100's 3.35 TB/s and 28 us of A10's 600 GB/s, with 10
// instructions a value, a tenth of that: memory is the limit. A single row is one multiprocessor's, two or three rounds
// of latency, some 3 us. The residual is no pass of its own: the product before has added to it (struct matmul_part).
#include "kernels/cuda/kernel.cuh"

namespace {

constexpr unsigned THREADS = 256;

// The sum over the block of one value of each thread, in every thread. `shared` is free to be used again after the next
// barrier.
__device__ float block_sum(float value, float (&shared)[THREADS / WARP]) {
    value = warp_sum(value);
    if (threadIdx.x % WARP == 0) {
        shared[threadIdx.x / WARP] = value;
    }
    __syncthreads();
    float sum = 0;
    for (unsigned warp = 0; warp < THREADS / WARP; warp++) {
        sum += shared[warp];
    }
    return sum;
}

// Calls use(i) for the indices of a row that are this thread's: groups of four, THREADS groups apart.
template <typename Use> __device__ void each_index(uint32_t dim, Use use) {
    for (uint32_t group = threadIdx.x * 4; group < dim; group += THREADS * 4) {
        for (uint32_t i = group; i < group + 4 && i < dim; i++) {
            use(i);
        }
    }
}

__device__ float root_scale(const float *x, float epsilon, uint32_t dim, float (&shared)[THREADS / WARP]) {
    float squares = 0;
    each_index(dim, [&](uint32_t i) { squares = fmaf(x[i], x[i], squares); });
    return 1.0f / sqrtf(block_sum(squares, shared) / static_cast<float>(dim) + epsilon);
}

template <bool ADD>
__global__ void __launch_bounds__(THREADS)
    rmsnorm_kernel(float *out, const float *x, const float *gain, float epsilon, uint32_t dim) {
    __shared__ float shared[THREADS / WARP];
    const size_t row = static_cast<size_t>(blockIdx.x) * dim;
    x += row;
    out += row;
    const float scale = root_scale(x, epsilon, dim, shared);
    each_index(dim, [&](uint32_t i) {
        const float value = x[i] * scale * gain[i];
        out[i] = ADD ? out[i] + value : value;
    });
}

__global__ void __launch_bounds__(THREADS)
    layernorm_kernel(float *out, const float *x, const float *gain, const float *bias, float epsilon, uint32_t dim) {
    __shared__ float sums[THREADS / WARP], squares_of[THREADS / WARP];
    const size_t row = static_cast<size_t>(blockIdx.x) * dim;
    x += row;
    out += row;
    float sum = 0, squares = 0;
    each_index(dim, [&](uint32_t i) { sum += x[i]; });
    const float mean = block_sum(sum, sums) / static_cast<float>(dim);
    each_index(dim, [&](uint32_t i) {
        const float about = x[i] - mean;
        squares = fmaf(about, about, squares);
    });
    const float scale = 1.0f / sqrtf(block_sum(squares, squares_of) / static_cast<float>(dim) + epsilon);
    each_index(dim, [&](uint32_t i) { out[i] = fmaf((x[i] - mean) * scale, gain[i], bias[i]); });
}

} // namespace

extern "C" void cuda_rmsnorm(struct stream *stream, float *out, const float *x, const float *gain, float epsilon,
                             uint32_t n, uint32_t dim) {
    launch(stream, n, THREADS, 0, rmsnorm_kernel<false>, out, x, gain, epsilon, dim);
}

extern "C" void cuda_rmsnorm_add(struct stream *stream, float *out, const float *x, const float *gain, float epsilon,
                                 uint32_t n, uint32_t dim) {
    launch(stream, n, THREADS, 0, rmsnorm_kernel<true>, out, x, gain, epsilon, dim);
}

extern "C" void cuda_layernorm(struct stream *stream, float *out, const float *x, const float *gain, const float *bias,
                               float epsilon, uint32_t n, uint32_t dim) {
    launch(stream, n, THREADS, 0, layernorm_kernel, out, x, gain, bias, epsilon, dim);
}
