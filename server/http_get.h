/* One GET, for the commands that ask a running server. Threads: the caller's, which it blocks. */
#ifndef METRONOME_SERVER_HTTP_GET_H
#define METRONOME_SERVER_HTTP_GET_H

#include "base/status.h"
#include "server/text.h"

/* Adds the body that `url` (http://HOST[:PORT], its path left aside) has at `path` to `out`. STATUS_INVALID: not such
 * a URL; STATUS_IO: nobody answers, not within 10 s, with more than 16 MiB, or with another status than 200. */
struct status http_get(const char *url, const char *path, const char *accept, struct text *out);

#endif
