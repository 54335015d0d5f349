/* The simple ops of the `cpu` device: those that work row by row. Enqueues them and shares rows out over the pool.
 *
 * Does not hold the arithmetic: that is in rows_kernels.h. Threads: cpu_* the host's, run_* a stream's thread, share_*
 * and *_rows the pool's. */
#include "kernels/cpu/cpu_internal.h"
#include "kernels/cpu/rows.h"

#include <math.h>
#include <string.h>

/* Less work than this many values is not worth waking another core for. */
#define TASK_VALUES 16384

/* Every op's arguments begin with what it takes to share its rows out. */
struct share {
    const struct row_kernels *kernels;
    uint32_t rows;
    uint32_t rows_per_task;
};

static const struct row_kernels *kernels_of(const struct cpu_device *device) {
    switch (device->isa) {
    case CPU_AVX512:
        return &row_kernels_avx512;
    case CPU_AVX2:
        return &row_kernels_avx2;
    case CPU_SCALAR:
        break;
    }
    return &row_kernels_scalar;
}

static struct share share_of(const struct stream *stream, uint32_t rows, size_t values_per_row) {
    size_t rows_per_task = (TASK_VALUES + values_per_row - 1) / values_per_row;
    return (struct share){
        .kernels = kernels_of(cpu_device_of(stream)),
        .rows = rows,
        .rows_per_task = rows_per_task < rows ? (uint32_t)rows_per_task : rows,
    };
}

static void run_share(struct cpu_stream *stream, struct share *share, cpu_task *task) {
    uint32_t tasks = share->rows / share->rows_per_task + (share->rows % share->rows_per_task != 0);
    cpu_parallel(cpu_stream_device(stream), tasks, task, share);
}

/* The rows of one task, [first, end). */
static uint32_t share_first(const struct share *share, uint32_t index) {
    return index * share->rows_per_task;
}

static uint32_t share_end(const struct share *share, uint32_t index) {
    uint32_t left = share->rows - share_first(share, index);
    return share->rows - left + (left < share->rows_per_task ? left : share->rows_per_task);
}

#define EACH_ROW(arguments, index)                                                                             \
    for (uint32_t row = share_first(&(arguments)->share, index), end_ = share_end(&(arguments)->share, index); \
         row < end_; row++)

/* ---- rmsnorm ---- */

struct rmsnorm {
    struct share share;
    float *out;
    const float *x, *gain;
    float epsilon;
    uint32_t dim;
};

static void rmsnorm_rows(void *context, uint32_t index, uint32_t worker) {
    (void)worker;
    const struct rmsnorm *op = context;
    EACH_ROW(op, index) {
        size_t at = (size_t)row * op->dim;
        op->share.kernels->rmsnorm(op->out + at, op->x + at, op->gain, op->epsilon, op->dim);
    }
}

static void run_rmsnorm(struct cpu_stream *stream, void *arguments) {
    run_share(stream, arguments, rmsnorm_rows);
}

void cpu_rmsnorm(struct stream *stream, float *out, const float *x, const float *gain, float epsilon, uint32_t n,
                 uint32_t dim) {
    struct rmsnorm op = {share_of(stream, n, dim), out, x, gain, epsilon, dim};
    cpu_enqueue(stream, run_rmsnorm, &op, sizeof op);
}

static void rmsnorm_add_rows(void *context, uint32_t index, uint32_t worker) {
    (void)worker;
    const struct rmsnorm *op = context;
    EACH_ROW(op, index) {
        size_t at = (size_t)row * op->dim;
        op->share.kernels->rmsnorm_add(op->out + at, op->x + at, op->gain, op->epsilon, op->dim);
    }
}

static void run_rmsnorm_add(struct cpu_stream *stream, void *arguments) {
    run_share(stream, arguments, rmsnorm_add_rows);
}

void cpu_rmsnorm_add(struct stream *stream, float *out, const float *x, const float *gain, float epsilon, uint32_t n,
                     uint32_t dim) {
    struct rmsnorm op = {share_of(stream, n, dim), out, x, gain, epsilon, dim};
    cpu_enqueue(stream, run_rmsnorm_add, &op, sizeof op);
}

/* ---- layernorm ---- */

struct layernorm {
    struct share share;
    float *out;
    const float *x, *gain, *bias;
    float epsilon;
    uint32_t dim;
};

static void layernorm_rows(void *context, uint32_t index, uint32_t worker) {
    (void)worker;
    const struct layernorm *op = context;
    EACH_ROW(op, index) {
        size_t at = (size_t)row * op->dim;
        op->share.kernels->layernorm(op->out + at, op->x + at, op->gain, op->bias, op->epsilon, op->dim);
    }
}

static void run_layernorm(struct cpu_stream *stream, void *arguments) {
    run_share(stream, arguments, layernorm_rows);
}

void cpu_layernorm(struct stream *stream, float *out, const float *x, const float *gain, const float *bias,
                   float epsilon, uint32_t n, uint32_t dim) {
    struct layernorm op = {share_of(stream, n, dim), out, x, gain, bias, epsilon, dim};
    cpu_enqueue(stream, run_layernorm, &op, sizeof op);
}

/* ---- scale ---- */

struct scale {
    struct share share;
    float *x;
    float factor;
    uint32_t dim;
};

static void scale_rows(void *context, uint32_t index, uint32_t worker) {
    (void)worker;
    const struct scale *op = context;
    EACH_ROW(op, index) {
        float *x = op->x + (size_t)row * op->dim;
        for (uint32_t i = 0; i < op->dim; i++) {
            x[i] *= op->factor;
        }
    }
}

static void run_scale(struct cpu_stream *stream, void *arguments) {
    run_share(stream, arguments, scale_rows);
}

void cpu_scale(struct stream *stream, float *x, float factor, uint32_t n, uint32_t dim) {
    struct scale op = {share_of(stream, n, dim), x, factor, dim};
    cpu_enqueue(stream, run_scale, &op, sizeof op);
}

/* ---- rope ---- */

struct rope_angles {
    struct share share;
    float *angles;
    const uint32_t *positions;
    const float *frequency;
    float magnitude;
    uint32_t pairs;
};

static void rope_angles_rows(void *context, uint32_t index, uint32_t worker) {
    (void)worker;
    const struct rope_angles *op = context;
    EACH_ROW(op, index) {
        float *angles = op->angles + (size_t)row * op->pairs * 2;
        for (uint32_t i = 0; i < op->pairs; i++) {
            float sine, cosine;
            sincosf((float)op->positions[row] * op->frequency[i], &sine, &cosine);
            angles[2 * i] = cosine * op->magnitude;
            angles[2 * i + 1] = sine * op->magnitude;
        }
    }
}

static void run_rope_angles(struct cpu_stream *stream, void *arguments) {
    run_share(stream, arguments, rope_angles_rows);
}

void cpu_rope_angles(struct stream *stream, float *angles, const uint32_t *positions, const float *frequency,
                     float magnitude, uint32_t n, uint32_t pairs) {
    size_t values = (size_t)pairs * 32; /* sine and cosine take about this many times as long as other values */
    struct rope_angles op = {share_of(stream, n, values), angles, positions, frequency, magnitude, pairs};
    cpu_enqueue(stream, run_rope_angles, &op, sizeof op);
}

struct rope {
    struct share share;
    float *x;
    size_t x_stride;
    const float *angles;
    enum rope_style style;
    uint32_t heads, head_dim, pairs;
};

static void rope_rows(void *context, uint32_t index, uint32_t worker) {
    (void)worker;
    const struct rope *op = context;
    EACH_ROW(op, index) {
        op->share.kernels->rope(op->x + row * op->x_stride, op->angles + (size_t)row * op->pairs * 2, op->style,
                                op->heads, op->head_dim, op->pairs);
    }
}

static void run_rope(struct cpu_stream *stream, void *arguments) {
    run_share(stream, arguments, rope_rows);
}

void cpu_rope(struct stream *stream, float *x, size_t x_stride, const float *angles, enum rope_style style, uint32_t n,
              uint32_t heads, uint32_t head_dim, uint32_t pairs) {
    struct share share = share_of(stream, n, (size_t)heads * pairs * 2);
    struct rope op = {share, x, x_stride, angles, style, heads, head_dim, pairs};
    cpu_enqueue(stream, run_rope, &op, sizeof op);
}

/* ---- gated, activate ---- */

struct activation_op {
    struct share share;
    enum activation activation;
    float *out;
    const float *gate, *up; /* activate has no `up` */
    uint32_t dim;
};

static void gated_rows(void *context, uint32_t index, uint32_t worker) {
    (void)worker;
    const struct activation_op *op = context;
    EACH_ROW(op, index) {
        size_t at = (size_t)row * op->dim;
        op->share.kernels->gated(op->activation, op->out + at, op->gate + at, op->up + at, op->dim);
    }
}

static void run_gated(struct cpu_stream *stream, void *arguments) {
    run_share(stream, arguments, gated_rows);
}

void cpu_gated(struct stream *stream, enum activation activation, float *out, const float *gate, const float *up,
               uint32_t n, uint32_t dim) {
    struct activation_op op = {share_of(stream, n, dim), activation, out, gate, up, dim};
    cpu_enqueue(stream, run_gated, &op, sizeof op);
}

static void activate_rows(void *context, uint32_t index, uint32_t worker) {
    (void)worker;
    const struct activation_op *op = context;
    EACH_ROW(op, index) {
        size_t at = (size_t)row * op->dim;
        op->share.kernels->activate(op->activation, op->out + at, op->gate + at, op->dim);
    }
}

static void run_activate(struct cpu_stream *stream, void *arguments) {
    run_share(stream, arguments, activate_rows);
}

void cpu_activate(struct stream *stream, enum activation activation, float *out, const float *x, uint32_t n,
                  uint32_t dim) {
    struct activation_op op = {share_of(stream, n, dim), activation, out, x, NULL, dim};
    cpu_enqueue(stream, run_activate, &op, sizeof op);
}

/* ---- gather ---- */

struct gather {
    struct share share;
    float *out;
    const float *x;
    const uint32_t *rows;
    uint32_t dim;
};

static void gather_rows(void *context, uint32_t index, uint32_t worker) {
    (void)worker;
    const struct gather *op = context;
    EACH_ROW(op, index) {
        memcpy(op->out + (size_t)row * op->dim, op->x + (size_t)op->rows[row] * op->dim, op->dim * sizeof(float));
    }
}

static void run_gather(struct cpu_stream *stream, void *arguments) {
    run_share(stream, arguments, gather_rows);
}

void cpu_gather(struct stream *stream, float *out, const float *x, const uint32_t *rows, uint32_t n, uint32_t dim) {
    struct gather op = {share_of(stream, n, dim), out, x, rows, dim};
    cpu_enqueue(stream, run_gather, &op, sizeof op);
}

/* ---- argmax ---- */

struct argmax {
    struct share share;
    uint32_t *out;
    const float *logits;
    uint32_t vocabulary;
};

static void argmax_rows(void *context, uint32_t index, uint32_t worker) {
    (void)worker;
    const struct argmax *op = context;
    EACH_ROW(op, index) {
        op->out[row] = op->share.kernels->argmax(op->logits + (size_t)row * op->vocabulary, op->vocabulary);
    }
}

static void run_argmax(struct cpu_stream *stream, void *arguments) {
    run_share(stream, arguments, argmax_rows);
}

void cpu_argmax(struct stream *stream, uint32_t *out, const float *logits, uint32_t n, uint32_t vocabulary) {
    struct argmax op = {share_of(stream, n, vocabulary), out, logits, vocabulary};
    cpu_enqueue(stream, run_argmax, &op, sizeof op);
}
