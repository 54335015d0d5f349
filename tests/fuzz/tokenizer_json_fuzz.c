/* Fuzz target: the files of a Hugging Face directory's tokenizer, and a text.
 *
 * The input is parts with lines "----" between them: a text, tokenizer.json, tokenizer_config.json,
 * special_tokens_map.json, generation_config.json, chat_template.jinja, vocab.json and merges.txt; the last may be
 * missing, and empty ones are files that are not there. Whatever they say, they are refused or encode the text to ids
 * of the vocabulary, whose texts come out as UTF-8. */
#include "base/check.h"
#include "base/log.h"
#include "base/utf8.h"
#include "models/tokenizer_json.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

#define PARTS 8
#define MOST_TEXT 256 /* a bad pattern may take its limit of steps at every byte */

static void cut_parts(const char *data, size_t bytes, struct gguf_string parts[PARTS]) {
    static const char between[] = "\n----\n";
    for (size_t i = 0; i < PARTS && data; i++) {
        const char *end = memmem(data, bytes, between, sizeof between - 1);
        size_t length = end && i + 1 < PARTS ? (size_t)(end - data) : bytes;
        parts[i] = (struct gguf_string){.data = length ? data : NULL, .bytes = length};
        bytes -= length < bytes ? length + sizeof between - 1 : length;
        data = length < bytes + length ? data + length + sizeof between - 1 : NULL;
    }
}

static void decode(const struct tokenizer *tokenizer, const struct token_list *list) {
    struct detokenizer state;
    size_t bound = detokenizer_bound(tokenizer);
    char *piece = malloc(bound);
    CHECK(piece);
    detokenizer_init_whole(&state, tokenizer, list->count % 2);
    for (size_t i = 0; i < list->count; i++) {
        CHECK(list->ids[i] < tokenizer_vocabulary(tokenizer));
        size_t written = detokenizer_push(&state, list->ids[i], piece, bound);
        CHECK(written <= bound && utf8_valid(piece, written));
        (void)tokenizer_is_end(tokenizer, list->ids[i]);
    }
    size_t written = detokenizer_flush(&state, piece, bound);
    CHECK(utf8_valid(piece, written));
    free(piece);
}

static void encode(const struct tokenizer *tokenizer, struct gguf_string text) {
    struct text_span content[2] = {{.begin = text.bytes / 8, .end = text.bytes / 4},
                                   {.begin = text.bytes / 2, .end = text.bytes}};
    for (unsigned way = 0; way < 3; way++) {
        struct token_list list = {0};
        unsigned flags = way == 0 ? TOKENIZE_PLAIN : (unsigned)TOKENIZE_SPECIAL | TOKENIZE_BOS;
        struct status status = tokenizer_encode_prompt(tokenizer, text.data ? text.data : "", text.bytes, content,
                                                       way == 2 ? 2 : 0, flags, 100000, &list);
        CHECK(!status_failed(&status) || (status.message[0] && list.count == 0));
        decode(tokenizer, &list);
        token_list_free(&list);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    log_set_level(LOG_SILENT);
    struct gguf_string parts[PARTS] = {{0}};
    cut_parts((const char *)data, bytes, parts);
    struct tokenizer_files files = {.tokenizer = parts[1],
                                    .tokenizer_config = parts[2],
                                    .special_tokens_map = parts[3],
                                    .generation_config = parts[4],
                                    .chat_template = parts[5],
                                    .vocabulary = parts[6],
                                    .merges = parts[7]};
    if (!files.tokenizer.data && !(files.vocabulary.data && files.merges.data)) {
        return 0;
    }
    struct tokenizer *tokenizer = NULL;
    struct status status = tokenizer_from_files(&files, &tokenizer);
    CHECK(!status_failed(&status) || status.message[0]);
    if (!status_failed(&status)) {
        parts[0].bytes = parts[0].bytes < MOST_TEXT ? parts[0].bytes : MOST_TEXT;
        encode(tokenizer, parts[0]);
        (void)tokenizer_find(tokenizer, parts[0].data ? parts[0].data : "", parts[0].bytes);
        tokenizer_destroy(tokenizer);
    }
    return 0;
}
