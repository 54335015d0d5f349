/* The attention kernels of the cpu device: how keys and values lie in a KV block, the order of the arithmetic, and
 * what each instruction set provides. For kernels/cpu/ only. Threads: any; the kernels are pure.
 *
 * A layer's part of a KV block, 16-bit values throughout:
 *   keys    (kv_heads, head_dim, 16 tokens): transposed, so that a SIMD lane is a token and scores need no sum
 *           across lanes;
 *   values  (kv_heads, 16 tokens, head_dim): a SIMD lane is a dimension.
 *
 * THE ARITHMETIC. Positions are cut into spans of 256, by absolute position. One query's result for one span is a
 * state (maximum, sum, values):
 *   score   of a position: fused multiply-adds of (q * scale) and k over the dimensions in order, begun at 0;
 *   maximum of the scores of the positions that the row may see;
 *   weight  of a position: exp(score - maximum); 0 beyond the row's own position and before its window;
 *   sum     of the weights: lane t adds the weights of positions t, t + 16, ... in order; then the 16 lanes are
 *           folded in halves (8, 4, 2, 1);
 *   values  for each dimension fused multiply-adds of weight and v over the positions in order, begun at 0.
 * Spans are merged in their order (attention_merge), from the first that the row sees any of, and the output is values
 * * (1 / sum). Nothing of this depends on which other rows are computed beside, nor on who computes which span. What
 * lies beyond a row's position (another row's key, or what a former owner left in the block, NaN included) is never
 * multiplied into it. */
#ifndef METRONOME_KERNELS_CPU_ATTENTION_H
#define METRONOME_KERNELS_CPU_ATTENTION_H

#include "kernels/ops.h"

#include <stddef.h>
#include <stdint.h>

#define ATTENTION_SPAN 256   /* positions; a multiple of KV_BLOCK_TOKENS */
#define ATTENTION_QUERIES 24 /* that pass together over the keys and values of their head */

/* Some rows of one segment by some of the query heads that share one kv head. Query i is row i / heads, head
 * i % heads. */
struct attention_tile {
    enum kv_type type;
    uint32_t head_dim; /* a multiple of 8 */
    uint32_t rows, heads;
    uint32_t first_position;         /* of the first row */
    uint32_t window;                 /* positions that a row sees, its own the last; 0: all up to its own */
    const uint64_t *blocks;          /* entries of the sequence's KV blocks */
    const uint64_t *groups;          /* where streamed ones are */
    size_t key_offset, value_offset; /* of this layer and kv head in each block */
    const float *q;                  /* the first query; the next head's follows, the next row's is q_stride on */
    size_t q_stride;
    float *out; /* the same for the output */
    size_t out_stride;
    float scale;
};

/* The first position that a row sees, and the first span of which any of the tile's rows sees something. A tile has
 * fewer rows than a span has positions, so every row sees some of the first two. */
static inline uint32_t attention_first_seen(const struct attention_tile *tile, uint32_t row) {
    const uint32_t position = tile->first_position + row;
    return tile->window > 0 && position >= tile->window ? position + 1 - tile->window : 0;
}
static inline uint32_t attention_first_span(const struct attention_tile *tile) {
    return attention_first_seen(tile, 0) / ATTENTION_SPAN;
}

/* What one worker works in. Arrays are for ATTENTION_QUERIES queries. */
struct attention_scratch {
    float *queries; /* (queries, head_dim): q * scale */
    float *scores;  /* (queries, ATTENTION_SPAN): scores, then weights */
    float *state;   /* of spans merged so far, attention_state_floats() */
    float *span;    /* of one span */
};

/* A state is three arrays, one after another: maximum (queries), sum (queries), values (queries, head_dim). */
static inline size_t attention_state_floats(uint32_t queries, uint32_t head_dim) {
    return (size_t)queries * (2 + head_dim);
}

struct attention_kernels {
    /* Fills scratch->queries; before the tile's first span. */
    void (*load_queries)(const struct attention_tile *tile, const struct attention_scratch *scratch);

    /* Computes span `span` of all the tile's queries into `state`. Rows whose position lies before the span are left
     * out: their part of `state` is untouched. Rows whose window begins after the span get an empty state, whose
     * maximum is -infinity. */
    void (*span)(const struct attention_tile *tile, uint32_t span, const struct attention_scratch *scratch,
                 float *state);

    /* Merges the state of span `span`, not the tile's first, into `into`, which holds the spans before it. */
    void (*merge)(const struct attention_tile *tile, float *into, const float *state, uint32_t span);

    /* Writes the output from the merged state. */
    void (*finish)(const struct attention_tile *tile, const float *state);

    /* Stores one kv head of one row, k and v (head_dim), at token `token` of a block's keys and values. */
    void (*store)(enum kv_type type, uint32_t head_dim, const float *k, const float *v, uint16_t *keys,
                  uint16_t *values, uint32_t token);
};

extern const struct attention_kernels attention_scalar, attention_avx2, attention_avx512;

#endif
