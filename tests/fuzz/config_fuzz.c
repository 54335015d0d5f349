/* Fuzz target: any bytes as a configuration file. What is accepted shows, and sets back to what it shows. */
#include "server/options.h"
#include "server/slo_config.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* Shows an option, sets it to what is shown, and shows it again. */
static void check_option(struct config *config, const struct option *option) {
    struct text first = {0}, second = {0};
    config_show(config, option, &first);
    const char *shown = text_string(&first);
    if (!shown) {
        return;
    }
    bool exact = option->type != OPTION_BYTES && option->type != OPTION_FLOAT; /* those show rounded */
    struct status status = config_set(config, option->name, shown, SOURCE_COMMAND_LINE);
    bool embedded = strlen(shown) != first.bytes;
    if (exact && (status_failed(&status) || embedded)) {
        abort();
    }
    config_show(config, option, &second);
    if (exact && strcmp(shown, text_string(&second)) != 0) {
        abort();
    }
    text_free(&first);
    text_free(&second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    struct config config;
    config_init(&config);
    struct status status = config_read_json(&config, (const char *)data, bytes);
    if (status_failed(&status)) {
        if (status.message[0] == 0) {
            abort(); /* a refusal says why */
        }
        config_free(&config);
        return 0;
    }
    struct slo_classes classes;
    status = config_check(&config);
    if (!status_failed(&status) && status_failed(&(struct status[]){slo_config_read(&config, &classes)}[0])) {
        abort(); /* what was checked can be used */
    }
    for (size_t i = 0; i < option_count(); i++) {
        check_option(&config, option_at(i));
    }
    config_free(&config);
    return 0;
}
