//! Ranks on threads, what each holds of a problem's tensors, and what all of them computed.

use std::time::Duration;

use harness::regime::{Data, Regime};
use sdpa_core::{Device as _, Interpreter, Operand, Problem};
use sdpa_parallel::{Communicator, ContextParallel, Error, InProcess, LocalTensors, Partition, Way};
use sdpa_ref::{Found, Measured, Reference, Tolerance};

pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// What all ranks computed, as one GPU would have written it: contiguous `[batch, heads, length, head_dim]`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) out: Vec<u16>,
    pub(crate) lse: Vec<f32>,
}

/// Rows of a contiguous tensor `[outer, length, row]` that a rank holds.
fn local<T: Copy>(whole: &[T], partition: &Partition, rank: usize, row: usize) -> Vec<T> {
    let length = partition.length() * row;
    let tensors = whole.len().checked_div(length).unwrap_or(0);
    let of_one = |tensor: usize| {
        let positions = partition.positions(rank).map(move |position| tensor * length + position * row);
        positions.flat_map(|start| whole[start..start + row].to_vec())
    };
    (0..tensors).flat_map(of_one).collect()
}

/// Puts a rank's rows where they belong.
fn place<T: Copy>(whole: &mut [T], own: &[T], partition: &Partition, rank: usize, row: usize) {
    let length = partition.length() * row;
    let tensors = whole.len().checked_div(length).unwrap_or(0);
    let mut rows = own.chunks_exact(row);
    for tensor in 0..tensors {
        for position in partition.positions(rank) {
            let start = tensor * length + position * row;
            whole[start..start + row].copy_from_slice(rows.next().unwrap());
        }
    }
    assert!(rows.next().is_none(), "a rank has more rows than positions");
}

fn bytes(bits: &[u16]) -> Vec<u8> {
    bits.iter().flat_map(|bits| bits.to_le_bytes()).collect()
}

/// One rank's pass on an interpreter: its own output and log-sum-exp.
pub(crate) fn pass(
    context: &ContextParallel,
    data: &Data,
    communicator: &dyn Communicator,
) -> Result<(Vec<u16>, Vec<f32>), Error> {
    pass_on(&Interpreter::new(), [context, context], data, communicator)
}

/// The same on a device that was prepared, with data where `held` says and a plan of `context`.
fn pass_on(
    device: &Interpreter,
    [context, held]: [&ContextParallel; 2],
    data: &Data,
    communicator: &dyn Communicator,
) -> Result<(Vec<u16>, Vec<f32>), Error> {
    let rank = communicator.rank();
    let problem = context.problem();
    let head_dim = problem.head_dim();
    let upload = |bits: &[u16], partition| device.upload(&bytes(&local(bits, partition, rank, head_dim)));
    let query = upload(&data.query, held.queries())?;
    let key = upload(&data.key, held.keys())?;
    let value = upload(&data.value, held.keys())?;
    let output = device.allocate_named("output", query.bytes())?;
    let rows = query.bytes() / 2 / head_dim;
    let lse = device.allocate_named("lse", rows * 4)?;
    let numbers = |asked: bool, numbers: &[f32]| {
        let bytes = || numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<_>>();
        asked.then(|| device.upload(&bytes())).transpose()
    };
    let sinks = numbers(problem.sinks(), &data.extension.sinks)?;
    let slopes = numbers(problem.slopes(), &data.extension.slopes)?;
    let plan = context.plan(rank)?;
    let workspace = plan.workspace(device)?;
    let tensors = LocalTensors::new(&query, &key, &value, &output).with_lse(&lse);
    let tensors = LocalTensors { sinks: sinks.as_ref(), slopes: slopes.as_ref(), ..tensors };
    plan.forward(device, communicator, &tensors, &workspace)?;
    communicator.synchronize(device)?;
    let (mut out_bytes, mut lse_bytes) = (vec![0; output.bytes()], vec![0; lse.bytes()]);
    device.read(&output, 0, &mut out_bytes)?;
    device.read(&lse, 0, &mut lse_bytes)?;
    let out = out_bytes.as_chunks::<2>().0.iter().map(|bytes| u16::from_le_bytes(*bytes)).collect();
    let lse = lse_bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    Ok((out, lse))
}

/// All ranks at once, each a thread.
pub(crate) fn run(context: &ContextParallel, data: &Data) -> Result<Outcome, Error> {
    run_on(context, context, data, &|_| {})
}

/// The same with a fault: devices that `prepare` changes, or data of another context than the plans are of.
pub(crate) fn run_on(
    context: &ContextParallel,
    held: &ContextParallel,
    data: &Data,
    prepare: &(dyn Fn(&Interpreter) + Sync),
) -> Result<Outcome, Error> {
    let problem = context.problem();
    let mut out = vec![0; problem.batch() * problem.heads_q() * problem.len_q() * problem.head_dim()];
    let mut lse = vec![0.0; problem.lse_len()];
    let group = InProcess::group(context.ranks(), PATIENCE);
    let done: Vec<_> = std::thread::scope(|scope| {
        let threads = group.into_iter().map(|communicator| {
            scope.spawn(move || {
                let device = Interpreter::new();
                prepare(&device);
                pass_on(&device, [context, held], data, &communicator)
            })
        });
        let threads: Vec<_> = threads.collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (rank, own) in done.into_iter().enumerate() {
        let (own_out, own_lse) = own?;
        place(&mut out, &own_out, context.queries(), rank, problem.head_dim());
        place(&mut lse, &own_lse, context.queries(), rank, 1);
    }
    Ok(Outcome { out, lse })
}

/// A problem shared by ranks: packed sequences and key lengths are those of the data.
pub(crate) fn shared(problem: &Problem, data: &Data, ranks: usize) -> Result<ContextParallel, Error> {
    let extension = &data.extension;
    match (problem.packing(), problem.key_lengths()) {
        (Some(_), _) => ContextParallel::packed(problem.clone(), extension.sequences(problem, 0), ranks),
        (None, true) => {
            let lengths: Vec<usize> = extension.key_lengths.iter().map(|length| *length as usize).collect();
            ContextParallel::of_key_lengths(problem.clone(), &lengths, ranks)
        }
        (None, false) => ContextParallel::new(problem.clone(), ranks),
    }
}

pub(crate) fn data_of(problem: &Problem, regime: Regime, seed: u64) -> Data {
    regime.generate(problem, seed)
}

/// Against the oracle, with the tolerance of a generation; results that were merged have one rounding more.
pub(crate) fn judge(context: &ContextParallel, data: &Data, outcome: &Outcome) -> Result<Measured, String> {
    judge_as(context, data, outcome, context.way() == Way::Ring)
}

pub(crate) fn judge_as(
    context: &ContextParallel,
    data: &Data,
    outcome: &Outcome,
    merged: bool,
) -> Result<Measured, String> {
    let problem = context.problem();
    let reference = Reference::compute(problem, &data.inputs(), None).unwrap();
    assert_eq!(problem.span(Operand::Output), outcome.out.len());
    let found = Found { out: &outcome.out, lse: Some(&outcome.lse) };
    reference.judge(&found, &Tolerance { merged, ..Tolerance::default() }).map_err(|mismatch| mismatch.to_string())
}
