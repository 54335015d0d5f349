// The ring of spans: in order, bounded, and it says what it lost.
extern "C" {
#include "scheduler/timeline.h"
}
#include <gtest/gtest.h>
#include <set>
#include <string>

namespace {

struct span numbered(uint64_t number) {
    struct span span = {};
    span.begin_ns = number;
    span.kind = SPAN_DECODE;
    return span;
}

TEST(Timeline, KeepsTheOldestInOrder) {
    struct timeline timeline;
    ASSERT_EQ(timeline_create(4, &timeline).code, STATUS_OK);
    struct span out[8];
    uint64_t next = 0, seen = 0;
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < 3; i++) {
            struct span span = numbered(next++);
            timeline_add(&timeline, &span);
        }
        uint32_t count = timeline_take(&timeline, out, 8);
        ASSERT_EQ(count, 3u);
        for (uint32_t i = 0; i < count; i++) {
            EXPECT_EQ(out[i].begin_ns, seen++);
        }
    }
    for (uint64_t i = 0; i < 6; i++) {
        struct span span = numbered(i);
        timeline_add(&timeline, &span);
    }
    EXPECT_EQ(timeline.dropped, 2u);
    ASSERT_EQ(timeline_take(&timeline, out, 3), 3u);
    ASSERT_EQ(timeline_take(&timeline, out, 3), 1u);
    EXPECT_EQ(out[0].begin_ns, 3u);
    timeline_destroy(&timeline);
}

TEST(Timeline, OfNoRoomKeepsNothing) {
    struct timeline timeline;
    ASSERT_EQ(timeline_create(0, &timeline).code, STATUS_OK);
    struct span span = numbered(1), out;
    timeline_add(&timeline, &span);
    EXPECT_EQ(timeline_take(&timeline, &out, 1), 0u);
    EXPECT_EQ(timeline.dropped, 0u); // nobody asked for it
    timeline_destroy(&timeline);
}

TEST(Timeline, EverySpanHasAName) {
    std::set<std::string> names;
    for (int kind = 0; kind < SPAN_KINDS; kind++) {
        names.insert(span_name((enum span_kind)kind));
    }
    EXPECT_EQ(names.size(), size_t{SPAN_KINDS});
}

} // namespace
