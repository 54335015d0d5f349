/* Assertions that stay on in release: for bugs only, never for what a user, a file or a peer sent.
 * Threads: any. */
#ifndef METRONOME_BASE_CHECK_H
#define METRONOME_BASE_CHECK_H

/* Prints the place and the condition to stderr and aborts. */
#ifdef __cplusplus
[[noreturn]]
#else
_Noreturn
#endif
void check_failed(const char *file, int line, const char *condition);

#define CHECK(condition)                                  \
    do {                                                  \
        if (__builtin_expect(!(condition), 0)) {          \
            check_failed(__FILE__, __LINE__, #condition); \
        }                                                 \
    } while (0)

#endif
