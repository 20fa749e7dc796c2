//! Statements to operations, once for each kernel: registers get a place in a bank, widths are checked, and a
//! spelling that the interpreter does not know is an error that names its line.

mod arithmetic;
mod bits;
mod compare;
mod hopper;
mod matrix;
mod memory;
mod operands;
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
    /// There are fences of memory.
    pub fences: bool,
    /// There are accesses that a fence can make a release or an acquire.
    pub relaxed: bool,
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
    /// Registers of a thread when the kernel starts, where directives fix them: what `setmaxnreg` shares out anew.
    pub registers_per_thread: Option<u32>,
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
            features: Features {
                // A fence orders by the relaxed accesses around it, and without them nothing.
                precise_ordering: self.features.precise_ordering || self.features.fences && self.features.relaxed,
                ..self.features
            },
            mentions: Vec::new(),
            max_threads: self.kernel.max_threads,
            required_threads: self.kernel.required_threads,
            required_cluster: self.kernel.required_cluster,
            registers_per_thread: registers_per_thread(self.kernel),
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
}

/// Registers of a multiprocessor, and the most that a thread may have.
const REGISTERS: u32 = 65_536;
const MOST_REGISTERS: u32 = 256;

/// What the assembler gives a thread at the start of a kernel that uses `setmaxnreg`: all that there is.
fn registers_per_thread(kernel: &ParsedKernel) -> Option<u32> {
    if let Some(registers) = kernel.max_registers {
        return Some(registers.next_multiple_of(8).min(MOST_REGISTERS));
    }
    let threads = kernel.required_threads.or(kernel.max_threads)?;
    let threads = threads.iter().try_fold(1u32, |product, side| product.checked_mul(*side))?;
    let share = REGISTERS / threads.checked_mul(kernel.min_blocks.unwrap_or(1).max(1))?.max(1);
    Some((share / 8 * 8).min(MOST_REGISTERS))
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
