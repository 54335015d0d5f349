#include "server/simulate_compare.h"

#include "scheduler/clairvoyant.h"
#include "server/simulate_run.h"

#include <stdlib.h>

/* ---- the runs ---- */

struct guessing {
    struct config *config;
    const struct trace *trace;
    struct replay_outcome *outcomes; /* (trace->count) of the latest run */
    const struct simulated_run *like;
    struct comparison *comparison;
    uint32_t best; /* requests kept in the run that stands for the clairvoyant */
};

static void note_kept(const struct guessing *guessing, bool *kept) {
    for (uint32_t i = 0; i < guessing->trace->count; i++) {
        kept[i] = replay_kept(&guessing->outcomes[i]);
    }
}

static struct status guess(void *context, const bool *dropped, bool *kept) {
    struct guessing *guessing = context;
    struct simulated_run run = *guessing->like;
    TRY(simulate_run(guessing->config, guessing->trace, dropped, guessing->outcomes, &run));
    note_kept(guessing, kept);
    if (run.report.kept > guessing->best) {
        guessing->best = run.report.kept;
        guessing->comparison->runs[COMPARED_CLAIRVOYANT] = run;
    }
    return STATUS_SUCCESS;
}

/* What a request takes of what is scarce: the room of its KV for as long as it is there, and its prompt's rows. */
static void note_costs(const struct trace *trace, double *cost) {
    for (uint32_t i = 0; i < trace->count; i++) {
        double prompt = trace->requests[i].prompt_tokens, output = trace->requests[i].output_tokens;
        cost[i] = (output + prompt / 64) * (prompt + output / 2);
    }
}

static struct status search(struct guessing *guessing, uint32_t searches, bool *kept, bool *dropped, double *cost) {
    struct simulated_run *runs = guessing->comparison->runs;
    note_costs(guessing->trace, cost);
    runs[COMPARED_CLAIRVOYANT] = runs[COMPARED_DEADLINES]; /* whoever knows more does no worse */
    guessing->best = runs[COMPARED_DEADLINES].report.kept;
    const struct clairvoyant_config config = {.count = guessing->trace->count,
                                              .cost = cost,
                                              .runs = searches,
                                              .seed = guessing->config->seed,
                                              .run = guess,
                                              .context = guessing};
    return clairvoyant_search(&config, kept, dropped, &guessing->comparison->searched);
}

static struct status run_all(struct guessing *guessing, uint32_t searches, bool *kept, bool *dropped, double *cost) {
    struct simulated_run *runs = guessing->comparison->runs;
    TRY(config_set(guessing->config, "scheduler.order", "fcfs", SOURCE_COMMAND_LINE));
    runs[COMPARED_FCFS].status =
        simulate_run(guessing->config, guessing->trace, NULL, guessing->outcomes, &runs[COMPARED_FCFS]);
    TRY(config_set(guessing->config, "scheduler.order", "deadlines", SOURCE_COMMAND_LINE));
    struct simulated_run *own = &runs[COMPARED_DEADLINES];
    own->status = simulate_run(guessing->config, guessing->trace, NULL, guessing->outcomes, own);
    if (own->status.code != STATUS_OK) {
        runs[COMPARED_CLAIRVOYANT].status = own->status;
        return STATUS_SUCCESS;
    }
    note_kept(guessing, kept);
    struct status status = search(guessing, searches, kept, dropped, cost);
    if (status.code != STATUS_OK) {
        runs[COMPARED_CLAIRVOYANT].status = status;
    }
    return STATUS_SUCCESS;
}

struct status compare_at(struct config *config, const struct trace *trace, const char *policy, double rate,
                         uint64_t device_memory, uint32_t searches, struct comparison *out) {
    const uint32_t count = trace->count;
    const uint64_t span_ns = trace->requests[count - 1].arrival_ns;
    const double own = trace_rate(trace);
    *out = (struct comparison){.rate = rate, .seconds = (double)span_ns / 1e9 * (own > 0 ? own / rate : 1)};
    for (int i = 0; i < COMPARED_SCHEDULERS; i++) {
        out->runs[i] = (struct simulated_run){.policy = policy, .rate = rate, .device_memory = device_memory};
    }
    struct guessing guessing = {
        .config = config,
        .trace = trace,
        .outcomes = calloc(count, sizeof(struct replay_outcome)),
        .like = &(struct simulated_run){.policy = policy, .rate = rate, .device_memory = device_memory},
        .comparison = out};
    bool *kept = calloc(count, sizeof *kept), *dropped = calloc(count, sizeof *dropped);
    double *cost = calloc(count, sizeof *cost);
    struct status status = status_error(STATUS_NO_MEMORY, "no memory to compare %u requests", count);
    if (guessing.outcomes && kept && dropped && cost) {
        status = run_all(&guessing, searches, kept, dropped, cost);
    }
    free(cost);
    free(dropped);
    free(kept);
    free(guessing.outcomes);
    return status;
}

/* ---- the report ---- */

double compared_goodput(const struct comparison *comparison, enum compared_scheduler scheduler) {
    return comparison->seconds > 0 ? comparison->runs[scheduler].report.kept / comparison->seconds : 0;
}

static double share(uint32_t part, uint32_t whole) {
    return whole > 0 ? (double)part / whole : 0;
}

static void add_load(const struct comparison *load, uint32_t requests, struct text *out) {
    text_addf(out, "%8.3f", load->rate);
    for (int i = 0; i < COMPARED_SCHEDULERS; i++) {
        if (load->runs[i].status.code != STATUS_OK) {
            text_addf(out, "  %s\n", load->runs[i].status.message);
            return;
        }
    }
    uint32_t kept[COMPARED_SCHEDULERS];
    for (int i = 0; i < COMPARED_SCHEDULERS; i++) {
        kept[i] = load->runs[i].report.kept;
        text_addf(out, "   %9.4f %7.2f", compared_goodput(load, (enum compared_scheduler)i),
                  100 * share(kept[i], requests));
    }
    text_addf(out, "   %7.1f %%", 100 * share(kept[COMPARED_DEADLINES], kept[COMPARED_CLAIRVOYANT]));
    if (kept[COMPARED_FCFS] > 0) {
        text_addf(out, " %7.2f x", share(kept[COMPARED_DEADLINES], kept[COMPARED_FCFS]));
    } else {
        text_adds(out, "         -");
    }
    text_addf(out, " %5u\n", load->searched);
}

void compare_report_text(const struct compared *compared, struct text *out) {
    text_addf(out, "%s on %s, trace %s, %u requests, offloading %s; promised: TTFT %g ms, TPOT %g ms (0: nothing)\n\n",
              compared->model, compared->hardware, compared->trace, compared->requests, compared->policy,
              compared->ttft_ms, compared->tpot_ms);
    text_adds(out, "requests           metronome                fcfs         clairvoyant   metronome of\n"
                   "a second     goodput  % kept     goodput  % kept     goodput  % kept   clairvoy.   fcfs  runs\n");
    for (uint32_t i = 0; i < compared->load_count; i++) {
        add_load(&compared->loads[i], compared->requests, out);
    }
    text_adds(out, "goodput is requests that kept all of their promises, a second of the trace; the clairvoyant is the "
                   "best set of requests\nthat a search among so many runs found for one who knows all arrivals and "
                   "lengths\n");
}

static void add_number(const char *name, double value, struct text *out) {
    text_addf(out, ", \"%s\": ", name);
    text_add_number(out, value);
}

static void add_run_json(const struct comparison *load, enum compared_scheduler scheduler, struct text *out) {
    static const char *const names[] = {"metronome", "fcfs", "clairvoyant"};
    const struct simulated_run *run = &load->runs[scheduler];
    text_addf(out, ", \"%s\": ", names[scheduler]);
    if (run->status.code != STATUS_OK) {
        text_adds(out, "{\"error\": ");
        text_adds_json(out, run->status.message);
        text_adds(out, "}");
        return;
    }
    text_addf(out, "{\"kept\": %u", run->report.kept);
    add_number("goodput_per_s", compared_goodput(load, scheduler), out);
    add_number("attainment", replay_attainment(&run->report), out);
    add_number("dropped", run->report.dropped, out);
    add_number("kept_ttft", run->report.kept_ttft, out);
    add_number("kept_tpot", run->report.kept_tpot, out);
    add_number("refused", run->report.refused, out);
    text_adds(out, "}");
}

void compare_report_json(const struct compared *compared, struct text *out) {
    text_adds(out, "{\"model\": ");
    text_adds_json(out, compared->model);
    text_adds(out, ", \"hardware\": ");
    text_adds_json(out, compared->hardware);
    text_adds(out, ", \"trace\": ");
    text_adds_json(out, compared->trace);
    text_adds(out, ", \"policy\": ");
    text_adds_json(out, compared->policy);
    add_number("requests", compared->requests, out);
    text_adds(out, ", \"slo\": {\"ttft_ms\": ");
    text_add_number(out, compared->ttft_ms);
    add_number("tpot_ms", compared->tpot_ms, out);
    text_adds(out, "}, \"loads\": [");
    for (uint32_t i = 0; i < compared->load_count; i++) {
        const struct comparison *load = &compared->loads[i];
        text_adds(out, i > 0 ? ",\n {\"rate_per_s\": " : "\n {\"rate_per_s\": ");
        text_add_number(out, load->rate);
        add_number("seconds", load->seconds, out);
        add_number("searched", load->searched, out);
        for (int j = 0; j < COMPARED_SCHEDULERS; j++) {
            add_run_json(load, (enum compared_scheduler)j, out);
        }
        text_adds(out, "}");
    }
    text_adds(out, "]}");
}
