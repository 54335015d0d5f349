/* The bodies of the kernels of matmul.h, compiled once for each instruction set: matmul_scalar.c, matmul_avx2.c and
 * matmul_avx512.c include this file and nothing else. The arithmetic is matmul.h's, the layout packed.h's.
 *
 * A micro-kernel keeps the sums of LANES outputs by a few activation rows in registers and walks the columns once;
 * with each block's codes unpacked once for all its rows. Threads: any; pure. */
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/vector.h"

/* Activation rows that one micro-kernel holds: as many as the registers do. */
#if defined(__AVX512VNNI__)
#define MICRO_ROWS 8
#elif defined(__AVX2__)
#define MICRO_ROWS 4
#else
#define MICRO_ROWS 1
#endif
#define AT_MOST(rows) ((rows) < MICRO_ROWS ? (rows) : MICRO_ROWS)

/* ---- reading packed weights; `lane` is the first output row, a multiple of LANES ---- */

/* Quad `i` of a block's codes. */
INLINE u8v load_quad(const enum tensor_type type, const uint8_t *codes, int lane, const int i) {
    codes += 4 * lane;
    if (type == TENSOR_Q8_0) {
        return u8_load(codes + 64 * i);
    }
    const u8v pair = u8_load(codes + i / 2 * 64);
    const u8v low = u8_and(i % 2 ? u8_shift_right_dwords(pair, 4) : pair, u8_set(0x0f));
    if (type == TENSOR_Q5_K) {
        const u8v bits = u8_load(codes + 256);
        return u8_or(low, u8_and(i < 4 ? u8_shift_left_dwords(bits, i < 4 ? 4 - i : 0)
                                       : u8_shift_right_dwords(bits, i < 4 ? 0 : i - 4),
                                 u8_set(0x10)));
    }
    if (type == TENSOR_Q6_K) {
        const u8v bits = u8_load(codes + 256 + i / 4 * 64);
        const int field = i % 4;
        return u8_or(low, u8_and(field < 2 ? u8_shift_left_dwords(bits, field < 2 ? 4 - 2 * field : 0)
                                           : u8_shift_right_dwords(bits, field < 2 ? 0 : 2 * field - 4),
                                 u8_set(0x30)));
    }
    return low;
}

struct block_scales {
    f32v scale[2]; /* of the block's halves: the same but in Q6_K */
    f32v minimum;
};

INLINE f32v load_f16_row(const uint8_t *from, int lane) {
    return f32_load_f16((const uint16_t *)(const void *)from + lane);
}

/* The scales of block `inner` of the unit that begins at `scales`. */
INLINE struct block_scales load_scales(const enum tensor_type type, const uint8_t *scales, uint32_t inner, int lane) {
    struct block_scales result;
    const f32v d = load_f16_row(scales, lane);
    result.scale[0] = result.scale[1] = d;
    result.minimum = f32_set(0);
    if (type == TENSOR_Q4_1) {
        result.minimum = load_f16_row(scales + 32, lane);
    } else if (type == TENSOR_Q4_K || type == TENSOR_Q5_K) {
        const f32v sub_scale = f32_from_i32(i32_load_u8(scales + 64 + 16 * inner + lane));
        const f32v sub_minimum = f32_from_i32(i32_load_u8(scales + 192 + 16 * inner + lane));
        result.scale[0] = result.scale[1] = f32_mul(d, sub_scale);
        result.minimum = f32_mul(f32_mul(load_f16_row(scales + 32, lane), f32_set(-1)), sub_minimum);
    } else if (type == TENSOR_Q6_K) {
        const int8_t *sub_scales = (const int8_t *)scales + 32 + 32 * inner + lane;
        result.scale[0] = f32_mul(d, f32_from_i32(i32_load_i8(sub_scales)));
        result.scale[1] = f32_mul(d, f32_from_i32(i32_load_i8(sub_scales + 16)));
    }
    return result;
}

/* ---- quantizing activations ---- */

static void quantize_block(struct activation_block *block, uint32_t row, const float *x) {
    i32v most = i32_absolute_bits(f32_load(x));
    for (int i = LANES; i < PACKED_BLOCK; i += LANES) {
        most = i32_max(most, i32_absolute_bits(f32_load(x + i)));
    }
    const float largest = f32_of_bits((uint32_t)i32_lanes_max(most)); /* bits of NaN are above those of infinity */
    float scale = largest / 127.0f, inverse = 127.0f / largest;
    if (!(largest >= 0x1p-100f && largest <= 0x1.fffffep127f)) {
        scale = largest < 0x1p-100f ? 0.0f : NAN;
        inverse = 0.0f;
    }
    int32_t sum[2] = {0, 0};
    for (int i = 0; i < PACKED_BLOCK; i += LANES) {
        const i32v q = inverse > 0 ? i32_round(f32_mul(f32_load(x + i), f32_set(inverse))) : i32_set(0);
        i32_store_i8(block->q[row] + i, q);
        sum[i / 16] += i32_lanes_sum(q);
    }
    block->scale[row] = scale;
    block->scaled_sum[row] = scale * (float)(sum[0] + sum[1]);
    block->sum[0][row] = sum[0];
    block->sum[1][row] = sum[1];
}

static void quantize(struct activation_block *tile, const float *x, size_t x_stride, uint32_t rows, uint32_t columns) {
    for (uint32_t block = 0; block < columns / PACKED_BLOCK; block++) {
        if ((rows & (rows - 1)) != 0) { /* a micro-kernel rounds its rows up to a power of 2 */
            memset(&tile[block], 0, sizeof tile[block]);
        }
        for (uint32_t row = 0; row < rows; row++) {
            quantize_block(&tile[block], row, x + row * x_stride + block * PACKED_BLOCK);
        }
    }
}

/* ---- the end of every output ---- */

/* Writes sums[0 .. rows) of outputs lane .. lane + LANES - 1 to rows first_row .. of the job's output. */
INLINE void finish(const struct matmul_job *job, const f32v *sums, uint32_t first_row, uint32_t rows, int lane) {
    const int outputs = (int)job->outputs - lane;
    for (uint32_t row = 0; row < rows; row++) {
        float *out = job->out + (first_row + row) * job->out_stride + lane;
        f32v sum = sums[row];
        if (job->bias) {
            sum = f32_add(sum, f32_load_first(job->bias + lane, outputs));
        }
        if (job->accumulate) {
            sum = f32_add(f32_load_first(out, outputs), sum);
        }
        if (outputs >= LANES) {
            f32_store(out, sum);
        } else {
            f32_store_first(out, sum, outputs);
        }
    }
}

/* ---- int8 ---- */

/* LANES outputs by `rows` activation rows beginning at `slot` of a tile. */
INLINE void micro_int8(const enum tensor_type type, const int rows, const struct matmul_job *job,
                       const struct activation_block *tile, int slot, int lane, f32v *sums) {
    const int halves = type == TENSOR_Q6_K ? 2 : 1, quads = 8 / halves, shift = packed_offset_shift(type);
    const uint32_t blocks = job->columns / PACKED_BLOCK, unit_blocks = packed_unit_blocks(type);
    const uint8_t *unit = job->group;
    f32v sum[MICRO_ROWS];
    UNROLL for (int row = 0; row < rows; row++) {
        sum[row] = f32_set(0);
    }
    for (uint32_t block = 0; block < blocks; block++, tile++) {
        const uint32_t inner = block % unit_blocks;
        const uint8_t *codes = unit + packed_scale_bytes(type) + inner * packed_code_bytes(type);
        const struct block_scales weights = load_scales(type, unit, inner, lane);
        unit += inner + 1 == unit_blocks ? packed_unit_bytes(type) : 0;
        UNROLL for (int half = 0; half < halves; half++) {
            i32v dot[MICRO_ROWS];
            UNROLL for (int row = 0; row < rows; row++) {
                dot[row] = i32_set(0);
            }
            UNROLL for (int step = 0; step < quads; step++) {
                const int i = half * quads + step;
                const u8v quad = load_quad(type, codes, lane, i);
                UNROLL for (int row = 0; row < rows; row++) {
                    dot[row] = i32_dot4(dot[row], quad, tile->q[slot + row] + 4 * i, type == TENSOR_Q8_0);
                }
            }
            UNROLL for (int row = 0; row < rows; row++) {
                if (shift >= 0) {
                    const int32_t q_sum =
                        halves == 2 ? tile->sum[half][slot + row] : tile->sum[0][slot + row] + tile->sum[1][slot + row];
                    dot[row] = i32_sub_shifted(dot[row], i32_set(q_sum), shift);
                }
                sum[row] = f32_fma(f32_from_i32(dot[row]),
                                   f32_mul(weights.scale[half], f32_set(tile->scale[slot + row])), sum[row]);
                if (packed_has_minimum(type)) {
                    sum[row] = f32_fma(weights.minimum, f32_set(tile->scaled_sum[slot + row]), sum[row]);
                }
            }
        }
    }
    UNROLL for (int row = 0; row < rows; row++) {
        sums[row] = sum[row];
    }
}

/* Rows past the last, up to a power of 2, are the tile's zeros: they are multiplied and not written. */
INLINE void job_int8(const enum tensor_type type, const struct matmul_job *job) {
    const uint32_t blocks = job->columns / PACKED_BLOCK;
    f32v sums[MICRO_ROWS];
    for (uint32_t row = 0; row < job->rows; row += MICRO_ROWS) {
        const uint32_t rows = job->rows - row < MICRO_ROWS ? job->rows - row : MICRO_ROWS;
        const struct activation_block *tile = job->tile + (size_t)(row / MATMUL_TILE) * blocks;
        const int slot = (int)(row % MATMUL_TILE);
        for (int lane = 0; lane < PACKED_ROWS; lane += LANES) {
            if (rows == 1) {
                micro_int8(type, 1, job, tile, slot, lane, sums);
            } else if (rows == 2) {
                micro_int8(type, AT_MOST(2), job, tile, slot, lane, sums);
            } else if (rows <= 4) {
                micro_int8(type, AT_MOST(4), job, tile, slot, lane, sums);
            } else {
                micro_int8(type, MICRO_ROWS, job, tile, slot, lane, sums);
            }
            finish(job, sums, row, rows, lane);
        }
    }
}

static __attribute__((noinline)) void job_int8_q8_0(const struct matmul_job *job) {
    job_int8(TENSOR_Q8_0, job);
}
static __attribute__((noinline)) void job_int8_q4_0(const struct matmul_job *job) {
    job_int8(TENSOR_Q4_0, job);
}
static __attribute__((noinline)) void job_int8_q4_1(const struct matmul_job *job) {
    job_int8(TENSOR_Q4_1, job);
}
static __attribute__((noinline)) void job_int8_q4_k(const struct matmul_job *job) {
    job_int8(TENSOR_Q4_K, job);
}
static __attribute__((noinline)) void job_int8_q5_k(const struct matmul_job *job) {
    job_int8(TENSOR_Q5_K, job);
}
static __attribute__((noinline)) void job_int8_q6_k(const struct matmul_job *job) {
    job_int8(TENSOR_Q6_K, job);
}

static void multiply_int8(const struct matmul_job *job) {
    switch (job->type) {
    case TENSOR_Q8_0:
        return job_int8_q8_0(job);
    case TENSOR_Q4_0:
        return job_int8_q4_0(job);
    case TENSOR_Q4_1:
        return job_int8_q4_1(job);
    case TENSOR_Q4_K:
        return job_int8_q4_k(job);
    case TENSOR_Q5_K:
        return job_int8_q5_k(job);
    default:
        return job_int8_q6_k(job);
    }
}

/* ---- f32 ---- */

/* A tile of weights as f32: for each of 32 columns, LANES rows. */
typedef float f32_tile[PACKED_BLOCK][LANES];

/* A column of LANES weights of a float type. */
INLINE f32v load_column(const enum tensor_type type, const uint8_t *group, size_t column, int lane) {
    const uint8_t *from = group + column * packed_code_bytes(type);
    const uint16_t *halves = (const uint16_t *)(const void *)from + lane;
    return type == TENSOR_F32   ? f32_load((const float *)(const void *)from + lane)
           : type == TENSOR_F16 ? f32_load_f16(halves)
                                : f32_load_bf16(halves);
}

INLINE void dequantize_floats(const enum tensor_type type, const uint8_t *group, uint32_t first, uint32_t columns,
                              int lane, f32_tile out) {
    for (uint32_t column = 0; column < columns; column++) {
        f32_store(out[column], load_column(type, group, first + column, lane));
    }
}

INLINE void dequantize_codes(const enum tensor_type type, const uint8_t *group, uint32_t block, int lane,
                             f32_tile out) {
    const uint32_t inner = block % packed_unit_blocks(type);
    const uint8_t *unit = group + block / packed_unit_blocks(type) * packed_unit_bytes(type);
    const uint8_t *codes = unit + packed_scale_bytes(type) + inner * packed_code_bytes(type);
    const struct block_scales weights = load_scales(type, unit, inner, lane);
    const int shift = packed_offset_shift(type);
    UNROLL for (int i = 0; i < 8; i++) {
        const u8v quad = load_quad(type, codes, lane, i);
        UNROLL for (int byte = 0; byte < 4; byte++) {
            i32v code = i32_byte(quad, byte);
            if (shift >= 0) {
                code = i32_sub_shifted(code, i32_set(1), shift);
            }
            const f32v value = f32_from_i32(code), scale = weights.scale[i / 4];
            f32_store(out[4 * i + byte],
                      packed_has_minimum(type) ? f32_fma(scale, value, weights.minimum) : f32_mul(scale, value));
        }
    }
}

/* Up to 32 columns of a group, beginning at block `block`, for rows lane .. lane + LANES - 1. */
static __attribute__((noinline)) void dequantize_tile(enum tensor_type type, const uint8_t *group, uint32_t block,
                                                      uint32_t columns, int lane, f32_tile out) {
    switch (type) {
    case TENSOR_Q8_0:
        return dequantize_codes(TENSOR_Q8_0, group, block, lane, out);
    case TENSOR_Q4_0:
        return dequantize_codes(TENSOR_Q4_0, group, block, lane, out);
    case TENSOR_Q4_1:
        return dequantize_codes(TENSOR_Q4_1, group, block, lane, out);
    case TENSOR_Q4_K:
        return dequantize_codes(TENSOR_Q4_K, group, block, lane, out);
    case TENSOR_Q5_K:
        return dequantize_codes(TENSOR_Q5_K, group, block, lane, out);
    case TENSOR_Q6_K:
        return dequantize_codes(TENSOR_Q6_K, group, block, lane, out);
    case TENSOR_F32:
        return dequantize_floats(TENSOR_F32, group, block * PACKED_BLOCK, columns, lane, out);
    case TENSOR_F16:
        return dequantize_floats(TENSOR_F16, group, block * PACKED_BLOCK, columns, lane, out);
    default:
        return dequantize_floats(TENSOR_BF16, group, block * PACKED_BLOCK, columns, lane, out);
    }
}

/* How far ahead to ask for float weights. Their bytes go by fast and with much arithmetic between: the processor's own
 * prefetchers do not keep up. */
#define PREFETCH_BYTES 4096

/* LANES outputs by `rows` rows of x, weights of a float type. */
INLINE void micro_floats(const enum tensor_type type, const int rows, const struct matmul_job *job, const float *x,
                         int lane, f32v *sums) {
    f32v sum[MICRO_ROWS];
    UNROLL for (int row = 0; row < rows; row++) {
        sum[row] = f32_set(0);
    }
    for (size_t column = 0; column < job->columns; column++) {
        __builtin_prefetch(job->group + column * packed_code_bytes(type) + PREFETCH_BYTES);
        const f32v weight = load_column(type, job->group, column, lane);
        UNROLL for (int row = 0; row < rows; row++) {
            sum[row] = f32_fma(weight, f32_set(x[row * job->x_stride + column]), sum[row]);
        }
    }
    UNROLL for (int row = 0; row < rows; row++) {
        sums[row] = sum[row];
    }
}

/* The same with weights of a quantized type, a tile at a time. */
INLINE void micro_dequantized(const int rows, const struct matmul_job *job, const float *x, int lane, f32v *sums) {
    _Alignas(64) f32_tile weights;
    f32v sum[MICRO_ROWS];
    UNROLL for (int row = 0; row < rows; row++) {
        sum[row] = f32_set(0);
    }
    for (uint32_t first = 0; first < job->columns; first += PACKED_BLOCK) {
        dequantize_tile(job->type, job->group, first / PACKED_BLOCK, PACKED_BLOCK, lane, weights);
        for (uint32_t column = 0; column < PACKED_BLOCK; column++) {
            const f32v weight = f32_load(weights[column]);
            UNROLL for (int row = 0; row < rows; row++) {
                sum[row] = f32_fma(weight, f32_set(x[row * job->x_stride + first + column]), sum[row]);
            }
        }
    }
    UNROLL for (int row = 0; row < rows; row++) {
        sums[row] = sum[row];
    }
}

INLINE void micro_f32(const enum tensor_type type, const int rows, const struct matmul_job *job, const float *x,
                      int lane, f32v *sums) {
    if (packed_is_quantized(type)) {
        micro_dequantized(rows, job, x, lane, sums);
    } else {
        micro_floats(type, rows, job, x, lane, sums);
    }
}

INLINE void job_f32(const enum tensor_type type, const struct matmul_job *job) {
    f32v sums[MICRO_ROWS];
    for (uint32_t row = 0; row < job->rows;) {
        const uint32_t left = job->rows - row;
        const uint32_t rows = left >= MICRO_ROWS ? MICRO_ROWS : left >= 4 ? 4 : left >= 2 ? 2 : 1;
        const float *x = job->x + row * job->x_stride;
        for (int lane = 0; lane < PACKED_ROWS; lane += LANES) {
            if (rows == 1) {
                micro_f32(type, 1, job, x, lane, sums);
            } else if (rows == 2) {
                micro_f32(type, AT_MOST(2), job, x, lane, sums);
            } else if (rows == 4) {
                micro_f32(type, AT_MOST(4), job, x, lane, sums);
            } else {
                micro_f32(type, MICRO_ROWS, job, x, lane, sums);
            }
            finish(job, sums, row, rows, lane);
        }
        row += rows;
    }
}

static __attribute__((noinline)) void job_f32_f32(const struct matmul_job *job) {
    job_f32(TENSOR_F32, job);
}
static __attribute__((noinline)) void job_f32_f16(const struct matmul_job *job) {
    job_f32(TENSOR_F16, job);
}
static __attribute__((noinline)) void job_f32_bf16(const struct matmul_job *job) {
    job_f32(TENSOR_BF16, job);
}
static __attribute__((noinline)) void job_f32_quantized(const struct matmul_job *job) {
    job_f32(TENSOR_Q8_0, job); /* any: tiles look at the job's own type */
}

static void multiply_f32(const struct matmul_job *job) {
    switch (job->type) {
    case TENSOR_F32:
        return job_f32_f32(job);
    case TENSOR_F16:
        return job_f32_f16(job);
    case TENSOR_BF16:
        return job_f32_bf16(job);
    default:
        return job_f32_quantized(job);
    }
}

static void dequantize_row(enum tensor_type type, uint32_t columns, const uint8_t *group, uint32_t lane, float *out) {
    _Alignas(64) f32_tile weights;
    for (uint32_t first = 0; first < columns; first += PACKED_BLOCK) {
        const uint32_t count = columns - first < PACKED_BLOCK ? columns - first : PACKED_BLOCK;
        dequantize_tile(type, group, first / PACKED_BLOCK, count, (int)(lane / LANES * LANES), weights);
        for (uint32_t column = 0; column < count; column++) {
            out[first + column] = weights[column][lane % LANES];
        }
    }
}

#define MATMUL_KERNELS                                                                      \
    {                                                                                       \
        .quantize = quantize, .multiply_int8 = multiply_int8, .multiply_f32 = multiply_f32, \
        .dequantize_row = dequantize_row,                                                   \
    }
