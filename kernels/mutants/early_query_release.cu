// Mutant of v3c: a stage of queries is given back as soon as it has arrived.
// wrong: the next tile's queries may take the place of those that products still read.
// shows: races with the copy engine, where a block has a tile of several key tiles before two others.
#include "machine/tile_ring.cuh"
template <typename Tile, int STAGES>
struct HastyConsumer : TileConsumer<Tile, STAGES> {
    Turns<STAGES>& own_turns;
    RingPosition<STAGES> own_position;

    __device__ HastyConsumer(Tile (&tiles)[STAGES], Turns<STAGES>& turns)
        : TileConsumer<Tile, STAGES>(tiles, turns), own_turns(turns) {}
    __device__ void wait() {
        TileConsumer<Tile, STAGES>::wait();
        if (IS_QUERY<Tile> && threadIdx.x % 32 == 0) {
            own_turns.empty[own_position.stage].arrive();
        }
    }
    __device__ void release(int lane) {
        // Another lane than the one that arrives.
        TileConsumer<Tile, STAGES>::release(IS_QUERY<Tile> ? 1 : lane);
        own_position.advance();
    }

    template <typename Any>
    static constexpr bool IS_QUERY = STAGES == 1 || sizeof(Any) > LAUNCH_KEY_BOX_ROWS * HEAD_DIM * 2;
};
#define TileConsumer HastyConsumer
#include "v3c.cu"
