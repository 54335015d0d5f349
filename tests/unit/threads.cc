// Counts the threads that a program of tests starts and says so at its end, in the file METRONOME_TEST_THREADS: the
// thread sanitizer is for those that start some, and tests/run.py checks that its list of the others is right. In front
// of the C library's function in every program of tests but those that the sanitizers are in, which do the same.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#include <pthread.h>

static std::atomic<unsigned> started;

extern "C" int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                              void *argument) {
    using Create = int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    static const Create create = reinterpret_cast<Create>(dlsym(RTLD_NEXT, "pthread_create"));
    started++;
    return create(thread, attributes, run, argument);
}

__attribute__((destructor)) static void report() {
    const char *path = getenv("METRONOME_TEST_THREADS");
    FILE *file = path ? fopen(path, "w") : nullptr;
    if (file) {
        fprintf(file, "%u\n", started.load());
        fclose(file);
    }
}
#endif
