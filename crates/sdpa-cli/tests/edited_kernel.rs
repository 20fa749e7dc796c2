//! A kernel that was edited is judged as it is on disk, without a build of Rust. Tests that need a compiler are ignored where
//! there is none, and say so.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

use libtest_mimic::{Arguments, Completion, Trial};
use sdpa::generations;
use sdpa_cli::scaffold::Scaffold;
use sdpa_core::Specialisation;
use sdpa_toolchain::{Checkout, CodePack, Nvrtc, Pack};

fn main() -> ExitCode {
    type Test = fn(&Checkout, &Nvrtc);
    let tests: [(&str, Test); 4] = [
        ("every_save_is_judged_while_one_watches", every_save_is_judged),
        ("another_folder_of_kernels_is_compiled", another_folder_of_kernels_is_compiled),
        ("an_edited_kernel_is_compiled_and_judged", an_edited_kernel_is_compiled_and_judged),
        ("the_ptx_of_a_new_generation_is_what_the_compiler_makes", the_ptx_of_a_new_generation),
    ];
    let with_compiler = tests.map(|(name, test)| {
        Trial::ignorable_test(name, move || {
            let checkout = Checkout::find().map_err(|error| error.to_string())?;
            match Nvrtc::find(&checkout) {
                Ok(nvrtc) => test(&checkout, &nvrtc),
                Err(error) => return Ok(Completion::ignored_with(error)),
            }
            Ok(Completion::Completed)
        })
    });
    let without = Trial::ignorable_test("without_a_compiler_the_gate_says_how_to_install_one", || {
        Ok(match without_a_compiler_the_gate_says_how_to_install_one() {
            true => Completion::Completed,
            false => Completion::ignored_with("the system's loader finds an NVRTC that this test cannot hide"),
        })
    });
    let newer = Trial::test("a_generation_newer_than_the_program_is_an_error", || {
        a_generation_newer_than_the_program_is_an_error();
        Ok(())
    });
    let trials = with_compiler.into_iter().chain([without, newer]).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// A checkout of kernels alone, in which v1's was edited.
fn edited_checkout(from: &Checkout) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("Cargo.toml"), "[workspace]\n").unwrap();
    std::fs::create_dir(folder.path().join("results")).unwrap();
    for (path, text) in from.sources().unwrap().iter() {
        let file = folder.path().join("kernels").join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        let edit = if path == "v1.cu" { "// edited\n" } else { "" };
        std::fs::write(file, format!("{edit}{text}")).unwrap();
    }
    folder
}

/// What the program says in a folder, and its exit code. It finds NVRTC in `toolkit` alone.
fn sdpa(folder: &Path, toolkit: Option<&Path>, arguments: &[&str]) -> (String, Option<i32>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sdpa"));
    command.args(arguments).current_dir(folder).env("SDPA_DEVICE", "interpreter");
    command.env_remove("CUDA_HOME").env_remove("CUDA_PATH").env_remove("LD_LIBRARY_PATH");
    if let Some(toolkit) = toolkit {
        command.env("CUDA_HOME", toolkit);
    }
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    (text, output.status.code())
}

fn an_edited_kernel_is_compiled_and_judged(checkout: &Checkout, nvrtc: &Nvrtc) {
    let folder = edited_checkout(checkout);
    let (said, code) = sdpa(folder.path(), Some(nvrtc.home()), &["check", "v1", "v2b", "--cases", "1"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("judging the files on disk, which are newer than their packed PTX: 2 kernels of v1 compiled"),
        "{said}"
    );
    assert!(!said.contains("v2b compiled"), "{said}");
    // And a kernel that does not compile is the gate's first step.
    std::fs::write(folder.path().join("kernels/v1.cu"), "#error not yet\n").unwrap();
    let (said, code) = sdpa(folder.path(), Some(nvrtc.home()), &["gate", "v1"]);
    assert!(code == Some(1) && said.contains("1 compiles    FAILED   NVRTC refuses v1/f16_d64"), "{said}");
}

fn every_save_is_judged(checkout: &Checkout, nvrtc: &Nvrtc) {
    let folder = edited_checkout(checkout);
    let kernel = folder.path().join("kernels/v1.cu");
    std::fs::write(&kernel, "#error first\n").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sdpa"));
    command.args(["gate", "v1", "--watch"]).current_dir(folder.path()).stdout(Stdio::piped()).stderr(Stdio::null());
    let program = command.env("SDPA_DEVICE", "interpreter").env("CUDA_HOME", nvrtc.home()).spawn().unwrap();
    let mut program = Watching(program);
    let mut lines = BufReader::new(program.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut hears = |text: &str| assert!(lines.any(|line| line.contains(text)), "it ended, and never said: {text}");
    hears("#error directive: first");
    hears("watching kernels/ for the next save");
    std::fs::write(&kernel, "#error second\n").unwrap();
    hears("saved: judging it again");
    hears("#error directive: second");
    // Another generation's kernel is no reason to judge this one.
    std::fs::write(folder.path().join("kernels/v2b.cu"), "#error another's\n").unwrap();
    std::fs::write(&kernel, "#error third\n").unwrap();
    hears("#error directive: third");
}

/// Ends with the test, whatever comes of it.
struct Watching(Child);

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn another_folder_of_kernels_is_compiled(checkout: &Checkout, nvrtc: &Nvrtc) {
    let folder = edited_checkout(checkout);
    let packs = [Pack::path_of("v1"), CodePack::path_of("v1", "sm_80"), CodePack::path_of("v1", "sm_90")];
    std::fs::create_dir_all(folder.path().join(&packs[0]).parent().unwrap()).unwrap();
    for pack in packs {
        std::fs::copy(checkout.root().join(&pack), folder.path().join(&pack)).unwrap();
    }
    let kernels = checkout.root().join("kernels").display().to_string();
    let check =
        |more: &[&str]| sdpa(folder.path(), Some(nvrtc.home()), &[&["build-ptx", "v1", "--check"], more].concat());
    assert_eq!(check(&["--kernels", &kernels]).1, Some(0), "{:?}", check(&["--kernels", &kernels]));
    assert_eq!(check(&[]).1, Some(1), "the edited one is another text");
    assert_eq!(check(&["--kernels", "nowhere"]).1, Some(2));
}

fn a_generation_newer_than_the_program_is_an_error() {
    let folder = edited_checkout(&Checkout::find().unwrap());
    std::fs::write(folder.path().join("kernels/v987.cu"), "// V987: newer\n").unwrap();
    for arguments in
        [["gate", "v987"].as_slice(), &["check"], &["counters"], &["build-ptx"], &["verify", "v987", "L1 d64"]]
    {
        let (said, code) = sdpa(folder.path(), None, arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {said}");
        assert!(said.contains("this program does not know kernels/v987.cu: it is older than the checkout"), "{said}");
    }
    // Of others it can speak.
    let (said, code) = sdpa(folder.path(), None, &["counters", "v2b", "--case", "L17 d64"]);
    assert_eq!(code, Some(0), "{said}");
}

/// `sdpa new` makes the child's PTX without a compiler.
fn the_ptx_of_a_new_generation(checkout: &Checkout, nvrtc: &Nvrtc) {
    // With comments on what was mended that lose lines, in the kernel and in functions that are inlined there.
    for parent in ["v1", "v2d", "v3c"] {
        let parent = generations::find(parent).expect("it is a generation");
        let scaffold = Scaffold::new(checkout.root(), "v987", parent, "an idea").unwrap();
        let mut sources = checkout.sources().unwrap();
        sources.insert("v987.cu", scaffold.new[Path::new("kernels/v987.cu")].clone());
        let child = Specialisation { source: "v987.cu", ..parent.generation().specialisations[0] };
        assert!(
            scaffold.pack.1[0].1 == nvrtc.compile(&child, &sources).unwrap(),
            "{child} of {:?}",
            parent.generation()
        );
    }
}

/// False where there is one that cannot be hidden.
fn without_a_compiler_the_gate_says_how_to_install_one() -> bool {
    let folder = edited_checkout(&Checkout::find().unwrap());
    let (said, code) = sdpa(folder.path(), None, &["gate", "v1"]);
    if said.contains("kernels compiled") {
        return false;
    }
    assert_eq!(code, Some(2), "{said}");
    let install = "python3 -m pip install --no-deps --target target/cuda -r kernels/requirements.txt";
    assert!(said.contains("is newer than its packed PTX") && said.contains(install), "{said}");
    let (said, code) = sdpa(folder.path(), None, &["check", "v1", "--cases", "1"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("judging the packed PTX") && said.contains(install), "{said}");
    true
}
