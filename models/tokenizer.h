/* Text to token ids and back.
 *
 * Owns: the vocabulary, the merges, the pre-tokenizer's pattern. Immutable once made: encoding and decoding may run
 * on any thread at once, each with its own scratch.
 * Byte pair encoding as in Sennrich et al. arXiv 1508.07909: over bytes as in GPT-2, or over characters with bytes to
 * fall back to as in SentencePiece (arXiv 1808.06226). Patterns through PCRE2, Unicode's form C through utf8proc. */
#ifndef METRONOME_MODELS_TOKENIZER_H
#define METRONOME_MODELS_TOKENIZER_H

#include "base/status.h"
#include "models/gguf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tokenizer;

#define TOKEN_NONE UINT32_MAX

/* Reads tokenizer.ggml.*; an unknown model or pre-tokenizer is refused by name with the list of those built. */
struct status tokenizer_from_gguf(const struct gguf *gguf, struct tokenizer **out);

/* From a vocabulary in memory: `tokens` (count) in id order, `types` (count) GGUF token types (1 normal, 3 control, 4
 * user defined, 6 byte; NULL: all normal). Without `scores` it is byte-level: tokens in GGUF's byte-level spelling,
 * `merges` "left right" in rank order, `pre` the pre-tokenizer's name. With `scores` (count) it is SentencePiece's BPE:
 * spaces are spelled U+2581, and `merges` and `pre` are not read. Strings are copied. */
struct tokenizer_parts {
    const struct gguf_string *tokens;
    const int32_t *types;
    size_t token_count;
    const struct gguf_string *merges;
    size_t merge_count;
    const char *pre;
    uint32_t bos, eos; /* TOKEN_NONE if there is none */
    bool add_bos;
    const float *scores;
    uint32_t unknown;      /* with `scores`: stands for characters that have neither a token nor bytes */
    bool add_space_prefix; /* with `scores`: a space before the text, and after every special token */
};
struct status tokenizer_from_parts(const struct tokenizer_parts *parts, struct tokenizer **out);

/* From a Hugging Face model directory: tokenizer.json, and beside it, where they are there, tokenizer_config.json,
 * special_tokens_map.json, generation_config.json and config.json (bos, eos, what ends a generation) and
 * chat_template.jinja. What tokenizer.json asks for that is not built is refused with the component's name. */
struct status tokenizer_from_directory(const char *path, struct tokenizer **out);
void tokenizer_destroy(struct tokenizer *tokenizer);

/* The chat template that came in the directory, borrowed; 0 bytes if there was none, or the source was another. */
struct gguf_string tokenizer_chat_template(const struct tokenizer *tokenizer);

uint32_t tokenizer_vocabulary(const struct tokenizer *tokenizer);
uint32_t tokenizer_bos(const struct tokenizer *tokenizer); /* TOKEN_NONE if there is none */
uint32_t tokenizer_eos(const struct tokenizer *tokenizer);
bool tokenizer_adds_bos(const struct tokenizer *tokenizer);

/* Does this token end a generation: eos, or another end-of-turn token that the model declares or is known by
 * (<|im_end|>, <|eot_id|>, <|end_of_text|>, <end_of_turn>, </s>, <|endoftext|> as a control token)? */
bool tokenizer_is_end(const struct tokenizer *tokenizer, uint32_t token);

/* The id of the token with exactly this text (what tokenizer_bytes() gives with `special`; where a special token and
 * another share it, the special one), TOKEN_NONE if there is none. */
uint32_t tokenizer_find(const struct tokenizer *tokenizer, const char *text, size_t bytes);

struct token_list {
    uint32_t *ids; /* owned: free() */
    size_t count, capacity;
};
void token_list_free(struct token_list *list);

enum tokenizer_flags {
    TOKENIZE_PLAIN = 0,
    TOKENIZE_BOS = 1,     /* prepend bos if the model wants one (tokenizer_adds_bos) */
    TOKENIZE_SPECIAL = 2, /* spellings of control tokens in the text become those tokens: templates, not users */
};

/* Appends the ids of `text` (valid UTF-8, else STATUS_INVALID) to `list`; STATUS_NO_MEMORY past `limit` ids in the
 * list. On failure the list is as it was. Bytes that the vocabulary has no token for (SmolLM2 has none for 0x04) are
 * dropped, as the models' own tokenizers do; the log names them when the tokenizer is made. */
struct status tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t bytes, unsigned flags,
                               size_t limit, struct token_list *list);

/* A part of a text, [begin, end) in bytes. */
struct text_span {
    size_t begin, end;
};

/* The same for a prompt made of a template's text and of what users wrote: in the `content` spans (ascending, apart)
 * a spelling of a control token stays text, and so does one that reaches into a span. A content without such
 * spellings gives the ids of the plain joined string. */
struct status tokenizer_encode_prompt(const struct tokenizer *tokenizer, const char *text, size_t bytes,
                                      const struct text_span *content, size_t content_count, unsigned flags,
                                      size_t limit, struct token_list *list);

/* The bytes of one token (not always whole UTF-8), borrowed from the tokenizer. Control tokens give their spelling
 * when `special` is set and nothing otherwise. An id out of range gives nothing. */
struct gguf_string tokenizer_bytes(const struct tokenizer *tokenizer, uint32_t token, bool special);

/* ---- incremental detokenization ---- */

/* Holds back the bytes of a character that is begun and not finished, so that every piece is whole UTF-8 (bytes
 * that can never become valid come out as U+FFFD). One a sequence. */
struct detokenizer {
    const struct tokenizer *tokenizer;
    bool special;
    bool begun; /* something was shown, or came before */
    uint8_t held_bytes;
    char held[4];
};
void detokenizer_init(struct detokenizer *state, const struct tokenizer *tokenizer, bool special);

/* The same for ids that are a whole text and do not continue one: the space that some vocabularies put before a text
 * when they encode it is not given back. */
void detokenizer_init_whole(struct detokenizer *state, const struct tokenizer *tokenizer, bool special);

/* Appends what `token` makes showable to out (`capacity` bytes; detokenizer_bound(tokenizer) always suffice) and
 * returns the bytes written. */
size_t detokenizer_push(struct detokenizer *state, uint32_t token, char *out, size_t capacity);

/* What is still held, as U+FFFD for each byte, at the end of a sequence. */
size_t detokenizer_flush(struct detokenizer *state, char *out, size_t capacity);
size_t detokenizer_bound(const struct tokenizer *tokenizer);

/* The whole text of `count` ids, valid UTF-8, to *text (terminated, the caller's to free()) and *bytes. */
struct status tokenizer_decode(const struct tokenizer *tokenizer, const uint32_t *ids, size_t count, bool special,
                               char **text, size_t *bytes);

#endif
