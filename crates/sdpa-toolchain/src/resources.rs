//! What kernels cost: registers, spills and shared memory, and how many blocks a multiprocessor then holds.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sdpa_core::{Architecture, Budget, Device, Error, Generation, Specialisation};
use serde::{Deserialize, Serialize};

use crate::answers::ask_ptxas;
use crate::ptxas::read_ptxas;
pub use crate::ptxas::{Assembled, assemble_ptx, machine_code, parse_ptxas};
use crate::{KernelTexts, ptx_hash};

/// What one multiprocessor holds: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Multiprocessor {
    /// Name as ptxas knows it.
    pub name: &'static str,
    /// Resident warps.
    pub warps: u32,
    /// Resident blocks.
    pub blocks: u32,
    /// 32-bit registers.
    pub registers: u32,
    /// Bytes of shared memory of all blocks.
    pub shared_bytes: u32,
}

/// Ampere (A100), Ada (L4) and Hopper (H100, H200).
pub const ARCHITECTURES: [Multiprocessor; 3] = [
    Multiprocessor { name: "sm_80", warps: 64, blocks: 32, registers: 65536, shared_bytes: 164 * 1024 },
    Multiprocessor { name: "sm_89", warps: 48, blocks: 24, registers: 65536, shared_bytes: 100 * 1024 },
    Multiprocessor { name: "sm_90a", warps: 64, blocks: 32, registers: 65536, shared_bytes: 228 * 1024 },
];

impl Multiprocessor {
    /// The table's entry for a compute capability.
    pub fn of((major, minor): (u32, u32)) -> Option<Self> {
        let name = format!("sm_{major}{minor}");
        ARCHITECTURES.into_iter().find(|arch| arch.name.trim_end_matches('a') == name)
    }

    /// True where a kernel of this virtual architecture runs here.
    pub fn runs(&self, kernel: Architecture) -> bool {
        match kernel {
            Architecture::Compute80 => true,
            Architecture::Compute90a => self.name == "sm_90a",
        }
    }

    /// Resident blocks, by the rules of NVIDIA's occupancy calculator (CUDA C++ Best Practices Guide, "Occupancy";
    /// allocation units as in `cuda_occupancy.h` for compute capability 8.0 to 9.0): registers are given out to whole
    /// warps in units of 256 and warps to four sub-partitions evenly; shared memory comes in units of 128 bytes and
    /// every block takes 1 KB more for the system.
    pub fn resident_blocks(&self, threads: u32, registers: u32, shared_bytes: u32) -> u32 {
        const WARP: u32 = 32;
        const REGISTER_UNIT: u32 = 256;
        const SUB_PARTITIONS: u32 = 4;
        const SHARED_UNIT: u32 = 128;
        const RESERVED_SHARED: u32 = 1024;

        let warps = threads.div_ceil(WARP).max(1);
        let by_warps = self.warps / warps;
        let by_registers = match registers {
            0 => self.blocks,
            registers => {
                let per_warp = (registers * WARP).next_multiple_of(REGISTER_UNIT);
                let resident = self.registers / SUB_PARTITIONS / per_warp * SUB_PARTITIONS;
                // A launch is refused as though every sub-partition held as many of the block's warps.
                let launches = per_warp * warps.next_multiple_of(SUB_PARTITIONS) <= self.registers;
                if launches { resident / warps } else { 0 }
            }
        };
        let by_shared = self.shared_bytes / (shared_bytes + RESERVED_SHARED).next_multiple_of(SHARED_UNIT);
        self.blocks.min(by_warps).min(by_registers).min(by_shared)
    }
}

/// True where ptxas says that it could not leave wgmma asynchronous as written: it made products wait for one another
/// (C7509 to C7516, "serialized"), or the kernel uses a product that it did not wait for and ptxas put the wait in (C7517).
/// An injected `warpgroup.arrive` (C7519) is harmless: it costs nothing where registers are settled anyway.
fn spoils_wgmma(warning: &str) -> bool {
    warning.contains("serialized") || warning.contains("warpgroup.wait is injected")
}

/// One kernel on one architecture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// `v2b/f16_d64_s2`.
    pub kernel: String,
    /// `sm_80`, `sm_89` or `sm_90a`.
    pub architecture: String,
    /// Threads a block.
    pub threads: u32,
    /// Registers a thread.
    pub registers: u32,
    /// Bytes a thread spills.
    pub spill_bytes: u32,
    /// Bytes of static shared memory a block.
    pub static_shared_bytes: u32,
    /// Bytes of dynamic shared memory a block.
    pub dynamic_shared_bytes: u32,
    /// Blocks that a multiprocessor holds; 0 where not even one fits.
    pub blocks_per_multiprocessor: u32,
    /// What ptxas warns of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The [hash](crate::ptx_hash) of the PTX that costs this; empty where it is not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ptx: String,
}

impl Cost {
    /// What a kernel costs where it was assembled to this.
    pub fn new(kernel: &Specialisation, arch: &Multiprocessor, assembled: Assembled) -> Self {
        let shared = assembled.static_shared_bytes + kernel.shared_bytes;
        Self {
            kernel: kernel.to_string(),
            architecture: arch.name.to_owned(),
            threads: kernel.threads,
            registers: assembled.registers,
            spill_bytes: assembled.spill_bytes,
            static_shared_bytes: assembled.static_shared_bytes,
            dynamic_shared_bytes: kernel.shared_bytes,
            blocks_per_multiprocessor: arch.resident_blocks(kernel.threads, assembled.registers, shared),
            warnings: assembled.warnings,
            ptx: String::new(),
        }
    }

    /// True if both cost the same, whatever PTX they were made of.
    pub fn is_as(&self, other: &Self) -> bool {
        *self == Self { ptx: self.ptx.clone(), ..other.clone() }
    }

    /// Static and dynamic shared memory together.
    pub fn shared_bytes(&self) -> u32 {
        self.static_shared_bytes + self.dynamic_shared_bytes
    }

    /// What is over the generation's budget, in words; empty where nothing is. No budget allows products of warpgroups that
    /// wait for one another.
    pub fn over(&self, budget: &Budget) -> Vec<String> {
        let costs = [
            ("registers", self.registers, budget.registers),
            ("spill bytes", self.spill_bytes, budget.spill_bytes),
            ("bytes of shared memory", self.shared_bytes(), budget.shared_bytes),
        ]
        .into_iter()
        .filter(|(_, found, allowed)| found > allowed)
        .map(|(what, found, allowed)| format!("{found} {what}, {allowed} allowed"));
        costs.chain(self.warnings.iter().filter(|warning| spoils_wgmma(warning)).cloned()).collect()
    }

    /// What is other than `before`, in words; empty where nothing is.
    fn changes_from(&self, before: &Self) -> Vec<String> {
        let numbers = [
            ("threads", before.threads, self.threads),
            ("registers", before.registers, self.registers),
            ("spill bytes", before.spill_bytes, self.spill_bytes),
            ("bytes of static shared memory", before.static_shared_bytes, self.static_shared_bytes),
            ("bytes of dynamic shared memory", before.dynamic_shared_bytes, self.dynamic_shared_bytes),
            ("blocks a multiprocessor", before.blocks_per_multiprocessor, self.blocks_per_multiprocessor),
        ];
        let changed = numbers.into_iter().filter(|(_, before, now)| before != now);
        let changed = changed.map(|(what, before, now)| format!("{what} {before} → {now}"));
        let warnings = (before.warnings != self.warnings).then(|| "other warnings".to_owned());
        changed.chain(warnings).collect()
    }

    /// What got worse than `before`, in words; empty where nothing did.
    pub fn worse_than(&self, before: &Self) -> Vec<String> {
        let grew = [
            ("registers", before.registers, self.registers),
            ("spill bytes", before.spill_bytes, self.spill_bytes),
            ("bytes of shared memory", before.shared_bytes(), self.shared_bytes()),
            ("ptxas warnings", before.warnings.len() as u32, self.warnings.len() as u32),
        ]
        .into_iter()
        .filter(|(_, before, now)| now > before);
        let shrank = [("blocks a multiprocessor", before.blocks_per_multiprocessor, self.blocks_per_multiprocessor)]
            .into_iter()
            .filter(|(_, before, now)| now < before);
        grew.chain(shrank).map(|(what, before, now)| format!("{what} {before} → {now}")).collect()
    }
}

/// Why there is no table.
#[derive(Debug, thiserror::Error)]
pub enum ResourceError {
    /// A kernel has no PTX or does not load.
    #[error(transparent)]
    Kernel(#[from] Error),
    /// ptxas could not be run.
    #[error("{}: {source}", path.display())]
    System {
        /// What was run or written.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// ptxas refuses a kernel.
    #[error("ptxas refuses {kernel} for {architecture}: {log}")]
    Refused {
        /// Which specialisation.
        kernel: String,
        /// For which architecture.
        architecture: &'static str,
        /// Its first words.
        log: String,
    },
    /// ptxas says nothing that could be read.
    #[error("ptxas says nothing of {kernel}'s registers for {architecture}: is it another version's output?")]
    Unreadable {
        /// Which specialisation.
        kernel: String,
        /// For which architecture.
        architecture: &'static str,
    },
    /// ptxas wrote something that holds no machine code.
    #[error("what ptxas made of {kernel} for {architecture} holds no machine code")]
    NoCode {
        /// Which specialisation.
        kernel: String,
        /// For which architecture.
        architecture: &'static str,
    },
}

/// Kernels that belong together, and what they may cost: a generation's, or those that are no generation.
#[derive(Clone, Copy, Debug)]
pub struct KernelSet<'a> {
    /// The generation's id, or the pack's.
    pub id: &'static str,
    /// The kernels, in the order of their pack.
    pub kernels: &'a [Specialisation],
    /// What each of them may cost.
    pub budget: Budget,
}

impl From<&Generation> for KernelSet<'static> {
    fn from(generation: &Generation) -> Self {
        Self { id: generation.id, kernels: generation.specialisations, budget: generation.budget }
    }
}

/// Runs ptxas over every kernel of these sets for every architecture that runs it, on every core; `progress` hears each
/// kernel's name when it is done.
///
/// # Errors
/// The first [`ResourceError`], in the table's order.
pub fn assemble(
    ptxas: &Path,
    sets: &[KernelSet<'_>],
    texts: &KernelTexts,
    progress: impl Fn(&Specialisation) + Sync,
) -> Result<Vec<Cost>, ResourceError> {
    let kernels: Vec<&Specialisation> = sets.iter().flat_map(|set| set.kernels).collect();
    let costs = kernels.par_iter().map(|kernel| {
        let costs = assemble_one(ptxas, kernel, texts);
        progress(kernel);
        costs
    });
    // In order, so that the first error is always the same one.
    let costs: Vec<Vec<Cost>> = costs.collect::<Vec<_>>().into_iter().collect::<Result<_, _>>()?;
    Ok(costs.concat())
}

/// One kernel on every architecture that runs it. What this ptxas was asked before it is not asked again (`target/ptxas`).
///
/// # Errors
/// The first [`ResourceError`].
pub fn assemble_one(ptxas: &Path, kernel: &Specialisation, texts: &KernelTexts) -> Result<Vec<Cost>, ResourceError> {
    let ptx = texts.of(kernel)?;
    let architectures = ARCHITECTURES.iter().filter(|arch| arch.runs(kernel.architecture));
    let hash = ptx_hash(ptx);
    let cost = |arch: &Multiprocessor| {
        let (said, _) = ask_ptxas(ptxas, kernel, ptx, arch.name)?;
        Ok(Cost { ptx: hash.clone(), ..Cost::new(kernel, arch, read_ptxas(kernel, arch, &said)?) })
    };
    architectures.map(cost).collect()
}

/// Asks the device's own compiler; `None` where the device has none or is no architecture of the table.
///
/// # Errors
/// Kernels that do not load.
pub fn ask_device(device: &dyn Device, sets: &[KernelSet<'_>]) -> Result<Option<Vec<Cost>>, ResourceError> {
    let Some(arch) = Multiprocessor::of(device.limits().compute_capability) else { return Ok(None) };
    let mut costs = Vec::new();
    for kernel in sets.iter().flat_map(|set| set.kernels) {
        if !arch.runs(kernel.architecture) {
            continue;
        }
        let Some(found) = device.resources(kernel)? else { return Ok(None) };
        let assembled = Assembled {
            registers: found.registers,
            // The driver does not tell spills from indexed arrays; the kernels have no use for either.
            spill_bytes: found.local_bytes,
            static_shared_bytes: found.static_shared_bytes,
            warnings: Vec::new(),
        };
        costs.push(Cost::new(kernel, &arch, assembled));
    }
    Ok(Some(costs))
}

/// The budget of the set that a row's kernel belongs to.
pub fn budget_of(sets: &[KernelSet<'_>], cost: &Cost) -> Option<Budget> {
    let owns = |set: &&KernelSet<'_>| set.kernels.iter().any(|kernel| kernel.to_string() == cost.kernel);
    sets.iter().find(owns).map(|owner| owner.budget)
}

/// What is over its set's budget, a line each; empty where nothing is.
pub fn over_budget(sets: &[KernelSet<'_>], costs: &[Cost]) -> Vec<String> {
    let over = costs.iter().flat_map(|cost| {
        let over = budget_of(sets, cost).map(|budget| cost.over(&budget)).unwrap_or_default();
        over.into_iter().map(|over| format!("{} {}: {over}", cost.kernel, cost.architecture))
    });
    over.collect()
}

/// How `now` compares with the committed `before`: what got worse, and what is better or other than recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drift {
    /// Costs that grew, one line each.
    pub worse: Vec<String>,
    /// True where the record should be written anew although nothing got worse.
    pub outdated: bool,
}

/// Holds costs to a record that may only improve.
pub fn drift(before: &[Cost], now: &[Cost]) -> Drift {
    let recorded = |cost: &Cost| {
        before.iter().find(|before| before.kernel == cost.kernel && before.architecture == cost.architecture)
    };
    let worse = now
        .iter()
        .filter_map(|cost| {
            let worse = cost.worse_than(recorded(cost)?);
            (!worse.is_empty()).then(|| format!("{} {}: {}", cost.kernel, cost.architecture, worse.join(", ")))
        })
        .collect();
    let is_as = before.len() == now.len() && before.iter().zip(now).all(|(before, now)| before.is_as(now));
    Drift { worse, outdated: !is_as }
}

/// What changed between two lists of costs, a line for each kernel on each architecture: better, worse, new or gone.
pub fn differences(before: &[Cost], now: &[Cost]) -> Vec<String> {
    let same = |left: &Cost, right: &Cost| left.kernel == right.kernel && left.architecture == right.architecture;
    let name = |cost: &Cost| format!("{} {}", cost.kernel, cost.architecture);
    let changed = now.iter().filter_map(|cost| match before.iter().find(|before| same(before, cost)) {
        None => Some(format!("{}: new, {} registers", name(cost), cost.registers)),
        Some(before) if before.is_as(cost) => None,
        Some(before) => Some(format!("{}: {}", name(cost), cost.changes_from(before).join(", "))),
    });
    let gone = before.iter().filter(|before| now.iter().all(|cost| !same(before, cost)));
    changed.chain(gone.map(|cost| format!("{}: gone", name(cost)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sdpa_core::PackedPtx;

    /// Against NVIDIA's occupancy calculator (the spreadsheet that toolkits before 12 carried, and Nsight Compute).
    #[test]
    fn resident_blocks_follow_the_occupancy_rules() {
        let [a100, l4, h200] = ARCHITECTURES;
        // Whole occupancy: 32 registers, 256 threads.
        assert_eq!([a100, l4, h200].map(|arch| arch.resident_blocks(256, 32, 0)), [8, 6, 8]);
        // 72 registers: 28 warps, so 3 blocks of 8.
        assert_eq!(a100.resident_blocks(256, 72, 0), 3);
        // 128 registers: 16 warps.
        assert_eq!(h200.resident_blocks(256, 128, 0), 2);
        // 168 registers, 3 warp groups: 12 warps are one block.
        assert_eq!(h200.resident_blocks(384, 168, 200 * 1024), 1);
        // Shared memory with its 1 KB: 2 × 63 488 + 2 × 1024 do not fit 100 KB, and twice 113 KB just fill 228 KB.
        assert_eq!(l4.resident_blocks(256, 64, 63_488), 1);
        assert_eq!([h200.resident_blocks(256, 64, 113 * 1024), h200.resident_blocks(256, 64, 113 * 1024 + 1)], [2, 1]);
        // What fits nowhere.
        assert_eq!(l4.resident_blocks(256, 64, 100 * 1024), 0);
        // At most 32 blocks, however small.
        assert_eq!(h200.resident_blocks(32, 16, 0), 32);
    }

    static PTX: PackedPtx = PackedPtx::new("v9", &[]);

    static KERNELS: &[Specialisation] = &[Specialisation {
        source: "v9.cu",
        ptx: &PTX,
        name: "f16_d64",
        architecture: Architecture::Compute80,
        defines: &[],
        threads: 256,
        shared_bytes: 63_488,
        boxes: None,
    }];

    const SET: KernelSet<'static> = KernelSet {
        id: "v9",
        kernels: KERNELS,
        budget: Budget { registers: 72, shared_bytes: 96 * 1024, spill_bytes: 0 },
    };

    fn cost(registers: u32, spill_bytes: u32) -> Cost {
        let assembled = Assembled { registers, spill_bytes, ..Assembled::default() };
        Cost::new(&KERNELS[0], &ARCHITECTURES[1], assembled)
    }

    #[test]
    fn what_is_over_budget_is_said() {
        let costs = [cost(72, 0), cost(80, 8)];
        assert!(over_budget(&[SET], &costs[..1]).is_empty());
        let over = over_budget(&[SET], &costs);
        assert_eq!(over, ["v9/f16_d64 sm_89: 80 registers, 72 allowed", "v9/f16_d64 sm_89: 8 spill bytes, 0 allowed"]);
    }

    #[test]
    fn the_record_may_only_improve() {
        let same = drift(&[cost(72, 0)], &[cost(72, 0)]);
        assert_eq!(same, Drift::default());
        let better = drift(&[cost(72, 0)], &[cost(64, 0)]);
        assert_eq!(better, Drift { worse: vec![], outdated: true });
        let worse = drift(&[cost(64, 0)], &[cost(168, 4)]);
        assert_eq!(worse.worse, ["v9/f16_d64 sm_89: registers 64 → 168, spill bytes 0 → 4"]);
        assert!(drift(&[], &[cost(72, 0)]).worse.is_empty());
    }

    #[test]
    fn every_difference_is_told() {
        assert!(differences(&[cost(72, 0)], &[cost(72, 0)]).is_empty());
        assert_eq!(
            differences(&[cost(72, 0)], &[cost(64, 4)]),
            ["v9/f16_d64 sm_89: registers 72 → 64, spill bytes 0 → 4"]
        );
        assert_eq!(differences(&[], &[cost(72, 0)]), ["v9/f16_d64 sm_89: new, 72 registers"]);
        assert_eq!(differences(&[cost(72, 0)], &[]), ["v9/f16_d64 sm_89: gone"]);
    }
}
