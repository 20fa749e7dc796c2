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
        if self.context.launch.checks.uninitialized_local && !range.clone().any(|byte| warp.local.is_written(byte)) {
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
