// bench/serving.h: whole engines under a load, the same every time, and what is reported of them.
extern "C" {
#include "base/log.h"
#include "bench/serving.h"
#include "bench/steady.h"
}
#include <gtest/gtest.h>

namespace {

class Serving : public testing::Test {
  protected:
    Serving() {
        log_set_level(LOG_ERROR);
        plan_case c;
        struct status opened = steady_case("a10", "opt-13b", PLAN_DECODE, 1, 128, &c);
        EXPECT_EQ(opened.code, STATUS_OK) << opened.message;
        serving.hardware = "configs/hardware/a10.json";
        serving.described = c.model;
        serving.device_memory = c.hardware.device_memory_bytes;
        serving.link_bytes_per_s = c.hardware.link_bytes_per_s;
        serving.tpot_ns = 2 * plan_case_resident_ns(&c);
        serving.context = 288;
        serving.prompt_tokens = 64;
        serving.output_tokens = 128;
        serving.requests = 12;
        serving.seed = 3;
    }
    serving_result run(const char *policy, uint32_t places) {
        serving_setting setting = {};
        setting.policy = policy;
        setting.places = places;
        serving_result result;
        status = serving_run(&serving, &setting, &result);
        return result;
    }
    serving_case serving = {};
    struct status status = {};
};

TEST_F(Serving, IsTheSameEveryTime) {
    serving_result one = run("metronome", 4), other = run("metronome", 4);
    ASSERT_EQ(status.code, STATUS_OK) << status.message;
    EXPECT_EQ(one.report.kept, 12u);
    EXPECT_GT(one.kept_tokens_per_s, 40);
    EXPECT_GT(one.saved_bytes, 0);
    EXPECT_EQ(one.kept_tokens_per_s, other.kept_tokens_per_s);
    EXPECT_EQ(one.report.iterations, other.report.iterations);
    EXPECT_EQ(one.report.bytes_streamed, other.report.bytes_streamed);
}

TEST_F(Serving, TellsEachRequestsTokensAndCountsNoWarmUp) {
    uint64_t one[12], other[12];
    serving.tokens_hash = one;
    run("metronome", 4);
    ASSERT_EQ(status.code, STATUS_OK) << status.message;
    serving.tokens_hash = other;
    run("select-n", 4);
    ASSERT_EQ(status.code, STATUS_OK) << status.message;
    for (int i = 0; i < 12; i++) {
        EXPECT_EQ(one[i], other[i]) << "request " << i << " has other tokens by another policy";
        EXPECT_NE(one[i], one[(i + 1) % 12]);
    }
    serving.warm_up = true;
    serving_result warm = run("metronome", 4);
    EXPECT_EQ(warm.report.requests, 12u);
    EXPECT_NE(other[0], one[0]) << "on sim, tokens are of the sequence, and this one is the thirteenth";
}

TEST_F(Serving, SaysWhatDoesNotFit) {
    run("none", 4);
    EXPECT_EQ(status.code, STATUS_NO_MEMORY);
    run("zero-inference", 4);
    EXPECT_EQ(status.code, STATUS_INVALID) << "a token takes longer than is promised";
}

TEST_F(Serving, StreamsWhatTheLinkCarries) {
    serving_setting setting = {};
    setting.policy = "metronome";
    setting.places = 2;
    struct serving_stream stream;
    ASSERT_EQ(serving_stream(&serving, &setting, &stream).code, STATUS_OK);
    EXPECT_EQ(stream.late, 0u);
    EXPECT_EQ(stream.device_allocated, 0);
    EXPECT_GT(stream.bytes, 0.9 * serving.link_bytes_per_s * (double)serving.tpot_ns / 1e9);
    EXPECT_LE(stream.bytes, 1.0 * serving.link_bytes_per_s * (double)serving.tpot_ns / 1e9);
}

} // namespace
