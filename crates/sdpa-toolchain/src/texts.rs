//! Which PTX a kernel is judged by.

use std::collections::HashMap;

use rayon::prelude::*;
use sdpa_core::{Device, Interpreter, Specialisation};

use crate::{Fingerprint, Nvrtc, Result, Sources};

/// The PTX that kernels are judged by: the packed one, unless another was compiled from the sources on disk.
#[derive(Clone, Debug, Default)]
pub struct KernelTexts {
    compiled: HashMap<Specialisation, String>,
}

impl KernelTexts {
    /// Judges every kernel by its packed PTX, as a user's program runs it.
    pub fn packed() -> Self {
        Self::default()
    }

    /// Those of these kernels whose packed PTX was made from other sources, or is missing.
    ///
    /// # Errors
    /// [`ToolchainError`](crate::ToolchainError) if a source is missing or a pack is broken.
    pub fn stale(kernels: &[Specialisation], sources: &Sources) -> Result<Vec<Specialisation>> {
        let mut stale = Vec::new();
        for kernel in kernels {
            if Fingerprint::of_packed(kernel)?.as_ref() != Some(&Fingerprint::of_sources(kernel, sources)?) {
                stale.push(*kernel);
            }
        }
        Ok(stale)
    }

    /// Judges these kernels by what the sources compile to, and all others by their packed PTX. Compiles side by side.
    ///
    /// # Errors
    /// [`ToolchainError::Compile`](crate::ToolchainError::Compile) for the first kernel that does not compile.
    pub fn compiled(
        kernels: &[Specialisation],
        sources: &Sources,
        nvrtc: &Nvrtc,
        progress: impl Fn(&Specialisation) + Sync,
    ) -> Result<Self> {
        let texts = kernels.par_iter().map(|kernel| {
            let text = nvrtc.compile(kernel, sources);
            progress(kernel);
            Ok((*kernel, text?))
        });
        // In order, so that the first error is always the same one.
        let texts: Vec<(Specialisation, String)> = texts.collect::<Vec<_>>().into_iter().collect::<Result<_>>()?;
        Ok(Self::of_compiled(texts))
    }

    /// Judges these kernels by these texts, and all others by their packed PTX.
    pub(crate) fn of_compiled(texts: impl IntoIterator<Item = (Specialisation, String)>) -> Self {
        Self { compiled: texts.into_iter().collect() }
    }

    /// The same, and what was compiled of other kernels, too.
    #[must_use]
    pub fn and(mut self, others: &Self) -> Self {
        self.compiled.extend(others.compiled.iter().map(|(kernel, text)| (*kernel, text.clone())));
        self
    }

    /// True if a kernel is judged by something else than its packed PTX.
    pub fn is_compiled(&self, kernel: &Specialisation) -> bool {
        self.compiled.contains_key(kernel)
    }

    /// The PTX that a kernel is judged by.
    ///
    /// # Errors
    /// [`sdpa_core::Error::NoPtx`] or [`sdpa_core::Error::Pack`].
    pub fn of(&self, kernel: &Specialisation) -> sdpa_core::Result<&str> {
        match self.compiled.get(kernel) {
            Some(text) => Ok(text),
            None => kernel.packed_ptx(),
        }
    }

    /// The fingerprint of the PTX that a kernel is judged by.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub fn fingerprint(&self, kernel: &Specialisation) -> sdpa_core::Result<String> {
        Ok(Fingerprint::of_ptx(self.of(kernel)?).map_or_else(|| "none".to_owned(), |found| found.to_string()))
    }

    /// Makes a device run the kernels that were compiled.
    ///
    /// # Errors
    /// [`sdpa_core::Error::Load`] if the driver refuses one.
    pub fn install(&self, device: &dyn Device) -> sdpa_core::Result<()> {
        let runs = |kernel: &Specialisation| kernel.architecture.runs_on(device.limits().compute_capability);
        self.compiled
            .iter()
            .filter(|(kernel, _)| runs(kernel))
            .try_for_each(|(kernel, text)| device.substitute(kernel, text))
    }

    /// A new interpreter that runs these texts.
    pub fn interpreter(&self) -> Interpreter {
        let device = Interpreter::new();
        for (kernel, text) in &self.compiled {
            // The interpreter loads a text with its first launch, so that nothing can fail yet.
            let _ = device.substitute(kernel, text);
        }
        device
    }
}
