// Vocabularies for the tests of the tokenizer and of chat templates: all single bytes, and what a test adds.
#ifndef METRONOME_TESTS_SMALL_VOCABULARY_H
#define METRONOME_TESTS_SMALL_VOCABULARY_H

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

extern "C" {
#include "base/random.h"
#include "base/utf8.h"
#include "models/tokenizer.h"
}

using TokenizerPointer = std::unique_ptr<struct tokenizer, decltype(&tokenizer_destroy)>;
using Ids = std::vector<uint32_t>;

// GGUF's spelling of a byte string: what cannot be seen is moved to U+0100 and up.
inline std::string spelled(const std::string &bytes) {
    uint32_t characters[256], next = 256;
    for (uint32_t byte = 0; byte < 256; byte++) {
        bool seen = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte != 0xad);
        characters[byte] = seen ? byte : next++;
    }
    std::string result;
    for (unsigned char byte : bytes) {
        char out[4];
        result.append(out, utf8_encode(characters[byte], out));
    }
    return result;
}

struct SmallVocabulary {
    std::vector<std::string> tokens; // as the file spells them
    std::vector<int32_t> types;
    std::vector<std::string> merges;
    std::string pre = "gpt-2";
    uint32_t bos = TOKEN_NONE, eos = TOKEN_NONE;
    bool add_bos = false;

    SmallVocabulary() {
        for (int byte = 0; byte < 256; byte++) {
            tokens.push_back(spelled(std::string(1, char(byte)))); // so the id of a byte is its value
        }
        types.assign(tokens.size(), 1);
    }

    uint32_t add(const std::string &spelling, int32_t type) {
        tokens.push_back(spelling);
        types.push_back(type);
        return uint32_t(tokens.size() - 1);
    }
    uint32_t control(const std::string &text) {
        return add(text, 3);
    }
    uint32_t user_defined(const std::string &text) {
        return add(text, 4);
    }
    // The merge of two byte strings, and the token that it gives unless that is there already.
    uint32_t merge(const std::string &left, const std::string &right) {
        merges.push_back(spelled(left) + " " + spelled(right));
        std::string joined = spelled(left + right);
        for (uint32_t i = 0; i < tokens.size(); i++) {
            if (tokens[i] == joined) {
                return i;
            }
        }
        return add(joined, 1);
    }

    struct status make(TokenizerPointer *out) const {
        std::vector<struct gguf_string> token_views, merge_views;
        for (const std::string &token : tokens) {
            token_views.push_back({token.data(), token.size()});
        }
        for (const std::string &merge : merges) {
            merge_views.push_back({merge.data(), merge.size()});
        }
        struct tokenizer_parts parts = {};
        parts.tokens = token_views.data();
        parts.types = types.empty() ? nullptr : types.data();
        parts.token_count = tokens.size();
        parts.merges = merge_views.data();
        parts.merge_count = merges.size();
        parts.pre = pre.c_str();
        parts.bos = bos;
        parts.eos = eos;
        parts.add_bos = add_bos;
        struct tokenizer *made = nullptr;
        struct status status = tokenizer_from_parts(&parts, &made);
        out->reset(made);
        return status;
    }
    TokenizerPointer make() const {
        TokenizerPointer result(nullptr, tokenizer_destroy);
        struct status status = make(&result);
        if (status.code != STATUS_OK) {
            throw std::runtime_error(status.message);
        }
        return result;
    }
};

// Throws what the tokenizer says if it refuses.
inline Ids encode(const TokenizerPointer &tokenizer, const std::string &text, unsigned flags = TOKENIZE_PLAIN) {
    struct token_list list = {};
    struct status status = tokenizer_encode(tokenizer.get(), text.data(), text.size(), flags, SIZE_MAX, &list);
    Ids ids(list.ids, list.ids + list.count);
    token_list_free(&list);
    if (status.code != STATUS_OK) {
        throw std::runtime_error(status.message);
    }
    return ids;
}

inline std::string text_of(const TokenizerPointer &tokenizer, uint32_t token) {
    struct gguf_string bytes = tokenizer_bytes(tokenizer.get(), token, true);
    return std::string(bytes.data, bytes.bytes);
}

inline std::string decode(const TokenizerPointer &tokenizer, const Ids &ids) {
    std::string text;
    for (uint32_t id : ids) {
        text += text_of(tokenizer, id);
    }
    return text;
}

// Valid text of all kinds of characters.
inline std::string random_text(struct random_state *random, size_t characters) {
    // Ranges that between them hold every class of character that a pattern asks for.
    static const uint32_t ranges[][2] = {
        {0x00, 0x7f},     {'a', 'z'},       {' ', ' '},       {'0', '9'},       {0x80, 0x24f},      {0x300, 0x36f},
        {0x370, 0x58f},   {0x590, 0x6ff},   {0x900, 0x97f},   {0xe00, 0xe7f},   {0x2000, 0x206f},   {0x2150, 0x218f},
        {0x3000, 0x30ff}, {0x4e00, 0x9fff}, {0xac00, 0xd7a3}, {0xe000, 0xf8ff}, {0x1f300, 0x1faff}, {0x10000, 0x10ffff},
    };
    std::string text;
    while (characters > 0) {
        const uint32_t *range = ranges[random_below(random, sizeof ranges / sizeof ranges[0])];
        size_t run = 1 + random_below(random, random_below(random, 8) == 0 ? 40 : 4);
        uint32_t fixed = range[0] + uint32_t(random_below(random, range[1] - range[0] + 1));
        bool same = random_below(random, 3) == 0;
        for (; run > 0 && characters > 0; run--, characters--) {
            uint32_t point = same ? fixed : range[0] + uint32_t(random_below(random, range[1] - range[0] + 1));
            char out[4];
            text.append(out, utf8_encode(point, out));
        }
        if (random_below(random, 6) == 0) {
            static const char *const bits[] = {"'s", "'S", "'Re", "'ll", "\r\n", "\n\n", "  ", " 's", "\t"};
            text += bits[random_below(random, sizeof bits / sizeof bits[0])];
        }
    }
    return text;
}

// The ids as texts, which reads better where a test fails.
inline std::vector<std::string> pieces(const TokenizerPointer &tokenizer, const std::string &text,
                                       unsigned flags = TOKENIZE_PLAIN) {
    std::vector<std::string> result;
    for (uint32_t id : encode(tokenizer, text, flags)) {
        result.push_back(text_of(tokenizer, id));
    }
    return result;
}

#endif
