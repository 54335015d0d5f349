/* Blocks of running sequences that live in host memory: every layer's part of them crosses the link in every iteration,
 * as weights do (offload/kv_groups.h).
 *
 * A sequence gives its first blocks first, the longest sequence before others: blocks that are full and computed, for
 * the device never writes what is streamed. That is done where others want the room and there is time, as the offload
 * engine predicts it; and for a sequence that is alone and longer than the device has room for, in any case. A streamed
 * block is as good as one on the device, shared or not: nothing waits for it but the layers. */
#include "scheduler/engine_internal.h"

/* Streamed blocks come home when so many are free beside so many for each that runs: a few at a time would fill the
 * ring anew as many times. */
#define BACK_LEAST 16
#define BACK_KEEPS 4

/* Blocks that a sequence has to give, or a few more: some may be streamed for another that shares them. */
static uint32_t left_to_stream(const struct sequence *sequence) {
    uint32_t full = sequence->computed / KV_BLOCK_TOKENS;
    full = full < sequence->resident ? full : sequence->resident;
    return full > sequence->streamed ? full - sequence->streamed : 0;
}

/* False if it has none to give, or there is no slot. */
static bool stream_next(struct engine *engine, struct sequence *sequence) {
    for (; left_to_stream(sequence) > 0; sequence->streamed++) {
        uint32_t handle = sequence->blocks[sequence->streamed];
        if (prefix_place_of(engine->prefix, handle) != PREFIX_DEVICE) {
            continue;
        }
        if (!offload_kv_stream(engine->offload, handle)) {
            return false;
        }
        prefix_move(engine->prefix, handle, PREFIX_STREAMED);
        offload_kv_set_active(engine->offload, handle, prefix_pinned(engine->prefix, handle));
        sequence->streamed++;
        return true;
    }
    return false;
}

bool stream_in_time(struct engine *engine) {
    struct sequence *longest = NULL;
    if (!engine->kv_streams || offload_kv_stream_room(engine->offload) == 0) {
        return false;
    }
    for (uint32_t i = 0; i < engine->running_count; i++) {
        struct sequence *sequence = engine->running[i];
        longest = left_to_stream(sequence) > (longest ? left_to_stream(longest) : 0) ? sequence : longest;
    }
    return longest && stream_next(engine, longest);
}

/* Drops the streamed blocks of the sequence that is last in line and has any, from the last of them on: they are
 * computed again. False if there is none. */
static bool drop_streamed(struct engine *engine, const struct sequence *taker) {
    for (uint32_t i = engine->waiting.count; i > 0; i--) {
        struct sequence *sequence = queue_at(&engine->waiting, i - 1);
        for (uint32_t index = sequence->block_count; index > 0 && sequence != taker; index--) {
            uint32_t handle = sequence->blocks[index - 1];
            if (prefix_place_of(engine->prefix, handle) == PREFIX_STREAMED && !prefix_pinned(engine->prefix, handle)) {
                drop_blocks(engine, sequence, index - 1);
                return true;
            }
        }
    }
    return false;
}

bool stream_forced(struct engine *engine, struct sequence *sequence) {
    bool alone = engine->running_count == 0 || (engine->running_count == 1 && engine->running[0] == sequence);
    if (!engine->kv_streams || !alone) {
        return false;
    }
    while (!stream_next(engine, sequence)) {
        if (left_to_stream(sequence) == 0 || !drop_streamed(engine, sequence)) {
            return false;
        }
    }
    return true;
}

void stream_back(struct engine *engine) {
    uint32_t streamed = engine->kv_streams ? offload_kv_streamed(engine->offload) : 0;
    uint32_t free = offload_kv_free(engine->offload), kept = BACK_KEEPS * engine->running_count;
    uint32_t most = free > kept ? free - kept : 0, spare = offload_kv_spare(engine->offload);
    most = most < spare ? most : spare;
    if (streamed == 0 || engine->waiting.count + engine->behind.count > 0 || (most < streamed && most < BACK_LEAST)) {
        return;
    }
    for (uint32_t i = 0; i < engine->running_count; i++) {
        struct sequence *sequence = engine->running[i];
        for (uint32_t index = sequence->streamed; index > 0 && most > 0; index--) {
            uint32_t handle = sequence->blocks[index - 1];
            if (prefix_place_of(engine->prefix, handle) != PREFIX_STREAMED) {
                continue;
            }
            bool back = offload_kv_unstream(engine->offload, handle);
            CHECK(back);
            prefix_move(engine->prefix, handle, PREFIX_DEVICE);
            sequence->streamed = index - 1;
            most--;
        }
    }
}

uint32_t streamable_blocks(const struct engine *engine) {
    uint32_t blocks = 0, room = offload_kv_stream_room(engine->offload);
    for (uint32_t i = 0; i < engine->running_count && blocks < room; i++) {
        blocks += left_to_stream(engine->running[i]);
    }
    return blocks < room ? blocks : room;
}

uint32_t streamed_blocks(const struct engine *engine, const struct sequence *sequence) {
    uint32_t blocks = 0;
    for (uint32_t i = 0; i < sequence->block_count + sequence->found; i++) {
        uint32_t handle = sequence->blocks[i];
        blocks += prefix_place_of(engine->prefix, handle) == PREFIX_STREAMED && !prefix_pinned(engine->prefix, handle);
    }
    return blocks;
}
