/* The scalar references of the ops in kernels/ops.h: one short loop each, obviously right, accumulating in double.
 *
 * Every device's op is tested against its reference. They run on the host, on plain pointers, and return when done.
 * Threads: any; pure. */
#ifndef METRONOME_KERNELS_REFERENCE_REFERENCE_H
#define METRONOME_KERNELS_REFERENCE_REFERENCE_H

#include "kernels/ops.h"

/* Arguments and shapes as their namesakes op_* have them. A weight's `data` is as the file has it: not packed. */

void ref_embed(float *out, struct weight table, const uint32_t *ids, uint32_t n);
void ref_add_rows(float *out, const float *table, const uint32_t *ids, uint32_t n, uint32_t dim);
void ref_scale(float *x, float factor, uint32_t n, uint32_t dim);
void ref_matmul(const struct matmul_part *parts, uint32_t count, const float *x, size_t x_stride, uint32_t n);

void ref_rmsnorm(float *out, const float *x, const float *gain, float epsilon, uint32_t n, uint32_t dim);
void ref_rmsnorm_add(float *out, const float *x, const float *gain, float epsilon, uint32_t n, uint32_t dim);
void ref_layernorm(float *out, const float *x, const float *gain, const float *bias, float epsilon, uint32_t n,
                   uint32_t dim);
void ref_rope_angles(float *angles, const uint32_t *positions, const float *frequency, float magnitude, uint32_t n,
                     uint32_t pairs);
void ref_rope(float *x, size_t x_stride, const float *angles, enum rope_style style, uint32_t n, uint32_t heads,
              uint32_t head_dim, uint32_t pairs);
void ref_gated(enum activation activation, float *out, const float *gate, const float *up, uint32_t n, uint32_t dim);
void ref_activate(enum activation activation, float *out, const float *x, uint32_t n, uint32_t dim);
void ref_gather(float *out, const float *x, const uint32_t *rows, uint32_t n, uint32_t dim);
void ref_argmax(uint32_t *out, const float *logits, uint32_t n, uint32_t vocabulary);

/* One row, by sorting; `score` is its own. False: there is no memory for that, and nothing is written. */
bool ref_sample(uint32_t *out, const float *logits, const struct sample_row *row, const struct sample_change *changes,
                struct sample_score *score, uint32_t vocabulary);

/* Attention over keys and values that lie plainly: k and v (context, kv_heads, head_dim) of ONE sequence, of which
 * the row at `position` sees 0 .. position, or the last `window` of these if that is above 0. q and out (rows,
 * query_heads, head_dim), the first at first_position. `type` is the precision that k and v pass through in the cache.
 */
void ref_attention(float *out, const float *q, const float *k, const float *v, enum kv_type type, uint32_t rows,
                   uint32_t first_position, uint32_t query_heads, uint32_t kv_heads, uint32_t head_dim, float scale,
                   uint32_t window);

#endif
