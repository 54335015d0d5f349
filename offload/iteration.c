/* An iteration: the plan that is chosen for it, the change from the plan before, and what was measured. */
#include "offload/offload_internal.h"

#include "base/bytes.h"
#include "base/check.h"
#include "base/log.h"

/* Candidates are worked out anew this often: loads change by the iteration, and a grant costs the others a look. */
#define BUS_STATE_NS UINT64_C(50000000)

/* KV blocks in use move out of the way of weights that come back, at most so many slots' worth in one iteration: inside
 * the device that takes less time than one slot's weights on the link. */
#define CLEARED_SLOTS 4

/* Groups of KV that one iteration looks ahead for, a prediction each. */
#define ROOM_GROUPS KV_MAX_GROUPS

/* KV blocks that a slot takes the place of. */
static uint32_t blocks_of_slots(const struct arena *arena, uint32_t slots) {
    uint64_t blocks = slots * (uint64_t)(arena->slot_bytes / arena->block_bytes + 1);
    return blocks < UINT32_MAX ? (uint32_t)blocks : UINT32_MAX;
}

uint32_t offload_slots_left(const struct offload *offload) {
    const struct arena *arena = &offload->arena;
    uint32_t used = arena_blocks_needed(arena, blocks_of_slots(arena, CLEARED_SLOTS));
    used = used > offload->kv_least ? used : offload->kv_least;
    return arena_slots_beside(arena, used);
}

/* Of the blocks in use beyond those that are always there, a slot's worth: parking more at once would keep the link
 * from the weights. */
static uint32_t blocks_in_the_way(const struct offload *offload) {
    uint32_t used = offload->arena.taken, always = offload->kv_least;
    uint32_t beyond = used > always ? used - always : 0, most = blocks_of_slots(&offload->arena, 1);
    return beyond < most ? beyond : most;
}

static void change_plan(struct offload *offload, const struct plan *plan) {
    struct arena *arena = &offload->arena;
    pipeline_set_ring(offload->pipeline, plan->staging);
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

/* Slabs that must leave for so many KV blocks, with a ring of `staging`. */
static uint32_t slabs_that_blocks_take(const struct offload *offload, uint32_t blocks, uint32_t staging) {
    return offload_slabs_that_leave(&offload->config, arena_slots_beside(&offload->arena, blocks), staging);
}

/* Slabs that may be streamed when room for sequences is short. Room is KV memory for a time: with k bytes of KV cache
 * and f bytes of weights gone from the device, and the link the bound of an iteration, tokens a second go as (k + f) /
 * f. As long as all weights fit the device besides some KV cache (k > 0), streaming more than compute hides costs more
 * time than it gives memory; if they do not fit (k < 0), it is the other way about, for as much room as sequences make
 * use of: where it is places that are short, memory gives nothing. `room`: slabs that must leave for it; if k > 0, for
 * what those that run take next, for a token that takes somewhat longer costs less than one of them that has to wait.
 */
static uint32_t most_when_crowded(const struct offload *offload, const struct plan_load *load, uint32_t room) {
    uint32_t total = offload_total_slabs(&offload->config);
    uint64_t hidden = plan_compute_ns(load) / plan_slab_ns(load), most = hidden > room ? hidden : room;
    return most < total ? (uint32_t)most : total;
}

/* Room is short: no more leaves than that, but what the blocks that are there force out, until they are given up. */
static void limit_when_crowded(struct offload *offload, const struct plan_load *load, uint32_t least,
                               const struct offload_demand *demand, struct plan_limits *limits) {
    bool fits = offload_weights_fit(offload);
    uint32_t soon = fits ? demand->next_blocks : demand->soon_blocks;
    uint32_t room = fits ? demand->next_blocks : demand->room_blocks;
    limits->soon_slabs = slabs_that_blocks_take(offload, soon, limits->staging);
    uint32_t most = most_when_crowded(offload, load, slabs_that_blocks_take(offload, room, limits->staging));
    if (fits) {
        uint32_t used = slabs_that_blocks_take(offload, demand->room_blocks, limits->staging);
        most = most < used ? most : used;
    }
    if (least > most) {
        uint32_t slots = least - most < CLEARED_SLOTS ? least - most : CLEARED_SLOTS;
        offload->kv_idle_excess = blocks_of_slots(&offload->arena, slots);
        most = least;
    }
    limits->max_slabs = most < limits->max_slabs ? most : limits->max_slabs;
}

/* How many blocks more could be streamed as KV, with `plan` for the weights and the rest as it is. */
static uint32_t stream_room(const struct offload *offload, const struct plan_load *load, const struct plan *plan,
                            const struct offload_demand *demand) {
    const struct kv_groups *groups = kv_groups(offload->kv);
    uint32_t free = groups->slots - groups->active, room = 0; /* paused ones may be wanted again */
    uint64_t weights = (uint64_t)offload_total_slabs(&offload->config) * load->slab_bytes;
    if (free == 0 || (!demand->crowded && groups->used == groups->active) ||
        plan->streamed_slabs < offload_total_slabs(&offload->config)) {
        return 0;
    }
    while (room < free && room < ROOM_GROUPS * groups->size) {
        uint32_t more = room + groups->size < free ? room + groups->size : free, counts[KV_MAX_GROUPS];
        struct plan_load with = *load;
        with.kv_copies = kv_groups_with(groups, more, counts);
        for (uint32_t i = 0; i < with.kv_copies; i++) {
            with.kv_bytes[i] = counts[i] * offload_kv_layer_bytes(&offload->config);
        }
        if (with.kv_copies + load->slabs > plan->staging) {
            break;
        }
        uint64_t at_most_ns;
        struct plan_prediction prediction = tuner_predict(&offload->tuner, offload->bucket, &with, plan, &at_most_ns);
        bool hidden = prediction.link_busy_ns <= prediction.compute_ns; /* as in most_when_crowded() */
        if (at_most_ns > demand->deadline_ns || (!hidden && weights < offload->arena.bytes)) {
            break;
        }
        room = more;
    }
    return room;
}

/* Tells the pipeline what KV every layer streams from this iteration on. */
static void list_groups(struct offload *offload) {
    struct kv_groups *groups = kv_groups(offload->kv);
    if (!groups->changed) {
        return;
    }
    uint32_t count;
    const struct kv_group *list = kv_groups_list(groups, &count);
    struct pipeline_group sources[KV_MAX_GROUPS];
    for (uint32_t i = 0; i < count; i++) {
        sources[i] = (struct pipeline_group){
            .blocks = kv_slot(offload->kv, list[i].first), .count = list[i].count, .version = list[i].version};
    }
    kv_fence(offload->kv, pipeline_copy_stream(offload->pipeline));
    pipeline_set_groups(offload->pipeline, sources, count);
}

/* Decides anew, as the deadline, the budget and the blocks in use allow. */
static void tune(struct offload *offload, const struct offload_demand *demand) {
    double context = (double)demand->context_tokens / demand->rows;
    struct plan_load load = offload_load_of(offload, demand->rows, context);
    uint32_t total = offload_total_slabs(&offload->config), staging = offload_ring(offload, &load, demand);
    uint32_t least = offload_slabs_that_leave(&offload->config, offload_slots_left(offload), staging);
    struct plan_limits limits = {.floor_slabs = (int32_t)least - (int32_t)staging, /* the ring is there as it is */
                                 .max_slabs = total,
                                 .bus_slabs = UINT32_MAX,
                                 .staging = staging};
    offload->promised = offload->promised || demand->deadline_ns != UINT64_MAX;
    if (demand->deadline_ns == UINT64_MAX) {
        /* Nobody waits. Where nothing is ever promised, no more leaves than memory asks for; where something is, what
         * has left stays away: the next promise would send it off again. */
        uint32_t kept = offload->promised ? offload->plan.streamed_slabs : 0;
        limits.max_slabs = least > kept ? least : kept;
        limits.max_slabs = limits.max_slabs < total ? limits.max_slabs : total;
    }
    offload->kv_idle_excess = 0;
    if (demand->crowded) {
        limit_when_crowded(offload, &load, least, demand, &limits);
    }
    if (offload->bus) {
        limits.bus_slabs = granted_slabs(offload, &load, &limits, demand->deadline_ns);
    }
    offload->bucket = tuner_bucket(demand->decode_rows == 0, demand->rows, (uint32_t)context);
    tuner_lend(&offload->tuner, demand->slack_ns, demand->steady);
    struct tuner_decision decision = tuner_decide(&offload->tuner, offload->bucket, &load,
                                                  offload_without_kv(offload, demand->deadline_ns), &limits);
    if (decision.plan.streamed_slabs != offload->plan.streamed_slabs || staging != offload->plan.staging) {
        change_plan(offload, &decision.plan);
    }
    bool for_others = demand->crowded && decision.why == PLAN_WHY_MEMORY && decision.plan.streamed_slabs < total;
    offload->report.why = plan_why_name(for_others ? PLAN_WHY_SLO : decision.why);
    offload->report.predicted_ns = decision.expected_ns;
    uint64_t stall_ns = decision.prediction.stall_ns; /* which there would not be with the weights at home */
    bool mended = decision.expected_ns > demand->deadline_ns && decision.expected_ns <= demand->deadline_ns + stall_ns;
    bool kept_away = stall_ns > 0 && decision.plan.streamed_slabs <= least; /* by memory alone */
    offload->kv_excess = mended && least > 0 ? blocks_in_the_way(offload) : 0;
    if (kept_away && least > 0) {
        uint64_t slots = stall_ns / plan_slab_ns(&load) + 1;
        uint32_t blocks = blocks_of_slots(&offload->arena, slots < total ? (uint32_t)slots : total);
        offload->kv_idle_excess = offload->kv_idle_excess > blocks ? offload->kv_idle_excess : blocks;
    }
    offload->stream_room = stream_room(offload, &load, &decision.plan, demand);
    offload->stream_late = load.kv_copies > 0 && decision.expected_ns > demand->deadline_ns;
}

/* A policy that chooses by the deadline, once: again with what is now known, within the ring that there is. */
static struct status place_again(struct offload *offload, uint64_t deadline_ns) {
    struct plan_load load = offload_load_of(offload, 1, 1);
    struct policy_request request = {.load = &load, .deadline_ns = deadline_ns, .options = offload->config.options};
    uint32_t total = offload_total_slabs(&offload->config), slots = offload_slots_left(offload);
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

/* Says what a token takes once all is streamed of KV that can be: a promise may be out of reach of long contexts. */
static void foretell_stream(const struct offload *offload, uint64_t deadline_ns) {
    if (offload->kv_stream == 0) {
        return;
    }
    uint32_t counts[KV_MAX_GROUPS], positions = (offload->kv_least + offload->kv_stream) * KV_BLOCK_TOKENS;
    struct plan_load load = offload_load_of(offload, 1, positions);
    struct plan plan;
    load.kv_copies = kv_groups_with(kv_groups(offload->kv), offload->kv_stream, counts);
    for (uint32_t i = 0; i < load.kv_copies; i++) {
        load.kv_bytes[i] = counts[i] * offload_kv_layer_bytes(&offload->config);
    }
    uint32_t most = load.layers * (offload->plan.staging - load.kv_copies), all = load.layers * load.slabs;
    plan_nested(&load, all < most ? all : most, offload->plan.staging, &plan);
    struct plan_prediction prediction = plan_predict(&load, &plan);
    char bytes[16];
    bool late = prediction.iteration_ns > deadline_ns;
    log_line(late ? LOG_WARN : LOG_INFO,
             "with every layer and %u KV blocks streamed a token takes %s over the link and %.1f ms%s",
             offload->kv_stream, bytes_format(prediction.bytes_streamed, bytes, sizeof bytes),
             (double)prediction.iteration_ns / 1e6, late ? ": later than slo.tpot_ms promises" : "");
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
    offload_choose_rings(offload, deadline_ns);
    foretell_stream(offload, deadline_ns);
    return STATUS_SUCCESS;
}

void offload_begin(struct offload *offload, struct stream *compute, const struct offload_demand *demand) {
    offload->report.deadline_ns = demand->deadline_ns;
    offload->rows = demand->rows;
    list_groups(offload);
    if (offload->tuned) {
        tune(offload, demand);
    } else {
        struct plan_load load = offload_load_of(offload, demand->rows, (double)demand->context_tokens / demand->rows);
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

/* Takes the iteration's times, once: taking them empties the counts. */
static void measure(struct offload *offload) {
    if (!offload->measured) {
        struct pipeline_busy busy;
        offload->link_shared = kv_traffic(offload->kv, &busy.begin_ns, &busy.end_ns);
        pipeline_times(offload->pipeline, offload->link_shared ? &busy : NULL, &offload->times);
        offload->kv_waited_ns = kv_stall_ns(offload->kv);
        offload->measured = true;
    }
}

struct offload_waits offload_waits(struct offload *offload) {
    measure(offload);
    return (struct offload_waits){.stall_ns = offload->times.stall_ns,
                                  .kv_stall_ns = offload->kv_waited_ns,
                                  .copied_bytes = offload->times.copied_bytes,
                                  .link_bytes = offload->times.sample_bytes,
                                  .link_ns = offload->times.sample_ns};
}

void offload_end(struct offload *offload, uint64_t iteration_ns) {
    measure(offload);
    offload->measured = false;
    const struct pipeline_times times = offload->times;
    offload_count_kv(offload);
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
    offload_watch_layers(offload, times.layers_ns / offload->config.layers);
    report->total_stall_ns += times.stall_ns;
    report->total_kv_stall_ns += offload->kv_waited_ns;
    report->total_late += iteration_ns > report->deadline_ns;
    if (offload->tuned) {
        struct tuner_measurement measurement = {.iteration_ns = iteration_ns,
                                                .layers_ns = times.layers_ns,
                                                .stall_ns = times.stall_ns,
                                                .link_bytes = times.sample_bytes,
                                                .link_ns = times.sample_ns,
                                                .late_bytes = times.late_bytes,
                                                .late_ns = times.late_ns,
                                                .link_shared = offload->link_shared};
        tuner_observe(&offload->tuner, &measurement);
        report->link_bytes_per_s = tuner_report(&offload->tuner).link_bytes_per_s;
    } else if (times.sample_ns > 0) {
        report->link_bytes_per_s = times.sample_bytes * UINT64_C(1000000000) / times.sample_ns;
    }
}
