//! Holds what the kernels cost to a committed record, which may only improve.

use std::path::{Path, PathBuf};

use harness::mutants;
use sdpa::generations;
use sdpa_cli::cost_table::render_costs;
use sdpa_core::{Attention, Generation, Specialisation};
use sdpa_toolchain::resources::{self, Cost};
use sdpa_toolchain::{KernelTexts, find_tool, write_whole};

/// Makes the record anew from what the kernels cost now.
const ACCEPT: &str = "SDPA_ACCEPT_RESOURCES";

/// Where ptxas must be there, because nobody else would notice that this test did not run.
const REQUIRE: &str = "SDPA_REQUIRE_PTXAS";

/// The record of a generation.
fn record(id: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/resources/{id}.json"))
}

fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0")
}

/// ptxas; none where nobody demands it.
fn ptxas() -> Option<PathBuf> {
    let found = find_tool("ptxas");
    if found.is_none() {
        assert!(!is_set(REQUIRE), "{REQUIRE} is set and there is no ptxas: install kernels/requirements.txt");
        eprintln!("not run: there is no ptxas; install kernels/requirements.txt");
    }
    found
}

#[test]
fn kernels_cost_no_more_than_recorded_and_keep_their_budgets() {
    let Some(ptxas) = ptxas() else { return };
    let generations: Vec<&Generation> = generations::ALL.iter().map(|generation| generation.generation()).collect();
    let now = resources::assemble(&ptxas, &generations, &KernelTexts::packed(), |_| {})
        .unwrap_or_else(|error| panic!("{error}"));
    let over = resources::over_budget(&generations, &now);
    assert!(over.is_empty(), "over budget:\n  {}", over.join("\n  "));

    let how = format!("to accept: {ACCEPT}=1 cargo test -p sdpa-cli --test resources");
    for generation in generations {
        let path = record(generation.id);
        let now: Vec<Cost> =
            now.iter().filter(|cost| resources::budget_of(&[generation], cost).is_some()).cloned().collect();
        if is_set(ACCEPT) {
            let text = serde_json::to_string_pretty(&now).expect("costs serialise") + "\n";
            write_whole(&path, text.as_bytes()).unwrap_or_else(|error| panic!("{error}"));
            continue;
        }
        let failed = |error: String| -> String { panic!("{}: {error}; {how}", path.display()) };
        let recorded = std::fs::read_to_string(&path).unwrap_or_else(|error| failed(error.to_string()));
        let before: Vec<Cost> =
            serde_json::from_str(&recorded).unwrap_or_else(|error| panic!("{}: {error}; {how}", path.display()));
        let drift = resources::drift(&before, &now);
        assert!(drift.worse.is_empty(), "kernels cost more than recorded:\n  {}\n{how}", drift.worse.join("\n  "));
        // Or a kernel could improve, and get worse again, and no test would notice.
        let table = || render_costs(&[generation], &now, false);
        assert!(!drift.outdated, "kernels improved, came or went; {how}\n{}", table());
    }
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

#[test]
fn products_that_ptxas_makes_wait_for_one_another_are_over_every_budget() {
    let Some(ptxas) = ptxas() else { return };
    let generation = generations::find("v3").expect("v3 is a generation").generation();
    let (kernel, arch) = (&generation.specialisations[0], resources::ARCHITECTURES[2]);
    let over = |ptx: &str| {
        let found = resources::assemble_ptx(&ptxas, kernel, ptx, &arch).unwrap_or_else(|error| panic!("{error}"));
        Cost::new(kernel, &arch, found).over(&generation.budget).join("; ")
    };
    const WAIT: &str = "wgmma.wait_group.sync.aligned 0;";
    assert_eq!(over(&wgmma_kernel("", WAIT)), "");
    let touched = over(&wgmma_kernel("st.global.b32 [%rd0+64], %f1;", WAIT));
    assert!(touched.contains("wgmma.mma_async instructions are serialized"), "{touched:?}");
    let unawaited = over(&wgmma_kernel("", ""));
    assert!(unawaited.contains("warpgroup.wait is injected"), "{unawaited:?}");
}

#[test]
fn the_mutant_that_does_not_wait_for_its_products_is_over_budget() {
    let Some(ptxas) = ptxas() else { return };
    let mutant = mutants::find("missing_wgmma_wait").expect("it is on the list").generation();
    let kernel: &Specialisation = &mutant.specialisations[0];
    let costs =
        resources::assemble_one(&ptxas, kernel, &KernelTexts::packed()).unwrap_or_else(|error| panic!("{error}"));
    let over = resources::over_budget(&[mutant], &costs).join("; ");
    assert!(over.contains("warpgroup.wait is injected"), "{over:?}");
}
