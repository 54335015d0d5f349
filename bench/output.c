#include "bench/output.h"

#include "server/command.h"

#include <string.h>

enum { JSON, HTML, MARKDOWN, HELP };

static struct status write_forms(struct book *book, const char *const *values) {
    static const enum book_form forms[] = {[JSON] = BOOK_JSON, [HTML] = BOOK_HTML, [MARKDOWN] = BOOK_MARKDOWN};
    bool silent = false;
    book_close(book);
    for (int i = JSON; i <= MARKDOWN; i++) {
        if (values[i]) {
            silent = silent || strcmp(values[i], "-") == 0;
            TRY(book_write(book, forms[i], values[i]));
        }
    }
    return silent ? STATUS_SUCCESS : book_write(book, BOOK_TEXT, "-");
}

int output_run(int argc, const char **argv, const struct flag *flags, size_t flag_count, int output,
               void (*show_help)(FILE *file), const char *title, output_writer *write) {
    struct arguments arguments;
    struct book book;
    struct status status = arguments_parse(argc, argv, flags, flag_count, NULL, &arguments);
    if (!status_failed(&status) && arguments.values[output + HELP]) {
        show_help(stdout);
        return EXIT_DONE;
    }
    if (!status_failed(&status) && arguments.positional_count > 0) {
        status =
            status_error(STATUS_INVALID, "\"%.80s\" is not asked for; --help shows what is", arguments.positional[0]);
    }
    if (status_failed(&status)) {
        return command_failed(&status);
    }
    book_open(&book, title);
    status = write(&arguments, &book);
    if (!status_failed(&status)) {
        status = write_forms(&book, &arguments.values[output]);
    }
    book_free(&book);
    return status_failed(&status) ? command_failed(&status) : EXIT_DONE;
}

void output_progress_begin(struct progress *bar, const char *label, uint64_t total) {
    progress_begin(bar, label, total);
    log_set_level(LOG_ERROR);
}

void output_progress_end(struct progress *bar) {
    log_set_level(LOG_INFO);
    progress_end(bar);
}
