#include "bench/measured.h"

#include "base/log.h"
#include "bench/serving.h"
#include "bench/steady.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ROUNDS 3
#define REQUESTS 12
#define PROMPT 16 /* tokens, in the mean */
#define OUTPUT 32

static const char *const policy_names[] = {"zero-inference", "flexgen", "prefetch-group", "select-n", "metronome"};
#define POLICIES (sizeof policy_names / sizeof policy_names[0])
static const uint32_t places[] = {2, 8};
#define PLACES (sizeof places / sizeof places[0])

/* The promise is so many times what a token takes with everything on the device, and the link carries `reach` of the
 * layers' weights in that time. */
static const struct {
    double share, relaxed, reach;
} cases[] = {{0.3, 8, 1.1}, {0.5, 5, 0.9}, {0.5, 10, 0.9}, {0.7, 4, 0.7}};
#define CASES (sizeof cases / sizeof cases[0])

struct contest {
    struct serving_case serving;
    struct plan_case planned; /* the same, for those who plan by hand: with what was measured here */
    struct record record;
    double weights, rest; /* bytes of layers, and of what else is on the device */
};

/* A run with everything on the device: its sizes, and how long a token takes. */
static struct status measure_resident(struct contest *contest, double *token_ns) {
    struct serving_result result;
    const struct serving_setting setting = {.policy = "metronome", .places = 2};
    struct serving_case serving = contest->serving;
    serving.link_bytes_per_s = 1e9;
    TRY(serving_sizes(&serving, places[PLACES - 1], &contest->weights, &contest->rest));
    serving.device_memory = (uint64_t)(2 * (contest->rest + contest->weights));
    TRY(serving_run(&serving, &setting, &result)); /* with room for all, and nothing promised: nothing leaves */
    contest->record = result.record;
    *token_ns = result.report.tpot.p50_ms * 1e6;
    return STATUS_SUCCESS;
}

/* One promise, link and budget. */
static void set_case(struct contest *contest, size_t index, double token_ns) {
    struct serving_case *serving = &contest->serving;
    struct plan_case *planned = &contest->planned;
    serving->tpot_ns = (uint64_t)(cases[index].relaxed * token_ns);
    serving->link_bytes_per_s = cases[index].reach * contest->weights / (double)serving->tpot_ns * 1e9;
    serving->device_memory = (uint64_t)(contest->rest + cases[index].share * contest->weights);
    contest->record.link_bytes_per_s = (uint64_t)serving->link_bytes_per_s;
    serving->record = &contest->record;
    planned->deadline_ns = serving->tpot_ns;
    planned->hardware.link_bytes_per_s = serving->link_bytes_per_s;
    planned->hardware.link_latency_ns = contest->record.copy_ns;
    double one_context = (double)plan_case_kv_token_bytes(planned) * serving->context;
    double globals = (double)description_global_bytes(&planned->model);
    planned->hardware.device_memory_bytes = (uint64_t)(globals + one_context + cases[index].share * contest->weights);
}

/* What a user who knew the record would set by hand: the quickest plan that fits. */
static struct status choose_options(const struct contest *contest, const char *policy, uint32_t batch,
                                    struct steady *out) {
    struct plan_case planned = contest->planned;
    struct record_cell cell;
    record_get(&contest->record, batch, planned.context, &cell);
    planned.batch = batch;
    planned.layer_ns = cell.layer_ns;
    planned.before_ns = 0;
    planned.after_ns = cell.outside_ns;
    TRY(steady_quickest(&planned, policy, out));
    return STATUS_SUCCESS;
}

/* Of the rounds of one policy with one number of places. */
struct tally {
    double rate[ROUNDS], attainment;
    uint32_t runs;
    struct steady steady;
    struct status refusal;
};

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void add_run(struct contest *contest, const char *policy, uint32_t count, struct tally *tally) {
    struct serving_setting setting = {.policy = policy, .places = count};
    bool by_hand = strcmp(policy, "flexgen") == 0 || strcmp(policy, "prefetch-group") == 0;
    setting.options = by_hand ? tally->steady.options : (struct policy_options){0};
    setting.slabs = by_hand ? tally->steady.load.slabs : 0;
    struct serving_result result;
    struct status status = serving_run(&contest->serving, &setting, &result);
    if (status_failed(&status)) {
        tally->refusal = status;
        return;
    }
    tally->rate[tally->runs++] = result.kept_tokens_per_s;
    tally->attainment += replay_attainment(&result.report);
}

static void write_row(const struct contest *contest, size_t index, const char *policy, uint32_t count,
                      struct tally *tally, struct book *book) {
    bool ran = tally->runs > 0;
    qsort(tally->rate, tally->runs, sizeof tally->rate[0], compare);
    book_number(book, "device memory % of layers", 0, 100 * cases[index].share);
    book_number(book, "promise ms", 2, (double)contest->serving.tpot_ns / 1e6);
    book_number(book, "link GB/s", 2, contest->serving.link_bytes_per_s / 1e9);
    book_text(book, "policy", policy);
    book_text(book, "set by hand", tally->steady.options_text);
    book_number(book, "places", 0, count);
    book_number(book, "tok/s", 1, ran ? tally->rate[tally->runs / 2] : NAN);
    book_number(book, "least", 1, ran ? tally->rate[0] : NAN);
    book_number(book, "most", 1, ran ? tally->rate[tally->runs - 1] : NAN);
    book_number(book, "kept %", 1, ran ? 100 * tally->attainment / tally->runs : NAN);
    book_end_row(book);
}

/* The rounds of one case, policy after policy, so that whatever else the machine does befalls all. */
static struct status run_case(struct contest *contest, size_t index, struct progress *bar, uint64_t *done,
                              struct book *book) {
    static struct tally tallies[POLICIES][PLACES];
    memset(tallies, 0, sizeof tallies);
    for (int round = 0; round < ROUNDS; round++) {
        for (size_t policy = 0; policy < POLICIES; policy++) {
            for (size_t i = 0; i < PLACES; i++) {
                struct tally *tally = &tallies[policy][i];
                if (round == 0) {
                    TRY(choose_options(contest, policy_names[policy], places[i], &tally->steady));
                }
                if (!status_failed(&tally->refusal)) {
                    add_run(contest, policy_names[policy], places[i], tally);
                }
                progress_update(bar, ++*done);
            }
        }
    }
    for (size_t policy = 0; policy < POLICIES; policy++) {
        for (size_t i = 0; i < PLACES; i++) {
            write_row(contest, index, policy_names[policy], places[i], &tallies[policy][i], book);
        }
    }
    return STATUS_SUCCESS;
}

static struct status run_cases(struct contest *contest, struct book *book) {
    struct progress bar;
    uint64_t done = 0;
    double token_ns;
    TRY(measure_resident(contest, &token_ns));
    struct status status = STATUS_SUCCESS;
    book_say(book, "With everything on the device a token of two sequences takes %.2f ms.", token_ns / 1e6);
    progress_begin(&bar, "policies in turn", CASES * ROUNDS * POLICIES * PLACES);
    book_table(book, "measured");
    for (size_t i = 0; i < CASES && !status_failed(&status); i++) {
        set_case(contest, i, token_ns);
        status = run_case(contest, i, &bar, &done, book);
    }
    book_end_table(book);
    progress_end(&bar);
    return status;
}

struct status measured_write(const char *model, const char *described, uint64_t seed, struct book *book) {
    struct contest *contest = calloc(1, sizeof *contest);
    if (!contest) {
        return status_error(STATUS_NO_MEMORY, "no memory for the benchmark");
    }
    struct status status = steady_case("cpu", described, PLAN_DECODE, 1, PROMPT + OUTPUT / 2, &contest->planned);
    contest->serving = (struct serving_case){.model = model,
                                             .context = 3 * (PROMPT + OUTPUT) / 2,
                                             .prompt_tokens = PROMPT,
                                             .output_tokens = OUTPUT,
                                             .requests = REQUESTS,
                                             .seed = seed};
    if (!status_failed(&status)) {
        book_section(book, "Measured on the cpu device");
        book_say(
            book,
            "Whole engines with a real model behind a paced link. The promise is a multiple of what a token takes "
            "here with everything on the device; %d requests of %d + %d tokens come at once. flexgen and "
            "prefetch-group have the options that are best by the record measured here. %d rounds, the policies in "
            "turn: the median, the slowest and the quickest. tok/s: of requests of which no token was late. A dash: "
            "the engine refuses, for the promise cannot be kept or the weights do not fit.",
            REQUESTS, PROMPT, OUTPUT, ROUNDS);
        status = run_cases(contest, book);
    }
    free(contest);
    return status;
}
