#include "offload/offload.h"

#include "base/bytes.h"
#include "base/check.h"
#include "base/log.h"
#include "offload/arena.h"
#include "offload/pipeline.h"

#include <stdlib.h>
#include <string.h>

struct offload {
    struct device *device;
    struct offload_config config;
    struct arena arena;
    struct pipeline *pipeline;
    uint8_t *streamed;    /* (layers) slabs of each layer in host memory only */
    uint32_t blocks_free; /* mirror of the arena's count, readable from any thread */
};

/* The bytes of the arena: what the layers and the wanted KV blocks need, or the whole budget if that is more. */
static struct status size_arena(const struct offload_config *config, size_t *bytes) {
    size_t weights, kv, needed;
    if (!bytes_multiply((size_t)config->layers * config->slabs, config->slab_bytes, &weights) ||
        !bytes_multiply(config->kv_blocks_wanted, config->kv_block_bytes, &kv) || !bytes_add(weights, kv, &needed) ||
        needed > SIZE_MAX / 2) {
        return status_error(STATUS_NO_MEMORY,
                            "%u layers of %u slabs of %zu bytes and %u KV blocks do not fit an address space",
                            config->layers, config->slabs, config->slab_bytes, config->kv_blocks_wanted);
    }
    if (config->device_memory > 0 && config->device_memory < needed) {
        char has[16], lacks[16], of_weights[16], of_kv[16], of_both[16];
        return status_error(
            STATUS_NO_MEMORY,
            "device_memory leaves %s for weights and KV cache; all %u layers resident need %s and the KV cache %s, "
            "together %s: %s short. Raise device_memory, or lower context or kv_tokens",
            bytes_format(config->device_memory, has, sizeof has), config->layers,
            bytes_format(weights, of_weights, sizeof of_weights), bytes_format(kv, of_kv, sizeof of_kv),
            bytes_format(needed, of_both, sizeof of_both),
            bytes_format(needed - config->device_memory, lacks, sizeof lacks));
    }
    *bytes = config->device_memory > 0 ? bytes_align(config->device_memory - 63, 64) : bytes_align(needed, 64);
    return STATUS_SUCCESS;
}

/* The table of named uses: their sum is the arena. */
static void print_arena(const struct offload *offload) {
    struct offload_report report = offload_report(offload);
    char a[16], b[16], c[16], d[16];
    log_info("device arena %s: weights %s (%u of %u layers), KV cache %s (%u blocks of %u tokens), unused %s",
             bytes_format(report.arena_bytes, a, sizeof a), bytes_format(report.weight_bytes_device, b, sizeof b),
             report.layers - report.layers_offloaded, report.layers,
             bytes_format((uint64_t)report.kv_blocks * offload->arena.block_bytes, c, sizeof c), report.kv_blocks, 16u,
             bytes_format(report.lost_bytes, d, sizeof d));
}

static struct status create(struct offload *offload, size_t arena_bytes) {
    const struct offload_config *config = &offload->config;
    TRY(arena_create(offload->device, arena_bytes, config->slab_bytes, config->kv_block_bytes,
                     config->layers * config->slabs, &offload->arena));
    struct pipeline_shape shape = {.layers = config->layers, .slabs = config->slabs};
    return pipeline_create(offload->device, &shape, &offload->arena, NULL, offload->streamed, &offload->pipeline);
}

struct status offload_create(struct device *device, const struct offload_config *config, struct offload **out) {
    CHECK(config->layers > 0 && config->slabs > 0 && config->slabs <= PIPELINE_MAX_SLABS);
    CHECK(config->slab_bytes > 0 && config->slab_bytes % 64 == 0 && config->kv_block_bytes > 0);
    if (strcmp(config->policy, "none") != 0) {
        return status_error(STATUS_UNSUPPORTED, "offload.policy \"%s\" is not built; built are: none", config->policy);
    }
    size_t arena_bytes = 0;
    TRY(size_arena(config, &arena_bytes));
    struct offload *offload = calloc(1, sizeof *offload);
    uint8_t *streamed = calloc(config->layers, sizeof *streamed);
    if (!offload || !streamed) {
        free(offload);
        free(streamed);
        return status_error(STATUS_NO_MEMORY, "no memory for the placement of %u layers", config->layers);
    }
    *offload = (struct offload){.device = device, .config = *config, .streamed = streamed};
    struct status status = create(offload, arena_bytes);
    if (status_failed(&status)) {
        offload_destroy(offload);
        return status;
    }
    offload->blocks_free = offload->arena.blocks;
    struct offload_report report = offload_report(offload);
    CHECK(report.arena_bytes ==
          report.weight_bytes_device + (size_t)report.kv_blocks * config->kv_block_bytes + report.lost_bytes);
    print_arena(offload);
    *out = offload;
    return STATUS_SUCCESS;
}

void offload_destroy(struct offload *offload) {
    if (!offload) {
        return;
    }
    pipeline_destroy(offload->pipeline);
    arena_destroy(&offload->arena);
    free(offload->streamed);
    free(offload);
}

uint32_t offload_slabs(const struct offload *offload) {
    return offload->config.slabs;
}

struct status offload_store_layer(struct offload *offload, uint32_t layer, const void *packed) {
    CHECK(layer < offload->config.layers);
    const size_t bytes = offload->config.slab_bytes;
    struct stream *copy = pipeline_copy_stream(offload->pipeline);
    for (uint32_t slab = 0; slab < offload->config.slabs; slab++) {
        void *target = arena_slot_address(&offload->arena, pipeline_home(offload->pipeline, layer, slab));
        stream_copy(copy, target, (const uint8_t *)packed + slab * bytes, bytes, COPY_HOST_TO_DEVICE);
    }
    return stream_sync(copy);
}

const void *const *offload_acquire_layer(struct offload *offload, struct stream *compute, uint32_t layer) {
    return pipeline_acquire(offload->pipeline, compute, layer);
}

void offload_release_layer(struct offload *offload, struct stream *compute, uint32_t layer) {
    pipeline_release(offload->pipeline, compute, layer);
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
    return (struct offload_report){
        .policy = offload->config.policy,
        .layers = offload->config.layers,
        .arena_bytes = arena->bytes,
        .slot_bytes = arena->slot_bytes,
        .weight_bytes_device = (size_t)arena->boundary * arena->slot_bytes,
        .lost_bytes = arena_lost_bytes(arena),
        .kv_blocks = arena->blocks,
        .kv_blocks_free = __atomic_load_n(&offload->blocks_free, __ATOMIC_RELAXED),
    };
}
