#include "scheduler/sequence.h"

#include "base/bytes.h"
#include "base/check.h"

#include <stdlib.h>
#include <string.h>

struct status sequence_create(struct request *request, const struct tokenizer *tokenizer, uint32_t vocabulary,
                              uint32_t context, uint64_t seed, struct sequence **out) {
    uint32_t prompt = request->prompt_count;
    CHECK(prompt >= 1 && prompt <= context);
    uint32_t room = context - prompt;
    uint32_t most = request->sampling.max_tokens < room ? request->sampling.max_tokens : room;
    uint32_t capacity = prompt + most;
    uint32_t blocks = (capacity + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
    size_t held = SAMPLING_MAX_STOP_BYTES + (tokenizer ? detokenizer_bound(tokenizer) : 0);

    struct sequence *sequence = calloc(1, sizeof *sequence);
    if (!sequence) {
        return status_error(STATUS_NO_MEMORY, "no memory for a request");
    }
    sequence->request = request;
    sequence->promise = request->promise;
    sequence->seed = seed;
    sequence->capacity = capacity;
    sequence->count = prompt;
    sequence->account.begin_ns = sequence->account.until_ns = request->arrival_ns;
    request->outcome = (struct request_outcome){0};
    sequence->tokens = malloc(capacity * sizeof *sequence->tokens);
    sequence->blocks = malloc(blocks * sizeof *sequence->blocks);
    char *text = malloc(held);
    bool whole = sequence->tokens && sequence->blocks && text;
    stop_matcher_init(&sequence->stop, request->sampling.stops, request->sampling.stop_count, text, held);
    if (!whole) {
        sequence_destroy(sequence);
        return status_error(STATUS_NO_MEMORY, "no memory for a request of %u tokens", capacity);
    }
    struct status status = sampler_create(request, tokenizer, vocabulary, capacity, seed, &sequence->sampler);
    if (status_failed(&status)) {
        sequence_destroy(sequence);
        return status;
    }
    memcpy(sequence->tokens, request->prompt, prompt * sizeof *sequence->tokens);
    if (tokenizer) {
        detokenizer_init(&sequence->detokenizer, tokenizer, false);
    }
    *out = sequence;
    return STATUS_SUCCESS;
}

void sequence_destroy(struct sequence *sequence) {
    if (!sequence) {
        return;
    }
    CHECK(sequence->block_count == 0);
    free(sequence->tokens);
    free(sequence->blocks);
    free(sequence->keys);
    free(sequence->stop.held);
    sampler_destroy(&sequence->sampler);
    free(sequence);
}
