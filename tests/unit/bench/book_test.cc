// bench/book.h: the four forms hold the same figures, and each is what it says it is.
extern "C" {
#include "bench/book.h"
}
#include <cjson/cJSON.h>
#include <cmath>
#include <gtest/gtest.h>
#include <string>

namespace {

std::string form(const text &form) {
    return std::string(form.data, form.bytes);
}

void write_table(book *book, const char *key) {
    book_table(book, key);
    for (int row = 0; row < 40; row++) {
        book_text(book, "name", row ? "a <b> & \"c\"" : "first");
        book_number(book, "share %", 1, row == 1 ? NAN : 100.0 / 3 + row);
        book_end_row(book);
    }
    book_end_table(book);
}

TEST(Book, SaysTheSameInEveryForm) {
    book book;
    book_open(&book, "A title");
    book_section(&book, "A section");
    book_say(&book, "A paragraph of %d %% and 1 < 2.", 7);
    write_table(&book, "one");
    write_table(&book, "two");
    text svg = {};
    text_adds(&svg, "<svg></svg>");
    book_chart(&book, "a picture", &svg, "picture.svg");
    book_close(&book);
    ASSERT_FALSE(book.failed);

    cJSON *json = cJSON_ParseWithLength(book.json.data, book.json.bytes);
    ASSERT_NE(json, nullptr) << form(book.json);
    ASSERT_EQ(cJSON_GetArraySize(json), 2);
    const cJSON *rows = cJSON_GetObjectItem(json, "two");
    ASSERT_EQ(cJSON_GetArraySize(rows), 40);
    EXPECT_STREQ(cJSON_GetObjectItem(cJSON_GetArrayItem(rows, 2), "name")->valuestring, "a <b> & \"c\"");
    EXPECT_NEAR(cJSON_GetObjectItem(cJSON_GetArrayItem(rows, 2), "share %")->valuedouble, 100.0 / 3 + 2, 1e-9);
    EXPECT_TRUE(cJSON_IsNull(cJSON_GetObjectItem(cJSON_GetArrayItem(rows, 1), "share %")));
    cJSON_Delete(json);

    EXPECT_NE(form(book.text).find("33.3"), std::string::npos);
    EXPECT_NE(form(book.text).find("A paragraph of 7 % and 1 < 2."), std::string::npos);
    EXPECT_NE(form(book.markdown).find("| first | 33.3 |"), std::string::npos);
    EXPECT_NE(form(book.markdown).find("![a picture](picture.svg)"), std::string::npos);
    EXPECT_NE(form(book.html).find("<td>a &lt;b> &amp; \"c\"<td class=\"n\">–"), std::string::npos);
    EXPECT_NE(form(book.html).find("<figure><svg></svg></figure>"), std::string::npos);
    text_free(&svg);
    book_free(&book);
}

TEST(Book, AFileThatCannotBeIsSaidSo) {
    book book;
    book_open(&book, "A title");
    book_close(&book);
    status status = book_write(&book, BOOK_HTML, "/nonexistent/file");
    EXPECT_EQ(status.code, STATUS_IO);
    EXPECT_NE(std::string(status.message).find("/nonexistent/file"), std::string::npos);
    book_free(&book);
}

} // namespace
