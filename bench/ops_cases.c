/* Which calls `metronome bench ops` times, with what they move and compute: matmuls of every packed type, attention at
 * several contexts, and the ops that work row by row. A new op of kernels/ops.h is a row in a table here.
 * Threads: one. */
#include "base/check.h"
#include "bench/ops_bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FEW_ROWS 16 /* sequences that decode */
#define FOOTPRINT_CPU ((size_t)128 << 20)
#define FOOTPRINT_CUDA ((size_t)512 << 20)
#define MOST_COPIES 1024
#define MOST_PARTS 3

/* Bytes that are there in several copies, or together, so that they come from memory and from no cache. */
static size_t wanted_footprint(const struct ops_bench *bench) {
    return bench->order->quick ? 0 : device_info(bench->device).isa ? FOOTPRINT_CPU : FOOTPRINT_CUDA;
}

/* ---- matmul ---- */

struct matrices {
    const char *name;
    enum tensor_type type;
    uint32_t columns, parts, rows[MOST_PARTS];
    bool head;
};

struct matmul_context {
    uint32_t parts, copies, columns;
    struct matmul_part part[]; /* (copies, parts) */
};

static void enqueue_matmul(struct ops_bench *bench, const struct ops_call *call) {
    const struct matmul_context *context = call->context;
    op_matmul(bench->stream, &context->part[(size_t)(bench->turn % context->copies) * context->parts], context->parts,
              bench->x, context->columns, call->rows);
}

static size_t bytes_of(const struct ops_bench *bench, const struct matrices *matrices, uint32_t part) {
    return device_packed_bytes(bench->device, matrices->type, matrices->rows[part], matrices->columns);
}

/* One matrix of random codes, packed, in host memory that the caller frees. */
static struct status pack_matrix(const struct ops_bench *bench, const struct matrices *matrices, uint32_t part,
                                 uint8_t **out) {
    const size_t file_bytes = tensor_row_bytes(matrices->type, matrices->columns) * matrices->rows[part];
    uint8_t *file = malloc(file_bytes), *packed = aligned_alloc(64, bytes_of(bench, matrices, part));
    if (file == NULL || packed == NULL) {
        free(file);
        free(packed);
        return status_error(STATUS_NO_MEMORY, "no memory for a %u x %u matrix", matrices->rows[part],
                            matrices->columns);
    }
    for (size_t done = 0; done < file_bytes; done += OPS_PATTERN_BYTES) {
        const size_t left = file_bytes - done;
        memcpy(file + done, bench->pattern, left < OPS_PATTERN_BYTES ? left : OPS_PATTERN_BYTES);
    }
    device_pack(bench->device, matrices->type, matrices->rows[part], matrices->columns, file, packed);
    free(file);
    *out = packed;
    return STATUS_SUCCESS;
}

/* Packs each matrix once, and puts as many copies on the device as make up the footprint. */
static struct status place_matrices(struct ops_bench *bench, const struct matrices *matrices,
                                    struct matmul_context *context) {
    float *out = bench->out;
    for (uint32_t i = 0; i < matrices->parts; i++) {
        const size_t bytes = bytes_of(bench, matrices, i);
        uint8_t *weights = NULL, *packed = NULL;
        TRY(ops_alloc(bench, bytes * context->copies, &weights));
        TRY(pack_matrix(bench, matrices, i, &packed));
        struct status status = STATUS_SUCCESS;
        for (uint32_t copy = 0; copy < context->copies && !status_failed(&status); copy++) {
            context->part[(size_t)copy * context->parts + i] = (struct matmul_part){
                .weight = {weights + copy * bytes, matrices->type, matrices->rows[i], matrices->columns},
                .out = out,
                .out_stride = matrices->rows[i]};
            status = ops_upload(bench, weights + copy * bytes, packed, bytes);
        }
        free(packed);
        TRY(status);
        out += (size_t)bench->rows * matrices->rows[i];
    }
    return STATUS_SUCCESS;
}

static enum ops_arithmetic arithmetic_of(const struct ops_bench *bench, enum tensor_type type) {
    return bench->order->device.compute == COMPUTE_INT8 && type >= TENSOR_Q8_0 ? OPS_INT8 : OPS_F32;
}

static struct status time_matmul(struct ops_bench *bench, const struct matrices *matrices,
                                 const struct matmul_context *context, uint32_t n) {
    size_t weights = 0;
    double outputs = 0;
    char shape[64];
    struct ops_call call = {.op = "matmul",
                            .shape = shape,
                            .rows = n,
                            .arithmetic = arithmetic_of(bench, matrices->type),
                            .enqueue = enqueue_matmul,
                            .context = context};
    for (uint32_t i = 0; i < matrices->parts; i++) {
        weights += bytes_of(bench, matrices, i);
        outputs += matrices->rows[i];
        call.arithmetic_s +=
            bench->cublas.handle && n > FEW_ROWS
                ? cublas_limit_seconds(bench->device, &bench->cublas, matrices->rows[i], matrices->columns, n)
                : 0;
    }
    snprintf(shape, sizeof shape, "%s %s, %.0f x %u", tensor_traits(matrices->type)->name, matrices->name, outputs,
             matrices->columns);
    call.bytes = (double)weights + sizeof(float) * n * (matrices->columns + outputs);
    call.operations = 2.0 * n * matrices->columns * outputs;
    call.footprint = weights * context->copies;
    return ops_time(bench, &call);
}

static struct status measure_matmul(struct ops_bench *bench, const struct matrices *matrices, const uint32_t *counts,
                                    uint32_t count) {
    size_t all = 0;
    for (uint32_t i = 0; i < matrices->parts; i++) {
        all += bytes_of(bench, matrices, i);
    }
    CHECK(all > 0);
    size_t copies = wanted_footprint(bench) / all + 1;
    copies = copies < MOST_COPIES ? copies : MOST_COPIES;
    struct matmul_context *context = malloc(sizeof *context + copies * matrices->parts * sizeof context->part[0]);
    if (context == NULL) {
        return status_error(STATUS_NO_MEMORY, "no memory for %zu matrices", copies);
    }
    context->copies = (uint32_t)copies;
    context->parts = matrices->parts;
    context->columns = matrices->columns;
    struct status status = place_matrices(bench, matrices, context);
    for (uint32_t i = 0; i < count && !status_failed(&status); i++) {
        if (counts[i] <= bench->rows && (!matrices->head || counts[i] <= FEW_ROWS)) {
            status = time_matmul(bench, matrices, context, counts[i]);
        }
    }
    free(context);
    return status;
}

/* Matrix `index` of a layer, or the head, in the type that is asked for. */
static struct status measure_own(struct ops_bench *bench, uint32_t index) {
    static const uint32_t counts[] = {1, 2, 4, 8, FEW_ROWS, 32, 128, 512, 2048};
    const struct model_shape *shape = &bench->order->shape;
    const enum tensor_type type = bench->order->type;
    const uint32_t heads = shape->query_heads * shape->head_dim, kv = shape->kv_heads * shape->head_dim;
    const struct matrices all[] = {
        {"q, k, v", type, shape->width, 3, {heads, kv, kv}, false},
        {"attention out", type, heads, 1, {shape->width}, false},
        {"gate, up", type, shape->width, 2, {shape->feed_forward, shape->feed_forward}, false},
        {"down", type, shape->feed_forward, 1, {shape->width}, false},
        {"head", type < TENSOR_Q8_0 ? type : TENSOR_Q8_0, shape->width, 1, {shape->vocabulary}, true},
    };
    return measure_matmul(bench, &all[index], counts, sizeof counts / sizeof counts[0]);
}

/* The matrix with the most columns, in any type: those of some are 256 and more. */
static struct status measure_type(struct ops_bench *bench, uint32_t type) {
    static const uint32_t counts[] = {1, FEW_ROWS, 512};
    const struct model_shape *shape = &bench->order->shape;
    const struct matrices down = {"down", (enum tensor_type)type, shape->feed_forward, 1, {shape->width}, false};
    if (type == bench->order->type || shape->feed_forward % tensor_traits(down.type)->block_elements != 0) {
        return STATUS_SUCCESS;
    }
    return measure_matmul(bench, &down, counts, sizeof counts / sizeof counts[0]);
}

/* ---- attention, and what stores keys and values ---- */

/* `sequences` of `context` tokens, the last `rows` of each at hand. */
static const struct kv_case {
    uint32_t sequences, context, rows;
} kv_cases[] = {{1, 128, 1},   {1, 1024, 1},  {1, 4096, 1},  {16, 256, 1},
                {16, 1024, 1}, {32, 8192, 1}, {1, 512, 512}, {1, 2048, 512}};
#define KV_CASES (sizeof kv_cases / sizeof kv_cases[0])

struct kv_context {
    struct kv_batch batch;
    struct kv_segment segments[64];
};

static void enqueue_attention(struct ops_bench *bench, const struct ops_call *call) {
    const struct kv_context *context = call->context;
    const struct model_shape *shape = &bench->order->shape;
    const size_t width = (size_t)shape->query_heads * shape->head_dim;
    op_attention(bench->stream, bench->out, width, bench->x, width, &context->batch,
                 bench->turn % context->batch.shape.layers, shape->query_heads, 0.1f, 0);
}

static void enqueue_kv_store(struct ops_bench *bench, const struct ops_call *call) {
    const struct kv_context *context = call->context;
    const size_t width = (size_t)context->batch.shape.kv_heads * context->batch.shape.head_dim;
    op_kv_store(bench->stream, &context->batch, bench->turn % context->batch.shape.layers, bench->x, width, bench->y,
                width);
}

/* Fills a cache, and what says where in it each sequence's blocks are. */
static struct status place_kv(struct ops_bench *bench, const struct kv_case *kv, struct kv_context *context) {
    struct kv_batch *batch = &context->batch;
    const size_t block_bytes = kv_block_bytes(&batch->shape);
    const uint32_t blocks = batch->table_stride * kv->sequences;
    uint8_t *cache = NULL;
    uint64_t *device_table = NULL;
    struct kv_segment *device_segments = NULL;
    TRY(ops_alloc(bench, block_bytes * blocks, &cache));
    TRY(ops_alloc(bench, blocks * sizeof *device_table, &device_table));
    TRY(ops_alloc(bench, sizeof context->segments, &device_segments));
    TRY(ops_fill(bench, cache, block_bytes * blocks));
    uint64_t *table = malloc(blocks * sizeof *table);
    if (table == NULL) {
        return status_error(STATUS_NO_MEMORY, "no memory for a table of %u blocks", blocks);
    }
    for (uint32_t i = 0; i < blocks; i++) {
        table[i] = (uint64_t)(uintptr_t)(cache + i * block_bytes);
    }
    const struct status status = ops_upload(bench, device_table, table, blocks * sizeof *table);
    free(table);
    TRY(status);
    for (uint32_t i = 0; i < kv->sequences; i++) {
        context->segments[i] = (struct kv_segment){i + 1, i * kv->rows, kv->rows, kv->context - kv->rows, i};
    }
    TRY(ops_upload(bench, device_segments, context->segments, sizeof context->segments));
    batch->segments = device_segments;
    batch->segments_host = context->segments;
    batch->block_table = device_table;
    return STATUS_SUCCESS;
}

static struct status measure_kv(struct ops_bench *bench, uint32_t index) {
    const struct model_shape *shape = &bench->order->shape;
    struct kv_case kv = kv_cases[index];
    if (bench->order->quick) {
        kv = (struct kv_case){kv.sequences < 2 ? 1 : 2, 64, kv.rows < 32 ? kv.rows : 32};
    }
    struct kv_context context = {.batch = {.shape = {1, shape->kv_heads, shape->head_dim, KV_F16},
                                           .segment_count = kv.sequences,
                                           .rows = kv.rows * kv.sequences,
                                           .table_stride = kv.context / KV_BLOCK_TOKENS}};
    struct kv_shape *own = &context.batch.shape;
    const size_t layer = kv_layer_bytes(own) * context.batch.table_stride * kv.sequences;
    if (layer > FOOTPRINT_CPU && device_info(bench->device).isa) {
        return STATUS_SUCCESS; /* a cache for machines of another size */
    }
    const size_t layers = wanted_footprint(bench) / layer + 1;
    own->layers = layers < shape->layers ? (uint32_t)layers : shape->layers;
    TRY(place_kv(bench, &kv, &context));

    char words[64];
    const double heads = (double)shape->query_heads * shape->head_dim, keys = (double)shape->kv_heads * shape->head_dim;
    const double pairs = kv.sequences * ((double)kv.rows * (kv.context - kv.rows) + kv.rows * (kv.rows + 1) / 2.0);
    snprintf(words, sizeof words, "%u of %u tokens, %u row%s each", kv.sequences, kv.context, kv.rows,
             kv.rows == 1 ? "" : "s");
    struct ops_call call = {.op = "attention",
                            .shape = words,
                            .rows = context.batch.rows,
                            .bytes = (double)layer + 2 * sizeof(float) * context.batch.rows * heads,
                            .operations = 4 * pairs * heads,
                            .footprint = layer * own->layers,
                            .arithmetic = OPS_F32,
                            .enqueue = enqueue_attention,
                            .context = &context};
    TRY(ops_time(bench, &call));
    call.op = "kv_store";
    call.bytes = 2 * (sizeof(float) + 2) * context.batch.rows * keys;
    call.operations = 0;
    call.enqueue = enqueue_kv_store;
    return ops_time(bench, &call);
}

/* ---- row by row ---- */

static void enqueue_rmsnorm(struct ops_bench *bench, const struct ops_call *call) {
    op_rmsnorm(bench->stream, bench->out, bench->x, bench->gain, 1e-5f, call->rows, call->dim);
}
static void enqueue_rmsnorm_add(struct ops_bench *bench, const struct ops_call *call) {
    op_rmsnorm_add(bench->stream, bench->out, bench->x, bench->gain, 1e-5f, call->rows, call->dim);
}
static void enqueue_layernorm(struct ops_bench *bench, const struct ops_call *call) {
    op_layernorm(bench->stream, bench->out, bench->x, bench->gain, bench->gain, 1e-5f, call->rows, call->dim);
}
static void enqueue_scale(struct ops_bench *bench, const struct ops_call *call) {
    op_scale(bench->stream, bench->y, 1, call->rows, call->dim);
}
static void enqueue_add_rows(struct ops_bench *bench, const struct ops_call *call) {
    op_add_rows(bench->stream, bench->out, bench->x, call->rows, bench->places, call->rows, call->dim);
}
static void enqueue_gather(struct ops_bench *bench, const struct ops_call *call) {
    op_gather(bench->stream, bench->out, bench->x, bench->places, call->rows, call->dim);
}
static void enqueue_gated(struct ops_bench *bench, const struct ops_call *call) {
    op_gated(bench->stream, ACTIVATION_SILU, bench->out, bench->x, bench->y, call->rows, call->dim);
}
static void enqueue_activate(struct ops_bench *bench, const struct ops_call *call) {
    op_activate(bench->stream, ACTIVATION_GELU_TANH, bench->out, bench->x, call->rows, call->dim);
}
static void enqueue_rope_angles(struct ops_bench *bench, const struct ops_call *call) {
    op_rope_angles(bench->stream, bench->out, bench->places, bench->gain, 1, call->rows, call->dim / 2);
}
static void enqueue_rope(struct ops_bench *bench, const struct ops_call *call) {
    const struct model_shape *shape = &bench->order->shape;
    op_rope(bench->stream, bench->y, call->dim, bench->angles, ROPE_HALVES, call->rows, shape->query_heads,
            shape->head_dim, shape->head_dim / 2);
}
static void enqueue_argmax(struct ops_bench *bench, const struct ops_call *call) {
    op_argmax(bench->stream, bench->largest, bench->out, call->rows, call->dim);
}

enum dim { DIM_WIDTH, DIM_FEED_FORWARD, DIM_HEADS, DIM_HEAD, DIM_VOCABULARY };

/* `moved` and `operations` are of a value: floats read and written, and what is done, a function like exp being one. */
static const struct row_op {
    const char *op;
    void (*enqueue)(struct ops_bench *bench, const struct ops_call *call);
    enum dim dim;
    double moved, operations;
} row_ops[] = {
    {"rmsnorm", enqueue_rmsnorm, DIM_WIDTH, 2, 4},
    {"rmsnorm_add", enqueue_rmsnorm_add, DIM_WIDTH, 3, 5},
    {"layernorm", enqueue_layernorm, DIM_WIDTH, 2, 8},
    {"scale", enqueue_scale, DIM_WIDTH, 2, 1},
    {"add_rows", enqueue_add_rows, DIM_WIDTH, 3, 1},
    {"gather", enqueue_gather, DIM_WIDTH, 2, 0},
    {"rope_angles", enqueue_rope_angles, DIM_HEAD, 1, 2},
    {"rope", enqueue_rope, DIM_HEADS, 2, 3},
    {"gated, silu", enqueue_gated, DIM_FEED_FORWARD, 3, 5},
    {"activate, gelu", enqueue_activate, DIM_FEED_FORWARD, 2, 9},
    {"argmax", enqueue_argmax, DIM_VOCABULARY, 1, 1},
};
#define ROW_OPS (sizeof row_ops / sizeof row_ops[0])

static struct status measure_rows(struct ops_bench *bench, uint32_t index) {
    const struct row_op *op = &row_ops[index];
    const struct model_shape *shape = &bench->order->shape;
    const uint32_t dims[] = {[DIM_WIDTH] = shape->width,
                             [DIM_FEED_FORWARD] = shape->feed_forward,
                             [DIM_HEADS] = shape->query_heads * shape->head_dim,
                             [DIM_HEAD] = shape->head_dim,
                             [DIM_VOCABULARY] = shape->vocabulary};
    const uint32_t counts[] = {1, FEW_ROWS, bench->rows};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        if (op->dim == DIM_VOCABULARY && counts[i] > FEW_ROWS) {
            continue; /* logits are taken of few rows */
        }
        char words[64];
        const double values = (double)counts[i] * dims[op->dim];
        snprintf(words, sizeof words, "%u", dims[op->dim]);
        const struct ops_call call = {.op = op->op,
                                      .shape = words,
                                      .rows = counts[i],
                                      .dim = dims[op->dim],
                                      .bytes = op->moved * sizeof(float) * values,
                                      .operations = op->operations * values,
                                      .footprint = (size_t)(op->moved * sizeof(float) * values),
                                      .arithmetic = OPS_F32,
                                      .enqueue = op->enqueue};
        TRY(ops_time(bench, &call));
    }
    return STATUS_SUCCESS;
}

static void enqueue_embed(struct ops_bench *bench, const struct ops_call *call) {
    const struct weight *table = call->context;
    op_embed(bench->stream, bench->out, *table, bench->ids, call->rows);
}

static struct status measure_embed(struct ops_bench *bench, uint32_t index) {
    (void)index;
    const struct model_shape *shape = &bench->order->shape;
    const uint32_t counts[] = {1, FEW_ROWS, bench->rows};
    struct weight table = {.type = bench->order->type < TENSOR_Q8_0 ? bench->order->type : TENSOR_Q8_0,
                           .rows = shape->vocabulary,
                           .columns = shape->width};
    const size_t bytes = device_packed_bytes(bench->device, table.type, table.rows, table.columns);
    void *data;
    TRY(ops_alloc(bench, bytes, &data));
    TRY(ops_fill(bench, data, bytes));
    table.data = data;
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        char words[64];
        const double values = (double)counts[i] * table.columns;
        snprintf(words, sizeof words, "%s, %u x %u", tensor_traits(table.type)->name, table.rows, table.columns);
        const struct ops_call call = {.op = "embed",
                                      .shape = words,
                                      .rows = counts[i],
                                      .bytes = values * ((double)bytes / table.rows / table.columns + sizeof(float)),
                                      .operations = values,
                                      .footprint = bytes,
                                      .arithmetic = OPS_F32,
                                      .enqueue = enqueue_embed,
                                      .context = &table};
        TRY(ops_time(bench, &call));
    }
    return STATUS_SUCCESS;
}

struct sample_context {
    struct sample_row rows[FEW_ROWS];
    struct sample_batch batch;
};
static void enqueue_sample(struct ops_bench *bench, const struct ops_call *call) {
    const struct sample_context *context = call->context;
    op_sample(bench->stream, bench->largest, bench->out, &context->batch, call->rows, call->dim);
}

static const struct {
    const char *words;
    uint32_t top_k;
    double top_p;
} draws[] = {{"at temperature 1", 0, 1}, {"top_p 0.9", 0, 0.9}, {"top_k 40, top_p 0.9", 40, 0.9}};
#define DRAWS (sizeof draws / sizeof draws[0])

/* A call must read the logits once and make a weight of each. */
static struct status measure_sample(struct ops_bench *bench, uint32_t index) {
    static const uint32_t counts[] = {1, FEW_ROWS};
    struct sample_context context;
    struct sample_row *on_device;
    for (uint32_t i = 0; i < FEW_ROWS; i++) {
        context.rows[i] = sample_plain_row();
        context.rows[i].inverse_temperature = 1;
        context.rows[i].random = random_u64(&bench->random);
        context.rows[i].top_k = draws[index].top_k;
        context.rows[i].top_p = draws[index].top_p < 1 ? (uint64_t)(draws[index].top_p * 0x1p64) : SAMPLE_ALL_MASS;
    }
    TRY(ops_alloc(bench, sizeof context.rows, &on_device));
    TRY(ops_upload(bench, on_device, context.rows, sizeof context.rows));
    context.batch = (struct sample_batch){.rows = on_device, .rows_host = context.rows};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        char words[64];
        const uint32_t vocabulary = bench->order->shape.vocabulary;
        const double values = (double)counts[i] * vocabulary;
        snprintf(words, sizeof words, "%u, %s", vocabulary, draws[index].words);
        const struct ops_call call = {.op = "sample",
                                      .shape = words,
                                      .rows = counts[i],
                                      .dim = vocabulary,
                                      .bytes = sizeof(float) * values,
                                      .operations = 4 * values,
                                      .footprint = (size_t)(sizeof(float) * values),
                                      .arithmetic = OPS_F32,
                                      .enqueue = enqueue_sample,
                                      .context = &context};
        TRY(ops_time(bench, &call));
    }
    return STATUS_SUCCESS;
}

/* ---- launches ---- */

#define CHAIN 456 /* as many kernels as an iteration of 30 layers has */

static void enqueue_chain(struct ops_bench *bench, const struct ops_call *call) {
    const bool *as_graph = call->context;
    if (*as_graph) {
        stream_repeat_begin(bench->stream);
    }
    for (int i = 0; i < CHAIN; i++) {
        op_scale(bench->stream, bench->y, 1, 1, call->dim);
    }
    if (*as_graph) {
        stream_repeat_end(bench->stream);
    }
}

/* What an iteration's kernels take to launch where they have next to nothing to do, one by one and as a graph; only
 * cuda has graphs. */
static struct status measure_chain(struct ops_bench *bench, uint32_t index) {
    const bool as_graph = index == 1;
    const uint32_t dim = 64;
    if (device_info(bench->device).isa) {
        return STATUS_SUCCESS;
    }
    char words[64];
    snprintf(words, sizeof words, "%d calls %s", CHAIN, as_graph ? "as a graph" : "one by one");
    const struct ops_call call = {.op = "scale",
                                  .shape = words,
                                  .rows = 1,
                                  .dim = dim,
                                  .bytes = 2.0 * sizeof(float) * dim * CHAIN,
                                  .operations = (double)dim * CHAIN,
                                  .footprint = 2 * sizeof(float) * dim,
                                  .arithmetic = OPS_F32,
                                  .enqueue = enqueue_chain,
                                  .context = &as_graph};
    return ops_time(bench, &call);
}

/* ---- all of it ---- */

static const struct group {
    struct status (*measure)(struct ops_bench *bench, uint32_t index);
    uint32_t count;
} groups[] = {{measure_own, 5},        {measure_type, TENSOR_TYPES}, {measure_kv, KV_CASES}, {measure_embed, 1},
              {measure_rows, ROW_OPS}, {measure_sample, DRAWS},      {measure_chain, 2}};

uint32_t ops_groups(void) {
    uint32_t count = 0;
    for (size_t i = 0; i < sizeof groups / sizeof groups[0]; i++) {
        count += groups[i].count;
    }
    return count;
}

struct status ops_measure_group(struct ops_bench *bench, uint32_t group) {
    size_t kind = 0;
    while (group >= groups[kind].count) {
        group -= groups[kind++].count;
    }
    return groups[kind].measure(bench, group);
}
