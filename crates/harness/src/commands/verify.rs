//! `sdpa verify`: repeats the one case that a failing test printed.

use std::io::Write;
use std::process::ExitCode;

use harness::case::Case;
use harness::verify::{Failure, verify};

use super::{FAILED, Outcome, generation, open, spinner};

/// Verify a generation on one case, as failing tests print it
///
/// A case is a line such as `b1 h4/2 q17 kv129 d40 f16 causal blhd scale=0.125 peaked seed=7 schedule=3`; what is left out
/// has its default. `schedule` chooses the order in which the interpreter runs warps.
#[derive(clap::Args, Debug)]
pub(crate) struct Verify {
    /// Which generation
    #[arg(value_name = "ID")]
    generation: String,
    /// The case
    #[arg(value_name = "CASE")]
    case: String,
    /// Verify so many times, each with the next schedule
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    repeat: u64,
}

impl Verify {
    pub(crate) fn run(&self, out: &mut dyn Write) -> Outcome {
        let generation = generation(&self.generation)?;
        let mut case: Case = self.case.parse()?;
        let device = open(out)?;
        writeln!(out, "case: {case}")?;
        writeln!(out, "plan: {}", generation.plan(&case.problem, device.limits())?)?;

        let mut measured = None;
        for round in 1..=self.repeat {
            let progress = spinner(format!("verifying, {round} of {}", self.repeat));
            let verdict = verify(&*device, generation, &case);
            progress.finish_and_clear();
            match verdict {
                Ok(found) => measured = Some(found),
                Err(failure) => return report(out, &failure),
            }
            case.schedule = case.schedule.wrapping_add(1);
        }
        if let Some(found) = measured {
            writeln!(
                out,
                "ok: relative Frobenius error {:.2e} (limit {:.2e}), largest absolute error {:.2e} ({:.0} % of its bound), log-sum-exp rms {:.1e}",
                found.rel_fro,
                found.fro_limit,
                found.max_abs,
                100.0 * found.worst_ratio,
                found.lse_rms,
            )?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A wrong kernel fails the check; one that could not be run is an unusable machine or a case it does not take.
fn report(out: &mut dyn Write, failure: &Failure) -> Outcome {
    if !failure.is_verdict() {
        return Err(failure.reason.to_string().into());
    }
    writeln!(out, "{failure}")?;
    Ok(ExitCode::from(FAILED))
}
