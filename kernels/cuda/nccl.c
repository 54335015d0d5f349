/* The collective of `cuda` devices: NCCL's all-reduce, on the compute streams, between the kernels that it follows and
 * those that follow it.
 *
 * One thread calls for all ranks, so that the calls of one sum are a group. NCCL's kernels wait on the GPU for those of
 * the other ranks: where one rank has failed nothing more is enqueued on any, and abort() lets go of those that wait.
 *
 * NCCL gives every rank the same bits. In which order it adds depends, for more than two ranks, on where in the buffer
 * a value lies, and so on the batch: such a device is not `invariant`. Threads: the host's. */
#include "kernels/cuda/nccl.h"

#include "base/check.h"
#include "kernels/cuda/ranks.h"

#include <stdlib.h>

struct ring {
    struct collective base;
    struct nccl nccl;
    uint32_t ranks;
    bool aborted;
    ncclComm_t comm[DEVICE_MOST_RANKS];
};

static struct status failure(const struct ring *ring, ncclResult_t result, const char *call) {
    return status_error(STATUS_DEVICE, "%s: %s; NCCL_DEBUG=WARN has it say more", call,
                        ring->nccl.error_string(result));
}

static void destroy(struct collective *collective) {
    struct ring *ring = (struct ring *)collective;
    for (uint32_t r = 0; r < ring->ranks && !ring->aborted; r++) {
        ring->nccl.comm_destroy(ring->comm[r]);
    }
    free(ring);
}

static void all_reduce(struct collective *collective, struct stream *const *streams, float *const *x, size_t count) {
    const struct ring *ring = (const struct ring *)collective;
    const struct nccl *nccl = &ring->nccl;
    cudaStream_t handles[DEVICE_MOST_RANKS];
    for (uint32_t r = 0; r < ring->ranks; r++) {
        streams[r]->device->backend->select(streams[r]->device);
        handles[r] = cuda_stream_handle(streams[r]);
    }
    if (!cuda_ranks_ready(streams, ring->ranks, ring->aborted)) {
        return;
    }
    ncclResult_t result = nccl->group_start();
    for (uint32_t r = 0; r < ring->ranks && result == ncclSuccess; r++) {
        result = nccl->all_reduce(x[r], x[r], count, ncclFloat32, ncclSum, ring->comm[r], handles[r]);
    }
    const ncclResult_t ended = nccl->group_end();
    result = result == ncclSuccess ? ended : result;
    if (result != ncclSuccess) {
        cuda_ranks_fail(streams, ring->ranks, failure(ring, result, "ncclAllReduce"));
    }
}

static void abort_all(struct collective *collective) {
    struct ring *ring = (struct ring *)collective;
    for (uint32_t r = 0; r < ring->ranks && !ring->aborted; r++) {
        ring->nccl.comm_abort(ring->comm[r]);
    }
    ring->aborted = true;
}

static const struct collective_kind kind = {
    .name = "NCCL", .destroy = destroy, .all_reduce = all_reduce, .abort = abort_all};

struct status cuda_nccl_join(struct device *const *devices, uint32_t ranks, struct collective **out) {
    int ordinals[DEVICE_MOST_RANKS];
    CHECK(ranks <= DEVICE_MOST_RANKS);
    for (uint32_t r = 0; r < ranks; r++) {
        ordinals[r] = ((const struct cuda_device *)devices[r])->ordinal;
    }
    struct ring *ring = calloc(1, sizeof *ring);
    if (!ring) {
        return status_error(STATUS_NO_MEMORY, "no memory for the sums of %u ranks", ranks);
    }
    ring->base.kind = &kind;
    struct status status = nccl_load(&ring->nccl);
    if (!status_failed(&status)) {
        ncclResult_t result = ring->nccl.comm_init_all(ring->comm, (int)ranks, ordinals);
        status = result == ncclSuccess ? STATUS_SUCCESS : failure(ring, result, "ncclCommInitAll");
    }
    if (status_failed(&status)) {
        free(ring);
        return status;
    }
    ring->ranks = ranks;
    *out = &ring->base;
    return STATUS_SUCCESS;
}
