// offload/plan.h: the model of time against a simulation, and the placements.
extern "C" {
#include "offload/plan.h"
}
#include "tests/unit/offload/load_builder.h"
#include "tests/unit/offload/pipeline_simulation.h"

#include <algorithm>
#include <cmath>
#include <gtest/gtest.h>

namespace {

plan random_plan(Random &random, const plan_load &load) {
    plan plan;
    uint32_t count = random.pick(0, load.layers * load.slabs);
    switch (random.pick(0, 3)) {
    case 0:
        plan_even(&load, count, 0, &plan);
        break;
    case 1:
        plan_nested(&load, count, 0, &plan);
        break;
    case 2: {
        uint32_t group = random.pick(1, load.layers), streamed = random.pick(1, group);
        plan_groups(&load, group, streamed, random.pick(1, load.slabs), 0, &plan);
        break;
    }
    default: // anything at all
        plan_none(&load, &plan);
        while (plan.streamed_slabs < count) {
            uint32_t layer = random.pick(0, load.layers - 1);
            if (plan.streamed[layer] < load.slabs) {
                plan.streamed[layer]++;
                plan.streamed_slabs++;
            }
        }
    }
    uint32_t fullest = *std::max_element(plan.streamed, plan.streamed + plan.layers);
    if (fullest > 0) {
        plan.staging = random.pick(fullest, 2 * fullest + 4);
        plan.prefetch_layers = random.one_in(3) ? random.pick(1, load.layers) : 0;
    }
    return plan;
}

// Predicted and simulated iteration times are equal; returns how many
// iterations the prediction looked at.
uint32_t expect_equal(const plan_load &load, const plan &plan) {
    plan_prediction prediction = plan_predict(&load, &plan);
    std::vector<uint64_t> kv_ns;
    for (uint32_t i = 0; i < load.kv_copies; i++) {
        kv_ns.push_back(load.kv_bytes[i] + load.copy_ns);
    }
    PipelineSimulation simulation(load, plan, load.slab_bytes + load.copy_ns, kv_ns);
    size_t iterations = prediction.iterations + 3;
    simulation.run(iterations);
    EXPECT_FALSE(simulation.poisoned) << describe(load, plan);
    for (size_t i = iterations - 2; i <= iterations && !simulation.poisoned; i++) {
        EXPECT_EQ(simulation.begins[i] - simulation.begins[i - 1], prediction.iteration_ns)
            << describe(load, plan) << "; iteration " << i;
    }
    return prediction.iterations;
}

} // namespace

TEST(Predict, EqualsTheSimulationForEveryLayersSlabsAndStaging) {
    uint64_t cases = 0;
    for (uint32_t layers = 1; layers <= 48; layers++) {
        for (uint32_t streamed = 0; streamed <= layers; streamed++) {
            for (uint32_t staging = 1; staging <= 4; staging++) {
                // The ratio of copy to compute runs through the place where the one
                // hides under the other.
                plan_load load = make_load(layers, 1, 97, 97 * layers / (streamed + 1) + 13 * staging);
                plan plan;
                plan_even(&load, streamed, streamed ? staging : 0, &plan);
                expect_equal(load, plan);
                plan_nested(&load, streamed, streamed ? staging : 0, &plan);
                load.slab_bytes = 97 * (1 + cases % 5);
                load.before_ns = cases % 3 * 120;
                load.after_ns = cases % 7 * 31;
                expect_equal(load, plan);
                ASSERT_FALSE(HasFailure());
                cases++;
            }
        }
    }
    EXPECT_EQ(cases, 4u * (48 * 49 / 2 + 48));
}

TEST(Predict, EqualsTheSimulationForRandomLoadsAndPlacements) {
    Random random(1);
    uint32_t most = 0;
    for (int i = 0; i < 4000; i++) {
        plan_load load = random_load(random, 80, 16);
        plan plan = random_plan(random, load);
        most = std::max(most, expect_equal(load, plan) - plan.staging / std::max(1u, plan.streamed_slabs));
        ASSERT_FALSE(HasFailure());
    }
    EXPECT_LE(most, 6u) << "iterations beyond filling the ring until certain";
}

// KV of running sequences passes through the same ring behind the slabs of each layer.
TEST(Predict, EqualsTheSimulationWithKvBehindTheSlabs) {
    Random random(3);
    for (int i = 0; i < 3000; i++) {
        plan_load load = random_load(random, 60, 8);
        plan plan = random_plan(random, load);
        load.kv_copies = random.pick(1, 5);
        for (uint32_t copy = 0; copy < load.kv_copies; copy++) {
            load.kv_bytes[copy] = copy + 1 < load.kv_copies ? load.slab_bytes : random.pick(1, load.slab_bytes);
        }
        plan.staging += random.pick(load.kv_copies, 2 * load.kv_copies + 1);
        uint64_t kv_bytes = load.layers * plan_kv_bytes(&load);
        EXPECT_EQ(plan_predict(&load, &plan).bytes_streamed, plan.streamed_slabs * load.slab_bytes + kv_bytes);
        EXPECT_EQ(plan_predict(&load, &plan).copies, plan.streamed_slabs + load.layers * load.kv_copies);
        expect_equal(load, plan);
        ASSERT_FALSE(HasFailure());
    }
}

TEST(Predict, TheTimelineIsTheSimulationsSteadyState) {
    Random random(2);
    for (int i = 0; i < 1000; i++) {
        plan_load load = random_load(random, 80, 16);
        plan plan = random_plan(random, load);
        std::vector<int64_t> start(plan.layers), end(plan.layers), in(plan.streamed_slabs), out(plan.streamed_slabs);
        plan_timeline timeline = {start.data(), end.data(), in.data(), out.data()};
        plan_prediction prediction = plan_predict_timeline(&load, &plan, &timeline);
        PipelineSimulation simulation(load, plan, load.slab_bytes + load.copy_ns);
        size_t iteration = prediction.iterations; // counted from 0: the one that was drawn
        simulation.run(iteration + 2);
        ASSERT_FALSE(simulation.poisoned) << describe(load, plan);
        uint64_t begin = simulation.begins[iteration];
        for (uint32_t layer = 0; layer < plan.layers; layer++) {
            size_t at = iteration * plan.layers + layer;
            ASSERT_EQ(start[layer], int64_t(simulation.layer_starts[at] - begin)) << describe(load, plan);
            ASSERT_EQ(end[layer], int64_t(simulation.layer_ends[at] - begin));
        }
        for (uint32_t copy = 0; copy < plan.streamed_slabs; copy++) {
            size_t at = iteration * plan.streamed_slabs + copy;
            ASSERT_EQ(in[copy], int64_t(simulation.copies[at].in - begin)) << describe(load, plan);
            ASSERT_EQ(out[copy], int64_t(simulation.copies[at].out - begin));
        }
    }
}

TEST(Predict, TheSimulationSeesASlotOverwrittenTooEarly) {
    // A ring counted anew in each iteration is right only when the slots divide the slabs.
    for (uint32_t streamed = 3; streamed <= 12; streamed++) {
        plan_load load = make_load(12, 1, 10, 7);
        plan plan;
        plan_even(&load, streamed, 3, &plan);
        PipelineSimulation sound(load, plan, 7), forgetful(load, plan, 7);
        forgetful.forgets_the_wrap = true;
        sound.run(4);
        forgetful.run(4);
        EXPECT_FALSE(sound.poisoned);
        EXPECT_EQ(forgetful.poisoned, streamed % 3 != 0) << streamed;
    }
}

TEST(Predict, NothingStreamedTakesTheComputeTimeAlone) {
    plan_load load = make_load(24, 16, 1000, 500);
    load.before_ns = 70;
    load.after_ns = 7;
    plan plan;
    plan_none(&load, &plan);
    plan_prediction prediction = plan_predict(&load, &plan);
    EXPECT_EQ(prediction.iteration_ns, 24077u);
    EXPECT_EQ(prediction.stall_ns, 0u);
    EXPECT_EQ(prediction.bytes_streamed, 0u);
    EXPECT_EQ(prediction.copies, 0u);
    EXPECT_EQ(plan_interval(&load, &plan), 0);
}

TEST(Predict, CountsBytesCopiesAndTheLinksTime) {
    plan_load load = make_load(32, 8, 1000, 250);
    load.copy_ns = 5;
    plan plan;
    plan_nested(&load, 100, 8, &plan);
    plan_prediction prediction = plan_predict(&load, &plan);
    EXPECT_EQ(prediction.copies, 100u);
    EXPECT_EQ(prediction.bytes_streamed, 25000u);
    EXPECT_EQ(prediction.link_busy_ns, 25500u);
    EXPECT_EQ(prediction.compute_ns, 32000u);
    EXPECT_DOUBLE_EQ(plan_link_use(&load, prediction.bytes_streamed, 50000), 0.5);
    EXPECT_DOUBLE_EQ(plan_interval(&load, &plan), 2.56);
    EXPECT_EQ(plan_freed_slabs(&plan), 92);
}

TEST(Predict, RoundsACopyUpToWholeNanoseconds) {
    plan_load load = make_load(1, 1, 1, 1);
    load.slab_bytes = 3;
    load.link_bytes_per_s = 2000000000;
    load.copy_ns = 10;
    EXPECT_EQ(plan_slab_ns(&load), 12u);
    load.slab_bytes = 4;
    EXPECT_EQ(plan_slab_ns(&load), 12u);
    load.slab_bytes = UINT64_C(1) << 40;
    load.link_bytes_per_s = 1;
    EXPECT_EQ(plan_slab_ns(&load), UINT64_MAX);
    EXPECT_TRUE(plan_load_check(&load).code == STATUS_INVALID);
}

TEST(Predict, AWholeLayerIntervalHidesItsCopiesFromOnePlusR) {
    // i >= 1 + r with one slot; with two, i >= r: the copy may run beside the
    // streamed layer itself.
    for (uint32_t interval = 1; interval <= 16; interval++) {
        for (uint64_t tenths = 5; tenths <= 200; tenths++) { // r = tenths / 10
            plan_load load = make_load(interval * 6, 1, 100, 10 * tenths);
            plan plan;
            plan_groups(&load, interval, 1, 1, 1, &plan);
            EXPECT_EQ(plan_predict(&load, &plan).stall_ns == 0, 10 * interval >= 10 + tenths) << interval;
            plan.staging = 2;
            EXPECT_EQ(plan_predict(&load, &plan).stall_ns == 0, 10 * interval >= tenths) << interval;
            // With stalls: the interval's compute but one layer hides, the rest of
            // the copy does not.
            plan.staging = 1;
            uint64_t round = std::max<uint64_t>(100 * interval, 100 + 10 * tenths);
            EXPECT_EQ(plan_predict(&load, &plan).iteration_ns, 6 * round);
        }
    }
}

TEST(Predict, WithSlackTheIntervalShrinksToAboutOnePlusROverOnePlusSlack) {
    for (double slack : {0.0, 0.25, 0.5, 1.0, 2.0}) {
        for (double r : {1.5, 3.5, 8.0, 13.8}) {
            plan_load load = make_load(96, 1, 100000, uint64_t(r * 100000));
            double deadline = (1 + slack) * 96 * 100000;
            uint32_t least = 1;
            for (;; least++) {
                plan plan;
                plan_groups(&load, least, 1, 1, 1, &plan);
                if (double(plan_predict(&load, &plan).iteration_ns) <= deadline) {
                    break;
                }
            }
            double form = (1 + r) / (1 + slack);
            EXPECT_GE(least, std::floor(form) - 1) << r << " " << slack;
            EXPECT_LE(least, std::ceil(form) + 1) << r << " " << slack;
        }
    }
}

TEST(Predict, NeverFallsWithASlabNorRisesWithASlot) {
    Random random(3);
    for (int i = 0; i < 60; i++) {
        plan_load load = random_load(random, 80, 16);
        uint32_t staging = 2 * load.slabs + random.pick(0, 3);
        uint32_t prefetch = random.one_in(3) ? random.pick(1, load.layers) : 0;
        uint64_t last = 0;
        for (uint32_t streamed = 0; streamed <= load.layers * load.slabs; streamed++) {
            plan plan;
            plan_nested(&load, streamed, staging, &plan);
            plan.prefetch_layers = prefetch;
            uint64_t now = plan_predict(&load, &plan).iteration_ns;
            ASSERT_GE(now, last) << describe(load, plan);
            last = now;
            plan.staging++;
            ASSERT_LE(plan_predict(&load, &plan).iteration_ns, now) << describe(load, plan);
        }
    }
}

TEST(Predict, NeverFallsWhenAnyPlanIsGivenASlab) {
    Random random(4);
    for (int i = 0; i < 3000; i++) {
        plan_load load = random_load(random, 80, 16);
        plan plan = random_plan(random, load);
        uint32_t layer = random.pick(0, load.layers - 1);
        if (plan.streamed[layer] < load.slabs && plan.streamed[layer] < plan.staging) {
            uint64_t before = plan_predict(&load, &plan).iteration_ns;
            plan.streamed[layer]++;
            plan.streamed_slabs++;
            ASSERT_GE(plan_predict(&load, &plan).iteration_ns, before) << describe(load, plan);
        }
    }
}

TEST(Predict, CostsAFewIterationsWhateverTheSizes) {
    plan_load load = make_load(PLAN_MAX_LAYERS, PLAN_MAX_SLABS, 1000000, 15000);
    plan plan;
    plan_nested(&load, PLAN_MAX_LAYERS * PLAN_MAX_SLABS, PLAN_MAX_STAGING, &plan);
    plan_prediction prediction = plan_predict(&load, &plan);
    EXPECT_LE(prediction.iterations, 4u);
    EXPECT_EQ(prediction.copies, 16384u);
}

TEST(Placement, EvenSharesDifferByOneAndAreSpread) {
    for (uint32_t layers : {1u, 5u, 24u, 80u, 256u}) {
        plan_load load = make_load(layers, 16, 1, 1);
        for (uint32_t streamed = 0; streamed <= layers * 16; streamed++) {
            plan plan;
            plan_even(&load, streamed, 16, &plan);
            uint32_t sum = 0;
            for (uint32_t layer = 0; layer < layers; layer++) {
                sum += plan.streamed[layer];
                ASSERT_GE(plan.streamed[layer], streamed / layers);
                ASSERT_LE(plan.streamed[layer], (streamed + layers - 1) / layers);
                ASSERT_EQ(sum, (layer + 1) * streamed / layers); // never half a slab from the straight line
            }
            ASSERT_EQ(sum, streamed);
        }
    }
}

TEST(Placement, NestedSharesDifferByOneAndNeighboursByOneSlab) {
    for (uint32_t layers : {1u, 2u, 5u, 24u, 30u, 32u, 80u, 255u, 256u}) {
        plan_load load = make_load(layers, 16, 1, 1);
        plan before;
        plan_none(&load, &before);
        for (uint32_t streamed = 1; streamed <= layers * 16; streamed++) {
            plan plan;
            plan_nested(&load, streamed, 16, &plan);
            uint32_t grown = 0, sum = 0;
            for (uint32_t layer = 0; layer < layers; layer++) {
                ASSERT_GE(plan.streamed[layer], before.streamed[layer]);
                grown += plan.streamed[layer] - before.streamed[layer];
                sum += plan.streamed[layer];
                ASSERT_GE(plan.streamed[layer], streamed / layers);
                ASSERT_LE(plan.streamed[layer], (streamed + layers - 1) / layers);
            }
            ASSERT_EQ(grown, 1u);
            ASSERT_EQ(sum, streamed);
            before = plan;
        }
    }
}

TEST(Placement, NestedLayersAreSpread) {
    // Among any number of layers in a row there are as many streamed ones as
    // their share, give or take four.
    for (uint32_t layers : {24u, 32u, 40u, 80u, 200u}) {
        plan_load load = make_load(layers, 1, 1, 1);
        for (uint32_t streamed = 1; streamed <= layers; streamed++) {
            plan plan;
            plan_nested(&load, streamed, 1, &plan);
            for (uint32_t from = 0; from < layers; from++) {
                uint32_t inside = 0;
                for (uint32_t length = 1; length <= layers; length++) {
                    inside += plan.streamed[(from + length - 1) % layers];
                    ASSERT_NEAR(inside, double(length) * streamed / layers, 4) << layers << " " << streamed;
                }
            }
        }
    }
}

TEST(Placement, GroupsTakeTheLastLayersOfEach) {
    plan_load load = make_load(10, 2, 1, 1);
    plan plan;
    plan_groups(&load, 4, 2, 2, 4, &plan);
    const uint8_t expected[] = {0, 0, 2, 2, 0, 0, 2, 2, 0, 0};
    EXPECT_TRUE(std::equal(expected, expected + 10, plan.streamed));
    EXPECT_EQ(plan.streamed_slabs, 8u);
    plan_groups(&load, 3, 1, 2, 2, &plan);
    EXPECT_EQ(plan.streamed_slabs, 6u);
    EXPECT_DOUBLE_EQ(plan_interval(&load, &plan), 10 * 2 / 6.0);
}

TEST(Load, NumbersOutOfBoundsAreRefusedByName) {
    plan_load good = make_load(80, 16, 1000, 1000);
    EXPECT_EQ(plan_load_check(&good).code, STATUS_OK);
    struct {
        const char *name;
        void (*spoil)(plan_load *);
    } cases[] = {
        {"layers is 0", [](plan_load *load) { load->layers = 0; }},
        {"layers is 257", [](plan_load *load) { load->layers = 257; }},
        {"slabs is 65", [](plan_load *load) { load->slabs = 65; }},
        {"slab_bytes is 0", [](plan_load *load) { load->slab_bytes = 0; }},
        {"layer_ns", [](plan_load *load) { load->layer_ns = UINT64_MAX; }},
        {"before_ns", [](plan_load *load) { load->before_ns = UINT64_MAX; }},
        {"after_ns", [](plan_load *load) { load->after_ns = UINT64_MAX; }},
        {"link_bytes_per_s is 0", [](plan_load *load) { load->link_bytes_per_s = 0; }},
        {"copy_ns", [](plan_load *load) { load->copy_ns = UINT64_MAX; }},
        {"time of one copy", [](plan_load *load) { load->slab_bytes = 1u << 30, load->link_bytes_per_s = 1; }},
    };
    for (const auto &test : cases) {
        plan_load load = good;
        test.spoil(&load);
        status status = plan_load_check(&load);
        EXPECT_EQ(status.code, STATUS_INVALID) << test.name;
        EXPECT_NE(std::string(status.message).find(test.name), std::string::npos) << status.message;
    }
}

TEST(PredictDeathTest, APlanThatContradictsItselfIsABug) {
    plan_load load = make_load(4, 4, 10, 10);
    plan plan;
    plan_groups(&load, 2, 1, 4, 3,
                &plan); // the ring is shorter than a layer's slabs
    EXPECT_DEATH(plan_predict(&load, &plan), "staging");
    plan_groups(&load, 2, 1, 4, 4, &plan);
    plan.streamed_slabs++;
    EXPECT_DEATH(plan_predict(&load, &plan), "sum");
}
