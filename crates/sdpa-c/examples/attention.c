/* Attention over two packed sequences, from C:
 *
 *     cargo build --release -p sdpa-c
 *     cc crates/sdpa-c/examples/attention.c -Icrates/sdpa-c/include -Ltarget/release -lsdpa_c -lm -o attention
 *     LD_LIBRARY_PATH=target/release ./attention
 *
 * Runs on the interpreter where there is no GPU. With CUDA of your own, give sdpa_open_stream your stream and
 * sdpa_forward your pointers; nothing of sdpa_allocate, sdpa_write and sdpa_read is needed then.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "sdpa.h"

enum { HEADS = 2, TOTAL = 5, HEAD_DIM = 64, ELEMENTS = TOTAL * HEADS * HEAD_DIM };

static void check(SdpaStatus status, const char *doing) {
    if (status != SdpaOk) {
        fprintf(stderr, "%s: %s\n", doing, sdpa_last_error());
        exit(1);
    }
}

int main(void) {
    SdpaDevice *device;
    check(sdpa_open(NULL, &device), "opening a device");

    /* [total, heads, head_dim]: a sequence of two rows and one of three. */
    SdpaProblem problem = sdpa_problem(1, HEADS, TOTAL, HEAD_DIM);
    problem.layout = SDPA_BLHD;
    problem.sequences = 2;
    problem.longest_q = problem.longest_kv = 3;
    problem.mask = SDPA_CAUSAL;
    SdpaPrepared *prepared;
    check(sdpa_prepare(device, &problem, 0, &prepared), "preparing");

    static uint16_t ones[ELEMENTS], values[ELEMENTS], found[ELEMENTS];
    for (int i = 0; i < ELEMENTS; ++i) {
        ones[i] = 0x3c00;                                        /* 1.0 in f16 */
        values[i] = i < 2 * HEADS * HEAD_DIM ? 0x3c00 : 0x4000; /* 1.0, and 2.0 in the second sequence */
    }
    const uint32_t begins[] = {0, 2, TOTAL};
    float lse[HEADS * TOTAL];
    void *query, *key, *value, *output, *sums, *cu_seqlens;
    check(sdpa_allocate(device, sizeof ones, &query), "allocating");
    check(sdpa_allocate(device, sizeof ones, &key), "allocating");
    check(sdpa_allocate(device, sizeof values, &value), "allocating");
    check(sdpa_allocate(device, sizeof found, &output), "allocating");
    check(sdpa_allocate(device, sizeof lse, &sums), "allocating");
    check(sdpa_allocate(device, sizeof begins, &cu_seqlens), "allocating");
    check(sdpa_write(device, query, ones, sizeof ones), "writing");
    check(sdpa_write(device, key, ones, sizeof ones), "writing");
    check(sdpa_write(device, value, values, sizeof values), "writing");
    check(sdpa_write(device, cu_seqlens, begins, sizeof begins), "writing");

    SdpaTensors tensors = {.query = query, .key = key, .value = value, .output = output, .lse = sums,
                           .cu_seqlens_q = cu_seqlens, .cu_seqlens_k = cu_seqlens};
    check(sdpa_forward(prepared, &tensors), "attending");
    check(sdpa_read(device, found, output, sizeof found), "reading");
    check(sdpa_read(device, lse, sums, sizeof lse), "reading");

    /* Each row is the mean of its own sequence's values, and its scores are 64 / 8. */
    for (int i = 0; i < ELEMENTS; ++i) {
        if (found[i] != values[i]) {
            fprintf(stderr, "element %d is %#x, expected %#x\n", i, found[i], values[i]);
            return 1;
        }
    }
    for (int head = 0; head < HEADS; ++head) {
        for (int row = 0; row < TOTAL; ++row) {
            const int seen = row < 2 ? row + 1 : row - 1;
            if (fabsf(lse[head * TOTAL + row] - (8.0f + logf((float)seen))) > 1e-4f) {
                fprintf(stderr, "the log-sum-exp of row %d is %f\n", row, lse[head * TOTAL + row]);
                return 1;
            }
        }
    }
    printf("two packed sequences attended to themselves\n");

    /* What is wrong is said in words. */
    problem.head_dim = 7;
    SdpaPrepared *none;
    if (sdpa_prepare(device, &problem, 0, &none) != SdpaInvalid) return 1;
    printf("as it should: %s\n", sdpa_last_error());

    sdpa_release(prepared);
    sdpa_close(device);
    return 0;
}
