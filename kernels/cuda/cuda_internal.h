/* The inside of the `cuda` device, for the files of kernels/cuda/ only. Read by C and by CUDA C++.
 *
 * The same sources are compiled twice: by nvcc for GPUs, and by the C++ compiler against tests/cuemu, which has a twin
 * of the language and of the part of the runtime that is used here. So includes are <cuda_runtime_api.h>, and in
 * kernels kernels/cuda/kernel.cuh; whatever C++ cannot spell (a launch, dynamic shared memory, PTX) is in there.
 *
 * How an op is made: its function in the backend table (cuda_rmsnorm, ...) is `extern "C"`, picks a kernel and calls
 * launch() of kernel.cuh, once or several times. Nothing on this path allocates or waits for the GPU. A call that
 * CUDA refuses goes to cuda_check(), which makes the stream fail; on a failed stream launch() does nothing.
 *
 * Invariance: what a row gets may depend on the arguments' shapes other than the number of rows, never on that
 * number, on the row's place in the call or on the GPU's number of multiprocessors: sums go in one fixed order. The
 * one exception is matmul_library.cu, which device_config.invariant turns off.
 *
 * Threads: the host's, but for *_packed_bytes() and *_pack(), which are pure. */
#ifndef METRONOME_KERNELS_CUDA_CUDA_INTERNAL_H
#define METRONOME_KERNELS_CUDA_CUDA_INTERNAL_H

#include "kernels/device_internal.h"

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The first thing that a kernel found wrong with its input: in pinned memory that kernels write (cuda_report() of
 * kernel.cuh) and the host reads when it waits for a stream. */
struct cuda_fault {
    uint32_t kind; /* enum cuda_fault_kind; CUDA_FAULT_NONE while all is well; written last */
    uint32_t row;
    uint32_t value;
    uint32_t bound;
};
enum cuda_fault_kind {
    CUDA_FAULT_NONE,
    CUDA_FAULT_CLAIMED,  /* being written */
    CUDA_FAULT_EMBED_ID, /* row, id, and the table's rows */
    CUDA_FAULT_ADD_ROWS_ID,
    CUDA_FAULT_LATE_RANK, /* row: the one that a sum waited for; value: how long, in seconds */
};

struct cuda_machine;   /* device.c: memory, clock, counts */
struct cuda_matmul;    /* matmul*.cu: its scratch */
struct cuda_attention; /* attention*.cu: its scratch */
struct cuda_library;   /* matmul_library.cu: cuBLAS and its scratch */

struct cuda_device {
    struct device base;
    enum compute_mode compute;
    bool invariant;                   /* asked for: cuBLAS is left alone */
    bool library_missing;             /* it was looked for, and the log has been told */
    uint32_t library_rows;            /* device_config's */
    int ordinal;                      /* which GPU */
    int capability;                   /* 10 * major + minor: 80, 86, 89, 90 */
    int multiprocessors;              /* to choose launch shapes by; never the order of a sum */
    size_t shared_bytes;              /* the most dynamic shared memory that a block may ask for (opt-in) */
    struct cuda_fault *fault;         /* device-readable and -writable, pinned */
    struct cuda_machine *machine;     /* never NULL */
    struct cuda_matmul *matmul;       /* NULL until cuda_matmul_prepare() */
    struct cuda_attention *attention; /* NULL until cuda_attention_prepare() */
    void *sample;                     /* sample.cu: its scratch for `sample_rows` rows; NULL until it is prepared */
    uint32_t sample_rows;
    struct cuda_library *library; /* NULL until cuda_matmul_prepare(), and where own kernels do all */
};

/* The streams of ranks whose kernels wait for each other's (peer.c). What is held back of them goes to their GPUs
 * together, and when the host learns that one has failed, it lets go of the others' kernels. */
struct cuda_group {
    struct cuda_stream *stream[DEVICE_MOST_RANKS]; /* NULL: none, or destroyed */
    uint32_t ranks;
    uint32_t *let_go; /* in pinned memory: not 0 tells kernels to wait no longer */
};

struct cuda_stream {
    struct stream base;
    cudaStream_t handle;      /* for list.c and stream.c; others ask cuda_stream_handle() */
    struct status failure;    /* STATUS_OK until the stream has failed */
    struct cuda_list *list;   /* NULL: whatever is enqueued goes to CUDA at once */
    struct cuda_group *group; /* NULL: no other GPU waits for this stream's kernels */
};

static inline struct cuda_device *cuda_device_of(const struct stream *stream) {
    return (struct cuda_device *)stream->device;
}
static inline struct cuda_stream *cuda_stream_of(struct stream *stream) {
    return (struct cuda_stream *)stream;
}

/* To enqueue on the stream by another way than launch() and the functions of device.h, as libraries do: all that was
 * enqueued before is on it when this returns. The stream's GPU must be the thread's. */
cudaStream_t cuda_stream_handle(struct stream *stream);

/* What launch() of kernel.cuh calls: enqueues a kernel with a copy of its arguments, of which there are `count` of
 * sizes[i] bytes; `sizes` lasts as long as the program. Does nothing on a failed stream. */
void cuda_launch(struct stream *stream, const struct cudaKernelNodeParams *params, const size_t *sizes, uint32_t count);

/* The status of a failed CUDA call: "cudaMalloc: out of memory (cudaErrorMemoryAllocation)". */
struct status cuda_status(cudaError_t error, const char *call);

/* Makes the stream fail with `status`, if it has not failed before. */
void cuda_fail(struct stream *stream, struct status status);

/* Makes the stream fail with what `call` said, unless it said cudaSuccess. True if the stream goes on. */
bool cuda_check(struct stream *stream, cudaError_t error, const char *call);

/* Makes these streams, of which each is a rank's, the group's. What was its before is waited for and leaves it. */
void cuda_group_join(struct cuda_group *group, struct stream *const *streams);

/* True while nothing has failed on the stream. */
static inline bool cuda_stream_ready(struct stream *stream) {
    return cuda_stream_of(stream)->failure.code == STATUS_OK;
}

/* Device memory for scratch, at device_prepare(): counted as any other. `what` names it in errors. */
struct status cuda_scratch_alloc(struct cuda_device *device, size_t bytes, const char *what, void **out);
void cuda_scratch_free(struct cuda_device *device, void *address); /* NULL is allowed */

/* ---- the KV cache's layout ----
 * A layer's part of a block is keys, then values, each (kv_heads, KV_BLOCK_TOKENS, head_dim) of 16 bits. These are the
 * byte offsets of one head's in a block; kernels use them, too. */
#ifdef __CUDACC__
#define CUDA_HOST_DEVICE __host__ __device__
#else
#define CUDA_HOST_DEVICE
#endif
CUDA_HOST_DEVICE static inline size_t cuda_kv_key_offset(const struct kv_shape *shape, uint32_t layer,
                                                         uint32_t kv_head) {
    const size_t head_bytes = (size_t)KV_BLOCK_TOKENS * shape->head_dim * 2;
    return ((size_t)layer * 2 * shape->kv_heads + kv_head) * head_bytes;
}
CUDA_HOST_DEVICE static inline size_t cuda_kv_value_offset(const struct kv_shape *shape, uint32_t layer,
                                                           uint32_t kv_head) {
    return cuda_kv_key_offset(shape, layer, shape->kv_heads + kv_head);
}

/* ---- the ops, with the signatures of struct backend ---- */

/* dequant*.c, matmul*.cu. The packed layout is described in kernels/cuda/packed.h, and kernels/cuda/dequant.cuh has
 *     template <enum tensor_type TYPE>
 *     __device__ float packed_value(const void *packed, uint32_t columns, uint32_t row, uint32_t column);
 * the exact value of one weight, for op_embed. */
size_t cuda_packed_bytes(const struct device *device, enum tensor_type type, uint32_t rows, uint32_t columns);
void cuda_pack(const struct device *device, enum tensor_type type, uint32_t rows, uint32_t columns, const void *source,
               void *packed);
void cuda_matmul(struct stream *stream, const struct matmul_part *parts, uint32_t count, const float *x,
                 size_t x_stride, uint32_t n);
/* Scratch for these limits into device->matmul, which is NULL; from device_prepare() with nothing in flight. Release
 * frees it (NULL is allowed) and sets it to NULL. */
struct status cuda_matmul_prepare(struct cuda_device *device, const struct device_limits *limits);
void cuda_matmul_release(struct cuda_device *device);

/* attention*.cu */
void cuda_attention(struct stream *stream, float *out, size_t out_stride, const float *q, size_t q_stride,
                    const struct kv_batch *batch, uint32_t layer, uint32_t query_heads, float scale, uint32_t window);
struct status cuda_attention_prepare(struct cuda_device *device, const struct device_limits *limits);
void cuda_attention_release(struct cuda_device *device);

/* rows.cu: what works on whole rows of tables */
void cuda_embed(struct stream *stream, float *out, struct weight table, const uint32_t *ids, uint32_t n);
void cuda_add_rows(struct stream *stream, float *out, const float *table, uint32_t rows, const uint32_t *ids,
                   uint32_t n, uint32_t dim);
void cuda_gather(struct stream *stream, float *out, const float *x, const uint32_t *rows, uint32_t n, uint32_t dim);

/* norm.cu */
void cuda_rmsnorm(struct stream *stream, float *out, const float *x, const float *gain, float epsilon, uint32_t n,
                  uint32_t dim);
void cuda_rmsnorm_add(struct stream *stream, float *out, const float *x, const float *gain, float epsilon, uint32_t n,
                      uint32_t dim);
void cuda_layernorm(struct stream *stream, float *out, const float *x, const float *gain, const float *bias,
                    float epsilon, uint32_t n, uint32_t dim);

/* elementwise.cu */
void cuda_gated(struct stream *stream, enum activation activation, float *out, const float *gate, const float *up,
                uint32_t n, uint32_t dim);
void cuda_activate(struct stream *stream, enum activation activation, float *out, const float *x, uint32_t n,
                   uint32_t dim);
void cuda_scale(struct stream *stream, float *x, float factor, uint32_t n, uint32_t dim);

/* rope.cu */
void cuda_rope_angles(struct stream *stream, float *angles, const uint32_t *positions, const float *frequency,
                      float magnitude, uint32_t n, uint32_t pairs);
void cuda_rope(struct stream *stream, float *x, size_t x_stride, const float *angles, enum rope_style style, uint32_t n,
               uint32_t heads, uint32_t head_dim, uint32_t pairs);

/* kv_store.cu */
void cuda_kv_store(struct stream *stream, const struct kv_batch *batch, uint32_t layer, const float *k, size_t k_stride,
                   const float *v, size_t v_stride);

/* argmax.cu */
void cuda_argmax(struct stream *stream, uint32_t *out, const float *logits, uint32_t n, uint32_t vocabulary);

/* sample.cu */
void cuda_sample(struct stream *stream, uint32_t *out, float *logits, const struct sample_batch *batch, uint32_t n,
                 uint32_t vocabulary);
struct status cuda_sample_prepare(struct cuda_device *device, const struct device_limits *limits);
void cuda_sample_release(struct cuda_device *device);

#ifdef __cplusplus
}
#endif

#endif
