// server/explain.c: the ranking, and advice that can be taken.
extern "C" {
#include "server/explain.h"
}
#include <cjson/cJSON.h>
#include <gtest/gtest.h>
#include <memory>
#include <string>
#include <vector>

namespace {

class Explain : public testing::Test {
  protected:
    void SetUp() override {
        config_init(&config_);
        state_.config = &config_;
        state_.kv_blocks = 100;
        state_.weight_bytes_host = 4 << 20;
    }
    void TearDown() override {
        config_free(&config_);
    }
    void set(const char *name, const char *value) {
        struct status status = config_set(&config_, name, value, SOURCE_FILE);
        ASSERT_EQ(status.code, STATUS_OK) << status.message;
    }
    void late(enum cause cause, uint64_t late_ms, uint32_t first_token = 3, uint32_t running = 8) {
        struct late_run run = {};
        run.request = runs_.size() + 1;
        run.cause = cause;
        run.first_token = run.latest_token = first_token;
        run.tokens = 2;
        run.begin_ns = 1000000;
        run.at_ns = run.begin_ns + 2 * late_ms * 1000000;
        run.late_ns = late_ms * 1000000;
        run.spent.ns[cause] = run.at_ns - run.begin_ns;
        run.running = running;
        runs_.push_back(run);
    }
    const struct explanation &rank() {
        *explanation_ = {};
        explain_rank(runs_.data(), uint32_t(runs_.size()), &state_, explanation_.get());
        return *explanation_;
    }
    std::string text(void (*write)(const struct explanation *, struct text *)) {
        struct text out = {};
        write(explanation_.get(), &out);
        std::string result(out.data, out.bytes);
        text_free(&out);
        return result;
    }
    struct config config_;
    struct explain_state state_ = {};
    std::vector<struct late_run> runs_;
    std::unique_ptr<struct explanation> explanation_ = std::make_unique<struct explanation>();
};

TEST_F(Explain, WhatCostMostComesFirst) {
    late(CAUSE_QUEUE, 10);
    late(CAUSE_QUEUE, 10);
    late(CAUSE_DEVICE, 25);
    late(CAUSE_HOST_TIME, 1);
    const struct explanation &explanation = rank();
    ASSERT_EQ(explanation.cause_count, 3u);
    EXPECT_EQ(explanation.causes[0].cause, CAUSE_DEVICE);
    EXPECT_EQ(explanation.causes[1].cause, CAUSE_QUEUE);
    EXPECT_EQ(explanation.causes[1].runs, 2u);
    EXPECT_EQ(explanation.causes[1].late_tokens, 4u);
    EXPECT_EQ(explanation.causes[1].lost_ns, 20000000u);
    EXPECT_EQ(explanation.causes[1].examples[0].request, 1u);
    EXPECT_EQ(explanation.causes[2].cause, CAUSE_HOST_TIME);
}

TEST_F(Explain, NothingLate) {
    rank();
    EXPECT_NE(text(explain_write_text).find("nothing came late"), std::string::npos);
    EXPECT_NE(text(explain_write_json).find("\"causes\":[]"), std::string::npos);
}

// Whatever is configured, advice names options that there are, with values that they take and do not have already.
TEST_F(Explain, AdviceCanBeTaken) {
    const std::vector<std::vector<std::pair<const char *, const char *>>> cases = {
        {},
        {{"slo.ttft_ms", "500"}, {"slo.tpot_ms", "50"}},
        {{"slo.tpot_ms", "0.25"}, {"device_memory", "12GiB"}, {"offload.policy", "flexgen"}, {"offload.percent", "50"}},
        {{"slo.ttft_ms", "1"}, {"offload.policy", "metronome"}, {"offload.interval", "4"}, {"scheduler.order", "fcfs"}},
        {{"max_sequences", "8"}, {"threads", "4"}, {"prefill_chunk", "64"}, {"offload.record", "there"}},
        {{"offload.kv_host_memory", "0"}, {"offload.bus", "link"}, {"max_sequences", "1"}}};
    for (const auto &options : cases) {
        config_free(&config_);
        config_init(&config_);
        for (const auto &[name, value] : options) {
            set(name, value);
        }
        for (int cause = 0; cause < CAUSES; cause++) {
            for (uint32_t first_token : {0u, 5u}) {
                runs_.clear();
                late((enum cause)cause, 30, first_token, uint32_t(config_.max_sequences));
                const struct explanation &explanation = rank();
                ASSERT_EQ(explanation.cause_count, 1u);
                const struct cause_report &report = explanation.causes[0];
                for (uint32_t i = 0; i < report.advice_count; i++) {
                    const struct advice &advice = report.advice[i];
                    const struct option *option = option_find(advice.option);
                    ASSERT_NE(option, nullptr) << advice.option;
                    struct text before = {}, after = {};
                    config_show(&config_, option, &before);
                    struct config changed;
                    config_init(&changed);
                    struct status status = config_set(&changed, advice.option, advice.value, SOURCE_FILE);
                    EXPECT_EQ(status.code, STATUS_OK) << status.message;
                    config_show(&changed, option, &after);
                    EXPECT_STRNE(text_string(&before), text_string(&after)) << advice.option;
                    EXPECT_STRNE(advice.why, "");
                    config_free(&changed);
                    text_free(&before);
                    text_free(&after);
                }
            }
        }
    }
}

TEST_F(Explain, TheMendOfAStalledPolicyIsTheOneThatDecides) {
    set("offload.policy", "select-n");
    late(CAUSE_LINK_CONTENTION, 30);
    const struct cause_report &report = rank().causes[0];
    ASSERT_GE(report.advice_count, 1u);
    EXPECT_STREQ(report.advice[0].option, "offload.policy");
    EXPECT_STREQ(report.advice[0].value, "metronome");
    EXPECT_NE(text(explain_write_text).find("try --offload.policy metronome"), std::string::npos);
}

TEST_F(Explain, Json) {
    set("slo.ttft_ms", "100");
    late(CAUSE_QUEUE, 30, 0, 64);
    late(CAUSE_COMPUTE, 10);
    rank();
    cJSON *json = cJSON_Parse(text(explain_write_json).c_str());
    ASSERT_NE(json, nullptr);
    cJSON *causes = cJSON_GetObjectItem(json, "causes");
    ASSERT_EQ(cJSON_GetArraySize(causes), 2);
    cJSON *first = cJSON_GetArrayItem(causes, 0);
    EXPECT_STREQ(cJSON_GetObjectItem(first, "cause")->valuestring, "queue");
    EXPECT_NEAR(cJSON_GetObjectItem(first, "share")->valuedouble, 0.75, 1e-3);
    cJSON *help = cJSON_GetArrayItem(cJSON_GetObjectItem(first, "helps"), 0);
    EXPECT_STREQ(cJSON_GetObjectItem(help, "option")->valuestring, "max_sequences");
    EXPECT_STREQ(cJSON_GetObjectItem(help, "value")->valuestring, "128");
    cJSON *example = cJSON_GetArrayItem(cJSON_GetObjectItem(first, "examples"), 0);
    EXPECT_EQ(cJSON_GetObjectItem(example, "late_ms")->valuedouble, 30);
    EXPECT_EQ(cJSON_GetObjectItem(cJSON_GetObjectItem(example, "spent_ms"), "queue")->valuedouble, 60);
    cJSON_Delete(json);
}

} // namespace
