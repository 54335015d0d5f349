/* The response header that tells what offloading did: X-Metronome-Offload, to requests that ask with the same header.
 *
 * Its value is a dictionary of structured fields (RFC 8941), so that clients need no parser of their own. Threads: any;
 * values only. */
#ifndef METRONOME_SERVER_OFFLOAD_HEADER_H
#define METRONOME_SERVER_OFFLOAD_HEADER_H

#include "offload/offload.h"
#include "server/http_parse.h"
#include "server/text.h"

#define OFFLOAD_HEADER "X-Metronome-Offload"

/* Does the request carry it with the value 1? */
bool offload_header_asked(const struct http_head *head);

/* What is in force, and what the last iteration came to. */
void offload_header_write(const struct offload_report *report, struct text *out);

#endif
