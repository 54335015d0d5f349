#include "models/chat.h"

#include "base/bytes.h"
#include "base/utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the table ---- */

/* In a row's strings these stand for the texts of the model's own tokens. */
#define BOS "\1"
#define EOS "\2"

#define MOST_MARKS 4

#define SMOLLM2_SYSTEM      \
    "You are a helpful AI " \
    "assistant named SmolLM, trained by Hugging Face"
#define QWEN25_SYSTEM "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."

/* What stands around a message of one role; `before` is NULL if the template cannot say the role. */
struct turn {
    const char *before, *after;
    enum { KEEP, TRIM, TRIM_TURN } space; /* white space around the content goes; or around all that this turn holds */
};

enum system_place {
    SYSTEM_TURN,    /* a turn of its own, anywhere */
    SYSTEM_OPENING, /* the first message's is in the opening, and an empty one stands there if there is none */
    SYSTEM_FIRST,   /* only the first message, said at the head of the first user message */
    /* Only the first message, said at the head of the last user message. The published templates lose it where the
     * assistant has the last word; it is kept there, too. */
    SYSTEM_LAST,
    SYSTEM_NONE,
};

struct chat_template {
    const char *name;
    const char *present[MOST_MARKS], *absent[MOST_MARKS]; /* of these marks in a model's template all and none */
    const char *opening;
    struct turn system, user, assistant, tool;
    struct turn opening_system; /* SYSTEM_OPENING */
    const char *default_system; /* what a conversation without a system message begins with; NULL: nothing */
    const char *generation;     /* the beginning of the assistant's turn */
    enum system_place system_place;
    bool alternates; /* user and assistant take turns, the user first */
};

#define CHATML_TURNS                                                                                                \
    .system = {"<|im_start|>system\n", "<|im_end|>\n", KEEP}, .user = {"<|im_start|>user\n", "<|im_end|>\n", KEEP}, \
    .assistant = {"<|im_start|>assistant\n", "<|im_end|>\n", KEEP}, .generation = "<|im_start|>assistant\n"

#define LLAMA3_TURNS                                                                        \
    .system = {"<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>", TRIM},       \
    .user = {"<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>", TRIM},           \
    .assistant = {"<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>", TRIM}, \
    .generation = "<|start_header_id|>assistant<|end_header_id|>\n\n"

#define GEMMA_TURNS                                                                                           \
    .opening = BOS, .user = {"<start_of_turn>user\n", "<end_of_turn>\n", TRIM},                               \
    .assistant = {"<start_of_turn>model\n", "<end_of_turn>\n", TRIM}, .generation = "<start_of_turn>model\n", \
    .alternates = true

/* Marks avoid line ends, which are written out in some files and as \n in others. The first row that fits is taken. */
static const struct chat_template table[] = {
    {.name = "smollm2",
     .present = {"<|im_start|>", SMOLLM2_SYSTEM},
     .absent = {"## Metadata"},
     CHATML_TURNS,
     .tool = {"<|im_start|>tool\n", "<|im_end|>\n", KEEP},
     .default_system = SMOLLM2_SYSTEM},
    {.name = "qwen2.5", .present = {"<|im_start|>", QWEN25_SYSTEM}, CHATML_TURNS, .default_system = QWEN25_SYSTEM},
    {.name = "qwen2",
     .present = {"<|im_start|>", "You are a helpful assistant.<|im_end|>"},
     CHATML_TURNS,
     .tool = {"<|im_start|>tool\n", "<|im_end|>\n", KEEP},
     .default_system = "You are a helpful assistant."},
    /* Tools' answers stand together in one turn of the user's, which no row can say. */
    {.name = "qwen3", .present = {"<|im_start|>", "<tool_response>"}, .absent = {"## Metadata"}, CHATML_TURNS},
    {.name = "chatml",
     .present = {"<|im_start|>", "<|im_end|>"},
     .absent = {"<|im_sep|>", "## Metadata"}, /* Phi-4, SmolLM3 */
     CHATML_TURNS,
     .tool = {"<|im_start|>tool\n", "<|im_end|>\n", KEEP}},
    /* Llama 3.1, 3.2 and 3.3. The date is the one that the template falls back to where it cannot ask for today's: a
     * prompt must not change overnight. */
    {.name = "llama3.1",
     .present = {"<|start_header_id|>", "<|eot_id|>", "Cutting Knowledge Date: December 2023", "26 Jul 2024"},
     .opening = BOS "<|start_header_id|>system<|end_header_id|>\n\n"
                    "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n",
     .opening_system = {"", "<|eot_id|>", TRIM},
     .system_place = SYSTEM_OPENING,
     LLAMA3_TURNS},
    {.name = "llama3",
     .present = {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "trim"},
     .absent = {"Cutting Knowledge Date"},
     .opening = BOS,
     LLAMA3_TURNS,
     .tool = {"<|start_header_id|>tool<|end_header_id|>\n\n", "<|eot_id|>", TRIM}},
    {.name = "llama2",
     .present = {"bos_token + '[INST] '", "<<SYS>>"},
     .system = {"<<SYS>>\n", "\n<</SYS>>\n\n", KEEP},
     .user = {BOS "[INST] ", " [/INST]", TRIM_TURN},
     .assistant = {" ", " " EOS, TRIM},
     .system_place = SYSTEM_FIRST,
     .alternates = true},
    /* Mistral changed the spaces, and where the system prompt goes, from one version of its tokenizer to the next. */
    {.name = "mistral-v1",
     .present = {"' [INST] ' + system_message", "' [/INST]'"},
     .absent = {"<<SYS>>"},
     .opening = BOS,
     .system = {"", "\n\n", KEEP},
     .user = {" [INST] ", " [/INST]", KEEP},
     .assistant = {" ", EOS, KEEP},
     .system_place = SYSTEM_FIRST,
     .alternates = true},
    {.name = "mistral-v3",
     .present = {"\"[INST] \" + system_message", "\"[/INST]\""},
     .absent = {"<<SYS>>"},
     .opening = BOS,
     .system = {"", "\n\n", KEEP},
     .user = {"[INST] ", "[/INST]", KEEP},
     .assistant = {" ", EOS, TRIM},
     .system_place = SYSTEM_LAST,
     .alternates = true},
    {.name = "mistral-tekken",
     .present = {"\"[INST]\" + system_message", "\"[/INST]\""},
     .absent = {"<<SYS>>"},
     .opening = BOS,
     .system = {"", "\n\n", KEEP},
     .user = {"[INST]", "[/INST]", KEEP},
     .assistant = {"", EOS, KEEP},
     .system_place = SYSTEM_LAST,
     .alternates = true},
    {.name = "mistral-v7",
     .present = {"'[SYSTEM_PROMPT] '", "'[INST] '", "'[/INST]'"},
     .opening = BOS,
     .system = {"[SYSTEM_PROMPT] ", "[/SYSTEM_PROMPT]", KEEP},
     .user = {"[INST] ", "[/INST]", KEEP},
     .assistant = {" ", EOS, KEEP}},
    {.name = "mistral-v0.1",
     .present = {"'[INST] ' + message['content'] + ' [/INST]'", "message['content'] + eos_token + ' '"},
     .absent = {"<<SYS>>", "system_message"},
     .opening = BOS,
     .user = {"[INST] ", " [/INST]", KEEP},
     .assistant = {"", EOS " ", KEEP},
     .system_place = SYSTEM_NONE,
     .alternates = true},
    {.name = "mistral",
     .present = {"'[INST] ' + message['content'] + ' [/INST]'", "message['content'] + eos_token"},
     .absent = {"<<SYS>>", "system_message"},
     .opening = BOS,
     .user = {"[INST] ", " [/INST]", KEEP},
     .assistant = {"", EOS, KEEP},
     .system_place = SYSTEM_NONE,
     .alternates = true},
    {.name = "zephyr",
     .present = {"<|system|>", "<|user|>", "<|assistant|>", "eos_token"},
     .absent = {"<|end|>", "[gMASK]"}, /* Phi-3, ChatGLM */
     .system = {"<|system|>\n", EOS "\n", KEEP},
     .user = {"<|user|>\n", EOS "\n", KEEP},
     .assistant = {"<|assistant|>\n", EOS "\n", KEEP},
     .generation = "<|assistant|>\n"},
    {.name = "gemma3",
     .present = {"<start_of_turn>", "first_user_prefix"},
     .system = {"", "\n\n", KEEP},
     .system_place = SYSTEM_FIRST,
     GEMMA_TURNS},
    {.name = "gemma",
     .present = {"<start_of_turn>", "System role not supported"},
     .system_place = SYSTEM_NONE,
     GEMMA_TURNS},
};

#define TABLE_ROWS (sizeof table / sizeof table[0])

/* ---- finding a row ---- */

static struct status not_found(const char *what) {
    char names[200] = "";
    size_t used = 0;
    for (size_t i = 0; i < TABLE_ROWS; i++) {
        int wrote = snprintf(names + used, sizeof names - used, "%s%s", i == 0 ? "" : ", ", table[i].name);
        used += (size_t)wrote < sizeof names - used ? (size_t)wrote : 0;
    }
    return status_error(STATUS_NOT_FOUND, "%s; chat_template can be %s", what, names);
}

struct status chat_template_named(const char *name, const struct chat_template **out) {
    for (size_t i = 0; i < TABLE_ROWS; i++) {
        if (strcmp(table[i].name, name) == 0) {
            *out = &table[i];
            return STATUS_SUCCESS;
        }
    }
    char what[64];
    snprintf(what, sizeof what, "no chat template \"%.24s\"", name);
    return not_found(what);
}

static bool has_mark(const char *text, size_t bytes, const char *mark) {
    return memmem(text, bytes, mark, strlen(mark)) != NULL;
}

static bool fits(const struct chat_template *row, const char *text, size_t bytes) {
    for (size_t i = 0; i < MOST_MARKS && row->present[i]; i++) {
        if (!has_mark(text, bytes, row->present[i])) {
            return false;
        }
    }
    for (size_t i = 0; i < MOST_MARKS && row->absent[i]; i++) {
        if (has_mark(text, bytes, row->absent[i])) {
            return false;
        }
    }
    return true;
}

struct status chat_template_recognise(const char *text, size_t bytes, const struct chat_template **out) {
    if (bytes == 0) {
        return not_found("the model has no chat template");
    }
    for (size_t i = 0; i < TABLE_ROWS; i++) {
        if (fits(&table[i], text, bytes)) {
            *out = &table[i];
            return STATUS_SUCCESS;
        }
    }
    return not_found("the model's chat template is not a known one");
}

const char *chat_template_name(const struct chat_template *chat) {
    return chat->name;
}

/* ---- checking a conversation ---- */

enum role { ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT, ROLE_TOOL, ROLE_COUNT };

static const char *const role_names[ROLE_COUNT] = {"system", "user", "assistant", "tool"};

static enum role role_of(const struct chat_message *message) {
    enum role role = 0;
    while (role < ROLE_COUNT && strcmp(role_names[role], message->role) != 0) {
        role++;
    }
    return role;
}

static const struct turn *turn_of(const struct chat_template *chat, enum role role) {
    static const struct turn none = {0};
    switch (role) {
    case ROLE_SYSTEM:
        return chat->system_place == SYSTEM_NONE ? &none : &chat->system;
    case ROLE_USER:
        return &chat->user;
    case ROLE_ASSISTANT:
        return &chat->assistant;
    case ROLE_TOOL:
        return &chat->tool;
    default:
        return &none;
    }
}

static bool merges_system(const struct chat_template *chat) {
    return chat->system_place == SYSTEM_FIRST || chat->system_place == SYSTEM_LAST;
}

static struct status check_messages(const struct chat_template *chat, const struct chat_message *messages,
                                    size_t count) {
    bool user_is_next = true, user_spoke = false;
    for (size_t i = 0; i < count; i++) {
        enum role role = role_of(&messages[i]);
        const char *wrong = NULL;
        if (turn_of(chat, role)->before == NULL) {
            wrong = "has no such role";
        } else if (role == ROLE_SYSTEM && i > 0 && (merges_system(chat) || chat->alternates)) {
            wrong = "takes a system message only as the first";
        } else if (role != ROLE_SYSTEM && chat->alternates && (role == ROLE_USER) != user_is_next) {
            wrong = "wants user and assistant to take turns, the user first";
        }
        if (wrong) {
            return status_error(STATUS_INVALID, "messages[%zu].role is \"%.24s\": the chat template %s %s", i,
                                messages[i].role, chat->name, wrong);
        }
        user_is_next = role != ROLE_USER;
        user_spoke |= role == ROLE_USER;
    }
    if (count == 0) {
        return status_error(STATUS_INVALID, "messages is empty");
    }
    if (merges_system(chat) && !user_spoke) {
        return status_error(STATUS_INVALID, "messages has no message of role \"user\"");
    }
    return STATUS_SUCCESS;
}

/* ---- writing ---- */

struct writer {
    struct chat_prompt *prompt;
    struct gguf_string bos, eos;
    size_t capacity, content_capacity;
    bool failed; /* no memory: nothing is written any more */
};

static void write_bytes(struct writer *writer, const char *data, size_t bytes) {
    struct chat_prompt *prompt = writer->prompt;
    size_t needed;
    if (!bytes_add(prompt->bytes, bytes, &needed) || needed > SIZE_MAX / 4) {
        writer->failed = true;
    }
    if (!writer->failed && needed >= writer->capacity) {
        size_t capacity = needed * 2 + 256;
        char *text = realloc(prompt->text, capacity);
        writer->failed = text == NULL;
        prompt->text = text ? text : prompt->text;
        writer->capacity = capacity;
    }
    if (!writer->failed && bytes > 0) {
        memcpy(prompt->text + prompt->bytes, data, bytes);
        prompt->bytes = needed;
    }
}

/* A string of the table. */
static void write_template(struct writer *writer, const char *text) {
    while (text && *text) {
        size_t plain = strcspn(text, BOS EOS);
        write_bytes(writer, text, plain);
        text += plain;
        if (*text == BOS[0]) {
            write_bytes(writer, writer->bos.data, writer->bos.bytes);
            writer->prompt->wrote_bos |= writer->bos.bytes > 0;
            text++;
        } else if (*text == EOS[0]) {
            write_bytes(writer, writer->eos.data, writer->eos.bytes);
            text++;
        }
    }
}

static void write_content(struct writer *writer, const char *data, size_t bytes) {
    struct chat_prompt *prompt = writer->prompt;
    if (bytes == 0) {
        return;
    }
    if (prompt->content_count == writer->content_capacity) {
        size_t capacity = writer->content_capacity * 2 + 8;
        struct text_span *content = realloc(prompt->content, capacity * sizeof *content);
        writer->failed |= content == NULL;
        prompt->content = content ? content : prompt->content;
        writer->content_capacity = capacity;
    }
    size_t begin = prompt->bytes;
    write_bytes(writer, data, bytes);
    if (!writer->failed) {
        prompt->content[prompt->content_count++] = (struct text_span){.begin = begin, .end = prompt->bytes};
    }
}

/* What Python's str.strip() takes away, which is what the templates call. */
static bool is_space(uint32_t character) {
    return (character >= 0x09 && character <= 0x0d) || (character >= 0x1c && character <= 0x20) || character == 0x85 ||
           character == 0xa0 || character == 0x1680 || (character >= 0x2000 && character <= 0x200a) ||
           character == 0x2028 || character == 0x2029 || character == 0x202f || character == 0x205f ||
           character == 0x3000;
}

static size_t leading_space(const char *text, size_t bytes) {
    size_t at = 0;
    for (size_t used; at < bytes && is_space(utf8_decode(text + at, bytes - at, &used)); at += used) {
    }
    return at;
}

/* Takes white space off the end of the prompt, back to `floor`. */
static void trim_end(struct writer *writer, size_t floor) {
    struct chat_prompt *prompt = writer->prompt;
    while (!writer->failed && prompt->bytes > floor) {
        size_t at = prompt->bytes - 1, used;
        while (at > floor && ((unsigned char)prompt->text[at] & 0xc0) == 0x80) {
            at--;
        }
        if (!is_space(utf8_decode(prompt->text + at, prompt->bytes - at, &used)) || at + used != prompt->bytes) {
            break;
        }
        prompt->bytes = at;
    }
    for (size_t i = prompt->content_count; i-- > 0 && prompt->content[i].end > prompt->bytes;) {
        prompt->content[i].end = prompt->bytes;
        if (prompt->content[i].begin >= prompt->bytes) {
            prompt->content_count = i;
        }
    }
}

/* One turn; `system`, or NULL, is a system message to be said at its head. */
static void write_turn(struct writer *writer, const struct chat_template *chat, const struct turn *turn,
                       const struct chat_message *system, const char *content, size_t bytes) {
    write_template(writer, turn->before);
    size_t floor = writer->prompt->bytes;
    if (system) {
        write_template(writer, chat->system.before);
        write_content(writer, system->content, system->content_bytes);
        write_template(writer, chat->system.after);
    }
    if (turn->space == TRIM || (turn->space == TRIM_TURN && !system)) {
        size_t space = leading_space(content, bytes);
        content += space;
        bytes -= space;
    }
    if (turn->space == TRIM) {
        floor = writer->prompt->bytes;
    }
    write_content(writer, content, bytes);
    if (turn->space != KEEP) {
        trim_end(writer, floor);
    }
    write_template(writer, turn->after);
}

/* Which user message says a merged system message? */
static size_t merge_place(const struct chat_template *chat, const struct chat_message *messages, size_t count) {
    size_t place = 1;
    for (size_t i = 1; i < count && chat->system_place == SYSTEM_LAST; i++) {
        place = role_of(&messages[i]) == ROLE_USER ? i : place;
    }
    return place;
}

static void write_messages(struct writer *writer, const struct chat_template *chat, const struct chat_message *messages,
                           size_t count) {
    bool has_system = role_of(&messages[0]) == ROLE_SYSTEM;
    const struct chat_message *merged = has_system && merges_system(chat) ? &messages[0] : NULL;
    size_t place = merge_place(chat, messages, count), i = 0;
    write_template(writer, chat->opening);
    if (chat->system_place == SYSTEM_OPENING) {
        write_turn(writer, chat, &chat->opening_system, NULL, has_system ? messages[0].content : "",
                   has_system ? messages[0].content_bytes : 0);
        i = has_system;
    } else if (merged) {
        i = 1;
    } else if (!has_system && chat->default_system) {
        write_template(writer, chat->system.before);
        write_template(writer, chat->default_system);
        write_template(writer, chat->system.after);
    }
    for (; i < count; i++) {
        write_turn(writer, chat, turn_of(chat, role_of(&messages[i])), i == place ? merged : NULL, messages[i].content,
                   messages[i].content_bytes);
    }
    write_template(writer, chat->generation);
}

static struct status render(const struct chat_template *chat, const struct chat_message *messages, size_t count,
                            struct gguf_string bos, struct gguf_string eos, struct chat_prompt *out) {
    *out = (struct chat_prompt){0};
    TRY(check_messages(chat, messages, count));
    struct writer writer = {.prompt = out, .bos = bos, .eos = eos};
    write_messages(&writer, chat, messages, count);
    write_bytes(&writer, "", 0); /* a buffer, even for nothing */
    if (writer.failed) {
        chat_prompt_free(out);
        return status_error(STATUS_NO_MEMORY, "no memory for a prompt of %zu messages", count);
    }
    out->text[out->bytes] = 0;
    return STATUS_SUCCESS;
}

struct status chat_render(const struct chat_template *chat, const struct chat_message *messages, size_t count,
                          const char *bos, const char *eos, struct chat_prompt *out) {
    return render(chat, messages, count, (struct gguf_string){.data = bos, .bytes = strlen(bos)},
                  (struct gguf_string){.data = eos, .bytes = strlen(eos)}, out);
}

void chat_prompt_free(struct chat_prompt *prompt) {
    free(prompt->text);
    free(prompt->content);
    *prompt = (struct chat_prompt){0};
}

struct status chat_encode(const struct chat_template *chat, const struct tokenizer *tokenizer,
                          const struct chat_message *messages, size_t count, size_t limit, struct token_list *list) {
    struct chat_prompt prompt;
    TRY(render(chat, messages, count, tokenizer_bytes(tokenizer, tokenizer_bos(tokenizer), true),
               tokenizer_bytes(tokenizer, tokenizer_eos(tokenizer), true), &prompt));
    unsigned flags = TOKENIZE_SPECIAL | (prompt.wrote_bos ? TOKENIZE_PLAIN : TOKENIZE_BOS);
    struct status status = tokenizer_encode_prompt(tokenizer, prompt.text, prompt.bytes, prompt.content,
                                                   prompt.content_count, flags, limit, list);
    chat_prompt_free(&prompt);
    return status;
}
