//! The whole of context parallelism on interpreters: every rank a thread with a device of its own.

mod failures;
mod pages;
mod ranks;
mod results;
