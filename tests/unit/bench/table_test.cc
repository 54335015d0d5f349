// bench/table.h: what is printed and what is written is the same, and the JSON is JSON.
extern "C" {
#include "bench/table.h"
}
#include <cjson/cJSON.h>
#include <cstdio>
#include <fstream>
#include <gtest/gtest.h>
#include <sstream>
#include <string>
#include <unistd.h>

namespace {

std::string temporary_path() {
    char name[] = "/tmp/metronome-test-XXXXXX";
    int file = mkstemp(name);
    EXPECT_GE(file, 0);
    close(file);
    return name;
}

TEST(Table, IsPrintedAndWritten) {
    std::string path = temporary_path();
    struct table table;
    testing::internal::CaptureStdout();
    ASSERT_EQ(table_open(path.c_str(), &table).code, STATUS_OK);
    for (const char *section : {"one", "two"}) {
        table_section(&table, section, "A title");
        for (int row = 0; row < 2; row++) {
            table_text(&table, "name", row ? "b" : "a");
            table_number(&table, "share_%", 1, 100.0 / 3 + row);
            table_end_row(&table);
        }
    }
    ASSERT_EQ(table_close(&table).code, STATUS_OK);
    std::string shown = testing::internal::GetCapturedStdout();
    EXPECT_NE(shown.find("A title\n"), std::string::npos);
    EXPECT_NE(shown.find("name"), std::string::npos);
    EXPECT_NE(shown.find("33.3"), std::string::npos);
    EXPECT_NE(shown.find("34.3"), std::string::npos);

    std::stringstream text;
    text << std::ifstream(path).rdbuf();
    unlink(path.c_str());
    cJSON *json = cJSON_Parse(text.str().c_str());
    ASSERT_NE(json, nullptr) << text.str();
    ASSERT_EQ(cJSON_GetArraySize(json), 2);
    const cJSON *row = cJSON_GetArrayItem(cJSON_GetObjectItem(json, "two"), 1);
    EXPECT_STREQ(cJSON_GetObjectItem(row, "name")->valuestring, "b");
    EXPECT_NEAR(cJSON_GetObjectItem(row, "share_%")->valuedouble, 34.3333333, 1e-6);
    cJSON_Delete(json);
}

TEST(Table, AFileThatCannotBeIsSaidSo) {
    struct table table;
    struct status status = table_open("/nonexistent/file", &table);
    EXPECT_EQ(status.code, STATUS_IO);
    EXPECT_NE(std::string(status.message).find("/nonexistent/file"), std::string::npos);
}

} // namespace
