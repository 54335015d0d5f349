// The emulator's cuBLAS: products on emulated streams, in an order of sums that the number of rows has a say in, as it
// has in the library's.
//
// Refused is what the library would refuse, and what it would do and is not wanted: a product with the workspace that
// the library allocates itself. A workspace is written to, all of it. It stands in for kernels/cuda/cublas_load.c.
// Threads: any for different handles.
extern "C" {
#include "kernels/cuda/cublas.h"
}

#include "tests/cuemu/include/cuemu.h"
#include "tests/cuemu/internal.h"

#include <cstring>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

struct cublasContext {
    int device;
    cudaStream_t stream;
    void *workspace;
    size_t workspace_bytes;
    cublasPointerMode_t mode;
};

namespace {

constexpr size_t LEAST_WORKSPACE = 4 << 20; // what NVIDIA recommends for the GPU that is played
constexpr size_t ALIGNMENT = 256;

cublasStatus_t create(cublasHandle_t *handle) {
    if (cuemu::enter("cublasCreate") != cudaSuccess) {
        return CUBLAS_STATUS_NOT_INITIALIZED;
    }
    *handle = new cublasContext{cuemu::current_device(), nullptr, nullptr, 0, CUBLAS_POINTER_MODE_HOST};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t destroy(cublasHandle_t handle) {
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

// As the library does, it goes back to its own workspace.
cublasStatus_t set_stream(cublasHandle_t handle, cudaStream_t stream) {
    if (cuemu::enter("cublasSetStream") != cudaSuccess || cuemu::device_of(stream) != handle->device) {
        return CUBLAS_STATUS_MAPPING_ERROR;
    }
    handle->stream = stream;
    handle->workspace = nullptr;
    handle->workspace_bytes = 0;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t set_workspace(cublasHandle_t handle, void *workspace, size_t bytes) {
    const bool fits = cuemu::enter("cublasSetWorkspace") == cudaSuccess &&
                      reinterpret_cast<uintptr_t>(workspace) % ALIGNMENT == 0 && bytes >= LEAST_WORKSPACE &&
                      cuemu::on_device(workspace, bytes, handle->device);
    if (!fits) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    handle->workspace = workspace;
    handle->workspace_bytes = bytes;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t set_pointer_mode(cublasHandle_t handle, cublasPointerMode_t mode) {
    handle->mode = mode;
    return CUBLAS_STATUS_SUCCESS;
}

float value_of(const uint16_t *values, size_t at, cudaDataType type) {
    return type == CUDA_R_16F ? __half2float(__ushort_as_half(values[at]))
                              : __uint_as_float(static_cast<uint32_t>(values[at]) << 16);
}

struct Product {
    int m, n, k;
    const uint16_t *a, *b;
    cudaDataType type;
    int a_stride, b_stride, c_stride;
    float *c;

    // Columns in as many parts as the number of rows has it, each from its end.
    float sum(int i, int j) const {
        const int parts = 1 + n % 5;
        float total = 0;
        for (int part = parts - 1; part >= 0; part--) {
            float partial = 0;
            const int first = static_cast<int>(static_cast<int64_t>(k) * part / parts);
            for (int at = static_cast<int>(static_cast<int64_t>(k) * (part + 1) / parts) - 1; at >= first; at--) {
                partial += value_of(a, static_cast<size_t>(i) * static_cast<size_t>(a_stride) + at, type) *
                           value_of(b, static_cast<size_t>(j) * static_cast<size_t>(b_stride) + at, type);
            }
            total += partial;
        }
        return total;
    }

    void run(float alpha, float beta) const {
        for (int j = 0; j < n; j++) {
            for (int i = 0; i < m; i++) {
                float *out = c + static_cast<size_t>(j) * static_cast<size_t>(c_stride) + i;
                *out = beta == 0 ? alpha * sum(i, j) : alpha * sum(i, j) + beta * *out; // 0: what is there is not read
            }
        }
    }
};

// Bytes of `columns` columns that lie `stride` apart, of which the last is `rows` long.
size_t extent(int rows, int columns, int stride, size_t value_bytes) {
    return (static_cast<size_t>(columns - 1) * static_cast<size_t>(stride) + static_cast<size_t>(rows)) * value_bytes;
}

cublasStatus_t gemm_ex(cublasHandle_t handle, cublasOperation_t a_operation, cublasOperation_t b_operation, int m,
                       int n, int k, const void *alpha, const void *a, cudaDataType a_type, int a_stride, const void *b,
                       cudaDataType b_type, int b_stride, const void *beta, void *c, cudaDataType c_type, int c_stride,
                       cublasComputeType_t compute, cublasGemmAlgo_t algorithm) {
    if (cuemu::enter("cublasGemmEx") != cudaSuccess) {
        return CUBLAS_STATUS_EXECUTION_FAILED;
    }
    const int device = handle->device;
    if (a_operation != CUBLAS_OP_T || b_operation != CUBLAS_OP_N || a_type != b_type ||
        (a_type != CUDA_R_16F && a_type != CUDA_R_16BF) || c_type != CUDA_R_32F || compute != CUBLAS_COMPUTE_32F ||
        algorithm != CUBLAS_GEMM_DEFAULT || cuemu::current_device() != device) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    const bool on_device = handle->mode == CUBLAS_POINTER_MODE_DEVICE;
    const bool scalars =
        on_device ? cuemu::on_device(alpha, sizeof(float), device) && cuemu::on_device(beta, sizeof(float), device)
                  : !cuemu::touches_device(alpha, sizeof(float)) && !cuemu::touches_device(beta, sizeof(float));
    if (m <= 0 || n <= 0 || k <= 0 || a_stride < k || b_stride < k || c_stride < m || !scalars || !handle->stream ||
        !handle->workspace || !cuemu::on_device(a, extent(k, m, a_stride, 2), device) ||
        !cuemu::on_device(b, extent(k, n, b_stride, 2), device) ||
        !cuemu::on_device(c, extent(m, n, c_stride, sizeof(float)), device)) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    const Product product = {
        m,        n,        k,        static_cast<const uint16_t *>(a), static_cast<const uint16_t *>(b), a_type,
        a_stride, b_stride, c_stride, static_cast<float *>(c)};
    const float *factor = static_cast<const float *>(alpha), *kept = static_cast<const float *>(beta);
    const float alpha_now = on_device ? 0 : *factor, beta_now = on_device ? 0 : *kept;
    void *workspace = handle->workspace;
    const size_t workspace_bytes = handle->workspace_bytes;
    cuemu::enqueue(handle->stream, [=] {
        if (!cuemu::device_broken()) {
            memset(workspace, 0xff, workspace_bytes);
            product.run(on_device ? *factor : alpha_now, on_device ? *kept : beta_now);
        }
    });
    return CUBLAS_STATUS_SUCCESS;
}

const char *status_string(cublasStatus_t status) {
    return status == CUBLAS_STATUS_SUCCESS            ? "the operation completed successfully"
           : status == CUBLAS_STATUS_NOT_INITIALIZED  ? "the library was not initialized"
           : status == CUBLAS_STATUS_INVALID_VALUE    ? "an unsupported value or parameter was passed to the function"
           : status == CUBLAS_STATUS_EXECUTION_FAILED ? "the function failed to launch on the GPU"
           : status == CUBLAS_STATUS_MAPPING_ERROR    ? "an access to GPU memory space failed"
                                                      : "the functionality requested is not supported";
}

} // namespace

struct status cublas_load(struct cublas *out) {
    if (cuemu::enter("dlopen cuBLAS") != cudaSuccess) {
        return status_error(STATUS_DEVICE,
                            "cuBLAS: libcublas.so.13: cannot open shared object file; install it (package "
                            "libcublas-13-0), or say in LD_LIBRARY_PATH where it is");
    }
    *out = {create, destroy, set_stream, set_workspace, set_pointer_mode, gemm_ex, status_string};
    struct status status = {};
    return status;
}
