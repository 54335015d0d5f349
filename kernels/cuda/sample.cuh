// What a block does with a row of logits: the largest, the score's list, where top_k and top_p cut, and the draw; for
// sample.cu, which says who does it when. CUDA C++ only.
//
// A row is cut into slices of neighbours, a warp each at a time; a row's blocks share its slices. What a pass finds
// goes to the row's scratch; from a copy of it in shared memory one block goes on. Threads: device code; a function is
// for the whole block unless it says "one warp", and "to every thread" ends at a barrier.
#ifndef METRONOME_KERNELS_CUDA_SAMPLE_CUH
#define METRONOME_KERNELS_CUDA_SAMPLE_CUH

#include "kernels/cuda/kernel.cuh"

extern "C" {
#include "kernels/sample_math.h"
}

constexpr unsigned THREADS = 256;
constexpr unsigned RESIDENT = 4; // blocks of a multiprocessor
constexpr unsigned WARPS = THREADS / WARP;
constexpr uint32_t SLICE = 1024;
constexpr uint32_t SLICES = SAMPLE_MOST_TOKENS / SLICE;
constexpr uint32_t LANE_SLICES = SLICES / WARP;
constexpr uint32_t LANE_BUCKETS = (SAMPLE_BUCKETS + WARP - 1) / WARP;

enum class Stage : uint32_t { SCORE_LARGEST, SCORE_TOTAL, LARGEST, TOP_K, TOP_P, WEIGH, DONE };

// What a row's next pass is for, and what the passes before it found.
struct Step {
    Stage stage;
    int level;           // of the search for a cut: its digit,
    uint32_t path;       // those before it,
    uint32_t before;     // how many tokens come first, and their mass
    uint64_t mass, goal; // goal 0: top_p of all that there is
    float largest;
    struct sample_cut cut;
};

struct Shared {
    Step step;
    uint64_t slice[SLICES];         // its best key, or its mass above the cut, then the mass of what is kept of it
    uint32_t ties[SLICES];          // in it, then before it
    uint32_t count[SAMPLE_BUCKETS]; // tokens, and their mass in two halves
    uint32_t low[SAMPLE_BUCKETS], high[SAMPLE_BUCKETS];
    uint64_t partial[WARPS];
    bool found, last;
    uint32_t token;
};

// Of a row, in global memory, from one pass to the next.
struct Scratch {
    Step step;
    uint32_t arrived; // blocks, in this pass
    uint64_t slice[SLICES];
    uint32_t ties[SLICES];
    uint32_t count[SAMPLE_BUCKETS], low[SAMPLE_BUCKETS], high[SAMPLE_BUCKETS]; // zeros between passes
};

// The blocks of a row, and which of them this is.
struct Share {
    uint32_t block, blocks;
};

__device__ inline unsigned lane_of_thread() {
    return threadIdx.x % WARP;
}

__device__ inline unsigned warp_of_thread() {
    return threadIdx.x / WARP;
}

__device__ inline uint64_t warp_most(uint64_t value) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
        const uint64_t other = __shfl_xor_sync(EVERY_LANE, value, step);
        value = other > value ? other : value;
    }
    return value;
}

// The sum of this lane's value and those of the lanes below it.
template <typename T> __device__ T warp_scan(T value) {
#pragma unroll
    for (unsigned step = 1; step < WARP; step *= 2) {
        const T other = __shfl_up_sync(EVERY_LANE, value, step);
        value += lane_of_thread() >= step ? other : 0;
    }
    return value;
}

// visit(slice) by every warp for slices of its own.
template <typename Visit> __device__ void each_slice(const Share &share, uint32_t vocabulary, Visit visit) {
    for (uint32_t slice = share.block * WARPS + warp_of_thread(); slice * SLICE < vocabulary;
         slice += share.blocks * WARPS) {
        visit(slice);
    }
}

// visit(token) by every lane for its tokens of a slice.
template <typename Visit> __device__ void each_token(uint32_t slice, uint32_t vocabulary, Visit visit) {
#pragma unroll 4
    for (uint32_t i = 0; i < SLICE; i += WARP) {
        const uint32_t token = slice * SLICE + i + lane_of_thread();
        if (token < vocabulary) {
            visit(token);
        }
    }
}

// ---- the largest ----

// Larger for larger logits, and for lower tokens of equal ones; 0 for NaN, which is never the largest.
__device__ inline uint64_t key_of(float logit, uint32_t token) {
    const uint32_t bits = logit == 0 ? 0 : sample_bits(logit);
    const uint32_t ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return logit != logit ? 0 : static_cast<uint64_t>(ordered) << 32 | (UINT32_MAX - token);
}

__device__ inline uint32_t token_of(uint64_t key) {
    return UINT32_MAX - static_cast<uint32_t>(key);
}

// The largest key of a slice that is below `limit`, to the whole warp.
__device__ inline uint64_t slice_best(const float *logits, uint32_t slice, uint32_t vocabulary, uint64_t limit) {
    uint64_t best = 0;
    each_token(slice, vocabulary, [&](uint32_t token) {
        const uint64_t key = key_of(logits[token], token);
        best = key > best && key < limit ? key : best;
    });
    return warp_most(best);
}

__device__ inline void find_largest(Scratch *scratch, const Share &share, const float *logits, uint32_t vocabulary) {
    each_slice(share, vocabulary, [&](uint32_t slice) {
        const uint64_t key = slice_best(logits, slice, vocabulary, UINT64_MAX);
        if (lane_of_thread() == 0) {
            scratch->slice[slice] = key;
        }
    });
}

// The largest key of all, from those of the slices, to every thread.
__device__ inline uint64_t row_best(Shared *shared, uint32_t vocabulary) {
    uint64_t best = 0;
    for (uint32_t slice = threadIdx.x; slice * SLICE < vocabulary; slice += THREADS) {
        best = shared->slice[slice] > best ? shared->slice[slice] : best;
    }
    best = warp_most(best);
    if (lane_of_thread() == 0) {
        shared->partial[warp_of_thread()] = best;
    }
    __syncthreads();
    for (unsigned warp = 0; warp < WARPS; warp++) {
        best = shared->partial[warp] > best ? shared->partial[warp] : best;
    }
    __syncthreads();
    return best;
}

// ---- scores ----

__device__ inline void list_top(Shared *shared, struct sample_score *score, const float *logits, uint32_t top,
                                uint32_t vocabulary) {
    const uint32_t slices = (vocabulary + SLICE - 1) / SLICE;
    uint32_t count = 0;
    for (; count < top; count++) {
        uint64_t best = 0;
        for (uint32_t slice = lane_of_thread(); slice < slices; slice += WARP) {
            best = shared->slice[slice] > best ? shared->slice[slice] : best;
        }
        best = warp_most(best);
        if (best == 0) {
            break;
        }
        const uint32_t token = token_of(best), slice = token / SLICE;
        const uint64_t next = slice_best(logits, slice, vocabulary, best);
        if (lane_of_thread() == 0) {
            score->top[count] = {token, logits[token]};
            shared->slice[slice] = next;
        }
        __syncwarp();
    }
    if (lane_of_thread() == 0) {
        score->top_count = count;
    }
}

// ---- top_k and top_p ----

// A row's logits on their way to weights.
struct Weights {
    const float *logits;
    float largest, inverse_temperature, least;

    __device__ float of(uint32_t token) const {
        return sample_weight(logits[token], largest, inverse_temperature, least);
    }
};

// Counts and weighs tokens by a digit. A mass is added in halves, for which there are instructions.
template <typename Buckets>
__device__ void add_to_bucket(Buckets *to, uint32_t digit, uint32_t count, uint32_t low, uint32_t high) {
    atomicAdd(&to->count[digit], count);
    high += atomicAdd(&to->low[digit], low) > UINT32_MAX - low;
    if (high > 0) {
        atomicAdd(&to->high[digit], high);
    }
}

// Those on the path, in this block's slices first.
__device__ inline void fill_buckets(Shared *shared, Scratch *scratch, const Share &share, const Weights &weights,
                                    uint32_t vocabulary) {
    for (uint32_t i = threadIdx.x; i < SAMPLE_BUCKETS; i += THREADS) {
        shared->count[i] = shared->low[i] = shared->high[i] = 0;
    }
    __syncthreads();
    const uint32_t path = shared->step.path;
    const int level = shared->step.level;
    each_slice(share, vocabulary, [&](uint32_t slice) {
        each_token(slice, vocabulary, [&](uint32_t token) {
            const float weight = weights.of(token);
            const uint32_t key = sample_key(weight);
            if (weight > 0 && sample_on_path(key, path, level)) {
                const uint64_t mass = static_cast<uint64_t>(weight);
                add_to_bucket(shared, sample_digit(key, level), 1, static_cast<uint32_t>(mass),
                              static_cast<uint32_t>(mass >> 32));
            }
        });
    });
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < SAMPLE_BUCKETS; i += THREADS) {
        if (shared->count[i] > 0) {
            add_to_bucket(scratch, i, shared->count[i], shared->low[i], shared->high[i]);
        }
    }
}

// Every block's, which are left as zeros.
__device__ inline void take_buckets(Shared *shared, Scratch *scratch) {
    for (uint32_t i = threadIdx.x; i < SAMPLE_BUCKETS; i += THREADS) {
        shared->count[i] = __ldcg(&scratch->count[i]);
        shared->low[i] = __ldcg(&scratch->low[i]);
        shared->high[i] = __ldcg(&scratch->high[i]);
        scratch->count[i] = scratch->low[i] = scratch->high[i] = 0;
    }
    __syncthreads();
}

// One warp, from the greatest digit down, a lane for LANE_BUCKETS of them: finds the bucket in which the tokens become
// `most` or their mass the goal, and goes on from there. `top_p` of what there is becomes the goal, where that is not
// known yet.
__device__ inline void take_bucket(Shared *shared, uint32_t most, uint64_t top_p) {
    Step &step = shared->step;
    const uint32_t first = lane_of_thread() * LANE_BUCKETS;
    uint32_t count = 0;
    uint64_t mass = 0;
    auto bucket_mass = [&](uint32_t digit) {
        return static_cast<uint64_t>(shared->high[digit]) << 32 | shared->low[digit];
    };
    for (uint32_t i = first; i < first + LANE_BUCKETS && i < SAMPLE_BUCKETS; i++) {
        count += shared->count[SAMPLE_BUCKETS - 1 - i];
        mass += bucket_mass(SAMPLE_BUCKETS - 1 - i);
    }
    const uint64_t all = warp_sum(mass);
    uint64_t goal = step.goal;
    if (goal == 0) {
        goal = sample_goal(top_p, all);
    }
    count = step.before + warp_scan(count) - count;
    mass = step.mass + warp_scan(mass) - mass;
    const uint64_t everything = step.mass + all;
    uint32_t digit = SAMPLE_BUCKETS;
    for (uint32_t i = first; i < first + LANE_BUCKETS && i < SAMPLE_BUCKETS && digit == SAMPLE_BUCKETS; i++) {
        const uint32_t at = SAMPLE_BUCKETS - 1 - i;
        if (count + shared->count[at] >= most || mass + bucket_mass(at) >= goal) {
            digit = at;
        } else {
            count += shared->count[at];
            mass += bucket_mass(at);
        }
    }
    const unsigned reached = __ballot_sync(EVERY_LANE, digit < SAMPLE_BUCKETS);
    if (reached == 0 ? lane_of_thread() == 0 : lane_of_thread() + 1 == static_cast<unsigned>(__ffs(reached))) {
        shared->found = reached != 0;
        step.goal = goal;
        step.before = count;
        step.mass = reached != 0 ? mass : everything;
        step.path |= reached != 0 ? digit << sample_below(step.level) : 0;
    }
}

// Kept are the first tokens in order of weight, until they are top_k, or their mass is the goal.
__device__ inline void begin_cut(Step &step, Stage stage, uint64_t goal) {
    step.stage = stage;
    step.level = 0;
    step.path = step.before = 0;
    step.mass = 0;
    step.goal = goal;
}

// Every thread: the bucket of this level is taken, and at the last of them the cut is known.
__device__ inline void end_level(Shared *shared, const struct sample_row &row) {
    Step &step = shared->step;
    const uint32_t most = step.stage == Stage::TOP_K ? row.top_k : UINT32_MAX;
    if (warp_of_thread() == 0) {
        take_bucket(shared, most, row.top_p);
    }
    __syncthreads();
    if (threadIdx.x != 0) {
        return;
    }
    if (shared->found && step.level + 1 < SAMPLE_LEVELS) {
        step.level++;
        return;
    }
    step.cut = {0, 0};
    uint64_t mass = step.mass;
    if (shared->found) {
        step.cut.weight = sample_weight_of(step.path);
        step.cut.ties = sample_ties(step.cut.weight, most, step.goal, step.before, step.mass);
        mass += step.cut.ties * static_cast<uint64_t>(step.cut.weight);
    }
    if (step.stage == Stage::TOP_K && row.top_p != SAMPLE_ALL_MASS) {
        begin_cut(step, Stage::TOP_P, sample_goal(row.top_p, mass));
    } else {
        step.stage = Stage::WEIGH;
    }
}

// ---- the draw ----

// The mass of each slice above the cut, and how many tokens are at it.
__device__ inline void weigh_slices(Scratch *scratch, const Share &share, const Weights &weights, uint32_t vocabulary,
                                    const struct sample_cut &cut) {
    each_slice(share, vocabulary, [&](uint32_t slice) {
        uint64_t mass = 0;
        uint32_t ties = 0;
        each_token(slice, vocabulary, [&](uint32_t token) {
            const float weight = weights.of(token);
            mass += weight > cut.weight ? static_cast<uint64_t>(weight) : 0;
            ties += weight == cut.weight;
        });
        mass = warp_sum(mass);
        ties = warp_sum(ties);
        if (lane_of_thread() == 0) {
            scratch->slice[slice] = mass;
            scratch->ties[slice] = ties;
        }
    });
}

// One warp: the slice in which the draw falls, to every lane; *left is how far into its mass, *ties how many tokens at
// the cut are kept that lie before it. A lane has LANE_SLICES neighbours.
__device__ inline uint32_t draw_slice(Shared *shared, uint32_t slices, const struct sample_cut &cut, uint64_t random,
                                      uint64_t *left, uint32_t *ties) {
    const uint32_t begin = lane_of_thread() * LANE_SLICES;
    const uint32_t end = begin + LANE_SLICES < slices ? begin + LANE_SLICES : slices;
    uint32_t at_cut = 0;
    for (uint32_t slice = begin; slice < end; slice++) {
        at_cut += shared->ties[slice];
    }
    at_cut = warp_scan(at_cut) - at_cut;
    uint64_t mass = 0;
    for (uint32_t slice = begin; slice < end; slice++) {
        const uint32_t before = at_cut < cut.ties ? at_cut : cut.ties;
        at_cut += shared->ties[slice];
        const uint32_t kept = (at_cut < cut.ties ? at_cut : cut.ties) - before;
        shared->ties[slice] = before;
        shared->slice[slice] += kept * static_cast<uint64_t>(cut.weight);
        mass += shared->slice[slice];
    }
    const uint64_t drawn = sample_share(random, warp_sum(mass));
    uint64_t before = warp_scan(mass) - mass;
    const bool mine = drawn >= before && drawn - before < mass;
    uint32_t slice = begin;
    for (; mine && drawn - before >= shared->slice[slice]; slice++) {
        before += shared->slice[slice];
    }
    const int lane = __ffs(__ballot_sync(EVERY_LANE, mine)) - 1;
    *left = __shfl_sync(EVERY_LANE, drawn - before, lane);
    slice = __shfl_sync(EVERY_LANE, slice, lane);
    __syncwarp();
    *ties = shared->ties[slice];
    return slice;
}

// One warp, 32 neighbours at a time.
__device__ inline uint32_t draw_token(const Weights &weights, uint32_t slice, uint32_t vocabulary,
                                      const struct sample_cut &cut, uint64_t left, uint32_t ties) {
    const unsigned below = (1u << lane_of_thread()) - 1;
    for (uint32_t first = slice * SLICE;; first += WARP) {
        const uint32_t token = first + lane_of_thread();
        const float weight = token < vocabulary ? weights.of(token) : 0;
        const unsigned at_cut = __ballot_sync(EVERY_LANE, weight == cut.weight);
        const bool kept = weight > cut.weight || (weight == cut.weight && ties + __popc(at_cut & below) < cut.ties);
        const uint64_t until = warp_scan(kept ? static_cast<uint64_t>(weight) : uint64_t{0});
        const unsigned reached = __ballot_sync(EVERY_LANE, left < until);
        if (reached != 0) {
            return first + static_cast<uint32_t>(__ffs(reached)) - 1;
        }
        left -= __shfl_sync(EVERY_LANE, until, WARP - 1);
        ties += static_cast<uint32_t>(__popc(at_cut));
    }
}

#endif
