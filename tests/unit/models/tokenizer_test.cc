// models/tokenizer: merging, cutting, special tokens, detokenizing, and what a vocabulary is refused for.
#include "tests/unit/models/small_vocabulary.h"

#include <gtest/gtest.h>

#include <cstring>
#include <set>

extern "C" {
#include "base/random.h"
}

namespace {

using Strings = std::vector<std::string>;

Ids bytes_of(const std::string &text) {
    Ids ids;
    for (unsigned char byte : text) {
        ids.push_back(byte);
    }
    return ids;
}

// ---- merging ----

TEST(Merging, WithoutMergesEveryByteIsAToken) {
    TokenizerPointer tokenizer = SmallVocabulary().make();
    EXPECT_EQ(encode(tokenizer, ""), Ids());
    EXPECT_EQ(encode(tokenizer, "a b\xc3\xa9\xf0\x9f\x9a\x80"), bytes_of("a b\xc3\xa9\xf0\x9f\x9a\x80"));
    EXPECT_EQ(tokenizer_vocabulary(tokenizer.get()), 256u);
}

TEST(Merging, LowerRanksFirstAndTheLeftmostOfEquals) {
    SmallVocabulary vocabulary;
    vocabulary.merge("a", "a");
    vocabulary.merge("b", "c");
    vocabulary.merge("a", "b"); // "bc" is merged before "ab" can be
    vocabulary.merge("aa", "bc");
    TokenizerPointer tokenizer = vocabulary.make();
    EXPECT_EQ(pieces(tokenizer, "aaa"), (Strings{"aa", "a"}));
    EXPECT_EQ(pieces(tokenizer, "abc"), (Strings{"a", "bc"}));
    EXPECT_EQ(pieces(tokenizer, "ab"), (Strings{"ab"}));
    EXPECT_EQ(pieces(tokenizer, "aabc"), (Strings{"aabc"}));
    EXPECT_EQ(pieces(tokenizer, "aaabc"), (Strings{"aa", "a", "bc"}));
}

// The algorithm as it is defined: find the best pair of all, merge it, begin again.
Ids merged_slowly(const SmallVocabulary &vocabulary, const std::string &text) {
    Strings symbols;
    for (char byte : text) {
        symbols.push_back(spelled(std::string(1, byte)));
    }
    for (;;) {
        size_t best_rank = vocabulary.merges.size(), best = 0;
        for (size_t i = 0; i + 1 < symbols.size(); i++) {
            for (size_t rank = 0; rank < best_rank; rank++) {
                if (vocabulary.merges[rank] == symbols[i] + " " + symbols[i + 1]) {
                    best_rank = rank;
                    best = i;
                }
            }
        }
        if (best_rank == vocabulary.merges.size()) {
            break;
        }
        symbols[best] += symbols[best + 1];
        symbols.erase(symbols.begin() + long(best) + 1);
    }
    Ids ids;
    for (const std::string &symbol : symbols) {
        for (uint32_t id = 0; id < vocabulary.tokens.size(); id++) {
            if (vocabulary.tokens[id] == symbol) {
                ids.push_back(id);
            }
        }
    }
    return ids;
}

TEST(Merging, EqualsTheDefinitionOnRandomMerges) {
    struct random_state random;
    random_seed(&random, 11);
    for (int round = 0; round < 60; round++) {
        SmallVocabulary vocabulary;
        Strings known = {"a", "b", "c"};
        for (int i = 0; i < 30; i++) {
            std::string left = known[random_below(&random, known.size())];
            std::string right = known[random_below(&random, known.size())];
            vocabulary.merge(left, right); // now and then the same one again
            known.push_back(left + right);
        }
        TokenizerPointer tokenizer = vocabulary.make();
        for (int i = 0; i < 10; i++) {
            std::string text;
            for (size_t length = random_below(&random, 60); length > 0; length--) {
                text += char('a' + random_below(&random, 3));
            }
            ASSERT_EQ(encode(tokenizer, text), merged_slowly(vocabulary, text)) << "round " << round << ": " << text;
        }
    }
}

TEST(Merging, ALongRunTakesNoSquareOfItsLength) {
    SmallVocabulary vocabulary;
    for (std::string run = "a"; run.size() < 32; run += run) {
        vocabulary.merge(run, run);
    }
    TokenizerPointer tokenizer = vocabulary.make();
    EXPECT_EQ(encode(tokenizer, std::string(1 << 20, 'a')).size(), (1u << 20) / 32);
}

TEST(Merging, BytesWithoutATokenAreDropped) {
    SmallVocabulary vocabulary;
    vocabulary.tokens[4] = "[4]"; // the byte 0x04 has no token now
    vocabulary.types[4] = 5;
    vocabulary.merge("!", "?");
    TokenizerPointer tokenizer = vocabulary.make();
    EXPECT_EQ(encode(tokenizer, "a\x04z"), bytes_of("az"));
    EXPECT_EQ(encode(tokenizer, "\x04"), Ids());
    EXPECT_EQ(pieces(tokenizer, "!\x04?"), (Strings{"!?"})) << "as if it had never been there";
}

// ---- cutting ----

// A vocabulary in which everything in `text` merges with its neighbour: what is left apart was cut apart.
Strings cuts(const std::string &pre, const std::string &text) {
    SmallVocabulary vocabulary;
    vocabulary.pre = pre;
    std::set<std::string> done;
    for (size_t length = 2; length <= text.size(); length++) {
        for (size_t begin = 0; begin + length <= text.size(); begin++) {
            for (size_t split = 1; split < length; split++) {
                std::string left = text.substr(begin, split), right = text.substr(begin + split, length - split);
                if (done.insert(left + '\xff' + right).second) {
                    vocabulary.merge(left, right);
                }
            }
        }
    }
    return pieces(vocabulary.make(), text);
}

struct Cut {
    const char *text;
    Strings expected;
};

void expect_cuts(const std::string &pre, const std::vector<Cut> &table) {
    for (const Cut &cut : table) {
        EXPECT_EQ(cuts(pre, cut.text), cut.expected) << pre << " on " << cut.text;
    }
}

TEST(Cutting, Gpt2) {
    expect_cuts("gpt-2", {
                             {"I'm we'll", {"I", "'m", " we", "'ll"}},
                             {"I'M", {"I", "'", "M"}},
                             {"a  b", {"a", " ", " b"}},
                             {"a  ", {"a", "  "}},
                             {"x\n\n y", {"x", "\n\n", " y"}},
                             {"12345 67", {"12345", " 67"}},
                             {"a1!?b", {"a", "1", "!?", "b"}},
                             {"\xc3\xa9t\xc3\xa9\xc2\xbd", {"\xc3\xa9t\xc3\xa9", "\xc2\xbd"}},
                             {"a\xe1\xa0\x8e b", {"a", "\xe1\xa0\x8e", " b"}},           // U+180E is no space
                             {"a\xc2\x85\xc2\x85z", {"a", "\xc2\x85", "\xc2\x85", "z"}}, // U+0085 is
                         });
}

TEST(Cutting, SmolLm) {
    expect_cuts("smollm", {
                              {"12345", {"1", "2", "3", "4", "5"}},
                              {"a 1", {"a", " ", "1"}},
                              {"a  1", {"a", "  ", "1"}}, // the run of spaces ends where the digit is split off
                              {"a  b", {"a", " ", " b"}},
                              {"I'm 2", {"I", "'m", " ", "2"}},
                              {"x\n\n3", {"x", "\n\n", "3"}},
                              {"\xc2\xbd\xd9\xa3", {"\xc2\xbd", "\xd9\xa3"}},
                              {"a!! ", {"a", "!!", " "}},
                          });
}

TEST(Cutting, Qwen2) {
    expect_cuts("qwen2", {
                             {"I'M we'Ll", {"I", "'M", " we", "'Ll"}},
                             {"don\xe2\x80\x99t", {"don", "\xe2\x80\x99t"}},
                             {"123", {"1", "2", "3"}},
                             {"(a !!\n\nb", {"(a", " !!\n\n", "b"}},
                             {"a \n  b", {"a", " \n", " ", " b"}},
                             {"a\t\tb", {"a", "\t", "\tb"}},
                         });
}

TEST(Cutting, Llama3) {
    expect_cuts("llama-bpe", {
                                 {"12345678", {"123", "456", "78"}},
                                 {"a 123", {"a", " ", "123"}},
                                 {"'\xc5\xbf's", {"'\xc5\xbf", "'s"}}, // the long s is an s, in any case
                             });
    expect_cuts("llama3", {{"1234", {"123", "4"}}});
}

TEST(Cutting, Tekken) {
    expect_cuts("tekken", {
                              {"helloWorld", {"hello", "World"}},
                              {"HTTPServer x1", {"HTTPServer", " x", "1"}},
                              {"a //\n", {"a", " //\n"}},
                          });
}

TEST(Cutting, OtherNamesOfTheSamePatterns) {
    EXPECT_EQ(cuts("starcoder", "a 12"), cuts("smollm", "a 12"));
    EXPECT_EQ(cuts("refact", "a 12"), cuts("smollm", "a 12"));
    EXPECT_EQ(cuts("deepseek-r1-qwen", "I'M 12"), cuts("qwen2", "I'M 12"));
    EXPECT_EQ(cuts("smaug-bpe", "I'M 1234"), cuts("llama-bpe", "I'M 1234"));
}

TEST(Cutting, SomeFamiliesTakeWholeWordsUnmerged) {
    SmallVocabulary vocabulary;
    uint32_t word = vocabulary.add("word", 1); // no merge leads to it
    vocabulary.merge("w", "o");
    vocabulary.pre = "llama-bpe";
    EXPECT_EQ(encode(vocabulary.make(), "word"), Ids{word});
    EXPECT_EQ(pieces(vocabulary.make(), "words"), (Strings{"wo", "r", "d", "s"}));
    vocabulary.pre = "qwen2";
    EXPECT_EQ(pieces(vocabulary.make(), "word"), (Strings{"wo", "r", "d"}));
}

TEST(Cutting, ALongRunIsNoHarderThanAShortOne) {
    SmallVocabulary vocabulary;
    for (const char *pre : {"gpt-2", "smollm", "qwen2", "llama-bpe", "tekken"}) {
        vocabulary.pre = pre;
        TokenizerPointer tokenizer = vocabulary.make();
        for (const char *run : {" ", "\n", "7", "!", "a", "A", "aB", "\xe6\x97\xa5", "\xcc\x81", "\xf0\x9f\x9a\x80",
                                "'s", " a", "\r\n", "/\n", "\xc2\xbd"}) {
            std::string text;
            while (text.size() < (1 << 16)) {
                text += run;
            }
            EXPECT_EQ(encode(tokenizer, text), bytes_of(text)) << pre << " on " << run;
            text += "x"; // looking ahead past the run
            EXPECT_EQ(encode(tokenizer, text), bytes_of(text)) << pre << " on " << run;
        }
    }
}

// ---- special tokens ----

struct Specials : testing::Test {
    SmallVocabulary vocabulary;
    uint32_t a, ab, user, user_long, spaces;

    Specials() {
        a = vocabulary.control("<a>");
        ab = vocabulary.control("<a><b>");
        user = vocabulary.user_defined("<u>");
        user_long = vocabulary.user_defined("<u><a>!");
        spaces = vocabulary.user_defined("   ");
    }
};

TEST_F(Specials, ControlTokensAreMatchedOnlyWhereAsked) {
    TokenizerPointer tokenizer = vocabulary.make();
    EXPECT_EQ(encode(tokenizer, "x<a>y"), bytes_of("x<a>y"));
    EXPECT_EQ(encode(tokenizer, "x<a>y", TOKENIZE_SPECIAL), (Ids{'x', a, 'y'}));
}

TEST_F(Specials, TheLongestAtTheLeftmostPlaceIsTaken) {
    TokenizerPointer tokenizer = vocabulary.make();
    EXPECT_EQ(encode(tokenizer, "<a><b>", TOKENIZE_SPECIAL), (Ids{ab}));
    EXPECT_EQ(encode(tokenizer, "<a><a><b><a>", TOKENIZE_SPECIAL), (Ids{a, ab, a}));
    EXPECT_EQ(encode(tokenizer, "<u><a>!", TOKENIZE_SPECIAL), (Ids{user_long}));
    EXPECT_EQ(encode(tokenizer, "<u><a>?", TOKENIZE_SPECIAL), (Ids{user, a, '?'}));
    EXPECT_EQ(encode(tokenizer, "<<a", TOKENIZE_SPECIAL), bytes_of("<<a")) << "a spelling that does not end is text";
}

TEST_F(Specials, UserDefinedTokensAreMatchedInEveryText) {
    TokenizerPointer tokenizer = vocabulary.make();
    EXPECT_EQ(encode(tokenizer, "<u><a>!"), (Ids{user_long}));
    EXPECT_EQ(encode(tokenizer, "<u><a>"), (Ids{user, '<', 'a', '>'}));
    EXPECT_EQ(encode(tokenizer, "a    b"), (Ids{'a', spaces, ' ', 'b'}));
}

TEST_F(Specials, TheTextAroundThemIsCutAsIfItStoodAlone) {
    vocabulary.merge(" ", " ");
    TokenizerPointer tokenizer = vocabulary.make();
    EXPECT_EQ(pieces(tokenizer, "x  y"), (Strings{"x", " ", " ", "y"}));
    EXPECT_EQ(pieces(tokenizer, "x  <a>y", TOKENIZE_SPECIAL), (Strings{"x", "  ", "<a>", "y"}));
}

TEST_F(Specials, InTheContentOfAPromptTheyStayText) {
    TokenizerPointer tokenizer = vocabulary.make();
    //                  0123456789012345
    std::string text = "<a>hi<a>ho<a><b>";
    auto prompt = [&](std::vector<struct text_span> content) {
        struct token_list list = {};
        struct status status = tokenizer_encode_prompt(tokenizer.get(), text.data(), text.size(), content.data(),
                                                       content.size(), TOKENIZE_SPECIAL, SIZE_MAX, &list);
        EXPECT_EQ(status.code, STATUS_OK) << status.message;
        Ids ids(list.ids, list.ids + list.count);
        token_list_free(&list);
        return ids;
    };
    auto joined = [](std::initializer_list<Ids> parts) {
        Ids all;
        for (const Ids &part : parts) {
            all.insert(all.end(), part.begin(), part.end());
        }
        return all;
    };
    Ids text_a = encode(tokenizer, "hi<a>ho");
    EXPECT_EQ(prompt({}), joined({{a}, {'h', 'i'}, {a}, {'h', 'o'}, {ab}}));
    EXPECT_EQ(prompt({{3, 10}}), joined({{a}, text_a, {ab}}));
    EXPECT_EQ(prompt({{7, 8}}), joined({{a}, text_a, {ab}})) << "one byte of a content is enough";
    EXPECT_EQ(prompt({{3, 5}, {8, 10}}), joined({{a}, {'h', 'i'}, {a}, {'h', 'o'}, {ab}}));
    EXPECT_EQ(prompt({{14, 16}}), joined({{a}, {'h', 'i'}, {a}, {'h', 'o'}, {a}, encode(tokenizer, "<b>")}));
    EXPECT_EQ(prompt({{0, 16}}), encode(tokenizer, text));
}

TEST_F(Specials, HundredsOfThemShareTheirBeginnings) {
    Ids reserved;
    for (int i = 0; i < 600; i++) {
        reserved.push_back(vocabulary.control("<|reserved_" + std::to_string(i) + "|>"));
    }
    TokenizerPointer tokenizer = vocabulary.make();
    for (int i = 0; i < 600; i++) {
        std::string text = "<|reserved_" + std::to_string(i) + "|>";
        ASSERT_EQ(encode(tokenizer, text, TOKENIZE_SPECIAL), Ids{reserved[size_t(i)]});
        ASSERT_EQ(tokenizer_find(tokenizer.get(), text.data(), text.size()), reserved[size_t(i)]);
    }
    std::string prefixes;
    while (prefixes.size() < (1 << 18)) {
        prefixes += "<|reserved_5";
    }
    EXPECT_EQ(decode(tokenizer, encode(tokenizer, prefixes, TOKENIZE_SPECIAL)), prefixes);
}

TEST_F(Specials, BosIsWrittenIfTheModelWantsIt) {
    vocabulary.bos = a;
    EXPECT_EQ(encode(vocabulary.make(), "x", TOKENIZE_BOS), (Ids{'x'}));
    vocabulary.add_bos = true;
    TokenizerPointer tokenizer = vocabulary.make();
    EXPECT_EQ(encode(tokenizer, "x", TOKENIZE_BOS), (Ids{a, 'x'}));
    EXPECT_EQ(encode(tokenizer, "x"), (Ids{'x'}));
    EXPECT_TRUE(tokenizer_adds_bos(tokenizer.get()));
    EXPECT_EQ(tokenizer_bos(tokenizer.get()), a);
}

TEST_F(Specials, SomeEndAGeneration) {
    Ids ends;
    for (const char *text : {"<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<end_of_turn>", "</s>", "<|endoftext|>"}) {
        ends.push_back(vocabulary.control(text));
    }
    vocabulary.eos = ab;
    TokenizerPointer tokenizer = vocabulary.make();
    for (uint32_t end : ends) {
        EXPECT_TRUE(tokenizer_is_end(tokenizer.get(), end));
    }
    EXPECT_TRUE(tokenizer_is_end(tokenizer.get(), ab));
    EXPECT_FALSE(tokenizer_is_end(tokenizer.get(), a));
    EXPECT_FALSE(tokenizer_is_end(tokenizer.get(), 'a'));
    EXPECT_FALSE(tokenizer_is_end(tokenizer.get(), TOKEN_NONE));
    SmallVocabulary tags;
    uint32_t tag = tags.user_defined("</s>"); // an HTML tag, not an end
    EXPECT_FALSE(tokenizer_is_end(tags.make().get(), tag));
}

// ---- what a tokenizer says of its tokens ----

TEST_F(Specials, BytesOfATokenHideControlTokensUnlessAsked) {
    uint32_t unused = vocabulary.add("[PAD]", 5);
    uint32_t raw = vocabulary.add("\xe6\x97\xa5", 1); // spelled plainly although it is a normal token
    TokenizerPointer tokenizer = vocabulary.make();
    auto shown = [&](uint32_t token, bool special) {
        struct gguf_string bytes = tokenizer_bytes(tokenizer.get(), token, special);
        return std::string(bytes.data, bytes.bytes);
    };
    EXPECT_EQ(shown(a, false), "");
    EXPECT_EQ(shown(a, true), "<a>");
    EXPECT_EQ(shown(user, false), "<u>");
    EXPECT_EQ(shown(unused, false), "");
    EXPECT_EQ(shown(' ', false), " ");
    EXPECT_EQ(shown(0xe6, false), "\xe6");
    EXPECT_EQ(shown(raw, false), "\xe6\x97\xa5");
    EXPECT_EQ(shown(100000, true), "");
    EXPECT_EQ(shown(TOKEN_NONE, true), "");
}

TEST_F(Specials, FindKnowsTokensByTheirText) {
    uint32_t the = vocabulary.merge(" ", "the");
    vocabulary.tokens.push_back("the");
    vocabulary.types.push_back(1);
    TokenizerPointer tokenizer = vocabulary.make();
    auto find = [&](const std::string &text) { return tokenizer_find(tokenizer.get(), text.data(), text.size()); };
    EXPECT_EQ(find("<a><b>"), ab);
    EXPECT_EQ(find(" the"), the);
    EXPECT_EQ(find("\n"), 10u);
    EXPECT_EQ(find("<a><"), TOKEN_NONE);
    EXPECT_EQ(find("nothing"), TOKEN_NONE);
    EXPECT_EQ(find(""), TOKEN_NONE);
}

// ---- refusals ----

TEST(Encoding, RefusesWhatIsNotUtf8AndLeavesTheList) {
    TokenizerPointer tokenizer = SmallVocabulary().make();
    struct token_list list = {};
    ASSERT_EQ(tokenizer_encode(tokenizer.get(), "ab", 2, 0, 100, &list).code, STATUS_OK);
    for (const char *bad : {"\xff", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "a\xe2\x82"}) {
        EXPECT_EQ(tokenizer_encode(tokenizer.get(), bad, strlen(bad), 0, 100, &list).code, STATUS_INVALID);
        EXPECT_EQ(list.count, 2u);
    }
    token_list_free(&list);
}

TEST(Encoding, StopsAtTheLimitAndLeavesTheList) {
    TokenizerPointer tokenizer = SmallVocabulary().make();
    struct token_list list = {};
    EXPECT_EQ(tokenizer_encode(tokenizer.get(), "abcde", 5, 0, 5, &list).code, STATUS_OK);
    struct status status = tokenizer_encode(tokenizer.get(), "f", 1, 0, 5, &list);
    EXPECT_EQ(status.code, STATUS_NO_MEMORY);
    EXPECT_NE(strstr(status.message, "5"), nullptr) << status.message;
    EXPECT_EQ(Ids(list.ids, list.ids + list.count), bytes_of("abcde"));
    token_list_free(&list);
}

struct Refusal {
    const char *what;
    void (*spoil)(SmallVocabulary &);
    enum status_code code;
    const char *named; // what the message has to say
};

TEST(Vocabulary, IsRefusedWithTheFieldsName) {
    const Refusal table[] = {
        {"no tokens", [](SmallVocabulary &v) { v.tokens.clear(); }, STATUS_INVALID, "tokenizer.ggml.tokens"},
        {"a token twice", [](SmallVocabulary &v) { v.add("a", 1); }, STATUS_INVALID, "tokenizer.ggml.tokens[256]"},
        {"no letter e", [](SmallVocabulary &v) { v.tokens['e'] = "[e]"; }, STATUS_INVALID, "byte 0x65"},
        {"a byte token", [](SmallVocabulary &v) { v.types[7] = 6; }, STATUS_INVALID, "token_type[7] is 6"},
        {"a type of 0", [](SmallVocabulary &v) { v.types[8] = 0; }, STATUS_INVALID, "token_type[8] is 0"},
        {"a negative type", [](SmallVocabulary &v) { v.types[9] = -1; }, STATUS_INVALID, "token_type[9] is -1"},
        {"bos past the end", [](SmallVocabulary &v) { v.bos = 256; }, STATUS_INVALID, "bos_token_id is 256"},
        {"eos past the end", [](SmallVocabulary &v) { v.eos = 999; }, STATUS_INVALID, "eos_token_id is 999"},
        {"no bos to add", [](SmallVocabulary &v) { v.add_bos = true; }, STATUS_INVALID, "add_bos_token"},
        {"a merge of one", [](SmallVocabulary &v) { v.merges = {"ab"}; }, STATUS_INVALID, "merges[0]"},
        {"a merge with nothing", [](SmallVocabulary &v) { v.merges = {"a "}; }, STATUS_INVALID, "merges[0]"},
        {"a merge of nothing", [](SmallVocabulary &v) { v.merges = {" a"}; }, STATUS_INVALID, "merges[0]"},
        {"an empty merge", [](SmallVocabulary &v) { v.merges = {""}; }, STATUS_INVALID, "merges[0]"},
        {"three in a merge", [](SmallVocabulary &v) { v.merges = {"a b c"}; }, STATUS_INVALID, "merges[0]"},
        {"a merge of no token", [](SmallVocabulary &v) { v.merges = {"a bb"}; }, STATUS_INVALID, "is no token"},
        {"a merge to no token",
         [](SmallVocabulary &v) {
             v.merge("a", "b");
             v.merges.push_back("a c");
         },
         STATUS_INVALID, "merges[1] gives"},
        {"an unknown pattern", [](SmallVocabulary &v) { v.pre = "gpt-9"; }, STATUS_UNSUPPORTED, "gpt-9"},
        {"an unknown pattern, told what is built", [](SmallVocabulary &v) { v.pre = "default"; }, STATUS_UNSUPPORTED,
         "smollm, starcoder"},
    };
    for (const Refusal &refusal : table) {
        SmallVocabulary vocabulary;
        refusal.spoil(vocabulary);
        TokenizerPointer tokenizer(nullptr, tokenizer_destroy);
        struct status status = vocabulary.make(&tokenizer);
        EXPECT_EQ(status.code, refusal.code) << refusal.what;
        EXPECT_NE(strstr(status.message, refusal.named), nullptr) << refusal.what << ": " << status.message;
    }
}

TEST(Vocabulary, TakesWhatRealFilesHave) {
    SmallVocabulary vocabulary;
    vocabulary.add("", 5); // padding without a name, more than once
    vocabulary.add("", 1);
    vocabulary.add("<unk>", 2);
    vocabulary.merge("a", "b");
    vocabulary.merge("a", "b"); // the second can never be applied
    TokenizerPointer tokenizer = vocabulary.make();
    EXPECT_EQ(pieces(tokenizer, "ab"), (Strings{"ab"}));
    EXPECT_EQ(encode(tokenizer, "<unk>", TOKENIZE_SPECIAL), Ids{258});
    vocabulary.types.clear();
    EXPECT_EQ(encode(vocabulary.make(), "<unk>", TOKENIZE_SPECIAL), bytes_of("<unk>")) << "no types: all are normal";
}

// ---- Unicode's form C ----

TEST(Composing, IsWhatSomeFamiliesDoFirst) {
    for (const char *pre : {"qwen2", "deepseek-r1-qwen", "olmo", "mpt", "command-r"}) {
        SmallVocabulary vocabulary;
        vocabulary.pre = pre;
        TokenizerPointer tokenizer = vocabulary.make();
        EXPECT_EQ(encode(tokenizer, "xe\xcc\x81"), encode(tokenizer, "x\xc3\xa9")) << pre;
    }
    for (const char *pre : {"gpt-2", "smollm", "llama-bpe", "tekken"}) {
        SmallVocabulary vocabulary;
        vocabulary.pre = pre;
        EXPECT_EQ(decode(vocabulary.make(), encode(vocabulary.make(), "xe\xcc\x81")), "xe\xcc\x81") << pre;
    }
}

// ---- there and back ----

TEST(RoundTrip, DecodingGivesBackWhatWasEncoded) {
    struct random_state random;
    random_seed(&random, 5);
    SmallVocabulary vocabulary;
    for (const char *pair : {" t", "he", "in", "\xc3\xa9", "  ", "\n\n", "00", "\xe4\xb8"}) {
        vocabulary.merge(std::string(1, pair[0]), std::string(1, pair[1]));
    }
    vocabulary.control("<|im_start|>");
    for (const char *pre : {"gpt-2", "smollm", "stablelm2", "llama-bpe", "tekken"}) {
        vocabulary.pre = pre;
        TokenizerPointer tokenizer = vocabulary.make();
        for (int i = 0; i < 1000; i++) {
            std::string text = random_text(&random, random_below(&random, 200));
            ASSERT_EQ(decode(tokenizer, encode(tokenizer, text, i % 2 ? TOKENIZE_SPECIAL : 0)), text);
        }
    }
}

} // namespace
