//! Global memory as the host sees it: named buffers at addresses of their own, with unmapped gaps between them.

use crate::address_space::{GLOBAL_BASE, GUARD_BYTES};

/// A host access to memory that is not there.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes at {address:#x}: {place}")]
pub struct MemoryError {
    /// First address of the access.
    pub address: u64,
    /// Its length.
    pub bytes: usize,
    /// Where that is, in words.
    pub place: String,
}

/// Which bytes have a value.
#[derive(Clone, Debug)]
pub(crate) enum Written {
    All,
    Some {
        /// One bit per byte.
        bits: Vec<u64>,
        /// How many bits are 0: tensors are written in pieces, and reads need not look at bits once all are there.
        missing: usize,
    },
}

#[derive(Clone, Debug)]
pub(crate) struct Buffer {
    pub name: String,
    pub base: u64,
    pub bytes: Vec<u8>,
    pub written: Written,
    pub freed: bool,
    /// Length before it was freed.
    pub length: usize,
    /// End of the allocation that it is a piece of: its own end if it is all of it.
    pub allocation_end: u64,
}

impl Buffer {
    pub(crate) fn end(&self) -> u64 {
        self.base + self.length as u64
    }

    fn mark_written(&mut self, offset: usize, count: usize) {
        if offset == 0 && count == self.length {
            self.written = Written::All;
            return;
        }
        if let Written::Some { bits, missing } = &mut self.written {
            for (word, mask) in words_of(offset, count) {
                *missing -= (mask & !bits[word]).count_ones() as usize;
                bits[word] |= mask;
            }
            if *missing == 0 {
                self.written = Written::All;
            }
        }
    }

    /// Which of the 64 bytes from byte `64 · word` on have been written.
    #[inline]
    pub(crate) fn written_word(&self, word: usize) -> u64 {
        match &self.written {
            Written::All => u64::MAX,
            Written::Some { bits, .. } => bits[word],
        }
    }

    pub(crate) fn is_written(&self, offset: usize, count: usize) -> bool {
        words_of(offset, count).all(|(word, mask)| mask & !self.written_word(word) == 0)
    }
}

/// The words of 64 bits that hold one bit for each byte of a range, and its bits in each.
#[inline]
pub(crate) fn words_of(offset: usize, count: usize) -> impl Iterator<Item = (usize, u64)> {
    let end = offset + count;
    let words = if count == 0 { 0..0 } else { offset / 64..end.div_ceil(64) };
    words.map(move |word| {
        let first = offset.max(word * 64) - word * 64;
        let bits = end.min(word * 64 + 64) - word * 64 - first;
        (word, u64::MAX >> (64 - bits) << first)
    })
}

/// Global memory: buffers with names, so that a bad address can say which one it missed.
///
/// ```
/// use ptx_interp::Memory;
/// let mut memory = Memory::new();
/// let values = memory.allocate("values", 16, 256);
/// memory.write(values, &[1, 2, 3, 4]).unwrap();
/// assert!(memory.read_vec(values + 16, 1).unwrap_err().to_string().contains("past the end of `values`"));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// In order of their addresses, which are never used twice.
    buffers: Vec<Buffer>,
    /// Modules whose variables lie here, and their addresses.
    modules: Vec<(u64, Vec<u64>)>,
}

impl Memory {
    /// Nothing allocated.
    pub fn new() -> Self {
        Self::default()
    }

    /// A new buffer of `bytes` bytes whose address is a multiple of `align` (a power of two; at least 16 is used).
    /// Its contents count as uninitialised until they are written.
    pub fn allocate(&mut self, name: &str, bytes: usize, align: usize) -> u64 {
        let base = self.next_address(align);
        self.push(name, base, bytes, base + bytes as u64);
        base
    }

    /// As [`allocate`](Self::allocate), but of the bytes from the address given back only `pieces` are there, which must be
    /// in ascending order, apart, and the first at 0. An access between two of them is one out of bounds. Tensors with rows
    /// gigabytes apart take no more memory than their rows. Each piece is freed by its own address.
    ///
    /// ```
    /// use ptx_interp::Memory;
    /// let mut memory = Memory::new();
    /// let rows = memory.allocate_pieces("rows", &[0..16, 1 << 33..(1 << 33) + 16], 256);
    /// memory.write(rows + (1 << 33), &[1; 16]).unwrap();
    /// assert!(memory.write(rows + 16, &[1]).is_err());
    /// assert!(memory.allocate("others", 16, 256) > rows + (1 << 33) + 16);
    /// ```
    pub fn allocate_pieces(&mut self, name: &str, pieces: &[std::ops::Range<usize>], align: usize) -> u64 {
        let base = self.next_address(align);
        let end = base + pieces.last().map_or(0, |last| last.end) as u64;
        for piece in pieces {
            self.push(name, base + piece.start as u64, piece.len(), end);
        }
        base
    }

    fn next_address(&self, align: usize) -> u64 {
        let align = (align.max(16) as u64).next_power_of_two();
        let after = self.buffers.last().map_or(GLOBAL_BASE, |last| last.end() + GUARD_BYTES);
        after.next_multiple_of(align)
    }

    fn push(&mut self, name: &str, base: u64, bytes: usize, allocation_end: u64) {
        self.buffers.push(Buffer {
            name: name.to_string(),
            base,
            // Not zeros: a kernel that reads them by mistake should look wrong.
            bytes: vec![0xcb; bytes],
            written: Written::Some { bits: vec![0; bytes.div_ceil(64)], missing: bytes },
            freed: false,
            length: bytes,
            allocation_end,
        });
    }

    /// Gives a buffer back; later accesses to it are findings that name it. False if no buffer starts here.
    pub fn free(&mut self, address: u64) -> bool {
        match self.buffers.iter_mut().find(|buffer| buffer.base == address && !buffer.freed) {
            Some(buffer) => {
                buffer.freed = true;
                buffer.bytes = Vec::new();
                true
            }
            None => false,
        }
    }

    /// Copies bytes in; they count as initialised.
    pub fn write(&mut self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
        let (index, offset) = self.resolve(address, data.len()).ok_or_else(|| self.error(address, data.len()))?;
        let buffer = &mut self.buffers[index];
        buffer.bytes[offset..offset + data.len()].copy_from_slice(data);
        buffer.mark_written(offset, data.len());
        Ok(())
    }

    /// Sets every byte of a range; they count as initialised.
    pub fn fill(&mut self, address: u64, bytes: usize, value: u8) -> Result<(), MemoryError> {
        let (index, offset) = self.resolve(address, bytes).ok_or_else(|| self.error(address, bytes))?;
        let buffer = &mut self.buffers[index];
        buffer.bytes[offset..offset + bytes].fill(value);
        buffer.mark_written(offset, bytes);
        Ok(())
    }

    /// Copies bytes out, initialised or not.
    pub fn read(&self, address: u64, data: &mut [u8]) -> Result<(), MemoryError> {
        let (index, offset) = self.resolve(address, data.len()).ok_or_else(|| self.error(address, data.len()))?;
        data.copy_from_slice(&self.buffers[index].bytes[offset..offset + data.len()]);
        Ok(())
    }

    /// Copies bytes out into a new vector.
    pub fn read_vec(&self, address: u64, bytes: usize) -> Result<Vec<u8>, MemoryError> {
        let (index, offset) = self.resolve(address, bytes).ok_or_else(|| self.error(address, bytes))?;
        Ok(self.buffers[index].bytes[offset..offset + bytes].to_vec())
    }

    /// Whether every byte of a range has been written, by the host or by a kernel.
    pub fn is_initialized(&self, address: u64, bytes: usize) -> bool {
        self.resolve(address, bytes).is_some_and(|(index, offset)| self.buffers[index].is_written(offset, bytes))
    }

    /// The addresses of a module's variables, if they lie here already.
    pub(crate) fn module(&self, id: u64) -> Option<&[u64]> {
        self.modules.iter().find(|(known, _)| *known == id).map(|(_, addresses)| addresses.as_slice())
    }

    pub(crate) fn add_module(&mut self, id: u64, addresses: Vec<u64>) {
        self.modules.push((id, addresses));
    }

    fn error(&self, address: u64, bytes: usize) -> MemoryError {
        MemoryError { address, bytes, place: self.place(address, bytes) }
    }

    pub(crate) fn buffers(&self) -> &[Buffer] {
        &self.buffers
    }

    /// The live buffer that holds a range, and the offset in it.
    #[inline]
    pub(crate) fn resolve(&self, address: u64, bytes: usize) -> Option<(usize, usize)> {
        let index = self.buffers.partition_point(|buffer| buffer.base <= address).checked_sub(1)?;
        let buffer = &self.buffers[index];
        let offset = (address - buffer.base) as usize;
        (!buffer.freed && offset.checked_add(bytes)? <= buffer.length).then_some((index, offset))
    }

    /// The piece that holds an address, and the offset in it, if `bytes` from there on reach into later pieces of the same
    /// allocation, and not past its end.
    pub(crate) fn resolve_across_pieces(&self, address: u64, bytes: u64) -> Option<(usize, usize)> {
        let (index, offset) = self.resolve(address, 1)?;
        let buffer = &self.buffers[index];
        let end = address.checked_add(bytes)?;
        (buffer.end() < end && end <= buffer.allocation_end).then_some((index, offset))
    }

    /// Where an address is, relative to the nearest buffer, in words.
    pub(crate) fn place(&self, address: u64, bytes: usize) -> String {
        let after = self.buffers.partition_point(|buffer| buffer.base <= address);
        let below = after.checked_sub(1).map(|index| &self.buffers[index]);
        let above = self.buffers.get(after);
        if let Some(buffer) = below {
            let offset = address - buffer.base;
            if buffer.freed && offset < buffer.length as u64 {
                return format!("inside `{}`, which was freed", buffer.name);
            }
            if offset < buffer.length as u64 {
                return format!(
                    "starts inside `{}` and ends {} bytes past its end",
                    buffer.name,
                    offset + bytes as u64 - buffer.length as u64
                );
            }
            let past = offset - buffer.length as u64;
            if above.is_none_or(|above| past <= above.base - address) {
                let far = if past == 0 { "just".to_string() } else { format!("{past} bytes") };
                return format!("{far} past the end of `{}` ({} bytes)", buffer.name, buffer.length);
            }
        }
        match above {
            Some(buffer) if address != 0 => format!("{} bytes before `{}`", buffer.base - address, buffer.name),
            _ => "no buffer is near".into(),
        }
    }

    /// Applies what a unit of execution wrote.
    pub(crate) fn apply(&mut self, index: usize, offset: usize, data: &[u8]) {
        let buffer = &mut self.buffers[index];
        if buffer.freed || offset + data.len() > buffer.bytes.len() {
            return;
        }
        buffer.bytes[offset..offset + data.len()].copy_from_slice(data);
        buffer.mark_written(offset, data.len());
    }
}
