//! What would have ordered two accesses.

use std::fmt;

use super::FindingKind;

/// What is missing between two accesses, or before one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Missing {
    /// A barrier that threads of both warps take part in.
    Barrier,
    /// A barrier of the warp that both threads belong to.
    WarpBarrier,
    /// A wait for asynchronous work.
    Wait,
    /// `fence.proxy.async`
    ProxyFence,
    /// `wgmma.fence`
    MatrixFence,
    /// A fence after a relaxed read that has seen what the other thread published.
    Fence,
    /// A scope that holds both threads.
    Scope,
    /// A meeting of the warp between a wait and the arrival that lets the next phase begin.
    Meeting,
    /// A release after the one and an acquire before the other.
    ReleaseAcquire,
}

impl fmt::Display for Missing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Barrier => "a barrier between the two, such as `__syncthreads()`",
            Self::WarpBarrier => "a barrier of the warp between the two, such as `__syncwarp()`, or of the block if other warps touch it, too",
            Self::Wait => "a wait that covers the asynchronous work",
            Self::ProxyFence => "`fence.proxy.async` between the two",
            Self::MatrixFence => "`wgmma.fence` before the multiplication",
            Self::Fence => "a fence such as `__threadfence()` behind the read that saw the flag",
            Self::Scope => "a scope that holds both threads, such as `.gpu`",
            Self::Meeting => {
                "a meeting of the warp, such as `__syncwarp()`, between the wait and the arrival that lets the next phase begin"
            }
            Self::ReleaseAcquire => "a release behind the first and an acquire before the second",
        })
    }
}

/// A kind of finding, and what is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mistake {
    pub kind: FindingKind,
    pub missing: Option<Missing>,
}

impl From<FindingKind> for Mistake {
    /// With what is missing wherever this kind is found.
    fn from(kind: FindingKind) -> Self {
        let missing = match kind {
            FindingKind::AsyncReadBeforeWait => Some(Missing::Wait),
            FindingKind::MissingProxyFence => Some(Missing::ProxyFence),
            FindingKind::MissingMatrixFence => Some(Missing::MatrixFence),
            _ => None,
        };
        Self { kind, missing }
    }
}

impl From<(FindingKind, Missing)> for Mistake {
    fn from((kind, missing): (FindingKind, Missing)) -> Self {
        Self { kind, missing: Some(missing) }
    }
}
