//! The proof that a generation is right: cases, properties, mutants, and the interpreter's checks and counters.
//!
//! A [`case::Case`] is a problem with its data. A [`properties::Property`] must hold of attention in every case; the
//! comparison with the oracle, [`verify`], is the first of them. A [`mutants::Mutant`] is a kernel that is wrong on purpose:
//! the proof must reject it. [`mutate`] takes what orders or guards out of a generation's own PTX, one thing at a time.

pub mod acceptance;
pub mod case;
pub mod check;
pub mod counters;
pub mod coverage;
pub mod execute;
pub mod extension_tensors;
pub mod far;
pub mod first_runs;
pub mod golden;
pub mod mutants;
pub mod mutate;
pub mod needs;
pub mod properties;
pub mod random;
pub mod real_model;
pub mod regime;
pub mod snapshots;
pub mod strategies;
pub mod suite;
pub mod table;
pub mod verify;
