//! What the program `sdpa` is made of: the gate, the making of a new generation, users' files.

pub mod cost_table;
pub mod files;
pub mod gate;
pub mod packs;
pub mod scaffold;
pub mod sealed;
pub mod steps;
