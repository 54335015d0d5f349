#include "bench/ops_bench.h"

#include "bench/output.h"
#include "bench/peak.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SAMPLES 9
#define SAMPLE_S 0.002 /* at least, of calls in a row */
#define MOST_CALLS 1000
#define LEAST_LEVEL ((size_t)256 << 10)
#define MOST_LEVEL ((size_t)256 << 20)
#define FEW_FOR_A_BYTE 64        /* operations: with more of them it may not be the memory that a call waits for */
#define COPIED ((size_t)1 << 30) /* inside a device whose memory the host cannot read */

/* ---- memory ---- */

struct status ops_alloc(struct ops_bench *bench, size_t bytes, void *out) {
    void **address = &bench->buffer[bench->buffers];
    if (bench->buffers == OPS_MOST_BUFFERS) {
        return status_error(STATUS_NO_MEMORY, "more than %d buffers at a time", OPS_MOST_BUFFERS);
    }
    TRY(device_alloc(bench->device, bytes, "bench ops", address));
    bench->buffers++;
    memcpy(out, address, sizeof *address);
    return STATUS_SUCCESS;
}

void ops_release(struct ops_bench *bench, uint32_t mark) {
    while (bench->buffers > mark) {
        device_free(bench->device, bench->buffer[--bench->buffers]);
    }
}

struct status ops_upload(struct ops_bench *bench, void *target, const void *source, size_t bytes) {
    stream_copy(bench->stream, target, source, bytes, COPY_HOST_TO_DEVICE);
    return stream_sync(bench->stream);
}

struct status ops_fill(struct ops_bench *bench, void *target, size_t bytes) {
    for (size_t done = 0; done < bytes; done += OPS_PATTERN_BYTES) {
        const size_t left = bytes - done;
        stream_copy(bench->stream, (uint8_t *)target + done, bench->pattern,
                    left < OPS_PATTERN_BYTES ? left : OPS_PATTERN_BYTES, COPY_HOST_TO_DEVICE);
    }
    return stream_sync(bench->stream);
}

/* Random bits, but for what would be the exponent of a float of any kind: that is made small and ordinary, so that
 * nothing here is denormal or not a number, which processors may take their time over. */
static struct status make_pattern(struct ops_bench *bench) {
    bench->pattern = aligned_alloc(64, OPS_PATTERN_BYTES);
    if (bench->pattern == NULL) {
        return status_error(STATUS_NO_MEMORY, "no memory for %zu bytes of random numbers", OPS_PATTERN_BYTES);
    }
    for (size_t i = 0; i < OPS_PATTERN_BYTES; i += 8) {
        uint64_t bits = random_u64(&bench->random);
        bits = (bits & UINT64_C(0x83ff83ff83ff83ff)) | UINT64_C(0x3000300030003000);
        memcpy(bench->pattern + i, &bits, sizeof bits);
    }
    return STATUS_SUCCESS;
}

static uint32_t larger(uint32_t a, uint32_t b) {
    return a > b ? a : b;
}

static struct status alloc_activations(struct ops_bench *bench) {
    const struct model_shape *shape = &bench->order->shape;
    const uint32_t heads = shape->query_heads * shape->head_dim, kv = shape->kv_heads * shape->head_dim;
    const uint32_t widest = larger(larger(shape->width, shape->feed_forward), heads);
    const size_t products = (size_t)bench->rows * larger(2 * shape->feed_forward, heads + 2 * kv);
    const size_t logits = (size_t)64 * shape->vocabulary, out = products > logits ? products : logits;
    const size_t floats = (size_t)bench->rows * widest * sizeof(float), pairs = shape->head_dim / 2;
    TRY(ops_alloc(bench, floats, &bench->x));
    TRY(ops_alloc(bench, floats, &bench->y));
    TRY(ops_alloc(bench, out * sizeof(float), &bench->out));
    TRY(ops_alloc(bench, widest * sizeof(float), &bench->gain));
    TRY(ops_alloc(bench, bench->rows * sizeof(uint32_t), &bench->ids));
    TRY(ops_alloc(bench, bench->rows * sizeof(uint32_t), &bench->places));
    TRY(ops_alloc(bench, bench->rows * sizeof(uint32_t), &bench->largest));
    TRY(ops_alloc(bench, bench->rows * pairs * 2 * sizeof(float), &bench->angles));
    TRY(ops_fill(bench, bench->x, floats));
    TRY(ops_fill(bench, bench->y, floats));
    TRY(ops_fill(bench, bench->out, out * sizeof(float)));
    TRY(ops_fill(bench, bench->gain, widest * sizeof(float)));
    TRY(ops_fill(bench, bench->angles, bench->rows * pairs * 2 * sizeof(float)));
    uint32_t *ids = calloc(bench->rows, 2 * sizeof *ids);
    if (ids == NULL) {
        return status_error(STATUS_NO_MEMORY, "no memory for %u ids", bench->rows);
    }
    for (uint32_t i = 0; i < bench->rows; i++) {
        ids[i] = (uint32_t)random_below(&bench->random, shape->vocabulary);
        ids[bench->rows + i] = i;
    }
    struct status status = ops_upload(bench, bench->ids, ids, bench->rows * sizeof *ids);
    if (!status_failed(&status)) {
        status = ops_upload(bench, bench->places, ids + bench->rows, bench->rows * sizeof *ids);
    }
    free(ids);
    return status;
}

/* ---- times ---- */

static struct status time_calls(struct ops_bench *bench, const struct ops_call *call, uint32_t calls, double *call_s) {
    event_record(bench->begin, bench->stream);
    for (uint32_t i = 0; i < calls; i++) {
        call->enqueue(bench, call);
        bench->turn++;
    }
    event_record(bench->end, bench->stream);
    TRY(stream_sync(bench->stream));
    const double seconds = (double)(event_time_ns(bench->end) - event_time_ns(bench->begin)) / 1e9;
    *call_s = (seconds > 0 ? seconds : 1e-9) / calls;
    return STATUS_SUCCESS;
}

static int compare(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The least, the median and the spread of a few samples of calls in a row. */
static struct status sample(struct ops_bench *bench, const struct ops_call *call, struct ops_row *row) {
    double call_s[SAMPLES], once;
    const int samples = bench->order->quick ? 1 : SAMPLES;
    TRY(time_calls(bench, call, 1, &once)); /* the first is for caches and clocks */
    if (!bench->order->quick) {
        TRY(time_calls(bench, call, 3, &once));
    }
    const double wanted = bench->order->quick ? 1 : ceil(SAMPLE_S / once);
    for (int i = 0; i < samples; i++) {
        TRY(time_calls(bench, call, wanted < MOST_CALLS ? (uint32_t)wanted : MOST_CALLS, &call_s[i]));
    }
    qsort(call_s, (size_t)samples, sizeof call_s[0], compare);
    row->least_s = call_s[0];
    row->median_s = call_s[samples / 2];
    row->spread = (call_s[samples * 3 / 4] - call_s[samples / 4]) / row->median_s;
    return STATUS_SUCCESS;
}

static double bytes_per_s(const struct ops_limits *limits, size_t footprint) {
    uint32_t i = 0;
    while (i + 1 < limits->levels && limits->level[i].bytes < footprint) {
        i++;
    }
    return limits->level[i].bytes_per_s;
}

struct status ops_time(struct ops_bench *bench, const struct ops_call *call) {
    struct ops_report *report = bench->report;
    struct ops_row row = {.op = call->op, .rows = call->rows, .bytes = call->bytes, .operations = call->operations};
    snprintf(row.shape, sizeof row.shape, "%s", call->shape);
    const double peak = report->limits.operations_per_s[call->arithmetic];
    TRY(status_context(sample(bench, call, &row), "%s, %s", call->op, call->shape));
    row.memory_s = call->bytes / bytes_per_s(&report->limits, call->footprint);
    row.arithmetic_s = call->arithmetic_s > 0 ? call->arithmetic_s : peak > 0 ? call->operations / peak : NAN;
    if (report->count == report->capacity) {
        const uint32_t capacity = report->capacity > 0 ? 2 * report->capacity : 64;
        struct ops_row *grown = realloc(report->rows, capacity * sizeof *grown);
        if (grown == NULL) {
            return status_error(STATUS_NO_MEMORY, "no memory for %u rows", capacity);
        }
        report->rows = grown;
        report->capacity = capacity;
    }
    report->rows[report->count++] = row;
    return STATUS_SUCCESS;
}

/* ---- the machine ---- */

static void enqueue_nothing(struct ops_bench *bench, const struct ops_call *call) {
    (void)call;
    op_scale(bench->stream, bench->y, 1, 1, 16);
}

struct copy {
    uint8_t *target, *source;
    size_t bytes;
};
static void enqueue_copy(struct ops_bench *bench, const struct ops_call *call) {
    const struct copy *copy = call->context;
    stream_copy(bench->stream, copy->target, copy->source, copy->bytes, COPY_DEVICE_TO_DEVICE);
}

/* cuda: memory by a copy inside the device, arithmetic by a large product of cuBLAS. */
static struct status measure_device(struct ops_bench *bench) {
    struct ops_limits *limits = &bench->report->limits;
    struct copy copy = {.bytes = bench->order->quick ? (size_t)1 << 20 : COPIED};
    const struct ops_call call = {.enqueue = enqueue_copy, .context = &copy};
    struct ops_row row;
    const uint32_t mark = ops_mark(bench), wide = 8192;
    TRY(ops_alloc(bench, copy.bytes, &copy.target));
    TRY(ops_alloc(bench, copy.bytes, &copy.source));
    TRY(sample(bench, &call, &row));
    ops_release(bench, mark);
    limits->level[limits->levels++] = (struct ops_level){copy.bytes, 2 * (double)copy.bytes / row.least_s};
    bench->report->cublas = !bench->order->quick && cublas_limit_load(&bench->cublas);
    if (bench->report->cublas) {
        const double seconds = cublas_limit_seconds(bench->device, &bench->cublas, wide, wide, wide);
        const double rate = seconds > 0 ? 2.0 * wide * wide * wide / seconds : 0;
        limits->operations_per_s[OPS_INT8] = limits->operations_per_s[OPS_F32] = rate;
    }
    return STATUS_SUCCESS;
}

static struct status measure_cores(struct ops_bench *bench) {
    struct ops_limits *limits = &bench->report->limits;
    const struct device_info info = device_info(bench->device);
    for (size_t bytes = LEAST_LEVEL; bytes <= (bench->order->quick ? LEAST_LEVEL : MOST_LEVEL); bytes *= 4) {
        double *rate = &limits->level[limits->levels].bytes_per_s;
        limits->level[limits->levels++].bytes = bytes;
        TRY(peak_measure(PEAK_READ, info.isa, info.threads, bytes, rate));
    }
    TRY(peak_measure(PEAK_INT8, info.isa, info.threads, 0, &limits->operations_per_s[OPS_INT8]));
    return peak_measure(PEAK_F32, info.isa, info.threads, 0, &limits->operations_per_s[OPS_F32]);
}

static struct status measure_limits(struct ops_bench *bench) {
    const struct ops_call nothing = {.enqueue = enqueue_nothing};
    struct ops_row row;
    TRY(device_info(bench->device).isa ? measure_cores(bench) : measure_device(bench));
    TRY(sample(bench, &nothing, &row));
    bench->report->limits.launch_s = row.least_s;
    return STATUS_SUCCESS;
}

/* A call with nothing to do takes no longer than the shortest of all. */
static void set_launch(struct ops_report *report) {
    for (uint32_t i = 0; i < report->count; i++) {
        report->limits.launch_s = fmin(report->limits.launch_s, report->rows[i].least_s);
    }
}

enum ops_limit ops_row_limit(const struct ops_limits *limits, const struct ops_row *row, double *limit_s) {
    enum ops_limit limit = OPS_MEMORY;
    *limit_s = row->memory_s;
    if (row->arithmetic_s > *limit_s) {
        limit = OPS_ARITHMETIC;
        *limit_s = row->arithmetic_s;
    }
    if (limits->launch_s > *limit_s) {
        limit = OPS_LAUNCH;
        *limit_s = limits->launch_s;
    }
    if (isnan(row->arithmetic_s) && row->operations > FEW_FOR_A_BYTE * row->bytes) {
        limit = OPS_UNKNOWN;
        *limit_s = NAN;
    }
    return limit;
}

/* ---- a run ---- */

static struct status open_bench(struct ops_bench *bench) {
    const struct ops_order *order = bench->order;
    const struct model_shape *shape = &order->shape;
    const bool cuda = strcmp(order->device.name, "cuda") == 0;
    if (strcmp(order->device.name, "sim") == 0) {
        return status_error(STATUS_UNSUPPORTED, "--device: what sim takes is what its description says; measured are "
                                                "cpu, and cuda where it is built");
    }
    bench->rows = order->quick ? 40 : cuda ? 2048 : 512;
    const struct device_limits limits = {
        .rows = bench->rows,
        .columns = larger(larger(shape->width, shape->feed_forward), shape->query_heads * shape->head_dim),
        .vocabulary = shape->vocabulary,
        .logit_rows = 64,
        .sequences = 64,
        .query_heads = shape->query_heads,
        .kv_heads = shape->kv_heads,
        .head_dim = shape->head_dim,
        .context = 8192};
    random_seed(&bench->random, order->seed);
    TRY(device_open(&order->device, &bench->device));
    TRY(device_prepare(bench->device, &limits));
    TRY(stream_create(bench->device, STREAM_COMPUTE, &bench->stream));
    TRY(event_create(bench->device, &bench->begin));
    TRY(event_create(bench->device, &bench->end));
    memcpy(bench->report->device, device_info(bench->device).description, sizeof bench->report->device);
    TRY(make_pattern(bench));
    TRY(alloc_activations(bench));
    return measure_limits(bench);
}

static void close_bench(struct ops_bench *bench) {
    if (bench->device) {
        ops_release(bench, 0);
    }
    event_destroy(bench->begin);
    event_destroy(bench->end);
    stream_destroy(bench->stream);
    device_close(bench->device);
    free(bench->pattern);
}

struct status ops_run(const struct ops_order *order, struct ops_report *out) {
    struct progress bar;
    struct ops_bench bench = {.order = order, .report = out};
    *out = (struct ops_report){0};
    struct status status = open_bench(&bench);
    const uint32_t groups = ops_groups();
    output_progress_begin(&bar, "ops", groups);
    for (uint32_t i = 0; i < groups && !status_failed(&status); i++) {
        const uint32_t mark = ops_mark(&bench);
        status = ops_measure_group(&bench, i);
        ops_release(&bench, mark);
        progress_update(&bar, i + 1);
    }
    output_progress_end(&bar);
    set_launch(out);
    close_bench(&bench);
    return status;
}

void ops_report_free(struct ops_report *report) {
    free(report->rows);
    *report = (struct ops_report){0};
}
