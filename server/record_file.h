/* The file of the performance record, offload.record: what it is keyed by in this program, and when it is made anew.
 *
 * Owns: the way from a configuration to a key. The format is offload/record_json.h. Threads: any. */
#ifndef METRONOME_SERVER_RECORD_FILE_H
#define METRONOME_SERVER_RECORD_FILE_H

#include "kernels/device.h"
#include "models/model.h"
#include "offload/record_json.h"
#include "server/options.h"

struct record_file {
    const char *path;      /* the configuration's; "": there is none */
    struct record_key key; /* of what runs now */
    bool found;            /* `record` was measured on the same */
    struct record record;
};

/* Reads the record that the configuration names. A file that is not there or has another key is not found, which is
 * logged; one that is no record at all is an error, for it may be something dear under a wrong name. */
struct status record_file_open(const struct config *config, const struct model *model, const struct device *device,
                               struct record_file *out);

/* Writes the record (NULL: there is none) where the file was not found. */
struct status record_file_keep(const struct record_file *file, const struct record *record);

/* What a record made under this configuration depends on. */
struct status record_file_key(const struct config *config, const struct model *model, const struct device *device,
                              struct record_key *out);

#endif
