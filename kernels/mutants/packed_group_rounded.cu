// Mutant of v2g: the query heads that share a tile are taken for a power of two.
// wrong: the heads of other groups are packed into too few rows.
// shows: rows that nobody writes where 3, 5, 6, 7 or 12 heads share a key head.
//
// Behind the constructor's last initialiser stands its body.
#define one_query(single)                    \
    one_query(single) {                      \
        group = 1 << (31 - __clz(group));    \
        count = group * params.len_q;        \
    }                                        \
    __device__ void nothing()
#include "v2g.cu"
