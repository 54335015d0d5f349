#include "bench/grid_report.h"

#include "bench/ratios.h"

#include <math.h>
#include <stdio.h>

#define GIB 0x1p30

static struct ratios ratios_to(const struct grid_cell *cells, uint32_t count, enum grid_policy other) {
    double ours[GRID_MOST_CELLS], theirs[GRID_MOST_CELLS];
    for (uint32_t i = 0; i < count; i++) {
        ours[i] = cells[i].answer[GRID_METRONOME].tokens_per_s;
        theirs[i] = cells[i].answer[other].tokens_per_s;
    }
    return ratios_of(ours, theirs, count);
}

static void write_ratios(const struct grid_cell *cells, uint32_t count, struct book *book) {
    book_say(
        book,
        "Tokens a second of metronome to each other policy's, over the %u cells. alone: cells in which only "
        "metronome, or only the other, finds a setting that keeps the promise for %.0f %% of requests; they have no "
        "ratio and are in no mean.",
        count, 100 * GRID_ATTAINMENT);
    book_table(book, "offload_ratios");
    for (int policy = 0; policy < GRID_METRONOME; policy++) {
        const struct ratios ratios = ratios_to(cells, count, (enum grid_policy)policy);
        ratios_write(book, grid_policy_name((enum grid_policy)policy), &ratios);
        book_number(book, "below 0.99", 0, ratios.below);
        book_end_row(book);
    }
    book_end_table(book);
}

static void write_link(const struct grid_cell *cells, uint32_t count, struct book *book) {
    uint32_t reached = 0, could = 0;
    double least = INFINITY, sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        double use = cells[i].answer[GRID_METRONOME].link_use;
        if (use > 0) {
            could++;
            reached += use >= 0.95;
            least = fmin(least, use);
            sum += use;
        }
    }
    book_say(book,
             "Bytes that metronome streams, counted at the copy calls, to what the link carries in the promised time, "
             "with four sequences decoding and nobody waiting: at least 0.95 in %u of %u cells; the mean is %.3f, the "
             "least %.3f.",
             reached, could, could > 0 ? sum / could : 0, could > 0 ? least : 0);
}

static void write_cells(const struct grid_cell *cells, uint32_t count, struct book *book) {
    book_table(book, "offload");
    for (uint32_t i = 0; i < count; i++) {
        char load[32];
        snprintf(load, sizeof load, "%u + %u", cells[i].prompt_tokens, cells[i].output_tokens);
        for (int policy = 0; policy < GRID_POLICIES; policy++) {
            const struct grid_answer *answer = &cells[i].answer[policy];
            bool serves = answer->tokens_per_s > 0, saves = answer->link_use > 0;
            book_text(book, "model", cells[i].model);
            book_number(book, "device GiB", 0, cells[i].memory_gib);
            book_text(book, "load", load);
            book_number(book, "promise ms", 1, (double)cells[i].tpot_ns / 1e6);
            book_text(book, "policy", grid_policy_name((enum grid_policy)policy));
            book_text(book, "set by hand", answer->options);
            book_number(book, "places", 0, serves ? answer->places : NAN);
            book_number(book, "tok/s", 1, serves ? answer->tokens_per_s : NAN);
            book_number(book, "kept %", 0, serves ? 100 * answer->attainment : NAN);
            book_number(book, "saved GiB", 2, saves ? answer->saved_bytes / GIB : NAN);
            book_number(book, "link use", 3, saves ? answer->link_use : NAN);
            book_end_row(book);
        }
    }
    book_end_table(book);
}

void grid_report(const struct grid_cell *cells, uint32_t count, const char *hardware, struct book *book) {
    book_section(book, "Every policy, at its best");
    book_say(
        book,
        "Whole engines on sim (%s), the same model, promise and load for all policies; each is run with every number "
        "of places and with every setting of its own options that can be in time, and its best counts: a dash is a "
        "policy for which no setting keeps the promise. 100 requests come at once, so that room saved is turned "
        "into batch. tok/s: of requests of which no token was late, as long as others wait. saved and link use: the "
        "setting that saves the most, with four sequences decoding and nobody waiting.",
        hardware);
    write_ratios(cells, count, book);
    write_link(cells, count, book);
    write_cells(cells, count, book);
}
