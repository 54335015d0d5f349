// bench/baseline.json: what simulations gave when it was written they still give, to the byte and the nanosecond.
extern "C" {
#include "base/log.h"
#include "bench/counts.h"
}
#include <cjson/cJSON.h>
#include <cmath>
#include <fstream>
#include <gtest/gtest.h>
#include <sstream>
#include <string>

namespace {

std::string value_of(const cJSON *item) {
    char *text = cJSON_PrintUnformatted(item);
    std::string value = text ? text : "nothing";
    cJSON_free(text);
    return value;
}

void compare_rows(const std::string &table, const cJSON *was, const cJSON *is) {
    ASSERT_EQ(cJSON_GetArraySize(was), cJSON_GetArraySize(is)) << table;
    for (int row = 0; row < cJSON_GetArraySize(was); row++) {
        const cJSON *before = cJSON_GetArrayItem(was, row), *now = cJSON_GetArrayItem(is, row), *cell;
        cJSON_ArrayForEach(cell, now) {
            const cJSON *old = cJSON_GetObjectItem(before, cell->string);
            EXPECT_TRUE(old && cJSON_Compare(old, cell, true))
                << table << ", row " << row << ", " << cell->string << ": " << value_of(old) << " was, "
                << value_of(cell) << " is: " << value_of(now)
                << "\nif that is meant, `make bench-baseline` and commit bench/baseline.json";
        }
        EXPECT_EQ(cJSON_GetArraySize(before), cJSON_GetArraySize(now)) << table << ", row " << row;
    }
}

TEST(Baseline, IsWhatSimulationsGive) {
    std::stringstream file;
    file << std::ifstream("bench/baseline.json").rdbuf();
    cJSON *was = cJSON_Parse(file.str().c_str());
    ASSERT_NE(was, nullptr) << "bench/baseline.json is not there: make bench-baseline";
    log_set_level(LOG_ERROR);
    book book;
    book_open(&book, "counts");
    status status = counts_write(&book);
    ASSERT_EQ(status.code, STATUS_OK) << status.message;
    book_close(&book);
    cJSON *is = cJSON_ParseWithLength(book.json.data, book.json.bytes);
    ASSERT_NE(is, nullptr);
    for (const char *table : {"plans", "streams"}) {
        ASSERT_GT(cJSON_GetArraySize(cJSON_GetObjectItem(is, table)), 0) << table;
        compare_rows(table, cJSON_GetObjectItem(was, table), cJSON_GetObjectItem(is, table));
    }
    cJSON_Delete(was);
    cJSON_Delete(is);
    book_free(&book);
}

} // namespace
