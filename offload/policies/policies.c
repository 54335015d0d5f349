#include "offload/policies/policies.h"

#include "base/bytes.h"

#include <stdio.h>
#include <string.h>

const struct policy *const policies[] = {
    &policy_none, &policy_zero_inference, &policy_flexgen, &policy_prefetch_group, &policy_select_n, &policy_metronome,
    NULL,
};

struct status policy_find(const char *name, const struct policy **out) {
    char known[128] = "";
    size_t length = 0;
    for (const struct policy *const *policy = policies; *policy; policy++) {
        if (strcmp((*policy)->name, name) == 0) {
            *out = *policy;
            return STATUS_SUCCESS;
        }
        length += (size_t)snprintf(known + length, sizeof known - length, "%s%s", length ? ", " : "", (*policy)->name);
    }
    return status_error(STATUS_NOT_FOUND, "offload.policy \"%.40s\" does not exist; there are: %s", name, known);
}

struct status policy_staging(const struct policy_request *request, uint32_t own, uint32_t fullest, uint32_t *staging) {
    uint32_t given = request->limits.staging;
    *staging = given > 0 ? given : own;
    if (*staging < fullest || *staging > PLAN_MAX_STAGING) {
        return status_error(STATUS_INVALID,
                            "a ring of %u staging slots: it must hold the %u slabs of a layer and at most %u. Change "
                            "offload.staging or offload.slabs",
                            *staging, fullest, PLAN_MAX_STAGING);
    }
    return STATUS_SUCCESS;
}

struct status policy_judge(const struct policy_request *request, const struct plan *plan, enum plan_why why,
                           struct plan_choice *choice) {
    const struct plan_load *load = request->load;
    if (plan->streamed_slabs > request->limits.max_slabs) {
        char wanted[16], held[16];
        return status_error(STATUS_NO_MEMORY,
                            "the offload policy puts %s of weights in host memory, which may hold %s of them. Raise "
                            "host_memory, or choose another policy",
                            bytes_format(plan->streamed_slabs * load->slab_bytes, wanted, sizeof wanted),
                            bytes_format(request->limits.max_slabs * load->slab_bytes, held, sizeof held));
    }
    int64_t lacks = request->limits.floor_slabs - plan_freed_slabs(plan);
    *choice = (struct plan_choice){.plan = *plan, .prediction = plan_predict(load, plan), .why = why};
    choice->short_slabs = lacks > 0 ? (uint32_t)lacks : 0;
    if (choice->prediction.iteration_ns > request->deadline_ns) {
        choice->late_ns = choice->prediction.iteration_ns - request->deadline_ns;
    }
    choice->feasible = lacks <= 0 && choice->late_ns == 0;
    return STATUS_SUCCESS;
}

struct policy_range policy_interval_range(const struct policy_request *request) {
    const struct plan_load *load = request->load;
    struct policy_range range = {.least = load->layers + 1,
                                 .most = request->limits.floor_slabs > 0 ? 0 : load->layers + 1};
    for (uint32_t interval = load->layers; interval > 0; interval--) {
        struct plan plan;
        plan_groups(load, interval, 1, load->slabs, load->slabs, &plan);
        if (plan.streamed_slabs <= request->limits.max_slabs && plan.streamed_slabs <= request->limits.bus_slabs &&
            plan_predict(load, &plan).iteration_ns <= request->deadline_ns) {
            range.least = interval;
        }
        if (range.most == 0 && plan_freed_slabs(&plan) >= request->limits.floor_slabs) {
            range.most = interval;
        }
    }
    return range;
}
