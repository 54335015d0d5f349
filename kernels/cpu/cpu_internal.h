/* The inside of the `cpu` device, for the files of kernels/cpu/ only.
 *
 * How an op is made: its public function in the backend table (cpu_matmul, ...) runs on the host thread, puts its
 * arguments into a struct of at most CPU_ARGUMENT_BYTES and calls cpu_enqueue(). The stream's thread later calls the
 * `run` function with a copy of them; `run` may share its work out with cpu_parallel(). Nothing on this path
 * allocates. Ops of all streams run one at a time (the device is one machine, full when it works), so `run` and its
 * tasks have the device's scratch to themselves; copies and waits run beside them.
 *
 * Invariance: what a task computes may depend on its index and on the arguments, never on `worker`, on the number of
 * threads or on the other rows of the call. */
#ifndef METRONOME_KERNELS_CPU_CPU_INTERNAL_H
#define METRONOME_KERNELS_CPU_CPU_INTERNAL_H

#include "kernels/device_internal.h"

#include <stddef.h>
#include <stdint.h>

#define CPU_MAX_THREADS 256
#define CPU_ARGUMENT_BYTES 2816 /* a matmul of MATMUL_MAX_PARTS parts; an op copies only what it uses */
#define CPU_ALIGNMENT 64        /* of every buffer: a cache line, one AVX-512 register */

/* The instruction sets that kernels are built for, each including those before it. Chosen at device_open(). */
enum cpu_isa {
    CPU_SCALAR,
    CPU_AVX2,   /* AVX2, FMA, F16C: files *_avx2.c */
    CPU_AVX512, /* the same and AVX-512 F, BW, VL, DQ, VNNI: files *_avx512.c */
};

struct cpu_math;    /* pack.c, matmul.c, attention.c, sample.c: their scratch, sized by device_prepare() */
struct cpu_machine; /* device.c: memory, link, pool, streams */

struct cpu_device {
    struct device base;
    enum cpu_isa isa;
    enum compute_mode compute;
    uint32_t threads;            /* workers, the stream's own thread included: 0 < threads <= CPU_MAX_THREADS */
    struct cpu_math *math;       /* NULL until cpu_math_prepare() */
    struct cpu_machine *machine; /* never NULL */
};

struct cpu_stream;

/* The device that a stream belongs to, on either side of the queue. */
struct cpu_device *cpu_stream_device(struct cpu_stream *stream);
static inline struct cpu_device *cpu_device_of(const struct stream *stream) {
    return (struct cpu_device *)stream->device;
}

/* What a command does, on the stream's thread. `arguments` is aligned to 16 bytes and the callee's to change. */
typedef void cpu_run(struct cpu_stream *stream, void *arguments);

/* Copies `bytes` <= CPU_ARGUMENT_BYTES of arguments into the stream's queue; blocks while the queue is full. */
void cpu_enqueue(struct stream *stream, cpu_run *run, const void *arguments, size_t bytes);

/* The same for what has to run on a stream that has failed, too; it does not have the device to itself. */
void cpu_enqueue_always(struct stream *stream, cpu_run *run, const void *arguments, size_t bytes);

/* What the stream has failed with, NULL if it has not: called from `run`. */
const struct status *cpu_failure(const struct cpu_stream *stream);

/* Makes the stream fail with `status`: called from `run`; what is enqueued after it is skipped. */
void cpu_fail(struct cpu_stream *stream, struct status status);

/* Calls task(context, index, worker) for every index < tasks, on the calling thread (worker 0) and on the pool
 * (workers 1 .. threads-1), and returns when all are done. Each index goes to whoever is free next, ascending. Only
 * from a `run` function. About a microsecond when hot, so a task should be worth more than that. */
typedef void cpu_task(void *context, uint32_t index, uint32_t worker);
void cpu_parallel(struct cpu_device *device, uint32_t tasks, cpu_task *task, void *context);

/* ---- the ops, with the signatures of struct backend ---- */

/* simple.c */
void cpu_rmsnorm(struct stream *stream, float *out, const float *x, const float *gain, float epsilon, uint32_t n,
                 uint32_t dim);
void cpu_rmsnorm_add(struct stream *stream, float *out, const float *x, const float *gain, float epsilon, uint32_t n,
                     uint32_t dim);
void cpu_layernorm(struct stream *stream, float *out, const float *x, const float *gain, const float *bias,
                   float epsilon, uint32_t n, uint32_t dim);
void cpu_rope_angles(struct stream *stream, float *angles, const uint32_t *positions, const float *frequency,
                     float magnitude, uint32_t n, uint32_t pairs);
void cpu_rope(struct stream *stream, float *x, size_t x_stride, const float *angles, enum rope_style style, uint32_t n,
              uint32_t heads, uint32_t head_dim, uint32_t pairs);
void cpu_gated(struct stream *stream, enum activation activation, float *out, const float *gate, const float *up,
               uint32_t n, uint32_t dim);
void cpu_activate(struct stream *stream, enum activation activation, float *out, const float *x, uint32_t n,
                  uint32_t dim);
void cpu_scale(struct stream *stream, float *x, float factor, uint32_t n, uint32_t dim);
void cpu_gather(struct stream *stream, float *out, const float *x, const uint32_t *rows, uint32_t n, uint32_t dim);
void cpu_argmax(struct stream *stream, uint32_t *out, const float *logits, uint32_t n, uint32_t vocabulary);

/* pack*.c, matmul*.c, embed.c */
size_t cpu_packed_bytes(const struct device *device, enum tensor_type type, uint32_t rows, uint32_t columns);
void cpu_pack(const struct device *device, enum tensor_type type, uint32_t rows, uint32_t columns, const void *source,
              void *packed);
void cpu_matmul(struct stream *stream, const struct matmul_part *parts, uint32_t count, const float *x, size_t x_stride,
                uint32_t n);
/* An id that is not below table.rows makes the stream fail (STATUS_DEVICE, with the row, the id and the bound). */
void cpu_embed(struct stream *stream, float *out, struct weight table, const uint32_t *ids, uint32_t n);
void cpu_add_rows(struct stream *stream, float *out, const float *table, uint32_t rows, const uint32_t *ids, uint32_t n,
                  uint32_t dim); /* the same */

/* attention*.c */
void cpu_kv_store(struct stream *stream, const struct kv_batch *batch, uint32_t layer, const float *k, size_t k_stride,
                  const float *v, size_t v_stride);
void cpu_attention(struct stream *stream, float *out, size_t out_stride, const float *q, size_t q_stride,
                   const struct kv_batch *batch, uint32_t layer, uint32_t query_heads, float scale, uint32_t window);

/* sample*.c */
void cpu_sample(struct stream *stream, uint32_t *out, float *logits, const struct sample_batch *batch, uint32_t n,
                uint32_t vocabulary);
size_t cpu_sample_bytes(uint32_t vocabulary); /* of each worker's scratch */

/* Allocates the scratch of matmul, attention and sampling for these limits into device->math, which is NULL; called
 * from device_prepare() with nothing in flight. Release frees it (NULL is allowed) and sets it to NULL. */
struct status cpu_math_prepare(struct cpu_device *device, const struct device_limits *limits);
void cpu_math_release(struct cpu_device *device);

#endif
