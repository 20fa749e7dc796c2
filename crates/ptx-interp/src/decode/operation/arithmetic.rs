//! Lane-wise arithmetic, conversions and comparisons.

use super::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    NearestEven,
    Zero,
    Down,
    Up,
}

/// 32-bit operations of one operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unary32 {
    Move,
    Not,
    NegateInteger,
    AbsoluteInteger,
    NegateF32,
    AbsoluteF32,
    PopulationCount,
    LeadingZeros,
    ReverseBits,
    FindHighestUnsigned,
    FindHighestSigned,
    /// `bfind.shiftamt`
    FindShiftUnsigned,
    FindShiftSigned,
}

/// 32-bit operations of two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Binary32 {
    AddF32,
    SubF32,
    MulF32,
    MaxF32,
    MinF32,
    Add,
    Sub,
    MulLow,
    MulHighSigned,
    MulHighUnsigned,
    DivSigned,
    DivUnsigned,
    RemSigned,
    RemUnsigned,
    MinSigned,
    MaxSigned,
    MinUnsigned,
    MaxUnsigned,
    And,
    Or,
    Xor,
    ShiftLeft,
    ShiftRightSigned,
    ShiftRightUnsigned,
    /// `copysign.f32 d, a, b`: the sign of a, the magnitude of b.
    CopySign,
}

/// 32-bit operations of three operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ternary32 {
    FmaF32,
    MadLow,
    MadHighSigned,
    MadHighUnsigned,
    BitFieldExtractSigned,
    BitFieldExtractUnsigned,
    Permute(PermuteMode),
    Lop3(u8),
    FunnelLeftWrap,
    FunnelLeftClamp,
    FunnelRightWrap,
    FunnelRightClamp,
    /// `slct.b32.s32 d, a, b, c`: a where c ≥ 0.
    SelectBySign,
    /// `slct.b32.f32`
    SelectByFloatSign,
    SumAbsoluteDifferenceSigned,
    SumAbsoluteDifferenceUnsigned,
    DotBytesUnsigned,
    DotBytesSigned,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PermuteMode {
    Index,
    Forward4Extract,
    Backward4Extract,
    Replicate8,
    EdgeClampLeft,
    EdgeClampRight,
    Replicate16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unary64 {
    Move,
    Not,
    NegateInteger,
    AbsoluteInteger,
    NegateF64,
    AbsoluteF64,
    SqrtF64,
    RcpF64,
    /// `rcp.approx.ftz.f64`: from and to the upper 32 bits.
    RcpApproxF64,
    RsqrtApproxF64,
    ReverseBits,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Binary64 {
    AddF64,
    SubF64,
    MulF64,
    DivF64,
    MaxF64,
    MinF64,
    /// The sign of a, the magnitude of b.
    CopySignF64,
    Add,
    Sub,
    MulLow,
    MulHighSigned,
    MulHighUnsigned,
    DivSigned,
    DivUnsigned,
    RemSigned,
    RemUnsigned,
    MinSigned,
    MaxSigned,
    MinUnsigned,
    MaxUnsigned,
    And,
    Or,
    Xor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ternary64 {
    FmaF64,
    MadLow,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shift {
    Left,
    RightSigned,
    RightUnsigned,
}

/// f32 operations whose rounding, flushing or approximation needs more than the fast paths know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FloatKind {
    Add,
    Sub,
    Mul,
    Fma,
    Div,
    DivApprox,
    Min,
    Max,
    /// `min.NaN`
    MinNan,
    /// `max.NaN`
    MaxNan,
    Negate,
    Absolute,
    Sqrt,
    Rcp,
    Rsqrt,
    Exp2,
    Log2,
    Sin,
    Cos,
    Tanh,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FloatOperation {
    pub kind: FloatKind,
    pub rounding: Rounding,
    /// `.ftz`: subnormal inputs and results become zeros.
    pub flush: bool,
    /// `.sat`: the result is clamped to [0, 1], NaN becomes 0.
    pub saturate: bool,
    pub to: WordRegister,
    pub inputs: [WordRegister; 3],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HalfFormat {
    F16,
    BF16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HalfOperation {
    pub kind: FloatKind,
    pub format: HalfFormat,
    /// Two values in a register.
    pub packed: bool,
    pub flush: bool,
    pub saturate: bool,
    /// `.relu`: negative results become 0.
    pub relu: bool,
    pub to: WordRegister,
    pub inputs: [WordRegister; 3],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Conversion {
    pub to: Scalar,
    pub from: Scalar,
    pub rounding: Rounding,
    /// `.rni`, `.rzi`, …: a float result is a whole number.
    pub integral: bool,
    pub flush: bool,
    pub saturate: bool,
    pub relu: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    /// The same, or true when a NaN is there.
    EqualUnordered,
    NotEqualUnordered,
    LessUnordered,
    LessEqualUnordered,
    GreaterUnordered,
    GreaterEqualUnordered,
    /// Neither is NaN.
    Number,
    /// One is NaN.
    NotNumber,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BooleanOperation {
    And,
    Or,
    Xor,
    Not,
    Move,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SetPredicate {
    pub comparison: Comparison,
    pub scalar: Scalar,
    pub flush: bool,
    pub a: LaneRegister,
    pub b: LaneRegister,
    pub to: Option<PredicateRegister>,
    /// Gets the complement (`p|q`).
    pub complement: Option<PredicateRegister>,
    /// Combined with this predicate, which may be negated.
    pub combine: Option<(BooleanOperation, PredicateRegister, bool)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CarryKind {
    Add,
    Sub,
    /// a·b + c, the lower half of the product.
    MadLow,
    MadHighSigned,
    MadHighUnsigned,
}

/// Integer arithmetic with the carry flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CarryOperation {
    pub kind: CarryKind,
    /// 4 or 8.
    pub bytes: u8,
    pub takes: bool,
    pub sets: bool,
    pub flag: PredicateRegister,
    pub to: LaneRegister,
    pub inputs: [LaneRegister; 3],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SmallFormat {
    E4M3,
    E5M2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SmallFloat {
    /// Two f32 to a pair of 8-bit floats, the first one above.
    FromSingles {
        format: SmallFormat,
        relu: bool,
        to: WordRegister,
        high: WordRegister,
        low: WordRegister,
    },
    FromHalves {
        format: SmallFormat,
        relu: bool,
        to: WordRegister,
        from: WordRegister,
    },
    ToHalves {
        format: SmallFormat,
        relu: bool,
        to: WordRegister,
        from: WordRegister,
    },
    /// f32 with 10 bits of mantissa; ties away from zero, or to even.
    Tf32 {
        away: bool,
        relu: bool,
        to: WordRegister,
        from: WordRegister,
    },
}
