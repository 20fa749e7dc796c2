//! Attention over a sequence that several GPUs share.
//!
//! Each rank holds some positions of the sequence ([`Partition`]) and computes its queries' results over the keys of all.
//! There are two [`Way`]s. In the *ring*, keys and values travel, and the results over each rank's keys are merged by
//! their log-sum-exp; the next keys travel while a kernel works. By *heads*, an all-to-all gives each rank the whole
//! sequence of some heads, and another one brings the results back.
//!
//! ```
//! use std::time::Duration;
//!
//! use sdpa_core::{Device as _, Interpreter, Mask, Problem};
//! use sdpa_parallel::{Communicator as _, ContextParallel, InProcess, LocalTensors};
//!
//! // 32 positions on two ranks, which are threads here. Nccl::connect gives each GPU such a communicator.
//! let problem = Problem::new(1, 2, 32, 64).mask(Mask::Causal).build()?;
//! let parallel = ContextParallel::new(problem, 2)?;
//! std::thread::scope(|scope| {
//!     let ranks = InProcess::group(2, Duration::from_secs(60)).into_iter().map(|communicator| {
//!         let parallel = &parallel;
//!         scope.spawn(move || {
//!             let device = Interpreter::new();
//!             let plan = parallel.plan(communicator.rank())?;
//!             let ones = [0x00, 0x3c].repeat(2 * 16 * 64); // f16, [batch, heads, 16 of the 32 positions, head_dim]
//!             let (query, key, value) = (device.upload(&ones)?, device.upload(&ones)?, device.upload(&ones)?);
//!             let output = device.allocate(ones.len())?;
//!             let workspace = plan.workspace(&device)?;
//!             let tensors = LocalTensors::new(&query, &key, &value, &output);
//!             plan.forward(&device, &communicator, &tensors, &workspace)?;
//!             communicator.synchronize(&device)?;
//!             let mut found = vec![0; ones.len()];
//!             device.read(&output, 0, &mut found)?;
//!             assert_eq!(found, ones); // an average of ones
//!             Ok::<(), sdpa_parallel::Error>(())
//!         })
//!     });
//!     ranks.collect::<Vec<_>>().into_iter().try_for_each(|rank| rank.join().unwrap())
//! })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What can be asked for
//!
//! Causal masks, windows, soft caps, sinks, grouped heads, packed sequences and key lengths that the host knows
//! ([`ContextParallel::packed`], [`ContextParallel::of_key_lengths`]), f16 and bf16. Tensors are contiguous,
//! `[batch, heads, a rank's positions, head_dim]`; sinks and slopes are those of all heads, on every rank.
//!
//! Slopes go by heads alone. They are multiplied with distances from the whole sequence's diagonal, and kernels know no other
//! diagonal than that of the keys they are given; a ring declines them, unless every part keeps the diagonal. Keys in pages are
//! declined.
//!
//! # Failures
//!
//! No call waits without an end. If a rank fails, the others get a typed error at once; if one stops answering, all get one
//! at the deadline of their [`Communicator`]. It names the ranks whose processes have given no sign of life. The results are the
//! same bits in every run, because parts are merged in one order.

mod communicator;
mod context;
mod error;
mod forecast;
mod heads;
mod in_process;
pub mod merge;
mod nccl;
mod partition;
mod parts;
#[cfg(all(test, unix))]
mod processes;
mod rendezvous;
mod ring;

pub use communicator::Communicator;
pub use context::{ContextParallel, LocalTensors, RankPlan, Way, Work, Workspace};
pub use error::{Error, Result};
pub use forecast::{CLUSTER, Cluster, Forecast, StepCost};
pub use in_process::InProcess;
pub use nccl::Nccl;
pub use partition::Partition;
pub use parts::{Part, parts};
pub use rendezvous::{Place, Rendezvous};
pub use sdpa_core::Transfer;
