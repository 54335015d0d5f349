#include "bench/book.h"

#include "base/check.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char page_head[] =
    "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
    "<meta name=\"viewport\" content=\"width=device-width\">\n<style>\n"
    "body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222}\n"
    "h1{font-size:1.6rem}h2{font-size:1.25rem;margin-top:2.5rem}p{max-width:50rem}\n"
    ".wide{overflow-x:auto}table{border-collapse:collapse;font-size:13px;margin:1rem 0}\n"
    "th,td{padding:.25rem .6rem;border-bottom:1px solid #ddd;text-align:left;vertical-align:bottom}\n"
    "th{border-bottom:2px solid #888}.n{text-align:right}tr:hover td{background:#f4f4f4}\n"
    "td.n{white-space:nowrap;font-variant-numeric:tabular-nums}\n"
    "figure{margin:1.5rem 0}svg{max-width:100%;height:auto}\n</style>\n";

/* Words in a page: what HTML reads as its own is taken out, and `names` are set apart as in Markdown. */
static void add_html(struct text *out, const char *words) {
    bool code = false;
    for (; *words; words++) {
        if (*words == '`' && (code || strchr(words + 1, '`'))) {
            code = !code;
            text_adds(out, code ? "<code>" : "</code>");
        } else if (*words == '<' || *words == '&') {
            text_adds(out, *words == '<' ? "&lt;" : "&amp;");
        } else {
            text_add(out, words, 1);
        }
    }
}

void book_open(struct book *book, const char *title) {
    *book = (struct book){0};
    text_addf(&book->text, "%s\n", title);
    text_addf(&book->markdown, "# %s\n", title);
    text_adds(&book->html, page_head);
    text_adds(&book->html, "<title>");
    add_html(&book->html, title);
    text_adds(&book->html, "</title></head><body>\n<h1>");
    add_html(&book->html, title);
    text_adds(&book->html, "</h1>\n");
    text_adds(&book->json, "{");
}

void book_free(struct book *book) {
    text_free(&book->text);
    text_free(&book->json);
    text_free(&book->markdown);
    text_free(&book->html);
    text_free(&book->table.words);
    free(book->table.cell);
    *book = (struct book){0};
}

void book_section(struct book *book, const char *title) {
    text_addf(&book->text, "\n%s\n", title);
    text_addf(&book->markdown, "\n## %s\n", title);
    text_adds(&book->html, "<h2>");
    add_html(&book->html, title);
    text_adds(&book->html, "</h2>\n");
}

/* Lines of at most 120 characters. */
static void add_wrapped(struct text *out, const char *words) {
    size_t column = 0;
    while (*words) {
        size_t bytes = strcspn(words, " ");
        if (column > 0) {
            bool fits = column + 1 + bytes <= 120;
            text_adds(out, fits ? " " : "\n");
            column = fits ? column + 1 : 0;
        }
        text_add(out, words, bytes);
        column += bytes;
        words += bytes + strspn(words + bytes, " ");
    }
    text_adds(out, "\n");
}

void book_say(struct book *book, const char *format, ...) {
    char *words = NULL;
    va_list arguments;
    va_start(arguments, format);
    int bytes = vasprintf(&words, format, arguments);
    va_end(arguments);
    if (bytes < 0) {
        book->failed = true;
        return;
    }
    text_adds(&book->text, "\n");
    add_wrapped(&book->text, words);
    text_adds(&book->markdown, "\n");
    add_wrapped(&book->markdown, words);
    text_adds(&book->html, "<p>");
    add_html(&book->html, words);
    text_adds(&book->html, "</p>\n");
    free(words);
}

/* ---- tables ---- */

void book_table(struct book *book, const char *key) {
    CHECK(book->table.key == NULL);
    book->table.key = key;
    book->table.columns = book->table.rows = book->table.cells = 0;
    text_clear(&book->table.words);
}

static size_t keep(struct book *book, const char *words) {
    size_t begin = book->table.words.bytes;
    text_add(&book->table.words, words, strlen(words) + 1);
    return begin;
}

static struct book_cell *add_cell(struct book *book, const char *column) {
    uint32_t index = book->table.cells++;
    CHECK(book->table.key && index < BOOK_MOST_COLUMNS);
    if (book->table.rows == 0) {
        book->table.column[index] = column;
        book->table.columns = book->table.cells;
    }
    CHECK(index < book->table.columns && strcmp(book->table.column[index], column) == 0);
    size_t at = (size_t)book->table.rows * book->table.columns + index;
    if (at >= book->table.capacity) {
        size_t capacity = at < 64 ? 64 : 2 * at;
        struct book_cell *grown = realloc(book->table.cell, capacity * sizeof *grown);
        if (!grown) {
            book->failed = true;
            return NULL;
        }
        book->table.cell = grown;
        book->table.capacity = capacity;
    }
    return &book->table.cell[at];
}

void book_text(struct book *book, const char *column, const char *value) {
    struct book_cell *cell = add_cell(book, column);
    struct text quoted = {0};
    text_adds_json(&quoted, value);
    const char *exact = text_string(&quoted);
    if (cell && exact) {
        *cell = (struct book_cell){.shown = keep(book, value), .exact = keep(book, exact)};
    } else {
        book->failed = true;
    }
    text_free(&quoted);
}

void book_number(struct book *book, const char *column, int decimals, double value) {
    char shown[64], exact[64];
    snprintf(shown, sizeof shown, isfinite(value) ? "%.*f" : "–", decimals, value);
    snprintf(exact, sizeof exact, isfinite(value) ? "%.12g" : "null", value);
    struct book_cell *cell = add_cell(book, column);
    if (cell) {
        *cell = (struct book_cell){.shown = keep(book, shown), .exact = keep(book, exact), .number = true};
    }
}

void book_end_row(struct book *book) {
    CHECK(book->table.cells == book->table.columns);
    book->table.rows++;
    book->table.cells = 0;
}

/* Characters that a terminal shows of UTF-8. */
static int width_of(const char *words) {
    int width = 0;
    for (; *words; words++) {
        width += (*words & 0xc0) != 0x80;
    }
    return width;
}

static void add_padded(struct text *out, const char *words, int width, bool right) {
    int space = width - width_of(words);
    text_addf(out, "%*s%s%*s", right ? space : 0, "", words, right ? 0 : space, "");
}

static void write_text_table(struct book *book, const char *words) {
    const uint32_t columns = book->table.columns;
    int width[BOOK_MOST_COLUMNS];
    for (uint32_t j = 0; j < columns; j++) {
        width[j] = width_of(book->table.column[j]);
        for (uint32_t i = 0; i < book->table.rows; i++) {
            int own = width_of(words + book->table.cell[i * columns + j].shown);
            width[j] = own > width[j] ? own : width[j];
        }
    }
    text_adds(&book->text, "\n");
    for (uint32_t j = 0; j < columns; j++) {
        text_adds(&book->text, "  ");
        add_padded(&book->text, book->table.column[j], width[j], book->table.cell[j].number);
    }
    for (uint32_t i = 0; i < book->table.rows; i++) {
        text_adds(&book->text, "\n");
        for (uint32_t j = 0; j < columns; j++) {
            const struct book_cell *cell = &book->table.cell[i * columns + j];
            text_adds(&book->text, "  ");
            add_padded(&book->text, words + cell->shown, width[j], cell->number);
        }
    }
    text_adds(&book->text, "\n");
}

static void write_json_table(struct book *book, const char *words) {
    text_addf(&book->json, "%s\n \"%s\": [", book->tables > 0 ? "," : "", book->table.key);
    for (uint32_t i = 0; i < book->table.rows; i++) {
        text_adds(&book->json, i > 0 ? ",\n  {" : "\n  {");
        for (uint32_t j = 0; j < book->table.columns; j++) {
            text_adds(&book->json, j > 0 ? ", " : "");
            text_adds_json(&book->json, book->table.column[j]);
            text_addf(&book->json, ": %s", words + book->table.cell[i * book->table.columns + j].exact);
        }
        text_adds(&book->json, "}");
    }
    text_adds(&book->json, "\n ]");
}

static void write_markdown_table(struct book *book, const char *words) {
    text_adds(&book->markdown, "\n|");
    for (uint32_t j = 0; j < book->table.columns; j++) {
        text_addf(&book->markdown, " %s |", book->table.column[j]);
    }
    text_adds(&book->markdown, "\n|");
    for (uint32_t j = 0; j < book->table.columns; j++) {
        text_adds(&book->markdown, book->table.cell[j].number ? "---:|" : "---|");
    }
    for (uint32_t i = 0; i < book->table.rows; i++) {
        text_adds(&book->markdown, "\n|");
        for (uint32_t j = 0; j < book->table.columns; j++) {
            text_addf(&book->markdown, " %s |", words + book->table.cell[i * book->table.columns + j].shown);
        }
    }
    text_adds(&book->markdown, "\n");
}

static void write_html_table(struct book *book, const char *words) {
    text_adds(&book->html, "<div class=\"wide\"><table><tr>");
    for (uint32_t j = 0; j < book->table.columns; j++) {
        text_adds(&book->html, book->table.cell[j].number ? "<th class=\"n\">" : "<th>");
        add_html(&book->html, book->table.column[j]);
    }
    for (uint32_t i = 0; i < book->table.rows; i++) {
        text_adds(&book->html, "\n<tr>");
        for (uint32_t j = 0; j < book->table.columns; j++) {
            const struct book_cell *cell = &book->table.cell[i * book->table.columns + j];
            text_adds(&book->html, cell->number ? "<td class=\"n\">" : "<td>");
            add_html(&book->html, words + cell->shown);
        }
    }
    text_adds(&book->html, "\n</table></div>\n");
}

void book_end_table(struct book *book) {
    const char *words = text_string(&book->table.words);
    CHECK(book->table.key && book->table.cells == 0);
    if (words && !book->failed && book->table.rows > 0) {
        write_text_table(book, words);
        write_json_table(book, words);
        write_markdown_table(book, words);
        write_html_table(book, words);
        book->tables++;
    }
    book->failed = book->failed || !words;
    book->table.key = NULL;
}

/* ---- pictures, and the end ---- */

void book_chart(struct book *book, const char *title, const struct text *svg, const char *file) {
    book->failed = book->failed || svg->failed;
    text_adds(&book->html, "<figure>");
    text_add(&book->html, svg->data, svg->bytes);
    text_adds(&book->html, "</figure>\n");
    if (file) {
        text_addf(&book->markdown, "\n![%s](%s)\n", title, file);
    }
    book->charts++;
}

void book_close(struct book *book) {
    text_adds(&book->json, "\n}");
    text_adds(&book->html, "</body></html>");
}

struct status book_write(struct book *book, enum book_form form, const char *path) {
    const struct text *const forms[BOOK_FORMS] = {&book->text, &book->json, &book->markdown, &book->html};
    const struct text *out = forms[form];
    if (book->failed || out->failed) {
        return status_error(STATUS_NO_MEMORY, "no memory for the report");
    }
    bool standard = strcmp(path, "-") == 0;
    FILE *file = standard ? stdout : fopen(path, "w");
    if (!file) {
        return status_error(STATUS_IO, "%s: %s", path, strerror(errno));
    }
    size_t bytes = out->bytes;
    while (bytes > 0 && out->data[bytes - 1] == '\n') {
        bytes--;
    }
    bool written = fwrite(out->data, 1, bytes, file) == bytes && fputc('\n', file) != EOF;
    written = (standard ? fflush(file) : fclose(file)) == 0 && written;
    return written ? STATUS_SUCCESS : status_error(STATUS_IO, "%s: %s", path, strerror(errno));
}
