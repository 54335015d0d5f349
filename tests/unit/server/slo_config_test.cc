// server/slo_config.c and scheduler/classes.c: named promises, from a configuration to their places in the table.
extern "C" {
#include "server/slo_config.h"
}
#include <cstring>
#include <gtest/gtest.h>
#include <string>

namespace {

class Slo : public testing::Test {
  protected:
    void SetUp() override {
        config_init(&config_);
    }
    void TearDown() override {
        config_free(&config_);
    }
    // Reads a configuration; what is wrong with it, or "".
    std::string read(const std::string &json) {
        config_free(&config_);
        config_init(&config_);
        status result = config_read_json(&config_, json.data(), json.size());
        result = result.code == STATUS_OK ? config_check(&config_) : result;
        result = result.code == STATUS_OK ? slo_config_read(&config_, &classes_) : result;
        return result.code == STATUS_OK ? "" : result.message;
    }
    uint32_t place(const char *name) const {
        return slo_classes_find(&classes_, name, strlen(name));
    }
    config config_;
    slo_classes classes_ = {};
};

const char *const two = R"({"slo": {"ttft_ms": 900, "default_class": "batch", "percentile": 95, "classes": {
    "interactive": {"ttft_ms": 500, "tpot_ms": 50.5, "percentile": 99.5, "on_miss": "downgrade", "downgrade_to": "batch"},
    "batch": {"on_miss": "refuse"}}}})";

TEST_F(Slo, WithoutClassesThereIsTheDefault) {
    ASSERT_EQ(read(R"({"slo": {"ttft_ms": 2, "tpot_ms": 3, "on_miss": "refuse"}})"), "");
    ASSERT_EQ(classes_.count, 1u);
    EXPECT_STREQ(classes_.items[0].name, "default");
    EXPECT_EQ(classes_.items[0].promise.ttft_ns, 2000000u);
    EXPECT_EQ(classes_.items[0].promise.tpot_ns, 3000000u);
    EXPECT_EQ(classes_.items[0].percentile, 99);
    EXPECT_EQ(classes_.items[0].on_miss, ON_MISS_REFUSE);
    EXPECT_EQ(classes_.fallback, 0u);
}

TEST_F(Slo, ClassesAreReadWhole) {
    ASSERT_EQ(read(two), "");
    ASSERT_EQ(classes_.count, 3u);
    const slo_class &interactive = classes_.items[place("interactive")];
    EXPECT_EQ(interactive.promise.ttft_ns, 500000000u);
    EXPECT_EQ(interactive.promise.tpot_ns, 50500000u);
    EXPECT_EQ(interactive.percentile, 99.5);
    EXPECT_EQ(interactive.on_miss, ON_MISS_DOWNGRADE);
    EXPECT_EQ(interactive.lesser, place("batch"));
    const slo_class &batch = classes_.items[place("batch")];
    EXPECT_EQ(batch.promise.ttft_ns + batch.promise.tpot_ns, 0u);
    EXPECT_EQ(batch.percentile, 95); // the option's
    EXPECT_EQ(batch.on_miss, ON_MISS_REFUSE);
    EXPECT_EQ(classes_.fallback, place("batch"));
    EXPECT_EQ(place("Batch"), (uint32_t)SLO_MAX_CLASSES);
}

TEST_F(Slo, AnOptionTakesTheSameText) {
    status result = config_set(&config_, "slo.classes", R"({"a": {"ttft_ms": 1}})", SOURCE_COMMAND_LINE);
    ASSERT_EQ(result.code, STATUS_OK) << result.message;
    ASSERT_EQ(slo_config_read(&config_, &classes_).code, STATUS_OK);
    EXPECT_EQ(classes_.count, 2u);
    EXPECT_EQ(config_set(&config_, "slo.classes", "[1]", SOURCE_COMMAND_LINE).code, STATUS_INVALID);
    EXPECT_EQ(config_set(&config_, "slo.classes", "{", SOURCE_COMMAND_LINE).code, STATUS_INVALID);
}

TEST_F(Slo, WhatIsWrongIsRefusedByItsPath) {
    struct {
        const char *json, *says;
    } const cases[] = {
        {R"({"slo": {"classes": 1}})", "slo.classes: expected an object"},
        {R"({"slo": {"classes": {"a": 1}}})", "slo.classes.a: expected an object"},
        {R"({"slo": {"classes": {"a": {"ttft_ms": "1"}}}})", "slo.classes.a.ttft_ms: expected a number, found"},
        {R"({"slo": {"classes": {"a": {"tpot_ms": -1}}}})", "slo.classes.a.tpot_ms: -1 is out of range"},
        {R"({"slo": {"classes": {"a": {"percentile": 101}}}})", "percentile: 101 is out of range; allowed are 50 to"},
        {R"({"slo": {"classes": {"a": {"on_miss": "panic"}}}})", "slo.classes.a.on_miss: expected"},
        {R"({"slo": {"classes": {"a": {"latency": 1}}}})", "slo.classes.a: there is no \"latency\""},
        {R"({"slo": {"classes": {"a b": {}}}})", "\"a b\" is no name"},
        {R"({"slo": {"classes": {"": {}}}})", "is no name"},
        {R"({"slo": {"classes": {"a1234567890123456789012345678901": {}}}})", "is no name"},
        {R"({"slo": {"classes": {"default": {}}}})", "slo.classes.default: this class is slo.ttft_ms"},
        {R"({"slo": {"classes": {"a": {"on_miss": "downgrade"}}}})", "go together"},
        {R"({"slo": {"classes": {"a": {"downgrade_to": "default"}}}})", "go together"},
        {R"({"slo": {"classes": {"a": {"on_miss": "downgrade", "downgrade_to": "b"}}}})", "there is no class \"b\""},
        {R"({"slo": {"classes": {"a": {"on_miss": "downgrade", "downgrade_to": "a"}}}})", "in a circle"},
        {R"({"slo": {"default_class": "b"}})", "slo.default_class: there is no class \"b\"; there are default"},
        {R"({"slo": {"ttft_min_ms": 10, "classes": {"a": {"ttft_ms": 9}}}})",
         "class a: slo.ttft_ms: 9 is out of range"},
    };
    for (const auto &each : cases) {
        EXPECT_NE(read(each.json).find(each.says), std::string::npos) << each.json << ": " << read(each.json);
    }
    std::string many = R"({"slo": {"classes": {"a0": {})";
    for (int i = 1; i < SLO_MAX_CLASSES; i++) {
        many += ", \"a" + std::to_string(i) + "\": {}";
    }
    EXPECT_NE(read(many + "}}}").find("more than 15 classes"), std::string::npos);
}

TEST_F(Slo, AReloadKeepsThePlacesOfNames) {
    ASSERT_EQ(read(two), "");
    slo_classes now = classes_;
    const uint32_t interactive = place("interactive"), batch = place("batch");
    ASSERT_EQ(read(R"({"slo": {"classes": {"new": {"ttft_ms": 7}, "batch": {"ttft_ms": 8, "on_miss": "downgrade",
                      "downgrade_to": "new"}}}})"),
              "");
    ASSERT_EQ(slo_classes_merge(&now, &classes_).code, STATUS_OK);
    EXPECT_EQ(slo_classes_find(&now, "batch", 5), batch);
    EXPECT_EQ(now.items[batch].promise.ttft_ns, 8000000u);
    EXPECT_EQ(now.items[batch].lesser, slo_classes_find(&now, "new", 3));
    EXPECT_EQ(slo_classes_find(&now, "interactive", 11), (uint32_t)SLO_MAX_CLASSES);
    EXPECT_STREQ(now.items[interactive].name, "interactive"); // its numbers stay
    EXPECT_EQ(now.fallback, 0u);

    slo_classes before = now;
    for (int i = 0; now.count < SLO_MAX_CLASSES; i++) {
        ASSERT_EQ(read("{\"slo\": {\"classes\": {\"b" + std::to_string(i) + "\": {}}}}"), "");
        ASSERT_EQ(slo_classes_merge(&now, &classes_).code, STATUS_OK);
    }
    before = now;
    ASSERT_EQ(read(R"({"slo": {"classes": {"last": {}}}})"), "");
    EXPECT_EQ(slo_classes_merge(&now, &classes_).code, STATUS_INVALID);
    EXPECT_EQ(memcmp(&now, &before, sizeof now), 0);
}

TEST_F(Slo, RequestsMayAskWithinTheRange) {
    ASSERT_EQ(read(R"({"slo": {"ttft_min_ms": 10, "tpot_max_ms": 100}})"), "");
    const promise none = {0, 0}, fine = {10000000, 100000000}, soon = {9000000, 0}, slow = {0, 101000000};
    EXPECT_EQ(slo_check_range(&config_, &none).code, STATUS_OK);
    EXPECT_EQ(slo_check_range(&config_, &fine).code, STATUS_OK);
    EXPECT_NE(std::string(slo_check_range(&config_, &soon).message).find("slo.ttft_ms: 9 is out"), std::string::npos);
    EXPECT_NE(std::string(slo_check_range(&config_, &slow).message).find("slo.tpot_ms: 101 is out"), std::string::npos);
}

} // namespace
