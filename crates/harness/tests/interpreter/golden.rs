//! What generations gave on a GPU against what they give here, element by element: `tests/golden/*.bin`.

use std::path::Path;

use harness::generations;
use harness::golden::{Compared, compare, name, trials};
use ptx_interp::probes::Recording;
use sdpa_core::Interpreter;

#[test]
fn outputs_are_those_of_the_device() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut files: Vec<_> =
        std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "bin"));
    files.sort();
    assert!(!files.is_empty(), "there is no recording in {}; `sdpa record` makes one on a GPU", folder.display());
    let mut wrong = Vec::new();
    for path in files {
        let bytes = std::fs::read(&path).expect("is readable");
        let recording = Recording::from_bytes(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for generation in generations::ALL {
            for trial in trials(*generation) {
                let name = name(*generation, &trial);
                match compare(&Interpreter::new(), *generation, &trial, &recording).expect("runs") {
                    Compared::Missing => wrong.push(format!("{name}: not recorded on {}", recording.provenance)),
                    Compared::Distance(found) => {
                        println!("{name}: {found:?}");
                        if !found.is_close() {
                            wrong.push(format!("{name}: {found:?} from {}", recording.provenance));
                        }
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
