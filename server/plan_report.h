/* How a plan is shown: words and figures on the terminal, a picture of copies and compute, JSON.
 *
 * Owns: nothing; every function appends to a text. Threads: any. */
#ifndef METRONOME_SERVER_PLAN_REPORT_H
#define METRONOME_SERVER_PLAN_REPORT_H

#include "server/plan_case.h"
#include "server/text.h"

struct plan_report {
    const struct plan_case *plan_case;
    struct policy_range range;     /* of whole-layer intervals */
    const struct planned *planned; /* (planned_count) the plan asked for; then the one to compare it with */
    uint32_t planned_count;
};

void plan_report_text(const struct plan_report *report, struct text *out);
void plan_report_json(const struct plan_report *report, struct text *out);

/* ---- plan_picture.c ---- */

/* Two rows of `columns` characters, copies and compute, over one iteration of the steady state, and what they mean. */
void plan_picture_text(const struct planned *planned, uint32_t columns, struct text *out);

/* The same of every plan of the report on one scale, as an SVG file. */
void plan_picture_svg(const struct plan_report *report, struct text *out);

#endif
