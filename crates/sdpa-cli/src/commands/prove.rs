//! `sdpa prove`: the proof on a GPU, written down: the suite, compute-sanitizer's tools, and the same bits in every run.

use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use rayon::prelude::*;
use sdpa::generations;
use sdpa_toolchain::{Checkout, find_tool, write_whole};

use super::verify::{Verified, VerifiedAs};
use super::{FAILED, Outcome, bar, generation};

/// Prove every generation on the GPU here and write down what each tool said
///
/// Runs the suite on CUDA, compute-sanitizer's four tools over small cases, and larger cases a hundred and one times, whose
/// bits must be the same. Needs a GPU, compute-sanitizer on PATH, and the suite as a program:
///
/// cargo test -p harness --release --test suite --no-run
///
/// With `--features sdpa/machine-code` for both programs the driver has nothing to compile, which otherwise takes seconds for
/// each of the larger kernels; the harness's test `machine_code` shows that both give the same bits.
///
/// Exits 1 if anything failed or nothing ran; the page is written all the same, and says so. What a generation does not
/// take is listed, too.
#[derive(clap::Args, Debug)]
pub(crate) struct Prove {
    /// Which generations; all by default
    #[arg(value_name = "ID")]
    generations: Vec<String>,
    /// The suite's program, target/release/deps/suite-HASH
    #[arg(long, value_name = "PROGRAM")]
    suite: PathBuf,
    /// Runs under compute-sanitizer at a time; as many as cores by default
    #[arg(long, value_name = "N", default_value_t = 0)]
    jobs: usize,
    /// The page to write; standard output by default
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The program that verifies single cases, instead of this one
    #[arg(long, value_name = "PROGRAM", hide = true)]
    program: Option<PathBuf>,
}

/// Ragged, causal, shared key heads; few queries over many keys, which some generations split over blocks; and each extension of
/// the problem. Small, since the tools run a hundred times slower.
const SANITIZED: [&str; 15] = [
    "h2 L300 d64 f16 causal normal seed=3",
    "h3 q77 kv200 d64 bf16 full normal seed=3",
    "h2 q70 kv193 d256 f16 full normal seed=3",
    "h2 q130 kv300 d96 bf16 causal normal seed=3",
    "h4/2 q150 kv450 d128 bf16 causal normal seed=3",
    "h8/2 q1 kv700 d64 f16 full normal seed=3",
    "h8/2 q4 kv2100 d128 bf16 causal normal seed=3",
    "h2 q200 kv300 d128 f16 causal packed=3,150,200 normal seed=3",
    "h4/2 q100 kv330 d32 bf16 full packed=40,9,70 blhd sinks normal seed=3",
    "b3 h2/1 q137 kv193 d64 f16 full key-lengths window=70,66 sinks normal seed=3",
    "h4 q130 kv200 d128 bf16 causal softcap=30 slopes normal seed=3",
    "h2 q65 kv193 d192 f16 causal value_dim=128 normal seed=3",
    "b3 h4/2 q3 kv700 d64 f16 causal pages=16 normal seed=3",
    "h4/2 q40 kv300 d128 bf16 causal packed=12,9,300 page-lists=8 window=70,3 sinks blhd normal seed=3",
    "b3 h4/2 q3 kv700 d128 bf16 causal kv=e4m3-per-head pages=16 normal seed=3",
];

const TOOLS: [&str; 4] = ["memcheck", "racecheck", "initcheck", "synccheck"];

const REPEATED: [&str; 7] = [
    "b1 h8 L512 d64 f16 causal normal seed=3",
    "b2 h8 L2048 d128 bf16 causal normal seed=3",
    "b2 h32/4 q1 kv8192 d128 bf16 full normal seed=3",
    "h8 L4000 d64 bf16 causal packed=64,300,300 blhd sinks normal seed=3",
    "b2 h8 L1024 d192 bf16 causal value_dim=128 normal seed=3",
    "b16 h32/8 q1 kv4096 d128 bf16 causal pages=16 normal seed=3",
    "b16 h32/8 q1 kv4096 d128 bf16 causal kv=e4m3-per-head pages=16 normal seed=3",
];

const REPETITIONS: u64 = 100;

/// compute-sanitizer's exit code for a finding.
const FOUND: i32 = 9;

/// What a program said, and how it ended: `exit 0`, `killed by signal 6`, `not started`.
struct Said {
    code: Option<i32>,
    ending: String,
    text: String,
}

/// What makes one part of the page.
type Part<'p> = Box<dyn Fn() -> Result<Section, Box<dyn std::error::Error>> + 'p>;

/// One part of the page.
struct Section {
    good: bool,
    title: String,
    lines: Vec<String>,
}

impl Prove {
    pub(crate) fn run(&self, out: &mut dyn Write) -> Outcome {
        let program = match &self.program {
            Some(program) => absolute(program)?,
            None => std::env::current_exe()?,
        };
        let suite_program = absolute(&self.suite)?;
        if let Some(folder) = self.output.as_deref().and_then(Path::parent)
            && !folder.as_os_str().is_empty()
            && !folder.is_dir()
        {
            return Err(format!("{}: no such folder", folder.display()).into());
        }
        let ids: Vec<&str> = match self.generations.as_slice() {
            [] => generations::ids(),
            asked => asked.iter().map(|id| Ok(generation(id)?.generation().id)).collect::<Result<_, String>>()?,
        };
        let mut smi = Command::new("nvidia-smi");
        smi.args(["--query-gpu=name,driver_version,clocks.current.sm,power.draw,temperature.gpu", "--format=csv"]);
        let gpu = run(&mut smi, "nvidia-smi").text;
        let mut parts: Vec<Part> = self
            .suites(&ids)
            .into_iter()
            .map(|filter| -> Part {
                let suite_program = &suite_program;
                Box::new(move || Ok(suite(suite_program, filter)))
            })
            .collect();
        parts.push(Box::new(|| Ok(repeated(&program, &ids))));
        parts.push(Box::new(|| self.sanitized(&program, &ids)));
        let mut sections = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            let started = Instant::now();
            let section = part()?;
            eprintln!("{}: {:.0} s", section.title, started.elapsed().as_secs_f64());
            sections.push(section);
            // What was proven is kept if the rest is cut short, and then the page says so.
            if let Some(path) = self.output.as_ref().filter(|_| index + 1 < parts.len()) {
                let unfinished = Section {
                    good: false,
                    title: "Not finished".to_owned(),
                    lines: vec![format!("{} of {} parts ran", index + 1, parts.len())],
                };
                let so_far: Vec<&Section> = sections.iter().chain([&unfinished]).collect();
                write_whole(path, page(&gpu, &so_far).as_bytes())?;
            }
        }
        let page = page(&gpu, &sections.iter().collect::<Vec<_>>());
        match &self.output {
            Some(path) => write_whole(path, page.as_bytes())?,
            None => write!(out, "{page}")?,
        }
        let good = sections.iter().all(|section| section.good);
        Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
    }

    /// What the suite is run with: once for all generations and what concerns none, or once for each that was asked for, so
    /// that each stands on the page as soon as it is proven.
    fn suites<'i>(&self, ids: &[&'i str]) -> Vec<Option<&'i str>> {
        match self.generations.as_slice() {
            [] => vec![None],
            _ => ids.iter().map(|id| Some(*id)).collect(),
        }
    }

    /// All tools over all cases that the generations take, so many at a time.
    fn sanitized(&self, program: &Path, ids: &[&str]) -> Result<Section, Box<dyn std::error::Error>> {
        let Some(sanitizer) = find_tool("compute-sanitizer") else {
            let lines = vec!["not on PATH".to_owned()];
            return Ok(Section { good: false, title: "compute-sanitizer".to_owned(), lines });
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.jobs).build()?;
        let asked: Vec<(&str, &str)> = ids.iter().flat_map(|id| SANITIZED.map(|case| (*id, case))).collect();
        let progress = bar((asked.len() * TOOLS.len()) as u64);
        let (refused, results): (Vec<String>, Vec<(bool, String)>) = pool.install(|| {
            let refusals = asked.par_iter().map(|(id, case)| refusal(&verify(program, id, case, 1), id, case));
            let refusals: Vec<Option<String>> = refusals.collect();
            let taken = asked.iter().zip(&refusals).filter(|(_, refusal)| refusal.is_none());
            let runs: Vec<(&str, &str, &str)> =
                taken.flat_map(|((id, case), _)| TOOLS.map(|tool| (tool, *id, *case))).collect();
            progress.set_length(runs.len() as u64);
            let results = runs.par_iter().map(|(tool, id, case)| {
                let result = sanitize(&sanitizer, tool, program, id, case);
                progress.inc(1);
                result
            });
            (refusals.iter().flatten().cloned().collect(), results.collect())
        });
        progress.finish_and_clear();
        let clean = results.iter().filter(|(clean, _)| *clean).count();
        Ok(Section {
            good: clean > 0 && clean == results.len(),
            title: format!("compute-sanitizer: {clean} of {} runs clean", results.len()),
            lines: results.into_iter().map(|(_, line)| line).chain(refused).collect(),
        })
    }
}

fn absolute(program: &Path) -> Result<PathBuf, String> {
    let found = program.canonicalize().ok().filter(|path| path.is_file());
    found.ok_or_else(|| format!("{}: no such program; build it as --help says", program.display()))
}

/// Runs a program on CUDA, in the repository if there is one here.
fn run(command: &mut Command, name: &str) -> Said {
    if let Ok(checkout) = Checkout::find() {
        command.current_dir(checkout.root()).env("INSTA_WORKSPACE_ROOT", checkout.root());
    }
    match command.env("SDPA_DEVICE", "cuda").output() {
        Err(error) => {
            Said { code: None, ending: "not started".to_owned(), text: format!("{name} cannot be started: {error}") }
        }
        Ok(output) => {
            let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
            let code = output.status.code();
            let ending = code.map_or_else(|| output.status.to_string(), |code| format!("exit {code}"));
            Said { code, ending, text }
        }
    }
}

/// The last line with the wanted words; if none has them, the last line.
fn last_line<'t>(text: &'t str, wanted: &str) -> &'t str {
    let lines = || text.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    lines().find(|line| line.contains(wanted)).or_else(|| lines().next()).unwrap_or("no output")
}

/// What `sdpa verify --json` said of a case, with other programs' lines around it; none if it did not get so far.
fn verified(said: &Said) -> Option<Verified> {
    said.text.lines().find_map(|line| serde_json::from_str(line).ok())
}

/// The same in one line: what was found, or the last thing that was said.
fn verdict(said: &Said) -> String {
    let own: String = said
        .text
        .lines()
        .filter(|line| !line.starts_with("====="))
        .fold(String::new(), |text, line| text + line + "\n");
    match verified(said) {
        Some(Verified { outcome: VerifiedAs::Right, said, same_runs, judged_rows, unjudged_rows, .. }) => {
            let unjudged = match unjudged_rows {
                0 => String::new(),
                rows => format!(", {rows} rows not"),
            };
            let same = match said.contains("the same bits") {
                true => String::new(),
                false => format!("; the same bits in {same_runs} runs"),
            };
            format!("ok: judged {judged_rows} rows{unjudged}; {said}{same}")
        }
        Some(verified) => verified.said,
        None => last_line(&own, "").to_owned(),
    }
}

fn verify(program: &Path, id: &str, case: &str, repeat: u64) -> Said {
    let mut command = Command::new(program);
    command.args(["verify", id, case, "--json", "--repeat", &repeat.to_string()]);
    run(&mut command, "sdpa")
}

/// The line for a case that the generation does not take.
fn refusal(said: &Said, id: &str, case: &str) -> Option<String> {
    let declined = verified(said).filter(|verified| verified.outcome == VerifiedAs::Declined)?;
    Some(format!("{id} | {case} | declined: {}", declined.said))
}

/// The suite's verdict, what it says of every generation's comparison with the oracle, and the tests that failed. Of one
/// generation, if it is named, its own tests.
fn suite(program: &Path, asked: Option<&str>) -> Section {
    let filter = asked.map(|id| format!("{id}::"));
    let said = run(Command::new(program).args(&filter), "suite");
    let result = last_line(&said.text, "test result:");
    let is_kept = |line: &&str| line.contains("::real_model: ") || line.contains("::matches_reference: ");
    let mut kept: Vec<String> = said.text.lines().filter(is_kept).map(str::to_owned).collect();
    kept.sort();
    let failed = said.text.lines().filter(|line| line.starts_with("test ") && line.contains("... FAILED"));
    let mut failed: Vec<String> =
        failed.filter_map(|line| line.split_whitespace().nth(1)).map(|name| format!("failed: {name}")).collect();
    failed.sort();
    failed.dedup();
    let mut lines = vec![format!("{} | {result}", said.ending)];
    lines.extend(failed.into_iter().chain(kept));
    Section {
        good: said.code == Some(0) && result.starts_with("test result: ok"),
        title: match filter {
            None => "`SDPA_DEVICE=cuda cargo test -p harness --release --test suite`".to_owned(),
            Some(filter) => format!("`SDPA_DEVICE=cuda cargo test -p harness --release --test suite -- {filter}`"),
        },
        lines,
    }
}

/// One tool over one case: whether it found nothing, and its line.
fn sanitize(sanitizer: &Path, tool: &str, program: &Path, id: &str, case: &str) -> (bool, String) {
    let mut command = Command::new(sanitizer);
    command.args(["--tool", tool, "--error-exitcode", &FOUND.to_string()]).arg(program);
    command.args(["verify", id, case, "--json"]);
    let said = run(&mut command, "compute-sanitizer");
    let mut summary = last_line(&said.text, "SUMMARY").trim_start_matches(['=', ' ']).to_owned();
    let is_right =
        verified(&said).is_some_and(|verified| verified.outcome == VerifiedAs::Right && verified.judged_rows > 0);
    let clean = said.code == Some(0) && summary.contains("SUMMARY: 0 ") && is_right;
    if !matches!(said.code, Some(0 | FOUND)) && summary.contains("SUMMARY") {
        // The program itself failed, even if the sanitizer found nothing.
        let _ = write!(summary, " | {}", verdict(&said));
    }
    (clean, format!("{id} | {tool} | {case} | {} | {summary}", said.ending))
}

/// Whether the bits of every case were always the same, for those that the generations take.
fn repeated(program: &Path, ids: &[&str]) -> Section {
    let (mut judged, mut all_same, mut lines) = (0, true, Vec::new());
    for (id, case) in ids.iter().flat_map(|id| REPEATED.map(|case| (*id, case))) {
        let said = verify(program, id, case, REPETITIONS);
        if let Some(line) = refusal(&said, id, case) {
            lines.push(line);
            continue;
        }
        judged += 1;
        let found = verified(&said);
        all_same &= said.code == Some(0)
            && found.is_some_and(|found| {
                found.outcome == VerifiedAs::Right && found.same_runs == REPETITIONS + 1 && found.judged_rows > 0
            });
        lines.push(format!("{id} | {case} | {} | {}", said.ending, verdict(&said)));
    }
    let title = format!("The same bits in {} runs", REPETITIONS + 1);
    Section { good: judged > 0 && all_same, title, lines }
}

fn page(gpu: &str, sections: &[&Section]) -> String {
    let mut page =
        format!("# Verified on a GPU\n\nWritten by `sdpa prove`; edits are lost.\n\n```\n{}\n```\n", gpu.trim());
    for Section { good, title, lines } in sections.iter().copied() {
        let mark = if *good { "" } else { "**Something failed here.**\n\n" };
        // Writing to a string cannot fail.
        let _ = write!(page, "\n## {title}\n\n{mark}```\n{}\n```\n", lines.join("\n"));
    }
    page
}
