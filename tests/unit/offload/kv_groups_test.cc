// offload/kv_groups against a naive model: which slots are copied, and that what a copy brings has a version of its
// own.
extern "C" {
#include "base/random.h"
#include "offload/kv_groups.h"
}
#include <gtest/gtest.h>
#include <map>
#include <vector>

namespace {

TEST(KvGroups, ListsWhatIsActiveAndVersionsWhatChanges) {
    struct random_state random;
    random_seed(&random, 4);
    for (int round = 0; round < 40; round++) {
        const uint32_t size = 1 + (uint32_t)random_below(&random, 5), slots = 1 + (uint32_t)random_below(&random, 24);
        struct kv_groups groups;
        ASSERT_EQ(kv_groups_create(slots, size, &groups).code, STATUS_OK);
        std::map<uint32_t, bool> used; // slot, active
        std::vector<uint64_t> content(slots);
        std::map<uint64_t, std::vector<uint64_t>> brought; // by version
        uint64_t next = 1;
        for (int step = 0; step < 200; step++) {
            uint32_t slot, what = (uint32_t)random_below(&random, 5);
            if (what < 2) {
                bool expected = used.size() < slots;
                ASSERT_EQ(kv_groups_take(&groups, &slot), expected);
                if (expected) {
                    for (uint32_t below = 0; below < slot; below++) {
                        ASSERT_EQ(used.count(below), 1u) << "not the lowest";
                    }
                    ASSERT_EQ(used.count(slot), 0u);
                    used[slot] = true;
                    content[slot] = next++;
                }
            } else if (!used.empty()) {
                auto at = used.begin();
                std::advance(at, random_below(&random, used.size()));
                if (what == 2) {
                    kv_groups_give(&groups, at->first);
                    used.erase(at);
                } else {
                    at->second = what == 3;
                    kv_groups_set_active(&groups, at->first, at->second);
                }
            }
            if (random_below(&random, 3) == 0) {
                uint32_t count, listed = 0, active = 0;
                const struct kv_group *list = kv_groups_list(&groups, &count);
                for (const auto &each : used) {
                    active += each.second;
                    if (each.second) {
                        const uint64_t entry = kv_groups_entry(&groups, each.first, 64);
                        const struct kv_group &group = list[entry >> 1 & 127];
                        ASSERT_EQ(group.first + (entry >> 8) / 64, each.first);
                        ASSERT_LT((entry >> 8) / 64, group.count);
                    }
                }
                ASSERT_EQ(groups.active, active);
                ASSERT_EQ(groups.used, used.size());
                for (uint32_t first = 0; first < slots; first += size) {
                    uint32_t want = 0;
                    for (const auto &each : used) {
                        bool inside = each.first >= first && each.first < first + size && each.second;
                        want = inside ? each.first - first + 1 : want;
                    }
                    if (want > 0) {
                        ASSERT_LT(listed, count);
                        ASSERT_EQ(list[listed].first, first);
                        ASSERT_EQ(list[listed].count, want);
                        listed++;
                    }
                }
                ASSERT_EQ(listed, count);
                for (uint32_t i = 0; i < count; i++) { // one version never stands for two contents that matter
                    std::vector<uint64_t> now;
                    for (uint32_t at = list[i].first; at < list[i].first + list[i].count; at++) {
                        now.push_back(used.count(at) && used[at] ? content[at] : 0);
                    }
                    std::vector<uint64_t> &before = brought[list[i].version];
                    for (size_t at = 0; at < now.size() && !before.empty(); at++) {
                        ASSERT_LT(at, before.size()) << "grown";
                        ASSERT_TRUE(now[at] == 0 || before[at] == 0 || now[at] == before[at]) << "rewritten";
                    }
                    before = before.empty() ? now : before;
                }
                uint32_t counts[KV_MAX_GROUPS], more = (uint32_t)random_below(&random, slots + 1);
                uint32_t would = kv_groups_with(&groups, more, counts), sum = 0;
                for (uint32_t i = 0; i < would; i++) {
                    ASSERT_LE(counts[i], size);
                    sum += counts[i];
                }
                ASSERT_GE(would, count);
                ASSERT_GE(sum, active + std::min<size_t>(more, slots - active));
            }
        }
        kv_groups_destroy(&groups);
    }
}

} // namespace
