//! Operands become registers: declared ones get a place in a bank, everything else is a constant in one.

use super::*;

impl Decoder<'_> {
    pub(super) fn place(&mut self, id: RegisterId) -> Decoded<Place> {
        if let Some(&place) = self.banks.get(&id) {
            return Ok(place);
        }
        let declared = &self.kernel.registers[id.0 as usize];
        let literal = self.settled.literal(id);
        let place = match declared.class {
            // The literal's own register, which is filled before a block starts.
            RegisterClass::Bits8 | RegisterClass::Bits16 | RegisterClass::Bits32 if literal.is_some() => {
                Place::Lane(LaneRegister::Word(self.word(literal.unwrap_or(&Operand::Sink))?))
            }
            RegisterClass::Bits64 if literal.is_some() => {
                Place::Lane(LaneRegister::Double(self.double(literal.unwrap_or(&Operand::Sink))?))
            }
            RegisterClass::Predicate => Place::Predicate(self.new_predicate()),
            RegisterClass::Bits8 | RegisterClass::Bits16 | RegisterClass::Bits32 => {
                Place::Lane(LaneRegister::Word(match self.temporaries.place(id) {
                    Some(place) => self.shared_word(place),
                    None => self.new_word(),
                }))
            }
            RegisterClass::Bits64 => Place::Lane(LaneRegister::Double(match self.temporaries.place(id) {
                Some(place) => self.shared_double(place),
                None => self.new_double(),
            })),
            RegisterClass::Bits128 => return Err(format!("128-bit register {}", declared.name).into()),
        };
        self.banks.insert(id, place);
        Ok(place)
    }

    pub(super) fn new_word(&mut self) -> WordRegister {
        self.words += 1;
        WordRegister((self.words - 1) as u16)
    }

    pub(super) fn new_double(&mut self) -> DoubleRegister {
        self.doubles += 1;
        DoubleRegister((self.doubles - 1) as u16)
    }

    /// The register at a place that temporaries share.
    fn shared_word(&mut self, place: u32) -> WordRegister {
        while self.shared_words.len() <= place as usize {
            let register = self.new_word();
            self.shared_words.push(register);
        }
        self.shared_words[place as usize]
    }

    fn shared_double(&mut self, place: u32) -> DoubleRegister {
        while self.shared_doubles.len() <= place as usize {
            let register = self.new_double();
            self.shared_doubles.push(register);
        }
        self.shared_doubles[place as usize]
    }

    pub(super) fn new_predicate(&mut self) -> PredicateRegister {
        self.predicates += 1;
        PredicateRegister((self.predicates - 1) as u16)
    }

    pub(super) fn constant_word(&mut self, constant: Constant) -> WordRegister {
        if let Some(&place) = self.constant_places.get(&(constant, false)) {
            return WordRegister(place);
        }
        let register = self.new_word();
        self.constants.push((LaneRegister::Word(register), constant));
        self.constant_places.insert((constant, false), register.0);
        register
    }

    pub(super) fn constant_double(&mut self, constant: Constant) -> DoubleRegister {
        if let Some(&place) = self.constant_places.get(&(constant, true)) {
            return DoubleRegister(place);
        }
        let register = self.new_double();
        self.constants.push((LaneRegister::Double(register), constant));
        self.constant_places.insert((constant, true), register.0);
        register
    }

    /// The value of an operand that is a literal, or a register that holds one wherever it is read.
    pub(super) fn literal(&self, operand: &Operand) -> Option<u64> {
        let operand = match operand {
            Operand::Register(id) => self.settled.literal(*id)?,
            other => other,
        };
        integer(Some(operand)).ok()
    }

    pub(super) fn register_name(&self, id: RegisterId) -> &str {
        &self.kernel.registers[id.0 as usize].name
    }

    /// A 32-bit source or destination (or a narrower register, where the type is narrower).
    pub(super) fn word(&mut self, operand: &Operand) -> Decoded<WordRegister> {
        match operand {
            Operand::Register(id) => match self.place(*id)? {
                Place::Lane(LaneRegister::Word(register)) => Ok(register),
                _ => invalid(format!(
                    "register {} has the wrong width, 32 bits or fewer are needed",
                    self.register_name(*id)
                )),
            },
            Operand::Immediate(Immediate::Integer(bits)) => Ok(self.constant_word(Constant::Bits(*bits))),
            Operand::Immediate(Immediate::Single(bits)) => Ok(self.constant_word(Constant::Bits(u64::from(*bits)))),
            Operand::Immediate(Immediate::Double(bits)) => {
                let single = f64::from_bits(*bits) as f32;
                Ok(self.constant_word(Constant::Bits(u64::from(single.to_bits()))))
            }
            Operand::Special(name) => {
                let constant = special(name).ok_or_else(|| format!("special register {name} is not supported"))?;
                Ok(self.constant_word(constant))
            }
            Operand::Symbol(name) => {
                let address = self.symbol(name)?;
                Ok(self.constant_word(address))
            }
            _ => invalid("operand is not a 32-bit value"),
        }
    }

    pub(super) fn double(&mut self, operand: &Operand) -> Decoded<DoubleRegister> {
        match operand {
            Operand::Register(id) => match self.place(*id)? {
                Place::Lane(LaneRegister::Double(register)) => Ok(register),
                _ => invalid(format!("register {} has the wrong width, 64 bits are needed", self.register_name(*id))),
            },
            Operand::Immediate(Immediate::Integer(bits) | Immediate::Double(bits)) => {
                Ok(self.constant_double(Constant::Bits(*bits)))
            }
            Operand::Immediate(Immediate::Single(_)) => invalid("a 32-bit float where 64 bits are needed"),
            Operand::Special(name) => {
                let constant = special(name).ok_or_else(|| format!("special register {name} is not supported"))?;
                Ok(self.constant_double(constant))
            }
            Operand::Symbol(name) => {
                let address = self.symbol(name)?;
                Ok(self.constant_double(address))
            }
            _ => invalid("operand is not a 64-bit value"),
        }
    }

    pub(super) fn lane_register(&mut self, operand: &Operand, bytes: u8) -> Decoded<LaneRegister> {
        if bytes == 8 {
            Ok(LaneRegister::Double(self.double(operand)?))
        } else {
            Ok(LaneRegister::Word(self.word(operand)?))
        }
    }

    /// A register of whichever width it was declared with: loads, stores and conversions allow wider ones.
    pub(super) fn any_register(&mut self, operand: &Operand, bytes: u8) -> Decoded<LaneRegister> {
        if let Operand::Register(id) = operand {
            let declared = match self.kernel.registers[id.0 as usize].class {
                RegisterClass::Predicate => return invalid("a predicate where a value is needed"),
                RegisterClass::Bits8 => 1,
                RegisterClass::Bits16 => 2,
                RegisterClass::Bits32 => 4,
                RegisterClass::Bits64 => 8,
                RegisterClass::Bits128 => 16,
            };
            if declared < bytes {
                return invalid(format!("register {} is narrower than the operation", self.register_name(*id)));
            }
            return match self.place(*id)? {
                Place::Lane(register) => Ok(register),
                Place::Predicate(_) => invalid("a predicate where a value is needed"),
            };
        }
        self.lane_register(operand, bytes)
    }

    pub(super) fn predicate_id(&mut self, id: RegisterId) -> Decoded<PredicateRegister> {
        match self.place(id)? {
            Place::Predicate(register) => Ok(register),
            Place::Lane(_) => invalid(format!("register {} is not a predicate", self.register_name(id))),
        }
    }

    pub(super) fn predicate(&mut self, operand: &Operand) -> Decoded<PredicateRegister> {
        match operand {
            Operand::Register(id) => self.predicate_id(*id),
            Operand::Immediate(Immediate::Integer(value)) => {
                let holds = *value != 0;
                if let Some((register, _)) = self.predicate_constants.iter().find(|(_, value)| *value == holds) {
                    return Ok(*register);
                }
                let register = self.new_predicate();
                self.predicate_constants.push((register, holds));
                Ok(register)
            }
            _ => invalid("operand is not a predicate"),
        }
    }

    /// A predicate that may be written `!p`.
    pub(super) fn signed_predicate(&mut self, operand: &Operand) -> Decoded<(PredicateRegister, bool)> {
        match operand {
            Operand::Not(inner) => Ok((self.predicate(inner)?, true)),
            other => Ok((self.predicate(other)?, false)),
        }
    }

    /// What a name stands for: an address, or one that is known when a launch begins.
    pub(super) fn symbol(&self, name: &str) -> Decoded<Constant> {
        if self.frame.is_none()
            && let Some(parameter) = self.entry.parameters.iter().find(|parameter| parameter.name == name)
        {
            return Ok(Constant::Bits(parameter.offset as u64));
        }
        match self.locals.get(name) {
            Some(_) if self.frame.is_some() => {
                return Err("the address of a local variable is not supported here".into());
            }
            Some(&address) => return Ok(Constant::Bits(address)),
            None => {}
        }
        if let Some(&address) = self.variables.get(name) {
            return Ok(Constant::Bits(address));
        }
        let index = self.module.variables.iter().position(|variable| variable.name == name);
        let Some(index) = index.and_then(|index| u16::try_from(index).ok()) else {
            return Err(format!("`{name}` is not a parameter or a variable of this module").into());
        };
        let variable = &self.module.variables[usize::from(index)];
        if let Err(reason) = &variable.initial {
            return Err(format!("variable `{name}`: {reason}").into());
        }
        match (variable.space, variable.size) {
            (VariableSpace::Global | VariableSpace::Constant, Some(_)) => Ok(Constant::ModuleVariable(index)),
            _ => Err(format!("variable `{name}` is defined elsewhere").into()),
        }
    }

    /// The place of a local variable in the frame of the function that is being decoded.
    pub(super) fn in_frame(&self, operand: &Operand) -> Option<(DoubleRegister, u64)> {
        let Operand::Symbol(name) = operand else { return None };
        Some((self.frame?, *self.locals.get(name.as_str())?))
    }

    pub(super) fn address(&mut self, operand: &Operand) -> Decoded<Address> {
        let Operand::Address { base, offset } = operand else {
            return invalid("operand is not an address");
        };
        self.based_address(base, *offset)
    }

    pub(super) fn based_address(&mut self, base: &Operand, offset: i64) -> Decoded<Address> {
        if let Some((frame, at)) = self.in_frame(base) {
            return Ok(Address { base: LaneRegister::Double(frame), offset: offset.wrapping_add(at as i64) });
        }
        let base = match base {
            Operand::Register(id) => match self.place(*id)? {
                Place::Lane(register) => register,
                Place::Predicate(_) => return invalid("a predicate is no address"),
            },
            other => LaneRegister::Double(self.double(other)?),
        };
        Ok(Address { base, offset })
    }

    pub(super) fn words_of(&mut self, operand: &Operand) -> Decoded<Box<[WordRegister]>> {
        match operand {
            Operand::Vector(parts) => parts.iter().map(|part| self.word(part)).collect(),
            other => Ok(Box::new([self.word(other)?])),
        }
    }

    /// Notes the size of a write, which bounds what one cell of shadow may stand for.
    pub(super) fn note_write(&mut self, space: Space, bytes: u32) {
        let bytes = bytes.clamp(1, 16);
        if matches!(space, Space::Shared | Space::SharedCluster | Space::Generic) {
            self.smallest_shared_write = self.smallest_shared_write.min(bytes);
        }
        if matches!(space, Space::Global | Space::Generic) {
            self.smallest_global_write = self.smallest_global_write.min(bytes);
        }
    }
}
