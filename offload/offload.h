/* Where each decoder layer and each KV block lives, and what moves when.
 *
 * Owns: the device arena (weights below a boundary, KV blocks above it), the host pools, the copy streams, and the
 * placement in force, which a policy chooses (offload/policy.h) and the pipeline carries out (offload/pipeline.h).
 * Nothing is allocated after offload_create(). Knows nothing of requests: the scheduler tells it deadlines and asks
 * it for blocks.
 * Threads: the engine's only, except offload_report(), which takes a snapshot for whoever calls on that thread. */
#ifndef METRONOME_OFFLOAD_OFFLOAD_H
#define METRONOME_OFFLOAD_OFFLOAD_H

#include "base/status.h"
#include "kernels/device.h"
#include "offload/policy.h"
#include "offload/record.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct offload;

struct offload_config {
    const char *policy; /* a name of offload/policy.h; "none": every layer resident */
    struct policy_options options;
    uint32_t layers;
    uint32_t slabs;            /* pieces that a layer's packed weights are cut into */
    size_t slab_bytes;         /* one of them; a multiple of 64 */
    size_t kv_block_bytes;     /* KV_BLOCK_TOKENS positions of every layer */
    uint32_t kv_blocks_wanted; /* at least this many, always; some of them streamed if the device cannot hold them */
    uint32_t kv_blocks_hot;    /* of them, at most, that must be on the device: an iteration writes them */
    uint64_t device_memory;    /* bytes that the arena may take; 0: what layers, ring and kv_blocks_wanted need */
    uint64_t host_memory;      /* bytes that the host pools may take together; 0: no bound */
    uint64_t kv_host_memory;   /* bytes of them for KV blocks; 0: all KV is on the device, always */
    uint64_t kv_stream_memory; /* bytes of those for KV blocks in use that every layer streams, policy metronome only;
                                  0: no more than kv_blocks_wanted ask for */
    uint32_t kv_blocks_most;   /* that sequences can hold at once: no more are made room for */
    uint64_t link_bytes_per_s; /* nominal, to begin with; 0: unknown */
    uint64_t tpot_ns;          /* promised between tokens, as a rule: the ring is as long as that can use; 0: any */
    const char *bus;           /* name of a link that other engines use too (offload/bus.h); NULL or "": none */
};

/* Allocates the arena and the host pools and prints, at level info, the table of named uses whose sum they are.
 * STATUS_NO_MEMORY says what is short by how much and which option to change. */
struct status offload_create(struct device *device, const struct offload_config *config, struct offload **out);
void offload_destroy(struct offload *offload);

/* ---- loading: once for each layer, before the first iteration ---- */

uint32_t offload_slabs(const struct offload *offload);

/* Puts a rank's share of a packed layer (host memory, slabs * slab_bytes) in its place; returns when it is there. */
struct status offload_store_layer(struct offload *offload, uint32_t layer, uint32_t rank, const void *packed);

/* What the link gives alone: copies of a slab, and of little, into the ring; the nominal rate where nothing is ever
 * offloaded. Between iterations. */
struct status offload_measure_link(struct offload *offload, uint64_t *bytes_per_s, uint64_t *copy_ns);

/* Is anything offloaded, or may it be: does it take a record to choose well? */
bool offload_wants_record(const struct offload *offload);

/* The placement in force, for `rows` tokens that attend to `context` positions each. */
struct plan_prediction offload_predict(const struct offload *offload, double rows, double context);

/* The placement in force and the KV that passes beside it, as a copy, and the one that streams the least that the
 * blocks in use, less `idle` of them that nobody would miss, leave it to stream: the same where it does not change. */
struct offload_placement {
    struct plan plan, least;
    uint32_t kv_copies;
    uint64_t kv_bytes[PLAN_MAX_KV]; /* (kv_copies) */
};
void offload_copy_placement(const struct offload *offload, uint32_t idle, struct offload_placement *out);

/* The load of plan_predict() with such a copy, where all that is no copy takes `pace` times what the record says. From
 * any thread once the record is set: beside the copy it reads nothing that changes. */
struct plan_load offload_placement_load(const struct offload *offload, const struct offload_placement *placement,
                                        double rows, double context, double pace);

/* What an iteration takes with nothing to wait for: no deadline before it can be kept. 0 without a record. */
uint64_t offload_least_ns(const struct offload *offload, double rows, double context);

/* What iterations cost here, measured before the first request, and the promised time per output token (UINT64_MAX:
 * none). A policy that chooses once by the deadline chooses now; one that chooses in every iteration has its first
 * load. Without a record the first iterations are guesses that measurements correct. */
struct status offload_set_record(struct offload *offload, const struct record *record, uint64_t deadline_ns);

/* ---- an iteration ---- */

struct offload_demand {
    uint64_t deadline_ns;    /* for the iteration, from now; UINT64_MAX: nobody waits */
    uint64_t slack_ns;       /* by which one iteration may be later than that without a token being late */
    bool steady;             /* nothing but tokens for a while, and nothing else expected */
    uint32_t rows;           /* tokens */
    uint32_t decode_rows;    /* of them, rows of sequences that generate */
    uint64_t context_tokens; /* KV positions that the rows attend to, together */
    bool crowded;            /* room for sequences is short: the sooner they end the better */
    uint32_t next_blocks; /* KV blocks that sequences hold, with those that running ones take in the next iteration, */
    uint32_t soon_blocks; /* those that they hold or may take within a few iterations, */
    uint32_t room_blocks; /* and those that they could come to take */
};

/* Before the first layer: chooses the placement for this demand, changes to it, and starts the copies that may run
 * ahead. The iteration before has ended on the device. */
void offload_begin(struct offload *offload, struct stream *compute, const struct offload_demand *demand);

/* The device addresses of a layer's slabs, valid for work enqueued on `compute` until offload_release_layer(); the
 * stream waits until they have arrived. Layers are taken in order 0 .. layers-1, once an iteration. */
const void *const *offload_acquire_layer(struct offload *offload, struct stream *compute, uint32_t layer);
void offload_release_layer(struct offload *offload, struct stream *compute, uint32_t layer);

/* What compute waited for in the iteration that has just ended on the device, before offload_end(). */
struct offload_waits {
    uint64_t stall_ns, kv_stall_ns; /* for weights; for KV blocks on their way */
    uint64_t copied_bytes;          /* weights put on the link */
    uint64_t link_bytes, link_ns;   /* of them, copies whose times were taken */
};
struct offload_waits offload_waits(struct offload *offload);

/* After the iteration's end on the device, which took `iteration_ns`: what was measured goes to the next choice. */
void offload_end(struct offload *offload, uint64_t iteration_ns);

/* ---- KV blocks: between iterations, all but offload_kv_addresses() ---- */

/* ---- KV that is streamed: blocks in use, of which every layer's part crosses the link in every iteration ---- */

/* Blocks that could be streamed beside those that are, paused ones or others, and keep the deadline as far as the last
 * choice could tell. Not before every slab has left that may, for a byte of KV costs what a byte of a slab costs; nor
 * more than is worth it where room is short (offload/iteration.c). */
uint32_t offload_kv_stream_room(const struct offload *offload);

/* The last iteration was expected to be late, and would have been less so with less KV streamed. */
bool offload_kv_stream_late(const struct offload *offload);

/* Sends a block that is on the device and not written any more to host memory, to be streamed; false if there is no
 * slot. Back again: false if no block of the device is free. */
bool offload_kv_stream(struct offload *offload, uint32_t handle);
bool offload_kv_unstream(struct offload *offload, uint32_t handle);
uint32_t offload_kv_streamed(const struct offload *offload); /* active ones */

/* Is a streamed block used by the iterations to come? One that waits is not copied. */
void offload_kv_set_active(struct offload *offload, uint32_t handle, bool active);

/* Where the layer that is held finds streamed blocks: kv_batch.groups. */
const uint64_t *offload_kv_groups(const struct offload *offload);

/* ---- KV blocks on the device and parked ---- */

/* A handle to a block on the device, or false when none is free. */
bool offload_kv_take(struct offload *offload, uint32_t *handle);
void offload_kv_give(struct offload *offload, uint32_t handle);
uint32_t offload_kv_free(const struct offload *offload);
uint32_t offload_kv_blocks(const struct offload *offload);  /* free or taken, on the device: as many as there now are */
uint32_t offload_kv_handles(const struct offload *offload); /* each is below, always */

/* The device addresses of blocks that are on the device, or on their way. offload_begin() may move blocks: ask after
 * it, and for every block that the iteration reads or writes, for its layers then wait for those on their way. */
void offload_kv_addresses(struct offload *offload, const uint32_t *handles, uint32_t count, uint64_t *out);

/* Another when any address given out before may be another now, or may have something new to wait for: as long as it is
 * the same they need not be asked for again. */
uint64_t offload_kv_version(const struct offload *offload);

/* Is the block of `position` worth its way to host memory and back? Not if computing it again is predicted to take
 * less time. */
bool offload_kv_pays(const struct offload *offload, uint32_t position);

/* Copies a block out to host memory, in which offload_kv_host_free() blocks have room: false if none. Its place on the
 * device is free at once. And back again: false if no block of the device is free. */
uint32_t offload_kv_host_free(const struct offload *offload);
bool offload_kv_park(struct offload *offload, uint32_t handle);
bool offload_kv_fetch(struct offload *offload, uint32_t handle);

/* Two handles change places, the one of the device and the one in host memory: where both hold the same. */
void offload_kv_exchange(struct offload *offload, uint32_t one, uint32_t other);

/* Blocks that had better leave the device, those of sequences that wait: the last iteration was expected to be late,
 * and weights that could mend it have no place to come back to. */
uint32_t offload_kv_excess(const struct offload *offload);

/* Blocks whose place weights could come back to, so that less is streamed while room is short: of those that nobody
 * holds, as many had better be given up. */
uint32_t offload_kv_idle_excess(const struct offload *offload);

/* Blocks that the link can bring back during the next iteration without making it late, as far as that is known; one
 * at least. */
uint32_t offload_kv_spare(const struct offload *offload);

/* Blocks that it can take away on the chance that they are asked for again: none where weights keep it busy. */
uint32_t offload_kv_spare_idle(const struct offload *offload);

/* Everything that is true of the offloading now: for the start-up table, /metrics and every benchmark row. */
struct offload_report {
    const char *policy, *why; /* why: "slo", "memory", "bus" or "pinned" */
    uint32_t layers, slabs, staging;
    uint32_t streamed_slabs; /* that live in host memory only */
    double interval;         /* layers for each layer's worth in host memory; 0: none is */
    size_t arena_bytes, slot_bytes, host_bytes;
    size_t weight_bytes_device; /* resident slabs */
    size_t staging_bytes;
    size_t weight_bytes_host; /* of streamed slabs */
    size_t lost_bytes;        /* between the last weight slot and the last KV block */
    uint32_t kv_blocks, kv_blocks_free;
    uint32_t kv_stream_blocks, kv_streamed; /* slots for streamed KV blocks, and those of them in use by iterations */
    uint64_t kv_streamed_bytes;             /* of them, in an iteration: part of bytes_streamed */
    uint64_t kv_blocks_streamed;            /* that went out for that, so far */
    size_t kv_host_bytes;                   /* the pool of KV blocks */
    uint32_t kv_host_blocks, kv_parked;     /* its slots, and those in use */
    uint64_t kv_bytes_out, kv_bytes_in;     /* parked and brought back so far, counted at the copy calls */
    uint64_t kv_blocks_out, kv_blocks_in;
    uint64_t total_kv_stall_ns; /* compute waited for blocks on their way, or for places that others had to leave */
    uint64_t kv_blocks_moved;   /* on the device, out of the way of weights that came back */
    uint64_t iterations, placements; /* so far: changes of placement */
    /* of the last iteration */
    uint64_t bytes_streamed; /* counted at the copy calls */
    uint64_t predicted_ns, measured_ns, stall_ns, layers_ns, deadline_ns;
    /* sums since the start */
    uint64_t total_bytes_streamed, total_stall_ns, total_late; /* iterations that took longer than their deadline */
    uint64_t link_bytes_per_s;                                 /* the running estimate; 0: not yet measured */
    uint32_t bus_members;                                      /* engines on the bus, this one included; 0: no bus */
    uint64_t bus_bytes_per_s;                                  /* what this one may use of the link */
};
struct offload_report offload_report(const struct offload *offload);

#endif
