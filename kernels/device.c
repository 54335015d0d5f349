/* The public face of a device: finds the backend by name, checks arguments, calls through its table.
 *
 * Owns no state. The ops' faces are in ops.c. Threads: as device.h says. */
#include "kernels/device_internal.h"
#include "kernels/team/team.h"

#include "base/check.h"

#include <string.h>

#ifdef METRONOME_CUDA
#define DEVICES "cpu, cuda, sim"
static const struct backend *const backends[] = {&cpu_backend, &cuda_backend, &sim_backend};
#else
#define DEVICES "cpu, sim"
static const struct backend *const backends[] = {&cpu_backend, &sim_backend};
#endif

static bool link_pace_valid(double bytes_per_s) {
    return bytes_per_s == 0 || (bytes_per_s >= 1e6 && bytes_per_s <= 1e13); /* false for NaN */
}

struct status device_open(const struct device_config *config, struct device **out) {
    CHECK(config && out);
    *out = NULL;
    if (!config->name) {
        return status_error(STATUS_INVALID, "no device is named; this build has: " DEVICES);
    }
    if (!link_pace_valid(config->link_bytes_per_s)) {
        return status_error(STATUS_INVALID, "link_gbps: %g is no pace; give 0.001 to 10000, or 0 for an unpaced link",
                            config->link_bytes_per_s / 1e9);
    }
    if (config->ranks > DEVICE_MOST_RANKS) {
        return status_error(STATUS_INVALID, "tensor_parallel_size %u is more than the most, %u", config->ranks,
                            DEVICE_MOST_RANKS);
    }
    for (size_t i = 0; i < sizeof backends / sizeof *backends; i++) {
        if (strcmp(backends[i]->name, config->name) == 0) {
            const bool team = config->ranks > 1 && backends[i]->join;
            return status_context(team ? team_open(backends[i], config, out) : backends[i]->open(config, out),
                                  "device %s", config->name);
        }
    }
    return status_error(STATUS_NOT_FOUND, "device \"%.64s\" is not in this build, which has: " DEVICES "%s",
                        config->name, strcmp(config->name, "cuda") == 0 ? "; build with make CUDA=1" : "");
}

void device_close(struct device *device) {
    if (device) {
        device->backend->close(device);
    }
}

struct device_info device_info(const struct device *device) {
    return device->backend->info(device);
}

struct status device_prepare(struct device *device, const struct device_limits *limits) {
    CHECK(limits->rows > 0 && limits->columns > 0);
    CHECK(limits->kv_heads == 0 || limits->query_heads % limits->kv_heads == 0);
    return device->backend->prepare(device, limits);
}

/* ---- ranks ---- */

void device_share(struct device *device, const void *host, size_t bytes) {
    if (device->backend == &team_backend) {
        team_share(device, host, bytes);
    }
}

void device_share_table(struct device *device, const uint64_t *host, size_t count) {
    if (device->backend == &team_backend) {
        team_share_table(device, host, count);
    }
}

void *device_rank_host(const struct device *device, void *host, uint32_t rank) {
    if (device->backend == &team_backend) {
        return team_rank_host(device, host, rank);
    }
    CHECK(rank < device_info(device).ranks);
    return host;
}

void stream_copy_to_rank(struct stream *stream, uint32_t rank, void *target, const void *source, size_t bytes) {
    if (stream->device->backend == &team_backend) {
        team_copy_to_rank(stream, rank, target, source, bytes);
    } else if (rank == 0) { /* which stands for all of them on sim */
        stream_copy(stream, target, source, bytes, COPY_HOST_TO_DEVICE);
    }
}

/* ---- memory ---- */

struct status device_alloc(struct device *device, size_t bytes, const char *what, void **out) {
    CHECK(bytes > 0 && what);
    *out = NULL;
    return device->backend->alloc(device, bytes, what, out);
}

void device_free(struct device *device, void *address) {
    if (address) {
        device->backend->free(device, address);
    }
}

struct status device_alloc_host(struct device *device, size_t bytes, const char *what, void **out) {
    CHECK(bytes > 0 && what);
    *out = NULL;
    return device->backend->alloc_host(device, bytes, what, out);
}

void device_free_host(struct device *device, void *address) {
    if (address) {
        device->backend->free_host(device, address);
    }
}

/* ---- weights ---- */

size_t device_packed_bytes(const struct device *device, enum tensor_type type, uint32_t rows, uint32_t columns) {
    CHECK((unsigned)type < TENSOR_TYPES && columns % tensor_traits(type)->block_elements == 0);
    size_t bytes = device->backend->packed_bytes(device, type, rows, columns);
    CHECK(bytes % 64 == 0);
    return bytes;
}

void device_pack(const struct device *device, enum tensor_type type, uint32_t rows, uint32_t columns,
                 const void *source, void *packed) {
    CHECK((unsigned)type < TENSOR_TYPES && columns % tensor_traits(type)->block_elements == 0);
    CHECK((uintptr_t)packed % 64 == 0);
    device->backend->pack(device, type, rows, columns, source, packed);
}

/* ---- streams and events ---- */

struct status stream_create(struct device *device, enum stream_kind kind, struct stream **out) {
    CHECK(kind == STREAM_COMPUTE || kind == STREAM_COPY);
    *out = NULL;
    return device->backend->stream_create(device, kind, out);
}

void stream_destroy(struct stream *stream) {
    if (stream) {
        stream->device->backend->stream_destroy(stream);
    }
}

struct status stream_sync(struct stream *stream) {
    return stream->device->backend->stream_sync(stream);
}

void stream_copy(struct stream *stream, void *target, const void *source, size_t bytes, enum copy_kind kind) {
    CHECK(bytes == 0 || (target && source));
    CHECK(kind == COPY_HOST_TO_DEVICE || kind == COPY_DEVICE_TO_HOST || kind == COPY_DEVICE_TO_DEVICE);
    if (bytes > 0) {
        stream->device->backend->stream_copy(stream, target, source, bytes, kind);
    }
}

void stream_copy_rows(struct stream *stream, void *target, const void *source, size_t stride, size_t bytes,
                      uint32_t rows) {
    CHECK(target && source && bytes > 0 && stride >= bytes && rows > 0);
    stream->device->backend->stream_copy_rows(stream, target, source, stride, bytes, rows);
}

void stream_repeat_begin(struct stream *stream) {
    if (stream->device->backend->repeat_begin) {
        stream->device->backend->repeat_begin(stream);
    }
}

void stream_repeat_end(struct stream *stream) {
    if (stream->device->backend->repeat_end) {
        stream->device->backend->repeat_end(stream);
    }
}

struct launch_count device_launch_count(const struct device *device) {
    return device->backend->launch_count ? device->backend->launch_count(device) : (struct launch_count){0};
}

struct link_count device_link_count(const struct device *device) {
    return device->backend->link_count(device);
}

void device_set_link(struct device *device, double link_bytes_per_s) {
    CHECK(link_pace_valid(link_bytes_per_s));
    device->backend->set_link(device, link_bytes_per_s);
}

struct status event_create(struct device *device, struct event **out) {
    *out = NULL;
    return device->backend->event_create(device, out);
}

void event_destroy(struct event *event) {
    if (event) {
        event->device->backend->event_destroy(event);
    }
}

void event_record(struct event *event, struct stream *stream) {
    CHECK(event->device == stream->device);
    event->device->backend->event_record(event, stream);
}

void stream_wait(struct stream *stream, struct event *event) {
    CHECK(event->device == stream->device);
    stream->device->backend->stream_wait(stream, event);
}

bool event_query(const struct event *event) {
    return event->device->backend->event_query(event);
}

struct status event_sync(struct event *event) {
    return event->device->backend->event_sync(event);
}

uint64_t event_time_ns(const struct event *event) {
    return event->device->backend->event_time_ns(event);
}

/* ---- the clock ---- */

uint64_t device_now_ns(const struct device *device) {
    return device->backend->now_ns(device);
}

void device_sleep_until_ns(struct device *device, uint64_t time_ns) {
    device->backend->sleep_until_ns(device, time_ns);
}
