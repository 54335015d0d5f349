/* Memory of the `sim` device, of both kinds: address space that the kernel backs with pages only where it is touched,
 * counted against a budget as if it were all there. Threads: the device's. */
#include "kernels/sim/sim_internal.h"

#include "base/bytes.h"
#include "base/check.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static struct status no_budget(const struct sim_memory *memory, size_t bytes, const char *what) {
    char need[16], left[16], budget[16], missing[16];
    uint64_t free_bytes = memory->budget - memory->used;
    return status_error(STATUS_NO_MEMORY, "%s needs %s of %s, and %s of %s are left: short by %s; raise %s", what,
                        bytes_format(bytes, need, sizeof need), memory->name,
                        bytes_format(free_bytes, left, sizeof left),
                        bytes_format(memory->budget, budget, sizeof budget),
                        bytes_format(bytes - free_bytes, missing, sizeof missing), memory->option);
}

struct status sim_memory_alloc(struct sim_memory *memory, size_t bytes, const char *what, void **out) {
    if (bytes > memory->budget - memory->used) {
        return no_budget(memory, bytes, what);
    }
    struct sim_allocation *allocation = malloc(sizeof *allocation);
    void *address = MAP_FAILED;
    if (allocation) {
        address = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    }
    if (address == MAP_FAILED) {
        char need[16];
        int error = errno;
        free(allocation);
        return status_error(STATUS_NO_MEMORY, "%s: the system gives no address space for %s of simulated %s: %s", what,
                            bytes_format(bytes, need, sizeof need), memory->name, strerror(error));
    }
    madvise(address, bytes, MADV_NOHUGEPAGE); /* a touched word costs a small page; no matter if it is refused */
    madvise(address, bytes, MADV_DONTDUMP);
    *allocation = (struct sim_allocation){.next = memory->first, .address = address, .bytes = bytes};
    memory->first = allocation;
    memory->used += bytes;
    *out = address;
    return STATUS_SUCCESS;
}

size_t sim_memory_free(struct sim_memory *memory, void *address) {
    struct sim_allocation **place = &memory->first;
    while (*place && (*place)->address != address) {
        place = &(*place)->next;
    }
    struct sim_allocation *allocation = *place;
    CHECK(allocation); /* else it was never allocated here, or freed twice */
    size_t bytes = allocation->bytes;
    *place = allocation->next;
    memory->used -= bytes;
    CHECK(munmap(allocation->address, bytes) == 0);
    free(allocation);
    return bytes;
}
