//! Heads: an all-to-all gives each rank the whole sequence of some heads, another one brings the results back.

use std::ops::Range;

use sdpa_core::{Attention as _, Buffer, Device, Layout, Operand, Problem, Tensors, Transfer, View};

use crate::communicator::Communicator;
use crate::context::{ContextParallel, LocalTensors, Work, Workspace, check_tensors};
use crate::error::{Error, Result};
use crate::forecast::StepCost;
use crate::partition::{Partition, share};

/// Which heads a rank computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HeadShare {
    pub(crate) query: Range<usize>,
    pub(crate) key: Range<usize>,
}

/// Heads in shares that are as equal as groups allow. With fewer key heads than ranks several ranks share one, and each has
/// some of its query heads.
pub(crate) fn head_share(heads_q: usize, heads_kv: usize, ranks: usize, rank: usize) -> HeadShare {
    let group = heads_q / heads_kv;
    if heads_kv >= ranks {
        let key = share(heads_kv, ranks, rank);
        return HeadShare { query: key.start * group..key.end * group, key };
    }
    let owner = |rank: usize| rank * heads_kv / ranks;
    let head = owner(rank);
    let first = (0..ranks).position(|other| owner(other) == head).unwrap_or(rank);
    let sharing = (0..ranks).filter(|other| owner(*other) == head).count();
    let own = share(group, sharing, rank - first);
    HeadShare { query: head * group + own.start..head * group + own.end, key: head..head + 1 }
}

/// Rows of the query that belong to a packed sequence.
fn packed_rows(cu_seqlens: &[u8]) -> usize {
    cu_seqlens.last_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes) as usize)
}

/// One rank's transfers and its problem.
#[derive(Clone, Debug)]
pub(crate) struct HeadsPlan {
    problem: Problem,
    rank: usize,
    queries: Partition,
    keys: Partition,
    shares: Vec<HeadShare>,
    own: Problem,
    lengths: Lengths,
}

/// What a kernel reads of sequences' lengths, as bytes.
#[derive(Clone, Debug)]
enum Lengths {
    /// Nothing.
    Known,
    /// Where packed sequences begin and the last one ends, of the queries and of the keys.
    Packed([Vec<u8>; 2]),
    /// How many keys each sequence uses.
    Keys(Vec<u8>),
}

/// Places in the workspace: the own heads' tensors over the whole sequence.
const QUERY: usize = 0;
const KEY: usize = 1;
const VALUE: usize = 2;
const OUTPUT: usize = 3;
const LSE: usize = 4;
const LENGTHS: usize = 5;

impl HeadsPlan {
    pub(crate) fn new(context: &ContextParallel, rank: usize) -> Result<Self> {
        let (problem, ranks) = (context.problem(), context.ranks());
        let (heads_q, heads_kv) = (problem.heads_q(), problem.heads_kv());
        if heads_q < ranks {
            return Err(Error::Unsupported {
                way: "heads",
                what: format!("{heads_q} query heads on {ranks} ranks"),
                advice: "take the ring, or fewer ranks",
            });
        }
        let shares: Vec<HeadShare> = (0..ranks).map(|rank| head_share(heads_q, heads_kv, ranks, rank)).collect();
        let own = &shares[rank];
        let mut builder = match context.packing() {
            Some(packing) => Problem::packed(packing, own.query.len(), problem.len_q(), problem.head_dim()),
            None => Problem::new(problem.batch(), own.query.len(), problem.len_q(), problem.head_dim()),
        }
        .layout(Layout::Bhld)
        .heads_kv(own.key.len())
        .len_kv(problem.len_kv())
        .dtype(problem.dtype())
        .mask(problem.mask())
        .window(problem.window())
        .scale(problem.scale())
        .sinks_if(problem.sinks());
        if let Some(cap) = problem.softcap() {
            builder = builder.softcap(cap);
        }
        if problem.slopes() {
            builder = builder.slopes();
        }
        if problem.key_lengths() {
            builder = builder.key_lengths();
        }
        let begins = |place: fn(&sdpa_core::Sequence) -> &Range<usize>| -> Vec<u8> {
            let ends = context.sequences().iter().map(|sequence| place(sequence).end);
            std::iter::once(0).chain(ends).flat_map(|begin| (begin as u32).to_le_bytes()).collect()
        };
        let lengths = || context.sequences().iter().flat_map(|sequence| (sequence.keys.len() as u32).to_le_bytes());
        let lengths = match (context.packing(), problem.key_lengths()) {
            (Some(_), _) => Lengths::Packed([begins(|sequence| &sequence.queries), begins(|sequence| &sequence.keys)]),
            (None, true) => Lengths::Keys(lengths().collect()),
            (None, false) => Lengths::Known,
        };
        Ok(Self {
            problem: problem.clone(),
            rank,
            queries: context.queries().clone(),
            keys: context.keys().clone(),
            own: builder.build().map_err(sdpa_core::Error::from)?,
            shares,
            lengths,
        })
    }

    pub(crate) fn costs(&self) -> Vec<StepCost> {
        let problem = &self.problem;
        let element = problem.head_dim() * problem.dtype().bytes();
        let own = &self.shares[self.rank];
        let cost = |source: usize| {
            let there = self.queries.len(source) * own.query.len() + 2 * self.keys.len(source) * own.key.len();
            let back = self.queries.len(self.rank) * self.shares[source].query.len();
            let bytes = problem.batch() * ((there + back) * element + back * size_of::<f32>());
            let is_own = source == self.rank;
            StepCost {
                source,
                flops: if is_own { self.own.flops() } else { 0.0 },
                bytes: if is_own { 0 } else { bytes },
                merged_bytes: 0,
            }
        };
        (0..self.shares.len()).map(cost).collect()
    }

    pub(crate) fn workspace(&self) -> Vec<(&'static str, usize)> {
        let bytes = |operand| self.own.span(operand) * self.own.dtype().bytes();
        let mut sizes = vec![
            ("queries of the rank's heads", bytes(Operand::Query)),
            ("keys of the rank's heads", bytes(Operand::Key)),
            ("values of the rank's heads", bytes(Operand::Value)),
            ("output of the rank's heads", bytes(Operand::Output)),
            ("log-sum-exp of the rank's heads", self.own.lse_len() * size_of::<f32>()),
        ];
        match &self.lengths {
            Lengths::Known => {}
            Lengths::Packed([queries, keys]) => {
                sizes.extend([("cu_seqlens_q", queries.len()), ("cu_seqlens_k", keys.len())]);
            }
            Lengths::Keys(lengths) => sizes.push(("key_lengths", lengths.len())),
        }
        sizes
    }

    pub(crate) fn run(
        &self,
        device: &dyn Device,
        communicator: &dyn Communicator,
        tensors: &LocalTensors<'_>,
        workspace: &Workspace,
        work: Work,
    ) -> Result<()> {
        let problem = &self.problem;
        let element = problem.head_dim() * problem.dtype().bytes();
        let (rows, key_rows) = (self.queries.len(self.rank), self.keys.len(self.rank));
        let query = problem.batch() * problem.heads_q() * rows;
        let key = problem.batch() * problem.heads_kv() * key_rows * element;
        let needed = [query * element, key, key, query * element];
        check_tensors(device, problem, tensors, needed, query * size_of::<f32>())?;
        let buffers = &workspace.buffers;

        if work.transfers() {
            let there = [
                (Operand::Query, tensors.query, &buffers[QUERY]),
                (Operand::Key, tensors.key, &buffers[KEY]),
                (Operand::Value, tensors.value, &buffers[VALUE]),
            ];
            let (mut sends, mut receives) = (self.nothing(), self.nothing());
            for (operand, from, to) in there {
                self.add_transfers(operand, from, element, true, self.rank, &mut sends);
                self.add_transfers(operand, to, element, false, self.rank, &mut receives);
            }
            communicator.transfers_follow_compute(device)?;
            communicator.all_to_all(device, &sends, &receives)?;
            communicator.compute_follows_transfers(device)?;
        }
        if work.computes() {
            self.compute(device, tensors, buffers)?;
        }
        if work.transfers() {
            let mut back = vec![(&buffers[OUTPUT], tensors.output, element)];
            back.extend(tensors.lse.map(|lse| (&buffers[LSE], lse, size_of::<f32>())));
            let (mut sends, mut receives) = (self.nothing(), self.nothing());
            for (from, to, element) in back {
                // What went there comes back: sender and receiver change places.
                self.add_transfers(Operand::Output, from, element, false, self.rank, &mut sends);
                self.add_transfers(Operand::Output, to, element, true, self.rank, &mut receives);
            }
            communicator.transfers_follow_compute(device)?;
            communicator.all_to_all(device, &sends, &receives)?;
            communicator.compute_follows_transfers(device)?;
        }
        Ok(())
    }

    /// Queues the one kernel, over the whole sequence of the rank's heads.
    fn compute(&self, device: &dyn Device, tensors: &LocalTensors<'_>, buffers: &[Buffer]) -> Result<()> {
        let mut bound = Tensors::new(&buffers[QUERY], &buffers[KEY], &buffers[VALUE], &buffers[OUTPUT]);
        bound = bound.with_lse(&buffers[LSE]);
        let first_head = self.shares[self.rank].query.start * size_of::<f32>();
        if let Some(sinks) = tensors.sinks {
            bound = bound.with_sinks(View::new(sinks, first_head));
        }
        if let Some(slopes) = tensors.slopes {
            bound = bound.with_slopes(View::new(slopes, first_head));
        }
        match &self.lengths {
            Lengths::Known => {}
            Lengths::Packed([queries, keys]) => {
                device.write(&buffers[LENGTHS], 0, queries)?;
                device.write(&buffers[LENGTHS + 1], 0, keys)?;
                bound = bound.with_cu_seqlens(&buffers[LENGTHS], &buffers[LENGTHS + 1]);
                // Rows behind the last sequence stay as they are, and would be sent as they are.
                if self.own.len_q() > packed_rows(queries) {
                    device.write(&buffers[OUTPUT], 0, &vec![0; buffers[OUTPUT].bytes()])?;
                    let none = f32::NEG_INFINITY.to_le_bytes().repeat(self.own.lse_len());
                    device.write(&buffers[LSE], 0, &none)?;
                }
            }
            Lengths::Keys(lengths) => {
                device.write(&buffers[LENGTHS], 0, lengths)?;
                bound = bound.with_key_lengths(&buffers[LENGTHS]);
            }
        }
        Ok(sdpa::Fastest.forward(device, &self.own, &bound)?)
    }

    fn nothing<'a>(&self) -> Vec<Vec<Transfer<'a>>> {
        vec![Vec::new(); self.shares.len()]
    }

    /// Adds what travels between this rank and each peer for one tensor, chunk by chunk, sequence by sequence and head by
    /// head. If `local`, the buffer holds this rank's positions of all heads, and the peer's heads of it travel; otherwise it
    /// holds all positions of this rank's heads, and the peer's positions of it travel.
    fn add_transfers<'a>(
        &self,
        operand: Operand,
        buffer: &'a Buffer,
        element: usize,
        local: bool,
        rank: usize,
        transfers: &mut [Vec<Transfer<'a>>],
    ) {
        let (partition, all_heads, is_key) = match operand {
            Operand::Query | Operand::Output => (&self.queries, self.problem.heads_q(), false),
            Operand::Key | Operand::Value => (&self.keys, self.problem.heads_kv(), true),
        };
        let heads_of = |rank: usize| if is_key { &self.shares[rank].key } else { &self.shares[rank].query };
        for (peer, transfers) in transfers.iter_mut().enumerate() {
            let (positions_of, heads) = if local { (rank, heads_of(peer)) } else { (peer, heads_of(rank)) };
            let mut row = 0;
            for chunk in partition.chunks(positions_of) {
                for batch in 0..self.problem.batch() {
                    for head in heads.clone() {
                        let first = match local {
                            true => (batch * all_heads + head) * partition.len(rank) + row,
                            false => (batch * heads.len() + head - heads.start) * partition.length() + chunk.start,
                        };
                        let (offset, bytes) = (first * element, chunk.len() * element);
                        transfers.push(Transfer { peer, buffer, offset, bytes });
                    }
                }
                row += chunk.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_query_head_is_computed_once_beside_its_key_head() {
        for heads_kv in 1..=8 {
            for group in 1..=6 {
                let heads_q = heads_kv * group;
                for ranks in 1..=heads_q.min(12) {
                    let shares: Vec<_> = (0..ranks).map(|rank| head_share(heads_q, heads_kv, ranks, rank)).collect();
                    let all: Vec<usize> = shares.iter().flat_map(|share| share.query.clone()).collect();
                    assert_eq!(all, (0..heads_q).collect::<Vec<_>>(), "{heads_q}/{heads_kv} on {ranks}");
                    for HeadShare { query, key } in shares {
                        assert!(!query.is_empty() && query.len().is_multiple_of(key.len()));
                        let own_group = query.len() / key.len();
                        for (index, head) in query.enumerate() {
                            assert_eq!(key.start + index / own_group, head / group);
                        }
                    }
                }
            }
        }
    }
}
