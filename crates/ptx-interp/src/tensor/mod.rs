//! Tensor-core operations. Operands are gathered from the lanes that hold them into small matrices, multiplied in
//! f32, and scattered back; products of f16 and bf16 are exact in f32, the order of their sum is by depth.

mod ldmatrix;
mod mma;
mod wgmma;
mod wmma;

use crate::alu::float::{bf16_to_f32, f16_to_f32};
use crate::decode::MatrixElement;

/// 16 rows of depth 16.
pub(crate) type RowsByDepth = [[f32; 16]; 16];
/// Depth 16 by 8 columns.
pub(crate) type DepthByColumns = [[f32; 8]; 16];
/// 16 rows of 8 columns.
pub(crate) type Product = [[f32; 8]; 16];

/// The multiplication that this machine does fastest.
#[derive(Clone, Copy)]
pub(crate) struct Engine {
    multiply: fn(&RowsByDepth, &DepthByColumns, &mut Product),
}

impl Engine {
    pub(crate) fn fastest() -> Self {
        #[cfg(target_arch = "x86_64")]
        if crate::simd::has_avx2() {
            // SAFETY: `has_avx2` found every feature that `multiply_avx2` is compiled with.
            return Self { multiply: |a, b, product| unsafe { multiply_avx2(a, b, product) } };
        }
        Self { multiply: multiply_portable }
    }

    /// Adds a·b to the product.
    #[inline(always)]
    pub(crate) fn multiply(self, a: &RowsByDepth, b: &DepthByColumns, product: &mut Product) {
        (self.multiply)(a, b, product);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn multiply_avx2(a: &RowsByDepth, b: &DepthByColumns, product: &mut Product) {
    multiply(a, b, product, f32::mul_add);
}

fn multiply_portable(a: &RowsByDepth, b: &DepthByColumns, product: &mut Product) {
    // The products are exact, so this rounds where the fused form does.
    multiply(a, b, product, |a, b, c| a * b + c);
}

#[inline(always)]
fn multiply(a: &RowsByDepth, b: &DepthByColumns, product: &mut Product, fused: impl Fn(f32, f32, f32) -> f32) {
    for (row, sums) in a.iter().zip(product.iter_mut()) {
        let mut total = *sums;
        for (value, columns) in row.iter().zip(b) {
            for column in 0..8 {
                total[column] = fused(*value, columns[column], total[column]);
            }
        }
        *sums = total;
    }
}

/// f16 or bf16 bits to f32.
#[inline(always)]
pub(crate) fn widen(element: MatrixElement, bits: u16) -> f32 {
    match element {
        MatrixElement::BF16 => bf16_to_f32(bits),
        _ => f16_to_f32(bits),
    }
}
