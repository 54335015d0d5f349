#include "offload/pipeline.h"

#include "base/check.h"
#include "kernels/ops.h"
#include "kernels/range.h"

#include <stdlib.h>
#include <string.h>

#define NO_SLOT UINT32_MAX

/* One copy on its way through a staging slot: a slab, or from the number of slabs up a group of KV. */
struct transit {
    uint32_t layer, slab;
    uint64_t version; /* of a group */
};

struct staging_slot {
    struct event *arrived;  /* the copy into it, on the copy stream */
    struct event *released; /* its layer has ended, on the compute stream */
    struct transit holds;
};

struct layer_state {
    struct event *asked;                  /* compute arrived at the layer */
    struct event *started;                /* ... and had its slabs */
    bool waits;                           /* for slabs in this iteration: then the two say how long */
    struct event *came_home;              /* the last slab that was copied to stay */
    struct event *copy_begun, *copy_done; /* of the layer's last streamed slab: a sample of the link */
    uint8_t streamed;                     /* slabs that live in host memory only */
    bool coming;                          /* came_home has to be waited for once */
};

/* Where the copies are in the endless order of slabs: iteration after iteration, layer after layer. */
struct cursor {
    uint32_t layer, slab;
};

struct pipeline {
    struct device *device;
    struct pipeline_shape shape;
    struct arena *arena;
    const uint8_t *host;
    struct stream *copy;
    uint32_t *home;            /* (layers, slabs) arena slot, NO_SLOT */
    uint32_t *owner;           /* (staging + layers * slabs) slab that an arena slot is the home of, NO_SLOT */
    struct event *moved;       /* slabs that moved down inside the arena are where they belong */
    bool moving;               /* `moved` has to be waited for */
    bool *absent;              /* (layers, slabs) has a home and is not there yet */
    struct layer_state *layer; /* (layers) */
    struct staging_slot *ring; /* (shape.staging) */
    uint32_t staging;          /* slots of it that are in use */
    uint64_t sent;             /* ring copies enqueued; ring slot of the next is sent % staging */
    uint64_t taken;            /* ... acquired by a layer */
    uint64_t released;         /* ... whose layer was released */
    struct cursor next;        /* next slab to look at for a copy */
    uint32_t running_ahead;    /* iterations that `next` is ahead of the layer being computed: 0 or more */
    uint32_t current;          /* layer that is or will be acquired next */
    uint32_t started;          /* layers of this iteration whose start is recorded */
    bool held;                 /* current is acquired */
    struct pipeline_group group[KV_MAX_GROUPS];
    uint32_t groups;
    uint64_t group_at[KV_MAX_GROUPS]; /* of the layer that is held */
    struct event *ended;              /* the last layer of an iteration */
    uint32_t prefetch;
    uint64_t copied_bytes; /* since the last pipeline_times() */
    uint32_t copies;
    const void *address[PIPELINE_MAX_SLABS];
};

static size_t slab_index(const struct pipeline *pipeline, uint32_t layer, uint32_t slab) {
    return (size_t)layer * pipeline->shape.slabs + slab;
}

static void set_home(struct pipeline *pipeline, uint32_t index, uint32_t slot) {
    if (pipeline->home[index] != NO_SLOT) {
        pipeline->owner[pipeline->home[index]] = NO_SLOT;
    }
    pipeline->home[index] = slot;
    if (slot != NO_SLOT) {
        CHECK(pipeline->owner[slot] == NO_SLOT);
        pipeline->owner[slot] = index;
    }
}

/* ---- life ---- */

static struct status create_events(struct pipeline *pipeline) {
    struct device *device = pipeline->device;
    for (uint32_t i = 0; i < pipeline->shape.layers; i++) {
        struct layer_state *layer = &pipeline->layer[i];
        TRY(event_create(device, &layer->asked));
        TRY(event_create(device, &layer->started));
        TRY(event_create(device, &layer->came_home));
        TRY(event_create(device, &layer->copy_begun));
        TRY(event_create(device, &layer->copy_done));
    }
    for (uint32_t i = 0; i < pipeline->shape.staging; i++) {
        TRY(event_create(device, &pipeline->ring[i].arrived));
        TRY(event_create(device, &pipeline->ring[i].released));
    }
    TRY(event_create(device, &pipeline->moved));
    TRY(event_create(device, &pipeline->ended));
    return stream_create(device, STREAM_COPY, &pipeline->copy);
}

struct status pipeline_create(struct device *device, const struct pipeline_shape *shape, struct arena *arena,
                              const uint8_t *host, const uint8_t *streamed, struct pipeline **out) {
    CHECK(shape->layers > 0 && shape->slabs > 0 && shape->slabs <= PIPELINE_MAX_SLABS);
    struct pipeline *pipeline = calloc(1, sizeof *pipeline);
    if (!pipeline) {
        return status_error(STATUS_NO_MEMORY, "no memory for the copy pipeline");
    }
    size_t slabs = (size_t)shape->layers * shape->slabs;
    *pipeline = (struct pipeline){.device = device,
                                  .shape = *shape,
                                  .arena = arena,
                                  .host = host,
                                  .staging = shape->staging,
                                  .home = malloc(slabs * sizeof *pipeline->home),
                                  .owner = malloc((slabs + shape->staging) * sizeof *pipeline->owner),
                                  .absent = calloc(slabs, sizeof *pipeline->absent),
                                  .layer = calloc(shape->layers, sizeof *pipeline->layer),
                                  .ring = calloc(shape->staging + 1, sizeof *pipeline->ring)};
    struct status status = status_error(STATUS_NO_MEMORY, "no memory for the copy pipeline of %zu slabs", slabs);
    if (pipeline->home && pipeline->owner && pipeline->absent && pipeline->layer && pipeline->ring) {
        status = create_events(pipeline);
    }
    if (status_failed(&status)) {
        pipeline_destroy(pipeline);
        return status;
    }
    for (size_t i = 0; i < slabs + shape->staging; i++) {
        pipeline->owner[i] = NO_SLOT;
    }
    uint32_t slot = shape->staging;
    for (uint32_t layer = 0; layer < shape->layers; layer++) {
        CHECK(streamed[layer] <= shape->slabs && (streamed[layer] == 0 || (host && streamed[layer] <= shape->staging)));
        pipeline->layer[layer].streamed = streamed[layer];
        for (uint32_t slab = 0; slab < shape->slabs; slab++) {
            bool stays = slab < shape->slabs - streamed[layer];
            uint32_t index = (uint32_t)slab_index(pipeline, layer, slab);
            pipeline->home[index] = NO_SLOT;
            if (stays) {
                set_home(pipeline, index, slot++);
            }
        }
    }
    CHECK(slot <= arena->boundary);
    *out = pipeline;
    return STATUS_SUCCESS;
}

void pipeline_destroy(struct pipeline *pipeline) {
    if (!pipeline) {
        return;
    }
    stream_destroy(pipeline->copy);
    for (uint32_t i = 0; pipeline->layer && i < pipeline->shape.layers; i++) {
        event_destroy(pipeline->layer[i].asked);
        event_destroy(pipeline->layer[i].started);
        event_destroy(pipeline->layer[i].came_home);
        event_destroy(pipeline->layer[i].copy_begun);
        event_destroy(pipeline->layer[i].copy_done);
    }
    for (uint32_t i = 0; pipeline->ring && i < pipeline->shape.staging; i++) {
        event_destroy(pipeline->ring[i].arrived);
        event_destroy(pipeline->ring[i].released);
    }
    event_destroy(pipeline->moved);
    event_destroy(pipeline->ended);
    free(pipeline->home);
    free(pipeline->owner);
    free(pipeline->absent);
    free(pipeline->layer);
    free(pipeline->ring);
    free(pipeline);
}

uint32_t pipeline_home(const struct pipeline *pipeline, uint32_t layer, uint32_t slab) {
    return pipeline->home[slab_index(pipeline, layer, slab)];
}

struct stream *pipeline_copy_stream(const struct pipeline *pipeline) {
    return pipeline->copy;
}

void pipeline_set_prefetch(struct pipeline *pipeline, uint32_t prefetch) {
    pipeline->prefetch = prefetch;
}

uint32_t pipeline_slots(const struct pipeline *pipeline, const uint8_t *streamed) {
    uint32_t slots = pipeline->staging;
    for (uint32_t layer = 0; layer < pipeline->shape.layers; layer++) {
        slots += pipeline->shape.slabs - streamed[layer];
    }
    return slots;
}

/* ---- copies ---- */

static const uint8_t *host_slab(const struct pipeline *pipeline, uint32_t layer, uint32_t slab) {
    return pipeline->host + slab_index(pipeline, layer, slab) * pipeline->arena->slot_bytes;
}

static void copy_slab(struct pipeline *pipeline, uint32_t layer, uint32_t slab, uint32_t slot) {
    size_t bytes = pipeline->arena->slot_bytes;
    range_begin("copy of a layer's slab", layer);
    stream_copy(pipeline->copy, arena_slot_address(pipeline->arena, slot), host_slab(pipeline, layer, slab), bytes,
                COPY_HOST_TO_DEVICE);
    range_end();
    pipeline->copied_bytes += bytes;
    pipeline->copies++;
}

static void advance(struct pipeline *pipeline) {
    struct cursor *next = &pipeline->next;
    if (++next->slab == pipeline->shape.slabs + pipeline->groups) {
        next->slab = 0;
        if (++next->layer == pipeline->shape.layers) {
            next->layer = 0;
            pipeline->running_ahead++;
        }
    }
}

/* May the copy for `next` be enqueued yet, by the prefetch rule? Layers count on across iterations; the copy then waits
 * for the start of the layer `prefetch` before its own, which must have been recorded. */
static bool is_near_enough(const struct pipeline *pipeline) {
    if (pipeline->prefetch == 0) {
        return true;
    }
    uint64_t wanted = (uint64_t)pipeline->running_ahead * pipeline->shape.layers + pipeline->next.layer;
    return wanted < (uint64_t)pipeline->started + pipeline->prefetch;
}

/* Before the first copy of a layer: not before the layer `prefetch` ahead of it has started on the compute stream. */
static void wait_for_turn(struct pipeline *pipeline, uint32_t layer) {
    if (pipeline->prefetch > 0) {
        uint32_t layers = pipeline->shape.layers;
        uint32_t ahead = (layer + layers - pipeline->prefetch % layers) % layers;
        stream_wait(pipeline->copy, pipeline->layer[ahead].started);
    }
}

static void send_home(struct pipeline *pipeline, uint32_t layer, uint32_t slab) {
    size_t index = slab_index(pipeline, layer, slab);
    copy_slab(pipeline, layer, slab, pipeline->home[index]);
    event_record(pipeline->layer[layer].came_home, pipeline->copy);
    pipeline->layer[layer].coming = true;
    pipeline->absent[index] = false;
}

/* A layer's part of a group, its blocks' parts one after another. */
static void copy_group(struct pipeline *pipeline, uint32_t layer, const struct pipeline_group *group, uint32_t slot) {
    const size_t bytes = pipeline->shape.kv_layer_bytes;
    stream_copy_rows(pipeline->copy, arena_slot_address(pipeline->arena, slot), group->blocks + layer * bytes,
                     pipeline->shape.kv_block_bytes, bytes, group->count);
    pipeline->copied_bytes += bytes * group->count;
    pipeline->copies++;
}

static void send_to_ring(struct pipeline *pipeline, uint32_t layer, uint32_t slab) {
    uint32_t slot = (uint32_t)(pipeline->sent % pipeline->staging), slabs = pipeline->shape.slabs;
    struct staging_slot *entry = &pipeline->ring[slot];
    if (pipeline->sent >= pipeline->staging) {
        stream_wait(pipeline->copy, entry->released); /* the ring-slot rule */
    }
    wait_for_turn(pipeline, layer);
    bool sampled = slab + 1 == slabs;
    if (sampled) {
        event_record(pipeline->layer[layer].copy_begun, pipeline->copy);
    }
    entry->holds = (struct transit){.layer = layer, .slab = slab};
    if (slab < slabs) {
        copy_slab(pipeline, layer, slab, slot);
    } else {
        copy_group(pipeline, layer, &pipeline->group[slab - slabs], slot);
        entry->holds.version = pipeline->group[slab - slabs].version;
    }
    event_record(entry->arrived, pipeline->copy);
    if (sampled) {
        event_record(pipeline->layer[layer].copy_done, pipeline->copy);
    }
    pipeline->sent++;
}

/* Does what the cursor is at pass through the ring? */
static bool passes(const struct pipeline *pipeline, const struct cursor *at) {
    return at->slab >= pipeline->shape.slabs || pipeline->home[slab_index(pipeline, at->layer, at->slab)] == NO_SLOT;
}

/* Enqueues every copy that may be enqueued now. */
static void pump(struct pipeline *pipeline) {
    uint32_t looked = 0, all = pipeline->shape.layers * (pipeline->shape.slabs + pipeline->groups);
    while (looked++ < 2 * all && pipeline->running_ahead <= 1 && is_near_enough(pipeline)) {
        uint32_t layer = pipeline->next.layer, slab = pipeline->next.slab;
        if (passes(pipeline, &pipeline->next)) {
            if (pipeline->sent - pipeline->released >= pipeline->staging) {
                return;
            }
            send_to_ring(pipeline, layer, slab);
        } else if (pipeline->absent[slab_index(pipeline, layer, slab)]) {
            send_home(pipeline, layer, slab);
        }
        advance(pipeline);
    }
}

/* ---- an iteration ---- */

void pipeline_begin(struct pipeline *pipeline, struct stream *compute) {
    CHECK(!pipeline->held && pipeline->current == 0);
    if (pipeline->moving) { /* what lies above the boundary now may be overwritten by KV blocks after this */
        stream_wait(compute, pipeline->moved);
        pipeline->moving = false;
    }
    if (pipeline->host) {
        pump(pipeline);
    }
}

/* The ring slot that holds what the layer takes next, once compute has waited for it. */
static void *take(struct pipeline *pipeline, struct stream *compute, uint32_t layer, uint32_t slab) {
    CHECK(pipeline->taken < pipeline->sent);
    uint32_t slot = (uint32_t)(pipeline->taken++ % pipeline->staging);
    struct staging_slot *entry = &pipeline->ring[slot];
    CHECK(entry->holds.layer == layer && entry->holds.slab == slab);
    stream_wait(compute, entry->arrived);
    return arena_slot_address(pipeline->arena, slot);
}

const void *const *pipeline_acquire(struct pipeline *pipeline, struct stream *compute, uint32_t layer) {
    struct layer_state *state = &pipeline->layer[layer];
    CHECK(!pipeline->held && layer == pipeline->current);
    pipeline->held = true;
    state->waits = pipeline->host && (state->streamed > 0 || state->coming || pipeline->groups > 0);
    if (pipeline->host) {
        pump(pipeline);
    }
    if (state->waits) {
        event_record(state->asked, compute);
    }
    if (state->coming) {
        stream_wait(compute, state->came_home);
        state->coming = false;
    }
    uint32_t stays = pipeline->shape.slabs - state->streamed;
    for (uint32_t slab = 0; slab < stays; slab++) {
        size_t index = slab_index(pipeline, layer, slab);
        CHECK(!pipeline->absent[index]);
        pipeline->address[slab] = arena_slot_address(pipeline->arena, pipeline->home[index]);
    }
    for (uint32_t slab = stays; slab < pipeline->shape.slabs; slab++) {
        pipeline->address[slab] = take(pipeline, compute, layer, slab);
    }
    for (uint32_t i = 0; i < pipeline->groups; i++) {
        uint64_t at = (uint64_t)(uintptr_t)take(pipeline, compute, layer, pipeline->shape.slabs + i);
        pipeline->group_at[i] = at - layer * pipeline->shape.kv_layer_bytes;
    }
    if (pipeline->host) {
        if (state->waits || layer == 0 || pipeline->prefetch > 0) { /* no more events than somebody asks for */
            event_record(state->started, compute);
        }
        pipeline->started = layer + 1;
        pump(pipeline); /* copies that may start with this layer */
    }
    return pipeline->address;
}

void pipeline_release(struct pipeline *pipeline, struct stream *compute, uint32_t layer) {
    CHECK(pipeline->held && layer == pipeline->current);
    pipeline->held = false;
    if (pipeline->host && layer + 1 == pipeline->shape.layers) {
        event_record(pipeline->ended, compute);
    }
    for (; pipeline->released < pipeline->taken; pipeline->released++) {
        event_record(pipeline->ring[pipeline->released % pipeline->staging].released, compute);
    }
    if (++pipeline->current == pipeline->shape.layers) {
        pipeline->current = pipeline->started = 0;
        CHECK(!pipeline->host || pipeline->running_ahead > 0);
        pipeline->running_ahead -= pipeline->host != NULL;
    }
    if (pipeline->host) {
        pump(pipeline);
    }
}

/* ---- a new placement ---- */

/* Gives the slabs that leave no home, and those that come none yet; marks the latter absent. */
static void change_residents(struct pipeline *pipeline, const uint8_t *streamed) {
    uint32_t slabs = pipeline->shape.slabs;
    for (uint32_t layer = 0; layer < pipeline->shape.layers; layer++) {
        CHECK(streamed[layer] <= slabs && streamed[layer] <= pipeline->staging);
        uint32_t before = slabs - pipeline->layer[layer].streamed, after = slabs - streamed[layer];
        for (uint32_t slab = after; slab < before; slab++) {
            set_home(pipeline, (uint32_t)slab_index(pipeline, layer, slab), NO_SLOT);
            pipeline->absent[slab_index(pipeline, layer, slab)] = false;
        }
        for (uint32_t slab = before; slab < after; slab++) {
            pipeline->absent[slab_index(pipeline, layer, slab)] = true;
        }
        pipeline->layer[layer].streamed = streamed[layer];
    }
}

static uint32_t free_slot_from(const struct pipeline *pipeline, uint32_t slot) {
    while (pipeline->owner[slot] != NO_SLOT) {
        slot++;
    }
    return slot;
}

/* Every resident slab gets a slot from the ring up to `end`: those above move down, those where the ring has grown move
 * up, those that come get what is free. */
static void settle_residents(struct pipeline *pipeline, uint32_t end) {
    uint32_t total = pipeline->shape.layers * pipeline->shape.slabs;
    uint32_t hole = pipeline->staging;
    for (uint32_t slot = 0; slot < total + pipeline->shape.staging; slot++) {
        uint32_t index = pipeline->owner[slot];
        if (index == NO_SLOT || (slot >= pipeline->staging && slot < end)) {
            continue;
        }
        hole = free_slot_from(pipeline, hole);
        CHECK(hole < end);
        if (!pipeline->absent[index]) {
            stream_copy(pipeline->copy, arena_slot_address(pipeline->arena, hole),
                        arena_slot_address(pipeline->arena, slot), pipeline->arena->slot_bytes, COPY_DEVICE_TO_DEVICE);
            pipeline->moving = true;
        }
        set_home(pipeline, index, hole);
    }
    for (uint32_t index = 0; index < total; index++) {
        if (pipeline->absent[index] && pipeline->home[index] == NO_SLOT) {
            hole = free_slot_from(pipeline, hole);
            CHECK(hole < end && hole < pipeline->arena->boundary);
            set_home(pipeline, index, hole);
        }
    }
    if (pipeline->moving) {
        event_record(pipeline->moved, pipeline->copy);
    }
}

/* Of what the ring holds for the next iteration, keeps the longest run that is still the right order, and puts the
 * cursor behind it. */
static void realign_ring(struct pipeline *pipeline) {
    pipeline->next = (struct cursor){0};
    pipeline->running_ahead = 0;
    uint64_t kept = pipeline->taken;
    while (kept < pipeline->sent) {
        const struct cursor at = pipeline->next;
        bool is_kv = at.slab >= pipeline->shape.slabs;
        if ((!is_kv && pipeline->absent[slab_index(pipeline, at.layer, at.slab)]) || pipeline->running_ahead > 1) {
            break;
        }
        if (passes(pipeline, &at)) {
            const struct transit *holds = &pipeline->ring[kept % pipeline->staging].holds;
            uint64_t version = is_kv ? pipeline->group[at.slab - pipeline->shape.slabs].version : 0;
            if (holds->layer != at.layer || holds->slab != at.slab || holds->version != version) {
                break;
            }
            kept++;
        }
        advance(pipeline);
    }
    pipeline->sent = kept;
}

void pipeline_set_ring(struct pipeline *pipeline, uint32_t staging) {
    CHECK(!pipeline->held && pipeline->current == 0 && pipeline->released == pipeline->taken);
    CHECK(staging > 0 && staging <= pipeline->shape.staging);
    if (staging != pipeline->staging) {
        pipeline->staging = staging;
        pipeline->sent = pipeline->taken = pipeline->released = 0; /* compute has ended: nobody reads what is lost */
    }
}

void pipeline_place(struct pipeline *pipeline, const uint8_t *streamed) {
    CHECK(pipeline->host && !pipeline->held && pipeline->current == 0 && pipeline->released == pipeline->taken);
    change_residents(pipeline, streamed);
    settle_residents(pipeline, pipeline_slots(pipeline, streamed));
    realign_ring(pipeline);
}

void pipeline_set_groups(struct pipeline *pipeline, const struct pipeline_group *groups, uint32_t count) {
    CHECK(count <= KV_MAX_GROUPS && !pipeline->held && pipeline->current == 0 && pipeline->released == pipeline->taken);
    bool same = count == pipeline->groups;
    for (uint32_t i = 0; i < count; i++) {
        CHECK(groups[i].count > 0 && groups[i].count * pipeline->shape.kv_layer_bytes <= pipeline->arena->slot_bytes);
        same = same && groups[i].version == pipeline->group[i].version && groups[i].count == pipeline->group[i].count &&
               groups[i].blocks == pipeline->group[i].blocks;
        pipeline->group[i] = groups[i];
    }
    pipeline->groups = count;
    if (!same) {
        realign_ring(pipeline);
    }
}

const uint64_t *pipeline_groups(const struct pipeline *pipeline) {
    return pipeline->group_at;
}

/* ---- measurements ---- */

void pipeline_times(struct pipeline *pipeline, const struct pipeline_busy *busy, struct pipeline_times *out) {
    *out = (struct pipeline_times){.copied_bytes = pipeline->copied_bytes, .copies = pipeline->copies};
    pipeline->copied_bytes = pipeline->copies = 0;
    if (!pipeline->host) {
        return;
    }
    uint64_t latest = 0;
    out->layers_ns = event_time_ns(pipeline->ended) - event_time_ns(pipeline->layer[0].started);
    for (uint32_t i = 0; i < pipeline->shape.layers; i++) {
        const struct layer_state *layer = &pipeline->layer[i];
        uint64_t waited = layer->waits ? event_time_ns(layer->started) - event_time_ns(layer->asked) : 0;
        out->stall_ns += waited;
        out->layers_ns -= i > 0 ? waited : 0; /* the first layer's wait came before its start */
        if (layer->streamed > 0 && event_query(layer->copy_done)) {
            uint64_t begun = event_time_ns(layer->copy_begun), done = event_time_ns(layer->copy_done);
            bool shared = busy && begun < busy->end_ns && done > busy->begin_ns;
            if (done > begun && !shared) {
                out->sample_ns += done - begun;
                out->sample_bytes += pipeline->arena->slot_bytes;
                if (done > latest) {
                    latest = done;
                    out->late_bytes = pipeline->arena->slot_bytes;
                    out->late_ns = done - begun;
                }
            }
        }
    }
}

static struct status time_copy(struct pipeline *pipeline, size_t bytes, uint64_t *best_ns) {
    const struct layer_state *layer = &pipeline->layer[0];
    *best_ns = UINT64_MAX;
    for (int i = 0; i < 5; i++) {
        event_record(layer->copy_begun, pipeline->copy);
        stream_copy(pipeline->copy, arena_slot_address(pipeline->arena, 0), pipeline->host, bytes, COPY_HOST_TO_DEVICE);
        event_record(layer->copy_done, pipeline->copy);
        TRY(stream_sync(pipeline->copy));
        uint64_t took = event_time_ns(layer->copy_done) - event_time_ns(layer->copy_begun);
        *best_ns = took < *best_ns ? took : *best_ns;
    }
    return STATUS_SUCCESS;
}

struct status pipeline_measure_link(struct pipeline *pipeline, uint64_t *bytes_per_s, uint64_t *copy_ns) {
    CHECK(pipeline->host && pipeline->shape.staging > 0 && !pipeline->held && pipeline->current == 0);
    TRY(stream_sync(pipeline->copy));
    pipeline->sent = pipeline->taken;
    realign_ring(pipeline);
    uint64_t small_ns = 0, slab_ns = 0;
    const size_t bytes = pipeline->arena->slot_bytes;
    TRY(time_copy(pipeline, 64, &small_ns));
    TRY(time_copy(pipeline, bytes, &slab_ns));
    *copy_ns = small_ns;
    uint64_t moving_ns = slab_ns > 2 * small_ns ? slab_ns - small_ns : slab_ns;
    *bytes_per_s = (uint64_t)((double)bytes * 1e9 / (double)(moving_ns > 0 ? moving_ns : 1));
    return STATUS_SUCCESS;
}
