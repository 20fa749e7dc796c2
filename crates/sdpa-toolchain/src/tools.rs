//! Where the CUDA toolkit's programs, libraries and headers are.

use std::path::{Path, PathBuf};

use crate::{Checkout, Result, ToolchainError};

/// Folders that may hold a CUDA toolkit, the likeliest first: the wheels of `kernels/requirements.txt` in the checkout's
/// `target/cuda`, `CUDA_HOME`, `CUDA_PATH`, the folders beside `LD_LIBRARY_PATH`, and `/usr/local/cuda`.
pub(crate) fn homes(checkout: Option<&Checkout>) -> Vec<PathBuf> {
    let wheels = checkout.map(|checkout| checkout.root().join("target/cuda/nvidia/cu13"));
    let named = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    let libraries = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let beside: Vec<PathBuf> =
        std::env::split_paths(&libraries).filter_map(|folder| folder.parent().map(Path::to_owned)).collect();
    wheels.into_iter().chain(named).chain(beside).chain([PathBuf::from("/usr/local/cuda")]).collect()
}

/// A program of the CUDA toolkit, such as `ptxas` or `compute-sanitizer`: on PATH, or in a toolkit's `bin`.
pub fn find_tool(name: &str) -> Option<PathBuf> {
    which::which(name).ok().or_else(|| {
        let checkout = Checkout::find().ok();
        let folders = homes(checkout.as_ref()).into_iter().map(|home| home.join("bin"));
        which::which_in(name, std::env::join_paths(folders).ok(), ".").ok()
    })
}

/// ptxas, which comes with the compiler.
///
/// # Errors
/// [`ToolchainError::NoAssembler`] with the commands that install it.
pub fn find_ptxas(checkout: &Checkout) -> Result<PathBuf> {
    find_tool("ptxas").ok_or_else(|| ToolchainError::NoAssembler { root: checkout.root().to_owned() })
}
