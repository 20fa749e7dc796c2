//! All contenders on one problem: verified, timed in turn, and judged.

use std::error::Error as StdError;
use std::io::Write;
use std::time::{Duration, Instant};

use harness::acceptance::shape_of;
use harness::case::Case;
use harness::verify::{Question, Thoroughness};
use sdpa_bench::timing::{
    self, Absent, Cache, Ceiling, Contender, Figure, Hopeless, InputSets, Options, Peers, Prepared, Record, Timing,
    Verified,
};
use sdpa_core::{Attention, Device, Problem};
use sdpa_toolchain::Fingerprint;

use super::super::{bar, spinner};
use super::{parent_of, render};

type AnyError = Box<dyn StdError>;

/// The contenders' problem, and how they are timed.
pub(in crate::commands) struct Sitting<'a> {
    pub(in crate::commands) device: &'a dyn Device,
    pub(in crate::commands) peers: Option<&'a Peers>,
    pub(in crate::commands) case: &'a Case,
    pub(in crate::commands) options: Options,
    pub(in crate::commands) cold: bool,
    pub(in crate::commands) ceiling: Option<&'a Ceiling>,
    pub(in crate::commands) baseline: Option<&'a Record>,
    /// Also times generations that are right and very slow.
    pub(in crate::commands) everybody: bool,
}

impl Sitting<'_> {
    /// Verifies, times, prints and records; false if a generation is wrong.
    pub(in crate::commands) fn run(
        &self,
        out: &mut dyn Write,
        generations: &[&'static dyn Attention],
        record: &mut Record,
    ) -> Result<bool, AnyError> {
        let problem = &self.case.problem;
        writeln!(out, "\n{} {} {}{}", shape_of(problem), problem.dtype(), problem.mask().name(), self.extensions())?;
        let started = Instant::now();
        let progress = spinner(format!("asking the oracle about {problem}"));
        let question = Question::new(self.case.clone(), Thoroughness::before_timing(problem));
        progress.finish_and_clear();
        let question = question?;
        let asked = started.elapsed();

        let (mut proofs, all_right) = self.verify(out, &question, generations, &mut record.absent)?;
        let took: Vec<(&str, Duration)> =
            proofs.iter().map(|proof| (proof.generation().generation().id, proof.took())).collect();
        let hopeless = if self.everybody { Vec::new() } else { timing::hopeless(&took) };
        for Hopeless { id, reason } in hopeless {
            proofs.retain(|proof| proof.generation().generation().id != id);
            self.leave_out(out, &mut record.absent, id, &reason)?;
        }
        let verified = started.elapsed();
        let right: Vec<&'static dyn Attention> = proofs.iter().map(Verified::generation).collect();
        let warm = self.time(out, &question, proofs, Cache::Warm, &mut record.absent)?;
        let cold = match self.cold {
            true if timing::outgrows_caches(problem) => Some(warm.clone()),
            true => {
                // A proof is worth one measurement.
                let mut again = Vec::new();
                let (proofs, _) = self.verify(out, &question, &right, &mut again)?;
                Some(self.time(out, &question, proofs, Cache::Cold, &mut again)?)
            }
            false => None,
        };
        let mut figures = Vec::new();
        for (name, timing) in warm {
            let cold = cold.as_ref().and_then(|cold| cold.iter().find(|(other, _)| *other == name));
            let generation = right.iter().find(|generation| generation.generation().id == name);
            figures.push(Figure {
                cold_median_us: cold.map(|(_, timing)| timing.median_us),
                of_ceiling: self.ceiling.map(|ceiling| ceiling.least_us(self.case) / timing.median_us),
                kernel: generation.map(|generation| self.fingerprint(*generation)).transpose()?,
                ..Figure::of_case(&name, self.case, &timing)
            });
        }
        timing::judge(&mut figures, &parent_of);
        write!(out, "{}", render::table(&figures, self.baseline))?;
        let seconds = [asked, verified - asked, started.elapsed() - verified].map(|part| part.as_secs_f64());
        writeln!(out, "oracle {:.1} s, verification {:.1} s, timing {:.1} s", seconds[0], seconds[1], seconds[2])?;
        out.flush()?;
        record.figures.extend(figures);
        Ok(all_right)
    }

    fn problem(&self) -> &Problem {
        &self.case.problem
    }

    /// What is asked for beyond dense attention, for people: lengths by the dozen are in the record.
    fn extensions(&self) -> String {
        match Case::new(self.problem().clone()).extensions() {
            words if words.is_empty() => words,
            words => format!(" {words}"),
        }
    }

    /// Proofs of the generations that are right, and whether all that take the problem are.
    fn verify(
        &self,
        out: &mut dyn Write,
        question: &Question,
        generations: &[&'static dyn Attention],
        absent: &mut Vec<Absent>,
    ) -> Result<(Vec<Verified<'static>>, bool), AnyError> {
        let (mut right, mut all_right) = (Vec::new(), true);
        let progress = spinner(format!("verifying on {}", self.problem()));
        let answers = Verified::all(self.device, generations, question);
        progress.finish_and_clear();
        for (generation, answer) in generations.iter().zip(answers) {
            let id = generation.generation().id;
            match answer {
                Ok(proof) => right.push(proof),
                Err(failure) if failure.is_sticky() => return Err(failure.to_string().into()),
                Err(failure) => match failure.unsupported() {
                    Some(reason) => self.leave_out(out, absent, id, &reason.to_string())?,
                    None => {
                        all_right = false;
                        self.leave_out(out, absent, id, &format!("it is wrong:\n{failure}"))?;
                    }
                },
            }
        }
        Ok((right, all_right))
    }

    /// Times all contenders in turn.
    fn time(
        &self,
        out: &mut dyn Write,
        question: &Question,
        proofs: Vec<Verified<'static>>,
        cache: Cache,
        absent: &mut Vec<Absent>,
    ) -> Result<Vec<(String, Timing)>, AnyError> {
        let options = Options { cache, ..self.options };
        let sets = InputSets::of(self.device, self.problem(), question.data(), cache)?;
        let mut names = Vec::new();
        let mut contenders: Vec<Box<dyn Contender<Error = AnyError> + '_>> = Vec::new();
        for proof in proofs {
            names.push(proof.generation().generation().id.to_owned());
            contenders.push(Box::new(AnyContender(Prepared::new(self.device, proof, &sets, &options)?)));
        }
        if let Some(peers) = self.peers {
            let progress = spinner(format!("preparing the peers for {}", self.problem()));
            let prepared = peers.prepare(self.problem(), &question.data().extension, &options);
            progress.finish_and_clear();
            let (ready, skipped) = prepared?;
            for name in ready {
                contenders.push(Box::new(AnyContender(peers.contender(&name))));
                names.push(name);
            }
            if cache == Cache::Warm {
                for (name, reason) in skipped {
                    self.leave_out(out, absent, &name, &reason)?;
                }
            }
        }
        let progress = bar(options.samples as u64);
        progress.set_message(format!("timing {}", self.problem()));
        let timings = timing::round_robin(&mut contenders, options.samples, options.seed, || progress.inc(1));
        progress.finish_and_clear();
        Ok(names.into_iter().zip(timings?).collect())
    }

    fn leave_out(
        &self,
        out: &mut dyn Write,
        absent: &mut Vec<Absent>,
        contender: &str,
        reason: &str,
    ) -> std::io::Result<()> {
        writeln!(out, "  not timed: {contender}: {reason}")?;
        absent.push(Absent {
            contender: contender.to_owned(),
            problem: self.problem().to_string(),
            reason: reason.to_owned(),
        });
        Ok(())
    }

    fn fingerprint(&self, generation: &dyn Attention) -> Result<String, AnyError> {
        Ok(Fingerprint::of_plan(&generation.plan(self.problem(), self.device.limits())?)?)
    }
}

/// Contenders whose errors differ, side by side.
struct AnyContender<C>(C);

impl<C: Contender<Error: StdError + 'static>> Contender for AnyContender<C> {
    type Error = AnyError;

    fn sample(&mut self) -> Result<f64, AnyError> {
        self.0.sample().map_err(Into::into)
    }
}
