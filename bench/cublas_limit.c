#include "bench/cublas_limit.h"

#include <dlfcn.h>

/* Enumerators of cublas_api.h and library_types.h. */
#define CUBLAS_TRANSPOSED 1
#define CUBLAS_PLAIN 0
#define CUDA_BF16 14
#define CUBLAS_COMPUTE_F32 68
#define CUBLAS_DEFAULT (-1)

#define PASSES 10
#define AT_ONCE 16 /* many in a row: the host's share goes unseen */

bool cublas_limit_load(struct cublas_limit *cublas) {
    *cublas = (struct cublas_limit){0};
    void *library = dlopen("libcublas.so", RTLD_NOW), *runtime = dlopen("libcudart.so", RTLD_NOW);
    if (library == NULL || runtime == NULL) {
        return false;
    }
    *(void **)&cublas->create = dlsym(library, "cublasCreate_v2");
    *(void **)&cublas->gemm = dlsym(library, "cublasGemmEx");
    *(void **)&cublas->synchronize = dlsym(runtime, "cudaDeviceSynchronize");
    return cublas->create && cublas->gemm && cublas->synchronize && cublas->create(&cublas->handle) == 0;
}

double cublas_limit_seconds(struct device *device, const struct cublas_limit *cublas, uint32_t rows, uint32_t columns,
                            uint32_t n) {
    const size_t values = ((size_t)rows * columns + (size_t)n * columns + (size_t)n * rows);
    void *memory;
    const struct status status = device_alloc(device, values * sizeof(uint16_t), "cuBLAS", &memory);
    if (status_failed(&status)) {
        return 0;
    }
    uint16_t *weights = memory, *x = weights + (size_t)rows * columns, *out = x + (size_t)n * columns;
    const float one = 1, zero = 0;
    double best = 1e9;
    int error = 0;
    for (int pass = 0; pass < PASSES && error == 0; pass++) {
        error = cublas->synchronize();
        const uint64_t start = device_now_ns(device);
        for (int i = 0; i < AT_ONCE && error == 0; i++) {
            error = cublas->gemm(cublas->handle, CUBLAS_TRANSPOSED, CUBLAS_PLAIN, (int)rows, (int)n, (int)columns, &one,
                                 weights, CUDA_BF16, (int)columns, x, CUDA_BF16, (int)columns, &zero, out, CUDA_BF16,
                                 (int)rows, CUBLAS_COMPUTE_F32, CUBLAS_DEFAULT);
        }
        error = error != 0 ? error : cublas->synchronize();
        const double seconds = (double)(device_now_ns(device) - start) / 1e9 / AT_ONCE;
        best = seconds < best ? seconds : best;
    }
    device_free(device, memory);
    return error == 0 ? best : 0;
}
