//! The parameter block that every kernel takes, byte for byte the one in the kernels' `params.cuh`.

use crate::{Operand, Problem};

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
    /// `[batch, heads_kv, len_kv, head_dim]`.
    pub value: TensorParams,
    /// `[batch, heads_q, len_q, head_dim]`.
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
    /// Elements a vector.
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
}

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
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Mask;

    #[test]
    fn bytes_are_the_struct_in_memory() {
        let problem = Problem::new(2, 6, 33, 40).heads_kv(3).len_kv(70).mask(Mask::Causal).build().unwrap();
        let mut params = Params::new(&problem, [11, 22, 33, 44]);
        (params.lse, params.workspace, params.tickets) = (55, 66, 77);
        // SAFETY: `Params` is `repr(C)`, has no padding (its size is the sum of its fields' sizes, which a
        // test of sdpa-toolchain checks against the kernels' header) and holds only plain numbers, so all its bytes are initialised.
        let memory = unsafe { std::slice::from_raw_parts((&raw const params).cast::<u8>(), size_of::<Params>()) };
        assert_eq!(params.to_bytes(), memory);
        assert_eq!(params.diagonal, 37);
    }
}
