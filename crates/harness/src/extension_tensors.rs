//! What a problem's extensions read, on a device: one way to place it for all who run kernels.

use sdpa_core::{PageTable, Paging, Problem, Tensors, View};

use crate::regime::ExtensionData;

/// The tensors that a problem's extensions read, as buffers or whatever else `T` keeps of them; only those that it asks for.
pub struct ExtensionTensors<T> {
    cu_seqlens_q: Option<T>,
    cu_seqlens_k: Option<T>,
    key_lengths: Option<T>,
    sinks: Option<T>,
    slopes: Option<T>,
    block_table: Option<T>,
    page_starts: Option<T>,
    key_scale: Option<T>,
    value_scale: Option<T>,
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
        let (packed, paging) = (problem.packing().is_some(), problem.paging());
        let lists = paging.is_some_and(|paging| matches!(paging.table, PageTable::Lists { .. }));
        let key_lengths = match paging.filter(|_| lists) {
            None => integers("key_lengths", problem.key_lengths(), &data.key_lengths)?,
            Some(Paging { page, .. }) => {
                // Of each sequence the keys of its last page.
                let last = |length: &u32| if *length == 0 { 0 } else { (length - 1) % page as u32 + 1 };
                let lengths: Vec<u32> = data.key_lengths.iter().map(last).collect();
                integers("last_page_lengths", true, &lengths)?
            }
        };
        Ok(Self {
            cu_seqlens_q: integers("cu_seqlens_q", packed, &data.cu_seqlens_q)?,
            cu_seqlens_k: integers("cu_seqlens_k", packed && paging.is_none(), &data.cu_seqlens_k)?,
            block_table: integers("block_table", paging.is_some(), &data.block_table)?,
            page_starts: integers("page_starts", lists, &data.page_starts)?,
            key_lengths,
            sinks: numbers("sinks", problem.sinks(), &data.sinks)?,
            slopes: numbers("slopes", problem.slopes(), &data.slopes)?,
            key_scale: numbers("key_scale", problem.kv_scale_count() > 0, &data.key_scale)?,
            value_scale: numbers("value_scale", problem.kv_scale_count() > 0, &data.value_scale)?,
        })
    }

    /// The tensors with these besides.
    pub fn add_to<'a>(&'a self, mut tensors: Tensors<'a>) -> Tensors<'a>
    where
        &'a T: Into<View<'a>>,
    {
        match (&self.cu_seqlens_q, &self.cu_seqlens_k) {
            (Some(queries), Some(keys)) => tensors = tensors.with_cu_seqlens(queries, keys),
            (Some(queries), None) => tensors = tensors.with_cu_seqlens_q(queries),
            _ => {}
        }
        match (&self.block_table, &self.page_starts, &self.key_lengths) {
            (Some(table), Some(starts), Some(lengths)) => tensors = tensors.with_page_lists(starts, table, lengths),
            (Some(table), None, Some(lengths)) => tensors = tensors.with_pages(table, lengths),
            (_, _, Some(lengths)) => tensors = tensors.with_key_lengths(lengths),
            _ => {}
        }
        if let Some(sinks) = &self.sinks {
            tensors = tensors.with_sinks(sinks);
        }
        if let Some(slopes) = &self.slopes {
            tensors = tensors.with_slopes(slopes);
        }
        if let (Some(key), Some(value)) = (&self.key_scale, &self.value_scale) {
            tensors = tensors.with_kv_scales(key, value);
        }
        tensors
    }

    /// Each of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &T> {
        let numbers = [&self.cu_seqlens_q, &self.cu_seqlens_k, &self.key_lengths, &self.block_table, &self.page_starts];
        numbers.into_iter().chain([&self.sinks, &self.slopes, &self.key_scale, &self.value_scale]).flatten()
    }
}
