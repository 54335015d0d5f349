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
#include "kernels/collective.h"
#include "kernels/cuda/cuda_internal.h"

#include <stdlib.h>

struct collective {
    struct nccl nccl;
    uint32_t ranks;
    bool aborted;
    ncclComm_t comm[DEVICE_MOST_RANKS];
};

static struct status failure(const struct collective *collective, ncclResult_t result, const char *call) {
    return status_error(STATUS_DEVICE, "%s: %s; NCCL_DEBUG=WARN has it say more", call,
                        collective->nccl.error_string(result));
}

static void destroy(struct collective *collective) {
    for (uint32_t r = 0; collective && r < collective->ranks && !collective->aborted; r++) {
        collective->nccl.comm_destroy(collective->comm[r]);
    }
    free(collective);
}

static struct status create(struct device *const *devices, uint32_t ranks, struct collective **out) {
    int ordinals[DEVICE_MOST_RANKS];
    CHECK(ranks <= DEVICE_MOST_RANKS);
    for (uint32_t r = 0; r < ranks; r++) {
        ordinals[r] = ((const struct cuda_device *)devices[r])->ordinal;
    }
    struct collective *collective = calloc(1, sizeof *collective);
    if (!collective) {
        return status_error(STATUS_NO_MEMORY, "no memory for the sums of %u ranks", ranks);
    }
    struct status status = nccl_load(&collective->nccl);
    if (!status_failed(&status)) {
        ncclResult_t result = collective->nccl.comm_init_all(collective->comm, (int)ranks, ordinals);
        status = result == ncclSuccess ? STATUS_SUCCESS : failure(collective, result, "ncclCommInitAll");
    }
    if (status_failed(&status)) {
        destroy(collective);
        return status;
    }
    collective->ranks = ranks;
    *out = collective;
    return STATUS_SUCCESS;
}

/* The first rank whose stream has failed; `ranks` if none has. */
static uint32_t find_failed(const struct collective *collective, struct stream *const *streams) {
    uint32_t r = 0;
    while (r < collective->ranks && cuda_stream_ready(streams[r])) {
        r++;
    }
    return r;
}

static void fail_all(const struct collective *collective, struct stream *const *streams, struct status status) {
    for (uint32_t r = 0; r < collective->ranks; r++) {
        cuda_fail(streams[r], status);
    }
}

static void all_reduce(struct collective *collective, struct stream *const *streams, float *const *x, size_t count) {
    const struct nccl *nccl = &collective->nccl;
    cudaStream_t handles[DEVICE_MOST_RANKS];
    for (uint32_t r = 0; r < collective->ranks; r++) {
        streams[r]->device->backend->select(streams[r]->device);
        handles[r] = cuda_stream_handle(streams[r]);
    }
    const uint32_t failed = find_failed(collective, streams);
    if (failed < collective->ranks || collective->aborted) {
        fail_all(collective, streams,
                 failed < collective->ranks
                     ? status_context(cuda_stream_of(streams[failed])->failure, "rank %u", failed)
                     : status_error(STATUS_DEVICE, "rank 0: another rank has failed before"));
        return;
    }
    ncclResult_t result = nccl->group_start();
    for (uint32_t r = 0; r < collective->ranks && result == ncclSuccess; r++) {
        result = nccl->all_reduce(x[r], x[r], count, ncclFloat32, ncclSum, collective->comm[r], handles[r]);
    }
    const ncclResult_t ended = nccl->group_end();
    result = result == ncclSuccess ? ended : result;
    if (result != ncclSuccess) {
        fail_all(collective, streams, failure(collective, result, "ncclAllReduce"));
    }
}

static void abort_all(struct collective *collective) {
    for (uint32_t r = 0; r < collective->ranks && !collective->aborted; r++) {
        collective->nccl.comm_abort(collective->comm[r]);
    }
    collective->aborted = true;
}

const struct collective_kind nccl_collective = {
    .create = create, .destroy = destroy, .all_reduce = all_reduce, .abort = abort_all};
