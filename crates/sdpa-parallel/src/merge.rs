//! Parts of a result merged in f32, by kernels of our own: `kernels/parallel/merge.cu`.

use sdpa_core::{
    Architecture, Buffer, Device, Dtype, Error, Launch, PackedPtx, Params, Result, Specialisation, TensorParams,
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

static CLEAR: Specialisation = kernel("clear", &["STEP=STEP_CLEAR"]);
static ADD: [Specialisation; 2] =
    [kernel("f16_add", &["STEP=STEP_ADD"]), kernel("bf16_add", &["DTYPE_BF16", "STEP=STEP_ADD"])];
static STORE: [Specialisation; 2] =
    [kernel("f16_store", &["STEP=STEP_STORE"]), kernel("bf16_store", &["DTYPE_BF16", "STEP=STEP_STORE"])];

/// Every kernel, in the order of the pack.
pub fn kernels() -> Vec<Specialisation> {
    [&[CLEAR][..], &ADD, &STORE].concat()
}

/// The weighted mean of the parts so far, f32 `[batch, heads_q, rows, head_dim]`, and its log-sum-exp.
pub(crate) struct Accumulator<'a> {
    pub(crate) values: &'a Buffer,
    pub(crate) lse: &'a Buffer,
    /// `[batch, heads_q, rows, head_dim]`.
    pub(crate) shape: [usize; 4],
    pub(crate) dtype: Dtype,
}

impl Accumulator<'_> {
    /// Forgets all parts.
    pub(crate) fn clear(&self, device: &dyn Device) -> Result<()> {
        self.launch(device, CLEAR, 0..self.shape[2], |_| {})
    }

    /// Adds a part over `rows`: its output and log-sum-exp, both contiguous.
    pub(crate) fn add(
        &self,
        device: &dyn Device,
        rows: std::ops::Range<usize>,
        output: &Buffer,
        lse: &Buffer,
    ) -> Result<()> {
        let [_, heads, _, head_dim] = self.shape;
        let part = contiguous(output.address(), [heads, rows.len(), head_dim]);
        self.launch(device, ADD[usize::from(self.dtype == Dtype::Bf16)], rows, |params| {
            params.query = part;
            params.key.address = lse.address();
        })
    }

    /// Writes what was merged, contiguous; 0 where a row had no part.
    pub(crate) fn store(&self, device: &dyn Device, output: &Buffer) -> Result<()> {
        let [_, heads, rows, head_dim] = self.shape;
        let whole = contiguous(output.address(), [heads, rows, head_dim]);
        self.launch(device, STORE[usize::from(self.dtype == Dtype::Bf16)], 0..rows, |params| params.output = whole)
    }

    fn launch(
        &self,
        device: &dyn Device,
        kernel: Specialisation,
        rows: std::ops::Range<usize>,
        bind: impl FnOnce(&mut Params),
    ) -> Result<()> {
        let [batch, heads, all_rows, head_dim] = self.shape;
        if rows.is_empty() || batch == 0 || heads == 0 {
            return Ok(());
        }
        let mut accumulator = contiguous(self.values.address(), [heads, all_rows, head_dim]);
        accumulator.address += (rows.start * head_dim * size_of::<f32>()) as u64;
        let mut params = Params {
            value: accumulator,
            lse: self.lse.address() + (rows.start * size_of::<f32>()) as u64,
            batch: batch as i32,
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
            grid: [blocks as u32, heads as u32, batch as u32],
            block: [THREADS, 1, 1],
            shared_bytes: 0,
        };
        /// What the driver allows of a grid's second and third dimension.
        const MOST: usize = 65_535;
        if heads > MOST || batch > MOST {
            return Err(Error::Launch {
                launch: launch.to_string(),
                reason: format!("{heads} heads and {batch} sequences"),
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
