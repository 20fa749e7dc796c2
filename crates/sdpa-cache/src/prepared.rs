//! An append on a device: what is launched, and with which tensors.

use sdpa_core::{Device, ExtensionParams, Launch, Params, ReadyLaunch, Region, Result, Strides, TensorParams, View};

use crate::kernels::{NARROW, THREADS, WIDE};
use crate::{Append, Part};

/// Bytes of an element.
const ELEMENT: usize = 2;

/// Bytes that the wide kernel copies at a time.
const WIDE_BYTES: usize = 16;

/// Bytes of a slot's number.
const SLOT: usize = size_of::<i64>();

/// Bytes that a tensor's address must be a multiple of; [`WIDE_BYTES`] are faster.
const ALIGNMENT: u64 = ELEMENT as u64;

/// The tensors of one append, on the device. The caches are written, at the slots that are named and nowhere else.
///
/// The caches may share no element with each other or with what is read. Tensors that interleave, such as a cache of keys and one
/// of values in one allocation, are fine.
#[derive(Clone, Copy, Debug)]
pub struct AppendTensors<'a> {
    new: [View<'a>; 2],
    slots: View<'a>,
    caches: [View<'a>; 2],
}

impl<'a> AppendTensors<'a> {
    /// New keys and values, strided as the append says; `slot_mapping`, `[tokens]` i64, contiguous, the slot of each token; the caches.
    ///
    /// Slot `s` is place `s % page` of page `s / page`. Tokens whose slot is negative, or not below [`Append::slots`], are
    /// skipped. Slots must differ from one another.
    pub fn new(
        new_key: impl Into<View<'a>>,
        new_value: impl Into<View<'a>>,
        slot_mapping: impl Into<View<'a>>,
        key_cache: impl Into<View<'a>>,
        value_cache: impl Into<View<'a>>,
    ) -> Self {
        Self {
            new: [new_key.into(), new_value.into()],
            slots: slot_mapping.into(),
            caches: [key_cache.into(), value_cache.into()],
        }
    }
}

/// An [`Append`] whose kernels are loaded: [`forward`](Self::forward) only launches, so a graph may record it.
pub struct PreparedAppend<'device> {
    device: &'device dyn Device,
    append: Append,
    /// By the wide kernel, where strides allow it, and by the narrow one.
    wide: Option<Ready>,
    narrow: Ready,
}

/// A launch, and what its device has made ready of it.
struct Ready {
    launch: Launch,
    ready: Option<Box<dyn ReadyLaunch>>,
}

impl Append {
    /// Loads the kernels, so that [`PreparedAppend::forward`] only launches.
    ///
    /// # Errors
    /// Kernels that do not load; [`Error::Capturing`](sdpa_core::Error::Capturing) where the stream records a graph.
    pub fn prepare<'device>(&self, device: &'device dyn Device) -> Result<PreparedAppend<'device>> {
        let ready = |launch: Launch| {
            device.load(&launch.kernel)?;
            let ready = device.ready(&launch, &self.params([device.tickets(); 5]))?;
            Ok::<Ready, sdpa_core::Error>(Ready { launch, ready })
        };
        let wide = self.is_wide().then(|| ready(self.launch(true))).transpose()?;
        Ok(PreparedAppend { device, append: self.clone(), wide, narrow: ready(self.launch(false))? })
    }

    /// True where every row is whole vectors of 16 bytes, and begins at one if its tensor does.
    fn is_wide(&self) -> bool {
        let elements = WIDE_BYTES / ELEMENT;
        let is_multiple =
            |(_, count, stride): (&str, usize, i64)| count < 2 || (stride as usize).is_multiple_of(elements);
        Part::ALL.into_iter().all(|part| {
            self.width(part).is_multiple_of(elements)
                && self.new_dimensions(part).into_iter().chain(self.cache_dimensions(part)).all(is_multiple)
        })
    }

    /// A thread for each vector of each token's keys, and the values beside them.
    fn launch(&self, is_wide: bool) -> Launch {
        let elements = if is_wide { WIDE_BYTES / ELEMENT } else { 1 };
        let vectors = (self.heads_kv() * self.width(Part::Key).max(self.width(Part::Value)) / elements) as u32;
        let columns = vectors.min(THREADS);
        let tokens = THREADS / columns;
        Launch {
            kernel: if is_wide { WIDE } else { NARROW },
            grid: [(self.tokens() as u32).div_ceil(tokens), vectors.div_ceil(columns), 1],
            block: [columns, tokens, 1],
            shared_bytes: 0,
        }
    }

    /// The block, with the new tensors, the caches and the slots at these addresses.
    fn params(&self, [new_key, new_value, slots, key_cache, value_cache]: [u64; 5]) -> Params {
        let new = |part, address| {
            let Strides { batch, head, .. } = self.new_strides(part);
            // A token is a row here.
            TensorParams { address, batch_stride: 0, head_stride: head, row_stride: batch }
        };
        let cache = |part, address| {
            let Strides { batch, head, row } = self.cache_strides(part);
            TensorParams { address, batch_stride: batch, head_stride: head, row_stride: row }
        };
        // `Append` keeps every count within 31 bits.
        Params {
            query: new(Part::Key, new_key),
            output: new(Part::Value, new_value),
            key: cache(Part::Key, key_cache),
            value: cache(Part::Value, value_cache),
            workspace: slots,
            batch: self.pages() as i32,
            heads_kv: self.heads_kv() as i32,
            len_q: self.tokens() as i32,
            len_kv: self.page() as i32,
            head_dim: self.width(Part::Key) as i32,
            extension: ExtensionParams { value_dim: self.width(Part::Value) as i64, ..ExtensionParams::default() },
            ..Params::default()
        }
    }

    fn region(&self, part: Part, is_cache: bool, address: u64) -> Region {
        let dimensions = if is_cache { self.cache_dimensions(part) } else { self.new_dimensions(part) };
        Region::strided(address, self.width(part), dimensions.map(|(_, count, stride)| (count, stride)), ELEMENT)
    }
}

impl PreparedAppend<'_> {
    /// What is appended.
    pub fn append(&self) -> &Append {
        &self.append
    }

    /// Launches, and returns as soon as the work is queued.
    ///
    /// # Errors
    /// A typed error where a tensor is too short, lies in another memory, begins at an odd address or shares memory with another
    /// one, or where the launch is refused.
    pub fn forward(&self, tensors: &AppendTensors<'_>) -> Result<()> {
        self.check(tensors)?;
        let [new_key, new_value] = tensors.new.map(|view| view.address());
        let [key_cache, value_cache] = tensors.caches.map(|view| view.address());
        if self.append.tokens() == 0 || self.append.slots() == 0 {
            return Ok(());
        }
        let params = self.append.params([new_key, new_value, tensors.slots.address(), key_cache, value_cache]);
        let is_aligned = [new_key, new_value, key_cache, value_cache]
            .iter()
            .all(|address| address.is_multiple_of(WIDE_BYTES as u64));
        let Ready { launch, ready } = self.wide.as_ref().filter(|_| is_aligned).unwrap_or(&self.narrow);
        match ready {
            Some(ready) => ready.launch(&params),
            None => self.device.launch(launch, &params),
        }
    }

    fn check(&self, tensors: &AppendTensors<'_>) -> Result<()> {
        let memory = self.device.memory();
        let slots = [(self.append.tokens(), 1), (1, 0), (1, 0)];
        let slots = Region::strided(tensors.slots.address(), 1, slots, SLOT);
        slots.check("slot_mapping", &tensors.slots, SLOT as u64, memory)?;
        let mut read = vec![("slot_mapping", slots)];
        for part in Part::ALL {
            let view = &tensors.new[part as usize];
            let region = self.append.region(part, false, view.address());
            region.check(part.new_name(), view, ALIGNMENT, memory)?;
            read.push((part.new_name(), region));
        }
        for part in Part::ALL {
            let view = &tensors.caches[part as usize];
            let region = self.append.region(part, true, view.address());
            region.check(part.cache_name(), view, ALIGNMENT, memory)?;
            if let Some((other, _)) = read.iter().find(|(_, other)| region.may_overlap(other)) {
                return Err(sdpa_core::Error::Overlap { written: part.cache_name(), other });
            }
            read.push((part.cache_name(), region));
        }
        Ok(())
    }
}

impl std::fmt::Debug for PreparedAppend<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PreparedAppend({})", self.append)
    }
}
