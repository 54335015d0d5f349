/* References of the ops that read weights, which lie here as the file has them. */
#include "kernels/reference/reference.h"

#include "base/check.h"

#include <stdlib.h>

/* Row `row` of a matrix as f32, (columns), which the caller frees. */
static float *dequantized_row(const struct weight *weight, uint32_t row) {
    float *values = malloc(weight->columns * sizeof *values);
    CHECK(values != NULL);
    const size_t row_bytes = tensor_row_bytes(weight->type, weight->columns);
    tensor_dequantize_row(weight->type, (const char *)weight->data + row * row_bytes, values, weight->columns);
    return values;
}

void ref_embed(float *out, struct weight table, const uint32_t *ids, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        float *values = dequantized_row(&table, ids[i]);
        for (uint32_t column = 0; column < table.columns; column++) {
            *out++ = values[column];
        }
        free(values);
    }
}

void ref_matmul(const struct matmul_part *parts, uint32_t count, const float *x, size_t x_stride, uint32_t n) {
    for (const struct matmul_part *part = parts; part < parts + count; part++) {
        for (uint32_t row = 0; row < part->weight.rows; row++) {
            float *values = dequantized_row(&part->weight, row);
            for (uint32_t i = 0; i < n; i++) {
                float *out = &part->out[i * part->out_stride + row];
                double sum = part->bias ? part->bias[row] : 0;
                for (uint32_t column = 0; column < part->weight.columns; column++) {
                    sum += (double)values[column] * x[i * x_stride + column];
                }
                *out = (float)(part->accumulate ? *out + sum : sum);
            }
            free(values);
        }
    }
}
