/* Reference of attention over one sequence: every score, then every weight, then every sum. */
#include "kernels/reference/reference.h"

#include "base/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A value as the cache keeps it. */
static double through_cache(enum kv_type type, float value) {
    if (type == KV_F16) {
        return tensor_f16_to_f32(tensor_f32_to_f16(value));
    }
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u; /* to nearest even; finite values only */
    memcpy(&value, &bits, sizeof bits);
    return value;
}

void ref_attention(float *out, const float *q, const float *k, const float *v, enum kv_type type, uint32_t rows,
                   uint32_t first_position, uint32_t query_heads, uint32_t kv_heads, uint32_t head_dim, float scale,
                   uint32_t window) {
    double *weights = malloc(((size_t)first_position + rows) * sizeof *weights);
    CHECK(weights != NULL);
    for (uint32_t query = 0; query < rows * query_heads; query++, q += head_dim, out += head_dim) {
        const uint32_t position = first_position + query / query_heads, head = query % query_heads;
        const size_t kv_head = head / (query_heads / kv_heads);
        const uint32_t first = window > 0 && position >= window ? position + 1 - window : 0;
        double largest = -INFINITY, total = 0;
        for (uint32_t t = first; t <= position; t++) {
            const float *key = k + (t * kv_heads + kv_head) * head_dim;
            weights[t] = 0;
            for (uint32_t i = 0; i < head_dim; i++) {
                weights[t] += q[i] * through_cache(type, key[i]) * scale;
            }
            largest = fmax(largest, weights[t]);
        }
        for (uint32_t t = first; t <= position; t++) {
            weights[t] = exp(weights[t] - largest);
            total += weights[t];
        }
        for (uint32_t i = 0; i < head_dim; i++) {
            double sum = 0;
            for (uint32_t t = first; t <= position; t++) {
                sum += weights[t] * through_cache(type, v[(t * kv_heads + kv_head) * head_dim + i]);
            }
            out[i] = (float)(sum / total);
        }
    }
    free(weights);
}
