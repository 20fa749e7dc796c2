//! Properties of keys and values in e4m3: scales are factors, and bits are the numbers that they are.

use sdpa_core::{KvScales, KvStorage, Operand, Problem};
use sdpa_ref::Judged;

use super::{Extents, Instance, expect_same, operand_rows, valid};
use crate::execute::{Position, rows};
use crate::needs::stored_in_e4m3;
use crate::verify::Reason;

/// The case's problem with keys and values in e4m3: as it is if they are.
fn stored(instance: &Instance<'_>) -> Problem {
    let problem = &instance.case.problem;
    match problem.kv_storage() {
        KvStorage::E4m3(_) => problem.clone(),
        KvStorage::Dtype => stored_in_e4m3(problem, KvScales::Head),
    }
}

/// Twice the scales of half the numbers: both are exact, so not a bit may change. Numbers whose half is none, which are small,
/// become 0 before.
pub(super) fn scales_fold_into_what_is_stored(instance: &Instance<'_>) -> Result<Judged, Reason> {
    /// The smallest number whose half is a normal one.
    const SMALLEST: u16 = 0x10;
    // A kernel may work with the smallest number there is instead of a scale of 0.
    let problem = match instance.case.problem.scale() {
        0.0 => valid(stored(instance).to_builder().scale(1.0).build()),
        _ => stored(instance),
    };
    let mut data = instance.data(&problem);
    let mut halved = data.clone();
    for operand in [Operand::Key, Operand::Value] {
        for at in operand_rows(&problem, operand) {
            let row = data.row_mut(&problem, operand, at);
            for (whole, half) in row.iter_mut().zip(halved.row_mut(&problem, operand, at)) {
                // NaN is between rows and in pages of no sequence.
                match *whole & 0x7f {
                    0x7f => {}
                    magnitude if magnitude < SMALLEST => (*whole, *half) = (0, 0),
                    _ => *half = *whole - 8,
                }
            }
        }
    }
    let scales = halved.extension.key_scale.iter_mut().chain(&mut halved.extension.value_scale);
    scales.for_each(|scale| *scale *= 2.0);
    let expected = instance.run(&problem, &data)?;
    let found = instance.run(&problem, &halved)?;
    expect_same("twice the scales of half the keys and values differ", &problem, &found, &expected, |_| true)
}

/// The same scale for each head is one for all.
pub(super) fn equal_scales_are_one(instance: &Instance<'_>) -> Result<Judged, Reason> {
    let asked = stored(instance);
    let of = |scales| valid(asked.to_builder().kv_storage(KvStorage::E4m3(scales)).build());
    let (one, each) = (of(KvScales::Tensor), of(KvScales::Head));
    let data = instance.data(&one);
    let mut repeated = data.clone();
    for scales in [&mut repeated.extension.key_scale, &mut repeated.extension.value_scale] {
        *scales = vec![scales[0]; each.kv_scale_count()];
    }
    let found = instance.run(&each, &repeated)?;
    let expected = instance.run(&one, &data)?;
    expect_same("a scale for each head gives another result than the same for all", &one, &found, &expected, |_| true)
}

/// Each finite number that 8 bits hold, as the only value of its column, comes back as it is: both dtypes hold it.
pub(super) fn stored_values_come_back(instance: &Instance<'_>) -> Result<Judged, Reason> {
    let problem = valid(instance.reshape(Extents { len_kv: 1, ..instance.extents() }).build());
    let problem = stored_in_e4m3(&problem, KvScales::Tensor);
    let mut data = instance.data(&problem);
    data.extension.value_scale = vec![1.0];
    // A score of 0, so that the weight is 1 and nothing is rounded.
    for at in operand_rows(&problem, Operand::Query) {
        data.row_mut(&problem, Operand::Query, at).fill(0);
    }
    let mut next = instance.choices().below(256) as u16;
    for at in operand_rows(&problem, Operand::Value) {
        for bits in data.row_mut(&problem, Operand::Value, at) {
            // All 256 in turn, in another order than columns have.
            next = (next + 37) & 0xff;
            *bits = if next & 0x7f == 0x7f { 0 } else { next };
        }
    }
    let output = instance.run(&problem, &data)?;
    let mut judged = 0;
    for row in rows(&problem).filter(|[_, _, query]| problem.visible_keys(*query) > 0) {
        judged += 1;
        let values = data.values(&problem, Operand::Value, [row[0], problem.kv_head(row[1]), 0]);
        for (column, (bits, value)) in output.row(&problem, row).iter().zip(values).enumerate() {
            let found = problem.dtype().decode(*bits);
            if found != value {
                let rule = format!("there is one key, whose value is {value:e}");
                return Err(Reason::Row { at: Position { row, column: Some(column) }, found, rule });
            }
        }
    }
    Ok(Judged::all(judged))
}

/// NaN in an element of a value, of either sign, makes its column NaN in every row that sees it, and changes no other column and
/// no log-sum-exp.
pub(super) fn stored_nan_reaches_its_column(instance: &Instance<'_>) -> Result<Judged, Reason> {
    let problem = stored(instance).to_dense();
    let mut data = instance.data(&problem);
    let [batches, heads, length, width] = problem.shape(Operand::Value);
    if batches == 0 || length == 0 {
        return Ok(Judged::default());
    }
    let before = instance.run(&problem, &data)?;
    let mut choices = instance.choices();
    let [batch, head, key, column] = [batches, heads, length, width].map(|count| choices.below(count));
    data.row_mut(&problem, Operand::Value, [batch, head, key])[column] = [0x7f, 0xff][choices.below(2)];
    let mut after = instance.run(&problem, &data)?;
    let mut judged = Judged::default();
    for row in rows(&problem).filter(|row| row[0] == batch && problem.kv_head(row[1]) == head) {
        let start = problem.row_offset(Operand::Output, row[0], row[1], row[2]);
        let found = problem.dtype().decode(after.out[start + column]);
        if problem.visible_keys(row[2]) > key && !found.is_nan() {
            let rule = "the row sees a value that is NaN in this column".to_owned();
            return Err(Reason::Row { at: Position { row, column: Some(column) }, found, rule });
        }
        // Rows of the same tile that do not see it may have it in this column.
        if found.is_nan() {
            after.out[start + column] = before.out[start + column];
        }
        judged += Judged::all(1);
    }
    let what = "a value that is NaN in one column changed another one";
    Ok(judged + expect_same(what, &problem, &after, &before, |_| true)?)
}
