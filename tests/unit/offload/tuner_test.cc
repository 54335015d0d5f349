// offload/tuner.h against an engine whose link slows, whose times waver, and whose model is wrong.
extern "C" {
#include "offload/tuner.h"
}
#include "tests/unit/offload/load_builder.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <functional>
#include <gtest/gtest.h>
#include <vector>

namespace {

// Iterations of a pipeline, one after another, with a link whose speed changes at any moment. Going down, the slabs
// that come back are copied once more, in the iteration that follows. Of what the ring holds, a change leaves what
// comes before the first layer that changed.
class Engine {
  public:
    std::function<double(double)> link_speed = [](double) { return 1.0; }; // of the recorded one, at a time
    std::function<double()> layer_factor = [] { return 1.0; };             // of the recorded time, per layer
    std::function<double()> iteration_factor = [] { return 1.0; };         // what no model knows of
    double now = 0;

    tuner_measurement run(const plan_load &load, const plan &plan) {
        bool changed = last_.size() == plan.layers && plan.streamed_slabs != slabs_;
        if (last_.empty()) {
            last_.assign(plan.streamed, plan.streamed + plan.layers);
            released_.assign(plan.staging, 0);
        }
        slabs_ = plan.streamed_slabs;

        tuner_measurement measured = {};
        std::deque<uint64_t> late; // the last few copies
        double begin = now, time = now + load.before_ns, factor = iteration_factor();
        for (uint32_t layer = 0; layer < plan.layers; layer++) {
            if (changed && plan.streamed[layer] != last_[layer]) {
                changed = false;
                link_ = std::max(link_, now); // copied ahead for nothing
            }
            uint32_t copied = std::max<uint32_t>(plan.streamed[layer], last_[layer]); // the rest comes back
            last_[layer] = plan.streamed[layer];
            for (uint32_t slab = 0; slab < copied; slab++) {
                if (slab < plan.streamed[layer]) { // the others go to their own slots
                    link_ = std::max(link_, released_.front());
                    released_.pop_front();
                }
                double out = copy(link_, load);
                measured.link_bytes += load.slab_bytes;
                measured.link_ns += uint64_t(std::ceil(out - link_));
                late.push_back(uint64_t(std::ceil(out - link_)));
                link_ = out;
            }
            if (copied > 0 && link_ > time) {
                measured.stall_ns += uint64_t(link_ - time);
                time = link_;
            }
            double took = load.layer_ns * layer_factor() * factor;
            measured.layers_ns += uint64_t(took);
            time += took;
            released_.insert(released_.end(), plan.streamed[layer], time);
        }
        for (size_t i = late.size() > 4 ? late.size() - 4 : 0; i < late.size(); i++) {
            measured.late_bytes += load.slab_bytes;
            measured.late_ns += late[i];
        }
        now = time + load.after_ns;
        measured.iteration_ns = uint64_t(std::llround(now - begin));
        return measured;
    }

  private:
    double copy(double from, const plan_load &load) const {
        double left = plan_slab_ns(&load), time = from, step = left / 4;
        while (left > 1e-6) { // the speed is looked at four times a slab, or more often when slow
            double speed = link_speed(time), part = std::min(left, step * speed);
            time += part / speed;
            left -= part;
        }
        return time;
    }
    double link_ = 0;
    uint32_t slabs_ = UINT32_MAX;
    std::vector<uint32_t> last_;
    std::deque<double> released_;
};

struct Outcome {
    uint32_t misses = 0, changes = 0;
    uint64_t latest = 0; // the longest iteration
    double slabs = 0;    // on average
    std::vector<uint32_t> history;
};

class TunerTest : public testing::Test {
  protected:
    TunerTest() {
        load = make_load(48, 16, 1000000, 500000); // r = 8
        load.after_ns = 1500000;
        deadline = 74250000; // half as much again
        limits = {INT32_MIN, UINT32_MAX, UINT32_MAX, plan_staging(&load, 148), 0, 0};
        best = most(load);
        refill = limits.staging * plan_slab_ns(&load);
        tuner_init(&tuner_, 0);
    }
    uint32_t most(const plan_load &at) {
        return plan_choose(&at, deadline, &limits, PLAN_NESTED).plan.streamed_slabs;
    }
    uint32_t most_at_speed(double speed) {
        plan_load slower = load;
        slower.link_bytes_per_s = uint64_t(slower.link_bytes_per_s * speed);
        return most(slower);
    }
    tuner_decision step() {
        tuner_decision decision = tuner_decide(&tuner_, 0, &load, deadline, &limits);
        tuner_measurement measured = engine.run(load, decision.plan);
        tuner_observe(&tuner_, &measured);
        last = measured;
        return decision;
    }
    Outcome run(uint32_t iterations) {
        Outcome outcome;
        for (uint32_t i = 0; i < iterations; i++) {
            tuner_decision decision = step();
            outcome.misses += last.iteration_ns > deadline;
            outcome.latest = std::max(outcome.latest, last.iteration_ns);
            outcome.changes += decision.changed;
            outcome.slabs += double(decision.plan.streamed_slabs) / iterations;
            outcome.history.push_back(decision.plan.streamed_slabs);
        }
        return outcome;
    }
    plan_load load;
    plan_limits limits;
    uint64_t deadline;
    uint64_t refill; // time to fill the ring
    uint32_t best;   // slabs that meet the deadline when all is as recorded
    tuner tuner_;
    Engine engine;
    tuner_measurement last;
};

} // namespace

TEST_F(TunerTest, TakesTheBestPlanAndKeepsIt) {
    Outcome start = run(20);
    uint32_t taken = start.history.back();
    EXPECT_EQ(start.misses, 0u); // nor while it rose
    EXPECT_LE(start.changes, 4u);
    EXPECT_LE(taken, best);
    EXPECT_GE(taken, best - 1 - best / 32); // the last few would not be worth a late iteration
    Outcome steady = run(1000);
    EXPECT_EQ(steady.changes, 0u);
    EXPECT_EQ(steady.misses, 0u);
    EXPECT_NEAR(steady.slabs, taken, 1e-9);
    EXPECT_GE(plan_link_use(&load, taken * load.slab_bytes, deadline), 0.93);
    EXPECT_GE(plan_link_use(&load, best * load.slab_bytes, deadline), 0.95);
    tuner_estimates estimates = tuner_report(&tuner_);
    EXPECT_DOUBLE_EQ(estimates.bias, 1);
    EXPECT_DOUBLE_EQ(estimates.margin, 0);
    EXPECT_DOUBLE_EQ(estimates.layer_ratio, 1);
    EXPECT_EQ(estimates.link_bytes_per_s, load.link_bytes_per_s);
}

TEST_F(TunerTest, PredictsToTheNanosecondWhereTheRecordIsRight) {
    for (int i = 0; i < 200; i++) {
        tuner_decision decision = step();
        if (i > 20) {
            ASSERT_EQ(last.iteration_ns, decision.expected_ns);
        }
    }
}

TEST_F(TunerTest, FollowsALinkThatDropsToAThirdAndReturns) {
    tuner_init(&tuner_, best);
    run(100);
    double drop = engine.now + 0.4 * deadline;
    engine.link_speed = [&](double time) { return time < drop || time > drop + 10e9 ? 1.0 : 1.0 / 3; };
    Outcome slow = run(130); // most of ten seconds
    uint32_t third = most_at_speed(1.0 / 3);
    EXPECT_LE(slow.misses, 2u); // the iteration in which it slows, and the one that brings slabs back at a third
    EXPECT_EQ(slow.history[0], best);
    EXPECT_NEAR(slow.history[1], third, best * 0.12); // decided at once, from a link that was slow for part of the time
    EXPECT_NEAR(slow.history[10], third, 2);
    EXPECT_LE(slow.changes, 3u);
    while (engine.now < drop + 10e9) {
        step();
    }
    Outcome back = run(60);
    EXPECT_EQ(back.misses, 0u); // it rises in steps that leave time to fill the ring
    EXPECT_LE(back.changes, 4u);
    EXPECT_GE(back.history.back(), best - 1 - best / 32);
    EXPECT_GE(back.history[40], best - 1 - best / 32);
}

TEST_F(TunerTest, NoiseCostsAMarginAndHardlyAnyDeadline) {
    Random random(1);
    auto gauss = [&] {
        double sum = 0;
        for (int i = 0; i < 12; i++) {
            sum += random.unit();
        }
        return sum - 6;
    };
    engine.iteration_factor = [&] { return 1 + 0.02 * gauss(); };
    engine.layer_factor = [&] { return 1 + 0.05 * gauss(); };
    double factor = 1, until = 0;
    engine.link_speed = [&](double time) {
        if (time > until) {
            factor = 1 + 0.02 * gauss();
            until = time + 20e6;
        }
        return factor;
    };
    run(200);
    Outcome noisy = run(10000);
    EXPECT_LE(noisy.misses, 10u);
    EXPECT_GE(noisy.slabs, 0.9 * best);
    EXPECT_LE(noisy.changes, 200u);
}

TEST_F(TunerTest, ASpikeCostsItsOwnIteration) {
    Random random(2);
    double spike = 0;
    uint32_t spikes = 0;
    engine.link_speed = [&](double time) { return time > spike && time < spike + 60e6 ? 0.25 : 1.0; };
    tuner_init(&tuner_, best);
    run(100);
    Outcome all;
    for (int i = 0; i < 40; i++) {
        spike = engine.now + random.unit() * deadline;
        spikes++;
        Outcome some = run(random.pick(150, 250));
        all.misses += some.misses;
        all.changes += some.changes;
        all.slabs += some.slabs / 40;
    }
    EXPECT_LE(all.misses, 3 * spikes);
    EXPECT_LE(all.changes, 5 * spikes);
    EXPECT_GE(all.slabs, 0.8 * best);
}

TEST_F(TunerTest, ANeighbourThatComesAndGoesCostsOneIterationInAThousand) {
    Random random(3);
    bool there = false;
    double next = 0;
    engine.link_speed = [&](double time) {
        while (time > next) { // comes and goes at random, every five minutes or so
            there = !there;
            next += -std::log(1 - random.unit()) * 300e9;
        }
        return there ? 0.5 : 1.0;
    };
    Outcome outcome = run(30000);
    EXPECT_GT(outcome.changes, 10u); // it did come and go
    EXPECT_LE(outcome.misses, 30u);
    EXPECT_GE(outcome.slabs, 0.95 * (most_at_speed(0.5) + best) / 2 - 0.1 * best);
}

TEST_F(TunerTest, ARecordThatIsWrongIsCorrected) {
    engine.layer_factor = [] { return 1.2; }; // slower than recorded
    engine.link_speed = [](double) { return 0.8; };
    tuner_init(&tuner_, best);
    run(50);
    Outcome outcome = run(500);
    EXPECT_EQ(outcome.misses, 0u);
    plan_load real = load;
    real.layer_ns = real.layer_ns * 12 / 10;
    real.link_bytes_per_s = real.link_bytes_per_s * 8 / 10;
    EXPECT_NEAR(outcome.slabs, most(real), 3);
    EXPECT_NEAR(tuner_report(&tuner_).layer_ratio, 1.2, 1e-6);
}

TEST_F(TunerTest, AModelThatIsWrongIsCorrectedByItsBias) {
    tuner_init(&tuner_, best);
    uint32_t misses = 0;
    for (int i = 0; i < 300; i++) {
        tuner_decision decision = tuner_decide(&tuner_, 0, &load, deadline, &limits);
        tuner_measurement measured = engine.run(load, decision.plan);
        measured.iteration_ns = measured.iteration_ns * 108 / 100; // and nobody knows where it went
        measured.layers_ns = 0;
        tuner_observe(&tuner_, &measured);
        misses += i >= 30 && measured.iteration_ns > deadline;
    }
    EXPECT_EQ(misses, 0u);
    EXPECT_NEAR(tuner_report(&tuner_).bias, 1.08, 0.001);
    EXPECT_GE(tuner_.slabs, best / 1.08 * 0.97);
}

// Tokens that are ahead of their deadlines take noise as a margin does; the tokens are still in time.
TEST_F(TunerTest, WhatTokensAreAheadStandsInForTheMargin) {
    struct Sums {
        double slabs = 0;
        uint32_t late_tokens = 0;
    };
    auto sums = [&](bool lends) {
        uint64_t noise = 7;
        engine = Engine();
        tuner_init(&tuner_, best);
        Sums sums;
        double slack = 0; // of the next token
        for (int i = 0; i < 2000; i++) {
            if (lends && slack > 0) {
                tuner_lend(&tuner_, uint64_t(slack), true);
            }
            tuner_decision decision = tuner_decide(&tuner_, 0, &load, deadline, &limits);
            tuner_measurement measured = engine.run(load, decision.plan);
            noise = noise * 6364136223846793005u + 1442695040888963407u;
            measured.iteration_ns += uint64_t(0.06 * double(measured.iteration_ns) * double(noise >> 33) / (1u << 31));
            tuner_observe(&tuner_, &measured);
            slack += double(deadline) - double(measured.iteration_ns);
            if (i >= 200) {
                sums.slabs += decision.plan.streamed_slabs / 1800.0;
                sums.late_tokens += slack < 0;
            } else {
                slack = std::max(slack, 0.0);
            }
        }
        return sums;
    };
    const Sums careful = sums(false), ahead = sums(true);
    EXPECT_EQ(careful.late_tokens, 0u);
    EXPECT_EQ(ahead.late_tokens, 0u);
    EXPECT_GT(ahead.slabs, careful.slabs + 1);
    EXPECT_LE(ahead.slabs, best);
}

// A rise that is being waited for, and in the meantime KV blocks have made more leave: it is no rise any more.
TEST_F(TunerTest, ARiseThatMemoryOvertakesIsForgotten) {
    tuner_init(&tuner_, 100);
    const plan_limits usual = limits;
    auto decide = [&](uint32_t most, uint32_t soon) {
        limits = usual;
        limits.max_slabs = most;
        limits.soon_slabs = soon;
        tuner_decision decision = tuner_decide(&tuner_, 0, &load, deadline, &limits);
        tuner_measurement measured = engine.run(load, decision.plan);
        tuner_observe(&tuner_, &measured);
        return decision.plan.streamed_slabs;
    };
    for (int i = 0; i < 4; i++) {
        EXPECT_EQ(decide(110, 0), 100u); // patience
    }
    const uint32_t taken = decide(best, 125); // for blocks, at once
    EXPECT_GT(taken, 110u);
    for (int i = 0; i < 20; i++) {
        EXPECT_GE(decide(best, 0), taken) << i;
    }
}

TEST_F(TunerTest, MemoryThatIsNeededLeavesAtOnce) {
    tuner_init(&tuner_, 20);
    deadline *= 2;
    tuner_decision decision = tuner_decide(&tuner_, 0, &load, deadline, &limits);
    EXPECT_EQ(decision.plan.streamed_slabs, 20u); // a rise waits
    limits.floor_slabs = 60;
    decision = tuner_decide(&tuner_, 0, &load, deadline, &limits);
    EXPECT_EQ(decision.plan.streamed_slabs, 60 + limits.staging); // but not when memory is short
    EXPECT_TRUE(decision.feasible);
    EXPECT_TRUE(decision.changed);
    limits.floor_slabs = 250;
    decision = tuner_decide(&tuner_, 0, &load, deadline, &limits);
    EXPECT_EQ(decision.plan.streamed_slabs, 250 + limits.staging); // late, and as little so as can be
    EXPECT_FALSE(decision.feasible);
    EXPECT_EQ(decision.why, PLAN_WHY_MEMORY);
    limits.floor_slabs = INT32_MIN;
    decision = tuner_decide(&tuner_, 0, &load, deadline, &limits);
    EXPECT_TRUE(decision.feasible);
    EXPECT_LT(decision.plan.streamed_slabs, 250u); // and back in time
}

TEST_F(TunerTest, LimitsBindAtOnceAndAreTheReason) {
    tuner_init(&tuner_, best);
    limits.bus_slabs = best / 2;
    tuner_decision decision = tuner_decide(&tuner_, 0, &load, deadline, &limits);
    EXPECT_EQ(decision.plan.streamed_slabs, best / 2);
    EXPECT_EQ(decision.why, PLAN_WHY_BUS);
    limits.max_slabs = best / 3;
    decision = tuner_decide(&tuner_, 0, &load, deadline, &limits);
    EXPECT_EQ(decision.plan.streamed_slabs, best / 3);
    EXPECT_EQ(decision.why, PLAN_WHY_MEMORY);
    limits.max_slabs = limits.bus_slabs = UINT32_MAX;
    decision = tuner_decide(&tuner_, 0, &load, deadline, &limits);
    EXPECT_EQ(decision.plan.streamed_slabs, best / 3);
    EXPECT_EQ(decision.why, PLAN_WHY_SLO);
}

TEST_F(TunerTest, AStricterDeadlineBindsAtOnce) {
    tuner_init(&tuner_, best);
    step();
    deadline = 55000000;
    tuner_decision decision = tuner_decide(&tuner_, 0, &load, deadline, &limits);
    EXPECT_EQ(decision.plan.streamed_slabs, most(load));
    EXPECT_LT(most(load), best);
    deadline = 40000000; // less than compute alone
    decision = tuner_decide(&tuner_, 0, &load, deadline, &limits);
    EXPECT_EQ(decision.plan.streamed_slabs, 0u);
    EXPECT_FALSE(decision.feasible);
    EXPECT_EQ(decision.why, PLAN_WHY_SLO);
}

TEST_F(TunerTest, AlternatingPhasesKeepThePlanOfTheStricter) {
    tuner_init(&tuner_, best);
    uint32_t changes = 0, decode = tuner_bucket(false, 16, 1024), prefill = tuner_bucket(true, 512, 1024);
    ASSERT_NE(decode, prefill);
    plan_load prefill_load = load;
    prefill_load.layer_ns *= 4;
    for (int i = 0; i < 200; i++) {
        bool is_prefill = i % 3 == 0;
        const plan_load &now = is_prefill ? prefill_load : load;
        tuner_decision decision =
            tuner_decide(&tuner_, is_prefill ? prefill : decode, &now, is_prefill ? 5 * deadline : deadline, &limits);
        tuner_measurement measured = engine.run(now, decision.plan);
        tuner_observe(&tuner_, &measured);
        changes += decision.changed;
        EXPECT_NEAR(decision.plan.streamed_slabs, best, 2);
    }
    EXPECT_LE(changes, 1u);
}

// Now and then a token is due sooner: the plan is back soon after, however often it happens.
TEST_F(TunerTest, HurriedIterationsDoNotTeachPatience) {
    tuner_init(&tuner_, best);
    const uint64_t usual = deadline;
    Outcome outcome;
    for (int i = 0; i < 4000; i++) {
        deadline = i % 100 == 0 ? 55000000 : usual;
        tuner_decision decision = step();
        outcome.misses += last.iteration_ns > deadline;
        outcome.changes += decision.changed;
        outcome.slabs += decision.plan.streamed_slabs / 4000.0;
    }
    EXPECT_LE(outcome.misses, 80u); // an iteration in which slabs come back copies them once more: it gains nothing
    EXPECT_LE(tuner_report(&tuner_).patience, 32u);
    EXPECT_GE(outcome.slabs, best * 0.75);
    EXPECT_LE(outcome.changes, 120u); // down, and up again in two steps
}

TEST_F(TunerTest, ComesBackFromALinkSoSlowThatNothingIsStreamed) {
    tuner_init(&tuner_, best);
    deadline = load.layers * load.layer_ns + load.after_ns + 1000;
    best = most(load);
    ASSERT_GT(best, 10u);
    bool slow = true;
    engine.link_speed = [&](double) { return slow ? 0.001 : 1.0; };
    run(30);
    EXPECT_EQ(tuner_.slabs, 0u);
    slow = false;
    run(4000);
    EXPECT_GE(tuner_.slabs, best * 0.95);
}

// From any number of slabs and with any deadline: steps up are in time, but for one where the ring could not be filled
// without being late and there is much to gain; and little is given up for it.
TEST_F(TunerTest, StepsUpAreInTime) {
    Random random(5);
    uint32_t misses = 0;
    for (int round = 0; round < 200; round++) {
        deadline = random.pick(60, 150) * 1000000;
        best = most(load);
        tuner_init(&tuner_, random.pick(0, best));
        engine = Engine();
        Outcome outcome = run(100);
        EXPECT_LE(outcome.misses, 1u) << round;
        EXPECT_GE(outcome.history.back() + 1 + best / 32, best) << round;
        misses += outcome.misses;
    }
    EXPECT_LE(misses, 40u); // nearly 200 if it rose at one go
}

TEST_F(TunerTest, ARiseThatWasWrongMakesTheNextOneWait) {
    tuner_init(&tuner_, best);
    // A link that slows whenever it is used fully, and recovers otherwise.
    bool full = false;
    engine.link_speed = [&](double) { return full ? 0.6 : 1.0; };
    uint32_t changes = 0;
    for (int i = 0; i < 3000; i++) {
        tuner_decision decision = step();
        full = decision.plan.streamed_slabs > best * 0.8;
        changes += decision.changed;
    }
    EXPECT_LE(changes, 60u); // without patience: one in ten iterations
    EXPECT_GE(tuner_report(&tuner_).patience, 64u);
}

// KV crosses the link beside the weights and makes iterations late: that says nothing of the load's own times.
TEST_F(TunerTest, KvOnTheLinkIsNoFaultOfThePrediction) {
    run(300);
    const tuner_estimates before = tuner_report(&tuner_);
    const uint32_t slabs = tuner_decide(&tuner_, 0, &load, deadline, &limits).plan.streamed_slabs;
    for (int i = 0; i < 200; i++) {
        tuner_decision decision = tuner_decide(&tuner_, 0, &load, deadline, &limits);
        EXPECT_EQ(decision.plan.streamed_slabs, slabs);
        tuner_measurement measured = engine.run(load, decision.plan);
        measured.iteration_ns += measured.iteration_ns / 3;
        measured.link_bytes = measured.link_ns = measured.late_bytes = measured.late_ns = 0; // none beside KV
        measured.link_shared = true;
        tuner_observe(&tuner_, &measured);
    }
    const tuner_estimates after = tuner_report(&tuner_);
    EXPECT_EQ(after.bias, before.bias);
    EXPECT_EQ(after.margin, before.margin);
    EXPECT_EQ(after.link_bytes_per_s, before.link_bytes_per_s);
}

TEST(TunerBucket, KindsOfLoadAreKeptApart) {
    EXPECT_EQ(tuner_bucket(false, 0, 0), tuner_bucket(false, 1, 511));
    EXPECT_NE(tuner_bucket(false, 8, 0), tuner_bucket(true, 8, 0));
    EXPECT_NE(tuner_bucket(false, 8, 0), tuner_bucket(false, 16, 0));
    EXPECT_NE(tuner_bucket(false, 8, 1024), tuner_bucket(false, 8, 4096));
    EXPECT_LT(tuner_bucket(true, UINT32_MAX, UINT32_MAX), uint32_t(TUNER_BUCKETS));
}
