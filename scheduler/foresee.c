#include "scheduler/foresee.h"

#include "base/check.h"
#include "kernels/ops.h"
#include "scheduler/prompt_rows.h"

#define NEVER UINT64_MAX

/* Steps of the play; what is far away is played in longer ones: a step stands for one iteration more each time that so
 * many have been played, twice as many each time. So the play is bounded, and reaches far. */
#define MOST_STEPS 640
#define FINE_STEPS 128

/* The state of the play that is not the caller's. */
struct play {
    struct foresight *at;
    uint32_t watched;
    uint32_t next; /* of the waiting ones */
    struct foresaw *out;
    bool watched_runs;
    uint32_t span;         /* iterations that a step stands for */
    uint32_t prompt_steps; /* what prompt_rows() found last, in steps of LEAST_PROMPT_ROWS */
};

/* What an iteration is made of. */
struct mixture {
    uint32_t rows;
    double context; /* positions that all rows attend to together */
};

static void mix(struct mixture *mixture, uint32_t rows, uint32_t from) {
    mixture->rows += rows;
    mixture->context += rows * (from + rows / 2.0);
}

static struct foreseen_time time_of(const struct foresight *at, const struct mixture *mixture) {
    return at->time_of(at->times, mixture->rows, mixture->context / mixture->rows);
}

/* The least time that is promised to a token of those that run. */
static uint64_t least_tpot(const struct foresight *at) {
    uint64_t least_ns = NEVER;
    for (uint32_t i = 0; i < at->running_count; i++) {
        uint64_t own = at->running[i].tpot_ns;
        least_ns = own > 0 && own < least_ns ? own : least_ns;
    }
    return least_ns;
}

/* What the sequences that generate are together, and the least time that is promised to a token of theirs. */
static struct mixture generating(const struct foresight *at, uint64_t *least_tpot_ns) {
    struct mixture all = {0};
    *least_tpot_ns = NEVER;
    for (uint32_t i = 0; i < at->running_count; i++) {
        const struct foreseen *sequence = &at->running[i];
        if (sequence->left == 0) {
            mix(&all, 1, sequence->context);
            if (sequence->tpot_ns > 0 && sequence->tpot_ns < *least_tpot_ns) {
                *least_tpot_ns = sequence->tpot_ns;
            }
        }
    }
    return all;
}

/* Where the prompt that is next for rows has come to. */
static uint32_t prompt_context(const struct play *play) {
    const struct foresight *at = play->at;
    for (uint32_t i = 0; i < at->running_count; i++) {
        if (at->running[i].left > 0) {
            return at->running[i].context;
        }
    }
    return play->next < at->waiting_count ? at->waiting[play->next].context : 0;
}

/* An iteration to which rows of a prompt from `from` on are added. */
struct joined {
    const struct foresight *at;
    const struct mixture *decode;
    uint32_t from;
    uint64_t share_ns;
};

static bool is_in_time(const void *argument, uint32_t rows) {
    const struct joined *joined = argument;
    struct mixture all = *joined->decode;
    mix(&all, rows, joined->from);
    struct foreseen_time time = time_of(joined->at, &all);
    return (double)time.compute_ns * joined->at->mixed <= (double)joined->share_ns * (1 - 1.0 / PROMPT_RESERVE) &&
           time.iteration_ns <= joined->share_ns;
}

/* As deadlines_prompt_rows(), but for what tokens are ahead or behind. */
static uint32_t prompt_rows(struct play *play, const struct mixture *decode, uint64_t share_ns, uint32_t most) {
    if (decode->rows == 0 || share_ns == NEVER || most <= LEAST_PROMPT_ROWS) {
        return most;
    }
    const struct joined joined = {play->at, decode, prompt_context(play), share_ns};
    return prompt_rows_most(most, &play->prompt_steps, is_in_time, &joined);
}

/* What of its prompt a sequence computes in the next step, with `rows` left. */
static uint32_t chunk_of(const struct play *play, const struct foreseen *sequence, uint32_t rows) {
    uint64_t most = (uint64_t)play->at->chunk * play->span;
    uint32_t own = sequence->left < most ? sequence->left : (uint32_t)most;
    return own < rows ? own : rows;
}

/* Blocks that a sequence holds at the end of `more` further tokens. */
static uint32_t blocks_after(const struct foreseen *sequence, uint32_t more) {
    return (sequence->context + sequence->left + more + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
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
            needed += there ? blocks_after(other, at->running[i].to_come) : 0;
        }
        if (needed > held && !at->running[i].gives_way) {
            return true;
        }
    }
    return false;
}

/* The watched one runs: what does that mean to it and to those beside it? */
static void note_start(struct play *play) {
    const struct foresight *at = play->at;
    struct mixture all = {0};
    for (uint32_t i = 0; i < at->running_count; i++) {
        mix(&all, 1, at->running[i].context + at->running[i].left);
    }
    play->out->token_ns = time_of(at, &all).least_ns;
    play->out->least_tpot_ns = least_tpot(at);
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

/* Returns whether somebody gave way. */
static bool make_way(struct foresight *at, uint32_t blocks) {
    bool gave = false;
    if (has_room(at, blocks, count_giving_way(at))) {
        while (!has_room(at, blocks, 0) && count_giving_way(at) > 0) {
            at->blocks_free += at->running[--at->running_count].blocks;
            gave = true;
        }
    }
    return gave;
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

/* Once it is the turn of those behind, the first of those that run on sufferance stays. */
static void take_turn(struct foresight *at) {
    uint32_t giving_way = count_giving_way(at);
    if (at->admissions + 1 == at->behind_share && giving_way > 0) {
        at->running[at->running_count - giving_way].gives_way = false;
        at->admissions = 0;
    }
}

/* Admits as long as there are rows, places and blocks; returns whether some of those that ran gave way. */
static bool admit(struct play *play, uint32_t rows) {
    struct foresight *at = play->at;
    bool theirs, gave_way = false;
    struct foreseen next;
    for (take_turn(at); take_next(play, &next, &theirs); take_turn(at)) {
        uint32_t blocks = blocks_after(&next, 1);
        if (rows > 0 && !theirs) {
            gave_way = make_way(at, blocks) || gave_way;
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
        next.rows = chunk_of(play, &next, rows);
        add_running(at, &next);
        rows -= next.rows;
        if (next.watched) {
            note_start(play);
        }
    }
    return gave_way;
}

/* Gives a sequence blocks for what it has come to, as far as there are any. */
static void grow(struct foresight *at, struct foreseen *sequence) {
    uint32_t blocks = blocks_after(sequence, 1);
    uint32_t more = blocks > sequence->blocks ? blocks - sequence->blocks : 0;
    more = more < at->blocks_free ? more : at->blocks_free;
    at->blocks_free -= more;
    sequence->blocks += more;
}

/* One sequence's part of a step of so many iterations; false if it has ended. */
static bool advance(struct play *play, struct foreseen *sequence, uint32_t iterations) {
    struct foresight *at = play->at;
    uint32_t tokens = 1;
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
        tokens = iterations < sequence->to_come ? iterations : sequence->to_come;
        sequence->context += tokens;
    }
    sequence->to_come -= tokens;
    if (sequence->to_come == 0) {
        at->blocks_free += sequence->blocks;
        return false;
    }
    grow(at, sequence);
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
        uint32_t blocks = blocks_after(&at->running[i], (uint32_t)most + 1);
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
        grow(at, sequence);
    }
}

/* What an iteration takes, of which no more than `share_ns` is promised: where its placement of weights would take
 * longer than that, as many come home as are in the way, and can. */
static uint64_t takes(const struct foresight *at, const struct mixture *all, bool mixed, uint64_t share_ns) {
    struct foreseen_time time = time_of(at, all);
    uint64_t ns = time.least_ns > share_ns ? time.least_ns : share_ns;
    ns = time.iteration_ns <= share_ns ? time.iteration_ns : ns;
    uint64_t mixed_ns = mixed ? (uint64_t)((double)time.compute_ns * at->mixed) : 0;
    return ns > mixed_ns ? ns : mixed_ns;
}

/* The rows of a step's prompts, which are in `mixture` as those of one iteration afterwards. */
static uint32_t mix_prompts(const struct foresight *at, uint32_t iterations, struct mixture *mixture) {
    struct mixture prompts = {0};
    for (uint32_t i = 0; i < at->running_count; i++) {
        if (at->running[i].left > 0) {
            mix(&prompts, at->running[i].rows, at->running[i].context);
        }
    }
    mixture->rows += (prompts.rows + iterations - 1) / iterations;
    mixture->context += prompts.context / iterations;
    return prompts.rows;
}

/* When the next of those that are not there yet comes. */
static uint64_t next_arrival(const struct play *play) {
    const struct foresight *at = play->at;
    uint64_t next_ns = NEVER;
    for (uint32_t i = play->next; i < at->waiting_count; i++) {
        next_ns = at->waiting[i].from_ns < next_ns ? at->waiting[i].from_ns : next_ns;
    }
    return next_ns > at->now_ns ? next_ns : at->now_ns + 1;
}

/* One step: an iteration, or several of them that are alike, or as if they were. */
static void iterate(struct play *play, uint64_t until_ns) {
    struct foresight *at = play->at;
    uint64_t share_ns;
    struct mixture all = generating(at, &share_ns);
    uint32_t most = at->most_rows > all.rows ? at->most_rows - all.rows : 0;
    most = prompt_rows(play, &all, share_ns, most);
    uint64_t room = (uint64_t)most * play->span;
    uint32_t rows = room < UINT32_MAX ? (uint32_t)room : UINT32_MAX;
    for (uint32_t i = 0; i < at->running_count; i++) {
        struct foreseen *sequence = &at->running[i];
        sequence->rows = chunk_of(play, sequence, rows);
        rows -= sequence->rows;
    }
    if (admit(play, rows)) {
        all = generating(at, &share_ns);
    }
    if (at->running_count == 0) { /* nothing is there yet */
        at->now_ns = next_arrival(play);
        return;
    }
    const uint32_t decode_rows = all.rows;
    uint32_t iterations = play->span;
    if (decode_rows == 0) {
        struct mixture prompts = {0};
        uint32_t needed = mix_prompts(at, 1, &prompts) / (most > 0 ? most : 1) + 1;
        iterations = needed < iterations ? needed : iterations;
    }
    const bool mixed = mix_prompts(at, iterations, &all) > 0 && decode_rows > 0;
    const uint64_t iteration_ns = takes(at, &all, mixed, decode_rows > 0 ? share_ns : least_tpot(at));
    const uint32_t many = alike(play, until_ns, iteration_ns);
    if (many > 1) {
        leap(at, many, iteration_ns);
        return;
    }
    at->now_ns += iterations * iteration_ns;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < at->running_count; i++) {
        struct foreseen *sequence = &at->running[i];
        if (advance(play, sequence, iterations)) {
            if (kept < i) { /* else it is where it was, and its fields were written just now */
                at->running[kept] = *sequence;
            }
            kept++;
        }
    }
    at->running_count = kept;
}

struct foresaw foresee(struct foresight *foresight, uint32_t watched, uint64_t until_ns) {
    CHECK(watched < foresight->waiting_count && foresight->behind_share > 0 && foresight->most_running > 0);
    struct foresaw out = {.first_ns = NEVER, .least_tpot_ns = NEVER};
    struct play play = {.at = foresight, .watched = watched, .out = &out, .span = 1};
    uint32_t last = watched; /* that is of interest */
    for (uint32_t i = watched + 1; i < foresight->waiting_count; i++) {
        last = foresight->waiting[i].due_ns != NEVER ? i : last;
    }
    for (uint32_t step = 0; step < MOST_STEPS && foresight->now_ns <= until_ns; step++) {
        play.span = 1u << step / FINE_STEPS;
        if (out.first_ns != NEVER && (play.next > last || last == watched)) {
            break;
        }
        iterate(&play, until_ns);
    }
    return out;
}
