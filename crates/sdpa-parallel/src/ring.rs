//! The ring: in step `s` a rank works on the keys of the rank `s` places before it, while the next ones travel.
//!
//! Each rank gets keys from the rank that owns them, and no more of them than its queries see. Per step and rank as many
//! bytes travel as if blocks were handed on from neighbour to neighbour; what is invisible is left out, and no rank's
//! delay is handed on.

use std::ops::Range;

use sdpa_core::{Attention as _, Buffer, Device, Operand, Problem, Sequence, Strides, Tensors, Transfer, View};

use crate::communicator::Communicator;
use crate::context::{ContextParallel, LocalTensors, Work, Workspace, check_tensors};
use crate::error::{Error, Result};
use crate::forecast::StepCost;
use crate::merge::{Accumulator, Place};
use crate::parts::{Part, keeps_diagonal, parts};

/// One rank's steps.
#[derive(Clone, Debug)]
pub(crate) struct RingPlan {
    problem: Problem,
    rank: usize,
    rows: usize,
    /// Rows that belong to a sequence: packed ones may leave rows behind the last one.
    rows_of_sequences: Range<usize>,
    /// Rows of the rank's own keys.
    key_rows: usize,
    steps: Vec<Step>,
}

/// What a rank computes over the keys of one rank, and what travels for it.
#[derive(Clone, Debug)]
struct Step {
    /// Whose keys they are.
    source: usize,
    /// Rows of the source's keys that this rank sees, from the first to the last.
    receive: Range<usize>,
    /// Rows of the source's keys in all.
    source_rows: usize,
    /// Who needs keys of this rank meanwhile.
    destination: usize,
    /// Which rows of them.
    send: Range<usize>,
    pieces: Vec<Piece>,
}

/// A part of some sequences of the batch, which one kernel computes.
#[derive(Clone, Debug)]
struct Piece {
    place: Place,
    /// Rows of the source's keys.
    keys: Range<usize>,
    problem: Problem,
}

/// Places in the workspace.
const SLOTS: usize = 2;
const PART_OUTPUT: usize = 2 * SLOTS;
const PART_LSE: usize = PART_OUTPUT + 1;
const VALUES: usize = PART_LSE + 1;
const LSE: usize = VALUES + 1;

impl RingPlan {
    pub(crate) fn new(context: &ContextParallel, rank: usize) -> Result<Self> {
        let (problem, queries, keys) = (context.problem(), context.queries(), context.keys());
        let ranks = context.ranks();
        let step = |shift: usize| {
            let (source, destination) = ((rank + ranks - shift) % ranks, (rank + shift) % ranks);
            let own = seen(context, rank, source);
            let receive = hull(&own);
            let source_rows = keys.len(source);
            let send = if shift == 0 { 0..0 } else { hull(&seen(context, destination, rank)) };
            // The rank's own keys lie where they lie; those of others as far as they were sent.
            let held = if shift == 0 { source_rows } else { receive.len() };
            let pieces = own.into_iter().map(|(batches, part)| {
                let problem = problem_of(problem, batches.len(), &part, queries.len(rank), held)?;
                Ok(Piece { place: Place { batches, rows: part.rows }, keys: part.keys, problem })
            });
            let pieces = pieces.collect::<Result<_>>()?;
            Ok(Step { source, receive, source_rows, destination, send, pieces })
        };
        declined(context)?;
        let steps = (0..ranks).map(step).collect::<Result<_>>()?;
        let end = context.sequences().iter().map(|sequence| sequence.queries.end).max().unwrap_or(0);
        let mut plan = Self {
            problem: problem.clone(),
            rank,
            rows: queries.len(rank),
            rows_of_sequences: queries.rows_in(rank, &(0..end)),
            key_rows: keys.len(rank),
            steps,
        };
        if plan.only_piece().is_some() {
            // Nothing is merged, so the sinks are the kernel's.
            for piece in plan.steps.iter_mut().flat_map(|step| &mut step.pieces) {
                let with_sinks = piece.problem.to_builder().sinks_if(problem.sinks());
                piece.problem = with_sinks.build().map_err(sdpa_core::Error::from)?;
            }
        }
        Ok(plan)
    }

    pub(crate) fn costs(&self) -> Vec<StepCost> {
        let merges = self.only_piece().is_none();
        let cost = |(index, step): (usize, &Step)| {
            let place = |piece: &Piece| piece.place.batches.len() * piece.place.rows.len();
            let elements =
                step.pieces.iter().map(place).sum::<usize>() * self.problem.heads_q() * self.problem.head_dim();
            // The part is read, and the accumulator read and written.
            let merged = elements * (self.problem.dtype().bytes() + 2 * size_of::<f32>());
            StepCost {
                source: step.source,
                flops: step.pieces.iter().map(|piece| piece.problem.flops()).sum(),
                bytes: if index == 0 { 0 } else { 2 * step.receive.len() * self.row_bytes_of_keys() },
                merged_bytes: if merges { merged } else { 0 },
            }
        };
        self.steps.iter().enumerate().map(cost).collect()
    }

    /// Bytes of one position of the keys of all heads and sequences.
    fn row_bytes_of_keys(&self) -> usize {
        let problem = &self.problem;
        problem.batch() * problem.heads_kv() * problem.head_dim() * problem.dtype().bytes()
    }

    /// The one piece, if a single one is all there is to compute: then nothing is merged.
    fn only_piece(&self) -> Option<&Piece> {
        let mut pieces = self.steps.iter().flat_map(|step| &step.pieces);
        let whole = Place { batches: 0..self.problem.batch(), rows: 0..self.rows };
        match (pieces.next(), pieces.next()) {
            (Some(piece), None) if piece.place == whole => Some(piece),
            _ => None,
        }
    }

    fn lse_bytes(&self, rows: usize) -> usize {
        self.problem.batch() * self.problem.heads_q() * rows * size_of::<f32>()
    }

    fn values_bytes(&self, rows: usize) -> usize {
        self.lse_bytes(rows) * self.problem.head_dim()
    }

    fn output_bytes(&self, rows: usize) -> usize {
        let problem = &self.problem;
        problem.batch() * problem.heads_q() * rows * problem.head_dim() * problem.dtype().bytes()
    }

    pub(crate) fn workspace(&self) -> Vec<(&'static str, usize)> {
        let received = self.steps[1..].iter().map(|step| step.receive.len()).max().unwrap_or(0);
        let slot = received * self.row_bytes_of_keys();
        let rows = match self.only_piece() {
            Some(_) => 0,
            None => self.rows,
        };
        vec![
            ("received keys, first slot", slot),
            ("received values, first slot", slot),
            ("received keys, second slot", slot),
            ("received values, second slot", slot),
            ("output over a part of the keys", self.output_bytes(rows)),
            ("log-sum-exp over a part of the keys", self.lse_bytes(rows)),
            ("merged output", self.values_bytes(rows)),
            ("merged log-sum-exp", self.lse_bytes(rows)),
        ]
    }

    pub(crate) fn run(
        &self,
        device: &dyn Device,
        communicator: &dyn Communicator,
        tensors: &LocalTensors<'_>,
        workspace: &Workspace,
        work: Work,
    ) -> Result<()> {
        let keys = self.key_rows * self.row_bytes_of_keys();
        let (output, problem) = (self.output_bytes(self.rows), &self.problem);
        check_tensors(device, problem, tensors, [output, keys, keys, output], self.lse_bytes(self.rows))?;
        let merged = self.only_piece().is_none().then(|| Accumulator {
            values: &workspace.buffers[VALUES],
            lse: tensors.lse.unwrap_or(&workspace.buffers[LSE]),
            shape: [problem.batch(), problem.heads_q(), self.rows, problem.head_dim()],
            dtype: problem.dtype(),
        });
        let merged = merged.filter(|_| work.computes());

        if work.transfers() {
            self.exchange(device, communicator, tensors, workspace, 1)?;
        }
        if let Some(merged) = &merged {
            merged.begin(device, tensors.sinks.map(|sinks| (sinks, self.rows_of_sequences.clone())))?;
        }
        for (index, step) in self.steps.iter().enumerate() {
            if work.transfers() && index > 0 {
                communicator.compute_follows_transfers(device)?;
                self.exchange(device, communicator, tensors, workspace, index + 1)?;
            }
            if work.computes() {
                self.compute(device, tensors, workspace, merged.as_ref(), [index, step.receive.start])?;
            }
        }
        if let Some(merged) = &merged {
            merged.store(device, tensors.output)?;
        }
        if work.transfers() {
            // Whatever is queued behind this may overwrite what was sent.
            communicator.compute_follows_transfers(device)?;
        }
        Ok(())
    }

    /// Queues the kernels of step `index`, whose keys from `first` on have arrived; their results are merged, if they are not
    /// all there is.
    fn compute(
        &self,
        device: &dyn Device,
        tensors: &LocalTensors<'_>,
        workspace: &Workspace,
        merged: Option<&Accumulator<'_>>,
        [index, first]: [usize; 2],
    ) -> Result<()> {
        let (problem, step) = (&self.problem, &self.steps[index]);
        let [key, value] = match index {
            0 => [tensors.key, tensors.value],
            _ => slot(&workspace.buffers, index),
        };
        let (first, held) = if index == 0 { (0, self.key_rows) } else { (first, step.receive.len()) };
        let row = problem.head_dim() * problem.dtype().bytes();
        for Piece { place: Place { batches, rows }, keys, problem: own } in &step.pieces {
            let query = (batches.start * problem.heads_q() * self.rows + rows.start) * row;
            let keys = (batches.start * problem.heads_kv() * held + keys.start - first) * row;
            let (output, lse) = match merged {
                Some(_) => (&workspace.buffers[PART_OUTPUT], Some(&workspace.buffers[PART_LSE])),
                None => (tensors.output, tensors.lse),
            };
            let (query, key, value) = (View::new(tensors.query, query), View::new(key, keys), View::new(value, keys));
            let mut bound = Tensors::new(query, key, value, output);
            if let Some(lse) = lse {
                bound = bound.with_lse(lse);
            }
            if let Some(sinks) = tensors.sinks.filter(|_| own.sinks()) {
                bound = bound.with_sinks(sinks);
            }
            if let Some(slopes) = tensors.slopes {
                bound = bound.with_slopes(slopes);
            }
            sdpa::Fastest.forward(device, own, &bound)?;
            if let Some(merged) = merged {
                let place = Place { batches: batches.clone(), rows: rows.clone() };
                merged.add(device, &place, &workspace.buffers[PART_OUTPUT], &workspace.buffers[PART_LSE])?;
            }
        }
        Ok(())
    }

    /// Queues what travels for step `index`, if there is such a step: into the slot that the step before the last has left.
    fn exchange(
        &self,
        device: &dyn Device,
        communicator: &dyn Communicator,
        tensors: &LocalTensors<'_>,
        workspace: &Workspace,
        index: usize,
    ) -> Result<()> {
        let Some(step) = self.steps.get(index) else { return Ok(()) };
        communicator.transfers_follow_compute(device)?;
        let [key, value] = slot(&workspace.buffers, index);
        let mut sends = Vec::new();
        for buffer in [tensors.key, tensors.value] {
            let pieces = self.pieces(&step.send, self.key_rows);
            let transfer = |piece: Range<usize>| Transfer {
                peer: step.destination,
                buffer,
                offset: piece.start,
                bytes: piece.len(),
            };
            sends.extend(pieces.into_iter().map(transfer));
        }
        let mut receives = Vec::new();
        for buffer in [key, value] {
            // They arrive behind one another, in the order in which they are sent.
            let mut offset = 0;
            for piece in self.pieces(&step.receive, step.source_rows) {
                receives.push(Transfer { peer: step.source, buffer, offset, bytes: piece.len() });
                offset += piece.len();
            }
        }
        debug_assert!(step.source != self.rank);
        if sends.is_empty() && receives.is_empty() {
            return Ok(());
        }
        communicator.exchange(device, &sends, &receives)
    }

    /// Ranges of bytes of these rows in a tensor of keys `[batch, heads_kv, all, head_dim]`: one if all rows are meant.
    fn pieces(&self, rows: &Range<usize>, all: usize) -> Vec<Range<usize>> {
        let problem = &self.problem;
        let row = problem.head_dim() * problem.dtype().bytes();
        let heads = problem.batch() * problem.heads_kv();
        if rows.is_empty() || heads == 0 {
            return Vec::new();
        }
        if rows.len() == all {
            return std::iter::once(0..heads * all * row).collect();
        }
        (0..heads).map(|head| (head * all + rows.start) * row..(head * all + rows.end) * row).collect()
    }
}

/// The slot that step `index` reads.
fn slot(buffers: &[Buffer], index: usize) -> [&Buffer; 2] {
    let first = 2 * ((index + SLOTS - 1) % SLOTS);
    [&buffers[first], &buffers[first + 1]]
}

/// The parts of what a rank sees of another one's keys, with the sequences of the batch that each is of.
fn seen(context: &ContextParallel, rank: usize, source: usize) -> Vec<(Range<usize>, Part)> {
    let of = |(batches, sequences): (Range<usize>, &[Sequence])| {
        let own = parts(context.problem(), sequences, context.queries(), context.keys(), rank, source);
        own.into_iter().map(move |part| (batches.clone(), part))
    };
    context.batches().into_iter().flat_map(of).collect()
}

/// Says what a ring does not compute: where slopes and parts do not go together. Every rank says the same.
fn declined(context: &ContextParallel) -> Result<()> {
    let (problem, queries, keys, ranks) = (context.problem(), context.queries(), context.keys(), context.ranks());
    if !problem.slopes() {
        return Ok(());
    }
    for (_, sequences) in context.batches() {
        for pair in (0..ranks).flat_map(|rank| (0..ranks).map(move |source| [rank, source])) {
            let own = parts(problem, sequences, queries, keys, pair[0], pair[1]);
            if !own.iter().all(|part| keeps_diagonal(part, problem, sequences, queries, keys, pair)) {
                return Err(Error::Unsupported {
                    way: "ring",
                    what: "slopes, whose distances are those of whole sequences".to_owned(),
                    advice: "take heads, on as many ranks as there are query heads at most",
                });
            }
        }
    }
    Ok(())
}

/// All keys from the first to the last of these parts.
fn hull(parts: &[(Range<usize>, Part)]) -> Range<usize> {
    let start = parts.iter().map(|(_, part)| part.keys.start).min().unwrap_or(0);
    start..parts.iter().map(|(_, part)| part.keys.end).max().unwrap_or(start)
}

/// A part of so many sequences of the batch as a problem of its own: queries among `rows` of the rank, keys among `held` ones,
/// its output contiguous.
fn problem_of(whole: &Problem, batch: usize, part: &Part, rows: usize, held: usize) -> Result<Problem> {
    let strides = |heads: usize, length: usize| {
        let row = whole.head_dim() as i64;
        let head = row * length as i64;
        Strides { batch: head * heads as i64, head, row }
    };
    let mut builder = Problem::new(batch, whole.heads_q(), part.rows.len(), whole.head_dim())
        .heads_kv(whole.heads_kv())
        .len_kv(part.keys.len())
        .dtype(whole.dtype())
        .mask(part.mask())
        .window(part.window())
        .scale(whole.scale())
        .strides(Operand::Query, strides(whole.heads_q(), rows))
        .strides(Operand::Key, strides(whole.heads_kv(), held))
        .strides(Operand::Value, strides(whole.heads_kv(), held));
    if let Some(cap) = whole.softcap() {
        builder = builder.softcap(cap);
    }
    if whole.slopes() {
        builder = builder.slopes();
    }
    Ok(builder.build().map_err(sdpa_core::Error::from)?)
}
