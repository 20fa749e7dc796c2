//! What can be changed in a PTX text, with its line of the CUDA source; here what is taken out: all that orders or guards.

use std::ops::Range;

use sdpa_toolchain::source_line;
use serde::Serialize;

use super::kind::MutationKind;
use super::statement::{Label, Origin, Statement, statements};
use super::{semantics, values};

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
    /// Which of the changes of its kind to the statement it is.
    #[serde(skip)]
    variant: usize,
    #[serde(skip)]
    span: Range<usize>,
    #[serde(skip)]
    replacement: String,
}

impl Mutation {
    /// True if both do the same to two copies that unrolling or inlining made of one statement of the source.
    pub(super) fn is_copy_of(&self, other: &Self) -> bool {
        let opcode = |mutation: &Self| {
            let mut words = mutation.statement.split_whitespace().map(str::to_owned);
            words.find(|word| !word.starts_with('@'))
        };
        self.kind == other.kind
            && self.variant == other.variant
            && self.origin.is_some()
            && self.origin == other.origin
            && opcode(self) == opcode(other)
    }

    /// What stands in the statement's place.
    pub(super) fn replacement(&self) -> &str {
        &self.replacement
    }

    /// `file: line` of the source that the statement comes from and of each call that it was inlined through, the innermost
    /// first.
    pub fn source_lines(&self) -> Vec<String> {
        let chain = self.origin.iter().flat_map(|origin| origin.chain());
        chain.filter_map(|(file, line)| Some(format!("{file}: {}", source_line(file, line)?))).collect()
    }

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
        let removals = removals(statement, &statements[index + 1..]);
        let changes = removals.into_iter().chain(values::changes(statement)).chain(semantics::changes(statement));
        found.extend(changes.enumerate().map(|(variant, (kind, replacement))| Mutation {
            kind,
            variant,
            ptx_line: statement.line,
            statement: statement.text.split_whitespace().collect::<Vec<_>>().join(" "),
            origin: statement.origin.clone(),
            span: statement.span.clone(),
            replacement,
        }));
    }
    found
}

/// What can be taken out of a statement, and what then stands in its place.
fn removals(statement: &Statement<'_>, following: &[Statement<'_>]) -> Vec<(MutationKind, String)> {
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
        "prefetch" => removed(MutationKind::Prefetch),
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
            .filter(|mutation| MutationKind::REMOVALS.contains(&mutation.kind))
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
