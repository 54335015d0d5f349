// What the kernels of op_attention share: the arithmetic of a warp that holds 16 queries. CUDA C++ only; for
// attention*.cu.
//
// The queries of a segment are its rows by the query heads of one kv head, query i being row i / heads, head i % heads;
// a TILE is 16 of them, the height of a tensor core's product, so grouped heads share every key and value they read.
//
// THE ARITHMETIC. Positions are cut into spans of 256, by absolute position; a span is walked in steps of 16, which are
// KV blocks. A query's state of a span (maximum m, sum l, values) begins at (-infinity, 0, 0) and takes each step by
// online softmax (Milakov and Gimelshein, arXiv 1805.02867; Dao et al., arXiv 2205.14135) to the base 2:
//   score   tensor cores over the dimensions in order, q * scale * log2(e) split into two 16-bit numbers of the cache's
//           type, high and low, whose products are added to one f32 sum: the query is exact to 22 bits (f16) or 16
//           (bf16);
//   weight  exp2(score - m), 0 where the row does not see the position, split into high and low as well;
//   values  tensor cores over the step's positions.
// Lane t of a query's four adds the weights of its positions of every step; the four sums are folded at a span's end.
// Spans are merged in order (merge_state). A query's numbers depend on nothing but its row's position and the cache:
// few rows (a warp or two a span, attention_split.cu) and many (a warp all spans, attention_tiled.cu) give the same
// bits, for steps and spans that a row does not see change nothing of its state.
//
// What a row does not see is never multiplied into it: positions that no row of the tile sees are read as zeros, and
// values that are not finite are taken out of a step that some rows see and others do not (patch_values).
//
// LAYOUT in registers, lane = 4g + t. The k slots 2t, 2t+1, 2t+8, 2t+9 of two products are dimensions 8t .. 8t+7 of 32;
// column g of a product's two halves of a step is position g/2 + 4 (g%2), + 8 in the second; so a lane's scores are
// positions t, t+4, t+8, t+12 of rows g and g+8, which is what the weights' operand needs, and every load of keys and
// values is 16 bytes. Column g of the j-th product of 64 dimensions of values is dimension 8g + j.
#ifndef METRONOME_KERNELS_CUDA_ATTENTION_CUH
#define METRONOME_KERNELS_CUDA_ATTENTION_CUH

#include "kernels/cuda/ptx.cuh"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

constexpr uint32_t TILE_QUERIES = 16;
constexpr uint32_t STEP = KV_BLOCK_TOKENS;
constexpr uint32_t SPAN = 256;
static_assert(STEP == 16 && SPAN % STEP == 0, "a step is a KV block, and the depth of a tensor core's product");

// Segments of up to so many queries a kv head are split over their spans (one row is, however many heads it has).
constexpr uint32_t SPLIT_QUERIES = 32;

struct AttentionWork {
    const struct kv_segment *segments;
    const uint64_t *block_table;
    uint32_t table_stride;
    uint32_t heads; // query heads of a kv head
    uint32_t kv_heads, head_dim;
    size_t keys_at, values_at; // of this layer and kv head 0 in a block
    float *out;
    size_t out_stride;
    const float *q;
    size_t q_stride;
    float scale; // times log2(e)
    uint32_t window;
    float *partials; // split: states of spans
    uint64_t groups[KV_MAX_GROUPS];
};

__host__ __device__ inline bool is_split(uint32_t rows, uint32_t heads) {
    return rows == 1 || rows * heads <= SPLIT_QUERIES;
}

// The first position that the row at `position` sees.
__host__ __device__ inline uint32_t first_seen(uint32_t position, uint32_t window) {
    return window > 0 && position >= window ? position + 1 - window : 0;
}

// A tile of 16 queries of one kv head, of which those past the segment's last are copies of the last.
struct Tile {
    const uint64_t *blocks;        // the sequence's entries
    const uint64_t *groups;        // where streamed blocks are
    size_t keys_at, values_at;     // in each block
    uint32_t first_query, queries; // of the segment's, this kv head
    uint32_t first, last;          // positions that any of its rows sees
    uint32_t kv_head, first_row, first_position;

    __device__ uint32_t query(uint32_t i) const {
        return min(first_query + i, queries - 1);
    }
    __device__ __forceinline__ const uint8_t *block(uint32_t position) const {
        return reinterpret_cast<const uint8_t *>(kv_entry_address(groups, blocks[position / STEP]));
    }
};

__device__ inline Tile tile_of(const AttentionWork &work, const struct kv_segment &segment, uint32_t kv_head,
                               uint32_t tile) {
    Tile result;
    const size_t head_bytes = static_cast<size_t>(STEP) * work.head_dim * 2;
    result.blocks = work.block_table + static_cast<size_t>(segment.table) * work.table_stride;
    result.groups = work.groups;
    result.keys_at = work.keys_at + kv_head * head_bytes;
    result.values_at = work.values_at + kv_head * head_bytes;
    result.first_query = tile * TILE_QUERIES;
    result.queries = segment.rows * work.heads;
    result.first = first_seen(segment.first_position + result.query(0) / work.heads, work.window);
    result.last = segment.first_position + result.query(TILE_QUERIES - 1) / work.heads;
    result.kv_head = kv_head;
    result.first_row = segment.first_row;
    result.first_position = segment.first_position;
    return result;
}

// The two queries of a lane: what they see.
struct LaneRows {
    uint32_t first[2], last[2];
};
__device__ inline LaneRows lane_rows(const AttentionWork &work, const Tile &tile, int lane) {
    LaneRows rows;
#pragma unroll
    for (int upper = 0; upper < 2; upper++) {
        rows.last[upper] = tile.first_position + tile.query(lane / 4 + 8 * upper) / work.heads;
        rows.first[upper] = first_seen(rows.last[upper], work.window);
    }
    return rows;
}

// ---- 16-bit numbers of the cache's type ----

template <enum kv_type TYPE> __device__ __forceinline__ uint32_t to_16(float value) {
    return TYPE == KV_F16 ? __half_as_ushort(__float2half_rn(value)) : __bfloat16_as_ushort(__float2bfloat16_rn(value));
}
template <enum kv_type TYPE> __device__ __forceinline__ float from_16(uint32_t bits) {
    return TYPE == KV_F16 ? __half2float(__ushort_as_half(static_cast<unsigned short>(bits)))
                          : __uint_as_float(bits << 16);
}
// Two values as two pairs, high and low: high + low is the value but for what is below both.
template <enum kv_type TYPE>
__device__ __forceinline__ void split_pair(float a, float b, uint32_t &high, uint32_t &low) {
    const uint32_t high_a = to_16<TYPE>(a), high_b = to_16<TYPE>(b);
    high = high_b << 16 | high_a;
    low = to_16<TYPE>(b - from_16<TYPE>(high_b)) << 16 | to_16<TYPE>(a - from_16<TYPE>(high_a));
}
template <enum kv_type TYPE>
__device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    const uint32_t b[2] = {b0, b1};
    if constexpr (TYPE == KV_F16) {
        mma_m16n8k16_f16(d, a, b);
    } else {
        mma_m16n8k16_bf16(d, a, b);
    }
}

// ---- queries ----

// A tile's queries in shared memory: [32 dimensions][high, low][row g, row g + 8][lane] 16 bytes.
template <int DIM> constexpr size_t QUERY_BYTES = DIM / 32 * 4 * WARP * 16;

// Loads the part of them that is this warp's of the `warps` that load them together, who must meet before they read.
template <enum kv_type TYPE, int DIM>
__device__ void load_queries(const AttentionWork &work, const Tile &tile, uint4 *queries, int lane, int warp = 0,
                             int warps = 1) {
    for (int at = warp; at < DIM / 32 * 2; at += warps) {
        const uint32_t query = tile.query(lane / 4 + 8 * (at % 2)), dim = at / 2 * 32 + lane % 4 * 8;
        const float *q = work.q + (tile.first_row + query / work.heads) * work.q_stride +
                         (tile.kv_head * work.heads + query % work.heads) * work.head_dim + dim;
        uint32_t high[4] = {0, 0, 0, 0}, low[4] = {0, 0, 0, 0};
        if (dim < work.head_dim) { // a multiple of 8
#pragma unroll
            for (int i = 0; i < 4; i++) {
                split_pair<TYPE>(__fmul_rn(q[2 * i], work.scale), __fmul_rn(q[2 * i + 1], work.scale), high[i], low[i]);
            }
        }
        uint4 *to = queries + (at / 2 * 4 + at % 2) * WARP + lane;
        to[0] = make_uint4(high[0], high[1], high[2], high[3]);
        to[2 * WARP] = make_uint4(low[0], low[1], low[2], low[3]);
    }
    __syncwarp();
}

// ---- one step ----

// Scores of the lane's two rows: [half of the step][row g: positions t and t + 4, row g + 8: the same].
using Scores = float[2][4];

// key(half, j) are dimensions 32j + 8t .. + 7 of position g/2 + 4 (g%2) + 8 half. HALVES: Scores, or one half of them.
template <enum kv_type TYPE, int DIM, int HALVES, typename Key>
__device__ __forceinline__ void score(float (&scores)[HALVES][4], const uint4 *queries, Key key, int lane) {
#pragma unroll
    for (int i = 0; i < 4 * HALVES; i++) {
        scores[i / 4][i % 4] = 0;
    }
#pragma unroll
    for (int j = 0; j < DIM / 32; j++) {
        uint4 keys[HALVES];
#pragma unroll
        for (int half = 0; half < HALVES; half++) {
            keys[half] = key(half, j);
        }
#pragma unroll
        for (int part = 1; part >= 0; part--) { // low, then high
            const uint4 lower = queries[(j * 4 + 2 * part) * WARP + lane];
            const uint4 upper = queries[(j * 4 + 2 * part + 1) * WARP + lane];
            const uint32_t a0[4] = {lower.x, upper.x, lower.y, upper.y}, a1[4] = {lower.z, upper.z, lower.w, upper.w};
#pragma unroll
            for (int half = 0; half < HALVES; half++) {
                multiply<TYPE>(scores[half], a0, keys[half].x, keys[half].y);
                multiply<TYPE>(scores[half], a1, keys[half].z, keys[half].w);
            }
        }
    }
}

// The state of a span, of the lane's rows g and g + 8. values[h][j][r]: row g + 8 (r/2), dimension 64h + 8 (2t + r%2) +
// j. Sums are the lane's own until fold_sums().
template <int DIM> struct SpanState {
    float maximum[2], sum[2];
    float values[DIM / 64][8][4];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int upper = 0; upper < 2; upper++) {
            maximum[upper] = -INFINITY;
            sum[upper] = 0;
        }
#pragma unroll
        for (int i = 0; i < DIM / 2; i++) {
            values[i / 32][i / 4 % 8][i % 4] = 0;
        }
    }
    __device__ __forceinline__ void fold_sums() {
#pragma unroll
        for (int upper = 0; upper < 2; upper++) {
            sum[upper] += __shfl_xor_sync(EVERY_LANE, sum[upper], 1);
            sum[upper] += __shfl_xor_sync(EVERY_LANE, sum[upper], 2);
        }
    }
};

// What exponents are taken from: any finite number while nothing has been seen.
__device__ __forceinline__ float finite_maximum(float maximum) {
    return maximum == -INFINITY ? 0.0f : maximum;
}

// Turns the scores of the step at `position` into weights, [high, low] as operands of the product with the values, and
// makes the state ready for their sums.
template <enum kv_type TYPE, int DIM>
__device__ __forceinline__ void weigh(SpanState<DIM> &state, Scores &scores, uint32_t (&weights)[2][4],
                                      const LaneRows &rows, uint32_t position, int lane) {
#pragma unroll
    for (int upper = 0; upper < 2; upper++) {
        float maximum = state.maximum[upper];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t at = position + lane % 4 + 4 * i;
            float &own = scores[i / 2][2 * upper + i % 2];
            own = at >= rows.first[upper] && at <= rows.last[upper] ? own : -INFINITY;
            maximum = fmaxf(maximum, own);
        }
        maximum = fmaxf(maximum, __shfl_xor_sync(EVERY_LANE, maximum, 1));
        maximum = fmaxf(maximum, __shfl_xor_sync(EVERY_LANE, maximum, 2));
        const float base = finite_maximum(maximum), shrink = exp2f(state.maximum[upper] - base);
        float sum = 0;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const float a = exp2f(scores[half][2 * upper] - base), b = exp2f(scores[half][2 * upper + 1] - base);
            sum += a + b;
            split_pair<TYPE>(a, b, weights[0][2 * half + upper], weights[1][2 * half + upper]);
        }
        state.maximum[upper] = maximum;
        state.sum[upper] = __fmaf_rn(state.sum[upper], shrink, sum);
#pragma unroll
        for (int i = 0; i < DIM / 4; i++) {
            state.values[i / 16][i / 2 % 8][2 * upper + i % 2] *= shrink;
        }
    }
}

// Adds weights * values. value(h, i) are dimensions 64h + 8g .. + 7 of position t + 4i.
template <enum kv_type TYPE, int DIM, typename Value>
__device__ __forceinline__ void accumulate(SpanState<DIM> &state, const uint32_t (&weights)[2][4], Value value) {
#pragma unroll
    for (int h = 0; h < DIM / 64; h++) {
        const uint4 v[4] = {value(h, 0), value(h, 1), value(h, 2), value(h, 3)};
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const unsigned selector = j % 2 == 0 ? 0x5410 : 0x7632; // the low or the high halves of two words
            uint32_t words[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                words[i] = j / 2 == 0 ? v[i].x : j / 2 == 1 ? v[i].y : j / 2 == 2 ? v[i].z : v[i].w;
            }
            const uint32_t b0 = __byte_perm(words[0], words[1], selector);
            const uint32_t b1 = __byte_perm(words[2], words[3], selector);
            multiply<TYPE>(state.values[h][j], weights[1], b0, b1);
            multiply<TYPE>(state.values[h][j], weights[0], b0, b1);
        }
    }
}

// ---- values that are not finite, in a step that not all rows see whole ----

template <enum kv_type TYPE> constexpr uint32_t EXPONENT = TYPE == KV_F16 ? 0x7c00 : 0x7f80;

template <enum kv_type TYPE> __device__ __forceinline__ uint32_t finite_word(uint32_t word) {
    constexpr uint32_t LOW = EXPONENT<TYPE>, HIGH = LOW << 16;
    return ((word & LOW) == LOW ? 0 : word & 0xffffu) | ((word & HIGH) == HIGH ? 0 : word & 0xffff0000u);
}
template <enum kv_type TYPE> __device__ __forceinline__ uint4 finite_words(uint4 words) {
    return make_uint4(finite_word<TYPE>(words.x), finite_word<TYPE>(words.y), finite_word<TYPE>(words.z),
                      finite_word<TYPE>(words.w));
}

// Adds the step's values that are not finite, one by one, to the rows that see them. bits(token, dim) is one value. It
// hardly ever runs: the loop over tokens stays one, for unrolled it takes the kernel's registers, and the compiler
// minutes.
template <enum kv_type TYPE, int DIM, typename Bits>
__device__ __forceinline__ void patch_values(SpanState<DIM> &state, const LaneRows &rows, uint32_t position,
                                             uint32_t head_dim, Bits bits, int lane) {
#pragma unroll
    for (int i = 0; i < DIM / 2; i++) {
        const int upper = i / 2 % 2;
        const uint32_t dim = i / 32 * 64 + 8 * (2 * (lane % 4) + i % 2) + i / 4 % 8;
#pragma unroll 1
        for (uint32_t token = 0; token < STEP && dim < head_dim; token++) {
            const uint32_t at = position + token;
            if (at >= rows.first[upper] && at <= rows.last[upper]) {
                const uint32_t value = bits(token, dim);
                if ((value & EXPONENT<TYPE>) == EXPONENT<TYPE>) {
                    state.values[i / 32][i / 4 % 8][i % 4] += from_16<TYPE>(value);
                }
            }
        }
    }
}

// accumulate(), and what to do where some rows do not see some of the step's values. bits as in patch_values().
template <enum kv_type TYPE, int DIM, typename Value, typename Bits>
__device__ __forceinline__ void accumulate_seen(SpanState<DIM> &state, const uint32_t (&weights)[2][4],
                                                const LaneRows &rows, uint32_t position, uint32_t head_dim, Value value,
                                                Bits bits, int lane) {
    const bool whole = position >= rows.first[0] && position >= rows.first[1] && position + STEP - 1 <= rows.last[0] &&
                       position + STEP - 1 <= rows.last[1];
    if (__all_sync(EVERY_LANE, whole)) {
        accumulate<TYPE, DIM>(state, weights, value);
        return;
    }
    bool spoilt = false;
    accumulate<TYPE, DIM>(state, weights, [&](int h, int i) {
        const uint4 words = value(h, i), finite = finite_words<TYPE>(words);
        spoilt |= words.x != finite.x || words.y != finite.y || words.z != finite.z || words.w != finite.w;
        return finite;
    });
    if (__any_sync(EVERY_LANE, spoilt)) {
        patch_values<TYPE, DIM>(state, rows, position, head_dim, bits, lane);
    }
}

// ---- merging ----

// The factors by which a state and the one after it are multiplied before they are added, and their common maximum.
struct MergeFactors {
    float maximum, before, after;
};
__device__ __forceinline__ MergeFactors merge_factors(float before, float after) {
    const float maximum = fmaxf(before, after), base = finite_maximum(maximum);
    return {maximum, exp2f(before - base), exp2f(after - base)};
}
__device__ __forceinline__ float merge_values(float before, float after, const MergeFactors &factors) {
    return __fmaf_rn(after, factors.after, __fmul_rn(before, factors.before));
}

// Calls put(query of the segment, dim, value) for each of the lane's values.
template <int DIM, typename Get, typename Put>
__device__ __forceinline__ void for_each_value(const Tile &tile, uint32_t head_dim, int lane, Get get, Put put) {
#pragma unroll
    for (int upper = 0; upper < 2; upper++) {
        const uint32_t query = tile.first_query + lane / 4 + 8 * upper;
        if (query < tile.queries) {
#pragma unroll
            for (int i = 0; i < DIM / 4; i++) { // 8 dimensions side by side at a time
                const int h = i / 16, odd = i / 8 % 2, j = i % 8;
                const uint32_t dim = h * 64 + 8 * (2 * (lane % 4) + odd) + j;
                if (dim < head_dim) {
                    put(query, dim, get(h, j, 2 * upper + odd));
                }
            }
        }
    }
}

__device__ __forceinline__ float *output_at(const AttentionWork &work, const Tile &tile, uint32_t query) {
    return work.out + (tile.first_row + query / work.heads) * work.out_stride +
           (tile.kv_head * work.heads + query % work.heads) * work.head_dim;
}

// The launches, each for the segments that it is for; work.partials is set for the first.
void attention_split(struct stream *stream, const AttentionWork &work, const struct kv_batch *batch,
                     size_t partial_capacity);
void attention_tiled(struct stream *stream, const AttentionWork &work, const struct kv_batch *batch);
cudaError_t attention_tiled_prepare(); // once, before the first launch

// Floats of the state of a span of one query.
__host__ __device__ inline size_t partial_floats(uint32_t head_dim) {
    return head_dim + 2;
}

#endif
