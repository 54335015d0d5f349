#include "offload/offload.h"

#include "base/bytes.h"
#include "base/check.h"
#include "base/log.h"
#include "offload/arena.h"

#include <stdlib.h>
#include <string.h>

struct offload {
    struct device *device;
    struct offload_config config;
    struct arena arena;
    struct stream *copy;
    uint32_t *layer_slot;    /* (layers) slot of a resident layer, ARENA_NONE otherwise */
    uint32_t acquired, next; /* the layer in use, and the one that must be taken next */
    uint32_t blocks_free;    /* mirror of the arena's count, readable from any thread */
};

#define NOTHING_ACQUIRED UINT32_MAX

/* How many slots the budget gives, or what is short. */
static struct status count_slots(const struct offload_config *config, size_t slot_bytes, uint32_t *slots) {
    size_t blocks_per_slot = slot_bytes / config->kv_block_bytes;
    size_t kv_slots = (config->kv_blocks_wanted + blocks_per_slot - 1) / blocks_per_slot;
    size_t needed = config->layers + kv_slots, needed_bytes;
    if (!bytes_multiply(needed, slot_bytes, &needed_bytes) || needed > UINT32_MAX / 2) {
        return status_error(STATUS_NO_MEMORY, "%zu slots of %zu bytes do not fit an address space", needed, slot_bytes);
    }
    if (config->device_memory == 0) {
        *slots = (uint32_t)needed;
        return STATUS_SUCCESS;
    }
    size_t given = config->device_memory / slot_bytes;
    if (given < needed) {
        char has[16], needs[16], lacks[16], weights[16], kv[16];
        return status_error(
            STATUS_NO_MEMORY,
            "device_memory leaves %s for weights and KV cache; all %u layers resident need %s and the KV cache %s, "
            "together %s: %s short. Raise device_memory, or lower context or kv_tokens",
            bytes_format(config->device_memory, has, sizeof has), config->layers,
            bytes_format((uint64_t)config->layers * slot_bytes, weights, sizeof weights),
            bytes_format(kv_slots * slot_bytes, kv, sizeof kv), bytes_format(needed_bytes, needs, sizeof needs),
            bytes_format(needed_bytes - config->device_memory, lacks, sizeof lacks));
    }
    *slots = (uint32_t)(given < UINT32_MAX / 2 ? given : UINT32_MAX / 2);
    return STATUS_SUCCESS;
}

/* The table of named uses: their sum is the arena. */
static void print_arena(const struct offload *offload) {
    struct offload_report report = offload_report(offload);
    char a[16], b[16], c[16], d[16];
    log_info("device arena %s in %u slots of %s: %u resident layers, %u staging, %u KV (%u blocks of %u tokens)",
             bytes_format(report.arena_bytes, a, sizeof a), report.slots, bytes_format(report.slot_bytes, b, sizeof b),
             report.slots_resident, report.slots_staging, report.slots_kv, report.kv_blocks, 16u);
    log_info("  of it weights %s, KV blocks %s, lost to slot ends %s; %u layers in host memory",
             bytes_format(report.weight_bytes_device, a, sizeof a),
             bytes_format((uint64_t)report.kv_blocks * offload->arena.block_bytes, c, sizeof c),
             bytes_format(report.lost_bytes, d, sizeof d), report.layers_offloaded);
}

struct status offload_create(struct device *device, const struct offload_config *config, struct offload **out) {
    CHECK(config->layers > 0 && config->layer_bytes > 0 && config->layer_bytes % 64 == 0 && config->kv_block_bytes > 0);
    if (strcmp(config->policy, "none") != 0) {
        return status_error(STATUS_UNSUPPORTED, "offload.policy \"%s\" is not built; built are: none", config->policy);
    }
    size_t larger = config->layer_bytes > config->kv_block_bytes ? config->layer_bytes : config->kv_block_bytes;
    size_t slot_bytes = bytes_align(larger, 64);
    uint32_t slots = 0;
    TRY(count_slots(config, slot_bytes, &slots));

    struct offload *offload = calloc(1, sizeof *offload);
    uint32_t *layer_slot = calloc(config->layers, sizeof *layer_slot);
    if (!offload || !layer_slot) {
        free(offload);
        free(layer_slot);
        return status_error(STATUS_NO_MEMORY, "no memory for the placement of %u layers", config->layers);
    }
    *offload =
        (struct offload){.device = device, .config = *config, .layer_slot = layer_slot, .acquired = NOTHING_ACQUIRED};
    struct status status = arena_create(device, slots, slot_bytes, config->kv_block_bytes, &offload->arena);
    if (!status_failed(&status)) {
        status = stream_create(device, STREAM_COPY, &offload->copy);
    }
    if (status_failed(&status)) {
        offload_destroy(offload);
        return status;
    }
    for (uint32_t layer = 0; layer < config->layers; layer++) {
        layer_slot[layer] = arena_find_free(&offload->arena);
        arena_use_resident(&offload->arena, layer_slot[layer], layer);
    }
    for (uint32_t slot = arena_find_free(&offload->arena); slot != ARENA_NONE;
         slot = arena_find_free(&offload->arena)) {
        arena_use_kv(&offload->arena, slot);
    }
    offload->blocks_free = arena_blocks(&offload->arena);
    struct offload_report report = offload_report(offload);
    CHECK(report.slots == report.slots_resident + report.slots_staging + report.slots_kv);
    print_arena(offload);
    *out = offload;
    return STATUS_SUCCESS;
}

void offload_destroy(struct offload *offload) {
    if (!offload) {
        return;
    }
    stream_destroy(offload->copy);
    arena_destroy(&offload->arena);
    free(offload->layer_slot);
    free(offload);
}

struct status offload_store_layer(struct offload *offload, uint32_t layer, const void *packed) {
    CHECK(layer < offload->config.layers);
    void *target = arena_slot_address(&offload->arena, offload->layer_slot[layer]);
    stream_copy(offload->copy, target, packed, offload->config.layer_bytes, COPY_HOST_TO_DEVICE);
    return stream_sync(offload->copy);
}

const void *offload_acquire_layer(struct offload *offload, struct stream *compute, uint32_t layer) {
    (void)compute; /* a resident layer is there: nothing to wait for */
    CHECK(offload->acquired == NOTHING_ACQUIRED && layer == offload->next);
    offload->acquired = layer;
    return arena_slot_address(&offload->arena, offload->layer_slot[layer]);
}

void offload_release_layer(struct offload *offload, struct stream *compute, uint32_t layer) {
    (void)compute;
    CHECK(offload->acquired == layer);
    offload->acquired = NOTHING_ACQUIRED;
    offload->next = layer + 1 == offload->config.layers ? 0 : layer + 1;
}

bool offload_kv_take(struct offload *offload, uint64_t *address) {
    if (!arena_take_block(&offload->arena, address)) {
        return false;
    }
    __atomic_fetch_sub(&offload->blocks_free, 1, __ATOMIC_RELAXED);
    return true;
}

void offload_kv_give(struct offload *offload, uint64_t address) {
    arena_give_block(&offload->arena, address);
    __atomic_fetch_add(&offload->blocks_free, 1, __ATOMIC_RELAXED);
}

struct offload_report offload_report(const struct offload *offload) {
    const struct arena *arena = &offload->arena;
    struct offload_report report = {
        .policy = offload->config.policy,
        .layers = offload->config.layers,
        .arena_bytes = arena->slots * arena->slot_bytes,
        .slot_bytes = arena->slot_bytes,
        .slots = arena->slots,
        .slots_kv = arena->kv_slots,
        .slots_resident = offload->config.layers,
        .weight_bytes_device = offload->config.layers * offload->config.layer_bytes,
        .lost_bytes = arena->kv_slots * (arena->slot_bytes - arena->blocks_per_slot * arena->block_bytes) +
                      offload->config.layers * (arena->slot_bytes - offload->config.layer_bytes),
        .kv_blocks = arena_blocks(arena),
        .kv_blocks_free = __atomic_load_n(&offload->blocks_free, __ATOMIC_RELAXED),
    };
    return report;
}
