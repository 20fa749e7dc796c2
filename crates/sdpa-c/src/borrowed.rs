//! The caller's device memory, as buffers of the lengths that a problem gives them.

use std::ffi::c_void;
use std::fmt::Display;

use sdpa::{Buffer, Operand, PageTable, Paging, Problem, Tensors};

use crate::{Failure, SdpaTensors, invalid};

/// Bytes of a number: an index, a length, a scale.
const NUMBER: usize = 4;

/// Memory of so many bytes, under the name that C gives it.
///
/// # Errors
/// [`SdpaInvalid`](crate::SdpaStatus) for NULL, unless no byte is wanted.
///
/// # Safety
/// The address is NULL or that of so many bytes of device memory, which stay allocated until the work on them is done.
pub(crate) unsafe fn named(name: impl Display, address: *const c_void, bytes: usize) -> Result<Buffer, Failure> {
    if address.is_null() && bytes > 0 {
        return Err(invalid(format!("{name} is NULL")));
    }
    // SAFETY: as promised by the caller.
    Ok(unsafe { Buffer::borrowed(address as u64, bytes) })
}

/// Everything that one pass reads or writes; `None` for addresses that are NULL.
pub(crate) struct Borrowed {
    /// Query, key, value, output.
    operands: [Buffer; 4],
    lse: Option<Buffer>,
    cu_seqlens_q: Option<Buffer>,
    cu_seqlens_k: Option<Buffer>,
    sinks: Option<Buffer>,
    slopes: Option<Buffer>,
    key_lengths: Option<Buffer>,
    block_table: Option<Buffer>,
    page_starts: Option<Buffer>,
    scales: [Option<Buffer>; 2],
}

/// Lengths come with a table, so the problem would ask for one that is there.
fn check_pages(paging: Paging, given: &SdpaTensors) -> Result<(), Failure> {
    if given.key_lengths.is_null() {
        return Err(invalid("key_lengths is NULL: sequences over pages have theirs on the device"));
    }
    match (paging.table, given.page_starts.is_null()) {
        (PageTable::Lists { .. }, true) => {
            Err(invalid("page_starts is NULL: it says where each sequence's list of pages begins"))
        }
        (PageTable::Rows { .. }, false) => Err(invalid(
            "page_starts is given, but the block table has rows: set table_entries in place of table_width",
        )),
        _ => Ok(()),
    }
}

impl Borrowed {
    /// # Errors
    /// [`SdpaInvalid`](crate::SdpaStatus) for an operand that is NULL and has elements, and for what pages or e4m3 lack.
    ///
    /// # Safety
    /// Every address is NULL or that of device memory as large as the problem needs, which stays allocated until the work on it
    /// is done.
    pub(crate) unsafe fn new(problem: &Problem, given: &SdpaTensors) -> Result<Self, Failure> {
        // SAFETY: the caller promises that the memory is there and stays; its length follows from the problem.
        let operand = |operand: Operand, address| unsafe { named(operand, address, problem.span_bytes(operand)) };
        let numbers = |address: *const c_void, count: usize| {
            // SAFETY: as above.
            (!address.is_null()).then(|| unsafe { Buffer::borrowed(address as u64, NUMBER * count) })
        };
        let sequences = problem.sequence_count();
        let entries = problem.paging().map_or(0, |paging| paging.entries(sequences, problem.len_kv()));
        if let Some(paging) = problem.paging() {
            check_pages(paging, given)?;
        }
        let scales = [("key_scale", given.key_scale), ("value_scale", given.value_scale)];
        if let Some((name, _)) = scales.iter().find(|(_, address)| problem.kv_scale_count() > 0 && address.is_null()) {
            return Err(invalid(format!("{name} is NULL: keys and values in e4m3 have theirs on the device")));
        }
        Ok(Self {
            operands: [
                operand(Operand::Query, given.query)?,
                operand(Operand::Key, given.key)?,
                operand(Operand::Value, given.value)?,
                operand(Operand::Output, given.output)?,
            ],
            lse: numbers(given.lse, problem.lse_len()),
            cu_seqlens_q: numbers(given.cu_seqlens_q, sequences + 1),
            cu_seqlens_k: numbers(given.cu_seqlens_k, sequences + 1),
            sinks: numbers(given.sinks, problem.heads_q()),
            slopes: numbers(given.slopes, problem.heads_q()),
            key_lengths: numbers(given.key_lengths, sequences),
            block_table: numbers(given.block_table, entries),
            page_starts: numbers(given.page_starts, sequences + 1),
            scales: scales.map(|(_, address)| numbers(address, problem.kv_scale_count())),
        })
    }

    /// What is given of it, for the problem to say what is missing or was not asked for.
    pub(crate) fn tensors(&self) -> Tensors<'_> {
        let [query, key, value, output] = &self.operands;
        let mut tensors = Tensors::new(query, key, value, output);
        if let Some(lse) = &self.lse {
            tensors = tensors.with_lse(lse);
        }
        match (&self.cu_seqlens_q, &self.cu_seqlens_k) {
            (Some(queries), Some(keys)) => tensors = tensors.with_cu_seqlens(queries, keys),
            (Some(queries), None) => tensors = tensors.with_cu_seqlens_q(queries),
            (None, _) => {}
        }
        if let Some(sinks) = &self.sinks {
            tensors = tensors.with_sinks(sinks);
        }
        if let Some(slopes) = &self.slopes {
            tensors = tensors.with_slopes(slopes);
        }
        if let Some(lengths) = &self.key_lengths {
            tensors = match (&self.block_table, &self.page_starts) {
                (Some(lists), Some(starts)) => tensors.with_page_lists(starts, lists, lengths),
                (Some(table), None) => tensors.with_pages(table, lengths),
                (None, _) => tensors.with_key_lengths(lengths),
            };
        }
        if let [Some(key), Some(value)] = &self.scales {
            tensors = tensors.with_kv_scales(key, value);
        }
        tensors
    }
}
