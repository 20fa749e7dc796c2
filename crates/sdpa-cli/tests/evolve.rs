//! The loop that evolves kernels: cheats are rejected by name, the same seed gives the same lineage, and the example generators do what
//! they say. Tests that need a compiler are ignored where there is none, and say so.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Trial};
use sdpa::generations;
use sdpa_cli::evolve::{Effort, Genome, Job, JobNiche, Judge, Judged, Lineage, Proposal, Standing};
use sdpa_cli::gate::Status;
use sdpa_toolchain::{Checkout, Nvrtc};

/// Every fixture of `kernels/cheats`: its name, the step that must reject it, and words that name what it does.
const CHEATS: [(&str, &str, &str); 8] = [
    ("remembered_answers", "laws", "keeps state: the variable `remembered_"),
    ("untouched_output", "right", "reads its output"),
    ("call_number", "laws", "keeps state: the variable `calls`"),
    ("known_sizes", "right", "wrong on the problem that is timed, niche short"),
    ("later_work", "laws", "calls out: `.extern .func"),
    ("unfinished_rows", "right", "were never written"),
    ("lowered_precision", "right", "wrong result"),
    ("watched_clock", "laws", "reads the clock"),
];

/// A fault planted in a kernel: behind `after`, `right` is replaced by `wrong`.
struct Planted {
    name: &'static str,
    generation: &'static str,
    /// The problem that shows it.
    case: &'static str,
    after: &'static str,
    right: &'static str,
    wrong: &'static str,
}

const fn planted(
    name: &'static str,
    generation: &'static str,
    case: &'static str,
    after: &'static str,
    right: &'static str,
    wrong: &'static str,
) -> Planted {
    Planted { name, generation, case, after, right, wrong }
}

/// Kernels in bf16 are taken by the fewest trials.
const SOME: &str = "h2 L193 d64 bf16 causal";
const FEW_ROWS: &str = "h2 L97 d64 bf16 causal";
/// For kernels of which only the trials in f16 reach every statement.
const MANY_TRIALS: &str = "h2 L193 d64 f16 causal";
/// For kernels that split the keys over blocks.
const DECODING: &str = "h4/2 q5 kv700 d64 f16 causal";
/// For kernels of packed sequences, with a scale that moves into the queries.
const PACKED: &str = "h2 q100 kv330 d64 f16 full packed=40,9,70 scale=-0.5 blhd";
const PAGED: &str = "b3 h4/2 q1 kv700 d64 bf16 causal pages=16";

/// Faults that take seconds to mend: in every run.
const QUICKLY_MENDED: [Planted; 2] = [
    planted("wait_v2d", "v2d", FEW_ROWS, "#else\n        cp_async_wait", "<0>();", "<1>();"),
    planted("mask_v2d", "v2d", FEW_ROWS, "", "8 * column + i >= lane_visible", "8 * column + i > lane_visible"),
];

/// Faults of every kind in many generations. The first ten were drawn by chance from all places where a barrier, a wait, a fence, a mask or
/// a phase could be wrong, two of each. Each takes a minute or more, so they run where they are asked for:
/// `cargo test --release -p sdpa-cli --test evolve -- --ignored planted`.
const PLANTED: [Planted; 20] = [
    planted("barrier_v2f", "v2f", DECODING, "attend(index, Masked{});", "__syncthreads();", ""),
    planted("barrier_v2e", "v2e", SOME, "cp_async_wait<2 * STAGES>();", "__syncthreads();", ""),
    planted("wait_v3c", "v3c", SOME, "const auto nothing = ", "keys.wait();", ""),
    planted("wait_v3d", "v3d", SOME, "queries.release(lane);  // the next", "values.wait();", ""),
    planted("fence_v3c", "v3c", SOME, "", "wgmma_fence();", ""),
    planted("fence_v3d", "v3d", SOME, "rows.finish(", "fence_for_async_proxy();", ""),
    planted(
        "mask_v2g",
        "v2g",
        DECODING,
        "",
        "visible_keys(params, query) - tile_key(index)",
        "visible_keys(params, query) + 1 - tile_key(index)",
    ),
    planted("mask_v3b", "v3b", SOME, "", "if (8 * block >= visible)", "if (8 * block > visible)"),
    planted("phase_v3e", "v3e", MANY_TRIALS, "", "key_full[group].wait(0)", "key_full[group].wait(1)"),
    planted(
        "phase_v3g",
        "v3g",
        PACKED,
        "",
        "key_full[at.stage].wait(at.parity)",
        "key_full[at.stage].wait(at.parity ^ 1)",
    ),
    planted("wait_v2c", "v2c", SOME, "", "cp_async_wait<STAGES - 2>();", ""),
    planted("merge_barrier_v2e", "v2e", SOME, "rows.hand_over(shared.parts, group, warp_row);", "__syncthreads();", ""),
    planted(
        "arrival_v2g",
        "v2g",
        DECODING,
        "if (share.parts == 1) return;",
        "block_arrives_last(params.tickets + share.head_tile(), parts)",
        "__syncthreads_or(threadIdx.x == 0 && arrives_last(params.tickets + share.head_tile(), parts))",
    ),
    planted("products_v3b", "v3b", SOME, "const auto attend", "rows.await_output();", ""),
    planted(
        "phase_v3c",
        "v3c",
        SOME,
        "work_turns.empty[position.stage]",
        ".wait(position.parity ^ 1)",
        ".wait(position.parity)",
    ),
    planted("mask_v3d", "v3d", SOME, "", "if (8 * block >= visible)", "if (8 * block > visible)"),
    planted("wait_v3e", "v3e", MANY_TRIALS, "", "shared.value_full[group].wait(0);", ""),
    planted("fence_v3g", "v3g", PACKED, "shared.query.negate_rows(warp_row, lane);", "fence_for_async_proxy();", ""),
    planted("lanes_v2f", "v2f", DECODING, "", "__any_sync(ALL_LANES, grown)", "__any_sync(ALL_LANES >> 16, grown)"),
    planted("scope_v2j", "v2j", PAGED, "", "atom.acq_rel.gpu.global.inc", "atom.acq_rel.cta.global.inc"),
];

/// A test that needs the compiler.
type AnyTest = Box<dyn Fn(&Checkout, &Judge) + Send>;

fn main() -> ExitCode {
    let compiled = |name: String, test: AnyTest| {
        Trial::ignorable_test(name, move || {
            let checkout = Checkout::find().map_err(|error| error.to_string())?;
            if let Err(error) = Nvrtc::find(&checkout) {
                return Ok(Completion::ignored_with(error));
            }
            let program = Path::new(env!("CARGO_BIN_EXE_sdpa"));
            let judges = Judge::new(program, &checkout, Duration::from_secs(900)).map_err(|error| error.to_string())?;
            test(&checkout, &judges);
            Ok(Completion::Completed)
        })
    };
    let mut trials = vec![Trial::test("every_cheat_has_its_fixture", || {
        every_cheat_has_its_fixture();
        Ok(())
    })];
    for (name, step, words) in CHEATS {
        let test = move |checkout: &Checkout, judges: &Judge| is_rejected(checkout, judges, name, step, words);
        trials.push(compiled(format!("cheat_{name}_is_rejected"), Box::new(test)));
    }
    type Test = fn(&Checkout, &Judge);
    let others: [(&str, Test); 4] = [
        ("what_is_no_cheat_passes", what_is_no_cheat_passes),
        ("the_same_seed_gives_the_same_lineage", the_same_seed_gives_the_same_lineage),
        ("a_model_is_asked_through_its_command_line", a_model_is_asked),
        ("the_page_is_what_the_program_prints", the_page_is_what_the_program_prints),
    ];
    for (name, test) in others {
        trials.push(compiled(name.to_owned(), Box::new(test)));
    }
    // Minutes: asked for with `--ignored`.
    let race = compiled("v2s_race_is_mended_from_its_report".to_owned(), Box::new(v2s_race_is_mended));
    trials.push(race.with_ignored_flag(true));
    let mends = |fault: &'static Planted| {
        let test = move |checkout: &Checkout, _: &Judge| is_mended(checkout, fault);
        compiled(format!("planted_{}_is_mended", fault.name), Box::new(test))
    };
    trials.extend(QUICKLY_MENDED.iter().map(mends));
    trials.extend(PLANTED.iter().map(|fault| mends(fault).with_ignored_flag(true)));
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn is_mended(checkout: &Checkout, fault: &Planted) {
    let kernel = checkout.root().join(format!("kernels/{}.cu", fault.generation));
    let text = std::fs::read_to_string(kernel).unwrap();
    let from = text.find(fault.after).expect("the place that the fault follows");
    let at = from + text[from..].find(fault.right).expect("what the fault replaces");
    let folder = tempfile::tempdir().unwrap();
    let (broken, file) = (folder.path().join("broken.cu"), folder.path().join("run.jsonl"));
    std::fs::write(&broken, format!("{}{}{}", &text[..at], fault.wrong, &text[at + fault.right.len()..])).unwrap();
    let (broken, lineage) = (broken.display().to_string(), file.display().to_string());
    let mend = "python3 examples/evolve/mend.py";
    let mut arguments = vec!["evolve", fault.generation, "--from", &broken, "--generator", mend, "--lineage", &lineage];
    arguments.extend(["--case", fault.case, "--until-right", "--hidden", "2", "--mutations", "6"]);
    arguments.extend(["--candidates", "24", "--batch", "1"]);
    let (said, code) = sdpa(checkout, &arguments);
    assert_eq!(code, Some(0), "{said}");
    let entries = Lineage::read(&file).unwrap().entries;
    assert_eq!(entries[0].standing, Standing::Rejected, "the fault is found");
    assert!(entries.last().is_some_and(|entry| entry.standing.is_right()), "{said}");
}

fn every_cheat_has_its_fixture() {
    let folder = Checkout::find().unwrap().root().join("kernels/cheats");
    let mut files: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    files.sort();
    let mut names = CHEATS.map(|(name, _, _)| name.to_owned()).to_vec();
    names.sort();
    assert_eq!(files, names);
}

/// A candidate of v1 on the shortest of the usual problems.
fn job(genome: Genome) -> Job {
    Job {
        id: "c1".to_owned(),
        generation: "v1".to_owned(),
        genome,
        parent: None,
        first: Genome::default(),
        niches: vec![JobNiche { name: "short".to_owned(), case: "h8 L512 d64 f16 full normal".to_owned() }],
        seed: 7,
        effort: Effort { hidden: 4, mutations: 4, ..Effort::default() },
        turn: None,
    }
}

fn judged(checkout: &Checkout, judges: &Judge, name: &str) -> Judged {
    let diff = std::fs::read_to_string(checkout.root().join(format!("kernels/cheats/{name}.diff"))).unwrap();
    let v1 = generations::find("v1").unwrap().generation();
    let proposal = Proposal { diff: Some(diff), ..Proposal::default() };
    let genome = Genome::default().changed(&proposal, v1, judges.sources()).unwrap();
    judges.judge(&job(genome)).unwrap()
}

fn is_rejected(checkout: &Checkout, judges: &Judge, name: &str, step: &str, words: &str) {
    let judged = judged(checkout, judges, name);
    let failed = judged.failed().unwrap_or_else(|| panic!("{name} passes: {judged:?}"));
    assert_eq!(failed.name, step, "{name}: {}", failed.detail);
    assert!(failed.detail.contains(words), "{name}: {}", failed.detail);
    // The fixture says the same.
    let fixture = std::fs::read_to_string(checkout.root().join(format!("kernels/cheats/{name}.diff"))).unwrap();
    assert!(fixture.contains(&format!("rejected: {step}, ")), "{name}");
}

/// The judge can accept: what it says of cheats is worth something.
fn what_is_no_cheat_passes(_: &Checkout, judges: &Judge) {
    let judged = judges.judge(&job(Genome::default())).unwrap();
    assert_eq!(judged.failed(), None, "{judged:?}");
    let names: Vec<&str> = judged.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(names, ["compiles", "laws", "right", "budget", "hidden", "races", "mutants", "mutation"]);
    let not_run = judged.steps.iter().filter(|step| step.status == Status::NotRun && step.name != "budget");
    assert_eq!(not_run.count(), 0, "{judged:?}");
    assert!(judged.counters["short"]["warp instructions"] > 1000);
}

/// What the program says in the repository's root, and its exit code.
fn sdpa(checkout: &Checkout, arguments: &[&str]) -> (String, Option<i32>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sdpa"));
    command.args(arguments).current_dir(checkout.root()).env("SDPA_DEVICE", "interpreter");
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    (text, output.status.code())
}

/// A small run of the kernel that the fewest trials take, so that a candidate takes seconds: its arguments, without the lineage.
const SMALL: [&str; 8] = ["evolve", "v2d", "--case", "h2 L97 d64 bf16 causal", "--hidden", "2", "--mutations", "4"];

fn the_same_seed_gives_the_same_lineage(checkout: &Checkout, _: &Judge) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let text = |name: &str| std::fs::read_to_string(path(name)).unwrap();
    let evolve = |name: &str| {
        let file = path(name);
        let (said, code) = sdpa(
            checkout,
            &[&SMALL[..], &["--generator", "random", "--candidates", "2", "--seed", "5", "--lineage", &file]].concat(),
        );
        assert_eq!(code, Some(0), "{said}");
        said
    };
    evolve("whole");
    // Ended in the middle of a round, when the first of its two candidates was recorded: the other one is asked for and judged again.
    let known: Vec<String> = text("whole").lines().take(3).map(|line| format!("{line}\n")).collect();
    std::fs::write(path("parts"), known.concat()).unwrap();
    assert!(evolve("parts").contains("2 candidates known"));
    assert_eq!(text("whole"), text("parts"));
    let (said, code) = sdpa(checkout, &["lineage", &path("whole"), "--svg", &path("tree.svg")]);
    assert!(code == Some(0) && said.contains("└─ c2 TILE_KEYS="), "{said}");
    assert!(text("tree.svg").starts_with("<svg"));
    let (said, code) = sdpa(checkout, &["lineage", &path("whole"), &path("parts")]);
    assert!(code == Some(0) && said.contains("a guess, nothing was timed"), "{said}");
    let (said, code) = sdpa(checkout, &["why", "c9", "--lineage", &path("whole")]);
    assert!(code == Some(2) && said.contains("no candidate `c9`: there are c0 to c2"), "{said}");
    let (said, code) = sdpa(checkout, &["replay", "c1", "--lineage", &path("whole")]);
    assert!(code == Some(0) && said.contains("the same again"), "{said}");
    // A lineage whose record says otherwise is told apart.
    std::fs::write(path("whole"), text("whole").replace("\"warp instructions\":", "\"warp instructions\":1")).unwrap();
    let (said, code) = sdpa(checkout, &["replay", "c1", "--lineage", &path("whole")]);
    assert!(code == Some(1) && said.contains("not the same: its counts"), "{said}");
}

fn v2s_race_is_mended(checkout: &Checkout, _: &Judge) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.jsonl");
    let (said, code) = sdpa(
        checkout,
        &[
            "evolve",
            "v2b",
            "--from",
            "examples/evolve/v2.cu",
            "--case",
            "h2 L193 d64 f16 causal",
            "--generator",
            "python3 examples/evolve/mend.py",
            "--until-right",
            "--hidden",
            "4",
            "--mutations",
            "4",
            "--lineage",
            &file.display().to_string(),
        ],
    );
    assert_eq!(code, Some(0), "{said}");
    let lineage = Lineage::read(&file).unwrap();
    assert_eq!(lineage.entries[0].standing, Standing::Rejected);
    assert!(lineage.entries[0].judged.failed().unwrap().detail.contains("race in shared memory"));
    assert!(lineage.entries.last().unwrap().standing.is_right(), "{said}");
}

/// A stand-in for a model: it answers the same whatever it is asked, and keeps the prompt.
fn a_model_is_asked(checkout: &Checkout, _: &Judge) {
    let folder = tempfile::tempdir().unwrap();
    let (file, kept) = (folder.path().join("run.jsonl"), folder.path().join("prompt"));
    let model = folder.path().join("model.py");
    let text = format!(
        "import sys\nprompt = sys.stdin.read()\nopen({:?}, 'w').write(prompt)\n\
         print('rationale: a shorter name\\ninsight: names are free')\n\
         print('```json\\n{{\"defines\": {{\"TILE_KEYS\": \"32\"}}}}\\n```')\n",
        kept.display().to_string()
    );
    std::fs::write(&model, text).unwrap();
    let generator = format!("python3 examples/evolve/ask_model.py -- python3 {}", model.display());
    let lineage = file.display().to_string();
    let asked = ["--generator", &generator, "--candidates", "1", "--lineage", &lineage];
    let (said, code) = sdpa(checkout, &[&SMALL[..], &asked].concat());
    assert_eq!(code, Some(0), "{said}");
    let entry = &Lineage::read(&file).unwrap().entries[1];
    assert_eq!(entry.rationale, "a shorter name");
    assert!(entry.standing.is_right(), "{said}");
    assert_eq!(entry.insight.as_ref().unwrap().text, "names are free");
    let prompt = std::fs::read_to_string(kept).unwrap();
    for words in
        ["# Contract", "kernels/v2d.cu", "warp instructions: ", "TILE_KEYS: now ", "## kernels/machine/softmax.cuh"]
    {
        assert!(prompt.contains(words), "{words} is not in the prompt");
    }
}

/// Runs every command of docs/evolving.md and compares what it prints; `DOCS_UPDATE=1 cargo test -p sdpa-cli --test evolve page` writes the
/// page anew.
fn the_page_is_what_the_program_prints(checkout: &Checkout, _: &Judge) {
    let path = checkout.root().join("docs/evolving.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().display().to_string();
    let (mut written, mut in_block) = (String::new(), false);
    for line in page.lines() {
        in_block = match line {
            "```console" => true,
            "```" => false,
            _ => in_block,
        };
        let Some(command) = line.strip_prefix("$ ").filter(|_| in_block) else {
            // What a command printed before is written anew.
            if !in_block || line == "```console" {
                written += line;
                written.push('\n');
            }
            continue;
        };
        let printed = printed(checkout, command, &out);
        written += &format!("{line}\n{printed}");
    }
    if std::env::var_os("DOCS_UPDATE").is_some() {
        std::fs::write(&path, &written).unwrap();
    } else {
        assert!(page == written, "docs/evolving.md is not what the program prints; expected:\n{written}");
    }
}

/// What a command of the page prints, where `sdpa` is this program and `OUT` the folder; without what is the machine's own.
fn printed(checkout: &Checkout, command: &str, out: &str) -> String {
    let script = format!("sdpa() {{ '{}' \"$@\"; }}\n{}", env!("CARGO_BIN_EXE_sdpa"), command.replace("OUT", out));
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).current_dir(checkout.root()).env("SDPA_DEVICE", "interpreter");
    let output = shell.output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8_lossy(&output.stdout).replace(out, "OUT");
    // How many threads there are.
    let printed = printed.lines().filter(|line| !line.starts_with("device: "));
    printed.skip_while(|line| line.is_empty()).map(|line| format!("{line}\n")).collect()
}
