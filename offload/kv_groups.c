#include "offload/kv_groups.h"

#include "base/check.h"

#include <stdlib.h>

enum { SLOT_FREE, SLOT_ACTIVE, SLOT_PAUSED };

struct status kv_groups_create(uint32_t slots, uint32_t size, struct kv_groups *groups) {
    CHECK(slots == 0 || (size > 0 && (slots - 1) / size < KV_MAX_GROUPS));
    *groups = (struct kv_groups){.slots = slots, .size = size, .state = calloc(slots + 1, sizeof *groups->state)};
    if (!groups->state) {
        return status_error(STATUS_NO_MEMORY, "no memory for the table of %u streamed KV blocks", slots);
    }
    return STATUS_SUCCESS;
}

void kv_groups_destroy(struct kv_groups *groups) {
    free(groups->state);
    groups->state = NULL;
}

static void set_state(struct kv_groups *groups, uint32_t slot, uint8_t state) {
    groups->used += (state != SLOT_FREE) - (groups->state[slot] != SLOT_FREE);
    groups->active += (state == SLOT_ACTIVE) - (groups->state[slot] == SLOT_ACTIVE);
    groups->state[slot] = state;
    groups->changed = true;
}

bool kv_groups_take(struct kv_groups *groups, uint32_t *slot) {
    if (groups->used == groups->slots) {
        return false;
    }
    while (groups->state[groups->lowest] != SLOT_FREE) {
        groups->lowest++;
    }
    *slot = groups->lowest;
    set_state(groups, *slot, SLOT_ACTIVE);
    groups->group[*slot / groups->size].version = ++groups->versions;
    return true;
}

void kv_groups_give(struct kv_groups *groups, uint32_t slot) {
    CHECK(slot < groups->slots && groups->state[slot] != SLOT_FREE);
    set_state(groups, slot, SLOT_FREE);
    groups->lowest = slot < groups->lowest ? slot : groups->lowest;
}

void kv_groups_set_active(struct kv_groups *groups, uint32_t slot, bool active) {
    CHECK(slot < groups->slots && groups->state[slot] != SLOT_FREE);
    uint8_t state = active ? SLOT_ACTIVE : SLOT_PAUSED;
    if (groups->state[slot] != state) {
        set_state(groups, slot, state);
    }
}

/* The slots of a group up to the last active one. */
static uint32_t count_of(const struct kv_groups *groups, uint32_t group) {
    uint32_t first = group * groups->size;
    uint32_t count = groups->slots - first < groups->size ? groups->slots - first : groups->size;
    while (count > 0 && groups->state[first + count - 1] != SLOT_ACTIVE) {
        count--;
    }
    return count;
}

static uint32_t group_count(const struct kv_groups *groups) {
    return groups->slots > 0 ? (groups->slots - 1) / groups->size + 1 : 0;
}

const struct kv_group *kv_groups_list(struct kv_groups *groups, uint32_t *count) {
    if (groups->changed) {
        groups->listed = 0;
        groups->listings++;
        for (uint32_t i = 0; i < group_count(groups); i++) {
            struct kv_group *group = &groups->group[i];
            uint32_t slots = count_of(groups, i);
            group->version = slots > group->count ? ++groups->versions : group->version;
            group->first = i * groups->size;
            group->count = slots;
            if (slots > 0) {
                groups->ordinal[i] = groups->listed;
                groups->list[groups->listed++] = *group;
            }
        }
        groups->changed = false;
    }
    *count = groups->listed;
    return groups->list;
}

uint32_t kv_groups_with(const struct kv_groups *groups, uint32_t blocks, uint32_t *counts) {
    uint32_t listed = 0;
    for (uint32_t i = 0; i < group_count(groups); i++) {
        uint32_t first = i * groups->size, count = count_of(groups, i);
        for (uint32_t slot = first; blocks > 0 && slot < groups->slots && slot < first + groups->size; slot++) {
            if (groups->state[slot] != SLOT_ACTIVE) {
                blocks--;
                count = slot - first + 1 > count ? slot - first + 1 : count;
            }
        }
        if (count > 0) {
            counts[listed++] = count;
        }
    }
    return listed;
}

uint64_t kv_groups_entry(const struct kv_groups *groups, uint32_t slot, size_t layer_bytes) {
    uint32_t group = slot / groups->size;
    CHECK(slot < groups->slots && groups->state[slot] == SLOT_ACTIVE && !groups->changed);
    return kv_streamed_entry(groups->ordinal[group], (slot - groups->group[group].first) * layer_bytes);
}
