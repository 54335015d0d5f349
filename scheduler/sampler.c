#include "scheduler/sampler.h"

#include "base/check.h"
#include "base/random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct status sampler_create(uint32_t vocabulary, struct sampler *sampler) {
    *sampler = (struct sampler){.vocabulary = vocabulary,
                                .logits = malloc(vocabulary * sizeof *sampler->logits),
                                .candidates = malloc(vocabulary * sizeof *sampler->candidates)};
    if (!sampler->logits || !sampler->candidates) {
        sampler_destroy(sampler);
        return status_error(STATUS_NO_MEMORY, "no memory to sample from %u tokens", vocabulary);
    }
    return STATUS_SUCCESS;
}

void sampler_destroy(struct sampler *sampler) {
    free(sampler->logits);
    free(sampler->candidates);
    *sampler = (struct sampler){0};
}

static bool uses_penalties(const struct sampling *sampling) {
    return sampling->presence_penalty != 0 || sampling->frequency_penalty != 0 || sampling->repetition_penalty != 1;
}

static bool is_greedy(const struct sampling *sampling) {
    return sampling->temperature < 1e-5f;
}

bool sampler_argmax_suffices(const struct sampling *sampling, uint32_t generated) {
    return is_greedy(sampling) && !uses_penalties(sampling) && !sampling->logprobs && sampling->bias_count == 0 &&
           generated >= sampling->min_tokens;
}

static void apply_penalties(float *logits, uint32_t vocabulary, const struct sampling *sampling,
                            const struct token_counts *counts) {
    for (uint32_t i = 0; i < vocabulary; i++) {
        float logit = logits[i];
        if (counts->seen[i]) {
            logit = logit > 0 ? logit / sampling->repetition_penalty : logit * sampling->repetition_penalty;
        }
        uint32_t times = counts->generated[i];
        logit -= sampling->frequency_penalty * (float)times + (times ? sampling->presence_penalty : 0);
        logits[i] = logit;
    }
}

/* Larger value first; equal values by the lower token. */
static bool comes_before(struct candidate a, struct candidate b) {
    return a.value > b.value || (a.value == b.value && a.token < b.token);
}

static void sift_down(struct candidate *heap, uint32_t count, uint32_t at) {
    struct candidate moved = heap[at];
    for (uint32_t child = 2 * at + 1; child < count; child = 2 * at + 1) {
        if (child + 1 < count && comes_before(heap[child + 1], heap[child])) {
            child++;
        }
        if (!comes_before(heap[child], moved)) {
            break;
        }
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = moved;
}

static void make_heap(struct candidate *heap, uint32_t count) {
    for (uint32_t i = count / 2; i > 0; i--) {
        sift_down(heap, count, i - 1);
    }
}

/* Takes the first of the heap and puts it behind the rest, so that what was taken lies at the array's end. */
static struct candidate pop_heap(struct candidate *heap, uint32_t *count) {
    struct candidate first = heap[0];
    heap[0] = heap[--*count];
    heap[*count] = first;
    if (*count > 0) {
        sift_down(heap, *count, 0);
    }
    return first;
}

static uint32_t argmax(const float *logits, uint32_t vocabulary) {
    uint32_t best = 0;
    float value = -INFINITY;
    for (uint32_t i = 0; i < vocabulary; i++) {
        if (logits[i] > value) {
            value = logits[i];
            best = i;
        }
    }
    return best;
}

/* exp(x) for x <= 0 to about 1e-7 relative, in a form that compilers vectorise (Cody-Waite reduction, degree 6). */
static inline float exp_negative(float x) {
    x = x > -87.0f ? x : -87.0f; /* and NaN is nothing */
    float scaled = x * 1.44269504f;
    float whole = (scaled - 0.5f);
    int32_t exponent = (int32_t)whole; /* x <= 0: truncation after -0.5 rounds to nearest */
    float r = x - (float)exponent * 0.693359375f;
    r -= (float)exponent * -2.12194440e-4f;
    float p = 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t bits = (exponent + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

/* Reductions in sixteen lanes, so that compilers may vectorise them and the order stays fixed. */
#define LANES 16

static float row_max(const float *values, uint32_t count) {
    float lane[LANES], largest = -INFINITY;
    for (uint32_t j = 0; j < LANES; j++) {
        lane[j] = -INFINITY;
    }
    uint32_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        for (uint32_t j = 0; j < LANES; j++) {
            lane[j] = values[i + j] > lane[j] ? values[i + j] : lane[j];
        }
    }
    for (; i < count; i++) {
        largest = values[i] > largest ? values[i] : largest;
    }
    for (uint32_t j = 0; j < LANES; j++) {
        largest = lane[j] > largest ? lane[j] : largest;
    }
    return largest;
}

/* weights[i] = exp((values[i] - largest) * scale) where that is at least `least`, and 0 elsewhere; returns the sum.
 * `weights` may be `values`. */
static double row_exp(const float *values, float *weights, uint32_t count, float largest, float scale, float least) {
    float lane[LANES] = {0};
    double total = 0;
    uint32_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        for (uint32_t j = 0; j < LANES; j++) {
            float weight = exp_negative((values[i + j] - largest) * scale);
            weight = weight >= least ? weight : 0;
            weights[i + j] = weight;
            lane[j] += weight;
        }
    }
    for (; i < count; i++) {
        float weight = exp_negative((values[i] - largest) * scale);
        weights[i] = weight >= least ? weight : 0;
        total += weights[i];
    }
    for (uint32_t j = 0; j < LANES; j++) {
        total += lane[j];
    }
    return total;
}

/* Keeps of `candidates` those a draw can reach under min_p, top_k and top_p, and returns how many; they lie at *kept.
 * `value`s are probabilities up to the factor `total`. */
static uint32_t truncate_tail(struct candidate *candidates, uint32_t count, const struct sampling *sampling,
                              float total, struct candidate **kept) {
    *kept = candidates;
    bool by_rank = sampling->top_k > 0 && sampling->top_k < count;
    bool by_mass = sampling->top_p < 1;
    if (!by_rank && !by_mass) {
        return count;
    }
    make_heap(candidates, count);
    uint32_t left = count;
    uint32_t most = by_rank ? sampling->top_k : count;
    if (by_rank && by_mass) { /* top_p is a share of what top_k leaves */
        total = 0;
        while (left > 0 && count - left < most) {
            total += pop_heap(candidates, &left).value;
        }
        struct candidate *ranked = candidates + left; /* falling order, read from the end */
        float mass = 0;
        uint32_t taken = 0;
        while (taken < count - left && (taken == 0 || mass < sampling->top_p * total)) {
            mass += ranked[count - left - 1 - taken].value;
            taken++;
        }
        *kept = candidates + count - taken;
        return taken;
    }
    float mass = 0;
    while (left > 0 && count - left < most && (left == count || !by_mass || mass < sampling->top_p * total)) {
        mass += pop_heap(candidates, &left).value;
    }
    *kept = candidates + left;
    return count - left;
}

static uint32_t draw_from(struct sampler *sampler, const float *logits, const struct sample_context *context) {
    const struct sampling *sampling = context->sampling;
    uint32_t vocabulary = sampler->vocabulary;
    float largest = row_max(logits, vocabulary);
    if (!isfinite(largest)) {
        return argmax(logits, vocabulary);
    }
    float *weights = sampler->logits;
    float total = (float)row_exp(logits, weights, vocabulary, largest, 1 / sampling->temperature, sampling->min_p);
    /* All tokens below (1 - top_p) / vocabulary of the mass are together less than what top_p drops. */
    float least = sampling->top_p < 1 ? 0.5f * (1 - sampling->top_p) / (float)vocabulary * total : 0;
    uint32_t count = 0;
    for (uint32_t i = 0; i < vocabulary; i++) {
        sampler->candidates[count] = (struct candidate){weights[i], i};
        count += weights[i] > 0 && weights[i] >= least;
    }
    struct candidate *kept;
    uint32_t left = truncate_tail(sampler->candidates, count, sampling, total, &kept);
    double mass = 0;
    for (uint32_t i = 0; i < left; i++) {
        mass += kept[i].value;
    }
    double at = (double)(random_hash(context->seed, context->index) >> 11) * 0x1.0p-53 * mass;
    for (uint32_t i = 0; i < left; i++) {
        at -= kept[i].value;
        if (at < 0) {
            return kept[i].token;
        }
    }
    return kept[left - 1].token;
}

uint32_t sampler_draw(struct sampler *sampler, const float *logits, const struct sample_context *context) {
    const struct sampling *sampling = context->sampling;
    bool penalised = uses_penalties(sampling);
    if (penalised || sampling->bias_count > 0 || context->banned_count > 0) {
        memcpy(sampler->logits, logits, sampler->vocabulary * sizeof *logits);
        for (uint32_t i = 0; i < sampling->bias_count; i++) {
            sampler->logits[sampling->bias[i].token] += sampling->bias[i].bias;
        }
        if (penalised) {
            CHECK(context->counts);
            apply_penalties(sampler->logits, sampler->vocabulary, sampling, context->counts);
        }
        for (uint32_t i = 0; i < context->banned_count; i++) {
            sampler->logits[context->banned[i]] = -INFINITY;
        }
        logits = sampler->logits;
    }
    return is_greedy(sampling) ? argmax(logits, sampler->vocabulary) : draw_from(sampler, logits, context);
}

float sampler_logprobs(struct sampler *sampler, const float *logits, uint32_t token, struct token_logprob *top,
                       uint32_t count) {
    uint32_t vocabulary = sampler->vocabulary;
    float largest = row_max(logits, vocabulary);
    float log_total = largest + (float)log(row_exp(logits, sampler->logits, vocabulary, largest, 1, 0));
    uint32_t filled = 0;
    for (uint32_t i = 0; i < vocabulary && count > 0; i++) {
        if (filled == count && logits[i] <= top[filled - 1].logprob) {
            continue;
        }
        uint32_t at = filled < count ? filled++ : count - 1;
        while (at > 0 && top[at - 1].logprob < logits[i]) {
            top[at] = top[at - 1];
            at--;
        }
        top[at] = (struct token_logprob){.token = i, .logprob = logits[i]};
    }
    for (uint32_t i = 0; i < filled; i++) {
        top[i].logprob -= log_total;
    }
    return logits[token] - log_total;
}
