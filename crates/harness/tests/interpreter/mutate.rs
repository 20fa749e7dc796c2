use harness::check::{check, trials};
use harness::first_runs::FirstRuns;
use harness::mutate::{Choice, MutationKind, Options, Score, mutate};
use sdpa::generations;
use sdpa_toolchain::KernelTexts;

const ORDER: [MutationKind; 6] = [
    MutationKind::Barrier,
    MutationKind::WarpSync,
    MutationKind::CopyWait,
    MutationKind::WeakerCopyWait,
    MutationKind::Commit,
    MutationKind::Fence,
];

fn score(id: &str, kernel: &str, kinds: &[MutationKind]) -> Score {
    let generation = generations::find(id).expect("a generation");
    let kernel = generation.generation().specialisations.iter().find(|built| built.name == kernel).expect("is built");
    let options = Options { kinds: kinds.to_vec(), ..Options::default() };
    mutate(generation, kernel, &options, &KernelTexts::packed(), &FirstRuns::default(), |_| ()).expect("runs")
}

/// `kernels/v2c.cu:126` for each survivor: the first line of its origin that is the kernel's own.
fn survivors(score: &Score) -> Vec<String> {
    let own = |file: &str| !file.contains("/machine/");
    let place = |origin: &harness::mutate::Origin| {
        let places = std::iter::once((&origin.file, origin.line));
        let callers = origin.callers.iter().map(|(file, line)| (file, *line));
        places.chain(callers).find(|(file, _)| own(file)).map(|(file, line)| format!("{file}:{line}"))
    };
    score.survivors().map(|mutation| mutation.origin.as_ref().and_then(place).expect("has a line")).collect()
}

/// Nothing of what orders v2b's threads can go unnoticed.
#[test]
fn everything_that_orders_v2b_is_needed() {
    for kernel in ["f16_d64_s2", "f16_d64_s3"] {
        let score = score("v2b", kernel, &ORDER);
        assert!(score.mutants.len() >= 6, "{score:?}");
        assert_eq!(survivors(&score), [] as [String; 0], "{kernel}");
    }
}

#[test]
fn a_limit_spreads_over_the_kernel() {
    let generation = generations::find("v2c").expect("a generation");
    let options = Options { kinds: vec![MutationKind::CopyGuard], choice: Choice::Spread(3), ..Options::default() };
    let kernel = &generation.generation().specialisations[0];
    let score = |first_runs: &FirstRuns| {
        mutate(generation, kernel, &options, &KernelTexts::packed(), first_runs, |_| ()).expect("runs")
    };
    let alone = score(&FirstRuns::default());
    assert_eq!((alone.mutants.len(), alone.killed()), (3, 3), "{alone:?}");

    // What a check ran is not run again, and says the same.
    let takes = |trial: &harness::check::Trial| trial.kernels(generation).is_ok_and(|taken| taken.contains(kernel));
    let trials: Vec<_> = trials(generation).into_iter().filter(takes).collect();
    let checked = check(generation, &trials, 1, &KernelTexts::packed(), || ()).expect("runs");
    let known = checked.first_runs.len();
    assert_eq!(known, trials.len());
    let after = score(&checked.first_runs);
    assert_eq!(checked.first_runs.len(), known);
    let told = |score: &Score| score.mutants.iter().map(|mutant| mutant.killed.clone()).collect::<Vec<_>>();
    assert_eq!(told(&after), told(&alone));
}
