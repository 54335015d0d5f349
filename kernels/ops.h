/* The decoder's math: plain functions that enqueue one operation on a stream and return.
 *
 * Pointers are device addresses unless a name ends in `_host`. `n` is a number of rows (tokens). Activations are
 * f32, row-major; a `_stride` counts floats from one row to the next. Each op has a scalar reference in
 * kernels/reference/ and is tested against it on every device present.
 *
 * One arithmetic per op: a row's result depends on neither the other rows of the call, the chunk it came in, nor the
 * number of threads (device_info().invariant).
 *
 * Small structs (parts, batches) are copied when the op is enqueued; the memory they point to is not.
 * Threads: the one that owns the device. */
#ifndef METRONOME_KERNELS_OPS_H
#define METRONOME_KERNELS_OPS_H

#include "kernels/device.h"
#include "kernels/sample.h"

/* A packed matrix (device_pack): `rows` outputs by `columns` inputs. */
struct weight {
    const void *data;
    enum tensor_type type;
    uint32_t rows;
    uint32_t columns;
};

/* out (n, table.columns) = table rows `ids` (n). Ids must be below table.rows. */
void op_embed(struct stream *stream, float *out, struct weight table, const uint32_t *ids, uint32_t n);

/* out (n, dim) += rows `ids` (n) of table (rows, dim), which is plain f32 and not packed: learned positions. Ids must
 * be below `rows`. */
void op_add_rows(struct stream *stream, float *out, const float *table, uint32_t rows, const uint32_t *ids, uint32_t n,
                 uint32_t dim);

/* x (n, dim) *= factor, in place: Gemma's embeddings. */
void op_scale(struct stream *stream, float *x, float factor, uint32_t n, uint32_t dim);

/* out (n, dim) = x / sqrt(mean(x^2) + epsilon) * gain (dim). Zhang and Sennrich, arXiv 1910.07467.
 * out may be x. */
void op_rmsnorm(struct stream *stream, float *out, const float *x, const float *gain, float epsilon, uint32_t n,
                uint32_t dim);

/* out (n, dim) += x / sqrt(mean(x^2) + epsilon) * gain (dim): a norm after a block, on its way into the residual.
 * out is not x. */
void op_rmsnorm_add(struct stream *stream, float *out, const float *x, const float *gain, float epsilon, uint32_t n,
                    uint32_t dim);

/* out (n, dim) = (x - mean(x)) / sqrt(variance(x) + epsilon) * gain (dim) + bias (dim). Ba et al. arXiv 1607.06450.
 * The variance is the mean square of x - mean(x). out may be x. */
void op_layernorm(struct stream *stream, float *out, const float *x, const float *gain, const float *bias,
                  float epsilon, uint32_t n, uint32_t dim);

/* One product of a matmul: out (n, weight.rows) = x . weight^T (+ bias), or added to what out holds. */
struct matmul_part {
    struct weight weight;
    const float *bias; /* (weight.rows) or NULL */
    float *out;
    size_t out_stride;
    bool accumulate; /* out += product instead of out = product */
};

#define MATMUL_MAX_PARTS 48

/* `count` <= MATMUL_MAX_PARTS products of the same x (n, columns): q, k and v, or gate and up, each perhaps in
 * several pieces: a matrix may be cut between output rows, since they are computed independently of each other. */
void op_matmul(struct stream *stream, const struct matmul_part *parts, uint32_t count, const float *x, size_t x_stride,
               uint32_t n);

/* The same with weights that are each rank's share of the columns, and x what goes with it: op_all_reduce() makes the
 * products whole. Biases, and what `out` holds where a part accumulates, count once, though every rank has them. */
void op_matmul_partial(struct stream *stream, const struct matmul_part *parts, uint32_t count, const float *x,
                       size_t x_stride, uint32_t n);

/* x (n, dim) of every rank = their sum, the same bits on each: Shoeybi et al. arXiv 1909.08053. With one rank nothing.
 */
void op_all_reduce(struct stream *stream, float *x, uint32_t n, uint32_t dim);

/* Rotary embedding, Su et al. arXiv 2104.09864: the angles of each row, once an iteration.
 * angles (n, pairs, 2) = cos and sin of positions (n) * frequency (pairs), both times `magnitude` (1 but for YaRN). */
void op_rope_angles(struct stream *stream, float *angles, const uint32_t *positions, const float *frequency,
                    float magnitude, uint32_t n, uint32_t pairs);

enum rope_style {
    ROPE_INTERLEAVED, /* pairs are (2i, 2i+1): GGUF's llama */
    ROPE_HALVES,      /* pairs are (i, i + pairs): NeoX, Qwen */
};

/* Rotates the first 2*pairs values of each of `heads` heads of x (n, heads, head_dim) in place. */
void op_rope(struct stream *stream, float *x, size_t x_stride, const float *angles, enum rope_style style, uint32_t n,
             uint32_t heads, uint32_t head_dim, uint32_t pairs);

/* ---- the paged KV cache ---- */

enum kv_type { KV_F16, KV_BF16 };

/* A KV block holds KV_BLOCK_TOKENS positions of one sequence for every layer: layer after layer, each layer's keys
 * and then its values. How keys and values lie inside a layer's part is the device's business; sizes are not. */
#define KV_BLOCK_TOKENS 16

struct kv_shape {
    uint32_t layers, kv_heads, head_dim;
    enum kv_type type;
};
static inline size_t kv_layer_bytes(const struct kv_shape *shape) { /* one layer of one block: keys and values */
    return (size_t)2 * KV_BLOCK_TOKENS * shape->kv_heads * shape->head_dim * 2;
}
static inline size_t kv_block_bytes(const struct kv_shape *shape) {
    return shape->layers * kv_layer_bytes(shape);
}

/* Blocks that live in host memory and pass through the device layer by layer come in groups: for one layer the parts of
 * a group's blocks lie one after another, and each layer finds them elsewhere. In a block table such a block is its
 * group and its offset there instead of an address; addresses are even. */
#define KV_MAX_GROUPS 32
static inline uint64_t kv_streamed_entry(uint32_t group, uint64_t offset) {
    return offset << 8 | group << 1 | 1;
}

/* A run of rows of one sequence, in the order of their positions. */
struct kv_segment {
    uint64_t sequence;  /* an id that is unique among sequences: what sim's tokens are a hash of */
    uint32_t first_row; /* of q and out */
    uint32_t rows;
    uint32_t first_position; /* position of first_row; the run ends at first_position + rows - 1 */
    uint32_t table;          /* which row of the block table is this sequence's */
};

/* Where the KV of an iteration's sequences lies. */
struct kv_batch {
    struct kv_shape shape;
    const struct kv_segment *segments;      /* (segment_count) on the device */
    const struct kv_segment *segments_host; /* the same, for launch shapes; valid until the iteration has ended */
    uint32_t segment_count;
    uint32_t rows;               /* sum of segments' rows */
    const uint64_t *block_table; /* (tables, table_stride) on the device: device address of each block, or
                                    kv_streamed_entry() */
    uint32_t table_stride;
    uint64_t groups[KV_MAX_GROUPS]; /* for streamed blocks, other in every layer: where a group would begin if its parts
                                       of all layers lay before this one's, as they do in blocks */
};

/* Where the block of a table's entry begins, for the layer that `groups` is of. */
#ifdef __CUDACC__
__host__ __device__
#endif
    static inline uint64_t
    kv_entry_address(const uint64_t *groups, uint64_t entry) {
    return entry & 1 ? groups[entry >> 1 & (KV_MAX_GROUPS - 1)] + (entry >> 8) : entry;
}

/* Stores k and v (batch.rows, kv_heads, head_dim) of one layer at their rows' positions, in blocks on the device. */
void op_kv_store(struct stream *stream, const struct kv_batch *batch, uint32_t layer, const float *k, size_t k_stride,
                 const float *v, size_t v_stride);

/* Causal attention over the paged cache, grouped queries (Ainslie et al. arXiv 2305.13245), online softmax in the
 * fixed order of positions: out (rows, heads, head_dim) = softmax(q.k * scale) v. Rows' own k and v are stored
 * already. A `window` above 0 is how many positions a row sees, its own the last of them (Beltagy et al. arXiv
 * 2004.05150); with 0 it sees all up to its own. */
void op_attention(struct stream *stream, float *out, size_t out_stride, const float *q, size_t q_stride,
                  const struct kv_batch *batch, uint32_t layer, uint32_t query_heads, float scale, uint32_t window);

/* ---- the rest ---- */

enum activation {
    ACTIVATION_SILU,      /* x / (1 + exp(-x)) */
    ACTIVATION_GELU_TANH, /* x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), Hendrycks and Gimpel arXiv 1606.08415 */
    ACTIVATION_RELU,      /* max(x, 0) */
    ACTIVATIONS,
};

/* out (n, dim) = activation(gate) * up. Shazeer, arXiv 2002.05202. out may be gate or up. */
void op_gated(struct stream *stream, enum activation activation, float *out, const float *gate, const float *up,
              uint32_t n, uint32_t dim);

/* out (n, dim) = activation(x). out may be x. */
void op_activate(struct stream *stream, enum activation activation, float *out, const float *x, uint32_t n,
                 uint32_t dim);

/* out (n, dim) = x rows `rows` (n): the rows whose logits are wanted. */
void op_gather(struct stream *stream, float *out, const float *x, const uint32_t *rows, uint32_t n, uint32_t dim);

/* out (n) = index of the largest of logits (n, vocabulary), the lowest index on a tie. NaN never wins. */
void op_argmax(struct stream *stream, uint32_t *out, const float *logits, uint32_t n, uint32_t vocabulary);

/* What a call of op_sample() works on. `out`, `logits`, and `rows` are those of an iteration, of which a call may take
 * some: n rows from `first` on. */
struct sample_batch {
    const struct sample_row *rows;      /* on the device */
    const struct sample_row *rows_host; /* the same, for launch shapes; valid until the iteration has ended */
    struct sample_change *changes;      /* on the device; garbage afterwards. NULL if no row has any */
    struct sample_score *scores;        /* on the device, out. NULL if no row has one */
    uint32_t first;
};

/* out (first + n) = a token for each row of logits (first + n, vocabulary), of those from `first` on: the row's target,
 * the largest after its changes if the row is greedy or no logit is finite (the lowest on a tie), or one drawn
 * (kernels/sample.h). In rows with changes the logits of their tokens are changed meanwhile, and as before afterwards.
 * vocabulary <= SAMPLE_MOST_TOKENS. */
void op_sample(struct stream *stream, uint32_t *out, float *logits, const struct sample_batch *batch, uint32_t n,
               uint32_t vocabulary);

#endif
