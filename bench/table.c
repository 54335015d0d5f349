#include "bench/table.h"

#include "base/check.h"

#include <errno.h>
#include <math.h>
#include <string.h>

struct status table_open(const char *path, struct table *table) {
    *table = (struct table){0};
    if (path) {
        table->json = fopen(path, "w");
        if (!table->json) {
            return status_error(STATUS_IO, "%s: %s", path, strerror(errno));
        }
        fprintf(table->json, "{");
    }
    return STATUS_SUCCESS;
}

static void end_section(struct table *table) {
    if (table->json && table->sections > 0) {
        fprintf(table->json, "\n ]");
    }
}

struct status table_close(struct table *table) {
    end_section(table);
    if (!table->json) {
        return STATUS_SUCCESS;
    }
    bool whole = fprintf(table->json, "\n}\n") > 0 && !ferror(table->json);
    whole = fclose(table->json) == 0 && whole;
    return whole ? STATUS_SUCCESS : status_error(STATUS_IO, "the JSON could not be written: %s", strerror(errno));
}

void table_section(struct table *table, const char *name, const char *title) {
    end_section(table);
    printf("\n%s\n", title);
    if (table->json) {
        fprintf(table->json, "%s\n \"%s\": [", table->sections > 0 ? "," : "", name);
    }
    table->sections++;
    table->rows = 0;
}

static void add(struct table *table, const char *name) {
    CHECK(table->cells < TABLE_MOST_CELLS);
    table->cell[table->cells++].name = name;
}

void table_text(struct table *table, const char *name, const char *value) {
    CHECK(strpbrk(value, "\"\\") == NULL);
    snprintf(table->cell[table->cells].shown, TABLE_CELL_BYTES, "%s", value);
    snprintf(table->cell[table->cells].exact, TABLE_CELL_BYTES, "\"%.40s\"", value);
    add(table, name);
}

void table_number(struct table *table, const char *name, int decimals, double value) {
    CHECK(isfinite(value));
    snprintf(table->cell[table->cells].shown, TABLE_CELL_BYTES, "%.*f", decimals, value);
    snprintf(table->cell[table->cells].exact, TABLE_CELL_BYTES, "%.9g", value);
    add(table, name);
}

static int width_of(const struct table *table, uint32_t cell) {
    int least = cell == 0 ? 15 : 6, name = (int)strlen(table->cell[cell].name);
    return name > least ? name : least;
}

void table_end_row(struct table *table) {
    for (uint32_t i = 0; table->rows == 0 && i < table->cells; i++) {
        printf("  %*s", i == 0 ? -width_of(table, i) : width_of(table, i), table->cell[i].name);
    }
    printf("%s", table->rows == 0 ? "\n" : "");
    for (uint32_t i = 0; i < table->cells; i++) {
        printf("  %*s", i == 0 ? -width_of(table, i) : width_of(table, i), table->cell[i].shown);
        if (table->json) {
            fprintf(table->json, "%s\"%s\": %s",
                    i > 0             ? ", "
                    : table->rows > 0 ? ",\n  {"
                                      : "\n  {",
                    table->cell[i].name, table->cell[i].exact);
        }
    }
    printf("\n");
    fflush(stdout);
    if (table->json) {
        fprintf(table->json, "}");
    }
    table->rows++;
    table->cells = 0;
}
