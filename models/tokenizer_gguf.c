/* Making a tokenizer from the tokenizer.ggml.* keys of a GGUF file.
 *
 * Owns: the names of the keys, and what a file may leave out. Threads: any; a tokenizer is shared once it is made. */
#include "base/utf8.h"
#include "models/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

#define TOKENS "tokenizer.ggml.tokens"
#define TOKEN_TYPES "tokenizer.ggml.token_type"
#define MERGES "tokenizer.ggml.merges"
#define SCORES "tokenizer.ggml.scores"
#define ADD_BOS "tokenizer.ggml.add_bos_token"

static struct status keep_string(void *context, size_t index, struct gguf_string string) {
    ((struct gguf_string *)context)[index] = string;
    return STATUS_SUCCESS;
}

/* The strings of an array, still inside the file; the caller frees the array. */
static struct status read_strings(const struct gguf *gguf, const char *key, struct gguf_string **out, size_t *count) {
    enum gguf_type type;
    TRY(gguf_get_array(gguf, key, &type, count));
    if (type != GGUF_STRING) {
        return status_error(STATUS_INVALID, "%s: its elements are not strings", key);
    }
    *out = calloc(*count + 1, sizeof **out);
    if (!*out) {
        return status_error(STATUS_NO_MEMORY, "%s: no memory for %zu strings", key, *count);
    }
    return gguf_visit_strings(gguf, key, keep_string, *out);
}

/* Types and scores, or whatever else has one element a token. */
static struct status check_count(const struct gguf *gguf, const char *key, size_t tokens) {
    enum gguf_type type;
    size_t count;
    TRY(gguf_get_array(gguf, key, &type, &count));
    if (count != tokens) {
        return status_error(STATUS_INVALID, "%s has %zu elements for %zu tokens", key, count, tokens);
    }
    return STATUS_SUCCESS;
}

static struct status read_types(const struct gguf *gguf, size_t tokens, int32_t **out) {
    if (!gguf_has(gguf, TOKEN_TYPES)) {
        return STATUS_SUCCESS; /* all normal */
    }
    TRY(check_count(gguf, TOKEN_TYPES, tokens));
    *out = calloc(tokens + 1, sizeof **out);
    if (!*out) {
        return status_error(STATUS_NO_MEMORY, TOKEN_TYPES ": no memory for %zu types", tokens);
    }
    return gguf_copy_i32(gguf, TOKEN_TYPES, *out, tokens);
}

static struct status read_id(const struct gguf *gguf, const char *key, size_t tokens, uint32_t *id) {
    *id = TOKEN_NONE;
    if (!gguf_has(gguf, key)) {
        return STATUS_SUCCESS;
    }
    uint64_t value;
    TRY(gguf_get_u64(gguf, key, &value));
    if (value >= tokens) {
        return status_error(STATUS_INVALID, "%s is %llu, and there are %zu tokens", key, (unsigned long long)value,
                            tokens);
    }
    *id = (uint32_t)value;
    return STATUS_SUCCESS;
}

/* A terminated copy of a short string value. */
static struct status read_name(const struct gguf *gguf, const char *key, char *out, size_t size) {
    struct gguf_string value;
    TRY(gguf_get_string(gguf, key, &value));
    if (value.bytes >= size || memchr(value.data, 0, value.bytes) || !utf8_valid(value.data, value.bytes)) {
        return status_error(STATUS_INVALID, "%s is not a short name", key);
    }
    memcpy(out, value.data, value.bytes);
    out[value.bytes] = 0;
    return STATUS_SUCCESS;
}

static struct status read_scores(const struct gguf *gguf, size_t tokens, float **out) {
    TRY(check_count(gguf, SCORES, tokens));
    *out = calloc(tokens + 1, sizeof **out);
    if (!*out) {
        return status_error(STATUS_NO_MEMORY, SCORES ": no memory for %zu scores", tokens);
    }
    return gguf_copy_f32(gguf, SCORES, *out, tokens);
}

/* What a file may leave out. */
static struct status read_flag(const struct gguf *gguf, const char *key, bool otherwise, bool *out) {
    *out = otherwise;
    return gguf_has(gguf, key) ? gguf_get_bool(gguf, key, out) : STATUS_SUCCESS;
}

static struct status read_id_or(const struct gguf *gguf, const char *key, size_t tokens, uint32_t otherwise,
                                uint32_t *id) {
    TRY(read_id(gguf, key, tokens, id));
    *id = gguf_has(gguf, key) || otherwise >= tokens ? *id : otherwise;
    return STATUS_SUCCESS;
}

/* What the parts point to, inside the file where it can be. */
struct arrays {
    struct gguf_string *tokens, *merges;
    int32_t *types;
    float *scores;
    char pre[32];
};

static struct status read_byte_level(const struct gguf *gguf, struct arrays *arrays, struct tokenizer_parts *parts) {
    const struct pre_tokenizer *row;
    TRY(read_name(gguf, "tokenizer.ggml.pre", arrays->pre, sizeof arrays->pre));
    TRY(pre_tokenizer_named(arrays->pre, &row));
    TRY(read_strings(gguf, MERGES, &arrays->merges, &parts->merge_count));
    TRY(read_id(gguf, "tokenizer.ggml.bos_token_id", parts->token_count, &parts->bos));
    TRY(read_id(gguf, "tokenizer.ggml.eos_token_id", parts->token_count, &parts->eos));
    parts->merges = arrays->merges;
    parts->pre = arrays->pre;
    return read_flag(gguf, ADD_BOS, row->adds_bos && parts->bos != TOKEN_NONE, &parts->add_bos);
}

/* A normalizer of SentencePiece's own, which GGUF has for other models, would change texts before anything else. */
static struct status check_normalizer(const struct gguf *gguf) {
    bool removes;
    TRY(read_flag(gguf, "tokenizer.ggml.remove_extra_whitespaces", false, &removes));
    if (removes) {
        return status_error(STATUS_UNSUPPORTED, "tokenizer.ggml.remove_extra_whitespaces is true, which is not built");
    }
    if (gguf_has(gguf, "tokenizer.ggml.precompiled_charsmap")) {
        return status_error(STATUS_UNSUPPORTED, "tokenizer.ggml.precompiled_charsmap is not built");
    }
    return STATUS_SUCCESS;
}

/* The ids are SentencePiece's own where the file does not say. */
static struct status read_scored(const struct gguf *gguf, struct arrays *arrays, struct tokenizer_parts *parts) {
    size_t tokens = parts->token_count;
    TRY(check_normalizer(gguf));
    TRY(read_scores(gguf, tokens, &arrays->scores));
    parts->scores = arrays->scores;
    TRY(read_id_or(gguf, "tokenizer.ggml.unknown_token_id", tokens, 0, &parts->unknown));
    TRY(read_id_or(gguf, "tokenizer.ggml.bos_token_id", tokens, 1, &parts->bos));
    TRY(read_id_or(gguf, "tokenizer.ggml.eos_token_id", tokens, 2, &parts->eos));
    TRY(read_flag(gguf, "tokenizer.ggml.add_space_prefix", true, &parts->add_space_prefix));
    return read_flag(gguf, ADD_BOS, parts->bos != TOKEN_NONE, &parts->add_bos);
}

/* Keys that are not read: add_eos_token (a prompt is a beginning), unknown_token_id of a byte-level vocabulary (bytes
 * without a token are dropped, as in the models' own tokenizers). */
static struct status read_parts(const struct gguf *gguf, struct arrays *arrays, struct tokenizer_parts *parts) {
    char model[32];
    TRY(read_name(gguf, "tokenizer.ggml.model", model, sizeof model));
    bool scored = strcmp(model, "llama") == 0;
    if (!scored && strcmp(model, "gpt2") != 0) {
        return status_error(STATUS_UNSUPPORTED,
                            "tokenizer.ggml.model is \"%s\"; built are \"gpt2\" (byte-level BPE) and \"llama\" "
                            "(SentencePiece's BPE)",
                            model);
    }
    TRY(read_strings(gguf, TOKENS, &arrays->tokens, &parts->token_count));
    TRY(read_types(gguf, parts->token_count, &arrays->types));
    parts->tokens = arrays->tokens;
    parts->types = arrays->types;
    return scored ? read_scored(gguf, arrays, parts) : read_byte_level(gguf, arrays, parts);
}

/* Tokens that end a generation besides eos. */
static struct status read_ends(const struct gguf *gguf, struct tokenizer *tokenizer) {
    static const char *const keys[] = {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        uint32_t token;
        TRY(read_id(gguf, keys[i], tokenizer->count, &token));
        tokenizer_add_end(tokenizer, token);
    }
    return STATUS_SUCCESS;
}

struct status tokenizer_from_gguf(const struct gguf *gguf, struct tokenizer **out) {
    struct arrays arrays = {0};
    struct tokenizer_parts parts = {0};
    struct tokenizer *tokenizer = NULL;
    struct status status = read_parts(gguf, &arrays, &parts);
    if (!status_failed(&status)) {
        status = tokenizer_from_parts(&parts, &tokenizer);
    }
    free(arrays.tokens);
    free(arrays.merges);
    free(arrays.types);
    free(arrays.scores);
    if (!status_failed(&status)) {
        status = read_ends(gguf, tokenizer);
    }
    if (status_failed(&status)) {
        tokenizer_destroy(tokenizer);
        return status;
    }
    *out = tokenizer;
    return STATUS_SUCCESS;
}
