//! A GPU, through cudarc. The driver is loaded at run time; a machine without one gets a typed error.

mod answer;
mod library;
mod memory;
#[cfg(feature = "nccl")]
pub(crate) mod nccl;
mod recording;
mod tensor_map;

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys::{CUdevice_attribute as Attribute, CUfunction_attribute, CUresult};
use cudarc::driver::{CudaContext, CudaFunction, CudaStream, DriverError, LaunchConfig, PushKernelArg, result, sys};
use cudarc::nvrtc::Ptx;
use ptx_interp::{TENSOR_MAP_BYTES, TensorMapDescription};

pub use answer::DriverAnswer;
pub use library::driver_present;

use self::memory::{Allocation, Pool};
use self::recording::Graph;
use super::tensor_maps::TensorMaps;
use super::{Buffer, Device, DeviceKind, MOST_TICKETS, MemoryId, ReadyLaunch, Recording, Resources};
use crate::{DeviceLimits, Error, Launch, Params, Result, Specialisation};

/// The CUDA of the kernels' PTX version, 9.0: older drivers do not compile it. NVIDIA's driver 580 is the first for it.
const LEAST_CUDA: (u32, u32) = (13, 0);

/// One tensor map as a kernel parameter.
#[repr(C, align(64))]
struct TensorMap([u8; TENSOR_MAP_BYTES]);

// SAFETY: plain data, as large and as aligned as the driver's own tensor map.
unsafe impl cudarc::driver::DeviceRepr for TensorMap {}

/// A CUDA device and the one stream that its work is queued on. It wants NVIDIA's driver 580 or newer, the first that
/// compiles the kernels' PTX.
///
/// Every call makes the device's context the thread's current one, so that any thread may call it after any other use of
/// CUDA there.
///
/// # Graphs of your own
/// Work may be recorded into a graph by [`Self::from_stream`]'s stream. What is no work cannot be: the device is made and a
/// kernel is loaded before the recording starts. [`Attention::prepare`](crate::Attention::prepare) does all of it, and
/// [`Prepared::forward`](crate::Prepared::forward) then only launches. Anything else is refused with [`Error::Capturing`]
/// before the driver is asked, so that the recording goes on. Buffers that are dropped meanwhile are freed after it.
///
/// Graphs of one device, and what it queues itself, must run one after the other: they share [the device's
/// tickets](Device::tickets), and the workspace of their `Prepared`, which must outlive them.
pub struct Cuda {
    stream: Arc<CudaStream>,
    limits: DeviceLimits,
    pool: Arc<Pool>,
    /// Allocated when the device is opened: a graph that is being recorded could neither allocate them nor clear them
    /// once.
    tickets: Allocation,
    /// Whether the tickets are freed in the order of another stream than the one whose work uses them.
    tickets_of_another_stream: bool,
    shared: Arc<Shared>,
}

/// What devices on several streams of one context have in common.
#[derive(Default)]
struct Shared {
    kernels: Mutex<HashMap<Specialisation, CudaFunction>>,
    /// Kernels that others replaced: a recorded graph may still launch them.
    replaced: Mutex<Vec<CudaFunction>>,
    /// Words of tickets, all 0, for a device that is made while its stream records a graph.
    spare_tickets: Mutex<Vec<Allocation>>,
}

/// A card's UUID as NVIDIA's tools write it.
fn uuid_text(bytes: [u8; 16]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let groups = [0..8, 8..12, 12..16, 16..20, 20..32].map(|group| &digits[group]);
    format!("GPU-{}", groups.join("-"))
}

/// The primary context of the device with this ordinal.
fn context(ordinal: usize) -> Result<Arc<CudaContext>> {
    library::start(ordinal)?;
    let context = CudaContext::new(ordinal).map_err(|error: DriverError| library::unusable(ordinal)(error.into()))?;
    // SAFETY: a device allocates, frees and launches on one stream only, so there is nothing to order between streams;
    // tracking would add an event record and wait to every launch, and break graph capture.
    unsafe { context.disable_event_tracking() };
    Ok(context)
}

impl Cuda {
    /// Opens the device with this ordinal and makes a stream for it.
    ///
    /// # Errors
    /// [`Error::NoDriver`] or [`Error::NoDevice`] where there is none. [`Error::DriverLibrary`],
    /// [`Error::DriverFunction`] or [`Error::UnusableDevice`] where there is one that cannot be used.
    pub fn new(ordinal: usize) -> Result<Self> {
        let unusable = |error: DriverError| library::unusable(ordinal)(error.into());
        let context = context(ordinal)?;
        Self::from_stream(context.new_stream().map_err(unusable)?)
    }

    /// [`from_stream`](Self::from_stream) for a program that has no stream of this cudarc's: `stream` is a `CUstream` of the
    /// primary context of the device with this ordinal, or null for its default stream. It is not destroyed with this.
    ///
    /// # Errors
    /// As [`new`](Self::new) and [`from_stream`](Self::from_stream).
    ///
    /// # Safety
    /// The stream is one, and stays one as long as this device or work queued on it lives.
    pub unsafe fn from_raw_stream(ordinal: usize, stream: *mut std::ffi::c_void) -> Result<Self> {
        let context = context(ordinal)?;
        // SAFETY: as promised by the caller.
        Self::from_stream(unsafe { context.wrap_borrowed_stream(stream.cast()) })
    }

    /// Uses a stream of your own program: work is queued behind what you queued there. It must not be recording a graph
    /// yet.
    ///
    /// Whether the stream's context tracks events does not matter: this device has no slices of cudarc's, and neither
    /// records an event nor waits for one. What you queue on other streams is yours to order.
    ///
    /// # Errors
    /// [`Error::Capturing`] if the stream is recording a graph; the driver's, where it does not say what the device can
    /// hold or has no memory.
    pub fn from_stream(stream: Arc<CudaStream>) -> Result<Self> {
        library::require(library::DEVICE)?;
        let context = stream.context();
        if context.has_async_alloc() {
            library::require(library::POOLS)?;
        }
        let pool = Arc::new(Pool::new(Arc::clone(&stream)));
        refuse_capture(&pool, "opening a device on a stream that is recording a graph")?;
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
        let tickets = new_tickets(&pool, &stream)?;
        Ok(Self { stream, limits, pool, tickets, tickets_of_another_stream: false, shared: Arc::default() })
    }

    /// A device on another stream of the same context, which launches the kernels that this one has loaded, and the other
    /// way round. `stream` is a `CUstream`, or null for the default stream; it is not destroyed with the device.
    ///
    /// Unlike the stream of [`from_stream`](Self::from_stream) it may be recording a graph, if
    /// [`keep_spare_tickets`](Self::keep_spare_tickets) was called before on a device of the family: for programs that warm
    /// up on one stream and record on another. Work of the two is on two streams; what must come first is yours to order.
    ///
    /// # Errors
    /// [`Error::Capturing`] if the stream records a graph and there are no spare tickets; the driver's.
    ///
    /// # Safety
    /// The stream is one of this device's context, and stays one as long as the new device or work queued on it lives.
    pub unsafe fn on_raw_stream(&self, stream: *mut std::ffi::c_void) -> Result<Self> {
        self.bind()?;
        // SAFETY: as promised by the caller.
        let stream = unsafe { self.stream.context().wrap_borrowed_stream(stream.cast()) };
        let pool = Arc::new(Pool::new(Arc::clone(&stream)));
        let captures = refuse_capture(&pool, "opening a device on a stream that is recording a graph");
        let (tickets, tickets_of_another_stream) = match captures {
            Ok(()) => (new_tickets(&pool, &stream)?, false),
            Err(capturing) => (lock(&self.shared.spare_tickets).pop().ok_or(capturing)?, true),
        };
        let shared = Arc::clone(&self.shared);
        Ok(Self { stream, limits: self.limits.clone(), pool, tickets, tickets_of_another_stream, shared })
    }

    /// Sees to it that one more device can be made [on a stream that records a graph](Self::on_raw_stream). Cheap if that
    /// is so already; otherwise it allocates [`MOST_TICKETS`] words, and waits for the stream.
    ///
    /// # Errors
    /// [`Error::Capturing`] if this device's own stream records a graph; the driver's, [`Error::OutOfMemory`] above all.
    pub fn keep_spare_tickets(&self) -> Result<()> {
        let mut spare = lock(&self.shared.spare_tickets);
        if spare.is_empty() {
            self.refuse_capture("allocating spare tickets")?;
            spare.push(new_tickets(&self.pool, &self.stream)?);
            // They are 0 for any stream from now on.
            self.synchronize()?;
        }
        Ok(())
    }

    /// Makes the device's context the thread's current one.
    fn bind(&self) -> Result<()> {
        bind(&self.stream)
    }

    /// Refuses what would end the recording of a graph; makes the context current for what would not.
    fn refuse_capture(&self, doing: &'static str) -> Result<()> {
        self.bind()?;
        refuse_capture(&self.pool, doing)
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
        let function = self.compile(entry, ptx, entry)?;
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
        library::require(library::VERSION)?;
        let mut version = 0;
        // SAFETY: the driver was loaded to make `self`, and writes one integer.
        unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(driver("asking for the driver's version"))?;
        Ok((version as u32 / 1000, version as u32 % 1000 / 10))
    }

    fn kernel(&self, kernel: &Specialisation) -> Result<CudaFunction> {
        let mut kernels = lock(&self.shared.kernels);
        if let Some(function) = kernels.get(kernel) {
            return Ok(function.clone());
        }
        let function = match kernel.machine_code(self.limits.compute_capability)? {
            Some(code) => self.load_code(kernel, code)?,
            None => None,
        };
        let function = match function {
            Some(function) => function,
            None => self.specialise(kernel, kernel.packed_ptx()?)?,
        };
        kernels.insert(*kernel, function.clone());
        Ok(function)
    }

    /// Has the driver compile a specialisation's PTX for the device.
    fn specialise(&self, kernel: &Specialisation, ptx: &str) -> Result<CudaFunction> {
        if kernel.boxes.is_some() {
            library::require(library::TENSOR_MAPS)?;
        }
        let function = self.compile(&kernel.to_string(), ptx, Specialisation::ENTRY)?;
        with_its_shared_memory(kernel, function)
    }

    /// Loads a specialisation's machine code; none if this driver does not take it, as one that is older than the code, and
    /// shall compile the PTX instead.
    fn load_code(&self, kernel: &Specialisation, code: &[u8]) -> Result<Option<CudaFunction>> {
        if kernel.boxes.is_some() {
            library::require(library::TENSOR_MAPS)?;
        }
        self.refuse_capture("loading a kernel")?;
        let load = |error: DriverError| match error.0 {
            CUresult::CUDA_ERROR_INVALID_IMAGE | CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU => Ok(None),
            _ => Err(Error::Load { kernel: kernel.to_string(), reason: DriverAnswer::from(error).to_string() }),
        };
        let module = match self.stream.context().load_module(Ptx::from_binary(code.to_vec())) {
            Ok(module) => module,
            Err(error) => return load(error),
        };
        match module.load_function(Specialisation::ENTRY) {
            Ok(function) => with_its_shared_memory(kernel, function).map(Some),
            Err(error) => load(error),
        }
    }

    /// Makes later launches of `kernel` run this machine code instead of what was embedded, so that both can be compared.
    /// [`Device::substitute`] does the same with a PTX text.
    ///
    /// # Errors
    /// [`Error::Load`] if the driver refuses it or the code is for another device; [`Error::Capturing`].
    pub fn substitute_code(&self, kernel: &Specialisation, code: &[u8]) -> Result<()> {
        let reason = "the machine code is none that this driver runs on this device".to_owned();
        let refused = Error::Load { kernel: kernel.to_string(), reason };
        self.replace(kernel, self.load_code(kernel, code)?.ok_or(refused)?);
        Ok(())
    }

    fn replace(&self, kernel: &Specialisation, function: CudaFunction) {
        let replaced = lock(&self.shared.kernels).insert(*kernel, function);
        lock(&self.shared.replaced).extend(replaced);
    }

    /// Has the driver compile PTX for the device; `kernel` is what errors call it.
    fn compile(&self, kernel: &str, ptx: &str, entry: &str) -> Result<CudaFunction> {
        self.refuse_capture("loading a kernel")?;
        if ptx.contains('\0') {
            return Err(Error::Load { kernel: kernel.to_owned(), reason: "its PTX holds a byte 0".to_owned() });
        }
        let load = |error: DriverError| {
            let (kernel, driver) = (kernel.to_owned(), self.driver_version().ok());
            let is_old = driver.is_some_and(|found| found < LEAST_CUDA);
            match is_old || error.0 == CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION {
                true => Error::OldDriver { kernel, found: driver, answer: error.into() },
                false => Error::Load { kernel, reason: DriverAnswer::from(error).to_string() },
            }
        };
        let module = self.stream.context().load_module(Ptx::from_src(ptx)).map_err(load)?;
        module.load_function(entry).map_err(load)
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

    fn uuid(&self) -> Option<String> {
        library::require(library::UUID).ok()?;
        let uuid = self.stream.context().uuid().ok()?;
        Some(uuid_text(uuid.bytes.map(|byte| byte as u8)))
    }

    fn limits(&self) -> &DeviceLimits {
        &self.limits
    }

    fn memory(&self) -> MemoryId {
        MemoryId::of_context(self.stream.context().cu_ctx() as usize)
    }

    fn tickets(&self) -> u64 {
        self.tickets.address
    }

    fn allocate_named(&self, name: &str, bytes: usize) -> Result<Buffer> {
        self.bind()?;
        if !self.stream.context().has_async_alloc() {
            self.refuse_capture("allocating memory on a device without memory pools")?;
        }
        let allocation = allocate(&self.pool, name, bytes)?;
        Ok(Buffer::new(allocation.address, bytes, self.memory(), Arc::new(allocation)))
    }

    fn allocated_bytes(&self) -> Option<usize> {
        Some(self.pool.allocated())
    }

    fn write(&self, buffer: &Buffer, offset: usize, bytes: &[u8]) -> Result<()> {
        let address = buffer.check_range(self.memory(), offset, bytes.len())?;
        if bytes.is_empty() {
            return Ok(());
        }
        // A graph would read `bytes` when it is replayed.
        self.refuse_capture("copying from the host's memory")?;
        // SAFETY: the range lies inside the buffer; the driver stages pageable host memory before it returns, so
        // `bytes` need not outlive this call.
        unsafe { result::memcpy_htod_async(address, bytes, self.stream.cu_stream()) }
            .map_err(driver("copying to the device"))
    }

    fn read(&self, buffer: &Buffer, offset: usize, bytes: &mut [u8]) -> Result<()> {
        let address = buffer.check_range(self.memory(), offset, bytes.len())?;
        self.synchronize()?;
        if bytes.is_empty() {
            return Ok(());
        }
        // SAFETY: the range lies inside the buffer, and `synchronize` below ends the copy before `bytes` is used.
        unsafe { result::memcpy_dtoh_async(bytes, address, self.stream.cu_stream()) }
            .map_err(driver("copying from the device"))?;
        self.synchronize()
    }

    fn load(&self, kernel: &Specialisation) -> Result<()> {
        self.kernel(kernel).map(drop)
    }

    fn launch(&self, launch: &Launch, params: &Params) -> Result<()> {
        let function = self.kernel(&launch.kernel)?;
        self.bind()?;
        let encode = |map: &TensorMapDescription| tensor_map::encode(map).map_err(|error| error.to_string());
        let mut maps = TensorMaps::new(launch, params, encode)?;
        // SAFETY: the kernel is the launch's, the maps are of these parameters, and the context is current.
        unsafe { queue(&self.stream, &function, launch, params, maps.as_mut()) }
    }

    fn ready(&self, launch: &Launch, params: &Params) -> Result<Option<Box<dyn ReadyLaunch>>> {
        let function = self.kernel(&launch.kernel)?;
        self.bind()?;
        let encode = |map: &TensorMapDescription| tensor_map::encode(map).map_err(|error| error.to_string());
        let maps = TensorMaps::new(launch, params, encode)?;
        let (stream, launch) = (Arc::clone(&self.stream), launch.clone());
        Ok(Some(Box::new(Ready { stream, function, launch, maps })))
    }

    fn synchronize(&self) -> Result<()> {
        self.refuse_capture("waiting for the device")?;
        self.stream.synchronize().map_err(driver("waiting for the device"))?;
        // An error in a destructor would otherwise be blamed on the next innocent call.
        self.stream.context().check_err().map_err(driver("releasing device memory"))
    }

    fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Box<dyn Recording + '_>> {
        self.refuse_capture("recording another graph")?;
        Ok(Box::new(Graph::record(&self.stream, work)?))
    }

    fn substitute(&self, kernel: &Specialisation, ptx: &str) -> Result<()> {
        self.replace(kernel, self.specialise(kernel, ptx)?);
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

/// The work of a device with another stream's tickets is over before they are freed in that stream's order.
impl Drop for Cuda {
    fn drop(&mut self) {
        // A recording that goes on has not begun to run.
        if self.tickets_of_another_stream && !self.pool.is_capturing().unwrap_or(true) {
            let context = self.stream.context();
            context.record_err(context.bind_to_thread());
            context.record_err(self.stream.synchronize());
        }
    }
}

/// Raises the kernel's limit of dynamic shared memory to what its launches ask for.
fn with_its_shared_memory(kernel: &Specialisation, function: CudaFunction) -> Result<CudaFunction> {
    let limit = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    let refused = |error| Error::Load { kernel: kernel.to_string(), reason: DriverAnswer::from(error).to_string() };
    function.set_attribute(limit, kernel.shared_bytes as i32).map_err(refused)?;
    Ok(function)
}

/// A launch whose kernel was looked up, with tensor maps of other addresses.
struct Ready {
    stream: Arc<CudaStream>,
    function: CudaFunction,
    launch: Launch,
    maps: Option<TensorMaps>,
}

impl ReadyLaunch for Ready {
    fn launch(&self, params: &Params) -> Result<()> {
        bind(&self.stream)?;
        let mut maps = self.maps.clone();
        if let Some(maps) = &mut maps {
            maps.move_to(params, tensor_map::replace_address).map_err(|(operand, error)| Error::TensorMap {
                operand,
                launch: self.launch.to_string(),
                reason: error.to_string(),
            })?;
        }
        // SAFETY: the kernel is the launch's, the maps now have these parameters' addresses, and the context is current.
        unsafe { queue(&self.stream, &self.function, &self.launch, params, maps.as_mut()) }
    }
}

/// Makes the stream's context the thread's current one.
fn bind(stream: &CudaStream) -> Result<()> {
    // An error in a destructor would otherwise be blamed on this innocent call.
    stream.context().check_err().map_err(driver("releasing device memory"))?;
    stream.context().bind_to_thread().map_err(driver("binding the context"))
}

/// Queues a kernel with its parameters.
///
/// # Safety
/// `function` is the launch's kernel, its maps are of these parameters, and the stream's context is current.
unsafe fn queue(
    stream: &CudaStream,
    function: &CudaFunction,
    launch: &Launch,
    params: &Params,
    maps: Option<&mut TensorMaps>,
) -> Result<()> {
    let [x, y, z] = launch.grid;
    let [threads_x, threads_y, threads_z] = launch.block;
    let params = std::ptr::from_ref(params).cast_mut().cast();
    let mut arguments = [params, maps.map_or(std::ptr::null_mut(), |maps| std::ptr::from_mut(maps).cast())];
    // SAFETY: every kernel takes one `AttentionParams` or `ExtendedParams` by value. `Params` mirrors the longer of them,
    // which begins with the other, and the driver copies as much as the kernel declares, and writes nothing. Those kernels
    // whose specialisation names boxes take four tensor maps, as `TensorMaps` holds them; of other kernels the driver looks
    // at the first argument alone. Addresses and extents were checked against their buffers, and the kernels stay inside
    // those (tested with guard bands and under compute-sanitizer).
    unsafe {
        result::launch_kernel(
            function.cu_function(),
            (x, y, z),
            (threads_x, threads_y, threads_z),
            launch.shared_bytes,
            stream.cu_stream(),
            &mut arguments,
        )
    }
    .map_err(refused(launch))
}

/// What is poisoned is still a map or a list: entries are inserted whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Words of tickets, 0 for what is queued behind this on the stream.
fn new_tickets(pool: &Arc<Pool>, stream: &CudaStream) -> Result<Allocation> {
    let tickets = allocate(pool, "the words of tickets", size_of::<u32>() * MOST_TICKETS)?;
    // SAFETY: the memory was just allocated, is as long as this, and is used behind this on the one stream.
    unsafe { result::memset_d8_async(tickets.address, 0, size_of::<u32>() * MOST_TICKETS, stream.cu_stream()) }
        .map_err(driver("clearing the words of tickets"))?;
    Ok(tickets)
}

/// Memory for what is called `name`.
fn allocate(pool: &Arc<Pool>, name: &str, bytes: usize) -> Result<Allocation> {
    pool.allocate(bytes).map_err(|error| match error.0 {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
            Error::OutOfMemory { name: name.to_owned(), bytes, reason: DriverAnswer::from(error).to_string() }
        }
        _ => driver("allocating device memory")(error),
    })
}

/// Refuses what would end the recording of a graph on the pool's stream.
fn refuse_capture(pool: &Pool, doing: &'static str) -> Result<()> {
    match pool.is_capturing().map_err(driver("asking whether a graph is being recorded"))? {
        true => Err(Error::Capturing { doing }),
        false => Ok(()),
    }
}

/// Turns a driver's refusal into an error that says what was being done.
fn driver(doing: &'static str) -> impl Fn(DriverError) -> Error {
    move |error| {
        let answer = DriverAnswer::from(error);
        match answer.is_sticky() {
            true => Error::Sticky { reason: answer.to_string() },
            false => Error::Driver { doing, answer },
        }
    }
}

/// Turns the refusal of a launch, or an older kernel's failure that it met, into an error.
fn refused(launch: impl Display) -> impl FnOnce(DriverError) -> Error {
    move |error| {
        let answer = DriverAnswer::from(error);
        match answer.is_sticky() {
            true => Error::Sticky { reason: answer.to_string() },
            false => Error::Launch { launch: launch.to_string(), reason: answer.to_string(), hint: hint(error) },
        }
    }
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
        _ => "see the CUDA driver's documentation for this code",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_reads_as_nvidias_tools_write_it() {
        let bytes = [0x0a, 0x1b, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xff];
        assert_eq!(uuid_text(bytes), "GPU-0a1b0203-0405-0607-0809-0a0b0c0d0eff");
    }
}
