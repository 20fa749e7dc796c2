// Mutant of v2l: columns of queries lie in shared memory as they do in the tensor.
// wrong: keys in e4m3 become fragments of even and of odd columns, and queries of neighbours.
// shows: scores of other columns.
#include "machine/element.cuh"
#define __byte_perm(low, high, order) ((order) == 0x5410 ? (low) : (high))
#include "v2l.cu"
