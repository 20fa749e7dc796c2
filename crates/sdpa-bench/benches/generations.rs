//! `cargo bench`: the generations against one another, in device time.
//!
//! Groups are configurations (head dimension, mask, dtype), functions are generations, parameters are lengths. A kernel is
//! verified on each problem before it is timed there; one that is wrong ends the run. Without a GPU nothing is measured.
//!
//! The executable works anywhere: copied to a machine without cargo it writes to `CRITERION_HOME`, else to
//! `target/criterion` under the current folder.

use std::cell::OnceCell;
use std::process::{Command, ExitCode};
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput};
use harness::case::Case;
use sdpa::generations;
use sdpa_bench::timing::{Cache, InputSets, Options, Prepared, Verified};
use sdpa_core::{Attention, Device, DeviceChoice, DeviceKind, Dtype, Mask, Problem};

/// Batch and length, 8 heads: the gate's two, and one where the first and last waves of blocks hardly count.
const SIZES: [(usize, usize); 3] = [(1, 512), (2, 2048), (2, 4096)];
const HEADS: usize = 8;

fn main() -> ExitCode {
    if let Some(code) = again_with_bench() {
        return code;
    }
    let device = match DeviceChoice::from_env().and_then(sdpa_core::open) {
        Ok(device) => device,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    if device.kind() != DeviceKind::Cuda {
        println!("nothing measured: there is no GPU, and the interpreter keeps no time");
        return ExitCode::SUCCESS;
    }
    println!("device: {}", device.name());

    let mut criterion = Criterion::default().configure_from_args();
    for (head_dim, dtype) in [(64, Dtype::F16), (128, Dtype::F16), (128, Dtype::Bf16)] {
        for mask in [Mask::Full, Mask::Causal] {
            let mut group = criterion.benchmark_group(format!("d{head_dim} {} {dtype}", mask.name()));
            group.sampling_mode(SamplingMode::Flat).sample_size(15);
            group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
            for (batch, length) in SIZES {
                let problem = Problem::new(batch, HEADS, length, head_dim).dtype(dtype).mask(mask).build();
                measure(&mut group, &*device, &problem.expect("the benchmarks' problems are valid"));
            }
            group.finish();
        }
    }
    criterion.final_summary();
    ExitCode::SUCCESS
}

/// Every generation that takes the problem.
fn measure(group: &mut BenchmarkGroup<'_, WallTime>, device: &dyn Device, problem: &Problem) {
    // Criterion shows operations as elements.
    group.throughput(Throughput::Elements(problem.flops() as u64));
    // Made with the first benchmark that the command line does not filter out.
    let sets = OnceCell::new();
    for generation in generations::ALL {
        if generation.plan(problem, device.limits()).is_err() {
            continue;
        }
        let prepared = OnceCell::new();
        group.bench_function(BenchmarkId::new(generation.generation().id, problem.len_kv()), |bencher| {
            let sets = sets.get_or_init(|| or_end(InputSets::new(device, problem, Cache::Warm)));
            let prepared = prepared.get_or_init(|| prepare(device, *generation, problem, sets));
            bencher.iter_custom(|passes| or_end(prepared.time_of(passes)));
        });
    }
}

/// Verified, recorded and warm.
fn prepare<'d>(
    device: &'d dyn Device,
    generation: &dyn Attention,
    problem: &Problem,
    sets: &'d InputSets,
) -> Prepared<'d> {
    let verified = or_end(Verified::new(device, generation, &Case::new(problem.clone())));
    or_end(Prepared::new(device, verified, sets, &Options::default()))
}

/// The value, or the end of the run: criterion would take the result of a failed benchmark for a time.
fn or_end<T, E: std::fmt::Display>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        std::process::exit(1)
    })
}

/// `cargo bench` passes `--bench`, without which criterion only tries each benchmark once. Who starts a copied
/// executable by hand wants to measure, too.
fn again_with_bench() -> Option<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let by_cargo = std::env::var_os("CARGO").is_some();
    if by_cargo || arguments.any(|argument| argument == "--bench" || argument == "--test") {
        return None;
    }
    let status = Command::new(std::env::current_exe().ok()?).args(std::env::args().skip(1)).arg("--bench").status();
    status.ok().map(|status| ExitCode::from(status.code().unwrap_or(1) as u8))
}
