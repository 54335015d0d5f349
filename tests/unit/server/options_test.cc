// server/options.c, options_file.c and suggest.c: the option table, the configuration file, and their refusals.
extern "C" {
#include "server/link_schedule.h"
#include "server/options.h"
#include "server/suggest.h"
}
#include <fstream>
#include <gtest/gtest.h>
#include <set>
#include <sstream>
#include <string>

namespace {

class Config : public testing::Test {
  protected:
    void SetUp() override {
        config_init(&config_);
    }
    void TearDown() override {
        config_free(&config_);
    }
    std::string read(const std::string &json) {
        status result = config_read_json(&config_, json.data(), json.size());
        return result.code == STATUS_OK ? "" : result.message;
    }
    std::string set(const char *name, const char *value) {
        status result = config_set(&config_, name, value, SOURCE_COMMAND_LINE);
        return result.code == STATUS_OK ? "" : result.message;
    }
    std::string check() {
        status result = config_check(&config_);
        return result.code == STATUS_OK ? "" : result.message;
    }
    config config_;
};

TEST_F(Config, TableIsWhole) {
    std::set<std::string> names;
    std::set<size_t> offsets;
    for (size_t i = 0; i < option_count(); i++) {
        const option *row = option_at(i);
        EXPECT_TRUE(names.insert(row->name).second) << row->name;
        EXPECT_TRUE(offsets.insert(row->offset).second) << row->name << " shares its field with another option";
        EXPECT_GT(std::string(row->help).size(), 4u) << row->name;
        EXPECT_EQ(row->type == OPTION_CHOICE, row->choices != nullptr) << row->name;
        EXPECT_EQ(option_find(row->name), row);
    }
    for (const char *fixed : {"model", "device", "device_memory", "host_memory", "link_gbps", "threads", "host", "port",
                              "slo.ttft_ms", "slo.tpot_ms", "offload.policy", "offload.interval"}) {
        EXPECT_TRUE(option_find(fixed)) << fixed;
    }
}

TEST_F(Config, DefaultsShowAsTheyAreWrittenAndSetBackToThemselves) {
    for (size_t i = 0; i < option_count(); i++) {
        text shown = {};
        config_show(&config_, option_at(i), &shown);
        EXPECT_EQ(set(option_at(i)->name, text_string(&shown)), "") << option_at(i)->name;
        text_free(&shown);
    }
}

TEST_F(Config, ReadsAFile) {
    ASSERT_EQ(
        read("// a comment\n{\"model\": \"a.gguf\", \"port\": 9000, \"device_memory\": \"1.5GiB\", /* here */\n"
             " \"host_memory\": 1048576, \"link_gbps\": 12.5, \"slo\": {\"tpot_ms\": 40}, \"seed\": 9007199254740991}"),
        "");
    EXPECT_STREQ(config_.model, "a.gguf");
    EXPECT_EQ(config_.port, 9000u);
    EXPECT_EQ(config_.device_memory, 3ull << 29);
    EXPECT_EQ(config_.host_memory, 1u << 20);
    EXPECT_EQ(config_.link_gbps, 12.5);
    EXPECT_EQ(config_.slo_tpot_ms, 40);
    EXPECT_EQ(config_.seed, 9007199254740991u);
    EXPECT_TRUE(config_is_set(&config_, "port"));
    EXPECT_FALSE(config_is_set(&config_, "host"));
}

TEST_F(Config, TheCommandLineOverrides) {
    ASSERT_EQ(read("{\"port\": 9000, \"host\": \"::1\"}"), "");
    ASSERT_EQ(set("port", "9001"), "");
    ASSERT_EQ(set("device-memory", "2GiB"), "");
    EXPECT_EQ(config_.port, 9001u);
    EXPECT_EQ(config_.device_memory, 2ull << 30);
    EXPECT_STREQ(config_.host, "::1");
}

TEST_F(Config, RefusalsNameThePathTheValueAndTheMend) {
    struct {
        const char *json, *message;
    } cases[] = {
        {"{\"prot\": 1}", "there is no option prot; did you mean port?"},
        {"{\"slo\": {\"tpot\": 1}}", "there is no option slo.tpot; did you mean slo.tpot_ms?"},
        {"{\"tpot_ms\": 1}", "there is no option tpot_ms; did you mean slo.tpot_ms?"},
        {"{\"device-memory\": 1}", "there is no option device-memory; did you mean device_memory?"},
        {"{\"zzzzzzzz\": 1}", "there is no option zzzzzzzz; `metronome config` lists them"},
        {"{\"slo\": {}}", "there is no option slo"},
        {"{\"slo\": 5}", "there is no option slo"},
        {"{\"port\": 65536}", "port: 65536 is out of range; allowed are 0 to 65535"},
        {"{\"port\": -1}", "port: -1 is out of range; allowed are 0 to 65535"},
        {"{\"port\": 80.5}", "port: \"80.5\" is not a whole number"},
        {"{\"port\": 1e300}", "port: "},
        {"{\"port\": \"80\"}", "port: expected a whole number, found a string"},
        {"{\"port\": null}", "port: expected a whole number, found null"},
        {"{\"port\": {\"a\": 1}}", "port: expected a whole number, found an object"},
        {"{\"model\": 7}", "model: expected a string, found a number"},
        {"{\"slo\": {\"tpot_ms\": [1]}}", "slo.tpot_ms: expected a number, found an array"},
        {"{\"slo\": {\"tpot_ms\": -2}}", "slo.tpot_ms: -2 is out of range; allowed are 0 to 1000000000 ms"},
        {"{\"device\": \"gpu\"}", "device: \"gpu\" is not one of cpu, cuda, sim; did you mean \"cpu\"?"},
        {"{\"device_memory\": \"4 apples\"}", "device_memory: \"4 apples\" is not a size"},
        {"{\"max_body\": \"2TiB\"}", "max_body: 2TiB is out of range; allowed are 1 KiB to 1 GiB"},
        {"{\"link_gbps\": true}", "link_gbps: expected a number, found true"},
        {"[]", "expected an object, found an array"},
        {"{\"port\": 1, \"port\": 2}", "\"port\" is there twice"},
        {"{\"port\": 1,}", "not valid JSON at line 1, column 12"},
        {"", "not valid JSON at line 1, column 1"},
    };
    for (const auto &item : cases) {
        EXPECT_NE(read(item.json).find(item.message), std::string::npos) << item.json << " gave: " << read(item.json);
    }
}

TEST_F(Config, CommandLineTextIsCheckedAsStrictly) {
    for (const char *bad : {"", "x", "8o", " 8", "0x10", "1e3", "99999999999999999999999", "-1", "nan"}) {
        EXPECT_NE(set("port", bad), "") << bad;
    }
    for (const char *bad : {"", "x", "inf", "nan", "1x", "-0.5"}) {
        EXPECT_NE(set("link_gbps", bad), "") << bad;
    }
    EXPECT_NE(set("kv_type", "F16"), "");
    EXPECT_NE(set("nonsense", "1").find("no option nonsense"), std::string::npos);
}

TEST_F(Config, OptionsThatOnlyMakeSenseTogether) {
    EXPECT_EQ(check(), "");
    EXPECT_NE(set("offload.policy", "selectn"), "");
    EXPECT_EQ(set("offload.policy", "prefetch-group"), "");
    EXPECT_NE(check().find("offload.group"), std::string::npos);
    EXPECT_EQ(set("offload.group", "4"), "");
    EXPECT_EQ(check(), "");
    EXPECT_EQ(set("offload.group_streamed", "5"), "");
    EXPECT_NE(check().find("offload.group_streamed 5"), std::string::npos);
}

TEST_F(Config, ASecretIsNotShown) {
    ASSERT_EQ(set("api_key", "hunter2"), "");
    text shown = {};
    config_show(&config_, option_find("api_key"), &shown);
    EXPECT_STREQ(text_string(&shown), "***");
    text_free(&shown);
    ASSERT_EQ(set("api_key_file", "key"), "");
    EXPECT_NE(check(), "");
}

TEST_F(Config, TheDocumentedDefaultsAreTheDefaults) {
    std::ifstream file("configs/default.json");
    if (!file) {
        GTEST_SKIP() << "not run from the repository's root";
    }
    std::stringstream content;
    content << file.rdbuf();
    ASSERT_EQ(read(content.str()), "");
    EXPECT_EQ(check(), "");
    for (size_t i = 0; i < option_count(); i++) {
        text shown = {}, wanted = {};
        config_show(&config_, option_at(i), &shown);
        config fresh;
        config_init(&fresh);
        config_show(&fresh, option_at(i), &wanted);
        EXPECT_STREQ(text_string(&shown), text_string(&wanted)) << option_at(i)->name;
        bool promised = std::string(option_at(i)->name).find('.') != std::string::npos;
        EXPECT_EQ(config_is_set(&config_, option_at(i)->name), !promised) << option_at(i)->name;
        config_free(&fresh);
        text_free(&shown);
        text_free(&wanted);
    }
}

TEST_F(Config, AFileThatIsNotThereIsAnError) {
    status result = config_read_file(&config_, "no/such/file.json");
    EXPECT_EQ(result.code, STATUS_IO);
    EXPECT_NE(std::string(result.message).find("no/such/file.json"), std::string::npos);
}

TEST(Suggestion, IsTheNearestNameOrNone) {
    suggestion nearest = suggestion_for("gpu");
    suggestion_offer(&nearest, "version");
    EXPECT_EQ(nearest.best, nullptr);
    nearest = suggestion_for("sevre");
    for (const char *name : {"config", "serve", "version"}) {
        suggestion_offer(&nearest, name);
    }
    EXPECT_STREQ(nearest.best, "serve");
    std::string longest(10000, 'x');
    nearest = suggestion_for(longest.c_str());
    suggestion_offer(&nearest, "serve");
    EXPECT_EQ(nearest.best, nullptr);
}

// ---- link_schedule ----

TEST_F(Config, ALinkScheduleIsRead) {
    link_schedule schedule;
    ASSERT_EQ(link_schedule_parse("", &schedule).code, STATUS_OK);
    EXPECT_EQ(schedule.count, 0u);
    ASSERT_EQ(link_schedule_parse("0:1.5,10:0.5,20.25:0", &schedule).code, STATUS_OK);
    ASSERT_EQ(schedule.count, 3u);
    EXPECT_EQ(schedule.steps[0].at_s, 0);
    EXPECT_EQ(schedule.steps[1].bytes_per_s, 5e8);
    EXPECT_EQ(schedule.steps[2].at_s, 20.25);
    EXPECT_EQ(schedule.steps[2].bytes_per_s, 0);
}

TEST_F(Config, ABadLinkScheduleIsRefused) {
    for (const char *bad : {"x", "10", "10:", "10:1,", "10:1:2", ":1", "10:1,10:2", "10:1,5:2", "-1:2", "1:-2", "1:nan",
                            "nan:1", "1:1e9", "1e9:1", "1:1;2:1", "1,2"}) {
        link_schedule schedule;
        status result = link_schedule_parse(bad, &schedule);
        EXPECT_EQ(result.code, STATUS_INVALID) << bad;
        EXPECT_NE(std::string(result.message).find("SECONDS:GBPS"), std::string::npos) << result.message;
        ASSERT_EQ(set("link_schedule", bad), "");
        EXPECT_NE(check(), "") << bad;
    }
    std::string many;
    for (int i = 0; i <= LINK_SCHEDULE_STEPS; i++) {
        many += (i ? "," : "") + std::to_string(i) + ":1";
    }
    link_schedule schedule;
    EXPECT_EQ(link_schedule_parse(many.c_str(), &schedule).code, STATUS_INVALID);
    ASSERT_EQ(set("link_schedule", "1:1"), "");
    EXPECT_EQ(check(), "");
    ASSERT_EQ(set("device", "cuda"), "");
    EXPECT_NE(check().find("cuda"), std::string::npos);
}

} // namespace
