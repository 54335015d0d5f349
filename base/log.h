/* The log and the progress bar: the house's only output besides what a subcommand reports.
 *
 * Owns: one line per call to stderr, "2026-01-31T12:00:00.123Z info  text". The level is the only mutable
 * global of the project. Threads: any; a line is written whole. */
#ifndef METRONOME_BASE_LOG_H
#define METRONOME_BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR, LOG_SILENT };

void log_set_level(enum log_level level);

/* Reads "debug", "info", "warn", "error" or "silent"; false if `name` is none of them. */
bool log_level_parse(const char *name, enum log_level *level);

void log_line(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_debug(...) log_line(LOG_DEBUG, __VA_ARGS__)
#define log_info(...) log_line(LOG_INFO, __VA_ARGS__)
#define log_warn(...) log_line(LOG_WARN, __VA_ARGS__)
#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)

/* A bar on stderr for work of known length, with an estimate of what is left. On a terminal it redraws one line at most
 * 20 times a second, if the log is not above LOG_INFO when it begins; elsewhere it prints one line when the work ends.
 * One thread owns a bar. */
struct progress {
    const char *label; /* borrowed until progress_end */
    uint64_t total;
    uint64_t started_ns, drawn_ns;
    bool terminal;
};

void progress_begin(struct progress *bar, const char *label, uint64_t total);
void progress_update(struct progress *bar, uint64_t done);
void progress_end(struct progress *bar);

#endif
