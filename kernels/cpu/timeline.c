#include "kernels/cpu/timeline.h"

#include "base/clock.h"

#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Sleeps while *word is `expected`. May return for no reason; callers look again. */
static void futex_wait(_Atomic uint32_t *word, uint32_t expected) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}

static void futex_wake_all(_Atomic uint32_t *word) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

void timeline_init(struct timeline *timeline) {
    atomic_init(&timeline->value, 0);
    atomic_init(&timeline->wanted, UINT64_MAX);
    atomic_init(&timeline->rings, 0);
}

/* No wake is lost. The sleeper reads `rings`, writes `wanted`, reads `value` and sleeps while `rings` is what it read;
 * the waker writes `value`, reads `wanted`, clears it, changes `rings` and wakes. All are sequentially consistent: if
 * the sleeper does not see the new value then the waker sees the wish, and if another waker cleared the wish then
 * `rings` changes after the sleeper read it. Only the advance that grants a wish costs a system call. */
void timeline_advance(struct timeline *timeline, uint64_t count) {
    uint64_t value = atomic_fetch_add(&timeline->value, count) + count;
    if (value >= atomic_load(&timeline->wanted)) {
        atomic_store(&timeline->wanted, UINT64_MAX);
        atomic_fetch_add(&timeline->rings, 1);
        futex_wake_all(&timeline->rings);
    }
}

static void want(struct timeline *timeline, uint64_t target) {
    uint64_t wanted = atomic_load(&timeline->wanted);
    while (target < wanted && !atomic_compare_exchange_weak(&timeline->wanted, &wanted, target)) {
    }
}

static bool spin(const struct timeline *timeline, uint64_t target, uint64_t spin_ns) {
    uint64_t begun_ns = clock_now_ns();
    do {
        for (int i = 0; i < 32; i++) {
            if (timeline_value(timeline) >= target) {
                return true;
            }
            timeline_pause();
        }
    } while (clock_now_ns() - begun_ns < spin_ns);
    return false;
}

bool timeline_wait(struct timeline *timeline, uint64_t target, uint64_t spin_ns) {
    if (timeline_value(timeline) >= target) {
        return false;
    }
    if (spin_ns > 0 && spin(timeline, target, spin_ns)) {
        return true;
    }
    for (;;) {
        uint32_t rings = atomic_load(&timeline->rings);
        want(timeline, target);
        if (atomic_load(&timeline->value) >= target) {
            return true;
        }
        futex_wait(&timeline->rings, rings);
    }
}
