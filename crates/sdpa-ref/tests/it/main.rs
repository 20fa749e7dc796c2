//! The oracle against what it must equal, and the verdict against kernels right and wrong.

mod cases;
mod data;
mod false_alarms;
mod independent;
mod kernel;
mod mutants;
mod nonfinite;
mod recorded;
