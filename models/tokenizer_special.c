/* Special tokens in a text: which one begins here?
 *
 * Owns: the order of a set and the search in it. Does not know what happens to the text between them.
 * Threads: any; each search brings its own area. */
#include "models/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

static int compare_specials(const void *left, const void *right) {
    const struct gguf_string *a = &((const struct special *)left)->text, *b = &((const struct special *)right)->text;
    int order = memcmp(a->data, b->data, a->bytes < b->bytes ? a->bytes : b->bytes);
    return order ? order : (a->bytes > b->bytes) - (a->bytes < b->bytes);
}

void special_set_sort(struct special_set *set) {
    if (set->count > 0) {
        qsort(set->items, set->count, sizeof *set->items, compare_specials);
    }
    for (size_t i = 0; i < set->count; i++) {
        set->begins[(unsigned char)set->items[i].text.data[0]] = true;
    }
}

/* The byte of special `place` at `depth`, -1 past its end: shorter texts sort before those they begin. */
static int special_byte(const struct special_set *set, size_t place, size_t depth) {
    const struct gguf_string *text = &set->items[place].text;
    return depth < text->bytes ? (unsigned char)text->data[depth] : -1;
}

/* The first of specials [low, high), which are all equal before `depth`, whose byte there is at least `byte`. */
static size_t first_special(const struct special_set *set, size_t low, size_t high, size_t depth, int byte) {
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (special_byte(set, middle, depth) < byte) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static bool control_allowed(struct control_area *area, const struct special_text *text, size_t begin, size_t end) {
    size_t from = begin, to = end;
    if (text->origins) {
        /* Bytes that were made of several characters have the first one's origin: all of them count. */
        while (to < text->bytes && text->origins[to] == text->origins[end - 1]) {
            to++;
        }
        from = text->origins[begin];
        to = text->origins[to];
    }
    from += text->base;
    to += text->base;
    while (area->next < area->content_count && area->content[area->next].end <= from) {
        area->next++;
    }
    return area->allowed && (area->next == area->content_count || area->content[area->next].begin >= to);
}

/* The sorted specials are narrowed byte by byte to those that the text spells. */
const struct special *special_find(const struct special_set *set, const uint8_t *types, const struct special_text *text,
                                   size_t at, struct control_area *area) {
    const struct special *longest = NULL;
    size_t low = 0, high = set->count;
    for (size_t depth = 0; at + depth < text->bytes && low < high; depth++) {
        int byte = (unsigned char)text->data[at + depth];
        low = first_special(set, low, high, depth, byte);
        high = first_special(set, low, high, depth, byte + 1);
        if (low < high && special_byte(set, low, depth + 1) < 0) {
            const struct special *special = &set->items[low];
            if (types[special->token] == TOKEN_TYPE_USER_DEFINED || control_allowed(area, text, at, at + depth + 1)) {
                longest = special;
            }
        }
    }
    return longest;
}
