/* select-n: the last of every i layers lives in host memory, with the smallest i that keeps the deadline (Select-N,
 * arXiv 2502.08182). Its copy begins as soon as its slot is free: with a ring of one layer, from the interval's first
 * layer on. A longer ring lets it begin earlier; it is taken where it frees more memory than it costs. Threads: any. */
#include "offload/policies/policies.h"

#include <math.h>

static struct status place_pinned(const struct policy_request *request, struct plan_choice *choice) {
    const struct plan_load *load = request->load;
    double interval = request->options.interval;
    if (!(interval >= 1 && interval <= load->layers && interval == floor(interval))) {
        return status_error(STATUS_INVALID,
                            "offload.interval is %g; select-n takes a whole number of layers from 1 to %u", interval,
                            load->layers);
    }
    uint32_t staging;
    TRY(policy_staging(request, load->slabs, load->slabs, &staging));
    struct plan plan;
    plan_groups(load, (uint32_t)interval, 1, load->slabs, staging, &plan);
    return policy_judge(request, &plan, PLAN_WHY_PINNED, choice);
}

static struct status place(const struct policy_request *request, struct plan_choice *choice) {
    const struct plan_load *load = request->load;
    const struct policy_options *options = &request->options;
    if (options->interval != 0) {
        return place_pinned(request, choice);
    }
    struct policy_request bounded = *request;
    if (options->interval_least > 1) {
        uint32_t slabs = load->layers / options->interval_least * load->slabs;
        bounded.limits.max_slabs = slabs < bounded.limits.max_slabs ? slabs : bounded.limits.max_slabs;
    }
    if (options->interval_most > 0) {
        int32_t slabs = (int32_t)(load->layers / options->interval_most * load->slabs);
        int32_t freed = slabs - (int32_t)load->slabs;
        bounded.limits.floor_slabs = freed > bounded.limits.floor_slabs ? freed : bounded.limits.floor_slabs;
    }
    *choice = plan_choose(load, request->deadline_ns, &bounded.limits, PLAN_INTERVAL);
    return STATUS_SUCCESS;
}

const struct policy policy_select_n = {
    .name = "select-n",
    .summary = "the last of every i layers in host memory, the smallest i that keeps the deadline",
    .keeps_deadlines = true,
    .place = place,
};
