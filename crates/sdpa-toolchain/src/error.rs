//! Why there is no PTX, worded for the person who has to act on it.

use std::path::PathBuf;

use thiserror::Error;

/// Result of what this crate does.
pub type Result<T> = std::result::Result<T, ToolchainError>;

/// What can go wrong between a source and its packed PTX.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ToolchainError {
    /// Started outside of the repository, by a program whose repository is gone.
    #[error(
        "no checkout of the repository: no folder from here upwards has a Cargo.toml with [workspace] beside kernels/"
    )]
    NoCheckout,
    /// NVRTC is not there.
    #[error("no compiler: there is no {library}. To install it:\n{}", install(.root))]
    NoCompiler {
        /// The library's file name.
        library: &'static str,
        /// The checkout's root.
        root: PathBuf,
    },
    /// The CUDA headers that kernels include are not there.
    #[error("no CUDA headers: cuda_fp16.h is in none of {searched}. To install them:\n{}", install(.root))]
    NoHeaders {
        /// Folders looked into.
        searched: String,
        /// The checkout's root.
        root: PathBuf,
    },
    /// A library that calls itself NVRTC and is not.
    #[error("{} is no NVRTC that this program can use: {reason}", path.display())]
    NotNvrtc {
        /// The library.
        path: PathBuf,
        /// The loader's words.
        reason: String,
    },
    /// The compiler refused the source.
    #[error("{kernel} does not compile:\n{log}")]
    Compile {
        /// Which specialisation.
        kernel: String,
        /// The compiler's log.
        log: String,
    },
    /// ptxas refused the PTX.
    #[error("{log}")]
    Assemble {
        /// Which specialisation.
        kernel: String,
        /// What ptxas said, with the kernel's name.
        log: String,
    },
    /// The assembler is not there.
    #[error("no assembler: there is no ptxas. To install it:\n{}", install(.root))]
    NoAssembler {
        /// The checkout's root.
        root: PathBuf,
    },
    /// No such kernel source.
    #[error("kernels/{path} is not there: the table of its crate names it as a kernel's source")]
    NoSource {
        /// Path under `kernels/`.
        path: String,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    System {
        /// Which file or folder.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// A pack, or the device that should run a kernel.
    #[error(transparent)]
    Core(#[from] sdpa_core::Error),
}

/// The two commands that install the pinned compiler where [`Nvrtc`](crate::Nvrtc) looks for it.
pub(crate) fn install(root: &std::path::Path) -> String {
    format!(
        "  cd {}\n  python3 -m pip install --no-deps --target target/cuda -r kernels/requirements.txt",
        root.display()
    )
}
