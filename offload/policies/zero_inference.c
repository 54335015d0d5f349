/* zero-inference: every layer lives in host memory and comes one layer ahead, as DeepSpeed's ZeRO-Inference does it
 * (Aminabadi et al., arXiv 2207.00032). The ring holds the layer that is computed and the one that comes; with a ring
 * of one, which is all that a single buffer would give, nothing would overlap. Threads: any. */
#include "offload/policies/policies.h"

static struct status place(const struct policy_request *request, struct plan_choice *choice) {
    const struct plan_load *load = request->load;
    uint32_t staging;
    TRY(policy_staging(request, 2 * load->slabs, load->slabs, &staging));
    struct plan plan;
    plan_groups(load, 1, 1, load->slabs, staging, &plan);
    plan.prefetch_layers = 1;
    return policy_judge(request, &plan, PLAN_WHY_PINNED, choice);
}

const struct policy policy_zero_inference = {
    .name = "zero-inference",
    .summary = "every layer in host memory, fetched one layer ahead",
    .place = place,
};
