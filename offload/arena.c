#include "offload/arena.h"

#include "base/bytes.h"
#include "base/check.h"

#include <stdlib.h>

uint32_t arena_blocks_at(const struct arena *arena, uint32_t boundary) {
    size_t weights = (size_t)boundary * arena->slot_bytes;
    size_t blocks = weights < arena->bytes ? (arena->bytes - weights) / arena->block_bytes : 0;
    return blocks < UINT32_MAX / 2 ? (uint32_t)blocks : UINT32_MAX / 2;
}

uint32_t arena_slots_beside(const struct arena *arena, uint32_t blocks) {
    size_t kv = (size_t)blocks * arena->block_bytes;
    return kv < arena->bytes ? (uint32_t)((arena->bytes - kv) / arena->slot_bytes) : 0;
}

struct status arena_create(struct device *device, size_t bytes, size_t slot_bytes, size_t block_bytes,
                           uint32_t boundary, struct arena *arena) {
    CHECK(slot_bytes > 0 && slot_bytes % 64 == 0 && block_bytes > 0 && (size_t)boundary * slot_bytes <= bytes);
    *arena = (struct arena){
        .device = device, .bytes = bytes, .slot_bytes = slot_bytes, .block_bytes = block_bytes, .boundary = boundary};
    arena->blocks = arena_blocks_at(arena, boundary);
    arena->blocks_most = arena_blocks_at(arena, 0);
    arena->taken_bits = calloc(arena->blocks_most / 64 + 1, sizeof *arena->taken_bits);
    arena->full_bits = calloc(arena->blocks_most / 4096 + 1, sizeof *arena->full_bits);
    if (!arena->taken_bits || !arena->full_bits) {
        return status_error(STATUS_NO_MEMORY, "no memory for the directory of %u KV blocks", arena->blocks_most);
    }
    void *base;
    struct status status = device_alloc(device, bytes, "the arena of weights and KV cache", &base);
    if (status_failed(&status)) {
        arena_destroy(arena);
        return status;
    }
    arena->base = base;
    return STATUS_SUCCESS;
}

void arena_destroy(struct arena *arena) {
    if (arena->base) {
        device_free(arena->device, arena->base);
    }
    free(arena->taken_bits);
    free(arena->full_bits);
    *arena = (struct arena){0};
}

void arena_set_boundary(struct arena *arena, uint32_t boundary) {
    uint32_t blocks = arena_blocks_at(arena, boundary);
    CHECK(arena_blocks_free_from(arena, blocks));
    arena->boundary = boundary;
    arena->blocks = blocks;
}

bool arena_blocks_free_from(const struct arena *arena, uint32_t first) {
    for (uint32_t word = first / 64; word * 64 < arena->blocks; word++) {
        uint64_t mask = word == first / 64 ? UINT64_MAX << (first % 64) : UINT64_MAX;
        if (arena->taken_bits[word] & mask) {
            return false;
        }
    }
    return true;
}

/* The highest block in use below `end`; `end` if there is none. */
static uint32_t highest_below(const struct arena *arena, uint32_t end) {
    for (uint32_t block = end; block > 0;) {
        uint32_t word = (block - 1) / 64, bits = block - word * 64; /* of the word, so many are below */
        uint64_t taken = arena->taken_bits[word] & (bits == 64 ? UINT64_MAX : (UINT64_C(1) << bits) - 1);
        if (taken != 0) {
            return word * 64 + 63 - (uint32_t)__builtin_clzll(taken);
        }
        block = word * 64;
    }
    return end;
}

uint32_t arena_highest_block(const struct arena *arena) {
    CHECK(arena->taken > 0);
    return highest_below(arena, arena->blocks);
}

uint32_t arena_blocks_needed(const struct arena *arena, uint32_t moves) {
    if (moves >= arena->taken) {
        return arena->taken;
    }
    uint32_t block = highest_below(arena, arena->blocks);
    while (moves > 0 && block >= arena->taken) { /* below arena->taken moving wins nothing */
        block = highest_below(arena, block);
        moves--;
    }
    return block < arena->taken ? arena->taken : block + 1;
}

bool arena_take_block(struct arena *arena, uint32_t *out) {
    for (uint32_t at = 0; at * 4096 < arena->blocks; at++) {
        uint64_t open_words = ~arena->full_bits[at];
        if (open_words == 0) {
            continue;
        }
        uint32_t word = at * 64 + (uint32_t)__builtin_ctzll(open_words);
        if (word * 64 >= arena->blocks) {
            break;
        }
        uint64_t open = ~arena->taken_bits[word];
        uint32_t block = word * 64 + (uint32_t)__builtin_ctzll(open);
        if (block >= arena->blocks) {
            break;
        }
        arena->taken_bits[word] |= open & -open;
        arena->full_bits[at] |= arena->taken_bits[word] == UINT64_MAX ? UINT64_C(1) << (word % 64) : 0;
        arena->taken++;
        *out = block;
        return true;
    }
    return false;
}

void arena_give_block(struct arena *arena, uint32_t block) {
    uint64_t bit = UINT64_C(1) << (block % 64);
    CHECK(block < arena->blocks && (arena->taken_bits[block / 64] & bit)); /* given back twice otherwise */
    arena->taken_bits[block / 64] &= ~bit;
    arena->full_bits[block / 4096] &= ~(UINT64_C(1) << (block / 64 % 64));
    arena->taken--;
}

size_t arena_lost_bytes(const struct arena *arena) {
    return arena->bytes - (size_t)arena->boundary * arena->slot_bytes - (size_t)arena->blocks * arena->block_bytes;
}
