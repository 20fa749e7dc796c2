//! Why a call failed, as Python's exceptions.

use pyo3::PyErr;
use pyo3::exceptions::{PyNotImplementedError, PyRuntimeError, PyValueError};
use sdpa::{Error, ProblemError};

/// Why a call failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// An argument is wrong: `ValueError`.
    Invalid(String),
    /// No kernel takes it: `NotImplementedError`.
    Unsupported(String),
    /// The device or its driver failed: `RuntimeError`.
    Device(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match &error {
            Error::Unsupported(_) => Self::Unsupported(format!(
                "no kernel of evo_sdpa takes this: {error}; torch.nn.functional.scaled_dot_product_attention may"
            )),
            Error::Problem(_)
            | Error::BufferTooSmall { .. }
            | Error::Misaligned { .. }
            | Error::Overlap { .. }
            | Error::DeviceChoice { .. } => Self::Invalid(error.to_string()),
            // Its own advice is for Rust.
            Error::Capturing { doing } => Self::Device(format!(
                "{doing} is not possible while the stream records a CUDA graph: call the same function on the same shapes \
                 once before the recording; the recording is unharmed"
            )),
            _ => Self::Device(error.to_string()),
        }
    }
}

impl From<ProblemError> for Failure {
    fn from(error: ProblemError) -> Self {
        Self::Invalid(error.to_string())
    }
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Invalid(words) => PyValueError::new_err(words),
            Failure::Unsupported(words) => PyNotImplementedError::new_err(words),
            Failure::Device(words) => PyRuntimeError::new_err(words),
        }
    }
}
