#include "server/command.h"

#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

int command_failed(const struct status *status) {
    fprintf(stderr, "metronome: %s\n", status->message);
    return status->code == STATUS_INVALID || status->code == STATUS_NOT_FOUND ? EXIT_USAGE : EXIT_FAILED;
}

struct status command_write_report(const char *path, struct text *report) {
    if (report->failed) {
        return status_error(STATUS_NO_MEMORY, "no memory for the report");
    }
    bool standard = strcmp(path, "-") == 0;
    FILE *file = standard ? stdout : fopen(path, "w");
    if (!file) {
        return status_error(STATUS_IO, "%s: %s", path, strerror(errno));
    }
    bool written = fwrite(report->data, 1, report->bytes, file) == report->bytes && fputc('\n', file) != EOF;
    written = (standard ? fflush(file) : fclose(file)) == 0 && written;
    return written ? STATUS_SUCCESS : status_error(STATUS_IO, "%s: %s", path, strerror(errno));
}

struct status command_write_forms(const char *json, const char *svg, report_writer *write, const void *report) {
    bool silent = (json && strcmp(json, "-") == 0) || (svg && strcmp(svg, "-") == 0);
    const char *const paths[] = {[REPORT_TEXT] = silent ? NULL : "-", [REPORT_JSON] = json, [REPORT_SVG] = svg};
    struct status status = STATUS_SUCCESS;
    for (int form = REPORT_TEXT; form <= REPORT_SVG && status.code == STATUS_OK; form++) {
        struct text text = {0};
        if (paths[form]) {
            write(report, (enum report_form)form, &text);
            status = command_write_report(paths[form], &text);
        }
        text_free(&text);
    }
    return status;
}

void command_set_log(const struct config *config) {
    enum log_level level;
    if (log_level_parse(config->log_level, &level)) {
        log_set_level(level);
    }
}

struct status command_read_input(size_t limit, struct text *out) {
    char piece[4096];
    size_t bytes;
    while ((bytes = fread(piece, 1, sizeof piece, stdin)) > 0) {
        text_add(out, piece, bytes);
        if (out->bytes > limit) {
            return status_error(STATUS_INVALID, "standard input has more than %zu bytes", limit);
        }
    }
    if (ferror(stdin)) {
        return status_error(STATUS_IO, "standard input: %s", strerror(errno));
    }
    return out->failed ? status_error(STATUS_NO_MEMORY, "no memory for standard input") : STATUS_SUCCESS;
}
