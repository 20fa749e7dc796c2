// V2m: operands straight from global memory, for decoding.
//
// parent: v2j
// idea:   v2j copies keys and values into shared memory, and loads the products' operands from there:
//         most of a tile's instructions, and all of its waiting for one another, are this detour. Here
//         each lane loads from global memory just what it holds of an operand. Depth is summed in any
//         order, so 16 bytes of a key are the operands of two steps; where the scores are transposed,
//         Sᵀ = K · Qᵀ and Oᵀ = Vᵀ · Pᵀ, keys fill the 16 rows of a product and 8 queries its columns.
//         The next tile's loads take the registers of this one's as soon as it is multiplied, and run
//         ahead into the next parts as v2j's copies do. Nothing is left to wait for but memory, and so
//         little is kept that more warps fit.
// needs:  16-byte aligned tensors, strides in multiples of 8 elements, a counter of 0 for each tile
// build:  -DHEAD_DIM=64|128 -DROW_BLOCKS=1|2 -DSTRIPS=8 -DWARPS=1|8 -DLEAST_KEYS=256
//         -DUNIT_OVERHEAD=4 -DBLOCKS_PER_SM=1|8|10|12; f16 or -DDTYPE_BF16
#include "machine/element.cuh"
#include "machine/exponent.cuh"
#include "machine/extended_params.cuh"
#include "machine/key_range.cuh"
#include "machine/large_logits.cuh"
#include "machine/mask.cuh"
#include "machine/query_tile.cuh"
#include "machine/score_shape.cuh"
#include "machine/softmax.cuh"
#include "machine/tensor_core.cuh"
#include "machine/warp.cuh"

// Where the pages of keys and values are. Mirrored by `sdpa_core::PagingParams`; a test there reads
// the FIELD_AT lines below and holds both to the same bytes.
struct PagedParams : ExtendedParams {
    const unsigned* block_table;  // the pages of each sequence; null where the cache is contiguous
    const unsigned* page_starts;  // [sequences + 1], where a sequence's entries begin; null if rows
    int table_width;              // entries from one sequence's row to the next one's
    int page_shift;               // log2 of the keys of a page
};

// NVRTC has no offsetof; __INTADDR__ is what its front end makes offsetof of elsewhere.
#define FIELD_AT(field, offset) \
    static_assert(__INTADDR__(&static_cast<PagedParams*>(nullptr)->field) == offset, #field)
FIELD_AT(block_table, 256);
FIELD_AT(page_starts, 264);
FIELD_AT(table_width, 272);
FIELD_AT(page_shift, 276);
#undef FIELD_AT
static_assert(sizeof(PagedParams) == 280, "PagedParams");

// Tile laws. A tile has 8 rows or 16; a warp takes 16 keys at a time, strip after strip.
constexpr int TILE_KEYS = 16;
constexpr int TILE_ROWS = 8 * ROW_BLOCKS;
constexpr int LANE_ROWS = 2;  // of a block: accumulators give each lane two neighbouring columns
constexpr int THREADS = WARPS * WARP_SIZE;
constexpr int WARP_STRIPS = STRIPS / WARPS;  // of each part
static_assert(WARPS == 1 || WARPS == STRIPS, "strips are added one by one, in their order");
static_assert(HEAD_DIM % 64 == 0, "whole chunks for eight lanes");

// Lane 4i + j holds row i of an operand and the depths 2j, 2j + 1, 2j + 8 and 2j + 9 of a step of
// 16. A lane loads chunks of 8 elements, and no two lanes load the same one.
constexpr int CHUNK = 8;
constexpr int DEPTH_CHUNKS = HEAD_DIM / (4 * CHUNK);   // of a key or query: four lanes share it
constexpr int COLUMN_CHUNKS = HEAD_DIM / (8 * CHUNK);  // of a value: eight lanes share it

// Parts. They begin and end at multiples of PART_STEP keys, so that no tile is of two.
constexpr int PART_STEP = 128;
constexpr int MOST_PARTS = 16;               // of a row: what a warp merges at once
constexpr int FEW_QUERIES = 4;               // of a sequence: as many have the most parts
constexpr int MERGED_QUERIES = FEW_QUERIES * MOST_PARTS / 2;  // more of them have one part
static_assert(PART_STEP % (STRIPS * TILE_KEYS) == 0, "strips are of whole tiles");
static_assert(LEAST_KEYS % PART_STEP == 0, "whole steps");

// Numbers beyond a tensor, negative ones of a signed type among them, are its end.
__device__ inline int bounded(unsigned number, int most) {
    return min(number, static_cast<unsigned>(most));
}

// Query heads of a key head: row r of a sequence is query r / group of the group's head r % group,
// so that keys are read once for all the query heads that share them.
__device__ inline int group_of(const AttentionParams& params) {
    return static_cast<unsigned>(params.heads_q) / params.heads_kv;
}

__device__ inline int sequence_count(const ExtendedParams& params) {
    return params.sequences ? params.sequences : params.batch;
}

// A sequence, and how it is cut: by what it is itself, and by nothing else.
struct SequenceWork {
    Sequence own;
    int rows;       // of a key head: queries times the heads of its group
    int tiles;      // of rows
    int first_key;  // of the first part
    int part_keys;
    int parts;

    __device__ SequenceWork() {}

    __device__ SequenceWork(const PagedParams& params, int index) {
        own = {0, params.len_q, 0, params.len_kv};
        if (params.sequences) {
            own.first_query = bounded(params.cu_seqlens_q[index], params.len_q);
            own.len_q = bounded(params.cu_seqlens_q[index + 1], params.len_q) - own.first_query;
            own.len_q = min(max(own.len_q, 0), params.longest_q);
            if (!params.key_lengths) {
                own.first_key = bounded(params.cu_seqlens_k[index], params.len_kv);
                own.len_kv = bounded(params.cu_seqlens_k[index + 1], params.len_kv) - own.first_key;
                own.len_kv = max(own.len_kv, 0);
            }
        }
        if (params.key_lengths) {
            unsigned length = params.key_lengths[index];
            if (params.page_starts) {
                // What is given is the length of the last page.
                const unsigned pages = params.page_starts[index + 1] - params.page_starts[index];
                length = pages == 0 ? 0 : (pages - 1 << params.page_shift) + length;
            }
            own.len_kv = bounded(length, params.len_kv);
        }
        rows = group_of(params) * own.len_q;
        tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
        // Both ends of what a row sees only grow with the row.
        first_key = visible_range(params, own, 0).begin / PART_STEP * PART_STEP;
        const int span = max(visible_range(params, own, own.len_q - 1).end - first_key, 0);
        // Many queries are work enough for many blocks, and too much to merge: half as many parts
        // for twice as many. By queries and not by rows: heads that share keys have the bits of
        // heads that do not.
        int most = MOST_PARTS;
        for (int few = FEW_QUERIES; own.len_q > few && most > 1; few *= 2) most /= 2;
        const int even = (span + most - 1) >> __ffs(most) - 1;
        part_keys = max((even + PART_STEP - 1) / PART_STEP * PART_STEP, LEAST_KEYS);
        parts = 1;
        if (span > part_keys) parts = static_cast<unsigned>(span + part_keys - 1) / part_keys;
    }

    __device__ int units(const PagedParams& params) const {
        return params.heads_kv * tiles * parts;
    }
    // How long one of them takes, in tiles of keys; what starts and ends it counted.
    __device__ int unit_cost() const { return part_keys / TILE_KEYS + UNIT_OVERHEAD; }
};

// One part for one tile of rows: what a block does at once.
struct Unit {
    Sequence own;
    int sequence;
    int head_kv;
    int tile;
    int first_row;  // of the tile, within the key head's rows
    int rows;       // of the tile; 0 where there is no unit
    int first_key;  // of the part, within the sequence
    int strip_keys;
    KeyRange seen;   // by any row of the tile, within the part
    KeyRange whole;  // by every row
    int part;
    int first_part;  // in which the tile's rows see keys
    int parts;       // from there on
    int sequence_parts;
};

// The tiles of COUNT strips, one behind the other, that any row of the unit sees.
struct Strips {
    int first_key;
    int tiles;

    template <int COUNT>
    __device__ static Strips of(const Unit& unit, int first) {
        const int begin = unit.first_key + first * unit.strip_keys;
        const int seen_begin = max(begin, unit.seen.begin / TILE_KEYS * TILE_KEYS);
        const int seen_end = min(begin + COUNT * unit.strip_keys, unit.seen.end);
        return {seen_begin, max(seen_end - seen_begin + TILE_KEYS - 1, 0) / TILE_KEYS};
    }

    // All of this warp's.
    __device__ static Strips of_warp(const Unit& unit) {
        return of<WARP_STRIPS>(unit, threadIdx.x / WARP_SIZE * WARP_STRIPS);
    }
};

// A block's way through its units: parts of a key head, and the tiles of rows for each, so that
// neighbours read the same keys.
struct Walk {
    SequenceWork work;
    int sequence;
    int head_kv;
    int part;
    int tile;
    int left;

    // Describes the next unit that has something to do; none at the end.
    __device__ void next(const PagedParams& params, Unit& unit) {
        unit.rows = unit.first_key = unit.strip_keys = 0;
        unit.seen = {0, 0};
        while (left > 0 && unit.rows == 0) {
            describe(params, unit);
            step(params);
        }
    }

    __device__ void describe(const PagedParams& params, Unit& unit) const {
        const int group = group_of(params);
        const int first_row = tile * TILE_ROWS;
        const int rows = min(work.rows - first_row, TILE_ROWS);
        const unsigned last_row = first_row + rows - 1;
        const KeyRange first =
            visible_range(params, work.own, static_cast<unsigned>(first_row) / group);
        const KeyRange last = visible_range(params, work.own, last_row / group);
        const int begin = work.first_key + part * work.part_keys;
        const int seen_begin = max(first.begin, begin);
        const int seen_end = min(last.end, begin + work.part_keys);
        const bool sees_none = last.end <= first.begin;
        if (seen_end <= seen_begin && !(sees_none && part == 0)) return;
        unit.own = work.own;
        unit.sequence = sequence;
        unit.head_kv = head_kv;
        unit.tile = tile;
        unit.first_row = first_row;
        unit.rows = rows;
        unit.first_key = begin;
        unit.strip_keys = work.part_keys / STRIPS;
        unit.seen = {seen_begin, seen_end};
        unit.whole = {last.begin, first.end};
        unit.part = part;
        unit.sequence_parts = work.parts;
        unit.first_part = 0;
        unit.parts = 1;
        if (work.parts > 1 && !sees_none) {
            unit.parts = work.parts;
            // INSIGHT: a division takes more than a hundred cycles, and nothing can be loaded
            // before: it is left out where all rows see the same parts.
            if (work.tiles > 1) {
                const unsigned keys = work.part_keys;
                unit.first_part = static_cast<unsigned>(first.begin - work.first_key) / keys;
                unit.parts = static_cast<unsigned>(last.end - work.first_key + keys - 1) / keys;
                unit.parts -= unit.first_part;
            }
        }
    }

    __device__ void step(const PagedParams& params) {
        --left;
        if (++tile < work.tiles) return;
        tile = 0;
        if (++part < work.parts) return;
        part = 0;
        if (++head_kv < params.heads_kv) return;
        head_kv = 0;
        ++sequence;
        enter(params);
    }

    // Goes on to a sequence that has units, if any are left.
    __device__ void enter(const PagedParams& params) {
        if (left == 0) return;
        work = SequenceWork(params, sequence);
        // UNREACHED: only packed sequences may have no rows.
        while (work.tiles == 0) work = SequenceWork(params, ++sequence);
    }

    // To unit `unit` of the sequence.
    __device__ void place(const PagedParams& params, int at, unsigned unit, int count) {
        sequence = at;
        left = count;
        head_kv = part = tile = 0;
        if (count == 0) return;
        work = SequenceWork(params, at);
        if (unit == 0) {
            // UNREACHED: only packed sequences may have no rows.
            while (work.tiles == 0) work = SequenceWork(params, ++sequence);
            return;
        }
        const unsigned head_part = work.tiles == 1 ? unit : unit / work.tiles;
        tile = unit - head_part * work.tiles;
        head_kv = head_part / work.parts;
        part = head_part - head_kv * work.parts;
    }
};

// Where a block's share begins.
struct Place {
    int sequence;
    unsigned unit;    // of the sequence
    unsigned number;  // of all
};

template <typename Number>
__device__ inline Number inclusive_sum(Number x) {
    const int lane = threadIdx.x % WARP_SIZE;
#pragma unroll
    for (int distance = 1; distance < WARP_SIZE; distance *= 2) {
        const Number before = __shfl_up_sync(ALL_LANES, x, distance);
        if (lane >= distance) x += before;
    }
    return x;
}

// The first unit that begins `target` or later, where all units are laid end to end by their costs;
// all lanes of a warp take part. `total` is how long they are together.
__device__ inline Place find_unit(const PagedParams& params, unsigned long long target,
                                  unsigned long long& total) {
    const int lane = threadIdx.x % WARP_SIZE;
    const int count = sequence_count(params);
    Place place = {count, 0, 0};
    bool found = false;
    unsigned number = 0;
    total = 0;
    for (int first = 0; first < count; first += WARP_SIZE) {
        unsigned units = 0;
        unsigned long long cost = 0;
        if (first + lane < count) {
            const SequenceWork work(params, first + lane);
            units = work.units(params);
            cost = work.unit_cost();
        }
        const unsigned long long cost_end = total + inclusive_sum(units * cost);
        const unsigned units_end = number + inclusive_sum(units);
        const unsigned reached = __ballot_sync(ALL_LANES, cost_end > target);
        if (reached != 0 && !found) {
            found = true;
            const unsigned long long begin = cost_end - units * cost;
            unsigned unit = 0;
            // UNREACHED: a division's other way, for more than 2^32 tiles of keys.
            if (cost > 0 && target > begin) unit = (target - begin + cost - 1) / cost;
            // Behind a sequence's last unit is the next one's first.
            const bool behind = unit == units;
            const int source = __ffs(reached) - 1;
            place.number = __shfl_sync(ALL_LANES, units_end - units + unit, source);
            place.sequence = __shfl_sync(ALL_LANES, first + lane + behind, source);
            place.unit = __shfl_sync(ALL_LANES, behind ? 0 : unit, source);
        }
        total = __shfl_sync(ALL_LANES, cost_end, WARP_SIZE - 1);
        number = __shfl_sync(ALL_LANES, units_end, WARP_SIZE - 1);
    }
    if (!found) place.number = number;
    return place;
}

// The block's share of all units: those that begin in its part of the whole time. By the first
// warp.
__device__ inline void locate(const PagedParams& params, Walk& walk) {
    const unsigned block = blockIdx.x;
    const unsigned blocks = gridDim.x;
    Place begin;
    unsigned end;
    if (!params.sequences && !params.key_lengths) {
        // UNREACHED: its length is the tensors', or this way would not be taken.
        const SequenceWork work(params, 0);
        const unsigned units = work.units(params);
        const unsigned long long all = static_cast<unsigned long long>(units) * params.batch;
        begin.number = all == blocks ? block : all * block / blocks;
        end = all == blocks ? block + 1 : all * (block + 1) / blocks;
        begin.sequence = params.batch == 1 ? 0 : begin.number / units;
        begin.unit = begin.number - begin.sequence * units;
    } else {
        unsigned long long total;
        find_unit(params, 0, total);
        unsigned long long again;
        // UNREACHED: as above, of so many tiles.
        begin = find_unit(params, total * block / blocks, again);
        // UNREACHED: as above, of so many tiles.
        end = find_unit(params, total * (block + 1) / blocks, again).number;
    }
    if (threadIdx.x == 0) walk.place(params, begin.sequence, begin.unit, end - begin.number);
}

// Units that are described ahead of the one that is worked on, and the places for them: a slow warp
// may still read the last one's while the first thread writes one ahead.
constexpr int AHEAD = 3;
constexpr int UNIT_PLACES = 8;
static_assert(UNIT_PLACES >= AHEAD + 2, "no place is written that is read");

// What each warp has made of its strips. Four floats more per row put the rows that neighbouring
// lanes write in different banks.
struct WarpParts {
    float output[WARPS][TILE_ROWS][HEAD_DIM + 4];
    RowStatistics statistics[WARPS][TILE_ROWS];
};

struct SharedMemory {
    alignas(128) WarpParts parts;
    Walk walk;
    int merges;  // whether the block is the last to arrive at the unit before
    Unit units[UNIT_PLACES];

    __device__ Unit& unit(int number) { return units[number % UNIT_PLACES]; }
};
static_assert(sizeof(SharedMemory) == LAUNCH_SHARED_BYTES, "what the plan asks for");
static_assert(THREADS == LAUNCH_THREADS, "what the plan asks for");

// Where a row of a unit's tile lies.
struct RowPlace {
    QueryTile head;
    int position;  // of the query, in the tensors

    __device__ RowPlace(const PagedParams& params, const Unit& unit, int row) {
        const int group = group_of(params);
        const unsigned packed = unit.first_row + row;
        const int query = packed / static_cast<unsigned>(group);
        head = {params.sequences ? 0 : unit.sequence,
                unit.head_kv * group + static_cast<int>(packed) - query * group, 0};
        position = unit.own.first_query + query;
    }
};

// 16 bytes that the block reads once: they take no place in the first cache.
__device__ inline uint4 load_once(const Element* source) {
    uint4 chunk;
    asm volatile("ld.global.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(chunk.x), "=r"(chunk.y), "=r"(chunk.z), "=r"(chunk.w)
                 : "l"(source));
    return chunk;
}

// The same; zeros where `valid` is false, and nothing is read.
__device__ inline uint4 load_once_if(bool valid, const Element* source) {
    uint4 chunk = {0, 0, 0, 0};
    asm volatile(
        "{\n"
        ".reg .pred valid;\n"
        "setp.ne.u32 valid, %5, 0;\n"
        "@valid ld.global.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];\n"
        "}"
        : "+r"(chunk.x), "+r"(chunk.y), "+r"(chunk.z), "+r"(chunk.w)
        : "l"(source), "r"(static_cast<unsigned>(valid)));
    return chunk;
}

// An 8×8 matrix of which the lane holds two neighbours of a row, row by row, becomes one of which it
// holds two neighbours of a column. PTX ISA, "movmatrix".
__device__ inline unsigned transposed(unsigned pair) {
    unsigned result;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(pair));
    return result;
}

// What the lane holds of a tile of queries: of row i of each block the depths that it holds of keys.
struct QueryOperand {
    uint4 chunks[ROW_BLOCKS][DEPTH_CHUNKS];

    // Rows that do not exist and columns past the head's are zeros.
    __device__ void load(const PagedParams& params, const Unit& unit) {
        const int lane = thread_index() % WARP_SIZE;
#pragma unroll
        for (int block = 0; block < ROW_BLOCKS; ++block) {
            const int row = 8 * block + lane / 4;
            const bool is_row = row < unit.rows;
            const Element* source = nullptr;
            if (is_row) {
                const RowPlace place(params, unit, row);
                source = head_data(params.query, place.head.batch, place.head.head) +
                         place.position * params.query.row_stride + lane % 4 * CHUNK;
            }
#pragma unroll
            for (int c = 0; c < DEPTH_CHUNKS; ++c) {
                const int column = (4 * c + lane % 4) * CHUNK;
                chunks[block][c] =
                    load_once_if(is_row && column < params.head_dim, source + 4 * c * CHUNK);
            }
        }
    }

    // A negative scale moves into Q, so that the softmax may count on it being positive.
    __device__ void take_sign(const PagedParams& params) {
        if (params.scale >= 0.0f) return;
        constexpr unsigned SIGNS = 0x80008000;
#pragma unroll
        for (int block = 0; block < ROW_BLOCKS; ++block) {
#pragma unroll
            for (int c = 0; c < DEPTH_CHUNKS; ++c) {
                uint4& own = chunks[block][c];
                own = {own.x ^ SIGNS, own.y ^ SIGNS, own.z ^ SIGNS, own.w ^ SIGNS};
            }
        }
    }
};

// What the lane holds of a tile of keys: chunks of the keys i and i + 8.
struct KeyOperand {
    uint4 chunks[2][DEPTH_CHUNKS];
};

// What the lane holds of a tile of values: chunks of the keys 2j, 2j + 1, 2j + 8 and 2j + 9.
struct ValueOperand {
    uint4 chunks[4][COLUMN_CHUNKS];
};

// A warp's loads: the tiles of its units, one after the other, each into the registers of the one
// before.
// INSIGHT: a part of a few tiles is over before its first load would be back. The loads do not end
// with it: the next part's first tile is on its way while this one is handed over and merged.
class Loader {
    int number = 0;        // of the unit that the next tile is of
    int key;               // the first of that tile, within the sequence
    int key_end;           // behind the warp's tiles of that unit
    bool loaded = false;   // the tile before it is in the registers, or on its way
    unsigned page[2];      // of its first and its last 8 keys
    // INSIGHT: what is the same for all tiles of a unit stays in registers: worked out for each
    // tile, addresses took more instructions than everything else.
    KeyRange seen;
    int first_key;              // of the sequence
    const Element* key_rows;    // the lane's chunk of the first key that it holds of 8
    const Element* value_rows;  // the same of values
    const unsigned* table;      // of the sequence
    int in_page;                // the bits of a key that count within its page

public:
    __device__ Loader(const PagedParams& params, SharedMemory& shared) {
        in_page = params.block_table ? (1 << params.page_shift) - 1 : -1;
        page[0] = page[1] = 0;
        enter(params, shared);
        find_tile(params, shared, 0);
    }

    // At a unit's begin, which may be the first that a tile is known: loads the warp's next tile if
    // it is not there.
    __device__ void catch_up(const PagedParams& params, SharedMemory& shared, int current,
                             KeyOperand& keys, ValueOperand& values) {
        if (loaded) return;
        find_tile(params, shared, current);
        load_keys(params, keys);
        load_values(params, shared, current, values);
    }

    // Once the warp has multiplied a tile's keys: loads the next one's.
    __device__ void load_keys(const PagedParams& params, KeyOperand& keys) {
        loaded = exists();
        if (!loaded) return;
        const int lane = thread_index() % WARP_SIZE;
        by_halves(params, params.key, key_rows, [&](int half, const Element* source, auto masked) {
            const bool is_seen = sees(key + 8 * half + lane / 4);
#pragma unroll
            for (int c = 0; c < DEPTH_CHUNKS; ++c) {
                const Element* chunk = source + 4 * c * CHUNK;
                const int column = (4 * c + lane % 4) * CHUNK;
                uint4& own = keys.chunks[half][c];
                own = masked.value ? load_once_if(is_seen && column < params.head_dim, chunk)
                                   : load_once(chunk);
            }
        });
    }

    // The same of the values, which are of the same tile.
    __device__ void load_values(const PagedParams& params, SharedMemory& shared, int current,
                                ValueOperand& values) {
        if (!loaded) return;
        const int lane = thread_index() % WARP_SIZE;
        by_halves(params, params.value, value_rows,
                  [&](int half, const Element* source, auto masked) {
#pragma unroll
                      for (int i = 0; i < 2; ++i) {
                          const bool is_seen = sees(key + 8 * half + lane % 4 * 2 + i);
#pragma unroll
                          for (int c = 0; c < COLUMN_CHUNKS; ++c) {
                              const Element* chunk = source + 8 * c * CHUNK;
                              const int column = (8 * c + lane / 4) * CHUNK;
                              uint4& own = values.chunks[2 * half + i][c];
                              own = masked.value
                                        ? load_once_if(is_seen && column < params.head_dim, chunk)
                                        : load_once(chunk);
                          }
                          source += params.value.row_stride;
                      }
                  });
        key += TILE_KEYS;
        find_tile(params, shared, current);
    }

private:
    __device__ bool exists() const { return key < key_end; }

    __device__ bool sees(int at) const { return at >= seen.begin && at < seen.end; }

    // Reads what there is to know of the next unit.
    __device__ void enter(const PagedParams& params, SharedMemory& shared) {
        const Unit& unit = shared.unit(number);
        const Strips own = Strips::of_warp(unit);
        key = own.first_key;
        key_end = key + own.tiles * TILE_KEYS;
        if (own.tiles == 0) return;
        seen = unit.seen;
        first_key = unit.own.first_key;
        const int sequence = unit.sequence;
        const int head = unit.head_kv;
        const long long batch = params.block_table || params.sequences ? 0 : sequence;
        const int lane = thread_index() % WARP_SIZE;
        key_rows = head_data(params.key, batch, head) + lane / 4 * params.key.row_stride +
                   lane % 4 * CHUNK;
        value_rows = head_data(params.value, batch, head) + lane % 4 * 2 * params.value.row_stride +
                     lane / 4 * CHUNK;
        if (!params.block_table) return;
        table = params.block_table;
        if (params.page_starts) {
            table += params.page_starts[sequence];
        } else {
            table += static_cast<long long>(sequence) * params.table_width;
        }
    }

    // Goes on to the next unit that has a tile for the warp, as far as units are described, and
    // asks for the tile's pages: by the time it is loaded they are here.
    __device__ void find_tile(const PagedParams& params, SharedMemory& shared, int current) {
        while (!exists()) {
            if (number + 1 >= current + AHEAD || shared.unit(number).rows == 0) return;
            ++number;
            enter(params, shared);
        }
        if (!params.block_table) return;
        page[0] = page[1] = 0;
        // No entry is read behind a sequence's keys, nor before those that it sees.
        if (key + 8 > seen.begin && key < seen.end) page[0] = table[key >> params.page_shift];
        if (key + 8 < seen.end) page[1] = table[key + 8 >> params.page_shift];
    }

    // Calls `load` with where the lane's chunks of each half of the next tile begin. Keys that no
    // row of the unit sees and columns past the head's must become zeros, so that no read leaves
    // the sequence; most tiles have none, and need not ask for each chunk.
    template <typename Load>
    __device__ void by_halves(const PagedParams& params, const TensorView& tensor,
                              const Element* rows, Load load) const {
        const auto both = [&](auto masked) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int in_pages = first_key + (key + 8 * half & in_page);
                load(half,
                     rows + page[half] * tensor.batch_stride + in_pages * tensor.row_stride,
                     masked);
            }
        };
        const bool is_whole = key >= seen.begin && key + TILE_KEYS <= seen.end;
        if (is_whole && params.head_dim == HEAD_DIM) {
            both(Unmasked{});
        } else {
            both(Masked{});
        }
    }
};

// From scores to exponents, in units of log2. A capped score is one already.
struct Exponents {
    float scale;

    // Never 0: a masked score times it must stay -infinity. The smallest normal number leaves the
    // exponent of every finite score at 0.
    __device__ explicit Exponents(const PagedParams& params)
        : scale(params.softcap > 0.0f ? 1.0f : fmaxf(fabsf(params.scale_log2e), 1.17549435e-38f)) {}

    // Of a score, rounded up: of the largest it is a maximum that no weight exceeds.
    __device__ float above(float score) const { return exponent_above(score, scale); }

    // Whether the rounding of so large a row's maximum could show: its weights are powers of
    // differences of scores.
    __device__ bool is_large_row(float maximum) const { return is_large(above(maximum)); }

    // The maximum in units of log2, as the row's sum is meant.
    __device__ float of_row(float maximum) const {
        return is_large_row(maximum) ? maximum * scale : above(maximum);
    }

    // `shrink` of rows that are not large.
    __device__ float ordinary_shrink(float from, float to) const {
        return exp2_approx(above(from) - safe_maximum(above(to)));
    }

    // What was summed under the maximum `from` shrinks by it under the larger one `to`.
    __device__ float shrink(float from, float to) const {
        if (!is_large_row(from) && !is_large_row(to)) return ordinary_shrink(from, to);
        // Nothing rounds a difference. A row that is no longer large has its maximum's exponent
        // rounded up, as rows have that never were: the factor makes up for it.
        const float rest = is_large_row(to) ? 0.0f : fmaf(to, scale, -above(to));
        return exp2_approx(fmaf(from - to, scale, rest));
    }
};

// How what is summed of more keys is added to what is summed so far.
struct Addition {
    RowStatistics total;
    float kept;   // of what there is
    float added;  // of what comes

    __device__ Addition(const Exponents& exponents, RowStatistics so_far, RowStatistics more) {
        total.maximum = fmaxf(so_far.maximum, more.maximum);
        kept = exponents.shrink(so_far.maximum, total.maximum);
        added = exponents.shrink(more.maximum, total.maximum);
        total.sum = of(so_far.sum, more.sum);
    }

    __device__ float of(float so_far, float more) const { return fmaf(more, added, so_far * kept); }
};

// Over the eight lanes that hold the same rows and other keys.
__device__ inline float keys_max(float x) {
#pragma unroll
    for (int distance = 4; distance < WARP_SIZE; distance *= 2) {
        x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, distance));
    }
    return x;
}

__device__ inline float keys_sum(float x) {
#pragma unroll
    for (int distance = 4; distance < WARP_SIZE; distance *= 2) {
        x += __shfl_xor_sync(ALL_LANES, x, distance);
    }
    return x;
}

// The rows of the unit's tile and keys of one strip: queries, output so far, and the steps of one
// tile of keys. Of each block of 8 rows the lane has two neighbours: of scores for the keys i and
// i + 8, of the output for chunks of its columns.
class WarpRows {
    static constexpr int COLUMN_BLOCKS = HEAD_DIM / 16;

    // As V2d has it, where it was 3 % slower at 64 columns and 4 % faster at 128, on an H200.
    static constexpr bool VOTE = HEAD_DIM > 64;

    const QueryOperand& query;
    float output[ROW_BLOCKS][COLUMN_BLOCKS][4] = {};
    RowStatistics state[ROW_BLOCKS][LANE_ROWS];  // the maximum is of scores, not of their exponents
    Exponents exponents;

public:
    using Scores = float[ROW_BLOCKS][4];

    __device__ WarpRows(const PagedParams& params, const QueryOperand& query)
        : query(query), exponents(params) {}

    // For the next strip.
    __device__ void start_over() {
#pragma unroll
        for (int block = 0; block < ROW_BLOCKS; ++block) {
#pragma unroll
            for (int column = 0; column < COLUMN_BLOCKS; ++column) {
#pragma unroll
                for (int i = 0; i < 4; ++i) output[block][column][i] = 0.0f;
            }
#pragma unroll
            for (int i = 0; i < LANE_ROWS; ++i) state[block][i] = {};
        }
    }

    // Sᵀ = K · Qᵀ. Which depths a step sums does not matter as long as both sides agree: the first
    // half of each chunk is one step's, the second the next one's.
    __device__ void multiply_keys(Scores& score, const KeyOperand& keys) const {
        // Two sums, so that a step need not wait for the one before.
        float second[ROW_BLOCKS][4] = {};
#pragma unroll
        for (int c = 0; c < DEPTH_CHUNKS; ++c) {
            const uint4& low = keys.chunks[0][c];
            const uint4& high = keys.chunks[1][c];
            const unsigned first_half[4] = {low.x, high.x, low.y, high.y};
            const unsigned second_half[4] = {low.z, high.z, low.w, high.w};
#pragma unroll
            for (int block = 0; block < ROW_BLOCKS; ++block) {
                const uint4& row = query.chunks[block][c];
                multiply_accumulate(score[block], first_half, row.x, row.y);
                multiply_accumulate(second[block], second_half, row.z, row.w);
            }
        }
#pragma unroll
        for (int block = 0; block < ROW_BLOCKS; ++block) {
#pragma unroll
            for (int i = 0; i < 4; ++i) score[block][i] += second[block][i];
        }
    }

    __device__ static void cap_scores(const PagedParams& params, Scores& score) {
        // UNREACHED: what takes slopes is declined.
        const ScoreShaper<ScoreShape::CAPPED> shaper(params, 0);
#pragma unroll
        for (int block = 0; block < ROW_BLOCKS; ++block) {
#pragma unroll
            for (int i = 0; i < 4; ++i) score[block][i] = shaper.shaped(score[block][i], 0.0f);
        }
    }

    // -infinity where a row does not see the key. `visible(row)` is the range of keys that it sees,
    // counted from the tile's first one.
    template <typename Visible>
    __device__ static void mask_scores(Scores& score, Visible visible) {
        const int lane = thread_index() % WARP_SIZE;
        const int key = lane / 4;
#pragma unroll
        for (int block = 0; block < ROW_BLOCKS; ++block) {
#pragma unroll
            for (int i = 0; i < LANE_ROWS; ++i) {
                const KeyRange seen = visible(8 * block + lane % 4 * 2 + i);
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const int at = key + 8 * half;
                    if (at < seen.begin || at >= seen.end) {
                        score[block][2 * half + i] = NEGATIVE_INFINITY;
                    }
                }
            }
        }
    }

    // Lets the maxima of the rows grow; sums and output follow. Scores of a row whose exponents are
    // so large that their rounding could show become differences to its maximum. `is_first`: of the
    // strip, whose output is still 0.
    __device__ void raise_maxima(Scores& score, bool is_first) {
        float factor[ROW_BLOCKS][LANE_ROWS];
        float maximum[ROW_BLOCKS][LANE_ROWS];
        bool grown = false;
        bool large = false;
#pragma unroll
        for (int block = 0; block < ROW_BLOCKS; ++block) {
#pragma unroll
            for (int i = 0; i < LANE_ROWS; ++i) {
                const float before = state[block][i].maximum;
                const float own = keys_max(fmaxf(score[block][i], score[block][2 + i]));
                maximum[block][i] = fmaxf(before, own);
                factor[block][i] = exponents.ordinary_shrink(before, maximum[block][i]);
                large |= exponents.is_large_row(before) ||
                         exponents.is_large_row(maximum[block][i]);
            }
        }
        // One branch for the warp: it is as good as never taken.
        const bool any_large = __any_sync(ALL_LANES, large);
#pragma unroll
        for (int block = 0; block < ROW_BLOCKS; ++block) {
#pragma unroll
            for (int i = 0; i < LANE_ROWS; ++i) {
                RowStatistics& row = state[block][i];
                float& shrinks = factor[block][i];
                if (any_large) shrinks = exponents.shrink(row.maximum, maximum[block][i]);
                row.maximum = maximum[block][i];
                row.sum *= shrinks;
                grown |= shrinks != 1.0f;
            }
        }
        if (any_large) take_differences(score);
        if (is_first) return;
        // After the first tiles a maximum seldom grows. A wide output is worth a vote that saves
        // the products with 1; a narrow one is not. The result is the same to the bit.
        if (VOTE && !__any_sync(ALL_LANES, grown)) return;
#pragma unroll
        for (int block = 0; block < ROW_BLOCKS; ++block) {
#pragma unroll
            for (int column = 0; column < COLUMN_BLOCKS; ++column) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    output[block][column][i] *= factor[block][i % LANE_ROWS];
                }
            }
        }
    }

    // Oᵀ += Vᵀ · Pᵀ, with P = 2^(exponent - maximum) rounded to the dtype on the way.
    __device__ void multiply_values(const Scores& score, const ValueOperand& values) {
        unsigned weight[ROW_BLOCKS][2];
#pragma unroll
        for (int block = 0; block < ROW_BLOCKS; ++block) {
            float own[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                RowStatistics& row = state[block][i % LANE_ROWS];
                // The scores of a large row are differences already.
                const bool is_large = exponents.is_large_row(row.maximum);
                const float subtrahend = is_large ? 0.0f : exponents.above(row.maximum);
                own[i] = softmax_weight(score[block][i], exponents.scale, subtrahend);
                row.sum += own[i];  // unrounded: the sum does not inherit P's rounding
            }
            // Accumulators have keys in rows; the operand has them in columns.
            weight[block][0] = transposed(to_element_pair(own[0], own[1]));
            weight[block][1] = transposed(to_element_pair(own[2], own[3]));
        }
#pragma unroll
        for (int c = 0; c < COLUMN_CHUNKS; ++c) {
#pragma unroll
            for (int word = 0; word < CHUNK / 2; ++word) {
                // A word has two columns of one key; the operand has two keys of one column. The
                // first columns of all lanes are its rows up to 8, the second those from 8 on.
                unsigned of_key[4];
#pragma unroll
                for (int i = 0; i < 4; ++i) of_key[i] = word_of(values.chunks[i][c], word);
                const unsigned left[4] = {
                    __byte_perm(of_key[0], of_key[1], 0x5410),
                    __byte_perm(of_key[0], of_key[1], 0x7632),
                    __byte_perm(of_key[2], of_key[3], 0x5410),
                    __byte_perm(of_key[2], of_key[3], 0x7632),
                };
#pragma unroll
                for (int block = 0; block < ROW_BLOCKS; ++block) {
                    multiply_accumulate(output[block][4 * c + word], left, weight[block][0],
                                        weight[block][1]);
                }
            }
        }
    }

    // Leaves the first `rows` rows, not yet divided by their sums, in the warp's place, or adds
    // them to what its strips before have left there.
    __device__ void hand_over(WarpParts& parts, int rows, bool adds) {
        const int lane = threadIdx.x % WARP_SIZE;
        const int warp = threadIdx.x / WARP_SIZE;
        RowStatistics before[ROW_BLOCKS][LANE_ROWS];
        __syncwarp();  // the first of eight lanes has written those of the strip before
#pragma unroll
        for (int block = 0; block < ROW_BLOCKS; ++block) {
#pragma unroll
            for (int i = 0; i < LANE_ROWS; ++i) {
                RowStatistics& own = state[block][i];
                own.sum = keys_sum(own.sum);
                const int row = 8 * block + lane % 4 * 2 + i;
                if (adds && row < rows) before[block][i] = parts.statistics[warp][row];
            }
        }
        __syncwarp();  // before the first of eight lanes writes what they have all read
#pragma unroll
        for (int block = 0; block < ROW_BLOCKS; ++block) {
#pragma unroll
            for (int i = 0; i < LANE_ROWS; ++i) {
                const int row = 8 * block + lane % 4 * 2 + i;
                if (row >= rows) continue;
                // Where nothing is to be added, `before` is empty and the sum not used.
                const Addition addition(exponents, before[block][i], state[block][i]);
                const RowStatistics own = adds ? addition.total : state[block][i];
#pragma unroll
                for (int c = 0; c < COLUMN_CHUNKS; ++c) {
                    float* const place = &parts.output[warp][row][(8 * c + lane / 4) * CHUNK];
#pragma unroll
                    for (int word = 0; word < CHUNK / 2; word += 2) {
                        const float* const first = output[block][4 * c + word];
                        const float* const second = output[block][4 * c + word + 1];
                        float four[4] = {first[i], first[2 + i], second[i], second[2 + i]};
                        if (adds) {
                            float so_far[4];
                            load(place + 2 * word, so_far);
#pragma unroll
                            for (int k = 0; k < 4; ++k) four[k] = addition.of(so_far[k], four[k]);
                        }
                        store(place + 2 * word, four);
                    }
                }
                if (lane / 4 == 0) parts.statistics[warp][row] = own;
            }
        }
    }

private:
    __device__ static unsigned word_of(const uint4& chunk, int word) {
        return word == 0 ? chunk.x : word == 1 ? chunk.y : word == 2 ? chunk.z : chunk.w;
    }

    __device__ void take_differences(Scores& score) const {
#pragma unroll
        for (int block = 0; block < ROW_BLOCKS; ++block) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float maximum = state[block][i % LANE_ROWS].maximum;
                if (exponents.is_large_row(maximum)) score[block][i] -= maximum;
            }
        }
    }
};

// Columns of a row that a thread merges: as wide as a load, so that neighbours read whole lines.
constexpr int LANE_COLUMNS = 4;

// Columns of a row of which everything is known but the sink: divided by the sum, to the output.
__device__ inline void store_output(const PagedParams& params, const Unit& unit, int row,
                                    int column, RowStatistics total, float (&sum)[LANE_COLUMNS]) {
    const RowPlace place(params, unit, row);
    total.maximum = Exponents(params).of_row(total.maximum);
    // How much less everything weighs where the sink is larger than all scores.
    float factor = 1.0f;
    if (params.sinks) factor = add_sink(total, params.sinks[place.head.head] * LOG2_E);
    const float normalise = factor * normaliser(total.sum);
#pragma unroll
    for (int i = 0; i < LANE_COLUMNS; ++i) sum[i] *= normalise;
    Element* const output = head_data(params.output, place.head.batch, place.head.head) +
                            place.position * params.output.row_stride;
    store_from_float(output + column, sum);
    if (column == 0) store_lse(params, place.head, place.position, row_lse(total));
}

// What the parts leave behind to be merged: for every row its parts in order, columns first, then
// statistics. Every key head of every sequence has room for as many as there can be.
struct Workspace {
    float* columns;
    RowStatistics* statistics;
    int head_dim;
    long long first;  // of the unit's key head

    __device__ Workspace(const PagedParams& params, const Unit& unit) : head_dim(params.head_dim) {
        const int heads = params.heads_kv;
        const int most_queries = params.sequences ? params.longest_q : params.len_q;
        const long long slots = group_of(params) * min(most_queries, FEW_QUERIES) * MOST_PARTS;
        columns = static_cast<float*>(params.workspace);
        statistics = reinterpret_cast<RowStatistics*>(columns + slots * sequence_count(params) *
                                                                    heads * head_dim);
        first = (static_cast<long long>(unit.sequence) * heads + unit.head_kv) * slots;
    }

    // Part `part` of row `row` of the unit's tile.
    __device__ long long index(const Unit& unit, int row, int part) const {
        return first + (unit.first_row + row) * unit.sequence_parts + part;
    }
};

// The counter of arrivals at the unit's tile.
__device__ inline unsigned* arrivals(const PagedParams& params, const Unit& unit) {
    const int most_queries = params.sequences ? params.longest_q : params.len_q;
    const int rows = group_of(params) * min(most_queries, MERGED_QUERIES);
    const int tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
    return params.tickets + (unit.sequence * params.heads_kv + unit.head_kv) * tiles + unit.tile;
}

// Counts an arrival and returns those before it. Releases what the block has written before the
// barrier that is behind it, and acquires what the arrivals before released. The last of `expected`
// wraps the counter around to 0, so that the next kernel finds it as this one did.
// INSIGHT: nothing waits for the answer until it is used: it is on its way while the block works on
// its next unit.
__device__ inline unsigned arrive(unsigned* counter, unsigned expected) {
    unsigned before;
    asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;"
                 : "=r"(before)
                 : "l"(counter), "r"(expected - 1)
                 : "memory");
    return before;
}

// Adds what the warps made of the unit's strips; to the output, or to be merged with the tile's
// other parts.
__device__ inline void add_strips(const PagedParams& params, SharedMemory& shared,
                                  const Unit& unit) {
    const WarpParts& parts = shared.parts;
    const Exponents exponents(params);
    constexpr int QUARTETS = HEAD_DIM / LANE_COLUMNS;
    for (int index = threadIdx.x; index < unit.rows * QUARTETS; index += THREADS) {
        const int row = index / QUARTETS;
        const int column = index % QUARTETS * LANE_COLUMNS;
        if (column >= params.head_dim) continue;
        RowStatistics total;
        float sum[LANE_COLUMNS] = {};
        bool adds = false;
#pragma unroll
        for (int warp = 0; warp < WARPS; ++warp) {
            // As one warp alone would do it: strips without a tile are left out, and to the first
            // that has one nothing is added.
            if (WARPS > 1 && Strips::of<1>(unit, warp).tiles == 0) continue;
            const RowStatistics own = parts.statistics[warp][row];
            float columns[LANE_COLUMNS];
            load(&parts.output[warp][row][column], columns);
            if (adds) {
                const Addition addition(exponents, total, own);
                total = addition.total;
#pragma unroll
                for (int c = 0; c < LANE_COLUMNS; ++c) sum[c] = addition.of(sum[c], columns[c]);
            } else {
                total = own;
#pragma unroll
                for (int c = 0; c < LANE_COLUMNS; ++c) sum[c] = columns[c];
            }
            adds = true;
        }
        if (unit.parts == 1) {
            store_output(params, unit, row, column, total, sum);
            continue;
        }
        const Workspace workspace(params, unit);
        const long long own = workspace.index(unit, row, unit.part);
        store(workspace.columns + own * workspace.head_dim + column, sum);
        if (column == 0) workspace.statistics[own] = total;
    }
}

// Parts whose columns a lane loads at once, beside the next tile's keys and values.
constexpr int MERGED_AT_ONCE = MOST_PARTS / 4;

// A warp merges 128 columns of a row.
constexpr int WARP_COLUMNS = WARP_SIZE * LANE_COLUMNS;

// The lane's columns of a row, merged from the tile's parts; to the output.
__device__ inline void merge_row(const PagedParams& params, const Unit& unit, int row, int column) {
    const Workspace workspace(params, unit);
    const Exponents exponents(params);
    const long long first = workspace.index(unit, row, unit.first_part);
    const int lane = threadIdx.x % WARP_SIZE;
    const bool valid = column < params.head_dim;
    const float* next = workspace.columns + first * params.head_dim + (valid ? column : 0);

    RowStatistics part;
    if (lane < unit.parts) part = workspace.statistics[first + lane];
    RowStatistics total;
    total.maximum = group_max<WARP_SIZE>(part.maximum);
    const float weight = exponents.shrink(part.maximum, total.maximum);
    total.sum = group_sum<WARP_SIZE>(part.sum * weight);
    float sum[LANE_COLUMNS] = {};
    int batch = 0;
#pragma unroll 1
    do {
        // INSIGHT: all the loads are under way before anything is done with one of them.
        float columns[MERGED_AT_ONCE][LANE_COLUMNS] = {};
#pragma unroll
        for (int i = 0; i < MERGED_AT_ONCE; ++i) {
            if (batch + i < unit.parts) load(next, columns[i]);
            next += params.head_dim;
        }
#pragma unroll
        for (int i = 0; i < MERGED_AT_ONCE; ++i) {
            const float factor = __shfl_sync(ALL_LANES, weight, batch + i);
#pragma unroll
            for (int c = 0; c < LANE_COLUMNS; ++c) sum[c] = fmaf(columns[i][c], factor, sum[c]);
        }
        batch += MERGED_AT_ONCE;
    } while (batch < unit.parts);
    // UNREACHED: where there are several parts, every row sees a key.
    if (valid) store_output(params, unit, row, column, total, sum);
}

__device__ inline void merge_tile(const PagedParams& params, const Unit& unit) {
    constexpr int ROW_UNITS = (HEAD_DIM + WARP_COLUMNS - 1) / WARP_COLUMNS;
    const int pieces = unit.rows * ROW_UNITS;
    for (int piece = threadIdx.x / WARP_SIZE; piece < pieces; piece += WARPS) {
        merge_row(params, unit, piece / ROW_UNITS,
                  piece % ROW_UNITS * WARP_COLUMNS + threadIdx.x % WARP_SIZE * LANE_COLUMNS);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_PER_SM)
    attention(const __grid_constant__ PagedParams params) {
    extern __shared__ __align__(128) unsigned char shared_memory[];
    SharedMemory& shared = *reinterpret_cast<SharedMemory*>(shared_memory);
    if (threadIdx.x < WARP_SIZE) {
        locate(params, shared.walk);
        if (threadIdx.x == 0) {
            for (int i = 0; i < AHEAD; ++i) shared.walk.next(params, shared.unit(i));
        }
    }
    __syncthreads();
    if (shared.unit(0).rows == 0) return;

    // The first keys go ahead of Q, whose rows take longer to find.
    KeyOperand keys;
    ValueOperand values;
    QueryOperand query;
    Loader loader(params, shared);
    loader.load_keys(params, keys);
    loader.load_values(params, shared, 0, values);
    query.load(params, shared.unit(0));

    // The first thread of the last warp, which has the fewest rows to merge.
    const bool keeps_books = threadIdx.x == THREADS - WARP_SIZE;
    unsigned arrived = 0;  // before the block at the unit before
    // Merges the unit before if the block was the last to arrive at it. All threads take part; what
    // the thread that arrived has acquired the others read behind the barrier.
    const auto merge_before = [&](int number, auto hand_over) {
        // UNREACHED: at the end of a block's way there is always a unit before.
        const bool shares = number > 0 && shared.unit(number - 1).parts > 1;
        if (keeps_books && shares) {
            shared.merges = arrived + 1 == static_cast<unsigned>(shared.unit(number - 1).parts);
        }
        hand_over();
        __syncthreads();
        if (shares && shared.merges) merge_tile(params, shared.unit(number - 1));
    };

#pragma unroll 1
    for (int number = 0;; ++number) {
        const Unit& unit = shared.unit(number);
        if (unit.rows == 0) {
            merge_before(number, [] {});
            break;
        }
        loader.catch_up(params, shared, number, keys, values);
        query.take_sign(params);

        WarpRows rows(params, query);
        const int warp_strip = threadIdx.x / WARP_SIZE * WARP_STRIPS;
        bool adds = false;
#pragma unroll 1
        for (int strip = warp_strip; strip < warp_strip + WARP_STRIPS; ++strip) {
            const Strips own = Strips::of<1>(unit, strip);
            if (WARP_STRIPS > 1 && own.tiles == 0) continue;
            const int end = own.first_key + own.tiles * TILE_KEYS;
#pragma unroll 1
            for (int key = own.first_key; key < end; key += TILE_KEYS) {
                const bool is_whole = key >= unit.whole.begin && key + TILE_KEYS <= unit.whole.end;
                WarpRows::Scores score = {};
                rows.multiply_keys(score, keys);
                loader.load_keys(params, keys);
                if (params.softcap > 0.0f) WarpRows::cap_scores(params, score);
                if (!is_whole) {
                    WarpRows::mask_scores(score, [&](int row) {
                        const unsigned packed = unit.first_row + min(row, unit.rows - 1);
                        const int position = packed / static_cast<unsigned>(group_of(params));
                        const KeyRange seen = visible_range(params, unit.own, position);
                        return KeyRange{seen.begin - key, seen.end - key};
                    });
                }
                rows.raise_maxima(score, key == own.first_key);
                rows.multiply_values(score, values);
                loader.load_values(params, shared, number, values);
            }
            if (WARP_STRIPS > 1) {
                rows.hand_over(shared.parts, unit.rows, adds);
                rows.start_over();
                adds = true;
            }
        }
        query.load(params, shared.unit(number + 1));

        // Nothing that a warp alone saw is nothing all the same.
        const bool leaves = WARP_STRIPS == 1 || !adds;
        merge_before(number, [&] {
            if (leaves) rows.hand_over(shared.parts, unit.rows, false);
        });
        add_strips(params, shared, unit);
        if (keeps_books) shared.walk.next(params, shared.unit(number + AHEAD));
        __syncthreads();
        if (keeps_books && unit.parts > 1) arrived = arrive(arrivals(params, unit), unit.parts);
    }
}
