//! Attention from C: `include/sdpa.h` is made from this file, and `examples/attention.c` uses it.
//!
//! Open a device, or take a stream of your own; fill an [`SdpaProblem`]; [`sdpa_prepare`] plans it, loads its kernels and allocates
//! what they hand to one another; [`sdpa_forward`] then only launches. Every function says by an [`SdpaStatus`] how it went, and
//! [`sdpa_last_error`] why, in words. No function panics into C.
//!
//! `sdpa_append_prepare` and `sdpa_append` do the same for new keys and values of a cache.
//!
//! One device's calls are queued on one stream, in order. A device and what was prepared on it may be used by several threads,
//! one call at a time.

mod append;
mod borrowed;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use borrowed::Borrowed;
use sdpa::{
    Buffer, Cuda, Device, DeviceChoice, Dtype, Error, KvScales, KvStorage, Layout, Mask, Operand, Packing, PageTable,
    Paging, Prepared, Problem, Strides, Window,
};
use self_cell::self_cell;

pub use append::{
    SdpaAppend, SdpaAppendTensors, SdpaPreparedAppend, sdpa_append, sdpa_append_defaults, sdpa_append_prepare,
    sdpa_append_release,
};

/// How a call went. [`sdpa_last_error`] has the words.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SdpaStatus {
    /// As asked.
    SdpaOk = 0,
    /// An argument is wrong: a null pointer, a shape that makes no problem, a tensor that does not fit it.
    SdpaInvalid = 1,
    /// No kernel takes the problem on this device.
    SdpaUnsupported = 2,
    /// The device or its driver refused, or failed.
    SdpaDeviceFailed = 3,
    /// A fault of this library.
    SdpaBug = 4,
}

/// Element type f16.
pub const SDPA_F16: u32 = 0;
/// Element type bf16.
pub const SDPA_BF16: u32 = 1;
/// Every query sees every key.
pub const SDPA_FULL: u32 = 0;
/// The last query sees every key: FlashAttention's causal mask.
pub const SDPA_CAUSAL: u32 = 1;
/// The first query sees the first key: PyTorch's `is_causal`.
pub const SDPA_CAUSAL_TOP_LEFT: u32 = 2;
/// Contiguous `[batch, heads, length, head_dim]`.
pub const SDPA_BHLD: u32 = 0;
/// Contiguous `[batch, length, heads, head_dim]`.
pub const SDPA_BLHD: u32 = 1;
/// Keys and values of the problem's dtype.
pub const SDPA_KV_OF_DTYPE: u32 = 0;
/// Keys and values in OCP FP8 E4M3 (`torch.float8_e4m3fn`), with one scale for all keys and one for all values.
pub const SDPA_KV_E4M3: u32 = 1;
/// The same with a scale for each key head.
pub const SDPA_KV_E4M3_PER_HEAD: u32 = 2;
/// A side of a window without an end.
pub const SDPA_UNBOUNDED: i64 = -1;

/// What to attend over. [`sdpa_problem`] fills in the defaults; change what differs.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SdpaProblem {
    /// Independent sequences; 1 if they are packed.
    pub batch: usize,
    /// Query heads.
    pub heads_q: usize,
    /// Key and value heads, a divisor of the query heads.
    pub heads_kv: usize,
    /// Queries a head; of all sequences together if they are packed.
    pub len_q: usize,
    /// Keys and values a head; of all sequences together if they are packed.
    pub len_kv: usize,
    /// Elements of a query and a key: a multiple of 8 up to 256.
    pub head_dim: usize,
    /// `SDPA_F16` or `SDPA_BF16`.
    pub dtype: u32,
    /// `SDPA_FULL`, `SDPA_CAUSAL` or `SDPA_CAUSAL_TOP_LEFT`.
    pub mask: u32,
    /// `SDPA_BHLD` or `SDPA_BLHD`: strides of every tensor whose `strides` are 0.
    pub layout: u32,
    /// Factor on query · key; NaN for 1/√head_dim.
    pub scale: f32,
    /// Of query, key, value and output: elements between two batches, two heads, two rows. All 0 for the layout's.
    pub strides: [[i64; 3]; 4],
    /// Packed sequences, `[total, heads, head_dim]`; 0 for a dense batch.
    pub sequences: usize,
    /// Most queries of a packed sequence.
    pub longest_q: usize,
    /// Most keys of a packed sequence.
    pub longest_kv: usize,
    /// Keys before the diagonal that a query sees, or `SDPA_UNBOUNDED`.
    pub window_left: i64,
    /// Keys behind the diagonal that a query sees, or `SDPA_UNBOUNDED`.
    pub window_right: i64,
    /// Scores become softcap · tanh(score / softcap); 0 for none.
    pub softcap: f32,
    /// Elements of a value and of a row of the output: a multiple of 8 up to 256; 0 for as many as `head_dim`.
    pub value_dim: usize,
    /// How keys and values are stored: `SDPA_KV_OF_DTYPE`, `SDPA_KV_E4M3` or `SDPA_KV_E4M3_PER_HEAD`.
    pub kv_storage: u32,
    /// Keys of a page, 8 to 256, where keys and values lie in pages; 0 where they do not. Then `len_kv` is the most keys of a
    /// sequence, `layout` and `strides` of key and value are of `[pages, heads_kv, page, head_dim]`, and of packed sequences the
    /// queries alone are packed.
    pub page: usize,
    /// Pages that the tensors of keys and values hold.
    pub pages: usize,
    /// Entries from one sequence's row of the block table to the next one's; 0 if the table is lists behind one another.
    pub table_width: usize,
    /// Entries of all lists together, or more.
    pub table_entries: usize,
}

/// Device addresses of the tensors of one pass. NULL for those that are not wanted or not asked for.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SdpaTensors {
    /// `[batch, heads_q, len_q, head_dim]`, strided as the problem says.
    pub query: *const c_void,
    /// `[batch, heads_kv, len_kv, head_dim]`.
    pub key: *const c_void,
    /// `[batch, heads_kv, len_kv, value_dim]`.
    pub value: *const c_void,
    /// `[batch, heads_q, len_q, value_dim]`; overlaps none of the others.
    pub output: *mut c_void,
    /// Natural-log sum of exp, `[batch, heads_q, len_q]` f32; may be NULL.
    pub lse: *mut c_void,
    /// Where each packed sequence's queries begin, `[sequences + 1]` of 32 bits.
    pub cu_seqlens_q: *const c_void,
    /// The same of its keys.
    pub cu_seqlens_k: *const c_void,
    /// A logit without a value for each query head, f32; needs `SDPA_SINKS` in `sdpa_prepare`'s `extensions`.
    pub sinks: *const c_void,
    /// A slope for each query head, f32; needs `SDPA_SLOPES`.
    pub slopes: *const c_void,
    /// Keys that each sequence uses, `[sequences]` of 32 bits: of pages, or of a dense batch with `SDPA_KEY_LENGTHS`. Where the
    /// block table is lists, how many keys the last page of each holds.
    pub key_lengths: *const c_void,
    /// The pages of each sequence in order, of 32 bits: `[sequences, table_width]`, or lists. What follows a sequence's pages
    /// is never read; an entry that is read must be less than `pages`, which kernels do not check.
    pub block_table: *const c_void,
    /// Where each sequence's list begins in the block table, `[sequences + 1]` of 32 bits; NULL if it has rows.
    pub page_starts: *const c_void,
    /// What keys in e4m3 are multiplied by: f32, 1 or `heads_kv` of them, on the device; positive and finite.
    pub key_scale: *const c_void,
    /// The same of values.
    pub value_scale: *const c_void,
}

/// Flag of [`sdpa_prepare`]: query heads have sinks.
pub const SDPA_SINKS: u32 = 1;
/// Flag of [`sdpa_prepare`]: query heads have slopes.
pub const SDPA_SLOPES: u32 = 2;
/// Flag of [`sdpa_prepare`]: sequences of a dense batch use a number of their keys.
pub const SDPA_KEY_LENGTHS: u32 = 4;

/// A device and the stream that its work is queued on.
pub struct SdpaDevice(Arc<Opened>);

struct Opened {
    device: Box<dyn Device>,
    /// What `sdpa_allocate` gave out, by address.
    buffers: Mutex<BTreeMap<u64, Buffer>>,
}

/// A problem made ready on a device.
pub struct SdpaPrepared(Ready);

self_cell!(
    struct Ready {
        owner: (Arc<Opened>, Problem),
        #[covariant]
        dependent: Prepared,
    }
);

/// Why a call failed.
struct Failure(SdpaStatus, String);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::Unsupported(_) => SdpaStatus::SdpaUnsupported,
            Error::BufferTooSmall { .. }
            | Error::Misaligned { .. }
            | Error::Overlap { .. }
            | Error::OtherMemory { .. }
            | Error::TensorMissing { .. }
            | Error::TensorUnasked { .. } => SdpaStatus::SdpaInvalid,
            _ => SdpaStatus::SdpaDeviceFailed,
        };
        Self(status, error.to_string())
    }
}

fn invalid(words: impl Into<String>) -> Failure {
    Failure(SdpaStatus::SdpaInvalid, words.into())
}

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// Runs `work`; a failure's words are kept for [`sdpa_last_error`].
fn guarded(work: impl FnOnce() -> Result<(), Failure>) -> SdpaStatus {
    let (status, words) = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => return SdpaStatus::SdpaOk,
        Ok(Err(Failure(status, words))) => (status, words),
        Err(_) => (SdpaStatus::SdpaBug, "this library failed; please report what was asked of it".to_owned()),
    };
    let words = CString::new(words.replace('\0', " ")).unwrap_or_default();
    LAST_ERROR.with(|last| last.replace(words));
    status
}

/// Why this thread's last failing call failed; empty before. Valid until the thread's next failing call.
#[unsafe(no_mangle)]
pub extern "C" fn sdpa_last_error() -> *const c_char {
    LAST_ERROR.with(|last| last.borrow().as_ptr())
}

/// What a non-null pointer points to.
///
/// # Safety
/// It is null, or points to a live `T` that nobody changes meanwhile.
unsafe fn reference<'a, T>(pointer: *const T, what: &str) -> Result<&'a T, Failure> {
    // SAFETY: as promised by the caller.
    unsafe { pointer.as_ref() }.ok_or_else(|| invalid(format!("{what} is NULL")))
}

/// Hands a value out to C.
///
/// # Safety
/// `to` is null, or may be written.
unsafe fn hand_out<T>(to: *mut *mut T, value: T, what: &str) -> Result<(), Failure> {
    if to.is_null() {
        return Err(invalid(format!("{what} is NULL: there is no place for the result")));
    }
    // SAFETY: as promised by the caller.
    unsafe { to.write(Box::into_raw(Box::new(value))) };
    Ok(())
}

fn opened(device: Box<dyn Device>) -> SdpaDevice {
    SdpaDevice(Arc::new(Opened { device, buffers: Mutex::default() }))
}

/// Opens a device: `which` is "cuda", "interpreter" or "auto", or NULL for what the variable `SDPA_DEVICE` says.
///
/// # Safety
/// `which` is NULL or a C string; `device` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sdpa_open(which: *const c_char, device: *mut *mut SdpaDevice) -> SdpaStatus {
    guarded(|| {
        let choice = match which.is_null() {
            true => DeviceChoice::from_env()?,
            false => {
                // SAFETY: as promised by the caller.
                let which = unsafe { CStr::from_ptr(which) }.to_string_lossy();
                match &*which {
                    "auto" => DeviceChoice::Auto,
                    "cuda" => DeviceChoice::Cuda,
                    "interpreter" => DeviceChoice::Interpreter,
                    _ => return Err(invalid(format!("{which:?} is no device: it is auto, cuda or interpreter"))),
                }
            }
        };
        // SAFETY: as promised by the caller.
        unsafe { hand_out(device, opened(sdpa::open(choice)?), "device") }
    })
}

/// Uses a stream of your program: work is queued behind what you queued there. `stream` is a `CUstream` (or `cudaStream_t`) of the
/// primary context of the device with this ordinal; NULL is the default stream. It is not destroyed by `sdpa_close`.
///
/// # Safety
/// The stream is one, and stays one until the device and everything prepared on it are gone; `device` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sdpa_open_stream(
    ordinal: u32,
    stream: *mut c_void,
    device: *mut *mut SdpaDevice,
) -> SdpaStatus {
    guarded(|| {
        // SAFETY: as promised by the caller.
        let cuda = unsafe { Cuda::from_raw_stream(ordinal as usize, stream) }?;
        // SAFETY: as promised by the caller.
        unsafe { hand_out(device, opened(Box::new(cuda)), "device") }
    })
}

/// Closes a device. What was prepared on it keeps it alive until it is freed, too. NULL is fine.
///
/// # Safety
/// It came from `sdpa_open` or `sdpa_open_stream`, and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sdpa_close(device: *mut SdpaDevice) {
    if !device.is_null() {
        // SAFETY: as promised by the caller.
        drop(unsafe { Box::from_raw(device) });
    }
}

/// Waits until everything queued on the device is done.
///
/// # Safety
/// `device` is NULL or open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sdpa_synchronize(device: *const SdpaDevice) -> SdpaStatus {
    // SAFETY: as promised by the caller.
    guarded(|| Ok(unsafe { reference(device, "device") }?.0.device.synchronize()?))
}

/// Self-attention of this shape: f16, no mask, contiguous, scale 1/√head_dim.
#[unsafe(no_mangle)]
pub extern "C" fn sdpa_problem(batch: usize, heads: usize, length: usize, head_dim: usize) -> SdpaProblem {
    SdpaProblem {
        batch,
        heads_q: heads,
        heads_kv: heads,
        len_q: length,
        len_kv: length,
        head_dim,
        dtype: SDPA_F16,
        mask: SDPA_FULL,
        layout: SDPA_BHLD,
        scale: f32::NAN,
        strides: [[0; 3]; 4],
        sequences: 0,
        longest_q: 0,
        longest_kv: 0,
        window_left: SDPA_UNBOUNDED,
        window_right: SDPA_UNBOUNDED,
        softcap: 0.0,
        value_dim: 0,
        kv_storage: SDPA_KV_OF_DTYPE,
        page: 0,
        pages: 0,
        table_width: 0,
        table_entries: 0,
    }
}

fn side(keys: i64, name: &str) -> Result<Option<usize>, Failure> {
    match keys {
        SDPA_UNBOUNDED => Ok(None),
        _ => usize::try_from(keys)
            .map(Some)
            .map_err(|_| invalid(format!("{name} is {keys}: it is a number of keys, or SDPA_UNBOUNDED"))),
    }
}

fn paging(asked: &SdpaProblem) -> Result<Option<Paging>, Failure> {
    let SdpaProblem { page, pages, table_width, table_entries, .. } = *asked;
    if page == 0 {
        return match (pages, table_width, table_entries) {
            (0, 0, 0) => Ok(None),
            _ => Err(invalid(format!("page is 0 and pages is {pages}: say how many keys a page has, or no pages"))),
        };
    }
    let table = match (table_width, table_entries) {
        (width, 0) => PageTable::Rows { width },
        (0, entries) => PageTable::Lists { entries },
        _ => {
            return Err(invalid(format!(
                "table_width is {table_width} and table_entries is {table_entries}: a table has rows or lists, so one of them is 0"
            )));
        }
    };
    Ok(Some(Paging { page, pages, table }))
}

fn problem(asked: &SdpaProblem, extensions: u32) -> Result<Problem, Failure> {
    let SdpaProblem { batch, heads_q, heads_kv, len_q, len_kv, head_dim, .. } = *asked;
    let mut builder = match asked.sequences {
        0 => Problem::new(batch, heads_q, len_q, head_dim),
        _ if batch != 1 => {
            return Err(invalid(format!("batch is {batch}: packed sequences are one batch of their total length")));
        }
        sequences => {
            let packing = Packing { sequences, longest_q: asked.longest_q, longest_kv: asked.longest_kv };
            Problem::packed(packing, heads_q, len_q, head_dim)
        }
    };
    let unknown = |name: &str, found: u32| invalid(format!("{name} is {found}: see the constants in sdpa.h"));
    builder = builder
        .heads_kv(heads_kv)
        .len_kv(len_kv)
        .dtype(match asked.dtype {
            SDPA_F16 => Dtype::F16,
            SDPA_BF16 => Dtype::Bf16,
            found => return Err(unknown("dtype", found)),
        })
        .mask(match asked.mask {
            SDPA_FULL => Mask::Full,
            SDPA_CAUSAL => Mask::Causal,
            SDPA_CAUSAL_TOP_LEFT => Mask::CausalTopLeft,
            found => return Err(unknown("mask", found)),
        })
        .layout(match asked.layout {
            SDPA_BHLD => Layout::Bhld,
            SDPA_BLHD => Layout::Blhd,
            found => return Err(unknown("layout", found)),
        })
        .window(Window {
            left: side(asked.window_left, "window_left")?,
            right: side(asked.window_right, "window_right")?,
        })
        .sinks_if(extensions & SDPA_SINKS != 0);
    if let Some(paging) = paging(asked)? {
        builder = builder.paged(paging);
    }
    builder = match asked.kv_storage {
        SDPA_KV_OF_DTYPE => builder,
        SDPA_KV_E4M3 => builder.kv_storage(KvStorage::E4m3(KvScales::Tensor)),
        SDPA_KV_E4M3_PER_HEAD => builder.kv_storage(KvStorage::E4m3(KvScales::Head)),
        found => return Err(unknown("kv_storage", found)),
    };
    // Behind the pages, which forget what was said of keys and values.
    for (operand, [batch, head, row]) in Operand::ALL.into_iter().zip(asked.strides) {
        if [batch, head, row] != [0; 3] {
            builder = builder.strides(operand, Strides { batch, head, row });
        }
    }
    if !asked.scale.is_nan() {
        builder = builder.scale(asked.scale);
    }
    if asked.softcap != 0.0 {
        builder = builder.softcap(asked.softcap);
    }
    if asked.value_dim != 0 {
        builder = builder.value_dim(asked.value_dim);
    }
    if extensions & SDPA_SLOPES != 0 {
        builder = builder.slopes();
    }
    if extensions & SDPA_KEY_LENGTHS != 0 {
        builder = builder.key_lengths();
    }
    if extensions & !(SDPA_SINKS | SDPA_SLOPES | SDPA_KEY_LENGTHS) != 0 {
        return Err(unknown("extensions", extensions));
    }
    builder.build().map_err(|error| invalid(error.to_string()))
}

/// Plans a problem for the fastest kernels that take it, loads them and allocates what they need. `extensions` is 0 or a sum of
/// `SDPA_SINKS`, `SDPA_SLOPES` and `SDPA_KEY_LENGTHS`.
///
/// # Safety
/// `device` is NULL or open; `asked` is NULL or a problem; `prepared` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sdpa_prepare(
    device: *const SdpaDevice,
    asked: *const SdpaProblem,
    extensions: u32,
    prepared: *mut *mut SdpaPrepared,
) -> SdpaStatus {
    guarded(|| {
        // SAFETY: as promised by the caller.
        let (device, asked) = unsafe { (reference(device, "device")?, reference(asked, "problem")?) };
        let owner = (Arc::clone(&device.0), problem(asked, extensions)?);
        let ready = Ready::try_new(owner, |(opened, problem)| sdpa::prepare(&*opened.device, problem))?;
        // SAFETY: as promised by the caller.
        unsafe { hand_out(prepared, SdpaPrepared(ready), "prepared") }
    })
}

/// Frees what `sdpa_prepare` made; work that is queued with it is done first. NULL is fine.
///
/// # Safety
/// It came from `sdpa_prepare`, and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sdpa_release(prepared: *mut SdpaPrepared) {
    if !prepared.is_null() {
        // SAFETY: as promised by the caller.
        drop(unsafe { Box::from_raw(prepared) });
    }
}

/// Queues attention over these tensors, and returns. The device's stream orders it.
///
/// # Safety
/// `prepared` is NULL or came from `sdpa_prepare`; `tensors` is NULL or holds addresses of device memory as large as the problem's
/// shapes and strides need, which stays allocated until the work is done.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sdpa_forward(prepared: *const SdpaPrepared, tensors: *const SdpaTensors) -> SdpaStatus {
    guarded(|| {
        // SAFETY: as promised by the caller.
        let (prepared, given) = unsafe { (reference(prepared, "prepared")?, reference(tensors, "tensors")?) };
        let (_, problem) = prepared.0.borrow_owner();
        // SAFETY: as promised by the caller.
        let borrowed = unsafe { Borrowed::new(problem, given) }?;
        Ok(prepared.0.borrow_dependent().forward(&borrowed.tensors())?)
    })
}

/// Allocates device memory. Memory of your own serves as well, on a GPU; the interpreter has none but this.
///
/// # Safety
/// `device` is NULL or open; `address` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sdpa_allocate(
    device: *const SdpaDevice,
    bytes: usize,
    address: *mut *mut c_void,
) -> SdpaStatus {
    guarded(|| {
        // SAFETY: as promised by the caller.
        let device = &unsafe { reference(device, "device") }?.0;
        if address.is_null() {
            return Err(invalid("address is NULL: there is no place for the result"));
        }
        // Empty memory has an address of its own, too.
        let buffer = device.device.allocate(bytes.max(1))?;
        let at = buffer.address();
        device.buffers.lock().unwrap_or_else(PoisonError::into_inner).insert(at, buffer);
        // SAFETY: not null, and writable as promised by the caller.
        unsafe { address.write(at as *mut c_void) };
        Ok(())
    })
}

/// Frees what `sdpa_allocate` gave. NULL is fine.
///
/// # Safety
/// `device` is NULL or open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sdpa_free(device: *const SdpaDevice, address: *mut c_void) -> SdpaStatus {
    guarded(|| {
        if address.is_null() {
            return Ok(());
        }
        // SAFETY: as promised by the caller.
        let device = &unsafe { reference(device, "device") }?.0;
        let freed = device.buffers.lock().unwrap_or_else(PoisonError::into_inner).remove(&(address as u64));
        freed.map(drop).ok_or_else(|| not_allocated(address))
    })
}

fn not_allocated(address: *const c_void) -> Failure {
    invalid(format!("{address:p} was not given out by sdpa_allocate, or is freed already"))
}

/// The buffer that an address lies in, and where in it.
fn allocated(device: &Opened, address: *const c_void) -> Result<(Buffer, usize), Failure> {
    let buffers = device.buffers.lock().unwrap_or_else(PoisonError::into_inner);
    let (start, buffer) = buffers.range(..=address as u64).next_back().ok_or_else(|| not_allocated(address))?;
    Ok((buffer.clone(), (address as u64 - start) as usize))
}

/// Copies to memory of `sdpa_allocate`; done when it returns.
///
/// # Safety
/// `device` is NULL or open; `from` has `bytes` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sdpa_write(
    device: *const SdpaDevice,
    to: *mut c_void,
    from: *const c_void,
    bytes: usize,
) -> SdpaStatus {
    guarded(|| {
        // SAFETY: as promised by the caller.
        let device = &unsafe { reference(device, "device") }?.0;
        let (buffer, offset) = allocated(device, to)?;
        if from.is_null() {
            return Err(invalid("from is NULL"));
        }
        // SAFETY: not null, and as long as promised by the caller.
        let bytes = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), bytes) };
        device.device.write(&buffer, offset, bytes)?;
        Ok(device.device.synchronize()?)
    })
}

/// Copies from memory of `sdpa_allocate`, behind everything that is queued; done when it returns.
///
/// # Safety
/// `device` is NULL or open; `to` has room for `bytes` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sdpa_read(
    device: *const SdpaDevice,
    to: *mut c_void,
    from: *const c_void,
    bytes: usize,
) -> SdpaStatus {
    guarded(|| {
        // SAFETY: as promised by the caller.
        let device = &unsafe { reference(device, "device") }?.0;
        let (buffer, offset) = allocated(device, from)?;
        if to.is_null() {
            return Err(invalid("to is NULL"));
        }
        // SAFETY: not null, with as much room as promised by the caller; u8 has no invalid values, and C wrote there or not.
        let bytes = unsafe { std::slice::from_raw_parts_mut(to.cast::<u8>(), bytes) };
        Ok(device.device.read(&buffer, offset, bytes)?)
    })
}
