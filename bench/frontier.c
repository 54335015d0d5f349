#include "bench/frontier.h"

#include "bench/output.h"
#include "bench/serving.h"
#include "bench/steady.h"
#include "server/chart.h"
#include "server/command.h"
#include "server/described.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>

#define GIB 0x1p30
#define POINTS 16
#define SERVED 128 /* positions of a sequence where throughput is compared */
#define MOST_CONTEXT 2048
#define MOST_BATCH 512
#define RATES 7
#define LOAD_REQUESTS 150
#define LOAD_PLACES 24
#define LOAD_SLACK 1.0    /* of the promise, and */
#define LOAD_TTFT_MS 4000 /* of the first token */

static const char *const policy_names[] = {"flexgen", "prefetch-group", "select-n", "metronome"};
#define POLICIES (sizeof policy_names / sizeof policy_names[0])
#define LINES (POLICIES + 1) /* and the bound */

/* The promises looked at: 1 + slack times the resident time, from hardly more to four times it. */
static double slack_at(uint32_t i) {
    return 0.04 * pow(100, (double)i / (POINTS - 1)) - 0.03;
}

struct frontier {
    struct chart_point point[LINES][POINTS];
};

/* ---- what physics allows ---- */

/* Bytes that may be off the device when an iteration takes `time_ns`: what the link carries, and no more than there is.
 */
static double bytes_away(const struct plan_case *c, double time_ns) {
    double carried = c->hardware.link_bytes_per_s * time_ns / 1e9;
    double layers = (double)description_slab_bytes(&c->model, 1) * c->model.shape.layers;
    return carried < layers ? carried : layers;
}

/* Bytes for KV then: the rest of the device. */
static double bytes_for_kv(const struct plan_case *c, double time_ns) {
    double layers = (double)description_slab_bytes(&c->model, 1) * c->model.shape.layers;
    double others = (double)description_global_bytes(&c->model);
    return (double)c->hardware.device_memory_bytes - others - layers + bytes_away(c, time_ns);
}

/* The most tokens a second with iterations of at most `most_ns`: a batch computes for as long as it does, or as long as
 * it takes to carry what its KV leaves no place for. */
static struct status bound_of_throughput(const struct plan_case *c, double most_ns, double *out) {
    double kv = (double)plan_case_kv_token_bytes(c) * SERVED;
    *out = 0;
    for (uint32_t batch = 1; batch <= MOST_BATCH; batch += batch < 16 ? 1 : batch / 8) {
        struct plan_case with = *c;
        with.batch = batch;
        TRY(plan_case_measure(&with));
        double compute_ns = (double)plan_case_resident_ns(&with), over = batch * kv - bytes_for_kv(c, 0);
        double carry_ns = over > 0 ? over / c->hardware.link_bytes_per_s * 1e9 : 0;
        double takes_ns = compute_ns > carry_ns ? compute_ns : carry_ns;
        if (takes_ns <= most_ns && bytes_for_kv(c, takes_ns) >= batch * kv && batch * 1e9 / takes_ns > *out) {
            *out = batch * 1e9 / takes_ns;
        }
    }
    return STATUS_SUCCESS;
}

/* ---- by the model of time ---- */

static struct status fill_memory(const struct plan_case *c, uint32_t i, double tpot_ns, struct frontier *out) {
    for (uint32_t policy = 0; policy < POLICIES; policy++) {
        struct steady steady;
        TRY(steady_most_freed(c, policy_names[policy], &steady));
        out->point[policy][i].y = steady.possible ? steady_freed_bytes(&steady) / GIB : NAN;
    }
    out->point[POLICIES][i].y = bytes_away(c, tpot_ns) / GIB;
    return STATUS_SUCCESS;
}

static struct status fill_throughput(const struct plan_case *c, uint32_t i, double tpot_ns, struct frontier *out) {
    for (uint32_t policy = 0; policy < POLICIES; policy++) {
        struct steady steady;
        uint32_t batch;
        double rate;
        TRY(steady_batch(c, policy_names[policy], (uint64_t)tpot_ns, MOST_BATCH, &batch, &rate, &steady));
        out->point[policy][i].y = batch > 0 ? rate : NAN;
    }
    return bound_of_throughput(c, tpot_ns, &out->point[POLICIES][i].y);
}

/* The longest context of one sequence, to the block, that fits and is in time. */
static struct status longest_context(const struct plan_case *c, const char *policy, double tpot_ns, double *out) {
    uint32_t good = 0, bad = MOST_CONTEXT / KV_BLOCK_TOKENS + 1;
    while (good + 1 < bad) {
        struct plan_case with = *c;
        struct steady steady;
        uint32_t middle = good + (bad - good) / 2;
        with.batch = 1;
        with.context = middle * KV_BLOCK_TOKENS;
        TRY(plan_case_measure(&with));
        TRY(steady_quickest(&with, policy, &steady));
        bool reaches = steady.possible && (double)steady.choice.prediction.iteration_ns <= tpot_ns;
        good = reaches ? middle : good;
        bad = reaches ? bad : middle;
    }
    *out = good > 0 ? good * (double)KV_BLOCK_TOKENS : NAN;
    return STATUS_SUCCESS;
}

static struct status fill_context(const struct plan_case *c, uint32_t i, double tpot_ns, struct frontier *out) {
    for (uint32_t policy = 0; policy < POLICIES; policy++) {
        TRY(longest_context(c, policy_names[policy], tpot_ns, &out->point[policy][i].y));
    }
    double bound = bytes_for_kv(c, tpot_ns) / (double)plan_case_kv_token_bytes(c);
    out->point[POLICIES][i].y = bound > MOST_CONTEXT ? MOST_CONTEXT : bound > 0 ? bound : NAN;
    return STATUS_SUCCESS;
}

/* ---- pictures ---- */

static struct status draw(const char *title, const char *x, const char *y, const char *bound,
                          const struct frontier *frontier, uint32_t points, double y_most, const char *folder,
                          const char *name, struct book *book) {
    struct chart_line lines[LINES];
    struct text svg = {0};
    char path[PATH_MAX], file[96];
    uint32_t count = bound ? LINES : POLICIES;
    for (uint32_t i = 0; i < count; i++) {
        lines[i] = (struct chart_line){.name = i < POLICIES ? policy_names[i] : bound,
                                       .points = frontier->point[i],
                                       .count = points,
                                       .dashed = i == POLICIES};
    }
    const struct chart chart = {
        .title = title, .x_label = x, .y_label = y, .lines = lines, .line_count = count, .y_most = y_most};
    chart_svg(&chart, &svg);
    snprintf(file, sizeof file, "frontier-%s.svg", name);
    book_chart(book, title, &svg, folder ? file : NULL);
    struct status status = STATUS_SUCCESS;
    if (folder) {
        snprintf(path, sizeof path, "%s/%s", folder, file);
        status = command_write_report(path, &svg);
    }
    text_free(&svg);
    return status;
}

static void write_points(const char *key, const char *x, const struct frontier *frontier, uint32_t points, bool bound,
                         struct book *book) {
    book_table(book, key);
    for (uint32_t i = 0; i < points; i++) {
        book_number(book, x, 2, frontier->point[0][i].x);
        for (uint32_t line = 0; line < (bound ? LINES : POLICIES); line++) {
            book_number(book, line < POLICIES ? policy_names[line] : "physics", 2, frontier->point[line][i].y);
        }
        book_end_row(book);
    }
    book_end_table(book);
}

static struct status write_by_model(const struct plan_case *c, const char *svg, struct book *book) {
    static const struct {
        struct status (*fill)(const struct plan_case *, uint32_t, double, struct frontier *);
        const char *title, *y, *bound, *name, *key;
    } charts[] = {{fill_memory, "device memory saved, with the promise kept", "GiB saved", "link x promise", "memory",
                   "frontier_memory"},
                  {fill_throughput, "tokens a second, with the memory saved turned into batch", "tokens a second",
                   "what physics allows", "throughput", "frontier_throughput"},
                  {fill_context, "the longest context of one sequence", "tokens", "what physics allows", "context",
                   "frontier_context"}};
    for (size_t chart = 0; chart < sizeof charts / sizeof charts[0]; chart++) {
        struct frontier frontier = {0};
        for (uint32_t i = 0; i < POINTS; i++) {
            struct plan_case with = *c;
            double tpot_ns = (1 + slack_at(i)) * (double)plan_case_resident_ns(c);
            with.deadline_ns = (uint64_t)tpot_ns;
            TRY(charts[chart].fill(&with, i, tpot_ns, &frontier));
            for (uint32_t line = 0; line < LINES; line++) {
                frontier.point[line][i].x = tpot_ns / 1e6;
            }
        }
        TRY(draw(charts[chart].title, "promised time per token, ms", charts[chart].y, charts[chart].bound, &frontier,
                 POINTS, 0, svg, charts[chart].name, book));
        write_points(charts[chart].key, "promise ms", &frontier, POINTS, true, book);
    }
    return STATUS_SUCCESS;
}

/* ---- promises kept under load, by whole engines ---- */

static struct status write_load(const struct plan_case *c, const char *path, uint64_t seed, const char *svg,
                                struct book *book) {
    struct frontier frontier = {0};
    struct progress bar;
    struct serving_case serving = {.hardware = path,
                                   .described = c->model,
                                   .device_memory = c->hardware.device_memory_bytes,
                                   .link_bytes_per_s = c->hardware.link_bytes_per_s,
                                   .tpot_ns = (uint64_t)((1 + LOAD_SLACK) * (double)plan_case_resident_ns(c)),
                                   .ttft_ns = UINT64_C(1000000) * LOAD_TTFT_MS,
                                   .context = 288,
                                   .prompt_tokens = 64,
                                   .output_tokens = 128,
                                   .requests = LOAD_REQUESTS,
                                   .seed = seed};
    output_progress_begin(&bar, "promises kept under load", RATES * POLICIES);
    for (uint32_t i = 0; i < RATES; i++) {
        serving.rate = 0.25 * (i + 1);
        for (uint32_t policy = 0; policy < POLICIES; policy++) {
            struct plan_case with = *c;
            struct steady steady;
            struct serving_result result;
            uint32_t batch;
            double rate;
            TRY(steady_batch(&with, policy_names[policy], serving.tpot_ns, LOAD_PLACES, &batch, &rate, &steady));
            const struct serving_setting setting = {
                .policy = policy_names[policy], .options = steady.options, .places = LOAD_PLACES};
            struct status status = serving_run(&serving, &setting, &result);
            bool ran = !status_failed(&status);
            frontier.point[policy][i] =
                (struct chart_point){.x = serving.rate, .y = ran ? 100 * replay_attainment(&result.report) : NAN};
            progress_update(&bar, i * POLICIES + policy + 1);
        }
    }
    output_progress_end(&bar);
    TRY(draw("requests that kept their promise, as the load grows", "requests a second", "% kept", NULL, &frontier,
             RATES, 100, svg, "load", book));
    write_points("frontier_load", "requests/s", &frontier, RATES, false, book);
    return STATUS_SUCCESS;
}

struct status frontier_write(const char *hardware, const char *model, uint64_t seed, const char *svg,
                             struct book *book) {
    struct plan_case c;
    char path[PATH_MAX];
    TRY(described_hardware_path(hardware, path));
    TRY(steady_case(hardware, model, PLAN_DECODE, 1, SERVED, &c));
    book_section(book, "Frontiers");
    book_say(
        book,
        "%s on %s, sequences of %d positions. Each policy has the options that are best for each promise. The dashed "
        "line is physics: bytes streamed in an iteration are at most what the link carries in it, the ring and "
        "whole numbers cost nothing. Where two policies do the same, the later one covers the other.",
        c.model.shape.name, c.hardware.name, SERVED);
    TRY(write_by_model(&c, svg, book));
    book_say(
        book,
        "Promises kept as the load grows: requests of 64 and 128 tokens in the mean come at random; promised are the "
        "first token within %d ms and each other within %.0f ms of the one before. Whole engines on sim with %d "
        "places; baselines set by hand as is best by the model of time.",
        LOAD_TTFT_MS, (1 + LOAD_SLACK) * (double)plan_case_resident_ns(&c) / 1e6, LOAD_PLACES);
    return write_load(&c, path, seed, svg, book);
}
