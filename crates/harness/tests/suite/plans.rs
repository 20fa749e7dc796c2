//! What each generation would launch for the acceptance shapes, and what it takes.

use harness::{acceptance, generations};
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
    insta::assert_snapshot!(lines.join("\n"), @r"
    v1   b1 h8 L512 d64 f16 full: v1/f16_d64 grid 512 block 256 shared 0
    v1   b1 h8 L512 d64 f16 causal: v1/f16_d64 grid 512 block 256 shared 0
    v1   b2 h8 L2048 d64 f16 full: v1/f16_d64 grid 4096 block 256 shared 0
    v1   b2 h8 L2048 d64 f16 causal: v1/f16_d64 grid 4096 block 256 shared 0
    v1   b2 h8 L2048 d128 f16 full: v1/f16_d128 grid 4096 block 256 shared 0
    v1   b2 h8 L2048 d128 f16 causal: v1/f16_d128 grid 4096 block 256 shared 0
    v2b  b1 h8 L512 d64 f16 full: v2b/f16_d64_s2 grid 64 block 256 shared 64000
    v2b  b1 h8 L512 d64 f16 causal: v2b/f16_d64_s2 grid 64 block 256 shared 64000
    v2b  b2 h8 L2048 d64 f16 full: v2b/f16_d64_s3 grid 512 block 256 shared 82432
    v2b  b2 h8 L2048 d64 f16 causal: v2b/f16_d64_s3 grid 512 block 256 shared 82432
    v2b  b2 h8 L2048 d128 f16 full: v2b/f16_d128_s3 grid 512 block 256 shared 79360
    v2b  b2 h8 L2048 d128 f16 causal: v2b/f16_d128_s3 grid 512 block 256 shared 79360
    v2c  b1 h8 L512 d64 f16 full: v2c/f16_d64_s2 grid 64 block 128 shared 73728
    v2c  b1 h8 L512 d64 f16 causal: v2c/f16_d64_s2 grid 64 block 128 shared 73728
    v2c  b2 h8 L2048 d64 f16 full: v2c/f16_d64_s3 grid 512 block 128 shared 92160
    v2c  b2 h8 L2048 d64 f16 causal: v2c/f16_d64_s3 grid 512 block 128 shared 92160
    v2c  b2 h8 L2048 d128 f16 full: v2c/f16_d128_s3 grid 512 block 128 shared 84992
    v2c  b2 h8 L2048 d128 f16 causal: v2c/f16_d128_s3 grid 512 block 128 shared 84992
    v2d  b1 h8 L512 d64 f16 full: v2d/f16_d64_m64 grid 64 block 128 shared 73728
    v2d  b1 h8 L512 d64 f16 causal: v2d/f16_d64_m64 grid 64 block 128 shared 73728
    v2d  b2 h8 L2048 d64 f16 full: v2d/f16_d64_m128 grid 256 block 128 shared 49152
    v2d  b2 h8 L2048 d64 f16 causal: v2d/f16_d64_m64 grid 512 block 128 shared 73728
    v2d  b2 h8 L2048 d128 f16 full: v2d/f16_d128_m128 grid 256 block 128 shared 98304
    v2d  b2 h8 L2048 d128 f16 causal: v2d/f16_d128_m64 grid 512 block 128 shared 81920
    v2e  b1 h8 L512 d64 f16 full: declined (A100, L4)
    v2e  b1 h8 L512 d64 f16 full: v2e/f16_d64_m32_g4 grid 128 block 256 shared 135168 (H200)
    v2e  b1 h8 L512 d64 f16 causal: declined (A100, L4)
    v2e  b1 h8 L512 d64 f16 causal: v2e/f16_d64_m32_g4 grid 128 block 256 shared 135168 (H200)
    v2e  b2 h8 L2048 d64 f16 full: declined
    v2e  b2 h8 L2048 d64 f16 causal: declined
    v2e  b2 h8 L2048 d128 f16 full: declined
    v2e  b2 h8 L2048 d128 f16 causal: declined
    v2f  b1 h8 L512 d64 f16 full: declined
    v2f  b1 h8 L512 d64 f16 causal: declined
    v2f  b2 h8 L2048 d64 f16 full: declined
    v2f  b2 h8 L2048 d64 f16 causal: declined
    v2f  b2 h8 L2048 d128 f16 full: declined
    v2f  b2 h8 L2048 d128 f16 causal: declined
    ");
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
    let mut table =
        vec![format!("{:5}{}", "", abilities.iter().map(|(name, _)| format!("{name:>12}")).collect::<String>())];
    for generation in generations::ALL {
        let cells = abilities.iter().map(|(_, problem)| {
            let problem = problem.clone().build().unwrap();
            let takes = generation.plan(&problem, &DeviceLimits::L4).is_ok();
            format!("{:>12}", if takes { "yes" } else { "-" })
        });
        table.push(format!("{:5}{}", generation.generation().id, cells.collect::<String>()));
    }
    insta::assert_snapshot!(table.join("\n"), @r"
                  f16        bf16          d8        d128        d256        blhd odd strides     grouped  no queries
    v1            yes           -         yes         yes           -         yes         yes         yes         yes
    v2b           yes           -         yes         yes           -         yes           -         yes         yes
    v2c           yes         yes         yes         yes           -         yes           -         yes         yes
    v2d           yes         yes         yes         yes         yes         yes           -         yes         yes
    v2e             -           -           -           -           -           -           -           -           -
    v2f             -           -         yes         yes         yes           -           -           -         yes
    ");
}
