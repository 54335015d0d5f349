/* `metronome bench ops`: every op against what the machine can do. Threads: main's, and the device's own. */
#include "bench/about.h"
#include "bench/commands.h"
#include "bench/ops_bench.h"
#include "bench/output.h"
#include "server/chart.h"
#include "server/command.h"
#include "server/described.h"

#include <math.h>
#include <string.h>

static const struct flag flags[] = {
    {"device", "NAME", "cpu if not given, or cuda where it is built"},
    {"model", "NAME", "a description whose shapes are taken; smollm2-135m if not given, on cuda llama-3-8b"},
    {"type", "NAME", "of its layers' matrices (Q4_1, BF16 ...); as described if not given"},
    {"threads", "N", "cpu: as many as there are cores if not given"},
    {"isa", "NAME", "cpu: avx512, avx2 or scalar; the best there is if not given"},
    {"compute", "HOW", "with quantized weights: int8 if not given, or f32"},
    {"invariant", NULL, "cuda: by own kernels alone; if not given, cuBLAS makes the products of 33 rows and more"},
    {"seed", "N", "of the numbers; 1 if not given"},
    {"quick", NULL, "each call once, on small shapes: shows that all of it runs, and says nothing about speed"},
    OUTPUT_FLAGS,
};
enum { DEVICE, MODEL, TYPE, THREADS, ISA, COMPUTE, INVARIANT, SEED, QUICK, OUTPUT };
#define FLAGS (sizeof flags / sizeof flags[0])

/* All that is not decode: where cuBLAS begins to pay is what this is to find out. */
#define LIBRARY_ROWS 33

static void show_help(FILE *file) {
    fprintf(file,
            "usage: metronome bench ops [--device NAME] [--model NAME] [--json FILE] [--html FILE]\n\n"
            "Times every op of the decoder's math alone, on a model's shapes with random numbers, and holds it "
            "against what\nthis machine can do at most, which it measures first. Half a minute on two cores.\n\n");
    arguments_help(file, flags, FLAGS, false);
}

/* Shapes for --quick: every type's blocks divide what has to be divided. */
static const struct model_shape tiny = {.name = "tiny",
                                        .layers = 2,
                                        .width = 64,
                                        .feed_forward = 512,
                                        .query_heads = 4,
                                        .kv_heads = 2,
                                        .head_dim = 64,
                                        .vocabulary = 512};

static struct status read_order(const struct arguments *arguments, struct ops_order *order) {
    const char *const *values = arguments->values;
    const char *compute = values[COMPUTE] ? values[COMPUTE] : "int8";
    double seed = 1, threads = 0;
    *order = (struct ops_order){.device = {.name = values[DEVICE] ? values[DEVICE] : "cpu", .isa = values[ISA]},
                                .quick = values[QUICK] != NULL};
    if (values[SEED]) {
        TRY(arguments_number("seed", values[SEED], 0, 1e15, &seed));
    }
    if (values[THREADS]) {
        TRY(arguments_number("threads", values[THREADS], 1, 1024, &threads));
    }
    if (strcmp(compute, "int8") != 0 && strcmp(compute, "f32") != 0) {
        return status_error(STATUS_INVALID, "--compute: \"%.40s\" is neither int8 nor f32", compute);
    }
    order->seed = (uint64_t)seed;
    order->device.threads = (uint32_t)threads;
    order->device.invariant = values[INVARIANT] != NULL;
    order->device.library_rows = LIBRARY_ROWS;
    order->device.compute = strcmp(compute, "f32") == 0 ? COMPUTE_F32 : COMPUTE_INT8;
    struct model_description described = {.shape = tiny, .weight_type = TENSOR_Q4_1, .feed_forward_matrices = 3};
    if (values[MODEL] || !order->quick) {
        const bool cuda = strcmp(order->device.name, "cuda") == 0;
        TRY(described_model(values[MODEL] ? values[MODEL] : cuda ? "llama-3-8b" : "smollm2-135m", &described));
    }
    if (values[TYPE]) {
        TRY(description_set_type(&described, values[TYPE]));
    }
    order->shape = described.shape;
    order->type = described.weight_type;
    return STATUS_SUCCESS;
}

static void write_limits(const struct ops_report *report, struct book *book) {
    const struct ops_limits *limits = &report->limits;
    book_section(book, "What the machine can do");
    if (limits->levels > 1) {
        book_say(book,
                 "Reading so many bytes over and over, and multiply-adds from registers and the first cache, each "
                 "of all threads at once and in the instructions that the kernels have; the best of 20 tries.");
    } else {
        book_say(book, "A copy inside the device, its bytes counted twice: read and written. %s",
                 report->cublas ? "Arithmetic is held against cuBLAS in bf16: matmuls of more than 16 rows against the "
                                  "same product, the rest against one of 8192 x 8192 x 8192."
                                : "cuBLAS is not used: what the device computes at most is not known.");
    }
    book_table(book, "limits_memory");
    for (uint32_t i = 0; i < limits->levels; i++) {
        book_number(book, "KiB", 0, (double)limits->level[i].bytes / 1024);
        book_number(book, "GB/s", 1, limits->level[i].bytes_per_s / 1e9);
        book_end_row(book);
    }
    book_end_table(book);
    const double int8 = limits->operations_per_s[OPS_INT8], f32 = limits->operations_per_s[OPS_F32];
    book_table(book, "limits");
    book_number(book, "int8 Gop/s", 1, int8 > 0 ? int8 / 1e9 : NAN);
    book_number(book, "f32 Gop/s", 1, f32 > 0 ? f32 / 1e9 : NAN);
    book_number(book, "us a call", 2, limits->launch_s * 1e6);
    book_end_row(book);
    book_end_table(book);
}

static const char *const limit_names[] = {
    [OPS_MEMORY] = "memory", [OPS_ARITHMETIC] = "arithmetic", [OPS_LAUNCH] = "launch", [OPS_UNKNOWN] = ""};

static void write_rows(const struct ops_report *report, struct book *book) {
    book_section(book, "Every op");
    book_say(
        book,
        "Rates and the share are of the least time, as the limits are of theirs. The limit is the longest of three: "
        "the bytes that a call must move, from where its footprint lies; its operations; and a call with nothing "
        "to do. Weights and caches are used in turn, so that they come from memory; activations are where a "
        "forward pass would find them. spread: between the quartiles of 9 samples, to the median.");
    book_table(book, "ops");
    for (uint32_t i = 0; i < report->count; i++) {
        const struct ops_row *row = &report->rows[i];
        double limit_s;
        const enum ops_limit limit = ops_row_limit(&report->limits, row, &limit_s);
        book_text(book, "op", row->op);
        book_text(book, "shape", row->shape);
        book_number(book, "rows", 0, row->rows);
        book_number(book, "us", 2, row->least_s * 1e6);
        book_number(book, "median us", 2, row->median_s * 1e6);
        book_number(book, "spread %", 1, 100 * row->spread);
        book_number(book, "KB", 1, row->bytes / 1e3);
        book_number(book, "Mop", 2, row->operations / 1e6);
        book_number(book, "GB/s", 2, row->bytes / row->least_s / 1e9);
        book_number(book, "Gop/s", 2, row->operations / row->least_s / 1e9);
        book_number(book, "of the limit %", 1, 100 * limit_s / row->least_s);
        book_text(book, "limit", limit_names[limit]);
        book_end_row(book);
    }
    book_end_table(book);
}

/* The share of the limit by the number of rows, for each matmul that has been measured with many. */
static void draw_matmuls(const struct ops_report *report, struct book *book) {
    enum { LINES = 5, POINTS = 12 };
    struct chart_point points[LINES][POINTS];
    struct chart_line lines[LINES];
    uint32_t count = 0;
    for (uint32_t i = 0; i < report->count; i++) {
        const struct ops_row *row = &report->rows[i];
        if (strcmp(row->op, "matmul") != 0) {
            continue;
        }
        if (count == 0 || strcmp(lines[count - 1].name, row->shape) != 0) {
            if (count == LINES) {
                break;
            }
            lines[count] = (struct chart_line){.name = row->shape, .points = points[count]};
            count++;
        }
        struct chart_line *line = &lines[count - 1];
        if (line->count < POINTS) {
            double limit_s;
            ops_row_limit(&report->limits, row, &limit_s);
            points[count - 1][line->count++] = (struct chart_point){log2(row->rows), 100 * limit_s / row->least_s};
        }
    }
    struct text svg = {0};
    const struct chart chart = {.title = "Matmuls: the share of the machine's limit",
                                .x_label = "rows of activations, as a power of 2",
                                .y_label = "% of the limit",
                                .lines = lines,
                                .line_count = count,
                                .y_most = 100};
    chart_svg(&chart, &svg);
    book_chart(book, chart.title, &svg, NULL);
    text_free(&svg);
}

static struct status write_ops(const struct arguments *arguments, struct book *book) {
    struct ops_order order;
    struct ops_report report;
    TRY(read_order(arguments, &order));
    struct status status = ops_run(&order, &report);
    if (!status_failed(&status)) {
        about_write(NULL, order.seed, book);
        book_table(book, "config");
        book_text(book, "device", report.device);
        book_text(book, "model", order.shape.name);
        book_text(book, "type", tensor_traits(order.type)->name);
        book_text(book, "quantized weights as", order.device.compute == COMPUTE_INT8 ? "int8" : "f32");
        book_end_row(book);
        book_end_table(book);
        write_limits(&report, book);
        write_rows(&report, book);
        draw_matmuls(&report, book);
    }
    ops_report_free(&report);
    return status;
}

int bench_ops(int argc, const char **argv) {
    return output_run(argc, argv, flags, FLAGS, OUTPUT, show_help, "Every op against the machine's limit", write_ops);
}
