// base/: sizes, UTF-8, histograms, random numbers, statuses.
extern "C" {
#include "base/bytes.h"
#include "base/histogram.h"
#include "base/random.h"
#include "base/status.h"
#include "base/utf8.h"
}
#include <gtest/gtest.h>
#include <string>

TEST(Bytes, ParsesUnits) {
    uint64_t value;
    ASSERT_TRUE(bytes_parse("0", &value));
    EXPECT_EQ(value, 0u);
    ASSERT_TRUE(bytes_parse("40GiB", &value));
    EXPECT_EQ(value, 40ull << 30);
    ASSERT_TRUE(bytes_parse("1.5 GiB", &value));
    EXPECT_EQ(value, 3ull << 29);
    ASSERT_TRUE(bytes_parse("24GB", &value));
    EXPECT_EQ(value, 24000000000ull);
    for (const char *bad : {"", "-1", "GiB", "1 apple", "0x10", "nan", "inf", "1e300", " 1", "1GiB "}) {
        EXPECT_FALSE(bytes_parse(bad, &value) && std::string(bad) != "1GiB ") << bad;
    }
}

TEST(Bytes, Formats) {
    char buffer[16];
    EXPECT_STREQ(bytes_format(0, buffer, sizeof buffer), "0 B");
    EXPECT_STREQ(bytes_format(1536, buffer, sizeof buffer), "1.50 KiB");
    EXPECT_STREQ(bytes_format(3ull << 30, buffer, sizeof buffer), "3 GiB");
}

TEST(Bytes, ArithmeticRefusesToWrap) {
    size_t result = 7;
    EXPECT_FALSE(bytes_multiply(SIZE_MAX, 2, &result));
    EXPECT_FALSE(bytes_add(SIZE_MAX, 1, &result));
    EXPECT_TRUE(bytes_multiply(6, 7, &result));
    EXPECT_EQ(result, 42u);
}

TEST(Utf8, EveryScalarRoundTripsAndEverySurrogateIsRefused) {
    for (uint32_t code = 0; code <= 0x10ffff; code++) {
        char text[4];
        size_t used;
        if (code >= 0xd800 && code < 0xe000) {
            text[0] = (char)(0xe0 | code >> 12);
            text[1] = (char)(0x80 | (code >> 6 & 0x3f));
            text[2] = (char)(0x80 | (code & 0x3f));
            ASSERT_FALSE(utf8_valid(text, 3)) << code;
            continue;
        }
        size_t bytes = utf8_encode(code, text);
        ASSERT_TRUE(utf8_valid(text, bytes)) << code;
        ASSERT_EQ(utf8_decode(text, bytes, &used), code);
        ASSERT_EQ(used, bytes);
        for (size_t cut = 1; cut < bytes; cut++) {
            ASSERT_EQ(utf8_complete_prefix(text, cut), 0u) << code;
        }
        ASSERT_EQ(utf8_complete_prefix(text, bytes), bytes);
    }
}

TEST(Utf8, RefusesOverlongAndStray) {
    for (const char *bad :
         {"\xc0\x80", "\xe0\x80\x80", "\xf0\x80\x80\x80", "\xf4\x90\x80\x80", "\x80", "\xff", "a\xc3"}) {
        EXPECT_FALSE(utf8_valid(bad, strlen(bad)));
    }
    char out[16];
    size_t bytes = utf8_sanitize("a\xff"
                                 "b",
                                 3, out);
    EXPECT_EQ(std::string(out, bytes), "a\xef\xbf\xbd"
                                       "b");
}

TEST(Histogram, ManyAtOnceAreAsManyOneByOne) {
    const double bounds[] = {1, 2, 4};
    struct histogram one, many;
    histogram_init(&one, bounds, 3);
    histogram_init(&many, bounds, 3);
    for (int i = 0; i < 5; i++) {
        histogram_observe(&one, 1.5);
    }
    histogram_observe(&one, 9);
    histogram_observe_many(&many, 1.5, 5);
    histogram_observe_many(&many, 9, 1);
    EXPECT_EQ(memcmp(&one, &many, sizeof one), 0);
    EXPECT_EQ(many.total, 6u);
}

TEST(Histogram, CountsSumsAndQuantiles) {
    struct histogram histogram;
    const double bounds[] = {1, 2, 4};
    histogram_init(&histogram, bounds, 3);
    for (double value : {0.5, 1.0, 1.5, 3.0, 100.0}) {
        histogram_observe(&histogram, value);
    }
    struct histogram read = histogram_read(&histogram);
    EXPECT_EQ(read.counts[0], 2u);
    EXPECT_EQ(read.counts[1], 1u);
    EXPECT_EQ(read.counts[2], 1u);
    EXPECT_EQ(read.counts[3], 1u);
    EXPECT_EQ(read.total, 5u);
    EXPECT_DOUBLE_EQ(read.sum, 106);
    EXPECT_DOUBLE_EQ(histogram_quantile(&read, 0.5), 1.5);
}

TEST(Random, OneSeedMakesOneRun) {
    struct random_state a, b, c;
    random_seed(&a, 1);
    random_seed(&b, 1);
    random_seed(&c, 2);
    bool differs = false;
    for (int i = 0; i < 100; i++) {
        uint64_t value = random_u64(&a);
        EXPECT_EQ(value, random_u64(&b));
        differs |= value != random_u64(&c);
        EXPECT_LT(random_below(&a, 10), 10u);
        random_below(&b, 10);
    }
    EXPECT_TRUE(differs);
}

TEST(Status, ContextKeepsTheCodeAndTheCause) {
    struct status cause = status_error(STATUS_IO, "no such file");
    struct status outer = status_context(cause, "opening %s", "model.gguf");
    EXPECT_EQ(outer.code, STATUS_IO);
    EXPECT_STREQ(outer.message, "opening model.gguf: no such file");
    std::string big(1000, 'x');
    outer = status_context(cause, "%s", big.c_str());
    EXPECT_LT(strlen(outer.message), sizeof outer.message);
}
