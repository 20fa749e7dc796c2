//! How much a verdict is about, and what is no verdict.

use super::sandbox::{Sandbox, qkv};
use safetensors::Dtype;

#[test]
fn large_logits_are_right_on_both_sides_of_the_edge() {
    let sandbox = Sandbox::new();
    for case in [
        "b1 h1 q64 kv1 d64 f16 scale=1e9 normal",
        "h2 q33 kv70 d64 f16 full scale=1e7 normal",
        // Scores of N(0, 8²): row maxima, in base-2 logarithms, lie around 2^24 at this scale.
        "q40 kv3 d64 f16 full scale=1200000 normal",
    ] {
        for generation in ["v1", "v2d"] {
            let said = sandbox.sdpa(&["verify", generation, case]);
            assert!(
                said.contains("\nok: judged ") && !said.contains(" of ") || said.contains(" of its bound"),
                "{said}"
            );
            assert!(said.ends_with("exit 0"), "{said}");
        }
    }
}

#[test]
fn a_verdict_on_no_row_is_none() {
    let sandbox = Sandbox::new();
    let case = "b1 h1 L64 d64 bf16 scale=1e38 normal";
    let said = sandbox.sdpa(&["verify", "v2d", case]);
    assert!(said.contains("\nerror: none of the 64 rows could be judged, ") && said.ends_with("\nexit 2"), "{said}");
    let json = sandbox.sdpa(&["verify", "v2d", case, "--json"]);
    assert!(
        json.contains(r#""outcome":"unjudged""#) && json.contains(r#""judged_rows":0,"unjudged_rows":64"#),
        "{json}"
    );
    assert!(json.ends_with("\nexit 2"), "{json}");
    let said = sandbox.sdpa(&["verify", "v2d", case, "--property", "key_order_does_not_matter"]);
    assert!(said.contains("none of the 64 rows could be judged") && said.ends_with("\nexit 2"), "{said}");
    let json = sandbox.sdpa(&["verify", "v2d", "q5 kv9 d64", "--json"]);
    assert!(json.contains(r#""judged_rows":5,"unjudged_rows":0"#) && json.ends_with("\nexit 0"), "{json}");
}

#[test]
fn an_empty_problem_has_no_row_and_is_right() {
    let said = Sandbox::new().sdpa(&["verify", "v2d", "b0 h2 L5 d64"]);
    assert!(said.contains("\nok: judged no row, since there is none; ") && said.ends_with("exit 0"), "{said}");
}

#[test]
fn check_says_how_much_it_compared() {
    let sandbox = Sandbox::new();
    let asked = ["check", "v1", "--case", "h2 q5 kv9 d64", "--seeds", "2"];
    let said = sandbox.sdpa(&asked);
    assert!(
        said.contains("v1: 2 runs, 0 findings; compared with the oracle: 20 rows\n") && said.ends_with("exit 0"),
        "{said}"
    );
    let json = sandbox.sdpa(&[&asked[..], &["--json"]].concat());
    assert!(json.contains("\"judged_rows\": 20") && json.contains("\"unjudged_rows\": 0"), "{json}");
}

#[test]
fn what_cannot_be_asked_is_refused_at_once() {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("results")).unwrap();
    let said = sandbox.sdpa(&["gate", "v2d", "--shape", "0,0,0,0"]);
    assert!(said.contains("is empty: every size of a shape is at least 1") && said.ends_with("exit 2"), "{said}");
    let said = sandbox.sdpa(&["gate", "v1", "--shape", "1,8,512,256"]);
    assert!(said.contains("v1 takes none of the shapes of --shape") && said.ends_with("exit 2"), "{said}");
    let said = sandbox.sdpa(&["verify", "v2d", "L4 L5 d64"]);
    assert!(
        said.starts_with("error: \"L4\" and \"L5\" both say the number of queries") && said.ends_with("exit 2"),
        "{said}"
    );
    let said = sandbox.sdpa(&["verify", "v2d", "h0 L4 d64"]);
    assert_eq!(said, "error: heads_q is 0: there must be at least one head\nexit 2");
    let said = sandbox.sdpa(&["verify", "v2d", "L4 d64 scale=2.36e38"]);
    assert!(said.starts_with("error: scale is 2.36e38: it must be finite, and below 2.35e38"), "{said}");
}

#[test]
fn rows_far_apart_are_no_abort() {
    let sandbox = Sandbox::new();
    let said = sandbox.sdpa(&["verify", "v2d", "h2 L4 d64 query=1099511627776,549755813888,64"]);
    assert!(said.contains("\nok: judged 8 rows; ") && said.ends_with("exit 0"), "{said}");
    // Heads far apart whose rows lie over one another have to be held with all that lies between.
    let said = sandbox.sdpa(&["verify", "v2d", "h2 L4 d64 query=0,549755813888,0"]);
    assert!(said.contains("no memory for the case's tensors, ") && said.ends_with("exit 2"), "{said}");
}

#[test]
fn nan_that_no_input_explains_is_told() {
    let sandbox = Sandbox::new();
    let run = |scale: &str| sandbox.sdpa(&["run", "in.safetensors", "-o", "out.safetensors", "--scale", scale]);
    let shape = [1, 1, 16, 64];
    let mut tensors = qkv(Dtype::BF16, &shape, &shape, &shape);
    sandbox.write("in.safetensors", &tensors);
    // The largest logits there are: the output is right, and the log-sum-exp has no number.
    let said = run("2e38");
    assert!(said.contains(" scale 2e38\n") && !said.contains("wrong:"), "{said}");
    assert!(said.contains("\nnote: the log-sum-exp of ") && said.ends_with("exit 0"), "{said}");
    let said = run("1e30");
    assert!(!said.contains("wrong:") && !said.contains("note: ") && said.ends_with("exit 0"), "{said}");
    let said = run("2.4e38");
    assert!(said.starts_with("error: scale is 2.4e38: ") && said.ends_with("exit 2"), "{said}");
    // Numbers of 1e20, whose products no f32 holds.
    let huge = half::bf16::from_f32(1e20).to_le_bytes();
    for tensor in &mut tensors[..2] {
        tensor.bytes = huge.repeat(tensor.bytes.len() / 2);
    }
    sandbox.write("in.safetensors", &tensors);
    let said = run("1e-30");
    assert!(said.contains("\nwrong: 1024 of 1024 output elements are NaN") && said.ends_with("exit 1"), "{said}");
}

#[test]
fn a_soak_says_how_much_it_judged_and_asks_nobody_who_declines() {
    let sandbox = Sandbox::new();
    let said = sandbox.sdpa(&["soak", "--steps", "2", "--every", "1", "--seed", "1"]);
    assert!(said.contains("\nv2j: right; 2 steps in ") && said.contains(", of 2 steps "), "{said}");
    assert!(said.contains("the same after each step") && said.ends_with("repeat with --seed 1\nexit 0"), "{said}");
    let said = sandbox.sdpa(&["soak", "v2d", "--steps", "2"]);
    assert!(said.contains("error: v2d does not take packed sequences") && said.ends_with("\nexit 2"), "{said}");
    let said = sandbox.sdpa(&["soak", "--steps", "2", "--sampled", "0"]);
    assert!(said.contains("\nv2j: not judged; 2 steps") && said.ends_with("\nexit 2"), "{said}");
}
