// bench/shared_bus.h: one engine takes what the model of time says; several share the bus.
extern "C" {
#include "bench/shared_bus.h"
}
#include <cmath>
#include <gtest/gtest.h>
#include <random>

namespace {

constexpr double LINK = 24e9;

plan_load load_of(uint32_t layers, uint32_t slabs, double ratio, uint64_t copy_ns) {
    plan_load load = {};
    load.layers = layers;
    load.slabs = slabs;
    load.layer_ns = 500000;
    load.slab_bytes = (uint64_t)(ratio * 500000 * LINK / 1e9 / slabs);
    load.before_ns = 20000;
    load.after_ns = 300000;
    load.link_bytes_per_s = (uint64_t)LINK;
    load.copy_ns = copy_ns;
    return load;
}

TEST(SharedBus, OneEngineTakesWhatIsPredicted) {
    std::mt19937 random(7);
    for (int i = 0; i < 60; i++) {
        uint32_t layers = 2 + random() % 40, slabs = 1u << random() % 4;
        shared_engine engine = {};
        engine.load = load_of(layers, slabs, 0.5 + random() % 12, random() % 9000);
        engine.deadline_ns = UINT64_MAX;
        uint32_t streamed = random() % (layers * slabs + 1);
        plan_nested(&engine.load, streamed, (streamed + layers - 1) / layers + 1 + random() % 4, &engine.plan);
        engine.plan.prefetch_layers = random() % 3;
        uint64_t predicted = plan_predict(&engine.load, &engine.plan).iteration_ns;
        shared_bus_run(&engine, 1, LINK, 100);
        // Copies are rounded to whole nanoseconds here and there.
        EXPECT_NEAR(engine.mean_ns, (double)predicted, 1e-4 * (double)predicted + streamed)
            << layers << " layers of " << slabs << " slabs, " << streamed << " streamed";
        EXPECT_EQ(engine.streamed, streamed * engine.load.slab_bytes);
        EXPECT_EQ(engine.late, 0u);
    }
}

TEST(SharedBus, TwoThatFillItTakeTwiceAsLong) {
    shared_engine engines[2] = {};
    for (shared_engine &engine : engines) {
        engine.load = load_of(32, 1, 10, 0);
        plan_groups(&engine.load, 2, 1, 1, 2, &engine.plan); // bound by the link: 160 layers' time for 32
    }
    uint64_t alone = plan_predict(&engines[0].load, &engines[0].plan).iteration_ns;
    engines[0].deadline_ns = engines[1].deadline_ns = alone + alone / 2;
    shared_bus_run(engines, 2, LINK, 100);
    for (const shared_engine &engine : engines) {
        EXPECT_NEAR(engine.mean_ns, 2.0 * (double)alone, 0.001 * (double)alone);
        EXPECT_EQ(engine.late, engine.iterations);
    }
}

TEST(SharedBus, OneThatStreamsNothingIsNotHeldUp) {
    shared_engine engines[2] = {};
    engines[0].load = engines[1].load = load_of(24, 4, 5, 1000);
    engines[0].deadline_ns = plan_compute_ns(&engines[0].load);
    engines[1].deadline_ns = UINT64_MAX;
    plan_none(&engines[0].load, &engines[0].plan);
    plan_nested(&engines[1].load, 40, 6, &engines[1].plan);
    shared_bus_run(engines, 2, LINK, 50);
    EXPECT_EQ(engines[0].mean_ns, (double)plan_compute_ns(&engines[0].load));
    EXPECT_EQ(engines[0].late, 0u);
    EXPECT_NEAR(engines[1].mean_ns, (double)plan_predict(&engines[1].load, &engines[1].plan).iteration_ns, 100);
}

} // namespace
