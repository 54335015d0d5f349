/* What a `cpu` device is made of besides its math: memory under budgets, the link, the pool, streams and events.
 *
 * For device.c, memory.c, link.c and stream.c. Threads: the host's, but where a function says otherwise. */
#ifndef METRONOME_KERNELS_CPU_MACHINE_H
#define METRONOME_KERNELS_CPU_MACHINE_H

#include "base/random.h"
#include "kernels/cpu/cpu_internal.h"
#include "kernels/cpu/pool.h"
#include "kernels/cpu/timeline.h"

#include <pthread.h>
#include <stdatomic.h>

/* ---- memory.c: two budgets over one RAM ---- */

struct allocation {
    struct allocation *next;
    void *address;
    size_t bytes;
};

struct ledger {
    const char *memory; /* "device memory" */
    const char *option; /* "device_memory": what to raise when it is short */
    uint64_t budget, used;
    struct allocation *first;
};

struct status ledger_alloc(struct ledger *ledger, size_t bytes, const char *what, void **out);
void ledger_free(struct ledger *ledger, void *address);

/* ---- link.c: the one link between host and device ---- */

struct link {
    _Atomic double bytes_per_s; /* 0: unpaced */
    pthread_mutex_t lock;
    uint64_t free_at_ns; /* under the lock: when the link has carried all that was put on it */
    _Atomic uint64_t host_to_device_bytes, device_to_host_bytes;
    _Atomic uint64_t host_to_device_copies, device_to_host_copies;
};

void link_init(struct link *link, double bytes_per_s);
void link_destroy(struct link *link);

/* Counts a copy; at enqueue, on the host thread. Nothing for COPY_DEVICE_TO_DEVICE. */
void link_count(struct link *link, size_t bytes, enum copy_kind kind);

/* What one copy carries: `rows` pieces of `bytes`, `stride` apart at the source and none apart at the target. */
struct cargo {
    void *target;
    const void *source;
    size_t bytes, stride;
    uint32_t rows;
};

/* Copies at the link's pace: returns when the bytes are there and their time on the link is over. `ready_ns` is when
 * the copy could have begun had nothing before it been late; the result is when it ended, or ought to have. On a
 * stream's thread. */
uint64_t link_carry(struct link *link, const struct cargo *cargo, uint64_t ready_ns);

/* ---- stream.c ---- */

struct cpu_event;

struct cpu_machine {
    struct ledger device, host;
    struct link link;
    struct pool pool;
    pthread_mutex_t computing; /* held by a stream's thread while it runs an op */
    uint64_t jitter_ns, seed;
    uint32_t streams, events;        /* alive */
    uint32_t streams_made;           /* ever */
    struct cpu_stream *idle_streams; /* destroyed ones: points of them may still be named by waits and events */
    struct cpu_event *idle_events;   /* destroyed ones: records of them may still be queued */
};

struct status cpu_stream_create(struct device *device, enum stream_kind kind, struct stream **out);
void cpu_stream_destroy(struct stream *stream);
struct status cpu_stream_sync(struct stream *stream);
void cpu_stream_copy(struct stream *stream, void *target, const void *source, size_t bytes, enum copy_kind kind);
void cpu_stream_copy_rows(struct stream *stream, void *target, const void *source, size_t stride, size_t bytes,
                          uint32_t rows);
void cpu_stream_wait(struct stream *stream, struct event *event);

struct status cpu_event_create(struct device *device, struct event **out);
void cpu_event_destroy(struct event *event);
void cpu_event_record(struct event *event, struct stream *stream);
bool cpu_event_query(const struct event *event);
struct status cpu_event_sync(struct event *event);
uint64_t cpu_event_time_ns(const struct event *event);

/* Frees the destroyed streams and events that were kept. None may be alive. */
void cpu_streams_release(struct cpu_machine *machine);

#endif
