// offload/choose.h: the choice against brute force, its reasons, and its refusals.
extern "C" {
#include "offload/choose.h"
}
#include "tests/unit/offload/load_builder.h"

#include <algorithm>
#include <gtest/gtest.h>

namespace {

const plan_limits UNLIMITED = {INT32_MIN, UINT32_MAX, UINT32_MAX, 0, 0, 0};

// Every plan of the family with rings as long as are looked at when `cap` slabs may be streamed.
template <class Visit>
void each_plan(const plan_load &load, const plan_limits &limits, plan_family family, uint64_t cap, Visit visit) {
    uint32_t all = load.layers * load.slabs;
    uint32_t fullest = (std::min<uint64_t>(all, cap) + load.layers - 1) / load.layers;
    uint32_t most = 2 * (family == PLAN_INTERVAL ? load.slabs : fullest) + 2;
    for (uint32_t staging = 1; staging <= std::max(most, limits.staging); staging++) {
        if (limits.staging != 0 && staging != limits.staging) {
            continue;
        }
        for (uint32_t member = 1; member <= (family == PLAN_INTERVAL ? load.layers : all); member++) {
            plan plan;
            if (family == PLAN_INTERVAL) {
                plan_groups(&load, member, 1, load.slabs, staging, &plan);
            } else if (family == PLAN_EVEN) {
                plan_even(&load, member, staging, &plan);
            } else {
                plan_nested(&load, member, staging, &plan);
            }
            if (*std::max_element(plan.streamed, plan.streamed + plan.layers) <= staging) {
                visit(plan, plan_predict(&load, &plan));
            }
        }
    }
}

uint64_t random_deadline(Random &random, const plan_load &load) {
    uint64_t compute = load.before_ns + load.layers * load.layer_ns + load.after_ns;
    switch (random.pick(0, 3)) {
    case 0:
        return compute;
    case 1:
        return compute + random.pick(0, 2 * plan_slab_ns(&load));
    case 2:
        return compute * random.pick(80, 120) / 100;
    default:
        return compute + random.pick(0, 2 * compute + 5);
    }
}

} // namespace

TEST(Choose, IsWhatBruteForceFinds) {
    Random random(1);
    int feasible = 0, late = 0, lacking = 0;
    for (int i = 0; i < 1500; i++) {
        plan_load load = random_load(random, 24, 5);
        uint32_t all = load.layers * load.slabs;
        uint64_t deadline = random_deadline(random, load);
        plan_limits limits = UNLIMITED;
        limits.floor_slabs = random.one_in(2) ? int32_t(random.pick(0, all + 4)) - 4 : INT32_MIN;
        limits.max_slabs = random.one_in(3) ? random.pick(0, all) : UINT32_MAX;
        limits.bus_slabs = random.one_in(3) ? random.pick(0, all) : UINT32_MAX;
        limits.near = random.one_in(2) ? random.pick(0, all + 3) : 0;
        limits.staging = random.one_in(3) ? random.pick(1, 2 * load.slabs + 2) : 0;
        plan_family family = plan_family(random.pick(0, 2));
        plan_choice choice = plan_choose(&load, deadline, &limits, family);

        plan none;
        plan_none(&load, &none);
        uint64_t fastest = plan_predict(&load, &none).iteration_ns;
        bool in_time = fastest <= deadline;
        int64_t best = -int64_t(limits.staging), most = best; // nothing streamed
        uint32_t best_slabs = 0, cap = std::min(limits.max_slabs, limits.bus_slabs);
        each_plan(load, limits, family, std::min<uint64_t>(cap, deadline / plan_slab_ns(&load)),
                  [&](const plan &plan, const plan_prediction &prediction) {
                      int64_t freed = plan_freed_slabs(&plan);
                      if (prediction.iteration_ns <= deadline && plan.streamed_slabs <= cap &&
                          (freed > best || (freed == best && best_slabs > 0 && plan.streamed_slabs > best_slabs))) {
                          best = freed;
                          best_slabs = plan.streamed_slabs;
                      }
                  });
        bool reached = most >= limits.floor_slabs; // by the plan that is `fastest`
        each_plan(load, limits, family, limits.max_slabs, [&](const plan &plan, const plan_prediction &prediction) {
            int64_t freed = plan_freed_slabs(&plan);
            if (plan.streamed_slabs <= limits.max_slabs) {
                most = std::max(most, freed);
                if (freed >= limits.floor_slabs && (!reached || prediction.iteration_ns < fastest)) {
                    reached = true;
                    fastest = prediction.iteration_ns;
                }
            }
        });
        std::string text = describe(load) + " deadline " + std::to_string(deadline) + " floor " +
                           std::to_string(limits.floor_slabs) + " max " + std::to_string(limits.max_slabs) + " bus " +
                           std::to_string(limits.bus_slabs) + " staging " + std::to_string(limits.staging) +
                           " family " + std::to_string(family);
        ASSERT_EQ(choice.feasible, in_time && best >= limits.floor_slabs) << text;
        if (choice.feasible) {
            feasible++;
            ASSERT_LE(choice.prediction.iteration_ns, deadline) << text;
            ASSERT_EQ(plan_freed_slabs(&choice.plan), best) << text;
            ASSERT_EQ(choice.plan.streamed_slabs, best_slabs) << text;
        } else if (reached) {
            late++;
            ASSERT_GE(plan_freed_slabs(&choice.plan), limits.floor_slabs) << text;
            ASSERT_EQ(choice.short_slabs, 0u) << text;
            if (family == PLAN_NESTED) { // the others are not monotone: the first that reaches the floor is taken
                ASSERT_EQ(choice.prediction.iteration_ns, fastest) << text;
            }
            ASSERT_EQ(choice.late_ns,
                      choice.prediction.iteration_ns > deadline ? choice.prediction.iteration_ns - deadline : 0)
                << text;
        } else {
            lacking++;
            ASSERT_EQ(int64_t(choice.short_slabs), limits.floor_slabs - most) << text;
        }
        plan_prediction again = plan_predict(&load, &choice.plan);
        ASSERT_EQ(again.iteration_ns, choice.prediction.iteration_ns);
    }
    EXPECT_GT(feasible, 300);
    EXPECT_GT(late, 100);
    EXPECT_GT(lacking, 100);
}

TEST(Choose, SaysWhy) {
    plan_load load = make_load(32, 8, 1000, 500); // copies of all slabs take four times the compute
    plan_choice choice = plan_choose(&load, 48000, &UNLIMITED, PLAN_NESTED);
    EXPECT_TRUE(choice.feasible);
    EXPECT_EQ(choice.why, PLAN_WHY_SLO);
    uint32_t by_slo = choice.plan.streamed_slabs;
    EXPECT_EQ(by_slo, 96u); // 48 us on the link, all of it

    plan_limits limits = UNLIMITED;
    limits.bus_slabs = 40;
    choice = plan_choose(&load, 48000, &limits, PLAN_NESTED);
    EXPECT_EQ(choice.why, PLAN_WHY_BUS);
    EXPECT_EQ(choice.plan.streamed_slabs, 40u);

    limits.max_slabs = 30;
    choice = plan_choose(&load, 48000, &limits, PLAN_NESTED);
    EXPECT_EQ(choice.why, PLAN_WHY_MEMORY);
    EXPECT_EQ(choice.plan.streamed_slabs, 30u);

    choice = plan_choose(&load, 1000000, &UNLIMITED, PLAN_NESTED);
    EXPECT_EQ(choice.why, PLAN_WHY_MEMORY); // everything is in host memory
    EXPECT_EQ(choice.plan.streamed_slabs, 256u);
    EXPECT_STREQ(plan_why_name(choice.why), "memory");
}

TEST(Choose, RefusalsNameWhatIsShort) {
    plan_load load = make_load(32, 8, 1000000, 1 << 20);
    plan_limits limits = UNLIMITED;

    plan_choice choice = plan_choose(&load, 30000000, &limits, PLAN_NESTED); // compute alone takes 32 ms
    EXPECT_FALSE(choice.feasible);
    EXPECT_EQ(choice.plan.streamed_slabs, 0u);
    EXPECT_EQ(choice.late_ns, 2000000u);
    status status = plan_refusal(&load, 30000000, &limits, &choice);
    EXPECT_EQ(status.code, STATUS_INVALID);
    EXPECT_NE(std::string(status.message).find("32.000 ms"), std::string::npos) << status.message;
    EXPECT_NE(std::string(status.message).find("2.000 ms late"), std::string::npos) << status.message;

    limits.floor_slabs = 100; // 100 MiB
    choice = plan_choose(&load, 40000000, &limits, PLAN_NESTED);
    EXPECT_FALSE(choice.feasible);
    EXPECT_GE(plan_freed_slabs(&choice.plan), 100);
    EXPECT_EQ(choice.why, PLAN_WHY_MEMORY);
    EXPECT_GT(choice.late_ns, 60000000u);
    status = plan_refusal(&load, 40000000, &limits, &choice);
    EXPECT_EQ(status.code, STATUS_NO_MEMORY);
    EXPECT_NE(std::string(status.message).find("100 MiB"), std::string::npos) << status.message;
    EXPECT_NE(std::string(status.message).find("late"), std::string::npos) << status.message;

    limits.max_slabs = 64;
    choice = plan_choose(&load, 400000000, &limits, PLAN_NESTED);
    EXPECT_FALSE(choice.feasible);
    EXPECT_EQ(choice.plan.streamed_slabs, 64u);
    EXPECT_EQ(choice.plan.staging, 2u); // two slabs of each layer
    EXPECT_EQ(choice.short_slabs, 38u);
    status = plan_refusal(&load, 400000000, &limits, &choice);
    EXPECT_EQ(status.code, STATUS_NO_MEMORY);
    EXPECT_NE(std::string(status.message).find("38 MiB short"), std::string::npos) << status.message;
    EXPECT_NE(std::string(status.message).find("62 MiB can"), std::string::npos) << status.message;
}

TEST(Choose, FillsTheLinkOnceSlabsAreFine) {
    for (double r : {1.5, 4.0, 13.8, 60.0}) {
        for (double slack : {0.0, 0.5, 4.0}) {
            uint64_t deadline = uint64_t(40 * 1000000 * (1 + slack));
            plan_load load = make_load(40, 64, 1000000, uint64_t(r * 1000000 / 64));
            plan_choice choice = plan_choose(&load, deadline, &UNLIMITED, PLAN_NESTED);
            if (choice.why == PLAN_WHY_SLO) {
                EXPECT_GE(plan_link_use(&load, choice.prediction.bytes_streamed, deadline), 0.95) << r << " " << slack;
            }
        }
    }
}

TEST(Choose, TheRingThatIsEstimatedIsNearlyTheOneThatIsSearched) {
    Random random(2);
    for (int i = 0; i < 300; i++) {
        plan_load load = make_load(random.pick(24, 80), 1u << random.pick(3, 6), 1000000, 1);
        load.slab_bytes = uint64_t((0.5 + 60 * random.unit() * random.unit()) * load.layer_ns / load.slabs);
        uint64_t deadline = load.layers * load.layer_ns * random.pick(100, 500) / 100;
        plan_choice searched = plan_choose(&load, deadline, &UNLIMITED, PLAN_NESTED);
        plan_limits limits = UNLIMITED;
        limits.staging =
            plan_staging(&load, std::min<uint64_t>(deadline / plan_slab_ns(&load), load.layers * load.slabs));
        if (limits.staging == 0) {
            continue;
        }
        plan_choice estimated = plan_choose(&load, deadline, &limits, PLAN_NESTED);
        int64_t best = plan_freed_slabs(&searched.plan), near = plan_freed_slabs(&estimated.plan);
        EXPECT_LE(near, best);
        EXPECT_GE(near, best - 3 - best / 20) << describe(load) << " deadline " << deadline;
    }
}

TEST(Choose, SlabsAreAsFineAsPays) {
    plan_load whole = make_load(32, 1, 1000000, 60000000);
    EXPECT_GE(plan_slabs(&whole, 32000000, 64), 32u); // a layer's copy takes longer than the deadline
    whole = make_load(32, 1, 1000000, 500000);
    whole.copy_ns = 1000000;
    EXPECT_EQ(plan_slabs(&whole, 64000000, 64), 1u); // every copy costs twice what it carries
    for (uint32_t slabs : {1u, 3u, 64u}) {
        plan_load cut = plan_cut(&whole, slabs);
        EXPECT_EQ(cut.slabs, slabs);
        EXPECT_GE(cut.slab_bytes * slabs, whole.slab_bytes);
        EXPECT_LT(cut.slab_bytes * slabs, whole.slab_bytes + slabs);
    }
}
