//! One harness for every generation: the list of them, random problems, properties, mutants, timing and reports.

pub mod acceptance;
pub mod case;
pub mod check;
pub mod counters;
pub mod execute;
pub mod files;
pub mod gate;
pub mod generations;
pub mod golden;
pub mod mutants;
pub mod mutate;
pub mod properties;
pub mod ptx;
pub mod random;
pub mod real_model;
pub mod regime;
pub mod report;
pub mod resources;
pub mod scaffold;
pub mod strategies;
pub mod suite;
pub mod table;
pub mod timing;
pub mod verify;
