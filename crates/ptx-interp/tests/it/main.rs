//! The interpreter against kernels that are right, kernels that are wrong, and texts that are no kernels.

mod coverage;
mod findings;
mod fixtures;
mod foreign;
mod frames;
mod fuzz;
mod hopper;
mod kernels;
mod layers;
mod layouts;
mod mbarriers;
mod missed_phases;
mod oracle;
mod registers_in_flight;
mod right_kernels;
mod seeded_bugs;
mod sentences;
mod settled;
