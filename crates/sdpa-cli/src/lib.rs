//! What the program `sdpa` is made of: the gate, the making of a new generation, users' files.

/// The README's example, as a user would copy it: compiled and run by `cargo test --doc -p sdpa-cli`.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
pub struct Readme;

pub mod cost_table;
pub mod evolve;
pub mod files;
pub mod findings;
pub mod gate;
pub mod packs;
pub mod scaffold;
pub mod sealed;
pub mod soak;
pub mod steps;
