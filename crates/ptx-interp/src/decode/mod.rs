//! Statements to operations, once for each kernel: registers get a place in a bank, widths are checked, and a
//! spelling that the interpreter does not know is an error that names its line.

mod hopper;
mod matrix;
mod memory;
mod operation;
mod scalar;
mod warp;

use std::collections::HashMap;
use std::sync::Arc;

pub(crate) use operation::*;

use crate::address_space::{LOCAL_WINDOW, PARAMETER_WINDOW, SHARED_BASE, SHARED_WINDOW};
use crate::parse::{
    Immediate, Location, Operand, Parameter, ParsedKernel, ParsedModule, RegisterClass, RegisterId, Statement,
    VariableSpace,
};

/// Why a kernel cannot be executed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("PTX line {line}: {message}: `{text}`")]
pub struct DecodeError {
    /// Line in the PTX text, from 1.
    pub line: u32,
    /// What the interpreter does not know or accept.
    pub message: String,
    /// The statement.
    pub text: String,
}

/// A value that is the same for a whole launch, or that a thread knows about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Constant {
    Bits(u64),
    /// A piece of the parameter block.
    Parameter {
        offset: u16,
        bytes: u8,
        signed: bool,
    },
    ThreadIndex(u8),
    BlockSize(u8),
    BlockIndex(u8),
    GridSize(u8),
    ClusterIndex(u8),
    ClusterCount(u8),
    BlockInCluster(u8),
    ClusterSize(u8),
    BlockRank,
    BlocksInCluster,
    Lane,
    WarpIndex,
    WarpCount,
    LanesEqual,
    LanesLess,
    LanesLessEqual,
    LanesGreater,
    LanesGreaterEqual,
    DynamicSharedBytes,
    TotalSharedBytes,
}

/// What the checker must be prepared for, known before the launch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Features {
    /// Ordering that needs vector clocks: mbarriers, partial barriers, asynchronous proxies, atomics on shared memory.
    pub precise_ordering: bool,
    /// Blocks may talk to each other through global memory, so they must run side by side.
    pub communicates: bool,
}

/// Where an instruction comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub line: u32,
    pub location: Location,
    pub span: (usize, usize),
}

#[derive(Debug)]
pub(crate) struct Program {
    pub name: String,
    pub module: Arc<ParsedModule>,
    pub instructions: Vec<Instruction>,
    pub origins: Vec<Origin>,
    pub words: usize,
    pub doubles: usize,
    pub predicates: usize,
    pub constants: Vec<(LaneRegister, Constant)>,
    pub predicate_constants: Vec<(PredicateRegister, bool)>,
    pub parameters: Vec<Parameter>,
    pub parameter_bytes: usize,
    /// Offset just past the static shared variables, counted from address 0.
    pub static_shared_end: u32,
    /// Where dynamic shared memory starts.
    pub dynamic_shared_at: u32,
    pub local_bytes: u32,
    /// log2 of the bytes that one cell of shadow stands for: no write is smaller.
    pub shared_granule: u32,
    pub global_granule: u32,
    pub features: Features,
    /// For every instruction but wgmma itself, the 32-bit registers that it names; empty for kernels without wgmma.
    pub mentions: Vec<Box<[WordRegister]>>,
    pub max_threads: Option<[u32; 3]>,
    pub required_threads: Option<[u32; 3]>,
    pub required_cluster: Option<[u32; 3]>,
}

pub(crate) fn decode(module: &Arc<ParsedModule>, kernel: &ParsedKernel) -> Result<Program, DecodeError> {
    let mut decoder = Decoder::new(module, kernel);
    decoder.lay_out_variables()?;
    let mut starts = Vec::with_capacity(kernel.statements.len() + 1);
    for statement in &kernel.statements {
        starts.push(decoder.instructions.len() as u32);
        let operation = decoder.statement(statement).map_err(|message| decoder.error(statement, message))?;
        let guard = match statement.guard {
            Some((id, negated)) => {
                let predicate = decoder.predicate_id(id).map_err(|message| decoder.error(statement, message))?;
                Some((predicate, negated))
            }
            None => None,
        };
        let origin = Origin { line: statement.line, location: statement.location, span: statement.span };
        let lane_wise = operation.is_lane_wise();
        decoder.instructions.push(Instruction { operation, guard, lane_wise });
        decoder.origins.push(origin);
        if [decoder.words, decoder.doubles, decoder.predicates].iter().any(|&count| count >= usize::from(u16::MAX)) {
            return Err(decoder.error(statement, "the kernel uses too many registers".into()));
        }
    }
    // A kernel that runs off its end exits.
    starts.push(decoder.instructions.len() as u32);
    let last = decoder.origins.last().copied();
    decoder.instructions.push(Instruction { operation: Operation::Exit, guard: None, lane_wise: false });
    decoder.origins.push(last.unwrap_or(Origin { line: 0, location: Location::default(), span: (0, 0) }));
    let resolve = |target: u32| starts.get(target as usize).copied().unwrap_or(0);
    for instruction in &mut decoder.instructions {
        match &mut instruction.operation {
            Operation::Branch { target } => *target = resolve(*target),
            Operation::BranchIndexed { targets, .. } => {
                targets.iter_mut().for_each(|target| *target = resolve(*target))
            }
            _ => {}
        }
    }
    let mentions = decoder.mentions(&starts);
    Ok(Program { mentions, ..decoder.finish() })
}

/// Errors below this level are messages; the statement is added on the way out.
type Decoded<T> = Result<T, String>;

struct Decoder<'a> {
    module: &'a Arc<ParsedModule>,
    kernel: &'a ParsedKernel,
    instructions: Vec<Instruction>,
    origins: Vec<Origin>,
    banks: HashMap<RegisterId, Place>,
    constants: Vec<(LaneRegister, Constant)>,
    constant_places: HashMap<(Constant, bool), u16>,
    predicate_constants: Vec<(PredicateRegister, bool)>,
    words: usize,
    doubles: usize,
    predicates: usize,
    /// Addresses of shared and local variables within their spaces.
    /// Registers that hold a parameter's address wherever they are read, and which parameter's.
    parameter_addresses: HashMap<RegisterId, &'a str>,
    variables: HashMap<&'a str, (VariableSpace, u64)>,
    static_shared_end: u32,
    dynamic_shared_at: u32,
    local_bytes: u32,
    smallest_shared_write: u32,
    smallest_global_write: u32,
    features: Features,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Lane(LaneRegister),
    Predicate(PredicateRegister),
}

impl<'a> Decoder<'a> {
    fn new(module: &'a Arc<ParsedModule>, kernel: &'a ParsedKernel) -> Self {
        Self {
            module,
            kernel,
            instructions: Vec::with_capacity(kernel.statements.len() + 1),
            origins: Vec::with_capacity(kernel.statements.len() + 1),
            banks: HashMap::new(),
            constants: Vec::new(),
            constant_places: HashMap::new(),
            predicate_constants: Vec::new(),
            words: 0,
            doubles: 0,
            predicates: 0,
            variables: HashMap::new(),
            parameter_addresses: parameter_addresses(kernel),
            static_shared_end: 0,
            dynamic_shared_at: 0,
            local_bytes: 0,
            smallest_shared_write: 16,
            smallest_global_write: 16,
            features: Features::default(),
        }
    }

    fn error(&self, statement: &Statement, message: String) -> DecodeError {
        let text = self.module.source.get(statement.span.0..statement.span.1).unwrap_or(&statement.opcode);
        let text: Vec<_> = text.split_whitespace().collect();
        DecodeError { line: statement.line, message, text: text.join(" ").chars().take(200).collect() }
    }

    /// [`Program::mentions`], for statements that begin at these instructions.
    fn mentions(&self, starts: &[u32]) -> Vec<Box<[WordRegister]>> {
        fn collect(operand: &Operand, banks: &HashMap<RegisterId, Place>, into: &mut Vec<WordRegister>) {
            match operand {
                Operand::Register(id) => {
                    if let Some(Place::Lane(LaneRegister::Word(register))) = banks.get(id) {
                        into.push(*register);
                    }
                }
                Operand::Not(inner) | Operand::Address { base: inner, .. } => collect(inner, banks, into),
                Operand::Pair(left, right) => [left, right].into_iter().for_each(|part| collect(part, banks, into)),
                Operand::Vector(parts) | Operand::TensorAddress(parts) => {
                    parts.iter().for_each(|part| collect(part, banks, into));
                }
                Operand::Special(_) | Operand::Immediate(_) | Operand::Symbol(_) | Operand::Sink => {}
            }
        }
        let is_wgmma = |instruction: &Instruction| matches!(instruction.operation, Operation::Wgmma(_));
        if !self.instructions.iter().any(is_wgmma) {
            return Vec::new();
        }
        let mut mentions = vec![Box::default(); self.instructions.len()];
        for (statement, start) in self.kernel.statements.iter().zip(starts) {
            if let Some(instruction) = self.instructions.get(*start as usize)
                && !is_wgmma(instruction)
            {
                let mut registers = Vec::new();
                statement.operands.iter().for_each(|operand| collect(operand, &self.banks, &mut registers));
                mentions[*start as usize] = registers.into();
            }
        }
        mentions
    }

    fn finish(self) -> Program {
        let parameter_bytes = self.kernel.parameters.last().map_or(0, |last| last.offset + last.size);
        Program {
            name: self.kernel.name.clone(),
            module: Arc::clone(self.module),
            instructions: self.instructions,
            origins: self.origins,
            words: self.words,
            doubles: self.doubles,
            predicates: self.predicates,
            constants: self.constants,
            predicate_constants: self.predicate_constants,
            parameters: self.kernel.parameters.clone(),
            parameter_bytes,
            static_shared_end: self.static_shared_end,
            dynamic_shared_at: self.dynamic_shared_at,
            local_bytes: self.local_bytes,
            shared_granule: self.smallest_shared_write.trailing_zeros(),
            global_granule: self.smallest_global_write.trailing_zeros(),
            features: self.features,
            mentions: Vec::new(),
            max_threads: self.kernel.max_threads,
            required_threads: self.kernel.required_threads,
            required_cluster: self.kernel.required_cluster,
        }
    }

    /// Static shared variables in order of declaration, then dynamic shared memory; local variables likewise.
    fn lay_out_variables(&mut self) -> Result<(), DecodeError> {
        let named: std::collections::HashSet<&str> = {
            fn collect<'s>(operand: &'s Operand, into: &mut std::collections::HashSet<&'s str>) {
                match operand {
                    Operand::Symbol(name) => {
                        into.insert(name);
                    }
                    Operand::Address { base, .. } => collect(base, into),
                    Operand::Vector(parts) | Operand::TensorAddress(parts) => {
                        parts.iter().for_each(|part| collect(part, into));
                    }
                    _ => {}
                }
            }
            let mut into = std::collections::HashSet::new();
            for statement in &self.kernel.statements {
                statement.operands.iter().for_each(|operand| collect(operand, &mut into));
            }
            into
        };
        let too_large = |name: &str| DecodeError {
            line: 0,
            message: "variables need more memory than any device has".into(),
            text: name.into(),
        };
        let module = self.module.variables.iter().filter(|variable| named.contains(variable.name.as_str()));
        let all: Vec<_> = module.chain(&self.kernel.variables).collect();
        let (mut shared, mut local) = (u64::from(SHARED_BASE), 0u64);
        for variable in &all {
            let Some(size) = variable.size else { continue };
            let at = match variable.space {
                VariableSpace::Shared => &mut shared,
                VariableSpace::Local => &mut local,
                _ => continue,
            };
            *at = at.next_multiple_of(variable.align);
            self.variables.insert(&variable.name, (variable.space, *at));
            *at += size;
            if *at > 1 << 24 {
                return Err(too_large(&variable.name));
            }
        }
        self.static_shared_end = shared as u32;
        let dynamic = all.iter().filter(|variable| variable.size.is_none() && variable.space == VariableSpace::Shared);
        let align = dynamic.clone().map(|variable| variable.align).max().unwrap_or(16).max(16);
        let at = shared.next_multiple_of(align);
        self.dynamic_shared_at = at as u32;
        for variable in dynamic {
            self.variables.insert(&variable.name, (VariableSpace::Shared, at));
        }
        self.local_bytes = local.next_multiple_of(16) as u32;
        Ok(())
    }

    /// Chooses the decoder by the first part of the opcode.
    fn statement(&mut self, statement: &Statement) -> Decoded<Operation> {
        let opcode = Opcode::new(&statement.opcode);
        let operands = statement.operands.as_slice();
        match opcode.name() {
            "ld" | "ldu" | "st" | "atom" | "red" | "cvta" | "isspacep" | "prefetch" | "prefetchu" | "applypriority"
            | "discard" | "createpolicy" => self.memory(&opcode, operands),
            "cp" => self.copy(&opcode, operands),
            "bar" | "barrier" | "shfl" | "vote" | "match" | "redux" | "activemask" | "elect" | "membar" | "fence"
            | "bra" | "brx" | "ret" | "exit" | "trap" | "nanosleep" | "griddepcontrol" | "setmaxnreg" | "brkpt"
            | "pmevent" => self.warp(&opcode, operands),
            "ldmatrix" | "stmatrix" | "mma" | "wmma" => self.matrix(&opcode, operands),
            "mbarrier" | "wgmma" | "mapa" | "getctarank" => self.hopper(&opcode, operands),
            _ => self.scalar(&opcode, operands),
        }
    }

    // Operands.

    fn place(&mut self, id: RegisterId) -> Decoded<Place> {
        if let Some(&place) = self.banks.get(&id) {
            return Ok(place);
        }
        let declared = &self.kernel.registers[id.0 as usize];
        let place = match declared.class {
            RegisterClass::Predicate => Place::Predicate(self.new_predicate()),
            RegisterClass::Bits8 | RegisterClass::Bits16 | RegisterClass::Bits32 => {
                Place::Lane(LaneRegister::Word(self.new_word()))
            }
            RegisterClass::Bits64 => Place::Lane(LaneRegister::Double(self.new_double())),
            RegisterClass::Bits128 => return Err(format!("128-bit register {}", declared.name)),
        };
        self.banks.insert(id, place);
        Ok(place)
    }

    fn new_word(&mut self) -> WordRegister {
        self.words += 1;
        WordRegister((self.words - 1) as u16)
    }

    fn new_double(&mut self) -> DoubleRegister {
        self.doubles += 1;
        DoubleRegister((self.doubles - 1) as u16)
    }

    fn new_predicate(&mut self) -> PredicateRegister {
        self.predicates += 1;
        PredicateRegister((self.predicates - 1) as u16)
    }

    fn constant_word(&mut self, constant: Constant) -> WordRegister {
        if let Some(&place) = self.constant_places.get(&(constant, false)) {
            return WordRegister(place);
        }
        let register = self.new_word();
        self.constants.push((LaneRegister::Word(register), constant));
        self.constant_places.insert((constant, false), register.0);
        register
    }

    fn constant_double(&mut self, constant: Constant) -> DoubleRegister {
        if let Some(&place) = self.constant_places.get(&(constant, true)) {
            return DoubleRegister(place);
        }
        let register = self.new_double();
        self.constants.push((LaneRegister::Double(register), constant));
        self.constant_places.insert((constant, true), register.0);
        register
    }

    fn register_name(&self, id: RegisterId) -> &str {
        &self.kernel.registers[id.0 as usize].name
    }

    /// A 32-bit source or destination (or a narrower register, where the type is narrower).
    fn word(&mut self, operand: &Operand) -> Decoded<WordRegister> {
        match operand {
            Operand::Register(id) => match self.place(*id)? {
                Place::Lane(LaneRegister::Word(register)) => Ok(register),
                _ => Err(format!(
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
                Ok(self.constant_word(Constant::Bits(address)))
            }
            _ => Err("operand is not a 32-bit value".into()),
        }
    }

    fn double(&mut self, operand: &Operand) -> Decoded<DoubleRegister> {
        match operand {
            Operand::Register(id) => match self.place(*id)? {
                Place::Lane(LaneRegister::Double(register)) => Ok(register),
                _ => Err(format!("register {} has the wrong width, 64 bits are needed", self.register_name(*id))),
            },
            Operand::Immediate(Immediate::Integer(bits) | Immediate::Double(bits)) => {
                Ok(self.constant_double(Constant::Bits(*bits)))
            }
            Operand::Immediate(Immediate::Single(_)) => Err("a 32-bit float where 64 bits are needed".into()),
            Operand::Special(name) => {
                let constant = special(name).ok_or_else(|| format!("special register {name} is not supported"))?;
                Ok(self.constant_double(constant))
            }
            Operand::Symbol(name) => {
                let address = self.symbol(name)?;
                Ok(self.constant_double(Constant::Bits(address)))
            }
            _ => Err("operand is not a 64-bit value".into()),
        }
    }

    fn lane_register(&mut self, operand: &Operand, bytes: u8) -> Decoded<LaneRegister> {
        if bytes == 8 {
            Ok(LaneRegister::Double(self.double(operand)?))
        } else {
            Ok(LaneRegister::Word(self.word(operand)?))
        }
    }

    /// A register of whichever width it was declared with: loads, stores and conversions allow wider ones.
    fn any_register(&mut self, operand: &Operand, bytes: u8) -> Decoded<LaneRegister> {
        if let Operand::Register(id) = operand {
            let declared = match self.kernel.registers[id.0 as usize].class {
                RegisterClass::Predicate => return Err("a predicate where a value is needed".into()),
                RegisterClass::Bits8 => 1,
                RegisterClass::Bits16 => 2,
                RegisterClass::Bits32 => 4,
                RegisterClass::Bits64 => 8,
                RegisterClass::Bits128 => 16,
            };
            if declared < bytes {
                return Err(format!("register {} is narrower than the operation", self.register_name(*id)));
            }
            return match self.place(*id)? {
                Place::Lane(register) => Ok(register),
                Place::Predicate(_) => Err("a predicate where a value is needed".into()),
            };
        }
        self.lane_register(operand, bytes)
    }

    fn predicate_id(&mut self, id: RegisterId) -> Decoded<PredicateRegister> {
        match self.place(id)? {
            Place::Predicate(register) => Ok(register),
            Place::Lane(_) => Err(format!("register {} is not a predicate", self.register_name(id))),
        }
    }

    fn predicate(&mut self, operand: &Operand) -> Decoded<PredicateRegister> {
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
            _ => Err("operand is not a predicate".into()),
        }
    }

    /// A predicate that may be written `!p`.
    fn signed_predicate(&mut self, operand: &Operand) -> Decoded<(PredicateRegister, bool)> {
        match operand {
            Operand::Not(inner) => Ok((self.predicate(inner)?, true)),
            other => Ok((self.predicate(other)?, false)),
        }
    }

    fn symbol(&self, name: &str) -> Decoded<u64> {
        if let Some(parameter) = self.kernel.parameters.iter().find(|parameter| parameter.name == name) {
            return Ok(parameter.offset as u64);
        }
        match self.variables.get(name) {
            Some(&(_, address)) => Ok(address),
            None => Err(format!("`{name}` is not a parameter, shared or local variable of this kernel")),
        }
    }

    fn address(&mut self, operand: &Operand) -> Decoded<Address> {
        let Operand::Address { base, offset } = operand else {
            return Err("operand is not an address".into());
        };
        self.based_address(base, *offset)
    }

    fn based_address(&mut self, base: &Operand, offset: i64) -> Decoded<Address> {
        let base = match base {
            Operand::Register(id) => match self.place(*id)? {
                Place::Lane(register) => register,
                Place::Predicate(_) => return Err("a predicate is no address".into()),
            },
            other => LaneRegister::Double(self.double(other)?),
        };
        Ok(Address { base, offset })
    }

    fn words_of(&mut self, operand: &Operand) -> Decoded<Box<[WordRegister]>> {
        match operand {
            Operand::Vector(parts) => parts.iter().map(|part| self.word(part)).collect(),
            other => Ok(Box::new([self.word(other)?])),
        }
    }

    /// Notes the size of a write, which bounds what one cell of shadow may stand for.
    fn note_write(&mut self, space: Space, bytes: u32) {
        let bytes = bytes.clamp(1, 16);
        if matches!(space, Space::Shared | Space::SharedCluster | Space::Generic) {
            self.smallest_shared_write = self.smallest_shared_write.min(bytes);
        }
        if matches!(space, Space::Global | Space::Generic) {
            self.smallest_global_write = self.smallest_global_write.min(bytes);
        }
    }
}

/// Registers that are written once, by a `mov` of a parameter's name: compilers address the members of a structure
/// that way.
fn parameter_addresses(kernel: &ParsedKernel) -> HashMap<RegisterId, &str> {
    fn written<'o>(operand: &'o Operand, into: &mut Vec<&'o RegisterId>) {
        match operand {
            Operand::Register(id) => into.push(id),
            Operand::Vector(parts) => parts.iter().for_each(|part| written(part, into)),
            Operand::Pair(first, second) => {
                written(first, into);
                written(second, into);
            }
            _ => {}
        }
    }
    let mut writes: HashMap<RegisterId, u32> = HashMap::new();
    let mut found = HashMap::new();
    for statement in &kernel.statements {
        let mut targets = Vec::new();
        if let Some(first) = statement.operands.first() {
            written(first, &mut targets);
        }
        for id in targets {
            *writes.entry(*id).or_default() += 1;
        }
        if let [Operand::Register(id), Operand::Symbol(name)] = statement.operands.as_slice()
            && matches!(statement.opcode.as_str(), "mov.b64" | "mov.u64")
            && statement.guard.is_none()
            && kernel.parameters.iter().any(|parameter| &parameter.name == name)
        {
            found.insert(*id, name.as_str());
        }
    }
    found.retain(|id, _| writes.get(id) == Some(&1));
    found
}

fn integer(operand: Option<&Operand>) -> Decoded<u64> {
    match operand {
        Some(Operand::Immediate(Immediate::Integer(value))) => Ok(*value),
        _ => Err("an integer literal is needed".into()),
    }
}

fn operand(operands: &[Operand], index: usize) -> Decoded<&Operand> {
    operands.get(index).ok_or_else(|| format!("operand {} is missing", index + 1))
}

fn unknown<T>() -> Decoded<T> {
    Err("this opcode is not supported".into())
}

/// The number of operands must be one of these.
fn arity(operands: &[Operand], allowed: std::ops::RangeInclusive<usize>) -> Decoded<()> {
    if allowed.contains(&operands.len()) { Ok(()) } else { Err(format!("{} operands", operands.len())) }
}

/// An opcode cut at its dots. `::` stays inside a part.
struct Opcode<'a> {
    parts: Vec<&'a str>,
}

impl<'a> Opcode<'a> {
    fn new(text: &'a str) -> Self {
        Self { parts: text.split('.').filter(|part| !part.is_empty()).collect() }
    }

    fn name(&self) -> &'a str {
        self.parts.first().copied().unwrap_or("")
    }

    fn part(&self, index: usize) -> &'a str {
        self.parts.get(index).copied().unwrap_or("")
    }

    fn has(&self, part: &str) -> bool {
        self.parts.contains(&part)
    }

    fn last(&self) -> &'a str {
        self.parts.last().copied().unwrap_or("")
    }

    /// Refuses qualifiers that are not in the list, so that no meaning is dropped silently.
    fn only(&self, from: usize, allowed: &[&str]) -> Decoded<()> {
        match self.parts.iter().skip(from).find(|part| !allowed.contains(*part)) {
            Some(part) => Err(format!("qualifier `.{part}` is not supported here")),
            None => Ok(()),
        }
    }
}

fn special(name: &str) -> Option<Constant> {
    let (stem, axis) = match name.rsplit_once('.') {
        Some((stem, "x")) => (stem, 0),
        Some((stem, "y")) => (stem, 1),
        Some((stem, "z")) => (stem, 2),
        Some(_) => return None,
        None => (name, 3),
    };
    if axis < 3 {
        return Some(match stem {
            "%tid" => Constant::ThreadIndex(axis),
            "%ntid" => Constant::BlockSize(axis),
            "%ctaid" => Constant::BlockIndex(axis),
            "%nctaid" => Constant::GridSize(axis),
            "%clusterid" => Constant::ClusterIndex(axis),
            "%nclusterid" => Constant::ClusterCount(axis),
            "%cluster_ctaid" => Constant::BlockInCluster(axis),
            "%cluster_nctaid" => Constant::ClusterSize(axis),
            _ => return None,
        });
    }
    Some(match stem {
        "%laneid" => Constant::Lane,
        "%warpid" => Constant::WarpIndex,
        "%nwarpid" => Constant::WarpCount,
        "%cluster_ctarank" => Constant::BlockRank,
        "%cluster_nctarank" => Constant::BlocksInCluster,
        "%lanemask_eq" => Constant::LanesEqual,
        "%lanemask_lt" => Constant::LanesLess,
        "%lanemask_le" => Constant::LanesLessEqual,
        "%lanemask_gt" => Constant::LanesGreater,
        "%lanemask_ge" => Constant::LanesGreaterEqual,
        "%dynamic_smem_size" => Constant::DynamicSharedBytes,
        "%total_smem_size" => Constant::TotalSharedBytes,
        "WARP_SZ" => Constant::Bits(32),
        "%smid" | "%gridid" => Constant::Bits(0),
        "%nsmid" => Constant::Bits(1),
        _ => return None,
    })
}

/// Base of a space's window in the generic address space; none where generic addresses are the space's own.
fn window(space: Space) -> u64 {
    match space {
        Space::Shared | Space::SharedCluster => SHARED_WINDOW,
        Space::Local => LOCAL_WINDOW,
        Space::Parameter => PARAMETER_WINDOW,
        Space::Global | Space::Generic => 0,
    }
}
