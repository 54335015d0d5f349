#include "base/check.h"

#include <stdio.h>
#include <stdlib.h>

_Noreturn void check_failed(const char *file, int line, const char *condition) {
    fprintf(stderr, "metronome: %s:%d: this must hold and does not: %s\n", file, line, condition);
    fflush(stderr);
    abort();
}
