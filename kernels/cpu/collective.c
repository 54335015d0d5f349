/* The collective of `cpu` devices: their streams' threads meet, and each adds up a share of the values for all.
 *
 * A stream that has failed comes to the meeting, too, for the others count on it: they learn there that it has. Sums go
 * in the order of ranks, in f32. Threads: the host's, but for run_meeting(), which is the streams'. */
#include "kernels/collective.h"

#include "base/check.h"
#include "kernels/cpu/cpu_internal.h"
#include "kernels/cpu/timeline.h"

#include <stdlib.h>
#include <string.h>

/* How long a rank stays awake for the others. */
#define MEETING_SPIN_NS 20000

struct collective {
    struct timeline arrived; /* at the beginnings and ends of meetings, two a rank and meeting */
    uint32_t ranks;
    uint64_t meetings;                        /* enqueued so far; the host's */
    struct status failure[DEVICE_MOST_RANKS]; /* of each rank's stream; its own to write, before a meeting begins */
};

static struct status create(struct device *const *devices, uint32_t ranks, struct collective **out) {
    (void)devices;
    struct collective *collective = aligned_alloc(_Alignof(struct collective), sizeof *collective);
    if (!collective) {
        return status_error(STATUS_NO_MEMORY, "no memory for the meeting of %u ranks", ranks);
    }
    memset(collective, 0, sizeof *collective);
    timeline_init(&collective->arrived);
    collective->ranks = ranks;
    *out = collective;
    return STATUS_SUCCESS;
}

static void destroy(struct collective *collective) {
    free(collective);
}

struct meeting {
    struct collective *collective;
    uint64_t number; /* from 1 */
    uint32_t rank;
    size_t count;
    float *x[DEVICE_MOST_RANKS];
};

/* Returns when all have come as often as they do until the beginning (0) or the end (1) of this meeting. */
static void meet(const struct meeting *meeting, uint32_t end) {
    struct collective *collective = meeting->collective;
    timeline_advance(&collective->arrived, 1);
    timeline_wait(&collective->arrived, (2 * (meeting->number - 1) + end + 1) * collective->ranks, MEETING_SPIN_NS);
}

static void add_up(const struct meeting *meeting) {
    const uint32_t ranks = meeting->collective->ranks;
    const size_t begin = meeting->count * meeting->rank / ranks, end = meeting->count * (meeting->rank + 1) / ranks;
    for (size_t i = begin; i < end; i++) {
        float sum = meeting->x[0][i];
        for (uint32_t rank = 1; rank < ranks; rank++) {
            sum += meeting->x[rank][i];
        }
        for (uint32_t rank = 0; rank < ranks; rank++) {
            meeting->x[rank][i] = sum;
        }
    }
}

/* The first rank that has failed, and what with; `ranks` if none has. */
static uint32_t find_failed(const struct collective *collective, struct status *out) {
    uint32_t rank = 0;
    while (rank < collective->ranks && !status_failed(&collective->failure[rank])) {
        rank++;
    }
    if (rank < collective->ranks) {
        *out = status_context(collective->failure[rank], "rank %u", rank);
    }
    return rank;
}

static void run_meeting(struct cpu_stream *stream, void *arguments) {
    const struct meeting *meeting = arguments;
    struct collective *collective = meeting->collective;
    const struct status *own = cpu_failure(stream);
    if (own) {
        collective->failure[meeting->rank] = *own;
    }
    meet(meeting, 0);
    struct status failure;
    const bool failed = find_failed(collective, &failure) < collective->ranks;
    if (!failed) {
        add_up(meeting);
    }
    meet(meeting, 1);
    if (failed && !own) {
        cpu_fail(stream, failure);
    }
}

static void all_reduce(struct collective *collective, struct stream *const *streams, float *const *x, size_t count) {
    struct meeting meeting = {.collective = collective, .number = ++collective->meetings, .count = count};
    memcpy(meeting.x, x, collective->ranks * sizeof *x);
    for (uint32_t rank = 0; rank < collective->ranks; rank++) {
        meeting.rank = rank;
        cpu_enqueue_always(streams[rank], run_meeting, &meeting, sizeof meeting);
    }
}

const struct collective_kind cpu_collective = {
    .create = create, .destroy = destroy, .all_reduce = all_reduce, .ordered = true};
