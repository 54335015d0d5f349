/* The inside of the tokenizer, shared by models/tokenizer*.c and by nobody else.
 *
 * tokenizer_gguf.c reads a file, tokenizer_parts.c makes and checks a tokenizer, tokenizer_split.c cuts a text into
 * pre-tokens, tokenizer_bpe.c merges the bytes of one pre-token into tokens, tokenizer.c is what models/tokenizer.h
 * promises. Everything here but the scratch and the list is immutable once made. */
#ifndef METRONOME_MODELS_TOKENIZER_INTERNAL_H
#define METRONOME_MODELS_TOKENIZER_INTERNAL_H

#include "models/tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

/* GGUF's token types. Type 2, unknown, is handled as control, which is how it appears in byte-level vocabularies. */
enum token_type {
    TOKEN_TYPE_NORMAL = 1,
    TOKEN_TYPE_UNKNOWN = 2,
    TOKEN_TYPE_CONTROL = 3,      /* matched in a template's text only */
    TOKEN_TYPE_USER_DEFINED = 4, /* matched in every text, before any merging */
    TOKEN_TYPE_UNUSED = 5,       /* fills up a vocabulary; never read, shows nothing */
};

/* ---- text index: strings to their place in an array ---- */

/* Open addressing; the strings stay in the array that the index was made over. */
struct text_index {
    const struct gguf_string *texts;
    uint32_t *slots; /* (mask + 1) a place in `texts`, or TOKEN_NONE */
    size_t mask;
};

struct status text_index_create(const struct gguf_string *texts, size_t count, struct text_index *out);
void text_index_destroy(struct text_index *index);
uint32_t text_index_find(const struct text_index *index, const char *text, size_t bytes);

/* Adds texts[place] and returns TOKEN_NONE, or the place of the equal text that is there already. */
uint32_t text_index_add(struct text_index *index, uint32_t place);

/* ---- pre-tokens ---- */

/* A row of the table: how the models of one family cut a text. */
struct pre_tokenizer {
    const char *name;
    const char *pattern;
    bool whole_words; /* a pre-token that is a token is not merged ("ignore_merges" in Hugging Face's files) */
    bool adds_bos;    /* if the file does not say */
};

/* STATUS_UNSUPPORTED lists the names of the table. */
struct status pre_tokenizer_named(const char *name, const struct pre_tokenizer **out);
struct status pre_tokenizer_compile(const struct pre_tokenizer *row, pcre2_code **out);

/* The length of the pre-token at text[from..bytes), at least 1. */
struct status pre_tokenizer_next(const pcre2_code *pattern, pcre2_match_data *match, const char *text, size_t bytes,
                                 size_t from, size_t *length);

/* ---- byte pair encoding ---- */

struct merge {
    uint64_t pair;  /* left << 32 | right; UINT64_MAX: an empty slot */
    uint32_t rank;  /* the lower is merged first */
    uint32_t token; /* what the two become */
};

/* Byte-level BPE. Another algorithm would stand beside it in struct tokenizer. */
struct bpe {
    uint32_t byte_tokens[256]; /* TOKEN_NONE: the vocabulary has no token for this byte */
    struct merge *merges;      /* (merge_mask + 1) open addressing by pair */
    size_t merge_mask;
    pcre2_code *pattern;
    const struct pre_tokenizer *pre;
};

/* Room for `count` merges. */
struct status bpe_create(struct bpe *bpe, size_t count);
void bpe_destroy(struct bpe *bpe);

/* A pair that was added before keeps its rank: the second could never be applied. */
void bpe_add_merge(struct bpe *bpe, uint32_t left, uint32_t right, uint32_t rank, uint32_t token);

/* Grown to the longest pre-token met; one a call of tokenizer_encode(). */
struct bpe_scratch {
    pcre2_match_data *match;
    struct bpe_node *nodes;
    uint64_t *heap;
    size_t capacity; /* nodes; the heap holds twice as many */
};
void bpe_scratch_free(struct bpe_scratch *scratch);

/* Appends the tokens of a text that has no special tokens in it. */
struct status bpe_encode(const struct tokenizer *tokenizer, const char *text, size_t bytes, size_t limit,
                         struct bpe_scratch *scratch, struct token_list *list);

/* ---- the tokenizer ---- */

struct tokenizer {
    uint32_t count;
    struct gguf_string *texts; /* (count) what each token writes; inside `storage` */
    uint8_t *types;            /* (count) enum token_type */
    char *storage;
    size_t longest;          /* bytes of the longest text */
    struct text_index index; /* over `texts`, normal tokens only */
    struct bpe bpe;

    uint32_t *specials; /* (special_count) control and user-defined tokens, by their text in byte order */
    size_t special_count;
    bool special_begins[256]; /* does a special token begin with this byte? */

    uint32_t bos, eos, eot, eom; /* TOKEN_NONE if there is none */
    bool adds_bos;
};

/* Appends one id; STATUS_NO_MEMORY if the list has `limit` ids or cannot grow. */
struct status token_list_append(struct token_list *list, uint32_t id, size_t limit);

#endif
