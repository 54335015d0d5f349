#include "bench/measured.h"

#include "bench/output.h"
#include "bench/ratios.h"
#include "bench/serving.h"
#include "bench/steady.h"
#include "server/chart.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Lengths have the distribution of Azure's conversations (AzureLLMInferenceTrace_conv, 2023: prompts of 1155 tokens in
 * the mean, answers of 211; the logarithms' standard deviations are 0.99 and 0.86, and they hardly go together), at a
 * sixteenth of the size. One prompt in a hundred is longer than the context, and loses its beginning. */
#define PROMPT 72 /* tokens, in the mean */
#define PROMPT_DEVIATION 0.99
#define OUTPUT 13
#define OUTPUT_DEVIATION 0.86
#define CONTEXT 288
#define REQUESTS 48
#define MOST_PLACES 24
#define MOST_ROUNDS 5
#define LINK_TOKENS 8 /* times what a token takes with all on the device: so long the link takes for all layers */
#define KEEPS 0.95    /* of requests, over all rounds, for a policy to have kept the promise */

static const char *const policy_names[] = {"none",           "zero-inference", "flexgen",
                                           "prefetch-group", "select-n",       "metronome"};
#define POLICIES (sizeof policy_names / sizeof policy_names[0])
#define METRONOME (POLICIES - 1)
#define PHYSICS POLICIES /* in reports the row after them, which never runs */
#define ROWS (POLICIES + 1)
static const uint32_t places[] = {1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, MOST_PLACES};
#define PLACES (sizeof places / sizeof places[0])

/* What is set once must do for sequences of all lengths and for machines that are not as even as records: a plan leaves
 * each place room for so many times the mean length, and takes so much of the promise. Which is best is tried; the
 * first is what is taken without trying. */
static const struct { double room, promise; } cautions[] = {{1.5, 0.9}, {1, 1}, {2.5, 1}};
#define MOST_TRIED (sizeof cautions / sizeof cautions[0])

/* The device has room for `share` of the layers' weights, and the promise is `slack` times what the link takes to carry
 * the others, or a token takes with everything on the device. */
static const double shares[] = {0.3, 0.5, 0.7};
static const struct {
    double slack;
    enum grid_size from;
} promises[] = {{1.2, GRID_FULL}, {1.4, GRID_USUAL}, {2, GRID_USUAL}, {3, GRID_QUICK}, {6, GRID_FULL}};
#define SHARES (sizeof shares / sizeof shares[0])
#define PROMISES (sizeof promises / sizeof promises[0])
#define MOST_CELLS (SHARES * PROMISES)

static const struct {
    uint32_t rounds, tried; /* with 1 tried it is what is best by the record */
} efforts[] = {[GRID_QUICK] = {1, 1}, [GRID_USUAL] = {3, 2}, [GRID_FULL] = {MOST_ROUNDS, MOST_TRIED}};

/* What one policy did in one cell. */
struct answer {
    uint32_t places;
    struct steady steady;              /* the options, set by hand */
    double rate[MOST_ROUNDS];          /* ascending once all have run */
    double attainment, late, link_use; /* sums over the rounds */
    uint32_t runs;
    struct status refusal;
};

struct cell {
    double share;
    uint64_t tpot_ns, device_memory;
    double bound;               /* tokens a second that no placement can be beyond */
    struct answer answer[ROWS]; /* physics' is empty */
};

struct contest {
    struct serving_case serving;
    struct plan_case planned; /* the same, for those who plan by hand: with what was measured here */
    struct record record;
    double weights, rest; /* bytes of layers, and of what else is on the device */
    bool paced;           /* the link's pace is set, by what a token takes */
    uint32_t rounds, tried, cells;
    struct cell cell[MOST_CELLS];
    uint64_t right[REQUESTS], given[REQUESTS]; /* what the requests' tokens are */
};

/* A run with everything on the device: its sizes, its tokens, and how long one takes. */
static struct status measure_resident(struct contest *contest, double *token_ns) {
    struct serving_result result;
    const struct serving_setting setting = {.policy = "metronome", .places = 2};
    struct serving_case serving = contest->serving;
    serving.link_bytes_per_s = contest->paced ? 1e9 : 0;
    serving.tokens_hash = contest->right;
    TRY(serving_sizes(&serving, MOST_PLACES, &contest->weights, &contest->rest));
    serving.device_memory = (uint64_t)(2 * (contest->rest + contest->weights));
    TRY(serving_run(&serving, &setting, &result)); /* with room for all, and nothing promised: nothing leaves */
    contest->record = result.record;
    *token_ns = result.report.tpot.p50_ms * 1e6;
    const double measured = (double)contest->record.link_bytes_per_s;
    const double link = contest->paced ? contest->weights * 1e9 / (LINK_TOKENS * *token_ns) : measured;
    contest->serving.link_bytes_per_s = link;
    contest->record.link_bytes_per_s = (uint64_t)link;
    contest->planned.hardware.link_bytes_per_s = link;
    contest->planned.hardware.link_latency_ns = contest->record.copy_ns;
    return STATUS_SUCCESS;
}

/* Tokens a second where as many come as go, at the best number of sequences: an iteration computes a token of each and
 * what prompts come for every token, by the record, or lasts as long as the link carries the weights that have no room
 * beside the mean KV of so many, to the byte and without a ring; the two go on beside each other and are in time. */
static double bound_of(const struct contest *contest, const struct cell *cell) {
    const double context = PROMPT + OUTPUT / 2.0, layers = contest->planned.model.shape.layers;
    const double token_bytes = (double)plan_case_kv_token_bytes(&contest->planned);
    double best = 0;
    for (size_t i = 0; i < PLACES; i++) {
        const double sequences = places[i], room = token_bytes * (contest->serving.context - sequences * context);
        const double streamed = (1 - cell->share) * contest->weights - room;
        struct record_cell record;
        record_get(&contest->record, sequences * (1 + (double)PROMPT / OUTPUT), context, &record);
        const double compute_ns = layers * (double)record.layer_ns + (double)record.outside_ns;
        const double link_ns = streamed * 1e9 / contest->serving.link_bytes_per_s;
        const double takes_ns = compute_ns > link_ns ? compute_ns : link_ns;
        if (streamed <= contest->weights && takes_ns <= (double)cell->tpot_ns && sequences * 1e9 / takes_ns > best) {
            best = sequences * 1e9 / takes_ns;
        }
    }
    return best;
}

static void add_cells(struct contest *contest, enum grid_size size, double share, double token_ns) {
    for (size_t i = 0; i < SHARES; i++) {
        for (size_t j = 0; j < PROMISES; j++) {
            if (promises[j].from <= size && (share <= 0 || share == shares[i])) {
                const double carried_ns = (1 - shares[i]) * contest->weights * 1e9 / contest->serving.link_bytes_per_s;
                const double least_ns = carried_ns > token_ns ? carried_ns : token_ns;
                contest->cell[contest->cells++] =
                    (struct cell){.share = shares[i],
                                  .tpot_ns = (uint64_t)(promises[j].slack * least_ns),
                                  .device_memory = (uint64_t)(contest->rest + shares[i] * contest->weights)};
            }
        }
    }
}

static void enter_cell(struct contest *contest, const struct cell *cell) {
    struct plan_case *planned = &contest->planned;
    const double one_context = (double)plan_case_kv_token_bytes(planned) * contest->serving.context;
    const double globals = (double)description_global_bytes(&planned->model);
    contest->serving.tpot_ns = planned->deadline_ns = cell->tpot_ns;
    contest->serving.device_memory = cell->device_memory;
    contest->serving.record = &contest->record;
    planned->hardware.device_memory_bytes = (uint64_t)(globals + one_context + cell->share * contest->weights);
}

/* What a user who knew the record would set by hand for so many sequences: the quickest plan that fits with `room`
 * times their mean for KV. */
static struct status choose_options(const struct contest *contest, const char *policy, uint32_t batch, double room,
                                    struct steady *out) {
    struct plan_case planned = contest->planned;
    struct record_cell cell;
    record_get(&contest->record, batch, planned.context, &cell);
    planned.batch = batch;
    planned.context = (uint32_t)(room * planned.context);
    planned.layer_ns = cell.layer_ns;
    planned.before_ns = 0;
    planned.after_ns = cell.outside_ns;
    TRY(steady_quickest(&planned, policy, out));
    const uint32_t streamed = (uint32_t)steady_layers(out);
    if (strcmp(policy, "select-n") == 0 && streamed > 0) { /* its own choice leaves nothing for noise */
        const uint32_t interval = out->load.layers / streamed;
        out->options = (struct policy_options){.interval = interval};
        snprintf(out->options_text, sizeof out->options_text, "interval %u", interval);
    }
    return STATUS_SUCCESS;
}

static struct status run_once(struct contest *contest, const char *policy, struct answer *answer,
                              struct serving_result *result) {
    struct serving_case *serving = &contest->serving;
    struct serving_setting setting = {.policy = policy, .places = answer->places};
    if (strcmp(policy, "metronome") != 0) {
        setting.options = answer->steady.options;
        setting.slabs = answer->steady.load.slabs;
    }
    serving->warm_up = strcmp(policy, "metronome") == 0; /* the others learn nothing of the machine's noise */
    serving->tokens_hash = contest->given;
    answer->refusal = serving_run(serving, &setting, result);
    if (status_failed(&answer->refusal)) {
        const bool refused = answer->refusal.code == STATUS_INVALID || answer->refusal.code == STATUS_NO_MEMORY;
        return refused ? STATUS_SUCCESS : answer->refusal;
    }
    if (memcmp(contest->given, contest->right, serving->requests * sizeof contest->given[0]) != 0) {
        return status_error(STATUS_DEVICE, "%s with %u places gives other tokens than a device with room for all",
                            policy, answer->places);
    }
    return STATUS_SUCCESS;
}

/* The number of places that is best by the record, with its options; at least one, and be it hopeless. */
static struct status choose_places(const struct contest *contest, const char *policy, double room, double promise,
                                   struct answer *out) {
    double best = -1;
    for (size_t i = 0; i < PLACES; i++) {
        struct answer try = {.places = places[i]};
        TRY(choose_options(contest, policy, places[i], room, &try.steady));
        const double iteration_ns = (double)try.steady.choice.prediction.iteration_ns;
        if (i > 0 && (!try.steady.possible || iteration_ns > promise * (double)contest->serving.tpot_ns)) {
            break; /* more takes more memory, and more time */
        }
        const double rate = places[i] / iteration_ns;
        if (rate > best) {
            best = rate;
            *out = try;
        }
    }
    return STATUS_SUCCESS;
}

/* What is to be tried: for each of `cautions`, what differs from those before. */
static struct status list_tries(const struct contest *contest, const char *policy, struct answer *tries,
                                uint32_t *count) {
    *count = 0;
    for (uint32_t i = 0; i < contest->tried; i++) {
        struct answer *try = &tries[*count];
        bool known = false;
        TRY(choose_places(contest, policy, cautions[i].room, cautions[i].promise, try));
        for (uint32_t j = 0; j < *count; j++) {
            const bool same_options = strcmp(tries[j].steady.options_text, try->steady.options_text) == 0;
            known = known || (tries[j].places == try->places && same_options);
        }
        *count += !known;
    }
    return STATUS_SUCCESS;
}

/* Keeps what looks best by the record; of several that do, the best in a run each. */
static struct status tune(struct contest *contest, const char *policy, struct answer *best) {
    struct answer tries[MOST_TRIED] = {0};
    double most = -2;
    uint32_t count;
    TRY(list_tries(contest, policy, tries, &count));
    *best = tries[0];
    for (uint32_t i = 0; i < count && count > 1; i++) {
        struct serving_result result;
        TRY(run_once(contest, policy, &tries[i], &result));
        const bool ran = !status_failed(&tries[i].refusal);
        const double kept = ran ? replay_attainment(&result.report) : -1; /* before any rate: the promise */
        const double worth = kept >= KEEPS ? 1 + result.kept_tokens_per_s : kept;
        if (worth > most) {
            most = worth;
            *best = tries[i];
        }
    }
    return STATUS_SUCCESS;
}

static int compare(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The rounds of one cell, policy after policy, so that whatever else the machine does befalls all. */
static struct status run_cell(struct contest *contest, struct cell *cell, struct progress *bar, uint64_t *done) {
    enter_cell(contest, cell);
    cell->bound = bound_of(contest, cell);
    for (size_t i = 0; i < POLICIES; i++) {
        TRY(tune(contest, policy_names[i], &cell->answer[i]));
        progress_update(bar, *done += contest->tried - 1);
    }
    for (uint32_t round = 0; round < contest->rounds; round++) {
        for (size_t i = 0; i < POLICIES; i++) {
            struct answer *answer = &cell->answer[i];
            struct serving_result result;
            if (!status_failed(&answer->refusal)) {
                TRY(run_once(contest, policy_names[i], answer, &result));
            }
            if (!status_failed(&answer->refusal)) {
                const struct replay_report *report = &result.report;
                const double carried = contest->serving.link_bytes_per_s * report->seconds;
                answer->rate[answer->runs++] = result.kept_tokens_per_s;
                answer->attainment += replay_attainment(report);
                answer->late += (double)report->late_iterations / (double)report->iterations;
                answer->link_use += (double)report->bytes_streamed / carried;
            }
            progress_update(bar, ++*done);
        }
    }
    for (size_t i = 0; i < POLICIES; i++) {
        qsort(cell->answer[i].rate, cell->answer[i].runs, sizeof cell->answer[i].rate[0], compare);
    }
    return STATUS_SUCCESS;
}

/* ---- the report ---- */

static bool keeps(const struct answer *answer) {
    return answer->runs > 0 && answer->attainment >= KEEPS * answer->runs;
}

/* Tokens a second in the middle of the rounds; 0 where the promise was not kept. */
static double kept_rate(const struct answer *answer) {
    return keeps(answer) ? answer->rate[answer->runs / 2] : 0;
}

static const char *row_name(size_t row) {
    return row == PHYSICS ? "physics" : policy_names[row];
}

/* Tokens a second that count: of a policy with its promise kept, or what none can be beyond. */
static double row_rate(const struct cell *cell, size_t row) {
    return row == PHYSICS ? cell->bound : kept_rate(&cell->answer[row]);
}

static void write_ratios(const struct contest *contest, struct book *book) {
    double ours[MOST_CELLS], theirs[MOST_CELLS];
    book_say(book,
             "Tokens a second of metronome to each other policy's, of the medians, over the %u cells. A policy keeps a "
             "promise if %.0f %% of its requests do; alone: cells in which only one of the two does, which have no "
             "ratio and are in no mean. broke: cells in which the other policy ran and did not keep it.",
             contest->cells, 100 * KEEPS);
    book_table(book, "measured_ratios");
    for (size_t row = 0; row < ROWS; row++) {
        uint32_t broke = 0;
        for (uint32_t i = 0; i < contest->cells; i++) {
            const struct cell *cell = &contest->cell[i];
            const struct answer *other = &cell->answer[row];
            ours[i] = row_rate(cell, METRONOME);
            theirs[i] = row_rate(cell, row);
            broke += other->runs > 0 && !keeps(other);
        }
        const struct ratios ratios = ratios_of(ours, theirs, contest->cells);
        ratios_write(book, row_name(row), &ratios);
        book_number(book, "broke", 0, broke);
        book_end_row(book);
    }
    book_end_table(book);
}

static void write_cells(const struct contest *contest, struct book *book) {
    book_table(book, "measured");
    for (uint32_t i = 0; i < contest->cells; i++) {
        const struct cell *cell = &contest->cell[i];
        for (size_t row = 0; row < ROWS; row++) {
            const struct answer *answer = &cell->answer[row];
            const uint32_t runs = answer->runs;
            const bool ran = runs > 0;
            book_number(book, "device % of layers", 0, 100 * cell->share);
            book_number(book, "promise ms", 1, (double)cell->tpot_ns / 1e6);
            book_text(book, "policy", row_name(row));
            book_text(book, "set by hand", ran ? answer->steady.options_text : "");
            book_number(book, "places", 0, ran ? answer->places : NAN);
            book_number(book, "tok/s", 1, row == PHYSICS ? cell->bound : ran ? answer->rate[runs / 2] : NAN);
            book_number(book, "least", 1, ran ? answer->rate[0] : NAN);
            book_number(book, "most", 1, ran ? answer->rate[runs - 1] : NAN);
            book_number(book, "kept %", 1, ran ? 100 * answer->attainment / runs : NAN);
            book_number(book, "late iterations %", 1, ran ? 100 * answer->late / runs : NAN);
            book_number(book, "link use", 2, ran ? answer->link_use / runs : NAN);
            book_end_row(book);
        }
    }
    book_end_table(book);
}

/* Tokens a second by the promise, a picture for each size of the device. */
static void draw_cells(const struct contest *contest, struct book *book) {
    for (uint32_t begin = 0, end; begin < contest->cells; begin = end) {
        struct chart_point points[ROWS][PROMISES];
        struct chart_line lines[ROWS];
        char title[96];
        for (end = begin; end < contest->cells && contest->cell[end].share == contest->cell[begin].share; end++) {
            for (size_t row = 0; row < ROWS; row++) {
                const double rate = row_rate(&contest->cell[end], row);
                points[row][end - begin] =
                    (struct chart_point){.x = (double)contest->cell[end].tpot_ns / 1e6, .y = rate > 0 ? rate : NAN};
            }
        }
        for (size_t row = 0; row < ROWS; row++) {
            lines[row] = (struct chart_line){
                .name = row_name(row), .points = points[row], .dashed = row == PHYSICS, .count = end - begin};
        }
        struct text svg = {0};
        snprintf(title, sizeof title, "A device with room for %.0f %% of the layers' weights",
                 100 * contest->cell[begin].share);
        const struct chart chart = {.title = title,
                                    .x_label = "promised time per token, ms",
                                    .y_label = "tokens a second, promise kept",
                                    .lines = lines,
                                    .line_count = ROWS};
        chart_svg(&chart, &svg);
        book_chart(book, title, &svg, NULL);
        text_free(&svg);
    }
}

static struct status run_cells(struct contest *contest, enum grid_size size, double share, struct book *book) {
    struct progress bar;
    double token_ns;
    uint64_t done = 0;
    log_set_level(LOG_ERROR);
    struct status status = measure_resident(contest, &token_ns);
    log_set_level(LOG_INFO);
    TRY(status);
    add_cells(contest, size, share, token_ns);
    output_progress_begin(&bar, "policies in turn", contest->cells * POLICIES * (contest->rounds + contest->tried - 1));
    for (uint32_t i = 0; i < contest->cells && !status_failed(&status); i++) {
        status = run_cell(contest, &contest->cell[i], &bar, &done);
    }
    output_progress_end(&bar);
    TRY(status);
    book_say(book,
             "With everything on the device a token of two sequences takes %.2f ms; the link gives %.2f GB/s, which "
             "carries the layers' %.1f MB in %.1f times that.",
             token_ns / 1e6, contest->serving.link_bytes_per_s / 1e9, contest->weights / 1e6,
             contest->weights * 1e9 / contest->serving.link_bytes_per_s / token_ns);
    write_ratios(contest, book);
    draw_cells(contest, book);
    write_cells(contest, book);
    return STATUS_SUCCESS;
}

struct status measured_write(const char *device, const char *model, const char *described, enum grid_size size,
                             double share, uint64_t seed, struct book *book) {
    struct contest *contest = calloc(1, sizeof *contest);
    if (!contest) {
        return status_error(STATUS_NO_MEMORY, "no memory for the benchmark");
    }
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    struct status status = steady_case("cpu", described, PLAN_DECODE, 1, PROMPT + OUTPUT / 2, &contest->planned);
    contest->rounds = efforts[size].rounds;
    contest->tried = efforts[size].tried;
    contest->paced = strcmp(device, "cpu") == 0;
    contest->serving = (struct serving_case){.device = device,
                                             .model = model,
                                             .context = CONTEXT,
                                             .prompt_tokens = PROMPT,
                                             .output_tokens = OUTPUT,
                                             .prompt_deviation = PROMPT_DEVIATION,
                                             .output_deviation = OUTPUT_DEVIATION,
                                             .requests = REQUESTS,
                                             .threads = cores > 1 ? (uint32_t)cores - 1 : 1,
                                             .seed = seed};
    if (!status_failed(&status)) {
        char section[64];
        snprintf(section, sizeof section, "Measured on the %s device", device);
        book_section(book, section);
        if (contest->paced) {
            book_say(book,
                     "Behind a paced link, on %u thread%s: one core is left to the copies, as a GPU's copy engine is "
                     "beside its compute.",
                     contest->serving.threads, contest->serving.threads == 1 ? "" : "s");
        }
        book_say(
            book,
            "Whole engines with a real model. %d requests of %d + %d tokens in the mean come at once, their lengths "
            "drawn as those of Azure's conversations are distributed, at a sixteenth of the size. Each policy has the "
            "number of places and the options that are best by the record measured here, with %.1f of the promise used "
            "and room for %.1f times a mean sequence in each place%s; metronome has served as many others before, for "
            "it learns of noise and the others do not; %u rounds, the policies in turn: the median, the "
            "slowest and the quickest. tok/s: of requests of which no token was late, as long as others wait. All "
            "policies gave the same tokens. A dash: the engine refuses, for the promise cannot be kept or the weights "
            "do not fit. physics: what no placement can be beyond where as many come as go, by the record, with the "
            "link never still.",
            REQUESTS, PROMPT, OUTPUT, cautions[0].promise, cautions[0].room,
            contest->tried > 1 ? ", or with other such shares that were better in a run of this very load" : "",
            contest->rounds);
        status = run_cells(contest, size, share, book);
    }
    free(contest);
    return status;
}
