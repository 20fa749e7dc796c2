//! Appends new keys and values to the cache that attention reads: pages, or contiguous.
//!
//! A server computes the keys and values of a few new tokens at each step, and attends over all that came before. An [`Append`]
//! copies the new ones to their slots of the cache, on the same stream, ahead of the attention that reads them there. Slot
//! `page · keys of a page + place` is a place of a page; of a contiguous cache a page is a sequence's keys. Which slot each token
//! gets is a list on the device ([`AppendTensors`]), so a recorded graph serves every step.
//!
//! ```
//! use sdpa_cache::{Append, AppendTensors};
//! use sdpa_core::{Device as _, Interpreter, Operand, PageTable, Paging, Problem};
//!
//! // One query per sequence over at most 64 keys, in pages of 16.
//! let paging = Paging { page: 16, pages: 8, table: PageTable::Rows { width: 4 } };
//! let problem = Problem::new(2, 4, 1, 64).heads_kv(2).len_kv(64).paged(paging).build()?;
//! let device = Interpreter::new();
//! let bytes = |operand| problem.span(operand) * problem.dtype().bytes();
//! let (key_cache, value_cache) =
//!     (device.upload(&vec![0; bytes(Operand::Key)])?, device.upload(&vec![0; bytes(Operand::Value)])?);
//!
//! // Two new tokens, [tokens, heads_kv, head_dim], one for each sequence.
//! let append = Append::to_caches_of(&problem, 2).build()?.prepare(&device)?;
//! let ones = device.upload(&[0x00, 0x3c].repeat(2 * 2 * 64))?;
//! // Page 5, place 3; the second token goes nowhere.
//! let slots = device.upload(&[5 * 16 + 3_i64, -1].map(i64::to_le_bytes).concat())?;
//! append.forward(&AppendTensors::new(&ones, &ones, &slots, &key_cache, &value_cache))?;
//!
//! let mut row = [0; 2 * 64];
//! device.read(&key_cache, 2 * problem.row_offset(Operand::Key, 5, 1, 3), &mut row)?;
//! assert_eq!(row.to_vec(), [0x00, 0x3c].repeat(64));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What the caller sees to
//!
//! - Slots differ from one another. Two tokens with one slot race for it, and any mixture of their bytes may be there.
//! - A token whose slot is negative is skipped, and so is one whose slot is beyond the cache: nothing is written outside of it. The
//!   device does not say so.
//! - What reads the cache is queued behind. Blocks of one launch may not count on what others of them append.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod append;
mod error;
pub mod kernels;
mod prepared;

pub use append::{Append, AppendBuilder, Part};
pub use error::AppendError;
pub use prepared::{AppendTensors, PreparedAppend};
