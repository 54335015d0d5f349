// Writes keys and values of one layer into the paged cache, in 16 bits.
//
// Roofline: 4 bytes read and 2 written a value, nothing computed. A row of 8 heads of 128 dimensions is 12 KB: 512 rows
// take 2 us of H100's 3.35 TB/s and 10 us of A10's 600 GB/s: memory is the limit, and below some hundred rows the
// launch.
#include "kernels/cuda/kernel.cuh"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace {

constexpr unsigned THREADS = 128;

struct Target {
    const struct kv_segment *segments;
    uint32_t segment_count;
    const uint64_t *block_table;
    uint32_t table_stride;
    struct kv_shape shape;
    uint32_t layer;
};

template <enum kv_type TYPE> __device__ uint16_t to_16_bits(float value) {
    return TYPE == KV_F16 ? __half_as_ushort(__float2half_rn(value)) : __bfloat16_as_ushort(__float2bfloat16_rn(value));
}

// A block of threads for each row. Every row is in one segment, which the threads look for together: segments are few,
// and they need not be in the order of their rows.
template <enum kv_type TYPE>
__global__ void __launch_bounds__(THREADS)
    kv_store_kernel(Target target, const float *k, size_t k_stride, const float *v, size_t v_stride) {
    __shared__ uint32_t position, table;
    const uint32_t row = blockIdx.x;
    for (uint32_t i = threadIdx.x; i < target.segment_count; i += THREADS) {
        const struct kv_segment segment = target.segments[i];
        if (row >= segment.first_row && row - segment.first_row < segment.rows) {
            position = segment.first_position + (row - segment.first_row);
            table = segment.table;
        }
    }
    __syncthreads();
    const size_t block_index = static_cast<size_t>(table) * target.table_stride + position / KV_BLOCK_TOKENS;
    auto *block = reinterpret_cast<unsigned char *>(target.block_table[block_index]);
    const uint32_t head_dim = target.shape.head_dim, width = target.shape.kv_heads * head_dim;
    k += row * k_stride;
    v += row * v_stride;
    for (uint32_t i = threadIdx.x; i < width; i += THREADS) {
        const uint32_t head = i / head_dim, at = position % KV_BLOCK_TOKENS * head_dim + i % head_dim;
        auto *keys = reinterpret_cast<uint16_t *>(block + cuda_kv_key_offset(&target.shape, target.layer, head));
        auto *values = reinterpret_cast<uint16_t *>(block + cuda_kv_value_offset(&target.shape, target.layer, head));
        keys[at] = to_16_bits<TYPE>(k[i]);
        values[at] = to_16_bits<TYPE>(v[i]);
    }
}

} // namespace

extern "C" void cuda_kv_store(struct stream *stream, const struct kv_batch *batch, uint32_t layer, const float *k,
                              size_t k_stride, const float *v, size_t v_stride) {
    const Target target = {batch->segments,     batch->segment_count, batch->block_table,
                           batch->table_stride, batch->shape,         layer};
    launch(stream, batch->rows, THREADS, 0,
           batch->shape.type == KV_F16 ? kv_store_kernel<KV_F16> : kv_store_kernel<KV_BF16>, target, k, k_stride, v,
           v_stride);
}
