//! A PTX module and the kernels in it, parsed and decoded once.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::decode::{DecodeError, Program, decode};
use crate::machine::load_variables;
use crate::memory::Memory;
use crate::parse::{Parameter, ParseError, ParsedModule, parse_module};
use crate::spelling::spelling;

/// Why a module has no such kernel to launch.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// No kernel has this name.
    #[error("no kernel `{name}` in the module; it has {}", .available.join(", "))]
    NotFound {
        /// The name asked for.
        name: String,
        /// Those that exist.
        available: Vec<String>,
    },
    /// The kernel uses something that the interpreter does not know.
    #[error("kernel `{name}`: {error}")]
    Decode {
        /// The kernel.
        name: String,
        /// The statement and what is wrong with it.
        error: DecodeError,
    },
}

/// A parsed PTX text. Cloning is cheap, and threads may share it.
#[derive(Clone, Debug)]
pub struct Module {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    parsed: Arc<ParsedModule>,
    spellings: BTreeSet<String>,
    kernels: Vec<(String, Result<Kernel, DecodeError>)>,
}

impl Module {
    /// Reads a PTX text and decodes its kernels. A kernel that cannot be decoded is an error only when it is asked
    /// for.
    pub fn parse(ptx: &str) -> Result<Self, ParseError> {
        let parsed = Arc::new(parse_module(ptx)?);
        let kernels = parsed
            .kernels
            .iter()
            .map(|kernel| {
                let decoded = decode(&parsed, kernel).map(|program| Kernel { program: Arc::new(program) });
                (kernel.name.clone(), decoded)
            })
            .collect();
        let bodies = parsed.kernels.iter().chain(&parsed.functions);
        let statements = bodies.flat_map(|body| &body.statements);
        let spellings = statements.map(|statement| spelling(&statement.opcode)).collect();
        Ok(Self { inner: Arc::new(Inner { parsed, spellings, kernels }) })
    }

    /// What the text was compiled for, such as `sm_80`.
    pub fn target(&self) -> &str {
        &self.inner.parsed.target
    }

    /// Opcodes of all kernels, less what cannot change a result: cache hints, scopes, orderings and defaults. A test can
    /// hold them against a list of those that a device has run.
    pub fn spellings(&self) -> &BTreeSet<String> {
        &self.inner.spellings
    }

    /// Names of the kernels, in the order of the text.
    pub fn kernel_names(&self) -> impl Iterator<Item = &str> {
        self.inner.kernels.iter().map(|(name, _)| name.as_str())
    }

    /// Puts the variables of the module (`__device__`, `__constant__`) into a memory with their first values, unless they
    /// are there already. A launch does that, too: this is for a host that wants to write them first.
    pub fn load(&self, memory: &mut Memory) {
        load_variables(&self.inner.parsed, memory);
    }

    /// The address of a variable of the module in a memory that it has been loaded into.
    pub fn variable(&self, memory: &Memory, name: &str) -> Option<u64> {
        let index = self.inner.parsed.variables.iter().position(|variable| variable.name == name)?;
        memory.module(self.inner.parsed.id)?.get(index).copied().filter(|address| *address != 0)
    }

    /// A kernel by name.
    pub fn kernel(&self, name: &str) -> Result<Kernel, KernelError> {
        match self.inner.kernels.iter().find(|(known, _)| known == name) {
            Some((_, Ok(kernel))) => Ok(kernel.clone()),
            Some((_, Err(error))) => Err(KernelError::Decode { name: name.to_string(), error: error.clone() }),
            None => Err(KernelError::NotFound {
                name: name.to_string(),
                available: self.kernel_names().map(str::to_string).collect(),
            }),
        }
    }
}

/// A decoded kernel, ready to launch. Cloning is cheap, and threads may share it.
#[derive(Clone)]
pub struct Kernel {
    pub(crate) program: Arc<Program>,
}

impl fmt::Debug for Kernel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Kernel")
            .field("name", &self.program.name)
            .field("instructions", &self.program.instructions.len())
            .finish_non_exhaustive()
    }
}

impl Kernel {
    /// Name of the entry.
    pub fn name(&self) -> &str {
        &self.program.name
    }

    /// Parameters and where they lie in the parameter block.
    pub fn parameters(&self) -> &[Parameter] {
        &self.program.parameters
    }

    /// Size of the packed parameter block.
    pub fn parameter_bytes(&self) -> usize {
        self.program.parameter_bytes
    }

    /// Statements of this kernel, and of what it calls, that the interpreter does not know. A thread that gets to one
    /// stops the launch with a finding.
    pub fn unsupported(&self) -> &[DecodeError] {
        &self.program.unsupported
    }

    /// Bytes of static shared memory.
    pub fn static_shared_bytes(&self) -> u32 {
        self.program.static_shared_end - crate::address_space::SHARED_BASE
    }

    /// Most threads a block may have, from `.maxntid` or `.reqntid`.
    pub fn max_threads(&self) -> Option<[u32; 3]> {
        self.program.required_threads.or(self.program.max_threads)
    }

    /// The cluster shape that the kernel was compiled for.
    pub fn required_cluster(&self) -> Option<[u32; 3]> {
        self.program.required_cluster
    }

    /// Whether blocks may talk through global memory (atomics, acquire, volatile), so that they run on one thread.
    pub fn communicates(&self) -> bool {
        self.program.features.communicates
    }
}
