// Staging: activations into the precision and the order in which the tensor cores take them (matmul.cuh), once for all
// the parts of an op_matmul.
//
// For cuBLAS they are 16 bits row by row; all F16 rows have one factor then, for a product has one scale.
//
// Cost: reads 4 bytes and writes 1.25 or 2 a value, from and to the L2 cache: nothing beside the weights.
// Threads: launches come from the thread that owns the device.
#include "kernels/cuda/matmul.cuh"

namespace {

constexpr unsigned THREADS = 256;
constexpr uint32_t INFINITE = 0x7f800000u; // its bits

// Columns column .. column + 3 of a row, zeros beyond its end.
__device__ float4 load_quad(const float *row, uint32_t column, uint32_t columns) {
    if (column + 4 <= columns && reinterpret_cast<uintptr_t>(row + column) % 16 == 0) {
        return *reinterpret_cast<const float4 *>(row + column);
    }
    float values[4];
    for (uint32_t k = 0; k < 4; k++) {
        values[k] = column + k < columns ? row[column + k] : 0.0f;
    }
    return make_float4(values[0], values[1], values[2], values[3]);
}

// The bits of |value|, which order as the values do, NaN on top.
__device__ uint32_t magnitude(float value) {
    return __float_as_uint(value) & 0x7fffffffu;
}
__device__ uint32_t largest_of(float4 quad) {
    return max(max(magnitude(quad.x), magnitude(quad.y)), max(magnitude(quad.z), magnitude(quad.w)));
}

// The lane that a row's quad of a block belongs to, and which of its two it is there.
__device__ uint32_t lane_of(uint32_t row, uint32_t quad) {
    return row % MATMUL_TILE * 4 + quad % 4;
}

// Eight threads a block of 32 columns, a quad each; blockIdx.y is the row. kernels/cpu/matmul.h has the arithmetic.
__global__ void stage_int8(uint8_t *staged, const float *x, size_t x_stride, uint32_t columns, uint32_t units) {
    const uint32_t row = blockIdx.y, quad = threadIdx.x % 8;
    const uint32_t block = blockIdx.x * (THREADS / 8) + threadIdx.x / 8;
    const float4 values = load_quad(x + row * x_stride, block * 32 + quad * 4, columns); // zeros past the last block
    uint32_t bits = largest_of(values);
    for (int step = 4; step > 0; step /= 2) {
        bits = max(bits, __shfl_xor_sync(EVERY_LANE, bits, step));
    }
    const float largest = __uint_as_float(bits);
    float scale = largest / 127.0f, inverse = 127.0f / largest;
    if (!(largest >= 0x1p-100f && largest <= 0x1.fffffep127f)) {
        scale = largest < 0x1p-100f ? 0.0f : __uint_as_float(0x7fc00000u);
        inverse = 0.0f;
    }
    int q[4] = {0, 0, 0, 0};
    if (inverse > 0) {
        q[0] = __float2int_rn(__fmul_rn(values.x, inverse));
        q[1] = __float2int_rn(__fmul_rn(values.y, inverse));
        q[2] = __float2int_rn(__fmul_rn(values.z, inverse));
        q[3] = __float2int_rn(__fmul_rn(values.w, inverse));
    }
    int sum = q[0] + q[1] + q[2] + q[3];
    for (int step = 4; step > 0; step /= 2) {
        sum += __shfl_xor_sync(EVERY_LANE, sum, step);
    }
    if (block >= 2 * units) {
        return;
    }
    uint8_t *to =
        staged + (static_cast<size_t>(row / MATMUL_TILE) * units * 2 + block) * STAGED_BLOCK_BYTES<Stage::INT8>;
    *reinterpret_cast<char4 *>(to + lane_of(row, quad) * 8 + quad / 4 * 4) =
        make_char4(static_cast<signed char>(q[0]), static_cast<signed char>(q[1]), static_cast<signed char>(q[2]),
                   static_cast<signed char>(q[3]));
    if (quad == 0) {
        float *scales = reinterpret_cast<float *>(to + STAGED_SCALES_AT) + row % MATMUL_TILE / 2 * 4;
        scales[row % 2] = scale;
        scales[2 + row % 2] = __fmul_rn(scale, static_cast<float>(sum));
    }
}

__device__ uint32_t pack_bf16(float low, float high) {
    const uint32_t bits = __bfloat16_as_ushort(__float2bfloat16_rn(high));
    return bits << 16 | __bfloat16_as_ushort(__float2bfloat16_rn(low));
}
__device__ uint32_t pack_f16(float low, float high) {
    const uint32_t bits = __half_as_ushort(__float2half_rn(high));
    return bits << 16 | __half_as_ushort(__float2half_rn(low));
}

// The largest `bits` of the block, in every thread.
__device__ uint32_t block_max(uint32_t bits) {
    __shared__ uint32_t largest[THREADS / WARP];
    for (int step = WARP / 2; step > 0; step /= 2) {
        bits = max(bits, __shfl_xor_sync(EVERY_LANE, bits, step));
    }
    if (threadIdx.x % WARP == 0) {
        largest[threadIdx.x / WARP] = bits;
    }
    __syncthreads();
    for (unsigned warp = 0; warp < THREADS / WARP; warp++) {
        bits = max(bits, largest[warp]);
    }
    return bits;
}

// The power of two that brings a largest magnitude of these bits into [2^13, 2^14) by `inverse`; 1 if it is NaN,
// infinite or next to nothing.
struct PowerOfTwo {
    float factor = 1, inverse = 1;

    __device__ explicit PowerOfTwo(uint32_t bits) {
        const int exponent = static_cast<int>(bits >> 23) - 127 - 13; // of the factor
        if (bits < INFINITE && exponent > -120) {
            factor = __uint_as_float(static_cast<uint32_t>(127 + exponent) << 23);
            inverse = __uint_as_float(static_cast<uint32_t>(127 - exponent) << 23);
        }
    }
};

__device__ uint32_t largest_of_row(const float *row, uint32_t columns, uint32_t quads) {
    uint32_t bits = 0;
    for (uint32_t quad = threadIdx.x; quad < quads; quad += THREADS) {
        bits = max(bits, largest_of(load_quad(row, quad * 4, columns)));
    }
    return block_max(bits);
}

template <Stage STAGE> __device__ uint2 pack_16(float4 values, float inverse) {
    if constexpr (STAGE == Stage::F16) {
        return make_uint2(pack_f16(values.x * inverse, values.y * inverse),
                          pack_f16(values.z * inverse, values.w * inverse));
    } else {
        return make_uint2(pack_bf16(values.x, values.y), pack_bf16(values.z, values.w));
    }
}

// A block of threads a row.
template <Stage STAGE>
__global__ void stage_16(uint8_t *staged, float *row_factors, const float *x, size_t x_stride, uint32_t columns,
                         uint32_t units) {
    const uint32_t row = blockIdx.x, quads = units * (CUDA_UNIT_COLUMNS / 4);
    x += row * x_stride;
    float inverse = 1;
    if constexpr (STAGE == Stage::F16) {
        const PowerOfTwo power(largest_of_row(x, columns, quads));
        inverse = power.inverse;
        if (threadIdx.x == 0) {
            row_factors[row] = power.factor;
        }
    }
    uint8_t *tile = staged + static_cast<size_t>(row / MATMUL_TILE) * units * STAGED_UNIT_BYTES<STAGE>;
    for (uint32_t quad = threadIdx.x; quad < quads; quad += THREADS) {
        uint8_t *block = tile + static_cast<size_t>(quad / 8) * STAGED_BLOCK_BYTES<STAGE>;
        *reinterpret_cast<uint2 *>(block + lane_of(row, quad % 8) * 16 + quad % 8 / 4 * 8) =
            pack_16<STAGE>(load_quad(x, quad * 4, columns), inverse);
    }
}

// The largest magnitude of each row, 0 where it is not finite: that row's results will not be, whatever its factor.
__global__ void find_largest(float *largest, const float *x, size_t x_stride, uint32_t columns, uint32_t units) {
    const uint32_t bits = largest_of_row(x + blockIdx.x * x_stride, columns, units * (CUDA_UNIT_COLUMNS / 4));
    if (threadIdx.x == 0) {
        largest[blockIdx.x] = bits < INFINITE ? __uint_as_float(bits) : 0.0f;
    }
}

// A block of threads a row, which has units * 64 columns. F16: every block finds the largest of all rows.
template <Stage STAGE>
__global__ void stage_row(uint8_t *staged, const float *largest, float *scales, const float *x, size_t x_stride,
                          uint32_t columns, uint32_t units) {
    const uint32_t quads = units * (CUDA_UNIT_COLUMNS / 4);
    float inverse = 1;
    if constexpr (STAGE == Stage::F16) {
        uint32_t bits = 0;
        for (uint32_t row = threadIdx.x; row < gridDim.x; row += THREADS) {
            bits = max(bits, __float_as_uint(largest[row]));
        }
        const PowerOfTwo power(block_max(bits));
        inverse = power.inverse;
        if (blockIdx.x == 0 && threadIdx.x == 0) {
            scales[0] = power.factor;
            scales[1] = 0;
            scales[2] = 1;
        }
    }
    x += blockIdx.x * x_stride;
    uint2 *to = reinterpret_cast<uint2 *>(staged) + static_cast<size_t>(blockIdx.x) * quads;
    for (uint32_t quad = threadIdx.x; quad < quads; quad += THREADS) {
        to[quad] = pack_16<STAGE>(load_quad(x, quad * 4, columns), inverse);
    }
}

} // namespace

void matmul_stage(struct stream *stream, Stage stage, uint8_t *staged, float *row_factors, const MatmulWork &work) {
    if (stage == Stage::INT8) {
        launch(stream, dim3(blocks_for(2 * work.units, THREADS / 8), work.n), dim3(THREADS), 0, stage_int8, staged,
               work.x, work.x_stride, work.columns, work.units);
    } else {
        launch(stream, dim3(work.n), dim3(THREADS), 0,
               stage == Stage::F16 ? stage_16<Stage::F16> : stage_16<Stage::BF16>, staged, row_factors, work.x,
               work.x_stride, work.columns, work.units);
    }
}

void matmul_stage_plain(struct stream *stream, Stage stage, uint8_t *staged, float *largest, float *scales,
                        const MatmulWork &work) {
    if (stage == Stage::F16) {
        launch(stream, dim3(work.n), dim3(THREADS), 0, find_largest, largest, work.x, work.x_stride, work.columns,
               work.units);
    }
    launch(stream, dim3(work.n), dim3(THREADS), 0, stage == Stage::F16 ? stage_row<Stage::F16> : stage_row<Stage::BF16>,
           staged, largest, scales, work.x, work.x_stride, work.columns, work.units);
}
