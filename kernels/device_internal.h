/* What stands behind kernels/device.h and kernels/ops.h: one table of functions for each kind of device.
 *
 * Owns: the shape of that table and the first members of every device, stream and event. kernels/device.c and
 * kernels/ops.c check their arguments and call through it, so a backend's functions may take theirs as right.
 * For kernels/ only. Threads: as device.h says. */
#ifndef METRONOME_KERNELS_DEVICE_INTERNAL_H
#define METRONOME_KERNELS_DEVICE_INTERNAL_H

#include "kernels/device.h"
#include "kernels/ops.h"

struct collective;

/* The functions have the meaning of their namesakes in device.h and ops.h. Every slot is filled by every backend, but
 * for those that say otherwise. */
struct backend {
    const char *name;

    /* To be a rank of a team: what makes what ranks add up with (collective.h), and what makes the calls that follow on
     * this thread meet this device. NULL: open() sees to ranks itself; nothing is needed. */
    struct status (*join)(struct device *const *devices, uint32_t ranks, const struct device_config *config,
                          struct collective **out);
    void (*select)(const struct device *device);

    struct status (*open)(const struct device_config *config, struct device **out);
    void (*close)(struct device *device);
    struct device_info (*info)(const struct device *device);
    struct status (*prepare)(struct device *device, const struct device_limits *limits);

    struct status (*alloc)(struct device *device, size_t bytes, const char *what, void **out);
    void (*free)(struct device *device, void *address);
    struct status (*alloc_host)(struct device *device, size_t bytes, const char *what, void **out);
    void (*free_host)(struct device *device, void *address);

    size_t (*packed_bytes)(const struct device *device, enum tensor_type type, uint32_t rows, uint32_t columns);
    void (*pack)(const struct device *device, enum tensor_type type, uint32_t rows, uint32_t columns,
                 const void *source, void *packed);

    struct status (*stream_create)(struct device *device, enum stream_kind kind, struct stream **out);
    void (*stream_destroy)(struct stream *stream);
    struct status (*stream_sync)(struct stream *stream);
    void (*stream_copy)(struct stream *stream, void *target, const void *source, size_t bytes, enum copy_kind kind);
    void (*stream_copy_rows)(struct stream *stream, void *target, const void *source, size_t stride, size_t bytes,
                             uint32_t rows);
    void (*stream_wait)(struct stream *stream, struct event *event);
    void (*repeat_begin)(struct stream *stream); /* these three NULL: nothing to do, nothing to count */
    void (*repeat_end)(struct stream *stream);
    struct launch_count (*launch_count)(const struct device *device);
    struct link_count (*link_count)(const struct device *device);
    void (*set_link)(struct device *device, double link_bytes_per_s);

    struct status (*event_create)(struct device *device, struct event **out);
    void (*event_destroy)(struct event *event);
    void (*event_record)(struct event *event, struct stream *stream);
    bool (*event_query)(const struct event *event);
    struct status (*event_sync)(struct event *event);
    uint64_t (*event_time_ns)(const struct event *event);

    uint64_t (*now_ns)(const struct device *device);
    void (*sleep_until_ns)(struct device *device, uint64_t time_ns);

    void (*embed)(struct stream *stream, float *out, struct weight table, const uint32_t *ids, uint32_t n);
    void (*add_rows)(struct stream *stream, float *out, const float *table, uint32_t rows, const uint32_t *ids,
                     uint32_t n, uint32_t dim);
    void (*scale)(struct stream *stream, float *x, float factor, uint32_t n, uint32_t dim);
    void (*rmsnorm)(struct stream *stream, float *out, const float *x, const float *gain, float epsilon, uint32_t n,
                    uint32_t dim);
    void (*rmsnorm_add)(struct stream *stream, float *out, const float *x, const float *gain, float epsilon, uint32_t n,
                        uint32_t dim);
    void (*layernorm)(struct stream *stream, float *out, const float *x, const float *gain, const float *bias,
                      float epsilon, uint32_t n, uint32_t dim);
    void (*matmul)(struct stream *stream, const struct matmul_part *parts, uint32_t count, const float *x,
                   size_t x_stride, uint32_t n);
    void (*rope_angles)(struct stream *stream, float *angles, const uint32_t *positions, const float *frequency,
                        float magnitude, uint32_t n, uint32_t pairs);
    void (*rope)(struct stream *stream, float *x, size_t x_stride, const float *angles, enum rope_style style,
                 uint32_t n, uint32_t heads, uint32_t head_dim, uint32_t pairs);
    void (*kv_store)(struct stream *stream, const struct kv_batch *batch, uint32_t layer, const float *k,
                     size_t k_stride, const float *v, size_t v_stride);
    void (*attention)(struct stream *stream, float *out, size_t out_stride, const float *q, size_t q_stride,
                      const struct kv_batch *batch, uint32_t layer, uint32_t query_heads, float scale, uint32_t window);
    void (*gated)(struct stream *stream, enum activation activation, float *out, const float *gate, const float *up,
                  uint32_t n, uint32_t dim);
    void (*activate)(struct stream *stream, enum activation activation, float *out, const float *x, uint32_t n,
                     uint32_t dim);
    void (*gather)(struct stream *stream, float *out, const float *x, const uint32_t *rows, uint32_t n, uint32_t dim);
    void (*argmax)(struct stream *stream, uint32_t *out, const float *logits, uint32_t n, uint32_t vocabulary);
    void (*sample)(struct stream *stream, uint32_t *out, float *logits, const struct sample_batch *batch, uint32_t n,
                   uint32_t vocabulary);

    /* NULL: what op_matmul() is, and nothing. */
    void (*matmul_partial)(struct stream *stream, const struct matmul_part *parts, uint32_t count, const float *x,
                           size_t x_stride, uint32_t n);
    void (*all_reduce)(struct stream *stream, float *x, uint32_t n, uint32_t dim);
};

/* The first member of every backend's own structs. */
struct device {
    const struct backend *backend;
};

struct stream {
    struct device *device;
    enum stream_kind kind;
};

struct event {
    struct device *device;
};

/* The backends of this build. */
extern const struct backend cpu_backend, sim_backend;
extern const struct backend cuda_backend; /* with `make CUDA=1` or CUDA=emulated, which define METRONOME_CUDA */

#endif
