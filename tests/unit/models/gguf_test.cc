// models/gguf: what is read is what was written, and every field that is cut, false or hostile is refused by name.
#include "tests/unit/models/gguf_builder.h"

extern "C" {
#include "base/random.h"
#include "models/gguf.h"
}
#include <cstdio>
#include <gtest/gtest.h>
#include <unistd.h>

namespace {

std::string text(struct gguf_string string) {
    return std::string(string.data, string.bytes);
}

// A file with every kind of value and two tensors.
GgufBuilder small_file() {
    GgufBuilder file;
    file.string("general.architecture", "llama");
    file.u32("general.alignment", 32);
    file.scalar("t.u8", GGUF_U8, uint8_t(200));
    file.scalar("t.i8", GGUF_I8, int8_t(-7));
    file.scalar("t.u16", GGUF_U16, uint16_t(60000));
    file.scalar("t.i16", GGUF_I16, int16_t(-30000));
    file.scalar("t.i32", GGUF_I32, int32_t(-2000000000));
    file.scalar("t.u64", GGUF_U64, UINT64_MAX);
    file.scalar("t.i64", GGUF_I64, INT64_MIN);
    file.scalar("t.f64", GGUF_F64, 0.1);
    file.f32("t.f32", 0.5f);
    file.boolean("t.yes", 1);
    file.boolean("t.no", 0);
    file.string("t.empty", "");
    file.strings("t.words", {"a", "", "longer word"});
    file.array<int32_t>("t.integers", GGUF_I32, {1, -2, 3});
    file.array<float>("t.numbers", GGUF_F32, {0.5f, -1.5f});
    file.array<uint64_t>("t.large", GGUF_U64, {uint64_t(1) << 40});
    file.array<uint8_t>("t.none", GGUF_U8, {});
    file.tensor("first", 0, {3, 2}, std::vector<uint8_t>(24, 0x11));
    file.tensor("second", 8, {32, 2}, std::vector<uint8_t>(68, 0x22)); // Q8_0
    return file;
}

struct status open_bytes(const std::vector<uint8_t> &bytes, struct gguf **gguf) {
    // An exactly sized copy, so that the address sanitizer sees a read of one byte too many.
    static std::vector<uint8_t> copy;
    copy = std::vector<uint8_t>(bytes);
    copy.shrink_to_fit();
    return gguf_open_memory(copy.data(), copy.size(), gguf);
}

struct status refusal(const std::vector<uint8_t> &bytes) {
    struct gguf *gguf = nullptr;
    struct status status = open_bytes(bytes, &gguf);
    if (!status_failed(&status)) {
        gguf_close(gguf);
    }
    return status;
}

bool says(const struct status &status, const std::string &words) {
    return strstr(status.message, words.c_str()) != nullptr;
}

class Small : public ::testing::Test {
  protected:
    void SetUp() override {
        struct status status = open_bytes(small_file().build(), &gguf);
        ASSERT_EQ(status.code, STATUS_OK) << status.message;
    }
    void TearDown() override {
        gguf_close(gguf);
    }
    struct gguf *gguf = nullptr;
};

TEST_F(Small, IntegersOfEveryWidth) {
    uint64_t value;
    for (auto [key, wanted] : {std::pair<const char *, uint64_t>{"t.u8", 200},
                               {"t.u16", 60000},
                               {"general.alignment", 32},
                               {"t.u64", UINT64_MAX}}) {
        ASSERT_EQ(gguf_get_u64(gguf, key, &value).code, STATUS_OK) << key;
        EXPECT_EQ(value, wanted) << key;
    }
    for (const char *key : {"t.i8", "t.i16", "t.i32", "t.i64"}) {
        struct status status = gguf_get_u64(gguf, key, &value);
        EXPECT_EQ(status.code, STATUS_INVALID) << key;
        EXPECT_TRUE(says(status, key) && says(status, "negative")) << status.message;
    }
}

TEST_F(Small, NumbersBoolsAndStrings) {
    double number;
    ASSERT_EQ(gguf_get_f64(gguf, "t.f64", &number).code, STATUS_OK);
    EXPECT_EQ(number, 0.1);
    ASSERT_EQ(gguf_get_f64(gguf, "t.f32", &number).code, STATUS_OK);
    EXPECT_EQ(number, 0.5);
    ASSERT_EQ(gguf_get_f64(gguf, "t.i8", &number).code, STATUS_OK);
    EXPECT_EQ(number, -7);
    bool flag;
    ASSERT_EQ(gguf_get_bool(gguf, "t.yes", &flag).code, STATUS_OK);
    EXPECT_TRUE(flag);
    ASSERT_EQ(gguf_get_bool(gguf, "t.no", &flag).code, STATUS_OK);
    EXPECT_FALSE(flag);
    struct gguf_string string;
    ASSERT_EQ(gguf_get_string(gguf, "general.architecture", &string).code, STATUS_OK);
    EXPECT_EQ(text(string), "llama");
    ASSERT_EQ(gguf_get_string(gguf, "t.empty", &string).code, STATUS_OK);
    EXPECT_EQ(string.bytes, 0u);
}

TEST_F(Small, AbsentAndWronglyTypedKeysAreNamed) {
    uint64_t integer;
    double number;
    bool flag;
    struct gguf_string string;
    enum gguf_type type;
    size_t count;
    EXPECT_EQ(gguf_get_u64(gguf, "t.absent", &integer).code, STATUS_NOT_FOUND);
    EXPECT_TRUE(says(gguf_get_u64(gguf, "t.absent", &integer), "t.absent"));
    EXPECT_EQ(gguf_get_u64(gguf, "t.f32", &integer).code, STATUS_INVALID);
    EXPECT_EQ(gguf_get_u64(gguf, "t.integers", &integer).code, STATUS_INVALID);
    EXPECT_EQ(gguf_get_u64(gguf, "t.yes", &integer).code, STATUS_INVALID);
    EXPECT_EQ(gguf_get_f64(gguf, "t.empty", &number).code, STATUS_INVALID);
    EXPECT_EQ(gguf_get_bool(gguf, "t.u8", &flag).code, STATUS_INVALID);
    EXPECT_EQ(gguf_get_string(gguf, "t.words", &string).code, STATUS_INVALID);
    EXPECT_EQ(gguf_get_string(gguf, "t.u8", &string).code, STATUS_INVALID);
    EXPECT_EQ(gguf_get_array(gguf, "t.u8", &type, &count).code, STATUS_INVALID);
    struct status status = gguf_get_string(gguf, "t.integers", &string);
    EXPECT_TRUE(says(status, "t.integers") && says(status, "array of i32")) << status.message;
    EXPECT_TRUE(gguf_has(gguf, "t.u8"));
    EXPECT_FALSE(gguf_has(gguf, "t.u"));
}

TEST_F(Small, Arrays) {
    enum gguf_type type;
    size_t count;
    ASSERT_EQ(gguf_get_array(gguf, "t.integers", &type, &count).code, STATUS_OK);
    EXPECT_EQ(type, GGUF_I32);
    EXPECT_EQ(count, 3u);
    int32_t integers[3];
    ASSERT_EQ(gguf_copy_i32(gguf, "t.integers", integers, 3).code, STATUS_OK);
    EXPECT_EQ(integers[1], -2);
    EXPECT_EQ(gguf_copy_i32(gguf, "t.integers", integers, 2).code, STATUS_INVALID);
    EXPECT_EQ(gguf_copy_i32(gguf, "t.large", integers, 1).code, STATUS_INVALID);
    EXPECT_EQ(gguf_copy_i32(gguf, "t.numbers", integers, 2).code, STATUS_INVALID);
    EXPECT_EQ(gguf_copy_i32(gguf, "t.words", integers, 3).code, STATUS_INVALID);
    EXPECT_EQ(gguf_copy_i32(gguf, "t.none", integers, 0).code, STATUS_OK);
    float numbers[3];
    ASSERT_EQ(gguf_copy_f32(gguf, "t.numbers", numbers, 2).code, STATUS_OK);
    EXPECT_EQ(numbers[1], -1.5f);
    ASSERT_EQ(gguf_copy_f32(gguf, "t.integers", numbers, 3).code, STATUS_OK);
    EXPECT_EQ(numbers[1], -2.0f);
}

struct status collect(void *context, size_t index, struct gguf_string string) {
    auto *words = static_cast<std::vector<std::string> *>(context);
    EXPECT_EQ(index, words->size());
    words->push_back(text(string));
    return words->size() == 2 && words->front() == "stop" ? status_error(STATUS_BUSY, "enough") : status{};
}

TEST_F(Small, StringsAreVisitedInOrder) {
    std::vector<std::string> words;
    ASSERT_EQ(gguf_visit_strings(gguf, "t.words", collect, &words).code, STATUS_OK);
    EXPECT_EQ(words, (std::vector<std::string>{"a", "", "longer word"}));
    EXPECT_EQ(gguf_visit_strings(gguf, "t.integers", collect, &words).code, STATUS_INVALID);
    words = {};
    EXPECT_EQ(gguf_visit_strings(gguf, "t.absent", collect, &words).code, STATUS_NOT_FOUND);
}

TEST(Gguf, AVisitorsErrorStopsTheWalk) {
    GgufBuilder file;
    file.strings("t.words", {"stop", "here", "never"});
    struct gguf *gguf = nullptr;
    ASSERT_EQ(open_bytes(file.build(), &gguf).code, STATUS_OK);
    std::vector<std::string> words;
    EXPECT_EQ(gguf_visit_strings(gguf, "t.words", collect, &words).code, STATUS_BUSY);
    EXPECT_EQ(words.size(), 2u);
    gguf_close(gguf);
}

TEST_F(Small, Tensors) {
    ASSERT_EQ(gguf_tensor_count(gguf), 2u);
    const struct gguf_tensor *first = gguf_find_tensor(gguf, "first");
    const struct gguf_tensor *second = gguf_find_tensor(gguf, "second");
    ASSERT_TRUE(first != nullptr && second != nullptr);
    EXPECT_EQ(gguf_tensor_at(gguf, 0), first);
    EXPECT_EQ(gguf_tensor_at(gguf, 1), second);
    EXPECT_EQ(first->type, TENSOR_F32);
    EXPECT_EQ(first->dimensions, 2u);
    EXPECT_EQ(first->extent[0], 3u);
    EXPECT_EQ(first->extent[1], 2u);
    EXPECT_EQ(first->extent[2], 1u);
    EXPECT_EQ(first->bytes, 24u);
    EXPECT_EQ(static_cast<const uint8_t *>(first->data)[23], 0x11);
    EXPECT_EQ(second->type, TENSOR_Q8_0);
    EXPECT_EQ(second->bytes, 68u);
    EXPECT_EQ(static_cast<const uint8_t *>(second->data)[67], 0x22);
    EXPECT_EQ(gguf_find_tensor(gguf, "fir"), nullptr);
    EXPECT_EQ(gguf_find_tensor(gguf, ""), nullptr);
}

TEST_F(Small, KeysAreListedInOrder) {
    ASSERT_EQ(gguf_key_count(gguf), 19u);
    std::string before;
    for (size_t i = 0; i < gguf_key_count(gguf); i++) {
        enum gguf_type type;
        std::string name = text(gguf_key_at(gguf, i, &type));
        EXPECT_LT(before, name);
        EXPECT_TRUE(gguf_has(gguf, name.c_str())) << name;
        before = name;
    }
}

TEST(Gguf, Versions) {
    for (uint32_t version : {0u, 1u, 2u, 3u, 4u, 0x03000000u}) {
        GgufBuilder file = small_file();
        file.version = version;
        struct status status = refusal(file.build());
        if (version == 2 || version == 3) {
            EXPECT_EQ(status.code, STATUS_OK) << status.message;
        } else {
            EXPECT_EQ(status.code, STATUS_UNSUPPORTED);
            EXPECT_TRUE(says(status, "version")) << status.message;
        }
    }
}

TEST(Gguf, CutAtEveryByteNamesTheField) {
    std::vector<GgufBuilder::Mark> marks;
    std::vector<uint8_t> whole = small_file().build(&marks);
    ASSERT_EQ(refusal(whole).code, STATUS_OK);
    for (size_t length = 0; length < whole.size(); length++) {
        struct status status = refusal(std::vector<uint8_t>(whole.begin(), whole.begin() + long(length)));
        ASSERT_EQ(status.code, STATUS_INVALID) << length;
        size_t at = 0;
        while (at + 1 < marks.size() && marks[at + 1].offset <= length) {
            at++;
        }
        // What is left may also be too short for a count read before; then the count is what is named.
        bool named = says(status, marks[at].owner) && says(status, marks[at].field + ":");
        bool counted = says(status, "metadata_kv_count:") || says(status, "tensor_count:") ||
                       (says(status, marks[at].owner) && says(status, "array count:"));
        EXPECT_TRUE(named || counted) << "cut at " << length << " in " << marks[at].owner << " " << marks[at].field
                                      << ": " << status.message;
    }
}

// One field of the small file overwritten by a lie: `value` in the first `bytes` bytes of the field.
struct Lie {
    const char *owner, *field;
    uint64_t value;
    size_t bytes;
    enum status_code code;
    const char *named; // what the error must say besides the owner
};

void PrintTo(const Lie &lie, std::ostream *out) {
    *out << lie.owner << " " << lie.field << " " << lie.value;
}

class Lies : public ::testing::TestWithParam<Lie> {};

TEST_P(Lies, AreRefusedByName) {
    Lie lie = GetParam();
    std::vector<GgufBuilder::Mark> marks;
    std::vector<uint8_t> bytes = small_file().build(&marks);
    for (const GgufBuilder::Mark &mark : marks) {
        if (mark.owner == lie.owner && mark.field == lie.field) {
            memcpy(bytes.data() + mark.offset, &lie.value, lie.bytes);
            struct status status = refusal(bytes);
            EXPECT_EQ(status.code, lie.code) << status.message;
            EXPECT_TRUE(says(status, lie.named)) << status.message;
            // A name that is itself false cannot be the one that is named.
            if (strcmp(lie.field, "name") != 0) {
                EXPECT_TRUE(says(status, lie.owner)) << status.message;
            }
            return;
        }
    }
    FAIL() << "no such field";
}

INSTANTIATE_TEST_SUITE_P(
    Gguf, Lies,
    ::testing::Values(
        Lie{"", "magic", 0x46464747, 4, STATUS_INVALID, "magic"},
        Lie{"", "version", 9, 4, STATUS_UNSUPPORTED, "version"},
        Lie{"", "tensor_count", UINT64_MAX, 8, STATUS_INVALID, "tensor_count"},
        Lie{"", "tensor_count", 1u << 20, 8, STATUS_INVALID, "tensor_count"},
        Lie{"", "tensor_count", 3, 8, STATUS_INVALID, "tensor 2: name"},
        Lie{"", "metadata_kv_count", UINT64_MAX, 8, STATUS_INVALID, "metadata_kv_count"},
        Lie{"", "metadata_kv_count", 1u << 20, 8, STATUS_INVALID, "metadata_kv_count"},
        Lie{"key 0", "name", UINT64_MAX, 8, STATUS_INVALID, "key 0: name"},
        Lie{"key 3", "name", 0, 8, STATUS_INVALID, "key 3: name"},
        Lie{"key 'general.alignment'", "value", 0, 4, STATUS_INVALID, "general.alignment"},
        Lie{"key 'general.alignment'", "value", 4, 4, STATUS_INVALID, "general.alignment"},
        Lie{"key 'general.alignment'", "value", 48, 4, STATUS_INVALID, "general.alignment"},
        Lie{"key 'general.alignment'", "value type", GGUF_F32, 4, STATUS_INVALID, "general.alignment"},
        Lie{"key 'general.architecture'", "value type", 13, 4, STATUS_INVALID, "value type"},
        Lie{"key 'general.architecture'", "value type", UINT32_MAX, 4, STATUS_INVALID, "value type"},
        Lie{"key 'general.architecture'", "value", UINT64_MAX, 8, STATUS_INVALID, "value"},
        Lie{"key 't.words'", "array element type", GGUF_ARRAY, 4, STATUS_UNSUPPORTED, "array element type"},
        Lie{"key 't.words'", "array element type", 77, 4, STATUS_INVALID, "array element type"},
        Lie{"key 't.words'", "array count", UINT64_MAX, 8, STATUS_INVALID, "array count"},
        Lie{"key 't.words'", "array count", UINT64_MAX / 8 + 2, 8, STATUS_INVALID, "array count"},
        Lie{"key 't.words'", "array string", UINT64_MAX - 8, 8, STATUS_INVALID, "element 0: array string"},
        Lie{"key 't.integers'", "array count", UINT64_MAX / 4 + 2, 8, STATUS_INVALID, "array count"},
        Lie{"tensor 0", "name", 0, 8, STATUS_INVALID, "tensor 0: name"},
        Lie{"tensor 1", "name", uint64_t(1) << 60, 8, STATUS_INVALID, "tensor 1: name"},
        Lie{"tensor 'first'", "dimension count", 0, 4, STATUS_INVALID, "dimension count"},
        Lie{"tensor 'first'", "dimension count", 5, 4, STATUS_INVALID, "dimension count"},
        Lie{"tensor 'first'", "extent", 0, 8, STATUS_INVALID, "extent 0"},
        Lie{"tensor 'first'", "extent", UINT64_MAX, 8, STATUS_INVALID, "extent 0"},
        Lie{"tensor 'first'", "extent", UINT64_MAX / 8 + 1, 8, STATUS_INVALID, "extent 0"},
        Lie{"tensor 'first'", "extent", uint64_t(1) << 58, 8, STATUS_INVALID, "data"},
        Lie{"tensor 'second'", "extent", 33, 8, STATUS_INVALID, "extent 0"},
        Lie{"tensor 'second'", "extent", 64, 8, STATUS_INVALID, "data"},
        Lie{"tensor 'first'", "type", 23, 4, STATUS_UNSUPPORTED, "type: IQ4_XS"},
        Lie{"tensor 'first'", "type", 10, 4, STATUS_UNSUPPORTED, "type: Q2_K"},
        Lie{"tensor 'first'", "type", 4711, 4, STATUS_UNSUPPORTED, "type: unknown (number 4711)"},
        Lie{"tensor 'first'", "offset", 8, 8, STATUS_INVALID, "offset"},
        Lie{"tensor 'first'", "offset", UINT64_MAX - 31, 8, STATUS_INVALID, "data"},
        Lie{"tensor 'second'", "offset", 64, 8, STATUS_INVALID, "data"}));

TEST(Gguf, AProductOfExtentsThatWrapsIsRefused) {
    GgufBuilder file;
    file.tensor("wide", 0, {uint64_t(1) << 16, uint64_t(1) << 32, uint64_t(1) << 32}, std::vector<uint8_t>(4));
    struct status status = refusal(file.build());
    EXPECT_EQ(status.code, STATUS_INVALID);
    EXPECT_TRUE(says(status, "extent 2")) << status.message;
}

TEST(Gguf, DuplicatesAreRefused) {
    GgufBuilder keys = small_file();
    keys.u32("t.u8", 1);
    EXPECT_TRUE(says(refusal(keys.build()), "key 't.u8': appears twice"));
    GgufBuilder tensors = small_file();
    tensors.tensor("first", 0, {1}, std::vector<uint8_t>(4));
    EXPECT_TRUE(says(refusal(tensors.build()), "tensor 'first': appears twice"));
}

TEST(Gguf, NamesMustBePrintable) {
    for (const std::string &name :
         {std::string("a\0b", 3), std::string("a b"), std::string("\xc3\xa9"), std::string("x\n")}) {
        GgufBuilder keys;
        keys.u32(name, 1);
        EXPECT_TRUE(says(refusal(keys.build()), "key 0: name: byte"));
        GgufBuilder tensors;
        tensors.tensor(name, 0, {1}, std::vector<uint8_t>(4));
        EXPECT_TRUE(says(refusal(tensors.build()), "tensor 0: name: byte"));
    }
}

TEST(Gguf, BoolsAreZeroOrOne) {
    GgufBuilder file;
    file.boolean("t.flag", 2);
    struct gguf *gguf = nullptr;
    ASSERT_EQ(open_bytes(file.build(), &gguf).code, STATUS_OK);
    bool flag;
    EXPECT_EQ(gguf_get_bool(gguf, "t.flag", &flag).code, STATUS_INVALID);
    gguf_close(gguf);
}

TEST(Gguf, AlignmentIsHonoured) {
    for (size_t alignment : {8u, 32u, 256u}) {
        GgufBuilder file = small_file();
        file.remove("general.alignment");
        file.u32("general.alignment", uint32_t(alignment));
        file.alignment = alignment;
        struct gguf *gguf = nullptr;
        struct status status = open_bytes(file.build(), &gguf);
        ASSERT_EQ(status.code, STATUS_OK) << status.message;
        EXPECT_EQ(*static_cast<const uint8_t *>(gguf_find_tensor(gguf, "first")->data), 0x11);
        EXPECT_EQ(*static_cast<const uint8_t *>(gguf_find_tensor(gguf, "second")->data), 0x22);
        gguf_close(gguf);
    }
}

TEST(Gguf, AnAlignmentThatIsNotTheFilesOwnIsRefused) {
    for (uint32_t alignment : {64u, 1u << 31}) {
        GgufBuilder file = small_file(); // laid out in steps of 32
        file.remove("general.alignment");
        file.u32("general.alignment", alignment);
        struct status status = refusal(file.build());
        EXPECT_EQ(status.code, STATUS_INVALID);
        EXPECT_TRUE(says(status, "offset")) << status.message;
    }
}

TEST(Gguf, EveryBuiltTypeIsReadAndMeasured) {
    for (int type = 0; type < TENSOR_FILE_TYPES; type++) {
        size_t bytes = tensor_row_bytes(tensor_type(type), 512) * 3;
        GgufBuilder file;
        file.tensor("t", gguf_type_id(tensor_type(type)), {512, 3}, std::vector<uint8_t>(bytes));
        struct gguf *gguf = nullptr;
        struct status status = open_bytes(file.build(), &gguf);
        ASSERT_EQ(status.code, STATUS_OK) << status.message;
        EXPECT_EQ(gguf_tensor_at(gguf, 0)->type, type);
        EXPECT_EQ(gguf_tensor_at(gguf, 0)->bytes, bytes);
        gguf_close(gguf);
    }
}

TEST(Gguf, FilesThatCannotBeOpened) {
    struct gguf *gguf = nullptr;
    struct status status = gguf_open("/nonexistent/model.gguf", &gguf);
    EXPECT_EQ(status.code, STATUS_NOT_FOUND);
    EXPECT_TRUE(says(status, "/nonexistent/model.gguf"));
    EXPECT_EQ(gguf_open("/", &gguf).code, STATUS_IO);
    status = gguf_open("/dev/null", &gguf);
    EXPECT_EQ(status.code, STATUS_IO);
    EXPECT_TRUE(says(status, "not a regular file")) << status.message;
}

TEST(Gguf, AMappedFileReadsTheSameAfterForgetting) {
    char path[] = "/tmp/metronome_gguf_XXXXXX";
    int file = mkstemp(path);
    ASSERT_GE(file, 0);
    struct gguf *gguf = nullptr;
    struct status status = gguf_open(path, &gguf);
    EXPECT_EQ(status.code, STATUS_INVALID);
    EXPECT_TRUE(says(status, "magic")) << status.message;

    std::vector<uint8_t> data(100000);
    for (size_t i = 0; i < data.size(); i++) {
        data[i] = uint8_t(random_hash(1, i));
    }
    GgufBuilder builder = small_file();
    builder.tensor("third", 0, {25000}, data);
    std::vector<uint8_t> bytes = builder.build();
    ASSERT_EQ(write(file, bytes.data(), bytes.size()), ssize_t(bytes.size()));
    close(file);
    status = gguf_open(path, &gguf);
    unlink(path);
    ASSERT_EQ(status.code, STATUS_OK) << status.message;
    const struct gguf_tensor *tensor = gguf_find_tensor(gguf, "third");
    ASSERT_EQ(memcmp(tensor->data, data.data(), data.size()), 0);
    EXPECT_EQ(*static_cast<const uint8_t *>(gguf_find_tensor(gguf, "first")->data), 0x11);
    gguf_close(gguf);
}

// Reads everything that can be read, as the fuzz target does.
void walk(const struct gguf *gguf) {
    size_t sum = 0;
    for (size_t i = 0; i < gguf_tensor_count(gguf); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(gguf, i);
        for (size_t byte = 0; byte < tensor->bytes; byte++) {
            sum += static_cast<const uint8_t *>(tensor->data)[byte];
        }
    }
    for (size_t i = 0; i < gguf_key_count(gguf); i++) {
        enum gguf_type type;
        std::string name = text(gguf_key_at(gguf, i, &type));
        std::vector<std::string> words;
        struct gguf_string string;
        double number;
        gguf_visit_strings(gguf, name.c_str(), collect, &words);
        if (gguf_get_string(gguf, name.c_str(), &string).code == STATUS_OK) {
            sum += text(string).size();
        }
        gguf_get_f64(gguf, name.c_str(), &number);
        size_t count;
        if (gguf_get_array(gguf, name.c_str(), &type, &count).code == STATUS_OK) {
            std::vector<float> numbers(count);
            gguf_copy_f32(gguf, name.c_str(), numbers.data(), count);
        }
    }
    EXPECT_LT(sum, size_t(1) << 40);
}

TEST(Gguf, RandomDamageIsRefusedOrHarmless) {
    std::vector<uint8_t> whole = small_file().build();
    struct random_state random;
    random_seed(&random, 20240607);
    int refused = 0;
    for (int round = 0; round < 20000; round++) {
        std::vector<uint8_t> bytes = whole;
        for (uint64_t changes = 1 + random_below(&random, 3); changes > 0; changes--) {
            bytes[random_below(&random, bytes.size())] = uint8_t(random_u64(&random));
        }
        struct gguf *gguf = nullptr;
        struct status status = open_bytes(bytes, &gguf);
        if (status_failed(&status)) {
            EXPECT_NE(status.message[0], 0);
            refused++;
        } else {
            walk(gguf);
            gguf_close(gguf);
        }
    }
    EXPECT_GT(refused, 5000);
    EXPECT_LT(refused, 20000);
}

TEST(Gguf, AVocabularyOnlyFile) {
    const char *path = "../shared/data/tokenizers/ggml-vocab-gpt-2.gguf";
    if (access(path, R_OK) != 0) {
        GTEST_SKIP() << path << " is not here";
    }
    struct gguf *gguf = nullptr;
    struct status status = gguf_open(path, &gguf);
    ASSERT_EQ(status.code, STATUS_OK) << status.message;
    enum gguf_type type;
    size_t count;
    ASSERT_EQ(gguf_get_array(gguf, "tokenizer.ggml.tokens", &type, &count).code, STATUS_OK);
    EXPECT_EQ(type, GGUF_STRING);
    EXPECT_EQ(count, 50257u);
    EXPECT_EQ(gguf_tensor_count(gguf), 0u);
    gguf_close(gguf);
}

} // namespace
