#include "offload/offload.h"

#include "base/bytes.h"
#include "base/check.h"
#include "base/log.h"
#include "kernels/ops.h"
#include "offload/arena.h"
#include "offload/bus.h"
#include "offload/kv.h"
#include "offload/pipeline.h"
#include "offload/tuner.h"

#include <stdlib.h>
#include <string.h>

/* Until a record or a measurement says otherwise. */
#define UNKNOWN_LAYER_NS 1000000
#define UNKNOWN_LINK_BYTES_PER_S UINT64_C(10000000000)

struct offload {
    struct device *device;
    struct offload_config config;
    const struct policy *policy;
    struct arena arena;
    struct kv *kv;
    struct pipeline *pipeline;
    uint8_t *host;    /* (layers, slabs) slabs; NULL when none ever leaves the device */
    struct plan plan; /* in force */
    bool tuned;       /* the policy is decided anew in every iteration */
    struct tuner tuner;
    struct record record;
    bool recorded;
    struct offload_report report; /* the parts of it that are not derived when asked */
    uint32_t bucket;
    uint64_t kv_bytes;      /* over the link when the last iteration ended */
    double kv_share;        /* bytes an iteration, a running average */
    uint32_t rows;          /* of the iteration in hand */
    uint32_t chunk_rows;    /* of the fullest iteration so far, ... */
    uint64_t chunk_ns;      /* ... and what it took */
    struct bus *bus;        /* the seat at a shared link; NULL: the link is ours alone */
    uint64_t bus_stated_ns; /* when its candidates were stated last */
};

/* Candidates are worked out anew this often: loads change by the iteration, and a grant costs the others a look. */
#define BUS_STATE_NS UINT64_C(50000000)

/* KV blocks in use move out of the way of weights that come back, at most so many slots' worth in one iteration: inside
 * the device that takes less time than one slot's weights on the link. */
#define CLEARED_SLOTS 4

/* The running average of what KV takes of the link follows one iteration by a part of the difference: quickly when it
 * grows, since deadlines are at stake, slowly when it shrinks. */
#define KV_SHARE_RISE 2
#define KV_SHARE_FALL 16

/* ---- sizes ---- */

static uint32_t total_slabs(const struct offload_config *config) {
    return config->layers * config->slabs;
}

/* The load as far as it is known for `rows` tokens that attend to `context` positions each. */
static struct plan_load load_of(const struct offload *offload, double rows, double context) {
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
        load.link_bytes_per_s = offload->record.link_bytes_per_s;
        load.copy_ns = offload->record.copy_ns;
    }
    return load;
}

/* Slots for weights, ring included, when the arena has `bytes` and keeps the wanted KV blocks. */
static uint32_t weight_slots(const struct offload_config *config, size_t bytes) {
    size_t kv = (size_t)config->kv_blocks_wanted * config->kv_block_bytes;
    return bytes > kv ? (uint32_t)((bytes - kv) / config->slab_bytes) : 0;
}

/* Slabs that must live in host memory if weights and a ring of `staging` have so many slots. */
static uint32_t slabs_that_leave(const struct offload_config *config, uint32_t slots, uint32_t staging) {
    uint64_t wanted = (uint64_t)total_slabs(config) + staging;
    return slots < wanted ? (uint32_t)(wanted - slots) : 0;
}

static struct status refuse_budget(const struct offload *offload, size_t weights, size_t ring) {
    const struct offload_config *config = &offload->config;
    size_t kv = (size_t)config->kv_blocks_wanted * config->kv_block_bytes, needed = weights + ring + kv;
    char has[16], lacks[16], of_weights[16], of_kv[16], of_ring[16];
    return status_error(STATUS_NO_MEMORY,
                        "device_memory leaves %s for weights and KV cache; offload.policy \"%s\" needs %s of weights, "
                        "%s of staging and %s of KV cache: %s short. Raise device_memory, or lower context",
                        bytes_format(config->device_memory, has, sizeof has), offload->policy->name,
                        bytes_format(weights, of_weights, sizeof of_weights),
                        bytes_format(ring, of_ring, sizeof of_ring), bytes_format(kv, of_kv, sizeof of_kv),
                        bytes_format(needed - config->device_memory, lacks, sizeof lacks));
}

/* The first placement: what the policy makes of the budget, before anything was measured. Without a budget nothing has
 * to leave; what leaves later is what deadlines allow. */
static struct status place_first(struct offload *offload) {
    const struct offload_config *config = &offload->config;
    struct plan_load load = load_of(offload, 1, 1);
    TRY(plan_load_check(&load));
    struct policy_request request = {.load = &load, .deadline_ns = UINT64_MAX, .options = config->options};
    request.limits = (struct plan_limits){.max_slabs = total_slabs(config), .bus_slabs = UINT32_MAX};
    if (config->device_memory > 0) {
        uint32_t slots = weight_slots(config, config->device_memory);
        request.limits.floor_slabs = slots < total_slabs(config) ? total_slabs(config) - slots : 0;
    }
    if (offload->tuned && config->options.interval == 0) {
        /* As little as the budget asks for, in a ring that any later plan can live with. */
        uint32_t staging = config->slabs + (config->slabs > 2 ? config->slabs / 2 : 1), slabs = 0;
        if (config->device_memory > 0) {
            slabs = slabs_that_leave(config, weight_slots(config, config->device_memory), staging);
        }
        if (slabs > total_slabs(config)) {
            staging = config->slabs;
            slabs = total_slabs(config);
        }
        plan_nested(&load, slabs, staging, &offload->plan);
        offload->plan.staging = staging;
    } else {
        struct plan_choice choice;
        TRY(offload->policy->place(&request, &choice));
        offload->plan = choice.plan;
        offload->report.why = plan_why_name(choice.why);
    }
    size_t weights = (total_slabs(config) - (size_t)offload->plan.streamed_slabs) * config->slab_bytes;
    size_t ring = (size_t)offload->plan.staging * config->slab_bytes;
    if (config->device_memory > 0 &&
        weights + ring + (size_t)config->kv_blocks_wanted * config->kv_block_bytes > config->device_memory) {
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
    log_info("host memory %s = offloadable weights %s + parked KV %s (%u blocks)",
             bytes_format(report.host_bytes + report.kv_host_bytes, a, sizeof a),
             bytes_format(report.host_bytes, b, sizeof b), bytes_format(report.kv_host_bytes, c, sizeof c),
             report.kv_host_blocks);
}

/* Slots for parked KV: what the option allows, and no more than could ever be parked at once. */
static uint32_t host_blocks(const struct offload_config *config) {
    uint64_t fits = config->kv_host_memory / config->kv_block_bytes;
    uint32_t most =
        config->kv_blocks_most > config->kv_blocks_wanted ? config->kv_blocks_most - config->kv_blocks_wanted : 0;
    return fits < most ? (uint32_t)fits : most;
}

/* The two pools of host memory: every slab, if any may leave the device, and parked KV blocks. */
static struct status create_host_pools(struct offload *offload, bool leaves) {
    const struct offload_config *config = &offload->config;
    size_t weights = leaves ? (size_t)total_slabs(config) * config->slab_bytes : 0;
    size_t kv = (size_t)host_blocks(config) * config->kv_block_bytes;
    if (config->host_memory > 0 && weights + kv > config->host_memory) {
        char has[16], needs[16], parks[16], lacks[16];
        return status_error(STATUS_NO_MEMORY,
                            "host_memory is %s; the offloadable layers take %s of it and parked KV %s: %s short. Raise "
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
    return kv_create(offload->device, &offload->arena, host_blocks(config), &offload->kv);
}

static struct status create(struct offload *offload) {
    struct offload_config *config = &offload->config;
    size_t kv;
    if (!bytes_multiply(config->kv_blocks_wanted, config->kv_block_bytes, &kv) || kv > SIZE_MAX / 4) {
        return status_error(STATUS_NO_MEMORY, "%u KV blocks do not fit an address space", config->kv_blocks_wanted);
    }
    TRY(policy_find(config->policy, &offload->policy));
    offload->tuned = strcmp(offload->policy->name, "metronome") == 0 && config->options.interval == 0;
    TRY(place_first(offload));
    bool leaves = offload->tuned || offload->plan.streamed_slabs > 0;
    if (!leaves) {
        offload->plan.staging = 0;
    }
    uint32_t slots = total_slabs(config) - offload->plan.streamed_slabs + offload->plan.staging;
    size_t bytes = config->device_memory > 0 ? config->device_memory / 64 * 64
                                             : bytes_align((size_t)slots * config->slab_bytes + kv, 64);
    TRY(arena_create(offload->device, bytes, config->slab_bytes, config->kv_block_bytes, slots, &offload->arena));
    TRY(create_host_pools(offload, leaves));
    struct pipeline_shape shape = {.layers = config->layers, .slabs = config->slabs, .staging = offload->plan.staging};
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

struct status offload_store_layer(struct offload *offload, uint32_t layer, const void *packed) {
    CHECK(layer < offload->config.layers);
    const size_t bytes = offload->config.slab_bytes, slabs = offload->config.slabs;
    if (offload->host) {
        memcpy(offload->host + layer * slabs * bytes, packed, slabs * bytes);
    }
    struct stream *copy = pipeline_copy_stream(offload->pipeline);
    for (uint32_t slab = 0; slab < slabs; slab++) {
        uint32_t home = pipeline_home(offload->pipeline, layer, slab);
        if (home != UINT32_MAX) {
            stream_copy(copy, arena_slot_address(&offload->arena, home), (const uint8_t *)packed + slab * bytes, bytes,
                        COPY_HOST_TO_DEVICE);
        }
    }
    return stream_sync(copy);
}

struct plan_prediction offload_predict(const struct offload *offload, double rows, double context) {
    struct plan_load load = load_of(offload, rows, context);
    return plan_predict(&load, &offload->plan);
}

bool offload_wants_record(const struct offload *offload) {
    return offload->host != NULL;
}

struct status offload_measure_link(struct offload *offload, uint64_t *bytes_per_s, uint64_t *copy_ns) {
    return pipeline_measure_link(offload->pipeline, bytes_per_s, copy_ns);
}

/* ---- an iteration ---- */

/* Slots that weights and ring may take without a KV block in use having to go: as many blocks as are in use must be
 * left, wherever they lie, as far as those in the way can be moved in this iteration. */
static uint32_t slots_left_by_blocks(const struct offload *offload) {
    const struct arena *arena = &offload->arena;
    uint64_t moves = CLEARED_SLOTS * (arena->slot_bytes / arena->block_bytes + 1);
    uint32_t used = arena_blocks_needed(arena, moves < UINT32_MAX ? (uint32_t)moves : UINT32_MAX);
    used = used > offload->config.kv_blocks_wanted ? used : offload->config.kv_blocks_wanted;
    return (uint32_t)((arena->bytes - (size_t)used * arena->block_bytes) / arena->slot_bytes);
}

static void change_plan(struct offload *offload, const struct plan *plan) {
    struct arena *arena = &offload->arena;
    uint32_t slots = pipeline_slots(offload->pipeline, plan->streamed);
    if (slots > arena->boundary) {
        kv_clear(offload->kv, arena_blocks_at(arena, slots));
        kv_fence(offload->kv, pipeline_copy_stream(offload->pipeline));
        arena_set_boundary(arena, slots);
    }
    pipeline_place(offload->pipeline, plan->streamed);
    arena_set_boundary(arena, slots);
    offload->plan = *plan;
    offload->report.placements++;
}

/* Bytes a second that copies may count on: as measured last, at the start, or as configured, within the bus grant; 0:
 * unknown. */
static uint64_t link_rate(const struct offload *offload) {
    uint64_t rate = offload->report.link_bytes_per_s, granted = offload->report.bus_bytes_per_s;
    if (rate == 0) {
        rate = offload->recorded ? offload->record.link_bytes_per_s : offload->config.link_bytes_per_s;
    }
    return offload->bus && granted < rate ? granted : rate;
}

/* What is left of a deadline for the weights, by what KV has lately taken of the link. An average, because the slabs
 * that a shorter deadline brings home cross the link, too: against KV of one iteration that would help nobody. */
static uint64_t without_kv(const struct offload *offload, uint64_t deadline_ns) {
    uint64_t rate = link_rate(offload);
    if (deadline_ns == UINT64_MAX || rate == 0) {
        return deadline_ns;
    }
    double kv_ns = offload->kv_share * 1e9 / (double)rate;
    return kv_ns < (double)deadline_ns - 1 ? deadline_ns - (uint64_t)kv_ns : 1;
}

/* What this engine could do with its share of the link: placements from the least that memory asks for to the most that
 * the deadline allows, evenly apart, each by what it needs of the link. */
static struct status state_candidates(struct offload *offload, const struct plan_load *load,
                                      const struct plan_limits *limits, uint64_t deadline_ns) {
    struct plan_limits alone = *limits;
    alone.bus_slabs = UINT32_MAX;
    alone.near = offload->plan.streamed_slabs;
    struct plan_choice most = plan_choose(load, deadline_ns, &alone, PLAN_NESTED);
    uint32_t least = (uint32_t)(limits->floor_slabs + (int32_t)limits->staging);
    uint32_t high = most.plan.streamed_slabs > least ? most.plan.streamed_slabs : least;
    uint64_t period_ns = deadline_ns != UINT64_MAX ? deadline_ns : most.prediction.iteration_ns;
    struct grant_candidate candidates[GRANT_MAX_CANDIDATES];
    for (uint32_t i = 0; i < GRANT_MAX_CANDIDATES; i++) {
        uint64_t slabs = least + (uint64_t)(high - least) * i / (GRANT_MAX_CANDIDATES - 1);
        candidates[i].host_bytes = slabs * load->slab_bytes;
        candidates[i].bytes_per_s = (uint64_t)((double)candidates[i].host_bytes * 1e9 / (double)period_ns);
    }
    return bus_state(offload->bus, candidates, GRANT_MAX_CANDIDATES);
}

/* Slabs that may be streamed in this iteration by the bus grant. */
static uint32_t granted_slabs(struct offload *offload, const struct plan_load *load, const struct plan_limits *limits,
                              uint64_t deadline_ns) {
    uint64_t now = device_now_ns(offload->device);
    if (offload->bus_stated_ns == 0 || now - offload->bus_stated_ns > BUS_STATE_NS) {
        struct status status = state_candidates(offload, load, limits, deadline_ns);
        if (status_failed(&status)) {
            log_warn("bus %s: %s; the link is used as if it were ours alone", offload->config.bus, status.message);
            bus_leave(offload->bus);
            offload->bus = NULL;
            return UINT32_MAX;
        }
        offload->bus_stated_ns = now;
    }
    struct bus_grant grant = bus_poll(offload->bus, now);
    offload->report.bus_members = grant.members;
    offload->report.bus_bytes_per_s = grant.bytes_per_s;
    uint64_t period_ns = deadline_ns != UINT64_MAX ? deadline_ns : plan_predict(load, &offload->plan).iteration_ns;
    double slabs = (double)grant.bytes_per_s * (double)period_ns / 1e9 / (double)load->slab_bytes;
    return slabs < (double)UINT32_MAX ? (uint32_t)(slabs + 0.001) : UINT32_MAX;
}

/* Decides anew, as the deadline, the budget and the blocks in use allow. */
static void tune(struct offload *offload, const struct offload_demand *demand) {
    double context = (double)demand->context_tokens / demand->rows;
    struct plan_load load = load_of(offload, demand->rows, context);
    uint32_t total = total_slabs(&offload->config), staging = offload->plan.staging;
    uint32_t least = slabs_that_leave(&offload->config, slots_left_by_blocks(offload), staging);
    struct plan_limits limits = {.floor_slabs = (int32_t)least - (int32_t)staging, /* the ring is there as it is */
                                 .max_slabs = total,
                                 .bus_slabs = UINT32_MAX,
                                 .staging = staging};
    if (demand->deadline_ns == UINT64_MAX) { /* nobody waits and nothing is promised: no more than memory asks for */
        limits.max_slabs = least < total ? least : total;
    }
    if (offload->bus) {
        limits.bus_slabs = granted_slabs(offload, &load, &limits, demand->deadline_ns);
    }
    offload->bucket = tuner_bucket(demand->decode_rows == 0, demand->rows, (uint32_t)context);
    struct tuner_decision decision =
        tuner_decide(&offload->tuner, offload->bucket, &load, without_kv(offload, demand->deadline_ns), &limits);
    if (decision.plan.streamed_slabs != offload->plan.streamed_slabs) {
        change_plan(offload, &decision.plan);
    }
    offload->report.why = plan_why_name(decision.why);
    offload->report.predicted_ns = decision.expected_ns;
}

/* A policy that chooses by the deadline, once: again with what is now known, within the ring that there is. */
static struct status place_again(struct offload *offload, uint64_t deadline_ns) {
    struct plan_load load = load_of(offload, 1, 1);
    struct policy_request request = {.load = &load, .deadline_ns = deadline_ns, .options = offload->config.options};
    uint32_t total = total_slabs(&offload->config), slots = slots_left_by_blocks(offload);
    request.limits = (struct plan_limits){.max_slabs = total,
                                          .bus_slabs = UINT32_MAX,
                                          .staging = offload->plan.staging,
                                          .floor_slabs = slots < total ? total - slots : 0};
    struct plan_choice choice;
    TRY(offload->policy->place(&request, &choice));
    if (!choice.feasible) {
        return plan_refusal(&load, deadline_ns, &request.limits, &choice);
    }
    change_plan(offload, &choice.plan);
    offload->report.why = plan_why_name(choice.why);
    return STATUS_SUCCESS;
}

struct status offload_set_record(struct offload *offload, const struct record *record, uint64_t deadline_ns) {
    offload->record = *record;
    offload->recorded = true;
    const struct offload_report fresh = {.why = offload->report.why, .host_bytes = offload->report.host_bytes};
    offload->report = fresh; /* the measuring iterations were nobody's */
    bool chooses = offload->policy->keeps_deadlines && offload->config.options.interval == 0;
    if (chooses && !offload->tuned && deadline_ns != UINT64_MAX) {
        TRY(place_again(offload, deadline_ns));
    }
    tuner_init(&offload->tuner, offload->plan.streamed_slabs); /* what it learnt before was of guesses */
    return STATUS_SUCCESS;
}

void offload_begin(struct offload *offload, struct stream *compute, const struct offload_demand *demand) {
    offload->report.deadline_ns = demand->deadline_ns;
    offload->rows = demand->rows;
    if (offload->tuned) {
        tune(offload, demand);
    } else {
        struct plan_load load = load_of(offload, demand->rows, (double)demand->context_tokens / demand->rows);
        offload->report.predicted_ns = plan_predict(&load, &offload->plan).iteration_ns;
    }
    pipeline_begin(offload->pipeline, compute);
}

const void *const *offload_acquire_layer(struct offload *offload, struct stream *compute, uint32_t layer) {
    if (layer == 0) {
        kv_wait(offload->kv, compute);
    }
    return pipeline_acquire(offload->pipeline, compute, layer);
}

void offload_release_layer(struct offload *offload, struct stream *compute, uint32_t layer) {
    pipeline_release(offload->pipeline, compute, layer);
}

/* Counts the KV that has crossed the link since the last iteration's end. */
static void count_kv(struct offload *offload) {
    struct kv_counts counts = kv_counts(offload->kv);
    uint64_t bytes = counts.bytes_out + counts.bytes_in;
    double change = (double)(bytes - offload->kv_bytes) - offload->kv_share;
    offload->kv_share += change / (change > 0 ? KV_SHARE_RISE : KV_SHARE_FALL);
    offload->kv_bytes = bytes;
}

void offload_end(struct offload *offload, uint64_t iteration_ns) {
    struct pipeline_busy busy;
    bool shared = kv_traffic(offload->kv, &busy.begin_ns, &busy.end_ns);
    struct pipeline_times times;
    pipeline_times(offload->pipeline, shared ? &busy : NULL, &times);
    count_kv(offload);
    struct offload_report *report = &offload->report;
    report->iterations++;
    if (offload->rows >= offload->chunk_rows) {
        offload->chunk_rows = offload->rows;
        offload->chunk_ns = iteration_ns;
    }
    report->bytes_streamed = times.copied_bytes;
    report->total_bytes_streamed += times.copied_bytes;
    report->measured_ns = iteration_ns;
    report->stall_ns = times.stall_ns;
    report->layers_ns = times.layers_ns;
    report->total_stall_ns += times.stall_ns;
    report->total_late += iteration_ns > report->deadline_ns;
    if (offload->tuned) {
        struct tuner_measurement measurement = {.iteration_ns = iteration_ns,
                                                .layers_ns = times.layers_ns,
                                                .stall_ns = times.stall_ns,
                                                .link_bytes = times.sample_bytes,
                                                .link_ns = times.sample_ns,
                                                .late_bytes = times.late_bytes,
                                                .late_ns = times.late_ns,
                                                .link_shared = shared};
        tuner_observe(&offload->tuner, &measurement);
        report->link_bytes_per_s = tuner_report(&offload->tuner).link_bytes_per_s;
    } else if (times.sample_ns > 0) {
        report->link_bytes_per_s = times.sample_bytes * UINT64_C(1000000000) / times.sample_ns;
    }
}

/* ---- KV blocks ---- */

bool offload_kv_take(struct offload *offload, uint32_t *handle) {
    return kv_take(offload->kv, handle);
}

void offload_kv_give(struct offload *offload, uint32_t handle) {
    kv_give(offload->kv, handle);
}

uint32_t offload_kv_free(const struct offload *offload) {
    return offload->arena.blocks - offload->arena.taken;
}

void offload_kv_addresses(struct offload *offload, const uint32_t *handles, uint32_t count, uint64_t *out) {
    kv_addresses(offload->kv, handles, count, out);
}

/* What a token costs that is computed in the largest chunks there are, with `context` positions before it; 0: unknown.
 */
static double token_ns(const struct offload *offload, double context) {
    const struct record *record = &offload->record;
    if (!offload->recorded) {
        return offload->chunk_rows > 0 ? (double)offload->chunk_ns / offload->chunk_rows : 0;
    }
    struct record_cell cell;
    uint32_t rows = record->rows[record->row_count - 1];
    (void)record_get(record, rows, context, &cell);
    return ((double)cell.layer_ns * offload->config.layers + (double)cell.outside_ns) / rows;
}

bool offload_kv_pays(const struct offload *offload, uint32_t position) {
    uint64_t rate = link_rate(offload);
    double computed_ns = KV_BLOCK_TOKENS * token_ns(offload, position);
    if (rate == 0 || computed_ns == 0) {
        return true; /* nobody has measured: computing is what is known to be slow */
    }
    double copied_ns = (double)offload->config.kv_block_bytes * 1e9 / (double)rate + (double)offload->record.copy_ns;
    return 2 * copied_ns <= computed_ns;
}

uint32_t offload_kv_host_free(const struct offload *offload) {
    return kv_host_free(offload->kv);
}

bool offload_kv_park(struct offload *offload, uint32_t handle) {
    return kv_park(offload->kv, handle);
}

bool offload_kv_fetch(struct offload *offload, uint32_t handle) {
    return kv_fetch(offload->kv, handle);
}

uint32_t offload_kv_spare(const struct offload *offload) {
    const struct offload_report *report = &offload->report;
    uint64_t rate = link_rate(offload);
    if (rate == 0 || report->iterations == 0) {
        return UINT32_MAX;
    }
    uint64_t time_ns = report->deadline_ns != UINT64_MAX ? report->deadline_ns : report->measured_ns;
    double carried = (double)rate * (double)time_ns / 1e9;
    double weights = (double)offload->plan.streamed_slabs * (double)offload->config.slab_bytes;
    double blocks = (carried - weights) / (double)offload->config.kv_block_bytes;
    return blocks < 1 ? 1 : blocks < (double)UINT32_MAX ? (uint32_t)blocks : UINT32_MAX;
}

struct offload_report offload_report(const struct offload *offload) {
    const struct offload_config *config = &offload->config;
    const struct arena *arena = &offload->arena;
    struct offload_report report = offload->report;
    uint32_t streamed = offload->plan.streamed_slabs, total = total_slabs(config);
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
    report.kv_host_bytes = (size_t)counts.host_blocks * config->kv_block_bytes;
    report.kv_parked = counts.parked;
    report.kv_bytes_out = counts.bytes_out;
    report.kv_bytes_in = counts.bytes_in;
    report.kv_blocks_out = counts.blocks_out;
    report.kv_blocks_in = counts.blocks_in;
    report.kv_blocks_moved = counts.blocks_moved;
    return report;
}
