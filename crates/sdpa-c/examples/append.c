/* A step of a server, from C: a new key and value of each sequence are appended to its cache, and a query of each attends
 * over all of them.
 *
 *     cargo build --release -p sdpa-c
 *     cc crates/sdpa-c/examples/append.c -Icrates/sdpa-c/include -Ltarget/release -lsdpa_c -o append
 *     LD_LIBRARY_PATH=target/release ./append
 *
 * Both are prepared once. What changes from step to step stands on the device: new rows, slots and lengths.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "sdpa.h"

enum { BATCH = 2, HEADS = 2, ROOM = 8, HEAD_DIM = 64, ROW = HEADS * HEAD_DIM, NEW = BATCH * ROW, CACHE = BATCH * ROOM * ROW };

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

int main(void) {
    SdpaDevice *device;
    check(sdpa_open(NULL, &device), "opening a device");

    /* Caches [batch, room, heads, head_dim]: a block is a sequence. */
    SdpaAppend append = sdpa_append_defaults(BATCH, HEADS, HEAD_DIM, BATCH, ROOM);
    append.layout = SDPA_BLHD;
    SdpaPreparedAppend *appending;
    check(sdpa_append_prepare(device, &append, &appending), "preparing the append");

    SdpaProblem problem = sdpa_problem(BATCH, HEADS, 1, HEAD_DIM);
    problem.len_kv = ROOM;
    problem.layout = SDPA_BLHD;
    SdpaPrepared *attending;
    check(sdpa_prepare(device, &problem, SDPA_KEY_LENGTHS, &attending), "preparing the attention");

    /* Nothing of the caches is in use; the first sequence gets four keys, the second gets two and is skipped then. */
    static uint16_t zeros[CACHE], keys[CACHE], values[CACHE], rows[NEW], found[NEW];
    void *key_cache = upload(device, zeros, sizeof zeros), *value_cache = upload(device, zeros, sizeof zeros);
    void *query = upload(device, rows, sizeof rows), *output = upload(device, found, sizeof found);
    for (int i = 0; i < NEW; ++i) rows[i] = 0x3c00; /* 1.0 in f16 */
    void *key = upload(device, rows, sizeof rows), *value = upload(device, rows, sizeof rows);
    int64_t slots[BATCH] = {0, ROOM};
    uint32_t lengths[BATCH] = {0, 0};
    void *slot_mapping = upload(device, slots, sizeof slots), *key_lengths = upload(device, lengths, sizeof lengths);

    SdpaAppendTensors appended = {.key = key, .value = value, .slot_mapping = slot_mapping, .key_cache = key_cache,
                                  .value_cache = value_cache};
    SdpaTensors tensors = {.query = query, .key = key_cache, .value = value_cache, .output = output,
                           .key_lengths = key_lengths};
    for (int step = 0; step < 4; ++step) {
        for (int sequence = 0; sequence < BATCH; ++sequence) {
            const int skipped = sequence == 1 && step >= 2;
            slots[sequence] = skipped ? -1 : sequence * ROOM + step;
            lengths[sequence] += !skipped;
            for (int i = 0; i < ROW; ++i) rows[sequence * ROW + i] = (uint16_t)(step % 2 ? 0x4400 : 0x4000); /* 4.0 or 2.0 */
        }
        check(sdpa_write(device, value, rows, sizeof rows), "writing");
        check(sdpa_write(device, slot_mapping, slots, sizeof slots), "writing");
        check(sdpa_write(device, key_lengths, lengths, sizeof lengths), "writing");
        check(sdpa_append(appending, &appended), "appending");
        check(sdpa_forward(attending, &tensors), "attending");
    }

    /* Queries of zeros see all keys alike: the mean of 2 and 4 is 3. */
    check(sdpa_read(device, found, output, sizeof found), "reading");
    check(sdpa_read(device, keys, key_cache, sizeof keys), "reading");
    check(sdpa_read(device, values, value_cache, sizeof values), "reading");
    for (int i = 0; i < NEW; ++i) {
        if (found[i] != 0x4200) {
            fprintf(stderr, "element %d is %#x, expected 3.0\n", i, found[i]);
            return 1;
        }
    }
    for (int i = 0; i < CACHE; ++i) {
        const int place = i / ROW % ROOM, used = i / ROW < ROOM ? 4 : 2;
        const uint16_t wanted = place >= used ? 0 : place % 2 ? 0x4400 : 0x4000;
        if (values[i] != wanted || keys[i] != (place < used ? 0x3c00 : 0)) {
            fprintf(stderr, "element %d of the caches is %#x and %#x\n", i, keys[i], values[i]);
            return 1;
        }
    }
    printf("two sequences attended to what was appended, and nothing else was written\n");

    /* What is wrong is said in words. */
    appended.key_cache = NULL;
    if (sdpa_append(appending, &appended) != SdpaInvalid) return 1;
    printf("as it should: %s\n", sdpa_last_error());
    append.layout = 9;
    SdpaPreparedAppend *none;
    if (sdpa_append_prepare(device, &append, &none) != SdpaInvalid) return 1;
    printf("as it should: %s\n", sdpa_last_error());

    sdpa_append_release(appending);
    sdpa_release(attending);
    sdpa_close(device);
    return 0;
}
