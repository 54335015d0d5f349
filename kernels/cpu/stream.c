/* Streams and events of the `cpu` device: a stream is a thread with a bounded queue of commands.
 *
 * Every command has a point on its stream: 1 for the first ever enqueued, and so on. `finished` is the last point
 * passed, and an event is nothing but a stream and a point of it, so recording it again cannot disturb a wait that was
 * enqueued before. Waits name only points enqueued earlier, by the one host thread: no cycle of waits can form.
 *
 * A destroyed stream's struct is kept until the device closes, because events and queued waits may still name points
 * of it (all of them past); so is a destroyed event's, because queued records still write to it. New streams and
 * events reuse them, points and record numbers going on from where they were.
 *
 * Threads: the host's, but for the functions named run_* and stream_main, which are the stream's own. */
#include "kernels/cpu/machine.h"

#include "base/check.h"
#include "base/clock.h"

#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#define QUEUE_COMMANDS 1024 /* a power of two; one iteration of a model of 60 layers fits */

/* How long a stream stays awake when its queue is empty or when the point that it waits for is not past yet. */
#define STREAM_SPIN_NS 20000

enum command_kind {
    COMMAND_OP,   /* skipped once the stream has failed; holds the device while it runs */
    COMMAND_MOVE, /* copies and waits: skipped once the stream has failed; runs beside ops of other streams */
    COMMAND_MARK, /* records, and meetings of ranks: always run */
    COMMAND_STOP,
};

struct command {
    cpu_run *run;
    enum command_kind kind;
    _Alignas(16) unsigned char arguments[CPU_ARGUMENT_BYTES];
};

struct cpu_stream {
    struct stream base;
    struct cpu_device *device;
    struct cpu_stream *next_idle;
    pthread_t thread;
    struct timeline enqueued; /* advanced by the host */
    struct timeline finished; /* advanced by the stream's thread */
    struct command *commands; /* (QUEUE_COMMANDS), the one of point p at p % QUEUE_COMMANDS */

    /* The stream's thread alone. */
    uint64_t running;  /* the point of the command in hand */
    uint64_t ready_ns; /* when it would have got here, had its copies ended on time (link_carry()); 0: now */
    struct random_state jitter;

    /* The point that failed, 0 for none. Written, after `failure`, by the stream's thread before it passes that point:
     * whoever sees a later point passed may read both. Never changes again. */
    _Atomic uint64_t failed_at;
    struct status failure;
};

struct cpu_event {
    struct event base;
    struct cpu_event *next_idle;

    /* The latest record, known to the host alone. */
    struct cpu_stream *stream; /* NULL: never recorded */
    uint64_t point;
    uint64_t records;

    pthread_mutex_t lock;
    uint64_t timed; /* under the lock: the number of the record that `time_ns` is of */
    uint64_t time_ns;
};

static struct cpu_stream *cpu_stream_of(struct stream *stream) {
    return (struct cpu_stream *)stream;
}

static struct cpu_machine *machine_of(const struct device *device) {
    return ((const struct cpu_device *)device)->machine;
}

struct cpu_device *cpu_stream_device(struct cpu_stream *stream) {
    return stream->device;
}

/* ---- the stream's thread ---- */

static bool failed(const struct cpu_stream *stream, uint64_t point) {
    uint64_t failed_at = atomic_load_explicit(&stream->failed_at, memory_order_acquire);
    return failed_at != 0 && failed_at <= point;
}

void cpu_fail(struct cpu_stream *stream, struct status status) {
    CHECK(status_failed(&status));
    if (!failed(stream, stream->running)) {
        stream->failure = status;
        atomic_store_explicit(&stream->failed_at, stream->running, memory_order_release);
    }
}

static void run_command(struct cpu_stream *stream, struct command *command) {
    if (command->kind == COMMAND_MARK) {
        command->run(stream, command->arguments);
    } else if (failed(stream, stream->running)) {
        return;
    } else if (command->kind == COMMAND_OP) {
        pthread_mutex_t *computing = &stream->device->machine->computing;
        pthread_mutex_lock(computing);
        command->run(stream, command->arguments);
        pthread_mutex_unlock(computing);
        stream->ready_ns = 0;
    } else {
        command->run(stream, command->arguments);
    }
}

static void *stream_main(void *argument) {
    struct cpu_stream *stream = argument;
    prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL); /* paced copies sleep often and should wake on time */
    stream->running = timeline_value(&stream->finished);
    for (;;) {
        uint64_t point = ++stream->running;
        timeline_wait(&stream->enqueued, point, STREAM_SPIN_NS);
        struct command *command = &stream->commands[point % QUEUE_COMMANDS];
        bool stop = command->kind == COMMAND_STOP;
        if (!stop) {
            run_command(stream, command);
        }
        timeline_advance(&stream->finished, 1);
        if (stop) {
            return NULL;
        }
    }
}

/* ---- the host's side of the queue ---- */

/* Returns the point that the command has got. */
static uint64_t enqueue(struct cpu_stream *stream, enum command_kind kind, cpu_run *run, const void *arguments,
                        size_t bytes) {
    CHECK(bytes <= CPU_ARGUMENT_BYTES);
    uint64_t point = timeline_value(&stream->enqueued) + 1;
    if (point > QUEUE_COMMANDS && timeline_value(&stream->finished) < point - QUEUE_COMMANDS) {
        /* Full. Sleep until there is room for many, not to be woken for each. */
        timeline_wait(&stream->finished, point - QUEUE_COMMANDS + QUEUE_COMMANDS / 4, 0);
    }
    struct command *command = &stream->commands[point % QUEUE_COMMANDS];
    command->run = run;
    command->kind = kind;
    if (bytes > 0) {
        memcpy(command->arguments, arguments, bytes);
    }
    timeline_advance(&stream->enqueued, 1);
    return point;
}

void cpu_enqueue(struct stream *stream, cpu_run *run, const void *arguments, size_t bytes) {
    enqueue(cpu_stream_of(stream), COMMAND_OP, run, arguments, bytes);
}

void cpu_enqueue_always(struct stream *stream, cpu_run *run, const void *arguments, size_t bytes) {
    enqueue(cpu_stream_of(stream), COMMAND_MARK, run, arguments, bytes);
}

const struct status *cpu_failure(const struct cpu_stream *stream) {
    return failed(stream, stream->running) ? &stream->failure : NULL;
}

/* Waits for a point and says whether the stream had failed by then. */
static struct status wait_for_point(struct cpu_stream *stream, uint64_t point) {
    timeline_wait(&stream->finished, point, 0);
    return failed(stream, point) ? stream->failure : STATUS_SUCCESS;
}

/* ---- streams ---- */

static void free_stream(struct cpu_stream *stream) {
    free(stream->commands);
    free(stream);
}

static struct cpu_stream *new_stream(void) {
    struct cpu_stream *stream = aligned_alloc(_Alignof(struct cpu_stream), sizeof *stream);
    if (!stream) {
        return NULL;
    }
    memset(stream, 0, sizeof *stream);
    timeline_init(&stream->enqueued);
    timeline_init(&stream->finished);
    stream->commands = calloc(QUEUE_COMMANDS, sizeof *stream->commands);
    if (!stream->commands) {
        free(stream);
        return NULL;
    }
    return stream;
}

/* A destroyed stream to use again: one that had not failed, for a failure stays with the points that it is of. */
static struct cpu_stream *take_idle_stream(struct cpu_machine *machine) {
    struct cpu_stream **link = &machine->idle_streams;
    while (*link && failed(*link, UINT64_MAX)) {
        link = &(*link)->next_idle;
    }
    struct cpu_stream *stream = *link;
    if (stream) {
        *link = stream->next_idle;
    }
    return stream;
}

struct status cpu_stream_create(struct device *device, enum stream_kind kind, struct stream **out) {
    struct cpu_machine *machine = machine_of(device);
    struct cpu_stream *stream = take_idle_stream(machine);
    stream = stream ? stream : new_stream();
    if (!stream) {
        return status_error(STATUS_NO_MEMORY, "no memory for a stream's queue");
    }
    stream->base = (struct stream){.device = device, .kind = kind};
    stream->device = (struct cpu_device *)device;
    stream->ready_ns = 0;
    random_seed(&stream->jitter, random_hash(machine->seed, machine->streams_made));
    int error = pthread_create(&stream->thread, NULL, stream_main, stream);
    if (error) {
        stream->next_idle = machine->idle_streams;
        machine->idle_streams = stream;
        return status_error(STATUS_IO, "cannot start the thread of a stream: %s", strerror(error));
    }
    machine->streams++;
    machine->streams_made++;
    *out = &stream->base;
    return STATUS_SUCCESS;
}

void cpu_stream_destroy(struct stream *base) {
    struct cpu_stream *stream = cpu_stream_of(base);
    struct cpu_machine *machine = stream->device->machine;
    enqueue(stream, COMMAND_STOP, NULL, NULL, 0);
    pthread_join(stream->thread, NULL);
    stream->next_idle = machine->idle_streams;
    machine->idle_streams = stream;
    machine->streams--;
}

struct status cpu_stream_sync(struct stream *base) {
    struct cpu_stream *stream = cpu_stream_of(base);
    return wait_for_point(stream, timeline_value(&stream->enqueued));
}

struct copy_arguments {
    struct cargo cargo;
    enum copy_kind kind;
    uint64_t enqueued_ns;
};

/* When a command that the host enqueued at `enqueued_ns` could have begun, had the copies before it ended on time. */
static uint64_t ready_since(const struct cpu_stream *stream, uint64_t enqueued_ns) {
    if (stream->ready_ns == 0) {
        return clock_now_ns();
    }
    return stream->ready_ns > enqueued_ns ? stream->ready_ns : enqueued_ns;
}

static void run_copy(struct cpu_stream *stream, void *arguments) {
    const struct copy_arguments *copy = arguments;
    struct cpu_machine *machine = stream->device->machine;
    if (machine->jitter_ns > 0) {
        clock_sleep_until_ns(clock_now_ns() + random_below(&stream->jitter, machine->jitter_ns + 1));
        stream->ready_ns = 0;
    }
    if (copy->kind == COPY_DEVICE_TO_DEVICE) {
        memmove(copy->cargo.target, copy->cargo.source, copy->cargo.bytes);
        stream->ready_ns = 0;
        return;
    }
    uint64_t ready_ns = ready_since(stream, copy->enqueued_ns);
    stream->ready_ns = link_carry(&machine->link, &copy->cargo, ready_ns);
}

static void copy_cargo(struct stream *stream, const struct cargo *cargo, enum copy_kind kind) {
    struct copy_arguments copy = {*cargo, kind, clock_now_ns()};
    link_count(&machine_of(stream->device)->link, cargo->bytes * cargo->rows, kind);
    enqueue(cpu_stream_of(stream), COMMAND_MOVE, run_copy, &copy, sizeof copy);
}

void cpu_stream_copy(struct stream *stream, void *target, const void *source, size_t bytes, enum copy_kind kind) {
    copy_cargo(stream, &(struct cargo){target, source, bytes, bytes, 1}, kind);
}

void cpu_stream_copy_rows(struct stream *stream, void *target, const void *source, size_t stride, size_t bytes,
                          uint32_t rows) {
    copy_cargo(stream, &(struct cargo){target, source, bytes, stride, rows}, COPY_HOST_TO_DEVICE);
}

/* ---- events ---- */

struct status cpu_event_create(struct device *device, struct event **out) {
    struct cpu_machine *machine = machine_of(device);
    struct cpu_event *event = machine->idle_events;
    if (event) {
        machine->idle_events = event->next_idle;
    } else {
        event = calloc(1, sizeof *event);
        if (!event) {
            return status_error(STATUS_NO_MEMORY, "no memory for an event");
        }
        pthread_mutex_init(&event->lock, NULL);
    }
    event->base.device = device;
    event->stream = NULL;
    machine->events++;
    *out = &event->base;
    return STATUS_SUCCESS;
}

void cpu_event_destroy(struct event *base) {
    struct cpu_event *event = (struct cpu_event *)base;
    struct cpu_machine *machine = machine_of(base->device);
    event->next_idle = machine->idle_events;
    machine->idle_events = event;
    machine->events--;
}

struct record_arguments {
    struct cpu_event *event;
    uint64_t record;
    uint64_t enqueued_ns;
};

/* On a stream of copies the time is the link's, not that of a thread which may be waiting for a core: what is measured
 * is what the link gave, as on a device whose copies no core takes part in.
 *
 * Records of one event on two streams may be passed in either order: the time kept is the latest record's. */
static void run_record(struct cpu_stream *stream, void *arguments) {
    const struct record_arguments *record = arguments;
    struct cpu_event *event = record->event;
    uint64_t time_ns = clock_now_ns();
    if (stream->base.kind == STREAM_COPY) {
        time_ns = ready_since(stream, record->enqueued_ns);
        stream->ready_ns = time_ns;
    }
    pthread_mutex_lock(&event->lock);
    if (record->record > event->timed) {
        event->timed = record->record;
        event->time_ns = time_ns;
    }
    pthread_mutex_unlock(&event->lock);
}

void cpu_event_record(struct event *base, struct stream *stream) {
    struct cpu_event *event = (struct cpu_event *)base;
    struct record_arguments record = {.event = event, .record = ++event->records, .enqueued_ns = clock_now_ns()};
    event->stream = cpu_stream_of(stream);
    event->point = enqueue(event->stream, COMMAND_MARK, run_record, &record, sizeof record);
}

struct wait_arguments {
    struct cpu_stream *stream;
    uint64_t point;
};

/* What waits for a stream that has failed would compute from what is not there: it fails too. */
static void run_wait(struct cpu_stream *stream, void *arguments) {
    const struct wait_arguments *wait = arguments;
    if (timeline_wait(&wait->stream->finished, wait->point, STREAM_SPIN_NS)) {
        stream->ready_ns = 0;
    }
    if (failed(wait->stream, wait->point)) {
        cpu_fail(stream, wait->stream->failure);
    }
}

void cpu_stream_wait(struct stream *base, struct event *event_base) {
    struct cpu_stream *stream = cpu_stream_of(base);
    const struct cpu_event *event = (const struct cpu_event *)event_base;
    if (event->stream && event->stream != stream) {
        struct wait_arguments wait = {.stream = event->stream, .point = event->point};
        enqueue(stream, COMMAND_MOVE, run_wait, &wait, sizeof wait);
    }
}

bool cpu_event_query(const struct event *base) {
    const struct cpu_event *event = (const struct cpu_event *)base;
    return !event->stream || timeline_value(&event->stream->finished) >= event->point;
}

struct status cpu_event_sync(struct event *base) {
    const struct cpu_event *event = (const struct cpu_event *)base;
    return event->stream ? wait_for_point(event->stream, event->point) : STATUS_SUCCESS;
}

uint64_t cpu_event_time_ns(const struct event *base) {
    struct cpu_event *event = (struct cpu_event *)base;
    CHECK(event->stream && cpu_event_query(base));
    pthread_mutex_lock(&event->lock);
    CHECK(event->timed == event->records);
    uint64_t time_ns = event->time_ns;
    pthread_mutex_unlock(&event->lock);
    return time_ns;
}

void cpu_streams_release(struct cpu_machine *machine) {
    CHECK(machine->streams == 0 && machine->events == 0);
    while (machine->idle_streams) {
        struct cpu_stream *stream = machine->idle_streams;
        machine->idle_streams = stream->next_idle;
        free_stream(stream);
    }
    while (machine->idle_events) {
        struct cpu_event *event = machine->idle_events;
        machine->idle_events = event->next_idle;
        pthread_mutex_destroy(&event->lock);
        free(event);
    }
}
