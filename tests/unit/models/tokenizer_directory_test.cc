// models/tokenizer from Hugging Face directories: what the files beside a tokenizer.json say, and the older form of
// one.
#include "tests/unit/models/tokenizer_json.h"

#include <gtest/gtest.h>

#include <cstring>

namespace {

// ---- bos, eos, ends, the template ----

TEST(Files, TheTemplateProcessorSaysBos) {
    Json json = Json::bytes();
    json.added = "[" + added(256, "<s>", "special") + "," + added(257, "</s>", "special") + "]";
    json.post = R"({"type":"Sequence","processors":[{"type":"ByteLevel","trim_offsets":false},)"
                R"({"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},)"
                R"({"Sequence":{"id":"A","type_id":0}},{"SpecialToken":{"id":"</s>","type_id":0}}],"pair":[],)"
                R"("special_tokens":{"<s>":{"id":"<s>","ids":[256],"tokens":["<s>"]},)"
                R"("</s>":{"id":"</s>","ids":[257],"tokens":["</s>"]}}}]})";
    TokenizerPointer tokenizer = json.make();
    EXPECT_TRUE(tokenizer_adds_bos(tokenizer.get()));
    EXPECT_EQ(encode(tokenizer, "a", TOKENIZE_BOS), (Ids{256, 'a'})) << "and nothing behind: a prompt is a beginning";
    TokenizerPointer told(nullptr, tokenizer_destroy);
    ASSERT_EQ(Directory({{"tokenizer.json", json.text()}, {"tokenizer_config.json", "{\"add_bos_token\":false}"}})
                  .open(&told)
                  .code,
              STATUS_OK);
    EXPECT_EQ(encode(told, "a", TOKENIZE_BOS), Ids{'a'});
}

TEST(Files, SayWhatBeginsAndEnds) {
    Json json = Json::bytes();
    json.added = "[" + added(256, "<s>", "special") + "," + added(257, "</s>", "special") + "," +
                 added(258, "<turn>", "special") + "]";
    TokenizerPointer tokenizer(nullptr, tokenizer_destroy);
    std::map<std::string, std::string> files = {
        {"tokenizer.json", json.text()},
        {"tokenizer_config.json", R"({"bos_token":{"content":"<s>","lstrip":false},"eos_token":null,)"
                                  R"("add_bos_token":true,"chat_template":"from the config"})"},
        {"special_tokens_map.json", R"({"bos_token":"</s>","eos_token":"</s>"})"},
        {"generation_config.json", R"({"eos_token_id":[257,258]})"},
        {"config.json", R"({"eos_token_id":97})"}};
    struct status status = Directory(files).open(&tokenizer);
    ASSERT_EQ(status.code, STATUS_OK) << status.message;
    EXPECT_EQ(tokenizer_bos(tokenizer.get()), 256u);
    EXPECT_EQ(tokenizer_eos(tokenizer.get()), 257u);
    EXPECT_EQ(encode(tokenizer, "", TOKENIZE_BOS), Ids{256});
    EXPECT_TRUE(tokenizer_is_end(tokenizer.get(), 258));
    EXPECT_FALSE(tokenizer_is_end(tokenizer.get(), 97))
        << "config.json counts where there is no generation_config.json";
    EXPECT_FALSE(tokenizer_is_end(tokenizer.get(), 256));
    auto own_template = [&] {
        struct gguf_string own = tokenizer_chat_template(tokenizer.get());
        return std::string(own.data ? own.data : "", own.bytes);
    };
    EXPECT_EQ(own_template(), "from the config");
    files["chat_template.jinja"] = "from its own file";
    ASSERT_EQ(Directory(files).open(&tokenizer).code, STATUS_OK);
    EXPECT_EQ(own_template(), "from its own file");
    files.erase("chat_template.jinja");
    files["tokenizer_config.json"] = R"({"chat_template":[{"name":"tool_use","template":"no"},)"
                                     R"({"name":"default","template":"the default"}]})";
    ASSERT_EQ(Directory(files).open(&tokenizer).code, STATUS_OK);
    EXPECT_EQ(own_template(), "the default");
    EXPECT_EQ(tokenizer_bos(tokenizer.get()), 257u);
    files.erase("generation_config.json");
    files.erase("special_tokens_map.json");
    ASSERT_EQ(Directory(files).open(&tokenizer).code, STATUS_OK);
    EXPECT_EQ(tokenizer_eos(tokenizer.get()), 97u);
    ASSERT_EQ(Directory({{"tokenizer.json", json.text()}}).open(&tokenizer).code, STATUS_OK);
    EXPECT_EQ(tokenizer_bos(tokenizer.get()), TOKEN_NONE);
    EXPECT_EQ(tokenizer_eos(tokenizer.get()), TOKEN_NONE);
    EXPECT_EQ(own_template(), "");
}

// OPT's directories have no tokenizer.json.
TEST(Files, VocabularyAndMergesMayBeApart) {
    std::string vocabulary = "{\"</s>\":256,\"ab\":257";
    for (int byte = 0; byte < 256; byte++) {
        vocabulary += "," + quoted(spelled(std::string(1, char(byte)))) + ":" + std::to_string(byte);
    }
    std::map<std::string, std::string> files = {
        {"vocab.json", vocabulary + "}"},
        {"merges.txt", "#version: 0.2\na b\n"},
        {"tokenizer_config.json",
         R"({"tokenizer_class":"GPT2Tokenizer","bos_token":"</s>","eos_token":{"content":"</s>"},"add_bos_token":true})"}};
    TokenizerPointer tokenizer(nullptr, tokenizer_destroy);
    struct status status = Directory(files).open(&tokenizer);
    ASSERT_EQ(status.code, STATUS_OK) << status.message;
    EXPECT_EQ(encode(tokenizer, "ab</s>", TOKENIZE_BOS | TOKENIZE_SPECIAL), (Ids{256, 257, 256}));
    EXPECT_EQ(encode(tokenizer, "</s>").size(), 4u);
    const struct {
        const char *file, *text, *named;
    } refusals[] = {
        {"tokenizer_config.json", R"({"tokenizer_class":"Qwen2Tokenizer"})", "tokenizer_class is \"Qwen2Tokenizer\""},
        {"tokenizer_config.json", "{}", "tokenizer_config.json: tokenizer_class"},
        {"tokenizer_config.json", R"({"tokenizer_class":"GPT2Tokenizer","add_prefix_space":true})", "add_prefix_space"},
        {"vocab.json", "[]", "vocab.json: expected an object"},
        {"vocab.json", "{\"a\":0,\"b\":0}", "vocab.json: \"a\" and \"b\" both have the id 0"},
        {"vocab.json", "{\"a\":1}", "vocab.json: \"a\": 1 is no id below 1"},
        {"merges.txt", "#version: 0.2\nab\n", "merges[0]"},
    };
    for (const auto &refusal : refusals) {
        auto changed = files;
        changed[refusal.file] = refusal.text;
        status = Directory(changed).open(&tokenizer);
        EXPECT_NE(status.code, STATUS_OK) << refusal.text;
        EXPECT_NE(strstr(status.message, refusal.named), nullptr) << refusal.named << ": " << status.message;
    }
}

TEST(Refused, FilesThatAreNotThereOrNotWhatTheyMustBe) {
    TokenizerPointer tokenizer(nullptr, tokenizer_destroy);
    const std::string good = Json::bytes().text();
    const struct {
        std::map<std::string, std::string> files;
        enum status_code code;
        const char *named;
    } table[] = {
        {{}, STATUS_NOT_FOUND, "neither a tokenizer.json nor"},
        {{{"tokenizer.model", "x"}}, STATUS_NOT_FOUND, "other forms are not read"},
        {{{"tokenizer.json", ""}}, STATUS_INVALID, "tokenizer.json: not valid JSON at line 1"},
        {{{"tokenizer.json", "[]"}}, STATUS_INVALID, "tokenizer.json: model: expected an object"},
        {{{"tokenizer.json", good + "x"}}, STATUS_INVALID, "tokenizer.json: not valid JSON"},
        {{{"tokenizer.json", good.substr(0, good.size() / 2)}}, STATUS_INVALID, "tokenizer.json: not valid JSON"},
        {{{"tokenizer.json", std::string(10000, '[')}}, STATUS_INVALID, "tokenizer.json: not valid JSON"},
        {{{"tokenizer.json", good}, {"tokenizer_config.json", "[]"}},
         STATUS_INVALID,
         "tokenizer_config.json: expected"},
        {{{"tokenizer.json", good}, {"tokenizer_config.json", R"({"bos_token":"<none>"})"}},
         STATUS_INVALID,
         "tokenizer_config.json: bos_token \"<none>\" is no token"},
        {{{"tokenizer.json", good}, {"tokenizer_config.json", R"({"add_bos_token":true})"}},
         STATUS_INVALID,
         "tokenizer_config.json: add_bos_token is true"},
        {{{"tokenizer.json", good}, {"tokenizer_config.json", R"({"eos_token":{"text":"a"}})"}},
         STATUS_INVALID,
         "tokenizer_config.json: eos_token: content"},
        {{{"tokenizer.json", good}, {"tokenizer_config.json", R"({"chat_template":7})"}},
         STATUS_INVALID,
         "tokenizer_config.json: chat_template: expected a string"},
        {{{"tokenizer.json", good}, {"generation_config.json", R"({"eos_token_id":[1,256]})"}},
         STATUS_INVALID,
         "generation_config.json: eos_token_id: 256 is no id below 256"},
        {{{"tokenizer.json", good}, {"config.json", R"({"eos_token_id":1.5})"}},
         STATUS_INVALID,
         "config.json: eos_token_id: 1.5 is no id"},
    };
    for (const auto &row : table) {
        struct status status = Directory(row.files).open(&tokenizer);
        EXPECT_EQ(status.code, row.code) << row.named << ": " << status.message;
        EXPECT_NE(strstr(status.message, row.named), nullptr) << row.named << ": " << status.message;
    }
    Directory odd({});
    std::filesystem::create_directory(odd.path() + "/tokenizer.json");
    EXPECT_EQ(odd.open(&tokenizer).code, STATUS_INVALID) << "a directory is no file";
    struct tokenizer *made = nullptr;
    EXPECT_NE(tokenizer_from_directory("/nowhere", &made).code, STATUS_OK);
}

} // namespace
