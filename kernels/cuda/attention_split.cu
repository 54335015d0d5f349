// op_attention for segments of few rows (decode): a warp for every span of every tile, then one pass that merges each
// query's spans in order. Sequences of one span need no second pass.
//
// A warp reads keys and values straight into its registers, 16 bytes a lane, each once for all the query heads of their
// kv head: no shared memory but for the queries, no barrier. A step's keys are asked for while the values before them
// are weighed, and its values while the keys are.
//
// Heads of more than 128 dimensions have two warps a span: each reads the keys of half of a step's positions and scores
// them, shows the other these scores through shared memory, and has half of the dimensions of the values. So keys and
// values are still read once, and a warp holds and has in flight what one does at 128.
//
// Roofline, head_dim 128, 32 sequences of 8192 tokens, 8 kv heads of 4 query heads, H200: 8192 warps of 128 KB each. A
// step of 16 tokens is 8 KB, some 64 mma and 250 other instructions; at 20 bytes a cycle it may take 410 cycles of a
// multiprocessor, 1640 issue slots. 8 to 12 warps of 4 to 8 KB in flight are 32 to 96 KB a multiprocessor, against the
// 25 KB that 700 ns ask for. What spans write and the merge reads, 2 * 2 KB for each 128 KB, is 3 %. On H100 (3.35
// TB/s, 15 bytes a cycle) and A10 (600 GB/s, 5) a step may take 550 and 1640 cycles: memory is the limit, and
// those 1.07 GB of keys and values take 0.32 and 1.8 ms at least. At 256 a step is twice as much of all this for two
// warps, weights aside, which both work out; they meet once in its 820 cycles (H200), at a barrier that takes some 40.
#include "kernels/cuda/attention.cuh"

#include <algorithm>

namespace {

// A lane's registers hold 128 dimensions of the values at most.
template <int DIM> constexpr int SHARERS = DIM == 256 ? 2 : 1; // warps of a span
template <int DIM> constexpr int HELD = DIM / SHARERS<DIM>;    // dimensions of the values that one of them has
template <int DIM> constexpr int SPANS = DIM == 256 ? 1 : 4;   // of a block: sharers meet at its barrier
template <int DIM> constexpr unsigned THREADS = SPANS<DIM> *SHARERS<DIM> *WARP;
template <int DIM>
constexpr size_t SHARED_BYTES = SPANS<DIM> *QUERY_BYTES<DIM> +
                                (SHARERS<DIM> > 1 ? 2 * THREADS<DIM> * sizeof(float4) : 0);
constexpr unsigned MERGE_THREADS = 64;

// Which of a span's sharers a warp is, and which of its lanes this.
struct Share {
    int index, lane;
};

// The segments of one launch: those of first .. first + count - 1 that are split.
struct SplitRange {
    uint32_t first, count;
    uint32_t tiles, spans, queries; // the most of one segment; of one tile, that states are kept for
};

// The span that slot 0 of a tile holds, and how many there are.
__device__ uint32_t first_span(const Tile &tile) {
    return tile.first / SPAN;
}
__device__ uint32_t span_count(const Tile &tile) {
    return tile.last / SPAN - tile.first / SPAN + 1;
}

// Where the state of a query's span is kept.
__device__ float *partial_of(const AttentionWork &work, const SplitRange &range, uint32_t kv_head, uint32_t tile,
                             uint32_t span, uint32_t in_tile) {
    const size_t slot =
        ((static_cast<size_t>(blockIdx.z) * work.kv_heads + kv_head) * range.tiles + tile) * range.spans + span;
    return work.partials + (slot * range.queries + in_tile) * partial_floats(work.head_dim);
}

// One KV block in global memory: the keys of the tile's kv head, and its values `values_after` bytes on. Positions
// outside first .. last are zeros, as are dimensions past head_dim.
struct GlobalStep {
    const uint8_t *keys;
    uint32_t position;

    __device__ __forceinline__ GlobalStep(const Tile &tile, uint32_t step_position)
        : keys(tile.block(step_position) + tile.keys_at), position(step_position) {
    }
};

// Reads a tile's steps.
struct GlobalReader {
    uint32_t first, last, head_dim, values_after;

    __device__ __forceinline__ uint4 chunk(const GlobalStep &step, uint32_t after, uint32_t token, uint32_t dim) const {
        if (step.position + token < first || step.position + token > last || dim >= head_dim) {
            return make_uint4(0, 0, 0, 0);
        }
        return __ldcs(reinterpret_cast<const uint4 *>(step.keys + (after + (token * head_dim + dim) * 2)));
    }
    __device__ __forceinline__ uint4 key(const GlobalStep &step, int half, int j, int lane) const {
        return chunk(step, 0, lane / 8 + 4 * (lane / 4 % 2) + 8 * half, j * 32 + lane % 4 * 8);
    }
    __device__ __forceinline__ uint4 value(const GlobalStep &step, int h, int i, int lane) const {
        return chunk(step, values_after, lane % 4 + 4 * i, h * 64 + lane / 4 * 8);
    }
    __device__ __forceinline__ uint32_t bits(const GlobalStep &step, uint32_t token, uint32_t dim) const {
        if (step.position + token < first || step.position + token > last) {
            return 0;
        }
        return reinterpret_cast<const uint16_t *>(step.keys + values_after)[token * head_dim + dim];
    }
};

// A warp's keys and values of a step in registers, asked for ahead.
template <int DIM> struct Ahead {
    static constexpr int HALVES = 2 / SHARERS<DIM>;
    uint4 keys[HALVES][DIM / 32], values[HELD<DIM> / 64][4];

    __device__ __forceinline__ void load_keys(const GlobalReader &reader, const GlobalStep &step, const Share &share) {
#pragma unroll
        for (int at = 0; at < HALVES * DIM / 32; at++) {
            keys[at % HALVES][at / HALVES] = reader.key(step, share.index + at % HALVES, at / HALVES, share.lane);
        }
    }
    __device__ __forceinline__ void load_values(const GlobalReader &reader, const GlobalStep &step,
                                                const Share &share) {
#pragma unroll
        for (int at = 0; at < HELD<DIM> / 64 * 4; at++) {
            values[at / 4][at % 4] = reader.value(step, share.index * (HELD<DIM> / 64) + at / 4, at % 4, share.lane);
        }
    }
};

// The scores of both halves of a step. Sharers have one each and show it to the other: in `shown`, which takes turns,
// so that a meeting a step is enough.
template <enum kv_type TYPE, int DIM>
__device__ __forceinline__ void score_step(Scores &scores, const uint4 *queries, const Ahead<DIM> &ahead, float4 *shown,
                                           const Share &share) {
    const auto key = [&](int half, int j) { return ahead.keys[half][j]; };
    if constexpr (SHARERS<DIM> == 1) {
        score<TYPE, DIM>(scores, queries, key, share.lane);
    } else {
        float own[1][4];
        score<TYPE, DIM>(own, queries, key, share.lane);
        shown[share.index * WARP + share.lane] = make_float4(own[0][0], own[0][1], own[0][2], own[0][3]);
        __syncthreads();
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const float4 of_half = shown[half * WARP + share.lane];
            scores[half][0] = of_half.x, scores[half][1] = of_half.y;
            scores[half][2] = of_half.z, scores[half][3] = of_half.w;
        }
    }
}

template <enum kv_type TYPE, int DIM>
__device__ void walk_span(const AttentionWork &work, const Tile &tile, uint32_t span, const uint4 *queries,
                          float4 *shown, SpanState<HELD<DIM>> &state, const Share &share) {
    const LaneRows rows = lane_rows(work, tile, share.lane);
    const GlobalReader reader = {tile.first, tile.last, work.head_dim,
                                 static_cast<uint32_t>(work.values_at - work.keys_at)};
    const uint32_t begin = max(span * SPAN, tile.first / STEP * STEP), end = min((span + 1) * SPAN, tile.last + 1);
    const uint32_t first_dim = share.index * HELD<DIM>;
    GlobalStep step(tile, begin);
    Ahead<DIM> ahead;
    ahead.load_keys(reader, step, share);
    ahead.load_values(reader, step, share);
    state.clear();
    for (uint32_t position = begin; position < end;) {
        Scores scores;
        uint32_t weights[2][4];
        score_step<TYPE, DIM>(scores, queries, ahead, shown + position / STEP % 2 * (SHARERS<DIM> * WARP), share);
        const uint32_t next_position = position + STEP;
        GlobalStep next = step;
        if (next_position < end) {
            next = GlobalStep(tile, next_position);
            ahead.load_keys(reader, next, share);
        }
        weigh<TYPE, HELD<DIM>>(state, scores, weights, rows, position, share.lane);
        accumulate_seen<TYPE, HELD<DIM>>(
            state, weights, rows, position, work.head_dim - first_dim, [&](int h, int i) { return ahead.values[h][i]; },
            [&](uint32_t token, uint32_t dim) { return reader.bits(step, token, first_dim + dim); }, share.lane);
        if (next_position < end) {
            step = next;
            ahead.load_values(reader, step, share);
        }
        position = next_position;
    }
    state.fold_sums();
}

// blockIdx: SPANS spans, kv head and tile, segment. SHARERS warps a span.
template <enum kv_type TYPE, int DIM>
__global__ void __launch_bounds__(THREADS<DIM>) split_spans(const AttentionWork work, const SplitRange range) {
    CUDA_DYNAMIC_SHARED(uint4, shared);
    const int warp = static_cast<int>(threadIdx.x / WARP), lane = static_cast<int>(threadIdx.x % WARP);
    const Share share = {warp % SHARERS<DIM>, lane};
    const struct kv_segment segment = work.segments[range.first + blockIdx.z];
    const uint32_t kv_head = blockIdx.y / range.tiles, tile_index = blockIdx.y % range.tiles;
    const uint32_t slot = blockIdx.x * SPANS<DIM> + warp / SHARERS<DIM>;
    if (!is_split(segment.rows, work.heads) || tile_index * TILE_QUERIES >= segment.rows * work.heads) {
        return;
    }
    const Tile tile = tile_of(work, segment, kv_head, tile_index);
    if (slot >= span_count(tile)) {
        return;
    }
    uint4 *queries = shared + warp / SHARERS<DIM> * (QUERY_BYTES<DIM> / 16);
    load_queries<TYPE, DIM>(work, tile, queries, lane, share.index, SHARERS<DIM>);
    if constexpr (SHARERS < DIM >> 1) {
        __syncthreads();
    }
    SpanState<HELD<DIM>> state;
    walk_span<TYPE, DIM>(work, tile, first_span(tile) + slot, queries,
                         reinterpret_cast<float4 *>(shared + SPANS<DIM> * (QUERY_BYTES<DIM> / 16)), state, share);

    const uint32_t first_dim = share.index * HELD<DIM>;
    if (span_count(tile) == 1) {
        const float factors[2] = {1 / state.sum[0], 1 / state.sum[1]};
        for_each_value<HELD<DIM>>(
            tile, work.head_dim - first_dim, lane,
            [&](int h, int j, int r) { return state.values[h][j][r] * factors[r / 2]; },
            [&](uint32_t query, uint32_t dim, float value) { output_at(work, tile, query)[first_dim + dim] = value; });
        return;
    }
    for_each_value<HELD<DIM>>(
        tile, work.head_dim - first_dim, lane, [&](int h, int j, int r) { return state.values[h][j][r]; },
        [&](uint32_t query, uint32_t dim, float value) {
            partial_of(work, range, kv_head, tile_index, slot, query - tile.first_query)[first_dim + dim] = value;
        });
#pragma unroll
    for (int upper = 0; upper < 2; upper++) {
        const uint32_t in_tile = lane / 4 + 8 * upper;
        if (share.index == 0 && lane % 4 == 0 && tile.first_query + in_tile < tile.queries) {
            float *partial = partial_of(work, range, kv_head, tile_index, slot, in_tile) + work.head_dim;
            partial[0] = state.maximum[upper];
            partial[1] = state.sum[upper];
        }
    }
}

// blockIdx: query of a tile, kv head and tile, segment. A thread a dimension, or a few.
__global__ void __launch_bounds__(MERGE_THREADS) merge_spans(const AttentionWork work, const SplitRange range) {
    const struct kv_segment segment = work.segments[range.first + blockIdx.z];
    const uint32_t kv_head = blockIdx.y / range.tiles, tile_index = blockIdx.y % range.tiles;
    const uint32_t query = tile_index * TILE_QUERIES + blockIdx.x;
    if (!is_split(segment.rows, work.heads) || query >= segment.rows * work.heads) {
        return;
    }
    const Tile tile = tile_of(work, segment, kv_head, tile_index);
    const uint32_t spans = span_count(tile);
    if (spans == 1) {
        return;
    }
    const size_t stride = range.queries * partial_floats(work.head_dim); // from one span to the next
    const float *partial = partial_of(work, range, kv_head, tile_index, 0, blockIdx.x);
    for (uint32_t dim = threadIdx.x; dim < work.head_dim; dim += MERGE_THREADS) {
        float value = partial[dim], maximum = partial[work.head_dim], sum = partial[work.head_dim + 1];
        for (uint32_t span = 1; span < spans; span++) {
            const float *after = partial + span * stride;
            const MergeFactors factors = merge_factors(maximum, after[work.head_dim]);
            value = merge_values(value, after[dim], factors);
            sum = merge_values(sum, after[work.head_dim + 1], factors);
            maximum = factors.maximum;
        }
        output_at(work, tile, query)[dim] = value * (1 / sum);
    }
}

template <int DIM>
void launch_spans(struct stream *stream, const AttentionWork &work, enum kv_type type, const SplitRange &range) {
    launch(stream, dim3(blocks_for(range.spans, SPANS<DIM>), work.kv_heads * range.tiles, range.count), THREADS<DIM>,
           SHARED_BYTES<DIM>, type == KV_F16 ? split_spans<KV_F16, DIM> : split_spans<KV_BF16, DIM>, work, range);
}

void launch_range(struct stream *stream, const AttentionWork &work, const struct kv_batch *batch,
                  const SplitRange &range) {
    const auto launch_dim = work.head_dim <= 64    ? launch_spans<64>
                            : work.head_dim <= 128 ? launch_spans<128>
                                                   : launch_spans<256>;
    launch_dim(stream, work, batch->shape.type, range);
    if (range.spans > 1) {
        launch(stream, dim3(range.queries, work.kv_heads * range.tiles, range.count), dim3(MERGE_THREADS), 0,
               merge_spans, work, range);
    }
}

size_t floats_of(const AttentionWork &work, const SplitRange &range) {
    return static_cast<size_t>(range.count) * work.kv_heads * range.tiles * range.spans * range.queries *
           partial_floats(work.head_dim);
}

} // namespace

// As many segments a launch as there is scratch for; grids have at most 65535 blocks in z.
void attention_split(struct stream *stream, const AttentionWork &work, const struct kv_batch *batch,
                     size_t partial_capacity) {
    SplitRange range = {};
    for (uint32_t i = 0; i < batch->segment_count; i++) {
        const struct kv_segment &segment = batch->segments_host[i];
        if (segment.rows == 0 || !is_split(segment.rows, work.heads)) {
            continue;
        }
        const uint32_t queries = segment.rows * work.heads, last = segment.first_position + segment.rows - 1;
        SplitRange grown = range.count == 0 ? SplitRange{i, 0, 0, 0, 0} : range;
        grown.count = i + 1 - grown.first;
        grown.tiles = std::max(grown.tiles, blocks_for(queries, TILE_QUERIES));
        grown.spans = std::max(grown.spans, last / SPAN - first_seen(segment.first_position, work.window) / SPAN + 1);
        grown.queries = std::max(grown.queries, std::min(queries, TILE_QUERIES));
        if (range.count > 0 && (floats_of(work, grown) > partial_capacity || grown.count > 65535)) {
            launch_range(stream, work, batch, range);
            range = {};
            i--; // again, first of its range
            continue;
        }
        CHECK(floats_of(work, grown) <= partial_capacity);
        range = grown;
    }
    if (range.count > 0) {
        launch_range(stream, work, batch, range);
    }
}
