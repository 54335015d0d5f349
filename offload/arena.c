#include "offload/arena.h"

#include "base/bytes.h"
#include "base/check.h"

#include <stdlib.h>

#define BLOCK_TAKEN (UINT32_MAX - 1)

struct status arena_create(struct device *device, uint32_t slots, size_t slot_bytes, size_t block_bytes,
                           struct arena *arena) {
    CHECK(slots > 0 && block_bytes > 0 && slot_bytes >= block_bytes && slot_bytes % 64 == 0);
    *arena = (struct arena){.device = device,
                            .slot_bytes = slot_bytes,
                            .block_bytes = block_bytes,
                            .slots = slots,
                            .blocks_per_slot = (uint32_t)(slot_bytes / block_bytes)};
    size_t bytes;
    if (!bytes_multiply(slots, slot_bytes, &bytes)) {
        return status_error(STATUS_NO_MEMORY, "an arena of %u slots of %zu bytes does not fit an address space", slots,
                            slot_bytes);
    }
    arena->slot = calloc(slots, sizeof *arena->slot);
    arena->next_free = calloc((size_t)slots * arena->blocks_per_slot, sizeof *arena->next_free);
    if (!arena->slot || !arena->next_free) {
        arena_destroy(arena);
        return status_error(STATUS_NO_MEMORY, "no memory for the directory of %u slots", slots);
    }
    void *base;
    struct status status = device_alloc(device, bytes, "the slot arena (weights and KV cache)", &base);
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
    free(arena->slot);
    free(arena->next_free);
    *arena = (struct arena){0};
}

uint32_t arena_find_free(const struct arena *arena) {
    for (uint32_t i = 0; i < arena->slots; i++) {
        if (arena->slot[i].use == SLOT_FREE) {
            return i;
        }
    }
    return ARENA_NONE;
}

void arena_use_resident(struct arena *arena, uint32_t slot, uint32_t layer) {
    CHECK(slot < arena->slots && arena->slot[slot].use == SLOT_FREE);
    arena->slot[slot] = (struct arena_slot){.use = SLOT_RESIDENT, .layer = layer};
}

void arena_use_staging(struct arena *arena, uint32_t slot) {
    CHECK(slot < arena->slots && arena->slot[slot].use == SLOT_FREE);
    arena->slot[slot] = (struct arena_slot){.use = SLOT_STAGING};
}

void arena_use_kv(struct arena *arena, uint32_t slot) {
    CHECK(slot < arena->slots && arena->slot[slot].use == SLOT_FREE);
    uint32_t *links = arena->next_free + (size_t)slot * arena->blocks_per_slot;
    for (uint32_t i = 0; i < arena->blocks_per_slot; i++) {
        links[i] = i + 1 < arena->blocks_per_slot ? i + 1 : ARENA_NONE;
    }
    arena->slot[slot] = (struct arena_slot){.use = SLOT_KV, .first_free = 0};
    arena->kv_slots++;
}

void arena_release(struct arena *arena, uint32_t slot) {
    CHECK(slot < arena->slots && arena->slot[slot].use != SLOT_FREE);
    if (arena->slot[slot].use == SLOT_KV) {
        CHECK(arena->slot[slot].blocks_taken == 0);
        arena->kv_slots--;
    }
    arena->slot[slot] = (struct arena_slot){.use = SLOT_FREE};
}

bool arena_take_block(struct arena *arena, uint64_t *address) {
    if (arena->kv_taken == arena_blocks(arena)) {
        return false;
    }
    for (uint32_t i = 0; i < arena->slots; i++) {
        struct arena_slot *slot = &arena->slot[i];
        if (slot->use == SLOT_KV && slot->first_free != ARENA_NONE) {
            uint32_t block = slot->first_free;
            uint32_t *link = &arena->next_free[(size_t)i * arena->blocks_per_slot + block];
            slot->first_free = *link;
            *link = BLOCK_TAKEN;
            slot->blocks_taken++;
            arena->kv_taken++;
            *address = (uint64_t)(uintptr_t)arena_slot_address(arena, i) + (uint64_t)block * arena->block_bytes;
            return true;
        }
    }
    return false;
}

void arena_give_block(struct arena *arena, uint64_t address) {
    uint64_t offset = address - (uint64_t)(uintptr_t)arena->base;
    uint64_t index = offset / arena->slot_bytes;
    CHECK(index < arena->slots);
    struct arena_slot *slot = &arena->slot[index];
    uint64_t within = offset % arena->slot_bytes, block = within / arena->block_bytes;
    CHECK(slot->use == SLOT_KV && within % arena->block_bytes == 0 && block < arena->blocks_per_slot);
    uint32_t *link = &arena->next_free[index * arena->blocks_per_slot + block];
    CHECK(*link == BLOCK_TAKEN); /* given back twice otherwise */
    *link = slot->first_free;
    slot->first_free = (uint32_t)block;
    slot->blocks_taken--;
    arena->kv_taken--;
}
