//! Runs a launch: checks its shape, shares its blocks out over threads, and puts together what they found.

use rayon::prelude::*;

use crate::address_space::SHARED_BASE;
use crate::counters::Counters;
use crate::coverage::{Coverage, CoverageCounts};
use crate::decode::Program;
use crate::diagnostics::{Finding, FindingKind, Findings, Missing};
use crate::machine::{LaunchContext, load_variables};
use crate::memory::Memory;
use crate::module::Kernel;
use crate::order::{LaunchHistory, Record};
use crate::schedule::{Unit, UnitOutcome};
use crate::settings::Launch;

/// Why a launch was refused; nothing ran.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
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
    /// What was executed, if [`Launch::coverage`] asked for it.
    pub coverage: Option<Coverage>,
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

/// Units merged at a time: a constant, so that no result depends on the number of threads.
const WAVE: u64 = 64;

impl Launch {
    /// Runs a kernel. Blocks run in parallel on rayon's threads; the result depends on the launch and the seed only.
    pub fn run(&self, kernel: &Kernel, memory: &mut Memory) -> Result<Report, LaunchError> {
        let program = &*kernel.program;
        let mut context = self.validate(program)?;
        context.variables = load_variables(&program.module, memory);
        let mut history = LaunchHistory::default();
        let mut findings = Findings::new(self.checks.max_findings);
        let mut counters = Counters::default();
        let mut covered: Option<CoverageCounts> = None;
        let mut completed = true;
        let total = context.clusters.iter().map(|&count| u64::from(count)).product::<u64>().min(self.first_clusters);
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
                let UnitOutcome {
                    findings: found,
                    counters: counted,
                    executions,
                    coverage,
                    changes,
                    completed: finished,
                } = outcome;
                findings.absorb(found);
                counters += &counted;
                match (&mut covered, coverage) {
                    (Some(all), Some(part)) => all.add(&part),
                    (all, part) => *all = all.take().or(part),
                }
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
                    let mistake = (FindingKind::GlobalRace, Missing::ReleaseAcquire);
                    findings.report(program, self.seed, mistake, at, with, || {
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
        let coverage = covered.map(|counts| Coverage::new(&kernel.program, counts));
        Ok(Report { findings: findings.into_entries(), counters, coverage, completed })
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
            variables: Vec::new(),
            cluster,
            clusters: std::array::from_fn(|axis| self.grid[axis] / cluster[axis]),
            threads: threads as u32,
            warps: (threads as u32).div_ceil(32),
            shared_end,
        })
    }
}
