#include "offload/kv.h"

#include "base/bytes.h"
#include "base/check.h"

#include <stdlib.h>
#include <string.h>

/* Points of the stream that can be waited for: the last so many tickets. To wait for an older one is to wait for a
 * later one that has taken its event, which comes after it on the same stream. */
#define POINTS 128

/* Of a place: a slot in host memory, not a block of the device. */
#define PARKED UINT32_C(0x80000000)
#define STREAMED UINT32_C(0x40000000)
#define NOBODY (STREAMED - 1)

struct kv {
    struct device *device;
    struct arena *arena;
    struct stream *stream;
    struct event *point[POINTS];
    struct event *begun;       /* the first copy over the link of those in flight */
    struct event *asked, *had; /* compute came to wait for blocks, and went on */
    struct event *read;        /* the copies of groups, so far */
    uint8_t *host;             /* slots: those for streaming first */
    size_t layer_bytes;        /* of a block */
    struct kv_groups groups;

    uint32_t *place; /* (handles) block of the device, or PARKED or STREAMED and a slot of the one kind or the other; of
                        a free handle, the next free one */
    uint32_t *owner; /* (blocks_most) the handle of a block in use */
    uint64_t *last;  /* (blocks_most) the ticket of the last copy that reads or writes a block */
    uint32_t *free_slots; /* (free_slot_count) a stack */
    uint32_t free_slot_count;
    uint32_t free_handle; /* the first; NOBODY: none */

    uint64_t sent;      /* the last ticket */
    uint64_t exchanged; /* handles, so often */
    uint64_t needed;    /* by the addresses given out */
    uint64_t waited;    /* by compute, for certain, or known to be done */
    uint64_t fenced;    /* by the stream of kv_fence() */
    bool busy;          /* `begun` is of copies not yet known to be done */
    bool stalled;       /* `asked` and `had` have not been looked at */
    struct kv_counts counts;
};

/* ---- life ---- */

static struct status create(struct kv *kv) {
    size_t bytes;
    uint32_t slots = kv->counts.host_blocks + kv->counts.stream_blocks;
    if (!bytes_multiply(slots, kv->arena->block_bytes, &bytes)) {
        return status_error(STATUS_NO_MEMORY, "%u KV blocks in host memory do not fit an address space", slots);
    }
    if (bytes > 0) {
        void *host = NULL;
        TRY(device_alloc_host(kv->device, bytes, "the host pool of KV blocks", &host));
        kv->host = host;
    }
    for (uint32_t i = 0; i < POINTS; i++) {
        TRY(event_create(kv->device, &kv->point[i]));
    }
    TRY(event_create(kv->device, &kv->begun));
    TRY(event_create(kv->device, &kv->asked));
    TRY(event_create(kv->device, &kv->had));
    TRY(event_create(kv->device, &kv->read));
    return stream_create(kv->device, STREAM_COPY, &kv->stream);
}

struct status kv_create(struct device *device, struct arena *arena, const struct kv_pool *pool, struct kv **out) {
    const uint32_t host_blocks = pool->parked, handles = arena->blocks_most + pool->parked + pool->streamed;
    CHECK(pool->parked < NOBODY / 4 && pool->streamed < NOBODY / 4 && arena->blocks_most < NOBODY / 4);
    CHECK(pool->layers > 0 && (pool->streamed == 0 || arena->block_bytes % pool->layers == 0));
    struct kv *kv = calloc(1, sizeof *kv);
    if (!kv) {
        return status_error(STATUS_NO_MEMORY, "no memory for the table of KV blocks");
    }
    *kv = (struct kv){.device = device,
                      .arena = arena,
                      .place = malloc((handles + 1) * sizeof *kv->place),
                      .owner = malloc((arena->blocks_most + 1) * sizeof *kv->owner),
                      .last = calloc(arena->blocks_most + 1, sizeof *kv->last),
                      .free_slots = malloc((host_blocks + 1) * sizeof *kv->free_slots),
                      .free_slot_count = host_blocks,
                      .free_handle = handles > 0 ? 0 : NOBODY,
                      .layer_bytes = arena->block_bytes / pool->layers,
                      .counts.host_blocks = host_blocks,
                      .counts.stream_blocks = pool->streamed};
    struct status status = status_error(STATUS_NO_MEMORY, "no memory for the table of %u KV blocks", handles);
    if (kv->place && kv->owner && kv->last && kv->free_slots) {
        status = kv_groups_create(pool->streamed, pool->group, &kv->groups);
    }
    if (!status_failed(&status)) {
        status = create(kv);
    }
    if (status_failed(&status)) {
        kv_destroy(kv);
        return status;
    }
    for (uint32_t i = 0; i < handles; i++) {
        kv->place[i] = i + 1 < handles ? i + 1 : NOBODY;
    }
    for (uint32_t i = 0; i < arena->blocks_most; i++) {
        kv->owner[i] = NOBODY;
    }
    for (uint32_t i = 0; i < host_blocks; i++) {
        kv->free_slots[i] = host_blocks - 1 - i;
    }
    *out = kv;
    return STATUS_SUCCESS;
}

void kv_destroy(struct kv *kv) {
    if (!kv) {
        return;
    }
    stream_destroy(kv->stream);
    for (uint32_t i = 0; i < POINTS; i++) {
        event_destroy(kv->point[i]);
    }
    event_destroy(kv->begun);
    event_destroy(kv->asked);
    event_destroy(kv->had);
    event_destroy(kv->read);
    kv_groups_destroy(&kv->groups);
    if (kv->host) {
        device_free_host(kv->device, kv->host);
    }
    free(kv->place);
    free(kv->owner);
    free(kv->last);
    free(kv->free_slots);
    free(kv);
}

/* ---- copies ---- */

/* Puts a copy of one block on the stream and returns its ticket. */
static uint64_t send(struct kv *kv, void *target, const void *source, enum copy_kind kind) {
    const size_t bytes = kv->arena->block_bytes;
    if (kind != COPY_DEVICE_TO_DEVICE && !kv->busy) {
        event_record(kv->begun, kv->stream);
        kv->busy = true;
    }
    stream_copy(kv->stream, target, source, bytes, kind);
    event_record(kv->point[++kv->sent % POINTS], kv->stream);
    switch (kind) {
    case COPY_DEVICE_TO_HOST:
        kv->counts.blocks_out++;
        kv->counts.bytes_out += bytes;
        break;
    case COPY_HOST_TO_DEVICE:
        kv->counts.blocks_in++;
        kv->counts.bytes_in += bytes;
        break;
    case COPY_DEVICE_TO_DEVICE:
        kv->counts.blocks_moved++;
        break;
    }
    return kv->sent;
}

static void *streamed_address(const struct kv *kv, uint32_t slot) {
    return kv->host + (size_t)slot * kv->arena->block_bytes;
}

static void *parked_address(const struct kv *kv, uint32_t slot) {
    return streamed_address(kv, kv->counts.stream_blocks + slot);
}

/* ---- blocks ---- */

static void put_on_device(struct kv *kv, uint32_t handle, uint32_t block) {
    kv->place[handle] = block;
    kv->owner[block] = handle;
}

bool kv_take(struct kv *kv, uint32_t *handle) {
    uint32_t block;
    if (!arena_take_block(kv->arena, &block)) {
        return false;
    }
    CHECK(kv->free_handle != NOBODY); /* there is one for each place a block may be in */
    *handle = kv->free_handle;
    kv->free_handle = kv->place[*handle];
    put_on_device(kv, *handle, block);
    return true;
}

bool kv_is_parked(const struct kv *kv, uint32_t handle) {
    return (kv->place[handle] & PARKED) != 0;
}

uint32_t kv_handles(const struct kv *kv) {
    return kv->arena->blocks_most + kv->counts.host_blocks + kv->counts.stream_blocks;
}

bool kv_is_streamed(const struct kv *kv, uint32_t handle) {
    return (kv->place[handle] & STREAMED) != 0;
}

static uint32_t streamed_slot(const struct kv *kv, uint32_t handle) {
    CHECK(kv_is_streamed(kv, handle));
    return kv->place[handle] & ~STREAMED;
}

static uint32_t block_of(const struct kv *kv, uint32_t handle) {
    CHECK(handle < kv_handles(kv));
    uint32_t block = kv->place[handle];
    CHECK(block < kv->arena->blocks && kv->owner[block] == handle); /* else it is parked, or was given back */
    return block;
}

static void give_slot(struct kv *kv, uint32_t handle) {
    kv->free_slots[kv->free_slot_count++] = kv->place[handle] & ~PARKED; /* who copies here next comes after on the
                                                                            same stream */
    kv->counts.parked--;
}

void kv_give(struct kv *kv, uint32_t handle) {
    if (kv_is_parked(kv, handle)) {
        give_slot(kv, handle);
    } else if (kv_is_streamed(kv, handle)) {
        kv_groups_give(&kv->groups, streamed_slot(kv, handle));
    } else {
        uint32_t block = block_of(kv, handle);
        kv->owner[block] = NOBODY;
        arena_give_block(kv->arena, block);
    }
    kv->place[handle] = kv->free_handle;
    kv->free_handle = handle;
}

/* Asked in every iteration for every block of all that run, thousands of them: what does not change is read once. */
void kv_addresses(struct kv *kv, const uint32_t *handles, uint32_t count, uint64_t *out) {
    const uint32_t *const place = kv->place, *const owner = kv->owner;
    const uint64_t *const last = kv->sent > kv->waited ? kv->last : NULL; /* else nobody has to wait for any */
    const uint32_t known = kv_handles(kv), blocks = kv->arena->blocks;
    const uint64_t bytes = kv->arena->block_bytes, end = (uint64_t)(uintptr_t)kv->arena->base + kv->arena->bytes;
    uint64_t needed = kv->needed;
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t handle = handles[i];
        CHECK(handle < known);
        const uint32_t block = place[handle];
        if (block < blocks && owner[block] == handle) {
            needed = last && last[block] > needed ? last[block] : needed;
            out[i] = end - (block + UINT64_C(1)) * bytes;
        } else {
            CHECK(kv_is_streamed(kv, handle)); /* else it is parked, or was given back */
            out[i] = kv_groups_entry(&kv->groups, streamed_slot(kv, handle), kv->layer_bytes);
        }
    }
    kv->needed = needed;
}

bool kv_park(struct kv *kv, uint32_t handle) {
    if (kv->free_slot_count == 0) {
        return false;
    }
    uint32_t block = block_of(kv, handle), slot = kv->free_slots[--kv->free_slot_count];
    kv->last[block] = send(kv, parked_address(kv, slot), arena_block_address(kv->arena, block), COPY_DEVICE_TO_HOST);
    kv->counts.parked++;
    kv->place[handle] = PARKED | slot;
    kv->owner[block] = NOBODY;
    arena_give_block(kv->arena, block);
    return true;
}

bool kv_fetch(struct kv *kv, uint32_t handle) {
    CHECK(kv_is_parked(kv, handle));
    uint32_t block, slot = kv->place[handle] & ~PARKED;
    if (!arena_take_block(kv->arena, &block)) {
        return false;
    }
    kv->last[block] = send(kv, arena_block_address(kv->arena, block), parked_address(kv, slot), COPY_HOST_TO_DEVICE);
    give_slot(kv, handle);
    put_on_device(kv, handle, block);
    return true;
}

uint64_t kv_version(const struct kv *kv) {
    return kv->sent + kv->exchanged + kv->groups.listings; /* none of them ever falls */
}

void kv_exchange(struct kv *kv, uint32_t one, uint32_t other) {
    kv->exchanged++;
    uint32_t place = kv->place[one];
    kv->place[one] = kv->place[other];
    kv->place[other] = place;
    const uint32_t handles[2] = {one, other};
    for (int i = 0; i < 2; i++) {
        if (!kv_is_parked(kv, handles[i])) {
            put_on_device(kv, handles[i], kv->place[handles[i]]);
        }
    }
}

bool kv_stream(struct kv *kv, uint32_t handle, struct stream *readers) {
    uint32_t block = block_of(kv, handle), slot;
    if (!kv_groups_take(&kv->groups, &slot)) {
        return false;
    }
    event_record(kv->read, readers);
    stream_wait(kv->stream, kv->read);
    kv->last[block] = send(kv, streamed_address(kv, slot), arena_block_address(kv->arena, block), COPY_DEVICE_TO_HOST);
    kv->counts.blocks_streamed++;
    kv->place[handle] = STREAMED | slot;
    kv->owner[block] = NOBODY;
    arena_give_block(kv->arena, block);
    return true;
}

bool kv_unstream(struct kv *kv, uint32_t handle) {
    uint32_t block, slot = streamed_slot(kv, handle);
    if (!arena_take_block(kv->arena, &block)) {
        return false;
    }
    kv->last[block] = send(kv, arena_block_address(kv->arena, block), streamed_address(kv, slot), COPY_HOST_TO_DEVICE);
    kv_groups_give(&kv->groups, slot);
    put_on_device(kv, handle, block);
    return true;
}

void kv_set_active(struct kv *kv, uint32_t handle, bool active) {
    kv_groups_set_active(&kv->groups, streamed_slot(kv, handle), active);
}

struct kv_groups *kv_groups(struct kv *kv) {
    return &kv->groups;
}

const uint8_t *kv_slot(const struct kv *kv, uint32_t slot) {
    return streamed_address(kv, slot);
}

void kv_clear(struct kv *kv, uint32_t first) {
    struct arena *arena = kv->arena;
    while (arena->taken > 0 && arena_highest_block(arena) >= first) {
        uint32_t from = arena_highest_block(arena), to;
        bool taken = arena_take_block(arena, &to);
        CHECK(taken && to < first);
        kv->last[to] = kv->last[from] =
            send(kv, arena_block_address(arena, to), arena_block_address(arena, from), COPY_DEVICE_TO_DEVICE);
        put_on_device(kv, kv->owner[from], to);
        kv->owner[from] = NOBODY;
        arena_give_block(arena, from);
    }
}

uint32_t kv_host_free(const struct kv *kv) {
    return kv->free_slot_count;
}

/* ---- order ---- */

void kv_wait(struct kv *kv, struct stream *stream) {
    if (kv->needed > kv->waited) {
        event_record(kv->asked, stream);
        stream_wait(stream, kv->point[kv->needed % POINTS]);
        event_record(kv->had, stream);
        kv->waited = kv->needed;
        kv->stalled = true;
    }
}

void kv_fence(struct kv *kv, struct stream *stream) {
    if (kv->sent > kv->fenced) {
        stream_wait(stream, kv->point[kv->sent % POINTS]);
        kv->fenced = kv->sent;
    }
}

/* ---- numbers ---- */

struct kv_counts kv_counts(const struct kv *kv) {
    return kv->counts;
}

uint64_t kv_stall_ns(struct kv *kv) {
    uint64_t stall_ns = kv->stalled ? event_time_ns(kv->had) - event_time_ns(kv->asked) : 0;
    kv->stalled = false;
    return stall_ns;
}

bool kv_traffic(struct kv *kv, uint64_t *begin_ns, uint64_t *end_ns) {
    if (!kv->busy) {
        return false;
    }
    const struct event *end = kv->point[kv->sent % POINTS];
    *begin_ns = event_query(kv->begun) ? event_time_ns(kv->begun) : 0; /* soon, that is: now is as good as any time */
    *end_ns = UINT64_MAX;
    if (event_query(end)) {
        *end_ns = event_time_ns(end);
        kv->busy = false;
        kv->waited = kv->sent; /* or an older ticket's wait would be for a younger one that has its event */
    }
    return true;
}
