//! What can go wrong, typed, and worded for the person who has to act on it.

use std::fmt;

use thiserror::Error;

use crate::{DriverAnswer, Operand, ProblemError, Unsupported};

/// Result of anything a [`Device`](crate::Device) does.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong between a problem and its output. Only [`Error::Unsupported`] may skip a test case.
#[derive(Error)]
#[non_exhaustive]
pub enum Error {
    /// The problem itself is invalid.
    #[error(transparent)]
    Problem(#[from] ProblemError),
    /// The generation declines the problem, with its reason.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// No CUDA driver on this machine.
    #[error("no CUDA driver: libcuda could not be loaded; install NVIDIA's driver, or set SDPA_DEVICE=interpreter")]
    NoDriver,
    /// A driver's library that the system cannot load.
    #[error(
        "a CUDA driver is installed and its library does not load: {reason}; install NVIDIA's driver 580 or newer anew, or set SDPA_DEVICE=interpreter"
    )]
    DriverLibrary {
        /// The loader's words.
        reason: String,
    },
    /// A driver's library without a function that is called here.
    #[error(
        "the CUDA driver's library has no function {function}: it is too old, or not NVIDIA's; install NVIDIA's driver 580 or newer, or set SDPA_DEVICE=interpreter"
    )]
    DriverFunction {
        /// The function's name.
        function: &'static str,
    },
    /// A driver that sees no GPU.
    #[error("no CUDA device: {answer}; check nvidia-smi and CUDA_VISIBLE_DEVICES, or set SDPA_DEVICE=interpreter")]
    NoDevice {
        /// The driver's words.
        answer: DriverAnswer,
    },
    /// A GPU or a driver that fails when it is opened. It is no reason to go on without a GPU.
    #[error("GPU {ordinal} cannot be opened: {answer}; set SDPA_DEVICE=interpreter to go on without it")]
    UnusableDevice {
        /// Which device was asked for.
        ordinal: usize,
        /// The driver's words.
        answer: DriverAnswer,
    },
    /// A driver that is older than the kernels' PTX.
    #[error(
        "{kernel} does not load: its PTX 9.0 is for CUDA 13.0, and {}; install NVIDIA's driver 580 or newer ({answer})",
        version(*found)
    )]
    OldDriver {
        /// Which specialisation.
        kernel: String,
        /// The newest CUDA that the driver knows, if it says so.
        found: Option<(u32, u32)>,
        /// The driver's words.
        answer: DriverAnswer,
    },
    /// More memory than there is.
    #[error("no memory for {name}, {bytes} bytes: {reason}")]
    OutOfMemory {
        /// What it was for.
        name: String,
        /// Bytes asked for.
        bytes: usize,
        /// The device's words.
        reason: String,
    },
    /// What cannot be recorded into a graph was asked for while the stream records one. The recording goes on.
    #[error(
        "{doing} is not possible while the stream records a graph: do it before, for a forward pass by `Attention::prepare`; the recording is unharmed"
    )]
    Capturing {
        /// What was asked for.
        doing: &'static str,
    },
    /// `SDPA_DEVICE` holds something else than a device.
    #[error("SDPA_DEVICE is {found:?}: it must be auto, cuda or interpreter")]
    DeviceChoice {
        /// What it holds.
        found: String,
    },
    /// A tensor's buffer is too short.
    #[error("{operand} needs {needed} bytes for its shape and strides; its buffer holds {found} from the offset given")]
    BufferTooSmall {
        /// Which tensor: an operand's name, or `lse` or `workspace`.
        operand: &'static str,
        /// Bytes the problem needs.
        needed: usize,
        /// Bytes there are.
        found: usize,
    },
    /// An extension without what it reads.
    #[error("{tensor} is missing: the problem asks for it ({problem}); give it by `Tensors::with_…`")]
    TensorMissing {
        /// Which tensor.
        tensor: &'static str,
        /// The problem.
        problem: String,
    },
    /// A tensor that nobody would read.
    #[error(
        "{tensor} is given, but the problem does not ask for it ({problem}): say so to its builder, or leave it out"
    )]
    TensorUnasked {
        /// Which tensor.
        tensor: &'static str,
        /// The problem.
        problem: String,
    },
    /// A tensor starts at an address that the kernel's copies cannot read or write.
    #[error("{operand} starts at address {address:#x}: it must be a multiple of {alignment} bytes")]
    Misaligned {
        /// Which tensor: an operand's name, or `lse`.
        operand: &'static str,
        /// Its device address.
        address: u64,
        /// What it must be a multiple of.
        alignment: u64,
    },
    /// A tensor that is written shares memory with another one.
    #[error(
        "{written} overlaps {other}: blocks read {other} after others have written; give {written} memory of its own"
    )]
    Overlap {
        /// What is written: `output` or `lse`.
        written: &'static str,
        /// What it shares memory with.
        other: &'static str,
    },
    /// A buffer of another device.
    #[error("{tensor} lies in another device's memory: allocate it on the device that it is used with")]
    OtherMemory {
        /// Which tensor, or that it is a buffer.
        tensor: &'static str,
    },
    /// A read or write outside of a buffer.
    #[error("bytes {start}..{end} lie outside a buffer of {length} bytes")]
    OutOfBuffer {
        /// First byte.
        start: usize,
        /// One past the last byte.
        end: usize,
        /// Bytes of the buffer.
        length: usize,
    },
    /// The kernel is in a generation's table and not in its pack.
    #[error(
        "the pack of {pack} holds no kernel {kernel}: run `cargo run --release -- build-ptx {pack}` in the repository"
    )]
    NoPtx {
        /// Its name in the pack.
        kernel: String,
        /// The generation's id, or `mutants`.
        pack: &'static str,
    },
    /// A pack is broken.
    #[error(
        "the pack of {pack} cannot be decoded: {reason}; run `cargo run --release -- build-ptx {pack}` in the repository"
    )]
    Pack {
        /// The generation's id, or `mutants`.
        pack: &'static str,
        /// The decoder's words.
        reason: String,
    },
    /// The driver or the interpreter refused the PTX.
    #[error("{kernel} does not load: {reason}")]
    Load {
        /// Which specialisation.
        kernel: String,
        /// Its words.
        reason: String,
    },
    /// A tensor of the launch has no tensor map.
    #[error("{launch} was not launched: no tensor map of {operand}: {reason}")]
    TensorMap {
        /// Which tensor.
        operand: Operand,
        /// The launch as planned.
        launch: String,
        /// The device's words.
        reason: String,
    },
    /// The launch itself was refused.
    #[error("{launch} was not launched: {reason} ({hint})")]
    Launch {
        /// The launch as planned.
        launch: String,
        /// The driver's words.
        reason: String,
        /// Which limit to look at.
        hint: &'static str,
    },
    /// A kernel failed while it ran, and the CUDA context is lost with it: every later call in this process fails.
    #[error("a kernel failed while it ran: {reason}; the CUDA context is lost, run again under compute-sanitizer")]
    Sticky {
        /// The driver's words.
        reason: String,
    },
    /// Any other refusal of the driver.
    #[error("{doing}: {answer}")]
    Driver {
        /// What was being done.
        doing: &'static str,
        /// The driver's words.
        answer: DriverAnswer,
    },
    /// The interpreter's memory has no such bytes.
    #[error("{doing}: {reason}")]
    Memory {
        /// What was being done.
        doing: &'static str,
        /// The interpreter's words.
        reason: String,
    },
    /// The interpreter ran the kernel and found it wrong: races, reads out of bounds, deadlocks, …
    #[error("{launch} is wrong:\n{findings}")]
    Findings {
        /// The launch as planned.
        launch: String,
        /// One compiler-like diagnostic a finding.
        findings: String,
    },
    /// A kernel that the interpreter ran left a word of its tickets for the next one to stumble over.
    #[error("{launch} is wrong: it left {found} in word {word} of its tickets, which the next kernel must find 0")]
    Tickets {
        /// The launch as planned.
        launch: String,
        /// Which word.
        word: usize,
        /// What the word holds.
        found: u32,
    },
    /// NCCL cannot be loaded.
    #[error(
        "no NCCL: {reason}; install it (pip install nvidia-nccl-cu13), and let LD_LIBRARY_PATH name its folder or SDPA_NCCL its libnccl.so.2"
    )]
    NoNccl {
        /// The loader's words.
        reason: String,
    },
    /// NCCL refuses or fails.
    #[error("{doing}: NCCL says {reason} (code {code}); NCCL_DEBUG=WARN says more")]
    Nccl {
        /// What was being done.
        doing: &'static str,
        /// NCCL's code.
        code: i32,
        /// NCCL's words.
        reason: String,
    },
    /// Other ranks did not do their part in time.
    #[error("{doing}: {}", if *stopped { "given up because another rank failed".to_owned() } else { format!("nothing after {:.1} s", waited.as_secs_f64()) })]
    Deadline {
        /// What was being done.
        doing: &'static str,
        /// How long it was waited for.
        waited: std::time::Duration,
        /// Whether it was given up earlier, because another rank failed.
        stopped: bool,
    },
    /// Timing was asked of a device that keeps no time.
    #[error("{device} keeps no time: figures come from a GPU only")]
    NoClock {
        /// Which device.
        device: String,
    },
}

fn version(found: Option<(u32, u32)>) -> String {
    found.map_or("this driver does not compile it".to_owned(), |(major, minor)| {
        format!("this driver's newest is CUDA {major}.{minor}")
    })
}

/// The same sentence as by `{}`: a `main` that returns an error prints it so.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error {
    /// True where the generation declined the problem: the one error that a test may count as a skip.
    pub fn is_unsupported(&self) -> bool {
        matches!(self, Self::Unsupported(_))
    }

    /// True where every later CUDA call of this process will fail, too.
    pub fn is_sticky(&self) -> bool {
        matches!(self, Self::Sticky { .. })
    }
}
