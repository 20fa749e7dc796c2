//! Device memory of one stream, freed in its order, and never inside of a graph that is being recorded.
//!
//! cudarc's own slices wait for events where their context tracks them. An event that was recorded before a capture must not
//! be waited for inside of it, and everything here is on one stream: nothing needs such waits.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{CudaStream, DriverError, result, sys};

/// Where a device's memory comes from.
pub(super) struct Pool {
    stream: Arc<CudaStream>,
    /// Memory dropped while the stream recorded a graph, to be freed by the next call that does not.
    dropped: Mutex<Vec<u64>>,
    /// Bytes of the allocations that live.
    allocated: AtomicUsize,
}

impl Pool {
    pub(super) fn new(stream: Arc<CudaStream>) -> Self {
        Self { stream, dropped: Mutex::default(), allocated: AtomicUsize::default() }
    }

    /// True while the stream records a graph.
    pub(super) fn is_capturing(&self) -> Result<bool, DriverError> {
        Ok(self.stream.capture_status()? != sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
    }

    /// Bytes of the allocations that live.
    pub(super) fn allocated(&self) -> usize {
        self.allocated.load(Ordering::Relaxed)
    }

    /// Allocates this many bytes, at least one, since the driver allocates no empty memory.
    pub(super) fn allocate(self: &Arc<Self>, bytes: usize) -> Result<Allocation, DriverError> {
        self.stream.context().bind_to_thread()?;
        let captured = self.is_capturing()?;
        if !captured {
            self.free_dropped();
        }
        let bytes = bytes.max(1);
        // SAFETY: the stream is alive. Whoever reads the memory before it is written reads what the documentation of
        // `Device::allocate_named` calls undefined.
        let address = unsafe {
            match self.stream.context().has_async_alloc() {
                true => result::malloc_async(self.stream.cu_stream(), bytes)?,
                false => result::malloc_sync(bytes)?,
            }
        };
        self.allocated.fetch_add(bytes, Ordering::Relaxed);
        Ok(Allocation { pool: Arc::clone(self), address, bytes, captured })
    }

    /// Frees what was dropped while the stream recorded a graph.
    fn free_dropped(&self) {
        let dropped = std::mem::take(&mut *self.dropped.lock().unwrap_or_else(PoisonError::into_inner));
        dropped.into_iter().for_each(|address| self.free(address));
    }

    fn free(&self, address: u64) {
        let context = self.stream.context();
        context.record_err(context.bind_to_thread());
        // SAFETY: the address was allocated by `allocate` and is freed once; work queued before on the stream is over when
        // the memory is given back, because the stream orders one and `synchronize` waits for it in the other case.
        let freed = unsafe {
            match context.has_async_alloc() {
                true => result::free_async(address, self.stream.cu_stream()),
                false => self.stream.synchronize().and_then(|()| result::free_sync(address)),
            }
        };
        context.record_err(freed);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // A program that drops the device in the middle of a recording keeps the recording, and loses the memory.
        if !self.is_capturing().unwrap_or(true) {
            self.free_dropped();
        }
    }
}

/// Device memory, given back when it is dropped.
pub(super) struct Allocation {
    pool: Arc<Pool>,
    pub(super) address: u64,
    bytes: usize,
    /// Whether a graph was being recorded: then its allocation and its release are the graph's.
    captured: bool,
}

impl Drop for Allocation {
    fn drop(&mut self) {
        self.pool.allocated.fetch_sub(self.bytes, Ordering::Relaxed);
        // If the driver does not say, it had better not be asked to free anything either.
        if !self.captured && self.pool.is_capturing().unwrap_or(true) {
            self.pool.dropped.lock().unwrap_or_else(PoisonError::into_inner).push(self.address);
            return;
        }
        if !self.captured {
            self.pool.free_dropped();
        }
        self.pool.free(self.address);
    }
}
