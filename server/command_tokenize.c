/* `metronome tokenize`: text to token ids, with the piece of text that each stands for. Threads: main's. */
#include "server/command.h"
#include "server/runtime.h"

#include <stdio.h>
#include <string.h>

#define MAX_INPUT_BYTES ((size_t)64 << 20)

static const struct flag flags[] = {
    {"plain", NULL, "spellings of control tokens in the text stay text"},
    {"no-bos", NULL, "without the token that begins a text, for models that have one"},
    {"json", "FILE", "writes the ids and pieces as JSON; - is standard output"},
    {"help", NULL, "this"},
};
enum { PLAIN, NO_BOS, JSON, HELP };

static void show_help(FILE *file) {
    fprintf(file, "usage: metronome tokenize --model FILE TEXT|-\n\n"
                  "Prints the ids and pieces of a text, - being standard input.\n\n");
    arguments_help(file, flags, sizeof flags / sizeof flags[0], true);
}

static struct status encode(const struct config *config, const struct arguments *arguments, struct runtime *runtime,
                            struct token_list *tokens) {
    struct text input = {0};
    struct status status = runtime_open_model(config, runtime);
    if (status.code == STATUS_OK && strcmp(arguments->positional[0], "-") == 0) {
        status = command_read_input(MAX_INPUT_BYTES, &input);
    } else if (status.code == STATUS_OK) {
        text_adds(&input, arguments->positional[0]);
    }
    if (status.code == STATUS_OK) {
        unsigned flag_bits = (arguments->values[PLAIN] ? 0 : (unsigned)TOKENIZE_SPECIAL) |
                             (arguments->values[NO_BOS] ? 0 : (unsigned)TOKENIZE_BOS);
        status = tokenizer_encode(runtime->tokenizer, input.data ? input.data : "", input.bytes, flag_bits, SIZE_MAX,
                                  tokens);
    }
    text_free(&input);
    return status;
}

static void print_tokens(const struct tokenizer *tokenizer, const struct token_list *tokens) {
    for (size_t i = 0; i < tokens->count; i++) {
        struct gguf_string piece = tokenizer_bytes(tokenizer, tokens->ids[i], true);
        struct text quoted = {0};
        text_add_json(&quoted, piece.data, piece.bytes);
        printf("%8u  %s\n", tokens->ids[i], text_string(&quoted));
        text_free(&quoted);
    }
    printf("%zu tokens\n", tokens->count);
}

static struct status write_json(const char *path, const struct tokenizer *tokenizer, const struct token_list *tokens) {
    struct text report = {0};
    text_addf(&report, "{\"count\":%zu,\"tokens\":[", tokens->count);
    for (size_t i = 0; i < tokens->count; i++) {
        text_addf(&report, i ? ",%u" : "%u", tokens->ids[i]);
    }
    text_adds(&report, "],\"pieces\":[");
    for (size_t i = 0; i < tokens->count; i++) {
        struct gguf_string piece = tokenizer_bytes(tokenizer, tokens->ids[i], true);
        text_adds(&report, i ? "," : "");
        text_add_json(&report, piece.data, piece.bytes);
    }
    text_adds(&report, "]}");
    struct status status = command_write_report(path, &report);
    text_free(&report);
    return status;
}

int command_tokenize(int argc, const char **argv) {
    struct config config;
    struct arguments arguments;
    config_init(&config);
    struct status status = arguments_parse(argc, argv, flags, sizeof flags / sizeof flags[0], &config, &arguments);
    bool helping = status.code == STATUS_OK && arguments.values[HELP];
    if (status.code == STATUS_OK && !helping && arguments.positional_count != 1) {
        status = status_error(STATUS_INVALID, "tokenize takes one TEXT, or - for standard input");
    }
    struct runtime runtime = {0};
    struct token_list tokens = {0};
    if (helping) {
        show_help(stdout);
    } else if (status.code == STATUS_OK) {
        command_set_log(&config);
        status = encode(&config, &arguments, &runtime, &tokens);
        if (status.code == STATUS_OK && arguments.values[JSON]) {
            status = write_json(arguments.values[JSON], runtime.tokenizer, &tokens);
        } else if (status.code == STATUS_OK) {
            print_tokens(runtime.tokenizer, &tokens);
        }
    }
    token_list_free(&tokens);
    runtime_close(&runtime);
    config_free(&config);
    return status.code == STATUS_OK ? EXIT_DONE : command_failed(&status);
}
