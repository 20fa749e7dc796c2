//! The contract every attention generation keeps, and the devices that run it.
//!
//! Three words explain the crate. A [`Problem`] is what to attend over: shapes, strides, mask, scale. An [`Attention`]
//! is a generation of kernels: its one decision is a pure [`plan`](Attention::plan). A [`Device`] runs plans: a CUDA
//! GPU, or the interpreter, which executes the very same PTX on any machine and finds races while it does.
//!
//! ```
//! use sdpa_core::{Attention, Device, Error, Operand, Problem, Tensors};
//!
//! /// Attention over f16 or bf16 bytes, by any generation on any device.
//! fn attend(
//!     generation: &dyn Attention,
//!     device: &dyn Device,
//!     problem: &Problem,
//!     [query, key, value]: [&[u8]; 3],
//! ) -> Result<Vec<u8>, Error> {
//!     let (query, key, value) = (device.upload(query)?, device.upload(key)?, device.upload(value)?);
//!     let output = device.allocate(problem.span(Operand::Output) * problem.dtype().bytes())?;
//!     generation.forward(device, problem, &Tensors::new(&query, &key, &value, &output))?;
//!     let mut bytes = vec![0; output.bytes()];
//!     device.read(&output, 0, &mut bytes)?;
//!     Ok(bytes)
//! }
//!
//! // Invalid problems are told when they are built.
//! assert!(Problem::new(1, 8, 512, 64).build().is_ok());
//! assert!(Problem::new(1, 8, 512, 64).heads_kv(3).build().is_err());
//! ```
//!
//! Each generation's crate embeds its kernels as [`PackedPtx`]; crate `sdpa` has the list of generations and chooses. This
//! crate is the only one that names cudarc or the interpreter. It compiles no kernel, reads no file and prints nothing.

mod attention;
mod choice;
mod device;
mod dtype;
mod error;
mod extension;
mod machine_code;
mod params;
mod plan;
mod prepared;
mod problem;
mod ptx;
pub mod require;
mod specialisation;
mod tensors;

pub use attention::{Attention, Generation};
pub use choice::TunedChoice;
#[cfg(feature = "nccl")]
pub use device::cuda::nccl::{NCCL_ID_BYTES, Nccl, NcclId, Stop, Transfer, nccl_version};
pub use device::cuda::{Cuda, DriverAnswer, driver_present};
pub use device::host_memory::check_host_memory;
pub use device::interpreter::{Executed, Interpreter, Reports};
pub use device::{
    Buffer, Device, DeviceChoice, DeviceKind, MOST_TICKETS, MemoryId, ReadyLaunch, Recording, Resources, open,
};
pub use dtype::{Dtype, ElementType};
pub use error::{Error, Result};
pub use extension::{Extensions, KvScales, KvStorage, LARGEST_SOFTCAP, Packing, PageTable, Paging, Sequence, Window};
pub use machine_code::{MachineCode, PackedCode};
pub use params::{ExtensionParams, KvScaleParams, PagingParams, Params, TensorParams};
pub use plan::{Accuracy, Budget, DeviceLimits, Launch, LaunchPlan, SizeRange, Unsupported};
pub use prepared::Prepared;
pub use problem::{Layout, MAX_HEAD_DIM, Mask, Operand, Problem, ProblemBuilder, ProblemError, Strides};
pub use ptx::PackedPtx;
/// What the interpreter counts and finds, as data.
pub use ptx_interp::{Counters, Coverage, Finding, SourceLine};
pub use specialisation::{Architecture, Specialisation, TileBoxes, Tunable};
pub use tensors::{Region, Tensors, View};
