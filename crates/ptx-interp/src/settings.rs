//! What a user asks for: a launch's shape, its checks and its limits.

/// What to look for. Bounds, alignment, deadlocks and misuse are always found: nothing can go on after them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks {
    /// Races in shared memory, and asynchronous copies touched too early.
    pub shared_races: bool,
    /// Races in global memory, inside a block and between blocks.
    pub global_races: bool,
    /// Reads of shared memory that nothing has written. Needs `shared_races`.
    pub uninitialized_shared: bool,
    /// Reads of global memory that neither the host nor the kernel wrote.
    pub uninitialized_global: bool,
    /// Reads of local memory that the thread has not written.
    pub uninitialized_local: bool,
    /// Phases of mbarriers that a thread may miss because nothing makes others wait until it has looked.
    pub missed_phases: bool,
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
            uninitialized_local: true,
            missed_phases: true,
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
            uninitialized_local: false,
            missed_phases: false,
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
    /// Local memory of a thread, the frames of its calls included, in bytes.
    pub local_bytes_per_thread: u32,
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
            local_bytes_per_thread: 524_288,
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
    /// The packed parameter block, as [`Kernel::parameters`](crate::Kernel::parameters) lays it out.
    pub params: Vec<u8>,
    /// Chooses the schedule. The same seed gives the same run.
    pub seed: u64,
    /// What to look for.
    pub checks: Checks,
    /// What the device allows.
    pub limits: Limits,
    /// Whether lanes lag: after some waits for an mbarrier's phase and some branches, lanes that the seed chooses stay behind until
    /// all others of the cluster are stuck or a random time has passed. A device may do that; without it, lanes of a warp go
    /// on together where they can, and counts of instructions do not depend on the seed.
    pub stragglers: bool,
    /// Whether to note which instructions, branches and turns of loops are executed, for [`Report::coverage`].
    ///
    /// [`Report::coverage`]: crate::Report::coverage
    pub coverage: bool,
    /// How many clusters of blocks run, the first of the grid, which is as large as it is to them: a look at a launch that takes too
    /// long. All run by default.
    pub first_clusters: u64,
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
            stragglers: false,
            coverage: false,
            first_clusters: u64::MAX,
        }
    }
}
