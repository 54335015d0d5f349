// op_matmul in f32: every weight dequantized, every product an f32 fused multiply-add. COMPUTE_F32, and matrices of
// F32.
//
// For checks and for small matrices, not for speed: weights are read again for every 8 rows of activations, and each
// lane loads the activations that it multiplies. A block of 8 warps makes 16 outputs of up to 8 rows, a warp a span
// (matmul.cuh); a lane holds the weights of two outputs, whose chains its group's four lanes share: chain t has the
// columns 4t .. 4t+3 and 16+4t .. 16+4t+3 of each block, and the output is (chain 0 + chain 1) + (chain 2 + chain 3).
//
// Roofline: a weight is 8 multiply-adds and about as many loads and selections, whether there are 8 rows or one: 1.7 T
// weights a second on H100 (132 multiprocessors of 128 lanes at 1.7 GHz) and 0.9 T on A10. F32 weights come at 0.84 T
// and 0.15 T a second at most: memory is the limit up to 8 rows; of quantized ones (0.56 bytes) instructions are on
// H100.
#include "kernels/cuda/matmul.cuh"

namespace {

constexpr unsigned THREADS = MATMUL_SPANS * WARP;

// Weight k of quad i of a block.
template <enum tensor_type TYPE>
__device__ __forceinline__ float weight_of(const PackedUnit<TYPE> &unit, int block, int i, int k) {
    if constexpr (TYPE == TENSOR_F32) {
        return __uint_as_float(unit.codes[16 * block + 4 * i + k]);
    } else if constexpr (!PackedTraits<TYPE>::QUANTIZED) {
        const uint32_t bits = unit.codes[8 * block + 2 * i + k / 2] >> 16 * (k % 2) & 0xffff;
        return TYPE == TENSOR_F16 ? float_of_half(bits) : __uint_as_float(bits << 16);
    } else {
        return dequantized(unit, block, i, k);
    }
}

template <enum tensor_type TYPE>
__global__ void __launch_bounds__(THREADS, 2) exact(const __grid_constant__ MatmulWork work) {
    __shared__ float partial[MATMUL_SPANS][MATMUL_TILE][CUDA_GROUP_ROWS];
    const MatmulPiece &piece = piece_of(work, blockIdx.x);
    const uint32_t group_index = blockIdx.x - piece.first_group;
    const PackedGroup group = packed_group<TYPE>(piece.packed, work.columns, group_index);
    const int warp = static_cast<int>(threadIdx.x / WARP), lane = static_cast<int>(threadIdx.x % WARP);
    const uint32_t first = min(warp * work.span_units, work.units), end = min(first + work.span_units, work.units);
    const uint32_t first_x = blockIdx.y * MATMUL_TILE, x_rows = min(MATMUL_TILE, work.n - first_x);
    const float *x = work.x + first_x * work.x_stride;

    float sums[2][MATMUL_TILE] = {};
    for (uint32_t at = first; at < end; at++) {
        PackedUnit<TYPE> unit;
        unit.template load<true>(group, at, lane);
#pragma unroll
        for (int quarter = 0; quarter < 4; quarter++) { // 16 columns of the unit: quads 2h and 2h + 1 of a block
            const int block = quarter / 2, i = quarter % 2 * 2;
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const uint32_t column = at * CUDA_UNIT_COLUMNS + quarter * 16 + lane % 4 * 4 + k;
                const float lower = weight_of(unit, block, i, k), upper = weight_of(unit, block, i + 1, k);
                if (column < work.columns) {
#pragma unroll
                    for (uint32_t row = 0; row < MATMUL_TILE; row++) {
                        const float value = row < x_rows ? x[row * work.x_stride + column] : 0.0f;
                        sums[0][row] = __fmaf_rn(lower, value, sums[0][row]);
                        sums[1][row] = __fmaf_rn(upper, value, sums[1][row]);
                    }
                }
            }
        }
    }
#pragma unroll
    for (uint32_t row = 0; row < MATMUL_TILE; row++) {
#pragma unroll
        for (int upper = 0; upper < 2; upper++) {
            float sum = sums[upper][row];
            sum = __fadd_rn(sum, __shfl_xor_sync(EVERY_LANE, sum, 1));
            sum = __fadd_rn(sum, __shfl_xor_sync(EVERY_LANE, sum, 2));
            if (lane % 4 == 0) {
                partial[warp][row][lane / 4 + 8 * upper] = sum;
            }
        }
    }
    __syncthreads();
    const uint32_t spans = blocks_for(work.units, work.span_units);
    const uint32_t in_group = threadIdx.x % CUDA_GROUP_ROWS, x_row = threadIdx.x / CUDA_GROUP_ROWS;
    const uint32_t row = group_index * CUDA_GROUP_ROWS + in_group;
    if (x_row < x_rows && row < piece.rows) {
        float sum = partial[0][x_row][in_group];
        for (uint32_t span = 1; span < spans; span++) {
            sum = __fadd_rn(sum, partial[span][x_row][in_group]);
        }
        write_output(piece, first_x + x_row, row, sum);
    }
}

template <enum tensor_type TYPE> void launch_type(struct stream *stream, const MatmulWork &work) {
    launch(stream, dim3(work.groups, blocks_for(work.n, MATMUL_TILE)), dim3(THREADS), 0, exact<TYPE>, work);
}

} // namespace

void matmul_exact(struct stream *stream, enum tensor_type type, const MatmulWork &work) {
    switch (type) {
    case TENSOR_F32:
        return launch_type<TENSOR_F32>(stream, work);
    case TENSOR_F16:
        return launch_type<TENSOR_F16>(stream, work);
    case TENSOR_BF16:
        return launch_type<TENSOR_BF16>(stream, work);
    case TENSOR_Q8_0:
        return launch_type<TENSOR_Q8_0>(stream, work);
    case TENSOR_Q4_0:
        return launch_type<TENSOR_Q4_0>(stream, work);
    case TENSOR_Q4_1:
        return launch_type<TENSOR_Q4_1>(stream, work);
    case TENSOR_Q4_K:
        return launch_type<TENSOR_Q4_K>(stream, work);
    case TENSOR_Q5_K:
        return launch_type<TENSOR_Q5_K>(stream, work);
    default:
        CHECK(type == TENSOR_Q6_K);
        return launch_type<TENSOR_Q6_K>(stream, work);
    }
}
