//! mma.sync m16n8k16 and m16n8k8.

use super::{DepthByColumns, Engine, Operands, Product, RowsByDepth, widen_pair};
use crate::alu::float::{canonical, f16_to_f32, f32_to_f16};
use crate::decode::{MatrixElement, MatrixMultiply, WordRegister};
use crate::machine::{At, Cluster, Machine, Step, Stopped, Wait, Warp, is_whole_warp};
use crate::registers::{LANES, Registers};

/// A's registers to a 16×16 matrix: lane 4g+t holds rows g and g+8, columns 2t and 2t+1 of each eight.
#[inline(always)]
pub(crate) fn gather_a(registers: &Registers, a: &[WordRegister], element: MatrixElement) -> RowsByDepth {
    let mut matrix = [[0.0; 16]; 16];
    for (index, register) in a.iter().enumerate() {
        let (low, high) = widen_pair(element, registers.word(*register));
        let (row_base, column_base) = (8 * (index & 1), 8 * (index >> 1 & 1));
        for lane in 0..LANES {
            let (row, column) = (lane / 4 + row_base, lane % 4 * 2 + column_base);
            matrix[row][column] = low[lane];
            matrix[row][column + 1] = high[lane];
        }
    }
    matrix
}

/// B's registers to a 16×8 matrix: lane 4g+t holds rows 2t and 2t+1 of each eight, column g.
#[inline(always)]
pub(crate) fn gather_b(registers: &Registers, b: &[WordRegister], element: MatrixElement) -> DepthByColumns {
    let mut matrix = [[0.0; 8]; 16];
    for (index, register) in b.iter().enumerate() {
        let (low, high) = widen_pair(element, registers.word(*register));
        for lane in 0..LANES {
            let (row, column) = (lane % 4 * 2 + 8 * (index & 1), lane / 4);
            matrix[row][column] = low[lane];
            matrix[row + 1][column] = high[lane];
        }
    }
    matrix
}

/// Adds a product to accumulators in C's layout and stores the sum in D's, which is the same.
#[inline(always)]
pub(crate) fn accumulate(
    registers: &mut Registers,
    d: &[WordRegister],
    c: Option<&[WordRegister]>,
    accumulator: MatrixElement,
    product: &Product,
    mask: u32,
) {
    let single = accumulator == MatrixElement::F32;
    for (index, register) in d.iter().enumerate() {
        let old = c.map_or([0; LANES], |c| *registers.word(c[index]));
        let mut result = [0; LANES];
        for lane in 0..LANES {
            let column = lane % 4 * 2;
            result[lane] = if single {
                let sum = f32::from_bits(old[lane]) + product[lane / 4 + 8 * (index >> 1)][column + (index & 1)];
                canonical(sum)
            } else {
                let sums = &product[lane / 4 + 8 * index][column..column + 2];
                let low = f32_to_f16(f16_to_f32(old[lane] as u16) + sums[0]);
                let high = f32_to_f16(f16_to_f32((old[lane] >> 16) as u16) + sums[1]);
                u32::from(high) << 16 | u32::from(low)
            };
        }
        registers.set_words(*register, mask, &result);
    }
}

impl Machine<'_> {
    pub(crate) fn matrix_multiply(
        &mut self,
        _cluster: &mut Cluster,
        warp: &mut Warp,
        _at: At,
        multiply: &MatrixMultiply,
        mask: u32,
    ) -> Result<Step, Stopped> {
        if !is_whole_warp(warp, mask) {
            return Ok(Step::Retry(Wait::Lanes));
        }
        self.counters.tensor_instructions += 1;
        self.counters.tensor_flops += 2 * 16 * 8 * u64::from(multiply.depth);
        let operands = Operands {
            element: multiply.element,
            accumulator: multiply.accumulator,
            d: &multiply.d,
            a: &multiply.a,
            b: &multiply.b,
            c: &multiply.c,
        };
        Engine::fastest().multiply_registers(&mut warp.registers, &operands, mask);
        Ok(Step::Next)
    }
}
