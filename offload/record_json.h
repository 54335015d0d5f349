/* The performance record as a file: JSON that says what it was measured on, so that it is used for nothing else.
 *
 * Owns: the format and the key. Who measures, and when, is the engine's. Threads: any; pure, but for the two functions
 * that take a path. */
#ifndef METRONOME_OFFLOAD_RECORD_JSON_H
#define METRONOME_OFFLOAD_RECORD_JSON_H

#include "base/status.h"
#include "offload/record.h"

#include <stddef.h>
#include <stdint.h>

#define RECORD_FILE_BYTES 65536 /* at most, of a file */

/* What the times depend on. Texts are printable ASCII: record_key_text(). */
struct record_key {
    char model[96]; /* its name */
    uint64_t parameters;
    uint64_t model_bytes;         /* of its weights */
    char device[16];              /* "cpu" */
    char device_description[128]; /* "AMD EPYC, avx512_vnni, 2 threads" */
    char compute[16];             /* "int8" or "f32", and ", cuBLAS" where it multiplies */
    char kv_type[8];
    uint64_t link_bytes_per_s;         /* nominal; 0: unknown, or not paced */
    uint32_t rows, sequences, context; /* the largest iteration: the grid goes no further */
    char build[48];                    /* the commit that measured */
};

/* Puts `text` into a field of the key, cut to its size, other characters than printable ASCII as '?'. */
void record_key_text(char *field, size_t size, const char *text);

/* The whole file's text, ending in a newline; the caller frees it. NULL: no memory. */
char *record_json_print(const struct record_key *key, const struct record *record);

/* Strict: every field once, of its type and within its bounds, and no other. STATUS_INVALID names the field. */
struct status record_json_parse(const char *text, size_t bytes, struct record_key *key, struct record *record);

/* STATUS_NOT_FOUND if there is no file, or if its key is another one: the message names what differs.
 * STATUS_INVALID if it is no record, and STATUS_IO if it cannot be read. */
struct status record_json_load(const char *path, const struct record_key *key, struct record *record);

/* Writes the file whole or not at all: beside its place, then renamed. */
struct status record_json_save(const char *path, const struct record_key *key, const struct record *record);

#endif
