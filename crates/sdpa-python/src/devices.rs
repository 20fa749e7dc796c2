//! The devices that tensors lie on: one for each stream that is ever used, and one for host memory.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sdpa::{Cuda, Device, DeviceChoice, Error};

use crate::failure::Failure;

/// An entry is inserted whole, or not at all.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is open.
#[derive(Default)]
struct Open {
    /// By the GPU's ordinal and the stream's handle.
    devices: HashMap<(usize, usize), Arc<Cuda>>,
    /// GPUs on which the next graph could not be recorded on a stream that is not known yet: its tickets were taken.
    without_spare: Vec<usize>,
}

/// The device of a stream, by its GPU's ordinal and its handle. It is opened once; kernels are loaded once per GPU.
///
/// # Errors
/// Those of opening it. A stream that records a graph needs a call on another stream of the GPU before.
pub(crate) fn of_stream(ordinal: usize, stream: usize) -> Result<Arc<Cuda>, Failure> {
    static OPEN: Mutex<Option<Open>> = Mutex::new(None);

    let mut open = lock(&OPEN);
    let Open { devices, without_spare } = open.get_or_insert_default();
    let device = match devices.get(&(ordinal, stream)) {
        Some(device) => Arc::clone(device),
        None => {
            let first = devices.iter().find(|((other, _), _)| *other == ordinal).map(|(_, device)| Arc::clone(device));
            let handle = stream as *mut c_void;
            // SAFETY: Python gives a current stream of PyTorch's, which is of the GPU's primary context. PyTorch never
            // destroys its own; whoever makes one outside of it keeps it while its work is queued, and a later one with the
            // same handle is a stream as well.
            let device = Arc::new(unsafe {
                match first {
                    Some(first) => first.on_raw_stream(handle)?,
                    None => Cuda::from_raw_stream(ordinal, handle)?,
                }
            });
            devices.insert((ordinal, stream), Arc::clone(&device));
            without_spare.push(ordinal);
            device
        }
    };
    if without_spare.contains(&ordinal) {
        match device.keep_spare_tickets() {
            Ok(()) => without_spare.retain(|other| *other != ordinal),
            // A later call that is not recorded does it.
            Err(Error::Capturing { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(device)
}

/// The device that computes on copies of host memory, by `SDPA_DEVICE`; with `only_interpreter` it must be the interpreter.
///
/// # Errors
/// Those of opening it.
pub(crate) fn for_host(only_interpreter: bool) -> Result<Arc<dyn Device>, Failure> {
    static DEVICES: Mutex<Vec<(DeviceChoice, Arc<dyn Device>)>> = Mutex::new(Vec::new());

    let choice = DeviceChoice::from_env()?;
    if only_interpreter && choice != DeviceChoice::Interpreter {
        return Err(Failure::Invalid(
            "query is a CPU tensor: evo_sdpa computes on CUDA tensors; move it with .cuda(), or set SDPA_DEVICE=interpreter \
             to have the kernels interpreted, for tests"
                .to_owned(),
        ));
    }
    let mut devices = lock(&DEVICES);
    if let Some((_, device)) = devices.iter().find(|(known, _)| *known == choice) {
        return Ok(Arc::clone(device));
    }
    let device: Arc<dyn Device> = Arc::from(sdpa::open(choice)?);
    devices.push((choice, Arc::clone(&device)));
    Ok(device)
}
