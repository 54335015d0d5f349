/* From one row of logits to one token.
 *
 * Owns: nothing but scratch for one row. The order is vLLM's: logit bias, the penalties, min_tokens' ban on end
 * tokens, temperature, min_p, top_k, top_p, and one draw; log-probabilities are those of the raw logits.
 * A draw depends only on (seed, index of the token), so that a sequence that is recomputed continues unchanged.
 * Threads: one owner per sampler. */
#ifndef METRONOME_SCHEDULER_SAMPLER_H
#define METRONOME_SCHEDULER_SAMPLER_H

#include "scheduler/engine.h"

struct candidate {
    float value; /* logit, then probability */
    uint32_t token;
};

struct sampler {
    uint32_t vocabulary;
    float *logits;                /* (vocabulary) the row being worked on */
    struct candidate *candidates; /* (vocabulary) */
};

struct status sampler_create(uint32_t vocabulary, struct sampler *sampler);
void sampler_destroy(struct sampler *sampler);

/* What the penalties need of a sequence's past; made only for sequences that use them. */
struct token_counts {
    uint32_t *generated; /* (vocabulary) times generated */
    uint8_t *seen;       /* (vocabulary) in prompt or generated */
};

/* True if the device's argmax is the answer: greedy, and nothing that changes or reports logits. */
bool sampler_argmax_suffices(const struct sampling *sampling, uint32_t generated);

struct sample_context {
    const struct sampling *sampling;
    const struct token_counts *counts; /* NULL without penalties */
    const uint32_t *banned;            /* (banned_count) end tokens, while fewer than min_tokens are generated */
    uint32_t banned_count;
    uint64_t seed;
    uint32_t index; /* of the token to draw: how many were generated before it */
};

/* Draws from `logits` (vocabulary), which are left as they are. */
uint32_t sampler_draw(struct sampler *sampler, const float *logits, const struct sample_context *context);

/* The natural log of the softmax of `logits` at `token`, and the `count` most probable in falling order (ties: the
 * lower id first). */
float sampler_logprobs(struct sampler *sampler, const float *logits, uint32_t token, struct token_logprob *top,
                       uint32_t count);

#endif
