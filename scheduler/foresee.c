#include "scheduler/foresee.h"

#include "base/check.h"

#define NEVER UINT64_MAX
#define LEAST_PROMPT_ROWS 16
#define MOST_ITERATIONS 4096

/* The state of the play that is not the caller's. */
struct play {
    struct foresight *at;
    uint32_t watched;
    uint32_t next; /* of the waiting ones */
    struct foresaw *out;
    bool watched_runs;
    uint32_t prompt_rows_at; /* running that generate, when `prompt_rows` was found */
    uint32_t prompt_rows;
};

uint64_t foresee_rows_ns(const struct foresight *foresight, uint32_t rows) {
    uint32_t at = 0;
    while (at + 2 < foresight->points && (2u << at) < rows) {
        at++;
    }
    if (rows <= 1 || foresight->points < 2) {
        return foresight->rows_ns[0];
    }
    double low = (double)foresight->rows_ns[at], high = (double)foresight->rows_ns[at + 1];
    return (uint64_t)(low + (high - low) * ((double)rows / (1u << at) - 1));
}

static uint32_t generating(const struct foresight *at, uint64_t *least_tpot_ns) {
    uint32_t count = 0;
    *least_tpot_ns = NEVER;
    for (uint32_t i = 0; i < at->running_count; i++) {
        const struct foreseen *sequence = &at->running[i];
        count += sequence->left == 0;
        if (sequence->left == 0 && sequence->tpot_ns > 0 && sequence->tpot_ns < *least_tpot_ns) {
            *least_tpot_ns = sequence->tpot_ns;
        }
    }
    return count;
}

/* As deadlines_prompt_rows(), but for what tokens are ahead or behind. */
static uint32_t prompt_rows(struct play *play, uint32_t decode_rows, uint64_t share_ns, uint32_t most) {
    if (decode_rows == 0 || share_ns == NEVER || most <= LEAST_PROMPT_ROWS) {
        return most;
    }
    if (play->prompt_rows_at != decode_rows) {
        uint32_t good = LEAST_PROMPT_ROWS, bad = most + 1;
        while (good + LEAST_PROMPT_ROWS < bad) {
            uint32_t rows = good + (bad - good) / 2;
            bool fits = foresee_rows_ns(play->at, decode_rows + rows) <= share_ns;
            good = fits ? rows : good;
            bad = fits ? bad : rows;
        }
        play->prompt_rows_at = decode_rows;
        play->prompt_rows = bad > most ? most : good;
    }
    return play->prompt_rows < most ? play->prompt_rows : most;
}

/* What of its prompt a sequence computes next, with `rows` left. */
static uint32_t chunk_of(const struct foresight *at, const struct foreseen *sequence, uint32_t rows) {
    uint32_t own = sequence->left < at->chunk ? sequence->left : at->chunk;
    return own < rows ? own : rows;
}

/* Blocks that a sequence holds at the end of `more` further tokens. */
static uint32_t blocks_after(const struct foresight *at, const struct foreseen *sequence, uint32_t more) {
    return (sequence->context + sequence->left + more + at->block_tokens - 1) / at->block_tokens;
}

/* Do the running ones together ever need more blocks than there are? All grow by a token an iteration, so that the most
 * is needed just before one of them ends. */
static bool is_overfull(const struct foresight *at) {
    uint64_t held = at->blocks_free;
    for (uint32_t i = 0; i < at->running_count; i++) {
        held += at->running[i].blocks;
    }
    for (uint32_t i = 0; i < at->running_count; i++) {
        uint64_t needed = 0;
        for (uint32_t j = 0; j < at->running_count; j++) {
            const struct foreseen *other = &at->running[j];
            bool there = other->to_come >= at->running[i].to_come && !other->gives_way;
            needed += there ? blocks_after(at, other, at->running[i].to_come) : 0;
        }
        if (needed > held && !at->running[i].gives_way) {
            return true;
        }
    }
    return false;
}

/* The watched one runs: what does that mean to it and to those beside it? */
static void note_start(struct play *play) {
    uint64_t least_ns = NEVER;
    const struct foresight *at = play->at;
    for (uint32_t i = 0; i < at->running_count; i++) {
        uint64_t own = at->running[i].tpot_ns;
        least_ns = own > 0 && own < least_ns ? own : least_ns;
    }
    play->out->token_ns = foresee_rows_ns(at, at->running_count);
    play->out->least_tpot_ns = least_ns;
    play->out->overfull = is_overfull(at);
    play->watched_runs = true;
}

/* Why could nobody be admitted any more? As far as it concerns the watched one. */
static void note_wait(struct play *play, bool for_blocks) {
    if (!play->watched_runs && play->at->now_ns >= play->at->waiting[play->watched].from_ns) {
        play->out->for_blocks = play->out->for_blocks || for_blocks;
        play->out->for_places = play->out->for_places || !for_blocks;
    }
}

/* Is there room for one that needs `blocks` more, if the last `less` of the running ones were gone? */
static bool has_room(const struct foresight *at, uint32_t blocks, uint32_t less) {
    uint32_t running = at->running_count - less;
    uint64_t free = at->blocks_free;
    for (uint32_t i = running; i < at->running_count; i++) {
        free += at->running[i].blocks;
    }
    return running == 0 || (running < at->most_running && free >= (uint64_t)blocks + running + at->blocks_lent);
}

static uint32_t count_giving_way(const struct foresight *at) {
    uint32_t count = 0;
    while (count < at->running_count && at->running[at->running_count - 1 - count].gives_way) {
        count++;
    }
    return count;
}

static void make_way(struct foresight *at, uint32_t blocks) {
    if (has_room(at, blocks, count_giving_way(at))) {
        while (!has_room(at, blocks, 0) && count_giving_way(at) > 0) {
            at->blocks_free += at->running[--at->running_count].blocks;
        }
    }
}

/* Those that give way stay last. */
static void add_running(struct foresight *at, const struct foreseen *sequence) {
    uint32_t place = at->running_count++;
    while (!sequence->gives_way && place > 0 && at->running[place - 1].gives_way) {
        at->running[place] = at->running[place - 1];
        place--;
    }
    at->running[place] = *sequence;
}

/* Whose turn it is: the next in line, or one of those behind. False if nobody is there. */
static bool take_next(const struct play *play, struct foreseen *next, bool *theirs) {
    const struct foresight *at = play->at;
    bool line = play->next < at->waiting_count && at->waiting[play->next].from_ns <= at->now_ns;
    bool turn = at->admissions + 1 == at->behind_share;
    *theirs = at->behind_count > 0 && (!line || turn);
    *next = (struct foreseen){
        .due_ns = NEVER, .left = at->behind_left, .to_come = at->behind_left, .gives_way = *theirs && !turn};
    if (!*theirs && line) {
        *next = at->waiting[play->next];
        next->watched = play->next == play->watched;
    }
    return (line || *theirs) && next->left + next->context > 0;
}

/* Admits as long as there are rows, places and blocks. */
static void admit(struct play *play, uint32_t rows) {
    struct foresight *at = play->at;
    bool theirs;
    struct foreseen next;
    while (take_next(play, &next, &theirs)) {
        uint32_t blocks = blocks_after(at, &next, 1);
        if (rows > 0 && !theirs) {
            make_way(at, blocks);
        }
        if (rows == 0 || !has_room(at, blocks, 0)) {
            note_wait(play, rows > 0 && at->running_count < at->most_running);
            break;
        }
        play->next += !theirs;
        at->behind_count -= theirs;
        at->admissions = (at->admissions + !next.gives_way) % at->behind_share;
        next.blocks = blocks;
        at->blocks_free -= blocks < at->blocks_free ? blocks : at->blocks_free;
        next.rows = chunk_of(at, &next, rows);
        add_running(at, &next);
        rows -= next.rows;
        if (next.watched) {
            note_start(play);
        }
    }
}

/* One sequence's part of an iteration; false if it has ended. */
static bool advance(struct play *play, struct foreseen *sequence) {
    struct foresight *at = play->at;
    if (sequence->left > 0) {
        sequence->left -= sequence->rows;
        sequence->context += sequence->rows;
        if (sequence->left > 0) {
            return true;
        }
        if (sequence->watched) {
            play->out->first_ns = at->now_ns;
        } else {
            play->out->late += at->now_ns > sequence->due_ns;
        }
        sequence->due_ns = NEVER;
    } else {
        sequence->context++;
    }
    if (--sequence->to_come == 0) {
        at->blocks_free += sequence->blocks;
        return false;
    }
    uint32_t blocks = blocks_after(at, sequence, 1);
    if (blocks > sequence->blocks && at->blocks_free > 0) {
        at->blocks_free--;
        sequence->blocks++;
    }
    return true;
}

/* Iterations from this one on that are all alike: everybody generates, nobody ends, and nobody who is not admitted now
 * can be. 1 if there is only this one. */
static uint32_t alike(const struct play *play, uint64_t until_ns, uint64_t iteration_ns) {
    const struct foresight *at = play->at;
    bool all_there = play->next == at->waiting_count || at->waiting[play->next].from_ns <= at->now_ns;
    if (!all_there || at->now_ns < at->waiting[play->watched].from_ns || at->now_ns > until_ns) {
        return 1;
    }
    uint64_t most = iteration_ns > 0 ? (until_ns - at->now_ns) / iteration_ns + 1 : NEVER, growth = 0;
    for (uint32_t i = 0; i < at->running_count; i++) {
        const struct foreseen *sequence = &at->running[i];
        if (sequence->left > 0) {
            return 1;
        }
        most = sequence->to_come - 1 < most ? sequence->to_come - 1 : most;
    }
    for (uint32_t i = 0; i < at->running_count; i++) {
        uint32_t blocks = blocks_after(at, &at->running[i], (uint32_t)most + 1);
        growth += blocks > at->running[i].blocks ? blocks - at->running[i].blocks : 0;
    }
    return most > 1 && growth <= at->blocks_free ? (uint32_t)most : 1;
}

static void leap(struct foresight *at, uint32_t iterations, uint64_t iteration_ns) {
    at->now_ns += iterations * iteration_ns;
    for (uint32_t i = 0; i < at->running_count; i++) {
        struct foreseen *sequence = &at->running[i];
        sequence->context += iterations;
        sequence->to_come -= iterations;
        uint32_t blocks = blocks_after(at, sequence, 1);
        if (blocks > sequence->blocks) {
            at->blocks_free -= blocks - sequence->blocks;
            sequence->blocks = blocks;
        }
    }
}

/* One iteration, or several that are alike. */
static void iterate(struct play *play, uint64_t until_ns) {
    struct foresight *at = play->at;
    uint64_t share_ns;
    uint32_t decode_rows = generating(at, &share_ns), total = 0;
    uint32_t rows = at->most_rows > decode_rows ? at->most_rows - decode_rows : 0;
    rows = prompt_rows(play, decode_rows, share_ns, rows);
    for (uint32_t i = 0; i < at->running_count; i++) {
        struct foreseen *sequence = &at->running[i];
        sequence->rows = chunk_of(at, sequence, rows);
        rows -= sequence->rows;
    }
    admit(play, rows);
    for (uint32_t i = 0; i < at->running_count; i++) {
        total += at->running[i].left > 0 ? at->running[i].rows : 1;
    }
    if (total == 0) { /* nothing is there yet */
        const uint64_t from_ns = at->waiting[play->watched].from_ns;
        at->now_ns = from_ns > at->now_ns ? from_ns : at->now_ns + 1;
        return;
    }
    const uint64_t iteration_ns = foresee_rows_ns(at, total);
    const uint32_t iterations = alike(play, until_ns, iteration_ns);
    if (iterations > 1) {
        leap(at, iterations, iteration_ns);
        return;
    }
    at->now_ns += iteration_ns;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < at->running_count; i++) {
        struct foreseen *sequence = &at->running[i];
        if (advance(play, sequence)) {
            at->running[kept++] = *sequence;
        }
    }
    at->running_count = kept;
}

struct foresaw foresee(struct foresight *foresight, uint32_t watched, uint64_t until_ns) {
    CHECK(watched < foresight->waiting_count && foresight->behind_share > 0 && foresight->most_running > 0);
    struct foresaw out = {.first_ns = NEVER, .least_tpot_ns = NEVER};
    struct play play = {.at = foresight, .watched = watched, .out = &out, .prompt_rows_at = UINT32_MAX};
    uint32_t last = watched; /* that is of interest */
    for (uint32_t i = watched + 1; i < foresight->waiting_count; i++) {
        last = foresight->waiting[i].due_ns != NEVER ? i : last;
    }
    for (uint32_t step = 0; step < MOST_ITERATIONS && foresight->now_ns <= until_ns; step++) {
        if (out.first_ns != NEVER && (play.next > last || last == watched)) {
            break;
        }
        iterate(&play, until_ns);
    }
    return out;
}
