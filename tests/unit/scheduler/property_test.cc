// What holds of the scheduler whatever comes: small random cases on sim, where a token is a hash of its sequence and
// its position, so that one lost, repeated or out of order shows. A case follows from its seed alone; a failure prints
// it, and
//     METRONOME_PROPERTY_FIRST=SEED METRONOME_PROPERTY_SEEDS=1 property_test
// runs it again. METRONOME_PROPERTY_SEEDS=100000 looks further.
#include "tests/unit/models/tiny_model.h"
#include "tests/unit/scheduler/running_engine.h"

#include <algorithm>

extern "C" {
#include "kernels/sim/sim.h"
}

namespace {

const uint32_t CONTEXT = 96;
const uint32_t BEHIND_SHARE = 8; // as compose.c has it: one admission in so many is of one that waits behind

const SharedTinyModel &tiny() {
    static const SharedTinyModel model(4, CONTEXT);
    return model;
}

uint64_t number(const char *name, uint64_t fallback) {
    const char *text = getenv(name);
    return text ? strtoull(text, nullptr, 10) : fallback;
}

uint64_t below(struct random_state *random, uint64_t bound) {
    return random_below(random, bound);
}

bool one_in(struct random_state *random, uint64_t of) {
    return random_below(random, of) == 0;
}

// An engine and a load, drawn from a seed.
struct Case {
    explicit Case(uint64_t seed) : seed(seed) {
        random_seed(&random, seed);
        static const char *const policies[] = {"none",    "metronome",      "metronome",     "select-n",
                                               "flexgen", "prefetch-group", "zero-inference"};
        policy = policies[below(&random, 7)];
        engine.context = CONTEXT;
        engine.max_sequences = 1 + (uint32_t)below(&random, 12);
        engine.max_queue = 1 + (uint32_t)below(&random, 40);
        engine.max_batch_tokens = engine.max_sequences + (uint32_t)below(&random, 40);
        engine.prefill_chunk = (uint32_t)below(&random, 3) * 7;
        engine.kv_tokens = CONTEXT + 16 * below(&random, one_in(&random, 2) ? 3 : 16);
        engine.kv_host_memory = one_in(&random, 3) ? 0 : tiny().block_bytes() * below(&random, 14);
        engine.offload_policy = policy.c_str();
        engine.offload_options.percent = (double)below(&random, 101);
        engine.offload_options.group = 2 + (uint32_t)below(&random, 3);
        engine.offload_options.group_streamed = 1;
        engine.offload_options.prefetch_step = 1;
        engine.offload_slabs = one_in(&random, 2) ? 0 : 1 + (uint32_t)below(&random, 3);
        engine.device_memory = policy == "none" || one_in(&random, 2) ? 0 : 400000 + below(&random, 1200000);
        engine.promise.ttft_ns = one_in(&random, 3) ? 0 : 100000 * (1 + below(&random, 100));
        engine.promise.tpot_ns = one_in(&random, 3) ? 0 : 200000 * (1 + below(&random, 10));
        engine.seed = seed;
        link_bytes_per_s = one_in(&random, 3) ? 0 : 1e7 * (double)(1 + below(&random, 200));
        engine.link_bytes_per_s = (uint64_t)link_bytes_per_s;
        jitter_ns = one_in(&random, 4) ? below(&random, 50000) : 0;
        requests = 1 + (uint32_t)below(&random, 40);
        gap_ns = one_in(&random, 4) ? 0 : 1000 * (1 + below(&random, 1000));
        cancels = one_in(&random, 2);
        link_changes = one_in(&random, 3);
        stops = one_in(&random, 20);
        neighbour = one_in(&random, 4);
        if (policy == "metronome" && one_in(&random, 2)) { // much to stream, and a link that has time for KV, too
            engine.kv_host_memory += 30 * tiny().block_bytes();
            engine.kv_stream_memory = tiny().block_bytes() * (1 + below(&random, 30));
            link_bytes_per_s = one_in(&random, 3) ? 0 : 1e9 * (double)(1 + below(&random, 20));
            engine.link_bytes_per_s = (uint64_t)link_bytes_per_s;
            engine.device_memory = one_in(&random, 3) ? 0 : 300000 + below(&random, 300000);
        }
        engine.order = one_in(&random, 4) ? ORDER_FCFS : ORDER_DEADLINES;
        engine.prefix_cache = !one_in(&random, 4);
        beginnings = (uint32_t)below(&random, 4);
    }
    uint64_t seed;
    struct random_state random;
    std::string policy;
    struct engine_config engine = {};
    double link_bytes_per_s;
    uint64_t jitter_ns, gap_ns;
    uint32_t requests;
    uint32_t beginnings; // that prompts share
    bool cancels, link_changes, stops, neighbour;
};

struct Sums {
    uint64_t refused_cases, cases, requests, busy, cancelled, stopped, preemptions, resumed, recomputed, parked,
        placements, streamed, promised, kept, cached;
};

// Prompts share one of so many beginnings, and each length of it.
std::unique_ptr<Request> draw_request(struct random_state *random, uint32_t beginnings) {
    std::vector<uint32_t> prompt(1 + below(random, one_in(random, 4) ? CONTEXT : 20));
    for (uint32_t &token : prompt) {
        token = (uint32_t)below(random, tiny().vocabulary);
    }
    if (beginnings > 0 && !one_in(random, 3)) {
        uint64_t beginning = below(random, beginnings), shared = below(random, CONTEXT * 3 / 4);
        prompt.insert(prompt.begin(), shared, 0);
        for (uint64_t i = 0; i < shared; i++) {
            prompt[i] = (uint32_t)(random_hash(beginning, i) % tiny().vocabulary);
        }
        prompt.resize(std::min(prompt.size(), (size_t)CONTEXT - 1));
    }
    auto request = std::make_unique<Request>(prompt, (uint32_t)below(random, one_in(random, 2) ? CONTEXT : 30));
    struct sampling &sampling = request->request.sampling;
    sampling.ignore_eos = true;
    sampling.logprobs = one_in(random, 5);
    sampling.echo = one_in(random, 5);
    if (one_in(random, 4)) {
        request->request.salt = {1, {(char)('a' + below(random, 2))}};
    }
    request->request.has_promise = one_in(random, 3);
    if (request->request.has_promise) {
        request->request.promise = {one_in(random, 3) ? 0 : 50000 * below(random, 200),
                                    one_in(random, 3) ? 0 : 100000 * below(random, 30)};
    }
    return request;
}

// One case on its way: what is submitted, what came of it, and the log of it all.
struct CaseRun {
    explicit CaseRun(Case *given) : it(*given) {
        struct device_config config = {};
        config.name = "sim";
        config.hardware = "configs/hardware/a10.json";
        config.seed = 1;
        config.link_bytes_per_s = it.link_bytes_per_s;
        config.copy_jitter_ns = it.jitter_ns;
        Engine::check(device_open(&config, &device));
        Engine::check(model_open_weights(tiny().path.c_str(), &model));
        created = engine_create(&it.engine, model, device, &engine);
    }
    ~CaseRun() {
        engine_destroy(engine);
        model_close(model);
        device_close(device);
    }
    CaseRun(const CaseRun &) = delete;
    CaseRun &operator=(const CaseRun &) = delete;

    void log(std::initializer_list<uint64_t> values) {
        for (uint64_t value : values) {
            hash = random_hash(hash, value);
        }
    }

    void submit() {
        requests.push_back(draw_request(&it.random, it.beginnings));
        Request &request = *requests.back();
        request.request.arrival_ns = device_now_ns(device);
        struct engine_stats stats;
        engine_stats(engine, &stats);
        struct status status = engine_submit(engine, &request.request);
        log({(uint64_t)status.code, request.request.id});
        if (status.code != STATUS_OK) {
            uint32_t prompt = request.request.prompt_count;
            bool too_long = prompt == CONTEXT && request.request.sampling.max_tokens > 0;
            bool too_soon = request.request.has_promise && request.request.promise.tpot_ns > 0;
            ASSERT_TRUE(status.code == STATUS_BUSY || (status.code == STATUS_INVALID && (too_long || too_soon)))
                << status.message;
            busy += status.code == STATUS_BUSY;
            requests.pop_back();
            return;
        }
        submitted++;
        tokens_wanted += request.prompt.size() + request.request.sampling.max_tokens;
        ahead.push_back(stats.running + stats.waiting);
        others.push_back(0);
    }

    // Every event is of a request under way, tokens come in order and none after the end.
    void take_events() {
        struct engine_event events[16];
        const uint64_t now = device_now_ns(device);
        for (uint32_t count; (count = engine_poll(engine, events, 16)) > 0;) {
            for (uint32_t i = 0; i < count; i++) {
                const struct engine_event &event = events[i];
                Request &request = *static_cast<Request *>(event.request->owner);
                Outcome &outcome = request.outcome;
                ASSERT_EQ(outcome.finishes, 0u) << "an event after the last";
                log({request.request.id, event.has_token, event.token, (uint64_t)event.finish, event.is_prompt, now});
                if (event.has_token && event.is_prompt) {
                    ASSERT_EQ(event.token, request.prompt.at(outcome.prompt_tokens.size()));
                    outcome.prompt_tokens.push_back(event.token);
                } else if (event.has_token) {
                    uint64_t position = request.prompt.size() - 1 + outcome.tokens.size();
                    uint64_t drawn = random_hash(random_hash(1, request.request.id), position);
                    ASSERT_EQ(event.token, drawn % tiny().vocabulary) << "token " << outcome.tokens.size();
                    if (outcome.tokens.empty()) {
                        first_token_of(request);
                    }
                    outcome.tokens.push_back(event.token);
                }
                if (event.finish != FINISH_NONE) {
                    outcome.finish = event.finish;
                    outcome.finishes++;
                    outcome.cached_tokens = event.cached_tokens;
                    ASSERT_EQ(event.completion_tokens, outcome.tokens.size());
                    ended++;
                }
            }
        }
    }

    // Nobody starves: those that were promised nothing are admitted after at most so many others.
    void first_token_of(const Request &request) {
        for (size_t i = 0; i < requests.size(); i++) {
            const Request &other = *requests[i];
            others[i] += &other != &request && other.outcome.finishes == 0 && other.outcome.tokens.empty();
        }
    }

    void disturb() {
        struct random_state *random = &it.random;
        while (it.cancels && !requests.empty() && one_in(random, 20)) {
            Request &unlucky = *requests[below(random, requests.size())];
            if (unlucky.outcome.finishes == 0) {
                engine_cancel(engine, &unlucky.request);
            }
        }
        if (it.link_changes && one_in(random, 10)) {
            engine_set_link(engine, 1e6 * (double)(1 + below(random, 3000)));
        }
    }

    // A neighbour who takes the link, all of it at times.
    void set_neighbour() {
        uint64_t time_ns = device_now_ns(device);
        for (uint32_t i = 0; i < 20; i++) {
            time_ns += 1000 * (1 + below(&it.random, 2000));
            steps.push_back({time_ns, i % 3 == 1 ? 0 : 1e7 * (double)(1 + below(&it.random, 300))});
        }
        steps.push_back({time_ns + 1, 1e9});
        sim_set_link_steps(device, steps.data(), (uint32_t)steps.size());
    }

    void go() {
        if (it.neighbour) {
            set_neighbour();
        }
        uint64_t next_ns = device_now_ns(device);
        uint32_t drawn = 0;
        const uint32_t stop_after = it.stops ? (uint32_t)below(&it.random, 100) : UINT32_MAX;
        for (uint32_t step = 0; drawn < it.requests || ended < submitted; step++) {
            if (step == stop_after) {
                engine_stop(engine);
                take_events();
                ASSERT_EQ(ended, submitted) << "the engine stopped, and not all have ended";
                return;
            }
            ASSERT_LT(step, 200000u) << "no end to it";
            while (drawn < it.requests && next_ns <= device_now_ns(device)) {
                drawn++;
                next_ns += it.gap_ns > 0 ? 1 + below(&it.random, 2 * it.gap_ns) : 0;
                ASSERT_NO_FATAL_FAILURE(submit());
            }
            disturb();
            bool idle = false;
            Engine::check(engine_step(engine, &idle));
            ASSERT_NO_FATAL_FAILURE(take_events());
            if (idle) {
                ASSERT_EQ(ended, submitted) << "idle, and not all have ended";
                device_sleep_until_ns(device, next_ns);
            }
        }
        bool idle = false;
        Engine::check(engine_step(engine, &idle)); // publishes the numbers
        ASSERT_TRUE(idle);
    }

    // What was found in the cache are whole blocks that another had computed, under the same salt, and not the last
    // token; nothing whose rows were to be scored.
    void check_cached(const Request &request) const {
        const Outcome &got = request.outcome;
        const struct sampling &sampling = request.request.sampling;
        uint32_t most = 0;
        for (const auto &other : requests) {
            const struct cache_salt &one = other->request.salt, &two = request.request.salt;
            if (other.get() == &request || std::string(one.text, one.bytes) != std::string(two.text, two.bytes)) {
                continue;
            }
            std::vector<uint32_t> known = other->prompt;
            known.insert(known.end(), other->outcome.tokens.begin(), other->outcome.tokens.end());
            size_t length = std::min(known.size(), request.prompt.size());
            auto differ = std::mismatch(known.begin(), known.begin() + length, request.prompt.begin());
            most = std::max(most, (uint32_t)(differ.first - known.begin()));
        }
        most = std::min(most, (uint32_t)request.prompt.size() - 1);
        most = !it.engine.prefix_cache || (sampling.echo && sampling.logprobs) ? 0 : most / KV_BLOCK_TOKENS;
        ASSERT_LE(got.cached_tokens, most * KV_BLOCK_TOKENS);
        ASSERT_EQ(got.cached_tokens % KV_BLOCK_TOKENS, 0u);
    }

    void check_request(const Request &request, uint32_t index) const {
        const Outcome &got = request.outcome;
        const struct sampling &sampling = request.request.sampling;
        ASSERT_EQ(got.finishes, 1u);
        uint32_t room = CONTEXT - (uint32_t)request.prompt.size();
        uint32_t most = std::min(sampling.max_tokens, room);
        ASSERT_LE(got.tokens.size(), most);
        if (got.finish == FINISH_LENGTH) {
            ASSERT_EQ(got.tokens.size(), most);
            ASSERT_EQ(got.prompt_tokens.size(), sampling.echo ? request.prompt.size() : 0);
        } else {
            ASSERT_EQ(got.finish, FINISH_CANCELLED);
            ASSERT_TRUE(it.cancels || it.stops);
        }
        check_cached(request);
        // Ahead of it in its line were at most `ahead`, and of BEHIND_SHARE admissions one is of its line; those that
        // ran, or that are admitted with it, may have their first tokens before it.
        if (request.request.promise.ttft_ns == 0) {
            ASSERT_LE(others[index], BEHIND_SHARE * (ahead[index] + 1) + 2 * it.engine.max_batch_tokens);
        }
    }

    void check(Sums *sums) const {
        struct engine_stats stats;
        engine_stats(engine, &stats);
        uint64_t finished[FINISH_ERROR + 1] = {};
        for (uint32_t i = 0; i < requests.size(); i++) {
            ASSERT_NO_FATAL_FAILURE(check_request(*requests[i], i)) << "request " << i;
            finished[requests[i]->outcome.finish]++;
        }
        for (int i = 0; i <= FINISH_ERROR; i++) {
            ASSERT_EQ(stats.finished[i], finished[i]) << finish_reason_name((enum finish_reason)i);
        }
        ASSERT_EQ(stats.running + stats.waiting, 0u);
        ASSERT_GT(stats.kv_blocks, 0u);
        ASSERT_EQ(stats.kv_blocks_free, stats.kv_blocks) << "blocks are lost";
        ASSERT_EQ(stats.offload.kv_streamed, 0u) << "slots of streamed blocks are lost";
        ASSERT_EQ(stats.offload.kv_parked, stats.prefix_parked) << "host slots are lost";
        ASSERT_LE(stats.prefix_hits, stats.prefix_queries);
        ASSERT_TRUE(it.engine.prefix_cache || stats.prefix_queries + stats.prefix_idle + stats.prefix_parked == 0);
        ASSERT_LE(stats.iterations, tokens_wanted + stats.recomputed_tokens)
            << "the first in line did not move on in every iteration";
        sums->cases++;
        sums->requests += submitted;
        sums->busy += busy;
        sums->cancelled += finished[FINISH_CANCELLED];
        sums->preemptions += stats.preemptions;
        sums->resumed += stats.resumed;
        sums->recomputed += stats.recomputed_tokens;
        sums->parked += stats.offload.kv_blocks_out - stats.offload.kv_blocks_streamed;
        sums->streamed += stats.offload.kv_blocks_streamed;
        sums->placements += stats.offload.placements;
        sums->promised += stats.promised;
        sums->kept += stats.kept;
        sums->cached += stats.prefix_hits;
    }

    Case &it;
    struct device *device = nullptr;
    struct model *model = nullptr;
    struct engine *engine = nullptr;
    struct status created;
    std::vector<std::unique_ptr<Request>> requests;
    std::vector<uint32_t> ahead, others; // of each: pending before it; first tokens of others since
    std::vector<struct sim_link_step> steps;
    uint64_t hash = 0, tokens_wanted = 0;
    uint32_t submitted = 0, ended = 0, busy = 0;
};

// Runs a case; returns the hash of its log, 0 if there is no such engine.
uint64_t run_case(uint64_t seed, Sums *sums) {
    Case drawn(seed);
    CaseRun run(&drawn);
    if (run.created.code != STATUS_OK) { // too little memory, or a promise that cannot be kept
        EXPECT_TRUE(run.created.code == STATUS_NO_MEMORY || run.created.code == STATUS_INVALID) << run.created.message;
        sums->refused_cases++;
        return 0;
    }
    run.go();
    if (!testing::Test::HasFatalFailure()) {
        run.check(sums);
    }
    return run.hash;
}

TEST(Property, WhateverComesEveryRequestEndsOnceWithItsTokens) {
    log_set_level(LOG_ERROR);
    const uint64_t first = number("METRONOME_PROPERTY_FIRST", 1);
    const uint64_t count = number("METRONOME_PROPERTY_SEEDS", SANITIZED ? 200 : 1000);
    Sums sums = {};
    for (uint64_t seed = first; seed < first + count; seed++) {
        SCOPED_TRACE("seed " + std::to_string(seed));
        uint64_t hash = run_case(seed, &sums);
        if (seed % 8 == 0 && !HasFailure()) { // again, to the nanosecond
            Sums ignored = {};
            EXPECT_EQ(run_case(seed, &ignored), hash);
        }
        if (HasFailure()) {
            printf("failing seed: %llu\n", (unsigned long long)seed);
            return;
        }
    }
    printf("%llu cases (%llu refused), %llu requests (%llu busy), %llu cancelled; %llu preemptions, %llu resumed, "
           "%llu tokens recomputed, %llu blocks parked, %llu streamed, %llu placements; %llu promised, %llu kept; %llu "
           "prompt tokens "
           "from the cache\n",
           (unsigned long long)sums.cases, (unsigned long long)sums.refused_cases, (unsigned long long)sums.requests,
           (unsigned long long)sums.busy, (unsigned long long)sums.cancelled, (unsigned long long)sums.preemptions,
           (unsigned long long)sums.resumed, (unsigned long long)sums.recomputed, (unsigned long long)sums.parked,
           (unsigned long long)sums.streamed, (unsigned long long)sums.placements, (unsigned long long)sums.promised,
           (unsigned long long)sums.kept, (unsigned long long)sums.cached);
    if (count >= 60) { // else the cases show too little
        EXPECT_GT(sums.cases, count / 2);
        for (uint64_t sum : {sums.busy, sums.cancelled, sums.preemptions, sums.resumed, sums.recomputed, sums.parked,
                             sums.streamed, sums.placements, sums.kept, sums.cached}) {
            EXPECT_GT(sum, 0u);
        }
        EXPECT_LT(sums.kept, sums.promised);
    }
}

// A load that never lets up, of requests that can all be in time, and a few that were promised nothing among them:
// those have their turns.
TEST(Property, NobodyStarves) {
    log_set_level(LOG_ERROR);
    for (uint64_t seed = 1; seed <= (SANITIZED ? 2 : 10); seed++) {
        SCOPED_TRACE("seed " + std::to_string(seed));
        Case drawn(seed);
        drawn.engine.offload_policy = "none";
        drawn.engine.device_memory = 0;
        drawn.engine.order = ORDER_DEADLINES;
        drawn.engine.max_queue = 24;
        drawn.engine.promise = {(uint64_t)1000000000000, 0};
        CaseRun run(&drawn);
        Engine::check(run.created);
        uint32_t promised_nothing = 0;
        for (uint32_t step = 0; run.submitted < 1000; step++) {
            ASSERT_LT(step, 100000u);
            struct engine_stats stats;
            engine_stats(run.engine, &stats);
            for (uint32_t room = drawn.engine.max_queue - stats.waiting; room > 0 && run.submitted < 1000; room--) {
                auto request = std::make_unique<Request>(std::vector<uint32_t>(1 + below(&drawn.random, 10), 7),
                                                         1 + (uint32_t)below(&drawn.random, 10));
                request->request.arrival_ns = device_now_ns(run.device);
                request->request.has_promise = one_in(&drawn.random, 50); // of nothing
                promised_nothing += request->request.has_promise;
                Engine::check(engine_submit(run.engine, &request->request));
                run.requests.push_back(std::move(request));
                run.ahead.push_back(promised_nothing);
                run.others.push_back(0);
                run.submitted++;
            }
            bool idle = false;
            Engine::check(engine_step(run.engine, &idle));
            run.take_events();
            ASSERT_FALSE(HasFatalFailure());
        }
        uint32_t most = 0;
        for (size_t i = 0; i < run.requests.size(); i++) {
            if (run.requests[i]->request.promise.ttft_ns == 0) {
                most = std::max(most, run.others[i]);
                ASSERT_LE(run.others[i], BEHIND_SHARE * run.ahead[i] + 2 * drawn.engine.max_sequences) << i;
            }
        }
        EXPECT_GT(promised_nothing, 5u);
        EXPECT_GT(most, 0u) << "none was passed by: the case shows nothing";
    }
}

} // namespace
