//! Moves and conversions, and which file decodes the other instructions of a lane.

use super::*;

impl Decoder<'_> {
    pub(super) fn scalar(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Operation> {
        let kind = opcode.last();
        match opcode.name() {
            "mov" => self.mov(opcode, operands),
            "cvt" => self.convert(opcode, operands),
            "setp" => self.set_predicate(opcode, operands),
            "set" => self.set(opcode, operands),
            "selp" => self.select(kind, operands),
            "slct" => self.select_by_sign(opcode, operands),
            "addc" | "subc" | "madc" => self.carry(opcode, operands),
            "add" | "sub" | "mad" if opcode.has("cc") => self.carry(opcode, operands),
            "and" | "or" | "xor" | "not" => self.logic(opcode, operands),
            "shl" | "shr" => self.shift(opcode, operands),
            "mul" | "mad" if matches!(opcode.part(1), "wide" | "hi" | "lo") => self.multiply(opcode, operands),
            "add" | "sub" | "mul" | "fma" | "mad" | "div" | "rem" | "min" | "max" | "neg" | "abs" | "sqrt" | "rcp"
            | "rsqrt" | "ex2" | "lg2" | "sin" | "cos" | "tanh" | "copysign" => self.arithmetic(opcode, operands),
            "bfi" | "bfe" | "prmt" | "lop3" | "shf" | "popc" | "clz" | "brev" | "bfind" | "sad" | "dp4a" | "szext"
            | "testp" | "mul24" | "mad24" | "add24" => self.bits(opcode, operands),
            _ => unknown(),
        }
    }

    fn mov(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Operation> {
        arity(operands, 2..=2)?;
        let kind = opcode.last();
        opcode.only(1, &["b16", "u16", "s16", "b32", "u32", "s32", "f32", "b64", "u64", "s64", "f64", "pred"])?;
        match (&operands[0], &operands[1]) {
            (to, Operand::Vector(parts)) => {
                let bytes = Scalar::parse(kind).map_or(4, Scalar::bytes);
                let part_bytes = self.part_bytes(bytes, parts.len())?;
                let to = self.lane_register(to, bytes)?;
                let parts = parts.iter().map(|part| self.any_register(part, part_bytes)).collect::<Decoded<_>>()?;
                Ok(Operation::Pack { to, parts, bits: part_bytes * 8 })
            }
            (Operand::Vector(parts), from) => {
                let bytes = Scalar::parse(kind).map_or(4, Scalar::bytes);
                let part_bytes = self.part_bytes(bytes, parts.len())?;
                let from = self.lane_register(from, bytes)?;
                let parts = parts
                    .iter()
                    .map(|part| match part {
                        Operand::Sink => Ok(None),
                        part => self.any_register(part, part_bytes).map(Some),
                    })
                    .collect::<Decoded<_>>()?;
                Ok(Operation::Unpack { from, parts, bits: part_bytes * 8 })
            }
            (to, from) if kind == "pred" => {
                let (to, a) = (self.predicate(to)?, self.predicate(from)?);
                Ok(Operation::Predicate { op: BooleanOperation::Move, to, a, b: a })
            }
            (to, Operand::Special(name)) if name.starts_with("%clock") || name.starts_with("%globaltimer") => {
                let bytes = Scalar::parse(kind).map_or(4, Scalar::bytes);
                Ok(Operation::Clock { to: self.lane_register(to, bytes)? })
            }
            (to, from) if self.in_frame(from).is_some() => {
                let Some((a, at)) = self.in_frame(from) else { return unknown() };
                let b = self.constant_double(Constant::Bits(at));
                Ok(Operation::Binary64 { op: Binary64::Add, to: self.double(to)?, a, b })
            }
            (to, from) => match Scalar::parse(kind).map(Scalar::bytes) {
                Some(8) => Ok(Operation::Unary64 { op: Unary64::Move, to: self.double(to)?, a: self.double(from)? }),
                Some(_) => Ok(Operation::Unary32 { op: Unary32::Move, to: self.word(to)?, a: self.word(from)? }),
                None => unknown(),
            },
        }
    }

    fn part_bytes(&self, bytes: u8, parts: usize) -> Decoded<u8> {
        match (bytes, parts) {
            (4, 2) => Ok(2),
            (4, 4) => Ok(1),
            (8, 2) => Ok(4),
            (8, 4) => Ok(2),
            _ => Err("this split of a register is not supported".into()),
        }
    }

    pub(super) fn binary(&mut self, op: Binary32, operands: &[Operand]) -> Decoded<Operation> {
        Ok(Operation::Binary32 {
            op,
            to: self.word(&operands[0])?,
            a: self.word(&operands[1])?,
            b: self.word(&operands[2])?,
        })
    }

    pub(super) fn ternary(&mut self, op: Ternary32, operands: &[Operand]) -> Decoded<Operation> {
        arity(operands, 4..=4)?;
        Ok(Operation::Ternary32 {
            op,
            to: self.word(&operands[0])?,
            a: self.word(&operands[1])?,
            b: self.word(&operands[2])?,
            c: self.word(&operands[3])?,
        })
    }

    fn convert(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Operation> {
        if let Some(operation) = self.convert_small(opcode, operands)? {
            return Ok(operation);
        }
        let types: Vec<_> = opcode.parts.iter().copied().filter(|part| is_type(part)).collect();
        let &[to_name, from_name] = types.as_slice() else { return unknown() };
        opcode
            .only(1, &["rn", "rz", "rm", "rp", "rni", "rzi", "rmi", "rpi", "ftz", "sat", "relu", to_name, from_name])?;
        let rounding = rounding_of(opcode);
        let relu = opcode.has("relu");
        if to_name == "f16x2" || to_name == "bf16x2" {
            arity(operands, 3..=3)?;
            if from_name != "f32" || opcode.has("sat") {
                return unknown();
            }
            let format = if to_name == "f16x2" { HalfFormat::F16 } else { HalfFormat::BF16 };
            let (to, high, low) = (self.word(&operands[0])?, self.word(&operands[1])?, self.word(&operands[2])?);
            return Ok(Operation::ConvertPair { format, rounding, relu, to, high, low });
        }
        arity(operands, 2..=2)?;
        let to = Scalar::parse(to_name).ok_or("type of a conversion")?;
        let from = Scalar::parse(from_name).ok_or("type of a conversion")?;
        let integral = ["rni", "rzi", "rmi", "rpi"].iter().any(|part| opcode.has(part));
        let conversion =
            Conversion { to, from, rounding, integral, flush: opcode.has("ftz"), saturate: opcode.has("sat"), relu };
        let a = self.any_register(&operands[1], from.bytes())?;
        let to = self.any_register(&operands[0], to.bytes())?;
        Ok(Operation::Convert { conversion: Box::new(conversion), to, a })
    }
}

fn small_format(part: &str) -> Option<SmallFormat> {
    match part {
        "e4m3x2" => Some(SmallFormat::E4M3),
        "e5m2x2" => Some(SmallFormat::E5M2),
        _ => None,
    }
}

impl Decoder<'_> {
    /// Conversions to and from 8-bit floats, and to tf32.
    fn convert_small(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Option<Operation>> {
        let count = opcode.parts.len();
        let (to_name, from_name) = (opcode.part(count.saturating_sub(2)), opcode.last());
        let relu = opcode.has("relu");
        let operation = if to_name == "tf32" && from_name == "f32" {
            opcode.only(1, &["rn", "rna", "relu", "tf32", "f32"])?;
            arity(operands, 2..=2)?;
            let away = opcode.has("rna");
            SmallFloat::Tf32 { away, relu, to: self.word(&operands[0])?, from: self.word(&operands[1])? }
        } else if let Some(format) = small_format(to_name) {
            opcode.only(1, &["rn", "satfinite", "relu", to_name, "f32", "f16x2"])?;
            if from_name == "f32" {
                arity(operands, 3..=3)?;
                let (to, high, low) = (self.word(&operands[0])?, self.word(&operands[1])?, self.word(&operands[2])?);
                SmallFloat::FromSingles { format, relu, to, high, low }
            } else {
                arity(operands, 2..=2)?;
                SmallFloat::FromHalves { format, relu, to: self.word(&operands[0])?, from: self.word(&operands[1])? }
            }
        } else if let (Some(format), "f16x2") = (small_format(from_name), to_name) {
            opcode.only(1, &["rn", "relu", "f16x2", from_name])?;
            arity(operands, 2..=2)?;
            SmallFloat::ToHalves { format, relu, to: self.word(&operands[0])?, from: self.word(&operands[1])? }
        } else {
            return Ok(None);
        };
        Ok(Some(Operation::SmallFloat(operation)))
    }
}

fn is_type(part: &str) -> bool {
    Scalar::parse(part).is_some() || matches!(part, "f16x2" | "bf16x2")
}

pub(super) fn rounding_of(opcode: &Opcode<'_>) -> Rounding {
    if opcode.has("rz") || opcode.has("rzi") {
        Rounding::Zero
    } else if opcode.has("rm") || opcode.has("rmi") {
        Rounding::Down
    } else if opcode.has("rp") || opcode.has("rpi") {
        Rounding::Up
    } else {
        Rounding::NearestEven
    }
}
