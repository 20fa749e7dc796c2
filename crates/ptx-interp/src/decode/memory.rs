//! Loads, stores, atomics, address conversion and `cp.async` with its groups.

use super::*;

/// Qualifiers that only hint at caching.
fn is_cache_hint(part: &str) -> bool {
    part.starts_with("L1::")
        || part.starts_with("L2::")
        || matches!(part, "nc" | "ca" | "cg" | "cs" | "lu" | "cv" | "wb" | "wt" | "uniform" | "unified")
}

fn space_of(part: &str) -> Option<Space> {
    Some(match part {
        "global" | "const" => Space::Global,
        "shared" | "shared::cta" => Space::Shared,
        "shared::cluster" => Space::SharedCluster,
        "local" => Space::Local,
        "param" | "param::entry" => Space::Parameter,
        _ => return None,
    })
}

fn ordering_of(part: &str) -> Option<Ordering> {
    Some(match part {
        "weak" => Ordering::Weak,
        "relaxed" | "volatile" | "mmio" => Ordering::Relaxed,
        "acquire" => Ordering::Acquire,
        "release" => Ordering::Release,
        "acq_rel" => Ordering::AcquireRelease,
        _ => return None,
    })
}

impl Decoder<'_> {
    pub(super) fn memory(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Operation> {
        match opcode.name() {
            "ld" | "ldu" => self.load_or_store(opcode, operands, false),
            "st" if opcode.part(1) == "async" => self.store_async(opcode, operands),
            "st" => self.load_or_store(opcode, operands, true),
            "atom" | "red" if opcode.part(1) == "async" => unknown(),
            "atom" | "red" => self.atomic(opcode, operands),
            "cvta" => self.convert_address(opcode, operands),
            "isspacep" => {
                arity(operands, 2..=2)?;
                let space = space_of(opcode.part(1)).ok_or("state space")?;
                Ok(Operation::TestSpace { space, to: self.predicate(&operands[0])?, a: self.double(&operands[1])? })
            }
            "createpolicy" => Ok(match operands.first() {
                // A policy is a hint: its value is never looked at.
                Some(to) => {
                    let a = self.constant_double(Constant::Bits(0));
                    Operation::Unary64 { op: Unary64::Move, to: self.double(to)?, a }
                }
                None => Operation::Nothing,
            }),
            _ => Ok(Operation::Nothing),
        }
    }

    fn load_or_store(&mut self, opcode: &Opcode<'_>, operands: &[Operand], store: bool) -> Decoded<Operation> {
        let mut space = Space::Generic;
        let mut ordering = Ordering::Weak;
        // `.volatile` has no scope, and orders among all threads.
        let mut scope = Scope::Device;
        let mut elements = 1usize;
        let scalar = Scalar::parse(opcode.last()).ok_or("type of an access")?;
        let mut hint = false;
        for part in &opcode.parts[1..opcode.parts.len() - 1] {
            if let Some(named) = space_of(part) {
                space = named;
            } else if let Some(named) = ordering_of(part) {
                ordering = named;
            } else if let Some(count) = part.strip_prefix('v').and_then(|count| count.parse().ok()) {
                elements = count;
            } else if *part == "L2::cache_hint" {
                hint = true;
            } else if let Some(named) = Scope::parse(part) {
                scope = named;
            } else if !is_cache_hint(part) {
                return Err(format!("qualifier `.{part}` is not supported here").into());
            }
        }
        arity(operands, if hint { 3..=3 } else { 2..=2 })?;
        if !matches!(elements, 1 | 2 | 4) || elements * usize::from(scalar.bytes()) > 16 {
            return unknown();
        }
        let (values, place) = if store { (&operands[1], &operands[0]) } else { (&operands[0], &operands[1]) };
        let bytes = scalar.bytes();
        let one = std::slice::from_ref(values);
        let list = match values {
            Operand::Vector(parts) => parts.as_slice(),
            _ => one,
        };
        if list.len() != elements {
            return invalid("the number of registers does not match the vector");
        }
        let registers: Box<[_]> = list
            .iter()
            .map(|part| match part {
                Operand::Sink if !store => Ok(None),
                part => self.any_register(part, bytes).map(Some),
            })
            .collect::<Decoded<_>>()?;
        if space == Space::Parameter && self.is_in_frame(place) {
            // Parameters and results of calls.
            space = Space::Local;
        }
        if space == Space::Parameter {
            if store {
                return unknown();
            }
            if let Some(operation) = self.constant_parameter(place, &registers, scalar)? {
                return Ok(operation);
            }
        }
        let address = self.address(place)?;
        if store {
            self.note_write(space, u32::from(bytes) * elements as u32);
        }
        self.note_ordering(space, ordering);
        let signed = matches!(scalar, Scalar::Signed(_));
        let non_coherent = opcode.has("nc");
        let access = Access { space, ordering, scope, non_coherent, address, element: bytes, signed, registers };
        let access = Box::new(access);
        Ok(if store { Operation::Store(access) } else { Operation::Load(access) })
    }

    /// Whether an address in `.param` is one of a call's, and not of the kernel's parameters.
    fn is_in_frame(&self, place: &Operand) -> bool {
        let Operand::Address { base, .. } = place else { return false };
        match &**base {
            Operand::Symbol(name) => self.locals.contains_key(name.as_str()),
            // A function does not see the kernel's parameters.
            _ => self.frame.is_some(),
        }
    }

    /// A parameter at a fixed place is a constant of the launch.
    fn constant_parameter(
        &mut self,
        place: &Operand,
        registers: &[Option<LaneRegister>],
        scalar: Scalar,
    ) -> Decoded<Option<Operation>> {
        let Operand::Address { base, offset } = place else { return Ok(None) };
        let (name, within) = match &**base {
            Operand::Symbol(name) => (name.as_str(), 0),
            Operand::Register(id) => match self.settled.parameter(*id) {
                Some(place) => place,
                None => return Ok(None),
            },
            _ => return Ok(None),
        };
        let [Some(to)] = *registers else { return Ok(None) };
        let parameter = self
            .entry
            .parameters
            .iter()
            .find(|parameter| parameter.name == name)
            .ok_or_else(|| format!("`{name}` is not a parameter"))?;
        let bytes = scalar.bytes();
        let within =
            usize::try_from(within.wrapping_add(*offset)).ok().filter(|&at| at + usize::from(bytes) <= parameter.size);
        let at = within.ok_or_else(|| Problem::Invalid("the access reaches past the parameter".into()))?;
        let constant = Constant::Parameter {
            offset: (parameter.offset + at) as u16,
            bytes,
            signed: matches!(scalar, Scalar::Signed(_)),
        };
        Ok(Some(match to {
            LaneRegister::Word(to) => {
                let a = self.constant_word(constant);
                Operation::Unary32 { op: Unary32::Move, to, a }
            }
            LaneRegister::Double(to) => {
                let a = self.constant_double(constant);
                Operation::Unary64 { op: Unary64::Move, to, a }
            }
        }))
    }

    /// Synchronisation through memory needs vector clocks, and through global memory blocks side by side.
    fn note_ordering(&mut self, space: Space, ordering: Ordering) {
        if ordering == Ordering::Weak {
            return;
        }
        let in_shared = matches!(space, Space::Shared | Space::SharedCluster | Space::Generic);
        if in_shared || ordering != Ordering::Relaxed {
            self.features.precise_ordering = true;
        }
        self.features.relaxed = true;
        if matches!(space, Space::Global | Space::Generic) {
            self.features.communicates = true;
        }
    }

    fn store_async(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Operation> {
        arity(operands, 3..=3)?;
        let scalar = Scalar::parse(opcode.last()).ok_or("type of an access")?;
        for part in &opcode.parts[2..opcode.parts.len() - 1] {
            let known = matches!(*part, "weak" | "mbarrier::complete_tx::bytes" | "shared::cluster" | "v2" | "v4");
            if !known {
                return Err(format!("qualifier `.{part}` is not supported here").into());
            }
        }
        let one = std::slice::from_ref(&operands[1]);
        let list = match &operands[1] {
            Operand::Vector(parts) => parts.as_slice(),
            _ => one,
        };
        let registers =
            list.iter().map(|part| self.any_register(part, scalar.bytes())).collect::<Decoded<Box<[_]>>>()?;
        self.features.precise_ordering = true;
        self.note_write(Space::Shared, u32::from(scalar.bytes()) * registers.len() as u32);
        Ok(Operation::StoreAsync(Box::new(StoreAsync {
            address: self.address(&operands[0])?,
            element: scalar.bytes(),
            registers,
            mbarrier: self.address(&operands[2])?,
        })))
    }

    fn atomic(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Operation> {
        let reduces = opcode.name() == "red";
        let last = opcode.last();
        let packed = matches!(last, "f16x2" | "bf16x2");
        let scalar = match last {
            "f16x2" => Scalar::F16,
            "bf16x2" => Scalar::BF16,
            other => Scalar::parse(other).ok_or("type of an atomic")?,
        };
        let mut space = Space::Generic;
        let mut scope = Scope::Device;
        // Without a qualifier an atomic is relaxed.
        let mut ordering = Ordering::Relaxed;
        let mut kind = None;
        let mut hint = false;
        for part in &opcode.parts[1..opcode.parts.len() - 1] {
            if let Some(named) = space_of(part) {
                space = named;
            } else if let Some(named) = ordering_of(part) {
                ordering = named;
            } else if *part == "L2::cache_hint" {
                hint = true;
            } else if let Some(named) = Scope::parse(part) {
                scope = named;
            } else if !matches!(*part, "noftz" | "v2" | "v4") {
                kind = Some(match *part {
                    "add" => AtomicKind::Add,
                    "min" => AtomicKind::Min,
                    "max" => AtomicKind::Max,
                    "and" => AtomicKind::And,
                    "or" => AtomicKind::Or,
                    "xor" => AtomicKind::Xor,
                    "exch" => AtomicKind::Exchange,
                    "cas" => AtomicKind::CompareExchange,
                    "inc" => AtomicKind::Increment,
                    "dec" => AtomicKind::Decrement,
                    _ => return Err(format!("qualifier `.{part}` is not supported here").into()),
                });
            }
        }
        let kind = kind.ok_or("kind of an atomic")?;
        let swaps = kind == AtomicKind::CompareExchange;
        let needed = 2 + usize::from(!reduces) + usize::from(swaps) + usize::from(hint);
        arity(operands, needed..=needed)?;
        let bytes = if packed { 4 } else { scalar.bytes() };
        let rest = &operands[usize::from(!reduces)..];
        let to = match (reduces, &operands[0]) {
            (true, _) | (_, Operand::Sink) => None,
            (false, to) => Some(self.any_register(to, bytes)?),
        };
        let address = self.address(&rest[0])?;
        let one = std::slice::from_ref(&rest[1]);
        let list = match &rest[1] {
            Operand::Vector(parts) => parts.as_slice(),
            _ => one,
        };
        if list.len() > 1 && !reduces {
            return unknown();
        }
        let values = list.iter().map(|part| self.any_register(part, bytes)).collect::<Decoded<Box<[_]>>>()?;
        let replacement = if swaps { Some(self.any_register(&rest[2], bytes)?) } else { None };
        self.note_write(space, u32::from(bytes));
        self.note_ordering(space, ordering);
        Ok(Operation::Atomic(Box::new(Atomic {
            kind,
            space,
            ordering,
            scope,
            scalar,
            packed,
            address,
            to,
            values,
            replacement,
        })))
    }

    fn convert_address(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Operation> {
        arity(operands, 2..=2)?;
        let to_space = opcode.part(1) == "to";
        let space = space_of(opcode.part(if to_space { 2 } else { 1 })).ok_or("state space")?;
        if opcode.last() != "u64" {
            return unknown();
        }
        let (to, a) = (self.double(&operands[0])?, self.double(&operands[1])?);
        match window(space) {
            0 => Ok(Operation::Unary64 { op: Unary64::Move, to, a }),
            base => {
                let b = self.constant_double(Constant::Bits(base));
                let op = if to_space { Binary64::Sub } else { Binary64::Add };
                Ok(Operation::Binary64 { op, to, a, b })
            }
        }
    }

    pub(super) fn copy(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Operation> {
        if opcode.part(1) == "reduce" || opcode.part(2) == "bulk" {
            return self.bulk(opcode, operands);
        }
        if opcode.part(1) != "async" {
            return unknown();
        }
        match opcode.part(2) {
            "commit_group" => Ok(Operation::CopyAsyncCommit),
            "wait_all" => Ok(Operation::CopyAsyncWaitAll),
            "wait_group" => {
                let keep = integer(operands.first())?;
                Ok(Operation::CopyAsyncWait { keep: keep.min(u64::from(u32::MAX)) as u32 })
            }
            "mbarrier" => {
                arity(operands, 1..=1)?;
                opcode.only(3, &["arrive", "noinc", "shared", "shared::cta", "b64"])?;
                self.features.precise_ordering = true;
                let space =
                    if opcode.has("shared") || opcode.has("shared::cta") { Space::Shared } else { Space::Generic };
                Ok(Operation::Mbarrier(Box::new(Mbarrier {
                    action: MbarrierAction::ArriveAfterCopies { increment: !opcode.has("noinc") },
                    relaxed: false,
                    scope: Scope::Block,
                    space,
                    address: self.address(&operands[0])?,
                    state: None,
                })))
            }
            "ca" | "cg" => {
                let hint = opcode.has("L2::cache_hint");
                for part in &opcode.parts[3..] {
                    if !(matches!(*part, "shared" | "shared::cta" | "global") || part.starts_with("L2::")) {
                        return Err(format!("qualifier `.{part}` is not supported here").into());
                    }
                }
                arity(operands, if hint { 4..=5 } else { 3..=4 })?;
                let bytes = integer(operands.get(2))?;
                let allowed = if opcode.part(2) == "cg" { bytes == 16 } else { matches!(bytes, 4 | 8 | 16) };
                if !allowed {
                    return invalid(format!("cp.async cannot copy {bytes} bytes"));
                }
                let (mut source_bytes, mut ignore_source) = (None, None);
                let extra = operands.len() - 3 - usize::from(hint);
                if extra == 1 {
                    let is_predicate = match &operands[3] {
                        Operand::Register(id) => self.kernel.registers[id.0 as usize].class == RegisterClass::Predicate,
                        Operand::Not(_) => true,
                        _ => false,
                    };
                    if is_predicate {
                        ignore_source = Some(self.signed_predicate(&operands[3])?);
                    } else {
                        source_bytes = Some(self.word(&operands[3])?);
                    }
                }
                self.note_write(Space::Shared, bytes as u32);
                Ok(Operation::CopyAsync(Box::new(CopyAsync {
                    destination: self.address(&operands[0])?,
                    source: self.address(&operands[1])?,
                    bytes: bytes as u8,
                    source_bytes,
                    ignore_source,
                })))
            }
            _ => unknown(),
        }
    }
}
