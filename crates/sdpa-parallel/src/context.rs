//! A problem shared by ranks: who holds what, which way is taken, and one rank's share of the work.

use std::fmt;
use std::ops::Range;

use sdpa_core::{Buffer, Device, Mask, Operand, Packing, Problem, Sequence};

use crate::communicator::Communicator;
use crate::error::{Error, Result};
use crate::forecast::StepCost;
use crate::heads::HeadsPlan;
use crate::partition::Partition;
use crate::ring::RingPlan;

/// How ranks share the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// Keys and values travel from rank to rank; results over parts of the keys are merged.
    Ring,
    /// Each rank computes the whole sequence of some heads.
    Heads,
}

impl Way {
    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::Heads => "heads",
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// From about this many positions of a rank on, a block's kernel takes longer than the next block's transfer over NVLink;
/// `docs/parallel.md` has the sum and what was measured.
const HIDES_TRANSFERS: usize = 2048;

/// A problem and how ranks share it. Every rank makes the same one.
#[derive(Clone, Debug, PartialEq)]
pub struct ContextParallel {
    problem: Problem,
    sequences: Vec<Sequence>,
    queries: Partition,
    keys: Partition,
    way: Way,
}

impl ContextParallel {
    /// A dense problem in equal shares: balanced ones under a causal mask, contiguous ones otherwise. The way is the ring if
    /// its transfers can be hidden or there are fewer heads than ranks, and heads otherwise.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for what neither way takes, and for lengths that only the device knows.
    pub fn new(problem: Problem, ranks: usize) -> Result<Self> {
        refuse_pages(&problem)?;
        let extensions = problem.extensions();
        for (asked, what, advice) in [
            (extensions.packed, "packed sequences", "give their lengths: ContextParallel::packed"),
            (extensions.key_lengths, "key lengths", "give their numbers: ContextParallel::of_key_lengths"),
        ] {
            if asked {
                return Err(Error::Unsupported { way: "a dense problem in shares", what: what.to_owned(), advice });
            }
        }
        let sequences = vec![Sequence { queries: 0..problem.len_q(), keys: 0..problem.len_kv() }];
        Self::of_sequences(problem, sequences, ranks)
    }

    /// A dense batch of which each sequence uses so many of its keys, numbers that the host knows. All keys are cut into equal
    /// shares, used or not; those that no sequence uses do not travel.
    ///
    /// # Errors
    /// As [`new`](Self::new), and [`Error::Disagreement`] if there is not one length for each sequence of a problem
    /// [with key lengths](sdpa_core::ProblemBuilder::key_lengths), or one is more than there are keys.
    pub fn of_key_lengths(problem: Problem, lengths: &[usize], ranks: usize) -> Result<Self> {
        refuse_pages(&problem)?;
        if !problem.key_lengths() {
            return Err(Error::Unsupported {
                way: "ContextParallel::of_key_lengths",
                what: format!("a problem without key lengths: {problem}"),
                advice: "take ContextParallel::new",
            });
        }
        let (expected, longest) = (problem.batch(), lengths.iter().copied().max().unwrap_or(0));
        if lengths.len() != expected {
            return Err(Error::Disagreement { what: "key lengths", found: lengths.len(), expected });
        }
        if longest > problem.len_kv() {
            let what = "the longest key length";
            return Err(Error::Disagreement { what, found: longest, expected: problem.len_kv() });
        }
        let sequence = |length: &usize| Sequence { queries: 0..problem.len_q(), keys: 0..*length };
        let sequences = lengths.iter().map(sequence).collect();
        Self::of_sequences(problem, sequences, ranks)
    }

    /// Packed sequences whose places the host knows, in ascending order; the total is cut into equal shares.
    ///
    /// # Errors
    /// As [`new`](Self::new), and [`Error::Disagreement`] if the sequences are not those of the problem's packing.
    pub fn packed(problem: Problem, sequences: Vec<Sequence>, ranks: usize) -> Result<Self> {
        refuse_pages(&problem)?;
        let Some(Packing { sequences: expected, .. }) = problem.packing() else {
            return Err(Error::Unsupported {
                way: "ContextParallel::packed",
                what: format!("a problem that is not packed: {problem}"),
                advice: "take ContextParallel::new",
            });
        };
        if sequences.len() != expected {
            let what = "packed sequences with a place";
            return Err(Error::Disagreement { what, found: sequences.len(), expected });
        }
        let (mut query, mut key) = (0, 0);
        for sequence in &sequences {
            for (next, range, end) in
                [(&mut query, &sequence.queries, problem.len_q()), (&mut key, &sequence.keys, problem.len_kv())]
            {
                if range.start != *next || range.end < range.start || range.end > end {
                    let what = "where a packed sequence begins";
                    return Err(Error::Disagreement { what, found: range.start, expected: *next });
                }
                *next = range.end;
            }
        }
        Self::of_sequences(problem, sequences, ranks)
    }

    fn of_sequences(problem: Problem, sequences: Vec<Sequence>, ranks: usize) -> Result<Self> {
        if ranks == 0 {
            return Err(Error::Disagreement { what: "ranks", found: 0, expected: 1 });
        }
        let extensions = problem.extensions();
        let beyond = [
            (extensions.value_dim, "values of another width than keys"),
            (extensions.kv_e4m3, "keys and values in e4m3"),
        ];
        if let Some((_, what)) = beyond.into_iter().find(|(asked, _)| *asked) {
            return Err(Error::Unsupported {
                way: "context parallelism",
                what: what.to_owned(),
                advice: "compute such a problem on one GPU",
            });
        }
        let share = |length| match problem.mask() {
            Mask::Full => Partition::contiguous(length, ranks),
            _ => Partition::balanced(length, ranks),
        };
        let (queries, keys) = (share(problem.len_q()), share(problem.len_kv()));
        let way = preferred(&problem, ranks);
        Ok(Self { problem, sequences, queries, keys, way })
    }

    /// Other shares than equal ones.
    ///
    /// # Errors
    /// [`Error::Disagreement`] if they are of other lengths than the problem's, or for different numbers of ranks.
    pub fn with_partitions(self, queries: Partition, keys: Partition) -> Result<Self> {
        for (what, found, expected) in [
            ("positions of the queries' partition", queries.length(), self.problem.len_q()),
            ("positions of the keys' partition", keys.length(), self.problem.len_kv()),
            ("ranks of the keys' partition", keys.ranks(), queries.ranks()),
        ] {
            if found != expected {
                return Err(Error::Disagreement { what, found, expected });
            }
        }
        Ok(Self { queries, keys, ..self })
    }

    /// Takes the way that you name.
    #[must_use]
    pub fn with_way(self, way: Way) -> Self {
        Self { way, ..self }
    }

    /// The whole problem.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// Which queries belong together with which keys. With key lengths there is one for each sequence of the batch; otherwise
    /// they are those of every one.
    pub fn sequences(&self) -> &[Sequence] {
        &self.sequences
    }

    /// How many ranks share it.
    pub fn ranks(&self) -> usize {
        self.queries.ranks()
    }

    /// Which positions of the query and the output each rank holds.
    pub fn queries(&self) -> &Partition {
        &self.queries
    }

    /// Which positions of key and value each rank holds.
    pub fn keys(&self) -> &Partition {
        &self.keys
    }

    /// Which way is taken.
    pub fn way(&self) -> Way {
        self.way
    }

    /// Shape `[batch, heads, positions, head_dim]` of a rank's own operand.
    pub fn local_shape(&self, operand: Operand, rank: usize) -> [usize; 4] {
        let [batch, heads, _, head_dim] = self.problem.shape(operand);
        let partition = match operand {
            Operand::Query | Operand::Output => &self.queries,
            Operand::Key | Operand::Value => &self.keys,
        };
        [batch, heads, partition.len(rank), head_dim]
    }

    /// One rank's share of the work. Pure: every rank may ask for every rank's.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the way does not take the problem, [`Error::Disagreement`] if there is no such rank.
    pub fn plan(&self, rank: usize) -> Result<RankPlan> {
        if rank >= self.ranks() {
            return Err(Error::Disagreement { what: "number of the rank", found: rank, expected: self.ranks() - 1 });
        }
        let kind = match self.way {
            Way::Ring => Kind::Ring(Box::new(RingPlan::new(self, rank)?)),
            Way::Heads => Kind::Heads(Box::new(HeadsPlan::new(self, rank)?)),
        };
        Ok(RankPlan { rank, ranks: self.ranks(), kind })
    }

    /// The packing of these sequences, if they are packed, with as little said as is true.
    pub(crate) fn packing(&self) -> Option<Packing> {
        self.problem.packing()
    }

    /// Sequences of the batch that see the same keys, with what belongs together in them: all of them, but that key lengths
    /// make a difference.
    pub(crate) fn batches(&self) -> Vec<(Range<usize>, &[Sequence])> {
        if !self.problem.key_lengths() {
            return vec![(0..self.problem.batch(), &self.sequences)];
        }
        let mut batches = Vec::new();
        let mut start = 0;
        for alike in self.sequences.chunk_by(|one, next| one == next) {
            batches.push((start..start + alike.len(), &alike[..1]));
            start += alike.len();
        }
        batches
    }
}

fn refuse_pages(problem: &Problem) -> Result<()> {
    match problem.paging() {
        None => Ok(()),
        Some(_) => Err(Error::Unsupported {
            way: "context parallelism",
            what: "keys and values in pages".to_owned(),
            advice: "compute such a problem on one GPU",
        }),
    }
}

/// The ring if its transfers can be hidden, if a window leaves few of them, or if heads do not go around. The distances that
/// slopes are multiplied with are those of whole sequences, which only heads have.
fn preferred(problem: &Problem, ranks: usize) -> Way {
    if problem.slopes() && problem.heads_q() >= ranks {
        return Way::Heads;
    }
    let is_windowed = problem.window().left.is_some();
    let hides = problem.len_q() / ranks >= HIDES_TRANSFERS;
    match hides || is_windowed || problem.heads_q() < ranks || ranks == 1 {
        true => Way::Ring,
        false => Way::Heads,
    }
}

/// A rank's own tensors, contiguous `[batch, heads, the rank's positions, head_dim]`.
#[derive(Clone, Copy, Debug)]
pub struct LocalTensors<'a> {
    /// Q.
    pub query: &'a Buffer,
    /// K.
    pub key: &'a Buffer,
    /// V.
    pub value: &'a Buffer,
    /// O, which is written.
    pub output: &'a Buffer,
    /// The log-sum-exp, f32 `[batch, heads_q, positions]`, if it is wanted.
    pub lse: Option<&'a Buffer>,
    /// The sinks of all query heads, f32 `[heads_q]`, the same on every rank; if the problem has sinks.
    pub sinks: Option<&'a Buffer>,
    /// The slopes of all query heads, f32 `[heads_q]`, the same on every rank; if the problem has slopes.
    pub slopes: Option<&'a Buffer>,
}

impl<'a> LocalTensors<'a> {
    /// Without a log-sum-exp, sinks and slopes.
    pub fn new(query: &'a Buffer, key: &'a Buffer, value: &'a Buffer, output: &'a Buffer) -> Self {
        Self { query, key, value, output, lse: None, sinks: None, slopes: None }
    }

    /// Asks for the log-sum-exp.
    #[must_use]
    pub fn with_lse(self, lse: &'a Buffer) -> Self {
        Self { lse: Some(lse), ..self }
    }

    /// The sinks of all query heads.
    #[must_use]
    pub fn with_sinks(self, sinks: &'a Buffer) -> Self {
        Self { sinks: Some(sinks), ..self }
    }

    /// The slopes of all query heads.
    #[must_use]
    pub fn with_slopes(self, slopes: &'a Buffer) -> Self {
        Self { slopes: Some(slopes), ..self }
    }
}

/// Which half of the work is done: to measure how much of one hides under the other. Without one of the halves the result
/// means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// All of it.
    All,
    /// Kernels, over whatever the buffers hold.
    Compute,
    /// Transfers.
    Transfer,
}

impl Work {
    pub(crate) fn computes(self) -> bool {
        self != Self::Transfer
    }

    pub(crate) fn transfers(self) -> bool {
        self != Self::Compute
    }
}

/// One rank's share of the work: launches and transfers in order.
#[derive(Clone, Debug)]
pub struct RankPlan {
    rank: usize,
    ranks: usize,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Ring(Box<RingPlan>),
    Heads(Box<HeadsPlan>),
}

/// Memory that a rank's plan needs beside its tensors. It may serve one pass after the other, but no two at a time.
#[derive(Debug)]
pub struct Workspace {
    pub(crate) buffers: Vec<Buffer>,
}

impl Workspace {
    /// Bytes of all of it.
    pub fn bytes(&self) -> usize {
        self.buffers.iter().map(Buffer::bytes).sum()
    }
}

impl RankPlan {
    /// Which rank this is the share of.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Bytes that this rank receives from others in a pass.
    pub fn bytes_received(&self) -> usize {
        self.steps().iter().map(|step| step.bytes).sum()
    }

    /// What each step costs: a ring's steps in their order; by heads, one for each rank, of which the own has the kernel.
    pub fn steps(&self) -> Vec<StepCost> {
        match &self.kind {
            Kind::Ring(plan) => plan.costs(),
            Kind::Heads(plan) => plan.costs(),
        }
    }

    /// Allocates what passes need beside the tensors.
    ///
    /// # Errors
    /// [`sdpa_core::Error::OutOfMemory`] above all.
    pub fn workspace(&self, device: &dyn Device) -> Result<Workspace> {
        let buffers = self.workspace_sizes().into_iter().map(|(name, bytes)| device.allocate_named(name, bytes));
        Ok(Workspace { buffers: buffers.collect::<sdpa_core::Result<_>>()? })
    }

    /// What the workspace holds, with the bytes of each.
    fn workspace_sizes(&self) -> Vec<(&'static str, usize)> {
        match &self.kind {
            Kind::Ring(plan) => plan.workspace(),
            Kind::Heads(plan) => plan.workspace(),
        }
    }

    /// Attention of this rank's queries over all ranks' keys. All ranks call it, each with its own plan. It queues the work;
    /// [`Communicator::synchronize`] waits for it, with a deadline.
    ///
    /// # Errors
    /// Its own, or that of the rank that failed. After an error the communicator is of no more use.
    pub fn forward(
        &self,
        device: &dyn Device,
        communicator: &dyn Communicator,
        tensors: &LocalTensors<'_>,
        workspace: &Workspace,
    ) -> Result<()> {
        self.work(device, communicator, tensors, workspace, Work::All)
    }

    /// [`forward`](Self::forward), or half of it.
    ///
    /// # Errors
    /// As there.
    pub fn work(
        &self,
        device: &dyn Device,
        communicator: &dyn Communicator,
        tensors: &LocalTensors<'_>,
        workspace: &Workspace,
        work: Work,
    ) -> Result<()> {
        let outcome = self.queue(device, communicator, tensors, workspace, work);
        if let Err(error) = &outcome {
            communicator.fail(&error.to_string());
        }
        outcome
    }

    fn queue(
        &self,
        device: &dyn Device,
        communicator: &dyn Communicator,
        tensors: &LocalTensors<'_>,
        workspace: &Workspace,
        work: Work,
    ) -> Result<()> {
        for (what, found, expected) in [
            ("rank of the communicator", communicator.rank(), self.rank),
            ("ranks of the communicator", communicator.ranks(), self.ranks),
        ] {
            if found != expected {
                return Err(Error::Disagreement { what, found, expected });
            }
        }
        let sizes = self.workspace_sizes();
        for (index, (operand, needed)) in sizes.into_iter().enumerate() {
            let found = workspace.buffers.get(index).map_or(0, Buffer::bytes);
            if found < needed {
                return Err(sdpa_core::Error::BufferTooSmall { operand, needed, found }.into());
            }
        }
        match &self.kind {
            Kind::Ring(plan) => plan.run(device, communicator, tensors, workspace, work),
            Kind::Heads(plan) => plan.run(device, communicator, tensors, workspace, work),
        }
    }
}

/// That a rank's tensors are as long as its share, lie in the device's memory and begin where kernels may begin; and that
/// those are there which the problem's extensions read, and no others.
pub(crate) fn check_tensors(
    device: &dyn Device,
    problem: &Problem,
    tensors: &LocalTensors<'_>,
    needed: [usize; 4],
    lse: usize,
) -> Result<()> {
    let given = [tensors.query, tensors.key, tensors.value, tensors.output];
    let named = Operand::ALL.into_iter().zip(given).zip(needed);
    let mut all: Vec<_> = named.map(|((operand, buffer), needed)| (operand.name(), buffer, needed, 16)).collect();
    all.extend(tensors.lse.map(|buffer| ("lse", buffer, lse, 4)));
    let of_heads = problem.heads_q() * size_of::<f32>();
    for (tensor, buffer, asked) in
        [("sinks", tensors.sinks, problem.sinks()), ("slopes", tensors.slopes, problem.slopes())]
    {
        match (buffer, asked) {
            (Some(buffer), true) => all.push((tensor, buffer, of_heads, 4)),
            (None, false) => {}
            (None, true) => {
                return Err(sdpa_core::Error::TensorMissing { tensor, problem: problem.to_string() }.into());
            }
            (Some(_), false) => {
                return Err(sdpa_core::Error::TensorUnasked { tensor, problem: problem.to_string() }.into());
            }
        }
    }
    for (operand, buffer, needed, alignment) in all {
        if buffer.bytes() < needed {
            let found = buffer.bytes();
            return Err(sdpa_core::Error::BufferTooSmall { operand, needed, found }.into());
        }
        if !buffer.address().is_multiple_of(alignment) {
            let address = buffer.address();
            return Err(sdpa_core::Error::Misaligned { operand, address, alignment }.into());
        }
        // Nothing is written, and another device's buffer is refused.
        device.write(buffer, 0, &[])?;
    }
    Ok(())
}
