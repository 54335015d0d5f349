/* What is called of NCCL (NVIDIA's NCCL API reference, from 2.18 on).
 *
 * The program does not link it: it is looked for where the program runs, when several GPUs are asked for. Threads: any.
 */
#ifndef METRONOME_KERNELS_CUDA_NCCL_H
#define METRONOME_KERNELS_CUDA_NCCL_H

#include "base/status.h"

#if !__has_include(<nccl.h>)
#error "nccl.h is not here: install NCCL's header (package libnccl-dev)"
#endif
#include <nccl.h>

#ifdef __cplusplus
extern "C" {
#endif

struct nccl {
    ncclResult_t (*comm_init_all)(ncclComm_t *comms, int count, const int *ordinals);
    ncclResult_t (*comm_destroy)(ncclComm_t comm);
    ncclResult_t (*comm_abort)(ncclComm_t comm);
    ncclResult_t (*group_start)(void);
    ncclResult_t (*group_end)(void);
    ncclResult_t (*all_reduce)(const void *source, void *target, size_t count, ncclDataType_t type, ncclRedOp_t op,
                               ncclComm_t comm, cudaStream_t stream);
    const char *(*error_string)(ncclResult_t result);
};

/* Finds it (nccl_load.c). STATUS_DEVICE says that it is not here, or too old, and what to install. */
struct status nccl_load(struct nccl *out);

#ifdef __cplusplus
}
#endif

#endif
