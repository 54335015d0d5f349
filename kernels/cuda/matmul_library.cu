// op_matmul by cuBLAS, for large batches on a device that is not `invariant`: weights are unpacked to 16 bits, a tile
// of output rows at a time, and one product a tile goes into the output.
//
// What comes out depends on the batch: cuBLAS chooses its kernel, and with it the order of a sum, by the number of
// rows.
//
// Precision. Quantized and BF16 weights become bf16, and so do activations: relative errors of 2^-9 each, at most, in
// every factor, independent of each other; int8 activations, which this replaces, are off by up to 1/254 of their
// block's largest. F16 weights stay what they are and activations become f16, scaled by one power of two for the whole
// call so that none overflows: a row whose largest is 2^-14 of the batch's still has all of f16's 11 bits for it. Sums
// are f32.
//
// From how many rows on. With B bytes a second of memory and P operations a second of tensor cores, a weight by n rows
// takes our kernel (matmul_many.cu) 2n / 0.49 P at the least, and here 2n / 0.7 P and (q + 2 + 2) / B before it, for q
// bytes read (0.56 in Q4, 2 in BF16), 2 written and 2 read again: equal at n = 0.82 (q + 4) P / B, in Q4 770 rows on
// H200 (990 T, 4.8 T) and 580 on A100 (312 T, 2.0 T), if memory is the limit of the one and instructions that of the
// other. Where the tile stays in the L2 cache, three times as fast, it is 260 and 190; where our kernel reaches two
// thirds of its limit besides, 100 and 70. LEAST_ROWS is in the middle: an estimate, which the rows of `make gpu-bench`
// on both sides of it are to correct.
//
// Threads: the one that owns the device.
#include <cublas_v2.h>

#include "kernels/cuda/matmul.cuh"

extern "C" {
#include "base/bytes.h"
#include "base/log.h"
#include "kernels/cuda/cublas.h"
}

#include <algorithm>
#include <cstdlib>

struct cuda_library {
    struct cublas cublas;
    cublasHandle_t handle;
    uint32_t least_rows;
    uint8_t *tile; // weights of some output rows, row by row: 16 bits, units * 64 columns
    size_t tile_bytes;
    void *workspace;
    size_t workspace_bytes;
    float *scales; // matmul_stage_plain()'s
};

namespace {

constexpr uint32_t LEAST_ROWS = 256;
constexpr size_t MOST_TILE_BYTES = static_cast<size_t>(64) << 20;
constexpr size_t ROW_UNIT_BYTES = CUDA_UNIT_COLUMNS * sizeof(uint16_t);
constexpr unsigned WARPS = 8, THREADS = WARPS * WARP;

// What NVIDIA recommends for cublasSetWorkspace().
size_t workspace_for(int capability) {
    return static_cast<size_t>(capability >= 90 ? 32 : 4) << 20;
}

// ---- kernels ----

// A warp a unit: 16 rows by 64 columns. blockIdx.y is the group, from the first that is wanted. Of a quad, 8 bytes, the
// four lanes of a row write a whole sector.
template <enum tensor_type TYPE>
__global__ void __launch_bounds__(THREADS)
    unpack(uint8_t *tile, const void *packed, uint32_t columns, uint32_t units, uint32_t first_group, uint32_t rows) {
    const uint32_t unit = blockIdx.x * WARPS + threadIdx.x / WARP;
    const int lane = static_cast<int>(threadIdx.x % WARP);
    if (unit >= units) {
        return;
    }
    PackedUnit<TYPE> weights;
    weights.template load<true>(packed_group<TYPE>(packed, columns, first_group + blockIdx.y), unit, lane);
#pragma unroll
    for (int block = 0; block < 2; block++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint2 quad;
            if constexpr (PackedTraits<TYPE>::QUANTIZED) {
                unsigned short bits[4];
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    bits[k] = __bfloat16_as_ushort(__float2bfloat16_rn(dequantized(weights, block, i, k)));
                }
                quad = make_uint2(bits[0] | static_cast<uint32_t>(bits[1]) << 16,
                                  bits[2] | static_cast<uint32_t>(bits[3]) << 16);
            } else {
                quad = make_uint2(weights.codes[8 * block + 2 * i], weights.codes[8 * block + 2 * i + 1]);
            }
            const uint32_t row = blockIdx.y * CUDA_GROUP_ROWS + lane / 4 + 8 * (i % 2);
            const uint32_t column = unit * CUDA_UNIT_COLUMNS + block * 32 + i / 2 * 16 + lane % 4 * 4;
            if (row < rows) {
                *reinterpret_cast<uint2 *>(tile + row * (units * ROW_UNIT_BYTES) + column * 2) = quad;
            }
        }
    }
}

// out (n, columns) = bias, or out + bias: what the product is then added to. blockIdx.x is the row.
__global__ void begin_with_bias(float *out, size_t out_stride, const float *bias, uint32_t columns, bool accumulate) {
    const uint32_t column = blockIdx.y * THREADS + threadIdx.x;
    if (column < columns) {
        float *at = out + blockIdx.x * out_stride + column;
        *at = accumulate ? *at + bias[column] : bias[column];
    }
}

using Unpack = void (*)(uint8_t *, const void *, uint32_t, uint32_t, uint32_t, uint32_t);

Unpack unpack_for(enum tensor_type type) {
    switch (type) {
    case TENSOR_F16:
        return unpack<TENSOR_F16>;
    case TENSOR_BF16:
        return unpack<TENSOR_BF16>;
    case TENSOR_Q8_0:
        return unpack<TENSOR_Q8_0>;
    case TENSOR_Q4_0:
        return unpack<TENSOR_Q4_0>;
    case TENSOR_Q4_1:
        return unpack<TENSOR_Q4_1>;
    case TENSOR_Q4_K:
        return unpack<TENSOR_Q4_K>;
    case TENSOR_Q5_K:
        return unpack<TENSOR_Q5_K>;
    default:
        CHECK(type == TENSOR_Q6_K);
        return unpack<TENSOR_Q6_K>;
    }
}

// ---- products ----

bool check(struct stream *stream, cublasStatus_t result, const char *call) {
    if (result != CUBLAS_STATUS_SUCCESS) {
        const struct cuda_library *library = cuda_device_of(stream)->library;
        cuda_fail(stream, status_error(STATUS_DEVICE, "%s: %s; with --invariant on it goes without cuBLAS", call,
                                       library->cublas.status_string(result)));
    }
    return cuda_stream_ready(stream);
}

// Parts whose outputs lie side by side: rows of one product.
struct Chain {
    const struct matmul_part *parts[MATMUL_MAX_PARTS];
    uint32_t count, rows;

    bool takes(const struct matmul_part &next) const {
        const struct matmul_part &last = *parts[count - 1];
        const float *bias = last.bias != nullptr ? last.bias + last.weight.rows : nullptr;
        return next.out == last.out + last.weight.rows && next.out_stride == last.out_stride && next.bias == bias &&
               next.accumulate == last.accumulate && rows + next.weight.rows <= last.out_stride;
    }
    void add(const struct matmul_part &part) {
        parts[count++] = &part;
        rows += part.weight.rows;
    }
};

// The next parts that are staged so and make one product; false if all have been taken.
bool next_chain(Chain *chain, Stage stage, const struct matmul_part *parts, uint32_t count, bool *taken) {
    chain->count = chain->rows = 0;
    for (uint32_t i = 0; i < count; i++) {
        const enum tensor_type type = parts[i].weight.type;
        const bool ours = type != TENSOR_F32 && (type == TENSOR_F16) == (stage == Stage::F16) && !taken[i];
        if (ours && (chain->count == 0 || chain->takes(parts[i]))) {
            chain->add(parts[i]);
            taken[i] = true;
        }
    }
    return chain->count > 0;
}

// How far a chain has been unpacked.
struct Place {
    uint32_t part, row;
};

// Unpacks up to `most` rows from `place` on, at most to where a group would be cut; returns how many.
uint32_t unpack_rows(struct stream *stream, const Chain &chain, Place *place, uint32_t most, uint32_t units) {
    uint8_t *tile = cuda_device_of(stream)->library->tile;
    uint32_t done = 0;
    while (place->part < chain.count) {
        const struct weight &weight = chain.parts[place->part]->weight;
        const uint32_t left = weight.rows - place->row, room = most - done;
        const uint32_t rows = left <= room ? left : room / CUDA_GROUP_ROWS * CUDA_GROUP_ROWS;
        if (rows == 0) {
            break;
        }
        launch(stream, dim3(blocks_for(units, WARPS), blocks_for(rows, CUDA_GROUP_ROWS)), dim3(THREADS), 0,
               unpack_for(weight.type), tile + done * (units * ROW_UNIT_BYTES), weight.data, weight.columns, units,
               place->row / CUDA_GROUP_ROWS, rows);
        done += rows;
        *place = rows == left ? Place{place->part + 1, 0} : Place{place->part, place->row + rows};
    }
    return done;
}

// out (n, rows) = x (n, units * 64) * tile (rows, units * 64)^T, on top of what is there if `add`. cuBLAS has columns
// where we have rows, so that it is asked for the transposed product. Its workspace is forgotten with every new stream.
void multiply_tile(struct stream *stream, Stage stage, float *out, size_t out_stride, bool add, uint32_t rows,
                   const MatmulWork &work) {
    static const float ONE = 1, ZERO = 0;
    const struct cuda_library *library = cuda_device_of(stream)->library;
    const struct cublas *cublas = &library->cublas;
    const bool f16 = stage == Stage::F16;
    const float *alpha = f16 ? library->scales : &ONE;
    const float *beta = f16 ? library->scales + (add ? 2 : 1) : add ? &ONE : &ZERO;
    const cudaDataType type = f16 ? CUDA_R_16F : CUDA_R_16BF;
    const int width = static_cast<int>(work.units * CUDA_UNIT_COLUMNS);
    const bool ready =
        cuda_stream_ready(stream) &&
        check(stream, cublas->set_stream(library->handle, cuda_stream_handle(stream)), "cublasSetStream") &&
        check(stream, cublas->set_workspace(library->handle, library->workspace, library->workspace_bytes),
              "cublasSetWorkspace") &&
        check(stream,
              cublas->set_pointer_mode(library->handle, f16 ? CUBLAS_POINTER_MODE_DEVICE : CUBLAS_POINTER_MODE_HOST),
              "cublasSetPointerMode");
    if (ready) {
        check(stream,
              cublas->gemm_ex(library->handle, CUBLAS_OP_T, CUBLAS_OP_N, static_cast<int>(rows),
                              static_cast<int>(work.n), width, alpha, library->tile, type, width, work.staged, type,
                              width, beta, out, CUDA_R_32F, static_cast<int>(out_stride), CUBLAS_COMPUTE_32F,
                              CUBLAS_GEMM_DEFAULT),
              "cublasGemmEx");
    }
}

// Tiles as equal as whole groups can be: a small last one would leave most of the GPU idle.
void multiply_chain(struct stream *stream, Stage stage, const Chain &chain, const MatmulWork &work) {
    const struct matmul_part &first = *chain.parts[0];
    if (first.bias != nullptr) {
        launch(stream, dim3(work.n, blocks_for(chain.rows, THREADS)), dim3(THREADS), 0, begin_with_bias, first.out,
               first.out_stride, first.bias, chain.rows, first.accumulate);
    }
    const size_t groups = cuda_device_of(stream)->library->tile_bytes / (work.units * ROW_UNIT_BYTES * CUDA_GROUP_ROWS);
    CHECK(groups > 0);
    const uint32_t chain_groups = blocks_for(chain.rows, CUDA_GROUP_ROWS);
    const uint32_t tiles = static_cast<uint32_t>((chain_groups + groups - 1) / groups);
    const uint32_t rows = blocks_for(chain_groups, tiles) * CUDA_GROUP_ROWS;
    Place place = {0, 0};
    for (uint32_t done = 0; done < chain.rows;) {
        const uint32_t unpacked = unpack_rows(stream, chain, &place, rows, work.units);
        multiply_tile(stream, stage, first.out + done, first.out_stride, first.accumulate || first.bias != nullptr,
                      unpacked, work);
        done += unpacked;
    }
}

} // namespace

bool matmul_library(struct stream *stream, const struct matmul_part *parts, uint32_t count, uint8_t *staged,
                    float *largest, const MatmulWork &work) {
    const struct cuda_library *library = cuda_device_of(stream)->library;
    if (library == nullptr || work.n < library->least_rows) {
        return false;
    }
    bool taken[MATMUL_MAX_PARTS] = {};
    for (const Stage stage : {Stage::F16, Stage::BF16}) {
        Chain chain;
        bool is_staged = false;
        while (next_chain(&chain, stage, parts, count, taken)) {
            if (!is_staged) {
                matmul_stage_plain(stream, stage, staged, largest, library->scales, work);
                is_staged = true;
            }
            multiply_chain(stream, stage, chain, work);
        }
    }
    return true;
}

// ---- set-up ----

namespace {

struct status create(struct cuda_device *device, const struct device_limits *limits) {
    struct cuda_library *library = device->library;
    const cublasStatus_t result = library->cublas.create(&library->handle);
    if (result != CUBLAS_STATUS_SUCCESS) {
        library->handle = nullptr;
        return status_error(STATUS_DEVICE, "cublasCreate: %s; with --invariant on it goes without cuBLAS",
                            library->cublas.status_string(result));
    }
    // All the rows of the widest matrix, or as many as fit; at least a group's.
    const size_t row_bytes = cuda_units(limits->columns) * ROW_UNIT_BYTES;
    const size_t most_rows = std::max<size_t>(MOST_TILE_BYTES / row_bytes, CUDA_GROUP_ROWS);
    library->tile_bytes = std::min(bytes_align(limits->columns, CUDA_GROUP_ROWS), most_rows) * row_bytes;
    library->workspace_bytes = workspace_for(device->capability);
    TRY(cuda_scratch_alloc(device, library->tile_bytes, "unpacked weights", reinterpret_cast<void **>(&library->tile)));
    TRY(cuda_scratch_alloc(device, library->workspace_bytes, "cuBLAS's workspace", &library->workspace));
    return cuda_scratch_alloc(device, MATMUL_SCALES * sizeof(float), "scales of products",
                              reinterpret_cast<void **>(&library->scales));
}

} // namespace

struct status matmul_library_prepare(struct cuda_device *device, const struct device_limits *limits) {
    const uint32_t least_rows = device->library_rows > 0 ? device->library_rows : LEAST_ROWS;
    struct cublas cublas = {};
    struct status status = {};
    if (device->invariant || device->compute == COMPUTE_F32 ||
        std::max(limits->rows, limits->logit_rows) < least_rows) {
        return status;
    }
    status = cublas_load(&cublas);
    if (status.code != STATUS_OK) {
        if (!device->library_missing && device->ordinal == 0) {
            log_warn("device cuda: %s; until then own kernels multiply large batches, too, at about half of the rate",
                     status.message);
        }
        device->library_missing = true;
        return {};
    }
    device->library = static_cast<struct cuda_library *>(calloc(1, sizeof *device->library));
    if (device->library == nullptr) {
        return status_error(STATUS_NO_MEMORY, "scratch: %zu bytes are not to be had", sizeof *device->library);
    }
    device->library->cublas = cublas;
    device->library->least_rows = least_rows;
    return create(device, limits);
}

void matmul_library_release(struct cuda_device *device) {
    struct cuda_library *library = device->library;
    if (library != nullptr) {
        if (library->handle != nullptr) {
            library->cublas.destroy(library->handle);
        }
        cuda_scratch_free(device, library->tile);
        cuda_scratch_free(device, library->workspace);
        cuda_scratch_free(device, library->scales);
        free(library);
        device->library = nullptr;
    }
}
