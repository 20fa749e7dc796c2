//! What a search tries: the plans that a generation could have made, with kernels compiled with other numbers.

use harness::verify::{Failure, Question};
use rayon::prelude::*;
use sdpa_bench::timing::Verified;
use sdpa_core::{
    Attention, Device, DeviceLimits, Extensions, Generation, LaunchPlan, Problem, Specialisation, Unsupported,
};
use sdpa_toolchain::{Nvrtc, Sources, ToolchainError};

/// One number of a kernel, chosen otherwise: `TILE_KEYS=32`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Change {
    pub(super) define: String,
    pub(super) value: String,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.define, self.value)
    }
}

/// A generation with one of its plans, some numbers of its kernels changed.
#[derive(Clone)]
pub(super) struct Candidate {
    generation: &'static dyn Attention,
    problem: Problem,
    /// Which kernel of the table it was made of.
    pub(super) kernel: &'static str,
    /// What was changed; nothing for a kernel of the table.
    pub(super) changes: Vec<Change>,
    /// How it is launched.
    pub(super) plan: LaunchPlan,
}

impl Candidate {
    /// The plan as it stands; `None` where it launches nothing.
    pub(super) fn of_plan(generation: &'static dyn Attention, problem: &Problem, plan: LaunchPlan) -> Option<Self> {
        let kernel = plan.launches.first()?.kernel.name;
        Some(Self { generation, problem: problem.clone(), kernel, changes: Vec::new(), plan })
    }

    /// The same with numbers changed, `None` where none of its kernels has one of them, none would change, or the numbers
    /// do not go together.
    pub(super) fn changed(&self, changes: &[Change], limits: &DeviceLimits) -> Option<Self> {
        let mut plan = self.plan.clone();
        let mut found = vec![false; changes.len()];
        for launch in &mut plan.launches {
            let mut defines: Vec<String> = launch.kernel.defines.iter().map(|define| (*define).to_owned()).collect();
            for (change, found) in changes.iter().zip(&mut found) {
                for define in &mut defines {
                    let is_this = define.split_once('=').is_some_and(|(name, _)| name == change.define);
                    if is_this && *define != change.to_string() {
                        *define = change.to_string();
                        *found = true;
                    }
                }
            }
            if defines.iter().ne(launch.kernel.defines) {
                let kernel = self.generation.resized(with_defines(&launch.kernel, &defines))?;
                if kernel.shared_bytes > limits.shared_bytes_per_block {
                    return None;
                }
                launch.block = [kernel.threads, 1, 1];
                launch.shared_bytes = kernel.shared_bytes;
                launch.kernel = kernel;
            }
        }
        let mut all: Vec<Change> = self.changes.iter().chain(changes).cloned().collect();
        all.sort();
        found.iter().all(|found| *found).then(|| Self { changes: all, plan, ..self.clone() })
    }

    /// The candidate with a label: one of these plans, some of its numbers changed.
    pub(super) fn labelled(label: &str, chosen: &Self, others: &[Self], limits: &DeviceLimits) -> Option<Self> {
        let mut words = label.split(' ');
        let kernel = words.next()?;
        let changes: Vec<Change> = words
            .map(|word| {
                let (define, value) = word.split_once('=')?;
                Some(Change { define: define.to_owned(), value: value.to_owned() })
            })
            .collect::<Option<_>>()?;
        let mut plans = std::iter::once(chosen).chain(others).filter(|plan| plan.changes.is_empty());
        let plan = plans.find(|plan| plan.kernel == kernel)?;
        if changes.is_empty() { Some(plan.clone()) } else { plan.changed(&changes, limits) }
    }

    /// `f16_d128` or `f16_d128 TILE_KEYS=32`.
    pub(super) fn label(&self) -> String {
        let changes = self.changes.iter().map(|change| format!(" {change}"));
        std::iter::once(self.kernel.to_owned()).chain(changes).collect()
    }
}

/// The kernel compiled with other definitions. Candidates live as long as the program, as the table's kernels do.
fn with_defines(kernel: &Specialisation, defines: &[String]) -> Specialisation {
    let leak = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
    let name = leak(format!("{}+{}", kernel.name, defines.join("+")));
    let defines: Vec<&'static str> = defines.iter().map(|define| leak(define.clone())).collect();
    Specialisation { name, defines: Box::leak(defines.into_boxed_slice()), ..*kernel }
}

impl Attention for Candidate {
    fn generation(&self) -> &Generation {
        self.generation.generation()
    }

    fn needs(&self) -> Extensions {
        self.generation.needs()
    }

    fn decide(&self, problem: &Problem, limits: &DeviceLimits) -> Result<LaunchPlan, Unsupported> {
        match *problem == self.problem {
            true => Ok(self.plan.clone()),
            // Nobody asks; the generation's own answer is right for every problem.
            false => self.generation.decide(problem, limits),
        }
    }
}

/// Why a candidate is out of the race.
#[derive(Clone, Debug)]
pub(super) struct Rejected {
    /// Which.
    pub(super) label: String,
    /// The compiler's or the judge's words.
    pub(super) reason: String,
}

/// What a candidate's kernels compile to.
type Texts = Vec<(Specialisation, String)>;

/// Compiles what is new about the candidates, side by side, and makes the device run it.
///
/// # Errors
/// [`ToolchainError`]: no compiler where one is needed.
pub(super) fn compile(
    candidates: Vec<Candidate>,
    device: &dyn Device,
    sources: &Sources,
    compiler: &Nvrtc,
    progress: impl Fn() + Sync,
) -> Result<(Vec<Candidate>, Vec<Rejected>), ToolchainError> {
    let compiled: Vec<Result<Texts, ToolchainError>> = candidates
        .par_iter()
        .map(|candidate| {
            let kernels = candidate.plan.launches.iter().map(|launch| launch.kernel);
            let texts = kernels.filter(|_| !candidate.changes.is_empty());
            let texts = texts.map(|kernel| Ok((kernel, compiler.compile(&kernel, sources)?))).collect();
            progress();
            texts
        })
        .collect();
    let (mut ready, mut rejected) = (Vec::new(), Vec::new());
    for (candidate, texts) in candidates.into_iter().zip(compiled) {
        let loaded = texts.map_err(|error| error.to_string()).and_then(|texts| {
            texts
                .iter()
                .try_for_each(|(kernel, text)| device.substitute(kernel, text))
                .map_err(|error| error.to_string())
        });
        match loaded {
            Ok(()) => ready.push(candidate),
            Err(reason) => rejected.push(Rejected { label: candidate.label(), reason }),
        }
    }
    Ok((ready, rejected))
}

/// A candidate and the proof that it is right.
type Proven<'c> = (&'c Candidate, Verified<'c>);

/// Proofs of the candidates that are right, in their order, and the others.
///
/// # Errors
/// The failure after which the device cannot be used any more.
pub(super) fn verify<'c>(
    device: &dyn Device,
    question: &Question,
    candidates: &'c [Candidate],
) -> Result<(Vec<Proven<'c>>, Vec<Rejected>), Box<Failure>> {
    let who: Vec<&dyn Attention> = candidates.iter().map(|candidate| candidate as &dyn Attention).collect();
    let (mut right, mut rejected) = (Vec::new(), Vec::new());
    for (candidate, answer) in candidates.iter().zip(Verified::all(device, &who, question)) {
        match answer {
            Ok(proof) => right.push((candidate, proof)),
            Err(failure) if failure.is_sticky() => return Err(failure),
            Err(failure) => {
                rejected.push(Rejected { label: candidate.label(), reason: failure.reason.to_string() });
            }
        }
    }
    Ok((right, rejected))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(define: &str, value: &str) -> Change {
        Change { define: define.to_owned(), value: value.to_owned() }
    }

    fn of(id: &str, problem: &Problem) -> Candidate {
        let generation = sdpa::generations::find(id).unwrap();
        let plan = generation.plan(problem, &DeviceLimits::H200).unwrap();
        Candidate::of_plan(generation, problem, plan).unwrap()
    }

    #[test]
    fn what_follows_from_a_number_follows() {
        let problem = Problem::new(1, 8, 512, 64).build().unwrap();
        let chosen = of("v2d", &problem);
        let changed = chosen.changed(&[change("TILE_KEYS", "64")], &DeviceLimits::H200).unwrap();
        assert_eq!(changed.label(), format!("{} TILE_KEYS=64", chosen.kernel));
        let launch = &changed.plan.launches[0];
        assert!(launch.kernel.defines.contains(&"TILE_KEYS=64"), "{:?}", launch.kernel.defines);
        assert!(launch.shared_bytes < chosen.plan.launches[0].shared_bytes);
        assert_eq!(changed.plan(&problem, &DeviceLimits::H200).unwrap(), changed.plan);
    }

    #[test]
    fn a_label_reads_back() {
        let problem = Problem::new(1, 8, 512, 64).build().unwrap();
        let chosen = of("v2d", &problem);
        let changed = chosen.changed(&[change("TILE_KEYS", "64")], &DeviceLimits::H200).unwrap();
        let labelled = |label: &str| Candidate::labelled(label, &chosen, &[], &DeviceLimits::H200);
        assert_eq!(labelled(&changed.label()).unwrap().plan, changed.plan);
        assert_eq!(labelled(&chosen.label()).unwrap().plan, chosen.plan);
        assert!(labelled("f16_d96").is_none() && labelled("f16_d64_m64 TILE_KEYS").is_none());
    }

    #[test]
    fn numbers_that_change_nothing_or_do_not_fit_are_no_candidates() {
        let problem = Problem::new(1, 8, 512, 64).build().unwrap();
        let changed = |define, value| of("v2d", &problem).changed(&[change(define, value)], &DeviceLimits::H200);
        assert!(changed("TILE_KEYS", "128").is_none(), "as it is");
        assert!(changed("KEYS", "64").is_none(), "no such number");
        assert!(changed("TILE_KEYS", "512").is_none(), "too large");
    }
}
