/* Where each decoder layer and each KV block lives, and what moves when.
 *
 * Owns: the device arena (weights below a boundary, KV blocks above it), the host pool, the copy stream, and the
 * placement in force. Nothing is allocated after offload_create(). Knows nothing of requests: the scheduler tells it
 * deadlines and asks it for blocks.
 * Threads: the engine's only, except offload_report(), which any thread may call. */
#ifndef METRONOME_OFFLOAD_OFFLOAD_H
#define METRONOME_OFFLOAD_OFFLOAD_H

#include "base/status.h"
#include "kernels/device.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct offload;

struct offload_config {
    const char *policy; /* "none": every layer resident, or a refusal that says how much is short */
    uint32_t layers;
    uint32_t slabs;            /* pieces that a layer's packed weights are cut into */
    size_t slab_bytes;         /* one of them; a multiple of 64 */
    size_t kv_block_bytes;     /* KV_BLOCK_TOKENS positions of every layer */
    uint64_t device_memory;    /* bytes that arena may take; 0: exactly what layers and kv_blocks_wanted need */
    uint32_t kv_blocks_wanted; /* with device_memory 0: this many; otherwise the least that will do */
};

/* Allocates the arena and prints, at level info, the table of named uses whose sum it is. STATUS_NO_MEMORY says what
 * is short by how much and which option to change. */
struct status offload_create(struct device *device, const struct offload_config *config, struct offload **out);
void offload_destroy(struct offload *offload);

/* ---- loading: once for each layer, before the first iteration ---- */

uint32_t offload_slabs(const struct offload *offload);

/* Puts a packed layer (host memory, slabs * slab_bytes) in its place; returns when it is there. */
struct status offload_store_layer(struct offload *offload, uint32_t layer, const void *packed);

/* ---- an iteration ---- */

/* The device addresses of a layer's slabs, valid for work enqueued on `compute` until offload_release_layer(); the
 * stream waits until they have arrived. Layers are taken in order 0 .. layers-1, once an iteration. */
const void *const *offload_acquire_layer(struct offload *offload, struct stream *compute, uint32_t layer);
void offload_release_layer(struct offload *offload, struct stream *compute, uint32_t layer);

/* ---- KV blocks ---- */

/* A block's device address, or false when none is free. */
bool offload_kv_take(struct offload *offload, uint64_t *address);
void offload_kv_give(struct offload *offload, uint64_t address);

struct offload_report {
    const char *policy;
    uint32_t layers, layers_offloaded;
    size_t arena_bytes, slot_bytes, weight_bytes_device, weight_bytes_host;
    size_t lost_bytes; /* between the last weight slot and the last KV block */
    uint32_t kv_blocks, kv_blocks_free;
};
struct offload_report offload_report(const struct offload *offload);

#endif
