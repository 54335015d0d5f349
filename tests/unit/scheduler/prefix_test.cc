// scheduler/prefix against a model that is slow and plain: chains of blocks are held, entered, let go of, moved and
// forgotten at random, and after every step what is found, what is idle and in which order, and every count agree.
extern "C" {
#include "base/random.h"
#include "kernels/ops.h"
#include "scheduler/prefix.h"
}
#include <algorithm>
#include <cstring>
#include <gtest/gtest.h>
#include <map>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

namespace {

using Block = std::vector<uint32_t>; // its tokens
using Chain = std::vector<Block>;

struct cache_salt salt_of(const std::string &text) {
    struct cache_salt salt = {(uint32_t)text.size(), {}};
    memcpy(salt.text, text.data(), text.size());
    return salt;
}

// What is known of a handle: its whole beginning, by salt and tokens.
struct Known {
    bool entered = false, orphan = false; // orphan: a block before it is gone
    std::string salt;
    Chain chain;
    uint32_t holders = 0, pins = 0;
    enum prefix_place place = PREFIX_DEVICE;
};

class Model {
  public:
    Model(uint32_t handles, uint64_t seed) {
        random_seed(&random, seed);
        EXPECT_EQ(prefix_create(handles, &prefix).code, STATUS_OK);
        for (uint32_t i = 0; i < handles; i++) {
            unused.push_back(i);
        }
    }
    ~Model() {
        prefix_destroy(prefix);
    }
    Model(const Model &) = delete;
    Model &operator=(const Model &) = delete;

    uint32_t below(uint64_t bound) {
        return (uint32_t)random_below(&random, bound);
    }

    // Few different blocks, so that chains meet and part.
    Block draw_block() {
        return Block(KV_BLOCK_TOKENS, below(2));
    }

    uint32_t find(const std::string &salt, const Chain &chain) const {
        for (const auto &each : known) {
            const Known &it = each.second;
            if (it.entered && !it.orphan && it.salt == salt && it.chain == chain) {
                return each.first;
            }
        }
        return PREFIX_NOBODY;
    }

    void idle(uint32_t handle) {
        order[known[handle].place].push_back(handle);
    }
    void not_idle(uint32_t handle) {
        auto &list = order[known[handle].place];
        list.erase(std::find(list.begin(), list.end(), handle));
    }

    // Whether it can be found or not, for want of a block before it.
    bool is_entered(const std::string &salt, const Chain &chain) const {
        return std::any_of(known.begin(), known.end(), [&](const auto &each) {
            return each.second.entered && each.second.salt == salt && each.second.chain == chain;
        });
    }

    uint64_t key_of(const struct cache_salt &salt, const Chain &chain) const {
        std::vector<uint32_t> tokens;
        for (const Block &block : chain) {
            tokens.insert(tokens.end(), block.begin(), block.end());
        }
        std::vector<uint64_t> keys(chain.size());
        prefix_keys(prefix, &salt, tokens.data(), (uint32_t)chain.size(), keys.data());
        return keys.back();
    }

    // A sequence comes: it holds what is found of its chain, and enters new blocks after that.
    void come() {
        Sequence sequence;
        sequence.salt = below(3) == 0 ? "a" : "";
        const struct cache_salt salt = salt_of(sequence.salt);
        uint32_t length = 1 + below(5), parent = PREFIX_NOBODY;
        bool seen = true;
        Chain chain;
        for (uint32_t i = 0; i < length; i++) {
            chain.push_back(draw_block());
            uint32_t want = find(sequence.salt, chain), found = PREFIX_NOBODY;
            ASSERT_EQ(prefix_may_know(prefix, key_of(salt, chain)), is_entered(sequence.salt, chain));
            if (i == 0 || known[parent].entered) {
                found = prefix_find(prefix, parent, &salt, chain.back().data());
                ASSERT_EQ(found, want);
            }
            if (found != PREFIX_NOBODY) {
                ASSERT_TRUE(seen) << "a block is found behind one that is not";
                if (known[found].holders++ == 0) {
                    not_idle(found);
                }
                prefix_hold(prefix, found);
                parent = found;
                EXPECT_EQ(prefix_depth(prefix, found), i);
            } else {
                seen = false;
                if (unused.empty()) {
                    break;
                }
                uint32_t handle = unused.back();
                unused.pop_back();
                known[handle] = Known();
                known[handle].holders = 1;
                prefix_hold(prefix, handle);
                if (i + 1 < length || below(2) == 0) { // the last is not always full
                    known[handle].entered = true;
                    known[handle].salt = sequence.salt;
                    known[handle].chain = chain;
                    prefix_enter(prefix, handle, parent, &salt, chain.back().data());
                }
                parent = handle;
            }
            sequence.blocks.push_back(parent);
        }
        sequences.push_back(sequence);
    }

    // A sequence lets go, from its end, of all or some of its blocks.
    void go() {
        if (sequences.empty()) {
            return;
        }
        uint32_t which = below(sequences.size());
        Sequence &sequence = sequences[which];
        set_pinned(sequence, false);
        uint32_t kept = below(2) == 0 ? 0 : below(sequence.blocks.size() + 1);
        while (sequence.blocks.size() > kept) {
            uint32_t handle = sequence.blocks.back();
            sequence.blocks.pop_back();
            Known &it = known[handle];
            bool useless = --it.holders == 0 && !it.entered;
            ASSERT_EQ(prefix_let_go(prefix, handle), useless);
            if (useless) {
                known.erase(handle);
                unused.push_back(handle);
            } else if (it.holders == 0) {
                idle(handle);
            }
        }
        if (kept == 0) {
            sequences.erase(sequences.begin() + which);
        }
    }

    struct Sequence {
        std::string salt;
        std::vector<uint32_t> blocks;
        bool pinned = false;
    };

    void set_pinned(Sequence &sequence, bool pinned) {
        for (uint32_t handle : sequence.blocks) {
            if (pinned && !sequence.pinned) {
                known[handle].pins++;
                prefix_pin(prefix, handle);
            } else if (!pinned && sequence.pinned) {
                known[handle].pins--;
                prefix_unpin(prefix, handle);
            }
        }
        sequence.pinned = pinned;
    }

    void run_or_wait() {
        if (!sequences.empty()) {
            Sequence &sequence = sequences[below(sequences.size())];
            bool here = true;
            for (uint32_t handle : sequence.blocks) {
                here = here && known[handle].place == PREFIX_DEVICE;
            }
            set_pinned(sequence, here && !sequence.pinned);
        }
    }

    void move() {
        if (known.empty()) {
            return;
        }
        auto at = known.begin();
        std::advance(at, below(known.size()));
        Known &it = at->second;
        if (it.pins > 0) {
            return;
        }
        bool is_idle = it.holders == 0;
        if (is_idle) {
            not_idle(at->first);
        }
        it.place = it.place == PREFIX_DEVICE ? PREFIX_HOST : PREFIX_DEVICE;
        prefix_move(prefix, at->first, it.place);
        if (is_idle) {
            idle(at->first);
        }
    }

    void touch() {
        enum prefix_place place = below(2) ? PREFIX_DEVICE : PREFIX_HOST;
        if (!order[place].empty()) {
            uint32_t handle = order[place][below(order[place].size())];
            not_idle(handle);
            idle(handle);
            prefix_touch(prefix, handle);
        }
    }

    void forget() {
        enum prefix_place place = below(2) ? PREFIX_DEVICE : PREFIX_HOST;
        uint32_t oldest = prefix_oldest(prefix, place);
        if (oldest == PREFIX_NOBODY) {
            return;
        }
        prefix_forget(prefix, oldest);
        const Known gone = known[oldest];
        not_idle(oldest);
        known.erase(oldest);
        unused.push_back(oldest);
        for (auto &each : known) { // what continued it is not found any more
            Known &it = each.second;
            it.orphan = it.orphan ||
                        (it.entered && !gone.orphan && it.salt == gone.salt && it.chain.size() > gone.chain.size() &&
                         std::equal(gone.chain.begin(), gone.chain.end(), it.chain.begin()));
        }
    }

    void compare() {
        uint32_t loose = 0;
        for (const auto &each : known) {
            const Known &it = each.second;
            ASSERT_EQ(prefix_holders(prefix, each.first), it.holders);
            ASSERT_EQ(prefix_pinned(prefix, each.first), it.pins > 0);
            ASSERT_EQ(prefix_entered(prefix, each.first), it.entered);
            ASSERT_EQ(prefix_place_of(prefix, each.first), it.place);
            loose += it.place == PREFIX_DEVICE && it.pins == 0;
        }
        ASSERT_EQ(prefix_loose(prefix), loose);
        for (enum prefix_place place : {PREFIX_DEVICE, PREFIX_HOST}) {
            ASSERT_EQ(prefix_idle(prefix, place), order[place].size());
            ASSERT_EQ(prefix_oldest(prefix, place), order[place].empty() ? PREFIX_NOBODY : order[place].front());
        }
    }

    struct random_state random;
    struct prefix *prefix = nullptr;
    std::vector<uint32_t> unused;
    std::map<uint32_t, Known> known; // handles in use
    std::vector<uint32_t> order[2];  // idle ones, the oldest first
    std::vector<Sequence> sequences;
};

TEST(Prefix, AgreesWithASlowAndPlainModel) {
    uint64_t found_idle = 0;
    for (uint64_t seed = 1; seed <= (SANITIZED ? 20 : 200); seed++) {
        SCOPED_TRACE("seed " + std::to_string(seed));
        Model model(4 + (uint32_t)(seed % 40), seed);
        for (uint32_t step = 0; step < 300; step++) {
            void (Model::*const steps[])() = {&Model::come,        &Model::come, &Model::go,    &Model::go,
                                              &Model::run_or_wait, &Model::move, &Model::touch, &Model::forget};
            (model.*steps[model.below(8)])();
            model.compare();
            if (HasFatalFailure()) {
                return;
            }
            found_idle += model.order[0].size();
        }
        while (!model.sequences.empty()) {
            model.go();
        }
        for (int i = 0; i < 2000 && !model.known.empty(); i++) {
            model.forget();
        }
        ASSERT_TRUE(model.known.empty());
        model.compare();
    }
    EXPECT_GT(found_idle, 0u);
}

// Two beginnings that differ in one token of a block long gone by, or in the salt, share nothing.
TEST(Prefix, WhatDiffersAnywhereBeforeIsNotFound) {
    struct prefix *prefix = nullptr;
    ASSERT_EQ(prefix_create(64, &prefix).code, STATUS_OK);
    const struct cache_salt none = {}, salt = salt_of(std::string(CACHE_SALT_BYTES, 'x')),
                            other = salt_of(std::string(CACHE_SALT_BYTES - 1, 'x') + "y");
    uint32_t tokens[KV_BLOCK_TOKENS * 4] = {}, parent = PREFIX_NOBODY;
    for (uint32_t i = 0; i < 4; i++) {
        prefix_hold(prefix, i);
        prefix_enter(prefix, i, parent, &salt, tokens + i * KV_BLOCK_TOKENS);
        parent = i;
    }
    EXPECT_EQ(prefix_find(prefix, PREFIX_NOBODY, &salt, tokens), 0u);
    EXPECT_EQ(prefix_find(prefix, PREFIX_NOBODY, &other, tokens), PREFIX_NOBODY);
    EXPECT_EQ(prefix_find(prefix, PREFIX_NOBODY, &none, tokens), PREFIX_NOBODY);
    EXPECT_EQ(prefix_find(prefix, 2, &salt, tokens), 3u);
    EXPECT_EQ(prefix_find(prefix, 3, &salt, tokens), PREFIX_NOBODY);
    for (uint32_t i = 0; i < KV_BLOCK_TOKENS; i++) {
        tokens[i] = 1;
        EXPECT_EQ(prefix_find(prefix, PREFIX_NOBODY, &salt, tokens), PREFIX_NOBODY) << i;
        tokens[i] = 0;
    }
    // The same block again under another parent is another block.
    tokens[0] = 1;
    prefix_hold(prefix, 10);
    prefix_enter(prefix, 10, PREFIX_NOBODY, &salt, tokens);
    tokens[0] = 0;
    EXPECT_EQ(prefix_find(prefix, 10, &salt, tokens), PREFIX_NOBODY);
    prefix_destroy(prefix);
}

TEST(Prefix, NoHandlesAtAll) {
    struct prefix *prefix = nullptr;
    ASSERT_EQ(prefix_create(0, &prefix).code, STATUS_OK);
    EXPECT_EQ(prefix_oldest(prefix, PREFIX_DEVICE), PREFIX_NOBODY);
    prefix_destroy(prefix);
}

} // namespace
