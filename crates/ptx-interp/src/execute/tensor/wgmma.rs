//! wgmma: four warps multiply 64 rows by a matrix in shared memory, asynchronously. Each warp does its own 16 rows.

use super::{DepthByColumns, Engine, Product, RowsByDepth, widen};
use crate::decode::{Manner, MatrixElement, Wgmma, WgmmaA};
use crate::diagnostics::FindingKind;
use crate::machine::{At, Cluster, Machine, Step, Stopped, Wait, Warp, is_whole_warp};
use crate::order::Clock;
use crate::registers::LANES;
use crate::tensor_map::Swizzle;

/// Where a matrix lies in shared memory.
#[derive(Clone, Copy, Debug)]
struct Descriptor {
    start: u32,
    leading: u32,
    stride: u32,
    swizzle: Swizzle,
    /// In lines of the swizzle's pattern; not carried out for other values than 0.
    base_offset: u32,
}

impl Descriptor {
    fn new(bits: u64) -> Self {
        let field = |at: u32| ((bits >> at & 0x3fff) as u32) << 4;
        Self {
            start: field(0),
            leading: field(16),
            stride: field(32),
            base_offset: (bits >> 49) as u32 & 7,
            swizzle: match bits >> 62 {
                0 => Swizzle::None,
                1 => Swizzle::Bytes128,
                2 => Swizzle::Bytes64,
                _ => Swizzle::Bytes32,
            },
        }
    }

    /// Bytes of a row inside the swizzle's pattern; 16 without one.
    fn span(self) -> u32 {
        match self.swizzle {
            Swizzle::None => 16,
            Swizzle::Bytes32 => 32,
            Swizzle::Bytes64 => 64,
            Swizzle::Bytes128 => 128,
        }
    }

    /// Address of the 16-bit element at this depth and at this row of A (or column of B).
    ///
    /// The canonical layouts are made of cores of eight lines of `span` bytes. Depth runs along the lines when the
    /// operand is K-major, across them when it is MN-major.
    fn element(self, outer: u32, depth: u32, mn_major: bool) -> u32 {
        let span = self.span();
        let per_line = span / 2;
        let linear = if mn_major {
            // Lines hold outer; the next group of eight depths is a stride away, the next span of outer a leading
            // offset (without a swizzle the two change roles).
            let (along, across) = (outer / per_line, depth / 8);
            let (along_step, across_step) =
                if self.swizzle == Swizzle::None { (self.stride, self.leading) } else { (self.leading, self.stride) };
            along * along_step + across * across_step + depth % 8 * span + outer % per_line * 2
        } else {
            let (along, across) = (depth / per_line, outer / 8);
            along * self.leading + across * self.stride + outer % 8 * span + depth % per_line * 2
        };
        self.swizzle.apply(self.start.wrapping_add(linear))
    }
}

impl Machine<'_> {
    pub(crate) fn wgmma(
        &mut self,
        cluster: &mut Cluster,
        warp: &mut Warp,
        at: At,
        wgmma: &Wgmma,
        mask: u32,
    ) -> Result<Step, Stopped> {
        if !is_whole_warp(warp, mask) {
            return Ok(Step::Retry(Wait::Lanes));
        }
        let by = at.participant(0);
        if mask != u32::MAX {
            return Err(
                self.stop(cluster, FindingKind::BadMatrixOperation, at.pc, by, || "wgmma with lanes missing".into())
            );
        }
        self.check_warpgroup(cluster, warp, at)?;
        warp.wgmma_trace = warp.wgmma_trace.wrapping_mul(0x0100_0000_01b3) ^ u64::from(at.pc + 1);
        self.take_registers(cluster, warp, at, wgmma);
        self.counters.tensor_instructions += 1;
        self.counters.tensor_flops += 2 * 16 * 16 * u64::from(wgmma.n);
        let first_row = (warp.index % 4) * 16;
        let a = match &wgmma.a {
            WgmmaA::Registers(registers) => super::mma::gather_a(&warp.registers, registers, wgmma.element),
            WgmmaA::Shared { descriptor, transposed } => {
                let descriptor = self.descriptor(cluster, at, warp.registers.double(*descriptor)[0])?;
                let mut matrix: RowsByDepth = [[0.0; 16]; 16];
                for half in 0..2 {
                    let first = first_row + 8 * half as u32;
                    self.gather_lines(
                        cluster,
                        at,
                        descriptor,
                        first,
                        *transposed,
                        wgmma.element,
                        |row, depth, value| {
                            matrix[8 * half + row][depth] = value;
                        },
                    )?;
                }
                matrix
            }
        };
        let a = if wgmma.negate_a != wgmma.negate_b { a.map(|row| row.map(|value| -value)) } else { a };
        let descriptor = self.descriptor(cluster, at, warp.registers.double(wgmma.b)[0])?;
        let keep = warp.registers.predicate(wgmma.keep) & 1 == 1;
        let engine = Engine::fastest();
        for block in 0..u32::from(wgmma.n) / 8 {
            let mut b: DepthByColumns = [[0.0; 8]; 16];
            self.gather_lines(
                cluster,
                at,
                descriptor,
                block * 8,
                wgmma.b_transposed,
                wgmma.element,
                |column, depth, value| {
                    b[depth][column] = value;
                },
            )?;
            let mut product: Product = [[0.0; 8]; 16];
            engine.multiply(&a, &b, &mut product);
            let count = if wgmma.accumulator == MatrixElement::F32 { 4 } else { 2 };
            let d = &wgmma.d[block as usize * count..(block as usize + 1) * count];
            let c = if keep { Some(d) } else { None };
            super::mma::accumulate(&mut warp.registers, d, c, wgmma.accumulator, &product, mask);
        }
        warp.wgmma_open = true;
        Ok(Step::Next)
    }

    fn descriptor(&mut self, cluster: &Cluster, at: At, bits: u64) -> Result<Descriptor, Stopped> {
        let descriptor = Descriptor::new(bits);
        if descriptor.base_offset != 0 {
            let offset = descriptor.base_offset;
            return Err(self.stop(cluster, FindingKind::BadMatrixOperation, at.pc, at.participant(0), || {
                format!(
                    "a matrix descriptor with base offset {offset}; only matrices that begin where the swizzle's pattern does are known"
                )
            }));
        }
        Ok(descriptor)
    }

    /// Reads eight rows of A (or columns of B), 16 deep, a 16-byte piece at a time: eight elements along a line are
    /// always side by side.
    #[inline(always)]
    fn gather_lines(
        &mut self,
        cluster: &mut Cluster,
        at: At,
        descriptor: Descriptor,
        first: u32,
        mn_major: bool,
        element: MatrixElement,
        mut put: impl FnMut(usize, usize, f32),
    ) -> Result<(), Stopped> {
        for piece in 0..16usize {
            // K-major: line `piece / 2`, half of its depth. MN-major: the line at depth `piece`.
            let (outer, depth) = if mn_major { (0, piece) } else { (piece / 2, piece % 2 * 8) };
            let place = descriptor.element(first + outer as u32, depth as u32, mn_major);
            let data = self.read_piece(cluster, at, place)?;
            for (index, bytes) in data.chunks_exact(2).enumerate() {
                let value = widen(element, u16::from_le_bytes([bytes[0], bytes[1]]));
                if mn_major {
                    put(index, depth, value);
                } else {
                    put(outer, depth + index, value);
                }
            }
        }
        Ok(())
    }

    /// A 16-byte piece of shared memory, checked for bounds and order.
    fn read_piece(&mut self, cluster: &mut Cluster, at: At, place: u32) -> Result<[u8; 16], Stopped> {
        let end = u64::from(place) + 16;
        let inside = place >= crate::address_space::SHARED_BASE && end <= u64::from(self.context.shared_end);
        if !inside || !place.is_multiple_of(16) {
            let end = self.context.shared_end;
            let message =
                || format!("the matrix descriptor leads to shared address {place:#x}; memory ends at {end:#x}");
            return Err(self.stop(cluster, FindingKind::OutOfBounds, at.pc, at.participant(0), message));
        }
        let reader = cluster.order.warp_participant(at.warp);
        let who = at.accessor(0, Manner::Weak);
        let shared = &mut cluster.blocks[at.rank as usize].shared;
        let conflict = shared.note_async_read(&cluster.order, who, reader, place, 16);
        let mut data = [0; 16];
        data.copy_from_slice(&shared.bytes[place as usize..place as usize + 16]);
        if let Some(conflict) = conflict {
            self.report_conflict(cluster, conflict, at.pc, who.participant, place, 16);
        }
        Ok(data)
    }

    /// The four warps of a warpgroup must all be there.
    fn check_warpgroup(&mut self, cluster: &Cluster, warp: &Warp, at: At) -> Result<(), Stopped> {
        let first = warp.index / 4 * 4;
        let threads = self.context.threads.saturating_sub(first * LANES as u32).min(128);
        let by = at.participant(0);
        if threads < 128 {
            let message = || format!("a wgmma is for the 128 threads of four warps; this warpgroup has {threads}");
            return Err(self.stop(cluster, FindingKind::BadMatrixOperation, at.pc, by, message));
        }
        Ok(())
    }

    pub(crate) fn wgmma_commit(&mut self, cluster: &mut Cluster, warp: &mut Warp, mask: u32) -> Result<Step, Stopped> {
        if !is_whole_warp(warp, mask) {
            return Ok(Step::Retry(Wait::Lanes));
        }
        warp.wgmma_open = false;
        warp.wgmma_groups.push(cluster.order.tick());
        warp.in_flight.commit();
        Ok(Step::Next)
    }

    /// The reads of all groups but the newest `keep` have happened.
    pub(crate) fn wgmma_wait(
        &mut self,
        cluster: &mut Cluster,
        warp: &mut Warp,
        at: At,
        keep: u32,
        mask: u32,
    ) -> Result<Step, Stopped> {
        if !is_whole_warp(warp, mask) {
            return Ok(Step::Retry(Wait::Lanes));
        }
        warp.in_flight.wait(keep);
        let due = warp.wgmma_groups.len().saturating_sub(keep as usize);
        if let Some(stamp) = warp.wgmma_groups.drain(..due).max() {
            let reader = cluster.order.warp_participant(at.warp);
            let mut message = Clock::new();
            message.mark(reader, stamp);
            for lane in 0..LANES {
                cluster.order.acquire(at.participant(lane), &message);
            }
        }
        Ok(Step::Next)
    }
}
