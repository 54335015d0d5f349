// Hugging Face directories for the tests of their tokenizers: a tokenizer.json part by part, and the files beside it.
#ifndef METRONOME_TESTS_TOKENIZER_JSON_H
#define METRONOME_TESTS_TOKENIZER_JSON_H

#include "tests/unit/models/small_vocabulary.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>

// A directory with files of these texts, gone at the end.
class Directory {
  public:
    explicit Directory(const std::map<std::string, std::string> &files) {
        char name[] = "/tmp/metronome-tokenizer-XXXXXX";
        path_ = mkdtemp(name);
        for (const auto &file : files) {
            std::ofstream(path_ + "/" + file.first, std::ios::binary) << file.second;
        }
    }
    ~Directory() {
        std::filesystem::remove_all(path_);
    }
    struct status open(TokenizerPointer *out) const {
        struct tokenizer *made = nullptr;
        struct status status = tokenizer_from_directory(path_.c_str(), &made);
        out->reset(status.code == STATUS_OK ? made : nullptr);
        return status;
    }
    const std::string &path() const {
        return path_;
    }

  private:
    std::string path_;
};

inline std::string quoted(const std::string &text) {
    std::string out = "\"";
    for (unsigned char byte : text) {
        char escaped[8];
        snprintf(escaped, sizeof escaped, "\\u%04x", byte);
        out += byte < 0x20 || byte == '"' || byte == '\\' ? escaped : std::string(1, char(byte));
    }
    return out + "\"";
}

// A tokenizer.json, part by part.
struct Json {
    std::vector<std::string> vocabulary; // ids in order
    std::string merges = "[]", added = "[]", type = "BPE", model = "";
    std::string normalizer = "null", pre = "null", post = "null", decoder = "{\"type\":\"Fuse\"}";

    static Json bytes() { // ids are bytes
        Json json;
        for (int byte = 0; byte < 256; byte++) {
            json.vocabulary.push_back(spelled(std::string(1, char(byte))));
        }
        json.pre = R"({"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true})";
        json.decoder = R"({"type":"ByteLevel"})";
        return json;
    }
    std::string text() const {
        std::string vocab;
        for (size_t i = 0; i < vocabulary.size(); i++) {
            vocab += (i ? "," : "") + quoted(vocabulary[i]) + ":" + std::to_string(i);
        }
        return "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":" + added +
               ",\"normalizer\":" + normalizer + ",\"pre_tokenizer\":" + pre + ",\"post_processor\":" + post +
               ",\"decoder\":" + decoder + ",\"model\":{\"type\":\"" + type + "\"," + model + "\"vocab\":{" + vocab +
               "},\"merges\":" + merges + "}}";
    }
    TokenizerPointer make() const {
        TokenizerPointer result(nullptr, tokenizer_destroy);
        struct status status = Directory({{"tokenizer.json", text()}}).open(&result);
        if (status.code != STATUS_OK) {
            throw std::runtime_error(status.message);
        }
        return result;
    }
    // The ids' spellings in the vocabulary.
    std::vector<std::string> spellings(const std::string &text, unsigned flags = TOKENIZE_PLAIN) const {
        std::vector<std::string> result;
        for (uint32_t id : encode(make(), text, flags)) {
            result.push_back(id < vocabulary.size() ? vocabulary[id] : "#" + std::to_string(id));
        }
        return result;
    }
};

inline std::string added(int id, const std::string &content, const std::string &flags = "") {
    std::string all = "{\"id\":" + std::to_string(id) + ",\"content\":" + quoted(content);
    for (std::string name : {"single_word", "lstrip", "rstrip", "normalized", "special"}) {
        all += ",\"" + name + "\":" + (flags.find(name) != std::string::npos ? "true" : "false");
    }
    return all + "}";
}

inline std::string whole(const TokenizerPointer &tokenizer, const Ids &ids) {
    struct detokenizer state;
    std::vector<char> buffer(detokenizer_bound(tokenizer.get()));
    std::string text;
    detokenizer_init_whole(&state, tokenizer.get(), false);
    for (uint32_t id : ids) {
        text += std::string(buffer.data(), detokenizer_push(&state, id, buffer.data(), buffer.size()));
    }
    return text + std::string(buffer.data(), detokenizer_flush(&state, buffer.data(), buffer.size()));
}

#endif
