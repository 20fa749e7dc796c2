//! Would the harness notice if a kernel computed or ordered otherwise? A sample says how often.

use std::time::Duration;

use harness::first_runs::FirstRuns;
use harness::mutate::{self, Choice, MutationKind, Options, Score};
use sdpa_core::Attention;
use sdpa_toolchain::KernelTexts;

use super::steps::{Outcome, Progress};
use super::unnoticed;

/// Of mutations that change something, so many must be noticed.
const NOTICED: f64 = 0.95;

/// A sample of changes to the generation's [representative kernels](mutate::representative), drawn by a seed, as far as the
/// time goes.
pub fn mutation(
    generation: &'static dyn Attention,
    count: usize,
    seed: u64,
    time_limit: Duration,
    texts: &KernelTexts,
    first_runs: &FirstRuns,
    progress: Progress<'_>,
) -> Outcome {
    let who = generation.generation();
    let kernels = mutate::representative(generation);
    let options = Options {
        kinds: MutationKind::CHANGES.to_vec(),
        choice: Choice::Sample { count: count.div_ceil(kernels.len().max(1)), seed },
        time_limit: Some(time_limit / kernels.len().max(1) as u32),
        ptxas: None,
        like: None,
    };
    let mut scores = Vec::new();
    for kernel in &kernels {
        let done = std::sync::atomic::AtomicUsize::new(0);
        let score = mutate::mutate(generation, kernel, &options, texts, first_runs, |step| {
            if step == mutate::Step::Done {
                let done = done.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
                progress(format!("{done} of {count} changes to {kernel}, seed {seed}"));
            }
        });
        match score {
            Ok(score) => scores.push(score),
            Err(error) => return Outcome::not_run(&format!("the interpreter cannot judge mutations: {error}")),
        }
    }
    judge(who.id, &scores, seed)
}

/// The same, each change of the sample tried whatever time it takes, so that two runs say the same.
pub fn mutation_of(
    generation: &'static dyn Attention,
    count: usize,
    seed: u64,
    texts: &KernelTexts,
    first_runs: &FirstRuns,
    progress: Progress<'_>,
) -> Outcome {
    mutation(generation, count, seed, Duration::MAX, texts, first_runs, progress)
}

/// How many of `total` may go unnoticed: the share that may, and two standard deviations of what a sample finds of it.
fn allowed(total: usize) -> usize {
    let (total, missed) = (total as f64, 1.0 - NOTICED);
    (total * missed + 2.0 * (total * missed * NOTICED).sqrt()).floor() as usize
}

fn judge(id: &str, scores: &[Score], seed: u64) -> Outcome {
    let killed: usize = scores.iter().map(Score::killed).sum();
    let total: usize = scores.iter().map(Score::total).sum();
    let equivalent: usize = scores.iter().map(Score::equivalent).sum();
    let possible: usize = scores.iter().map(|score| score.possible).sum();
    let mut text = format!(
        "{killed} of {total} changes noticed, {equivalent} more change nothing (of {possible} possible ones, drawn by seed {seed})"
    );
    for mutation in scores.iter().flat_map(Score::survivors) {
        let at =
            mutation.origin.as_ref().map_or_else(|| format!("PTX line {}", mutation.ptx_line), ToString::to_string);
        text += &format!("\nnot noticed: {at}: {}", mutation.kind.name());
        for line in unnoticed::source_lines(mutation).iter().chain([&mutation.statement]) {
            text += &format!("\n    {line}");
        }
    }
    if total == 0 {
        return Outcome::not_run("the time was over before a single change was tried");
    }
    if total - killed <= allowed(total) {
        return Outcome::passed(&text);
    }
    let look_at = format!(
        "each statement named: no trial needs it (crates/harness/src/check/trials.rs), or it changes nothing, for a reason \
         that belongs into crates/harness/src/mutate/equivalent.txt; sdpa mutate {id} --seed {seed} tells more"
    );
    Outcome::failed(&text, &look_at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::Status;
    use harness::mutate::{Kill, Mutant, mutations};

    fn score(killed: usize, survived: usize) -> Score {
        let ptx = format!(".entry k() {{\n{}ret; }}", "add.s32 %r1, %r1, %r2;\n".repeat(killed + survived));
        let kind = |mutation: &mutate::Mutation| mutation.kind == MutationKind::Sign;
        let mutants = mutations(&ptx).into_iter().filter(kind).enumerate().map(|(index, mutation)| Mutant {
            mutation,
            killed: (index < killed).then(|| Kill { by: "a wrong result".to_owned(), case: "L1".to_owned() }),
            equivalent: None,
        });
        Score { kernel: "v9/f16".to_owned(), fingerprint: String::new(), possible: 500, mutants: mutants.collect() }
    }

    #[test]
    fn more_than_a_twentieth_may_not_go_unnoticed() {
        let status = |killed, survived| judge("v9", &[score(killed, survived)], 7).status;
        assert_eq!(
            [status(24, 0), status(23, 1), status(21, 3), status(18, 6)].map(|status| status == Status::Passed),
            [true, true, true, false]
        );
        assert_eq!(status(0, 0), Status::NotRun);
        let text = judge("v9", &[score(1, 9)], 7);
        assert!(
            text.detail.contains("seed 7") && text.detail.contains("PTX line 3: sum and difference exchanged"),
            "{text:?}"
        );
    }
}
