//! Properties of keys and values in pages: where a key lies changes nothing, and neither do other sequences.

use sdpa_core::{Operand, PageTable, Paging, Problem};
use sdpa_ref::{Judged, Unpaged};

use super::{Instance, expect_same, no_difference, operand_rows, valid};
use crate::execute::rows;
use crate::regime::{Data, ExtensionData, GAP, NO_PAGE};
use crate::verify::{Reason, difference_between};

/// The case's problem with its keys in pages: as it is if they are, or in pages of 16.
fn paged(instance: &Instance<'_>) -> Problem {
    let problem = &instance.case.problem;
    if problem.paging().is_some() {
        return problem.clone();
    }
    // Packed keys are not in pages: the batch is dense then.
    let problem = if problem.packing().is_some() { problem.to_dense() } else { problem.clone() };
    let width = problem.len_kv().div_ceil(16);
    let pages = (width * problem.batch()).max(1);
    valid(problem.to_builder().paged(Paging { page: 16, pages, table: PageTable::Rows { width } }).build())
}

fn paging(problem: &Problem) -> Paging {
    problem.paging().expect("the problem was made with pages")
}

/// The same keys behind one another give the same bits.
pub(super) fn paged_is_contiguous(instance: &Instance<'_>) -> Result<Judged, Reason> {
    let problem = paged(instance);
    let data = instance.data(&problem);
    let unpaged = Unpaged::new(&problem, &data.inputs())?.expect("the problem has pages");
    let extension = ExtensionData {
        cu_seqlens_k: unpaged.cu_seqlens_k.clone(),
        key_lengths: unpaged.key_lengths.clone(),
        block_table: Vec::new(),
        page_starts: Vec::new(),
        ..data.extension.clone()
    };
    let contiguous = Data { query: data.query.clone(), key: unpaged.key, value: unpaged.value, extension };
    let found = instance.run(&problem, &data)?;
    let expected = instance.run(&unpaged.problem, &contiguous)?;
    expect_same("keys in pages give another result than behind one another", &problem, &found, &expected, |_| true)
}

/// Pages trade places, and the table says where they are now: no bit changes.
pub(super) fn pages_may_lie_anywhere(instance: &Instance<'_>) -> Result<Judged, Reason> {
    let problem = paged(instance);
    let mut data = instance.data(&problem);
    let before = instance.run(&problem, &data)?;
    let pages = paging(&problem).pages;
    // Each page goes so many places on.
    let step = 1 + instance.choices().below(pages);
    let place = |page: usize| (page + step) % pages;
    let mut moved = data.clone();
    for operand in [Operand::Key, Operand::Value] {
        for [page, head, row] in operand_rows(&problem, operand) {
            let bits = data.row_mut(&problem, operand, [page, head, row]);
            moved.row_mut(&problem, operand, [place(page), head, row]).copy_from_slice(bits);
        }
    }
    for entry in moved.extension.block_table.iter_mut().filter(|entry| **entry != NO_PAGE) {
        *entry = place(*entry as usize) as u32;
    }
    let after = instance.run(&problem, &moved)?;
    expect_same("pages at other places give another result", &problem, &after, &before, |_| true)
}

/// A sequence in a batch has the bits that it has alone.
pub(super) fn paged_is_each_sequence_alone(instance: &Instance<'_>) -> Result<Judged, Reason> {
    let problem = paged(instance);
    let mut data = instance.data(&problem);
    let together = instance.run(&problem, &data)?;
    let packed = problem.packing().is_some();
    let sequences: Vec<_> = match packed {
        true => data.extension.sequences(&problem, 0),
        false => (0..problem.batch()).flat_map(|batch| data.extension.sequences(&problem, batch)).collect(),
    };
    let mut judged = Judged::default();
    for (index, sequence) in sequences.iter().enumerate() {
        // Its pages are where they were; its row of the table is the only one.
        let Paging { page, pages, .. } = paging(&problem);
        let entries: Vec<u32> = (0..sequence.keys.len().div_ceil(page))
            .map(|number| data.extension.place(paging(&problem), index, number * page)[0] as u32)
            .collect();
        let width = problem.len_kv().div_ceil(page);
        let mut builder = Problem::new(1, problem.heads_q(), sequence.queries.len(), problem.head_dim())
            .heads_kv(problem.heads_kv())
            .len_kv(problem.len_kv())
            .value_dim(problem.value_dim())
            .kv_storage(problem.kv_storage())
            .dtype(problem.dtype())
            .mask(problem.mask())
            .scale(problem.scale())
            .window(problem.window())
            .sinks_if(problem.sinks())
            .paged(Paging { page, pages, table: PageTable::Rows { width } });
        if let Some(cap) = problem.softcap() {
            builder = builder.softcap(cap);
        }
        if problem.slopes() {
            builder = builder.slopes();
        }
        for operand in [Operand::Key, Operand::Value] {
            builder = builder.strides(operand, problem.strides(operand));
        }
        let alone = valid(builder.build());
        let mut own = Data {
            query: vec![GAP; alone.span(Operand::Query)],
            key: data.key.clone(),
            value: data.value.clone(),
            extension: ExtensionData {
                key_lengths: vec![sequence.keys.len() as u32],
                block_table: entries,
                sinks: data.extension.sinks.clone(),
                slopes: data.extension.slopes.clone(),
                key_scale: data.extension.key_scale.clone(),
                value_scale: data.extension.value_scale.clone(),
                ..ExtensionData::default()
            },
        };
        own.extension.block_table.resize(width, NO_PAGE);
        let place = |[_, head, query]: [usize; 3]| match packed {
            true => [0, head, sequence.queries.start + query],
            false => [index, head, query],
        };
        for at in operand_rows(&alone, Operand::Query) {
            let row = data.row_mut(&problem, Operand::Query, place(at));
            own.row_mut(&alone, Operand::Query, at).copy_from_slice(row);
        }
        let found = instance.run(&alone, &own)?;
        let difference = difference_between((&alone, &found), (&problem, &together), |at| Some(place(at)));
        let what = "a sequence alone gives another result than in its batch";
        judged += no_difference(what, rows(&alone).count(), difference)?;
    }
    Ok(judged)
}

/// The other sequences may have more keys or fewer.
pub(super) fn paged_neighbours_may_grow(instance: &Instance<'_>) -> Result<Judged, Reason> {
    let problem = paged(instance);
    let mut data = instance.data(&problem);
    let count = problem.sequence_count();
    let Some(kept) = (count > 0).then(|| instance.choices().below(count)) else { return Ok(Judged::default()) };
    let before = instance.run(&problem, &data)?;
    // Shorter ones of the pages that they have.
    let mut choices = instance.choices();
    for (sequence, length) in data.extension.key_lengths.iter_mut().enumerate() {
        if sequence != kept {
            *length = choices.below(*length as usize + 1) as u32;
        }
    }
    if matches!(paging(&problem).table, PageTable::Lists { .. }) {
        // Where lists end says how many keys there are: those that are shorter end earlier.
        let page = paging(&problem).page;
        let mut table = Vec::new();
        let mut starts = vec![0];
        for (sequence, length) in data.extension.key_lengths.iter().enumerate() {
            let first = data.extension.page_starts[sequence] as usize;
            table.extend_from_slice(&data.extension.block_table[first..][..(*length as usize).div_ceil(page)]);
            starts.push(table.len() as u32);
        }
        table.resize(data.extension.block_table.len(), NO_PAGE);
        (data.extension.block_table, data.extension.page_starts) = (table, starts);
    }
    let after = instance.run(&problem, &data)?;
    let own = data.extension.cu_seqlens_q.get(kept..kept + 2).map(|ends| ends[0] as usize..ends[1] as usize);
    let what = "a sequence moved when the others got other lengths";
    expect_same(what, &problem, &after, &before, |[batch, _, query]| match &own {
        Some(queries) => queries.contains(&query),
        None => batch == kept,
    })
}
