// Deadlines at work, on described hardware: prompts leave those that generate their time, an overload costs the
// promises of some and not of all, and everybody's turn comes.
#include "tests/unit/kernels/sim_rig.h"

#include <algorithm>

extern "C" {
#include "base/log.h"
#include "models/description.h"
#include "scheduler/replay.h"
}

namespace {

const uint64_t MS = 1000000;

struct Place {
    const char *hardware = "configs/hardware/a10.json";
    uint64_t device_memory = 24ull << 30;
    uint32_t sequences = 64, context = 4096;
};

// Llama 2 7B on an A10, as a simulated engine runs it.
struct Simulated {
    explicit Simulated(uint64_t ttft_ns, uint64_t tpot_ns, const char *policy = "metronome",
                       enum scheduling_order order = ORDER_DEADLINES, const Place &place = {})
        : rig(SimOptions{.hardware = place.hardware}) {
        log_set_level(LOG_WARN);
        struct model_description description;
        must(description_load("configs/models/llama-2-7b.json", &description));
        must(model_open_described(&description, &model));
        struct engine_config config = {};
        config.context = place.context;
        config.max_sequences = place.sequences;
        config.max_queue = 10000;
        config.max_batch_tokens = 512;
        config.order = order;
        config.promise.ttft_ns = ttft_ns;
        config.promise.tpot_ns = tpot_ns;
        config.offload_policy = policy;
        config.device_memory = place.device_memory;
        config.link_bytes_per_s = 24000000000;
        must(engine_create(&config, model, rig.device, &engine));
        context = place.context;
        replay.ttft_ns = ttft_ns;
        replay.tpot_ns = tpot_ns;
    }
    ~Simulated() {
        engine_destroy(engine);
        model_close(model);
    }
    struct replay_report run(const struct trace &trace) {
        replay.trace = &trace;
        replay.stretch = 1;
        replay.vocabulary = 32000;
        replay.longest = context;
        outcomes.resize(trace.count);
        struct replay_report report;
        must(replay_run(engine, rig.device, &replay, outcomes.data(), &report));
        return report;
    }
    SimRig rig;
    struct model *model = nullptr;
    struct engine *engine = nullptr;
    struct replay_config replay = {};
    uint32_t context = 0;
    std::vector<struct replay_outcome> outcomes;
};

struct Trace {
    Trace(uint32_t count, double rate, uint32_t prompt_tokens, uint32_t output_tokens, uint64_t seed = 11) {
        struct trace_shape shape = {};
        shape.count = count;
        shape.rate = rate;
        shape.burstiness = 1;
        shape.prompt_tokens = prompt_tokens;
        shape.output_tokens = output_tokens;
        shape.seed = seed;
        must(trace_draw(&shape, &trace));
    }
    ~Trace() {
        trace_free(&trace);
    }
    Trace(const Trace &) = delete;
    Trace &operator=(const Trace &) = delete;
    struct trace trace;
};

// A chunk of 512 prompt tokens takes this device twice the promised time of a token. With the promise, chunks are as
// long as the tokens beside them have time; without it, as long as they may be.
TEST(Deadlines, PromptsTakeWhatTokensLeave) {
    Trace trace(60, 0.5, 1000, 100);
    for (const char *policy : {"metronome", "none"}) { /* that nothing leaves the device does not make it blind */
        Simulated promised(20000 * MS, 80 * MS, policy);
        struct replay_report report = promised.run(trace.trace);
        EXPECT_EQ(report.kept, 60u) << policy;
        EXPECT_LT(report.tpot.p99_ms, 80) << policy;
    }

    Simulated free(0, 0);
    free.replay.tpot_ns = 80 * MS;
    EXPECT_LT(free.run(trace.trace).kept, 57u);
}

// On a processor 16 prompt tokens take half as long again as a token, and more than it is promised. Beside them every
// token would be late; as none was promised their first tokens, they wait until the tokens are ahead enough.
TEST(Deadlines, PromptsWaitUntilTokensAreAhead) {
    Trace trace(40, 1000, 200, 60);
    Simulated promised(0, 50 * MS, "none", ORDER_DEADLINES, {.hardware = "configs/hardware/cpu.json"});
    struct replay_report report = promised.run(trace.trace);
    EXPECT_GE(report.kept, 38u);
    EXPECT_GT(report.running_most, 1u); // and others did join those that generate

    Simulated free(0, 0, "none", ORDER_DEADLINES, {.hardware = "configs/hardware/cpu.json"});
    free.replay.tpot_ns = 50 * MS;
    EXPECT_LT(free.run(trace.trace).kept, 10u);
}

// Now and then the host has something else to do before an iteration, and a token that was to be just in time is late.
// Once that was so, tokens are kept further ahead of their deadlines. Of the last 200 requests 184 kept the promise
// without that.
TEST(Deadlines, TokensThatWereLateTeachCaution) {
    Trace trace(400, 0.75, 1000, 100);
    Simulated simulated(0, 80 * MS);
    struct Host {
        struct device *device;
        struct random_state random;
    } host = {simulated.rig.device, {}};
    random_seed(&host.random, 5);
    simulated.replay.watch.context = &host;
    simulated.replay.watch.before_step = [](void *context, struct engine *, uint64_t) {
        auto *self = static_cast<Host *>(context);
        if (random_unit(&self->random) < 0.04) {
            const double busy_ns = 16e6 * random_unit(&self->random);
            device_sleep_until_ns(self->device, device_now_ns(self->device) + (uint64_t)busy_ns);
        }
    };
    simulated.run(trace.trace);
    uint32_t kept = 0;
    for (uint32_t i = 200; i < 400; i++) {
        kept += replay_kept(&simulated.outcomes[i]);
    }
    EXPECT_GE(kept, 197u);
}

// Where room for KV is short, weights that come back for the sake of caution take the room of the next blocks:
// sequences are preempted, and later than any token would have been.
TEST(Deadlines, CautionTakesNoRoomThatIsShort) {
    Trace trace(100, 1000, 64, 128);
    Simulated crowded(0, 317 * MS / 10, "metronome", ORDER_DEADLINES,
                      {.device_memory = 13ull << 30, .sequences = 8, .context = 288});
    EXPECT_GE(crowded.run(trace.trace).kept, 95u);
}

// Three times the load that the device can bear. First come, first served, nobody would be in time after the first few.
TEST(Deadlines, AnOverloadCostsThePromisesOfSome) {
    Trace trace(600, 24, 300, 100);
    Simulated simulated(2000 * MS, 200 * MS);
    struct replay_report report = simulated.run(trace.trace);
    EXPECT_EQ(report.failed + report.refused, 0u); // all end
    EXPECT_LT(report.kept_ttft, 300u);             // an overload it was
    EXPECT_GT(report.kept, 80u);

    // While somebody waits who is late already, every so many first tokens are of such a one.
    std::vector<const struct replay_outcome *> order;
    for (const struct replay_outcome &outcome : simulated.outcomes) {
        order.push_back(&outcome);
    }
    std::sort(order.begin(), order.end(), [](auto *a, auto *b) { return a->first_token_ns < b->first_token_ns; });
    uint32_t in_time_in_a_row = 0, most = 0;
    for (size_t i = 0; i < order.size(); i++) {
        bool late = order[i]->first_token_ns - order[i]->arrival_ns > simulated.replay.ttft_ns;
        bool waits = std::any_of(order.begin() + i, order.end(), [&](auto *other) {
            return other->arrival_ns + simulated.replay.ttft_ns + 2000 * MS < order[i]->first_token_ns;
        });
        in_time_in_a_row = late || !waits ? 0 : in_time_in_a_row + 1;
        most = std::max(most, in_time_in_a_row);
    }
    EXPECT_GT(most, 0u); // some went before
    EXPECT_LE(most, 20u);
}

// Requests with promises of their own, all there at once: the earliest due goes first, those with none last, but for
// one in eight; and every one is judged by its own promise.
TEST(Deadlines, RequestsMayBringTheirOwnPromise) {
    Simulated simulated(60000 * MS, 1000 * MS);
    std::vector<uint32_t> prompt(256, 7);
    std::vector<struct request> requests(48);
    for (uint32_t i = 0; i < requests.size(); i++) {
        requests[i].prompt = prompt.data();
        requests[i].prompt_count = 256;
        requests[i].sampling.top_p = requests[i].sampling.repetition_penalty = 1;
        requests[i].sampling.max_tokens = 4;
        requests[i].sampling.ignore_eos = true;
        requests[i].arrival_ns = device_now_ns(simulated.rig.device);
        requests[i].has_promise = i % 3 > 0;
        requests[i].promise = i % 3 == 1 ? promise{30000 * MS, 1500 * MS} : promise{0, 0};
        must(engine_submit(simulated.engine, &requests[i]));
    }
    std::vector<uint32_t> order; // by first token
    std::vector<struct engine_event> events(64);
    for (bool idle = false; !idle;) {
        must(engine_step(simulated.engine, &idle));
        for (uint32_t count; (count = engine_poll(simulated.engine, events.data(), 64)) > 0;) {
            for (uint32_t i = 0; i < count; i++) {
                uint32_t index = uint32_t(events[i].request - requests.data());
                bool seen = std::find(order.begin(), order.end(), index) != order.end();
                if (events[i].has_token && !seen) {
                    order.push_back(index);
                }
            }
        }
    }
    ASSERT_EQ(order.size(), requests.size());
    uint32_t best_effort_among_first = 0;
    for (size_t i = 0; i < 32; i++) {
        best_effort_among_first += order[i] % 3 == 2;
    }
    EXPECT_GE(best_effort_among_first, 3u);
    EXPECT_LE(best_effort_among_first, 5u);
    for (size_t i = 0; i < 14; i++) {
        EXPECT_NE(order[i] % 3, 0u) << "due in a minute, among those due in half of one";
    }
    struct engine_stats stats;
    engine_stats(simulated.engine, &stats);
    EXPECT_EQ(stats.promised, 32u);
    EXPECT_EQ(stats.kept, 32u);
    EXPECT_EQ(stats.late_first + stats.late_later, 0u);

    requests[0].has_promise = true;
    requests[0].promise = {0, 1 * MS}; // one token of 7 billion parameters takes longer
    struct status status = engine_submit(simulated.engine, &requests[0]);
    EXPECT_EQ(status.code, STATUS_INVALID);
    EXPECT_NE(strstr(status.message, "slo.tpot_ms is 1.000, and one token takes"), nullptr) << status.message;
}

// Those that were promised nothing fill the places; one that was takes the place of the last of them, at once. All end.
TEST(Deadlines, PromisesTakeThePlacesOfThoseWithout) {
    Simulated simulated(60000 * MS, 1000 * MS);
    std::vector<uint32_t> prompt(256, 7);
    std::vector<struct request> requests(64 + 20);
    std::vector<uint32_t> tokens(requests.size()), finishes(requests.size());
    auto submit = [&](uint32_t index, bool promised) {
        requests[index].prompt = prompt.data();
        requests[index].prompt_count = 256;
        requests[index].sampling.top_p = requests[index].sampling.repetition_penalty = 1;
        requests[index].sampling.max_tokens = 200;
        requests[index].sampling.ignore_eos = true;
        requests[index].arrival_ns = device_now_ns(simulated.rig.device);
        requests[index].has_promise = true;
        requests[index].promise = promised ? promise{2000 * MS, 1000 * MS} : promise{0, 0};
        must(engine_submit(simulated.engine, &requests[index]));
    };
    std::vector<struct engine_event> events(64);
    bool idle = false;
    auto step = [&] {
        must(engine_step(simulated.engine, &idle));
        for (uint32_t count; (count = engine_poll(simulated.engine, events.data(), 64)) > 0;) {
            for (uint32_t i = 0; i < count; i++) {
                tokens[events[i].request - requests.data()] += events[i].has_token;
                finishes[events[i].request - requests.data()] += events[i].finish == FINISH_LENGTH;
            }
        }
    };
    for (uint32_t i = 0; i < 64; i++) {
        submit(i, false);
    }
    struct engine_stats stats = {};
    while (stats.running < 64) { // as many as may run
        step();
        engine_stats(simulated.engine, &stats);
    }
    for (uint32_t i = 64; i < requests.size(); i++) {
        submit(i, true);
    }
    while (!idle) {
        step();
    }
    engine_stats(simulated.engine, &stats);
    EXPECT_EQ(stats.promised, 20u);
    EXPECT_EQ(stats.kept, 20u);
    EXPECT_GE(stats.preemptions, 16u); // others find a place that somebody left
    for (size_t i = 0; i < requests.size(); i++) {
        EXPECT_EQ(tokens[i], 200u) << i;
        EXPECT_EQ(finishes[i], 1u) << i;
    }
}

// First come, first served: whatever is promised, first tokens come in the order of arrival, and an overload costs the
// promises of nearly everybody.
TEST(Deadlines, FirstComeFirstServedKnowsNone) {
    Trace trace(600, 24, 300, 100);
    Simulated fcfs(2000 * MS, 200 * MS, "metronome", ORDER_FCFS), deadlines(2000 * MS, 200 * MS);
    uint32_t kept = deadlines.run(trace.trace).kept;
    EXPECT_LT(fcfs.run(trace.trace).kept, kept / 2);
    for (uint32_t i = 1; i < trace.trace.count; i++) {
        EXPECT_GE(fcfs.outcomes[i].first_token_ns, fcfs.outcomes[i - 1].first_token_ns) << i;
    }
}

// What the engine counts of promises is what a client sees.
TEST(Deadlines, TheEngineJudgesAsClientsDo) {
    Trace trace(200, 14, 300, 100);
    Simulated simulated(2000 * MS, 120 * MS);
    struct replay_report report = simulated.run(trace.trace);
    struct engine_stats stats;
    engine_stats(simulated.engine, &stats);
    EXPECT_EQ(stats.promised, 200u);
    EXPECT_EQ(stats.kept, report.kept);
    EXPECT_EQ(stats.late_first, 200 - report.kept_ttft);
    EXPECT_EQ(stats.late_later, 200 - report.kept_tpot);
    EXPECT_GT(report.kept, 0u);
    EXPECT_LT(report.kept, 200u);
}

// A model that fits the device with room to spare, and many requests at once: what is streamed while nobody is there
// comes home as they come, and no more of them miss their promise for it.
TEST(Deadlines, WeightsThatFitComeHomeInTime) {
    for (uint32_t sequences : {32u, 48u, 64u, 100u}) {
        const Place place = {.sequences = sequences, .context = 288};
        Trace trace(100, 1e6, 64, 128, 1);
        Simulated metronome(0, 43 * MS, "metronome", ORDER_DEADLINES, place);
        Simulated none(0, 43 * MS, "none", ORDER_DEADLINES, place);
        EXPECT_GE(metronome.run(trace.trace).kept + 1, none.run(trace.trace).kept) << sequences;
    }
}

// As the load grows, streaming for memory's sake gives way: what is in host memory falls, and with it the time that a
// sequence holds its room, so that more promises are kept than by a fixed interval.
TEST(Deadlines, ALoadTakesItsTimeBackFromTheLink) {
    double host_bytes = 1e18;
    for (double rate : {0.5, 2.0, 4.0}) {
        uint32_t kept = 0, kept_by_select_n = 0;
        double host_bytes_here = 0;
        for (uint64_t seed = 1; seed <= 2; seed++) {
            Trace trace(120, rate, 500, 150, seed);
            Simulated metronome(3000 * MS, 250 * MS), select_n(3000 * MS, 250 * MS, "select-n");
            struct replay_report report = metronome.run(trace.trace);
            kept += report.kept;
            host_bytes_here += report.host_bytes_mean;
            kept_by_select_n += select_n.run(trace.trace).kept;
        }
        EXPECT_GE(kept, kept_by_select_n) << rate;
        EXPECT_LT(host_bytes_here, host_bytes) << rate;
        host_bytes = host_bytes_here;
    }
}

} // namespace
