/* One request on its way through the engine.
 *
 * Progress is counts, not modes: `count` tokens are known (prompt and generated), the KV of the first `computed` of
 * them is in the cache. A new, a half prefilled, a decoding and a preempted sequence differ in these numbers only.
 * Threads: made on the submitter's thread, then the engine's only. */
#ifndef METRONOME_SCHEDULER_SEQUENCE_H
#define METRONOME_SCHEDULER_SEQUENCE_H

#include "scheduler/engine.h"
#include "scheduler/sampler.h"
#include "scheduler/stop.h"

/* Where a sequence's time went since it came, or since its last token that was in time (account.c). */
struct account {
    struct spent spent; /* until_ns - begin_ns */
    uint64_t begin_ns, until_ns;
    uint64_t run; /* of late tokens, that the last one was put into; 0: it was in time */
};

/* What every iteration looks at comes first: hundreds of sequences are passed by a dozen times in one. */
struct sequence {
    struct request *request;
    struct promise promise; /* the request's */
    uint32_t count;         /* known tokens */
    uint32_t capacity;      /* prompt + max_tokens, within the context */
    uint32_t computed;      /* tokens whose KV is in the cache */
    uint32_t block_count;   /* KV handles in `blocks` */
    uint32_t resident;      /* blocks that are ready: the first ones, on the device or streamed; those after them are
                               parked in host memory, but for some that another brought back */
    uint32_t entered;       /* of its first blocks, that others can find (cache.c) */
    uint32_t reached;       /* the most that `computed` has been */
    bool preempted;         /* waits to go on */
    bool on_sufferance;     /* runs, or ran, until one that can be in time needs its place */
    bool pinned;            /* its blocks are: it runs */
    bool late_first;        /* the first token came late, */

    uint64_t first_token_ns, last_token_ns; /* device_now_ns(); 0 until they happen */
    uint32_t *tokens;                       /* (capacity) prompt, then generated */
    uint32_t *blocks;                       /* (block_count) KV handles; room for `capacity` tokens */
    /* this iteration's */
    uint32_t scheduled;   /* rows */
    uint32_t logit_begin; /* first of its logit rows */
    uint32_t logit_count;
    uint32_t table_row;     /* of the block table: its own, if table_owner says so, */
    uint32_t table_count;   /* with the addresses of so many of its blocks */
    uint64_t table_version; /* as of then */

    struct account account;
    struct sampler sampler;
    struct detokenizer detokenizer;
    struct stop_matcher stop;

    uint64_t seed;
    uint64_t admitted_ns;    /* 0: it never ran */
    uint32_t late_later;     /* tokens but for the first that came late */
    uint32_t scored;         /* prompt tokens already reported, with echo */
    uint32_t prompt_counted; /* prompt tokens that the statistics have */
    uint32_t streamed;     /* where to look for the next block to be streamed (stream.c): none before is on the device,
                              but for some that came back */
    uint32_t preempted_at; /* `computed` when it was */

    /* the prefix cache (cache.c) */
    uint32_t found;         /* blocks that continue its own, behind them in `blocks`, not held yet */
    uint64_t looked;        /* the index' version when they were looked for, plus 1; 0: look again */
    uint32_t fetches;       /* iterations in which what it found came back for it */
    uint32_t cached_tokens; /* of the prompt, that it had not to compute */
    uint64_t *keys;         /* (key_count) prefix_keys() of the prompt, for admission; NULL: it does not ask */
    uint32_t key_count;
    uint32_t expected; /* while it waits: blocks that it will not have to compute, as far as is known */
    uint32_t pending;  /* its place among those whose prompts are to be computed (admission.c), and 1; 0: none. Under
                          the engine's lock */
};

static inline uint32_t sequence_generated(const struct sequence *sequence) {
    return sequence->count - sequence->request->prompt_count;
}

/* Does the prompt's own likelihood have to be reported? Then every prompt row needs logits, once. */
static inline bool sequence_scores_prompt(const struct sequence *sequence) {
    return sequence->request->sampling.echo && sequence->request->sampling.logprobs;
}

/* Everything a request will ever need, in one go: nothing is allocated for it later. `context` is the engine's. */
struct status sequence_create(struct request *request, const struct tokenizer *tokenizer, uint32_t vocabulary,
                              uint32_t context, uint64_t seed, struct sequence **out);
void sequence_destroy(struct sequence *sequence); /* its blocks must be given back */

#endif
