// op_matmul for many rows (prefill, large batches): tiles of 256 outputs by 64 rows of activations.
//
// Eight warps side by side over the outputs, 32 each, so that every weight is unpacked once a block and by the warp
// that needs it: weights go from memory straight to registers, one unit ahead, in the order that packed.h gave them.
// All the warps share the activations, which come through shared memory with cp.async, STAGES - 1 units ahead.
//
// A span's sums are added to the totals of the spans before it, as matmul_few.cu adds them: the same bits.
//
// Roofline. A unit is 32 products of 16x8x32 (int8) a warp and tile pair, and each asks for 12 (with minimums 16) f32
// instructions to scale its 16x8 dot products, so instructions are the limit: on Hopper, which issues one a cycle in
// each of 4 quarters, 4 * 4096 / 17 = 960 multiply-adds a cycle and multiprocessor, which is 47 % of its dense bf16
// rate and about 65 % of what cuBLAS reaches with that; on A100, whose f32 units take two cycles for a warp, 500 (49 %
// of its bf16 rate); on A10, whose f32 units take one, 960, and its tensor cores make 1020 in int8: both are the limit,
// above its bf16 rate of 512. This price buys exact integer sums and with them the same tokens in every batch. For
// 16-bit weights there is nothing to scale: mma.sync reaches about 60 % of Hopper's rate (the rest needs wgmma), and a
// block's (256 + 64) * 2 bytes a column from L2 for 16384 multiply-adds are 28 a cycle at 720 of them: L2 is the limit
// there, at 35 % of the rate on Hopper; on A100 and Ada it is not.
#include "kernels/cuda/matmul.cuh"

namespace {

constexpr int WARPS = 8;
constexpr int ROW_TILES = 2; // groups of 16 outputs of a warp
constexpr int X_TILES = 8;   // of 8 rows
constexpr int STAGES = 4;
constexpr int SUMS = ROW_TILES * X_TILES * 4; // of a thread
static_assert(X_TILES * MATMUL_TILE == MATMUL_ROWS_ALIGNED, "a block may read all the rows of its tile");

// Enqueues the copy of unit `unit` of the block's tiles to shared memory; always one group of copies.
template <Stage STAGE>
__device__ __forceinline__ void fetch(uint8_t *shared, const uint8_t *staged, uint32_t unit, uint32_t units) {
    constexpr uint32_t BYTES = STAGED_UNIT_BYTES<STAGE>, PIECES = BYTES / 16;
    if (unit < units) {
        for (uint32_t i = threadIdx.x; i < X_TILES * PIECES; i += blockDim.x) {
            const uint32_t tile = i / PIECES, piece = i % PIECES;
            cp_async_16(shared + i * 16, staged + (static_cast<size_t>(tile) * units + unit) * BYTES + piece * 16,
                        true);
        }
    }
    cp_async_commit();
}

template <enum tensor_type TYPE>
__global__ void __launch_bounds__(WARPS *WARP, 1) many_rows(const __grid_constant__ MatmulWork work) {
    constexpr Stage STAGE = stage_of<TYPE>;
    constexpr uint32_t X_BYTES = STAGED_UNIT_BYTES<STAGE>, STAGE_BYTES = X_TILES * X_BYTES;
    CUDA_DYNAMIC_SHARED(uint8_t, shared);
    float *totals = reinterpret_cast<float *>(shared + STAGES * STAGE_BYTES) + threadIdx.x; // SUMS of each thread
    const int warp = static_cast<int>(threadIdx.x / WARP), lane = static_cast<int>(threadIdx.x % WARP);
    const uint32_t first_x = blockIdx.x * X_TILES * MATMUL_TILE;
    const uint8_t *staged = work.staged + static_cast<size_t>(blockIdx.x) * X_TILES * work.units * X_BYTES;

    // Groups past the last are the last again; what they give is not written.
    PackedGroup groups[ROW_TILES];
    const uint32_t first_group = (blockIdx.y * (blockDim.x / WARP) + warp) * ROW_TILES;
#pragma unroll
    for (int m = 0; m < ROW_TILES; m++) {
        const uint32_t index = min(first_group + m, work.groups - 1);
        const MatmulPiece &piece = piece_of(work, index);
        groups[m] = packed_group<TYPE>(piece.packed, work.columns, index - piece.first_group);
    }

    PackedUnit<TYPE> weights[ROW_TILES];
#pragma unroll
    for (int m = 0; m < ROW_TILES; m++) {
        weights[m].template load<false>(groups[m], 0, lane);
    }
    for (int stage = 0; stage < STAGES - 1; stage++) {
        fetch<STAGE>(shared + stage * STAGE_BYTES, staged, stage, work.units);
    }

    TileSums sums[ROW_TILES][X_TILES] = {};
    uint32_t span_left = work.span_units;
    bool first_span = true;
    for (uint32_t unit = 0; unit < work.units; unit++) {
        cp_async_wait<STAGES - 2>();
        __syncthreads(); // this unit is there for all, and all are done with the one before, whose place is next
        fetch<STAGE>(shared + (unit + STAGES - 1) % STAGES * STAGE_BYTES, staged, unit + STAGES - 1, work.units);

#pragma unroll
        for (int block = 0; block < 2; block++) {
            const uint8_t *x_block = shared + unit % STAGES * STAGE_BYTES + block * STAGED_BLOCK_BYTES<STAGE>;
            const WeightOperand<TYPE> operands[ROW_TILES] = {{weights[0], block}, {weights[1], block}};
            if (block == 1 && unit + 1 < work.units) { // on their way while this block is multiplied
#pragma unroll
                for (int m = 0; m < ROW_TILES; m++) {
                    weights[m].template load<false>(groups[m], unit + 1, lane);
                }
            }
#pragma unroll
            for (int tile = 0; tile < X_TILES; tile++) {
                StagedBlock<STAGE> x;
                x.load(x_block + tile * X_BYTES, lane);
#pragma unroll
                for (int m = 0; m < ROW_TILES; m++) {
                    operands[m].multiply(x, sums[m][tile]);
                }
            }
        }
        if (--span_left == 0 || unit + 1 == work.units) {
#pragma unroll
            for (int i = 0; i < SUMS; i++) {
                float &sum = sums[i / (X_TILES * 4)][i / 4 % X_TILES][i % 4], &total = totals[i * blockDim.x];
                total = first_span ? sum : __fadd_rn(total, sum);
                sum = 0;
            }
            span_left = work.span_units;
            first_span = false;
        }
    }

#pragma unroll
    for (int m = 0; m < ROW_TILES; m++) {
        if (first_group + m >= work.groups) {
            break;
        }
        const MatmulPiece &piece = piece_of(work, first_group + m);
#pragma unroll
        for (int i = 0; i < X_TILES * 4; i++) {
            const uint32_t x_row = first_x + i / 4 * MATMUL_TILE + lane % 4 * 2 + i % 2;
            const uint32_t row = (first_group + m - piece.first_group) * CUDA_GROUP_ROWS + lane / 4 + 8 * (i / 2 % 2);
            if (x_row < work.n && row < piece.rows) {
                write_output(piece, x_row, row,
                             undo_factor<STAGE>(work, x_row, totals[(m * X_TILES * 4 + i) * blockDim.x]));
            }
        }
    }
}

// The stages of the block's activations, and its threads' totals.
template <enum tensor_type TYPE> constexpr size_t shared_bytes(unsigned warps) {
    return STAGES * X_TILES * STAGED_UNIT_BYTES<stage_of<TYPE>> + warps * WARP * SUMS * sizeof(float);
}

// Fewer warps a block where that gives the multiprocessors more of an equal share.
template <enum tensor_type TYPE> void launch_type(struct stream *stream, const MatmulWork &work) {
    const unsigned x_blocks = blocks_for(work.n, X_TILES * MATMUL_TILE);
    const unsigned multiprocessors = static_cast<unsigned>(cuda_device_of(stream)->multiprocessors);
    unsigned warps = WARPS;
    while (warps > 2 && x_blocks * blocks_for(work.groups, warps * ROW_TILES) < multiprocessors) {
        warps /= 2;
    }
    launch(stream, dim3(x_blocks, blocks_for(work.groups, warps * ROW_TILES)), dim3(warps * WARP),
           shared_bytes<TYPE>(warps), many_rows<TYPE>, work);
}

template <enum tensor_type TYPE> cudaError_t allow_shared() {
    return cudaFuncSetAttribute(many_rows<TYPE>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                static_cast<int>(shared_bytes<TYPE>(WARPS)));
}

} // namespace

cudaError_t matmul_many_rows_prepare() {
    const cudaError_t errors[] = {allow_shared<TENSOR_F16>(),  allow_shared<TENSOR_BF16>(), allow_shared<TENSOR_Q8_0>(),
                                  allow_shared<TENSOR_Q4_0>(), allow_shared<TENSOR_Q4_1>(), allow_shared<TENSOR_Q4_K>(),
                                  allow_shared<TENSOR_Q5_K>(), allow_shared<TENSOR_Q6_K>()};
    for (const cudaError_t error : errors) {
        if (error != cudaSuccess) {
            return error;
        }
    }
    return cudaSuccess;
}

void matmul_many_rows(struct stream *stream, enum tensor_type type, const MatmulWork &work) {
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
