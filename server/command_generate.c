/* `metronome generate`: a prompt to text on the terminal, and how fast it came. Steps the engine by hand: no server,
 * no threads but the device's. Threads: main's. */
#include "base/clock.h"
#include "server/command.h"
#include "server/runtime.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_INPUT_BYTES ((size_t)64 << 20)
#define EVENTS 16

static const struct flag flags[] = {
    {"prompt", "TEXT", "what to continue; - is standard input"},
    {"chat", NULL, "the prompt is a user's message, put into the model's chat template"},
    {"max-tokens", "N", "most tokens to generate; 256 if not given"},
    {"temperature", "T", "0, the default, takes the likeliest token every time; --seed S draws others"},
    {"ignore-eos", NULL, "goes on after the token that ends a text"},
    {"json", "FILE", "writes the text and its times as JSON; - is standard output, instead of the text"},
    {"help", NULL, "this"},
};
enum { PROMPT, CHAT, MAX_TOKENS, TEMPERATURE, IGNORE_EOS, JSON, HELP };

static void show_help(FILE *file) {
    fprintf(file, "usage: metronome generate --model FILE --prompt TEXT [--chat] [--max-tokens N]\n\n"
                  "Prints a model's continuation of a prompt as it comes; its times go to standard error.\n\n");
    arguments_help(file, flags, sizeof flags / sizeof flags[0], true);
}

struct generation {
    struct runtime runtime;
    struct token_list prompt;
    struct request request;
    struct engine_event *events; /* (EVENTS) */
    struct text output;
    bool shows; /* the text goes to standard output as it comes */
    bool ended;
    struct engine_event end; /* the last event */
    uint64_t first_ns, last_ns;
};

static struct status read_sampling(const struct arguments *arguments, struct sampling *sampling) {
    double tokens = 256, temperature = 0;
    if (arguments->values[MAX_TOKENS]) {
        TRY(arguments_number("max-tokens", arguments->values[MAX_TOKENS], 0, INT32_MAX, &tokens));
    }
    if (arguments->values[TEMPERATURE]) {
        TRY(arguments_number("temperature", arguments->values[TEMPERATURE], 0, 100, &temperature));
    }
    *sampling = (struct sampling){.temperature = (float)temperature,
                                  .top_p = 1,
                                  .repetition_penalty = 1,
                                  .max_tokens = (uint32_t)tokens,
                                  .ignore_eos = arguments->values[IGNORE_EOS] != NULL};
    return STATUS_SUCCESS;
}

static struct status encode_prompt(const struct arguments *arguments, struct generation *generation) {
    const struct runtime *runtime = &generation->runtime;
    struct text input = {0};
    struct status status = STATUS_SUCCESS;
    if (strcmp(arguments->values[PROMPT], "-") == 0) {
        status = command_read_input(MAX_INPUT_BYTES, &input);
    } else {
        text_adds(&input, arguments->values[PROMPT]);
    }
    const char *text = input.data ? input.data : "";
    if (status.code != STATUS_OK) {
        /* nothing to encode */
    } else if (!arguments->values[CHAT]) {
        status = tokenizer_encode(runtime->tokenizer, text, input.bytes, TOKENIZE_BOS | TOKENIZE_SPECIAL, SIZE_MAX,
                                  &generation->prompt);
    } else if (!runtime->chat) {
        status = runtime->chat_status;
    } else {
        struct chat_message message = {.role = "user", .content = text, .content_bytes = input.bytes};
        status = chat_encode(runtime->chat, runtime->tokenizer, &message, 1, SIZE_MAX, &generation->prompt);
    }
    text_free(&input);
    return status;
}

static void take_event(struct generation *generation, const struct engine_event *event) {
    if (event->has_token) {
        generation->last_ns = clock_now_ns();
        generation->first_ns = generation->first_ns ? generation->first_ns : generation->last_ns;
    }
    text_add(&generation->output, event->text, event->text_bytes);
    if (generation->shows && event->text_bytes > 0) {
        fwrite(event->text, 1, event->text_bytes, stdout);
        fflush(stdout);
    }
    if (event->finish != FINISH_NONE) {
        generation->ended = true;
        generation->end = *event;
    }
}

static void take_events(struct generation *generation) {
    uint32_t count;
    do {
        count = engine_poll(generation->runtime.engine, generation->events, EVENTS);
        for (uint32_t i = 0; i < count; i++) {
            take_event(generation, &generation->events[i]);
        }
    } while (count == EVENTS);
}

static struct status run(struct generation *generation) {
    struct request *request = &generation->request;
    struct engine *engine = generation->runtime.engine;
    request->prompt = generation->prompt.ids;
    request->prompt_count = (uint32_t)generation->prompt.count;
    request->arrival_ns = clock_now_ns();
    TRY(engine_submit(engine, request));
    struct status status = STATUS_SUCCESS;
    while (!generation->ended && status.code == STATUS_OK) {
        bool idle;
        status = engine_step(engine, &idle);
        take_events(generation);
    }
    if (generation->ended && generation->end.finish == FINISH_ERROR) {
        return generation->end.status;
    }
    return status;
}

struct figures {
    double ttft_ms, tpot_ms, tokens_per_s;
};

static struct figures figures_of(const struct generation *generation) {
    struct figures figures = {0};
    uint64_t begun = generation->request.arrival_ns;
    uint32_t tokens = generation->end.completion_tokens;
    if (generation->first_ns) {
        figures.ttft_ms = (double)(generation->first_ns - begun) / (double)NS_PER_MS;
        figures.tokens_per_s = tokens / ((double)(generation->last_ns - begun) / (double)NS_PER_S);
    }
    if (tokens > 1) {
        figures.tpot_ms = (double)(generation->last_ns - generation->first_ns) / (double)NS_PER_MS / (tokens - 1);
    }
    return figures;
}

static struct status report(const struct arguments *arguments, const struct generation *generation) {
    struct figures figures = figures_of(generation);
    const char *reason = finish_reason_name(generation->end.finish);
    if (generation->shows) {
        putchar('\n');
        fflush(stdout);
    }
    fprintf(stderr, "metronome: %u prompt tokens, %u generated (%s); TTFT %.1f ms, TPOT %.2f ms, %.1f tok/s\n",
            generation->request.prompt_count, generation->end.completion_tokens, reason, figures.ttft_ms,
            figures.tpot_ms, figures.tokens_per_s);
    if (!arguments->values[JSON]) {
        return STATUS_SUCCESS;
    }
    struct text json = {0};
    text_adds(&json, "{\"text\":");
    text_add_json(&json, generation->output.data, generation->output.bytes);
    text_addf(&json,
              ",\"finish_reason\":\"%s\",\"prompt_tokens\":%u,\"completion_tokens\":%u,\"ttft_ms\":%.3f,"
              "\"tpot_ms\":%.3f,\"tokens_per_s\":%.3f}",
              reason, generation->request.prompt_count, generation->end.completion_tokens, figures.ttft_ms,
              figures.tpot_ms, figures.tokens_per_s);
    struct status status = command_write_report(arguments->values[JSON], &json);
    text_free(&json);
    return status;
}

static struct status generate(const struct config *config, const struct arguments *arguments) {
    struct generation generation = {.shows = !arguments->values[JSON] || strcmp(arguments->values[JSON], "-") != 0};
    generation.events = calloc(EVENTS, sizeof *generation.events);
    struct status status = generation.events ? read_sampling(arguments, &generation.request.sampling)
                                             : status_error(STATUS_NO_MEMORY, "no memory for the engine's events");
    if (status.code == STATUS_OK) {
        status = runtime_open(config, &generation.runtime);
    }
    if (status.code == STATUS_OK) {
        status = encode_prompt(arguments, &generation);
    }
    if (status.code == STATUS_OK) {
        status = run(&generation);
    }
    if (status.code == STATUS_OK) {
        status = report(arguments, &generation);
    }
    runtime_close(&generation.runtime);
    token_list_free(&generation.prompt);
    text_free(&generation.output);
    free(generation.events);
    return status;
}

int command_generate(int argc, const char **argv) {
    struct config config;
    struct arguments arguments;
    config_init(&config);
    struct status status = arguments_parse(argc, argv, flags, sizeof flags / sizeof flags[0], &config, &arguments);
    if (status.code == STATUS_OK && !config_is_set(&config, "log_level")) {
        status = config_set(&config, "log_level", "warn", SOURCE_DEFAULT); /* the text is what is wanted here */
    }
    bool helping = status.code == STATUS_OK && arguments.values[HELP];
    if (helping) {
        show_help(stdout);
        config_free(&config);
        return EXIT_DONE;
    }
    if (status.code == STATUS_OK && (!arguments.values[PROMPT] || arguments.positional_count > 0)) {
        status = status_error(STATUS_INVALID, "generate takes its text with --prompt TEXT, - being standard input");
    }
    if (status.code == STATUS_OK) {
        status = config_check(&config);
    }
    if (status.code == STATUS_OK) {
        command_set_log(&config);
        status = generate(&config, &arguments);
    }
    config_free(&config);
    return status.code == STATUS_OK ? EXIT_DONE : command_failed(&status);
}
