/* A log of requests and of what was promised to them: JSON, an object a line. The first says what was configured, each
 * of the others what became of one request (docs/explain.md has the fields).
 *
 * Owns: the file, while it is written; what was read, afterwards. Threads: one owner each. */
#ifndef METRONOME_SERVER_SLO_LOG_H
#define METRONOME_SERVER_SLO_LOG_H

#include "scheduler/trace.h"
#include "server/explain.h"

/* ---- writing ---- */

struct slo_log_file;

/* Makes the file anew and writes its first line; arrivals are counted from `begin_ns` of the engine's clock. STATUS_IO
 * says the path and why. */
struct status slo_log_open(const char *path, const struct explain_state *state, uint64_t begin_ns,
                           struct slo_log_file **out);

/* A request has ended, or with FINISH_NONE was refused. `name` is what its client knows it by, "" if nothing. A failure
 * to write is said in the log, once. */
void slo_log_add(struct slo_log_file *file, const struct request *request, const char *name, const char *class_name,
                 enum finish_reason finish);
void slo_log_close(struct slo_log_file *file); /* NULL is harmless */

/* ---- reading ---- */

struct slo_log_request {
    uint64_t id;
    uint64_t arrival_ns; /* since the log's begin */
    uint32_t prompt_tokens, output_tokens;
    struct promise promise;
    enum finish_reason finish; /* FINISH_NONE: refused */
    uint32_t late_tokens;
    uint32_t late_by[CAUSES];
    bool late_first;
    struct late_run worst; /* if late_tokens > 0 */
};

struct slo_log {
    struct config config; /* as it was configured */
    struct explain_state state;
    struct slo_log_request *requests; /* (count) by arrival */
    uint32_t count;
};

#define SLO_LOG_MAX_REQUESTS (1U << 22)

/* Reads a log; a failure names the line, and keeps nothing. A last line that was cut off is left away. */
struct status slo_log_read(const char *text, size_t bytes, struct slo_log *out);
struct status slo_log_read_file(const char *path, struct slo_log *out);
void slo_log_free(struct slo_log *log);

/* Its requests as a trace, with the promises that were not the configuration's own. The caller frees it. */
struct status slo_log_trace(const struct slo_log *log, struct trace *out);

/* Ranks what came late in it. */
struct status slo_log_explain(const struct slo_log *log, struct explanation *out);

#endif
