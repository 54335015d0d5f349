// offload/kv on the cpu device, against a model of what each handle holds: blocks are taken, written, read, parked,
// fetched, moved and given back at random, with copies delayed at random, and every byte that an iteration reads is the
// one that was written last. Under the thread sanitizer a missing wait is a race.
extern "C" {
#include "base/random.h"
#include "offload/kv.h"
}
#include <cstring>
#include <gtest/gtest.h>
#include <map>
#include <vector>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

namespace {

const size_t SLOT_BYTES = 256, BLOCK_BYTES = 448;
const uint32_t SLOTS = 60, PATTERNS = 251;

void check(struct status status) {
    ASSERT_EQ(status.code, STATUS_OK) << status.message;
}

// What a handle should hold.
struct Block {
    int pattern = -1; // -1: never written
    bool parked = false, streamed = false, active = false;
};

struct kv_pool pool_of(uint32_t parked, uint32_t streamed) {
    return {parked, streamed, 3, 1};
}

class Rig {
  public:
    Rig(uint32_t boundary, uint32_t host_blocks, uint64_t jitter_ns, uint64_t seed, uint32_t stream_blocks = 0)
        : host_blocks_(host_blocks), stream_blocks_(stream_blocks) {
        struct device_config config = {};
        config.name = "cpu";
        config.threads = 1;
        config.copy_jitter_ns = jitter_ns;
        config.seed = seed;
        random_seed(&random, seed);
        check(device_open(&config, &device));
        check(arena_create(device, SLOTS * SLOT_BYTES, SLOT_BYTES, BLOCK_BYTES, boundary, &arena));
        memset(arena.base, 0xee, arena.bytes); // poison: the cpu device's memory is the host's
        const struct kv_pool pool = pool_of(host_blocks, stream_blocks);
        check(kv_create(device, &arena, &pool, &kv));
        check(stream_create(device, STREAM_COMPUTE, &compute));
        check(stream_create(device, STREAM_COPY, &weights));
        check(event_create(device, &loaded));
        check(device_alloc(device, PATTERNS * BLOCK_BYTES, "patterns", (void **)&patterns));
        check(device_alloc(device, ((size_t)arena.blocks_most + stream_blocks) * BLOCK_BYTES, "what was seen",
                           (void **)&seen));
        for (size_t i = 0; i < PATTERNS * BLOCK_BYTES; i++) {
            patterns[i] = (uint8_t)random_hash(i / BLOCK_BYTES, i);
        }
    }
    ~Rig() {
        for (const auto &each : blocks) {
            kv_give(kv, each.first);
        }
        EXPECT_EQ(arena.taken, 0u);
        EXPECT_EQ(kv_host_free(kv), host_blocks_);
        EXPECT_EQ(kv_groups(kv)->used, 0u);
        event_destroy(loaded);
        stream_destroy(weights);
        stream_destroy(compute);
        kv_destroy(kv);
        arena_destroy(&arena);
        device_free(device, patterns);
        device_free(device, seen);
        device_close(device);
    }

    uint32_t below(uint32_t bound) {
        return (uint32_t)random_below(&random, bound);
    }
    uint32_t any_handle() {
        auto at = blocks.begin();
        std::advance(at, below((uint32_t)blocks.size()));
        return at->first;
    }
    uint32_t parked() const {
        uint32_t count = 0;
        for (const auto &each : blocks) {
            count += each.second.parked;
        }
        return count;
    }

    void take() {
        uint32_t handle;
        bool expected = arena.taken < arena.blocks;
        ASSERT_EQ(kv_take(kv, &handle), expected);
        if (expected) {
            ASSERT_EQ(blocks.count(handle), 0u) << "a handle in use was given out";
            blocks[handle] = Block();
        }
    }
    void give(uint32_t handle) {
        kv_give(kv, handle);
        blocks.erase(handle);
    }
    void stream(uint32_t handle) {
        if (blocks[handle].parked || blocks[handle].streamed) {
            return;
        }
        bool expected = kv_groups(kv)->used < stream_blocks_;
        ASSERT_EQ(kv_stream(kv, handle, weights), expected);
        blocks[handle].streamed = blocks[handle].active = expected;
    }
    void unstream(uint32_t handle) {
        if (!blocks[handle].streamed) {
            return;
        }
        bool expected = arena.taken < arena.blocks;
        ASSERT_EQ(kv_unstream(kv, handle), expected);
        blocks[handle].streamed = !expected;
    }
    void pause(uint32_t handle) {
        if (blocks[handle].streamed) {
            blocks[handle].active = below(2) == 0;
            kv_set_active(kv, handle, blocks[handle].active);
        }
    }
    void park(uint32_t handle) {
        if (blocks[handle].parked || blocks[handle].streamed) {
            return;
        }
        bool expected = parked() < host_blocks_;
        ASSERT_EQ(kv_park(kv, handle), expected);
        blocks[handle].parked = expected;
    }
    void fetch(uint32_t handle) {
        if (!blocks[handle].parked) {
            return;
        }
        bool expected = arena.taken < arena.blocks;
        ASSERT_EQ(kv_fetch(kv, handle), expected);
        blocks[handle].parked = !expected;
    }

    // Weights come back: blocks in the way move, and slots that were blocks are written over; or they leave.
    void set_boundary(uint32_t boundary) {
        uint32_t before = arena.boundary;
        if (arena_blocks_at(&arena, boundary) < arena.taken) {
            return;
        }
        if (boundary > before) {
            kv_clear(kv, arena_blocks_at(&arena, boundary));
            kv_fence(kv, weights);
        } else {
            check(event_sync(loaded)); // iterations that used the weights have ended
        }
        arena_set_boundary(&arena, boundary);
        for (uint32_t slot = before; slot < boundary; slot++) {
            stream_copy(weights, arena_slot_address(&arena, slot), patterns, SLOT_BYTES, COPY_DEVICE_TO_DEVICE);
        }
        event_record(loaded, weights);
    }

    // Reads every block of the device that `share` of 100 chooses and that holds something, and writes some anew.
    void iterate(uint32_t share) {
        std::vector<uint32_t> used;
        for (const auto &each : blocks) {
            const Block &block = each.second;
            if (!block.parked && (!block.streamed || block.active) && below(100) < share) {
                used.push_back(each.first);
            }
        }
        bool changed = kv_groups(kv)->changed;
        uint32_t groups;
        const struct kv_group *list = kv_groups_list(kv_groups(kv), &groups);
        if (changed) {
            kv_fence(kv, weights);
        }
        std::vector<uint64_t> addresses(used.size());
        kv_addresses(kv, used.data(), (uint32_t)used.size(), addresses.data());
        kv_wait(kv, compute);
        std::vector<int> expected;
        for (size_t i = 0; i < used.size(); i++) {
            Block &block = blocks[used[i]];
            if (block.streamed) { // as the pipeline does, but for the ring
                const uint64_t entry = addresses[i];
                ASSERT_EQ(entry & 1, 1u);
                ASSERT_LT(entry >> 1 & 127, groups);
                const struct kv_group &group = list[entry >> 1 & 127];
                ASSERT_LT(entry >> 8, group.count * BLOCK_BYTES);
                expected.push_back(block.pattern);
                stream_copy(weights, seen + i * BLOCK_BYTES, kv_slot(kv, group.first) + (entry >> 8), BLOCK_BYTES,
                            COPY_HOST_TO_DEVICE);
                streamed_bytes += BLOCK_BYTES;
                continue;
            }
            void *address = (void *)(uintptr_t)addresses[i];
            ASSERT_GE(address, arena_slot_address(&arena, arena.boundary));
            expected.push_back(block.pattern);
            stream_copy(compute, seen + i * BLOCK_BYTES, address, BLOCK_BYTES, COPY_DEVICE_TO_DEVICE);
            if (block.pattern < 0 || below(3) == 0) {
                block.pattern = (int)below(PATTERNS);
                stream_copy(compute, address, patterns + block.pattern * BLOCK_BYTES, BLOCK_BYTES,
                            COPY_DEVICE_TO_DEVICE);
            }
        }
        check(stream_sync(compute));
        check(stream_sync(weights));
        for (size_t i = 0; i < used.size(); i++) {
            if (expected[i] >= 0) {
                ASSERT_EQ(memcmp(seen + i * BLOCK_BYTES, patterns + expected[i] * BLOCK_BYTES, BLOCK_BYTES), 0)
                    << "handle " << used[i] << " lost what was written";
            }
        }
    }

    struct device *device = nullptr;
    struct arena arena = {};
    struct kv *kv = nullptr;
    struct stream *compute = nullptr, *weights = nullptr;
    struct event *loaded = nullptr;
    uint8_t *patterns = nullptr, *seen = nullptr;
    uint64_t streamed_bytes = 0; // that iterations read
    struct random_state random;
    std::map<uint32_t, Block> blocks;

  private:
    uint32_t host_blocks_, stream_blocks_;
};

TEST(Kv, HoldsWhatWasWrittenWhereverItLies) {
    uint64_t moved = 0;
    for (uint64_t seed = 1; seed <= (SANITIZED ? 2 : 8); seed++) {
        SCOPED_TRACE("seed " + std::to_string(seed));
        Rig rig(20, seed % 4 == 0 ? 3 : 12, seed % 2 ? 20000 : 0, seed, 10);
        for (int step = 0; step < (SANITIZED ? 60 : 250); step++) {
            for (uint32_t calls = rig.below(12); calls > 0; calls--) {
                uint32_t what = rig.below(18);
                if (what < 4 || rig.blocks.empty()) {
                    rig.take();
                } else if (what < 6) {
                    rig.give(rig.any_handle());
                } else if (what < 9) {
                    rig.park(rig.any_handle());
                } else if (what < 12) {
                    rig.fetch(rig.any_handle());
                } else if (what < 14) {
                    rig.stream(rig.any_handle());
                } else if (what < 16) {
                    rig.unstream(rig.any_handle());
                } else {
                    rig.pause(rig.any_handle());
                }
            }
            if (rig.below(4) == 0) {
                rig.set_boundary(5 + rig.below(53));
            }
            rig.iterate(rig.below(100));
            if (HasFatalFailure()) {
                return;
            }
        }
        rig.iterate(100);
        struct kv_counts counts = kv_counts(rig.kv);
        struct link_count link = device_link_count(rig.device);
        EXPECT_EQ(counts.parked, rig.parked());
        EXPECT_GT(counts.blocks_out, 0u);
        EXPECT_GT(counts.blocks_in, 0u);
        moved += counts.blocks_moved;
        EXPECT_EQ(counts.bytes_out, link.device_to_host_bytes);
        EXPECT_EQ(counts.bytes_in + rig.streamed_bytes, link.host_to_device_bytes);
        EXPECT_GT(rig.streamed_bytes, 0u);
        EXPECT_EQ(counts.bytes_out, counts.blocks_out * BLOCK_BYTES);
        EXPECT_EQ(counts.bytes_in, counts.blocks_in * BLOCK_BYTES);
    }
    EXPECT_GT(moved, 0u);
}

// More copies in one go than there are points to wait for: each is still waited for, by a later one's.
TEST(Kv, MoreCopiesThanPoints) {
    Rig rig(0, 34, 2000, 3);
    while (rig.arena.taken < rig.arena.blocks) {
        rig.take();
    }
    rig.iterate(100);
    for (int round = 0; round < 8; round++) { // out and back, over and over, with nobody waiting
        std::vector<uint32_t> handles;
        for (const auto &each : rig.blocks) {
            handles.push_back(each.first);
        }
        for (uint32_t handle : handles) {
            rig.park(handle);
        }
        for (uint32_t handle : handles) {
            rig.fetch(handle);
        }
    }
    EXPECT_GT(kv_counts(rig.kv).blocks_out + kv_counts(rig.kv).blocks_in, 400u);
    rig.iterate(100);
}

TEST(Kv, GivenBackOnItsWay) {
    Rig rig(20, 4, 100000, 5);
    rig.take();
    rig.iterate(100);
    uint32_t handle = rig.any_handle();
    rig.park(handle);
    rig.fetch(handle);
    rig.give(handle); // both copies may still be to come
    rig.take();       // the same place
    rig.iterate(100);
    rig.iterate(100);
}

TEST(Kv, SaysWhenItWasOnTheLink) {
    Rig rig(20, 4, 0, 6);
    uint64_t begin_ns, end_ns, before_ns = device_now_ns(rig.device);
    EXPECT_FALSE(kv_traffic(rig.kv, &begin_ns, &end_ns));
    rig.take();
    rig.iterate(100);
    uint32_t handle = rig.any_handle();
    rig.park(handle);
    rig.fetch(handle);
    rig.iterate(100); // which waits for it
    ASSERT_TRUE(kv_traffic(rig.kv, &begin_ns, &end_ns));
    EXPECT_LE(before_ns, begin_ns);
    EXPECT_LE(begin_ns, end_ns);
    EXPECT_LE(end_ns, device_now_ns(rig.device));
    EXPECT_FALSE(kv_traffic(rig.kv, &begin_ns, &end_ns));
    rig.set_boundary(25); // nothing crosses the link when blocks move
    EXPECT_FALSE(kv_traffic(rig.kv, &begin_ns, &end_ns));
}

TEST(Kv, SaysHowLongComputeWaited) {
    Rig rig(20, 4, 5000000, 8); // delays of milliseconds
    rig.take();
    rig.iterate(100);
    EXPECT_EQ(kv_stall_ns(rig.kv), 0u);
    uint64_t stall_ns = 0, begin_ns = device_now_ns(rig.device);
    for (int i = 0; i < 10; i++) {
        rig.park(rig.any_handle());
        rig.fetch(rig.any_handle());
        rig.iterate(100);
        stall_ns += kv_stall_ns(rig.kv);
    }
    EXPECT_GT(stall_ns, 1000000u);
    EXPECT_LE(stall_ns, device_now_ns(rig.device) - begin_ns);
    EXPECT_EQ(kv_stall_ns(rig.kv), 0u);
}

TEST(Kv, WithoutHostMemoryNothingParks) {
    Rig rig(20, 0, 0, 7);
    rig.take();
    uint32_t handle = rig.any_handle();
    EXPECT_FALSE(kv_park(rig.kv, handle));
    EXPECT_EQ(device_info(rig.device).host_used, 0u);
    EXPECT_EQ(kv_counts(rig.kv).blocks_out, 0u);
}

TEST(Kv, SaysWhatHostMemoryIsShort) {
    struct device_config config = {};
    config.name = "cpu";
    config.host_memory = 1000;
    struct device *device;
    check(device_open(&config, &device));
    struct arena arena;
    check(arena_create(device, SLOTS * SLOT_BYTES, SLOT_BYTES, BLOCK_BYTES, 20, &arena));
    struct kv *kv = nullptr;
    const struct kv_pool pool = pool_of(3, 1);
    struct status status = kv_create(device, &arena, &pool, &kv);
    EXPECT_EQ(status.code, STATUS_NO_MEMORY);
    EXPECT_NE(strstr(status.message, "pool of KV blocks"), nullptr) << status.message;
    arena_destroy(&arena);
    device_close(device);
}

} // namespace
