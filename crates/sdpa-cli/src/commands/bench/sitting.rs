//! All contenders on one problem: verified, timed in turn, and judged.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::io::Write;
use std::time::{Duration, Instant};

use harness::acceptance::shape_of;
use harness::case::Case;
use harness::verify::{Question, Thoroughness};
use sdpa_bench::timing::{
    self, Absent, Cache, Ceiling, Contender, Figure, Hopeless, InputSets, Meter, Options, Peers, Prepared, ReadyPeers,
    Record, Regime, Sample, Timing, Verified,
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
    /// One of each regime to time in, in this order.
    pub(in crate::commands) regimes: &'a [Options],
    /// Also with inputs that come from memory, in short turns.
    pub(in crate::commands) cold: bool,
    /// Says what passes cost in sustained turns.
    pub(in crate::commands) meter: Option<&'a Meter>,
    pub(in crate::commands) ceilings: &'a [Ceiling],
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
        let (mut proofs, mut figures) = (Some(proofs), Vec::new());
        for options in self.regimes {
            let proofs = match proofs.take() {
                Some(proofs) => proofs,
                None => self.verify_again(out, &question, &right)?,
            };
            let timed = self.figures(out, &question, proofs, options, &mut record.absent)?;
            if self.regimes.len() > 1 {
                writeln!(out, "{} turns of {} ms", options.regime, options.turn().as_millis())?;
            }
            write!(out, "{}", render::table(&timed, self.baseline))?;
            figures.extend(timed);
        }
        let seconds = [asked, verified - asked, started.elapsed() - verified].map(|part| part.as_secs_f64());
        writeln!(out, "oracle {:.1} s, verification {:.1} s, timing {:.1} s", seconds[0], seconds[1], seconds[2])?;
        out.flush()?;
        record.figures.extend(figures);
        Ok(all_right)
    }

    /// A figure of each contender in one regime, judged.
    fn figures(
        &self,
        out: &mut dyn Write,
        question: &Question,
        proofs: Vec<Verified<'static>>,
        options: &Options,
        absent: &mut Vec<Absent>,
    ) -> Result<Vec<Figure>, AnyError> {
        let right: Vec<&'static dyn Attention> = proofs.iter().map(Verified::generation).collect();
        let warm = self.time(out, question, proofs, options, absent)?;
        let cold = match self.cold && options.regime == Regime::Short {
            true if timing::outgrows_caches(self.problem()) => Some(warm.clone()),
            true => {
                let proofs = self.verify_again(out, question, &right)?;
                let options = Options { cache: Cache::Cold, ..*options };
                // What is missing is named already.
                Some(self.time(out, question, proofs, &options, &mut Vec::new())?)
            }
            false => None,
        };
        let dtype = self.problem().dtype().name();
        let ceiling =
            self.ceilings.iter().find(|ceiling| (ceiling.dtype.as_str(), ceiling.regime) == (dtype, options.regime));
        let mut figures = Vec::new();
        for Timed { name, timing, way } in warm {
            let cold = cold.as_ref().and_then(|cold| cold.iter().find(|other| other.name == name));
            let generation = right.iter().find(|generation| generation.generation().id == name);
            figures.push(Figure {
                regime: options.regime,
                cold_median_us: cold.map(|cold| cold.timing.median_us),
                of_ceiling: ceiling.map(|ceiling| ceiling.least_us(self.case) / timing.median_us),
                way,
                kernel: generation.map(|generation| self.fingerprint(*generation)).transpose()?,
                ..Figure::of_case(&name, self.case, &timing)
            });
        }
        timing::judge(&mut figures, &parent_of);
        Ok(figures)
    }

    /// Proofs anew: each is worth one measurement.
    fn verify_again(
        &self,
        out: &mut dyn Write,
        question: &Question,
        right: &[&'static dyn Attention],
    ) -> Result<Vec<Verified<'static>>, AnyError> {
        Ok(self.verify(out, question, right, &mut Vec::new())?.0)
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
        options: &Options,
        absent: &mut Vec<Absent>,
    ) -> Result<Vec<Timed>, AnyError> {
        let sets = InputSets::of(self.device, self.problem(), question.data(), options.cache)?;
        let (mut names, mut ways) = (Vec::new(), BTreeMap::new());
        let mut contenders: Vec<Box<dyn Contender<Error = AnyError> + '_>> = Vec::new();
        for proof in proofs {
            names.push(proof.generation().generation().id.to_owned());
            let prepared = Prepared::new(self.device, proof, &sets, options)?.metered(self.meter);
            contenders.push(Box::new(AnyContender(prepared)));
        }
        if let Some(peers) = self.peers {
            let progress = spinner(format!("preparing the peers for {}", self.problem()));
            let prepared = peers.prepare(self.problem(), &question.data().extension, options);
            progress.finish_and_clear();
            let ReadyPeers { peers: ready, ways: found, skipped } = prepared?;
            ways = found;
            for name in ready {
                contenders.push(Box::new(AnyContender(peers.contender(&name))));
                names.push(name);
            }
            for (name, reason) in skipped {
                // Once a problem is enough.
                let problem = self.problem().to_string();
                if options.cache == Cache::Warm
                    && !absent.iter().any(|other| other.contender == name && other.problem == problem)
                {
                    self.leave_out(out, absent, &name, &reason)?;
                }
            }
        }
        let progress = bar(options.samples as u64);
        progress.set_message(format!("timing {}", self.problem()));
        let timings = timing::round_robin(&mut contenders, options.samples, options.seed, || progress.inc(1));
        progress.finish_and_clear();
        let timed = |(name, timing): (String, Timing)| Timed { way: ways.get(&name).cloned(), name, timing };
        Ok(names.into_iter().zip(timings?).map(timed).collect())
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

/// A contender's time, and the way in which a peer has it.
#[derive(Clone)]
struct Timed {
    name: String,
    timing: Timing,
    way: Option<String>,
}

/// Contenders whose errors differ, side by side.
struct AnyContender<C>(C);

impl<C: Contender<Error: StdError + 'static>> Contender for AnyContender<C> {
    type Error = AnyError;

    fn sample(&mut self) -> Result<Sample, AnyError> {
        self.0.sample().map_err(Into::into)
    }
}
