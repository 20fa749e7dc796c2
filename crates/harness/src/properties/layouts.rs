//! Properties of problems that are the same problem written in another way.

use sdpa_core::{DeviceKind, Layout, Mask, Operand, Problem, Strides};
use sdpa_ref::Judged;

use super::{Extents, Instance, expect_same, no_difference, operand_rows, valid};
use crate::far::{near, stretched};
use crate::verify::{Reason, difference_between};

/// Strides say where the numbers lie, not what they are.
pub(super) fn strided_is_contiguous(instance: &Instance<'_>) -> Result<Judged, Reason> {
    let contiguous = valid(instance.case.problem.to_builder().layout(Layout::Bhld).build());
    let strided = match instance.case.problem == contiguous {
        true => padded(&contiguous),
        false => instance.case.problem.clone(),
    };
    let found = instance.run(&strided, &instance.data(&strided))?;
    let expected = instance.run(&contiguous, &instance.data(&contiguous))?;
    let what = "strided tensors give another result than contiguous ones";
    no_difference(what, strided.lse_len(), difference_between((&strided, &found), (&contiguous, &expected), Some))
}

/// Offsets beyond 2³¹ and 2³² elements say where the numbers lie, and lose no bit on the way there.
pub(super) fn far_is_near(instance: &Instance<'_>) -> Result<Judged, Reason> {
    let contiguous = valid(instance.case.problem.to_builder().layout(Layout::Bhld).build());
    let expected = instance.run(&contiguous, &instance.data(&contiguous))?;
    // The outermost dimension in use is stretched: in turn sequences, heads, and rows.
    let distance = if instance.case.seed.is_multiple_of(2) { 1 << 31 } else { 1 << 32 };
    // A GPU has to hold what lies between, so there one tensor at a time is far.
    let apart: &[&[Operand]] = match instance.device.kind() {
        DeviceKind::Cuda => &[&[Operand::Query], &[Operand::Key], &[Operand::Value], &[Operand::Output]],
        DeviceKind::Interpreter => &[&Operand::ALL],
    };
    let mut judged = Judged::default();
    for operands in apart {
        let far = stretched(&contiguous, operands, distance);
        let found = instance.run(&far, &instance.data(&near(&far)))?;
        judged +=
            expect_same("tensors with rows far apart give another result", &contiguous, &found, &expected, |_| true)?;
    }
    Ok(judged)
}

/// A problem with room behind every row, head and sequence, another one for each operand.
fn padded(problem: &Problem) -> Problem {
    Operand::ALL
        .into_iter()
        .fold(problem.to_builder(), |builder, operand| {
            let [_, heads, length, width] = problem.shape(operand).map(|extent| extent as i64);
            // 16 bytes, which kernels copy at once.
            let unit = 16 / problem.element(operand).bytes() as i64;
            let row = width + unit * (1 + operand as i64);
            let head = length * row + 2 * unit;
            builder.strides(operand, Strides { batch: heads * head + 3 * unit, head, row })
        })
        .build()
        .expect("padding keeps elements apart")
}

/// Sharing a key head is having it several times.
pub(super) fn grouped_is_repeated(instance: &Instance<'_>) -> Result<Judged, Reason> {
    let extents = instance.extents();
    let extents = Extents { group: extents.group.max(2), ..extents };
    let grouped = valid(instance.reshape(extents).build());
    let repeated = Extents { heads_kv: extents.heads_kv * extents.group, group: 1, ..extents };
    let repeated = valid(instance.reshape(repeated).build());

    let mut grouped_data = instance.data(&grouped);
    let mut repeated_data = instance.data(&repeated);
    for operand in [Operand::Key, Operand::Value] {
        for [batch, head, key] in operand_rows(&repeated, operand) {
            let shared = grouped_data.row_mut(&grouped, operand, [batch, grouped.kv_head(head), key]);
            repeated_data.row_mut(&repeated, operand, [batch, head, key]).copy_from_slice(shared);
        }
    }
    let extension = grouped_data.extension.inputs();
    let scales = |operand| -> Vec<f32> {
        let count = repeated.kv_scale_count();
        (0..count).map(|head| extension.scale(&grouped, operand, grouped.kv_head(head))).collect()
    };
    (repeated_data.extension.key_scale, repeated_data.extension.value_scale) =
        (scales(Operand::Key), scales(Operand::Value));
    let found = instance.run(&grouped, &grouped_data)?;
    let expected = instance.run(&repeated, &repeated_data)?;
    let what = "shared key heads give another result than repeated ones";
    no_difference(what, grouped.lse_len(), difference_between((&grouped, &found), (&repeated, &expected), Some))
}

/// With as many queries as keys, both causal masks are the same mask.
pub(super) fn aligned_masks_agree(instance: &Instance<'_>) -> Result<Judged, Reason> {
    let extents = instance.extents();
    let length = extents.len_q.min(extents.len_kv);
    let square = || instance.reshape(Extents { len_q: length, len_kv: length, ..extents });
    let bottom_right = valid(square().mask(Mask::Causal).build());
    let top_left = valid(square().mask(Mask::CausalTopLeft).build());
    let data = instance.data(&bottom_right);
    let found = instance.run(&top_left, &data)?;
    let expected = instance.run(&bottom_right, &data)?;
    expect_same("top-left and bottom-right masks differ on a square", &top_left, &found, &expected, |_| true)
}

/// Twice the query at half the scale: both are exact, so not a bit may change.
pub(super) fn scale_folds_into_the_query(instance: &Instance<'_>) -> Result<Judged, Reason> {
    // Half of 0 is 0. And a kernel may work with the smallest number there is instead, which no check of values sees.
    let problem = &match instance.case.problem.scale() {
        0.0 => valid(instance.case.problem.to_builder().scale(1.0).build()),
        _ => instance.case.problem.clone(),
    };
    let halved = valid(problem.to_builder().scale(problem.scale() / 2.0).build());
    let data = instance.data(problem);
    let mut doubled = data.clone();
    for at in operand_rows(problem, Operand::Query) {
        for bits in doubled.row_mut(problem, Operand::Query, at) {
            // No regime goes beyond half of f16's largest number.
            *bits = problem.dtype().encode(2.0 * problem.dtype().decode(*bits));
        }
    }
    let expected = instance.run(problem, &data)?;
    let found = instance.run(&halved, &doubled)?;
    expect_same("twice the query at half the scale differs", problem, &found, &expected, |_| true)
}
