/* An error as OpenAI's API shows it: {"error": {"message", "type", "param", "code"}} under an HTTP status.
 * Threads: values only, any. */
#ifndef METRONOME_SERVER_API_ERROR_H
#define METRONOME_SERVER_API_ERROR_H

#include "base/status.h"
#include "server/text.h"

#define API_PARAM_BYTES 96

struct api_error {
    int code;                    /* of HTTP; 0: no error */
    const char *slug;            /* OpenAI's "code", static; NULL for null */
    char param[API_PARAM_BYTES]; /* the field's path, "messages[1].content"; "" for null */
    char message[252];
    int retry_after_s; /* 0: the code's own, see api_retry_after() */
    char detail[192];  /* further fields of the error object, as JSON that begins with a comma; "" for none */
};

/* 400, naming the field. */
struct api_error api_invalid(const char *param, const char *format, ...) __attribute__((format(printf, 2, 3)));

struct api_error api_refusal(int code, const char *slug, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* What a status that travelled up means to a client. */
struct api_error api_error_from(const struct status *status, const char *param);

/* Seconds for Retry-After, or 0 if trying again does not help. */
int api_retry_after(const struct api_error *error);

void api_error_write(const struct api_error *error, struct text *out);

#endif
