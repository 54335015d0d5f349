/* Finds cuBLAS where the program runs. The library stays loaded. Threads: any. */
#include "kernels/cuda/cublas.h"

#include <dlfcn.h>
#include <string.h>

/* The version that the header is of: libraries of one major version are alike. */
#define TEXT_OF(number) #number
#define LIBRARY_OF(version) "libcublas.so." TEXT_OF(version)
#define LIBRARY LIBRARY_OF(CUBLAS_VER_MAJOR)

struct status cublas_load(struct cublas *out) {
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        return status_error(
            STATUS_DEVICE, "cuBLAS: %.120s; install it (package libcublas-13-0), or say in LD_LIBRARY_PATH where it is",
            dlerror());
    }
    const struct {
        const char *name;
        void *slot;
    } functions[] = {
        {"cublasCreate_v2", &out->create},
        {"cublasDestroy_v2", &out->destroy},
        {"cublasSetStream_v2", &out->set_stream},
        {"cublasSetWorkspace_v2", &out->set_workspace},
        {"cublasSetPointerMode_v2", &out->set_pointer_mode},
        {"cublasGemmEx", &out->gemm_ex},
        {"cublasGetStatusString", &out->status_string},
    };
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++) {
        void *address = dlsym(library, functions[i].name);
        if (!address) {
            return status_error(STATUS_DEVICE, LIBRARY " has no %s; install a newer cuBLAS", functions[i].name);
        }
        memcpy(functions[i].slot, &address, sizeof address); /* C has no cast from an object to a function */
    }
    return STATUS_SUCCESS;
}
