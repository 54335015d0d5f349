// offload/arena: slots below the boundary, KV blocks above it, and how many blocks a boundary has to leave.
extern "C" {
#include "base/random.h"
#include "offload/arena.h"
}
#include <algorithm>
#include <gtest/gtest.h>
#include <vector>

namespace {

class Arena {
  public:
    Arena(size_t bytes, size_t slot_bytes, size_t block_bytes, uint32_t boundary) {
        struct device_config config = {};
        config.name = "cpu";
        EXPECT_EQ(device_open(&config, &device).code, STATUS_OK);
        EXPECT_EQ(arena_create(device, bytes, slot_bytes, block_bytes, boundary, &arena).code, STATUS_OK);
    }
    ~Arena() {
        arena_destroy(&arena);
        device_close(device);
    }
    struct device *device = nullptr;
    struct arena arena = {};
};

TEST(Arena, BlocksAreTheOthersOfTheBoundary) {
    Arena rig(64 * 100, 64, 224, 80); // blocks of 3 slots and a half: larger than a slot, and no multiple of it
    struct arena &arena = rig.arena;
    EXPECT_EQ(arena.blocks, 20u * 64 / 224);
    std::vector<uint32_t> taken(arena.blocks);
    for (uint32_t &block : taken) {
        ASSERT_TRUE(arena_take_block(&arena, &block));
        EXPECT_GE(arena_block_address(&arena, block), arena_slot_address(&arena, 80));
    }
    uint32_t none;
    EXPECT_FALSE(arena_take_block(&arena, &none));
    arena_give_block(&arena, taken.back()); // the one next to the boundary
    EXPECT_TRUE(arena_blocks_free_from(&arena, arena.blocks - 1));
    EXPECT_FALSE(arena_blocks_free_from(&arena, arena.blocks - 2));
    arena_set_boundary(&arena, 82);
    EXPECT_EQ(arena.blocks, 18u * 64 / 224);
    arena_set_boundary(&arena, 10);
    EXPECT_EQ(arena.blocks, 90u * 64 / 224);
    EXPECT_EQ(arena_lost_bytes(&arena), 90u * 64 % 224);
    for (size_t i = 0; i + 1 < taken.size(); i++) {
        arena_give_block(&arena, taken[i]);
    }
    EXPECT_EQ(arena.taken, 0u);
}

// Thousands of blocks, given and taken at random: it is always the lowest that is free.
TEST(Arena, TakesTheFreeBlockFarthestFromTheBoundary) {
    const uint32_t count = 3 * 4096 + 100;
    Arena rig((size_t)64 * count, 64, 64, 0);
    struct arena &arena = rig.arena;
    struct random_state random;
    random_seed(&random, 11);
    std::vector<bool> taken(count);
    uint32_t block, in_use = 0;
    for (int round = 0; round < 60; round++) {
        uint32_t more = (uint32_t)random_below(&random, count), less = (uint32_t)random_below(&random, count);
        uint32_t lowest = 0;
        for (uint32_t i = 0; i < more && in_use < count; i++, in_use++) {
            ASSERT_TRUE(arena_take_block(&arena, &block));
            while (taken[lowest]) {
                lowest++;
            }
            ASSERT_EQ(block, lowest);
            taken[block] = true;
        }
        EXPECT_EQ(arena_take_block(&arena, &block), in_use < count);
        if (in_use < count) {
            arena_give_block(&arena, block);
        }
        for (uint32_t i = 0; i < less; i++) {
            block = (uint32_t)random_below(&random, count);
            if (taken[block]) {
                arena_give_block(&arena, block);
                taken[block] = false;
                in_use--;
            }
        }
        ASSERT_EQ(arena.taken, in_use);
    }
}

// Against the definition, for random sets of blocks in use: the fewest blocks, at least as many as are in use, with no
// more than `moves` of those in use beyond them.
TEST(Arena, CountsTheBlocksThatABoundaryMustLeave) {
    Arena rig(64 * 300, 64, 64, 0);
    struct arena &arena = rig.arena;
    struct random_state random;
    random_seed(&random, 7);
    for (int round = 0; round < 300; round++) {
        std::vector<uint32_t> blocks;
        uint32_t block, keep = (uint32_t)random_below(&random, 100) + 1;
        while (arena_take_block(&arena, &block)) {
            blocks.push_back(block);
        }
        std::vector<uint32_t> used;
        for (uint32_t each : blocks) {
            if (random_below(&random, 100) < keep) {
                used.push_back(each);
            } else {
                arena_give_block(&arena, each);
            }
        }
        std::sort(used.begin(), used.end());
        if (!used.empty()) {
            EXPECT_EQ(arena_highest_block(&arena), used.back());
        }
        for (uint32_t moves : {0u, 1u, 2u, 5u, 64u, 1000u}) {
            uint32_t want = (uint32_t)used.size();
            while (std::count_if(used.begin(), used.end(), [&](uint32_t each) { return each >= want; }) > moves) {
                want++;
            }
            ASSERT_EQ(arena_blocks_needed(&arena, moves), want) << "round " << round << ", " << moves << " moves";
        }
        for (uint32_t each : used) {
            arena_give_block(&arena, each);
        }
    }
}

} // namespace
