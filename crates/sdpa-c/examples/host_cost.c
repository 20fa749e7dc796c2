/* What a prepared call from C costs the host:
 *
 *     cargo build --release -p sdpa-c
 *     cc -O2 crates/sdpa-c/examples/host_cost.c -Icrates/sdpa-c/include -Ltarget/release -lsdpa_c -o host_cost
 *     LD_LIBRARY_PATH=target/release ./host_cost
 *
 * Needs a GPU. The median of batches; work is queued and not waited for. The last line is JSON.
 */
#define _POSIX_C_SOURCE 199309L
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "sdpa.h"

enum { CALLS = 64, BATCHES = 64 };

static void check(SdpaStatus status, const char *doing) {
    if (status != SdpaOk) {
        fprintf(stderr, "%s: %s\n", doing, sdpa_last_error());
        exit(1);
    }
}

static double now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e9 + time.tv_nsec;
}

static int by_size(const void *left, const void *right) {
    const double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

/* Nanoseconds per call over [1, heads, length, head_dim] in f16. */
static double cost(SdpaDevice *device, size_t heads, size_t length, size_t head_dim) {
    SdpaProblem problem = sdpa_problem(1, heads, length, head_dim);
    SdpaPrepared *prepared;
    check(sdpa_prepare(device, &problem, 0, &prepared), "preparing");
    void *memory[4];
    for (int i = 0; i < 4; ++i) check(sdpa_allocate(device, heads * length * head_dim * 2, &memory[i]), "allocating");
    SdpaTensors tensors = {.query = memory[0], .key = memory[1], .value = memory[2], .output = memory[3]};
    double batches[BATCHES];
    for (int batch = 0; batch < BATCHES; ++batch) {
        check(sdpa_synchronize(device), "waiting");
        const double start = now_ns();
        for (int call = 0; call < CALLS; ++call) check(sdpa_forward(prepared, &tensors), "attending");
        batches[batch] = (now_ns() - start) / CALLS;
    }
    check(sdpa_synchronize(device), "waiting");
    for (int i = 0; i < 4; ++i) check(sdpa_free(device, memory[i]), "freeing");
    sdpa_release(prepared);
    qsort(batches, BATCHES, sizeof *batches, by_size);
    return batches[BATCHES / 2];
}

int main(void) {
    SdpaDevice *device;
    check(sdpa_open("cuda", &device), "opening the GPU");
    const double small = cost(device, 8, 512, 64), large = cost(device, 16, 2048, 128);
    printf("{\"example\":\"host_cost_c\",\"prepared_ns\":{\"b1 h8 L512 d64 f16 full\":%.0f,\"b1 h16 L2048 d128 f16 full\":%.0f}}\n",
           small, large);
    sdpa_close(device);
    return 0;
}
