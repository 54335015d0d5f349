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
    if (token == tokenizer->eos) {
        return true;
    }
    for (uint32_t i = 0; i < tokenizer->end_count; i++) {
        if (token == tokenizer->ends[i]) {
            return true;
        }
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

struct gguf_string tokenizer_chat_template(const struct tokenizer *tokenizer) {
    return tokenizer->chat_template;
}

struct gguf_string tokenizer_bytes(const struct tokenizer *tokenizer, uint32_t token, bool special) {
    if (token >= tokenizer->count) {
        return (struct gguf_string){.data = "", .bytes = 0};
    }
    uint8_t type = tokenizer->types[token];
    bool shown = special || type == TOKEN_TYPE_NORMAL || type == TOKEN_TYPE_USER_DEFINED || type == TOKEN_TYPE_BYTE;
    return shown ? tokenizer->texts[token] : (struct gguf_string){.data = "", .bytes = 0};
}

uint32_t tokenizer_find(const struct tokenizer *tokenizer, const char *text, size_t bytes) {
    struct control_area anywhere = {.allowed = true};
    struct special_text whole = {.data = text, .bytes = bytes};
    if (bytes > 0) {
        const struct special *special = special_find(&tokenizer->specials, tokenizer->types, &whole, 0, &anywhere);
        if (special && special->text.bytes == bytes) {
            return special->token;
        }
    }
    for (size_t i = 0; i < tokenizer->normalized_specials.count; i++) {
        uint32_t token = tokenizer->normalized_specials.items[i].token;
        if (tokenizer->texts[token].bytes == bytes && memcmp(tokenizer->texts[token].data, text, bytes) == 0) {
            return token;
        }
    }
    return text_index_find(&tokenizer->index, text, bytes);
}

/* ---- encoding ---- */

void token_list_free(struct token_list *list) {
    free(list->ids);
    *list = (struct token_list){0};
}

struct status encoder_append(struct encoder *encoder, uint32_t id) {
    struct token_list *list = encoder->list;
    if (list->count >= encoder->limit) {
        return status_error(STATUS_NO_MEMORY, "the text has more than %zu tokens", encoder->limit);
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

/* White space as Unicode has it. */
static bool is_space(uint32_t character) {
    return (character >= 9 && character <= 13) || character == 0x20 || character == 0x85 || character == 0xa0 ||
           character == 0x1680 || (character >= 0x2000 && character <= 0x200a) || character == 0x2028 ||
           character == 0x2029 || character == 0x202f || character == 0x205f || character == 0x3000;
}

/* The character that ends at `at`. */
static uint32_t character_before(const char *text, size_t at, size_t *begin) {
    *begin = at - 1;
    while (*begin > 0 && ((unsigned char)text[*begin] & 0xc0) == 0x80) {
        --*begin;
    }
    size_t used;
    return utf8_decode(text + *begin, at - *begin, &used);
}

static bool in_word(const struct special_text *text, size_t begin, size_t end) {
    size_t ignored;
    return (begin > 0 && pattern_word_character(character_before(text->data, begin, &ignored))) ||
           (end < text->bytes && pattern_word_character(utf8_decode(text->data + end, text->bytes - end, &ignored)));
}

/* Where the white space begins that ends at `at`, not before `floor`; and where that ends which begins there. */
static size_t space_begin(const struct special_text *text, size_t at, size_t floor) {
    size_t begin;
    while (at > floor && is_space(character_before(text->data, at, &begin))) {
        at = begin;
    }
    return at;
}

static size_t space_end(const struct special_text *text, size_t at) {
    size_t used;
    while (at < text->bytes && is_space(utf8_decode(text->data + at, text->bytes - at, &used))) {
        at += used;
    }
    return at;
}

/* Finds the specials of a set, the leftmost and there the longest, appends them, and hands what lies between them,
 * which is not empty, to `between`. */
static struct status encode_around(struct encoder *encoder, const struct special_set *set,
                                   const struct special_text *text, struct control_area *area,
                                   struct status (*between)(struct encoder *encoder, const char *text, size_t bytes,
                                                            size_t place)) {
    const uint8_t *types = encoder->tokenizer->types;
    size_t done = 0; /* text before this is encoded */
    for (size_t at = 0; at < text->bytes;) {
        const struct special *special = NULL;
        if (set->begins[(unsigned char)text->data[at]]) {
            special = special_find(set, types, text, at, area);
        }
        if (!special) {
            at++;
            continue;
        }
        size_t begin = at, end = at + special->text.bytes;
        at = end;
        if (special->whole_word && in_word(text, begin, end)) {
            continue;
        }
        begin = special->takes_left ? space_begin(text, begin, done) : begin;
        end = special->takes_right ? space_end(text, end) : end;
        if (begin > done) {
            TRY(between(encoder, text->data + done, begin - done, text->base + done));
        }
        TRY(encoder_append(encoder, special->token));
        done = end;
    }
    return done < text->bytes ? between(encoder, text->data + done, text->bytes - done, text->base + done)
                              : STATUS_SUCCESS;
}

/* Two callers of cut_and_encode(): `place` is where the text was. */
static struct status encode_normal(struct encoder *encoder, const char *text, size_t bytes, size_t place) {
    return cut_and_encode(encoder, text, bytes, place == 0);
}

static struct status encode_raw(struct encoder *encoder, const char *text, size_t bytes, size_t place) {
    const struct tokenizer *tokenizer = encoder->tokenizer;
    bool specials = tokenizer->normalized_specials.count > 0;
    struct special_text normal;
    TRY(normalize(&tokenizer->normalizers, text, bytes, specials, &encoder->normal, &normal));
    normal.base = place;
    if (!specials) {
        return encode_normal(encoder, normal.data, normal.bytes, place);
    }
    return encode_around(encoder, &tokenizer->normalized_specials, &normal, &encoder->normal_area, encode_normal);
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
    struct control_area area = {
        .allowed = flags & TOKENIZE_SPECIAL, .content = content, .content_count = content_count};
    struct encoder encoder = {
        .tokenizer = tokenizer, .list = list, .limit = limit, .raw_area = area, .normal_area = area};
    struct status status = STATUS_SUCCESS;
    if ((flags & TOKENIZE_BOS) && tokenizer->adds_bos) {
        status = encoder_append(&encoder, tokenizer->bos);
    }
    if (!status_failed(&status)) {
        struct special_text whole = {.data = text, .bytes = bytes};
        status = encode_around(&encoder, &tokenizer->specials, &whole, &encoder.raw_area, encode_raw);
    }
    bpe_scratch_free(&encoder.bpe);
    cut_scratch_free(&encoder.cuts);
    normal_scratch_free(&encoder.normal);
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
    *state = (struct detokenizer){.tokenizer = tokenizer, .special = special, .begun = true};
}

void detokenizer_init_whole(struct detokenizer *state, const struct tokenizer *tokenizer, bool special) {
    *state = (struct detokenizer){.tokenizer = tokenizer, .special = special};
}

/* The space that encoding put before a whole text is no part of it. */
static struct gguf_string without_leading(const struct tokenizer *tokenizer, struct gguf_string first) {
    size_t most = tokenizer->leading == LEADING_KEPT ? 0 : tokenizer->leading == LEADING_ONE_SPACE ? 1 : first.bytes;
    size_t spaces = 0;
    while (spaces < most && spaces < first.bytes && first.data[spaces] == ' ') {
        spaces++;
    }
    return (struct gguf_string){.data = first.data + spaces, .bytes = first.bytes - spaces};
}

size_t detokenizer_bound(const struct tokenizer *tokenizer) {
    return (sizeof((struct detokenizer *)0)->held + tokenizer->longest) * REPLACEMENT_BYTES;
}

size_t detokenizer_push(struct detokenizer *state, uint32_t token, char *out, size_t capacity) {
    struct gguf_string bytes = tokenizer_bytes(state->tokenizer, token, state->special);
    CHECK(capacity >= (state->held_bytes + bytes.bytes) * REPLACEMENT_BYTES);
    if (!state->begun && bytes.bytes > 0) {
        state->begun = true;
        bytes = without_leading(state->tokenizer, bytes);
    }
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

/* Makes room for one more piece, pushes, and counts what was written; `flush` is for what is held at the end. */
static struct status decode_piece(struct detokenizer *state, uint32_t token, bool flush, struct text_buffer *out) {
    size_t bound = detokenizer_bound(state->tokenizer);
    TRY(text_buffer_reserve(out, bound + 1));
    char *at = out->data + out->bytes;
    out->bytes += flush ? detokenizer_flush(state, at, bound) : detokenizer_push(state, token, at, bound);
    return STATUS_SUCCESS;
}

struct status tokenizer_decode(const struct tokenizer *tokenizer, const uint32_t *ids, size_t count, bool special,
                               char **text, size_t *bytes) {
    struct detokenizer state;
    struct text_buffer out = {0};
    struct status status = STATUS_SUCCESS;
    detokenizer_init_whole(&state, tokenizer, special);
    for (size_t i = 0; i < count && !status_failed(&status); i++) {
        status = decode_piece(&state, ids[i], false, &out);
    }
    status = status_failed(&status) ? status : decode_piece(&state, 0, true, &out);
    if (status_failed(&status)) {
        free(out.data);
        return status;
    }
    out.data[out.bytes] = 0;
    *text = out.data;
    *bytes = out.bytes;
    return STATUS_SUCCESS;
}
