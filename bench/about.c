#include "bench/about.h"

#include "server/version.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* The processor, as the kernel names it. */
static void read_processor(char *out, size_t size) {
    char line[256];
    FILE *file = fopen("/proc/cpuinfo", "r");
    snprintf(out, size, "an unknown processor");
    while (file && fgets(line, sizeof line, file)) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && colon) {
            snprintf(out, size, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
            break;
        }
    }
    if (file) {
        fclose(file);
    }
}

void about_write(const char *hardware, uint64_t seed, struct book *book) {
    char processor[128], date[32], load[32];
    double loads[1] = {0};
    time_t now = time(NULL);
    struct tm utc;
    read_processor(processor, sizeof processor);
    strftime(date, sizeof date, "%Y-%m-%d", gmtime_r(&now, &utc));
    snprintf(load, sizeof load, "%.1f", getloadavg(loads, 1) == 1 ? loads[0] : -1);
    book_table(book, "about");
    book_text(book, "metronome", version_text());
    book_text(book, "commit", version_commit());
    book_text(book, "simulated", hardware ? hardware : "nothing");
    book_number(book, "seed", 0, (double)seed);
    book_text(book, "run on", processor);
    book_number(book, "cores", 0, (double)sysconf(_SC_NPROCESSORS_ONLN));
    book_text(book, "load", load);
    book_text(book, "date", date);
    book_end_row(book);
    book_end_table(book);
}
