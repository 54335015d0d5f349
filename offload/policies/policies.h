/* The policies' rows, and what their files share. Threads: any. */
#ifndef METRONOME_OFFLOAD_POLICIES_POLICIES_H
#define METRONOME_OFFLOAD_POLICIES_POLICIES_H

#include "offload/policy.h"

extern const struct policy policy_none, policy_zero_inference, policy_flexgen, policy_prefetch_group, policy_select_n,
    policy_metronome;

/* The ring of a policy that wants `own` slots: that, or the request's, which must hold the `fullest` layer's slabs. */
struct status policy_staging(const struct policy_request *request, uint32_t own, uint32_t fullest, uint32_t *staging);

/* Fills *choice for a plan that was made without regard to the deadline or the limits. */
struct status policy_judge(const struct policy_request *request, const struct plan *plan, enum plan_why why,
                           struct plan_choice *choice);

#endif
