//! Properties of the values that come out: softmax weights are positive and sum to one.

use sdpa_core::{Mask, Operand, Problem};
use sdpa_ref::{Judged, Reference};

use super::{Extents, Instance, operand_rows, valid};
use crate::execute::{Output, Position, rows};
use crate::regime::{Data, Regime};
use crate::verify::{Reason, Thoroughness, judge, sample_rows};

/// Keys are a set: shuffled together with their values they give the same result, but for the order of the sums.
pub(super) fn key_order_does_not_matter(instance: &Instance<'_>) -> Result<Judged, Reason> {
    let problem = valid(instance.case.problem.to_builder().mask(Mask::Full).build());
    let mut data = instance.data(&problem);
    let mut shuffled = data.clone();
    let order = permutation(instance, problem.len_kv());
    for operand in [Operand::Key, Operand::Value] {
        for [batch, head, key] in operand_rows(&problem, operand) {
            let source = data.row_mut(&problem, operand, [batch, head, order[key]]);
            shuffled.row_mut(&problem, operand, [batch, head, key]).copy_from_slice(source);
        }
    }
    let output = instance.run(&problem, &shuffled)?;
    let rows = Thoroughness::for_problem(&problem).rows.map(|count| sample_rows(&problem, count));
    let reference = Reference::compute(&problem, &data.inputs(), rows.as_ref())?;
    Ok(judge(&reference, &output, instance.generation)?.judged)
}

fn permutation(instance: &Instance<'_>, length: usize) -> Vec<usize> {
    let mut choices = instance.choices();
    let mut order: Vec<usize> = (0..length).collect();
    for last in (1..length).rev() {
        order.swap(last, choices.below(last + 1));
    }
    order
}

/// Whatever the weights are, the mean of equal values is that value.
pub(super) fn constant_values_come_back(instance: &Instance<'_>) -> Result<Judged, Reason> {
    let problem = instance.case.problem.clone();
    let mut data = instance.data(&problem);
    data.value = Regime::ConstantValues.generate(&problem, instance.case.seed).value;
    let output = instance.run(&problem, &data)?;
    expect_between_values(&problem, &mut data, &output, "all values are the same, so the output is that value")
}

/// The softmax of one score is 1.
pub(super) fn single_key_gives_its_value(instance: &Instance<'_>) -> Result<Judged, Reason> {
    let problem = valid(instance.reshape(Extents { len_kv: 1, ..instance.extents() }).build());
    let mut data = instance.data(&problem);
    let output = instance.run(&problem, &data)?;
    expect_between_values(&problem, &mut data, &output, "there is one key, so the output is its value")
}

/// A weighted mean lies between the smallest and the largest of what it is a mean of.
pub(super) fn output_lies_within_the_values(instance: &Instance<'_>) -> Result<Judged, Reason> {
    let problem = instance.case.problem.clone();
    let mut data = instance.data(&problem);
    let output = instance.run(&problem, &data)?;
    expect_between_values(&problem, &mut data, &output, "a weighted mean lies within the values that its row sees")
}

/// Every output element lies between the smallest and the largest value of its column that its row sees, but for what
/// rounding the weights and the output may add.
fn expect_between_values(problem: &Problem, data: &mut Data, output: &Output, rule: &str) -> Result<Judged, Reason> {
    let dtype = problem.dtype();
    // The weights are rounded once each, relative to their sum or, below the normal range, absolutely; their sum and
    // the products' in f32; the result once more.
    let keys = problem.len_kv() as f64;
    let mut judged = 0;
    let slack = 2.1 * dtype.unit_roundoff() + keys * (dtype.subnormal_roundoff() + 2f64.powi(-22)) + 2f64.powi(-18);
    for batch in 0..problem.batch() {
        for head in 0..problem.heads_q() {
            // Rows see more keys the later they come, so the range only grows.
            let mut range = vec![(f64::INFINITY, f64::NEG_INFINITY); problem.value_dim()];
            let mut seen = 0;
            for query in 0..problem.len_q() {
                for key in seen..problem.visible_keys(query) {
                    let row = data.values(problem, Operand::Value, [batch, problem.kv_head(head), key]);
                    for ((low, high), value) in range.iter_mut().zip(row) {
                        (*low, *high) = (low.min(value), high.max(value));
                    }
                }
                seen = problem.visible_keys(query).max(seen);
                if seen == 0 {
                    continue;
                }
                judged += 1;
                let row = [batch, head, query];
                for (column, bits) in output.row(problem, row).iter().enumerate() {
                    let (found, (low, high)) = (dtype.decode(*bits), range[column]);
                    let slack = slack * low.abs().max(high.abs()) + dtype.subnormal_roundoff();
                    // Written so that a NaN is not inside.
                    if !(found >= low - slack && found <= high + slack) {
                        let rule = format!("{rule}: {low:e} to {high:e}, ± {slack:.1e} for rounding");
                        return Err(Reason::Row { at: Position { row, column: Some(column) }, found, rule });
                    }
                }
            }
        }
    }
    Ok(Judged::all(judged))
}

/// More queries than keys, aligned bottom-right: the first rows see no key.
pub(super) fn rows_without_keys_are_zero(instance: &Instance<'_>) -> Result<Judged, Reason> {
    let extents = instance.extents();
    // Queries grow with the keys here, so both stay few: enough for the kernels that need a thousand keys, and one tile
    // where rows are computed a second time, one key after the other.
    let most = if instance.case.regime == Regime::VastLogits { 160 } else { 1100 };
    let len_kv = (extents.len_kv / 2).min(most);
    let extents = Extents { len_q: extents.len_q.max(len_kv + 1), len_kv, ..extents };
    let problem = valid(instance.reshape(extents).mask(Mask::Causal).build());
    let output = instance.run(&problem, &instance.data(&problem))?;
    expect_zero_rows(&problem, &output)
}

/// No key, no query, no sequence: nothing to attend over is a problem like any other.
pub(super) fn empty_lengths(instance: &Instance<'_>) -> Result<Judged, Reason> {
    let extents = instance.extents();
    let mut judged = Judged::default();
    for extents in [
        Extents { len_kv: 0, len_q: extents.len_q.max(1), batch: extents.batch.max(1), ..extents },
        Extents { len_q: 0, ..extents },
        Extents { batch: 0, ..extents },
    ] {
        let problem = valid(instance.reshape(extents).build());
        let output = instance.run(&problem, &instance.data(&problem))?;
        judged += expect_zero_rows(&problem, &output)?;
    }
    Ok(judged)
}

/// Rows that see no key are 0, and the logarithm of their empty sum is −∞.
fn expect_zero_rows(problem: &Problem, output: &Output) -> Result<Judged, Reason> {
    let mut judged = 0;
    for row in rows(problem).filter(|[_, _, query]| problem.visible_keys(*query) == 0) {
        judged += 1;
        let wrong =
            |column, found, rule: &str| Err(Reason::Row { at: Position { row, column }, found, rule: rule.to_owned() });
        for (column, bits) in output.row(problem, row).iter().enumerate() {
            let found = problem.dtype().decode(*bits);
            if found != 0.0 {
                return wrong(Some(column), found, "a row that sees no key is 0");
            }
        }
        let found = f64::from(output.lse_at(problem, row));
        if found != f64::NEG_INFINITY {
            return wrong(None, found, "the log-sum-exp of a row that sees no key is −∞");
        }
    }
    Ok(Judged::all(judged))
}
