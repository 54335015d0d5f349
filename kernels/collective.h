/* How the ranks of a team (kernels/team/) add up what each has a part of.
 *
 * What devices of a backend do it with, its `join` makes: `cpu` meets in this process (kernels/cpu/collective.c),
 * `cuda` writes into the other GPUs' memory (kernels/cuda/peer.c) or calls NCCL (kernels/cuda/nccl.c). Every rank gets
 * the same bits. Threads: the one that owns the devices. */
#ifndef METRONOME_KERNELS_COLLECTIVE_H
#define METRONOME_KERNELS_COLLECTIVE_H

#include "kernels/device.h"

/* The first member of every kind's own. */
struct collective {
    const struct collective_kind *kind;
};

struct collective_kind {
    const char *name; /* "NCCL": for device_info.sums */

    void (*destroy)(struct collective *collective);

    /* Enqueues on every streams[r] that x[r] (count), its device's, becomes the sum of all. Where a rank's stream has
     * failed, those of the others fail too; none waits for ever. */
    void (*all_reduce)(struct collective *collective, struct stream *const *streams, float *const *x, size_t count);

    /* A rank has failed: lets go of those that wait for it. NULL: all_reduce sees to that. */
    void (*abort)(struct collective *collective);

    bool ordered; /* sums go in the order of ranks, whatever the count: results do not depend on the batch */
};

/* Makes one for these devices, of one backend, which outlive it. Nothing is allocated after it. With the signature of
 * struct backend. */
struct status cpu_join(struct device *const *devices, uint32_t ranks, const struct device_config *config,
                       struct collective **out);
struct status cuda_join(struct device *const *devices, uint32_t ranks, const struct device_config *config,
                        struct collective **out);

#endif
