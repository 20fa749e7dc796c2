//! The merging kernels alone, against sums in f64; and every mutation of them, which these must notice.

use harness::mutate::{Choice, Mutation, mutate_alone, render};
use sdpa_core::{Device as _, Interpreter};

use super::*;

/// Parts of some sequences' rows, with sinks before them or not.
struct Case {
    shape: [usize; 4],
    sinks: Option<Vec<f32>>,
    /// Rows that the sinks are for.
    sunk: Range<usize>,
    parts: Vec<Part>,
}

/// The log-sum-exp and the output of each row, in f64.
type Expected = Vec<(f64, Vec<f64>)>;

struct Part {
    place: Place,
    /// `[batches, heads, rows, head_dim]`, contiguous.
    output: Vec<f64>,
    /// `[batches, heads, rows]`.
    lse: Vec<f32>,
}

/// Numbers that look like nothing in particular.
fn drawn(index: usize) -> f64 {
    let bits = (index as u32).wrapping_mul(2_654_435_761).wrapping_add(974_711);
    f64::from((bits ^ bits >> 13) % 4001) / 1000.0 - 2.0
}

fn part(shape: [usize; 4], batches: Range<usize>, rows: Range<usize>, lse: impl Fn(usize) -> f32) -> Part {
    let count = batches.len() * shape[1] * rows.len();
    let seed = 7919 * rows.start + 31 * batches.start + rows.len();
    let lse: Vec<f32> = (0..count).map(lse).collect();
    // A row whose log-sum-exp is NaN or +infinity is NaN, too.
    let undefined = |index: usize| lse[index / shape[3]].is_nan() || lse[index / shape[3]] == f32::INFINITY;
    let output = |index: usize| if undefined(index) { f64::NAN } else { drawn(index + seed) };
    Part { output: (0..count * shape[3]).map(output).collect(), lse, place: Place { batches, rows } }
}

impl Case {
    /// What each row of one head has merged: its log-sum-exp and its output, in f64.
    fn expected(&self, dtype: Dtype, [batch, head, row]: [usize; 3]) -> (f64, Vec<f64>) {
        let [_, heads, _, head_dim] = self.shape;
        let mut weighed: Vec<(f64, Vec<f64>)> = Vec::new();
        let sink = self.sinks.as_ref().map(|sinks| f64::from(sinks[head]));
        weighed.extend(sink.filter(|_| self.sunk.contains(&row)).map(|sink| (sink, vec![0.0; head_dim])));
        for Part { place, output, lse } in &self.parts {
            if place.batches.contains(&batch) && place.rows.contains(&row) {
                let at = ((batch - place.batches.start) * heads + head) * place.rows.len() + row - place.rows.start;
                let own = &output[at * head_dim..(at + 1) * head_dim];
                weighed.push((f64::from(lse[at]), own.iter().map(|x| dtype.decode(dtype.encode(*x))).collect()));
            }
        }
        if weighed.iter().any(|(lse, _)| lse.is_nan() || *lse == f64::INFINITY) {
            return (f64::NAN, vec![f64::NAN; head_dim]);
        }
        let most = weighed.iter().map(|(lse, _)| *lse).fold(f64::NEG_INFINITY, f64::max);
        if most == f64::NEG_INFINITY {
            return (most, vec![0.0; head_dim]);
        }
        let sum: f64 = weighed.iter().map(|(lse, _)| (lse - most).exp()).sum();
        let mean = |column: usize| weighed.iter().map(|(lse, own)| (lse - most).exp() * own[column]).sum::<f64>() / sum;
        (most + sum.ln(), (0..head_dim).map(mean).collect())
    }

    /// All rows of `[batch, heads, rows]`.
    fn all_expected(&self, dtype: Dtype) -> Expected {
        let [batch, heads, rows, _] = self.shape;
        let place = |at: usize| [at / rows / heads, at / rows % heads, at % rows];
        (0..batch * heads * rows).map(|at| self.expected(dtype, place(at))).collect()
    }

    /// Merges on a device, in memory that holds NaN before; what is wrong with the result.
    fn test(&self, device: &Interpreter, dtype: Dtype, expected: &Expected) -> Result<std::result::Result<(), String>> {
        let [batch, heads, rows, head_dim] = self.shape;
        let count = batch * heads * rows;
        let filled = |bytes: usize| device.upload(&vec![0xff; bytes]);
        let (values, lse, output) = (filled(4 * count * head_dim)?, filled(4 * count)?, filled(2 * count * head_dim)?);
        let numbers = |numbers: &[f32]| numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<_>>();
        let merged = Accumulator { values: &values, lse: &lse, shape: self.shape, dtype };
        let sinks = self.sinks.as_ref().map(|sinks| device.upload(&numbers(sinks))).transpose()?;
        merged.begin(device, sinks.as_ref().map(|sinks| (sinks, self.sunk.clone())))?;
        for part in &self.parts {
            let elements = part.output.iter().flat_map(|x| dtype.encode(*x).to_le_bytes()).collect::<Vec<_>>();
            let (elements, lse) = (device.upload(&elements)?, device.upload(&numbers(&part.lse))?);
            merged.add(device, &part.place, &elements, &lse)?;
        }
        merged.store(device, &output)?;
        let (mut out_bytes, mut lse_bytes) = (vec![0; output.bytes()], vec![0; lse.bytes()]);
        device.read(&output, 0, &mut out_bytes)?;
        device.read(&lse, 0, &mut lse_bytes)?;
        let out: Vec<f64> =
            out_bytes.as_chunks::<2>().0.iter().map(|bytes| dtype.decode(u16::from_le_bytes(*bytes))).collect();
        let lse: Vec<f32> = lse_bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        Ok(judge(self.shape[3], dtype, expected, &out, &lse))
    }
}

fn judge(head_dim: usize, dtype: Dtype, all: &Expected, out: &[f64], lse: &[f32]) -> std::result::Result<(), String> {
    let alike = |found: f64, expected: f64, limit: f64| match expected.is_finite() {
        true => (found - expected).abs() <= limit,
        false => found == expected || found.is_nan() && expected.is_nan(),
    };
    for (at, (expected_lse, expected)) in all.iter().enumerate() {
        let limit = 4.0 * f64::from(f32::EPSILON) * (1.0 + expected_lse.abs());
        if !alike(f64::from(lse[at]), *expected_lse, limit) {
            return Err(format!("lse of row {at} is {}, not {expected_lse}", lse[at]));
        }
        // The errors of the logarithms are in the weights.
        for (column, expected) in expected.iter().enumerate() {
            let found = out[at * head_dim + column];
            if !alike(found, *expected, dtype.unit_roundoff() * expected.abs() + 4.0 * limit + 1e-7) {
                return Err(format!("column {column} of row {at} is {found}, not {expected}"));
            }
        }
    }
    Ok(())
}

/// Parts of all kinds: of some rows of some sequences; without a key; with weights that are alike, or one that has all; with
/// logarithms whose exponential is infinite or 0; NaN and infinite ones. Sinks of all rows but the last, and of none.
fn cases() -> Vec<Case> {
    let none = f32::NEG_INFINITY;
    let mut cases = Vec::new();
    // Lanes of a row: 8, 1, 16 of which some have no column, 32. The last blocks have threads without a row.
    for (shape, sinks) in [
        ([2, 2, 5, 64], vec![f32::NAN, 2.5]),
        ([1, 1, 258, 8], vec![0.5]),
        ([1, 1, 15, 72], vec![none]),
        ([1, 1, 7, 256], vec![f32::INFINITY]),
        ([1, 1, 34, 64], vec![-1.0]),
    ] {
        let [batch, _, rows, _] = shape;
        let parts = vec![
            part(shape, 0..batch, 1..rows, |index| [0.5, 1.0, 0.0, none, 2.0][index % 5]),
            part(shape, batch - 1..batch, 2..rows, |index| [300.0, 1.25, none, -0.5][index % 4]),
            part(shape, 0..batch, 1..rows - 1, |index| [0.75, -900.0, 301.0][index % 3]),
        ];
        // What is written behind the last row of a whole tensor is written nowhere.
        let sunk = 0..if shape[3] == 72 { rows } else { rows - 1 };
        cases.push(Case { shape, sinks: Some(sinks), sunk, parts });
    }
    let shape = [1, 1, 8, 16];
    let parts = vec![
        part(shape, 0..1, 1..7, |index| [f32::NAN, f32::INFINITY, 2.0, 0.0, none, 1.0][index]),
        part(shape, 0..1, 1..8, |index| [0.5, 0.5, f32::NAN, f32::INFINITY, none, none, 1.0][index]),
    ];
    cases.push(Case { shape, sinks: None, sunk: 0..8, parts });
    // Nothing at all, in more rows than a block has.
    cases.push(Case { shape: [1, 1, 258, 8], sinks: None, sunk: 0..258, parts: Vec::new() });
    cases
}

/// The cases with what is expected of them.
fn with_expected(dtype: Dtype) -> Vec<(Case, Expected)> {
    cases().into_iter().map(|case| (case.all_expected(dtype), case)).map(|(expected, case)| (case, expected)).collect()
}

fn test_all(cases: &[(Case, Expected)], device: &Interpreter, dtype: Dtype) -> Result<std::result::Result<(), String>> {
    for (case, expected) in cases {
        if let Err(wrong) = case.test(device, dtype, expected)? {
            return Ok(Err(format!("{:?} {dtype}: {wrong}", case.shape)));
        }
    }
    Ok(Ok(()))
}

#[test]
fn parts_are_merged_as_f64_does() {
    for dtype in [Dtype::F16, Dtype::Bf16] {
        test_all(&with_expected(dtype), &Interpreter::new(), dtype).unwrap().unwrap();
    }
}

/// What nothing can notice, and why: kernels, text of the source's line, text of the statement, and kinds; empty is any.
const CHANGES_NOTHING: &[([&str; 4], &str)] = &[
    (["", "", "", "computed in 32 bits"], "no tensor here is larger than 4 GB"),
    (["", "", "div.s64", ""], "divides offsets that do not fit 32 bits: no tensor here is as large"),
    (["", "params.lse + offset / params.head_dim", "b64", ""], "chooses one of two divisions, and both are right"),
    (["", "params.lse + offset / params.head_dim", "setp.eq.s64", ""], "the same"),
    (["", "params.lse + offset / params.head_dim", "bra", ""], "the same"),
    (["store", "const bool has_columns", "b64", ""], "the same, as the compiler has moved it"),
    (["store", "const bool has_columns", "setp.eq.s64", ""], "the same"),
    (["store", "const bool has_columns", "bra", ""], "the same"),
    (["clear", "while (lanes * COLUMNS < head_dim)", "", ""], "rows are cleared by as many lanes as there are"),
    (["clear", "const int member", "sub.s32", "operands swapped"], "a lane is the first whatever its sign"),
    (["clear", "*lse = NEGATIVE_INFINITY", "or.pred", "operand left out"], "all lanes of a row write the same"),
    (["sink", "*lse = is_number", "or.pred", "operand left out"], "all lanes of a row write the same"),
    (["add", "*lse = maximum + logf(sum)", "bra", "guard of a memory access removed"], "the same"),
    (
        ["add", "*lse = maximum + logf(sum)", "or.pred", "operand left out"],
        "the same, and a lane without a row has returned",
    ),
    (["add", "const bool has_row", "setp", "edge of a comparison moved"], "a lane without a row has returned"),
    (["add", "const bool has_columns", "and.pred", "operand left out"], "a lane without a row has returned"),
    (["sink", "const float sink", "ld.global", "read through the non-coherent cache"], "nobody writes it"),
    (["add", "row];", "ld.global", "read through the non-coherent cache"], "nobody writes it"),
    (
        ["add", "reinterpret_cast<const Packed<COUNT>*>", "ld.global", "read through the non-coherent cache"],
        "nobody writes it",
    ),
    (["store", "", "ld.global", "read through the non-coherent cache"], "the step before wrote it"),
    (
        ["add", "expf(before - maximum)", "", ""],
        "the last bits of expf, and where its argument is far below all that matter",
    ),
    (["add", "logf(sum)", "", ""], "the last bits of logf, and what it does beyond 1 to 2: a sum is no other number"),
    (["store", "load(accumulator, merged)", "mov.f32", "constant changed by 1"], "is rounded to 0"),
];

/// Why a mutation need not be noticed.
fn changes_nothing(kernel: &Specialisation, mutation: &Mutation) -> Option<&'static str> {
    let lines = mutation.source_lines();
    let fits = |[name, source, ptx, kind]: &[&str; 4]| {
        kernel.name.ends_with(name)
            && (source.is_empty() || lines.iter().any(|line| line.contains(source)))
            && mutation.statement.contains(ptx)
            && mutation.kind.name().contains(kind)
    };
    CHANGES_NOTHING.iter().find(|(what, _)| fits(what)).map(|(_, reason)| *reason)
}

/// As `sdpa mutate` does it for generations, whose plans and cases these kernels have not: whatever is changed in a kernel, the
/// test above notices, but for what changes nothing. A sample of the changes is tried, or with SDPA_MUTATIONS=all every one.
#[test]
fn mutations_of_the_kernels_are_noticed() {
    let cases = with_expected(Dtype::Bf16);
    let is_all = std::env::var("SDPA_MUTATIONS").is_ok_and(|which| which == "all");
    // Those for f16 are the same but for how elements are read and written.
    for (kernel, count) in [(CLEAR, 40), (SINK, 50), (ADD[1], 120), (STORE[1], 50)] {
        let choice = if is_all { Choice::All } else { Choice::Sample { count, seed: 0 } };
        let mut score = mutate_alone(&kernel, choice, |device| test_all(&cases, device, Dtype::Bf16)).unwrap();
        for mutant in score.mutants.iter_mut().filter(|mutant| mutant.killed.is_none() && mutant.equivalent.is_none()) {
            mutant.equivalent = changes_nothing(&kernel, &mutant.mutation).map(str::to_owned);
        }
        assert!(score.survivors().next().is_none() && score.killed() > count / 2, "{}", render(&score));
    }
}
