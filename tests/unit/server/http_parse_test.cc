// server/http_parse.c: heads and the chunked coding, whole, cut anywhere, and malformed.
extern "C" {
#include "server/http_parse.h"
}
#include <cstring>
#include <gtest/gtest.h>
#include <string>

namespace {

std::string str(http_slice slice) {
    return std::string(slice.data, slice.bytes);
}

int code_of(const std::string &text) {
    static http_head head;
    return http_parse_head(text.data(), text.size(), &head).code;
}

TEST(HttpHead, Reads) {
    std::string text =
        "POST /v1/completions?x=1 HTTP/1.1\r\nHost: a\r\nContent-Length:  12 \r\nX-Request-ID:\tabc\r\n\r\n";
    http_head head;
    ASSERT_EQ(http_parse_head(text.data(), text.size(), &head).code, 0);
    EXPECT_EQ(head.method, HTTP_POST);
    EXPECT_EQ(str(head.path), "/v1/completions");
    EXPECT_EQ(str(head.query), "x=1");
    EXPECT_EQ(head.content_length, 12u);
    EXPECT_TRUE(head.keep_alive);
    EXPECT_FALSE(head.chunked);
    ASSERT_NE(http_find_header(&head, "x-request-id"), nullptr);
    EXPECT_EQ(str(*http_find_header(&head, "x-request-id")), "abc");
    EXPECT_EQ(http_find_header(&head, "authorization"), nullptr);
}

TEST(HttpHead, KeepsAliveAsItsVersionAndHeadersSay) {
    struct {
        const char *head;
        bool keep_alive;
    } cases[] = {
        {"GET / HTTP/1.1\r\nHost: a\r\n\r\n", true},
        {"GET / HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n\r\n", false},
        {"GET / HTTP/1.1\r\nHost: a\r\nConnection: te , close\r\n\r\n", false},
        {"GET / HTTP/1.0\r\n\r\n", false},
        {"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true},
    };
    for (const auto &item : cases) {
        http_head head;
        ASSERT_EQ(http_parse_head(item.head, strlen(item.head), &head).code, 0) << item.head;
        EXPECT_EQ(head.keep_alive, item.keep_alive) << item.head;
    }
}

TEST(HttpHead, TakesTheAbsoluteForm) {
    http_head head;
    std::string text = "GET http://host:80/a/b?c HTTP/1.1\r\nHost: host\r\n\r\n";
    ASSERT_EQ(http_parse_head(text.data(), text.size(), &head).code, 0);
    EXPECT_EQ(str(head.path), "/a/b");
}

TEST(HttpHead, Refuses) {
    struct {
        std::string text;
        int code;
    } cases[] = {
        {"\r\n\r\n", 400},
        {"GET /\r\nHost: a\r\n\r\n", 400},
        {"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
        {"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400},
        {"G\"T / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
        {"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505},
        {"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505},
        {"GET / FTP/1.1\r\nHost: a\r\n\r\n", 400},
        {"GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400},
        {"GET http://a HTTP/1.1\r\nHost: a\r\n\r\n", 400},
        {"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\n\r\n", 400},                       // no host
        {"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400}, // two
        {"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\nnocolon\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400}, // a bare LF
        {"GET / HTTP/1.1\nHost: a\n\n\r\n\r\n", 400},
        {std::string("GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n", 30), 400},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501},
        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", 501},
        {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: a\r\nExpect: magic\r\n\r\n", 417},
    };
    for (const auto &item : cases) {
        EXPECT_EQ(code_of(item.text), item.code) << item.text;
    }
    std::string many = "GET / HTTP/1.1\r\nHost: a\r\n";
    for (int i = 0; i < 99; i++) {
        many += "X: y\r\n";
    }
    EXPECT_EQ(code_of(many + "\r\n"), 0);
    EXPECT_EQ(code_of(many + "X: y\r\n\r\n"), 431);
}

TEST(HttpHead, EveryPrefixIsRefused) {
    std::string whole = "POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n";
    for (size_t bytes = 0; bytes < whole.size(); bytes++) {
        EXPECT_NE(code_of(whole.substr(0, bytes)), 0) << bytes;
    }
}

TEST(HttpPercent, Decodes) {
    char out[16];
    auto decode = [&](const char *text) { return http_decode_percent({text, strlen(text)}, out, sizeof out); };
    ASSERT_EQ(decode("a%2Fb%20c"), 5u);
    EXPECT_STREQ(out, "a/b c");
    for (const char *bad : {"%", "%2", "%g0", "%0g", "%00", "0123456789abcdef"}) {
        EXPECT_EQ(decode(bad), SIZE_MAX) << bad;
    }
}

// Feeds `wire` in pieces of `step` bytes; the body, or "error".
std::string unchunk(const std::string &wire, size_t step, size_t *left = nullptr) {
    http_chunks chunks = {};
    std::string body;
    size_t at = 0;
    while (at < wire.size() && chunks.state != CHUNK_DONE) {
        size_t used;
        http_slice payload;
        size_t bytes = std::min(step, wire.size() - at);
        if (http_chunks_take(&chunks, wire.data() + at, bytes, &used, &payload).code) {
            return "error";
        }
        body += str(payload);
        at += used;
    }
    if (left) {
        *left = wire.size() - at;
    }
    return chunks.state == CHUNK_DONE ? body : "unfinished";
}

TEST(HttpChunks, ReadsWhateverTheCuts) {
    std::string wire = "5\r\nhello\r\n1;name=\"v\"\r\n \r\n0A\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nGET /next";
    for (size_t step = 1; step <= wire.size(); step++) {
        size_t left = 0;
        EXPECT_EQ(unchunk(wire, step, &left), "hello 0123456789") << step;
        EXPECT_EQ(left, 9u);
    }
    EXPECT_EQ(unchunk("0\r\n\r\n", 99), "");
}

TEST(HttpChunks, Refuses) {
    for (const std::string &wire :
         {std::string("\r\n"), std::string("g\r\n"), std::string(";x\r\n"), std::string("5\nhello"),
          std::string("5\r\nhelloX\r\n"), std::string("5\r\nhello\n"), std::string("-1\r\n"), std::string("0x5\r\n"),
          std::string("5 \r\nhello\r\n"), std::string("1\r\r\n"), std::string("1111111111111111\r\n"),
          "5;" + std::string(2000, 'x')}) {
        EXPECT_EQ(unchunk(wire, 3), "error") << wire;
    }
    EXPECT_EQ(unchunk("fffffffffffffff\r\nabc", 100), "unfinished"); // it is the caller who bounds the body
}

} // namespace
