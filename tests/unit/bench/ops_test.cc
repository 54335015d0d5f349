// bench/ops_bench.h: every op is measured, in every type, and what holds it is told from its numbers.
extern "C" {
#include "bench/ops_bench.h"
#include "bench/peak.h"
}
#include <cmath>
#include <fstream>
#include <gtest/gtest.h>
#include <regex>
#include <set>
#include <sstream>
#include <string>

namespace {

ops_order quick_order() {
    ops_order order = {};
    order.device.name = "cpu";
    order.device.compute = COMPUTE_INT8;
    order.shape.layers = 2;
    order.shape.width = 64;
    order.shape.feed_forward = 512;
    order.shape.query_heads = 4;
    order.shape.kv_heads = 2;
    order.shape.head_dim = 64;
    order.shape.vocabulary = 512;
    order.type = TENSOR_Q4_0;
    order.seed = 7;
    order.quick = true;
    return order;
}

TEST(Ops, MeasuresEveryOpInEveryType) {
    ops_order order = quick_order();
    ops_report report;
    status status = ops_run(&order, &report);
    ASSERT_EQ(status.code, STATUS_OK) << status.message;
    std::set<std::string> measured, types;
    for (uint32_t i = 0; i < report.count; i++) {
        const ops_row &row = report.rows[i];
        std::string op(row.op), shape(row.shape);
        measured.insert(op.substr(0, op.find(',')));
        if (op == "matmul") {
            types.insert(shape.substr(0, shape.find(' ')));
        }
        EXPECT_GT(row.least_s, 0) << row.op;
        EXPECT_GE(row.median_s, row.least_s) << row.op;
        EXPECT_GT(row.bytes, 0) << row.op;
        EXPECT_GT(row.memory_s, 0) << row.op;
        EXPECT_GE(row.least_s, report.limits.launch_s) << row.op;
    }
    for (int type = 0; type < TENSOR_TYPES; type++) {
        EXPECT_EQ(types.count(tensor_traits((tensor_type)type)->name), 1u) << tensor_traits((tensor_type)type)->name;
    }
    // What ranks add up has a program of its own: ranks-bench.
    std::ifstream file("kernels/ops.h");
    std::stringstream words;
    words << file.rdbuf();
    const std::string text = words.str();
    std::regex declaration("\nvoid op_([a-z_]+)\\(");
    size_t found = 0;
    for (auto it = std::sregex_iterator(text.begin(), text.end(), declaration); it != std::sregex_iterator(); ++it) {
        const std::string name = (*it)[1];
        found++;
        if (name != "all_reduce" && name != "matmul_partial") {
            EXPECT_EQ(measured.count(name), 1u) << "op_" << name << " wants a row in bench/ops_cases.c";
        }
    }
    EXPECT_GT(found, 15u) << "kernels/ops.h is not read from here";
    ops_report_free(&report);
}

TEST(Ops, CountsWhatACallMovesAndComputes) {
    ops_order order = quick_order();
    ops_report report;
    ASSERT_EQ(ops_run(&order, &report).code, STATUS_OK);
    bool gated = false, gate = false;
    for (uint32_t i = 0; i < report.count; i++) {
        const ops_row &row = report.rows[i];
        if (std::string(row.op) == "gated, silu" && row.rows == 16) {
            EXPECT_EQ(row.bytes, 3 * 4 * 16 * 512.0);
            gated = true;
        }
        if (std::string(row.shape) == "Q4_0 gate, up, 1024 x 64" && row.rows == 8) {
            EXPECT_EQ(row.operations, 2.0 * 8 * 64 * 1024);
            EXPECT_EQ(row.bytes, 1024 * 64 / 32 * 18 + 4.0 * 8 * (64 + 1024));
            gate = true;
        }
    }
    EXPECT_TRUE(gated && gate);
    ops_report_free(&report);
}

TEST(Ops, TheLongestOfThreeIsTheLimit) {
    ops_limits limits = {};
    limits.launch_s = 2;
    ops_row row = {};
    double limit_s;
    row.bytes = 1;
    row.memory_s = 3;
    row.arithmetic_s = 1;
    EXPECT_EQ(ops_row_limit(&limits, &row, &limit_s), OPS_MEMORY);
    EXPECT_EQ(limit_s, 3);
    row.arithmetic_s = 4;
    EXPECT_EQ(ops_row_limit(&limits, &row, &limit_s), OPS_ARITHMETIC);
    EXPECT_EQ(limit_s, 4);
    limits.launch_s = 5;
    EXPECT_EQ(ops_row_limit(&limits, &row, &limit_s), OPS_LAUNCH);
    EXPECT_EQ(limit_s, 5);
    row.arithmetic_s = NAN;
    row.operations = 1000;
    EXPECT_EQ(ops_row_limit(&limits, &row, &limit_s), OPS_UNKNOWN);
    EXPECT_TRUE(std::isnan(limit_s));
}

TEST(Ops, RefusesWhatHasNoSpeedOfItsOwn) {
    ops_order order = quick_order();
    ops_report report;
    order.device.name = "sim";
    EXPECT_EQ(ops_run(&order, &report).code, STATUS_UNSUPPORTED);
    order.device.name = "abacus";
    EXPECT_EQ(ops_run(&order, &report).code, STATUS_NOT_FOUND);
    order = quick_order();
    order.device.device_memory = 64 << 10;
    status status = ops_run(&order, &report);
    EXPECT_EQ(status.code, STATUS_NO_MEMORY) << status.message;
    ops_report_free(&report);
}

TEST(Peak, MeasuresWithAnyNumberOfThreads) {
    for (int kind = PEAK_READ; kind <= PEAK_F32; kind++) {
        for (uint32_t threads : {1u, 3u}) {
            double per_s = 0;
            ASSERT_EQ(peak_measure((peak_kind)kind, "scalar", threads, 100000, &per_s).code, STATUS_OK);
            EXPECT_GT(per_s, 1e6) << kind;
        }
    }
}

} // namespace
