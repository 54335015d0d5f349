// op_attention for segments of many rows (prefill chunks): a block of warps takes a tile each, side by side, and walks
// the positions that they see together. KV blocks come through shared memory with cp.async, a few ahead.
//
// What a span gives is merged into totals in shared memory when the span ends, just as attention_split.cu merges: the
// same bits.
//
// Shared memory holds 16-byte chunks of keys and values, chunk c of position p at place c ^ swizzle(p) of its row, so
// that the eight lanes that read together (keys: 2 positions by 4 chunks; values: 4 positions by 2 chunks) meet eight
// different places of 128 bytes: no bank conflict.
//
// Roofline, head_dim 128. A step is 64 mma of 16x8x16 a warp for 65536 multiply-adds, half of it for the precision of
// queries and weights; some 250 other instructions, so issue and tensor cores are about even, on Hopper at a quarter of
// the dense bf16 rate; on A10, whose tensor cores make 512 multiply-adds a cycle, they are the limit, at half of
// theirs. A block reads 8 KB of keys and values a step for 64 queries: 8 bytes a cycle and multiprocessor from L2.
#include "kernels/cuda/attention.cuh"

#include <algorithm>

namespace {

template <int DIM> constexpr int WARPS = DIM == 256 ? 2 : 4;
template <int DIM> constexpr int STAGES = DIM == 256 ? 2 : 4;
template <int DIM> constexpr uint32_t ROW_CHUNKS = DIM / 8;
template <int DIM> constexpr uint32_t STAGE_CHUNKS = 2 * STEP *ROW_CHUNKS<DIM>; // keys, then values
template <int DIM> constexpr size_t TOTAL_FLOATS = DIM / 2 * WARP;              // of a warp
template <int DIM>
constexpr size_t SHARED_BYTES = STAGES<DIM> *STAGE_CHUNKS<DIM> * 16 +
                                WARPS<DIM> *(QUERY_BYTES<DIM> + TOTAL_FLOATS<DIM> * sizeof(float));
static_assert(SHARED_BYTES<128> <= 99 * 1024 && SHARED_BYTES<256> <= 99 * 1024, "what a block of sm_86 and sm_89 has");

constexpr uint32_t LISTED = 64;

// The segments of one launch.
struct TiledList {
    uint32_t count;
    uint32_t segments[LISTED];
};

__device__ __forceinline__ uint32_t swizzle(uint32_t position) {
    return (position & 1) << 1 | ((position >> 1 ^ position >> 2) & 1) << 2;
}
template <int DIM> __device__ __forceinline__ uint32_t place(uint32_t position, uint32_t chunk) {
    return position * ROW_CHUNKS<DIM> + (chunk ^ swizzle(position));
}

// A step in shared memory.
template <int DIM> struct SharedStep {
    const uint4 *keys, *values;

    __device__ __forceinline__ uint4 key(int half, int j, int lane) const {
        return keys[place<DIM>(lane / 8 + 4 * (lane / 4 % 2) + 8 * half, j * 4 + lane % 4)];
    }
    __device__ __forceinline__ uint4 value(int h, int i, int lane) const {
        return values[place<DIM>(lane % 4 + 4 * i, h * 8 + lane / 4)];
    }
    __device__ __forceinline__ uint32_t bits(uint32_t token, uint32_t dim) const {
        return reinterpret_cast<const uint16_t *>(values + place<DIM>(token, dim / 8))[dim % 8];
    }
};

// What a block's warps see together.
struct BlockRange {
    uint32_t first, last;
};

// Enqueues the copy of the KV block at `position`, zeros for what no warp sees; always one group of copies.
template <int DIM>
__device__ void fetch(uint4 *stage, const AttentionWork &work, const Tile &tile, const BlockRange &range,
                      uint32_t position) {
    if (position <= range.last) {
        const uint8_t *block = tile.block(position);
        for (uint32_t i = threadIdx.x; i < STAGE_CHUNKS<DIM>; i += WARPS<DIM> * WARP) {
            const uint32_t part = i / (STEP * ROW_CHUNKS<DIM>), token = i / ROW_CHUNKS<DIM> % STEP;
            const uint32_t chunk = i % ROW_CHUNKS<DIM>, at = position + token;
            const bool valid = chunk * 8 < work.head_dim && at >= range.first && at <= range.last;
            const uint8_t *from = block + (part == 0 ? tile.keys_at : tile.values_at);
            cp_async_16(stage + part * STEP * ROW_CHUNKS<DIM> + place<DIM>(token, chunk),
                        from + (valid ? (token * work.head_dim + chunk * 8) * 2 : 0), valid);
        }
    }
    cp_async_commit();
}

// The spans merged so far; values are the lane's in shared memory, the i-th at [i * WARP].
struct Totals {
    float maximum[2], sum[2];
    float *values;
    bool any;
};

template <int DIM> __device__ __forceinline__ void merge_state(Totals &totals, SpanState<DIM> &state) {
    state.fold_sums();
    MergeFactors factors[2];
#pragma unroll
    for (int upper = 0; upper < 2; upper++) {
        if (totals.any) {
            factors[upper] = merge_factors(totals.maximum[upper], state.maximum[upper]);
            totals.sum[upper] = merge_values(totals.sum[upper], state.sum[upper], factors[upper]);
            totals.maximum[upper] = factors[upper].maximum;
        } else {
            totals.sum[upper] = state.sum[upper];
            totals.maximum[upper] = state.maximum[upper];
        }
    }
#pragma unroll
    for (int i = 0; i < DIM / 2; i++) {
        const float value = state.values[i / 32][i / 4 % 8][i % 4];
        float &total = totals.values[i * WARP];
        total = totals.any ? merge_values(total, value, factors[i / 2 % 2]) : value;
    }
    totals.any = true;
    state.clear();
}

// blockIdx: run of WARPS tiles (the last first: they see most), kv head, segment of the list.
template <enum kv_type TYPE, int DIM>
__global__ void __launch_bounds__(WARPS<DIM> *WARP)
    tiled(const AttentionWork work, const __grid_constant__ TiledList list) {
    CUDA_DYNAMIC_SHARED(uint4, shared);
    const int warp = static_cast<int>(threadIdx.x / WARP), lane = static_cast<int>(threadIdx.x % WARP);
    const struct kv_segment segment = work.segments[list.segments[blockIdx.z]];
    const uint32_t first_tile = (gridDim.x - 1 - blockIdx.x) * WARPS<DIM>, queries = segment.rows * work.heads;
    if (first_tile * TILE_QUERIES >= queries) {
        return;
    }
    // A warp whose tile lies past the last query walks along on copies of that query, and writes nothing.
    const Tile tile = tile_of(work, segment, blockIdx.y, first_tile + warp);
    const Tile block_first = tile_of(work, segment, blockIdx.y, first_tile);
    const Tile block_last = tile_of(work, segment, blockIdx.y, first_tile + WARPS<DIM> - 1);
    const BlockRange range = {block_first.first, block_last.last};
    const LaneRows rows = lane_rows(work, tile, lane);

    uint4 *query = shared + STAGES<DIM> * STAGE_CHUNKS<DIM> + warp * (QUERY_BYTES<DIM> / 16);
    float *all_totals =
        reinterpret_cast<float *>(shared + STAGES<DIM> * STAGE_CHUNKS<DIM> + WARPS<DIM> * (QUERY_BYTES<DIM> / 16));
    Totals totals = {{0, 0}, {0, 0}, all_totals + warp * TOTAL_FLOATS<DIM> + lane, false};
    load_queries<TYPE, DIM>(work, tile, query, lane);

    const uint32_t begin = range.first / STEP * STEP;
    for (int stage = 0; stage < STAGES<DIM> - 1; stage++) {
        fetch<DIM>(shared + stage * STAGE_CHUNKS<DIM>, work, tile, range, begin + stage * STEP);
    }
    SpanState<DIM> state;
    state.clear();
    for (uint32_t position = begin, at = 0; position <= range.last; position += STEP, at = (at + 1) % STAGES<DIM>) {
        cp_async_wait<STAGES<DIM> - 2>();
        __syncthreads(); // this step is there for all, and all are done with the one before, whose place is next
        fetch<DIM>(shared + (at + STAGES<DIM> - 1) % STAGES<DIM> * STAGE_CHUNKS<DIM>, work, tile, range,
                   position + (STAGES<DIM> - 1) * STEP);
        if (position + STEP <= tile.first || position > tile.last) {
            continue;
        }
        const SharedStep<DIM> step = {shared + at * STAGE_CHUNKS<DIM>,
                                      shared + at * STAGE_CHUNKS<DIM> + STEP * ROW_CHUNKS<DIM>};
        Scores scores;
        uint32_t weights[2][4];
        score<TYPE, DIM>(
            scores, query, [&](int half, int j) { return step.key(half, j, lane); }, lane);
        weigh<TYPE, DIM>(state, scores, weights, rows, position, lane);
        accumulate_seen<TYPE, DIM>(
            state, weights, rows, position, work.head_dim, [&](int h, int i) { return step.value(h, i, lane); },
            [&](uint32_t token, uint32_t dim) { return step.bits(token, dim); }, lane);
        if ((position + STEP) % SPAN == 0 || position + STEP > tile.last) {
            merge_state<DIM>(totals, state);
        }
    }

    const float factors[2] = {1 / totals.sum[0], 1 / totals.sum[1]};
    for_each_value<DIM>(
        tile, work.head_dim, lane,
        [&](int h, int j, int r) { return totals.values[(h * 32 + j * 4 + r) * WARP] * factors[r / 2]; },
        [&](uint32_t at, uint32_t dim, float value) { output_at(work, tile, at)[dim] = value; });
}

template <enum kv_type TYPE> auto kernel_for(uint32_t head_dim) {
    return head_dim <= 64 ? tiled<TYPE, 64> : head_dim <= 128 ? tiled<TYPE, 128> : tiled<TYPE, 256>;
}
size_t shared_bytes_for(uint32_t head_dim) {
    return head_dim <= 64 ? SHARED_BYTES<64> : head_dim <= 128 ? SHARED_BYTES<128> : SHARED_BYTES<256>;
}

void launch_list(struct stream *stream, const AttentionWork &work, const struct kv_batch *batch, const TiledList &list,
                 uint32_t most_rows) {
    const uint32_t dim = work.head_dim, warps = dim <= 128 ? WARPS<128> : WARPS<256>;
    launch(
        stream,
        dim3(blocks_for(static_cast<size_t>(most_rows) * work.heads, warps * TILE_QUERIES), work.kv_heads, list.count),
        dim3(warps * WARP), shared_bytes_for(dim),
        batch->shape.type == KV_F16 ? kernel_for<KV_F16>(dim) : kernel_for<KV_BF16>(dim), work, list);
}

} // namespace

void attention_tiled(struct stream *stream, const AttentionWork &work, const struct kv_batch *batch) {
    TiledList list = {};
    uint32_t most_rows = 0;
    for (uint32_t i = 0; i < batch->segment_count; i++) {
        const uint32_t rows = batch->segments_host[i].rows;
        if (rows > 0 && !is_split(rows, work.heads)) {
            list.segments[list.count++] = i;
            most_rows = std::max(most_rows, rows);
        }
        if (list.count == LISTED || (list.count > 0 && i + 1 == batch->segment_count)) {
            launch_list(stream, work, batch, list, most_rows);
            list.count = most_rows = 0;
        }
    }
}

cudaError_t attention_tiled_prepare() {
    for (const uint32_t head_dim : {64u, 128u, 256u}) {
        const int bytes = static_cast<int>(shared_bytes_for(head_dim));
        for (const auto kernel : {kernel_for<KV_F16>(head_dim), kernel_for<KV_BF16>(head_dim)}) {
            const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
            if (error != cudaSuccess) {
                return error;
            }
        }
    }
    return cudaSuccess;
}
