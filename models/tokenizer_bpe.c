/* Byte pair encoding of one pre-token: of all neighbours that may merge, those of the lowest rank merge first, the
 * leftmost of equals first, until none may (Sennrich et al., arXiv 1508.07909).
 *
 * Owns: the table of merges and the algorithm: a linked list of symbols and a heap of the pairs that may merge, so
 * that n bytes take O(n log n). Threads: any; each call brings its own scratch. */
#include "base/bytes.h"
#include "base/check.h"
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

struct status bpe_create(struct bpe *bpe, size_t count) {
    size_t slots = 16;
    while (slots / 2 < count) {
        if (slots > UINT32_MAX / 4) {
            return status_error(STATUS_UNSUPPORTED, "tokenizer.ggml.merges: %zu are more than this program takes",
                                count);
        }
        slots *= 2;
    }
    bpe->merges = malloc(slots * sizeof *bpe->merges);
    if (!bpe->merges) {
        return status_error(STATUS_NO_MEMORY, "no memory for %zu merges", count);
    }
    for (size_t i = 0; i < slots; i++) {
        bpe->merges[i].pair = NO_PAIR;
    }
    bpe->merge_mask = slots - 1;
    return STATUS_SUCCESS;
}

void bpe_destroy(struct bpe *bpe) {
    free(bpe->merges);
    pcre2_code_free(bpe->pattern);
}

void bpe_add_merge(struct bpe *bpe, uint32_t left, uint32_t right, uint32_t rank, uint32_t token) {
    struct merge *slot = merge_slot(bpe, pair_of(left, right));
    if (slot->pair == NO_PAIR) {
        *slot = (struct merge){.pair = pair_of(left, right), .rank = rank, .token = token};
    }
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
    pcre2_match_data_free(scratch->match);
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

static struct status encode_piece(const struct tokenizer *tokenizer, const char *piece, size_t bytes, size_t limit,
                                  struct bpe_scratch *scratch, struct token_list *list) {
    const struct bpe *bpe = &tokenizer->bpe;
    if (bpe->pre->whole_words) {
        uint32_t whole = text_index_find(&tokenizer->index, piece, bytes);
        if (whole != TOKEN_NONE) {
            return token_list_append(list, whole, limit);
        }
    }
    TRY(scratch_reserve(scratch, bytes));
    struct bpe_node *nodes = scratch->nodes;
    uint32_t count = 0;
    for (size_t i = 0; i < bytes; i++) {
        uint32_t token = bpe->byte_tokens[(unsigned char)piece[i]];
        if (token != TOKEN_NONE) {
            nodes[count] = (struct bpe_node){.token = token, .previous = count - 1, .next = count + 1};
            count++;
        }
    }
    if (count == 0) {
        return STATUS_SUCCESS;
    }
    nodes[count - 1].next = NO_NODE; /* and node 0's previous, 0 - 1, is NO_NODE */
    merge_all(bpe, nodes, count, scratch->heap);
    for (uint32_t node = 0; node != NO_NODE; node = nodes[node].next) {
        TRY(token_list_append(list, nodes[node].token, limit));
    }
    return STATUS_SUCCESS;
}

struct status bpe_encode(const struct tokenizer *tokenizer, const char *text, size_t bytes, size_t limit,
                         struct bpe_scratch *scratch, struct token_list *list) {
    if (!scratch->match) {
        scratch->match = pcre2_match_data_create_from_pattern(tokenizer->bpe.pattern, NULL);
        if (!scratch->match) {
            return status_error(STATUS_NO_MEMORY, "no memory for a match");
        }
    }
    for (size_t at = 0, length; at < bytes; at += length) {
        TRY(pre_tokenizer_next(tokenizer->bpe.pattern, scratch->match, text, bytes, at, &length));
        CHECK(length > 0 && length <= bytes - at);
        TRY(encode_piece(tokenizer, text + at, length, limit, scratch, list));
    }
    return STATUS_SUCCESS;
}
