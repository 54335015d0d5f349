/* What the scheduler will do next, played ahead: when a request's first token would come, and at whose cost.
 *
 * Iterations are composed as compose.c does it, from counts alone, and take what the one model of time says; nothing is
 * assumed to arrive meanwhile. Owns: nothing, the arrays are the caller's and are used up. Pure. Threads: any. */
#ifndef METRONOME_SCHEDULER_FORESEE_H
#define METRONOME_SCHEDULER_FORESEE_H

#include <stdbool.h>
#include <stdint.h>

/* A sequence, as far as time is concerned. */
struct foreseen {
    uint64_t due_ns;  /* its first token; UINT64_MAX: not promised */
    uint64_t tpot_ns; /* promised; 0: not */
    uint64_t from_ns; /* it is there from then on */
    uint32_t left;    /* tokens to compute before it generates; 0: it generates */
    uint32_t context; /* tokens in the cache */
    uint32_t to_come; /* tokens that it will still generate, > 0 */
    uint32_t blocks;  /* held */
    uint32_t rows;    /* of this iteration: foresee()'s own */
    bool stays;       /* at the front of the line, whoever comes: it was preempted */
    bool gives_way;   /* runs until one that can be in time needs its place; those are last among the running */
    bool watched;     /* foresee()'s own, too */
};

/* What an iteration takes. */
struct foreseen_time {
    uint64_t iteration_ns; /* with the placement of weights that is in force; */
    uint64_t least_ns;     /* with as many of them on the device as there is room for, if that can change; */
    uint64_t compute_ns;   /* with nothing to wait for */
};

struct foresight {
    uint64_t now_ns;
    /* Of an iteration of `rows` tokens that attend to `context` positions in the mean; `times` is handed to it. */
    struct foreseen_time (*time_of)(void *times, uint32_t rows, double context);
    void *times;
    double mixed; /* what those of tokens and prompts compute for longer than others, by the record's measure */
    uint32_t most_rows, chunk, most_running;
    uint32_t blocks_free, blocks_lent; /* lent: of the free ones, what weights need back */
    struct foreseen *running;          /* (running_count), room for most_running */
    uint32_t running_count;
    const struct foreseen *waiting; /* (waiting_count) in the order in which they are admitted */
    uint32_t waiting_count;
    uint32_t behind_count; /* best effort, of behind_left tokens each: one admission in `behind_share` is theirs */
    uint32_t behind_left, behind_share, admissions;
};

struct foresaw {
    uint64_t first_ns;      /* when the watched one's first token comes; UINT64_MAX: not within the bound */
    uint32_t late;          /* of the others, first tokens that come late */
    uint64_t token_ns;      /* what an iteration takes at the least with the watched one and all beside it generating */
    uint64_t least_tpot_ns; /* the tightest promise among them; UINT64_MAX: none */
    bool for_blocks;        /* it waited for KV blocks */
    bool for_places;        /* for others to be served, or for places among the running */
    bool overfull;          /* the KV cache does not hold all beside it to their ends */
};

/* Plays until waiting[watched] and all with promises that wait have their first tokens, or `until_ns`. */
struct foresaw foresee(struct foresight *foresight, uint32_t watched, uint64_t until_ns);

#endif
