#include "models/tokenizer.h"

#include "base/bytes.h"
#include "base/check.h"
#include "base/utf8.h"
#include "models/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- what a tokenizer says of itself ---- */

uint32_t tokenizer_vocabulary(const struct tokenizer *tokenizer) {
    return tokenizer->count;
}

uint32_t tokenizer_bos(const struct tokenizer *tokenizer) {
    return tokenizer->bos;
}

uint32_t tokenizer_eos(const struct tokenizer *tokenizer) {
    return tokenizer->eos;
}

bool tokenizer_adds_bos(const struct tokenizer *tokenizer) {
    return tokenizer->adds_bos;
}

bool tokenizer_is_end(const struct tokenizer *tokenizer, uint32_t token) {
    if (token >= tokenizer->count) {
        return false;
    }
    if (token == tokenizer->eos || token == tokenizer->eot || token == tokenizer->eom) {
        return true;
    }
    if (tokenizer->types[token] != TOKEN_TYPE_CONTROL) {
        return false;
    }
    static const char *const ends[] = {"<|im_end|>",    "<|eot_id|>", "<|end_of_text|>",
                                       "<end_of_turn>", "</s>",       "<|endoftext|>"};
    const struct gguf_string *text = &tokenizer->texts[token];
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        if (text->bytes == strlen(ends[i]) && memcmp(text->data, ends[i], text->bytes) == 0) {
            return true;
        }
    }
    return false;
}

struct gguf_string tokenizer_bytes(const struct tokenizer *tokenizer, uint32_t token, bool special) {
    if (token >= tokenizer->count) {
        return (struct gguf_string){.data = "", .bytes = 0};
    }
    uint8_t type = tokenizer->types[token];
    bool shown = special || type == TOKEN_TYPE_NORMAL || type == TOKEN_TYPE_USER_DEFINED;
    return shown ? tokenizer->texts[token] : (struct gguf_string){.data = "", .bytes = 0};
}

/* ---- special tokens in a text ---- */

/* The byte of special `place` at `depth`, -1 past its end: shorter texts sort before those they begin. */
static int special_byte(const struct tokenizer *tokenizer, size_t place, size_t depth) {
    const struct gguf_string *text = &tokenizer->texts[tokenizer->specials[place]];
    return depth < text->bytes ? (unsigned char)text->data[depth] : -1;
}

/* The first of specials [low, high), which are all equal before `depth`, whose byte there is at least `byte`. */
static size_t first_special(const struct tokenizer *tokenizer, size_t low, size_t high, size_t depth, int byte) {
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (special_byte(tokenizer, middle, depth) < byte) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* Where control tokens may be: nowhere, or outside the content spans. */
struct control_area {
    bool allowed;
    const struct text_span *content;
    size_t content_count;
    size_t next; /* the first content that ends after the place where the search is */
};

static bool control_allowed(struct control_area *area, size_t begin, size_t end) {
    while (area->next < area->content_count && area->content[area->next].end <= begin) {
        area->next++;
    }
    return area->allowed && (area->next == area->content_count || area->content[area->next].begin >= end);
}

/* The longest special token at text[at..bytes) that may be there, or TOKEN_NONE: the sorted specials are narrowed
 * byte by byte to those that the text spells. */
static uint32_t special_at(const struct tokenizer *tokenizer, const char *text, size_t bytes, size_t at,
                           struct control_area *area) {
    uint32_t longest = TOKEN_NONE;
    size_t low = 0, high = tokenizer->special_count;
    for (size_t depth = 0; at + depth < bytes && low < high; depth++) {
        int byte = (unsigned char)text[at + depth];
        low = first_special(tokenizer, low, high, depth, byte);
        high = first_special(tokenizer, low, high, depth, byte + 1);
        if (low < high && special_byte(tokenizer, low, depth + 1) < 0) {
            uint32_t token = tokenizer->specials[low];
            if (tokenizer->types[token] == TOKEN_TYPE_USER_DEFINED || control_allowed(area, at, at + depth + 1)) {
                longest = token;
            }
        }
    }
    return longest;
}

uint32_t tokenizer_find(const struct tokenizer *tokenizer, const char *text, size_t bytes) {
    struct control_area anywhere = {.allowed = true};
    uint32_t special = special_at(tokenizer, text, bytes, 0, &anywhere);
    if (special != TOKEN_NONE && tokenizer->texts[special].bytes == bytes) {
        return special;
    }
    return text_index_find(&tokenizer->index, text, bytes);
}

/* ---- encoding ---- */

void token_list_free(struct token_list *list) {
    free(list->ids);
    *list = (struct token_list){0};
}

struct status token_list_append(struct token_list *list, uint32_t id, size_t limit) {
    if (list->count >= limit) {
        return status_error(STATUS_NO_MEMORY, "the text has more than %zu tokens", limit);
    }
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? list->capacity : 128, bytes;
        uint32_t *ids = bytes_multiply(capacity, 2 * sizeof *ids, &bytes) ? realloc(list->ids, bytes) : NULL;
        if (!ids) {
            return status_error(STATUS_NO_MEMORY, "no memory for %zu tokens", capacity);
        }
        list->ids = ids;
        list->capacity = capacity * 2;
    }
    list->ids[list->count++] = id;
    return STATUS_SUCCESS;
}

/* Special tokens first, the leftmost and there the longest; what lies between them is merged. */
static struct status encode_all(const struct tokenizer *tokenizer, const char *text, size_t bytes,
                                struct control_area *area, size_t limit, struct bpe_scratch *scratch,
                                struct token_list *list) {
    size_t merged = 0; /* text before this is done */
    for (size_t at = 0; at < bytes;) {
        uint32_t special = TOKEN_NONE;
        if (tokenizer->special_begins[(unsigned char)text[at]]) {
            special = special_at(tokenizer, text, bytes, at, area);
        }
        if (special == TOKEN_NONE) {
            at++;
            continue;
        }
        TRY(bpe_encode(tokenizer, text + merged, at - merged, limit, scratch, list));
        TRY(token_list_append(list, special, limit));
        at += tokenizer->texts[special].bytes;
        merged = at;
    }
    return bpe_encode(tokenizer, text + merged, bytes - merged, limit, scratch, list);
}

struct status tokenizer_encode_prompt(const struct tokenizer *tokenizer, const char *text, size_t bytes,
                                      const struct text_span *content, size_t content_count, unsigned flags,
                                      size_t limit, struct token_list *list) {
    if (bytes > INT32_MAX) {
        return status_error(STATUS_INVALID, "a text of %zu bytes is too long to tokenize", bytes);
    }
    if (!utf8_valid(text, bytes)) {
        return status_error(STATUS_INVALID, "the text is not valid UTF-8");
    }
    size_t before = list->count;
    struct status status = STATUS_SUCCESS;
    if ((flags & TOKENIZE_BOS) && tokenizer->adds_bos) {
        status = token_list_append(list, tokenizer->bos, limit);
    }
    if (!status_failed(&status)) {
        struct control_area area = {
            .allowed = flags & TOKENIZE_SPECIAL, .content = content, .content_count = content_count};
        struct bpe_scratch scratch = {0};
        status = encode_all(tokenizer, text, bytes, &area, limit, &scratch, list);
        bpe_scratch_free(&scratch);
    }
    if (status_failed(&status)) {
        list->count = before;
    }
    return status;
}

struct status tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t bytes, unsigned flags,
                               size_t limit, struct token_list *list) {
    return tokenizer_encode_prompt(tokenizer, text, bytes, NULL, 0, flags, limit, list);
}

/* ---- incremental detokenization ---- */

#define REPLACEMENT_BYTES 3 /* of U+FFFD in UTF-8, which stands for one byte */

void detokenizer_init(struct detokenizer *state, const struct tokenizer *tokenizer, bool special) {
    *state = (struct detokenizer){.tokenizer = tokenizer, .special = special};
}

size_t detokenizer_bound(const struct tokenizer *tokenizer) {
    return (sizeof((struct detokenizer *)0)->held + tokenizer->longest) * REPLACEMENT_BYTES;
}

size_t detokenizer_push(struct detokenizer *state, uint32_t token, char *out, size_t capacity) {
    struct gguf_string bytes = tokenizer_bytes(state->tokenizer, token, state->special);
    CHECK(capacity >= (state->held_bytes + bytes.bytes) * REPLACEMENT_BYTES);
    size_t written = 0;
    for (size_t i = 0; i < bytes.bytes; i++) {
        state->held[state->held_bytes++] = bytes.data[i];
        size_t whole = utf8_complete_prefix(state->held, state->held_bytes);
        if (whole > 0) {
            written += utf8_sanitize(state->held, whole, out + written);
            state->held_bytes -= (uint8_t)whole;
            memmove(state->held, state->held + whole, state->held_bytes);
        }
    }
    return written;
}

size_t detokenizer_flush(struct detokenizer *state, char *out, size_t capacity) {
    CHECK(capacity >= state->held_bytes * REPLACEMENT_BYTES);
    size_t written = utf8_sanitize(state->held, state->held_bytes, out);
    state->held_bytes = 0;
    return written;
}
