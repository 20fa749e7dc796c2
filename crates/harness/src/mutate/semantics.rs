//! Changes to what a statement promises of order: semantics, scopes, proxies, counts and phases.

use super::kind::MutationKind::{self, *};
use super::statement::Statement;
use super::values::Parts;

/// Every weakening of a statement's order.
pub(super) fn changes(statement: &Statement<'_>) -> Vec<(MutationKind, String)> {
    let Some(parts) = Parts::new(statement) else { return Vec::new() };
    let mut changes: Vec<(MutationKind, String)> = Vec::new();
    let scoped = matches!(parts.first(), "ld" | "st" | "atom" | "red" | "fence" | "membar" | "mbarrier");
    for strong in ["acquire", "release", "acq_rel"] {
        if scoped && parts.has(strong) && !parts.has("mbarrier_init") {
            let weak = if parts.first() == "fence" { None } else { Some(parts.with_part(strong, "relaxed")) };
            changes.extend(weak.map(|text| (Semantics, text)));
        }
    }
    for (wide, narrow) in [("gpu", "cta"), ("cluster", "cta"), ("gl", "cta")] {
        // Of `shared::cluster` the scope is no part of its own.
        if scoped && parts.has(wide) && !parts.has("mbarrier_init") {
            changes.push((Scope, parts.with_part(wide, narrow)));
        }
    }
    changes.extend(match parts.first() {
        "mbarrier" => mbarrier(&parts),
        "ld" if parts.has("global") && !parts.has("nc") && !parts.has("relaxed") && !parts.has("acquire") => {
            vec![(NonCoherent, parts.with_part("global", "global.nc"))]
        }
        "fence" if parts.has("proxy") => fenced_space(&parts),
        "bar" | "barrier" if !parts.has("warp") && parts.operands.len() == 2 && !parts.has("red") => counts(&parts, 32),
        _ => Vec::new(),
    });
    changes
}

/// Semantics that an mbarrier's operation has by default, arrivals that it counts, and the phase that it waits for.
fn mbarrier(parts: &Parts<'_>) -> Vec<(MutationKind, String)> {
    let states_order = ["relaxed", "acquire", "release", "acq_rel"].iter().any(|order| parts.has(order));
    let mut changes = Vec::new();
    if parts.has("init") {
        return counts(parts, 1);
    }
    let waits = parts.has("try_wait") || parts.has("test_wait");
    if !states_order && (waits || parts.has("arrive")) {
        let (before, after) = parts.opcode.split_at(parts.opcode.find(".shared").unwrap_or(parts.opcode.len()));
        changes.push((Semantics, parts.with(&format!("{before}.relaxed.cta{after}"), &parts.operands)));
    }
    if let (true, Some(parity)) = (waits && parts.has("parity"), parts.operands.get(2)) {
        let mut operands = parts.operands.clone();
        operands[2] = "flipped";
        let wait = parts.with(parts.opcode, &operands);
        changes.push((Parity, format!("{{ .reg .b32 flipped; xor.b32 flipped, {parity}, 1; {wait} }}")));
    }
    changes
}

/// The last operand, so many more and so many fewer.
fn counts(parts: &Parts<'_>, step: u32) -> Vec<(MutationKind, String)> {
    let Some((count, others)) = parts.operands.split_last() else { return Vec::new() };
    let with = |sign: &str| {
        let operands: Vec<&str> = others.iter().copied().chain(["count"]).collect();
        let whole = parts.with(parts.opcode, &operands);
        (Count, format!("{{ .reg .b32 count; {sign}.u32 count, {count}, {step}; {whole} }}"))
    };
    vec![with("add"), with("sub")]
}

/// A proxy fence for another kind of memory.
fn fenced_space(parts: &Parts<'_>) -> Vec<(MutationKind, String)> {
    let other = match () {
        () if parts.opcode.contains(".shared::cta") => parts.opcode.replace(".shared::cta", ".global"),
        () if parts.has("global") => parts.opcode.replace(".global", ".shared::cta"),
        () if parts.opcode == "fence.proxy.async" => format!("{}.global", parts.opcode),
        () => return Vec::new(),
    };
    vec![(FencedSpace, parts.with(&other, &parts.operands))]
}
