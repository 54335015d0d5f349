/* The older form of a byte-level tokenizer, which OPT's directories have: vocab.json and merges.txt beside a
 * tokenizer_config.json.
 *
 * Owns: what the class that such a directory names does beside merging. Only GPT-2's is built; others cut texts in
 * other ways, and say so nowhere. Threads: any; a tokenizer is shared only once it is made. */
#include "models/tokenizer_json.h"

#include <stdlib.h>
#include <string.h>

static const struct json_rules rules = {.depth = 64, .values = 8000000};

/* The arrays that the parts point to; strings lie in the trees and in merges.txt. */
struct pair_reading {
    cJSON *vocabulary, *config, *special_map;
    struct gguf_string *tokens, *merges;
    int32_t *types;
    struct tokenizer_parts parts;
};

static struct status read_object(struct gguf_string file, const char *name, cJSON **out) {
    if (!file.data) {
        return STATUS_SUCCESS;
    }
    TRY(status_context(json_parse(file.data, file.bytes, &rules, out), "%s", name));
    return cJSON_IsObject(*out) ? STATUS_SUCCESS : status_error(STATUS_INVALID, "%s: expected an object", name);
}

static struct status check_class(const cJSON *config) {
    struct gguf_string class;
    bool prefix;
    TRY(json_string_field(config, "tokenizer_class", &class));
    if (strcmp(class.data, "GPT2Tokenizer") != 0 && strcmp(class.data, "GPT2TokenizerFast") != 0) {
        return status_error(STATUS_UNSUPPORTED,
                            "tokenizer_class is \"%.40s\"; without a tokenizer.json GPT2Tokenizer is built",
                            class.data);
    }
    TRY(json_flag_field(config, "add_prefix_space", false, &prefix));
    return prefix ? status_error(STATUS_UNSUPPORTED, "add_prefix_space is true, which is not built") : STATUS_SUCCESS;
}

/* Ids are 0 to count - 1, each once. */
static struct status read_tokens(struct pair_reading *reading) {
    size_t count = (size_t)cJSON_GetArraySize(reading->vocabulary);
    reading->tokens = calloc(count + 1, sizeof *reading->tokens);
    reading->types = calloc(count + 1, sizeof *reading->types);
    if (!reading->tokens || !reading->types) {
        return status_error(STATUS_NO_MEMORY, "no memory for %zu tokens", count);
    }
    for (const cJSON *token = reading->vocabulary->child; token; token = token->next) {
        uint32_t id;
        TRY(status_context(json_id(token, (uint32_t)count, &id), "\"%.40s\"", token->string));
        if (reading->types[id] != 0) {
            return status_error(STATUS_INVALID, "\"%.40s\" and \"%.40s\" both have the id %u", reading->tokens[id].data,
                                token->string, id);
        }
        reading->tokens[id] = (struct gguf_string){.data = token->string, .bytes = strlen(token->string)};
        reading->types[id] = TOKEN_TYPE_NORMAL;
    }
    reading->parts.tokens = reading->tokens;
    reading->parts.types = reading->types;
    reading->parts.token_count = count;
    return STATUS_SUCCESS;
}

/* A line a merge, after one with the version. */
static struct status read_merges(struct gguf_string file, struct pair_reading *reading) {
    size_t lines = 1, count = 0;
    for (size_t i = 0; i < file.bytes; i++) {
        lines += file.data[i] == '\n';
    }
    reading->merges = calloc(lines, sizeof *reading->merges);
    if (!reading->merges) {
        return status_error(STATUS_NO_MEMORY, "no memory for %zu merges", lines);
    }
    for (size_t at = 0; at < file.bytes;) {
        const char *line = file.data + at, *end = memchr(line, '\n', file.bytes - at);
        size_t bytes = end ? (size_t)(end - line) : file.bytes - at;
        at += bytes + 1;
        bytes -= bytes > 0 && line[bytes - 1] == '\r';
        bool version = count == 0 && bytes >= 8 && memcmp(line, "#version", 8) == 0;
        if (bytes > 0 && !version) {
            reading->merges[count++] = (struct gguf_string){.data = line, .bytes = bytes};
        }
    }
    reading->parts.merges = reading->merges;
    reading->parts.merge_count = count;
    return STATUS_SUCCESS;
}

/* The tokens that the configuration names are control tokens. */
static void mark_specials(const cJSON *tree, struct pair_reading *reading) {
    static const char *const fields[] = {"bos_token", "eos_token", "unk_token", "pad_token",
                                         "sep_token", "cls_token", "mask_token"};
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        const cJSON *item = json_field(tree, fields[i]);
        item = cJSON_IsObject(item) ? json_field(item, "content") : item;
        const cJSON *id =
            cJSON_IsString(item) ? cJSON_GetObjectItemCaseSensitive(reading->vocabulary, item->valuestring) : NULL;
        if (id) {
            reading->types[(uint32_t)id->valuedouble] = TOKEN_TYPE_CONTROL;
        }
    }
}

static struct status read_pair(const struct tokenizer_files *files, struct pair_reading *reading) {
    TRY(read_object(files->tokenizer_config, "tokenizer_config.json", &reading->config));
    TRY(read_object(files->special_tokens_map, "special_tokens_map.json", &reading->special_map));
    TRY(read_object(files->vocabulary, "vocab.json", &reading->vocabulary));
    TRY(status_context(check_class(reading->config), "tokenizer_config.json"));
    TRY(status_context(read_tokens(reading), "vocab.json"));
    TRY(status_context(read_merges(files->merges, reading), "merges.txt"));
    mark_specials(reading->config, reading);
    mark_specials(reading->special_map, reading);
    reading->parts.pre = "gpt-2";
    reading->parts.bos = reading->parts.eos = TOKEN_NONE;
    return STATUS_SUCCESS;
}

struct status tokenizer_from_pair(const struct tokenizer_files *files, struct tokenizer **out) {
    struct pair_reading reading = {0};
    struct status status = read_pair(files, &reading);
    if (!status_failed(&status)) {
        status = tokenizer_from_parts(&reading.parts, out);
    }
    cJSON_Delete(reading.vocabulary);
    cJSON_Delete(reading.config);
    cJSON_Delete(reading.special_map);
    free(reading.tokens);
    free(reading.types);
    free(reading.merges);
    return status;
}
