//! What was wrong with a kernel's result, for programs and for people.

use std::fmt;

use sdpa_core::Problem;
use thiserror::Error;

use crate::verdict::Measured;

/// Which rule a result broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Check {
    /// An output is NaN although no NaN reaches its row: a NaN made, or an element never written.
    Nan,
    /// An output is a number although a NaN reaches its row.
    MissingNan,
    /// An output is infinite and should not be, or the other way round.
    Infinite,
    /// An output is further from the reference than rounding explains.
    Element,
    /// Every output is within its bound, yet together they are further from the reference than the dtype explains.
    Frobenius,
    /// A log-sum-exp is wrong.
    Lse,
    /// Every log-sum-exp is within its bound, yet together they are too far from the reference.
    LseRms,
}

impl Check {
    /// What broke, as a headline.
    const fn headline(self) -> &'static str {
        match self {
            Self::Nan => "output has NaN where no NaN belongs (made by the kernel, or never written)",
            Self::MissingNan => "output hides a NaN of its inputs",
            Self::Infinite => "output has the wrong infinities",
            Self::Element => "output is wrong",
            Self::Frobenius => "output is less accurate than its dtype allows",
            Self::Lse => "log-sum-exp is wrong",
            Self::LseRms => "log-sum-exp is less accurate than f32 allows",
        }
    }

    /// What the elements or rows counted have in common; `None` for a sum over all.
    const fn counted(self) -> Option<&'static str> {
        match self {
            Self::Nan => Some("elements are NaN"),
            Self::MissingNan => Some("elements hide a NaN"),
            Self::Infinite => Some("elements have a wrong infinity"),
            Self::Element => Some("elements are outside their bound"),
            Self::Lse => Some("rows have a wrong log-sum-exp"),
            Self::Frobenius | Self::LseRms => None,
        }
    }

    const fn is_lse(self) -> bool {
        matches!(self, Self::Lse | Self::LseRms)
    }
}

/// How often a rule was broken: elements, rows for the log-sum-exp, 1 for a sum over all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// The rule.
    pub check: Check,
    /// How often.
    pub failing: usize,
}

/// An element of the output, or a row of the log-sum-exp, by its indices in the problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Sequence.
    pub batch: usize,
    /// Query head.
    pub head: usize,
    /// Query position.
    pub query: usize,
    /// Element of the output row; `None` for the log-sum-exp.
    pub column: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { batch, head, query, column } = self;
        match column {
            Some(column) => write!(f, "out[b{batch} h{head} i{query} d{column}]"),
            None => write!(f, "lse[b{batch} h{head} i{query}]"),
        }
    }
}

/// A result that no right kernel could have written.
#[derive(Clone, Debug, PartialEq, Error)]
pub struct Mismatch {
    /// The gravest rule broken.
    pub check: Check,
    /// What was computed.
    pub problem: Problem,
    /// The element furthest outside its bound, or nearest to it where only a sum is too large.
    pub place: Place,
    /// What the kernel wrote there.
    pub found: f64,
    /// What the oracle says.
    pub expected: f64,
    /// How far apart they may be.
    pub bound: f64,
    /// How far apart they are, in bounds; infinite where a NaN or an infinity is wrong.
    pub ratio: f64,
    /// Every rule broken, in the order met.
    pub counts: Vec<Count>,
    /// Where the failures lie, a phrase for each axis of which only a part fails.
    pub pattern: Vec<String>,
    /// What the root-mean-square error of the log-sum-exp may be.
    pub lse_rms_limit: f64,
    /// Errors over all that was compared.
    pub measured: Measured,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Measured { elements, rel_fro, ideal_fro, fro_limit, lse_rms, .. } = self.measured;
        writeln!(f, "{}", self.check.headline())?;
        writeln!(f, "  problem    {}", self.problem)?;
        for Count { check, failing } in &self.counts {
            if let Some(what) = check.counted() {
                let all = if check.is_lse() { elements / self.problem.value_dim() } else { elements };
                let share = 100.0 * *failing as f64 / all as f64;
                writeln!(f, "  failing    {failing} of {all} {what} ({share:.2} %)")?;
            }
        }
        write!(f, "  worst      {} is {:.7}, expected {:.7}", self.place, self.found, self.expected)?;
        if self.ratio.is_finite() {
            let digits = if self.ratio < 100.0 { 2 } else { 0 };
            write!(f, " ± {:.1e} ({:.digits$} × the bound)", self.bound, self.ratio)?;
        }
        writeln!(f)?;
        if self.check.is_lse() {
            writeln!(f, "  lse        {lse_rms:.1e} root mean square, limit {:.1e}", self.lse_rms_limit)?;
        }
        write!(f, "  frobenius  {rel_fro:.2e} relative, ideal kernel {ideal_fro:.2e}, limit {fro_limit:.2e}")?;
        if !self.pattern.is_empty() {
            write!(f, "\n  where      {}", self.pattern.join("; "))?;
        }
        Ok(())
    }
}
