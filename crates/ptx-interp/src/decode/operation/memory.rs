//! Addresses, loads and stores, atomics.

use super::*;

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

/// The threads among which an access or a fence orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// `.cta`
    Block = 0,
    /// `.cluster`
    Cluster = 1,
    /// `.gpu` and `.sys`: nothing else runs on the interpreter's system.
    Device = 2,
}

impl Scope {
    pub(crate) const ALL: [Self; 3] = [Self::Block, Self::Cluster, Self::Device];

    pub(crate) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "cta" => Self::Block,
            "cluster" => Self::Cluster,
            "gpu" | "gl" | "sys" => Self::Device,
            _ => return None,
        })
    }
}

/// How an access takes part in races.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Manner {
    /// It races with every access that conflicts with it and is not ordered.
    #[default]
    Weak,
    /// As weak; moreover nothing of the same kernel may write the place, ordered or not.
    NonCoherent,
    /// As weak, through the asynchronous proxy.
    Asynchronous,
    /// Atomic among the threads of this scope: no race with its like.
    Strong(Scope),
}

impl Manner {
    /// The scope of a strong access.
    pub(crate) fn scope(self) -> Option<Scope> {
        match self {
            Self::Strong(scope) => Some(scope),
            Self::Weak | Self::NonCoherent | Self::Asynchronous => None,
        }
    }
}

/// A load or a store.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    pub space: Space,
    pub ordering: Ordering,
    pub scope: Scope,
    /// `ld.global.nc`: through a cache that no store of the same kernel reaches.
    pub non_coherent: bool,
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
    pub scope: Scope,
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

impl Access {
    #[inline(always)]
    pub(crate) fn manner(&self) -> Manner {
        match self.ordering {
            Ordering::Weak if self.non_coherent => Manner::NonCoherent,
            Ordering::Weak => Manner::Weak,
            _ => Manner::Strong(self.scope),
        }
    }
}
