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
//! Layers, each of which uses only those above it in this list:
//!
//! | layer | what it does |
//! |---|---|
//! | `parse` | turns text into statements |
//! | `decode` | turns statements into operations on registers in three banks |
//! | `registers`, `alu` | execute lane-wise operations, 32 lanes at a time |
//! | `coverage` | counts what has been executed |
//! | `order` | knows what is ordered, what waits for what, and who touched what |
//! | `machine` | holds the state of warps, blocks and clusters, and checks every access |
//! | `execute` | carries out all other operations, one file for each family |
//! | `turn` | gives an instruction of a warp to its family |
//! | `schedule` | gives warps their turns, in an order that the seed chooses |
//! | `module`, `launch` | are what a user calls |

/// The README's example is compiled and run with the other documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod address_space;
mod alu;
mod counters;
mod coverage;
mod decode;
mod diagnostics;
mod execute;
mod launch;
mod machine;
mod memory;
mod module;
mod order;
mod parse;
mod random;
mod registers;
mod schedule;
mod settings;
mod simd;
mod spelling;
mod tensor_map;
mod turn;

pub use counters::{Counters, InstructionClass};
pub use coverage::{BlockCoverage, BranchCoverage, Coverage, InstructionCoverage, LoopCoverage};
pub use decode::DecodeError;
pub use diagnostics::{Finding, FindingKind, Missing, Place, SourceFrame, SourceLine, ThreadId};
pub use launch::{LaunchError, Report};
pub use memory::{Memory, MemoryError};
pub use module::{Kernel, KernelError, Module};
pub use parse::{Parameter, ParseError};
pub use settings::{Checks, Launch, Limits};
pub use tensor_map::{ElementType, OutOfBoundsFill, Swizzle, TENSOR_MAP_BYTES, TensorMapDescription, TensorMapError};

/// Errors are printed as their sentence by `{:?}`, too: that is how a `main` that returns one prints it.
macro_rules! debug_is_the_sentence {
    ($($error:ident)*) => {
        $(impl std::fmt::Debug for $error {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(self, f)
            }
        })*
    };
}

debug_is_the_sentence!(DecodeError KernelError LaunchError MemoryError ParseError TensorMapError);
