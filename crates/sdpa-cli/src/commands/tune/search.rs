//! Races that halve: few samples for all candidates, more for those that are ahead.

use harness::case::Case;
use harness::counters::{self, INSTRUCTIONS};
use harness::table::{Align, Table, microseconds};
use harness::verify::Question;
use sdpa_bench::timing::{self, Contender, InputSets, Options, Prepared, Timing, Verdict};
use sdpa_core::{Device, Error};
use sdpa_toolchain::{KernelTexts, Nvrtc, Sources};
use serde::{Deserialize, Serialize};

use super::candidates::{self, Candidate, Change, Rejected};
use crate::commands::bar;

type AnyError = Box<dyn std::error::Error>;

/// A problem and what its candidates are raced with.
pub(super) struct Search<'a> {
    pub(super) device: &'a dyn Device,
    /// What kernels of the table are made of.
    pub(super) texts: &'a KernelTexts,
    pub(super) case: &'a Case,
    pub(super) question: &'a Question,
    pub(super) sources: &'a Sources,
    pub(super) compiler: &'a Nvrtc,
    pub(super) options: Options,
    /// Numbers that helped alone are tried together.
    pub(super) combines: bool,
}

/// How a candidate stands beside what the generation chooses today.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Standing {
    /// Its kernel, and what was changed of it.
    pub(super) candidate: String,
    /// How it is launched.
    pub(super) plan: String,
    /// Median time of a pass in the last race it took part in; without a GPU none.
    pub(super) median_us: Option<f64>,
    pub(super) low_us: Option<f64>,
    pub(super) high_us: Option<f64>,
    /// Samples of that race.
    pub(super) samples: usize,
    /// Times the speed of today's choice in the same race.
    pub(super) speedup: Option<f64>,
    /// What the spreads allow to be said.
    pub(super) verdict: Option<Verdict>,
    /// Instructions that warps issue, without a GPU.
    pub(super) instructions: Option<u64>,
}

/// A candidate that was not raced.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Out {
    pub(super) candidate: String,
    pub(super) reason: String,
}

impl From<Rejected> for Out {
    fn from(Rejected { label, reason }: Rejected) -> Self {
        Self { candidate: label, reason }
    }
}

/// What a search found, the best first.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Found {
    /// What the generation chooses today.
    pub(super) chosen: String,
    pub(super) chosen_is_right: bool,
    pub(super) standings: Vec<Standing>,
    pub(super) rejected: Vec<Out>,
    /// The winner, measured again in a process of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) confirmed: Option<Standing>,
}

/// A candidate's time beside that of today's choice in the same race.
struct Raced {
    candidate: Candidate,
    timing: Timing,
    chosen: Timing,
}

impl Raced {
    fn speedup(&self) -> f64 {
        self.chosen.median_us / self.timing.median_us
    }

    fn standing(&self) -> Standing {
        Standing {
            candidate: self.candidate.label(),
            plan: self.candidate.plan.to_string(),
            median_us: Some(self.timing.median_us),
            low_us: Some(self.timing.low_us),
            high_us: Some(self.timing.high_us),
            samples: self.timing.samples_us.len(),
            speedup: Some(self.speedup()),
            verdict: Some(timing::compare(&self.timing.quartiles(), &self.chosen.quartiles())),
            instructions: None,
        }
    }
}

impl Search<'_> {
    /// Samples of each race. The first is there to drop what is clearly behind, the last to be believed.
    const SAMPLES: [usize; 3] = [5, 9, 21];
    /// Candidates in the last race, today's choice not counted.
    const FINALISTS: usize = 4;
    /// A number that gains less alone is not tried with others.
    const HELPS: f64 = 1.003;

    pub(super) fn by_time(&self, chosen: Candidate, first: Vec<Candidate>) -> Result<Found, AnyError> {
        let mut found = Found { chosen: chosen.label(), chosen_is_right: true, ..Found::default() };
        let first = self.compiled(first, &mut found)?;
        let mut raced = self.race(&chosen, first, Self::SAMPLES[0], &mut found)?;
        if !found.chosen_is_right {
            return Ok(found);
        }
        if self.combines {
            let together = self.compiled(self.together(&raced), &mut found)?;
            if !together.is_empty() {
                raced.extend(self.race(&chosen, together, Self::SAMPLES[0], &mut found)?);
            }
        }
        raced.sort_by(|a, b| b.speedup().total_cmp(&a.speedup()));
        let mut standings: Vec<Standing> = Vec::new();
        let mut kept = raced.len().div_ceil(2).max(Self::FINALISTS);
        for samples in &Self::SAMPLES[1..] {
            let ahead = raced.len().min(kept);
            standings.splice(0..0, raced.drain(ahead..).map(|raced| raced.standing()));
            let again = raced.into_iter().map(|raced| raced.candidate).collect();
            raced = self.race(&chosen, again, *samples, &mut found)?;
            raced.sort_by(|a, b| b.speedup().total_cmp(&a.speedup()));
            kept = Self::FINALISTS;
        }
        standings.splice(0..0, raced.iter().map(Raced::standing));
        found.standings = standings;
        Ok(found)
    }

    /// One candidate beside today's choice, with as many samples as the last race has and half as many more.
    pub(super) fn alone(&self, chosen: Candidate, candidate: Candidate) -> Result<Standing, AnyError> {
        let mut found = Found { chosen: chosen.label(), chosen_is_right: true, ..Found::default() };
        let label = candidate.label();
        let ready = self.compiled(vec![candidate], &mut found)?;
        let raced = self.race(&chosen, ready, Self::SAMPLES[2] * 3 / 2, &mut found)?;
        let reason = || found.rejected.first().map_or_else(String::new, |out| format!(": {}", out.reason));
        raced.first().map(Raced::standing).ok_or_else(|| format!("{label} was not timed{}", reason()).into())
    }

    /// Without a clock: what is right, by how many instructions it issues.
    pub(super) fn by_counters(&self, chosen: Candidate, first: Vec<Candidate>) -> Result<Found, AnyError> {
        let mut found = Found { chosen: chosen.label(), chosen_is_right: true, ..Found::default() };
        let mut all = vec![chosen];
        all.extend(self.compiled(first, &mut found)?);
        let (right, rejected) =
            candidates::verify(self.device, self.question, &all).map_err(|failure| failure.to_string())?;
        found.chosen_is_right = !rejected.iter().any(|rejected| rejected.label == found.chosen);
        found.rejected.extend(rejected.into_iter().map(Out::from));
        let right: Vec<&Candidate> = right.into_iter().map(|(candidate, _)| candidate).collect();
        for candidate in right {
            let kernels: Vec<_> = candidate.plan.launches.iter().map(|launch| launch.kernel).collect();
            let texts = match candidate.changes.is_empty() {
                true => self.texts.clone(),
                false => KernelTexts::compiled(&kernels, self.sources, self.compiler, |_| {})?,
            };
            let counted = counters::count(candidate, self.case, &texts)?;
            let figures = counters::figures(&counted.counters);
            found.standings.push(Standing {
                candidate: candidate.label(),
                plan: candidate.plan.to_string(),
                median_us: None,
                low_us: None,
                high_us: None,
                samples: 0,
                speedup: None,
                verdict: None,
                instructions: figures.iter().find(|figure| figure.name == INSTRUCTIONS).map(|figure| figure.count),
            });
        }
        found.standings.sort_by_key(|standing| standing.instructions);
        Ok(found)
    }

    fn compiled(&self, candidates: Vec<Candidate>, found: &mut Found) -> Result<Vec<Candidate>, AnyError> {
        let progress = bar(candidates.len() as u64);
        progress.set_message("compiling candidates");
        let compiled = candidates::compile(candidates, self.device, self.sources, self.compiler, || progress.inc(1));
        progress.finish_and_clear();
        let (ready, rejected) = compiled?;
        found.rejected.extend(rejected.into_iter().map(Out::from));
        Ok(ready)
    }

    /// Of each kernel the best value of every number that helped alone, in pairs and all together.
    fn together(&self, raced: &[Raced]) -> Vec<Candidate> {
        let mut kernels: Vec<&str> = raced.iter().map(|raced| raced.candidate.kernel).collect();
        kernels.sort_unstable();
        kernels.dedup();
        let mut together = Vec::new();
        for kernel in kernels {
            let mut helped: Vec<&Raced> = raced
                .iter()
                .filter(|raced| raced.candidate.kernel == kernel && raced.candidate.changes.len() == 1)
                .filter(|raced| raced.speedup() >= Self::HELPS)
                .collect();
            helped.sort_by(|a, b| b.speedup().total_cmp(&a.speedup()));
            let mut changes: Vec<(Change, &Candidate)> = Vec::new();
            for raced in helped {
                let change = &raced.candidate.changes[0];
                if changes.iter().all(|(known, _)| known.define != change.define) {
                    changes.push((change.clone(), &raced.candidate));
                }
            }
            let limits = self.device.limits();
            for (index, (_, with)) in changes.iter().enumerate() {
                for (change, _) in &changes[index + 1..] {
                    together.extend(with.changed(std::slice::from_ref(change), limits));
                }
            }
            if changes.len() > 2 {
                let rest: Vec<Change> = changes[1..].iter().map(|(change, _)| change.clone()).collect();
                together.extend(changes[0].1.changed(&rest, limits));
            }
        }
        together
    }

    /// Verifies all anew and times them in turns with today's choice. A sample takes the same time for each, so that a slow
    /// candidate costs no more than a fast one.
    fn race(
        &self,
        chosen: &Candidate,
        candidates: Vec<Candidate>,
        samples: usize,
        found: &mut Found,
    ) -> Result<Vec<Raced>, AnyError> {
        let mut all = vec![chosen.clone()];
        all.extend(candidates);
        let (right, rejected) =
            candidates::verify(self.device, self.question, &all).map_err(|failure| failure.to_string())?;
        found.chosen_is_right &= !rejected.iter().any(|rejected| rejected.label == found.chosen);
        found.rejected.extend(rejected.into_iter().map(Out::from));
        if !found.chosen_is_right {
            return Ok(Vec::new());
        }
        let sets = InputSets::of(self.device, &self.case.problem, self.question.data(), self.options.cache)?;
        let mut names = Vec::new();
        let mut contenders: Vec<Box<dyn Contender<Error = Error> + '_>> = Vec::new();
        for (candidate, proof) in right {
            names.push(candidate.clone());
            contenders.push(Box::new(Prepared::new(self.device, proof, &sets, &self.options)?));
        }
        let progress = bar(samples as u64);
        progress.set_message(format!("timing {} candidates", names.len()));
        let timings = timing::round_robin(&mut contenders, samples, self.options.seed, || progress.inc(1));
        progress.finish_and_clear();
        let mut timings = timings?.into_iter();
        let Some(chosen) = timings.next() else { return Ok(Vec::new()) };
        let others = names.into_iter().skip(1).zip(timings);
        Ok(others.map(|(candidate, timing)| Raced { candidate, timing, chosen: chosen.clone() }).collect())
    }
}

impl Found {
    /// The candidate that is clearly faster than today's choice, if there is one.
    pub(super) fn faster(&self) -> Option<String> {
        let best = self.standings.first().filter(|best| best.verdict == Some(Verdict::Faster));
        best.map(|best| best.candidate.clone())
    }

    /// The best first, with what was measured beside today's choice.
    pub(super) fn table(&self, timed: bool) -> String {
        use Align::{Left, Right};
        let number = |value: Option<f64>, text: fn(f64) -> String| value.map_or("–".to_owned(), text);
        if timed {
            let columns =
                [("candidate", Left), ("µs", Right), ("samples", Right), ("× chosen", Right), ("verdict", Left)];
            let mut table = Table::new(&columns);
            for standing in &self.standings {
                table.push(vec![
                    standing.candidate.clone().into(),
                    number(standing.median_us, microseconds).into(),
                    standing.samples.to_string().into(),
                    number(standing.speedup, |value| format!("{value:.3}")).into(),
                    standing.verdict.map(|verdict| verdict.to_string()).unwrap_or_default().into(),
                ]);
            }
            table.render()
        } else {
            let mut table = Table::new(&[("candidate", Left), ("instructions", Right)]);
            for standing in &self.standings {
                let count = standing.instructions.map(|count| count.to_string()).unwrap_or_default();
                table.push(vec![standing.candidate.clone().into(), count.into()]);
            }
            table.render()
        }
    }

    /// What follows from it, in a sentence.
    pub(super) fn conclusion(&self, timed: bool) -> String {
        if !self.chosen_is_right {
            return format!("what is chosen today ({}) is wrong: nothing was timed", self.chosen);
        }
        let best = self.standings.first();
        match (timed, best) {
            (false, _) => format!("chosen today: {}. A guess: without a GPU nothing was timed", self.chosen),
            (true, Some(best)) if best.verdict == Some(Verdict::Faster) => {
                let speedup = best.speedup.unwrap_or(1.0);
                let again = match &self.confirmed {
                    Some(again) => format!(
                        "; measured again in a process of its own: {:.3} ×, {}",
                        again.speedup.unwrap_or(1.0),
                        again.verdict.map_or("no verdict".to_owned(), |verdict| verdict.to_string())
                    ),
                    None => "; not measured again".to_owned(),
                };
                format!(
                    "{} is faster than what is chosen today ({}): {speedup:.3} ×{again}",
                    best.candidate, self.chosen
                )
            }
            (true, Some(best)) if best.speedup.is_some_and(|speedup| speedup > 1.0) => format!(
                "what is chosen today ({}) was not beaten clearly: {} came nearest, {:.3} ×",
                self.chosen,
                best.candidate,
                best.speedup.unwrap_or(1.0)
            ),
            _ => format!("what is chosen today ({}) is the fastest", self.chosen),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(candidate: &str, speedup: f64, verdict: Verdict) -> Standing {
        Standing {
            candidate: candidate.to_owned(),
            plan: String::new(),
            median_us: Some(10.0 / speedup),
            low_us: None,
            high_us: None,
            samples: 21,
            speedup: Some(speedup),
            verdict: Some(verdict),
            instructions: None,
        }
    }

    fn found(standings: Vec<Standing>) -> Found {
        Found { chosen: "d64".to_owned(), chosen_is_right: true, standings, ..Found::default() }
    }

    #[test]
    fn nothing_is_called_faster_that_the_verdict_does_not_call_so() {
        let clear = found(vec![standing("d64 STAGES=1", 1.1, Verdict::Faster), standing("d128", 0.8, Verdict::Slower)]);
        insta::assert_snapshot!(clear.table(true), @r"
        candidate       µs  samples  × chosen  verdict
        d64 STAGES=1  9.09       21     1.100  faster
        d128          12.5       21     0.800  slower
        ");
        assert_eq!(
            clear.conclusion(true),
            "d64 STAGES=1 is faster than what is chosen today (d64): 1.100 ×; not measured again"
        );
        let unclear = found(vec![standing("d64 STAGES=1", 1.02, Verdict::Ambiguous)]);
        assert_eq!(
            unclear.conclusion(true),
            "what is chosen today (d64) was not beaten clearly: d64 STAGES=1 came nearest, 1.020 ×"
        );
        let best = found(vec![standing("d128", 0.8, Verdict::Slower)]);
        assert_eq!(best.conclusion(true), "what is chosen today (d64) is the fastest");
        assert!(best.conclusion(false).contains("A guess"));
        let wrong = Found { chosen_is_right: false, ..best };
        assert!(wrong.conclusion(true).contains("is wrong: nothing was timed"));
    }
}
