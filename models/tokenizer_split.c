/* Pre-tokens: a text is cut in steps before anything is merged, and no merge crosses a cut.
 *
 * Owns: the steps: patterns matched by PCRE2, and the marks that stand for spaces. Does not know the vocabulary.
 * Threads: any; compiled patterns are read-only and every encoder brings its own match data. */
#include "base/check.h"
#include "base/utf8.h"
#include "models/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

/* A pattern from a file that backtracks for longer than this in one place is an error of that file's. */
#define MATCH_LIMIT 2000000

static struct status pattern_error(int code) {
    PCRE2_UCHAR message[120];
    pcre2_get_error_message(code, message, sizeof message);
    return status_error(code == PCRE2_ERROR_NOMEMORY ? STATUS_NO_MEMORY : STATUS_UNSUPPORTED, "the pattern: %s",
                        (const char *)message);
}

struct status cuts_add_pattern(struct cuts *cuts, const char *pattern, enum cut_behavior behavior, bool invert) {
    if (cuts->count == MOST_CUTS) {
        return status_error(STATUS_UNSUPPORTED, "more than %d steps of cutting", MOST_CUTS);
    }
    int code;
    PCRE2_SIZE offset;
    /* Line ends are where Oniguruma, whose syntax files use, has them. */
    pcre2_code *compiled = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                                         PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &code, &offset, NULL);
    if (!compiled) {
        return pattern_error(code);
    }
    /* Where the system allows no code to be made at run time, matching is interpreted: slower, the same cuts. */
    (void)pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE);
    cuts->steps[cuts->count++] =
        (struct cut){.kind = CUT_PATTERN, .pattern = compiled, .behavior = behavior, .invert = invert};
    return STATUS_SUCCESS;
}

void cuts_destroy(struct cuts *cuts) {
    for (size_t i = 0; i < cuts->count; i++) {
        pcre2_code_free(cuts->steps[i].pattern);
    }
    cuts->count = 0;
}

void cut_scratch_free(struct cut_scratch *scratch) {
    for (size_t i = 0; i < MOST_CUTS; i++) {
        pcre2_match_data_free(scratch->steps[i].match);
        free(scratch->steps[i].text.data);
    }
    pcre2_match_context_free(scratch->context);
}

/* ---- one step after the other ---- */

static struct status cut_from(struct encoder *encoder, size_t step, const char *text, size_t bytes, bool first);

/* A text at one of the steps. */
struct cutting {
    struct encoder *encoder;
    size_t step;
    const char *text;
    size_t bytes;
    bool first;
};

static struct status pass_on(const struct cutting *cutting, size_t begin, size_t end) {
    return cut_from(cutting->encoder, cutting->step + 1, cutting->text + begin, end - begin,
                    cutting->first && begin == 0);
}

/* The spans of a text, matches and what lies between, joined as the behavior says: `begin` to `end` is not yet passed
 * on, and may still grow. */
struct pending {
    size_t begin, end;
    bool match;
};

static bool joins(enum cut_behavior behavior, const struct pending *pending, bool match) {
    switch (behavior) {
    case CUT_MERGED_WITH_PREVIOUS:
        return match && !pending->match;
    case CUT_MERGED_WITH_NEXT:
        return !match && pending->match;
    case CUT_CONTIGUOUS:
        return match == pending->match;
    case CUT_ISOLATED:
    case CUT_REMOVED:
        return false;
    }
    CHECK(false);
}

static struct status take_span(const struct cutting *cutting, const struct cut *cut, struct pending *pending,
                               size_t end, bool match) {
    match ^= cut->invert;
    if (pending->end > pending->begin && joins(cut->behavior, pending, match)) {
        pending->end = end;
        pending->match = match;
        return STATUS_SUCCESS;
    }
    struct pending done = *pending;
    *pending = (struct pending){.begin = done.end, .end = end, .match = match};
    bool removed = cut->behavior == CUT_REMOVED && done.match;
    return done.end > done.begin && !removed ? pass_on(cutting, done.begin, done.end) : STATUS_SUCCESS;
}

/* The next match at or after `from`, which is not empty; *found is false if there is none. */
static struct status next_match(const struct cutting *cutting, const struct cut *cut, size_t from, size_t *begin,
                                size_t *end, bool *found) {
    struct cut_scratch *scratch = &cutting->encoder->cuts;
    pcre2_match_data *match = scratch->steps[cutting->step].match;
    for (*found = false; from < cutting->bytes;) {
        /* The caller has checked that the text is UTF-8. */
        int count = pcre2_match(cut->pattern, (PCRE2_SPTR)cutting->text, cutting->bytes, from, PCRE2_NO_UTF_CHECK,
                                match, scratch->context);
        if (count == PCRE2_ERROR_JIT_STACKLIMIT) {
            count = pcre2_match(cut->pattern, (PCRE2_SPTR)cutting->text, cutting->bytes, from,
                                PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, match, scratch->context);
        }
        if (count == PCRE2_ERROR_NOMATCH) {
            return STATUS_SUCCESS;
        }
        if (count < 0) {
            return pattern_error(count);
        }
        *begin = pcre2_get_ovector_pointer(match)[0];
        *end = pcre2_get_ovector_pointer(match)[1];
        if (*end > *begin && *begin >= from) {
            *found = true;
            return STATUS_SUCCESS;
        }
        size_t used, at = *begin > from ? *begin : from;
        if (at >= cutting->bytes) {
            return STATUS_SUCCESS;
        }
        utf8_decode(cutting->text + at, cutting->bytes - at, &used);
        from = at + used;
    }
    return STATUS_SUCCESS;
}

static struct status prepare_match(struct cut_scratch *scratch, size_t step, const struct cut *cut) {
    if (!scratch->context) {
        scratch->context = pcre2_match_context_create(NULL);
        if (scratch->context) {
            pcre2_set_match_limit(scratch->context, MATCH_LIMIT);
        }
    }
    if (!scratch->steps[step].match) {
        scratch->steps[step].match = pcre2_match_data_create_from_pattern(cut->pattern, NULL);
    }
    return scratch->context && scratch->steps[step].match ? STATUS_SUCCESS
                                                          : status_error(STATUS_NO_MEMORY, "no memory for a match");
}

static struct status cut_at_matches(const struct cutting *cutting, const struct cut *cut) {
    TRY(prepare_match(&cutting->encoder->cuts, cutting->step, cut));
    struct pending pending = {0};
    for (size_t at = 0; at < cutting->bytes;) {
        size_t begin = 0, end = 0;
        bool found = false;
        TRY(next_match(cutting, cut, at, &begin, &end, &found));
        if (!found || begin > at) {
            at = found ? begin : cutting->bytes;
            TRY(take_span(cutting, cut, &pending, at, false));
        }
        if (found) {
            at = end;
            TRY(take_span(cutting, cut, &pending, at, true));
        }
    }
    bool removed = cut->behavior == CUT_REMOVED && pending.match;
    return pending.end > pending.begin && !removed ? pass_on(cutting, pending.begin, pending.end) : STATUS_SUCCESS;
}

/* ---- spaces and their marks ---- */

static struct status mark_spaces(struct text_buffer *out, const struct cutting *cutting, const struct cut *cut) {
    size_t mark_bytes = strlen(cut->mark);
    bool wanted = cut->prefix == PREFIX_ALWAYS || (cut->prefix == PREFIX_FIRST && cutting->first);
    bool there =
        cutting->text[0] == ' ' || (cutting->bytes >= mark_bytes && memcmp(cutting->text, cut->mark, mark_bytes) == 0);
    out->bytes = 0;
    if (wanted && !there) {
        TRY(text_buffer_add(out, cut->mark, mark_bytes));
    }
    for (size_t at = 0; at < cutting->bytes;) {
        const char *space = memchr(cutting->text + at, ' ', cutting->bytes - at);
        size_t end = space ? (size_t)(space - cutting->text) : cutting->bytes;
        TRY(text_buffer_add(out, cutting->text + at, end - at));
        if (space) {
            TRY(text_buffer_add(out, cut->mark, mark_bytes));
        }
        at = end + (space != NULL);
    }
    return STATUS_SUCCESS;
}

static struct status cut_at_marks(const struct cutting *cutting, const struct cut *cut) {
    struct text_buffer *out = &cutting->encoder->cuts.steps[cutting->step].text;
    TRY(mark_spaces(out, cutting, cut));
    struct cutting marked = *cutting;
    marked.text = out->data;
    marked.bytes = out->bytes;
    if (!cut->splits) {
        return pass_on(&marked, 0, marked.bytes);
    }
    size_t mark_bytes = strlen(cut->mark), begin = 0;
    for (size_t at = 0; at < marked.bytes;) {
        const char *next = memmem(marked.text + at, marked.bytes - at, cut->mark, mark_bytes);
        size_t end = next ? (size_t)(next - marked.text) : marked.bytes;
        if (end > begin) {
            TRY(pass_on(&marked, begin, end));
            begin = end;
        }
        at = next ? end + mark_bytes : marked.bytes;
    }
    return begin < marked.bytes ? pass_on(&marked, begin, marked.bytes) : STATUS_SUCCESS;
}

static struct status prefix_space(const struct cutting *cutting) {
    if (cutting->text[0] == ' ') {
        return pass_on(cutting, 0, cutting->bytes);
    }
    struct text_buffer *out = &cutting->encoder->cuts.steps[cutting->step].text;
    out->bytes = 0;
    TRY(text_buffer_add(out, " ", 1));
    TRY(text_buffer_add(out, cutting->text, cutting->bytes));
    struct cutting prefixed = *cutting;
    prefixed.text = out->data;
    prefixed.bytes = out->bytes;
    return pass_on(&prefixed, 0, prefixed.bytes);
}

/* `bytes` > 0. As deep as there are steps. */
static struct status cut_from(struct encoder *encoder, size_t step, const char *text, size_t bytes, bool first) {
    const struct cuts *cuts = &encoder->tokenizer->cuts;
    if (step == cuts->count) {
        return bpe_encode(encoder, text, bytes);
    }
    struct cutting cutting = {.encoder = encoder, .step = step, .text = text, .bytes = bytes, .first = first};
    switch (cuts->steps[step].kind) {
    case CUT_PATTERN:
        return cut_at_matches(&cutting, &cuts->steps[step]);
    case CUT_METASPACE:
        return cut_at_marks(&cutting, &cuts->steps[step]);
    case CUT_PREFIX_SPACE:
        return prefix_space(&cutting);
    }
    CHECK(false);
}

struct status cut_and_encode(struct encoder *encoder, const char *text, size_t bytes, bool first) {
    return bytes > 0 ? cut_from(encoder, 0, text, bytes, first) : STATUS_SUCCESS;
}
