/* A tokenizer.json: its model (BPE) and its added tokens, put together with its components.
 *
 * Owns: the order in which a file is read, and what ids it may give. Its components are tokenizer_json_steps.c's.
 * Threads: any; a tokenizer is shared only once it is made. */
#include "models/tokenizer_json.h"

#include <stdlib.h>
#include <string.h>

/* An id costs memory whether it is used or not: a file of a few bytes must not ask for the last. Ids leave few gaps. */
#define MOST_UNUSED 65536

/* Gemma's file has 2 million values. */
static const struct json_rules rules = {.depth = 32, .values = 8000000};

/* A file as it is read; strings lie in the tree. */
struct reading {
    const cJSON *tree, *model, *added;
    struct gguf_string *tokens; /* (count) by id; those of no id are empty */
    int32_t *types;             /* (count) */
    struct vocabulary vocabulary;
    struct text_index spellings; /* of the model's own tokens, without what is only added */
    struct json_plan plan;
};

static struct gguf_string string_of(const char *text) {
    return (struct gguf_string){.data = text, .bytes = strlen(text)};
}

/* ---- the vocabulary ---- */

static struct status raise_count(const cJSON *id, const char *name, uint32_t limit, size_t *count) {
    uint32_t value;
    TRY(status_context(json_id(id, limit, &value), "\"%.40s\"", name));
    *count = value >= *count ? value + 1 : *count;
    return STATUS_SUCCESS;
}

static struct status count_tokens(const struct reading *reading, size_t *count) {
    const cJSON *vocab = json_field(reading->model, "vocab");
    if (!cJSON_IsObject(vocab)) {
        return status_error(STATUS_INVALID, "model: vocab: expected an object");
    }
    size_t listed = (size_t)cJSON_GetArraySize(vocab) + (size_t)cJSON_GetArraySize(reading->added);
    uint32_t limit = (uint32_t)(listed * 2 + MOST_UNUSED); /* there are at most rules.values */
    for (const cJSON *token = vocab->child; token; token = token->next) {
        TRY(status_context(raise_count(token, token->string, limit, count), "model: vocab"));
    }
    size_t index = 0;
    for (const cJSON *token = reading->added ? reading->added->child : NULL; token; token = token->next, index++) {
        struct gguf_string content;
        TRY(status_context(json_string_field(token, "content", &content), "added_tokens[%zu]", index));
        if (content.bytes == 0) {
            return status_error(STATUS_INVALID, "added_tokens[%zu]: content is empty", index);
        }
        TRY(status_context(raise_count(json_field(token, "id"), content.data, limit, count), "added_tokens[%zu]: id",
                           index));
    }
    return *count > 0 ? STATUS_SUCCESS : status_error(STATUS_INVALID, "model: vocab is empty");
}

static struct status read_vocabulary(struct reading *reading) {
    size_t count = 0;
    TRY(count_tokens(reading, &count));
    reading->tokens = calloc(count, sizeof *reading->tokens);
    reading->types = malloc(count * sizeof *reading->types);
    if (!reading->tokens || !reading->types) {
        return status_error(STATUS_NO_MEMORY, "no memory for %zu tokens", count);
    }
    for (size_t i = 0; i < count; i++) {
        reading->tokens[i] = string_of("");
        reading->types[i] = TOKEN_TYPE_UNUSED;
    }
    for (const cJSON *token = json_field(reading->model, "vocab")->child; token; token = token->next) {
        uint32_t id = (uint32_t)token->valuedouble;
        if (reading->types[id] != TOKEN_TYPE_UNUSED) {
            return status_error(STATUS_INVALID, "model: vocab: \"%.40s\" and \"%.40s\" both have the id %u",
                                reading->tokens[id].data, token->string, id);
        }
        reading->tokens[id] = string_of(token->string);
        reading->types[id] = TOKEN_TYPE_NORMAL;
    }
    reading->vocabulary = (struct vocabulary){.tokens_name = "model: vocab",
                                              .types_name = "added_tokens",
                                              .merges_name = "model: merges",
                                              .tokens = reading->tokens,
                                              .types = reading->types,
                                              .count = count};
    return index_spellings(&reading->vocabulary, &reading->spellings);
}

static struct status place_added(struct reading *reading, const cJSON *token) {
    bool special;
    TRY(json_flag_field(token, "special", false, &special));
    struct gguf_string content = string_of(json_field(token, "content")->valuestring);
    uint32_t id = (uint32_t)json_field(token, "id")->valuedouble;
    uint32_t there = text_index_find(&reading->spellings, content.data, content.bytes);
    const struct gguf_string *old = &reading->tokens[id];
    if (there != TOKEN_NONE && there != id) {
        return status_error(STATUS_INVALID, "\"%.40s\" has the id %u, and in model: vocab %u", content.data, id, there);
    }
    if (reading->types[id] != TOKEN_TYPE_UNUSED &&
        (old->bytes != content.bytes || strcmp(old->data, content.data) != 0)) {
        return status_error(STATUS_INVALID, "\"%.40s\" and \"%.40s\" both have the id %u", old->data, content.data, id);
    }
    reading->tokens[id] = content;
    reading->types[id] = special ? TOKEN_TYPE_CONTROL : TOKEN_TYPE_USER_DEFINED;
    return STATUS_SUCCESS;
}

static struct status read_added(struct reading *reading) {
    size_t index = 0;
    for (const cJSON *token = reading->added ? reading->added->child : NULL; token; token = token->next, index++) {
        TRY(status_context(place_added(reading, token), "added_tokens[%zu]", index));
    }
    return STATUS_SUCCESS;
}

/* ---- specials ---- */

static struct status make_special(const cJSON *token, const struct tokenizer *tokenizer, struct special *out,
                                  bool *normalized) {
    uint32_t id = (uint32_t)json_field(token, "id")->valuedouble;
    *out = (struct special){.token = id, .text = string_of(json_field(token, "content")->valuestring)};
    TRY(json_flag_field(token, "lstrip", false, &out->takes_left));
    TRY(json_flag_field(token, "rstrip", false, &out->takes_right));
    TRY(json_flag_field(token, "single_word", false, &out->whole_word));
    return json_flag_field(token, "normalized", tokenizer->types[id] != TOKEN_TYPE_CONTROL, normalized);
}

/* The texts that specials are found by, in the tree until now, go to memory of the tokenizer's own: those to be found
 * in a normalized text normalized. */
static struct status keep_texts(struct tokenizer *tokenizer, struct special_set *set, bool normalized,
                                struct text_buffer *storage) {
    struct normal_scratch scratch = {0};
    struct status status = STATUS_SUCCESS;
    for (size_t i = 0; i < set->count && !status_failed(&status); i++) {
        struct special_text text = {.data = set->items[i].text.data, .bytes = set->items[i].text.bytes};
        if (normalized) {
            status = normalize(&tokenizer->normalizers, text.data, text.bytes, false, &scratch, &text);
        }
        if (!status_failed(&status) && text.bytes == 0) {
            status = status_error(STATUS_INVALID, "\"%.40s\" is empty when it is normalized", set->items[i].text.data);
        }
        if (!status_failed(&status)) {
            status = text_buffer_add(storage, text.data, text.bytes);
            set->items[i].text.bytes = text.bytes;
        }
    }
    normal_scratch_free(&scratch);
    return status;
}

static struct status sort_set(struct special_set *set, const char **at) {
    for (size_t i = 0; i < set->count; i++) { /* the storage has stopped moving */
        set->items[i].text.data = *at;
        *at += set->items[i].text.bytes;
    }
    special_set_sort(set);
    for (size_t i = 1; i < set->count; i++) {
        const struct gguf_string *a = &set->items[i - 1].text, *b = &set->items[i].text;
        if (a->bytes == b->bytes && memcmp(a->data, b->data, a->bytes) == 0) {
            return status_error(STATUS_INVALID, "ids %u and %u have the same content", set->items[i - 1].token,
                                set->items[i].token);
        }
    }
    return STATUS_SUCCESS;
}

static struct status make_specials(const struct reading *reading, struct tokenizer *tokenizer) {
    size_t count = reading->added ? (size_t)cJSON_GetArraySize(reading->added) : 0, index = 0;
    struct special_set *sets[2] = {&tokenizer->specials, &tokenizer->normalized_specials};
    for (int i = 0; i < 2; i++) {
        sets[i]->items = calloc(count + 1, sizeof *sets[i]->items);
        if (!sets[i]->items) {
            return status_error(STATUS_NO_MEMORY, "no memory for %zu added tokens", count);
        }
    }
    for (const cJSON *token = count ? reading->added->child : NULL; token; token = token->next, index++) {
        struct special special;
        bool normalized;
        TRY(status_context(make_special(token, tokenizer, &special, &normalized), "added_tokens[%zu]", index));
        sets[normalized]->items[sets[normalized]->count++] = special;
    }
    struct text_buffer storage = {0};
    struct status status = keep_texts(tokenizer, sets[0], false, &storage);
    status = status_failed(&status) ? status : keep_texts(tokenizer, sets[1], true, &storage);
    tokenizer->special_storage = storage.data;
    const char *at = storage.data;
    status = status_failed(&status) ? status : sort_set(sets[0], &at);
    status = status_failed(&status) ? status : sort_set(sets[1], &at);
    return status_context(status, "added_tokens");
}

/* ---- the model ---- */

static struct status check_model(const cJSON *model) {
    static const char *const fields[] = {"type",
                                         "dropout",
                                         "unk_token",
                                         "continuing_subword_prefix",
                                         "end_of_word_suffix",
                                         "fuse_unk",
                                         "byte_fallback",
                                         "ignore_merges",
                                         "vocab",
                                         "merges",
                                         NULL};
    if (!cJSON_IsObject(model)) {
        return status_error(STATUS_INVALID, "expected an object, found %s", model ? json_type_name(model) : "nothing");
    }
    const cJSON *type = json_field(model, "type"); /* old files have none */
    if (type && (!cJSON_IsString(type) || strcmp(type->valuestring, "BPE") != 0)) {
        return status_error(STATUS_UNSUPPORTED, "type is \"%.40s\"; built is BPE",
                            cJSON_IsString(type) ? type->valuestring : json_type_name(type));
    }
    TRY(json_only_fields(model, fields));
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < 2; i++) {
        const cJSON *affix = json_field(model, affixes[i]);
        if (affix && !(cJSON_IsString(affix) && affix->valuestring[0] == 0)) {
            return status_error(STATUS_UNSUPPORTED, "%s is not built", affixes[i]);
        }
    }
    const cJSON *dropout = json_field(model, "dropout");
    if (dropout && !(cJSON_IsNumber(dropout) && dropout->valuedouble == 0)) {
        return status_error(STATUS_UNSUPPORTED, "dropout is for training, and not built");
    }
    return STATUS_SUCCESS;
}

static struct status read_model_flags(const struct reading *reading, struct bpe *bpe) {
    TRY(json_flag_field(reading->model, "byte_fallback", false, &bpe->byte_fallback));
    TRY(json_flag_field(reading->model, "fuse_unk", false, &bpe->fuse_unknown));
    TRY(json_flag_field(reading->model, "ignore_merges", false, &bpe->whole_words));
    bpe->unknown = TOKEN_NONE;
    if (json_field(reading->model, "unk_token")) {
        struct gguf_string unknown;
        TRY(json_string_field(reading->model, "unk_token", &unknown));
        bpe->unknown = text_index_find(&reading->spellings, unknown.data, unknown.bytes);
        if (bpe->unknown == TOKEN_NONE) {
            return status_error(STATUS_INVALID, "unk_token \"%.40s\" is not in vocab", unknown.data);
        }
    }
    return STATUS_SUCCESS;
}

/* "left right", or ["left", "right"]. */
static bool read_merge(const cJSON *item, struct gguf_string *left, struct gguf_string *right) {
    if (cJSON_IsArray(item)) {
        const cJSON *first = item->child, *second = first ? first->next : NULL;
        if (!cJSON_IsString(first) || !cJSON_IsString(second) || second->next) {
            return false;
        }
        *left = string_of(first->valuestring);
        *right = string_of(second->valuestring);
        return true;
    }
    const char *space = cJSON_IsString(item) ? strchr(item->valuestring, ' ') : NULL;
    if (!space || strchr(space + 1, ' ')) {
        return false;
    }
    *left = (struct gguf_string){.data = item->valuestring, .bytes = (size_t)(space - item->valuestring)};
    *right = string_of(space + 1);
    return true;
}

static struct status read_merges(const struct reading *reading, struct tokenizer *tokenizer) {
    const cJSON *merges = json_field(reading->model, "merges");
    if (!cJSON_IsArray(merges)) {
        return status_error(STATUS_INVALID, "model: merges: expected an array");
    }
    TRY(bpe_create(&tokenizer->bpe, (size_t)cJSON_GetArraySize(merges)));
    struct text_buffer joined = {0};
    struct status status = STATUS_SUCCESS;
    size_t index = 0;
    for (const cJSON *item = merges->child; item && !status_failed(&status); item = item->next, index++) {
        struct gguf_string left, right;
        status = read_merge(item, &left, &right)
                     ? tokenizer_add_merge(&reading->spellings, &reading->vocabulary, left, right, index, &joined,
                                           &tokenizer->bpe)
                     : status_error(STATUS_INVALID, "model: merges[%zu] is not two tokens", index);
    }
    free(joined.data);
    return status;
}

/* ---- symbols ---- */

/* Bytes' tokens are those of the model's own that no one added. */
static void mark_bytes(struct reading *reading, const struct bpe *bpe) {
    for (unsigned byte = 0; byte < 256 && reading->plan.spelling.byte_fallback; byte++) {
        uint32_t token = bpe->byte_tokens[byte];
        if (token != TOKEN_NONE && reading->types[token] == TOKEN_TYPE_NORMAL) {
            reading->types[token] = TOKEN_TYPE_BYTE;
        }
    }
}

static struct status make_byte_symbols(struct reading *reading, struct tokenizer *tokenizer) {
    if (tokenizer->bpe.byte_fallback) {
        return status_error(STATUS_UNSUPPORTED, "model: byte_fallback with a ByteLevel pre_tokenizer is not built");
    }
    tokenizer->bpe.byte_level = true;
    TRY(tokenizer_find_bytes(&reading->spellings, &reading->vocabulary, &tokenizer->bpe));
    return tokenizer_make_texts(&reading->vocabulary, &reading->plan.spelling, tokenizer);
}

/* The index of the spellings becomes the tokenizer's, over its own copies. */
static struct status make_character_symbols(struct reading *reading, struct tokenizer *tokenizer) {
    struct bpe *bpe = &tokenizer->bpe;
    tokenizer_find_numbered_bytes(&reading->spellings, bpe);
    mark_bytes(reading, bpe);
    TRY(tokenizer_make_texts(&reading->vocabulary, &reading->plan.spelling, tokenizer));
    TRY(tokenizer_keep_symbols(&reading->vocabulary, tokenizer));
    bpe->symbol_index = reading->spellings;
    bpe->symbol_index.texts = bpe->symbols;
    reading->spellings = (struct text_index){0};
    tokenizer_find_ascii(bpe);
    return STATUS_SUCCESS;
}

static struct status read_components(struct reading *reading) {
    struct {
        const char *name;
        struct status (*read)(const cJSON *item, struct json_plan *plan);
    } const components[] = {{"normalizer", json_read_normalizer},
                            {"pre_tokenizer", json_read_pre_tokenizer},
                            {"decoder", json_read_decoder},
                            {"post_processor", json_read_post_processor}};
    for (size_t i = 0; i < sizeof components / sizeof components[0]; i++) {
        const cJSON *item = json_field(reading->tree, components[i].name);
        if (item) {
            TRY(status_context(components[i].read(item, &reading->plan), "%s", components[i].name));
        }
    }
    if (!json_field(reading->tree, "decoder")) {
        return status_error(STATUS_UNSUPPORTED, "decoder is missing: tokens would be joined by spaces, is not built");
    }
    if (reading->plan.cuts_bytes != reading->plan.spelling.byte_level) {
        return status_error(STATUS_UNSUPPORTED, "of pre_tokenizer and decoder only one is ByteLevel");
    }
    return STATUS_SUCCESS;
}

static struct status build(struct reading *reading, struct tokenizer *tokenizer) {
    reading->plan.tokenizer = tokenizer;
    tokenizer->bos = tokenizer->eos = TOKEN_NONE;
    if (reading->added && !cJSON_IsArray(reading->added)) {
        return status_error(STATUS_INVALID, "added_tokens: expected an array");
    }
    TRY(status_context(check_model(reading->model), "model"));
    TRY(read_components(reading));
    TRY(read_vocabulary(reading));
    TRY(read_added(reading));
    TRY(status_context(read_model_flags(reading, &tokenizer->bpe), "model"));
    if (reading->plan.cuts_bytes) {
        TRY(make_byte_symbols(reading, tokenizer));
        TRY(read_merges(reading, tokenizer));
    } else {
        /* The merges are found by the spellings' index, which then goes to the tokenizer. */
        TRY(read_merges(reading, tokenizer));
        TRY(make_character_symbols(reading, tokenizer));
    }
    if (reading->plan.prefix) {
        TRY(status_context(json_id(reading->plan.prefix, tokenizer->count, &tokenizer->bos),
                           "post_processor: special_tokens"));
        tokenizer->adds_bos = true;
    }
    return make_specials(reading, tokenizer);
}

struct status tokenizer_from_json(const char *text, size_t bytes, struct tokenizer **out) {
    cJSON *tree = NULL;
    TRY(json_parse(text, bytes, &rules, &tree));
    struct reading reading = {
        .tree = tree, .model = json_field(tree, "model"), .added = json_field(tree, "added_tokens")};
    struct tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    struct status status =
        tokenizer ? build(&reading, tokenizer) : status_error(STATUS_NO_MEMORY, "no memory for a tokenizer");
    free(reading.tokens);
    free(reading.types);
    text_index_destroy(&reading.spellings);
    cJSON_Delete(tree);
    if (status_failed(&status)) {
        tokenizer_destroy(tokenizer);
        return status;
    }
    *out = tokenizer;
    return STATUS_SUCCESS;
}
