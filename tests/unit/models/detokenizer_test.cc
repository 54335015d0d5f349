// models/tokenizer: from tokens to text, piece by piece, never half a character.
#include "tests/unit/models/small_vocabulary.h"

#include <gtest/gtest.h>

namespace {

struct Stream {
    TokenizerPointer tokenizer;
    struct detokenizer state;
    std::vector<char> buffer;

    explicit Stream(const SmallVocabulary &vocabulary, bool special = false) : tokenizer(vocabulary.make()) {
        detokenizer_init(&state, tokenizer.get(), special);
        buffer.resize(detokenizer_bound(tokenizer.get()));
    }
    std::string push(uint32_t token) {
        return std::string(buffer.data(), detokenizer_push(&state, token, buffer.data(), buffer.size()));
    }
    std::string flush() {
        return std::string(buffer.data(), detokenizer_flush(&state, buffer.data(), buffer.size()));
    }
};

TEST(Detokenizer, HoldsACharacterUntilItIsWhole) {
    Stream stream{SmallVocabulary()};
    EXPECT_EQ(stream.push('a'), "a");
    EXPECT_EQ(stream.push(0xf0), "");
    EXPECT_EQ(stream.push(0x9f), "");
    EXPECT_EQ(stream.push(0x9a), "");
    EXPECT_EQ(stream.push(0x80), "\xf0\x9f\x9a\x80");
    EXPECT_EQ(stream.push('b'), "b");
    EXPECT_EQ(stream.flush(), "");
}

TEST(Detokenizer, ShowsBytesThatCanNeverBecomeValid) {
    const std::string bad = "\xef\xbf\xbd";
    Stream stream{SmallVocabulary()};
    EXPECT_EQ(stream.push(0xff), bad);
    EXPECT_EQ(stream.push(0x80), bad);
    EXPECT_EQ(stream.push(0xe2), "");
    EXPECT_EQ(stream.push('x'), bad + "x") << "the character was broken off";
    EXPECT_EQ(stream.push(0xe0), "");
    EXPECT_EQ(stream.push(0x80), bad + bad) << "an overlong form";
    EXPECT_EQ(stream.push(0xf0), "");
    EXPECT_EQ(stream.push(0x9f), "");
    EXPECT_EQ(stream.push(0xc3), bad + bad) << "another character begins inside one";
    EXPECT_EQ(stream.push(0xa9), "\xc3\xa9");
    EXPECT_EQ(stream.push(0xf0), "");
    EXPECT_EQ(stream.push(0x9f), "");
    EXPECT_EQ(stream.flush(), bad + bad);
    EXPECT_EQ(stream.flush(), "");
}

TEST(Detokenizer, HidesOrShowsControlTokens) {
    SmallVocabulary vocabulary;
    uint32_t end = vocabulary.control("<|im_end|>");
    Stream hidden(vocabulary), shown(vocabulary, true);
    EXPECT_EQ(hidden.push(0xc3), "");
    EXPECT_EQ(hidden.push(end), "") << "it neither shows nor ends the character that is held";
    EXPECT_EQ(hidden.push(0xa9), "\xc3\xa9");
    EXPECT_EQ(shown.push(end), "<|im_end|>");
    EXPECT_EQ(shown.push(100000), "");
}

// Any sequence of bytes, however it is split into tokens, comes out as utf8_sanitize() gives it whole.
TEST(Detokenizer, EqualsSanitizingTheWholeOnRandomBytes) {
    struct random_state random;
    random_seed(&random, 3);
    static const unsigned char bytes[] = {'a',  0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc2,
                                          0xdf, 0xe0, 0xe1, 0xed, 0xef, 0xf0, 0xf1, 0xf4, 0xf5, 0xff};
    SmallVocabulary vocabulary;
    for (int i = 0; i < 400; i++) {
        std::string token;
        for (size_t length = 2 + random_below(&random, 6); length > 0; length--) {
            token += char(bytes[random_below(&random, sizeof bytes)]);
        }
        bool there = false;
        for (const std::string &other : vocabulary.tokens) {
            there |= other == spelled(token);
        }
        if (!there) {
            vocabulary.add(spelled(token), 1);
        }
    }
    Stream stream(vocabulary);
    for (int round = 0; round < 2000; round++) {
        std::string whole, shown;
        for (size_t count = random_below(&random, 12); count > 0; count--) {
            uint32_t token = random_below(&random, 2) ? bytes[random_below(&random, sizeof bytes)]
                                                      : uint32_t(random_below(&random, vocabulary.tokens.size()));
            whole += text_of(stream.tokenizer, token);
            std::string piece = stream.push(token);
            ASSERT_TRUE(utf8_valid(piece.data(), piece.size()));
            shown += piece;
        }
        shown += stream.flush();
        std::string expected(whole.size() * 3, '\0');
        expected.resize(utf8_sanitize(whole.data(), whole.size(), &expected[0]));
        ASSERT_EQ(shown, expected) << "round " << round;
    }
}

TEST(Detokenizer, StreamsBackWhatWasEncoded) {
    struct random_state random;
    random_seed(&random, 9);
    Stream stream{SmallVocabulary()};
    for (int i = 0; i < 500; i++) {
        std::string text = random_text(&random, random_below(&random, 60)), shown;
        for (uint32_t token : encode(stream.tokenizer, text)) {
            shown += stream.push(token);
        }
        ASSERT_EQ(shown + stream.flush(), text);
    }
}

} // namespace
