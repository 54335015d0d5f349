/* What one event of an OpenAI stream says: a token's text, nothing to show, the usage, an error, the end.
 *
 * Owns: nothing. Chat's chunks (choices[0].delta) and completions' (choices[0].text). Threads: any. */
#ifndef METRONOME_BENCH_LOAD_STREAM_EVENT_H
#define METRONOME_BENCH_LOAD_STREAM_EVENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum stream_event_kind {
    EVENT_TOKEN,  /* text, reasoning or a piece of a tool's call: the one kind that is timed */
    EVENT_EMPTY,  /* a role alone, an empty delta, the last chunk with its finish_reason, the usage */
    EVENT_DONE,   /* [DONE] */
    EVENT_ERROR,  /* an object with an "error" that is not null */
    EVENT_BROKEN, /* not JSON, or not a chunk of an answer */
};

struct stream_event {
    enum stream_event_kind kind;
    bool finished; /* it has a finish_reason */
    bool has_usage;
    uint32_t prompt_tokens, completion_tokens; /* of the usage; a number that is none counts as 0 */
};

struct stream_event stream_event_read(const char *data, size_t bytes);

#endif
