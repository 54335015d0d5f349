// models/tokenizer from a tokenizer.json: what its components do to a text, and what is refused by name.
// tests/tools/tokenizer_compare.py compares with the library itself.
#include "tests/unit/models/tokenizer_json.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstring>

namespace {

using Strings = std::vector<std::string>;

const std::string mark = "\xe2\x96\x81"; // U+2581

// The pre-tokens, seen by a vocabulary in which every pair of bytes merges: "[" to "]" never do.
Strings cuts(const std::string &pre, const std::string &text) {
    Json json = Json::bytes();
    json.pre = "{\"type\":\"Sequence\",\"pretokenizers\":[" + pre +
               R"(,{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}]})";
    json.model = "\"ignore_merges\":true,"; // a pre-token that is a token comes out whole
    for (size_t begin = 0; begin < text.size(); begin++) {
        for (size_t end = begin + 2; end <= text.size(); end++) {
            std::string part = spelled(text.substr(begin, end - begin));
            if (std::find(json.vocabulary.begin(), json.vocabulary.end(), part) == json.vocabulary.end()) {
                json.vocabulary.push_back(part);
            }
        }
    }
    TokenizerPointer tokenizer = json.make();
    return pieces(tokenizer, text);
}

// ---- the model ----

TEST(Model, MergesAreStringsOrPairs) {
    for (std::string merges : {R"(["a b","ab c"])", R"([["a","b"],["ab","c"]])"}) {
        Json json = Json::bytes();
        json.vocabulary.insert(json.vocabulary.end(), {"ab", "abc"});
        json.merges = merges;
        EXPECT_EQ(json.spellings("xabcab"), (Strings{"x", "abc", "ab"}));
    }
}

TEST(Model, AMergeMayHaveSpacesInAPair) {
    Json json;
    json.vocabulary = {"a", " ", "a ", "a  "};
    json.merges = R"([["a"," "],["a "," "]])";
    EXPECT_EQ(json.spellings("a  a"), (Strings{"a  ", "a"}));
}

TEST(Model, UnknownCharacters) {
    Json json;
    json.vocabulary = {"<unk>", "a", "<0xC3>", "<0xA9>"};
    EXPECT_EQ(json.spellings("xax"), (Strings{"a"})) << "are dropped where there is nothing to stand for them";
    json.model = R"("unk_token":"<unk>",)";
    EXPECT_EQ(json.spellings("xxa\xc3\xa9x"), (Strings{"<unk>", "<unk>", "a", "<unk>", "<unk>"}));
    json.model += R"("fuse_unk":true,)";
    EXPECT_EQ(json.spellings("xxa\xc3\xa9x"), (Strings{"<unk>", "a", "<unk>"}));
    json.model += R"("byte_fallback":true,)";
    EXPECT_EQ(json.spellings("a\xc3\xa9x"), (Strings{"a", "<0xC3>", "<0xA9>", "<unk>"}));
    json.decoder = R"({"type":"Sequence","decoders":[{"type":"ByteFallback"},{"type":"Fuse"}]})";
    EXPECT_EQ(whole(json.make(), {1, 2, 3}), "a\xc3\xa9");
}

TEST(Model, WholeWordsAreNotMerged) {
    Json json = Json::bytes();
    json.vocabulary.push_back("abc");
    EXPECT_EQ(json.spellings("abc"), (Strings{"a", "b", "c"}));
    json.model = R"("ignore_merges":true,)";
    EXPECT_EQ(json.spellings("abc"), (Strings{"abc"}));
}

TEST(Model, NoTextMergesIntoAControlToken) {
    Json json = Json::bytes();
    json.vocabulary.push_back("<s>");
    json.vocabulary.push_back("s>");
    json.merges = R"(["s >","< s>"])";
    EXPECT_EQ(json.spellings("<s>"), (Strings{"<", "s", ">"})) << "the pattern cuts letters from signs";
    json.added = "[" + added(256, "<s>", "special") + "]";
    EXPECT_EQ(encode(json.make(), "<s>", TOKENIZE_SPECIAL), Ids{256});
    json.pre = R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":false})";
    EXPECT_EQ(json.spellings("<s>"), (Strings{"<", "s>"}));
}

// ---- normalizers ----

TEST(Normalizer, ComposesAsUnicodeSays) {
    Json json = Json::bytes();
    json.normalizer = R"({"type":"NFC"})";
    TokenizerPointer tokenizer = json.make();
    const char *const table[][2] = {
        {"plain", "plain"},
        {"e\xcc\x81", "\xc3\xa9"},                                // e, acute
        {"xe\xcc\x81\xcc\xa3y", "x\xe1\xba\xb9\xcc\x81y"},        // the dot below comes first
        {"\xe1\x84\x92\xe1\x85\xa1\xe1\x86\xab", "\xed\x95\x9c"}, // a Hangul syllable
        {"\xed\x95\x98\xe1\x86\xab", "\xed\x95\x9c"},             // a syllable and its last
        {"\xe2\x84\xab", "\xc3\x85"},                             // the sign of Angstrom
        {"\xe0\xa5\x98", "\xe0\xa4\x95\xe0\xa4\xbc"},             // excluded from composition
        {"\xe6\x97\xa5 \xf0\x9f\x9a\x80 \xd0\xb9", "\xe6\x97\xa5 \xf0\x9f\x9a\x80 \xd0\xb9"}, // stays
        {"\xcc\x81", "\xcc\x81"},
    };
    for (const auto &row : table) {
        EXPECT_EQ(decode(tokenizer, encode(tokenizer, row[0])), row[1]);
    }
}

TEST(Normalizer, ARunOfMarksTakesNoLongerThanItsLength) {
    Json json = Json::bytes();
    json.normalizer = R"({"type":"NFC"})";
    TokenizerPointer tokenizer = json.make();
    std::string text = "a";
    for (int i = 0; i < 100000; i++) {
        text += i % 2 ? "\xcc\xa3" : "\xcc\x81"; // below, above: half of them must move
    }
    auto begin = std::chrono::steady_clock::now();
    std::string composed = decode(tokenizer, encode(tokenizer, text));
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
    EXPECT_EQ(composed.size(), text.size() - 3 + 3 - 1 + 1 - 0)
        << "a with its dot is one character of 3 bytes, was 1 + 2";
    EXPECT_EQ(composed.substr(0, 5), "\xe1\xba\xa1\xcc\xa3");
    EXPECT_EQ(composed.substr(composed.size() - 2), "\xcc\x81");
}

TEST(Normalizer, PrependsAndReplaces) {
    Json json;
    json.vocabulary = {"a", mark, mark + "a"};
    json.merges = "[" + quoted(mark + " a") + "]";
    json.normalizer = R"({"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},)"
                      R"({"type":"Replace","pattern":{"String":" "},"content":"▁"}]})";
    json.decoder = R"({"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},)"
                   R"({"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]})";
    EXPECT_EQ(json.spellings("a a"), (Strings{mark + "a", mark + "a"}));
    EXPECT_EQ(json.spellings(""), Strings{});
    EXPECT_EQ(whole(json.make(), encode(json.make(), " a")), " a");
}

TEST(Normalizer, ATextMayNotGrowWithoutEnd) {
    Json json = Json::bytes();
    json.normalizer = R"({"type":"Replace","pattern":{"String":"a"},"content":")" + std::string(100, 'a') + "\"}";
    TokenizerPointer tokenizer = json.make();
    EXPECT_EQ(encode(tokenizer, "a").size(), 100u);
    try {
        encode(tokenizer, std::string(1000, 'a'));
        FAIL();
    } catch (const std::runtime_error &refused) {
        EXPECT_NE(strstr(refused.what(), "grows to more than 16 times"), nullptr) << refused.what();
    }
}

// ---- pre-tokenizers ----

std::string split(const std::string &pattern, const std::string &behavior, bool invert = false) {
    return "{\"type\":\"Split\",\"pattern\":" + pattern + ",\"behavior\":\"" + behavior +
           "\",\"invert\":" + (invert ? "true}" : "false}");
}

TEST(PreTokenizer, SplitDoesWhatItsBehaviorSays) {
    const std::string dash = R"({"String":"-"})";
    EXPECT_EQ(cuts(split(dash, "Isolated"), "ab--cd-"), (Strings{"ab", "-", "-", "cd", "-"}));
    EXPECT_EQ(cuts(split(dash, "Removed"), "ab--cd-"), (Strings{"ab", "cd"}));
    EXPECT_EQ(cuts(split(dash, "MergedWithPrevious"), "ab--cd-"), (Strings{"ab-", "-", "cd-"}));
    EXPECT_EQ(cuts(split(dash, "MergedWithNext"), "ab--cd-"), (Strings{"ab", "-", "-cd", "-"}));
    EXPECT_EQ(cuts(split(dash, "Contiguous"), "ab--cd-"), (Strings{"ab", "--", "cd", "-"}));
    EXPECT_EQ(cuts(split(dash, "Removed", true), "ab--cd-"), (Strings{"-", "-", "-"}));
    EXPECT_EQ(cuts(split(R"({"String":"."})", "Isolated"), "a.b"), (Strings{"a", ".", "b"}))
        << "a string is no pattern";
}

TEST(PreTokenizer, PatternsMeanWhatOnigurumaReads) {
    EXPECT_EQ(cuts(split(R"({"Regex":"\\p{L}+|\\p{N}"})", "Isolated"), "ab12"), (Strings{"ab", "1", "2"}));
    EXPECT_EQ(cuts(split(R"({"Regex":"\\s+$"})", "Isolated"), "a \nb "), (Strings{"a", " ", "\nb", " "}))
        << "$ is the end of a line";
    EXPECT_EQ(cuts(split(R"({"Regex":"[\\s]"})", "Isolated"), "\xe1\xa0\x8e\xc2\x85"
                                                              "a"),
              (Strings{"\xe1\xa0\x8e", "\xc2\x85", "a"}))
        << "U+180E is no space";
    EXPECT_EQ(cuts(split(R"({"Regex":"\\u0061+"})", "Isolated"), "aab"), (Strings{"aa", "b"}));
    EXPECT_EQ(cuts(split(R"({"Regex":"x*"})", "Isolated"), "axxb"), (Strings{"a", "xx", "b"}))
        << "empty matches cut nothing";
    EXPECT_EQ(cuts(split(R"({"Regex":"[]a]"})", "Isolated"), "b]a"), (Strings{"b", "]", "a"}));
}

TEST(PreTokenizer, StepsFollowOneAnother) {
    EXPECT_EQ(
        cuts(R"({"type":"Digits","individual_digits":true},)" + split(R"({"String":"-"})", "MergedWithNext"), "a12-b"),
        (Strings{"a", "1", "2", "-b"}));
    EXPECT_EQ(cuts(R"({"type":"Digits","individual_digits":false})", "a12b"), (Strings{"a", "12", "b"}));
}

TEST(PreTokenizer, ByteLevelMayPutASpaceBefore) {
    Json json = Json::bytes();
    json.pre = R"({"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true})";
    EXPECT_EQ(decode(json.make(), encode(json.make(), "a")), " a");
    EXPECT_EQ(decode(json.make(), encode(json.make(), " a")), " a");
}

TEST(PreTokenizer, MetaspaceMarksSpaces) {
    Json json;
    json.vocabulary = {"a", mark, mark + "a", "<s>"};
    json.merges = "[[" + quoted(mark) + ",\"a\"]]";
    json.added = "[" + added(3, "<s>", "special") + "]";
    const struct {
        std::string scheme, text;
        Strings spellings;
    } table[] = {
        {"always", "a a", {mark + "a", mark + "a"}},  {"always", " a", {mark + "a"}},
        {"first", "a<s>a", {mark + "a", "<s>", "a"}}, {"always", "a<s>a", {mark + "a", "<s>", mark + "a"}},
        {"never", "a a", {"a", mark + "a"}},
    };
    for (const auto &row : table) {
        std::string metaspace =
            R"({"type":"Metaspace","replacement":"▁","prepend_scheme":")" + row.scheme + "\",\"split\":true}";
        json.pre = metaspace;
        json.decoder = metaspace;
        EXPECT_EQ(json.spellings(row.text, TOKENIZE_SPECIAL), row.spellings) << row.scheme << ": " << row.text;
    }
    json.pre = json.decoder = R"({"type":"Metaspace","replacement":"▁","add_prefix_space":true})";
    EXPECT_EQ(json.spellings("a"), (Strings{mark + "a"})) << "older files";
    EXPECT_EQ(whole(json.make(), encode(json.make(), "a a")), "a a");
}

// ---- added tokens ----

TEST(Added, TakeSpacesAndStandAlone) {
    Json json = Json::bytes();
    json.added = "[" + added(256, "<l>", "special lstrip") + "," + added(257, "<r>", "special rstrip") + "," +
                 added(258, "cat", "single_word") + "," + added(259, "<u>") + "]";
    TokenizerPointer tokenizer = json.make();
    EXPECT_EQ(encode(tokenizer, "a  <l> b", TOKENIZE_SPECIAL), (Ids{'a', 256, ' ', 'b'}));
    EXPECT_EQ(encode(tokenizer, "a <r>\t\n b", TOKENIZE_SPECIAL), (Ids{'a', ' ', 257, 'b'}));
    EXPECT_EQ(encode(tokenizer, "cat cats xcat cat."),
              (Ids{258, ' ', 'c', 'a', 't', 's', ' ', 'x', 'c', 'a', 't', ' ', 258, '.'}));
    EXPECT_EQ(encode(tokenizer, "<u><l>"), (Ids{259, '<', 'l', '>'})) << "only control tokens need a template";
    EXPECT_EQ(tokenizer_find(tokenizer.get(), "<r>", 3), 257u);
    EXPECT_EQ(text_of(tokenizer, 258), "cat");
}

TEST(Added, NormalizedOnesAreFoundInTheNormalizedText) {
    Json json = Json::bytes();
    json.normalizer = R"({"type":"NFC"})";
    json.added = "[" + added(256, "\xc3\xa9t\xc3\xa9", "normalized") + "," + added(257, "e\xcc\x81x") + "]";
    TokenizerPointer tokenizer = json.make();
    EXPECT_EQ(encode(tokenizer, "e\xcc\x81te\xcc\x81"), Ids{256});
    EXPECT_EQ(encode(tokenizer, "e\xcc\x81x"), Ids{257});
    EXPECT_EQ(encode(tokenizer, "\xc3\xa9x"), (Ids{0xc3, 0xa9, 'x'}));
    EXPECT_EQ(tokenizer_find(tokenizer.get(), "\xc3\xa9t\xc3\xa9", 5), 256u);
}

// What users wrote spells no control token, whatever normalizing does to the places of bytes.
TEST(Added, NormalizedControlTokensKeepOutOfContent) {
    Json json = Json::bytes();
    json.normalizer = R"({"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"__"},{"type":"NFC"},)"
                      R"({"type":"Replace","pattern":{"String":"e"},"content":"EEEE"}]})";
    json.added = "[" + added(256, "__", "") + "," + added(257, "<\xc3\xa9>", "normalized special") + "]";
    TokenizerPointer tokenizer = json.make();
    // The content of a normalized token is normalized, too: it begins with the two signs.
    auto ids = [&](const std::string &text, size_t begin, size_t end) {
        struct token_list list = {};
        struct text_span span = {begin, end};
        EXPECT_EQ(tokenizer_encode_prompt(tokenizer.get(), text.data(), text.size(), &span, end > begin,
                                          TOKENIZE_SPECIAL, SIZE_MAX, &list)
                      .code,
                  STATUS_OK);
        Ids result(list.ids, list.ids + list.count);
        token_list_free(&list);
        return std::count(result.begin(), result.end(), 257u);
    };
    const std::string token = "<e\xcc\x81>"; // 5 bytes that become 4
    EXPECT_EQ(ids(token + "x", 0, 0), 1);
    EXPECT_EQ(ids(token + "x", 5, 6), 1) << "the content begins behind it";
    EXPECT_EQ(ids(token + "x", 4, 6), 0) << "its last byte is the user's";
    EXPECT_EQ(ids(token + "x", 2, 3), 0);
    EXPECT_EQ(ids(token + "x", 0, 6), 0);
}

// ---- refusals ----

struct Refusal {
    const char *what;
    void (*spoil)(Json &);
    enum status_code code;
    const char *named;
};

TEST(Refused, WithTheComponentAndTheField) {
    const Refusal table[] = {
        {"a model", [](Json &j) { j.type = "Unigram"; }, STATUS_UNSUPPORTED,
         "model: type is \"Unigram\"; built is BPE"},
        {"a field twice", [](Json &j) { j.model = R"("fuse_unk":true,"fuse_unk":false,)"; }, STATUS_INVALID,
         "model: the field \"fuse_unk\" is there twice"},
        {"a prefix", [](Json &j) { j.model = R"("continuing_subword_prefix":"##",)"; }, STATUS_UNSUPPORTED,
         "model: continuing_subword_prefix is not built"},
        {"dropout", [](Json &j) { j.model = R"("dropout":0.1,)"; }, STATUS_UNSUPPORTED, "model: dropout"},
        {"a field", [](Json &j) { j.model = R"("surprise":1,)"; }, STATUS_UNSUPPORTED,
         "model: the field \"surprise\" is not built"},
        {"a flag", [](Json &j) { j.model = R"("fuse_unk":1,)"; }, STATUS_INVALID, "model: fuse_unk: expected true or"},
        {"unknown", [](Json &j) { j.model = R"("unk_token":"<unk>",)"; }, STATUS_INVALID,
         "model: unk_token \"<unk>\" is not in vocab"},
        {"bytes", [](Json &j) { j.model = R"("byte_fallback":true,)"; }, STATUS_UNSUPPORTED, "model: byte_fallback"},
        {"merges", [](Json &j) { j.merges = "{}"; }, STATUS_INVALID, "model: merges: expected an array"},
        {"a merge", [](Json &j) { j.merges = R"(["a b c"])"; }, STATUS_INVALID, "model: merges[0] is not two tokens"},
        {"a merge", [](Json &j) { j.merges = R"([["a","b","c"]])"; }, STATUS_INVALID, "model: merges[0]"},
        {"a merge", [](Json &j) { j.merges = R"([["a",1]])"; }, STATUS_INVALID, "model: merges[0]"},
        {"a merge", [](Json &j) { j.merges = R"(["a b"])"; }, STATUS_INVALID,
         "model: merges[0] gives what is no token"},
        {"a merge", [](Json &j) { j.merges = R"(["a \u0101\u0101"])"; }, STATUS_INVALID,
         "model: merges[0] merges what is no token"},
        {"a token twice", [](Json &j) { j.vocabulary.push_back("a"); }, STATUS_INVALID,
         "model: vocab[256] is the same"},
        {"a byte", [](Json &j) { j.vocabulary['x'] = "xx"; }, STATUS_INVALID,
         "model: vocab has no token for the byte 0x78"},
        {"normalizer", [](Json &j) { j.normalizer = R"({"type":"Lowercase"})"; }, STATUS_UNSUPPORTED,
         "normalizer: type is \"Lowercase\"; built are NFC"},
        {"in a sequence",
         [](Json &j) { j.normalizer = R"({"type":"Sequence","normalizers":[{"type":"NFC"},{"type":"Strip"}]})"; },
         STATUS_UNSUPPORTED, "normalizer: Sequence: normalizers[1]: type is \"Strip\""},
        {"a regex", [](Json &j) { j.normalizer = R"({"type":"Replace","pattern":{"Regex":"a"},"content":"b"})"; },
         STATUS_UNSUPPORTED, "normalizer: Replace: pattern: a Regex is not built"},
        {"nothing to replace",
         [](Json &j) { j.normalizer = R"({"type":"Replace","pattern":{"String":""},"content":"b"})"; }, STATUS_INVALID,
         "normalizer: Replace: pattern: the String is empty"},
        {"no object", [](Json &j) { j.normalizer = "[]"; }, STATUS_INVALID, "normalizer: expected an object"},
        {"pre-tokenizer", [](Json &j) { j.pre = R"({"type":"Whitespace"})"; }, STATUS_UNSUPPORTED,
         "pre_tokenizer: type is \"Whitespace\"; built are ByteLevel"},
        {"a step after bytes",
         [](Json &j) { j.pre = R"({"type":"Sequence","pretokenizers":[)" + j.pre + R"(,{"type":"Digits"}]})"; },
         STATUS_UNSUPPORTED, "pre_tokenizer: Sequence: pretokenizers[1]: a step after ByteLevel"},
        {"a behavior", [](Json &j) { j.pre = split(R"({"String":"a"})", "Torn"); }, STATUS_UNSUPPORTED,
         "pre_tokenizer: Split: behavior is \"Torn\""},
        {"a pattern", [](Json &j) { j.pre = split(R"({"Regex":"(a"})", "Isolated"); }, STATUS_UNSUPPORTED,
         "pre_tokenizer: Split: pattern: the pattern: missing"},
        {"hex digits", [](Json &j) { j.pre = split(R"({"Regex":"\\h"})", "Isolated"); }, STATUS_UNSUPPORTED,
         "the pattern has \\h at byte 0"},
        {"sets", [](Json &j) { j.pre = split(R"({"Regex":"[a&&b]"})", "Isolated"); }, STATUS_UNSUPPORTED,
         "&& in a class"},
        {"a nest", [](Json &j) { j.pre = split(R"({"Regex":"[a[b]]"})", "Isolated"); }, STATUS_UNSUPPORTED,
         "a class in a class at byte 2"},
        {"a verb", [](Json &j) { j.pre = split(R"({"Regex":"(*F"})", "Isolated"); }, STATUS_UNSUPPORTED,
         "a group of a kind"},
        {"a repeat", [](Json &j) { j.pre = split(R"({"Regex":"a{2}+"})", "Isolated"); }, STATUS_UNSUPPORTED,
         "a + after }"},
        {"a scheme", [](Json &j) { j.pre = R"({"type":"Metaspace","replacement":"_","prepend_scheme":"often"})"; },
         STATUS_INVALID, "pre_tokenizer: Metaspace: prepend_scheme is \"often\""},
        {"a mark", [](Json &j) { j.pre = R"({"type":"Metaspace","replacement":"12345"})"; }, STATUS_INVALID,
         "pre_tokenizer: Metaspace: replacement"},
        {"decoder", [](Json &j) { j.decoder = R"({"type":"WordPiece"})"; }, STATUS_UNSUPPORTED,
         "decoder: type is \"WordPiece\""},
        {"no decoder", [](Json &j) { j.decoder = "null"; }, STATUS_UNSUPPORTED, "decoder is missing"},
        {"another decoder", [](Json &j) { j.decoder = R"({"type":"Fuse"})"; }, STATUS_UNSUPPORTED,
         "of pre_tokenizer and decoder only one is ByteLevel"},
        {"a strip", [](Json &j) { j.decoder = R"({"type":"Strip","content":" ","start":1,"stop":0})"; },
         STATUS_UNSUPPORTED, "decoder: Strip: only a space"},
        {"after fuse",
         [](Json &j) { j.decoder = R"({"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"ByteFallback"}]})"; },
         STATUS_UNSUPPORTED, "decoder: Sequence: decoders[1]: a step after Fuse"},
        {"a longer text", [](Json &j) { j.decoder = R"({"type":"Replace","pattern":{"String":"a"},"content":"bb"})"; },
         STATUS_UNSUPPORTED, "decoder: Replace: content that is longer"},
        {"post-processor", [](Json &j) { j.post = R"({"type":"BertProcessing"})"; }, STATUS_UNSUPPORTED,
         "post_processor: type is \"BertProcessing\""},
        {"a template",
         [](Json &j) { j.post = R"({"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x"}}]})"; },
         STATUS_INVALID, "post_processor: TemplateProcessing: single: special_tokens has no ids for \"x\""},
        {"an id",
         [](Json &j) {
             j.post = R"({"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x"}},{"Sequence":{"id":"A"}}],)"
                      R"("special_tokens":{"x":{"ids":[999]}}})";
         },
         STATUS_INVALID, "post_processor: special_tokens: 999 is no id below 256"},
        {"added", [](Json &j) { j.added = "{}"; }, STATUS_INVALID, "added_tokens: expected an array"},
        {"an empty one", [](Json &j) { j.added = "[" + added(256, "") + "]"; }, STATUS_INVALID,
         "added_tokens[0]: content is empty"},
        {"another's id", [](Json &j) { j.added = "[" + added(97, "x<") + "]"; }, STATUS_INVALID,
         "added_tokens[0]: \"a\" and \"x<\" both have the id 97"},
        {"another id", [](Json &j) { j.added = "[" + added(256, "a") + "]"; }, STATUS_INVALID,
         "added_tokens[0]: \"a\" has the id 256, and in model: vocab 97"},
        {"the same", [](Json &j) { j.added = "[" + added(256, "<x") + "," + added(257, "<x") + "]"; }, STATUS_INVALID,
         "added_tokens: ids 256 and 257 have the same content"},
        {"a far id", [](Json &j) { j.added = "[" + added(99999999, "<x") + "]"; }, STATUS_INVALID,
         "added_tokens[0]: id: \"<x\": 99999999 is no id below"},
    };
    for (const Refusal &refusal : table) {
        Json json = Json::bytes();
        refusal.spoil(json);
        TokenizerPointer tokenizer(nullptr, tokenizer_destroy);
        struct status status = Directory({{"tokenizer.json", json.text()}}).open(&tokenizer);
        std::string expected = refusal.named;
        EXPECT_EQ(status.code, refusal.code) << refusal.what << ": " << status.message;
        EXPECT_NE(strstr(status.message, refusal.named), nullptr) << refusal.named << ": " << status.message;
        EXPECT_NE(strstr(status.message, "tokenizer.json: "), nullptr) << status.message;
    }
}

} // namespace
