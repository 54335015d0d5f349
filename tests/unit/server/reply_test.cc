// server/reply.c: the JSON of whole responses and of streams, from made-up events.
extern "C" {
#include "base/json.h"
#include "server/reply.h"
}
#include <cmath>
#include <cstring>
#include <gtest/gtest.h>
#include <string>
#include <vector>

namespace {

// The character that spells a byte in a byte-level vocabulary.
std::string spelling_of(int byte) {
    auto visible = [](int b) { return (b > 0x20 && b < 0x7f) || (b > 0xa0 && b != 0xad); };
    int character = byte;
    if (!visible(byte)) {
        character = 0x100;
        for (int lower = 0; lower < byte; lower++) {
            character += !visible(lower);
        }
    }
    return character < 0x80 ? std::string(1, (char)character)
                            : std::string{(char)(0xc0 | character >> 6), (char)(0x80 | (character & 0x3f))};
}

enum : uint32_t { A = 'a', QUOTE = '"', ACUTE_FIRST = 0xc3, ACUTE_SECOND = 0xa9, SPACE_B = 256, END = 257 };

// A vocabulary of every byte, " b" and a control token.
class Reply : public testing::Test {
  protected:
    void SetUp() override {
        std::vector<std::string> spelled;
        for (int byte = 0; byte < 256; byte++) {
            spelled.push_back(spelling_of(byte));
        }
        spelled.push_back(spelling_of(' ') + "b");
        spelled.push_back("<|end|>");
        std::vector<gguf_string> tokens;
        for (const std::string &token : spelled) {
            tokens.push_back({token.data(), token.size()});
        }
        std::vector<int32_t> types(tokens.size(), 1);
        types[END] = 3;
        tokenizer_parts parts = {};
        parts.tokens = tokens.data();
        parts.types = types.data();
        parts.token_count = tokens.size();
        parts.pre = "gpt-2";
        parts.bos = TOKEN_NONE;
        parts.eos = END;
        status made = tokenizer_from_parts(&parts, &tokenizer_);
        ASSERT_EQ(made.code, STATUS_OK) << made.message;
        reply_.model = "m\"x";
        reply_.created = 1700000000;
        reply_.tokenizer = tokenizer_;
        strcpy(reply_.id, "cmpl-1");
    }
    void TearDown() override {
        reply_choice_free(&choice_);
        text_free(&out_);
        tokenizer_destroy(tokenizer_);
    }
    void token(uint32_t id, const char *text, float logprob = NAN, std::vector<token_logprob> top = {}) {
        engine_event event = {};
        event.has_token = true;
        event.token = id;
        event.text_bytes = (uint32_t)strlen(text);
        memcpy(event.text, text, event.text_bytes);
        event.has_logprob = !std::isnan(logprob);
        event.logprob = logprob;
        event.top_count = (uint32_t)top.size();
        std::copy(top.begin(), top.end(), event.top);
        reply_take(&reply_, &choice_, &event);
    }
    void finish(finish_reason reason, uint32_t tokens = 2) {
        engine_event event = {};
        event.finish = reason;
        event.completion_tokens = tokens;
        reply_take(&reply_, &choice_, &event);
    }
    std::string take_out() {
        std::string result(out_.data, out_.bytes);
        text_clear(&out_);
        return result;
    }
    // Strips "data: " and checks that the rest is JSON.
    std::string chunk() {
        reply_write_chunk(&reply_, &choice_, &out_);
        return take_out();
    }
    std::string whole(std::vector<reply_choice> choices) {
        reply_usage usage = {3, 2, 1};
        reply_write(&reply_, choices.data(), choices.size(), &usage, &out_);
        std::string result = take_out();
        json_rules rules = {64, 10000, false, true};
        cJSON *tree = nullptr;
        status parsed = json_parse(result.data(), result.size(), &rules, &tree);
        EXPECT_EQ(parsed.code, STATUS_OK) << parsed.message << result;
        cJSON_Delete(tree);
        return result;
    }

    tokenizer *tokenizer_ = nullptr;
    reply reply_ = {};
    reply_choice choice_ = {};
    text out_ = {};
};

const char *const kEnvelope = R"({"id":"cmpl-1","object":"text_completion","created":1700000000,"model":"m\"x")";
const char *const kUsage = R"("usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5,)"
                           R"("prompt_tokens_details":{"cached_tokens":1}})";

TEST_F(Reply, WholeCompletion) {
    token(A, "a");
    token(SPACE_B, " b");
    finish(FINISH_LENGTH);
    EXPECT_EQ(choice_.completion_tokens, 2u);
    EXPECT_EQ(whole({choice_}),
              std::string(kEnvelope) +
                  R"(,"choices":[{"index":0,"text":"a b","logprobs":null,"finish_reason":"length"}],)" + kUsage + "}");
}

TEST_F(Reply, WholeChatWithTwoChoices) {
    reply_.api = API_CHAT;
    token(A, "a");
    finish(FINISH_STOP);
    reply_choice second = {};
    second.index = 1;
    second.finish = FINISH_LENGTH;
    std::string text = whole({choice_, second});
    EXPECT_NE(text.find(R"("object":"chat.completion",)"), std::string::npos);
    EXPECT_NE(text.find(R"("choices":[{"index":0,"message":{"role":"assistant","content":"a"},"logprobs":null,)"
                        R"("finish_reason":"stop"},{"index":1,"message":{"role":"assistant","content":""},)"
                        R"("logprobs":null,"finish_reason":"length"}])"),
              std::string::npos)
        << text;
}

TEST_F(Reply, CompletionLogprobsWithEcho) {
    reply_.logprobs = true;
    token(A, "a"); // a prompt's first token has no logprob
    token(ACUTE_FIRST, "", -0.5f, {{ACUTE_FIRST, -0.5f}, {SPACE_B, -1.25f}});
    token(ACUTE_SECOND, "\xc3\xa9", -INFINITY, {{A, -0.1f}});
    token(QUOTE, "\"", -2.0f);
    finish(FINISH_STOP);
    std::string text = whole({choice_});
    EXPECT_NE(text.find("\"tokens\":[\"a\",\"\xef\xbf\xbd\",\"\xef\xbf\xbd\",\"\\\"\"],"
                        "\"token_logprobs\":[null,-0.5,-9999,-2],"
                        "\"top_logprobs\":[null,{\"\xef\xbf\xbd\":-0.5,\" b\":-1.25},"
                        "{\"a\":-0.100000001,\"\xef\xbf\xbd\":-9999},{\"\\\"\":-2}],\"text_offset\":[0,1,2,3]"),
              std::string::npos)
        << text;
}

TEST_F(Reply, ChatLogprobs) {
    reply_.api = API_CHAT;
    reply_.logprobs = true;
    token(ACUTE_FIRST, "", -0.5f, {{ACUTE_FIRST, -0.5f}, {END, -1.0f}});
    std::string text = whole({choice_});
    EXPECT_NE(text.find("\"logprobs\":{\"content\":[{\"token\":\"\xef\xbf\xbd\",\"logprob\":-0.5,\"bytes\":[195],"
                        "\"top_logprobs\":[{\"token\":\"\xef\xbf\xbd\",\"logprob\":-0.5,\"bytes\":[195]},"
                        "{\"token\":\"<|end|>\",\"logprob\":-1,\"bytes\":[60,124,101,110,100,124,62]}]}]}"),
              std::string::npos)
        << text;
}

TEST_F(Reply, TokenIds) {
    uint32_t prompt[] = {9, 8};
    reply_.token_ids = true;
    choice_.prompt = prompt;
    choice_.prompt_count = 2;
    token(A, "a");
    token(ACUTE_FIRST, "");
    EXPECT_NE(whole({choice_}).find("\"token_ids\":[97,195],\"prompt_token_ids\":[9,8]}"), std::string::npos);
}

TEST_F(Reply, StreamsACompletion) {
    EXPECT_FALSE(reply_has_news(&reply_, &choice_));
    token(A, "a");
    EXPECT_TRUE(reply_has_news(&reply_, &choice_));
    EXPECT_EQ(chunk(), std::string("data: ") + kEnvelope +
                           R"(,"choices":[{"index":0,"text":"a","logprobs":null,"finish_reason":null}]})" + "\n\n");
    EXPECT_FALSE(reply_has_news(&reply_, &choice_));
    token(ACUTE_FIRST, ""); // half a character: nothing to show
    EXPECT_FALSE(reply_has_news(&reply_, &choice_));
    finish(FINISH_STOP);
    EXPECT_TRUE(reply_has_news(&reply_, &choice_));
    EXPECT_NE(chunk().find(R"("text":"","logprobs":null,"finish_reason":"stop"}]})"), std::string::npos);
}

TEST_F(Reply, StreamsAChatThatBeginsWithItsRole) {
    reply_.api = API_CHAT;
    reply_.include_usage = true;
    token(A, "a");
    std::string first = chunk();
    size_t role =
        first.find(R"("delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"usage":null})");
    size_t text = first.find(R"("delta":{"content":"a"},"logprobs":null,"finish_reason":null}],"usage":null})");
    EXPECT_NE(role, std::string::npos) << first;
    EXPECT_NE(text, std::string::npos) << first;
    EXPECT_LT(role, text);
    token(SPACE_B, " b");
    EXPECT_EQ(chunk().find("role"), std::string::npos);
    finish(FINISH_STOP);
    EXPECT_NE(chunk().find(R"("delta":{},"logprobs":null,"finish_reason":"stop"})"), std::string::npos);
    reply_usage usage = {3, 2, 1};
    reply_write_usage_chunk(&reply_, &usage, &out_);
    EXPECT_NE(take_out().find(std::string(R"("choices":[],)") + kUsage + "}\n\n"), std::string::npos);
    reply_write_done(&out_);
    EXPECT_EQ(take_out(), "data: [DONE]\n\n");
}

TEST_F(Reply, AStreamedTokenWithoutTextStillHasItsLogprob) {
    reply_.logprobs = true;
    token(ACUTE_FIRST, "", -0.5f);
    EXPECT_TRUE(reply_has_news(&reply_, &choice_));
    EXPECT_NE(chunk().find("\"text_offset\":[0]"), std::string::npos);
    token(A, "a", -1.0f);
    EXPECT_NE(chunk().find("\"text_offset\":[1]"), std::string::npos); // offsets go on from chunk to chunk
    finish(FINISH_LENGTH);
    EXPECT_NE(chunk().find("\"logprobs\":null"), std::string::npos);
}

TEST_F(Reply, AnErrorInAStreamIsAnEvent) {
    api_error error = api_refusal(500, nullptr, "the device failed");
    reply_write_error_chunk(&error, &out_);
    EXPECT_EQ(take_out(), "data: {\"error\":{\"message\":\"the device failed\",\"type\":\"server_error\","
                          "\"param\":null,\"code\":500}}\n\n");
}

} // namespace
