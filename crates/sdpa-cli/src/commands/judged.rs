//! Which text of a kernel a verb judges: the file on disk, compiled if it is newer than its packed PTX.

use sdpa_core::{Attention, Specialisation};
use sdpa_toolchain::{Checkout, KernelTexts, Nvrtc, Result, ToolchainError};

use super::bar;

/// The kernels of these generations as the files on disk make them. Outside of a checkout there are none, and every kernel is
/// judged by its packed PTX.
///
/// # Errors
/// [`ToolchainError`]: no compiler where one is needed, a kernel that does not compile, a source that is missing.
pub(crate) fn kernel_texts(generations: &[&dyn Attention]) -> Result<KernelTexts> {
    let Ok(checkout) = Checkout::find() else { return Ok(KernelTexts::packed()) };
    let sources = checkout.sources()?;
    let mut newer: Vec<(&str, Vec<Specialisation>)> = Vec::new();
    for who in generations.iter().map(|generation| generation.generation()) {
        let kernels = KernelTexts::stale(who.specialisations, &sources)?;
        if !kernels.is_empty() {
            newer.push((who.id, kernels));
        }
    }
    if newer.is_empty() {
        return Ok(KernelTexts::packed());
    }
    let nvrtc = Nvrtc::find(&checkout)?;
    let kernels: Vec<Specialisation> = newer.iter().flat_map(|(_, kernels)| kernels).copied().collect();
    let progress = bar(kernels.len() as u64);
    let texts = KernelTexts::compiled(&kernels, &sources, &nvrtc, |kernel| {
        progress.set_message(format!("compiling {kernel}"));
        progress.inc(1);
    });
    progress.finish_and_clear();
    let texts = texts?;
    for (id, kernels) in newer {
        let (source, count) = (kernels[0].source, kernels.len());
        eprintln!(
            "{id}: kernels/{source} is newer than its packed PTX: judging the file on disk ({count} kernels compiled)"
        );
    }
    Ok(texts)
}

/// The same for a verb that has something to say of packed PTX, too: without a compiler it says that it judges this.
///
/// # Errors
/// As [`kernel_texts`], but for the compiler.
pub(crate) fn kernel_texts_or_packed(generations: &[&dyn Attention]) -> Result<KernelTexts> {
    match kernel_texts(generations) {
        Err(missing @ (ToolchainError::NoCompiler { .. } | ToolchainError::NoHeaders { .. })) => {
            eprintln!("note: a kernel is newer than its packed PTX: judging the packed PTX; {missing}");
            Ok(KernelTexts::packed())
        }
        found => found,
    }
}
