//! Parts of a result merged in f32, by kernels of our own: `kernels/parallel/merge.cu`.

use std::ops::Range;

use sdpa_core::{
    Architecture, Budget, Buffer, Device, Dtype, Error, Launch, PackedPtx, Params, Result, Specialisation, TensorParams,
};

/// The PTX of the kernels, made by `sdpa build-ptx parallel`.
pub static PTX: PackedPtx = PackedPtx::new("parallel", include_bytes!("../parallel.ptx.zst"));

const THREADS: u32 = 256;

/// Elements of a row that a lane holds (`COLUMNS` in the kernel).
const LANE_COLUMNS: usize = 8;

const fn kernel(name: &'static str, defines: &'static [&'static str]) -> Specialisation {
    Specialisation {
        source: "parallel/merge.cu",
        ptx: &PTX,
        name,
        architecture: Architecture::Compute80,
        defines,
        threads: THREADS,
        shared_bytes: 0,
        boxes: None,
    }
}

const CLEAR: Specialisation = kernel("clear", &["STEP=STEP_CLEAR"]);
const SINK: Specialisation = kernel("sink", &["STEP=STEP_SINK"]);
const ADD: [Specialisation; 2] =
    [kernel("f16_add", &["STEP=STEP_ADD"]), kernel("bf16_add", &["DTYPE_BF16", "STEP=STEP_ADD"])];
const STORE: [Specialisation; 2] =
    [kernel("f16_store", &["STEP=STEP_STORE"]), kernel("bf16_store", &["DTYPE_BF16", "STEP=STEP_STORE"])];

/// Every kernel, in the order of the pack.
pub static KERNELS: [Specialisation; 6] = [CLEAR, SINK, ADD[0], ADD[1], STORE[0], STORE[1]];

/// What they may cost: no spills, and five blocks on each multiprocessor, enough to wait for memory alone.
pub const BUDGET: Budget = Budget { registers: 43, shared_bytes: 0, spill_bytes: 0 };

/// The weighted mean of the parts so far, f32 `[batch, heads_q, rows, head_dim]`, and its log-sum-exp.
pub(crate) struct Accumulator<'a> {
    pub(crate) values: &'a Buffer,
    pub(crate) lse: &'a Buffer,
    /// `[batch, heads_q, rows, head_dim]`.
    pub(crate) shape: [usize; 4],
    pub(crate) dtype: Dtype,
}

/// Sequences of the batch, and rows of each of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) batches: Range<usize>,
    pub(crate) rows: Range<usize>,
}

impl Accumulator<'_> {
    /// All rows of all sequences.
    fn whole(&self) -> Place {
        let [batch, _, rows, _] = self.shape;
        Place { batches: 0..batch, rows: 0..rows }
    }

    /// Forgets all parts. Sinks, `[heads_q]` f32, are the first part of each of these rows, without a value.
    pub(crate) fn begin(&self, device: &dyn Device, sinks: Option<(&Buffer, Range<usize>)>) -> Result<()> {
        let whole = self.whole();
        let Some((sinks, rows)) = sinks else { return self.launch(device, CLEAR, &whole, |_| {}) };
        if rows != whole.rows {
            self.launch(device, CLEAR, &whole, |_| {})?;
        }
        let place = Place { rows, ..whole };
        self.launch(device, SINK, &place, |params| params.extension.sinks = sinks.address())
    }

    /// Adds a part: its output and log-sum-exp, both contiguous.
    pub(crate) fn add(&self, device: &dyn Device, place: &Place, output: &Buffer, lse: &Buffer) -> Result<()> {
        let [_, heads, _, head_dim] = self.shape;
        let part = contiguous(output.address(), [heads, place.rows.len(), head_dim]);
        self.launch(device, ADD[usize::from(self.dtype == Dtype::Bf16)], place, |params| {
            params.query = part;
            params.key.address = lse.address();
        })
    }

    /// Writes what was merged, contiguous; 0 where a row had no part.
    pub(crate) fn store(&self, device: &dyn Device, output: &Buffer) -> Result<()> {
        let [_, heads, rows, head_dim] = self.shape;
        let merged = contiguous(output.address(), [heads, rows, head_dim]);
        let store = STORE[usize::from(self.dtype == Dtype::Bf16)];
        self.launch(device, store, &self.whole(), |params| params.output = merged)
    }

    fn launch(
        &self,
        device: &dyn Device,
        kernel: Specialisation,
        place: &Place,
        bind: impl FnOnce(&mut Params),
    ) -> Result<()> {
        let [_, heads, all_rows, head_dim] = self.shape;
        let Place { batches, rows } = place;
        if rows.is_empty() || batches.is_empty() || heads == 0 {
            return Ok(());
        }
        // Rows of the log-sum-exp before the first one that is meant.
        let before = batches.start * heads * all_rows + rows.start;
        let mut accumulator = contiguous(self.values.address(), [heads, all_rows, head_dim]);
        accumulator.address += (before * head_dim * size_of::<f32>()) as u64;
        let mut params = Params {
            value: accumulator,
            lse: self.lse.address() + (before * size_of::<f32>()) as u64,
            batch: batches.len() as i32,
            heads_q: heads as i32,
            heads_kv: heads as i32,
            len_q: rows.len() as i32,
            head_dim: head_dim as i32,
            ..Params::default()
        };
        bind(&mut params);
        let lanes = head_dim.div_ceil(LANE_COLUMNS).next_power_of_two();
        let blocks = rows.len().div_ceil(THREADS as usize / lanes);
        let launch = Launch {
            kernel,
            grid: [blocks as u32, heads as u32, batches.len() as u32],
            block: [THREADS, 1, 1],
            shared_bytes: 0,
        };
        /// What the driver allows of a grid's second and third dimension.
        const MOST: usize = 65_535;
        if heads > MOST || batches.len() > MOST {
            return Err(Error::Launch {
                launch: launch.to_string(),
                reason: format!("{heads} heads and {} sequences", batches.len()),
                hint: "results of parts are merged for up to 65535 heads and sequences",
            });
        }
        device.launch(&launch, &params)
    }
}

/// A contiguous `[batch, heads, rows, head_dim]` tensor.
fn contiguous(address: u64, [heads, rows, head_dim]: [usize; 3]) -> TensorParams {
    let row_stride = head_dim as i64;
    let head_stride = row_stride * rows as i64;
    TensorParams { address, batch_stride: head_stride * heads as i64, head_stride, row_stride }
}

#[cfg(test)]
mod tests;
