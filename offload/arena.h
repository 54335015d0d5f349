/* The device arena: one run of equal slots, as large as a weight slab each.
 *
 *     [ staging ring | resident slabs ......... | KV blocks ................. ]
 *       few slots      grows and shrinks here ^   counted from the arena's end
 *
 * Slabs that are given up are always those in the highest resident slots (the pipeline sees to it), so that the KV
 * region stays in one piece: blocks may be smaller or larger than a slot and nothing is lost but the last fraction of
 * a block at the boundary.
 *
 * Owns: one device allocation, the boundary, and which KV blocks are taken. Moves no bytes and knows no policy.
 * Threads: the engine's only. */
#ifndef METRONOME_OFFLOAD_ARENA_H
#define METRONOME_OFFLOAD_ARENA_H

#include "base/status.h"
#include "kernels/device.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct arena {
    struct device *device;
    uint8_t *base; /* device address */
    size_t bytes;
    size_t slot_bytes;
    size_t block_bytes;   /* of a KV block */
    uint32_t boundary;    /* slots below it are weights (staging and resident) */
    uint32_t blocks;      /* KV blocks between the boundary and the end */
    uint32_t blocks_most; /* with the boundary at 0: size of the bitmap */
    uint32_t taken;
    uint64_t *taken_bits; /* one bit a block; block 0 lies at the very end of the arena */
    uint64_t *full_bits;  /* one bit a word of those: all of its blocks are taken */
};

/* `bytes` in all, of which `boundary` slots are weights. */
struct status arena_create(struct device *device, size_t bytes, size_t slot_bytes, size_t block_bytes,
                           uint32_t boundary, struct arena *arena);
void arena_destroy(struct arena *arena);

static inline void *arena_slot_address(const struct arena *arena, uint32_t slot) {
    return arena->base + (size_t)slot * arena->slot_bytes;
}

/* KV blocks are named by their index, counted from the arena's end: low ones are the last that the boundary reaches. */
static inline void *arena_block_address(const struct arena *arena, uint32_t block) {
    return arena->base + arena->bytes - ((size_t)block + 1) * arena->block_bytes;
}

/* How many KV blocks there would be with this boundary. */
uint32_t arena_blocks_at(const struct arena *arena, uint32_t boundary);

/* The highest boundary that leaves so many KV blocks; 0 if none does. */
uint32_t arena_slots_beside(const struct arena *arena, uint32_t blocks);

/* Moves the boundary; every block that would not be a block any more must be free. */
void arena_set_boundary(struct arena *arena, uint32_t boundary);

/* Are all blocks from `first` on free? */
bool arena_blocks_free_from(const struct arena *arena, uint32_t first);

/* Blocks that a boundary must leave if at most `moves` of those in use may move to free places below it: never fewer
 * than are in use. */
uint32_t arena_blocks_needed(const struct arena *arena, uint32_t moves);

/* The highest block in use; there must be one. */
uint32_t arena_highest_block(const struct arena *arena);

/* The free block farthest from the boundary; false when all are taken. */
bool arena_take_block(struct arena *arena, uint32_t *block);
void arena_give_block(struct arena *arena, uint32_t block);

/* Bytes between the last slot and the last block: all that is lost. */
size_t arena_lost_bytes(const struct arena *arena);

#endif
