// op_matmul on the cuda device: stages the activations once for each precision that the parts ask for, and launches one
// kernel for each type of weights; or has cuBLAS multiply, where it may (matmul_library.cu).
//
// Owns: which kernel multiplies what, and the scratch for staged activations. The arithmetic is matmul.cuh's, and none
// of the choices among own kernels changes it. Threads: the one that owns the device.
#include "kernels/cuda/matmul.cuh"

extern "C" {
#include "base/bytes.h"
}

#include <cstdlib>

struct cuda_matmul {
    uint8_t *staged;
    size_t staged_bytes;
    float *row_factors;
    uint32_t rows; // that row_factors holds
};

namespace {

// A row of 16 bits is the largest form that activations are staged in.
struct status allocate(struct cuda_device *device, const struct device_limits *limits) {
    struct cuda_matmul *matmul = device->matmul;
    const size_t rows =
        bytes_align(limits->rows > limits->logit_rows ? limits->rows : limits->logit_rows, MATMUL_ROWS_ALIGNED);
    size_t units;
    if (!bytes_multiply(rows / MATMUL_TILE, cuda_units(limits->columns), &units) ||
        !bytes_multiply(units, STAGED_UNIT_BYTES<Stage::F16>, &matmul->staged_bytes)) {
        return status_error(STATUS_NO_MEMORY, "scratch for activations: %zu rows of %u do not fit", rows,
                            limits->columns);
    }
    matmul->rows = static_cast<uint32_t>(rows);
    TRY(cuda_scratch_alloc(device, matmul->staged_bytes, "staged activations",
                           reinterpret_cast<void **>(&matmul->staged)));
    return cuda_scratch_alloc(device, rows * sizeof(float), "staged activations",
                              reinterpret_cast<void **>(&matmul->row_factors));
}

// Adds the parts of one type to the work; false if there are none.
bool collect(MatmulWork *work, enum tensor_type type, const struct matmul_part *parts, uint32_t count) {
    work->count = work->groups = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (parts[i].weight.type == type) {
            work->pieces[work->count++] = {parts[i].weight.data, parts[i].bias, parts[i].out,       parts[i].out_stride,
                                           parts[i].weight.rows, work->groups,  parts[i].accumulate};
            work->groups += blocks_for(parts[i].weight.rows, CUDA_GROUP_ROWS);
        }
    }
    return work->count > 0;
}

Stage stage_for(enum tensor_type type) {
    return type == TENSOR_F16 ? Stage::F16 : type == TENSOR_BF16 ? Stage::BF16 : Stage::INT8;
}

// The types whose activations are staged alike; the scratch holds one form at a time.
void multiply_staged(struct stream *stream, Stage stage, MatmulWork *work, const struct matmul_part *parts,
                     uint32_t count) {
    bool staged = false;
    for (int at = TENSOR_F16; at < TENSOR_TYPES; at++) {
        const enum tensor_type type = static_cast<enum tensor_type>(at);
        if (stage_for(type) != stage || !collect(work, type, parts, count)) {
            continue;
        }
        if (!staged) {
            const struct cuda_matmul *matmul = cuda_device_of(stream)->matmul;
            matmul_stage(stream, stage, matmul->staged, matmul->row_factors, *work);
            staged = true;
        }
        if (work->n <= MATMUL_FEW_ROWS) {
            matmul_few_rows(stream, type, *work);
        } else {
            matmul_many_rows(stream, type, *work);
        }
    }
}

} // namespace

void cuda_matmul(struct stream *stream, const struct matmul_part *parts, uint32_t count, const float *x,
                 size_t x_stride, uint32_t n) {
    const struct cuda_device *device = cuda_device_of(stream);
    const struct cuda_matmul *matmul = device->matmul;
    const uint32_t columns = parts[0].weight.columns, units = cuda_units(columns);
    CHECK(matmul != nullptr && n <= matmul->rows);
    CHECK(static_cast<size_t>(blocks_for(n, MATMUL_ROWS_ALIGNED)) * (MATMUL_ROWS_ALIGNED / MATMUL_TILE) * units *
              STAGED_UNIT_BYTES<Stage::F16> <=
          matmul->staged_bytes);
    MatmulWork work = {};
    work.staged = matmul->staged;
    work.row_factors = matmul->row_factors;
    work.x = x;
    work.x_stride = x_stride;
    work.n = n;
    work.columns = columns;
    work.units = units;
    work.span_units = blocks_for(units, MATMUL_SPANS);
    const bool all_exact = device->compute == COMPUTE_F32;
    for (int type = 0; type < TENSOR_TYPES; type++) {
        if ((all_exact || type == TENSOR_F32) && collect(&work, static_cast<enum tensor_type>(type), parts, count)) {
            matmul_exact(stream, static_cast<enum tensor_type>(type), work);
        }
    }
    if (!all_exact && !matmul_library(stream, parts, count, matmul->staged, matmul->row_factors, work)) {
        multiply_staged(stream, Stage::F16, &work, parts, count);
        multiply_staged(stream, Stage::BF16, &work, parts, count);
        multiply_staged(stream, Stage::INT8, &work, parts, count);
    }
}

struct status cuda_matmul_prepare(struct cuda_device *device, const struct device_limits *limits) {
    device->matmul = static_cast<struct cuda_matmul *>(calloc(1, sizeof *device->matmul));
    if (device->matmul == nullptr) {
        return status_error(STATUS_NO_MEMORY, "scratch: %zu bytes are not to be had", sizeof *device->matmul);
    }
    struct status status = allocate(device, limits);
    if (status.code == STATUS_OK) {
        status = matmul_library_prepare(device, limits);
    }
    const cudaError_t error = matmul_many_rows_prepare();
    if (status.code == STATUS_OK && error != cudaSuccess) {
        status = cuda_status(error, "cudaFuncSetAttribute");
    }
    if (status.code != STATUS_OK) {
        cuda_matmul_release(device);
    }
    return status;
}

void cuda_matmul_release(struct cuda_device *device) {
    matmul_library_release(device);
    if (device->matmul != nullptr) {
        cuda_scratch_free(device, device->matmul->staged);
        cuda_scratch_free(device, device->matmul->row_factors);
        free(device->matmul);
        device->matmul = nullptr;
    }
}
