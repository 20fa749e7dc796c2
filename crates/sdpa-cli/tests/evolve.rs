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
    after: &'static str,
    right: &'static str,
    wrong: &'static str,
}

const fn planted(
    name: &'static str,
    generation: &'static str,
    after: &'static str,
    right: &'static str,
    wrong: &'static str,
) -> Planted {
    Planted { name, generation, after, right, wrong }
}

/// What `mend.py` is asked to mend: barriers, waits, fences, a mask and a phase. Each takes minutes of candidates, so they run where they
/// are asked for: `cargo test --release -p sdpa-cli --test evolve -- --ignored`.
const PLANTED: [Planted; 10] = [
    planted("query_barrier_v2d", "v2d", "negate_own<THREADS>(threadIdx.x);", "__syncthreads();", ""),
    planted("barrier_v2b", "v2b", "cp_async_wait<STAGES - 2>();", "__syncthreads();", ""),
    planted("barrier_v3", "v3", "shared.initialise();", "__syncthreads();", ""),
    planted("warp_barrier_v2b", "v2b", "weight = 0.0f;", "__syncwarp();", ""),
    planted("wait_v2d", "v2d", "#else\n        cp_async_wait", "<0>();", "<1>();"),
    planted("wait_v3", "v3", "const auto attend", "keys.wait();", ""),
    planted("products_v3", "v3", "values.wait();\n        rows.begin_products();", "rows.end_products();", ""),
    planted("fence_v3", "v3", "rows.finish(params, tile", "fence_for_async_proxy();", ""),
    planted("mask_v2b", "v2b", "k * GROUP + lane", ">= visible", "> visible"),
    planted("phase_v3", "v3", "if (key_tiles > 0) {", "shared.query_full.wait(0)", "shared.query_full.wait(1)"),
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
    let others: [(&str, Test); 3] = [
        ("what_is_no_cheat_passes", what_is_no_cheat_passes),
        ("the_same_seed_gives_the_same_lineage", the_same_seed_gives_the_same_lineage),
        ("a_model_is_asked_through_its_command_line", a_model_is_asked),
    ];
    for (name, test) in others {
        trials.push(compiled(name.to_owned(), Box::new(test)));
    }
    // Minutes each: asked for with `--ignored`.
    let long: [(&str, Test); 2] = [
        ("v2s_race_is_mended_from_its_report", v2s_race_is_mended),
        ("the_page_is_what_the_program_prints", the_page_is_what_the_program_prints),
    ];
    for (name, test) in long {
        trials.push(compiled(name.to_owned(), Box::new(test)).with_ignored_flag(true));
    }
    for fault in &PLANTED {
        let test = move |checkout: &Checkout, _: &Judge| is_mended(checkout, fault);
        let trial = compiled(format!("planted_{}_is_mended", fault.name), Box::new(test));
        trials.push(trial.with_ignored_flag(true));
    }
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
    arguments.extend(["--case", "h2 L193 d64 f16 causal", "--until-right", "--hidden", "3", "--mutations", "2"]);
    arguments.extend(["--candidates", "24"]);
    let (said, code) = sdpa(checkout, &arguments);
    assert_eq!(code, Some(0), "{said}");
    let entries = Lineage::read(&file).unwrap().entries;
    assert_eq!(entries[0].standing, Standing::Rejected, "the fault is found");
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
    assert_eq!(names, ["compiles", "laws", "budget", "right", "hidden", "races", "mutants", "mutation"]);
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

fn the_same_seed_gives_the_same_lineage(checkout: &Checkout, _: &Judge) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let evolve = |name: &str, count: &str| {
        let file = path(name);
        let mut arguments = vec!["evolve", "v2d", "--case", "h2 L193 d64 f16 causal", "--generator", "random"];
        arguments.extend([
            "--candidates",
            count,
            "--seed",
            "5",
            "--hidden",
            "3",
            "--mutations",
            "3",
            "--lineage",
            &file,
        ]);
        sdpa(checkout, &arguments)
    };
    let (said, code) = evolve("whole", "2");
    assert_eq!(code, Some(0), "{said}");
    // Interrupted after the first candidate, and continued.
    assert_eq!(evolve("parts", "1").1, Some(0));
    let (said, code) = evolve("parts", "2");
    assert!(code == Some(0) && said.contains("2 candidates known"), "{said}");
    let text = |name: &str| std::fs::read_to_string(path(name)).unwrap();
    assert_eq!(text("whole"), text("parts"));
    let (said, code) = sdpa(checkout, &["replay", "c1", "--lineage", &path("whole")]);
    assert!(code == Some(0) && said.contains("the same again"), "{said}");
    let (said, code) = sdpa(checkout, &["lineage", &path("whole"), "--svg", &path("tree.svg")]);
    assert!(code == Some(0) && said.contains("└─ c2 TILE_KEYS="), "{said}");
    assert!(text("tree.svg").starts_with("<svg"));
    let (said, code) = sdpa(checkout, &["lineage", &path("whole"), &path("parts")]);
    assert!(code == Some(0) && said.contains("a guess, nothing was timed"), "{said}");
    let (said, code) = sdpa(checkout, &["why", "c9", "--lineage", &path("whole")]);
    assert!(code == Some(2) && said.contains("no candidate `c9`: there are c0 to c2"), "{said}");
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
    let (said, code) = sdpa(
        checkout,
        &[
            "evolve",
            "v2d",
            "--case",
            "h2 L193 d64 f16 causal",
            "--generator",
            &generator,
            "--candidates",
            "1",
            "--hidden",
            "2",
            "--mutations",
            "2",
            "--lineage",
            &file.display().to_string(),
        ],
    );
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

/// Runs every command of docs/evolving.md and compares what it prints; `DOCS_UPDATE=1 cargo test --release -p sdpa-cli --test evolve -- --ignored page` writes the
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
        let Some(command) = line.strip_prefix("$ sdpa ").filter(|_| in_block) else {
            // What a command printed before is written anew.
            if !in_block || line == "```console" {
                written += line;
                written.push('\n');
            }
            continue;
        };
        let arguments: Vec<String> = words(command).iter().map(|word| word.replace("OUT", &out)).collect();
        let mut program = Command::new(env!("CARGO_BIN_EXE_sdpa"));
        let program = program.args(&arguments).current_dir(checkout.root()).env("SDPA_DEVICE", "interpreter");
        let output = program.output().unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        let printed = String::from_utf8_lossy(&output.stdout).replace(&out, "OUT");
        // The machine's own: how many threads it has.
        let printed = printed.lines().filter(|line| !line.starts_with("device: "));
        let printed: Vec<&str> = printed.skip_while(|line| line.is_empty()).collect();
        written += &format!("{line}\n{}\n", printed.join("\n"));
    }
    if std::env::var_os("DOCS_UPDATE").is_some() {
        std::fs::write(&path, &written).unwrap();
    } else {
        assert!(page == written, "docs/evolving.md is not what the program prints; expected:\n{written}");
    }
}

/// The words of a command line, quoted ones without their quotes.
fn words(line: &str) -> Vec<String> {
    let parts = line.split('"').enumerate();
    parts
        .flat_map(|(index, part)| match index % 2 {
            1 => vec![part.to_owned()],
            _ => part.split_whitespace().map(str::to_owned).collect(),
        })
        .collect()
}
