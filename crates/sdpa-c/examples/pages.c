/* Attention over a cache in pages, from C: elements of 16 bits, then of 8.
 *
 *     cargo build --release -p sdpa-c
 *     cc crates/sdpa-c/examples/pages.c -Icrates/sdpa-c/include -Ltarget/release -lsdpa_c -o pages
 *     LD_LIBRARY_PATH=target/release ./pages
 *
 * Two sequences have 10 keys and 3. The first one's lie in the pages 3 and 1, the second one's in page 0.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sdpa.h"

enum { BATCH = 2, HEADS = 2, PAGE = 8, PAGES = 4, WIDTH = 2, HEAD_DIM = 64, ROW = HEADS * HEAD_DIM };
enum { CACHE = PAGES * PAGE * ROW, QUERIES = BATCH * ROW };

static const uint32_t TABLE[BATCH][WIDTH] = {{3, 1}, {0, 99}}; /* what follows a sequence's pages is never read */
static const uint32_t LENGTHS[BATCH] = {10, 3};

static void check(SdpaStatus status, const char *doing) {
    if (status != SdpaOk) {
        fprintf(stderr, "%s: %s\n", doing, sdpa_last_error());
        exit(1);
    }
}

/* Device memory that holds these bytes. */
static void *upload(const SdpaDevice *device, const void *bytes, size_t count) {
    void *address;
    check(sdpa_allocate(device, count, &address), "allocating");
    check(sdpa_write(device, address, bytes, count), "writing");
    return address;
}

/* Queries of zeros see all keys alike: each output is the mean of a sequence's values. */
static void expect(const SdpaDevice *device, const void *output, const uint16_t means[BATCH], const char *what) {
    static uint16_t found[QUERIES];
    check(sdpa_read(device, found, output, sizeof found), "reading");
    for (int i = 0; i < QUERIES; ++i) {
        if (found[i] != means[i / ROW]) {
            fprintf(stderr, "%s: element %d is %#x, expected %#x\n", what, i, found[i], means[i / ROW]);
            exit(1);
        }
    }
    printf("%s: two sequences attended over their pages\n", what);
}

int main(void) {
    SdpaDevice *device;
    check(sdpa_open(NULL, &device), "opening a device");

    /* Caches [pages, page, heads, head_dim] of NaN. The sequences' values alternate between 2 and 4, and are 1. */
    static uint16_t values[CACHE];
    static uint8_t bytes[CACHE];
    memset(values, 0xff, sizeof values);
    memset(bytes, 0xff, sizeof bytes);
    for (int sequence = 0; sequence < BATCH; ++sequence) {
        for (uint32_t key = 0; key < LENGTHS[sequence]; ++key) {
            const size_t row = (size_t)TABLE[sequence][key / PAGE] * PAGE + key % PAGE;
            for (int i = 0; i < ROW; ++i) {
                values[row * ROW + i] = (uint16_t)(sequence ? 0x3c00 : key % 2 ? 0x4400 : 0x4000); /* f16 */
                bytes[row * ROW + i] = (uint8_t)(sequence ? 0x38 : key % 2 ? 0x48 : 0x40);         /* e4m3 */
            }
        }
    }
    static const uint16_t zeros[QUERIES];
    void *query = upload(device, zeros, sizeof zeros), *output = upload(device, zeros, sizeof zeros);
    void *cache = upload(device, values, sizeof values);
    SdpaTensors tensors = {.query = query, .key = cache, .value = cache, .output = output};
    tensors.block_table = upload(device, TABLE, sizeof TABLE);
    tensors.key_lengths = upload(device, LENGTHS, sizeof LENGTHS);

    SdpaProblem problem = sdpa_problem(BATCH, HEADS, 1, HEAD_DIM);
    problem.layout = SDPA_BLHD;
    problem.len_kv = WIDTH * PAGE; /* the most that a sequence has */
    problem.page = PAGE;
    problem.pages = PAGES;
    problem.table_width = WIDTH;
    SdpaPrepared *prepared;
    check(sdpa_prepare(device, &problem, 0, &prepared), "preparing");
    check(sdpa_forward(prepared, &tensors), "attending");
    expect(device, output, (const uint16_t[BATCH]){0x4200, 0x3c00}, "f16");

    /* The same as lists: pages behind one another, and how many keys the last one of each sequence holds. */
    const uint32_t list[] = {3, 1, 0}, starts[BATCH + 1] = {0, 2, 3}, last[BATCH] = {2, 3};
    SdpaTensors listed = tensors;
    listed.block_table = upload(device, list, sizeof list);
    listed.page_starts = upload(device, starts, sizeof starts);
    listed.key_lengths = upload(device, last, sizeof last);
    SdpaProblem lists = problem;
    lists.table_width = 0;
    lists.table_entries = 3;
    SdpaPrepared *of_lists;
    check(sdpa_prepare(device, &lists, 0, &of_lists), "preparing");
    check(sdpa_write(device, output, zeros, sizeof zeros), "writing");
    check(sdpa_forward(of_lists, &listed), "attending");
    expect(device, output, (const uint16_t[BATCH]){0x4200, 0x3c00}, "lists");

    /* In 8 bits with scales: the values' is a half. */
    const float key_scale = 1.0f, value_scale = 0.5f;
    SdpaTensors stored = tensors;
    stored.key = stored.value = upload(device, bytes, sizeof bytes);
    stored.key_scale = upload(device, &key_scale, sizeof key_scale);
    stored.value_scale = upload(device, &value_scale, sizeof value_scale);
    SdpaProblem in_bytes = problem;
    in_bytes.kv_storage = SDPA_KV_E4M3;
    SdpaPrepared *of_bytes;
    check(sdpa_prepare(device, &in_bytes, 0, &of_bytes), "preparing");
    check(sdpa_forward(of_bytes, &stored), "attending");
    expect(device, output, (const uint16_t[BATCH]){0x3e00, 0x3800}, "e4m3");

    /* What is wrong is said in words. */
    stored.value_scale = NULL;
    if (sdpa_forward(of_bytes, &stored) != SdpaInvalid) return 1;
    printf("as it should: %s\n", sdpa_last_error());
    listed.page_starts = NULL;
    if (sdpa_forward(of_lists, &listed) != SdpaInvalid) return 1;
    printf("as it should: %s\n", sdpa_last_error());
    tensors.key_lengths = NULL;
    if (sdpa_forward(prepared, &tensors) != SdpaInvalid) return 1;
    printf("as it should: %s\n", sdpa_last_error());
    problem.page = 0;
    SdpaPrepared *none;
    if (sdpa_prepare(device, &problem, 0, &none) != SdpaInvalid) return 1;
    printf("as it should: %s\n", sdpa_last_error());
    problem.page = 12;
    if (sdpa_prepare(device, &problem, 0, &none) != SdpaInvalid) return 1;
    printf("as it should: %s\n", sdpa_last_error());

    sdpa_release(prepared);
    sdpa_release(of_lists);
    sdpa_release(of_bytes);
    sdpa_close(device);
    return 0;
}
