// bench/load: percentiles, lengths, addresses, requests, and what a load comes to.
extern "C" {
#include "bench/load/body.h"
#include "bench/load/figures.h"
#include "bench/load/lengths.h"
}
#include "base/clock.h"
#include <cmath>
#include <gtest/gtest.h>
#include <string>
#include <vector>

namespace {

TEST(Samples, PercentilesAreExact) {
    struct samples samples = {};
    EXPECT_EQ(samples_summary(&samples).count, 0u);
    EXPECT_EQ(samples_summary(&samples).max, 0);
    for (int i = 100; i >= 0; i--) {
        samples_add(&samples, i);
    }
    struct summary summary = samples_summary(&samples);
    EXPECT_EQ(summary.count, 101u);
    EXPECT_DOUBLE_EQ(summary.mean, 50);
    EXPECT_DOUBLE_EQ(summary.p50, 50);
    EXPECT_DOUBLE_EQ(summary.p90, 90);
    EXPECT_DOUBLE_EQ(summary.p95, 95);
    EXPECT_DOUBLE_EQ(summary.p99, 99);
    EXPECT_DOUBLE_EQ(summary.max, 100);
    samples_free(&samples);
}

TEST(Samples, BetweenTwoValuesPercentilesAreLinear) {
    struct samples samples = {};
    samples_add(&samples, 10);
    EXPECT_EQ(samples_summary(&samples).p99, 10);
    samples_add(&samples, 20);
    EXPECT_DOUBLE_EQ(samples_summary(&samples).p50, 15);
    EXPECT_DOUBLE_EQ(samples_summary(&samples).p90, 19);
    samples_free(&samples);
}

std::vector<uint32_t> draw(const char *text, size_t count, uint64_t seed = 1) {
    struct lengths lengths;
    EXPECT_EQ(lengths_parse("prompt", text, &lengths).code, STATUS_OK) << text;
    struct random_state random;
    random_seed(&random, seed);
    std::vector<uint32_t> drawn;
    for (size_t i = 0; i < count; i++) {
        drawn.push_back(lengths_draw(&lengths, &random));
    }
    return drawn;
}

TEST(Lengths, AreDrawnAsAsked) {
    for (uint32_t length : draw("128", 100)) {
        EXPECT_EQ(length, 128u);
    }
    bool least = false, most = false;
    for (uint32_t length : draw("3-5", 1000)) {
        EXPECT_TRUE(length >= 3 && length <= 5);
        least = least || length == 3;
        most = most || length == 5;
    }
    EXPECT_TRUE(least && most);
    double sum = 0, below = 0;
    for (uint32_t length : draw("normal:1000:100", 4000)) {
        sum += length;
    }
    EXPECT_NEAR(sum / 4000, 1000, 10);
    for (uint32_t length : draw("lognormal:1000:1", 4000)) {
        below += length <= 1000;
    }
    EXPECT_NEAR(below / 4000, 0.5, 0.03);
    for (uint32_t length : draw("normal:1:100", 1000)) {
        EXPECT_GE(length, 1u);
    }
    EXPECT_EQ(draw("10-100", 50, 3), draw("10-100", 50, 3));
    EXPECT_NE(draw("10-100", 50, 3), draw("10-100", 50, 4));
}

TEST(Lengths, AreRefusedByName) {
    struct lengths lengths;
    for (const char *text : {"", "0", "-1", "1.5", "5-3", "1-", "-5", "1-2-3", "normal:", "normal:1", "normal:0:1",
                             "normal:nan:1", "lognormal:10:11", "lognormal:10:1:2", "1e9", "128 ", "zipf:1"}) {
        struct status status = lengths_parse("prompt", text, &lengths);
        EXPECT_EQ(status.code, STATUS_INVALID) << text;
        EXPECT_NE(std::string(status.message).find("--prompt"), std::string::npos);
    }
}

TEST(Target, TakesAnAddressApart) {
    struct target target = {};
    ASSERT_EQ(target_parse("http://example.com", &target).code, STATUS_OK);
    EXPECT_STREQ(target.host, "example.com");
    EXPECT_EQ(target.port, 80);
    EXPECT_STREQ(target.prefix, "");
    ASSERT_EQ(target_parse("http://[::1]:8080/openai/v1/", &target).code, STATUS_OK);
    EXPECT_STREQ(target.host, "::1");
    EXPECT_STREQ(target.authority, "[::1]:8080");
    EXPECT_EQ(target.port, 8080);
    char path[320];
    target_path(&target, path);
    EXPECT_STREQ(path, "/openai/v1/chat/completions");
    target.completions = true;
    target_path(&target, path);
    EXPECT_STREQ(path, "/openai/v1/completions");
    EXPECT_EQ(target_parse("https://example.com", &target).code, STATUS_UNSUPPORTED);
    for (const std::string &url : {std::string("example.com:80"), std::string("http://"), std::string("http://:80"),
                                   std::string("http://a:0"), std::string("http://a:65536"), std::string("http://a:"),
                                   std::string("http://a:8x"), std::string("http://[::1"), std::string("http://[::1]x"),
                                   std::string("http://u@a"), std::string("http://a/b?c"), std::string("http://a\r\nb"),
                                   "http://" + std::string(300, 'a'), "http://a/" + std::string(300, 'a')}) {
        EXPECT_EQ(target_parse(url.c_str(), &target).code, STATUS_INVALID) << url;
    }
}

struct Body {
    cJSON *json;
    Body(const struct target &target, const struct trace &trace, uint32_t index) {
        struct text text = {};
        EXPECT_EQ(body_write(&target, &trace, index, &text).code, STATUS_OK);
        json = cJSON_Parse(text_string(&text));
        text_free(&text);
    }
    ~Body() {
        cJSON_Delete(json);
    }
    const cJSON *at(const char *key) const {
        return cJSON_GetObjectItemCaseSensitive(json, key);
    }
    std::string prompt() const {
        return at("prompt")->valuestring;
    }
};

TEST(Body, HasWhatWasAskedFor) {
    struct trace_request request = {};
    request.prompt_tokens = 5;
    request.output_tokens = 9;
    struct trace trace = {};
    trace.requests = &request;
    trace.count = 1;
    trace.part_tokens = 512;
    cJSON *extra = cJSON_Parse(R"({"temperature":0.5,"stream_options":null,"slo":{"ttft_ms":1}})");
    struct target target = {};
    snprintf(target.model, sizeof target.model, "a \"model\"");
    Body chat(target, trace, 0);
    EXPECT_STREQ(chat.at("model")->valuestring, "a \"model\"");
    EXPECT_EQ(chat.at("max_tokens")->valueint, 9);
    EXPECT_TRUE(cJSON_IsTrue(chat.at("stream")));
    EXPECT_TRUE(cJSON_IsTrue(cJSON_GetObjectItem(chat.at("stream_options"), "include_usage")));
    EXPECT_EQ(chat.at("ignore_eos"), nullptr);
    std::string content = cJSON_GetObjectItem(cJSON_GetArrayItem(chat.at("messages"), 0), "content")->valuestring;
    EXPECT_EQ(std::count(content.begin(), content.end(), ' '), 4) << content;
    target.completions = target.ignore_eos = true;
    target.extra = extra;
    Body plain(target, trace, 0);
    EXPECT_EQ(plain.at("messages"), nullptr);
    EXPECT_EQ(plain.prompt(), content);
    EXPECT_EQ(plain.at("min_tokens")->valueint, 9);
    EXPECT_TRUE(cJSON_IsTrue(plain.at("ignore_eos")));
    EXPECT_EQ(plain.at("temperature")->valuedouble, 0.5);
    EXPECT_EQ(plain.at("stream_options"), nullptr);
    EXPECT_TRUE(cJSON_IsObject(plain.at("slo")));
    cJSON_Delete(extra);
}

TEST(Body, PromptsShareWhatTheTraceShares) {
    static const char text[] = "{\"timestamp\":0,\"input_length\":600,\"output_length\":1,\"hash_ids\":[1,2]}\n"
                               "{\"timestamp\":1,\"input_length\":600,\"output_length\":1,\"hash_ids\":[1,3]}\n"
                               "{\"timestamp\":2,\"input_length\":600,\"output_length\":1}\n";
    struct trace trace;
    ASSERT_EQ(trace_read(text, sizeof text - 1, &trace).code, STATUS_OK);
    struct target target = {};
    target.completions = true;
    std::string one = Body(target, trace, 0).prompt(), other = Body(target, trace, 1).prompt(),
                alone = Body(target, trace, 2).prompt();
    size_t same = 0, words = 0;
    while (one[same] == other[same]) {
        words += one[same++] == ' ';
    }
    EXPECT_GE(words, 511u);
    EXPECT_LT(words, 530u);
    EXPECT_NE(one.substr(0, 100), alone.substr(0, 100));
    trace_free(&trace);
}

struct outcome whole(double arrival_ms, double ttft_ms, double tpot_ms, uint32_t tokens) {
    struct outcome outcome = {};
    outcome.arrival_ns = static_cast<uint64_t>(arrival_ms * 1e6);
    outcome.sent_ns = outcome.arrival_ns + NS_PER_MS;
    outcome.first_ns = outcome.arrival_ns + static_cast<uint64_t>(ttft_ms * 1e6);
    outcome.last_ns = outcome.first_ns + static_cast<uint64_t>(tpot_ms * 1e6) * (tokens - 1);
    outcome.end_ns = outcome.last_ns + NS_PER_MS;
    outcome.output_tokens = tokens;
    outcome.prompt_tokens = 10;
    outcome.token_events = tokens;
    outcome.kind = OUTCOME_OK;
    outcome.has_usage = true;
    return outcome;
}

TEST(Figures, OfALoad) {
    std::vector<struct outcome> outcomes = {whole(0, 100, 10, 11), whole(100, 300, 10, 11), whole(200, 100, 50, 11),
                                            whole(300, 100, 0, 1), whole(300, 1, 1, 11)};
    outcomes[4].kind = OUTCOME_CLOSED; // was in time, and is not whole
    outcomes[3].has_usage = false;
    struct load_report report = {};
    report.outcomes = outcomes.data();
    report.count = 5;
    report.seconds = 2;
    report.events = 100;
    report.cpu_s = 0.001;
    struct load_promise promise = {200, 20};
    struct load_figures figures;
    ASSERT_EQ(load_figures(&report, &promise, &figures).code, STATUS_OK);
    EXPECT_EQ(figures.sent, 5u);
    EXPECT_EQ(figures.whole, 4u);
    EXPECT_EQ(figures.without_usage, 1u);
    EXPECT_EQ(figures.output_tokens, 34u);
    EXPECT_EQ(figures.prompt_tokens, 40u);
    EXPECT_DOUBLE_EQ(figures.requests_s, 2);
    EXPECT_DOUBLE_EQ(figures.output_tokens_s, 17);
    EXPECT_EQ(figures.kept_ttft, 3u);
    EXPECT_EQ(figures.kept_tpot, 3u);
    EXPECT_EQ(figures.kept, 2u);
    EXPECT_DOUBLE_EQ(figures.goodput, 1);
    EXPECT_EQ(figures.ttft_ms.count, 4u);
    EXPECT_DOUBLE_EQ(figures.ttft_ms.mean, 150);
    EXPECT_EQ(figures.tpot_ms.count, 3u) << "one token has no time between tokens";
    EXPECT_NEAR(figures.tpot_ms.max, 50, 1e-3);
    EXPECT_NEAR(figures.e2e_ms.max, 601, 1e-3);
    EXPECT_NEAR(figures.late_ms.max, 1, 1e-3);
    EXPECT_DOUBLE_EQ(figures.cpu_us_per_event, 10);
    promise = {0, 0};
    ASSERT_EQ(load_figures(&report, &promise, &figures).code, STATUS_OK);
    EXPECT_EQ(figures.kept, 4u) << "nothing is promised, and what is not whole keeps nothing";
}

TEST(Figures, OfNothing) {
    struct load_report report = {};
    struct load_promise promise = {1, 1};
    struct load_figures figures;
    ASSERT_EQ(load_figures(&report, &promise, &figures).code, STATUS_OK);
    EXPECT_EQ(figures.whole, 0u);
    EXPECT_TRUE(std::isfinite(figures.requests_s) && std::isfinite(figures.cpu_us_per_event));
}

} // namespace
