/* The slots of host memory in which KV blocks of running sequences lie while every layer's part of them passes through
 * the device in turn: which are in use, and the groups that the pipeline copies.
 *
 * A group is as many slots, one after another, as have their parts of one layer in one slot of the ring. It is copied
 * from its first slot to its last active one while any is active; a slot whose sequence waits is paused. The lowest
 * free slot is taken first, so that there are few groups.
 *
 * Moves no bytes and knows no device. Allocates nothing after kv_groups_create(). Threads: the engine's only. */
#ifndef METRONOME_OFFLOAD_KV_GROUPS_H
#define METRONOME_OFFLOAD_KV_GROUPS_H

#include "base/status.h"
#include "kernels/ops.h"

#include <stdbool.h>
#include <stdint.h>

struct kv_group {
    uint32_t first, count; /* slots */
    uint64_t version;      /* another when what a copy of the group brings is another; of no other group */
};

struct kv_groups {
    uint32_t slots, size; /* in all; in a group */
    uint32_t used, active;
    uint8_t *state;                       /* (slots) */
    uint32_t lowest;                      /* no slot below is free */
    uint64_t versions;                    /* given so far */
    struct kv_group group[KV_MAX_GROUPS]; /* as it was listed last, by its place; count 0: it was not */
    uint32_t ordinal[KV_MAX_GROUPS];      /* its place in the list */
    struct kv_group list[KV_MAX_GROUPS];
    uint32_t listed;
    bool changed;      /* since they were listed */
    uint64_t listings; /* so far, of another list than before */
};

/* `slots` <= KV_MAX_GROUPS * size; 0: nothing is ever streamed. */
struct status kv_groups_create(uint32_t slots, uint32_t size, struct kv_groups *groups);
void kv_groups_destroy(struct kv_groups *groups);

/* A slot for a block that is active from now on; false if none is free. */
bool kv_groups_take(struct kv_groups *groups, uint32_t *slot);
void kv_groups_give(struct kv_groups *groups, uint32_t slot);
void kv_groups_set_active(struct kv_groups *groups, uint32_t slot, bool active);

/* What has to be copied for each layer. The same again as long as nothing changes. */
const struct kv_group *kv_groups_list(struct kv_groups *groups, uint32_t *count);

/* What the list would be if `blocks` more were active: the counts only, at most KV_MAX_GROUPS of them. */
uint32_t kv_groups_with(const struct kv_groups *groups, uint32_t blocks, uint32_t *counts);

/* The block table's entry of an active slot that is in the list; `layer_bytes` is a layer's part of a block. */
uint64_t kv_groups_entry(const struct kv_groups *groups, uint32_t slot, size_t layer_bytes);

#endif
