/* Making a tokenizer from its parts in memory, with every count, id and name checked.
 *
 * Owns: the construction of struct tokenizer, and the byte-level spelling of a vocabulary. What is wrong is refused
 * with the name that the field has in a GGUF file. Threads: any; a tokenizer is shared only once it is made. */
#include "base/bytes.h"
#include "base/log.h"
#include "base/utf8.h"
#include "models/tokenizer_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOKENS "tokenizer.ggml.tokens"
#define TOKEN_TYPES "tokenizer.ggml.token_type"
#define MERGES "tokenizer.ggml.merges"

/* Ids and merge ranks share 64-bit words, and bytes of a vocabulary are counted in size_t: far above any model. */
#define MOST_TOKENS (UINT32_C(1) << 28)

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

/* ---- the parts ---- */

static struct status check_types(const struct tokenizer_parts *parts) {
    for (size_t i = 0; parts->types && i < parts->token_count; i++) {
        if (parts->types[i] < TOKEN_TYPE_NORMAL || parts->types[i] > TOKEN_TYPE_UNUSED) {
            return status_error(STATUS_INVALID, TOKEN_TYPES "[%zu] is %d; a byte-level vocabulary has types 1 to 5", i,
                                parts->types[i]);
        }
    }
    return STATUS_SUCCESS;
}

/* Tokens by their spelling in the file, needed only while the tokenizer is made. */
static struct status index_spellings(const struct tokenizer_parts *parts, struct text_index *spellings) {
    TRY(text_index_create(parts->tokens, parts->token_count, spellings));
    for (size_t i = 0; i < parts->token_count; i++) {
        /* Empty tokens, which some files are padded with, can never be met in a text. */
        uint32_t there = parts->tokens[i].bytes ? text_index_add(spellings, (uint32_t)i) : TOKEN_NONE;
        if (there != TOKEN_NONE) {
            return status_error(STATUS_INVALID, TOKENS "[%zu] is the same as [%u]", i, there);
        }
    }
    return STATUS_SUCCESS;
}

static bool is_special(uint8_t type) {
    return type == TOKEN_TYPE_CONTROL || type == TOKEN_TYPE_USER_DEFINED;
}

static struct status make_texts(const struct tokenizer_parts *parts, struct tokenizer *tokenizer) {
    size_t bytes = 0;
    for (size_t i = 0; i < parts->token_count; i++) {
        if (!bytes_add(bytes, parts->tokens[i].bytes, &bytes)) {
            return status_error(STATUS_INVALID, TOKENS ": the tokens' lengths do not add up to a size");
        }
    }
    size_t count = parts->token_count;
    tokenizer->count = (uint32_t)count;
    tokenizer->storage = malloc(bytes + 1);
    tokenizer->texts = calloc(count, sizeof *tokenizer->texts);
    tokenizer->types = malloc(count);
    if (!tokenizer->storage || !tokenizer->texts || !tokenizer->types) {
        return status_error(STATUS_NO_MEMORY, "no memory for %zu tokens", count);
    }
    char *at = tokenizer->storage;
    for (size_t i = 0; i < count; i++) {
        int32_t type = parts->types ? parts->types[i] : TOKEN_TYPE_NORMAL;
        size_t length = parts->tokens[i].bytes;
        if (type == TOKEN_TYPE_NORMAL) {
            length = unspell(parts->tokens[i], at);
        } else if (length > 0) {
            memcpy(at, parts->tokens[i].data, length); /* special tokens are spelled plainly */
        }
        tokenizer->texts[i] = (struct gguf_string){.data = at, .bytes = length};
        tokenizer->types[i] = (uint8_t)(type == TOKEN_TYPE_UNKNOWN ? TOKEN_TYPE_CONTROL : type);
        tokenizer->longest = length > tokenizer->longest ? length : tokenizer->longest;
        at += length;
    }
    return STATUS_SUCCESS;
}

static int compare_texts(const void *left, const void *right, void *context) {
    const struct gguf_string *texts = context;
    const struct gguf_string *a = &texts[*(const uint32_t *)left], *b = &texts[*(const uint32_t *)right];
    int order = memcmp(a->data, b->data, a->bytes < b->bytes ? a->bytes : b->bytes);
    return order ? order : (a->bytes > b->bytes) - (a->bytes < b->bytes);
}

static struct status make_specials_and_index(struct tokenizer *tokenizer) {
    TRY(text_index_create(tokenizer->texts, tokenizer->count, &tokenizer->index));
    tokenizer->specials = malloc(tokenizer->count * sizeof *tokenizer->specials);
    if (!tokenizer->specials) {
        return status_error(STATUS_NO_MEMORY, "no memory for an index of special tokens");
    }
    for (uint32_t i = 0; i < tokenizer->count; i++) {
        if (tokenizer->texts[i].bytes == 0) {
            continue;
        }
        if (is_special(tokenizer->types[i])) {
            tokenizer->specials[tokenizer->special_count++] = i;
            tokenizer->special_begins[(unsigned char)tokenizer->texts[i].data[0]] = true;
        } else if (tokenizer->types[i] == TOKEN_TYPE_NORMAL) {
            /* Two spellings give one text only where unspell() took one as it is: then the first one counts. */
            (void)text_index_add(&tokenizer->index, i);
        }
    }
    qsort_r(tokenizer->specials, tokenizer->special_count, sizeof *tokenizer->specials, compare_texts,
            tokenizer->texts);
    return STATUS_SUCCESS;
}

/* Every byte must be there that English text is made of. A vocabulary that was trained on a finite corpus may lack
 * others; texts lose them, as they do in the model's own tokenizer, and the log says which. */
static struct status find_byte_tokens(const struct text_index *spellings, struct bpe *bpe) {
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
        if (byte == '\n' || (byte >= 0x20 && byte <= 0x7e)) {
            return status_error(STATUS_INVALID, TOKENS " has no token for the byte 0x%02x", byte);
        }
        if (byte < 0xc0 || (byte > 0xc1 && byte < 0xf5)) { /* the others are in no valid text */
            count++;
            int wrote = snprintf(missing + used, sizeof missing - used, " 0x%02x", byte);
            used += (size_t)wrote < sizeof missing - used ? (size_t)wrote : 0;
        }
    }
    if (count > 0) {
        log_info("tokenizer: no token for %u byte values, which texts lose:%s%s", count, missing,
                 used + 6 > sizeof missing ? " ..." : "");
    }
    return STATUS_SUCCESS;
}

static struct status merge_error(size_t index, const char *what) {
    return status_error(STATUS_INVALID, MERGES "[%zu] %s", index, what);
}

/* `joined` has room for the longest merge. */
static struct status add_merge(const struct text_index *spellings, struct gguf_string merge, size_t rank, char *joined,
                               struct bpe *bpe) {
    const char *space = memchr(merge.data, ' ', merge.bytes);
    if (!space || space == merge.data || space == merge.data + merge.bytes - 1) {
        return merge_error(rank, "is not two tokens with a space between them");
    }
    size_t left_bytes = (size_t)(space - merge.data), right_bytes = merge.bytes - left_bytes - 1;
    memcpy(joined, merge.data, left_bytes);
    memcpy(joined + left_bytes, space + 1, right_bytes);
    uint32_t left = text_index_find(spellings, joined, left_bytes);
    uint32_t right = text_index_find(spellings, space + 1, right_bytes);
    uint32_t token = text_index_find(spellings, joined, left_bytes + right_bytes);
    if (left == TOKEN_NONE || right == TOKEN_NONE) {
        return merge_error(rank, "merges what is no token");
    }
    if (token == TOKEN_NONE) {
        return merge_error(rank, "gives what is no token");
    }
    bpe_add_merge(bpe, left, right, (uint32_t)rank, token);
    return STATUS_SUCCESS;
}

static struct status make_merges(const struct tokenizer_parts *parts, const struct text_index *spellings,
                                 struct bpe *bpe) {
    TRY(bpe_create(bpe, parts->merge_count));
    size_t longest = 0;
    for (size_t i = 0; i < parts->merge_count; i++) {
        longest = parts->merges[i].bytes > longest ? parts->merges[i].bytes : longest;
    }
    char *joined = malloc(longest + 1);
    if (!joined) {
        return status_error(STATUS_NO_MEMORY, "no memory for a merge of %zu bytes", longest);
    }
    struct status status = STATUS_SUCCESS;
    for (size_t i = 0; i < parts->merge_count && !status_failed(&status); i++) {
        status = add_merge(spellings, parts->merges[i], i, joined, bpe);
    }
    free(joined);
    return status;
}

static struct status check_id(const char *field, uint32_t id, size_t count) {
    if (id != TOKEN_NONE && id >= count) {
        return status_error(STATUS_INVALID, "%s is %u, and there are %zu tokens", field, id, count);
    }
    return STATUS_SUCCESS;
}

static struct status build(const struct tokenizer_parts *parts, struct text_index *spellings,
                           struct tokenizer *tokenizer) {
    if (parts->token_count == 0 || parts->token_count > MOST_TOKENS) {
        return status_error(STATUS_INVALID, TOKENS " has %zu tokens; at least 1 and at most %u are possible",
                            parts->token_count, MOST_TOKENS);
    }
    TRY(check_id("tokenizer.ggml.bos_token_id", parts->bos, parts->token_count));
    TRY(check_id("tokenizer.ggml.eos_token_id", parts->eos, parts->token_count));
    if (parts->add_bos && parts->bos == TOKEN_NONE) {
        return status_error(STATUS_INVALID, "tokenizer.ggml.add_bos_token is true and there is no bos_token_id");
    }
    TRY(pre_tokenizer_named(parts->pre, &tokenizer->bpe.pre));
    TRY(pre_tokenizer_compile(tokenizer->bpe.pre, &tokenizer->bpe.pattern));
    TRY(check_types(parts));
    TRY(index_spellings(parts, spellings));
    TRY(make_texts(parts, tokenizer));
    TRY(make_specials_and_index(tokenizer));
    TRY(find_byte_tokens(spellings, &tokenizer->bpe));
    return make_merges(parts, spellings, &tokenizer->bpe);
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
    tokenizer->eot = tokenizer->eom = TOKEN_NONE;
    tokenizer->adds_bos = parts->add_bos;
    *out = tokenizer;
    return STATUS_SUCCESS;
}

void tokenizer_destroy(struct tokenizer *tokenizer) {
    if (tokenizer) {
        bpe_destroy(&tokenizer->bpe);
        text_index_destroy(&tokenizer->index);
        free(tokenizer->specials);
        free(tokenizer->texts);
        free(tokenizer->types);
        free(tokenizer->storage);
        free(tokenizer);
    }
}
