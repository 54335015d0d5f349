/* Sums over GPUs that have access to each other's memory, by own kernels (peer_reduce.cu): kernels as any other, so
 * that they are in graphs, and in the order of ranks, so that a row's bits do not depend on its batch.
 *
 * A kernel waits on its GPU for those of the other ranks. So the streams are a group, whose work goes to the GPUs
 * together (list.c); and where the host learns of a failure, kernels are let go of: they end, and leave what they were
 * to write as it is. A kernel that waits for longer than PATIENCE_S ends by itself, and its stream fails.
 *
 * What drivers say about access is tried once, at the beginning: some say yes, and writes do not arrive. Access stays
 * granted for as long as the program runs, for other teams. Threads: the host's. */
#include "kernels/cuda/peer.h"

#include "base/check.h"
#include "kernels/cuda/machine.h"
#include "kernels/cuda/ranks.h"

#include <stdlib.h>

/* Copies that one rank's layers wait for, and the others do not, take less. */
#define PATIENCE_S 60
#define TRIAL_PATIENCE_S 5

/* Values of the trial: some blocks of threads, and a vector that is not full. */
#define TRIAL_VALUES 4099
#define TRIAL_BYTES (TRIAL_VALUES * sizeof(float))

struct peers {
    struct collective base;
    struct cuda_group group;
    size_t share_values; /* of a sum: so many and more go in shares */
    uint64_t sums;       /* enqueued so far */
    struct device *device[DEVICE_MOST_RANKS];
    struct cuda_peers rank[DEVICE_MOST_RANKS];
};

static struct device *enter(const struct peers *peers, uint32_t rank) {
    struct device *device = peers->device[rank];
    device->backend->select(device);
    return device;
}

static void destroy(struct collective *collective) {
    struct peers *peers = (struct peers *)collective;
    for (uint32_t r = 0; r < peers->group.ranks; r++) {
        cuda_scratch_free((struct cuda_device *)enter(peers, r), peers->rank[r].inbox[r]);
    }
    cudaFreeHost(peers->group.let_go);
    free(peers);
}

/* ---- sums ---- */

/* Rank after rank, with no call between that may wait: each kernel waits for all of them. */
static void enqueue(struct peers *peers, struct stream *const *streams, enum cuda_peer_way way, float *const *x,
                    size_t at, size_t count) {
    const uint32_t inbox = (uint32_t)(peers->sums++ % 2);
    for (uint32_t r = 0; r < peers->group.ranks; r++) {
        enter(peers, r);
        cuda_peer_reduce(streams[r], &peers->rank[r], way, inbox, x[r] + at, (uint32_t)count);
    }
}

static bool over(const struct peers *peers) {
    return __atomic_load_n(peers->group.let_go, __ATOMIC_ACQUIRE) != 0;
}

static void all_reduce(struct collective *collective, struct stream *const *streams, float *const *x, size_t count) {
    struct peers *peers = (struct peers *)collective;
    if (!cuda_ranks_ready(streams, peers->group.ranks, over(peers))) {
        return;
    }
    cuda_group_join(&peers->group, streams);
    for (size_t at = 0; at < count; at += CUDA_PEER_VALUES) {
        const size_t now = count - at < CUDA_PEER_VALUES ? count - at : CUDA_PEER_VALUES;
        const bool at_once = count < peers->share_values && cuda_peer_fits_at_once(peers->group.ranks, now);
        enqueue(peers, streams, at_once ? CUDA_PEER_AT_ONCE : CUDA_PEER_IN_SHARES, x, at, now);
    }
}

static void abort_all(struct collective *collective) {
    const struct peers *peers = (const struct peers *)collective;
    __atomic_store_n(peers->group.let_go, 1, __ATOMIC_RELEASE);
}

static const struct collective_kind kind = {
    .name = "peer memory", .destroy = destroy, .all_reduce = all_reduce, .abort = abort_all, .ordered = true};

/* ---- access ---- */

static struct status grant_access(const struct peers *peers, uint32_t rank, uint32_t other) {
    const int ordinal = ((const struct cuda_device *)enter(peers, rank))->ordinal;
    const int peer = ((const struct cuda_device *)peers->device[other])->ordinal;
    int can = 0;
    cudaError_t error = cudaDeviceCanAccessPeer(&can, ordinal, peer);
    if (error != cudaSuccess) {
        return cuda_status(error, "cudaDeviceCanAccessPeer");
    }
    if (!can) {
        return status_error(STATUS_UNSUPPORTED, "GPU %d has no access to the memory of GPU %d", ordinal, peer);
    }
    error = cudaDeviceEnablePeerAccess(peer, 0);
    if (error == cudaErrorPeerAccessAlreadyEnabled) {
        cudaGetLastError();
        return STATUS_SUCCESS;
    }
    return error == cudaSuccess ? STATUS_SUCCESS : cuda_status(error, "cudaDeviceEnablePeerAccess");
}

static struct status grant_all_access(const struct peers *peers) {
    for (uint32_t r = 0; r < peers->group.ranks; r++) {
        for (uint32_t other = 0; other < peers->group.ranks; other++) {
            if (other != r) {
                TRY(grant_access(peers, r, other));
            }
        }
    }
    return STATUS_SUCCESS;
}

/* ---- memory ---- */

static struct status make_let_go(struct peers *peers) {
    void *address = NULL;
    const cudaError_t error =
        cudaHostAlloc(&address, sizeof *peers->group.let_go, cudaHostAllocMapped | cudaHostAllocPortable);
    if (error != cudaSuccess) {
        return cuda_status(error, "cudaHostAlloc");
    }
    peers->group.let_go = address;
    *peers->group.let_go = 0;
    return STATUS_SUCCESS;
}

static struct status make_inboxes(struct peers *peers) {
    uint32_t most_blocks = UINT32_MAX;
    for (uint32_t r = 0; r < peers->group.ranks; r++) {
        struct cuda_device *device = (struct cuda_device *)enter(peers, r);
        void *inbox = NULL;
        TRY(status_context(cuda_scratch_alloc(device, CUDA_PEER_BYTES, "the inbox of sums", &inbox), "rank %u", r));
        for (uint32_t other = 0; other < peers->group.ranks; other++) {
            peers->rank[other].inbox[r] = inbox;
        }
        TRY(cuda_peer_load());
        const uint32_t blocks = (uint32_t)device->multiprocessors;
        most_blocks = blocks < most_blocks ? blocks : most_blocks;
        peers->rank[r].let_go = peers->group.let_go;
        peers->rank[r].fault = device->fault;
        peers->rank[r].rank = r;
        peers->rank[r].ranks = peers->group.ranks;
    }
    for (uint32_t r = 0; r < peers->group.ranks; r++) {
        peers->rank[r].most_blocks = most_blocks;
    }
    return STATUS_SUCCESS;
}

/* ---- the trial ---- */

struct trial {
    struct stream *stream[DEVICE_MOST_RANKS];
    float *x[DEVICE_MOST_RANKS];
    float *values; /* in pinned memory: every rank's */
};

/* Small enough for two sums of sums to be exact. */
static float trial_value(size_t i, uint32_t rank) {
    return (float)(i % 13 * (rank + 1));
}

static struct status sync_all(const struct peers *peers, const struct trial *trial) {
    struct status first = STATUS_SUCCESS;
    for (uint32_t r = 0; r < peers->group.ranks; r++) {
        enter(peers, r);
        const struct status status = cuda_stream_sync(trial->stream[r]);
        first = status_failed(&first) ? first : status_context(status, "rank %u", r);
    }
    return first;
}

/* All inboxes are empty, and all ranks have their values, before any kernel runs. */
static struct status begin_trial(struct peers *peers, struct trial *trial) {
    void *address = NULL;
    cudaError_t error = cudaHostAlloc(&address, peers->group.ranks * TRIAL_BYTES, cudaHostAllocPortable);
    if (error != cudaSuccess) {
        return cuda_status(error, "cudaHostAlloc");
    }
    trial->values = address;
    for (uint32_t r = 0; r < peers->group.ranks; r++) {
        struct device *device = enter(peers, r);
        float *values = trial->values + (size_t)r * TRIAL_VALUES;
        TRY(cuda_stream_create(device, STREAM_COMPUTE, &trial->stream[r]));
        TRY(cuda_scratch_alloc((struct cuda_device *)device, TRIAL_BYTES, "the trial of sums", &address));
        trial->x[r] = address;
        for (size_t i = 0; i < TRIAL_VALUES; i++) {
            values[i] = trial_value(i, r);
        }
        error = cudaMemsetAsync(peers->rank[r].inbox[r], 0xff, CUDA_PEER_BYTES, cuda_stream_handle(trial->stream[r]));
        cuda_check(trial->stream[r], error, "cudaMemsetAsync");
        cuda_stream_copy(trial->stream[r], trial->x[r], values, TRIAL_BYTES, COPY_HOST_TO_DEVICE);
    }
    return sync_all(peers, trial);
}

/* Either way once in either inbox. */
static struct status run_trial(struct peers *peers, const struct trial *trial) {
    static const enum cuda_peer_way ways[] = {CUDA_PEER_AT_ONCE, CUDA_PEER_AT_ONCE, CUDA_PEER_IN_SHARES,
                                              CUDA_PEER_IN_SHARES};
    cuda_group_join(&peers->group, trial->stream);
    float factor = 1;
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        enqueue(peers, trial->stream, ways[i], trial->x, 0, TRIAL_VALUES);
        factor *= i > 0 ? (float)peers->group.ranks : 1;
    }
    for (uint32_t r = 0; r < peers->group.ranks; r++) {
        enter(peers, r);
        cuda_stream_copy(trial->stream[r], trial->values + (size_t)r * TRIAL_VALUES, trial->x[r], TRIAL_BYTES,
                         COPY_DEVICE_TO_HOST);
    }
    TRY(sync_all(peers, trial));
    const uint32_t ranks = peers->group.ranks,
                   ones = ranks * (ranks + 1) / 2; /* what they add up to where 1 is rank 0's */
    for (uint32_t r = 0; r < peers->group.ranks; r++) {
        for (size_t i = 0; i < TRIAL_VALUES; i++) {
            const float want = trial_value(i, 0) * factor * (float)ones;
            const float got = trial->values[(size_t)r * TRIAL_VALUES + i];
            if (got != want) {
                return status_error(STATUS_DEVICE, "rank %u has added up %g where %g is right", r, (double)got,
                                    (double)want);
            }
        }
    }
    return STATUS_SUCCESS;
}

/* Whatever of it there is. */
static void end_trial(const struct peers *peers, const struct trial *trial) {
    for (uint32_t r = 0; r < peers->group.ranks; r++) {
        struct cuda_device *device = (struct cuda_device *)enter(peers, r);
        if (trial->stream[r]) {
            cuda_stream_destroy(trial->stream[r]);
        }
        cuda_scratch_free(device, trial->x[r]);
        device->fault->kind = CUDA_FAULT_NONE; /* that nobody came was the trial's alone */
        cudaGetLastError();
    }
    cudaFreeHost(trial->values);
}

static void set_patience(struct peers *peers, uint32_t patience_s) {
    for (uint32_t r = 0; r < peers->group.ranks; r++) {
        peers->rank[r].patience_s = patience_s;
    }
}

static struct status try_sums(struct peers *peers) {
    struct trial trial = {.values = NULL};
    set_patience(peers, TRIAL_PATIENCE_S);
    struct status status = begin_trial(peers, &trial);
    if (!status_failed(&status)) {
        status = run_trial(peers, &trial);
    }
    end_trial(peers, &trial);
    set_patience(peers, PATIENCE_S);
    return status;
}

static struct status build(struct peers *peers) {
    TRY(grant_all_access(peers));
    TRY(make_let_go(peers));
    TRY(make_inboxes(peers));
    return try_sums(peers);
}

struct status cuda_peer_join(struct device *const *devices, uint32_t ranks, size_t share_values,
                             struct collective **out) {
    CHECK(ranks <= DEVICE_MOST_RANKS);
    struct peers *peers = calloc(1, sizeof *peers);
    if (!peers) {
        return status_error(STATUS_NO_MEMORY, "no memory for the sums of %u ranks", ranks);
    }
    peers->base.kind = &kind;
    peers->group.ranks = ranks;
    peers->share_values = share_values ? share_values : cuda_peer_share_values(ranks);
    for (uint32_t r = 0; r < ranks; r++) {
        peers->device[r] = devices[r];
    }
    struct status status = build(peers);
    if (status_failed(&status)) {
        cudaGetLastError();
        destroy(&peers->base);
        return status;
    }
    *out = &peers->base;
    return STATUS_SUCCESS;
}
