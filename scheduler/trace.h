/* A trace: when requests came, how long their prompts were and how long their answers. Read from files that others
 * published, or drawn from a seed.
 *
 * Owns: its arrays. Knows nothing of engines; scheduler/replay.h sends a trace to one. Threads: any; values only. */
#ifndef METRONOME_SCHEDULER_TRACE_H
#define METRONOME_SCHEDULER_TRACE_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct trace_request {
    uint64_t arrival_ns; /* since the trace's first request; ascending */
    uint32_t prompt_tokens, output_tokens;
    uint32_t first_part, part_count; /* of the prompt, in trace.parts; 0: it shares nothing with another */
};

/* What one request was promised. */
struct trace_promise {
    bool own;                  /* else it has what the run promises to all */
    uint64_t ttft_ns, tpot_ns; /* 0: not promised */
};

struct trace {
    struct trace_request *requests; /* (count) */
    struct trace_promise *promises; /* (count); NULL: none has its own */
    uint32_t count;
    uint64_t *parts;      /* (part_count) ids of the prompts' parts: equal ids are equal tokens */
    uint32_t part_count;  /* of all requests */
    uint32_t part_tokens; /* tokens of a part, > 0; a prompt's last one may be shorter */
    uint64_t seed;        /* of the prompts' tokens */
};

#define TRACE_MAX_REQUESTS (1U << 24)
#define TRACE_MAX_TOKENS (1U << 24) /* of one prompt or one answer */

/* Reads a trace from a file, in the form that its first line shows: the columns TIMESTAMP,ContextTokens,GeneratedTokens
 * (Azure's, CSV), or an object a line with timestamp in milliseconds, input_length, output_length and hash_ids, one for
 * each 512 tokens of the prompt (Mooncake's, JSONL). Requests are put in order of arrival. Errors name the line. */
struct status trace_read_file(const char *path, struct trace *out);
struct status trace_read(const char *text, size_t bytes, struct trace *out);

/* Requests to draw. Lengths are uniform between half and one and a half of their mean, or their logarithms are normal:
 * most are then shorter than the mean, and a few much longer. */
struct trace_shape {
    uint32_t count;
    double rate;       /* arrivals a second, in the mean; at least 0.001 */
    double burstiness; /* of the gaps: 1 is a Poisson process, less comes in bursts (a gamma distribution's shape, >=
                          0.01) */
    uint32_t prompt_tokens, output_tokens;     /* means */
    double prompt_deviation, output_deviation; /* of the lengths' logarithms, at most 2; 0: uniform */
    uint64_t seed;
};
struct status trace_draw(const struct trace_shape *shape, struct trace *out);

void trace_free(struct trace *trace);

/* Requests a second from the first to the last; 0 if they all come at once. */
double trace_rate(const struct trace *trace);

/* Keeps the first `count` requests. */
void trace_keep(struct trace *trace, uint32_t count);

/* Writes the ids of a prompt (requests[index].prompt_tokens), each below `vocabulary`: the same for the same part of
 * any prompt, else different for every request. */
void trace_prompt(const struct trace *trace, uint32_t index, uint32_t vocabulary, uint32_t *ids);

#endif
