//! The interpreter against what GPUs gave for the probes, and the list of what no GPU has run.

mod arithmetic;
#[path = "../../../ptx-interp/tests/it/fixtures.rs"]
#[allow(dead_code)]
mod fixtures;
#[path = "../../../ptx-interp/tests/it/hopper.rs"]
#[allow(dead_code)]
mod hopper;
mod recordings;
mod spellings;
