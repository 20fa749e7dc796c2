// Mutant of v2d: fragments are read as though every row were permuted like the next one.
// wrong: the XOR of the reader takes row + 1, that of the writer row.
// shows: wrong results everywhere. Were it off alike on both sides, nothing but bank conflicts would
//        show.
#include "machine/swizzled_tile.cuh"
#define start(row, chunk) start(row, (chunk) ^ ((row) & 7) ^ ((row) + 1 & 7))
#include "v2d.cu"
