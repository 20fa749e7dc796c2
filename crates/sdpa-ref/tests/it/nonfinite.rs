//! Where NaN and infinities go, and where they must not.

use sdpa_core::{Mask, Operand, Problem};
use sdpa_ref::{Check, Found, Oracle, Reference, Tolerance};

use crate::data::{Data, Regime};
use crate::kernel::Kernel;

const NAN: u16 = 0x7e00;
const INFINITY: u16 = 0x7c00;

fn causal() -> Problem {
    Problem::new(1, 2, 100, 8).mask(Mask::Causal).build().expect("valid")
}

/// Sets one element of an operand, in head 0.
fn poison(problem: &Problem, data: &mut Data, operand: Operand, row: usize, column: usize, bits: u16) {
    let at = problem.row_offset(operand, 0, 0, row) + column;
    match operand {
        Operand::Query => data.query[at] = bits,
        Operand::Key => data.key[at] = bits,
        _ => data.value[at] = bits,
    }
}

/// Places of the output for which `predicate` holds.
fn places(oracle: &Oracle, predicate: fn(f64) -> bool) -> Vec<(usize, usize, usize, usize)> {
    oracle.out.indexed_iter().filter(|(_, out)| predicate(**out)).map(|(place, _)| place).collect()
}

fn expected(rows: std::ops::Range<usize>, columns: std::ops::Range<usize>) -> Vec<(usize, usize, usize, usize)> {
    rows.flat_map(|row| columns.clone().map(move |column| (0, 0, row, column))).collect()
}

#[test]
fn nan_reaches_exactly_the_rows_that_see_it() {
    let problem = causal();
    for (operand, rows, columns) in
        [(Operand::Query, 70..71, 0..8), (Operand::Key, 70..100, 0..8), (Operand::Value, 70..100, 3..4)]
    {
        let mut data = Data::new(&problem, Regime::Normal, 1);
        let clean = Oracle::compute(&problem, &data.inputs(), None).expect("buffers fit");
        poison(&problem, &mut data, operand, 70, 3, NAN);
        let oracle = Oracle::compute(&problem, &data.inputs(), None).expect("buffers fit");
        assert_eq!(places(&oracle, f64::is_nan), expected(rows.clone(), columns), "{operand}");
        let nan_lse: Vec<_> = oracle.lse.indexed_iter().filter(|(_, lse)| lse.is_nan()).map(|(at, _)| at.2).collect();
        assert_eq!(nan_lse, if operand == Operand::Value { vec![] } else { rows.collect::<Vec<_>>() });
        for (place, out) in oracle.out.indexed_iter().filter(|(_, out)| !out.is_nan()) {
            assert_eq!(*out, clean.out[place], "{operand} changed {place:?}");
        }
    }
}

#[test]
fn infinite_values_and_scores() {
    let problem = causal();
    let mut data = Data::new(&problem, Regime::Normal, 2);
    poison(&problem, &mut data, Operand::Value, 10, 1, INFINITY);
    let oracle = Oracle::compute(&problem, &data.inputs(), None).expect("buffers fit");
    assert_eq!(places(&oracle, f64::is_infinite), expected(10..100, 1..2));
    poison(&problem, &mut data, Operand::Value, 20, 1, INFINITY | 0x8000);
    let oracle = Oracle::compute(&problem, &data.inputs(), None).expect("buffers fit");
    assert_eq!(places(&oracle, f64::is_infinite), expected(10..20, 1..2));
    assert_eq!(places(&oracle, f64::is_nan), expected(20..100, 1..2));

    // A key of −∞ against positive queries has no weight; where it is the only one, the row is empty.
    let problem = Problem::new(1, 1, 2, 8).mask(Mask::Causal).build().expect("valid");
    let one = [0x3c00; 16];
    let mut data = Data { query: one.to_vec(), key: one.to_vec(), value: one.to_vec() };
    poison(&problem, &mut data, Operand::Key, 0, 0, INFINITY | 0x8000);
    let oracle = Oracle::compute(&problem, &data.inputs(), None).expect("buffers fit");
    assert_eq!((oracle.out[[0, 0, 0, 0]], oracle.lse[[0, 0, 0]]), (0.0, f64::NEG_INFINITY));
    assert_eq!(oracle.out[[0, 0, 1, 0]], 1.0);
    // +∞ has no softmax.
    poison(&problem, &mut data, Operand::Key, 0, 0, INFINITY);
    let oracle = Oracle::compute(&problem, &data.inputs(), None).expect("buffers fit");
    assert!(oracle.out[[0, 0, 0, 0]].is_nan() && oracle.lse[[0, 0, 0]].is_nan());
}

#[test]
fn right_kernels_pass_with_non_finite_inputs() {
    let problem = causal();
    for operand in [Operand::Query, Operand::Key, Operand::Value] {
        for bits in [NAN, INFINITY, INFINITY | 0x8000] {
            for row in [0, 64, 99] {
                let mut data = Data::new(&problem, Regime::Normal, 3);
                poison(&problem, &mut data, operand, row, 2, bits);
                let reference = Reference::compute(&problem, &data.inputs(), None).expect("buffers fit");
                let result = Kernel { folded: row > 0, ..Kernel::default() }.run(&problem, &data);
                let strict = Tolerance { strict_masked_values: true, ..Tolerance::default() };
                if let Err(mismatch) = reference.judge(&result.found(), &strict) {
                    panic!("{operand} {row} {bits:x}: {mismatch}");
                }
            }
        }
    }
}

#[test]
fn a_hidden_nan_value_may_spread_only_in_its_column_and_only_by_default() {
    let problem = causal();
    let mut data = Data::new(&problem, Regime::Normal, 4);
    poison(&problem, &mut data, Operand::Value, 70, 3, NAN);
    let reference = Reference::compute(&problem, &data.inputs(), None).expect("buffers fit");
    let right = Kernel::default().run(&problem, &data);
    let usual = Tolerance::default();
    let strict = Tolerance { strict_masked_values: true, ..usual };
    let with = |row, column| {
        let mut out = right.out.clone();
        out[problem.row_offset(Operand::Output, 0, 0, row) + column] = NAN;
        out
    };
    let (beside, elsewhere) = (with(65, 3), with(65, 4));
    let judge = |out, tolerance| reference.judge(&Found { out, lse: None }, tolerance).map_err(|wrong| wrong.check);
    assert!(judge(&beside, &usual).is_ok());
    assert_eq!(judge(&beside, &strict), Err(Check::Nan));
    assert_eq!(judge(&elsewhere, &usual), Err(Check::Nan));
    // And where the row sees it, a number is as wrong.
    let mut hidden = right.out.clone();
    hidden[problem.row_offset(Operand::Output, 0, 0, 80) + 3] = 0;
    assert_eq!(judge(&hidden, &usual), Err(Check::MissingNan));
}
