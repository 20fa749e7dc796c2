//! Local memory of a warp's threads, and which of its bytes have been written.

use super::{At, Cluster, Machine, Stopped, Warp};
use crate::diagnostics::FindingKind;
use crate::registers::LANES;

#[derive(Debug, Default)]
pub(crate) struct LocalMemory {
    /// Bytes of one thread.
    size: usize,
    /// The first thread's bytes, then the second's.
    bytes: Vec<u8>,
    /// One bit per byte.
    written: Vec<u64>,
}

impl LocalMemory {
    pub(crate) fn new(size: usize) -> Self {
        let total = size * LANES;
        Self { size, bytes: vec![0xcb; total], written: vec![0; total.div_ceil(64)] }
    }

    /// Room for so many bytes of each thread.
    pub(crate) fn grow(&mut self, size: usize) {
        if size <= self.size {
            return;
        }
        // Twice as much, so that deep calls do not copy it each time; a multiple of 64 keeps threads apart in `written`.
        let size = size.max(2 * self.size).next_multiple_of(64);
        let mut grown = Self::new(size);
        for lane in 0..LANES {
            let (from, to) = (lane * self.size, lane * size);
            grown.bytes[to..to + self.size].copy_from_slice(&self.bytes[from..from + self.size]);
            for byte in (0..self.size).filter(|byte| self.is_written(from + byte)) {
                grown.written[(to + byte) / 64] |= 1 << ((to + byte) % 64);
            }
        }
        *self = grown;
    }

    /// Bytes that a call has not given a value.
    pub(crate) fn forget(&mut self, lane: usize, start: usize, bytes: usize) {
        let start = lane * self.size + start;
        for byte in start..start + bytes {
            self.written[byte / 64] &= !(1 << (byte % 64));
        }
    }

    /// Copies bytes inside of one thread's memory, and whether they have been written.
    pub(crate) fn copy(&mut self, lane: usize, from: usize, to: usize, bytes: usize) {
        let (from, to) = (lane * self.size + from, lane * self.size + to);
        self.bytes.copy_within(from..from + bytes, to);
        for byte in 0..bytes {
            let bit = u64::from(self.is_written(from + byte));
            let word = &mut self.written[(to + byte) / 64];
            *word = *word & !(1 << ((to + byte) % 64)) | bit << ((to + byte) % 64);
        }
    }

    pub(crate) fn zero(&mut self, lane: usize, start: usize, bytes: usize) {
        let start = lane * self.size + start;
        for byte in start..start + bytes {
            self.bytes[byte] = 0;
            self.written[byte / 64] |= 1 << (byte % 64);
        }
    }

    fn is_written(&self, byte: usize) -> bool {
        self.written[byte / 64] >> (byte % 64) & 1 == 1
    }
}

impl Machine<'_> {
    fn local_place(
        &mut self,
        cluster: &Cluster,
        warp: &Warp,
        at: At,
        lane: usize,
        address: u64,
        bytes: usize,
    ) -> Result<usize, Stopped> {
        let by = at.participant(lane);
        let size = warp.local.size as u64;
        if address.checked_add(bytes as u64).is_none_or(|end| end > size) {
            let message = || format!("{bytes} bytes at offset {address:#x} of a thread's {size} bytes of local memory");
            return Err(self.stop(cluster, FindingKind::OutOfBounds, at.pc, by, message));
        }
        if !address.is_multiple_of(bytes as u64) {
            let message = || format!("{bytes} bytes at local address {address:#x}");
            return Err(self.stop(cluster, FindingKind::Misaligned, at.pc, by, message));
        }
        Ok(lane * warp.local.size + address as usize)
    }

    /// A checked load of a thread's local memory.
    pub(crate) fn read_local(
        &mut self,
        cluster: &Cluster,
        warp: &Warp,
        at: At,
        lane: usize,
        address: u64,
        into: &mut [u8],
    ) -> Result<(), Stopped> {
        let start = self.local_place(cluster, warp, at, lane, address, into.len())?;
        let range = start..start + into.len();
        into.copy_from_slice(&warp.local.bytes[range.clone()]);
        // Copies of structures read the gaps between members, too: one byte with a value is enough.
        // Without optimisation whole objects are copied, whether they have a value or not.
        let checks = self.context.launch.checks.uninitialized_local && !self.context.program.module.debug;
        if checks && !range.clone().any(|byte| warp.local.is_written(byte)) {
            let bytes = into.len();
            let message =
                || format!("reads {bytes} bytes at local address {address:#x} that this thread has not written");
            self.report(cluster, FindingKind::UninitializedRead, at.pc, at.participant(lane), None, message);
        }
        Ok(())
    }

    /// A checked store to a thread's local memory.
    pub(crate) fn write_local(
        &mut self,
        cluster: &Cluster,
        warp: &mut Warp,
        at: At,
        lane: usize,
        address: u64,
        data: &[u8],
    ) -> Result<(), Stopped> {
        let start = self.local_place(cluster, warp, at, lane, address, data.len())?;
        warp.local.bytes[start..start + data.len()].copy_from_slice(data);
        for byte in start..start + data.len() {
            warp.local.written[byte / 64] |= 1 << (byte % 64);
        }
        Ok(())
    }
}
