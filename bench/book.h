/* What benchmarks found, as a book of sections, paragraphs, tables and charts, written once and read in four forms:
 * text for the terminal, JSON, Markdown and a self-contained page of HTML.
 *
 * Owns: the layout of all four. A table is a member of the JSON's one object, its rows are objects, and columns' heads
 * are their keys; words are in the other forms alone. Memory that runs out is remembered, and said by book_write().
 * Threads: one. */
#ifndef METRONOME_BENCH_BOOK_H
#define METRONOME_BENCH_BOOK_H

#include "base/status.h"
#include "server/text.h"

#include <stdint.h>

#define BOOK_MOST_COLUMNS 20

struct book_cell {
    size_t shown, exact; /* where they begin in `words`, terminated there */
    bool number;
};

struct book {
    struct text text, json, markdown, html;
    uint32_t tables, charts;
    struct { /* the table that is being filled */
        const char *key;
        const char *column[BOOK_MOST_COLUMNS];
        uint32_t columns, rows, cells; /* cells of the row at hand */
        struct text words;
        struct book_cell *cell; /* (capacity) row after row */
        size_t capacity;
    } table;
    bool failed;
};

void book_open(struct book *book, const char *title);
void book_free(struct book *book);

void book_section(struct book *book, const char *title);

/* A paragraph. */
void book_say(struct book *book, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Begins a table; `key` is the JSON's. The first row names the columns, in order; the others have the same. A number
 * that is not finite is shown as a dash, and is null. */
void book_table(struct book *book, const char *key);
void book_text(struct book *book, const char *column, const char *value);
void book_number(struct book *book, const char *column, int decimals, double value);
void book_end_row(struct book *book);
void book_end_table(struct book *book);

/* A picture: whole in the page, and in Markdown by the name `file` if that is not NULL. */
void book_chart(struct book *book, const char *title, const struct text *svg, const char *file);

enum book_form { BOOK_TEXT, BOOK_JSON, BOOK_MARKDOWN, BOOK_HTML, BOOK_FORMS };

/* Ends all forms, once, before they are written. */
void book_close(struct book *book);

/* To a file, or to standard output if `path` is "-". STATUS_IO names the path; STATUS_NO_MEMORY. */
struct status book_write(struct book *book, enum book_form form, const char *path);

#endif
