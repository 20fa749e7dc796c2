//! Executes NVIDIA PTX on the CPU and finds what goes wrong in it, as Miri does for Rust.
//!
//! A kernel runs as the device would run it: warps of 32 lanes that diverge, blocks with shared memory, asynchronous
//! copies, tensor cores. While it runs, every access is checked: for races by happens-before, so that they are found
//! whatever the schedule was; for bounds, alignment and initialisation; for copies that are read before their wait;
//! for barriers and shuffles that not all lanes reach; for deadlocks. What it did is counted exactly.
//!
//! ```
//! use ptx_interp::{FindingKind, Launch, Memory, Module};
//!
//! // Two warps write and read one word of shared memory without a barrier in between.
//! let ptx = "
//! .version 8.0
//! .target sm_80
//! .address_size 64
//! .entry exchange() {
//!     .shared .align 4 .b8 cell[256];
//!     .reg .b32 %r<6>;
//!     mov.u32 %r1, %tid.x;
//!     shl.b32 %r2, %r1, 2;
//!     mov.u32 %r3, cell;
//!     add.s32 %r4, %r3, %r2;
//!     st.shared.u32 [%r4], %r1;
//!     sub.s32 %r4, 63, %r1;
//!     shl.b32 %r4, %r4, 2;
//!     add.s32 %r4, %r3, %r4;
//!     ld.shared.u32 %r5, [%r4];
//!     ret;
//! }";
//! let kernel = Module::parse(ptx)?.kernel("exchange")?;
//! let report = Launch::new([1, 1, 1], [64, 1, 1]).run(&kernel, &mut Memory::new())?;
//! assert!(report.of_kind(FindingKind::SharedRace).next().is_some());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # How it is made
//!
//! `parse` turns text into statements and `decode` turns statements into operations on registers in three banks;
//! an opcode that it does not know is an error with its line. `schedule` gives warps their turns, in an order that
//! the seed chooses; `execute` runs one, lane-wise arithmetic in `alu`, the rest in the modules named after it.
//! `happens_before` knows what is ordered, and `shared_memory` and `global_view` remember who touched what.

mod address_space;
mod alu;
mod async_copy;
mod counters;
mod decode;
mod diagnostics;
mod execute;
mod global_view;
mod happens_before;
mod launch;
mod mbarrier;
mod memory;
mod module;
mod parse;
mod registers;
mod schedule;
mod shared_memory;
mod simd;
mod spelling;
mod tensor;
mod tensor_map;
mod tma;
mod warp;

pub use counters::{Counters, InstructionClass};
pub use decode::DecodeError;
pub use diagnostics::{Finding, FindingKind, Place, SourceLine, ThreadId};
pub use launch::{Checks, Launch, LaunchError, Limits, Report};
pub use memory::{Memory, MemoryError};
pub use module::{Kernel, KernelError, Module};
pub use parse::{Parameter, ParseError};
pub use tensor_map::{ElementType, OutOfBoundsFill, Swizzle, TENSOR_MAP_BYTES, TensorMapDescription, TensorMapError};
