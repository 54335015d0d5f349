/* none: every layer lives on the device, or the model does not fit. Threads: any. */
#include "offload/policies/policies.h"

static struct status place(const struct policy_request *request, struct plan_choice *choice) {
    struct plan plan;
    plan_none(request->load, &plan);
    return policy_judge(request, &plan, PLAN_WHY_PINNED, choice);
}

const struct policy policy_none = {
    .name = "none",
    .summary = "every layer on the device",
    .place = place,
};
