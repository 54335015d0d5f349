/* Finds NCCL where the program runs. The library stays loaded. Threads: any. */
#include "kernels/cuda/nccl.h"

#include <dlfcn.h>
#include <string.h>

#define LIBRARY "libnccl.so.2"

struct status nccl_load(struct nccl *out) {
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        return status_error(STATUS_DEVICE,
                            "sums over GPUs take NCCL here: %s; install it (package libnccl2), or say in "
                            "LD_LIBRARY_PATH where it is",
                            dlerror());
    }
    const struct {
        const char *name;
        void *slot;
    } functions[] = {
        {"ncclCommInitAll", &out->comm_init_all},   {"ncclCommDestroy", &out->comm_destroy},
        {"ncclCommAbort", &out->comm_abort},        {"ncclGroupStart", &out->group_start},
        {"ncclGroupEnd", &out->group_end},          {"ncclAllReduce", &out->all_reduce},
        {"ncclGetErrorString", &out->error_string},
    };
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++) {
        void *address = dlsym(library, functions[i].name);
        if (!address) {
            return status_error(STATUS_DEVICE, LIBRARY " has no %s; install a newer NCCL", functions[i].name);
        }
        memcpy(functions[i].slot, &address, sizeof address); /* C has no cast from an object to a function */
    }
    return STATUS_SUCCESS;
}
