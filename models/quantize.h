/* Changing the type of weights at load: rows of f32 to the blocks that GGUF files of a type hold, and what no device
 * computes with to what holds the same values.
 *
 * Each block of 32 gets the scale that its own values need, as the plain (unweighted) quantizers of GGML do.
 * Threads: any; pure. */
#ifndef METRONOME_MODELS_QUANTIZE_H
#define METRONOME_MODELS_QUANTIZE_H

#include "kernels/tensor.h"

#include <stddef.h>

/* `columns` values, a multiple of 32, as a row of `type`: TENSOR_Q8_0 or TENSOR_Q4_1. A block with a value that is not
 * finite is not a number throughout. */
void quantize_row(enum tensor_type type, const float *values, void *row, size_t columns);

/* A row of TENSOR_Q5_0 as TENSOR_Q8_0: the same values. */
void quantize_widen_q5_0(const void *row, void *out, size_t columns);

#endif
