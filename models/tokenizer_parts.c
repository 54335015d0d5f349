/* Making a tokenizer from its parts in memory, with every count, id and name checked.
 *
 * Owns: what a GGUF vocabulary means: byte-level BPE with merges, or SentencePiece's BPE with scores. What is wrong is
 * refused with the name that the field has in a GGUF file. Threads: any; a tokenizer is shared only once it is made. */
#include "models/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

#define SPACE_MARK "\xe2\x96\x81" /* U+2581, SentencePiece's space */

static struct gguf_string string_of(const char *text) {
    return (struct gguf_string){.data = text, .bytes = strlen(text)};
}

/* ---- byte-level BPE ---- */

static struct status add_merges(const struct tokenizer_parts *parts, const struct vocabulary *vocabulary,
                                const struct text_index *spellings, struct bpe *bpe) {
    struct text_buffer joined = {0};
    struct status status = bpe_create(bpe, parts->merge_count);
    for (size_t i = 0; i < parts->merge_count && !status_failed(&status); i++) {
        struct gguf_string merge = parts->merges[i];
        const char *space = merge.bytes ? memchr(merge.data, ' ', merge.bytes) : NULL;
        if (!space || space == merge.data || space == merge.data + merge.bytes - 1) {
            status = status_error(STATUS_INVALID, "%s[%zu] is not two tokens with a space between them",
                                  vocabulary->merges_name, i);
            break;
        }
        size_t left_bytes = (size_t)(space - merge.data);
        struct gguf_string left = {.data = merge.data, .bytes = left_bytes};
        struct gguf_string right = {.data = space + 1, .bytes = merge.bytes - left_bytes - 1};
        status = tokenizer_add_merge(spellings, vocabulary, left, right, i, &joined, bpe);
    }
    free(joined.data);
    return status;
}

static struct status build_byte_level(const struct tokenizer_parts *parts, const struct vocabulary *vocabulary,
                                      const struct text_index *spellings, struct tokenizer *tokenizer) {
    const struct pre_tokenizer *pre;
    TRY(pre_tokenizer_named(parts->pre, &pre));
    TRY(cuts_add_pattern(&tokenizer->cuts, pre->pattern, CUT_ISOLATED, false));
    if (pre->composes) {
        TRY(normalizers_add(&tokenizer->normalizers, NORMALIZE_NFC, string_of(""), string_of("")));
    }
    tokenizer->bpe.byte_level = true;
    tokenizer->bpe.whole_words = pre->whole_words;
    tokenizer->bpe.unknown = TOKEN_NONE;
    TRY(tokenizer_make_texts(vocabulary, &(struct spelling){.byte_level = true}, tokenizer));
    TRY(tokenizer_find_bytes(spellings, vocabulary, &tokenizer->bpe));
    return add_merges(parts, vocabulary, spellings, &tokenizer->bpe);
}

/* ---- SentencePiece's BPE ---- */

static struct status build_scored(const struct tokenizer_parts *parts, const struct vocabulary *vocabulary,
                                  const struct text_index *spellings, struct tokenizer *tokenizer) {
    struct spelling spelling = {.byte_fallback = true, .replaced_count = 1};
    spelling.replaced[0].from = string_of(SPACE_MARK);
    spelling.replaced[0].to = string_of(" ");
    TRY(tokenizer_make_texts(vocabulary, &spelling, tokenizer));
    if (parts->add_space_prefix) {
        TRY(normalizers_add(&tokenizer->normalizers, NORMALIZE_PREPEND, string_of(""), string_of(SPACE_MARK)));
        tokenizer->leading = LEADING_ONE_SPACE;
    }
    TRY(normalizers_add(&tokenizer->normalizers, NORMALIZE_REPLACE, string_of(" "), string_of(SPACE_MARK)));
    tokenizer->bpe.byte_fallback = true;
    tokenizer->bpe.fuse_unknown = true;
    tokenizer->bpe.unknown = parts->unknown;
    tokenizer_find_numbered_bytes(spellings, &tokenizer->bpe);
    return tokenizer_merge_by_scores(vocabulary, parts->scores, tokenizer);
}

/* ---- both ---- */

static struct status check_id(const char *field, uint32_t id, size_t count) {
    if (id != TOKEN_NONE && id >= count) {
        return status_error(STATUS_INVALID, "%s is %u, and there are %zu tokens", field, id, count);
    }
    return STATUS_SUCCESS;
}

static struct status build(const struct tokenizer_parts *parts, struct text_index *spellings,
                           struct tokenizer *tokenizer) {
    const struct vocabulary vocabulary = {
        .tokens_name = "tokenizer.ggml.tokens",
        .types_name = "tokenizer.ggml.token_type",
        .merges_name = parts->scores ? "tokenizer.ggml.scores" : "tokenizer.ggml.merges",
        .tokens = parts->tokens,
        .types = parts->types,
        .count = parts->token_count,
    };
    TRY(check_id("tokenizer.ggml.bos_token_id", parts->bos, parts->token_count));
    TRY(check_id("tokenizer.ggml.eos_token_id", parts->eos, parts->token_count));
    if (parts->add_bos && parts->bos == TOKEN_NONE) {
        return status_error(STATUS_INVALID, "tokenizer.ggml.add_bos_token is true and there is no bos_token_id");
    }
    TRY(vocabulary_check(&vocabulary));
    TRY(index_spellings(&vocabulary, spellings));
    if (parts->scores) {
        TRY(check_id("tokenizer.ggml.unknown_token_id", parts->unknown, parts->token_count));
        TRY(build_scored(parts, &vocabulary, spellings, tokenizer));
    } else {
        TRY(build_byte_level(parts, &vocabulary, spellings, tokenizer));
    }
    return tokenizer_make_specials(tokenizer);
}

struct status tokenizer_from_parts(const struct tokenizer_parts *parts, struct tokenizer **out) {
    struct tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    if (!tokenizer) {
        return status_error(STATUS_NO_MEMORY, "no memory for a tokenizer");
    }
    struct text_index spellings = {0};
    struct status status = build(parts, &spellings, tokenizer);
    text_index_destroy(&spellings);
    if (status_failed(&status)) {
        tokenizer_destroy(tokenizer);
        return status;
    }
    tokenizer->bos = parts->bos;
    tokenizer->eos = parts->eos;
    tokenizer->adds_bos = parts->add_bos;
    *out = tokenizer;
    return STATUS_SUCCESS;
}

void tokenizer_destroy(struct tokenizer *tokenizer) {
    if (tokenizer) {
        bpe_destroy(&tokenizer->bpe);
        cuts_destroy(&tokenizer->cuts);
        normalizers_destroy(&tokenizer->normalizers);
        text_index_destroy(&tokenizer->index);
        free(tokenizer->specials.items);
        free(tokenizer->normalized_specials.items);
        free(tokenizer->texts);
        free(tokenizer->types);
        free(tokenizer->storage);
        free(tokenizer->symbol_storage);
        free(tokenizer->special_storage);
        free((char *)tokenizer->chat_template.data);
        free(tokenizer);
    }
}
