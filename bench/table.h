/* Rows of figures, on the terminal as a table and at once in a file as JSON.
 *
 * Owns: the layout. A row is a run of named cells; the names are the columns' heads and the JSON's keys. Sections are
 * the members of one JSON object, rows the objects of a section's array. Threads: one. */
#ifndef METRONOME_BENCH_TABLE_H
#define METRONOME_BENCH_TABLE_H

#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define TABLE_MOST_CELLS 16
#define TABLE_CELL_BYTES 48

struct table {
    FILE *json; /* NULL: the terminal alone */
    uint32_t sections, rows, cells;
    struct {
        const char *name;
        char shown[TABLE_CELL_BYTES], exact[TABLE_CELL_BYTES];
    } cell[TABLE_MOST_CELLS];
};

/* `path` NULL: no file. */
struct status table_open(const char *path, struct table *table);
struct status table_close(struct table *table);

/* `name` is the JSON's; `title` is printed. */
void table_section(struct table *table, const char *name, const char *title);
void table_text(struct table *table, const char *name, const char *value);
void table_number(struct table *table, const char *name, int decimals, double value);
void table_end_row(struct table *table);

#endif
