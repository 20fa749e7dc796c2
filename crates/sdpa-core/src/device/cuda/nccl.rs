//! NCCL, NVIDIA's library of communication between GPUs: loaded at run time, and never waited for without an end.
//!
//! cudarc's own binding looks for `libnccl.so` alone and panics without it. The wheels and most systems have
//! `libnccl.so.2`, so the dozen functions that are called are looked up here, each with a typed error.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use cudarc::driver::{CudaStream, result, sys};
use libloading::Library;

use super::{Cuda, driver, library};
use crate::{Buffer, Error, MemoryId, Result};

/// The library's names, the newest first.
const NAMES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];

/// Names a library by its path, where the loader would not find it.
const VARIABLE: &str = "SDPA_NCCL";

/// Bytes of an id, as `ncclUniqueId` holds them.
pub const NCCL_ID_BYTES: usize = 128;

/// `ncclSuccess` and `ncclInProgress`.
const SUCCESS: c_int = 0;
const IN_PROGRESS: c_int = 7;

/// `ncclUint8`: bytes are bytes.
const BYTES: c_int = 1;

/// The driver's functions that ordering two streams calls, beyond those of every device.
const STREAMS: &[&str] = &[
    "cuStreamCreateWithPriority",
    "cuCtxGetStreamPriorityRange",
    "cuStreamQuery",
    "cuStreamWaitEvent",
    "cuEventCreate",
    "cuEventRecord",
    "cuEventDestroy_v2",
];

/// How long an unfinished communicator may take to close before it is ended by force.
const PATIENCE_AT_THE_END: Duration = Duration::from_secs(5);

/// The handle `ncclComm_t`.
type Comm = *mut c_void;

/// `ncclUniqueId`.
#[repr(C)]
#[derive(Clone, Copy)]
struct UniqueId([c_char; NCCL_ID_BYTES]);

/// `ncclConfig_t` as NCCL 2.18 has it: newer libraries read as much as `size` says.
#[repr(C)]
struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
    cga_cluster_size: c_int,
    min_ctas: c_int,
    max_ctas: c_int,
    net_name: *const c_char,
    split_share: c_int,
}

impl Config {
    /// `NCCL_CONFIG_INITIALIZER`, but that no call blocks.
    fn nonblocking() -> Self {
        /// `NCCL_CONFIG_UNDEF_INT`: the library's own choice.
        const UNDEFINED: c_int = c_int::MIN;
        Self {
            size: size_of::<Self>(),
            magic: 0xcafe_beef,
            version: 2 * 10_000 + 18 * 100,
            blocking: 0,
            cga_cluster_size: UNDEFINED,
            min_ctas: UNDEFINED,
            max_ctas: UNDEFINED,
            net_name: std::ptr::null(),
            split_share: UNDEFINED,
        }
    }
}

/// The functions that are called, with the library that they are in.
struct Functions {
    version: unsafe extern "C" fn(*mut c_int) -> c_int,
    unique_id: unsafe extern "C" fn(*mut UniqueId) -> c_int,
    init: unsafe extern "C" fn(*mut Comm, c_int, UniqueId, c_int, *mut Config) -> c_int,
    async_error: unsafe extern "C" fn(Comm, *mut c_int) -> c_int,
    finalize: unsafe extern "C" fn(Comm) -> c_int,
    destroy: unsafe extern "C" fn(Comm) -> c_int,
    abort: unsafe extern "C" fn(Comm) -> c_int,
    group_start: unsafe extern "C" fn() -> c_int,
    group_end: unsafe extern "C" fn() -> c_int,
    send: unsafe extern "C" fn(*const c_void, usize, c_int, c_int, Comm, sys::CUstream) -> c_int,
    receive: unsafe extern "C" fn(*mut c_void, usize, c_int, c_int, Comm, sys::CUstream) -> c_int,
    error_text: unsafe extern "C" fn(c_int) -> *const c_char,
    last_error: unsafe extern "C" fn(Comm) -> *const c_char,
    _library: Library,
}

/// NCCL's functions, loaded once per process.
fn functions() -> Result<&'static Functions> {
    static FUNCTIONS: OnceLock<std::result::Result<Functions, String>> = OnceLock::new();
    FUNCTIONS.get_or_init(load).as_ref().map_err(|reason| Error::NoNccl { reason: reason.clone() })
}

fn load() -> std::result::Result<Functions, String> {
    let named = std::env::var(VARIABLE).ok();
    let names: Vec<&str> = named.as_deref().map_or_else(|| NAMES.to_vec(), |name| vec![name]);
    let mut reasons = Vec::new();
    for name in names {
        // SAFETY: NCCL's initialisers have no preconditions.
        match unsafe { Library::new(name) } {
            // SAFETY: the library is NCCL by its name, and `Functions` has its header's types.
            Ok(library) => return unsafe { look_up(library) },
            Err(error) => reasons.push(library::words(&error)),
        }
    }
    Err(reasons.join("; "))
}

/// # Safety
/// The library is NCCL.
unsafe fn look_up(library: Library) -> std::result::Result<Functions, String> {
    macro_rules! function {
        ($name:literal) => {
            // SAFETY: the caller says that the library is NCCL, and the field that this is for has the type of its header.
            *unsafe { library.get($name) }.map_err(|_| format!("the library has no function {}: it is too old", $name))?
        };
    }
    Ok(Functions {
        version: function!("ncclGetVersion"),
        unique_id: function!("ncclGetUniqueId"),
        init: function!("ncclCommInitRankConfig"),
        async_error: function!("ncclCommGetAsyncError"),
        finalize: function!("ncclCommFinalize"),
        destroy: function!("ncclCommDestroy"),
        abort: function!("ncclCommAbort"),
        group_start: function!("ncclGroupStart"),
        group_end: function!("ncclGroupEnd"),
        send: function!("ncclSend"),
        receive: function!("ncclRecv"),
        error_text: function!("ncclGetErrorString"),
        last_error: function!("ncclGetLastError"),
        _library: library,
    })
}

impl Functions {
    /// An error with NCCL's words, and the library's last ones if there are any.
    fn refused(&self, doing: &'static str, code: c_int, comm: Comm) -> Error {
        let text = |pointer: *const c_char| match pointer.is_null() {
            true => String::new(),
            // SAFETY: NCCL returns null or text that lives as long as the library.
            false => unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned(),
        };
        // SAFETY: both functions may be asked for any code and for no communicator.
        let (answer, last) = unsafe { (text((self.error_text)(code)), text((self.last_error)(comm))) };
        let reason = if last.is_empty() { answer } else { format!("{answer}: {last}") };
        Error::Nccl { doing, code, reason }
    }
}

/// Whether NCCL can be loaded here, and which version it is, as (major, minor, patch).
///
/// # Errors
/// [`Error::NoNccl`] in the loader's words.
pub fn nccl_version() -> Result<(u32, u32, u32)> {
    let nccl = functions()?;
    let mut version = 0;
    // SAFETY: writes one integer.
    let code = unsafe { (nccl.version)(&mut version) };
    match code {
        SUCCESS => {}
        code => return Err(nccl.refused("asking for NCCL's version", code, std::ptr::null_mut())),
    }
    let version = version as u32;
    Ok((version / 10_000, version % 10_000 / 100, version % 100))
}

/// What the ranks of one communicator agree on: made by one of them, and told to the others.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct NcclId(pub [u8; NCCL_ID_BYTES]);

impl NcclId {
    /// Another id than every one before. The process that makes it must live while the ranks connect.
    ///
    /// # Errors
    /// [`Error::NoNccl`] or [`Error::Nccl`].
    pub fn new() -> Result<Self> {
        let nccl = functions()?;
        let mut id = UniqueId([0; NCCL_ID_BYTES]);
        // SAFETY: writes one id.
        match unsafe { (nccl.unique_id)(&mut id) } {
            SUCCESS => Ok(Self(id.0.map(|byte| byte as u8))),
            code => Err(nccl.refused("making an id", code, std::ptr::null_mut())),
        }
    }
}

impl std::fmt::Debug for NcclId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NcclId(…)")
    }
}

/// Bytes that go to or come from another rank.
#[derive(Clone, Copy, Debug)]
pub struct Transfer<'a> {
    /// The other rank; one's own is allowed.
    pub peer: usize,
    /// Where the bytes lie.
    pub buffer: &'a Buffer,
    /// How far behind the buffer's start.
    pub offset: usize,
    /// How many.
    pub bytes: usize,
}

/// One rank of an NCCL communicator, with a stream for its transfers beside the device's own.
///
/// It never blocks without an end: every call that waits looks at a clock, and asks `stop` whether somebody else has
/// failed. Once a wait was given up the communicator is aborted, and all later calls fail.
pub struct Nccl {
    functions: &'static Functions,
    comm: Comm,
    compute: Arc<CudaStream>,
    transfers: Arc<CudaStream>,
    memory: MemoryId,
    aborted: std::sync::atomic::AtomicBool,
}

// SAFETY: NCCL's communicator may be used from any thread, by one at a time; `Nccl` is used by one thread at a time, since
// it is not `Sync`.
unsafe impl Send for Nccl {}

/// What a wait is ended by: a clock, or somebody else's failure.
pub type Stop<'a> = &'a dyn Fn() -> bool;

impl Nccl {
    /// Connects this rank with the others, which all call this with the same id.
    ///
    /// # Errors
    /// [`Error::NoNccl`], [`Error::Nccl`], the driver's, and [`Error::Deadline`] if not all ranks came in time or `stop` said
    /// so.
    pub fn connect(
        device: &Cuda,
        rank: usize,
        ranks: usize,
        id: &NcclId,
        deadline: Duration,
        stop: Stop<'_>,
    ) -> Result<Self> {
        let functions = functions()?;
        library::require(STREAMS)?;
        device.bind()?;
        let (_, greatest) = result::stream::get_priority_range().map_err(driver("asking for priorities"))?;
        // Transfers go first: their few blocks must not wait behind a kernel that fills the device.
        let context = device.stream.context();
        let transfers = context.new_stream_with_priority(greatest).map_err(driver("making a stream"))?;
        let mut comm = std::ptr::null_mut();
        let mut config = Config::nonblocking();
        let id = UniqueId(id.0.map(|byte| byte as c_char));
        // SAFETY: the pointers are to a handle and a configuration of NCCL's own layout; the device's context is current.
        let code = unsafe { (functions.init)(&mut comm, ranks as c_int, id, rank as c_int, &mut config) };
        if code != SUCCESS && code != IN_PROGRESS {
            return Err(functions.refused("connecting the ranks", code, comm));
        }
        let compute = Arc::clone(&device.stream);
        let memory = crate::Device::memory(device);
        let nccl = Self { functions, comm, compute, transfers, memory, aborted: false.into() };
        nccl.settle("connecting the ranks", Instant::now() + deadline, deadline, stop)?;
        Ok(nccl)
    }

    /// Queues transfers that belong together: all sends and receives between a pair of ranks are matched in their order.
    ///
    /// Returns once they are queued. The first between two ranks waits until the other one has come here, too.
    ///
    /// # Errors
    /// [`Error::OutOfBuffer`] or [`Error::OtherMemory`] before anything is queued; [`Error::Nccl`] and [`Error::Deadline`],
    /// after which the communicator is aborted.
    pub fn exchange(
        &self,
        sends: &[Transfer<'_>],
        receives: &[Transfer<'_>],
        deadline: Duration,
        stop: Stop<'_>,
    ) -> Result<()> {
        const DOING: &str = "exchanging blocks with other ranks";
        self.usable(DOING)?;
        let checked = |transfers: &[Transfer<'_>]| -> Result<Vec<(u64, usize, c_int)>> {
            let one = |transfer: &Transfer<'_>| {
                let address = transfer.buffer.check_range(self.memory, transfer.offset, transfer.bytes)?;
                Ok((address, transfer.bytes, transfer.peer as c_int))
            };
            transfers.iter().map(one).collect()
        };
        let (sends, receives) = (checked(sends)?, checked(receives)?);
        self.bind()?;
        let (comm, stream) = (self.comm, self.transfers.cu_stream());
        let queued = |code: c_int| match code {
            SUCCESS | IN_PROGRESS => Ok(()),
            code => Err(self.functions.refused(DOING, code, comm)),
        };
        let mut outcome: Result<()> = Ok(());
        // SAFETY: every range lies inside of a buffer of this memory, which the caller keeps until it has waited for this
        // stream; the communicator lives. The group is ended whatever happened inside.
        unsafe {
            queued((self.functions.group_start)())?;
            for (address, bytes, peer) in sends {
                let code = (self.functions.send)(address as *const c_void, bytes, BYTES, peer, comm, stream);
                outcome = outcome.and(queued(code));
            }
            for (address, bytes, peer) in receives {
                let code = (self.functions.receive)(address as *mut c_void, bytes, BYTES, peer, comm, stream);
                outcome = outcome.and(queued(code));
            }
            outcome = outcome.and(queued((self.functions.group_end)()));
        }
        if let Err(error) = outcome {
            self.abort();
            return Err(error);
        }
        self.settle(DOING, Instant::now() + deadline, deadline, stop)
    }

    /// Makes transfers that are queued from now on wait for the device's work that is queued by now.
    ///
    /// # Errors
    /// The driver's.
    pub fn transfers_follow_compute(&self) -> Result<()> {
        self.order(&self.compute, &self.transfers)
    }

    /// Makes the device's work that is queued from now on wait for the transfers that are queued by now.
    ///
    /// # Errors
    /// The driver's.
    pub fn compute_follows_transfers(&self) -> Result<()> {
        self.order(&self.transfers, &self.compute)
    }

    fn order(&self, first: &Arc<CudaStream>, then: &Arc<CudaStream>) -> Result<()> {
        self.usable("ordering transfers")?;
        self.bind()?;
        let event = first.record_event(None).map_err(driver("recording an event"))?;
        then.wait(&event).map_err(driver("waiting for an event"))
    }

    /// Waits for the device's work and for the transfers, but not longer than `deadline` and not after `stop` says so.
    ///
    /// # Errors
    /// [`Error::Deadline`] and [`Error::Nccl`], after which the communicator is aborted; whatever the work failed with.
    pub fn synchronize(&self, deadline: Duration, stop: Stop<'_>) -> Result<()> {
        const DOING: &str = "waiting for transfers and what follows them";
        self.usable(DOING)?;
        self.bind()?;
        let started = Instant::now();
        loop {
            if self.is_idle(&self.transfers)? && self.is_idle(&self.compute)? {
                return Ok(());
            }
            self.proceed(DOING, started + deadline, deadline, stop, false)?;
            pause(started);
        }
    }

    fn is_idle(&self, stream: &CudaStream) -> Result<bool> {
        // SAFETY: the stream is alive and its context is current.
        match unsafe { sys::cuStreamQuery(stream.cu_stream()) } {
            sys::CUresult::CUDA_SUCCESS => Ok(true),
            sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            other => Err(driver("waiting for the device")(cudarc::driver::DriverError(other))),
        }
    }

    /// Waits until nothing of NCCL's own is in progress: then what was asked for is queued.
    fn settle(&self, doing: &'static str, end: Instant, deadline: Duration, stop: Stop<'_>) -> Result<()> {
        let started = Instant::now();
        while !self.proceed(doing, end, deadline, stop, true)? {
            pause(started);
        }
        Ok(())
    }

    /// Looks once at NCCL's state, the clock and the others. True if nothing is in progress.
    fn proceed(
        &self,
        doing: &'static str,
        end: Instant,
        deadline: Duration,
        stop: Stop<'_>,
        until_settled: bool,
    ) -> Result<bool> {
        let mut state = SUCCESS;
        // SAFETY: the communicator lives; writes one code.
        let code = unsafe { (self.functions.async_error)(self.comm, &mut state) };
        let failed = [code, state].into_iter().find(|code| *code != SUCCESS && *code != IN_PROGRESS);
        if let Some(code) = failed {
            let error = self.functions.refused(doing, code, self.comm);
            self.abort();
            return Err(error);
        }
        if until_settled && state == SUCCESS {
            return Ok(true);
        }
        let stopped = stop();
        if stopped || Instant::now() > end {
            self.abort();
            return Err(Error::Deadline { doing, waited: deadline, stopped });
        }
        Ok(false)
    }

    fn usable(&self, doing: &'static str) -> Result<()> {
        match self.aborted.load(std::sync::atomic::Ordering::Relaxed) {
            false => Ok(()),
            true => Err(Error::Nccl { doing, code: 0, reason: "the communicator was aborted before".to_owned() }),
        }
    }

    fn bind(&self) -> Result<()> {
        self.compute.context().bind_to_thread().map_err(driver("binding the context"))
    }

    /// Ends whatever is under way, on the device too. All later calls fail.
    pub fn abort(&self) {
        if self.aborted.swap(true, std::sync::atomic::Ordering::Relaxed) {
            return;
        }
        self.compute.context().record_err(self.compute.context().bind_to_thread());
        // SAFETY: the communicator lives, and is not used after this: `usable` refuses.
        unsafe { (self.functions.abort)(self.comm) };
    }
}

/// Closes the communicator; one that does not close in time is aborted.
impl Drop for Nccl {
    fn drop(&mut self) {
        if *self.aborted.get_mut() || self.comm.is_null() {
            return;
        }
        self.compute.context().record_err(self.compute.context().bind_to_thread());
        // SAFETY: the communicator lives, and nothing uses it behind this.
        let code = unsafe { (self.functions.finalize)(self.comm) };
        let end = Instant::now() + PATIENCE_AT_THE_END;
        let closes = code == SUCCESS || code == IN_PROGRESS;
        match closes && self.settle("closing the communicator", end, PATIENCE_AT_THE_END, &|| false).is_ok() {
            // SAFETY: as above; it is finalized.
            true => drop(unsafe { (self.functions.destroy)(self.comm) }),
            false => self.abort(),
        }
    }
}

/// Gives the core away: for short waits only to others that are ready, for long ones for a moment.
fn pause(started: Instant) {
    match started.elapsed() < Duration::from_millis(2) {
        true => std::thread::yield_now(),
        false => std::thread::sleep(Duration::from_micros(50)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `ncclConfig_t` up to `splitShare`, by NCCL 2.18's header on a 64-bit machine.
    #[test]
    fn the_configuration_lies_as_nccl_reads_it() {
        assert_eq!(std::mem::offset_of!(Config, blocking), 16);
        assert_eq!(std::mem::offset_of!(Config, net_name), 32);
        assert_eq!((std::mem::offset_of!(Config, split_share), size_of::<Config>()), (40, 48));
        assert_eq!(size_of::<UniqueId>(), 128);
    }
}
