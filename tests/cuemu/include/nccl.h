/* The emulator's twin of <nccl.h>: the part of NCCL's C interface that kernels/cuda uses, with the names, types and
 * meaning of NCCL 2 (NVIDIA's NCCL API reference). Implemented by tests/cuemu/nccl.cc. Threads: any. */
#ifndef METRONOME_TESTS_CUEMU_NCCL_H
#define METRONOME_TESTS_CUEMU_NCCL_H

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ncclComm *ncclComm_t;

typedef enum {
    ncclSuccess = 0,
    ncclUnhandledCudaError = 1,
    ncclInvalidArgument = 4,
    ncclInvalidUsage = 5,
} ncclResult_t;

typedef enum { ncclFloat32 = 7 } ncclDataType_t;
typedef enum { ncclSum = 0 } ncclRedOp_t;

#ifdef __cplusplus
}
#endif

#endif
