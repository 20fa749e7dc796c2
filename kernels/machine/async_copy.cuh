// cp.async (sm_80): global to shared memory without passing through registers. Legal means: 16
// bytes, both addresses 16-byte aligned, every copy committed to a group and the group waited for
// by the thread that issued it; other threads see the data only after a barrier behind that wait.
#pragma once

// Copies 16 bytes, or writes 16 zero bytes and reads nothing where `valid` is false.
__device__ inline void cp_async_16(void* shared_destination, const void* source, bool valid) {
    const auto destination = static_cast<unsigned>(__cvta_generic_to_shared(shared_destination));
    const int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(destination), "l"(source),
                 "r"(bytes)
                 : "memory");
}

__device__ inline void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most PENDING of this thread's youngest groups are still under way.
template <int PENDING>
__device__ inline void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// The place in a ring that tile number `index` is copied to.
template <int PLACES>
__device__ inline int ring_stage(int index) {
    return index % PLACES;
}

// How many bytes behind the ring's start it is then read, where a place has `bytes`.
template <int PLACES>
__device__ inline int ring_offset(int index, int bytes) {
    return index % PLACES * bytes;
}
