// Tensor parallelism under a whole engine, on cpu or on the device that METRONOME_TEST_DEVICE names: one decides, the
// ranks follow. Weights that leave and come back, KV blocks that park, sequences that come and go: the same bits as
// without all that, and the tokens of the model in one piece.
#include "tests/unit/models/tiny_model.h"
#include "tests/unit/scheduler/running_engine.h"

#include <functional>

namespace {

const uint32_t CONTEXT = 96;

// The device that METRONOME_TEST_DEVICE names, cpu if it names none; where it is emulated, fewer requests.
const char *device_name() {
    const char *named = getenv("METRONOME_TEST_DEVICE");
    return named ? named : "cpu";
}
bool on_cpu() {
    return strcmp(device_name(), "cpu") == 0;
}
const uint32_t KINDS = on_cpu() ? 8 : 3;

const SharedTinyModel &tiny() {
    static const SharedTinyModel model(4, CONTEXT);
    return model;
}

Options tiny_options(uint32_t ranks) {
    Options options;
    options.weights = tiny().path;
    options.device = device_name();
    options.threads = ranks;
    options.ranks = ranks;
    options.context = CONTEXT;
    options.max_sequences = 6;
    options.max_batch_tokens = 24;
    return options;
}

std::unique_ptr<Request> request_of(uint32_t kind) {
    struct random_state random;
    random_seed(&random, kind + 1);
    std::vector<uint32_t> prompt(1 + random_below(&random, 25));
    for (uint32_t &token : prompt) {
        token = (uint32_t)random_below(&random, tiny().vocabulary);
    }
    auto request = std::make_unique<Request>(prompt, 20 + (uint32_t)random_below(&random, 40));
    request->request.sampling.ignore_eos = true;
    request->request.sampling.logprobs = true;
    return request;
}

// What each kind of request gives when it is alone and has room.
std::vector<Outcome> alone_on(uint32_t ranks) {
    Options options = tiny_options(ranks);
    Engine engine(options);
    std::vector<Outcome> outcomes;
    for (uint32_t kind = 0; kind < KINDS; kind++) {
        std::unique_ptr<Request> request = request_of(kind);
        Engine::check(engine_submit(engine.engine, &request->request));
        run_until_idle(engine);
        outcomes.push_back(request->outcome);
    }
    return outcomes;
}

TEST(RanksOfAnEngine, GiveTheTokensOfOne) {
    const std::vector<Outcome> whole = alone_on(1);
    for (uint32_t ranks : {2, 4}) {
        const std::vector<Outcome> split = alone_on(ranks);
        for (uint32_t kind = 0; kind < KINDS; kind++) {
            EXPECT_EQ(split[kind].tokens, whole[kind].tokens);
            for (size_t i = 0; i < whole[kind].logprobs.size(); i++) {
                EXPECT_NEAR(split[kind].logprobs[i], whole[kind].logprobs[i], 1e-3);
            }
        }
    }
}

// All kinds of requests twice, at once; what they give must be what they give alone, to the bit.
struct engine_stats crowd(const Options &options, const std::vector<Outcome> &want,
                          const std::function<void(struct device *)> &disturb) {
    Engine engine(options);
    std::vector<std::unique_ptr<Request>> requests;
    for (uint32_t i = 0; i < 2 * KINDS; i++) {
        requests.push_back(request_of(i % KINDS));
        requests.back()->request.arrival_ns = device_now_ns(engine.device);
        Engine::check(engine_submit(engine.engine, &requests.back()->request));
    }
    for (bool idle = false; !idle;) {
        disturb(engine.device);
        Engine::check(engine_step(engine.engine, &idle));
        drain_events(engine.engine);
    }
    for (uint32_t i = 0; i < requests.size(); i++) {
        EXPECT_EQ(requests[i]->outcome.tokens, want[i % KINDS].tokens);
        EXPECT_EQ(requests[i]->outcome.logprobs, want[i % KINDS].logprobs);
    }
    EXPECT_TRUE(engine.all_blocks_free());
    struct engine_stats stats;
    engine_stats(engine.engine, &stats);
    return stats;
}

// Weights leave and come back with a link that is now fast, now slow, and copies that are late at random: every rank
// places and streams the same.
TEST(RanksOfAnEngine, OffloadAlike) {
    const std::vector<Outcome> want = alone_on(2);
    Options options = tiny_options(2);
    options.policy = "metronome";
    options.tpot_ms = 10000;
    options.copy_jitter_ns = on_cpu() ? 20000 : 0;
    options.link_gbps = on_cpu() ? 0.05 : 0;
    struct random_state random;
    random_seed(&random, 3);
    const struct engine_stats stats = crowd(options, want, [&](struct device *device) {
        static const double rates[] = {5e9, 5e8, 5e7};
        device_set_link(device, on_cpu() ? rates[random_below(&random, 3)] : 0);
    });
    EXPECT_GT(stats.offload.total_bytes_streamed, 0u) << "a test of offloading with nothing offloaded";
}

// A cache for one sequence at its longest and six that run: blocks park, and come back to each rank.
TEST(RanksOfAnEngine, ParkAlike) {
    const std::vector<Outcome> want = alone_on(2);
    Options options = tiny_options(2);
    options.kv_tokens = CONTEXT;
    options.kv_host_memory = 1 << 30;
    options.copy_jitter_ns = on_cpu() ? 20000 : 0;
    const struct engine_stats stats = crowd(options, want, [](struct device *) {});
    EXPECT_GT(stats.resumed, 0u);
    EXPECT_GT(stats.offload.kv_blocks_in, 0u);
}

// Each rank's device memory is its own: what one takes for its share is less than the whole takes.
TEST(RanksOfAnEngine, ShareTheMemory) {
    uint64_t weights[2], kv[2];
    for (uint32_t ranks : {1, 2}) {
        Options options = tiny_options(ranks);
        Engine engine(options);
        struct engine_stats stats;
        engine_stats(engine.engine, &stats);
        weights[ranks - 1] = stats.offload.weight_bytes_device;
        kv[ranks - 1] = stats.offload.arena_bytes - stats.offload.weight_bytes_device - stats.offload.lost_bytes;
        EXPECT_EQ(device_info(engine.device).ranks, ranks);
    }
    EXPECT_LE((double)weights[1], 0.6 * (double)weights[0]); // norms are everybody's
    EXPECT_EQ(2 * kv[1], kv[0]);
}

// On sim one rank stands for all, with half of the heads and what sums take.
TEST(RanksOfAnEngine, AreSimulatedByOne) {
    double tpot[2];
    for (uint32_t ranks : {1, 2}) {
        Options options = tiny_options(ranks);
        options.device = "sim";
        options.hardware = "configs/hardware/cpu.json";
        Engine engine(options);
        std::unique_ptr<Request> request = request_of(1);
        Engine::check(engine_submit(engine.engine, &request->request));
        run_until_idle(engine);
        EXPECT_EQ(request->outcome.finish, FINISH_LENGTH);
        struct engine_stats stats;
        engine_stats(engine.engine, &stats);
        EXPECT_EQ(device_info(engine.device).ranks, ranks);
        tpot[ranks - 1] = stats.tpot_s.sum / (double)stats.tpot_s.total;
    }
    EXPECT_NE(tpot[0], tpot[1]); // of a model as tiny as this the sums are most
}

// The demo model: 9 heads of queries and 3 of keys for 3 ranks, half of the weights in host memory.
TEST_F(EngineTest, ThreeRanksGiveTheTokensOfOne) {
    if (SANITIZED) {
        GTEST_SKIP() << "minutes of what the tiny model above has shown";
    }
    const uint32_t length = 16;
    std::vector<uint32_t> want = alone(prompts[0], length);
    Options options;
    options.ranks = 3;
    options.threads = 3;
    options.context = 128;
    options.kv_tokens = 1024;
    options.policy = "flexgen";
    options.policy_options.percent = 50;
    Engine engine(options);
    Request request(ids_of(engine, prompts[0]), length);
    request.request.sampling.ignore_eos = true;
    Engine::check(engine_submit(engine.engine, &request.request));
    run_until_idle(engine);
    EXPECT_EQ(request.outcome.tokens, want);
    struct engine_stats stats;
    engine_stats(engine.engine, &stats);
    EXPECT_GT(stats.offload.total_bytes_streamed, 0u);
}

} // namespace
