/* Fuzz target: any sequence of tokens, detokenized piece by piece. Each input byte is a token: itself, or (0x00 to
 * 0x07) one of a few that hold several bytes, some of them broken. Every piece must be valid UTF-8, and together they
 * must be what utf8_sanitize() makes of the whole. */
#include "base/check.h"
#include "base/utf8.h"
#include "models/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static const char *const several[] = {
    "ðŁ",     /* f0 9f */
    "ļĢ",     /* 9a 80: the rest of a rocket */
    "ĠtheĠ",  /* " the " */
    "âĤ¬âĤ",  /* a euro sign and the beginning of another */
    "íłĢ",    /* a surrogate */
    "ôıĲĢô",  /* past the last character, and a beginning */
    "ĢĢĢĢĢ",  /* 80 five times */
    "Ã©ÃÃ©Ã", /* e acute, a beginning, e acute, a beginning */
};
#define SEVERAL (sizeof several / sizeof several[0])

static const struct tokenizer *byte_tokenizer(void) {
    static struct tokenizer *tokenizer;
    if (!tokenizer) {
        struct gguf_string tokens[256 + SEVERAL];
        char spellings[256][4];
        uint32_t next = 256;
        for (uint32_t byte = 0; byte < 256; byte++) {
            bool seen = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte != 0xad);
            tokens[byte].data = spellings[byte];
            tokens[byte].bytes = utf8_encode(seen ? byte : next++, spellings[byte]);
        }
        for (size_t i = 0; i < SEVERAL; i++) {
            tokens[256 + i] = (struct gguf_string){.data = several[i], .bytes = strlen(several[i])};
        }
        struct tokenizer_parts parts = {
            .tokens = tokens, .token_count = 256 + SEVERAL, .pre = "gpt-2", .bos = TOKEN_NONE, .eos = TOKEN_NONE};
        struct status status = tokenizer_from_parts(&parts, &tokenizer);
        CHECK(!status_failed(&status));
    }
    return tokenizer;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    const struct tokenizer *tokenizer = byte_tokenizer();
    size_t bound = detokenizer_bound(tokenizer), shown_bytes = 0, whole_bytes = 0;
    char *whole = malloc(bytes * bound + 1), *shown = malloc((bytes + 1) * bound),
         *expected = malloc(3 * bytes * bound + 1);
    CHECK(whole && shown && expected);
    struct detokenizer state;
    detokenizer_init(&state, tokenizer, false);
    for (size_t i = 0; i < bytes; i++) {
        uint32_t token = data[i] < SEVERAL ? 256u + data[i] : data[i];
        struct gguf_string piece = tokenizer_bytes(tokenizer, token, false);
        memcpy(whole + whole_bytes, piece.data, piece.bytes);
        whole_bytes += piece.bytes;
        size_t wrote = detokenizer_push(&state, token, shown + shown_bytes, bound);
        CHECK(wrote <= bound && utf8_valid(shown + shown_bytes, wrote));
        shown_bytes += wrote;
        CHECK(whole_bytes - utf8_complete_prefix(whole, whole_bytes) == state.held_bytes);
    }
    shown_bytes += detokenizer_flush(&state, shown + shown_bytes, bound);
    CHECK(utf8_sanitize(whole, whole_bytes, expected) == shown_bytes && memcmp(shown, expected, shown_bytes) == 0);
    free(whole);
    free(shown);
    free(expected);
    return 0;
}
