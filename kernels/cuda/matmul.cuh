// What the kernels of op_matmul share: how staged activations lie, the work of a launch, and the arithmetic. CUDA C++
// only; for matmul*.cu.
//
// THE ARITHMETIC. The columns of a row are cut into at most MATMUL_SPANS spans of whole units (64 columns), by the
// number of columns alone. A span is one chain from 0 in the order of its columns, and the output is the spans' sums
// added in their order, then + bias, then out + that if the part accumulates. A chain is
//
//   int8       quantized weights under COMPUTE_INT8. Activations are int8 per block of 32 (the cpu device's numbers
//              exactly, kernels/cpu/matmul.h), the dot product of a block (Q6_K: of half a block) is an exact integer
//              from the tensor cores, and
//                  sum = fma(dot, scale * x_scale, sum), then sum = fma(minimum, x_scale * q_sum, sum).
//   16 bits    F16 and BF16 weights under COMPUTE_INT8. Activations are rounded to the weights' type (F16: after
//              multiplying the row by a power of two that brings its largest below 2^14, so that none overflows), and
//              the tensor cores add products of 16 columns at a time to an f32 sum. Relative error to 1 / 512 and 1 /
//              4096 of the largest terms.
//   exact      COMPUTE_F32, and F32 weights in either mode: weights dequantized to f32, f32 fused multiply-adds; a
//              span is four interleaved chains, folded in one order.
//
//   library    not `invariant`, and many rows: cuBLAS multiplies what is rounded to 16 bits, in an order of its own
//              (matmul_library.cu). All that follows is of the others.
//
// Few rows and many rows take different kernels for speed, but the same chains: a row's bits depend on neither the
// other rows, nor their number, nor the pieces a matrix is cut into. A tensor core's column does not see its
// neighbours, and gives the same bits for the same operands.
#ifndef METRONOME_KERNELS_CUDA_MATMUL_CUH
#define METRONOME_KERNELS_CUDA_MATMUL_CUH

#include "kernels/cuda/dequant.cuh"
#include "kernels/cuda/ptx.cuh"

constexpr uint32_t MATMUL_SPANS = 8;
constexpr uint32_t MATMUL_TILE = 8; // rows of activations that lie together: the width of a tensor core's product
constexpr uint32_t MATMUL_ROWS_ALIGNED = 64; // scratch holds whole runs of so many rows

enum class Stage { INT8, F16, BF16 };

template <enum tensor_type TYPE>
constexpr Stage stage_of = TYPE == TENSOR_F16    ? Stage::F16
                           : TYPE == TENSOR_BF16 ? Stage::BF16
                                                 : Stage::INT8;

// Staged activations: tile after tile of 8 rows, block after block of 32 columns, each block of a tile
//   int8     [lane] columns 4t .. +3 and 16+4t .. +3 of row g, int8; then [4 t] the scales of rows 2t and 2t+1, and
//            q_sum * scale of the same
//   16 bits  [lane] columns 4t .. +3 and 16+4t .. +3 of row g
// which is the B operand of a tensor core's product, and the scales of its result's columns.
template <Stage STAGE> constexpr uint32_t STAGED_BLOCK_BYTES = STAGE == Stage::INT8 ? 320 : 512;
template <Stage STAGE> constexpr uint32_t STAGED_UNIT_BYTES = 2 * STAGED_BLOCK_BYTES<STAGE>;
constexpr uint32_t STAGED_SCALES_AT = 256; // bytes into an int8 block

// One piece of a matrix: its groups are the blocks first_group .. of the launch's numbering.
struct MatmulPiece {
    const void *packed;
    const float *bias;
    float *out;
    size_t out_stride;
    uint32_t rows;
    uint32_t first_group; // in the numbering that goes through all the launch's pieces
    bool accumulate;
};

// The pieces of one type of an op_matmul.
struct MatmulWork {
    const uint8_t *staged;
    const float *row_factors; // F16: what each row was divided by
    const float *x;           // exact
    size_t x_stride;
    uint32_t n, columns, units;
    uint32_t span_units;
    uint32_t count, groups;
    MatmulPiece pieces[MATMUL_MAX_PARTS];
};

// The piece that block `index` of groups belongs to.
__device__ __forceinline__ const MatmulPiece &piece_of(const MatmulWork &work, uint32_t group) {
    uint32_t i = 0;
    while (i + 1 < work.count && work.pieces[i + 1].first_group <= group) {
        i++;
    }
    return work.pieces[i];
}

// out = sum, or what the part asks for besides.
__device__ __forceinline__ void write_output(const MatmulPiece &piece, uint32_t x_row, uint32_t row, float sum) {
    float *out = piece.out + x_row * piece.out_stride + row;
    if (piece.bias != nullptr) {
        sum = __fadd_rn(sum, piece.bias[row]);
    }
    *out = piece.accumulate ? __fadd_rn(*out, sum) : sum;
}

// One lane's share of a tile's block of activations.
template <Stage STAGE> struct StagedBlock {
    uint4 values;  // int8: x and y only
    float4 scales; // int8: scales and sums of columns 2t, 2t+1

    __device__ __forceinline__ void load(const uint8_t *block, int lane) {
        if constexpr (STAGE == Stage::INT8) {
            const uint2 two = *reinterpret_cast<const uint2 *>(block + lane * 8);
            values = make_uint4(two.x, two.y, 0, 0);
            scales = *reinterpret_cast<const float4 *>(block + STAGED_SCALES_AT + lane % 4 * 16);
        } else {
            values = *reinterpret_cast<const uint4 *>(block + lane * 16);
        }
    }
};

// A lane's sums of a 16 x 8 tile, as the tensor cores have them: row g + 8 * (r / 2), column 2t + r % 2.
using TileSums = float[4];

// What a block of a unit's weights contributes, made once for all the tiles that it is multiplied by.
template <enum tensor_type TYPE, Stage STAGE = stage_of<TYPE>> struct WeightOperand {
    uint32_t codes[8];

    __device__ __forceinline__ WeightOperand(const PackedUnit<TYPE> &unit, int block) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            codes[i] = unit.codes[8 * block + i];
        }
    }

    __device__ __forceinline__ void multiply(const StagedBlock<STAGE> &x, TileSums &sums) const {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const uint32_t b[2] = {half == 0 ? x.values.x : x.values.z, half == 0 ? x.values.y : x.values.w};
            const uint32_t a[4] = {codes[4 * half], codes[4 * half + 2], codes[4 * half + 1], codes[4 * half + 3]};
            if constexpr (STAGE == Stage::F16) {
                mma_m16n8k16_f16(sums, a, b);
            } else {
                mma_m16n8k16_bf16(sums, a, b);
            }
        }
    }
};

// The dot product of a block is below 2^22 in size. The sum begins at the integer whose bits are those of 1.5 * 2^23,
// so that its bits as a float are that number plus the dot product: one subtraction instead of a conversion, which the
// GPU does at a quarter of the rate or less.
constexpr int INTEGER_BASE = 0x4b400000;
constexpr float FLOAT_BASE = 12582912.0f;

template <enum tensor_type TYPE> struct WeightOperand<TYPE, Stage::INT8> {
    using Traits = PackedTraits<TYPE>;
    uint32_t quads[4];
    float scales[Traits::HALVES][2], minimums[2];

    __device__ __forceinline__ WeightOperand(const PackedUnit<TYPE> &unit, int block) {
        constexpr float FACTOR = 1.0f / PackedUnit<TYPE>::CODE_FACTOR; // a power of two: exact
#pragma unroll
        for (int i = 0; i < 4; i++) {
            quads[i] = unit.quad(block, i);
        }
#pragma unroll
        for (int upper = 0; upper < 2; upper++) {
#pragma unroll
            for (int half = 0; half < Traits::HALVES; half++) {
                scales[half][upper] = unit.scale(block, half, upper) * FACTOR;
            }
            minimums[upper] = unit.minimum(block, upper);
        }
    }

    __device__ __forceinline__ void multiply(const StagedBlock<Stage::INT8> &x, TileSums &sums) const {
        const uint32_t b[2] = {x.values.x, x.values.y};
#pragma unroll
        for (int half = 0; half < Traits::HALVES; half++) {
            int dot[4] = {INTEGER_BASE, INTEGER_BASE, INTEGER_BASE, INTEGER_BASE};
            const bool lower = Traits::HALVES == 1 || half == 0, upper = Traits::HALVES == 1 || half == 1;
            const uint32_t a[4] = {lower ? quads[0] : 0, lower ? quads[1] : 0, upper ? quads[2] : 0,
                                   upper ? quads[3] : 0};
            mma_m16n8k32_s8(dot, a, b);
#pragma unroll
            for (int r = 0; r < 4; r++) {
                const float scale = scales[half][r / 2] * (r % 2 == 0 ? x.scales.x : x.scales.y);
                sums[r] = __fmaf_rn(__int_as_float(dot[r]) - FLOAT_BASE, scale, sums[r]);
            }
        }
        if constexpr (Traits::HAS_MINIMUM) {
#pragma unroll
            for (int r = 0; r < 4; r++) {
                sums[r] = __fmaf_rn(minimums[r / 2], r % 2 == 0 ? x.scales.z : x.scales.w, sums[r]);
            }
        }
    }
};

// What is left to do to a chain's sum: undoes the row's power of two.
template <Stage STAGE> __device__ __forceinline__ float undo_factor(const MatmulWork &work, uint32_t x_row, float sum) {
    return STAGE == Stage::F16 ? __fmul_rn(sum, work.row_factors[x_row]) : sum;
}

// The launches; each file of kernels has one. Work is of one type.
void matmul_stage(struct stream *stream, Stage stage, uint8_t *staged, float *row_factors, const MatmulWork &work);
void matmul_few_rows(struct stream *stream, enum tensor_type type, const MatmulWork &work);
void matmul_many_rows(struct stream *stream, enum tensor_type type, const MatmulWork &work);
cudaError_t matmul_many_rows_prepare(); // once, before the first launch
void matmul_exact(struct stream *stream, enum tensor_type type, const MatmulWork &work);

// Staged row after row, each of work.units * 64 columns of 16 bits. F16: all divided by one power of two, which
// scales[0] becomes, with 0 and 1 behind it; largest (n) is scratch.
void matmul_stage_plain(struct stream *stream, Stage stage, uint8_t *staged, float *largest, float *scales,
                        const MatmulWork &work);
constexpr uint32_t MATMUL_SCALES = 3;

// cuBLAS into device->library where it may be used; and the products by it, of all parts but those in F32. `staged` and
// `largest` are the scratch that `work` names. False: it is not for this device or so few rows, and nothing was done.
struct status matmul_library_prepare(struct cuda_device *device, const struct device_limits *limits);
void matmul_library_release(struct cuda_device *device);
bool matmul_library(struct stream *stream, const struct matmul_part *parts, uint32_t count, uint8_t *staged,
                    float *largest, const MatmulWork &work);

// More rows than this take the kernel for many.
constexpr uint32_t MATMUL_FEW_ROWS = 32;

#endif
