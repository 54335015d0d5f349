/* Streams, events and the virtual clock of the `sim` device: a discrete-event simulation whose only events are the
 * ends of copies. See sim_internal.h for how time passes.
 *
 * Why it is exact: a stream that can go on is taken as far as it can go at once, so at any time every stream is out
 * of work, on the bus, or stopped at a point behind a copy on the bus. No copy can therefore begin before the first of
 * those on the bus ends, but for those that the host enqueues, and these begin no earlier than the host's clock.
 * Threads: the device's. */
#include "kernels/sim/sim_internal.h"

#include "base/check.h"

#include <stdlib.h>

/* How many calls a stream holds, a power of two: several iterations of a large model. One more makes the host wait, as
 * it does on real devices. */
#define QUEUE_CALLS 4096u

enum entry_kind {
    ENTRY_BUSY,   /* a run of ops and of waits for known times: takes the clock from t to max(t + a, b) */
    ENTRY_COPY,   /* a: bytes; b: when it was enqueued */
    ENTRY_RECORD, /* b: when it was enqueued */
    ENTRY_WAIT,
};

struct entry {
    uint8_t kind, what;
    uint32_t calls; /* that were put together in it */
    uint64_t a, b;
    struct sim_point *point; /* of a record or a wait */
};

enum stream_state {
    STREAM_FREE,    /* its queue is empty, or about to be run */
    STREAM_STOPPED, /* at a point that is not known yet */
    STREAM_COPYING,
};

struct sim_stream {
    struct stream base;
    struct bus_copy copy; /* in progress; its order is the stream's number */
    uint64_t copy_bytes;
    uint64_t copy_begin_ns;
    enum sim_what copy_what;
    enum stream_state state;
    uint64_t time_ns; /* the end of all that is settled */
    struct sim_point *stopped_at;
    struct sim_stream *next_waiting, *next_ready, *next_idle;
    struct random_state jitter;
    uint32_t first, count; /* of the queue */
    uint32_t calls;        /* in the queue */
    struct entry queue[QUEUE_CALLS];
    struct sim_point points[QUEUE_CALLS + 1]; /* the device's: each entry, and the point stopped at, may hold one */
};

struct sim_event {
    struct event base;
    struct sim_event *next_idle;
    struct sim_point *record; /* the latest; NULL: never recorded */
    struct sim_point point;   /* the device's: every event may hold one */
};

static const char *const names[] = {
    [SIM_EMBED] = "embed",
    [SIM_ADD_ROWS] = "add_rows",
    [SIM_SCALE] = "scale",
    [SIM_RMSNORM] = "rmsnorm",
    [SIM_RMSNORM_ADD] = "rmsnorm_add",
    [SIM_LAYERNORM] = "layernorm",
    [SIM_MATMUL] = "matmul",
    [SIM_ROPE_ANGLES] = "rope_angles",
    [SIM_ROPE] = "rope",
    [SIM_KV_STORE] = "kv_store",
    [SIM_ATTENTION] = "attention",
    [SIM_GATED] = "gated",
    [SIM_ACTIVATE] = "activate",
    [SIM_GATHER] = "gather",
    [SIM_ARGMAX] = "argmax",
    [SIM_SAMPLE] = "sample",
    [SIM_ALL_REDUCE] = "all_reduce",
    [SIM_COPY_TO_DEVICE] = "copy_to_device",
    [SIM_COPY_TO_HOST] = "copy_to_host",
    [SIM_COPY_ON_DEVICE] = "copy_on_device",
    [SIM_RECORD] = "record",
    [SIM_WAIT] = "wait",
    [SIM_SLEEP] = "sleep",
};

static struct sim_streams *streams_of(const struct sim_stream *stream) {
    return &sim_of(&stream->base)->time;
}

static uint64_t later(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

/* ---- the log ---- */

static void note(const struct sim_stream *stream, uint64_t begin_ns, enum sim_what what, uint64_t bytes) {
    FILE *log = streams_of(stream)->log;
    if (log) {
        fprintf(log, "%llu %llu %u %s %llu\n", (unsigned long long)begin_ns, (unsigned long long)stream->time_ns,
                stream->copy.order, names[what], (unsigned long long)bytes);
    }
}

/* Moves the host's clock on to `time_ns`. */
static void host_reaches(struct sim_streams *streams, uint64_t time_ns, enum sim_what what) {
    uint64_t begin_ns = streams->now_ns;
    streams->now_ns = later(begin_ns, time_ns);
    if (streams->log) {
        fprintf(streams->log, "%llu %llu - %s 0\n", (unsigned long long)begin_ns, (unsigned long long)streams->now_ns,
                names[what]);
    }
}

/* ---- points ---- */

static struct sim_point *take_point(struct sim_streams *streams) {
    struct sim_point *point = streams->free_points;
    CHECK(point); /* there are as many as can be held */
    streams->free_points = point->next_free;
    *point = (struct sim_point){.references = 1};
    return point;
}

static void give_point(struct sim_streams *streams, struct sim_point *point) {
    point->next_free = streams->free_points;
    streams->free_points = point;
}

static void release_point(struct sim_streams *streams, struct sim_point *point) {
    if (--point->references == 0) {
        give_point(streams, point);
    }
}

/* ---- running ---- */

static void make_ready(struct sim_streams *streams, struct sim_stream *stream) {
    stream->next_ready = NULL;
    *streams->ready_end = stream;
    streams->ready_end = &stream->next_ready;
}

/* The stream passes a point now: whoever is stopped there can go on. */
static void pass(struct sim_stream *stream, struct sim_point *point) {
    struct sim_streams *streams = streams_of(stream);
    point->time_ns = stream->time_ns;
    point->known = true;
    for (struct sim_stream *waiting = point->waiting; waiting; waiting = waiting->next_waiting) {
        make_ready(streams, waiting);
    }
    point->waiting = NULL;
    release_point(streams, point);
}

static void begin_copy(struct sim_stream *stream, const struct entry *entry) {
    struct sim_device *device = sim_of(&stream->base);
    uint64_t latency_ns = device->hardware.link_latency_ns;
    if (device->jitter_ns > 0) {
        latency_ns += random_below(&stream->jitter, device->jitter_ns + 1);
    }
    stream->state = STREAM_COPYING;
    stream->copy_begin_ns = later(stream->time_ns, entry->b);
    stream->copy_bytes = entry->a;
    stream->copy_what = (enum sim_what)entry->what;
    bus_begin(&device->time.bus, &stream->copy, stream->copy_begin_ns + latency_ns, entry->a);
}

static void stop_at(struct sim_stream *stream, struct sim_point *point) {
    stream->state = STREAM_STOPPED;
    stream->stopped_at = point;
    struct sim_stream **end = &point->waiting; /* in the order in which they came */
    while (*end) {
        end = &(*end)->next_waiting;
    }
    *end = stream;
    stream->next_waiting = NULL;
}

static void go_past(struct sim_stream *stream, struct sim_point *point) {
    uint64_t begin_ns = stream->time_ns;
    stream->time_ns = later(begin_ns, point->time_ns);
    release_point(streams_of(stream), point);
    note(stream, begin_ns, SIM_WAIT, 0);
}

static void run_entry(struct sim_stream *stream, const struct entry *entry) {
    switch ((enum entry_kind)entry->kind) {
    case ENTRY_BUSY:
        stream->time_ns = later(stream->time_ns + entry->a, entry->b);
        note(stream, stream->time_ns - entry->a, (enum sim_what)entry->what, 0);
        break;
    case ENTRY_COPY:
        begin_copy(stream, entry);
        break;
    case ENTRY_RECORD:
        stream->time_ns = later(stream->time_ns, entry->b);
        note(stream, stream->time_ns, SIM_RECORD, 0);
        pass(stream, entry->point);
        break;
    case ENTRY_WAIT:
        if (entry->point->known) {
            go_past(stream, entry->point);
        } else {
            stop_at(stream, entry->point);
        }
        break;
    }
}

/* Takes every ready stream as far as it can go. */
static void run_ready(struct sim_streams *streams) {
    while (streams->ready) {
        struct sim_stream *stream = streams->ready;
        streams->ready = stream->next_ready;
        if (!streams->ready) {
            streams->ready_end = &streams->ready;
        }
        if (stream->state == STREAM_STOPPED) {
            stream->state = STREAM_FREE;
            go_past(stream, stream->stopped_at);
        }
        while (stream->state == STREAM_FREE && stream->count > 0) {
            struct entry entry = stream->queue[stream->first];
            stream->first = (stream->first + 1) & (QUEUE_CALLS - 1);
            stream->count--;
            stream->calls -= entry.calls;
            run_entry(stream, &entry);
        }
    }
}

/* Settles the next end of a copy, if there is one by `limit_ns`. */
static bool settle_copy(struct sim_streams *streams, uint64_t limit_ns) {
    struct bus_copy *copy = bus_next(&streams->bus, limit_ns);
    if (!copy) {
        return false;
    }
    struct sim_stream *stream = (struct sim_stream *)((char *)copy - offsetof(struct sim_stream, copy));
    stream->state = STREAM_FREE;
    stream->time_ns = streams->bus.time_ns;
    note(stream, stream->copy_begin_ns, stream->copy_what, stream->copy_bytes);
    make_ready(streams, stream);
    run_ready(streams);
    return true;
}

/* The same while the host waits for something behind it. Nothing to settle means a bus that stands still for ever. */
static void settle_more(struct sim_streams *streams) {
    CHECK(settle_copy(streams, UINT64_MAX));
}

void sim_settle(struct sim_device *device) {
    while (settle_copy(&device->time, device->time.now_ns)) {
    }
}

/* ---- enqueueing ---- */

static void wait_for_room(struct sim_stream *stream) {
    struct sim_streams *streams = streams_of(stream);
    if (stream->calls == QUEUE_CALLS) {
        while (stream->calls == QUEUE_CALLS) {
            settle_more(streams);
        }
        host_reaches(streams, streams->bus.time_ns, SIM_WAIT);
    }
}

/* Makes room for a call and takes the host's time for it. Returns when the call is on the stream. */
static uint64_t host_enqueues(struct sim_stream *stream) {
    struct sim_device *device = sim_of(&stream->base);
    wait_for_room(stream);
    return device->time.now_ns += device->hardware.host_enqueue_ns;
}

/* Queues an entry, and runs it if nothing is before it. */
static void push(struct sim_stream *stream, const struct entry *entry) {
    struct entry *place = &stream->queue[(stream->first + stream->count) & (QUEUE_CALLS - 1)];
    *place = *entry;
    place->calls = 1;
    stream->count++;
    stream->calls++;
    if (stream->state == STREAM_FREE) {
        make_ready(streams_of(stream), stream);
        run_ready(streams_of(stream));
    }
}

/* Puts t -> max(t + a, b) on the stream. Two such in a row are one, so that a run of ops is a single entry; but the log
 * has a line for each. */
static void push_busy(struct sim_stream *stream, enum sim_what what, uint64_t a, uint64_t b) {
    struct entry *last = &stream->queue[(stream->first + stream->count - 1) & (QUEUE_CALLS - 1)];
    bool logging = streams_of(stream)->log != NULL;
    if (!logging && stream->state == STREAM_FREE) {
        stream->time_ns = later(stream->time_ns + a, b);
    } else if (!logging && stream->count > 0 && last->kind == ENTRY_BUSY) {
        last->b = later(last->b + a, b);
        last->a += a;
        last->calls++;
        stream->calls++;
    } else {
        push(stream, &(struct entry){.kind = ENTRY_BUSY, .what = (uint8_t)what, .a = a, .b = b});
    }
}

void sim_busy(struct stream *base, enum sim_what what, uint64_t duration_ns) {
    struct sim_stream *stream = (struct sim_stream *)base;
    push_busy(stream, what, duration_ns, host_enqueues(stream) + duration_ns);
}

/* ---- streams ---- */

static void give_points(struct sim_streams *streams, struct sim_point *points, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        give_point(streams, &points[i]);
    }
}

struct status sim_stream_create(struct device *device, enum stream_kind kind, struct stream **out) {
    struct sim_device *sim = (struct sim_device *)device;
    struct sim_streams *streams = &sim->time;
    struct sim_stream *stream = streams->idle_streams;
    if (stream) {
        streams->idle_streams = stream->next_idle;
    } else {
        stream = calloc(1, sizeof *stream);
        if (!stream) {
            return status_error(STATUS_NO_MEMORY, "no memory for a stream's queue");
        }
        give_points(streams, stream->points, QUEUE_CALLS + 1);
    }
    stream->base = (struct stream){.device = device, .kind = kind};
    stream->copy.order = streams->streams_made++;
    stream->time_ns = streams->now_ns;
    random_seed(&stream->jitter, random_hash(sim->seed, stream->copy.order));
    streams->streams++;
    *out = &stream->base;
    return STATUS_SUCCESS;
}

struct status sim_stream_sync(struct stream *base) {
    struct sim_stream *stream = (struct sim_stream *)base;
    struct sim_streams *streams = streams_of(stream);
    while (stream->state != STREAM_FREE) {
        settle_more(streams);
    }
    host_reaches(streams, stream->time_ns, SIM_WAIT);
    return STATUS_SUCCESS;
}

void sim_stream_destroy(struct stream *base) {
    struct sim_stream *stream = (struct sim_stream *)base;
    struct sim_streams *streams = streams_of(stream);
    sim_stream_sync(base);
    stream->next_idle = streams->idle_streams;
    streams->idle_streams = stream;
    streams->streams--;
}

static void count_copy(struct sim_device *device, size_t bytes, enum copy_kind kind) {
    bool to_device = kind == COPY_HOST_TO_DEVICE;
    atomic_fetch_add_explicit(to_device ? &device->host_to_device_bytes : &device->device_to_host_bytes, bytes,
                              memory_order_relaxed);
    atomic_fetch_add_explicit(to_device ? &device->host_to_device_copies : &device->device_to_host_copies, 1,
                              memory_order_relaxed);
}

void sim_stream_copy(struct stream *base, void *target, const void *source, size_t bytes, enum copy_kind kind) {
    struct sim_stream *stream = (struct sim_stream *)base;
    struct sim_device *device = sim_of(base);
    if (base->kind == STREAM_COMPUTE) {
        sim_move(device, target, source, bytes);
    }
    if (kind == COPY_DEVICE_TO_DEVICE) {
        sim_busy(base, SIM_COPY_ON_DEVICE, cost_device_copy_ns(&device->cost, bytes));
        return;
    }
    count_copy(device, bytes, kind);
    enum sim_what what = kind == COPY_HOST_TO_DEVICE ? SIM_COPY_TO_DEVICE : SIM_COPY_TO_HOST;
    uint64_t now_ns = host_enqueues(stream);
    push(stream, &(struct entry){.kind = ENTRY_COPY, .what = (uint8_t)what, .a = bytes, .b = now_ns});
}

/* A strided copy takes as long as a plain one of its bytes; what is copied are weights and KV, which nothing reads. */
void sim_stream_copy_rows(struct stream *base, void *target, const void *source, size_t stride, size_t bytes,
                          uint32_t rows) {
    (void)stride;
    CHECK(base->kind == STREAM_COPY);
    sim_stream_copy(base, target, source, bytes * rows, COPY_HOST_TO_DEVICE);
}

/* ---- events ---- */

struct status sim_event_create(struct device *device, struct event **out) {
    struct sim_streams *streams = &((struct sim_device *)device)->time;
    struct sim_event *event = streams->idle_events;
    if (event) {
        streams->idle_events = event->next_idle;
    } else {
        event = calloc(1, sizeof *event);
        if (!event) {
            return status_error(STATUS_NO_MEMORY, "no memory for an event");
        }
        give_point(streams, &event->point);
    }
    event->base.device = device;
    streams->events++;
    *out = &event->base;
    return STATUS_SUCCESS;
}

static void forget_record(struct sim_streams *streams, struct sim_event *event) {
    if (event->record) {
        release_point(streams, event->record);
        event->record = NULL;
    }
}

void sim_event_destroy(struct event *base) {
    struct sim_event *event = (struct sim_event *)base;
    struct sim_streams *streams = &((struct sim_device *)base->device)->time;
    forget_record(streams, event);
    event->next_idle = streams->idle_events;
    streams->idle_events = event;
    streams->events--;
}

void sim_event_record(struct event *base, struct stream *stream_base) {
    struct sim_event *event = (struct sim_event *)base;
    struct sim_stream *stream = (struct sim_stream *)stream_base;
    struct sim_streams *streams = streams_of(stream);
    uint64_t now_ns = host_enqueues(stream);
    forget_record(streams, event);
    event->record = take_point(streams);
    event->record->references = 2; /* the event's and the entry's */
    push(stream, &(struct entry){.kind = ENTRY_RECORD, .b = now_ns, .point = event->record});
}

void sim_stream_wait(struct stream *stream_base, struct event *base) {
    struct sim_stream *stream = (struct sim_stream *)stream_base;
    const struct sim_event *event = (const struct sim_event *)base;
    host_enqueues(stream);
    struct sim_point *point = event->record;
    if (!point) {
        return; /* never recorded: past */
    }
    if (point->known) {
        push_busy(stream, SIM_WAIT, 0, point->time_ns);
        return;
    }
    point->references++;
    push(stream, &(struct entry){.kind = ENTRY_WAIT, .point = point});
}

bool sim_event_query(const struct event *base) {
    const struct sim_point *point = ((const struct sim_event *)base)->record;
    struct sim_device *device = (struct sim_device *)base->device;
    if (!point) {
        return true;
    }
    if (!point->known) {
        sim_settle(device);
    }
    if (point->known && point->time_ns <= device->time.now_ns) {
        return true;
    }
    device->time.now_ns += later(device->hardware.host_enqueue_ns, 1); /* a loop that asks comes to an end */
    return false;
}

struct status sim_event_sync(struct event *base) {
    const struct sim_point *point = ((const struct sim_event *)base)->record;
    struct sim_streams *streams = &((struct sim_device *)base->device)->time;
    if (point) {
        while (!point->known) {
            settle_more(streams);
        }
        host_reaches(streams, point->time_ns, SIM_WAIT);
    }
    return STATUS_SUCCESS;
}

uint64_t sim_event_time_ns(const struct event *base) {
    const struct sim_point *point = ((const struct sim_event *)base)->record;
    struct sim_device *device = (struct sim_device *)base->device;
    CHECK(point); /* never recorded: there is no such time */
    if (!point->known) {
        sim_settle(device);
    }
    CHECK(point->known && point->time_ns <= device->time.now_ns);
    return point->time_ns;
}

/* ---- the clock ---- */

uint64_t sim_now_ns(const struct device *device) {
    return ((const struct sim_device *)device)->time.now_ns;
}

void sim_sleep_until_ns(struct device *device, uint64_t time_ns) {
    host_reaches(&((struct sim_device *)device)->time, time_ns, SIM_SLEEP);
}

void sim_streams_release(struct sim_streams *streams) {
    CHECK(streams->streams == 0 && streams->events == 0);
    while (streams->idle_streams) {
        struct sim_stream *stream = streams->idle_streams;
        streams->idle_streams = stream->next_idle;
        free(stream);
    }
    while (streams->idle_events) {
        struct sim_event *event = streams->idle_events;
        streams->idle_events = event->next_idle;
        free(event);
    }
}
