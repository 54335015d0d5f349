// One token for each row of logits, in passes over the row, which its blocks share; each block has slices of
// neighbours, a warp one at a time. What is found of slices, and what is counted, goes to scratch; the last block to
// arrive there sees all of it, and ends the pass: it says what the next is for. So no block ever waits for another.
//
// A launch is one pass where rows have several blocks. A row that has one goes over all its passes in one launch.
//
// Passes: one for the largest, one that weighs slices, from one of which the token is drawn, three for each of top_k
// and top_p, two for a score. Weights are whole numbers (kernels/sample_math.h): no sum depends on the order of
// additions, and no token on the number of blocks.
//
// Roofline: the row crosses the memory bus once, 4 bytes a token, and is read from L2 after that. A pass that weighs
// tokens takes about 30 instructions for each: 7 us at 49152 tokens and 1.7 GHz on one multiprocessor (128 lanes), on
// H100 as on A10, against 1.5 us that its share of L2 takes for the bytes: instructions are the limit. A block has 8
// slices, 1.2 us; the next pass begins some 4 us after that at best: a launch within a graph, the meeting, and its end
// by one block. A row of 131072 tokens with top_p, five passes: 95 us by one block, 28 by 16; of 262144, 190 by one
// and 28 by 32. Many rows have fewer blocks each, as many as multiprocessors hold at a time.
#include "kernels/cuda/sample.cuh"

#include <algorithm>

namespace {

struct SampleWork {
    uint32_t *out;
    float *logits;
    const struct sample_row *rows;
    struct sample_change *changes;
    struct sample_score *scores;
    Scratch *scratch;
    uint32_t vocabulary;
    uint32_t blocks, passes; // blocks of a row; passes of a launch, 1 where they are several
};

// A row at work.
struct Row {
    const SampleWork &work;
    uint32_t index;

    __device__ const struct sample_row &asked() const {
        return work.rows[index];
    }
    __device__ float *logits() const {
        return work.logits + static_cast<size_t>(index) * work.vocabulary;
    }
    __device__ struct sample_score *score() const {
        return asked().score == SAMPLE_NO_SCORE ? nullptr : &work.scores[asked().score];
    }
    // Each logit and what it was change places; `back` is the way back.
    __device__ void change_logits(bool back) const {
        const struct sample_row &row = asked();
        for (uint32_t i = threadIdx.x; i < row.change_count; i += THREADS) {
            struct sample_change *change = &work.changes[row.change_first + i];
            const float logit = logits()[change->token];
            logits()[change->token] = back ? change->bias : sample_change(logit, change, &row);
            change->bias = logit;
        }
        __syncthreads();
    }
};

// Every thread: the row has its token.
__device__ void end_row(Shared *shared, const Row &row, uint32_t token) {
    if (row.asked().target == SAMPLE_DRAW) {
        __syncthreads(); // all have read what they wanted of the logits
        row.change_logits(true);
    }
    if (threadIdx.x == 0) {
        row.work.out[row.index] = token;
        if (row.score() != nullptr) {
            row.score()->logit = row.logits()[token];
        }
        shared->step.stage = Stage::DONE;
    }
}

// Every thread: the row is scored.
__device__ void end_score(Shared *shared, const Row &row) {
    if (row.asked().target != SAMPLE_DRAW) {
        end_row(shared, row, row.asked().target);
        return;
    }
    row.change_logits(false);
    if (threadIdx.x == 0) {
        shared->step.stage = Stage::LARGEST;
    }
}

__device__ void end_score_largest(Shared *shared, const Row &row) {
    const uint64_t best = row_best(shared, row.work.vocabulary);
    const float largest = best > 0 ? row.logits()[token_of(best)] : -INFINITY;
    if (warp_of_thread() == 0) {
        list_top(shared, row.score(), row.logits(), row.asked().top, row.work.vocabulary);
    }
    if (threadIdx.x == 0) {
        row.score()->largest = largest;
        row.score()->total = 0;
        shared->step.largest = largest;
        shared->step.cut = {0, 0};
        shared->step.stage = Stage::SCORE_TOTAL;
    }
    if (!isfinite(largest)) {
        __syncthreads();
        end_score(shared, row);
    }
}

__device__ void end_score_total(Shared *shared, const Row &row) {
    if (warp_of_thread() == 0) {
        uint64_t total = 0;
        for (uint32_t slice = lane_of_thread(); slice * SLICE < row.work.vocabulary; slice += WARP) {
            total += shared->slice[slice];
        }
        total = warp_sum(total);
        if (lane_of_thread() == 0) {
            row.score()->total = total;
        }
    }
    end_score(shared, row);
}

__device__ void end_largest(Shared *shared, const Row &row) {
    const struct sample_row &asked = row.asked();
    const uint64_t best = row_best(shared, row.work.vocabulary);
    const uint32_t most = best > 0 ? token_of(best) : 0; // 0: all of them are NaN
    const float largest = row.logits()[most];
    if (asked.inverse_temperature == 0 || best == 0 || !isfinite(largest)) {
        end_row(shared, row, most);
    } else if (threadIdx.x == 0) {
        Step &step = shared->step;
        step.largest = largest;
        step.cut = {0, 0};
        step.stage = Stage::WEIGH;
        if (asked.top_k > 0) {
            begin_cut(step, Stage::TOP_K, UINT64_MAX);
        } else if (asked.top_p != SAMPLE_ALL_MASS) {
            begin_cut(step, Stage::TOP_P, 0);
        }
    }
}

__device__ void end_weigh(Shared *shared, const Row &row, const Weights &weights) {
    if (warp_of_thread() == 0) {
        uint64_t left;
        uint32_t ties;
        const struct sample_cut cut = shared->step.cut;
        const uint32_t slices = (row.work.vocabulary + SLICE - 1) / SLICE;
        const uint32_t slice = draw_slice(shared, slices, cut, row.asked().random, &left, &ties);
        const uint32_t token = draw_token(weights, slice, row.work.vocabulary, cut, left, ties);
        if (lane_of_thread() == 0) {
            shared->token = token;
        }
    }
    __syncthreads();
    end_row(shared, row, shared->token);
}

__device__ Weights weights_of(const Step &step, const Row &row) {
    if (step.stage == Stage::SCORE_TOTAL) {
        return {row.logits(), step.largest, 1, 1};
    }
    return {row.logits(), step.largest, row.asked().inverse_temperature, row.asked().least_weight};
}

// This block's share of a pass.
__device__ void make_pass(Shared *shared, Scratch *scratch, const Share &share, const Row &row) {
    const Step &step = shared->step;
    const Weights weights = weights_of(step, row);
    if (step.stage == Stage::SCORE_LARGEST || step.stage == Stage::LARGEST) {
        find_largest(scratch, share, row.logits(), row.work.vocabulary);
    } else if (step.stage == Stage::TOP_K || step.stage == Stage::TOP_P) {
        fill_buckets(shared, scratch, share, weights, row.work.vocabulary);
    } else {
        weigh_slices(scratch, share, weights, row.work.vocabulary, step.cut);
    }
}

// Whether this block is the last to come here of its row's; then every thread sees what all of them wrote.
__device__ bool is_last(Shared *shared, Scratch *scratch, const Share &share) {
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        shared->last = atomicAdd(&scratch->arrived, 1u) + 1 == share.blocks;
        if (shared->last) {
            scratch->arrived = 0;
        }
    }
    __syncthreads();
    __threadfence();
    return shared->last;
}

// What the last block does: from what there is of all slices to the step that is next.
__device__ void end_pass(Shared *shared, Scratch *scratch, const Row &row) {
    const Step &step = shared->step;
    const Stage stage = step.stage;
    const Weights weights = weights_of(step, row);
    if (stage == Stage::TOP_K || stage == Stage::TOP_P) {
        take_buckets(shared, scratch);
        end_level(shared, row.asked());
        return;
    }
    for (uint32_t slice = threadIdx.x; slice * SLICE < row.work.vocabulary; slice += THREADS) {
        shared->slice[slice] = __ldcg(&scratch->slice[slice]);
        shared->ties[slice] = __ldcg(&scratch->ties[slice]);
    }
    __syncthreads();
    if (stage == Stage::SCORE_LARGEST) {
        end_score_largest(shared, row);
    } else if (stage == Stage::SCORE_TOTAL) {
        end_score_total(shared, row);
    } else if (stage == Stage::LARGEST) {
        end_largest(shared, row);
    } else {
        end_weigh(shared, row, weights);
    }
}

// A block a row: its first step. Changes are for the draw, after the score.
__global__ void __launch_bounds__(THREADS) begin_rows(const SampleWork work) {
    const Row row = {work, blockIdx.x};
    Scratch *scratch = &work.scratch[row.index];
    const bool scored = row.asked().score != SAMPLE_NO_SCORE, drawn = row.asked().target == SAMPLE_DRAW;
    if (drawn && !scored) {
        row.change_logits(false);
    }
    for (uint32_t i = threadIdx.x; i < SAMPLE_BUCKETS; i += THREADS) {
        scratch->count[i] = scratch->low[i] = scratch->high[i] = 0;
    }
    if (threadIdx.x == 0) {
        scratch->arrived = 0;
        scratch->step = {};
        scratch->step.stage = scored ? Stage::SCORE_LARGEST : drawn ? Stage::LARGEST : Stage::DONE;
        if (!scored && !drawn) {
            work.out[row.index] = row.asked().target;
        }
    }
}

// blockIdx: row and block of the row.
__global__ void __launch_bounds__(THREADS, RESIDENT) sample_pass(const SampleWork work) {
    __shared__ Shared shared;
    const Share share = {blockIdx.x % work.blocks, work.blocks};
    const Row row = {work, blockIdx.x / work.blocks};
    Scratch *scratch = &work.scratch[row.index];
    if (threadIdx.x == 0) {
        shared.step = scratch->step;
    }
    __syncthreads();
    if (shared.step.stage == Stage::DONE) {
        return;
    }
    for (uint32_t pass = 0; pass < work.passes && shared.step.stage != Stage::DONE; pass++) {
        make_pass(&shared, scratch, share, row);
        if (!is_last(&shared, scratch, share)) {
            return;
        }
        end_pass(&shared, scratch, row);
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        scratch->step = shared.step;
    }
}

uint32_t passes_of(const struct sample_row &row) {
    const uint32_t cuts = (row.top_k > 0) + (row.top_p != SAMPLE_ALL_MASS);
    const uint32_t draw = row.target != SAMPLE_DRAW ? 0 : row.inverse_temperature == 0 ? 1 : 2 + SAMPLE_LEVELS * cuts;
    return draw + (row.score != SAMPLE_NO_SCORE ? 2 : 0);
}

} // namespace

extern "C" void cuda_sample(struct stream *stream, uint32_t *out, float *logits, const struct sample_batch *batch,
                            uint32_t n, uint32_t vocabulary) {
    const struct cuda_device *device = cuda_device_of(stream);
    CHECK(n <= device->sample_rows);
    uint32_t passes = 0;
    for (uint32_t i = 0; i < n; i++) {
        passes = std::max(passes, passes_of(batch->rows_host[batch->first + i]));
    }
    const uint32_t fitting = RESIDENT * static_cast<uint32_t>(device->multiprocessors) / n;
    const uint32_t blocks = std::max(1u, std::min(blocks_for(vocabulary, SLICE * WARPS), fitting));
    SampleWork work = {};
    work.out = out + batch->first;
    work.logits = logits + static_cast<size_t>(batch->first) * vocabulary;
    work.rows = batch->rows + batch->first;
    work.changes = batch->changes;
    work.scores = batch->scores;
    work.scratch = static_cast<Scratch *>(device->sample);
    work.vocabulary = vocabulary;
    work.blocks = blocks;
    work.passes = blocks > 1 ? 1 : passes;
    launch(stream, n, THREADS, 0, begin_rows, work);
    for (uint32_t pass = 0; pass < passes; pass += work.passes) {
        launch(stream, n * blocks, THREADS, 0, sample_pass, work);
    }
}

struct status cuda_sample_prepare(struct cuda_device *device, const struct device_limits *limits) {
    const size_t rows = std::max(1u, limits->logit_rows);
    const struct status status = cuda_scratch_alloc(device, rows * sizeof(Scratch), "sampling", &device->sample);
    device->sample_rows = status.code == STATUS_OK ? static_cast<uint32_t>(rows) : 0;
    return status;
}

void cuda_sample_release(struct cuda_device *device) {
    cuda_scratch_free(device, device->sample);
    device->sample = nullptr;
    device->sample_rows = 0;
}
