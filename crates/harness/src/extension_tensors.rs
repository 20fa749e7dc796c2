//! What a problem's extensions read, on a device: one way to place it for all who run kernels.

use sdpa_core::{Problem, Tensors, View};

use crate::regime::ExtensionData;

/// The tensors that a problem's extensions read, as buffers or whatever else `T` keeps of them; only those that it asks for.
pub struct ExtensionTensors<T> {
    cu_seqlens: Option<[T; 2]>,
    key_lengths: Option<T>,
    sinks: Option<T>,
    slopes: Option<T>,
}

impl<T> ExtensionTensors<T> {
    /// Places each by `place`, which takes its name and its bytes.
    ///
    /// # Errors
    /// What `place` returns.
    pub fn new<E>(
        problem: &Problem,
        data: &ExtensionData,
        place: impl Fn(&'static str, Vec<u8>) -> Result<T, E>,
    ) -> Result<Self, E> {
        let integers = |name, asked: bool, numbers: &[u32]| {
            asked.then(|| place(name, numbers.iter().flat_map(|number| number.to_le_bytes()).collect())).transpose()
        };
        let numbers = |name, asked: bool, numbers: &[f32]| {
            asked.then(|| place(name, numbers.iter().flat_map(|number| number.to_le_bytes()).collect())).transpose()
        };
        let packed = problem.packing().is_some();
        let queries = integers("cu_seqlens_q", packed, &data.cu_seqlens_q)?;
        let keys = integers("cu_seqlens_k", packed, &data.cu_seqlens_k)?;
        Ok(Self {
            cu_seqlens: queries.zip(keys).map(|(queries, keys)| [queries, keys]),
            key_lengths: integers("key_lengths", problem.key_lengths(), &data.key_lengths)?,
            sinks: numbers("sinks", problem.sinks(), &data.sinks)?,
            slopes: numbers("slopes", problem.slopes(), &data.slopes)?,
        })
    }

    /// The tensors with these besides.
    pub fn add_to<'a>(&'a self, mut tensors: Tensors<'a>) -> Tensors<'a>
    where
        &'a T: Into<View<'a>>,
    {
        if let Some([queries, keys]) = &self.cu_seqlens {
            tensors = tensors.with_cu_seqlens(queries, keys);
        }
        if let Some(lengths) = &self.key_lengths {
            tensors = tensors.with_key_lengths(lengths);
        }
        if let Some(sinks) = &self.sinks {
            tensors = tensors.with_sinks(sinks);
        }
        if let Some(slopes) = &self.slopes {
            tensors = tensors.with_slopes(slopes);
        }
        tensors
    }

    /// Each of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &T> {
        self.cu_seqlens.iter().flatten().chain(&self.key_lengths).chain(&self.sinks).chain(&self.slopes)
    }
}
