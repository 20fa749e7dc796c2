//! What is ordered, and who touched what: the checker's memory, which knows nothing of instructions.

mod causality;
mod clock;
mod global_view;
mod happens_before;
mod page;
mod shared_memory;

pub(crate) use causality::Causality;
pub(crate) use clock::{Clock, Messages, Origin};
pub(crate) use global_view::{Changes, GlobalView, LaunchHistory};
pub(crate) use happens_before::{FencedMemory, HappensBefore, InVain, Participant, Stamp};
pub(crate) use page::{GlobalConflict, LINE_BYTES, PAGE_BYTES, Record, RecordTag};
pub(crate) use shared_memory::{Accessor, Conflict, SharedMemory};
