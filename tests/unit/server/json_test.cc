// base/json.c and server/text.c: what is let in, what is refused and where, and what is written.
extern "C" {
#include "base/json.h"
#include "server/text.h"
}
#include <gtest/gtest.h>
#include <limits>
#include <string>

namespace {

const json_rules kRules = {64, 1000, false, false};

std::string refusal(const std::string &text, json_rules rules = kRules) {
    cJSON *tree = nullptr;
    status result = json_parse(text.data(), text.size(), &rules, &tree);
    cJSON_Delete(tree);
    return result.code == STATUS_OK ? "" : result.message;
}

TEST(Json, TakesWhatTheGrammarHas) {
    for (const char *text : {"0", "-0", "-1.5e+3", "1E5", "\"\"", "\"\\u00e9\\ud83d\\ude00\\/\\n\"", "[]", "{}",
                             " [1 , 2]\r\n", "{\"a\":{\"b\":[true,false,null]}}", "\"\xc3\xa9\"", "1e999"}) {
        EXPECT_EQ(refusal(text), "") << text;
    }
}

TEST(Json, RefusesTheRestWithItsPlace) {
    struct {
        std::string text, place;
    } cases[] = {
        {"", "line 1, column 1: the text ends where a value should be"},
        {"{", "line 1, column 2: expected a string"},
        {"[1,]", "line 1, column 4: expected a value"},
        {"{\"a\":1,}", "line 1, column 8: expected a string"},
        {"{\"a\"}", "line 1, column 5: expected ':'"},
        {"{\n \"a\": tru}", "line 2, column 7: expected a value"},
        {"[1 2]", "line 1, column 4: expected ',' or ']'"},
        {"{\"a\":1 \"b\"}", "line 1, column 8: expected ',' or '}'"},
        {"1 2", "line 1, column 3: more text"},
        {"01", "line 1, column 2: a number may not begin with 0"},
        {"+1", "expected a value"},
        {"1.", "expected a digit"},
        {"1e", "expected a digit"},
        {"-", "expected a digit"},
        {"NaN", "expected a value"},
        {"'a'", "expected a value"},
        {"\"a", "line 1, column 3: the text ends inside a string"},
        {"\"\\x\"", "an unknown escape"},
        {"\"\\u12g4\"", "four hexadecimal digits"},
        {"\"\\ud800\"", "half of a surrogate pair"},
        {"\"\\ud800\\u0041\"", "half of a surrogate pair"},
        {"\"\\udc00\"", "half of a surrogate pair"},
        {"\"\\u0000\"", "\\u0000 is not allowed"},
        {std::string("\"a\0b\"", 5), "control character"},
        {"\"a\nb\"", "line 1, column 3: a control character"},
        {"\"a\xff\"", "line 1, column 3: the bytes are not UTF-8"},
        {"\xef\xbb\xbf{}", "expected a value"},
        {std::string(64, '1'), "more than 63 characters"},
        {"// no\n1", "expected a value"},
    };
    for (const auto &item : cases) {
        EXPECT_NE(refusal(item.text).find(item.place), std::string::npos)
            << item.text << " gave: " << refusal(item.text);
    }
}

TEST(Json, BoundsDepthAndValues) {
    EXPECT_EQ(refusal(std::string(64, '[') + std::string(64, ']')), "");
    EXPECT_NE(refusal(std::string(65, '[') + std::string(65, ']')).find("nested too deeply"), std::string::npos);
    EXPECT_NE(refusal(std::string(1 << 20, '[')).find("nested too deeply"), std::string::npos);
    std::string many = "[1";
    for (int i = 0; i < 998; i++) {
        many += ",1";
    }
    EXPECT_EQ(refusal(many + "]"), "");
    EXPECT_NE(refusal(many + ",1]").find("too many values"), std::string::npos);
}

TEST(Json, EveryPrefixOfADocumentIsRefused) {
    const std::string whole = "{\"a\":[1.5e3,\"\\ud83d\\ude00 \xc3\xa9\",{\"b\":null}],\"c\":true}";
    ASSERT_EQ(refusal(whole), "");
    for (size_t bytes = 0; bytes < whole.size(); bytes++) {
        EXPECT_NE(refusal(whole.substr(0, bytes)), "") << whole.substr(0, bytes);
    }
}

TEST(Json, CommentsAreSpaceWhereTheRulesAllowThem) {
    json_rules rules = {8, 100, true, true};
    EXPECT_EQ(refusal("// first\n{ /* a\n b */ \"x\": 1, // \"y\n \"z\": \"// kept /* \\\" \" } //", rules), "");
    EXPECT_NE(refusal("{} /* open", rules).find("line 1, column 4: a comment that does not end"), std::string::npos);
    EXPECT_NE(refusal("/* \n */ {\n// x\n oops}", rules).find("line 4, column 2"), std::string::npos);
    EXPECT_NE(refusal("/", rules), "");
    EXPECT_NE(refusal("\"\\", rules), "");
    EXPECT_NE(refusal("{\"a\":{\"k\":1,\"k\":2}}", rules).find("\"k\" is there twice"), std::string::npos);
}

std::string as_json(const std::string &bytes) {
    text out = {};
    text_add_json(&out, bytes.data(), bytes.size());
    std::string result(out.data, out.bytes);
    text_free(&out);
    return result;
}

TEST(Text, WritesStringsThatReadBackTheSame) {
    std::string all;
    for (int byte = 1; byte < 0x80; byte++) {
        all += (char)byte;
    }
    all += "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\xef\xbf\xbd";
    std::string json = as_json(all);
    cJSON *tree = nullptr;
    ASSERT_EQ(json_parse(json.data(), json.size(), &kRules, &tree).code, STATUS_OK) << json;
    EXPECT_EQ(all, tree->valuestring);
    cJSON_Delete(tree);
    EXPECT_EQ(as_json("a\"b\\c\n\t\x01"), "\"a\\\"b\\\\c\\n\\t\\u0001\"");
    EXPECT_EQ(as_json(std::string("\0", 1)), "\"\\u0000\"");
}

TEST(Text, InvalidBytesComeOutAsReplacementCharacters) {
    EXPECT_EQ(as_json("a\xff"
                      "b"),
              "\"a\xef\xbf\xbd"
              "b\"");
    EXPECT_EQ(as_json("\xe2\x82"), "\"\xef\xbf\xbd\xef\xbf\xbd\"");
}

TEST(Text, WritesNumbersThatJsonHas) {
    text out = {};
    text_add_number(&out, -0.25);
    text_adds(&out, " ");
    text_add_number(&out, -std::numeric_limits<double>::infinity());
    text_adds(&out, " ");
    text_add_number(&out, std::numeric_limits<double>::quiet_NaN());
    EXPECT_STREQ(text_string(&out), "-0.25 -9999 null");
    text_free(&out);
}

TEST(Text, FormatsLongLines) {
    text out = {};
    std::string word(1000, 'x');
    text_addf(&out, "<%s>", word.c_str());
    EXPECT_EQ(std::string(out.data, out.bytes), "<" + word + ">");
    text_clear(&out);
    EXPECT_EQ(out.bytes, 0u);
    text_free(&out);
}

} // namespace
