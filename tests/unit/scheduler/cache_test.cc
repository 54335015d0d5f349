// The prefix cache in a whole engine: what turns of a conversation find, what they must not find, and that no token and
// no logprob changes by it, on the cpu device with a tiny model.
#include "tests/unit/models/tiny_model.h"
#include "tests/unit/scheduler/running_engine.h"

namespace {

const uint32_t CONTEXT = 128;

const SharedTinyModel &tiny() {
    static const SharedTinyModel model(3, CONTEXT);
    return model;
}

Options tiny_options() {
    Options options;
    options.weights = tiny().path;
    options.threads = 1;
    options.context = CONTEXT;
    options.kv_tokens = 1024;
    options.max_batch_tokens = 48;
    return options;
}

std::vector<uint32_t> prompt_of(uint64_t seed, size_t length) {
    std::vector<uint32_t> prompt(length);
    for (size_t i = 0; i < length; i++) {
        prompt[i] = (uint32_t)(random_hash(seed, i) % tiny().vocabulary);
    }
    return prompt;
}

std::unique_ptr<Request> request_of(const std::vector<uint32_t> &prompt, uint32_t tokens,
                                    const std::string &salt = "") {
    auto request = std::make_unique<Request>(prompt, tokens);
    request->request.sampling.ignore_eos = true;
    request->request.sampling.logprobs = true;
    request->request.salt.bytes = (uint32_t)salt.size();
    memcpy(request->request.salt.text, salt.data(), salt.size());
    return request;
}

Outcome run(Engine &engine, const std::vector<uint32_t> &prompt, uint32_t tokens, const std::string &salt = "") {
    auto request = request_of(prompt, tokens, salt);
    Engine::check(engine_submit(engine.engine, &request->request));
    run_until_idle(engine);
    EXPECT_EQ(request->outcome.finish, FINISH_LENGTH);
    return request->outcome;
}

// Without a cache and with nobody else.
Outcome alone_of(const std::vector<uint32_t> &prompt, uint32_t tokens) {
    Options options = tiny_options();
    options.prefix_cache = false;
    Engine engine(options);
    return run(engine, prompt, tokens);
}

void expect_same(const Outcome &got, const Outcome &want) {
    EXPECT_EQ(got.tokens, want.tokens);
    ASSERT_EQ(got.logprobs.size(), want.logprobs.size());
    EXPECT_EQ(memcmp(got.logprobs.data(), want.logprobs.data(), got.logprobs.size() * sizeof(float)), 0);
}

// Each turn's prompt is all that was said before, and the answers were computed by decoding.
TEST(Cache, TurnsOfAConversationFindTheOnesBefore) {
    Engine engine(tiny_options());
    std::vector<uint32_t> said = prompt_of(1, 21);
    uint32_t known = 0;
    for (uint32_t turn = 0; turn < 4; turn++) {
        Outcome got = run(engine, said, 9);
        EXPECT_EQ(got.cached_tokens, known / KV_BLOCK_TOKENS * KV_BLOCK_TOKENS) << turn;
        expect_same(got, alone_of(said, 9));
        known = (uint32_t)said.size() + 8; /* the last token drawn is not computed */
        said.insert(said.end(), got.tokens.begin(), got.tokens.end());
        std::vector<uint32_t> next = prompt_of(2 + turn, 12);
        said.insert(said.end(), next.begin(), next.end());
    }
    EXPECT_TRUE(engine.all_blocks_free());
}

// The whole prompt is cached: its last token is computed all the same, and with it its whole block.
TEST(Cache, AtLeastTheLastTokenIsComputed) {
    Engine engine(tiny_options());
    for (uint32_t length : {1, 15, 16, 17, 32, 33}) {
        std::vector<uint32_t> prompt = prompt_of(7, length);
        Outcome want = alone_of(prompt, 3);
        for (int time = 0; time < 3; time++) {
            Outcome got = run(engine, prompt, 3);
            expect_same(got, want);
            EXPECT_EQ(time > 0 ? got.cached_tokens : (length - 1) / 16 * 16, (length - 1) / 16 * 16);
        }
    }
}

TEST(Cache, OtherSaltsFindNothing) {
    Engine engine(tiny_options());
    std::vector<uint32_t> prompt = prompt_of(3, 50);
    Outcome first = run(engine, prompt, 4, "tenant one");
    EXPECT_EQ(first.cached_tokens, 0u);
    for (const char *salt : {"", "tenant two", "tenant on", "tenant one "}) {
        Outcome got = run(engine, prompt, 4, salt);
        EXPECT_EQ(got.cached_tokens, 0u) << salt;
        expect_same(got, first);
    }
    EXPECT_EQ(run(engine, prompt, 4, "tenant one").cached_tokens, 48u);
    EXPECT_EQ(run(engine, prompt, 4).cached_tokens, 48u);
}

TEST(Cache, OffFindsNothing) {
    Options options = tiny_options();
    options.prefix_cache = false;
    Engine engine(options);
    for (int time = 0; time < 2; time++) {
        EXPECT_EQ(run(engine, prompt_of(3, 50), 4).cached_tokens, 0u);
    }
    struct engine_stats stats;
    engine_stats(engine.engine, &stats);
    EXPECT_EQ(stats.prefix_queries + stats.prefix_hits + stats.prefix_idle, 0u);
}

// A prompt to be scored needs the logits of all of its rows.
TEST(Cache, ScoredPromptsAreComputed) {
    Engine engine(tiny_options());
    std::vector<uint32_t> prompt = prompt_of(4, 50);
    std::vector<Outcome> outcomes;
    for (int time = 0; time < 2; time++) {
        auto request = request_of(prompt, 4);
        request->request.sampling.echo = true;
        Engine::check(engine_submit(engine.engine, &request->request));
        run_until_idle(engine);
        outcomes.push_back(request->outcome);
        EXPECT_EQ(request->outcome.cached_tokens, 0u);
        EXPECT_EQ(request->outcome.prompt_tokens, prompt);
    }
    expect_same(outcomes[1], outcomes[0]);
    ASSERT_EQ(outcomes[1].prompt_logprobs.size(), prompt.size());
    EXPECT_EQ(memcmp(outcomes[1].prompt_logprobs.data() + 1, outcomes[0].prompt_logprobs.data() + 1,
                     (prompt.size() - 1) * sizeof(float)),
              0);
    auto request = request_of(prompt, 4); // echoed only: its tokens need no logits
    request->request.sampling.echo = true;
    request->request.sampling.logprobs = false;
    Engine::check(engine_submit(engine.engine, &request->request));
    run_until_idle(engine);
    EXPECT_EQ(request->outcome.cached_tokens, 48u);
    EXPECT_EQ(request->outcome.prompt_tokens, prompt);
    EXPECT_EQ(request->outcome.tokens, outcomes[0].tokens);
}

// Long prompts that come at once, with a beginning in common: it is computed once, and the others wait for it.
TEST(Cache, ABeginningThatIsBeingComputedIsWaitedFor) {
    Engine engine(tiny_options());
    std::vector<std::unique_ptr<Request>> requests;
    for (uint32_t i = 0; i < 6; i++) {
        std::vector<uint32_t> prompt = prompt_of(6, 100);
        prompt.resize(i == 5 ? 60 : 100); // of the last too little is in common to be waited for
        prompt.push_back(i);
        requests.push_back(request_of(prompt, 10));
        Engine::check(engine_submit(engine.engine, &requests.back()->request));
    }
    run_until_idle(engine);
    for (uint32_t i = 0; i < 6; i++) {
        const Outcome &got = requests[i]->outcome;
        expect_same(got, alone_of(requests[i]->prompt, 10));
        EXPECT_GE(got.cached_tokens, i == 0 ? 0u : i == 5 ? 48u : 96u) << i;
        EXPECT_EQ(got.cached_tokens == 0, i == 0);
    }
}

// Equal prompts that come at once, too short to be waited for, are computed side by side, and then held once.
TEST(Cache, EqualPromptsAtOnceEndUpInOneCopy) {
    Engine engine(tiny_options());
    std::vector<uint32_t> prompt = prompt_of(5, 40);
    Outcome want = alone_of(prompt, 60);
    std::vector<std::unique_ptr<Request>> requests;
    for (int i = 0; i < 8; i++) {
        requests.push_back(request_of(prompt, 60));
        Engine::check(engine_submit(engine.engine, &requests.back()->request));
    }
    uint32_t most = 0;
    for (bool idle = false; !idle;) {
        Engine::check(engine_step(engine.engine, &idle));
        drain_events(engine.engine);
        struct engine_stats stats;
        engine_stats(engine.engine, &stats);
        bool decoding = !idle;
        for (auto &request : requests) {
            decoding = decoding && request->outcome.tokens.size() > 10 && request->outcome.finishes == 0;
        }
        most = decoding ? std::max(most, stats.kv_blocks - stats.kv_blocks_free) : most;
    }
    for (auto &request : requests) {
        expect_same(request->outcome, want); // greedy and equal: their answers are one chain, too
    }
    EXPECT_GT(most, 0u);
    EXPECT_LE(most, 40u / 16 + 60 / 16 + 2 + 8); // the chain, and a block of its own for each
    EXPECT_TRUE(engine.all_blocks_free());
}

// What gave way to others comes back from host memory, alone and beside one that runs.
TEST(Cache, WhatNobodyHoldsParksAndComesBack) {
    Options options = tiny_options();
    options.kv_tokens = 16 * 16;
    options.kv_host_memory = tiny().block_bytes() * 64;
    options.copy_jitter_ns = 20000;
    Engine engine(options);
    std::vector<std::vector<uint32_t>> chats;
    std::vector<Outcome> want;
    for (uint64_t i = 0; i < 6; i++) { // 6 * 7 blocks in a cache of 16
        chats.push_back(prompt_of(100 + i, 100));
        want.push_back(run(engine, chats[i], 12));
        expect_same(want[i], alone_of(chats[i], 12));
    }
    struct engine_stats before, after;
    engine_stats(engine.engine, &before);
    EXPECT_GT(before.prefix_parked, 20u);
    EXPECT_EQ(before.offload.kv_blocks_in, 0u);
    uint32_t cached = 0;
    for (uint64_t i = 0; i < 6; i++) {
        Outcome got = run(engine, chats[i], 12);
        expect_same(got, want[i]);
        cached += got.cached_tokens;
    }
    engine_stats(engine.engine, &after);
    EXPECT_GE(cached, 6u * 64);
    EXPECT_GT(after.offload.kv_blocks_in, 20u);

    auto beside = request_of(prompt_of(200, 20), 100);
    Engine::check(engine_submit(engine.engine, &beside->request));
    std::vector<std::unique_ptr<Request>> requests;
    bool idle = false;
    for (uint32_t step = 0; !idle; step++) {
        ASSERT_LT(step, 1000u);
        if (step % 12 == 3 && requests.size() < 6) {
            requests.push_back(request_of(chats[requests.size()], 12));
            Engine::check(engine_submit(engine.engine, &requests.back()->request));
        }
        Engine::check(engine_step(engine.engine, &idle));
        drain_events(engine.engine);
    }
    cached = 0;
    for (size_t i = 0; i < requests.size(); i++) {
        expect_same(requests[i]->outcome, want[i]);
        cached += requests[i]->outcome.cached_tokens;
    }
    EXPECT_EQ(requests.size(), 6u);
    EXPECT_GE(cached, 6u * 48);
    expect_same(beside->outcome, alone_of(beside->prompt, 100));
    EXPECT_TRUE(engine.all_blocks_free());
}

// With room in host memory for a few blocks the latest of them are there, and the others are computed again.
TEST(Cache, HostMemoryKeepsTheLatest) {
    Options options = tiny_options();
    options.kv_tokens = 16 * 16;
    options.kv_host_memory = tiny().block_bytes() * 6;
    Engine engine(options);
    for (uint64_t i = 0; i < 6; i++) {
        run(engine, prompt_of(100 + i, 100), 12);
        struct engine_stats stats;
        engine_stats(engine.engine, &stats);
        EXPECT_LE(stats.prefix_parked, 6u);
        EXPECT_EQ(stats.offload.kv_parked, stats.prefix_parked);
    }
    EXPECT_EQ(run(engine, prompt_of(100, 100), 12).cached_tokens, 0u);
    EXPECT_GE(run(engine, prompt_of(105, 100), 12).cached_tokens, 48u);
}

// A cache for little more than one context, and prompts that share beginnings: what nobody holds gives way, whoever is
// preempted finds what others kept, and the tokens stay the same.
TEST(Cache, TokensAreTheSameInATightCache) {
    std::map<std::pair<uint64_t, uint32_t>, Outcome> alone;
    uint64_t cached = 0, preempted = 0, parked = 0;
    for (uint64_t seed = 1; seed <= (SANITIZED ? 2 : 12); seed++) {
        SCOPED_TRACE("seed " + std::to_string(seed));
        struct random_state random;
        random_seed(&random, seed);
        Options options = tiny_options();
        options.kv_tokens = CONTEXT + 16 * random_below(&random, 8);
        options.max_sequences = 6;
        options.kv_host_memory = tiny().block_bytes() * (seed % 3 == 0 ? 0 : 4 * seed);
        options.copy_jitter_ns = seed % 2 == 0 ? 50000 : 0;
        Engine engine(options);
        std::vector<std::unique_ptr<Request>> requests;
        std::vector<std::pair<uint64_t, uint32_t>> kinds;
        bool idle = false;
        for (uint32_t step = 0; requests.size() < 24 || !idle; step++) {
            ASSERT_LT(step, 20000u) << "no end to it";
            while (requests.size() < 24 && random_below(&random, 3) != 0) {
                kinds.push_back({random_below(&random, 3), 5 + 9 * (uint32_t)random_below(&random, 8)});
                std::vector<uint32_t> prompt = prompt_of(kinds.back().first, kinds.back().second);
                requests.push_back(request_of(prompt, 40));
                Engine::check(engine_submit(engine.engine, &requests.back()->request));
            }
            if (!requests.empty() && random_below(&random, 60) == 0) {
                engine_cancel(engine.engine, &requests[random_below(&random, requests.size())]->request);
            }
            Engine::check(engine_step(engine.engine, &idle));
            drain_events(engine.engine);
        }
        for (size_t i = 0; i < requests.size(); i++) {
            const Outcome &got = requests[i]->outcome;
            Outcome &want = alone[kinds[i]];
            if (want.tokens.empty()) {
                want = alone_of(requests[i]->prompt, 40);
            }
            cached += got.cached_tokens;
            if (got.finish == FINISH_LENGTH) {
                expect_same(got, want);
            } else {
                ASSERT_EQ(got.finish, FINISH_CANCELLED);
                EXPECT_TRUE(std::equal(got.tokens.begin(), got.tokens.end(), want.tokens.begin()));
            }
        }
        struct engine_stats stats;
        engine_stats(engine.engine, &stats);
        preempted += stats.preemptions;
        parked += stats.offload.kv_blocks_out;
        EXPECT_TRUE(engine.all_blocks_free());
    }
    EXPECT_GT(cached, 0u);
    EXPECT_GT(preempted, 0u);
    EXPECT_GT(parked, 0u);
}

} // namespace
