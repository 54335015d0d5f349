/* Streams, copies and events of the `cuda` device.
 *
 * A stream fails when CUDA refuses to enqueue on it, when what was enqueued is found to have failed, or when a kernel
 * has reported bad input (struct cuda_fault): then nothing more is enqueued on it, and waits for it fail, too. What
 * CUDA finds late it tells to every stream, for it gives up the whole device; a report of bad input is told by the
 * compute streams.
 *
 * Compute streams have the greatest priority and copy streams the least, so that a copy inside the device does not hold
 * up kernels. Threads: the host's. */
#include "kernels/cuda/list.h"

#include "base/check.h"
#include "base/clock.h"

#include <stdlib.h>

struct status cuda_status(cudaError_t error, const char *call) {
    CHECK(error != cudaSuccess);
    return status_error(STATUS_DEVICE, "%s: %s (%s)", call, cudaGetErrorString(error), cudaGetErrorName(error));
}

static void fail(struct cuda_stream *stream, struct status status) {
    if (!status_failed(&stream->failure)) {
        stream->failure = status;
    }
    if (stream->group) {
        __atomic_store_n(stream->group->let_go, 1, __ATOMIC_RELEASE);
    }
}

void cuda_fail(struct stream *base, struct status status) {
    fail(cuda_stream_of(base), status);
}

bool cuda_check(struct stream *base, cudaError_t error, const char *call) {
    struct cuda_stream *stream = cuda_stream_of(base);
    if (error != cudaSuccess) {
        cudaGetLastError(); /* ours now: not to be found by the next call */
        fail(stream, cuda_status(error, call));
    }
    return !status_failed(&stream->failure);
}

/* What a kernel has reported, if any has. */
static struct status reported(const struct cuda_device *device) {
    switch (__atomic_load_n(&device->fault->kind, __ATOMIC_ACQUIRE)) {
    case CUDA_FAULT_NONE:
        return STATUS_SUCCESS;
    case CUDA_FAULT_EMBED_ID:
        return status_error(STATUS_DEVICE, "embed: row %u asks for id %u of a table of %u", device->fault->row,
                            device->fault->value, device->fault->bound);
    case CUDA_FAULT_ADD_ROWS_ID:
        return status_error(STATUS_DEVICE, "add_rows: row %u asks for id %u of a table of %u", device->fault->row,
                            device->fault->value, device->fault->bound);
    case CUDA_FAULT_LATE_RANK:
        return status_error(STATUS_DEVICE, "all_reduce: nothing came from rank %u in %u s", device->fault->row,
                            device->fault->value);
    default:
        return status_error(STATUS_DEVICE, "a kernel was given input that it cannot use");
    }
}

/* ---- streams ---- */

struct status cuda_stream_create(struct device *device, enum stream_kind kind, struct stream **out) {
    struct cuda_machine *machine = cuda_machine_of(device);
    struct cuda_stream *stream = calloc(1, sizeof *stream);
    if (!stream) {
        return status_error(STATUS_NO_MEMORY, "no memory for a stream");
    }
    int priority = kind == STREAM_COMPUTE ? machine->greatest_priority : machine->least_priority;
    cudaError_t error = cudaStreamCreateWithPriority(&stream->handle, cudaStreamNonBlocking, priority);
    if (error != cudaSuccess) {
        free(stream);
        return cuda_status(error, "cudaStreamCreateWithPriority");
    }
    stream->base = (struct stream){.device = device, .kind = kind};
    if (kind == STREAM_COMPUTE && machine->graphs && !(stream->list = cuda_list_create())) {
        cudaStreamDestroy(stream->handle);
        free(stream);
        return status_error(STATUS_NO_MEMORY, "no memory for a stream's graphs");
    }
    machine->streams++;
    *out = &stream->base;
    return STATUS_SUCCESS;
}

/* The stream's kernels are waited for by no other, and have ended. */
static void leave_group(struct cuda_stream *stream) {
    struct cuda_group *group = stream->group;
    for (uint32_t r = 0; group && r < group->ranks; r++) {
        group->stream[r] = group->stream[r] == stream ? NULL : group->stream[r];
    }
    stream->group = NULL;
}

void cuda_group_join(struct cuda_group *group, struct stream *const *streams) {
    for (uint32_t r = 0; r < group->ranks; r++) {
        struct cuda_stream *before = group->stream[r], *stream = cuda_stream_of(streams[r]);
        if (before == stream) {
            continue;
        }
        if (before) {
            before->base.device->backend->select(before->base.device);
            cuda_flush(before);
            cuda_check(&before->base, cudaStreamSynchronize(before->handle), "cudaStreamSynchronize");
            leave_group(before);
        }
        group->stream[r] = stream;
        stream->group = group;
    }
}

void cuda_stream_destroy(struct stream *base) {
    struct cuda_stream *stream = cuda_stream_of(base);
    cuda_flush(stream);
    cudaStreamSynchronize(stream->handle); /* what went wrong was there to be asked for */
    leave_group(stream);
    cuda_list_destroy(stream->list);
    cudaStreamDestroy(stream->handle);
    cuda_machine_of(base->device)->streams--;
    free(stream);
}

struct status cuda_stream_sync(struct stream *base) {
    struct cuda_stream *stream = cuda_stream_of(base);
    cuda_flush(stream);
    cuda_check(base, cudaStreamSynchronize(stream->handle), "cudaStreamSynchronize");
    if (base->kind == STREAM_COMPUTE) {
        struct status report = reported(cuda_device_of(base));
        if (status_failed(&report)) {
            fail(stream, report);
        }
    }
    return stream->failure;
}

static void count(struct cuda_machine *machine, size_t bytes, enum copy_kind kind) {
    if (kind == COPY_HOST_TO_DEVICE) {
        atomic_fetch_add_explicit(&machine->host_to_device_bytes, bytes, memory_order_relaxed);
        atomic_fetch_add_explicit(&machine->host_to_device_copies, 1, memory_order_relaxed);
    } else if (kind == COPY_DEVICE_TO_HOST) {
        atomic_fetch_add_explicit(&machine->device_to_host_bytes, bytes, memory_order_relaxed);
        atomic_fetch_add_explicit(&machine->device_to_host_copies, 1, memory_order_relaxed);
    }
}

void cuda_stream_copy(struct stream *stream, void *target, const void *source, size_t bytes, enum copy_kind kind) {
    static const enum cudaMemcpyKind kinds[] = {
        [COPY_HOST_TO_DEVICE] = cudaMemcpyHostToDevice,
        [COPY_DEVICE_TO_HOST] = cudaMemcpyDeviceToHost,
        [COPY_DEVICE_TO_DEVICE] = cudaMemcpyDeviceToDevice,
    };
    count(cuda_machine_of(stream->device), bytes, kind);
    cuda_put(stream,
             &(struct cuda_node){.kind = CUDA_NODE_COPY,
                                 .copy = {.target = target, .source = source, .bytes = bytes, .kind = kinds[kind]}});
}

void cuda_stream_copy_rows(struct stream *stream, void *target, const void *source, size_t stride, size_t bytes,
                           uint32_t rows) {
    count(cuda_machine_of(stream->device), bytes * rows, COPY_HOST_TO_DEVICE);
    cudaStream_t handle = cuda_stream_handle(stream);
    if (cuda_stream_ready(stream)) {
        cudaError_t error =
            cudaMemcpy2DAsync(target, bytes, source, stride, bytes, rows, cudaMemcpyHostToDevice, handle);
        cuda_check(stream, error, "cudaMemcpy2DAsync");
    }
}

/* ---- events ---- */

struct status cuda_event_create(struct device *device, struct event **out) {
    struct cuda_event *event = calloc(1, sizeof *event);
    if (!event) {
        return status_error(STATUS_NO_MEMORY, "no memory for an event");
    }
    cudaError_t error = cudaEventCreateWithFlags(&event->handle, cudaEventDefault);
    if (error != cudaSuccess) {
        free(event);
        return cuda_status(error, "cudaEventCreateWithFlags");
    }
    event->base.device = device;
    event->serial = ++cuda_machine_of(device)->event_serial;
    cuda_machine_of(device)->events++;
    *out = &event->base;
    return STATUS_SUCCESS;
}

/* Lists that have the event in them go. */
static void let_go(struct cuda_event *event) {
    cuda_event_settle(event);
    if (event->waited_by) {
        cuda_flush(event->waited_by);
    }
}

void cuda_event_destroy(struct event *base) {
    struct cuda_event *event = cuda_event_of(base);
    let_go(event);
    cudaEventDestroy(event->handle);
    cuda_machine_of(base->device)->events--;
    free(event);
}

void cuda_event_record(struct event *base, struct stream *stream) {
    struct cuda_event *event = cuda_event_of(base);
    let_go(event);
    event->recorded = true;
    event->computed = stream->kind == STREAM_COMPUTE;
    event->failure = STATUS_SUCCESS; /* or what it is when the record is enqueued */
    cuda_put(stream, &(struct cuda_node){.kind = CUDA_NODE_RECORD, .record = {event, event->serial}});
}

void cuda_stream_wait(struct stream *stream, struct event *base) {
    struct cuda_event *event = cuda_event_of(base);
    if (!event->recorded || event->listed == cuda_stream_of(stream)) { /* in the stream's order already */
        return;
    }
    cuda_event_settle(event);
    if (event->waited_by && event->waited_by != cuda_stream_of(stream)) {
        cuda_flush(event->waited_by); /* one list at most waits for an event */
    }
    if (status_failed(&event->failure)) {
        fail(cuda_stream_of(stream), event->failure);
    }
    cuda_put(stream, &(struct cuda_node){.kind = CUDA_NODE_WAIT, .wait = {event, event->serial}});
}

/* On a device that has failed everything is past: who waits shall be told so. */
bool cuda_event_query(const struct event *base) {
    struct cuda_event *event = cuda_event_of(base);
    cuda_event_settle(event);
    return !event->recorded || cudaEventQuery(event->handle) != cudaErrorNotReady;
}

struct status cuda_event_sync(struct event *base) {
    struct cuda_event *event = cuda_event_of(base);
    if (!event->recorded) {
        return STATUS_SUCCESS;
    }
    cuda_event_settle(event);
    cudaError_t error = cudaEventSynchronize(event->handle);
    if (error != cudaSuccess) {
        cudaGetLastError();
        return cuda_status(error, "cudaEventSynchronize");
    }
    if (status_failed(&event->failure)) {
        return event->failure;
    }
    return event->computed ? reported((const struct cuda_device *)base->device) : STATUS_SUCCESS;
}

uint64_t cuda_event_time_ns(const struct event *base) {
    struct cuda_event *event = cuda_event_of(base);
    CHECK(event->recorded);
    cuda_event_settle(event);
    return cuda_clock_time_ns(&cuda_machine_of(base->device)->clock, event->handle);
}
