//! `sdpa run`: attention over a user's own tensors.

mod shares;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use harness::execute::operand_bytes;
use harness::extension_tensors::ExtensionTensors;
use sdpa_cli::files::{self, Asked, Expected, UserTensors};
use sdpa_core::{
    Attention, Device, DeviceKind, DeviceLimits, LaunchPlan, Layout, Mask, Operand, Problem, Tensors, Unsupported,
    Window,
};
use sdpa_ref::{Found, Measured, Reference, Rows, Tolerance};

use super::ranks::{Ranks, plain};
use super::{FAILED, Outcome, generation, open, spinner};

/// Compute attention over your tensors q, k and v
///
/// Reads tensors `q`, `k` and `v` of shape [batch, heads, length, head_dim], f16 or bf16, from a safetensors file; k and v
/// may have fewer heads (a divisor) and another length, and v another head_dim, which is then that of `out`. Writes `out` in the
/// same type and order and `lse`, the log-sum-exp of every row, [batch, heads, length], in f32. Where the input holds `out`, or `out_causal` with a causal mask, prints the
/// error against it.
///
/// The file may also hold:
///
/// - `cu_seqlens_q`: where each sequence begins and the last one ends, [sequences + 1], i32, u32 or i64, from 0 on. Tensors are
///   then packed, [total, heads, head_dim], and so is `out`; `lse` is [heads, total]. Rows behind the last sequence are written
///   as 0, their log-sum-exp as −∞.
///
/// - `cu_seqlens_k`: the same of the keys; without it, they are those of the queries, which must be as many.
///
/// - `key_lengths`: how many of its keys each sequence of a batch that is not packed uses, [batch].
///
/// - `block_table`: which page holds which keys of a sequence, [sequences, width], i32, u32 or i64. k and v are then pages,
///   [pages, heads, page, head_dim] (with blhd, and beside packed queries, [pages, page, heads, head_dim]), and `key_lengths`,
///   [sequences], must be there.
///
/// - `k_scale` and `v_scale`: what k and v in f8_e4m3 are multiplied by, [1] or [heads of k], f32; they must be there then. q, and
///   so `out`, is f16 or bf16 all the same.
///
/// - `sinks`: for each query head a logit that counts in the softmax's sum and has no value, [heads], f32, f16 or bf16.
///
/// - `slopes`: for each query head a slope, by which scores fall with each key of distance from the diagonal (ALiBi), [heads].
///
/// Every finite logit is computed right, however large. Where query · key itself is beyond the largest f32 the output is
/// NaN, which is said, with exit code 1.
#[derive(clap::Args, Debug)]
pub(crate) struct Run {
    /// Which generation computes; by default the fastest for the problem on the device (crate `sdpa`)
    #[arg(long, value_name = "ID")]
    generation: Option<String>,
    /// The tensors to read
    #[arg(value_name = "IN.safetensors")]
    input: PathBuf,
    /// The file to write
    #[arg(short, long, value_name = "OUT.safetensors")]
    output: PathBuf,
    /// The order of the tensors' dimensions, in the input and in the output; by default bhld. Packed tensors need none
    #[arg(long, value_enum, value_name = "ORDER")]
    layout: Option<Order>,
    /// Hide keys after the query; the last query sees every key
    #[arg(long)]
    causal: bool,
    /// Hide keys after the query; the first query sees the first key alone (PyTorch's is_causal)
    #[arg(long, conflicts_with = "causal")]
    causal_top_left: bool,
    /// Factor on query · key; by default 1/√head_dim
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    scale: Option<f32>,
    /// Hide keys that are farther from the query's own place than LEFT before it and RIGHT behind it, each a number or `all`.
    /// The last query's place is the last key; with --causal-top-left the first query's is the first
    #[arg(long, value_name = "LEFT,RIGHT", value_parser = window, allow_hyphen_values = true)]
    window: Option<Window>,
    /// Scores become CAP · tanh(score / CAP)
    #[arg(long, value_name = "CAP", allow_negative_numbers = true)]
    softcap: Option<f32>,
    #[command(flatten)]
    ranks: Ranks,
}

/// `128,0`, or `128,all`.
fn window(text: &str) -> Result<Window, String> {
    let side = |text: &str| match text.trim() {
        "all" => Ok(None),
        number => number
            .parse()
            .map(Some)
            .map_err(|_| format!("`{number}` is no number of keys; `all` is no limit on that side")),
    };
    match text.split(',').collect::<Vec<_>>()[..] {
        [left, right] => Ok(Window { left: side(left)?, right: side(right)? }),
        _ => Err("expected LEFT,RIGHT, such as 128,0 or 128,all".to_owned()),
    }
}

/// An order of dimensions, as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Order {
    /// [batch, heads, length, head_dim]
    Bhld,
    /// [batch, length, heads, head_dim]
    Blhd,
}

impl Order {
    fn layout(self) -> Layout {
        match self {
            Self::Bhld => Layout::Bhld,
            Self::Blhd => Layout::Blhd,
        }
    }
}

impl Run {
    pub(crate) fn run(&self, out: &mut dyn Write) -> Outcome {
        let mask = match (self.causal, self.causal_top_left) {
            (true, _) => Mask::Causal,
            (_, true) => Mask::CausalTopLeft,
            _ => Mask::Full,
        };
        let wanted = self.generation.as_deref().map(generation).transpose()?;
        files::check_output(&self.input, &self.output)?;
        let tensors = files::read(
            &self.input,
            &Asked {
                mask,
                scale: self.scale,
                window: self.window.unwrap_or(Window::ALL),
                softcap: self.softcap,
                layout: self.layout.map(Order::layout),
            },
        )?;
        let problem = &tensors.problem;
        if self.ranks.ranks.is_some() {
            return self.run_on_ranks(out, &tensors);
        }

        let device = open(out)?;
        let (generation, plan) = choose(wanted, problem, &*device)?;
        let who = generation.generation();
        writeln!(out, "problem: {problem} scale {}", readable(problem.scale()))?;
        writeln!(out, "generation: {}, {}", who.id, who.title)?;
        writeln!(out, "plan: {plan}")?;
        let slow = slow_note(wanted.is_some(), problem, device.limits());
        for note in [tensors.transposed.clone(), rows_behind_note(&tensors), slow] {
            note.map_or(Ok(()), |note| writeln!(out, "note: {note}"))?;
        }

        let progress = spinner(match device.kind() {
            DeviceKind::Cuda => "computing",
            DeviceKind::Interpreter => "interpreting the kernel on this machine's cores; a GPU is faster",
        });
        let result = compute(&*device, generation, &tensors);
        progress.finish_and_clear();
        let result = result?;
        self.conclude(out, generation, &tensors, &result)
    }

    /// The same by ranks that share the sequence.
    fn run_on_ranks(&self, out: &mut dyn Write, tensors: &UserTensors) -> Outcome {
        if self.generation.is_some() {
            return Err("--generation is for one device: ranks take the fastest generation for each part".into());
        }
        let problem = &tensors.problem;
        let ranks = self.ranks.count();
        let mut context = shares::context(tensors, ranks)?;
        if let Some(way) = self.ranks.way {
            context = context.with_way(way.into());
        }
        writeln!(out, "problem: {problem} scale {}", readable(problem.scale()))?;
        writeln!(out, "way: {} on {ranks} ranks", context.way())?;
        let computed = self.ranks.on_devices(out, |device, communicator| {
            shares::compute(device, communicator, &context, tensors).inspect_err(|error| {
                communicator.fail(&error.to_string());
            })
        });
        let result = shares::gather(&context, &computed.map_err(plain)?);
        self.conclude(out, &sdpa::Fastest, tensors, &result)
    }

    /// Writes the result, and says what there is to say of it.
    fn conclude(
        &self,
        out: &mut dyn Write,
        generation: &dyn Attention,
        tensors: &UserTensors,
        result: &Computed,
    ) -> Outcome {
        files::write(&self.output, tensors, &result.out, &result.lse)?;
        writeln!(out, "wrote {}", self.output.display())?;
        let overflow = overflow_note(tensors, result);
        if let Some(note) = &overflow {
            writeln!(out, "wrong: {note}")?;
        }
        if let Some(note) = infinite_lse_note(tensors, result) {
            writeln!(out, "note: {note}")?;
        }

        if let Some(note) = &tensors.not_compared {
            writeln!(out, "note: {note}")?;
        }
        match &tensors.expected {
            Some(expected) => compare(out, generation, tensors, expected, result),
            None if overflow.is_some() => Ok(ExitCode::from(FAILED)),
            None => Ok(ExitCode::SUCCESS),
        }
    }
}

/// The generation asked for, or the fastest.
fn choose(
    wanted: Option<&'static dyn Attention>,
    problem: &Problem,
    device: &dyn Device,
) -> Result<(&'static dyn Attention, LaunchPlan), Unsupported> {
    match wanted {
        Some(generation) => Ok((generation, generation.plan(problem, device.limits())?)),
        None => sdpa::planned(problem, device.limits()),
    }
}

/// What to say of packed rows that no sequence has.
fn rows_behind_note(tensors: &UserTensors) -> Option<String> {
    let rows = match tensors.rows_behind {
        0 => return None,
        1 => "1 row of `q` lies".to_owned(),
        rows => format!("{rows} rows of `q` lie"),
    };
    Some(format!("{rows} behind the last sequence: written as 0, with a log-sum-exp of −∞"))
}

/// Why a far slower generation than the others was chosen, if one was.
fn slow_note(asked_for: bool, problem: &Problem, limits: &DeviceLimits) -> Option<String> {
    if asked_for {
        return None;
    }
    let reason = sdpa::slow_because(problem, limits)?;
    Some(format!("this generation is far slower than those that decline the problem: {reason}"))
}

/// What to say of NaN that no input explains: scores that no f32 holds.
fn overflow_note(tensors: &UserTensors, result: &Computed) -> Option<String> {
    let dtype = tensors.problem.dtype();
    let made = count(&result.out, |bits| dtype.decode(bits).is_nan());
    if made == 0 || nonfinite_inputs(tensors) > 0 {
        return None;
    }
    Some(format!(
        "{made} of {} output elements are NaN, and q, k and v are finite: query · key is beyond the largest f32; choose \
         smaller tensors and a larger scale",
        result.out.len(),
    ))
}

/// What to say of rows whose log-sum-exp no f32 holds, of which −∞ would mean that they see no key.
fn infinite_lse_note(tensors: &UserTensors, result: &Computed) -> Option<String> {
    let problem = &tensors.problem;
    let of_a_batch = (problem.heads_q() * problem.len_q()).max(1);
    let batches = result.lse.chunks(of_a_batch).enumerate();
    let beyond: usize = batches
        .filter(|(_, lse)| lse.iter().any(|lse| lse.is_infinite()))
        .map(|(batch, lse)| {
            let sees_keys = rows_that_see_keys(tensors, batch);
            let rows = lse.iter().enumerate();
            rows.filter(|(row, lse)| lse.is_infinite() && sees_keys[row % problem.len_q()]).count()
        })
        .sum();
    if beyond == 0 || nonfinite_inputs(tensors) > 0 {
        return None;
    }
    Some(format!(
        "the log-sum-exp of {beyond} rows that see keys is beyond the largest f32, and infinite in the output"
    ))
}

/// Which queries of a batch see a key.
fn rows_that_see_keys(tensors: &UserTensors, batch: usize) -> Vec<bool> {
    let problem = &tensors.problem;
    let mut sees_keys = vec![false; problem.len_q()];
    for sequence in tensors.extension.sequences(problem, batch) {
        for query in sequence.queries.clone() {
            sees_keys[query] = !problem.visible(&sequence, query).is_empty();
        }
    }
    sees_keys
}

/// A number without a dozen zeros.
fn readable(scale: f32) -> String {
    match scale.abs() {
        1e-5..1e7 | 0.0 => scale.to_string(),
        _ => format!("{scale:e}"),
    }
}

/// How many elements of q, k and v are NaN or infinite.
fn nonfinite_inputs(tensors: &UserTensors) -> usize {
    let of = |operand, bits| {
        let element = tensors.problem.element(operand);
        count(bits, |bits| !element.decode(bits).is_finite())
    };
    of(Operand::Query, &tensors.query) + of(Operand::Key, &tensors.key) + of(Operand::Value, &tensors.value)
}

fn count(bits: &[u16], what: impl Fn(u16) -> bool) -> usize {
    bits.iter().filter(|bits| what(**bits)).count()
}

struct Computed {
    out: Vec<u16>,
    lse: Vec<f32>,
}

fn compute(
    device: &dyn Device,
    generation: &dyn Attention,
    tensors: &UserTensors,
) -> Result<Computed, sdpa_core::Error> {
    let problem = &tensors.problem;
    let upload = |operand, bits: &[u16]| device.upload(&operand_bytes(problem, operand, bits));
    let query = upload(Operand::Query, &tensors.query)?;
    let (key, value) = (upload(Operand::Key, &tensors.key)?, upload(Operand::Value, &tensors.value)?);
    let output = device.allocate(problem.span_bytes(Operand::Output))?;
    let lse = device.allocate(problem.lse_len() * size_of::<f32>())?;
    let extension = ExtensionTensors::new(problem, &tensors.extension, |_, bytes| device.upload(&bytes))?;
    let tensors = Tensors::new(&query, &key, &value, &output).with_lse(&lse);
    generation.forward(device, problem, &extension.add_to(tensors))?;

    let mut out_bytes = vec![0; output.bytes()];
    device.read(&output, 0, &mut out_bytes)?;
    let mut lse_bytes = vec![0; lse.bytes()];
    device.read(&lse, 0, &mut lse_bytes)?;
    Ok(Computed {
        out: out_bytes.as_chunks::<2>().0.iter().map(|bytes| u16::from_le_bytes(*bytes)).collect(),
        lse: lse_bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
    })
}

/// Prints the error against the reference that came with the inputs, and whether it is what rounding explains.
fn compare(
    out: &mut dyn Write,
    generation: &dyn Attention,
    tensors: &UserTensors,
    expected: &Expected,
    result: &Computed,
) -> Outcome {
    let problem = &tensors.problem;
    let found: Vec<f64> = result.out.iter().map(|bits| problem.dtype().decode(*bits)).collect();
    let (relative, largest) = difference(&found, &expected.values);
    let limit = limit(generation, tensors, expected, result)?;
    let within = relative <= limit;
    writeln!(
        out,
        "against `{}`: relative Frobenius error {relative:.2e} (tolerance {limit:.2e}), largest absolute error {largest:.2e}: {}",
        expected.name,
        if within { "within tolerance" } else { "OUT OF TOLERANCE" },
    )?;
    if !within {
        let made = found.iter().zip(&expected.values).filter(|(found, expected)| found.is_nan() && !expected.is_nan());
        let advice = match (made.count(), nonfinite_inputs(tensors)) {
            (0, _) => "the scale and the mask that the reference was made with: they are not in the file".to_owned(),
            (nan, 0) => format!(
                "the sizes of q and k: {nan} output elements are NaN where the reference has numbers, and q, k and v are finite"
            ),
            (nan, inputs) => format!(
                "q, k and v: {inputs} of their elements are NaN or infinite, and {nan} output elements are NaN where the \
                 reference has numbers"
            ),
        };
        writeln!(out, "look at {advice}")?;
    }
    Ok(if within { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// Relative Frobenius and largest absolute difference. A NaN agrees with a NaN and with nothing else.
fn difference(found: &[f64], expected: &[f64]) -> (f64, f64) {
    let (mut error, mut norm, mut largest) = (0.0, 0.0, 0.0_f64);
    for (found, expected) in found.iter().zip(expected) {
        if found.is_nan() && expected.is_nan() || found == expected && found.is_infinite() {
            continue;
        }
        let distance = (found - expected).abs();
        let distance = if distance.is_nan() { f64::INFINITY } else { distance };
        error += distance * distance;
        norm += if expected.is_finite() { expected * expected } else { 0.0 };
        largest = largest.max(distance);
    }
    // A reference of nothing but zeros has no relative error; show the absolute one.
    (error.sqrt() / if norm > 0.0 { norm.sqrt() } else { 1.0 }, largest)
}

/// How far two right results may lie apart: ours from the exact one, which the oracle knows for these very inputs, and
/// the reference from it.
fn limit(
    generation: &dyn Attention,
    tensors: &UserTensors,
    expected: &Expected,
    result: &Computed,
) -> Result<f64, Box<dyn std::error::Error>> {
    /// What an f32 computation of attention may be off by, relative to the whole.
    const F32_ERROR: f64 = 1e-5;

    let problem = &tensors.problem;
    let reference = Reference::compute(problem, &tensors.inputs(), Some(&some_rows(problem)))?;
    let tolerance = Tolerance { factor: generation.generation().accuracy.factor(), ..Tolerance::default() };
    let measured = match reference.judge(&Found { out: &result.out, lse: None }, &tolerance) {
        Ok(measured) => measured,
        Err(mismatch) => mismatch.measured,
    };
    let Measured { fro_limit, .. } = measured;
    let theirs = match expected.roundoff / problem.dtype().unit_roundoff() {
        coarse if coarse >= 1.0 / 16.0 => fro_limit * coarse.max(1.0),
        _ => F32_ERROR,
    };
    Ok(fro_limit + theirs)
}

/// All rows of a small problem, evenly spread rows of a large one: a limit on an average needs no more.
fn some_rows(problem: &Problem) -> Rows {
    /// Products of f64 numbers that take about a second.
    const AFFORDABLE: usize = 1 << 30;
    let a_row = (problem.batch() * problem.heads_q() * problem.len_kv() * problem.head_dim()).max(1);
    let step = problem.len_q().div_ceil((AFFORDABLE / a_row).max(1)).max(1);
    let mut rows = Rows::all(problem);
    rows.queries = (0..problem.len_q()).step_by(step).collect();
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nan_agrees_with_a_nan_only() {
        let nan = f64::NAN;
        assert_eq!(difference(&[3.0, nan], &[3.0, nan]), (0.0, 0.0));
        assert_eq!(difference(&[3.0, nan], &[3.0, 4.0]).1, f64::INFINITY);
        assert_eq!(difference(&[3.0, 4.5], &[3.0, 4.0]), (0.1, 0.5));
        assert_eq!(difference(&[0.5], &[0.0]), (0.5, 0.5));
    }
}
