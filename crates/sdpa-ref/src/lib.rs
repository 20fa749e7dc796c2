//! What attention means here, and how far from it a kernel may be.
//!
//! Three parts, used in this order. [`Oracle`] is the meaning: f64, two passes over explicit scores, on the exact values
//! of the inputs; it shares no algorithm with any kernel. [`Ideal`] is the yardstick: what a flawless flash kernel of
//! the problem's dtype would write, so that a kernel is compared with what the number format can do.
//! [`Reference::judge`] is the verdict: a kernel's bits against both, each bound with its derivation in `NUMERICS.md`.
//!
//! ```
//! use sdpa_core::Problem;
//! use sdpa_ref::{Found, Inputs, Reference, Tolerance};
//!
//! let problem = Problem::new(1, 1, 1, 8).build()?;
//! let ones = [0x3c00_u16; 8]; // 1.0 in f16
//! let inputs = Inputs { query: &ones, key: &ones, value: &ones, ..Inputs::default() };
//! let reference = Reference::compute(&problem, &inputs, None)?;
//!
//! // One key: its value is the output, and its score 8/√8 the log-sum-exp.
//! let found = Found { out: &ones, lse: Some(&[8f32.sqrt()]) };
//! let measured = reference.judge(&found, &Tolerance::default())?;
//! assert_eq!(measured.rel_fro, 0.0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The crate depends on `sdpa-core` for [`Problem`](sdpa_core::Problem) only and never runs a kernel.

mod ideal;
mod inputs;
mod likeness;
mod oracle;
mod paged;
mod pattern;
mod report;
mod scoring;
mod sensitivity;
mod tolerance;
mod verdict;

pub use ideal::Ideal;
pub use inputs::{ExtensionInputs, Inputs, ReferenceError, Rows};
pub use likeness::likeness;
pub use oracle::Oracle;
pub use paged::Unpaged;
pub use report::{Check, Count, Mismatch, Place};
pub use tolerance::Tolerance;
pub use verdict::{Found, Judged, Measured, Reference};
