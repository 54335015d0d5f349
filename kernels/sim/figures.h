/* Descriptions: small JSON files of named figures, each with where it comes from.
 *
 * A description is one flat object. Every figure of the caller's table must be there once, of its type and inside its
 * bounds, and nothing else but "sources": an object that names, for each number, the document that it was taken from;
 * "all" names the one of every number that has none of its own. A number without a source is refused: a figure that
 * nobody can check is a guess.
 * Threads: any; pure, but that figures_load() reads a file. */
#ifndef METRONOME_KERNELS_SIM_FIGURES_H
#define METRONOME_KERNELS_SIM_FIGURES_H

#include "base/status.h"

#include <stddef.h>

enum figure_type {
    FIGURE_TEXT, /* char[most + 1]: printable ASCII of least to most characters */
    FIGURE_U32,
    FIGURE_U64,
    FIGURE_F64,
    FIGURE_BOOL,
};

/* A row of the table: what it is called, and where in the caller's struct it goes. */
struct figure {
    const char *name;
    enum figure_type type;
    size_t offset;
    double least, most; /* inclusive; of a bool unused */
};

#define FIGURES_MAX 32
#define FIGURES_MAX_BYTES 65536 /* of a file */

/* Fills `out` from `text`. STATUS_INVALID names the figure, what it is and what it must be. */
struct status figures_parse(const char *text, size_t bytes, const struct figure *figures, size_t count, void *out);

/* The same from a file. STATUS_NOT_FOUND or STATUS_IO if it cannot be read. */
struct status figures_load(const char *path, const struct figure *figures, size_t count, void *out);

#endif
