// Locks, flags, counters and grid barriers in global and shared memory, with the fences and scopes that they need, and
// without.
//
// `//@` before a kernel says how it is launched and what the interpreter finds: see tests/it/kernels.rs.
#define KERNEL extern "C" __global__ void
#define DEVICE __device__ __forceinline__

template <int SCOPE> DEVICE void fence() {
    if (SCOPE == 0) __threadfence_block();
    if (SCOPE == 1) __threadfence();
    if (SCOPE == 2) __threadfence_system();
}
DEVICE void store_release_gpu(int* p, int v) { asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(p), "r"(v) : "memory"); }
DEVICE void store_release_cta(int* p, int v) { asm volatile("st.release.cta.global.s32 [%0], %1;" ::"l"(p), "r"(v) : "memory"); }
DEVICE void store_relaxed_gpu(int* p, int v) { asm volatile("st.relaxed.gpu.global.s32 [%0], %1;" ::"l"(p), "r"(v) : "memory"); }
DEVICE void store_relaxed_cta(int* p, int v) { asm volatile("st.relaxed.cta.global.s32 [%0], %1;" ::"l"(p), "r"(v) : "memory"); }
DEVICE int load_acquire_gpu(int* p) { int v; asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(v) : "l"(p) : "memory"); return v; }
DEVICE int load_acquire_cta(int* p) { int v; asm volatile("ld.acquire.cta.global.s32 %0, [%1];" : "=r"(v) : "l"(p) : "memory"); return v; }
DEVICE int load_relaxed_gpu(int* p) { int v; asm volatile("ld.relaxed.gpu.global.s32 %0, [%1];" : "=r"(v) : "l"(p) : "memory"); return v; }
DEVICE int load_relaxed_cta(int* p) { int v; asm volatile("ld.relaxed.cta.global.s32 %0, [%1];" : "=r"(v) : "l"(p) : "memory"); return v; }
DEVICE int load_volatile(int* p) { return *(volatile int*)p; }
DEVICE void store_volatile(int* p, int v) { *(volatile int*)p = v; }
DEVICE void no_fence() {}

// The first of two writes data and then a flag; the second waits for the flag and reads the data.
#define FLAG(name, first, second, before, write, read, after)                                     \
    KERNEL name(int* data, int* flag, int* out) {                                                  \
        if (first) { data[0] = 42; before; write(flag, 1); }                                       \
        if (second) { while (read(flag) == 0) {} after; out[0] = data[0]; if (out[0] != 42) __trap(); } \
    }
#define BLOCKS (blockIdx.x == 0 && threadIdx.x == 0), (blockIdx.x == 1 && threadIdx.x == 0)
#define WARPS (threadIdx.x == 0), (threadIdx.x == 32)
#define FLAG_OF(name, who, before, write, read, after) FLAG(name, who, before, write, read, after)

//@ clean grid=2 block=32 args=i32:1:zero,i32:1:zero,i32:1:zero
FLAG_OF(flag_release_acquire, BLOCKS, no_fence(), store_release_gpu, load_acquire_gpu, no_fence())
//@ clean grid=1 block=64 args=i32:1:zero,i32:1:zero,i32:1:zero
FLAG_OF(flag_release_acquire_in_a_block, WARPS, no_fence(), store_release_gpu, load_acquire_gpu, no_fence())
//@ clean grid=1 block=64 args=i32:1:zero,i32:1:zero,i32:1:zero
FLAG_OF(flag_of_the_block_in_a_block, WARPS, no_fence(), store_release_cta, load_acquire_cta, no_fence())
//@ clean grid=2 block=32 args=i32:1:zero,i32:1:zero,i32:1:zero
FLAG_OF(flag_fences_volatile, BLOCKS, fence<1>(), store_volatile, load_volatile, fence<1>())
//@ clean grid=2 block=32 args=i32:1:zero,i32:1:zero,i32:1:zero
FLAG_OF(flag_fences_of_the_system, BLOCKS, fence<2>(), store_volatile, load_volatile, fence<2>())
//@ clean grid=2 block=32 args=i32:1:zero,i32:1:zero,i32:1:zero
FLAG_OF(flag_fences_relaxed, BLOCKS, fence<1>(), store_relaxed_gpu, load_relaxed_gpu, fence<1>())
//@ clean grid=2 block=32 args=i32:1:zero,i32:1:zero,i32:1:zero
FLAG_OF(flag_fence_then_acquire, BLOCKS, fence<1>(), store_relaxed_gpu, load_acquire_gpu, no_fence())
//@ clean grid=2 block=32 args=i32:1:zero,i32:1:zero,i32:1:zero
FLAG_OF(flag_release_then_fence, BLOCKS, no_fence(), store_release_gpu, load_relaxed_gpu, fence<1>())
//@ clean grid=1 block=64 args=i32:1:zero,i32:1:zero,i32:1:zero
FLAG_OF(flag_block_fences_in_a_block, WARPS, fence<0>(), store_volatile, load_volatile, fence<0>())
//@ clean grid=1 block=64 args=i32:1:zero,i32:1:zero,i32:1:zero
FLAG_OF(flag_narrow_relaxed_in_a_block, WARPS, fence<0>(), store_relaxed_cta, load_relaxed_cta, fence<0>())

//@ finds=GlobalRace grid=2 block=32 args=i32:1:zero,i32:1:zero,i32:1:zero
FLAG_OF(flag_release_of_the_block, BLOCKS, no_fence(), store_release_cta, load_acquire_gpu, no_fence())
//@ finds=GlobalRace grid=2 block=32 args=i32:1:zero,i32:1:zero,i32:1:zero
FLAG_OF(flag_acquire_of_the_block, BLOCKS, no_fence(), store_release_gpu, load_acquire_cta, no_fence())
//@ finds=GlobalRace grid=2 block=32 args=i32:1:zero,i32:1:zero,i32:1:zero
FLAG_OF(flag_block_fence_of_the_writer, BLOCKS, fence<0>(), store_volatile, load_volatile, fence<1>())
//@ finds=GlobalRace grid=2 block=32 args=i32:1:zero,i32:1:zero,i32:1:zero
FLAG_OF(flag_block_fence_of_the_reader, BLOCKS, fence<1>(), store_volatile, load_volatile, fence<0>())
//@ finds=GlobalRace grid=2 block=32 args=i32:1:zero,i32:1:zero,i32:1:zero
FLAG_OF(flag_without_the_writers_fence, BLOCKS, no_fence(), store_volatile, load_volatile, fence<1>())
//@ finds=GlobalRace grid=2 block=32 args=i32:1:zero,i32:1:zero,i32:1:zero
FLAG_OF(flag_without_the_readers_fence, BLOCKS, fence<1>(), store_volatile, load_volatile, no_fence())
//@ finds=GlobalRace grid=2 block=32 args=i32:1:zero,i32:1:zero,i32:1:zero
FLAG_OF(flag_relaxed_without_the_readers_fence, BLOCKS, fence<1>(), store_relaxed_gpu, load_relaxed_gpu, no_fence())
//@ finds=GlobalRace grid=1 block=64 args=i32:1:zero,i32:1:zero,i32:1:zero
FLAG_OF(flag_without_fences_in_a_block, WARPS, no_fence(), store_volatile, load_volatile, no_fence())
//@ finds=GlobalRace grid=2 block=32 args=i32:1:zero,i32:1:zero,i32:1:zero
FLAG_OF(flag_relaxed_in_the_block_only, BLOCKS, fence<1>(), store_relaxed_cta, load_relaxed_cta, fence<1>())

// A lock around a plain counter.
#define LOCK(name, who, acquire, release)                      \
    KERNEL name(int* lock, int* count) {                       \
        if (who) {                                              \
            while (atomicCAS(lock, 0, 1) != 0) {}               \
            acquire;                                            \
            count[0] += 1;                                      \
            release;                                            \
            atomicExch(lock, 0);                                \
        }                                                       \
    }
#define EACH_WARP (threadIdx.x % 32 == 0)
//@ clean grid=3 block=64 args=i32:1:zero,i32:1:zero
LOCK(lock_between_blocks, EACH_WARP, __threadfence(), __threadfence())
//@ clean grid=1 block=128 args=i32:1:zero,i32:1:zero
LOCK(lock_in_a_block, EACH_WARP, __threadfence(), __threadfence())
//@ clean grid=1 block=128 args=i32:1:zero,i32:1:zero
LOCK(lock_in_a_block_with_its_fences, EACH_WARP, __threadfence_block(), __threadfence_block())
//@ finds=GlobalRace grid=3 block=64 args=i32:1:zero,i32:1:zero
LOCK(lock_with_block_fences, EACH_WARP, __threadfence_block(), __threadfence_block())
//@ finds=GlobalRace grid=1 block=128 args=i32:1:zero,i32:1:zero
LOCK(lock_without_the_releasing_fence, EACH_WARP, __threadfence(), no_fence())
//@ finds=GlobalRace grid=1 block=128 args=i32:1:zero,i32:1:zero
LOCK(lock_without_the_acquiring_fence, EACH_WARP, no_fence(), __threadfence())
//@ finds=GlobalRace grid=2 block=32 args=i32:1:zero,i32:1:zero
LOCK(lock_without_fences, EACH_WARP, no_fence(), no_fence())

// The lock in shared memory, the counter, too.
//@ clean grid=1 block=128 args=i32:1:zero
KERNEL lock_in_shared_memory(int* out) {
    __shared__ int lock, count;
    if (threadIdx.x == 0) { lock = 0; count = 0; }
    __syncthreads();
    if (threadIdx.x % 32 == 0) {
        while (atomicCAS(&lock, 0, 1) != 0) {}
        __threadfence_block();
        count += 1;
        __threadfence_block();
        atomicExch(&lock, 0);
    }
    __syncthreads();
    if (threadIdx.x == 0) { out[0] = count; if (count != 4) __trap(); }
}
//@ finds=SharedRace grid=1 block=128 args=i32:1:zero
KERNEL lock_in_shared_memory_without_fences(int* out) {
    __shared__ int lock, count;
    if (threadIdx.x == 0) { lock = 0; count = 0; }
    __syncthreads();
    if (threadIdx.x % 32 == 0) {
        while (atomicCAS(&lock, 0, 1) != 0) {}
        count += 1;
        atomicExch(&lock, 0);
    }
    __syncthreads();
    if (threadIdx.x == 0) out[0] = count;
}

// A lock in global memory around shared memory.
//@ clean grid=1 block=128 args=i32:1:zero,i32:1:zero
KERNEL global_lock_of_shared_memory(int* lock, int* out) {
    __shared__ int count;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    if (threadIdx.x % 32 == 0) {
        while (atomicCAS(lock, 0, 1) != 0) {}
        __threadfence_block();
        count += 1;
        __threadfence_block();
        atomicExch(lock, 0);
    }
    __syncthreads();
    if (threadIdx.x == 0) { out[0] = count; if (count != 4) __trap(); }
}

// The last block adds what all have written.
#define LAST(name, before, after, add)                                                    \
    KERNEL name(int* parts, unsigned* count, int* out) {                                  \
        __shared__ bool last;                                                              \
        parts[blockIdx.x * 64 + threadIdx.x] = threadIdx.x;                                \
        before;                                                                            \
        __syncthreads();                                                                   \
        if (threadIdx.x == 0) { add; }                                                     \
        __syncthreads();                                                                   \
        if (last) {                                                                        \
            after;                                                                         \
            int sum = 0;                                                                   \
            for (unsigned block = 0; block < gridDim.x; ++block) sum += parts[block * 64 + threadIdx.x]; \
            out[threadIdx.x] = sum;                                                        \
        }                                                                                  \
    }
//@ clean grid=4 block=64 varies args=i32:256:zero,u32:1:zero,i32:64:zero
LAST(last_block_fence_of_thread_0, no_fence(), no_fence(), __threadfence(); last = atomicAdd(count, 1u) == gridDim.x - 1; __threadfence())
//@ clean grid=4 block=64 varies args=i32:256:zero,u32:1:zero,i32:64:zero
LAST(last_block_fence_of_all, __threadfence(), __threadfence(), last = atomicAdd(count, 1u) == gridDim.x - 1)
//@ finds=GlobalRace grid=4 block=64 args=i32:256:zero,u32:1:zero,i32:64:zero
LAST(last_block_without_a_fence, no_fence(), no_fence(), last = atomicAdd(count, 1u) == gridDim.x - 1)
//@ finds=GlobalRace grid=4 block=64 args=i32:256:zero,u32:1:zero,i32:64:zero
LAST(last_block_with_block_fences, no_fence(), no_fence(), __threadfence_block(); last = atomicAdd(count, 1u) == gridDim.x - 1; __threadfence_block())
//@ finds=GlobalRace grid=4 block=64 args=i32:256:zero,u32:1:zero,i32:64:zero
LAST(last_block_counts_in_the_block, no_fence(), no_fence(), __threadfence(); last = atomicAdd_block(count, 1u) == gridDim.x - 1; __threadfence())
//@ finds=GlobalRace grid=4 block=64 args=i32:256:zero,u32:1:zero,i32:64:zero
LAST(last_block_without_the_readers_fence, __threadfence(), no_fence(), last = atomicAdd(count, 1u) == gridDim.x - 1)

// All blocks wait for all.
#define GRID(name, arrive, leave)                                               \
    KERNEL name(int* data, unsigned* count, int* out) {                          \
        data[blockIdx.x * 32 + threadIdx.x] = blockIdx.x;                        \
        __syncthreads();                                                         \
        if (threadIdx.x == 0) {                                                  \
            arrive;                                                              \
            atomicAdd(count, 1u);                                                \
            while (*(volatile unsigned*)count < gridDim.x) {}                    \
            leave;                                                               \
        }                                                                        \
        __syncthreads();                                                         \
        unsigned next = (blockIdx.x + 1) % gridDim.x;                            \
        out[blockIdx.x * 32 + threadIdx.x] = data[next * 32 + threadIdx.x];      \
    }
//@ clean grid=3 block=32 varies args=i32:96:zero,u32:1:zero,i32:96:zero
GRID(grid_barrier, __threadfence(), __threadfence())
//@ finds=GlobalRace grid=3 block=32 args=i32:96:zero,u32:1:zero,i32:96:zero
GRID(grid_barrier_without_the_first_fence, no_fence(), __threadfence())
//@ finds=GlobalRace grid=3 block=32 args=i32:96:zero,u32:1:zero,i32:96:zero
GRID(grid_barrier_without_the_second_fence, __threadfence(), no_fence())

// Knowledge goes through a third block.
//@ clean grid=3 block=32 args=i32:1:zero,i32:2:zero,i32:1:zero
KERNEL relay(int* data, int* flags, int* out) {
    if (threadIdx.x != 0) return;
    if (blockIdx.x == 0) { data[0] = 7; store_release_gpu(flags, 1); }
    if (blockIdx.x == 1) { while (load_acquire_gpu(flags) == 0) {} store_release_gpu(flags + 1, 1); }
    if (blockIdx.x == 2) { while (load_acquire_gpu(flags + 1) == 0) {} out[0] = data[0]; }
}
//@ finds=GlobalRace grid=3 block=32 args=i32:1:zero,i32:2:zero,i32:1:zero
KERNEL relay_that_forgets(int* data, int* flags, int* out) {
    if (threadIdx.x != 0) return;
    if (blockIdx.x == 0) { data[0] = 7; store_release_gpu(flags, 1); }
    if (blockIdx.x == 1) { while (load_relaxed_gpu(flags) == 0) {} store_release_gpu(flags + 1, 1); }
    if (blockIdx.x == 2) { while (load_acquire_gpu(flags + 1) == 0) {} out[0] = data[0]; }
}

// Counters that nothing but their sum depends on.
//@ clean grid=4 block=64 args=i32:256:iota,i32:8:zero
KERNEL histogram(const int* in, int* bins) { atomicAdd(&bins[in[blockIdx.x * 64 + threadIdx.x] % 8], 1); }
//@ finds=GlobalRace grid=4 block=64 args=i32:256:iota,i32:8:zero
KERNEL histogram_without_atomics(const int* in, int* bins) { bins[in[blockIdx.x * 64 + threadIdx.x] % 8] += 1; }
//@ finds=GlobalRace grid=4 block=64 args=i32:256:iota,i32:8:zero
KERNEL histogram_atomic_in_the_block(const int* in, int* bins) { atomicAdd_block(&bins[in[blockIdx.x * 64 + threadIdx.x] % 8], 1); }
//@ clean grid=1 block=64 args=i32:256:iota,i32:8:zero
KERNEL histogram_atomic_in_the_only_block(const int* in, int* bins) { atomicAdd_block(&bins[in[blockIdx.x * 64 + threadIdx.x] % 8], 1); }
//@ finds=GlobalRace grid=2 block=32 args=i32:1:zero,i32:64:zero
KERNEL counter_read_while_others_count(int* count, int* out) {
    atomicAdd(count, 1);
    out[blockIdx.x * 32 + threadIdx.x] = *count;
}
