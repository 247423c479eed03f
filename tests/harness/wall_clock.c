/* The wall clock of a process under test: what the machine shows, and the milliseconds in the file that TIDEGATE_TEST_CLOCK names.
 * To be preloaded. Clocks that cannot be set are left alone, as in a real machine. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile const int64_t *ahead_ms;

__attribute__((constructor)) static void find_clock(void)
{
    const char *path = getenv("TIDEGATE_TEST_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file >= 0) {
        void *shared = mmap(NULL, sizeof *ahead_ms, PROT_READ, MAP_SHARED, file, 0);
        close(file);
        if (shared != MAP_FAILED)
            ahead_ms = shared;
    }
}

int clock_gettime(clockid_t clock, struct timespec *at)
{
    static int (*machine)(clockid_t, struct timespec *);
    if (!machine)
        machine = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = machine(clock, at);
    if (result == 0 && ahead_ms && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t ns = at->tv_nsec + *ahead_ms % 1000 * 1000000;
        at->tv_sec += *ahead_ms / 1000;
        if (ns < 0) {
            ns += 1000000000;
            at->tv_sec -= 1;
        } else if (ns >= 1000000000) {
            ns -= 1000000000;
            at->tv_sec += 1;
        }
        at->tv_nsec = ns;
    }
    return result;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone)
{
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at)
        *at = now.tv_sec;
    return now.tv_sec;
}
