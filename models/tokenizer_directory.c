/* The tokenizer of a Hugging Face model directory: which of its files say what.
 *
 * Owns: the names of the files, their bounds, and which file is asked first: tokenizer_config.json says bos, eos and
 * the template; what it does not say, the older special_tokens_map.json; generation_config.json, or without one
 * config.json, lists what ends a generation. Threads: any; a tokenizer is shared only once it is made. */
#include "models/tokenizer_json.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define TOKENIZER_BYTES (UINT32_C(256) << 20)
#define CONFIG_BYTES (UINT32_C(16) << 20)

static const struct json_rules rules = {.depth = 64, .values = 1000000};

/* ---- bos, eos, and what else ends ---- */

/* A special token's content: a string, or an object that has it. NULL if the field is not there. */
static struct status read_token_text(const cJSON *tree, const char *field, struct gguf_string *out) {
    const cJSON *item = json_field(tree, field);
    *out = (struct gguf_string){0};
    if (!item) {
        return STATUS_SUCCESS;
    }
    return cJSON_IsObject(item) ? status_context(json_string_field(item, "content", out), "%s", field)
                                : json_string_field(tree, field, out);
}

static struct status read_token(const cJSON *tree, const char *field, const struct tokenizer *tokenizer,
                                uint32_t *out) {
    struct gguf_string text;
    TRY(read_token_text(tree, field, &text));
    if (!text.data || *out != TOKEN_NONE) {
        return STATUS_SUCCESS;
    }
    *out = tokenizer_find(tokenizer, text.data, text.bytes);
    return *out != TOKEN_NONE ? STATUS_SUCCESS
                              : status_error(STATUS_INVALID, "%s \"%.40s\" is no token", field, text.data);
}

/* bos_token and eos_token, where they are not known yet. */
static struct status read_names(const cJSON *tree, struct tokenizer *tokenizer) {
    TRY(read_token(tree, "bos_token", tokenizer, &tokenizer->bos));
    return read_token(tree, "eos_token", tokenizer, &tokenizer->eos);
}

static struct status copy_template(struct gguf_string text, struct tokenizer *tokenizer) {
    char *copy = malloc(text.bytes + 1);
    if (!copy) {
        return status_error(STATUS_NO_MEMORY, "no memory for a chat template of %zu bytes", text.bytes);
    }
    memcpy(copy, text.data, text.bytes);
    copy[text.bytes] = 0;
    tokenizer->chat_template = (struct gguf_string){.data = copy, .bytes = text.bytes};
    return STATUS_SUCCESS;
}

/* A string, or a list of them by name, of which "default" counts. */
static struct status read_template(const cJSON *tree, struct tokenizer *tokenizer) {
    const cJSON *item = json_field(tree, "chat_template");
    struct gguf_string text;
    if (!item || tokenizer->chat_template.data) {
        return STATUS_SUCCESS;
    }
    if (!cJSON_IsArray(item)) {
        TRY(json_string_field(tree, "chat_template", &text));
        return copy_template(text, tokenizer);
    }
    for (const cJSON *one = item->child; one; one = one->next) {
        struct gguf_string name;
        TRY(status_context(json_string_field(one, "name", &name), "chat_template"));
        TRY(status_context(json_string_field(one, "template", &text), "chat_template"));
        if (strcmp(name.data, "default") == 0) {
            return copy_template(text, tokenizer);
        }
    }
    return STATUS_SUCCESS;
}

static struct status read_tokenizer_config(const cJSON *tree, struct tokenizer *tokenizer) {
    bool adds_bos;
    uint32_t bos = TOKEN_NONE;
    TRY(json_flag_field(tree, "add_bos_token", tokenizer->adds_bos, &adds_bos));
    TRY(read_token(tree, "bos_token", tokenizer, &bos));
    if (adds_bos && !tokenizer->adds_bos && bos == TOKEN_NONE) {
        return status_error(STATUS_INVALID, "add_bos_token is true and there is no bos_token");
    }
    tokenizer->adds_bos = adds_bos;
    TRY(read_names(tree, tokenizer));
    return read_template(tree, tokenizer);
}

/* eos_token_id, one or a list of them: the first is eos if no file said it by name. */
static struct status read_ends(const cJSON *tree, struct tokenizer *tokenizer) {
    const cJSON *item = json_field(tree, "eos_token_id");
    const cJSON *one = cJSON_IsArray(item) ? item->child : item;
    for (; one; one = cJSON_IsArray(item) ? one->next : NULL) {
        uint32_t token;
        TRY(status_context(json_id(one, tokenizer->count, &token), "eos_token_id"));
        if (tokenizer->eos == TOKEN_NONE) {
            tokenizer->eos = token;
        }
        tokenizer_add_end(tokenizer, token);
    }
    return STATUS_SUCCESS;
}

/* ---- the files ---- */

static struct status read_json(struct gguf_string file, const char *name,
                               struct status (*read)(const cJSON *tree, struct tokenizer *tokenizer),
                               struct tokenizer *tokenizer) {
    if (!file.data) {
        return STATUS_SUCCESS;
    }
    cJSON *tree = NULL;
    struct status status = json_parse(file.data, file.bytes, &rules, &tree);
    if (!status_failed(&status)) {
        status = cJSON_IsObject(tree) ? read(tree, tokenizer) : status_error(STATUS_INVALID, "expected an object");
    }
    cJSON_Delete(tree);
    return status_context(status, "%s", name);
}

static struct status read_files(const struct tokenizer_files *files, struct tokenizer *tokenizer) {
    if (files->chat_template.data) {
        TRY(copy_template(files->chat_template, tokenizer));
    }
    TRY(read_json(files->tokenizer_config, "tokenizer_config.json", read_tokenizer_config, tokenizer));
    TRY(read_json(files->special_tokens_map, "special_tokens_map.json", read_names, tokenizer));
    return files->generation_config.data
               ? read_json(files->generation_config, "generation_config.json", read_ends, tokenizer)
               : read_json(files->config, "config.json", read_ends, tokenizer);
}

struct status tokenizer_from_files(const struct tokenizer_files *files, struct tokenizer **out) {
    struct tokenizer *tokenizer = NULL;
    if (files->tokenizer.data) {
        TRY(status_context(tokenizer_from_json(files->tokenizer.data, files->tokenizer.bytes, &tokenizer),
                           "tokenizer.json"));
    } else {
        TRY(tokenizer_from_pair(files, &tokenizer));
    }
    struct status status = read_files(files, tokenizer);
    if (status_failed(&status)) {
        tokenizer_destroy(tokenizer);
        return status;
    }
    *out = tokenizer;
    return STATUS_SUCCESS;
}

/* ---- the directory ---- */

static struct status read_all(int file, size_t most, struct gguf_string *out) {
    struct stat info;
    if (fstat(file, &info) != 0) {
        return status_error(STATUS_IO, "%s", strerror(errno));
    }
    if (!S_ISREG(info.st_mode) || info.st_size < 0 || (uintmax_t)info.st_size > most) {
        return status_error(STATUS_INVALID, "expected a file of at most %zu bytes", most);
    }
    size_t bytes = (size_t)info.st_size, at = 0;
    char *data = malloc(bytes + 1);
    if (!data) {
        return status_error(STATUS_NO_MEMORY, "no memory for %zu bytes", bytes);
    }
    while (at < bytes) {
        ssize_t got = read(file, data + at, bytes - at);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            free(data);
            return got < 0 ? status_error(STATUS_IO, "%s", strerror(errno))
                           : status_error(STATUS_IO, "it became shorter while it was read");
        }
        at += (size_t)got;
    }
    *out = (struct gguf_string){.data = data, .bytes = bytes};
    return STATUS_SUCCESS;
}

/* A file that is not there leaves *out without data. */
static struct status read_file(const char *directory, const char *name, size_t most, struct gguf_string *out) {
    char path[PATH_MAX];
    if ((size_t)snprintf(path, sizeof path, "%s/%s", directory, name) >= sizeof path) {
        return status_error(STATUS_INVALID, "%.100s...: the path is too long", directory);
    }
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0) {
        return errno == ENOENT ? STATUS_SUCCESS : status_error(STATUS_IO, "%s: %s", name, strerror(errno));
    }
    struct status status = read_all(file, most, out);
    close(file);
    return status_context(status, "%s", name);
}

static struct status read_directory(const char *path, struct tokenizer_files *files) {
    const struct {
        const char *name;
        size_t most;
        struct gguf_string *text;
    } table[] = {{"tokenizer.json", TOKENIZER_BYTES, &files->tokenizer},
                 {"tokenizer_config.json", CONFIG_BYTES, &files->tokenizer_config},
                 {"special_tokens_map.json", CONFIG_BYTES, &files->special_tokens_map},
                 {"generation_config.json", CONFIG_BYTES, &files->generation_config},
                 {"config.json", CONFIG_BYTES, &files->config},
                 {"chat_template.jinja", CONFIG_BYTES, &files->chat_template},
                 {"vocab.json", TOKENIZER_BYTES, &files->vocabulary},
                 {"merges.txt", TOKENIZER_BYTES, &files->merges}};
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        TRY(read_file(path, table[i].name, table[i].most, table[i].text));
    }
    if (!files->tokenizer.data && !(files->vocabulary.data && files->merges.data)) {
        return status_error(STATUS_NOT_FOUND, "there is neither a tokenizer.json nor a vocab.json with a merges.txt; "
                                              "other forms are not read");
    }
    return STATUS_SUCCESS;
}

struct status tokenizer_from_directory(const char *path, struct tokenizer **out) {
    struct tokenizer_files files = {0};
    struct status status = read_directory(path, &files);
    if (!status_failed(&status)) {
        status = tokenizer_from_files(&files, out);
    }
    free((char *)files.tokenizer.data);
    free((char *)files.tokenizer_config.data);
    free((char *)files.special_tokens_map.data);
    free((char *)files.generation_config.data);
    free((char *)files.config.data);
    free((char *)files.chat_template.data);
    free((char *)files.vocabulary.data);
    free((char *)files.merges.data);
    return status_context(status, "%s", path);
}
