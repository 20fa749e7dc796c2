// `exact_rows.cuh` for values of another width than keys: rows whose logits are too large for one
// fused instruction per weight, a few columns of the values at a time.
#pragma once

#include "machine/exact_rows.cuh"
#include "machine/value_params.cuh"

// By a warp, for those of its 16 rows from `first_row` of the sequence on whose maxima are large,
// as fragments give them to lanes: [8 · half + lane / 4]. Calls `store(row, column, columns)` for 4
// columns of a row of VALUE_DIM, divided by the sum, `row` counting from the first; gives out the
// log-sum-exp.
template <typename Store>
__device__ inline void attend_exactly_to_value_rows(const ValueParams& params,
                                                    const QueryTile& tile,
                                                    const Sequence& sequence, int first_row,
                                                    const float (&maxima)[2], Store store) {
    if (!__any_sync(ALL_LANES, is_large(maxima[0]) || is_large(maxima[1]))) return;
    // What the other lanes stored of these rows must not come later.
    __syncwarp();
    const int lane = thread_index() % WARP_SIZE;
    const float sink = params.sinks ? params.sinks[tile.head] * LOG2_E : NEGATIVE_INFINITY;
    // Both ends of the range only grow with the row.
    const KeyRange keys = {visible_range(params, sequence, first_row).begin,
                           visible_range(params, sequence, first_row + 15).end};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int row = 8 * half + lane / 4;
        const bool large = is_large(maxima[half]) && first_row + row < sequence.len_q;
#pragma unroll 1
        for (int column = 4 * (lane % 4); column < VALUE_DIM; column += 16) {
            float sum[4] = {};
            RowStatistics total =
                attend_exactly_in_range(params, tile, sequence, keys, first_row + row, large,
                                        [&](float factor, float weight, const Element* value) {
                                            if (column >= params.value_dim) return;
                                            float columns[4];
                                            load_as_float(value + column, columns);
#pragma unroll
                                            for (int c = 0; c < 4; ++c)
                                                sum[c] = fmaf(weight, columns[c], sum[c] * factor);
                                        });
            if (!large) continue;
            const float share = params.sinks ? add_sink(total, sink) : 1.0f;
            if (column < params.value_dim) {
                // UNREACHED: a row with a large maximum has seen a key, so its sum is not 0.
                const float normalise = share * normaliser(total.sum);
#pragma unroll
                for (int c = 0; c < 4; ++c) sum[c] *= normalise;
                store(row, column, sum);
            }
            if (column == 0) {
                store_lse(params, tile, sequence.first_query + first_row + row, row_lse(total));
            }
        }
    }
}
