//! From a kernel's source to its packed PTX, and what its kernels cost.
//!
//! [`Checkout`] finds `kernels/` on disk. [`Nvrtc`] compiles a [`Specialisation`](sdpa_core::Specialisation) to PTX whose
//! header carries a [`Fingerprint`] of everything it was made from. [`Pack`] is the file that a generation's crate embeds, and
//! [`CodePack`] the one of the machine code that ptxas makes of it.
//! [`KernelTexts`] says which PTX a kernel is judged by: the packed one, or one compiled from the file on disk. [`resources`]
//! asks ptxas or a GPU's driver for registers, spills and shared memory; [`sass`] compares the machine code that ptxas makes.
//!
//! No user's program needs this crate: kernels are launched from packs, whatever the sources on disk say.

pub mod accepted;
mod answers;
mod checkout;
mod code;
mod compile;
mod error;
mod files;
mod fingerprint;
mod machine_code;
mod packs;
mod ptxas;
pub mod resources;
pub mod sass;
mod texts;
mod tools;

pub use checkout::{Checkout, Sources, source_line, source_text};
pub use code::{code_lines, without_comments};
pub use compile::{Nvrtc, file_entry};
pub use error::{Result, ToolchainError};
pub use files::{WriteError, check_writable, write_whole};
pub use fingerprint::Fingerprint;
pub use machine_code::{CodePack, build_code, pack_code, ptx_hash};
pub use packs::{Changed, Mode, Pack, build, pack};
pub use texts::KernelTexts;
pub use tools::{find_ptxas, find_tool};
