/* The inside of the `sim` device, for the files of kernels/sim/ only.
 *
 * How time passes. Each stream has a clock of its own: the end of the last thing on it whose time is known. Ops,
 * records, and waits for points already known are settled the moment they are enqueued, however far ahead of the host
 * that is: nothing enqueued later can change them. Only a copy cannot be settled, since later copies may take a share
 * of the bus. So a stream that has reached a copy, or a wait for a point behind a copy, stops, and what is enqueued
 * on it after that queues. The host's clock says how far the bus may go (stream.c): to where the host stands, or, while
 * it waits, to whatever it waits for. Nothing here allocates once a stream or an event is created.
 *
 * Reading order: sim.h, cost.h, bus.h, stream.c, ops.c, device.c. Threads: the device's. */
#ifndef METRONOME_KERNELS_SIM_SIM_INTERNAL_H
#define METRONOME_KERNELS_SIM_SIM_INTERNAL_H

#include "base/random.h"
#include "kernels/device_internal.h"
#include "kernels/sim/bus.h"
#include "kernels/sim/cost.h"
#include "kernels/sim/hardware.h"
#include "kernels/sim/sim.h"

#include <stdatomic.h>

/* What happens on a stream, for the log. */
enum sim_what {
    SIM_EMBED,
    SIM_ADD_ROWS,
    SIM_SCALE,
    SIM_RMSNORM,
    SIM_RMSNORM_ADD,
    SIM_LAYERNORM,
    SIM_MATMUL,
    SIM_ROPE_ANGLES,
    SIM_ROPE,
    SIM_KV_STORE,
    SIM_ATTENTION,
    SIM_GATED,
    SIM_ACTIVATE,
    SIM_GATHER,
    SIM_ARGMAX,
    SIM_SAMPLE,
    SIM_ALL_REDUCE,
    SIM_COPY_TO_DEVICE,
    SIM_COPY_TO_HOST,
    SIM_COPY_ON_DEVICE,
    SIM_RECORD,
    SIM_WAIT,
    SIM_SLEEP,
};

/* ---- memory.c: address space, counted against a budget ---- */

struct sim_allocation {
    struct sim_allocation *next;
    char *address;
    size_t bytes;
};

struct sim_memory {
    const char *name;   /* "device memory" */
    const char *option; /* "device_memory": what to raise when it is short */
    uint64_t budget, used;
    struct sim_allocation *first;
};

struct status sim_memory_alloc(struct sim_memory *memory, size_t bytes, const char *what, void **out);

/* Frees what starts at `address` and returns its bytes. */
size_t sim_memory_free(struct sim_memory *memory, void *address);

/* ---- stream.c ---- */

struct sim_stream;
struct sim_event;

/* A record of an event: a point of a stream, shared by the event and by what waits for it. */
struct sim_point {
    uint64_t time_ns;
    bool known;                 /* `time_ns` is; it may be ahead of the host's clock */
    uint32_t references;        /* of the event, the queued record, and waits */
    struct sim_stream *waiting; /* streams stopped here, by next_waiting */
    struct sim_point *next_free;
};

struct sim_streams {
    uint64_t now_ns; /* the host's clock */
    struct bus bus;
    FILE *log;
    uint32_t streams, events;        /* alive */
    uint32_t streams_made;           /* ever */
    struct sim_stream *idle_streams; /* destroyed ones, whose points may still be named */
    struct sim_event *idle_events;
    struct sim_point *free_points;
    struct sim_stream *ready, **ready_end; /* streams that can go on, in the order in which they became so */
};

/* ---- ops.c ---- */

/* Which token each row of logits gets, and where such rows lie. */
struct sim_tokens {
    struct kv_batch batch;    /* of the latest attention; segments_host is NULL before the first */
    const uint32_t *gathered; /* ids of the latest gather since then, NULL if there is none */
    uint32_t gathered_count;
    uint32_t layer, query_heads, window; /* of the latest attention */
    uint64_t attention_ns;               /* its cost */

    float *logits; /* (logit_rows, logit_columns) of the latest argmax or sample; NULL: there are none */
    uint32_t logit_rows, logit_columns;
    uint32_t *marked; /* (marked_capacity) the token of each of those rows */
    uint32_t marked_capacity;
};

/* ---- device.c ---- */

struct sim_device {
    struct device base;
    struct hardware hardware;
    struct cost_model cost;
    struct sim_memory device, host;
    struct sim_streams time;
    struct sim_tokens tokens;
    uint64_t seed, jitter_ns;
    uint32_t ranks; /* that it stands for: they are alike, and one is simulated, with what sums over them take */
    _Atomic uint64_t host_to_device_bytes, device_to_host_bytes;
    _Atomic uint64_t host_to_device_copies, device_to_host_copies;
};

static inline struct sim_device *sim_of(const struct stream *stream) {
    return (struct sim_device *)stream->device;
}

/* ---- between them ---- */

/* stream.c: puts an op of a known length on a stream. */
void sim_busy(struct stream *stream, enum sim_what what, uint64_t duration_ns);

/* stream.c: settles everything up to where the host stands. */
void sim_settle(struct sim_device *device);

/* stream.c: frees the streams and events that were kept. None may be alive. */
void sim_streams_release(struct sim_streams *streams);

/* ops.c: moves the bytes of a copy that are really there; forgets logits inside memory that is freed. */
void sim_move(const struct sim_device *device, void *target, const void *source, size_t bytes);
void sim_forget_logits(struct sim_device *device, const void *address, size_t bytes);
struct status sim_tokens_prepare(struct sim_device *device, const struct device_limits *limits);

struct status sim_stream_create(struct device *device, enum stream_kind kind, struct stream **out);
void sim_stream_destroy(struct stream *stream);
struct status sim_stream_sync(struct stream *stream);
void sim_stream_copy(struct stream *stream, void *target, const void *source, size_t bytes, enum copy_kind kind);
void sim_stream_copy_rows(struct stream *stream, void *target, const void *source, size_t stride, size_t bytes,
                          uint32_t rows);
void sim_stream_wait(struct stream *stream, struct event *event);

struct status sim_event_create(struct device *device, struct event **out);
void sim_event_destroy(struct event *event);
void sim_event_record(struct event *event, struct stream *stream);
bool sim_event_query(const struct event *event);
struct status sim_event_sync(struct event *event);
uint64_t sim_event_time_ns(const struct event *event);
uint64_t sim_now_ns(const struct device *device);
void sim_sleep_until_ns(struct device *device, uint64_t time_ns);

void sim_embed(struct stream *stream, float *out, struct weight table, const uint32_t *ids, uint32_t n);
void sim_add_rows(struct stream *stream, float *out, const float *table, uint32_t rows, const uint32_t *ids, uint32_t n,
                  uint32_t dim);
void sim_scale(struct stream *stream, float *x, float factor, uint32_t n, uint32_t dim);
void sim_rmsnorm(struct stream *stream, float *out, const float *x, const float *gain, float epsilon, uint32_t n,
                 uint32_t dim);
void sim_rmsnorm_add(struct stream *stream, float *out, const float *x, const float *gain, float epsilon, uint32_t n,
                     uint32_t dim);
void sim_layernorm(struct stream *stream, float *out, const float *x, const float *gain, const float *bias,
                   float epsilon, uint32_t n, uint32_t dim);
void sim_matmul(struct stream *stream, const struct matmul_part *parts, uint32_t count, const float *x, size_t x_stride,
                uint32_t n);
void sim_rope_angles(struct stream *stream, float *angles, const uint32_t *positions, const float *frequency,
                     float magnitude, uint32_t n, uint32_t pairs);
void sim_rope(struct stream *stream, float *x, size_t x_stride, const float *angles, enum rope_style style, uint32_t n,
              uint32_t heads, uint32_t head_dim, uint32_t pairs);
void sim_kv_store(struct stream *stream, const struct kv_batch *batch, uint32_t layer, const float *k, size_t k_stride,
                  const float *v, size_t v_stride);
void sim_attention(struct stream *stream, float *out, size_t out_stride, const float *q, size_t q_stride,
                   const struct kv_batch *batch, uint32_t layer, uint32_t query_heads, float scale, uint32_t window);
void sim_gated(struct stream *stream, enum activation activation, float *out, const float *gate, const float *up,
               uint32_t n, uint32_t dim);
void sim_activate(struct stream *stream, enum activation activation, float *out, const float *x, uint32_t n,
                  uint32_t dim);
void sim_gather(struct stream *stream, float *out, const float *x, const uint32_t *rows, uint32_t n, uint32_t dim);
void sim_argmax(struct stream *stream, uint32_t *out, const float *logits, uint32_t n, uint32_t vocabulary);
void sim_sample(struct stream *stream, uint32_t *out, float *logits, const struct sample_batch *batch, uint32_t n,
                uint32_t vocabulary);
void sim_all_reduce(struct stream *stream, float *x, uint32_t n, uint32_t dim);

#endif
