//! The program as its users see it: what it prints and how it exits.

#[cfg(target_os = "linux")]
mod driver;
mod extensions;
mod sandbox;
#[cfg(unix)]
mod user_files;
mod verdicts;

use std::path::{Path, PathBuf};
use std::process::Command;

use safetensors::{Dtype, SafeTensors};

use sandbox::{Sandbox, qkv, tensor};

const SHAPE: [usize; 4] = [1, 2, 16, 64];

#[test]
fn a_missing_file_is_named() {
    let said = Sandbox::new().sdpa(&["run", "no.safetensors", "-o", "out.safetensors"]);
    insta::assert_snapshot!(said, @r"
    error: no.safetensors: No such file or directory (os error 2)
    exit 2
    ");
}

#[test]
fn a_file_of_another_format_is_named() {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.path("notes.txt"), "q, k and v are in the other file").unwrap();
    insta::assert_snapshot!(sandbox.sdpa(&["run", "notes.txt", "-o", "out.safetensors"]), @r"
    error: notes.txt is not a safetensors file: header too large
    exit 2
    ");
}

#[test]
fn a_file_that_is_cut_short_is_no_safetensors_file() {
    let sandbox = Sandbox::new();
    sandbox.write("whole.safetensors", &qkv(Dtype::F16, &SHAPE, &SHAPE, &SHAPE));
    let bytes = std::fs::read(sandbox.path("whole.safetensors")).unwrap();
    std::fs::write(sandbox.path("in.safetensors"), &bytes[..bytes.len() - 100]).unwrap();
    insta::assert_snapshot!(sandbox.sdpa(&["run", "in.safetensors", "-o", "out.safetensors"]), @r"
    error: in.safetensors is not a safetensors file: incomplete metadata, file not fully covered
    exit 2
    ");
}

#[test]
fn a_missing_tensor_is_named_and_the_others_listed() {
    let said = Sandbox::new().run_on(&[tensor("q", Dtype::F16, &SHAPE), tensor("key", Dtype::F16, &SHAPE)]);
    insta::assert_snapshot!(said, @r"
    error: in.safetensors holds no tensor `k`: expected `q`, `k` and `v`, found `key`, `q`
    exit 2
    ");
}

#[test]
fn a_wrong_rank_is_told_from_what_is_expected() {
    insta::assert_snapshot!(Sandbox::new().run_on(&qkv(Dtype::F16, &SHAPE, &[16, 64], &SHAPE)), @r"
    error: tensor `k` has shape [16, 64]: expected [batch, heads, length, head_dim]
    exit 2
    ");
}

#[test]
fn wrong_dtypes_are_told_from_what_is_expected() {
    let sandbox = Sandbox::new();
    insta::assert_snapshot!(sandbox.run_on(&qkv(Dtype::F32, &SHAPE, &SHAPE, &SHAPE)), @r"
    error: tensor `q` is f32: expected f16 or bf16
    exit 2
    ");
    let [query, key, _] = qkv(Dtype::F16, &SHAPE, &SHAPE, &SHAPE);
    insta::assert_snapshot!(sandbox.run_on(&[query, key, tensor("v", Dtype::BF16, &SHAPE)]), @r"
    error: tensor `v` is bf16: expected f16, as `q` is
    exit 2
    ");
}

#[test]
fn shapes_that_do_not_fit_one_another_are_told() {
    let sandbox = Sandbox::new();
    insta::assert_snapshot!(sandbox.run_on(&qkv(Dtype::F16, &SHAPE, &[1, 2, 16, 32], &[1, 2, 16, 32])), @r"
    error: tensor `k` has shape [1, 2, 16, 32]: expected [1, heads, length, 64], with the batch and head_dim of `q` [1, 2, 16, 64]
    exit 2
    ");
    insta::assert_snapshot!(sandbox.run_on(&qkv(Dtype::F16, &SHAPE, &[1, 2, 20, 64], &SHAPE)), @r"
    error: tensor `v` has shape [1, 2, 16, 64]: expected [1, 2, 20, 64], the shape of `k`, of which the last number may differ
    exit 2
    ");
    insta::assert_snapshot!(sandbox.run_on(&qkv(Dtype::F16, &[1, 4, 16, 64], &[1, 3, 16, 64], &[1, 3, 16, 64])), @r"
    error: heads_q is 4 and heads_kv is 3: the query heads must be a multiple of the key heads
    exit 2
    ");
    insta::assert_snapshot!(sandbox.run_on(&qkv(Dtype::F16, &[1, 1, 4, 60], &[1, 1, 4, 60], &[1, 1, 4, 60])), @r"
    error: head_dim is 60: it must be a multiple of 8 between 8 and 256
    exit 2
    ");
}

#[test]
fn an_unknown_generation_is_told_the_known_ones() {
    let sandbox = Sandbox::new();
    sandbox.write("in.safetensors", &qkv(Dtype::F16, &SHAPE, &SHAPE, &SHAPE));
    let said = sandbox.sdpa(&["run", "--generation", "V2b", "in.safetensors", "-o", "out.safetensors"]);
    let known = sdpa::generations::ids().join(", ");
    assert_eq!(said, format!("error: no generation `V2b`: there are {known}; did you mean `v2b`?\nexit 2"));
}

#[test]
fn a_problem_that_a_generation_declines_is_told_why() {
    let sandbox = Sandbox::new();
    sandbox.write("in.safetensors", &qkv(Dtype::BF16, &SHAPE, &SHAPE, &SHAPE));
    let said = sandbox.sdpa(&["run", "--generation", "v1", "in.safetensors", "-o", "out.safetensors"]);
    assert!(said.ends_with("error: v1 has no bf16 kernel; it takes f16\nexit 2"), "{said}");
}

#[test]
fn an_output_that_cannot_be_written_is_told_before_any_work() {
    let sandbox = Sandbox::new();
    sandbox.write("in.safetensors", &qkv(Dtype::F16, &SHAPE, &SHAPE, &SHAPE));
    let to = |output: &str| sandbox.sdpa(&["run", "in.safetensors", "-o", output]);
    insta::assert_snapshot!(to("nowhere/out.safetensors"), @r"
    error: nowhere: no such folder to write the output into
    exit 2
    ");
    insta::assert_snapshot!(to("."), @r"
    error: . is a folder: name a file to write the output to
    exit 2
    ");
    insta::assert_snapshot!(to("./in.safetensors"), @r"
    error: ./in.safetensors is the input: name another file to write the output to
    exit 2
    ");
}

#[test]
fn a_device_that_is_none_is_told() {
    let sandbox = Sandbox::new();
    insta::assert_snapshot!(sandbox.sdpa_on("tpu", &["verify", "v1", "L16 d64"]), @r#"
    error: SDPA_DEVICE is "tpu": it must be auto, cuda or interpreter
    exit 2
    "#);
}

#[test]
fn a_case_that_is_none_is_told_what_one_looks_like() {
    let said = Sandbox::new().sdpa(&["verify", "v1", "16 by 64"]);
    assert!(
        said.starts_with("error: \"16\"") && said.contains("looks like: b1 h4/2") && said.ends_with("exit 2"),
        "{said}"
    );
}

#[test]
fn times_are_not_made_up_without_a_gpu() {
    let said = Sandbox::new().sdpa(&["bench", "--shape", "1,8,512,64"]);
    assert!(said.ends_with("keeps no time: figures come from a GPU only\nexit 2"), "{said}");
}

#[test]
fn a_wrong_kernel_stops_at_the_gate_and_the_record_says_where() {
    let sandbox = Sandbox::new();
    assert!(
        sandbox.sdpa(&["gate", "v1"]).starts_with("error: results: no such folder to write the output into\nexit 2")
    );
    std::fs::create_dir(sandbox.path("results")).unwrap();
    let said = sandbox.sdpa(&["gate", "no_scale"]);
    assert!(said.contains("2 acceptance  FAILED   wrong on (1,2,512,64) full\n"), "{said}");
    assert!(said.contains("    look at    ") && said.contains("  repeat     cargo run"), "{said}");
    assert!(said.ends_with("gate no_scale: failed: acceptance (wrote results/gate/no_scale.json)\nexit 1"), "{said}");
    let text = std::fs::read_to_string(sandbox.path("results/gate/no_scale.json")).unwrap();
    let record: sdpa_cli::gate::GateRecord = serde_json::from_str(&text).unwrap();
    let steps: Vec<String> = record.steps.iter().map(|step| format!("{}: {:?}", step.name, step.status)).collect();
    assert_eq!(
        (steps[0].as_str(), steps[1].as_str(), steps[2].as_str(), steps.last().map(String::as_str)),
        ("compiles: Passed", "acceptance: Failed", "real input: NotReached", Some("speed: NotReached"))
    );
    assert_eq!(record.kernels.len(), 1);
    // Every step is asked if one wants to know.
    let said = sandbox.sdpa(&["gate", "no_scale", "--keep-going", "--cases", "2", "--guards", "2", "--accept"]);
    assert!(said.contains("2 acceptance  FAILED") && said.contains("5 races       FAILED"), "{said}");
    assert!(said.contains("\nnothing is accepted of a generation that fails\n"), "{said}");
}

#[test]
fn what_cannot_be_asked_here_is_no_pass() {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("results")).unwrap();
    // The whole of one sample, so that neither the clock nor the machine's load decides what is drawn.
    let sample = ["--seed", "1", "--mutation-seconds", "600"];
    let said = sandbox.sdpa(&[&["gate", "v2e", "--cases", "2", "--guards", "2"], sample.as_slice()].concat());
    assert!(said.contains("\n10 speed       not run  not measured: no GPU\n") && said.ends_with("\nexit 3"), "{said}");
}

#[test]
fn a_new_generation_needs_a_good_name_a_parent_and_the_repository() {
    let sandbox = Sandbox::new();
    insta::assert_snapshot!(sandbox.sdpa(&["new", "V3", "--parent", "v1"]), @r"
    error: `V3` is no id: it is `v`, a number, and what tells branches apart, in lower case, such as v3 or v2b
    exit 2
    ");
    insta::assert_snapshot!(sandbox.sdpa(&["new", "v99", "--parent", "v1"]), @r"
    error: Cargo.toml: not there: run this in the repository's root
    exit 2
    ");
    assert!(sandbox.sdpa(&["new", "v99", "--parent", "v0"]).starts_with("error: no generation `v0`: there are v1, "));
}

#[test]
fn a_baseline_that_is_none_is_told() {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.path("peers.json"), "{}").unwrap();
    insta::assert_snapshot!(sandbox.sdpa(&["gate", "--only", "acceptance", "--baseline", "peers.json"]), @r"
    error: peers.json holds no figures as `sdpa bench --record` and bench/peers.py write them
    exit 2
    ");
}

#[test]
fn the_list_holds_every_generation() {
    let sandbox = Sandbox::new();
    let said = sandbox.sdpa(&["list"]);
    for id in sdpa::generations::ids() {
        assert!(said.lines().any(|line| line.starts_with(&format!("{id} "))), "{id} is missing: {said}");
    }
    let json = sandbox.sdpa(&["list", "--json"]);
    let json = json.strip_suffix("exit 0").expect("it succeeds");
    let entries: serde_json::Value = serde_json::from_str(json).expect("it is JSON");
    assert_eq!(entries.as_array().map(Vec::len), Some(sdpa::generations::ALL.len()));
    assert_eq!(entries[0]["takes"][0]["dtype"], "f16");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    use std::process::Stdio;
    let mut program = Command::new(env!("CARGO_BIN_EXE_sdpa"))
        .args(["list", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(program.stdout.take());
    let output = program.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.is_empty()), (Some(0), true));
}

/// Q, K and V of a real model with PyTorch's f32 outputs.
fn real_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../sdpa-ref/tests/data/minilm-layer0.safetensors")
}

#[test]
fn a_real_models_attention_is_computed_and_compared() {
    let sandbox = Sandbox::new();
    let input = real_model().display().to_string();
    for (flags, reference) in
        [(&[][..], "`out`"), (&["--causal"][..], "`out_causal`"), (&["--causal-top-left"][..], "`out_causal`")]
    {
        let arguments = [&["run", input.as_str(), "-o", "out.safetensors"], flags].concat();
        let said = sandbox.sdpa(&arguments);
        assert!(said.contains(&format!("against {reference}: ")) && said.contains(": within tolerance"), "{said}");
        assert!(
            said.contains("plan: ") && said.contains("wrote out.safetensors") && said.ends_with("exit 0"),
            "{said}"
        );

        let bytes = std::fs::read(sandbox.path("out.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let (out, lse) = (file.tensor("out").unwrap(), file.tensor("lse").unwrap());
        assert_eq!((out.dtype(), out.shape()), (Dtype::F16, &[1, 12, 256, 32][..]));
        assert_eq!((lse.dtype(), lse.shape()), (Dtype::F32, &[1, 12, 256][..]));
    }
}

/// Ranks are interpreters here; the result is compared as one device's is, and has the rows where they belong.
#[test]
fn ranks_that_share_a_sequence_compute_the_same() {
    let sandbox = Sandbox::new();
    let input = real_model().display().to_string();
    for (flags, way) in [
        (&["--ranks", "3"][..], "heads on 3 ranks"),
        (&["--ranks", "2", "--way", "ring", "--causal"][..], "ring on 2 ranks"),
    ] {
        let said = sandbox.sdpa(&[&["run", input.as_str(), "-o", "out.safetensors"], flags].concat());
        assert!(said.contains(&format!("\nway: {way}\n")) && said.contains(": within tolerance"), "{said}");
        assert!(said.ends_with("exit 0"), "{said}");
    }
    let said = sandbox.sdpa(&["run", &input, "-o", "out.safetensors", "--ranks", "13", "--way", "heads"]);
    assert!(said.contains("heads does not take 12 query heads on 13 ranks") && said.ends_with("exit 2"), "{said}");
    let said = sandbox.sdpa(&["run", &input, "-o", "out.safetensors", "--ranks", "2", "--generation", "v1"]);
    assert!(said.contains("--generation is for one device") && said.ends_with("exit 2"), "{said}");
    let said = sandbox.sdpa(&["run", &input, "-o", "out.safetensors", "--way", "ring"]);
    assert!(said.contains("--ranks") && said.ends_with("exit 2"), "{said}");
    let mut command = sandbox.command(&["run", &input, "-o", "out.safetensors", "--ranks", "2"]);
    let said = sandbox
        .said_by(command.env("RANK", "0").env("WORLD_SIZE", "3").env("MASTER_ADDR", "here").env("MASTER_PORT", "1"));
    assert!(said.contains("--ranks is 2, but WORLD_SIZE is 3") && said.ends_with("exit 2"), "{said}");
}

/// Without NCCL nothing is measured, and that is said.
#[test]
fn ranks_are_timed_over_nccl_alone() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(&["bench", "--ranks", "2", "--shape", "1,2,64,64"]);
    let said = sandbox.said_by(command.env("SDPA_NCCL", "/no/libnccl.so.2"));
    assert!(said.contains("no NCCL: /no/libnccl.so.2: ") && said.ends_with("exit 2"), "{said}");
}

#[test]
fn a_reference_made_with_another_scale_is_out_of_tolerance() {
    let sandbox = Sandbox::new();
    let input = real_model().display().to_string();
    let said = sandbox.sdpa(&["run", &input, "-o", "out.safetensors", "--scale", "0.2"]);
    assert!(said.contains("OUT OF TOLERANCE") && said.ends_with("exit 1"), "{said}");
}

#[test]
fn fewer_heads_and_another_length_are_taken() {
    let sandbox = Sandbox::new();
    sandbox.write("in.safetensors", &qkv(Dtype::F16, &[1, 4, 3, 64], &[1, 2, 40, 64], &[1, 2, 40, 64]));
    let said = sandbox.sdpa(&["run", "--generation", "v1", "--causal", "in.safetensors", "-o", "out.safetensors"]);
    assert!(
        said.contains("problem: b1 h4/2 q3 kv40 d64 f16 causal scale 0.125\n") && said.ends_with("exit 0"),
        "{said}"
    );
}

#[test]
fn a_case_is_verified_again() {
    let said = Sandbox::new().sdpa(&["verify", "v1", "b1 h2 q17 kv33 d40 causal peaked seed=7", "--repeat", "2"]);
    assert!(said.contains("\ncase: b1 h2 q17 kv33 d40 f16 causal peaked seed=7\n"), "{said}");
    assert!(said.contains("\nok: judged 34 rows; relative Frobenius error ") && said.ends_with("exit 0"), "{said}");
}

#[test]
fn a_property_is_verified_by_its_name() {
    let sandbox = Sandbox::new();
    let verify = |property: &str| sandbox.sdpa(&["verify", "v1", "q5 kv9 d16 causal seed=1", "--property", property]);
    let said = verify("causal_prefix");
    assert!(said.contains("ok: judged ") && said.ends_with(" rows; causal_prefix holds\nexit 0"), "{said}");
    let said = verify("beauty");
    assert!(
        said.starts_with("error: no property `beauty`: there are matches_reference, ") && said.ends_with("exit 2"),
        "{said}"
    );
}

#[test]
fn a_wrong_kernel_fails_and_says_what_to_look_at() {
    let said = Sandbox::new().sdpa(&["verify", "last_tile_dropped", "L200 d64 seed=1"]);
    assert!(
        said.contains("fails matches_reference on ") && said.contains("look at ") && said.ends_with("exit 1"),
        "{said}"
    );
}
