//! The header is what the source says, and a C program that uses it compiles, links and is right.

use std::path::{Path, PathBuf};
use std::process::Command;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// `HEADER_UPDATE=1 cargo test -p sdpa-c` writes it.
#[test]
fn the_header_is_what_the_source_says() {
    let config = cbindgen::Config::from_file(folder().join("cbindgen.toml")).unwrap();
    let sources = ["src/lib.rs", "src/append.rs"].map(|source| folder().join(source));
    let builder = sources.into_iter().fold(cbindgen::Builder::new(), |builder, source| builder.with_src(source));
    let bindings = builder.with_config(config).generate().unwrap();
    let mut text = Vec::new();
    bindings.write(&mut text);
    let (text, path) = (String::from_utf8(text).unwrap(), folder().join("include/sdpa.h"));
    if std::env::var_os("HEADER_UPDATE").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert!(
        text == std::fs::read_to_string(&path).unwrap(),
        "include/sdpa.h is not what src/*.rs say: HEADER_UPDATE=1"
    );
}

/// Where cargo put the library beside this test.
fn libraries() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().to_owned()
}

/// Compiles an example and links it with the library.
#[cfg(unix)]
fn compile(example: &str, into: &Path) -> PathBuf {
    let program = into.join("program");
    let mut compile = Command::new("cc");
    compile.arg(folder().join("examples").join(example)).arg("-o").arg(&program);
    compile.args(["-std=c11", "-Wall", "-Wextra", "-Werror"]).arg("-I").arg(folder().join("include"));
    compile.arg("-L").arg(libraries()).args(["-lsdpa_c", "-lm"]);
    let compiled = compile.output().unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    program
}

#[cfg(unix)]
#[test]
fn what_a_call_costs_is_asked_of_a_gpu() {
    let out = tempfile::tempdir().unwrap();
    let ran = Command::new(compile("host_cost.c", out.path()))
        .env("LD_LIBRARY_PATH", libraries())
        .env("DYLD_LIBRARY_PATH", libraries())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
    let found = if ran.status.success() { "\"prepared_ns\":" } else { "opening the GPU: " };
    assert!(said.contains(found), "{said}");
}

/// What an example says on the interpreter.
#[cfg(unix)]
fn run(example: &str) -> String {
    let out = tempfile::tempdir().unwrap();
    let program = compile(example, out.path());
    let ran = Command::new(&program)
        .env("LD_LIBRARY_PATH", libraries())
        .env("DYLD_LIBRARY_PATH", libraries())
        .env("SDPA_DEVICE", "interpreter")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{said}");
    said
}

#[cfg(unix)]
#[test]
fn a_c_program_appends_and_attends() {
    let said = run("append.c");
    assert!(said.contains("two sequences attended to what was appended, and nothing else was written"), "{said}");
    assert!(said.contains("key_cache is NULL"), "{said}");
    assert!(said.contains("layout is 9: see the constants in sdpa.h"), "{said}");
}

#[cfg(unix)]
#[test]
fn a_c_program_attends() {
    let said = run("attention.c");
    assert!(said.contains("two packed sequences attended to themselves"), "{said}");
    assert!(said.contains("head_dim is 7: it must be a multiple of 8"), "{said}");
}

#[cfg(unix)]
#[test]
fn a_c_program_attends_over_pages() {
    let said = run("pages.c");
    for what in ["f16", "lists", "e4m3"] {
        assert!(said.contains(&format!("{what}: two sequences attended over their pages")), "{said}");
    }
    for wrong in [
        "value_scale is NULL",
        "page_starts is NULL",
        "key_lengths is NULL",
        "page is 0 and pages is 4",
        "a page of 12 keys",
    ] {
        assert!(said.contains(wrong), "{wrong}: {said}");
    }
}
