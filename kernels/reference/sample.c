/* The reference of op_sample: everything is a sort and a walk. */
#include "kernels/reference/reference.h"
#include "kernels/sample_math.h"

#include <stdlib.h>
#include <string.h>

struct ranked {
    float value; /* a logit or a weight */
    uint32_t token;
};

/* Larger first, equals by the lower token. */
static int compare(const void *a, const void *b) {
    const struct ranked *x = a, *y = b;
    if (x->value != y->value) {
        return x->value > y->value ? -1 : 1;
    }
    return x->token < y->token ? -1 : 1;
}

static float largest_of(const float *logits, uint32_t vocabulary) {
    uint32_t token;
    ref_argmax(&token, logits, 1, vocabulary);
    return isnan(logits[token]) ? -INFINITY : logits[token];
}

static void write_score(struct sample_score *score, const float *logits, const struct sample_row *row,
                        struct ranked *ranked, uint32_t vocabulary) {
    const float largest = largest_of(logits, vocabulary);
    uint32_t count = 0;
    *score = (struct sample_score){.largest = largest};
    for (uint32_t i = 0; i < vocabulary; i++) {
        if (isfinite(largest)) {
            score->total += (uint64_t)sample_weight(logits[i], largest, 1, 1);
        }
        if (!isnan(logits[i])) {
            ranked[count++] = (struct ranked){logits[i], i};
        }
    }
    qsort(ranked, count, sizeof *ranked, compare);
    score->top_count = row->top < count ? row->top : count;
    for (uint32_t i = 0; i < score->top_count; i++) {
        score->top[i] = (struct sample_top){ranked[i].token, ranked[i].value};
    }
}

/* What is left of `ranked`, in order of weight, under top_k and top_p. */
static uint32_t truncate_tail(const struct ranked *ranked, uint32_t count, const struct sample_row *row) {
    uint64_t total = 0, mass = 0;
    count = row->top_k > 0 && row->top_k < count ? row->top_k : count;
    for (uint32_t i = 0; i < count; i++) {
        total += (uint64_t)ranked[i].value;
    }
    uint32_t kept = 0;
    while (row->top_p != SAMPLE_ALL_MASS && kept < count && mass < sample_goal(row->top_p, total)) {
        mass += (uint64_t)ranked[kept++].value;
    }
    return row->top_p != SAMPLE_ALL_MASS ? kept : count;
}

/* `weights` are those of the logits, `ranked` is room for as many. */
static uint32_t draw(float *weights, struct ranked *ranked, const struct sample_row *row, uint32_t vocabulary) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < vocabulary; i++) {
        if (weights[i] > 0) {
            ranked[count++] = (struct ranked){weights[i], i};
        }
        weights[i] = 0;
    }
    qsort(ranked, count, sizeof *ranked, compare);
    const uint32_t kept = truncate_tail(ranked, count, row);
    uint64_t total = 0;
    for (uint32_t i = 0; i < kept; i++) {
        weights[ranked[i].token] = ranked[i].value;
        total += (uint64_t)ranked[i].value;
    }
    uint64_t before = sample_share(row->random, total);
    uint32_t token = 0;
    while (before >= (uint64_t)weights[token]) {
        before -= (uint64_t)weights[token++];
    }
    return token;
}

bool ref_sample(uint32_t *out, const float *logits, const struct sample_row *row, const struct sample_change *changes,
                struct sample_score *score, uint32_t vocabulary) {
    float *changed = malloc(vocabulary * sizeof *changed);
    struct ranked *ranked = malloc(vocabulary * sizeof *ranked);
    const bool whole = changed && ranked;
    if (whole) {
        if (row->score != SAMPLE_NO_SCORE) {
            write_score(score, logits, row, ranked, vocabulary);
        }
        memcpy(changed, logits, vocabulary * sizeof *changed);
        for (uint32_t i = 0; i < row->change_count; i++) {
            const struct sample_change *change = &changes[row->change_first + i];
            changed[change->token] = sample_change(changed[change->token], change, row);
        }
        *out = row->target;
        const float largest = largest_of(changed, vocabulary);
        if (row->target == SAMPLE_DRAW && (row->inverse_temperature == 0 || !isfinite(largest))) {
            ref_argmax(out, changed, 1, vocabulary);
        } else if (row->target == SAMPLE_DRAW) {
            for (uint32_t i = 0; i < vocabulary; i++) {
                changed[i] = sample_weight(changed[i], largest, row->inverse_temperature, row->least_weight);
            }
            *out = draw(changed, ranked, row, vocabulary);
        }
        if (row->score != SAMPLE_NO_SCORE) {
            score->logit = logits[*out];
        }
    }
    free(changed);
    free(ranked);
    return whole;
}
