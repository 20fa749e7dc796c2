//! A GPU, through cudarc. The driver is loaded at run time; a machine without one gets a typed error.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cudarc::driver::sys::{CUdevice_attribute as Attribute, CUevent_flags, CUfunction_attribute, CUresult};
use cudarc::driver::{
    CudaContext, CudaEvent, CudaFunction, CudaGraph, CudaSlice, CudaStream, DriverError, LaunchConfig, PushKernelArg,
    result, sys,
};
use cudarc::nvrtc::Ptx;
use ptx_interp::TENSOR_MAP_BYTES;

use super::tensor_maps::TensorMaps;
use super::{Buffer, Device, DeviceKind, MOST_TICKETS, Recording, Resources};
use crate::{DeviceLimits, Error, Launch, Params, Result, Specialisation};

// SAFETY: `Params` is `repr(C)` plain data whose layout a test holds to the kernels' own parameter block.
unsafe impl cudarc::driver::DeviceRepr for Params {}

// SAFETY: `TensorMaps` is `repr(C)` plain data: four of the driver's own tensor maps, as large and as aligned as the
// kernels' `TensorMaps`.
unsafe impl cudarc::driver::DeviceRepr for TensorMaps {}

/// One tensor map as a kernel parameter.
#[repr(C, align(64))]
struct TensorMap([u8; TENSOR_MAP_BYTES]);

// SAFETY: plain data, as large and as aligned as the driver's own tensor map.
unsafe impl cudarc::driver::DeviceRepr for TensorMap {}

/// True if a CUDA driver is installed. Loads the library and calls nothing in it, so that a process may ask and still
/// fork.
///
/// cudarc has a probe of its own under one of its linking modes; which mode it is, the program decides and not this crate.
pub fn driver_present() -> bool {
    const NAMES: [&str; 3] = ["libcuda.so.1", "libcuda.so", "nvcuda.dll"];
    // SAFETY: the driver's initialisers have no preconditions, and nothing in the library is called here.
    NAMES.into_iter().any(|name| unsafe { libloading::Library::new(name) }.is_ok())
}

/// A CUDA device and the one stream that its work is queued on.
pub struct Cuda {
    stream: Arc<CudaStream>,
    limits: DeviceLimits,
    /// Allocated when the device is opened: a graph that is being recorded could neither allocate them nor clear them
    /// once.
    tickets: CudaSlice<u32>,
    kernels: Mutex<HashMap<Specialisation, CudaFunction>>,
    /// Kernels that others replaced: a recorded graph may still launch them.
    replaced: Mutex<Vec<CudaFunction>>,
}

impl Cuda {
    /// Opens the device with this ordinal and makes a stream for it.
    ///
    /// # Errors
    /// [`Error::NoDriver`] or [`Error::NoDevice`] where there is none.
    pub fn new(ordinal: usize) -> Result<Self> {
        if !driver_present() {
            return Err(Error::NoDriver);
        }
        let no_device = |error: DriverError| Error::NoDevice { reason: reason(error) };
        let context = CudaContext::new(ordinal).map_err(no_device)?;
        // SAFETY: this device allocates, frees and launches on one stream only, so there is nothing to order between
        // streams; tracking would add an event record and wait to every launch, and break graph capture.
        unsafe { context.disable_event_tracking() };
        Self::from_stream(context.new_stream().map_err(no_device)?)
    }

    /// Uses a stream of your own program: work is queued behind what you queued there. It must not be recording a graph
    /// yet.
    ///
    /// # Errors
    /// The driver's, where it does not say what the device can hold.
    pub fn from_stream(stream: Arc<CudaStream>) -> Result<Self> {
        let context = stream.context();
        let attribute = |attribute| {
            context.attribute(attribute).map(|value| value as u32).map_err(driver("asking for the device's limits"))
        };
        let limits = DeviceLimits {
            compute_capability: (
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_bytes_per_block: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            shared_bytes_per_multiprocessor: attribute(
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR,
            )?,
            registers_per_multiprocessor: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR)?,
        };
        let tickets = stream.alloc_zeros(MOST_TICKETS).map_err(driver("allocating the words of tickets"))?;
        Ok(Self { stream, limits, tickets, kernels: Mutex::default(), replaced: Mutex::default() })
    }

    /// Loads any PTX text, launches its kernel `entry` once without dynamic shared memory, and waits for it. The kernel
    /// takes the buffers' addresses, then the 32-bit `scalars`, and last a tensor map if there is one.
    ///
    /// # Errors
    /// [`Error::Load`] where the driver refuses the text, [`Error::Launch`] where it refuses the launch,
    /// [`Error::Sticky`] where the kernel fails while it runs.
    ///
    /// # Safety
    /// The kernel must take exactly these parameters, touch no memory outside of the buffers, and end.
    pub unsafe fn run_ptx(
        &self,
        ptx: &str,
        entry: &str,
        grid: [u32; 3],
        block: [u32; 3],
        buffers: &[&Buffer],
        scalars: &[u32],
        map: Option<[u8; TENSOR_MAP_BYTES]>,
    ) -> Result<()> {
        let load = |error: DriverError| Error::Load { kernel: entry.to_owned(), reason: reason(error) };
        let module = self.stream.context().load_module(Ptx::from_src(ptx)).map_err(load)?;
        let function = module.load_function(entry).map_err(load)?;
        let addresses: Vec<u64> = buffers.iter().map(|buffer| buffer.address()).collect();
        let mut call = self.stream.launch_builder(&function);
        for address in &addresses {
            call.arg(address);
        }
        for scalar in scalars {
            call.arg(scalar);
        }
        let map = map.map(TensorMap);
        if let Some(map) = &map {
            call.arg(map);
        }
        let [x, y, z] = grid;
        let [threads_x, threads_y, threads_z] = block;
        // SAFETY: the caller vouches for the parameters and for the kernel's accesses; `synchronize` below ends the
        // kernel before the borrow of the buffers does.
        unsafe {
            call.launch(LaunchConfig {
                grid_dim: (x, y, z),
                block_dim: (threads_x, threads_y, threads_z),
                shared_mem_bytes: 0,
            })
        }
        .map_err(refused(format_args!("{entry} on {grid:?} blocks of {block:?} threads")))?;
        self.synchronize()
    }

    /// The newest CUDA that the driver supports, (major, minor).
    ///
    /// # Errors
    /// The driver's.
    pub fn driver_version(&self) -> Result<(u32, u32)> {
        let mut version = 0;
        // SAFETY: the driver was loaded to make `self`, and writes one integer.
        unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(driver("asking for the driver's version"))?;
        Ok((version as u32 / 1000, version as u32 % 1000 / 10))
    }

    fn kernel(&self, kernel: &Specialisation) -> Result<CudaFunction> {
        // A poisoned map is still a map: entries are inserted whole.
        let mut kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = kernels.get(kernel) {
            return Ok(function.clone());
        }
        let function = self.load(kernel, kernel.packed_ptx()?)?;
        kernels.insert(*kernel, function.clone());
        Ok(function)
    }

    /// Has the driver compile PTX for the device.
    fn load(&self, kernel: &Specialisation, ptx: &str) -> Result<CudaFunction> {
        let load = |error: DriverError| Error::Load { kernel: kernel.to_string(), reason: reason(error) };
        let module = self.stream.context().load_module(Ptx::from_src(ptx)).map_err(load)?;
        let function = module.load_function(Specialisation::ENTRY).map_err(load)?;
        let limit = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        function.set_attribute(limit, kernel.shared_bytes as i32).map_err(load)?;
        Ok(function)
    }
}

impl Device for Cuda {
    fn name(&self) -> String {
        let (major, minor) = self.limits.compute_capability;
        let name = self.stream.context().name().unwrap_or_else(|_| "unnamed CUDA device".to_owned());
        format!("{name} (sm_{major}{minor}, {} multiprocessors)", self.limits.multiprocessors)
    }

    fn kind(&self) -> DeviceKind {
        DeviceKind::Cuda
    }

    fn limits(&self) -> &DeviceLimits {
        &self.limits
    }

    fn tickets(&self) -> u64 {
        use cudarc::driver::DevicePtr as _;
        self.tickets.device_ptr(&self.stream).0
    }

    fn allocate_named(&self, _name: &str, bytes: usize) -> Result<Buffer> {
        // The driver allocates no empty memory, and an empty tensor still wants an address.
        // SAFETY: the contents are documented as undefined, and bytes have no invalid values.
        let slice = unsafe { self.stream.alloc::<u8>(bytes.max(1)) }.map_err(driver("allocating device memory"))?;
        let address = {
            use cudarc::driver::DevicePtr as _;
            slice.device_ptr(&self.stream).0
        };
        Ok(Buffer::new(address, bytes, Arc::new(slice)))
    }

    fn write(&self, buffer: &Buffer, offset: usize, bytes: &[u8]) -> Result<()> {
        let address = buffer.check_range(offset, bytes.len())?;
        if bytes.is_empty() {
            return Ok(());
        }
        self.stream.context().bind_to_thread().map_err(driver("binding the context"))?;
        // SAFETY: the range lies inside the buffer; the driver stages pageable host memory before it returns, so
        // `bytes` need not outlive this call.
        unsafe { result::memcpy_htod_async(address, bytes, self.stream.cu_stream()) }
            .map_err(driver("copying to the device"))
    }

    fn read(&self, buffer: &Buffer, offset: usize, bytes: &mut [u8]) -> Result<()> {
        let address = buffer.check_range(offset, bytes.len())?;
        self.synchronize()?;
        if bytes.is_empty() {
            return Ok(());
        }
        // SAFETY: the range lies inside the buffer, and `synchronize` below ends the copy before `bytes` is used.
        unsafe { result::memcpy_dtoh_async(bytes, address, self.stream.cu_stream()) }
            .map_err(driver("copying from the device"))?;
        self.synchronize()
    }

    fn launch(&self, launch: &Launch, params: &Params) -> Result<()> {
        let function = self.kernel(&launch.kernel)?;
        let maps =
            TensorMaps::new(launch, params, |map| self.encode_tensor_map(map).map_err(|error| error.to_string()))?;
        let [x, y, z] = launch.grid;
        let [threads_x, threads_y, threads_z] = launch.block;
        let mut call = self.stream.launch_builder(&function);
        call.arg(params);
        if let Some(maps) = &maps {
            call.arg(maps);
        }
        // SAFETY: every kernel takes one `AttentionParams` by value, whose layout `Params` mirrors, and those whose
        // specialisation names boxes take four tensor maps, as `TensorMaps` holds them; addresses and extents in it were
        // checked against their buffers, and the kernels stay inside those (tested with guard bands and under
        // compute-sanitizer).
        unsafe {
            call.launch(LaunchConfig {
                grid_dim: (x, y, z),
                block_dim: (threads_x, threads_y, threads_z),
                shared_mem_bytes: launch.shared_bytes,
            })
        }
        .map(drop)
        .map_err(refused(launch))
    }

    fn synchronize(&self) -> Result<()> {
        self.stream.synchronize().map_err(driver("waiting for the device"))?;
        // An error in a destructor would otherwise be blamed on the next innocent call.
        self.stream.context().check_err().map_err(driver("releasing device memory"))
    }

    fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Box<dyn Recording + '_>> {
        let event = || {
            let timed = Some(CUevent_flags::CU_EVENT_DEFAULT);
            self.stream.context().new_event(timed).map_err(driver("making an event"))
        };
        let (start, end) = (event()?, event()?);
        self.stream
            .begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .map_err(driver("starting to record a graph"))?;
        let worked = work();
        // Ended whatever happened, or the stream would stay in capture.
        let graph = self
            .stream
            .end_capture(sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH)
            .map_err(driver("ending the recording of a graph"));
        worked?;
        let graph = graph?.ok_or(Error::Driver {
            doing: "recording a graph",
            reason: "the work to record queued nothing".to_owned(),
        })?;
        Ok(Box::new(Graph { graph, start, end, stream: &self.stream }))
    }

    fn substitute(&self, kernel: &Specialisation, ptx: &str) -> Result<()> {
        let function = self.load(kernel, ptx)?;
        let replaced = self.kernels.lock().unwrap_or_else(PoisonError::into_inner).insert(*kernel, function);
        self.replaced.lock().unwrap_or_else(PoisonError::into_inner).extend(replaced);
        Ok(())
    }

    fn resources(&self, kernel: &Specialisation) -> Result<Option<Resources>> {
        let function = self.kernel(kernel)?;
        let ask = |value: std::result::Result<i32, DriverError>| {
            value.map(|value| value as u32).map_err(driver("asking for a kernel's resources"))
        };
        Ok(Some(Resources {
            registers: ask(function.num_regs())?,
            static_shared_bytes: ask(function.shared_size_bytes())?,
            local_bytes: ask(function.local_size_bytes())?,
        }))
    }
}

/// A captured graph between two timing events.
struct Graph<'a> {
    graph: CudaGraph,
    start: CudaEvent,
    end: CudaEvent,
    stream: &'a CudaStream,
}

impl Recording for Graph<'_> {
    fn replay(&self, times: u32) -> Result<Duration> {
        self.start.record(self.stream).map_err(driver("recording an event"))?;
        for _ in 0..times {
            self.graph.launch().map_err(driver("replaying a graph"))?;
        }
        self.end.record(self.stream).map_err(driver("recording an event"))?;
        let milliseconds = self.start.elapsed_ms(&self.end).map_err(driver("reading an event"))?;
        Ok(Duration::from_secs_f64(f64::from(milliseconds) * 1e-3))
    }
}

/// Turns a driver's refusal into an error that says what was being done.
pub(super) fn driver(doing: &'static str) -> impl Fn(DriverError) -> Error {
    move |error| match sticky(error) {
        true => Error::Sticky { reason: reason(error) },
        false => Error::Driver { doing, reason: reason(error) },
    }
}

/// Turns the refusal of a launch, or an older kernel's failure that it met, into an error.
fn refused(launch: impl Display) -> impl FnOnce(DriverError) -> Error {
    move |error| match sticky(error) {
        true => Error::Sticky { reason: reason(error) },
        false => Error::Launch { launch: launch.to_string(), reason: reason(error), hint: hint(error) },
    }
}

fn reason(error: DriverError) -> String {
    let name = error.error_name().map(|name| name.to_string_lossy().into_owned());
    let text = error.error_string().map(|text| text.to_string_lossy().into_owned());
    match (name, text) {
        (Ok(name), Ok(text)) => format!("{name}, {text}"),
        _ => format!("{:?}", error.0),
    }
}

/// Errors that a kernel raised while it ran; they poison the context.
fn sticky(DriverError(code): DriverError) -> bool {
    matches!(
        code,
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
            | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
            | CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUresult::CUDA_ERROR_INVALID_PC
            | CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUresult::CUDA_ERROR_LAUNCH_FAILED
            | CUresult::CUDA_ERROR_LAUNCH_TIMEOUT
            | CUresult::CUDA_ERROR_ASSERT
    )
}

/// What to look at first when a launch is refused.
fn hint(DriverError(code): DriverError) -> &'static str {
    match code {
        CUresult::CUDA_ERROR_INVALID_VALUE => {
            "look at the grid, at the block's threads, and at shared memory beyond the device's limit"
        }
        CUresult::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES => {
            "registers × threads exceed the multiprocessor, see `sdpa resources`"
        }
        CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU | CUresult::CUDA_ERROR_INVALID_PTX => {
            "the PTX is not for this GPU or newer than its driver"
        }
        _ => "see the CUDA driver's documentation for this code",
    }
}
