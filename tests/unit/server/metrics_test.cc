// server/metrics.c: the text that Prometheus reads.
extern "C" {
#include "server/metrics.h"
#include "server/offload_header.h"
}
#include <cstdlib>
#include <cstring>
#include <gtest/gtest.h>
#include <map>
#include <memory>
#include <set>
#include <sstream>
#include <string>

namespace {

class Metrics : public testing::Test {
  protected:
    void SetUp() override {
        numbers_ = std::make_unique<metrics>();
        numbers_->model_name = "a \"model\"";
        numbers_->version = "1.2.3";
        numbers_->ready = true;
        const double bounds[] = {0.1, 1};
        for (histogram *each : {&numbers_->engine.ttft_s, &numbers_->engine.tpot_s, &numbers_->engine.e2e_s,
                                &numbers_->engine.queue_s, &numbers_->engine.iteration_tokens}) {
            histogram_init(each, bounds, 2);
        }
    }
    std::string write() {
        text out = {};
        metrics_derive(numbers_.get());
        metrics_write(numbers_.get(), &out);
        std::string result(out.data, out.bytes);
        text_free(&out);
        return result;
    }
    std::unique_ptr<metrics> numbers_;
};

// Takes "name{label="value",...} number" apart; false if it is not that.
bool take_apart(const std::string &line, std::string *name, std::string *labels) {
    size_t at = line.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_:");
    if (at == std::string::npos || line.rfind("metronome:", 0) != 0) {
        return false;
    }
    *name = line.substr(0, at);
    size_t begin = at;
    while (line[at] == '{' || line[at] == ',') {
        size_t equals = line.find_first_not_of("abcdefghijklmnopqrstuvwxyz_", at + 1);
        if (equals == std::string::npos || equals == at + 1 || line.compare(equals, 2, "=\"") != 0) {
            return false;
        }
        for (at = equals + 2; at < line.size() && line[at] != '"'; at++) {
            at += line[at] == '\\';
        }
        at++;
    }
    at += begin != at; // the closing brace
    *labels = line.substr(begin, at - begin);
    char *end;
    std::string number = line.substr(std::min(at + 1, line.size()));
    strtod(number.c_str(), &end);
    bool closed = begin == at || labels->back() == '}';
    return closed && line[at] == ' ' && !number.empty() && *end == 0;
}

// The format: every sample has one HELP and one TYPE before it, names and labels are well formed, no sample twice.
TEST_F(Metrics, IsWellFormed) {
    std::istringstream lines(write());
    std::map<std::string, std::string> types;
    std::set<std::string> helped, samples;
    std::string line;
    while (std::getline(lines, line)) {
        if (line.rfind("# HELP ", 0) == 0) {
            std::string name = line.substr(7, line.find(' ', 7) - 7);
            EXPECT_TRUE(helped.insert(name).second) << line;
        } else if (line.rfind("# TYPE ", 0) == 0) {
            std::string name = line.substr(7, line.find(' ', 7) - 7);
            EXPECT_TRUE(types.emplace(name, line.substr(line.rfind(' ') + 1)).second) << line;
        } else {
            std::string name, labels;
            ASSERT_TRUE(take_apart(line, &name, &labels)) << line;
            EXPECT_TRUE(samples.insert(name + labels).second) << line;
            for (const char *suffix : {"_bucket", "_sum", "_count"}) {
                std::string base = name.substr(0, name.size() - std::min(name.size(), strlen(suffix)));
                if (types.count(base) && types[base] == "histogram" && name == base + suffix) {
                    name = base;
                }
            }
            ASSERT_TRUE(types.count(name)) << line;
            EXPECT_TRUE(helped.count(name)) << line;
            if (types[name] == "counter") {
                EXPECT_EQ(name.substr(name.size() - 6), "_total") << line;
            }
        }
    }
    EXPECT_GT(samples.size(), 40u);
}

TEST_F(Metrics, ShowsTheNumbersUnderVllmsNames) {
    numbers_->engine.running = 3;
    numbers_->engine.waiting = 4;
    numbers_->engine.kv_blocks = 10;
    numbers_->engine.kv_blocks_free = 4;
    numbers_->engine.prompt_tokens = 1ull << 40;
    numbers_->engine.generation_tokens = 7;
    numbers_->engine.preemptions = 2;
    numbers_->engine.finished[FINISH_STOP] = 5;
    numbers_->engine.finished[FINISH_CANCELLED] = 6;
    numbers_->http.responses[4] = 9;
    numbers_->invariant = 1;
    std::string text = write();
    std::string model = "{model_name=\"a \\\"model\\\"\"";
    for (const std::string &line : {
             "metronome:num_requests_running" + model + "} 3\n",
             "metronome:num_requests_waiting" + model + "} 4\n",
             "metronome:kv_cache_usage_perc" + model + "} 0.6",
             "metronome:prompt_tokens_total" + model + "} 1099511627776\n",
             "metronome:generation_tokens_total" + model + "} 7\n",
             "metronome:num_preemptions_total" + model + "} 2\n",
             "metronome:request_success_total" + model + ",finished_reason=\"stop\"} 5\n",
             "metronome:request_success_total" + model + ",finished_reason=\"abort\"} 6\n",
             "metronome:kv_blocks_free" + model + "} 4\n",
             "metronome:invariant" + model + "} 1\n",
             "metronome:http_responses_total" + model + ",status=\"4xx\"} 9\n",
             std::string("metronome:build_info{version=\"1.2.3\"} 1\n"),
         }) {
        EXPECT_NE(text.find(line), std::string::npos) << line;
    }
}

TEST_F(Metrics, HistogramsAreCumulative) {
    for (double seconds : {0.05, 0.5, 0.6, 7.0}) {
        histogram_observe(&numbers_->engine.ttft_s, seconds);
    }
    std::string text = write(), name = "metronome:time_to_first_token_seconds";
    std::string model = "{model_name=\"a \\\"model\\\"\"";
    for (const std::string &line : {
             name + "_bucket" + model + ",le=\"0.1\"} 1\n",
             name + "_bucket" + model + ",le=\"1\"} 3\n",
             name + "_bucket" + model + ",le=\"+Inf\"} 4\n",
             name + "_sum" + model + "} 8.15",
             name + "_count" + model + "} 4\n",
         }) {
        EXPECT_NE(text.find(line), std::string::npos) << line;
    }
}

TEST_F(Metrics, BeforeTheModelIsLoadedOnlyTheServersNumbersShow) {
    numbers_->ready = false;
    std::string text = write();
    EXPECT_EQ(text.find("num_requests_running"), std::string::npos);
    EXPECT_NE(text.find("metronome:http_connections{"), std::string::npos);
}

// ---- the same in a response's header ----

bool asked(const std::string &header) {
    std::string request = "GET / HTTP/1.1\r\nHost: x\r\n" + header + "\r\n\r\n";
    http_head head;
    EXPECT_EQ(http_parse_head(request.data(), request.size(), &head).code, 0) << request;
    return offload_header_asked(&head);
}

TEST(OffloadHeader, IsAskedForByName) {
    EXPECT_TRUE(asked("x-metronome-OFFLOAD: 1"));
    EXPECT_FALSE(asked("X-Metronome-Offload: 0"));
    EXPECT_FALSE(asked("X-Metronome-Offload: 11"));
    EXPECT_FALSE(asked("X-Metronome: 1"));
}

TEST(OffloadHeader, TellsWhatIsInForce) {
    struct offload_report report = {};
    report.policy = "metronome";
    report.why = "slo";
    report.layers = 30;
    report.slabs = 4;
    report.streamed_slabs = 62;
    report.interval = 120.0 / 62;
    report.weight_bytes_host = 12345678;
    report.bytes_streamed = 2345678;
    report.predicted_ns = 12345678;
    report.measured_ns = 12000000;
    report.stall_ns = 400;
    report.deadline_ns = UINT64_MAX;
    text out = {};
    offload_header_write(&report, &out);
    EXPECT_STREQ(text_string(&out), "policy=metronome, why=slo, layers=30, layers_host=15.500, interval=1.935, "
                                    "bytes_host=12345678, bytes_streamed=2345678, predicted_ms=12.346, "
                                    "measured_ms=12.000, stall_ms=0.000");
    text_clear(&out);
    report.deadline_ns = 25000000;
    offload_header_write(&report, &out);
    EXPECT_NE(std::string(text_string(&out)).find(", deadline_ms=25.000, predicted_ms"), std::string::npos);
    text_free(&out);
}

} // namespace
