#include "bench/paper.h"

#include "server/chart.h"

#include <math.h>

#define GIB 0x1p30

/* ---- the figures side by side ---- */

/* `off`: the note that explains a difference of more than a tenth; "" where there is none. */
static void add_figure(struct book *book, const char *what, double paper, double ours, double metronome) {
    book_text(book, "figure", what);
    book_number(book, "paper", 2, paper);
    book_number(book, "select-n", 2, ours);
    book_number(book, "difference %", 1, 100 * (ours / paper - 1));
    book_number(book, "metronome", 2, metronome);
    book_end_row(book);
}

/* The highest ratio to FlexGen's of the cases of one phase. */
static double most_saved(const struct paper *paper, enum plan_phase phase, enum paper_policy policy) {
    double most = 0;
    for (uint32_t i = 0; i < 2 * PAPER_BATCHES; i++) {
        const struct paper_memory *memory = &paper->memory[i];
        if (memory->phase == phase) {
            most = fmax(most, memory->freed_bytes[policy] / memory->freed_bytes[PAPER_FLEXGEN]);
        }
    }
    return most;
}

/* The highest ratio where both serve at all; 0 if they never do. */
static double most_served(const struct paper *paper, enum paper_policy policy, enum paper_policy to) {
    double most = 0;
    for (uint32_t i = 0; i < PAPER_PROMISES; i++) {
        const struct paper_throughput *row = &paper->throughput[i];
        if (row->tokens_per_s[to] > 0) {
            most = fmax(most, row->tokens_per_s[policy] / row->tokens_per_s[to]);
        }
    }
    return most;
}

/* FlexGen's time per token to a policy's, for the model that gains the most. */
static double most_quicker(const struct paper *paper, enum paper_pair pair) {
    const struct paper_bus *flexgen = &paper->bus[PAIR_FLEXGEN_MODEL], *ours = &paper->bus[pair];
    return fmax(flexgen->engine[0].mean_ns / ours->engine[0].mean_ns,
                flexgen->engine[1].mean_ns / ours->engine[1].mean_ns);
}

static void write_figures(const struct paper *paper, struct book *book) {
    const struct paper_interval *prefill = &paper->interval[0], *decode = &paper->interval[1];
    book_table(book, "paper");
    add_figure(book, "OPT-6.7B, prefill, batch 16: copy / compute of a layer", 3.5, prefill->ratio, NAN);
    add_figure(book, "OPT-6.7B, decode, batch 128: copy / compute of a layer", 13.8, decode->ratio, NAN);
    add_figure(book, "prefill, promise +50 %: one layer offloaded in", 3, prefill->least, prefill->any);
    add_figure(book, "decode, promise +50 %: one layer offloaded in (1)", 8, decode->least, decode->any);
    add_figure(book, "OPT-13B, memory saved / FlexGen's, up to: prefill (2)", 2.37,
               most_saved(paper, PLAN_PREFILL, PAPER_SELECT_N), most_saved(paper, PLAN_PREFILL, PAPER_METRONOME));
    add_figure(book, "OPT-13B, memory saved / FlexGen's, up to: decode (2)", 2.37,
               most_saved(paper, PLAN_DECODE, PAPER_SELECT_N), most_saved(paper, PLAN_DECODE, PAPER_METRONOME));
    add_figure(book, "OPT-13B, tokens a second / FlexGen's, up to (3)", 1.85,
               most_served(paper, PAPER_SELECT_N, PAPER_FLEXGEN), most_served(paper, PAPER_METRONOME, PAPER_FLEXGEN));
    add_figure(book, "two models on one bus: FlexGen's time per token / ours, up to (4)", 2.9,
               most_quicker(paper, PAIR_SELECT_N), most_quicker(paper, PAIR_METRONOME));
    book_end_table(book);
}

static void say_interval(const struct paper_interval *decode, struct book *book) {
    double layer_ns = (double)decode->plan_case.layer_ns;
    book_say(
        book,
        "(1) One layer in 8 of 32 is four layers. At the paper's own ratio of 13.8 their copies take as long as 55.2 "
        "layers compute, while half as long again as 32 layers is 48: an interval of 8 needs a promise that counts "
        "at least seven layers' time outside the layers. By the description of the hardware, four layers' copies "
        "take %.1f layers' time and the promise, embedding and head counted, is %.1f; so %.0f it is, three "
        "layers. Pieces of layers use what is left of the link.",
        4 * decode->ratio, (double)decode->plan_case.deadline_ns / layer_ns, decode->least);
}

static void say_flexgen(const struct paper *paper, struct book *book) {
    book_say(book,
             "(2) The paper does not say how its FlexGen with the promise added sets its percentage. Here it is set "
             "once, to the most that keeps the promise (+50 %%) in prefill and decode at every batch: %.4g %% of every "
             "layer, cut as finely as here. Decode decides it, where a promise leaves little room; prefill could give "
             "more, and with a percentage set once does not. The paper's 2.37 lies between our two phases. In decode "
             "a whole layer in so many is coarser than such a percentage of every layer, and select-n saves less than "
             "that where the layers do not come out even.",
             paper->flexgen_percent);
    book_say(book,
             "(3) Every percentage is tried for FlexGen and the best for each promise counts, which is more than its "
             "cost model finds. Where it serves at all it then does better than select-n, for a percentage of every "
             "layer is finer than a whole layer in so many; below that, in the table's first rows, one step of its "
             "percentage is more than the promise allows, and the ratio has no number. To select-n, metronome's is up "
             "to %.2f.",
             most_served(paper, PAPER_METRONOME, PAPER_SELECT_N));
    double nominal = paper->interval[1].plan_case.hardware.link_nominal_bytes_per_s;
    double link = paper->interval[1].plan_case.hardware.link_bytes_per_s;
    book_say(book,
             "(4) We read the paper's 2.9 as a ratio of times per token. FlexGen's cost model counts on the link's "
             "stated rate (%.1f GB/s for %.1f that it gives) and on having it alone: in steps of any fineness it would "
             "take %.2f times the promise with two models on the bus; in sixteenths of a layer it is rounded down to "
             "less. FlexGen breaks the promise and select-n keeps it, as in the paper.",
             nominal / 1e9, link / 1e9, 2 * nominal / link);
}

/* ---- what is behind them ---- */

static void write_memory(const struct paper *paper, struct book *book) {
    static const char *const heads[PAPER_POLICIES] = {"flexgen GiB", "select-n GiB", "metronome GiB"};
    book_say(book, "Device memory saved with the promise kept, OPT-13B, sequences of %d tokens, promise +50 %%:",
             PAPER_SEQUENCE);
    book_table(book, "paper_memory");
    for (uint32_t i = 0; i < 2 * PAPER_BATCHES; i++) {
        const struct paper_memory *row = &paper->memory[i];
        book_text(book, "phase", row->phase == PLAN_PREFILL ? "prefill" : "decode");
        book_number(book, "batch", 0, row->batch);
        book_number(book, "promise ms", 1, (double)row->deadline_ns / 1e6);
        for (int policy = 0; policy < PAPER_POLICIES; policy++) {
            book_number(book, heads[policy], 2, row->freed_bytes[policy] / GIB);
        }
        double flexgen = row->freed_bytes[PAPER_FLEXGEN];
        book_number(book, "select-n / flexgen", 2, row->freed_bytes[PAPER_SELECT_N] / flexgen);
        book_number(book, "metronome / flexgen", 2, row->freed_bytes[PAPER_METRONOME] / flexgen);
        book_end_row(book);
    }
    book_end_table(book);
}

static void write_throughput(const struct paper *paper, struct book *book) {
    static const char *const heads[PAPER_POLICIES][2] = {{"flexgen batch", "flexgen tok/s"},
                                                         {"select-n batch", "select-n tok/s"},
                                                         {"metronome batch", "metronome tok/s"}};
    book_say(book,
             "Tokens a second by the model of time, OPT-13B, sequences of %d positions, each policy with the batch and "
             "the options that are best for the promise; without offloading the model does not fit:",
             PAPER_SERVED);
    book_table(book, "paper_throughput");
    for (uint32_t i = 0; i < PAPER_PROMISES; i++) {
        const struct paper_throughput *row = &paper->throughput[i];
        const double *rate = row->tokens_per_s;
        book_number(book, "promise ms", 1, row->tpot_ms);
        for (int policy = 0; policy < PAPER_POLICIES; policy++) {
            book_number(book, heads[policy][0], 0, row->batch[policy]);
            book_number(book, heads[policy][1], 1, rate[policy]);
        }
        bool both = rate[PAPER_FLEXGEN] > 0, whole = rate[PAPER_SELECT_N] > 0;
        book_number(book, "metronome / flexgen", 2, both ? rate[PAPER_METRONOME] / rate[PAPER_FLEXGEN] : NAN);
        book_number(book, "metronome / select-n", 2, whole ? rate[PAPER_METRONOME] / rate[PAPER_SELECT_N] : NAN);
        book_end_row(book);
    }
    book_end_table(book);
}

static void draw_throughput(const struct paper *paper, struct book *book) {
    static const char *const names[PAPER_POLICIES] = {"flexgen", "select-n", "metronome"};
    struct chart_point points[PAPER_POLICIES][PAPER_PROMISES];
    struct chart_line lines[PAPER_POLICIES];
    for (int policy = 0; policy < PAPER_POLICIES; policy++) {
        for (uint32_t i = 0; i < PAPER_PROMISES; i++) {
            const double rate = paper->throughput[i].tokens_per_s[policy];
            points[policy][i] = (struct chart_point){paper->throughput[i].tpot_ms, rate > 0 ? rate : NAN};
        }
        lines[policy] = (struct chart_line){.name = names[policy], .points = points[policy], .count = PAPER_PROMISES};
    }
    struct text svg = {0};
    const struct chart chart = {.title = "OPT-13B: tokens a second by the promise",
                                .x_label = "promised time per token, ms",
                                .y_label = "tokens a second",
                                .lines = lines,
                                .line_count = PAPER_POLICIES};
    chart_svg(&chart, &svg);
    book_chart(book, chart.title, &svg, NULL);
    text_free(&svg);
}

static void write_bus(const struct paper *paper, struct book *book) {
    static const char *const names[PAPER_PAIRS] = {"flexgen, by its cost model", "flexgen, by hand for one alone",
                                                   "select-n, granted", "metronome, granted"};
    static const char *const models[2] = {"OPT-13B", "Llama 2 13B"};
    book_say(book,
             "OPT-13B and Llama 2 13B, each on a device of its own, with one bus between them, decoding one sequence; "
             "both are promised %d ms a token. What is granted fills the bus with the fewest layers left on devices, "
             "and so may go to one of them:",
             PAPER_BUS_TPOT_MS);
    book_table(book, "paper_bus");
    for (int pair = 0; pair < PAPER_PAIRS; pair++) {
        for (int i = 0; i < 2; i++) {
            const struct shared_engine *engine = &paper->bus[pair].engine[i];
            book_text(book, "policy", names[pair]);
            book_text(book, "model", models[i]);
            book_number(book, "layers in host memory", 2, (double)engine->plan.streamed_slabs / engine->load.slabs);
            book_number(book, "alone ms", 1, paper->bus[pair].alone_ns[i] / 1e6);
            book_number(book, "together ms", 1, engine->mean_ns / 1e6);
            book_number(book, "longest ms", 1, (double)engine->longest_ns / 1e6);
            book_number(book, "late %", 1, 100.0 * (double)engine->late / (double)engine->iterations);
            book_end_row(book);
        }
    }
    book_end_table(book);
}

void paper_write(const struct paper *paper, struct book *book) {
    const struct hardware *hardware = &paper->interval[0].plan_case.hardware;
    book_section(book, "The figures of the Select-N paper");
    book_say(book,
             "On `sim`, by one description of the hardware (%s, %.0f GB/s of link) for all figures; none is fitted. "
             "`select-n` is the check that the model of time is right; `metronome` is what is gained. Differences "
             "above 10 %% have a note.",
             hardware->name, hardware->link_bytes_per_s / 1e9);
    write_figures(paper, book);
    say_interval(&paper->interval[1], book);
    say_flexgen(paper, book);
    write_memory(paper, book);
    write_throughput(paper, book);
    draw_throughput(paper, book);
    write_bus(paper, book);
}
