//! Mutations of a kernel that belongs to no generation, and so has neither plans nor trials: its own test says what notices.

use std::collections::BTreeSet;

use rayon::prelude::*;
use sdpa_core::{Device as _, Error, Interpreter, Specialisation};
use sdpa_toolchain::KernelTexts;

use super::equivalent::{is_dead, listed};
use super::evaluate::is_same_for_all;
use super::{Choice, Kill, Mutant, Mutation, Score, mutations};

/// Tries mutations of a kernel's packed PTX. `test` runs the kernel on a device and says what is wrong with the result.
///
/// # Errors
/// What the kernel as it is does wrong, and errors of the device that are no finding.
pub fn mutate_alone(
    kernel: &Specialisation,
    choice: Choice,
    test: impl Fn(&Interpreter) -> Result<Result<(), String>, Error> + Sync,
) -> Result<Score, String> {
    let texts = KernelTexts::packed();
    let ptx = texts.of(kernel).map_err(|error| error.to_string())?;
    let fingerprint = texts.fingerprint(kernel).map_err(|error| error.to_string())?;
    let device = Interpreter::new();
    device.cover(true);
    test(&device).map_err(|error| error.to_string())??;
    let reports = device.take_reports();
    let most = reports.counters.total_warp_instructions().max(10_000);
    let executed = reports.coverage.iter().filter(|executed| executed.kernel == *kernel);
    let lines: BTreeSet<usize> =
        executed.flat_map(|executed| executed.coverage.executed_lines()).map(|line| line as usize).collect();
    let all = mutations(ptx);
    let possible = all.len();
    let chosen = choice.of(all);
    let device = || {
        let device = Interpreter::new();
        device.limit_instructions(most);
        device
    };
    // One device for many, which has compiled the other kernels.
    let judged =
        chosen.par_iter().map_init(device, |device, mutation| judge(device, kernel, ptx, mutation, &lines, &test));
    let mutants = judged.collect::<Result<Vec<_>, String>>()?;
    Ok(Score { kernel: kernel.to_string(), fingerprint, possible, mutants })
}

fn judge(
    device: &Interpreter,
    kernel: &Specialisation,
    ptx: &str,
    mutation: &Mutation,
    executed: &BTreeSet<usize>,
    test: &impl Fn(&Interpreter) -> Result<Result<(), String>, Error>,
) -> Result<Mutant, String> {
    let mutant = |killed: Option<String>, equivalent: Option<&str>| {
        let killed = killed.map(|by| Kill { by, case: "its own test".to_owned() });
        Ok(Mutant { mutation: mutation.clone(), killed, equivalent: equivalent.map(str::to_owned) })
    };
    if is_dead(mutation, ptx) {
        return mutant(None, Some("nothing reads what the statement writes"));
    }
    let outcome = device.substitute(kernel, &mutation.apply(ptx)).and_then(|()| test(device));
    drop(device.take_reports());
    match outcome {
        Err(Error::Load { .. }) => return mutant(None, Some("no valid PTX")),
        Err(Error::Findings { .. } | Error::Sticky { .. }) => return mutant(Some("a finding".to_owned()), None),
        Err(error) => return Err(format!("{mutation:?}: {error}")),
        Ok(Err(_)) => return mutant(Some("a wrong result".to_owned()), None),
        Ok(Ok(())) => {}
    }
    if let Some(reason) = listed(mutation, executed.contains(&mutation.ptx_line)) {
        return mutant(None, Some(reason));
    }
    if is_same_for_all(mutation, ptx, kernel.threads) {
        return mutant(None, Some("the same value for every thread and head dimension"));
    }
    mutant(None, None)
}
