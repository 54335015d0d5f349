// server/arguments.c: the command line, and what it overrides.
extern "C" {
#include "server/arguments.h"
}
#include <cstdio>
#include <fstream>
#include <gtest/gtest.h>
#include <string>
#include <vector>

namespace {

const flag kFlags[] = {{"max-tokens", "N", "help"}, {"chat", nullptr, "help"}};

class Arguments : public testing::Test {
  protected:
    void SetUp() override {
        config_init(&config_);
    }
    void TearDown() override {
        config_free(&config_);
    }
    std::string parse(std::vector<const char *> argv, bool options = true) {
        config_free(&config_);
        config_init(&config_);
        argv_ = std::move(argv);
        status result =
            arguments_parse((int)argv_.size(), argv_.data(), kFlags, 2, options ? &config_ : nullptr, &out_);
        return result.code == STATUS_OK ? "" : result.message;
    }
    config config_;
    arguments out_;
    std::vector<const char *> argv_;
};

TEST_F(Arguments, EveryForm) {
    ASSERT_EQ(parse({"one", "--max-tokens", "5", "--port=9000", "--set", "host=::1", "--chat", "-", "--device-memory",
                     "1GiB", "--slo.tpot_ms", "40", "--", "--two"}),
              "");
    EXPECT_STREQ(out_.values[0], "5");
    EXPECT_STREQ(out_.values[1], "");
    ASSERT_EQ(out_.positional_count, 3);
    EXPECT_STREQ(out_.positional[0], "one");
    EXPECT_STREQ(out_.positional[1], "-");
    EXPECT_STREQ(out_.positional[2], "--two");
    EXPECT_EQ(config_.port, 9000u);
    EXPECT_STREQ(config_.host, "::1");
    EXPECT_EQ(config_.device_memory, 1u << 30);
    EXPECT_EQ(config_.slo_tpot_ms, 40);
}

TEST_F(Arguments, TheFileComesFirstWhereverItIsNamed) {
    std::string path = testing::TempDir() + "arguments_test.json";
    std::ofstream(path) << "{\"port\": 1, \"host\": \"file\"} // c";
    ASSERT_EQ(parse({"--port", "2", "--config", path.c_str()}), "");
    EXPECT_EQ(config_.port, 2u);
    EXPECT_STREQ(config_.host, "file");
    std::remove(path.c_str());
    EXPECT_NE(parse({"--config", path.c_str()}).find("No such file"), std::string::npos);
}

TEST_F(Arguments, Refusals) {
    struct {
        std::vector<const char *> argv;
        const char *message;
    } cases[] = {
        {{"--prot", "1"}, "there is no option --prot; did you mean --port?"},
        {{"--max-token", "1"}, "did you mean --max-tokens?"},
        {{"--tpot_ms", "1"}, "did you mean --slo.tpot_ms?"},
        {{"--zzzzzzzz"}, "there is no option --zzzzzzzz; --help lists them"},
        {{"--port"}, "--port needs a value"},
        {{"--max-tokens"}, "--max-tokens needs a value"},
        {{"--chat=yes"}, "--chat takes no value"},
        {{"--port", "x"}, "port: \"x\" is not a whole number"},
        {{"--set", "port"}, "--set port: write NAME=VALUE"},
        {{"--set", "=1"}, "write NAME=VALUE"},
        {{"--set", "prot=1"}, "no option prot; did you mean port?"},
        {{"--=1"}, "not an option"},
        {{"-p", "1"}, "-p: options begin with two dashes"},
        {{"--config"}, "--config needs a value"},
    };
    for (const auto &item : cases) {
        EXPECT_NE(parse(item.argv).find(item.message), std::string::npos) << item.argv[0] << ": " << parse(item.argv);
    }
    std::string longest = "--" + std::string(1000, 'x');
    EXPECT_NE(parse({longest.c_str()}).find("not an option"), std::string::npos);
    EXPECT_NE(parse({"--port", "1"}, false), "") << "a command without options takes none";
}

TEST_F(Arguments, Numbers) {
    double value = 0;
    EXPECT_EQ(arguments_number("n", "2.5", 0, 3, &value).code, STATUS_OK);
    EXPECT_EQ(value, 2.5);
    for (const char *bad : {"", "x", "1x", "nan", "inf", "-1", "4"}) {
        EXPECT_EQ(arguments_number("n", bad, 0, 3, &value).code, STATUS_INVALID) << bad;
    }
}

} // namespace
