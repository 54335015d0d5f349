// kernels/sim/: the virtual clock: streams, events, and copies that share the bus.
#include "tests/unit/kernels/sim_rig.h"

#include <algorithm>

constexpr size_t MB = 1000000; // takes 1 ms on the round link; above SIM_MOVED_BYTES from 2 on: nothing is moved
constexpr uint64_t MS = 1000000;

// ---- order ----

TEST(SimTime, OpsTakeTheirTimeOnTheStreamAndNoneOfTheHosts) {
    SimRig rig;
    struct stream *stream = rig.stream(STREAM_COMPUTE);
    struct event *event = rig.event();
    rig.busy(stream, 5000);
    rig.busy(stream, 700);
    event_record(event, stream);
    EXPECT_EQ(rig.now(), 0u);
    must(event_sync(event));
    EXPECT_EQ(rig.now(), 5700u);
    EXPECT_EQ(event_time_ns(event), 5700u);
}

// One rank stands for all. Of 4000 bytes a ring of four gives 2 * 3/4 to a neighbour, at 2 bytes a nanosecond.
TEST(SimTime, SumsOverRanksTakeWhatARingTakes) {
    for (uint32_t ranks : {1, 2, 4}) {
        SimOptions options;
        options.launch_ns = 100;
        options.ranks = ranks;
        SimRig rig(options);
        struct stream *stream = rig.stream(STREAM_COMPUTE);
        EXPECT_EQ(device_info(rig.device).ranks, ranks);
        op_all_reduce(stream, rig.memory<float>(1000), 2, 500);
        must(stream_sync(stream));
        EXPECT_EQ(rig.now(), ranks == 1 ? 0u : 100 + 5 + 4000 * (ranks - 1) / ranks);
    }
}

// Bytes that op_sample() moves on a device, by what a row asks for; 2000 tokens.
TEST(SimTime, ARowIsDrawnInAsManyPassesAsItAsksFor) {
    SimRig rig; // whose launches take no time
    const struct cost_model *cost = sim_cost_model(rig.device);
    const uint32_t vocabulary = 2000;
    const struct sample_row plain = sample_plain_row();
    struct sample_row drawn = plain, cut = plain, cuts = plain, scored = plain, changed = plain, given = plain;
    drawn.inverse_temperature = cut.inverse_temperature = cuts.inverse_temperature = 1;
    cut.top_k = cuts.top_k = 7;
    cuts.top_p = 1;
    scored.score = 0, scored.top = 3;
    changed.change_count = 10;
    given.target = 5;
    auto bytes_ns = [&](const std::vector<struct sample_row> &rows) {
        return cost_sample_ns(cost, rows.data(), uint32_t(rows.size()), vocabulary);
    };
    const double pass = 4.0 * vocabulary;
    EXPECT_EQ(bytes_ns({plain, plain}), cost_argmax_ns(cost, 2, vocabulary));
    EXPECT_EQ(bytes_ns({drawn}), cost_bytes_ns(cost, 2 * pass));
    EXPECT_EQ(bytes_ns({cut}), cost_bytes_ns(cost, 5 * pass));
    EXPECT_EQ(bytes_ns({cuts}), cost_bytes_ns(cost, 8 * pass));
    EXPECT_EQ(bytes_ns({scored}), cost_bytes_ns(cost, 3 * pass + 3 * 1024 * 4));
    EXPECT_EQ(bytes_ns({changed}), cost_bytes_ns(cost, pass + 10 * 48));
    EXPECT_EQ(bytes_ns({given}), cost_bytes_ns(cost, 0));
    EXPECT_EQ(bytes_ns({cuts, drawn, scored}), cost_bytes_ns(cost, 13 * pass + 3 * 1024 * 4));
}

// A launch that begins rows, and one for all their passes if a block goes over a row alone, or one for each.
TEST(SimTime, LaunchesOfADrawAreAsManyAsThePassesOfOneRow) {
    SimOptions options;
    options.launch_ns = 1000;
    SimRig rig(options);
    const struct cost_model *cost = sim_cost_model(rig.device);
    struct sample_row drawn = sample_plain_row(), scored = drawn, given = drawn;
    drawn.inverse_temperature = 1, drawn.top_p = 1; // five passes
    scored.score = 0;                               // three
    given.target = 5;
    const struct {
        std::vector<struct sample_row> rows;
        uint32_t passes, launches_short, launches_long;
    } cases[] = {{{drawn}, 5, 2, 6}, {{scored}, 3, 2, 4}, {{drawn, scored, drawn}, 13, 2, 6}, {{given}, 0, 1, 1}};
    for (const auto &c : cases) {
        for (uint32_t vocabulary : {8192, 8193}) {
            const uint64_t launches = vocabulary == 8192 ? c.launches_short : c.launches_long;
            EXPECT_EQ(cost_sample_ns(cost, c.rows.data(), uint32_t(c.rows.size()), vocabulary),
                      cost_bytes_ns(cost, 4.0 * vocabulary * c.passes) + (launches - 1) * 1000);
        }
    }
}

TEST(SimTime, AnOpBeginsNoEarlierThanItWasEnqueued) {
    SimRig rig;
    struct stream *stream = rig.stream(STREAM_COMPUTE);
    struct event *event = rig.event();
    device_sleep_until_ns(rig.device, 4000);
    event_record(event, stream); // on an idle stream: now
    EXPECT_TRUE(event_query(event));
    EXPECT_EQ(event_time_ns(event), 4000u);
    rig.busy(stream, 100);
    must(stream_sync(stream));
    EXPECT_EQ(rig.now(), 4100u);
    device_sleep_until_ns(rig.device, 10); // the past: at once
    EXPECT_EQ(rig.now(), 4100u);
}

TEST(SimTime, EveryEnqueueTakesTheHostsTime) {
    SimOptions options;
    options.enqueue_ns = 1000;
    SimRig rig(options);
    struct stream *stream = rig.stream(STREAM_COMPUTE);
    struct event *event = rig.event();
    for (int i = 0; i < 10; i++) {
        rig.busy(stream, 100); // the device waits for the host
    }
    event_record(event, stream);
    EXPECT_EQ(rig.now(), 11000u);
    must(event_sync(event));
    EXPECT_EQ(event_time_ns(event), 11000u); // the last op ended at 10100, the record came at 11000
}

TEST(SimTime, StreamsRunBesideEachOtherAndWaitForEvents) {
    SimRig rig;
    struct stream *compute = rig.stream(STREAM_COMPUTE), *copies = rig.stream(STREAM_COPY);
    struct event *ready = rig.event(), *done = rig.event(), *never = rig.event();
    rig.copy(copies, 3 * MB);
    event_record(ready, copies);
    rig.busy(compute, MS);
    stream_wait(compute, never); // never recorded: past
    stream_wait(compute, ready); // 3 ms
    rig.busy(compute, 2 * MS);
    event_record(done, compute);
    EXPECT_TRUE(event_query(never));
    must(event_sync(never));
    EXPECT_EQ(rig.now(), 0u);
    must(event_sync(done));
    EXPECT_EQ(event_time_ns(ready), 3 * MS);
    EXPECT_EQ(event_time_ns(done), 5 * MS);
}

TEST(SimTime, AWaitMeansTheRecordBeforeIt) {
    SimRig rig;
    struct stream *compute = rig.stream(STREAM_COMPUTE), *copies = rig.stream(STREAM_COPY);
    struct event *event = rig.event(), *done = rig.event();
    rig.copy(copies, 2 * MB);
    event_record(event, copies); // at 2 ms
    stream_wait(compute, event);
    rig.copy(copies, 6 * MB);
    event_record(event, copies); // at 8 ms: the wait above does not see it
    rig.busy(compute, MS);
    event_record(done, compute);
    must(event_sync(done));
    EXPECT_EQ(event_time_ns(done), 3 * MS);
    EXPECT_FALSE(event_query(event));
    must(event_sync(event));
    EXPECT_EQ(event_time_ns(event), 8 * MS);
}

TEST(SimTime, AnEventMayBeGoneBeforeItsRecordIsPassed) {
    SimRig rig;
    struct stream *compute = rig.stream(STREAM_COMPUTE), *copies = rig.stream(STREAM_COPY);
    struct event *event = nullptr;
    must(event_create(rig.device, &event));
    rig.copy(copies, 2 * MB);
    event_record(event, copies);
    stream_wait(compute, event);
    event_destroy(event);
    must(stream_sync(compute));
    EXPECT_EQ(rig.now(), 2 * MS);
    struct stream *later = nullptr;
    must(stream_create(rig.device, STREAM_COPY, &later));
    rig.copy(later, 2 * MB);
    stream_destroy(later); // waits for its work
    EXPECT_EQ(rig.now(), 4 * MS);
}

TEST(SimTime, ALoopThatAsksComesToAnEnd) {
    SimRig rig;
    struct stream *copies = rig.stream(STREAM_COPY);
    struct event *event = rig.event();
    rig.copy(copies, 2000);
    event_record(event, copies);
    uint64_t asked = 0;
    while (!event_query(event)) {
        asked++;
    }
    EXPECT_EQ(asked, 2000u);
    EXPECT_EQ(event_time_ns(event), 2000u);
    EXPECT_EQ(rig.now(), 2000u);
}

TEST(SimTime, AFullQueueMakesTheHostWait) {
    SimRig rig;
    struct stream *copies = rig.stream(STREAM_COPY);
    for (int i = 0; i < 10000; i++) {
        rig.copy(copies, 1000);
    }
    EXPECT_GT(rig.now(), 5000u * 1000);
    must(stream_sync(copies));
    EXPECT_EQ(rig.now(), 10000u * 1000);
    // Calls of every kind count, and waiting in the middle of them changes nothing.
    struct stream *compute = rig.stream(STREAM_COMPUTE);
    struct event *event = rig.event(), *done = rig.event();
    uint64_t begin = rig.now();
    rig.copy(copies, 5 * MB);
    event_record(event, copies);
    stream_wait(compute, event);
    for (int i = 0; i < 10000; i++) {
        rig.busy(compute, 1000);
        event_record(done, compute);
    }
    must(event_sync(done));
    EXPECT_EQ(rig.now(), begin + 5 * MS + 10000u * 1000);
}

// ---- the bus ----

// Ends of copies of `bytes`, one a stream, each enqueued at its time.
static std::vector<uint64_t> ends(SimRig &rig, const std::vector<std::pair<uint64_t, size_t>> &copies) {
    std::vector<struct event *> events;
    for (const auto &copy : copies) {
        struct stream *stream = rig.stream(STREAM_COPY);
        device_sleep_until_ns(rig.device, copy.first);
        rig.copy(stream, copy.second);
        events.push_back(rig.event());
        event_record(events.back(), stream);
    }
    std::vector<uint64_t> times;
    for (struct event *event : events) {
        must(event_sync(event));
        times.push_back(event_time_ns(event));
    }
    return times;
}

using Times = std::vector<uint64_t>;

TEST(SimBus, OneCopyTakesLatencyAndBytes) {
    SimOptions options;
    options.latency_ns = 300;
    SimRig rig(options);
    EXPECT_EQ(ends(rig, {{0, 2 * MB}}), Times({2 * MS + 300}));
    EXPECT_EQ(cost_copy_ns(2 * MB, 1e9, 300), 2 * MS + 300);
}

TEST(SimBus, CopiesOfOneStreamAreSerial) {
    SimOptions options;
    options.latency_ns = 300;
    SimRig rig(options);
    struct stream *stream = rig.stream(STREAM_COPY);
    struct event *first = rig.event(), *second = rig.event();
    rig.copy(stream, 2 * MB);
    event_record(first, stream);
    rig.copy(stream, 4 * MB, COPY_DEVICE_TO_HOST);
    event_record(second, stream);
    must(stream_sync(stream));
    EXPECT_EQ(event_time_ns(first), 2 * MS + 300);
    EXPECT_EQ(event_time_ns(second), 6 * MS + 600);
}

TEST(SimBus, CopiesAtOnceShareEqually) {
    SimRig equal;
    EXPECT_EQ(ends(equal, {{0, 4 * MB}, {0, 4 * MB}}), Times({8 * MS, 8 * MS}));
    SimRig unequal; // both run at a half until 4 ms, then the longer alone
    EXPECT_EQ(ends(unequal, {{0, 2 * MB}, {0, 6 * MB}}), Times({4 * MS, 8 * MS}));
    SimRig staggered; // A alone to 2, both at a half to 10 (4 of B's 6 left over: 2), B alone to 12
    EXPECT_EQ(ends(staggered, {{0, 6 * MB}, {2 * MS, 6 * MB}}), Times({10 * MS, 12 * MS}));
    SimRig three; // thirds: 3 MB each at 9; then halves: 3 more at 15; then alone: 3 more at 18
    EXPECT_EQ(ends(three, {{0, 3 * MB}, {0, 6 * MB}, {0, 9 * MB}}), Times({9 * MS, 15 * MS, 18 * MS}));
}

TEST(SimBus, LatencyTakesNoShare) {
    SimOptions options;
    options.latency_ns = 2 * MS;
    SimRig rig(options);
    // A moves from 2, B from 3: A has 3 left at 3, both at a half to 9, B has 1 left then.
    EXPECT_EQ(ends(rig, {{0, 4 * MB}, {1 * MS, 4 * MB}}), Times({9 * MS, 10 * MS}));
}

TEST(SimBus, APaceThatChangesInTheMiddle) {
    SimRig rig;
    struct stream *stream = rig.stream(STREAM_COPY);
    struct event *event = rig.event();
    rig.copy(stream, 10 * MB);
    event_record(event, stream);
    device_sleep_until_ns(rig.device, 4 * MS);
    device_set_link(rig.device, 0.5e9); // 6 MB left: 12 ms
    device_sleep_until_ns(rig.device, 8 * MS);
    device_set_link(rig.device, 2e9); // 4 MB left: 2 ms
    must(event_sync(event));
    EXPECT_EQ(event_time_ns(event), 10 * MS);
    EXPECT_EQ(device_info(rig.device).link_bytes_per_s, 2e9);
    device_set_link(rig.device, 0); // the hardware's own again
    uint64_t begin = rig.now();
    rig.copy(stream, 3 * MB);
    must(stream_sync(stream));
    EXPECT_EQ(rig.now() - begin, 3 * MS);
}

TEST(SimBus, AChangeAfterTheEndChangesNothing) {
    SimRig rig;
    struct stream *stream = rig.stream(STREAM_COPY);
    struct event *event = rig.event();
    rig.copy(stream, 2 * MB);
    event_record(event, stream);
    rig.copy(stream, 2 * MB);
    device_sleep_until_ns(rig.device, 3 * MS); // nothing has been asked of the bus yet
    device_set_link(rig.device, 1e6);
    must(event_sync(event));
    EXPECT_EQ(event_time_ns(event), 2 * MS);
    must(stream_sync(stream));
    EXPECT_EQ(rig.now(), 3 * MS + 1000 * MS); // 1 MB left at 1 MB/s
}

TEST(SimBus, ANeighbourComesAndGoes) {
    SimRig rig;
    const struct sim_link_step steps[] = {{2 * MS, 0.25e9}, {6 * MS, 0}, {8 * MS, 1e9}, {20 * MS, 0.5e9}};
    sim_set_link_steps(rig.device, steps, 4);
    // 2 to 2 ms, 1 more to 6, none to 8, the other 7 by 15.
    EXPECT_EQ(ends(rig, {{0, 10 * MB}}), Times({15 * MS}));
    // Five at 1 byte a ns by 20, five at a half by 30.
    EXPECT_EQ(ends(rig, {{15 * MS, 10 * MB}}), Times({30 * MS}));
    // Steps already past take effect at once.
    const struct sim_link_step late[] = {{1, 0.1e9}, {30 * MS, 2e9}};
    sim_set_link_steps(rig.device, late, 2);
    EXPECT_EQ(ends(rig, {{30 * MS, 10 * MB}}), Times({35 * MS}));
}

// An independent simulation of copies on a bus, in small steps of time: slow, and obviously right.
static std::vector<double> stepped(const std::vector<std::pair<uint64_t, size_t>> &copies, double latency_ns,
                                   double step_ns) {
    std::vector<double> left, end(copies.size(), 0);
    for (const auto &copy : copies) {
        left.push_back(static_cast<double>(copy.second));
    }
    size_t open = copies.size();
    for (double now = 0; open > 0; now += step_ns) {
        size_t moving = 0;
        for (size_t i = 0; i < copies.size(); i++) {
            moving += left[i] > 0 && static_cast<double>(copies[i].first) + latency_ns <= now;
        }
        for (size_t i = 0; i < copies.size(); i++) {
            if (left[i] > 0 && static_cast<double>(copies[i].first) + latency_ns <= now) {
                left[i] -= step_ns / static_cast<double>(moving);
                if (left[i] <= 1e-9) {
                    left[i] = 0;
                    end[i] = now + step_ns;
                    open--;
                }
            }
        }
    }
    return end;
}

TEST(SimBus, AgreesWithASmallStepSimulation) {
    struct random_state random;
    random_seed(&random, 11);
    for (int round = 0; round < 30; round++) {
        std::vector<std::pair<uint64_t, size_t>> copies;
        uint64_t at = 0;
        for (uint64_t i = 0, count = 2 + random_below(&random, 6); i < count; i++) {
            at += random_below(&random, 40) * 1000;
            copies.emplace_back(at, 1000 * (1 + random_below(&random, 100)));
        }
        SimOptions options;
        options.latency_ns = 1000 * random_below(&random, 5);
        SimRig rig(options);
        const std::vector<uint64_t> exact = ends(rig, copies);
        const std::vector<double> slow = stepped(copies, static_cast<double>(options.latency_ns), 5);
        for (size_t i = 0; i < copies.size(); i++) {
            EXPECT_NEAR(static_cast<double>(exact[i]), slow[i], 60) << "round " << round << " copy " << i;
        }
    }
}

// ---- layers that stream under the compute ----

// The model of time of the offload engine: in(k) = max(out(k-1), end of the layer that last used the slot),
// out = in + copy, start = max(end of the layer before, out), end = start + layer.
static std::vector<uint64_t> recurrence(uint32_t layers, const std::vector<bool> &offloaded, uint32_t slots,
                                        uint64_t copy_ns, uint64_t layer_ns, uint32_t iterations) {
    std::vector<uint64_t> released(slots, 0), iteration_ends;
    uint64_t out = 0, end = 0;
    uint32_t slot = 0;
    for (uint32_t i = 0; i < iterations; i++) {
        for (uint32_t layer = 0; layer < layers; layer++) {
            uint64_t start = end;
            if (offloaded[layer]) {
                out = std::max(out, released[slot]) + copy_ns;
                start = std::max(start, out);
            }
            end = start + layer_ns;
            if (offloaded[layer]) {
                released[slot] = end;
                slot = (slot + 1) % slots;
            }
        }
        iteration_ends.push_back(end);
    }
    return iteration_ends;
}

static std::vector<uint64_t> simulated(uint32_t layers, const std::vector<bool> &offloaded, uint32_t slots,
                                       size_t bytes, uint64_t layer_ns, uint32_t iterations) {
    SimOptions options;
    options.latency_ns = 500;
    SimRig rig(options);
    struct stream *compute = rig.stream(STREAM_COMPUTE), *copies = rig.stream(STREAM_COPY);
    std::vector<struct event *> arrived, released, ended;
    for (uint32_t i = 0; i < slots; i++) {
        arrived.push_back(rig.event());
        released.push_back(rig.event());
    }
    uint32_t slot = 0;
    for (uint32_t i = 0; i < iterations; i++) {
        for (uint32_t layer = 0; layer < layers; layer++) {
            if (offloaded[layer]) {
                stream_wait(copies, released[slot]);
                rig.copy(copies, bytes);
                event_record(arrived[slot], copies);
                stream_wait(compute, arrived[slot]);
            }
            rig.busy(compute, layer_ns);
            if (offloaded[layer]) {
                event_record(released[slot], compute);
                slot = (slot + 1) % slots;
            }
        }
        ended.push_back(rig.event());
        event_record(ended.back(), compute);
    }
    std::vector<uint64_t> times;
    for (struct event *event : ended) {
        must(event_sync(event));
        times.push_back(event_time_ns(event));
    }
    return times;
}

TEST(SimTime, TheRecurrenceOfOffloadingIsExact) {
    struct random_state random;
    random_seed(&random, 3);
    for (int round = 0; round < 300; round++) {
        const uint32_t layers = 1 + static_cast<uint32_t>(random_below(&random, 32));
        const uint32_t slots = 1 + static_cast<uint32_t>(random_below(&random, 4));
        std::vector<bool> offloaded;
        for (uint32_t i = 0; i < layers; i++) {
            offloaded.push_back(random_below(&random, 3) > 0);
        }
        const size_t bytes = 2 * MB + random_below(&random, 50 * MB);
        const uint64_t layer_ns = 1000 + random_below(&random, 20 * MS);
        const uint64_t copy_ns = cost_copy_ns(bytes, 1e9, 500);
        EXPECT_EQ(simulated(layers, offloaded, slots, bytes, layer_ns, 3),
                  recurrence(layers, offloaded, slots, copy_ns, layer_ns, 3))
            << "round " << round;
    }
}
