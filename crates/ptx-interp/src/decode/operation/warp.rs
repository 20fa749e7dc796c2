//! What lanes and threads do together: shuffles, votes, barriers, fences.

use super::*;

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
    /// The distance of a butterfly that names all lanes, if that is known beforehand.
    pub across: Option<u8>,
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
    Memory(Scope),
    /// `fence.proxy.async`: generic accesses of these memories become visible to the asynchronous proxy.
    ProxyAsync { shared: bool, global: bool },
    /// `fence.mbarrier_init.release.cluster`
    MbarrierInit,
    /// Other proxies (tensor map, alias): no effect here.
    Other,
}
