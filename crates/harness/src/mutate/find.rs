//! What can be taken out of a PTX text: everything that orders or guards, with its line of the CUDA source.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

use sdpa_toolchain::file_entry;
use serde::Serialize;

/// What a mutation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MutationKind {
    /// Removes a barrier of a block, of some of its warps, or of a cluster.
    Barrier,
    /// Removes a warp's barrier.
    WarpSync,
    /// Removes a wait for asynchronous copies.
    CopyWait,
    /// Lets one more group of asynchronous copies be under way.
    WeakerCopyWait,
    /// Leaves asynchronous copies out of their group.
    Commit,
    /// Removes a fence.
    Fence,
    /// Goes on without what an mbarrier would have waited for.
    MbarrierWait,
    /// Does not arrive on an mbarrier, nor expect its bytes.
    Arrival,
    /// Expects fewer bytes on an mbarrier than the copies bring.
    ExpectedBytes,
    /// Keeps the registers that a warpgroup would have given or taken.
    Registers,
    /// Accesses memory whatever the predicate says.
    Guard,
    /// Copies whole chunks whatever the size operand says.
    CopyGuard,
}

impl MutationKind {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Barrier,
        Self::WarpSync,
        Self::CopyWait,
        Self::WeakerCopyWait,
        Self::Commit,
        Self::Fence,
        Self::MbarrierWait,
        Self::Arrival,
        Self::ExpectedBytes,
        Self::Registers,
        Self::Guard,
        Self::CopyGuard,
    ];

    /// What is done, in words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Barrier => "barrier removed",
            Self::WarpSync => "warp barrier removed",
            Self::CopyWait => "wait for copies removed",
            Self::WeakerCopyWait => "one more group of copies not waited for",
            Self::Commit => "commit removed",
            Self::Fence => "fence removed",
            Self::MbarrierWait => "wait on an mbarrier removed",
            Self::Arrival => "arrival on an mbarrier removed",
            Self::ExpectedBytes => "fewer bytes expected on an mbarrier",
            Self::Registers => "exchange of registers removed",
            Self::Guard => "guard of a memory access removed",
            Self::CopyGuard => "guard of a copy removed",
        }
    }
}

/// A line of the CUDA source, and the calls that it was inlined through.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Origin {
    /// File, as the compiler named it.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Who called it, the innermost first.
    pub callers: Vec<(String, u32)>,
}

impl Origin {
    /// File and line of the statement itself and of every call that it was inlined through, innermost first.
    pub fn chain(&self) -> impl Iterator<Item = (&str, u32)> {
        let callers = self.callers.iter().map(|(file, line)| (file.as_str(), *line));
        std::iter::once((self.file.as_str(), self.line)).chain(callers)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)?;
        for (index, (file, line)) in self.callers.iter().enumerate() {
            write!(f, "{}{file}:{line}", if index == 0 { ", called from " } else { ", " })?;
        }
        Ok(())
    }
}

/// One change to a PTX text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mutation {
    /// What it does.
    pub kind: MutationKind,
    /// Line of the PTX, from 1.
    pub ptx_line: usize,
    /// The statement as it was.
    pub statement: String,
    /// Where it comes from, where the PTX says so.
    pub origin: Option<Origin>,
    #[serde(skip)]
    span: Range<usize>,
    #[serde(skip)]
    replacement: String,
}

impl Mutation {
    /// The text with this change, every other line where it was.
    pub fn apply(&self, ptx: &str) -> String {
        [&ptx[..self.span.start], &self.replacement, &ptx[self.span.end..]].concat()
    }
}

impl Mutation {
    /// True if both do the same to one statement of the kernel's source, such as `v2b.cu`. Unrolling, inlining and
    /// specialisation make many copies of a statement.
    pub fn is_like(&self, other: &Self, source: &str) -> bool {
        let statement = self.statement_of(source);
        self.kind == other.kind && statement.is_some() && statement == other.statement_of(source)
    }

    /// The statement of the kernel's own file that is taken out, and the calls inside of it; all calls if it is of no such file.
    fn statement_of(&self, source: &str) -> Option<Vec<(&str, u32)>> {
        let mut calls: Vec<(&str, u32)> = self.origin.as_ref()?.chain().collect();
        if let Some(own) = calls.iter().position(|(file, _)| file.strip_prefix("kernels/") == Some(source)) {
            calls.truncate(own + 1);
        }
        Some(calls)
    }
}

/// Every mutation of a PTX text, in its order.
pub fn mutations(ptx: &str) -> Vec<Mutation> {
    let statements = statements(ptx);
    let mut found = Vec::new();
    for (index, statement) in statements.iter().enumerate() {
        let changes = changes(statement, &statements[index + 1..]);
        found.extend(changes.into_iter().map(|(kind, replacement)| Mutation {
            kind,
            ptx_line: statement.line,
            statement: statement.text.split_whitespace().collect::<Vec<_>>().join(" "),
            origin: statement.origin.clone(),
            span: statement.span.clone(),
            replacement,
        }));
    }
    found
}

/// What can be done to a statement, and what then stands in its place.
fn changes(statement: &Statement<'_>, following: &[Statement<'_>]) -> Vec<(MutationKind, String)> {
    let (guard, instruction) = statement.parts();
    let (opcode, operands) = instruction.split_once(char::is_whitespace).unwrap_or((instruction, ""));
    let first = opcode.split('.').next().unwrap_or(opcode);
    let has = |part: &str| opcode.split('.').any(|own| own == part);
    let removed = |kind| vec![(kind, String::new())];
    match first {
        "bar" if has("warp") => removed(MutationKind::WarpSync),
        // A reduction's barrier cannot go without its result.
        "bar" | "barrier" if !has("red") => removed(MutationKind::Barrier),
        "fence" | "membar" => removed(MutationKind::Fence),
        "wgmma" if has("fence") => removed(MutationKind::Fence),
        "cp" | "wgmma" if has("commit_group") || has("mbarrier") => removed(MutationKind::Commit),
        "cp" if has("wait_all") => removed(MutationKind::CopyWait),
        "cp" | "wgmma" if has("wait_group") => {
            let mut changes = removed(MutationKind::CopyWait);
            if let Ok(pending) = operands.trim().parse::<u32>() {
                let guard = guard.map(|guard| format!("{guard} ")).unwrap_or_default();
                changes.push((MutationKind::WeakerCopyWait, format!("{guard}{opcode} {};", pending + 1)));
            }
            changes
        }
        "mbarrier" if has("try_wait") || has("test_wait") => {
            let done = operands.split(',').next().unwrap_or("").trim();
            vec![(MutationKind::MbarrierWait, format!("setp.eq.u32 {done}, 0, 0;"))]
        }
        // An arrival's state cannot go without it.
        "mbarrier" if has("arrive") && operands.trim_start().starts_with('_') => {
            let mut changes = removed(MutationKind::Arrival);
            changes.extend(fewer_bytes(guard, opcode, operands).filter(|_| has("expect_tx")));
            changes
        }
        "mbarrier" if has("expect_tx") => fewer_bytes(guard, opcode, operands).into_iter().collect(),
        "setmaxnreg" => removed(MutationKind::Registers),
        "cp" if has("async") && !has("bulk") => {
            let parts: Vec<&str> = operands.split(',').collect();
            match parts.as_slice() {
                [destination, source, bytes, _] => {
                    vec![(MutationKind::CopyGuard, format!("{opcode} {destination},{source},{bytes};"))]
                }
                _ if guard.is_some() => vec![(MutationKind::Guard, format!("{instruction};"))],
                _ => Vec::new(),
            }
        }
        // A conditional branch is the guard of what it jumps over, where that touches memory.
        "bra" if guard.is_some() => {
            let target = operands.trim();
            let is_end = |label: &Label<'_>| label.name == target && label.is_seen_from(statement);
            let end = following.iter().position(|statement| statement.labels.iter().any(is_end));
            // None where it jumps back: a loop is no guard.
            let jumped = end.map_or(&[][..], |end| &following[..end]);
            match jumped.iter().any(Statement::touches_memory) {
                true => removed(MutationKind::Guard),
                false => Vec::new(),
            }
        }
        _ if guard.is_some() && statement.touches_memory() => vec![(MutationKind::Guard, format!("{instruction};"))],
        _ => Vec::new(),
    }
}

/// The statement with one piece of 16 bytes expected, fewer than any box has.
fn fewer_bytes(guard: Option<&str>, opcode: &str, operands: &str) -> Option<(MutationKind, String)> {
    let (rest, bytes) = operands.rsplit_once(',')?;
    let guard = guard.map(|guard| format!("{guard} ")).unwrap_or_default();
    let fewer = format!("{guard}{opcode} {}, 16;", rest.trim_start());
    (bytes.trim() != "16").then_some((MutationKind::ExpectedBytes, fewer))
}

/// A label, and the braces that it stands in: inline assembly has labels of one name in braces of their own.
struct Label<'p> {
    name: &'p str,
    scope: usize,
}

impl Label<'_> {
    /// True where it stands in the statement's own braces or in the kernel's.
    fn is_seen_from(&self, statement: &Statement<'_>) -> bool {
        self.scope == statement.scope || self.scope == KERNEL
    }
}

/// The scope of a kernel's own braces.
const KERNEL: usize = 0;

/// One statement of a kernel's body.
struct Statement<'p> {
    /// Without its semicolon.
    text: &'p str,
    /// With it.
    span: Range<usize>,
    line: usize,
    /// The labels right before it.
    labels: Vec<Label<'p>>,
    /// The innermost braces that it stands in.
    scope: usize,
    origin: Option<Origin>,
}

impl<'p> Statement<'p> {
    /// The predicate with its `@`, if there is one, and the instruction.
    fn parts(&self) -> (Option<&'p str>, &'p str) {
        match self.text.split_once(char::is_whitespace) {
            Some((guard, rest)) if guard.starts_with('@') => (Some(guard), rest.trim_start()),
            _ => (None, self.text),
        }
    }

    /// True for what reads or writes memory that others see.
    fn touches_memory(&self) -> bool {
        let (_, instruction) = self.parts();
        let mut parts = instruction.split_whitespace().next().unwrap_or("").split('.');
        let first = parts.next();
        let private =
            parts.any(|part| matches!(part, "param" | "local" | "const" | "commit_group" | "wait_group" | "wait_all"));
        let touches = ["ld", "st", "red", "atom", "cp", "ldmatrix", "stmatrix", "wmma"];
        first.is_some_and(|first| touches.contains(&first)) && !private && !instruction.starts_with("wmma.mma")
    }
}

/// A place in the source, as `.loc` gives it: file number, line, column.
type Location = [u32; 3];

/// The statements of all kernels of a text.
fn statements(ptx: &str) -> Vec<Statement<'_>> {
    let mut scanner = Scanner {
        ptx,
        at: 0,
        line: 1,
        files: files(ptx),
        location: None,
        inlined: HashMap::new(),
        labels: Vec::new(),
        scopes: Vec::new(),
        found: Vec::new(),
    };
    while scanner.find_body() {
        scanner.read_body();
    }
    scanner.found
}

/// The table of files, wherever in the text it stands.
fn files(ptx: &str) -> HashMap<u32, &str> {
    ptx.lines().filter_map(|line| file_entry(line).map(|(number, name)| (number, &line[name]))).collect()
}

struct Scanner<'p> {
    ptx: &'p str,
    at: usize,
    line: usize,
    files: HashMap<u32, &'p str>,
    location: Option<Location>,
    /// Where each place was inlined when it was last seen.
    inlined: HashMap<Location, Option<Location>>,
    labels: Vec<Label<'p>>,
    /// The braces that are open, the innermost last.
    scopes: Vec<usize>,
    found: Vec<Statement<'p>>,
}

impl<'p> Scanner<'p> {
    fn rest(&self) -> &'p str {
        &self.ptx[self.at..]
    }

    fn advance(&mut self, bytes: usize) -> &'p str {
        let text = &self.ptx[self.at..self.at + bytes];
        self.line += text.matches('\n').count();
        self.at += bytes;
        text
    }

    /// Everything up to the first of `ends`, or to the end of the text.
    fn until(&mut self, end: &str) -> &'p str {
        let bytes = self.rest().find(end).unwrap_or(self.rest().len());
        self.advance(bytes)
    }

    /// Steps over blanks and comments.
    fn skip(&mut self) {
        loop {
            let rest = self.rest();
            let blanks = rest.len() - rest.trim_start().len();
            self.advance(blanks);
            if self.rest().starts_with("//") {
                self.until("\n");
            } else if self.rest().starts_with("/*") {
                self.until("*/");
                self.advance(2.min(self.rest().len()));
            } else {
                return;
            }
        }
    }

    /// Goes to behind the brace that opens the next kernel's body; false where there is none.
    fn find_body(&mut self) -> bool {
        loop {
            self.skip();
            if self.rest().is_empty() {
                return false;
            }
            let line = self.rest().lines().next().unwrap_or("");
            let is_entry = line.split(';').next().unwrap_or("").split_whitespace().any(|word| word == ".entry");
            if is_entry {
                self.until("{");
                self.advance(1.min(self.rest().len()));
                return true;
            }
            self.until("\n");
        }
    }

    /// Reads to behind the brace that closes the body.
    fn read_body(&mut self) {
        let mut last = KERNEL;
        self.scopes = vec![KERNEL];
        while !self.scopes.is_empty() {
            self.skip();
            let rest = self.rest();
            if rest.is_empty() {
                return;
            } else if rest.starts_with(['{', '}']) {
                if rest.starts_with('{') {
                    last += 1;
                    self.scopes.push(last);
                } else {
                    self.scopes.pop();
                }
                self.advance(1);
            } else if rest.starts_with(".loc") {
                let line = self.until("\n");
                self.locate(line);
            } else if let Some(bytes) = label(rest) {
                let label = Label { name: &rest[..bytes], scope: self.scope() };
                self.labels.push(label);
                self.until(":");
                self.advance(1);
            } else {
                self.read_statement();
            }
        }
        // Labels at the very end belong to nothing; a branch there jumps over all that is left.
        let labels = std::mem::take(&mut self.labels);
        let (at, line) = (self.at, self.line);
        self.found.push(Statement { text: "", span: at..at, line, labels, scope: KERNEL, origin: None });
    }

    fn scope(&self) -> usize {
        self.scopes.last().copied().unwrap_or(KERNEL)
    }

    fn read_statement(&mut self) {
        let (start, line) = (self.at, self.line);
        let text = self.until(";").trim_end();
        if self.rest().is_empty() {
            return;
        }
        self.advance(1);
        let labels = std::mem::take(&mut self.labels);
        let origin = self.location.and_then(|location| self.origin(location));
        let scope = self.scope();
        self.found.push(Statement { text, span: start..self.at, line, labels, scope, origin });
    }

    /// `.loc 4 43 13, function_name $L__info_string7, inlined_at 1 201 13`.
    fn locate(&mut self, line: &str) {
        let mut parts = line.split(',');
        let numbers = |text: &str| -> Option<Location> {
            let mut words = text.split_whitespace().skip(1).map_while(|word| word.parse().ok());
            Some([words.next()?, words.next()?, words.next()?])
        };
        let here = parts.next().and_then(numbers);
        let caller = parts.find(|part| part.trim_start().starts_with("inlined_at")).and_then(numbers);
        if let Some(here) = here {
            self.inlined.insert(here, caller);
        }
        self.location = here.filter(|[_, line, _]| *line > 0);
    }

    fn origin(&self, location: Location) -> Option<Origin> {
        /// Deeper than any kernel calls, and an end for chains that bite their tails.
        const MOST_CALLERS: usize = 8;
        let place = |[file, line, _]: Location| Some((self.files.get(&file)?.to_string(), line));
        let (file, line) = place(location)?;
        let callers = std::iter::successors(self.caller(location), |location| self.caller(*location));
        Some(Origin { file, line, callers: callers.take(MOST_CALLERS).map_while(place).collect() })
    }

    fn caller(&self, location: Location) -> Option<Location> {
        self.inlined.get(&location).copied().flatten()
    }
}

/// Length of the label that a text begins with.
fn label(text: &str) -> Option<usize> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '%');
    let bytes = text.find(|c| !is_name(c))?;
    let after = text[bytes..].trim_start();
    (bytes > 0 && after.starts_with(':') && !after.starts_with("::")).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
.version 9.0
.visible .entry attention(
	.param .align 8 .b8 attention_param_0[184]
)
{
	.reg .pred 	%p<4>;
	.loc	1 10 5
	bar.sync 	0; // an end; of a line
	.loc	1 20 5
	.loc	2 7 3, function_name $L__info_string0, inlined_at 1 20 5
	.loc	3 9 1, function_name $L__info_string1, inlined_at 2 7 3
	cp.async.cg.shared.global [%r1], [%rd1], 16, %r2;
	cp.async.wait_group 0;
	cp.async.commit_group;
	/* bar.sync 1; */
	.loc	1 30 5
	@%p1 bra 	$L__BB0_2;
	add.s32 	%r1, %r1, 1;
	ld.param.u32 	%r1, [attention_param_0];
$L__BB0_2:
	@!%p2 bra 	$L__BB0_3;
	st.shared.u32 [%r1], %r2;
$L__BB0_3:
	@%p3 ld.global.u32 	%r1, [%rd1];
	{
	.reg .pred P1;
	LAB_WAIT: mbarrier.try_wait.parity.shared::cta.b64 P1, [%r1], %r2;
	@P1 bra DONE; bra LAB_WAIT;
	DONE:
	}
	{
	.reg .pred P1;
	again: mbarrier.try_wait.parity.shared::cta.b64 P1, [%r1], %r2;
	@!P1 bra again;
	}
	@%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], %r2;
	cp.async.bulk.wait_group.read 0;
	{
	again: mbarrier.arrive.shared::cta.b64 _, [%r1];
	}
	mbarrier.arrive.shared::cta.b64 %rd1, [%r1];
	mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%r1], 32;
	setmaxnreg.dec.sync.aligned.u32 40;
	bar.warp.sync 	-1;
	fence.proxy.async;
	ret;
}
	.file	1 \"kernels/v9.cu\"
	.file	2 \"kernels/machine/a.cuh\"
	.file	3 \"kernels/machine/b.cuh\"
	.section	.debug_str
	{
$L__info_string0:
.b8 0
	}
";

    #[test]
    fn everything_that_orders_or_guards_is_found() {
        let lines: Vec<String> = mutations(TEXT)
            .iter()
            .map(|mutation| {
                let origin = mutation.origin.as_ref().map_or("nowhere".to_owned(), Origin::to_string);
                let now = mutation.apply(TEXT);
                assert_eq!(now.lines().count(), TEXT.lines().count(), "every line stays where it is");
                let now = now.lines().nth(mutation.ptx_line - 1).unwrap_or("").trim().to_owned();
                format!("{}: {} -> {now} [{}] {origin}", mutation.ptx_line, mutation.statement, mutation.kind.name())
            })
            .collect();
        insta::assert_snapshot!(lines.join("\n"), @r#"
        9: bar.sync 0 -> // an end; of a line [barrier removed] kernels/v9.cu:10
        13: cp.async.cg.shared.global [%r1], [%rd1], 16, %r2 -> cp.async.cg.shared.global [%r1], [%rd1], 16; [guard of a copy removed] kernels/machine/b.cuh:9, called from kernels/machine/a.cuh:7, kernels/v9.cu:20
        14: cp.async.wait_group 0 ->  [wait for copies removed] kernels/machine/b.cuh:9, called from kernels/machine/a.cuh:7, kernels/v9.cu:20
        14: cp.async.wait_group 0 -> cp.async.wait_group 1; [one more group of copies not waited for] kernels/machine/b.cuh:9, called from kernels/machine/a.cuh:7, kernels/v9.cu:20
        15: cp.async.commit_group ->  [commit removed] kernels/machine/b.cuh:9, called from kernels/machine/a.cuh:7, kernels/v9.cu:20
        22: @!%p2 bra $L__BB0_3 ->  [guard of a memory access removed] kernels/v9.cu:30
        25: @%p3 ld.global.u32 %r1, [%rd1] -> ld.global.u32 	%r1, [%rd1]; [guard of a memory access removed] kernels/v9.cu:30
        28: mbarrier.try_wait.parity.shared::cta.b64 P1, [%r1], %r2 -> LAB_WAIT: setp.eq.u32 P1, 0, 0; [wait on an mbarrier removed] kernels/v9.cu:30
        34: mbarrier.try_wait.parity.shared::cta.b64 P1, [%r1], %r2 -> again: setp.eq.u32 P1, 0, 0; [wait on an mbarrier removed] kernels/v9.cu:30
        37: @%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], %r2 ->  [arrival on an mbarrier removed] kernels/v9.cu:30
        37: @%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], %r2 -> @%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], 16; [fewer bytes expected on an mbarrier] kernels/v9.cu:30
        38: cp.async.bulk.wait_group.read 0 ->  [wait for copies removed] kernels/v9.cu:30
        38: cp.async.bulk.wait_group.read 0 -> cp.async.bulk.wait_group.read 1; [one more group of copies not waited for] kernels/v9.cu:30
        40: mbarrier.arrive.shared::cta.b64 _, [%r1] -> again: [arrival on an mbarrier removed] kernels/v9.cu:30
        43: mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%r1], 32 -> mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%r1], 16; [fewer bytes expected on an mbarrier] kernels/v9.cu:30
        44: setmaxnreg.dec.sync.aligned.u32 40 ->  [exchange of registers removed] kernels/v9.cu:30
        45: bar.warp.sync -1 ->  [warp barrier removed] kernels/v9.cu:30
        46: fence.proxy.async ->  [fence removed] kernels/v9.cu:30
        "#);
    }

    #[test]
    fn a_kernel_without_lines_of_source_is_mutated_all_the_same() {
        let found = mutations(".entry k() { bar.sync 0; ret; }");
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].ptx_line, &found[0].origin), (1, &None));
        assert_eq!(found[0].apply(".entry k() { bar.sync 0; ret; }"), ".entry k() {  ret; }");
    }

    #[test]
    fn what_is_no_kernel_has_no_mutation() {
        assert_eq!(mutations(""), []);
        assert_eq!(mutations(".entry k("), []);
        assert_eq!(mutations(".entry k() { bar.sync"), [] as [Mutation; 0]);
    }
}
