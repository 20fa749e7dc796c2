//! The ring: in step `s` a rank works on the keys of the rank `s` places before it, while the next ones travel.
//!
//! Each rank gets keys from the rank that owns them, and no more of them than its queries see. Per step and rank as many
//! bytes travel as if blocks were handed on from neighbour to neighbour; what is invisible is left out, and no rank's
//! delay is handed on.

use std::ops::Range;

use sdpa_core::{Attention as _, Buffer, Device, Operand, Problem, Strides, Tensors, Transfer, View};

use crate::communicator::Communicator;
use crate::context::{ContextParallel, LocalTensors, Work, Workspace, check_tensors};
use crate::error::Result;
use crate::forecast::StepCost;
use crate::merge::Accumulator;
use crate::parts::{Part, parts};

/// One rank's steps.
#[derive(Clone, Debug)]
pub(crate) struct RingPlan {
    problem: Problem,
    rank: usize,
    rows: usize,
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
    parts: Vec<(Part, Problem)>,
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
        let seen = |rank, source| parts(problem, context.sequences(), queries, keys, rank, source);
        let step = |shift: usize| {
            let (source, destination) = ((rank + ranks - shift) % ranks, (rank + shift) % ranks);
            let own = seen(rank, source);
            let receive = hull(&own);
            let source_rows = keys.len(source);
            let send = if shift == 0 { 0..0 } else { hull(&seen(destination, rank)) };
            // The rank's own keys lie where they lie; those of others as far as they were sent.
            let held = if shift == 0 { source_rows } else { receive.len() };
            let parts = own.into_iter().map(|part| {
                let problem = problem_of(problem, &part, queries.len(rank), held)?;
                Ok((part, problem))
            });
            let parts = parts.collect::<Result<_>>()?;
            Ok(Step { source, receive, source_rows, destination, send, parts })
        };
        let steps = (0..ranks).map(step).collect::<Result<_>>()?;
        Ok(Self { problem: problem.clone(), rank, rows: queries.len(rank), key_rows: keys.len(rank), steps })
    }

    pub(crate) fn costs(&self) -> Vec<StepCost> {
        let merges = self.only_part().is_none();
        let cost = |(index, step): (usize, &Step)| {
            let rows: usize = step.parts.iter().map(|(part, _)| part.rows.len()).sum();
            // The part is read, and the accumulator read and written.
            let merged = self.output_bytes(rows) + 2 * self.values_bytes(rows);
            StepCost {
                source: step.source,
                flops: step.parts.iter().map(|(_, problem)| problem.flops()).sum(),
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

    /// The one part, if a single one is all there is to compute: then nothing is merged.
    fn only_part(&self) -> Option<&Part> {
        let mut parts = self.steps.iter().flat_map(|step| &step.parts);
        match (parts.next(), parts.next()) {
            (Some((part, _)), None) if part.rows == (0..self.rows) => Some(part),
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
        let rows = match self.only_part() {
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
        let output = self.output_bytes(self.rows);
        check_tensors(device, tensors, [output, keys, keys, output], self.lse_bytes(self.rows))?;
        let buffers = &workspace.buffers;
        let problem = &self.problem;
        let accumulator = Accumulator {
            values: &buffers[VALUES],
            lse: tensors.lse.unwrap_or(&buffers[LSE]),
            shape: [problem.batch(), problem.heads_q(), self.rows, problem.head_dim()],
            dtype: problem.dtype(),
        };
        let merges = self.only_part().is_none();

        if work.transfers() {
            self.exchange(device, communicator, tensors, workspace, 1)?;
        }
        if work.computes() && merges {
            accumulator.clear(device)?;
        }
        for (index, step) in self.steps.iter().enumerate() {
            if work.transfers() {
                if index > 0 {
                    communicator.compute_follows_transfers(device)?;
                }
                if index > 0 {
                    self.exchange(device, communicator, tensors, workspace, index + 1)?;
                }
            }
            if !work.computes() {
                continue;
            }
            let (key, value, first) = match index {
                0 => (tensors.key, tensors.value, 0),
                _ => {
                    let [key, value] = slot(buffers, index);
                    (key, value, step.receive.start)
                }
            };
            for (part, own) in &step.parts {
                let offset = |rows: usize| rows * problem.head_dim() * problem.dtype().bytes();
                let query = View::new(tensors.query, offset(part.rows.start));
                let keys = offset(part.keys.start - first);
                let (key, value) = (View::new(key, keys), View::new(value, keys));
                let (output, lse) = match merges {
                    true => (&buffers[PART_OUTPUT], Some(&buffers[PART_LSE])),
                    false => (tensors.output, tensors.lse),
                };
                let mut bound = Tensors::new(query, key, value, output);
                if let Some(lse) = lse {
                    bound = bound.with_lse(lse);
                }
                sdpa::Fastest.forward(device, own, &bound)?;
                if merges {
                    accumulator.add(device, part.rows.clone(), output, &buffers[PART_LSE])?;
                }
            }
        }
        if work.computes() && merges {
            accumulator.store(device, tensors.output)?;
        }
        if work.transfers() {
            // Whatever is queued behind this may overwrite what was sent.
            communicator.compute_follows_transfers(device)?;
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

/// All keys from the first to the last of these parts.
fn hull(parts: &[Part]) -> Range<usize> {
    let start = parts.iter().map(|part| part.keys.start).min().unwrap_or(0);
    start..parts.iter().map(|part| part.keys.end).max().unwrap_or(start)
}

/// A part as a problem of its own: queries among `rows` of the rank, keys among `held` ones, its output contiguous.
fn problem_of(whole: &Problem, part: &Part, rows: usize, held: usize) -> Result<Problem> {
    let strides = |heads: usize, length: usize| {
        let row = whole.head_dim() as i64;
        let head = row * length as i64;
        Strides { batch: head * heads as i64, head, row }
    };
    let mut builder = Problem::new(whole.batch(), whole.heads_q(), part.rows.len(), whole.head_dim())
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
    Ok(builder.build().map_err(sdpa_core::Error::from)?)
}
