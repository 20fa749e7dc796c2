//! What the driver says when it refuses: its code, its words, and what a person can do about it.

use std::ffi::{CStr, c_char, c_int};
use std::fmt;

use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;

/// What the CUDA driver answered instead of success, with advice where there is any.
///
/// ```
/// let answer = sdpa_core::DriverAnswer::new(804, "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE");
/// assert_eq!(answer.code(), 804);
/// assert!(answer.to_string().contains("LD_LIBRARY_PATH"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverAnswer {
    code: i32,
    words: String,
}

impl DriverAnswer {
    /// An answer by its `CUresult` and the driver's words for it.
    pub fn new(code: i32, words: impl Into<String>) -> Self {
        Self { code, words: words.into() }
    }

    /// The `CUresult`.
    pub fn code(&self) -> i32 {
        self.code
    }

    /// What a person can do about it; `None` where only the driver's documentation helps.
    pub fn advice(&self) -> Option<&'static str> {
        Some(match self.code {
            2 => "other programs may hold the GPU's memory, see nvidia-smi; or use a smaller problem",
            34 => {
                "the CUDA toolkit's stub of libcuda is found before the driver's: take its `stubs` folder out of \
                 LD_LIBRARY_PATH"
            }
            46 => "another process has the GPU to itself, see nvidia-smi",
            101 => "nvidia-smi -L lists the GPUs, CUDA_VISIBLE_DEVICES hides some of them",
            209 | 218 => "the PTX is not for this GPU",
            222 => "the driver is too old for the PTX: install NVIDIA's driver 580 or newer",
            802 => "a machine with NVSwitch needs its nvidia-fabricmanager service, and others a restart",
            803 => "the driver's library and its kernel module differ: restart the machine after a driver's update",
            804 => {
                "a cuda-compat library that this GPU does not take is found before the driver's: take it out of \
                 LD_LIBRARY_PATH, and install NVIDIA's driver 580 or newer"
            }
            999 => "see nvidia-smi and the kernel's log; after a suspend, load the module nvidia_uvm again or restart",
            _ => return None,
        })
    }

    /// True for errors that a kernel raised while it ran; they poison the context.
    pub(super) fn is_sticky(&self) -> bool {
        const STICKY: [CUresult; 9] = [
            CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
            CUresult::CUDA_ERROR_MISALIGNED_ADDRESS,
            CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION,
            CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE,
            CUresult::CUDA_ERROR_INVALID_PC,
            CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR,
            CUresult::CUDA_ERROR_LAUNCH_FAILED,
            CUresult::CUDA_ERROR_LAUNCH_TIMEOUT,
            CUresult::CUDA_ERROR_ASSERT,
        ];
        STICKY.iter().any(|sticky| *sticky as i32 == self.code)
    }

    /// Asks the driver for its words, by its own two functions.
    pub(super) fn ask(code: c_int, name: Describe, text: Describe) -> Self {
        let words = |describe: Describe| {
            let mut words: *const c_char = std::ptr::null();
            // SAFETY: `describe` is the driver's cuGetErrorName or cuGetErrorString, which write one pointer.
            let known = unsafe { describe(code, &mut words) } == 0 && !words.is_null();
            // SAFETY: the driver's words are static strings that end with a 0.
            known.then(|| unsafe { CStr::from_ptr(words) }.to_string_lossy().into_owned())
        };
        Self::of_words(code, words(name), words(text))
    }

    /// By the driver's name and description of an error, as far as it has them.
    fn of_words(code: i32, name: Option<String>, text: Option<String>) -> Self {
        match (name, text) {
            (Some(name), Some(text)) => Self::new(code, format!("{name}, {text}")),
            (Some(words), None) | (None, Some(words)) => Self::new(code, words),
            (None, None) => Self::new(code, "an error that the driver has no name for"),
        }
    }
}

/// `cuGetErrorName` and `cuGetErrorString`.
pub(super) type Describe = unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int;

impl From<DriverError> for DriverAnswer {
    fn from(error: DriverError) -> Self {
        let words = |words: Result<&CStr, DriverError>| words.ok().map(|words| words.to_string_lossy().into_owned());
        Self::of_words(error.0 as i32, words(error.error_name()), words(error.error_string()))
    }
}

/// `CUDA_ERROR_OUT_OF_MEMORY, out of memory (code 2): other programs may …`.
impl fmt::Display for DriverAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {})", self.words, self.code)?;
        self.advice().map_or(Ok(()), |advice| write!(f, ": {advice}"))
    }
}
