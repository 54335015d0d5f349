// server/http.c with real sockets: framing, keep-alive, limits in bytes and time, clients that leave or do not read.
extern "C" {
#include "server/http.h"
}
#include <arpa/inet.h>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <event2/event.h>
#include <functional>
#include <gtest/gtest.h>
#include <mutex>
#include <netinet/in.h>
#include <string>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>
#include <utility>

namespace {

// The handler: /echo answers with its body, /later waits for release(), /stream writes until the client is gone or
// dropped, /three streams three pieces.
class HttpServer : public testing::Test {
  protected:
    void start(std::function<void(http_limits &)> change = {}) {
        http_limits limits = {1024, 4096, 16384, 8, 5, 5};
        if (change) {
            change(limits);
        }
        base_ = event_base_new();
        http_handler handler = {on_handle, on_refuse, this};
        status created = http_server_create(base_, "127.0.0.1", 0, &limits, &handler, &server_);
        ASSERT_EQ(created.code, STATUS_OK) << created.message;
        port_ = http_server_port(server_);
        ticker_ = event_new(base_, -1, EV_PERSIST, on_tick, this);
        timeval every = {0, 2000};
        event_add(ticker_, &every);
        loop_ = std::thread([this] { event_base_dispatch(base_); });
    }

    void TearDown() override {
        if (loop_.joinable()) {
            on_loop([this] { event_base_loopbreak(base_); });
            loop_.join();
            event_free(ticker_);
            http_server_destroy(server_);
            event_base_free(base_);
        }
    }

    // Runs `work` on the loop's thread and waits for it.
    void on_loop(std::function<void()> work) {
        std::unique_lock<std::mutex> lock(mutex_);
        work_ = std::move(work);
        done_.wait(lock, [this] { return !work_; });
    }

    http_counts counts() {
        http_counts result;
        on_loop([&] { result = http_server_counts(server_); });
        return result;
    }

    template <class Condition> bool eventually(Condition condition) {
        for (int i = 0; i < 500; i++) {
            if (condition()) {
                return true;
            }
            std::this_thread::sleep_for(std::chrono::milliseconds(10));
        }
        return false;
    }

    void release() {
        on_loop([this] {
            http_exchange *waiting = std::exchange(waiting_, nullptr);
            if (waiting) {
                http_respond(waiting, 200, "text/plain", "late", 4);
            }
        });
    }

    int port_ = 0;
    http_server *server_ = nullptr;
    std::atomic<int> gone_{0}, handled_{0};

  private:
    static void on_handle(void *context, http_exchange *exchange) {
        auto *self = static_cast<HttpServer *>(context);
        const http_head *head = http_request_head(exchange);
        self->handled_++;
        if (http_slice_equals(head->path, "/later")) {
            self->waiting_ = exchange;
            http_on_gone(exchange, on_gone, self);
        } else if (http_slice_equals(head->path, "/stream")) {
            self->streaming_ = exchange;
            http_on_gone(exchange, on_gone, self);
            http_stream_begin(exchange, 200, "text/plain");
        } else if (http_slice_equals(head->path, "/three")) {
            http_stream_begin(exchange, 200, "text/plain");
            for (const char *piece : {"one ", "", "two ", "three"}) {
                EXPECT_TRUE(http_stream_write(exchange, piece, strlen(piece)));
            }
            http_stream_end(exchange);
        } else {
            http_slice body = http_body(exchange);
            http_add_header(exchange, "X-Extra", "yes");
            http_respond(exchange, 200, "text/plain", body.data, body.bytes);
        }
    }
    static void on_refuse(void *, http_exchange *exchange, int code, const char *message) {
        http_respond(exchange, code, "text/plain", message, strlen(message));
    }
    static void on_gone(void *context) {
        auto *self = static_cast<HttpServer *>(context);
        self->gone_++;
        self->waiting_ = self->streaming_ = nullptr;
    }
    static void on_tick(evutil_socket_t, short, void *context) {
        auto *self = static_cast<HttpServer *>(context);
        if (self->streaming_) {
            std::string piece(4096, 'x');
            if (!http_stream_write(self->streaming_, piece.data(), piece.size())) {
                self->streaming_ = nullptr;
            }
        }
        std::unique_lock<std::mutex> lock(self->mutex_);
        if (self->work_) {
            self->work_();
            self->work_ = nullptr;
            self->done_.notify_all();
        }
    }

    event_base *base_ = nullptr;
    event *ticker_ = nullptr;
    std::thread loop_;
    std::mutex mutex_;
    std::condition_variable done_;
    std::function<void()> work_;
    http_exchange *waiting_ = nullptr, *streaming_ = nullptr;
};

class Client {
  public:
    explicit Client(int port, int receive_buffer = 0) {
        fd_ = socket(AF_INET, SOCK_STREAM, 0);
        if (receive_buffer) {
            setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
        }
        timeval limit = {10, 0};
        setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        sockaddr_in address = {};
        address.sin_family = AF_INET;
        address.sin_port = htons((uint16_t)port);
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        EXPECT_EQ(connect(fd_, (sockaddr *)&address, sizeof address), 0);
    }
    ~Client() {
        leave();
    }
    void leave() {
        if (fd_ >= 0) {
            close(fd_);
        }
        fd_ = -1;
    }
    void send(const std::string &bytes) {
        ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    }
    void shut() {
        shutdown(fd_, SHUT_WR);
    }
    // Up to and including `mark`; or to the end, marked by "<end>".
    std::string read_to(const std::string &mark) {
        std::string text;
        while (text.find(mark) == std::string::npos) {
            char byte;
            ssize_t bytes = recv(fd_, &byte, 1, 0);
            if (bytes <= 0) {
                return text + (bytes == 0 ? "<end>" : "<error>");
            }
            text += byte;
        }
        return text;
    }
    // A response with a Content-Length.
    std::string response() {
        std::string head = read_to("\r\n\r\n");
        size_t at = head.find("Content-Length: ");
        std::string body(at == std::string::npos ? 0 : std::stoul(head.substr(at + 16)), 0);
        if (!body.empty()) {
            recv(fd_, &body[0], body.size(), MSG_WAITALL);
        }
        return head + body;
    }
    std::string rest() {
        return read_to("\xff\xff");
    }

  private:
    int fd_;
};

std::string post(const std::string &path, const std::string &body, const std::string &headers = "") {
    return "POST " + path + " HTTP/1.1\r\nHost: x\r\nContent-Length: " + std::to_string(body.size()) + "\r\n" +
           headers + "\r\n" + body;
}

bool has(const std::string &text, const std::string &part) {
    return text.find(part) != std::string::npos;
}

TEST_F(HttpServer, AnswersAndKeepsAlive) {
    start();
    Client client(port_);
    for (int i = 0; i < 3; i++) {
        client.send(post("/echo", "hello", "X-Request-Id: id-7\r\n"));
        std::string response = client.response();
        EXPECT_TRUE(has(response, "HTTP/1.1 200 OK\r\n")) << response;
        EXPECT_TRUE(has(response, "X-Request-Id: id-7\r\n"));
        EXPECT_TRUE(has(response, "X-Extra: yes\r\n"));
        EXPECT_FALSE(has(response, "Connection:"));
        EXPECT_TRUE(has(response, "\r\n\r\nhello"));
    }
    EXPECT_EQ(counts().accepted, 1u);
    client.send(post("/echo", "bye", "Connection: close\r\n"));
    EXPECT_TRUE(has(client.rest(), "bye<end>"));
}

TEST_F(HttpServer, GivesRequestsIdsOfTheirOwn) {
    start();
    Client client(port_);
    auto id = [&](const std::string &headers) {
        client.send(post("/echo", "", headers));
        std::string response = client.response();
        return response.substr(response.find("X-Request-Id: ") + 14, 32);
    };
    std::string first = id(""), second = id("X-Request-Id: has space\r\n");
    EXPECT_EQ(first.find_first_not_of("0123456789abcdef"), std::string::npos) << first;
    EXPECT_EQ(second.find_first_not_of("0123456789abcdef"), std::string::npos) << second;
    EXPECT_NE(first, second);
}

TEST_F(HttpServer, TakesBytesHoweverTheyAreCut) {
    start();
    std::string wire = "\r\n" + post("/echo", "abc") + post("/echo", "defg");
    for (size_t step : {1, 2, 7, 40, 1000}) {
        Client client(port_);
        for (size_t at = 0; at < wire.size(); at += step) {
            client.send(wire.substr(at, step));
            if (step < 40) {
                std::this_thread::sleep_for(std::chrono::microseconds(300));
            }
        }
        EXPECT_TRUE(has(client.response(), "\r\n\r\nabc")) << step;
        EXPECT_TRUE(has(client.response(), "\r\n\r\ndefg")) << step;
    }
}

TEST_F(HttpServer, TakesChunkedBodies) {
    start();
    Client client(port_);
    client.send("POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    client.send("4\r\ndefg\r\n0\r\n\r\n" + post("/echo", "next"));
    EXPECT_TRUE(has(client.response(), "\r\n\r\nabcdefg"));
    EXPECT_TRUE(has(client.response(), "\r\n\r\nnext"));
}

TEST_F(HttpServer, PipelinedRequestsWaitForTheFirst) {
    start();
    Client client(port_);
    client.send(post("/later", "") + post("/echo", "second"));
    EXPECT_TRUE(eventually([&] { return handled_ == 1; }));
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    EXPECT_EQ(handled_, 1);
    release();
    EXPECT_TRUE(has(client.response(), "late"));
    EXPECT_TRUE(has(client.response(), "second"));
}

TEST_F(HttpServer, StreamsInChunks) {
    start();
    Client client(port_);
    client.send("GET /three HTTP/1.1\r\nHost: x\r\n\r\n" + post("/echo", "after"));
    std::string response = client.read_to("\r\n0\r\n\r\n");
    EXPECT_TRUE(has(response, "Transfer-Encoding: chunked\r\n\r\n4\r\none \r\n4\r\ntwo \r\n5\r\nthree\r\n0\r\n\r\n"))
        << response;
    EXPECT_TRUE(has(client.response(), "after"));
}

TEST_F(HttpServer, SpeaksHttp10) {
    start();
    Client plain(port_);
    plain.send("GET /three HTTP/1.0\r\n\r\n");
    std::string response = plain.rest();
    EXPECT_TRUE(has(response, "Connection: close\r\n\r\none two three<end>")) << response;
    Client kept(port_);
    kept.send("GET /echo HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    EXPECT_TRUE(has(kept.response(), "Connection: keep-alive\r\n"));
}

TEST_F(HttpServer, AnswersHeadWithoutABody) {
    start();
    Client client(port_);
    client.send("HEAD /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc");
    EXPECT_TRUE(has(client.read_to("\r\n\r\n"), "Content-Length: 3\r\n"));
    client.send(post("/echo", "next"));
    std::string response = client.response();
    EXPECT_EQ(response.find("HTTP/1.1 200"), 0u) << response;
}

TEST_F(HttpServer, AsksForABodyThatIsExpected) {
    start();
    Client client(port_);
    client.send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
    EXPECT_EQ(client.read_to("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("abc");
    EXPECT_TRUE(has(client.response(), "\r\n\r\nabc"));
    client.send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\nExpect: 100-continue\r\n\r\n");
    EXPECT_TRUE(has(client.response(), "HTTP/1.1 413 "));
}

TEST_F(HttpServer, RefusesWhatIsTooLarge) {
    start();
    Client counted(port_);
    counted.send(post("/echo", std::string(100000, 'x')));
    std::string response = counted.rest();
    EXPECT_TRUE(has(response, "HTTP/1.1 413 Content Too Large\r\n")) << response;
    EXPECT_TRUE(has(response, "Connection: close")) << response;
    EXPECT_TRUE(has(response, "<end>")) << "the response was lost to a reset";
    Client chunked(port_);
    chunked.send("POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2000\r\n" +
                 std::string(8192, 'x'));
    EXPECT_TRUE(has(chunked.rest(), "HTTP/1.1 413 "));
    Client header(port_);
    header.send("GET / HTTP/1.1\r\nHost: x\r\nX: " + std::string(2000, 'x'));
    EXPECT_TRUE(has(header.rest(), "HTTP/1.1 431 "));
    Client exact(port_);
    exact.send(post("/echo", std::string(4096, 'y')));
    EXPECT_TRUE(has(exact.response(), std::string(4096, 'y')));
    EXPECT_EQ(handled_, 1);
}

TEST_F(HttpServer, RefusesWhatIsMalformed) {
    start();
    for (const char *bad : {"nonsense\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01\r\n\r\n",
                            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"}) {
        Client client(port_);
        client.send(bad);
        std::string response = client.rest();
        EXPECT_TRUE(has(response, "HTTP/1.1 400 ")) << bad << response;
        EXPECT_TRUE(has(response, "<end>")) << bad;
    }
    EXPECT_EQ(handled_, 0);
}

TEST_F(HttpServer, SaysThatARequestEndsTooSoon) {
    start();
    Client body(port_);
    body.send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc");
    body.shut();
    EXPECT_TRUE(has(body.rest(), "HTTP/1.1 400 "));
    Client head(port_);
    head.send("POST /echo HTTP/1.1\r\nHo");
    head.shut();
    EXPECT_TRUE(has(head.rest(), "HTTP/1.1 400 "));
    Client nothing(port_);
    nothing.shut();
    EXPECT_EQ(nothing.rest(), "<end>");
    Client whole(port_); // shutting its side right after a request is no fault
    whole.send(post("/echo", "abc"));
    whole.shut();
    EXPECT_TRUE(has(whole.rest(), "\r\n\r\nabc<end>"));
}

TEST_F(HttpServer, CutsOffRequestsThatTrickle) {
    start([](http_limits &limits) { limits.request_timeout_s = 0.2; });
    for (const char *begin : {"GET / HTT", "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"}) {
        Client client(port_);
        client.send(begin);
        auto started = std::chrono::steady_clock::now();
        std::atomic<bool> ended{false};
        std::thread trickle([&] {
            while (!ended) {
                client.send("x");
                std::this_thread::sleep_for(std::chrono::milliseconds(20));
            }
        });
        std::string response = client.read_to("\r\n\r\n");
        double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
        ended = true;
        trickle.join();
        EXPECT_TRUE(has(response, "HTTP/1.1 408 ")) << response;
        EXPECT_GT(seconds, 0.15);
        EXPECT_LT(seconds, 3);
    }
    EXPECT_EQ(counts().timeouts, 2u);
}

TEST_F(HttpServer, ClosesIdleConnections) {
    start([](http_limits &limits) { limits.idle_timeout_s = 0.1; });
    Client fresh(port_), used(port_);
    used.send(post("/echo", "abc"));
    EXPECT_TRUE(has(used.response(), "abc"));
    EXPECT_EQ(used.rest(), "<end>");
    EXPECT_EQ(fresh.rest(), "<end>");
}

TEST_F(HttpServer, AnIdleTimeoutDoesNotCutAResponseThatIsWaitedFor) {
    start([](http_limits &limits) { limits.idle_timeout_s = 0.1; });
    Client client(port_);
    client.send(post("/later", ""));
    EXPECT_TRUE(eventually([&] { return handled_ == 1; }));
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    release();
    EXPECT_TRUE(has(client.response(), "late"));
}

TEST_F(HttpServer, NoticesThatAClientLeftBeforeAnyByteOfItsResponse) {
    start();
    Client client(port_);
    client.send(post("/later", ""));
    EXPECT_TRUE(eventually([&] { return handled_ == 1; }));
    client.leave();
    EXPECT_TRUE(eventually([&] { return gone_ == 1; }));
    release();
    EXPECT_TRUE(eventually([&] { return counts().connections == 0; }));
    EXPECT_EQ(counts().gone, 1u);
}

TEST_F(HttpServer, NoticesThatAClientLeftItsStream) {
    start();
    Client client(port_);
    client.send("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
    client.read_to("xxxx");
    client.leave();
    EXPECT_TRUE(eventually([&] { return gone_ == 1; }));
    EXPECT_TRUE(eventually([&] { return counts().connections == 0; }));
}

TEST_F(HttpServer, DropsAClientThatDoesNotReadItsStream) {
    start();
    Client client(port_, 4096);
    client.send("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
    EXPECT_TRUE(eventually([&] { return counts().slow_readers == 1; }));
    EXPECT_TRUE(eventually([&] { return counts().connections == 0; }));
    EXPECT_EQ(gone_, 0); // whoever writes learns it from http_stream_write()
    Client other(port_);
    other.send(post("/echo", "still here"));
    EXPECT_TRUE(has(other.response(), "still here"));
}

TEST_F(HttpServer, DropsAClientThatDoesNotReadItsResponse) {
    start([](http_limits &limits) {
        limits.max_body = 8 << 20;
        limits.idle_timeout_s = 0.2;
    });
    Client client(port_, 4096);
    client.send(post("/echo", std::string(8 << 20, 'x')));
    EXPECT_TRUE(eventually([&] { return counts().slow_readers == 1; }));
    EXPECT_TRUE(eventually([&] { return counts().connections == 0; }));
}

TEST_F(HttpServer, UnreadResponsesHoldBackPipelinedRequests) {
    start([](http_limits &limits) { limits.idle_timeout_s = 1; });
    Client client(port_, 4096);
    std::string request = post("/echo", std::string(4000, 'x'));
    std::thread sender([&] {
        for (int i = 0; i < 2000; i++) {
            client.send(request); // 8 MB, most of which never gets in
        }
    });
    EXPECT_TRUE(eventually([&] { return counts().slow_readers == 1; }));
    EXPECT_LT(handled_, 1500);
    sender.join();
}

TEST_F(HttpServer, BoundsConnections) {
    start([](http_limits &limits) { limits.max_connections = 2; });
    Client first(port_);
    {
        Client second(port_);
        second.send(post("/echo", "in"));
        EXPECT_TRUE(has(second.response(), "in"));
        Client third(port_);
        EXPECT_TRUE(has(third.rest(), "HTTP/1.1 503 "));
    }
    EXPECT_TRUE(eventually([&] { return counts().connections == 1; }));
    Client fourth(port_);
    fourth.send(post("/echo", "room again"));
    EXPECT_TRUE(has(fourth.response(), "room again"));
    EXPECT_EQ(counts().refused, 1u);
}

TEST_F(HttpServer, DrainsByClosingWhatIsIdleAndFinishingTheRest) {
    start();
    Client idle(port_), busy(port_), fresh(port_);
    idle.send(post("/echo", "once"));
    EXPECT_TRUE(has(idle.response(), "once"));
    busy.send(post("/later", ""));
    EXPECT_TRUE(eventually([&] { return handled_ == 2; }));
    bool quiet = true;
    on_loop([&] {
        http_server_drain(server_);
        quiet = http_server_is_quiet(server_);
    });
    EXPECT_FALSE(quiet);
    EXPECT_EQ(idle.rest(), "<end>");
    fresh.send(post("/echo", "may still ask"));
    EXPECT_TRUE(has(fresh.rest(), "may still ask<end>"));
    release();
    std::string response = busy.rest();
    EXPECT_TRUE(has(response, "Connection: close") && has(response, "late<end>")) << response;
    on_loop([&] { quiet = http_server_is_quiet(server_); });
    EXPECT_TRUE(quiet);
}

TEST_F(HttpServer, AddressesThatCannotBeListenedOnAreNamed) {
    start();
    event_base *base = event_base_new();
    http_limits limits = {1024, 4096, 16384, 8, 5, 5};
    http_handler handler = {};
    http_server *second = nullptr;
    status taken = http_server_create(base, "127.0.0.1", (uint16_t)port_, &limits, &handler, &second);
    EXPECT_EQ(taken.code, STATUS_IO);
    EXPECT_TRUE(has(taken.message, std::to_string(port_))) << taken.message;
    status unknown = http_server_create(base, "no.such.host.invalid", 0, &limits, &handler, &second);
    EXPECT_TRUE(has(unknown.message, "no.such.host.invalid")) << unknown.message;
    event_base_free(base);
}

} // namespace
