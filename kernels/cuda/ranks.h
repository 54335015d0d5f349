/* Sums over several GPUs, the ranks of a team, whichever way they go. For ranks.c, peer.c and nccl.c.
 * Threads: the host's. */
#ifndef METRONOME_KERNELS_CUDA_RANKS_H
#define METRONOME_KERNELS_CUDA_RANKS_H

#include "kernels/collective.h"
#include "kernels/cuda/cuda_internal.h"

/* As cuda_join() makes them: over peer memory, and with NCCL. STATUS_UNSUPPORTED from the first: a GPU has no access to
 * another's memory; `share_values` is device_config's. */
struct status cuda_peer_join(struct device *const *devices, uint32_t ranks, size_t share_values,
                             struct collective **out);
struct status cuda_nccl_join(struct device *const *devices, uint32_t ranks, struct collective **out);

/* Makes every rank's stream fail, as far as they have not. */
void cuda_ranks_fail(struct stream *const *streams, uint32_t ranks, struct status status);

/* May a sum be enqueued? False if a stream has failed, or `over`: another rank had failed before. Then all fail. */
bool cuda_ranks_ready(struct stream *const *streams, uint32_t ranks, bool over);

#endif
