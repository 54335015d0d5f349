/* What happened when, for a picture: spans of the engine's and of each request's time, in a bounded ring.
 *
 * Owns: its ring. Who draws it is server/trace_file.h. Nothing is allocated after timeline_create(). Threads: locked by
 * its owner (the engine's stats_lock). */
#ifndef METRONOME_SCHEDULER_TIMELINE_H
#define METRONOME_SCHEDULER_TIMELINE_H

#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>

enum span_kind {
    /* of the engine: */
    SPAN_ITERATION, /* count: rows; detail: of them, of prompts; more: sequences that run */
    SPAN_COMPOSE,   /* in it: choosing what runs */
    SPAN_DEVICE,    /* in it: from its first op to its end; count: bytes of weights put on the link */
    SPAN_COMMIT,    /* in it: drawing tokens, detokenizing, sending events */
    SPAN_STALL,     /* in SPAN_DEVICE, waits of all layers for weights, drawn as one at its begin */
    SPAN_KV_STALL,  /* the same for KV blocks, behind that */
    /* of a request: */
    SPAN_REQUEST,   /* from its arrival to its end; count: tokens; detail: late ones */
    SPAN_WAIT,      /* in it: until its turn came */
    SPAN_PREEMPTED, /* in it: until its turn came again */
    SPAN_PREFILL,   /* in it: an iteration with so many (count) of its prompt's tokens, from (detail) on */
    SPAN_DECODE,    /* in it: an iteration with token number (count); detail: it was late */
    SPAN_HELD,      /* in it: an iteration that had no place for it */
    SPAN_KINDS
};
const char *span_name(enum span_kind kind);

struct span {
    uint64_t begin_ns, end_ns; /* device_now_ns() */
    uint64_t request;          /* its id; 0: the engine's own */
    enum span_kind kind;
    uint64_t count;
    uint32_t detail, more;
};

struct timeline {
    struct span *spans; /* (capacity) a ring; NULL: nothing is kept */
    uint32_t capacity, head, count;
    uint64_t dropped; /* for want of room */
};

struct status timeline_create(uint32_t capacity, struct timeline *out); /* 0: keeps nothing */
void timeline_destroy(struct timeline *timeline);
void timeline_add(struct timeline *timeline, const struct span *span);

/* Takes up to `capacity` of the oldest spans; returns how many. */
uint32_t timeline_take(struct timeline *timeline, struct span *out, uint32_t capacity);

#endif
