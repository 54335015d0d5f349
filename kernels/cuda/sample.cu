// One token for each row of logits: a block of threads a row, which goes over the row a few times.
//
// Roofline: the row crosses the memory bus once, 4 bytes a token, and is read from L2 after that. A pass that weighs
// tokens takes about 30 instructions for each, so that one multiprocessor (128 lanes) is at least 7 us at 49152 tokens
// and 1.7 GHz, on H100 as on A10, against 1.5 us that its share of L2 takes for the bytes: instructions are the limit;
// rows run beside each other. Passes: one for the largest, one that weighs slices, from one of which the token is
// drawn, three for each of top_k and top_p, two for a score. A model's own pass over its weights takes some hundred
// times as long.
//
// Weights are whole numbers (kernels/sample_math.h): no sum depends on the order of additions, nor on THREADS. A row is
// cut into slices of neighbours, a warp each at a time; what is found of a slice is kept in shared memory.
#include "kernels/cuda/kernel.cuh"

extern "C" {
#include "kernels/sample_math.h"
}

namespace {

constexpr unsigned THREADS = 512;
constexpr unsigned WARPS = THREADS / WARP;
constexpr uint32_t SLICE = 1024;
constexpr uint32_t SLICES = SAMPLE_MOST_TOKENS / SLICE;
constexpr uint32_t LANE_SLICES = SLICES / WARP;
constexpr uint32_t LANE_BUCKETS = (SAMPLE_BUCKETS + WARP - 1) / WARP;

struct Shared {
    uint64_t slice[SLICES];         // its best key, or the mass of what is kept of it
    uint32_t ties[SLICES];          // in it, then before it
    uint32_t count[SAMPLE_BUCKETS]; // tokens, and their mass in two halves
    uint32_t low[SAMPLE_BUCKETS], high[SAMPLE_BUCKETS];
    uint64_t partial[WARPS];
    uint64_t mass, goal; // of the search for a cut: what lies before its path
    uint32_t path, before;
    bool found;
    uint32_t token;
};

__device__ unsigned lane_of_thread() {
    return threadIdx.x % WARP;
}

__device__ unsigned warp_of_thread() {
    return threadIdx.x / WARP;
}

__device__ uint64_t warp_total(uint64_t value) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
        value += __shfl_xor_sync(EVERY_LANE, value, step);
    }
    return value;
}

__device__ uint64_t warp_most(uint64_t value) {
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
template <typename Visit> __device__ void each_slice(uint32_t vocabulary, Visit visit) {
    for (uint32_t slice = warp_of_thread(); slice * SLICE < vocabulary; slice += WARPS) {
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
__device__ uint64_t key_of(float logit, uint32_t token) {
    const uint32_t bits = logit == 0 ? 0 : sample_bits(logit);
    const uint32_t ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return logit != logit ? 0 : static_cast<uint64_t>(ordered) << 32 | (UINT32_MAX - token);
}

__device__ uint32_t token_of(uint64_t key) {
    return UINT32_MAX - static_cast<uint32_t>(key);
}

// The largest key of a slice that is below `limit`, to the whole warp.
__device__ uint64_t slice_best(const float *logits, uint32_t slice, uint32_t vocabulary, uint64_t limit) {
    uint64_t best = 0;
    each_token(slice, vocabulary, [&](uint32_t token) {
        const uint64_t key = key_of(logits[token], token);
        best = key > best && key < limit ? key : best;
    });
    return warp_most(best);
}

// The largest key of each slice into shared memory, and of all to every thread.
__device__ uint64_t row_best(Shared *shared, const float *logits, uint32_t vocabulary) {
    uint64_t best = 0;
    each_slice(vocabulary, [&](uint32_t slice) {
        const uint64_t key = slice_best(logits, slice, vocabulary, UINT64_MAX);
        if (lane_of_thread() == 0) {
            shared->slice[slice] = key;
        }
        best = key > best ? key : best;
    });
    if (lane_of_thread() == 0) {
        shared->partial[warp_of_thread()] = best;
    }
    __syncthreads();
    best = 0;
    for (unsigned warp = 0; warp < WARPS; warp++) {
        best = shared->partial[warp] > best ? shared->partial[warp] : best;
    }
    __syncthreads();
    return best;
}

// ---- scores ----

__device__ void list_top(Shared *shared, struct sample_score *score, const float *logits, uint32_t top,
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

__device__ void write_score(Shared *shared, struct sample_score *score, const float *logits, uint32_t top,
                            uint32_t vocabulary) {
    const uint64_t best = row_best(shared, logits, vocabulary);
    const float largest = best > 0 ? logits[token_of(best)] : -INFINITY;
    uint64_t total = 0;
    if (isfinite(largest)) {
        each_slice(vocabulary, [&](uint32_t slice) {
            each_token(slice, vocabulary, [&](uint32_t token) {
                total += static_cast<uint64_t>(sample_weight(logits[token], largest, 1, 1));
            });
        });
    }
    total = warp_total(total);
    if (lane_of_thread() == 0) {
        shared->partial[warp_of_thread()] = total;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        score->total = 0;
        for (unsigned warp = 0; warp < WARPS; warp++) {
            score->total += shared->partial[warp];
        }
        score->largest = largest;
    }
    if (warp_of_thread() == 0) {
        list_top(shared, score, logits, top, vocabulary);
    }
    __syncthreads();
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

// Counts and weighs the tokens on the path by their digit. A mass is added in halves, for which there are instructions.
__device__ void fill_buckets(Shared *shared, const Weights &weights, uint32_t vocabulary, int level) {
    for (uint32_t i = threadIdx.x; i < SAMPLE_BUCKETS; i += THREADS) {
        shared->count[i] = shared->low[i] = shared->high[i] = 0;
    }
    __syncthreads();
    const uint32_t path = shared->path;
    each_slice(vocabulary, [&](uint32_t slice) {
        each_token(slice, vocabulary, [&](uint32_t token) {
            const float weight = weights.of(token);
            const uint32_t key = sample_key(weight);
            if (weight > 0 && sample_on_path(key, path, level)) {
                const uint64_t mass = static_cast<uint64_t>(weight);
                const uint32_t digit = sample_digit(key, level), low = static_cast<uint32_t>(mass);
                atomicAdd(&shared->count[digit], 1u);
                const uint32_t carry = atomicAdd(&shared->low[digit], low) > UINT32_MAX - low;
                const uint32_t high = static_cast<uint32_t>(mass >> 32) + carry;
                if (high > 0) {
                    atomicAdd(&shared->high[digit], high);
                }
            }
        });
    });
    __syncthreads();
}

// One warp, from the greatest digit down, a lane for LANE_BUCKETS of them: finds the bucket in which the tokens become
// `most` or their mass the goal, and goes on from there. `top_p` of what there is becomes the goal, where that is not
// known yet.
__device__ void take_bucket(Shared *shared, uint32_t most, uint64_t top_p, int level) {
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
    const uint64_t all = warp_total(mass);
    uint64_t goal = shared->goal;
    if (goal == 0) {
        goal = sample_goal(top_p, all);
    }
    count = shared->before + warp_scan(count) - count;
    mass = shared->mass + warp_scan(mass) - mass;
    const uint64_t everything = shared->mass + all;
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
        shared->goal = goal;
        shared->before = count;
        shared->mass = reached != 0 ? mass : everything;
        shared->path |= reached != 0 ? digit << sample_below(level) : 0;
    }
}

// The first tokens in order of weight, until they are `most` or their mass is `goal`; *mass becomes theirs. A goal of 0
// is top_p of all that there is.
__device__ struct sample_cut find_cut(Shared *shared, const Weights &weights, uint32_t vocabulary, uint32_t most,
                                      uint64_t goal, uint64_t top_p, uint64_t *mass) {
    if (threadIdx.x == 0) {
        shared->path = shared->before = 0;
        shared->mass = 0;
        shared->goal = goal;
        shared->found = true;
    }
    __syncthreads();
    for (int level = 0; level < SAMPLE_LEVELS && shared->found; level++) {
        fill_buckets(shared, weights, vocabulary, level);
        if (warp_of_thread() == 0) {
            take_bucket(shared, most, top_p, level);
        }
        __syncthreads();
    }
    struct sample_cut cut = {0, 0};
    *mass = shared->mass;
    if (shared->found) {
        cut.weight = sample_weight_of(shared->path);
        cut.ties = sample_ties(cut.weight, most, shared->goal, shared->before, shared->mass);
        *mass += cut.ties * static_cast<uint64_t>(cut.weight);
    }
    __syncthreads();
    return cut;
}

// ---- the draw ----

// The mass of each slice above the cut, and how many tokens are at it.
__device__ void weigh_slices(Shared *shared, const Weights &weights, uint32_t vocabulary,
                             const struct sample_cut &cut) {
    each_slice(vocabulary, [&](uint32_t slice) {
        uint64_t mass = 0;
        uint32_t ties = 0;
        each_token(slice, vocabulary, [&](uint32_t token) {
            const float weight = weights.of(token);
            mass += weight > cut.weight ? static_cast<uint64_t>(weight) : 0;
            ties += weight == cut.weight;
        });
        mass = warp_total(mass);
        ties = static_cast<uint32_t>(warp_total(ties));
        if (lane_of_thread() == 0) {
            shared->slice[slice] = mass;
            shared->ties[slice] = ties;
        }
    });
    __syncthreads();
}

// One warp: the slice in which the draw falls, to every lane; *left is how far into its mass, *ties how many tokens at
// the cut are kept that lie before it. A lane has LANE_SLICES neighbours.
__device__ uint32_t draw_slice(Shared *shared, uint32_t slices, const struct sample_cut &cut, uint64_t random,
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
    const uint64_t drawn = sample_share(random, warp_total(mass));
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
__device__ uint32_t draw_token(const Weights &weights, uint32_t slice, uint32_t vocabulary,
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

// A token of a row whose changes are made, to every thread.
__device__ uint32_t draw(Shared *shared, const struct sample_row &row, const float *logits, uint32_t vocabulary) {
    const uint64_t best = row_best(shared, logits, vocabulary);
    const uint32_t most = best > 0 ? token_of(best) : 0; // 0: all of them are NaN
    if (row.inverse_temperature == 0 || best == 0 || !isfinite(logits[most])) {
        return most;
    }
    const Weights weights = {logits, logits[most], row.inverse_temperature, row.least_weight};
    struct sample_cut cut = {0, 0};
    uint64_t mass = 0;
    if (row.top_k > 0) {
        cut = find_cut(shared, weights, vocabulary, row.top_k, UINT64_MAX, 0, &mass);
    }
    if (row.top_p != SAMPLE_ALL_MASS) {
        const uint64_t goal = row.top_k > 0 ? sample_goal(row.top_p, mass) : 0;
        cut = find_cut(shared, weights, vocabulary, UINT32_MAX, goal, row.top_p, &mass);
    }
    weigh_slices(shared, weights, vocabulary, cut);
    if (warp_of_thread() == 0) {
        uint64_t left;
        uint32_t ties;
        const uint32_t slice = draw_slice(shared, (vocabulary + SLICE - 1) / SLICE, cut, row.random, &left, &ties);
        const uint32_t token = draw_token(weights, slice, vocabulary, cut, left, ties);
        if (lane_of_thread() == 0) {
            shared->token = token;
        }
    }
    __syncthreads();
    return shared->token;
}

// Each logit and what it was change places; `back` is the way back.
__device__ void change_logits(const struct sample_row &row, struct sample_change *changes, float *logits, bool back) {
    for (uint32_t i = threadIdx.x; i < row.change_count; i += THREADS) {
        struct sample_change *change = &changes[row.change_first + i];
        const float logit = logits[change->token];
        logits[change->token] = back ? change->bias : sample_change(logit, change, &row);
        change->bias = logit;
    }
    __syncthreads();
}

__global__ void __launch_bounds__(THREADS, 2)
    sample_kernel(uint32_t *out, float *logits, const struct sample_row *rows, struct sample_change *changes,
                  struct sample_score *scores, uint32_t vocabulary) {
    __shared__ Shared shared;
    const struct sample_row &row = rows[blockIdx.x];
    logits += static_cast<size_t>(blockIdx.x) * vocabulary;
    if (row.score != SAMPLE_NO_SCORE) {
        write_score(&shared, &scores[row.score], logits, row.top, vocabulary);
    }
    uint32_t token = row.target;
    if (row.target == SAMPLE_DRAW) {
        change_logits(row, changes, logits, false);
        token = draw(&shared, row, logits, vocabulary);
        __syncthreads();
        change_logits(row, changes, logits, true);
    }
    if (threadIdx.x == 0) {
        out[blockIdx.x] = token;
        if (row.score != SAMPLE_NO_SCORE) {
            scores[row.score].logit = logits[token];
        }
    }
}

} // namespace

extern "C" void cuda_sample(struct stream *stream, uint32_t *out, float *logits, const struct sample_batch *batch,
                            uint32_t n, uint32_t vocabulary) {
    launch(stream, n, THREADS, 0, sample_kernel, out + batch->first,
           logits + static_cast<size_t>(batch->first) * vocabulary, batch->rows + batch->first, batch->changes,
           batch->scores, vocabulary);
}
