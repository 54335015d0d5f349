/* What runs in an iteration: every decode row first, then prefill chunks of running sequences, then new sequences as
 * far as rows, KV blocks and the deadlines of those that generate allow. When blocks run out the sequence admitted last
 * is preempted: it waits at the front of the queue, and gives up its blocks only as others need them (blocks.c). What
 * it has lost when its turn comes again is computed again, to the same bits. */
#include "scheduler/engine_internal.h"

#include <string.h>

#define NO_ROW UINT32_MAX

/* Room is short when less than one part in so many is left of the places for sequences, or of the KV cache. */
#define CROWD 4

/* And when somebody has been in line for so many iterations, for whatever reason. */
#define LINED_UP 4

/* A new sequence whose beginning is parked waits for it to come back beside others for at most so many iterations: then
 * it computes what has not come. */
#define FETCH_PATIENCE 4

/* What is left of this iteration's bounds. */
struct room {
    uint32_t rows;
    uint32_t logit_rows;
};

/* Takes the last of those that run out of this iteration. */
static struct sequence *stop_last(struct engine *engine, struct room *room) {
    struct sequence *victim = engine->running[--engine->running_count];
    room->rows += victim->scheduled;
    room->logit_rows += victim->logit_count;
    victim->scheduled = victim->logit_count = 0;
    victim->request->outcome.preemptions++;
    pthread_mutex_lock(&engine->lock);
    engine->pending++;
    pthread_mutex_unlock(&engine->lock);
    pthread_mutex_lock(&engine->stats_lock);
    engine->stats.preemptions++;
    pthread_mutex_unlock(&engine->stats_lock);
    return victim;
}

static void preempt_last(struct engine *engine, struct room *room) {
    struct sequence *victim = stop_last(engine, room);
    victim->preempted = true;
    victim->preempted_at = victim->computed;
    release_blocks(engine, victim, (victim->computed + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS); /* those not yet used */
    unpin_blocks(engine, victim);
    queue_push_front(&engine->waiting, victim);
}

/* Puts a sequence that ran on sufferance, and is in no line, before those who wait behind. It gives up all that it
 * holds, for its wait may be long. */
static void banish(struct engine *engine, struct sequence *sequence) {
    release_blocks(engine, sequence, 0);
    unpin_blocks(engine, sequence);
    sequence->computed = 0;
    sequence->preempted = false;
    queue_push_front(&engine->behind, sequence);
}

/* Blocks for `tokens` positions of running[index], at the cost of those admitted later; false if it had to give way
 * itself. The KV cache holds at least one whole context, so the first sequence always gets its blocks. */
static bool reserve_blocks(struct engine *engine, uint32_t index, uint32_t tokens, struct room *room) {
    struct sequence *sequence = engine->running[index];
    while (!grow_blocks(engine, sequence, tokens)) {
        CHECK(engine->running_count > 1);
        preempt_last(engine, room);
        if (engine->running_count == index) {
            return false;
        }
    }
    return true;
}

/* The rows of the next `rows` tokens whose logits are needed: the last if it completes what is known and a token is
 * to be drawn, and with a scored prompt every row whose successor is a prompt token not yet reported. Returns how
 * many, and the first in *first (counted from the chunk's first row); they are consecutive. */
static uint32_t logit_rows_of(const struct sequence *sequence, uint32_t rows, uint32_t *first) {
    uint32_t end = sequence->computed + rows;
    bool draws = end == sequence->count && sequence->count < sequence->capacity;
    uint32_t begin = draws ? end - 1 : end;
    if (sequence_scores_prompt(sequence)) {
        uint32_t prompt = sequence->request->prompt_count;
        uint32_t scored = sequence->scored > 0 ? sequence->scored - 1 : 0; /* row of the first token to report */
        uint32_t from = scored > sequence->computed ? scored : sequence->computed;
        uint32_t until = end < prompt - 1 ? end : prompt - 1;
        if (from < until) {
            begin = from < begin ? from : begin;
            end = draws ? end : until;
        }
    }
    *first = begin - sequence->computed;
    return end - begin;
}

/* Schedules up to `most` rows of a running sequence that has its blocks. */
static void schedule_rows(struct sequence *sequence, uint32_t most, struct room *room) {
    uint32_t rows = sequence->count - sequence->computed;
    rows = rows < most ? rows : most;
    rows = rows < room->rows ? rows : room->rows;
    uint32_t first;
    while (rows > 0 && logit_rows_of(sequence, rows, &first) > room->logit_rows) {
        rows = rows > room->logit_rows ? rows - (logit_rows_of(sequence, rows, &first) - room->logit_rows) : rows - 1;
    }
    sequence->scheduled = rows;
    sequence->logit_count = rows > 0 ? logit_rows_of(sequence, rows, &first) : 0;
    room->rows -= rows;
    room->logit_rows -= sequence->logit_count;
}

/* Tokens whose blocks a sequence needs by the end of this iteration. Those of all known ones, so that no other is
 * admitted into the room of a long prompt; but no more than it computes, where the blocks before these may have to
 * leave for them. */
static uint32_t next_tokens(const struct engine *engine, const struct sequence *sequence) {
    uint32_t left = sequence->count - sequence->computed, chunk = engine->config.prefill_chunk;
    return engine->kv_streams && left > chunk ? sequence->computed + chunk : sequence->count;
}

static void schedule_running(struct engine *engine, bool decoding, struct room *room) {
    uint32_t chunk = engine->config.prefill_chunk;
    for (uint32_t i = 0; i < engine->running_count && room->rows > 0; i++) {
        struct sequence *sequence = engine->running[i];
        bool is_decoding = sequence->count - sequence->computed == 1;
        if (is_decoding == decoding && reserve_blocks(engine, i, next_tokens(engine, sequence), room)) {
            schedule_rows(sequence, chunk, room);
        }
    }
}

/* Blocks of a running sequence that nobody else holds. Those that others do are a beginning. */
static uint32_t own_blocks(const struct engine *engine, const struct sequence *sequence) {
    uint32_t shared = sequence->block_count;
    while (shared > 0 && prefix_holders(engine->prefix, sequence->blocks[shared - 1]) == 1) {
        shared--;
    }
    return sequence->block_count - shared;
}

/* Blocks that a waiting sequence takes, with one to grow into. */
static uint32_t blocks_needed(const struct engine *engine, const struct sequence *sequence) {
    return sequence->count / KV_BLOCK_TOKENS + 1 - cache_pinned(engine, sequence);
}

/* Blocks that the first `running` of those that run have yet to take for what is known of them. */
static uint32_t unwritten_blocks(const struct engine *engine, uint32_t running) {
    uint32_t blocks = 0;
    for (uint32_t i = 0; i < running; i++) {
        const struct sequence *sequence = engine->running[i];
        blocks += (sequence->count + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS - sequence->block_count;
    }
    return blocks;
}

/* Would there be a place and blocks for a waiting sequence, if the last `less` of those that run were gone? Each
 * running one is left a block to grow into, or it would be preempted at once; and what weights need is not there. With
 * nothing running there always are: the cache holds a whole context. */
static bool has_room(const struct engine *engine, const struct sequence *sequence, uint32_t less) {
    uint32_t needed = blocks_needed(engine, sequence);
    uint32_t running = engine->running_count - less;
    uint32_t kept = running + offload_kv_excess(engine->offload), available = available_blocks(engine);
    for (uint32_t i = running; i < engine->running_count; i++) {
        available += own_blocks(engine, engine->running[i]);
    }
    if (engine->kv_streams && running > 0) {
        uint32_t streamed = streamed_blocks(engine, sequence);
        if (streamed > offload_kv_stream_room(engine->offload)) {
            return false; /* those that run would be late for it */
        }
        needed -= streamed < needed ? streamed : needed;
        available += streamable_blocks(engine);
        kept += unwritten_blocks(engine, running);
    }
    return running == 0 || (running < engine->config.max_sequences && available >= needed + kept);
}

static uint32_t count_on_sufferance(const struct engine *engine) {
    uint32_t count = 0;
    while (count < engine->running_count && engine->running[engine->running_count - 1 - count]->on_sufferance) {
        count++;
    }
    return count;
}

/* Those that run on sufferance give way to one that can be in time, the last admitted first, if that makes the room. */
static void make_way(struct engine *engine, const struct sequence *sequence, struct room *room) {
    if (!sequence->on_sufferance && has_room(engine, sequence, count_on_sufferance(engine))) {
        while (!has_room(engine, sequence, 0) && count_on_sufferance(engine) > 0) {
            banish(engine, stop_last(engine, room));
        }
    }
}

/* How many wait to go on: they are first in line. */
static uint32_t count_preempted(const struct engine *engine) {
    uint32_t count = 0;
    while (count < engine->waiting.count && queue_at(&engine->waiting, count)->preempted) {
        count++;
    }
    return count;
}

/* Who cannot be in time any more leaves the line of those who can. So does who waits to go on on sufferance, if others
 * wait there. */
static void sort_out_waiting(struct engine *engine) {
    const uint64_t now = device_now_ns(engine->device);
    uint32_t preempted = count_preempted(engine);
    while (engine->waiting.count > preempted) {
        cache_look(engine, queue_at(&engine->waiting, preempted));
        if (!deadlines_lost(engine, queue_at(&engine->waiting, preempted), now)) {
            break;
        }
        queue_push_back(&engine->behind, queue_at(&engine->waiting, preempted));
        queue_remove_at(&engine->waiting, preempted);
    }
    for (uint32_t i = preempted; i > 0 && engine->waiting.count > preempted; i--) {
        struct sequence *sequence = queue_at(&engine->waiting, i - 1);
        if (sequence->on_sufferance) {
            queue_remove_at(&engine->waiting, i - 1);
            banish(engine, sequence);
            preempted--;
        }
    }
}

/* Where the next sequence to be admitted stands first, NULL if none waits. Those that can be in time go before those
 * that cannot, or that were promised nothing, so that an overload costs the promises of some and not of all. These fill
 * what room is left, on sufferance. But every so many admissions is the turn of one of them, so that everybody's turn
 * comes: it then stays as the others do. */
static struct sequence_queue *next_line(struct engine *engine) {
    if (engine->config.order == ORDER_FCFS) {
        return engine->waiting.count > 0 ? &engine->waiting : NULL;
    }
    sort_out_waiting(engine);
    bool their_turn = engine->admissions == BEHIND_SHARE - 1 && count_preempted(engine) == 0;
    uint32_t on_sufferance = count_on_sufferance(engine);
    if (their_turn && on_sufferance > 0) {
        engine->running[engine->running_count - on_sufferance]->on_sufferance = false;
        engine->admissions = 0;
        their_turn = false;
    }
    if (engine->waiting.count > 0 && (!their_turn || engine->behind.count == 0)) {
        return &engine->waiting;
    }
    return engine->behind.count > 0 ? &engine->behind : NULL;
}

/* Among those that run; those on sufferance stay last. */
static void add_running(struct engine *engine, struct sequence *sequence) {
    uint32_t at = engine->running_count++;
    while (!sequence->on_sufferance && at > 0 && engine->running[at - 1]->on_sufferance) {
        engine->running[at] = engine->running[at - 1];
        at--;
    }
    engine->running[at] = sequence;
}

/* False if there are no blocks for it after all, which can only be where some would have had to be streamed: how many
 * can be is an estimate. */
static bool admit(struct engine *engine, struct sequence_queue *line) {
    struct sequence *sequence = queue_at(line, 0);
    pin_blocks(engine, sequence);
    if (!grow_blocks(engine, sequence, next_tokens(engine, sequence))) {
        CHECK(engine->kv_streams && engine->running_count > 0);
        sequence->computed = sequence->preempted ? sequence->computed : 0; /* only who has run holds blocks in line */
        release_blocks(engine, sequence, (sequence->computed + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS);
        unpin_blocks(engine, sequence);
        return false;
    }
    queue_pop_front(line);
    if (line == &engine->behind) {
        sequence->on_sufferance = engine->admissions != BEHIND_SHARE - 1;
    }
    engine->admissions = (engine->admissions + !sequence->on_sufferance) % BEHIND_SHARE;
    bool first = sequence->admitted_ns == 0;
    if (first) {
        sequence->admitted_ns = device_now_ns(engine->device);
        sequence->cached_tokens = sequence->computed;
    }
    bool resumed = sequence->preempted && sequence->computed > 0 && sequence->computed == sequence->preempted_at;
    account_admit(engine, sequence);
    sequence->preempted = false;
    add_running(engine, sequence);
    pthread_mutex_lock(&engine->lock);
    engine->pending--;
    pthread_mutex_unlock(&engine->lock);
    pthread_mutex_lock(&engine->stats_lock);
    engine->stats.resumed += resumed;
    engine->stats.prefix_queries += first && engine->config.prefix_cache ? sequence->count : 0;
    engine->stats.prefix_hits += first ? sequence->cached_tokens : 0;
    pthread_mutex_unlock(&engine->stats_lock);
    return true;
}

/* How short room is, for the placement of weights. Soon, each that runs may take a block, and the next in line those of
 * its prompt; and whoever takes a place that is free will want as much as those that run. */
static void look_at_room(struct engine *engine) {
    const struct sequence_queue *line = engine->waiting.count > 0 ? &engine->waiting : &engine->behind;
    uint32_t blocks = offload_kv_blocks(engine->offload), available = available_blocks(engine);
    uint32_t held = blocks - available, places = engine->config.max_sequences - engine->running_count;
    uint64_t room = 0;
    engine->next_blocks = held;
    for (uint32_t i = 0; i < engine->running_count; i++) {
        const struct sequence *sequence = engine->running[i];
        engine->next_blocks += sequence->count / KV_BLOCK_TOKENS + 1 > sequence->block_count;
    }
    engine->soon_blocks = held + engine->running_count;
    engine->crowded =
        engine->running_count > engine->config.max_sequences / CROWD * (CROWD - 1) || available < blocks / CROWD;
    if (line->count > 0 && places > 0) {
        const struct sequence *next = queue_at(line, 0);
        engine->soon_blocks += blocks_needed(engine, next) + engine->running_count;
        engine->crowded = engine->crowded || !has_room(engine, next, 0);
    }
    engine->lined_up = line->count > 0 ? engine->lined_up + 1 : 0;
    engine->crowded = engine->crowded || engine->lined_up >= LINED_UP;
    if (engine->running_count > 0) {
        room = (uint64_t)places * (1 + held / engine->running_count);
    }
    room += engine->soon_blocks;
    engine->room_blocks = room < UINT32_MAX ? (uint32_t)room : UINT32_MAX;
}

/* Admits from the front of the line. Parked blocks come back while others run, and the sequence is admitted after that;
 * only if nothing else runs are they waited for. */
static void admit_waiting(struct engine *engine, struct room *room) {
    struct sequence_queue *line;
    while (room->rows > 0 && (line = next_line(engine))) {
        struct sequence *sequence = queue_at(line, 0);
        cache_look(engine, sequence);
        if (line == &engine->waiting) {
            make_way(engine, sequence, room);
        }
        if (!has_room(engine, sequence, 0) || cache_is_coming(engine, sequence)) {
            break;
        }
        if (sequence->preempted || engine->running_count == 0) {
            cache_take(engine, sequence, true);
        } else if (sequence->fetches >= FETCH_PATIENCE || cache_is_here(engine, sequence)) {
            cache_take(engine, sequence, false);
        }
        if (engine->running_count == 0) {
            fetch_blocks(engine, sequence, UINT32_MAX);
        }
        if (sequence->resident < sequence->block_count || sequence->found > 0) {
            break;
        }
        if (!admit(engine, line)) {
            break;
        }
        schedule_rows(sequence, engine->config.prefill_chunk, room);
    }
    look_at_room(engine);
}

/* Brings parked blocks of the sequence that is next in line back under this iteration's compute, as many as the link
 * has time for. */
static void fetch_ahead(struct engine *engine) {
    const struct sequence_queue *line = next_line(engine);
    if (line) {
        struct sequence *sequence = queue_at(line, 0);
        uint32_t most = offload_kv_spare(engine->offload);
        cache_look(engine, sequence);
        if (sequence->resident < sequence->block_count && has_room(engine, sequence, 0)) {
            fetch_blocks(engine, sequence, most);
        } else if (!cache_is_here(engine, sequence) && has_room(engine, sequence, 0)) {
            cache_fetch(engine, sequence, most);
            sequence->fetches++;
        }
    }
}

/* Writes the rows of one sequence into the forward's inputs. */
static void write_rows(struct engine *engine, struct sequence *sequence) {
    struct forward_inputs *inputs = engine->inputs;
    uint32_t segment = inputs->segment_count++;
    inputs->segments[segment] = (struct kv_segment){.sequence = sequence->request->id,
                                                    .first_row = inputs->rows,
                                                    .rows = sequence->scheduled,
                                                    .first_position = sequence->computed};
    sequence->logit_begin = inputs->logit_count;
    uint32_t first = 0;
    uint32_t logit_rows = logit_rows_of(sequence, sequence->scheduled, &first);
    CHECK(logit_rows == sequence->logit_count);
    bool draws = sequence->computed + sequence->scheduled == sequence->count && sequence->count < sequence->capacity;
    for (uint32_t i = 0; i < logit_rows; i++) {
        bool drawn = draws && i + 1 == logit_rows;
        const uint32_t next = sequence->computed + first + i + 1; /* position of the token that it is about */
        struct sample_row *row = &inputs->samples[inputs->logit_count];
        *row = drawn ? sampler_row(&sequence->sampler) : sampler_score_row(&sequence->sampler, sequence->tokens[next]);
        inputs->sampled = inputs->sampled || !sample_is_plain(row);
        inputs->changes[inputs->logit_count] = sequence->sampler.changes;
        inputs->logit_rows[inputs->logit_count++] = inputs->rows + first + i;
    }
    for (uint32_t i = 0; i < sequence->scheduled; i++) {
        inputs->tokens[inputs->rows] = sequence->tokens[sequence->computed + i];
        inputs->positions[inputs->rows] = sequence->computed + i;
        inputs->rows++;
    }
}

uint32_t compose_iteration(struct engine *engine) {
    engine->parks = engine->parks_idle ? offload_kv_spare_idle(engine->offload) : 0;
    struct room room = {.rows = engine->limits.rows, .logit_rows = engine->limits.logit_rows};
    for (uint32_t i = 0; i < engine->running_count; i++) {
        engine->running[i]->scheduled = engine->running[i]->logit_count = 0;
    }
    if (offload_kv_stream_late(engine->offload) && engine->running_count > 1) {
        preempt_last(engine, &room); /* what it streams is streamed no more */
    }
    schedule_running(engine, true, &room);
    uint32_t decode_rows = engine->limits.rows - room.rows;
    room.rows = deadlines_prompt_rows(engine, decode_rows, room.rows, device_now_ns(engine->device));
    schedule_running(engine, false, &room);
    admit_waiting(engine, &room);
    fetch_ahead(engine);
    park_ahead(engine);
    stream_back(engine);

    struct forward_inputs *inputs = engine->inputs;
    inputs->rows = inputs->segment_count = inputs->logit_count = 0;
    inputs->sampled = false;
    for (uint32_t i = 0; i < engine->running_count; i++) {
        if (engine->running[i]->scheduled > 0) {
            write_rows(engine, engine->running[i]);
        }
    }
    return inputs->rows;
}

/* Which row of the block table is whose in this iteration, of as many rows as there are segments: a sequence keeps its
 * own, for what is in it holds, and the others get those that are left. */
static void share_out_tables(struct engine *engine) {
    struct forward_inputs *inputs = engine->inputs;
    const uint32_t count = inputs->segment_count;
    memset(engine->table_kept, 0, count * sizeof *engine->table_kept);
    uint32_t segment = 0, row = 0;
    for (uint32_t i = 0; i < engine->running_count; i++) {
        const struct sequence *sequence = engine->running[i];
        if (sequence->scheduled > 0) {
            uint32_t own = sequence->table_row;
            bool keeps = own < count && engine->table_owner[own] == sequence;
            inputs->segments[segment++].table = keeps ? own : NO_ROW;
            if (keeps) {
                engine->table_kept[own] = true;
            }
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        if (inputs->segments[i].table == NO_ROW) {
            while (engine->table_kept[row]) {
                row++;
            }
            inputs->segments[i].table = row++;
        }
    }
}

void compose_block_table(struct engine *engine) {
    struct forward_inputs *inputs = engine->inputs;
    const uint64_t version = offload_kv_version(engine->offload);
    uint32_t segment = 0;
    share_out_tables(engine);
    for (uint32_t i = 0; i < engine->running_count; i++) {
        struct sequence *sequence = engine->running[i];
        if (sequence->scheduled == 0) {
            continue;
        }
        /* those that this iteration uses: the place of a later one may still be on its way to host memory */
        uint32_t used = (sequence->computed + sequence->scheduled + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
        uint32_t row = inputs->segments[segment++].table;
        bool same =
            engine->table_owner[row] == sequence && sequence->table_row == row && sequence->table_version == version;
        uint32_t known = same ? sequence->table_count : 0;
        if (known < used) {
            offload_kv_addresses(engine->offload, sequence->blocks + known, used - known,
                                 inputs->block_table + (size_t)row * inputs->table_stride + known);
        }
        engine->table_owner[row] = sequence;
        sequence->table_row = row;
        sequence->table_count = used;
        sequence->table_version = version;
    }
}
