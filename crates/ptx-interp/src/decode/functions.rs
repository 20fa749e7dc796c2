//! Functions: which are called, where their frames hold what, and the calls themselves.
//!
//! A thread's frames lie in its local memory, one behind the other: local variables, parameters and results of the
//! function, and parameters and results of its calls. A function finds its frame through a register of its own.

use std::collections::HashSet;
use std::ops::Range;

use super::*;
use crate::parse::Variable;

/// A function's part of the program.
#[derive(Clone, Debug, Default)]
pub(crate) struct Function {
    /// Its first instruction.
    pub start: u32,
    pub frame_bytes: u32,
    /// Holds where its frame starts in local memory.
    pub frame: Option<DoubleRegister>,
    /// It may be called while it runs, so that its registers must be kept over a call.
    pub recursive: bool,
    pub words: Range<usize>,
    pub doubles: Range<usize>,
    pub predicates: Range<usize>,
}

/// The name in `call f`, `call (results), f, (parameters)`.
fn callee(statement: &Statement) -> Option<&str> {
    if statement.opcode != "call" && statement.opcode != "call.uni" {
        return None;
    }
    statement.operands.iter().take(2).find_map(|operand| match operand {
        Operand::Symbol(name) => Some(name.as_str()),
        _ => None,
    })
}

fn find<'m>(module: &'m ParsedModule, name: &str) -> Option<&'m ParsedKernel> {
    let found = module.functions.iter().find(|function| function.name == name)?;
    (!found.is_external && found.unsupported.is_none()).then_some(found)
}

fn visit<'m>(
    module: &'m ParsedModule,
    body: &ParsedKernel,
    seen: &mut HashSet<&'m str>,
    into: &mut Vec<&'m ParsedKernel>,
) {
    // Call graphs are as deep as the text has functions; a list instead of recursion keeps hostile ones harmless.
    let mut waiting: Vec<&ParsedKernel> = vec![body];
    while let Some(body) = waiting.pop() {
        for name in body.statements.iter().filter_map(callee) {
            if let Some(function) = find(module, name)
                && seen.insert(function.name.as_str())
            {
                into.push(function);
                waiting.push(function);
            }
        }
    }
}

/// All functions that a kernel may get to.
pub(super) fn reachable<'m>(module: &'m ParsedModule, kernel: &ParsedKernel) -> Vec<&'m ParsedKernel> {
    let (mut seen, mut found) = (HashSet::new(), Vec::new());
    visit(module, kernel, &mut seen, &mut found);
    found
}

pub(super) fn is_recursive(module: &ParsedModule, function: &ParsedKernel) -> bool {
    let (mut seen, mut found) = (HashSet::new(), Vec::new());
    visit(module, function, &mut seen, &mut found);
    found.iter().any(|other| other.name == function.name)
}

/// Names of variables that the statements of a body use.
pub(super) fn named_symbols<'s>(body: &'s ParsedKernel, into: &mut HashSet<&'s str>) {
    fn collect<'s>(operand: &'s Operand, into: &mut HashSet<&'s str>) {
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
    for statement in &body.statements {
        statement.operands.iter().for_each(|operand| collect(operand, into));
    }
}

impl<'a> Decoder<'a> {
    /// Places in a body's frame; how many bytes it has.
    pub(super) fn lay_out_frame(&mut self, body: &'a ParsedKernel, is_entry: bool) -> Result<u32, DecodeError> {
        let mut end = 0u64;
        let mut places: HashMap<&'a str, u64> = HashMap::new();
        let mut place = |name: &'a str, align: u64, size: u64| {
            end = end.next_multiple_of(align.max(1));
            places.insert(name, end);
            end += size;
            if end > 1 << 24 { Err(too_large(name)) } else { Ok(()) }
        };
        let locals = body.variables.iter().filter(|variable| variable.space == VariableSpace::Local);
        for Variable { name, align, size, .. } in locals {
            if let Some(size) = size {
                place(name, *align, *size)?;
            }
        }
        if !is_entry {
            for parameter in body.parameters.iter().chain(&body.results) {
                place(&parameter.name, parameter.align as u64, parameter.size as u64)?;
            }
        }
        let bytes = end.next_multiple_of(16) as u32;
        self.frames.push(places);
        Ok(bytes)
    }

    pub(super) fn begin_function(&mut self, index: usize, function: &'a ParsedKernel, recursive: bool) {
        self.kernel = function;
        self.banks.clear();
        self.settled = Settled::of(function, !self.notes_mentions);
        self.locals.clone_from(&self.frames[index]);
        let start = self.instructions.len() as u32;
        let (words, doubles, predicates) = (self.words, self.doubles, self.predicates);
        let frame = self.new_double();
        self.frame = Some(frame);
        let function = &mut self.functions[index];
        function.start = start;
        function.frame = Some(frame);
        function.recursive = recursive;
        function.words = words..words;
        function.doubles = doubles..doubles;
        function.predicates = predicates..predicates;
    }

    pub(super) fn end_function(&mut self, index: usize) {
        let function = &mut self.functions[index];
        function.words.end = self.words;
        function.doubles.end = self.doubles;
        function.predicates.end = self.predicates;
    }

    pub(super) fn begin_entry(&mut self) {
        self.kernel = self.entry;
        self.banks.clear();
        self.frame = None;
        self.locals = self.frames.pop().unwrap_or_default();
        self.settled = Settled::of(self.entry, !self.notes_mentions);
        // Functions are short, and what a recursive one keeps for its callers is a range of registers.
        self.temporaries = Temporaries::of(self.entry);
    }

    /// A place in the frame by its name.
    fn frame_place(&mut self, operand: &Operand) -> Decoded<u32> {
        let Operand::Symbol(name) = operand else { return Err("parameters of a call must be variables".into()) };
        match self.locals.get(name.as_str()) {
            Some(at) => Ok(*at as u32),
            None => Err(format!("`{name}` is not a variable in `.param`").into()),
        }
    }

    pub(super) fn call(&mut self, statement_operands: &[Operand]) -> Decoded<Operation> {
        let (results, rest) = match statement_operands {
            [Operand::Vector(results), rest @ ..] => (results.as_slice(), rest),
            rest => (&[][..], rest),
        };
        let (target, arguments) = match rest {
            [Operand::Symbol(name)] => (name, &[][..]),
            [Operand::Symbol(name), Operand::Vector(arguments)] => (name, arguments.as_slice()),
            _ => return Err("calls through an address are not supported".into()),
        };
        let declared = self.module.functions.iter().find(|function| &function.name == target);
        let sizes =
            |parameters: &[Parameter]| parameters.iter().map(|parameter| parameter.size as u32).collect::<Vec<_>>();
        let Some(declared) = declared else { return invalid(format!("function `{target}` is not declared")) };
        if declared.parameters.len() != arguments.len() || declared.results.len() != results.len() {
            return invalid(format!("`{target}` has another number of parameters or results"));
        }
        let own: Vec<u32> = results.iter().map(|result| self.frame_place(result)).collect::<Decoded<_>>()?;
        let result_sizes = sizes(&declared.results);
        let Some(&index) = self.function_names.get(target.as_str()) else {
            return match target.as_str() {
                // What a kernel prints is not shown.
                "vprintf" => {
                    let zeros = own.into_iter().zip(result_sizes).collect();
                    Ok(Operation::IgnoredCall(Box::new(IgnoredCall { frame: self.frame, zeros })))
                }
                "__assertfail" => Ok(Operation::AssertionFailed),
                _ => match &declared.unsupported {
                    Some(reason) => Err(format!("function `{target}` cannot be called: {reason}").into()),
                    None => Err(format!("function `{target}` has no body in this module").into()),
                },
            };
        };
        let moves = |decoder: &mut Self, own: &[u32], theirs: &[Parameter]| -> Decoded<Box<[FrameMove]>> {
            let places = own.iter().zip(theirs).map(|(own, parameter)| {
                let callee = decoder.frames[index].get(parameter.name.as_str()).copied().unwrap_or(0);
                FrameMove { caller: *own, callee: callee as u32, bytes: parameter.size as u32 }
            });
            Ok(places.collect())
        };
        let passed: Vec<u32> = arguments.iter().map(|argument| self.frame_place(argument)).collect::<Decoded<_>>()?;
        let arguments = moves(self, &passed, &declared.parameters)?;
        let results = moves(self, &own, &declared.results)?;
        let frame_bytes = match self.frame {
            Some(_) => self.functions[self.function_names[self.kernel.name.as_str()]].frame_bytes,
            None => self.frame_bytes,
        };
        Ok(Operation::Call(Box::new(Call {
            function: index as u32,
            frame: self.frame,
            frame_bytes,
            arguments,
            results,
        })))
    }
}
