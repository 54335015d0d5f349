/* How the ranks of a team (kernels/team/) add up what each has a part of.
 *
 * A kind is what one backend's devices do it with: `cpu` meets in this process (kernels/cpu/collective.c), `cuda` calls
 * NCCL (kernels/cuda/nccl.c). Every rank gets the same bits. Threads: the one that owns the devices. */
#ifndef METRONOME_KERNELS_COLLECTIVE_H
#define METRONOME_KERNELS_COLLECTIVE_H

#include "kernels/device.h"

struct collective;

struct collective_kind {
    /* For these devices, of one kind, which outlive it. Nothing is allocated after it. */
    struct status (*create)(struct device *const *devices, uint32_t ranks, struct collective **out);
    void (*destroy)(struct collective *collective); /* NULL is allowed */

    /* Enqueues on every streams[r] that x[r] (count), its device's, becomes the sum of all. Where a rank's stream has
     * failed, those of the others fail too; none waits for ever. */
    void (*all_reduce)(struct collective *collective, struct stream *const *streams, float *const *x, size_t count);

    /* A rank has failed: lets go of those that wait for it. NULL: all_reduce sees to that. */
    void (*abort)(struct collective *collective);

    bool ordered; /* sums go in the order of ranks, whatever the count: results do not depend on the batch */
};

extern const struct collective_kind cpu_collective;
extern const struct collective_kind nccl_collective; /* where there is `cuda` */

#endif
