/* What became of a request at the door: admitted with its promise, with a lesser one, as best effort, or refused.
 * Threads: values only. */
#ifndef METRONOME_SCHEDULER_ADMISSION_H
#define METRONOME_SCHEDULER_ADMISSION_H

#include "scheduler/classes.h"

enum admission_outcome {
    ADMITTED_WITHOUT,     /* nothing is promised */
    ADMITTED,             /* the promise is predicted to be kept, or nothing can be predicted */
    ADMITTED_LESSER,      /* another class's is */
    ADMITTED_BEST_EFFORT, /* it is predicted to be broken; once it cannot be kept the request waits behind the others */
    ADMISSION_REFUSED,
};

/* What there is too little of. */
enum shortage {
    SHORT_OF_NOTHING,
    SHORT_OF_TTFT,   /* the prompt alone takes longer */
    SHORT_OF_TPOT,   /* an iteration with it takes longer than somebody's time per token */
    SHORT_OF_MEMORY, /* KV blocks */
    SHORT_OF_PLACES, /* others are before it, or it would make others late */
    SHORTAGES,
};
const char *shortage_name(enum shortage shortage); /* "none", "ttft", "tpot", "memory", "queue" */

struct admission {
    enum admission_outcome outcome;
    enum shortage shortage;
    uint32_t asked_class;       /* request->class_index is the one whose promise it has */
    struct promise promised;    /* what was looked at last, ... */
    uint64_t predicted_ttft_ns; /* ... and what was predicted for it; 0: nothing */
    uint64_t predicted_tpot_ns;
    uint64_t retry_after_ns; /* with ADMISSION_REFUSED */
    uint32_t shared_tokens;  /* of the prompt, that others before it in line are to compute, or the cache has, ... */
    uint32_t cached_tokens;  /* ... and of these, what the cache has */
};

#endif
