// Whole rows of tables: embeddings dequantized from packed weights, learned positions, and the rows whose logits are
// wanted. A block of threads for each row. An id outside its table is reported, and its row is left alone.
//
// Roofline: nothing is computed but codes unpacked. A value is 4 bytes written and its packed bytes read (0.56 in Q4_0,
// 2 in BF16), each by a load of up to 16 that its neighbours repeat from L1; sums and gathers are 12 and 8 bytes. 512
// rows of 4096 are 10 to 25 MB: 3 to 8 us of H100's 3.35 TB/s and 16 to 42 us of A10's 600 GB/s, once an iteration.
#include "kernels/cuda/dequant.cuh"

namespace {

constexpr unsigned THREADS = 256;

template <enum tensor_type TYPE>
__global__ void __launch_bounds__(THREADS) embed_kernel(float *out, const void *packed, uint32_t rows, uint32_t columns,
                                                        const uint32_t *ids, struct cuda_fault *fault) {
    const uint32_t row = blockIdx.x, id = ids[row];
    if (id >= rows) {
        if (threadIdx.x == 0) {
            cuda_report(fault, CUDA_FAULT_EMBED_ID, row, id, rows);
        }
        return;
    }
    out += static_cast<size_t>(row) * columns;
    for (uint32_t i = threadIdx.x; i < columns; i += THREADS) {
        out[i] = packed_value<TYPE>(packed, columns, id, i);
    }
}

__global__ void __launch_bounds__(THREADS)
    add_rows_kernel(float *out, const float *table, uint32_t rows, const uint32_t *ids, uint32_t dim,
                    struct cuda_fault *fault) {
    const uint32_t row = blockIdx.x, id = ids[row];
    if (id >= rows) {
        if (threadIdx.x == 0) {
            cuda_report(fault, CUDA_FAULT_ADD_ROWS_ID, row, id, rows);
        }
        return;
    }
    out += static_cast<size_t>(row) * dim;
    table += static_cast<size_t>(id) * dim;
    for (uint32_t i = threadIdx.x; i < dim; i += THREADS) {
        out[i] += table[i];
    }
}

__global__ void __launch_bounds__(THREADS)
    gather_kernel(float *out, const float *x, const uint32_t *rows, uint32_t dim) {
    out += static_cast<size_t>(blockIdx.x) * dim;
    x += static_cast<size_t>(rows[blockIdx.x]) * dim;
    for (uint32_t i = threadIdx.x; i < dim; i += THREADS) {
        out[i] = x[i];
    }
}

template <enum tensor_type TYPE>
void embed(struct stream *stream, float *out, struct weight table, const uint32_t *ids, uint32_t n) {
    launch(stream, n, THREADS, 0, embed_kernel<TYPE>, out, table.data, table.rows, table.columns, ids,
           cuda_device_of(stream)->fault);
}

} // namespace

extern "C" void cuda_embed(struct stream *stream, float *out, struct weight table, const uint32_t *ids, uint32_t n) {
    switch (table.type) {
    case TENSOR_F32:
        return embed<TENSOR_F32>(stream, out, table, ids, n);
    case TENSOR_F16:
        return embed<TENSOR_F16>(stream, out, table, ids, n);
    case TENSOR_BF16:
        return embed<TENSOR_BF16>(stream, out, table, ids, n);
    case TENSOR_Q8_0:
        return embed<TENSOR_Q8_0>(stream, out, table, ids, n);
    case TENSOR_Q4_0:
        return embed<TENSOR_Q4_0>(stream, out, table, ids, n);
    case TENSOR_Q4_1:
        return embed<TENSOR_Q4_1>(stream, out, table, ids, n);
    case TENSOR_Q4_K:
        return embed<TENSOR_Q4_K>(stream, out, table, ids, n);
    case TENSOR_Q5_K:
        return embed<TENSOR_Q5_K>(stream, out, table, ids, n);
    case TENSOR_Q6_K:
        return embed<TENSOR_Q6_K>(stream, out, table, ids, n);
    case TENSOR_TYPES:
        break;
    }
    CHECK(!"a tensor type");
}

extern "C" void cuda_add_rows(struct stream *stream, float *out, const float *table, uint32_t rows, const uint32_t *ids,
                              uint32_t n, uint32_t dim) {
    launch(stream, n, THREADS, 0, add_rows_kernel, out, table, rows, ids, dim, cuda_device_of(stream)->fault);
}

extern "C" void cuda_gather(struct stream *stream, float *out, const float *x, const uint32_t *rows, uint32_t n,
                            uint32_t dim) {
    launch(stream, n, THREADS, 0, gather_kernel, out, x, rows, dim);
}
