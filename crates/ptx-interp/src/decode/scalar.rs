//! Arithmetic, logic, comparison, conversion and moves.

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

    fn logic(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Operation> {
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

    fn shift(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Operation> {
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

    fn multiply(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Operation> {
        let add = opcode.name() == "mad";
        arity(operands, if add { 4..=4 } else { 3..=3 })?;
        if opcode.parts.len() != 3 {
            return unknown();
        }
        let scalar = Scalar::parse(opcode.last()).ok_or("type of a product")?;
        let (bytes, signed) = match scalar {
            Scalar::Signed(bytes) => (bytes, true),
            Scalar::Unsigned(bytes) => (bytes, false),
            _ => return unknown(),
        };
        match (opcode.part(1), bytes) {
            ("wide", 4) => {
                let addend = if add { Some(self.double(&operands[3])?) } else { None };
                let (to, a, b) = (self.double(&operands[0])?, self.word(&operands[1])?, self.word(&operands[2])?);
                Ok(Operation::MultiplyWide { signed, to, a, b, addend })
            }
            ("wide", 2) => {
                let addend = if add { Some(self.word(&operands[3])?) } else { None };
                let (to, a, b) = (self.word(&operands[0])?, self.word(&operands[1])?, self.word(&operands[2])?);
                Ok(Operation::MultiplyWide16 { signed, to, a, b, addend })
            }
            ("lo", 8) if add => Ok(Operation::Ternary64 {
                op: Ternary64::MadLow,
                to: self.double(&operands[0])?,
                a: self.double(&operands[1])?,
                b: self.double(&operands[2])?,
                c: self.double(&operands[3])?,
            }),
            (half, 8) if !add => {
                let op = match (half, signed) {
                    ("lo", _) => Binary64::MulLow,
                    (_, true) => Binary64::MulHighSigned,
                    (_, false) => Binary64::MulHighUnsigned,
                };
                Ok(Operation::Binary64 {
                    op,
                    to: self.double(&operands[0])?,
                    a: self.double(&operands[1])?,
                    b: self.double(&operands[2])?,
                })
            }
            (half, 4) if add => {
                let op = match (half, signed) {
                    ("lo", _) => Ternary32::MadLow,
                    (_, true) => Ternary32::MadHighSigned,
                    (_, false) => Ternary32::MadHighUnsigned,
                };
                self.ternary(op, operands)
            }
            (half, 4) => {
                let op = match (half, signed) {
                    ("lo", _) => Binary32::MulLow,
                    (_, true) => Binary32::MulHighSigned,
                    (_, false) => Binary32::MulHighUnsigned,
                };
                self.binary(op, operands)
            }
            ("lo", 2) if !add => Ok(Operation::Narrow16 {
                op: Binary32::MulLow,
                signed,
                to: self.word(&operands[0])?,
                a: self.word(&operands[1])?,
                b: self.word(&operands[2])?,
            }),
            _ => unknown(),
        }
    }

    fn binary(&mut self, op: Binary32, operands: &[Operand]) -> Decoded<Operation> {
        Ok(Operation::Binary32 {
            op,
            to: self.word(&operands[0])?,
            a: self.word(&operands[1])?,
            b: self.word(&operands[2])?,
        })
    }

    fn ternary(&mut self, op: Ternary32, operands: &[Operand]) -> Decoded<Operation> {
        arity(operands, 4..=4)?;
        Ok(Operation::Ternary32 {
            op,
            to: self.word(&operands[0])?,
            a: self.word(&operands[1])?,
            b: self.word(&operands[2])?,
            c: self.word(&operands[3])?,
        })
    }

    fn arithmetic(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Operation> {
        let name = opcode.name();
        let inputs = match name {
            "fma" | "mad" => 3,
            "neg" | "abs" | "sqrt" | "rcp" | "rsqrt" | "ex2" | "lg2" | "sin" | "cos" | "tanh" => 1,
            _ => 2,
        };
        arity(operands, inputs + 1..=inputs + 1)?;
        match opcode.last() {
            "f32" => self.float(opcode, operands),
            "f16" | "f16x2" | "bf16" | "bf16x2" => self.half(opcode, operands),
            "f64" => self.float64(opcode, operands),
            kind => {
                if opcode.parts.len() != 2 {
                    return unknown();
                }
                let scalar = Scalar::parse(kind).ok_or("type of an operation")?;
                let (bytes, signed) = match scalar {
                    Scalar::Signed(bytes) => (bytes, true),
                    Scalar::Unsigned(bytes) if kind.starts_with('u') => (bytes, false),
                    _ => return unknown(),
                };
                self.integer_arithmetic(name, bytes, signed, operands)
            }
        }
    }

    fn integer_arithmetic(&mut self, name: &str, bytes: u8, signed: bool, operands: &[Operand]) -> Decoded<Operation> {
        if bytes == 8 {
            let (to, a) = (self.double(&operands[0])?, self.double(&operands[1])?);
            let op = match (name, signed) {
                ("add", _) => Binary64::Add,
                ("sub", _) => Binary64::Sub,
                ("div", true) => Binary64::DivSigned,
                ("div", false) => Binary64::DivUnsigned,
                ("rem", true) => Binary64::RemSigned,
                ("rem", false) => Binary64::RemUnsigned,
                ("min", true) => Binary64::MinSigned,
                ("min", false) => Binary64::MinUnsigned,
                ("max", true) => Binary64::MaxSigned,
                ("max", false) => Binary64::MaxUnsigned,
                ("neg", true) => return Ok(Operation::Unary64 { op: Unary64::NegateInteger, to, a }),
                ("abs", true) => return Ok(Operation::Unary64 { op: Unary64::AbsoluteInteger, to, a }),
                _ => return unknown(),
            };
            return Ok(Operation::Binary64 { op, to, a, b: self.double(&operands[2])? });
        }
        let (to, a) = (self.word(&operands[0])?, self.word(&operands[1])?);
        let op = match (name, signed) {
            ("add", _) => Binary32::Add,
            ("sub", _) => Binary32::Sub,
            ("div", true) => Binary32::DivSigned,
            ("div", false) => Binary32::DivUnsigned,
            ("rem", true) => Binary32::RemSigned,
            ("rem", false) => Binary32::RemUnsigned,
            ("min", true) => Binary32::MinSigned,
            ("min", false) => Binary32::MinUnsigned,
            ("max", true) => Binary32::MaxSigned,
            ("max", false) => Binary32::MaxUnsigned,
            ("neg", true) if bytes == 2 => {
                let zero = self.constant_word(Constant::Bits(0));
                return Ok(Operation::Narrow16 { op: Binary32::Sub, signed, to, a: zero, b: a });
            }
            ("neg", true) => return Ok(Operation::Unary32 { op: Unary32::NegateInteger, to, a }),
            ("abs", true) if bytes == 4 => return Ok(Operation::Unary32 { op: Unary32::AbsoluteInteger, to, a }),
            _ => return unknown(),
        };
        let b = self.word(&operands[2])?;
        match bytes {
            4 => Ok(Operation::Binary32 { op, to, a, b }),
            2 => Ok(Operation::Narrow16 { op, signed, to, a, b }),
            _ => unknown(),
        }
    }

    fn float(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Operation> {
        let name = opcode.name();
        if name == "copysign" {
            return self.binary(Binary32::CopySign, operands);
        }
        opcode.only(1, &["rn", "rz", "rm", "rp", "ftz", "sat", "approx", "full", "NaN", "f32"])?;
        let (flush, saturate) = (opcode.has("ftz"), opcode.has("sat"));
        let rounding = rounding_of(opcode);
        let approx = opcode.has("approx");
        let nan = opcode.has("NaN");
        if !flush && !saturate && rounding == Rounding::NearestEven && !nan {
            let to = self.word(&operands[0])?;
            let a = self.word(&operands[1])?;
            let fast = match name {
                "add" => Some(Binary32::AddF32),
                "sub" => Some(Binary32::SubF32),
                "mul" => Some(Binary32::MulF32),
                "max" => Some(Binary32::MaxF32),
                "min" => Some(Binary32::MinF32),
                "neg" => return Ok(Operation::Unary32 { op: Unary32::NegateF32, to, a }),
                "abs" => return Ok(Operation::Unary32 { op: Unary32::AbsoluteF32, to, a }),
                "fma" | "mad" => return self.ternary(Ternary32::FmaF32, operands),
                _ => None,
            };
            if let Some(op) = fast {
                return Ok(Operation::Binary32 { op, to, a, b: self.word(&operands[2])? });
            }
        }
        let kind = match name {
            "add" => FloatKind::Add,
            "sub" => FloatKind::Sub,
            "mul" => FloatKind::Mul,
            "fma" | "mad" => FloatKind::Fma,
            "div" if approx => FloatKind::DivApprox,
            "div" => FloatKind::Div,
            "min" if nan => FloatKind::MinNan,
            "max" if nan => FloatKind::MaxNan,
            "min" => FloatKind::Min,
            "max" => FloatKind::Max,
            "neg" => FloatKind::Negate,
            "abs" => FloatKind::Absolute,
            "sqrt" => FloatKind::Sqrt,
            "rcp" => FloatKind::Rcp,
            "rsqrt" if approx => FloatKind::Rsqrt,
            "ex2" if approx => FloatKind::Exp2,
            "lg2" if approx => FloatKind::Log2,
            "sin" if approx => FloatKind::Sin,
            "cos" if approx => FloatKind::Cos,
            "tanh" if approx => FloatKind::Tanh,
            _ => return unknown(),
        };
        let (to, inputs) = self.float_operands(operands)?;
        Ok(Operation::Float(Box::new(FloatOperation { kind, rounding, flush, saturate, to, inputs })))
    }

    fn float_operands(&mut self, operands: &[Operand]) -> Decoded<(WordRegister, [WordRegister; 3])> {
        let to = self.word(&operands[0])?;
        let mut inputs = [self.word(&operands[1])?; 3];
        for (input, operand) in inputs.iter_mut().zip(&operands[1..]) {
            *input = self.word(operand)?;
        }
        Ok((to, inputs))
    }

    fn half(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Operation> {
        opcode.only(1, &["rn", "ftz", "sat", "relu", "approx", "NaN", "f16", "f16x2", "bf16", "bf16x2"])?;
        let last = opcode.last();
        let format = if last.starts_with('b') { HalfFormat::BF16 } else { HalfFormat::F16 };
        let nan = opcode.has("NaN");
        let kind = match opcode.name() {
            "add" => FloatKind::Add,
            "sub" => FloatKind::Sub,
            "mul" => FloatKind::Mul,
            "fma" => FloatKind::Fma,
            "min" if nan => FloatKind::MinNan,
            "max" if nan => FloatKind::MaxNan,
            "min" => FloatKind::Min,
            "max" => FloatKind::Max,
            "neg" => FloatKind::Negate,
            "abs" => FloatKind::Absolute,
            // bf16 has only the form that flushes, f16 only the one that does not.
            "ex2" if opcode.has("approx") && opcode.has("ftz") == (format == HalfFormat::BF16) => FloatKind::Exp2,
            "tanh" if opcode.has("approx") => FloatKind::Tanh,
            _ => return unknown(),
        };
        let (to, inputs) = self.float_operands(operands)?;
        Ok(Operation::Half(Box::new(HalfOperation {
            kind,
            format,
            packed: last.ends_with("x2"),
            flush: opcode.has("ftz"),
            saturate: opcode.has("sat"),
            relu: opcode.has("relu"),
            to,
            inputs,
        })))
    }

    fn float64(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Operation> {
        opcode.only(1, &["rn", "f64"])?;
        let (to, a) = (self.double(&operands[0])?, self.double(&operands[1])?);
        let op = match opcode.name() {
            "add" => Binary64::AddF64,
            "sub" => Binary64::SubF64,
            "mul" => Binary64::MulF64,
            "div" => Binary64::DivF64,
            "min" => Binary64::MinF64,
            "max" => Binary64::MaxF64,
            "neg" => return Ok(Operation::Unary64 { op: Unary64::NegateF64, to, a }),
            "abs" => return Ok(Operation::Unary64 { op: Unary64::AbsoluteF64, to, a }),
            "sqrt" => return Ok(Operation::Unary64 { op: Unary64::SqrtF64, to, a }),
            "rcp" => return Ok(Operation::Unary64 { op: Unary64::RcpF64, to, a }),
            "fma" => {
                let (b, c) = (self.double(&operands[2])?, self.double(&operands[3])?);
                return Ok(Operation::Ternary64 { op: Ternary64::FmaF64, to, a, b, c });
            }
            _ => return unknown(),
        };
        Ok(Operation::Binary64 { op, to, a, b: self.double(&operands[2])? })
    }

    fn convert(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Operation> {
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

    fn set_predicate(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Operation> {
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

    fn wanted_predicate(&mut self, operand: &Operand) -> Decoded<Option<PredicateRegister>> {
        match operand {
            Operand::Sink => Ok(None),
            other => self.predicate(other).map(Some),
        }
    }

    /// `set.cmp.dtype.stype`
    fn set(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Operation> {
        arity(operands, 3..=3)?;
        let (comparison, scalar) = self.comparison(opcode)?;
        let to_kind = opcode.parts.iter().rev().nth(1).copied().unwrap_or("");
        if !matches!(to_kind, "u32" | "s32" | "f32") || opcode.last().ends_with("x2") {
            return unknown();
        }
        opcode.only(2, &["ftz", to_kind, opcode.last()])?;
        let a = self.lane_register(&operands[1], scalar.bytes())?;
        let b = self.lane_register(&operands[2], scalar.bytes())?;
        let flush = opcode.has("ftz");
        let compare = SetPredicate { comparison, scalar, flush, a, b, to: None, complement: None, combine: None };
        Ok(Operation::Set { compare: Box::new(compare), to: self.word(&operands[0])?, float: to_kind == "f32" })
    }

    fn select(&mut self, kind: &str, operands: &[Operand]) -> Decoded<Operation> {
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

    fn select_by_sign(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Operation> {
        if Scalar::parse(opcode.part(1)).map(Scalar::bytes) != Some(4) || opcode.parts.len() != 3 {
            return unknown();
        }
        match opcode.last() {
            "s32" => self.ternary(Ternary32::SelectBySign, operands),
            "f32" => self.ternary(Ternary32::SelectByFloatSign, operands),
            _ => unknown(),
        }
    }

    fn bits(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Operation> {
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
                if opcode.parts.len() != 2 {
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

fn is_type(part: &str) -> bool {
    Scalar::parse(part).is_some() || matches!(part, "f16x2" | "bf16x2")
}

fn rounding_of(opcode: &Opcode<'_>) -> Rounding {
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
