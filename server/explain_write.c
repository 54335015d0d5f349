/* An explanation as JSON, for /debug/slo, and in words, for people. */
#include "server/explain.h"

static double ms(uint64_t ns) {
    return (double)ns / 1e6;
}

static uint64_t lost_in_all(const struct explanation *explanation) {
    uint64_t lost_ns = 0;
    for (uint32_t i = 0; i < explanation->cause_count; i++) {
        lost_ns += explanation->causes[i].lost_ns;
    }
    return lost_ns;
}

static double share_of(const struct explanation *explanation, const struct cause_report *report) {
    uint64_t lost_ns = lost_in_all(explanation);
    return lost_ns > 0 ? (double)report->lost_ns / (double)lost_ns : 0;
}

static double seconds_ago(const struct explanation *explanation, const struct late_run *run) {
    return explanation->now_ns > run->at_ns ? (double)(explanation->now_ns - run->at_ns) / 1e9 : 0;
}

/* ---- JSON ---- */

void explain_write_spent(const struct spent *spent, struct text *out) {
    const char *between = "{";
    for (int i = 0; i < CAUSES; i++) {
        if (spent->ns[i] > 0) {
            text_addf(out, "%s\"%s\":%.6f", between, cause_name((enum cause)i), ms(spent->ns[i]));
            between = ",";
        }
    }
    if (spent->planned_ns > 0) {
        text_addf(out, "%s\"planned_copies\":%.6f", between, ms(spent->planned_ns));
        between = ",";
    }
    text_adds(out, *between == '{' ? "{}" : "}");
}

static void write_example(const struct explanation *explanation, const struct late_run *run, struct text *out) {
    text_addf(out, "{\"request\":%llu,", (unsigned long long)run->request);
    if (explanation->now_ns > 0) {
        text_addf(out, "\"ago_s\":%.3f,", seconds_ago(explanation, run));
    }
    text_addf(out,
              "\"first_token\":%u,\"tokens\":%u,\"late_ms\":%.3f,\"window_ms\":%.3f,\"promised\":{\"ttft_ms\":%.3f,"
              "\"tpot_ms\":%.3f},\"running\":%u,\"waiting\":%u,\"kv_blocks_free\":%u,\"spent_ms\":",
              run->first_token, run->tokens, ms(run->late_ns), ms(run->at_ns - run->begin_ns), ms(run->ttft_ns),
              ms(run->tpot_ns), run->running, run->waiting, run->kv_blocks_free);
    explain_write_spent(&run->spent, out);
    text_adds(out, "}");
}

static void write_advice(const struct advice *advice, struct text *out) {
    text_addf(out, "{\"option\":\"%s\",\"value\":", advice->option);
    text_adds_json(out, advice->value);
    text_adds(out, ",\"why\":");
    text_adds_json(out, advice->why);
    if (advice->tried) {
        text_addf(out, ",\"resimulated_kept\":%.6f", advice->kept);
    } else if (status_failed(&advice->failure)) {
        text_adds(out, ",\"resimulation_failed\":");
        text_adds_json(out, advice->failure.message);
    }
    text_adds(out, "}");
}

static void write_cause(const struct explanation *explanation, const struct cause_report *report, struct text *out) {
    text_addf(out, "{\"cause\":\"%s\",\"what\":", cause_name(report->cause));
    text_adds_json(out, explain_cause(report->cause));
    text_addf(out, ",\"share\":%.4f,\"lost_ms\":%.3f,\"runs\":%u,\"late_tokens\":%llu,\"helps\":[",
              share_of(explanation, report), ms(report->lost_ns), report->runs,
              (unsigned long long)report->late_tokens);
    for (uint32_t i = 0; i < report->advice_count; i++) {
        text_adds(out, i ? "," : "");
        write_advice(&report->advice[i], out);
    }
    text_adds(out, "],\"examples\":[");
    for (uint32_t i = 0; i < report->example_count; i++) {
        text_adds(out, i ? "," : "");
        write_example(explanation, &report->examples[i], out);
    }
    text_adds(out, "]}");
}

void explain_write_json(const struct explanation *explanation, struct text *out) {
    text_addf(out,
              "{\"requests\":{\"promised\":%llu,\"kept\":%llu,\"late_ttft\":%llu,\"late_tpot\":%llu},\"late_tokens\":{",
              (unsigned long long)explanation->promised, (unsigned long long)explanation->kept,
              (unsigned long long)explanation->late_first, (unsigned long long)explanation->late_later);
    for (int i = 0; i < CAUSES; i++) {
        text_addf(out, "%s\"%s\":%llu", i ? "," : "", cause_name((enum cause)i),
                  (unsigned long long)explanation->late_tokens[i]);
    }
    text_addf(out, "},\"runs\":%u", explanation->runs);
    if (*explanation->resimulated_on) {
        text_adds(out, ",\"resimulated\":{\"on\":");
        text_adds_json(out, explanation->resimulated_on);
        text_addf(out, ",\"kept\":%.6f}", explanation->resimulated_kept);
    }
    text_adds(out, ",\"causes\":[");
    for (uint32_t i = 0; i < explanation->cause_count; i++) {
        text_adds(out, i ? "," : "");
        write_cause(explanation, &explanation->causes[i], out);
    }
    text_adds(out, "]}");
}

/* ---- words ---- */

static void say_spent(const struct spent *spent, struct text *out) {
    const char *between = "";
    for (int i = 0; i < CAUSES; i++) {
        if (spent->ns[i] >= 50000) { /* 0.1 ms when rounded */
            text_addf(out, "%s%s %.1f", between, cause_name((enum cause)i), ms(spent->ns[i]));
            between = ", ";
        }
    }
    if (spent->planned_ns >= 50000) {
        text_addf(out, "%scopies as planned %.1f", between, ms(spent->planned_ns));
    }
}

static void say_example(const struct explanation *explanation, const struct late_run *run, struct text *out) {
    text_addf(out, "     request %llu", (unsigned long long)run->request);
    if (explanation->now_ns > 0) {
        text_addf(out, ", %.1f s ago", seconds_ago(explanation, run));
    }
    if (run->first_token == 0 && run->tokens == 1) {
        text_addf(out, ": its first token came %.1f ms late", ms(run->late_ns));
    } else {
        text_addf(out, ": from token %u on %u came late, up to %.1f ms", run->first_token + 1, run->tokens,
                  ms(run->late_ns));
    }
    text_addf(out, ";\n       %.1f ms since the last in time: ", ms(run->at_ns - run->begin_ns));
    say_spent(&run->spent, out);
    text_adds(out, "\n");
}

static void say_tried(const struct advice *advice, struct text *out) {
    if (advice->tried) {
        text_addf(out, "          re-simulated: %.1f %% kept\n", 100 * advice->kept);
    } else if (status_failed(&advice->failure)) {
        text_addf(out, "          re-simulated: %s\n", advice->failure.message);
    }
}

static void say_cause(const struct explanation *explanation, uint32_t index, struct text *out) {
    const struct cause_report *report = &explanation->causes[index];
    text_addf(out, "\n%2u. %s: %.1f %%, %.1f ms lost in %u run%s of late tokens (%llu)\n     %s\n", index + 1,
              cause_name(report->cause), 100 * share_of(explanation, report), ms(report->lost_ns), report->runs,
              report->runs == 1 ? "" : "s", (unsigned long long)report->late_tokens, explain_cause(report->cause));
    for (uint32_t i = 0; i < report->example_count; i++) {
        say_example(explanation, &report->examples[i], out);
    }
    for (uint32_t i = 0; i < report->advice_count; i++) {
        const struct advice *advice = &report->advice[i];
        text_addf(out, "   %s --%s %s   %s\n", i ? " or" : "try", advice->option,
                  *advice->value ? advice->value : "\"\"", advice->why);
        say_tried(advice, out);
    }
    if (report->advice_count == 0) {
        text_adds(out, "     no option mends this\n");
    }
}

void explain_write_text(const struct explanation *explanation, struct text *out) {
    text_addf(out, "%llu of %llu requests kept what was promised to them", (unsigned long long)explanation->kept,
              (unsigned long long)explanation->promised);
    if (explanation->promised > 0) {
        text_addf(out, ", %.1f %%", 100 * (double)explanation->kept / (double)explanation->promised);
    }
    text_addf(out, "; %llu had a late first token, %llu another\n", (unsigned long long)explanation->late_first,
              (unsigned long long)explanation->late_later);
    if (explanation->runs == 0) {
        text_adds(out, "nothing came late\n");
        return;
    }
    if (*explanation->resimulated_on) {
        text_addf(out, "the same requests, re-simulated as they were, %s: %.1f %% kept\n", explanation->resimulated_on,
                  100 * explanation->resimulated_kept);
    }
    text_addf(out, "what made the last %u run%s of late tokens late:\n", explanation->runs,
              explanation->runs == 1 ? "" : "s");
    for (uint32_t i = 0; i < explanation->cause_count; i++) {
        say_cause(explanation, i, out);
    }
}
