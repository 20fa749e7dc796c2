//! The loop that lets the ladder climb by itself: a generator proposes, the judge decides, the lineage remembers.
//!
//! A candidate is data: a kernel's text and the numbers that it is compiled with ([`Genome`]). It is compiled to PTX and judged in a
//! process of its own ([`judge`]), step by step, until the first step that fails:
//!
//! | step | asks |
//! |---|---|
//! | `applies` | are the files, the diff and the definitions of the answer ones that a candidate may have? |
//! | `compiles` | does NVRTC take it, and do the numbers go together? |
//! | `laws` | is it a function of its tensors alone: no variable of its own in device memory, no clock, no call out? |
//! | `right` | the problems of the run, shortened on the interpreter: right, and nothing found |
//! | `budget` | registers, shared memory and spills |
//! | `hidden` | problems that are drawn anew for each candidate |
//! | `timed` | on a GPU: in turns with its parent and the first of its line, above the floor of bytes and operations |
//! | `right again` | on a GPU: what the timed passes left behind, and other numbers, on the module that was timed |
//! | `races` | the trials of `sdpa check` that take its kernels |
//! | `mutants` | would a barrier, wait or fence be missed in this very candidate? |
//! | `mutation` | would a changed statement be noticed in it? |
//!
//! On a GPU the last three are asked of a candidate that is faster: no other becomes a parent.
//!
//! Without a GPU a candidate that is right is ranked by the instructions that it issues, which is a guess and said to be one.

mod candidate;
mod choose;
mod generator;
mod insight;
mod judge;
mod laws;
mod lineage;
mod niche;
mod patch;
mod picture;
mod program;
mod request;
mod run;
mod timed;
mod variant;

pub use candidate::{Claim, Genome, Moves, Proposal};
pub use choose::{Guide, Population};
pub use generator::{Generator, GeneratorError, Kind, Program};
pub use insight::{Insight, insights};
pub use judge::{Effort, Job, JobNiche, Judged, Step, differences, judge};
pub use laws::broken_law;
pub use lineage::{Entry, Gain, Header, Lineage, LineageError, Standing, Winner};
pub use niche::{NICHES, Niche};
pub use picture::{compared, headline, svg, tree, why};
pub use program::{Judge, RunnerError};
pub use request::{Budget, Elite, Failure, Number, Parent, Request, Tried};
pub use run::{Judging, Plan, Run, RunError};
pub use timed::{Floor, Samples, Spread, Times};
pub use variant::Variant;
