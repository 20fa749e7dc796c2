//! candle's tensors on a GPU: on its stream, in its memory.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::backend::BackendStorage as _;
use candle_core::cuda_backend::CudaDType;
use candle_core::cuda_backend::cudarc::driver::{CudaStream, DevicePtr as _, DevicePtrMut as _};
use candle_core::{CudaStorage, DType, Layout, Result, Storage, Tensor, bail};
use sdpa::{Buffer, Cuda, Operand, Tensors};

use crate::attend::Attend;

/// CUDA's `CU_STREAM_PER_THREAD`, which `Device::new_cuda` has: one handle, behind which each thread has a stream of its own.
const PER_THREAD: usize = 2;

/// Our devices by the address of candle's stream, which is its own as long as a device keeps the stream.
type Devices = HashMap<usize, Arc<Cuda>>;

/// Our device for what this thread queues on a stream of candle's.
fn device_of(stream: &Arc<CudaStream>) -> Result<Arc<Cuda>> {
    match stream.cu_stream() as usize {
        PER_THREAD => device_of_thread(stream),
        _ => device_of_stream(stream),
    }
}

/// Our device on a stream, one for all threads.
fn device_of_stream(stream: &Arc<CudaStream>) -> Result<Arc<Cuda>> {
    static DEVICES: Mutex<Option<Devices>> = Mutex::new(None);

    let mut devices = lock(&DEVICES);
    let devices = devices.get_or_insert_default();
    let key = Arc::as_ptr(stream) as usize;
    if let Some(device) = devices.get(&key) {
        return Ok(Arc::clone(device));
    }
    let device = Arc::new(Cuda::from_stream(Arc::clone(stream)).map_err(candle_core::Error::msg)?);
    devices.insert(key, Arc::clone(&device));
    Ok(device)
}

/// This thread's devices on [`PER_THREAD`], each with tickets of its own: work of two threads runs at once. When the thread ends,
/// another one may have them.
#[derive(Default)]
struct OfThread(Devices);

static OF_ENDED_THREADS: Mutex<Vec<(usize, Arc<Cuda>)>> = Mutex::new(Vec::new());

impl Drop for OfThread {
    fn drop(&mut self) {
        lock(&OF_ENDED_THREADS).extend(self.0.drain());
    }
}

/// Our device on this thread's own stream.
fn device_of_thread(stream: &Arc<CudaStream>) -> Result<Arc<Cuda>> {
    thread_local! {
        static DEVICES: RefCell<OfThread> = RefCell::default();
    }

    DEVICES.with_borrow_mut(|OfThread(devices)| {
        let key = Arc::as_ptr(stream) as usize;
        if let Some(device) = devices.get(&key) {
            return Ok(Arc::clone(device));
        }
        let ended = {
            let mut ended = lock(&OF_ENDED_THREADS);
            ended.iter().position(|(of, _)| *of == key).map(|index| ended.swap_remove(index).1)
        };
        let device = match ended {
            Some(device) => {
                // What the ended thread queued may still be running, and use the device's tickets.
                stream.context().synchronize().map_err(candle_core::Error::wrap)?;
                device
            }
            None => {
                // It launches nothing: kernels are loaded once for all threads that have their device from it.
                let family = device_of_stream(stream)?;
                // SAFETY: the handle is one in every context, and in every thread.
                let device = unsafe { family.on_raw_stream(stream.cu_stream().cast()) };
                Arc::new(device.map_err(candle_core::Error::msg)?)
            }
        };
        devices.insert(key, Arc::clone(&device));
        Ok(device)
    })
}

/// What is poisoned is still a map or a list: entries are inserted whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Queues attention on candle's stream.
///
/// # Errors
/// In words, as for all of this crate.
pub(crate) fn forward<T: CudaDType + candle_core::cuda_backend::cudarc::driver::DeviceRepr>(
    asked: &Attend,
    storages: [&CudaStorage; 3],
    layouts: [&Layout; 3],
) -> Result<(CudaStorage, candle_core::Shape)> {
    let dtype = storages[0].dtype();
    let problem = asked.problem(dtype, layouts)?;
    let candle = storages[0].device();
    let stream = candle.cuda_stream();
    let device = device_of(&stream)?;

    // The guards tell candle's events that the memory is in use, and are kept until the work is queued.
    let mut addresses = [0; 3];
    let mut guards = Vec::with_capacity(3);
    for (index, operand) in [Operand::Query, Operand::Key, Operand::Value].into_iter().enumerate() {
        if storages[index].dtype() != dtype {
            bail!(
                "{operand} is {} and query is {}: both must be the same",
                storages[index].dtype().as_str(),
                dtype.as_str()
            );
        }
        let slice = storages[index].as_cuda_slice::<T>()?;
        let (address, guard) = slice.device_ptr(&stream);
        addresses[index] = address + 2 * layouts[index].start_offset() as u64;
        guards.push(guard);
    }
    // SAFETY: candle's storage is longer than a layout's last element, which the problem's span ends with; its memory is freed on
    // the same stream, behind this.
    let borrowed = |operand: Operand, address: u64| unsafe { Buffer::borrowed(address, 2 * problem.span(operand)) };
    let query = borrowed(Operand::Query, addresses[0]);
    let (key, value) = (borrowed(Operand::Key, addresses[1]), borrowed(Operand::Value, addresses[2]));

    // SAFETY: attention writes every element; rows of packed tensors that belong to no sequence are candle's to leave alone.
    let mut output = unsafe { candle.alloc::<T>(problem.span(Operand::Output)) }?;
    let mut lse = match asked.asks_for_lse() {
        // SAFETY: the same.
        true => Some(unsafe { candle.alloc::<f32>(problem.lse_len()) }?),
        false => None,
    };
    let numbers = asked.numbers(|name, tensor, _| address_of(name, tensor, &stream))?;
    {
        let (address, _output_guard) = output.device_ptr_mut(&stream);
        let out = borrowed(Operand::Output, address);
        let lse = lse.as_mut().map(|lse| lse.device_ptr_mut(&stream));
        // SAFETY: it was just allocated, as long as this.
        let lse_buffer = lse.as_ref().map(|(address, _)| unsafe { Buffer::borrowed(*address, 4 * problem.lse_len()) });
        let mut tensors = numbers.add_to(Tensors::new(&query, &key, &value, &out));
        if let Some(lse) = &lse_buffer {
            tensors = tensors.with_lse(lse);
        }
        sdpa::forward(&*device, &problem, &tensors).map_err(candle_core::Error::msg)?;
    }
    drop(guards);
    if let Some(lse) = lse {
        asked.leave_lse(Storage::Cuda(CudaStorage::wrap_cuda_slice(lse, candle.clone())));
    }
    Ok((CudaStorage::wrap_cuda_slice(output, candle.clone()), layouts[0].shape().clone()))
}

/// A tensor of 4-byte numbers on the GPU.
fn address_of(name: &str, tensor: &Tensor, stream: &Arc<CudaStream>) -> Result<Buffer> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(cuda) = &*storage else { bail!("{name} is not on a GPU, and query is: move it with to_device") };
    // The address alone: work that would write the tensor is queued behind this on the same stream.
    let address = match tensor.dtype() {
        DType::F32 => cuda.as_cuda_slice::<f32>()?.device_ptr(stream).0,
        DType::I32 => cuda.as_cuda_slice::<i32>()?.device_ptr(stream).0,
        _ => cuda.as_cuda_slice::<u32>()?.device_ptr(stream).0,
    };
    // SAFETY: a contiguous tensor of so many numbers, which the operation's question keeps.
    Ok(unsafe { Buffer::borrowed(address + 4 * layout.start_offset() as u64, 4 * tensor.elem_count()) })
}
