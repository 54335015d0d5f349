/* metronome: any number of slabs lives in host memory, spread over the layers, as many as the deadline allows; copies
 * start as early as the ring allows. This is the plan to start with; the tuner moves it in every iteration.
 * Threads: any. */
#include "offload/policies/policies.h"

static struct status place_pinned(const struct policy_request *request, struct plan_choice *choice) {
    const struct plan_load *load = request->load;
    double interval = request->options.interval;
    if (!(interval >= 1)) {
        return status_error(STATUS_INVALID, "offload.interval is %g; it must be at least 1 layer, or 0 to be chosen",
                            interval);
    }
    uint32_t slabs = (uint32_t)(load->layers * load->slabs / interval + 0.5), staging;
    TRY(policy_staging(request, plan_staging(load, slabs), (slabs + load->layers - 1) / load->layers, &staging));
    struct plan plan;
    plan_nested(load, slabs, staging, &plan);
    return policy_judge(request, &plan, PLAN_WHY_PINNED, choice);
}

static struct status place(const struct policy_request *request, struct plan_choice *choice) {
    if (request->options.interval != 0) {
        return place_pinned(request, choice);
    }
    *choice = plan_choose(request->load, request->deadline_ns, &request->limits, PLAN_NESTED);
    return STATUS_SUCCESS;
}

const struct policy policy_metronome = {
    .name = "metronome",
    .summary = "as many slabs of layers in host memory as the deadlines allow, in every iteration",
    .keeps_deadlines = true,
    .every_iteration = true,
    .moves_parts = true,
    .place = place,
};
