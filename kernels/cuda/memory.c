/* Memory of the `cuda` device: the GPU's, and the host's pinned for it, counted against their budgets.
 *
 * cudaMalloc() aligns to 256 bytes, cudaHostAlloc() to pages. What is large in host memory is host_memory.c's. Scratch
 * of ops is device memory beside the budget, as it is on `cpu`. Threads: the host's. */
#include "kernels/cuda/machine.h"

#include "base/bytes.h"
#include "base/check.h"

#include <stdlib.h>

static struct status no_budget(const struct cuda_ledger *ledger, size_t bytes, const char *what, const char *memory,
                               const char *option) {
    char need[16], left[16], budget[16], missing[16];
    uint64_t free_bytes = ledger->budget - ledger->used;
    return status_error(STATUS_NO_MEMORY, "%s needs %s of %s, and %s of %s are left: short by %s; raise %s", what,
                        bytes_format(bytes, need, sizeof need), memory, bytes_format(free_bytes, left, sizeof left),
                        bytes_format(ledger->budget, budget, sizeof budget),
                        bytes_format(bytes - free_bytes, missing, sizeof missing), option);
}

static struct status keep(struct cuda_ledger *ledger, struct cuda_allocation *allocation, void *address, size_t bytes,
                          void **out) {
    *allocation = (struct cuda_allocation){.next = ledger->first, .address = address, .bytes = bytes};
    ledger->first = allocation;
    ledger->used += bytes;
    *out = address;
    return STATUS_SUCCESS;
}

/* Takes the allocation off its ledger and returns its bytes; its memory is the caller's to free. */
static size_t forget(struct cuda_ledger *ledger, void *address) {
    struct cuda_allocation **link = &ledger->first;
    while (*link && (*link)->address != address) {
        link = &(*link)->next;
    }
    struct cuda_allocation *allocation = *link;
    CHECK(allocation); /* else it was never allocated here, or freed twice */
    *link = allocation->next;
    const size_t bytes = allocation->bytes;
    ledger->used -= bytes;
    free(allocation);
    return bytes;
}

/* Who has the GPU's memory, as far as one process can know. */
static struct status gpu_is_full(const struct cuda_machine *machine, size_t bytes, const char *what) {
    char need[16], left[16], total[16], ours[16], others[16];
    size_t free_bytes = 0, total_bytes = machine->gpu_bytes;
    cudaMemGetInfo(&free_bytes, &total_bytes);
    uint64_t used = total_bytes - free_bytes, our_bytes = machine->device.used + machine->scratch.used;
    return status_error(
        STATUS_NO_MEMORY,
        "%s: cudaMalloc of %s: out of memory: the GPU has %s free of %s; this process holds %s, and CUDA "
        "and other processes (nvidia-smi lists them) %s",
        what, bytes_format(bytes, need, sizeof need), bytes_format(free_bytes, left, sizeof left),
        bytes_format(total_bytes, total, sizeof total), bytes_format(our_bytes, ours, sizeof ours),
        bytes_format(used > our_bytes ? used - our_bytes : 0, others, sizeof others));
}

static struct status alloc_on_gpu(struct cuda_machine *machine, struct cuda_ledger *ledger, size_t bytes,
                                  const char *what, void **out) {
    struct cuda_allocation *allocation = malloc(sizeof *allocation);
    if (!allocation) {
        return status_error(STATUS_NO_MEMORY, "%s: no memory to note an allocation", what);
    }
    void *address = NULL;
    cudaError_t error = cudaMalloc(&address, bytes);
    if (error == cudaSuccess) {
        return keep(ledger, allocation, address, bytes, out);
    }
    free(allocation);
    cudaGetLastError();
    return error == cudaErrorMemoryAllocation ? gpu_is_full(machine, bytes, what)
                                              : status_context(cuda_status(error, "cudaMalloc"), "%s", what);
}

struct status cuda_alloc(struct device *device, size_t bytes, const char *what, void **out) {
    struct cuda_machine *machine = cuda_machine_of(device);
    if (bytes > machine->device.budget - machine->device.used) {
        return no_budget(&machine->device, bytes, what, "device memory", "device_memory");
    }
    return alloc_on_gpu(machine, &machine->device, bytes, what, out);
}

void cuda_free(struct device *device, void *address) {
    forget(&cuda_machine_of(device)->device, address);
    cudaFree(address);
}

struct status cuda_scratch_alloc(struct cuda_device *device, size_t bytes, const char *what, void **out) {
    return alloc_on_gpu(device->machine, &device->machine->scratch, bytes, what, out);
}

void cuda_scratch_free(struct cuda_device *device, void *address) {
    if (address) {
        forget(&device->machine->scratch, address);
        cudaFree(address);
    }
}

static struct status pin(size_t bytes, const char *what, void **out) {
    cudaError_t error = cudaHostAlloc(out, bytes, cudaHostAllocPortable);
    if (error == cudaSuccess) {
        return STATUS_SUCCESS;
    }
    cudaGetLastError();
    char need[16];
    return status_error(error == cudaErrorMemoryAllocation ? STATUS_NO_MEMORY : STATUS_DEVICE,
                        "%s: cudaHostAlloc of %s: %s; lower host_memory, or free RAM", what,
                        bytes_format(bytes, need, sizeof need), cudaGetErrorString(error));
}

struct status cuda_alloc_host(struct device *device, size_t bytes, const char *what, void **out) {
    struct cuda_machine *machine = cuda_machine_of(device);
    if (bytes > machine->host.budget - machine->host.used) {
        return no_budget(&machine->host, bytes, what, "pinned host memory", "host_memory");
    }
    struct cuda_allocation *allocation = malloc(sizeof *allocation);
    if (!allocation) {
        return status_error(STATUS_NO_MEMORY, "%s: no memory to note an allocation", what);
    }
    void *address = NULL;
    struct status status = bytes < CUDA_HOST_LARGE
                               ? pin(bytes, what, &address)
                               : cuda_host_map(((struct cuda_device *)device)->ordinal, bytes, what, &address);
    if (status_failed(&status)) {
        free(allocation);
        return status;
    }
    return keep(&machine->host, allocation, address, bytes, out);
}

void cuda_free_host(struct device *device, void *address) {
    const size_t bytes = forget(&cuda_machine_of(device)->host, address);
    if (bytes < CUDA_HOST_LARGE) {
        cudaFreeHost(address);
    } else {
        cuda_host_unmap(address, bytes);
    }
}
