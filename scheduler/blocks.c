/* Who holds which KV block, and who gives one up.
 *
 * A sequence's blocks are handles, in the order of their positions; the first `resident` of them are on the device or
 * streamed (stream.c), the others are parked in host memory. Sequences that begin alike hold the same blocks (cache.c).
 * A preempted sequence keeps its blocks while it waits, until somebody needs the place. What nobody holds goes first;
 * then the waiting sequence that is last in line gives up one block after the other, from its tail, so that what it
 * keeps is a beginning. One that another waiting sequence holds, too, is that one's to give up; one that a running
 * sequence holds stays. A block that is given up is parked where that is predicted to cost less than computing it
 * again, and a free host slot is left or the last in line gives one up; else it is dropped. */
#include "scheduler/engine_internal.h"

#define NOBODY UINT32_MAX

/* Of blocks that nobody holds a prompt's worth parks ahead of need, and no more than one part in so many of the cache.
 */
#define AHEAD_SHARE 8

void drop_blocks(struct engine *engine, struct sequence *sequence, uint32_t from) {
    release_blocks(engine, sequence, from);
    uint32_t kept = from * KV_BLOCK_TOKENS;
    sequence->computed = sequence->computed < kept ? sequence->computed : kept;
}

void release_blocks(struct engine *engine, struct sequence *sequence, uint32_t from) {
    while (sequence->block_count > from) { /* the end before what it continues (prefix.h) */
        uint32_t handle = sequence->blocks[--sequence->block_count];
        if (sequence->pinned) {
            unpin_block(engine, handle);
        } else {
            engine->waiting.version++; /* it waits, and has less computed than it had */
        }
        if (prefix_let_go(engine->prefix, handle)) {
            offload_kv_give(engine->offload, handle);
        }
    }
    sequence->resident = sequence->resident < from ? sequence->resident : from;
    sequence->entered = sequence->entered < from ? sequence->entered : from;
    sequence->streamed = sequence->streamed < from ? sequence->streamed : from;
    sequence->table_count = sequence->table_count < from ? sequence->table_count : from;
    sequence->found = 0;
    sequence->looked = 0;
}

void pin_block(struct engine *engine, uint32_t handle) {
    prefix_pin(engine->prefix, handle);
    if (prefix_place_of(engine->prefix, handle) == PREFIX_STREAMED) {
        offload_kv_set_active(engine->offload, handle, true);
    }
}

void unpin_block(struct engine *engine, uint32_t handle) {
    prefix_unpin(engine->prefix, handle);
    if (prefix_place_of(engine->prefix, handle) == PREFIX_STREAMED && !prefix_pinned(engine->prefix, handle)) {
        offload_kv_set_active(engine->offload, handle, false);
    }
}

void pin_blocks(struct engine *engine, struct sequence *sequence) {
    for (uint32_t i = 0; i < sequence->block_count; i++) {
        pin_block(engine, sequence->blocks[i]);
    }
    sequence->pinned = true;
}

void unpin_blocks(struct engine *engine, struct sequence *sequence) {
    for (uint32_t i = 0; i < sequence->block_count; i++) {
        unpin_block(engine, sequence->blocks[i]);
    }
    sequence->pinned = false;
}

/* Can the sequence give up its last block on the device? If it is pinned so are those before it. */
static bool can_give(const struct engine *engine, const struct sequence *sequence) {
    return sequence->resident > 0 && !prefix_pinned(engine->prefix, sequence->blocks[sequence->resident - 1]);
}

/* The place in line of the last waiting sequence, but for `spared`, that has blocks on the device to give, or parked
 * ones. NOBODY if there is none. Only preempted sequences have any, and they are first in line. */
static uint32_t last_holder(const struct engine *engine, const struct sequence *spared, bool parked) {
    uint32_t last = NOBODY;
    for (uint32_t i = 0; i < engine->waiting.count; i++) {
        const struct sequence *sequence = queue_at(&engine->waiting, i);
        if (!sequence->preempted) {
            break;
        }
        bool gives = parked ? sequence->block_count > sequence->resident : can_give(engine, sequence);
        last = gives && sequence != spared ? i : last;
    }
    return last;
}

/* Sees to a free host slot for a block of the waiting sequence at `place` in line, if need be at the cost of one that
 * is no nearer to its turn. */
static bool make_host_room(struct engine *engine, uint32_t place) {
    while (offload_kv_host_free(engine->offload) == 0) {
        if (cache_reclaim_host(engine)) {
            continue;
        }
        uint32_t last = last_holder(engine, NULL, true);
        if (last == NOBODY || last < place) {
            return false;
        }
        struct sequence *sequence = queue_at(&engine->waiting, last);
        drop_blocks(engine, sequence, sequence->block_count - 1);
    }
    return true;
}

/* Drops a block that lies on the device behind one that is parked, since a sequence that waits, too, had it brought
 * back. */
static bool drop_stray(struct engine *engine, const struct sequence *taker) {
    for (uint32_t i = engine->waiting.count; i > 0; i--) {
        struct sequence *sequence = queue_at(&engine->waiting, i - 1);
        for (uint32_t index = sequence->resident; index < sequence->block_count && sequence != taker; index++) {
            uint32_t handle = sequence->blocks[index];
            if (prefix_place_of(engine->prefix, handle) == PREFIX_DEVICE && !prefix_pinned(engine->prefix, handle)) {
                drop_blocks(engine, sequence, index);
                return true;
            }
        }
    }
    return false;
}

/* Parks a block that a waiting sequence other than the taker holds. Where that does not pay or there is no room, drops
 * it, or if that is not `forced` leaves it. False if nothing has been given up. */
static bool reclaim_held(struct engine *engine, const struct sequence *taker, bool forced) {
    uint32_t place = last_holder(engine, taker, false);
    if (place == NOBODY) {
        return forced && drop_stray(engine, taker);
    }
    struct sequence *sequence = queue_at(&engine->waiting, place);
    uint32_t index = sequence->resident - 1;
    if (prefix_place_of(engine->prefix, sequence->blocks[index]) == PREFIX_STREAMED) {
        sequence->resident--; /* it takes no place on the device; what comes before it may */
        return true;
    }
    bool alone = prefix_holders(engine->prefix, sequence->blocks[index]) == 1;
    bool parks = alone && offload_kv_pays(engine->offload, index * KV_BLOCK_TOKENS);
    if (parks && (forced ? make_host_room(engine, place) : offload_kv_host_free(engine->offload) > 0)) {
        bool parked = offload_kv_park(engine->offload, sequence->blocks[index]);
        CHECK(parked);
        prefix_move(engine->prefix, sequence->blocks[index], PREFIX_HOST);
        sequence->resident--;
        return true;
    }
    if (forced) {
        drop_blocks(engine, sequence, index);
    }
    return forced;
}

bool reclaim_block(struct engine *engine, const struct sequence *taker) {
    return cache_reclaim(engine, true) || reclaim_held(engine, taker, true);
}

void park_ahead(struct engine *engine) {
    uint32_t soon = 1 + engine->running_count / KV_BLOCK_TOKENS; /* each takes one in so many iterations */
    uint32_t chunk = engine->config.prefill_chunk / KV_BLOCK_TOKENS, few = engine->kv_blocks / AHEAD_SHARE;
    while (offload_kv_free(engine->offload) < soon + (chunk < few ? chunk : few) && cache_reclaim(engine, false)) {
    }
    while (offload_kv_free(engine->offload) + prefix_idle(engine->prefix, PREFIX_DEVICE) < soon &&
           reclaim_held(engine, NULL, false)) {
    }
    for (uint32_t i = offload_kv_excess(engine->offload); i > 0 && reclaim_block(engine, NULL); i--) {
    }
    for (uint32_t i = offload_kv_idle_excess(engine->offload); i > 0 && cache_reclaim(engine, true); i--) {
    }
}

bool grow_blocks(struct engine *engine, struct sequence *sequence, uint32_t tokens) {
    CHECK(sequence->resident == sequence->block_count && sequence->pinned);
    uint32_t needed = (tokens + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
    while (sequence->block_count < needed) {
        uint32_t *handle = &sequence->blocks[sequence->block_count];
        if (offload_kv_take(engine->offload, handle)) {
            prefix_hold(engine->prefix, *handle);
            pin_block(engine, *handle);
            sequence->resident = ++sequence->block_count;
        } else if (!stream_in_time(engine) && !reclaim_block(engine, sequence) && !stream_forced(engine, sequence)) {
            return false;
        }
    }
    return true;
}

void fetch_blocks(struct engine *engine, struct sequence *sequence, uint32_t most) {
    while (sequence->resident < sequence->block_count && most > 0) {
        uint32_t handle = sequence->blocks[sequence->resident];
        if (prefix_place_of(engine->prefix, handle) != PREFIX_HOST) {
            sequence->resident++;
        } else if (offload_kv_fetch(engine->offload, handle)) {
            prefix_move(engine->prefix, handle, PREFIX_DEVICE);
            sequence->resident++;
            most--;
        } else if (!reclaim_block(engine, sequence) && !stream_forced(engine, sequence)) {
            return;
        }
    }
}

uint32_t available_blocks(const struct engine *engine) {
    return offload_kv_free(engine->offload) + prefix_loose(engine->prefix);
}
