/* The merges of a SentencePiece BPE vocabulary, which has scores and no merges: any two neighbours whose joined
 * spelling is a token may merge, the highest score first (Kudo and Richardson, arXiv 1808.06226).
 *
 * Owns: the table of all pairs that may ever be neighbours: each token cut in two in every way. A part of one may be a
 * character that is no token itself: it becomes a symbol from the vocabulary's count on.
 * Threads: any; a tokenizer is shared only once it is made. */
#include "base/bytes.h"
#include "base/utf8.h"
#include "models/tokenizer_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* May it come out of a merge? Control tokens and bytes are found in other ways only. */
static bool may_merge(const struct tokenizer *tokenizer, uint32_t token) {
    uint8_t type = tokenizer->types[token];
    return (type == TOKEN_TYPE_NORMAL || type == TOKEN_TYPE_USER_DEFINED) && tokenizer->bpe.symbols[token].bytes > 0;
}

static size_t character_bytes(struct gguf_string text, size_t at) {
    size_t used;
    utf8_decode(text.data + at, text.bytes - at, &used);
    return used;
}

/* How many characters, counted as often as they occur in tokens, are no symbols. */
static size_t count_missing(const struct tokenizer *tokenizer, const struct text_index *index) {
    size_t missing = 0;
    for (uint32_t token = 0; token < tokenizer->count; token++) {
        struct gguf_string text = tokenizer->bpe.symbols[token];
        for (size_t at = 0, used; may_merge(tokenizer, token) && at < text.bytes; at += used) {
            used = character_bytes(text, at);
            missing += text_index_find(index, text.data + at, used) == TOKEN_NONE;
        }
    }
    return missing;
}

static struct status index_tokens(struct tokenizer *tokenizer, size_t more) {
    struct bpe *bpe = &tokenizer->bpe;
    text_index_destroy(&bpe->symbol_index);
    TRY(text_index_create(bpe->symbols, tokenizer->count + more, &bpe->symbol_index));
    for (uint32_t token = 0; token < tokenizer->count; token++) {
        if (may_merge(tokenizer, token)) {
            (void)text_index_add(&bpe->symbol_index, token);
        }
    }
    return STATUS_SUCCESS;
}

/* Makes the characters symbols that are none. */
static struct status add_missing(struct tokenizer *tokenizer) {
    struct bpe *bpe = &tokenizer->bpe;
    size_t missing = count_missing(tokenizer, &bpe->symbol_index), symbols;
    if (missing == 0) {
        return STATUS_SUCCESS;
    }
    if (!bytes_add(tokenizer->count, missing, &symbols) || symbols > MOST_TOKENS) {
        return status_error(STATUS_UNSUPPORTED, "the vocabulary has more characters than this program takes");
    }
    struct gguf_string *grown = realloc(bpe->symbols, symbols * sizeof *grown);
    if (!grown) {
        return status_error(STATUS_NO_MEMORY, "no memory for %zu symbols", symbols);
    }
    bpe->symbols = grown;
    TRY(index_tokens(tokenizer, missing));
    uint32_t next = tokenizer->count;
    for (uint32_t token = 0; token < tokenizer->count; token++) {
        struct gguf_string text = bpe->symbols[token];
        for (size_t at = 0, used; may_merge(tokenizer, token) && at < text.bytes; at += used) {
            used = character_bytes(text, at);
            if (text_index_find(&bpe->symbol_index, text.data + at, used) == TOKEN_NONE) {
                bpe->symbols[next] = (struct gguf_string){.data = text.data + at, .bytes = used};
                (void)text_index_add(&bpe->symbol_index, next++);
            }
        }
    }
    return STATUS_SUCCESS;
}

/* ---- ranks ---- */

struct scored {
    float score;
    uint32_t token;
};

static int compare_scores(const void *left, const void *right) {
    const struct scored *a = left, *b = right;
    return a->score != b->score ? (a->score < b->score ? 1 : -1) : (a->token > b->token) - (a->token < b->token);
}

/* Adds the merges that give `token`. */
static struct status add_merges_of(struct bpe *bpe, uint32_t token, uint32_t rank) {
    struct gguf_string text = bpe->symbols[token];
    for (size_t at = character_bytes(text, 0); at < text.bytes; at += character_bytes(text, at)) {
        uint32_t left = text_index_find(&bpe->symbol_index, text.data, at);
        if (left == TOKEN_NONE) {
            continue;
        }
        uint32_t right = text_index_find(&bpe->symbol_index, text.data + at, text.bytes - at);
        if (right != TOKEN_NONE) {
            TRY(bpe_add_merge(bpe, left, right, rank, token));
        }
    }
    return STATUS_SUCCESS;
}

/* Equal scores have one rank: of such merges the leftmost comes first. */
static struct status add_ranked(struct tokenizer *tokenizer, const struct scored *order, size_t count) {
    uint32_t rank = 0;
    for (size_t i = 0; i < count; i++) {
        rank += i > 0 && order[i].score != order[i - 1].score;
        TRY(add_merges_of(&tokenizer->bpe, order[i].token, rank));
    }
    return STATUS_SUCCESS;
}

struct status tokenizer_merge_by_scores(const struct vocabulary *vocabulary, const float *scores,
                                        struct tokenizer *tokenizer) {
    TRY(tokenizer_keep_symbols(vocabulary, tokenizer));
    TRY(index_tokens(tokenizer, 0));
    TRY(add_missing(tokenizer));
    struct scored *order = malloc(tokenizer->count * sizeof *order);
    if (!order) {
        return status_error(STATUS_NO_MEMORY, "no memory to order %u tokens", tokenizer->count);
    }
    struct status status = bpe_create(&tokenizer->bpe, tokenizer->count);
    size_t count = 0;
    for (uint32_t token = 0; token < tokenizer->count && !status_failed(&status); token++) {
        if (!isfinite(scores[token])) {
            status = status_error(STATUS_INVALID, "%s[%u] is not a finite number", vocabulary->merges_name, token);
        } else if (may_merge(tokenizer, token)) {
            order[count++] = (struct scored){.score = scores[token], .token = token};
        }
    }
    if (!status_failed(&status)) {
        qsort(order, count, sizeof *order, compare_scores);
        status = add_ranked(tokenizer, order, count);
    }
    free(order);
    if (!status_failed(&status)) {
        tokenizer_find_ascii(&tokenizer->bpe);
    }
    return status;
}
