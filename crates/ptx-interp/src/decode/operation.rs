//! What the decoder makes of a statement: every operand is the index of a register in one of three banks.
//! Immediates, special registers and parameters are registers too, filled before a block starts.

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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    NearestEven,
    Zero,
    Down,
    Up,
}

/// 32-bit operations of one operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unary32 {
    Move,
    Not,
    NegateInteger,
    AbsoluteInteger,
    NegateF32,
    AbsoluteF32,
    PopulationCount,
    LeadingZeros,
    ReverseBits,
    FindHighestUnsigned,
    FindHighestSigned,
}

/// 32-bit operations of two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Binary32 {
    AddF32,
    SubF32,
    MulF32,
    MaxF32,
    MinF32,
    Add,
    Sub,
    MulLow,
    MulHighSigned,
    MulHighUnsigned,
    DivSigned,
    DivUnsigned,
    RemSigned,
    RemUnsigned,
    MinSigned,
    MaxSigned,
    MinUnsigned,
    MaxUnsigned,
    And,
    Or,
    Xor,
    ShiftLeft,
    ShiftRightSigned,
    ShiftRightUnsigned,
    /// `copysign.f32 d, a, b`: the sign of a, the magnitude of b.
    CopySign,
}

/// 32-bit operations of three operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ternary32 {
    FmaF32,
    MadLow,
    MadHighSigned,
    MadHighUnsigned,
    BitFieldExtractSigned,
    BitFieldExtractUnsigned,
    Permute(PermuteMode),
    Lop3(u8),
    FunnelLeftWrap,
    FunnelLeftClamp,
    FunnelRightWrap,
    FunnelRightClamp,
    /// `slct.b32.s32 d, a, b, c`: a where c ≥ 0.
    SelectBySign,
    /// `slct.b32.f32`
    SelectByFloatSign,
    SumAbsoluteDifferenceSigned,
    SumAbsoluteDifferenceUnsigned,
    DotBytesUnsigned,
    DotBytesSigned,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PermuteMode {
    Index,
    Forward4Extract,
    Backward4Extract,
    Replicate8,
    EdgeClampLeft,
    EdgeClampRight,
    Replicate16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unary64 {
    Move,
    Not,
    NegateInteger,
    AbsoluteInteger,
    NegateF64,
    AbsoluteF64,
    SqrtF64,
    RcpF64,
    ReverseBits,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Binary64 {
    AddF64,
    SubF64,
    MulF64,
    DivF64,
    MaxF64,
    MinF64,
    Add,
    Sub,
    MulLow,
    MulHighSigned,
    MulHighUnsigned,
    DivSigned,
    DivUnsigned,
    RemSigned,
    RemUnsigned,
    MinSigned,
    MaxSigned,
    MinUnsigned,
    MaxUnsigned,
    And,
    Or,
    Xor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ternary64 {
    FmaF64,
    MadLow,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shift {
    Left,
    RightSigned,
    RightUnsigned,
}

/// f32 operations whose rounding, flushing or approximation needs more than the fast paths know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FloatKind {
    Add,
    Sub,
    Mul,
    Fma,
    Div,
    DivApprox,
    Min,
    Max,
    /// `min.NaN`
    MinNan,
    /// `max.NaN`
    MaxNan,
    Negate,
    Absolute,
    Sqrt,
    Rcp,
    Rsqrt,
    Exp2,
    Log2,
    Sin,
    Cos,
    Tanh,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FloatOperation {
    pub kind: FloatKind,
    pub rounding: Rounding,
    /// `.ftz`: subnormal inputs and results become zeros.
    pub flush: bool,
    /// `.sat`: the result is clamped to [0, 1], NaN becomes 0.
    pub saturate: bool,
    pub to: WordRegister,
    pub inputs: [WordRegister; 3],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HalfFormat {
    F16,
    BF16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HalfOperation {
    pub kind: FloatKind,
    pub format: HalfFormat,
    /// Two values in a register.
    pub packed: bool,
    pub flush: bool,
    pub saturate: bool,
    /// `.relu`: negative results become 0.
    pub relu: bool,
    pub to: WordRegister,
    pub inputs: [WordRegister; 3],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Conversion {
    pub to: Scalar,
    pub from: Scalar,
    pub rounding: Rounding,
    /// `.rni`, `.rzi`, …: a float result is a whole number.
    pub integral: bool,
    pub flush: bool,
    pub saturate: bool,
    pub relu: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    /// The same, or true when a NaN is there.
    EqualUnordered,
    NotEqualUnordered,
    LessUnordered,
    LessEqualUnordered,
    GreaterUnordered,
    GreaterEqualUnordered,
    /// Neither is NaN.
    Number,
    /// One is NaN.
    NotNumber,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BooleanOperation {
    And,
    Or,
    Xor,
    Not,
    Move,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SetPredicate {
    pub comparison: Comparison,
    pub scalar: Scalar,
    pub flush: bool,
    pub a: LaneRegister,
    pub b: LaneRegister,
    pub to: Option<PredicateRegister>,
    /// Gets the complement (`p|q`).
    pub complement: Option<PredicateRegister>,
    /// Combined with this predicate, which may be negated.
    pub combine: Option<(BooleanOperation, PredicateRegister, bool)>,
}

/// Where an address points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    Generic,
    Global,
    Shared,
    /// `.shared::cluster`: shared memory of any block of the cluster.
    SharedCluster,
    Local,
    Parameter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub base: LaneRegister,
    pub offset: i64,
}

/// How an access takes part in ordering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ordering {
    /// An ordinary access: races count.
    Weak,
    /// `.volatile`, `.relaxed`: never a data race with its like, orders nothing by itself.
    Relaxed,
    Acquire,
    Release,
    AcquireRelease,
}

impl Ordering {
    pub(crate) fn acquires(self) -> bool {
        matches!(self, Self::Acquire | Self::AcquireRelease)
    }

    pub(crate) fn releases(self) -> bool {
        matches!(self, Self::Release | Self::AcquireRelease)
    }
}

/// A load or a store.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    pub space: Space,
    pub ordering: Ordering,
    pub address: Address,
    /// Bytes of one element.
    pub element: u8,
    pub signed: bool,
    /// One register an element; none where a loaded element is not wanted.
    pub registers: Box<[Option<LaneRegister>]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtomicKind {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exchange,
    CompareExchange,
    Increment,
    Decrement,
}

#[derive(Clone, Debug)]
pub(crate) struct Atomic {
    pub kind: AtomicKind,
    pub space: Space,
    pub ordering: Ordering,
    pub scalar: Scalar,
    /// `f16x2`, `bf16x2`
    pub packed: bool,
    pub address: Address,
    pub to: Option<LaneRegister>,
    /// One element a register; more than one for `.v2`, `.v4` reductions.
    pub values: Box<[LaneRegister]>,
    /// The second operand of a compare-and-swap.
    pub replacement: Option<LaneRegister>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShuffleMode {
    Butterfly,
    Index,
    Up,
    Down,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Shuffle {
    pub mode: ShuffleMode,
    pub to: Option<WordRegister>,
    pub in_range: Option<PredicateRegister>,
    pub value: WordRegister,
    pub lane: WordRegister,
    pub clamp: WordRegister,
    pub members: WordRegister,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VoteMode {
    All,
    Any,
    Uniform,
    Ballot(WordRegister),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Vote {
    pub mode: VoteMode,
    pub to: Option<PredicateRegister>,
    pub predicate: PredicateRegister,
    pub negated: bool,
    pub members: WordRegister,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reduction {
    Add,
    MinSigned,
    MaxSigned,
    MinUnsigned,
    MaxUnsigned,
    And,
    Or,
    Xor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BarrierAction {
    /// Arrive and wait.
    Sync,
    /// Arrive and go on.
    Arrive,
    /// Arrive, wait, and combine a predicate over the block.
    Reduce(BooleanOperation),
    ReduceCount,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Barrier {
    pub action: BarrierAction,
    /// The whole warp must execute it together.
    pub aligned: bool,
    pub index: WordRegister,
    /// Number of threads that take part; all of the block's if absent.
    pub threads: Option<WordRegister>,
    pub predicate: Option<(PredicateRegister, bool)>,
    pub to_predicate: Option<PredicateRegister>,
    pub to_word: Option<WordRegister>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FenceKind {
    /// `membar`, `fence.sc`, `fence.acq_rel`
    Memory,
    /// `fence.proxy.async`: generic accesses become visible to the asynchronous proxy.
    ProxyAsync,
    /// `fence.mbarrier_init.release.cluster`
    MbarrierInit,
    /// Other proxies (tensor map, alias): no effect here.
    Other,
}

/// `cp.async`
#[derive(Clone, Debug)]
pub(crate) struct CopyAsync {
    pub destination: Address,
    pub source: Address,
    pub bytes: u8,
    pub source_bytes: Option<WordRegister>,
    /// Nothing is read where this predicate holds.
    pub ignore_source: Option<(PredicateRegister, bool)>,
}

/// What an operand of a matrix instruction is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MatrixElement {
    F16,
    BF16,
    F32,
    TF32,
}

/// `ldmatrix`, `stmatrix`
#[derive(Clone, Debug)]
pub(crate) struct MatrixMove {
    pub store: bool,
    pub transposed: bool,
    pub space: Space,
    pub address: Address,
    pub registers: Box<[WordRegister]>,
}

/// `mma.sync` with the m16n8 family of shapes.
#[derive(Clone, Debug)]
pub(crate) struct MatrixMultiply {
    /// Depth: 8 or 16.
    pub depth: u8,
    pub element: MatrixElement,
    pub accumulator: MatrixElement,
    pub d: Box<[WordRegister]>,
    pub a: Box<[WordRegister]>,
    pub b: Box<[WordRegister]>,
    pub c: Box<[WordRegister]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FragmentRole {
    A,
    B,
    C,
    D,
}

/// Sizes of a `wmma` operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FragmentShape {
    pub m: u8,
    pub n: u8,
    pub k: u8,
}

/// `wmma.load`, `wmma.store`
#[derive(Clone, Debug)]
pub(crate) struct FragmentMove {
    pub role: FragmentRole,
    pub shape: FragmentShape,
    pub column_major: bool,
    pub element: MatrixElement,
    pub space: Space,
    pub address: Address,
    /// Elements from one row (or column) to the next; tight if absent.
    pub stride: Option<WordRegister>,
    pub registers: Box<[WordRegister]>,
}

/// `wmma.mma`
#[derive(Clone, Debug)]
pub(crate) struct FragmentMultiply {
    pub shape: FragmentShape,
    pub element: MatrixElement,
    pub d_element: MatrixElement,
    pub c_element: MatrixElement,
    pub d: Box<[WordRegister]>,
    pub a: Box<[WordRegister]>,
    pub b: Box<[WordRegister]>,
    pub c: Box<[WordRegister]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MbarrierAction {
    Init {
        count: WordRegister,
    },
    Invalidate,
    Arrive {
        count: Option<WordRegister>,
        expect: Option<WordRegister>,
        drop: bool,
    },
    ExpectTransactions {
        bytes: WordRegister,
    },
    CompleteTransactions {
        bytes: WordRegister,
    },
    WaitParity {
        parity: WordRegister,
        blocking: bool,
        to: PredicateRegister,
    },
    WaitState {
        state: DoubleRegister,
        blocking: bool,
        to: PredicateRegister,
    },
    /// `cp.async.mbarrier.arrive`
    ArriveAfterCopies {
        increment: bool,
    },
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Mbarrier {
    pub action: MbarrierAction,
    pub space: Space,
    pub address: Address,
    pub state: Option<DoubleRegister>,
}

/// Where a bulk copy reports that it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BulkCompletion {
    Mbarrier(Address),
    Group,
}

/// `cp.async.bulk` without a tensor map.
#[derive(Clone, Debug)]
pub(crate) struct BulkCopy {
    pub destination_space: Space,
    pub destination: Address,
    pub source_space: Space,
    pub source: Address,
    pub bytes: WordRegister,
    pub completion: BulkCompletion,
    pub multicast: Option<WordRegister>,
    /// `cp.reduce.async.bulk`
    pub reduction: Option<(AtomicKind, Scalar)>,
}

/// `cp.async.bulk.tensor`, tiled.
#[derive(Clone, Debug)]
pub(crate) struct TensorCopy {
    pub rank: u8,
    pub map: Address,
    pub coordinates: Box<[WordRegister]>,
    pub shared: Address,
    pub completion: BulkCompletion,
    pub multicast: Option<WordRegister>,
    pub reduction: Option<AtomicKind>,
}

#[derive(Clone, Debug)]
pub(crate) enum WgmmaA {
    Shared { descriptor: DoubleRegister, transposed: bool },
    Registers(Box<[WordRegister]>),
}

/// `wgmma.mma_async`
#[derive(Clone, Debug)]
pub(crate) struct Wgmma {
    pub n: u16,
    pub element: MatrixElement,
    pub accumulator: MatrixElement,
    pub d: Box<[WordRegister]>,
    pub a: WgmmaA,
    pub b: DoubleRegister,
    pub b_transposed: bool,
    pub keep: PredicateRegister,
    pub negate_a: bool,
    pub negate_b: bool,
}

/// Remote stores that complete on an mbarrier: `st.async`.
#[derive(Clone, Debug)]
pub(crate) struct StoreAsync {
    pub address: Address,
    pub element: u8,
    pub registers: Box<[LaneRegister]>,
    pub mbarrier: Address,
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
        float: bool,
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
    /// Hints and register budgets: no effect on results.
    Nothing,
}

#[derive(Clone, Debug)]
pub(crate) struct Instruction {
    pub operation: Operation,
    /// Guarding predicate and whether it is negated.
    pub guard: Option<(PredicateRegister, bool)>,
    /// Every lane works on its own registers and nothing else.
    pub lane_wise: bool,
}

impl Operation {
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
                | Self::Nothing
        )
    }
}
