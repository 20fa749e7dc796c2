// Mutant of v2g: one arrival too few is waited for.
// wrong: the parts are merged before the last of them is written.
// shows: races, and reads of what nobody wrote.
#include "machine/tickets.cuh"
#define block_arrives_last(counter, expected) \
    block_arrives_last(counter, (expected) > 1 ? (expected) - 1 : 1)
#include "v2g.cu"
