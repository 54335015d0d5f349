/* Large pinned host memory: what the model's weights in host memory lie in.
 *
 * cudaHostAlloc() fills pages one after another on one thread, which for a model of tens of GB takes minutes. Here the
 * memory is mapped in huge pages near the GPU (on the NUMA node of its PCIe slot, if the system says which), touched by
 * several threads, and then registered, which has only to pin what is there. Threads: the host's, and those that touch,
 * which are gone before the call returns. */
#include "kernels/cuda/machine.h"

#include "base/bytes.h"
#include "base/log.h"

#include <linux/mempolicy.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TOUCHING_THREADS 8
#define STRETCH_BYTES ((size_t)64 << 20) /* that a thread touches before it asks for more */
#define HUGE_PAGE_BYTES ((size_t)2 << 20)
#define MOST_NODES 1024

/* The NUMA node that the GPU's slot is on; -1: the system does not say, or has only one. */
static int numa_node(int ordinal) {
    char id[32] = "", path[96];
    if (cudaDeviceGetPCIBusId(id, sizeof id, ordinal) != cudaSuccess) {
        cudaGetLastError();
        return -1;
    }
    for (char *c = id; *c; c++) {
        *c = *c >= 'A' && *c <= 'F' ? (char)(*c - 'A' + 'a') : *c;
    }
    snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/numa_node", id);
    FILE *file = fopen(path, "r");
    int node = -1;
    if (file) {
        node = fscanf(file, "%d", &node) == 1 ? node : -1;
        fclose(file);
    }
    return node < MOST_NODES ? node : -1;
}

/* Asks for pages of that node where it has some left. Memory elsewhere works as well, only slower: no error. */
static void prefer_node(void *address, size_t bytes, int node) {
    unsigned long mask[MOST_NODES / (8 * sizeof(unsigned long))] = {0};
    const unsigned bits = 8 * sizeof mask[0];
    if (node < 0) {
        return;
    }
    mask[(unsigned)node / bits] = 1UL << (unsigned)node % bits;
    if (syscall(SYS_mbind, address, bytes, MPOL_PREFERRED, mask, (unsigned long)MOST_NODES, 0UL) != 0) {
        log_debug("host memory is not bound to NUMA node %d: the system does not allow it", node);
    }
}

/* ---- touching ---- */

struct touching {
    unsigned char *address;
    size_t bytes;
    _Atomic size_t next; /* the first byte that nobody has taken */
    _Atomic size_t done;
};

static bool touch_stretch(struct touching *touching) {
    const size_t begin = atomic_fetch_add(&touching->next, STRETCH_BYTES);
    if (begin >= touching->bytes) {
        return false;
    }
    const size_t left = touching->bytes - begin, bytes = left < STRETCH_BYTES ? left : STRETCH_BYTES;
    memset(touching->address + begin, 0, bytes);
    atomic_fetch_add(&touching->done, bytes);
    return true;
}

static void *touch(void *context) {
    while (touch_stretch(context)) {
    }
    return NULL;
}

/* Gives every page its memory; the calling thread takes part and shows how far it has come. */
static void touch_all(unsigned char *address, size_t bytes, const char *what) {
    struct touching touching = {.address = address, .bytes = bytes};
    struct progress bar;
    pthread_t threads[TOUCHING_THREADS];
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    int started = 0;
    progress_begin(&bar, what, bytes);
    while (started < TOUCHING_THREADS && started + 1 < cores &&
           pthread_create(&threads[started], NULL, touch, &touching) == 0) {
        started++; /* with fewer it takes longer */
    }
    while (touch_stretch(&touching)) {
        progress_update(&bar, atomic_load(&touching.done));
    }
    for (int i = 0; i < started; i++) {
        pthread_join(threads[i], NULL);
    }
    progress_update(&bar, bytes);
    progress_end(&bar);
}

/* What the system could give without swapping; UINT64_MAX: it does not say. Pages that are not there when they are
 * touched would cost some process its life and not give an error. */
static uint64_t available_bytes(void) {
    FILE *file = fopen("/proc/meminfo", "r");
    char line[128];
    unsigned long long kib;
    uint64_t available = UINT64_MAX;
    while (file && available == UINT64_MAX && fgets(line, sizeof line, file)) {
        available = sscanf(line, "MemAvailable: %llu kB", &kib) == 1 ? (uint64_t)kib << 10 : UINT64_MAX;
    }
    if (file) {
        fclose(file);
    }
    return available;
}

struct status cuda_host_map(int ordinal, size_t bytes, const char *what, void **out) {
    char need[16], have[16];
    const size_t mapped = bytes_align(bytes, HUGE_PAGE_BYTES);
    const uint64_t available = available_bytes();
    if (mapped > available) {
        return status_error(STATUS_NO_MEMORY,
                            "%s needs %s of host memory, and %s are available; lower host_memory, or "
                            "free RAM",
                            what, bytes_format(bytes, need, sizeof need), bytes_format(available, have, sizeof have));
    }
    void *address = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (address == MAP_FAILED) {
        return status_error(STATUS_NO_MEMORY, "%s: mmap of %s: out of memory; lower host_memory, or free RAM", what,
                            bytes_format(bytes, need, sizeof need));
    }
    (void)madvise(address, mapped, MADV_HUGEPAGE); /* where there are none, small ones */
    prefer_node(address, mapped, numa_node(ordinal));
    touch_all(address, mapped, "pinning host memory");
    cudaError_t error = cudaHostRegister(address, mapped, cudaHostRegisterPortable);
    if (error == cudaSuccess) {
        *out = address;
        return STATUS_SUCCESS;
    }
    cudaGetLastError();
    munmap(address, mapped);
    return status_error(error == cudaErrorMemoryAllocation ? STATUS_NO_MEMORY : STATUS_DEVICE,
                        "%s: cudaHostRegister of %s: %s; lower host_memory, free RAM, or raise the limit of locked "
                        "memory (ulimit -l)",
                        what, bytes_format(bytes, need, sizeof need), cudaGetErrorString(error));
}

void cuda_host_unmap(void *address, size_t bytes) {
    cudaHostUnregister(address);
    munmap(address, bytes_align(bytes, HUGE_PAGE_BYTES));
}
