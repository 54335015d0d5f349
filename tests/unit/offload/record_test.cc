// The performance record between its points and beyond them.
extern "C" {
#include "offload/record.h"
}
#include <gtest/gtest.h>

namespace {

// A layer takes 1000 ns, 10 more for a row, and 2 for each position that a row attends to.
uint64_t layer_ns(double rows, double context) {
    return (uint64_t)(1000 + 10 * rows + 2 * context);
}

struct record grid() {
    struct record record = {};
    record.row_count = record.context_count = 3;
    for (uint32_t i = 0; i < 3; i++) {
        record.rows[i] = 1 + 9 * i;
        record.contexts[i] = 100 << i;
    }
    for (uint32_t i = 0; i < 3; i++) {
        for (uint32_t j = 0; j < 3; j++) {
            record.cell[i][j] = {layer_ns(record.rows[i], record.contexts[j]), 50};
        }
    }
    return record;
}

TEST(Record, LinearBetweenPointsAndAlongTheContext) {
    const struct record record = grid();
    for (double rows : {1.0, 5.0, 10.0, 19.0}) {
        for (double context : {100.0, 130.0, 400.0, 800.0, 8000.0}) {
            struct record_cell cell;
            EXPECT_EQ(record_get(&record, rows, context, &cell), context <= 800) << context;
            EXPECT_EQ(cell.layer_ns, layer_ns(rows, context)) << rows << " " << context;
            EXPECT_EQ(cell.outside_ns, 50u);
        }
    }
}

TEST(Record, BeyondTheLastRowsInProportion) {
    const struct record record = grid();
    struct record_cell cell;
    EXPECT_TRUE(record_get(&record, 28.5, 100, &cell));
    EXPECT_EQ(cell.layer_ns, layer_ns(19, 100) * 3 / 2);
    EXPECT_FALSE(record_get(&record, 190, 100, &cell));
    EXPECT_EQ(cell.layer_ns, layer_ns(19, 100) * 2);
}

// What noise makes of the slope stays between none and one in proportion.
TEST(Record, TheSlopeBeyondIsBounded) {
    struct record record = grid();
    struct record_cell cell;
    record.cell[0][2].layer_ns = record.cell[0][1].layer_ns - 1;
    record_get(&record, 1, 4000, &cell);
    EXPECT_EQ(cell.layer_ns, record.cell[0][2].layer_ns);
    record.cell[0][2].layer_ns = 100 * record.cell[0][1].layer_ns;
    record_get(&record, 1, 4000, &cell);
    EXPECT_EQ(cell.layer_ns, record.cell[0][2].layer_ns * 10);
    record.context_count = 1; // no slope is known
    record_get(&record, 1, 250, &cell);
    EXPECT_EQ(cell.layer_ns, record.cell[0][0].layer_ns * 5 / 2);
}

} // namespace
