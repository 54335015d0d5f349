// The device: what device.h promises of memory, streams, events and errors, on the `cpu` device.
// Times are compared with bounds that hold on a busy machine: never early, and late only by much.
#include "tests/unit/kernels/kernel_test.h"
#include <fstream>
#include <malloc.h>
#include <sys/resource.h>

namespace {

bool contains(const char *message, const std::string &text) {
    return std::string(message).find(text) != std::string::npos;
}

// ---- opening ----

TEST(Open, RefusesWhatItCannotDoAndSaysWhy) {
    struct Bad {
        const char *says;
        enum status_code code;
        void (*spoil)(struct device_config *config);
    };
    const Bad cases[] = {
        {"has: cpu", STATUS_NOT_FOUND, [](struct device_config *c) { c->name = "tpu"; }},
        {"no device is named", STATUS_INVALID, [](struct device_config *c) { c->name = nullptr; }},
        {"\"sse9\"", STATUS_INVALID, [](struct device_config *c) { c->isa = "sse9"; }},
        {"threads: 100000", STATUS_INVALID, [](struct device_config *c) { c->threads = 100000; }},
        {"link_gbps", STATUS_INVALID, [](struct device_config *c) { c->link_bytes_per_s = -1; }},
        {"link_gbps", STATUS_INVALID, [](struct device_config *c) { c->link_bytes_per_s = 1; }},
        {"link_gbps", STATUS_INVALID, [](struct device_config *c) { c->link_bytes_per_s = NAN; }},
    };
    for (const Bad &bad : cases) {
        struct device_config config = cpu_config();
        bad.spoil(&config);
        struct device *device = reinterpret_cast<struct device *>(&config);
        struct status status = device_open(&config, &device);
        EXPECT_EQ(status.code, bad.code) << bad.says;
        EXPECT_TRUE(contains(status.message, bad.says)) << status.message;
        EXPECT_EQ(device, nullptr);
    }
    device_close(nullptr);
}

// Where the device is not built, or there is no GPU, the error says what to do about it.
TEST(Open, CudaOpensOrSaysWhyNot) {
    struct device_config config = {};
    config.name = "cuda";
    struct device *device = nullptr;
    struct status status = device_open(&config, &device);
    if (status.code == STATUS_OK) {
        EXPECT_STREQ(device_info(device).name, "cuda");
        device_close(device);
    } else if (status.code == STATUS_NOT_FOUND) {
        EXPECT_TRUE(contains(status.message, "make CUDA=1")) << status.message;
    } else {
        EXPECT_EQ(status.code, STATUS_DEVICE) << status.message;
        EXPECT_EQ(std::string(status.message).rfind("device cuda: "), 0u) << "once, and first: " << status.message;
        EXPECT_TRUE(contains(status.message, "--device cpu")) << status.message;
    }
}

TEST(Open, SaysWhatItIs) {
    struct device_config config = cpu_config();
    config.isa = "scalar";
    config.device_memory = 1 << 20;
    config.host_memory = 2 << 20;
    config.link_bytes_per_s = 16e9;
    Device d(config);
    struct device_info info = device_info(d.device);
    EXPECT_STREQ(info.name, "cpu");
    EXPECT_TRUE(contains(info.description, "scalar, 2 threads")) << info.description;
    EXPECT_EQ(info.device_memory, 1u << 20);
    EXPECT_EQ(info.host_memory, 2u << 20);
    EXPECT_EQ(info.link_bytes_per_s, 16e9);
    EXPECT_EQ(info.threads, 2u);
    EXPECT_TRUE(info.invariant);
}

int process_threads() {
    std::ifstream status("/proc/self/status");
    for (std::string word; status >> word;) {
        if (word == "Threads:") {
            int threads;
            status >> threads;
            return threads;
        }
    }
    return -1;
}

TEST(Open, ManyTimesLeavesNothingBehind) {
    { Device once; } // what the C library and the sanitizers start once
    int before = process_threads();
    for (int i = 0; i < 100; i++) {
        struct device_config config = cpu_config();
        config.threads = 1 + i % 4;
        Device d(config);
        struct stream *stream = d.stream(STREAM_COMPUTE);
        struct event *event = d.event();
        int *target = d.alloc<int>(1);
        stream_copy(stream, target, &i, sizeof i, COPY_HOST_TO_DEVICE);
        event_record(event, stream);
        if (i % 2) { // the other half destroys streams that still work
            ASSERT_OK(event_sync(event));
            ASSERT_EQ(*target, i);
        }
    }
    EXPECT_EQ(process_threads(), before);
}

// ---- memory ----

TEST(Memory, ABudgetThatIsShortIsRefusedWithNumbers) {
    struct device_config config = cpu_config();
    config.device_memory = 8 << 20;
    config.host_memory = 4 << 20;
    Device d(config);
    void *first, *second, *host;
    ASSERT_OK(device_alloc(d.device, 6 << 20, "the arena", &first));
    struct status status = device_alloc(d.device, 3 << 20, "the workspace", &second);
    EXPECT_EQ(status.code, STATUS_NO_MEMORY);
    for (const char *text : {"the workspace", "3 MiB", "2 MiB of 8 MiB", "short by 1 MiB", "raise device_memory"}) {
        EXPECT_TRUE(contains(status.message, text)) << text << " is not in: " << status.message;
    }
    EXPECT_EQ(second, nullptr);
    status = device_alloc_host(d.device, (4 << 20) + 1024, "the pool", &host);
    EXPECT_EQ(status.code, STATUS_NO_MEMORY);
    EXPECT_TRUE(contains(status.message, "short by 1 KiB; raise host_memory")) << status.message;
    EXPECT_EQ(device_info(d.device).device_used, 6u << 20);
    EXPECT_EQ(device_info(d.device).host_used, 0u);

    device_free(d.device, first);
    EXPECT_EQ(device_info(d.device).device_used, 0u);
    ASSERT_OK(device_alloc(d.device, 8 << 20, "all of it", &first));
    ASSERT_OK(device_alloc_host(d.device, 4 << 20, "all of it", &host));
    device_free(d.device, first);
    device_free_host(d.device, host);
    device_free(d.device, nullptr);
    device_free_host(d.device, nullptr);
}

TEST(Memory, MoreThanThereIsIsRefused) {
    struct device_config config = cpu_config();
    config.device_memory = UINT64_MAX;
    Device d(config);
    void *address;
    EXPECT_EQ(device_alloc(d.device, (size_t)1 << 62, "a dream", &address).code, STATUS_NO_MEMORY);
    EXPECT_EQ(device_info(d.device).device_used, 0u);
}

TEST(Memory, IsAligned) {
    Device d;
    for (size_t bytes : {1, 63, 4096, 100000, 3 << 20}) {
        uintptr_t address = reinterpret_cast<uintptr_t>(d.alloc<char>(bytes));
        EXPECT_EQ(address % 64, 0u) << bytes;
        EXPECT_EQ(bytes >= 2 << 20 ? address % (2 << 20) : 0, 0u) << bytes;
    }
}

TEST(MemoryDeathTest, ABufferThatIsNotOursOrStillThereIsABug) {
    ::testing::FLAGS_gtest_death_test_style = "threadsafe";
    int other;
    EXPECT_DEATH(
        {
            Device d;
            device_free(d.device, &other);
        },
        "must hold");
    EXPECT_DEATH(
        {
            struct device_config config = cpu_config();
            struct device *device;
            void *address;
            device_open(&config, &device);
            device_alloc(device, 64, "a leak", &address);
            device_close(device);
        },
        "must hold");
}

// ---- order ----

TEST(Stream, RunsInOrderThroughAFullQueue) {
    Device d;
    struct stream *stream = d.stream();
    const int COUNT = 30000; // far more than a queue holds
    std::vector<int> source(COUNT);
    int *last = d.alloc<int>(1), *trail = d.alloc<int>(COUNT);
    for (int i = 0; i < COUNT; i++) {
        source[i] = i + 1;
        stream_copy(stream, last, &source[i], sizeof(int), COPY_HOST_TO_DEVICE);
        stream_copy(stream, &trail[i], last, sizeof(int), COPY_DEVICE_TO_DEVICE);
    }
    ASSERT_OK(stream_sync(stream));
    for (int i = 0; i < COUNT; i++) {
        ASSERT_EQ(trail[i], i + 1);
    }
}

#ifndef SANITIZED
TEST(Stream, EnqueuingAllocatesNothing) {
    Device d;
    struct stream *stream = d.stream(STREAM_COMPUTE), *copies = d.stream();
    struct event *event = d.event();
    float *x = d.alloc<float>(64), *gain = d.alloc<float>(64);
    auto enqueue_some = [&] {
        for (int i = 0; i < 5000; i++) {
            stream_copy(copies, gain, x, 64, COPY_DEVICE_TO_DEVICE);
            event_record(event, copies);
            stream_wait(stream, event);
            op_rmsnorm(stream, x, x, gain, 1e-5f, 1, 64);
            event_record(event, stream);
            stream_wait(copies, event);
        }
        ASSERT_OK(stream_sync(stream));
        ASSERT_OK(stream_sync(copies));
    };
    enqueue_some();
    size_t before = mallinfo2().uordblks;
    enqueue_some();
    EXPECT_EQ(mallinfo2().uordblks, before);
}
#endif

// A value that two streams pass to and fro, each copy at a random delay: right only if every wait holds.
TEST(Event, WaitsOrderStreamsWhateverTheDelays) {
    struct device_config config = cpu_config();
    config.copy_jitter_ns = 200000;
    config.seed = 7;
    Device d(config);
    struct stream *streams[2] = {d.stream(), d.stream()};
    struct event *events[2] = {d.event(), d.event()};
    const int HOPS = 200;
    int *cells = d.alloc<int>(HOPS + 1);
    int first = 42;
    stream_copy(streams[1], &cells[0], &first, sizeof first, COPY_HOST_TO_DEVICE);
    event_record(events[1], streams[1]);
    for (int hop = 0; hop < HOPS; hop++) {
        struct stream *stream = streams[hop % 2];
        stream_wait(stream, events[(hop + 1) % 2]);
        stream_copy(stream, &cells[hop + 1], &cells[hop], sizeof(int), COPY_DEVICE_TO_DEVICE);
        event_record(events[hop % 2], stream);
    }
    ASSERT_OK(stream_sync(streams[0]));
    ASSERT_OK(stream_sync(streams[1]));
    EXPECT_EQ(cells[HOPS], 42);
}

// The delays are worth their price only if they show a missing wait: without one, the order of two copies on two
// streams is chance. (Seen by the times of events, so that the test itself has no race.)
TEST(Event, DelayedCopiesShowAMissingWait) {
    struct device_config config = cpu_config();
    config.copy_jitter_ns = 1000000;
    config.seed = 3;
    Device d(config);
    struct stream *producer = d.stream(), *consumer = d.stream();
    struct event *produced = d.event(), *consumed = d.event();
    char *cells = d.alloc<char>(4);
    for (bool wait : {true, false}) {
        int wrong = 0;
        for (int i = 0; i < 40; i++) {
            stream_copy(producer, &cells[0], &cells[1], 1, COPY_DEVICE_TO_DEVICE);
            event_record(produced, producer);
            if (wait) {
                stream_wait(consumer, produced);
            }
            stream_copy(consumer, &cells[2], &cells[3], 1, COPY_DEVICE_TO_DEVICE);
            event_record(consumed, consumer);
            ASSERT_OK(event_sync(produced));
            ASSERT_OK(event_sync(consumed));
            wrong += event_time_ns(consumed) < event_time_ns(produced);
        }
        if (wait) {
            EXPECT_EQ(wrong, 0);
        } else {
            EXPECT_GE(wrong, 5) << "of 40";
        }
    }
}

TEST(Event, NeverRecordedIsPast) {
    Device d;
    struct stream *stream = d.stream();
    struct event *event = d.event();
    EXPECT_TRUE(event_query(event));
    EXPECT_OK(event_sync(event));
    stream_wait(stream, event);
    EXPECT_OK(stream_sync(stream));
}

// Recording again, on this stream or another, changes nothing for a wait that was enqueued before.
TEST(Event, RecordedAgainDoesNotConfuseAnEarlierWait) {
    struct device_config config = cpu_config();
    config.link_bytes_per_s = 1e6; // 80 ms for 80 kB
    Device d(config);
    struct stream *slow = d.stream(), *waiter = d.stream(), *idle = d.stream();
    struct event *event = d.event(), *first_end = d.event(), *second_end = d.event(), *waited = d.event();
    std::vector<char> source(80000);
    char *target = d.alloc<char>(source.size());

    stream_copy(slow, target, source.data(), source.size(), COPY_HOST_TO_DEVICE);
    event_record(first_end, slow);
    event_record(event, slow);
    stream_wait(waiter, event);
    event_record(waited, waiter);
    event_record(event, idle); // past at once: must not let the waiter through
    ASSERT_OK(event_sync(event));
    EXPECT_FALSE(event_query(waited));
    stream_copy(slow, target, source.data(), source.size(), COPY_HOST_TO_DEVICE);
    event_record(event, slow); // 80 ms later: must not hold the waiter up
    event_record(second_end, slow);
    ASSERT_OK(event_sync(waited));
    EXPECT_FALSE(event_query(event));
    ASSERT_OK(stream_sync(slow));
    EXPECT_GE(event_time_ns(waited), event_time_ns(first_end));
    EXPECT_LT(event_time_ns(waited), event_time_ns(second_end));
    EXPECT_LE(event_time_ns(event), event_time_ns(second_end)) << "the time is the latest record's";
    EXPECT_GE(event_time_ns(event), event_time_ns(first_end) + 40 * NS_PER_MS);
}

// An older record that is passed later does not change what the event says.
TEST(Event, TellsTheTimeOfItsLatestRecord) {
    struct device_config config = cpu_config();
    config.link_bytes_per_s = 1e6;
    Device d(config);
    struct stream *slow = d.stream(), *idle = d.stream();
    struct event *event = d.event();
    std::vector<char> source(40000); // 40 ms
    char *target = d.alloc<char>(source.size());
    stream_copy(slow, target, source.data(), source.size(), COPY_HOST_TO_DEVICE);
    event_record(event, slow);
    event_record(event, idle);
    ASSERT_OK(event_sync(event));
    uint64_t time_ns = event_time_ns(event);
    ASSERT_OK(stream_sync(slow));
    EXPECT_EQ(event_time_ns(event), time_ns);
}

TEST(Event, OutlivesItsStreamAndTheOtherWayRound) {
    Device d;
    struct event *event = d.event();
    char *cells = d.alloc<char>(2);
    for (int i = 0; i < 50; i++) {
        struct stream *stream, *waiter;
        ASSERT_OK(stream_create(d.device, STREAM_COPY, &stream));
        ASSERT_OK(stream_create(d.device, STREAM_COPY, &waiter));
        struct event *brief;
        ASSERT_OK(event_create(d.device, &brief));
        stream_copy(stream, &cells[0], &cells[1], 1, COPY_DEVICE_TO_DEVICE);
        event_record(event, stream);
        event_record(brief, stream);
        stream_wait(waiter, brief);
        event_destroy(brief);
        stream_destroy(stream);
        EXPECT_TRUE(event_query(event));
        EXPECT_OK(event_sync(event));
        EXPECT_GT(event_time_ns(event), 0u);
        EXPECT_OK(stream_sync(waiter));
        stream_wait(waiter, event);
        stream_destroy(waiter);
    }
    event_destroy(nullptr);
    stream_destroy(nullptr);
}

// ---- errors ----

// A table of 4 rows of 32 values, packed, and a command that asks it for a fifth.
class Failing {
  public:
    explicit Failing(Device &d) : device(d) {
        std::vector<float> rows(4 * 32, 1.0f);
        size_t bytes = device_packed_bytes(d.device, TENSOR_F32, 4, 32);
        packed = d.alloc<char>(bytes);
        device_pack(d.device, TENSOR_F32, 4, 32, rows.data(), packed);
        ids = d.alloc<uint32_t>(1);
        ids[0] = 4;
        out = d.alloc<float>(32);
    }
    void enqueue(struct stream *stream) {
        op_embed(stream, out, {packed, TENSOR_F32, 4, 32}, ids, 1);
    }

  private:
    Device &device;
    char *packed;
    uint32_t *ids;
    float *out;
};

TEST(Error, SticksToItsStreamAndToWhatWaitsForIt) {
    Device d;
    Failing failing(d);
    struct stream *stream = d.stream(STREAM_COMPUTE), *dependent = d.stream(), *bystander = d.stream();
    struct event *before = d.event(), *after = d.event(), *aside = d.event();
    char *cells = d.alloc<char>(8);
    const char one = 1;

    stream_copy(stream, &cells[0], &one, 1, COPY_HOST_TO_DEVICE);
    event_record(before, stream);
    failing.enqueue(stream);
    stream_copy(stream, &cells[1], &one, 1, COPY_HOST_TO_DEVICE); // skipped
    event_record(after, stream);
    stream_wait(dependent, before);
    stream_copy(dependent, &cells[2], &one, 1, COPY_HOST_TO_DEVICE);
    event_record(aside, dependent);
    stream_wait(dependent, after);
    stream_copy(dependent, &cells[3], &one, 1, COPY_HOST_TO_DEVICE); // skipped
    stream_copy(bystander, &cells[4], &one, 1, COPY_HOST_TO_DEVICE);

    for (int i = 0; i < 2; i++) {
        struct status status = stream_sync(stream);
        EXPECT_EQ(status.code, STATUS_DEVICE);
        EXPECT_TRUE(contains(status.message, "4")) << status.message;
        EXPECT_STREQ(event_sync(after).message, status.message);
        EXPECT_STREQ(stream_sync(dependent).message, status.message);
    }
    EXPECT_OK(event_sync(before));
    EXPECT_OK(event_sync(aside));
    EXPECT_OK(stream_sync(bystander));
    EXPECT_TRUE(event_query(after)) << "a failed stream's events are past: nobody waits for ever";
    EXPECT_GE(event_time_ns(after), event_time_ns(before));
    EXPECT_EQ(std::string(cells, 5), std::string("\1\0\1\0\1", 5));
}

TEST(Error, IsGoneWithItsStream) {
    Device d;
    Failing failing(d);
    for (int i = 0; i < 20; i++) {
        struct stream *stream;
        ASSERT_OK(stream_create(d.device, STREAM_COMPUTE, &stream));
        EXPECT_OK(stream_sync(stream));
        if (i % 2 == 0) {
            failing.enqueue(stream);
            EXPECT_EQ(stream_sync(stream).code, STATUS_DEVICE);
        }
        stream_destroy(stream);
    }
}

// ---- the clock, and doing nothing ----

TEST(Clock, SleepsUntil) {
    Device d;
    uint64_t begin_ns = device_now_ns(d.device);
    device_sleep_until_ns(d.device, begin_ns + 5 * NS_PER_MS);
    EXPECT_GE(device_now_ns(d.device), begin_ns + 5 * NS_PER_MS);
    device_sleep_until_ns(d.device, begin_ns); // past: at once
}

uint64_t processor_time_ns() {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (uint64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * NS_PER_S +
           (uint64_t)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * NS_PER_US;
}

TEST(Clock, AnIdleOrWaitingDeviceUsesNoProcessor) {
    struct device_config config = cpu_config();
    config.threads = 4;
    config.link_bytes_per_s = 1e6;
    Device d(config);
    struct stream *compute = d.stream(STREAM_COMPUTE), *copies = d.stream();
    struct event *arrived = d.event();
    std::vector<char> host(200000); // 200 ms
    char *target = d.alloc<char>(host.size());
    float *x = d.alloc<float>(400 * 256), *gain = d.alloc<float>(256);
    op_rmsnorm(compute, x, x, gain, 1e-5f, 400, 256); // wakes the pool
    ASSERT_OK(stream_sync(compute));
    uint64_t before_ns = processor_time_ns();
    stream_copy(copies, target, host.data(), host.size(), COPY_HOST_TO_DEVICE);
    event_record(arrived, copies);
    stream_wait(compute, arrived);
    ASSERT_OK(stream_sync(compute)); // the host, the pool and the compute stream wait, the copy is paced
    EXPECT_LE(processor_time_ns() - before_ns, 40 * NS_PER_MS) << "of 200 ms and 6 threads";
}

// ---- two compute streams at once ----

// Ops of two streams take turns on the one pool and its scratch; each stream's results are its own.
TEST(Stream, TwoComputeStreamsDoNotDisturbEachOther) {
    struct device_config config = cpu_config();
    config.threads = 3;
    Device d(config);
    const uint32_t ROWS = 200, DIM = 512;
    Random random(5);
    std::vector<float> values = random.normals((size_t)ROWS * DIM), gain = random.normals(DIM);
    float *device_gain = d.alloc<float>(DIM);
    memcpy(device_gain, gain.data(), gain.size() * sizeof(float));
    float *x[2];
    struct stream *streams[2];
    for (int i = 0; i < 2; i++) {
        x[i] = d.alloc<float>(values.size());
        memcpy(x[i], values.data(), values.size() * sizeof(float));
        streams[i] = d.stream(STREAM_COMPUTE);
    }
    for (int round = 0; round < 100; round++) {
        for (int i = 0; i < 2; i++) {
            op_rmsnorm(streams[i], x[i], x[i], device_gain, 1e-5f, ROWS, DIM);
        }
    }
    for (int i = 0; i < 2; i++) {
        ASSERT_OK(stream_sync(streams[i]));
    }
    EXPECT_EQ(memcmp(x[0], x[1], values.size() * sizeof(float)), 0);
    EXPECT_FALSE(std::isnan(x[0][0]));
}

} // namespace
