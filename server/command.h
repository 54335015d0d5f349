/* The subcommands of `metronome`: each takes its arguments and returns the exit status.
 *
 * 0: done; 1: could not be done; 2: was asked for wrongly (the usage is shown). Threads: main's. */
#ifndef METRONOME_SERVER_COMMAND_H
#define METRONOME_SERVER_COMMAND_H

#include "base/status.h"
#include "server/arguments.h"
#include "server/text.h"

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

int command_serve(int argc, const char **argv);
int command_config(int argc, const char **argv);
int command_tokenize(int argc, const char **argv);
int command_generate(int argc, const char **argv);
int command_plan(int argc, const char **argv);
int command_profile(int argc, const char **argv);
int command_simulate(int argc, const char **argv);
int command_explain(int argc, const char **argv);

/* ---- what they share: command.c ---- */

/* Prints "metronome: what is wrong" to stderr and returns the exit status for it. */
int command_failed(const struct status *status);

/* Writes a report to `path`, "-" being standard output. */
struct status command_write_report(const char *path, struct text *report);

/* A report in words, as JSON or as a picture. */
enum report_form { REPORT_TEXT, REPORT_JSON, REPORT_SVG };
typedef void report_writer(const void *report, enum report_form form, struct text *out);

/* Writes a report as JSON and as SVG to the paths that are not NULL, and in words to standard output, unless one of the
 * others goes there. */
struct status command_write_forms(const char *json, const char *svg, report_writer *write, const void *report);

/* Sets the log's level as configured. */
void command_set_log(const struct config *config);

/* Reads all of standard input; STATUS_INVALID past `limit` bytes. */
struct status command_read_input(size_t limit, struct text *out);

#endif
