// bench/load: events out of bytes, and what they say, whatever a server sends.
extern "C" {
#include "bench/load/sse.h"
#include "bench/load/stream_event.h"
}
#include <gtest/gtest.h>
#include <string>
#include <vector>

namespace {

struct Stream {
    struct sse_parser parser = {};
    std::vector<std::string> events;
    uint32_t errors = 0;
    ~Stream() {
        sse_free(&parser);
    }
    bool feed(const std::string &bytes) {
        return sse_feed(
            &parser, bytes.data(), bytes.size(),
            [](void *context, const char *data, size_t length, bool named_error) {
                auto *stream = static_cast<Stream *>(context);
                stream->events.emplace_back(data, length);
                stream->errors += named_error;
            },
            this);
    }
};

using Events = std::vector<std::string>;

TEST(Sse, EveryWayToEndALine) {
    for (const char *end : {"\n", "\r\n", "\r"}) {
        std::string text = std::string("data: one") + end + end + "data:two" + end + "data: 2" + end + end;
        for (size_t step = 1; step <= text.size(); step++) {
            Stream stream;
            for (size_t at = 0; at < text.size(); at += step) {
                ASSERT_TRUE(stream.feed(text.substr(at, step)));
            }
            EXPECT_EQ(stream.events, (Events{"one", "two\n2"})) << "in pieces of " << step;
            EXPECT_EQ(stream.parser.strays, 0u);
            EXPECT_TRUE(sse_at_rest(&stream.parser));
        }
    }
}

TEST(Sse, CommentsFieldsAndEmptyEventsAreNoEvents) {
    Stream stream;
    ASSERT_TRUE(stream.feed("\xEF\xBB\xBF: keep-alive\n\nid: 7\nretry: 10\nevent: message\n\ndata\n\ndata: x\n\n"));
    EXPECT_EQ(stream.events, Events{"x"});
    EXPECT_EQ(stream.parser.strays, 0u);
    EXPECT_EQ(stream.errors, 0u);
}

TEST(Sse, AnEventMayBeCalledError) {
    Stream stream;
    ASSERT_TRUE(stream.feed("event: error\ndata: {}\n\ndata: {}\n\n"));
    EXPECT_EQ(stream.events.size(), 2u);
    EXPECT_EQ(stream.errors, 1u) << "the next event has a name of its own";
}

TEST(Sse, LinesThatAreNoneAreCounted) {
    Stream stream;
    ASSERT_TRUE(stream.feed("{\"choices\": []}\n\nDATA: x\n\n<html>\n\n"));
    EXPECT_TRUE(stream.events.empty());
    EXPECT_EQ(stream.parser.strays, 3u);
}

TEST(Sse, AnUnfinishedEventIsNone) {
    for (const char *text : {"data: x", "data: x\n", "dat"}) {
        Stream stream;
        ASSERT_TRUE(stream.feed(text));
        EXPECT_TRUE(stream.events.empty());
        EXPECT_FALSE(sse_at_rest(&stream.parser));
        sse_reset(&stream.parser);
        EXPECT_TRUE(sse_at_rest(&stream.parser));
        ASSERT_TRUE(stream.feed("data: y\n\n"));
        EXPECT_EQ(stream.events, Events{"y"}) << "nothing of the last stream is left";
    }
}

TEST(Sse, IsBounded) {
    const std::string piece(1 << 16, 'x');
    Stream line, data;
    bool taken = true;
    size_t fed = 0;
    for (; taken && fed <= 2 * SSE_MOST_BYTES; fed += piece.size()) {
        taken = line.feed(piece);
    }
    EXPECT_FALSE(taken);
    EXPECT_LE(fed, SSE_MOST_BYTES + 2 * piece.size());
    taken = true;
    for (fed = 0; taken && fed <= 2 * SSE_MOST_BYTES; fed += piece.size()) {
        taken = data.feed("data: " + piece + "\n");
    }
    EXPECT_FALSE(taken) << "an event of many lines, too";
}

struct stream_event read(const std::string &text) {
    return stream_event_read(text.data(), text.size());
}

TEST(StreamEvent, TextIsAToken) {
    for (const char *text :
         {R"({"choices":[{"index":0,"delta":{"content":" a"},"finish_reason":null}]})",
          R"({"choices":[{"delta":{"content":null,"reasoning_content":"a"}}]})",
          R"({"choices":[{"delta":{"reasoning":"a"}}]})", R"({"choices":[{"delta":{"refusal":"a"}}]})",
          R"({"choices":[{"delta":{"tool_calls":[{"index":0}]}}]})",
          R"({"choices":[{"text":"a","logprobs":null}],"usage":null,"error":null})"}) {
        EXPECT_EQ(read(text).kind, EVENT_TOKEN) << text;
        EXPECT_FALSE(read(text).finished) << text;
    }
}

TEST(StreamEvent, WhatShowsNothingIsNoToken) {
    for (const char *text :
         {R"({"choices":[{"delta":{"role":"assistant"}}]})",
          R"({"choices":[{"delta":{"role":"assistant","content":""}}]})", R"({"choices":[{"delta":{}}]})",
          R"({"choices":[{"delta":{"content":null,"tool_calls":[]}}]})", R"({"choices":[{"text":""}]})",
          R"({"choices":[{}]})", R"({"choices":[]})"}) {
        EXPECT_EQ(read(text).kind, EVENT_EMPTY) << text;
    }
}

TEST(StreamEvent, TheEnd) {
    EXPECT_EQ(read("[DONE]").kind, EVENT_DONE);
    EXPECT_EQ(read("[DONE] ").kind, EVENT_BROKEN);
    struct stream_event last = read(R"({"choices":[{"delta":{"content":"a"},"finish_reason":"length"}]})");
    EXPECT_EQ(last.kind, EVENT_TOKEN);
    EXPECT_TRUE(last.finished);
}

TEST(StreamEvent, Usage) {
    struct stream_event event = read(R"({"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}})");
    EXPECT_EQ(event.kind, EVENT_EMPTY);
    EXPECT_TRUE(event.has_usage);
    EXPECT_EQ(event.prompt_tokens, 7u);
    EXPECT_EQ(event.completion_tokens, 3u);
    event = read(R"({"usage":{"prompt_tokens":-7,"completion_tokens":1e300}})");
    EXPECT_EQ(event.kind, EVENT_EMPTY);
    EXPECT_EQ(event.prompt_tokens + event.completion_tokens, 0u);
}

TEST(StreamEvent, ErrorsAndBrokenOnes) {
    EXPECT_EQ(read(R"({"error":{"message":"out of memory"}})").kind, EVENT_ERROR);
    EXPECT_EQ(read(R"({"error":"no","choices":[{"text":"a"}]})").kind, EVENT_ERROR);
    for (const char *text : {"", "{", "[]", "7", "null", R"({"choices":[{"text":"a"}]} x)", R"({"choices":7})",
                             R"({"choices":["a"]})", R"({"object":"chunk"})", "{\"choices\":[{\"text\":\"\xff\"}]}"}) {
        EXPECT_EQ(read(text).kind, EVENT_BROKEN) << text;
    }
    EXPECT_EQ(read(std::string(100000, '[')).kind, EVENT_BROKEN);
}

} // namespace
