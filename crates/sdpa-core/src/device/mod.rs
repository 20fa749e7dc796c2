//! Where kernels run: one trait, two devices, one place that chooses.

pub(crate) mod cuda;
pub(crate) mod host_memory;
pub(crate) mod interpreter;
mod tensor_maps;

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::{DeviceLimits, Error, Launch, Params, Result, Specialisation};

/// Words of [tickets](Device::tickets) that every device has: a quarter of a megabyte, and counters for as many
/// sequences of one head as anyone decodes at once.
pub const MOST_TICKETS: usize = 1 << 16;

/// The two kinds of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// A GPU, through the CUDA driver.
    Cuda,
    /// The PTX interpreter, on any machine.
    Interpreter,
}

/// Something that holds memory and runs kernels. Work is queued in order; [`synchronize`](Self::synchronize) waits.
pub trait Device: Send + Sync {
    /// One line for people: which device this is.
    fn name(&self) -> String;

    /// Which of the two kinds.
    fn kind(&self) -> DeviceKind;

    /// Which card it is, as NVIDIA's tools name it: `GPU-` and 32 hexadecimal digits in five groups. None if it is no GPU, or
    /// its driver does not say.
    fn uuid(&self) -> Option<String> {
        None
    }

    /// What plans must fit into.
    fn limits(&self) -> &DeviceLimits;

    /// Which memory its buffers lie in. Buffers of another memory are refused.
    fn memory(&self) -> MemoryId;

    /// Address of this device's [`MOST_TICKETS`] words of tickets: `u32`s that are 0 before and after every kernel. The
    /// blocks of a persistent kernel draw their next tiles from the first with an atomic addition; blocks that share
    /// results count in a word for each who is done with it. A kernel knows how many draws or arrivals there will be, and
    /// whoever makes the last one puts the 0 back (by an atomic operation: nothing else orders the blocks' accesses). No
    /// launch has to clear the words.
    ///
    /// All kernels use the same words, because a device's kernels run one after the other: they are queued on its one
    /// stream, and so are the replays of what it recorded.
    fn tickets(&self) -> u64;

    /// Allocates memory whose contents are undefined, aligned to at least 256 bytes. Freed on drop, in queue order. The
    /// interpreter calls it by `name` when a kernel misses it.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] above all.
    fn allocate_named(&self, name: &str, bytes: usize) -> Result<Buffer>;

    /// [`allocate_named`](Self::allocate_named), for those who need no name.
    ///
    /// # Errors
    /// As there.
    fn allocate(&self, bytes: usize) -> Result<Buffer> {
        self.allocate_named("buffer", bytes)
    }

    /// Allocates a buffer of which only `pieces` will be used: ranges of bytes in ascending order, apart, the first from 0
    /// and the last to the end. The interpreter has nothing between them, so that an access there is found; a GPU allocates
    /// all of it.
    ///
    /// # Errors
    /// As [`allocate`](Self::allocate).
    fn allocate_pieces(&self, name: &str, pieces: &[std::ops::Range<usize>]) -> Result<Buffer> {
        self.allocate_named(name, pieces.last().map_or(0, |last| last.end))
    }

    /// Bytes of the memory that this device has allocated and that still lives: buffers, workspaces, tickets. None if it keeps no
    /// count. A program that runs for days sees by it that nothing is kept for ever.
    fn allocated_bytes(&self) -> Option<usize> {
        None
    }

    /// Copies bytes into a buffer, `offset` bytes after its start.
    ///
    /// # Errors
    /// [`Error::OutOfBuffer`], [`Error::OtherMemory`], or the driver's.
    fn write(&self, buffer: &Buffer, offset: usize, bytes: &[u8]) -> Result<()>;

    /// Waits for all queued work, then copies bytes out of a buffer.
    ///
    /// # Errors
    /// [`Error::OutOfBuffer`], [`Error::OtherMemory`], or whatever the queued work failed with.
    fn read(&self, buffer: &Buffer, offset: usize, bytes: &mut [u8]) -> Result<()>;

    /// Loads a kernel ahead of its first launch, which otherwise does it.
    ///
    /// # Errors
    /// [`Error::Load`] or [`Error::OldDriver`]; on a GPU also [`Error::Capturing`].
    fn load(&self, kernel: &Specialisation) -> Result<()>;

    /// Queues a kernel; loads it first where this is its first launch.
    ///
    /// # Errors
    /// Kernels that do not load or may not be launched; on the interpreter also what it found.
    fn launch(&self, launch: &Launch, params: &Params) -> Result<()>;

    /// Makes ready what later launches like this one have in common, so that each costs the host less: the kernel is looked
    /// up, and tensor maps are made. `params` are those of such a launch, whatever addresses they hold. None if this device
    /// has nothing to make ready; then [`launch`](Self::launch) does it.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    fn ready(&self, _launch: &Launch, _params: &Params) -> Result<Option<Box<dyn ReadyLaunch>>> {
        Ok(None)
    }

    /// Waits for all queued work.
    ///
    /// # Errors
    /// Whatever the queued work failed with.
    fn synchronize(&self) -> Result<()>;

    /// Records what `work` queues, without running it, for timed replays.
    ///
    /// # Errors
    /// [`Error::NoClock`] where the device keeps no time.
    fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Box<dyn Recording + '_>>;

    /// What a kernel costs, as this device's own compiler built it; `None` where there is none.
    ///
    /// # Errors
    /// Kernels that do not load.
    fn resources(&self, kernel: &Specialisation) -> Result<Option<Resources>>;

    /// Makes later launches of `kernel` run this PTX instead of the packed one: a kernel just compiled, or a mutation. The
    /// interpreter loads it with the next launch.
    ///
    /// # Errors
    /// [`Error::Load`] if the driver refuses it.
    fn substitute(&self, kernel: &Specialisation, ptx: &str) -> Result<()>;

    /// Chooses the order in which the interpreter runs warps and completes copies; a GPU chooses its own.
    fn set_schedule(&self, _seed: u64) {}

    /// Allocates a buffer and fills it.
    ///
    /// # Errors
    /// As [`allocate`](Self::allocate) and [`write`](Self::write).
    fn upload(&self, bytes: &[u8]) -> Result<Buffer> {
        let buffer = self.allocate(bytes.len())?;
        self.write(&buffer, 0, bytes)?;
        Ok(buffer)
    }
}

/// A launch that was made [ready](Device::ready).
pub trait ReadyLaunch: Send + Sync {
    /// Queues the kernel. Only addresses may differ from the parameters that it was made ready for.
    ///
    /// # Errors
    /// Kernels that may not be launched.
    fn launch(&self, params: &Params) -> Result<()>;
}

/// Queued work that can be run again and timed by the device's own clock.
pub trait Recording {
    /// Runs the recorded work `times` times in a row and says how long all of it took on the device.
    ///
    /// # Errors
    /// Whatever the work failed with.
    fn replay(&self, times: u32) -> Result<Duration>;
}

/// What one compiled kernel costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resources {
    /// Registers a thread.
    pub registers: u32,
    /// Bytes of static shared memory a block.
    pub static_shared_bytes: u32,
    /// Bytes of local memory a thread: spills and indexed arrays.
    pub local_bytes: u32,
}

/// One memory: that of a CUDA context, or of one interpreter. An address means nothing in another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MemoryId(Space);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Space {
    /// By the context's handle: devices on several streams of a context share its memory.
    Context(usize),
    Own(u64),
}

impl MemoryId {
    /// Another memory than every one before in this process.
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(Space::Own(NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    pub(crate) fn of_context(handle: usize) -> Self {
        Self(Space::Context(handle))
    }
}

/// As [`MemoryId::new`]: no two are the same.
impl Default for MemoryId {
    fn default() -> Self {
        Self::new()
    }
}

/// Device memory. Freed when dropped, in queue order. It knows which memory it lies in, and other devices refuse it.
#[derive(Clone)]
pub struct Buffer {
    address: u64,
    bytes: usize,
    /// `None` for borrowed memory, of which the program says that it is the right one.
    memory: Option<MemoryId>,
    /// Frees the memory when the last buffer of it is gone; none for borrowed memory.
    _owner: Option<Arc<dyn Any + Send + Sync>>,
}

impl Buffer {
    pub(crate) fn new(address: u64, bytes: usize, memory: MemoryId, owner: Arc<dyn Any + Send + Sync>) -> Self {
        Self { address, bytes, memory: Some(memory), _owner: Some(owner) }
    }

    /// Device memory that another part of your program owns, e.g. a tensor. No device can tell whether it is its own.
    ///
    /// # Safety
    /// `address..address + bytes` must be device memory of the device this buffer is used with, and stay allocated
    /// while the buffer or work queued with it lives.
    pub unsafe fn borrowed(address: u64, bytes: usize) -> Self {
        Self { address, bytes, memory: None, _owner: None }
    }

    /// Device address of the first byte.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Length in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// True unless the buffer is known to lie in another memory.
    pub(crate) fn may_lie_in(&self, memory: MemoryId) -> bool {
        self.memory.is_none_or(|own| own == memory)
    }

    /// Checks that the buffer lies in this memory and `length` bytes from `offset` inside of it.
    pub(crate) fn check_range(&self, memory: MemoryId, offset: usize, length: usize) -> Result<u64> {
        if !self.may_lie_in(memory) {
            return Err(Error::OtherMemory { tensor: "the buffer" });
        }
        match offset.checked_add(length) {
            Some(end) if end <= self.bytes => Ok(self.address + offset as u64),
            end => Err(Error::OutOfBuffer { start: offset, end: end.unwrap_or(usize::MAX), length: self.bytes }),
        }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({:#x}, {} bytes)", self.address, self.bytes)
    }
}

/// Which device to open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The GPU where there is one, else the interpreter.
    #[default]
    Auto,
    /// The GPU, or an error: a machine with a GPU cannot pass by skipping.
    Cuda,
    /// The interpreter, GPU or not.
    Interpreter,
}

impl DeviceChoice {
    /// Reads `SDPA_DEVICE` (`auto`, `cuda` or `interpreter`; unset means `auto`).
    ///
    /// # Errors
    /// [`Error::DeviceChoice`] for anything else.
    pub fn from_env() -> Result<Self> {
        match std::env::var_os("SDPA_DEVICE") {
            None => Ok(Self::Auto),
            Some(name) => match name.to_str() {
                Some("auto" | "") => Ok(Self::Auto),
                Some("cuda") => Ok(Self::Cuda),
                Some("interpreter") => Ok(Self::Interpreter),
                _ => Err(Error::DeviceChoice { found: name.to_string_lossy().into_owned() }),
            },
        }
    }

    /// The kind that [`open`] would open, without touching the driver beyond looking whether it is installed.
    pub fn expected_kind(self) -> DeviceKind {
        match self {
            Self::Cuda => DeviceKind::Cuda,
            Self::Auto if cuda::driver_present() => DeviceKind::Cuda,
            Self::Auto | Self::Interpreter => DeviceKind::Interpreter,
        }
    }
}

/// Opens a device: the one place that decides between a GPU and the interpreter.
///
/// `Auto` takes the interpreter only where no driver is installed or the driver says that there is no GPU
/// (`CUDA_ERROR_NO_DEVICE`). A driver that is there and fails is an error, not a reason to fall back.
///
/// # Errors
/// [`Error::NoDriver`] and [`Error::NoDevice`] unless `Auto`; [`Error::DriverLibrary`], [`Error::DriverFunction`],
/// [`Error::UnusableDevice`] or the driver's own, whatever was chosen.
pub fn open(choice: DeviceChoice) -> Result<Box<dyn Device>> {
    let interpreter = || Box::new(interpreter::Interpreter::new()) as Box<dyn Device>;
    match choice {
        DeviceChoice::Interpreter => Ok(interpreter()),
        DeviceChoice::Cuda => Ok(Box::new(cuda::Cuda::new(0)?)),
        DeviceChoice::Auto => match cuda::Cuda::new(0) {
            Ok(device) => Ok(Box::new(device)),
            Err(Error::NoDriver | Error::NoDevice { .. }) => Ok(interpreter()),
            Err(error) => Err(error),
        },
    }
}
