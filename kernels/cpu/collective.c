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

struct threads {
    struct collective base;
    uint32_t ranks;
    uint64_t meetings;                        /* enqueued so far; the host's */
    struct status failure[DEVICE_MOST_RANKS]; /* of each rank's stream; its own to write, before a meeting begins */
    struct timeline arrived;                  /* at the beginnings and ends of meetings, two a rank and meeting */
};

static void destroy(struct collective *collective) {
    free(collective);
}

struct meeting {
    struct threads *threads;
    uint64_t number; /* from 1 */
    uint32_t rank;
    size_t count;
    float *x[DEVICE_MOST_RANKS];
};

/* Returns when all have come as often as they do until the beginning (0) or the end (1) of this meeting. */
static void meet(const struct meeting *meeting, uint32_t end) {
    struct threads *threads = meeting->threads;
    timeline_advance(&threads->arrived, 1);
    timeline_wait(&threads->arrived, (2 * (meeting->number - 1) + end + 1) * threads->ranks, MEETING_SPIN_NS);
}

static void add_up(const struct meeting *meeting) {
    const uint32_t ranks = meeting->threads->ranks;
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
static uint32_t find_failed(const struct threads *threads, struct status *out) {
    uint32_t rank = 0;
    while (rank < threads->ranks && !status_failed(&threads->failure[rank])) {
        rank++;
    }
    if (rank < threads->ranks) {
        *out = status_context(threads->failure[rank], "rank %u", rank);
    }
    return rank;
}

static void run_meeting(struct cpu_stream *stream, void *arguments) {
    const struct meeting *meeting = arguments;
    struct threads *threads = meeting->threads;
    const struct status *own = cpu_failure(stream);
    if (own) {
        threads->failure[meeting->rank] = *own;
    }
    meet(meeting, 0);
    struct status failure;
    const bool failed = find_failed(threads, &failure) < threads->ranks;
    if (!failed) {
        add_up(meeting);
    }
    meet(meeting, 1);
    if (failed && !own) {
        cpu_fail(stream, failure);
    }
}

static void all_reduce(struct collective *collective, struct stream *const *streams, float *const *x, size_t count) {
    struct threads *threads = (struct threads *)collective;
    struct meeting meeting = {.threads = threads, .number = ++threads->meetings, .count = count};
    memcpy(meeting.x, x, threads->ranks * sizeof *x);
    for (uint32_t rank = 0; rank < threads->ranks; rank++) {
        meeting.rank = rank;
        cpu_enqueue_always(streams[rank], run_meeting, &meeting, sizeof meeting);
    }
}

static const struct collective_kind kind = {
    .name = "threads", .destroy = destroy, .all_reduce = all_reduce, .ordered = true};

struct status cpu_join(struct device *const *devices, uint32_t ranks, const struct device_config *config,
                       struct collective **out) {
    (void)devices;
    (void)config;
    struct threads *threads = aligned_alloc(_Alignof(struct threads), sizeof *threads);
    if (!threads) {
        return status_error(STATUS_NO_MEMORY, "no memory for the meeting of %u ranks", ranks);
    }
    memset(threads, 0, sizeof *threads);
    threads->base.kind = &kind;
    timeline_init(&threads->arrived);
    threads->ranks = ranks;
    *out = &threads->base;
    return STATUS_SUCCESS;
}
