// server/slo_log.c: what is written is read again; what nobody wrote is refused with its line.
extern "C" {
#include "server/slo_log.h"
}
#include <cstring>
#include <fstream>
#include <gtest/gtest.h>
#include <memory>
#include <sstream>
#include <string>
#include <unistd.h>

namespace {

const char *const head =
    R"({"metronome_slo_log":1,"kv_blocks":7,"weight_bytes_host":11,"options":{"slo.ttft_ms":"500"}})";

struct Log {
    explicit Log(const std::string &text) : status(slo_log_read(text.data(), text.size(), &log)) {
    }
    ~Log() {
        slo_log_free(&log);
    }
    struct slo_log log;
    struct status status;
};

class SloLog : public testing::Test {
  protected:
    void SetUp() override {
        config_init(&config_);
        char name[] = "/tmp/metronome-test-XXXXXX";
        int file = mkstemp(name);
        ASSERT_GE(file, 0);
        close(file);
        path_ = name;
    }
    void TearDown() override {
        config_free(&config_);
        unlink(path_.c_str());
    }
    void set(const char *name, const char *value) {
        ASSERT_EQ(config_set(&config_, name, value, SOURCE_FILE).code, STATUS_OK);
    }
    // The file's text after `request` ended so, and before it another that was refused.
    std::string write(const struct request &request, enum finish_reason finish) {
        struct explain_state state = {&config_, 7, 11};
        struct slo_log_file *file = nullptr;
        EXPECT_EQ(slo_log_open(path_.c_str(), &state, 1000000, &file).code, STATUS_OK);
        struct request refused = {};
        refused.arrival_ns = 3000000;
        refused.prompt_count = 5;
        refused.sampling.max_tokens = 9;
        refused.promise.ttft_ns = 500000000;
        slo_log_add(file, &request, "cmpl-\"1\"", "default", finish);
        slo_log_add(file, &refused, "", "", FINISH_NONE);
        slo_log_close(file);
        std::stringstream text;
        text << std::ifstream(path_).rdbuf();
        return text.str();
    }
    struct config config_;
    std::string path_;
};

struct request late_request() {
    struct request request = {};
    request.id = 4;
    request.arrival_ns = 5000000;
    request.prompt_count = 100;
    request.promise = {500000000, 20000000};
    struct request_outcome &outcome = request.outcome;
    outcome.admitted_ns = 6000000;
    outcome.first_token_ns = 605000000;
    outcome.last_token_ns = 905000000;
    outcome.tokens = 12;
    outcome.late_tokens = 3;
    outcome.late_by[CAUSE_QUEUE] = 1;
    outcome.late_by[CAUSE_LINK_CONTENTION] = 2;
    outcome.worst.cause = CAUSE_LINK_CONTENTION;
    outcome.worst.late_ns = 123456789;
    outcome.worst.first_token = outcome.worst.latest_token = 8;
    outcome.worst.begin_ns = 700000000;
    outcome.worst.at_ns = 900000001;
    outcome.worst.spent.ns[CAUSE_LINK_CONTENTION] = 150000000;
    outcome.worst.spent.ns[CAUSE_COMPUTE] = 50000001;
    outcome.worst.running = 3;
    return request;
}

TEST_F(SloLog, WhatIsWrittenIsRead) {
    set("slo.ttft_ms", "500");
    set("offload.policy", "flexgen");
    set("device_memory", "1234567");
    set("api_key", "secret");
    std::string text = write(late_request(), FINISH_LENGTH);
    EXPECT_EQ(text.find("secret"), std::string::npos);
    Log read(text);
    ASSERT_EQ(read.status.code, STATUS_OK) << read.status.message;
    EXPECT_STREQ(read.log.config.offload_policy, "flexgen");
    EXPECT_EQ(read.log.config.device_memory, 1234567u);
    EXPECT_EQ(read.log.state.kv_blocks, 7u);
    EXPECT_EQ(read.log.state.weight_bytes_host, 11u);
    ASSERT_EQ(read.log.count, 2u);
    const struct slo_log_request &refused = read.log.requests[0], &late = read.log.requests[1];
    EXPECT_EQ(refused.finish, FINISH_NONE);
    EXPECT_EQ(refused.arrival_ns, 2000000u);
    EXPECT_EQ(refused.output_tokens, 9u);
    EXPECT_EQ(late.finish, FINISH_LENGTH);
    EXPECT_EQ(late.arrival_ns, 4000000u);
    EXPECT_EQ(late.prompt_tokens, 100u);
    EXPECT_EQ(late.output_tokens, 12u);
    EXPECT_EQ(late.promise.tpot_ns, 20000000u);
    EXPECT_EQ(late.late_tokens, 3u);
    EXPECT_TRUE(late.late_first);
    EXPECT_EQ(late.late_by[CAUSE_LINK_CONTENTION], 2u);
    EXPECT_EQ(late.worst.cause, CAUSE_LINK_CONTENTION);
    EXPECT_EQ(late.worst.late_ns, 123456789u);
    EXPECT_EQ(late.worst.first_token, 8u);
    EXPECT_EQ(late.worst.at_ns - late.worst.begin_ns, 200000001u);
    EXPECT_EQ(spent_total(&late.worst.spent), 200000001u);
    EXPECT_EQ(late.worst.running, 3u);

    struct trace trace;
    ASSERT_EQ(slo_log_trace(&read.log, &trace).code, STATUS_OK);
    ASSERT_EQ(trace.count, 2u);
    EXPECT_EQ(trace.requests[0].arrival_ns, 0u);
    EXPECT_EQ(trace.requests[1].arrival_ns, 2000000u);
    EXPECT_FALSE(trace.promises[0].own); // the configuration's
    EXPECT_TRUE(trace.promises[1].own);
    EXPECT_EQ(trace.promises[1].tpot_ns, 20000000u);
    trace_free(&trace);

    auto explanation = std::make_unique<struct explanation>();
    ASSERT_EQ(slo_log_explain(&read.log, explanation.get()).code, STATUS_OK);
    EXPECT_EQ(explanation->promised, 1u); // what was refused has had no promise
    EXPECT_EQ(explanation->kept, 0u);
    EXPECT_EQ(explanation->late_first, 1u);
    EXPECT_EQ(explanation->late_tokens[CAUSE_QUEUE], 1u);
    ASSERT_EQ(explanation->cause_count, 1u);
    EXPECT_STREQ(explanation->causes[0].advice[0].value, "metronome");
}

TEST_F(SloLog, ALineThatWasCutOffIsLeftAway) {
    std::string text = write(late_request(), FINISH_STOP);
    size_t second = text.rfind('\n', text.size() - 2) + 1;
    Log read(text.substr(0, second + 20));
    ASSERT_EQ(read.status.code, STATUS_OK) << read.status.message;
    EXPECT_EQ(read.log.count, 1u);
}

TEST_F(SloLog, WhatNobodyWroteIsRefused) {
    const std::string request = R"({"id":1,"arrival_ms":0,"prompt_tokens":4,"output_tokens":2,"ttft_ms":0,"tpot_ms":0,)"
                                R"("finish":"stop","late_tokens":)";
    const std::string late = R"(,"late_ms":1,"window_ms":2,"late_token":1,"running":1,"waiting":0,"kv_blocks_free":1,)";
    const std::pair<std::string, const char *> cases[] = {
        {"", "it is empty"},
        {"{}\n", "line 1: it does not begin as a file of slo_log does"},
        {"[1]\n", "line 1: expected an object"},
        {"{\"metronome_slo_log\":2}\n", "line 1: it does not begin"},
        {R"({"metronome_slo_log":1,"kv_blocks":1,"weight_bytes_host":1,"options":{"nothing":"1"}})",
         "line 1: options: "},
        {R"({"metronome_slo_log":1,"kv_blocks":-1,"weight_bytes_host":1,"options":{}})", "line 1: kv_blocks: expected"},
        {std::string(head) + "\n{\n", "line 2: "},
        {std::string(head) + "\n{}\n", "line 2: id: expected a whole number"},
        {std::string(head) + "\n" + request + "0}\n" + request + "0.5}\n", "line 3: late_tokens: expected a whole"},
        {std::string(head) + "\n" + request + "1}\n", "line 2: cause: expected the name of a cause"},
        {std::string(head) + "\n" + request + "1,\"cause\":\"queue\"" + late + R"("late_by":{"weather":1}})" + "\n",
         "line 2: late_by: there is no cause \"weather\""},
        {std::string(head) + "\n" + request + "1,\"cause\":\"queue\"" + late +
             R"("late_by":{},"spent_ms":{"queue":-1}})" + "\n",
         "line 2: spent_ms: queue: expected a number"},
        {std::string(head) + "\n" + std::string(70000, ' ') + "\n", "line 2: it is longer than"},
    };
    for (const auto &[text, says] : cases) {
        Log read(text);
        EXPECT_TRUE(read.status.code == STATUS_INVALID || read.status.code == STATUS_NOT_FOUND) << text;
        EXPECT_NE(strstr(read.status.message, says), nullptr) << read.status.message << " for " << text.substr(0, 300);
        EXPECT_EQ(read.log.requests, nullptr);
    }
}

} // namespace
