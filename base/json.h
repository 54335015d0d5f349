/* JSON in: a strict check before cJSON sees a byte, so that what comes out of it means what was sent.
 *
 * Owns: the grammar of RFC 8259 with bounds on depth and on the number of values (cJSON takes 64 bytes or more for
 * each, whatever it cost the sender). Refuses what cJSON would take silently: text that is not UTF-8, control
 * characters, trailing bytes, and \u0000, at which cJSON's strings would end.
 * Threads: any. */
#ifndef METRONOME_BASE_JSON_H
#define METRONOME_BASE_JSON_H

#include "base/status.h"

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>

struct json_rules {
    size_t depth;  /* of nested arrays and objects, at most 255 */
    size_t values; /* in all */
    bool comments; /* allow // to the end of the line and C's own */
    bool unique;   /* refuse an object that has a key twice */
};

/* STATUS_INVALID says the line and the column. The caller frees *out with cJSON_Delete(). */
struct status json_parse(const char *text, size_t bytes, const struct json_rules *rules, cJSON **out);

/* "a string", "a number", ... for messages. */
const char *json_type_name(const cJSON *item);

#endif
