// Mutant of v2k: rows of values and of the output are taken to have as many columns as keys.
// wrong: columns behind a narrow value are read, and those behind a row of the output written.
// shows: memory written that is not the output's, where values are narrower than keys.
#include "machine/exact_value_rows.cuh"
#define value_dim head_dim
#include "v2k.cu"
