// A ring of stages through which tiles go from one producer thread to the warps of the consumers.
#pragma once

#include "machine/mbarrier.cuh"
#include "machine/tensor_copy.cuh"

// The barriers at which the two sides take turns, one of each for a stage.
template <int STAGES>
struct Turns {
    Barrier full[STAGES];   // the producer's copy has arrived
    Barrier empty[STAGES];  // every consumer warp is done with it

    __device__ void initialise(int consumer_warps) {
        for (int stage = 0; stage < STAGES; ++stage) {
            full[stage].initialise(1);
            empty[stage].initialise(consumer_warps);
        }
    }
};

template <typename Tile, int STAGES>
class TileProducer {
    Tile (&tiles)[STAGES];
    Turns<STAGES>& turns;
    RingPosition<STAGES> at;

public:
    __device__ TileProducer(Tile (&tiles)[STAGES], Turns<STAGES>& turns)
        : tiles(tiles), turns(turns) {}

    // Starts copying the tile whose first row is `row` as soon as a stage is empty.
    __device__ void load(const TensorMap& map, int row, int head, int batch, Keep keep) {
        turns.empty[at.stage].wait(at.parity ^ 1);  // of a fresh barrier: no wait
        tiles[at.stage].load_async(map, turns.full[at.stage], row, head, batch, keep);
        at.advance();
    }
};

template <typename Tile, int STAGES>
class TileConsumer {
    Tile (&tiles)[STAGES];
    Turns<STAGES>& turns;
    RingPosition<STAGES> at;

public:
    __device__ TileConsumer(Tile (&tiles)[STAGES], Turns<STAGES>& turns)
        : tiles(tiles), turns(turns) {}

    __device__ void wait() { turns.full[at.stage].wait(at.parity); }

    // The tile that was waited for.
    __device__ Tile& tile() const { return tiles[at.stage]; }

    // This warp is done with it.
    __device__ void release(int lane) {
        if (lane == 0) turns.empty[at.stage].arrive();
        at.advance();
    }
};
