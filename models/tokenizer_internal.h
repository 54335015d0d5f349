/* The inside of the tokenizer, shared by models/tokenizer*.c and by nobody else.
 *
 * A text becomes ids in five steps, each in its own file: special tokens are found (tokenizer_special.c), what lies
 * between them is normalized (tokenizer_normal.c) and cut into pre-tokens (tokenizer_split.c), whose symbols are
 * merged (tokenizer_bpe.c); tokenizer.c drives them and gives back texts. tokenizer_parts.c, tokenizer_scores.c,
 * tokenizer_gguf.c, tokenizer_json*.c and tokenizer_directory.c make tokenizers.
 * Everything here but the scratch and the list is immutable once made. */
#ifndef METRONOME_MODELS_TOKENIZER_INTERNAL_H
#define METRONOME_MODELS_TOKENIZER_INTERNAL_H

#include "models/tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

/* GGUF's token types. Type 2, unknown, is kept as control, which is how it appears in vocabularies. */
enum token_type {
    TOKEN_TYPE_NORMAL = 1,
    TOKEN_TYPE_UNKNOWN = 2,
    TOKEN_TYPE_CONTROL = 3,      /* matched in a template's text only */
    TOKEN_TYPE_USER_DEFINED = 4, /* matched in every text, before any merging */
    TOKEN_TYPE_UNUSED = 5,       /* fills up a vocabulary; never read, shows nothing */
    TOKEN_TYPE_BYTE = 6,         /* "<0x0A>": a byte of a character that has no token */
};

/* Ids and merge ranks share 64-bit words, and bytes of a vocabulary are counted in size_t: far above any model. */
#define MOST_TOKENS (UINT32_C(1) << 28)

/* ---- texts that grow ---- */

struct text_buffer {
    char *data;
    size_t bytes, capacity;
};

/* Room for `bytes` more; STATUS_NO_MEMORY leaves what is there. */
struct status text_buffer_reserve(struct text_buffer *buffer, size_t bytes);

/* Appends. */
struct status text_buffer_add(struct text_buffer *buffer, const char *data, size_t bytes);

/* ---- text index: strings to their place in an array ---- */

/* Open addressing; the strings stay in the array that the index was made over. */
struct text_index {
    const struct gguf_string *texts;
    struct text_slot {
        uint32_t place; /* in `texts`, or TOKEN_NONE */
        uint32_t hash;  /* of the text there, the upper half */
    } * slots;          /* (mask + 1) */
    size_t mask;
};

/* Room for `count` texts. */
struct status text_index_create(const struct gguf_string *texts, size_t count, struct text_index *out);
void text_index_destroy(struct text_index *index);
uint32_t text_index_find(const struct text_index *index, const char *text, size_t bytes);

/* Adds texts[place] and returns TOKEN_NONE, or the place of the equal text that is there already. */
uint32_t text_index_add(struct text_index *index, uint32_t place);

/* ---- special tokens ---- */

/* A token that is found in a text before anything else is done to it ("added" in Hugging Face's files). */
struct special {
    uint32_t token;
    struct gguf_string text;
    bool takes_left, takes_right; /* white space beside it goes with it */
    bool whole_word;              /* not where it touches a letter or digit */
};

/* By their text in byte order, so that one is found byte by byte. */
struct special_set {
    struct special *items; /* (count) */
    size_t count;
    bool begins[256]; /* does one begin with this byte? */
};

void special_set_sort(struct special_set *set);

/* Where control tokens may be: nowhere, or outside the content spans. A search goes from left to right. */
struct control_area {
    bool allowed;
    const struct text_span *content;
    size_t content_count;
    size_t next; /* the first content that ends after the place where the search is */
};

/* A text, and for each of its bytes where it was in the text that the area's spans speak of: `base` + the byte's
 * place, or where there are `origins` (bytes + 1) base + origins[place]. */
struct special_text {
    const char *data;
    size_t bytes, base;
    const uint32_t *origins;
};

/* The longest special at text[at..) that may be there, or NULL. `types` are the tokenizer's. */
const struct special *special_find(const struct special_set *set, const uint8_t *types, const struct special_text *text,
                                   size_t at, struct control_area *area);

/* ---- normalizing ---- */

#define MOST_NORMALIZERS 16

enum normalizer_kind {
    NORMALIZE_NFC,
    NORMALIZE_PREPEND, /* `content`, unless the text is empty */
    NORMALIZE_REPLACE, /* every `pattern` by `content` */
};

struct normalizer {
    enum normalizer_kind kind;
    struct gguf_string pattern, content; /* owned; `pattern` is not empty */
};

struct normalizers {
    struct normalizer steps[MOST_NORMALIZERS];
    size_t count;
};

/* Appends a step with copies of the strings. */
struct status normalizers_add(struct normalizers *normalizers, enum normalizer_kind kind, struct gguf_string pattern,
                              struct gguf_string content);
void normalizers_destroy(struct normalizers *normalizers);

/* Two buffers that the steps write in turn; the second of each pair is the result's. */
struct normal_scratch {
    struct text_buffer texts[2];
    uint32_t *origins[2]; /* (origin_capacity) */
    size_t origin_capacity[2];
    struct composer_scratch {
        int32_t *characters; /* (capacity) */
        uint64_t *order;     /* (capacity) */
        size_t capacity;
    } composer;
};
void normal_scratch_free(struct normal_scratch *scratch);

/* *out is the normalized text, in the scratch (or the text itself where nothing changes it), valid until the next
 * call; with `mapped` its origins are where each byte came from. `bytes` below INT32_MAX, valid UTF-8. */
struct status normalize(const struct normalizers *normalizers, const char *text, size_t bytes, bool mapped,
                        struct normal_scratch *scratch, struct special_text *out);

/* ---- pre-tokens ---- */

#define MOST_CUTS 16

enum cut_kind {
    CUT_PATTERN,      /* at the matches of a pattern */
    CUT_METASPACE,    /* spaces become `mark`, which may be put before the text, and begins a pre-token */
    CUT_PREFIX_SPACE, /* a space before a text that begins with none */
};

/* What becomes of a match, Hugging Face's names. */
enum cut_behavior { CUT_ISOLATED, CUT_REMOVED, CUT_MERGED_WITH_PREVIOUS, CUT_MERGED_WITH_NEXT, CUT_CONTIGUOUS };

enum cut_prefix { PREFIX_ALWAYS, PREFIX_FIRST, PREFIX_NEVER };

struct cut {
    enum cut_kind kind;
    pcre2_code *pattern;
    enum cut_behavior behavior;
    bool invert; /* what lies between matches counts as the matches */
    char mark[5];
    enum cut_prefix prefix;
    bool splits; /* CUT_METASPACE */
};

struct cuts {
    struct cut steps[MOST_CUTS];
    size_t count;
};
void cuts_destroy(struct cuts *cuts);

/* GPT-2's pattern, in PCRE2's syntax. */
extern const char *const gpt2_pattern;

/* Appends a step that cuts at the matches of a pattern in PCRE2's syntax. */
struct status cuts_add_pattern(struct cuts *cuts, const char *pattern, enum cut_behavior behavior, bool invert);

/* A pattern as Hugging Face's files write it (Oniguruma's syntax) in PCRE2's; STATUS_UNSUPPORTED names what the two
 * read differently and is not translated. The result is terminated and owned by the caller. */
struct status pattern_translate(struct gguf_string pattern, char **out);

/* Is it what \w stands for there? */
bool pattern_word_character(uint32_t character);

/* A row of the table: how the models of one family cut a text. */
struct pre_tokenizer {
    const char *name;
    const char *pattern;
    bool whole_words; /* a pre-token that is a token is not merged ("ignore_merges" in Hugging Face's files) */
    bool adds_bos;    /* if the file does not say */
    bool composes;    /* texts become NFC first */
};

/* STATUS_UNSUPPORTED lists the names of the table. */
struct status pre_tokenizer_named(const char *name, const struct pre_tokenizer **out);

struct encoder;
struct cut_scratch {
    pcre2_match_context *context;
    struct {
        pcre2_match_data *match;
        struct text_buffer text;
    } steps[MOST_CUTS];
};
void cut_scratch_free(struct cut_scratch *scratch);

/* Cuts a text without special tokens and appends the tokens of its pre-tokens. `first`: it begins the whole text. */
struct status cut_and_encode(struct encoder *encoder, const char *text, size_t bytes, bool first);

/* ---- byte pair encoding ---- */

struct merge {
    uint64_t pair;  /* left << 32 | right; UINT64_MAX: an empty slot */
    uint32_t rank;  /* the lower is merged first */
    uint32_t token; /* what the two become */
};

struct bpe {
    bool byte_level;    /* symbols are bytes at first, else characters */
    bool byte_fallback; /* a character without a token becomes its bytes' tokens, if there is one for each */
    bool fuse_unknown;  /* neighbours without a token become one unknown token */
    bool whole_words;
    uint32_t unknown;          /* stands for what has no token; TOKEN_NONE: it is dropped */
    uint32_t byte_tokens[256]; /* TOKEN_NONE: the vocabulary has no token for this byte */
    struct merge *merges;      /* (merge_mask + 1) open addressing by pair */
    size_t merge_mask, merge_count;

    /* The symbols by their spelling, those with ids: a vocabulary's tokens, and from `symbol_base` on characters that
     * are no tokens and may merge into one. Kept only if characters are looked up: not byte_level. */
    struct gguf_string *symbols;
    struct text_index symbol_index;
    uint32_t symbol_base;
    uint32_t ascii_symbols[128]; /* the index's answers for single bytes */
};

/* Room for `count` merges; adding more makes room. */
struct status bpe_create(struct bpe *bpe, size_t count);
void bpe_destroy(struct bpe *bpe);

/* A pair that was added before keeps its rank: the second could never be applied. */
struct status bpe_add_merge(struct bpe *bpe, uint32_t left, uint32_t right, uint32_t rank, uint32_t token);

/* Grown to the longest pre-token met; one a call of tokenizer_encode(). */
struct bpe_scratch {
    struct bpe_node *nodes;
    uint64_t *heap;
    size_t capacity; /* nodes; the heap holds twice as many */
};
void bpe_scratch_free(struct bpe_scratch *scratch);

/* Appends the tokens of one pre-token. */
struct status bpe_encode(struct encoder *encoder, const char *piece, size_t bytes);

/* ---- the tokenizer ---- */

/* What a whole text that is given back loses at its front. */
enum leading { LEADING_KEPT, LEADING_ONE_SPACE, LEADING_SPACES_OF_FIRST_TOKEN };

#define MOST_ENDS 16

struct tokenizer {
    uint32_t count;
    struct gguf_string *texts; /* (count) what each token writes; inside `storage` */
    uint8_t *types;            /* (count) enum token_type */
    char *storage;
    size_t longest;          /* bytes of the longest text */
    struct text_index index; /* over `texts`, normal and byte tokens only */

    struct special_set specials;            /* found in the text as it comes */
    struct special_set normalized_specials; /* found in the normalized text */
    struct normalizers normalizers;
    struct cuts cuts;
    struct bpe bpe;
    char *symbol_storage;  /* of bpe.symbols */
    char *special_storage; /* of the normalized specials' texts */

    uint32_t bos, eos; /* TOKEN_NONE if there is none */
    uint32_t ends[MOST_ENDS];
    uint32_t end_count; /* others that end a generation */
    bool adds_bos;
    enum leading leading;
    struct gguf_string chat_template; /* owned */
};

/* ---- encoding: what one call has ---- */

struct encoder {
    const struct tokenizer *tokenizer;
    struct token_list *list;
    size_t limit;
    struct control_area raw_area, normal_area;
    struct normal_scratch normal;
    struct cut_scratch cuts;
    struct bpe_scratch bpe;
};

/* Appends one id; STATUS_NO_MEMORY if the list has `limit` ids or cannot grow. */
struct status encoder_append(struct encoder *encoder, uint32_t id);

/* ---- making one ---- */

/* How the tokens of a file are spelled, and so what they write. */
struct spelling {
    bool byte_level;    /* every byte as a character that can be seen (GPT-2's) */
    bool byte_fallback; /* <0x0A> writes a byte */
    /* Then every `from` in a token writes `to`, which is not longer. */
    struct {
        struct gguf_string from, to;
    } replaced[4];
    size_t replaced_count;
};

/* What a vocabulary is made of, and the names that errors call its parts by. */
struct vocabulary {
    const char *tokens_name, *types_name, *merges_name;
    const struct gguf_string *tokens; /* (count) */
    const int32_t *types;             /* (count); NULL: all normal */
    size_t count;
};

/* Is the number of tokens possible? Everything below relies on it. */
struct status vocabulary_check(const struct vocabulary *vocabulary);

/* The texts, types, and the index of them. */
struct status tokenizer_make_texts(const struct vocabulary *vocabulary, const struct spelling *spelling,
                                   struct tokenizer *tokenizer);

/* Tokens by their spelling; two that are the same are refused. */
struct status index_spellings(const struct vocabulary *vocabulary, struct text_index *out);

/* bpe->byte_tokens of a byte-level vocabulary, which must have all bytes of English; or of <0x00> to <0xFF>. */
struct status tokenizer_find_bytes(const struct text_index *spellings, const struct vocabulary *vocabulary,
                                   struct bpe *bpe);
void tokenizer_find_numbered_bytes(const struct text_index *spellings, struct bpe *bpe);

/* Copies the spellings to bpe.symbols, for a vocabulary whose symbols are characters. */
struct status tokenizer_keep_symbols(const struct vocabulary *vocabulary, struct tokenizer *tokenizer);

/* bpe->ascii_symbols, once the symbol index is made. */
void tokenizer_find_ascii(struct bpe *bpe);

/* Adds the merge of tokens spelled `left` and `right`, the merges' `index`-th, unless it gives a control token. */
struct status tokenizer_add_merge(const struct text_index *spellings, const struct vocabulary *vocabulary,
                                  struct gguf_string left, struct gguf_string right, size_t index,
                                  struct text_buffer *joined, struct bpe *bpe);

/* Symbols, and the merges that scores (count) stand for; merges_name is the scores'. */
struct status tokenizer_merge_by_scores(const struct vocabulary *vocabulary, const float *scores,
                                        struct tokenizer *tokenizer);

/* Control and user-defined tokens as specials, found as they come. */
struct status tokenizer_make_specials(struct tokenizer *tokenizer);

/* ends[] grows by a token, if it is not there. */
void tokenizer_add_end(struct tokenizer *tokenizer, uint32_t token);

#endif
