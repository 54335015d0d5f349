/* The ops of the `sim` device: their costs, and the tokens that stand for what they would have computed.
 *
 * Tokens are decided when an op is enqueued, from data that small copies moved when they were: in the order of the
 * calls, which is one of the orders that the streams allow. Threads: the device's. */
#include "kernels/reference/reference.h"
#include "kernels/sample_math.h"
#include "kernels/sim/sim_internal.h"

#include "base/check.h"

#include <stdlib.h>
#include <string.h>

static const struct cost_model *cost_of(const struct stream *stream) {
    return &sim_of(stream)->cost;
}

/* ---- ops that only take time ---- */

void sim_embed(struct stream *stream, float *out, struct weight table, const uint32_t *ids, uint32_t n) {
    (void)out, (void)ids;
    sim_busy(stream, SIM_EMBED, cost_embed_ns(cost_of(stream), table.type, table.columns, n));
}

void sim_add_rows(struct stream *stream, float *out, const float *table, uint32_t rows, const uint32_t *ids, uint32_t n,
                  uint32_t dim) {
    (void)out, (void)table, (void)rows, (void)ids;
    sim_busy(stream, SIM_ADD_ROWS, cost_add_rows_ns(cost_of(stream), n, dim));
}

void sim_scale(struct stream *stream, float *x, float factor, uint32_t n, uint32_t dim) {
    (void)x, (void)factor;
    sim_busy(stream, SIM_SCALE, cost_activate_ns(cost_of(stream), n, dim));
}

void sim_rmsnorm(struct stream *stream, float *out, const float *x, const float *gain, float epsilon, uint32_t n,
                 uint32_t dim) {
    (void)out, (void)x, (void)gain, (void)epsilon;
    sim_busy(stream, SIM_RMSNORM, cost_rmsnorm_ns(cost_of(stream), n, dim));
}

void sim_rmsnorm_add(struct stream *stream, float *out, const float *x, const float *gain, float epsilon, uint32_t n,
                     uint32_t dim) {
    (void)out, (void)x, (void)gain, (void)epsilon;
    sim_busy(stream, SIM_RMSNORM_ADD, cost_rmsnorm_add_ns(cost_of(stream), n, dim));
}

void sim_layernorm(struct stream *stream, float *out, const float *x, const float *gain, const float *bias,
                   float epsilon, uint32_t n, uint32_t dim) {
    (void)out, (void)x, (void)gain, (void)bias, (void)epsilon;
    sim_busy(stream, SIM_LAYERNORM, cost_rmsnorm_ns(cost_of(stream), n, dim));
}

void sim_matmul(struct stream *stream, const struct matmul_part *parts, uint32_t count, const float *x, size_t x_stride,
                uint32_t n) {
    (void)x, (void)x_stride;
    sim_busy(stream, SIM_MATMUL, cost_matmul_ns(cost_of(stream), parts, count, n));
}

void sim_rope_angles(struct stream *stream, float *angles, const uint32_t *positions, const float *frequency,
                     float magnitude, uint32_t n, uint32_t pairs) {
    (void)angles, (void)positions, (void)frequency, (void)magnitude;
    sim_busy(stream, SIM_ROPE_ANGLES, cost_rope_angles_ns(cost_of(stream), n, pairs));
}

void sim_rope(struct stream *stream, float *x, size_t x_stride, const float *angles, enum rope_style style, uint32_t n,
              uint32_t heads, uint32_t head_dim, uint32_t pairs) {
    (void)x, (void)x_stride, (void)angles, (void)style;
    sim_busy(stream, SIM_ROPE, cost_rope_ns(cost_of(stream), n, heads, head_dim, pairs));
}

void sim_kv_store(struct stream *stream, const struct kv_batch *batch, uint32_t layer, const float *k, size_t k_stride,
                  const float *v, size_t v_stride) {
    (void)layer, (void)k, (void)k_stride, (void)v, (void)v_stride;
    sim_busy(stream, SIM_KV_STORE, cost_kv_store_ns(cost_of(stream), &batch->shape, batch->rows));
}

void sim_gated(struct stream *stream, enum activation activation, float *out, const float *gate, const float *up,
               uint32_t n, uint32_t dim) {
    (void)activation, (void)out, (void)gate, (void)up;
    sim_busy(stream, SIM_GATED, cost_gated_ns(cost_of(stream), n, dim));
}

void sim_activate(struct stream *stream, enum activation activation, float *out, const float *x, uint32_t n,
                  uint32_t dim) {
    (void)activation, (void)out, (void)x;
    sim_busy(stream, SIM_ACTIVATE, cost_activate_ns(cost_of(stream), n, dim));
}

void sim_all_reduce(struct stream *stream, float *x, uint32_t n, uint32_t dim) {
    (void)x;
    const uint32_t ranks = sim_of(stream)->ranks;
    if (ranks > 1) {
        sim_busy(stream, SIM_ALL_REDUCE, cost_all_reduce_ns(cost_of(stream), ranks, n, dim));
    }
}

/* ---- ops that say which rows there are ---- */

/* Whether `batch` is the one that the latest attention, of a layer below, had: segments do not change while an
 * iteration runs, so what it cost then it costs now. */
static bool same_batch(const struct sim_tokens *tokens, const struct kv_batch *batch, uint32_t layer,
                       uint32_t query_heads, uint32_t window) {
    const struct kv_batch *before = &tokens->batch;
    return layer > tokens->layer && batch->segments_host == before->segments_host &&
           batch->segment_count == before->segment_count && batch->rows == before->rows &&
           query_heads == tokens->query_heads && window == tokens->window &&
           batch->shape.kv_heads == before->shape.kv_heads && batch->shape.head_dim == before->shape.head_dim;
}

void sim_attention(struct stream *stream, float *out, size_t out_stride, const float *q, size_t q_stride,
                   const struct kv_batch *batch, uint32_t layer, uint32_t query_heads, float scale, uint32_t window) {
    (void)out, (void)out_stride, (void)q, (void)q_stride, (void)scale;
    struct sim_tokens *tokens = &sim_of(stream)->tokens;
    if (!same_batch(tokens, batch, layer, query_heads, window)) {
        tokens->attention_ns = cost_attention_ns(cost_of(stream), &batch->shape, batch->segments_host,
                                                 batch->segment_count, query_heads, window);
        tokens->batch = *batch;
        tokens->query_heads = query_heads;
        tokens->window = window;
    }
    tokens->layer = layer;
    tokens->gathered = NULL;
    sim_busy(stream, SIM_ATTENTION, tokens->attention_ns);
}

void sim_gather(struct stream *stream, float *out, const float *x, const uint32_t *rows, uint32_t n, uint32_t dim) {
    (void)out, (void)x;
    struct sim_tokens *tokens = &sim_of(stream)->tokens;
    tokens->gathered = rows;
    tokens->gathered_count = n;
    sim_busy(stream, SIM_GATHER, cost_gather_ns(cost_of(stream), n, dim));
}

/* ---- tokens ---- */

/* The segment that has `row`, looked for from `hint` on: rows are mostly asked for in order. */
static const struct kv_segment *find_segment(const struct kv_batch *batch, uint32_t row, uint32_t *hint) {
    for (uint32_t i = 0; i < batch->segment_count; i++) {
        uint32_t index = (*hint + i) % batch->segment_count;
        const struct kv_segment *segment = &batch->segments_host[index];
        if (row >= segment->first_row && row - segment->first_row < segment->rows) {
            *hint = index;
            return segment;
        }
    }
    return NULL;
}

static uint32_t token_of(const struct sim_device *device, uint64_t sequence, uint64_t position, uint32_t vocabulary) {
    return (uint32_t)(random_hash(random_hash(device->seed, sequence), position) % vocabulary);
}

/* The token of logit row `i`. Without any attention yet, rows are the positions of sequence 0. */
static uint32_t next_token(const struct sim_device *device, uint32_t i, uint32_t vocabulary, uint32_t *hint) {
    const struct sim_tokens *tokens = &device->tokens;
    if (!tokens->batch.segments_host) {
        return token_of(device, 0, i, vocabulary);
    }
    CHECK(!tokens->gathered || i < tokens->gathered_count);
    uint32_t row = tokens->gathered ? tokens->gathered[i] : i;
    const struct kv_segment *segment = find_segment(&tokens->batch, row, hint);
    CHECK(segment); /* else the row is of no sequence */
    return token_of(device, segment->sequence, (uint64_t)segment->first_position + (row - segment->first_row),
                    vocabulary);
}

/* ---- logits ---- */

static void clear_marks(struct sim_tokens *tokens) {
    for (uint32_t i = 0; i < tokens->logit_rows; i++) {
        tokens->logits[(size_t)i * tokens->logit_columns + tokens->marked[i]] = 0;
    }
    tokens->logits = NULL;
    tokens->logit_rows = 0;
}

/* The token of each row from `first` on, and the logits that go with it, which stand for those that the head's matmul
 * wrote. */
static void mark_tokens(struct sim_device *device, uint32_t *out, const float *logits, uint32_t first, uint32_t n,
                        uint32_t vocabulary) {
    struct sim_tokens *tokens = &device->tokens;
    CHECK(n <= tokens->marked_capacity); /* device_prepare() */
    clear_marks(tokens);
    tokens->logits = (float *)(uintptr_t)logits + (size_t)first * vocabulary;
    tokens->logit_rows = n;
    tokens->logit_columns = vocabulary;
    uint32_t hint = 0;
    for (uint32_t i = 0; i < n; i++) {
        tokens->marked[i] = out[first + i] = next_token(device, first + i, vocabulary, &hint);
        tokens->logits[(size_t)i * vocabulary + tokens->marked[i]] = SIM_LOGIT;
    }
}

void sim_argmax(struct stream *stream, uint32_t *out, const float *logits, uint32_t n, uint32_t vocabulary) {
    struct sim_device *device = sim_of(stream);
    mark_tokens(device, out, logits, 0, n, vocabulary);
    sim_busy(stream, SIM_ARGMAX, cost_argmax_ns(&device->cost, n, vocabulary));
}

/* The most likely token where `changes` are in force; the row is as before afterwards. */
static uint32_t likeliest(float *logits, const struct sample_row *row, struct sample_change *changes,
                          uint32_t vocabulary) {
    for (uint32_t i = 0; i < row->change_count; i++) {
        CHECK(changes[i].token < vocabulary); /* else they were copied in one piece above SIM_MOVED_BYTES */
        const float logit = logits[changes[i].token];
        logits[changes[i].token] = sample_change(logit, &changes[i], row);
        changes[i].bias = logit;
    }
    uint32_t token;
    ref_argmax(&token, logits, 1, vocabulary);
    for (uint32_t i = 0; i < row->change_count; i++) {
        logits[changes[i].token] = changes[i].bias;
    }
    return token;
}

/* Of a row whose logits are 0 but for SIM_LOGIT at `marked`: the others weigh nothing. */
static void write_score(struct sample_score *score, uint32_t marked, uint32_t token, uint32_t top,
                        uint32_t vocabulary) {
    *score = (struct sample_score){.total = (uint64_t)SAMPLE_ONE,
                                   .largest = SIM_LOGIT,
                                   .logit = token == marked ? SIM_LOGIT : 0,
                                   .top_count = top < vocabulary ? top : vocabulary};
    for (uint32_t i = 0; i < score->top_count; i++) {
        const uint32_t other = i - 1 < marked ? i - 1 : i;
        score->top[i] = i == 0 ? (struct sample_top){marked, SIM_LOGIT} : (struct sample_top){other, 0};
    }
}

/* Chance is in the tokens already: whatever the temperature, the most likely is taken. */
void sim_sample(struct stream *stream, uint32_t *out, float *logits, const struct sample_batch *batch, uint32_t n,
                uint32_t vocabulary) {
    struct sim_device *device = sim_of(stream);
    mark_tokens(device, out, logits, batch->first, n, vocabulary);
    for (uint32_t i = batch->first; i < batch->first + n; i++) {
        const struct sample_row *row = &batch->rows_host[i];
        const uint32_t marked = out[i];
        if (row->target != SAMPLE_DRAW) {
            out[i] = row->target;
        } else if (row->change_count > 0) {
            out[i] = likeliest(logits + (size_t)i * vocabulary, row, batch->changes + row->change_first, vocabulary);
        }
        if (row->score != SAMPLE_NO_SCORE) {
            write_score(&batch->scores[row->score], marked, out[i], row->top, vocabulary);
        }
    }
    sim_busy(stream, SIM_SAMPLE, cost_sample_ns(&device->cost, batch->rows_host + batch->first, n, vocabulary));
}

struct status sim_tokens_prepare(struct sim_device *device, const struct device_limits *limits) {
    struct sim_tokens *tokens = &device->tokens;
    clear_marks(tokens);
    free(tokens->marked);
    *tokens = (struct sim_tokens){.marked = calloc(limits->logit_rows ? limits->logit_rows : 1, sizeof(uint32_t))};
    if (!tokens->marked) {
        return status_error(STATUS_NO_MEMORY, "no memory for the tokens of %u rows", limits->logit_rows);
    }
    tokens->marked_capacity = limits->logit_rows;
    return STATUS_SUCCESS;
}

static bool touches_logits(const struct sim_tokens *tokens, const void *address, size_t bytes) {
    uintptr_t begin = (uintptr_t)tokens->logits, at = (uintptr_t)address;
    size_t size = (size_t)tokens->logit_rows * tokens->logit_columns * sizeof(float);
    return tokens->logits && (at >= begin ? at - begin < size : begin - at < bytes);
}

void sim_forget_logits(struct sim_device *device, const void *address, size_t bytes) {
    if (touches_logits(&device->tokens, address, bytes)) {
        device->tokens.logits = NULL;
        device->tokens.logit_rows = 0;
    }
}

void sim_move(const struct sim_device *device, void *target, const void *source, size_t bytes) {
    if (bytes <= SIM_MOVED_BYTES || touches_logits(&device->tokens, source, bytes)) {
        memmove(target, source, bytes);
    }
}
