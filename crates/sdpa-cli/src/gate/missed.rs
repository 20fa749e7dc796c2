//! Would the harness notice if a barrier or a wait were missing?

use sdpa_core::{Attention, DeviceKind};
use sdpa_toolchain::KernelTexts;

use super::steps::{Outcome, Progress};
use super::unnoticed;
use harness::mutants;
use harness::mutate::{self, Choice, Mutation, MutationKind, Score};
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

/// The harness would notice: hand-written mutants of this generation, and its own PTX with what orders or guards taken
/// out.
pub fn mutants(
    generation: &'static dyn Attention,
    guards: usize,
    texts: &KernelTexts,
    progress: Progress<'_>,
) -> Outcome {
    let who = generation.generation();
    let mut rejected = 0;
    for mutant in mutants::ALL.iter().filter(|mutant| mutant.generation().parent == Some(who.id)) {
        let name = mutant.generation().id;
        progress(format!("mutant {name}"));
        match is_rejected(mutant, texts) {
            Ok(true) => rejected += 1,
            Ok(false) => {
                return Outcome::failed(
                    &format!("{name} passes as right, although {}", mutant.fault),
                    "the cases that should show it: crates/harness/src/mutants/mod.rs",
                );
            }
            Err(failure) => {
                return Outcome::not_run(&format!("the interpreter cannot judge {name}: {}", failure.reason));
            }
        }
    }
    let Some(kernel) = who.specialisations.first() else { return Outcome::not_run("it has no kernel") };
    let is_guard = |kind: &MutationKind| matches!(kind, MutationKind::Guard | MutationKind::CopyGuard);
    let (guard_kinds, order_kinds): (Vec<_>, Vec<_>) = MutationKind::REMOVALS.into_iter().partition(is_guard);
    let mut scores = Vec::new();
    for (kinds, choice) in [(order_kinds, Choice::All), (guard_kinds, Choice::Spread(guards))] {
        let (total, done) = (std::sync::atomic::AtomicUsize::new(0), std::sync::atomic::AtomicUsize::new(0));
        let order = std::sync::atomic::Ordering::Relaxed;
        let options = mutate::Options { kinds, choice, ..mutate::Options::default() };
        let score = mutate::mutate(generation, kernel, &options, texts, |step| match step {
            mutate::Step::Mutations(count) => total.store(count, order),
            mutate::Step::Done => {
                let done = done.fetch_add(1, order) + 1;
                progress(format!("{done} of {} mutations of {kernel}", total.load(order)));
            }
        });
        match score {
            Ok(score) => scores.push(score),
            Err(error) => return Outcome::not_run(&format!("the interpreter cannot judge mutations: {error}")),
        }
    }
    judge_mutations(who.id, kernel.source, rejected, &scores[0], &scores[1])
}

/// What the scores of one kernel say: of what orders, and of what guards. Wherever the source orders something, somebody
/// must notice its absence, or a reason must be on the list. Guards may only save work, and survivors among them are
/// counted and not held against the kernel.
fn judge_mutations(id: &str, source: &str, rejected: usize, order: &Score, guards: &Score) -> Outcome {
    let places = places(order, source);
    let unnoticed: Vec<&Mutation> = places.iter().filter(|place| !place.noticed).map(|place| place.example).collect();
    let (explained, unexplained): (Vec<&Mutation>, Vec<&Mutation>) =
        unnoticed.iter().partition(|mutation| unnoticed::reason(id, mutation).is_some());
    let mut text = format!(
        "{}: of {} barriers, waits, fences and arrivals {} are noticed where they are removed, {} have a reason to stay; {} of \
         {} guards are noticed",
        order.kernel,
        places.len(),
        places.len() - unnoticed.len(),
        explained.len(),
        guards.killed(),
        guards.mutants.len()
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
         nobody can notice belongs into crates/sdpa-cli/src/gate/unnoticed.txt; sdpa mutate {id} tells more"
    );
    Outcome::failed(&text, &look_at)
}

fn location(mutation: &Mutation) -> String {
    mutation.origin.as_ref().map_or_else(|| format!("PTX line {}", mutation.ptx_line), ToString::to_string)
}

/// A statement of the source that orders something.
struct PlaceOfOrder<'s> {
    example: &'s Mutation,
    /// The absence of one of its copies is noticed.
    noticed: bool,
}

/// Where the source orders something. Unrolling and inlining make many copies of a statement, some of them for cases that
/// are not among the trials; whoever removes the statement removes them all, so one that is noticed suffices.
fn places<'s>(order: &'s Score, source: &str) -> Vec<PlaceOfOrder<'s>> {
    let mut places: Vec<PlaceOfOrder<'s>> = Vec::new();
    for mutant in &order.mutants {
        let (mutation, noticed) = (&mutant.mutation, mutant.killed.is_some());
        let is_same = |other: &Mutation| {
            let statement = statement_of(mutation, source);
            other.kind == mutation.kind && statement.is_some() && statement == statement_of(other, source)
        };
        match places.iter_mut().find(|place| is_same(place.example)) {
            Some(place) => place.noticed |= noticed,
            None => places.push(PlaceOfOrder { example: mutation, noticed }),
        }
    }
    places
}

/// The statement of the kernel's own file that a mutation takes out, and the calls inside of it; all calls where it is of no
/// such file.
fn statement_of<'m>(mutation: &'m Mutation, source: &str) -> Option<Vec<(&'m str, u32)>> {
    let mut calls: Vec<(&str, u32)> = mutation.origin.as_ref()?.chain().collect();
    if let Some(own) = calls.iter().position(|(file, _)| file.strip_prefix("kernels/") == Some(source)) {
        calls.truncate(own + 1);
    }
    Some(calls)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::Status;
    use harness::mutate::{Kill, Mutant, Origin};

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

    #[test]
    fn whatever_orders_must_be_missed_or_have_a_reason() {
        let guards = score(0, 4);
        let judged = |killed, of| judge_mutations("v9", "v9.cu", 2, &score(killed, of), &guards);
        assert_eq!([judged(10, 10).status, judged(9, 10).status], [Status::Passed, Status::Failed]);
        insta::assert_snapshot!(judged(1, 2).detail, @r"
        v9/f16_d64: of 2 barriers, waits, fences and arrivals 1 are noticed where they are removed, 0 have a reason to stay; 0 of 4 guards are noticed; 2 hand-written mutants rejected
        not noticed: PTX line 4: barrier removed
            bar.sync 0
        ");
        // A kernel without a barrier has none to miss.
        assert_eq!(judged(0, 0).status, Status::Passed);
        let mut explained = score(1, 2);
        explained.mutants[1].mutation.statement = "setmaxnreg.dec.sync.aligned.u32 40".to_owned();
        assert_eq!(judge_mutations("v9", "v9.cu", 0, &explained, &guards).status, Status::Passed);
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
        let found: Vec<bool> = places(&copies, "v9.cu").iter().map(|place| place.noticed).collect();
        assert_eq!(found, [true, false, false]);
    }
}
