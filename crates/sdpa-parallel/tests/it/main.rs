//! The whole of context parallelism on interpreters: every rank a thread with a device of its own.

#![allow(clippy::single_range_in_vec_init, reason = "a chunk of a partition is a range")]

mod failures;
mod pages;
mod ranks;
mod results;
