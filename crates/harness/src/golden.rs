//! What a GPU made of a few small problems, kept in a file, and held against the interpreter element by element.
//!
//! A generation's outputs are recorded under its own name and the case's, with the bits of the inputs in the
//! fingerprint and the kernel not: a kernel that is changed must still give what the device gave, up to [`UNITS`].

use ptx_probes::{RecordedOutput, Recording};
use sdpa_core::{Attention, Device, Dtype, Problem};

use crate::case::Case;
use crate::check::Trial;
use crate::execute::{Output, RunError, Surroundings, execute, rows};

/// Three key tiles or more, ragged ends, both types, every kind of mask, all widths of kernels.
const CASES: [&str; 5] = [
    "h2 L67 d64 f16 causal normal seed=21",
    "h2/1 q33 kv150 d128 bf16 full normal seed=22",
    "q40 kv131 d64 bf16 full peaked seed=23",
    "q37 kv200 d96 f16 causal outliers seed=24",
    "q33 kv100 d256 f16 full normal seed=25",
];

/// Every plan is made for a device with so many multiprocessors, whichever runs it.
const MULTIPROCESSORS: u32 = 132;

/// How far an element may be from the device's: units in the last place of its row's largest element. A probability is
/// rounded to 16 bits before it meets V, and a difference of one unit of the exponential's last place moves some of
/// those roundings; the output's own rounding adds the other unit.
pub const UNITS: f64 = 2.0;

/// How far a log-sum-exp may be, relative to itself or to 1 where it is less: sums of a few hundred exponentials, each
/// off by two units in the last place of f32.
pub const LSE: f64 = 1.0 / 131_072.0;

/// The cases that a generation takes.
pub fn trials(generation: &dyn Attention) -> Vec<Trial> {
    let cases = CASES.iter().map(|text| text.parse::<Case>().expect("the list holds valid cases"));
    let trials = cases.map(|case| Trial { multiprocessors: Some(MULTIPROCESSORS), ..Trial::new(case) });
    trials.filter(|trial| trial.kernels(generation).is_ok()).collect()
}

/// Under which name a trial of a generation is kept.
pub fn name(generation: &dyn Attention, trial: &Trial) -> String {
    format!("{}: {}", generation.generation().id, trial.case)
}

/// Runs a trial and packs what it wrote.
///
/// # Errors
/// [`RunError`], where the device or the generation refuses or the kernel fails.
pub fn run(device: &dyn Device, generation: &dyn Attention, trial: &Trial) -> Result<RecordedOutput, RunError> {
    let problem = &trial.case.problem;
    let data = trial.case.data();
    let output = execute(device, &trial.subject(generation), problem, &data, Surroundings::Exact)?;
    let inputs = [&data.query, &data.key, &data.value];
    let words = inputs.into_iter().flatten().copied();
    Ok(RecordedOutput { name: name(generation, trial), fingerprint: fingerprint(words), bytes: pack(problem, &output) })
}

/// FNV-1a of the inputs' bits.
fn fingerprint(words: impl Iterator<Item = u16>) -> u64 {
    words
        .flat_map(u16::to_le_bytes)
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Rows of the output one after the other, then their log-sum-exps.
fn pack(problem: &Problem, output: &Output) -> Vec<u8> {
    let elements = rows(problem).flat_map(|row| output.row(problem, row)).flat_map(|bits| bits.to_le_bytes());
    let sums = rows(problem).flat_map(|row| output.lse_at(problem, row).to_le_bytes());
    elements.chain(sums).collect()
}

/// The largest distances between two packed outputs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Distance {
    /// Elements whose bits differ.
    pub different: usize,
    /// Elements compared.
    pub elements: usize,
    /// In units in the last place of the row's largest element.
    pub units: f64,
    /// Of the log-sum-exps, in [`LSE`]'s measure.
    pub lse: f64,
}

impl Distance {
    /// Whether both are within their bounds.
    pub fn is_close(&self) -> bool {
        self.units <= UNITS && self.lse <= LSE
    }
}

/// How far two packed outputs of a problem are apart; none where one of them has another size.
pub fn distance(problem: &Problem, device: &[u8], here: &[u8]) -> Option<Distance> {
    let row_bytes = problem.value_dim() * problem.dtype().bytes();
    let count = rows(problem).count();
    let split = count * row_bytes;
    if device.len() != here.len() || device.len() != split + 4 * count {
        return None;
    }
    let mut found = Distance { elements: split / problem.dtype().bytes(), ..Distance::default() };
    for (device, here) in device[..split].chunks_exact(row_bytes).zip(here[..split].chunks_exact(row_bytes)) {
        let value = |pair: &[u8]| problem.dtype().decode(u16::from_le_bytes([pair[0], pair[1]]));
        let pairs = || device.chunks_exact(2).zip(here.chunks_exact(2));
        let largest = pairs().map(|(device, here)| value(device).abs().max(value(here).abs())).fold(0.0, f64::max);
        let unit = unit(problem.dtype(), largest);
        for (device, here) in pairs().filter(|(device, here)| device != here) {
            found.different += 1;
            found.units = found.units.max(apart(value(device), value(here)) / unit);
        }
    }
    for (device, here) in device[split..].chunks_exact(4).zip(here[split..].chunks_exact(4)) {
        let value = |four: &[u8]| f64::from(f32::from_le_bytes([four[0], four[1], four[2], four[3]]));
        let (device, here) = (value(device), value(here));
        found.lse = found.lse.max(apart(device, here) / device.abs().clamp(1.0, f64::MAX));
    }
    Some(found)
}

/// The distance of two numbers; none where both are the same infinity or no number, endless where only one is.
fn apart(a: f64, b: f64) -> f64 {
    match (a - b).abs() {
        _ if a == b || a.is_nan() && b.is_nan() => 0.0,
        distance if distance.is_nan() => f64::INFINITY,
        distance => distance,
    }
}

/// A unit in the last place at a magnitude.
fn unit(dtype: Dtype, magnitude: f64) -> f64 {
    let (bits, smallest) = match dtype {
        Dtype::F16 => (10, -14),
        Dtype::Bf16 => (7, -126),
    };
    let exponent = if magnitude > 0.0 && magnitude.is_finite() { magnitude.log2().floor() as i32 } else { smallest };
    2f64.powi(exponent.max(smallest) - bits)
}

/// One generation's case against a recording.
#[derive(Clone, Debug, PartialEq)]
pub enum Compared {
    /// Both have it.
    Distance(Distance),
    /// The recording does not have it.
    Missing,
    /// The recording has it of other inputs or of another size: it says nothing.
    Stale,
}

/// Runs a trial here and holds it to a recording.
///
/// # Errors
/// [`RunError`] of the run here.
pub fn compare(
    device: &dyn Device,
    generation: &dyn Attention,
    trial: &Trial,
    recording: &Recording,
) -> Result<Compared, RunError> {
    let here = run(device, generation, trial)?;
    let known = recording.outputs.iter().find(|output| output.name == here.name);
    let Some(known) = known else { return Ok(Compared::Missing) };
    let same = Some(known).filter(|output| output.fingerprint == here.fingerprint);
    let distance = same.and_then(|output| distance(&trial.case.problem, &output.bytes, &here.bytes));
    Ok(distance.map_or(Compared::Stale, Compared::Distance))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sdpa::generations;
    use sdpa_core::Interpreter;

    fn problem() -> Problem {
        Problem::new(1, 1, 2, 8).build().expect("is valid")
    }

    fn packed(value: f32, lse: f32) -> Vec<u8> {
        let bits = Dtype::F16.encode(f64::from(value));
        let mut bytes: Vec<u8> = (0..16).flat_map(|_| bits.to_le_bytes()).collect();
        bytes.extend([lse, lse].iter().flat_map(|lse| lse.to_le_bytes()));
        bytes
    }

    #[test]
    fn distances_are_measured_by_the_row() {
        let device = packed(1.0, 3.0);
        assert_eq!(distance(&problem(), &device, &device), Some(Distance { elements: 16, ..Distance::default() }));
        let mut here = device.clone();
        here[4] += 2;
        let found = distance(&problem(), &device, &here).expect("have one size");
        assert_eq!((found.different, found.units), (1, 2.0));
        assert!(found.is_close());
        here[4] += 1;
        assert!(!distance(&problem(), &device, &here).expect("have one size").is_close());
        assert!(!distance(&problem(), &device, &packed(1.0, 3.0001)).expect("have one size").is_close());
        assert!(!distance(&problem(), &device, &packed(1.0, f32::NAN)).expect("have one size").is_close());
        let none = packed(0.0, f32::NEG_INFINITY);
        assert!(distance(&problem(), &none, &none).expect("have one size").is_close());
        assert_eq!(distance(&problem(), &device, &device[1..]), None);
    }

    #[test]
    fn a_recording_of_other_inputs_says_nothing() {
        let generation = generations::ALL[0];
        let trial = trials(generation).swap_remove(0);
        let device = Interpreter::new();
        let mut output = run(&device, generation, &trial).expect("runs");
        let compared = |output: &RecordedOutput| {
            let recording = Recording { provenance: String::new(), outputs: vec![output.clone()] };
            compare(&device, generation, &trial, &recording).expect("runs")
        };
        assert!(matches!(compared(&output), Compared::Distance(found) if found.different == 0 && found.is_close()));
        output.bytes[0] ^= 0x40;
        assert!(matches!(compared(&output), Compared::Distance(found) if found.different == 1));
        output.fingerprint ^= 1;
        assert_eq!(compared(&output), Compared::Stale);
        output.name += " of another";
        assert_eq!(compared(&output), Compared::Missing);
    }
}
