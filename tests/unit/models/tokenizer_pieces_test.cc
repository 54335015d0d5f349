// models/tokenizer with scores: SentencePiece's BPE, its spaces, bytes and unknown characters, and what GGUF says of
// it.
#include "tests/unit/models/gguf_builder.h"
#include "tests/unit/models/small_vocabulary.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

extern "C" {
#include "models/chat.h"
#include "models/gguf.h"
}

namespace {

using Strings = std::vector<std::string>;

const std::string mark = "\xe2\x96\x81"; // U+2581

enum { NORMAL = 1, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE };

// <unk>, <s>, </s>, and what a test adds, each with a lower score than the one before unless it says one.
struct Pieces {
    std::vector<std::string> tokens;
    std::vector<float> scores;
    std::vector<int32_t> types;
    bool add_space_prefix = true, add_bos = false;

    explicit Pieces(const Strings &pieces = {}, bool bytes = true) {
        add("<unk>", UNKNOWN);
        add("<s>", CONTROL);
        add("</s>", CONTROL);
        for (int byte = 0; bytes && byte < 256; byte++) {
            char text[8];
            snprintf(text, sizeof text, "<0x%02X>", unsigned(byte));
            add(text, BYTE);
        }
        for (const std::string &piece : pieces) {
            add(piece);
        }
    }
    uint32_t add(const std::string &token, int32_t type = NORMAL) {
        return add(token, type, -float(tokens.size()));
    }
    uint32_t add(const std::string &token, int32_t type, float score) {
        tokens.push_back(token);
        types.push_back(type);
        scores.push_back(score);
        return uint32_t(tokens.size() - 1);
    }
    TokenizerPointer make() const {
        std::vector<struct gguf_string> views;
        for (const std::string &token : tokens) {
            views.push_back({token.data(), token.size()});
        }
        struct tokenizer_parts parts = {};
        parts.tokens = views.data();
        parts.types = types.data();
        parts.scores = scores.data();
        parts.token_count = tokens.size();
        parts.bos = 1;
        parts.eos = 2;
        parts.unknown = 0;
        parts.add_bos = add_bos;
        parts.add_space_prefix = add_space_prefix;
        struct tokenizer *made = nullptr;
        struct status status = tokenizer_from_parts(&parts, &made);
        if (status.code != STATUS_OK) {
            throw std::runtime_error(status.message);
        }
        return TokenizerPointer(made, tokenizer_destroy);
    }
    // The tokens' spellings, which tell a mark from a space.
    Strings spelled(const std::string &text, unsigned flags = TOKENIZE_PLAIN) const {
        Strings result;
        for (uint32_t id : encode(make(), text, flags)) {
            result.push_back(tokens[id]);
        }
        return result;
    }
};

// All ids through the detokenizer, as a whole text or as the continuation of one.
std::string shown(const TokenizerPointer &tokenizer, const Ids &ids, bool whole) {
    struct detokenizer state;
    std::vector<char> buffer(detokenizer_bound(tokenizer.get()));
    std::string text;
    (whole ? detokenizer_init_whole : detokenizer_init)(&state, tokenizer.get(), false);
    for (uint32_t id : ids) {
        std::string piece(buffer.data(), detokenizer_push(&state, id, buffer.data(), buffer.size()));
        EXPECT_TRUE(utf8_valid(piece.data(), piece.size()));
        text += piece;
    }
    return text + std::string(buffer.data(), detokenizer_flush(&state, buffer.data(), buffer.size()));
}

// ---- merging by scores ----

TEST(Scores, TheHighestMergesFirst) {
    EXPECT_EQ(Pieces({mark, "a", "b", "ab", mark + "a"}).spelled("ab"), (Strings{mark, "ab"}));
    EXPECT_EQ(Pieces({mark, "a", "b", mark + "a", "ab"}).spelled("ab"), (Strings{mark + "a", "b"}));
}

TEST(Scores, OfEqualScoresTheLeftmostMergesFirst) {
    Pieces pieces({mark, "a"});
    pieces.add("aa", NORMAL, -500);
    pieces.add("aaa", NORMAL, -500);
    pieces.add_space_prefix = false;
    EXPECT_EQ(pieces.spelled("aaaaa"), (Strings{"aaa", "aa"})) << "a pair, and then that with the next, before others";
}

TEST(Scores, CharactersThatAreNoTokensMergeIntoOne) {
    Pieces pieces({mark, "xy", "xyx"});
    pieces.add_space_prefix = false;
    EXPECT_EQ(pieces.spelled("xyx"), (Strings{"xyx"}));
    EXPECT_EQ(pieces.spelled("yx"), (Strings{"<0x79>", "<0x78>"})) << "and are their bytes where they do not";
    EXPECT_EQ(pieces.spelled("xxy"), (Strings{"<0x78>", "xy"}));
}

TEST(Scores, NoTextMergesIntoAControlTokenOrAByte) {
    Pieces pieces({mark, "<", "s", ">", "s>", "0", "x", "4", "1", "0x", "41", "41>", "<0x"});
    pieces.add_space_prefix = false;
    EXPECT_EQ(pieces.spelled("<s>"), (Strings{"<", "s>"}));
    EXPECT_EQ(pieces.spelled("<s>", TOKENIZE_SPECIAL), (Strings{"<s>"}));
    EXPECT_EQ(pieces.spelled("<0x41>"), (Strings{"<0x", "41>"}));
    EXPECT_EQ(pieces.spelled("<0x41>", TOKENIZE_SPECIAL), (Strings{"<0x", "41>"}));
}

// The definition: again and again the best pair of all, in the square of the text's length.
Ids by_definition(const Pieces &pieces, const std::string &text) {
    Strings symbols;
    for (size_t at = 0, used; at < text.size(); at += used) {
        utf8_decode(text.data() + at, text.size() - at, &used);
        symbols.push_back(text.substr(at, used));
    }
    auto place = [&](const std::string &spelling) {
        auto found = std::find(pieces.tokens.begin(), pieces.tokens.end(), spelling);
        return found == pieces.tokens.end() ? -1 : int(found - pieces.tokens.begin());
    };
    for (;;) {
        int best = -1;
        size_t where = 0;
        for (size_t i = 0; i + 1 < symbols.size(); i++) {
            int token = place(symbols[i] + symbols[i + 1]);
            if (token >= 0 && (best < 0 || pieces.scores[size_t(token)] > pieces.scores[size_t(best)])) {
                best = token;
                where = i;
            }
        }
        if (best < 0) {
            break;
        }
        symbols[where] += symbols[where + 1];
        symbols.erase(symbols.begin() + long(where) + 1);
    }
    Ids ids;
    for (const std::string &symbol : symbols) {
        if (place(symbol) >= 0) {
            ids.push_back(uint32_t(place(symbol)));
            continue;
        }
        for (unsigned char byte : symbol) {
            ids.push_back(3u + byte);
        }
    }
    return ids;
}

TEST(Scores, MergeAsTheDefinitionDoes) {
    struct random_state random;
    random_seed(&random, 11);
    for (int round = 0; round < 60; round++) {
        Pieces pieces;
        const char *const letters[] = {"a", "b", "c", "\xc3\xa9", "\xe6\x97\xa5", "\xe2\x96\x81"};
        size_t alphabet = 2 + random_below(&random, 5);
        for (uint32_t i = 0; i < 40; i++) {
            std::string spelling;
            for (size_t length = 1 + random_below(&random, 4); length > 0; length--) {
                spelling += letters[random_below(&random, alphabet)];
            }
            if (std::find(pieces.tokens.begin(), pieces.tokens.end(), spelling) == pieces.tokens.end()) {
                pieces.add(spelling, NORMAL, -float(random_below(&random, 12)));
            }
        }
        pieces.add_space_prefix = false;
        TokenizerPointer tokenizer = pieces.make();
        for (int i = 0; i < 40; i++) {
            std::string text;
            for (size_t length = random_below(&random, 30); length > 0; length--) {
                text += letters[random_below(&random, alphabet)];
            }
            ASSERT_EQ(encode(tokenizer, text), by_definition(pieces, text)) << "round " << round << ": " << text;
        }
    }
}

TEST(Scores, ALongTextWithoutASpaceTakesNoLongerThanItsLength) {
    Pieces pieces({mark, "a", "aa", "aaaa", "aaaaaaaa"});
    TokenizerPointer tokenizer = pieces.make();
    auto seconds = [&](size_t bytes) {
        auto begin = std::chrono::steady_clock::now();
        EXPECT_EQ(encode(tokenizer, std::string(bytes, 'a')).size(), bytes / 8 + 1);
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    };
    double small = seconds(1 << 14), large = seconds(1 << 19);
    EXPECT_LT(large, small * 32 * 10 + 0.5) << "32 times the length, with room for the logarithm and a busy machine";
}

// ---- spaces ----

TEST(Spaces, AreMarks) {
    Pieces pieces({mark, "a", "b", mark + "a", mark + mark});
    EXPECT_EQ(pieces.spelled("a a"), (Strings{mark + "a", mark + "a"}));
    EXPECT_EQ(pieces.spelled("a  b"), (Strings{mark + "a", mark + mark, "b"}));
    EXPECT_EQ(pieces.spelled("a" + mark + "a"), (Strings{mark + "a", mark + "a"})) << "a mark in the text is a space";
    EXPECT_EQ(pieces.spelled(""), Strings{});
    pieces.add_space_prefix = false;
    EXPECT_EQ(pieces.spelled("a a"), (Strings{"a", mark + "a"}));
}

TEST(Spaces, ComeAfterEverySpecialToken) {
    Pieces pieces({mark, "a", mark + "a"});
    EXPECT_EQ(pieces.spelled("<s>a</s>a", TOKENIZE_SPECIAL), (Strings{"<s>", mark + "a", "</s>", mark + "a"}));
    pieces.add_bos = true;
    EXPECT_EQ(pieces.spelled("a", TOKENIZE_BOS), (Strings{"<s>", mark + "a"}));
}

TEST(Spaces, TheFirstIsNotGivenBackAndOnlyByAWholeText) {
    Pieces pieces({mark, "a", mark + "a"});
    TokenizerPointer tokenizer = pieces.make();
    for (std::string text : {"a a", " a", "  a ", "", " ", "a"}) {
        EXPECT_EQ(shown(tokenizer, encode(tokenizer, text), true), text);
        EXPECT_EQ(shown(tokenizer, encode(tokenizer, text), false), (text.empty() ? "" : " ") + text)
            << "a continuation keeps it: it may be the word's own";
    }
    Ids behind_bos = encode(tokenizer, "a");
    behind_bos.insert(behind_bos.begin(), 1);
    EXPECT_EQ(shown(tokenizer, behind_bos, true), "a") << "a token that is not shown begins nothing";
    pieces.add_space_prefix = false;
    EXPECT_EQ(shown(pieces.make(), encode(pieces.make(), " a"), true), " a");
}

TEST(Spaces, UserDefinedTokensMayHaveThem) {
    for (std::string spelling : {std::string("  "), mark + mark}) {
        Pieces pieces({mark, "a"});
        pieces.add(spelling, USER_DEFINED);
        pieces.add_space_prefix = false;
        EXPECT_EQ(pieces.spelled("a  a"), (Strings{"a", spelling, "a"}));
        EXPECT_EQ(shown(pieces.make(), encode(pieces.make(), "a  a"), true), "a  a");
    }
}

// ---- characters without a token ----

TEST(Foreign, CharactersAreTheirBytes) {
    Pieces pieces({mark, "a"});
    TokenizerPointer tokenizer = pieces.make();
    EXPECT_EQ(pieces.spelled("a\xc3\xa9\n"), (Strings{mark, "a", "<0xC3>", "<0xA9>", "<0x0A>"}));
    for (std::string text : {"\xf0\x9f\x9a\x80", "\xc3\xa9 a\n", "\x01"}) {
        EXPECT_EQ(shown(tokenizer, encode(tokenizer, text), true), text);
    }
    EXPECT_EQ(shown(tokenizer, {3 + 0xf0, 3 + 0x9f}, true), "\xef\xbf\xbd\xef\xbf\xbd") << "half a character";
}

TEST(Foreign, WithoutBytesARunOfThemIsOneUnknown) {
    Pieces pieces({mark, "a", "xy"}, false);
    EXPECT_EQ(pieces.spelled("\xc3\xa9\xc3\xa9 a\xc3\xa9"), (Strings{mark, "<unk>", mark, "a", "<unk>"}));
    EXPECT_EQ(pieces.spelled("yyx\xc3\xa9"), (Strings{mark, "<unk>"})) << "characters that might have merged, too";
}

TEST(Foreign, RoundTripsOfAnyText) {
    struct random_state random;
    random_seed(&random, 3);
    Pieces pieces({mark, "e", "t", "th", "he", mark + "t", mark + "the", "\xc3\xa9"});
    pieces.add("   ", USER_DEFINED);
    pieces.add("\n\n", USER_DEFINED);
    pieces.add_space_prefix = false;
    TokenizerPointer tokenizer = pieces.make();
    for (int i = 0; i < 1000; i++) {
        std::string text = random_text(&random, random_below(&random, 200));
        ASSERT_EQ(shown(tokenizer, encode(tokenizer, text), true), text);
    }
}

TEST(Foreign, DecodingIsTheWholeText) {
    Pieces pieces({mark, "a", mark + "a"});
    TokenizerPointer tokenizer = pieces.make();
    Ids ids = encode(tokenizer, "a \xc3\xa9");
    ids.insert(ids.begin(), 1);
    for (bool special : {false, true}) {
        char *text = nullptr;
        size_t bytes = 0;
        ASSERT_EQ(tokenizer_decode(tokenizer.get(), ids.data(), ids.size(), special, &text, &bytes).code, STATUS_OK);
        EXPECT_EQ(std::string(text, bytes), special ? "<s> a \xc3\xa9" : "a \xc3\xa9");
        EXPECT_EQ(strlen(text), bytes);
        free(text);
    }
    char *text = nullptr;
    size_t bytes = 1;
    ASSERT_EQ(tokenizer_decode(tokenizer.get(), nullptr, 0, true, &text, &bytes).code, STATUS_OK);
    EXPECT_EQ(std::string(text, bytes), "");
    free(text);
}

// ---- chat templates ----

TEST(Chat, ATemplatesTokensAreTokensAndAUsersAreText) {
    Pieces pieces({mark, "[", "]", "/", "<", ">", "s", "I", "N", "S", "T", "h", "i", "<s", "s>"});
    pieces.add_bos = true;
    TokenizerPointer tokenizer = pieces.make();
    const struct chat_template *chat = nullptr;
    ASSERT_EQ(chat_template_named("llama2", &chat).code, STATUS_OK);
    std::vector<struct chat_message> messages = {{"user", "hi", 2}, {"assistant", "<s>", 3}, {"user", "</s>", 4}};
    struct token_list list = {};
    ASSERT_EQ(chat_encode(chat, tokenizer.get(), messages.data(), messages.size(), SIZE_MAX, &list).code, STATUS_OK);
    Ids ids(list.ids, list.ids + list.count);
    token_list_free(&list);
    EXPECT_EQ(std::count(ids.begin(), ids.end(), 1u), 2) << "one at the head of each turn of the user's";
    EXPECT_EQ(std::count(ids.begin(), ids.end(), 2u), 1) << "one after the assistant's";
    EXPECT_EQ(ids[0], 1u);
    EXPECT_EQ(shown(tokenizer, ids, true), "[INST] hi [/INST] <s>  [INST] </s> [/INST]")
        << "each piece between two special tokens has its own space before it";
}

// ---- GGUF ----

GgufBuilder file_of(const Pieces &pieces) {
    GgufBuilder file;
    file.string("tokenizer.ggml.model", "llama");
    file.strings("tokenizer.ggml.tokens", pieces.tokens);
    file.array("tokenizer.ggml.scores", GGUF_F32, pieces.scores);
    file.array("tokenizer.ggml.token_type", GGUF_I32, pieces.types);
    return file;
}

struct status open(const GgufBuilder &file, TokenizerPointer *out) {
    std::vector<uint8_t> bytes = file.build();
    struct gguf *gguf = nullptr;
    struct tokenizer *made = nullptr;
    struct status status = gguf_open_memory(bytes.data(), bytes.size(), &gguf);
    if (status.code == STATUS_OK) {
        status = tokenizer_from_gguf(gguf, &made);
        gguf_close(gguf);
    }
    out->reset(status.code == STATUS_OK ? made : nullptr);
    return status;
}

TEST(PiecesFile, WhatItDoesNotSayIsSentencePiecesOwn) {
    Pieces pieces({mark, "a", mark + "a"});
    GgufBuilder file = file_of(pieces);
    TokenizerPointer tokenizer(nullptr, tokenizer_destroy);
    struct status status = open(file, &tokenizer);
    ASSERT_EQ(status.code, STATUS_OK) << status.message;
    EXPECT_EQ(encode(tokenizer, "a", TOKENIZE_BOS), (Ids{1, uint32_t(pieces.tokens.size() - 1)}));
    EXPECT_EQ(tokenizer_eos(tokenizer.get()), 2u);
    EXPECT_TRUE(tokenizer_is_end(tokenizer.get(), 2));
    file.u32("tokenizer.ggml.bos_token_id", 2);
    file.u32("tokenizer.ggml.eos_token_id", 1);
    file.boolean("tokenizer.ggml.add_space_prefix", false);
    ASSERT_EQ(open(file, &tokenizer).code, STATUS_OK);
    EXPECT_EQ(encode(tokenizer, "a", TOKENIZE_BOS), (Ids{2, uint32_t(pieces.tokens.size() - 2)}));
    file.boolean("tokenizer.ggml.add_bos_token", false);
    ASSERT_EQ(open(file, &tokenizer).code, STATUS_OK);
    EXPECT_FALSE(tokenizer_adds_bos(tokenizer.get()));
}

TEST(PiecesFile, IsRefusedWithTheKeysName) {
    struct {
        const char *key; // written anew by `spoil`, or left out
        void (*spoil)(GgufBuilder &);
        enum status_code code;
        const char *named;
    } const table[] = {
        {"tokenizer.ggml.model", [](GgufBuilder &f) { f.string("tokenizer.ggml.model", "t5"); }, STATUS_UNSUPPORTED,
         "tokenizer.ggml.model is \"t5\""},
        {"tokenizer.ggml.model", [](GgufBuilder &f) { f.string("tokenizer.ggml.model", "bert"); }, STATUS_UNSUPPORTED,
         "tokenizer.ggml.model is \"bert\""},
        {"tokenizer.ggml.scores", nullptr, STATUS_NOT_FOUND, "tokenizer.ggml.scores"},
        {"tokenizer.ggml.scores",
         [](GgufBuilder &f) {
             f.array<float>("tokenizer.ggml.scores", GGUF_F32, {1, 2});
         },
         STATUS_INVALID, "tokenizer.ggml.scores has 2 elements for 261 tokens"},
        {"tokenizer.ggml.scores", [](GgufBuilder &f) { f.strings("tokenizer.ggml.scores", Strings(261, "1")); },
         STATUS_INVALID, "tokenizer.ggml.scores"},
        {"tokenizer.ggml.scores",
         [](GgufBuilder &f) { f.array("tokenizer.ggml.scores", GGUF_F32, std::vector<float>(261, NAN)); },
         STATUS_INVALID, "tokenizer.ggml.scores[0] is not a finite number"},
        {"tokenizer.ggml.token_type",
         [](GgufBuilder &f) { f.array("tokenizer.ggml.token_type", GGUF_I32, std::vector<int32_t>(261, 7)); },
         STATUS_INVALID, "tokenizer.ggml.token_type[0] is 7"},
        {"tokenizer.ggml.token_type",
         [](GgufBuilder &f) { f.array("tokenizer.ggml.token_type", GGUF_I32, std::vector<int32_t>(261, BYTE)); },
         STATUS_INVALID, "tokenizer.ggml.tokens[0] has the type of bytes"},
        {"", [](GgufBuilder &f) { f.u32("tokenizer.ggml.unknown_token_id", 261); }, STATUS_INVALID,
         "tokenizer.ggml.unknown_token_id is 261"},
        {"", [](GgufBuilder &f) { f.u32("tokenizer.ggml.bos_token_id", 261); }, STATUS_INVALID,
         "tokenizer.ggml.bos_token_id is 261"},
        {"", [](GgufBuilder &f) { f.u32("tokenizer.ggml.add_space_prefix", 1); }, STATUS_INVALID,
         "tokenizer.ggml.add_space_prefix"},
        {"", [](GgufBuilder &f) { f.boolean("tokenizer.ggml.remove_extra_whitespaces", true); }, STATUS_UNSUPPORTED,
         "tokenizer.ggml.remove_extra_whitespaces is true"},
        {"", [](GgufBuilder &f) { f.string("tokenizer.ggml.precompiled_charsmap", "x"); }, STATUS_UNSUPPORTED,
         "tokenizer.ggml.precompiled_charsmap"},
    };
    for (const auto &refusal : table) {
        GgufBuilder file = file_of(Pieces({mark, "a"}));
        file.remove(refusal.key);
        if (refusal.spoil) {
            refusal.spoil(file);
        }
        TokenizerPointer tokenizer(nullptr, tokenizer_destroy);
        struct status status = open(file, &tokenizer);
        EXPECT_EQ(status.code, refusal.code) << refusal.named << ": " << status.message;
        EXPECT_NE(strstr(status.message, refusal.named), nullptr) << refusal.named << ": " << status.message;
    }
}

} // namespace
