//! Appending on the interpreter, beside a loop on the host.

mod append;
mod case;
mod costs;
mod far;
mod mutations;
mod refused;
