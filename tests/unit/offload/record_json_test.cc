// offload/record_json.c: the performance record as a file: round trip, every refusal by its field, keys that differ.
extern "C" {
#include "offload/record_json.h"
}
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <gtest/gtest.h>
#include <sstream>
#include <string>
#include <sys/stat.h>
#include <unistd.h>

namespace {

record_key make_key() {
    record_key key = {};
    record_key_text(key.model, sizeof key.model, "Small \"quoted\" model");
    key.parameters = 134515008;
    key.model_bytes = (uint64_t{1} << 53) - 1; // exact in JSON, just
    record_key_text(key.device, sizeof key.device, "sim");
    record_key_text(key.device_description, sizeof key.device_description, "NVIDIA A10, simulated");
    record_key_text(key.compute, sizeof key.compute, "int8");
    record_key_text(key.kv_type, sizeof key.kv_type, "f16");
    key.link_bytes_per_s = 24000000000;
    key.rows = 512;
    key.sequences = 64;
    key.context = 2048;
    record_key_text(key.build, sizeof key.build, "1a2b3c4d5e6f");
    return key;
}

record make_record(uint32_t rows, uint32_t contexts) {
    record made = {};
    made.row_count = rows;
    made.context_count = contexts;
    made.link_bytes_per_s = 23999999999;
    made.copy_ns = 0;
    for (uint32_t i = 0; i < rows; i++) {
        made.rows[i] = 1u << i;
        for (uint32_t j = 0; j < contexts; j++) {
            made.contexts[j] = 64u << j;
            made.cell[i][j] = {uint64_t{1000003} * (i + 1) + j, uint64_t{7} * i * j};
        }
    }
    return made;
}

std::string print(const record_key &key, const record &made) {
    char *text = record_json_print(&key, &made);
    std::string out = text;
    free(text);
    return out;
}

std::string refusal(const std::string &text) {
    record_key key;
    record made;
    struct status status = record_json_parse(text.data(), text.size(), &key, &made);
    EXPECT_EQ(status.code, STATUS_INVALID) << text;
    return status.message;
}

// `text` with `from` in place of its first `to`.
std::string with(std::string text, const std::string &from, const std::string &to) {
    size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return text.replace(at, from.size(), to);
}

// A file's path that is gone with the test.
class Folder {
  public:
    Folder() {
        char name[] = "/tmp/record-test-XXXXXX";
        path_ = mkdtemp(name);
    }
    ~Folder() {
        remove(file().c_str());
        rmdir(path_.c_str());
    }
    std::string file() const {
        return path_ + "/record.json";
    }
    void write(const std::string &text) const {
        std::ofstream(file()) << text;
    }

  private:
    std::string path_;
};

TEST(RecordJson, RoundTrip) {
    for (uint32_t rows : {1u, 5u, (uint32_t)RECORD_MAX_ROWS}) {
        for (uint32_t contexts : {1u, (uint32_t)RECORD_MAX_CONTEXTS}) {
            const record_key key = make_key();
            const record made = make_record(rows, contexts);
            const std::string text = print(key, made);
            record_key key_read;
            record read;
            struct status status = record_json_parse(text.data(), text.size(), &key_read, &read);
            ASSERT_EQ(status.code, STATUS_OK) << status.message;
            EXPECT_EQ(print(key_read, read), text);
            EXPECT_STREQ(key_read.model, key.model);
            EXPECT_EQ(key_read.model_bytes, key.model_bytes);
            EXPECT_EQ(read.link_bytes_per_s, made.link_bytes_per_s);
            ASSERT_EQ(read.row_count, rows);
            ASSERT_EQ(read.context_count, contexts);
            for (uint32_t i = 0; i < rows; i++) {
                EXPECT_EQ(read.rows[i], made.rows[i]);
                EXPECT_EQ(0, memcmp(read.cell[i], made.cell[i], contexts * sizeof made.cell[i][0]));
            }
        }
    }
}

TEST(RecordJson, KeysAreAscii) {
    char field[8];
    record_key_text(field, sizeof field, "a\n\xc3\xa9z and more");
    EXPECT_STREQ(field, "a???z a");
    record_key_text(field, 1, "x");
    EXPECT_STREQ(field, "");
}

TEST(RecordJson, RefusesWithTheFieldsName) {
    const std::string good = print(make_key(), make_record(2, 2));
    const struct {
        const char *from, *to, *message;
    } cases[] = {
        {"\"format\":\t1", "\"format\":\t2", "format: is 2, must be a whole number from 1 to 1"},
        {"\"copy_ns\"", "\"copy_us\"", "copy_us: there is no such field"},
        {"\"copy_ns\":\t0,", "", "copy_ns: is missing"},
        {"\"copy_ns\":\t0,", "\"copy_ns\":0,\"copy_ns\":0,", "copy_ns: is there twice"},
        {"\"copy_ns\":\t0", "\"copy_ns\":\"0\"", "copy_ns: expected a number"},
        {"\"copy_ns\":\t0", "\"copy_ns\":-1", "copy_ns: is -1"},
        {"\"copy_ns\":\t0", "\"copy_ns\":1e300", "copy_ns: is 1.0000000000000001e+300"},
        {"23999999999", "0", "link_bytes_per_s: is 0"},
        {"\"parameters\":\t134515008", "\"parameters\":1.5", "key.parameters: is 1.5"},
        {"\"rows\":\t512", "\"rows\":4294967296", "key.rows: is 4294967296"},
        {"\"kv_type\":\t\"f16\"", "\"kv_type\":\"f16f16f1\"", "key.kv_type: expected a text of at most 7 bytes"},
        {"\"compute\":\t\"int8\"", "\"compute\":8", "key.compute: expected a text"},
        {"\"build\"", "\"built\"", "key.built: there is no such field"},
        {"\"sequences\":\t64,", "", "key.sequences: is missing"},
        {"\"key\":\t{", "\"key\":[{", "is not JSON"},
        {"[1, 2]", "[2, 1]", "rows: is 1, must be a whole number from 3"},
        {"[1, 2]", "[1, 1]", "rows: is 1, must be"},
        {"[1, 2]", "[]", "rows: is empty"},
        {"[1, 2]", "[1,2,3]", "layer_ns: expected 3 arrays, one for each of rows"},
        {"[1, 2]", "[1,2,3,4,5,6,7,8,9,10,11,12,13]", "rows: has more than 12 points"},
        {"[1, 2]", "{\"a\":1}", "rows: expected an array"},
        {"[64, 128]", "[64]", "layer_ns[0]: expected 1 numbers, one for each of contexts"},
        {"1000003", "0", "layer_ns: is 0, must be"},
        {"1000003", "1.1e12", "layer_ns: is 1100000000000"},
        {"[1000003, 1000004]", "7", "layer_ns[0]: expected 2 numbers"},
    };
    for (const auto &each : cases) {
        const std::string message = refusal(with(good, each.from, each.to));
        EXPECT_NE(message.find(each.message), std::string::npos) << each.message << "\n" << message;
    }
    EXPECT_NE(refusal(good + "x").find("something follows"), std::string::npos);
    EXPECT_NE(refusal("[]").find("expected an object"), std::string::npos);
    EXPECT_NE(refusal("").find("not JSON"), std::string::npos);
    EXPECT_NE(refusal(good + std::string(RECORD_FILE_BYTES, ' ')).find("longer than"), std::string::npos);
    for (size_t bytes = 0; bytes + 1 < good.size(); bytes += 7) { // the last byte is the line's end
        EXPECT_FALSE(refusal(good.substr(0, bytes)).empty());
    }
}

TEST(RecordJson, SavedAndLoaded) {
    Folder folder;
    const record_key key = make_key();
    const record made = make_record(3, 2);
    record read;
    EXPECT_EQ(record_json_load(folder.file().c_str(), &key, &read).code, STATUS_NOT_FOUND);
    struct status status = record_json_save(folder.file().c_str(), &key, &made);
    ASSERT_EQ(status.code, STATUS_OK) << status.message;
    struct stat left;
    EXPECT_NE(stat((folder.file() + ".new").c_str(), &left), 0);
    status = record_json_load(folder.file().c_str(), &key, &read);
    ASSERT_EQ(status.code, STATUS_OK) << status.message;
    EXPECT_EQ(read.cell[2][1].layer_ns, made.cell[2][1].layer_ns);
    folder.write("{}");
    EXPECT_EQ(record_json_load(folder.file().c_str(), &key, &read).code, STATUS_INVALID);
    status = record_json_load("/", &key, &read);
    EXPECT_EQ(status.code, STATUS_IO);
    status = record_json_save("/no/such/folder/record.json", &key, &made);
    EXPECT_EQ(status.code, STATUS_IO);
    EXPECT_NE(std::string(status.message).find("/no/such/folder/record.json"), std::string::npos);
}

// Every field of the key counts: another value is another key, and is named.
TEST(RecordJson, OtherKeysAreNotFound) {
    Folder folder;
    const record_key key = make_key();
    const record made = make_record(1, 1);
    ASSERT_EQ(record_json_save(folder.file().c_str(), &key, &made).code, STATUS_OK);
    record_key others[12];
    for (record_key &other : others) {
        other = key;
    }
    others[0].model[0] = 's';
    others[1].parameters++;
    others[2].model_bytes--;
    others[3].device[0] = 'S';
    others[4].device_description[0] = 'n';
    others[5].compute[0] = 'f';
    others[6].kv_type[0] = 'b';
    others[7].link_bytes_per_s++;
    others[8].rows++;
    others[9].sequences++;
    others[10].context++;
    others[11].build[0] = '2';
    const char *const names[] = {"model",   "parameters", "model_bytes",      "device", "device_description",
                                 "compute", "kv_type",    "link_bytes_per_s", "rows",   "sequences",
                                 "context", "build"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        record read = {};
        struct status status = record_json_load(folder.file().c_str(), &others[i], &read);
        EXPECT_EQ(status.code, STATUS_NOT_FOUND);
        EXPECT_NE(std::string(status.message).find(std::string("another ") + names[i] + ":"), std::string::npos)
            << status.message;
        EXPECT_EQ(read.row_count, 0u); // untouched
    }
}

} // namespace
