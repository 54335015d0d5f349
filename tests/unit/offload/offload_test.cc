// offload/offload on simulated hardware, with stand-ins for a model's layers: how the memory of weights and of KV and
// the link between them are shared out.
#include "tests/unit/kernels/sim_rig.h"

extern "C" {
#include "base/log.h"
#include "offload/offload.h"
}
#include <gtest/gtest.h>

namespace {

const uint32_t LAYERS = 16;
const uint64_t LAYER_NS = 100000; // the link of the rig carries a byte a nanosecond
const size_t SLAB_BYTES = 1 << 18, BLOCK_BYTES = 1 << 15;

struct offload_config config_of(const char *policy) {
    struct offload_config config = {};
    config.policy = policy;
    config.layers = LAYERS;
    config.slabs = 1;
    config.slab_bytes = SLAB_BYTES;
    config.kv_block_bytes = BLOCK_BYTES;
    config.kv_blocks_wanted = 16;
    config.kv_blocks_most = 1000;
    config.kv_host_memory = 64 * BLOCK_BYTES;
    config.link_bytes_per_s = 1000000000;
    return config;
}

class Offload {
  public:
    explicit Offload(const struct offload_config &config) : compute(rig.stream(STREAM_COMPUTE)), ended(rig.event()) {
        log_set_level(LOG_WARN);
        must(offload_create(rig.device, &config, &offload));
        std::vector<uint8_t> packed(SLAB_BYTES);
        for (uint32_t layer = 0; layer < LAYERS; layer++) {
            must(offload_store_layer(offload, layer, 0, packed.data()));
        }
    }
    ~Offload() {
        offload_destroy(offload);
    }
    // What iterations cost, in chunks of up to 64 rows.
    void set_record(uint64_t layer_ns, uint64_t tpot_ns = UINT64_MAX) {
        struct record record = {};
        record.row_count = 2;
        record.context_count = 1;
        record.rows[0] = 1;
        record.rows[1] = 64;
        record.contexts[0] = 64;
        record.cell[0][0].layer_ns = record.cell[1][0].layer_ns = layer_ns;
        record.link_bytes_per_s = 1000000000;
        must(offload_set_record(offload, &record, tpot_ns));
    }
    // An iteration that uses the blocks; returns how long it took.
    uint64_t iterate(uint64_t deadline_ns, const std::vector<uint32_t> &blocks = {}, uint32_t rows = 1) {
        struct offload_demand demand = {};
        demand.crowded = crowded;
        demand.slack_ns = slack_ns;
        demand.next_blocks = (uint32_t)blocks.size() + more_blocks;
        demand.room_blocks = room_blocks;
        demand.deadline_ns = deadline_ns;
        demand.rows = demand.decode_rows = rows;
        demand.context_tokens = 64 * rows;
        uint64_t begin = device_now_ns(rig.device);
        offload_begin(offload, compute, &demand);
        std::vector<uint64_t> addresses(blocks.size());
        offload_kv_addresses(offload, blocks.data(), (uint32_t)blocks.size(), addresses.data());
        for (uint32_t layer = 0; layer < LAYERS; layer++) {
            offload_acquire_layer(offload, compute, layer);
            rig.busy(compute, layer_ns);
            offload_release_layer(offload, compute, layer);
        }
        event_record(ended, compute);
        must(event_sync(ended));
        uint64_t took = device_now_ns(rig.device) - begin;
        offload_end(offload, took);
        return took;
    }
    std::vector<uint32_t> take(uint32_t count) {
        std::vector<uint32_t> blocks(count);
        for (uint32_t &block : blocks) {
            EXPECT_TRUE(offload_kv_take(offload, &block));
        }
        return blocks;
    }
    void give(const std::vector<uint32_t> &blocks) {
        for (uint32_t block : blocks) {
            offload_kv_give(offload, block);
        }
    }
    SimRig rig;
    struct stream *compute;
    struct event *ended;
    struct offload *offload = nullptr;
    bool crowded = false; // what iterations say of room
    uint32_t more_blocks = 0, room_blocks = 1000;
    uint64_t slack_ns = 0; // what tokens are ahead
    uint64_t layer_ns = LAYER_NS;
};

// Between all weights with a ring and all weights without one lie budgets in which something has to leave.
TEST(Offload, EveryBudgetFromOneLayerAndTheRingUp) {
    for (uint32_t slots = 3; slots <= LAYERS + 4; slots++) {
        struct offload_config config = config_of("metronome");
        config.device_memory = slots * SLAB_BYTES + config.kv_blocks_wanted * BLOCK_BYTES + 64;
        Offload rig(config);
        struct offload_report report = offload_report(rig.offload);
        uint32_t staging = report.staging;
        EXPECT_EQ(report.streamed_slabs, slots < LAYERS + staging ? LAYERS + staging - slots : 0) << slots;
        rig.set_record(LAYER_NS);
        std::vector<uint32_t> blocks = rig.take(config.kv_blocks_wanted);
        for (int i = 0; i < 5; i++) { // with every KV block that was asked for in use
            rig.iterate(UINT64_MAX, blocks);
            report = offload_report(rig.offload);
            EXPECT_EQ(report.streamed_slabs, slots < LAYERS + staging ? LAYERS + staging - slots : 0) << slots;
        }
        rig.give(blocks);
    }
}

// Where room is short no more is streamed than compute hides; but for blocks that are wanted next weights leave at
// once, as far as the deadline goes, and come back when the blocks are given up.
TEST(Offload, WeightsGiveWayToBlocksThatAreWantedNext) {
    struct offload_config config = config_of("metronome");
    Offload rig(config);
    rig.set_record(LAYER_NS);
    rig.crowded = true;
    const uint64_t slab_ns = SLAB_BYTES, compute_ns = LAYERS * LAYER_NS; // a byte a nanosecond
    const uint32_t hidden = (uint32_t)(compute_ns / slab_ns);
    for (int i = 0; i < 20; i++) {
        rig.iterate(2 * compute_ns);
    }
    ASSERT_EQ(offload_report(rig.offload).streamed_slabs, hidden);
    std::vector<uint32_t> blocks = rig.take(offload_report(rig.offload).kv_blocks_free);
    rig.iterate(2 * compute_ns, blocks);
    ASSERT_EQ(offload_report(rig.offload).streamed_slabs, hidden);
    rig.more_blocks = 2 * SLAB_BYTES / BLOCK_BYTES;
    rig.iterate(2 * compute_ns, blocks);
    EXPECT_EQ(offload_report(rig.offload).streamed_slabs, hidden + 2);
    EXPECT_GE(offload_report(rig.offload).kv_blocks_free, rig.more_blocks);
    rig.more_blocks = 1000;
    uint64_t took = 0;
    for (int i = 0; i < 20; i++) {
        took = rig.iterate(2 * compute_ns, blocks);
    }
    EXPECT_GT(offload_report(rig.offload).streamed_slabs, hidden + 2);
    EXPECT_LE(took, 2 * compute_ns);
    rig.more_blocks = 0;
    rig.give(blocks);
    for (int i = 0; i < 20; i++) {
        rig.iterate(2 * compute_ns);
    }
    EXPECT_EQ(offload_report(rig.offload).streamed_slabs, hidden);
}

// Where it is places that are short, memory gives nothing: the weights come home, and no iteration is late for it.
TEST(Offload, WeightsComeHomeWhereBlocksAreNotWhatIsShort) {
    struct offload_config config = config_of("metronome");
    Offload rig(config);
    rig.set_record(LAYER_NS);
    const uint64_t deadline_ns = 2 * LAYERS * LAYER_NS;
    for (int i = 0; i < 50; i++) {
        rig.iterate(deadline_ns);
    }
    ASSERT_GT(offload_report(rig.offload).streamed_slabs, 6u);
    rig.crowded = true;
    rig.room_blocks = config.kv_blocks_wanted;
    for (int i = 0; i < 50; i++) {
        EXPECT_LE(rig.iterate(deadline_ns), deadline_ns) << i;
    }
    EXPECT_EQ(offload_report(rig.offload).streamed_slabs, 0u);
}

// A slot of the ring less is room for KV blocks: the ring is shorter while room is short, and as long as before once
// there has been room for a while and no slab has to leave for it.
TEST(Offload, TheRingIsShorterWhileRoomIsShort) {
    struct offload_config config = config_of("metronome");
    config.slabs = 8;
    config.slab_bytes = SLAB_BYTES / 8;
    config.tpot_ns = 2 * LAYERS * LAYER_NS;
    Offload rig(config);
    rig.set_record(LAYER_NS);
    const struct offload_report before = offload_report(rig.offload);
    for (int i = 0; i < 50; i++) {
        rig.iterate(config.tpot_ns);
    }
    rig.crowded = true;
    for (int i = 0; i < 20; i++) {
        rig.iterate(config.tpot_ns);
    }
    ASSERT_EQ(offload_report(rig.offload).staging, before.staging); // a token would be late for it
    rig.slack_ns = before.staging * config.slab_bytes;
    for (int i = 0; i < 20; i++) {
        rig.iterate(config.tpot_ns);
    }
    const struct offload_report crowded = offload_report(rig.offload);
    EXPECT_LT(crowded.staging, before.staging);
    EXPECT_GT(crowded.staging, 1u);
    std::vector<uint32_t> blocks = rig.take(crowded.kv_blocks_free);
    rig.crowded = false;
    uint64_t took = 0;
    for (int i = 0; i < 100; i++) {
        took = rig.iterate(config.tpot_ns, blocks);
    }
    EXPECT_LE(took, config.tpot_ns);
    rig.give(blocks);
    for (int i = 0; i < 100; i++) {
        took = rig.iterate(config.tpot_ns);
    }
    EXPECT_LE(took, config.tpot_ns);
    EXPECT_EQ(offload_report(rig.offload).staging, before.staging);
}

// Where the weights do not fit, the ring that is left while room is short is one that keeps the link busy: as short as
// can be while layers compute quickly, and as long as it was once they compute for as long as many slabs are copied.
TEST(Offload, TheRingIsLongEnoughForWhatComesWhileALayerComputes) {
    struct offload_config config = config_of("metronome");
    config.slabs = 8;
    config.slab_bytes = SLAB_BYTES / 8;
    config.device_memory = LAYERS / 2 * SLAB_BYTES + config.kv_blocks_wanted * BLOCK_BYTES;
    config.tpot_ns = LAYERS * SLAB_BYTES * 3 / 4; // a byte a nanosecond
    Offload rig(config);
    rig.layer_ns = config.slab_bytes / 2;
    rig.set_record(rig.layer_ns, config.tpot_ns);
    const struct offload_report before = offload_report(rig.offload);
    rig.crowded = true;
    rig.more_blocks = 1000;
    rig.slack_ns = before.staging * config.slab_bytes;
    for (int i = 0; i < 100; i++) {
        rig.iterate(config.tpot_ns);
    }
    const struct offload_report quick = offload_report(rig.offload);
    EXPECT_LT(quick.staging, before.staging);
    EXPECT_LE(quick.measured_ns, config.tpot_ns);
    EXPECT_GT(quick.bytes_streamed, (config.tpot_ns - SLAB_BYTES) * 9 / 10);
    rig.layer_ns = 5 * config.slab_bytes;
    for (int i = 0; i < 100; i++) {
        rig.iterate(config.tpot_ns, {}, 64);
    }
    const struct offload_report slow = offload_report(rig.offload);
    EXPECT_GT(slow.staging, quick.staging);
    EXPECT_LE(slow.measured_ns, config.tpot_ns);
    EXPECT_GT(slow.bytes_streamed, (config.tpot_ns - SLAB_BYTES) * 9 / 10);
}

// Blocks in use hold back weights by their number, not by where they lie, and move in steps of bounded work.
TEST(Offload, BlocksMoveOutOfTheWayOfWeights) {
    struct offload_config config = config_of("metronome");
    Offload rig(config);
    rig.set_record(LAYER_NS);
    const uint64_t deadline_ns = LAYERS * LAYER_NS * 3 / 2;
    for (int i = 0; i < 50; i++) {
        rig.iterate(deadline_ns);
    }
    struct offload_report report = offload_report(rig.offload);
    const uint32_t streamed = report.streamed_slabs;
    ASSERT_GT(streamed, 6u);
    std::vector<uint32_t> blocks = rig.take(report.kv_blocks_free), kept;
    for (size_t i = 0; i < blocks.size(); i++) { // a quarter stays, spread over all of the cache
        if (i % 4 == 3) {
            kept.push_back(blocks[i]);
        } else {
            offload_kv_give(rig.offload, blocks[i]);
        }
    }
    device_set_link(rig.rig.device, 2e8); // a fifth
    uint32_t iterations = 0;
    for (uint64_t moved = 0; offload_report(rig.offload).streamed_slabs > streamed / 4; iterations++) {
        ASSERT_LT(iterations, 20u) << offload_report(rig.offload).streamed_slabs << " slabs still stream";
        rig.iterate(deadline_ns, kept);
        report = offload_report(rig.offload);
        EXPECT_LE(report.kv_blocks_moved - moved, 4 * (SLAB_BYTES / BLOCK_BYTES + 1));
        moved = report.kv_blocks_moved;
    }
    EXPECT_GT(report.kv_blocks_moved, 0u);
    EXPECT_EQ(report.kv_blocks - report.kv_blocks_free, kept.size());
    rig.give(kept);
}

// Blocks that nobody uses now make room for the weights without which iterations are late; the others stay.
TEST(Offload, IdleBlocksLeaveForWeightsThatAreMissed) {
    struct offload_config config = config_of("metronome");
    config.kv_host_memory = 1000 * BLOCK_BYTES;
    Offload rig(config);
    rig.set_record(LAYER_NS);
    const uint64_t deadline_ns = LAYERS * LAYER_NS * 3 / 2;
    for (int i = 0; i < 50; i++) {
        rig.iterate(deadline_ns);
        EXPECT_EQ(offload_kv_excess(rig.offload), 0u);
    }
    const uint32_t streamed = offload_report(rig.offload).streamed_slabs;
    std::vector<uint32_t> idle = rig.take(offload_kv_free(rig.offload)), used(idle.begin(), idle.begin() + 16);
    idle.erase(idle.begin(), idle.begin() + 16);
    rig.iterate(deadline_ns, used);
    EXPECT_EQ(offload_kv_excess(rig.offload), 0u) << "nobody is late";
    rig.iterate(LAYERS * LAYER_NS * 9 / 10, used);
    EXPECT_EQ(offload_kv_excess(rig.offload), 0u) << "late, but not for want of weights";
    rig.iterate(deadline_ns, used);
    device_set_link(rig.rig.device, 3.5e8); // a third
    uint32_t parked = 0, late = 0;
    for (int i = 0; i < 100; i++) {
        for (uint32_t excess = offload_kv_excess(rig.offload); excess > 0 && parked < idle.size(); excess--) {
            ASSERT_TRUE(offload_kv_park(rig.offload, idle[idle.size() - ++parked]));
        }
        late = rig.iterate(deadline_ns, used) > deadline_ns ? i : late;
    }
    EXPECT_GT(parked, 0u);
    EXPECT_LT(parked, idle.size()) << "no more than it takes";
    EXPECT_LT(late, 60u) << "and then none is late any more";
    EXPECT_LT(offload_report(rig.offload).streamed_slabs, streamed / 2);
    EXPECT_EQ(offload_kv_excess(rig.offload), 0u);
    rig.give(used);
    rig.give(idle);
}

TEST(Offload, ParkingPaysWhereComputingTakesLonger) {
    Offload rig(config_of("metronome"));
    // Out and back 65.5 us; 16 tokens of 64 take a quarter of 16 layers.
    rig.set_record(16000);
    EXPECT_FALSE(offload_kv_pays(rig.offload, 0));
    rig.set_record(17000);
    EXPECT_TRUE(offload_kv_pays(rig.offload, 0));

    Offload unmeasured(config_of("none")); // by the fullest iteration there was
    EXPECT_TRUE(offload_kv_pays(unmeasured.offload, 0));
    unmeasured.iterate(UINT64_MAX, {}, 64); // 1.6 ms: 400 us for 16 tokens
    EXPECT_TRUE(offload_kv_pays(unmeasured.offload, 0));
    unmeasured.iterate(UINT64_MAX, {}, 640);
    EXPECT_FALSE(offload_kv_pays(unmeasured.offload, 0));
    unmeasured.iterate(UINT64_MAX, {}, 1); // which says less
    EXPECT_FALSE(offload_kv_pays(unmeasured.offload, 0));
}

TEST(Offload, SpareIsWhatTheDeadlineLeavesOfTheLink) {
    struct offload_config config = config_of("prefetch-group"); // every second layer
    config.options.group = 2;
    config.options.group_streamed = config.options.prefetch_step = 1;
    Offload rig(config);
    EXPECT_EQ(offload_kv_spare(rig.offload), UINT32_MAX) << "nothing has run yet, and nobody waits";
    const uint64_t weights = offload_report(rig.offload).streamed_slabs * SLAB_BYTES;
    ASSERT_GT(weights, 0u);
    for (uint64_t deadline_ns : {UINT64_C(4000000), UINT64_C(2500000), UINT64_C(1000)}) {
        rig.iterate(deadline_ns);
        uint64_t left = deadline_ns > weights ? (deadline_ns - weights) / BLOCK_BYTES : 0;
        EXPECT_NEAR((double)offload_kv_spare(rig.offload), (double)std::max<uint64_t>(left, 1), 1);
    }
}

// An iteration that nobody was promised brings nothing home: the next promise would only send it off again.
TEST(Offload, WhatLeftStaysAwayBetweenPromises) {
    Offload rig(config_of("metronome"));
    rig.set_record(LAYER_NS);
    rig.iterate(UINT64_MAX);
    EXPECT_EQ(offload_report(rig.offload).streamed_slabs, 0u) << "nothing was ever promised, nor is memory short";
    for (int i = 0; i < 60; i++) {
        rig.iterate(LAYERS * LAYER_NS * 3 / 2);
    }
    const struct offload_report before = offload_report(rig.offload);
    ASSERT_GT(before.streamed_slabs, 0u);
    rig.iterate(UINT64_MAX);
    rig.iterate(LAYERS * LAYER_NS * 3 / 2);
    const struct offload_report after = offload_report(rig.offload);
    EXPECT_EQ(after.streamed_slabs, before.streamed_slabs);
    EXPECT_EQ(after.placements, before.placements);
}

// KV that crosses the link in every iteration takes the place of weights: fewer stream while it lasts, deadlines are
// kept, and nothing that was learnt is lost by it.
TEST(Offload, KvOnTheLinkTakesThePlaceOfWeights) {
    struct offload_config config = config_of("metronome");
    config.slabs = 4;
    config.slab_bytes = SLAB_BYTES / 4;
    Offload rig(config);
    rig.set_record(LAYER_NS);
    const uint64_t deadline_ns = LAYERS * LAYER_NS * 3 / 2;
    std::vector<uint32_t> blocks = rig.take(16);
    for (int i = 0; i < 100; i++) {
        rig.iterate(deadline_ns, blocks);
    }
    const struct offload_report quiet = offload_report(rig.offload);
    EXPECT_GT(quiet.streamed_slabs, 28u);
    for (int i = 0; i < 200; i++) {
        for (uint32_t j = 0; j < 8; j++) { // 16 copies of a block, 22 % of what the link carries by the deadline
            ASSERT_TRUE(offload_kv_park(rig.offload, blocks[j]));
            ASSERT_TRUE(offload_kv_fetch(rig.offload, blocks[j]));
        }
        rig.iterate(deadline_ns, std::vector<uint32_t>(blocks.begin() + 8, blocks.end()));
    }
    const struct offload_report busy = offload_report(rig.offload);
    EXPECT_LT(busy.streamed_slabs, quiet.streamed_slabs - 2);
    EXPECT_GT(busy.streamed_slabs, quiet.streamed_slabs / 2);
    EXPECT_LE(busy.total_late - quiet.total_late, 10u) << "more than it takes to notice";
    EXPECT_NEAR((double)busy.link_bytes_per_s, (double)quiet.link_bytes_per_s, 0.05 * (double)quiet.link_bytes_per_s);
    EXPECT_EQ(busy.kv_bytes_out, 200u * 8 * BLOCK_BYTES);
    for (int i = 0; i < 200; i++) {
        rig.iterate(deadline_ns, blocks);
    }
    EXPECT_GE(offload_report(rig.offload).streamed_slabs + 2, quiet.streamed_slabs);
    rig.give(blocks);
}

} // namespace
