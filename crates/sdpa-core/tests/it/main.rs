//! The boundary to the CUDA driver, held against a stand-in that fails on demand.
#![cfg(target_os = "linux")]

mod driver;
mod scenarios;
mod stub;
mod v0;
