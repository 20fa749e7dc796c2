//! Changes that show in no thread: where a value depends on the thread and the head dimension alone, it is computed for
//! all of them, as the statement is and as it was changed.
//!
//! The signed division of a thread's index by a power of two is an example: what it adds for negative numbers is always 0.

use std::collections::HashMap;
use std::mem::offset_of;

use sdpa_core::{MAX_HEAD_DIM, Params};

use super::statement::{Statement, statements};
use super::values::Parts;
use super::{Mutation, MutationKind};

/// Definitions that a value may be put together from: deeper ones are given up on.
const DEEPEST: usize = 24;

/// What a value may depend on.
#[derive(Clone, Copy, Debug)]
struct Variables {
    /// `%tid.x`.
    thread: u32,
    /// [`Params::head_dim`].
    head_dim: u32,
}

/// The only definition of a register.
struct Definition<'p> {
    parts: Parts<'p>,
    /// Which of a vector's registers.
    element: usize,
}

/// What each register of a kernel is defined as; `None` where it has several definitions, or one under a condition.
struct Definitions<'p>(HashMap<&'p str, Option<Definition<'p>>>);

/// True if the mutated statement writes the same value for every thread of a block and every head dimension. False where
/// that cannot be told.
pub(super) fn is_same_for_all(mutation: &Mutation, ptx: &str, threads: u32) -> bool {
    let all = statements(ptx);
    let Some(statement) = all.iter().find(|statement| statement.line == mutation.ptx_line) else { return false };
    let same_line = all.iter().filter(|statement| statement.line == mutation.ptx_line).count();
    let (Some(before), 1) = (Parts::new(statement), same_line) else { return false };
    let Some(&destination) = before.operands.first() else { return false };
    let definitions = Definitions::new(&all);
    let is_narrowed = mutation.kind == MutationKind::Narrowed;
    let after = Parts::of(mutation.replacement().trim_end_matches(';'));
    let Some(after) = (if is_narrowed { Parts::new(statement) } else { after }) else { return false };
    if !before.guard.is_empty() || !after.guard.is_empty() || after.operands.first() != Some(&destination) {
        return false;
    }
    let is_signed = !(before.has("u32") || before.has("u64"));
    let mut all = (0..threads)
        .flat_map(|thread| (8..=MAX_HEAD_DIM as u32).step_by(8).map(move |head_dim| Variables { thread, head_dim }));
    all.all(|at| {
        let Some(value) = definitions.result(&before, 0, at, 0) else { return false };
        match is_narrowed {
            true if is_signed => value as i32 as i64 as u64 == value,
            true => u64::from(value as u32) == value,
            false => definitions.result(&after, 0, at, 0) == Some(value),
        }
    })
}

impl<'p> Definitions<'p> {
    fn new(statements: &[Statement<'p>]) -> Self {
        let mut found: HashMap<&'p str, Option<Definition<'p>>> = HashMap::new();
        for statement in statements {
            let Some(parts) = Parts::new(statement) else { continue };
            // What is stored to memory defines nothing, and does not look like a register.
            let Some(&destination) = parts.operands.first() else { continue };
            let registers = destination.trim_start_matches('{').trim_end_matches('}').split([',', '|']).map(str::trim);
            for (element, register) in registers.enumerate().filter(|(_, register)| register.starts_with('%')) {
                let again = Parts::new(statement).filter(|parts| parts.guard.is_empty() && statement.scope == 0);
                let definition = again.map(|parts| Definition { parts, element });
                found.entry(register).and_modify(|known| *known = None).or_insert(definition);
            }
        }
        Self(found)
    }

    /// The bits of an operand of so many bits; `None` if it depends on something else.
    fn operand(&self, operand: &str, bits: u32, at: Variables, depth: usize) -> Option<u64> {
        if operand == "%tid.x" {
            return Some(at.thread.into());
        }
        if let Ok(value) = operand.parse::<i64>() {
            return Some(if bits == 64 { value as u64 } else { u64::from(value as u32) });
        }
        // The only parameter begins where their space does.
        if operand.ends_with("_param_0") {
            return Some(0);
        }
        let definition = self.0.get(operand)?.as_ref()?;
        if depth == DEEPEST { None } else { self.result(&definition.parts, definition.element, at, depth + 1) }
    }

    /// What a statement writes to its destination.
    fn result(&self, parts: &Parts<'_>, element: usize, at: Variables, depth: usize) -> Option<u64> {
        let kind = parts.opcode.rsplit('.').next()?;
        let bits: u32 = kind.get(1..)?.parse().ok().or_else(|| (kind == "pred").then_some(32))?;
        let signed = kind.starts_with('s');
        let first = parts.first();
        if first == "ld" {
            let address = parts.operands.get(1)?.strip_prefix('[')?.strip_suffix(']')?;
            let offset = parts.has("param").then(|| self.parameter(address))?? + 4 * element as i64;
            return (bits == 32 && offset == offset_of!(Params, head_dim) as i64).then_some(at.head_dim.into());
        }
        let wide = parts.has("wide");
        let from = match first {
            "cvt" => parts.opcode.rsplit('.').next().and_then(|kind| kind.get(1..)?.parse().ok())?,
            // The other operands of a selection are predicates, and so is the result of a comparison.
            _ => bits,
        };
        let source = |index: usize, bits| {
            let value = self.operand(parts.operands.get(index)?, bits, at, depth)?;
            Some(value)
        };
        let extended = |value: u64, bits: u32| match (signed, bits) {
            (true, 32) => i64::from(value as u32 as i32),
            (_, 32) => i64::from(value as u32),
            _ => value as i64,
        };
        let cut = |value: i64, bits: u32| if bits == 64 { value as u64 } else { u64::from(value as u32) };
        let x = || source(1, from);
        let y = || source(2, from);
        // Unsigned numbers of 64 bits would need an order of their own.
        let is_ordered = signed || bits == 32;
        Some(match first {
            "mov" => x()?,
            "cvt" => {
                let to: u32 = parts.opcode.split('.').nth(1)?.get(1..)?.parse().ok()?;
                if parts.opcode.split('.').count() != 3 || !matches!((to, from), (32 | 64, 32 | 64)) {
                    return None;
                }
                cut(extended(x()?, from), to)
            }
            "add" if !parts.has("cc") => cut((x()? as i64).wrapping_add(y()? as i64), bits),
            "sub" if !parts.has("cc") => cut((x()? as i64).wrapping_sub(y()? as i64), bits),
            "mul" if wide => (extended(x()?, 32).wrapping_mul(extended(y()?, 32))) as u64,
            "mul" if parts.has("lo") => cut((x()? as i64).wrapping_mul(y()? as i64), bits),
            "and" => x()? & y()?,
            "or" => x()? | y()?,
            "xor" => x()? ^ y()?,
            "min" if is_ordered => cut(extended(x()?, bits).min(extended(y()?, bits)), bits),
            "max" if is_ordered => cut(extended(x()?, bits).max(extended(y()?, bits)), bits),
            // More places than there are shift out everything, and leave the sign.
            "shl" => {
                let places = source(2, 32)? as u32;
                if places >= bits { 0 } else { cut((x()? << places) as i64, bits) }
            }
            "shr" if is_ordered => {
                cut(extended(x()?, bits) >> (source(2, 32)? as u32).min(bits - 1 + u32::from(!signed)).min(63), bits)
            }
            "setp" if is_ordered => {
                let (x, y) = (extended(x()?, bits), extended(y()?, bits));
                u64::from(match parts.opcode.split('.').nth(1)? {
                    "lt" | "lo" => x < y,
                    "le" | "ls" => x <= y,
                    "gt" | "hi" => x > y,
                    "ge" | "hs" => x >= y,
                    "eq" => x == y,
                    "ne" => x != y,
                    _ => return None,
                })
            }
            // All lanes of a warp get what one of them holds.
            "shfl" if parts.has("idx") && element == 0 => {
                let (lane, clamp) = (source(2, 32)?, source(3, 32)?);
                let at = Variables { thread: at.thread - at.thread % 32 + lane as u32, ..at };
                return (lane < 32 && clamp == 31)
                    .then(|| self.operand(parts.operands.get(1)?, 32, at, depth))
                    .flatten();
            }
            "selp" => {
                if source(3, 32)? != 0 {
                    x()?
                } else {
                    y()?
                }
            }
            _ => return None,
        })
    }

    /// Where in the block of parameters an address lies, in bytes: `attention_param_0+164`, or `%rd1+20` where `%rd1` is
    /// one itself.
    fn parameter(&self, address: &str) -> Option<i64> {
        let (base, offset) = match address.split_once('+') {
            Some((base, offset)) => (base, offset.trim().parse().ok()?),
            None => (address, 0),
        };
        let base = base.trim();
        if base.ends_with("_param_0") {
            return Some(offset);
        }
        let parts = &self.0.get(base)?.as_ref()?.parts;
        match parts.first() {
            "mov" => Some(self.parameter(parts.operands.get(1)?)? + offset),
            "add" => {
                let step: i64 = parts.operands.get(2)?.parse().ok()?;
                Some(self.parameter(parts.operands.get(1)?)? + step + offset)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutate::mutations;

    const KERNEL: &str = ".entry attention() {
mov.b64 %rd1, attention_param_0;
add.s64 %rd2, %rd1, 144;
ld.param.u32 %r1, [%rd2+20];
mov.u32 %r2, %tid.x;
shr.s32 %r3, %r2, 31;
shr.u32 %r4, %r3, 29;
add.s32 %r5, %r2, %r4;
shr.s32 %r6, %r5, 3;
setp.lt.s32 %p1, %r1, 41;
mul.wide.u32 %rd3, %r6, 16384;
ld.param.u32 %r7, [%rd2+16];
shr.s32 %r8, %r7, 31;
mov.u32 %r9, %r2;
add.s32 %r9, %r9, 1;
shr.s32 %r10, %r9, 31;
mov.u32 %r11, 31;
shfl.sync.idx.b32 %r12|%p2, %r6, 0, %r11, -1;
shr.u32 %r13, %r12, 31;
shfl.sync.idx.b32 %r14|%p2, %r7, 0, %r11, -1;
shr.u32 %r15, %r14, 31;
ret;
}
";

    fn same(line: usize) -> Vec<(MutationKind, String)> {
        let found = mutations(KERNEL).into_iter().filter(|mutation| mutation.ptx_line == line);
        let same = found.filter(|mutation| is_same_for_all(mutation, KERNEL, 256));
        same.map(|mutation| (mutation.kind, mutation.replacement().to_owned())).collect()
    }

    #[test]
    fn what_is_for_negative_indices_alone_changes_nothing() {
        use MutationKind::{Constant, DroppedOperand, Shift, Sign};
        let texts = |line: usize| same(line).into_iter().map(|(_, text)| text).collect::<Vec<_>>();
        assert_eq!(texts(6), ["shr.s32 %r3, %r2, 32;", "shr.s32 %r3, %r2, 30;"]);
        assert_eq!(same(7).iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [Constant, Constant, Shift]);
        assert_eq!(
            same(8),
            [(DroppedOperand, "mov.s32 %r5, %r2;".to_owned()), (Sign, "sub.s32 %r5, %r2, %r4;".to_owned()),]
        );
        assert!(texts(3).contains(&"mov.s64 %rd2, 144;".to_owned()));
        // Where the index itself is concerned.
        assert_eq!(texts(9), [] as [&str; 0]);
    }

    #[test]
    fn a_head_dimension_is_a_multiple_of_eight() {
        let texts: Vec<String> = same(10).into_iter().map(|(_, text)| text).collect();
        assert_eq!(texts, ["setp.lt.s32 %p1, %r1, 42;", "setp.le.s32 %p1, %r1, 41;"]);
    }

    #[test]
    fn a_product_that_fits_32_bits_may_be_cut_off_there() {
        assert!(same(11).iter().any(|(kind, _)| *kind == MutationKind::Narrowed));
        // 31 · 2^27 is more.
        let large = KERNEL.replace("16384", "134217728");
        let narrowed =
            mutations(&large).into_iter().find(|one| one.ptx_line == 11 && one.kind == MutationKind::Narrowed);
        let narrowed = narrowed.expect("there is one");
        assert!(is_same_for_all(&narrowed, &large, 256));
        assert!(!is_same_for_all(&narrowed, &large, 384));
    }

    #[test]
    fn other_parameters_and_registers_with_two_definitions_are_anything() {
        assert_eq!((same(13), same(16)), (Vec::new(), Vec::new()));
    }

    #[test]
    fn a_lane_that_gets_anothers_index_holds_an_index() {
        let kinds = |line: usize| same(line).into_iter().map(|(kind, _)| kind).collect::<Vec<_>>();
        assert_eq!(kinds(19), [MutationKind::Constant, MutationKind::Constant, MutationKind::Shift]);
        assert_eq!(kinds(21), []);
    }
}
