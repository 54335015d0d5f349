#include "offload/offload_internal.h"

#include "base/bytes.h"
#include "base/check.h"
#include "base/log.h"

#include <stdlib.h>
#include <string.h>

/* Until a record or a measurement says otherwise. */
#define UNKNOWN_LAYER_NS 1000000
#define UNKNOWN_LINK_BYTES_PER_S UINT64_C(10000000000)

/* ---- sizes ---- */

/* Of what does not change once the record is set. */
static struct plan_load recorded_load(const struct offload *offload, double rows, double context) {
    const struct offload_config *config = &offload->config;
    struct plan_load load = {.layers = config->layers,
                             .slabs = config->slabs,
                             .slab_bytes = config->slab_bytes,
                             .layer_ns = UNKNOWN_LAYER_NS,
                             .link_bytes_per_s = config->link_bytes_per_s};
    if (load.link_bytes_per_s == 0) {
        load.link_bytes_per_s = UNKNOWN_LINK_BYTES_PER_S;
    }
    if (offload->recorded) {
        struct record_cell cell;
        (void)record_get(&offload->record, rows, context, &cell); /* beyond the grid the tuner's ratios correct it */
        load.layer_ns = cell.layer_ns > 0 ? cell.layer_ns : 1;
        load.after_ns = cell.outside_ns;
        if (offload->record.link_bytes_per_s > 0) { /* of what cannot be offloaded it is not measured */
            load.link_bytes_per_s = offload->record.link_bytes_per_s;
        }
        load.copy_ns = offload->record.copy_ns;
    }
    return load;
}

struct plan_load offload_load_of(const struct offload *offload, double rows, double context) {
    struct plan_load load = recorded_load(offload, rows, context);
    if (offload->kv) {
        const struct kv_groups *groups = kv_groups(offload->kv);
        load.kv_copies = groups->listed;
        for (uint32_t i = 0; i < groups->listed; i++) {
            load.kv_bytes[i] = groups->list[i].count * offload_kv_layer_bytes(&offload->config);
        }
    }
    return load;
}

/* Slots for weights, ring included, when the arena has `bytes` and keeps so many KV blocks. */
static uint32_t weight_slots(const struct offload_config *config, size_t bytes, uint32_t kv_blocks) {
    size_t kv = (size_t)kv_blocks * config->kv_block_bytes;
    return bytes > kv ? (uint32_t)((bytes - kv) / config->slab_bytes) : 0;
}

uint32_t offload_slabs_that_leave(const struct offload_config *config, uint32_t slots, uint32_t staging) {
    uint64_t wanted = (uint64_t)offload_total_slabs(config) + staging;
    return slots < wanted ? (uint32_t)(wanted - slots) : 0;
}

static struct status refuse_budget(const struct offload *offload, size_t weights, size_t ring) {
    const struct offload_config *config = &offload->config;
    size_t kv = (size_t)offload->kv_least * config->kv_block_bytes, needed = weights + ring + kv;
    char has[16], lacks[16], of_weights[16], of_kv[16], of_ring[16];
    bool streams = offload->tuned && offload->kv_group > 0 && config->kv_blocks_hot < config->kv_blocks_wanted;
    const char *by_hand = offload->policy->by_hand;
    return status_error(STATUS_NO_MEMORY,
                        "device_memory leaves %s for weights and KV cache; offload.policy \"%s\" needs %s of weights, "
                        "%s of staging and %s of KV cache: %s short. Raise device_memory%s%s, or lower context",
                        bytes_format(config->device_memory, has, sizeof has), offload->policy->name,
                        bytes_format(weights, of_weights, sizeof of_weights),
                        bytes_format(ring, of_ring, sizeof of_ring), bytes_format(kv, of_kv, sizeof of_kv),
                        bytes_format(needed - config->device_memory, lacks, sizeof lacks),
                        streams || by_hand ? " or " : "",
                        streams   ? "offload.kv_host_memory"
                        : by_hand ? by_hand
                                  : "");
}

/* ---- KV that is streamed ---- */

/* Slots that `blocks` streamed ones add to the ring: for the layer that is computed and the one that is copied. */
static uint32_t ring_for_kv(const struct offload *offload, uint32_t blocks) {
    return blocks > 0 ? 2 * ((blocks - 1) / offload->kv_group + 1) : 0;
}

/* Does the device hold the ring and the KV blocks that are not streamed, with every slab gone that can go? */
static bool holds_without(const struct offload *offload, uint32_t streamed) {
    const struct offload_config *config = &offload->config;
    uint32_t slots = weight_slots(config, config->device_memory, config->kv_blocks_wanted - streamed);
    return slots >= config->slabs + ring_for_kv(offload, streamed);
}

/* How many KV blocks of running sequences may be streamed: what the configuration allows, and what the wanted blocks
 * ask for that the device cannot hold. Fills in kv_group, kv_stream and kv_least. */
static struct status plan_kv_stream(struct offload *offload) {
    const struct offload_config *config = &offload->config;
    offload->kv_least = config->kv_blocks_wanted;
    size_t part = offload_kv_layer_bytes(config);
    uint64_t fits = config->kv_host_memory / config->kv_block_bytes;
    offload->kv_group = (uint32_t)(config->slab_bytes / part);
    if (!offload->tuned || offload->kv_group == 0 || fits == 0) {
        return STATUS_SUCCESS; /* a budget that is too small for that is refused as any other is */
    }
    uint32_t most = KV_MAX_GROUPS * offload->kv_group, needed = 0;
    most = fits < most ? (uint32_t)fits : most;
    uint32_t hot = config->kv_blocks_hot < config->kv_blocks_wanted ? config->kv_blocks_hot : config->kv_blocks_wanted;
    while (config->device_memory > 0 && !holds_without(offload, needed)) {
        needed++;
        if (needed > most || needed > config->kv_blocks_wanted - hot) {
            return STATUS_SUCCESS;
        }
    }
    uint64_t allowed = config->kv_stream_memory / config->kv_block_bytes;
    if (allowed > 0 && allowed > most) {
        char has[16], asks[16];
        return status_error(
            STATUS_NO_MEMORY,
            "offload.kv_stream_memory is %s; %s can be streamed: raise offload.kv_host_memory, of which "
            "it is a part, or lower it",
            bytes_format(config->kv_stream_memory, asks, sizeof asks),
            bytes_format((uint64_t)most * config->kv_block_bytes, has, sizeof has));
    }
    offload->kv_stream = allowed > needed ? (uint32_t)allowed : needed;
    offload->kv_least -= needed;
    return STATUS_SUCCESS;
}

/* The first placement: what the policy makes of the budget, before anything was measured. Without a budget nothing has
 * to leave; what leaves later is what deadlines allow. */
static struct status place_first(struct offload *offload) {
    const struct offload_config *config = &offload->config;
    struct plan_load load = offload_load_of(offload, 1, 1);
    TRY(plan_load_check(&load));
    struct policy_request request = {.load = &load, .deadline_ns = UINT64_MAX, .options = config->options};
    request.limits = (struct plan_limits){.max_slabs = offload_total_slabs(config), .bus_slabs = UINT32_MAX};
    if (config->device_memory > 0) {
        uint32_t slots = weight_slots(config, config->device_memory, offload->kv_least);
        request.limits.floor_slabs = slots < offload_total_slabs(config) ? offload_total_slabs(config) - slots : 0;
    }
    if (offload->tuned && config->options.interval == 0) {
        /* As little as the budget asks for. A longer ring forces more out, which may take a longer ring. */
        uint32_t slots =
            config->device_memory > 0 ? weight_slots(config, config->device_memory, offload->kv_least) : UINT32_MAX;
        uint32_t for_kv = ring_for_kv(offload, offload->kv_stream),
                 staging = offload_ring_of_any_plan(offload, 0) + for_kv;
        uint32_t slabs = offload_slabs_that_leave(config, slots, staging);
        for (uint32_t longer; (longer = offload_ring_of_any_plan(offload, slabs) + for_kv) > staging;) {
            staging = longer;
            slabs = offload_slabs_that_leave(config, slots, staging);
        }
        if (slabs > offload_total_slabs(config)) {
            staging = config->slabs + for_kv;
            slabs = offload_total_slabs(config);
        }
        plan_nested(&load, slabs, staging, &offload->plan);
        offload->plan.staging = staging;
    } else {
        struct plan_choice choice;
        TRY(offload->policy->place(&request, &choice));
        offload->plan = choice.plan;
        offload->report.why = plan_why_name(choice.why);
    }
    size_t weights = (offload_total_slabs(config) - (size_t)offload->plan.streamed_slabs) * config->slab_bytes;
    size_t ring = (size_t)offload->plan.staging * config->slab_bytes;
    if (config->device_memory > 0 &&
        weights + ring + (size_t)offload->kv_least * config->kv_block_bytes > config->device_memory) {
        return refuse_budget(offload, weights, ring);
    }
    return STATUS_SUCCESS;
}

/* ---- life ---- */

static void print_uses(const struct offload *offload) {
    struct offload_report report = offload_report(offload);
    char a[16], b[16], c[16], d[16], e[16];
    log_info("device arena %s = weights %s + staging %s + KV cache %s (%u blocks of 16 tokens) + unused %s",
             bytes_format(report.arena_bytes, a, sizeof a), bytes_format(report.weight_bytes_device, b, sizeof b),
             bytes_format(report.staging_bytes, c, sizeof c),
             bytes_format((uint64_t)report.kv_blocks * offload->arena.block_bytes, d, sizeof d), report.kv_blocks,
             bytes_format(report.lost_bytes, e, sizeof e));
    log_info("offload policy %s: %.2f of %u layers in host memory (%s, %u of %u slabs), host pool %s", report.policy,
             (double)report.streamed_slabs / report.slabs, report.layers,
             bytes_format(report.weight_bytes_host, a, sizeof a), report.streamed_slabs, report.layers * report.slabs,
             bytes_format(report.host_bytes, b, sizeof b));
    uint64_t parked = (uint64_t)report.kv_host_blocks * offload->config.kv_block_bytes;
    log_info("host memory %s = offloadable weights %s + parked KV %s (%u blocks) + streamed KV %s (%u blocks)",
             bytes_format(report.host_bytes + report.kv_host_bytes, a, sizeof a),
             bytes_format(report.host_bytes, b, sizeof b), bytes_format(parked, c, sizeof c), report.kv_host_blocks,
             bytes_format(report.kv_host_bytes - parked, d, sizeof d), report.kv_stream_blocks);
}

/* Slots for parked KV: what the option allows, and no more than could ever be parked at once. */
static uint32_t parked_blocks(const struct offload *offload) {
    const struct offload_config *config = &offload->config;
    uint64_t fits = config->kv_host_memory / config->kv_block_bytes - offload->kv_stream;
    uint32_t most =
        config->kv_blocks_most > config->kv_blocks_wanted ? config->kv_blocks_most - config->kv_blocks_wanted : 0;
    return fits < most ? (uint32_t)fits : most;
}

/* The two pools of host memory: every slab, if any may leave the device, and KV blocks. */
static struct status create_host_pools(struct offload *offload, bool leaves) {
    const struct offload_config *config = &offload->config;
    size_t weights = leaves ? (size_t)offload_total_slabs(config) * config->slab_bytes : 0;
    struct kv_pool pool = {.parked = parked_blocks(offload),
                           .streamed = offload->kv_stream,
                           .group = offload->kv_group,
                           .layers = config->layers};
    size_t kv = ((size_t)pool.parked + pool.streamed) * config->kv_block_bytes;
    if (config->host_memory > 0 && weights + kv > config->host_memory) {
        char has[16], needs[16], parks[16], lacks[16];
        return status_error(STATUS_NO_MEMORY,
                            "host_memory is %s; the offloadable layers take %s of it and KV %s: %s short. Raise "
                            "host_memory%s",
                            bytes_format(config->host_memory, has, sizeof has),
                            bytes_format(weights, needs, sizeof needs), bytes_format(kv, parks, sizeof parks),
                            bytes_format(weights + kv - config->host_memory, lacks, sizeof lacks),
                            kv > 0 ? ", or lower offload.kv_host_memory" : "");
    }
    if (leaves) {
        void *host = NULL;
        TRY(device_alloc_host(offload->device, weights, "the host pool of offloadable layers", &host));
        offload->host = host;
        offload->report.host_bytes = weights;
    }
    return kv_create(offload->device, &offload->arena, &pool, &offload->kv);
}

static struct status create(struct offload *offload) {
    struct offload_config *config = &offload->config;
    size_t kv;
    if (!bytes_multiply(config->kv_blocks_wanted, config->kv_block_bytes, &kv) || kv > SIZE_MAX / 4) {
        return status_error(STATUS_NO_MEMORY, "%u KV blocks do not fit an address space", config->kv_blocks_wanted);
    }
    TRY(policy_find(config->policy, &offload->policy));
    offload->tuned = offload->policy->every_iteration && config->options.interval == 0;
    TRY(plan_kv_stream(offload));
    kv -= (size_t)(config->kv_blocks_wanted - offload->kv_least) * config->kv_block_bytes;
    TRY(place_first(offload));
    bool leaves = offload->tuned || offload->plan.streamed_slabs > 0;
    if (!leaves) {
        offload->plan.staging = 0;
    }
    uint32_t slots = offload_total_slabs(config) - offload->plan.streamed_slabs + offload->plan.staging;
    size_t bytes = config->device_memory > 0 ? config->device_memory / 64 * 64
                                             : bytes_align((size_t)slots * config->slab_bytes + kv, 64);
    TRY(arena_create(offload->device, bytes, config->slab_bytes, config->kv_block_bytes, slots, &offload->arena));
    TRY(create_host_pools(offload, leaves));
    struct pipeline_shape shape = {.layers = config->layers,
                                   .slabs = config->slabs,
                                   .staging = offload->plan.staging,
                                   .kv_layer_bytes = offload_kv_layer_bytes(config),
                                   .kv_block_bytes = config->kv_block_bytes};
    TRY(pipeline_create(offload->device, &shape, &offload->arena, offload->host, offload->plan.streamed,
                        &offload->pipeline));
    pipeline_set_prefetch(offload->pipeline, offload->plan.prefetch_layers);
    if (config->bus && *config->bus) {
        if (!offload->tuned) {
            return status_error(STATUS_INVALID,
                                "offload.bus is set and offload.policy \"%s\" does not share a link; use metronome, or "
                                "leave offload.bus out",
                                offload->policy->name);
        }
        struct bus_config bus = {.name = config->bus, .link_bytes_per_s = config->link_bytes_per_s};
        if (bus.link_bytes_per_s == 0) {
            return status_error(STATUS_INVALID, "offload.bus is set and link_gbps is not: say what the link carries");
        }
        TRY(bus_join(&bus, &offload->bus));
    }
    tuner_init(&offload->tuner, offload->plan.streamed_slabs);
    offload_choose_rings(offload, UINT64_MAX);
    return STATUS_SUCCESS;
}

struct status offload_create(struct device *device, const struct offload_config *config, struct offload **out) {
    CHECK(config->layers > 0 && config->slabs > 0 && config->slabs <= PIPELINE_MAX_SLABS);
    CHECK(config->slab_bytes > 0 && config->slab_bytes % 64 == 0 && config->kv_block_bytes > 0);
    struct offload *offload = calloc(1, sizeof *offload);
    if (!offload) {
        return status_error(STATUS_NO_MEMORY, "no memory for the placement of %u layers", config->layers);
    }
    *offload = (struct offload){.device = device, .config = *config, .report = {.why = "memory"}};
    struct status status = create(offload);
    if (status_failed(&status)) {
        offload_destroy(offload);
        return status;
    }
    struct offload_report report = offload_report(offload);
    CHECK(report.arena_bytes == report.weight_bytes_device + report.staging_bytes +
                                    (size_t)report.kv_blocks * config->kv_block_bytes + report.lost_bytes);
    print_uses(offload);
    *out = offload;
    return STATUS_SUCCESS;
}

void offload_destroy(struct offload *offload) {
    if (!offload) {
        return;
    }
    bus_leave(offload->bus);
    pipeline_destroy(offload->pipeline);
    kv_destroy(offload->kv);
    arena_destroy(&offload->arena);
    if (offload->host) {
        device_free_host(offload->device, offload->host);
    }
    free(offload);
}

uint32_t offload_slabs(const struct offload *offload) {
    return offload->config.slabs;
}

struct status offload_store_layer(struct offload *offload, uint32_t layer, uint32_t rank, const void *packed) {
    CHECK(layer < offload->config.layers);
    const size_t bytes = offload->config.slab_bytes, slabs = offload->config.slabs;
    if (offload->host) {
        uint8_t *host = device_rank_host(offload->device, offload->host, rank);
        memcpy(host + layer * slabs * bytes, packed, slabs * bytes);
    }
    struct stream *copy = pipeline_copy_stream(offload->pipeline);
    for (uint32_t slab = 0; slab < slabs; slab++) {
        uint32_t home = pipeline_home(offload->pipeline, layer, slab);
        if (home != UINT32_MAX) {
            stream_copy_to_rank(copy, rank, arena_slot_address(&offload->arena, home),
                                (const uint8_t *)packed + slab * bytes, bytes);
        }
    }
    return stream_sync(copy);
}

struct plan_prediction offload_predict(const struct offload *offload, double rows, double context) {
    struct plan_load load = offload_load_of(offload, rows, context);
    return plan_predict(&load, &offload->plan);
}

void offload_copy_placement(const struct offload *offload, uint32_t idle, struct offload_placement *out) {
    const struct arena *arena = &offload->arena;
    struct plan_load load = offload_load_of(offload, 1, 1);
    out->plan = out->least = offload->plan;
    out->kv_copies = load.kv_copies;
    memcpy(out->kv_bytes, load.kv_bytes, sizeof out->kv_bytes);
    if (offload->tuned && offload->plan.streamed_slabs > 0) {
        uint32_t used = arena->taken > idle ? arena->taken - idle : 0;
        used = used > offload->kv_least ? used : offload->kv_least;
        uint32_t slots = arena_slots_beside(arena, used);
        uint32_t least = offload_slabs_that_leave(&offload->config, slots, offload->plan.staging);
        if (least < offload->plan.streamed_slabs) {
            plan_nested(&load, least, offload->plan.staging, &out->least);
        }
    }
}

struct plan_load offload_placement_load(const struct offload *offload, const struct offload_placement *placement,
                                        double rows, double context, double pace) {
    struct plan_load load = recorded_load(offload, rows, context);
    load.layer_ns = (uint64_t)((double)load.layer_ns * pace);
    load.before_ns = (uint64_t)((double)load.before_ns * pace);
    load.after_ns = (uint64_t)((double)load.after_ns * pace);
    load.kv_copies = placement->kv_copies;
    memcpy(load.kv_bytes, placement->kv_bytes, sizeof load.kv_bytes);
    return load;
}

uint64_t offload_least_ns(const struct offload *offload, double rows, double context) {
    struct plan_load load = offload_load_of(offload, rows, context);
    return offload->recorded ? plan_compute_ns(&load) : 0;
}

bool offload_wants_record(const struct offload *offload) {
    return offload->host != NULL;
}

struct status offload_measure_link(struct offload *offload, uint64_t *bytes_per_s, uint64_t *copy_ns) {
    if (!offload->host) {
        *bytes_per_s = offload_load_of(offload, 1, 1).link_bytes_per_s;
        *copy_ns = 0;
        return STATUS_SUCCESS;
    }
    return pipeline_measure_link(offload->pipeline, bytes_per_s, copy_ns);
}

/* ---- numbers ---- */

struct offload_report offload_report(const struct offload *offload) {
    const struct offload_config *config = &offload->config;
    const struct arena *arena = &offload->arena;
    struct offload_report report = offload->report;
    uint32_t streamed = offload->plan.streamed_slabs, total = offload_total_slabs(config);
    report.policy = offload->policy->name;
    report.layers = config->layers;
    report.slabs = config->slabs;
    report.staging = offload->plan.staging;
    report.streamed_slabs = streamed;
    report.interval = streamed > 0 ? (double)total / streamed : 0;
    report.arena_bytes = arena->bytes;
    report.slot_bytes = arena->slot_bytes;
    report.weight_bytes_device = (size_t)(total - streamed) * arena->slot_bytes;
    report.staging_bytes = (size_t)report.staging * arena->slot_bytes;
    report.weight_bytes_host = (size_t)streamed * arena->slot_bytes;
    report.lost_bytes = arena_lost_bytes(arena);
    report.kv_blocks = arena->blocks;
    report.kv_blocks_free = arena->blocks - arena->taken;
    const struct kv_counts counts = kv_counts(offload->kv);
    report.kv_host_blocks = counts.host_blocks;
    report.kv_stream_blocks = counts.stream_blocks;
    report.kv_blocks_streamed = counts.blocks_streamed;
    report.kv_streamed = kv_groups(offload->kv)->active;
    struct plan_load load = offload_load_of(offload, 1, 1);
    report.kv_streamed_bytes = config->layers * plan_kv_bytes(&load);
    report.kv_host_bytes = ((size_t)counts.host_blocks + counts.stream_blocks) * config->kv_block_bytes;
    report.kv_parked = counts.parked;
    report.kv_bytes_out = counts.bytes_out;
    report.kv_bytes_in = counts.bytes_in;
    report.kv_blocks_out = counts.blocks_out;
    report.kv_blocks_in = counts.blocks_in;
    report.kv_blocks_moved = counts.blocks_moved;
    return report;
}
