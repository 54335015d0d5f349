/* Memory of the `cpu` device: RAM, counted against the budgets that stand for device and pinned host memory. */
#include "kernels/cpu/machine.h"

#include "base/bytes.h"
#include "base/check.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_PAGE ((size_t)2 << 20)

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

/* What the system could give without swapping or killing; UINT64_MAX if it does not say. */
static uint64_t available_bytes(void) {
    FILE *file = fopen("/proc/meminfo", "re");
    if (!file) {
        return UINT64_MAX;
    }
    char line[128];
    unsigned long long kib;
    uint64_t bytes = UINT64_MAX;
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1) {
            bytes = (uint64_t)kib << 10;
            break;
        }
    }
    fclose(file);
    return bytes;
}

/* Memory from HUGE_PAGE up is asked for in huge pages, and all of it is faulted in now: a page fault in the middle of
 * an iteration would cost time that nobody predicted, and memory that is not there is better missed at the start. */
static void *map(size_t bytes) {
    bool huge = bytes >= HUGE_PAGE;
    void *address;
    if ((huge && bytes > available_bytes()) || posix_memalign(&address, huge ? HUGE_PAGE : CPU_ALIGNMENT, bytes)) {
        return NULL;
    }
    if (huge) {
        size_t whole = bytes & ~(HUGE_PAGE - 1);
        madvise(address, whole, MADV_HUGEPAGE); /* a wish: systems without them go on with small ones */
        if (madvise(address, whole, MADV_POPULATE_WRITE) && errno == ENOMEM) {
            free(address);
            return NULL;
        }
    }
    return address;
}

static struct status no_budget(const struct ledger *ledger, size_t bytes, const char *what) {
    char need[16], left[16], budget[16], missing[16];
    uint64_t free_bytes = ledger->budget - ledger->used;
    return status_error(STATUS_NO_MEMORY, "%s needs %s of %s, and %s of %s are left: short by %s; raise %s", what,
                        bytes_format(bytes, need, sizeof need), ledger->memory,
                        bytes_format(free_bytes, left, sizeof left),
                        bytes_format(ledger->budget, budget, sizeof budget),
                        bytes_format(bytes - free_bytes, missing, sizeof missing), ledger->option);
}

struct status ledger_alloc(struct ledger *ledger, size_t bytes, const char *what, void **out) {
    if (bytes > ledger->budget - ledger->used) {
        return no_budget(ledger, bytes, what);
    }
    struct allocation *allocation = malloc(sizeof *allocation);
    void *address = allocation ? map(bytes) : NULL;
    if (!address) {
        char need[16];
        free(allocation);
        return status_error(
            STATUS_NO_MEMORY,
            "%s: the system has no %s of RAM to spare for %s; lower the limits that ask for it, or free RAM", what,
            bytes_format(bytes, need, sizeof need), ledger->memory);
    }
    *allocation = (struct allocation){.next = ledger->first, .address = address, .bytes = bytes};
    ledger->first = allocation;
    ledger->used += bytes;
    *out = address;
    return STATUS_SUCCESS;
}

void ledger_free(struct ledger *ledger, void *address) {
    struct allocation **link = &ledger->first;
    while (*link && (*link)->address != address) {
        link = &(*link)->next;
    }
    struct allocation *allocation = *link;
    CHECK(allocation); /* else it was never allocated here, or freed twice */
    *link = allocation->next;
    ledger->used -= allocation->bytes;
    free(allocation->address);
    free(allocation);
}
