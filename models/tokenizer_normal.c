/* Normalizing a text before it is cut: Unicode's form C, and replacements.
 *
 * Owns: the steps and their order. Form C is UAX #15's: decomposed, marks ordered, composed. utf8proc has the data and
 * composes; ordering is done here, because utf8proc's takes time in the square of a run of marks, and a prompt may be
 * one such run. Threads: any; each call brings its own scratch. */
#include "base/bytes.h"
#include "base/check.h"
#include "base/utf8.h"
#include "models/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* Replacements of a bad file could make a text of any length out of a short one. */
#define MOST_GROWTH 16

static struct status copy_string(struct gguf_string from, struct gguf_string *to) {
    char *copy = malloc(from.bytes + 1);
    if (!copy) {
        return status_error(STATUS_NO_MEMORY, "no memory for a string of %zu bytes", from.bytes);
    }
    if (from.bytes > 0) {
        memcpy(copy, from.data, from.bytes);
    }
    *to = (struct gguf_string){.data = copy, .bytes = from.bytes};
    return STATUS_SUCCESS;
}

struct status normalizers_add(struct normalizers *normalizers, enum normalizer_kind kind, struct gguf_string pattern,
                              struct gguf_string content) {
    if (normalizers->count == MOST_NORMALIZERS) {
        return status_error(STATUS_UNSUPPORTED, "more than %d steps of normalizing", MOST_NORMALIZERS);
    }
    struct normalizer *step = &normalizers->steps[normalizers->count++];
    *step = (struct normalizer){.kind = kind};
    TRY(copy_string(pattern, &step->pattern));
    return copy_string(content, &step->content);
}

void normalizers_destroy(struct normalizers *normalizers) {
    for (size_t i = 0; i < normalizers->count; i++) {
        free((char *)normalizers->steps[i].pattern.data);
        free((char *)normalizers->steps[i].content.data);
    }
    normalizers->count = 0;
}

void normal_scratch_free(struct normal_scratch *scratch) {
    for (int i = 0; i < 2; i++) {
        free(scratch->texts[i].data);
        free(scratch->origins[i]);
    }
    free(scratch->composer.characters);
    free(scratch->composer.order);
}

/* ---- one step's input and output ---- */

struct writer {
    struct normal_scratch *scratch;
    int side;                   /* of the scratch's two buffers */
    size_t most;                /* bytes that may be written in all */
    const uint32_t *in_origins; /* NULL: a byte of the input came from its own place */
    bool mapped;
};

/* Appends bytes that all come from the input's byte `from`, or with `each` each from the next. */
static struct status put(struct writer *writer, const char *data, size_t bytes, size_t from, bool each) {
    struct text_buffer *text = &writer->scratch->texts[writer->side];
    size_t begin = text->bytes;
    if (bytes > writer->most - begin) {
        return status_error(STATUS_INVALID, "the text grows to more than %d times its length when it is normalized",
                            MOST_GROWTH);
    }
    TRY(text_buffer_add(text, data, bytes));
    if (!writer->mapped) {
        return STATUS_SUCCESS;
    }
    uint32_t **origins = &writer->scratch->origins[writer->side];
    size_t *capacity = &writer->scratch->origin_capacity[writer->side];
    if (text->bytes + 1 > *capacity) { /* one more for the end */
        size_t wanted = (text->bytes + 1) * 2;
        uint32_t *grown = realloc(*origins, wanted * sizeof *grown);
        if (!grown) {
            return status_error(STATUS_NO_MEMORY, "no memory for the origins of %zu bytes", text->bytes);
        }
        *origins = grown;
        *capacity = wanted;
    }
    for (size_t i = 0; i <= bytes; i++) { /* the last is the end so far, which the next bytes take over */
        size_t at = from + (each ? i : 0);
        (*origins)[begin + i] = writer->in_origins ? writer->in_origins[at] : (uint32_t)at;
    }
    return STATUS_SUCCESS;
}

/* ---- form C ---- */

/* Characters that are in form C whatever stands before or after them, in the ranges that most texts are made of: of
 * class 0, not decomposed, and never the second of a composition. */
static bool stands_alone(uint32_t character) {
    return character < 0x300 || (character >= 0x400 && character < 0x483) ||
           (character >= 0x2010 && character < 0x2027) || (character >= 0x3041 && character < 0x3097) ||
           (character >= 0x30a0 && character < 0xa000) || (character >= 0xac00 && character < 0xd7a4) ||
           (character >= 0x1f300 && character < 0x1fb00);
}

static int compare_keys(const void *left, const void *right) {
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

static unsigned class_of(int32_t character) {
    return (unsigned)utf8proc_get_property(character)->combining_class;
}

/* Puts characters [begin, end), all of a class other than 0, in the order of their classes; equals stay in order. */
static void order_marks(struct composer_scratch *scratch, size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) {
        uint64_t character = (uint64_t)scratch->characters[i];
        scratch->order[i] = (uint64_t)class_of(scratch->characters[i]) << 56 | (uint64_t)i << 21 | character;
    }
    qsort(scratch->order + begin, end - begin, sizeof *scratch->order, compare_keys);
    for (size_t i = begin; i < end; i++) {
        scratch->characters[i] = (int32_t)(scratch->order[i] & 0x1fffff);
    }
}

static void order_all(struct composer_scratch *scratch, size_t count) {
    for (size_t begin = 0, end; begin < count; begin = end + 1) {
        bool ordered = true;
        unsigned last = 0;
        for (end = begin; end < count && class_of(scratch->characters[end]) != 0; end++) {
            unsigned class = class_of(scratch->characters[end]);
            ordered &= class >= last;
            last = class;
        }
        if (!ordered) {
            order_marks(scratch, begin, end);
        }
    }
}

#define MOST_DECOMPOSED 4 /* characters that one becomes */

static struct status compose_scratch_reserve(struct composer_scratch *scratch, size_t characters) {
    if (characters <= scratch->capacity) {
        return STATUS_SUCCESS;
    }
    free(scratch->characters);
    free(scratch->order);
    scratch->characters = malloc(characters * 2 * sizeof *scratch->characters);
    scratch->order = malloc(characters * 2 * sizeof *scratch->order);
    scratch->capacity = scratch->characters && scratch->order ? characters * 2 : 0;
    return scratch->capacity ? STATUS_SUCCESS
                             : status_error(STATUS_NO_MEMORY, "no memory to normalize %zu characters", characters);
}

/* Writes text[begin, end) composed. */
static struct status compose(struct writer *writer, const char *text, size_t begin, size_t end) {
    struct composer_scratch *scratch = &writer->scratch->composer;
    const utf8proc_option_t options = UTF8PROC_COMPOSE | UTF8PROC_STABLE;
    TRY(compose_scratch_reserve(scratch, (end - begin) * MOST_DECOMPOSED));
    size_t count = 0;
    for (size_t at = begin, used; at < end; at += used) {
        int32_t character = (int32_t)utf8_decode(text + at, end - at, &used);
        utf8proc_ssize_t room = (utf8proc_ssize_t)(scratch->capacity - count);
        utf8proc_ssize_t made = utf8proc_decompose_char(character, scratch->characters + count, room, options, NULL);
        CHECK(made >= 0 && made <= room);
        count += (size_t)made;
    }
    order_all(scratch, count);
    utf8proc_ssize_t composed = utf8proc_normalize_utf32(scratch->characters, (utf8proc_ssize_t)count, options);
    CHECK(composed >= 0 && (size_t)composed <= count);
    for (utf8proc_ssize_t i = 0; i < composed; i++) {
        char encoded[4];
        size_t bytes = utf8_encode((uint32_t)scratch->characters[i], encoded);
        TRY(put(writer, encoded, bytes, begin, false));
    }
    return STATUS_SUCCESS;
}

static struct status write_composed(struct writer *writer, const char *text, size_t bytes) {
    size_t written = 0, alone = 0,
           at = 0; /* text before `written` is done; the last that stands alone begins at `alone` */
    while (at < bytes) {
        size_t used;
        if (stands_alone(utf8_decode(text + at, bytes - at, &used))) {
            alone = at;
            at += used;
            continue;
        }
        /* It may compose with the one before it, and so may all that follow up to the next that stands alone. */
        size_t begin = alone < written ? at : alone;
        TRY(put(writer, text + written, begin - written, written, true));
        while (at < bytes && !stands_alone(utf8_decode(text + at, bytes - at, &used))) {
            at += used;
        }
        TRY(compose(writer, text, begin, at));
        written = alone = at;
    }
    return put(writer, text + written, bytes - written, written, true);
}

/* ---- replacements ---- */

static struct status write_replaced(struct writer *writer, const struct normalizer *step, const char *text,
                                    size_t bytes) {
    size_t at = 0;
    for (const char *found; (found = memmem(text + at, bytes - at, step->pattern.data, step->pattern.bytes));) {
        size_t place = (size_t)(found - text);
        TRY(put(writer, text + at, place - at, at, true));
        TRY(put(writer, step->content.data, step->content.bytes, place, false));
        at = place + step->pattern.bytes;
    }
    return put(writer, text + at, bytes - at, at, true);
}

static struct status write_step(struct writer *writer, const struct normalizer *step, const char *text, size_t bytes) {
    switch (step->kind) {
    case NORMALIZE_NFC:
        return write_composed(writer, text, bytes);
    case NORMALIZE_PREPEND:
        if (bytes > 0) {
            TRY(put(writer, step->content.data, step->content.bytes, 0, false));
        }
        return put(writer, text, bytes, 0, true);
    case NORMALIZE_REPLACE:
        return write_replaced(writer, step, text, bytes);
    }
    CHECK(false);
}

struct status normalize(const struct normalizers *normalizers, const char *text, size_t bytes, bool mapped,
                        struct normal_scratch *scratch, struct special_text *out) {
    size_t most = bytes < INT32_MAX / MOST_GROWTH ? bytes * MOST_GROWTH + 256 : INT32_MAX;
    struct writer writer = {.scratch = scratch, .mapped = mapped, .most = most};
    *out = (struct special_text){.data = text, .bytes = bytes};
    for (size_t i = 0; i < normalizers->count; i++) {
        writer.side = i % 2;
        writer.in_origins = out->origins;
        scratch->texts[writer.side].bytes = 0;
        TRY(write_step(&writer, &normalizers->steps[i], out->data, out->bytes));
        out->data = scratch->texts[writer.side].data;
        out->bytes = scratch->texts[writer.side].bytes;
        out->origins = mapped ? scratch->origins[writer.side] : NULL;
    }
    return STATUS_SUCCESS;
}
