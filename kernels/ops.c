/* The public face of the ops: checks shapes, which only a bug gets wrong, and calls through the backend's table.
 *
 * A call with no rows does nothing. Threads: the one that owns the device. */
#include "kernels/device_internal.h"

#include "base/check.h"

#include <stdint.h>

/* Ops run on compute streams: copy streams must stay free to run beside them. */
static const struct backend *backend_of(const struct stream *stream) {
    CHECK(stream->kind == STREAM_COMPUTE);
    return stream->device->backend;
}

static void check_weight(const struct weight *weight) {
    CHECK(weight->data && (uintptr_t)weight->data % 64 == 0);
    CHECK((unsigned)weight->type < TENSOR_TYPES && weight->rows > 0 && weight->columns > 0);
    CHECK(weight->columns % tensor_traits(weight->type)->block_elements == 0);
}

static void check_batch(const struct kv_batch *batch, uint32_t layer) {
    CHECK(layer < batch->shape.layers && batch->shape.kv_heads > 0 && batch->shape.head_dim > 0);
    CHECK(batch->shape.type == KV_F16 || batch->shape.type == KV_BF16);
    CHECK(batch->segments && batch->segments_host && batch->segment_count > 0 && batch->block_table);
}

void op_embed(struct stream *stream, float *out, struct weight table, const uint32_t *ids, uint32_t n) {
    const struct backend *backend = backend_of(stream);
    if (n > 0) {
        check_weight(&table);
        CHECK(out && ids);
        backend->embed(stream, out, table, ids, n);
    }
}

void op_add_rows(struct stream *stream, float *out, const float *table, uint32_t rows, const uint32_t *ids, uint32_t n,
                 uint32_t dim) {
    const struct backend *backend = backend_of(stream);
    if (n > 0) {
        CHECK(out && table && rows > 0 && ids && dim > 0);
        backend->add_rows(stream, out, table, rows, ids, n, dim);
    }
}

void op_scale(struct stream *stream, float *x, float factor, uint32_t n, uint32_t dim) {
    const struct backend *backend = backend_of(stream);
    if (n > 0) {
        CHECK(x && dim > 0);
        backend->scale(stream, x, factor, n, dim);
    }
}

void op_rmsnorm(struct stream *stream, float *out, const float *x, const float *gain, float epsilon, uint32_t n,
                uint32_t dim) {
    const struct backend *backend = backend_of(stream);
    if (n > 0) {
        CHECK(out && x && gain && dim > 0 && epsilon >= 0);
        backend->rmsnorm(stream, out, x, gain, epsilon, n, dim);
    }
}

void op_rmsnorm_add(struct stream *stream, float *out, const float *x, const float *gain, float epsilon, uint32_t n,
                    uint32_t dim) {
    const struct backend *backend = backend_of(stream);
    if (n > 0) {
        CHECK(out && x && out != x && gain && dim > 0 && epsilon >= 0);
        backend->rmsnorm_add(stream, out, x, gain, epsilon, n, dim);
    }
}

void op_layernorm(struct stream *stream, float *out, const float *x, const float *gain, const float *bias,
                  float epsilon, uint32_t n, uint32_t dim) {
    const struct backend *backend = backend_of(stream);
    if (n > 0) {
        CHECK(out && x && gain && bias && dim > 0 && epsilon >= 0);
        backend->layernorm(stream, out, x, gain, bias, epsilon, n, dim);
    }
}

static void check_parts(const struct matmul_part *parts, uint32_t count, const float *x, size_t x_stride) {
    CHECK(parts && count > 0 && count <= MATMUL_MAX_PARTS);
    for (uint32_t i = 0; i < count; i++) {
        check_weight(&parts[i].weight);
        CHECK(parts[i].out && parts[i].out_stride >= parts[i].weight.rows);
        CHECK(parts[i].weight.columns == parts[0].weight.columns);
    }
    CHECK(x && x_stride >= parts[0].weight.columns);
}

void op_matmul(struct stream *stream, const struct matmul_part *parts, uint32_t count, const float *x, size_t x_stride,
               uint32_t n) {
    const struct backend *backend = backend_of(stream);
    if (n > 0) {
        check_parts(parts, count, x, x_stride);
        backend->matmul(stream, parts, count, x, x_stride, n);
    }
}

void op_matmul_partial(struct stream *stream, const struct matmul_part *parts, uint32_t count, const float *x,
                       size_t x_stride, uint32_t n) {
    const struct backend *backend = backend_of(stream);
    if (n > 0) {
        check_parts(parts, count, x, x_stride);
        (backend->matmul_partial ? backend->matmul_partial : backend->matmul)(stream, parts, count, x, x_stride, n);
    }
}

void op_all_reduce(struct stream *stream, float *x, uint32_t n, uint32_t dim) {
    const struct backend *backend = backend_of(stream);
    if (n > 0 && backend->all_reduce) {
        CHECK(x && dim > 0);
        backend->all_reduce(stream, x, n, dim);
    }
}

void op_rope_angles(struct stream *stream, float *angles, const uint32_t *positions, const float *frequency,
                    float magnitude, uint32_t n, uint32_t pairs) {
    const struct backend *backend = backend_of(stream);
    if (n > 0) {
        CHECK(angles && positions && frequency && pairs > 0);
        backend->rope_angles(stream, angles, positions, frequency, magnitude, n, pairs);
    }
}

void op_rope(struct stream *stream, float *x, size_t x_stride, const float *angles, enum rope_style style, uint32_t n,
             uint32_t heads, uint32_t head_dim, uint32_t pairs) {
    const struct backend *backend = backend_of(stream);
    if (n > 0) {
        CHECK(x && angles && heads > 0 && pairs > 0 && pairs <= head_dim / 2);
        CHECK(x_stride >= (size_t)heads * head_dim);
        CHECK(style == ROPE_INTERLEAVED || style == ROPE_HALVES);
        backend->rope(stream, x, x_stride, angles, style, n, heads, head_dim, pairs);
    }
}

void op_kv_store(struct stream *stream, const struct kv_batch *batch, uint32_t layer, const float *k, size_t k_stride,
                 const float *v, size_t v_stride) {
    const struct backend *backend = backend_of(stream);
    if (batch->rows > 0) {
        size_t width = (size_t)batch->shape.kv_heads * batch->shape.head_dim;
        check_batch(batch, layer);
        CHECK(k && v && k_stride >= width && v_stride >= width);
        backend->kv_store(stream, batch, layer, k, k_stride, v, v_stride);
    }
}

void op_attention(struct stream *stream, float *out, size_t out_stride, const float *q, size_t q_stride,
                  const struct kv_batch *batch, uint32_t layer, uint32_t query_heads, float scale, uint32_t window) {
    const struct backend *backend = backend_of(stream);
    if (batch->rows > 0) {
        size_t width = (size_t)query_heads * batch->shape.head_dim;
        check_batch(batch, layer);
        CHECK(query_heads > 0 && query_heads % batch->shape.kv_heads == 0);
        CHECK(out && q && out_stride >= width && q_stride >= width);
        backend->attention(stream, out, out_stride, q, q_stride, batch, layer, query_heads, scale, window);
    }
}

void op_gated(struct stream *stream, enum activation activation, float *out, const float *gate, const float *up,
              uint32_t n, uint32_t dim) {
    const struct backend *backend = backend_of(stream);
    if (n > 0) {
        CHECK(out && gate && up && dim > 0 && (unsigned)activation < ACTIVATIONS);
        backend->gated(stream, activation, out, gate, up, n, dim);
    }
}

void op_activate(struct stream *stream, enum activation activation, float *out, const float *x, uint32_t n,
                 uint32_t dim) {
    const struct backend *backend = backend_of(stream);
    if (n > 0) {
        CHECK(out && x && dim > 0 && (unsigned)activation < ACTIVATIONS);
        backend->activate(stream, activation, out, x, n, dim);
    }
}

void op_gather(struct stream *stream, float *out, const float *x, const uint32_t *rows, uint32_t n, uint32_t dim) {
    const struct backend *backend = backend_of(stream);
    if (n > 0) {
        CHECK(out && x && rows && dim > 0);
        backend->gather(stream, out, x, rows, n, dim);
    }
}

void op_argmax(struct stream *stream, uint32_t *out, const float *logits, uint32_t n, uint32_t vocabulary) {
    const struct backend *backend = backend_of(stream);
    if (n > 0) {
        CHECK(out && logits && vocabulary > 0);
        backend->argmax(stream, out, logits, n, vocabulary);
    }
}

static void check_sample_row(const struct sample_batch *batch, const struct sample_row *row, uint32_t vocabulary) {
    CHECK(row->inverse_temperature >= 0 && row->least_weight >= 1 && row->repetition > 0);
    CHECK(row->change_count == 0 || batch->changes);
    CHECK(row->target == SAMPLE_DRAW || row->target < vocabulary);
    CHECK(row->score == SAMPLE_NO_SCORE || (batch->scores && row->top <= SAMPLE_MOST_TOP));
}

void op_sample(struct stream *stream, uint32_t *out, float *logits, const struct sample_batch *batch, uint32_t n,
               uint32_t vocabulary) {
    const struct backend *backend = backend_of(stream);
    if (n > 0) {
        CHECK(out && logits && batch->rows && batch->rows_host && vocabulary > 0 && vocabulary <= SAMPLE_MOST_TOKENS);
        for (uint32_t i = 0; i < n; i++) {
            check_sample_row(batch, &batch->rows_host[batch->first + i], vocabulary);
        }
        backend->sample(stream, out, logits, batch, n, vocabulary);
    }
}
