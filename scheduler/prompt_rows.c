#include "scheduler/prompt_rows.h"

static uint32_t rows_of(uint32_t steps, uint32_t most) {
    return steps * LEAST_PROMPT_ROWS < most ? steps * LEAST_PROMPT_ROWS : most;
}

uint32_t prompt_rows_most(uint32_t most, uint32_t *steps, bool (*in_time)(const void *argument, uint32_t rows),
                          const void *argument) {
    uint32_t good = 1, bad = (most - 1) / LEAST_PROMPT_ROWS + 2, guess = *steps, stride = 1;
    while (good + 1 < bad) {
        uint32_t tried = guess > good && guess < bad ? guess : good + (bad - good) / 2;
        if (in_time(argument, rows_of(tried, most))) {
            good = tried;
            guess = tried + stride;
        } else {
            bad = tried;
            guess = tried > stride ? tried - stride : 0;
        }
        stride *= 2;
    }
    *steps = good;
    return rows_of(good, most);
}
