/* What is called of cuBLAS (NVIDIA's cuBLAS documentation, from 13.0 on).
 *
 * The program does not link it: it is looked for where the program runs, when it may multiply. Threads: any. */
#ifndef METRONOME_KERNELS_CUDA_CUBLAS_H
#define METRONOME_KERNELS_CUDA_CUBLAS_H

#include "base/status.h"

#include <cublas_v2.h>

#ifdef __cplusplus
extern "C" {
#endif

struct cublas {
    cublasStatus_t (*create)(cublasHandle_t *handle);
    cublasStatus_t (*destroy)(cublasHandle_t handle);
    cublasStatus_t (*set_stream)(cublasHandle_t handle, cudaStream_t stream);
    cublasStatus_t (*set_workspace)(cublasHandle_t handle, void *workspace, size_t bytes);
    cublasStatus_t (*set_pointer_mode)(cublasHandle_t handle, cublasPointerMode_t mode);
    cublasStatus_t (*gemm_ex)(cublasHandle_t handle, cublasOperation_t a_operation, cublasOperation_t b_operation,
                              int m, int n, int k, const void *alpha, const void *a, cudaDataType a_type, int a_stride,
                              const void *b, cudaDataType b_type, int b_stride, const void *beta, void *c,
                              cudaDataType c_type, int c_stride, cublasComputeType_t compute,
                              cublasGemmAlgo_t algorithm);
    const char *(*status_string)(cublasStatus_t status);
};

/* Finds it (cublas_load.c). STATUS_DEVICE says that it is not here, or too old, and what to install. */
struct status cublas_load(struct cublas *out);

#ifdef __cplusplus
}
#endif

#endif
