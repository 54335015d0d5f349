/* What the GPUs of a team add up with. Threads: the host's. */
#include "kernels/cuda/ranks.h"

#include "base/log.h"

void cuda_ranks_fail(struct stream *const *streams, uint32_t ranks, struct status status) {
    for (uint32_t r = 0; r < ranks; r++) {
        cuda_fail(streams[r], status);
    }
}

bool cuda_ranks_ready(struct stream *const *streams, uint32_t ranks, bool over) {
    uint32_t r = 0;
    while (r < ranks && cuda_stream_ready(streams[r])) {
        r++;
    }
    if (r < ranks) {
        cuda_ranks_fail(streams, ranks, status_context(cuda_stream_of(streams[r])->failure, "rank %u", r));
    } else if (over) {
        cuda_ranks_fail(streams, ranks, status_error(STATUS_DEVICE, "rank 0: another rank has failed before"));
    }
    return r == ranks && !over;
}

struct status cuda_join(struct device *const *devices, uint32_t ranks, const struct device_config *config,
                        struct collective **out) {
    if (config->all_reduce != ALL_REDUCE_NCCL) {
        struct status status = cuda_peer_join(devices, ranks, config->share_values, out);
        if (!status_failed(&status) || config->all_reduce == ALL_REDUCE_PEER) {
            return status;
        }
        if (status.code == STATUS_UNSUPPORTED) {
            log_info("device cuda: %s; NCCL adds up", status.message);
        } else {
            log_warn("device cuda: sums over peer memory: %s; NCCL adds up instead", status.message);
        }
    }
    return cuda_nccl_join(devices, ranks, out);
}
