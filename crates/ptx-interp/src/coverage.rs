//! What of a kernel a launch has executed: instructions, basic blocks, both ways of branches, and turns of loops.

use std::sync::Arc;

use crate::decode::{Operation, Program};
use crate::diagnostics::{SourceLine, source_line, statement_text};
use crate::registers::LANES;

/// Counts of one unit of execution, by instruction.
#[derive(Clone, Debug, Default)]
pub(crate) struct CoverageCounts {
    /// Threads that executed it.
    executed: Vec<u64>,
    /// Threads that came by and were kept from it by its guard.
    skipped: Vec<u64>,
    /// For branches back: one bit for each number of turns seen, as in [`LoopCoverage::turns`].
    turns: Vec<u8>,
}

/// For each branch back that a warp has met: turns of its lanes since they came to the loop, cut off at 3.
#[derive(Clone, Debug, Default)]
pub(crate) struct WarpTurns(Vec<(u32, [u8; LANES])>);

impl CoverageCounts {
    pub(crate) fn new(instructions: usize) -> Self {
        Self { executed: vec![0; instructions], skipped: vec![0; instructions], turns: vec![0; instructions] }
    }

    /// An instruction that `together` have come to and whose guard lets `mask` through.
    pub(crate) fn note(&mut self, program: &Program, turns: &mut WarpTurns, pc: u32, together: u32, mask: u32) {
        let index = pc as usize;
        self.executed[index] += u64::from(mask.count_ones());
        self.skipped[index] += u64::from((together & !mask).count_ones());
        let instruction = &program.instructions[index];
        let Operation::Branch { target } = instruction.operation else { return };
        if target > pc {
            return;
        }
        let known = turns.0.iter().position(|(known, _)| *known == pc).unwrap_or_else(|| {
            turns.0.push((pc, [0; LANES]));
            turns.0.len() - 1
        });
        let of_lanes = &mut turns.0[known].1;
        for (lane, turned) in of_lanes.iter_mut().enumerate().filter(|(lane, _)| together >> lane & 1 == 1) {
            if mask >> lane & 1 == 1 {
                *turned = (*turned + 1).min(3);
                // A loop that is left elsewhere is known to have turned at least so often.
                if instruction.guard.is_none() {
                    self.turns[index] |= 1 << *turned;
                }
            } else {
                self.turns[index] |= 1 << *turned;
                *turned = 0;
            }
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        let add = |into: &mut Vec<u64>, from: &[u64]| into.iter_mut().zip(from).for_each(|(sum, part)| *sum += part);
        add(&mut self.executed, &other.executed);
        add(&mut self.skipped, &other.skipped);
        self.turns.iter_mut().zip(&other.turns).for_each(|(all, part)| *all |= part);
    }
}

/// What launches of one kernel have executed, from [`Launch::coverage`](crate::Launch::coverage).
///
/// Coverages of several launches of the same kernel add up with [`merge`](Self::merge). The parts are lists that a front
/// end can print beside the PTX or the CUDA source.
#[derive(Clone)]
pub struct Coverage {
    program: Arc<Program>,
    counts: CoverageCounts,
}

/// One statement of the PTX text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstructionCoverage {
    /// Line of the PTX text, from 1.
    pub ptx_line: u32,
    /// The statement.
    pub ptx: String,
    /// The CUDA line, with all frames of inlining.
    pub source: Option<SourceLine>,
    /// Threads that executed it.
    pub executed: u64,
    /// Threads that came by and were kept from it by its guard.
    pub skipped: u64,
}

/// Instructions that run one after the other, with no way in or out between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockCoverage {
    /// How many statements it has.
    pub statements: usize,
    /// Line of the PTX text where it begins.
    pub ptx_line: u32,
    /// The CUDA line of its first instruction.
    pub source: Option<SourceLine>,
    /// Threads that came to it.
    pub executed: u64,
}

/// A branch with a guard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchCoverage {
    /// Line of the PTX text.
    pub ptx_line: u32,
    /// The CUDA line.
    pub source: Option<SourceLine>,
    /// Threads that branched.
    pub taken: u64,
    /// Threads that went on.
    pub not_taken: u64,
}

/// A loop: a branch to an earlier instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoopCoverage {
    /// Line of the PTX text that the loop begins with.
    pub first_ptx_line: u32,
    /// Line of the branch back.
    pub ptx_line: u32,
    /// The CUDA line of the branch back.
    pub source: Option<SourceLine>,
    /// Whether a thread has branched back 0 times, once, twice, and more often before it left: its body ran once more
    /// than that. Compilers test before a loop whether it runs at all, with a branch of its own. Where the branch back has
    /// no guard, so that the loop is left elsewhere, a number means at least so often.
    pub turns: [bool; 4],
}

impl Coverage {
    pub(crate) fn new(program: &Arc<Program>, counts: CoverageCounts) -> Self {
        Self { program: Arc::clone(program), counts }
    }

    /// The kernel.
    pub fn kernel(&self) -> &str {
        &self.program.name
    }

    /// Adds another launch's coverage. False, and nothing done, if that was of another kernel.
    pub fn merge(&mut self, other: &Self) -> bool {
        let same = Arc::ptr_eq(&self.program, &other.program)
            || self.program.name == other.program.name && self.program.module.source == other.program.module.source;
        if same {
            self.counts.add(&other.counts);
        }
        same
    }

    /// What ends a body without a statement is none.
    fn is_statement(&self, index: usize) -> bool {
        let (start, end) = self.program.origins[index].span;
        start < end
    }

    fn source(&self, index: usize) -> Option<SourceLine> {
        source_line(&self.program, self.program.origins[index].location)
    }

    fn ptx_line(&self, index: usize) -> u32 {
        self.program.origins[index].line
    }

    /// Every statement, those of the functions that the kernel calls first.
    pub fn instructions(&self) -> impl Iterator<Item = InstructionCoverage> + '_ {
        let all = (0..self.program.instructions.len()).filter(|index| self.is_statement(*index));
        all.map(|index| InstructionCoverage {
            ptx_line: self.ptx_line(index),
            ptx: statement_text(&self.program, &self.program.origins[index]),
            source: self.source(index),
            executed: self.counts.executed[index],
            skipped: self.counts.skipped[index],
        })
    }

    /// Lines of the PTX text, from 1, with a statement that a thread executed or was kept from by its guard.
    pub fn executed_lines(&self) -> impl Iterator<Item = u32> + '_ {
        let come_to = |index: &usize| self.counts.executed[*index] + self.counts.skipped[*index] > 0;
        (0..self.program.instructions.len()).filter(come_to).map(|index| self.ptx_line(index))
    }

    /// Every basic block.
    pub fn blocks(&self) -> Vec<BlockCoverage> {
        let instructions = &self.program.instructions;
        let mut starts = vec![false; instructions.len() + 1];
        starts[self.program.entry as usize] = true;
        self.program.functions.iter().for_each(|function| starts[function.start as usize] = true);
        for (index, instruction) in instructions.iter().enumerate() {
            let targets: &[u32] = match &instruction.operation {
                Operation::Branch { target } => std::slice::from_ref(target),
                Operation::BranchIndexed { targets, .. } => targets,
                Operation::Exit | Operation::Return | Operation::Trap => &[],
                _ => continue,
            };
            targets.iter().for_each(|target| starts[*target as usize] = true);
            starts[index + 1] = true;
        }
        starts[instructions.len()] = true;
        let starts: Vec<usize> = (0..starts.len()).filter(|index| starts[*index]).collect();
        let blocks = starts.windows(2).filter(|pair| self.is_statement(pair[0])).map(|pair| BlockCoverage {
            statements: (pair[0]..pair[1]).filter(|index| self.is_statement(*index)).count(),
            ptx_line: self.ptx_line(pair[0]),
            source: self.source(pair[0]),
            executed: self.counts.executed[pair[0]] + self.counts.skipped[pair[0]],
        });
        blocks.collect()
    }

    /// Every branch with a guard.
    pub fn branches(&self) -> Vec<BranchCoverage> {
        let guarded = self.program.instructions.iter().enumerate().filter(|(_, instruction)| {
            instruction.guard.is_some() && matches!(instruction.operation, Operation::Branch { .. })
        });
        let branches = guarded.map(|(index, _)| BranchCoverage {
            ptx_line: self.ptx_line(index),
            source: self.source(index),
            taken: self.counts.executed[index],
            not_taken: self.counts.skipped[index],
        });
        branches.collect()
    }

    /// Every loop.
    pub fn loops(&self) -> Vec<LoopCoverage> {
        let loops = self.program.instructions.iter().enumerate().filter_map(|(index, instruction)| {
            let Operation::Branch { target } = instruction.operation else { return None };
            (target as usize <= index).then(|| LoopCoverage {
                first_ptx_line: self.ptx_line(target as usize),
                ptx_line: self.ptx_line(index),
                source: self.source(index),
                turns: [0, 1, 2, 3].map(|turns| self.counts.turns[index] >> turns & 1 == 1),
            })
        });
        loops.collect()
    }
}

impl PartialEq for Coverage {
    fn eq(&self, other: &Self) -> bool {
        self.kernel() == other.kernel()
            && self.counts.executed == other.counts.executed
            && self.counts.skipped == other.counts.skipped
            && self.counts.turns == other.counts.turns
    }
}

impl Eq for Coverage {}

impl std::fmt::Debug for Coverage {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let executed = self.counts.executed.iter().filter(|count| **count > 0).count();
        write!(formatter, "{executed} of {} instructions of {}", self.counts.executed.len(), self.kernel())
    }
}
