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

static struct status read_types(const struct gguf *gguf, size_t tokens, int32_t **out) {
    enum gguf_type type;
    size_t count;
    if (!gguf_has(gguf, TOKEN_TYPES)) {
        return STATUS_SUCCESS; /* all normal */
    }
    TRY(gguf_get_array(gguf, TOKEN_TYPES, &type, &count));
    if (count != tokens) {
        return status_error(STATUS_INVALID, TOKEN_TYPES " has %zu elements for %zu tokens", count, tokens);
    }
    *out = calloc(count + 1, sizeof **out);
    if (!*out) {
        return status_error(STATUS_NO_MEMORY, TOKEN_TYPES ": no memory for %zu types", count);
    }
    return gguf_copy_i32(gguf, TOKEN_TYPES, *out, count);
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

static struct status check_model(const struct gguf *gguf) {
    char model[32];
    TRY(read_name(gguf, "tokenizer.ggml.model", model, sizeof model));
    if (strcmp(model, "gpt2") != 0) {
        return status_error(STATUS_UNSUPPORTED,
                            "tokenizer.ggml.model is \"%s\"; built is \"gpt2\" (byte-level BPE), not yet \"llama\" "
                            "(SentencePiece) or others",
                            model);
    }
    return STATUS_SUCCESS;
}

static struct status read_ends(const struct gguf *gguf, struct tokenizer *tokenizer) {
    TRY(read_id(gguf, "tokenizer.ggml.eot_token_id", tokenizer->count, &tokenizer->eot));
    return read_id(gguf, "tokenizer.ggml.eom_token_id", tokenizer->count, &tokenizer->eom);
}

/* Does the file ask for bos, or if it does not say, do models of this family? */
static struct status read_add_bos(const struct gguf *gguf, const char *pre, uint32_t bos, bool *add_bos) {
    if (gguf_has(gguf, "tokenizer.ggml.add_bos_token")) {
        return gguf_get_bool(gguf, "tokenizer.ggml.add_bos_token", add_bos);
    }
    const struct pre_tokenizer *row;
    TRY(pre_tokenizer_named(pre, &row));
    *add_bos = row->adds_bos && bos != TOKEN_NONE;
    return STATUS_SUCCESS;
}

/* What the parts point to, inside the file where it can be. */
struct arrays {
    struct gguf_string *tokens, *merges;
    int32_t *types;
};

static struct status read_parts(const struct gguf *gguf, struct arrays *arrays, struct tokenizer_parts *parts) {
    TRY(read_strings(gguf, TOKENS, &arrays->tokens, &parts->token_count));
    TRY(read_strings(gguf, MERGES, &arrays->merges, &parts->merge_count));
    TRY(read_types(gguf, parts->token_count, &arrays->types));
    parts->tokens = arrays->tokens;
    parts->merges = arrays->merges;
    parts->types = arrays->types;
    TRY(read_id(gguf, "tokenizer.ggml.bos_token_id", parts->token_count, &parts->bos));
    TRY(read_id(gguf, "tokenizer.ggml.eos_token_id", parts->token_count, &parts->eos));
    return read_add_bos(gguf, parts->pre, parts->bos, &parts->add_bos);
}

/* Keys that are not read: add_eos_token (a prompt is a beginning), unknown_token_id (bytes without a token are
 * dropped, as in the models' own tokenizers), add_space_prefix (SentencePiece's). */
struct status tokenizer_from_gguf(const struct gguf *gguf, struct tokenizer **out) {
    TRY(check_model(gguf));
    char pre[32];
    TRY(read_name(gguf, "tokenizer.ggml.pre", pre, sizeof pre));
    struct tokenizer_parts parts = {.pre = pre};
    struct arrays arrays = {0};
    struct tokenizer *tokenizer = NULL;
    struct status status = read_parts(gguf, &arrays, &parts);
    if (!status_failed(&status)) {
        status = tokenizer_from_parts(&parts, &tokenizer);
    }
    free(arrays.tokens);
    free(arrays.merges);
    free(arrays.types);
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
