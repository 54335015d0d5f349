// op_matmul for few rows: reads every packed weight once for up to 32 rows of activations.
//
// A block of 8 warps makes 16 outputs of every row; warp w walks span w of the columns (matmul.cuh) and the spans are
// added up in shared memory. A lane loads 16 bytes of codes at a time, already the operand that the tensor cores take:
// there are up to 8 rows of activations to an operand's width, so one to eight rows cost the same.
//
// Roofline (H200: 4.8 TB/s over 132 multiprocessors at 1.8 GHz, 20 bytes a cycle each; H100: 15; A100: 13; A10: 5; RTX
// 4090: 3; a model of 7 B weights in BF16 is 4.0 ms on H100 and 22 ms on A10).
//   Bytes in flight. Latency of about 700 ns asks for 4.8 TB/s * 700 ns / 132 = 25 KB a multiprocessor. Two blocks of
//   8 warps with RING units each under way: 16 * 4 * 576 = 37 KB (Q4_0), 16 * 4 * 1088 = 70 KB (Q8_0),
//   16 * 3 * 2048 = 98 KB (BF16).
//   Instructions. A unit of Q4_1 is 640 bytes and about 70 instructions of a warp (2 mma, 32 to scale their results,
//   16 for minimums, 12 to unpack, 8 loads): at 20 bytes a cycle there are 128 issue SLOTS for them.
//   L1. The same unit loads 640 bytes of weights and 768 of activations (from L1: every warp of a row of blocks reads
//   them): 44 bytes a cycle of 128.
// So HBM is the limit for up to 8 rows, and for 9 to 32 scaling the results is (4 tiles of 50 instructions a unit).
// Where a matrix is small (a few MB), the start and the end of a launch, some 3 us, are what one pays.
#include "kernels/cuda/matmul.cuh"

namespace {

constexpr unsigned THREADS = MATMUL_SPANS * WARP;

// Units that each warp has under way: fewer where more sums want the registers.
template <enum tensor_type TYPE, int TILES> constexpr int RING = TILES == 4 ? 2 : PackedTraits<TYPE>::QUANTIZED ? 4 : 3;

template <enum tensor_type TYPE, int TILES>
__global__ void __launch_bounds__(THREADS, 2) few_rows(const __grid_constant__ MatmulWork work) {
    constexpr Stage STAGE = stage_of<TYPE>;
    constexpr int SLOTS = RING<TYPE, TILES>;
    __shared__ float partial[MATMUL_SPANS][CUDA_GROUP_ROWS][MATMUL_TILE * TILES];
    const MatmulPiece &piece = piece_of(work, blockIdx.x);
    const uint32_t group_index = blockIdx.x - piece.first_group;
    const PackedGroup group = packed_group<TYPE>(piece.packed, work.columns, group_index);
    const int warp = static_cast<int>(threadIdx.x / WARP), lane = static_cast<int>(threadIdx.x % WARP);
    const uint32_t first = min(warp * work.span_units, work.units), end = min(first + work.span_units, work.units);

    PackedUnit<TYPE> ring[SLOTS];
#pragma unroll
    for (int slot = 0; slot < SLOTS; slot++) {
        if (first + slot < end) {
            ring[slot].template load<true>(group, first + slot, lane);
        }
    }
    TileSums sums[TILES] = {};
    for (uint32_t at = first; at < end; at += SLOTS) {
#pragma unroll
        for (int slot = 0; slot < SLOTS; slot++) {
            const uint32_t unit = at + slot;
            if (unit >= end) {
                break;
            }
#pragma unroll
            for (int block = 0; block < 2; block++) {
                const WeightOperand<TYPE> operand(ring[slot], block);
                const uint8_t *staged = work.staged + (unit * 2 + block) * STAGED_BLOCK_BYTES<STAGE>;
#pragma unroll
                for (int tile = 0; tile < TILES; tile++) {
                    StagedBlock<STAGE> x;
                    x.load(staged + static_cast<size_t>(tile) * work.units * STAGED_UNIT_BYTES<STAGE>, lane);
                    operand.multiply(x, sums[tile]);
                }
            }
            if (unit + SLOTS < end) {
                ring[slot].template load<true>(group, unit + SLOTS, lane);
            }
        }
    }

#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
#pragma unroll
        for (int r = 0; r < 4; r++) {
            partial[warp][lane / 4 + 8 * (r / 2)][tile * 8 + lane % 4 * 2 + r % 2] = sums[tile][r];
        }
    }
    __syncthreads();
    const uint32_t spans = (work.units + work.span_units - 1) / work.span_units;
    for (uint32_t i = threadIdx.x; i < CUDA_GROUP_ROWS * MATMUL_TILE * TILES; i += THREADS) {
        const uint32_t in_group = i % CUDA_GROUP_ROWS, x_row = i / CUDA_GROUP_ROWS;
        const uint32_t row = group_index * CUDA_GROUP_ROWS + in_group;
        if (x_row < work.n && row < piece.rows) {
            float sum = partial[0][in_group][x_row];
            for (uint32_t span = 1; span < spans; span++) {
                sum = __fadd_rn(sum, partial[span][in_group][x_row]);
            }
            write_output(piece, x_row, row, undo_factor<STAGE>(work, x_row, sum));
        }
    }
}

template <enum tensor_type TYPE> void launch_type(struct stream *stream, const MatmulWork &work) {
    static_assert(MATMUL_FEW_ROWS == 4 * MATMUL_TILE, "the most tiles that a kernel is made for");
    void (*kernel)(MatmulWork) = work.n <= MATMUL_TILE       ? few_rows<TYPE, 1>
                                 : work.n <= 2 * MATMUL_TILE ? few_rows<TYPE, 2>
                                                             : few_rows<TYPE, 4>;
    launch(stream, dim3(work.groups), dim3(THREADS), 0, kernel, work);
}

} // namespace

void matmul_few_rows(struct stream *stream, enum tensor_type type, const MatmulWork &work) {
    switch (type) {
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
