/* op_embed on the cpu device: rows of the packed table, dequantized exactly.
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
