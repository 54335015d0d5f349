/* `metronome bench link`: what the link between host and device gives, by the size of a copy, alone and under compute.
 *
 * Threads: main's, and the device's own. */
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "bench/about.h"
#include "bench/commands.h"
#include "bench/output.h"
#include "kernels/device.h"
#include "kernels/ops.h"
#include "server/chart.h"
#include "server/command.h"
#include "server/described.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LEAST_BYTES ((size_t)4 << 10)
#define MOST_BYTES ((size_t)64 << 20)
#define LEVELS 8                   /* 4 KiB, 16 KiB ... 64 MiB */
#define AT_ONCE ((size_t)64 << 20) /* bytes of a measurement: small copies are many */
#define MOST_COPIES 1024
#define ROUNDS 5
#define WIDTH 2048 /* of the matrix that keeps the compute stream busy */
#define ROWS 16

static const struct flag flags[] = {
    {"device", "NAME", "cpu if not given, or sim, or cuda where it is built"},
    {"hardware", "NAME", "what sim stands for; a10 if not given"},
    {"link_gbps", "G", "the pace of the link, in 10^9 bytes a second; as fast as it goes if not given"},
    OUTPUT_FLAGS,
};
enum { DEVICE, HARDWARE, LINK, OUTPUT };
#define FLAGS (sizeof flags / sizeof flags[0])

static void show_help(FILE *file) {
    fprintf(file, "usage: metronome bench link [--device NAME] [--link_gbps G] [--json FILE] [--html FILE]\n\n"
                  "Copies of 4 KiB to 64 MiB from pinned host memory to the device and back, alone and while matrix "
                  "products keep the\ncompute stream busy, and what those then lose.\n\n");
    arguments_help(file, flags, FLAGS, false);
}

struct link_bench {
    struct device *device;
    struct stream *copy, *compute;
    struct event *begin, *end, *compute_begin, *compute_end;
    uint8_t *host, *target, *weight;
    float *x, *out;
};

static struct status open_device(const struct arguments *arguments, struct link_bench *bench) {
    static char path[PATH_MAX];
    struct device_config config = {.name = arguments->values[DEVICE] ? arguments->values[DEVICE] : "cpu"};
    double gbps = 0;
    if (strcmp(config.name, "sim") == 0) {
        TRY(described_hardware_path(arguments->values[HARDWARE] ? arguments->values[HARDWARE] : "a10", path));
        config.hardware = path;
    }
    if (arguments->values[LINK]) {
        TRY(arguments_number("link_gbps", arguments->values[LINK], 0.001, 10000, &gbps));
    }
    config.link_bytes_per_s = gbps * 1e9;
    const struct device_limits limits = {.rows = ROWS,
                                         .columns = WIDTH,
                                         .vocabulary = WIDTH,
                                         .logit_rows = 1,
                                         .sequences = 1,
                                         .query_heads = 1,
                                         .kv_heads = 1,
                                         .head_dim = 64,
                                         .context = KV_BLOCK_TOKENS};
    TRY(device_open(&config, &bench->device));
    TRY(device_prepare(bench->device, &limits));
    size_t packed = device_packed_bytes(bench->device, TENSOR_F16, WIDTH, WIDTH);
    TRY(device_alloc_host(bench->device, MOST_BYTES, "copies", (void **)&bench->host));
    TRY(device_alloc(bench->device, MOST_BYTES, "copies", (void **)&bench->target));
    TRY(device_alloc(bench->device, packed, "a matrix", (void **)&bench->weight));
    TRY(device_alloc(bench->device, sizeof(float) * ROWS * WIDTH, "rows", (void **)&bench->x));
    TRY(device_alloc(bench->device, sizeof(float) * ROWS * WIDTH, "products", (void **)&bench->out));
    TRY(stream_create(bench->device, STREAM_COPY, &bench->copy));
    TRY(stream_create(bench->device, STREAM_COMPUTE, &bench->compute));
    TRY(event_create(bench->device, &bench->begin));
    TRY(event_create(bench->device, &bench->end));
    TRY(event_create(bench->device, &bench->compute_begin));
    TRY(event_create(bench->device, &bench->compute_end));
    memset(bench->host, 0, MOST_BYTES); /* every byte of the device's buffers is defined, and 0 */
    for (size_t done = 0; done < packed; done += MOST_BYTES) {
        size_t bytes = packed - done < MOST_BYTES ? packed - done : MOST_BYTES;
        stream_copy(bench->copy, bench->weight + done, bench->host, bytes, COPY_HOST_TO_DEVICE);
    }
    stream_copy(bench->copy, bench->x, bench->host, sizeof(float) * ROWS * WIDTH, COPY_HOST_TO_DEVICE);
    stream_copy(bench->copy, bench->target, bench->host, MOST_BYTES, COPY_HOST_TO_DEVICE);
    return stream_sync(bench->copy);
}

static void close_device(struct link_bench *bench) {
    event_destroy(bench->begin);
    event_destroy(bench->end);
    event_destroy(bench->compute_begin);
    event_destroy(bench->compute_end);
    stream_destroy(bench->copy);
    stream_destroy(bench->compute);
    if (bench->device) {
        void *const buffers[] = {bench->target, bench->weight, bench->x, bench->out};
        for (size_t i = 0; i < sizeof buffers / sizeof buffers[0]; i++) {
            if (buffers[i]) {
                device_free(bench->device, buffers[i]);
            }
        }
        if (bench->host) {
            device_free_host(bench->device, bench->host);
        }
    }
    device_close(bench->device);
}

static double ns_between(const struct event *from, const struct event *to) {
    return (double)event_time_ns(to) - (double)event_time_ns(from);
}

/* Copies of one size, back to back, and `products` beside them; either may be none. *copy_ns is of all copies,
 * *compute_ns of all products. */
static struct status run_once(struct link_bench *bench, size_t bytes, uint32_t copies, enum copy_kind kind,
                              uint32_t products, double *copy_ns, double *compute_ns) {
    struct matmul_part part = {.weight = {.data = bench->weight, .type = TENSOR_F16, .rows = WIDTH, .columns = WIDTH},
                               .out = bench->out,
                               .out_stride = WIDTH};
    event_record(bench->compute_begin, bench->compute);
    for (uint32_t i = 0; i < products; i++) {
        op_matmul(bench->compute, &part, 1, bench->x, WIDTH, ROWS);
    }
    event_record(bench->compute_end, bench->compute);
    event_record(bench->begin, bench->copy);
    for (uint32_t i = 0; i < copies; i++) {
        size_t at = (i * bytes) % MOST_BYTES;
        bool to_device = kind == COPY_HOST_TO_DEVICE;
        void *to = to_device ? bench->target + at : bench->host + at;
        stream_copy(bench->copy, to, to_device ? bench->host + at : bench->target + at, bytes, kind);
    }
    event_record(bench->end, bench->copy);
    TRY(stream_sync(bench->copy));
    TRY(stream_sync(bench->compute));
    *copy_ns = ns_between(bench->begin, bench->end);
    *compute_ns = ns_between(bench->compute_begin, bench->compute_end);
    return STATUS_SUCCESS;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct measured {
    double least, median; /* bytes a second of a round: the slowest, and the one in the middle */
    double product_ns;    /* of one product, the median; NAN: there were none */
};

static struct status measure(struct link_bench *bench, size_t bytes, enum copy_kind kind, uint32_t products,
                             struct measured *out) {
    uint32_t copies = AT_ONCE / bytes < MOST_COPIES ? (uint32_t)(AT_ONCE / bytes) : MOST_COPIES;
    double rate[ROUNDS], product[ROUNDS];
    for (int round = 0; round < ROUNDS; round++) {
        double copy_ns, compute_ns;
        TRY(run_once(bench, bytes, copies, kind, products, &copy_ns, &compute_ns));
        rate[round] = (double)bytes * copies * 1e9 / (copy_ns > 1 ? copy_ns : 1);
        product[round] = products > 0 ? compute_ns / products : 0;
    }
    qsort(rate, ROUNDS, sizeof rate[0], compare);
    qsort(product, ROUNDS, sizeof product[0], compare);
    *out = (struct measured){
        .least = rate[0], .median = rate[ROUNDS / 2], .product_ns = products > 0 ? product[ROUNDS / 2] : NAN};
    return STATUS_SUCCESS;
}

static void draw_rates(struct chart_point (*points)[LEVELS], uint32_t count, struct book *book) {
    const struct chart_line lines[] = {{.name = "to the device, alone", .points = points[0], .count = count},
                                       {.name = "to the host, alone", .points = points[1], .count = count},
                                       {.name = "to the device, computing", .points = points[2], .count = count}};
    struct text svg = {0};
    const struct chart chart = {.title = "What the link gives by the size of a copy",
                                .x_label = "KiB a copy, as a power of 2",
                                .y_label = "GB/s",
                                .lines = lines,
                                .line_count = 3};
    chart_svg(&chart, &svg);
    book_chart(book, chart.title, &svg, NULL);
    text_free(&svg);
}

static struct status write_rates(struct link_bench *bench, struct book *book) {
    double copy_ns, products_ns;
    TRY(run_once(bench, MOST_BYTES, 1, COPY_HOST_TO_DEVICE, 0, &copy_ns, &products_ns));
    TRY(run_once(bench, MOST_BYTES, 0, COPY_HOST_TO_DEVICE, 8, &copy_ns, &products_ns));
    double alone_ns = products_ns / 8;
    struct chart_point points[3][LEVELS];
    uint32_t level = 0;
    book_table(book, "link");
    for (size_t bytes = LEAST_BYTES; bytes <= MOST_BYTES; bytes *= 4) {
        struct measured alone, back, under;
        TRY(measure(bench, bytes, COPY_HOST_TO_DEVICE, 0, &alone));
        TRY(measure(bench, bytes, COPY_DEVICE_TO_HOST, 0, &back));
        size_t all = AT_ONCE / bytes < MOST_COPIES ? AT_ONCE : bytes * MOST_COPIES;
        double wanted = (double)all * 1e9 / alone.median / alone_ns; /* as long as the copies take */
        TRY(measure(bench, bytes, COPY_HOST_TO_DEVICE,
                    wanted < 1      ? 1
                    : wanted > 4096 ? 4096
                                    : (uint32_t)wanted,
                    &under));
        CHECK(level < LEVELS);
        const double rates[3] = {alone.median, back.median, under.median};
        for (int i = 0; i < 3; i++) {
            points[i][level] = (struct chart_point){log2((double)bytes / 1024), rates[i] / 1e9};
        }
        level++;
        book_number(book, "KiB a copy", 0, (double)bytes / 1024);
        book_number(book, "to device GB/s", 2, alone.median / 1e9);
        book_number(book, "slowest", 2, alone.least / 1e9);
        book_number(book, "to host GB/s", 2, back.median / 1e9);
        book_number(book, "under compute GB/s", 2, under.median / 1e9);
        book_number(book, "under / alone", 3, under.median / alone.median);
        book_number(book, "products take", 3, under.product_ns / alone_ns);
        book_end_row(book);
    }
    book_end_table(book);
    book_say(book,
             "Medians of %d rounds. under compute: products of %d rows with a %d x %d matrix of half floats run "
             "meanwhile; `products take`: their time to that without copies.",
             ROUNDS, ROWS, WIDTH, WIDTH);
    draw_rates(points, level, book);
    return STATUS_SUCCESS;
}

static struct status write_link(const struct arguments *arguments, struct book *book) {
    struct link_bench bench = {0};
    log_set_level(LOG_ERROR);
    struct status status = open_device(arguments, &bench);
    if (!status_failed(&status)) {
        about_write(NULL, 0, book);
        book_section(book, "The link");
        book_say(book, "%s", device_info(bench.device).description);
        status = write_rates(&bench, book);
    }
    close_device(&bench);
    return status;
}

int bench_link(int argc, const char **argv) {
    return output_run(argc, argv, flags, FLAGS, OUTPUT, show_help, "Copies between host and device", write_link);
}
