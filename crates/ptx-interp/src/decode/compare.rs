//! Comparisons, and selection by their result.

use super::*;

impl Decoder<'_> {
    fn comparison(&mut self, opcode: &Opcode<'_>) -> Decoded<(Comparison, Scalar)> {
        let kind = opcode.last();
        let scalar = Scalar::parse(kind).ok_or("type of a comparison")?;
        let comparison = match opcode.part(1) {
            "eq" => Comparison::Equal,
            "ne" => Comparison::NotEqual,
            "lt" | "lo" => Comparison::Less,
            "le" | "ls" => Comparison::LessEqual,
            "gt" | "hi" => Comparison::Greater,
            "ge" | "hs" => Comparison::GreaterEqual,
            "equ" => Comparison::EqualUnordered,
            "neu" => Comparison::NotEqualUnordered,
            "ltu" => Comparison::LessUnordered,
            "leu" => Comparison::LessEqualUnordered,
            "gtu" => Comparison::GreaterUnordered,
            "geu" => Comparison::GreaterEqualUnordered,
            "num" => Comparison::Number,
            "nan" => Comparison::NotNumber,
            _ => return unknown(),
        };
        Ok((comparison, scalar))
    }

    pub(super) fn set_predicate(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Operation> {
        arity(operands, 3..=4)?;
        let (comparison, scalar) = self.comparison(opcode)?;
        opcode.only(2, &["and", "or", "xor", "ftz", opcode.last()])?;
        let (to, complement) = match &operands[0] {
            Operand::Pair(to, complement) => (self.wanted_predicate(to)?, self.wanted_predicate(complement)?),
            to => (self.wanted_predicate(to)?, None),
        };
        let combine = match operands.get(3) {
            Some(third) => {
                let op = if opcode.has("and") {
                    BooleanOperation::And
                } else if opcode.has("or") {
                    BooleanOperation::Or
                } else if opcode.has("xor") {
                    BooleanOperation::Xor
                } else {
                    return unknown();
                };
                let (predicate, negated) = self.signed_predicate(third)?;
                Some((op, predicate, negated))
            }
            None => None,
        };
        let a = self.lane_register(&operands[1], scalar.bytes())?;
        let b = self.lane_register(&operands[2], scalar.bytes())?;
        let flush = opcode.has("ftz");
        Ok(Operation::SetPredicate(Box::new(SetPredicate { comparison, scalar, flush, a, b, to, complement, combine })))
    }

    pub(super) fn wanted_predicate(&mut self, operand: &Operand) -> Decoded<Option<PredicateRegister>> {
        match operand {
            Operand::Sink => Ok(None),
            other => self.predicate(other).map(Some),
        }
    }

    /// `set.cmp.dtype.stype`
    pub(super) fn set(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Operation> {
        arity(operands, 3..=3)?;
        let (comparison, scalar) = self.comparison(opcode)?;
        let to_kind = opcode.parts.iter().rev().nth(1).copied().unwrap_or("");
        let holds = match to_kind {
            "u32" | "s32" => u32::MAX,
            "f32" => 1f32.to_bits(),
            "f16" => 0x3c00,
            "bf16" => 0x3f80,
            _ => return unknown(),
        };
        if opcode.last().ends_with("x2") {
            return unknown();
        }
        opcode.only(2, &["ftz", to_kind, opcode.last()])?;
        let a = self.lane_register(&operands[1], scalar.bytes())?;
        let b = self.lane_register(&operands[2], scalar.bytes())?;
        let flush = opcode.has("ftz");
        let compare = SetPredicate { comparison, scalar, flush, a, b, to: None, complement: None, combine: None };
        Ok(Operation::Set { compare: Box::new(compare), to: self.word(&operands[0])?, holds })
    }

    pub(super) fn select(&mut self, kind: &str, operands: &[Operand]) -> Decoded<Operation> {
        arity(operands, 4..=4)?;
        let predicate = self.predicate(&operands[3])?;
        match Scalar::parse(kind).map(Scalar::bytes) {
            Some(8) => Ok(Operation::Select64 {
                to: self.double(&operands[0])?,
                a: self.double(&operands[1])?,
                b: self.double(&operands[2])?,
                predicate,
            }),
            Some(_) => Ok(Operation::Select32 {
                to: self.word(&operands[0])?,
                a: self.word(&operands[1])?,
                b: self.word(&operands[2])?,
                predicate,
            }),
            None => unknown(),
        }
    }

    pub(super) fn select_by_sign(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Operation> {
        if Scalar::parse(opcode.part(1)).map(Scalar::bytes) != Some(4) || opcode.parts.len() != 3 {
            return unknown();
        }
        match opcode.last() {
            "s32" => self.ternary(Ternary32::SelectBySign, operands),
            "f32" => self.ternary(Ternary32::SelectByFloatSign, operands),
            _ => unknown(),
        }
    }
}
