/* NVIDIA's matrix products, as a limit for our own: loaded when the library is there, and never needed.
 *
 * Owns the library's handle, as long as the program runs. Threads: the one that owns the device. */
#ifndef METRONOME_BENCH_CUBLAS_LIMIT_H
#define METRONOME_BENCH_CUBLAS_LIMIT_H

#include "kernels/device.h"

struct cublas_limit {
    int (*create)(void **handle);
    int (*gemm)(void *handle, int transa, int transb, int m, int n, int k, const void *alpha, const void *a, int a_type,
                int lda, const void *b, int b_type, int ldb, const void *beta, void *c, int c_type, int ldc,
                int compute_type, int algorithm);
    int (*synchronize)(void);
    void *handle;
};

/* Whether cuBLAS can be used here (libcublas.so, libcudart.so). */
bool cublas_limit_load(struct cublas_limit *cublas);

/* Seconds of a bf16 product, (n, columns) by (rows, columns): the best of a few; 0 if it fails or has no memory. */
double cublas_limit_seconds(struct device *device, const struct cublas_limit *cublas, uint32_t rows, uint32_t columns,
                            uint32_t n);

#endif
