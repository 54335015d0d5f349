#include "base/log.h"

#include "base/clock.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static _Atomic int minimum_level = LOG_INFO;

static const char *const level_names[] = {"debug", "info", "warn", "error", "silent"};

void log_set_level(enum log_level level) {
    atomic_store(&minimum_level, (int)level);
}

bool log_level_parse(const char *name, enum log_level *level) {
    for (int i = LOG_DEBUG; i <= LOG_SILENT; i++) {
        if (strcmp(name, level_names[i]) == 0) {
            *level = (enum log_level)i;
            return true;
        }
    }
    return false;
}

void log_line(enum log_level level, const char *format, ...) {
    if ((int)level < atomic_load(&minimum_level)) {
        return;
    }
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    struct tm calendar;
    gmtime_r(&now.tv_sec, &calendar);
    char line[1024];
    size_t used = strftime(line, sizeof line, "%Y-%m-%dT%H:%M:%S", &calendar);
    used +=
        (size_t)snprintf(line + used, sizeof line - used, ".%03ldZ %-5s ", now.tv_nsec / 1000000, level_names[level]);
    va_list arguments;
    va_start(arguments, format);
    int wanted = vsnprintf(line + used, sizeof line - used, format, arguments);
    va_end(arguments);
    used += wanted < 0 ? 0 : (size_t)wanted;
    if (used > sizeof line - 2) {
        used = sizeof line - 2;
    }
    line[used++] = '\n';
    ssize_t written = write(STDERR_FILENO, line, used);
    (void)written; /* a log that cannot be written has nowhere to say so */
}

static void progress_draw(struct progress *bar, uint64_t done) {
    enum { WIDTH = 32 };
    char cells[WIDTH + 1];
    uint64_t filled = bar->total ? done * WIDTH / bar->total : WIDTH;
    for (uint64_t i = 0; i < WIDTH; i++) {
        cells[i] = i < filled ? '#' : '.';
    }
    cells[WIDTH] = 0;
    fprintf(stderr, "\r%s [%s] %3llu %%", bar->label, cells,
            (unsigned long long)(bar->total ? done * 100 / bar->total : 100));
    const double spent_s = (double)(clock_now_ns() - bar->started_ns) / (double)NS_PER_S;
    if (done > 0 && spent_s >= 1) {
        const uint64_t left_s = (uint64_t)(spent_s / (double)done * (double)(bar->total - done) + 0.5);
        fprintf(stderr, ", %llu:%02llu left  ", (unsigned long long)left_s / 60, (unsigned long long)left_s % 60);
    }
    fflush(stderr);
}

void progress_begin(struct progress *bar, const char *label, uint64_t total) {
    *bar = (struct progress){.label = label, .total = total, .started_ns = clock_now_ns()};
    bar->terminal = isatty(STDERR_FILENO) && atomic_load(&minimum_level) <= LOG_INFO;
}

void progress_update(struct progress *bar, uint64_t done) {
    uint64_t now = clock_now_ns();
    if (!bar->terminal || now - bar->drawn_ns < 50 * NS_PER_MS) {
        return;
    }
    bar->drawn_ns = now;
    progress_draw(bar, done > bar->total ? bar->total : done);
}

void progress_end(struct progress *bar) {
    if (bar->terminal) {
        progress_draw(bar, bar->total);
        fputc('\n', stderr);
    }
    log_info("%s: done in %.2f s", bar->label, (double)(clock_now_ns() - bar->started_ns) / (double)NS_PER_S);
}
