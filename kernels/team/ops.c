/* The ops of a team: each goes to rank after rank, at the rank's addresses. Threads: the one that owns the device. */
#include "kernels/team/team.h"

/* Goes on to a rank, which calls then meet; false past the last. */
static bool enter(const struct stream *stream, uint32_t rank) {
    const struct team *team = team_of(stream->device);
    return rank < team->ranks && team_enter(team, rank);
}

static struct stream *of(const struct stream *stream, uint32_t rank) {
    return ((const struct team_stream *)stream)->rank[rank];
}

/* The rank's address; NULL stays NULL. */
static void *at(const struct stream *stream, uint32_t rank, const void *address) {
    return team_address(team_of(stream->device), address, rank);
}

void team_embed(struct stream *stream, float *out, struct weight table, const uint32_t *ids, uint32_t n) {
    for (uint32_t r = 0; enter(stream, r); r++) {
        struct weight own = table;
        own.data = at(stream, r, table.data);
        op_embed(of(stream, r), at(stream, r, out), own, at(stream, r, ids), n);
    }
}

void team_add_rows(struct stream *stream, float *out, const float *table, uint32_t rows, const uint32_t *ids,
                   uint32_t n, uint32_t dim) {
    for (uint32_t r = 0; enter(stream, r); r++) {
        op_add_rows(of(stream, r), at(stream, r, out), at(stream, r, table), rows, at(stream, r, ids), n, dim);
    }
}

void team_scale(struct stream *stream, float *x, float factor, uint32_t n, uint32_t dim) {
    for (uint32_t r = 0; enter(stream, r); r++) {
        op_scale(of(stream, r), at(stream, r, x), factor, n, dim);
    }
}

void team_rmsnorm(struct stream *stream, float *out, const float *x, const float *gain, float epsilon, uint32_t n,
                  uint32_t dim) {
    for (uint32_t r = 0; enter(stream, r); r++) {
        op_rmsnorm(of(stream, r), at(stream, r, out), at(stream, r, x), at(stream, r, gain), epsilon, n, dim);
    }
}

void team_rmsnorm_add(struct stream *stream, float *out, const float *x, const float *gain, float epsilon, uint32_t n,
                      uint32_t dim) {
    for (uint32_t r = 0; enter(stream, r); r++) {
        op_rmsnorm_add(of(stream, r), at(stream, r, out), at(stream, r, x), at(stream, r, gain), epsilon, n, dim);
    }
}

void team_layernorm(struct stream *stream, float *out, const float *x, const float *gain, const float *bias,
                    float epsilon, uint32_t n, uint32_t dim) {
    for (uint32_t r = 0; enter(stream, r); r++) {
        op_layernorm(of(stream, r), at(stream, r, out), at(stream, r, x), at(stream, r, gain), at(stream, r, bias),
                     epsilon, n, dim);
    }
}

/* With shares of columns, rank 0 alone adds the bias and what is there already. */
static void multiply(struct stream *stream, const struct matmul_part *parts, uint32_t count, const float *x,
                     size_t x_stride, uint32_t n, bool partial) {
    for (uint32_t r = 0; enter(stream, r); r++) {
        struct matmul_part own[MATMUL_MAX_PARTS];
        for (uint32_t i = 0; i < count; i++) {
            own[i] = parts[i];
            own[i].weight.data = at(stream, r, parts[i].weight.data);
            own[i].bias = partial && r > 0 ? NULL : at(stream, r, parts[i].bias);
            own[i].out = at(stream, r, parts[i].out);
            own[i].accumulate = parts[i].accumulate && (!partial || r == 0);
        }
        op_matmul(of(stream, r), own, count, at(stream, r, x), x_stride, n);
    }
}

void team_matmul(struct stream *stream, const struct matmul_part *parts, uint32_t count, const float *x,
                 size_t x_stride, uint32_t n) {
    multiply(stream, parts, count, x, x_stride, n, false);
}

void team_matmul_partial(struct stream *stream, const struct matmul_part *parts, uint32_t count, const float *x,
                         size_t x_stride, uint32_t n) {
    multiply(stream, parts, count, x, x_stride, n, true);
}

void team_all_reduce(struct stream *stream, float *x, uint32_t n, uint32_t dim) {
    const struct team *team = team_of(stream->device);
    float *own[DEVICE_MOST_RANKS];
    for (uint32_t r = 0; r < team->ranks; r++) {
        own[r] = team_address(team, x, r);
    }
    team->collective->kind->all_reduce(team->collective, ((struct team_stream *)stream)->rank, own, (size_t)n * dim);
}

void team_rope_angles(struct stream *stream, float *angles, const uint32_t *positions, const float *frequency,
                      float magnitude, uint32_t n, uint32_t pairs) {
    for (uint32_t r = 0; enter(stream, r); r++) {
        op_rope_angles(of(stream, r), at(stream, r, angles), at(stream, r, positions), at(stream, r, frequency),
                       magnitude, n, pairs);
    }
}

void team_rope(struct stream *stream, float *x, size_t x_stride, const float *angles, enum rope_style style, uint32_t n,
               uint32_t heads, uint32_t head_dim, uint32_t pairs) {
    for (uint32_t r = 0; enter(stream, r); r++) {
        op_rope(of(stream, r), at(stream, r, x), x_stride, at(stream, r, angles), style, n, heads, head_dim, pairs);
    }
}

/* Segments on the host are for launch shapes, which are the same for all. A group's beginning may lie before that of
 * the memory that its blocks are in. */
static struct kv_batch batch_of(const struct stream *stream, const struct kv_batch *batch, uint32_t rank) {
    const struct team_memory *blocks = team_of(stream->device)->blocks;
    const uint64_t apart = blocks ? (uintptr_t)blocks->at[rank] - (uintptr_t)blocks->at[0] : 0;
    struct kv_batch own = *batch;
    for (uint32_t i = 0; i < KV_MAX_GROUPS; i++) {
        own.groups[i] += batch->groups[i] ? apart : 0;
    }
    own.segments = at(stream, rank, batch->segments);
    own.block_table = at(stream, rank, batch->block_table);
    return own;
}

void team_kv_store(struct stream *stream, const struct kv_batch *batch, uint32_t layer, const float *k, size_t k_stride,
                   const float *v, size_t v_stride) {
    for (uint32_t r = 0; enter(stream, r); r++) {
        const struct kv_batch own = batch_of(stream, batch, r);
        op_kv_store(of(stream, r), &own, layer, at(stream, r, k), k_stride, at(stream, r, v), v_stride);
    }
}

void team_attention(struct stream *stream, float *out, size_t out_stride, const float *q, size_t q_stride,
                    const struct kv_batch *batch, uint32_t layer, uint32_t query_heads, float scale, uint32_t window) {
    for (uint32_t r = 0; enter(stream, r); r++) {
        const struct kv_batch own = batch_of(stream, batch, r);
        op_attention(of(stream, r), at(stream, r, out), out_stride, at(stream, r, q), q_stride, &own, layer,
                     query_heads, scale, window);
    }
}

void team_gated(struct stream *stream, enum activation activation, float *out, const float *gate, const float *up,
                uint32_t n, uint32_t dim) {
    for (uint32_t r = 0; enter(stream, r); r++) {
        op_gated(of(stream, r), activation, at(stream, r, out), at(stream, r, gate), at(stream, r, up), n, dim);
    }
}

void team_activate(struct stream *stream, enum activation activation, float *out, const float *x, uint32_t n,
                   uint32_t dim) {
    for (uint32_t r = 0; enter(stream, r); r++) {
        op_activate(of(stream, r), activation, at(stream, r, out), at(stream, r, x), n, dim);
    }
}

void team_gather(struct stream *stream, float *out, const float *x, const uint32_t *rows, uint32_t n, uint32_t dim) {
    for (uint32_t r = 0; enter(stream, r); r++) {
        op_gather(of(stream, r), at(stream, r, out), at(stream, r, x), at(stream, r, rows), n, dim);
    }
}

void team_argmax(struct stream *stream, uint32_t *out, const float *logits, uint32_t n, uint32_t vocabulary) {
    for (uint32_t r = 0; enter(stream, r); r++) {
        op_argmax(of(stream, r), at(stream, r, out), at(stream, r, logits), n, vocabulary);
    }
}

/* The same on every rank, for all have the same logits. */
void team_sample(struct stream *stream, uint32_t *out, float *logits, const struct sample_batch *batch, uint32_t n,
                 uint32_t vocabulary) {
    for (uint32_t r = 0; enter(stream, r); r++) {
        const struct sample_batch own = {.rows = at(stream, r, batch->rows),
                                         .rows_host = batch->rows_host,
                                         .changes = at(stream, r, batch->changes),
                                         .scores = at(stream, r, batch->scores),
                                         .first = batch->first};
        op_sample(of(stream, r), at(stream, r, out), at(stream, r, logits), &own, n, vocabulary);
    }
}
