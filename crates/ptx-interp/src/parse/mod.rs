//! PTX text to statements: names are resolved through their scopes, nothing is interpreted yet.

mod body;
mod lexer;
mod module;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

pub(crate) use module::parse_module;

/// Why a text is not PTX that this crate reads.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("PTX line {line}: {message}{}", quoted(text))]
pub struct ParseError {
    /// Line in the PTX text, from 1.
    pub line: u32,
    /// What is wrong.
    pub message: String,
    /// The text it is wrong with.
    pub text: String,
}

fn quoted(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": `{text}`") }
}

impl ParseError {
    pub(crate) fn new(line: u32, message: impl Into<String>, text: &str) -> Self {
        let mut text: String = text.chars().take(160).collect();
        text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        Self { line, message: message.into(), text }
    }
}

/// A place in the CUDA source, from `.loc`. Line 0 means that the compiler gave none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Location {
    pub file: u32,
    pub line: u32,
    /// Where the function that holds this line was inlined: 1 and an index into [`Sources::call_sites`]; 0 for nowhere.
    pub call_site: u32,
}

/// A place where a function was inlined.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CallSite {
    pub file: u32,
    pub line: u32,
    /// Label of the inlined function's name.
    pub function: String,
    /// Where the function that holds this place was inlined itself, as in [`Location::call_site`].
    pub parent: u32,
}

/// What a module says of its source.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    pub files: BTreeMap<u32, String>,
    pub call_sites: Vec<CallSite>,
    known: HashMap<CallSite, u32>,
    /// Strings of `.debug_str` by their labels.
    pub names: HashMap<String, String>,
}

impl Sources {
    fn call_site(&mut self, site: CallSite) -> u32 {
        let sites = &mut self.call_sites;
        *self.known.entry(site).or_insert_with_key(|site| {
            sites.push(site.clone());
            sites.len() as u32
        })
    }
}

#[derive(Debug)]
pub(crate) struct ParsedModule {
    /// Tells modules apart whose variables lie in the same memory.
    pub id: u64,
    pub source: Arc<str>,
    pub target: String,
    /// `.target …, debug`: compiled without optimisation.
    pub debug: bool,
    pub sources: Sources,
    pub kernels: Vec<ParsedKernel>,
    /// `.func` with a body, and those that are only declared.
    pub functions: Vec<ParsedKernel>,
    /// Module-level `.shared`, `.global` and `.const` variables.
    pub variables: Vec<Variable>,
}

/// The state space that a declared variable lives in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VariableSpace {
    Shared,
    Local,
    Global,
    Constant,
}

#[derive(Clone, Debug)]
pub(crate) struct Variable {
    pub name: String,
    pub space: VariableSpace,
    pub align: u64,
    /// Bytes; none for `extern` arrays without a length (dynamic shared memory).
    pub size: Option<u64>,
    /// What it holds at first; zeros where there is nothing else. An error says what cannot be understood.
    pub initial: Result<Initial, String>,
}

/// The first value of a module's variable.
#[derive(Clone, Debug, Default)]
pub(crate) struct Initial {
    pub bytes: Vec<u8>,
    /// Addresses of other variables, to be added to the 64 bits at an offset.
    pub addresses: Vec<(usize, String)>,
}

/// One parameter of a kernel, at its place in the packed parameter block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Name in the PTX text.
    pub name: String,
    /// Byte offset in the parameter block.
    pub offset: usize,
    /// Size in bytes.
    pub size: usize,
    /// Alignment in bytes.
    pub align: usize,
}

/// Width of a declared register: what matters for where it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum RegisterClass {
    Predicate,
    Bits8,
    Bits16,
    Bits32,
    Bits64,
    Bits128,
}

impl RegisterClass {
    pub(crate) fn of_type(name: &str) -> Option<Self> {
        Some(match name {
            "pred" => Self::Predicate,
            "b8" | "u8" | "s8" => Self::Bits8,
            "b16" | "u16" | "s16" | "f16" | "bf16" => Self::Bits16,
            "b32" | "u32" | "s32" | "f32" | "f16x2" | "bf16x2" => Self::Bits32,
            "b64" | "u64" | "s64" | "f64" => Self::Bits64,
            "b128" => Self::Bits128,
            _ => return None,
        })
    }
}

/// Index into [`ParsedKernel::registers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RegisterId(pub u32);

#[derive(Clone, Debug)]
pub(crate) struct RegisterDeclaration {
    pub name: String,
    pub class: RegisterClass,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Immediate {
    /// An integer literal, sign-extended to 64 bits.
    Integer(u64),
    /// `0f…`: bits of a 32-bit float.
    Single(u32),
    /// `0d…` or decimal: bits of a 64-bit float.
    Double(u64),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand {
    Register(RegisterId),
    /// A special register such as `%tid.x`.
    Special(String),
    Immediate(Immediate),
    /// A variable, a parameter or a label.
    Symbol(String),
    /// `_`: the result is not wanted.
    Sink,
    /// `!p`
    Not(Box<Operand>),
    /// `d|p`
    Pair(Box<Operand>, Box<Operand>),
    /// `{a, b, …}` or `(a, b, …)`
    Vector(Vec<Operand>),
    /// `[base + offset]`
    Address {
        base: Box<Operand>,
        offset: i64,
    },
    /// `[map, {x, y, …}]`
    TensorAddress(Vec<Operand>),
}

#[derive(Clone, Debug)]
pub(crate) struct Statement {
    /// The predicate that guards it, and whether it is negated.
    pub guard: Option<(RegisterId, bool)>,
    pub opcode: String,
    pub operands: Vec<Operand>,
    pub line: u32,
    pub location: Location,
    /// Byte range in the module's source.
    pub span: (usize, usize),
    scope: usize,
}

#[derive(Debug, Default)]
pub(crate) struct ParsedKernel {
    pub name: String,
    pub parameters: Vec<Parameter>,
    /// Results of a function, each a parameter.
    pub results: Vec<Parameter>,
    /// A function and no kernel.
    pub is_function: bool,
    /// There is only a declaration.
    pub is_external: bool,
    /// Why a function cannot be called.
    pub unsupported: Option<String>,
    pub registers: Vec<RegisterDeclaration>,
    pub variables: Vec<Variable>,
    pub statements: Vec<Statement>,
    /// `.branchtargets` lists by unique label.
    pub branch_targets: HashMap<String, Vec<u32>>,
    /// `.maxntid`: no block may have more threads.
    pub max_threads: Option<[u32; 3]>,
    /// `.reqntid`: every block must have this shape.
    pub required_threads: Option<[u32; 3]>,
    /// `.maxnreg`: registers of a thread.
    pub max_registers: Option<u32>,
    /// `.minnctapersm`: blocks that a multiprocessor must hold.
    pub min_blocks: Option<u32>,
    /// `.reqnctapercluster`: every cluster must have this shape.
    pub required_cluster: Option<[u32; 3]>,
}
