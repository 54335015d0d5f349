/* References of the ops that work row by row. */
#include "kernels/reference/reference.h"

#include <math.h>
#include <string.h>

void ref_rmsnorm(float *out, const float *x, const float *gain, float epsilon, uint32_t n, uint32_t dim) {
    for (uint32_t row = 0; row < n; row++, x += dim, out += dim) {
        double squares = 0;
        for (uint32_t i = 0; i < dim; i++) {
            squares += (double)x[i] * x[i];
        }
        double scale = 1 / sqrt(squares / dim + epsilon);
        for (uint32_t i = 0; i < dim; i++) {
            out[i] = (float)(x[i] * scale * gain[i]);
        }
    }
}

void ref_rmsnorm_add(float *out, const float *x, const float *gain, float epsilon, uint32_t n, uint32_t dim) {
    for (uint32_t row = 0; row < n; row++, x += dim, out += dim) {
        double squares = 0;
        for (uint32_t i = 0; i < dim; i++) {
            squares += (double)x[i] * x[i];
        }
        double scale = 1 / sqrt(squares / dim + epsilon);
        for (uint32_t i = 0; i < dim; i++) {
            out[i] = (float)(out[i] + x[i] * scale * gain[i]);
        }
    }
}

void ref_layernorm(float *out, const float *x, const float *gain, const float *bias, float epsilon, uint32_t n,
                   uint32_t dim) {
    for (uint32_t row = 0; row < n; row++, x += dim, out += dim) {
        double sum = 0, squares = 0;
        for (uint32_t i = 0; i < dim; i++) {
            sum += x[i];
        }
        const double mean = sum / dim;
        for (uint32_t i = 0; i < dim; i++) {
            squares += (x[i] - mean) * (x[i] - mean);
        }
        double scale = 1 / sqrt(squares / dim + epsilon);
        for (uint32_t i = 0; i < dim; i++) {
            out[i] = (float)((x[i] - mean) * scale * gain[i] + bias[i]);
        }
    }
}

void ref_add_rows(float *out, const float *table, const uint32_t *ids, uint32_t n, uint32_t dim) {
    for (uint32_t row = 0; row < n; row++) {
        for (uint32_t i = 0; i < dim; i++) {
            *out++ += table[(size_t)ids[row] * dim + i];
        }
    }
}

void ref_scale(float *x, float factor, uint32_t n, uint32_t dim) {
    for (size_t i = 0; i < (size_t)n * dim; i++) {
        x[i] *= factor;
    }
}

/* The angle itself is a product of floats, as in the programs that models are trained with. */
void ref_rope_angles(float *angles, const uint32_t *positions, const float *frequency, float magnitude, uint32_t n,
                     uint32_t pairs) {
    for (uint32_t row = 0; row < n; row++) {
        for (uint32_t i = 0; i < pairs; i++) {
            double angle = (float)positions[row] * frequency[i];
            *angles++ = (float)(cos(angle) * magnitude);
            *angles++ = (float)(sin(angle) * magnitude);
        }
    }
}

void ref_rope(float *x, size_t x_stride, const float *angles, enum rope_style style, uint32_t n, uint32_t heads,
              uint32_t head_dim, uint32_t pairs) {
    for (uint32_t row = 0; row < n; row++) {
        for (uint32_t head = 0; head < heads; head++) {
            float *values = x + row * x_stride + (size_t)head * head_dim;
            for (uint32_t i = 0; i < pairs; i++) {
                float *a = style == ROPE_INTERLEAVED ? &values[2 * i] : &values[i];
                float *b = style == ROPE_INTERLEAVED ? &values[2 * i + 1] : &values[i + pairs];
                double cosine = angles[(row * (size_t)pairs + i) * 2];
                double sine = angles[(row * (size_t)pairs + i) * 2 + 1];
                double turned_a = *a * cosine - *b * sine;
                double turned_b = *a * sine + *b * cosine;
                *a = (float)turned_a;
                *b = (float)turned_b;
            }
        }
    }
}

static double activated(enum activation activation, double x) {
    switch (activation) {
    case ACTIVATION_SILU:
        return x / (1 + exp(-x));
    case ACTIVATION_GELU_TANH: /* (1 + tanh(u)) / 2 = 1 / (1 + exp(-2u)), which keeps its digits for u far below 0 */
        return x / (1 + exp(-2 * sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case ACTIVATION_RELU:
        return x < 0 ? 0 : x;
    case ACTIVATIONS:
        break;
    }
    return NAN;
}

void ref_gated(enum activation activation, float *out, const float *gate, const float *up, uint32_t n, uint32_t dim) {
    for (size_t i = 0; i < (size_t)n * dim; i++) {
        out[i] = (float)(activated(activation, gate[i]) * up[i]);
    }
}

void ref_activate(enum activation activation, float *out, const float *x, uint32_t n, uint32_t dim) {
    for (size_t i = 0; i < (size_t)n * dim; i++) {
        out[i] = (float)activated(activation, x[i]);
    }
}

void ref_gather(float *out, const float *x, const uint32_t *rows, uint32_t n, uint32_t dim) {
    for (uint32_t row = 0; row < n; row++) {
        memcpy(out + (size_t)row * dim, x + (size_t)rows[row] * dim, dim * sizeof *out);
    }
}

void ref_argmax(uint32_t *out, const float *logits, uint32_t n, uint32_t vocabulary) {
    for (uint32_t row = 0; row < n; row++, logits += vocabulary) {
        out[row] = 0;
        float most = -INFINITY;
        bool found = false;
        for (uint32_t i = 0; i < vocabulary; i++) {
            if (logits[i] > most || (!found && logits[i] == most)) {
                out[row] = i;
                most = logits[i];
                found = true;
            }
        }
    }
}
