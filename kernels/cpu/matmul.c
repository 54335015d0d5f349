/* op_matmul on the cpu device: quantizes the rows once for all parts, then shares out groups of output rows.
 *
 * Owns: how the work is cut; the arithmetic is matmul.h's, and no cut changes it. Decode (few rows) walks the weights
 * once, in runs of groups; prefill walks chunks of rows whose quantized form stays in the L2 cache.
 * Threads: the stream's, and the pool under it. */
#include "kernels/cpu/scratch.h"

#include "base/check.h"

#include <stddef.h>
#include <string.h>

#define CHUNK_BYTES (UINT32_C(512) << 10) /* of quantized rows that stay in a core's L2 while groups pass over them */
#define SERIAL_QUANTIZE_VALUES 8192       /* activations that one thread quantizes faster than the pool wakes */

/* A task should take about TASK_NS: long enough for the memory's prefetchers to get going and the hand-out not to
 * show, short enough to even out cores that other work slows. The rates are round figures of one core; what they are
 * off by costs balance, not results. */
#define TASK_NS 8000
#define CORE_BYTES_PER_NS 32
#define CORE_PRODUCTS_PER_NS 128

struct matmul_call {
    struct cpu_device *device; /* filled in by run() */
    uint32_t count;
    const float *x;
    size_t x_stride;
    uint32_t n;
    uint32_t columns;

    /* The cut: tasks are (chunk of rows) x (run of groups), and the groups of all parts are numbered through. */
    uint32_t chunk_rows, chunks, groups, task_groups, tasks_per_chunk;

    struct matmul_part parts[MATMUL_MAX_PARTS]; /* last: no more than `count` of them are copied */
};

static void quantize_task(void *context, uint32_t index, uint32_t worker) {
    (void)worker;
    const struct matmul_call *call = context;
    const struct cpu_math *math = call->device->math;
    const uint32_t row = index * MATMUL_TILE;
    const uint32_t rows = call->n - row < MATMUL_TILE ? call->n - row : MATMUL_TILE;
    math->matmul->quantize(math->activations + (size_t)index * (call->columns / PACKED_BLOCK),
                           call->x + row * call->x_stride, call->x_stride, rows, call->columns);
}

static void quantize_rows(struct matmul_call *call) {
    const struct cpu_math *math = call->device->math;
    const uint32_t tiles = (call->n + MATMUL_TILE - 1) / MATMUL_TILE;
    CHECK(math != NULL);
    CHECK((size_t)tiles * (call->columns / PACKED_BLOCK) <= math->activation_capacity);
    if ((size_t)call->n * call->columns > SERIAL_QUANTIZE_VALUES) {
        cpu_parallel(call->device, tiles, quantize_task, call);
    } else {
        for (uint32_t tile = 0; tile < tiles; tile++) {
            quantize_task(call, tile, 0);
        }
    }
}

static bool multiplies_int8(const struct matmul_call *call, enum tensor_type type) {
    return call->device->compute == COMPUTE_INT8 && packed_is_quantized(type);
}

/* Multiplies one group of one part by the rows first .. first + rows - 1. */
static void multiply_group(const struct matmul_call *call, const struct matmul_part *part, uint32_t group,
                           uint32_t first, uint32_t rows) {
    const struct cpu_math *math = call->device->math;
    const struct weight *weight = &part->weight;
    const uint32_t output = group * PACKED_ROWS, outputs = weight->rows - output;
    const struct matmul_job job = {
        .type = weight->type,
        .columns = weight->columns,
        .group = (const uint8_t *)weight->data + group * packed_group_bytes(weight->type, weight->columns),
        .tile = math->activations + (size_t)(first / MATMUL_TILE) * (weight->columns / PACKED_BLOCK),
        .x = call->x + first * call->x_stride,
        .x_stride = call->x_stride,
        .rows = rows,
        .out = part->out + first * part->out_stride + output,
        .out_stride = part->out_stride,
        .outputs = outputs < PACKED_ROWS ? outputs : PACKED_ROWS,
        .bias = part->bias ? part->bias + output : NULL,
        .accumulate = part->accumulate,
    };
    if (multiplies_int8(call, weight->type)) {
        math->matmul->multiply_int8(&job);
    } else {
        math->matmul->multiply_f32(&job);
    }
}

static void multiply_task(void *context, uint32_t index, uint32_t worker) {
    (void)worker;
    const struct matmul_call *call = context;
    const uint32_t first = index / call->tasks_per_chunk * call->chunk_rows;
    const uint32_t rows = call->n - first < call->chunk_rows ? call->n - first : call->chunk_rows;
    uint32_t group = index % call->tasks_per_chunk * call->task_groups;
    const uint32_t end = group + call->task_groups < call->groups ? group + call->task_groups : call->groups;
    uint32_t before = 0; /* groups of the parts before this one */
    for (uint32_t i = 0; i < call->count; i++) {
        const uint32_t in_part = packed_groups(call->parts[i].weight.rows);
        for (; group < end && group < before + in_part; group++) {
            multiply_group(call, &call->parts[i], group - before, first, rows);
        }
        before += in_part;
    }
}

/* Whole tasks of about TASK_NS for every worker alike, and at least one for each. */
static uint32_t task_count(const struct matmul_call *call, size_t bytes, size_t outputs) {
    const size_t memory_ns = bytes / CORE_BYTES_PER_NS;
    const size_t products_ns = outputs * call->columns / CORE_PRODUCTS_PER_NS * call->n;
    const size_t tasks = (memory_ns > products_ns ? memory_ns : products_ns) / TASK_NS + 1;
    const size_t rounds = (tasks - 1) / call->device->threads + 1;
    return (uint32_t)(rounds * call->device->threads);
}

static void cut(struct matmul_call *call) {
    const size_t row_bytes = (size_t)call->columns * sizeof(struct activation_block) / MATMUL_TILE / PACKED_BLOCK;
    const size_t chunk_tiles = CHUNK_BYTES / row_bytes / MATMUL_TILE;
    call->chunk_rows = (chunk_tiles > 0 ? (uint32_t)chunk_tiles : 1) * MATMUL_TILE;
    call->chunks = (call->n - 1) / call->chunk_rows + 1;

    size_t bytes = 0, outputs = 0;
    call->groups = 0;
    for (uint32_t i = 0; i < call->count; i++) {
        const struct weight *weight = &call->parts[i].weight;
        call->groups += packed_groups(weight->rows);
        bytes += packed_groups(weight->rows) * packed_group_bytes(weight->type, weight->columns);
        outputs += weight->rows;
    }
    const uint32_t tasks = (task_count(call, bytes, outputs) - 1) / call->chunks + 1;
    call->task_groups = (call->groups - 1) / tasks + 1;
    call->tasks_per_chunk = (call->groups - 1) / call->task_groups + 1;
}

static void run_matmul(struct cpu_stream *stream, void *arguments) {
    struct matmul_call *call = arguments;
    call->device = cpu_stream_device(stream);
    for (uint32_t i = 0; i < call->count; i++) {
        if (multiplies_int8(call, call->parts[i].weight.type)) {
            quantize_rows(call);
            break;
        }
    }
    cut(call);
    cpu_parallel(call->device, call->tasks_per_chunk * call->chunks, multiply_task, call);
}

void cpu_matmul(struct stream *stream, const struct matmul_part *parts, uint32_t count, const float *x, size_t x_stride,
                uint32_t n) {
    if (n == 0 || count == 0) {
        return;
    }
    struct matmul_call call;
    call.count = count;
    call.x = x;
    call.x_stride = x_stride;
    call.n = n;
    call.columns = parts[0].weight.columns;
    memcpy(call.parts, parts, count * sizeof *parts);
    cpu_enqueue(stream, run_matmul, &call, offsetof(struct matmul_call, parts) + count * sizeof *parts);
}
