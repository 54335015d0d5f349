/* Why tokens come late: where the time went since the last token of the same request that was in time.
 *
 * Owns: the causes, how one iteration's time is shared out among them, which of them is blamed, and a bounded list of
 * what came late. Pure: reads no clock, knows no engine (scheduler/account.c feeds it). Allocates nothing.
 * Threads: values only. */
#ifndef METRONOME_SCHEDULER_CAUSES_H
#define METRONOME_SCHEDULER_CAUSES_H

#include <stdbool.h>
#include <stdint.h>

enum cause {
    CAUSE_COMPUTE,           /* its own prompt, and generating with those beside it, as predicted: nobody's fault */
    CAUSE_QUEUE,             /* it waited to be admitted, or for a place in an iteration */
    CAUSE_PREFILL_OF_OTHERS, /* prompt tokens of other requests were in its iterations */
    CAUSE_COPY_STALL,        /* compute waited for weights past the deadline, on a link as fast as recorded */
    CAUSE_LINK_CONTENTION,   /* it waited because the link was slower than recorded */
    CAUSE_KV_PREEMPTION,     /* it was preempted: until its turn came again, its KV was back or computed again */
    CAUSE_HOST_TIME,         /* between iterations, on the host: composing, sampling, detokenizing */
    CAUSE_CLIENT_SLOW,       /* the engine waited for its events to be taken by those who send them to clients */
    CAUSE_DEVICE,            /* the device took longer than predicted: something else ran on it */
    CAUSES
};
const char *cause_name(enum cause cause); /* "queue", "link_contention"... */

/* The cause of that name, CAUSES if there is none. */
enum cause cause_named(const char *name);

/* A stretch of time, by where it went. */
struct spent {
    uint64_t ns[CAUSES];
    uint64_t
        planned_ns; /* compute waited for weights within the deadline of its iteration: what was promised allows it */
};
uint64_t spent_total(const struct spent *spent);
void spent_add(struct spent *to, const struct spent *more);

/* One iteration on the device, as measured. */
struct iteration_cost {
    uint64_t device_ns;             /* from its first op to its end */
    uint64_t stall_ns, kv_stall_ns; /* of it, compute waited for weights; for KV blocks */
    uint64_t deadline_ns;           /* that it was planned for; UINT64_MAX: none */
    uint64_t link_bytes, link_ns;   /* copies of weights whose times were taken; 0: none were */
    uint64_t copied_bytes;          /* weights put on the link */
    uint64_t link_bytes_per_s;      /* that the link is known to give when nobody else uses it; 0: unknown */
    uint32_t decode_rows;           /* tokens of sequences that generate */
    uint32_t prompt_rows;           /* of prompts, recomputed ones included */
    uint64_t decode_ns;             /* predicted, without any prompt's rows; 0: unknown */
    uint64_t whole_ns;              /* predicted, of all of them, nothing waited for; 0: unknown */
};

/* Adds to `spent` where the iteration's device time went for a sequence with `own_rows` prompt rows in it; the sum is
 * device_ns. `scheduled`: it had rows at all; `again`: what it computed it had computed before. */
void causes_of_iteration(const struct iteration_cost *cost, uint32_t own_rows, bool scheduled, bool again,
                         struct spent *spent);

/* What is blamed for a token that is `late_ns` late after `spent`: the largest part, what was planned left aside. Where
 * the token would be late without all of that, too, it is waiting for weights as planned, if that is enough, else
 * compute. */
enum cause causes_blame(const struct spent *spent, uint64_t late_ns);

/* ---- what came late ---- */

#define LATE_RUNS 256 /* remembered */

/* Tokens of one request that came late one after the other, for one reason. */
struct late_run {
    uint64_t request; /* its id */
    enum cause cause;
    uint32_t first_token;      /* index of the first of them: 0 is the request's first */
    uint32_t tokens;           /* how many */
    uint32_t latest_token;     /* index of the latest of them, to which the rest belongs */
    uint64_t begin_ns, at_ns;  /* device_now_ns(): when the time began that `spent` tells of, and its end */
    uint64_t late_ns;          /* how late that one is */
    uint64_t ttft_ns, tpot_ns; /* promised */
    struct spent spent;        /* at_ns - begin_ns */
    uint32_t running, waiting; /* sequences, then */
    uint32_t kv_blocks_free;
};

/* A ring of the last LATE_RUNS. */
struct late_ring {
    struct late_run runs[LATE_RUNS];
    uint64_t count; /* so far; run i is at i % LATE_RUNS */
};

/* Puts a late token into the ring: into the run `*number` of its request if that has the same cause and is still there,
 * else into a new one, whose number it writes there. Numbers count from 1; 0: none. */
void late_ring_note(struct late_ring *ring, const struct late_run *token, uint64_t *number);

/* Copies up to `capacity` runs, the latest first; returns how many. */
uint32_t late_ring_read(const struct late_ring *ring, struct late_run *out, uint32_t capacity);

#endif
