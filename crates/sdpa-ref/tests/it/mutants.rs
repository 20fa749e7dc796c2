//! Every wrong kernel fails, and by the check meant for it.

use std::f32::consts::LOG2_E;

use sdpa_core::{Dtype, Mask, Operand, Problem};
use sdpa_ref::{Check, Found, Mismatch, Reference, Tolerance};

use crate::data::{Data, Regime};
use crate::kernel::{Kernel, Result};

/// One problem with its right result, to spoil.
struct Case {
    problem: Problem,
    data: Data,
    reference: Reference,
    right: Result,
}

impl Case {
    fn new(problem: Problem, regime: Regime) -> Self {
        let data = Data::new(&problem, regime, 7);
        let reference = Reference::compute(&problem, &data.inputs(), None).expect("buffers fit");
        let right = Kernel::default().run(&problem, &data);
        let case = Self { problem, data, reference, right };
        case.judge(&case.right).expect("the unspoilt result passes");
        case
    }

    fn usual(mask: Mask) -> Self {
        Self::new(Problem::new(1, 4, 192, 64).mask(mask).build().expect("valid"), Regime::Normal)
    }

    fn judge(&self, result: &Result) -> std::result::Result<sdpa_ref::Measured, Box<Mismatch>> {
        self.reference.judge(&result.found(), &Tolerance::default())
    }

    fn wrong_kernel(&self, kernel: Kernel) -> Mismatch {
        *self.judge(&kernel.run(&self.problem, &self.data)).expect_err("the mutant must fail")
    }

    /// The right result, changed.
    fn spoilt(&self, spoil: impl FnOnce(&mut Result)) -> Mismatch {
        let mut result = self.right.clone();
        spoil(&mut result);
        *self.judge(&result).expect_err("the mutant must fail")
    }

    /// Every row's output replaced by the mean of the values it sees.
    fn mean_of_values(&self) -> Mismatch {
        let zero =
            Data { query: vec![0; self.data.query.len()], key: self.data.key.clone(), value: self.data.value.clone() };
        let out = Kernel::default().run(&self.problem, &zero).out;
        let found = Found { out: &out, lse: None };
        *self.reference.judge(&found, &Tolerance::default()).expect_err("the mutant must fail")
    }

    fn at(&self, head: usize, row: usize) -> usize {
        self.problem.row_offset(Operand::Output, 0, head, row)
    }
}

fn broke(mismatch: &Mismatch, check: Check) -> bool {
    mismatch.counts.iter().any(|count| count.check == check)
}

#[test]
fn mean_of_values() {
    for regime in [Regime::Normal, Regime::Uniform] {
        let case = Case::new(Problem::new(1, 2, 128, 64).build().expect("valid"), regime);
        assert!(broke(&case.mean_of_values(), Check::Frobenius), "{regime:?}");
    }
    let long = Problem::new(1, 1, 64, 64).len_kv(4096).build().expect("valid");
    assert!(broke(&Case::new(long, Regime::Uniform).mean_of_values(), Check::Frobenius));
}

#[test]
fn no_scale() {
    let mismatch = Case::usual(Mask::Full).wrong_kernel(Kernel { scale: Some(1.0), ..Kernel::default() });
    assert_eq!(mismatch.check, Check::Element);
    assert!(broke(&mismatch, Check::Lse) && broke(&mismatch, Check::Frobenius));
}

#[test]
fn mask_off_by_one() {
    for visible in
        [(|problem, query| problem.visible_keys(query) + 1) as fn(&Problem, usize) -> usize, |problem, query| {
            problem.visible_keys(query).saturating_sub(1)
        }]
    {
        let mismatch = Case::usual(Mask::Causal).wrong_kernel(Kernel { visible, ..Kernel::default() });
        assert!(broke(&mismatch, Check::Element) && broke(&mismatch, Check::Frobenius));
    }
}

#[test]
fn wrong_causal_alignment() {
    let problem = |mask| Problem::new(1, 1, 50, 64).len_kv(120).mask(mask).build().expect("valid");
    let bottom_right: fn(&Problem, usize) -> usize = |_, query| query + 71;
    let top_left: fn(&Problem, usize) -> usize = |_, query| query + 1;
    for (mask, visible) in [(Mask::Causal, top_left), (Mask::CausalTopLeft, bottom_right)] {
        let mismatch = Case::new(problem(mask), Regime::Normal).wrong_kernel(Kernel { visible, ..Kernel::default() });
        assert!(broke(&mismatch, Check::Element) && broke(&mismatch, Check::Frobenius));
    }
}

/// What a fixed absolute tolerance of 1e-2 lets pass. The loosest promise, factor 2, must see it in either dtype.
#[test]
fn last_keys_dropped_of_8192() {
    for dtype in [Dtype::F16, Dtype::Bf16] {
        let problem = Problem::new(1, 1, 64, 64).len_kv(8192).dtype(dtype).build().expect("valid");
        let case = Case::new(problem, Regime::Normal);
        let visible: fn(&Problem, usize) -> usize = |_, _| 8192 - 8;
        let result = Kernel { visible, ..Kernel::default() }.run(&case.problem, &case.data);
        let loose = Tolerance { factor: 2.0, ..Tolerance::default() };
        let found = Found { out: &result.out, lse: None };
        let mismatch = case.reference.judge(&found, &loose).expect_err("the mutant must fail");
        assert!(broke(&mismatch, Check::Frobenius));
        assert!(mismatch.measured.rel_fro > 3.0 * mismatch.measured.fro_limit, "{mismatch}");
    }
}

/// A single key of 8192 is seen as well.
#[test]
fn last_key_dropped_of_8192() {
    let case = Case::new(Problem::new(1, 1, 64, 64).len_kv(8192).build().expect("valid"), Regime::Normal);
    let mismatch = case.wrong_kernel(Kernel { visible: |_, _| 8191, ..Kernel::default() });
    assert!(broke(&mismatch, Check::Frobenius), "{mismatch}");
}

#[test]
fn last_tile_dropped() {
    let mismatch = Case::usual(Mask::Full).wrong_kernel(Kernel { visible: |_, _| 128, ..Kernel::default() });
    assert!(broke(&mismatch, Check::Element) && broke(&mismatch, Check::Frobenius));
}

#[test]
fn one_nan_and_one_unwritten_element() {
    let case = Case::usual(Mask::Full);
    for bits in [0x7e00, 0xffff, 0x7fff] {
        let mismatch = case.spoilt(|result| result.out[case.at(2, 100) + 17] = bits);
        assert_eq!(mismatch.check, Check::Nan);
        assert_eq!((mismatch.counts[0].failing, mismatch.counts.len()), (1, 1));
        assert_eq!(mismatch.place.to_string(), "out[b0 h2 i100 d17]");
    }
    // Poison that is a number, and a zero left by a fresh allocation.
    for bits in [0x7c00, 0x6400, 0] {
        case.spoilt(|result| result.out[case.at(2, 100) + 17] = bits);
    }
}

#[test]
fn log_sum_exp_off() {
    let case = Case::usual(Mask::Causal);
    // Off by 2e-5 of itself everywhere: within the bounds of most rows, not together.
    let mismatch = case.spoilt(|result| result.lse.iter_mut().for_each(|lse| *lse += 2e-5 * lse.abs().max(1.0)));
    assert!(broke(&mismatch, Check::LseRms));
    // In base 2, and without the maximum.
    assert_eq!(case.spoilt(|result| result.lse.iter_mut().for_each(|lse| *lse *= LOG2_E)).check, Check::Lse);
    for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0] {
        let mismatch = case.spoilt(|result| result.lse[3 * 192 + 5] = wrong);
        assert_eq!((mismatch.check, mismatch.counts[0].failing), (Check::Lse, 1));
    }
    // A row without keys must say exactly −∞.
    let problem = Problem::new(1, 1, 3, 8).len_kv(2).mask(Mask::Causal).build().expect("valid");
    let empty = Case::new(problem, Regime::Normal);
    for wrong in [f32::NAN, 0.0, f32::MIN, -1e30] {
        assert_eq!(empty.spoilt(|result| result.lse[0] = wrong).check, Check::Lse);
    }
    assert_eq!(empty.spoilt(|result| result.out[0] = 0x7e00).check, Check::Nan);
    assert_eq!(empty.spoilt(|result| result.out[0] = 0x1400).check, Check::Element);
}

#[test]
fn output_not_normalised_and_accumulator_not_rescaled() {
    let case = Case::usual(Mask::Full);
    assert_eq!(case.wrong_kernel(Kernel { skip_normalising: true, ..Kernel::default() }).check, Check::Element);
    let ascending = Case::new(Problem::new(1, 1, 65, 64).len_kv(200).build().expect("valid"), Regime::Ascending);
    assert_eq!(ascending.wrong_kernel(Kernel { skip_rescaling: true, ..Kernel::default() }).check, Check::Element);
}

/// Within the elementwise bounds of all but short rows, and yet less accurate than f16 is.
#[test]
fn weights_rounded_to_bf16_in_an_f16_kernel() {
    let kernel = Kernel { round_weights_to: Some(Dtype::Bf16), ..Kernel::default() };
    for length in [64, 192, 512] {
        let problem = Problem::new(1, 1, length, 64).build().expect("valid");
        let case = Case::new(problem, Regime::Normal);
        assert!(broke(&case.wrong_kernel(kernel), Check::Frobenius), "{length}");
        let loose = Tolerance { factor: 2.0, ..Tolerance::default() };
        let result = kernel.run(&case.problem, &case.data);
        assert!(case.reference.judge(&result.found(), &loose).is_err(), "{length}");
    }
}

#[test]
fn output_rounded_to_bf16_in_an_f16_kernel() {
    let mismatch = Case::usual(Mask::Full).spoilt(|result| {
        for bits in &mut result.out {
            *bits = Dtype::F16.encode(Dtype::Bf16.round(Dtype::F16.decode(*bits)));
        }
    });
    assert!(broke(&mismatch, Check::Frobenius));
}

#[test]
fn swapped_heads_rows_and_columns() {
    let case = Case::usual(Mask::Full);
    let head = 192 * 64;
    let heads = case.spoilt(|result| result.out[..2 * head].rotate_left(head));
    assert_eq!(heads.pattern, ["only heads 0 to 1 of 4"]);
    case.spoilt(|result| result.out.swap(5, 6));
    case.spoilt(|result| result.out[..2 * 64].rotate_left(64));
}

#[test]
fn one_row_of_many_slightly_wrong() {
    let case = Case::usual(Mask::Full);
    let mismatch = case.spoilt(|result| {
        let start = case.at(1, 130);
        for bits in &mut result.out[start..start + 64] {
            *bits = Dtype::F16.encode(Dtype::F16.decode(*bits) * 1.02);
        }
    });
    assert_eq!(mismatch.check, Check::Element);
}

#[test]
fn extreme_logits_are_still_judged() {
    for regime in [Regime::Extreme, Regime::Beyond] {
        let case = Case::new(Problem::new(1, 2, 128, 64).build().expect("valid"), regime);
        assert!(broke(&case.mean_of_values(), Check::Element), "{regime:?}");
        // Zeros where a finite stand-in for −∞ was not low enough.
        case.spoilt(|result| result.out[..64].fill(0));
    }
}

#[test]
fn reports_say_what_and_where() {
    let case = Case::usual(Mask::Causal);
    let tail = case.spoilt(|result| {
        for row in 128..192 {
            let end = case.at(3, row) + 64;
            result.out[end - 8..end].fill(0x7e00);
        }
    });
    insta::assert_snapshot!("nan_tail", tail);
    let late = case.spoilt(|result| {
        for (row, lse) in result.lse.iter_mut().enumerate().filter(|(row, _)| row % 64 >= 48) {
            *lse += row as f32;
        }
    });
    insta::assert_snapshot!("lse_residues", late);
    let inaccurate = case.wrong_kernel(Kernel { round_weights_to: Some(Dtype::Bf16), ..Kernel::default() });
    insta::assert_snapshot!("inaccurate", inaccurate);
    let alignment = case.wrong_kernel(Kernel { visible: |_, query| query, ..Kernel::default() });
    insta::assert_snapshot!("mask_off_by_one", alignment);
}
