/* From a vocabulary's spellings to what tokens write: byte-level spelling (GPT-2's), marks for spaces
 * (SentencePiece's), bytes by number; and the indexes by spelling and by text.
 *
 * Owns: the spellings' rules. What is wrong is refused by the name that the file gives the field.
 * Threads: any; a tokenizer is shared only once it is made. */
#include "base/bytes.h"
#include "base/log.h"
#include "base/utf8.h"
#include "models/tokenizer_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the byte-level spelling: every byte is written as a character that can be seen (GPT-2's bytes_to_unicode) ----
 */

#define NO_BYTE UINT32_MAX

static bool seen_as_itself(uint32_t byte) {
    return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);
}

/* The character that spells a byte: itself, or for the 33 + 34 + 1 that cannot be seen the next from U+0100 on. */
static uint32_t character_of(uint32_t byte) {
    if (seen_as_itself(byte)) {
        return byte;
    }
    return 0x100 + (byte <= 0x20 ? byte : byte <= 0xa0 ? 33 + (byte - 0x7f) : 67);
}

static uint32_t byte_of(uint32_t character) {
    if (character < 0x100) {
        return seen_as_itself(character) ? character : NO_BYTE;
    }
    uint32_t place = character - 0x100;
    return place < 33 ? place : place < 67 ? 0x7f + (place - 33) : place == 67 ? 0xad : NO_BYTE;
}

/* The bytes that a spelling stands for, to `out`, which has room for spelling.bytes. A spelling with a character that
 * stands for no byte is taken as it is, whole, as Hugging Face's decoder does. */
static size_t unspell(struct gguf_string spelling, char *out) {
    size_t written = 0;
    for (size_t at = 0, used; at < spelling.bytes; at += used) {
        uint32_t byte = byte_of(utf8_decode(spelling.data + at, spelling.bytes - at, &used));
        if (byte == NO_BYTE) {
            memcpy(out, spelling.data, spelling.bytes);
            return spelling.bytes;
        }
        out[written++] = (char)byte;
    }
    return written;
}

/* ---- the other spellings ---- */

/* <0x0A>: the byte, else NO_BYTE. */
static uint32_t numbered_byte(struct gguf_string spelling) {
    static const char digits[] = "0123456789ABCDEF";
    if (spelling.bytes != 6 || memcmp(spelling.data, "<0x", 3) != 0 || spelling.data[5] != '>') {
        return NO_BYTE;
    }
    const char *high = memchr(digits, spelling.data[3], 16), *low = memchr(digits, spelling.data[4], 16);
    return high && low ? (uint32_t)((high - digits) << 4 | (low - digits)) : NO_BYTE;
}

/* Replaces in out[0..bytes), in place: what is written is not longer. */
static size_t replace(struct gguf_string from, struct gguf_string to, char *out, size_t bytes) {
    size_t written = 0;
    for (size_t at = 0; at < bytes;) {
        if (bytes - at >= from.bytes && memcmp(out + at, from.data, from.bytes) == 0) {
            memcpy(out + written, to.data, to.bytes);
            written += to.bytes;
            at += from.bytes;
        } else {
            out[written++] = out[at++];
        }
    }
    return written;
}

/* What a token writes, to `out`, which has room for its spelling. */
static size_t write_text(const struct spelling *spelling, struct gguf_string token, uint8_t type, char *out) {
    if (type == TOKEN_TYPE_BYTE) {
        out[0] = (char)numbered_byte(token);
        return 1;
    }
    if (type == TOKEN_TYPE_NORMAL && spelling->byte_level) {
        return unspell(token, out);
    }
    size_t bytes = token.bytes;
    if (bytes > 0) {
        memcpy(out, token.data, bytes); /* control tokens are spelled plainly */
    }
    if (type == TOKEN_TYPE_NORMAL || (type == TOKEN_TYPE_USER_DEFINED && !spelling->byte_level)) {
        for (size_t i = 0; i < spelling->replaced_count; i++) {
            bytes = replace(spelling->replaced[i].from, spelling->replaced[i].to, out, bytes);
        }
    }
    return bytes;
}

/* ---- texts and types ---- */

struct status vocabulary_check(const struct vocabulary *vocabulary) {
    if (vocabulary->count == 0 || vocabulary->count > MOST_TOKENS) {
        return status_error(STATUS_INVALID, "%s has %zu tokens; at least 1 and at most %u are possible",
                            vocabulary->tokens_name, vocabulary->count, MOST_TOKENS);
    }
    return STATUS_SUCCESS;
}

static struct status count_bytes(const struct vocabulary *vocabulary, size_t *bytes) {
    *bytes = 0;
    for (size_t i = 0; i < vocabulary->count; i++) {
        if (!bytes_add(*bytes, vocabulary->tokens[i].bytes, bytes)) {
            return status_error(STATUS_INVALID, "%s: the tokens' lengths do not add up to a size",
                                vocabulary->tokens_name);
        }
    }
    return STATUS_SUCCESS;
}

static struct status type_of(const struct vocabulary *vocabulary, const struct spelling *spelling, size_t token,
                             uint8_t *out) {
    int32_t type = vocabulary->types ? vocabulary->types[token] : TOKEN_TYPE_NORMAL;
    int32_t last = spelling->byte_fallback ? TOKEN_TYPE_BYTE : TOKEN_TYPE_UNUSED;
    if (type < TOKEN_TYPE_NORMAL || type > last) {
        return status_error(STATUS_INVALID, "%s[%zu] is %d; in this vocabulary types are 1 to %d",
                            vocabulary->types_name, token, type, last);
    }
    uint32_t byte = spelling->byte_fallback ? numbered_byte(vocabulary->tokens[token]) : NO_BYTE;
    if (type == TOKEN_TYPE_BYTE && byte == NO_BYTE) {
        return status_error(STATUS_INVALID, "%s[%zu] has the type of bytes and is not spelled <0x00> to <0xFF>",
                            vocabulary->tokens_name, token);
    }
    *out = (uint8_t)(type == TOKEN_TYPE_UNKNOWN ? TOKEN_TYPE_CONTROL : type);
    return STATUS_SUCCESS;
}

static struct status index_texts(struct tokenizer *tokenizer) {
    TRY(text_index_create(tokenizer->texts, tokenizer->count, &tokenizer->index));
    for (uint32_t i = 0; i < tokenizer->count; i++) {
        uint8_t type = tokenizer->types[i];
        if (tokenizer->texts[i].bytes > 0 && (type == TOKEN_TYPE_NORMAL || type == TOKEN_TYPE_BYTE)) {
            /* Two spellings may give one text: a byte and a character, or where unspell() took one as it is. */
            (void)text_index_add(&tokenizer->index, i);
        }
    }
    return STATUS_SUCCESS;
}

struct status tokenizer_make_texts(const struct vocabulary *vocabulary, const struct spelling *spelling,
                                   struct tokenizer *tokenizer) {
    size_t bytes, count = vocabulary->count;
    TRY(count_bytes(vocabulary, &bytes));
    tokenizer->count = (uint32_t)count;
    tokenizer->storage = malloc(bytes + 1);
    tokenizer->texts = calloc(count, sizeof *tokenizer->texts);
    tokenizer->types = malloc(count);
    if (!tokenizer->storage || !tokenizer->texts || !tokenizer->types) {
        return status_error(STATUS_NO_MEMORY, "no memory for %zu tokens", count);
    }
    char *at = tokenizer->storage;
    for (size_t i = 0; i < count; i++) {
        TRY(type_of(vocabulary, spelling, i, &tokenizer->types[i]));
        size_t length = write_text(spelling, vocabulary->tokens[i], tokenizer->types[i], at);
        tokenizer->texts[i] = (struct gguf_string){.data = at, .bytes = length};
        tokenizer->longest = length > tokenizer->longest ? length : tokenizer->longest;
        at += length;
    }
    return index_texts(tokenizer);
}

/* ---- spellings ---- */

struct status index_spellings(const struct vocabulary *vocabulary, struct text_index *out) {
    TRY(text_index_create(vocabulary->tokens, vocabulary->count, out));
    for (size_t i = 0; i < vocabulary->count; i++) {
        /* Empty tokens, which some files are padded with, can never be met in a text. */
        uint32_t there = vocabulary->tokens[i].bytes ? text_index_add(out, (uint32_t)i) : TOKEN_NONE;
        if (there != TOKEN_NONE) {
            return status_error(STATUS_INVALID, "%s[%zu] is the same as [%u]", vocabulary->tokens_name, i, there);
        }
    }
    return STATUS_SUCCESS;
}

/* Every byte must be there that English text is made of. A vocabulary that was trained on a finite corpus may lack
 * others; texts lose them, as they do in the model's own tokenizer, and the log says which. */
struct status tokenizer_find_bytes(const struct text_index *spellings, const struct vocabulary *vocabulary,
                                   struct bpe *bpe) {
    char missing[100] = "";
    size_t used = 0;
    unsigned count = 0;
    for (uint32_t byte = 0; byte < 256; byte++) {
        char spelling[4];
        size_t length = utf8_encode(character_of(byte), spelling);
        bpe->byte_tokens[byte] = text_index_find(spellings, spelling, length);
        if (bpe->byte_tokens[byte] != TOKEN_NONE) {
            continue;
        }
        if (bpe->unknown == TOKEN_NONE && (byte == '\n' || (byte >= 0x20 && byte <= 0x7e))) {
            return status_error(STATUS_INVALID, "%s has no token for the byte 0x%02x", vocabulary->tokens_name, byte);
        }
        if (byte < 0xc0 || (byte > 0xc1 && byte < 0xf5)) { /* the others are in no valid text */
            count++;
            int wrote = snprintf(missing + used, sizeof missing - used, " 0x%02x", byte);
            used += (size_t)wrote < sizeof missing - used ? (size_t)wrote : 0;
        }
    }
    if (count > 0 && bpe->unknown == TOKEN_NONE) {
        log_info("tokenizer: no token for %u byte values, which texts lose:%s%s", count, missing,
                 used + 6 > sizeof missing ? " ..." : "");
    }
    return STATUS_SUCCESS;
}

void tokenizer_find_numbered_bytes(const struct text_index *spellings, struct bpe *bpe) {
    for (unsigned byte = 0; byte < 256; byte++) {
        char spelling[8];
        int length = snprintf(spelling, sizeof spelling, "<0x%02X>", byte);
        bpe->byte_tokens[byte] = text_index_find(spellings, spelling, (size_t)length);
    }
}

struct status tokenizer_keep_symbols(const struct vocabulary *vocabulary, struct tokenizer *tokenizer) {
    struct bpe *bpe = &tokenizer->bpe;
    size_t bytes;
    TRY(count_bytes(vocabulary, &bytes));
    tokenizer->symbol_storage = malloc(bytes + 1);
    bpe->symbols = calloc(vocabulary->count, sizeof *bpe->symbols);
    if (!tokenizer->symbol_storage || !bpe->symbols) {
        return status_error(STATUS_NO_MEMORY, "no memory for %zu spellings", vocabulary->count);
    }
    char *at = tokenizer->symbol_storage;
    for (size_t i = 0; i < vocabulary->count; i++) {
        struct gguf_string token = vocabulary->tokens[i];
        if (token.bytes > 0) {
            memcpy(at, token.data, token.bytes);
        }
        bpe->symbols[i] = (struct gguf_string){.data = at, .bytes = token.bytes};
        at += token.bytes;
    }
    return STATUS_SUCCESS;
}

void tokenizer_find_ascii(struct bpe *bpe) {
    for (unsigned byte = 0; byte < 128; byte++) {
        char character = (char)byte;
        bpe->ascii_symbols[byte] = text_index_find(&bpe->symbol_index, &character, 1);
    }
}

/* ---- merges and specials ---- */

struct status tokenizer_add_merge(const struct text_index *spellings, const struct vocabulary *vocabulary,
                                  struct gguf_string left, struct gguf_string right, size_t index,
                                  struct text_buffer *joined, struct bpe *bpe) {
    joined->bytes = 0;
    TRY(text_buffer_add(joined, left.data, left.bytes));
    TRY(text_buffer_add(joined, right.data, right.bytes));
    uint32_t left_token = text_index_find(spellings, left.data, left.bytes);
    uint32_t right_token = text_index_find(spellings, right.data, right.bytes);
    uint32_t token = text_index_find(spellings, joined->data, joined->bytes);
    if (left_token == TOKEN_NONE || right_token == TOKEN_NONE) {
        return status_error(STATUS_INVALID, "%s[%zu] merges what is no token", vocabulary->merges_name, index);
    }
    if (token == TOKEN_NONE) {
        return status_error(STATUS_INVALID, "%s[%zu] gives what is no token", vocabulary->merges_name, index);
    }
    int32_t type = vocabulary->types ? vocabulary->types[token] : TOKEN_TYPE_NORMAL;
    if (type == TOKEN_TYPE_CONTROL || type == TOKEN_TYPE_UNKNOWN) {
        return STATUS_SUCCESS; /* a user's text must not come to say it */
    }
    return bpe_add_merge(bpe, left_token, right_token, (uint32_t)index, token);
}

struct status tokenizer_make_specials(struct tokenizer *tokenizer) {
    size_t count = 0;
    for (uint32_t i = 0; i < tokenizer->count; i++) {
        uint8_t type = tokenizer->types[i];
        count += (type == TOKEN_TYPE_CONTROL || type == TOKEN_TYPE_USER_DEFINED) && tokenizer->texts[i].bytes > 0;
    }
    struct special_set *set = &tokenizer->specials;
    set->items = calloc(count + 1, sizeof *set->items);
    if (!set->items) {
        return status_error(STATUS_NO_MEMORY, "no memory for %zu special tokens", count);
    }
    for (uint32_t i = 0; i < tokenizer->count; i++) {
        uint8_t type = tokenizer->types[i];
        if ((type == TOKEN_TYPE_CONTROL || type == TOKEN_TYPE_USER_DEFINED) && tokenizer->texts[i].bytes > 0) {
            set->items[set->count++] = (struct special){.token = i, .text = tokenizer->texts[i]};
        }
    }
    special_set_sort(set);
    return STATUS_SUCCESS;
}

void tokenizer_add_end(struct tokenizer *tokenizer, uint32_t token) {
    if (token != TOKEN_NONE && !tokenizer_is_end(tokenizer, token) && tokenizer->end_count < MOST_ENDS) {
        tokenizer->ends[tokenizer->end_count++] = token;
    }
}
