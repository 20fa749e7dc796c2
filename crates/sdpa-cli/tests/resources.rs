//! Holds what the kernels cost to a committed record, which may only improve. Without ptxas these tests are ignored, and say
//! why; `SDPA_REQUIRE_PTXAS=1` makes them fail instead.

use std::path::Path;
use std::process::ExitCode;

use harness::mutants;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use sdpa::generations;
use sdpa_cli::cost_table::render_costs;
use sdpa_cli::packs;
use sdpa_core::{Attention, Specialisation};
use sdpa_toolchain::resources::{self, Cost, KernelSet};
use sdpa_toolchain::sass::{Comparison, MachineCode};
use sdpa_toolchain::{Checkout, KernelTexts, accepted, find_tool};

/// Where ptxas must be there, because nobody else would notice that this test did not run.
const REQUIRE: &str = "SDPA_REQUIRE_PTXAS";

fn main() -> ExitCode {
    let sets = generations::ALL.iter().map(|generation| generation.generation().into()).chain(packs::OTHERS);
    let costs = sets.map(|who| (format!("{}_costs_no_more_than_accepted", who.id), Test::Costs(who)));
    let others: [(&str, Plain); 3] = [
        ("products_that_ptxas_makes_wait_for_one_another_are_over_every_budget", serialised_products),
        ("the_mutant_that_does_not_wait_for_its_products_is_over_budget", unawaited_products),
        ("machine_code_is_compared_instruction_by_instruction", machine_code),
    ];
    let tests = costs.chain(others.map(|(name, test)| (name.to_owned(), Test::Plain(test))));
    let trials = tests.map(|(name, test)| Trial::ignorable_test(name, move || test.run())).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// A test that is given ptxas.
type Plain = fn(&Path);

/// A test that needs ptxas.
enum Test {
    Costs(KernelSet<'static>),
    Plain(Plain),
}

impl Test {
    fn run(self) -> Result<Completion, Failed> {
        let is_set = std::env::var_os(REQUIRE).is_some_and(|value| !value.is_empty() && value != "0");
        match (find_tool("ptxas"), self) {
            (Some(ptxas), Self::Costs(set)) => costs_no_more_than_accepted(&ptxas, set),
            (Some(ptxas), Self::Plain(test)) => test(&ptxas),
            (None, _) if is_set => {
                return Err(format!("{REQUIRE} is set and there is no ptxas: install kernels/requirements.txt").into());
            }
            (None, _) => return Ok(Completion::ignored_with("there is no ptxas: install kernels/requirements.txt")),
        }
        Ok(Completion::Completed)
    }
}

/// And keeps its budget.
fn costs_no_more_than_accepted(ptxas: &Path, set: KernelSet<'static>) {
    let now =
        resources::assemble(ptxas, &[set], &KernelTexts::packed(), |_| {}).unwrap_or_else(|error| panic!("{error}"));
    let over = resources::over_budget(&[set], &now);
    assert!(over.is_empty(), "over budget:\n  {}", over.join("\n  "));

    let how = format!("to accept: sdpa resources {} --accept", set.id);
    let before = Checkout::find().and_then(|checkout| accepted::read(&checkout, set.id));
    let before = before.unwrap_or_else(|error| panic!("{error}; {how}"));
    let before = before.unwrap_or_else(|| panic!("what its kernels may cost was never accepted; {how}"));
    let drift = resources::drift(&before, &now);
    assert!(drift.worse.is_empty(), "kernels cost more than accepted:\n  {}\n{how}", drift.worse.join("\n  "));
    // Or a kernel could improve, and get worse again, and no test would notice.
    let table = || render_costs(&[set], &now, false);
    assert!(!drift.outdated, "kernels improved, came or went; {how}\n{}", table());
}

/// Two products of a warpgroup, with `touch` between them and `wait` before the accumulators are stored.
fn wgmma_kernel(touch: &str, wait: &str) -> String {
    let registers = |of: &dyn Fn(usize) -> String| (0..4).map(of).collect::<Vec<_>>();
    let accumulators = registers(&|i| format!("%f{i}")).join(", ");
    let stores = registers(&|i| format!("st.global.b32 [%rd0+{}], %f{i};", 4 * i)).join("\n");
    format!(
        ".version 9.0\n.target sm_90a\n.address_size 64\n.visible .entry attention(.param .b64 to, .param .b64 operands)\n\
         {{\n.reg .b64 %rd<2>;\n.reg .f32 %f<4>;\n.reg .pred %p<1>;\n\
         ld.param.b64 %rd0, [to];\nld.param.b64 %rd1, [operands];\nsetp.ne.b64 %p0, %rd1, 0;\n\
         ld.global.b32 %f0, [%rd0];\nmov.b32 %f1, %f0;\nmov.b32 %f2, %f0;\nmov.b32 %f3, %f0;\n\
         wgmma.fence.sync.aligned;\n\
         wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {{{accumulators}}}, %rd1, %rd1, %p0, 1, 1, 0, 0;\n{touch}\n\
         wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {{{accumulators}}}, %rd1, %rd1, %p0, 1, 1, 0, 0;\n\
         wgmma.commit_group.sync.aligned;\n{wait}\n{stores}\nret;\n}}\n"
    )
}

fn serialised_products(ptxas: &Path) {
    let generation = generations::find("v3").expect("v3 is a generation").generation();
    let (kernel, arch) = (&generation.specialisations[0], resources::ARCHITECTURES[2]);
    let over = |ptx: &str| {
        let found = resources::assemble_ptx(ptxas, kernel, ptx, &arch).unwrap_or_else(|error| panic!("{error}"));
        Cost::new(kernel, &arch, found).over(&generation.budget).join("; ")
    };
    const WAIT: &str = "wgmma.wait_group.sync.aligned 0;";
    assert_eq!(over(&wgmma_kernel("", WAIT)), "");
    let touched = over(&wgmma_kernel("st.global.b32 [%rd0+64], %f1;", WAIT));
    assert!(touched.contains("wgmma.mma_async instructions are serialized"), "{touched:?}");
    let unawaited = over(&wgmma_kernel("", ""));
    assert!(unawaited.contains("warpgroup.wait is injected"), "{unawaited:?}");
}

fn unawaited_products(ptxas: &Path) {
    let mutant = mutants::find("missing_wgmma_wait").expect("it is on the list").generation();
    let kernel: &Specialisation = &mutant.specialisations[0];
    let costs =
        resources::assemble_one(ptxas, kernel, &KernelTexts::packed()).unwrap_or_else(|error| panic!("{error}"));
    let over = resources::over_budget(&[mutant.into()], &costs).join("; ");
    assert!(over.contains("warpgroup.wait is injected"), "{over:?}");
}

/// What `sdpa sass` compares.
fn machine_code(ptxas: &Path) {
    let generation = generations::find("v1").expect("v1 is a generation").generation();
    let (kernel, arch) = (&generation.specialisations[0], resources::ARCHITECTURES[0]);
    let ptx = kernel.packed_ptx().unwrap_or_else(|error| panic!("{error}"));
    let code = |ptx: &str| MachineCode::assemble(ptxas, kernel, ptx, &arch).unwrap_or_else(|error| panic!("{error}"));
    let before = code(ptx);
    assert_eq!(before.compare(&code(&format!("// reworded\n{ptx}"))), Comparison::Same);
    let edited = ptx.replacen("ex2.approx.ftz.f32", "rcp.approx.ftz.f32", 1);
    let Comparison::Differs { changed, of } = before.compare(&code(&edited)) else { panic!("the edit is not seen") };
    assert!((1..of).contains(&changed) && of >= before.len(), "{changed} of {of}");
}
