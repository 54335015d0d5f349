/* The bodies of the kernels of attention.h, compiled once for each instruction set: attention_scalar.c,
 * attention_avx2.c and attention_avx512.c include this file and nothing else. The arithmetic is attention.h's.
 *
 * Keys and values stay 16-bit in memory and are converted as they are loaded, once for the few queries whose sums a
 * loop keeps in registers. Threads: any; pure. */
#include "kernels/cpu/attention.h"
#include "kernels/cpu/vector.h"

/* Queries, and vectors of each, that a loop keeps in registers. */
#if defined(__AVX512VNNI__)
#define MICRO_QUERIES 6
#define VALUE_VECTORS 4
#elif defined(__AVX2__)
#define MICRO_QUERIES 4
#define VALUE_VECTORS 2
#else
#define MICRO_QUERIES 1
#define VALUE_VECTORS 1
#endif
#define SCORE_VECTORS 2

#define BLOCK_VECTORS (KV_BLOCK_TOKENS / LANES)
#define AT_MOST(count, most) ((count) < (most) ? (count) : (most))

/* Calls function(queries, ...) with `queries` a constant: the largest of 6, 4, 3, 2, 1 that fits `left`. */
#define WITH_QUERIES(left, taken, function, ...)              \
    do {                                                      \
        if ((left) >= 6 && MICRO_QUERIES >= 6) {              \
            taken = 6;                                        \
            function(AT_MOST(6, MICRO_QUERIES), __VA_ARGS__); \
        } else if ((left) >= 4 && MICRO_QUERIES >= 4) {       \
            taken = 4;                                        \
            function(AT_MOST(4, MICRO_QUERIES), __VA_ARGS__); \
        } else if ((left) >= 3 && MICRO_QUERIES >= 3) {       \
            taken = 3;                                        \
            function(AT_MOST(3, MICRO_QUERIES), __VA_ARGS__); \
        } else if ((left) >= 2 && MICRO_QUERIES >= 2) {       \
            taken = 2;                                        \
            function(AT_MOST(2, MICRO_QUERIES), __VA_ARGS__); \
        } else {                                              \
            taken = 1;                                        \
            function(1, __VA_ARGS__);                         \
        }                                                     \
    } while (0)

INLINE f32v load_16(const enum kv_type type, const uint16_t *from) {
    return type == KV_F16 ? f32_load_f16(from) : f32_load_bf16(from);
}

/* Lane by lane at the end of a row whose length is no multiple of LANES: never reads past it. */
INLINE f32v load_16_first(const enum kv_type type, const uint16_t *from, int count) {
    uint16_t values[LANES] = {0};
    memcpy(values, from, (size_t)count * sizeof *from);
    return load_16(type, values);
}

static const uint16_t *block_part(const struct attention_tile *tile, uint32_t position, size_t offset) {
    const uint64_t block = kv_entry_address(tile->groups, tile->blocks[position / KV_BLOCK_TOKENS]);
    return (const uint16_t *)(uintptr_t)(block + offset);
}

static float *state_sums(const struct attention_tile *tile, float *state) {
    return state + tile->rows * tile->heads;
}

static float *state_values(const struct attention_tile *tile, float *state) {
    return state + 2 * tile->rows * tile->heads;
}

/* The rows that see any of a span, first .. end - 1, and the positions of the span that a row sees, from .. seen - 1.
 */
static uint32_t first_row_of(const struct attention_tile *tile, uint32_t span) {
    const uint32_t start = span * ATTENTION_SPAN;
    return tile->first_position >= start ? 0 : start - tile->first_position;
}
static uint32_t seen_of(const struct attention_tile *tile, uint32_t span, uint32_t row) {
    const uint32_t seen = tile->first_position + row + 1 - span * ATTENTION_SPAN;
    return AT_MOST(seen, ATTENTION_SPAN);
}
static uint32_t end_row_of(const struct attention_tile *tile, uint32_t span) {
    uint32_t end = tile->rows;
    while (tile->window > 0 && attention_first_seen(tile, end - 1) >= (span + 1) * ATTENTION_SPAN) {
        end--; /* at least the tile's first row sees some of the first span, and all rows of the later ones */
    }
    return end;
}
static uint32_t from_of(const struct attention_tile *tile, uint32_t span, uint32_t row) {
    const uint32_t first = attention_first_seen(tile, row), start = span * ATTENTION_SPAN;
    return first > start ? first - start : 0;
}

static void load_queries(const struct attention_tile *tile, const struct attention_scratch *scratch) {
    for (uint32_t query = 0; query < tile->rows * tile->heads; query++) {
        const float *q = tile->q + query / tile->heads * tile->q_stride + query % tile->heads * tile->head_dim;
        for (uint32_t i = 0; i < tile->head_dim; i++) {
            scratch->queries[query * tile->head_dim + i] = q[i] * tile->scale;
        }
    }
}

/* ---- scores ---- */

/* Scores of `queries` queries by LANES * vectors positions from `position` on, which lie in blocks of the span. */
INLINE void micro_scores(const int queries, const int vectors, const enum kv_type type,
                         const struct attention_tile *tile, uint32_t position, const float *q, float *scores) {
    const uint16_t *keys[SCORE_VECTORS];
    f32v sum[MICRO_QUERIES][SCORE_VECTORS];
    UNROLL for (int v = 0; v < vectors; v++) {
        const uint32_t first = position + (uint32_t)v * LANES;
        keys[v] = block_part(tile, first, tile->key_offset) + first % KV_BLOCK_TOKENS;
        UNROLL for (int i = 0; i < queries; i++) {
            sum[i][v] = f32_set(0);
        }
    }
    const uint32_t head_dim = tile->head_dim;
    for (uint32_t d = 0; d < head_dim; d++) {
        f32v key[SCORE_VECTORS];
        UNROLL for (int v = 0; v < vectors; v++) {
            key[v] = load_16(type, keys[v] + d * KV_BLOCK_TOKENS);
        }
        UNROLL for (int i = 0; i < queries; i++) {
            const f32v factor = f32_set(q[(uint32_t)i * head_dim + d]);
            UNROLL for (int v = 0; v < vectors; v++) {
                sum[i][v] = f32_fma(factor, key[v], sum[i][v]);
            }
        }
    }
    UNROLL for (int i = 0; i < queries; i++) {
        UNROLL for (int v = 0; v < vectors; v++) {
            f32_store(scores + i * ATTENTION_SPAN + v * LANES, sum[i][v]);
        }
    }
}

/* Asks for a block's keys or values, if the tile sees any of them. Into the L2 cache: there the requests do not compete
 * with the loads for the few misses that the L1 can have in flight. */
INLINE void prefetch(const struct attention_tile *tile, uint32_t position, size_t offset) {
    if (position < tile->first_position + tile->rows) {
        const uint8_t *part = (const uint8_t *)block_part(tile, position, offset);
        for (size_t line = 0; line < KV_BLOCK_TOKENS * sizeof(uint16_t) * tile->head_dim; line += 64) {
            __builtin_prefetch(part + line, 0, 2);
        }
    }
}

/* All scores of a few queries: whole blocks with the positions from .. seen - 1 of the span that begins at `start`. */
INLINE void scores_of_queries(const int queries, const enum kv_type type, const struct attention_tile *tile,
                              uint32_t start, uint32_t from, uint32_t seen, bool first_pass, const float *q,
                              float *scores) {
    const uint32_t positions = (seen + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS * KV_BLOCK_TOKENS;
    uint32_t at = from / KV_BLOCK_TOKENS * KV_BLOCK_TOKENS;
    for (; at + SCORE_VECTORS * LANES <= positions; at += SCORE_VECTORS * LANES) {
        /* The first pass over the keys asks for keys some blocks on, and for the values that are next. */
        for (uint32_t block = 0; first_pass && block < SCORE_VECTORS * LANES; block += KV_BLOCK_TOKENS) {
            prefetch(tile, start + at + block + 4 * KV_BLOCK_TOKENS, tile->key_offset);
            prefetch(tile, start + at + block, tile->value_offset);
        }
        micro_scores(queries, SCORE_VECTORS, type, tile, start + at, q, scores + at);
    }
    for (; at < positions; at += LANES) {
        micro_scores(queries, 1, type, tile, start + at, q, scores + at);
    }
}

INLINE void compute_scores(const enum kv_type type, const struct attention_tile *tile, uint32_t start, uint32_t from,
                           uint32_t seen, const float *q, float *scores, uint32_t count) {
    uint32_t taken;
    for (uint32_t query = 0; query < count; query += taken) {
        WITH_QUERIES(count - query, taken, scores_of_queries, type, tile, start, from, seen, query == 0,
                     q + query * tile->head_dim, scores + query * ATTENTION_SPAN);
    }
}

/* ---- weights ---- */

INLINE float fold_16(f32v v[BLOCK_VECTORS], const bool maximum) {
    float lane[KV_BLOCK_TOKENS];
    UNROLL for (int i = 0; i < BLOCK_VECTORS; i++) {
        f32_store(lane + i * LANES, v[i]);
    }
    for (int half = KV_BLOCK_TOKENS / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; i++) {
            const float a = lane[i], b = lane[i + half];
            lane[i] = !maximum ? a + b : a > b ? a : b;
        }
    }
    return lane[0];
}

/* Scores to weights in place, for the positions from .. seen - 1 of a span; what else their blocks hold becomes 0. */
static void weigh(float *scores, int from, int seen, float *maximum, float *sum) {
    const int begin = from / KV_BLOCK_TOKENS * KV_BLOCK_TOKENS;
    f32v most[BLOCK_VECTORS], total[BLOCK_VECTORS];
    UNROLL for (int v = 0; v < BLOCK_VECTORS; v++) {
        most[v] = f32_set(-INFINITY);
        total[v] = f32_set(0);
    }
    for (int at = begin; at < seen; at += KV_BLOCK_TOKENS) {
        UNROLL for (int v = 0; v < BLOCK_VECTORS; v++) {
            const int first = at + v * LANES;
            const f32v score = f32_keep_first(f32_load(scores + first), seen - first, f32_set(-INFINITY));
            most[v] = f32_max(most[v], f32_keep_first(f32_set(-INFINITY), from - first, score));
        }
    }
    *maximum = fold_16(most, true);
    for (int at = begin; at < seen; at += KV_BLOCK_TOKENS) {
        UNROLL for (int v = 0; v < BLOCK_VECTORS; v++) {
            const int first = at + v * LANES;
            const f32v exponent = f32_sub(f32_load(scores + first), f32_set(*maximum));
            const f32v seen_weight = f32_keep_first(f32_exp_negative(exponent), seen - first, f32_set(0));
            const f32v weight = f32_keep_first(f32_set(0), from - first, seen_weight);
            f32_store(scores + first, weight);
            total[v] = f32_add(total[v], weight);
        }
    }
    *sum = fold_16(total, false);
}

/* ---- values ---- */

/* Adds positions from .. to - 1 of a span to LANES * vectors dimensions, from `dimension` on, of `queries` queries.
 * `part`: the one vector has only the first `part` lanes. */
INLINE void micro_values(const int queries, const int vectors, const int part, const enum kv_type type,
                         const struct attention_tile *tile, uint32_t start, uint32_t from, uint32_t to,
                         uint32_t dimension, const float *weights, float *values) {
    const uint32_t head_dim = tile->head_dim;
    f32v sum[MICRO_QUERIES][VALUE_VECTORS];
    UNROLL for (int i = 0; i < queries; i++) {
        UNROLL for (int v = 0; v < vectors; v++) {
            const float *at = values + (uint32_t)i * head_dim + dimension + v * LANES;
            sum[i][v] = part ? f32_load_first(at, part) : f32_load(at);
        }
    }
    while (from < to) {
        const uint32_t token = from % KV_BLOCK_TOKENS;
        const uint32_t end = AT_MOST(to, from - token + KV_BLOCK_TOKENS);
        const uint16_t *row = block_part(tile, start + from, tile->value_offset) + (size_t)token * head_dim + dimension;
        for (; from < end; from++, row += head_dim) {
            f32v value[VALUE_VECTORS];
            UNROLL for (int v = 0; v < vectors; v++) {
                value[v] = part ? load_16_first(type, row, part) : load_16(type, row + v * LANES);
            }
            UNROLL for (int i = 0; i < queries; i++) {
                const f32v weight = f32_set(weights[(uint32_t)i * ATTENTION_SPAN + from]);
                UNROLL for (int v = 0; v < vectors; v++) {
                    sum[i][v] = f32_fma(weight, value[v], sum[i][v]);
                }
            }
        }
    }
    UNROLL for (int i = 0; i < queries; i++) {
        UNROLL for (int v = 0; v < vectors; v++) {
            float *at = values + (uint32_t)i * head_dim + dimension + v * LANES;
            if (part) {
                f32_store_first(at, sum[i][v], part);
            } else {
                f32_store(at, sum[i][v]);
            }
        }
    }
}

INLINE void values_of_queries(const int queries, const enum kv_type type, const struct attention_tile *tile,
                              uint32_t start, uint32_t from, uint32_t to, const float *weights, float *values) {
    const uint32_t head_dim = tile->head_dim;
    uint32_t d = 0;
    for (; d + VALUE_VECTORS * LANES <= head_dim; d += VALUE_VECTORS * LANES) {
        micro_values(queries, VALUE_VECTORS, 0, type, tile, start, from, to, d, weights, values);
    }
    for (; d + LANES <= head_dim; d += LANES) {
        micro_values(queries, 1, 0, type, tile, start, from, to, d, weights, values);
    }
    if (d < head_dim) {
        micro_values(queries, 1, (int)(head_dim - d), type, tile, start, from, to, d, weights, values);
    }
}

INLINE void add_values(const enum kv_type type, const struct attention_tile *tile, uint32_t start, uint32_t from,
                       uint32_t to, const float *weights, float *values, uint32_t count) {
    uint32_t taken;
    for (uint32_t query = 0; query < count && from < to; query += taken) {
        WITH_QUERIES(count - query, taken, values_of_queries, type, tile, start, from, to,
                     weights + query * ATTENTION_SPAN, values + query * tile->head_dim);
    }
}

/* ---- one span, and the merge ---- */

/* The state of having seen nothing, for the rows from `row` on. */
static void clear_state(const struct attention_tile *tile, uint32_t row, float *state) {
    const uint32_t head_dim = tile->head_dim;
    for (uint32_t query = row * tile->heads; query < tile->rows * tile->heads; query++) {
        state[query] = -INFINITY;
        state_sums(tile, state)[query] = 0;
        memset(state_values(tile, state) + query * head_dim, 0, head_dim * sizeof *state);
    }
}

/* Adds to the values of each row what it sees of the span. In the middle, what all rows see, all rows together;
 * before and after that, row by row, what only it and its predecessors, or its successors, see. */
INLINE void add_values_of_rows(const enum kv_type type, const struct attention_tile *tile, uint32_t span,
                               uint32_t first, uint32_t end, const float *weights, float *values) {
    const uint32_t start = span * ATTENTION_SPAN, heads = tile->heads, queries = (end - first) * heads;
    uint32_t from = from_of(tile, span, end - 1), to = seen_of(tile, span, first);
    to = to > from ? to : from; /* or nothing is common */
    for (uint32_t row = first; row < end; row++) {
        const uint32_t query = (row - first) * heads, seen = seen_of(tile, span, row);
        add_values(type, tile, start, from_of(tile, span, row), AT_MOST(seen, from), weights + query * ATTENTION_SPAN,
                   values + query * tile->head_dim, heads);
    }
    if (seen_of(tile, span, first) > from) {
        add_values(type, tile, start, from, to, weights, values, queries);
    }
    for (uint32_t row = first; row < end; row++) {
        const uint32_t query = (row - first) * heads;
        add_values(type, tile, start, to, seen_of(tile, span, row), weights + query * ATTENTION_SPAN,
                   values + query * tile->head_dim, heads);
    }
}

INLINE void span_of_type(const enum kv_type type, const struct attention_tile *tile, uint32_t span,
                         const struct attention_scratch *scratch, float *state) {
    const uint32_t head_dim = tile->head_dim, heads = tile->heads;
    const uint32_t first = first_row_of(tile, span), end = end_row_of(tile, span), queries = (end - first) * heads;
    float *maximum = state + first * heads, *sum = state_sums(tile, state) + first * heads;
    float *values = state_values(tile, state) + first * heads * head_dim;

    compute_scores(type, tile, span * ATTENTION_SPAN, from_of(tile, span, first), seen_of(tile, span, end - 1),
                   scratch->queries + first * heads * head_dim, scratch->scores, queries);
    for (uint32_t query = 0; query < queries; query++) {
        const uint32_t row = first + query / heads;
        weigh(scratch->scores + query * ATTENTION_SPAN, (int)from_of(tile, span, row), (int)seen_of(tile, span, row),
              &maximum[query], &sum[query]);
    }
    memset(values, 0, (size_t)queries * head_dim * sizeof *values);
    add_values_of_rows(type, tile, span, first, end, scratch->scores, values);
    clear_state(tile, end, state);
}

static void span_f16(const struct attention_tile *tile, uint32_t span, const struct attention_scratch *scratch,
                     float *state) {
    span_of_type(KV_F16, tile, span, scratch, state);
}

static void span_bf16(const struct attention_tile *tile, uint32_t span, const struct attention_scratch *scratch,
                      float *state) {
    span_of_type(KV_BF16, tile, span, scratch, state);
}

static void attend_span(const struct attention_tile *tile, uint32_t span, const struct attention_scratch *scratch,
                        float *state) {
    if (tile->type == KV_F16) {
        span_f16(tile, span, scratch, state);
    } else {
        span_bf16(tile, span, scratch, state);
    }
}

static float exp_negative(float x) {
    float lane[LANES];
    f32_store(lane, f32_exp_negative(f32_set(x)));
    return lane[0];
}

/* A row's first span is merged into nothing: it is copied, so that it has the bits of a tile of its own. */
static void copy_state(const struct attention_tile *tile, uint32_t query, float *into, const float *state) {
    const uint32_t queries = tile->rows * tile->heads, head_dim = tile->head_dim;
    into[query] = state[query];
    into[queries + query] = state[queries + query];
    memcpy(into + 2 * queries + query * head_dim, state + 2 * queries + query * head_dim, head_dim * sizeof *into);
}

/* (m, s, a) + (m', s', a') = (M, s' * f' + s * f, a' * f' + a * f) with M = max(m, m'), f = exp(m - M). */
static void merge(const struct attention_tile *tile, float *into, const float *state, uint32_t span) {
    const uint32_t queries = tile->rows * tile->heads, head_dim = tile->head_dim;
    for (uint32_t query = first_row_of(tile, span) * tile->heads; query < queries; query++) {
        if (tile->window > 0 && into[query] == -INFINITY) {
            copy_state(tile, query, into, state);
            continue;
        }
        const float before = into[query], here = state[query], both = before > here ? before : here;
        const float before_factor = exp_negative(before - both), here_factor = exp_negative(here - both);
        float *sum = into + queries + query, *values = into + 2 * queries + query * head_dim;
        const float *here_values = state + 2 * queries + query * head_dim;
        into[query] = both;
        *sum = state[queries + query] * here_factor + *sum * before_factor;
        for (uint32_t i = 0; i < head_dim; i++) {
            values[i] = here_values[i] * here_factor + values[i] * before_factor;
        }
    }
}

static void finish(const struct attention_tile *tile, const float *state) {
    const uint32_t queries = tile->rows * tile->heads, head_dim = tile->head_dim;
    for (uint32_t query = 0; query < queries; query++) {
        const float *values = state + 2 * queries + query * head_dim, inverse = 1.0f / state[queries + query];
        float *out = tile->out + query / tile->heads * tile->out_stride + query % tile->heads * head_dim;
        for (uint32_t i = 0; i < head_dim; i++) {
            out[i] = values[i] * inverse;
        }
    }
}

/* ---- storing ---- */

static uint16_t bf16_of_f32(float value) { /* to nearest even; a NaN stays one */
    const uint32_t bits = bits_of_f32(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return (uint16_t)(bits >> 16 | 0x40);
    }
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static void round_16(enum kv_type type, uint16_t to[LANES], const float *from, int count) {
    if (type == KV_F16) {
        f32_store_f16(to, f32_load_first(from, count));
    } else {
        for (int i = 0; i < count; i++) {
            to[i] = bf16_of_f32(from[i]);
        }
    }
}

static void store(enum kv_type type, uint32_t head_dim, const float *k, const float *v, uint16_t *keys,
                  uint16_t *values, uint32_t token) {
    for (uint32_t d = 0; d < head_dim; d += LANES) {
        const uint32_t count = AT_MOST(head_dim - d, LANES);
        uint16_t rounded[LANES];
        round_16(type, rounded, k + d, (int)count);
        for (uint32_t i = 0; i < count; i++) {
            keys[(d + i) * KV_BLOCK_TOKENS + token] = rounded[i];
        }
        round_16(type, rounded, v + d, (int)count);
        memcpy(values + (size_t)token * head_dim + d, rounded, count * sizeof *values);
    }
}

#define ATTENTION_KERNELS \
    { .load_queries = load_queries, .span = attend_span, .merge = merge, .finish = finish, .store = store, }
