//! A launch: its shape, its checks, its limits, and what comes back.

use rayon::prelude::*;

use crate::address_space::SHARED_BASE;
use crate::counters::{Counters, Executions};
use crate::decode::Program;
use crate::diagnostics::{Finding, FindingKind, Findings};
use crate::global_view::{LaunchHistory, Record};
use crate::memory::Memory;
use crate::module::Kernel;
use crate::schedule::{Unit, UnitOutcome};

/// What to look for. Bounds, alignment, deadlocks and misuse are always found: nothing can go on after them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks {
    /// Races in shared memory, and asynchronous copies touched too early.
    pub shared_races: bool,
    /// Races in global memory, inside a block and between blocks.
    pub global_races: bool,
    /// Reads of shared memory that nobody wrote. Needs `shared_races`.
    pub uninitialized_shared: bool,
    /// Reads of global memory that neither the host nor the kernel wrote.
    pub uninitialized_global: bool,
    /// Different findings (by kind and lines) that are kept; more are only counted as stopping nothing.
    pub max_findings: usize,
}

impl Default for Checks {
    fn default() -> Self {
        Self::all()
    }
}

impl Checks {
    /// Everything.
    pub fn all() -> Self {
        Self {
            shared_races: true,
            global_races: true,
            uninitialized_shared: true,
            uninitialized_global: true,
            max_findings: 64,
        }
    }

    /// Nothing beyond what stops a kernel: for speed.
    pub fn none() -> Self {
        Self {
            shared_races: false,
            global_races: false,
            uninitialized_shared: false,
            uninitialized_global: false,
            max_findings: 64,
        }
    }
}

/// What the device allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Shared memory of a block, static and dynamic, in bytes.
    pub shared_bytes_per_block: u32,
    /// Threads of a block.
    pub threads_per_block: u32,
    /// Blocks of a cluster.
    pub blocks_per_cluster: u32,
    /// Warp instructions that one unit of execution (a block, a cluster, or all blocks that talk to each other) may
    /// take before it counts as a livelock.
    pub instructions: u64,
    /// Blocks that run side by side when blocks talk to each other.
    pub resident_blocks: u32,
}

impl Default for Limits {
    /// An H100 or H200.
    fn default() -> Self {
        Self {
            shared_bytes_per_block: 232_448,
            threads_per_block: 1024,
            blocks_per_cluster: 8,
            instructions: 4_000_000_000,
            resident_blocks: 132,
        }
    }
}

/// One launch of a kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Blocks of a cluster; none means clusters of one block, or what the kernel requires.
    pub cluster: Option<[u32; 3]>,
    /// Dynamic shared memory in bytes.
    pub dynamic_shared: u32,
    /// The packed parameter block, as [`Kernel::parameters`] lays it out.
    pub params: Vec<u8>,
    /// Chooses the schedule. The same seed gives the same run.
    pub seed: u64,
    /// What to look for.
    pub checks: Checks,
    /// What the device allows.
    pub limits: Limits,
}

impl Launch {
    /// A launch with all checks, the default limits and seed 0.
    pub fn new(grid: [u32; 3], block: [u32; 3]) -> Self {
        Self {
            grid,
            block,
            cluster: None,
            dynamic_shared: 0,
            params: Vec::new(),
            seed: 0,
            checks: Checks::all(),
            limits: Limits::default(),
        }
    }
}

/// Why a launch was refused; nothing ran.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The parameter block has the wrong size.
    #[error("kernel `{kernel}` takes {expected} bytes of parameters, {found} were given")]
    Parameters {
        /// The kernel.
        kernel: String,
        /// Size of its parameter block.
        expected: usize,
        /// Size given.
        found: usize,
    },
    /// The block has more threads than the device or the kernel allows, or none, or another shape than required.
    #[error("a block of {block:?} threads is not allowed: {reason}")]
    Block {
        /// The block.
        block: [u32; 3],
        /// Which limit it breaks.
        reason: String,
    },
    /// The grid is empty or too large.
    #[error("a grid of {grid:?} blocks is not allowed")]
    Grid {
        /// The grid.
        grid: [u32; 3],
    },
    /// The cluster does not divide the grid, or is too large.
    #[error("clusters of {cluster:?} blocks are not allowed: {reason}")]
    Cluster {
        /// The cluster.
        cluster: [u32; 3],
        /// Which limit it breaks.
        reason: String,
    },
    /// Static and dynamic shared memory together are too large.
    #[error("{requested} bytes of shared memory a block; the limit is {limit}")]
    SharedMemory {
        /// Static and dynamic.
        requested: u32,
        /// What the device has.
        limit: u32,
    },
}

/// What a launch found and counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Mistakes, the first unit's first; empty for a right kernel.
    pub findings: Vec<Finding>,
    /// What was executed.
    pub counters: Counters,
    /// Whether every block ran to its end. If not, memory holds what was written until then.
    pub completed: bool,
}

impl Report {
    /// Nothing was found and everything ran.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty() && self.completed
    }

    /// The findings of a kind.
    pub fn of_kind(&self, kind: FindingKind) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |finding| finding.kind == kind)
    }
}

/// Everything about a launch that units of execution share.
pub(crate) struct LaunchContext<'l> {
    pub program: &'l Program,
    pub launch: &'l Launch,
    pub cluster: [u32; 3],
    pub clusters: [u32; 3],
    pub threads: u32,
    pub warps: u32,
    /// Addresses of shared memory end here.
    pub shared_end: u32,
}

/// Units merged at a time: a constant, so that no result depends on the number of threads.
const WAVE: u64 = 64;

impl Launch {
    /// Runs a kernel. Blocks run in parallel on rayon's threads; the result depends on the launch and the seed only.
    pub fn run(&self, kernel: &Kernel, memory: &mut Memory) -> Result<Report, LaunchError> {
        let program = &*kernel.program;
        let context = self.validate(program)?;
        let mut history = LaunchHistory::default();
        let mut findings = Findings::new(self.checks.max_findings);
        let mut counters = Counters::default();
        let mut completed = true;
        let total = context.clusters.iter().map(|&count| u64::from(count)).product::<u64>();
        // Blocks that talk to each other are one unit; all others are units of their own.
        let step = if program.features.communicates { total } else { 1 };
        let mut next = 0;
        while next < total {
            let last = total.min(next.saturating_add(step.saturating_mul(WAVE)));
            let wave: Vec<std::ops::Range<u64>> =
                (next..last).step_by(step as usize).map(|first| first..first + step).collect();
            next = last;
            let base: &Memory = memory;
            let run = |clusters: &std::ops::Range<u64>| Unit::new(&context, base, clusters.clone()).run();
            // A single unit gains nothing from a hop to another thread.
            let outcomes: Vec<UnitOutcome> =
                if wave.len() == 1 { wave.iter().map(run).collect() } else { wave.par_iter().map(run).collect() };
            let mut stop = false;
            for outcome in outcomes {
                let UnitOutcome { findings: found, counters: counted, executions, changes, completed: finished } =
                    outcome;
                findings.absorb(found);
                counters += &counted;
                executions.classify(program, &mut counters);
                completed &= finished;
                stop |= !finished;
                let mut races = Vec::new();
                history.merge(memory, changes, self.checks.global_races && !program.features.communicates, |race| {
                    races.push(race)
                });
                for race in races {
                    let name = memory.buffers()[race.buffer].name.clone();
                    let site = |record: Record| context.site(record.cluster - 1, record.participant, record.pc());
                    let (at, with) = (site(race.at), Some(site(race.with)));
                    findings.report(program, self.seed, FindingKind::GlobalRace, at, with, || {
                        format!(
                            "blocks run at the same time, and one {} byte {} of `{name}` that another {}",
                            if race.at_is_write { "writes" } else { "reads" },
                            race.offset,
                            if race.with_is_write { "writes" } else { "reads" },
                        )
                    });
                }
            }
            // On a device, a fault in one block takes the launch down.
            if stop {
                break;
            }
        }
        Ok(Report { findings: findings.into_entries(), counters, completed })
    }

    fn validate<'l>(&'l self, program: &'l Program) -> Result<LaunchContext<'l>, LaunchError> {
        if self.params.len() != program.parameter_bytes {
            return Err(LaunchError::Parameters {
                kernel: program.name.clone(),
                expected: program.parameter_bytes,
                found: self.params.len(),
            });
        }
        let threads = self.block.iter().map(|&side| u64::from(side)).product::<u64>();
        let block_error = |reason: String| LaunchError::Block { block: self.block, reason };
        let limit = self.limits.threads_per_block.min(1024);
        if threads == 0 || threads > u64::from(limit) {
            return Err(block_error(format!("the device allows 1 to {limit} threads")));
        }
        if let Some(required) = program.required_threads
            && required != self.block
        {
            return Err(block_error(format!("the kernel requires {required:?}")));
        }
        if let Some(most) = program.max_threads {
            let most = most.iter().map(|&side| u64::from(side)).product::<u64>();
            if threads > most {
                return Err(block_error(format!("the kernel was compiled for at most {most} threads")));
            }
        }
        let [x, y, z] = self.grid;
        if x == 0 || y == 0 || z == 0 || x > i32::MAX as u32 || y > 65_535 || z > 65_535 {
            return Err(LaunchError::Grid { grid: self.grid });
        }
        let cluster = self.cluster.or(program.required_cluster).unwrap_or([1, 1, 1]);
        let cluster_error = |reason: String| LaunchError::Cluster { cluster, reason };
        if let (Some(asked), Some(required)) = (self.cluster, program.required_cluster)
            && asked != required
        {
            return Err(cluster_error(format!("the kernel requires {required:?}")));
        }
        let size = cluster.iter().map(|&side| u64::from(side)).product::<u64>();
        if size == 0 || size > u64::from(self.limits.blocks_per_cluster.min(16)) {
            return Err(cluster_error(format!("the device allows 1 to {} blocks", self.limits.blocks_per_cluster)));
        }
        if (0..3).any(|axis| !self.grid[axis].is_multiple_of(cluster[axis])) {
            return Err(cluster_error("they do not divide the grid".into()));
        }
        let dynamic_at = if self.dynamic_shared > 0 { program.dynamic_shared_at } else { program.static_shared_end };
        let shared_end = dynamic_at.saturating_add(self.dynamic_shared);
        let requested = shared_end - SHARED_BASE;
        if requested > self.limits.shared_bytes_per_block {
            return Err(LaunchError::SharedMemory { requested, limit: self.limits.shared_bytes_per_block });
        }
        Ok(LaunchContext {
            program,
            launch: self,
            cluster,
            clusters: std::array::from_fn(|axis| self.grid[axis] / cluster[axis]),
            threads: threads as u32,
            warps: (threads as u32).div_ceil(32),
            shared_end,
        })
    }
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
    pub(crate) fn thread_id(&self, cluster: u64, participant: u32) -> crate::diagnostics::ThreadId {
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
        crate::diagnostics::ThreadId {
            block: self.block_position(cluster, rank),
            thread: [index % x, index / x % y, index / x / y],
            warp: index / 32,
            lane: index % 32,
        }
    }

    pub(crate) fn site(&self, cluster: u32, participant: u32, pc: u32) -> crate::diagnostics::Site {
        crate::diagnostics::Site { pc, thread: self.thread_id(u64::from(cluster), participant) }
    }
}

pub(crate) fn new_executions(program: &Program) -> Executions {
    Executions::new(program.instructions.len())
}
