#include "server/api_error.h"

#include <stdarg.h>
#include <stdio.h>

struct api_error api_invalid(const char *param, const char *format, ...) {
    struct api_error error = {.code = 400};
    snprintf(error.param, sizeof error.param, "%s", param);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error.message, sizeof error.message, format, arguments);
    va_end(arguments);
    return error;
}

struct api_error api_refusal(int code, const char *slug, const char *format, ...) {
    struct api_error error = {.code = code, .slug = slug};
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error.message, sizeof error.message, format, arguments);
    va_end(arguments);
    return error;
}

static int http_code(enum status_code code) {
    switch (code) {
    case STATUS_OK:
    case STATUS_IO:
    case STATUS_DEVICE:
        break;
    case STATUS_INVALID:
    case STATUS_UNSUPPORTED:
        return 400;
    case STATUS_NOT_FOUND:
        return 404;
    case STATUS_BUSY:
        return 429;
    case STATUS_NO_MEMORY:
    case STATUS_UNAVAILABLE:
        return 503;
    }
    return 500;
}

struct api_error api_error_from(const struct status *status, const char *param) {
    struct api_error error = api_invalid(param, "%s", status->message);
    error.code = http_code(status->code);
    return error;
}

/* OpenAI's families of errors, as its client library and vLLM name them. */
static const char *type_of(int code) {
    switch (code) {
    case 401:
        return "authentication_error";
    case 404:
        return "not_found_error";
    case 429:
        return "rate_limit_error";
    default:
        return code >= 500 ? "server_error" : "invalid_request_error";
    }
}

int api_retry_after(const struct api_error *error) {
    if (error->retry_after_s > 0) {
        return error->retry_after_s;
    }
    return error->code == 429 || error->code == 503 ? 1 : 0;
}

void api_error_write(const struct api_error *error, struct text *out) {
    text_adds(out, "{\"error\":{\"message\":");
    text_adds_json(out, error->message);
    text_addf(out, ",\"type\":\"%s\",\"param\":", type_of(error->code));
    if (*error->param) {
        text_adds_json(out, error->param);
    } else {
        text_adds(out, "null");
    }
    if (error->slug) {
        text_addf(out, ",\"code\":\"%s\"%s}}", error->slug, error->detail);
    } else {
        text_addf(out, ",\"code\":%d%s}}", error->code, error->detail);
    }
}
