// op_attention on the cuda device: which kernel takes which segment, and the scratch for the states of spans.
// Threads: the one that owns the device.
#include "kernels/cuda/attention.cuh"

extern "C" {
#include "base/bytes.h"
}

#include <cstdlib>
#include <cstring>

// Scratch beyond what the largest single segment needs: for this many bytes at most, so that a batch of sequences of
// common length takes one launch.
static const size_t COMMON_BYTES = static_cast<size_t>(32) << 20;
static const uint32_t HEAD_DIM_MAX = 256;

struct cuda_attention {
    float *partials;
    size_t partial_capacity; // floats
    uint32_t head_dim;
};

// The states of one segment's spans, and of all sequences' decode rows; in floats.
static bool capacity_for(const struct device_limits *limits, size_t *capacity) {
    const uint32_t heads = blocks_for(limits->query_heads, limits->kv_heads);
    const uint32_t queries = heads > SPLIT_QUERIES ? heads : SPLIT_QUERIES;
    const size_t tiles = blocks_for(queries, TILE_QUERIES), spans = limits->context / SPAN + 2;
    size_t one, all;
    if (!bytes_multiply(tiles * TILE_QUERIES * limits->kv_heads * partial_floats(limits->head_dim), spans, &one) ||
        !bytes_multiply(one, limits->sequences, &all) || one > SIZE_MAX / sizeof(float)) {
        return false;
    }
    const size_t common = COMMON_BYTES / sizeof(float);
    *capacity = one > common ? one : all < common ? all : common;
    return true;
}

static struct status allocate(struct cuda_device *device, const struct device_limits *limits) {
    struct cuda_attention *attention = device->attention;
    attention->head_dim = limits->head_dim;
    if (limits->head_dim % 8 != 0 || limits->head_dim > HEAD_DIM_MAX) {
        return status_error(STATUS_UNSUPPORTED, "cuda: heads of %u dimensions; multiples of 8 up to %u can be had",
                            limits->head_dim, HEAD_DIM_MAX);
    }
    if (!capacity_for(limits, &attention->partial_capacity)) {
        return status_error(STATUS_NO_MEMORY, "scratch for attention: contexts of %u tokens do not fit",
                            limits->context);
    }
    TRY(cuda_scratch_alloc(device, attention->partial_capacity * sizeof(float), "attention over long contexts",
                           reinterpret_cast<void **>(&attention->partials)));
    const cudaError_t error = attention_tiled_prepare();
    struct status status = {};
    if (error != cudaSuccess) {
        status = cuda_status(error, "cudaFuncSetAttribute");
    }
    return status;
}

void cuda_attention(struct stream *stream, float *out, size_t out_stride, const float *q, size_t q_stride,
                    const struct kv_batch *batch, uint32_t layer, uint32_t query_heads, float scale, uint32_t window) {
    const struct cuda_attention *attention = cuda_device_of(stream)->attention;
    CHECK(attention != nullptr && batch->shape.head_dim <= attention->head_dim && batch->shape.head_dim % 8 == 0);
    AttentionWork work = {};
    work.segments = batch->segments;
    work.block_table = batch->block_table;
    work.table_stride = batch->table_stride;
    work.heads = query_heads / batch->shape.kv_heads;
    work.kv_heads = batch->shape.kv_heads;
    work.head_dim = batch->shape.head_dim;
    work.keys_at = cuda_kv_key_offset(&batch->shape, layer, 0);
    work.values_at = cuda_kv_value_offset(&batch->shape, layer, 0);
    work.out = out;
    work.out_stride = out_stride;
    work.q = q;
    work.q_stride = q_stride;
    work.scale = scale * 1.44269504f;
    work.window = window;
    work.partials = attention->partials;
    memcpy(work.groups, batch->groups, sizeof work.groups);
    attention_split(stream, work, batch, attention->partial_capacity);
    attention_tiled(stream, work, batch);
}

struct status cuda_attention_prepare(struct cuda_device *device, const struct device_limits *limits) {
    device->attention = static_cast<struct cuda_attention *>(calloc(1, sizeof *device->attention));
    if (device->attention == nullptr) {
        return status_error(STATUS_NO_MEMORY, "scratch: %zu bytes are not to be had", sizeof *device->attention);
    }
    struct status status = allocate(device, limits);
    if (status.code != STATUS_OK) {
        cuda_attention_release(device);
    }
    return status;
}

void cuda_attention_release(struct cuda_device *device) {
    if (device->attention != nullptr) {
        cuda_scratch_free(device, device->attention->partials);
        free(device->attention);
        device->attention = nullptr;
    }
}
