/* Reading the configuration again while the server runs: on SIGHUP, and on POST /admin/reload.
 *
 * The command line is read again as at the start, with the file that it names; if anything is wrong nothing changes. Of
 * what differs, the options below change at once; the others are named, for they take a restart.
 * Threads: the event loop's only. */
#include "base/log.h"
#include "server/api_error.h"
#include "server/arguments.h"
#include "server/command.h"
#include "server/service.h"
#include "server/slo_config.h"

#include <stdlib.h>
#include <string.h>

static const char *const live[] = {"pace", "log_level", "drain_timeout_s", "max_response"};

static bool is_live(const struct option *option) {
    for (size_t i = 0; i < sizeof live / sizeof live[0]; i++) {
        if (strcmp(option->name, live[i]) == 0) {
            return true;
        }
    }
    return strncmp(option->name, "slo.", 4) == 0;
}

/* The configuration as a start would read it now. */
static struct status read_again(const struct service *service, struct config *fresh) {
    const struct reload_source *source = &service->reload;
    static const struct flag none[] = {{"help", NULL, "this"}};
    struct arguments arguments;
    const char **argv = calloc((size_t)source->argc + 1, sizeof *argv);
    if (!argv) {
        return status_error(STATUS_NO_MEMORY, "no memory for the configuration");
    }
    for (int i = 0; i < source->argc; i++) {
        argv[i] = source->argv[i];
    }
    struct status status = arguments_parse(source->argc, argv, none, 1, fresh, &arguments);
    free(argv);
    TRY(status);
    return config_check(fresh);
}

static struct status take_classes(struct service *service, const struct config *fresh) {
    struct slo_classes next, merged = service->classes;
    TRY(slo_config_read(fresh, &next));
    TRY(slo_classes_merge(&merged, &next));
    TRY(engine_set_classes(service->runtime.engine, &merged));
    service->classes = merged;
    return STATUS_SUCCESS;
}

static void add_name(struct text *names, const char *name) {
    if (names->bytes > 0) {
        text_adds(names, ",");
    }
    text_adds_json(names, name);
}

/* Takes what differs and may; names it in `changed`, and what may not in `restart`. */
static struct status apply(struct service *service, struct config *fresh, struct text *changed, struct text *restart) {
    TRY(take_classes(service, fresh)); /* the only step that may refuse */
    for (size_t i = 0; i < option_count(); i++) {
        const struct option *option = option_at(i);
        if (config_same(service->config, fresh, option)) {
            continue;
        }
        if (is_live(option)) {
            config_swap(service->config, fresh, option);
            add_name(changed, option->name);
        } else {
            log_warn("reload: %s: takes a restart", option->name);
            add_name(restart, option->name);
        }
    }
    command_set_log(service->config);
    return STATUS_SUCCESS;
}

struct status service_reload(struct service *service, struct text *report) {
    if (service->state == SERVICE_LOADING) {
        log_warn("reload: the model is still being loaded; nothing was changed");
        return status_error(STATUS_UNAVAILABLE, "the model is still being loaded");
    }
    struct config fresh;
    struct text changed = {0}, restart = {0};
    config_init(&fresh);
    struct status status = read_again(service, &fresh);
    if (status.code == STATUS_OK) {
        status = apply(service, &fresh, &changed, &restart);
    }
    config_free(&fresh);
    if (status.code == STATUS_OK) {
        text_addf(report, "{\"changed\":[%s],\"takes_a_restart\":[%s]}", changed.bytes ? text_string(&changed) : "",
                  restart.bytes ? text_string(&restart) : "");
        log_info("reload: %s", text_string(report) ? report->data : "done");
    } else {
        log_error("reload: nothing was changed: %s", status.message);
    }
    text_free(&changed);
    text_free(&restart);
    return status;
}

void api_reload(struct service *service, struct http_exchange *exchange) {
    struct text report = {0};
    struct status status = service_reload(service, &report);
    if (status_failed(&status)) {
        status = status_context(status, "nothing was changed");
        struct api_error error = api_error_from(&status, "");
        error.code = status.code == STATUS_UNAVAILABLE ? 503 : 400; /* whatever it is, it is the file's */
        api_respond_error(exchange, &error);
    } else {
        api_respond_json(exchange, &report);
    }
    text_free(&report);
}
