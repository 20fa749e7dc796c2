//! `sdpa bench --ranks`: attention over a sequence that several GPUs share, beside one GPU.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use sdpa_bench::parallel::{HostTensors, ParallelFigure, ParallelOptions, PeerFigure, Wrong, measure_rank, peers};
use sdpa_parallel::{ContextParallel, Way};
use sdpa_toolchain::write_whole;

use super::super::ranks::{Ranks, plain};
use super::super::{FAILED, Outcome};
use super::problems::Sweep;

/// What `sdpa bench` was asked for with ranks.
pub(super) struct Asked<'a> {
    pub(super) ranks: &'a Ranks,
    pub(super) options: ParallelOptions,
    /// The Python that has PyTorch, if its context_parallel is wanted beside.
    pub(super) python: Option<&'a str>,
    pub(super) json: Option<&'a Path>,
}

/// Measures every problem of these sweeps both ways, or the way that is asked for.
pub(super) fn run(out: &mut dyn Write, asked: &Asked<'_>, sweeps: &[Sweep]) -> Outcome {
    let Asked { ranks, options, python, json } = asked;
    let count = ranks.count();
    let ways = ranks.way.map_or(vec![Way::Ring, Way::Heads], |way| vec![way.into()]);
    let is_first = ranks.place().map_err(plain)?.is_none_or(|place| place.rank == 0);
    // After each, so that a run that is ended early keeps what it had.
    let write = |figures: &[ParallelFigure]| -> Result<(), Box<dyn std::error::Error>> {
        match json.filter(|_| is_first) {
            Some(path) => Ok(write_whole(path, serde_json::to_string_pretty(figures)?.as_bytes())?),
            None => Ok(()),
        }
    };
    let mut figures = Vec::new();
    for case in sweeps.iter().flat_map(|sweep| &sweep.cases) {
        if case.problem.sinks() || case.problem.slopes() {
            return Err(format!("--ranks times problems without sinks and slopes, not {}", case.problem).into());
        }
        let host = HostTensors::generate(&case.problem, case.seed);
        let first = figures.len();
        let mut options = *options;
        for way in &ways {
            let context = ContextParallel::new(case.problem.clone(), count)?.with_way(*way);
            let measured = ranks
                .on_gpus(out, |device, communicator| measure_rank(device, communicator, &context, &host, &options));
            let measured = match measured {
                Err(error) if error.is::<Wrong>() => {
                    writeln!(out, "{error}")?;
                    return Ok(ExitCode::from(FAILED));
                }
                measured => measured.map_err(plain)?,
            };
            let figure = ParallelFigure::new(&context, measured);
            options.seconds_one_gpu = figure.seconds_one_gpu;
            if is_first {
                print(out, &figure)?;
            }
            figures.push(figure);
            write(&figures)?;
        }
        if let Some(python) = python.filter(|_| is_first) {
            match peers(python, &case.problem, count, options.samples) {
                Ok(peers) => {
                    let best = figures[first..].iter().map(|figure| figure.seconds).fold(f64::INFINITY, f64::min);
                    peers.iter().try_for_each(|peer| print_peer(out, peer, best))?;
                    figures[first..].iter_mut().for_each(|figure| figure.peers.clone_from(&peers));
                    write(&figures)?;
                }
                Err(reason) => writeln!(out, "no context_parallel: {reason}")?,
            }
        }
    }
    if let Some(path) = json.filter(|_| is_first) {
        writeln!(out, "wrote {}", path.display())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print(out: &mut dyn Write, figure: &ParallelFigure) -> std::io::Result<()> {
    let ParallelFigure { problem, way, ranks, seconds, .. } = figure;
    write!(out, "{problem} {way} on {ranks}: {:.3} ms", seconds * 1e3)?;
    write!(out, ", {:.3e} tokens/s, {:.0} TFLOP/s", figure.tokens_per_second, figure.flops_per_second / 1e12)?;
    if let (Some(one), Some(speed_up), Some(efficiency)) = (figure.seconds_one_gpu, figure.speed_up, figure.efficiency)
    {
        write!(out, "; one GPU {:.3} ms: {speed_up:.3} × ({:.1} % each)", one * 1e3, efficiency * 100.0)?;
    }
    if let (Some(hidden), Some(rate)) = (figure.transfer_hidden, figure.bytes_per_second) {
        write!(out, "; {:.0} % of the transfers hidden, {:.0} GB/s alone", hidden * 100.0, rate / 1e9)?;
    }
    for rank in &figure.of_ranks {
        write!(
            out,
            "\n  rank {}: {:.3} ms, kernels alone {:.3} ms, transfers alone {:.3} ms of {} MB; {} rows verified, error {:.2e} of {:.2e}, {} passes with the same bits",
            rank.rank,
            rank.seconds * 1e3,
            rank.seconds_compute * 1e3,
            rank.seconds_transfer * 1e3,
            rank.bytes_received / 1_000_000,
            rank.rows_verified,
            rank.error[0],
            rank.error[1],
            rank.repeats,
        )?;
    }
    writeln!(out)
}

/// PyTorch beside the faster of our ways.
fn print_peer(out: &mut dyn Write, peer: &PeerFigure, ours: f64) -> std::io::Result<()> {
    write!(out, "  PyTorch {} context_parallel, {} by {}: ", peer.torch, peer.backend, peer.rotate)?;
    match (peer.seconds, &peer.declined) {
        (Some(theirs), _) => writeln!(out, "{:.3} ms, {:.3} × ours", theirs * 1e3, theirs / ours),
        (None, reason) => writeln!(out, "{}", reason.as_deref().unwrap_or("no time")),
    }
}
