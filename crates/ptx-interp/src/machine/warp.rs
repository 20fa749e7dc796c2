//! A warp: its registers, where its lanes are, and what they wait for.
//!
//! Divergence is a small set of splits, each a place in the program and the lanes that are there. The one that is
//! furthest behind runs, and splits that meet become one. There is no stack of reconvergence points: it would
//! deadlock where lanes of one warp wait for each other.

use super::{CallStacks, CopyQueue, InFlight, LocalMemory};
use crate::coverage::WarpTurns;
use crate::registers::{Registers, Words};

/// Why lanes cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    Nothing,
    /// Other lanes of the warp must arrive at the same instruction.
    Lanes,
    /// A block barrier, until its generation has passed.
    Barrier {
        index: u32,
        generation: u64,
    },
    /// A cluster barrier, until its generation has passed.
    Cluster {
        generation: u64,
    },
    /// Phases of mbarriers: the instruction is executed again when something has happened to them.
    Mbarrier,
    /// Bulk copies of these lanes.
    Bulk,
    /// Registers that other warps give back.
    Registers,
    /// Nothing: these lanes lag.
    Lagging,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Split {
    pub pc: u32,
    pub mask: u32,
    pub wait: Wait,
    /// The calls that led here: an index into the warp's [`CallStacks`]; 0 for none.
    pub stack: u32,
}

pub(crate) struct Warp {
    /// Number in its block.
    pub index: u32,
    pub registers: Registers,
    pub splits: Vec<Split>,
    /// Lanes that have exited, and those that never existed.
    pub exited: u32,
    pub local: LocalMemory,
    pub calls: CallStacks,
    pub turns: WarpTurns,
    pub copies: CopyQueue,
    /// Stamps of the warp's wgmma groups that are under way, oldest first.
    pub wgmma_groups: Vec<u32>,
    pub wgmma_open: bool,
    pub in_flight: InFlight,
    /// Registers per thread since the last `setmaxnreg`.
    pub register_share: u32,
    /// Changes with every wgmma: the warps of a warpgroup must end with the same.
    pub wgmma_trace: u64,
    /// Likewise for `setmaxnreg`.
    pub share_trace: u64,
    /// The last turn ended at an instruction that polls memory: another split should have a go.
    pub polled: bool,
    /// Instructions so far: what `%clock` tells.
    pub clock: u64,
    /// Generation of the cluster barrier that the warp last arrived at.
    pub cluster_generation: u64,
}

impl Warp {
    pub(crate) fn new(index: u32, registers: Registers, entry: u32, lanes: u32, local_bytes: usize) -> Self {
        Self {
            index,
            registers,
            splits: vec![Split { pc: entry, mask: lanes, wait: Wait::Nothing, stack: 0 }],
            exited: !lanes,
            local: LocalMemory::new(local_bytes),
            calls: CallStacks::default(),
            turns: WarpTurns::default(),
            copies: CopyQueue::default(),
            wgmma_groups: Vec::new(),
            wgmma_open: false,
            in_flight: InFlight::default(),
            register_share: 0,
            share_trace: 0,
            wgmma_trace: 0,
            polled: false,
            clock: 0,
            cluster_generation: 0,
        }
    }

    /// What stands in while a warp is out of its block, being executed.
    pub(crate) fn placeholder() -> Self {
        let registers = Registers { words: Vec::new(), doubles: Vec::new(), predicates: Vec::new() };
        Self {
            index: u32::MAX,
            registers,
            splits: Vec::new(),
            exited: u32::MAX,
            local: LocalMemory::default(),
            calls: CallStacks::default(),
            turns: WarpTurns::default(),
            copies: CopyQueue::default(),
            wgmma_groups: Vec::new(),
            wgmma_open: false,
            in_flight: InFlight::default(),
            register_share: 0,
            share_trace: 0,
            wgmma_trace: 0,
            polled: false,
            clock: 0,
            cluster_generation: 0,
        }
    }

    /// Whether this stands in for a warp that is being executed.
    pub(crate) fn is_away(&self) -> bool {
        self.index == u32::MAX
    }

    pub(crate) fn live(&self) -> u32 {
        !self.exited
    }

    pub(crate) fn is_runnable(&self) -> bool {
        self.splits.iter().any(|split| split.wait == Wait::Nothing)
    }

    /// Whether some lanes will go on by themselves, now or later.
    pub(crate) fn can_move(&self) -> bool {
        self.splits.iter().any(|split| matches!(split.wait, Wait::Nothing | Wait::Lagging))
    }

    /// Lanes that waited for others look again.
    pub(crate) fn wake(&mut self, matches: impl Fn(Wait) -> bool) {
        for split in &mut self.splits {
            if matches(split.wait) {
                split.wait = Wait::Nothing;
            }
        }
    }
}

/// Whether all live lanes execute this. A guard that keeps lanes out keeps the instruction from ever completing.
pub(crate) fn is_whole_warp(warp: &Warp, mask: u32) -> bool {
    mask == warp.live()
}

/// Lanes that name the same member mask in one instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    /// The mask that they name.
    pub members: u32,
    /// The lanes that are here and name it.
    pub lanes: u32,
}

impl Group {
    /// The groups among the lanes of a mask: tiles of a warp may execute one instruction, each for itself.
    #[inline]
    pub(crate) fn all(members: Words, mask: u32) -> impl Iterator<Item = Self> {
        let mut left = mask;
        std::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            let named = members[left.trailing_zeros() as usize];
            // Nearly always all lanes name the same.
            let differ = members.iter().fold(0, |differ, other| differ | (other ^ named));
            let mut same = u32::MAX;
            if differ != 0 {
                for (lane, other) in members.iter().enumerate() {
                    same &= !(u32::from(*other != named) << lane);
                }
            }
            let lanes = left & same;
            left &= !lanes;
            Some(Self { members: named, lanes })
        })
    }
}
