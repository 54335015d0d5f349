#include "bench/load/page.h"

#include "bench/about.h"
#include "bench/book.h"
#include "server/chart.h"

#include <math.h>
#include <string.h>

#define MOST_POINTS 400 /* of a picture: where there are more requests, the slowest of so many in a row */

static void write_load(const struct load_story *story, struct book *book) {
    const char *slash = story->trace ? strrchr(story->trace, '/') : NULL;
    book_table(book, "load");
    book_text(book, "server", story->url);
    book_text(book, "model", story->target->model);
    book_text(book, "endpoint", story->target->completions ? "completions" : "chat");
    book_text(book, "trace", slash ? slash + 1 : story->trace ? story->trace : "drawn");
    book_text(book, "prompts", story->prompt ? story->prompt : "the trace's");
    book_text(book, "answers", story->output ? story->output : "the trace's");
    book_number(book, "clients", 0, story->clients > 0 ? story->clients : NAN);
    book_number(book, "arrivals/s", 3, story->rate > 0 ? story->rate : NAN);
    book_number(book, "burstiness", 2, story->burstiness);
    book_number(book, "TTFT promised, ms", 0, story->promise.ttft_ms > 0 ? story->promise.ttft_ms : NAN);
    book_number(book, "TPOT promised, ms", 0, story->promise.tpot_ms > 0 ? story->promise.tpot_ms : NAN);
    book_end_row(book);
    book_end_table(book);
}

static void write_results(const struct load_story *story, struct book *book) {
    const struct load_figures *figures = story->figures;
    const bool promised = story->promise.ttft_ms > 0 || story->promise.tpot_ms > 0;
    book_table(book, "results");
    book_number(book, "requests", 0, figures->sent);
    book_number(book, "whole", 0, figures->whole);
    book_number(book, "seconds", 2, story->report->seconds);
    book_number(book, "requests/s", 3, figures->requests_s);
    book_number(book, "tokens out/s", 1, figures->output_tokens_s);
    book_number(book, "tokens in/s", 1, figures->prompt_tokens_s);
    book_number(book, "kept", 0, promised ? figures->kept : NAN);
    book_number(book, "goodput, requests/s", 3, promised ? figures->goodput : NAN);
    book_number(book, "sent again", 0, figures->retries + figures->reconnects);
    book_end_row(book);
    book_end_table(book);
}

static void write_times(const struct load_figures *figures, struct book *book) {
    const struct {
        const char *name;
        const struct summary *summary;
    } rows[] = {{"TTFT, from when it was due", &figures->ttft_ms},  {"TPOT, an answer's mean", &figures->tpot_ms},
                {"between two events with text", &figures->itl_ms}, {"E2E", &figures->e2e_ms},
                {"sent late by this program", &figures->late_ms},   {"its event loop's delay", &figures->lag_ms}};
    book_table(book, "times");
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const struct summary *summary = rows[i].summary;
        const bool any = summary->count > 0;
        book_text(book, "ms", rows[i].name);
        book_number(book, "mean", 2, any ? summary->mean : NAN);
        book_number(book, "p50", 2, any ? summary->p50 : NAN);
        book_number(book, "p90", 2, any ? summary->p90 : NAN);
        book_number(book, "p95", 2, any ? summary->p95 : NAN);
        book_number(book, "p99", 2, any ? summary->p99 : NAN);
        book_number(book, "max", 2, any ? summary->max : NAN);
        book_end_row(book);
    }
    book_end_table(book);
}

static void write_kinds(const struct load_report *report, struct book *book) {
    book_table(book, "outcomes");
    for (uint32_t kind = OUTCOME_OK; kind < OUTCOME_KINDS; kind++) {
        if (report->kinds[kind] > 0) {
            book_text(book, "outcome", outcome_name((enum outcome_kind)kind));
            book_number(book, "requests", 0, report->kinds[kind]);
            book_text(book, "which is", outcome_help((enum outcome_kind)kind));
            book_text(book, "the first said", report->example[kind]);
            book_end_row(book);
        }
    }
    book_end_table(book);
}

/* A time of every request by when it was due, and what was promised. */
static void draw(const struct load_report *report, const char *title, double (*time_ms)(const struct outcome *outcome),
                 double promised_ms, struct book *book) {
    struct chart_point points[MOST_POINTS];
    const uint32_t in_a_row = report->count / MOST_POINTS + 1;
    uint32_t count = 0;
    for (uint32_t i = 0; i < report->count; i += in_a_row) {
        struct chart_point point = {.x = (double)report->outcomes[i].arrival_ns / 1e9, .y = NAN};
        for (uint32_t j = i; j < i + in_a_row && j < report->count; j++) {
            const struct outcome *outcome = &report->outcomes[j];
            if (outcome->kind == OUTCOME_OK && time_ms(outcome) > 0) {
                point.y = fmax(point.y, time_ms(outcome));
            }
        }
        if (!isnan(point.y)) {
            points[count++] = point;
        }
    }
    const double last = count > 0 ? points[count - 1].x : 0;
    const struct chart_point bound[] = {{0, promised_ms}, {last, promised_ms}};
    const struct chart_line lines[] = {
        {.name = in_a_row > 1 ? "slowest in a row" : "each request", .points = points, .count = count},
        {.name = "promised", .points = bound, .count = 2, .dashed = true}};
    const struct chart chart = {.title = title,
                                .x_label = "due, seconds after the start",
                                .y_label = "ms",
                                .lines = lines,
                                .line_count = promised_ms > 0 ? 2 : 1};
    struct text svg = {0};
    chart_svg(&chart, &svg);
    book_chart(book, title, &svg, NULL);
    text_free(&svg);
}

struct status load_story_page(const struct load_story *story, const char *path) {
    struct book book;
    book_open(&book, "A server under load");
    about_write(NULL, story->seed, &book);
    write_load(story, &book);
    book_section(&book, "What came back");
    write_results(story, &book);
    write_kinds(story->report, &book);
    book_section(&book, "Times");
    write_times(story->figures, &book);
    draw(story->report, "Time to the first token", outcome_ttft_ms, story->promise.ttft_ms, &book);
    draw(story->report, "Time per token after it, an answer's mean", outcome_tpot_ms, story->promise.tpot_ms, &book);
    book_close(&book);
    struct status status = book_write(&book, BOOK_HTML, path);
    book_free(&book);
    return status;
}
