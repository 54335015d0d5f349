/* The device arena: equal slots, each a resident layer, a staging slot, or a run of KV blocks.
 *
 * Owns: one device allocation, what each slot is used for, and which KV blocks are taken. Moves no bytes and knows
 * no policy. Threads: the engine's only. */
#ifndef METRONOME_OFFLOAD_ARENA_H
#define METRONOME_OFFLOAD_ARENA_H

#include "base/status.h"
#include "kernels/device.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARENA_NONE UINT32_MAX

enum slot_use { SLOT_FREE, SLOT_RESIDENT, SLOT_STAGING, SLOT_KV };

struct arena_slot {
    enum slot_use use;
    uint32_t layer;        /* SLOT_RESIDENT */
    uint32_t blocks_taken; /* SLOT_KV */
    uint32_t first_free;   /* SLOT_KV: head of the slot's list of free blocks, ARENA_NONE when all are taken */
};

struct arena {
    struct device *device;
    uint8_t *base;      /* device address, 64-byte aligned */
    size_t slot_bytes;  /* max(layer, KV block), a multiple of 64 */
    size_t block_bytes; /* of a KV block */
    uint32_t slots;
    uint32_t blocks_per_slot;
    struct arena_slot *slot;     /* (slots) */
    uint32_t *next_free;         /* (slots * blocks_per_slot): list links inside each slot, UINT32_MAX - 1 when taken */
    uint32_t kv_slots, kv_taken; /* slots used for KV; blocks taken in all of them */
};

struct status arena_create(struct device *device, uint32_t slots, size_t slot_bytes, size_t block_bytes,
                           struct arena *arena);
void arena_destroy(struct arena *arena);

static inline void *arena_slot_address(const struct arena *arena, uint32_t slot) {
    return arena->base + (size_t)slot * arena->slot_bytes;
}

/* A free slot for a layer or for staging; ARENA_NONE if there is none. */
uint32_t arena_find_free(const struct arena *arena);
void arena_use_resident(struct arena *arena, uint32_t slot, uint32_t layer);
void arena_use_staging(struct arena *arena, uint32_t slot);
void arena_use_kv(struct arena *arena, uint32_t slot);
void arena_release(struct arena *arena, uint32_t slot); /* a KV slot must have no block taken */

/* A KV block from the lowest KV slot that has one, so that the highest empty out first; false when all are taken. */
bool arena_take_block(struct arena *arena, uint64_t *address);
void arena_give_block(struct arena *arena, uint64_t address);

static inline uint32_t arena_blocks(const struct arena *arena) {
    return arena->kv_slots * arena->blocks_per_slot;
}

#endif
