//! Tensor-core operations. Operands are gathered from the lanes that hold them into small matrices, multiplied in
//! f32, and scattered back; products of f16 and bf16 are exact in f32, the order of their sum is by depth.

mod in_flight;
mod ldmatrix;
mod mma;
mod wgmma;
mod wmma;

pub(crate) use ldmatrix::transpose;

use crate::alu::float::{bf16_to_f32, f16_to_f32};
use crate::decode::{MatrixElement, WordRegister};
use crate::registers::{LANES, Registers, Words};

/// 16 rows of depth 16.
pub(crate) type RowsByDepth = [[f32; 16]; 16];
/// Depth 16 by 8 columns.
pub(crate) type DepthByColumns = [[f32; 8]; 16];
/// 16 rows of 8 columns.
pub(crate) type Product = [[f32; 8]; 16];

/// Registers of one m16n8k16 (or k8) multiplication.
pub(crate) struct Operands<'a> {
    pub element: MatrixElement,
    pub accumulator: MatrixElement,
    pub d: &'a [WordRegister],
    pub a: &'a [WordRegister],
    pub b: &'a [WordRegister],
    pub c: &'a [WordRegister],
}

/// The multiplications as this machine does them fastest.
#[derive(Clone, Copy)]
pub(crate) struct Engine {
    multiply: fn(&RowsByDepth, &DepthByColumns, &mut Product),
    multiply_registers: fn(&mut Registers, &Operands<'_>, u32),
}

impl Engine {
    pub(crate) fn fastest() -> Self {
        #[cfg(target_arch = "x86_64")]
        if crate::simd::has_avx2() {
            return Self {
                // SAFETY: `has_avx2` found every feature that `multiply_avx2` is compiled with.
                multiply: |a, b, product| unsafe { multiply_avx2(a, b, product) },
                // SAFETY: likewise for `multiply_registers_avx2`.
                multiply_registers: |registers, operands, mask| unsafe {
                    multiply_registers_avx2(registers, operands, mask);
                },
            };
        }
        Self { multiply: multiply_portable, multiply_registers: multiply_registers_portable }
    }

    /// Adds a·b to the product.
    #[inline(always)]
    pub(crate) fn multiply(self, a: &RowsByDepth, b: &DepthByColumns, product: &mut Product) {
        (self.multiply)(a, b, product);
    }

    /// d = a·b + c, all in registers.
    #[inline(always)]
    pub(crate) fn multiply_registers(self, registers: &mut Registers, operands: &Operands<'_>, mask: u32) {
        (self.multiply_registers)(registers, operands, mask);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply_avx2(a: &RowsByDepth, b: &DepthByColumns, product: &mut Product) {
    multiply(a, b, product, f32::mul_add);
}

fn multiply_portable(a: &RowsByDepth, b: &DepthByColumns, product: &mut Product) {
    // The products are exact, so this rounds where the fused form does.
    multiply(a, b, product, |a, b, c| a * b + c);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply_registers_avx2(registers: &mut Registers, operands: &Operands<'_>, mask: u32) {
    multiply_registers(registers, operands, mask, f32::mul_add);
}

fn multiply_registers_portable(registers: &mut Registers, operands: &Operands<'_>, mask: u32) {
    multiply_registers(registers, operands, mask, |a, b, c| a * b + c);
}

#[inline(always)]
fn multiply_registers(
    registers: &mut Registers,
    operands: &Operands<'_>,
    mask: u32,
    fused: impl Fn(f32, f32, f32) -> f32,
) {
    let a = mma::gather_a(registers, operands.a, operands.element);
    let b = mma::gather_b(registers, operands.b, operands.element);
    let mut product = [[0.0; 8]; 16];
    multiply(&a, &b, &mut product, fused);
    mma::accumulate(registers, operands.d, Some(operands.c), operands.accumulator, &product, mask);
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

/// Both halves of each lane's register, as f32.
#[inline(always)]
pub(crate) fn widen_pair(element: MatrixElement, values: &Words) -> ([f32; LANES], [f32; LANES]) {
    let (mut low, mut high) = ([0.0; LANES], [0.0; LANES]);
    if element == MatrixElement::BF16 {
        for lane in 0..LANES {
            low[lane] = bf16_to_f32(values[lane] as u16);
            high[lane] = bf16_to_f32((values[lane] >> 16) as u16);
        }
    } else {
        for lane in 0..LANES {
            low[lane] = f16_to_f32(values[lane] as u16);
            high[lane] = f16_to_f32((values[lane] >> 16) as u16);
        }
    }
    (low, high)
}
