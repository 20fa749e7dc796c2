//! Five typical mistakes in a kernel, each led to its line by the first screen of what the gate prints. Tests that need a compiler are
//! ignored where there is none, and say so.

use std::path::Path;
use std::process::{Command, ExitCode};

use harness::acceptance;
use libtest_mimic::{Arguments, Completion, Trial};
use sdpa::generations;
use sdpa_cli::gate::{self, Status, StepRecord};
use sdpa_core::{Device as _, DeviceKind, Specialisation};
use sdpa_toolchain::{Checkout, KernelTexts, Nvrtc, Sources};

/// A screen's lines, and its columns.
const LINES: usize = 24;
const COLUMNS: usize = 100;

/// Lines that stand above an acceptance step's: the device, the generation, what is judged in two lines, the step before in
/// two; and two for the edited line and what it was.
const ABOVE: usize = 8;

/// A mistake that an author makes.
struct Mistake {
    name: &'static str,
    generation: &'static str,
    /// This text, the only one or the first after the other, is replaced.
    after: &'static str,
    right: &'static str,
    wrong: &'static str,
    /// What the screen shows, without any help of git: a statement of the kernel, which stands for its file and line, or words.
    shows: &'static [Shows],
}

enum Shows {
    LineOf(&'static str),
    Words(&'static str),
}

use Shows::{LineOf, Words};

const MISTAKES: [Mistake; 10] = [
    Mistake {
        name: "v2d_a_barrier_dropped",
        generation: "v2d",
        after: "#else\n        cp_async_wait<0>();",
        right: "__syncthreads();",
        wrong: "",
        shows: &[LineOf("rows.multiply_keys(score, stage);"), Words("missing: a barrier between the two")],
    },
    Mistake {
        name: "v2d_a_mask_one_key_too_wide",
        generation: "v2d",
        after: "",
        right: "8 * column + i >= lane_visible",
        wrong: "8 * column + i > lane_visible",
        shows: &[Words("looks like one key too many is seen, behind a row's last")],
    },
    Mistake {
        name: "v2d_a_stage_of_the_ring_that_is_not_loaded_yet",
        generation: "v2d",
        after: "stage.value +=",
        right: "ring_offset<STAGES>(key_tile,",
        wrong: "ring_offset<STAGES>(key_tile + 1,",
        shows: &[LineOf("rows.multiply_values(score, stage);")],
    },
    Mistake {
        name: "v2d_a_lane_off_by_one",
        generation: "v2d",
        after: "Element* destination",
        right: "lane % 4 * 2",
        wrong: "(lane + 1) % 4 * 2",
        shows: &[Words("looks like columns hold the values of others: column 0 that of 6, column 1 that of 7")],
    },
    Mistake {
        name: "v2d_a_wait_dropped",
        generation: "v2d",
        after: "#else\n        cp_async_wait",
        right: "<0>();",
        wrong: "<1>();",
        shows: &[
            LineOf("rows.multiply_keys(score, stage);"),
            Words("missing: a wait that covers the asynchronous work"),
        ],
    },
    Mistake {
        name: "v3c_a_barrier_dropped",
        generation: "v3c",
        after: "shared.initialise();",
        right: "__syncthreads();",
        wrong: "",
        shows: &[
            LineOf("for (Work work = next_work(); work.exists(); work = next_work()) {"),
            Words("its initialisation"),
        ],
    },
    Mistake {
        name: "v3c_a_mask_one_key_too_wide",
        generation: "v3c",
        after: "",
        right: "8 * block + 1 >= visible",
        wrong: "8 * block + 1 > visible",
        shows: &[Words("looks like one key too many is seen, behind a row's last")],
    },
    Mistake {
        name: "v3c_a_stage_of_the_ring_that_is_not_loaded_yet",
        generation: "v3c",
        after: "if (lane == 0) {",
        right: "shared.work[position.stage]",
        wrong: "shared.work[position.stage ^ 1]",
        shows: &[LineOf("work = shared.work[position.stage ^ 1];")],
    },
    Mistake {
        name: "v3c_a_lane_off_by_one",
        generation: "v3c",
        after: "factor[half] = normaliser(total.sum);",
        right: "lane / 4;",
        wrong: "(lane / 4 + 1) % 8;",
        shows: &[Words("looks like rows hold the log-sum-exp of others: row 0 that of 7, row 1 that of 0")],
    },
    Mistake {
        name: "v3c_a_wait_dropped",
        generation: "v3c",
        after: "multiply_keys(query, keys.tile());\n",
        right: "            values.wait();\n",
        wrong: "",
        shows: &[LineOf("rows.multiply_values(values.tile());")],
    },
];

impl Mistake {
    fn file(&self) -> String {
        format!("{}.cu", self.generation)
    }

    /// The kernel with the mistake.
    fn seeded(&self, sources: &Sources) -> String {
        let text = sources.get(&self.file()).expect("the checkout has it");
        let from = text.find(self.after).expect("the place that the mistake follows");
        let at = from + text[from..].find(self.right).expect("what the mistake replaces");
        format!("{}{}{}", &text[..at], self.wrong, &text[at + self.right.len()..])
    }

    fn is_shown(&self, nvrtc: &Nvrtc, checkout: &Checkout) {
        let generation = generations::find(self.generation).expect("a generation");
        let mut sources = checkout.sources().unwrap();
        let text = self.seeded(&sources);
        sources.insert(self.file(), text.clone());
        // Only what the acceptance cases run is compiled.
        let packed = KernelTexts::packed();
        let device = packed.interpreter();
        let cases = acceptance::cases(DeviceKind::Interpreter).into_iter().map(|case| case.case);
        let plans = cases.filter_map(|case| generation.plan(&case.problem, device.limits()).ok());
        let mut kernels: Vec<Specialisation> =
            plans.flat_map(|plan| plan.launches.into_iter().map(|launch| launch.kernel)).collect();
        kernels.dedup();
        let texts = KernelTexts::compiled(&kernels, &sources, nvrtc, |_| ()).unwrap();
        let explain = |case: &_| gate::findings(generation, case, &texts);
        let found = gate::acceptance(&texts.interpreter(), generation, &explain, &|_| ());
        assert_eq!(found.status, Status::Failed, "{found:?}");
        let step = StepRecord {
            name: "acceptance".to_owned(),
            status: found.status,
            detail: found.detail,
            edited: None,
            look_at: found.look_at,
            seconds: 0.0,
        };
        let screen = first_screen(&gate::render_line(2, &step), LINES - ABOVE);
        for shows in self.shows {
            let expected = match shows {
                Words(words) => (*words).to_owned(),
                LineOf(statement) => {
                    let line = text.lines().position(|line| line.contains(statement)).expect("the statement") + 1;
                    format!("kernels/{}:{line}", self.file())
                }
            };
            // A word may be broken at the edge of the screen.
            assert!(screen.concat().contains(&expected), "{expected} is not on\n{}", screen.join("\n"));
        }
    }
}

/// What a terminal shows of a text without scrolling.
fn first_screen(text: &str, lines: usize) -> Vec<String> {
    let wrapped = text.lines().flat_map(|line| {
        let letters: Vec<char> = line.chars().collect();
        let rows: Vec<String> = letters.chunks(COLUMNS).map(|row| row.iter().collect()).collect();
        if rows.is_empty() { vec![String::new()] } else { rows }
    });
    wrapped.take(lines).collect()
}

/// The whole program in a checkout with a last commit: the line that was edited, whatever else is said.
fn the_edited_line_is_on_the_first_screen(nvrtc: &Nvrtc, checkout: &Checkout) {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let file = folder.path().join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    };
    write("Cargo.toml", "[workspace]\n");
    write("results/.keep", "");
    let sources = checkout.sources().unwrap();
    sources.iter().for_each(|(path, text)| write(&format!("kernels/{path}"), text));
    let git = |arguments: &[&str]| {
        let identity = ["-c", "user.name=author", "-c", "user.email=author@example.com"];
        let output = Command::new("git").arg("-C").arg(folder.path()).args(identity).args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    git(&["init", "-q"]);
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "kernels"]);
    let right = sources.get("v1.cu").unwrap();
    let line =
        right.lines().position(|line| line.contains("softmax_weight(score, ")).expect("v1 weighs its scores") + 1;
    let screen = |text: &str| {
        write("kernels/v1.cu", text);
        gate_screen(folder.path(), nvrtc.home())
    };
    let wrong = right.replacen("softmax_weight(score, ", "softmax_weight(0.5f * score, ", 1);
    let expected = format!("edited     kernels/v1.cu:{line}: `");
    let shown = screen(&wrong);
    assert!(shown.contains(&expected) && shown.contains("in the last commit"), "{expected} is not on\n{shown}");
    // Committed first and judged then.
    git(&["commit", "-q", "-a", "-m", "an edit"]);
    let shown = gate_screen(folder.path(), nvrtc.home());
    assert!(shown.contains(&expected) && shown.contains("in commit "), "{expected} is not on\n{shown}");
}

fn gate_screen(folder: &Path, toolkit: &Path) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sdpa"));
    command.args(["gate", "v1"]).current_dir(folder).env("SDPA_DEVICE", "interpreter").env("CUDA_HOME", toolkit);
    let output = command.output().unwrap();
    first_screen(&String::from_utf8_lossy(&output.stdout), LINES - 2).join("\n")
}

/// A test of a compiled kernel.
type Test = Box<dyn Fn(&Nvrtc, &Checkout) + Send>;

fn main() -> ExitCode {
    let compiled = |name: &str, test: Test| {
        Trial::ignorable_test(name, move || {
            let checkout = Checkout::find().map_err(|error| error.to_string())?;
            match Nvrtc::find(&checkout) {
                Ok(nvrtc) => test(&nvrtc, &checkout),
                Err(error) => return Ok(Completion::ignored_with(error)),
            }
            Ok(Completion::Completed)
        })
    };
    let mistakes = MISTAKES
        .iter()
        .map(|mistake| compiled(mistake.name, Box::new(|nvrtc, checkout| mistake.is_shown(nvrtc, checkout))));
    let edited = compiled("the_edited_line_is_on_the_first_screen", Box::new(the_edited_line_is_on_the_first_screen));
    libtest_mimic::run(&Arguments::from_args(), mistakes.chain([edited]).collect()).exit_code()
}
