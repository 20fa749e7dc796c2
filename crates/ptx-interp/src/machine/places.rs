//! Where an access goes: each lane's address, the space it hits, its bounds and its alignment.

use super::{At, Cluster, Machine, Stopped, has_exited};
use crate::address_space::{LOCAL_WINDOW, PARAMETER_WINDOW, SHARED_BASE, SHARED_WINDOW, WINDOW_BYTES, split_shared};
use crate::decode::{Address, LaneRegister, Space};
use crate::diagnostics::FindingKind;
use crate::registers::{Doubles, LANES, Registers, each_lane};

/// An address for each lane.
pub(crate) type Lanes = Doubles;

/// A place in some block's shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SharedPlace {
    pub rank: u32,
    pub offset: u32,
}

pub(crate) fn is_in_space(space: Space, address: u64) -> bool {
    let within = |base: u64| (base..base + WINDOW_BYTES).contains(&address);
    match space {
        Space::Shared | Space::SharedCluster => within(SHARED_WINDOW),
        Space::Local => within(LOCAL_WINDOW),
        Space::Parameter => within(PARAMETER_WINDOW),
        Space::Global | Space::Generic => !(within(SHARED_WINDOW) || within(LOCAL_WINDOW) || within(PARAMETER_WINDOW)),
    }
}

pub(crate) fn addresses(registers: &Registers, address: Address) -> Lanes {
    let mut result = [0; LANES];
    match address.base {
        LaneRegister::Word(base) => {
            let base = registers.word(base);
            for lane in 0..LANES {
                // 32-bit addresses wrap at 32 bits.
                result[lane] = u64::from(base[lane].wrapping_add(address.offset as u32));
            }
        }
        LaneRegister::Double(base) => {
            let base = registers.double(base);
            for lane in 0..LANES {
                result[lane] = base[lane].wrapping_add(address.offset as u64);
            }
        }
    }
    result
}

/// Lanes of a generic access by the space they hit: shared, local, parameter, global.
fn by_space(addresses: &Lanes, mask: u32) -> [(Space, u32, u64); 4] {
    let mut parts = [
        // Also of another block of the cluster.
        (Space::SharedCluster, 0, SHARED_WINDOW),
        (Space::Local, 0, LOCAL_WINDOW),
        (Space::Parameter, 0, PARAMETER_WINDOW),
        (Space::Global, 0, 0),
    ];
    each_lane!(mask, lane, {
        for part in &mut parts {
            if is_in_space(part.0, addresses[lane]) {
                part.1 |= 1 << lane;
                break;
            }
        }
    });
    parts
}

pub(crate) fn rebased(addresses: &Lanes, base: u64) -> Lanes {
    addresses.map(|address| address.wrapping_sub(base))
}

/// Calls `visit` with every space that an access hits, the places in it, and the lanes that hit it: of a generic access
/// there may be several.
#[inline(always)]
pub(crate) fn for_each_space(
    space: Space,
    places: &Lanes,
    mask: u32,
    mut visit: impl FnMut(Space, &Lanes, u32) -> Result<(), Stopped>,
) -> Result<(), Stopped> {
    if space != Space::Generic {
        return visit(space, places, mask);
    }
    for (space, lanes, base) in by_space(places, mask) {
        if lanes != 0 {
            visit(space, &rebased(places, base), lanes)?;
        }
    }
    Ok(())
}

/// Whether all lanes take part, each right behind the one before.
#[inline(always)]
pub(crate) fn is_side_by_side(places: &Lanes, mask: u32, bytes: u32) -> bool {
    let mut apart = 0;
    for lane in 0..LANES {
        apart |= places[lane] ^ places[0].wrapping_add(lane as u64 * u64::from(bytes));
    }
    mask == u32::MAX && apart == 0
}

impl Machine<'_> {
    /// Bounds and alignment of an access to shared memory.
    #[inline(always)]
    pub(crate) fn shared_place(
        &mut self,
        cluster: &Cluster,
        at: At,
        lane: usize,
        address: u64,
        bytes: u32,
        space: Space,
    ) -> Result<SharedPlace, Stopped> {
        let narrow = address as u32;
        let (rank, offset) = split_shared(narrow, at.rank);
        let end = u64::from(offset) + u64::from(bytes);
        let inside = u64::from(narrow) == address
            && (rank as usize) < cluster.blocks.len()
            && offset >= SHARED_BASE
            && end <= u64::from(self.context.shared_end)
            && (rank == at.rank || space != Space::Shared);
        if inside && rank != at.rank && has_exited(cluster, rank) {
            return Err(self.stop(cluster, FindingKind::OutOfBounds, at.pc, at.participant(lane), || {
                format!("shared memory of block {rank} of the cluster, which has exited")
            }));
        }
        if inside && offset & (bytes - 1) == 0 {
            return Ok(SharedPlace { rank, offset });
        }
        Err(self.bad_shared(cluster, at, lane, address, bytes, inside))
    }

    #[cold]
    fn bad_shared(
        &mut self,
        cluster: &Cluster,
        at: At,
        lane: usize,
        address: u64,
        bytes: u32,
        inside: bool,
    ) -> Stopped {
        let by = at.participant(lane);
        let end = self.context.shared_end;
        if inside {
            let message =
                || format!("{bytes} bytes at shared address {address:#x}, which is not a multiple of {bytes}");
            return self.stop(cluster, FindingKind::Misaligned, at.pc, by, message);
        }
        let message = || {
            format!(
                "{bytes} bytes at shared address {address:#x}; this block's shared memory is {SHARED_BASE:#x}..{end:#x}"
            )
        };
        self.stop(cluster, FindingKind::OutOfBounds, at.pc, by, message)
    }

    /// Bounds and alignment of an access to global memory: the buffer and the offset in it.
    #[inline(always)]
    pub(crate) fn global_place(
        &mut self,
        cluster: &Cluster,
        at: At,
        lane: usize,
        address: u64,
        bytes: usize,
        align: usize,
    ) -> Result<(usize, usize), Stopped> {
        match self.global.resolve(address, bytes) {
            Some(found) if address & (align as u64 - 1) == 0 => Ok(found),
            found => Err(self.bad_global(cluster, at, lane, address, bytes, align, found.is_some())),
        }
    }

    #[cold]
    fn bad_global(
        &mut self,
        cluster: &Cluster,
        at: At,
        lane: usize,
        address: u64,
        bytes: usize,
        align: usize,
        inside: bool,
    ) -> Stopped {
        let by = at.participant(lane);
        let memory = self.global.memory;
        if inside {
            let message = || {
                let (index, offset) = memory.resolve(address, bytes).unwrap_or_default();
                let name = memory.buffers().get(index).map_or("?", |buffer| &buffer.name);
                format!("{bytes} bytes at byte {offset} of `{name}`: {address:#x} is not a multiple of {align}")
            };
            return self.stop(cluster, FindingKind::Misaligned, at.pc, by, message);
        }
        let message = || format!("{bytes} bytes at {address:#x}: {}", memory.place(address, bytes));
        self.stop(cluster, FindingKind::OutOfBounds, at.pc, by, message)
    }
}
