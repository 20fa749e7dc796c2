//! Where things lie: the windows of the generic address space and the layout of shared addresses.

/// Generic addresses of shared memory start here.
pub(crate) const SHARED_WINDOW: u64 = 0x0000_7f00_0000_0000;
/// Generic addresses of a thread's local memory start here.
pub(crate) const LOCAL_WINDOW: u64 = 0x0000_7e00_0000_0000;
/// Generic addresses of the kernel's parameters start here.
pub(crate) const PARAMETER_WINDOW: u64 = 0x0000_7d00_0000_0000;
/// Bytes that a window spans.
pub(crate) const WINDOW_BYTES: u64 = 1 << 32;

/// Devices since compute capability 8.0 keep the first kibibyte of shared memory for themselves.
pub(crate) const SHARED_BASE: u32 = 1024;
/// A shared::cluster address is `(rank + 1) << CLUSTER_SHIFT | offset`; below that, it is the block's own memory.
pub(crate) const CLUSTER_SHIFT: u32 = 24;

/// Buffers are handed out from here on, far from null.
pub(crate) const GLOBAL_BASE: u64 = 0x0000_0007_0000_0000;
/// Unmapped bytes between two buffers: an overrun hits nothing.
pub(crate) const GUARD_BYTES: u64 = 1 << 16;

/// The block and the offset that a 32-bit shared address means, seen from the block with this rank.
pub(crate) fn split_shared(address: u32, own_rank: u32) -> (u32, u32) {
    match address >> CLUSTER_SHIFT {
        0 => (own_rank, address),
        tagged => (tagged - 1, address & ((1 << CLUSTER_SHIFT) - 1)),
    }
}
