// Work that repeats, on a GPU or the emulator of tests/cuemu: as graphs it gives what it gives launched one by one, and
// is launched as often as it should be. With CUEMU_DELAY_US every operation is late at random, so that a wait that a
// graph misses is seen.
#include "tests/unit/kernels/kernel_test.h"

namespace {

constexpr uint32_t WIDTH = 512;

struct device_config cuda_config(bool graphs) {
    struct device_config config = {};
    config.name = "cuda";
    config.no_graphs = !graphs;
    return config;
}

class CudaGraph : public ::testing::Test {
  protected:
    void SetUp() override {
        if (!can_open({"cuda", "auto", 1, COMPUTE_INT8})) {
            GTEST_SKIP() << "no cuda device";
        }
    }
};

// An iteration of a few ops, whose results depend on their order: out = (in * scale) / rms + in, halved `halvings`
// times.
void enqueue(Bench &bench, Buffer<float> &out, const float *in, const float *gain, float scale, int halvings) {
    stream_copy(bench.stream, out.at(), in, WIDTH * sizeof(float), COPY_HOST_TO_DEVICE);
    op_scale(bench.stream, out.at(), scale, 1, WIDTH);
    op_rmsnorm(bench.stream, out.at(), out.at(), gain, 1e-5f, 1, WIDTH);
    for (int i = 0; i < halvings; i++) {
        op_scale(bench.stream, out.at(), 0.5f, 1, WIDTH);
    }
}

struct Pinned {
    Pinned(Bench &on, const std::vector<float> &values) : bench(on) {
        void *address = nullptr;
        EXPECT_OK(device_alloc_host(bench.device, values.size() * sizeof(float), "a test's input", &address));
        at = static_cast<float *>(address);
        std::copy(values.begin(), values.end(), at);
    }
    ~Pinned() {
        device_free_host(bench.device, at);
    }
    Bench &bench;
    float *at;
};

// What `rounds` iterations give one after the other, and what was launched for it.
std::vector<std::vector<float>> run(bool graphs, const std::vector<std::pair<float, int>> &rounds,
                                    struct launch_count *count) {
    Bench bench(cuda_config(graphs));
    std::vector<std::vector<float>> results;
    {
        Random random(1);
        Pinned in(bench, random.normals(WIDTH));
        Buffer<float> gain(bench, random.normals(WIDTH)), out(bench, WIDTH);
        for (auto [scale, halvings] : rounds) {
            stream_repeat_begin(bench.stream);
            enqueue(bench, out, in.at, gain.at(), scale, halvings);
            stream_repeat_end(bench.stream);
            results.push_back(out.read());
        }
    }
    *count = device_launch_count(bench.device);
    return results;
}

TEST_F(CudaGraph, GivesTheSameBitsAndIsLaunchedAgain) {
    // Twice the same, then another number, then another list, then the first again.
    const std::vector<std::pair<float, int>> rounds = {{2, 3}, {2, 3}, {2, 3}, {5, 3}, {5, 4}, {5, 4}, {2, 3}};
    struct launch_count with, without;
    EXPECT_EQ(run(true, rounds, &with), run(false, rounds, &without));
    EXPECT_EQ(without.graphs, 0u);
    EXPECT_EQ(without.kernels, 7u * 5 + 2);
    EXPECT_EQ(with.graphs, 5u) << "all but the first of each shape";
    EXPECT_EQ(with.graph_nodes, 4u * 6 + 7);
    EXPECT_EQ(with.kernels, 5u + 6) << "the first of each shape";
    EXPECT_EQ(with.instantiations, 2u);
    EXPECT_EQ(with.updates, 2u) << "the factor, to and fro";
    EXPECT_EQ(with.refusals, 0u);
}

// Few operations are not worth a graph; without brackets there is none.
TEST_F(CudaGraph, ShortListsAndWhatIsNotBracketedAreLaunchedOneByOne) {
    Bench bench(cuda_config(true));
    {
        Buffer<float> x(bench, std::vector<float>(8, 1.0f));
        for (int i = 0; i < 4; i++) {
            stream_repeat_begin(bench.stream);
            op_scale(bench.stream, x.at(), 2, 1, 8);
            op_scale(bench.stream, x.at(), 2, 1, 8);
            stream_repeat_end(bench.stream);
            op_scale(bench.stream, x.at(), 0.25f, 1, 8);
            op_scale(bench.stream, x.at(), 2, 1, 8);
            op_scale(bench.stream, x.at(), 0.5f, 1, 8);
        }
        EXPECT_EQ(x.read(), std::vector<float>(8, 1.0f));
    }
    const struct launch_count count = device_launch_count(bench.device);
    EXPECT_EQ(count.graphs + count.instantiations, 0u);
    EXPECT_EQ(count.kernels, 20u);
}

// What has been asked of the stream is there when somebody looks, though the brackets are open.
TEST_F(CudaGraph, WhoLooksSeesAllThatWasEnqueued) {
    Bench bench(cuda_config(true));
    struct event *event, *never;
    struct stream *other;
    ASSERT_OK(event_create(bench.device, &event));
    ASSERT_OK(event_create(bench.device, &never));
    ASSERT_OK(stream_create(bench.device, STREAM_COPY, &other));
    {
        Buffer<float> x(bench, std::vector<float>(8, 1.0f)), y(bench, 8);
        std::vector<float> seen(8);
        for (int round = 0; round < 3; round++) {
            stream_repeat_begin(bench.stream);
            for (int i = 0; i < 3; i++) {
                op_scale(bench.stream, x.at(), 2, 1, 8);
            }
            event_record(event, bench.stream);
            stream_wait(bench.stream, event); // in order already
            stream_wait(bench.stream, never);
            stream_wait(other, event);
            stream_copy(other, seen.data(), x.at(), 32, COPY_DEVICE_TO_HOST);
            ASSERT_OK(stream_sync(other));
            EXPECT_EQ(seen[0], std::pow(8.0f, round * 4 + 1));
            for (int look = 0; look < 3; look++) {
                for (int i = 0; i < 3; i++) {
                    op_scale(bench.stream, x.at(), 2, 1, 8);
                }
                event_record(event, bench.stream);
                if (look == 0) {
                    ASSERT_OK(event_sync(event));
                } else if (look == 1) {
                    while (!event_query(event)) {
                    }
                } else {
                    ASSERT_OK(stream_sync(bench.stream));
                }
                EXPECT_LE(event_time_ns(event), device_now_ns(bench.device) + NS_PER_MS);
            }
            stream_repeat_end(bench.stream);
        }
        EXPECT_EQ(x.read()[0], std::pow(8.0f, 12));
    }
    EXPECT_EQ(device_launch_count(bench.device).graphs, 8u) << "four lists a round, each its own graph";
    stream_destroy(other);
    event_destroy(event);
    event_destroy(never);
}

// A wait in a graph is for the event that was asked for, now this one and now that, and for its record of then: that it
// is recorded again on an idle stream, before the list has gone, changes nothing.
TEST_F(CudaGraph, AWaitMeansTheRecordThatWasTheLatestWhenItWasAsked) {
    Bench bench(cuda_config(true));
    struct event *arrived[2];
    struct stream *busy, *idle;
    for (struct event *&event : arrived) {
        ASSERT_OK(event_create(bench.device, &event));
    }
    ASSERT_OK(stream_create(bench.device, STREAM_COPY, &busy));
    ASSERT_OK(stream_create(bench.device, STREAM_COPY, &idle));
    {
        constexpr int ROUNDS = 12, COPIES = 20;
        std::vector<float> numbers(8 * ROUNDS);
        for (size_t i = 0; i < numbers.size(); i++) {
            numbers[i] = static_cast<float>(i / 8 + 1);
        }
        Pinned host(bench, numbers);
        Buffer<float> x(bench, std::vector<float>(8)), y(bench, std::vector<float>(8));
        for (int round = 0; round < ROUNDS; round++) {
            struct event *event = arrived[round % 2];
            for (int i = COPIES - 1; i >= 0; i--) { // the last is the round's own
                stream_copy(busy, x.at(), host.at + std::max(round - i, 0) * 8, 32, COPY_HOST_TO_DEVICE);
            }
            event_record(event, busy);
            stream_repeat_begin(bench.stream);
            stream_wait(bench.stream, event);
            stream_copy(bench.stream, y.at(), x.at(), 32, COPY_DEVICE_TO_DEVICE);
            op_scale(bench.stream, y.at(), 2, 1, 8);
            event_record(event, idle);
            op_scale(bench.stream, y.at(), 2, 1, 8);
            stream_repeat_end(bench.stream);
            EXPECT_EQ(y.read(), std::vector<float>(8, 4.0f * static_cast<float>(round + 1)));
        }
    }
    EXPECT_EQ(device_launch_count(bench.device).graphs, 11u);
    stream_destroy(busy);
    stream_destroy(idle);
    for (struct event *event : arrived) {
        event_destroy(event);
    }
}

// An event is destroyed and another takes its place, perhaps its very handle: the graph follows.
TEST_F(CudaGraph, EventsComeAndGo) {
    Bench bench(cuda_config(true));
    {
        Buffer<float> x(bench, std::vector<float>(8, 1.0f));
        for (int round = 0; round < 6; round++) {
            struct event *event;
            ASSERT_OK(event_create(bench.device, &event));
            stream_repeat_begin(bench.stream);
            for (int i = 0; i < 3; i++) {
                op_scale(bench.stream, x.at(), 2, 1, 8);
            }
            event_record(event, bench.stream);
            stream_repeat_end(bench.stream);
            ASSERT_OK(event_sync(event));
            EXPECT_GT(event_time_ns(event), 0u);
            event_destroy(event);
        }
        EXPECT_EQ(x.read()[0], std::pow(8.0f, 6));
    }
    const struct launch_count count = device_launch_count(bench.device);
    EXPECT_EQ(count.instantiations, 1u);
    EXPECT_EQ(count.updates, 4u);
}

// More shapes than are kept, by number or by operations: the oldest go, and come again as if they were new. Copies,
// whose two directions make the shapes.
TEST_F(CudaGraph, OnlySoManyAreKept) {
    struct Case {
        unsigned shapes, operations;
    };
    for (const Case &c : {Case{300, 9}, Case{9, 2000}}) {
        Bench bench(cuda_config(true));
        {
            Buffer<float> x(bench, 8), y(bench, 8);
            Pinned host(bench, std::vector<float>(8));
            const auto launch_shape = [&](unsigned shape) {
                stream_repeat_begin(bench.stream);
                for (unsigned i = 0; i < c.operations; i++) {
                    if (i < 9 && (shape >> i & 1)) {
                        stream_copy(bench.stream, x.at(), host.at, 32, COPY_HOST_TO_DEVICE);
                    } else {
                        stream_copy(bench.stream, x.at(), y.at(), 32, COPY_DEVICE_TO_DEVICE);
                    }
                }
                stream_repeat_end(bench.stream);
            };
            for (int round = 0; round < 2; round++) {
                for (unsigned shape = 0; shape < c.shapes; shape++) {
                    launch_shape(shape);
                }
            }
            EXPECT_EQ(device_launch_count(bench.device).instantiations, 0u) << "none lasts until it comes again";
            for (int round = 0; round < 3; round++) {
                launch_shape(0);
            }
            EXPECT_EQ(device_launch_count(bench.device).instantiations, 1u);
            EXPECT_EQ(device_launch_count(bench.device).graphs, 2u);
            ASSERT_OK(stream_sync(bench.stream));
        }
    }
}

// A list longer than there is room for goes in pieces.
TEST_F(CudaGraph, ALongListGoesInPieces) {
    constexpr int OPS = 5000;
    Bench bench(cuda_config(true));
    {
        Buffer<float> x(bench, std::vector<float>(8, 0.0f)), one(bench, std::vector<float>(8, 1.0f));
        for (int round = 0; round < 2; round++) {
            stream_repeat_begin(bench.stream);
            for (int i = 0; i < OPS / 2; i++) {
                op_scale(bench.stream, one.at(), i % 2 ? 0.5f : 2.0f, 1, 8);
                stream_copy(bench.stream, x.at(), one.at(), 32, COPY_DEVICE_TO_DEVICE);
            }
            stream_repeat_end(bench.stream);
        }
        EXPECT_EQ(x.read(), std::vector<float>(8, 1.0f));
    }
    const struct launch_count count = device_launch_count(bench.device);
    EXPECT_GT(count.graphs, 1u);
    EXPECT_EQ(count.graph_nodes, static_cast<uint64_t>(OPS));
}

// The ring of offload/pipeline.c: a copy stream fills slots ahead, compute waits for each, uses it and releases it, and
// the next copy into it waits for that. Every layer's number must be seen once, in order.
class CudaRing : public CudaGraph, public ::testing::WithParamInterface<int> {};

TEST_P(CudaRing, WaitsInsideGraphsHold) {
    const int SLOTS = GetParam(), LAYERS = 7, ITERATIONS = 12;
    Bench bench(cuda_config(true));
    struct stream *copies;
    ASSERT_OK(stream_create(bench.device, STREAM_COPY, &copies));
    std::vector<struct event *> arrived(SLOTS), released(SLOTS), asked(LAYERS), started(LAYERS);
    for (auto *list : {&arrived, &released, &asked, &started}) {
        for (struct event *&event : *list) {
            ASSERT_OK(event_create(bench.device, &event));
        }
    }
    {
        std::vector<float> weights;
        for (int layer = 0; layer < LAYERS; layer++) {
            weights.insert(weights.end(), WIDTH, static_cast<float>(layer + 1));
        }
        Pinned host(bench, weights);
        Buffer<float> ring(bench, std::vector<float>(static_cast<size_t>(SLOTS) * WIDTH)),
            trail(bench, static_cast<size_t>(LAYERS) * WIDTH), gain(bench, std::vector<float>(WIDTH, 1.0f));
        int sent = 0;
        const auto send = [&] {
            const int slot = sent % SLOTS;
            if (sent >= SLOTS) {
                stream_wait(copies, released[slot]);
            }
            stream_copy(copies, ring.at() + slot * WIDTH, host.at + sent % LAYERS * WIDTH, WIDTH * sizeof(float),
                        COPY_HOST_TO_DEVICE);
            event_record(arrived[slot], copies);
            sent++;
        };
        while (sent < SLOTS) {
            send();
        }
        int taken = 0;
        for (int iteration = 0; iteration < ITERATIONS; iteration++) {
            stream_repeat_begin(bench.stream);
            for (int layer = 0; layer < LAYERS; layer++) {
                const int slot = taken++ % SLOTS;
                float *weight = ring.at() + slot * WIDTH, *out = trail.at() + layer * WIDTH;
                event_record(asked[layer], bench.stream);
                stream_wait(bench.stream, arrived[slot]);
                event_record(started[layer], bench.stream);
                stream_copy(bench.stream, out, weight, WIDTH * sizeof(float), COPY_DEVICE_TO_DEVICE);
                op_scale(bench.stream, out, 3, 1, WIDTH);
                op_scale(bench.stream, weight, -1, 1, WIDTH); // what comes too early, or is used twice, is seen
                event_record(released[slot], bench.stream);
                send();
            }
            stream_repeat_end(bench.stream);
            const std::vector<float> seen = trail.read();
            for (int layer = 0; layer < LAYERS; layer++) {
                for (uint32_t i = 0; i < WIDTH; i++) {
                    ASSERT_EQ(seen[layer * WIDTH + i], 3.0f * (layer + 1)) << "iteration " << iteration;
                }
                ASSERT_LE(event_time_ns(asked[layer]), event_time_ns(started[layer]));
            }
        }
        ASSERT_OK(stream_sync(copies));
    }
    const struct launch_count count = device_launch_count(bench.device);
    EXPECT_EQ(count.graphs, static_cast<uint64_t>((ITERATIONS - 1) * LAYERS)) << "one a layer, its waits inside";
    EXPECT_EQ(count.instantiations, static_cast<uint64_t>(LAYERS));
    stream_destroy(copies);
    for (auto *list : {&arrived, &released, &asked, &started}) {
        for (struct event *event : *list) {
            event_destroy(event);
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Slots, CudaRing, ::testing::Values(1, 2, 3, 7));

// ---- several GPUs ----

constexpr uint32_t VALUES = 300;

// Two or more ranks, each with VALUES values that begin as its number from 1.
struct Ranks {
    explicit Ranks(uint32_t of, bool graphs = true) : d(config_of(of, graphs)), ranks(of) {
        stream = d.stream(STREAM_COMPUTE);
        copies = d.stream(STREAM_COPY);
        done = d.event();
        void *address = nullptr;
        EXPECT_OK(device_alloc(d.device, VALUES * sizeof(float), "a test's buffer", &address));
        x = static_cast<float *>(address);
        EXPECT_OK(device_alloc_host(d.device, VALUES * sizeof(float), "a test's values", &address));
        host = static_cast<float *>(address);
        for (uint32_t rank = 0; rank < ranks; rank++) {
            float *own = static_cast<float *>(device_rank_host(d.device, host, rank));
            std::fill(own, own + VALUES, static_cast<float>(rank + 1));
        }
        stream_copy(stream, x, host, VALUES * sizeof(float), COPY_HOST_TO_DEVICE);
        EXPECT_OK(stream_sync(stream));
        for (uint32_t rank = 0; rank < ranks; rank++) {
            want.push_back(static_cast<float>(rank + 1));
        }
    }
    ~Ranks() {
        EXPECT_OK(stream_sync(stream));
        EXPECT_OK(stream_sync(copies));
        device_free(d.device, x);
        device_free_host(d.device, host);
    }
    static struct device_config config_of(uint32_t ranks, bool graphs) {
        struct device_config config = cuda_config(graphs);
        config.ranks = ranks;
        return config;
    }
    static bool are_here(uint32_t ranks) {
        const struct device_config config = config_of(ranks, true);
        struct device *device = nullptr;
        const bool here = device_open(&config, &device).code == STATUS_OK;
        device_close(device);
        return here;
    }
    bool by_peers() {
        return strcmp(device_info(d.device).sums, "peer memory") == 0;
    }
    void add_up(float factor) {
        op_all_reduce(stream, x, 1, VALUES);
        op_scale(stream, x, factor, 1, VALUES);
        float sum = want[0];
        for (uint32_t rank = 1; rank < ranks; rank++) {
            sum += want[rank];
        }
        std::fill(want.begin(), want.end(), sum * factor);
    }
    // Copies all values back on the copy stream, which waits for what was asked of the other.
    void receive() {
        event_record(done, stream);
        stream_wait(copies, done);
        stream_copy(copies, host, x, VALUES * sizeof(float), COPY_DEVICE_TO_HOST);
    }
    void expect_values() {
        EXPECT_OK(stream_sync(copies));
        for (uint32_t rank = 0; rank < ranks; rank++) {
            const float *own = static_cast<float *>(device_rank_host(d.device, host, rank));
            for (uint32_t i = 0; i < VALUES; i++) {
                ASSERT_FLOAT_EQ(own[i], want[rank]) << i << " of rank " << rank;
            }
        }
    }
    Device d;
    uint32_t ranks;
    struct stream *stream, *copies;
    struct event *done;
    float *x, *host;
    std::vector<float> want;
};

// Sums over peer memory are in the graphs, one graph an iteration and rank; NCCL's end them. An even number of sums
// finds the inboxes as it left them, and nothing in the graph changes.
TEST_F(CudaGraph, HasTheSumsOverRanksInIt) {
    if (!Ranks::are_here(2)) {
        GTEST_SKIP() << "there is one GPU";
    }
    for (uint32_t of : {2, 3, 4}) {
        for (uint64_t sums : {2, 3}) {
            if (!Ranks::are_here(of)) {
                continue;
            }
            SCOPED_TRACE(std::to_string(of) + " ranks, " + std::to_string(sums) + " sums");
            Ranks ranks(of);
            for (int i = 0; i < 10; i++) {
                stream_repeat_begin(ranks.stream);
                for (uint64_t j = 0; j < sums; j++) {
                    ranks.add_up(1.0f / static_cast<float>(of));
                }
                stream_repeat_end(ranks.stream);
            }
            ranks.receive();
            ranks.expect_values();
            const struct launch_count count = device_launch_count(ranks.d.device);
            EXPECT_EQ(count.graphs, ranks.by_peers() ? 9u : 0u);
            EXPECT_EQ(count.updates, ranks.by_peers() && sums == 3 ? 8u * 3 : 0u);
        }
    }
}

// The host waits for rank 0 first, whose kernels wait for those of the others: all of them have gone to their GPUs.
TEST_F(CudaGraph, NoRankIsHeldBackWhileTheHostWaitsForAnother) {
    if (!Ranks::are_here(2)) {
        GTEST_SKIP() << "there is one GPU";
    }
    for (uint32_t of : {2, 4}) {
        for (bool graphs : {true, false}) {
            if (!Ranks::are_here(of)) {
                continue;
            }
            Ranks ranks(of, graphs);
            for (int i = 0; i < 6; i++) {
                stream_repeat_begin(ranks.stream);
                ranks.add_up(0.5f);
                ranks.add_up(0.5f);
                EXPECT_OK(stream_sync(ranks.stream));
                ranks.add_up(0.5f);
                event_record(ranks.done, ranks.stream);
                EXPECT_OK(event_sync(ranks.done));
                ranks.add_up(0.5f);
                ranks.receive();
                ranks.add_up(1.0f / static_cast<float>(of * of * of * of) * 4); // that stays behind
                stream_repeat_end(ranks.stream);
                EXPECT_OK(stream_sync(ranks.stream));
            }
            ranks.receive();
            ranks.expect_values();
        }
    }
}

} // namespace
