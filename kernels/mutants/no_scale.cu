// Mutant of v2b: scores are not scaled.
// wrong: softmax(QKᵀ) instead of softmax(scale · QKᵀ).
// shows: wrong results unless the scale is 1 or a row sees only one key.
#include "machine/params.cuh"
#define scale_log2e scale_log2e / params.scale
#include "v2b.cu"
