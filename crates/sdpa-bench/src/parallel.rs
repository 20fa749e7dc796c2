//! Times attention over a sequence that several GPUs share, beside one GPU that has all of it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sdpa_core::{Attention as _, Buffer, Cuda, Device as _, Dtype, Extensions, Mask, Operand, Problem, Tensors};
use sdpa_parallel::{Communicator, ContextParallel, LocalTensors, Partition, RankPlan, Way, Work, Workspace};
use sdpa_ref::{Found, Inputs, Reference, Rows, Tolerance};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How to measure.
#[derive(Clone, Copy, Debug)]
pub struct ParallelOptions {
    /// Samples, of which the median counts.
    pub samples: usize,
    /// About how long a sample takes.
    pub sample: Duration,
    /// Passes whose results must be the same bits, before anything is timed.
    pub repeats: usize,
    /// Seconds per pass of one GPU with the whole problem, if they are known; rank 0 measures them otherwise.
    pub seconds_one_gpu: Option<f64>,
}

/// A rank's result is wrong: nothing is timed.
#[derive(Debug, Error)]
#[error("rank {rank} is wrong, so nothing is timed: {reason}")]
pub struct Wrong {
    /// Which rank.
    pub rank: usize,
    /// How far off it is, or that its bits differ from pass to pass.
    pub reason: String,
}

/// Query, key and value of a whole problem on the host, contiguous.
pub struct HostTensors {
    query: Vec<u16>,
    key: Vec<u16>,
    value: Vec<u16>,
}

impl HostTensors {
    /// Normal numbers from a seed. They repeat after four million, at no multiple of any row's length: enough for kernels,
    /// whose time and errors do not depend on more, and drawn in a second for a million positions.
    pub fn generate(problem: &Problem, seed: u64) -> Self {
        /// A prime.
        const PERIOD: usize = 4_194_301;
        let mut random = harness::random::Random::new(seed, &[]);
        let mut drawn = |count: usize| -> Vec<u16> {
            let own: Vec<u16> = (0..count.min(PERIOD)).map(|_| problem.dtype().encode(random.normal())).collect();
            let mut all = Vec::with_capacity(count);
            while all.len() < count {
                all.extend_from_slice(&own[..own.len().min(count - all.len())]);
            }
            all
        };
        let elements = |operand| problem.shape(operand).iter().product();
        let query = drawn(elements(Operand::Query));
        let key = drawn(elements(Operand::Key));
        let value = drawn(elements(Operand::Value));
        Self { query, key, value }
    }
}

/// What one rank measured. Times are in seconds per pass and begin and end with all ranks.
#[derive(Clone, Debug, Serialize)]
pub struct RankFigures {
    /// Which rank.
    pub rank: usize,
    /// All of the work.
    pub seconds: f64,
    /// The kernels without the transfers.
    pub seconds_compute: f64,
    /// The transfers without the kernels.
    pub seconds_transfer: f64,
    /// One GPU with the whole problem; rank 0 alone measures it.
    pub seconds_one_gpu: Option<f64>,
    /// Bytes received from others per pass.
    pub bytes_received: usize,
    /// Bytes of the workspace.
    pub workspace_bytes: usize,
    /// Rows that were compared with the oracle.
    pub rows_verified: usize,
    /// Their relative Frobenius error, and what it may be.
    pub error: [f64; 2],
    /// Passes whose bits were compared.
    pub repeats: usize,
}

/// What all ranks together reach.
#[derive(Clone, Debug, Serialize)]
pub struct ParallelFigure {
    /// The problem in words.
    pub problem: String,
    /// `ring` or `heads`.
    pub way: String,
    /// How many ranks.
    pub ranks: usize,
    /// Seconds per pass: the slowest rank's.
    pub seconds: f64,
    /// One GPU with the whole problem.
    pub seconds_one_gpu: Option<f64>,
    /// How many times as fast as one GPU.
    pub speed_up: Option<f64>,
    /// The same for each rank.
    pub efficiency: Option<f64>,
    /// Positions of all sequences per second.
    pub tokens_per_second: f64,
    /// Floating-point operations per second of all ranks, by the papers' convention.
    pub flops_per_second: f64,
    /// Share of the transfers' time that kernels hide; none if nothing travels.
    pub transfer_hidden: Option<f64>,
    /// Bytes per second and rank of the transfers alone.
    pub bytes_per_second: Option<f64>,
    /// PyTorch's context_parallel on the same GPUs.
    pub peers: Vec<PeerFigure>,
    /// What each rank measured; of ranks in other processes nothing is known.
    pub of_ranks: Vec<RankFigures>,
}

impl ParallelFigure {
    /// Puts the ranks' figures together.
    pub fn new(context: &ContextParallel, of_ranks: Vec<RankFigures>) -> Self {
        let problem = context.problem();
        let slowest = |what: fn(&RankFigures) -> f64| of_ranks.iter().map(what).fold(0.0, f64::max);
        let seconds = slowest(|rank| rank.seconds);
        let transfer = slowest(|rank| rank.seconds_transfer);
        let seconds_one_gpu = of_ranks.iter().find_map(|rank| rank.seconds_one_gpu);
        let speed_up = seconds_one_gpu.map(|one| one / seconds);
        let travels = of_ranks.iter().any(|rank| rank.bytes_received > 0);
        let shown = seconds - slowest(|rank| rank.seconds_compute);
        let bytes = of_ranks.iter().map(|rank| rank.bytes_received).max().unwrap_or(0);
        Self {
            problem: problem.to_string(),
            way: context.way().to_string(),
            ranks: context.ranks(),
            seconds,
            seconds_one_gpu,
            speed_up,
            efficiency: speed_up.map(|speed_up| speed_up / context.ranks() as f64),
            tokens_per_second: (problem.batch() * problem.len_q()) as f64 / seconds,
            flops_per_second: problem.flops() / seconds,
            transfer_hidden: travels.then(|| (1.0 - shown / transfer).clamp(0.0, 1.0)),
            bytes_per_second: travels.then(|| bytes as f64 / transfer),
            peers: Vec::new(),
            of_ranks,
        }
    }
}

/// What PyTorch's context_parallel needs for the same problem, by one of its backends.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PeerFigure {
    /// `flash` or `cudnn`.
    pub backend: String,
    /// How keys travel: `allgather` or `alltoall`.
    pub rotate: String,
    /// Whether grouped heads were taken as they are.
    pub heads: Option<String>,
    /// Seconds per pass.
    pub seconds: Option<f64>,
    /// Why there is no time.
    pub declined: Option<String>,
    /// PyTorch's version.
    pub torch: String,
}

/// Times PyTorch's context_parallel on the same problem: `bench/context_parallel.py`, one process for each GPU.
///
/// # Errors
/// In words, if Python or PyTorch does not start, or answers nothing.
pub fn peers(python: &str, problem: &Problem, ranks: usize, samples: usize) -> Result<Vec<PeerFigure>, String> {
    if problem.extensions() != Extensions::NONE
        || problem.len_q() != problem.len_kv()
        || problem.mask() == Mask::CausalTopLeft
    {
        return Err(format!("context_parallel is for plain self-attention, not for {problem}"));
    }
    // The program may have been copied to another machine, where it is run from the repository's root.
    let here = PathBuf::from("bench/context_parallel.py");
    let built_from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bench/context_parallel.py");
    let script = if here.is_file() { here } else { built_from };
    let [batch, heads, length, head_dim] = problem.shape(Operand::Query);
    let mut command = Command::new(python);
    command
        .args(["-m", "torch.distributed.run", "--nproc-per-node", &ranks.to_string()])
        .arg(script)
        .args(["--shape", &format!("{batch},{heads},{length},{head_dim},{}", problem.heads_kv())])
        .args(["--samples", &samples.to_string()])
        .args(["--dtype", if problem.dtype() == Dtype::Bf16 { "bfloat16" } else { "float16" }]);
    if problem.mask().is_causal() {
        command.arg("--causal");
    }
    let done =
        command.stderr(Stdio::inherit()).output().map_err(|error| format!("{python} does not start: {error}"))?;
    parse_peers(&String::from_utf8_lossy(&done.stdout))
}

/// One line of JSON for each figure; other lines are PyTorch's own words.
fn parse_peers(text: &str) -> Result<Vec<PeerFigure>, String> {
    let lines = text.lines().filter(|line| line.starts_with('{'));
    let parsed = lines.map(|line| serde_json::from_str(line).map_err(|error| format!("{line}: {error}")));
    match parsed.collect::<Result<Vec<PeerFigure>, String>>()? {
        none if none.is_empty() => Err(format!("bench/context_parallel.py answered nothing: {}", text.trim())),
        figures => Ok(figures),
    }
}

/// A rank's tensors on its GPU.
struct Local {
    query: Buffer,
    key: Buffer,
    value: Buffer,
    output: Buffer,
    lse: Buffer,
}

impl Local {
    fn tensors(&self) -> LocalTensors<'_> {
        let Self { query, key, value, output, lse } = self;
        LocalTensors::new(query, key, value, output).with_lse(lse)
    }
}

/// Rows `[outer, length, row]` of a rank, as bytes.
fn share(whole: &[u16], partition: &Partition, rank: usize, row: usize) -> Vec<u8> {
    let length = (partition.length() * row).max(1);
    let mut bits = Vec::with_capacity(whole.len() / length * partition.len(rank) * row);
    for tensor in whole.chunks_exact(length) {
        for chunk in partition.chunks(rank) {
            bits.extend_from_slice(&tensor[chunk.start * row..chunk.end * row]);
        }
    }
    to_bytes(&bits)
}

/// Gigabytes of them, so not one by one.
fn to_bytes(bits: &[u16]) -> Vec<u8> {
    let mut bytes = vec![0; 2 * bits.len()];
    bytes.as_chunks_mut::<2>().0.iter_mut().zip(bits).for_each(|(bytes, bits)| *bytes = bits.to_le_bytes());
    bytes
}

/// One rank of a measurement; all ranks call it at once.
///
/// # Errors
/// The ranks' own, and [`Wrong`]: nothing is timed that was not verified.
pub fn measure_rank(
    device: &Cuda,
    communicator: &dyn Communicator,
    context: &ContextParallel,
    host: &HostTensors,
    options: &ParallelOptions,
) -> Result<RankFigures, Box<dyn std::error::Error + Send + Sync>> {
    let outcome = measure(device, communicator, context, host, options);
    if let Err(error) = &outcome {
        communicator.fail(&error.to_string());
    }
    outcome
}

fn measure(
    device: &Cuda,
    communicator: &dyn Communicator,
    context: &ContextParallel,
    host: &HostTensors,
    options: &ParallelOptions,
) -> Result<RankFigures, Box<dyn std::error::Error + Send + Sync>> {
    let (rank, problem) = (communicator.rank(), context.problem());
    let head_dim = problem.head_dim();
    let upload = |bits: &[u16], partition| device.upload(&share(bits, partition, rank, head_dim));
    let query = upload(&host.query, context.queries())?;
    let (key, value) = (upload(&host.key, context.keys())?, upload(&host.value, context.keys())?);
    let output = device.allocate_named("output", query.bytes())?;
    let rows = problem.batch() * problem.heads_q() * context.queries().len(rank);
    let lse = device.allocate_named("lse", rows * size_of::<f32>())?;
    let local = Local { query, key, value, output, lse };
    let plan = context.plan(rank)?;
    let workspace = plan.workspace(device)?;
    let run =
        |work| -> sdpa_parallel::Result<()> { plan.work(device, communicator, &local.tensors(), &workspace, work) };

    let mut first: Option<[Vec<u8>; 2]> = None;
    for pass in 0..options.repeats.max(1) {
        run(Work::All)?;
        communicator.synchronize(device)?;
        let mut found = [vec![0; local.output.bytes()], vec![0; local.lse.bytes()]];
        device.read(&local.output, 0, &mut found[0])?;
        device.read(&local.lse, 0, &mut found[1])?;
        match &first {
            None => first = Some(found),
            Some(first) if *first != found => {
                let reason = format!("pass {pass} has other bits than the first");
                return Err(Wrong { rank, reason }.into());
            }
            Some(_) => {}
        }
    }
    let [out, lse] = first.unwrap_or_default();
    let (rows_verified, error) = verify(context, host, rank, &out, &lse)?;
    drop((out, lse));
    communicator.barrier()?;

    let timing = Timing { device, communicator, plan: &plan, local: &local, workspace: &workspace, options };
    let passes = passes(problem.flops() / context.ranks() as f64, options.sample);
    let seconds = timing.median(Work::All, passes)?;
    let seconds_compute = timing.median(Work::Compute, passes)?;
    let seconds_transfer = timing.median(Work::Transfer, passes)?;
    let seconds_one_gpu = match rank {
        0 if options.seconds_one_gpu.is_none() => Some(one_gpu(device, problem, host, options)?),
        0 => options.seconds_one_gpu,
        _ => None,
    };
    communicator.barrier()?;
    Ok(RankFigures {
        rank,
        seconds,
        seconds_compute,
        seconds_transfer,
        seconds_one_gpu,
        bytes_received: plan.bytes_received(),
        workspace_bytes: workspace.bytes(),
        rows_verified,
        error,
        repeats: options.repeats.max(1),
    })
}

/// As many passes as take about so long: the same number on every rank, because it follows from the problem alone.
fn passes(flops: f64, sample: Duration) -> usize {
    /// What an H200 reaches, roughly.
    const FLOPS_PER_SECOND: f64 = 5e14;
    ((sample.as_secs_f64() * FLOPS_PER_SECOND / flops) as usize).clamp(2, 500)
}

struct Timing<'a> {
    device: &'a Cuda,
    communicator: &'a dyn Communicator,
    plan: &'a RankPlan,
    local: &'a Local,
    workspace: &'a Workspace,
    options: &'a ParallelOptions,
}

impl Timing<'_> {
    /// Seconds per pass, from one barrier to the next.
    fn median(&self, work: Work, passes: usize) -> sdpa_parallel::Result<f64> {
        let mut samples = Vec::with_capacity(self.options.samples);
        // One more, which warms up.
        for _ in 0..=self.options.samples {
            self.communicator.barrier()?;
            let started = Instant::now();
            for _ in 0..passes {
                self.plan.work(self.device, self.communicator, &self.local.tensors(), self.workspace, work)?;
            }
            self.communicator.synchronize(self.device)?;
            self.communicator.barrier()?;
            samples.push(started.elapsed().as_secs_f64() / passes as f64);
        }
        Ok(median(&mut samples[1..]))
    }
}

fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// The fastest generation on one GPU with the whole problem.
fn one_gpu(
    device: &Cuda,
    problem: &Problem,
    host: &HostTensors,
    options: &ParallelOptions,
) -> Result<f64, sdpa_core::Error> {
    let upload = |bits: &[u16]| device.upload(&to_bytes(bits));
    let (query, key, value) = (upload(&host.query)?, upload(&host.key)?, upload(&host.value)?);
    let output = device.allocate_named("output", query.bytes())?;
    let lse = device.allocate_named("lse", problem.lse_len() * size_of::<f32>())?;
    let tensors = Tensors::new(&query, &key, &value, &output).with_lse(&lse);
    let prepared = sdpa::Fastest.prepare(device, problem)?;
    let passes = passes(problem.flops(), options.sample);
    let mut samples = Vec::new();
    for _ in 0..=options.samples {
        device.synchronize()?;
        let started = Instant::now();
        for _ in 0..passes {
            prepared.forward(&tensors)?;
        }
        device.synchronize()?;
        samples.push(started.elapsed().as_secs_f64() / passes as f64);
    }
    Ok(median(&mut samples[1..]))
}

/// Some of a rank's rows against the oracle: how many, their error, and what it may be.
fn verify(
    context: &ContextParallel,
    host: &HostTensors,
    rank: usize,
    out: &[u8],
    lse: &[u8],
) -> Result<(usize, [f64; 2]), Box<dyn std::error::Error + Send + Sync>> {
    /// Products of f64 numbers that take about a second.
    const AFFORDABLE: usize = 1 << 30;
    let (problem, partition) = (context.problem(), context.queries());
    let row = problem.head_dim();
    let own = partition.len(rank);
    let heads: Vec<usize> = if problem.heads_q() > 1 { vec![0, problem.heads_q() - 1] } else { vec![0] };
    let per_row = (heads.len() * problem.len_kv() * row).max(1);
    let step = own.div_ceil((AFFORDABLE / per_row).max(1)).max(1);
    // The last row sees the most under a causal mask.
    let mut indices: Vec<usize> = (0..own).step_by(step).chain(own.checked_sub(1)).collect();
    indices.dedup();
    let positions: Vec<usize> = partition.positions(rank).collect();
    let mut whole = vec![0_u16; problem.span(Operand::Output)];
    let mut whole_lse = vec![0.0_f32; problem.lse_len()];
    for head in &heads {
        for index in &indices {
            let from = (head * own + index) * row;
            let to = (head * problem.len_q() + positions[*index]) * row;
            for column in 0..row {
                let at = 2 * (from + column);
                whole[to + column] = u16::from_le_bytes([out[at], out[at + 1]]);
            }
            let at = 4 * (head * own + index);
            whole_lse[head * problem.len_q() + positions[*index]] =
                f32::from_le_bytes([lse[at], lse[at + 1], lse[at + 2], lse[at + 3]]);
        }
    }
    let queries: Vec<usize> = indices.iter().map(|index| positions[*index]).collect();
    if queries.is_empty() {
        return Ok((0, [0.0; 2]));
    }
    let count = queries.len() * heads.len();
    let rows = Rows { batches: vec![0], heads, queries };
    let inputs = Inputs { query: &host.query, key: &host.key, value: &host.value, ..Inputs::default() };
    let reference = Reference::compute(problem, &inputs, Some(&rows))?;
    let found = Found { out: &whole, lse: Some(&whole_lse) };
    let tolerance = Tolerance { merged: context.way() == Way::Ring, ..Tolerance::default() };
    let measured =
        reference.judge(&found, &tolerance).map_err(|mismatch| Wrong { rank, reason: mismatch.to_string() })?;
    Ok((count, [measured.rel_fro, measured.fro_limit]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(rank: usize, seconds: [f64; 3], bytes_received: usize) -> RankFigures {
        let [seconds, seconds_compute, seconds_transfer] = seconds;
        RankFigures {
            rank,
            seconds,
            seconds_compute,
            seconds_transfer,
            seconds_one_gpu: (rank == 0).then_some(1.9),
            bytes_received,
            workspace_bytes: 0,
            rows_verified: 1,
            error: [0.0; 2],
            repeats: 1,
        }
    }

    #[test]
    fn the_slowest_rank_counts() {
        let problem = Problem::new(1, 8, 1000, 64).build().unwrap();
        let context = ContextParallel::new(problem, 2).unwrap();
        let figure = ParallelFigure::new(&context, vec![rank(0, [0.9, 0.9, 0.2], 50), rank(1, [1.0, 0.95, 0.2], 100)]);
        assert_eq!((figure.seconds, figure.tokens_per_second), (1.0, 1000.0));
        assert_eq!((figure.speed_up, figure.efficiency), (Some(1.9), Some(0.95)));
        // 0.05 of 0.2 seconds of transfers show.
        assert!((figure.transfer_hidden.unwrap() - 0.75).abs() < 1e-9);
        assert_eq!(figure.bytes_per_second, Some(500.0));
        let alone = ParallelFigure::new(&context, vec![rank(0, [1.0, 1.0, 0.0], 0)]);
        assert_eq!((alone.transfer_hidden, alone.bytes_per_second), (None, None));
    }

    #[test]
    fn pytorchs_own_words_are_passed_over() {
        let figure = r#"{"peer": "torch context_parallel", "backend": "flash", "rotate": "alltoall", "seconds": 0.5, "torch": "2.11"}"#;
        let declined = r#"{"backend": "cudnn", "rotate": "alltoall", "declined": "no kernel", "torch": "2.11"}"#;
        let figures = parse_peers(&format!("W1130 OMP_NUM_THREADS\n{figure}\n{declined}\n")).unwrap();
        assert_eq!((figures[0].seconds, figures[1].seconds), (Some(0.5), None));
        assert_eq!(figures[1].declined.as_deref(), Some("no kernel"));
        assert!(parse_peers("Traceback").unwrap_err().ends_with("answered nothing: Traceback"));
        assert!(parse_peers("{").is_err());
    }

    #[test]
    fn shares_are_the_ranks_rows() {
        let partition = Partition::new(4, vec![vec![0..1, 3..4], vec![1..3]]).unwrap();
        let whole: Vec<u16> = (0..16).collect();
        let of = |rank| share(&whole, &partition, rank, 2).chunks(2).map(|bytes| bytes[0]).collect::<Vec<_>>();
        assert_eq!(of(0), [0, 1, 6, 7, 8, 9, 14, 15]);
        assert_eq!(of(1), [2, 3, 4, 5, 10, 11, 12, 13]);
    }

    #[test]
    fn what_pytorch_does_not_do_is_not_asked() {
        let windowed = Problem::new(1, 1, 64, 64).window(sdpa_core::Window::left(3)).build().unwrap();
        assert!(peers("no-such-python", &windowed, 2, 3).unwrap_err().starts_with("context_parallel is for plain"));
        let plain = Problem::new(1, 1, 64, 64).build().unwrap();
        assert!(peers("no-such-python", &plain, 2, 3).unwrap_err().starts_with("no-such-python does not start"));
    }
}
