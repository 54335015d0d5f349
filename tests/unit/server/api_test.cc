// server/api.c: who may call what, and when, without a model: a service whose state the tests set.
extern "C" {
#include "base/clock.h"
#include "server/service.h"
}
#include <arpa/inet.h>
#include <cstring>
#include <event2/event.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <string>
#include <sys/socket.h>
#include <unistd.h>

namespace {

class Api : public testing::Test {
  protected:
    void SetUp() override {
        config_init(&config_);
        service_ = {};
        service_.config = &config_;
        service_.model_name = model_name_;
        service_.started_s = 1700000000;
        base_ = event_base_new();
        http_limits limits = {4096, 4096, 65536, 8, 5, 5};
        http_handler handler = {api_handle, api_refuse, &service_};
        status made = http_server_create(base_, "127.0.0.1", 0, &limits, &handler, &service_.http);
        ASSERT_EQ(made.code, STATUS_OK) << made.message;
    }
    void TearDown() override {
        http_server_destroy(service_.http);
        event_base_free(base_);
        config_free(&config_);
    }

    // Sends a request and turns the loop until its response is there, whole: the server is told to close after it.
    std::string ask(const std::string &request_line, const std::string &headers = "", const std::string &body = "") {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        sockaddr_in address = {};
        address.sin_family = AF_INET;
        address.sin_port = htons(http_server_port(service_.http));
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        EXPECT_EQ(connect(fd, (sockaddr *)&address, sizeof address), 0);
        std::string request = request_line + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: " +
                              std::to_string(body.size()) + "\r\n" + headers + "\r\n" + body;
        EXPECT_EQ(send(fd, request.data(), request.size(), 0), (ssize_t)request.size());
        std::string response;
        uint64_t deadline = clock_now_ns() + 10 * NS_PER_S;
        for (;;) {
            event_base_loop(base_, EVLOOP_NONBLOCK);
            char piece[4096];
            ssize_t bytes = recv(fd, piece, sizeof piece, MSG_DONTWAIT);
            if (bytes > 0) {
                response.append(piece, (size_t)bytes);
            } else if (bytes == 0 || clock_now_ns() > deadline) {
                break;
            }
        }
        close(fd);
        return response;
    }
    static bool has(const std::string &text, const std::string &part) {
        return text.find(part) != std::string::npos;
    }
    static std::string status_of(const std::string &response) {
        return response.substr(0, 12);
    }

    config config_;
    service service_;
    event_base *base_;
    char model_name_[8] = "m";
    char key_[8] = "s3cret";
};

TEST_F(Api, HealthFollowsTheServersLife) {
    std::string loading = ask("GET /health");
    EXPECT_TRUE(has(loading, "HTTP/1.1 503 ") && has(loading, "Retry-After: 1") && has(loading, "\"loading\""))
        << loading;
    service_.state = SERVICE_READY;
    EXPECT_TRUE(has(ask("GET /health"), "{\"status\":\"ok\"}"));
    service_.state = SERVICE_DRAINING;
    EXPECT_TRUE(has(ask("GET /health"), "\"draining\""));
    service_.state = SERVICE_READY;
    service_.fault = status_error(STATUS_DEVICE, "the device burned down");
    std::string broken = ask("GET /health");
    EXPECT_TRUE(has(broken, "HTTP/1.1 500 ") && has(broken, "the device burned down")) << broken;
    EXPECT_FALSE(has(broken, "Retry-After")) << "trying again does not help";
}

TEST_F(Api, WhatNeedsAModelWaitsForIt) {
    for (const char *line : {"POST /v1/completions", "POST /v1/chat/completions", "GET /v1/models", "POST /tokenize",
                             "POST /detokenize"}) {
        std::string response = ask(line);
        EXPECT_EQ(status_of(response), "HTTP/1.1 503") << line;
        EXPECT_TRUE(has(response, "Retry-After: 1")) << line;
    }
    for (const char *line : {"GET /", "GET /version", "GET /metrics"}) {
        EXPECT_EQ(status_of(ask(line)), "HTTP/1.1 200") << line;
    }
    service_.state = SERVICE_DRAINING;
    std::string response = ask("POST /v1/completions");
    EXPECT_TRUE(has(response, "HTTP/1.1 503 ") && has(response, "shutting down")) << response;
}

TEST_F(Api, PathsAndMethods) {
    EXPECT_EQ(status_of(ask("GET /nothing")), "HTTP/1.1 404");
    EXPECT_EQ(status_of(ask("GET /health/")), "HTTP/1.1 404");
    EXPECT_EQ(status_of(ask("GET /v1/models/")), "HTTP/1.1 404");
    std::string response = ask("GET /v1/completions");
    EXPECT_TRUE(has(response, "HTTP/1.1 405 ") && has(response, "Allow: POST\r\n")) << response;
    response = ask("POST /metrics");
    EXPECT_TRUE(has(response, "HTTP/1.1 405 ") && has(response, "Allow: GET, HEAD\r\n")) << response;
    EXPECT_TRUE(has(ask("GET /\x7f"), "HTTP/1.1 400 "));
}

TEST_F(Api, AKeyGuardsV1) {
    service_.api_key = key_;
    for (const char *header : {"", "Authorization: Bearer s3creT\r\n", "Authorization: Bearer s3cre\r\n",
                               "Authorization: Bearer s3crets\r\n", "Authorization: Bearer\r\n",
                               "Authorization: Basic s3cret\r\n", "Authorization: Bearer s3crets3cret\r\n"}) {
        std::string response = ask("GET /v1/models", header);
        EXPECT_TRUE(has(response, "HTTP/1.1 401 ") && has(response, "WWW-Authenticate: Bearer")) << header << response;
        EXPECT_EQ(status_of(ask("GET /v1/nothing", header)), "HTTP/1.1 401") << "it says which paths there are";
    }
    EXPECT_EQ(status_of(ask("GET /v1/models", "authorization: bearer s3cret\r\n")), "HTTP/1.1 503");
    EXPECT_EQ(status_of(ask("GET /version")), "HTTP/1.1 200");
}

} // namespace
