/* Pre-tokens: a text is cut by a pattern before anything is merged, and no merge crosses a cut.
 *
 * Owns: the table of patterns by the names that GGUF files use. Does not know the vocabulary.
 * Threads: any; a compiled pattern is read-only and every caller brings its own match data. */
#include "models/tokenizer_internal.h"

#include <stdio.h>
#include <string.h>

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

/* Only names whose pattern is certain. "default", which old files carry, is not: it stands for several. Some of these
 * families also normalize a text to NFC first; like other GGUF engines we do not, so that decoding gives back the
 * text that was encoded. */
static const struct pre_tokenizer table[] = {
    {"gpt-2", GPT2, false, false},
    {"phi-2", GPT2, false, false},
    {"olmo", GPT2, false, false},
    {"mpt", GPT2, false, false},
    {"smollm", DIGITS_THEN_GPT2, false, false},
    {"starcoder", DIGITS_THEN_GPT2, false, false},
    {"refact", DIGITS_THEN_GPT2, false, false},
    {"command-r", DIGITS_THEN_GPT2, false, false},
    {"codeshell", DIGITS_THEN_GPT2, false, false},
    {"qwen2", LLAMA3("\\p{N}"), false, false},
    {"deepseek-r1-qwen", LLAMA3("\\p{N}"), false, false},
    {"stablelm2", LLAMA3("\\p{N}"), false, false},
    {"megrez", LLAMA3("\\p{N}"), false, false},
    {"llama-bpe", LLAMA3("\\p{N}{1,3}"), true, true},
    {"llama3", LLAMA3("\\p{N}{1,3}"), true, true},
    {"llama-v3", LLAMA3("\\p{N}{1,3}"), true, true},
    {"dbrx", LLAMA3("\\p{N}{1,3}"), false, false},
    {"smaug-bpe", LLAMA3("\\p{N}{1,3}"), false, false},
    {"tekken", TEKKEN, true, true},
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

static struct status pattern_error(const char *what, int code) {
    PCRE2_UCHAR message[120];
    pcre2_get_error_message(code, message, sizeof message);
    return status_error(code == PCRE2_ERROR_NOMEMORY ? STATUS_NO_MEMORY : STATUS_UNSUPPORTED, "pre-tokenizer %s: %s",
                        what, (const char *)message);
}

struct status pre_tokenizer_compile(const struct pre_tokenizer *row, pcre2_code **out) {
    int code;
    PCRE2_SIZE offset;
    *out = pcre2_compile((PCRE2_SPTR)row->pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &code,
                         &offset, NULL);
    if (!*out) {
        return pattern_error(row->name, code);
    }
    /* Where the system allows no code to be made at run time, matching is interpreted: slower, the same cuts. */
    (void)pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE);
    return STATUS_SUCCESS;
}

struct status pre_tokenizer_next(const pcre2_code *pattern, pcre2_match_data *match, const char *text, size_t bytes,
                                 size_t from, size_t *length) {
    /* The caller has checked that the text is UTF-8. */
    int found = pcre2_match(pattern, (PCRE2_SPTR)text, bytes, from, PCRE2_NO_UTF_CHECK, match, NULL);
    if (found < 0) {
        return pattern_error("match", found);
    }
    *length = pcre2_get_ovector_pointer(match)[1] - from;
    return STATUS_SUCCESS;
}
