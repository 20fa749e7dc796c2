//! A kernel's result against the oracle and the yardstick.

use sdpa_core::{Operand, Problem};

use crate::ideal::Ideal;
use crate::inputs::{Inputs, ReferenceError, Rows};
use crate::oracle::Oracle;
use crate::paged::Unpaged;
use crate::pattern::Tally;
use crate::report::{Check, Count, Mismatch, Place};
use crate::tolerance::{ElementScale, Tolerance, frobenius_limit, lse_bound, lse_rms_limit};

/// What a kernel wrote.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// Element bits of the whole output, strided as the problem says.
    pub out: &'a [u16],
    /// Log-sum-exp of every row, `[batch, heads_q, len_q]` contiguous, where the kernel was asked for it.
    pub lse: Option<&'a [f32]>,
}

/// The oracle and the yardstick for the same rows of the same problem.
#[derive(Clone, Debug)]
pub struct Reference {
    /// The exact result.
    pub oracle: Oracle,
    /// The best result that the dtype allows.
    pub ideal: Ideal,
}

/// How many rows a verdict is about. One that judged none of the rows there are says nothing.
///
/// ```
/// use sdpa_ref::Judged;
/// let judged = Judged { rows: 128, unjudged: 2 };
/// assert_eq!(judged.to_string(), "126 of 128 rows, f32 may overflow in the others");
/// assert!(!judged.is_nothing() && Judged { rows: 5, unjudged: 5 }.is_nothing() && !Judged::default().is_nothing());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// Rows looked at.
    pub rows: usize,
    /// Those of them that could be anything, because f32 scores may overflow in them.
    pub unjudged: usize,
}

impl Judged {
    /// Every one of so many rows.
    pub const fn all(rows: usize) -> Self {
        Self { rows, unjudged: 0 }
    }

    /// True if there are rows and none could be judged.
    pub const fn is_nothing(self) -> bool {
        self.rows > 0 && self.unjudged == self.rows
    }
}

impl std::ops::Add for Judged {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { rows: self.rows + other.rows, unjudged: self.unjudged + other.unjudged }
    }
}

impl std::ops::AddAssign for Judged {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl std::iter::Sum for Judged {
    fn sum<I: Iterator<Item = Self>>(judged: I) -> Self {
        judged.fold(Self::default(), |sum, judged| sum + judged)
    }
}

/// `128 rows`, `126 of 128 rows, …`, `no row, since there is none`.
impl std::fmt::Display for Judged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { rows, unjudged } = *self;
        match (rows, unjudged) {
            (0, _) => f.write_str("no row, since there is none"),
            (1, 0) => f.write_str("1 row"),
            (_, 0) => write!(f, "{rows} rows"),
            _ => write!(f, "{} of {rows} rows, f32 may overflow in the others", rows - unjudged),
        }
    }
}

/// How near a right kernel came.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measured {
    /// Output elements compared.
    pub elements: usize,
    /// Output elements that could be anything, because f32 scores may overflow in their row.
    pub unjudged: usize,
    /// The same in rows.
    pub judged: Judged,
    /// ‖out − reference‖ / ‖reference‖, Frobenius.
    pub rel_fro: f64,
    /// The same of the ideal kernel.
    pub ideal_fro: f64,
    /// What `rel_fro` may be.
    pub fro_limit: f64,
    /// Largest absolute error of an output element.
    pub max_abs: f64,
    /// Largest error of an output element in multiples of its bound; at most 1.
    pub worst_ratio: f64,
    /// Root-mean-square error of the log-sum-exp relative to max(1, |lse|); 0 where it was not asked for.
    pub lse_rms: f64,
    /// Largest error of the log-sum-exp in multiples of its bound; at most 1.
    pub lse_worst_ratio: f64,
}

impl Reference {
    /// Computes both for the rows asked for, or for all.
    ///
    /// # Errors
    /// [`ReferenceError`] where a buffer is shorter than its tensor or a row does not exist.
    pub fn compute(problem: &Problem, inputs: &Inputs<'_>, rows: Option<&Rows>) -> Result<Self, ReferenceError> {
        if let Some(unpaged) = Unpaged::new(problem, inputs)? {
            return Self::compute(&unpaged.problem, &unpaged.inputs(inputs), rows);
        }
        Ok(Self { oracle: Oracle::compute(problem, inputs, rows)?, ideal: Ideal::compute(problem, inputs, rows)? })
    }

    /// Compares a kernel's result in every row that the reference has.
    ///
    /// # Errors
    /// [`Mismatch`], the gravest finding first and the worst element of it.
    ///
    /// # Panics
    /// Where a buffer is shorter than its tensor.
    pub fn judge(&self, found: &Found<'_>, tolerance: &Tolerance) -> Result<Measured, Box<Mismatch>> {
        let problem = &self.oracle.problem;
        assert!(found.out.len() >= problem.span(Operand::Output), "the output buffer is shorter than the output");
        assert!(found.lse.is_none_or(|lse| lse.len() >= problem.lse_len()), "the lse buffer is shorter than the lse");
        let mut judge = Judge::new(self, tolerance);
        let rows = &self.oracle.rows;
        for (b, &batch) in rows.batches.iter().enumerate() {
            for (h, &head) in rows.heads.iter().enumerate() {
                for (i, &query) in rows.queries.iter().enumerate() {
                    let place = Place { batch, head, query, column: None };
                    let start = problem.row_offset(Operand::Output, batch, head, query);
                    judge.row([b, h, i], place, &found.out[start..start + problem.value_dim()]);
                    if let Some(lse) = found.lse {
                        let index = (batch * problem.heads_q() + head) * problem.len_q() + query;
                        judge.lse([b, h, i], place, f64::from(lse[index]));
                    }
                }
            }
        }
        judge.conclude()
    }
}

/// Worst finding of one kind.
#[derive(Clone, Copy)]
struct Finding {
    check: Check,
    place: Place,
    found: f64,
    expected: f64,
    bound: f64,
    ratio: f64,
}

/// NaN never passes, not even one made while judging.
fn fails(ratio: f64) -> bool {
    ratio.is_nan() || ratio > 1.0
}

/// Sums behind the two statistical checks.
#[derive(Default)]
struct Squares {
    error: f64,
    ideal: f64,
    reference: f64,
    expected: f64,
    /// Σ expected² of the rows, for how many of them carry the error.
    expected_squared: f64,
}

struct Judge<'a> {
    reference: &'a Reference,
    tolerance: &'a Tolerance,
    counts: Vec<Count>,
    /// The worst element of the output, failing or not, and the worst log-sum-exp.
    worst: Option<Finding>,
    worst_lse: Option<Finding>,
    failing: Tally,
    failing_lse: Tally,
    /// Rows with more than twice the error expected: where to look when only the sum is too large.
    suspicious: Tally,
    squares: Squares,
    lse_squares: Squares,
    lse_rows: usize,
    measured: Measured,
}

impl<'a> Judge<'a> {
    fn new(reference: &'a Reference, tolerance: &'a Tolerance) -> Self {
        let tally = || Tally::new(&reference.oracle.problem, &reference.oracle.rows);
        Self {
            reference,
            tolerance,
            counts: Vec::new(),
            worst: None,
            worst_lse: None,
            failing: tally(),
            failing_lse: tally(),
            suspicious: tally(),
            squares: Squares::default(),
            lse_squares: Squares::default(),
            lse_rows: 0,
            measured: Measured::default(),
        }
    }

    fn row(&mut self, at: [usize; 3], place: Place, bits: &[u16]) {
        let (oracle, dtype) = (&self.reference.oracle, self.reference.oracle.problem.dtype());
        let [b, h, i] = at;
        let row_expected = oracle.expected_square_error[at];
        let mut row_error = 0.0;
        let unjudged_before = self.measured.unjudged;
        for (column, bits) in bits.iter().enumerate() {
            let found = dtype.decode(*bits);
            let place = Place { column: Some(column), ..place };
            let finding = self.element([b, h, i, column], place, found);
            let failed = fails(finding.ratio);
            self.measured.elements += 1;
            if finding.bound == f64::INFINITY && !failed {
                self.measured.unjudged += 1;
            }
            if failed {
                self.count(finding.check);
                self.failing.element(b, h, i, column);
            }
            if self.worst.is_none_or(|worst| finding.ratio.is_nan() || finding.ratio > worst.ratio) {
                self.worst = Some(finding);
            }
            let error = found - finding.expected;
            if error.is_finite() {
                self.measured.max_abs = self.measured.max_abs.max(error.abs());
                if row_expected.is_finite() {
                    row_error += error * error;
                    let ideal = self.reference.ideal.out[[b, h, i, column]] - finding.expected;
                    // The ideal may overflow where a value is the dtype's largest.
                    self.squares.ideal += if ideal.is_finite() { ideal * ideal } else { 0.0 };
                    self.squares.reference += finding.expected * finding.expected;
                }
            }
        }
        self.measured.judged.rows += 1;
        self.measured.judged.unjudged += usize::from(self.measured.unjudged > unjudged_before);
        if row_expected.is_finite() {
            self.squares.error += row_error;
            self.squares.expected += row_expected;
            self.squares.expected_squared += row_expected * row_expected;
            if row_error > 4.0 * row_expected {
                self.suspicious.row(b, h, i);
            }
        }
    }

    /// Judges one output element. A ratio beyond 1 fails; one that cannot be measured is 0 or infinite.
    fn element(&self, at: [usize; 4], place: Place, found: f64) -> Finding {
        let oracle = &self.reference.oracle;
        let dtype = oracle.problem.dtype();
        let [b, h, i, _] = at;
        let scale = ElementScale {
            reference: oracle.out[at],
            weighted_abs: oracle.weighted_abs[at],
            abs_per_normaliser: oracle.abs_per_normaliser[at],
            score_spread: oracle.score_spread[at],
            visible: oracle.visible[[b, h, i]],
            value_scale: oracle.value_scale[h],
        };
        let expected = scale.reference;
        let verdict = |check, passes: bool, bound| {
            let ratio = if passes { 0.0 } else { f64::INFINITY };
            Finding { check, place, found, expected, bound, ratio }
        };
        if expected.is_nan() {
            return verdict(Check::MissingNan, found.is_nan(), f64::NAN);
        }
        if expected.is_infinite() {
            // A weight that a kernel's dtype rounds to 0 turns an infinite value into NaN.
            return verdict(Check::Infinite, found == expected || found.is_nan(), 0.0);
        }
        let bound = scale.bound(dtype, self.tolerance);
        if bound == f64::INFINITY {
            return verdict(Check::Element, true, bound);
        }
        if found.is_nan() {
            let allowed = oracle.hides_nonfinite[at] && !self.tolerance.strict_masked_values;
            return verdict(Check::Nan, allowed, bound);
        }
        if found.is_infinite() {
            let reach = (expected.abs() + scale.accumulated(dtype, self.tolerance)).copysign(expected);
            return verdict(Check::Infinite, dtype.round(reach) == found, bound);
        }
        let ratio = match (found - expected).abs() {
            0.0 => 0.0,
            error => error / bound,
        };
        Finding { check: Check::Element, place, found, expected, bound, ratio }
    }

    fn lse(&mut self, at: [usize; 3], place: Place, found: f64) {
        let oracle = &self.reference.oracle;
        let expected = oracle.lse[at];
        let bound = lse_bound(self.tolerance, expected, oracle.lse_spread[at], oracle.visible[at]);
        let exact = |passes: bool| if passes { 0.0 } else { f64::INFINITY };
        let ratio = if expected.is_nan() {
            exact(found.is_nan())
        } else if expected == f64::NEG_INFINITY {
            exact(found == expected)
        } else if bound == f64::INFINITY {
            0.0
        } else if found.is_finite() {
            (found - expected).abs() / bound
        } else {
            f64::INFINITY
        };
        if fails(ratio) {
            self.count(Check::Lse);
            self.failing_lse.row(at[0], at[1], at[2]);
        }
        if self.worst_lse.is_none_or(|worst| ratio.is_nan() || ratio > worst.ratio) {
            self.worst_lse = Some(Finding { check: Check::Lse, place, found, expected, bound, ratio });
        }
        if expected.is_finite() && found.is_finite() && bound.is_finite() {
            let unit = expected.abs().max(1.0);
            self.lse_rows += 1;
            self.lse_squares.error += ((found - expected) / unit).powi(2);
            self.lse_squares.ideal += ((self.reference.ideal.lse[at] - expected) / unit).powi(2);
            self.lse_squares.expected += (oracle.lse_spread_rms[at] / unit).powi(2);
        }
    }

    fn count(&mut self, check: Check) {
        match self.counts.iter_mut().find(|count| count.check == check) {
            Some(count) => count.failing += 1,
            None => self.counts.push(Count { check, failing: 1 }),
        }
    }

    fn conclude(mut self) -> Result<Measured, Box<Mismatch>> {
        let squares = &self.squares;
        let limit = frobenius_limit(self.tolerance, squares.ideal, squares.expected, squares.expected_squared);
        // A reference of nothing but zeros has no relative error; show the absolute one.
        let norm = if squares.reference > 0.0 { squares.reference.sqrt() } else { 1.0 };
        self.measured.rel_fro = squares.error.sqrt() / norm;
        self.measured.ideal_fro = squares.ideal.sqrt() / norm;
        self.measured.fro_limit = limit / norm;
        let frobenius_fails = squares.error.sqrt() > limit;

        let rows = self.lse_rows.max(1) as f64;
        self.measured.lse_rms = (self.lse_squares.error / rows).sqrt();
        let lse_limit = lse_rms_limit(
            self.tolerance,
            (self.lse_squares.ideal / rows).sqrt(),
            (self.lse_squares.expected / rows).sqrt(),
        );
        let lse_rms_fails = self.measured.lse_rms > lse_limit;

        self.measured.worst_ratio = self.worst.map_or(0.0, |worst| worst.ratio);
        self.measured.lse_worst_ratio = self.worst_lse.map_or(0.0, |worst| worst.ratio);
        if frobenius_fails {
            self.counts.push(Count { check: Check::Frobenius, failing: 1 });
        }
        if lse_rms_fails {
            self.counts.push(Count { check: Check::LseRms, failing: 1 });
        }
        let output_fails = fails(self.measured.worst_ratio);
        let (check, worst, pattern) = if output_fails {
            (self.worst.map(|worst| worst.check), self.worst, self.failing.pattern())
        } else if frobenius_fails {
            (Some(Check::Frobenius), self.worst, self.suspicious.pattern())
        } else if fails(self.measured.lse_worst_ratio) {
            (Some(Check::Lse), self.worst_lse, self.failing_lse.pattern())
        } else if lse_rms_fails {
            (Some(Check::LseRms), self.worst_lse, Vec::new())
        } else {
            return Ok(self.measured);
        };
        let (check, worst) = check.zip(worst).expect("a failing check has compared something");
        Err(Box::new(Mismatch {
            check,
            problem: self.reference.oracle.problem.clone(),
            place: worst.place,
            found: worst.found,
            expected: worst.expected,
            bound: worst.bound,
            ratio: worst.ratio,
            counts: self.counts,
            pattern,
            lse_rms_limit: lse_limit,
            measured: self.measured,
        }))
    }
}
