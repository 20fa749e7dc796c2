//! Statements to operations, once for each kernel: registers get a place in a bank, widths are checked, and a
//! spelling that the interpreter does not know is an error that names its line.

mod arithmetic;
mod bits;
mod compare;
mod functions;
mod hopper;
mod matrix;
mod memory;
mod operands;
mod operation;
mod scalar;
mod settled;
mod temporaries;
mod warp;

use std::collections::HashMap;
use std::sync::Arc;

pub(crate) use functions::Function;
pub(crate) use operation::*;
use settled::Settled;
use temporaries::Temporaries;

use crate::address_space::{LOCAL_WINDOW, PARAMETER_WINDOW, SHARED_BASE, SHARED_WINDOW};
use crate::parse::{
    Immediate, Location, Operand, Parameter, ParsedKernel, ParsedModule, RegisterClass, RegisterId, Statement,
    VariableSpace,
};

/// Why a kernel cannot be executed.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
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
    /// Address of a variable of the module, by its index there.
    ModuleVariable(u16),
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
    /// Threads wait for phases of mbarriers.
    pub phases: bool,
}

/// Where an instruction comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub line: u32,
    pub location: Location,
    /// Byte range in the module's source; empty for what ends a body without a statement.
    pub span: (usize, usize),
}

#[derive(Debug)]
pub(crate) struct Program {
    pub name: String,
    pub module: Arc<ParsedModule>,
    pub instructions: Vec<Instruction>,
    pub origins: Vec<Origin>,
    /// Where the kernel starts; functions come before it.
    pub entry: u32,
    pub functions: Vec<Function>,
    /// Statements that end a launch when a thread gets to them.
    pub unsupported: Vec<DecodeError>,
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
    let functions = functions::reachable(module, kernel);
    let bodies: Vec<&ParsedKernel> = functions.iter().copied().chain([kernel]).collect();
    decoder.lay_out_variables(&bodies)?;
    decoder.notes_mentions =
        bodies.iter().any(|body| body.statements.iter().any(|statement| statement.opcode.starts_with("wgmma.mma")));
    // Functions come first: lanes in a call are behind those that have gone on, and so run until they have caught up.
    for (index, function) in functions.iter().enumerate() {
        decoder.begin_function(index, function, functions::is_recursive(module, function));
        decoder.body(function)?;
        decoder.end_function(index);
    }
    decoder.begin_entry();
    let entry = decoder.instructions.len() as u32;
    decoder.body(kernel)?;
    Ok(Program { entry, ..decoder.finish() })
}

/// Why a statement is no operation; the statement is added on the way out.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Problem {
    /// The interpreter does not know it: a finding for a thread that gets there.
    Unsupported(String),
    /// It is wrong: the assembler would refuse the kernel, too.
    Invalid(String),
}

impl From<String> for Problem {
    fn from(message: String) -> Self {
        Self::Unsupported(message)
    }
}

impl From<&str> for Problem {
    fn from(message: &str) -> Self {
        Self::Unsupported(message.into())
    }
}

type Decoded<T> = Result<T, Problem>;

fn invalid<T>(message: impl Into<String>) -> Decoded<T> {
    Err(Problem::Invalid(message.into()))
}

struct Decoder<'a> {
    module: &'a Arc<ParsedModule>,
    /// The entry.
    entry: &'a ParsedKernel,
    /// The function that is being decoded, or the entry.
    kernel: &'a ParsedKernel,
    instructions: Vec<Instruction>,
    origins: Vec<Origin>,
    unsupported: Vec<DecodeError>,
    banks: HashMap<RegisterId, Place>,
    constants: Vec<(LaneRegister, Constant)>,
    constant_places: HashMap<(Constant, bool), u16>,
    predicate_constants: Vec<(PredicateRegister, bool)>,
    words: usize,
    doubles: usize,
    predicates: usize,
    /// The condition code register's carry.
    carry_flag: Option<PredicateRegister>,
    /// Registers of the body that is being decoded whose value is known beforehand.
    settled: Settled<'a>,
    /// Registers of the same body that share places, and those places: of 32 bits, of 64 bits.
    temporaries: Temporaries,
    shared_words: Vec<WordRegister>,
    shared_doubles: Vec<DoubleRegister>,
    /// Addresses of shared variables.
    variables: HashMap<&'a str, u64>,
    /// Places in the frame of the body that is being decoded: local variables, parameters and results of calls.
    locals: HashMap<&'a str, u64>,
    /// The same for every function, and last for the entry.
    frames: Vec<HashMap<&'a str, u64>>,
    functions: Vec<Function>,
    function_names: HashMap<&'a str, usize>,
    /// Where the frame of the function that is being decoded starts; none for the entry, whose frame starts at 0.
    frame: Option<DoubleRegister>,
    frame_bytes: u32,
    notes_mentions: bool,
    mentions: Vec<Box<[WordRegister]>>,
    static_shared_end: u32,
    dynamic_shared_at: u32,
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
    fn new(module: &'a Arc<ParsedModule>, entry: &'a ParsedKernel) -> Self {
        Self {
            module,
            entry,
            kernel: entry,
            instructions: Vec::with_capacity(entry.statements.len() + 1),
            origins: Vec::with_capacity(entry.statements.len() + 1),
            unsupported: Vec::new(),
            banks: HashMap::new(),
            constants: Vec::new(),
            constant_places: HashMap::new(),
            predicate_constants: Vec::new(),
            words: 0,
            doubles: 0,
            predicates: 0,
            carry_flag: None,
            variables: HashMap::new(),
            locals: HashMap::new(),
            frames: Vec::new(),
            settled: Settled::default(),
            temporaries: Temporaries::none(),
            shared_words: Vec::new(),
            shared_doubles: Vec::new(),
            functions: Vec::new(),
            function_names: HashMap::new(),
            frame: None,
            frame_bytes: 0,
            notes_mentions: false,
            mentions: Vec::new(),
            static_shared_end: 0,
            dynamic_shared_at: 0,
            smallest_shared_write: 16,
            smallest_global_write: 16,
            features: Features::default(),
        }
    }

    /// Decodes all statements of the entry or of a function.
    fn body(&mut self, body: &'a ParsedKernel) -> Result<(), DecodeError> {
        let first = self.instructions.len();
        for statement in &body.statements {
            let operation = match self.statement(statement) {
                Ok(operation) => operation,
                Err(Problem::Invalid(message)) => return Err(self.error(statement, message)),
                Err(Problem::Unsupported(message)) => {
                    let error = self.error(statement, message);
                    self.unsupported.push(error);
                    Operation::Unsupported { index: self.unsupported.len() as u32 - 1 }
                }
            };
            let guard = match statement.guard {
                Some((id, negated)) => match self.predicate_id(id) {
                    Ok(predicate) => Some((predicate, negated)),
                    Err(Problem::Invalid(message) | Problem::Unsupported(message)) => {
                        return Err(self.error(statement, message));
                    }
                },
                None => None,
            };
            let origin = Origin { line: statement.line, location: statement.location, span: statement.span };
            let lane_wise = operation.is_lane_wise();
            if self.notes_mentions {
                let is_wgmma = matches!(operation, Operation::Wgmma(_));
                self.mentions.push(if is_wgmma { Box::default() } else { self.mentioned(statement) });
            }
            let settled = operation.moves_to_itself();
            self.instructions.push(Instruction { operation, guard, lane_wise, settled });
            self.origins.push(origin);
            if [self.words, self.doubles, self.predicates].iter().any(|&count| count >= usize::from(u16::MAX)) {
                return Err(self.error(statement, "the kernel uses too many registers".into()));
            }
        }
        // A kernel that runs off its end exits, and a function that does returns.
        let operation = if body.is_function { Operation::Return } else { Operation::Exit };
        let last = self.origins[first..].last().map(|origin| Origin { span: (0, 0), ..*origin });
        self.instructions.push(Instruction { operation, guard: None, lane_wise: false, settled: false });
        self.origins.push(last.unwrap_or(Origin { line: 0, location: Location::default(), span: (0, 0) }));
        if self.notes_mentions {
            self.mentions.push(Box::default());
        }
        let most = body.statements.len() as u32;
        for instruction in &mut self.instructions[first..] {
            let resolve = |target: u32| first as u32 + target.min(most);
            match &mut instruction.operation {
                Operation::Branch { target } => *target = resolve(*target),
                Operation::BranchIndexed { targets, .. } => {
                    targets.iter_mut().for_each(|target| *target = resolve(*target));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn error(&self, statement: &Statement, message: String) -> DecodeError {
        let text = self.module.source.get(statement.span.0..statement.span.1).unwrap_or(&statement.opcode);
        let text: Vec<_> = text.split_whitespace().collect();
        DecodeError { line: statement.line, message, text: text.join(" ").chars().take(200).collect() }
    }

    /// The 32-bit registers that a statement names.
    fn mentioned(&self, statement: &Statement) -> Box<[WordRegister]> {
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
        let mut registers = Vec::new();
        statement.operands.iter().for_each(|operand| collect(operand, &self.banks, &mut registers));
        registers.into()
    }

    fn finish(self) -> Program {
        let parameter_bytes = self.entry.parameters.last().map_or(0, |last| last.offset + last.size);
        Program {
            name: self.entry.name.clone(),
            module: Arc::clone(self.module),
            instructions: self.instructions,
            origins: self.origins,
            entry: 0,
            functions: self.functions,
            unsupported: self.unsupported,
            words: self.words,
            doubles: self.doubles,
            predicates: self.predicates,
            constants: self.constants,
            predicate_constants: self.predicate_constants,
            parameters: self.entry.parameters.clone(),
            parameter_bytes,
            static_shared_end: self.static_shared_end,
            dynamic_shared_at: self.dynamic_shared_at,
            local_bytes: self.frame_bytes,
            shared_granule: self.smallest_shared_write.trailing_zeros(),
            global_granule: self.smallest_global_write.trailing_zeros(),
            features: Features {
                // A fence orders by the relaxed accesses around it, and without them nothing.
                precise_ordering: self.features.precise_ordering || self.features.fences && self.features.relaxed,
                ..self.features
            },
            mentions: self.mentions,
            max_threads: self.entry.max_threads,
            required_threads: self.entry.required_threads,
            required_cluster: self.entry.required_cluster,
            registers_per_thread: registers_per_thread(self.entry),
        }
    }

    /// Static shared variables in order of declaration, then dynamic shared memory.
    fn lay_out_variables(&mut self, bodies: &[&'a ParsedKernel]) -> Result<(), DecodeError> {
        let mut named = std::collections::HashSet::new();
        for body in bodies {
            functions::named_symbols(body, &mut named);
        }
        let module = self.module;
        let of_module = module.variables.iter().filter(|variable| named.contains(variable.name.as_str()));
        let all = of_module.chain(bodies.iter().flat_map(|body| &body.variables));
        let all: Vec<_> = all.filter(|variable| variable.space == VariableSpace::Shared).collect();
        let mut end = u64::from(SHARED_BASE);
        for variable in &all {
            let Some(size) = variable.size else { continue };
            end = end.next_multiple_of(variable.align);
            self.variables.insert(&variable.name, end);
            end += size;
            if end > 1 << 24 {
                return Err(too_large(&variable.name));
            }
        }
        self.static_shared_end = end as u32;
        let dynamic = all.iter().filter(|variable| variable.size.is_none());
        let align = dynamic.clone().map(|variable| variable.align).max().unwrap_or(16).max(16);
        let at = end.next_multiple_of(align);
        self.dynamic_shared_at = at as u32;
        for variable in dynamic {
            self.variables.insert(&variable.name, at);
        }
        for (index, body) in bodies.iter().enumerate() {
            let is_entry = index + 1 == bodies.len();
            let frame = self.lay_out_frame(body, is_entry)?;
            if is_entry {
                self.frame_bytes = frame;
            } else {
                self.function_names.insert(&body.name, index);
                self.functions.push(Function { frame_bytes: frame, ..Function::default() });
            }
        }
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
            | "bra" | "brx" | "call" | "ret" | "exit" | "trap" | "nanosleep" | "griddepcontrol" | "setmaxnreg"
            | "brkpt" | "pmevent" => self.warp(&opcode, operands),
            "ldmatrix" | "stmatrix" | "movmatrix" | "mma" | "wmma" => self.matrix(&opcode, operands),
            "mbarrier" | "wgmma" | "mapa" | "getctarank" => self.hopper(&opcode, operands),
            _ => self.scalar(&opcode, operands),
        }
    }
}

fn too_large(name: &str) -> DecodeError {
    DecodeError { line: 0, message: "variables need more memory than any device has".into(), text: name.into() }
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

fn integer(operand: Option<&Operand>) -> Decoded<u64> {
    match operand {
        Some(Operand::Immediate(Immediate::Integer(value))) => Ok(*value),
        _ => invalid("an integer literal is needed"),
    }
}

fn operand(operands: &[Operand], index: usize) -> Decoded<&Operand> {
    operands.get(index).ok_or_else(|| Problem::Invalid(format!("operand {} is missing", index + 1)))
}

fn unknown<T>() -> Decoded<T> {
    Err("this opcode is not supported".into())
}

/// The number of operands must be one of these.
fn arity(operands: &[Operand], allowed: std::ops::RangeInclusive<usize>) -> Decoded<()> {
    if allowed.contains(&operands.len()) { Ok(()) } else { invalid(format!("{} operands", operands.len())) }
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
            Some(part) => Err(format!("qualifier `.{part}` is not supported here").into()),
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
        // The first kibibyte of shared memory: unoptimised cooperative groups compute its addresses.
        "%reserved_smem_offset_begin" | "%reserved_smem_offset_0" => Constant::Bits(0),
        "%reserved_smem_offset_1" => Constant::Bits(u64::from(SHARED_BASE / 2)),
        "%reserved_smem_offset_end" | "%reserved_smem_offset_cap" => Constant::Bits(u64::from(SHARED_BASE)),
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
