/* Sums over GPUs that have access to each other's memory: between peer.c, which has the memory, and peer_reduce.cu,
 * whose kernels write there. Threads: the host's. */
#ifndef METRONOME_KERNELS_CUDA_PEER_H
#define METRONOME_KERNELS_CUDA_PEER_H

#include "kernels/cuda/cuda_internal.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A rank has two inboxes, which sums take in turn, each of so many vectors of four words. A word is empty or a float's
 * bits. */
#define CUDA_PEER_VECTORS ((size_t)1 << 20)
#define CUDA_PEER_BYTES (2 * CUDA_PEER_VECTORS * 16)

/* The most values of one sum. */
#define CUDA_PEER_VALUES ((CUDA_PEER_VECTORS / 2 - DEVICE_MOST_RANKS) * 4)

/* What a rank's kernels know; kernels get it by value. No padding: arguments are compared whole (graph.c). */
struct cuda_peers {
    void *inbox[DEVICE_MOST_RANKS]; /* every rank's, (CUDA_PEER_BYTES), all of it empty before the first sum */
    uint32_t *let_go;               /* in pinned memory: not 0 says to wait no longer; kernels say so, too */
    struct cuda_fault *fault;       /* this rank's */
    uint32_t patience_s;            /* then a kernel gives up, reports CUDA_FAULT_LATE_RANK and says let_go */
    uint32_t rank, ranks;
    uint32_t most_blocks; /* what every GPU runs at once; the same for all ranks */
};

enum cuda_peer_way {
    CUDA_PEER_AT_ONCE,   /* every rank sends all of its values to every other */
    CUDA_PEER_IN_SHARES, /* every rank adds up a share and sends the others what comes out */
};

/* From how many values on shares are estimated to be faster. */
size_t cuda_peer_share_values(uint32_t ranks);

/* Have inboxes room for so many values at once? In shares they always have. */
bool cuda_peer_fits_at_once(uint32_t ranks, size_t count);

/* Enqueues one rank's part: x (count, from 1 to CUDA_PEER_VALUES) becomes the sum of all ranks', in their order, in
 * either way the same bits. All ranks take inbox 0 or 1, as their sum before did not, and come on one stream each. */
void cuda_peer_reduce(struct stream *stream, const struct cuda_peers *peers, enum cuda_peer_way way, uint32_t inbox,
                      float *x, uint32_t count);

/* Has the kernels loaded on the current GPU: loading may wait for the GPU, which may not be when one of them waits
 * there. */
struct status cuda_peer_load(void);

#ifdef __cplusplus
}
#endif

#endif
