// The cuda device where there is one, a GPU or the emulator of tests/cuemu: memory, order, events, time, counts,
// errors. Its ops are tested with everybody's (ops_test, matmul_test, attention_test).
#include "tests/unit/kernels/kernel_test.h"

namespace {

struct device_config cuda_config() {
    struct device_config config = {};
    config.name = "cuda";
    config.invariant = true;
    return config;
}

class Cuda : public ::testing::Test {
  protected:
    void SetUp() override {
        struct device_config config = cuda_config();
        struct status status = device_open(&config, &device);
        if (status.code != STATUS_OK) {
            GTEST_SKIP() << status.message;
        }
    }
    void TearDown() override {
        for (struct stream *stream : streams) {
            stream_destroy(stream);
        }
        for (struct event *event : events) {
            event_destroy(event);
        }
        for (void *buffer : buffers) {
            device_free(device, buffer);
        }
        for (void *buffer : host_buffers) {
            device_free_host(device, buffer);
        }
        device_close(device);
    }
    struct stream *stream(enum stream_kind kind = STREAM_COPY) {
        struct stream *stream = nullptr;
        EXPECT_OK(stream_create(device, kind, &stream));
        streams.push_back(stream);
        return stream;
    }
    struct event *event() {
        struct event *event = nullptr;
        EXPECT_OK(event_create(device, &event));
        events.push_back(event);
        return event;
    }
    template <typename T> T *alloc(size_t count) {
        void *address = nullptr;
        EXPECT_OK(device_alloc(device, count * sizeof(T), "a test's buffer", &address));
        buffers.push_back(address);
        return static_cast<T *>(address);
    }
    template <typename T> T *alloc_host(size_t count) {
        void *address = nullptr;
        EXPECT_OK(device_alloc_host(device, count * sizeof(T), "a test's buffer", &address));
        host_buffers.push_back(address);
        return static_cast<T *>(address);
    }

    struct device *device = nullptr;

  private:
    std::vector<struct stream *> streams;
    std::vector<struct event *> events;
    std::vector<void *> buffers, host_buffers;
};

bool contains(const char *text, const char *part) {
    return std::string(text).find(part) != std::string::npos;
}

TEST_F(Cuda, SaysWhatItIs) {
    struct device_info info = device_info(device);
    EXPECT_STREQ(info.name, "cuda");
    EXPECT_TRUE(contains(info.description, "sm_")) << info.description;
    EXPECT_GT(info.device_memory, 1u << 30);
    EXPECT_TRUE(info.invariant);
}

TEST_F(Cuda, BudgetsAndTheGpuAreRefusedWithNumbers) {
    struct device_config config = cuda_config();
    config.device_memory = 8 << 20;
    config.host_memory = 4 << 20;
    struct device *small;
    ASSERT_OK(device_open(&config, &small));
    void *first, *other;
    ASSERT_OK(device_alloc(small, 6 << 20, "the arena", &first));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(first) % 64, 0u);
    struct status status = device_alloc(small, 3 << 20, "the workspace", &other);
    EXPECT_EQ(status.code, STATUS_NO_MEMORY);
    EXPECT_TRUE(contains(status.message,
                         "the workspace needs 3 MiB of device memory, and 2 MiB of 8 MiB are left: short "
                         "by 1 MiB; raise device_memory"))
        << status.message;
    status = device_alloc_host(small, 5 << 20, "the pool", &other);
    EXPECT_EQ(status.code, STATUS_NO_MEMORY);
    EXPECT_TRUE(contains(status.message, "short by 1 MiB; raise host_memory")) << status.message;
    device_free(small, first);
    EXPECT_EQ(device_info(small).device_used, 0u);
    device_close(small);

    config = cuda_config();
    config.device_memory = UINT64_MAX;
    ASSERT_OK(device_open(&config, &small));
    status = device_alloc(small, (size_t)1 << 46, "a dream", &other);
    EXPECT_EQ(status.code, STATUS_NO_MEMORY);
    for (const char *part : {"a dream: cudaMalloc of 64 TiB: out of memory", "free of", "this process holds 0 B"}) {
        EXPECT_TRUE(contains(status.message, part)) << part << " is not in: " << status.message;
    }
    device_close(small);
}

TEST_F(Cuda, ALinkHasNoPace) {
    struct device_config config = cuda_config();
    config.link_bytes_per_s = 16e9;
    struct device *paced;
    struct status status = device_open(&config, &paced);
    EXPECT_EQ(status.code, STATUS_UNSUPPORTED);
    EXPECT_TRUE(contains(status.message, "link_gbps")) << status.message;
    device_set_link(device, 0);
}

TEST_F(Cuda, CopiesGoInOrderAndAreCounted) {
    struct stream *stream = this->stream();
    const int COUNT = 2000;
    int *source = alloc_host<int>(COUNT), *back = alloc_host<int>(COUNT);
    int *last = alloc<int>(1), *trail = alloc<int>(COUNT);
    for (int i = 0; i < COUNT; i++) {
        source[i] = i + 1;
        stream_copy(stream, last, &source[i], sizeof(int), COPY_HOST_TO_DEVICE);
        stream_copy(stream, &trail[i], last, sizeof(int), COPY_DEVICE_TO_DEVICE);
    }
    stream_copy(stream, back, trail, COUNT * sizeof(int), COPY_DEVICE_TO_HOST);
    stream_copy(stream, back, trail, 0, COPY_DEVICE_TO_HOST);
    ASSERT_OK(stream_sync(stream));
    for (int i = 0; i < COUNT; i++) {
        ASSERT_EQ(back[i], i + 1);
    }
    struct link_count count = device_link_count(device);
    EXPECT_EQ(count.host_to_device_copies, static_cast<uint64_t>(COUNT));
    EXPECT_EQ(count.host_to_device_bytes, COUNT * sizeof(int));
    EXPECT_EQ(count.device_to_host_copies, 1u);
    EXPECT_EQ(count.device_to_host_bytes, COUNT * sizeof(int));
}

// A value that two streams pass to and fro, now by a kernel, now by a copy: right only if every wait holds.
TEST_F(Cuda, EventsOrderStreams) {
    const int HOPS = 100, WIDTH = 1000;
    struct stream *compute = stream(STREAM_COMPUTE), *copies = stream();
    struct event *computed = event(), *copied = event();
    float *here = alloc<float>(WIDTH), *there = alloc<float>(WIDTH);
    float *host = alloc_host<float>(WIDTH);
    std::fill(host, host + WIDTH, 1.0f);
    stream_copy(copies, here, host, WIDTH * sizeof(float), COPY_HOST_TO_DEVICE);
    event_record(copied, copies);
    for (int hop = 0; hop < HOPS; hop++) {
        stream_wait(compute, copied);
        op_scale(compute, here, 1.25f, 1, WIDTH);
        event_record(computed, compute);
        stream_wait(copies, computed);
        stream_copy(copies, there, here, WIDTH * sizeof(float), COPY_DEVICE_TO_DEVICE);
        stream_copy(copies, here, there, WIDTH * sizeof(float), COPY_DEVICE_TO_DEVICE);
        event_record(copied, copies);
    }
    stream_copy(copies, host, here, WIDTH * sizeof(float), COPY_DEVICE_TO_HOST);
    ASSERT_OK(stream_sync(copies));
    float expected = 1;
    for (int hop = 0; hop < HOPS; hop++) {
        expected *= 1.25f;
    }
    for (int i = 0; i < WIDTH; i++) {
        ASSERT_EQ(host[i], expected) << i;
    }
}

TEST_F(Cuda, AnEventNeverRecordedIsPast) {
    struct event *event = this->event();
    struct stream *stream = this->stream();
    EXPECT_TRUE(event_query(event));
    EXPECT_OK(event_sync(event));
    stream_wait(stream, event);
    EXPECT_OK(stream_sync(stream));
}

// On the clock that the host reads, too, though GPU and host have an oscillator each.
TEST_F(Cuda, EventsTellTheTimeOfTheDevicesClock) {
    struct stream *compute = stream(STREAM_COMPUTE);
    struct event *events[2] = {event(), event()};
    float *x = alloc<float>(1 << 12);
    const int64_t MARGIN_NS = 200 * NS_PER_US; // of where the anchor lies between two looks at the host's clock
    for (int round = 0; round < 20; round++) {
        uint64_t before_ns = device_now_ns(device);
        event_record(events[0], compute);
        op_scale(compute, x, 1, 1, 1 << 12);
        event_record(events[1], compute);
        ASSERT_OK(event_sync(events[1]));
        uint64_t after_ns = device_now_ns(device);
        uint64_t first_ns = event_time_ns(events[0]), second_ns = event_time_ns(events[1]);
        EXPECT_LE(first_ns, second_ns);
        EXPECT_GE(static_cast<int64_t>(first_ns - before_ns), -MARGIN_NS);
        EXPECT_GE(static_cast<int64_t>(after_ns - second_ns), -MARGIN_NS);
    }
}

// The anchor of the clock is renewed every two seconds, and events recorded before that keep their time.
TEST_F(Cuda, TimeGoesOnOverANewAnchor) {
    struct stream *stream = this->stream();
    struct event *early = event(), *late = event();
    event_record(early, stream);
    ASSERT_OK(event_sync(early));
    const uint64_t early_ns = event_time_ns(early), begin_ns = device_now_ns(device);
    device_sleep_until_ns(device, begin_ns + 2100 * NS_PER_MS);
    for (int i = 0; i < 3; i++) { // one call records the anchor, a later one takes it
        event_record(late, stream);
        ASSERT_OK(event_sync(late));
        uint64_t now_ns = device_now_ns(device);
        EXPECT_NEAR(static_cast<double>(event_time_ns(late)), static_cast<double>(now_ns), 1e6);
        EXPECT_NEAR(static_cast<double>(event_time_ns(early)), static_cast<double>(early_ns), 1e5);
        device_sleep_until_ns(device, now_ns + 20 * NS_PER_MS);
    }
}

// ---- errors ----

TEST_F(Cuda, BadInputFailsTheComputeStreamAndWhatComesAfter) {
    struct stream *compute = stream(STREAM_COMPUTE), *copies = stream();
    struct event *before = event(), *after = event();
    float *table = alloc<float>(20 * 32), *out = alloc<float>(64);
    uint32_t *ids = alloc<uint32_t>(2), *host = alloc_host<uint32_t>(2);
    host[0] = 19, host[1] = 20;
    stream_copy(compute, ids, host, 8, COPY_HOST_TO_DEVICE);
    event_record(before, compute);
    op_add_rows(compute, out, table, 20, ids, 1, 32);
    ASSERT_OK(stream_sync(compute));
    op_add_rows(compute, out, table, 20, ids, 2, 32);
    event_record(after, compute);
    const char *says = "add_rows: row 1 asks for id 20 of a table of 20";
    struct status status = event_sync(after);
    EXPECT_EQ(status.code, STATUS_DEVICE);
    EXPECT_STREQ(status.message, says);
    for (int i = 0; i < 2; i++) {
        EXPECT_STREQ(stream_sync(compute).message, says);
    }
    EXPECT_OK(stream_sync(copies)); // a stream that did not wait for it goes on
    event_record(after, compute);   // the host knows now
    stream_wait(copies, after);
    EXPECT_STREQ(stream_sync(copies).message, says);
}

} // namespace
