#include "bench/counts.h"

#include "base/clock.h"
#include "bench/serving.h"
#include "bench/steady.h"
#include "server/described.h"

#include <limits.h>

#define HARDWARE "a10"

static const char *const policy_names[] = {"flexgen", "prefetch-group", "select-n", "metronome"};
#define POLICIES (sizeof policy_names / sizeof policy_names[0])

static struct status count_plans(struct book *book) {
    static const struct {
        const char *model;
        enum plan_phase phase;
        uint32_t batch;
        double slack;
    } cases[] = {{"opt-6.7b", PLAN_PREFILL, 16, 0.5},
                 {"opt-6.7b", PLAN_DECODE, 128, 0.5},
                 {"opt-13b", PLAN_DECODE, 1, 0.1},
                 {"llama-2-13b", PLAN_DECODE, 1, 1}};
    book_table(book, "plans");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct plan_case c;
        TRY(steady_case(HARDWARE, cases[i].model, cases[i].phase, cases[i].batch, 64, &c));
        c.deadline_ns = (uint64_t)((1 + cases[i].slack) * (double)plan_case_resident_ns(&c));
        for (size_t policy = 0; policy < POLICIES; policy++) {
            struct steady steady;
            TRY(steady_most_freed(&c, policy_names[policy], &steady));
            const struct plan_prediction *prediction = &steady.choice.prediction;
            book_text(book, "model", cases[i].model);
            book_text(book, "phase", cases[i].phase == PLAN_PREFILL ? "prefill" : "decode");
            book_text(book, "policy", policy_names[policy]);
            book_text(book, "options", steady.options_text);
            book_number(book, "resident_ns", 0, (double)plan_case_resident_ns(&c));
            book_number(book, "slabs", 0, steady.load.slabs);
            book_number(book, "streamed", 0, steady.choice.plan.streamed_slabs);
            book_number(book, "staging", 0, steady.choice.plan.staging);
            book_number(book, "copies", 0, prediction->copies);
            book_number(book, "bytes", 0, (double)prediction->bytes_streamed);
            book_number(book, "iteration_ns", 0, (double)prediction->iteration_ns);
            book_end_row(book);
        }
    }
    book_end_table(book);
    return STATUS_SUCCESS;
}

static struct status count_streams(struct book *book) {
    struct plan_case c;
    char path[PATH_MAX];
    TRY(described_hardware_path(HARDWARE, path));
    TRY(steady_case(HARDWARE, "opt-6.7b", PLAN_DECODE, 1, 64, &c));
    struct serving_case serving = {.hardware = path,
                                   .described = c.model,
                                   .device_memory = c.hardware.device_memory_bytes,
                                   .link_bytes_per_s = c.hardware.link_bytes_per_s,
                                   .tpot_ns = 2 * plan_case_resident_ns(&c),
                                   .context = 256,
                                   .seed = 1};
    c.deadline_ns = serving.tpot_ns;
    book_table(book, "streams");
    for (size_t policy = 0; policy < POLICIES; policy++) {
        struct steady steady;
        struct serving_stream stream;
        TRY(steady_most_freed(&c, policy_names[policy], &steady));
        const struct serving_setting setting = {.policy = policy_names[policy], .options = steady.options, .places = 2};
        TRY(serving_stream(&serving, &setting, &stream));
        book_text(book, "policy", policy_names[policy]);
        book_number(book, "iterations", 0, stream.iterations);
        book_number(book, "bytes", 0, stream.bytes * stream.iterations);
        book_number(book, "saved_bytes", 0, stream.saved_bytes * stream.iterations);
        book_number(book, "ns", 0, stream.iteration_ns * stream.iterations);
        book_number(book, "late", 0, stream.late);
        book_number(book, "copies", 0, stream.copies);
        book_number(book, "device_allocated", 0, stream.device_allocated);
        book_end_row(book);
    }
    book_end_table(book);
    return STATUS_SUCCESS;
}

struct status counts_write(struct book *book) {
    book_section(book, "Counts");
    TRY(count_plans(book));
    return count_streams(book);
}
