/* Tokenizes many texts with our tokenizer, for tests/tools/tokenizer_compare.py.
 *
 * Usage: tokenize_lines [--special] [--time] MODEL.gguf
 * Standard input: texts, each with its length in bytes before it (4 bytes, least significant first).
 * Standard output: for each text one line of ids, or "error: MESSAGE"; then one line "decoded" or "lost" for whether
 * the ids give the text back. With --time instead one line with the speed of encoding them all. */
#include "base/clock.h"
#include "models/gguf.h"
#include "models/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LONGEST (UINT32_C(64) << 20)

static _Noreturn void fail(const char *message) {
    fprintf(stderr, "tokenize_lines: %s\n", message);
    exit(2);
}

/* The next text, in a buffer that lives until the next call; false at the end of the input. */
static bool read_text(char **text, uint32_t *bytes) {
    unsigned char length[4];
    size_t got = fread(length, 1, sizeof length, stdin);
    if (got == 0) {
        return false;
    }
    *bytes = length[0] | (uint32_t)length[1] << 8 | (uint32_t)length[2] << 16 | (uint32_t)length[3] << 24;
    if (got != sizeof length || *bytes > LONGEST) {
        fail("the input is not texts with their lengths");
    }
    *text = realloc(*text, *bytes + 1);
    if (!*text || fread(*text, 1, *bytes, stdin) != *bytes) {
        fail("the input ends inside a text");
    }
    return true;
}

static bool gives_back(const struct tokenizer *tokenizer, const struct token_list *list, const char *text,
                       size_t bytes) {
    size_t at = 0;
    for (size_t i = 0; i < list->count; i++) {
        struct gguf_string piece = tokenizer_bytes(tokenizer, list->ids[i], true);
        if (piece.bytes > bytes - at || memcmp(piece.data, text + at, piece.bytes) != 0) {
            return false;
        }
        at += piece.bytes;
    }
    return at == bytes;
}

static void print_tokens(const struct tokenizer *tokenizer, const char *text, size_t bytes, unsigned flags) {
    struct token_list list = {0};
    struct status status = tokenizer_encode(tokenizer, text, bytes, flags, SIZE_MAX, &list);
    if (status_failed(&status)) {
        printf("error: %s\nlost\n", status.message);
    } else {
        for (size_t i = 0; i < list.count; i++) {
            printf("%s%u", i == 0 ? "" : " ", list.ids[i]);
        }
        printf("\n%s\n", gives_back(tokenizer, &list, text, bytes) ? "decoded" : "lost");
    }
    token_list_free(&list);
}

int main(int argc, char **argv) {
    unsigned flags = TOKENIZE_PLAIN;
    bool timed = false;
    const char *path = NULL;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--special") == 0) {
            flags |= TOKENIZE_SPECIAL;
        } else if (strcmp(argv[i], "--time") == 0) {
            timed = true;
        } else {
            path = argv[i];
        }
    }
    struct gguf *gguf = NULL;
    struct tokenizer *tokenizer = NULL;
    if (!path) {
        fail("usage: tokenize_lines [--special] [--time] MODEL.gguf");
    }
    struct status status = gguf_open(path, &gguf);
    if (!status_failed(&status)) {
        status = tokenizer_from_gguf(gguf, &tokenizer);
    }
    if (status_failed(&status)) {
        fail(status.message);
    }
    char *text = NULL;
    uint32_t bytes;
    uint64_t spent_ns = 0, all_bytes = 0, all_tokens = 0;
    while (read_text(&text, &bytes)) {
        if (timed) {
            struct token_list list = {0};
            uint64_t begin = clock_now_ns();
            status = tokenizer_encode(tokenizer, text, bytes, flags, SIZE_MAX, &list);
            spent_ns += clock_now_ns() - begin;
            if (status_failed(&status)) {
                fail(status.message);
            }
            all_bytes += bytes;
            all_tokens += list.count;
            token_list_free(&list);
        } else {
            print_tokens(tokenizer, text, bytes, flags);
        }
    }
    if (timed) {
        printf("%.1f MB/s: %llu bytes, %llu tokens, %.3f s\n", (double)all_bytes * 1e3 / (double)spent_ns,
               (unsigned long long)all_bytes, (unsigned long long)all_tokens, (double)spent_ns * 1e-9);
    }
    free(text);
    tokenizer_destroy(tokenizer);
    gguf_close(gguf);
    return 0;
}
