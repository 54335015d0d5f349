/* The bodies of a load's requests: OpenAI's JSON, with prompts of words that anybody's tokenizer takes.
 *
 * Owns: nothing. Threads: any. */
#ifndef METRONOME_BENCH_LOAD_BODY_H
#define METRONOME_BENCH_LOAD_BODY_H

#include "bench/load/target.h"
#include "scheduler/trace.h"
#include "server/text.h"

/* Writes the body of a request of the trace. A prompt is as many short words as the trace has tokens: most vocabularies
 * make about a token of each. Prompts that share parts in the trace begin with the same words. */
struct status body_write(const struct target *target, const struct trace *trace, uint32_t index, struct text *out);

#endif
