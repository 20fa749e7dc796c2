// Mutant of v2b: cp.async writes 8 bytes beside its place.
// wrong: the shared address of a 16-byte copy is no multiple of 16.
// shows: "misaligned address" at the first copy, on a GPU as a sticky error.
#include "machine/async_copy.cuh"
#define cp_async_16(destination, source, valid) cp_async_16((destination) + 4, source, valid)
#include "v2b.cu"
