/* The simple ops' row kernels, in the words of vector.h. Included by rows_scalar.c, rows_avx2.c and rows_avx512.c,
 * which define ROW_KERNELS, the name of the table that comes out.
 *
 * The order of every sum is fixed and the same for 8 and 16 lanes, and a tail goes through the same arithmetic as the
 * middle, so a row has one result. Threads: any; pure. */
#ifndef METRONOME_KERNELS_CPU_ROWS_KERNELS_H
#define METRONOME_KERNELS_CPU_ROWS_KERNELS_H

#include "kernels/cpu/rows.h"
#include "kernels/cpu/vector.h"

#if defined(__AVX512VNNI__)
INLINE f32v f32_divide(f32v a, f32v b) {
    return _mm512_div_ps(a, b);
}
#elif defined(__AVX2__)
INLINE f32v f32_divide(f32v a, f32v b) {
    return _mm256_div_ps(a, b);
}
#else
INLINE f32v f32_divide(f32v a, f32v b) {
    EACH_LANE(f32v, a.lane[i] / b.lane[i]);
}
#endif

/* Sums and maxima run in this many lanes, enough to hide the latency of an FMA. */
#define WIDE 64
#define VECTORS (WIDE / LANES)

/* What a sum adds for each value. */
enum term { TERM_VALUE, TERM_SQUARE, TERM_SQUARE_ABOUT };

/* One vector of values, of which the first `count` lanes are there, added to `sum`. */
INLINE f32v add_term(const enum term term, f32v sum, f32v value, f32v about, int count) {
    if (term == TERM_VALUE) {
        return f32_add(sum, value);
    }
    if (term == TERM_SQUARE_ABOUT) {
        value = f32_keep_first(f32_sub(value, about), count, f32_set(0));
    }
    return f32_fma(value, value, sum);
}

/* Lane i takes values i, i + 64, ...; then the lanes are halved onto each other. */
INLINE float sum_of(const enum term term, const float *x, float centre, uint32_t count) {
    const f32v about = f32_set(centre);
    f32v sums[VECTORS];
    for (int v = 0; v < VECTORS; v++) {
        sums[v] = f32_set(0);
    }
    uint32_t i = 0;
    for (; i + WIDE <= count; i += WIDE) {
        UNROLL
        for (int v = 0; v < VECTORS; v++) {
            sums[v] = add_term(term, sums[v], f32_load(x + i + v * LANES), about, LANES);
        }
    }
    for (int v = 0; i < count; v++, i += LANES) {
        const int left = (int)(count - i);
        sums[v] = add_term(term, sums[v], f32_load_first(x + i, left), about, left);
    }
    float lanes[WIDE];
    for (int v = 0; v < VECTORS; v++) {
        f32_store(lanes + v * LANES, sums[v]);
    }
    for (int half = WIDE / 2; half > 0; half /= 2) {
        for (int lane = 0; lane < half; lane++) {
            lanes[lane] += lanes[lane + half];
        }
    }
    return lanes[0];
}

static void rmsnorm(float *out, const float *x, const float *gain, float epsilon, uint32_t dim) {
    const f32v scale = f32_set(1.0f / sqrtf(sum_of(TERM_SQUARE, x, 0, dim) / (float)dim + epsilon));
    uint32_t i = 0;
    for (; i + LANES <= dim; i += LANES) {
        f32_store(out + i, f32_mul(f32_mul(f32_load(x + i), scale), f32_load(gain + i)));
    }
    if (i < dim) {
        int left = (int)(dim - i);
        f32v value = f32_mul(f32_load_first(x + i, left), scale);
        f32_store_first(out + i, f32_mul(value, f32_load_first(gain + i, left)), left);
    }
}

static void rmsnorm_add(float *out, const float *x, const float *gain, float epsilon, uint32_t dim) {
    const f32v scale = f32_set(1.0f / sqrtf(sum_of(TERM_SQUARE, x, 0, dim) / (float)dim + epsilon));
    uint32_t i = 0;
    for (; i + LANES <= dim; i += LANES) {
        const f32v value = f32_mul(f32_mul(f32_load(x + i), scale), f32_load(gain + i));
        f32_store(out + i, f32_add(f32_load(out + i), value));
    }
    if (i < dim) {
        int left = (int)(dim - i);
        const f32v value = f32_mul(f32_mul(f32_load_first(x + i, left), scale), f32_load_first(gain + i, left));
        f32_store_first(out + i, f32_add(f32_load_first(out + i, left), value), left);
    }
}

static void layernorm(float *out, const float *x, const float *gain, const float *bias, float epsilon, uint32_t dim) {
    const float centre = sum_of(TERM_VALUE, x, 0, dim) / (float)dim;
    const float variance = sum_of(TERM_SQUARE_ABOUT, x, centre, dim) / (float)dim;
    const f32v mean = f32_set(centre), scale = f32_set(1.0f / sqrtf(variance + epsilon));
    uint32_t i = 0;
    for (; i + LANES <= dim; i += LANES) {
        const f32v value = f32_mul(f32_sub(f32_load(x + i), mean), scale);
        f32_store(out + i, f32_fma(value, f32_load(gain + i), f32_load(bias + i)));
    }
    if (i < dim) {
        int left = (int)(dim - i);
        const f32v value = f32_mul(f32_sub(f32_load_first(x + i, left), mean), scale);
        f32_store_first(out + i, f32_fma(value, f32_load_first(gain + i, left), f32_load_first(bias + i, left)), left);
    }
}

/* Plain loops: the compiler makes vectors of them, element by element the same. */
static void rotate_interleaved(float *x, const float *restrict angles, uint32_t pairs) {
    for (uint32_t i = 0; i < pairs; i++) {
        float cosine = angles[2 * i], sine = angles[2 * i + 1];
        float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * cosine - b * sine;
        x[2 * i + 1] = a * sine + b * cosine;
    }
}

static void rotate_halves(float *restrict first, float *restrict second, const float *restrict angles, uint32_t pairs) {
    for (uint32_t i = 0; i < pairs; i++) {
        float cosine = angles[2 * i], sine = angles[2 * i + 1];
        float a = first[i], b = second[i];
        first[i] = a * cosine - b * sine;
        second[i] = a * sine + b * cosine;
    }
}

static void rope(float *x, const float *angles, enum rope_style style, uint32_t heads, uint32_t head_dim,
                 uint32_t pairs) {
    for (uint32_t head = 0; head < heads; head++, x += head_dim) {
        if (style == ROPE_INTERLEAVED) {
            rotate_interleaved(x, angles, pairs);
        } else {
            rotate_halves(x, x + pairs, angles, pairs);
        }
    }
}

/* x / (1 + exp(-s)), where s has the sign of x: (max(x, 0) + min(x, 0) e) / (1 + e) with e = exp(-|s|), which nothing
 * overflows. s is x (SiLU) or 2 sqrt(2 / pi) (x + 0.044715 x^3) (GELU). NaN stays NaN. */
INLINE f32v activated(const enum activation activation, f32v x) {
    const f32v zero = f32_set(0), above = f32_max(zero, x);
    if (activation == ACTIVATION_RELU) {
        return above;
    }
    const f32v below = f32_max(zero, f32_sub(zero, x));
    f32v magnitude = f32_add(above, below);
    if (activation == ACTIVATION_GELU_TANH) {
        const f32v cubic = f32_fma(f32_mul(magnitude, magnitude), f32_set(0.07135481282f), f32_set(1.59576912161f));
        magnitude = f32_mul(magnitude, cubic);
    }
    const f32v e = f32_exp_negative(f32_sub(zero, magnitude));
    return f32_divide(f32_sub(above, f32_mul(below, e)), f32_add(f32_set(1), e));
}

INLINE void gated_by(const enum activation activation, float *out, const float *gate, const float *up, uint32_t dim) {
    uint32_t i = 0;
    for (; i + LANES <= dim; i += LANES) {
        f32_store(out + i, f32_mul(activated(activation, f32_load(gate + i)), f32_load(up + i)));
    }
    if (i < dim) {
        int left = (int)(dim - i);
        f32v value = activated(activation, f32_load_first(gate + i, left));
        f32_store_first(out + i, f32_mul(value, f32_load_first(up + i, left)), left);
    }
}

INLINE void activate_by(const enum activation activation, float *out, const float *x, uint32_t dim) {
    uint32_t i = 0;
    for (; i + LANES <= dim; i += LANES) {
        f32_store(out + i, activated(activation, f32_load(x + i)));
    }
    if (i < dim) {
        int left = (int)(dim - i);
        f32_store_first(out + i, activated(activation, f32_load_first(x + i, left)), left);
    }
}

/* Calls function(activation, ...) with a constant for the activation. */
#define WITH_ACTIVATION(activation, function, ...)         \
    do {                                                   \
        if ((activation) == ACTIVATION_SILU) {             \
            function(ACTIVATION_SILU, __VA_ARGS__);        \
        } else if ((activation) == ACTIVATION_GELU_TANH) { \
            function(ACTIVATION_GELU_TANH, __VA_ARGS__);   \
        } else {                                           \
            function(ACTIVATION_RELU, __VA_ARGS__);        \
        }                                                  \
    } while (0)

static void gated(enum activation activation, float *out, const float *gate, const float *up, uint32_t dim) {
    WITH_ACTIVATION(activation, gated_by, out, gate, up, dim);
}

static void activate(enum activation activation, float *out, const float *x, uint32_t dim) {
    WITH_ACTIVATION(activation, activate_by, out, x, dim);
}

/* -infinity for values that are all NaN: f32_max(NaN, b) is b. */
static float largest(const float *values, uint32_t count) {
    const f32v nothing = f32_set(-INFINITY);
    f32v most[VECTORS];
    for (int v = 0; v < VECTORS; v++) {
        most[v] = nothing;
    }
    uint32_t i = 0;
    for (; i + WIDE <= count; i += WIDE) {
        UNROLL
        for (int v = 0; v < VECTORS; v++) {
            most[v] = f32_max(f32_load(values + i + v * LANES), most[v]);
        }
    }
    for (int v = 0; i < count; v++, i += LANES) {
        int left = (int)(count - i);
        most[v] = f32_max(f32_keep_first(f32_load_first(values + i, left), left, nothing), most[v]);
    }
    for (int v = 1; v < VECTORS; v++) {
        most[0] = f32_max(most[v], most[0]);
    }
    float lanes[LANES];
    f32_store(lanes, most[0]);
    for (int lane = 1; lane < LANES; lane++) {
        lanes[0] = lanes[lane] > lanes[0] ? lanes[lane] : lanes[0];
    }
    return lanes[0];
}

/* Finds the first block that holds the largest value, then the value in it: one pass over the row. */
static uint32_t argmax(const float *logits, uint32_t vocabulary) {
    enum { BLOCK = 512 };
    uint32_t best_block = 0;
    float best = -INFINITY;
    for (uint32_t block = 0; block < vocabulary; block += BLOCK) {
        uint32_t left = vocabulary - block;
        float value = largest(logits + block, left < BLOCK ? left : BLOCK);
        if (value > best) {
            best = value;
            best_block = block;
        }
    }
    for (uint32_t i = best_block; i < vocabulary; i++) {
        if (logits[i] == best) {
            return i;
        }
    }
    return 0; /* all of them are NaN */
}

const struct row_kernels ROW_KERNELS = {
    .rmsnorm = rmsnorm,
    .rmsnorm_add = rmsnorm_add,
    .layernorm = layernorm,
    .rope = rope,
    .gated = gated,
    .activate = activate,
    .argmax = argmax,
};

#endif
