#include "scheduler/iteration_times.h"

#include <string.h>

void iteration_times_init(struct iteration_times *times, const struct offload *offload,
                          const struct offload_placement *placement, double pace) {
    times->offload = offload;
    times->placement = placement;
    times->pace = pace;
    memset(times->point, 0, sizeof times->point);
}

/* Points are 8, 9 ... 15, times a power of two. */
static uint64_t point_ns(uint32_t point) {
    return (uint64_t)(8 + point % 8) << point / 8;
}

static uint32_t point_below(uint64_t compute_ns) {
    uint32_t octave = compute_ns >= 8 ? 60 - (uint32_t)__builtin_clzll(compute_ns) : 0;
    return octave * 8 + (compute_ns >= 8 ? (uint32_t)(compute_ns >> octave) - 8 : 0);
}

static void predict_point(struct iteration_times *times, uint32_t point) {
    struct plan_load load = offload_placement_load(times->offload, times->placement, 1, 0, times->pace);
    const uint64_t compute_ns = point_ns(point), outside_ns = load.before_ns + load.after_ns;
    load.layer_ns = compute_ns > outside_ns ? (compute_ns - outside_ns) / load.layers : 0;
    const struct plan *plan = &times->placement->plan, *least = &times->placement->least;
    times->point[point].iteration_ns = plan_predict(&load, plan).iteration_ns;
    times->point[point].least_ns = least->streamed_slabs == plan->streamed_slabs
                                       ? times->point[point].iteration_ns
                                       : plan_predict(&load, least).iteration_ns;
}

static uint64_t between(uint64_t low, uint64_t high, double share, uint64_t least) {
    uint64_t ns = low + (uint64_t)(share * (double)(high > low ? high - low : 0));
    return ns > least ? ns : least;
}

struct foreseen_time iteration_times_of(void *argument, uint32_t rows, double context) {
    struct iteration_times *times = argument;
    const struct offload_placement *placement = times->placement;
    struct plan_load load = offload_placement_load(times->offload, placement, rows, context, times->pace);
    const uint64_t compute_ns = plan_compute_ns(&load);
    const uint32_t point = point_below(compute_ns);
    if ((placement->plan.streamed_slabs == 0 && placement->kv_copies == 0) || point + 1 >= ITERATION_TIMES_POINTS) {
        return (struct foreseen_time){compute_ns, compute_ns, compute_ns};
    }
    for (uint32_t i = point; i <= point + 1; i++) {
        if (times->point[i].iteration_ns == 0) {
            predict_point(times, i);
        }
    }
    const uint64_t low = point_ns(point), high = point_ns(point + 1);
    const double share = compute_ns > low ? (double)(compute_ns - low) / (double)(high - low) : 0;
    return (struct foreseen_time){
        .iteration_ns =
            between(times->point[point].iteration_ns, times->point[point + 1].iteration_ns, share, compute_ns),
        .least_ns = between(times->point[point].least_ns, times->point[point + 1].least_ns, share, compute_ns),
        .compute_ns = compute_ns};
}
