/* What happened when, as a file for Perfetto (ui.perfetto.dev) or chrome://tracing: JSON in the Trace Event Format's
 * array form, complete events (ph X) that nest on a track for the engine and one for each request.
 *
 * Owns: the file. Bounded: past TRACE_FILE_MOST bytes nothing more is written, and it is said in the log. Threads: one
 * owner a file. */
#ifndef METRONOME_SERVER_TRACE_FILE_H
#define METRONOME_SERVER_TRACE_FILE_H

#include "scheduler/engine.h"

#define TRACE_FILE_MOST (UINT64_C(256) << 20)
#define TRACE_FILE_SPANS 65536 /* that an engine keeps until they are written: engine_config.timeline_spans */

struct trace_file;

/* STATUS_IO says the path and why. */
struct status trace_file_open(const char *path, struct trace_file **out);

/* Writes what the engine has kept since. A failure to write is said in the log, once. */
void trace_file_drain(struct trace_file *file, struct engine *engine);

/* Ends the JSON; NULL is harmless. */
void trace_file_close(struct trace_file *file);

#endif
