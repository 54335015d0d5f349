#include "server/openai.h"

#include "base/check.h"
#include "base/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct json_rules rules = {.depth = 64, .values = 1 << 19};
static const struct api_error fine = {0};

#define TRY_API(expression)                         \
    do {                                            \
        struct api_error try_error_ = (expression); \
        if (try_error_.code) {                      \
            return try_error_;                      \
        }                                           \
    } while (0)

static struct api_error no_memory(void) {
    return api_refusal(503, NULL, "there is no memory for the request");
}

/* ---- fields of one value ---- */

/* The field, or NULL if it is absent or null: clients send null for what they leave out. */
static const cJSON *field_of(const cJSON *body, const char *name) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(body, name);
    return item && !cJSON_IsNull(item) ? item : NULL;
}

static struct api_error wrong_type(const char *param, const char *wanted, const cJSON *item) {
    return api_invalid(param, "%s: expected %s, found %s", param, wanted, json_type_name(item));
}

static struct api_error read_number(const cJSON *item, const char *param, double minimum, double maximum, bool whole,
                                    double *value) {
    if (!cJSON_IsNumber(item)) {
        return wrong_type(param, whole ? "a whole number" : "a number", item);
    }
    if (!(item->valuedouble >= minimum && item->valuedouble <= maximum)) {
        return api_invalid(param, "%s: %.10g is out of range; allowed are %.10g to %.10g", param, item->valuedouble,
                           minimum, maximum);
    }
    if (whole && item->valuedouble != floor(item->valuedouble)) {
        return api_invalid(param, "%s: %.10g is not a whole number", param, item->valuedouble);
    }
    *value = item->valuedouble;
    return fine;
}

static struct api_error read_bool(const cJSON *body, const char *name, bool *value) {
    const cJSON *item = field_of(body, name);
    if (item && !cJSON_IsBool(item)) {
        return wrong_type(name, "true or false", item);
    }
    *value = item ? cJSON_IsTrue(item) : *value;
    return fine;
}

static struct api_error read_whole(const cJSON *body, const char *name, double minimum, double maximum, uint32_t *value,
                                   bool *given) {
    const cJSON *item = field_of(body, name);
    double number = 0;
    if (item) {
        TRY_API(read_number(item, name, minimum, maximum, true, &number));
        *value = (uint32_t)number;
    }
    *given = item != NULL;
    return fine;
}

/* ---- sampling: one row a number ---- */

struct sampling_field {
    const char *name;
    bool whole; /* into a uint32_t; otherwise into a float */
    double minimum, maximum;
    size_t offset;
};

static const struct sampling_field sampling_fields[] = {
    {"temperature", false, 0, 100, offsetof(struct sampling, temperature)},
    {"top_p", false, 0, 1, offsetof(struct sampling, top_p)},
    {"min_p", false, 0, 1, offsetof(struct sampling, min_p)},
    {"presence_penalty", false, -2, 2, offsetof(struct sampling, presence_penalty)},
    {"frequency_penalty", false, -2, 2, offsetof(struct sampling, frequency_penalty)},
    {"repetition_penalty", false, 0.01, 100, offsetof(struct sampling, repetition_penalty)},
    {"min_tokens", true, 0, INT32_MAX, offsetof(struct sampling, min_tokens)},
};

static struct api_error read_numbers(const cJSON *body, struct sampling *sampling) {
    for (size_t i = 0; i < sizeof sampling_fields / sizeof sampling_fields[0]; i++) {
        const struct sampling_field *field = &sampling_fields[i];
        const cJSON *item = field_of(body, field->name);
        double value = 0;
        if (!item) {
            continue;
        }
        TRY_API(read_number(item, field->name, field->minimum, field->maximum, field->whole, &value));
        char *target = (char *)sampling + field->offset;
        if (field->whole) {
            memcpy(target, &(uint32_t){(uint32_t)value}, sizeof(uint32_t));
        } else {
            memcpy(target, &(float){(float)value}, sizeof(float));
        }
    }
    return fine;
}

static struct api_error read_top_k(const cJSON *body, struct sampling *sampling) {
    const cJSON *item = field_of(body, "top_k");
    double value = 0;
    if (item) {
        TRY_API(read_number(item, "top_k", -1, INT32_MAX, true, &value));
    }
    sampling->top_k = value < 0 ? 0 : (uint32_t)value; /* -1 is off, too, as vLLM has it */
    return fine;
}

/* Any whole number is a seed. Those past 2^53 arrive rounded, always the same way. */
static struct api_error read_seed(const cJSON *body, struct sampling *sampling) {
    const cJSON *item = field_of(body, "seed");
    double value = 0;
    if (item) {
        TRY_API(read_number(item, "seed", -0x1.0p63, 0x1.fffffffffffffp63, true, &value));
        sampling->seeded = true;
        sampling->seed = value < 0 ? (uint64_t)(int64_t)value : (uint64_t)value;
    }
    return fine;
}

static struct api_error read_stop_string(const cJSON *item, const char *param, struct stop_string *stop) {
    if (!cJSON_IsString(item)) {
        return wrong_type(param, "a string", item);
    }
    size_t bytes = strlen(item->valuestring);
    if (bytes == 0 || bytes > SAMPLING_MAX_STOP_BYTES) {
        return api_invalid(param, "%s: %zu bytes long; allowed are 1 to %d", param, bytes, SAMPLING_MAX_STOP_BYTES);
    }
    stop->bytes = (uint16_t)bytes;
    memcpy(stop->text, item->valuestring, bytes);
    return fine;
}

static struct api_error read_stops(const cJSON *body, struct sampling *sampling) {
    const cJSON *item = field_of(body, "stop");
    if (!item) {
        return fine;
    }
    if (!cJSON_IsString(item) && !cJSON_IsArray(item)) {
        return wrong_type("stop", "a string or an array of strings", item);
    }
    int count = cJSON_IsString(item) ? 1 : cJSON_GetArraySize(item);
    if (count > SAMPLING_MAX_STOPS) {
        return api_invalid("stop", "stop: %d strings; at most %d are allowed", count, SAMPLING_MAX_STOPS);
    }
    sampling->stops = calloc((size_t)count + 1, sizeof *sampling->stops);
    if (!sampling->stops) {
        return no_memory();
    }
    const cJSON *each = cJSON_IsString(item) ? item : item->child;
    for (; sampling->stop_count < (uint32_t)count; each = each->next) {
        char param[32] = "stop";
        if (cJSON_IsArray(item)) {
            snprintf(param, sizeof param, "stop[%u]", sampling->stop_count);
        }
        TRY_API(read_stop_string(each, param, &sampling->stops[sampling->stop_count]));
        sampling->stop_count++;
    }
    return fine;
}

struct api_error openai_read_ids(const cJSON *array, const char *param, uint32_t **ids, size_t *count) {
    size_t wanted = (size_t)cJSON_GetArraySize(array);
    *ids = calloc(wanted + 1, sizeof **ids);
    *count = 0;
    if (!*ids) {
        return no_memory();
    }
    for (const cJSON *item = array->child; item; item = item->next) {
        char path[API_PARAM_BYTES];
        double value = 0;
        snprintf(path, sizeof path, "%.64s[%zu]", param, *count);
        TRY_API(read_number(item, path, 0, UINT32_MAX - 1, true, &value));
        (*ids)[(*count)++] = (uint32_t)value;
    }
    return fine;
}

static struct api_error read_stop_tokens(const cJSON *body, struct sampling *sampling) {
    const cJSON *item = field_of(body, "stop_token_ids");
    if (!item) {
        return fine;
    }
    if (!cJSON_IsArray(item)) {
        return wrong_type("stop_token_ids", "an array of token ids", item);
    }
    if (cJSON_GetArraySize(item) > SAMPLING_MAX_STOP_TOKENS) {
        return api_invalid("stop_token_ids", "stop_token_ids: %d ids; at most %d are allowed", cJSON_GetArraySize(item),
                           SAMPLING_MAX_STOP_TOKENS);
    }
    size_t count;
    TRY_API(openai_read_ids(item, "stop_token_ids", &sampling->stop_tokens, &count));
    sampling->stop_token_count = (uint32_t)count;
    return fine;
}

static struct api_error read_bias(const cJSON *body, struct sampling *sampling) {
    const cJSON *object = field_of(body, "logit_bias");
    if (!object) {
        return fine;
    }
    if (!cJSON_IsObject(object)) {
        return wrong_type("logit_bias", "an object from token ids to numbers", object);
    }
    int count = cJSON_GetArraySize(object);
    if (count > OPENAI_MAX_BIASES) {
        return api_invalid("logit_bias", "logit_bias: %d tokens; at most %d are allowed", count, OPENAI_MAX_BIASES);
    }
    sampling->bias = calloc((size_t)count + 1, sizeof *sampling->bias);
    if (!sampling->bias) {
        return no_memory();
    }
    for (const cJSON *item = object->child; item; item = item->next) {
        char path[API_PARAM_BYTES];
        snprintf(path, sizeof path, "logit_bias.%.32s", item->string);
        char *end;
        unsigned long token = strtoul(item->string, &end, 10);
        if (item->string[0] < '0' || item->string[0] > '9' || *end || token >= UINT32_MAX) {
            return api_invalid(path, "%s: its key is not a token id", path);
        }
        double value = 0;
        TRY_API(read_number(item, path, -100, 100, false, &value));
        sampling->bias[sampling->bias_count++] = (struct logit_bias){(uint32_t)token, (float)value};
    }
    return fine;
}

/* For completions `logprobs` is a count; for chat it is a switch, and `top_logprobs` the count. */
static struct api_error read_logprobs(const cJSON *body, enum openai_api api, struct sampling *sampling) {
    bool given;
    if (api == API_COMPLETIONS) {
        return read_whole(body, "logprobs", 0, SAMPLING_MAX_LOGPROBS, &sampling->top_logprobs, &sampling->logprobs);
    }
    TRY_API(read_bool(body, "logprobs", &sampling->logprobs));
    TRY_API(read_whole(body, "top_logprobs", 0, SAMPLING_MAX_LOGPROBS, &sampling->top_logprobs, &given));
    if (given && sampling->top_logprobs > 0 && !sampling->logprobs) {
        return api_invalid("top_logprobs", "top_logprobs: needs \"logprobs\": true");
    }
    return fine;
}

static struct api_error read_max_tokens(const cJSON *body, struct completion_request *request) {
    struct sampling *sampling = &request->sampling;
    bool old, given;
    TRY_API(read_whole(body, "max_tokens", 0, INT32_MAX, &sampling->max_tokens, &old));
    TRY_API(read_whole(body, "max_completion_tokens", 0, INT32_MAX, &sampling->max_tokens, &given));
    request->has_max_tokens = old || given;
    if (request->has_max_tokens && sampling->min_tokens > sampling->max_tokens) {
        return api_invalid("min_tokens", "min_tokens: %u is more than max_tokens, %u", sampling->min_tokens,
                           sampling->max_tokens);
    }
    return fine;
}

static struct api_error read_sampling(const cJSON *body, struct completion_request *request) {
    struct sampling *sampling = &request->sampling;
    *sampling = (struct sampling){.temperature = 1, .top_p = 1, .repetition_penalty = 1, .max_tokens = 16};
    TRY_API(read_numbers(body, sampling));
    TRY_API(read_top_k(body, sampling));
    TRY_API(read_seed(body, sampling));
    TRY_API(read_stops(body, sampling));
    TRY_API(read_stop_tokens(body, sampling));
    TRY_API(read_bias(body, sampling));
    TRY_API(read_bool(body, "ignore_eos", &sampling->ignore_eos));
    TRY_API(read_logprobs(body, request->api, sampling));
    if (request->api == API_COMPLETIONS) {
        TRY_API(read_bool(body, "echo", &sampling->echo));
    }
    return read_max_tokens(body, request);
}

/* "slo": a class's name, or {"class": NAME, "ttft_ms": X, "tpot_ms": Y}: times of its own go before the class's, and
 * without a class what is left out is not promised. */
static struct api_error read_promise(const cJSON *body, struct completion_request *request) {
    const cJSON *object = field_of(body, "slo");
    if (!object) {
        return fine;
    }
    if (cJSON_IsString(object)) {
        request->class_name = object->valuestring;
        return fine;
    }
    if (!cJSON_IsObject(object)) {
        return wrong_type("slo", "the name of a class, or an object with \"class\", \"ttft_ms\" and \"tpot_ms\"",
                          object);
    }
    uint64_t *const times[] = {&request->promise.ttft_ns, &request->promise.tpot_ns};
    bool *const given[] = {&request->has_ttft, &request->has_tpot};
    static const char *const names[] = {"ttft_ms", "tpot_ms"}, *const paths[] = {"slo.ttft_ms", "slo.tpot_ms"};
    for (int i = 0; i < 2; i++) {
        const cJSON *item = field_of(object, names[i]);
        double ms = 0;
        if (item) {
            TRY_API(read_number(item, paths[i], 0.001, 1e9, false, &ms));
        }
        *given[i] = item != NULL;
        *times[i] = (uint64_t)(ms * 1e6);
    }
    for (const cJSON *item = object->child; item; item = item->next) {
        if (strcmp(item->string, names[0]) != 0 && strcmp(item->string, names[1]) != 0 &&
            strcmp(item->string, "class") != 0) {
            return api_invalid("slo", "slo: has \"%.40s\"; there are class, ttft_ms and tpot_ms", item->string);
        }
    }
    const cJSON *name = field_of(object, "class");
    if (name && !cJSON_IsString(name)) {
        return wrong_type("slo.class", "a string", name);
    }
    request->class_name = name ? name->valuestring : NULL;
    request->has_promise = !name;
    return fine;
}

static struct api_error read_pace(const cJSON *body, struct completion_request *request) {
    TRY_API(read_bool(body, "pace", &request->pace));
    request->has_pace = field_of(body, "pace") != NULL;
    if (request->pace && !request->stream) {
        return api_invalid("pace", "pace: needs \"stream\": true");
    }
    return fine;
}

/* "cache_salt": only requests that bring the same one share the KV of their prompts, as vLLM has it. */
static struct api_error read_salt(const cJSON *body, struct completion_request *request) {
    const cJSON *item = field_of(body, "cache_salt");
    if (!item) {
        return fine;
    }
    if (!cJSON_IsString(item)) {
        return wrong_type("cache_salt", "a string", item);
    }
    size_t bytes = strlen(item->valuestring);
    if (bytes == 0 || bytes > CACHE_SALT_BYTES) {
        return api_invalid("cache_salt", "cache_salt: has %zu bytes; allowed are 1 to %d", bytes, CACHE_SALT_BYTES);
    }
    request->salt.bytes = (uint32_t)bytes;
    memcpy(request->salt.text, item->valuestring, bytes);
    return fine;
}

/* ---- prompts and messages ---- */

static struct api_error read_prompt(const cJSON *item, const char *param, struct prompt_source *prompt) {
    if (cJSON_IsString(item)) {
        prompt->text = item->valuestring;
        prompt->bytes = strlen(item->valuestring);
        return fine;
    }
    if (!cJSON_IsArray(item)) {
        return wrong_type(param, "a string or an array of token ids", item);
    }
    return openai_read_ids(item, param, &prompt->tokens, &prompt->token_count);
}

static struct api_error read_prompts(const cJSON *body, struct completion_request *request) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(body, "prompt");
    if (!item) {
        return api_invalid("prompt", "prompt: needed, and missing");
    }
    if (!cJSON_IsString(item) && !cJSON_IsArray(item)) {
        return wrong_type("prompt", "a string, an array of strings, or token ids", item);
    }
    if (cJSON_IsArray(item) && !item->child) {
        return api_invalid("prompt", "prompt: is an empty array");
    }
    bool many = cJSON_IsArray(item) && !cJSON_IsNumber(item->child);
    size_t count = many ? (size_t)cJSON_GetArraySize(item) : 1;
    request->prompts = calloc(count, sizeof *request->prompts);
    if (!request->prompts) {
        return no_memory();
    }
    const cJSON *each = many ? item->child : item;
    while (request->prompt_count < count) {
        char param[32] = "prompt";
        if (many) {
            snprintf(param, sizeof param, "prompt[%zu]", request->prompt_count);
        }
        request->prompt_count++; /* what a failure leaves half read is freed, too */
        TRY_API(read_prompt(each, param, &request->prompts[request->prompt_count - 1]));
        each = each->next;
    }
    return fine;
}

/* Content given as parts: their texts, a line each. */
static struct api_error join_parts(const cJSON *parts, const char *param, char **joined, size_t *bytes) {
    struct text text = {0};
    size_t index = 0;
    for (const cJSON *part = parts->child; part; part = part->next, index++) {
        char path[API_PARAM_BYTES];
        snprintf(path, sizeof path, "%.64s[%zu]", param, index);
        const cJSON *type = cJSON_GetObjectItemCaseSensitive(part, "type");
        const cJSON *words = cJSON_GetObjectItemCaseSensitive(part, "text");
        struct api_error wrong = fine;
        if (!cJSON_IsObject(part)) {
            wrong = wrong_type(path, "an object with \"type\" and \"text\"", part);
        } else if (!cJSON_IsString(type) || strcmp(type->valuestring, "text") != 0) {
            wrong = api_invalid(path, "%s.type: only \"text\" is understood", path);
        } else if (!cJSON_IsString(words)) {
            wrong = api_invalid(path, "%s.text: expected a string", path);
        }
        if (wrong.code) {
            text_free(&text);
            return wrong;
        }
        text_adds(&text, index ? "\n" : "");
        text_adds(&text, words->valuestring);
    }
    if (!text_string(&text)) {
        text_free(&text);
        return no_memory();
    }
    *joined = text.data;
    *bytes = text.bytes;
    return fine;
}

static struct api_error read_message(const cJSON *item, size_t index, struct chat_message *message, char **joined) {
    char path[API_PARAM_BYTES];
    snprintf(path, sizeof path, "messages[%zu]", index);
    if (!cJSON_IsObject(item)) {
        return wrong_type(path, "an object", item);
    }
    const cJSON *role = cJSON_GetObjectItemCaseSensitive(item, "role");
    const cJSON *content = cJSON_GetObjectItemCaseSensitive(item, "content");
    snprintf(path, sizeof path, "messages[%zu].role", index);
    if (!cJSON_IsString(role)) {
        return role ? wrong_type(path, "a string", role) : api_invalid(path, "%s: needed, and missing", path);
    }
    message->role = role->valuestring;
    snprintf(path, sizeof path, "messages[%zu].content", index);
    if (cJSON_IsArray(content)) {
        TRY_API(join_parts(content, path, joined, &message->content_bytes));
        message->content = *joined;
    } else if (cJSON_IsString(content)) {
        message->content = content->valuestring;
        message->content_bytes = strlen(content->valuestring);
    } else {
        return content ? wrong_type(path, "a string or an array of text parts", content)
                       : api_invalid(path, "%s: needed, and missing", path);
    }
    return fine;
}

struct api_error openai_read_messages(const cJSON *body, struct completion_request *request) {
    const cJSON *array = cJSON_GetObjectItemCaseSensitive(body, "messages");
    if (!array) {
        return api_invalid("messages", "messages: needed, and missing");
    }
    if (!cJSON_IsArray(array)) {
        return wrong_type("messages", "an array", array);
    }
    if (!array->child) {
        return api_invalid("messages", "messages: is an empty array");
    }
    size_t count = (size_t)cJSON_GetArraySize(array);
    request->messages = calloc(count, sizeof *request->messages);
    request->joined = calloc(count, sizeof *request->joined);
    if (!request->messages || !request->joined) {
        return no_memory();
    }
    for (const cJSON *item = array->child; item; item = item->next) {
        size_t index = request->message_count++;
        TRY_API(read_message(item, index, &request->messages[index], &request->joined[index]));
    }
    return fine;
}

/* ---- the whole body ---- */

/* Fields that are understood and would change the answer, and whose work is not built: refused when they ask for
 * something. */
static struct api_error check_not_built(const cJSON *body, const struct completion_request *request) {
    const cJSON *best_of = field_of(body, "best_of"), *suffix = field_of(body, "suffix");
    double best = 0;
    if (best_of) {
        TRY_API(read_number(best_of, "best_of", 1, OPENAI_MAX_N, true, &best));
        if ((uint32_t)best != request->n) {
            return api_invalid("best_of", "best_of: not built; leave it out or set it to n, %u", request->n);
        }
    }
    if (suffix && !(cJSON_IsString(suffix) && !*suffix->valuestring)) {
        return api_invalid("suffix", "suffix: not built; leave it out");
    }
    const cJSON *format = field_of(body, "response_format"), *tools = field_of(body, "tools");
    if (format) {
        const cJSON *type = cJSON_GetObjectItemCaseSensitive(format, "type");
        if (!cJSON_IsString(type) || strcmp(type->valuestring, "text") != 0) {
            return api_invalid("response_format", "response_format: only {\"type\": \"text\"} is built");
        }
    }
    if (tools && !cJSON_IsArray(tools)) {
        return wrong_type("tools", "an array", tools);
    }
    if (tools && tools->child) {
        return api_invalid("tools", "tools: not built; leave them out");
    }
    return fine;
}

static struct api_error read_stream(const cJSON *body, struct completion_request *request) {
    TRY_API(read_bool(body, "stream", &request->stream));
    const cJSON *options = field_of(body, "stream_options");
    if (!options) {
        return fine;
    }
    if (!cJSON_IsObject(options)) {
        return wrong_type("stream_options", "an object", options);
    }
    if (!request->stream) {
        return api_invalid("stream_options", "stream_options: needs \"stream\": true");
    }
    struct api_error wrong = read_bool(options, "include_usage", &request->include_usage);
    if (wrong.code) {
        wrong = wrong_type("stream_options.include_usage", "true or false", field_of(options, "include_usage"));
    }
    return wrong;
}

struct api_error openai_parse_object(const char *body, size_t bytes, cJSON **out) {
    struct status status = status_context(json_parse(body, bytes, &rules, out), "the body");
    if (status.code != STATUS_OK) {
        return api_error_from(&status, "");
    }
    if (!cJSON_IsObject(*out)) {
        struct api_error wrong = api_invalid("", "the body: expected an object, found %s", json_type_name(*out));
        cJSON_Delete(*out);
        *out = NULL;
        return wrong;
    }
    return fine;
}

struct api_error openai_read_model(const cJSON *body, const char **model) {
    const cJSON *item = field_of(body, "model");
    if (item && !cJSON_IsString(item)) {
        return wrong_type("model", "a string", item);
    }
    *model = item ? item->valuestring : "";
    return fine;
}

struct api_error completion_request_parse(enum openai_api api, const char *body, size_t bytes,
                                          struct completion_request *out) {
    *out = (struct completion_request){.api = api, .model = "", .n = 1};
    TRY_API(openai_parse_object(body, bytes, &out->document));
    const cJSON *document = out->document;
    bool given;
    TRY_API(openai_read_model(document, &out->model));
    TRY_API(api == API_CHAT ? openai_read_messages(document, out) : read_prompts(document, out));
    TRY_API(read_whole(document, "n", 1, OPENAI_MAX_N, &out->n, &given));
    TRY_API(read_stream(document, out));
    TRY_API(read_bool(document, "return_token_ids", &out->return_token_ids));
    TRY_API(read_sampling(document, out));
    TRY_API(read_promise(document, out));
    TRY_API(read_pace(document, out));
    TRY_API(read_salt(document, out));
    return check_not_built(document, out);
}

void completion_request_drop_input(struct completion_request *request) {
    for (size_t i = 0; i < request->prompt_count; i++) {
        free(request->prompts[i].tokens);
    }
    for (size_t i = 0; i < request->message_count; i++) {
        free(request->joined[i]);
    }
    free(request->prompts);
    free(request->messages);
    free(request->joined);
    cJSON_Delete(request->document);
    request->prompts = NULL;
    request->messages = NULL;
    request->joined = NULL;
    request->document = NULL;
    request->model = "";
    request->class_name = NULL;
    request->prompt_count = request->message_count = 0;
}

void completion_request_free(struct completion_request *request) {
    completion_request_drop_input(request);
    free(request->sampling.bias);
    free(request->sampling.stops);
    free(request->sampling.stop_tokens);
    request->sampling.bias = NULL;
    request->sampling.stops = NULL;
    request->sampling.stop_tokens = NULL;
}
