/* flexgen: the first x % of every layer's weights live in host memory and come one layer ahead (Sheng et al., arXiv
 * 2303.06865), here rounded to slabs. x is set by hand, or found by its kind of cost model: a layer takes the longer
 * of its compute at the device's peak rate and its transfer at the link's peak rate. To that the deadline is added:
 * the largest x whose estimate meets it. The estimate knows neither what is measured nor who else uses the link; what
 * the choice then really takes is in its prediction. Threads: any. */
#include "base/clock.h"
#include "offload/policies/policies.h"

/* Slabs of each layer by the cost model. */
static struct status estimate(const struct policy_request *request, uint32_t *slabs) {
    const struct policy_options *options = &request->options;
    const struct plan_load *load = request->load;
    if (!(options->layer_flops > 0 && options->peak_flops_per_s > 0 && options->peak_link_bytes_per_s > 0)) {
        return status_error(STATUS_INVALID, "flexgen's cost model needs the device's peak FLOP/s, the link's peak rate "
                                            "and the FLOPs of a layer; give them, or set offload.percent");
    }
    double layer_s = (double)request->deadline_ns / NS_PER_S / load->layers;
    double compute_s = options->layer_flops / options->peak_flops_per_s;
    double slab_s = (double)load->slab_bytes / options->peak_link_bytes_per_s;
    while (compute_s <= layer_s && *slabs < load->slabs && (*slabs + 1) * slab_s <= layer_s &&
           (uint64_t)(*slabs + 1) * load->layers <= request->limits.max_slabs) {
        ++*slabs;
    }
    return STATUS_SUCCESS;
}

static struct status place(const struct policy_request *request, struct plan_choice *choice) {
    const struct plan_load *load = request->load;
    double percent = request->options.percent;
    uint32_t slabs = 0, staging = 0;
    if (percent > 100) {
        return status_error(STATUS_INVALID,
                            "offload.percent is %g; it must be from 0 to 100, or below 0 for flexgen's "
                            "cost model",
                            percent);
    }
    if (percent < 0) {
        TRY(estimate(request, &slabs));
    } else {
        slabs = (uint32_t)(percent / 100 * load->slabs + 0.5);
    }
    TRY(policy_staging(request, 2 * slabs, slabs, &staging));
    struct plan plan;
    plan_groups(load, 1, 1, slabs, staging, &plan);
    plan.prefetch_layers = slabs > 0 ? 1 : 0;
    return policy_judge(request, &plan, percent < 0 ? PLAN_WHY_SLO : PLAN_WHY_PINNED, choice);
}

const struct policy policy_flexgen = {
    .name = "flexgen",
    .summary = "a share of every layer in host memory, by hand or by peak rates, fetched one layer ahead",
    .moves_parts = true,
    .by_hand = "offload.percent",
    .place = place,
};
