//! Would the harness notice if a barrier or a wait were missing?

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use sdpa_core::{Attention, DeviceKind, Specialisation};
use sdpa_toolchain::{KernelTexts, ToolchainError, source_text};

use super::steps::{Outcome, Progress};
use super::unnoticed;
use harness::first_runs::FirstRuns;
use harness::mutants;
use harness::mutate::{self, Choice, MutateError, Mutation, MutationKind, Score};
use harness::random::Random;
use harness::verify::{Failure, Thoroughness, verify_thoroughly};

/// On the interpreter, which sees every fault; a GPU's context would not survive some of them.
fn is_rejected(mutant: &mutants::Mutant, texts: &KernelTexts) -> Result<bool, Box<Failure>> {
    let device = texts.interpreter();
    for trial in mutants::trials(DeviceKind::Interpreter) {
        let Err(failure) = verify_thoroughly(&device, &trial.subject(mutant), &trial.case, Thoroughness::default())
        else {
            continue;
        };
        match failure.unsupported() {
            None if failure.is_verdict() => return Ok(true),
            None => return Err(Box::new(failure)),
            Some(_) => {}
        }
    }
    Ok(false)
}

/// Which mutations the step tries.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// How many of the generation's kernels, drawn by the seed; every one if there are no more.
    pub kernels: usize,
    /// Removals of guards, drawn in each of them.
    pub guards: usize,
    /// Decides which are drawn.
    pub seed: u64,
}

/// The harness would notice: hand-written mutants of this generation, and its own PTX with what orders or guards taken
/// out. `texts` are its kernels and those of its mutants, or why they could not be compiled.
pub fn mutants(
    generation: &'static dyn Attention,
    sample: Sample,
    texts: &Result<KernelTexts, ToolchainError>,
    first_runs: &FirstRuns,
    progress: Progress<'_>,
) -> Outcome {
    let (drawn, others) = draw(generation.generation().specialisations, sample);
    mutants_of(generation, &drawn, &others, sample, texts, first_runs, progress)
}

/// The same with kernels of the caller's choice: the drawn ones are tried, and of the others what nothing notices in those.
pub fn mutants_of(
    generation: &'static dyn Attention,
    drawn: &[Specialisation],
    others: &[Specialisation],
    sample: Sample,
    texts: &Result<KernelTexts, ToolchainError>,
    first_runs: &FirstRuns,
    progress: Progress<'_>,
) -> Outcome {
    let who = generation.generation();
    let texts = match texts {
        Ok(texts) => texts,
        Err(ToolchainError::Compile { kernel, log }) => {
            return Outcome::failed(
                &format!("NVRTC refuses {kernel}, a mutant that includes this kernel\n{}", log.trim()),
                "kernels/mutants: a mutant redefines a name that its parent must go on using",
            );
        }
        Err(error) => return Outcome::not_run(&format!("its mutants could not be compiled: {error}")),
    };
    let rejected = match reject_mutants(who.id, texts, progress) {
        Ok(rejected) => rejected,
        Err(outcome) => return outcome,
    };
    if drawn.is_empty() {
        return Outcome::not_run("it has no kernel");
    }
    let try_out = |kernel: &Specialisation, options: &mutate::Options| {
        let (total, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        mutate::mutate(generation, kernel, options, texts, first_runs, |step| match step {
            mutate::Step::Mutations(count) => total.store(count, Relaxed),
            mutate::Step::Done => {
                let done = done.fetch_add(1, Relaxed) + 1;
                progress(format!("{done} of {} mutations of {kernel}", total.load(Relaxed)));
            }
        })
    };
    match judge_kernels(drawn, others, sample, try_out) {
        Ok(judged) => judge_mutations(who.id, &judged, rejected, &how_drawn(drawn, others, sample.seed)),
        Err(error) => Outcome::not_run(&format!("the interpreter cannot judge mutations: {error}")),
    }
}

/// How many hand-written mutants of a generation there are, all of which are rejected.
fn reject_mutants(id: &str, texts: &KernelTexts, progress: Progress<'_>) -> Result<usize, Outcome> {
    let mut rejected = 0;
    for mutant in mutants::ALL.iter().filter(|mutant| mutant.generation().parent == Some(id)) {
        let name = mutant.generation().id;
        progress(format!("mutant {name}"));
        match is_rejected(mutant, texts) {
            Ok(true) => rejected += 1,
            Ok(false) => {
                return Err(Outcome::failed(
                    &format!("{name} passes as right, although {}", mutant.fault),
                    "the cases that should show it: crates/harness/src/mutants/mod.rs",
                ));
            }
            Err(failure) => {
                let reason = format!("the interpreter cannot judge {name}: {}", failure.reason);
                return Err(Outcome::not_run(&reason));
            }
        }
    }
    Ok(rejected)
}

/// Draws kernels, and says which were left out.
fn draw(kernels: &[Specialisation], sample: Sample) -> (Vec<Specialisation>, Vec<Specialisation>) {
    let mut drawn = kernels.to_vec();
    let mut random = Random::new(sample.seed, &[]);
    // Fisher and Yates, as far as it is needed.
    for index in 0..sample.kernels.min(drawn.len()) {
        let other = index + random.below(drawn.len() - index);
        drawn.swap(index, other);
    }
    let others = drawn.split_off(sample.kernels.min(drawn.len()));
    (drawn, others)
}

fn how_drawn(drawn: &[Specialisation], others: &[Specialisation], seed: u64) -> String {
    let names: Vec<String> = drawn.iter().map(ToString::to_string).collect();
    match others.len() {
        0 => format!("all {} kernels", drawn.len()),
        left => format!("{} (drawn of {} by seed {seed})", names.join(", "), drawn.len() + left),
    }
}

/// What came of a generation's mutations.
struct Judged {
    /// Each statement of the source that orders something, and whether its absence is noticed in some kernel.
    places: Vec<PlaceOfOrder>,
    guards: usize,
    guards_noticed: usize,
}

/// Tries the mutations of the drawn kernels. What is noticed in none of them is tried in the others, too: a statement that one
/// kernel needs stays in all.
fn judge_kernels(
    drawn: &[Specialisation],
    others: &[Specialisation],
    sample: Sample,
    try_out: impl Fn(&Specialisation, &mutate::Options) -> Result<Score, MutateError>,
) -> Result<Judged, MutateError> {
    let is_guard = |kind: &MutationKind| matches!(kind, MutationKind::Guard | MutationKind::CopyGuard);
    let (guard_kinds, order_kinds): (Vec<_>, Vec<_>) = MutationKind::REMOVALS.into_iter().partition(is_guard);
    let of_order = mutate::Options { kinds: order_kinds, ..mutate::Options::default() };
    // A guard that nothing notices is tried on every trial, so few of them are drawn, and others in every run.
    let choice = Choice::Sample { count: sample.guards, seed: sample.seed };
    let of_guards = mutate::Options { kinds: guard_kinds, choice, ..mutate::Options::default() };
    let mut judged = Judged { places: Vec::new(), guards: 0, guards_noticed: 0 };
    for kernel in drawn {
        add_places(&mut judged.places, &try_out(kernel, &of_order)?, kernel.source);
        let score = try_out(kernel, &of_guards)?;
        judged.guards += score.mutants.len();
        judged.guards_noticed += score.killed();
    }
    for kernel in others {
        let open: Vec<Mutation> =
            judged.places.iter().filter(|place| place.is_open()).map(|place| place.example.clone()).collect();
        if open.is_empty() {
            break;
        }
        let like = mutate::Options { like: Some(open), ..of_order.clone() };
        add_places(&mut judged.places, &try_out(kernel, &like)?, kernel.source);
    }
    Ok(judged)
}

/// What the scores of a generation's kernels say: of what orders, and of what guards. Wherever the source orders something,
/// some case must notice its absence, or a reason must stand beside it. Guards may only save work, and survivors among them
/// are counted and not held against the kernel.
fn judge_mutations(id: &str, judged: &Judged, rejected: usize, kernels: &str) -> Outcome {
    let unexplained: Vec<&Mutation> =
        judged.places.iter().filter(|place| place.is_open()).map(|place| &place.example).collect();
    let explained = judged.places.iter().filter(|place| !place.noticed && !place.is_open()).count();
    let mut text = format!(
        "{kernels}: of {} barriers, waits, fences and arrivals {} are noticed where they are removed, {explained} have a reason to \
         stay; {} of {} guards are noticed",
        judged.places.len(),
        judged.places.iter().filter(|place| place.noticed).count(),
        judged.guards_noticed,
        judged.guards,
    );
    if rejected > 0 {
        text += &format!("; {rejected} hand-written mutants rejected");
    }
    for mutation in &unexplained {
        text += &format!("\nnot noticed: {}: {}", location(mutation), mutation.kind.name());
        for line in unnoticed::source_lines(mutation).iter().chain([&mutation.statement]) {
            text += &format!("\n    {line}");
        }
    }
    if unexplained.is_empty() {
        return Outcome::passed(&text);
    }
    let look_at = format!(
        "each statement named: it is not needed, or no case needs it (crates/harness/src/check/trials.rs), or the reason why \
         nothing can notice belongs above it: `// UNNOTICED: reason`; sdpa mutate {id} tells more"
    );
    Outcome::failed(&text, &look_at)
}

fn location(mutation: &Mutation) -> String {
    mutation.origin.as_ref().map_or_else(|| format!("PTX line {}", mutation.ptx_line), ToString::to_string)
}

/// A statement of the source that orders something.
struct PlaceOfOrder {
    example: Mutation,
    /// The absence of one of its copies is noticed.
    noticed: bool,
}

impl PlaceOfOrder {
    /// Neither noticed nor excused.
    fn is_open(&self) -> bool {
        !self.noticed && unnoticed::reason(&self.example, source_text).is_none()
    }
}

/// Adds where the source orders something. Unrolling and inlining make many copies of a statement, some of them for cases that
/// are not among the trials; whoever removes the statement removes them all, so one that is noticed suffices.
fn add_places(places: &mut Vec<PlaceOfOrder>, order: &Score, source: &str) {
    for mutant in &order.mutants {
        let (mutation, noticed) = (&mutant.mutation, mutant.killed.is_some());
        match places.iter_mut().find(|place| mutation.is_like(&place.example, source)) {
            Some(place) => place.noticed |= noticed,
            None => places.push(PlaceOfOrder { example: mutation.clone(), noticed }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::Status;
    use std::collections::BTreeSet;

    use harness::mutate::{Kill, Mutant, Origin};
    use sdpa_core::{Architecture, PackedPtx};

    /// `total` barriers, each on a line of its own, of which some are noticed.
    fn score(killed: usize, total: usize) -> Score {
        let ptx = "bar.sync 0;\n".repeat(total);
        let mutants = mutate::mutations(&format!(".visible .entry attention()\n{{\n{ptx}ret;\n}}\n")).into_iter();
        let mutants = mutants.enumerate().map(|(index, mutation)| mutant(mutation, index < killed));
        Score {
            kernel: "v9/f16_d64".to_owned(),
            fingerprint: String::new(),
            possible: total,
            mutants: mutants.collect(),
        }
    }

    fn mutant(mutation: Mutation, is_killed: bool) -> Mutant {
        let kill = || Kill { by: "race".to_owned(), case: "L1".to_owned() };
        Mutant { mutation, killed: is_killed.then(kill), equivalent: None }
    }

    /// What is said of one kernel, whose four guards nothing notices.
    fn judge(order: &Score) -> Outcome {
        let mut judged = Judged { places: Vec::new(), guards: 4, guards_noticed: 0 };
        add_places(&mut judged.places, order, "v9.cu");
        judge_mutations("v9", &judged, 2, "v9/f16_d64 (drawn of 3 by seed 7)")
    }

    #[test]
    fn whatever_orders_must_be_missed_or_have_a_reason() {
        let judged = |killed, of| judge(&score(killed, of));
        assert_eq!([judged(10, 10).status, judged(9, 10).status], [Status::Passed, Status::Failed]);
        insta::assert_snapshot!(judged(1, 2).detail, @r"
        v9/f16_d64 (drawn of 3 by seed 7): of 2 barriers, waits, fences and arrivals 1 are noticed where they are removed, 0 have a reason to stay; 0 of 4 guards are noticed; 2 hand-written mutants rejected
        not noticed: PTX line 4: barrier removed
            bar.sync 0
        ");
        // A kernel without a barrier has none to miss.
        assert_eq!(judged(0, 0).status, Status::Passed);
    }

    #[test]
    fn a_reason_beside_the_statement_excuses_it() {
        let mut explained = score(1, 2);
        let file = "kernels/machine/warpgroup.cuh";
        let lines = source_text(file).expect("the vocabulary is there").lines();
        let line =
            lines.enumerate().find(|(_, line)| line.contains("setmaxnreg.dec")).expect("it gives registers back").0;
        let at = |line| Some(Origin { file: file.to_owned(), line, callers: vec![("kernels/v9.cu".to_owned(), 7)] });
        explained.mutants[1].mutation.origin = at(line as u32 + 1);
        assert_eq!(judge(&explained).status, Status::Passed);
        // The template's line two above is none of the statement's.
        explained.mutants[1].mutation.origin = at(line as u32 - 1);
        assert_eq!(judge(&explained).status, Status::Failed);
    }

    #[test]
    fn copies_of_a_statement_are_one() {
        let mut copies = score(1, 4);
        let at = |line, callers: &[(&str, u32)]| Origin {
            file: "kernels/machine/warp.cuh".to_owned(),
            line,
            callers: callers.iter().map(|(file, line)| ((*file).to_owned(), *line)).collect(),
        };
        let origins = [
            // One lambda, called twice.
            at(7, &[("kernels/v9.cu", 30), ("kernels/v9.cu", 50)]),
            at(7, &[("kernels/v9.cu", 30), ("kernels/v9.cu", 52)]),
            // The same helper, called elsewhere.
            at(7, &[("kernels/v9.cu", 31), ("kernels/v9.cu", 50)]),
            at(7, &[("kernels/machine/loop.cuh", 3), ("kernels/v9.cu", 30)]),
        ];
        for (mutant, origin) in copies.mutants.iter_mut().zip(origins) {
            mutant.mutation.origin = Some(origin);
        }
        let mut found = Vec::new();
        add_places(&mut found, &copies, "v9.cu");
        assert_eq!(found.iter().map(|place| place.noticed).collect::<Vec<_>>(), [true, false, false]);
    }

    static PTX: PackedPtx = PackedPtx::new("v9", &[]);

    fn kernels(names: &[&'static str]) -> Vec<Specialisation> {
        let kernel = |name| Specialisation {
            source: "v9.cu",
            ptx: &PTX,
            name,
            architecture: Architecture::Compute80,
            defines: &[],
            threads: 32,
            shared_bytes: 0,
            boxes: None,
        };
        names.iter().map(|name| kernel(name)).collect()
    }

    #[test]
    fn kernels_are_drawn_anew_by_every_seed_and_the_same_by_the_same() {
        let kernels = kernels(&["a", "b", "c", "d"]);
        let names = |sample| {
            let (drawn, others) = draw(&kernels, sample);
            assert_eq!(drawn.len() + others.len(), kernels.len());
            drawn.iter().map(|kernel| kernel.name).collect::<Vec<_>>()
        };
        let sample = |kernels, seed| Sample { kernels, guards: 0, seed };
        assert_eq!(names(sample(2, 5)), names(sample(2, 5)));
        let first: BTreeSet<&str> = (0..32).map(|seed| names(sample(1, seed))[0]).collect();
        assert_eq!(first.len(), kernels.len(), "each can be drawn");
        let mut all = names(sample(usize::MAX, 3));
        all.sort_unstable();
        assert_eq!(all, ["a", "b", "c", "d"]);
    }

    #[test]
    fn what_one_kernel_needs_stays_in_all() {
        let kernels = kernels(&["a", "b"]);
        let at = |line| Origin { file: "kernels/v9.cu".to_owned(), line, callers: Vec::new() };
        // Two barriers; kernel `a` notices the first alone, kernel `b` the second, if it is asked for it.
        let try_out = |needed: bool| {
            move |kernel: &Specialisation, options: &mutate::Options| {
                let mut score = score(0, 2);
                for (index, mutant) in score.mutants.iter_mut().enumerate() {
                    mutant.mutation.origin = Some(at(10 + index as u32));
                    let is_killed = if kernel.name == "a" { index == 0 } else { index == 1 && needed };
                    mutant.killed = is_killed.then(|| Kill { by: "race".to_owned(), case: "L1".to_owned() });
                }
                if let Some(like) = &options.like {
                    score.mutants.retain(|mutant| like.iter().any(|other| mutant.mutation.is_like(other, "v9.cu")));
                    assert_eq!(score.mutants.len(), 1, "the first is noticed already");
                }
                Ok(score)
            }
        };
        let open = |needed, others: &[Specialisation]| {
            let judged =
                judge_kernels(&kernels[..1], others, Sample { kernels: 1, guards: 0, seed: 1 }, try_out(needed))
                    .unwrap();
            judged.places.iter().filter(|place| place.is_open()).count()
        };
        assert_eq!([open(true, &kernels[1..]), open(false, &kernels[1..]), open(true, &[])], [0, 1, 1]);
    }
}
