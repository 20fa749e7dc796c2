//! Properties of what problems ask for beyond dense attention. Each is asked of problems that ask for it.

use sdpa_core::{Operand, Packing, Problem, ProblemBuilder, Sequence, Window};
use sdpa_ref::Judged;

use super::{Instance, expect_same, no_difference, operand_rows, valid};
use crate::execute::rows;
use crate::regime::{Data, GAP};
use crate::verify::{Reason, difference_between};

/// The case's problem, packed: as it is if it is, or cut into a few sequences.
fn packed(instance: &Instance<'_>) -> Problem {
    let problem = &contiguous(instance);
    if problem.packing().is_some() {
        return problem.clone();
    }
    let sequences = 2 + instance.choices().below(5);
    let longest = |total: usize| total.div_ceil(sequences) + (total - total.div_ceil(sequences)) / 3;
    let packing = Packing { sequences, longest_q: longest(problem.len_q()), longest_kv: longest(problem.len_kv()) };
    let builder = Problem::packed(packing, problem.heads_q(), problem.len_q(), problem.head_dim())
        .heads_kv(problem.heads_kv())
        .len_kv(problem.len_kv())
        .dtype(problem.dtype())
        .mask(problem.mask())
        .scale(problem.scale());
    valid(like(problem, builder).build())
}

/// The case's problem with its keys behind one another: of keys in pages other properties ask.
pub(super) fn contiguous(instance: &Instance<'_>) -> Problem {
    let problem = &instance.case.problem;
    match problem.paging() {
        None => problem.clone(),
        Some(_) => valid(problem.unpaged(&instance.case.extension_data().key_lengths)),
    }
}

/// The same scores, window, width and storage of values for another shape.
fn like(problem: &Problem, mut builder: ProblemBuilder) -> ProblemBuilder {
    builder = builder.window(problem.window()).value_dim(problem.value_dim()).kv_storage(problem.kv_storage());
    if let Some(cap) = problem.softcap() {
        builder = builder.softcap(cap);
    }
    builder = builder.sinks_if(problem.sinks());
    if problem.slopes() { builder.slopes() } else { builder }
}

/// A packed sequence is the same sequence alone, bit for bit.
pub(super) fn packed_is_each_sequence_alone(instance: &Instance<'_>) -> Result<Judged, Reason> {
    let problem = packed(instance);
    let mut data = instance.data(&problem);
    let together = instance.run(&problem, &data)?;
    let mut judged = Judged::default();
    for sequence in data.extension.sequences(&problem, 0) {
        let Sequence { queries, keys } = &sequence;
        let alone = Problem::new(1, problem.heads_q(), queries.len(), problem.head_dim())
            .heads_kv(problem.heads_kv())
            .len_kv(keys.len())
            .dtype(problem.dtype())
            .mask(problem.mask())
            .scale(problem.scale());
        let alone = valid(like(&problem, alone).build());
        let mut own = instance.data(&alone);
        own.extension.sinks.clone_from(&data.extension.sinks);
        own.extension.slopes.clone_from(&data.extension.slopes);
        own.extension.key_scale.clone_from(&data.extension.key_scale);
        own.extension.value_scale.clone_from(&data.extension.value_scale);
        for (operand, range) in [(Operand::Query, queries), (Operand::Key, keys), (Operand::Value, keys)] {
            copy_rows((&problem, &mut data, range.start), (&alone, &mut own), operand);
        }
        let found = instance.run(&alone, &own)?;
        let place = |[_, head, query]: [usize; 3]| Some([0, head, queries.start + query]);
        let difference = difference_between((&alone, &found), (&problem, &together), place);
        let what = "a sequence alone gives another result than in its batch";
        judged += no_difference(what, rows(&alone).count(), difference)?;
    }
    Ok(judged)
}

/// Copies the rows of `to`'s tensor from a packed one, where they begin at `start`.
fn copy_rows(
    (problem, from, start): (&Problem, &mut Data, usize),
    (to_problem, to): (&Problem, &mut Data),
    operand: Operand,
) {
    for [batch, head, position] in operand_rows(to_problem, operand) {
        let row = from.row_mut(problem, operand, [0, head, start + position]);
        to.row_mut(to_problem, operand, [batch, head, position]).copy_from_slice(row);
    }
}

/// The other sequences of a packed batch may be anything, NaN included.
pub(super) fn packed_neighbours_do_not_matter(instance: &Instance<'_>) -> Result<Judged, Reason> {
    let problem = packed(instance);
    let mut data = instance.data(&problem);
    let before = instance.run(&problem, &data)?;
    let sequences = data.extension.sequences(&problem, 0);
    // One with rows, if there is any.
    let with_rows: Vec<&Sequence> = sequences.iter().filter(|sequence| !sequence.queries.is_empty()).collect();
    let Some(kept) = with_rows.get(instance.choices().below(with_rows.len())) else { return Ok(Judged::default()) };
    for (operand, own) in [(Operand::Query, &kept.queries), (Operand::Key, &kept.keys), (Operand::Value, &kept.keys)] {
        for at in operand_rows(&problem, operand).filter(|[_, _, position]| !own.contains(position)) {
            data.row_mut(&problem, operand, at).fill(GAP);
        }
    }
    let after = instance.run(&problem, &data)?;
    let what = "a packed sequence moved when the others became NaN";
    expect_same(what, &problem, &after, &before, |[_, _, query]| kept.queries.contains(&query))
}

/// The order of packed sequences changes no bit of any.
pub(super) fn packed_order_does_not_matter(instance: &Instance<'_>) -> Result<Judged, Reason> {
    let problem = packed(instance);
    let mut data = instance.data(&problem);
    let before = instance.run(&problem, &data)?;
    let sequences = data.extension.sequences(&problem, 0);
    // Backwards: neighbours change, and each is somewhere else.
    let mut turned = data.clone();
    let (mut queries, mut keys) = (vec![0], vec![0]);
    let mut places = vec![0; problem.len_q()];
    for sequence in sequences.iter().rev() {
        let (first_query, first_key) = (queries[queries.len() - 1], keys[keys.len() - 1]);
        for (operand, from, to) in [
            (Operand::Query, &sequence.queries, first_query),
            (Operand::Key, &sequence.keys, first_key),
            (Operand::Value, &sequence.keys, first_key),
        ] {
            let heads = problem.shape(operand)[1];
            for (head, offset) in (0..heads).flat_map(|head| (0..from.len()).map(move |offset| (head, offset))) {
                let row = data.row_mut(&problem, operand, [0, head, from.start + offset]);
                turned.row_mut(&problem, operand, [0, head, to as usize + offset]).copy_from_slice(row);
            }
        }
        for (offset, query) in sequence.queries.clone().enumerate() {
            places[query] = first_query as usize + offset;
        }
        queries.push(first_query + sequence.queries.len() as u32);
        keys.push(first_key + sequence.keys.len() as u32);
    }
    (turned.extension.cu_seqlens_q, turned.extension.cu_seqlens_k) = (queries, keys);
    let after = instance.run(&problem, &turned)?;
    let place = |[batch, head, query]: [usize; 3]| Some([batch, head, places[query]]);
    let difference = difference_between((&problem, &before), (&problem, &after), place);
    no_difference("packed sequences in another order give another result", rows(&problem).count(), difference)
}

/// A window as wide as the sequence is none.
pub(super) fn wide_window_is_none(instance: &Instance<'_>) -> Result<Judged, Reason> {
    let without = valid(instance.case.problem.to_builder().window(Window::ALL).build());
    let wide = without.len_q() + without.len_kv();
    let window = match instance.choices().below(3) {
        0 => Window { left: Some(wide), right: None },
        1 => Window { left: None, right: Some(wide) },
        _ => Window { left: Some(wide), right: Some(wide) },
    };
    let with = valid(without.to_builder().window(window).build());
    let data = instance.data(&without);
    let found = instance.run(&with, &data)?;
    let expected = instance.run(&without, &data)?;
    expect_same("a window that hides nothing changes something", &with, &found, &expected, |_| true)
}

/// What a window hides may be anything: keys and values, but for NaN, which stays in its column.
pub(super) fn window_hides_the_rest(instance: &Instance<'_>) -> Result<Judged, Reason> {
    let asked = contiguous(instance);
    let problem = match asked.extensions().window {
        true => asked,
        false => {
            let left = instance.choices().below(70);
            valid(asked.to_builder().window(Window { left: Some(left), right: Some(3) }).build())
        }
    };
    if rows(&problem).next().is_none() {
        return Ok(Judged::default());
    }
    let mut data = instance.data(&problem);
    let before = instance.run(&problem, &data)?;
    let (batch, row) = (instance.choices().below(problem.batch()), instance.choices().below(problem.len_q()));
    let sequences = data.extension.sequences(&problem, batch);
    let own = sequences.iter().find(|sequence| sequence.queries.contains(&row));
    let seen = own.map_or(0..0, |sequence| problem.visible(sequence, row));
    let mut other = instance.other_data(&problem);
    for operand in [Operand::Key, Operand::Value] {
        for at in operand_rows(&problem, operand).filter(|[_, _, key]| !seen.contains(key)) {
            data.row_mut(&problem, operand, at).copy_from_slice(other.row_mut(&problem, operand, at));
        }
    }
    let after = instance.run(&problem, &data)?;
    let what = "a row moved when keys and values outside of its window changed";
    expect_same(what, &problem, &after, &before, |[at, _, query]| at == batch && query == row)
}

/// Sinks of −∞ are none.
pub(super) fn sinks_without_weight_are_none(instance: &Instance<'_>) -> Result<Judged, Reason> {
    let [with, without] = [true, false].map(|asked| valid(instance.case.problem.to_builder().sinks_if(asked).build()));
    let mut data = instance.data(&with);
    data.extension.sinks.fill(f32::NEG_INFINITY);
    let found = instance.run(&with, &data)?;
    data.extension.sinks.clear();
    let expected = instance.run(&without, &data)?;
    expect_same("sinks of −∞ change something", &with, &found, &expected, |_| true)
}
