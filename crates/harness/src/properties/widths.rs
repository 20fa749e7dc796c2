//! Properties of values that are wider or narrower than keys.

use sdpa_core::{Layout, Operand, Problem};
use sdpa_ref::{Judged, Reference};

use super::{Instance, no_difference, operand_rows, valid};
use crate::execute::{Output, rows};
use crate::regime::GAP;
use crate::verify::{Reason, Thoroughness, difference_between, judge, sample_rows};

/// Values as wide as this, and no wider.
const WIDEST: usize = sdpa_core::MAX_HEAD_DIM;

/// Each column of the output is of its own column of the values: narrow values are the first columns of wide ones, whatever the
/// others are, NaN included. Bit for bit if both problems get kernels with equally many keys in a tile; what such a number is
/// different for may be off by roundings, so there the narrow result is held to the oracle.
pub(super) fn value_columns_are_independent(instance: &Instance<'_>) -> Result<Judged, Reason> {
    let asked = super::extensions::contiguous(instance);
    let own = asked.value_dim();
    let other = 8 * (1 + instance.choices().below(WIDEST / 8));
    let layout = if instance.case.seed.is_multiple_of(2) { Layout::Bhld } else { Layout::Blhd };
    let of_width = |width| valid(asked.to_builder().value_dim(width).layout(layout).build());
    let (narrow, wide) = (of_width(own.min(other)), of_width(own.max(other)));
    let mut data = instance.data(&narrow);
    let mut wide_data = instance.data(&wide);
    wide_data.extension.clone_from(&data.extension);
    for at in operand_rows(&narrow, Operand::Value) {
        let row = wide_data.row_mut(&wide, Operand::Value, at);
        row.fill(GAP);
        row[..narrow.value_dim()].copy_from_slice(data.row_mut(&narrow, Operand::Value, at));
    }
    let found = instance.run(&narrow, &data)?;
    let expected = instance.run(&wide, &wide_data)?;
    if key_tiles(instance, &narrow) == key_tiles(instance, &wide) {
        let difference = difference_between((&narrow, &found), (&wide, &expected), Some);
        let what = "narrow values give another result than the first columns of wide ones";
        return no_difference(what, rows(&narrow).count(), difference);
    }
    let count = Thoroughness::for_problem(&narrow).rows.map(|count| sample_rows(&narrow, count));
    let reference = Reference::compute(&narrow, &data.inputs(), count.as_ref())?;
    Ok(judge(&reference, &first_columns(&wide, &expected, &narrow), instance.generation)?.judged)
}

/// What the kernels of a problem's plan say of the keys in a tile, on which the order of a row's sums depends.
fn key_tiles(instance: &Instance<'_>, problem: &Problem) -> Option<Vec<Option<&'static str>>> {
    let plan = instance.generation.plan(problem, instance.device.limits()).ok()?;
    Some(plan.launches.iter().map(|launch| launch.kernel.define("TILE_KEYS")).collect())
}

/// A wide problem's output as that of a narrow one.
fn first_columns(wide: &Problem, output: &Output, narrow: &Problem) -> Output {
    let mut cut = Output { out: vec![GAP; narrow.span(Operand::Output)], lse: output.lse.clone() };
    for row in rows(narrow) {
        let start = narrow.row_offset(Operand::Output, row[0], row[1], row[2]);
        let width = narrow.value_dim();
        cut.out[start..start + width].copy_from_slice(&output.row(wide, row)[..width]);
    }
    cut
}
