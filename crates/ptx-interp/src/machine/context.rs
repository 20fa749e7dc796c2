//! What is the same for all blocks of a launch.

use super::Cluster;
use crate::decode::Program;
use crate::diagnostics::{Site, ThreadId};
use crate::settings::Launch;

/// Everything about a launch that units of execution share.
pub(crate) struct LaunchContext<'l> {
    pub program: &'l Program,
    pub launch: &'l Launch,
    /// Addresses of the module's variables.
    pub variables: Vec<u64>,
    pub cluster: [u32; 3],
    pub clusters: [u32; 3],
    pub threads: u32,
    pub warps: u32,
    /// Addresses of shared memory end here.
    pub shared_end: u32,
}

impl LaunchContext<'_> {
    pub(crate) fn blocks_per_cluster(&self) -> u32 {
        self.cluster.iter().product()
    }

    /// Position of a cluster in the grid of clusters.
    pub(crate) fn cluster_position(&self, cluster: u64) -> [u32; 3] {
        let [x, y, _] = self.clusters.map(u64::from);
        [(cluster % x) as u32, (cluster / x % y) as u32, (cluster / x / y) as u32]
    }

    /// Position of a block in its cluster.
    pub(crate) fn rank_position(&self, rank: u32) -> [u32; 3] {
        let [x, y, _] = self.cluster;
        [rank % x, rank / x % y, rank / x / y]
    }

    pub(crate) fn block_position(&self, cluster: u64, rank: u32) -> [u32; 3] {
        let (outer, inner) = (self.cluster_position(cluster), self.rank_position(rank));
        std::array::from_fn(|axis| outer[axis] * self.cluster[axis] + inner[axis])
    }

    /// Who a participant of a cluster's happens-before is; asynchronous ones stand for the block's first thread.
    pub(crate) fn thread_id(&self, cluster: u64, participant: u32) -> ThreadId {
        let per_block = self.warps * 32;
        let all = per_block * self.blocks_per_cluster();
        // A warp's asynchronous reads are its first lane's doing; other asynchronous work the first thread's.
        let participant = if participant < all {
            participant
        } else if participant - all < all / 32 {
            (participant - all) * 32
        } else {
            0
        };
        let (rank, index) = (participant / per_block, participant % per_block);
        let [x, y, _] = self.launch.block;
        ThreadId {
            block: self.block_position(cluster, rank),
            thread: [index % x, index / x % y, index / x / y],
            warp: index / 32,
            lane: index % 32,
        }
    }

    /// A thread in a sentence, as seen by another one.
    pub(crate) fn thread_name(&self, cluster: &Cluster, participant: u32, seen_by: u32) -> String {
        self.name_in(cluster.index, participant, cluster.index, seen_by)
    }

    /// The same for threads of two clusters.
    pub(crate) fn name_in(&self, cluster: u64, participant: u32, of: u64, seen_by: u32) -> String {
        let id = self.thread_id(cluster, participant);
        let other = self.thread_id(of, seen_by);
        let [x, y, z] = id.thread;
        let thread = match self.launch.block {
            [_, 1, 1] => format!("thread {x}"),
            _ => format!("thread ({x},{y},{z})"),
        };
        if id.block == other.block {
            return thread;
        }
        let [x, y, z] = id.block;
        format!("{thread} of block ({x},{y},{z})")
    }

    pub(crate) fn site(&self, cluster: u32, participant: u32, pc: u32) -> Site {
        Site { pc, thread: self.thread_id(u64::from(cluster), participant) }
    }
}
