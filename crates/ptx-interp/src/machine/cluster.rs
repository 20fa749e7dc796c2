//! A cluster of blocks: its shared memory, its warps, and what is under way between them.

use std::collections::HashMap;

use super::{BulkGroups, ClusterBarrier, MbarrierState, NamedBarrier, Transfer, Warp};
use crate::order::{Causality, HappensBefore, Messages, Participant, SharedMemory};

pub(crate) struct Block {
    pub rank: u32,
    pub shared: SharedMemory,
    pub warps: Vec<Warp>,
    pub barriers: [NamedBarrier; 16],
    /// Registers that `setmaxnreg` has freed.
    pub free_registers: u32,
}

/// Blocks that share their shared memory and the order of their accesses.
pub(crate) struct Cluster {
    pub index: u64,
    pub order: HappensBefore,
    /// Kept only for kernels that wait for phases of mbarriers, and for nothing but these.
    pub causality: Option<Causality>,
    pub blocks: Vec<Block>,
    /// By block and offset.
    pub mbarriers: HashMap<(u32, u32), MbarrierState>,
    /// Offsets between which all mbarriers lie.
    pub mbarrier_span: std::ops::Range<u32>,
    /// Copies under way.
    pub transfers: Vec<Transfer>,
    pub bulk_groups: HashMap<Participant, BulkGroups>,
    /// What writes of shared memory have published, by block and offset.
    pub published: HashMap<(u32, u32), Messages>,
    /// The same for causality.
    pub causes: HashMap<(u32, u32), Messages>,
    pub cluster_barrier: ClusterBarrier,
}

impl Cluster {
    pub(crate) fn new(index: u64, order: HappensBefore, causality: Option<Causality>, blocks: Vec<Block>) -> Self {
        Self {
            index,
            order,
            causality,
            blocks,
            mbarriers: HashMap::new(),
            mbarrier_span: 0..0,
            transfers: Vec::new(),
            bulk_groups: HashMap::new(),
            published: HashMap::new(),
            causes: HashMap::new(),
            cluster_barrier: Default::default(),
        }
    }

    /// These lanes of a warp have waited for each other; `all` if no other lane is left.
    #[inline(always)]
    pub(crate) fn warp_met(&mut self, warp: u32, lanes: u32, all: bool) {
        if let Some(causality) = &mut self.causality {
            causality.warp_met(warp, lanes, all);
        }
    }
}

/// True where a block of the cluster has no thread left: its shared memory may belong to another block. Not for the block whose
/// warp is being executed.
pub(crate) fn has_exited(cluster: &Cluster, rank: u32) -> bool {
    cluster.blocks[rank as usize].warps.iter().all(|warp| warp.live() == 0)
}
