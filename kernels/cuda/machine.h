/* The `cuda` device under its ops: memory, clock, counts. For the C files of kernels/cuda/ only.
 * Threads: the host's; the link's counts may be read from any. */
#ifndef METRONOME_KERNELS_CUDA_MACHINE_H
#define METRONOME_KERNELS_CUDA_MACHINE_H

#include "kernels/cuda/cuda_internal.h"

#include <stdatomic.h>

/* Where GPU time and host time meet: an anchor event whose host time is known. See clock.c. */
struct cuda_clock {
    cudaStream_t stream; /* idle, so that what is recorded on it passes at once */
    cudaEvent_t anchors[2];
    int current;               /* the anchor in use; the other one is being made */
    uint64_t anchor_ns;        /* its host time */
    uint64_t next_ns;          /* when to record the other one */
    uint64_t next_recorded_ns; /* host time just before it was recorded; 0: it was not */
};
struct status cuda_clock_open(struct cuda_clock *clock);
void cuda_clock_close(struct cuda_clock *clock); /* whatever of it was opened */
uint64_t cuda_clock_time_ns(struct cuda_clock *clock, cudaEvent_t event);

/* Allocations of one kind and their budget. */
struct cuda_allocation {
    struct cuda_allocation *next;
    void *address;
    size_t bytes;
};
struct cuda_ledger {
    struct cuda_allocation *first;
    uint64_t budget, used;
};

struct cuda_machine {
    char name[64]; /* the GPU's */
    uint64_t gpu_bytes;
    struct cuda_ledger device, host, scratch; /* scratch is device memory beside the budget */
    struct cuda_clock clock;
    int least_priority, greatest_priority; /* of streams */
    uint32_t streams, events;              /* alive */
    uint64_t event_serial;                 /* of the last event made */
    bool graphs;                           /* work that repeats is launched as graphs */
    struct launch_count launches;
    _Atomic uint64_t host_to_device_bytes, device_to_host_bytes;
    _Atomic uint64_t host_to_device_copies, device_to_host_copies;
};

static inline struct cuda_machine *cuda_machine_of(const struct device *device) {
    return ((const struct cuda_device *)device)->machine;
}

/* memory.c */
struct status cuda_alloc(struct device *device, size_t bytes, const char *what, void **out);
void cuda_free(struct device *device, void *address);
struct status cuda_alloc_host(struct device *device, size_t bytes, const char *what, void **out);
void cuda_free_host(struct device *device, void *address);

/* host_memory.c: pinned memory of CUDA_HOST_LARGE bytes or more, zeroed, near GPU `ordinal`; with a progress bar. */
#define CUDA_HOST_LARGE ((size_t)64 << 20)
struct status cuda_host_map(int ordinal, size_t bytes, const char *what, void **out);
void cuda_host_unmap(void *address, size_t bytes);

/* stream.c */
struct status cuda_stream_create(struct device *device, enum stream_kind kind, struct stream **out);
void cuda_stream_destroy(struct stream *stream);
struct status cuda_stream_sync(struct stream *stream);
void cuda_stream_copy(struct stream *stream, void *target, const void *source, size_t bytes, enum copy_kind kind);
void cuda_stream_copy_rows(struct stream *stream, void *target, const void *source, size_t stride, size_t bytes,
                           uint32_t rows);
void cuda_stream_wait(struct stream *stream, struct event *event);
struct status cuda_event_create(struct device *device, struct event **out);
void cuda_event_destroy(struct event *event);
void cuda_event_record(struct event *event, struct stream *stream);
bool cuda_event_query(const struct event *event);
struct status cuda_event_sync(struct event *event);
uint64_t cuda_event_time_ns(const struct event *event);

#endif
