//! What Python asks for, as a problem and its tensors.

use pyo3::prelude::*;
use sdpa::{
    Attention, Buffer, Device, Dtype, KvScales, KvStorage, LaunchPlan, Layout, Mask, Operand, Packing, PageTable,
    Paging, Problem, Strides, Tensors, Window,
};

use crate::failure::Failure;

/// A tensor of elements: its address, its shape, and its strides in elements.
#[derive(FromPyObject)]
pub(crate) struct Tensor(pub(crate) u64, pub(crate) Vec<usize>, pub(crate) Vec<i64>);

/// A tensor of contiguous numbers, of 4 bytes if nothing else is said: its address and how many there are.
#[derive(Clone, Copy, FromPyObject)]
pub(crate) struct Numbers(pub(crate) u64, pub(crate) usize);

/// A table of pages: its address, rows, columns, and 4-byte numbers from row to row.
#[derive(Clone, Copy, FromPyObject)]
pub(crate) struct Table(u64, usize, usize, usize);

/// The arguments of [`forward`](crate::forward).
pub(crate) struct Request {
    pub(crate) layout: u8,
    pub(crate) dtype: u8,
    /// In the order of [`Operand::ALL`].
    pub(crate) tensors: [Tensor; 4],
    pub(crate) lse: Option<Numbers>,
    pub(crate) scale: Option<f64>,
    pub(crate) mask: u8,
    pub(crate) window: (i64, i64),
    pub(crate) softcap: f64,
    pub(crate) slopes: Option<Numbers>,
    pub(crate) sinks: Option<Numbers>,
    pub(crate) key_lengths: Option<Numbers>,
    pub(crate) cu_seqlens: Option<(Numbers, Numbers)>,
    pub(crate) block_table: Option<Table>,
    /// What keys and values in e4m3 are multiplied by, one for all or one for each key head.
    pub(crate) scales: Option<(Numbers, Numbers)>,
    pub(crate) longest: (usize, usize),
}

const PACKED: u8 = 2;

/// Tensors of numbers that a request may have.
const NUMBERS: usize = 9;

fn invalid(words: String) -> Failure {
    Failure::Invalid(words)
}

/// Batch, heads, length and head_dim of a tensor, and the strides of the first three.
struct Dimensions {
    shape: [usize; 4],
    strides: Strides,
}

impl Tensor {
    fn dimensions(&self, operand: Operand, layout: u8) -> Result<Dimensions, Failure> {
        let Self(_, shape, strides) = self;
        let wanted = match layout {
            0 => "[batch, heads, length, head_dim]",
            1 => "[batch, length, heads, head_dim]",
            _ => "[total, heads, head_dim]",
        };
        let (shape, strides) = match (layout, &shape[..], &strides[..]) {
            (0, &[batch, heads, length, width], &[b, h, l, w]) => ([batch, heads, length, width], [b, h, l, w]),
            (1, &[batch, length, heads, width], &[b, l, h, w]) => ([batch, heads, length, width], [b, h, l, w]),
            (PACKED, &[total, heads, width], &[l, h, w]) => ([1, heads, total, width], [0, h, l, w]),
            _ => return Err(invalid(format!("{operand} has the shape {shape:?}: {wanted} is wanted"))),
        };
        let [.., width] = shape;
        let [.., within] = strides;
        let is_empty = shape.contains(&0);
        if within != 1 && width > 1 && !is_empty {
            return Err(invalid(format!(
                "{operand}'s last dimension has the stride {within}: its elements must lie side by side, as .contiguous() puts them"
            )));
        }
        // Nothing is reached by the stride of a dimension that has one entry, and frameworks give it any.
        let counts = |dimension: usize| shape[dimension] > 1 && !is_empty;
        let stride = |dimension: usize| if counts(dimension) { strides[dimension] } else { width as i64 };
        Ok(Dimensions { shape, strides: Strides { batch: stride(0), head: stride(1), row: stride(2) } })
    }
}

impl Numbers {
    fn check(self, name: &str, wanted: usize, what: &str) -> Result<(), Failure> {
        match self.1 == wanted {
            true => Ok(()),
            false => Err(invalid(format!("{name} has {} numbers: {wanted} are wanted, {what}", self.1))),
        }
    }
}

impl Table {
    /// Pages of a cache of this shape, `[pages, heads_kv, page, head_dim]`, for so many sequences.
    fn paging(self, [pages, _, page, _]: [usize; 4], batch: usize) -> Result<Paging, Failure> {
        let Self(_, rows, _, width) = self;
        match rows == batch {
            true => Ok(Paging { page, pages, table: PageTable::Rows { width } }),
            false => Err(invalid(format!("block_table has {rows} rows: {batch} are wanted, one for each sequence"))),
        }
    }

    /// The last row ends with its last column.
    fn numbers(self) -> Numbers {
        let Self(address, rows, columns, width) = self;
        Numbers(address, if rows == 0 { 0 } else { (rows - 1) * width + columns })
    }
}

/// Whether scales are one for all or one for each key head.
fn kinds_of((key, value): (Numbers, Numbers), heads_kv: usize) -> Result<KvScales, Failure> {
    match (key.1, value.1) {
        (1, 1) => Ok(KvScales::Tensor),
        (keys, values) if keys == heads_kv && values == heads_kv => Ok(KvScales::Head),
        (keys, values) => Err(invalid(format!(
            "k_descale has {keys} numbers and v_descale {values}: both must have 1, or {heads_kv}, one for each key head"
        ))),
    }
}

fn side(keys: i64) -> Option<usize> {
    usize::try_from(keys).ok()
}

impl Request {
    /// The problem, with the tensors' own strides.
    ///
    /// # Errors
    /// [`Failure::Invalid`], in words.
    pub(crate) fn problem(&self) -> Result<Problem, Failure> {
        let mut found = Vec::with_capacity(4);
        for (operand, tensor) in Operand::ALL.into_iter().zip(&self.tensors) {
            found.push(tensor.dimensions(operand, self.layout)?);
        }
        let [query, key, value, output] = &found[..] else { unreachable!("there are four operands") };
        let ([batch, heads_q, len_q, head_dim], [batch_k, heads_kv, rows, head_dim_k]) = (query.shape, key.shape);
        // A page is no batch.
        let batch_k = if self.block_table.is_some() { batch } else { batch_k };
        for (what, query, key) in [("batches", batch, batch_k), ("elements in head_dim", head_dim, head_dim_k)] {
            if query != key {
                return Err(invalid(format!("query has {query} {what} and key has {key}: both must be the same")));
            }
        }
        if key.shape[..3] != value.shape[..3] {
            let shape = |index: usize| &self.tensors[index].1;
            return Err(invalid(format!("key is {:?} and value is {:?}: both must be the same", shape(1), shape(2))));
        }
        let value_dim = value.shape[3];
        if output.shape[..3] != query.shape[..3] || output.shape[3] != value_dim {
            return Err(invalid(format!(
                "out is {:?}: the shape of query, {:?}, is wanted, with the last dimension of value, {value_dim}",
                self.tensors[3].1, self.tensors[0].1
            )));
        }
        let paging = self.block_table.map(|table| table.paging(key.shape, batch)).transpose()?;
        let len_kv = self.block_table.map_or(rows, |Table(_, _, columns, _)| columns.saturating_mul(rows));
        let mut builder = match &self.cu_seqlens {
            None => Problem::new(batch, heads_q, len_q, head_dim).layout(Layout::Bhld),
            Some((queries, keys)) => {
                let sequences = queries.1.checked_sub(1).ok_or_else(|| {
                    invalid("cu_seqlens_q is empty: [sequences + 1] numbers are wanted, from 0 to the total".to_owned())
                })?;
                keys.check("cu_seqlens_k", queries.1, "as many as in cu_seqlens_q")?;
                // What is longer than all together is padding that was there once.
                let (longest_q, longest_kv) = (self.longest.0.min(len_q), self.longest.1.min(len_kv));
                Problem::packed(Packing { sequences, longest_q, longest_kv }, heads_q, len_q, head_dim)
            }
        };
        builder = builder
            .heads_kv(heads_kv)
            .len_kv(len_kv)
            .value_dim(value_dim)
            .dtype(if self.dtype == 0 { Dtype::F16 } else { Dtype::Bf16 })
            .mask(match self.mask {
                0 => Mask::Full,
                1 => Mask::Causal,
                _ => Mask::CausalTopLeft,
            })
            .window(Window { left: side(self.window.0), right: side(self.window.1) })
            .sinks_if(self.sinks.is_some());
        if let Some(paging) = paging {
            builder = builder.paged(paging);
        }
        if let Some(scales) = self.scales {
            builder = builder.kv_storage(KvStorage::E4m3(kinds_of(scales, heads_kv)?));
        }
        for (operand, dimensions) in Operand::ALL.into_iter().zip(&found) {
            builder = builder.strides(operand, dimensions.strides);
        }
        if let Some(scale) = self.scale {
            builder = builder.scale(scale as f32);
        }
        if self.softcap != 0.0 {
            builder = builder.softcap(self.softcap as f32);
        }
        for (name, numbers) in [("alibi_slopes", self.slopes), ("sinks", self.sinks)] {
            if let Some(numbers) = numbers {
                numbers.check(name, heads_q, "one for each query head")?;
            }
        }
        if self.slopes.is_some() {
            builder = builder.slopes();
        }
        if let Some(lengths) = self.key_lengths {
            lengths.check("cache_seqlens", batch, "one for each sequence")?;
            builder = builder.key_lengths();
        }
        Ok(builder.build()?)
    }

    /// Launches on buffers of these tensors.
    fn launch(
        &self,
        device: &dyn Device,
        problem: &Problem,
        (generation, plan): (&dyn Attention, &LaunchPlan),
        operands: &[Buffer; 4],
        numbers: &[Option<Buffer>; NUMBERS],
        workspace: Option<&Buffer>,
    ) -> Result<(), Failure> {
        let [query, key, value, output] = operands;
        let [lse, slopes, sinks, key_lengths, cu_seqlens_q, cu_seqlens_k, block_table, key_scale, value_scale] =
            numbers;
        let mut tensors = Tensors::new(query, key, value, output);
        if let Some(lse) = lse {
            tensors = tensors.with_lse(lse);
        }
        if let Some(slopes) = slopes {
            tensors = tensors.with_slopes(slopes);
        }
        if let Some(sinks) = sinks {
            tensors = tensors.with_sinks(sinks);
        }
        match (block_table, key_lengths) {
            (Some(table), Some(lengths)) => tensors = tensors.with_pages(table, lengths),
            (None, Some(lengths)) => tensors = tensors.with_key_lengths(lengths),
            _ => {}
        }
        if let (Some(queries), Some(keys)) = (cu_seqlens_q, cu_seqlens_k) {
            tensors = tensors.with_cu_seqlens(queries, keys);
        }
        if let (Some(key), Some(value)) = (key_scale, value_scale) {
            tensors = tensors.with_kv_scales(key, value);
        }
        match workspace {
            Some(workspace) => generation.forward_in(device, problem, &tensors, plan, workspace)?,
            None => generation.forward_planned(device, problem, &tensors, plan)?,
        }
        Ok(())
    }

    /// The log-sum-exp, then what extensions read.
    fn numbers(&self) -> [Option<Numbers>; NUMBERS] {
        let (queries, keys) = self.cu_seqlens.unzip();
        let table = self.block_table.map(Table::numbers);
        let (key_scale, value_scale) = self.scales.unzip();
        [self.lse, self.slopes, self.sinks, self.key_lengths, queries, keys, table, key_scale, value_scale]
    }

    /// Queues the work on tensors that lie on the device, with a workspace there if the plan needs one.
    ///
    /// # Errors
    /// A [`Failure`], in words.
    pub(crate) fn run_on_device(
        &self,
        device: &dyn Device,
        problem: &Problem,
        planned: (&dyn Attention, &LaunchPlan),
        workspace: Option<u64>,
    ) -> Result<(), Failure> {
        // SAFETY: Python's half gives the address, shape and strides of a live tensor of this device, whose span the problem
        // has, and a workspace as long as the plan asked for; and PyTorch gives freed memory only to work behind this one,
        // on the same stream.
        let borrowed = |address: u64, bytes: usize| unsafe { Buffer::borrowed(address, bytes) };
        let operand = |operand: Operand| borrowed(self.tensors[operand as usize].0, problem.span_bytes(operand));
        let numbers = self.numbers().map(|numbers| numbers.map(|Numbers(address, count)| borrowed(address, 4 * count)));
        let workspace = workspace.map(|address| borrowed(address, planned.1.workspace_bytes));
        self.launch(device, problem, planned, &Operand::ALL.map(operand), &numbers, workspace.as_ref())
    }

    /// Copies host memory to the device, computes, and copies the output and the log-sum-exp back.
    ///
    /// # Errors
    /// A [`Failure`], in words.
    pub(crate) fn run_on_host(
        &self,
        device: &dyn Device,
        problem: &Problem,
        planned: (&dyn Attention, &LaunchPlan),
    ) -> Result<(), Failure> {
        let spans = Operand::ALL.map(|operand| problem.span_bytes(operand));
        let upload = |address: u64, bytes: usize| match bytes {
            0 => device.allocate(0),
            // SAFETY: Python's half gives the address, shape and strides of a live array, whose span the problem has, or
            // the address and count of one of numbers. All of it is initialised: outputs are made of zeros.
            _ => device.upload(unsafe { std::slice::from_raw_parts(address as *const u8, bytes) }),
        };
        let mut operands = Vec::with_capacity(4);
        for (tensor, bytes) in self.tensors.iter().zip(spans) {
            operands.push(upload(tensor.0, bytes)?);
        }
        let operands = <[Buffer; 4]>::try_from(operands).unwrap_or_else(|_| unreachable!("there are four operands"));
        let mut numbers = [const { None }; NUMBERS];
        for (buffer, given) in numbers.iter_mut().zip(self.numbers()) {
            *buffer = given.map(|Numbers(address, count)| upload(address, 4 * count)).transpose()?;
        }
        self.launch(device, problem, planned, &operands, &numbers, None)?;
        let written = [Some((&operands[3], self.tensors[3].0)), numbers[0].as_ref().zip(self.lse.map(|lse| lse.0))];
        for (buffer, address) in written.into_iter().flatten() {
            if buffer.bytes() > 0 {
                // SAFETY: as above; Python's half made these arrays for this call, so that nothing else refers to them.
                let bytes = unsafe { std::slice::from_raw_parts_mut(address as *mut u8, buffer.bytes()) };
                device.read(buffer, 0, bytes)?;
            }
        }
        Ok(())
    }
}
