//! What generations gave on a GPU against what they give here, element by element: `tests/golden/*.bin`. An output that was
//! not recorded yet is a test that is ignored, and says so: `sdpa record` records it on a GPU.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use harness::check::Trial as Input;
use harness::golden::{Compared, compare, name, trials};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use ptx_probes::Recording;
use sdpa::generations;
use sdpa_core::{Attention, Interpreter};

fn main() -> ExitCode {
    let mut tests = vec![Trial::test("there_are_recordings", || match recordings().is_empty() {
        true => Err("there is no recording in crates/harness/tests/golden: `sdpa record` makes one on a GPU".into()),
        false => Ok(()),
    })];
    for path in recordings() {
        let device = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let recording = std::fs::read(&path).map_err(|error| error.to_string());
        let recording =
            Arc::new(recording.and_then(|bytes| Recording::from_bytes(&bytes).map_err(|error| error.to_string())));
        for generation in generations::ALL {
            for input in trials(*generation) {
                let recording = Arc::clone(&recording);
                let test = format!("{device}: {}", name(*generation, &input));
                tests.push(Trial::ignorable_test(test, move || match recording.as_ref() {
                    Ok(recording) => is_that_of_the_device(*generation, &input, recording),
                    Err(error) => Err(error.into()),
                }));
            }
        }
    }
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}

fn recordings() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let files = std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|extension| extension == "bin")).collect();
    files.sort();
    files
}

/// A generation that was added without a GPU is not recorded yet; a recording of other inputs is a failure.
fn is_that_of_the_device(
    generation: &dyn Attention,
    input: &Input,
    recording: &Recording,
) -> Result<Completion, Failed> {
    match compare(&Interpreter::new(), generation, input, recording)? {
        Compared::Missing => Ok(Completion::ignored_with(format!("not recorded on {}", recording.provenance))),
        Compared::Stale => Err("recorded of other inputs: `sdpa record` anew".into()),
        Compared::Distance(found) if found.is_close() => Ok(Completion::Completed),
        Compared::Distance(found) => Err(format!("{found:?} from {}", recording.provenance).into()),
    }
}
