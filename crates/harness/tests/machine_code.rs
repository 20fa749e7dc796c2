//! On a GPU, machine code gives the bits that the PTX gives which the driver compiles. Without one these tests are ignored,
//! and say why.

use std::collections::BTreeSet;
use std::process::ExitCode;

use harness::check::trials;
use harness::execute::{Output, Surroundings, execute};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use sdpa::generations;
use sdpa_core::{Attention, Cuda, Device as _, DeviceChoice, DeviceKind, PackedCode, driver_present};
use sdpa_toolchain::{Checkout, CodePack, Pack};

fn main() -> ExitCode {
    let generations = generations::ALL.iter().map(|generation| {
        let name = format!("{}_gives_the_bits_of_its_ptx", generation.generation().id);
        Trial::ignorable_test(name, || run(*generation))
    });
    libtest_mimic::run(&Arguments::from_args(), generations.collect()).exit_code()
}

fn run(generation: &'static dyn Attention) -> Result<Completion, Failed> {
    let choice = DeviceChoice::from_env().map_err(|error| error.to_string())?;
    match choice.expected_kind() {
        DeviceKind::Cuda => compare(generation).map(|()| Completion::Completed),
        DeviceKind::Interpreter if driver_present() => {
            Ok(Completion::ignored_with("SDPA_DEVICE asks for the interpreter"))
        }
        DeviceKind::Interpreter => Ok(Completion::ignored_with("there is no GPU")),
    }
}

/// Runs every trial of the generation with both, on one device.
fn compare(generation: &'static dyn Attention) -> Result<(), Failed> {
    let who = generation.generation();
    let device = Cuda::new(0)?;
    let capability = device.limits().compute_capability;
    let checkout = Checkout::find()?;
    let mut codes = Vec::new();
    for pack in CodePack::of(&Pack::of(who)) {
        if PackedCode::new(pack.architecture, &[]).runs_on(capability) {
            codes.extend(PackedCode::decode(&std::fs::read(checkout.root().join(&pack.path))?)?);
        }
    }
    let kernels: Vec<_> = who.specialisations.iter().filter(|kernel| kernel.architecture.runs_on(capability)).collect();
    if kernels.len() != codes.len() {
        return Err(format!("{} kernels run here, and machine code is there for {}", kernels.len(), codes.len()).into());
    }
    let trials: Vec<_> = trials(generation).into_iter().filter(|trial| !trial.is_far()).collect();
    let run_all = || {
        let outputs = trials.iter().map(|trial| {
            let (problem, data) = (&trial.case.problem, trial.case.data());
            execute(&device, &trial.subject(generation), problem, &data, Surroundings::Exact)
        });
        outputs.collect::<Result<Vec<Output>, _>>()
    };
    for kernel in &kernels {
        device.substitute(kernel, kernel.packed_ptx()?)?;
    }
    let by_ptx = run_all()?;
    for kernel in &kernels {
        let name = kernel.packed_name();
        let code = codes.iter().find(|code| code.kernel == name).ok_or(format!("{name} has no machine code"))?;
        device.substitute_code(kernel, &code.image)?;
    }
    let by_code = run_all()?;
    // Bits, since a number that is none is unequal to itself.
    let bits = |output: &Output| (output.out.clone(), output.lse.iter().map(|sum| sum.to_bits()).collect::<Vec<_>>());
    for (trial, (ptx, code)) in trials.iter().zip(by_ptx.iter().zip(&by_code)) {
        if bits(ptx) != bits(code) {
            return Err(format!("machine code gives other bits than the PTX: {trial}").into());
        }
    }
    let mut ran = BTreeSet::new();
    for trial in &trials {
        ran.extend(trial.kernels(generation)?.iter().map(ToString::to_string));
    }
    let left: Vec<_> = kernels.iter().map(ToString::to_string).filter(|kernel| !ran.contains(kernel)).collect();
    match left.as_slice() {
        [] => Ok(()),
        left => Err(format!("no trial runs {}", left.join(", ")).into()),
    }
}
