/* The `cuda` device itself: opening it, in clear words where it cannot be, and its table of functions.
 *
 * The runtime is linked statically and finds the driver when it is first called, so that a program with this device
 * starts where there is none. One GPU: the first that CUDA_VISIBLE_DEVICES shows, or as a rank of a team the one of its
 * number, which cuda_select() makes the calling thread's. Threads: the host's. */
#include "kernels/collective.h"
#include "kernels/cuda/list.h"

#include "base/bytes.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define LEAST_CAPABILITY 80 /* bf16 and int8 tensor cores, cp.async */

/* Of a budget that nobody set, this share of the free memory is left to CUDA itself: kernels are loaded late. */
#define CUDA_OWN_SHARE 32

static struct cuda_device *cuda(struct device *device) {
    return (struct cuda_device *)device;
}

/* ---- can it be used here? ---- */

static struct status check_driver(void) {
    int driver = 0, runtime = 0;
    cudaError_t error = cudaDriverGetVersion(&driver);
    if (error != cudaSuccess || driver == 0) {
        return status_error(STATUS_DEVICE, "there is no NVIDIA driver here (libcuda.so.1 was not found); install it, "
                                           "or serve with --device cpu");
    }
    error = cudaRuntimeGetVersion(&runtime);
    if (error != cudaSuccess) {
        return cuda_status(error, "cudaRuntimeGetVersion");
    }
    if (driver / 1000 < runtime / 1000) {
        return status_error(
            STATUS_DEVICE,
            "the NVIDIA driver is too old: it has CUDA %d.%d and this build needs %d.0; install a newer "
            "driver, or serve with --device cpu",
            driver / 1000, driver % 1000 / 10, runtime / 1000);
    }
    return STATUS_SUCCESS;
}

static struct status check_gpu(struct cuda_device *device) {
    int gpus = 0;
    cudaError_t error = cudaGetDeviceCount(&gpus);
    if (error == cudaErrorNoDevice || (error == cudaSuccess && gpus == 0)) {
        return status_error(STATUS_DEVICE, "there is a driver and no GPU (cudaGetDeviceCount); look at nvidia-smi and "
                                           "CUDA_VISIBLE_DEVICES, or serve with --device cpu");
    }
    if (error != cudaSuccess) {
        return cuda_status(error, "cudaGetDeviceCount");
    }
    if (device->ordinal >= gpus) {
        return status_error(STATUS_DEVICE,
                            "it takes GPU %d and there are %d (CUDA_VISIBLE_DEVICES); lower "
                            "tensor_parallel_size",
                            device->ordinal, gpus);
    }
    struct cudaDeviceProp properties;
    error = cudaGetDeviceProperties(&properties, device->ordinal);
    if (error != cudaSuccess) {
        return cuda_status(error, "cudaGetDeviceProperties");
    }
    struct cuda_machine *machine = device->machine;
    snprintf(machine->name, sizeof machine->name, "%.63s", properties.name);
    machine->gpu_bytes = properties.totalGlobalMem;
    device->capability = properties.major * 10 + properties.minor;
    device->multiprocessors = properties.multiProcessorCount;
    device->shared_bytes = properties.sharedMemPerBlockOptin;
    if (device->capability < LEAST_CAPABILITY) {
        return status_error(STATUS_UNSUPPORTED, "%s has compute capability %d.%d; it takes 8.0 (Ampere) or later",
                            machine->name, properties.major, properties.minor);
    }
    return STATUS_SUCCESS;
}

/* ---- opening ---- */

static uint64_t ram_bytes(void) {
    return (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGE_SIZE);
}

static struct status set_budgets(struct cuda_machine *machine, const struct device_config *config) {
    size_t free_bytes, total_bytes;
    cudaError_t error = cudaMemGetInfo(&free_bytes, &total_bytes);
    if (error != cudaSuccess) {
        return cuda_status(error, "cudaMemGetInfo");
    }
    machine->device.budget = config->device_memory ? config->device_memory : free_bytes - free_bytes / CUDA_OWN_SHARE;
    machine->host.budget = config->host_memory ? config->host_memory : ram_bytes();
    return STATUS_SUCCESS;
}

/* Pinned memory has one address for host and device on every 64-bit system. */
static struct status make_fault(struct cuda_device *device) {
    void *address = NULL;
    cudaError_t error = cudaHostAlloc(&address, sizeof *device->fault, cudaHostAllocMapped);
    if (error != cudaSuccess) {
        return cuda_status(error, "cudaHostAlloc");
    }
    device->fault = address;
    *device->fault = (struct cuda_fault){.kind = CUDA_FAULT_NONE};
    return STATUS_SUCCESS;
}

static struct status build(struct cuda_device *device, const struct device_config *config) {
    if (config->link_bytes_per_s > 0) {
        return status_error(STATUS_UNSUPPORTED, "link_gbps: the link to a GPU is as fast as it is; leave it at 0");
    }
    if (config->copy_jitter_ns > 0) {
        return status_error(STATUS_UNSUPPORTED, "copies are delayed at random on cpu and sim only");
    }
    device->machine = calloc(1, sizeof *device->machine);
    if (!device->machine) {
        return status_error(STATUS_NO_MEMORY, "no memory for a device");
    }
    TRY(check_driver());
    TRY(check_gpu(device));
    cudaError_t error = cudaSetDevice(device->ordinal);
    if (error != cudaSuccess) {
        return cuda_status(error, "cudaSetDevice");
    }
    struct cuda_machine *machine = device->machine;
    machine->graphs = !config->no_graphs;
    error = cudaDeviceGetStreamPriorityRange(&machine->least_priority, &machine->greatest_priority);
    if (error != cudaSuccess) {
        return cuda_status(error, "cudaDeviceGetStreamPriorityRange");
    }
    TRY(make_fault(device));
    TRY(cuda_clock_open(&machine->clock));
    return set_budgets(machine, config);
}

static void destroy(struct cuda_device *device) {
    struct cuda_machine *machine = device->machine;
    cuda_matmul_release(device);
    cuda_attention_release(device);
    cuda_sample_release(device);
    if (machine) {
        CHECK(machine->streams == 0 && machine->events == 0);
        CHECK(!machine->device.first && !machine->host.first && !machine->scratch.first);
        cuda_clock_close(&machine->clock);
    }
    if (device->fault) {
        cudaFreeHost(device->fault);
    }
    free(machine);
    free(device);
}

static struct status cuda_open(const struct device_config *config, struct device **out) {
    struct cuda_device *device = calloc(1, sizeof *device);
    if (!device) {
        return status_error(STATUS_NO_MEMORY, "no memory for a device");
    }
    device->base.backend = &cuda_backend;
    device->compute = config->compute;
    device->invariant = config->invariant;
    device->library_rows = config->library_rows;
    device->ordinal = (int)config->rank;
    struct status status = build(device, config);
    if (status_failed(&status)) {
        cudaGetLastError();
        destroy(device);
        return status;
    }
    *out = &device->base;
    return STATUS_SUCCESS;
}

/* What cannot be selected is found by the next call. */
static void cuda_select(const struct device *device) {
    (void)cudaSetDevice(((const struct cuda_device *)device)->ordinal);
}

static struct launch_count cuda_launch_count(const struct device *device) {
    return cuda_machine_of(device)->launches;
}

static void cuda_close(struct device *device) {
    const struct launch_count count = cuda_launch_count(device);
    log_debug("device cuda: %llu kernels launched one by one, %llu graphs of %llu operations in all; %llu made, %llu "
              "operations in them changed, %llu refused",
              (unsigned long long)count.kernels, (unsigned long long)count.graphs,
              (unsigned long long)count.graph_nodes, (unsigned long long)count.instantiations,
              (unsigned long long)count.updates, (unsigned long long)count.refusals);
    destroy(cuda(device));
}

static struct device_info cuda_info(const struct device *base) {
    const struct cuda_device *device = (const struct cuda_device *)base;
    const struct cuda_machine *machine = device->machine;
    struct device_info info = {
        .name = "cuda",
        .device_memory = machine->device.budget,
        .device_used = machine->device.used,
        .host_memory = machine->host.budget,
        .host_used = machine->host.used,
        .threads = 1,
        .ranks = 1,
        .invariant = device->invariant || device->compute == COMPUTE_F32 || (device->matmul && !device->library),
    };
    char total[16];
    snprintf(info.description, sizeof info.description, "%s, %s, sm_%d, %d multiprocessors", machine->name,
             bytes_format(machine->gpu_bytes, total, sizeof total), device->capability, device->multiprocessors);
    return info;
}

static struct status cuda_prepare(struct device *device, const struct device_limits *limits) {
    cuda_matmul_release(cuda(device));
    cuda_attention_release(cuda(device));
    cuda_sample_release(cuda(device));
    TRY(cuda_matmul_prepare(cuda(device), limits));
    TRY(cuda_attention_prepare(cuda(device), limits));
    return cuda_sample_prepare(cuda(device), limits);
}

static struct link_count cuda_link_count(const struct device *device) {
    const struct cuda_machine *machine = cuda_machine_of(device);
    return (struct link_count){
        .host_to_device_bytes = atomic_load_explicit(&machine->host_to_device_bytes, memory_order_relaxed),
        .device_to_host_bytes = atomic_load_explicit(&machine->device_to_host_bytes, memory_order_relaxed),
        .host_to_device_copies = atomic_load_explicit(&machine->host_to_device_copies, memory_order_relaxed),
        .device_to_host_copies = atomic_load_explicit(&machine->device_to_host_copies, memory_order_relaxed),
    };
}

static void cuda_set_link(struct device *device, double link_bytes_per_s) {
    (void)device;
    CHECK(link_bytes_per_s == 0); /* a real link has no pace to set */
}

static uint64_t cuda_now_ns(const struct device *device) {
    (void)device;
    return clock_now_ns();
}

static void cuda_sleep_until_ns(struct device *device, uint64_t time_ns) {
    (void)device;
    clock_sleep_until_ns(time_ns);
}

const struct backend cuda_backend = {
    .name = "cuda",
    .join = cuda_join,
    .select = cuda_select,
    .open = cuda_open,
    .close = cuda_close,
    .info = cuda_info,
    .prepare = cuda_prepare,
    .alloc = cuda_alloc,
    .free = cuda_free,
    .alloc_host = cuda_alloc_host,
    .free_host = cuda_free_host,
    .packed_bytes = cuda_packed_bytes,
    .pack = cuda_pack,
    .stream_create = cuda_stream_create,
    .stream_destroy = cuda_stream_destroy,
    .stream_sync = cuda_stream_sync,
    .stream_copy = cuda_stream_copy,
    .stream_copy_rows = cuda_stream_copy_rows,
    .stream_wait = cuda_stream_wait,
    .repeat_begin = cuda_repeat_begin,
    .repeat_end = cuda_repeat_end,
    .launch_count = cuda_launch_count,
    .link_count = cuda_link_count,
    .set_link = cuda_set_link,
    .event_create = cuda_event_create,
    .event_destroy = cuda_event_destroy,
    .event_record = cuda_event_record,
    .event_query = cuda_event_query,
    .event_sync = cuda_event_sync,
    .event_time_ns = cuda_event_time_ns,
    .now_ns = cuda_now_ns,
    .sleep_until_ns = cuda_sleep_until_ns,
    .embed = cuda_embed,
    .add_rows = cuda_add_rows,
    .scale = cuda_scale,
    .rmsnorm = cuda_rmsnorm,
    .rmsnorm_add = cuda_rmsnorm_add,
    .layernorm = cuda_layernorm,
    .matmul = cuda_matmul,
    .rope_angles = cuda_rope_angles,
    .rope = cuda_rope,
    .kv_store = cuda_kv_store,
    .attention = cuda_attention,
    .gated = cuda_gated,
    .activate = cuda_activate,
    .gather = cuda_gather,
    .argmax = cuda_argmax,
    .sample = cuda_sample,
};
