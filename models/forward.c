/* The one forward pass of every family.
 *
 * Owns: the compute stream, and two allocations made once: device memory for an iteration's inputs, activations and
 * results, and pinned host memory that mirrors the inputs and receives the results. Nothing is allocated after
 * forward_create(). Does not own weights or KV blocks: layers are borrowed from the offload engine one at a time.
 * Threads: the engine's. */
#include "models/draw.h"
#include "models/model_internal.h"

#include "base/bytes.h"
#include "base/check.h"
#include "kernels/range.h"

#include <stdlib.h>
#include <string.h>

/* Where everything lies: offsets into the two allocations. The inputs come first in both, at the same offsets, the
 * block table last of them, so that one copy sends an iteration's inputs and no more of the table than it uses. */
struct places {
    uint32_t table_stride;
    size_t tokens, positions, logit_rows, segments, last_segments, block_table; /* both */
    size_t residual, normed, angles[ROPE_KINDS];                                /* device, a row for each token */
    size_t last_residual, last_normed, last_angles;                             /* device, a row for each logit row */
    size_t query, key, value, attention;                                        /* device; gone when ... */
    size_t gate, up;                                                            /* ... these take their place */
    struct draw_places draw;                                                    /* device and host */
    size_t device_bytes, host_bytes;
};

struct forward {
    struct model *model;
    struct device *device;
    struct offload *offload;
    struct forward_limits limits;
    struct kv_shape kv;
    struct places places;
    uint8_t *device_memory, *host_memory;
    struct stream *stream;
    struct event *begun, *ended, *copied; /* first op, last op, results on the host */
    struct forward_inputs inputs;
    struct draw draw;
};

/* Rows on their way through a layer. */
struct rows {
    uint32_t count;
    float *residual;           /* (count, width) */
    float *normed;             /* (count, width) */
    float *angles[ROPE_KINDS]; /* (count, rope_pairs, 2); the last rows have those of the last layer twice */
    struct kv_batch batch;
};

/* ---- places ---- */

static size_t reserve(size_t *end, size_t elements, size_t element_bytes) {
    size_t at = *end;
    *end += bytes_align(elements * element_bytes, 64); /* limits are 32-bit and shapes bounded: this cannot wrap */
    return at;
}

static struct places place(const struct model *model, const struct forward_limits *limits) {
    const struct model_shape *shape = &model->share;
    struct places p = {.table_stride = (limits->context + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS};
    const size_t rows = limits->rows, last = limits->logit_rows, f32 = sizeof(float), u32 = sizeof(uint32_t);
    const size_t query_width = (size_t)shape->query_heads * shape->head_dim;
    const size_t kv_width = (size_t)shape->kv_heads * shape->head_dim;
    size_t end = 0;
    p.tokens = reserve(&end, rows, u32);
    p.positions = reserve(&end, rows, u32);
    p.logit_rows = reserve(&end, last, u32);
    p.segments = reserve(&end, limits->sequences, sizeof(struct kv_segment));
    p.last_segments = reserve(&end, last, sizeof(struct kv_segment));
    p.block_table = reserve(&end, (size_t)limits->sequences * p.table_stride, sizeof(uint64_t));

    p.host_bytes = end;
    p.draw = draw_place(limits, shape->vocabulary, &end, &p.host_bytes);

    p.residual = reserve(&end, rows * shape->width, f32);
    p.normed = reserve(&end, rows * shape->width, f32);
    for (int kind = 0; kind < ROPE_KINDS; kind++) {
        const bool used = kind == ROPE_GLOBAL || model->pass.local_rope;
        p.angles[kind] = reserve(&end, used ? rows * shape->rope_pairs * 2 : 0, f32);
    }
    p.last_residual = reserve(&end, last * shape->width, f32);
    p.last_normed = reserve(&end, last * shape->width, f32);
    p.last_angles = reserve(&end, last * shape->rope_pairs * 2, f32);

    size_t attention_end = end, feed_forward_end = end;
    p.query = reserve(&attention_end, rows * query_width, f32);
    p.key = reserve(&attention_end, rows * kv_width, f32);
    p.value = reserve(&attention_end, rows * kv_width, f32);
    p.attention = reserve(&attention_end, rows * query_width, f32);
    p.gate = reserve(&feed_forward_end, rows * shape->feed_forward, f32);
    p.up = reserve(&feed_forward_end, rows * shape->feed_forward, f32);
    p.device_bytes = attention_end > feed_forward_end ? attention_end : feed_forward_end;
    return p;
}

size_t forward_device_bytes(const struct model *model, const struct forward_limits *limits) {
    return place(model, limits).device_bytes;
}

size_t forward_host_bytes(const struct model *model, const struct forward_limits *limits) {
    return place(model, limits).host_bytes;
}

/* ---- life ---- */

static struct status prepare_device(const struct forward *forward) {
    const struct model_shape *shape = &forward->model->share;
    uint32_t columns = shape->query_heads * shape->head_dim;
    columns = columns > shape->width ? columns : shape->width;
    columns = columns > shape->feed_forward ? columns : shape->feed_forward;
    /* The wanted rows of the last layer may form as many segments as there are of them. */
    const struct forward_limits *mine = &forward->limits;
    const uint32_t segments = mine->sequences > mine->logit_rows ? mine->sequences : mine->logit_rows;
    struct device_limits limits = {.rows = mine->rows,
                                   .columns = columns,
                                   .vocabulary = shape->vocabulary,
                                   .logit_rows = mine->logit_rows,
                                   .sequences = segments,
                                   .query_heads = shape->query_heads,
                                   .kv_heads = shape->kv_heads,
                                   .head_dim = shape->head_dim,
                                   .context = mine->context};
    return device_prepare(forward->device, &limits);
}

static struct status create(struct forward *forward) {
    const struct places *p = &forward->places;
    void *device_memory = NULL, *host_memory = NULL;
    TRY(prepare_device(forward));
    TRY(device_alloc(forward->device, p->device_bytes, "activations", &device_memory));
    forward->device_memory = device_memory;
    TRY(device_alloc_host(forward->device, p->host_bytes, "an iteration's inputs and results", &host_memory));
    forward->host_memory = host_memory;
    TRY(stream_create(forward->device, STREAM_COMPUTE, &forward->stream));
    TRY(event_create(forward->device, &forward->begun));
    TRY(event_create(forward->device, &forward->ended));
    TRY(event_create(forward->device, &forward->copied));
    uint8_t *host = forward->host_memory;
    forward->inputs = (struct forward_inputs){.tokens = (uint32_t *)(host + p->tokens),
                                              .positions = (uint32_t *)(host + p->positions),
                                              .segments = (struct kv_segment *)(host + p->segments),
                                              .block_table = (uint64_t *)(host + p->block_table),
                                              .table_stride = p->table_stride,
                                              .logit_rows = (uint32_t *)(host + p->logit_rows),
                                              .samples = (struct sample_row *)(host + p->draw.host_rows),
                                              .changes = calloc(forward->limits.logit_rows, sizeof(void *))};
    forward->draw = (struct draw){.device = forward->device,
                                  .stream = forward->stream,
                                  .device_memory = forward->device_memory,
                                  .host_memory = forward->host_memory,
                                  .places = p->draw,
                                  .vocabulary = forward->model->shape.vocabulary,
                                  .room = draw_room(&forward->limits, forward->model->shape.vocabulary),
                                  .keeps_logits = forward->limits.logits};
    return forward->inputs.changes ? STATUS_SUCCESS : status_error(STATUS_NO_MEMORY, "no memory for a forward pass");
}

struct status forward_create(struct model *model, struct device *device, struct offload *offload,
                             const struct forward_limits *limits, enum kv_type kv_type, struct forward **out) {
    CHECK(model->device == device); /* loaded, and onto this device */
    CHECK(limits->rows > 0 && limits->logit_rows > 0 && limits->sequences > 0 && limits->context > 0);
    struct forward *forward = calloc(1, sizeof *forward);
    if (forward == NULL) {
        return status_error(STATUS_NO_MEMORY, "no memory for a forward pass");
    }
    *forward = (struct forward){.model = model,
                                .device = device,
                                .offload = offload,
                                .limits = *limits,
                                .kv = model_kv_shape(model, kv_type),
                                .places = place(model, limits)};
    struct status status = create(forward);
    if (status_failed(&status)) {
        forward_destroy(forward);
        return status;
    }
    *out = forward;
    return STATUS_SUCCESS;
}

void forward_destroy(struct forward *forward) {
    if (forward == NULL) {
        return;
    }
    stream_destroy(forward->stream);
    struct event *events[] = {forward->begun, forward->ended, forward->copied};
    for (size_t i = 0; i < sizeof events / sizeof events[0]; i++) {
        if (events[i] != NULL) {
            event_destroy(events[i]);
        }
    }
    if (forward->host_memory != NULL) {
        device_free_host(forward->device, forward->host_memory);
    }
    if (forward->device_memory != NULL) {
        device_free(forward->device, forward->device_memory);
    }
    free(forward->inputs.changes);
    free(forward);
}

struct forward_inputs *forward_inputs(struct forward *forward) {
    return &forward->inputs;
}

struct stream *forward_stream(const struct forward *forward) {
    return forward->stream;
}

/* ---- one layer ---- */

static float *floats(const struct forward *forward, size_t place) {
    return (float *)(forward->device_memory + place);
}

/* A layer while it is on the device: its layout, and where its slabs are this time. */
struct layer {
    uint32_t index;
    const struct layer_layout *layout;
    const uint8_t *const *slabs;
};

static const float *layer_vector(const struct layer *layer, enum layer_tensor i) {
    return layer->layout->tensor[i].rows > 0 ? (const float *)(layer->slabs[0] + layer->layout->piece[i].offset) : NULL;
}

static uint32_t matrix_rows(const struct layer *layer, enum layer_tensor i) {
    return layer->layout->tensor[i].rows;
}

#define MOST_PRODUCTS 3 /* matrices that share an input */

/* The product of a layer's matrix with a whole row, written or added to rows of its own width. */
struct product {
    enum layer_tensor matrix;
    const float *bias;
    float *out;
    bool accumulate;
};

/* Products of one input on their way into an op. */
struct products {
    struct product product[MOST_PRODUCTS];
    uint32_t count;
};

static void add_product(struct products *products, const struct layer *layer, enum layer_tensor matrix,
                        enum layer_tensor bias, float *out, bool accumulate) {
    CHECK(products->count < MOST_PRODUCTS);
    products->product[products->count++] =
        (struct product){.matrix = matrix, .bias = layer_vector(layer, bias), .out = out, .accumulate = accumulate};
}

/* The parts of the products, slab by slab, for so they lie in memory; returns how many. */
static uint32_t parts_of(const struct forward *forward, const struct layer *layer, const struct products *products,
                         struct matmul_part parts[MATMUL_MAX_PARTS]) {
    const uint32_t slabs = forward->model->slabs;
    uint32_t count = 0;
    for (uint32_t slab = 0; slab < slabs; slab++) {
        for (uint32_t i = 0; i < products->count; i++) {
            const struct product *product = &products->product[i];
            const struct slab_piece *piece = &layer->layout->piece[slab * LAYER_TENSORS + product->matrix];
            if (piece->count == 0) {
                continue;
            }
            CHECK(count < MATMUL_MAX_PARTS);
            const struct model_tensor *tensor = &layer->layout->tensor[product->matrix];
            parts[count++] =
                (struct matmul_part){.weight = layout_weight(tensor, piece->count, layer->slabs[slab] + piece->offset),
                                     .bias = product->bias ? product->bias + piece->first : NULL,
                                     .out = product->out + piece->first,
                                     .out_stride = tensor->rows,
                                     .accumulate = product->accumulate};
        }
    }
    return count;
}

static void multiply(const struct forward *forward, const struct layer *layer, const struct products *products,
                     const float *x, uint32_t n) {
    struct matmul_part parts[MATMUL_MAX_PARTS];
    const uint32_t count = parts_of(forward, layer, products, parts);
    if (count > 0) {
        op_matmul(forward->stream, parts, count, x, parts[0].weight.columns, n);
    }
}

/* The family's norm of `count` rows of the width. */
static void normalize(const struct forward *forward, float *out, const float *x, const float *gain, const float *bias,
                      uint32_t count) {
    const struct model_shape *shape = &forward->model->share;
    if (forward->model->family->norm == NORM_LAYER) {
        op_layernorm(forward->stream, out, x, gain, bias, shape->norm_epsilon, count, shape->width);
    } else {
        op_rmsnorm(forward->stream, out, x, gain, shape->norm_epsilon, count, shape->width);
    }
}

/* Which angles a layer rotates by. */
static enum rope_kind rope_kind(const struct forward *forward, const struct layer *layer) {
    const struct pass *pass = &forward->model->pass;
    return pass->local_rope && pass->window[layer->index] > 0 ? ROPE_LOCAL : ROPE_GLOBAL;
}

/* Normalizes queries or keys head by head, in families that do, and rotates them. */
static void finish_heads(const struct forward *forward, const struct layer *layer, enum layer_tensor matrix,
                         enum layer_tensor norm, const struct rows *rows, float *x, uint32_t heads) {
    const struct model_shape *shape = &forward->model->share;
    const float *gain = layer_vector(layer, norm);
    if (gain != NULL) {
        op_rmsnorm(forward->stream, x, x, gain, shape->norm_epsilon, rows->count * heads, shape->head_dim);
    }
    if (shape->rope_pairs > 0) {
        op_rope(forward->stream, x, matrix_rows(layer, matrix), rows->angles[rope_kind(forward, layer)],
                shape->rope_style, rows->count, heads, shape->head_dim, shape->rope_pairs);
    }
}

/* In the last layer only the rows go on whose results anybody reads. */
static void gather_wanted(struct forward *forward, const struct layer *layer, const struct rows *all,
                          const struct rows *wanted) {
    const struct model_shape *shape = &forward->model->share;
    const uint32_t *rows = (const uint32_t *)(forward->device_memory + forward->places.logit_rows);
    const enum rope_kind kind = rope_kind(forward, layer);
    op_gather(forward->stream, wanted->residual, all->residual, rows, wanted->count, shape->width);
    op_gather(forward->stream, wanted->normed, all->normed, rows, wanted->count, shape->width);
    if (shape->rope_pairs > 0) {
        op_gather(forward->stream, wanted->angles[kind], all->angles[kind], rows, wanted->count, shape->rope_pairs * 2);
    }
}

/* Queries of `wanted`, keys and values of `all`, rotated, and the keys and values stored. `wanted` is `all`, or in
 * the last layer the few rows of it whose results anybody reads, which are gathered here. */
static void run_queries_keys_values(struct forward *forward, const struct layer *layer, const struct rows *all,
                                    const struct rows *wanted) {
    const struct model_shape *shape = &forward->model->share;
    const struct places *p = &forward->places;
    float *query = floats(forward, p->query), *key = floats(forward, p->key), *value = floats(forward, p->value);
    struct products products;
    products.count = 0;
    normalize(forward, all->normed, all->residual, layer_vector(layer, LAYER_ATTENTION_NORM),
              layer_vector(layer, LAYER_ATTENTION_NORM_BIAS), all->count);
    if (wanted == all) {
        add_product(&products, layer, LAYER_QUERY, LAYER_QUERY_BIAS, query, false);
    }
    add_product(&products, layer, LAYER_KEY, LAYER_KEY_BIAS, key, false);
    add_product(&products, layer, LAYER_VALUE, LAYER_VALUE_BIAS, value, false);
    multiply(forward, layer, &products, all->normed, all->count);
    if (wanted != all) {
        gather_wanted(forward, layer, all, wanted);
        products.count = 0;
        add_product(&products, layer, LAYER_QUERY, LAYER_QUERY_BIAS, query, false);
        multiply(forward, layer, &products, wanted->normed, wanted->count);
    }
    finish_heads(forward, layer, LAYER_QUERY, LAYER_QUERY_NORM, wanted, query, shape->query_heads);
    finish_heads(forward, layer, LAYER_KEY, LAYER_KEY_NORM, all, key, shape->kv_heads);
    op_kv_store(forward->stream, &all->batch, layer->index, key, matrix_rows(layer, LAYER_KEY), value,
                matrix_rows(layer, LAYER_VALUE));
}

/* The product of x with the last matrix of a half of a layer, on its way into the residual: added as it is or, in
 * families with norms after the halves, by way of `normed`, whose rows nobody needs any more. Each rank has some
 * columns of the matrix, and what they give together is the product. */
static void add_to_residual(struct forward *forward, const struct layer *layer, enum layer_tensor matrix,
                            enum layer_tensor bias, enum layer_tensor post_norm, const struct rows *rows,
                            const float *x) {
    const struct model_shape *shape = &forward->model->share;
    const float *gain = layer_vector(layer, post_norm);
    float *out = gain ? rows->normed : rows->residual;
    struct products product;
    product.count = 0;
    add_product(&product, layer, matrix, bias, out, gain == NULL);
    struct matmul_part parts[MATMUL_MAX_PARTS];
    const uint32_t columns = layer->layout->tensor[matrix].columns, count = parts_of(forward, layer, &product, parts);
    op_matmul_partial(forward->stream, parts, count, x, columns, rows->count);
    op_all_reduce(forward->stream, out, rows->count, shape->width);
    if (gain != NULL) {
        op_rmsnorm_add(forward->stream, rows->residual, rows->normed, gain, shape->norm_epsilon, rows->count,
                       shape->width);
    }
}

/* Attention of `rows`, whose queries are ready, added to their residual. */
static void run_attention(struct forward *forward, const struct layer *layer, const struct rows *rows) {
    const struct model_shape *shape = &forward->model->share;
    const struct pass *pass = &forward->model->pass;
    const size_t query_width = (size_t)shape->query_heads * shape->head_dim;
    float *attention = floats(forward, forward->places.attention);
    op_attention(forward->stream, attention, query_width, floats(forward, forward->places.query), query_width,
                 &rows->batch, layer->index, shape->query_heads, pass->attention_scale, pass->window[layer->index]);
    add_to_residual(forward, layer, LAYER_ATTENTION_OUTPUT, LAYER_ATTENTION_OUTPUT_BIAS, LAYER_POST_ATTENTION_NORM,
                    rows, attention);
}

/* Two matrices with an activation between them, or three of which one is its gate (Shazeer, arXiv 2002.05202); added
 * to the residual of `rows`. */
static void run_feed_forward(struct forward *forward, const struct layer *layer, const struct rows *rows) {
    const struct model *model = forward->model;
    float *gate = floats(forward, forward->places.gate), *up = floats(forward, forward->places.up);
    const bool gated = layer->layout->tensor[LAYER_GATE].rows > 0;
    struct products products;
    products.count = 0;
    normalize(forward, rows->normed, rows->residual, layer_vector(layer, LAYER_FEED_FORWARD_NORM),
              layer_vector(layer, LAYER_FEED_FORWARD_NORM_BIAS), rows->count);
    if (gated) {
        add_product(&products, layer, LAYER_GATE, LAYER_GATE_BIAS, gate, false);
    }
    add_product(&products, layer, LAYER_UP, LAYER_UP_BIAS, up, false);
    multiply(forward, layer, &products, rows->normed, rows->count);
    if (gated) {
        op_gated(forward->stream, model->family->activation, up, gate, up, rows->count, model->share.feed_forward);
    } else {
        op_activate(forward->stream, model->family->activation, up, up, rows->count, model->share.feed_forward);
    }
    add_to_residual(forward, layer, LAYER_DOWN, LAYER_DOWN_BIAS, LAYER_POST_FEED_FORWARD_NORM, rows, up);
}

/* Streamed KV blocks are elsewhere in every layer. */
static void find_groups(const struct forward *forward, struct rows *rows) {
    memcpy(rows->batch.groups, offload_kv_groups(forward->offload), sizeof rows->batch.groups);
}

static void run_layer(struct forward *forward, uint32_t index, struct rows *all, struct rows *wanted) {
    range_begin("layer", index);
    const void *const *slabs = offload_acquire_layer(forward->offload, forward->stream, index);
    const struct layer layer = {
        .index = index, .layout = &forward->model->layers[index], .slabs = (const uint8_t *const *)slabs};
    find_groups(forward, all);
    find_groups(forward, wanted);
    run_queries_keys_values(forward, &layer, all, wanted);
    if (wanted->count > 0) {
        run_attention(forward, &layer, wanted);
        run_feed_forward(forward, &layer, wanted);
    }
    offload_release_layer(forward->offload, forward->stream, index);
    range_end();
}

/* ---- an iteration ---- */

static void check_inputs(const struct forward *forward) {
    const struct forward_inputs *in = &forward->inputs;
    const struct forward_limits *limits = &forward->limits;
    CHECK(in->rows > 0 && in->rows <= limits->rows);
    CHECK(in->segment_count > 0 && in->segment_count <= limits->sequences);
    CHECK(in->logit_count <= limits->logit_rows);
    for (uint32_t i = 0; i < in->rows; i++) {
        CHECK(in->tokens[i] < forward->model->shape.vocabulary && in->positions[i] < limits->context);
    }
    uint32_t rows = 0;
    for (uint32_t i = 0; i < in->segment_count; i++) {
        const struct kv_segment *segment = &in->segments[i];
        CHECK(segment->first_row == rows && segment->rows > 0 && segment->rows <= in->rows - rows);
        CHECK(segment->table < in->segment_count && in->positions[rows] == segment->first_position);
        rows += segment->rows;
    }
    CHECK(rows == in->rows);
    for (uint32_t i = 0; i < in->logit_count; i++) {
        CHECK(in->logit_rows[i] < in->rows && (i == 0 || in->logit_rows[i] > in->logit_rows[i - 1]));
    }
}

/* Writes the segments that the wanted rows form once gathered, one for each run of neighbours of a sequence, and
 * returns how many. */
static uint32_t stage_last_segments(struct forward *forward) {
    const struct forward_inputs *in = &forward->inputs;
    struct kv_segment *out = (struct kv_segment *)(forward->host_memory + forward->places.last_segments);
    uint32_t count = 0, from = 0;
    for (uint32_t i = 0; i < in->logit_count; i++) {
        uint32_t row = in->logit_rows[i];
        bool begins = count == 0 || row != in->logit_rows[i - 1] + 1;
        while (row >= in->segments[from].first_row + in->segments[from].rows) {
            from++;
            begins = true;
        }
        if (begins) {
            out[count] = in->segments[from];
            out[count].first_row = i;
            out[count].first_position += row - in->segments[from].first_row;
            out[count++].rows = 0;
        }
        out[count - 1].rows++;
    }
    return count;
}

static struct rows all_rows(const struct forward *forward) {
    const struct places *p = &forward->places;
    const struct forward_inputs *in = &forward->inputs;
    return (struct rows){
        .count = in->rows,
        .residual = floats(forward, p->residual),
        .normed = floats(forward, p->normed),
        .angles = {floats(forward, p->angles[ROPE_GLOBAL]), floats(forward, p->angles[ROPE_LOCAL])},
        .batch = {.shape = forward->kv,
                  .segments = (const struct kv_segment *)(forward->device_memory + p->segments),
                  .segments_host = in->segments,
                  .segment_count = in->segment_count,
                  .rows = in->rows,
                  .block_table = (const uint64_t *)(forward->device_memory + p->block_table),
                  .table_stride = p->table_stride},
    };
}

/* The rows whose logits are wanted, gathered: what is left of `all` in the last layer. */
static struct rows last_rows(struct forward *forward, const struct rows *all) {
    const struct places *p = &forward->places;
    struct rows rows = {.count = forward->inputs.logit_count,
                        .residual = floats(forward, p->last_residual),
                        .normed = floats(forward, p->last_normed),
                        .angles = {floats(forward, p->last_angles), floats(forward, p->last_angles)},
                        .batch = all->batch};
    rows.batch.segments = (const struct kv_segment *)(forward->device_memory + p->last_segments);
    rows.batch.segments_host = (const struct kv_segment *)(forward->host_memory + p->last_segments);
    rows.batch.segment_count = stage_last_segments(forward);
    rows.batch.rows = rows.count;
    return rows;
}

static struct weight global_weight(const struct model *model, enum global_tensor i) {
    return layout_weight(&model->global[i], model->global[i].rows, model->globals + model->global_offset[i]);
}

static const float *global_floats(const struct model *model, enum global_tensor i) {
    return model->global[i].rows > 0 ? (const float *)(model->globals + model->global_offset[i]) : NULL;
}

/* Embeddings of the iteration's tokens, where they are, and by which angles they are rotated. */
static void run_embedding(struct forward *forward, const struct rows *rows) {
    const struct model *model = forward->model;
    const struct model_shape *shape = &model->shape;
    const uint32_t *tokens = (const uint32_t *)(forward->device_memory + forward->places.tokens);
    const uint32_t *positions = (const uint32_t *)(forward->device_memory + forward->places.positions);
    op_embed(forward->stream, rows->residual, global_weight(model, GLOBAL_EMBEDDING), tokens, rows->count);
    if (model->pass.embedding_scale != 1) {
        op_scale(forward->stream, rows->residual, model->pass.embedding_scale, rows->count, shape->width);
    }
    if (model->family->learned_positions) {
        op_add_rows(forward->stream, rows->residual, global_floats(model, GLOBAL_POSITIONS),
                    model->global[GLOBAL_POSITIONS].rows, positions, rows->count, shape->width);
    }
    for (int kind = 0; kind < ROPE_KINDS && shape->rope_pairs > 0; kind++) {
        const float *frequency = (const float *)(model->globals + model->rope_offset[kind]);
        if (kind == ROPE_GLOBAL || model->pass.local_rope) {
            op_rope_angles(forward->stream, rows->angles[kind], positions, frequency,
                           kind == ROPE_GLOBAL ? shape->rope_magnitude : 1, rows->count, shape->rope_pairs);
        }
    }
}

/* Logits of `rows`, which are the wanted ones in order, and their tokens. */
static void run_head(struct forward *forward, const struct rows *rows) {
    const struct model *model = forward->model;
    const struct model_shape *shape = &model->shape;
    struct matmul_part head = {.weight = global_weight(model, shape->tied_head ? GLOBAL_EMBEDDING : GLOBAL_HEAD),
                               .out = floats(forward, forward->places.draw.logits),
                               .out_stride = shape->vocabulary};
    normalize(forward, rows->normed, rows->residual, global_floats(model, GLOBAL_NORM),
              global_floats(model, GLOBAL_NORM_BIAS), rows->count);
    op_matmul(forward->stream, &head, 1, rows->normed, shape->width, rows->count);
    draw_run(&forward->draw, &forward->inputs);
}

void forward_run(struct forward *forward, const bool *logits_wanted) {
    check_inputs(forward);
    const struct model_shape *shape = &forward->model->share;
    const struct forward_inputs *in = &forward->inputs;
    const struct places *p = &forward->places;
    struct rows all = all_rows(forward), last = last_rows(forward, &all);
    struct rows *wanted = last.count == all.count ? &all : &last;

    const size_t addresses = (size_t)in->segment_count * p->table_stride;
    const size_t input_bytes = p->block_table + addresses * sizeof(uint64_t);
    device_share(forward->device, forward->host_memory, p->block_table);
    device_share_table(forward->device, in->block_table, addresses);
    range_begin("iteration", in->rows);
    stream_repeat_begin(forward->stream);
    stream_copy(forward->stream, forward->device_memory, forward->host_memory, input_bytes, COPY_HOST_TO_DEVICE);
    draw_send(&forward->draw, &forward->inputs);
    event_record(forward->begun, forward->stream);
    run_embedding(forward, &all);
    for (uint32_t layer = 0; layer < shape->layers; layer++) {
        run_layer(forward, layer, &all, layer + 1 == shape->layers ? wanted : &all);
    }
    if (wanted->count > 0) {
        run_head(forward, wanted);
    }
    event_record(forward->ended, forward->stream);
    if (wanted->count > 0) {
        draw_copy(&forward->draw, in, logits_wanted);
    }
    event_record(forward->copied, forward->stream);
    stream_repeat_end(forward->stream);
    range_end();
}

struct status forward_wait(struct forward *forward) {
    TRY(event_sync(forward->copied));
    while (draw_more(&forward->draw, &forward->inputs)) {
        draw_copy(&forward->draw, &forward->inputs, NULL);
        event_record(forward->copied, forward->stream);
        TRY(event_sync(forward->copied));
    }
    return STATUS_SUCCESS;
}

uint32_t forward_token(const struct forward *forward, uint32_t logit_index) {
    CHECK(logit_index < forward->inputs.logit_count);
    return ((const uint32_t *)(forward->host_memory + forward->places.draw.host_tokens))[logit_index];
}

const struct sample_score *forward_score(const struct forward *forward, uint32_t logit_index) {
    CHECK(logit_index < forward->inputs.logit_count);
    const uint32_t score = forward->inputs.samples[logit_index].score;
    CHECK(score < forward->draw.scores);
    return (const struct sample_score *)(forward->host_memory + forward->places.draw.host_scores) + score;
}

const float *forward_logits(const struct forward *forward, uint32_t logit_index) {
    CHECK(forward->limits.logits && logit_index < forward->inputs.logit_count);
    return (const float *)(forward->host_memory + forward->places.draw.host_logits) +
           (size_t)logit_index * forward->model->shape.vocabulary;
}

uint64_t forward_sampling_rounds(const struct forward *forward) {
    return forward->draw.rounds;
}

uint64_t forward_elapsed_ns(const struct forward *forward) {
    return event_time_ns(forward->ended) - event_time_ns(forward->begun);
}
