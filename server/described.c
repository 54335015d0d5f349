#include "server/described.h"

#include "server/text.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FOLDERS 2

/* The folders of one kind of description, "hardware" or "models"; "" where there is none to name. */
static void find_folders(const char *kind, char folders[FOLDERS][PATH_MAX]) {
    snprintf(folders[0], PATH_MAX, "configs/%s", kind);
    folders[1][0] = 0;
    char program[PATH_MAX / 2];
    ssize_t bytes = readlink("/proc/self/exe", program, sizeof program - 1);
    char *slash = NULL;
    if (bytes > 0) {
        program[bytes] = 0;
        slash = strrchr(program, '/');
    }
    if (slash) {
        *slash = 0;
        snprintf(folders[1], PATH_MAX, "%s/../share/metronome/configs/%s", program, kind);
    }
}

static bool is_file(const char *path) {
    struct stat entry;
    return stat(path, &entry) == 0 && S_ISREG(entry.st_mode);
}

static int is_description(const struct dirent *entry) {
    const char *dot = strrchr(entry->d_name, '.');
    return dot && dot > entry->d_name && strcmp(dot, ".json") == 0;
}

/* Appends the names in a folder, in order: "a10, h100". */
static void add_names(const char *folder, struct text *out) {
    struct dirent **entries;
    int count = scandir(folder, &entries, is_description, alphasort);
    for (int i = 0; i < count; i++) {
        size_t bytes = strlen(entries[i]->d_name) - strlen(".json");
        text_addf(out, "%s%.*s", out->bytes > 0 ? ", " : "", (int)bytes, entries[i]->d_name);
        free(entries[i]);
    }
    if (count >= 0) {
        free(entries);
    }
}

static struct status not_found(const char *kind, const char *name, char folders[FOLDERS][PATH_MAX]) {
    struct text names = {0};
    for (int i = 0; i < FOLDERS && names.bytes == 0; i++) {
        add_names(folders[i], &names);
    }
    const char *known = names.bytes > 0 ? text_string(&names) : NULL;
    struct status status =
        status_error(STATUS_NOT_FOUND,
                     "no description of %s \"%.60s\": neither a file of that name, nor in %s, nor in "
                     "%.120s%s%s",
                     kind, name, folders[0], folders[1], known ? "; there are " : "", known ? known : "");
    text_free(&names);
    return status;
}

static struct status find_description(const char *kind, const char *what, const char *name, char path[PATH_MAX]) {
    char folders[FOLDERS][PATH_MAX];
    find_folders(kind, folders);
    snprintf(path, PATH_MAX, "%s", name);
    if (is_file(path)) {
        return STATUS_SUCCESS;
    }
    for (int i = 0; i < FOLDERS && !strchr(name, '/'); i++) {
        int length = snprintf(path, PATH_MAX, "%s/%s.json", folders[i], name);
        if (folders[i][0] && length < PATH_MAX && is_file(path)) {
            return STATUS_SUCCESS;
        }
    }
    return not_found(what, name, folders);
}

struct status described_hardware_path(const char *name, char *path) {
    return find_description("hardware", "hardware", name, path);
}

struct status described_hardware(const char *name, struct hardware *out) {
    char path[PATH_MAX];
    TRY(described_hardware_path(name, path));
    return hardware_load(path, out);
}

struct status described_model(const char *name, struct model_description *out) {
    char path[PATH_MAX];
    TRY(find_description("models", "a model", name, path));
    return description_load(path, out);
}
