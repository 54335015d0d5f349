// Sampling in a whole engine: what a request gets by its seed depends on neither the batch, preemption nor offloading,
// and of logits nothing crosses the link. A tiny model, on cpu or on the device that METRONOME_TEST_DEVICE names.
#include "tests/unit/models/tiny_model.h"
#include "tests/unit/scheduler/running_engine.h"

namespace {

const char *device_name() {
    const char *named = getenv("METRONOME_TEST_DEVICE");
    return named ? named : "cpu";
}

const bool ON_CPU = strcmp(device_name(), "cpu") == 0; // where it is emulated, less is generated
const uint32_t CONTEXT = 96, KINDS = 6, TOKENS = ON_CPU ? 36 : 8, LEAST_TOKENS = TOKENS - 3;
const uint32_t CROWD = (ON_CPU ? 3 : 2) * KINDS;

const SharedTinyModel &tiny() {
    static const SharedTinyModel model(3, CONTEXT);
    return model;
}

Options tiny_options() {
    Options options;
    options.weights = tiny().path;
    options.device = device_name();
    options.threads = 1;
    options.context = CONTEXT;
    options.max_sequences = 8;
    options.max_batch_tokens = 48;
    options.kv_tokens = 1024;
    return options;
}

// A request of each kind of sampling; of one kind all are alike.
std::unique_ptr<Request> request_of(uint32_t kind) {
    static struct logit_bias bias[] = {{3, 2.5f}, {70, 4}, {3, -1}};
    static uint32_t stop = 70;
    std::vector<uint32_t> prompt(5 + 3 * kind);
    for (size_t i = 0; i < prompt.size(); i++) {
        prompt[i] = (uint32_t)(random_hash(kind, i) % tiny().vocabulary);
    }
    auto request = std::make_unique<Request>(prompt, TOKENS);
    struct sampling &sampling = request->request.sampling;
    sampling.seeded = true;
    sampling.seed = 100 + kind;
    sampling.temperature = kind == 5 ? 0 : 0.5f + 0.2f * (float)kind;
    sampling.top_p = kind % 2 ? 0.9f : 1;
    sampling.top_k = kind == 2 || kind == 3 ? 12 : 0;
    sampling.min_p = kind == 4 ? 0.02f : 0;
    if (kind >= 3) {
        sampling.repetition_penalty = 1.2f;
        sampling.frequency_penalty = 0.1f;
        sampling.presence_penalty = 0.3f;
    }
    if (kind == 4) {
        sampling.bias = bias;
        sampling.bias_count = 3;
        sampling.stop_tokens = &stop;
        sampling.stop_token_count = 1;
        sampling.min_tokens = LEAST_TOKENS;
    }
    sampling.logprobs = kind != 0;
    sampling.top_logprobs = kind == 1 ? 5 : 0;
    sampling.echo = kind == 1 || kind == 5;
    return request;
}

// What each kind gives when it is alone and has room.
const Outcome &alone_of(uint32_t kind) {
    static std::map<uint32_t, Outcome> known;
    if (known.find(kind) == known.end()) {
        Engine engine(tiny_options());
        auto request = request_of(kind);
        Engine::check(engine_submit(engine.engine, &request->request));
        run_until_idle(engine);
        known[kind] = request->outcome;
    }
    return known[kind];
}

void expect_same_bits(const std::vector<float> &got, const std::vector<float> &want) {
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < got.size(); i++) {
        ASSERT_TRUE(got[i] == want[i] || (std::isnan(got[i]) && std::isnan(want[i]))) << i;
    }
}

struct engine_stats run_crowd(const Options &options) {
    Engine engine(options);
    std::vector<std::unique_ptr<Request>> requests;
    for (uint32_t i = 0; i < CROWD; i++) {
        requests.push_back(request_of(i % KINDS));
        Engine::check(engine_submit(engine.engine, &requests.back()->request));
    }
    run_until_idle(engine);
    for (uint32_t i = 0; i < CROWD; i++) {
        SCOPED_TRACE("kind " + std::to_string(i % KINDS));
        const Outcome &got = requests[i]->outcome, &want = alone_of(i % KINDS);
        EXPECT_EQ(got.finish, want.finish);
        EXPECT_EQ(got.tokens, want.tokens);
        expect_same_bits(got.logprobs, want.logprobs);
        expect_same_bits(got.prompt_logprobs, want.prompt_logprobs);
    }
    struct engine_stats stats;
    engine_stats(engine.engine, &stats);
    return stats;
}

TEST(Sampling, KindsDifferAndKeepTheirPromises) {
    for (uint32_t kind = 0; kind < KINDS; kind++) {
        const Outcome &outcome = alone_of(kind);
        EXPECT_GE(outcome.tokens.size(), kind == 4 ? LEAST_TOKENS : TOKENS) << kind;
        EXPECT_NE(outcome.tokens, alone_of((kind + 1) % KINDS).tokens);
        for (float logprob : outcome.logprobs) {
            EXPECT_TRUE(kind == 0 ? std::isnan(logprob) : logprob <= 0) << logprob;
        }
    }
    EXPECT_EQ(alone_of(1).prompt_logprobs.size(), 8u);
}

TEST(Sampling, IsTheSameInABatch) {
    Options options = tiny_options();
    options.threads = 2;
    EXPECT_EQ(run_crowd(options).preemptions, 0u);
}

TEST(Sampling, IsTheSameAfterPreemption) {
    Options options = tiny_options();
    options.kv_tokens = 160;
    EXPECT_GT(run_crowd(options).preemptions, 0u);
}

TEST(Sampling, IsTheSameWhileWeightsStream) {
    Options options = tiny_options();
    options.policy = "flexgen";
    options.policy_options.percent = 50;
    EXPECT_GT(run_crowd(options).offload.streamed_slabs, 0u);
}

// A batch that decodes, each at temperature 1: a token of 4 bytes for each, where rows of logits came to the host
// before.
TEST(Sampling, OnlyTokensCrossTheLink) {
    const uint32_t batch = 8;
    Engine engine(tiny_options());
    std::vector<std::unique_ptr<Request>> requests;
    for (uint32_t i = 0; i < batch; i++) {
        requests.push_back(request_of(0));
        requests.back()->request.sampling.temperature = 1;
        Engine::check(engine_submit(engine.engine, &requests.back()->request));
    }
    bool idle = false;
    while (requests.back()->outcome.tokens.empty()) {
        Engine::check(engine_step(engine.engine, &idle));
        drain_events(engine.engine);
    }
    const uint64_t before = device_link_count(engine.device).device_to_host_bytes;
    Engine::check(engine_step(engine.engine, &idle));
    EXPECT_EQ(device_link_count(engine.device).device_to_host_bytes - before, batch * sizeof(uint32_t));
    run_until_idle(engine);
}

} // namespace
