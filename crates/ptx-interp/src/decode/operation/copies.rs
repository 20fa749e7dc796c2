//! Asynchronous copies and the mbarriers that tell of them.

use super::*;

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
    /// Neither releases nor acquires.
    pub relaxed: bool,
    pub scope: Scope,
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

/// Remote stores that complete on an mbarrier: `st.async`.
#[derive(Clone, Debug)]
pub(crate) struct StoreAsync {
    pub address: Address,
    pub element: u8,
    pub registers: Box<[LaneRegister]>,
    pub mbarrier: Address,
}
