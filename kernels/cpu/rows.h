/* The row kernels of the simple ops: what simple.c calls for each row, once for each instruction set.
 *
 * rows_kernels.h spells them once; rows_scalar.c, rows_avx2.c and rows_avx512.c compile that three times, to the same
 * bits. Threads: any; pure. */
#ifndef METRONOME_KERNELS_CPU_ROWS_H
#define METRONOME_KERNELS_CPU_ROWS_H

#include "kernels/ops.h"

/* Each works on one row of its namesake in ops.h. */
struct row_kernels {
    void (*rmsnorm)(float *out, const float *x, const float *gain, float epsilon, uint32_t dim);
    void (*rmsnorm_add)(float *out, const float *x, const float *gain, float epsilon, uint32_t dim);
    void (*layernorm)(float *out, const float *x, const float *gain, const float *bias, float epsilon, uint32_t dim);
    void (*rope)(float *x, const float *angles, enum rope_style style, uint32_t heads, uint32_t head_dim,
                 uint32_t pairs);
    void (*gated)(enum activation activation, float *out, const float *gate, const float *up, uint32_t dim);
    void (*activate)(enum activation activation, float *out, const float *x, uint32_t dim);
    uint32_t (*argmax)(const float *logits, uint32_t vocabulary);
};

extern const struct row_kernels row_kernels_scalar, row_kernels_avx2, row_kernels_avx512;

#endif
