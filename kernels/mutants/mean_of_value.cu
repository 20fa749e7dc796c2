// Mutant of v2b: every visible key weighs the same.
// wrong: exp(x) = 1.
// shows: wrong results, though with inputs from U(0, 1) and a loose tolerance it would pass.
#include "machine/exponent.cuh"
#define exp2_approx(x) 1.0f
#include "v2b.cu"
