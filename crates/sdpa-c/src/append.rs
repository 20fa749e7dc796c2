//! New keys and values for the caches that attention reads: described, prepared and queued from C.

use std::ffi::c_void;
use std::sync::Arc;

use sdpa::{Layout, Strides};
use sdpa_cache::{Append, AppendTensors, Part, PreparedAppend};
use self_cell::self_cell;

use crate::borrowed::named;
use crate::{Failure, Opened, SDPA_BHLD, SDPA_BLHD, SdpaDevice, SdpaStatus, guarded, hand_out, invalid, reference};

/// Bytes of an element: f16 or bf16, which is the same to a copy.
const ELEMENT: usize = 2;

/// What is appended to which caches. `sdpa_append_defaults` fills in the defaults; change what differs.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SdpaAppend {
    /// New tokens.
    pub tokens: usize,
    /// Key and value heads of each token.
    pub heads_kv: usize,
    /// Elements of a key.
    pub head_dim: usize,
    /// Elements of a value; 0 for as many as `head_dim`.
    pub value_dim: usize,
    /// Blocks of the caches; of contiguous caches, sequences.
    pub blocks: usize,
    /// Keys of a block; of contiguous caches, the most keys of a sequence.
    pub block_size: usize,
    /// `SDPA_BHLD` for caches `[blocks, heads_kv, block_size, head_dim]`, `SDPA_BLHD` for `[blocks, block_size, heads_kv,
    /// head_dim]`: strides of the caches whose `cache_strides` are 0.
    pub layout: u32,
    /// Of new keys and new values: elements between two tokens and two heads. All 0 for contiguous `[tokens, heads_kv, head_dim]`.
    pub new_strides: [[i64; 2]; 2],
    /// Of key cache and value cache: elements between two blocks, two heads, two places. All 0 for the layout's.
    pub cache_strides: [[i64; 3]; 2],
}

/// Device addresses of the tensors of one append. Elements are of 2 bytes, f16 or bf16, the same in all.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SdpaAppendTensors {
    /// New keys, `[tokens, heads_kv, head_dim]`, strided as the append says.
    pub key: *const c_void,
    /// New values, `[tokens, heads_kv, value_dim]`.
    pub value: *const c_void,
    /// The slot of each token, `[tokens]` of 64 bits: block · block_size + place in the block. Negative ones, and those beyond the
    /// cache, are skipped. They differ from one another.
    pub slot_mapping: *const i64,
    /// Written at the slots, and nowhere else.
    pub key_cache: *mut c_void,
    /// The same of values.
    pub value_cache: *mut c_void,
}

/// An append made ready on a device.
pub struct SdpaPreparedAppend(Ready);

self_cell!(
    struct Ready {
        owner: Arc<Opened>,
        #[covariant]
        dependent: PreparedAppend,
    }
);

/// Keys and values of one width, contiguous, to contiguous caches `[blocks, heads_kv, block_size, head_dim]`.
#[unsafe(no_mangle)]
pub extern "C" fn sdpa_append_defaults(
    tokens: usize,
    heads_kv: usize,
    head_dim: usize,
    blocks: usize,
    block_size: usize,
) -> SdpaAppend {
    SdpaAppend {
        tokens,
        heads_kv,
        head_dim,
        value_dim: 0,
        blocks,
        block_size,
        layout: SDPA_BHLD,
        new_strides: [[0; 2]; 2],
        cache_strides: [[0; 3]; 2],
    }
}

fn append(asked: &SdpaAppend) -> Result<Append, Failure> {
    let SdpaAppend { tokens, heads_kv, head_dim, blocks, block_size, .. } = *asked;
    let mut builder = Append::new(tokens, heads_kv, head_dim, blocks, block_size).cache_layout(match asked.layout {
        SDPA_BHLD => Layout::Bhld,
        SDPA_BLHD => Layout::Blhd,
        found => return Err(invalid(format!("layout is {found}: see the constants in sdpa.h"))),
    });
    if asked.value_dim != 0 {
        builder = builder.value_dim(asked.value_dim);
    }
    for part in Part::ALL {
        if let [token, head] = asked.new_strides[part as usize]
            && [token, head] != [0; 2]
        {
            builder = builder.new_strides(part, token, head);
        }
        if let [batch, head, row] = asked.cache_strides[part as usize]
            && [batch, head, row] != [0; 3]
        {
            builder = builder.cache_strides(part, Strides { batch, head, row });
        }
    }
    builder.build().map_err(|error| invalid(error.to_string()))
}

/// Loads the kernels of an append, so that `sdpa_append` only launches.
///
/// # Safety
/// `device` is NULL or open; `asked` is NULL or an append; `prepared` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sdpa_append_prepare(
    device: *const SdpaDevice,
    asked: *const SdpaAppend,
    prepared: *mut *mut SdpaPreparedAppend,
) -> SdpaStatus {
    guarded(|| {
        // SAFETY: as promised by the caller.
        let (device, asked) = unsafe { (reference(device, "device")?, reference(asked, "append")?) };
        let append = append(asked)?;
        let ready = Ready::try_new(Arc::clone(&device.0), |opened| append.prepare(&*opened.device))?;
        // SAFETY: as promised by the caller.
        unsafe { hand_out(prepared, SdpaPreparedAppend(ready), "prepared") }
    })
}

/// Frees what `sdpa_append_prepare` made. NULL is fine.
///
/// # Safety
/// It came from `sdpa_append_prepare`, and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sdpa_append_release(prepared: *mut SdpaPreparedAppend) {
    if !prepared.is_null() {
        // SAFETY: as promised by the caller.
        drop(unsafe { Box::from_raw(prepared) });
    }
}

/// Queues the copy of new keys and values to their slots, and returns. Attention that is queued behind it reads them.
///
/// # Safety
/// `prepared` is NULL or came from `sdpa_append_prepare`; `tensors` is NULL or holds addresses of device memory as large as the
/// append's shapes and strides need, which stays allocated until the work is done.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sdpa_append(
    prepared: *const SdpaPreparedAppend,
    tensors: *const SdpaAppendTensors,
) -> SdpaStatus {
    guarded(|| {
        // SAFETY: as promised by the caller.
        let (prepared, given) = unsafe { (reference(prepared, "prepared")?, reference(tensors, "tensors")?) };
        let prepared = prepared.0.borrow_dependent();
        let append = prepared.append();
        // SAFETY: the caller promises that the memory is there and stays; its length follows from the append.
        let buffer = |name: &str, address, bytes| unsafe { named(name, address, bytes) };
        let new = |part| append.new_span(part) * ELEMENT;
        let cache = |part| append.cache_span(part) * ELEMENT;
        let (key, value) = (buffer("key", given.key, new(Part::Key))?, buffer("value", given.value, new(Part::Value))?);
        let slots = buffer("slot_mapping", given.slot_mapping.cast(), append.tokens() * size_of::<i64>())?;
        let key_cache = buffer("key_cache", given.key_cache, cache(Part::Key))?;
        let value_cache = buffer("value_cache", given.value_cache, cache(Part::Value))?;
        Ok(prepared.forward(&AppendTensors::new(&key, &value, &slots, &key_cache, &value_cache))?)
    })
}
