//! What a launch did, counted exactly: a property of the kernel, not of this machine.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use crate::decode::{Binary32, Binary64, FloatKind, Operation, Program, Space, Ternary32, Ternary64, Unary32, Unary64};

/// Kinds of instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum InstructionClass {
    /// f32, f16, bf16 and f64 arithmetic.
    Float,
    /// Exponentials, logarithms, reciprocals, roots, divisions.
    SpecialFunction,
    /// Integer arithmetic and bit operations.
    Integer,
    /// Conversions between types.
    Conversion,
    /// Comparisons, predicates, selects.
    Predicate,
    /// Moves between registers.
    Move,
    /// Loads and stores of global memory, and generic ones.
    GlobalMemory,
    /// Loads and stores of shared memory, ldmatrix and stmatrix.
    SharedMemory,
    /// Loads and stores of local memory and parameters.
    LocalMemory,
    /// Atomics and reductions.
    Atomic,
    /// cp.async, bulk and tensor copies, their commits and waits.
    AsyncCopy,
    /// Tensor-core operations and their fragments' loads and stores.
    Tensor,
    /// Shuffles, votes, matches, movmatrix.
    Shuffle,
    /// Barriers, fences, mbarriers.
    Synchronisation,
    /// Branches and calls; exits are not counted.
    Control,
}

/// Counts of one launch. All of them are the same for every seed if the kernel is right and does not spin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Instructions that a warp issued, by class.
    pub warp_instructions: BTreeMap<InstructionClass, u64>,
    /// The same, times the lanes that took part.
    pub thread_instructions: BTreeMap<InstructionClass, u64>,
    /// Blocks executed.
    pub blocks: u64,
    /// Bytes that loads asked global memory for.
    pub global_load_bytes: u64,
    /// Bytes that stores sent to global memory.
    pub global_store_bytes: u64,
    /// 32-byte sectors that those loads touched, a warp's instruction at a time.
    pub global_load_sectors: u64,
    /// 32-byte sectors that those stores touched.
    pub global_store_sectors: u64,
    /// Bytes read from shared memory.
    pub shared_load_bytes: u64,
    /// Bytes written to shared memory.
    pub shared_store_bytes: u64,
    /// Passes over the 32 banks that shared-memory accesses took.
    pub shared_wavefronts: u64,
    /// Passes that the same accesses would take without any bank conflict.
    pub shared_ideal_wavefronts: u64,
    /// Multiply-adds done by tensor cores, counted as two operations each.
    pub tensor_flops: u64,
    /// Tensor-core instructions (a warp's).
    pub tensor_instructions: u64,
    /// Block barriers that a warp arrived at.
    pub block_barriers: u64,
    /// Warp barriers.
    pub warp_barriers: u64,
    /// Cluster barriers that a warp arrived at.
    pub cluster_barriers: u64,
    /// Warp shuffles.
    pub shuffles: u64,
    /// Atomics and reductions of single lanes.
    pub atomics: u64,
    /// Bytes that cp.async asked for.
    pub async_copy_bytes: u64,
    /// Bulk and tensor copies.
    pub bulk_copies: u64,
    /// Bytes they moved.
    pub bulk_copy_bytes: u64,
    /// Operations on mbarriers by single lanes, waits excluded.
    pub mbarrier_arrivals: u64,
}

impl Counters {
    /// Passes over the banks that conflicts cost.
    pub fn bank_conflicts(&self) -> u64 {
        self.shared_wavefronts - self.shared_ideal_wavefronts
    }

    /// Instructions that warps issued, all classes together.
    pub fn total_warp_instructions(&self) -> u64 {
        self.warp_instructions.values().sum()
    }

    /// The same for threads.
    pub fn total_thread_instructions(&self) -> u64 {
        self.thread_instructions.values().sum()
    }
}

impl AddAssign<&Counters> for Counters {
    fn add_assign(&mut self, other: &Counters) {
        for (class, count) in &other.warp_instructions {
            *self.warp_instructions.entry(*class).or_default() += count;
        }
        for (class, count) in &other.thread_instructions {
            *self.thread_instructions.entry(*class).or_default() += count;
        }
        self.blocks += other.blocks;
        self.global_load_bytes += other.global_load_bytes;
        self.global_store_bytes += other.global_store_bytes;
        self.global_load_sectors += other.global_load_sectors;
        self.global_store_sectors += other.global_store_sectors;
        self.shared_load_bytes += other.shared_load_bytes;
        self.shared_store_bytes += other.shared_store_bytes;
        self.shared_wavefronts += other.shared_wavefronts;
        self.shared_ideal_wavefronts += other.shared_ideal_wavefronts;
        self.tensor_flops += other.tensor_flops;
        self.tensor_instructions += other.tensor_instructions;
        self.block_barriers += other.block_barriers;
        self.warp_barriers += other.warp_barriers;
        self.cluster_barriers += other.cluster_barriers;
        self.shuffles += other.shuffles;
        self.atomics += other.atomics;
        self.async_copy_bytes += other.async_copy_bytes;
        self.bulk_copies += other.bulk_copies;
        self.bulk_copy_bytes += other.bulk_copy_bytes;
        self.mbarrier_arrivals += other.mbarrier_arrivals;
    }
}

/// How often each instruction ran: cheaper to keep than classes, which follow from it at the end.
#[derive(Clone, Debug)]
pub(crate) struct Executions {
    pub warps: Vec<u64>,
    pub threads: Vec<u64>,
}

impl Executions {
    pub(crate) fn new(instructions: usize) -> Self {
        Self { warps: vec![0; instructions], threads: vec![0; instructions] }
    }

    pub(crate) fn classify(&self, program: &Program, counters: &mut Counters) {
        // Neighbours are often of one class: the maps are asked once for each run of them.
        let mut run: Option<(InstructionClass, u64, u64)> = None;
        let mut add = |(class, warps, threads): (InstructionClass, u64, u64)| {
            *counters.warp_instructions.entry(class).or_default() += warps;
            *counters.thread_instructions.entry(class).or_default() += threads;
        };
        for (pc, instruction) in program.instructions.iter().enumerate() {
            // Lanes of a warp may exit together or one by one, as the schedule has it: that is no work of the kernel's.
            if self.warps[pc] > 0 && !matches!(instruction.operation, Operation::Exit) {
                let (class, warps, threads) = (class(&instruction.operation), self.warps[pc], self.threads[pc]);
                run = match run {
                    Some((known, more_warps, more_threads)) if known == class => {
                        Some((class, warps + more_warps, threads + more_threads))
                    }
                    other => {
                        other.into_iter().for_each(&mut add);
                        Some((class, warps, threads))
                    }
                };
            }
        }
        run.into_iter().for_each(add);
    }
}

fn class(operation: &Operation) -> InstructionClass {
    match operation {
        Operation::Unary32 { op: Unary32::Move, .. }
        | Operation::Unary64 { op: Unary64::Move, .. }
        | Operation::Pack { .. }
        | Operation::Unpack { .. }
        | Operation::Clock { .. }
        | Operation::ShareRegisters { .. }
        | Operation::Nothing => InstructionClass::Move,
        Operation::Unary32 { op: Unary32::NegateF32 | Unary32::AbsoluteF32, .. }
        | Operation::Binary32 {
            op:
                Binary32::AddF32
                | Binary32::SubF32
                | Binary32::MulF32
                | Binary32::MaxF32
                | Binary32::MinF32
                | Binary32::CopySign,
            ..
        }
        | Operation::Ternary32 { op: Ternary32::FmaF32, .. }
        | Operation::Unary64 { op: Unary64::NegateF64 | Unary64::AbsoluteF64, .. }
        | Operation::Binary64 {
            op: Binary64::AddF64 | Binary64::SubF64 | Binary64::MulF64 | Binary64::MaxF64 | Binary64::MinF64,
            ..
        }
        | Operation::Ternary64 { op: Ternary64::FmaF64, .. } => InstructionClass::Float,
        Operation::Unary64 { op: Unary64::SqrtF64 | Unary64::RcpF64, .. }
        | Operation::Binary64 { op: Binary64::DivF64, .. } => InstructionClass::SpecialFunction,
        Operation::Float(operation) => float_class(operation.kind),
        Operation::Half(operation) => float_class(operation.kind),
        Operation::Convert { .. } | Operation::ConvertPair { .. } | Operation::SmallFloat(_) => {
            InstructionClass::Conversion
        }
        Operation::SetPredicate(_)
        | Operation::Set { .. }
        | Operation::Select32 { .. }
        | Operation::Select64 { .. }
        | Operation::Predicate { .. }
        | Operation::TestSpace { .. } => InstructionClass::Predicate,
        Operation::Load(access) | Operation::Store(access) => match access.space {
            Space::Global | Space::Generic => InstructionClass::GlobalMemory,
            Space::Shared | Space::SharedCluster => InstructionClass::SharedMemory,
            Space::Local | Space::Parameter => InstructionClass::LocalMemory,
        },
        Operation::MatrixMove(_) | Operation::StoreAsync(_) => InstructionClass::SharedMemory,
        Operation::Atomic(_) => InstructionClass::Atomic,
        Operation::Shuffle(_)
        | Operation::MatrixTranspose { .. }
        | Operation::Vote(_)
        | Operation::Match { .. }
        | Operation::Redux { .. }
        | Operation::Elect { .. }
        | Operation::ActiveMask { .. } => InstructionClass::Shuffle,
        Operation::Branch { .. }
        | Operation::BranchIndexed { .. }
        | Operation::Call(_)
        | Operation::IgnoredCall(_)
        | Operation::AssertionFailed
        | Operation::Return
        | Operation::Unsupported { .. }
        | Operation::Exit
        | Operation::Trap => InstructionClass::Control,
        Operation::Barrier(_)
        | Operation::WarpBarrier { .. }
        | Operation::ClusterArrive { .. }
        | Operation::ClusterWait
        | Operation::Fence(_)
        | Operation::PendingCount { .. }
        | Operation::Mbarrier(_) => InstructionClass::Synchronisation,
        Operation::CopyAsync(_)
        | Operation::CopyAsyncCommit
        | Operation::CopyAsyncWait { .. }
        | Operation::CopyAsyncWaitAll
        | Operation::BulkCopy(_)
        | Operation::TensorCopy(_)
        | Operation::BulkCommit
        | Operation::BulkWait { .. } => InstructionClass::AsyncCopy,
        Operation::MatrixMultiply(_)
        | Operation::FragmentMove(_)
        | Operation::FragmentMultiply(_)
        | Operation::Wgmma(_)
        | Operation::WgmmaFence
        | Operation::WgmmaCommit
        | Operation::WgmmaWait { .. } => InstructionClass::Tensor,
        _ => InstructionClass::Integer,
    }
}

fn float_class(kind: FloatKind) -> InstructionClass {
    match kind {
        FloatKind::Div
        | FloatKind::DivApprox
        | FloatKind::Sqrt
        | FloatKind::Rcp
        | FloatKind::Rsqrt
        | FloatKind::Exp2
        | FloatKind::Log2
        | FloatKind::Sin
        | FloatKind::Cos
        | FloatKind::Tanh => InstructionClass::SpecialFunction,
        _ => InstructionClass::Float,
    }
}

/// Passes over the banks that one warp's access takes, and the fewest it could take.
///
/// A pass serves each of the 32 four-byte banks once; lanes that want the same word share it. Accesses of 8 and
/// 16 bytes are served in two and four groups of lanes, and neither more nor fewer passes count as a conflict than
/// those that a group needs beyond its first.
pub(crate) fn wavefronts(addresses: &[u32; 32], mask: u32, bytes: u32) -> (u64, u64) {
    // All lanes side by side, or all at one place: no need to look closer.
    if mask == u32::MAX {
        let (mut consecutive, mut same) = (true, true);
        for lane in 0..32 {
            consecutive &= addresses[lane] == addresses[0].wrapping_add(lane as u32 * bytes);
            same &= addresses[lane] == addresses[0];
        }
        if (4..=16).contains(&bytes) && (consecutive || same) {
            let groups = u64::from(bytes / 4);
            return (groups, groups);
        }
    }
    let lanes_per_group = match bytes {
        0..=4 => 32u32,
        5..=8 => 16,
        _ => 8,
    };
    let words_per_lane = bytes.div_ceil(4).max(1);
    let (mut total, mut ideal) = (0, 0);
    let mut group = 0;
    while group < 32 {
        let group_mask = if lanes_per_group == 32 { mask } else { mask >> group & ((1 << lanes_per_group) - 1) };
        let active = group_mask;
        group += lanes_per_group;
        if active == 0 {
            continue;
        }
        let first_lane = group - lanes_per_group;
        let (passes, distinct) = group_passes(addresses, active, first_lane, words_per_lane);
        total += passes;
        ideal += distinct.div_ceil(32);
    }
    (total, ideal)
}

fn group_passes(addresses: &[u32; 32], active: u32, first_lane: u32, words_per_lane: u32) -> (u64, u64) {
    // Rows of a fragment usually cover each four banks once.
    if words_per_lane == 4 {
        let (mut quads, mut low_bits, mut rest) = (0u32, 0, active);
        while rest != 0 {
            let address = addresses[(first_lane + rest.trailing_zeros()) as usize & 31];
            rest &= rest - 1;
            quads |= 1 << (address >> 4 & 7);
            low_bits |= address & 15;
        }
        let lanes = active.count_ones();
        if low_bits == 0 && quads.count_ones() == lanes {
            return (1, u64::from(lanes * words_per_lane));
        }
    }
    let start = addresses[(first_lane + active.trailing_zeros()) as usize & 31] >> 2;
    // The two usual cases: consecutive words, and one word for all.
    let (mut consecutive, mut same) = (true, true);
    let mut rest = active;
    let base_lane = active.trailing_zeros();
    while rest != 0 {
        let lane = rest.trailing_zeros();
        rest &= rest - 1;
        let word = addresses[(first_lane + lane) as usize & 31] >> 2;
        same &= word == start;
        consecutive &= word == start.wrapping_add((lane - base_lane) * words_per_lane);
    }
    if same {
        return (1, u64::from(words_per_lane));
    }
    if consecutive {
        return (1, u64::from(active.count_ones() * words_per_lane));
    }
    // Distinct words, chained by bank; at most 32 words are in a group.
    const END: u8 = u8::MAX;
    let (mut words, mut chain) = ([0u32; 32], [END; 32]);
    let (mut heads, mut lengths) = ([END; 32], [0u8; 32]);
    let mut distinct = 0usize;
    let mut longest = 1;
    let mut rest = active;
    while rest != 0 {
        let lane = rest.trailing_zeros();
        rest &= rest - 1;
        let first = addresses[(first_lane + lane) as usize & 31] >> 2;
        for word in first..first.saturating_add(words_per_lane) {
            let bank = (word & 31) as usize;
            let mut at = heads[bank];
            while at != END && words[usize::from(at)] != word {
                at = chain[usize::from(at)];
            }
            if at == END && distinct < 32 {
                words[distinct] = word;
                chain[distinct] = heads[bank];
                heads[bank] = distinct as u8;
                lengths[bank] += 1;
                longest = longest.max(lengths[bank]);
                distinct += 1;
            }
        }
    }
    (u64::from(longest), distinct as u64)
}

#[cfg(test)]
mod tests {
    use super::wavefronts;

    fn passes(bytes: u32, mask: u32, place: impl Fn(u32) -> u32) -> (u64, u64) {
        wavefronts(&std::array::from_fn(|lane| place(lane as u32)), mask, bytes)
    }

    const ALL: u32 = u32::MAX;

    #[test]
    fn lanes_side_by_side_do_not_conflict() {
        for (bytes, groups) in [(1, 1), (2, 1), (4, 1), (8, 2), (16, 4)] {
            assert_eq!(passes(bytes, ALL, |lane| lane * bytes), (groups, groups), "{bytes} bytes");
            assert_eq!(passes(bytes, ALL, |lane| 4096 + (31 - lane) * bytes), (groups, groups), "{bytes} bytes");
        }
    }

    #[test]
    fn lanes_that_read_one_place_share_it() {
        for (bytes, groups) in [(2, 1), (4, 1), (8, 2), (16, 4)] {
            assert_eq!(passes(bytes, ALL, |_| 64), (groups, groups), "{bytes} bytes");
            // Also where two of a group differ, and their banks do not.
            assert_eq!(passes(bytes, ALL, |lane| lane / 16 * 16), (groups, groups), "{bytes} bytes");
        }
    }

    #[test]
    fn rows_of_whole_lines_conflict() {
        assert_eq!(passes(4, ALL, |lane| lane * 128), (32, 1));
        // A half-warp, then a quarter: every lane of it is another row.
        assert_eq!(passes(8, ALL, |lane| lane * 128), (32, 2));
        assert_eq!(passes(16, ALL, |lane| lane * 128), (32, 4));
        // Padded by 16 bytes, eight rows cover all banks.
        assert_eq!(passes(16, ALL, |lane| lane * 144), (4, 4));
        // Swizzled rows do the same.
        assert_eq!(passes(16, ALL, |lane| lane * 128 + (lane % 8) * 16), (4, 4));
        assert_eq!(passes(4, ALL, |lane| lane * 8), (2, 1));
    }

    #[test]
    fn lanes_that_are_missing_cost_nothing() {
        assert_eq!(passes(4, 0, |lane| lane * 4), (0, 0));
        assert_eq!(passes(16, 0xff, |lane| lane * 16), (1, 1));
        assert_eq!(passes(16, 0xffff_0000, |lane| lane * 16), (2, 2));
        assert_eq!(passes(4, 0b11, |lane| lane * 128), (2, 1));
    }
}
