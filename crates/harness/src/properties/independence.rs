//! Properties of what a row must not depend on.

use sdpa_core::{Operand, Problem};
use sdpa_ref::Judged;

use super::{Extents, Instance, expect_same, operand_rows, valid};
use crate::execute::{Output, Position, rows};
use crate::regime::GAP;
use crate::verify::Reason;

/// What a row's last visible key hides: keys and values behind it may be anything.
pub(super) fn causal_prefix(instance: &Instance<'_>) -> Result<Judged, Reason> {
    let problem = instance.causal();
    let mut data = instance.data(&problem);
    let before = instance.run(&problem, &data)?;
    let row = instance.choices().below(problem.len_q());
    let seen = if problem.len_q() == 0 { 0 } else { problem.visible_keys(row) };
    let mut other = instance.other_data(&problem);
    for operand in [Operand::Key, Operand::Value] {
        for at in operand_rows(&problem, operand).filter(|[_, _, key]| *key >= seen) {
            data.row_mut(&problem, operand, at).copy_from_slice(other.row_mut(&problem, operand, at));
        }
    }
    let after = instance.run(&problem, &data)?;
    let what = "a row moved when keys and values that it does not see changed";
    expect_same(what, &problem, &after, &before, |[_, _, query]| query <= row)
}

/// The other sequences of a batch may be anything, NaN included.
pub(super) fn batches_are_independent(instance: &Instance<'_>) -> Result<Judged, Reason> {
    let batches = instance.case.problem.batch().max(2);
    let problem = valid(instance.reshape(Extents { batch: batches, ..instance.extents() }).build());
    let mut data = instance.data(&problem);
    let before = instance.run(&problem, &data)?;
    let kept = instance.choices().below(batches);
    for operand in [Operand::Query, Operand::Key, Operand::Value] {
        for at in operand_rows(&problem, operand).filter(|[batch, _, _]| *batch != kept) {
            data.row_mut(&problem, operand, at).fill(GAP);
        }
    }
    let after = instance.run(&problem, &data)?;
    let what = "a sequence moved when the others became NaN";
    expect_same(what, &problem, &after, &before, |[batch, _, _]| batch == kept)
}

/// The other heads may be anything, NaN included.
pub(super) fn heads_are_independent(instance: &Instance<'_>) -> Result<Judged, Reason> {
    let extents = instance.extents();
    let problem = valid(instance.reshape(Extents { heads_kv: extents.heads_kv.max(2), ..extents }).build());
    let mut data = instance.data(&problem);
    let before = instance.run(&problem, &data)?;
    let kept = instance.choices().below(problem.heads_q());
    let kept_kv = problem.kv_head(kept);
    for (operand, kept) in [(Operand::Query, kept), (Operand::Key, kept_kv), (Operand::Value, kept_kv)] {
        for at in operand_rows(&problem, operand).filter(|[_, head, _]| *head != kept) {
            data.row_mut(&problem, operand, at).fill(GAP);
        }
    }
    let after = instance.run(&problem, &data)?;
    let what = "a head moved when the others became NaN";
    expect_same(what, &problem, &after, &before, |[_, head, _]| head == kept)
}

/// A query of NaN makes its own row NaN, where that row sees a key, and no other.
pub(super) fn nan_query_stays_in_its_row(instance: &Instance<'_>) -> Result<Judged, Reason> {
    let problem = instance.case.problem.clone();
    let Some(chosen) = choose(instance, &problem, Operand::Query) else { return Ok(Judged::default()) };
    let mut data = instance.data(&problem);
    let before = instance.run(&problem, &data)?;
    data.row_mut(&problem, Operand::Query, chosen).fill(GAP);
    let after = instance.run(&problem, &data)?;
    let what = "a row moved when another row's query became NaN";
    let others = expect_same(what, &problem, &after, &before, |row| row != chosen)?;
    let own = match problem.visible_keys(chosen[2]) {
        0 => expect_same("a row without keys read its query", &problem, &after, &before, |row| row == chosen),
        _ => expect_nan(&problem, &after, |row| row == chosen),
    };
    Ok(others + own?)
}

/// A key of NaN makes every row NaN that sees it, and no other. Values of NaN may reach further: tensor cores multiply
/// whole tiles, and 0 · NaN is NaN.
pub(super) fn nan_key_reaches_only_rows_that_see_it(instance: &Instance<'_>) -> Result<Judged, Reason> {
    let problem = instance.causal();
    let Some(chosen) = choose(instance, &problem, Operand::Key) else { return Ok(Judged::default()) };
    let mut data = instance.data(&problem);
    let before = instance.run(&problem, &data)?;
    data.row_mut(&problem, Operand::Key, chosen).fill(GAP);
    let after = instance.run(&problem, &data)?;
    let [batch, kv_head, key] = chosen;
    let sees =
        |row: [usize; 3]| row[0] == batch && problem.kv_head(row[1]) == kv_head && problem.visible_keys(row[2]) > key;
    let what = "a row moved when a key that it does not see became NaN";
    Ok(expect_same(what, &problem, &after, &before, |row| !sees(row))? + expect_nan(&problem, &after, sees)?)
}

/// Some row of an operand, where it has any.
fn choose(instance: &Instance<'_>, problem: &Problem, operand: Operand) -> Option<[usize; 3]> {
    let [batches, heads, length, _] = problem.shape(operand);
    let mut choices = instance.choices();
    (batches > 0 && length > 0).then(|| [choices.below(batches), choices.below(heads), choices.below(length)])
}

fn expect_nan(problem: &Problem, output: &Output, expected: impl Fn([usize; 3]) -> bool) -> Result<Judged, Reason> {
    let rule = || "a NaN in a row's query or in a key that it sees must show in all of the row".to_owned();
    let mut judged = 0;
    for row in rows(problem).filter(|row| expected(*row)) {
        judged += 1;
        for (column, bits) in output.row(problem, row).iter().enumerate() {
            let found = problem.dtype().decode(*bits);
            if !found.is_nan() {
                return Err(Reason::Row { at: Position { row, column: Some(column) }, found, rule: rule() });
            }
        }
        let found = f64::from(output.lse_at(problem, row));
        if !found.is_nan() {
            return Err(Reason::Row { at: Position { row, column: None }, found, rule: rule() });
        }
    }
    Ok(Judged::all(judged))
}
