/* Tokenizes many texts with our tokenizer, for tests/tools/tokenizer_compare.py.
 *
 * Usage: tokenize_lines [--special] [--time] MODEL.gguf|DIRECTORY
 * Standard input: texts, each with its length in bytes before it (4 bytes, least significant first).
 * Standard output: for each text one line of ids, or "error: MESSAGE"; then one line with what the ids give back, in
 * hexadecimal. With --time instead one line with the time of loading and the speed of encoding them all. */
#include "base/clock.h"
#include "models/gguf.h"
#include "models/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

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

static void print_decoded(const struct tokenizer *tokenizer, const struct token_list *list) {
    struct detokenizer state;
    size_t bound = detokenizer_bound(tokenizer);
    char *piece = malloc(bound);
    if (!piece) {
        fail("no memory");
    }
    detokenizer_init_whole(&state, tokenizer, true);
    for (size_t i = 0; i <= list->count; i++) {
        size_t bytes = i < list->count ? detokenizer_push(&state, list->ids[i], piece, bound)
                                       : detokenizer_flush(&state, piece, bound);
        for (size_t j = 0; j < bytes; j++) {
            printf("%02x", (unsigned char)piece[j]);
        }
    }
    printf("\n");
    free(piece);
}

static void print_tokens(const struct tokenizer *tokenizer, const char *text, size_t bytes, unsigned flags) {
    struct token_list list = {0};
    struct status status = tokenizer_encode(tokenizer, text, bytes, flags, SIZE_MAX, &list);
    if (status_failed(&status)) {
        printf("error: %s\n\n", status.message);
    } else {
        for (size_t i = 0; i < list.count; i++) {
            printf("%s%u", i == 0 ? "" : " ", list.ids[i]);
        }
        printf("\n");
        print_decoded(tokenizer, &list);
    }
    token_list_free(&list);
}

static struct tokenizer *open_tokenizer(const char *path) {
    struct gguf *gguf = NULL;
    struct tokenizer *tokenizer = NULL;
    struct stat info;
    struct status status;
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode)) {
        status = tokenizer_from_directory(path, &tokenizer);
    } else {
        status = gguf_open(path, &gguf);
        if (!status_failed(&status)) {
            status = tokenizer_from_gguf(gguf, &tokenizer);
            gguf_close(gguf);
        }
    }
    if (status_failed(&status)) {
        fail(status.message);
    }
    return tokenizer;
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
    if (!path) {
        fail("usage: tokenize_lines [--special] [--time] MODEL.gguf|DIRECTORY");
    }
    uint64_t open_ns = clock_now_ns();
    struct tokenizer *tokenizer = open_tokenizer(path);
    open_ns = clock_now_ns() - open_ns;
    char *text = NULL;
    uint32_t bytes;
    uint64_t spent_ns = 0, all_bytes = 0, all_tokens = 0;
    while (read_text(&text, &bytes)) {
        if (timed) {
            struct token_list list = {0};
            uint64_t begin = clock_now_ns();
            struct status status = tokenizer_encode(tokenizer, text, bytes, flags, SIZE_MAX, &list);
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
        printf("opened in %.3f s; %.1f MB/s: %llu bytes, %llu tokens, %.3f s\n", (double)open_ns * 1e-9,
               (double)all_bytes * 1e3 / (double)spent_ns, (unsigned long long)all_bytes,
               (unsigned long long)all_tokens, (double)spent_ns * 1e-9);
    }
    free(text);
    tokenizer_destroy(tokenizer);
    return 0;
}
