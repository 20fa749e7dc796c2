//! Tensor-core operations.

use super::*;

/// What an operand of a matrix instruction is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MatrixElement {
    F16,
    BF16,
    F32,
    TF32,
}

/// `ldmatrix`, `stmatrix`
#[derive(Clone, Debug)]
pub(crate) struct MatrixMove {
    pub store: bool,
    pub transposed: bool,
    pub space: Space,
    pub address: Address,
    pub registers: Box<[WordRegister]>,
}

/// `mma.sync` with the m16n8 family of shapes.
#[derive(Clone, Debug)]
pub(crate) struct MatrixMultiply {
    /// Depth: 8 or 16.
    pub depth: u8,
    pub element: MatrixElement,
    pub accumulator: MatrixElement,
    pub d: Box<[WordRegister]>,
    pub a: Box<[WordRegister]>,
    pub b: Box<[WordRegister]>,
    pub c: Box<[WordRegister]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FragmentRole {
    A,
    B,
    C,
    D,
}

/// Sizes of a `wmma` operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FragmentShape {
    pub m: u8,
    pub n: u8,
    pub k: u8,
}

/// `wmma.load`, `wmma.store`
#[derive(Clone, Debug)]
pub(crate) struct FragmentMove {
    pub role: FragmentRole,
    pub shape: FragmentShape,
    pub column_major: bool,
    pub element: MatrixElement,
    pub space: Space,
    pub address: Address,
    /// Elements from one row (or column) to the next; tight if absent.
    pub stride: Option<WordRegister>,
    pub registers: Box<[WordRegister]>,
}

/// `wmma.mma`
#[derive(Clone, Debug)]
pub(crate) struct FragmentMultiply {
    pub shape: FragmentShape,
    pub element: MatrixElement,
    pub d_element: MatrixElement,
    pub c_element: MatrixElement,
    pub d: Box<[WordRegister]>,
    pub a: Box<[WordRegister]>,
    pub b: Box<[WordRegister]>,
    pub c: Box<[WordRegister]>,
}

#[derive(Clone, Debug)]
pub(crate) enum WgmmaA {
    Shared { descriptor: DoubleRegister, transposed: bool },
    Registers(Box<[WordRegister]>),
}

/// `wgmma.mma_async`
#[derive(Clone, Debug)]
pub(crate) struct Wgmma {
    pub n: u16,
    pub element: MatrixElement,
    pub accumulator: MatrixElement,
    pub d: Box<[WordRegister]>,
    pub a: WgmmaA,
    pub b: DoubleRegister,
    pub b_transposed: bool,
    pub keep: PredicateRegister,
    pub negate_a: bool,
    pub negate_b: bool,
}
