//! How fast the generations are, and what is said about it.
//!
//! [`timing`] takes figures: contenders in turn, peers among them, each verified first; a [`timing::Record`] keeps them.
//! [`report`] makes the README's table, the page of peers and the plots from records. [`parallel`] times ranks that share a
//! sequence.

pub mod parallel;
pub mod report;
pub mod timing;
