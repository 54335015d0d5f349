/* Fuzz target: texts for a fixed small vocabulary, and vocabularies.
 *
 * The first byte chooses. Even: the rest is a text, encoded with a vocabulary of all bytes and a few merges and special
 * tokens; a valid text must come back whole. Odd: the rest is lines that add to a vocabulary of all bytes, "T" type and
 * spelling for a token, "M" for a merge, "P" for the pre-tokenizer, "B" and "E" for a byte that is the id of bos or
 * eos, "S" for scores and whether there is a space before, "-" to take the byte tokens away; whatever they say, it is
 * refused or encodes the last line, which begins with "X".
 */
#include "base/check.h"
#include "base/log.h"
#include "base/utf8.h"
#include "models/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

#define MOST_TOKENS 512
#define MOST_MERGES 256

struct vocabulary {
    struct gguf_string tokens[MOST_TOKENS], merges[MOST_MERGES];
    int32_t types[MOST_TOKENS];
    float scores[MOST_TOKENS];
    char byte_spellings[256][4];
    struct tokenizer_parts parts;
    char pre[32];
    bool plain; /* all bytes have tokens, and no special token can be in a merge: texts must come back */
};

static struct gguf_string string_of(const char *text) {
    return (struct gguf_string){.data = text, .bytes = strlen(text)};
}

static void add_token(struct vocabulary *vocabulary, struct gguf_string spelling, int32_t type) {
    if (vocabulary->parts.token_count < MOST_TOKENS) {
        vocabulary->tokens[vocabulary->parts.token_count] = spelling;
        vocabulary->types[vocabulary->parts.token_count++] = type;
    }
}

static void add_merge(struct vocabulary *vocabulary, struct gguf_string merge) {
    if (vocabulary->parts.merge_count < MOST_MERGES) {
        vocabulary->merges[vocabulary->parts.merge_count++] = merge;
    }
}

static void begin_vocabulary(struct vocabulary *vocabulary) {
    memset(vocabulary, 0, sizeof *vocabulary);
    uint32_t next = 256;
    for (uint32_t byte = 0; byte < 256; byte++) {
        bool seen = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte != 0xad);
        char *spelling = vocabulary->byte_spellings[byte];
        size_t length = utf8_encode(seen ? byte : next++, spelling);
        add_token(vocabulary, (struct gguf_string){.data = spelling, .bytes = length}, 1);
    }
    vocabulary->plain = true;
    vocabulary->parts.tokens = vocabulary->tokens;
    vocabulary->parts.types = vocabulary->types;
    vocabulary->parts.merges = vocabulary->merges;
    vocabulary->parts.pre = vocabulary->pre;
    vocabulary->parts.bos = vocabulary->parts.eos = TOKEN_NONE;
    strcpy(vocabulary->pre, "stablelm2"); /* like qwen2, and texts are not composed */
}

/* Encodes in every way; the content spans are chosen by the text itself. */
static void encode(const struct tokenizer *tokenizer, const char *text, size_t bytes, bool must_come_back) {
    struct text_span content[2] = {{.begin = bytes / 8, .end = bytes / 4}, {.begin = bytes / 2, .end = bytes}};
    for (unsigned way = 0; way < 3; way++) {
        struct token_list list = {0};
        struct status status =
            tokenizer_encode_prompt(tokenizer, text, bytes, content, way == 2 ? 2 : 0,
                                    way == 0 ? TOKENIZE_PLAIN : TOKENIZE_SPECIAL, bytes * 4 + 16, &list);
        CHECK(status_failed(&status) != utf8_valid(text, bytes));
        size_t at = 0;
        for (size_t i = 0; i < list.count && must_come_back; i++) {
            struct gguf_string piece = tokenizer_bytes(tokenizer, list.ids[i], true);
            CHECK(piece.bytes <= bytes - at && memcmp(piece.data, text + at, piece.bytes) == 0);
            at += piece.bytes;
        }
        CHECK(status_failed(&status) || !must_come_back || at == bytes);
        token_list_free(&list);
    }
}

static const struct tokenizer *fixed_tokenizer(void) {
    static struct tokenizer *tokenizer;
    if (!tokenizer) {
        struct vocabulary *vocabulary = malloc(sizeof *vocabulary);
        CHECK(vocabulary);
        begin_vocabulary(vocabulary);
        static const char *const merges[] = {"t h", "th e", "Ġ the", "a a", "aa aa", "Ġ Ġ", "Ċ Ċ", "Ã ©", "1 2"};
        static const char *const tokens[] = {"th", "the", "Ġthe", "aa", "aaaa", "ĠĠ", "ĊĊ", "Ã©", "12"};
        for (size_t i = 0; i < sizeof merges / sizeof merges[0]; i++) {
            add_token(vocabulary, string_of(tokens[i]), 1);
            add_merge(vocabulary, string_of(merges[i]));
        }
        add_token(vocabulary, string_of("<|im_start|>"), 3);
        add_token(vocabulary, string_of("<|im_end|>"), 3);
        add_token(vocabulary, string_of("<|"), 3);
        add_token(vocabulary, string_of("   "), 4);
        add_token(vocabulary, string_of("<|im"), 4);
        struct status status = tokenizer_from_parts(&vocabulary->parts, &tokenizer);
        CHECK(!status_failed(&status));
        free(vocabulary);
    }
    return tokenizer;
}

/* Texts come back composed, which need not be what went in. */
static bool composes(const char *pre) {
    static const char *const names[] = {"qwen2", "deepseek-r1-qwen", "olmo", "mpt", "command-r"};
    bool found = false;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        found |= strcmp(names[i], pre) == 0;
    }
    return found;
}

static void take_line(struct vocabulary *vocabulary, const char *line, size_t bytes) {
    struct gguf_string rest = {.data = line + 1, .bytes = bytes - 1};
    switch (line[0]) {
    case 'T':
        if (rest.bytes > 0) {
            int32_t type = rest.data[0] - '0';
            add_token(vocabulary, (struct gguf_string){.data = rest.data + 1, .bytes = rest.bytes - 1}, type);
            vocabulary->plain &= type == 1;
        }
        break;
    case 'M':
        add_merge(vocabulary, rest);
        break;
    case 'P':
        snprintf(vocabulary->pre, sizeof vocabulary->pre, "%.*s", (int)(rest.bytes < 31 ? rest.bytes : 31), rest.data);
        vocabulary->plain &= !composes(vocabulary->pre);
        break;
    case 'B':
        vocabulary->parts.bos = rest.bytes > 0 ? (unsigned char)rest.data[0] * 2u : TOKEN_NONE;
        vocabulary->parts.add_bos = rest.bytes != 1;
        break;
    case 'E':
        vocabulary->parts.eos = rest.bytes > 0 ? (unsigned char)rest.data[0] * 2u : TOKEN_NONE;
        break;
    case 'S': /* a few different scores, so that some are equal */
        for (size_t i = 0; i < MOST_TOKENS; i++) {
            vocabulary->scores[i] = -(float)(i * (rest.bytes > 0 ? (unsigned char)rest.data[0] : 1u) % 17);
        }
        vocabulary->parts.scores = vocabulary->scores;
        vocabulary->parts.add_space_prefix = rest.bytes > 1;
        vocabulary->plain = false;
        break;
    case '-':
        vocabulary->parts.token_count = 0;
        vocabulary->plain = false;
        break;
    default:
        break;
    }
}

static void fuzz_vocabulary(const char *lines, size_t bytes) {
    struct vocabulary *vocabulary = malloc(sizeof *vocabulary);
    CHECK(vocabulary);
    begin_vocabulary(vocabulary);
    size_t at = 0;
    while (at < bytes && lines[at] != 'X') {
        const char *end = memchr(lines + at, '\n', bytes - at);
        size_t length = end ? (size_t)(end - lines) - at : bytes - at;
        if (length > 0) {
            take_line(vocabulary, lines + at, length);
        }
        at += length + (end != NULL);
    }
    struct tokenizer *tokenizer = NULL;
    struct status status = tokenizer_from_parts(&vocabulary->parts, &tokenizer);
    CHECK(!status_failed(&status) || status.message[0]);
    if (!status_failed(&status)) {
        encode(tokenizer, lines + at, bytes - at, vocabulary->plain);
        (void)tokenizer_find(tokenizer, lines + at, bytes - at);
        for (uint32_t id = 0; id < tokenizer_vocabulary(tokenizer); id++) {
            (void)tokenizer_is_end(tokenizer, id);
        }
        tokenizer_destroy(tokenizer);
    }
    free(vocabulary);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    log_set_level(LOG_SILENT);
    if (bytes == 0) {
        return 0;
    }
    if (data[0] % 2 == 0) {
        encode(fixed_tokenizer(), (const char *)data + 1, bytes - 1, true);
    } else {
        fuzz_vocabulary((const char *)data + 1, bytes - 1);
    }
    return 0;
}
