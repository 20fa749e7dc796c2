//! Arithmetic of integers and of floating-point numbers.

use super::scalar::rounding_of;
use super::*;

impl Decoder<'_> {
    pub(super) fn multiply(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Operation> {
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

    pub(super) fn arithmetic(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Operation> {
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

    /// `add{c}{.cc}`, `sub{c}{.cc}`, `mad{c}.{lo,hi}{.cc}`
    pub(super) fn carry(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Operation> {
        let name = opcode.name();
        let takes = name.ends_with('c');
        let multiplies = name.starts_with("mad");
        arity(operands, if multiplies { 4..=4 } else { 3..=3 })?;
        opcode.only(1, &["lo", "hi", "cc", opcode.last()])?;
        let scalar = Scalar::parse(opcode.last()).ok_or("type of an operation")?;
        let (bytes, signed) = match scalar {
            Scalar::Signed(bytes @ (4 | 8)) => (bytes, true),
            Scalar::Unsigned(bytes @ (4 | 8)) => (bytes, false),
            _ => return unknown(),
        };
        let kind = match (&name[..3], opcode.part(1), signed) {
            ("add", ..) => CarryKind::Add,
            ("sub", ..) => CarryKind::Sub,
            ("mad", "lo", _) => CarryKind::MadLow,
            ("mad", "hi", true) => CarryKind::MadHighSigned,
            ("mad", "hi", false) => CarryKind::MadHighUnsigned,
            _ => return unknown(),
        };
        let to = self.lane_register(&operands[0], bytes)?;
        let mut inputs = [to; 3];
        for (input, operand) in inputs.iter_mut().zip(&operands[1..]) {
            *input = self.lane_register(operand, bytes)?;
        }
        let flag = match self.carry_flag {
            Some(flag) => flag,
            None => {
                let flag = self.new_predicate();
                self.carry_flag = Some(flag);
                flag
            }
        };
        let sets = opcode.has("cc");
        Ok(Operation::Carry(Box::new(CarryOperation { kind, bytes, takes, sets, flag, to, inputs })))
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
        let (to, a) = (self.double(&operands[0])?, self.double(&operands[1])?);
        if opcode.has("approx") {
            opcode.only(1, &["approx", "ftz", "f64"])?;
            let op = match opcode.name() {
                "rcp" => Unary64::RcpApproxF64,
                "rsqrt" => Unary64::RsqrtApproxF64,
                _ => return unknown(),
            };
            return Ok(Operation::Unary64 { op, to, a });
        }
        opcode.only(1, &["rn", "f64"])?;
        let op = match opcode.name() {
            "add" => Binary64::AddF64,
            "sub" => Binary64::SubF64,
            "mul" => Binary64::MulF64,
            "div" => Binary64::DivF64,
            "copysign" => {
                return Ok(Operation::Binary64 { op: Binary64::CopySignF64, to, a, b: self.double(&operands[2])? });
            }
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
}
