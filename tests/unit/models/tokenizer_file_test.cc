// models/tokenizer from files: what a GGUF file may say and leave out, and known answers for real vocabularies.
#include "tests/unit/models/gguf_builder.h"
#include "tests/unit/models/small_vocabulary.h"

#include <cjson/cJSON.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>

extern "C" {
#include "models/gguf.h"
}

namespace {

// ---- keys ----

GgufBuilder file_of(const SmallVocabulary &vocabulary) {
    GgufBuilder file;
    file.string("tokenizer.ggml.model", "gpt2");
    file.string("tokenizer.ggml.pre", vocabulary.pre);
    file.strings("tokenizer.ggml.tokens", vocabulary.tokens);
    file.strings("tokenizer.ggml.merges", vocabulary.merges);
    file.array("tokenizer.ggml.token_type", GGUF_I32, vocabulary.types);
    return file;
}

struct Opened {
    std::vector<uint8_t> bytes;
    TokenizerPointer tokenizer{nullptr, tokenizer_destroy};
    struct status status;

    explicit Opened(const GgufBuilder &file) : bytes(file.build()) {
        struct gguf *gguf = nullptr;
        status = gguf_open_memory(bytes.data(), bytes.size(), &gguf);
        if (status.code == STATUS_OK) {
            struct tokenizer *made = nullptr;
            status = tokenizer_from_gguf(gguf, &made);
            tokenizer.reset(status.code == STATUS_OK ? made : nullptr);
            gguf_close(gguf); // a tokenizer outlives its file
            std::fill(bytes.begin(), bytes.end(), 0);
        }
    }
    bool says(const char *text) const {
        return strstr(status.message, text) != nullptr;
    }
};

TEST(File, GivesATokenizerThatOutlivesIt) {
    SmallVocabulary vocabulary;
    uint32_t word = vocabulary.merge("a", "b");
    uint32_t end = vocabulary.control("<end>"), other = vocabulary.control("<other>"),
             third = vocabulary.control("<third>");
    GgufBuilder file = file_of(vocabulary);
    file.u32("tokenizer.ggml.bos_token_id", other);
    file.u32("tokenizer.ggml.eos_token_id", end);
    file.u32("tokenizer.ggml.eot_token_id", other);
    file.u32("tokenizer.ggml.eom_token_id", third);
    file.boolean("tokenizer.ggml.add_bos_token", true);
    Opened opened(file);
    ASSERT_TRUE(opened.tokenizer) << opened.status.message;
    EXPECT_EQ(encode(opened.tokenizer, "abc<end>", TOKENIZE_SPECIAL | TOKENIZE_BOS), (Ids{other, word, 'c', end}));
    EXPECT_EQ(tokenizer_eos(opened.tokenizer.get()), end);
    EXPECT_TRUE(tokenizer_is_end(opened.tokenizer.get(), end));
    EXPECT_TRUE(tokenizer_is_end(opened.tokenizer.get(), other));
    EXPECT_TRUE(tokenizer_is_end(opened.tokenizer.get(), third));
    EXPECT_FALSE(tokenizer_is_end(opened.tokenizer.get(), word));
}

TEST(File, WhatItDoesNotSayIsWhatItsFamilyDoes) {
    SmallVocabulary vocabulary;
    uint32_t bos = vocabulary.control("<bos>");
    vocabulary.pre = "llama-bpe";
    GgufBuilder file = file_of(vocabulary);
    EXPECT_FALSE(tokenizer_adds_bos(Opened(file).tokenizer.get())) << "there is none to add";
    file.u32("tokenizer.ggml.bos_token_id", bos);
    EXPECT_TRUE(tokenizer_adds_bos(Opened(file).tokenizer.get()));
    file.boolean("tokenizer.ggml.add_bos_token", false);
    EXPECT_FALSE(tokenizer_adds_bos(Opened(file).tokenizer.get()));
    vocabulary.pre = "qwen2";
    GgufBuilder qwen = file_of(vocabulary);
    qwen.u32("tokenizer.ggml.bos_token_id", bos);
    qwen.remove("tokenizer.ggml.token_type");
    Opened opened(qwen);
    ASSERT_TRUE(opened.tokenizer) << opened.status.message;
    EXPECT_FALSE(tokenizer_adds_bos(opened.tokenizer.get()));
    EXPECT_EQ(tokenizer_eos(opened.tokenizer.get()), TOKEN_NONE);
}

struct FileRefusal {
    const char *key; // written anew by `spoil`, or left out
    void (*spoil)(GgufBuilder &);
    enum status_code code;
    const char *named;
};

TEST(File, IsRefusedWithTheKeysName) {
    const FileRefusal table[] = {
        {"tokenizer.ggml.model", nullptr, STATUS_NOT_FOUND, "tokenizer.ggml.model"},
        {"tokenizer.ggml.model", [](GgufBuilder &f) { f.string("tokenizer.ggml.model", "t5"); }, STATUS_UNSUPPORTED,
         "tokenizer.ggml.model is \"t5\"; built are \"gpt2\""},
        {"tokenizer.ggml.model", [](GgufBuilder &f) { f.string("tokenizer.ggml.model", std::string(99, 'x')); },
         STATUS_INVALID, "tokenizer.ggml.model"},
        {"tokenizer.ggml.model", [](GgufBuilder &f) { f.string("tokenizer.ggml.model", std::string("gpt2\0", 5)); },
         STATUS_INVALID, "tokenizer.ggml.model"},
        {"tokenizer.ggml.pre", nullptr, STATUS_NOT_FOUND, "tokenizer.ggml.pre"},
        {"tokenizer.ggml.pre", [](GgufBuilder &f) { f.u32("tokenizer.ggml.pre", 1); }, STATUS_INVALID,
         "tokenizer.ggml.pre"},
        {"tokenizer.ggml.pre", [](GgufBuilder &f) { f.string("tokenizer.ggml.pre", "viking"); }, STATUS_UNSUPPORTED,
         "\"viking\" is not built; built are gpt-2"},
        {"tokenizer.ggml.tokens", nullptr, STATUS_NOT_FOUND, "tokenizer.ggml.tokens"},
        {"tokenizer.ggml.tokens", [](GgufBuilder &f) { f.string("tokenizer.ggml.tokens", "a"); }, STATUS_INVALID,
         "tokenizer.ggml.tokens"},
        {"tokenizer.ggml.tokens",
         [](GgufBuilder &f) {
             f.array<float>("tokenizer.ggml.tokens", GGUF_F32, {1, 2});
         },
         STATUS_INVALID, "tokenizer.ggml.tokens"},
        {"tokenizer.ggml.tokens", [](GgufBuilder &f) { f.strings("tokenizer.ggml.tokens", {}); }, STATUS_INVALID,
         "tokenizer.ggml.token"},
        {"tokenizer.ggml.merges", nullptr, STATUS_NOT_FOUND, "tokenizer.ggml.merges"},
        {"tokenizer.ggml.merges", [](GgufBuilder &f) { f.strings("tokenizer.ggml.merges", {"a zz"}); }, STATUS_INVALID,
         "tokenizer.ggml.merges[0]"},
        {"tokenizer.ggml.token_type",
         [](GgufBuilder &f) {
             f.array<int32_t>("tokenizer.ggml.token_type", GGUF_I32, {1, 1, 1});
         },
         STATUS_INVALID, "tokenizer.ggml.token_type has 3 elements for 256 tokens"},
        {"tokenizer.ggml.token_type",
         [](GgufBuilder &f) { f.strings("tokenizer.ggml.token_type", std::vector<std::string>(256, "1")); },
         STATUS_INVALID, "tokenizer.ggml.token_type"},
        {"", [](GgufBuilder &f) { f.u32("tokenizer.ggml.bos_token_id", 256); }, STATUS_INVALID,
         "tokenizer.ggml.bos_token_id is 256"},
        {"", [](GgufBuilder &f) { f.u32("tokenizer.ggml.eos_token_id", UINT32_MAX); }, STATUS_INVALID,
         "tokenizer.ggml.eos_token_id is 4294967295"},
        {"", [](GgufBuilder &f) { f.scalar("tokenizer.ggml.eos_token_id", GGUF_I32, int32_t(-1)); }, STATUS_INVALID,
         "tokenizer.ggml.eos_token_id"},
        {"", [](GgufBuilder &f) { f.u32("tokenizer.ggml.eot_token_id", 300); }, STATUS_INVALID,
         "tokenizer.ggml.eot_token_id is 300"},
        {"", [](GgufBuilder &f) { f.u32("tokenizer.ggml.eom_token_id", 301); }, STATUS_INVALID,
         "tokenizer.ggml.eom_token_id is 301"},
        {"", [](GgufBuilder &f) { f.boolean("tokenizer.ggml.add_bos_token", true); }, STATUS_INVALID,
         "tokenizer.ggml.add_bos_token"},
        {"", [](GgufBuilder &f) { f.string("tokenizer.ggml.add_bos_token", "yes"); }, STATUS_INVALID,
         "tokenizer.ggml.add_bos_token"},
    };
    for (const FileRefusal &refusal : table) {
        GgufBuilder file = file_of(SmallVocabulary());
        file.remove(refusal.key);
        if (refusal.spoil) {
            refusal.spoil(file);
        }
        Opened opened(file);
        EXPECT_EQ(opened.status.code, refusal.code) << refusal.named << ": " << opened.status.message;
        EXPECT_TRUE(opened.says(refusal.named)) << refusal.named << ": " << opened.status.message;
    }
}

// ---- known answers ----

const std::string data_folder = "../shared/data/tokenizers/";

std::string read_file(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    std::stringstream text;
    text << file.rdbuf();
    return file ? text.str() : "";
}

std::vector<std::string> split(const std::string &text, const std::string &between) {
    std::vector<std::string> parts;
    size_t at = 0;
    for (size_t found; (found = text.find(between, at)) != std::string::npos; at = found + between.size()) {
        parts.push_back(text.substr(at, found - at));
    }
    parts.push_back(text.substr(at));
    return parts;
}

// The inputs are separated by a line; the outputs are one line of ids each.
void expect_vectors(const TokenizerPointer &tokenizer, const std::string &name) {
    std::vector<std::string> texts = split(read_file(data_folder + name + ".inp"), "\n__ggml_vocab_test__\n");
    std::vector<std::string> answers = split(read_file(data_folder + name + ".out"), "\n");
    ASSERT_EQ(texts.size(), 47u) << name;
    ASSERT_EQ(answers.size(), 47u) << name;
    for (size_t i = 0; i < texts.size(); i++) {
        std::istringstream numbers(answers[i]);
        Ids expected;
        for (uint32_t id; numbers >> id;) {
            expected.push_back(id);
        }
        Ids ids = encode(tokenizer, texts[i]);
        EXPECT_EQ(ids, expected) << name << " " << i << ": " << texts[i];
        EXPECT_EQ(decode(tokenizer, ids), texts[i]);
    }
}

TEST(KnownAnswers, Gpt2) {
    std::string path = data_folder + "ggml-vocab-gpt-2.gguf";
    if (!std::ifstream(path)) {
        GTEST_SKIP() << path << " is not here";
    }
    struct gguf *gguf;
    struct status status = gguf_open(path.c_str(), &gguf);
    ASSERT_EQ(status.code, STATUS_OK) << status.message;
    struct tokenizer *made = nullptr;
    status = tokenizer_from_gguf(gguf, &made);
    gguf_close(gguf);
    ASSERT_EQ(status.code, STATUS_OK) << status.message;
    TokenizerPointer tokenizer(made, tokenizer_destroy);
    expect_vectors(tokenizer, "ggml-vocab-gpt-2.gguf");
    EXPECT_EQ(tokenizer_vocabulary(made), 50257u);
    EXPECT_EQ(encode(tokenizer, "<|endoftext|>", TOKENIZE_SPECIAL), (Ids{50256}));
    EXPECT_TRUE(tokenizer_is_end(made, 50256));
}

TEST(KnownAnswers, Qwen2) {
    std::string vocabulary_path = data_folder + "qwen2_vocab.json";
    if (!std::ifstream(vocabulary_path)) {
        GTEST_SKIP() << vocabulary_path << " is not here";
    }
    SmallVocabulary vocabulary;
    vocabulary.pre = "qwen2";
    vocabulary.types.clear();
    cJSON *ids = cJSON_Parse(read_file(vocabulary_path).c_str());
    ASSERT_NE(ids, nullptr);
    vocabulary.tokens.assign(size_t(cJSON_GetArraySize(ids)), "");
    for (cJSON *id = ids->child; id != nullptr; id = id->next) {
        vocabulary.tokens.at(size_t(id->valueint)) = id->string;
    }
    cJSON_Delete(ids);
    for (const std::string &line : split(read_file(data_folder + "qwen2_merges.txt"), "\n")) {
        if (!line.empty() && line.rfind("#version", 0) != 0) {
            vocabulary.merges.push_back(line);
        }
    }
    EXPECT_EQ(vocabulary.merges.size(), 151387u);
    expect_vectors(vocabulary.make(), "ggml-vocab-qwen2.gguf");
}

// The model that the tests run: no published vectors, so a few that Hugging Face's tokenizers library gave.
TEST(KnownAnswers, SmolLm2) {
    const char *named = getenv("METRONOME_TEST_MODEL");
    std::string path = named ? named : ".cache/SmolLM2-135M-Instruct.Q4_1.gguf";
    if (!std::ifstream(path)) {
        GTEST_SKIP() << path << " is not here";
    }
    struct gguf *gguf;
    ASSERT_EQ(gguf_open(path.c_str(), &gguf).code, STATUS_OK);
    struct tokenizer *made = nullptr;
    struct status status = tokenizer_from_gguf(gguf, &made);
    gguf_close(gguf);
    ASSERT_EQ(status.code, STATUS_OK) << status.message;
    TokenizerPointer tokenizer(made, tokenizer_destroy);
    EXPECT_EQ(encode(tokenizer, "Hello world"), (Ids{19556, 905}));
    EXPECT_EQ(encode(tokenizer, "<|im_start|>user\nHi  there 123<|im_end|>", TOKENIZE_SPECIAL),
              (Ids{1, 4093, 198, 26843, 216, 665, 216, 33, 34, 35, 2}));
    EXPECT_EQ(encode(tokenizer, "ied 4 \xc2\xbd months"), (Ids{885, 216, 36, 216, 16738, 2704}));
    EXPECT_EQ(encode(tokenizer, "a\x04"
                                "b"),
              (Ids{81, 82}))
        << "this vocabulary has no token for 0x04";
    EXPECT_TRUE(tokenizer_is_end(made, 2));
    EXPECT_FALSE(tokenizer_adds_bos(made));
}

} // namespace
