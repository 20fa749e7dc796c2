//! Logic, shifts and whatever else works on bits.

use super::*;

impl Decoder<'_> {
    pub(super) fn logic(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Operation> {
        let name = opcode.name();
        arity(operands, if name == "not" { 2..=2 } else { 3..=3 })?;
        opcode.only(1, &["pred", "b16", "b32", "b64"])?;
        let second = if name == "not" { &operands[1] } else { &operands[2] };
        match opcode.last() {
            "pred" => {
                let op = match name {
                    "and" => BooleanOperation::And,
                    "or" => BooleanOperation::Or,
                    "xor" => BooleanOperation::Xor,
                    _ => BooleanOperation::Not,
                };
                let (to, a, b) =
                    (self.predicate(&operands[0])?, self.predicate(&operands[1])?, self.predicate(second)?);
                Ok(Operation::Predicate { op, to, a, b })
            }
            "b64" => {
                let (to, a) = (self.double(&operands[0])?, self.double(&operands[1])?);
                let op = match name {
                    "and" => Binary64::And,
                    "or" => Binary64::Or,
                    "xor" => Binary64::Xor,
                    _ => return Ok(Operation::Unary64 { op: Unary64::Not, to, a }),
                };
                Ok(Operation::Binary64 { op, to, a, b: self.double(second)? })
            }
            width => {
                let (to, a) = (self.word(&operands[0])?, self.word(&operands[1])?);
                let op = match name {
                    "and" => Binary32::And,
                    "or" => Binary32::Or,
                    "xor" => Binary32::Xor,
                    _ if width == "b16" => {
                        let b = self.constant_word(Constant::Bits(0xffff));
                        return Ok(Operation::Narrow16 { op: Binary32::Xor, signed: false, to, a, b });
                    }
                    _ => return Ok(Operation::Unary32 { op: Unary32::Not, to, a }),
                };
                let b = self.word(second)?;
                if width == "b16" {
                    Ok(Operation::Narrow16 { op, signed: false, to, a, b })
                } else {
                    Ok(Operation::Binary32 { op, to, a, b })
                }
            }
        }
    }

    pub(super) fn shift(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Operation> {
        arity(operands, 3..=3)?;
        if opcode.parts.len() != 2 {
            return unknown();
        }
        let scalar = Scalar::parse(opcode.last()).ok_or("type of a shift")?;
        let signed = matches!(scalar, Scalar::Signed(_));
        let left = opcode.name() == "shl";
        let amount = self.word(&operands[2])?;
        match scalar {
            Scalar::Unsigned(8) | Scalar::Signed(8) => {
                let op = match (left, signed) {
                    (true, _) => Shift::Left,
                    (false, true) => Shift::RightSigned,
                    (false, false) => Shift::RightUnsigned,
                };
                Ok(Operation::Shift64 { op, to: self.double(&operands[0])?, a: self.double(&operands[1])?, amount })
            }
            Scalar::Unsigned(bytes @ (2 | 4)) | Scalar::Signed(bytes @ (2 | 4)) => {
                let op = match (left, signed) {
                    (true, _) => Binary32::ShiftLeft,
                    (false, true) => Binary32::ShiftRightSigned,
                    (false, false) => Binary32::ShiftRightUnsigned,
                };
                let (to, a) = (self.word(&operands[0])?, self.word(&operands[1])?);
                if bytes == 2 {
                    Ok(Operation::Narrow16 { op, signed, to, a, b: amount })
                } else {
                    Ok(Operation::Binary32 { op, to, a, b: amount })
                }
            }
            _ => unknown(),
        }
    }

    pub(super) fn bits(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Operation> {
        let kind = opcode.last();
        match (opcode.name(), kind) {
            ("bfi", "b32") => {
                arity(operands, 5..=5)?;
                Ok(Operation::BitFieldInsert32 {
                    to: self.word(&operands[0])?,
                    field: self.word(&operands[1])?,
                    base: self.word(&operands[2])?,
                    at: self.word(&operands[3])?,
                    length: self.word(&operands[4])?,
                })
            }
            ("bfi", "b64") => {
                arity(operands, 5..=5)?;
                Ok(Operation::BitFieldInsert64 {
                    to: self.double(&operands[0])?,
                    field: self.double(&operands[1])?,
                    base: self.double(&operands[2])?,
                    at: self.word(&operands[3])?,
                    length: self.word(&operands[4])?,
                })
            }
            ("bfe", "u64" | "s64") => {
                arity(operands, 4..=4)?;
                Ok(Operation::BitFieldExtract64 {
                    signed: kind == "s64",
                    to: self.double(&operands[0])?,
                    a: self.double(&operands[1])?,
                    at: self.word(&operands[2])?,
                    length: self.word(&operands[3])?,
                })
            }
            ("bfe", "s32") => self.ternary(Ternary32::BitFieldExtractSigned, operands),
            ("bfe", "u32") => self.ternary(Ternary32::BitFieldExtractUnsigned, operands),
            ("prmt", mode) => {
                let mode = match mode {
                    "b32" => PermuteMode::Index,
                    "f4e" => PermuteMode::Forward4Extract,
                    "b4e" => PermuteMode::Backward4Extract,
                    "rc8" => PermuteMode::Replicate8,
                    "ecl" => PermuteMode::EdgeClampLeft,
                    "ecr" => PermuteMode::EdgeClampRight,
                    "rc16" => PermuteMode::Replicate16,
                    _ => return unknown(),
                };
                self.ternary(Ternary32::Permute(mode), operands)
            }
            ("lop3", "b32") => {
                arity(operands, 5..=5)?;
                let table = integer(operands.get(4))? as u8;
                self.ternary(Ternary32::Lop3(table), &operands[..4])
            }
            ("shf", "b32") => {
                let op = match (opcode.part(1), opcode.part(2)) {
                    ("l", "wrap") => Ternary32::FunnelLeftWrap,
                    ("l", "clamp") => Ternary32::FunnelLeftClamp,
                    ("r", "wrap") => Ternary32::FunnelRightWrap,
                    ("r", "clamp") => Ternary32::FunnelRightClamp,
                    _ => return unknown(),
                };
                self.ternary(op, operands)
            }
            ("sad", "s32") => self.ternary(Ternary32::SumAbsoluteDifferenceSigned, operands),
            ("sad", "u32") => self.ternary(Ternary32::SumAbsoluteDifferenceUnsigned, operands),
            ("dp4a", "u32") if opcode.part(1) == "u32" => self.ternary(Ternary32::DotBytesUnsigned, operands),
            ("dp4a", "s32") if opcode.part(1) == "s32" => self.ternary(Ternary32::DotBytesSigned, operands),
            ("testp", "f32") => {
                arity(operands, 2..=2)?;
                // NaN tests are comparisons with itself; the finite and infinite ones need the magnitude.
                let a = LaneRegister::Word(self.word(&operands[1])?);
                let to = self.wanted_predicate(&operands[0])?;
                let comparison = match opcode.part(1) {
                    "notanumber" => Comparison::NotNumber,
                    "number" => Comparison::Number,
                    _ => return unknown(),
                };
                Ok(Operation::SetPredicate(Box::new(SetPredicate {
                    comparison,
                    scalar: Scalar::F32,
                    flush: false,
                    a,
                    b: a,
                    to,
                    complement: None,
                    combine: None,
                })))
            }
            (name @ ("popc" | "clz" | "brev" | "bfind"), _) => {
                arity(operands, 2..=2)?;
                let shift = name == "bfind" && opcode.part(1) == "shiftamt";
                if opcode.parts.len() != 2 + usize::from(shift) {
                    return unknown();
                }
                match (name, kind) {
                    ("popc" | "clz", "b64") => Ok(Operation::Count64 {
                        leading_zeros: name == "clz",
                        to: self.word(&operands[0])?,
                        a: self.double(&operands[1])?,
                    }),
                    ("brev", "b64") => Ok(Operation::Unary64 {
                        op: Unary64::ReverseBits,
                        to: self.double(&operands[0])?,
                        a: self.double(&operands[1])?,
                    }),
                    _ => {
                        let op = match (name, kind) {
                            ("popc", "b32") => Unary32::PopulationCount,
                            ("clz", "b32") => Unary32::LeadingZeros,
                            ("brev", "b32") => Unary32::ReverseBits,
                            ("bfind", "u32") if shift => Unary32::FindShiftUnsigned,
                            ("bfind", "s32") if shift => Unary32::FindShiftSigned,
                            ("bfind", "u32") => Unary32::FindHighestUnsigned,
                            ("bfind", "s32") => Unary32::FindHighestSigned,
                            _ => return unknown(),
                        };
                        Ok(Operation::Unary32 { op, to: self.word(&operands[0])?, a: self.word(&operands[1])? })
                    }
                }
            }
            _ => unknown(),
        }
    }
}
