/* The prefix cache at work: what sequences find in the index, hold, enter and leave behind.
 *
 * Full blocks never change and an op gives the same bits in whatever company, so a block may be anybody's whose tokens
 * are the same from position 0 on. A sequence holds every block before one that it holds: so what is held is always
 * whole beginnings, and a sequence that has its own copy of a block which another entered first takes that one. */
#include "scheduler/engine_internal.h"

#include <string.h>

/* Tokens that are worth waiting an iteration for. */
#define COMING_LEAST (4 * KV_BLOCK_TOKENS)

/* The blocks that `sequence` may take from others: the last token that is known has to be computed for the sake of the
 * next, and of a prompt to be scored every row that is not yet reported. */
static uint32_t most_blocks(const struct sequence *sequence) {
    uint32_t tokens = sequence->count - 1;
    if (sequence_scores_prompt(sequence) && sequence->scored < sequence->request->prompt_count) {
        uint32_t reported = sequence->scored > 0 ? sequence->scored - 1 : 0;
        tokens = tokens < reported ? tokens : reported;
    }
    return tokens / KV_BLOCK_TOKENS;
}

static uint32_t find_block(const struct engine *engine, const struct sequence *sequence, uint32_t index) {
    uint32_t parent = index > 0 ? sequence->blocks[index - 1] : PREFIX_NOBODY;
    return prefix_find(engine->prefix, parent, &sequence->request->salt,
                       sequence->tokens + (size_t)index * KV_BLOCK_TOKENS);
}

void cache_look(struct engine *engine, struct sequence *sequence) {
    uint64_t version = prefix_version(engine->prefix) + 1;
    if (!engine->config.prefix_cache || sequence->looked == version) {
        return;
    }
    sequence->looked = version;
    sequence->found = 0;
    uint32_t held = sequence->block_count;
    if (sequence->entered < held || sequence->computed != held * KV_BLOCK_TOKENS) {
        return; /* it goes on inside a block of its own */
    }
    for (uint32_t most = most_blocks(sequence), index = held; index < most; index++) {
        sequence->blocks[index] = find_block(engine, sequence, index);
        if (sequence->blocks[index] == PREFIX_NOBODY) {
            break;
        }
        sequence->found++;
    }
}

uint32_t cache_pinned(const struct engine *engine, const struct sequence *sequence) {
    uint32_t pinned = 0; /* beginnings are: who pins a block pins all before it */
    while (pinned < sequence->block_count + sequence->found &&
           prefix_pinned(engine->prefix, sequence->blocks[pinned])) {
        pinned++;
    }
    return pinned;
}

/* Tokens that two sequences begin with alike, in full blocks. */
static uint32_t alike(const struct sequence *one, const struct sequence *other) {
    const struct cache_salt *salt = &one->request->salt, *other_salt = &other->request->salt;
    uint32_t most = one->count < other->count ? one->count : other->count, tokens = 0;
    if (salt->bytes != other_salt->bytes || memcmp(salt->text, other_salt->text, salt->bytes) != 0) {
        return 0;
    }
    while (tokens + KV_BLOCK_TOKENS <= most &&
           memcmp(one->tokens + tokens, other->tokens + tokens, KV_BLOCK_TOKENS * sizeof *one->tokens) == 0) {
        tokens += KV_BLOCK_TOKENS;
    }
    return tokens;
}

bool cache_is_coming(const struct engine *engine, const struct sequence *sequence) {
    const uint32_t found = sequence->computed + sequence->found * KV_BLOCK_TOKENS;
    const uint32_t most = most_blocks(sequence) * KV_BLOCK_TOKENS;
    if (!engine->config.prefix_cache || most < found + COMING_LEAST) {
        return false;
    }
    for (uint32_t i = 0; i < engine->running_count; i++) {
        const struct sequence *other = engine->running[i];
        if (other->scheduled >= KV_BLOCK_TOKENS && other->computed + other->scheduled >= found + COMING_LEAST) {
            uint32_t common = alike(sequence, other), done = other->computed + other->scheduled;
            common = common < done ? common : done;
            if ((common < most ? common : most) >= found + COMING_LEAST) {
                return true;
            }
        }
    }
    return false;
}

void cache_take(struct engine *engine, struct sequence *sequence, bool parked) {
    cache_look(engine, sequence);
    for (; sequence->found > 0; sequence->found--) {
        uint32_t handle = sequence->blocks[sequence->block_count];
        bool here = prefix_place_of(engine->prefix, handle) != PREFIX_HOST;
        if (!here && !parked) {
            break;
        }
        prefix_hold(engine->prefix, handle);
        sequence->resident += here && sequence->resident == sequence->block_count;
        sequence->entered = ++sequence->block_count;
        sequence->computed += KV_BLOCK_TOKENS;
    }
    sequence->found = 0;
    sequence->looked = 0;
}

bool cache_is_here(const struct engine *engine, const struct sequence *sequence) {
    uint32_t here = 0;
    while (here < sequence->found &&
           prefix_place_of(engine->prefix, sequence->blocks[sequence->block_count + here]) != PREFIX_HOST) {
        here++;
    }
    return here == sequence->found;
}

void cache_fetch(struct engine *engine, struct sequence *sequence, uint32_t most) {
    const uint32_t *found = sequence->blocks + sequence->block_count;
    for (uint32_t i = sequence->found; i > 0; i--) {
        prefix_touch(engine->prefix, found[i - 1]);
    }
    for (uint32_t i = 0; i < sequence->found && most > 0; i++) {
        if (!prefix_entered(engine->prefix, found[i])) {
            return; /* room for one was made at the cost of another */
        }
        if (prefix_place_of(engine->prefix, found[i]) != PREFIX_HOST) {
            continue;
        }
        while (!offload_kv_fetch(engine->offload, found[i])) {
            if (!reclaim_block(engine, sequence) || !prefix_entered(engine->prefix, found[i])) {
                return;
            }
        }
        prefix_move(engine->prefix, found[i], PREFIX_DEVICE);
        most--;
    }
}

/* Gives up a sequence's own copy of a block for the one that is known. If that is parked it gets the copy's place on
 * the device, and goes without a copy over the link. */
static void take_known(struct engine *engine, struct sequence *sequence, uint32_t index, uint32_t known) {
    uint32_t own = sequence->blocks[index];
    prefix_hold(engine->prefix, known);
    unpin_block(engine, own);
    if (prefix_place_of(engine->prefix, known) == PREFIX_HOST) {
        offload_kv_exchange(engine->offload, own, known);
        prefix_move(engine->prefix, known, PREFIX_DEVICE);
        prefix_move(engine->prefix, own, PREFIX_HOST);
    }
    pin_block(engine, known);
    sequence->blocks[index] = known;
    sequence->table_count = sequence->table_count < index ? sequence->table_count : index;
    bool useless = prefix_let_go(engine->prefix, own);
    CHECK(useless);
    offload_kv_give(engine->offload, own);
}

void cache_enter(struct engine *engine, struct sequence *sequence) {
    if (!engine->config.prefix_cache) {
        return;
    }
    for (uint32_t full = sequence->computed / KV_BLOCK_TOKENS; sequence->entered < full; sequence->entered++) {
        uint32_t index = sequence->entered, known = find_block(engine, sequence, index);
        if (known != PREFIX_NOBODY) {
            take_known(engine, sequence, index, known);
        } else {
            prefix_enter(engine->prefix, sequence->blocks[index],
                         index > 0 ? sequence->blocks[index - 1] : PREFIX_NOBODY, &sequence->request->salt,
                         sequence->tokens + (size_t)index * KV_BLOCK_TOKENS);
        }
    }
}

/* ---- what nobody holds ---- */

static bool forget_oldest(struct engine *engine, enum prefix_place place) {
    uint32_t handle = prefix_oldest(engine->prefix, place);
    if (handle == PREFIX_NOBODY) {
        return false;
    }
    prefix_forget(engine->prefix, handle);
    offload_kv_give(engine->offload, handle);
    return true;
}

static bool park_oldest(struct engine *engine) {
    uint32_t handle = prefix_oldest(engine->prefix, PREFIX_DEVICE);
    if (handle == PREFIX_NOBODY || engine->parks == 0 ||
        !offload_kv_pays(engine->offload, prefix_depth(engine->prefix, handle) * KV_BLOCK_TOKENS) ||
        (offload_kv_host_free(engine->offload) == 0 && !cache_reclaim_host(engine))) {
        return false;
    }
    bool parked = offload_kv_park(engine->offload, handle);
    CHECK(parked);
    prefix_move(engine->prefix, handle, PREFIX_HOST);
    engine->parks--;
    return true;
}

bool cache_reclaim(struct engine *engine, bool forced) {
    return park_oldest(engine) || (forced && forget_oldest(engine, PREFIX_DEVICE));
}

bool cache_reclaim_host(struct engine *engine) {
    return forget_oldest(engine, PREFIX_HOST);
}
