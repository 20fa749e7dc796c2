//! `sdpa new` in a copy of the workspace: the child compiles and passes as it is.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What a workspace is made of: all that is neither built nor downloaded.
const WORKSPACE: [&str; 8] =
    ["Cargo.toml", "Cargo.lock", "README.md", "LICENSE-APACHE", "LICENSE-MIT", "rustfmt.toml", "crates", "kernels"];

/// Copies keep their times: to cargo a newer file is another one.
fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        try_copy(from, to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    }
}

fn try_copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::copy(from, to)?;
    let written = std::fs::metadata(from)?.modified()?;
    std::fs::File::options().write(true).open(to)?.set_modified(written)
}

/// Files of crates that do not depend on where the workspace is, nor on the list of generations, under the same paths: cargo finds
/// them built. Other people's are linked, because they are large and never written again; ours are copied, because they may be.
fn lend_dependencies(from: &Path, to: &Path) {
    for part in ["deps", "build", ".fingerprint"] {
        let Ok(entries) = std::fs::read_dir(from.join(part)) else { continue };
        std::fs::create_dir_all(to.join(part)).unwrap();
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            // The names of tests say nothing of whose they are; those that are lent for nothing do no harm.
            lend(&entry.path(), &to.join(part).join(&name), is_lent(&name));
        }
    }
}

/// How a file is lent, by its name or that of its folder.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lent {
    Not,
    Linked,
    Copied,
}

fn is_lent(name: &str) -> Lent {
    let name = name.strip_prefix("lib").unwrap_or(name).replace('_', "-");
    let is = |of: &str| name.strip_prefix(of).is_some_and(|rest| rest.starts_with('-'));
    let is_generation = sdpa::generations::ids().iter().any(|id| is(&format!("sdpa-{id}")));
    match is_generation || ["ptx-interp", "ptx-probes", "sdpa-core", "sdpa-ref"].into_iter().any(is) {
        true => Lent::Copied,
        false if ["sdpa", "harness"].iter().any(|ours| name.starts_with(ours)) => Lent::Not,
        false => Lent::Linked,
    }
}

fn lend(from: &Path, to: &Path, how: Lent) {
    if how == Lent::Not {
        return;
    }
    if from.is_dir() {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).into_iter().flatten().flatten() {
            lend(&entry.path(), &to.join(entry.file_name()), how);
        }
    } else if how == Lent::Copied || std::fs::hard_link(from, to).is_err() {
        // Another file system, or a file that cargo has just removed: then this one is built anew.
        let _ = try_copy(from, to);
    }
}

/// Runs a command in the copy and gives its output; with what it said where it fails.
fn run(command: &mut Command, root: &Path) -> String {
    let output = command
        .current_dir(root)
        .env("SDPA_DEVICE", "interpreter")
        .env("PROPTEST_CASES", "6")
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}:\n{text}");
    text
}

#[test]
fn a_new_generation_compiles_and_passes_as_it_is() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    // target/debug/deps/new_generation-…
    let program = std::env::current_exe().unwrap();
    let profile = program.parent().and_then(Path::parent).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for part in WORKSPACE {
        copy(&workspace.join(part), &root.join(part));
    }
    let target = root.join("target");
    lend_dependencies(profile, &target.join("debug"));

    // The newest generation is the parent that most people will name.
    let parent = *sdpa::generations::ids().last().unwrap();
    let said = run(
        Command::new(env!("CARGO_BIN_EXE_sdpa")).args(["new", "v987", "--parent", parent, "--title", "a new idea"]),
        root,
    );
    assert!(said.contains("made   kernels/v987.cu\n") && said.contains("  cargo run --release -- gate v987 "));

    let cargo = std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
    let cargo = |arguments: &[&str]| {
        let mut command = Command::new(&cargo);
        command.args(arguments).env("CARGO_TARGET_DIR", &target);
        run(&mut command, root)
    };
    cargo(&["fmt", "-p", "sdpa-v987", "--", "--check"]);
    // It draws few inputs here, and optimising it once more takes longer than it saves.
    let quickly = ["--config", "profile.dev.package.harness.opt-level=0"];
    // The suite of the generation, what holds the list together, and what the tests remember.
    let suite = ["test", "--offline", "-p", "harness", "--test", "suite"];
    let said = cargo(&[&suite[..], &quickly, &["--", "v987::", "agreement", "plans"]].concat());
    assert!(
        said.contains("test v987::matches_reference ... ok") && said.contains("test v987::real_model ... ok"),
        "{said}"
    );
    assert!(said.contains("every_generation_plans_as_it_did ... ok"), "{said}");
    // The example in its documentation, which names the crate as Rust does.
    // It hardly computes, and optimising the interpreter once more takes longer than all of the rest.
    let quickly = ["--config", "profile.dev.package.ptx-interp.opt-level=0"];
    let said = cargo(&[&["test", "--offline", "--doc", "-p", "sdpa-v987"][..], &quickly].concat());
    assert!(said.contains("test result: ok. 1 passed"), "{said}");
}
