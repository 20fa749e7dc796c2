//! What Python appends to which caches, and the launch that does it.

use std::ops::Range;

use sdpa::{Buffer, Device, Strides};
use sdpa_cache::{Append, AppendTensors, Part};
use sdpa_core::View;

use crate::failure::Failure;
use crate::request::{Numbers, Tensor};

/// Bytes of an element: float16 or bfloat16, which is the same to a copy.
const ELEMENT: usize = 2;

/// Bytes of a slot's number.
const SLOT: usize = size_of::<i64>();

/// The arguments of [`append`](crate::append).
pub(crate) struct Appended {
    /// New keys and values, `[tokens, heads_kv, width]`; there may be more of them than slots.
    pub(crate) new: [Tensor; 2],
    /// Caches, `[blocks, block_size, heads_kv, width]`.
    pub(crate) caches: [Tensor; 2],
    /// `[tokens]` i64.
    pub(crate) slots: Numbers,
}

fn invalid<T>(words: String) -> Result<T, Failure> {
    Err(Failure::Invalid(words))
}

/// The address range of a tensor's bytes, from the first to one past the last.
fn span(tensor: &Tensor) -> Range<usize> {
    let Tensor(address, shape, strides) = tensor;
    let last: usize =
        shape.iter().zip(strides).map(|(count, stride)| count.saturating_sub(1) * stride.unsigned_abs() as usize).sum();
    let bytes = if shape.contains(&0) { 0 } else { (last + 1) * ELEMENT };
    *address as usize..*address as usize + bytes
}

/// Elements between entries of a dimension; of one that has a single entry frameworks give any.
fn stride(tensor: &Tensor, dimension: usize) -> i64 {
    let Tensor(_, shape, strides) = tensor;
    let is_empty = shape.contains(&0);
    if shape[dimension] > 1 && !is_empty { strides[dimension] } else { shape[shape.len() - 1] as i64 }
}

impl Appended {
    /// Tensors of so many dimensions, with contiguous rows.
    fn check_ranks(&self) -> Result<(), Failure> {
        let new = ["key", "value"].into_iter().zip(&self.new).map(|named| (named, "[tokens, heads_kv, head_dim]", 3));
        let caches = ["key_cache", "value_cache"].into_iter().zip(&self.caches);
        let caches = caches.map(|named| (named, "[blocks, block_size, heads_kv, head_dim]", 4));
        for ((name, Tensor(_, shape, strides)), wanted, dimensions) in new.chain(caches) {
            if shape.len() != dimensions || strides.len() != dimensions {
                return invalid(format!("{name} has the shape {shape:?}: {wanted} is wanted"));
            }
            let within = strides[dimensions - 1];
            if within != 1 && shape[dimensions - 1] > 1 && !shape.contains(&0) {
                return invalid(format!(
                    "{name}'s last dimension has the stride {within}: its elements must lie side by side"
                ));
            }
        }
        Ok(())
    }

    /// The append, with the tensors' own strides.
    ///
    /// # Errors
    /// [`Failure::Invalid`], in words.
    pub(crate) fn append(&self) -> Result<Append, Failure> {
        self.check_ranks()?;
        let [new_key, new_value] = self.new.each_ref().map(|tensor| &tensor.1[..]);
        let [key_cache, value_cache] = self.caches.each_ref().map(|tensor| &tensor.1[..]);
        if key_cache[..3] != value_cache[..3] {
            return invalid(format!(
                "key_cache is {key_cache:?} and value_cache is {value_cache:?}: both must be the same but for the last dimension"
            ));
        }
        let tokens = self.slots.1;
        let named = [("key", new_key, key_cache), ("value", new_value, value_cache)];
        for (name, new, cache) in named {
            // Rows behind the last slot are padding.
            if new[0] < tokens || new[1..] != cache[2..] {
                let wanted = [tokens, cache[2], cache[3]];
                return invalid(format!("{name} is {new:?}: {wanted:?} is wanted, for {tokens} slots of {name}_cache"));
            }
        }
        let mut builder =
            Append::new(tokens, key_cache[2], key_cache[3], key_cache[0], key_cache[1]).value_dim(value_cache[3]);
        for part in Part::ALL {
            let (new, cache) = (&self.new[part as usize], &self.caches[part as usize]);
            let strides = Strides { batch: stride(cache, 0), head: stride(cache, 2), row: stride(cache, 1) };
            builder = builder.new_strides(part, stride(new, 0), stride(new, 1)).cache_strides(part, strides);
        }
        builder.build().or_else(|error| invalid(error.to_string()))
    }

    /// Queues the append to caches that lie on the device.
    ///
    /// # Errors
    /// A [`Failure`], in words.
    pub(crate) fn run_on_device(&self, device: &dyn Device, append: &Append) -> Result<(), Failure> {
        // SAFETY: Python's half gives the address, shape and strides of a live tensor of this device; and PyTorch gives freed
        // memory only to work behind this one, on the same stream.
        let borrowed = |range: Range<usize>| unsafe { Buffer::borrowed(range.start as u64, range.len()) };
        let [new_key, new_value] = self.new.each_ref().map(|tensor| borrowed(span(tensor)));
        let [key_cache, value_cache] = self.caches.each_ref().map(|tensor| borrowed(span(tensor)));
        let slots = borrowed(self.slots_range());
        let tensors = AppendTensors::new(&new_key, &new_value, &slots, &key_cache, &value_cache);
        Ok(append.prepare(device)?.forward(&tensors)?)
    }

    /// Copies host memory to the device, appends, and copies what has changed back.
    ///
    /// # Errors
    /// A [`Failure`], in words.
    pub(crate) fn run_on_host(&self, device: &dyn Device, append: &Append) -> Result<(), Failure> {
        let upload = |range: Range<usize>| match range.is_empty() {
            true => device.allocate(0),
            // SAFETY: Python's half gives the address, shape and strides of a live array, or the address and count of one
            // of numbers, all of it initialised.
            false => device.upload(unsafe { std::slice::from_raw_parts(range.start as *const u8, range.len()) }),
        };
        let [new_key, new_value] = self.new.each_ref().map(span);
        let (new_key, new_value) = (upload(new_key)?, upload(new_value)?);
        let slots = upload(self.slots_range())?;
        let mut copies = Vec::with_capacity(2);
        for range in self.pieces() {
            copies.push((upload(range.clone())?, range));
        }
        let view = |part: Part| {
            let (copy, piece) = &copies[(part as usize).min(copies.len() - 1)];
            View::new(copy, span(&self.caches[part as usize]).start - piece.start)
        };
        let tensors = AppendTensors::new(&new_key, &new_value, &slots, view(Part::Key), view(Part::Value));
        append.prepare(device)?.forward(&tensors)?;
        for (copy, range) in &copies {
            let mut after = vec![0; range.len()];
            device.read(copy, 0, &mut after)?;
            // SAFETY: as above; the caches are written on purpose.
            unsafe { write_changes(&after, range.start as *mut u8) };
        }
        Ok(())
    }

    fn slots_range(&self) -> Range<usize> {
        let Numbers(address, count) = self.slots;
        address as usize..address as usize + count * SLOT
    }

    /// The memory of both caches, in one piece if they interleave, as thirds of one array do.
    fn pieces(&self) -> Vec<Range<usize>> {
        let [key, value] = self.caches.each_ref().map(span);
        let both = key.start.min(value.start)..key.end.max(value.end);
        match key.start < value.end && value.start < key.end {
            true => vec![both],
            false => vec![key, value],
        }
    }
}

/// Writes the bytes that differ. What a launch has left alone may be another thread's, in the gaps of a cache that is a view.
///
/// # Safety
/// As many bytes as `after` has are live at `before`.
unsafe fn write_changes(after: &[u8], before: *mut u8) {
    for (offset, byte) in after.iter().enumerate() {
        // SAFETY: the caller's.
        unsafe {
            let place = before.add(offset);
            if place.read() != *byte {
                place.write(*byte);
            }
        }
    }
}
