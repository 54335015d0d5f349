/* op_embed and op_add_rows on the cpu device: rows of the packed table, dequantized exactly, and of a plain one.
 * Threads: the stream's, and the pool under it. */
#include "kernels/cpu/scratch.h"

#define TASK_ROWS 8

struct embed_call {
    struct cpu_device *device; /* filled in by run() */
    float *out;
    struct weight table;
    const uint32_t *ids;
    uint32_t n;
};

static void embed_task(void *context, uint32_t index, uint32_t worker) {
    (void)worker;
    const struct embed_call *call = context;
    const struct weight *table = &call->table;
    const size_t group_bytes = packed_group_bytes(table->type, table->columns);
    for (uint32_t row = index * TASK_ROWS; row < call->n && row < (index + 1) * TASK_ROWS; row++) {
        const uint32_t id = call->ids[row];
        call->device->math->matmul->dequantize_row(table->type, table->columns,
                                                   (const uint8_t *)table->data + id / PACKED_ROWS * group_bytes,
                                                   id % PACKED_ROWS, call->out + (size_t)row * table->columns);
    }
}

static void run_embed(struct cpu_stream *stream, void *arguments) {
    struct embed_call *call = arguments;
    call->device = cpu_stream_device(stream);
    for (uint32_t row = 0; row < call->n; row++) {
        if (call->ids[row] >= call->table.rows) {
            cpu_fail(stream, status_error(STATUS_DEVICE, "embed: row %u asks for id %u of a table of %u", row,
                                          call->ids[row], call->table.rows));
            return;
        }
    }
    cpu_parallel(call->device, (call->n + TASK_ROWS - 1) / TASK_ROWS, embed_task, call);
}

void cpu_embed(struct stream *stream, float *out, struct weight table, const uint32_t *ids, uint32_t n) {
    const struct embed_call call = {.out = out, .table = table, .ids = ids, .n = n};
    if (n > 0) {
        cpu_enqueue(stream, run_embed, &call, sizeof call);
    }
}

/* ---- add_rows ---- */

struct add_rows_call {
    float *out;
    const float *table;
    const uint32_t *ids;
    uint32_t rows, n, dim;
};

static void add_rows_task(void *context, uint32_t index, uint32_t worker) {
    (void)worker;
    const struct add_rows_call *call = context;
    for (uint32_t row = index * TASK_ROWS; row < call->n && row < (index + 1) * TASK_ROWS; row++) {
        const float *from = call->table + (size_t)call->ids[row] * call->dim;
        float *out = call->out + (size_t)row * call->dim;
        for (uint32_t i = 0; i < call->dim; i++) {
            out[i] += from[i];
        }
    }
}

static void run_add_rows(struct cpu_stream *stream, void *arguments) {
    struct add_rows_call *call = arguments;
    for (uint32_t row = 0; row < call->n; row++) {
        if (call->ids[row] >= call->rows) {
            cpu_fail(stream, status_error(STATUS_DEVICE, "add_rows: row %u asks for id %u of a table of %u", row,
                                          call->ids[row], call->rows));
            return;
        }
    }
    cpu_parallel(cpu_stream_device(stream), (call->n + TASK_ROWS - 1) / TASK_ROWS, add_rows_task, call);
}

void cpu_add_rows(struct stream *stream, float *out, const float *table, uint32_t rows, const uint32_t *ids, uint32_t n,
                  uint32_t dim) {
    const struct add_rows_call call = {out, table, ids, rows, n, dim};
    cpu_enqueue(stream, run_add_rows, &call, sizeof call);
}
