/* A team's memory, streams, events and clock: rank after rank. Threads: the one that owns the device. */
#include "kernels/team/team.h"

#include "base/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct team_event {
    struct event base;
    struct event *rank[DEVICE_MOST_RANKS];
};

static struct team_stream *stream_of(struct stream *stream) {
    return (struct team_stream *)stream;
}

struct device *team_enter(const struct team *team, uint32_t rank) {
    struct device *device = team->rank[rank];
    if (device->backend->select) {
        device->backend->select(device);
    }
    return device;
}

/* ---- addresses ---- */

static struct team_memory *find(struct team_memory *memory, const void *address) {
    for (; memory; memory = memory->next) {
        if ((uintptr_t)address - (uintptr_t)memory->at[0] < memory->bytes) {
            return memory;
        }
    }
    return NULL;
}

void *team_address(const struct team *team, const void *address, uint32_t rank) {
    const struct team_memory *memory = rank == 0 ? NULL : find(team->device, address);
    if (rank > 0 && !memory) {
        memory = find(team->host, address);
    }
    return memory ? memory->at[rank] + ((const uint8_t *)address - memory->at[0]) : (void *)address;
}

void *team_rank_host(const struct device *device, void *host, uint32_t rank) {
    const struct team *team = team_of(device);
    CHECK(rank < team->ranks && find(team->host, host));
    return team_address(team, host, rank);
}

void team_share(struct device *device, const void *host, size_t bytes) {
    const struct team *team = team_of(device);
    for (uint32_t r = 1; r < team->ranks; r++) {
        memcpy(team_rank_host(device, (void *)host, r), host, bytes);
    }
}

/* The allocation that KV blocks lie in: that of the first of the table's entries that is an address. */
static struct team_memory *find_blocks(const struct team *team, const uint64_t *entries, size_t count) {
    struct team_memory *memory = NULL;
    for (size_t i = 0; i < count && !memory; i++) {
        memory = entries[i] & 1 ? NULL : find(team->device, (const void *)(uintptr_t)entries[i]);
    }
    return memory;
}

/* Entries that no block stands behind are whatever they were. */
void team_share_table(struct device *device, const uint64_t *host, size_t count) {
    struct team *team = team_of(device);
    const struct team_memory *blocks = find_blocks(team, host, count);
    team->blocks = blocks ? blocks : team->blocks;
    for (uint32_t r = 1; r < team->ranks && team->blocks; r++) {
        uint64_t *own = team_rank_host(device, (void *)host, r);
        const uint64_t first = (uint64_t)(uintptr_t)team->blocks->at[0], bytes = team->blocks->bytes;
        const uint64_t ours = (uint64_t)(uintptr_t)team->blocks->at[r];
        for (size_t i = 0; i < count; i++) {
            const bool address = (host[i] & 1) == 0 && host[i] - first < bytes;
            own[i] = address ? host[i] - first + ours : host[i];
        }
    }
}

/* ---- opening ---- */

static void team_close(struct device *device) {
    struct team *team = team_of(device);
    CHECK(!team->device && !team->host);
    if (team->collective) {
        team->collective->kind->destroy(team->collective);
    }
    for (uint32_t r = 0; r < team->ranks; r++) {
        device_close(team_enter(team, r));
    }
    free(team);
}

static struct status open_ranks(const struct backend *kind, const struct device_config *config, struct team *team) {
    for (uint32_t r = 0; r < config->ranks; r++) {
        struct device_config own = *config;
        own.rank = r;
        own.seed = config->seed + r;
        TRY(status_context(kind->open(&own, &team->rank[r]), "rank %u", r));
        team->ranks++;
    }
    return kind->join(team->rank, team->ranks, config, &team->collective);
}

struct status team_open(const struct backend *kind, const struct device_config *config, struct device **out) {
    struct team *team = calloc(1, sizeof *team);
    if (!team) {
        return status_error(STATUS_NO_MEMORY, "no memory for a team of %u ranks", config->ranks);
    }
    team->base.backend = &team_backend;
    struct status status = open_ranks(kind, config, team);
    if (status_failed(&status)) {
        team_close(&team->base);
        return status;
    }
    *out = &team->base;
    return STATUS_SUCCESS;
}

static struct device_info team_info(const struct device *device) {
    const struct team *team = team_of(device);
    struct device_info info = device_info(team->rank[0]);
    const struct device_info one = info;
    info.ranks = team->ranks;
    info.invariant = one.invariant && (team->collective->kind->ordered || team->ranks <= 2);
    info.sums = team->collective->kind->name;
    snprintf(info.description, sizeof info.description, "%u ranks of %.80s, sums by %s", team->ranks, one.description,
             info.sums);
    return info;
}

static struct status team_prepare(struct device *device, const struct device_limits *limits) {
    const struct team *team = team_of(device);
    for (uint32_t r = 0; r < team->ranks; r++) {
        TRY(status_context(device_prepare(team_enter(team, r), limits), "rank %u", r));
    }
    return STATUS_SUCCESS;
}

/* ---- memory ---- */

typedef struct status alloc_function(struct device *device, size_t bytes, const char *what, void **out);
typedef void free_function(struct device *device, void *address);

/* Frees what the first `ranks` have of it. */
static void free_memory(const struct team *team, struct team_memory *memory, uint32_t ranks, free_function *give) {
    for (uint32_t r = 0; r < ranks; r++) {
        give(team_enter(team, r), memory->at[r]);
    }
    free(memory);
}

static struct status alloc_memory(const struct team *team, size_t bytes, const char *what, alloc_function *take,
                                  free_function *give, struct team_memory **list, void **out) {
    struct team_memory *memory = calloc(1, sizeof *memory);
    if (!memory) {
        return status_error(STATUS_NO_MEMORY, "%s: no memory to note an allocation", what);
    }
    memory->bytes = bytes;
    for (uint32_t r = 0; r < team->ranks; r++) {
        void *address = NULL;
        struct status status = take(team_enter(team, r), bytes, what, &address);
        if (status_failed(&status)) {
            free_memory(team, memory, r, give);
            return status_context(status, "rank %u", r);
        }
        memory->at[r] = address;
    }
    memory->next = *list;
    *list = memory;
    *out = memory->at[0];
    return STATUS_SUCCESS;
}

static void forget_memory(struct team *team, struct team_memory **list, const void *address, free_function *give) {
    while (*list && (*list)->at[0] != address) {
        list = &(*list)->next;
    }
    struct team_memory *memory = *list;
    CHECK(memory); /* else it was never allocated here, or freed twice */
    team->blocks = team->blocks == memory ? NULL : team->blocks;
    *list = memory->next;
    free_memory(team, memory, team->ranks, give);
}

static struct status team_alloc(struct device *device, size_t bytes, const char *what, void **out) {
    struct team *team = team_of(device);
    return alloc_memory(team, bytes, what, device_alloc, device_free, &team->device, out);
}

static void team_free(struct device *device, void *address) {
    struct team *team = team_of(device);
    forget_memory(team, &team->device, address, device_free);
}

static struct status team_alloc_host(struct device *device, size_t bytes, const char *what, void **out) {
    struct team *team = team_of(device);
    return alloc_memory(team, bytes, what, device_alloc_host, device_free_host, &team->host, out);
}

static void team_free_host(struct device *device, void *address) {
    struct team *team = team_of(device);
    forget_memory(team, &team->host, address, device_free_host);
}

static size_t team_packed_bytes(const struct device *device, enum tensor_type type, uint32_t rows, uint32_t columns) {
    return device_packed_bytes(team_of(device)->rank[0], type, rows, columns);
}

static void team_pack(const struct device *device, enum tensor_type type, uint32_t rows, uint32_t columns,
                      const void *source, void *packed) {
    device_pack(team_of(device)->rank[0], type, rows, columns, source, packed);
}

/* ---- streams ---- */

static void destroy_streams(const struct team *team, struct team_stream *stream) {
    for (uint32_t r = 0; r < team->ranks; r++) {
        team_enter(team, r);
        stream_destroy(stream->rank[r]);
    }
    free(stream);
}

static struct status team_stream_create(struct device *device, enum stream_kind kind, struct stream **out) {
    const struct team *team = team_of(device);
    struct team_stream *stream = calloc(1, sizeof *stream);
    if (!stream) {
        return status_error(STATUS_NO_MEMORY, "no memory for a stream");
    }
    stream->base = (struct stream){.device = device, .kind = kind};
    for (uint32_t r = 0; r < team->ranks; r++) {
        struct status status = stream_create(team_enter(team, r), kind, &stream->rank[r]);
        if (status_failed(&status)) {
            destroy_streams(team, stream);
            return status_context(status, "rank %u", r);
        }
    }
    *out = &stream->base;
    return STATUS_SUCCESS;
}

static void team_stream_destroy(struct stream *stream) {
    destroy_streams(team_of(stream->device), stream_of(stream));
}

static struct status team_stream_sync(struct stream *base) {
    const struct team *team = team_of(base->device);
    struct status first = STATUS_SUCCESS;
    for (uint32_t r = 0; r < team->ranks; r++) {
        team_enter(team, r);
        struct status status = stream_sync(stream_of(base)->rank[r]);
        first = status_failed(&first) ? first : status;
    }
    return first;
}

static void team_stream_copy(struct stream *base, void *target, const void *source, size_t bytes, enum copy_kind kind) {
    const struct team *team = team_of(base->device);
    for (uint32_t r = 0; r < team->ranks; r++) {
        team_enter(team, r);
        stream_copy(stream_of(base)->rank[r], team_address(team, target, r), team_address(team, source, r), bytes,
                    kind);
    }
}

void team_copy_to_rank(struct stream *base, uint32_t rank, void *target, const void *source, size_t bytes) {
    const struct team *team = team_of(base->device);
    CHECK(rank < team->ranks);
    team_enter(team, rank);
    stream_copy(stream_of(base)->rank[rank], team_address(team, target, rank), source, bytes, COPY_HOST_TO_DEVICE);
}

static void team_stream_copy_rows(struct stream *base, void *target, const void *source, size_t stride, size_t bytes,
                                  uint32_t rows) {
    const struct team *team = team_of(base->device);
    for (uint32_t r = 0; r < team->ranks; r++) {
        team_enter(team, r);
        stream_copy_rows(stream_of(base)->rank[r], team_address(team, target, r), team_address(team, source, r), stride,
                         bytes, rows);
    }
}

static void team_repeat_begin(struct stream *base) {
    const struct team *team = team_of(base->device);
    for (uint32_t r = 0; r < team->ranks; r++) {
        team_enter(team, r);
        stream_repeat_begin(stream_of(base)->rank[r]);
    }
}

static void team_repeat_end(struct stream *base) {
    const struct team *team = team_of(base->device);
    for (uint32_t r = 0; r < team->ranks; r++) {
        team_enter(team, r);
        stream_repeat_end(stream_of(base)->rank[r]);
    }
}

/* Ranks are alike: one's is each one's, here and below. */
static struct launch_count team_launch_count(const struct device *device) {
    return device_launch_count(team_of(device)->rank[0]);
}

static struct link_count team_link_count(const struct device *device) {
    return device_link_count(team_of(device)->rank[0]);
}

static void team_set_link(struct device *device, double link_bytes_per_s) {
    const struct team *team = team_of(device);
    for (uint32_t r = 0; r < team->ranks; r++) {
        device_set_link(team_enter(team, r), link_bytes_per_s);
    }
}

/* ---- events ---- */

static struct team_event *event_of(struct event *event) {
    return (struct team_event *)event;
}

static void destroy_events(const struct team *team, struct team_event *event) {
    for (uint32_t r = 0; r < team->ranks; r++) {
        team_enter(team, r);
        event_destroy(event->rank[r]);
    }
    free(event);
}

static struct status team_event_create(struct device *device, struct event **out) {
    const struct team *team = team_of(device);
    struct team_event *event = calloc(1, sizeof *event);
    if (!event) {
        return status_error(STATUS_NO_MEMORY, "no memory for an event");
    }
    event->base.device = device;
    for (uint32_t r = 0; r < team->ranks; r++) {
        struct status status = event_create(team_enter(team, r), &event->rank[r]);
        if (status_failed(&status)) {
            destroy_events(team, event);
            return status_context(status, "rank %u", r);
        }
    }
    *out = &event->base;
    return STATUS_SUCCESS;
}

static void team_event_destroy(struct event *event) {
    destroy_events(team_of(event->device), event_of(event));
}

static void team_event_record(struct event *event, struct stream *stream) {
    const struct team *team = team_of(event->device);
    for (uint32_t r = 0; r < team->ranks; r++) {
        team_enter(team, r);
        event_record(event_of(event)->rank[r], stream_of(stream)->rank[r]);
    }
}

static void team_stream_wait(struct stream *stream, struct event *event) {
    const struct team *team = team_of(event->device);
    for (uint32_t r = 0; r < team->ranks; r++) {
        team_enter(team, r);
        stream_wait(stream_of(stream)->rank[r], event_of(event)->rank[r]);
    }
}

static bool team_event_query(const struct event *event) {
    const struct team *team = team_of(event->device);
    for (uint32_t r = 0; r < team->ranks; r++) {
        team_enter(team, r);
        if (!event_query(((const struct team_event *)event)->rank[r])) {
            return false;
        }
    }
    return true;
}

/* Where a rank that has failed leaves the others waiting for it, whichever is past first is asked first. */
static struct status team_event_sync(struct event *event) {
    const struct team *team = team_of(event->device);
    const struct collective_kind *kind = team->collective->kind;
    struct status first = STATUS_SUCCESS;
    bool past[DEVICE_MOST_RANKS] = {false};
    for (uint32_t left = team->ranks; left > 0;) {
        for (uint32_t r = 0; r < team->ranks; r++) {
            team_enter(team, r);
            struct event *own = event_of(event)->rank[r];
            if (past[r] || (kind->abort && !event_query(own))) {
                continue;
            }
            struct status status = event_sync(own);
            past[r] = true;
            left--;
            if (status_failed(&status) && !status_failed(&first)) {
                const bool named = strncmp(status.message, "rank ", 5) == 0; /* told by another */
                first = named ? status : status_context(status, "rank %u", r);
                if (kind->abort) {
                    kind->abort(team->collective);
                }
            }
        }
    }
    return first;
}

/* When the last of the ranks had passed it. */
static uint64_t team_event_time_ns(const struct event *event) {
    const struct team *team = team_of(event->device);
    uint64_t last_ns = 0;
    for (uint32_t r = 0; r < team->ranks; r++) {
        team_enter(team, r);
        uint64_t own_ns = event_time_ns(((const struct team_event *)event)->rank[r]);
        last_ns = own_ns > last_ns ? own_ns : last_ns;
    }
    return last_ns;
}

/* ---- the clock ---- */

static uint64_t team_now_ns(const struct device *device) {
    return device_now_ns(team_of(device)->rank[0]);
}

static void team_sleep_until_ns(struct device *device, uint64_t time_ns) {
    device_sleep_until_ns(team_of(device)->rank[0], time_ns);
}

const struct backend team_backend = {
    .name = "team",
    .close = team_close,
    .info = team_info,
    .prepare = team_prepare,
    .alloc = team_alloc,
    .free = team_free,
    .alloc_host = team_alloc_host,
    .free_host = team_free_host,
    .packed_bytes = team_packed_bytes,
    .pack = team_pack,
    .stream_create = team_stream_create,
    .stream_destroy = team_stream_destroy,
    .stream_sync = team_stream_sync,
    .stream_copy = team_stream_copy,
    .stream_copy_rows = team_stream_copy_rows,
    .stream_wait = team_stream_wait,
    .repeat_begin = team_repeat_begin,
    .repeat_end = team_repeat_end,
    .launch_count = team_launch_count,
    .link_count = team_link_count,
    .set_link = team_set_link,
    .event_create = team_event_create,
    .event_destroy = team_event_destroy,
    .event_record = team_event_record,
    .event_query = team_event_query,
    .event_sync = team_event_sync,
    .event_time_ns = team_event_time_ns,
    .now_ns = team_now_ns,
    .sleep_until_ns = team_sleep_until_ns,
    .embed = team_embed,
    .add_rows = team_add_rows,
    .scale = team_scale,
    .rmsnorm = team_rmsnorm,
    .rmsnorm_add = team_rmsnorm_add,
    .layernorm = team_layernorm,
    .matmul = team_matmul,
    .matmul_partial = team_matmul_partial,
    .all_reduce = team_all_reduce,
    .rope_angles = team_rope_angles,
    .rope = team_rope,
    .kv_store = team_kv_store,
    .attention = team_attention,
    .gated = team_gated,
    .activate = team_activate,
    .gather = team_gather,
    .argmax = team_argmax,
    .sample = team_sample,
};
