//! The gate between generations: three shapes, each with and without a causal mask.

use sdpa_core::{DeviceKind, Mask, Problem};

use crate::case::Case;

/// One acceptance case.
#[derive(Clone, Debug)]
pub struct Acceptance {
    /// The shape that the gate asks for, `[batch, heads, length, head_dim]`.
    pub shape: [usize; 4],
    /// What is run for it: the same, or a shorter one on the interpreter.
    pub case: Case,
}

/// The shapes of the gate.
pub const SHAPES: [[usize; 4]; 3] = [[1, 8, 512, 64], [2, 8, 2048, 64], [2, 8, 2048, 128]];

/// All cases, shortened where the interpreter runs them: fewer heads, and of the long shapes 64 queries over all 2048
/// keys, so that the kernels, their stages and their tiles are the same and a generation takes seconds.
pub fn cases(device: DeviceKind) -> Vec<Acceptance> {
    let mut cases = Vec::new();
    for shape in SHAPES {
        for mask in [Mask::Full, Mask::Causal] {
            let [batch, heads, length, head_dim] = shape;
            let problem = match device {
                DeviceKind::Cuda => Problem::new(batch, heads, length, head_dim),
                DeviceKind::Interpreter => {
                    Problem::new(batch, 2, length, head_dim).len_q(if length > 512 { 64 } else { length })
                }
            };
            let problem = problem.mask(mask).build().expect("the gate's shapes are valid");
            cases.push(Acceptance { shape, case: Case::new(problem) });
        }
    }
    cases
}

/// One query over a cache, for generations that decline all of the gate's shapes: with fewer heads and keys where the
/// interpreter runs them.
pub fn decoding_cases(device: DeviceKind) -> Vec<Case> {
    let lines = match device {
        DeviceKind::Cuda => [
            "b1 h32/8 q1 kv16384 d128 f16 causal normal",
            "b16 h32/8 q1 kv4096 d128 bf16 causal normal",
            "b1 h8 q1 kv4096 d64 f16 full normal",
        ],
        DeviceKind::Interpreter => [
            "b1 h8/2 q1 kv4096 d128 f16 causal normal",
            "b2 h4/1 q1 kv2048 d128 bf16 causal normal",
            "b1 h2 q1 kv2048 d64 f16 full normal",
        ],
    };
    lines.map(|line| line.parse().expect("the list makes valid cases")).to_vec()
}

/// `(1,8,512,64)`, with the number of keys where it is another: `(2,2,64×2048,64)`.
pub fn shape_of(problem: &Problem) -> String {
    let heads = match problem.heads_kv() {
        same if same == problem.heads_q() => same.to_string(),
        fewer => format!("{}/{fewer}", problem.heads_q()),
    };
    let length = match problem.len_kv() {
        same if same == problem.len_q() => same.to_string(),
        other => format!("{}×{other}", problem.len_q()),
    };
    format!("({},{heads},{length},{})", problem.batch(), problem.head_dim())
}

/// What was shortened, for people; nothing where the gate is run as it is.
pub fn shortened(cases: &[Acceptance]) -> Option<String> {
    let mut pairs: Vec<String> = Vec::new();
    for Acceptance { shape: [batch, heads, length, head_dim], case } in cases {
        let (asked, run) = (format!("({batch},{heads},{length},{head_dim})"), shape_of(&case.problem));
        let pair = format!("{run} for {asked}");
        if run != asked && !pairs.contains(&pair) {
            pairs.push(pair);
        }
    }
    (!pairs.is_empty()).then(|| format!("shortened for the interpreter: {}", pairs.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sdpa::generations;
    use sdpa_core::DeviceLimits;

    /// v2f declines what the gate asks on a GPU.
    #[test]
    fn decoding_is_what_a_generation_for_it_takes() {
        let takes = |problem: &Problem| generations::find("v2f").unwrap().plan(problem, &DeviceLimits::H200).is_ok();
        assert!(!cases(DeviceKind::Cuda).iter().any(|case| takes(&case.case.problem)));
        for kind in [DeviceKind::Cuda, DeviceKind::Interpreter] {
            assert!(decoding_cases(kind).iter().all(|case| takes(&case.problem)));
        }
    }

    #[test]
    fn a_gpu_gets_the_gate_as_it_is_and_the_interpreter_a_short_one() {
        let text = |device| {
            let cases = cases(device);
            let lines: Vec<String> = cases.iter().map(|case| case.case.problem.to_string()).collect();
            lines.join("\n") + "\n" + &shortened(&cases).unwrap_or_default()
        };
        insta::assert_snapshot!(text(DeviceKind::Cuda), @r"
        b1 h8 L512 d64 f16 full
        b1 h8 L512 d64 f16 causal
        b2 h8 L2048 d64 f16 full
        b2 h8 L2048 d64 f16 causal
        b2 h8 L2048 d128 f16 full
        b2 h8 L2048 d128 f16 causal
        ");
        insta::assert_snapshot!(text(DeviceKind::Interpreter), @r"
        b1 h2 L512 d64 f16 full
        b1 h2 L512 d64 f16 causal
        b2 h2 q64 kv2048 d64 f16 full
        b2 h2 q64 kv2048 d64 f16 causal
        b2 h2 q64 kv2048 d128 f16 full
        b2 h2 q64 kv2048 d128 f16 causal
        shortened for the interpreter: (1,2,512,64) for (1,8,512,64), (2,2,64×2048,64) for (2,8,2048,64), (2,2,64×2048,128) for (2,8,2048,128)
        ");
    }
}
