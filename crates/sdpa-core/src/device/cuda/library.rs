//! The driver's library: whether it is installed, whether it has what is called, and its first answer.

use std::ffi::{c_int, c_uint};
use std::sync::OnceLock;

use libloading::Library;

use super::answer::{Describe, DriverAnswer};
use crate::{Error, Result};

/// Names of the driver's library, in the order in which cudarc looks for them.
const NAMES: &[&str] = if cfg!(windows) { &["nvcuda.dll"] } else { &["libcuda.so", "libcuda.so.1"] };

/// Functions that opening a device, its memory and its launches call. cudarc looks each up when it is called first, and
/// panics where the library lacks it.
pub(super) const DEVICE: &[&str] = &[
    "cuGetErrorName",
    "cuGetErrorString",
    "cuInit",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamSynchronize",
    "cuStreamIsCapturing",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemsetD8Async",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuModuleLoadData",
    "cuModuleGetFunction",
    "cuModuleUnload",
    "cuFuncGetAttribute",
    "cuFuncSetAttribute",
    "cuLaunchKernel",
];

/// Functions of memory that is allocated in stream order, where the device has it.
pub(super) const POOLS: &[&str] = &["cuMemAllocAsync", "cuMemFreeAsync"];

/// Functions that recordings call. Which of the two elapsed times it is, the program's choice of a CUDA version decides.
pub(super) const RECORDING: &[&str] = &[
    "cuEventCreate",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuEventElapsedTime",
    "cuEventElapsedTime_v2",
    "cuEventDestroy_v2",
    "cuStreamBeginCapture_v2",
    "cuStreamEndCapture",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuGraphExecDestroy",
    "cuGraphDestroy",
];

/// The functions that make tensor maps, and move them to another address.
pub(super) const TENSOR_MAPS: &[&str] = &["cuTensorMapEncodeTiled", "cuTensorMapReplaceAddress"];

/// The functions that say which card it is: which of the two cudarc calls, the program's features decide.
pub(super) const UUID: &[&str] = &["cuDeviceGetUuid", "cuDeviceGetUuid_v2"];

/// The function that says how new the driver is.
pub(super) const VERSION: &[&str] = &["cuDriverGetVersion"];

/// Why there is no library to call.
enum Missing {
    /// No file of its name: no driver is installed.
    NotInstalled,
    /// A file that does not load, in the loader's words.
    Unusable(String),
}

/// Loads the library and calls nothing in it. It stays loaded: cudarc calls the same one.
fn library() -> std::result::Result<&'static Library, &'static Missing> {
    static LIBRARY: OnceLock<std::result::Result<Library, Missing>> = OnceLock::new();
    let load = || {
        let mut missing = Missing::NotInstalled;
        for name in NAMES {
            // SAFETY: the driver's initialisers have no preconditions.
            match unsafe { Library::new(*name) } {
                Ok(library) => return Ok(library),
                Err(error) if is_absent(name, &error) => {}
                Err(error) => missing = Missing::Unusable(words(&error)),
            }
        }
        Err(missing)
    };
    LIBRARY.get_or_init(load).as_ref()
}

/// True where no file of this name was found, and false where one was found that does not load. Only Linux tells one from
/// the other.
fn is_absent(name: &str, error: &libloading::Error) -> bool {
    // The loader begins with the file that it misses, which may be another one that the library needs.
    let words = words(error);
    let is_missing = words.starts_with(name) || words.contains(&format!("library {name}"));
    cfg!(not(target_os = "linux")) || (is_missing && words.contains("No such file"))
}

/// The loader's words, without libloading's frame around them.
pub(super) fn words(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// True if a CUDA driver is installed, usable or not. Loads its library and calls nothing in it, so that a process may ask
/// and still fork.
///
/// cudarc has a probe of its own under one of its linking modes; which mode it is, the program decides and not this crate.
pub fn driver_present() -> bool {
    !matches!(library(), Err(Missing::NotInstalled))
}

/// Checks that the library is there and has these functions.
pub(super) fn require(functions: &[&'static str]) -> Result<()> {
    let library = library().map_err(|missing| match missing {
        Missing::NotInstalled => Error::NoDriver,
        Missing::Unusable(reason) => Error::DriverLibrary { reason: reason.clone() },
    })?;
    for function in functions {
        // SAFETY: the address is only looked up; nothing is called by this type.
        if unsafe { library.get::<unsafe extern "C" fn()>(*function) }.is_err() {
            return Err(Error::DriverFunction { function });
        }
    }
    Ok(())
}

/// Checks that the driver is there, has what opening a device calls, and starts. By its own pointers, so that every code is
/// understood: cudarc's type knows those of one CUDA version.
pub(super) fn start(ordinal: usize) -> Result<()> {
    require(DEVICE)?;
    let Ok(library) = library() else { return Err(Error::NoDriver) };
    // SAFETY: cuInit takes flags, which must be 0, and returns a CUresult; it may be called again and again.
    let code = unsafe {
        let init = library.get::<unsafe extern "C" fn(c_uint) -> c_int>("cuInit");
        init.map(|init| init(0))
    };
    let code = code.map_err(|_| Error::DriverFunction { function: "cuInit" })?;
    if code == 0 {
        return Ok(());
    }
    // SAFETY: both functions have this type, and were found by `require`.
    let describe = |function| unsafe { library.get::<Describe>(function) }.map(|found| *found);
    let (Ok(name), Ok(text)) = (describe("cuGetErrorName"), describe("cuGetErrorString")) else {
        return Err(unusable(ordinal)(DriverAnswer::new(code, "cuInit failed")));
    };
    Err(unusable(ordinal)(DriverAnswer::ask(code, name, text)))
}

/// Turns an answer to the first calls into an error. Only one code means that there is no GPU.
pub(super) fn unusable(ordinal: usize) -> impl Fn(DriverAnswer) -> Error {
    /// `CUDA_ERROR_NO_DEVICE`.
    const NO_DEVICE: i32 = 100;
    move |answer| match answer.code() {
        NO_DEVICE => Error::NoDevice { answer },
        _ => Error::UnusableDevice { ordinal, answer },
    }
}
