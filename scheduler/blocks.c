/* Who holds which KV block, and who gives one up.
 *
 * A sequence's blocks are handles, in the order of their positions; the first `resident` of them are on the device, the
 * others are parked in host memory. A preempted sequence keeps its blocks while it waits, until somebody needs the
 * place: then the waiting sequence that is last in line gives up one after the other, from its tail, so that what it
 * keeps is a beginning. A block that is given up is parked where that is predicted to cost less than computing it
 * again, and a free host slot is left or the last in line gives one up; else it is dropped. */
#include "scheduler/engine_internal.h"

#define NOBODY UINT32_MAX

/* Gives up blocks from `from` on, and with them what has been computed of their tokens. */
static void drop_blocks(struct engine *engine, struct sequence *sequence, uint32_t from) {
    release_blocks(engine, sequence, from);
    uint32_t kept = from * KV_BLOCK_TOKENS;
    if (sequence->computed > kept) {
        pthread_mutex_lock(&engine->stats_lock);
        engine->stats.recomputed_tokens += sequence->computed - kept;
        pthread_mutex_unlock(&engine->stats_lock);
        sequence->computed = kept;
    }
}

void release_blocks(struct engine *engine, struct sequence *sequence, uint32_t from) {
    for (uint32_t i = from; i < sequence->block_count; i++) {
        offload_kv_give(engine->offload, sequence->blocks[i]);
    }
    sequence->block_count = sequence->block_count < from ? sequence->block_count : from;
    sequence->resident = sequence->resident < from ? sequence->resident : from;
}

/* The place in line of the last waiting sequence, but for `spared`, that has blocks on the device, or parked ones.
 * NOBODY if there is none. Only preempted sequences have any, and they are first in line. */
static uint32_t last_holder(const struct engine *engine, const struct sequence *spared, bool parked) {
    uint32_t last = NOBODY;
    for (uint32_t i = 0; i < engine->waiting.count; i++) {
        const struct sequence *sequence = queue_at(&engine->waiting, i);
        if (!sequence->preempted) {
            break;
        }
        uint32_t holds = parked ? sequence->block_count - sequence->resident : sequence->resident;
        last = holds > 0 && sequence != spared ? i : last;
    }
    return last;
}

/* Sees to a free host slot for a block of the waiting sequence at `place` in line, if need be at the cost of one that
 * is no nearer to its turn. */
static bool make_host_room(struct engine *engine, uint32_t place) {
    if (offload_kv_host_free(engine->offload) == 0) {
        uint32_t last = last_holder(engine, NULL, true);
        if (last == NOBODY || last < place) {
            return false;
        }
        struct sequence *sequence = queue_at(&engine->waiting, last);
        drop_blocks(engine, sequence, sequence->block_count - 1);
    }
    return true;
}

/* Parks a block that a waiting sequence other than the taker holds. Where that does not pay or there is no room, drops
 * it, or if that is not `forced` leaves it. False if no block of the device has become free. */
static bool reclaim_block(struct engine *engine, const struct sequence *taker, bool forced) {
    uint32_t place = last_holder(engine, taker, false);
    if (place == NOBODY) {
        return false;
    }
    struct sequence *sequence = queue_at(&engine->waiting, place);
    uint32_t index = sequence->resident - 1;
    bool parks = offload_kv_pays(engine->offload, index * KV_BLOCK_TOKENS);
    if (parks && (forced ? make_host_room(engine, place) : offload_kv_host_free(engine->offload) > 0)) {
        bool parked = offload_kv_park(engine->offload, sequence->blocks[index]);
        CHECK(parked);
        sequence->resident--;
        return true;
    }
    if (forced) {
        drop_blocks(engine, sequence, index);
    }
    return forced;
}

void park_ahead(struct engine *engine) {
    uint32_t soon = 1 + engine->running_count / KV_BLOCK_TOKENS; /* each takes one in so many iterations */
    while (offload_kv_free(engine->offload) < soon && reclaim_block(engine, NULL, false)) {
    }
    for (uint32_t i = offload_kv_excess(engine->offload); i > 0 && reclaim_block(engine, NULL, true); i--) {
    }
}

bool grow_blocks(struct engine *engine, struct sequence *sequence, uint32_t tokens) {
    CHECK(sequence->resident == sequence->block_count);
    uint32_t needed = (tokens + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
    while (sequence->block_count < needed) {
        if (offload_kv_take(engine->offload, &sequence->blocks[sequence->block_count])) {
            sequence->resident = ++sequence->block_count;
        } else if (!reclaim_block(engine, sequence, true)) {
            return false;
        }
    }
    return true;
}

void fetch_blocks(struct engine *engine, struct sequence *sequence, uint32_t most) {
    while (sequence->resident < sequence->block_count && most > 0) {
        if (offload_kv_fetch(engine->offload, sequence->blocks[sequence->resident])) {
            sequence->resident++;
            most--;
        } else if (!reclaim_block(engine, sequence, true)) {
            return;
        }
    }
}

uint32_t available_blocks(const struct engine *engine) {
    uint32_t blocks = offload_kv_free(engine->offload);
    for (uint32_t i = 0; i < engine->waiting.count && queue_at(&engine->waiting, i)->preempted; i++) {
        blocks += queue_at(&engine->waiting, i)->resident;
    }
    return blocks;
}
