//! What each generation would launch for the acceptance shapes, and what it takes.

use harness::acceptance;
use sdpa::generations;
use sdpa_core::{Attention, DeviceKind, DeviceLimits, Dtype, Layout, Operand, Problem, ProblemBuilder, Strides};

const DEVICES: [(&str, DeviceLimits); 3] =
    [("A100", DeviceLimits::A100), ("L4", DeviceLimits::L4), ("H200", DeviceLimits::H200)];

fn plan(generation: &dyn Attention, problem: &Problem, limits: &DeviceLimits) -> String {
    match generation.plan(problem, limits) {
        Ok(plan) => plan.to_string(),
        // The reason is told by whoever asks: what matters here is who declines.
        Err(_) => "declined".to_owned(),
    }
}

/// Devices that agree share a line.
fn plans_of_the_acceptance_shapes(generation: &dyn Attention) -> Vec<String> {
    let mut lines = Vec::new();
    for case in acceptance::cases(DeviceKind::Cuda) {
        let problem = &case.case.problem;
        let mut plans: Vec<(String, Vec<&str>)> = Vec::new();
        for (name, limits) in &DEVICES {
            let plan = plan(generation, problem, limits);
            match plans.iter_mut().find(|(known, _)| *known == plan) {
                Some((_, names)) => names.push(name),
                None => plans.push((plan, vec![name])),
            }
        }
        for (plan, names) in plans {
            let names = if names.len() == DEVICES.len() { String::new() } else { format!(" ({})", names.join(", ")) };
            lines.push(format!("{problem}: {plan}{names}"));
        }
    }
    lines
}

/// What not every kernel can do, and who takes it.
fn capabilities(generation: &dyn Attention) -> Vec<String> {
    let base = || Problem::new(2, 4, 128, 64);
    let odd_rows = |heads: i64| Strides { batch: heads * 128 * 65, head: 128 * 65, row: 65 };
    let abilities: [(&str, ProblemBuilder); 9] = [
        ("f16", base()),
        ("bf16", base().dtype(Dtype::Bf16)),
        ("d8", Problem::new(1, 1, 16, 8)),
        ("d128", Problem::new(1, 1, 16, 128)),
        ("d256", Problem::new(1, 1, 16, 256)),
        ("blhd", base().layout(Layout::Blhd)),
        ("odd strides", base().strides(Operand::Key, odd_rows(4))),
        ("grouped", base().heads_kv(2)),
        ("no queries", base().len_q(0)),
    ];
    let line = |(name, problem): (&str, ProblemBuilder)| {
        let problem = problem.build().expect("a valid problem");
        let takes = DEVICES.iter().filter(|(_, limits)| generation.plan(&problem, limits).is_ok());
        let takes: Vec<&str> = takes.map(|(device, _)| *device).collect();
        format!("{name}: {}", if takes.is_empty() { "-".to_owned() } else { takes.join(", ") })
    };
    abilities.into_iter().map(line).collect()
}

/// A file a generation, `snapshots/*_<id>.snap`, so that a new one brings its own and changes nobody's.
#[test]
fn every_generation_plans_as_it_did() {
    for generation in generations::ALL {
        let lines = [plans_of_the_acceptance_shapes(*generation), capabilities(*generation)].concat();
        insta::assert_snapshot!(format!("plans_{}", generation.generation().id), lines.join("\n"));
    }
}
