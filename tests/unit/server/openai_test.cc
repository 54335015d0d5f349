// server/openai.c: what each field of a request becomes, and how each wrong one is refused.
extern "C" {
#include "server/openai.h"
}
#include <gtest/gtest.h>
#include <string>
#include <vector>

namespace {

class Parsed {
  public:
    Parsed(openai_api api, const std::string &body) {
        error = completion_request_parse(api, body.data(), body.size(), &request);
    }
    ~Parsed() {
        completion_request_free(&request);
    }
    api_error error;
    completion_request request;
};

TEST(OpenAi, CompletionDefaults) {
    Parsed parsed(API_COMPLETIONS, R"({"prompt": "Hi", "unknown": {"a": [1, null]}, "temperature": null})");
    ASSERT_EQ(parsed.error.code, 0) << parsed.error.message;
    const completion_request &request = parsed.request;
    EXPECT_STREQ(request.model, "");
    ASSERT_EQ(request.prompt_count, 1u);
    EXPECT_STREQ(request.prompts[0].text, "Hi");
    EXPECT_EQ(request.prompts[0].bytes, 2u);
    EXPECT_EQ(request.n, 1u);
    EXPECT_FALSE(request.stream || request.include_usage || request.has_max_tokens);
    const sampling &sampling = request.sampling;
    EXPECT_EQ(sampling.temperature, 1);
    EXPECT_EQ(sampling.top_p, 1);
    EXPECT_EQ(sampling.repetition_penalty, 1);
    EXPECT_EQ(sampling.top_k, 0u);
    EXPECT_EQ(sampling.max_tokens, 16u);
    EXPECT_FALSE(sampling.seeded || sampling.ignore_eos || sampling.echo || sampling.logprobs);
    EXPECT_EQ(sampling.stop_count + sampling.bias_count + sampling.stop_token_count, 0u);
}

TEST(OpenAi, EveryField) {
    Parsed parsed(API_COMPLETIONS, R"({"model": "m", "prompt": ["a", "b\u00e9"], "n": 3, "stream": true,
        "stream_options": {"include_usage": true}, "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.05,
        "presence_penalty": -2, "frequency_penalty": 2, "repetition_penalty": 1.1, "min_tokens": 2, "max_tokens": 7,
        "seed": -1, "stop": ["\n", "END"], "stop_token_ids": [5, 6], "logit_bias": {"7": -100, "8": 1.5},
        "ignore_eos": true, "logprobs": 5, "echo": true, "return_token_ids": true, "best_of": 3, "suffix": "",
        "user": "u"})");
    ASSERT_EQ(parsed.error.code, 0) << parsed.error.message;
    const completion_request &request = parsed.request;
    const sampling &sampling = request.sampling;
    EXPECT_STREQ(request.model, "m");
    ASSERT_EQ(request.prompt_count, 2u);
    EXPECT_STREQ(request.prompts[1].text, "b\xc3\xa9");
    EXPECT_EQ(request.n, 3u);
    EXPECT_TRUE(request.stream && request.include_usage && request.return_token_ids && request.has_max_tokens);
    EXPECT_EQ(sampling.temperature, 0.5f);
    EXPECT_EQ(sampling.top_p, 0.9f);
    EXPECT_EQ(sampling.top_k, 40u);
    EXPECT_EQ(sampling.min_p, 0.05f);
    EXPECT_EQ(sampling.presence_penalty, -2);
    EXPECT_EQ(sampling.frequency_penalty, 2);
    EXPECT_EQ(sampling.repetition_penalty, 1.1f);
    EXPECT_EQ(sampling.min_tokens, 2u);
    EXPECT_EQ(sampling.max_tokens, 7u);
    EXPECT_TRUE(sampling.seeded);
    EXPECT_EQ(sampling.seed, UINT64_MAX);
    ASSERT_EQ(sampling.stop_count, 2u);
    EXPECT_EQ(std::string(sampling.stops[1].text, sampling.stops[1].bytes), "END");
    ASSERT_EQ(sampling.stop_token_count, 2u);
    EXPECT_EQ(sampling.stop_tokens[1], 6u);
    ASSERT_EQ(sampling.bias_count, 2u);
    EXPECT_EQ(sampling.bias[1].token, 8u);
    EXPECT_EQ(sampling.bias[1].bias, 1.5f);
    EXPECT_TRUE(sampling.ignore_eos && sampling.logprobs && sampling.echo);
    EXPECT_EQ(sampling.top_logprobs, 5u);
    completion_request_drop_input(&parsed.request);
    EXPECT_EQ(parsed.request.sampling.stop_count, 2u); // what the engine needs stays
}

TEST(OpenAi, APromiseOfItsOwn) {
    Parsed none(API_COMPLETIONS, R"({"prompt": "x"})");
    EXPECT_FALSE(none.request.has_promise);
    Parsed both(API_COMPLETIONS, R"({"prompt": "x", "slo": {"ttft_ms": 500, "tpot_ms": 12.5}})");
    ASSERT_EQ(both.error.code, 0) << both.error.message;
    EXPECT_TRUE(both.request.has_promise);
    EXPECT_EQ(both.request.promise.ttft_ns, 500000000u);
    EXPECT_EQ(both.request.promise.tpot_ns, 12500000u);
    Parsed one(API_CHAT,
               R"({"messages": [{"role": "user", "content": "x"}], "slo": {"ttft_ms": null, "tpot_ms": 50}})");
    ASSERT_EQ(one.error.code, 0) << one.error.message;
    EXPECT_EQ(one.request.promise.ttft_ns, 0u);
    EXPECT_EQ(one.request.promise.tpot_ns, 50000000u);
    Parsed salted(API_COMPLETIONS, R"({"prompt": "x", "cache_salt": "a tenant's"})");
    EXPECT_EQ(std::string(salted.request.salt.text, salted.request.salt.bytes), "a tenant's");
    Parsed empty(API_COMPLETIONS, R"({"prompt": "x", "slo": {}})"); // best effort, whatever the server promises others
    EXPECT_TRUE(empty.request.has_promise);
    EXPECT_EQ(empty.request.promise.ttft_ns + empty.request.promise.tpot_ns, 0u);
}

TEST(OpenAi, PromptsAsIds) {
    Parsed one(API_COMPLETIONS, R"({"prompt": [1, 2, 3]})");
    ASSERT_EQ(one.error.code, 0) << one.error.message;
    ASSERT_EQ(one.request.prompt_count, 1u);
    EXPECT_EQ(one.request.prompts[0].text, nullptr);
    ASSERT_EQ(one.request.prompts[0].token_count, 3u);
    EXPECT_EQ(one.request.prompts[0].tokens[2], 3u);
    Parsed many(API_COMPLETIONS, R"({"prompt": [[1], [2, 3], "x"]})");
    ASSERT_EQ(many.error.code, 0) << many.error.message;
    ASSERT_EQ(many.request.prompt_count, 3u);
    EXPECT_EQ(many.request.prompts[1].token_count, 2u);
    EXPECT_STREQ(many.request.prompts[2].text, "x");
}

TEST(OpenAi, LogprobsOfNoneStillReportTheChosenToken) {
    Parsed parsed(API_COMPLETIONS, R"({"prompt": "x", "logprobs": 0, "max_tokens": 0, "echo": true})");
    ASSERT_EQ(parsed.error.code, 0) << parsed.error.message;
    EXPECT_TRUE(parsed.request.sampling.logprobs);
    EXPECT_EQ(parsed.request.sampling.top_logprobs, 0u);
    EXPECT_EQ(parsed.request.sampling.max_tokens, 0u);
}

TEST(OpenAi, Chat) {
    Parsed parsed(API_CHAT, R"({"messages": [{"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
        "logprobs": true, "top_logprobs": 2, "max_tokens": 5, "max_completion_tokens": 9, "echo": true, "tools": [],
        "response_format": {"type": "text"}, "top_k": -1})");
    ASSERT_EQ(parsed.error.code, 0) << parsed.error.message;
    ASSERT_EQ(parsed.request.message_count, 2u);
    EXPECT_STREQ(parsed.request.messages[0].role, "system");
    EXPECT_STREQ(parsed.request.messages[0].content, "Be brief.");
    EXPECT_EQ(std::string(parsed.request.messages[1].content, parsed.request.messages[1].content_bytes), "a\nb");
    EXPECT_TRUE(parsed.request.sampling.logprobs);
    EXPECT_EQ(parsed.request.sampling.top_logprobs, 2u);
    EXPECT_EQ(parsed.request.sampling.max_tokens, 9u);
    EXPECT_FALSE(parsed.request.sampling.echo); // a field of completions
    EXPECT_EQ(parsed.request.sampling.top_k, 0u);
}

struct Refusal {
    const char *body, *param, *message;
};

void expect_refusals(openai_api api, const std::vector<Refusal> &cases) {
    for (const Refusal &item : cases) {
        Parsed parsed(api, item.body);
        EXPECT_EQ(parsed.error.code, 400) << item.body;
        EXPECT_STREQ(parsed.error.param, item.param) << item.body;
        EXPECT_NE(std::string(parsed.error.message).find(item.message), std::string::npos)
            << item.body << " gave: " << parsed.error.message;
    }
}

TEST(OpenAi, RefusesBadCompletions) {
    expect_refusals(
        API_COMPLETIONS,
        {
            {"", "", "the body: not valid JSON at line 1, column 1"},
            {"{\"prompt\": \"abc", "", "the text ends inside a string"},
            {"[]", "", "expected an object, found an array"},
            {"\"x\"", "", "expected an object, found a string"},
            {"{\"prompt\": \"\xff\"}", "", "not UTF-8"},
            {"{\"prompt\": \"\\u0000\"}", "", "\\u0000"},
            {"{}", "prompt", "needed, and missing"},
            {R"({"prompt": null})", "prompt", "found null"},
            {R"({"prompt": 5})", "prompt", "found a number"},
            {R"({"prompt": {}})", "prompt", "found an object"},
            {R"({"prompt": []})", "prompt", "empty array"},
            {R"({"prompt": ["a", 5]})", "prompt[1]", "found a number"},
            {R"({"prompt": [1, "a"]})", "prompt[1]", "expected a whole number, found a string"},
            {R"({"prompt": [[1], [2, -1]]})", "prompt[1][1]", "-1 is out of range"},
            {R"({"prompt": [1.5]})", "prompt[0]", "not a whole number"},
            {R"({"prompt": [1e300]})", "prompt[0]", "out of range"},
            {R"({"prompt": "x", "model": 5})", "model", "expected a string, found a number"},
            {R"({"prompt": "x", "n": 0})", "n", "out of range; allowed are 1 to 128"},
            {R"({"prompt": "x", "n": 129})", "n", "out of range"},
            {R"({"prompt": "x", "n": "2"})", "n", "expected a whole number, found a string"},
            {R"({"prompt": "x", "stream": 1})", "stream", "expected true or false, found a number"},
            {R"({"prompt": "x", "stream": "true"})", "stream", "found a string"},
            {R"({"prompt": "x", "stream": true, "stream_options": 1})", "stream_options", "expected an object"},
            {R"({"prompt": "x", "stream_options": {}})", "stream_options", "needs \"stream\": true"},
            {R"({"prompt": "x", "stream": true, "stream_options": {"include_usage": 1}})",
             "stream_options.include_usage", "expected true or false"},
            {R"({"prompt": "x", "temperature": -0.1})", "temperature", "-0.1 is out of range; allowed are 0 to 100"},
            {R"({"prompt": "x", "temperature": "hot"})", "temperature", "expected a number, found a string"},
            {R"({"prompt": "x", "temperature": 1e999})", "temperature", "out of range"},
            {R"({"prompt": "x", "top_p": 1.01})", "top_p", "out of range"},
            {R"({"prompt": "x", "min_p": -1})", "min_p", "out of range"},
            {R"({"prompt": "x", "top_k": -2})", "top_k", "out of range"},
            {R"({"prompt": "x", "top_k": 1.5})", "top_k", "not a whole number"},
            {R"({"prompt": "x", "presence_penalty": 2.1})", "presence_penalty", "out of range"},
            {R"({"prompt": "x", "frequency_penalty": [1]})", "frequency_penalty", "found an array"},
            {R"({"prompt": "x", "repetition_penalty": 0})", "repetition_penalty", "out of range"},
            {R"({"prompt": "x", "max_tokens": -1})", "max_tokens", "out of range"},
            {R"({"prompt": "x", "max_tokens": 1.5})", "max_tokens", "not a whole number"},
            {R"({"prompt": "x", "max_tokens": true})", "max_tokens", "found true"},
            {R"({"prompt": "x", "max_tokens": 4, "min_tokens": 5})", "min_tokens", "more than max_tokens, 4"},
            {R"({"prompt": "x", "seed": "s"})", "seed", "expected a whole number"},
            {R"({"prompt": "x", "seed": 1.5})", "seed", "not a whole number"},
            {R"({"prompt": "x", "seed": 1e30})", "seed", "out of range"},
            {R"({"prompt": "x", "stop": 5})", "stop", "expected a string or an array of strings"},
            {R"({"prompt": "x", "stop": ""})", "stop", "0 bytes long"},
            {R"({"prompt": "x", "stop": ["a", 5]})", "stop[1]", "expected a string"},
            {R"({"prompt": "x", "stop": ["1","2","3","4","5","6","7","8","9","10","11","12","13","14","15","16","17"]})",
             "stop", "17 strings; at most 16"},
            {R"({"prompt": "x", "stop_token_ids": 5})", "stop_token_ids", "expected an array"},
            {R"({"prompt": "x", "stop_token_ids": [-5]})", "stop_token_ids[0]", "out of range"},
            {R"({"prompt": "x", "logit_bias": []})", "logit_bias", "expected an object"},
            {R"({"prompt": "x", "logit_bias": {"a": 1}})", "logit_bias.a", "not a token id"},
            {R"({"prompt": "x", "logit_bias": {"5": 101}})", "logit_bias.5", "out of range"},
            {R"({"prompt": "x", "logit_bias": {"5": "1"}})", "logit_bias.5", "expected a number"},
            {R"({"prompt": "x", "logprobs": true})", "logprobs", "expected a whole number, found true"},
            {R"({"prompt": "x", "logprobs": 21})", "logprobs", "allowed are 0 to 20"},
            {R"({"prompt": "x", "echo": 1})", "echo", "expected true or false"},
            {R"({"prompt": "x", "ignore_eos": "no"})", "ignore_eos", "expected true or false"},
            {R"({"prompt": "x", "best_of": 2})", "best_of", "not built"},
            {R"({"prompt": "x", "best_of": "2"})", "best_of", "expected a whole number"},
            {R"({"prompt": "x", "suffix": "end"})", "suffix", "not built"},
            {R"({"prompt": "x", "cache_salt": 5})", "cache_salt", "expected a string"},
            {R"({"prompt": "x", "cache_salt": ""})", "cache_salt", "has 0 bytes; allowed are 1 to 128"},
            {R"({"prompt": "x", "pace": true})", "pace", "needs \"stream\": true"},
            {R"({"prompt": "x", "stream": true, "pace": 1})", "pace", "expected true or false"},
            {R"({"prompt": "x", "slo": 5})", "slo", "expected the name of a class"},
            {R"({"prompt": "x", "slo": {"class": 5}})", "slo.class", "expected a string"},
            {R"({"prompt": "x", "slo": {"ttft_ms": 0}})", "slo.ttft_ms", "out of range"},
            {R"({"prompt": "x", "slo": {"tpot_ms": 1e10}})", "slo.tpot_ms", "out of range"},
            {R"({"prompt": "x", "slo": {"tpot_ms": "50"}})", "slo.tpot_ms", "expected a number"},
            {R"({"prompt": "x", "slo": {"tpot": 50}})", "slo", "has \"tpot\"; there are class, ttft_ms and tpot_ms"},
        });
    std::string deep = "{\"prompt\":" + std::string(100, '[') + std::string(100, ']') + "}";
    std::string stop = R"({"prompt": "x", "stop": ")" + std::string(257, 's') + "\"}";
    expect_refusals(API_COMPLETIONS,
                    {{deep.c_str(), "", "nested too deeply"}, {stop.c_str(), "stop", "257 bytes long"}});
}

TEST(OpenAi, RefusesBadChats) {
    expect_refusals(
        API_CHAT,
        {
            {"{}", "messages", "needed, and missing"},
            {R"({"messages": "hi"})", "messages", "expected an array, found a string"},
            {R"({"messages": []})", "messages", "empty array"},
            {R"({"messages": ["hi"]})", "messages[0]", "expected an object, found a string"},
            {R"({"messages": [{"content": "x"}]})", "messages[0].role", "needed, and missing"},
            {R"({"messages": [{"role": 1, "content": "x"}]})", "messages[0].role", "expected a string"},
            {R"({"messages": [{"role": "user"}]})", "messages[0].content", "needed, and missing"},
            {R"({"messages": [{"role": "user", "content": null}]})", "messages[0].content", "found null"},
            {R"({"messages": [{"role": "user", "content": {}}]})", "messages[0].content", "found an object"},
            {R"({"messages": [{"role": "user", "content": ["x"]}]})", "messages[0].content[0]", "expected an object"},
            {R"({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})", "messages[0].content[0]",
             "only \"text\" is understood"},
            {R"({"messages": [{"role": "user", "content": [{"type": "text", "text": "ok"}, {"type": "text"}]}]})",
             "messages[0].content[1]", "expected a string"},
            {R"({"messages": [{"role": "user", "content": "x"}], "logprobs": 5})", "logprobs", "true or false"},
            {R"({"messages": [{"role": "user", "content": "x"}], "top_logprobs": 5})", "top_logprobs", "needs"},
            {R"({"messages": [{"role": "user", "content": "x"}], "logprobs": true, "top_logprobs": 21})",
             "top_logprobs", "out of range"},
            {R"({"messages": [{"role": "user", "content": "x"}], "max_completion_tokens": "9"})",
             "max_completion_tokens", "expected a whole number"},
            {R"({"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function"}]})", "tools",
             "not built"},
            {R"({"messages": [{"role": "user", "content": "x"}], "response_format": {"type": "json_object"}})",
             "response_format", "only"},
        });
}

TEST(OpenAi, ErrorsAreOpenAisObjects) {
    text out = {};
    api_error error = api_invalid("stop[1]", "stop[1]: \"%s\"", "bad");
    api_error_write(&error, &out);
    EXPECT_STREQ(text_string(&out), R"({"error":{"message":"stop[1]: \"bad\"","type":"invalid_request_error",)"
                                    R"("param":"stop[1]","code":400}})");
    text_clear(&out);
    error = api_refusal(404, "model_not_found", "none");
    api_error_write(&error, &out);
    EXPECT_STREQ(text_string(&out), R"({"error":{"message":"none","type":"not_found_error","param":null,)"
                                    R"("code":"model_not_found"}})");
    EXPECT_EQ(api_retry_after(&error), 0);
    text_free(&out);
    struct {
        status_code code;
        int http, retry;
    } cases[] = {{STATUS_INVALID, 400, 0}, {STATUS_BUSY, 429, 1},      {STATUS_UNAVAILABLE, 503, 1},
                 {STATUS_DEVICE, 500, 0},  {STATUS_NO_MEMORY, 503, 1}, {STATUS_NOT_FOUND, 404, 0}};
    for (const auto &item : cases) {
        status from = {};
        from.code = item.code;
        error = api_error_from(&from, "");
        EXPECT_EQ(error.code, item.http);
        EXPECT_EQ(api_retry_after(&error), item.retry);
    }
}

} // namespace
