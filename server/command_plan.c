/* `metronome plan`: what would live in host memory and how long an iteration would take, for hardware and a model that
 * need not be here. Threads: main's. */
#include "base/clock.h"
#include "server/command.h"
#include "server/described.h"
#include "server/plan_report.h"

#include <stdio.h>
#include <string.h>

static const struct flag flags[] = {
    {"phase", "PHASE", "prefill or decode; decode if not given"},
    {"batch", "N", "sequences in the iteration; 1 if not given"},
    {"context", "N", "tokens of each prompt, or positions that each decoded token attends to; 512 if not given"},
    {"temperature", "T", "each token is drawn at this temperature; 0, the likeliest one, if not given"},
    {"top-k", "K", "and of so many tokens; 0, all of them, if not given"},
    {"top-p", "P", "and of those that have this share of the probability; 1, all of them, if not given"},
    {"slo-slack", "S", "the deadline: 1 + S times what the iteration takes with every layer on the device"},
    {"policy", "POLICY", "none, zero-inference, flexgen, prefetch-group, select-n, or metronome if not given"},
    {"interval", "I", "one layer in so many is streamed, come what may (metronome, select-n)"},
    {"slabs", "N", "pieces of a layer that may be streamed one by one; chosen if not given"},
    {"svg", "FILE", "draws the copies and the compute of one iteration; - is standard output"},
    {"json", "FILE", "writes the plan as JSON; - is standard output, instead of the text"},
    {"help", NULL, "this"},
};
enum { PHASE, BATCH, CONTEXT, TEMPERATURE, TOP_K, TOP_P, SLACK, POLICY, INTERVAL, SLABS, SVG, JSON, HELP };

static void show_help(FILE *file) {
    fprintf(file, "usage: metronome plan --hardware NAME --model NAME (--slo-slack S | --slo.tpot_ms MS)\n"
                  "                      [--phase prefill|decode] [--batch N] [--context N]\n\n"
                  "Plans one iteration of a described model on described hardware: how much of the model may live in "
                  "host\nmemory, and what that takes and frees. Names are files, or those under configs/hardware and "
                  "configs/models.\nThe options device_memory, host_memory, link_gbps, kv_type and those of slo and "
                  "offload count.\nExits with 1 if the plan is late or does not fit.\n\n");
    arguments_help(file, flags, sizeof flags / sizeof flags[0], true);
}

static struct status read_count(const struct arguments *arguments, int flag, uint32_t most, uint32_t *out) {
    double number = *out;
    if (arguments->values[flag]) {
        TRY(arguments_number(flags[flag].name, arguments->values[flag], 1, most, &number));
    }
    *out = (uint32_t)number;
    if (number != *out) {
        return status_error(STATUS_INVALID, "--%s: %s is not a whole number", flags[flag].name,
                            arguments->values[flag]);
    }
    return STATUS_SUCCESS;
}

static struct status read_phase(const struct arguments *arguments, enum plan_phase *out) {
    const char *phase = arguments->values[PHASE] ? arguments->values[PHASE] : "decode";
    if (strcmp(phase, "prefill") != 0 && strcmp(phase, "decode") != 0) {
        return status_error(STATUS_INVALID, "--phase: \"%.40s\" is neither prefill nor decode", phase);
    }
    *out = strcmp(phase, "prefill") == 0 ? PLAN_PREFILL : PLAN_DECODE;
    return STATUS_SUCCESS;
}

static struct status read_number(const struct arguments *arguments, int flag, double most, double *out) {
    return arguments->values[flag] ? arguments_number(flags[flag].name, arguments->values[flag], 0, most, out)
                                   : STATUS_SUCCESS;
}

static struct status read_sampling(const struct arguments *arguments, struct sampling *out) {
    double temperature = 0, top_k = 0, top_p = 1;
    TRY(read_number(arguments, TEMPERATURE, 100, &temperature));
    TRY(read_number(arguments, TOP_K, UINT32_MAX, &top_k));
    TRY(read_number(arguments, TOP_P, 1, &top_p));
    if (temperature == 0 && (top_k > 0 || top_p < 1)) {
        return status_error(STATUS_INVALID, "--%s: nothing is drawn without --temperature",
                            top_k > 0 ? "top-k" : "top-p");
    }
    *out = (struct sampling){
        .temperature = (float)temperature, .top_k = (uint32_t)top_k, .top_p = (float)top_p, .repetition_penalty = 1};
    return STATUS_SUCCESS;
}

/* The deadline, once it is known what the iteration takes. A prefill is due by the time to first token if one is
 * promised, else by that of the tokens decoded beside it. */
static struct status read_deadline(const struct config *config, const struct arguments *arguments,
                                   struct plan_case *plan_case) {
    bool prefill = plan_case->phase == PLAN_PREFILL;
    double promised_ms = prefill && config->slo_ttft_ms > 0 ? config->slo_ttft_ms : config->slo_tpot_ms;
    double slack;
    if (arguments->values[SLACK] && promised_ms > 0) {
        return status_error(STATUS_INVALID, "--slo-slack and --slo.%s: name the deadline by one of them, not both",
                            promised_ms == config->slo_tpot_ms ? "tpot_ms" : "ttft_ms");
    }
    if (arguments->values[SLACK]) {
        TRY(arguments_number("slo-slack", arguments->values[SLACK], 0, 1000, &slack));
        plan_case->deadline_ns = (uint64_t)((1 + slack) * (double)plan_case_resident_ns(plan_case) + 0.5);
        return STATUS_SUCCESS;
    }
    plan_case->deadline_ns = (uint64_t)(promised_ms * NS_PER_MS + 0.5);
    if (plan_case->deadline_ns == 0) {
        return status_error(STATUS_INVALID,
                            "there is no deadline: name one with --slo.%s MS, or with --slo-slack 0.5 "
                            "for half as long again as with every layer on the device",
                            prefill ? "ttft_ms" : "tpot_ms");
    }
    return STATUS_SUCCESS;
}

static struct status read_case(const struct config *config, const struct arguments *arguments, struct plan_case *out) {
    *out = (struct plan_case){.batch = 1,
                              .context = 512,
                              .compute = strcmp(config->compute, "f32") == 0 ? COMPUTE_F32 : COMPUTE_INT8,
                              .kv_type = strcmp(config->kv_type, "bf16") == 0 ? KV_BF16 : KV_F16,
                              .host_memory = config->host_memory};
    if (!*config->hardware || !*config->model) {
        return status_error(STATUS_INVALID, "plan takes --hardware NAME and --model NAME, such as --hardware a10 "
                                            "--model opt-6.7b");
    }
    if (config->tensor_parallel_size > 1) {
        return status_error(STATUS_INVALID, "tensor_parallel_size %llu: plan is for one device; simulate takes several",
                            (unsigned long long)config->tensor_parallel_size);
    }
    TRY(read_phase(arguments, &out->phase));
    TRY(read_count(arguments, BATCH, 65536, &out->batch));
    TRY(read_count(arguments, CONTEXT, 1 << 24, &out->context));
    TRY(read_sampling(arguments, &out->sampling));
    TRY(described_hardware(config->hardware, &out->hardware));
    TRY(described_model(config->model, &out->model));
    if (config->device_memory > 0) {
        out->hardware.device_memory_bytes = config->device_memory;
    }
    if (config->link_gbps > 0) {
        out->hardware.link_bytes_per_s = config->link_gbps * 1e9;
    }
    TRY(plan_case_measure(out));
    return read_deadline(config, arguments, out);
}

static struct policy_options read_policy_options(const struct config *config, const struct plan_case *plan_case) {
    return (struct policy_options){.interval = config->offload_interval,
                                   .percent = config_is_set(config, "offload.percent") ? config->offload_percent : -1,
                                   .layer_flops = plan_case_layer_flops(plan_case),
                                   .peak_flops_per_s = plan_case->hardware.f16_flops_per_s,
                                   .peak_link_bytes_per_s = plan_case->hardware.link_nominal_bytes_per_s,
                                   .group = (uint32_t)config->offload_group,
                                   .group_streamed = (uint32_t)config->offload_group_streamed,
                                   .prefetch_step = (uint32_t)config->offload_prefetch};
}

/* How finely to cut layers: as asked; else as pays, for the policies that move less than a layer. */
static struct status choose_slabs(const struct arguments *arguments, const struct config *config,
                                  const struct plan_case *plan_case, const struct policy *policy, uint32_t *slabs) {
    const uint32_t most = MATMUL_MAX_PARTS / 3;
    *slabs = (uint32_t)config->offload_slabs;
    TRY(read_count(arguments, SLABS, most, slabs));
    if (*slabs > 0) {
        return STATUS_SUCCESS;
    }
    *slabs = 1;
    if (policy->moves_parts) {
        struct plan_load whole;
        struct plan_limits limits;
        TRY(plan_case_load(plan_case, 1, &whole, &limits));
        *slabs = plan_slabs(&whole, plan_case->deadline_ns, most);
    }
    return STATUS_SUCCESS;
}

static struct status place(const struct plan_case *plan_case, const struct policy *policy, uint32_t slabs,
                           const struct policy_options *options, struct planned *out, struct policy_range *range) {
    out->policy = policy;
    TRY(plan_case_load(plan_case, slabs, &out->load, &out->limits));
    struct policy_request request = {
        .load = &out->load, .deadline_ns = plan_case->deadline_ns, .limits = out->limits, .options = *options};
    if (range) {
        *range = policy_interval_range(&request);
    }
    return policy->place(&request, &out->choice);
}

/* Makes both plans; the one to compare with is select-n's own choice among whole-layer intervals. */
static struct status make_plans(const struct config *config, const struct arguments *arguments,
                                const struct plan_case *plan_case, struct planned planned[2],
                                struct plan_report *report) {
    const char *name = arguments->values[POLICY]                 ? arguments->values[POLICY]
                       : config_is_set(config, "offload.policy") ? config->offload_policy
                                                                 : "metronome";
    const struct policy *policy, *other;
    struct policy_options options = read_policy_options(config, plan_case), none = {0};
    uint32_t slabs;
    TRY(policy_find(name, &policy));
    TRY(policy_find("select-n", &other));
    if (arguments->values[INTERVAL]) {
        TRY(arguments_number("interval", arguments->values[INTERVAL], 1, PLAN_MAX_LAYERS * PLAN_MAX_SLABS,
                             &options.interval));
    }
    TRY(choose_slabs(arguments, config, plan_case, policy, &slabs));
    *report = (struct plan_report){.plan_case = plan_case, .planned = planned, .planned_count = 2};
    TRY(place(plan_case, other, 1, &none, &planned[1], &report->range));
    TRY(place(plan_case, policy, slabs, &options, &planned[0], NULL));
    report->planned_count = policy == other && options.interval == 0 && slabs == 1 ? 1 : 2;
    return STATUS_SUCCESS;
}

static void write_form(const void *report, enum report_form form, struct text *out) {
    static void (*const writers[])(const struct plan_report *, struct text *) = {
        [REPORT_TEXT] = plan_report_text, [REPORT_JSON] = plan_report_json, [REPORT_SVG] = plan_picture_svg};
    writers[form](report, out);
}

/* *feasible says whether the plan asked for can be kept; if not, it is said why. */
static struct status plan(const struct config *config, const struct arguments *arguments, bool *feasible) {
    struct plan_case plan_case;
    struct planned planned[2];
    struct plan_report report;
    TRY(read_case(config, arguments, &plan_case));
    TRY(make_plans(config, arguments, &plan_case, planned, &report));
    TRY(command_write_forms(arguments->values[JSON], arguments->values[SVG], write_form, &report));
    *feasible = planned[0].choice.feasible;
    if (!*feasible) {
        struct status refusal =
            plan_refusal(&planned[0].load, plan_case.deadline_ns, &planned[0].limits, &planned[0].choice);
        fprintf(stderr, "metronome: %s\n", refusal.message);
    }
    return STATUS_SUCCESS;
}

int command_plan(int argc, const char **argv) {
    struct config config;
    struct arguments arguments;
    config_init(&config);
    struct status status = arguments_parse(argc, argv, flags, sizeof flags / sizeof flags[0], &config, &arguments);
    if (status.code == STATUS_OK && arguments.values[HELP]) {
        show_help(stdout);
        config_free(&config);
        return EXIT_DONE;
    }
    if (status.code == STATUS_OK && arguments.positional_count > 0) {
        status = status_error(STATUS_INVALID,
                              "plan takes no \"%.80s\"; hardware and model are named with --hardware "
                              "and --model",
                              arguments.positional[0]);
    }
    if (status.code == STATUS_OK) {
        status = config_check(&config);
    }
    bool feasible = false;
    if (status.code == STATUS_OK) {
        status = plan(&config, &arguments, &feasible);
    }
    config_free(&config);
    if (status.code != STATUS_OK) {
        return command_failed(&status);
    }
    return feasible ? EXIT_DONE : EXIT_FAILED;
}
