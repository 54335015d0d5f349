/* Which slabs of which decoder layers live in host memory, and how long an iteration of such a placement takes.
 *
 * Owns: the placement (struct plan), the families of placements, and the ONE model of time, plan_predict(): whoever
 * needs a time - the offline range, the tuner, admission, `metronome plan`, a simulator's check - asks here. Not which
 * placement is right for a promise: that is choose.h. Pure: no device, no clock, no allocation, no state.
 * Threads: any.
 *
 * A layer's packed weights are cut into `slabs` equal slabs, each the same share of the output rows of every matrix,
 * so that slabs may be computed with from wherever they lie. The last streamed[l] slabs of layer l live in host
 * memory and pass, in order of layers, through a ring of `staging` slots, each one slab large. */
#ifndef METRONOME_OFFLOAD_PLAN_H
#define METRONOME_OFFLOAD_PLAN_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PLAN_MAX_LAYERS 256
#define PLAN_MAX_SLABS 64    /* in a layer */
#define PLAN_MAX_STAGING 512 /* slots in the ring */
#define PLAN_MAX_KV 32       /* copies of KV for a layer */

/* What an iteration costs on the device at hand: from the performance record, corrected by measurement. */
struct plan_load {
    uint32_t layers;           /* 1 .. PLAN_MAX_LAYERS */
    uint32_t slabs;            /* in a layer, 1 .. PLAN_MAX_SLABS; 1: whole layers move */
    uint64_t slab_bytes;       /* 1 .. 2^40 */
    uint64_t layer_ns;         /* compute time of one layer for this phase, batch and context; <= 2^40 */
    uint64_t before_ns;        /* on the compute stream before the first layer: embedding; <= 2^40 */
    uint64_t after_ns;         /* and after the last one: head, sampling, whatever passes until the next; <= 2^40 */
    uint64_t link_bytes_per_s; /* > 0 */
    uint64_t copy_ns;          /* fixed cost of one copy; <= 2^40 */
    uint32_t kv_copies;        /* KV of running sequences that every layer streams behind its slabs: so many copies, */
    uint64_t kv_bytes[PLAN_MAX_KV]; /* (kv_copies) each through a slot of the ring; <= 2^40 */
};

/* Bytes of KV that a layer streams. */
static inline uint64_t plan_kv_bytes(const struct plan_load *load) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < load->kv_copies; i++) {
        bytes += load->kv_bytes[i];
    }
    return bytes;
}

/* Refuses, by name, a number outside the bounds above: for loads that come from a user or a file. */
struct status plan_load_check(const struct plan_load *load);

struct plan {
    uint32_t layers;
    uint32_t streamed_slabs;           /* the sum of streamed[] */
    uint32_t staging;                  /* slots in the ring, >= the largest streamed[l] + load.kv_copies */
    uint32_t prefetch_layers;          /* copies for layer l start no earlier than layer l - prefetch_layers does;
                                          0: as early as a slot is free */
    uint8_t streamed[PLAN_MAX_LAYERS]; /* (layers) slabs of each layer that live in host memory, its last ones */
};

/* Device memory that a plan frees: what lives in host memory, less the ring. Negative when the ring is larger. */
static inline int64_t plan_freed_slabs(const struct plan *plan) {
    return (int64_t)plan->streamed_slabs - (int64_t)plan->staging;
}

/* The offloading interval, fractional: one layer in so many lives in host memory; 0 when none does. */
double plan_interval(const struct plan_load *load, const struct plan *plan);

/* ---- placements; each fills *plan whole, without a bound on prefetching ---- */

/* Nothing is streamed. */
void plan_none(const struct plan_load *load, struct plan *plan);

/* The last `slabs` slabs of the last `streamed` layers of every `group` layers; a group that the model's end cuts short
 * counts as far as it goes. All slabs of one layer: the whole-layer interval. */
void plan_groups(const struct plan_load *load, uint32_t group, uint32_t streamed, uint32_t slabs, uint32_t staging,
                 struct plan *plan);

/* `streamed_slabs` in all, spread as evenly as Bresenham spreads a line. */
void plan_even(const struct plan_load *load, uint32_t streamed_slabs, uint32_t staging, struct plan *plan);

/* `streamed_slabs` in all, nearly as evenly, and nested: the plan for one more differs by one slab, so that going
 * from one plan to another moves as few slabs as can be. Every layer has a slab before any has two, and so on; within
 * a round the layers come in van der Corput's order (0, 1/2, 1/4, 3/4, 1/8 ... of the way through the model). */
void plan_nested(const struct plan_load *load, uint32_t streamed_slabs, uint32_t staging, struct plan *plan);

/* ---- the model of time ---- */

/* Nanoseconds that a copy holds the link: copy_ns + bytes / link_bytes_per_s, the quotient rounded up to whole
 * nanoseconds. It is the only place where a time is rounded. */
uint64_t plan_copy_ns(const struct plan_load *load, uint64_t bytes);
static inline uint64_t plan_slab_ns(const struct plan_load *load) {
    return plan_copy_ns(load, load->slab_bytes);
}

/* Before + layers + after: what an iteration takes with every slab resident. */
static inline uint64_t plan_compute_ns(const struct plan_load *load) {
    return load->before_ns + load->layers * load->layer_ns + load->after_ns;
}

struct plan_prediction {
    uint64_t iteration_ns;   /* of an iteration in steady state, from its begin to the next one's */
    uint64_t compute_ns;     /* plan_compute_ns() */
    uint64_t stall_ns;       /* iteration - compute: the compute stream waiting for copies */
    uint64_t link_busy_ns;   /* the sum of the copies' plan_copy_ns() */
    uint64_t bytes_streamed; /* per iteration, KV included */
    uint32_t copies;         /* per iteration */
    uint32_t iterations;     /* from an empty ring until the answer was certain: what the prediction cost */
};

/* The steady state of
 *     in(k)    = max(out(k-1), end(layer of copy k - staging), start(l - prefetch_layers))    copy k is for layer l
 *     out(k)   = in(k) + plan_copy_ns()
 *     start(l) = max(end(l-1), out(last copy for l))
 *     end(l)   = start(l) + layer_ns
 * over endless iterations, with before_ns and after_ns on the compute stream between end(last layer) and the next
 * start(0). Copies run on across the end of an iteration. O(layers + slots) for each iteration looked at, two to four
 * of them as a rule. */
struct plan_prediction plan_predict(const struct plan_load *load, const struct plan *plan);

/* One steady iteration as a picture: times in ns from its begin. Copies that ran ahead in the iteration before have
 * negative times. Each array is the caller's, or NULL. A lead of the link over the compute stream that grows by a
 * hair in each iteration is followed for PLAN_TIMELINE_ITERATIONS of them and then drawn as it is. */
#define PLAN_TIMELINE_ITERATIONS 4096
struct plan_timeline {
    int64_t *layer_start, *layer_end; /* (layers) */
    int64_t *copy_in, *copy_out;      /* (streamed_slabs), in the order of the copies; those of KV are left out */
};
struct plan_prediction plan_predict_timeline(const struct plan_load *load, const struct plan *plan,
                                             const struct plan_timeline *timeline);

/* Bytes streamed / (link bandwidth * deadline): how much of what the link could carry by the deadline is used. */
double plan_link_use(const struct plan_load *load, uint64_t bytes_streamed, uint64_t deadline_ns);

#endif
