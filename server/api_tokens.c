/* Text to token ids and back, for /tokenize, /detokenize and every prompt. Threads: the event loop's only. */
#include "base/json.h"
#include "server/api_error.h"
#include "server/openai.h"
#include "server/service.h"
#include "server/text.h"

#include <stdlib.h>
#include <string.h>

/* How far past the context a prompt is tokenized to say by how much it is too long. */
#define WORTH_COUNTING 4

struct api_error api_check_model(const struct service *service, const char *model) {
    if (!*model || strcmp(model, service->model_name) == 0) {
        return (struct api_error){0};
    }
    struct api_error error = api_refusal(
        404, "model_not_found", "there is no model \"%.100s\" here; this is \"%.100s\"", model, service->model_name);
    strcpy(error.param, "model");
    return error;
}

/* The message for a failure to encode at most `limit` tokens. */
static struct api_error explain(const struct service *service, const struct status *status, size_t limit,
                                const char *param) {
    if (status->code != STATUS_NO_MEMORY) {
        return api_error_from(status, param);
    }
    struct api_error error = api_invalid(param, "%s: has more than %zu tokens, and the context holds %u", param, limit,
                                         service->runtime.context);
    error.slug = "context_length_exceeded";
    return error;
}

static size_t encode_limit(const struct service *service) {
    return (size_t)service->runtime.context * WORTH_COUNTING;
}

struct api_error api_encode(const struct service *service, const char *text, size_t bytes, bool bos, const char *param,
                            struct token_list *tokens) {
    unsigned flags = TOKENIZE_SPECIAL | (bos ? (unsigned)TOKENIZE_BOS : 0);
    size_t limit = encode_limit(service);
    struct status status = tokenizer_encode(service->runtime.tokenizer, text, bytes, flags, limit, tokens);
    return status.code == STATUS_OK ? (struct api_error){0} : explain(service, &status, limit, param);
}

struct api_error api_encode_chat(const struct service *service, const struct completion_request *request,
                                 struct token_list *tokens) {
    const struct runtime *runtime = &service->runtime;
    if (!runtime->chat) {
        return api_invalid("messages", "%s", runtime->chat_status.message);
    }
    size_t limit = encode_limit(service);
    struct status status =
        chat_encode(runtime->chat, runtime->tokenizer, request->messages, request->message_count, limit, tokens);
    return status.code == STATUS_OK ? (struct api_error){0} : explain(service, &status, limit, "messages");
}

/* ---- /tokenize ---- */

struct tokenize_options {
    bool special_tokens, strings;
};

static struct api_error read_flag(const cJSON *body, const char *name, bool *value) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(body, name);
    if (item && !cJSON_IsNull(item) && !cJSON_IsBool(item)) {
        return api_invalid(name, "%s: expected true or false, found %s", name, json_type_name(item));
    }
    *value = item && !cJSON_IsNull(item) ? cJSON_IsTrue(item) : *value;
    return (struct api_error){0};
}

static struct api_error tokenize_body(const struct service *service, struct completion_request *request,
                                      struct tokenize_options *options, struct token_list *tokens) {
    const cJSON *body = request->document;
    struct api_error error = openai_read_model(body, &request->model);
    error = error.code ? error : api_check_model(service, request->model);
    error = error.code ? error : read_flag(body, "add_special_tokens", &options->special_tokens);
    error = error.code ? error : read_flag(body, "return_token_strs", &options->strings);
    if (error.code) {
        return error;
    }
    if (cJSON_GetObjectItemCaseSensitive(body, "messages")) {
        error = openai_read_messages(body, request);
        return error.code ? error : api_encode_chat(service, request, tokens);
    }
    const cJSON *prompt = cJSON_GetObjectItemCaseSensitive(body, "prompt");
    if (!cJSON_IsString(prompt)) {
        return prompt ? api_invalid("prompt", "prompt: expected a string, found %s", json_type_name(prompt))
                      : api_invalid("prompt", "prompt: needed (or messages), and missing");
    }
    return api_encode(service, prompt->valuestring, strlen(prompt->valuestring), options->special_tokens, "prompt",
                      tokens);
}

static void write_tokens(const struct service *service, const struct token_list *tokens, bool strings,
                         struct text *out) {
    text_addf(out, "{\"count\":%zu,\"max_model_len\":%u,\"tokens\":[", tokens->count, service->runtime.context);
    for (size_t i = 0; i < tokens->count; i++) {
        text_addf(out, i ? ",%u" : "%u", tokens->ids[i]);
    }
    text_adds(out, "],\"token_strs\":");
    text_adds(out, strings ? "[" : "null");
    for (size_t i = 0; strings && i < tokens->count; i++) {
        struct gguf_string piece = tokenizer_bytes(service->runtime.tokenizer, tokens->ids[i], true);
        text_adds(out, i ? "," : "");
        text_add_json(out, piece.data, piece.bytes);
    }
    text_adds(out, strings ? "]}" : "}");
}

void api_tokenize(struct service *service, struct http_exchange *exchange) {
    struct http_slice body = http_body(exchange);
    struct completion_request request = {.api = API_CHAT, .model = ""};
    struct tokenize_options options = {.special_tokens = true};
    struct token_list tokens = {0};
    struct api_error error = openai_parse_object(body.data, body.bytes, &request.document);
    error = error.code ? error : tokenize_body(service, &request, &options, &tokens);
    if (error.code) {
        api_respond_error(exchange, &error);
    } else {
        struct text json = {0};
        write_tokens(service, &tokens, options.strings, &json);
        api_respond_json(exchange, &json);
        text_free(&json);
    }
    token_list_free(&tokens);
    completion_request_free(&request);
}

/* ---- /detokenize ---- */

static struct api_error read_tokens(const struct service *service, const cJSON *body, uint32_t **ids, size_t *count) {
    const char *model = "";
    const cJSON *array = cJSON_GetObjectItemCaseSensitive(body, "tokens");
    struct api_error error = openai_read_model(body, &model);
    error = error.code ? error : api_check_model(service, model);
    if (error.code == 0 && !cJSON_IsArray(array)) {
        error = array ? api_invalid("tokens", "tokens: expected an array of ids, found %s", json_type_name(array))
                      : api_invalid("tokens", "tokens: needed, and missing");
    }
    error = error.code ? error : openai_read_ids(array, "tokens", ids, count);
    uint32_t vocabulary = tokenizer_vocabulary(service->runtime.tokenizer);
    for (size_t i = 0; error.code == 0 && i < *count; i++) {
        if ((*ids)[i] >= vocabulary) {
            error = api_invalid("tokens", "tokens[%zu]: %u is not below the vocabulary's %u", i, (*ids)[i], vocabulary);
        }
    }
    return error;
}

void api_detokenize(struct service *service, struct http_exchange *exchange) {
    struct http_slice body = http_body(exchange);
    cJSON *document = NULL;
    uint32_t *ids = NULL;
    size_t count = 0;
    struct api_error error = openai_parse_object(body.data, body.bytes, &document);
    error = error.code ? error : read_tokens(service, document, &ids, &count);
    if (error.code) {
        api_respond_error(exchange, &error);
    } else {
        struct text json = {0};
        char *prompt = NULL;
        size_t bytes = 0;
        struct status status = tokenizer_decode(service->runtime.tokenizer, ids, count, true, &prompt, &bytes);
        text_adds(&json, "{\"prompt\":");
        text_add_json(&json, prompt, bytes);
        text_adds(&json, "}");
        json.failed |= status_failed(&status);
        api_respond_json(exchange, &json);
        free(prompt);
        text_free(&json);
    }
    free(ids);
    cJSON_Delete(document);
}
