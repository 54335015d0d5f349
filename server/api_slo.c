/* Which class of promises a request belongs to, and what its client is told of that. Threads: the event loop's only. */
#include "server/api_error.h"
#include "server/openai.h"
#include "server/service.h"
#include "server/slo_config.h"

#include <math.h>
#include <stdio.h>
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
    out->asked = request->class_name || header || request->has_promise;
    const struct promise *usual = &classes->items[out->class_index].promise;
    out->has_promise = request->has_promise || request->has_ttft || request->has_tpot;
    out->promise.ttft_ns = request->has_promise || request->has_ttft ? request->promise.ttft_ns : usual->ttft_ns;
    out->promise.tpot_ns = request->has_promise || request->has_tpot ? request->promise.tpot_ns : usual->tpot_ns;
    struct status status = slo_check_range(service->config, &request->promise);
    return status_failed(&status) ? api_error_from(&status, "slo") : (struct api_error){0};
}

struct api_error api_slo_refusal(const struct service *service, const struct request *request,
                                 const struct status *status) {
    const struct admission *admission = &request->admission;
    struct api_error error = api_error_from(status, "slo");
    bool tpot = admission->shortage == SHORT_OF_TPOT;
    uint64_t predicted_ns = tpot ? admission->predicted_tpot_ns : admission->predicted_ttft_ns;
    uint64_t promised_ns = tpot ? admission->promised.tpot_ns : admission->promised.ttft_ns;
    error.slug = "slo_refused";
    error.retry_after_s = (int)ceil((double)admission->retry_after_ns / 1e9);
    snprintf(error.detail, sizeof error.detail,
             ",\"slo\":{\"class\":\"%s\",\"short\":\"%s\",\"of\":\"%s\",\"predicted_ms\":%.3f,\"promised_ms\":%.3f}",
             service->classes.items[request->class_index].name, shortage_name(admission->shortage),
             tpot ? "tpot" : "ttft", (double)predicted_ns / 1e6, (double)promised_ns / 1e6);
    return error;
}

void api_slo_write(const struct service *service, const struct request *request, struct text *out) {
    static const char *const outcomes[] = {[ADMITTED_WITHOUT] = "without",
                                           [ADMITTED] = "promised",
                                           [ADMITTED_LESSER] = "downgraded",
                                           [ADMITTED_BEST_EFFORT] = "best_effort",
                                           [ADMISSION_REFUSED] = "refused"};
    const struct admission *admission = &request->admission;
    const struct slo_class *items = service->classes.items;
    text_addf(out, "class=%s, outcome=%s", items[request->class_index].name, outcomes[admission->outcome]);
    if (admission->asked_class != request->class_index) {
        text_addf(out, ", asked=%s", items[admission->asked_class].name);
    }
    if (request->promise.ttft_ns > 0) {
        text_addf(out, ", ttft_ms=%.3f", (double)request->promise.ttft_ns / 1e6);
    }
    if (request->promise.tpot_ns > 0) {
        text_addf(out, ", tpot_ms=%.3f", (double)request->promise.tpot_ns / 1e6);
    }
    if (admission->predicted_ttft_ns > 0) {
        text_addf(out, ", predicted_ttft_ms=%.3f", (double)admission->predicted_ttft_ns / 1e6);
    }
}
