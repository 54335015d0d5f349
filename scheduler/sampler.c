#include "scheduler/sampler.h"

#include "base/random.h"

#include <math.h>
#include <stdlib.h>

static bool uses_penalties(const struct sampling *sampling) {
    return sampling->presence_penalty != 0 || sampling->frequency_penalty != 0 || sampling->repetition_penalty != 1;
}

struct sample_row sampling_row(const struct sampling *sampling) {
    struct sample_row row = sample_plain_row();
    if (sampling->temperature >= 1e-5f) {
        row.inverse_temperature = 1 / sampling->temperature;
        row.top_k = sampling->top_k;
        row.least_weight = sampling->min_p > 0 ? fmaxf(1, fminf(sampling->min_p, 1) * 0x1.0p34f) : 1;
        row.top_p = sampling->top_p < 1 ? (uint64_t)(fmax(sampling->top_p, 0) * 0x1.0p64) : SAMPLE_ALL_MASS;
    }
    row.repetition = sampling->repetition_penalty;
    row.frequency = sampling->frequency_penalty;
    row.presence = sampling->presence_penalty;
    if (sampling->logprobs) {
        row.score = 0;
        row.top = sampling->top_logprobs;
    }
    return row;
}

/* The change of a token, made if there is none. */
static struct sample_change *change_of(struct sampler *sampler, uint32_t token) {
    if (sampler->place[token] == 0) {
        sampler->changes[sampler->count++] = (struct sample_change){.token = token};
        sampler->place[token] = sampler->count;
    }
    return &sampler->changes[sampler->place[token] - 1];
}

static void add_bias(struct sampler *sampler) {
    const struct sampling *sampling = sampler->sampling;
    for (uint32_t i = 0; i < sampling->bias_count; i++) {
        change_of(sampler, sampling->bias[i].token)->bias += sampling->bias[i].bias;
    }
}

static void ban_ends(struct sampler *sampler, const struct tokenizer *tokenizer, uint32_t vocabulary) {
    const struct sampling *sampling = sampler->sampling;
    for (uint32_t i = 0; tokenizer && i < vocabulary; i++) {
        if (tokenizer_is_end(tokenizer, i)) {
            change_of(sampler, i)->bias = -INFINITY;
        }
    }
    for (uint32_t i = 0; i < sampling->stop_token_count; i++) {
        change_of(sampler, sampling->stop_tokens[i])->bias = -INFINITY;
    }
}

/* Bans end; bias stays. */
static void lift_bans(struct sampler *sampler) {
    for (uint32_t i = 0; i < sampler->count; i++) {
        sampler->changes[i].bias = 0;
    }
    add_bias(sampler);
}

static uint32_t count_ends(const struct tokenizer *tokenizer, uint32_t vocabulary) {
    uint32_t count = 0;
    for (uint32_t i = 0; tokenizer && i < vocabulary; i++) {
        count += tokenizer_is_end(tokenizer, i);
    }
    return count;
}

struct status sampler_create(const struct request *request, const struct tokenizer *tokenizer, uint32_t vocabulary,
                             uint32_t capacity, uint64_t seed, struct sampler *sampler) {
    const struct sampling *sampling = &request->sampling;
    *sampler = (struct sampler){.sampling = sampling, .row = sampling_row(sampling), .seed = seed};
    const bool penalised = uses_penalties(sampling), banned = sampling->min_tokens > 0;
    uint64_t most = sampling->bias_count + (penalised ? (uint64_t)capacity : 0);
    most += banned ? (uint64_t)count_ends(tokenizer, vocabulary) + sampling->stop_token_count : 0;
    if (most == 0) {
        return STATUS_SUCCESS;
    }
    most = most < vocabulary ? most : vocabulary;
    sampler->changes = malloc(most * sizeof *sampler->changes);
    sampler->place = calloc(vocabulary, sizeof *sampler->place);
    if (!sampler->changes || !sampler->place) {
        sampler_destroy(sampler);
        return status_error(STATUS_NO_MEMORY, "no memory for a request's penalties and bias");
    }
    add_bias(sampler);
    if (banned) {
        ban_ends(sampler, tokenizer, vocabulary);
    }
    for (uint32_t i = 0; sampling->repetition_penalty != 1 && i < request->prompt_count; i++) {
        change_of(sampler, request->prompt[i])->count = SAMPLE_SEEN;
    }
    return STATUS_SUCCESS;
}

void sampler_destroy(struct sampler *sampler) {
    free(sampler->changes);
    free(sampler->place);
    *sampler = (struct sampler){0};
}

void sampler_note(struct sampler *sampler, uint32_t token) {
    sampler->generated++;
    if (uses_penalties(sampler->sampling)) {
        struct sample_change *change = change_of(sampler, token);
        change->count = (change->count | SAMPLE_SEEN) + 1;
    }
    if (sampler->generated == sampler->sampling->min_tokens && sampler->changes) {
        lift_bans(sampler);
    }
}

struct sample_row sampler_row(const struct sampler *sampler) {
    struct sample_row row = sampler->row;
    row.random = random_hash(sampler->seed, sampler->generated);
    row.change_count = sampler->count;
    return row;
}

struct sample_row sampler_score_row(const struct sampler *sampler, uint32_t token) {
    struct sample_row row = sampler->row;
    row.target = token;
    return row;
}
