/* Fuzz target: any bytes as a performance record. What is accepted can be interpolated in and is written back as what
 * it was. */
#include "base/check.h"
#include "offload/record_json.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    struct record_key key, key_again;
    struct record record, again;
    struct status status = record_json_parse((const char *)data, bytes, &key, &record);
    CHECK(status.code == STATUS_OK || status.message[0]); /* a refusal says why */
    if (status.code != STATUS_OK) {
        return 0;
    }
    struct record_cell cell;
    CHECK(record_get(&record, record.rows[0], record.contexts[0], &cell));
    CHECK(cell.layer_ns == record.cell[0][0].layer_ns && cell.outside_ns == record.cell[0][0].outside_ns);
    char *text = record_json_print(&key, &record);
    CHECK(text);
    CHECK(record_json_parse(text, strlen(text), &key_again, &again).code == STATUS_OK);
    CHECK(memcmp(&record, &again, sizeof record) == 0 && strcmp(key.model, key_again.model) == 0);
    free(text);
    return 0;
}
