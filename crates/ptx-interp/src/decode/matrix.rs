//! ldmatrix, stmatrix, movmatrix, mma.sync and wmma.

use super::*;

fn element(name: &str) -> Option<MatrixElement> {
    Some(match name {
        "f16" => MatrixElement::F16,
        "bf16" => MatrixElement::BF16,
        "f32" => MatrixElement::F32,
        "tf32" => MatrixElement::TF32,
        _ => return None,
    })
}

fn space(opcode: &Opcode<'_>) -> Space {
    if opcode.has("shared") || opcode.has("shared::cta") {
        Space::Shared
    } else if opcode.has("global") {
        Space::Global
    } else {
        Space::Generic
    }
}

impl Decoder<'_> {
    pub(super) fn matrix(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Operation> {
        match opcode.name() {
            "ldmatrix" | "stmatrix" => self.matrix_move(opcode, operands),
            "movmatrix" => {
                arity(operands, 2..=2)?;
                if opcode.parts != ["movmatrix", "sync", "aligned", "m8n8", "trans", "b16"] {
                    return unknown();
                }
                Ok(Operation::MatrixTranspose { to: self.word(&operands[0])?, value: self.word(&operands[1])? })
            }
            "mma" => self.matrix_multiply(opcode, operands),
            _ => match opcode.part(1) {
                "mma" => self.fragment_multiply(opcode, operands),
                "load" | "store" => self.fragment_move(opcode, operands),
                _ => unknown(),
            },
        }
    }

    fn matrix_move(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Operation> {
        arity(operands, 2..=2)?;
        opcode.only(1, &["sync", "aligned", "m8n8", "x1", "x2", "x4", "trans", "shared", "shared::cta", "b16"])?;
        if opcode.part(3) != "m8n8" || opcode.last() != "b16" {
            return unknown();
        }
        let store = opcode.name() == "stmatrix";
        let (values, place) = if store { (&operands[1], &operands[0]) } else { (&operands[0], &operands[1]) };
        let registers = self.words_of(values)?;
        let count = if opcode.has("x4") {
            4
        } else if opcode.has("x2") {
            2
        } else {
            1
        };
        if registers.len() != count {
            return Err("the number of registers does not match the number of matrices".into());
        }
        let space = space(opcode);
        if store {
            self.note_write(space, 16);
        }
        let address = self.address(place)?;
        Ok(Operation::MatrixMove(Box::new(MatrixMove {
            store,
            transposed: opcode.has("trans"),
            space,
            address,
            registers,
        })))
    }

    fn matrix_multiply(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Operation> {
        arity(operands, 4..=4)?;
        // mma.sync.aligned.shape.row.col.dtype.atype.btype.ctype
        if opcode.parts.len() != 10 || opcode.part(4) != "row" || opcode.part(5) != "col" {
            return unknown();
        }
        let types: Vec<_> = opcode.parts[6..].iter().map(|name| element(name)).collect();
        let &[Some(d), Some(a), Some(b), Some(c)] = types.as_slice() else { return unknown() };
        let depth = match opcode.part(3) {
            "m16n8k16" => 16,
            "m16n8k8" => 8,
            _ => return unknown(),
        };
        let accumulates = d == c && (d == MatrixElement::F32 || (d == MatrixElement::F16 && a == MatrixElement::F16));
        if a != b || !accumulates || !matches!(a, MatrixElement::F16 | MatrixElement::BF16) {
            return unknown();
        }
        let multiply = MatrixMultiply {
            depth,
            element: a,
            accumulator: d,
            d: self.words_of(&operands[0])?,
            a: self.words_of(&operands[1])?,
            b: self.words_of(&operands[2])?,
            c: self.words_of(&operands[3])?,
        };
        let accumulators = if d == MatrixElement::F32 { 4 } else { 2 };
        let steps = usize::from(depth / 8);
        let sizes = (multiply.d.len(), multiply.a.len(), multiply.b.len(), multiply.c.len());
        if sizes != (accumulators, 2 * steps, steps, accumulators) {
            return Err("the number of registers does not match the shape".into());
        }
        Ok(Operation::MatrixMultiply(Box::new(multiply)))
    }

    fn fragment_shape(&self, opcode: &Opcode<'_>) -> Decoded<FragmentShape> {
        for (name, m, n, k) in [("m16n16k16", 16, 16, 16), ("m32n8k16", 32, 8, 16), ("m8n32k16", 8, 32, 16)] {
            if opcode.has(name) {
                return Ok(FragmentShape { m, n, k });
            }
        }
        Err("this wmma shape is not supported".into())
    }

    /// `wmma.load.a.sync.aligned.layout.shape[.space].type`, `wmma.store.d…`
    fn fragment_move(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Operation> {
        arity(operands, 2..=3)?;
        let store = opcode.part(1) == "store";
        let role = match (store, opcode.part(2)) {
            (false, "a") => FragmentRole::A,
            (false, "b") => FragmentRole::B,
            (false, "c") => FragmentRole::C,
            (true, "d") => FragmentRole::D,
            _ => return unknown(),
        };
        let shape = self.fragment_shape(opcode)?;
        opcode.only(
            3,
            &[
                "sync",
                "aligned",
                "row",
                "col",
                "m16n16k16",
                "m32n8k16",
                "m8n32k16",
                "shared",
                "shared::cta",
                "global",
                "f16",
                "bf16",
                "f32",
            ],
        )?;
        let element = element(opcode.last()).ok_or("type of a fragment")?;
        let (values, place) = if store { (&operands[1], &operands[0]) } else { (&operands[0], &operands[1]) };
        let registers = self.words_of(values)?;
        let expected = match (role, element) {
            (FragmentRole::A | FragmentRole::B, MatrixElement::F16) => 8,
            (FragmentRole::A, MatrixElement::BF16) => usize::from(shape.m) / 4,
            (FragmentRole::B, MatrixElement::BF16) => usize::from(shape.n) / 4,
            (FragmentRole::C | FragmentRole::D, MatrixElement::F32) => 8,
            (FragmentRole::C | FragmentRole::D, MatrixElement::F16) => 4,
            _ => return unknown(),
        };
        if registers.len() != expected {
            return Err("the number of registers does not match the fragment".into());
        }
        let space = space(opcode);
        if store {
            self.note_write(space, if element == MatrixElement::F32 { 4 } else { 2 });
        }
        let address = self.address(place)?;
        let stride = match operands.get(2) {
            Some(stride) => Some(self.word(stride)?),
            None => None,
        };
        let column_major = opcode.has("col");
        Ok(Operation::FragmentMove(Box::new(FragmentMove {
            role,
            shape,
            column_major,
            element,
            space,
            address,
            stride,
            registers,
        })))
    }

    /// `wmma.mma.sync.aligned.alayout.blayout.shape.dtype[.atype.btype].ctype`
    fn fragment_multiply(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Operation> {
        arity(operands, 4..=4)?;
        let shape = self.fragment_shape(opcode)?;
        if opcode.has("satfinite") {
            return unknown();
        }
        let types: Vec<_> = opcode.parts.iter().skip(7).map(|name| element(name)).collect();
        let (d_element, element, c_element) = match *types.as_slice() {
            [Some(d), Some(c)] => (d, MatrixElement::F16, c),
            [Some(d), Some(a), Some(b), Some(c)] if a == b => (d, a, c),
            _ => return unknown(),
        };
        let multiply = FragmentMultiply {
            shape,
            element,
            d_element,
            c_element,
            d: self.words_of(&operands[0])?,
            a: self.words_of(&operands[1])?,
            b: self.words_of(&operands[2])?,
            c: self.words_of(&operands[3])?,
        };
        let size = |element| if element == MatrixElement::F32 { 8 } else { 4 };
        let (a_size, b_size) = match element {
            MatrixElement::F16 => (8, 8),
            MatrixElement::BF16 => (usize::from(shape.m) / 4, usize::from(shape.n) / 4),
            _ => return unknown(),
        };
        let sizes = (multiply.d.len(), multiply.a.len(), multiply.b.len(), multiply.c.len());
        if sizes != (size(d_element), a_size, b_size, size(c_element)) {
            return Err("the number of registers does not match the fragments".into());
        }
        Ok(Operation::FragmentMultiply(Box::new(multiply)))
    }
}
