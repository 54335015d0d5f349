// offload/grant.h: the shared link's grants against brute force.
extern "C" {
#include "base/clock.h"
#include "offload/grant.h"
}
#include "tests/unit/offload/load_builder.h"

#include <algorithm>
#include <cstdio>
#include <gtest/gtest.h>
#include <memory>
#include <vector>

namespace {

struct Answer {
    bool feasible = false;
    uint64_t host_bytes = 0, bytes_per_s = 0;
};

// Every combination, one after another.
Answer brute_force(const std::vector<grant_member> &members, uint64_t link) {
    Answer best;
    std::vector<uint32_t> pick(members.size(), 0);
    for (;;) {
        uint64_t host = 0, need = 0;
        for (size_t i = 0; i < members.size(); i++) {
            host += members[i].candidate[pick[i]].host_bytes;
            need += members[i].candidate[pick[i]].bytes_per_s;
        }
        if (need <= link &&
            (!best.feasible || host > best.host_bytes || (host == best.host_bytes && need < best.bytes_per_s))) {
            best = {true, host, need};
        }
        size_t i = 0;
        while (i < members.size() && ++pick[i] == members[i].count) {
            pick[i++] = 0;
        }
        if (i == members.size()) {
            return best;
        }
    }
}

grant_member random_member(Random &random, uint32_t most, int kind) {
    grant_member member = {};
    member.count = random.pick(1, most);
    uint64_t step = random.pick(1, 20), deadline = random.pick(1, 9);
    for (uint32_t i = 0; i < member.count; i++) {
        switch (kind) {
        case 0: // anything, with many ties
            member.candidate[i] = {random.pick(0, 12), random.pick(0, 12)};
            break;
        case 1: // as engines state it: one deadline, so that host bytes are in proportion to the need
            member.candidate[i] = {i * step, i * step * deadline};
            break;
        default: // large numbers
            member.candidate[i] = {random.pick(0, UINT64_C(1) << 50), random.pick(0, UINT64_C(1) << 50)};
        }
    }
    return member;
}

class GrantTest : public testing::Test {
  protected:
    GrantTest() : scratch(grant_scratch_create(), grant_scratch_destroy) {
    }
    // Solves, checks that the answer is within the link, and returns what it comes to.
    Answer solve(const std::vector<grant_member> &members, uint64_t link) {
        std::vector<uint32_t> granted(members.size() + 1, 77);
        Answer answer;
        answer.feasible = grant_solve(scratch.get(), members.data(), members.size(), link, granted.data());
        EXPECT_EQ(granted[members.size()], 77u);
        for (size_t i = 0; i < members.size() && answer.feasible; i++) {
            EXPECT_LT(granted[i], members[i].count);
            answer.host_bytes += members[i].candidate[granted[i]].host_bytes;
            answer.bytes_per_s += members[i].candidate[granted[i]].bytes_per_s;
        }
        return answer;
    }
    std::unique_ptr<grant_scratch, void (*)(grant_scratch *)> scratch;
};

} // namespace

TEST_F(GrantTest, IsWhatBruteForceFinds) {
    Random random(1);
    int feasible = 0, cases = 6000;
    for (int i = 0; i < cases; i++) {
        uint32_t count = random.pick(1, 5), most = count <= 3 ? 16 : count == 4 ? 8 : 5;
        int kind = random.pick(0, 2);
        std::vector<grant_member> members;
        uint64_t all = 0;
        for (uint32_t j = 0; j < count; j++) {
            members.push_back(random_member(random, most, kind));
            uint64_t need = 0;
            for (uint32_t k = 0; k < members[j].count; k++) {
                need = std::max(need, members[j].candidate[k].bytes_per_s);
            }
            all += need;
        }
        uint64_t link = random.pick(0, all + 1);
        Answer expected = brute_force(members, link), found = solve(members, link);
        ASSERT_EQ(found.feasible, expected.feasible) << i;
        ASSERT_EQ(found.host_bytes, expected.host_bytes) << i;
        ASSERT_EQ(found.bytes_per_s, expected.bytes_per_s) << i;
        feasible += found.feasible;
    }
    EXPECT_GT(feasible, cases / 2);
    EXPECT_LT(feasible, cases);
}

TEST_F(GrantTest, EightMembersAreExactToo) {
    Random random(2);
    for (int i = 0; i < 60; i++) {
        std::vector<grant_member> members;
        members.reserve(8);
        for (int j = 0; j < 8; j++) {
            members.push_back(random_member(random, 3, i % 3));
        }
        uint64_t link = i % 3 == 2 ? random.pick(0, UINT64_C(1) << 53) : random.pick(0, 120);
        Answer expected = brute_force(members, link), found = solve(members, link);
        ASSERT_EQ(found.feasible, expected.feasible);
        ASSERT_EQ(found.host_bytes, expected.host_bytes);
        ASSERT_EQ(found.bytes_per_s, expected.bytes_per_s);
    }
}

TEST_F(GrantTest, EdgesOfTheLink) {
    grant_member member = {};
    member.count = 2;
    member.candidate[0] = {10, 100};
    member.candidate[1] = {20, 200};
    EXPECT_TRUE(solve({}, 0).feasible);
    EXPECT_FALSE(solve({member}, 9).feasible);
    EXPECT_EQ(solve({member}, 10).host_bytes, 100u);
    EXPECT_EQ(solve({member}, 20).host_bytes, 200u);
    EXPECT_FALSE(solve({member, member}, 19).feasible);
    EXPECT_EQ(solve({member, member}, 30).host_bytes, 300u);
    EXPECT_EQ(solve({member, member}, UINT64_MAX).host_bytes, 400u);
}

TEST_F(GrantTest, TheWorstCaseIsBounded) {
    // Nothing dominates anything: powers of two in both, so that all 16^4 combinations of each half stay.
    std::vector<grant_member> members(8);
    uint64_t total = 0;
    for (uint32_t i = 0; i < 8; i++) {
        members[i].count = 16;
        for (uint64_t j = 0; j < 16; j++) {
            members[i].candidate[j] = {j << (4 * (i % 4)), j << (4 * (i % 4))};
        }
        total += members[i].candidate[15].bytes_per_s;
    }
    uint64_t begin = clock_now_ns();
    Answer answer = solve(members, total / 2);
    double worst_ms = double(clock_now_ns() - begin) / 1e6;
    EXPECT_EQ(answer.host_bytes, total / 2);
    Random random(3);
    begin = clock_now_ns();
    for (int i = 0; i < 100; i++) {
        for (auto &member : members) {
            member = random_member(random, 16, 1);
        }
        solve(members, 400);
    }
    double usual_ms = double(clock_now_ns() - begin) / 1e6 / 100;
    printf("grant for 8 members of 16 candidates: %.2f ms at worst, %.3f ms as engines state them\n", worst_ms,
           usual_ms);
    EXPECT_LT(worst_ms, 10000); // whatever the machine and the sanitizer: not the 16^8 of brute force
}
