/* Byte pair encoding of one pre-token: its bytes or characters are symbols at first; of all neighbours that may merge,
 * those of the lowest rank merge first, the leftmost of equals first, until none may (Sennrich et al., arXiv
 * 1508.07909). SentencePiece's BPE (Kudo and Richardson, arXiv 1808.06226) is the same with its scores as ranks.
 *
 * Owns: the table of merges and the algorithm: a linked list of symbols and a heap of the pairs that may merge, so
 * that n bytes take O(n log n). Threads: any; each call brings its own scratch. */
#include "base/check.h"
#include "base/utf8.h"
#include "models/tokenizer_internal.h"

#include <stdlib.h>

#define NO_NODE UINT32_MAX
#define NO_RANK UINT32_MAX
#define NO_PAIR UINT64_MAX

/* A symbol of the pre-token: a byte at first, then what it has merged into. */
struct bpe_node {
    uint32_t token;
    uint32_t previous, next; /* NO_NODE at the ends */
    uint32_t rank;           /* of merging with `next`; NO_RANK if the two may not, or this symbol is gone */
    uint32_t merged;         /* what that merge gives */
};

static uint64_t pair_of(uint32_t left, uint32_t right) {
    return (uint64_t)left << 32 | right;
}

/* The slot of `pair`, or the empty one where it would go. */
static struct merge *merge_slot(const struct bpe *bpe, uint64_t pair) {
    uint64_t hash = (pair ^ pair >> 32) * UINT64_C(0x9e3779b97f4a7c15);
    size_t slot = (size_t)(hash >> 32) & bpe->merge_mask;
    while (bpe->merges[slot].pair != pair && bpe->merges[slot].pair != NO_PAIR) {
        slot = (slot + 1) & bpe->merge_mask;
    }
    return &bpe->merges[slot];
}

static struct status allocate_merges(struct bpe *bpe, size_t slots) {
    if (slots > UINT32_MAX / 2) {
        return status_error(STATUS_UNSUPPORTED, "the vocabulary has more merges than this program takes");
    }
    bpe->merges = malloc(slots * sizeof *bpe->merges);
    if (!bpe->merges) {
        return status_error(STATUS_NO_MEMORY, "no memory for %zu merges", slots / 2);
    }
    for (size_t i = 0; i < slots; i++) {
        bpe->merges[i].pair = NO_PAIR;
    }
    bpe->merge_mask = slots - 1;
    return STATUS_SUCCESS;
}

struct status bpe_create(struct bpe *bpe, size_t count) {
    size_t slots = 16;
    while (slots / 2 < count) {
        slots *= 2;
    }
    return allocate_merges(bpe, slots);
}

void bpe_destroy(struct bpe *bpe) {
    free(bpe->merges);
    free(bpe->symbols);
    text_index_destroy(&bpe->symbol_index);
}

static struct status grow_merges(struct bpe *bpe) {
    struct merge *old = bpe->merges;
    size_t slots = bpe->merge_mask + 1;
    struct status status = allocate_merges(bpe, slots * 2);
    if (status_failed(&status)) {
        bpe->merges = old;
        return status;
    }
    for (size_t i = 0; i < slots; i++) {
        if (old[i].pair != NO_PAIR) {
            *merge_slot(bpe, old[i].pair) = old[i];
        }
    }
    free(old);
    return STATUS_SUCCESS;
}

struct status bpe_add_merge(struct bpe *bpe, uint32_t left, uint32_t right, uint32_t rank, uint32_t token) {
    if (bpe->merge_count > bpe->merge_mask / 2) {
        TRY(grow_merges(bpe));
    }
    struct merge *slot = merge_slot(bpe, pair_of(left, right));
    if (slot->pair == NO_PAIR) {
        *slot = (struct merge){.pair = pair_of(left, right), .rank = rank, .token = token};
        bpe->merge_count++;
    }
    return STATUS_SUCCESS;
}

/* ---- the heap: rank << 32 | node, the lowest on top ---- */

static void heap_sink(uint64_t *heap, size_t count, size_t at) {
    uint64_t item = heap[at];
    for (size_t child = 2 * at + 1; child < count; child = 2 * at + 1) {
        child += child + 1 < count && heap[child + 1] < heap[child];
        if (item <= heap[child]) {
            break;
        }
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = item;
}

static void heap_push(uint64_t *heap, size_t *count, uint64_t item) {
    size_t at = (*count)++;
    while (at > 0 && item < heap[(at - 1) / 2]) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = item;
}

static uint64_t heap_pop(uint64_t *heap, size_t *count) {
    uint64_t top = heap[0];
    heap[0] = heap[--*count];
    if (*count > 1) {
        heap_sink(heap, *count, 0);
    }
    return top;
}

/* ---- merging ---- */

/* Looks up what `node` and its right neighbour may become; false if nothing. */
static bool find_merge(const struct bpe *bpe, struct bpe_node *nodes, uint32_t node) {
    nodes[node].rank = NO_RANK;
    uint32_t next = nodes[node].next;
    if (next == NO_NODE) {
        return false;
    }
    const struct merge *merge = merge_slot(bpe, pair_of(nodes[node].token, nodes[next].token));
    if (merge->pair == NO_PAIR) {
        return false;
    }
    nodes[node].rank = merge->rank;
    nodes[node].merged = merge->token;
    return true;
}

/* Merges `node` with its right neighbour, which is gone afterwards. */
static void merge_with_next(struct bpe_node *nodes, uint32_t node) {
    uint32_t gone = nodes[node].next;
    nodes[node].token = nodes[node].merged;
    nodes[node].next = nodes[gone].next;
    nodes[gone].rank = NO_RANK;
    if (nodes[node].next != NO_NODE) {
        nodes[nodes[node].next].previous = node;
    }
}

/* An entry of the heap is out of date if its node's rank has changed since. One whose rank is the same again is as
 * good as new, so entries need no other mark. Every merge takes one entry and adds at most two: with `count` nodes
 * there are never more than 2 * count. */
static void merge_all(const struct bpe *bpe, struct bpe_node *nodes, uint32_t count, uint64_t *heap) {
    size_t entries = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (find_merge(bpe, nodes, i)) {
            heap[entries++] = pair_of(nodes[i].rank, i);
        }
    }
    for (size_t i = entries / 2; i-- > 0;) {
        heap_sink(heap, entries, i);
    }
    while (entries > 0) {
        uint64_t entry = heap_pop(heap, &entries);
        uint32_t node = (uint32_t)entry;
        if (nodes[node].rank != entry >> 32) {
            continue;
        }
        merge_with_next(nodes, node);
        if (find_merge(bpe, nodes, node)) {
            heap_push(heap, &entries, pair_of(nodes[node].rank, node));
        }
        uint32_t previous = nodes[node].previous;
        if (previous != NO_NODE && find_merge(bpe, nodes, previous)) {
            heap_push(heap, &entries, pair_of(nodes[previous].rank, previous));
        }
    }
}

/* ---- encoding ---- */

void bpe_scratch_free(struct bpe_scratch *scratch) {
    free(scratch->nodes);
    free(scratch->heap);
}

static struct status scratch_reserve(struct bpe_scratch *scratch, size_t nodes) {
    if (nodes <= scratch->capacity) {
        return STATUS_SUCCESS;
    }
    size_t capacity = scratch->capacity ? scratch->capacity : 64;
    while (capacity < nodes) {
        capacity *= 2;
    }
    free(scratch->nodes);
    free(scratch->heap);
    scratch->nodes = malloc(capacity * sizeof *scratch->nodes);
    scratch->heap = malloc(capacity * 2 * sizeof *scratch->heap);
    scratch->capacity = scratch->nodes && scratch->heap ? capacity : 0;
    if (scratch->capacity == 0) {
        return status_error(STATUS_NO_MEMORY, "no memory to tokenize a run of %zu bytes without a break", nodes);
    }
    return STATUS_SUCCESS;
}

/* The symbols of a piece as they are gathered; there is room for one for each of its bytes. */
struct symbols {
    const struct bpe *bpe;
    struct bpe_node *nodes;
    uint32_t count;
    bool unknown_last; /* the last was added by add_unknown() */
};

static void add_symbol(struct symbols *symbols, uint32_t token) {
    uint32_t at = symbols->count++;
    symbols->nodes[at] = (struct bpe_node){.token = token, .previous = at - 1, .next = at + 1};
    symbols->unknown_last = false;
}

static void add_unknown(struct symbols *symbols) {
    if (symbols->bpe->unknown != TOKEN_NONE && !(symbols->bpe->fuse_unknown && symbols->unknown_last)) {
        add_symbol(symbols, symbols->bpe->unknown);
    }
    symbols->unknown_last = symbols->bpe->unknown != TOKEN_NONE;
}

static void add_bytes(struct symbols *symbols, const char *piece, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) {
        uint32_t token = symbols->bpe->byte_tokens[(unsigned char)piece[i]];
        if (token != TOKEN_NONE) {
            add_symbol(symbols, token);
        } else {
            add_unknown(symbols);
        }
    }
}

/* A character that is no symbol. */
static void add_foreign(struct symbols *symbols, const char *character, size_t bytes) {
    bool fallback = symbols->bpe->byte_fallback;
    for (size_t i = 0; i < bytes; i++) {
        fallback &= symbols->bpe->byte_tokens[(unsigned char)character[i]] != TOKEN_NONE;
    }
    if (fallback) {
        add_bytes(symbols, character, bytes);
    } else {
        add_unknown(symbols);
    }
}

static void add_characters(struct symbols *symbols, const char *piece, size_t bytes) {
    const struct bpe *bpe = symbols->bpe;
    for (size_t at = 0, used = 1; at < bytes; at += used) {
        unsigned char byte = (unsigned char)piece[at];
        if (byte < 0x80) {
            used = 1;
        } else {
            utf8_decode(piece + at, bytes - at, &used);
        }
        uint32_t symbol =
            byte < 0x80 ? bpe->ascii_symbols[byte] : text_index_find(&bpe->symbol_index, piece + at, used);
        if (symbol != TOKEN_NONE) {
            add_symbol(symbols, symbol);
        } else {
            add_foreign(symbols, piece + at, used);
        }
    }
}

/* A symbol that is no token, and did not merge, is a foreign character after all. */
static struct status append_foreign(struct encoder *encoder, uint32_t symbol, bool *unknown_last) {
    const struct gguf_string *text = &encoder->tokenizer->bpe.symbols[symbol];
    struct bpe_node nodes[4];
    struct symbols symbols = {.bpe = &encoder->tokenizer->bpe, .nodes = nodes, .unknown_last = *unknown_last};
    CHECK(text->bytes <= sizeof nodes / sizeof nodes[0]);
    add_foreign(&symbols, text->data, text->bytes);
    for (uint32_t i = 0; i < symbols.count; i++) {
        TRY(encoder_append(encoder, nodes[i].token));
    }
    *unknown_last = symbols.unknown_last;
    return STATUS_SUCCESS;
}

static struct status append_tokens(struct encoder *encoder, const struct bpe_node *nodes) {
    const struct bpe *bpe = &encoder->tokenizer->bpe;
    bool unknown_last = false;
    for (uint32_t node = 0; node != NO_NODE; node = nodes[node].next) {
        uint32_t token = nodes[node].token;
        if (token >= encoder->tokenizer->count) {
            TRY(append_foreign(encoder, token, &unknown_last));
            continue;
        }
        bool unknown = token == bpe->unknown;
        if (!(unknown && unknown_last && bpe->fuse_unknown)) {
            TRY(encoder_append(encoder, token));
        }
        unknown_last = unknown;
    }
    return STATUS_SUCCESS;
}

struct status bpe_encode(struct encoder *encoder, const char *piece, size_t bytes) {
    const struct tokenizer *tokenizer = encoder->tokenizer;
    const struct bpe *bpe = &tokenizer->bpe;
    if (bpe->whole_words) {
        const struct text_index *index = bpe->byte_level ? &tokenizer->index : &bpe->symbol_index;
        uint32_t whole = text_index_find(index, piece, bytes);
        if (whole != TOKEN_NONE) {
            return encoder_append(encoder, whole);
        }
    }
    if (bytes > INT32_MAX) {
        return status_error(STATUS_INVALID, "a run of %zu bytes without a break is too long to tokenize", bytes);
    }
    TRY(scratch_reserve(&encoder->bpe, bytes));
    struct symbols symbols = {.bpe = bpe, .nodes = encoder->bpe.nodes};
    if (bpe->byte_level) {
        add_bytes(&symbols, piece, bytes);
    } else {
        add_characters(&symbols, piece, bytes);
    }
    if (symbols.count == 0) {
        return STATUS_SUCCESS;
    }
    symbols.nodes[symbols.count - 1].next = NO_NODE; /* and node 0's previous, 0 - 1, is NO_NODE */
    merge_all(bpe, symbols.nodes, symbols.count, encoder->bpe.heap);
    return append_tokens(encoder, symbols.nodes);
}
