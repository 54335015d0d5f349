#include "bench/load/lengths.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static bool read_number(const char **at, char end, double *out) {
    char *stop;
    if (**at < '0' || **at > '9') { /* strtod() takes signs, spaces and names, too */
        return false;
    }
    *out = strtod(*at, &stop);
    if (!isfinite(*out) || *stop != end) {
        return false;
    }
    *at = stop + (end != 0);
    return true;
}

/* "A:B" or, with '-', "A-B". */
static bool read_pair(const char *at, char between, struct lengths *out) {
    return read_number(&at, between, &out->a) && read_number(&at, 0, &out->b);
}

static bool in_range(double value) {
    return value >= 1 && value <= LENGTHS_MOST;
}

static bool parse(const char *text, struct lengths *out) {
    static const char normal[] = "normal:", lognormal[] = "lognormal:";
    if (strncmp(text, normal, sizeof normal - 1) == 0) {
        out->kind = LENGTHS_NORMAL;
        return read_pair(text + sizeof normal - 1, ':', out) && in_range(out->a) && out->b <= LENGTHS_MOST;
    }
    if (strncmp(text, lognormal, sizeof lognormal - 1) == 0) {
        out->kind = LENGTHS_LOGNORMAL;
        return read_pair(text + sizeof lognormal - 1, ':', out) && in_range(out->a) && out->b <= 10;
    }
    out->kind = LENGTHS_UNIFORM;
    const char *at = text;
    if (read_number(&at, 0, &out->a)) {
        out->b = out->a;
    } else if (!read_pair(text, '-', out)) {
        return false;
    }
    return in_range(out->a) && in_range(out->b) && out->a <= out->b && out->a == floor(out->a) &&
           out->b == floor(out->b);
}

struct status lengths_parse(const char *name, const char *text, struct lengths *out) {
    if (parse(text, out)) {
        return STATUS_SUCCESS;
    }
    return status_error(STATUS_INVALID,
                        "--%s: \"%.60s\" is not a number of tokens from 1 to %u, nor like 64-256, normal:128:32 or "
                        "lognormal:128:1",
                        name, text, LENGTHS_MOST);
}

/* A standard normal number, by Box and Muller. */
static double draw_normal(struct random_state *random) {
    double radius = sqrt(-2 * log(1 - random_unit(random)));
    return radius * cos(2 * M_PI * random_unit(random));
}

uint32_t lengths_draw(const struct lengths *lengths, struct random_state *random) {
    double drawn = lengths->a;
    if (lengths->kind == LENGTHS_UNIFORM) {
        drawn += (double)random_below(random, (uint64_t)(lengths->b - lengths->a) + 1);
    } else if (lengths->kind == LENGTHS_NORMAL) {
        drawn += lengths->b * draw_normal(random);
    } else {
        drawn *= exp(lengths->b * draw_normal(random));
    }
    return (uint32_t)fmin(fmax(round(drawn), 1), LENGTHS_MOST);
}
