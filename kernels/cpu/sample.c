/* op_sample() of the `cpu` device: rows are shared out over the pool; a row is a few passes and, under top_k and top_p,
 * a search among the tokens that can be kept.
 *
 * Owns: which tokens need to be looked at. The search counts and weighs them by the digits of their weights, most
 * significant first (kernels/sample_math.h), so that it takes time in proportion to their number. Threads: cpu_sample()
 * the host's, the rest the pool's. */
#include "kernels/cpu/sample.h"

#include "base/check.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/scratch.h"
#include "kernels/sample_math.h"

#include <string.h>

struct bucket {
    uint64_t mass;
    uint32_t count;
};

/* A worker's scratch, for one row. */
struct workspace {
    uint64_t *slices;                    /* (SAMPLE_SLICES) */
    struct bucket *buckets;              /* (SAMPLE_BUCKETS) */
    struct sample_candidate *candidates; /* (vocabulary) */
    float *weights;                      /* (vocabulary) */
};

struct sample {
    const struct sample_kernels *kernels;
    const struct row_kernels *rows;
    const struct cpu_math *math;
    uint32_t *out;
    float *logits;
    struct sample_batch batch;
    uint32_t count, vocabulary;
};

size_t cpu_sample_bytes(uint32_t vocabulary) {
    return SAMPLE_SLICES * sizeof(uint64_t) + SAMPLE_BUCKETS * sizeof(struct bucket) +
           vocabulary * (sizeof(struct sample_candidate) + sizeof(float));
}

static struct workspace workspace_of(const struct cpu_math *math, uint32_t worker) {
    struct workspace own = {.slices = (uint64_t *)(math->sampling + worker * math->sampling_bytes)};
    own.buckets = (struct bucket *)(own.slices + SAMPLE_SLICES);
    own.candidates = (struct sample_candidate *)(own.buckets + SAMPLE_BUCKETS);
    own.weights = (float *)(own.candidates + math->vocabulary);
    return own;
}

/* ---- top_k and top_p ---- */

/* The first tokens in order of weight, until they are `most` or their mass is `goal`; *mass becomes theirs. */
static struct sample_cut find_cut(struct workspace *own, uint32_t candidates, uint32_t most, uint64_t goal,
                                  uint64_t *mass) {
    uint32_t path = 0, count = 0;
    *mass = 0;
    for (int level = 0; level < SAMPLE_LEVELS; level++) {
        memset(own->buckets, 0, SAMPLE_BUCKETS * sizeof *own->buckets);
        for (uint32_t i = 0; i < candidates; i++) {
            const float weight = own->candidates[i].weight;
            const uint32_t key = sample_key(weight);
            if (sample_on_path(key, path, level)) {
                struct bucket *bucket = &own->buckets[sample_digit(key, level)];
                bucket->count++;
                bucket->mass += (uint64_t)weight;
            }
        }
        uint32_t digit = SAMPLE_BUCKETS;
        for (; digit > 0; digit--) {
            const struct bucket *bucket = &own->buckets[digit - 1];
            if (count + bucket->count >= most || *mass + bucket->mass >= goal) {
                break;
            }
            count += bucket->count;
            *mass += bucket->mass;
        }
        if (digit == 0) { /* there are no more */
            return (struct sample_cut){0, 0};
        }
        path |= (digit - 1) << sample_below(level);
    }
    struct sample_cut cut = {.weight = sample_weight_of(path)};
    cut.ties = sample_ties(cut.weight, most, goal, count, *mass);
    *mass += cut.ties * (uint64_t)cut.weight;
    return cut;
}

/* A weight that no token among the `top_k` first is below. */
static float bound_of(struct workspace *own, const struct sample *op, uint32_t top_k) {
    uint32_t groups = op->kernels->group(own->candidates, own->weights, op->vocabulary), kept = 0;
    for (uint32_t i = 0; i < groups; i++) {
        own->candidates[kept] = own->candidates[i];
        kept += own->candidates[i].weight > 0;
    }
    uint64_t mass;
    return kept < top_k ? 1 : find_cut(own, kept, top_k, UINT64_MAX, &mass).weight;
}

static bool is_kept(struct sample_cut *cut, float weight) {
    if (weight == cut->weight && cut->ties > 0) {
        cut->ties--;
        return true;
    }
    return weight > cut->weight;
}

/* Of weights of the mass `total`. Tokens that together have less than what top_p leaves away are not kept. */
static uint32_t draw_truncated(struct workspace *own, const struct sample *op, const struct sample_row *row,
                               uint64_t total) {
    float bound = 1;
    if (row->top_k > 0) {
        bound = bound_of(own, op, row->top_k);
    } else {
        const uint64_t spare = (total - sample_goal(row->top_p, total)) / op->vocabulary;
        bound = spare > 1 ? (float)spare * 0.5f : 1;
    }
    const uint32_t candidates = op->kernels->collect(own->candidates, own->weights, op->vocabulary, bound);
    struct sample_cut cut = {0, 0};
    uint64_t mass = total;
    if (row->top_k > 0) {
        cut = find_cut(own, candidates, row->top_k, UINT64_MAX, &mass);
    }
    if (row->top_p != SAMPLE_ALL_MASS) {
        cut = find_cut(own, candidates, UINT32_MAX, sample_goal(row->top_p, mass), &mass);
    }
    uint64_t before = sample_share(row->random, mass);
    for (uint32_t i = 0; i < candidates; i++) {
        const uint64_t weight = (uint64_t)own->candidates[i].weight;
        if (is_kept(&cut, own->candidates[i].weight)) {
            if (before < weight) {
                return own->candidates[i].token;
            }
            before -= weight;
        }
    }
    CHECK(false); /* the kept ones' mass is `mass` */
    return 0;
}

/* ---- a row ---- */

static uint32_t draw_whole(const struct workspace *own, const struct sample_row *row, uint64_t total) {
    uint64_t before = sample_share(row->random, total);
    uint32_t slice = 0;
    while (before >= own->slices[slice]) {
        before -= own->slices[slice++];
    }
    uint32_t token = slice * SAMPLE_SLICE;
    while (before >= (uint64_t)own->weights[token]) {
        before -= (uint64_t)own->weights[token++];
    }
    return token;
}

static uint32_t draw(struct workspace *own, const struct sample *op, const struct sample_row *row,
                     const float *logits) {
    const uint32_t most = op->rows->argmax(logits, op->vocabulary);
    if (row->inverse_temperature == 0 || !isfinite(logits[most])) {
        return most;
    }
    const uint64_t total = op->kernels->weigh(own->weights, own->slices, logits, op->vocabulary, logits[most],
                                              row->inverse_temperature, row->least_weight);
    const bool whole = row->top_k == 0 && row->top_p == SAMPLE_ALL_MASS;
    return whole ? draw_whole(own, row, total) : draw_truncated(own, op, row, total);
}

/* Each logit and what it was change places. */
static uint32_t draw_changed(struct workspace *own, const struct sample *op, const struct sample_row *row,
                             float *logits) {
    struct sample_change *changes = op->batch.changes + row->change_first;
    for (uint32_t i = 0; i < row->change_count; i++) {
        float *logit = &logits[changes[i].token];
        const float changed = sample_change(*logit, &changes[i], row);
        changes[i].bias = *logit;
        *logit = changed;
    }
    const uint32_t token = draw(own, op, row, logits);
    for (uint32_t i = 0; i < row->change_count; i++) {
        logits[changes[i].token] = changes[i].bias;
    }
    return token;
}

/* The most likely tokens, by insertion: few groups have one that is among them. */
static void find_top(struct sample_score *score, const struct sample *op, const float *logits, uint32_t top) {
    uint32_t count = 0;
    for (uint32_t begin = 0; begin < op->vocabulary && top > 0; begin += SAMPLE_GROUP) {
        const uint32_t end = op->vocabulary - begin < SAMPLE_GROUP ? op->vocabulary : begin + SAMPLE_GROUP;
        if (count == top && !(op->kernels->largest(logits + begin, end - begin) > score->top[top - 1].logit)) {
            continue;
        }
        for (uint32_t i = begin; i < end; i++) {
            if (count < top ? isnan(logits[i]) : !(logits[i] > score->top[top - 1].logit)) {
                continue;
            }
            uint32_t at = count < top ? count++ : top - 1;
            for (; at > 0 && score->top[at - 1].logit < logits[i]; at--) {
                score->top[at] = score->top[at - 1];
            }
            score->top[at] = (struct sample_top){i, logits[i]};
        }
    }
    score->top_count = count;
}

static void write_score(struct sample_score *score, struct workspace *own, const struct sample *op,
                        const struct sample_row *row, const float *logits) {
    *score = (struct sample_score){.largest = op->kernels->largest(logits, op->vocabulary)};
    if (isfinite(score->largest)) {
        score->total = op->kernels->weigh(own->weights, own->slices, logits, op->vocabulary, score->largest, 1, 1);
    }
    find_top(score, op, logits, row->top);
}

static void sample_row(void *context, uint32_t index, uint32_t worker) {
    const struct sample *op = context;
    index += op->batch.first;
    const struct sample_row *row = &op->batch.rows[index];
    struct workspace own = workspace_of(op->math, worker);
    float *logits = op->logits + (size_t)index * op->vocabulary;
    struct sample_score *score = row->score == SAMPLE_NO_SCORE ? NULL : &op->batch.scores[row->score];
    if (score != NULL) {
        write_score(score, &own, op, row, logits);
    }
    op->out[index] = row->target == SAMPLE_DRAW ? draw_changed(&own, op, row, logits) : row->target;
    if (score != NULL) {
        score->logit = logits[op->out[index]];
    }
}

static void run_sample(struct cpu_stream *stream, void *arguments) {
    struct sample *op = arguments;
    cpu_parallel(cpu_stream_device(stream), op->count, sample_row, op);
}

void cpu_sample(struct stream *stream, uint32_t *out, float *logits, const struct sample_batch *batch, uint32_t n,
                uint32_t vocabulary) {
    static const struct {
        const struct sample_kernels *passes;
        const struct row_kernels *rows;
    } kernels[] = {
        [CPU_SCALAR] = {&sample_kernels_scalar, &row_kernels_scalar},
        [CPU_AVX2] = {&sample_kernels_avx2, &row_kernels_avx2},
        [CPU_AVX512] = {&sample_kernels_avx512, &row_kernels_avx512},
    };
    const struct cpu_device *device = cpu_device_of(stream);
    CHECK(device->math && vocabulary <= device->math->vocabulary); /* device_prepare() */
    struct sample op = {.kernels = kernels[device->isa].passes,
                        .rows = kernels[device->isa].rows,
                        .math = device->math,
                        .out = out,
                        .logits = logits,
                        .batch = *batch,
                        .count = n,
                        .vocabulary = vocabulary};
    cpu_enqueue(stream, run_sample, &op, sizeof op);
}
