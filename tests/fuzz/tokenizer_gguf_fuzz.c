/* Fuzz target: any bytes as a GGUF file with a vocabulary. It is refused, or its tokenizer encodes texts to ids of the
 * vocabulary. */
#include "base/check.h"
#include "base/log.h"
#include "models/tokenizer.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    log_set_level(LOG_SILENT);
    struct gguf *gguf = NULL;
    struct tokenizer *tokenizer = NULL;
    struct status status = gguf_open_memory(data, bytes, &gguf);
    if (status_failed(&status)) {
        return 0;
    }
    status = tokenizer_from_gguf(gguf, &tokenizer);
    gguf_close(gguf);
    CHECK(!status_failed(&status) || status.message[0]);
    if (status_failed(&status)) {
        return 0;
    }
    static const char *const texts[] = {"", "ab ab<s>a\xc3\xa9  \n\xe2\x96\x81x<0x41>", "e\xcc\x81 aaaaaaaaaaaaaaaaab",
                                        "<unk><s></s>"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct token_list list = {0};
        status = tokenizer_encode(tokenizer, texts[i], strlen(texts[i]),
                                  i % 2 ? (unsigned)TOKENIZE_SPECIAL | TOKENIZE_BOS : 0u, 1000, &list);
        CHECK(!status_failed(&status) || status.message[0]);
        for (size_t j = 0; j < list.count; j++) {
            CHECK(list.ids[j] < tokenizer_vocabulary(tokenizer));
        }
        token_list_free(&list);
    }
    tokenizer_destroy(tokenizer);
    return 0;
}
