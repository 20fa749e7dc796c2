//! What was found, told the way a compiler would: where, what, and which threads.

use std::collections::HashMap;
use std::fmt;

use crate::decode::Program;

/// The kinds of mistakes that the interpreter finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum FindingKind {
    /// Two threads touch the same shared memory, one of them writes, and nothing orders them.
    SharedRace,
    /// The same in global memory.
    GlobalRace,
    /// `ld.global.nc` of memory that the same kernel writes.
    StaleRead,
    /// Memory is read that nobody has written.
    UninitializedRead,
    /// An access outside of every buffer, of shared memory or of local memory.
    OutOfBounds,
    /// An address that is not a multiple of the access's size.
    Misaligned,
    /// Data of an asynchronous copy, or a register of an asynchronous multiplication, is touched before the wait that
    /// covers it.
    AsyncReadBeforeWait,
    /// A generic write is read through the asynchronous proxy without `fence.proxy.async`.
    MissingProxyFence,
    /// A wgmma takes registers that were touched since the last `wgmma.fence`.
    MissingMatrixFence,
    /// Threads of a warp do not reach a barrier together.
    DivergentBarrier,
    /// A shuffle or vote names or reads lanes that do not take part in it.
    DivergentShuffle,
    /// Everybody waits.
    Deadlock,
    /// The instruction budget ran out: a loop that does not end.
    Livelock,
    /// A copy that the device would refuse: size, alignment, tensor map.
    BadAsyncCopy,
    /// An mbarrier is used before it is initialised, or gets more arrivals than it expects.
    BadMbarrier,
    /// A matrix instruction got something that the device does not accept.
    BadMatrixOperation,
    /// The kernel executed `trap`, or an assertion failed.
    Trap,
    /// Calls nest more deeply than local memory allows.
    StackOverflow,
    /// A statement that the interpreter does not know: what comes after it is not checked.
    Unsupported,
}

impl FindingKind {
    /// A short name in words.
    pub fn name(self) -> &'static str {
        match self {
            Self::SharedRace => "race in shared memory",
            Self::GlobalRace => "race in global memory",
            Self::StaleRead => "non-coherent read of memory that the kernel writes",
            Self::UninitializedRead => "read of uninitialised memory",
            Self::OutOfBounds => "access out of bounds",
            Self::Misaligned => "misaligned access",
            Self::AsyncReadBeforeWait => "asynchronous data touched before its wait",
            Self::MissingProxyFence => "missing proxy fence",
            Self::MissingMatrixFence => "missing wgmma fence",
            Self::DivergentBarrier => "divergent barrier",
            Self::DivergentShuffle => "divergent shuffle",
            Self::Deadlock => "deadlock",
            Self::Livelock => "livelock",
            Self::BadAsyncCopy => "asynchronous copy that the device refuses",
            Self::BadMbarrier => "misuse of an mbarrier",
            Self::BadMatrixOperation => "matrix operation that the device refuses",
            Self::Trap => "trap",
            Self::StackOverflow => "stack overflow",
            Self::Unsupported => "unsupported statement",
        }
    }
}

/// A line of the CUDA source, known when the PTX was made with line information.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceLine {
    /// File as the compiler named it.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Where the function that holds the line was inlined.
    pub inlined_at: Option<(String, u32)>,
}

impl fmt::Display for SourceLine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.file, self.line)?;
        if let Some((file, line)) = &self.inlined_at {
            write!(formatter, " (inlined at {file}:{line})")?;
        }
        Ok(())
    }
}

/// One thread of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ThreadId {
    /// `blockIdx`
    pub block: [u32; 3],
    /// `threadIdx`
    pub thread: [u32; 3],
    /// Warp in its block.
    pub warp: u32,
    /// Lane in its warp.
    pub lane: u32,
}

impl fmt::Display for ThreadId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([x, y, z], [bx, by, bz]) = (self.thread, self.block);
        write!(formatter, "thread ({x},{y},{z}) of block ({bx},{by},{bz}) (warp {}, lane {})", self.warp, self.lane)
    }
}

/// An instruction and the thread that executed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Line of the CUDA source.
    pub source: Option<SourceLine>,
    /// Line of the PTX text, from 1.
    pub ptx_line: u32,
    /// The PTX statement.
    pub ptx: String,
    /// Who executed it.
    pub thread: ThreadId,
}

impl Place {
    fn position(&self) -> String {
        match &self.source {
            Some(source) => format!("{source} (PTX line {})", self.ptx_line),
            None => format!("PTX line {}", self.ptx_line),
        }
    }
}

/// A mistake in a kernel, with everything needed to see it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What kind of mistake.
    pub kind: FindingKind,
    /// What happened, in a sentence.
    pub message: String,
    /// Where it was noticed.
    pub place: Place,
    /// The other side of a race.
    pub other: Option<Place>,
    /// Seed of the launch.
    pub seed: u64,
    /// How often the same pair of lines did it in this launch.
    pub count: u64,
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "error: {}: {}", self.kind.name(), self.message)?;
        writeln!(formatter, "  --> {}", self.place.position())?;
        writeln!(formatter, "   | {}", self.place.ptx)?;
        writeln!(formatter, "   = {}", self.place.thread)?;
        if let Some(other) = &self.other {
            writeln!(formatter, "   = against {}", other.thread)?;
            writeln!(formatter, "  ::: {}", other.position())?;
            writeln!(formatter, "   | {}", other.ptx)?;
        }
        let times = if self.count == 1 { "once".to_string() } else { format!("{} times", self.count) };
        write!(formatter, "   = seed {}, seen {times}", self.seed)
    }
}

/// An instruction executed by a thread, before it is described.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Site {
    pub pc: u32,
    pub thread: ThreadId,
}

/// Findings of one execution unit, one entry for each kind and pair of lines.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    entries: Vec<Finding>,
    index: HashMap<(FindingKind, Line, Option<Line>), usize>,
    limit: usize,
}

/// What makes two findings the same: their source lines, or their PTX lines where there is no source.
type Line = (u32, u32, Option<(u32, u32)>);

impl Findings {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, ..Default::default() }
    }

    fn line(program: &Program, pc: u32) -> Line {
        let origin = &program.origins[(pc as usize).min(program.origins.len() - 1)];
        let location = origin.location;
        if location.line == 0 {
            (u32::MAX, origin.line, None)
        } else {
            (location.file, location.line, location.inlined_at)
        }
    }

    pub(crate) fn report(
        &mut self,
        program: &Program,
        seed: u64,
        kind: FindingKind,
        at: Site,
        other: Option<Site>,
        message: impl FnOnce() -> String,
    ) {
        let key = (kind, Self::line(program, at.pc), other.map(|other| Self::line(program, other.pc)));
        if let Some(&known) = self.index.get(&key) {
            self.entries[known].count += 1;
            return;
        }
        if self.entries.len() >= self.limit {
            return;
        }
        self.index.insert(key, self.entries.len());
        self.entries.push(Finding {
            kind,
            message: message(),
            place: describe(program, at),
            other: other.map(|other| describe(program, other)),
            seed,
            count: 1,
        });
    }

    /// Adds the findings of a later unit.
    pub(crate) fn absorb(&mut self, later: Findings) {
        let mut keys: Vec<_> = later.index.into_iter().collect();
        keys.sort_by_key(|&(_, index)| index);
        for ((key, _), finding) in keys.into_iter().zip(later.entries) {
            match self.index.get(&key) {
                Some(&known) => self.entries[known].count += finding.count,
                None if self.entries.len() < self.limit => {
                    self.index.insert(key, self.entries.len());
                    self.entries.push(finding);
                }
                None => {}
            }
        }
    }

    pub(crate) fn into_entries(self) -> Vec<Finding> {
        self.entries
    }
}

fn describe(program: &Program, site: Site) -> Place {
    let origin = &program.origins[(site.pc as usize).min(program.origins.len() - 1)];
    let file = |index: u32| program.module.files.get(&index).cloned().unwrap_or_else(|| format!("file {index}"));
    let location = origin.location;
    let source = (location.line != 0).then(|| SourceLine {
        file: file(location.file),
        line: location.line,
        inlined_at: location.inlined_at.map(|(index, line)| (file(index), line)),
    });
    let text = program.module.source.get(origin.span.0..origin.span.1).unwrap_or("");
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    Place { source, ptx_line: origin.line, ptx: text, thread: site.thread }
}
