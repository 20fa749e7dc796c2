//! The contract every attention generation keeps, and the devices that run it.
//!
//! Three words explain the crate. A [`Problem`] is what to attend over: shapes, strides, mask, scale. An [`Attention`]
//! is a generation of kernels: its one decision is a pure [`plan`](Attention::plan). A [`Device`] runs plans: a CUDA
//! GPU, or the interpreter, which executes the very same PTX on any machine and finds races while it does.
//!
//! ```no_run
//! use sdpa_core::{Attention, Device, Problem, Tensors};
//!
//! # fn example(generation: &dyn Attention, q: &[u8], k: &[u8], v: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
//! let device = sdpa_core::open(sdpa_core::DeviceChoice::Auto)?;
//! let problem = Problem::new(1, 8, 512, 64).build()?;
//! let (query, key, value) = (device.upload(q)?, device.upload(k)?, device.upload(v)?);
//! let output = device.allocate(q.len())?;
//! let tensors = Tensors::new(&query, &key, &value, &output);
//! generation.forward(&*device, &problem, &tensors)?;
//! let mut bytes = vec![0; q.len()];
//! device.read(&output, 0, &mut bytes)?;
//! # Ok(())
//! # }
//! ```
//!
//! This crate is the only one that names cudarc or the interpreter; nothing above it knows which device it has.

mod attention;
mod device;
mod dtype;
mod error;
mod params;
mod plan;
mod problem;
mod ptx;
pub mod require;
mod specialisation;

pub use attention::{Attention, Generation, Tensors, View};
pub use device::cuda::{Cuda, driver_present};
pub use device::interpreter::{Interpreter, Reports};
pub use device::{Buffer, Device, DeviceChoice, DeviceKind, MOST_TICKETS, Recording, Resources, open};
pub use dtype::Dtype;
pub use error::{Error, Result};
pub use params::{Params, TensorParams};
pub use plan::{Accuracy, Budget, DeviceLimits, Launch, LaunchPlan, SizeRange, Unsupported};
pub use problem::{Layout, MAX_HEAD_DIM, Mask, Operand, Problem, ProblemBuilder, ProblemError, Strides};
pub use ptx::PackedPtx;
/// What the interpreter counts and finds, as data.
pub use ptx_interp::{Counters, Finding};
pub use specialisation::{Architecture, Specialisation, TileBoxes};
