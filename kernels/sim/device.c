/* The `sim` device itself: opening, its table of functions, what sim.h adds. Threads: the device's; sim_link_count()
 * any. */
#include "kernels/sim/sim_internal.h"

#include "base/bytes.h"
#include "base/check.h"

#include <stdlib.h>
#include <string.h>

/* What a host has if the configuration does not say: more than any, less than the address space. */
#define HOST_MEMORY (UINT64_C(1) << 45)

static struct sim_device *sim(struct device *device) {
    CHECK(device->backend == &sim_backend);
    return (struct sim_device *)device;
}

static const struct sim_device *const_sim(const struct device *device) {
    CHECK(device->backend == &sim_backend);
    return (const struct sim_device *)device;
}

/* ---- opening ---- */

static struct status check_memory(const struct device_config *config, const struct hardware *hardware) {
    if (config->device_memory > hardware->device_memory_bytes) {
        char asked[16], has[16];
        return status_error(STATUS_INVALID, "device_memory: is %s, and %s has %s",
                            bytes_format(config->device_memory, asked, sizeof asked), hardware->name,
                            bytes_format(hardware->device_memory_bytes, has, sizeof has));
    }
    return STATUS_SUCCESS;
}

static struct status sim_open(const struct device_config *config, struct device **out) {
    struct hardware hardware;
    if (!config->hardware || !*config->hardware) {
        return status_error(STATUS_INVALID, "hardware: name a description, such as configs/hardware/a10.json");
    }
    TRY(status_context(hardware_load(config->hardware, &hardware), "hardware"));
    TRY(check_memory(config, &hardware));
    struct sim_device *device = calloc(1, sizeof *device);
    if (!device) {
        return status_error(STATUS_NO_MEMORY, "no memory for a device");
    }
    device->base.backend = &sim_backend;
    device->hardware = hardware;
    device->cost = cost_model(&hardware, config->compute);
    device->device = (struct sim_memory){
        .name = "device memory",
        .option = "device_memory",
        .budget = config->device_memory ? config->device_memory : hardware.device_memory_bytes,
    };
    device->host = (struct sim_memory){
        .name = "pinned host memory",
        .option = "host_memory",
        .budget = config->host_memory ? config->host_memory : HOST_MEMORY,
    };
    device->seed = config->seed;
    device->ranks = config->ranks > 1 ? config->ranks : 1;
    device->jitter_ns = config->copy_jitter_ns;
    device->time.bus.bytes_per_s = config->link_bytes_per_s > 0 ? config->link_bytes_per_s : hardware.link_bytes_per_s;
    device->time.ready_end = &device->time.ready;
    *out = &device->base;
    return STATUS_SUCCESS;
}

static void sim_close(struct device *base) {
    struct sim_device *device = sim(base);
    CHECK(!device->device.first && !device->host.first);
    sim_streams_release(&device->time);
    free(device->tokens.marked);
    free(device);
}

static struct device_info sim_info(const struct device *base) {
    const struct sim_device *device = const_sim(base);
    struct device_info info = {
        .name = "sim",
        .device_memory = device->device.budget,
        .device_used = device->device.used,
        .host_memory = device->host.budget,
        .host_used = device->host.used,
        .link_bytes_per_s = device->time.bus.bytes_per_s,
        .threads = 1,
        .ranks = device->ranks,
        .invariant = true,
    };
    char ranks[24] = "";
    if (device->ranks > 1) {
        snprintf(ranks, sizeof ranks, "%u ranks of ", device->ranks);
    }
    snprintf(info.description, sizeof info.description, "%s%s, simulated", ranks, device->hardware.name);
    return info;
}

static struct status sim_prepare(struct device *device, const struct device_limits *limits) {
    return sim_tokens_prepare(sim(device), limits);
}

/* ---- memory and weights ---- */

static struct status sim_alloc(struct device *device, size_t bytes, const char *what, void **out) {
    return sim_memory_alloc(&sim(device)->device, bytes, what, out);
}

static void sim_free(struct device *base, void *address) {
    struct sim_device *device = sim(base);
    size_t bytes = sim_memory_free(&device->device, address);
    sim_forget_logits(device, address, bytes);
}

static struct status sim_alloc_host(struct device *device, size_t bytes, const char *what, void **out) {
    return sim_memory_alloc(&sim(device)->host, bytes, what, out);
}

static void sim_free_host(struct device *device, void *address) {
    sim_memory_free(&sim(device)->host, address);
}

static size_t sim_packed_bytes(const struct device *device, enum tensor_type type, uint32_t rows, uint32_t columns) {
    (void)device;
    return cost_packed_bytes(type, rows, columns);
}

/* No op reads a weight. */
static void sim_pack(const struct device *device, enum tensor_type type, uint32_t rows, uint32_t columns,
                     const void *source, void *packed) {
    (void)device, (void)type, (void)rows, (void)columns, (void)source, (void)packed;
}

/* ---- the link ---- */

static struct link_count sim_link_count(const struct device *base) {
    const struct sim_device *device = const_sim(base);
    return (struct link_count){
        .host_to_device_bytes = atomic_load_explicit(&device->host_to_device_bytes, memory_order_relaxed),
        .device_to_host_bytes = atomic_load_explicit(&device->device_to_host_bytes, memory_order_relaxed),
        .host_to_device_copies = atomic_load_explicit(&device->host_to_device_copies, memory_order_relaxed),
        .device_to_host_copies = atomic_load_explicit(&device->device_to_host_copies, memory_order_relaxed),
    };
}

static void set_pace(struct sim_device *device, double bytes_per_s, const struct sim_link_step *steps, uint32_t count) {
    sim_settle(device);
    bus_set_pace(&device->time.bus, device->time.now_ns, bytes_per_s, steps, count);
}

static void sim_set_link(struct device *base, double link_bytes_per_s) {
    struct sim_device *device = sim(base);
    set_pace(device, link_bytes_per_s > 0 ? link_bytes_per_s : device->hardware.link_bytes_per_s, NULL, 0);
}

void sim_set_link_steps(struct device *base, const struct sim_link_step *steps, uint32_t count) {
    struct sim_device *device = sim(base);
    for (uint32_t i = 0; i < count; i++) {
        CHECK(steps[i].bytes_per_s >= 0 && (i == 0 || steps[i].time_ns > steps[i - 1].time_ns));
    }
    CHECK(count == 0 || steps[count - 1].bytes_per_s > 0); /* else a wait might never end */
    set_pace(device, device->time.bus.bytes_per_s, steps, count);
}

/* ---- what sim.h adds ---- */

const struct hardware *sim_hardware(const struct device *device) {
    return &const_sim(device)->hardware;
}

const struct cost_model *sim_cost_model(const struct device *device) {
    return &const_sim(device)->cost;
}

void sim_set_log(struct device *device, FILE *log) {
    sim(device)->time.log = log;
}

const struct backend sim_backend = {
    .name = "sim",
    .open = sim_open,
    .close = sim_close,
    .info = sim_info,
    .prepare = sim_prepare,
    .alloc = sim_alloc,
    .free = sim_free,
    .alloc_host = sim_alloc_host,
    .free_host = sim_free_host,
    .packed_bytes = sim_packed_bytes,
    .pack = sim_pack,
    .stream_create = sim_stream_create,
    .stream_destroy = sim_stream_destroy,
    .stream_sync = sim_stream_sync,
    .stream_copy = sim_stream_copy,
    .stream_copy_rows = sim_stream_copy_rows,
    .stream_wait = sim_stream_wait,
    .link_count = sim_link_count,
    .set_link = sim_set_link,
    .event_create = sim_event_create,
    .event_destroy = sim_event_destroy,
    .event_record = sim_event_record,
    .event_query = sim_event_query,
    .event_sync = sim_event_sync,
    .event_time_ns = sim_event_time_ns,
    .now_ns = sim_now_ns,
    .sleep_until_ns = sim_sleep_until_ns,
    .embed = sim_embed,
    .add_rows = sim_add_rows,
    .scale = sim_scale,
    .rmsnorm = sim_rmsnorm,
    .rmsnorm_add = sim_rmsnorm_add,
    .layernorm = sim_layernorm,
    .matmul = sim_matmul,
    .rope_angles = sim_rope_angles,
    .rope = sim_rope,
    .kv_store = sim_kv_store,
    .attention = sim_attention,
    .gated = sim_gated,
    .activate = sim_activate,
    .gather = sim_gather,
    .argmax = sim_argmax,
    .sample = sim_sample,
    .all_reduce = sim_all_reduce,
};
