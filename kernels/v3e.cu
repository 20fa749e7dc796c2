// V3e: short problems in even shares, fetched by the copy engine.
//
// parent: v2e
// idea:   a short problem takes as long as its slowest warp, and v2e makes its warps work for their
//         tiles: each spends as many instructions on copying as on attending, all of a block's wait
//         for each other's copies, and of causal rows the last block has the most keys. Here one
//         thread asks the copy engine for everything, a group of warps waits for its own keys only,
//         and a block takes 16 rows from the front and 16 from the back: all blocks, and all the
//         schedulers in them, see about the same number of keys. The groups' parts meet in the
//         layout of the products: each group adds up a quarter of the columns.
// needs:  16-byte aligned tensors, strides in multiples of 8 elements
// build:  -DHEAD_DIM=64 -DTILE_KEYS=64|128, f16 or -DDTYPE_BF16
#include "common/element.cuh"
#include "common/mask.cuh"
#include "common/params.cuh"
#include "common/query_tile.cuh"
#include "common/softmax.cuh"
#include "common/swizzled_tile.cuh"
#include "common/tensor_copy.cuh"
#include "common/warp.cuh"
#include "common/warp_attention.cuh"

// Tile laws. A strip is the rows of a warp; a block has two of them, each once in every group.
constexpr int STRIPS = 2;
constexpr int STRIP_ROWS = 16;
constexpr int KEY_GROUPS = 4;
constexpr int WARPS = KEY_GROUPS * STRIPS;
constexpr int THREADS = WARPS * WARP_SIZE;
constexpr int GROUP_BLOCKS = HEAD_DIM / 8 / KEY_GROUPS;  // of 8 columns, that a group adds up
constexpr int LANE_ROWS = 2;  // fragments give each lane two rows, 8 apart

static_assert(HEAD_DIM == BOX_COLUMNS, "a row of a tile is one of a box, in the same permutation");
static_assert(GROUP_BLOCKS == 2, "with both rows, four chunks of 16 bytes for four lanes");

struct SharedMemory {
    alignas(1024) SwizzledTile<STRIP_ROWS, HEAD_DIM> query[STRIPS];
    alignas(1024) SwizzledTile<TILE_KEYS, HEAD_DIM> key[KEY_GROUPS];
    alignas(1024) SwizzledTile<TILE_KEYS, HEAD_DIM> value[KEY_GROUPS];
    // What the groups hand to one another, as it lies in the lanes: [strip][to][from].
    float4 part[STRIPS][KEY_GROUPS][KEY_GROUPS][GROUP_BLOCKS][WARP_SIZE];
    RowStatistics statistics[STRIPS][KEY_GROUPS][STRIP_ROWS];
    Barrier query_full;
    Barrier key_full[KEY_GROUPS];
    Barrier value_full[KEY_GROUPS];
};

static_assert(sizeof(SharedMemory) == LAUNCH_SHARED_BYTES, "what the plan asks for");
static_assert(THREADS == LAUNCH_THREADS, "what the plan asks for");
static_assert(STRIP_ROWS == LAUNCH_QUERY_BOX_ROWS && TILE_KEYS == LAUNCH_KEY_BOX_ROWS &&
                  TILE_KEYS == LAUNCH_VALUE_BOX_ROWS,
              "what the maps are made for");

// The block's two strips of a head's rows: the early one as far from the first row as the late one
// from the last. In the middle they may be the same. The grid is [pairs, heads of all sequences]:
// a division of the block's number would be waited for before anything can be loaded.
struct PairOfStrips {
    int batch;
    int head;
    int early;  // first rows
    int late;

    __device__ explicit PairOfStrips(const AttentionParams& params) {
        const int strips = (params.len_q + STRIP_ROWS - 1) / STRIP_ROWS;
        batch = params.batch == 1 ? 0 : blockIdx.y / params.heads_q;
        head = blockIdx.y - batch * params.heads_q;
        early = blockIdx.x * STRIP_ROWS;
        late = (strips - 1) * STRIP_ROWS - early;
    }
};

// One thread asks for everything at once: the queries, the keys of all groups, then their values.
// In any other order a group's values keep the next group's keys waiting.
__device__ inline void start_copies(SharedMemory& shared, const AttentionParams& params,
                                    const TensorMaps& maps, const PairOfStrips& rows,
                                    int key_tiles) {
    shared.query_full.initialise(1);
#pragma unroll
    for (int group = 0; group < KEY_GROUPS; ++group) {
        shared.key_full[group].initialise(1);
        shared.value_full[group].initialise(1);
    }
    publish_barriers();

    const int head_kv = key_head(params, rows.head);
    shared.query_full.arrive_and_expect(sizeof(shared.query));
    load_box(shared_address(&shared.query[0]), maps.query, shared.query_full, 0, rows.early,
             rows.head, rows.batch, Keep::BRIEFLY);
    load_box(shared_address(&shared.query[1]), maps.query, shared.query_full, 0, rows.late,
             rows.head, rows.batch, Keep::BRIEFLY);
    const auto load = [&](auto& tiles, Barrier(&full)[KEY_GROUPS], const TensorMap& map) {
#pragma unroll
        for (int group = 0; group < KEY_GROUPS; ++group) {
            if (group >= key_tiles) break;
            full[group].arrive_and_expect(sizeof(tiles[group]));
            load_box(shared_address(&tiles[group]), map, full[group], 0, group * TILE_KEYS, head_kv,
                     rows.batch, Keep::LONG);
        }
    };
    load(shared.key, shared.key_full, maps.key);
    load(shared.value, shared.value_full, maps.value);
}

// INSIGHT: parts are handed over as the products left them, 16 bytes a lane: no bank conflict, no
// address to work out, and each group has the columns of one quarter to add up.
template <typename Rows>
__device__ inline void hand_over_parts(SharedMemory& shared, Rows& rows, int strip, int group,
                                       int lane) {
    RowStatistics own[LANE_ROWS];
    rows.complete_statistics(own);
#pragma unroll
    for (int half = 0; half < LANE_ROWS; ++half) {
        if (lane % 4 == 0) shared.statistics[strip][group][8 * half + lane / 4] = own[half];
    }
#pragma unroll
    for (int column = 0; column < HEAD_DIM / 8; ++column) {
        const int to = column / GROUP_BLOCKS;
        shared.part[strip][to][group][column % GROUP_BLOCKS][lane] =
            rows.columns_of_both_rows(column);
    }
}

// The groups' parts of this group's columns, added up in the same order everywhere and stored.
__device__ inline void add_up_parts(const SharedMemory& shared, const AttentionParams& params,
                                    const QueryTile& tile, int strip, int group, int lane) {
    RowStatistics total[LANE_ROWS];
    float factor[LANE_ROWS][KEY_GROUPS];
    float normalise[LANE_ROWS];
#pragma unroll
    for (int half = 0; half < LANE_ROWS; ++half) {
        total[half] = weigh_parts(
            [&](int from) { return shared.statistics[strip][from][8 * half + lane / 4]; },
            factor[half]);
        normalise[half] = normaliser(total[half].sum);
    }
    unsigned chunk[4];  // [column block][row]: what the four lanes that share the rows hold of each
#pragma unroll
    for (int block = 0; block < GROUP_BLOCKS; ++block) {
        float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
        for (int from = 0; from < KEY_GROUPS; ++from) {
            const float4 part = shared.part[strip][group][from][block][lane];
            sum.x = fmaf(part.x, factor[0][from], sum.x);
            sum.y = fmaf(part.y, factor[0][from], sum.y);
            sum.z = fmaf(part.z, factor[1][from], sum.z);
            sum.w = fmaf(part.w, factor[1][from], sum.w);
        }
        chunk[2 * block] = to_element_pair(sum.x * normalise[0], sum.y * normalise[0]);
        chunk[2 * block + 1] = to_element_pair(sum.z * normalise[1], sum.w * normalise[1]);
    }
    // Of the four lanes each gets one of the four chunks, whole.
    const int member = lane % 4;
    transpose_among_four(chunk, member);
    const int row = tile.first_row + 8 * (member % 2) + lane / 4;
    const int column = 8 * (group * GROUP_BLOCKS + member / 2);
    if (row >= params.len_q) return;
    if (column < params.head_dim) {
        Element* const output = head_data(params.output, tile.batch, tile.head);
        *reinterpret_cast<uint4*>(output + row * params.output.row_stride + column) =
            make_uint4(chunk[0], chunk[1], chunk[2], chunk[3]);
    }
    if (group == 0 && member < LANE_ROWS) {
        store_lse(params, tile, row, row_lse(member == 0 ? total[0] : total[1]));
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    attention(const __grid_constant__ AttentionParams params,
              const __grid_constant__ TensorMaps maps) {
    extern __shared__ __align__(1024) unsigned char shared_memory[];
    SharedMemory& shared = *reinterpret_cast<SharedMemory*>(shared_memory);

    const PairOfStrips block_rows(params);
    // The late strip's last row sees the most keys.
    const int last_row = min(block_rows.late + STRIP_ROWS, params.len_q) - 1;
    const int key_tiles = (visible_keys(params, last_row) + TILE_KEYS - 1) / TILE_KEYS;
    if (threadIdx.x == 0) start_copies(shared, params, maps, block_rows, key_tiles);
    __syncthreads();

    // A scheduler has every fourth warp: of the two, one gets early rows and one late ones.
    const int warp = __shfl_sync(ALL_LANES, threadIdx.x / WARP_SIZE, 0);
    const int lane = threadIdx.x % WARP_SIZE;
    const int group = warp / STRIPS;
    const int strip = (warp + group / 2) % STRIPS;
    const int first_row = strip == 0 ? block_rows.early : block_rows.late;
    const bool strip_is_used = strip == 0 || block_rows.late != block_rows.early;

    shared.query_full.wait(0);
    if (params.scale < 0.0f) {
        // Moves into Q, so that the softmax may count on the scale being positive.
        if (group == 0) shared.query[strip].template negate_own<WARP_SIZE>(lane);
        __syncthreads();
    }
    const LaneStart start(shared.query[strip], 0, shared.key[group], shared.value[group]);
    using Rows = WarpAttention<1, TILE_KEYS>;
    Rows rows(params, start.query);

    // Of the strip's rows the first sees the fewest keys and the last the most.
    const int first_key = group * TILE_KEYS;
    const int last_own_row = min(first_row + STRIP_ROWS, params.len_q) - 1;
    if (strip_is_used && visible_keys(params, last_own_row) > first_key) {
        typename Rows::Scores score = {};
        const bool masked = visible_keys(params, first_row) < first_key + TILE_KEYS;
        shared.key_full[group].wait(0);
        rows.attend_to_keys(score, start, masked, [&](int row) {
            return visible_keys(params, first_row + row) - first_key;
        });
        shared.value_full[group].wait(0);
        rows.attend_to_values(score, start);
    }

    hand_over_parts(shared, rows, strip, group, lane);
    __syncthreads();
    if (!strip_is_used) return;
    const QueryTile tile = {block_rows.batch, block_rows.head, first_row};
    add_up_parts(shared, params, tile, strip, group, lane);
}
