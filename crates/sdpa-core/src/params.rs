//! The parameter block that every kernel takes, byte for byte the one in the kernels' `params.cuh`.

use crate::{KvScales, KvStorage, Mask, Operand, PageTable, Paging, Problem};

/// Where a `[batch, heads, length, head_dim]` tensor lies; strides in elements, the last dimension contiguous.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TensorParams {
    /// Device address of element 0.
    pub address: u64,
    /// Elements between two batches.
    pub batch_stride: i64,
    /// Elements between two heads.
    pub head_stride: i64,
    /// Elements between two positions.
    pub row_stride: i64,
}

/// The one parameter block of all generations; mirrors `AttentionParams` in the kernels' `params.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Params {
    /// `[batch, heads_q, len_q, head_dim]`.
    pub query: TensorParams,
    /// `[batch, heads_kv, len_kv, head_dim]`.
    pub key: TensorParams,
    /// `[batch, heads_kv, len_kv, value_dim]`.
    pub value: TensorParams,
    /// `[batch, heads_q, len_q, value_dim]`.
    pub output: TensorParams,
    /// `[batch, heads_q, len_q]` f32, contiguous; 0 if it is not wanted.
    pub lse: u64,
    /// Partial results of a plan with several launches; 0 if the plan needs none.
    pub workspace: u64,
    /// Independent sequences.
    pub batch: i32,
    /// Query heads.
    pub heads_q: i32,
    /// Key and value heads.
    pub heads_kv: i32,
    /// Queries a head.
    pub len_q: i32,
    /// Keys a head.
    pub len_kv: i32,
    /// Elements of a query and a key.
    pub head_dim: i32,
    /// Factor on `query · key`.
    pub scale: f32,
    /// `scale · log2(e)`, rounded once.
    pub scale_log2e: f32,
    /// 1 where query `i` sees only keys `j <= i + diagonal`.
    pub causal: i32,
    /// See [`causal`](Self::causal).
    pub diagonal: i32,
    /// The device's [words of tickets](crate::Device::tickets); 0 where the plan uses none.
    pub tickets: u64,
    /// What a problem asks for beyond dense attention. Kernels that take none of it declare the block up to here.
    pub extension: ExtensionParams,
}

/// The second part of the block, for kernels that take more than dense attention; mirrors `ExtendedParams` in the kernels'
/// `extended_params.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ExtensionParams {
    /// Where each packed sequence's queries begin, and the last one's end: `[sequences + 1]` u32.
    pub cu_seqlens_q: u64,
    /// The same of the keys.
    pub cu_seqlens_k: u64,
    /// How many keys each sequence uses: `[sequences]` u32; 0 if all. With lists of pages, how many its last page holds.
    pub key_lengths: u64,
    /// `[heads_q]` f32; 0 if there are none.
    pub sinks: u64,
    /// `[heads_q]` f32; 0 if there are none.
    pub slopes: u64,
    /// Packed sequences; 0 for a dense batch.
    pub sequences: i32,
    /// 1 if the diagonal starts at the first key, 0 if it ends at the last.
    pub top_left: i32,
    /// Keys before the diagonal that a query sees; [`i32::MAX`] if all.
    pub window_left: i32,
    /// Keys behind the diagonal that a query sees, none under a causal mask; [`i32::MAX`] if all.
    pub window_right: i32,
    /// Scores become `softcap · tanh(score / softcap)`; 0 if they stay.
    pub softcap: f32,
    /// Most queries that a packed sequence has.
    pub longest_q: i32,
    /// What a problem with keys in pages asks for besides. Kernels that take none of it declare the block up to here.
    pub paging: PagingParams,
    /// Elements of a value and of a row of the output. Kernels for values as wide as keys declare the block up to here.
    pub value_dim: i64,
    /// What keys and values in e4m3 are multiplied by. Kernels for those in the dtype declare the block up to here.
    pub scales: KvScaleParams,
}

/// The last part of the block, for kernels that take keys and values in e4m3; mirrors what `StoredParams` in `kernels/v2l.cu`
/// adds.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct KvScaleParams {
    /// f32, `[1]` or `[heads_kv]`; 0 if keys are of the dtype.
    pub key: u64,
    /// The same of values.
    pub value: u64,
    /// Elements from one key head's scale to the next one's: 1, or 0 if there is one for all.
    pub stride: i64,
}

/// The third part of the block, for kernels that take keys in pages; mirrors `PagedParams` in `kernels/v2j.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PagingParams {
    /// Which page holds which keys of a sequence: u32; 0 if keys are contiguous.
    pub table: u64,
    /// Where each sequence's entries begin, and the last one's end: `[sequences + 1]` u32; 0 if the table has rows.
    pub starts: u64,
    /// Entries from one sequence's row of the table to the next one's.
    pub width: i32,
    /// Binary logarithm of the keys of a page.
    pub page_shift: i32,
}

impl PagingParams {
    fn new(problem: &Problem) -> Self {
        let Some(Paging { page, table, .. }) = problem.paging() else { return Self::default() };
        let width = match table {
            PageTable::Rows { width } => width as i32,
            PageTable::Lists { .. } => 0,
        };
        Self { width, page_shift: page.ilog2() as i32, ..Self::default() }
    }
}

impl ExtensionParams {
    fn new(problem: &Problem) -> Self {
        let side = |keys: Option<usize>| keys.map_or(i32::MAX, |keys| keys as i32);
        let window = problem.window();
        Self {
            sequences: problem.packing().map_or(0, |packing| packing.sequences as i32),
            top_left: i32::from(problem.mask() == Mask::CausalTopLeft),
            window_left: side(window.left),
            window_right: if problem.mask().is_causal() { 0 } else { side(window.right) },
            softcap: problem.softcap().unwrap_or(0.0),
            longest_q: problem.packing().map_or(0, |packing| packing.longest_q as i32),
            paging: PagingParams::new(problem),
            value_dim: problem.value_dim() as i64,
            scales: KvScaleParams {
                stride: i64::from(problem.kv_storage() == KvStorage::E4m3(KvScales::Head)),
                ..KvScaleParams::default()
            },
            ..Self::default()
        }
    }
}

/// Bytes of the block that kernels of dense attention declare.
pub(crate) const DENSE_BYTES: usize = std::mem::offset_of!(Params, extension);

/// Bytes of the block that kernels without pages declare.
pub(crate) const EXTENDED_BYTES: usize = DENSE_BYTES + std::mem::offset_of!(ExtensionParams, paging);

/// Bytes of the block that kernels for values as wide as keys declare.
pub(crate) const PAGED_BYTES: usize = DENSE_BYTES + std::mem::offset_of!(ExtensionParams, value_dim);

/// Bytes of the block that kernels for keys and values in the dtype declare.
pub(crate) const VALUE_BYTES: usize = DENSE_BYTES + std::mem::offset_of!(ExtensionParams, scales);

/// `scale · log2(e)`, rounded once; infinite for the largest scales, which a [`Problem`] refuses.
pub(crate) fn scale_log2e(scale: f32) -> f32 {
    (f64::from(scale) * std::f64::consts::LOG2_E) as f32
}

impl Params {
    /// The block for `problem`, with its four tensors at `addresses` (in the order of [`Operand::ALL`]).
    pub fn new(problem: &Problem, addresses: [u64; 4]) -> Self {
        let tensor = |operand: Operand| {
            let strides = problem.strides(operand);
            TensorParams {
                address: addresses[operand as usize],
                batch_stride: strides.batch,
                head_stride: strides.head,
                row_stride: strides.row,
            }
        };
        // `Problem` keeps every count below `i32::MAX`.
        let count = |value: usize| value as i32;
        Self {
            query: tensor(Operand::Query),
            key: tensor(Operand::Key),
            value: tensor(Operand::Value),
            output: tensor(Operand::Output),
            lse: 0,
            workspace: 0,
            batch: count(problem.batch()),
            heads_q: count(problem.heads_q()),
            heads_kv: count(problem.heads_kv()),
            len_q: count(problem.len_q()),
            len_kv: count(problem.len_kv()),
            head_dim: count(problem.head_dim()),
            scale: problem.scale(),
            scale_log2e: scale_log2e(problem.scale()),
            causal: i32::from(problem.diagonal().is_some()),
            diagonal: problem.diagonal().unwrap_or(0) as i32,
            tickets: 0,
            extension: ExtensionParams::new(problem),
        }
    }

    /// The block's bytes as the device reads them.
    pub fn to_bytes(&self) -> Vec<u8> {
        let tensors = [self.query, self.key, self.value, self.output];
        let mut bytes = Vec::with_capacity(size_of::<Self>());
        for tensor in tensors {
            bytes.extend(tensor.address.to_le_bytes());
            for stride in [tensor.batch_stride, tensor.head_stride, tensor.row_stride] {
                bytes.extend(stride.to_le_bytes());
            }
        }
        bytes.extend(self.lse.to_le_bytes());
        bytes.extend(self.workspace.to_le_bytes());
        for count in [self.batch, self.heads_q, self.heads_kv, self.len_q, self.len_kv, self.head_dim] {
            bytes.extend(count.to_le_bytes());
        }
        bytes.extend(self.scale.to_le_bytes());
        bytes.extend(self.scale_log2e.to_le_bytes());
        bytes.extend(self.causal.to_le_bytes());
        bytes.extend(self.diagonal.to_le_bytes());
        bytes.extend(self.tickets.to_le_bytes());
        let extension = &self.extension;
        let addresses =
            [extension.cu_seqlens_q, extension.cu_seqlens_k, extension.key_lengths, extension.sinks, extension.slopes];
        bytes.extend(addresses.into_iter().flat_map(u64::to_le_bytes));
        let numbers = [extension.sequences, extension.top_left, extension.window_left, extension.window_right];
        bytes.extend(numbers.into_iter().flat_map(i32::to_le_bytes));
        bytes.extend(extension.softcap.to_le_bytes());
        bytes.extend(extension.longest_q.to_le_bytes());
        bytes.extend([extension.paging.table, extension.paging.starts].into_iter().flat_map(u64::to_le_bytes));
        bytes.extend([extension.paging.width, extension.paging.page_shift].into_iter().flat_map(i32::to_le_bytes));
        bytes.extend(extension.value_dim.to_le_bytes());
        bytes.extend([extension.scales.key, extension.scales.value].into_iter().flat_map(u64::to_le_bytes));
        bytes.extend(extension.scales.stride.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Packing, Window};

    #[test]
    fn bytes_are_the_struct_in_memory() {
        let problem = Problem::new(2, 6, 33, 40).heads_kv(3).len_kv(70).mask(Mask::Causal).build().unwrap();
        let mut params = Params::new(&problem, [11, 22, 33, 44]);
        (params.lse, params.workspace, params.tickets) = (55, 66, 77);
        (params.extension.cu_seqlens_k, params.extension.slopes, params.extension.longest_q) = (88, 99, 111);
        params.extension.paging = PagingParams { table: 122, starts: 133, width: 144, page_shift: 4 };
        params.extension.scales = KvScaleParams { key: 155, value: 166, stride: 1 };
        // SAFETY: `Params` is `repr(C)`, has no padding (its size is the sum of its fields' sizes, which a
        // test of sdpa-toolchain checks against the kernels' header) and holds only plain numbers, so all its bytes are initialised.
        let memory = unsafe { std::slice::from_raw_parts((&raw const params).cast::<u8>(), size_of::<Params>()) };
        assert_eq!(params.to_bytes(), memory);
        assert_eq!(params.diagonal, 37);
        let lengths = [DENSE_BYTES, EXTENDED_BYTES, PAGED_BYTES, VALUE_BYTES, size_of::<Params>()];
        assert_eq!(lengths, [192, 256, 280, 288, 312]);
    }

    #[test]
    fn extensions_reach_the_kernel() {
        let dense = Problem::new(1, 2, 3, 8).build().unwrap();
        let unbounded = ExtensionParams { window_left: i32::MAX, window_right: i32::MAX, ..ExtensionParams::default() };
        assert_eq!(ExtensionParams::new(&dense), ExtensionParams { value_dim: 8, ..unbounded });
        let narrow = Problem::new(1, 2, 3, 24).value_dim(16).build().unwrap();
        assert_eq!(ExtensionParams::new(&narrow), ExtensionParams { value_dim: 16, ..unbounded });
        for (scales, stride) in [(KvScales::Tensor, 0), (KvScales::Head, 1)] {
            let stored = Problem::new(1, 2, 3, 8).kv_storage(KvStorage::E4m3(scales)).build().unwrap();
            assert_eq!(ExtensionParams::new(&stored).scales, KvScaleParams { key: 0, value: 0, stride });
        }
        let packing = Packing { sequences: 3, longest_q: 7, longest_kv: 9 };
        let window = Window { left: Some(4), right: Some(5) };
        let packed = Problem::packed(packing, 2, 12, 8).len_kv(15).window(window).softcap(30.0).build().unwrap();
        let found = ExtensionParams::new(&packed);
        assert_eq!((found.sequences, found.longest_q, found.softcap, found.top_left), (3, 7, 30.0, 0));
        assert_eq!((found.window_left, found.window_right), (4, 5));
        let causal = packed.to_builder().mask(Mask::CausalTopLeft).build().unwrap();
        let found = ExtensionParams::new(&causal);
        assert_eq!((found.window_left, found.window_right, found.top_left), (4, 0, 1));
    }
}
