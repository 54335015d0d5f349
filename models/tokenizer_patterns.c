/* How texts are cut: the table of patterns by the names that GGUF files use, and patterns of tokenizer.json.
 *
 * Owns: the patterns, in PCRE2's syntax, and the translation of Oniguruma's. Does not match: tokenizer_split.c does.
 * Threads: any. */
#include "models/tokenizer_internal.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* White space as Unicode has it, for use inside [...]. PCRE2's own \s would also take U+180E, which left that
 * property with Unicode 6.3. */
#define SPACE "\\t-\\r\\x{85}\\p{Z}"

#define CONTRACTIONS "'s|'t|'re|'ve|'m|'ll|'d"

/* GPT-2's. In every pattern here each alternative begins where the last match ended, any character begins one, and
 * no alternative backtracks over more than one run of characters: cutting takes time in proportion to the text. */
#define GPT2                                                         \
    CONTRACTIONS "| ?\\p{L}+| ?\\p{N}+| ?[^" SPACE "\\p{L}\\p{N}]+|" \
                 "[" SPACE "]+(?![^" SPACE "])|[" SPACE "]+"

/* First every digit by itself, then GPT-2's pattern on what lies between: the look-ahead that leaves the last space
 * to the next word sees the end of its piece before a digit, too. One pattern says both. */
#define DIGITS_THEN_GPT2                                          \
    CONTRACTIONS "| ?\\p{L}+|\\p{N}| ?[^" SPACE "\\p{L}\\p{N}]+|" \
                 "[" SPACE "]+(?![^" SPACE "\\p{N}])|[" SPACE "]+"

/* Llama 3's and its descendants', which differ in how many digits go together. */
#define LLAMA3(digits)                                                                                            \
    "(?i:" CONTRACTIONS ")|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "| ?[^" SPACE "\\p{L}\\p{N}]+[\\r\\n]*|[" SPACE \
    "]*[\\r\\n]+|[" SPACE "]+(?![^" SPACE "])|[" SPACE "]+"

/* Mistral's Tekken: words are also cut where a lower-case letter is followed by an upper-case one. */
#define TEKKEN_UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define TEKKEN_LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define TEKKEN                                                                                                      \
    "[^\\r\\n\\p{L}\\p{N}]?" TEKKEN_UPPER "*" TEKKEN_LOWER "+|[^\\r\\n\\p{L}\\p{N}]?" TEKKEN_UPPER "+" TEKKEN_LOWER \
    "*|\\p{N}| ?[^" SPACE "\\p{L}\\p{N}]+[\\r\\n/]*|[" SPACE "]*[\\r\\n]+|[" SPACE "]+(?![^" SPACE "])|[" SPACE "]+"

const char *const gpt2_pattern = GPT2;

/* Only names whose pattern is certain. "default", which old files carry, is not: it stands for several. The last column
 * is what the family's own tokenizer.json says of Unicode's form C. */
static const struct pre_tokenizer table[] = {
    {"gpt-2", GPT2, false, false, false},
    {"phi-2", GPT2, false, false, false},
    {"olmo", GPT2, false, false, true},
    {"mpt", GPT2, false, false, true},
    {"smollm", DIGITS_THEN_GPT2, false, false, false},
    {"starcoder", DIGITS_THEN_GPT2, false, false, false},
    {"refact", DIGITS_THEN_GPT2, false, false, false},
    {"command-r", DIGITS_THEN_GPT2, false, false, true},
    {"codeshell", DIGITS_THEN_GPT2, false, false, false},
    {"qwen2", LLAMA3("\\p{N}"), false, false, true},
    {"deepseek-r1-qwen", LLAMA3("\\p{N}"), false, false, true},
    {"stablelm2", LLAMA3("\\p{N}"), false, false, false},
    {"megrez", LLAMA3("\\p{N}"), false, false, false},
    {"llama-bpe", LLAMA3("\\p{N}{1,3}"), true, true, false},
    {"llama3", LLAMA3("\\p{N}{1,3}"), true, true, false},
    {"llama-v3", LLAMA3("\\p{N}{1,3}"), true, true, false},
    {"dbrx", LLAMA3("\\p{N}{1,3}"), false, false, false},
    {"smaug-bpe", LLAMA3("\\p{N}{1,3}"), false, false, false},
    {"tekken", TEKKEN, true, true, false},
};

#define TABLE_ROWS (sizeof table / sizeof table[0])

struct status pre_tokenizer_named(const char *name, const struct pre_tokenizer **out) {
    char names[200] = "";
    size_t used = 0;
    for (size_t i = 0; i < TABLE_ROWS; i++) {
        if (strcmp(table[i].name, name) == 0) {
            *out = &table[i];
            return STATUS_SUCCESS;
        }
        int wrote = snprintf(names + used, sizeof names - used, "%s%s", i == 0 ? "" : ", ", table[i].name);
        used += (size_t)wrote < sizeof names - used ? (size_t)wrote : 0;
    }
    return status_error(STATUS_UNSUPPORTED, "pre-tokenizer \"%.24s\" is not built; built are %s", name, names);
}

/* ---- Oniguruma's syntax ---- */

/* Where the two read the same characters differently. Inside [...] `inside` stands for it. */
struct translation {
    const char *from, *outside, *inside; /* NULL: not built */
};

#define WORD "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}"

static const struct translation escapes[] = {
    {"\\s", "[" SPACE "]", SPACE}, {"\\S", "[^" SPACE "]", "\\S"},
    {"\\w", "[" WORD "]", WORD},   {"\\W", "[^" WORD "]", NULL},
    {"\\h", NULL, NULL},           {"\\H", NULL, NULL},
    {"\\b", NULL, NULL},           {"\\B", NULL, NULL},
    {"\\R", NULL, NULL},           {"\\X", NULL, NULL},
    {"\\K", NULL, NULL},           {"\\G", NULL, NULL},
    {"\\g", NULL, NULL},           {"\\k", NULL, NULL},
    {"\\Z", NULL, NULL},           {"\\C", NULL, NULL},
    {"\\Q", NULL, NULL},           {"\\E", NULL, NULL},
    {"\\N", NULL, NULL},           {"\\O", NULL, NULL},
    {"\\y", NULL, NULL},           {"\\Y", NULL, NULL},
    {"\\o", NULL, NULL},           {"\\c", NULL, NULL},
};

bool pattern_word_character(uint32_t character) {
    switch (utf8proc_category((int32_t)character)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default: /* circled letters and joiners */
        return (character >= 0x24b6 && character <= 0x24e9) || character == 0x200c || character == 0x200d ||
               (character >= 0x1f130 && character <= 0x1f189 && character != 0x1f14a);
    }
}

static struct status not_translated(const char *what, size_t at) {
    return status_error(STATUS_UNSUPPORTED, "the pattern has %s at byte %zu, which is not built", what, at);
}

/* One escape; *used is its length in the pattern. */
static struct status translate_escape(struct gguf_string pattern, size_t at, bool inside, struct text_buffer *out,
                                      size_t *used) {
    const char *begin = pattern.data + at;
    *used = 2;
    if (pattern.bytes - at < 2 || begin[1] == 0) {
        return not_translated("a backslash at its end", at);
    }
    for (size_t i = 0; i < sizeof escapes / sizeof escapes[0]; i++) {
        if (memcmp(begin, escapes[i].from, 2) == 0) {
            const char *to = inside ? escapes[i].inside : escapes[i].outside;
            return to ? text_buffer_add(out, to, strlen(to)) : not_translated(escapes[i].from, at);
        }
    }
    if (begin[1] == 'u') { /* four digits follow */
        if (pattern.bytes - at < 6 || !isxdigit((unsigned char)begin[2]) || !isxdigit((unsigned char)begin[3]) ||
            !isxdigit((unsigned char)begin[4]) || !isxdigit((unsigned char)begin[5])) {
            return not_translated("\\u without four digits", at);
        }
        char character[16];
        int length = snprintf(character, sizeof character, "\\x{%.4s}", begin + 2);
        *used = 6;
        return text_buffer_add(out, character, (size_t)length);
    }
    const char *end = strchr("pPx", begin[1]) && pattern.bytes - at > 2 && begin[2] == '{'
                          ? memchr(begin, '}', pattern.bytes - at)
                          : NULL;
    *used = end ? (size_t)(end - begin) + 1 : 2; /* a property's or a number's braces belong to it */
    return text_buffer_add(out, begin, *used);
}

/* What is no escape and means something else, or NULL. Oniguruma nests classes and intersects them; a bounded repeat
 * followed by + is greedy there and possessive here. */
static const char *other_meaning(struct gguf_string pattern, size_t at, bool inside) {
    const char *rest = pattern.data + at;
    size_t left = pattern.bytes - at;
    if (inside && rest[0] == '[') {
        return "a class in a class";
    }
    if (inside && left > 1 && rest[0] == '&' && rest[1] == '&') {
        return "&& in a class";
    }
    if (!inside && left > 1 && rest[0] == '}' && rest[1] == '+') {
        return "a + after }";
    }
    if (!inside && left > 2 && rest[0] == '(' && (rest[1] == '*' || (rest[1] == '?' && !strchr(":=!<>i", rest[2])))) {
        return "a group of a kind";
    }
    return rest[0] == 0 ? "a NUL" : NULL;
}

struct status pattern_translate(struct gguf_string pattern, char **out) {
    struct text_buffer text = {0};
    struct status status = STATUS_SUCCESS;
    size_t class_begin = 0; /* where the class that `at` is in has its first member; 0: in none */
    for (size_t at = 0, used; at < pattern.bytes && !status_failed(&status); at += used) {
        const char *wrong = other_meaning(pattern, at, class_begin > 0);
        char byte = pattern.data[at];
        used = 1;
        if (wrong) {
            status = not_translated(wrong, at);
        } else if (byte == '\\') {
            status = translate_escape(pattern, at, class_begin > 0, &text, &used);
        } else {
            if (byte == '[') {
                bool negated = at + 1 < pattern.bytes && pattern.data[at + 1] == '^';
                class_begin = at + 1 + negated;
            } else if (byte == ']' && at > class_begin) {
                class_begin = 0;
            }
            status = text_buffer_add(&text, &byte, 1);
        }
    }
    if (!status_failed(&status)) {
        status = text_buffer_add(&text, "", 1);
    }
    if (status_failed(&status)) {
        free(text.data);
        return status;
    }
    *out = text.data;
    return STATUS_SUCCESS;
}
