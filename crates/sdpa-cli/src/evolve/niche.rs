//! The kinds of problems that candidates are bred for.

use harness::case::Case;
use harness::check::Trial;
use sdpa_core::{Attention, DeviceLimits, Extensions, Layout};

/// The usual kinds, by name.
pub const NICHES: [(&str, &str); 4] = [
    ("short", "h8 L512 d64 f16 full normal"),
    ("causal", "b2 h8 L2048 d64 f16 causal normal"),
    ("long", "b2 h8 L2048 d128 f16 full normal"),
    ("decoding", "b16 h32/8 q1 kv4096 d128 bf16 causal normal"),
];

/// A kind of problem: the problem that is timed, and a short one of the same kind for the interpreter.
#[derive(Clone, Debug, PartialEq)]
pub struct Niche {
    /// Its name in the lineage.
    pub name: String,
    /// What is timed on a GPU.
    pub timed: Case,
    /// What the interpreter runs and counts.
    pub counted: Trial,
}

impl Niche {
    /// One of [`NICHES`], by its name.
    ///
    /// # Errors
    /// A name that there is not, with those that there are.
    pub fn named(name: &str, generation: &dyn Attention) -> Result<Self, String> {
        let names = NICHES.map(|(name, _)| name).join(", ");
        let found = NICHES.iter().find(|(known, _)| *known == name);
        let (name, line) = found.ok_or_else(|| format!("no niche `{name}`: there are {names}"))?;
        let case = line.parse().map_err(|error| format!("{line}: {error}"))?;
        Ok(Self::of_case(name, case, generation))
    }

    /// A niche of one case.
    pub fn of_case(name: &str, case: Case, generation: &dyn Attention) -> Self {
        let counted = shortened(&case);
        let kernels = |problem, limits: &DeviceLimits| {
            let plan = generation.plan(problem, limits).ok()?;
            Some(plan.launches.iter().map(|launch| launch.kernel.name).collect::<Vec<_>>())
        };
        let timed = kernels(&case.problem, &DeviceLimits::H200);
        // Planned for a single multiprocessor where that takes the kernels that the whole problem takes.
        let small = DeviceLimits { multiprocessors: 1, ..DeviceLimits::H200 };
        let as_it_is = kernels(&counted.problem, &DeviceLimits::H200);
        let multiprocessors = (as_it_is != timed && kernels(&counted.problem, &small) == timed).then_some(1);
        Self { name: name.to_owned(), timed: case, counted: Trial { multiprocessors, ..Trial::new(counted) } }
    }
}

/// The same kind of problem with so few rows, keys and heads that the interpreter takes a second for it.
fn shortened(case: &Case) -> Case {
    const ROWS: usize = 193;
    const KEYS: usize = 577;
    let problem = &case.problem;
    if problem.extensions() != Extensions::NONE {
        return case.clone();
    }
    let group = problem.heads_q() / problem.heads_kv().max(1);
    let heads_kv = problem.heads_kv().min(2);
    let (len_q, len_kv) = match problem.len_q() == problem.len_kv() {
        true => (problem.len_q().min(ROWS), problem.len_q().min(ROWS)),
        false => (problem.len_q().min(ROWS), problem.len_kv().min(KEYS)),
    };
    let short = sdpa_core::Problem::new(problem.batch().min(1), heads_kv * group, len_q, problem.head_dim())
        .heads_kv(heads_kv)
        .len_kv(len_kv)
        .dtype(problem.dtype())
        .mask(problem.mask())
        .layout(Layout::Bhld);
    match short.build() {
        Ok(problem) => Case { problem, ..case.clone() },
        Err(_) => case.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sdpa::generations;

    #[test]
    fn the_short_problem_takes_the_kernels_of_the_long_one() {
        let v2d = generations::find("v2d").unwrap();
        for (name, multiprocessors) in [("short", None), ("long", Some(1))] {
            let niche = Niche::named(name, v2d).unwrap();
            assert_eq!(niche.counted.multiprocessors, multiprocessors, "{name}");
            let timed = v2d.plan(&niche.timed.problem, &DeviceLimits::H200).unwrap().launches[0].kernel;
            assert_eq!(niche.counted.kernels(v2d).unwrap(), [timed]);
            assert!(niche.counted.case.problem.flops() < 1e8);
        }
        assert!(Niche::named("tiny", v2d).unwrap_err().contains("there are short, causal, long, decoding"));
    }

    #[test]
    fn heads_stay_grouped_as_they_are() {
        let case = shortened(&"b16 h32/8 q1 kv4096 d128 bf16 causal".parse().unwrap());
        assert_eq!(case.problem.to_string(), "b1 h8/2 q1 kv577 d128 bf16 causal");
    }
}
