//! Kinds of mutations.

use serde::Serialize;

/// What a mutation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MutationKind {
    /// Removes a barrier of a block, of some of its warps, or of a cluster.
    Barrier,
    /// Removes a warp's barrier.
    WarpSync,
    /// Removes a wait for asynchronous copies.
    CopyWait,
    /// Lets one more group of asynchronous copies be under way.
    WeakerCopyWait,
    /// Leaves asynchronous copies out of their group.
    Commit,
    /// Removes a fence.
    Fence,
    /// Does not ask ahead for what will be read: only time should depend on it.
    Prefetch,
    /// Goes on without what an mbarrier would have waited for.
    MbarrierWait,
    /// Does not arrive on an mbarrier, nor expect its bytes.
    Arrival,
    /// Expects fewer bytes on an mbarrier than the copies bring.
    ExpectedBytes,
    /// Keeps the registers that a warpgroup would have given or taken.
    Registers,
    /// Accesses memory whatever the predicate says.
    Guard,
    /// Copies whole chunks whatever the size operand says.
    CopyGuard,
    /// Adds 1 to a constant, or takes 1 away.
    Constant,
    /// Compares the other way round: `<` becomes `>=`.
    FlippedComparison,
    /// Moves the edge of a comparison by one: `<` becomes `<=`.
    MovedEdge,
    /// Takes the minimum for the maximum, and the other way round.
    MinimumMaximum,
    /// Shifts the other way.
    Shift,
    /// Computes in 32 bits what takes 64.
    Narrowed,
    /// Leaves out an operand: `a + b` becomes `a`.
    DroppedOperand,
    /// Swaps two operands.
    SwappedOperands,
    /// Adds where it multiplies and adds, or multiplies only.
    HalfFusedProduct,
    /// Subtracts where it adds, and the other way round.
    Sign,
    /// Does something exactly where its condition does not hold.
    NegatedCondition,
    /// Does something whatever its condition says.
    DroppedCondition,
    /// Relaxes an operation that acquires or releases.
    Semantics,
    /// Orders among fewer threads.
    Scope,
    /// Reads through a cache that does not see what the kernel writes.
    NonCoherent,
    /// Fences another kind of memory.
    FencedSpace,
    /// Expects one arrival more or fewer, or a warp more or fewer.
    Count,
    /// Waits for the other phase of an mbarrier.
    Parity,
}

impl MutationKind {
    /// What orders or guards, taken out or weakened in the text.
    pub const REMOVALS: [Self; 13] = [
        Self::Barrier,
        Self::WarpSync,
        Self::CopyWait,
        Self::WeakerCopyWait,
        Self::Commit,
        Self::Fence,
        Self::Prefetch,
        Self::MbarrierWait,
        Self::Arrival,
        Self::ExpectedBytes,
        Self::Registers,
        Self::Guard,
        Self::CopyGuard,
    ];

    /// What computes, computed otherwise; and order, weakened in its meaning.
    pub const CHANGES: [Self; 18] = [
        Self::Constant,
        Self::FlippedComparison,
        Self::MovedEdge,
        Self::MinimumMaximum,
        Self::Shift,
        Self::Narrowed,
        Self::DroppedOperand,
        Self::SwappedOperands,
        Self::HalfFusedProduct,
        Self::Sign,
        Self::NegatedCondition,
        Self::DroppedCondition,
        Self::Semantics,
        Self::Scope,
        Self::NonCoherent,
        Self::FencedSpace,
        Self::Count,
        Self::Parity,
    ];

    /// All of them.
    pub fn all() -> Vec<Self> {
        [&Self::REMOVALS[..], &Self::CHANGES].concat()
    }

    /// What is done, in words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Barrier => "barrier removed",
            Self::WarpSync => "warp barrier removed",
            Self::CopyWait => "wait for copies removed",
            Self::WeakerCopyWait => "one more group of copies not waited for",
            Self::Commit => "commit removed",
            Self::Fence => "fence removed",
            Self::Prefetch => "prefetch removed",
            Self::MbarrierWait => "wait on an mbarrier removed",
            Self::Arrival => "arrival on an mbarrier removed",
            Self::ExpectedBytes => "fewer bytes expected on an mbarrier",
            Self::Registers => "exchange of registers removed",
            Self::Guard => "guard of a memory access removed",
            Self::CopyGuard => "guard of a copy removed",
            Self::Constant => "constant changed by 1",
            Self::FlippedComparison => "comparison flipped",
            Self::MovedEdge => "edge of a comparison moved",
            Self::MinimumMaximum => "minimum and maximum exchanged",
            Self::Shift => "shifted the other way",
            Self::Narrowed => "computed in 32 bits",
            Self::DroppedOperand => "operand left out",
            Self::SwappedOperands => "operands swapped",
            Self::HalfFusedProduct => "half of a multiply-add left out",
            Self::Sign => "sum and difference exchanged",
            Self::NegatedCondition => "condition negated",
            Self::DroppedCondition => "condition left out",
            Self::Semantics => "acquire or release relaxed",
            Self::Scope => "scope narrowed",
            Self::NonCoherent => "read through the non-coherent cache",
            Self::FencedSpace => "another space fenced",
            Self::Count => "count changed",
            Self::Parity => "the other phase waited for",
        }
    }

    /// True for what changes the order of things, which may show under one schedule and not under another.
    pub const fn orders(self) -> bool {
        !matches!(
            self,
            Self::Constant
                | Self::FlippedComparison
                | Self::MovedEdge
                | Self::MinimumMaximum
                | Self::Shift
                | Self::Narrowed
                | Self::DroppedOperand
                | Self::SwappedOperands
                | Self::HalfFusedProduct
                | Self::Sign
        )
    }
}
