/* KV blocks behind handles: which lie on the device, which in host memory, and what moves between.
 *
 * A sequence holds handles, so that what lies under one may move: out to a host slot when somebody else needs the
 * device memory (park), back before it is used again (fetch), and to another place on the device when the boundary of
 * the arena has to pass (clear). A block that will not be written any more may also live in host memory while it is in
 * use (stream): then the pipeline brings each layer's part of it when the layer's turn comes.
 *
 * Owns: the table of handles, the host slots, a copy stream that only KV travels on (never behind the weights' ring),
 * its events, and the counts. Chooses nothing: who gives way, and when, is the scheduler's and offload.c's to say.
 *
 * Order: everything that moves KV does so on that one stream, in the order of the calls, each copy with the next number
 * (its ticket). A block that a copy still reads or writes may be given away at once: whoever gets it is made to wait
 * for the block's last ticket, compute by kv_wait() and the weights' copies by kv_fence(). All calls come between
 * iterations, when the compute stream has nothing left that reads or writes a block; only kv_wait() comes in one.
 * Nothing is allocated after kv_create(). Threads: the engine's only. */
#ifndef METRONOME_OFFLOAD_KV_H
#define METRONOME_OFFLOAD_KV_H

#include "base/status.h"
#include "kernels/device.h"
#include "offload/arena.h"
#include "offload/kv_groups.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kv;

/* Slots of pinned host memory, allocated now: for blocks that are parked, and for those that are streamed, so many of
 * which go into a group; `layers` parts make a block. */
struct kv_pool {
    uint32_t parked, streamed, group, layers;
};

/* The arena outlives it. */
struct status kv_create(struct device *device, struct arena *arena, const struct kv_pool *pool, struct kv **out);
void kv_destroy(struct kv *kv); /* NULL is allowed */

/* A handle to a free block of the device, the one farthest from the boundary; false when all are in use. */
bool kv_take(struct kv *kv, uint32_t *handle);

/* Gives a block up, wherever it is; on its way, too. */
void kv_give(struct kv *kv, uint32_t handle);

/* The block table's entries of `count` blocks: addresses of those on the device or on their way there, which is what
 * the next kv_wait() is for, and of streamed ones, active and listed by kv_groups(), their groups and offsets. */
void kv_addresses(struct kv *kv, const uint32_t *handles, uint32_t count, uint64_t *out);

/* Another when any entry given out before may be another now, or may have something new to wait for. */
uint64_t kv_version(const struct kv *kv);

/* Copies a block out to a free host slot; its device memory is free at once. False if there is no slot. */
bool kv_park(struct kv *kv, uint32_t handle);

/* Copies a parked block back into a free block of the device; false if there is none. */
bool kv_fetch(struct kv *kv, uint32_t handle);

/* Two handles change places: the blocks stay where they are. */
void kv_exchange(struct kv *kv, uint32_t one, uint32_t other);

bool kv_is_parked(const struct kv *kv, uint32_t handle);
uint32_t kv_handles(const struct kv *kv);   /* each is below */
uint32_t kv_host_free(const struct kv *kv); /* slots for parked blocks */

/* Copies a block out to a slot for streaming, active; its device memory is free at once. False if there is no such
 * slot. `readers` is the stream that copies groups: what it may still read of the slot's last block is waited for. */
bool kv_stream(struct kv *kv, uint32_t handle, struct stream *readers);

/* Copies a streamed block back into a free block of the device; false if there is none. */
bool kv_unstream(struct kv *kv, uint32_t handle);

bool kv_is_streamed(const struct kv *kv, uint32_t handle);
void kv_set_active(struct kv *kv, uint32_t handle, bool active); /* of a streamed block */

/* What every layer streams, by slots, and where a slot's block lies in host memory. Who copies from there waits for
 * kv_fence() first. */
struct kv_groups *kv_groups(struct kv *kv);
const uint8_t *kv_slot(const struct kv *kv, uint32_t slot);

/* Moves every block in use from `first` on to a free place below it; there must be enough. */
void kv_clear(struct kv *kv, uint32_t first);

/* Makes `stream` wait for what the addresses asked for since the last call depend on. */
void kv_wait(struct kv *kv, struct stream *stream);

/* Makes `stream` wait for every copy so far: before it writes where blocks have been, or reads what was streamed. */
void kv_fence(struct kv *kv, struct stream *stream);

/* Since the start; bytes and calls are counted where the copies are made. */
struct kv_counts {
    uint32_t host_blocks, parked; /* slots for parked blocks, and those of them in use now */
    uint32_t stream_blocks;       /* slots for streamed ones */
    uint64_t blocks_out, blocks_in, blocks_moved;
    uint64_t blocks_streamed;     /* of those that went out, to be streamed */
    uint64_t bytes_out, bytes_in; /* over the link */
};
struct kv_counts kv_counts(const struct kv *kv);

/* How long compute waited in kv_wait() since the last call; the iterations have ended. */
uint64_t kv_stall_ns(struct kv *kv);

/* When KV was on the link since the last call, so that nobody takes what the link gave weights meanwhile for all that
 * it has. False if it never was. What is still on its way ends at UINT64_MAX. */
bool kv_traffic(struct kv *kv, uint64_t *begin_ns, uint64_t *end_ns);

#endif
