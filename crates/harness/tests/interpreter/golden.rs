//! What generations gave on a GPU against what they give here, element by element: `tests/golden/*.bin`.

use std::path::Path;

use harness::golden::{Compared, compare, name, trials};
use ptx_probes::Recording;
use sdpa::generations;
use sdpa_core::Interpreter;

/// A generation that was added without a GPU is not recorded yet, which is said and no failure; a recording of other
/// inputs is one.
#[test]
fn outputs_are_those_of_the_device() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut files: Vec<_> =
        std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "bin"));
    files.sort();
    assert!(!files.is_empty(), "there is no recording in {}; `sdpa record` makes one on a GPU", folder.display());
    let (mut wrong, mut compared, mut missing) = (Vec::new(), 0, Vec::new());
    for path in files {
        let bytes = std::fs::read(&path).expect("is readable");
        let recording = Recording::from_bytes(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for generation in generations::ALL {
            for trial in trials(*generation) {
                let name = name(*generation, &trial);
                match compare(&Interpreter::new(), *generation, &trial, &recording).expect("runs") {
                    Compared::Missing => missing.push(format!("{name}: not recorded on {}", recording.provenance)),
                    Compared::Stale => wrong.push(format!("{name}: recorded of other inputs: `sdpa record` anew")),
                    Compared::Distance(found) => {
                        compared += 1;
                        println!("{name}: {found:?}");
                        if !found.is_close() {
                            wrong.push(format!("{name}: {found:?} from {}", recording.provenance));
                        }
                    }
                }
            }
        }
    }
    println!("{compared} outputs compared, {} not recorded", missing.len());
    missing.iter().for_each(|missing| println!("{missing}"));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(compared > 0, "no output was compared: every one is missing");
}
