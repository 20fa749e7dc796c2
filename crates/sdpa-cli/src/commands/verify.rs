//! `sdpa verify`: repeats the one case that a failing test printed.

use std::io::Write;
use std::process::ExitCode;

use harness::case::Case;
use harness::properties::{self, Property};
use harness::verify::{Failure, MATCHES_REFERENCE, Reason, Thoroughness, verify_thoroughly};
use sdpa_core::{Attention, Device};
use sdpa_ref::Judged;
use serde::{Deserialize, Serialize};

use super::{FAILED, Outcome, UNUSABLE, kernel_texts_or_packed, open, spinner, subject};

/// Verify a generation on one case, as failing tests print it
///
/// A case is a line such as `b1 h4/2 q17 kv129 d40 f16 causal blhd scale=0.125 peaked seed=7 schedule=3`; what is left out
/// has its default. `schedule` chooses the order in which the interpreter runs warps. Exits 1 where the kernel is wrong,
/// and 2 where it was not run or not a row of its result can be judged. That is so where f32 may overflow: where scores, or
/// these over the scale, reach a quarter of the largest f32. Every other logit is judged, however large.
#[derive(clap::Args, Debug)]
pub(crate) struct Verify {
    /// Which generation, or which mutant
    #[arg(value_name = "ID")]
    generation: String,
    /// The case
    #[arg(value_name = "CASE")]
    case: String,
    /// What to verify about it
    #[arg(long, value_name = "NAME", default_value = MATCHES_REFERENCE)]
    property: String,
    /// Run so many times more, each with the next schedule: the bits must always be the same
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Write one line of JSON for programs: `sdpa prove` reads it
    #[arg(long)]
    json: bool,
}

/// What came of a case, as a program reads it: one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Verified {
    /// Which generation or mutant.
    pub(crate) generation: String,
    /// The case, with everything that was left out.
    pub(crate) case: String,
    /// The device.
    pub(crate) device: String,
    /// What came of it.
    pub(crate) outcome: VerifiedAs,
    /// The errors found, why it is wrong, or why it was declined.
    pub(crate) said: String,
    /// Runs whose bits were the same.
    pub(crate) same_runs: u64,
    /// Rows that were judged.
    #[serde(default)]
    pub(crate) judged_rows: u64,
    /// Rows that could be anything, because f32 may overflow in them.
    #[serde(default)]
    pub(crate) unjudged_rows: u64,
}

/// The ways that a case can end once it has been asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum VerifiedAs {
    /// The property holds.
    Right,
    /// It does not.
    Wrong,
    /// The generation does not take the case.
    Declined,
    /// The kernel could not be run.
    NotRun,
    /// It ran, and no row of its result can be judged.
    Unjudged,
}

impl Verify {
    pub(crate) fn run(&self, out: &mut dyn Write) -> Outcome {
        let generation = subject(&self.generation)?;
        let property = property(&self.property)?;
        let case: Case = self.case.parse()?;
        if self.json {
            return self.run_for_programs(out, generation, case, property);
        }
        let device = open(out)?;
        kernel_texts_or_packed(&[generation])?.install(&*device)?;
        writeln!(out, "case: {case}")?;
        writeln!(out, "plan: {}", generation.plan(&case.problem, device.limits())?)?;

        let progress = spinner(format!("verifying, {} runs", self.repeat.saturating_add(1)));
        let verdict = self.ask(&*device, generation, case, property);
        progress.finish_and_clear();
        match verdict {
            Ok((found, judged)) => writeln!(out, "ok: judged {judged}; {found}")?,
            Err(failure) => return report(out, &failure),
        }
        Ok(ExitCode::SUCCESS)
    }

    fn run_for_programs(
        &self,
        out: &mut dyn Write,
        generation: &'static dyn Attention,
        case: Case,
        property: &Property,
    ) -> Outcome {
        let device = open(&mut std::io::sink())?;
        kernel_texts_or_packed(&[generation])?.install(&*device)?;
        let asked = case.to_string();
        let nothing = Judged::default();
        let (outcome, said, judged) = match generation.plan(&case.problem, device.limits()) {
            Err(reason) => (VerifiedAs::Declined, reason.to_string(), nothing),
            Ok(_) => match self.ask(&*device, generation, case, property) {
                Ok((found, judged)) => (VerifiedAs::Right, found, judged),
                Err(failure) => {
                    let (outcome, judged) = match &*failure.reason {
                        Reason::Unjudged { rows } => (VerifiedAs::Unjudged, Judged { rows: *rows, unjudged: *rows }),
                        _ if failure.is_verdict() => (VerifiedAs::Wrong, nothing),
                        _ => (VerifiedAs::NotRun, nothing),
                    };
                    (outcome, failure.reason.to_string(), judged)
                }
            },
        };
        let verified = Verified {
            generation: generation.generation().id.to_owned(),
            case: asked,
            device: device.name(),
            outcome,
            said: said.lines().map(str::trim).collect::<Vec<_>>().join("; "),
            same_runs: if outcome == VerifiedAs::Right { u64::from(self.repeat) + 1 } else { 0 },
            judged_rows: (judged.rows - judged.unjudged) as u64,
            unjudged_rows: judged.unjudged as u64,
        };
        writeln!(out, "{}", serde_json::to_string(&verified)?)?;
        Ok(match outcome {
            VerifiedAs::Right => ExitCode::SUCCESS,
            VerifiedAs::Wrong => ExitCode::from(FAILED),
            VerifiedAs::Declined | VerifiedAs::NotRun | VerifiedAs::Unjudged => ExitCode::from(UNUSABLE),
        })
    }

    /// What was found where the property holds, and of how many rows.
    fn ask(
        &self,
        device: &dyn Device,
        generation: &dyn Attention,
        mut case: Case,
        property: &Property,
    ) -> Result<(String, Judged), Box<Failure>> {
        if property.name != MATCHES_REFERENCE {
            let mut judged = Judged::default();
            for _ in 0..self.repeat {
                judged += property.check(device, generation, &case)?;
                case.schedule = case.schedule.wrapping_add(1);
            }
            return Ok((format!("{} holds", property.name), judged));
        }
        let thoroughness = Thoroughness { repetitions: self.repeat, ..Thoroughness::for_problem(&case.problem) };
        let found = verify_thoroughly(device, generation, &case, thoroughness)?;
        let text = format!(
            "relative Frobenius error {:.2e} (limit {:.2e}), largest absolute error {:.2e} ({:.0} % of its bound), \
             log-sum-exp rms {:.1e}; the same bits in {} runs",
            found.rel_fro,
            found.fro_limit,
            found.max_abs,
            100.0 * found.worst_ratio,
            found.lse_rms,
            u64::from(self.repeat) + 1,
        );
        Ok((text, found.judged))
    }
}

fn property(name: &str) -> Result<&'static Property, String> {
    properties::find(name).ok_or_else(|| {
        let known: Vec<&str> = properties::ALL.iter().map(|property| property.name).collect();
        format!("no property `{name}`: there are {}", known.join(", "))
    })
}

/// A wrong kernel fails the check; one that could not be run is an unusable machine or a case it does not take.
fn report(out: &mut dyn Write, failure: &Failure) -> Outcome {
    if !failure.is_verdict() {
        return Err(failure.reason.to_string().into());
    }
    writeln!(out, "{failure}")?;
    Ok(ExitCode::from(FAILED))
}
