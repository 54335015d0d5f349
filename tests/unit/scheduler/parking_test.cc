// KV blocks that park: a cache far too small for what runs, so that sequences are preempted over and over and their
// blocks go to host memory, come back, move, or are dropped and computed again. No token and no logprob may change, and
// every block and host slot comes back. Tiny models, so that many seeds take little; at the end the demo model.
#include "tests/unit/models/tiny_model.h"
#include "tests/unit/scheduler/running_engine.h"

namespace {

const uint32_t CONTEXT = 96;

const SharedTinyModel &tiny() {
    static const SharedTinyModel model(4, CONTEXT);
    return model;
}

Options tiny_options() {
    Options options;
    options.weights = tiny().path;
    options.threads = 1;
    options.context = CONTEXT;
    options.kv_tokens = CONTEXT; // one sequence at its longest
    options.max_sequences = 6;
    options.max_batch_tokens = 24;
    options.slabs = 1;
    return options;
}

// A request of a known kind: its prompt and its length follow from the number.
std::unique_ptr<Request> request_of(uint32_t kind) {
    struct random_state random;
    random_seed(&random, kind + 1);
    std::vector<uint32_t> prompt(1 + random_below(&random, 25));
    for (uint32_t &token : prompt) {
        token = (uint32_t)random_below(&random, tiny().vocabulary);
    }
    auto request = std::make_unique<Request>(prompt, 1 + (uint32_t)random_below(&random, 70));
    request->request.sampling.ignore_eos = true;
    request->request.sampling.logprobs = kind % 2 == 0;
    request->request.sampling.echo = kind % 4 == 0;
    return request;
}

const uint32_t KINDS = 12;

// What a request of each kind gives alone, with all the cache there could be.
const Outcome &alone_of(uint32_t kind) {
    static std::map<uint32_t, Outcome> known;
    if (known.empty()) {
        Options options = tiny_options();
        options.kv_tokens = 4096;
        Engine engine(options);
        for (uint32_t i = 0; i < KINDS; i++) {
            std::unique_ptr<Request> request = request_of(i);
            Engine::check(engine_submit(engine.engine, &request->request));
            run_until_idle(engine);
            known[i] = request->outcome;
        }
    }
    return known[kind];
}

// The first `count` of what was wanted, and bit for bit.
template <typename T> void expect_begins(const std::vector<T> &got, const std::vector<T> &want, bool whole) {
    ASSERT_LE(got.size(), want.size());
    if (whole) {
        EXPECT_EQ(got.size(), want.size());
    }
    EXPECT_TRUE(got.empty() || memcmp(got.data(), want.data(), got.size() * sizeof(T)) == 0);
}

struct Sums {
    uint64_t preemptions = 0, resumed = 0, recomputed = 0, out = 0, in = 0, moved = 0, placements = 0, cancelled = 0;
};

// Requests come, are cancelled and end at random, `count` of them; what is left of them must be right.
void overload(Engine &engine, struct random_state *random, uint32_t count, Sums *sums,
              const std::function<void()> &disturb = nullptr) {
    std::vector<std::unique_ptr<Request>> requests;
    std::vector<uint32_t> kinds;
    bool idle = false;
    for (uint32_t step = 0; requests.size() < count || !idle; step++) {
        ASSERT_LT(step, 20000u) << "no end to it";
        while (requests.size() < count && random_below(random, 3) != 0) {
            kinds.push_back((uint32_t)random_below(random, KINDS));
            requests.push_back(request_of(kinds.back()));
            Engine::check(engine_submit(engine.engine, &requests.back()->request));
        }
        if (!requests.empty() && random_below(random, 50) == 0) {
            Request &unlucky = *requests[random_below(random, requests.size())];
            if (unlucky.outcome.finishes == 0) {
                engine_cancel(engine.engine, &unlucky.request);
            }
        }
        if (disturb) {
            disturb();
        }
        Engine::check(engine_step(engine.engine, &idle));
        drain_events(engine.engine);
    }
    for (size_t i = 0; i < requests.size(); i++) {
        const Outcome &got = requests[i]->outcome;
        ASSERT_EQ(got.finishes, 1u);
        sums->cancelled += got.finish == FINISH_CANCELLED;
        bool whole = got.finish == FINISH_LENGTH;
        ASSERT_TRUE(whole || got.finish == FINISH_CANCELLED);
        if (engine.options.device == "sim") { // tokens are a hash of the sequence and the position
            for (size_t j = 0; j < got.tokens.size(); j++) {
                uint64_t position = requests[i]->prompt.size() - 1 + j;
                ASSERT_EQ(got.tokens[j],
                          random_hash(random_hash(1, requests[i]->request.id), position) % tiny().vocabulary);
            }
            EXPECT_TRUE(!whole || got.tokens.size() == requests[i]->request.sampling.max_tokens);
        } else {
            const Outcome &want = alone_of(kinds[i]);
            expect_begins(got.tokens, want.tokens, whole);
            expect_begins(got.logprobs, want.logprobs, whole);
            expect_begins(got.prompt_tokens, want.prompt_tokens, whole);
            expect_begins(got.prompt_logprobs, want.prompt_logprobs, whole);
        }
    }
    EXPECT_TRUE(engine.all_blocks_free());
    struct engine_stats stats;
    engine_stats(engine.engine, &stats);
    sums->preemptions += stats.preemptions;
    sums->resumed += stats.resumed;
    sums->recomputed += stats.recomputed_tokens;
    sums->out += stats.offload.kv_blocks_out;
    sums->in += stats.offload.kv_blocks_in;
    sums->moved += stats.offload.kv_blocks_moved;
    sums->placements += stats.offload.placements;
    EXPECT_LE(stats.offload.kv_blocks_in, stats.offload.kv_blocks_out);
    EXPECT_EQ(stats.offload.kv_bytes_out, stats.offload.kv_blocks_out * tiny().block_bytes());
}

TEST(Parking, TokensAreTheSameHoweverOftenBlocksCome) {
    Sums sums;
    for (uint64_t seed = 1; seed <= (SANITIZED ? 3 : 18); seed++) {
        SCOPED_TRACE("seed " + std::to_string(seed));
        struct random_state random;
        random_seed(&random, seed);
        Options options = tiny_options();
        options.kv_tokens = CONTEXT + 16 * random_below(&random, 6);
        options.prefill_chunk = (uint32_t)random_below(&random, 2) * 7;
        options.kv_host_memory = tiny().block_bytes() * (seed % 3 == 0 ? 1 : 1000);
        options.copy_jitter_ns = seed % 2 == 0 ? 50000 : 0;
        Engine engine(options);
        overload(engine, &random, 14, &sums);
        if (HasFatalFailure()) {
            return;
        }
    }
    EXPECT_GT(sums.preemptions, 0u);
    EXPECT_GT(sums.out, sums.preemptions) << "a test of parking in which little was parked";
    EXPECT_GT(sums.in, 0u);
    EXPECT_GT(sums.resumed, 0u);
    EXPECT_GT(sums.recomputed, 0u) << "with room for one block some have to be computed again";
    EXPECT_GT(sums.cancelled, 0u);
}

TEST(Parking, WithoutHostMemoryWhatIsLostIsComputedAgain) {
    Sums sums;
    for (uint64_t seed = 1; seed <= (SANITIZED ? 1 : 8); seed++) {
        struct random_state random;
        random_seed(&random, seed);
        Engine engine(tiny_options());
        overload(engine, &random, 14, &sums);
    }
    EXPECT_GT(sums.preemptions, 0u);
    EXPECT_GT(sums.recomputed, 0u);
    EXPECT_EQ(sums.out, 0u);
}

// With room for everything nothing is ever computed twice.
TEST(Parking, WithRoomForAllNothingIsComputedAgain) {
    Sums sums;
    for (uint64_t seed = 1; seed <= (SANITIZED ? 1 : 8); seed++) {
        struct random_state random;
        random_seed(&random, seed);
        Options options = tiny_options();
        options.kv_host_memory = 1 << 30;
        Engine engine(options);
        overload(engine, &random, 14, &sums);
    }
    EXPECT_GT(sums.preemptions, 0u);
    EXPECT_EQ(sums.recomputed, 0u);
    EXPECT_GT(sums.resumed, 0u);
}

// The link changes and weights leave and come back: KV blocks in use move out of their way.
TEST(Parking, BlocksMoveWhenWeightsComeBack) {
    Options options = tiny_options();
    options.policy = "metronome";
    options.max_sequences = 16;
    options.slabs = 2;
    options.kv_host_memory = 1 << 30;
    options.link_gbps = 1;
    options.tpot_ms = 1e6;
    const struct record record = *engine_record(Engine(options).engine);
    uint64_t longest_ns = 0; // of an iteration, as fast as this machine is
    for (uint32_t i = 0; i < record.row_count; i++) {
        const struct record_cell &cell = record.cell[i][record.context_count - 1];
        longest_ns = std::max(longest_ns, cell.layer_ns * tiny().layers + cell.outside_ns);
    }
    options.record = &record;
    options.tpot_ms = 2 * (double)longest_ns / 1e6;
    Sums sums;
    const uint64_t seeds = SANITIZED ? 2 : 6; // more where what is looked for has not happened yet: the clock is real
    for (uint64_t seed = 1; seed <= seeds || (!SANITIZED && seed <= 40 && (sums.moved == 0 || sums.out == 0)); seed++) {
        SCOPED_TRACE("seed " + std::to_string(seed));
        struct random_state random;
        random_seed(&random, seed);
        Engine engine(options);
        overload(engine, &random, 40, &sums, [&] {
            if (random_below(&random, 6) == 0) { // from a link that carries everything to one that carries nothing
                static const double rates[] = {1e10, 3e8, 1e8};
                device_set_link(engine.device, rates[random_below(&random, 3)]);
            }
        });
        if (HasFatalFailure()) {
            return;
        }
    }
    EXPECT_GT(sums.placements, 0u);
    if (!SANITIZED) { // too few seeds, on a clock of their own
        EXPECT_GT(sums.moved, 0u);
        EXPECT_GT(sums.out, 0u);
    }
}

// On simulated hardware, where nothing is computed: hundreds of seeds of scheduling, memory and the link.
TEST(Parking, OnSim) {
    Sums sums;
    for (uint64_t seed = 1; seed <= (SANITIZED ? 10 : 100); seed++) {
        SCOPED_TRACE("seed " + std::to_string(seed));
        struct random_state random;
        random_seed(&random, seed);
        Options options = tiny_options();
        options.device = "sim";
        options.hardware = "configs/hardware/a10.json";
        options.kv_tokens = CONTEXT + 16 * random_below(&random, 8);
        options.max_sequences = 2 + (uint32_t)random_below(&random, 12);
        options.kv_host_memory = tiny().block_bytes() * random_below(&random, 12);
        options.link_gbps = seed % 3 == 0 ? 0 : 0.05;
        if (seed % 2 == 0) {
            options.policy = "metronome";
            options.tpot_ms = 0.2 + 0.2 * (double)random_below(&random, 4);
        }
        Engine engine(options);
        overload(engine, &random, 30, &sums, [&] {
            if (seed % 4 == 0 && random_below(&random, 10) == 0) {
                device_set_link(engine.device, 5e6 * (double)(1 + random_below(&random, 20)));
            }
        });
        if (HasFatalFailure()) {
            return;
        }
    }
    EXPECT_TRUE(SANITIZED || sums.moved > 0);
    EXPECT_GT(sums.out, 0u);
    EXPECT_GT(sums.in, 0u);
    EXPECT_GT(sums.resumed, 0u);
    EXPECT_GT(sums.recomputed, 0u);
}

// The demo model: six sequences where there is room for two, and half of the host memory that they would like.
TEST_F(EngineTest, ParkedBlocksOfTheDemoModel) {
    if (SANITIZED) {
        GTEST_SKIP() << "what would be parked takes minutes to compute; the tiny models park the same way";
    }
    const uint32_t tokens = 40;
    Options options;
    options.context = 96;
    options.max_sequences = 6;
    options.kv_host_memory = 0;
    std::vector<std::vector<uint32_t>> want;
    for (bool parking : {false, true}) {
        options.kv_tokens = parking ? 128 : 4096;
        options.kv_host_memory = parking ? 5 << 20 : 0;
        options.copy_jitter_ns = parking ? 100000 : 0;
        Engine engine(options);
        std::vector<std::unique_ptr<Request>> requests;
        for (uint32_t i = 0; i < 6; i++) {
            requests.push_back(std::make_unique<Request>(ids_of(engine, prompts[i]), tokens));
            requests.back()->request.sampling.ignore_eos = true;
            Engine::check(engine_submit(engine.engine, &requests.back()->request));
        }
        run_until_idle(engine);
        for (uint32_t i = 0; i < 6; i++) {
            EXPECT_EQ(requests[i]->outcome.tokens.size(), tokens);
            if (parking) {
                EXPECT_EQ(requests[i]->outcome.tokens, want[i]) << prompts[i];
            }
            want.push_back(requests[i]->outcome.tokens);
        }
        struct engine_stats stats;
        engine_stats(engine.engine, &stats);
        EXPECT_EQ(stats.offload.kv_blocks_out > 0, parking) << "a test of parking with nothing parked";
        EXPECT_EQ(stats.offload.kv_blocks_in > 0, parking);
        EXPECT_TRUE(engine.all_blocks_free());
    }
}

TEST(Parking, SaysWhatHostMemoryIsShort) {
    struct device_config device_config = {};
    device_config.name = "cpu";
    struct device *device;
    struct model *model;
    Engine::check(device_open(&device_config, &device));
    Engine::check(model_open_weights(tiny().path.c_str(), &model));
    struct engine_config config = {};
    config.max_sequences = 4;
    config.max_queue = 4;
    config.max_batch_tokens = 64;
    config.kv_tokens = CONTEXT;
    config.offload_policy = "none";
    config.kv_host_memory = 1 << 20;
    config.host_memory = 10000;
    struct engine *engine = nullptr;
    struct status status = engine_create(&config, model, device, &engine);
    EXPECT_EQ(status.code, STATUS_NO_MEMORY);
    EXPECT_NE(strstr(status.message, "short"), nullptr) << status.message;
    EXPECT_NE(strstr(status.message, "offload.kv_host_memory"), nullptr) << status.message;
    EXPECT_EQ(device_info(device).host_used, 0u);
    model_close(model);
    device_close(device);
}

} // namespace
