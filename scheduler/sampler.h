/* What a sequence asks of sampling, as op_sample() takes it (kernels/sample.h): its row, and the list of tokens whose
 * logits are changed: by bias, by penalties for what is in the prompt or was generated, and by min_tokens' ban on
 * tokens that end it.
 *
 * Owns: that list, each token once, kept up with every token. The math is the device's. A draw depends only on (seed,
 * index of the token), so that a sequence that is recomputed continues unchanged. Threads: one owner per sampler. */
#ifndef METRONOME_SCHEDULER_SAMPLER_H
#define METRONOME_SCHEDULER_SAMPLER_H

#include "kernels/sample.h"
#include "scheduler/engine.h"

/* The row of a request that asks for `sampling`, but for its changes and what differs from token to token; a pure
 * function. */
struct sample_row sampling_row(const struct sampling *sampling);

struct sampler {
    const struct sampling *sampling; /* the request's */
    struct sample_row row;           /* but for what differs from token to token */
    uint64_t seed;
    uint32_t generated;
    struct sample_change *changes; /* (count) with room for all there can be; NULL if there can be none */
    uint32_t count;
    uint32_t *place; /* (vocabulary) of a token among the changes, plus 1; 0: it has none */
};

/* For a request of `capacity` tokens, its prompt's among them; lent until sampler_destroy(). STATUS_NO_MEMORY. */
struct status sampler_create(const struct request *request, const struct tokenizer *tokenizer, uint32_t vocabulary,
                             uint32_t capacity, uint64_t seed, struct sampler *sampler);
void sampler_destroy(struct sampler *sampler);

/* A token was generated. */
void sampler_note(struct sampler *sampler, uint32_t token);

/* How the next token is drawn; its changes are the sampler's. */
struct sample_row sampler_row(const struct sampler *sampler);

/* How likely `token` was, which is given; nothing changes logits. */
struct sample_row sampler_score_row(const struct sampler *sampler, uint32_t token);

#endif
