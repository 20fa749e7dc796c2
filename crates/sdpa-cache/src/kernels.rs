//! The kernels that copy, `kernels/cache/append.cu`: for whoever packs them and asks what they cost.

use sdpa_core::{Architecture, Budget, PackedPtx, Specialisation};

/// The PTX of the kernels, made by `sdpa build-ptx cache`.
pub static PTX: PackedPtx = PackedPtx::new("cache", include_bytes!("../cache.ptx.zst"));

/// Threads of a block, or a few less where a token's vectors do not divide them.
pub(crate) const THREADS: u32 = 256;

const fn kernel(name: &'static str, defines: &'static [&'static str]) -> Specialisation {
    Specialisation {
        source: "cache/append.cu",
        ptx: &PTX,
        name,
        architecture: Architecture::Compute80,
        defines,
        threads: THREADS,
        shared_bytes: 0,
        boxes: None,
    }
}

/// Copies 16 bytes at a time: for rows that begin at multiples of 16 bytes and are as long.
pub(crate) const WIDE: Specialisation = kernel("bytes16", &["VECTOR_BYTES=16"]);

/// Copies an element at a time.
pub(crate) const NARROW: Specialisation = kernel("bytes2", &["VECTOR_BYTES=2"]);

/// Every kernel, in the order of the pack.
pub static KERNELS: [Specialisation; 2] = [WIDE, NARROW];

/// What they may cost: no spills, and as many blocks on each multiprocessor as its threads allow.
pub const BUDGET: Budget = Budget { registers: 32, shared_bytes: 0, spill_bytes: 0 };
