//! What the decoder makes of a statement: every operand is the index of a register in one of three banks.
//! Immediates, special registers and parameters are registers too, filled before a block starts.

mod arithmetic;
mod calls;
mod copies;
mod matrix;
mod memory;
mod warp;

pub(crate) use arithmetic::*;
pub(crate) use calls::*;
pub(crate) use copies::*;
pub(crate) use matrix::*;
pub(crate) use memory::*;
pub(crate) use warp::*;

/// Index of a 32-bit register (16-bit and 8-bit ones live in its low bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct WordRegister(pub u16);

/// Index of a 64-bit register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct DoubleRegister(pub u16);

/// Index of a predicate: one bit a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PredicateRegister(pub u16);

/// A register of either width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LaneRegister {
    Word(WordRegister),
    Double(DoubleRegister),
}

/// A scalar type of PTX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scalar {
    Unsigned(u8),
    Signed(u8),
    F16,
    BF16,
    F32,
    F64,
}

impl Scalar {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "u8" | "b8" => Self::Unsigned(1),
            "u16" | "b16" => Self::Unsigned(2),
            "u32" | "b32" => Self::Unsigned(4),
            "u64" | "b64" => Self::Unsigned(8),
            "s8" => Self::Signed(1),
            "s16" => Self::Signed(2),
            "s32" => Self::Signed(4),
            "s64" => Self::Signed(8),
            "f16" => Self::F16,
            "bf16" => Self::BF16,
            "f32" => Self::F32,
            "f64" => Self::F64,
            _ => return None,
        })
    }

    pub(crate) fn bytes(self) -> u8 {
        match self {
            Self::Unsigned(bytes) | Self::Signed(bytes) => bytes,
            Self::F16 | Self::BF16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Unary32 {
        op: Unary32,
        to: WordRegister,
        a: WordRegister,
    },
    Binary32 {
        op: Binary32,
        to: WordRegister,
        a: WordRegister,
        b: WordRegister,
    },
    Ternary32 {
        op: Ternary32,
        to: WordRegister,
        a: WordRegister,
        b: WordRegister,
        c: WordRegister,
    },
    /// 16-bit integers: operands are extended, the result is cut to 16 bits.
    Narrow16 {
        op: Binary32,
        signed: bool,
        to: WordRegister,
        a: WordRegister,
        b: WordRegister,
    },
    BitFieldInsert32 {
        to: WordRegister,
        field: WordRegister,
        base: WordRegister,
        at: WordRegister,
        length: WordRegister,
    },
    BitFieldInsert64 {
        to: DoubleRegister,
        field: DoubleRegister,
        base: DoubleRegister,
        at: WordRegister,
        length: WordRegister,
    },
    BitFieldExtract64 {
        signed: bool,
        to: DoubleRegister,
        a: DoubleRegister,
        at: WordRegister,
        length: WordRegister,
    },
    Unary64 {
        op: Unary64,
        to: DoubleRegister,
        a: DoubleRegister,
    },
    Binary64 {
        op: Binary64,
        to: DoubleRegister,
        a: DoubleRegister,
        b: DoubleRegister,
    },
    Ternary64 {
        op: Ternary64,
        to: DoubleRegister,
        a: DoubleRegister,
        b: DoubleRegister,
        c: DoubleRegister,
    },
    Shift64 {
        op: Shift,
        to: DoubleRegister,
        a: DoubleRegister,
        amount: WordRegister,
    },
    /// `popc.b64`, `clz.b64`: a 32-bit result.
    Count64 {
        leading_zeros: bool,
        to: WordRegister,
        a: DoubleRegister,
    },
    MultiplyWide {
        signed: bool,
        to: DoubleRegister,
        a: WordRegister,
        b: WordRegister,
        addend: Option<DoubleRegister>,
    },
    MultiplyWide16 {
        signed: bool,
        to: WordRegister,
        a: WordRegister,
        b: WordRegister,
        addend: Option<WordRegister>,
    },
    Float(Box<FloatOperation>),
    Half(Box<HalfOperation>),
    Convert {
        conversion: Box<Conversion>,
        to: LaneRegister,
        a: LaneRegister,
    },
    /// `cvt.rn.f16x2.f32 d, high, low`
    ConvertPair {
        format: HalfFormat,
        rounding: Rounding,
        relu: bool,
        to: WordRegister,
        high: WordRegister,
        low: WordRegister,
    },
    SetPredicate(Box<SetPredicate>),
    /// `set`: all ones (or 1.0) where the comparison holds.
    Set {
        compare: Box<SetPredicate>,
        to: WordRegister,
        /// What a lane gets where the comparison holds; 0 elsewhere.
        holds: u32,
    },
    Select32 {
        to: WordRegister,
        a: WordRegister,
        b: WordRegister,
        predicate: PredicateRegister,
    },
    Select64 {
        to: DoubleRegister,
        a: DoubleRegister,
        b: DoubleRegister,
        predicate: PredicateRegister,
    },
    Predicate {
        op: BooleanOperation,
        to: PredicateRegister,
        a: PredicateRegister,
        b: PredicateRegister,
    },
    /// `mov.b32 d, {a, b}` and its 64-bit forms; `bits` of each part.
    Pack {
        to: LaneRegister,
        parts: Box<[LaneRegister]>,
        bits: u8,
    },
    Unpack {
        from: LaneRegister,
        parts: Box<[Option<LaneRegister>]>,
        bits: u8,
    },
    Clock {
        to: LaneRegister,
    },
    TestSpace {
        space: Space,
        to: PredicateRegister,
        a: DoubleRegister,
    },
    Load(Box<Access>),
    Store(Box<Access>),
    StoreAsync(Box<StoreAsync>),
    Atomic(Box<Atomic>),
    Shuffle(Box<Shuffle>),
    Vote(Box<Vote>),
    Match {
        all: bool,
        to: WordRegister,
        predicate: Option<PredicateRegister>,
        value: LaneRegister,
        members: WordRegister,
    },
    Redux {
        op: Reduction,
        to: WordRegister,
        value: WordRegister,
        members: WordRegister,
    },
    Elect {
        to: Option<WordRegister>,
        leader: PredicateRegister,
        members: WordRegister,
    },
    ActiveMask {
        to: WordRegister,
    },
    Branch {
        target: u32,
    },
    BranchIndexed {
        targets: Box<[u32]>,
        index: WordRegister,
    },
    Exit,
    Trap,
    Barrier(Box<Barrier>),
    WarpBarrier {
        members: WordRegister,
    },
    ClusterArrive {
        release: bool,
    },
    ClusterWait,
    Fence(FenceKind),
    CopyAsync(Box<CopyAsync>),
    CopyAsyncCommit,
    /// All groups but the newest `keep` must be complete.
    CopyAsyncWait {
        keep: u32,
    },
    CopyAsyncWaitAll,
    MatrixMove(Box<MatrixMove>),
    /// `movmatrix`
    MatrixTranspose {
        to: WordRegister,
        value: WordRegister,
    },
    MatrixMultiply(Box<MatrixMultiply>),
    FragmentMove(Box<FragmentMove>),
    FragmentMultiply(Box<FragmentMultiply>),
    Mbarrier(Box<Mbarrier>),
    BulkCopy(Box<BulkCopy>),
    TensorCopy(Box<TensorCopy>),
    BulkCommit,
    BulkWait {
        keep: u32,
        read_only: bool,
    },
    MapShared {
        to: LaneRegister,
        address: LaneRegister,
        rank: WordRegister,
        generic: bool,
    },
    /// `getctarank`: the block that a shared::cluster address belongs to.
    BlockRank {
        to: WordRegister,
        address: LaneRegister,
        generic: bool,
    },
    /// Arrivals that an mbarrier waited for when it handed out this state.
    PendingCount {
        to: WordRegister,
        state: DoubleRegister,
    },
    Wgmma(Box<Wgmma>),
    WgmmaFence,
    WgmmaCommit,
    WgmmaWait {
        keep: u32,
    },
    Call(Box<Call>),
    /// A call of a function of the system that does nothing here.
    IgnoredCall(Box<IgnoredCall>),
    AssertionFailed,
    /// From a function to its caller.
    Return,
    /// A statement of [`Program::unsupported`](super::Program::unsupported).
    Unsupported {
        index: u32,
    },
    /// `add.cc`, `addc`, `sub.cc`, `subc`, `mad.cc`, `madc`
    Carry(Box<CarryOperation>),
    /// Conversions to and from 8-bit floats, and to tf32.
    SmallFloat(SmallFloat),
    /// `setmaxnreg`
    ShareRegisters {
        count: u32,
        more: bool,
    },
    /// Hints: no effect on results.
    Nothing,
}

#[derive(Clone, Debug)]
pub(crate) struct Instruction {
    pub operation: Operation,
    /// Guarding predicate and whether it is negated.
    pub guard: Option<(PredicateRegister, bool)>,
    /// Every lane works on its own registers and nothing else.
    pub lane_wise: bool,
    /// It moves a register to itself: there is nothing to do.
    pub settled: bool,
}

impl Operation {
    /// Whether it moves a register to itself, as statements do whose value is known before the launch.
    pub(crate) fn moves_to_itself(&self) -> bool {
        match self {
            Self::Unary32 { op: Unary32::Move, to, a } => to == a,
            Self::Unary64 { op: Unary64::Move, to, a } => to == a,
            _ => false,
        }
    }

    /// Whether it accesses memory in a way that races with no other that does, within their scopes.
    pub(crate) fn is_strong(&self) -> bool {
        match self {
            Self::Load(access) | Self::Store(access) => access.ordering != Ordering::Weak,
            Self::Atomic(_) => true,
            _ => false,
        }
    }

    /// Whether it starts a copy that an mbarrier's phase ends.
    pub(crate) fn is_bulk_copy(&self) -> bool {
        matches!(self, Self::BulkCopy(_) | Self::TensorCopy(_) | Self::StoreAsync(_))
    }

    /// Whether every lane works on its own registers and nothing else.
    pub(crate) fn is_lane_wise(&self) -> bool {
        matches!(
            self,
            Self::Unary32 { .. }
                | Self::Binary32 { .. }
                | Self::Ternary32 { .. }
                | Self::Narrow16 { .. }
                | Self::BitFieldInsert32 { .. }
                | Self::BitFieldInsert64 { .. }
                | Self::BitFieldExtract64 { .. }
                | Self::Unary64 { .. }
                | Self::Binary64 { .. }
                | Self::Ternary64 { .. }
                | Self::Shift64 { .. }
                | Self::Count64 { .. }
                | Self::MultiplyWide { .. }
                | Self::MultiplyWide16 { .. }
                | Self::Float(_)
                | Self::Half(_)
                | Self::Convert { .. }
                | Self::ConvertPair { .. }
                | Self::SetPredicate(_)
                | Self::Set { .. }
                | Self::Select32 { .. }
                | Self::Select64 { .. }
                | Self::Predicate { .. }
                | Self::Pack { .. }
                | Self::Unpack { .. }
                | Self::Carry(_)
                | Self::SmallFloat(_)
                | Self::Nothing
        )
    }
}
