/* Which class of promises a request belongs to. Threads: the event loop's only. */
#include "server/api_error.h"
#include "server/openai.h"
#include "server/service.h"
#include "server/slo_config.h"

#include <string.h>

static struct api_error unknown_class(const struct service *service, const char *name, size_t bytes,
                                      const char *param) {
    struct text names = {0};
    slo_names(&service->classes, &names);
    struct api_error error =
        api_invalid(param, "there is no class \"%.*s\"; there are %s", (int)(bytes < 40 ? bytes : 40), name,
                    text_string(&names) ? names.data : "others");
    text_free(&names);
    return error;
}

struct api_error api_choose_slo(const struct service *service, const struct http_head *head,
                                const struct completion_request *request, struct slo_choice *out) {
    const struct slo_classes *classes = &service->classes;
    const struct http_slice *header = http_find_header(head, "x-metronome-slo");
    *out = (struct slo_choice){.class_index = classes->fallback};
    if (request->class_name) {
        size_t bytes = strlen(request->class_name);
        out->class_index = slo_classes_find(classes, request->class_name, bytes);
        if (out->class_index == SLO_MAX_CLASSES) {
            return unknown_class(service, request->class_name, bytes, "slo");
        }
    } else if (header) {
        out->class_index = slo_classes_find(classes, header->data, header->bytes);
        if (out->class_index == SLO_MAX_CLASSES) {
            return unknown_class(service, header->data, header->bytes, SLO_HEADER);
        }
    }
    const struct promise *usual = &classes->items[out->class_index].promise;
    out->has_promise = request->has_promise || request->has_ttft || request->has_tpot;
    out->promise.ttft_ns = request->has_promise || request->has_ttft ? request->promise.ttft_ns : usual->ttft_ns;
    out->promise.tpot_ns = request->has_promise || request->has_tpot ? request->promise.tpot_ns : usual->tpot_ns;
    struct status status = slo_check_range(service->config, &request->promise);
    return status_failed(&status) ? api_error_from(&status, "slo") : (struct api_error){0};
}
