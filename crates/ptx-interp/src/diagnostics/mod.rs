//! What was found, told the way a compiler would: where, what, and which threads.

mod mangled;
mod missing;
mod notebook;

pub use missing::Missing;
pub(crate) use missing::Mistake;
pub(crate) use notebook::Findings;

use std::fmt;

use crate::decode::{Origin, Program};
use crate::parse::Location;
use mangled::plain_name;

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
    /// Memory is read that nothing has written.
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
    /// Threads of a warp do not reach a barrier together, or warps of a warpgroup not the same `setmaxnreg`.
    DivergentBarrier,
    /// A shuffle or vote names or reads lanes that do not take part in it.
    DivergentShuffle,
    /// All threads wait.
    Deadlock,
    /// The instruction budget ran out: a loop that does not end.
    Livelock,
    /// A copy that the device would refuse: size, alignment, tensor map.
    BadAsyncCopy,
    /// An mbarrier is used before it is initialised, twice initialised, overwritten, used by a block that it does not
    /// belong to, or gets more arrivals or bytes than it expects.
    BadMbarrier,
    /// A thread waits for a phase of an mbarrier, and nothing keeps the next one from completing before it has looked: then it
    /// cannot tell the phase it waits for from one to come.
    MissedPhase,
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
            Self::MissedPhase => "phase that may be missed",
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
    /// Where the function that holds the line was inlined: the last call of [`SourceLine::frames`].
    pub inlined_at: Option<(String, u32)>,
    /// The kernel's line, then the lines inside the functions that were inlined there, outermost first. The last one is
    /// this line.
    pub frames: Vec<SourceFrame>,
}

/// One line of a chain of inlined calls.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceFrame {
    /// File as the compiler named it.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// The inlined function that holds the line, if the PTX names it; none for the kernel itself.
    pub function: Option<String>,
}

impl fmt::Display for SourceFrame {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.file, self.line)?;
        if let Some(function) = &self.function {
            write!(formatter, " in `{function}`")?;
        }
        Ok(())
    }
}

impl fmt::Display for SourceLine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, frame) in self.frames.iter().enumerate() {
            write!(formatter, "{}{frame}", if index == 0 { "" } else { " > " })?;
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
    /// The line of the kernel itself that leads here, not one of a function that was inlined there; the PTX line if
    /// there is no source.
    pub fn kernel_line(&self) -> String {
        match self.source.as_ref().and_then(|source| source.frames.first()) {
            Some(frame) => frame.to_string(),
            None => format!("PTX line {}", self.ptx_line),
        }
    }

    /// Lines that lead to it, one for each frame of inlining, outermost first: the kernel's own line is the first. The
    /// last one names the PTX line, too.
    pub fn positions(&self) -> Vec<String> {
        let mut lines: Vec<String> =
            self.source.iter().flat_map(|source| &source.frames).map(ToString::to_string).collect();
        match lines.last_mut() {
            Some(last) => *last += &format!(" (PTX line {})", self.ptx_line),
            None => lines.push(format!("PTX line {}", self.ptx_line)),
        }
        lines
    }

    fn write(&self, formatter: &mut fmt::Formatter<'_>, arrow: &str) -> fmt::Result {
        for (index, line) in self.positions().iter().enumerate() {
            if index == 0 {
                writeln!(formatter, "  {arrow} {line}")?;
            } else {
                writeln!(formatter, "      {:width$}{line}", "", width = 2 * index)?;
            }
        }
        writeln!(formatter, "   | {}", self.ptx)
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
    /// What would order the two, as far as can be said.
    pub missing: Option<Missing>,
    /// Seed of the launch.
    pub seed: u64,
    /// How often the same pair of lines did it in this launch.
    pub count: u64,
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "error: {}: {}", self.kind.name(), self.message)?;
        self.place.write(formatter, "-->")?;
        writeln!(formatter, "   = {}", self.place.thread)?;
        if let Some(other) = &self.other {
            writeln!(formatter, "   = against {}", other.thread)?;
            other.write(formatter, ":::")?;
        }
        if let Some(missing) = &self.missing {
            writeln!(formatter, "   = missing: {missing}")?;
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

pub(crate) fn describe(program: &Program, site: Site) -> Place {
    let origin = &program.origins[(site.pc as usize).min(program.origins.len() - 1)];
    Place {
        source: source_line(program, origin.location),
        ptx_line: origin.line,
        ptx: statement_text(program, origin),
        thread: site.thread,
    }
}

/// The statement as it stands in the PTX text, on one line.
pub(crate) fn statement_text(program: &Program, origin: &Origin) -> String {
    let text = program.module.source.get(origin.span.0..origin.span.1).filter(|text| !text.is_empty());
    let text = text.unwrap_or("the end of the body");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Frames deeper than any compiler makes: an end for chains in hostile texts.
const MOST_FRAMES: usize = 64;

/// The CUDA line that an instruction comes from, and where that was inlined.
pub(crate) fn source_line(program: &Program, location: Location) -> Option<SourceLine> {
    if location.line == 0 {
        return None;
    }
    let sources = &program.module.sources;
    let file = |index: u32| sources.files.get(&index).cloned().unwrap_or_else(|| format!("file {index}"));
    let site = |id: u32| sources.call_sites.get((id as usize).checked_sub(1)?);
    let function = |id: u32| site(id).and_then(|site| sources.names.get(&site.function)).map(|name| plain_name(name));
    let mut frames =
        vec![SourceFrame { file: file(location.file), line: location.line, function: function(location.call_site) }];
    let mut next = location.call_site;
    while let Some(call) = site(next).filter(|_| frames.len() < MOST_FRAMES) {
        frames.push(SourceFrame { file: file(call.file), line: call.line, function: function(call.parent) });
        next = call.parent;
    }
    frames.reverse();
    let inlined_at = frames.len().checked_sub(2).map(|index| (frames[index].file.clone(), frames[index].line));
    Some(SourceLine { file: file(location.file), line: location.line, inlined_at, frames })
}
