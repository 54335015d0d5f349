/* The pipeline: which slab of which layer is on the device, and the copies that bring the others in time.
 *
 * A decoder layer's packed weights are `slabs` equal pieces. A placement says how many of each layer's slabs, counted
 * from the last, live in host memory only; those pass through a ring of staging slots on the copy stream, which runs
 * ahead of the compute stream and across the end of an iteration into the next. The ring-slot rule: the copy into a
 * slot waits until the layer that used the slot before has ended. Behind its slabs, every layer may stream its part of
 * KV blocks that live in host memory, group by group (offload/kv.h), through the same ring.
 *
 * Owns: the placement in force, the ring, its events, the copy stream. Chooses nothing.
 * Threads: the engine's only. */
#ifndef METRONOME_OFFLOAD_PIPELINE_H
#define METRONOME_OFFLOAD_PIPELINE_H

#include "base/status.h"
#include "kernels/device.h"
#include "offload/arena.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PIPELINE_MAX_SLABS 64

struct pipeline_shape {
    uint32_t layers, slabs; /* slabs of each layer, <= PIPELINE_MAX_SLABS */
    uint32_t staging;       /* slots of the ring, at most: arena slots from 0; 0 if nothing ever streams */
    size_t kv_layer_bytes;  /* a layer's part of a KV block; of streamed groups only, as are the next two: */
    size_t kv_block_bytes;  /* from one block of a group to the next in host memory */
};

struct pipeline;

/* `host` (layers * slabs * slot_bytes) holds every slab in order, or is NULL if none ever leaves the device.
 * `streamed` (layers) is the first placement. Slabs on the device are given arena slots from `staging` up. */
struct status pipeline_create(struct device *device, const struct pipeline_shape *shape, struct arena *arena,
                              const uint8_t *host, const uint8_t *streamed, struct pipeline **out);
void pipeline_destroy(struct pipeline *pipeline);

/* The arena slot of a slab, or UINT32_MAX if it lives in host memory only. */
uint32_t pipeline_home(const struct pipeline *pipeline, uint32_t layer, uint32_t slab);
struct stream *pipeline_copy_stream(const struct pipeline *pipeline);

/* Copies of a layer's slabs may not start before layer - prefetch has; 0: as early as a slot is free. */
void pipeline_set_prefetch(struct pipeline *pipeline, uint32_t prefetch);

/* Slots that a placement's resident slabs take, the ring included: where the arena's boundary goes. */
uint32_t pipeline_slots(const struct pipeline *pipeline, const uint8_t *streamed);

/* From the next pipeline_place() on, which must follow, the ring has so many of its slots: 1 to shape.staging. Other
 * slots are as good as any for slabs that stay. What a ring of another length holds is lost, and comes again. The
 * compute stream must have ended. */
void pipeline_set_ring(struct pipeline *pipeline, uint32_t staging);

/* Changes the placement between iterations. Slabs that leave give their slots up at once; those that come get one and
 * are copied to it where their turn is in the next iteration. Resident slabs that lie above the new last slot move
 * down (device to device). What the ring holds already is kept as far as it is still the right order. The arena's
 * boundary must allow for the larger of the two placements now and may be lowered afterwards. */
void pipeline_place(struct pipeline *pipeline, const uint8_t *streamed);

/* KV that every layer streams from now on, in this order; at most KV_MAX_GROUPS, each no larger than a slot. What the
 * ring holds already of groups that are still as they were, version included, is kept. The host memory must be as it
 * is to be read by the copies that are enqueued from now on. Between iterations. */
struct pipeline_group {
    const uint8_t *blocks; /* (count) whole blocks in host memory, one after another */
    uint32_t count;
    uint64_t version; /* another when any of the blocks is */
};
void pipeline_set_groups(struct pipeline *pipeline, const struct pipeline_group *groups, uint32_t count);

/* Where the groups are for the layer that is held, as kv_batch.groups wants it. */
const uint64_t *pipeline_groups(const struct pipeline *pipeline);

/* Between pipeline_place() and the first layer: starts the copies that may run ahead. */
void pipeline_begin(struct pipeline *pipeline, struct stream *compute);

/* The device addresses of a layer's slabs, valid until it is released and for work enqueued on `compute` before
 * that; the stream waits for those that are on their way. Layers in order, once an iteration. */
const void *const *pipeline_acquire(struct pipeline *pipeline, struct stream *compute, uint32_t layer);
void pipeline_release(struct pipeline *pipeline, struct stream *compute, uint32_t layer);

/* Measurements of the last iteration; its compute stream must be done. */
struct pipeline_times {
    uint64_t stall_ns;     /* compute waited for slabs */
    uint64_t layers_ns;    /* sum of layers' own time */
    uint64_t copied_bytes; /* put on the link since the last call */
    uint32_t copies;
    uint64_t sample_bytes, sample_ns; /* of one copy a streamed layer: what the link gave while it copied */
    uint64_t late_bytes, late_ns;     /* of the last of them */
};

/* A time in which other copies of ours were on the link: what weights got of it meanwhile is no sample. */
struct pipeline_busy {
    uint64_t begin_ns, end_ns;
};
void pipeline_times(struct pipeline *pipeline, const struct pipeline_busy *busy, struct pipeline_times *out);

/* Between iterations: the rate of the link for whole slabs, and the fixed cost of a copy. What the ring holds is lost
 * and comes again. */
struct status pipeline_measure_link(struct pipeline *pipeline, uint64_t *bytes_per_s, uint64_t *copy_ns);

#endif
