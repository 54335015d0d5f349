/* The offload engine's own parts, shared by its files: offload.c (life, sizes, reports), iteration.c (the plan of each
 * iteration and what came of it), ring.c (how long the staging ring is), kv_share.c (KV blocks, and what they cost the
 * link). Nobody else includes this.
 * Threads: as offload/offload.h says. */
#ifndef METRONOME_OFFLOAD_OFFLOAD_INTERNAL_H
#define METRONOME_OFFLOAD_OFFLOAD_INTERNAL_H

#include "offload/arena.h"
#include "offload/bus.h"
#include "offload/kv.h"
#include "offload/offload.h"
#include "offload/pipeline.h"
#include "offload/tuner.h"

/* How many slots the ring has. */
struct ring {
    uint32_t usual;                           /* as a rule, */
    uint16_t crowded[PIPELINE_MAX_SLABS + 1]; /* and where room is short, by the slabs copied while a layer computes */
    uint32_t uncrowded;                       /* iterations since it was */
    uint64_t layer_ns, layer_before_ns; /* the longest that layers computed in this window, and in the one before */
    uint32_t watched;                   /* iterations of this one */
};

struct offload {
    struct device *device;
    struct offload_config config;
    const struct policy *policy;
    struct arena arena;
    struct kv *kv;
    struct pipeline *pipeline;
    uint8_t *host;        /* (layers, slabs) slabs; NULL when none ever leaves the device */
    struct plan plan;     /* in force */
    uint32_t kv_least;    /* KV blocks that the device always has */
    uint32_t kv_stream;   /* slots for streamed ones, */
    uint32_t kv_group;    /* and so many of them in a group */
    uint32_t stream_room; /* blocks that could be streamed beside those that are */
    bool stream_late;     /* what is streamed of KV makes iterations late */
    bool tuned;           /* the policy is decided anew in every iteration */
    struct ring ring;
    bool promised; /* some iteration had a deadline */
    struct tuner tuner;
    struct record record;
    bool recorded;
    struct offload_report report; /* the parts of it that are not derived when asked */
    uint32_t bucket;
    bool measured; /* the next three are of the iteration in hand */
    bool link_shared;
    struct pipeline_times times;
    uint64_t kv_waited_ns;
    uint64_t kv_bytes;       /* over the link when the last iteration ended */
    double kv_share;         /* bytes an iteration, a running average */
    uint32_t kv_excess;      /* blocks in the way of weights that ought to come back, */
    uint32_t kv_idle_excess; /* and of those that had better, if nobody holds the blocks */
    uint32_t rows;           /* of the iteration in hand */
    uint32_t chunk_rows;     /* of the fullest iteration so far, ... */
    uint64_t chunk_ns;       /* ... and what it took */
    struct bus *bus;         /* the seat at a shared link; NULL: the link is ours alone */
    uint64_t bus_stated_ns;  /* when its candidates were stated last */
};

/* offload.c */

static inline uint32_t offload_total_slabs(const struct offload_config *config) {
    return config->layers * config->slabs;
}

/* The load as far as it is known for `rows` tokens that attend to `context` positions each. */
struct plan_load offload_load_of(const struct offload *offload, double rows, double context);

/* Slabs that must live in host memory if weights and a ring of `staging` have so many slots. */
uint32_t offload_slabs_that_leave(const struct offload_config *config, uint32_t slots, uint32_t staging);

static inline size_t offload_kv_layer_bytes(const struct offload_config *config) {
    return config->kv_block_bytes / config->layers;
}

/* Would all weights fit the device besides some KV cache? */
static inline bool offload_weights_fit(const struct offload *offload) {
    return (size_t)offload_total_slabs(&offload->config) * offload->arena.slot_bytes < offload->arena.bytes;
}

/* iteration.c */

/* Slots that weights and ring may take without a KV block in use having to go: as many blocks as are in use must be
 * left, wherever they lie, as far as those in the way can be moved in this iteration. */
uint32_t offload_slots_left(const struct offload *offload);

/* ring.c */

/* The ring for a plan that moves in every iteration, if the budget forces so many slabs out. */
uint32_t offload_ring_of_any_plan(const struct offload *offload, uint32_t forced);

/* Chooses the rings for when room is short, by the record, as soon as there is one. */
void offload_choose_rings(struct offload *offload, uint64_t deadline_ns);

/* The ring for this iteration, and what the last one's layers took to compute. */
uint32_t offload_ring(struct offload *offload, const struct plan_load *load, const struct offload_demand *demand);
void offload_watch_layers(struct offload *offload, uint64_t layer_ns);

/* kv_share.c */

/* Bytes a second that copies may count on: as measured last, at the start, or as configured, within the bus grant; 0:
 * unknown. */
uint64_t offload_link_rate(const struct offload *offload);

/* What is left of a deadline for the weights, by what KV has lately taken of the link. */
uint64_t offload_without_kv(const struct offload *offload, uint64_t deadline_ns);

/* Counts the KV that has crossed the link since the last iteration's end. */
void offload_count_kv(struct offload *offload);

#endif
