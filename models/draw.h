/* The end of an iteration: from logits on the device to tokens and scores on the host.
 *
 * Owns: where that lies in the forward's two allocations, and what of an iteration is done. Where every row is plain an
 * argmax does it. Else rows go to the device with the lists of what changes their logits; where these are longer than
 * the room for them, rows are sampled in rounds, which are counted. Threads: the engine's. */
#ifndef METRONOME_MODELS_DRAW_H
#define METRONOME_MODELS_DRAW_H

#include "models/model.h"

struct draw_places {
    size_t rows, changes;           /* device: inputs, in one piece, ... */
    size_t host_rows, host_changes; /* ... as they lie on the host */
    size_t logits, tokens, scores;  /* device */
    size_t host_logits, host_tokens, host_scores;
};

struct draw {
    struct device *device;
    struct stream *stream;
    uint8_t *device_memory, *host_memory;
    struct draw_places places;
    uint32_t vocabulary, room; /* changes that a round takes */
    bool keeps_logits;
    uint32_t done, sent; /* rows of the iteration that are drawn, once the stream is so far; and of the round sent */
    uint32_t scores;     /* of the iteration */
    uint64_t rounds;     /* so far, beyond the first of an iteration */
};

/* Takes room from the ends of both memories. */
struct draw_places draw_place(const struct forward_limits *limits, uint32_t vocabulary, size_t *device_end,
                              size_t *host_end);
uint32_t draw_room(const struct forward_limits *limits, uint32_t vocabulary);

/* Enqueues, with an iteration's other inputs, those of the first round. */
void draw_send(struct draw *draw, struct forward_inputs *in);

/* Enqueues the round that was sent. The logits of the iteration's rows are there. */
void draw_run(struct draw *draw, const struct forward_inputs *in);

/* Enqueues the copies of results, once all of them are drawn; of whole rows of logits, those that are wanted. */
void draw_copy(struct draw *draw, const struct forward_inputs *in, const bool *logits_wanted);

/* Enqueues another round, if there are rows left; false if not. The one before has ended. */
bool draw_more(struct draw *draw, struct forward_inputs *in);

#endif
