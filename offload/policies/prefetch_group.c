/* prefetch-group: the last n of every g layers live in host memory, set by hand, as vLLM and SGLang offer it
 * (--offload-group-size g --offload-num-in-group n --offload-prefetch-step p). There the fetch of a streamed layer
 * begins when the p-th streamed layer before it has ended, into the slot that this one leaves: which is a ring of p
 * layers. Threads: any. */
#include "offload/policies/policies.h"

static struct status place(const struct policy_request *request, struct plan_choice *choice) {
    const struct policy_options *options = &request->options;
    const struct plan_load *load = request->load;
    if (options->group < 1 || options->group > load->layers || options->group_streamed > options->group ||
        options->prefetch_step < 1 || options->prefetch_step > PLAN_MAX_STAGING) {
        return status_error(STATUS_INVALID,
                            "prefetch-group streams the last %u of every %u layers, %u ahead: the group must be from 1 "
                            "to the model's %u layers, the streamed ones within it, and at least 1 ahead",
                            options->group_streamed, options->group, options->prefetch_step, load->layers);
    }
    uint32_t staging;
    TRY(policy_staging(request, options->prefetch_step * load->slabs, load->slabs, &staging));
    struct plan plan;
    plan_groups(load, options->group, options->group_streamed, load->slabs, staging, &plan);
    return policy_judge(request, &plan, PLAN_WHY_PINNED, choice);
}

const struct policy policy_prefetch_group = {
    .name = "prefetch-group",
    .summary = "the last n of every g layers in host memory, fetched p streamed layers ahead, set by hand",
    .place = place,
};
