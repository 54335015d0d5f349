/* The `cpu` device itself: opening, its table of functions, its clock. Its parts are in the files beside this one.
 * Threads: the host's. */
#include "kernels/collective.h"
#include "kernels/cpu/machine.h"

#include "base/bytes.h"
#include "base/check.h"
#include "base/clock.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

static const char *const isa_names[] = {[CPU_SCALAR] = "scalar", [CPU_AVX2] = "avx2", [CPU_AVX512] = "avx512"};

static struct cpu_device *cpu(struct device *device) {
    return (struct cpu_device *)device;
}

static const struct cpu_machine *machine_of(const struct device *device) {
    return ((const struct cpu_device *)device)->machine;
}

/* ---- what this machine is ---- */

/* The best instruction set that the processor has and the system lets us use. */
static enum cpu_isa best_isa(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    unsigned eax, ebx, ecx, edx;
    bool f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
    bool avx2 = f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vnni");
    return avx2 && avx512 ? CPU_AVX512 : avx2 ? CPU_AVX2 : CPU_SCALAR;
#else
    return CPU_SCALAR;
#endif
}

static struct status choose_isa(const char *name, enum cpu_isa *isa) {
    enum cpu_isa best = best_isa();
    if (!name || strcmp(name, "auto") == 0) {
        *isa = best;
        return STATUS_SUCCESS;
    }
    for (int i = CPU_SCALAR; i <= CPU_AVX512; i++) {
        if (strcmp(name, isa_names[i]) == 0) {
            *isa = (enum cpu_isa)i;
            return *isa <= best ? STATUS_SUCCESS
                                : status_error(STATUS_UNSUPPORTED, "isa: this processor has no %s; its best is %s",
                                               name, isa_names[best]);
        }
    }
    return status_error(STATUS_INVALID, "isa: \"%.32s\" is none of auto, avx512, avx2, scalar", name);
}

/* A rank's share of the threads, one at least. */
static struct status choose_threads(uint32_t wanted, uint32_t ranks, uint32_t *threads) {
    if (wanted > CPU_MAX_THREADS) {
        return status_error(STATUS_INVALID, "threads: %u is more than the most, %u", wanted, CPU_MAX_THREADS);
    }
    cpu_set_t cores;
    CPU_ZERO(&cores);
    int available = sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 1;
    available = available < 1 ? 1 : available;
    available = available > CPU_MAX_THREADS ? CPU_MAX_THREADS : available;
    uint32_t all = wanted ? wanted : (uint32_t)available;
    *threads = all > ranks ? all / (ranks ? ranks : 1) : 1;
    return STATUS_SUCCESS;
}

static uint64_t ram_bytes(void) {
    return (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGE_SIZE);
}

/* The processor's own name, "AMD EPYC 9R14"; 49 bytes. */
static void processor_name(char name[49]) {
    snprintf(name, 49, "unnamed processor");
#if defined(__x86_64__)
    unsigned words[12];
    for (unsigned i = 0; i < 3; i++) {
        unsigned *w = words + i * 4;
        if (!__get_cpuid(0x80000002 + i, &w[0], &w[1], &w[2], &w[3])) {
            return;
        }
    }
    memcpy(name, words, 48);
    name[48] = 0;
    for (size_t length = strlen(name); length > 0 && name[length - 1] == ' '; length--) {
        name[length - 1] = 0;
    }
#endif
}

/* ---- the device ---- */

static void destroy(struct cpu_device *device) {
    struct cpu_machine *machine = device->machine;
    if (machine) {
        CHECK(!machine->device.first && !machine->host.first);
        cpu_streams_release(machine);
        pool_destroy(&machine->pool);
        link_destroy(&machine->link);
        pthread_mutex_destroy(&machine->computing);
    }
    cpu_math_release(device);
    free(machine);
    free(device);
}

static struct status build(struct cpu_device *device, const struct device_config *config) {
    TRY(choose_isa(config->isa, &device->isa));
    TRY(choose_threads(config->threads, config->ranks, &device->threads));
    struct cpu_machine *machine = aligned_alloc(_Alignof(struct cpu_machine), sizeof *machine);
    if (!machine) {
        return status_error(STATUS_NO_MEMORY, "no memory for a device");
    }
    memset(machine, 0, sizeof *machine);
    device->machine = machine;
    machine->device = (struct ledger){.memory = "device memory",
                                      .option = "device_memory",
                                      .budget = config->device_memory ? config->device_memory : ram_bytes()};
    machine->host = (struct ledger){.memory = "pinned host memory",
                                    .option = "host_memory",
                                    .budget = config->host_memory ? config->host_memory : ram_bytes()};
    machine->jitter_ns = config->copy_jitter_ns;
    machine->seed = config->seed;
    pthread_mutex_init(&machine->computing, NULL);
    link_init(&machine->link, config->link_bytes_per_s);
    return pool_init(&machine->pool, device->threads);
}

static struct status cpu_open(const struct device_config *config, struct device **out) {
    struct cpu_device *device = calloc(1, sizeof *device);
    if (!device) {
        return status_error(STATUS_NO_MEMORY, "no memory for a device");
    }
    device->base.backend = &cpu_backend;
    device->compute = config->compute;
    struct status status = build(device, config);
    if (status_failed(&status)) {
        destroy(device);
        return status_context(status, "device cpu");
    }
    *out = &device->base;
    return STATUS_SUCCESS;
}

static void cpu_close(struct device *device) {
    destroy(cpu(device));
}

static struct device_info cpu_info(const struct device *base) {
    const struct cpu_device *device = (const struct cpu_device *)base;
    const struct cpu_machine *machine = device->machine;
    struct device_info info = {
        .name = "cpu",
        .device_memory = machine->device.budget,
        .device_used = machine->device.used,
        .host_memory = machine->host.budget,
        .host_used = machine->host.used,
        .link_bytes_per_s = atomic_load_explicit(&machine->link.bytes_per_s, memory_order_relaxed),
        .isa = isa_names[device->isa],
        .threads = device->threads,
        .ranks = 1,
        .invariant = true,
    };
    char name[49];
    processor_name(name);
    snprintf(info.description, sizeof info.description, "%s, %s, %u thread%s", name, isa_names[device->isa],
             device->threads, device->threads == 1 ? "" : "s");
    return info;
}

static struct status cpu_prepare(struct device *device, const struct device_limits *limits) {
    cpu_math_release(cpu(device));
    return cpu_math_prepare(cpu(device), limits);
}

static struct status cpu_alloc(struct device *device, size_t bytes, const char *what, void **out) {
    return ledger_alloc(&cpu(device)->machine->device, bytes, what, out);
}

static void cpu_free(struct device *device, void *address) {
    ledger_free(&cpu(device)->machine->device, address);
}

static struct status cpu_alloc_host(struct device *device, size_t bytes, const char *what, void **out) {
    return ledger_alloc(&cpu(device)->machine->host, bytes, what, out);
}

static void cpu_free_host(struct device *device, void *address) {
    ledger_free(&cpu(device)->machine->host, address);
}

static struct link_count cpu_link_count(const struct device *device) {
    const struct link *link = &machine_of(device)->link;
    return (struct link_count){
        .host_to_device_bytes = atomic_load_explicit(&link->host_to_device_bytes, memory_order_relaxed),
        .device_to_host_bytes = atomic_load_explicit(&link->device_to_host_bytes, memory_order_relaxed),
        .host_to_device_copies = atomic_load_explicit(&link->host_to_device_copies, memory_order_relaxed),
        .device_to_host_copies = atomic_load_explicit(&link->device_to_host_copies, memory_order_relaxed),
    };
}

static void cpu_set_link(struct device *device, double link_bytes_per_s) {
    atomic_store_explicit(&cpu(device)->machine->link.bytes_per_s, link_bytes_per_s, memory_order_relaxed);
}

static uint64_t cpu_now_ns(const struct device *device) {
    (void)device;
    return clock_now_ns();
}

static void cpu_sleep_until_ns(struct device *device, uint64_t time_ns) {
    (void)device;
    clock_sleep_until_ns(time_ns);
}

void cpu_parallel(struct cpu_device *device, uint32_t tasks, cpu_task *task, void *context) {
    pool_run(&device->machine->pool, tasks, task, context);
}

const struct backend cpu_backend = {
    .name = "cpu",
    .join = cpu_join,
    .open = cpu_open,
    .close = cpu_close,
    .info = cpu_info,
    .prepare = cpu_prepare,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .alloc_host = cpu_alloc_host,
    .free_host = cpu_free_host,
    .packed_bytes = cpu_packed_bytes,
    .pack = cpu_pack,
    .stream_create = cpu_stream_create,
    .stream_destroy = cpu_stream_destroy,
    .stream_sync = cpu_stream_sync,
    .stream_copy = cpu_stream_copy,
    .stream_copy_rows = cpu_stream_copy_rows,
    .stream_wait = cpu_stream_wait,
    .link_count = cpu_link_count,
    .set_link = cpu_set_link,
    .event_create = cpu_event_create,
    .event_destroy = cpu_event_destroy,
    .event_record = cpu_event_record,
    .event_query = cpu_event_query,
    .event_sync = cpu_event_sync,
    .event_time_ns = cpu_event_time_ns,
    .now_ns = cpu_now_ns,
    .sleep_until_ns = cpu_sleep_until_ns,
    .embed = cpu_embed,
    .add_rows = cpu_add_rows,
    .scale = cpu_scale,
    .rmsnorm = cpu_rmsnorm,
    .rmsnorm_add = cpu_rmsnorm_add,
    .layernorm = cpu_layernorm,
    .matmul = cpu_matmul,
    .rope_angles = cpu_rope_angles,
    .rope = cpu_rope,
    .kv_store = cpu_kv_store,
    .attention = cpu_attention,
    .gated = cpu_gated,
    .activate = cpu_activate,
    .gather = cpu_gather,
    .argmax = cpu_argmax,
    .sample = cpu_sample,
};
