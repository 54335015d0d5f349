// bench/steady.h and bench/paper.h: what policies can make of described hardware, and the paper's case.
extern "C" {
#include "bench/paper.h"
#include "bench/steady.h"
}
#include <gtest/gtest.h>
#include <memory>

namespace {

plan_case decode(const char *model, uint32_t batch, double slack) {
    plan_case c;
    status status = steady_case("a10", model, PLAN_DECODE, batch, 64, &c);
    EXPECT_EQ(status.code, STATUS_OK) << status.message;
    c.deadline_ns = (uint64_t)((1 + slack) * (double)plan_case_resident_ns(&c));
    return c;
}

TEST(Steady, EveryPlanKeepsThePromiseAndMetronomeFreesTheMost) {
    plan_case c = decode("opt-6.7b", 128, 0.5);
    double best = 0;
    for (const char *policy : {"none", "flexgen", "prefetch-group", "select-n", "metronome"}) {
        steady steady;
        ASSERT_EQ(steady_most_freed(&c, policy, &steady).code, STATUS_OK);
        ASSERT_TRUE(steady.possible) << policy;
        EXPECT_LE(plan_predict(&steady.load, &steady.choice.plan).iteration_ns, c.deadline_ns) << policy;
        EXPECT_GE(best = std::max(best, steady_freed_bytes(&steady)), 0);
        if (std::string(policy) == "metronome") {
            EXPECT_EQ(steady_freed_bytes(&steady), best);
        }
    }
    steady all;
    ASSERT_EQ(steady_most_freed(&c, "zero-inference", &all).code, STATUS_OK);
    EXPECT_FALSE(all.possible) << "all layers take longer than half as long again";
}

TEST(Steady, ABatchThatDoesNotFitWithoutOffloadingFitsWithIt) {
    plan_case c = decode("opt-13b", 1, 0);
    c.context = 128;
    uint32_t batch;
    double rate, ours;
    steady steady;
    ASSERT_EQ(steady_batch(&c, "none", 100000000, 64, &batch, &rate, &steady).code, STATUS_OK);
    EXPECT_EQ(batch, 0u);
    ASSERT_EQ(steady_batch(&c, "select-n", 100000000, 64, &batch, &rate, &steady).code, STATUS_OK);
    EXPECT_GT(batch, 4u);
    ASSERT_EQ(steady_batch(&c, "metronome", 100000000, 64, &batch, &ours, &steady).code, STATUS_OK);
    EXPECT_GT(ours, rate);
    EXPECT_LE(steady.choice.prediction.iteration_ns, 100000000u);
}

TEST(Paper, FlexGenBreaksThePromiseOnASharedBusAndTheOthersKeepIt) {
    auto paper = std::make_unique<struct paper>();
    status status = paper_compute("a10", paper.get());
    ASSERT_EQ(status.code, STATUS_OK) << status.message;
    EXPECT_EQ(paper->interval[0].least, 3);
    EXPECT_LT(paper->interval[1].any, paper->interval[1].least);
    for (int engine = 0; engine < 2; engine++) {
        const shared_engine &flexgen = paper->bus[PAIR_FLEXGEN_MODEL].engine[engine];
        EXPECT_EQ(flexgen.late, flexgen.iterations);
        EXPECT_EQ(paper->bus[PAIR_SELECT_N].engine[engine].late, 0u);
        EXPECT_EQ(paper->bus[PAIR_METRONOME].engine[engine].late, 0u);
    }
    EXPECT_NE(paper_compute("no-such-hardware", paper.get()).code, STATUS_OK);
}

} // namespace
