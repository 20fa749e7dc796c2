//! Changes to what a statement computes.

use super::kind::MutationKind::{self, *};
use super::statement::{Statement, guard_and_instruction};

type Changes = Vec<(MutationKind, String)>;

/// An instruction in its parts.
pub(super) struct Parts<'p> {
    /// `@%p1`, with a blank behind it; empty without a guard.
    pub(super) guard: String,
    pub(super) opcode: &'p str,
    pub(super) operands: Vec<&'p str>,
}

impl<'p> Parts<'p> {
    pub(super) fn new(statement: &Statement<'p>) -> Option<Self> {
        Self::of(statement.text)
    }

    /// Of one instruction without its semicolon.
    pub(super) fn of(text: &'p str) -> Option<Self> {
        let (guard, instruction) = guard_and_instruction(text);
        let (opcode, operands) = instruction.split_once(char::is_whitespace).unwrap_or((instruction, ""));
        if opcode.is_empty() || opcode.starts_with('.') {
            return None;
        }
        let guard = guard.map(|guard| format!("{guard} ")).unwrap_or_default();
        Some(Self { guard, opcode, operands: split(operands) })
    }

    pub(super) fn has(&self, part: &str) -> bool {
        self.opcode.split('.').any(|own| own == part)
    }

    pub(super) fn first(&self) -> &'p str {
        self.opcode.split('.').next().unwrap_or(self.opcode)
    }

    /// The instruction with another opcode and these operands.
    pub(super) fn with<S: AsRef<str>>(&self, opcode: &str, operands: &[S]) -> String {
        let operands: Vec<&str> = operands.iter().map(AsRef::as_ref).collect();
        format!("{}{opcode} {};", self.guard, operands.join(", "))
    }

    /// The same with one part of the opcode replaced.
    pub(super) fn with_part(&self, part: &str, by: &str) -> String {
        let parts: Vec<&str> = self.opcode.split('.').map(|own| if own == part { by } else { own }).collect();
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        self.with(&parts.join("."), &self.operands)
    }
}

/// Operands, at commas outside of all brackets.
fn split(operands: &str) -> Vec<&str> {
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (at, letter) in operands.char_indices() {
        match letter {
            '{' | '[' | '(' => depth += 1,
            '}' | ']' | ')' => depth -= 1,
            ',' if depth == 0 => {
                found.push(operands[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    let last = operands[start..].trim();
    if !last.is_empty() {
        found.push(last);
    }
    found
}

/// Every change to what a statement computes.
pub(super) fn changes(statement: &Statement<'_>) -> Changes {
    let Some(parts) = Parts::new(statement) else { return Vec::new() };
    let mut changes = constants(&parts);
    changes.extend(conditions(&parts, statement));
    changes.extend(match parts.first() {
        "setp" | "set" => comparisons(&parts),
        "min" => vec![(MinimumMaximum, parts.with_part("min", "max"))],
        "max" => vec![(MinimumMaximum, parts.with_part("max", "min"))],
        "shl" | "shr" => shifts(&parts),
        "add" | "sub" | "mul" | "and" | "or" | "xor" | "div" | "rem" => binary(&parts),
        "fma" | "mad" => fused(&parts),
        "selp" => swapped(&parts, 1, 2),
        "neg" | "abs" | "not" => copied(&parts),
        "mma" => swapped_fragment(&parts),
        _ => Vec::new(),
    });
    changes.extend(narrowed(&parts));
    changes
}

/// Integers in any operand but addresses, and floating-point constants.
fn constants(parts: &Parts<'_>) -> Changes {
    const OF: [&str; 24] = [
        "add", "sub", "mul", "mad", "shl", "shr", "shf", "and", "or", "xor", "setp", "selp", "min", "max", "mov",
        "bfe", "bfi", "div", "rem", "shfl", "fma", "lop3", "prmt", "ex2",
    ];
    if !OF.contains(&parts.first()) || parts.has("pred") {
        return Vec::new();
    }
    let mut changes = Vec::new();
    for index in 1..parts.operands.len() {
        let replaced = |by: String| {
            let mut operands: Vec<String> = parts.operands.iter().map(ToString::to_string).collect();
            operands[index] = by;
            (Constant, parts.with(parts.opcode, &operands))
        };
        let operand = parts.operands[index];
        if let Some(bits) = operand.strip_prefix("0f").and_then(|bits| u32::from_str_radix(bits, 16).ok()) {
            let value = f32::from_bits(bits);
            let others = [value + 1.0, value - 1.0].into_iter().filter(|other| other.to_bits() != bits);
            changes.extend(others.map(|other| replaced(format!("0f{:08X}", other.to_bits()))));
        } else if let Ok(value) = operand.parse::<i64>() {
            // A lookup table and a selection of bytes have no more than so many.
            let fits = |other: &i64| parts.first() != "lop3" || (0..256).contains(other);
            let others = [value + 1, value - 1].into_iter().filter(fits);
            changes.extend(others.map(|other| replaced(other.to_string())));
        }
    }
    changes
}

/// Guards of what touches no memory, negated and left out; of what does, negated.
fn conditions(parts: &Parts<'_>, statement: &Statement<'_>) -> Changes {
    let guard = parts.guard.trim();
    let Some(predicate) = guard.strip_prefix('@') else { return Vec::new() };
    let negated = match predicate.strip_prefix('!') {
        Some(plain) => format!("@{plain} "),
        None => format!("@!{predicate} "),
    };
    let other = |guard: String| Parts { guard, opcode: parts.opcode, operands: parts.operands.clone() };
    let mut changes = vec![(NegatedCondition, other(negated).with(parts.opcode, &parts.operands))];
    if !statement.touches_memory() {
        changes.push((DroppedCondition, other(String::new()).with(parts.opcode, &parts.operands)));
    }
    changes
}

fn comparisons(parts: &Parts<'_>) -> Changes {
    const FLIPPED: [(&str, &str); 16] = [
        ("lt", "ge"),
        ("ge", "lt"),
        ("gt", "le"),
        ("le", "gt"),
        ("eq", "ne"),
        ("ne", "eq"),
        ("lo", "hs"),
        ("hs", "lo"),
        ("hi", "ls"),
        ("ls", "hi"),
        ("ltu", "geu"),
        ("geu", "ltu"),
        ("gtu", "leu"),
        ("leu", "gtu"),
        ("equ", "neu"),
        ("neu", "equ"),
    ];
    const MOVED: [(&str, &str); 12] = [
        ("lt", "le"),
        ("le", "lt"),
        ("gt", "ge"),
        ("ge", "gt"),
        ("lo", "ls"),
        ("ls", "lo"),
        ("hi", "hs"),
        ("hs", "hi"),
        ("ltu", "leu"),
        ("leu", "ltu"),
        ("gtu", "geu"),
        ("geu", "gtu"),
    ];
    let Some(comparison) = parts.opcode.split('.').nth(1) else { return Vec::new() };
    let by = |table: &[(&str, &'static str)], kind| {
        let other = table.iter().find(|(own, _)| *own == comparison)?.1;
        Some((kind, parts.with_part(comparison, other)))
    };
    by(&FLIPPED, FlippedComparison).into_iter().chain(by(&MOVED, MovedEdge)).collect()
}

fn shifts(parts: &Parts<'_>) -> Changes {
    let width = parts.opcode.trim_start_matches(|letter: char| !letter.is_ascii_digit());
    let other = if parts.first() == "shl" { format!("shr.u{width}") } else { format!("shl.b{width}") };
    vec![(Shift, parts.with(&other, &parts.operands))]
}

/// The type of an opcode as `mov` takes it.
fn moved_type(opcode: &str) -> &str {
    opcode.rsplit('.').next().unwrap_or("b32")
}

fn copies(parts: &Parts<'_>, source: usize) -> Option<String> {
    let kind = moved_type(parts.opcode);
    let ordinary = ["s32", "u32", "b32", "s64", "u64", "b64", "f32", "pred"].contains(&kind) && !parts.has("wide");
    ordinary.then(|| parts.with(&format!("mov.{kind}"), &[parts.operands[0], parts.operands[source]]))
}

fn binary(parts: &Parts<'_>) -> Changes {
    let mut changes = Vec::new();
    if parts.operands.len() != 3 {
        return changes;
    }
    for kept in [1, 2] {
        changes.extend(copies(parts, kept).map(|text| (DroppedOperand, text)));
    }
    match parts.first() {
        "sub" | "div" | "rem" => changes.extend(swapped(parts, 1, 2)),
        _ => {}
    }
    match parts.first() {
        "add" if !parts.has("cc") => changes.push((Sign, parts.with_part("add", "sub"))),
        "sub" if !parts.has("cc") => changes.push((Sign, parts.with_part("sub", "add"))),
        _ => {}
    }
    changes
}

fn fused(parts: &Parts<'_>) -> Changes {
    let [destination, left, right, addend] = parts.operands[..] else { return Vec::new() };
    let kind = moved_type(parts.opcode);
    let is_float = parts.first() == "fma";
    if parts.has("wide") || parts.has("hi") {
        return Vec::new();
    }
    let (sum, product) = match is_float {
        true => (format!("add.{kind}"), format!("mul.{kind}")),
        false => (format!("add.{kind}"), format!("mul.lo.{kind}")),
    };
    let mut changes = vec![
        (HalfFusedProduct, parts.with(&sum, &[destination, left, addend])),
        (HalfFusedProduct, parts.with(&product, &[destination, left, right])),
    ];
    changes.extend(swapped(parts, 2, 3));
    changes
}

fn swapped(parts: &Parts<'_>, one: usize, other: usize) -> Changes {
    let mut operands = parts.operands.clone();
    if other >= operands.len() || operands[one] == operands[other] {
        return Vec::new();
    }
    operands.swap(one, other);
    vec![(SwappedOperands, parts.with(parts.opcode, &operands))]
}

fn copied(parts: &Parts<'_>) -> Changes {
    copies(parts, 1).map(|text| (DroppedOperand, text)).into_iter().collect()
}

/// The two registers of a product's right operand.
fn swapped_fragment(parts: &Parts<'_>) -> Changes {
    let Some(inner) = parts.operands.get(2).and_then(|right| right.strip_prefix('{')?.strip_suffix('}')) else {
        return Vec::new();
    };
    let mut registers = split(inner);
    registers.reverse();
    let right = format!("{{{}}}", registers.join(", "));
    let mut operands: Vec<String> = parts.operands.iter().map(ToString::to_string).collect();
    operands[2] = right;
    vec![(SwappedOperands, parts.with(parts.opcode, &operands))]
}

/// Products and shifts to 64 bits, cut off at 32 and extended again as their type says.
fn narrowed(parts: &Parts<'_>) -> Changes {
    let is_wide = match parts.first() {
        "mul" => parts.has("wide") || parts.has("lo") && (parts.has("s64") || parts.has("u64")),
        "mad" => parts.has("wide") || parts.has("s64") || parts.has("u64"),
        "shl" => parts.has("b64"),
        _ => false,
    };
    let signed = if parts.has("u32") || parts.has("u64") { "u" } else { "s" };
    let narrow = |destination: &str| {
        let whole = parts.with(parts.opcode, &parts.operands);
        let Parts { guard, .. } = parts;
        format!(
            "{{ .reg .b32 narrow; {whole} {guard}cvt.u32.u64 narrow, {destination}; {guard}cvt.{signed}64.{signed}32 \
             {destination}, narrow; }}"
        )
    };
    is_wide.then(|| (Narrowed, narrow(parts.operands[0]))).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use crate::mutate::{MutationKind, mutations};

    /// What becomes of one statement, and by which kind of change.
    fn changed(statement: &str) -> Vec<(MutationKind, String)> {
        let ptx = format!(".entry k() {{\n{statement}\nret;\n}}\n");
        let found = mutations(&ptx).into_iter().filter(|mutation| MutationKind::CHANGES.contains(&mutation.kind));
        found.map(|one| (one.kind, one.apply(&ptx).lines().nth(1).unwrap_or("").to_owned())).collect()
    }

    fn texts(statement: &str) -> Vec<String> {
        changed(statement).into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn constants_become_their_neighbours() {
        assert_eq!(texts("shl.b32 %r1, %r2, 4;")[..2], ["shl.b32 %r1, %r2, 5;", "shl.b32 %r1, %r2, 3;"]);
        assert_eq!(texts("mov.f32 %f1, 0f3F800000;"), ["mov.f32 %f1, 0f40000000;", "mov.f32 %f1, 0f00000000;"]);
        // An infinity stays one, an address is no constant, and a table of lop3 has 256 values.
        assert_eq!(texts("mov.f32 %f1, 0fFF800000;"), [] as [&str; 0]);
        assert_eq!(texts("st.global.u32 [%rd1+16], %r1;"), [] as [&str; 0]);
        assert_eq!(texts("lop3.b32 %r1, %r2, %r3, %r4, 255;"), ["lop3.b32 %r1, %r2, %r3, %r4, 254;"]);
    }

    #[test]
    fn comparisons_are_flipped_and_their_edges_moved() {
        assert_eq!(texts("setp.lt.s32 %p1, %r1, %r2;"), ["setp.ge.s32 %p1, %r1, %r2;", "setp.le.s32 %p1, %r1, %r2;"]);
        assert_eq!(texts("setp.neu.f32 %p1, %f1, %f2;"), ["setp.equ.f32 %p1, %f1, %f2;"]);
        assert_eq!(texts("max.f32 %f1, %f2, %f3;"), ["min.f32 %f1, %f2, %f3;"]);
    }

    #[test]
    fn operands_are_left_out_swapped_and_cut_off() {
        let sub = ["mov.s32 %r1, %r2;", "mov.s32 %r1, %r3;", "sub.s32 %r1, %r3, %r2;", "add.s32 %r1, %r2, %r3;"];
        assert_eq!(texts("sub.s32 %r1, %r2, %r3;"), sub);
        let fma = ["add.f32 %f1, %f2, %f4;", "mul.f32 %f1, %f2, %f3;", "fma.rn.f32 %f1, %f2, %f4, %f3;"];
        assert_eq!(texts("fma.rn.f32 %f1, %f2, %f3, %f4;"), fma);
        assert_eq!(texts("selp.b32 %r1, %r2, %r3, %p1;"), ["selp.b32 %r1, %r3, %r2, %p1;"]);
        let wide = texts("mul.wide.s32 %rd1, %r1, %r2;");
        assert_eq!(
            wide,
            ["{ .reg .b32 narrow; mul.wide.s32 %rd1, %r1, %r2; cvt.u32.u64 narrow, %rd1; cvt.s64.s32 %rd1, narrow; }"]
        );
        let product = texts("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f1}, {%r1, %r2}, {%r3, %r4}, {%f1};");
        assert!(product.len() == 1 && product[0].contains("{%r1, %r2}, {%r4, %r3}, {%f1}"), "{product:?}");
    }

    #[test]
    fn conditions_are_negated_and_left_out() {
        assert_eq!(texts("@%p1 bra END;"), ["@!%p1 bra END;", "bra END;"]);
        // Leaving out the guard of an access is a kind of its own.
        assert_eq!(texts("@!%p1 st.global.u32 [%rd1], %r1;"), ["@%p1 st.global.u32 [%rd1], %r1;"]);
    }

    #[test]
    fn order_is_weakened() {
        use MutationKind::{Count, FencedSpace, NonCoherent, Parity, Scope, Semantics};
        let all = |statement: &str| changed(statement);
        assert_eq!(
            all("atom.acq_rel.gpu.global.inc.u32 %r1, [%rd1], %r2;"),
            [
                (Semantics, "atom.relaxed.gpu.global.inc.u32 %r1, [%rd1], %r2;".to_owned()),
                (Scope, "atom.acq_rel.cta.global.inc.u32 %r1, [%rd1], %r2;".to_owned()),
            ]
        );
        assert_eq!(all("ld.global.f32 %f1, [%rd1];"), [(NonCoherent, "ld.global.nc.f32 %f1, [%rd1];".to_owned())]);
        let fences = all("fence.proxy.async.shared::cta;");
        assert_eq!(fences.len(), 1);
        assert!(fences[0].0 == FencedSpace && fences[0].1.starts_with("fence.proxy.async.global"), "{fences:?}");
        let kinds = |statement: &str| all(statement).into_iter().map(|(kind, _)| kind).collect::<Vec<_>>();
        assert_eq!(kinds("mbarrier.try_wait.parity.shared::cta.b64 done, [%r1], %r2;"), [Semantics, Parity]);
        assert_eq!(kinds("mbarrier.init.shared::cta.b64 [%r1], 4;"), [Count, Count]);
        assert_eq!(kinds("bar.sync 1, 128;"), [Count, Count]);
        assert_eq!(kinds("bar.sync 0;"), []);
    }
}
