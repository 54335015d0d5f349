/* Writing the log. */
#include "server/slo_log.h"

#include "base/log.h"
#include "server/version.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct slo_log_file {
    FILE *file;
    char *path;
    uint64_t begin_ns;
    struct text line;
    bool failed; /* it was said, and nothing more is written */
};

static void write_line(struct slo_log_file *log) {
    text_adds(&log->line, "\n");
    bool written = !log->line.failed && fwrite(log->line.data, 1, log->line.bytes, log->file) == log->line.bytes &&
                   fflush(log->file) == 0;
    if (!written && !log->failed) {
        log_warn("slo_log %s: %s; it ends here", log->path, log->line.failed ? "no memory" : strerror(errno));
        log->failed = true;
    }
    text_clear(&log->line);
}

/* Options that say where the server is and who may use it are nobody's to read in a log. */
static bool is_private(const char *name) {
    static const char *const names[] = {"host",         "port",       "port_file", "api_key",
                                        "api_key_file", "trace_file", "slo_log",   "log_level"};
    bool found = false;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        found = found || strcmp(names[i], name) == 0;
    }
    return found;
}

static void write_options(const struct config *config, struct text *out) {
    const char *between = "{";
    struct text value = {0};
    for (size_t i = 0; i < option_count(); i++) {
        const struct option *option = option_at(i);
        if (config_is_set(config, option->name) && !is_private(option->name)) {
            text_clear(&value);
            config_write(config, option, &value);
            text_addf(out, "%s\"%s\":", between, option->name);
            text_add_json(out, value.data ? value.data : "", value.bytes);
            between = ",";
        }
    }
    text_adds(out, *between == '{' ? "{}" : "}");
    out->failed = out->failed || value.failed;
    text_free(&value);
}

struct status slo_log_open(const char *path, const struct explain_state *state, uint64_t begin_ns,
                           struct slo_log_file **out) {
    struct slo_log_file *log = calloc(1, sizeof *log);
    char *copy = strdup(path);
    FILE *file = log && copy ? fopen(path, "w") : NULL;
    if (!file) {
        struct status status = log && copy ? status_error(STATUS_IO, "slo_log %s: %s", path, strerror(errno))
                                           : status_error(STATUS_NO_MEMORY, "slo_log: no memory");
        free(log);
        free(copy);
        return status;
    }
    *log = (struct slo_log_file){.file = file, .path = copy, .begin_ns = begin_ns};
    text_addf(&log->line,
              "{\"metronome_slo_log\":1,\"version\":\"%s\",\"kv_blocks\":%u,\"weight_bytes_host\":%llu,\"options\":",
              version_text(), state->kv_blocks, (unsigned long long)state->weight_bytes_host);
    write_options(state->config, &log->line);
    text_adds(&log->line, "}");
    write_line(log);
    *out = log;
    return STATUS_SUCCESS;
}

static double ms_since(uint64_t begin_ns, uint64_t ns) {
    return ns > begin_ns ? (double)(ns - begin_ns) / 1e6 : 0;
}

static void write_late(const struct request_outcome *outcome, struct text *out) {
    const struct late_run *worst = &outcome->worst;
    const char *between = "{";
    text_addf(out,
              ",\"late_ms\":%.6f,\"cause\":\"%s\",\"late_token\":%u,\"window_ms\":%.6f,\"running\":%u,\"waiting\":%u,"
              "\"kv_blocks_free\":%u,\"late_by\":",
              (double)worst->late_ns / 1e6, cause_name(worst->cause), worst->latest_token,
              (double)(worst->at_ns - worst->begin_ns) / 1e6, worst->running, worst->waiting, worst->kv_blocks_free);
    for (int i = 0; i < CAUSES; i++) {
        if (outcome->late_by[i] > 0) {
            text_addf(out, "%s\"%s\":%u", between, cause_name((enum cause)i), outcome->late_by[i]);
            between = ",";
        }
    }
    text_adds(out, "},\"spent_ms\":");
    explain_write_spent(&worst->spent, out);
}

void slo_log_add(struct slo_log_file *log, const struct request *request, const char *name, const char *class_name,
                 enum finish_reason finish) {
    const struct request_outcome *outcome = &request->outcome;
    struct text *out = &log->line;
    if (log->failed) {
        return;
    }
    text_addf(out, "{\"id\":%llu,\"request\":", (unsigned long long)request->id);
    text_adds_json(out, name);
    text_adds(out, ",\"class\":");
    text_adds_json(out, class_name);
    text_addf(out,
              ",\"arrival_ms\":%.6f,\"prompt_tokens\":%u,\"output_tokens\":%u,\"ttft_ms\":%.6f,\"tpot_ms\":%.6f,"
              "\"finish\":\"%s\"",
              ms_since(log->begin_ns, request->arrival_ns), request->prompt_count,
              finish == FINISH_NONE ? request->sampling.max_tokens : outcome->tokens,
              (double)request->promise.ttft_ns / 1e6, (double)request->promise.tpot_ns / 1e6,
              finish == FINISH_NONE ? "refused" : finish_reason_name(finish));
    if (outcome->first_token_ns > 0) {
        text_addf(out, ",\"first_ms\":%.6f,\"last_ms\":%.6f", ms_since(request->arrival_ns, outcome->first_token_ns),
                  ms_since(request->arrival_ns, outcome->last_token_ns));
    }
    text_addf(out, ",\"preemptions\":%u,\"late_tokens\":%u", outcome->preemptions, outcome->late_tokens);
    if (outcome->late_tokens > 0) {
        write_late(outcome, out);
    }
    text_adds(out, "}");
    write_line(log);
}

void slo_log_close(struct slo_log_file *log) {
    if (log) {
        if (fclose(log->file) != 0 && !log->failed) {
            log_warn("slo_log %s: %s", log->path, strerror(errno));
        }
        text_free(&log->line);
        free(log->path);
        free(log);
    }
}
