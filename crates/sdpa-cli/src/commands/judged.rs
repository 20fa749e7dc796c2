//! Which text of a kernel a verb judges: the file on disk, compiled if it is newer than its packed PTX; and whether this
//! program is as new as the checkout that it judges.

use std::path::Path;

use sdpa::generations;
use sdpa_core::{Attention, Specialisation};
use sdpa_toolchain::resources::KernelSet;
use sdpa_toolchain::{Checkout, KernelTexts, Nvrtc, Result, ToolchainError};

use super::bar;

/// The kernels of these generations as the files on disk make them. Where nothing is compiled, every kernel is judged by its
/// packed PTX. What is judged is said on standard error, unless it is the packed PTX of unchanged files.
///
/// # Errors
/// [`ToolchainError`]: no compiler where one is needed, a kernel that does not compile, a source that is missing.
pub(crate) fn kernel_texts(generations: &[&dyn Attention]) -> Result<KernelTexts> {
    kernel_texts_of_sets(&sets(generations))
}

/// The same of kernels that may belong to no generation.
fn kernel_texts_of_sets(sets: &[KernelSet<'_>]) -> Result<KernelTexts> {
    let Some(checkout) = judged_checkout() else { return Ok(KernelTexts::packed()) };
    let (texts, newer) = compile(&checkout, sets)?;
    if !newer.is_empty() {
        let count: usize = newer.iter().map(|(_, kernels)| kernels.len()).sum();
        let names: Vec<&str> = newer.iter().map(|(id, _)| *id).collect();
        eprintln!(
            "judging the files on disk, which are newer than their packed PTX: {count} kernels of {} compiled",
            names.join(", ")
        );
    }
    Ok(texts)
}

/// The same for mutants of a generation that [`kernel_texts`] was asked for: says nothing once more.
///
/// # Errors
/// As [`kernel_texts`].
pub(crate) fn kernel_texts_of_mutants(mutants: &[&dyn Attention]) -> Result<KernelTexts> {
    let Ok(checkout) = Checkout::find() else { return Ok(KernelTexts::packed()) };
    Ok(compile(&checkout, &sets(mutants))?.0)
}

fn sets(generations: &[&dyn Attention]) -> Vec<KernelSet<'static>> {
    generations.iter().map(|generation| generation.generation().into()).collect()
}

/// Which kernels of which generation are newer than their packed PTX.
type Newer = Vec<(&'static str, Vec<Specialisation>)>;

/// Compiles what is newer than its packed PTX, and says what that was.
fn compile(checkout: &Checkout, sets: &[KernelSet<'_>]) -> Result<(KernelTexts, Newer)> {
    let sources = checkout.sources()?;
    let mut newer = Newer::new();
    for who in sets {
        note_newer_plan(checkout, who.id);
        let kernels = KernelTexts::stale(who.kernels, &sources)?;
        if !kernels.is_empty() {
            newer.push((who.id, kernels));
        }
    }
    if newer.is_empty() {
        return Ok((KernelTexts::packed(), newer));
    }
    let nvrtc = Nvrtc::find(checkout)?;
    let kernels: Vec<Specialisation> = newer.iter().flat_map(|(_, kernels)| kernels).copied().collect();
    let progress = bar(kernels.len() as u64);
    let texts = KernelTexts::compiled(&kernels, &sources, &nvrtc, |kernel| {
        progress.set_message(format!("compiling {kernel}"));
        progress.inc(1);
    });
    progress.finish_and_clear();
    Ok((texts?, newer))
}

/// The same for a verb that has something to say of packed PTX, too: without a compiler it says that it judges this.
///
/// # Errors
/// As [`kernel_texts`], but for the compiler.
pub(crate) fn kernel_texts_or_packed(generations: &[&dyn Attention]) -> Result<KernelTexts> {
    kernel_texts_of_sets_or_packed(&sets(generations))
}

/// The same of kernels that may belong to no generation.
///
/// # Errors
/// As there.
pub(crate) fn kernel_texts_of_sets_or_packed(sets: &[KernelSet<'_>]) -> Result<KernelTexts> {
    match kernel_texts_of_sets(sets) {
        Err(missing @ (ToolchainError::NoCompiler { .. } | ToolchainError::NoHeaders { .. })) => {
            eprintln!("note: a kernel is newer than its packed PTX: judging the packed PTX; {missing}");
            Ok(KernelTexts::packed())
        }
        found => found,
    }
}

/// The checkout whose kernels are judged; says which one if the current folder is in none.
fn judged_checkout() -> Option<Checkout> {
    match Checkout::find() {
        Ok(checkout) => {
            let here = std::env::current_dir().unwrap_or_default();
            if !here.starts_with(checkout.root()) {
                let root = checkout.root().display();
                eprintln!("note: this folder is in no checkout: judging {root}/kernels, where this program was built");
            }
            Some(checkout)
        }
        Err(_) => {
            eprintln!("note: this folder is in no checkout: judging the PTX that this program carries");
            None
        }
    }
}

/// A generation's plan is Rust, which this program cannot compile: says so if its source is newer than the program.
fn note_newer_plan(checkout: &Checkout, id: &str) {
    let changed = |path: &Path| path.metadata().and_then(|metadata| metadata.modified()).ok();
    let plan = format!("crates/sdpa-{id}/src/lib.rs");
    let program = std::env::current_exe().ok().and_then(|program| changed(&program));
    if changed(&checkout.root().join(&plan)).zip(program).is_some_and(|(plan, program)| plan > program) {
        eprintln!(
            "note: {plan} is newer than this program, which judges the plan that it was built with: `cargo build --release`"
        );
    }
}

/// Generations that the checkout around here has and this program does not know, since it is older.
pub(crate) fn unknown_generations() -> Vec<String> {
    let Ok(checkout) = Checkout::find() else { return Vec::new() };
    let kernels = std::fs::read_dir(checkout.root().join("kernels")).into_iter().flatten().flatten();
    let names = kernels.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|name| name == "cu"));
    let ids = names.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()));
    let mut unknown: Vec<String> = ids.filter(|id| generations::find(id).is_none()).collect();
    unknown.sort();
    unknown
}

/// What to do about them.
pub(crate) fn older_than(unknown: &[String]) -> String {
    let kernels: Vec<String> = unknown.iter().map(|id| format!("kernels/{id}.cu")).collect();
    format!(
        "this program does not know {}: it is older than the checkout, or the generation is not on the list in \
         crates/sdpa/src/generations.rs; `cargo build --release` makes it anew",
        kernels.join(", ")
    )
}
