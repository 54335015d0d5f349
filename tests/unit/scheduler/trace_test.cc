// Traces of requests: the published forms, what is refused in them, and drawn ones.
extern "C" {
#include "scheduler/trace.h"
}
#include <cmath>
#include <cstring>
#include <gtest/gtest.h>
#include <string>
#include <unistd.h>
#include <vector>

namespace {

struct Trace {
    explicit Trace(const std::string &text) {
        status = trace_read(text.data(), text.size(), &trace);
    }
    explicit Trace(const struct trace_shape &shape) {
        status = trace_draw(&shape, &trace);
    }
    ~Trace() {
        trace_free(&trace);
    }
    Trace(const Trace &) = delete;
    Trace &operator=(const Trace &) = delete;
    std::vector<uint32_t> prompt(uint32_t index, uint32_t vocabulary = 1000) const {
        std::vector<uint32_t> ids(trace.requests[index].prompt_tokens);
        trace_prompt(&trace, index, vocabulary, ids.data());
        return ids;
    }
    struct trace trace = {};
    struct status status;
};

const std::string azure = "TIMESTAMP,ContextTokens,GeneratedTokens\n";

TEST(Trace, AzuresColumns) {
    Trace read(azure + "2023-12-31 23:59:59.5000000,374,44\r\n2024-01-01 00:00:00.75,396,109\n\n"
                       "2024-02-29 00:00:00,7,1");
    ASSERT_EQ(read.status.code, STATUS_OK) << read.status.message;
    ASSERT_EQ(read.trace.count, 3u);
    EXPECT_EQ(read.trace.requests[0].arrival_ns, 0u);
    EXPECT_EQ(read.trace.requests[0].prompt_tokens, 374u);
    EXPECT_EQ(read.trace.requests[0].output_tokens, 44u);
    EXPECT_EQ(read.trace.requests[1].arrival_ns, 1250000000u);
    EXPECT_EQ(read.trace.requests[2].arrival_ns, (59u * 86400) * 1000000000ull + 500000000u); // January and February
    EXPECT_NEAR(trace_rate(&read.trace), 2 / (59 * 86400 + 0.5), 1e-12);
}

TEST(Trace, RequestsAreInOrderOfArrival) {
    Trace read(azure + "2023-11-16 18:15:47,2,2\n2023-11-16 18:15:46,1,1\n2023-11-16 18:15:46,1,3\n");
    ASSERT_EQ(read.status.code, STATUS_OK) << read.status.message;
    EXPECT_EQ(read.trace.requests[0].output_tokens, 1u);
    EXPECT_EQ(read.trace.requests[1].output_tokens, 3u);
    EXPECT_EQ(read.trace.requests[1].arrival_ns, 0u);
    EXPECT_EQ(read.trace.requests[2].arrival_ns, 1000000000u);
}

TEST(Trace, MooncakesLinesShareParts) {
    Trace read(R"({"timestamp": 0, "input_length": 1030, "output_length": 5, "hash_ids": [7, 8, 9]}
{"timestamp": 27, "input_length": 1024, "output_length": 6, "hash_ids": [7, 10]}
{"timestamp": 30, "input_length": 3, "output_length": 1}
)");
    ASSERT_EQ(read.status.code, STATUS_OK) << read.status.message;
    ASSERT_EQ(read.trace.count, 3u);
    EXPECT_EQ(read.trace.requests[1].arrival_ns, 27000000u);
    std::vector<uint32_t> one = read.prompt(0), two = read.prompt(1), three = read.prompt(2);
    EXPECT_TRUE(std::equal(one.begin(), one.begin() + 512, two.begin()));
    EXPECT_FALSE(std::equal(one.begin() + 512, one.begin() + 1024, two.begin() + 512));
    EXPECT_FALSE(std::equal(three.begin(), three.end(), one.begin()));
    for (uint32_t id : one) {
        EXPECT_LT(id, 1000u);
    }
    read.trace.seed = 1;
    EXPECT_NE(read.prompt(0), one);
}

TEST(Trace, RefusalsNameTheLineAndTheField) {
    const std::pair<std::string, const char *> cases[] = {
        {"", "has no request"},
        {azure, "has no request"},
        {"time,tokens\n1,2\n", "line 1: is neither"},
        {azure + "2023-11-16 18:15:46,374\n", "line 2: GeneratedTokens"},
        {azure + "2023-11-16 18:15:46,0,1\n", "line 2: ContextTokens"},
        {azure + "2023-11-16 18:15:46,16777217,1\n", "line 2: ContextTokens"},
        {azure + "2023-11-16 18:15:46,99999999999999999999999,1\n", "line 2: ContextTokens"},
        {azure + "2023-11-16 18:15:46,1,1,1\n", "line 2: \",1\""},
        {azure + "2023-13-16 18:15:46,1,1\n", "line 2: TIMESTAMP"},
        {azure + "16.11.2023,1,1\n", "line 2: TIMESTAMP"},
        {azure + "2023-11-16 18:15", "line 2: TIMESTAMP"},
        {"{\"timestamp\": 0}\n", "line 1: input_length"},
        {"{\"timestamp\": -1, \"input_length\": 1, \"output_length\": 1}\n", "line 1: timestamp"},
        {"{\"timestamp\": 0, \"input_length\": 1.5, \"output_length\": 1}\n", "line 1: input_length"},
        {"{\"timestamp\": 0, \"input_length\": 1, \"output_length\": \"1\"}\n", "line 1: output_length"},
        {"{\"timestamp\": 0, \"input_length\": 513, \"output_length\": 1, \"hash_ids\": [1]}", "line 1: hash_ids"},
        {"{\"timestamp\": 0, \"input_length\": 1, \"output_length\": 1, \"hash_ids\": [-1]}", "line 1: hash_ids"},
        {"{\"timestamp\": 0, \"input_length\": 1, \"output_length\": 1, \"hash_ids\": 1}", "line 1: hash_ids"},
        {"{\"timestamp\": 0, ", "line 1: "},
        {azure + std::string("2023-11-16 18:15:46,1,1\0\n", 25), "line 2: is longer"},
        {azure + std::string(1 << 21, '1'), "line 2: is longer"},
    };
    for (const auto &[text, words] : cases) {
        Trace read(text);
        EXPECT_EQ(read.status.code, STATUS_INVALID) << text.substr(0, 80);
        EXPECT_NE(strstr(read.status.message, words), nullptr) << read.status.message << " has no " << words;
        EXPECT_EQ(read.trace.requests, nullptr);
    }
    struct trace trace;
    struct status status = trace_read_file("/nonexistent/trace.csv", &trace);
    EXPECT_EQ(status.code, STATUS_IO);
    EXPECT_NE(strstr(status.message, "/nonexistent/trace.csv"), nullptr);
}

// Mean and spread of the gaps are those of the distribution; a seed makes a trace.
TEST(Trace, DrawnRequests) {
    for (double burstiness : {0.25, 1.0, 4.0}) {
        struct trace_shape shape = {};
        shape.count = 50000;
        shape.rate = 4;
        shape.burstiness = burstiness;
        shape.prompt_tokens = 100;
        shape.output_tokens = 1;
        shape.seed = 3;
        Trace drawn(shape), again(shape);
        ASSERT_EQ(drawn.status.code, STATUS_OK);
        EXPECT_EQ(memcmp(drawn.trace.requests, again.trace.requests, shape.count * sizeof(struct trace_request)), 0);
        EXPECT_NEAR(trace_rate(&drawn.trace), 4, 0.15);
        double square = 0, length = 0;
        for (uint32_t i = 1; i < shape.count; i++) {
            const struct trace_request &request = drawn.trace.requests[i];
            ASSERT_GE(request.arrival_ns, drawn.trace.requests[i - 1].arrival_ns);
            double gap = (double)(request.arrival_ns - drawn.trace.requests[i - 1].arrival_ns) / 1e9 * 4;
            square += (gap - 1) * (gap - 1) / shape.count;
            length += request.prompt_tokens / (double)shape.count;
            ASSERT_GE(request.prompt_tokens, 50u);
            ASSERT_LE(request.prompt_tokens, 150u);
            ASSERT_EQ(request.output_tokens, 1u);
        }
        EXPECT_NEAR(square * burstiness, 1, 0.08); // the variance of a gamma distribution of mean 1
        EXPECT_NEAR(length, 100, 1);
        trace_keep(&drawn.trace, 10);
        EXPECT_EQ(drawn.trace.count, 10u);
    }
}

// Lengths whose logarithms are normal: the mean is what was asked for, and half of them are below the median.
TEST(Trace, DrawnLengthsOfManySizes) {
    struct trace_shape shape = {};
    shape.count = 50000;
    shape.rate = 4;
    shape.burstiness = 1;
    shape.prompt_tokens = 1000;
    shape.output_tokens = 2;
    shape.prompt_deviation = 0.99;
    shape.output_deviation = 2;
    shape.seed = 3;
    Trace drawn(shape);
    ASSERT_EQ(drawn.status.code, STATUS_OK);
    double mean = 0, square = 0;
    uint32_t below = 0;
    for (uint32_t i = 0; i < shape.count; i++) {
        const struct trace_request &request = drawn.trace.requests[i];
        ASSERT_GE(request.prompt_tokens, 1u);
        ASSERT_GE(request.output_tokens, 1u);
        mean += request.prompt_tokens / (double)shape.count;
        const double from_median = std::log(request.prompt_tokens / 1000.0) + 0.99 * 0.99 / 2;
        square += from_median * from_median / shape.count;
        below += from_median < 0;
    }
    EXPECT_NEAR(mean, 1000, 20);
    EXPECT_NEAR(std::sqrt(square), 0.99, 0.01);
    EXPECT_NEAR(below / (double)shape.count, 0.5, 0.01);
}

// The published traces, where they are.
TEST(Trace, PublishedTraces) {
    const char *azure_file = "../shared/data/traces/AzureLLMInferenceTrace_conv.csv";
    const char *mooncake_file = "../shared/data/traces/mooncake_conversation_trace.jsonl";
    if (access(azure_file, R_OK) != 0 || access(mooncake_file, R_OK) != 0) {
        GTEST_SKIP() << "the published traces are not here";
    }
    struct trace trace;
    struct status status = trace_read_file(azure_file, &trace);
    ASSERT_EQ(status.code, STATUS_OK) << status.message;
    EXPECT_EQ(trace.count, 19366u);
    double prompts = 0, outputs = 0;
    for (uint32_t i = 0; i < trace.count; i++) {
        prompts += trace.requests[i].prompt_tokens;
        outputs += trace.requests[i].output_tokens;
    }
    EXPECT_NEAR(prompts / trace.count, 1154, 1);
    EXPECT_NEAR(outputs / trace.count, 211, 1);
    EXPECT_NEAR((double)trace.requests[trace.count - 1].arrival_ns / 60e9, 58, 1);
    trace_free(&trace);
    status = trace_read_file(mooncake_file, &trace);
    ASSERT_EQ(status.code, STATUS_OK) << status.message;
    EXPECT_EQ(trace.count, 12031u);
    trace_free(&trace);
}

} // namespace
