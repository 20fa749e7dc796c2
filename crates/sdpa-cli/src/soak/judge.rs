//! What a step computed, beside the oracle and beside itself.

use std::collections::BTreeSet;

use harness::random::Random;
use sdpa_core::{Dtype, Error, Layout, Mask, Problem};
use sdpa_ref::{Found, Inputs, Reference, Rows, Tolerance};

use super::Report;
use super::machine::{Machine, Row, rows};
use super::server::{Sequence, Server, Step};

/// Queries of a sequence that the oracle is asked for, beside the first and the last one.
const MORE_QUERIES: usize = 2;

/// Judges some of the sequences that have new tokens.
pub(super) fn judge_step(
    machine: &Machine<'_>,
    server: &Server,
    step: &Step,
    sampled: usize,
    number: u64,
    random: &mut Random,
    report: &mut Report,
) -> Result<(), Error> {
    let mut places: Vec<usize> = (0..server.places.len()).filter(|place| !step.rows(*place).is_empty()).collect();
    while places.len() > sampled {
        places.swap_remove(random.below(places.len()));
    }
    report.judged_steps += u64::from(!places.is_empty());
    // All results first: what is computed again takes their place.
    let mut results = Vec::new();
    for place in places {
        results.push((place, machine.results(step.rows(place))?));
    }
    for (place, found) in &results {
        let Some(sequence) = &server.places[*place] else { continue };
        report.longest_judged = report.longest_judged.max(sequence.tokens.len());
        if let Err(wrong) = beside_the_oracle(machine, sequence, found, random, report) {
            let (queries, keys) = (step.rows(*place).len(), sequence.tokens.len());
            report.found(number, format_args!("place {place}, {queries} queries, {keys} keys: {wrong}"));
        }
        alone(machine, step, *place, found, number, random, report)?;
    }
    Ok(())
}

/// A sequence's rows beside what the oracle makes of all the tokens that it was ever given.
fn beside_the_oracle(
    machine: &Machine<'_>,
    sequence: &Sequence,
    (out, lse): &(Vec<u16>, Vec<f32>),
    random: &mut Random,
    report: &mut Report,
) -> Result<(), String> {
    let shape = &machine.shape;
    let keys = sequence.tokens.len();
    let queries = out.len() / (shape.heads_q * shape.head_dim);
    let problem = Problem::new(1, shape.heads_q, queries, shape.head_dim)
        .heads_kv(shape.heads_kv)
        .len_kv(keys)
        .dtype(Dtype::Bf16)
        .mask(Mask::Causal)
        .layout(Layout::Blhd)
        .build()
        .map_err(|error| error.to_string())?;
    let query = rows(shape, Row::Query, &sequence.tokens[keys - queries..]);
    let (key, value) = (rows(shape, Row::Key, &sequence.tokens), rows(shape, Row::Value, &sequence.tokens));
    let mut asked = BTreeSet::from([0, queries - 1]);
    asked.extend((0..MORE_QUERIES).map(|_| random.below(queries)));
    let asked = Rows { queries: asked.into_iter().collect(), ..Rows::all(&problem) };
    let inputs = Inputs { query: &query, key: &key, value: &value, ..Inputs::default() };
    let reference = Reference::compute(&problem, &inputs, Some(&asked)).map_err(|error| error.to_string())?;
    let factor = machine.generation.generation().accuracy.factor();
    let tolerance = Tolerance { factor, ..Tolerance::default() };
    let measured = reference.judge(&Found { out, lse: Some(lse) }, &tolerance).map_err(|wrong| wrong.to_string())?;
    report.note(measured.judged);
    Ok(())
}

/// A sequence alone, at another place of the batch: the same bits.
fn alone(
    machine: &Machine<'_>,
    step: &Step,
    place: usize,
    (out, lse): &(Vec<u16>, Vec<f32>),
    number: u64,
    random: &mut Random,
    report: &mut Report,
) -> Result<(), Error> {
    let count = machine.shape.sequences;
    let other = (place + 1 + random.below(count.saturating_sub(1))) % count;
    let own = step.rows(place);
    let mut again = Step::empty(&machine.shape);
    let width = again.table.len() / count;
    again.tokens = step.tokens[own.clone()].to_vec();
    again.starts[other + 1..].fill(own.len() as u32);
    again.lengths[other] = step.lengths[place];
    again.table[other * width..][..width].copy_from_slice(&step.table[place * width..][..width]);
    machine.attend(&again)?;
    let (out_again, lse_again) = machine.results(0..own.len())?;
    report.repeated_rows += lse.len();
    let bits = |sums: &[f32]| sums.iter().map(|sum| sum.to_bits()).collect::<Vec<u32>>();
    if *out != out_again || bits(lse) != bits(&lse_again) {
        report.found(number, format_args!("place {place}: alone at place {other} it has other bits"));
    }
    Ok(())
}
