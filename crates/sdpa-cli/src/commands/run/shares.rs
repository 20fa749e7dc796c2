//! A user's tensors in the shares of ranks, and their results as one.

use sdpa_cli::files::UserTensors;
use sdpa_core::{Device, Operand, Problem};
use sdpa_parallel::{Communicator, ContextParallel, LocalTensors, Partition};

use super::super::ranks::Error;
use super::Computed;

/// How ranks share the problem of these tensors, whose lengths are known here.
pub(super) fn context(tensors: &UserTensors, ranks: usize) -> sdpa_parallel::Result<ContextParallel> {
    let (problem, extension) = (&tensors.problem, &tensors.extension);
    match (problem.packing(), problem.key_lengths(), problem.paging()) {
        (Some(_), _, None) => ContextParallel::packed(problem.clone(), extension.sequences(problem, 0), ranks),
        (None, true, None) => {
            let lengths: Vec<usize> = extension.key_lengths.iter().map(|length| *length as usize).collect();
            ContextParallel::of_key_lengths(problem.clone(), &lengths, ranks)
        }
        _ => ContextParallel::new(problem.clone(), ranks),
    }
}

/// Where the rows of a rank's contiguous tensor `[batch, heads, positions, head_dim]` begin in the whole tensor.
fn rows(problem: &Problem, operand: Operand, partition: &Partition, rank: usize) -> Vec<usize> {
    let [batch, heads, ..] = problem.shape(operand);
    let heads = (0..batch).flat_map(|batch| (0..heads).map(move |head| (batch, head)));
    heads
        .flat_map(|(batch, head)| {
            partition.positions(rank).map(move |position| problem.row_offset(operand, batch, head, position))
        })
        .collect()
}

fn share(whole: &[u16], starts: &[usize], row: usize) -> Vec<u8> {
    starts.iter().flat_map(|start| &whole[*start..start + row]).flat_map(|bits| bits.to_le_bytes()).collect()
}

/// One rank's rows of the result.
pub(super) fn compute(
    device: &dyn Device,
    communicator: &dyn Communicator,
    context: &ContextParallel,
    tensors: &UserTensors,
) -> Result<Computed, Error> {
    let (rank, problem) = (communicator.rank(), context.problem());
    let row = problem.head_dim();
    let upload =
        |whole: &[u16], operand, partition| device.upload(&share(whole, &rows(problem, operand, partition, rank), row));
    let query = upload(&tensors.query, Operand::Query, context.queries())?;
    let key = upload(&tensors.key, Operand::Key, context.keys())?;
    let value = upload(&tensors.value, Operand::Value, context.keys())?;
    let output = device.allocate_named("output", query.bytes())?;
    let lse = device.allocate_named("lse", query.bytes() / problem.dtype().bytes() / row * size_of::<f32>())?;
    let of_heads = |asked: bool, numbers: &[f32]| {
        let bytes = || numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<_>>();
        asked.then(|| device.upload(&bytes())).transpose()
    };
    let sinks = of_heads(problem.sinks(), &tensors.extension.sinks)?;
    let slopes = of_heads(problem.slopes(), &tensors.extension.slopes)?;
    let plan = context.plan(rank)?;
    let workspace = plan.workspace(device)?;
    let local = LocalTensors::new(&query, &key, &value, &output).with_lse(&lse);
    let local = LocalTensors { sinks: sinks.as_ref(), slopes: slopes.as_ref(), ..local };
    plan.forward(device, communicator, &local, &workspace)?;
    communicator.synchronize(device)?;

    let (mut out_bytes, mut lse_bytes) = (vec![0; output.bytes()], vec![0; lse.bytes()]);
    device.read(&output, 0, &mut out_bytes)?;
    device.read(&lse, 0, &mut lse_bytes)?;
    // Nobody's buffers go before everybody's transfers are over.
    communicator.barrier()?;
    Ok(Computed {
        out: out_bytes.as_chunks::<2>().0.iter().map(|bytes| u16::from_le_bytes(*bytes)).collect(),
        lse: lse_bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
    })
}

/// All ranks' rows where they belong.
pub(super) fn gather(context: &ContextParallel, of_ranks: &[Computed]) -> Computed {
    let problem = context.problem();
    let row = problem.head_dim();
    let mut whole = Computed { out: vec![0; problem.span(Operand::Output)], lse: vec![0.0; problem.lse_len()] };
    for (rank, own) in of_ranks.iter().enumerate() {
        let starts = rows(problem, Operand::Output, context.queries(), rank);
        for (start, from) in starts.into_iter().zip(own.out.chunks_exact(row)) {
            whole.out[start..start + row].copy_from_slice(from);
        }
        let mut lse = own.lse.iter();
        for head in 0..problem.batch() * problem.heads_q() {
            for (position, lse) in context.queries().positions(rank).zip(&mut lse) {
                whole.lse[head * problem.len_q() + position] = *lse;
            }
        }
    }
    whole
}
