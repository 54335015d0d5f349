#include "server/reply.h"

#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>

void reply_choice_free(struct reply_choice *choice) {
    text_free(&choice->content);
    text_free(&choice->ids);
    text_free(&choice->tokens);
    text_free(&choice->logprobs);
    text_free(&choice->top_logprobs);
    text_free(&choice->offsets);
}

static void comma(struct text *text) {
    text_adds(text, text->bytes > 0 ? "," : "");
}

/* ---- one token's logprobs ---- */

static struct gguf_string spelling(const struct reply *reply, uint32_t token) {
    return tokenizer_bytes(reply->tokenizer, token, true);
}

/* How many characters the token's text counts for; a broken one counts as the U+FFFD it is shown as. */
static uint32_t count_characters(struct gguf_string text) {
    uint32_t characters = 0;
    for (size_t at = 0, used; at < text.bytes; at += used) {
        utf8_decode(text.data + at, text.bytes - at, &used);
        characters++;
    }
    return characters;
}

/* "token":...,"logprob":...,"bytes":[...] */
static void add_chat_token(const struct reply *reply, uint32_t token, float logprob, struct text *out) {
    struct gguf_string text = spelling(reply, token);
    text_adds(out, "\"token\":");
    text_add_json(out, text.data, text.bytes);
    text_adds(out, ",\"logprob\":");
    text_add_number(out, logprob);
    text_adds(out, ",\"bytes\":[");
    for (size_t i = 0; i < text.bytes; i++) {
        text_addf(out, i ? ",%u" : "%u", (unsigned char)text.data[i]);
    }
    text_adds(out, "]");
}

static void take_chat_logprobs(const struct reply *reply, struct reply_choice *choice,
                               const struct engine_event *event) {
    comma(&choice->tokens);
    text_adds(&choice->tokens, "{");
    add_chat_token(reply, event->token, event->logprob, &choice->tokens);
    text_adds(&choice->tokens, ",\"top_logprobs\":[");
    for (uint32_t i = 0; i < event->top_count; i++) {
        text_adds(&choice->tokens, i ? ",{" : "{");
        add_chat_token(reply, event->top[i].token, event->top[i].logprob, &choice->tokens);
        text_adds(&choice->tokens, "}");
    }
    text_adds(&choice->tokens, "]}");
}

static void add_pair(const struct reply *reply, uint32_t token, float logprob, bool first, struct text *out) {
    struct gguf_string text = spelling(reply, token);
    text_adds(out, first ? "" : ",");
    text_add_json(out, text.data, text.bytes);
    text_adds(out, ":");
    text_add_number(out, logprob);
}

static void take_completion_logprobs(const struct reply *reply, struct reply_choice *choice,
                                     const struct engine_event *event) {
    struct gguf_string text = spelling(reply, event->token);
    comma(&choice->tokens);
    text_add_json(&choice->tokens, text.data, text.bytes);
    comma(&choice->offsets);
    text_addf(&choice->offsets, "%u", choice->characters);
    choice->characters += count_characters(text);
    comma(&choice->logprobs);
    comma(&choice->top_logprobs);
    if (!event->has_logprob) { /* the prompt's first token comes after nothing */
        text_adds(&choice->logprobs, "null");
        text_adds(&choice->top_logprobs, "null");
        return;
    }
    text_add_number(&choice->logprobs, event->logprob);
    bool chosen_listed = false;
    text_adds(&choice->top_logprobs, "{");
    for (uint32_t i = 0; i < event->top_count; i++) {
        add_pair(reply, event->top[i].token, event->top[i].logprob, i == 0, &choice->top_logprobs);
        chosen_listed |= event->top[i].token == event->token;
    }
    if (!chosen_listed) { /* OpenAI's: up to one more than asked for, so that the chosen one is there */
        add_pair(reply, event->token, event->logprob, event->top_count == 0, &choice->top_logprobs);
    }
    text_adds(&choice->top_logprobs, "}");
}

void reply_take(const struct reply *reply, struct reply_choice *choice, const struct engine_event *event) {
    text_add(&choice->content, event->text, event->text_bytes);
    if (event->has_token && reply->logprobs) {
        if (reply->api == API_CHAT) {
            take_chat_logprobs(reply, choice, event);
        } else {
            take_completion_logprobs(reply, choice, event);
        }
    }
    if (event->has_token && reply->token_ids) {
        comma(&choice->ids);
        text_addf(&choice->ids, "%u", event->token);
    }
    if (event->finish != FINISH_NONE) {
        choice->finish = event->finish;
        choice->completion_tokens = event->completion_tokens;
        choice->cached_tokens = event->cached_tokens;
    }
}

size_t reply_held(const struct reply_choice *choice) {
    return choice->content.bytes + choice->ids.bytes + choice->tokens.bytes + choice->logprobs.bytes +
           choice->top_logprobs.bytes + choice->offsets.bytes;
}

bool reply_has_news(const struct reply *reply, const struct reply_choice *choice) {
    return choice->content.bytes > 0 || choice->tokens.bytes > 0 || choice->finish != FINISH_NONE ||
           (reply->token_ids && choice->ids.bytes > 0);
}

/* ---- JSON ---- */

static void write_envelope(const struct reply *reply, const char *object, struct text *out) {
    text_addf(out, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", reply->id, object,
              (long long)reply->created);
    text_adds_json(out, reply->model);
}

static void write_usage(const struct reply_usage *usage, struct text *out) {
    unsigned long long prompt = usage->prompt_tokens, completion = usage->completion_tokens;
    text_addf(out,
              "\"usage\":{\"prompt_tokens\":%llu,\"completion_tokens\":%llu,\"total_tokens\":%llu,"
              "\"prompt_tokens_details\":{\"cached_tokens\":%llu}}",
              prompt, completion, prompt + completion, (unsigned long long)usage->cached_tokens);
}

static void write_array(const char *name, const struct text *items, struct text *out) {
    text_addf(out, "\"%s\":[", name);
    text_add(out, items->data, items->bytes);
    text_adds(out, "]");
}

/* ,"logprobs":...,"finish_reason":...,"token_ids":... */
static void write_choice_rest(const struct reply *reply, const struct reply_choice *choice, struct text *out) {
    text_adds(out, ",\"logprobs\":");
    bool streamed = choice->begun;
    if (!reply->logprobs || (streamed && choice->tokens.bytes == 0)) {
        text_adds(out, "null");
    } else {
        text_adds(out, "{");
        write_array(reply->api == API_CHAT ? "content" : "tokens", &choice->tokens, out);
        if (reply->api == API_COMPLETIONS) {
            text_adds(out, ",");
            write_array("token_logprobs", &choice->logprobs, out);
            text_adds(out, ",");
            write_array("top_logprobs", &choice->top_logprobs, out);
            text_adds(out, ",");
            write_array("text_offset", &choice->offsets, out);
        }
        text_adds(out, "}");
    }
    if (choice->finish == FINISH_NONE) {
        text_adds(out, ",\"finish_reason\":null");
    } else {
        text_addf(out, ",\"finish_reason\":\"%s\"", finish_reason_name(choice->finish));
    }
    if (reply->token_ids) {
        text_adds(out, ",");
        write_array("token_ids", &choice->ids, out);
    }
    if (reply->token_ids && choice->prompt) {
        text_adds(out, ",\"prompt_token_ids\":[");
        for (uint32_t i = 0; i < choice->prompt_count; i++) {
            text_addf(out, i ? ",%u" : "%u", choice->prompt[i]);
        }
        text_adds(out, "]");
    }
    text_adds(out, "}");
}

void reply_write(const struct reply *reply, const struct reply_choice *choices, size_t count,
                 const struct reply_usage *usage, struct text *out) {
    write_envelope(reply, reply->api == API_CHAT ? "chat.completion" : "text_completion", out);
    text_adds(out, ",\"choices\":[");
    for (size_t i = 0; i < count; i++) {
        const struct text *content = &choices[i].content;
        text_addf(out, i ? ",{\"index\":%u," : "{\"index\":%u,", choices[i].index);
        if (reply->api == API_CHAT) {
            text_adds(out, "\"message\":{\"role\":\"assistant\",\"content\":");
            text_add_json(out, content->data, content->bytes);
            text_adds(out, "}");
        } else {
            text_adds(out, "\"text\":");
            text_add_json(out, content->data, content->bytes);
        }
        write_choice_rest(reply, &choices[i], out);
        out->failed |= content->failed || choices[i].tokens.failed || choices[i].top_logprobs.failed;
    }
    text_adds(out, "],");
    write_usage(usage, out);
    text_adds(out, "}");
}

static void begin_chunk(const struct reply *reply, struct text *out) {
    text_adds(out, "data: ");
    write_envelope(reply, reply->api == API_CHAT ? "chat.completion.chunk" : "text_completion", out);
}

static void end_chunk(const struct reply *reply, struct text *out) {
    text_adds(out, reply->include_usage ? "],\"usage\":null}\n\n" : "]}\n\n");
}

static void write_role_chunk(const struct reply *reply, uint32_t index, struct text *out) {
    begin_chunk(reply, out);
    text_addf(out,
              ",\"choices\":[{\"index\":%u,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
              "\"finish_reason\":null}",
              index);
    end_chunk(reply, out);
}

static void empty_choice(struct reply_choice *choice) {
    text_clear(&choice->content);
    text_clear(&choice->ids);
    text_clear(&choice->tokens);
    text_clear(&choice->logprobs);
    text_clear(&choice->top_logprobs);
    text_clear(&choice->offsets);
    choice->prompt = NULL;
}

void reply_write_chunk(const struct reply *reply, struct reply_choice *choice, struct text *out) {
    if (reply->api == API_CHAT && !choice->begun) {
        write_role_chunk(reply, choice->index, out);
    }
    choice->begun = true;
    begin_chunk(reply, out);
    text_addf(out, ",\"choices\":[{\"index\":%u,", choice->index);
    if (reply->api == API_COMPLETIONS) {
        text_adds(out, "\"text\":");
        text_add_json(out, choice->content.data, choice->content.bytes);
    } else if (choice->content.bytes > 0 || choice->tokens.bytes > 0) {
        text_adds(out, "\"delta\":{\"content\":");
        text_add_json(out, choice->content.data, choice->content.bytes);
        text_adds(out, "}");
    } else {
        text_adds(out, "\"delta\":{}");
    }
    write_choice_rest(reply, choice, out);
    end_chunk(reply, out);
    out->failed |= choice->content.failed || choice->tokens.failed || choice->top_logprobs.failed;
    empty_choice(choice);
}

void reply_write_usage_chunk(const struct reply *reply, const struct reply_usage *usage, struct text *out) {
    begin_chunk(reply, out);
    text_adds(out, ",\"choices\":[],");
    write_usage(usage, out);
    text_adds(out, "}\n\n");
}

void reply_write_error_chunk(const struct api_error *error, struct text *out) {
    text_adds(out, "data: ");
    api_error_write(error, out);
    text_adds(out, "\n\n");
}

void reply_write_done(struct text *out) {
    text_adds(out, "data: [DONE]\n\n");
}
