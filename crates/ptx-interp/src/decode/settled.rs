//! Registers that hold one value wherever they are read, known before the launch.
//!
//! Compilers name constants and the addresses of parameters again and again: five `mov` stand around each shuffle of a
//! reduction. A register that one unguarded statement writes, and nothing else, has that statement's value wherever its
//! value means anything.

use super::*;

/// What is known about a body's registers.
#[derive(Default)]
pub(super) struct Settled<'a> {
    /// Registers that hold a literal.
    literals: HashMap<RegisterId, &'a Operand>,
    /// Registers that hold an address inside of a parameter: its name and the offset.
    parameters: HashMap<RegisterId, (&'a str, i64)>,
}

impl<'a> Settled<'a> {
    /// Looks at all statements of a body. Literals are looked for only `with_literals`.
    pub(super) fn of(body: &'a ParsedKernel, with_literals: bool) -> Self {
        let writes = writes(body);
        let mut settled = Self::default();
        for statement in body.statements.iter().filter(|statement| statement.guard.is_none()) {
            let [Operand::Register(to), values @ ..] = statement.operands.as_slice() else { continue };
            if writes.get(to) == Some(&1) {
                settled.note(body, &statement.opcode, *to, values, with_literals);
            }
        }
        settled
    }

    fn note(
        &mut self,
        body: &'a ParsedKernel,
        opcode: &str,
        to: RegisterId,
        values: &'a [Operand],
        with_literals: bool,
    ) {
        match (opcode, values) {
            ("mov.b64" | "mov.u64", [Operand::Symbol(name)])
                if !body.is_function && body.parameters.iter().any(|parameter| &parameter.name == name) =>
            {
                self.parameters.insert(to, (name, 0));
            }
            ("mov.b64" | "mov.u64", [Operand::Register(from)]) => {
                if let Some(&known) = self.parameters.get(from) {
                    self.parameters.insert(to, known);
                }
            }
            ("add.s64" | "add.u64", [Operand::Register(from), Operand::Immediate(Immediate::Integer(more))]) => {
                if let Some(&(name, offset)) = self.parameters.get(from) {
                    self.parameters.insert(to, (name, offset.wrapping_add(*more as i64)));
                }
            }
            (_, [literal @ Operand::Immediate(_)]) if with_literals && opcode.starts_with("mov.") => {
                self.literals.insert(to, literal);
            }
            _ => {}
        }
    }

    pub(super) fn literal(&self, id: RegisterId) -> Option<&'a Operand> {
        self.literals.get(&id).copied()
    }

    pub(super) fn parameter(&self, id: RegisterId) -> Option<(&'a str, i64)> {
        self.parameters.get(&id).copied()
    }
}

/// How often statements name each register where their results stand. Stores read what they name there: counting that
/// as a write is on the safe side.
fn writes(body: &ParsedKernel) -> HashMap<RegisterId, u32> {
    fn written(operand: &Operand, into: &mut HashMap<RegisterId, u32>) {
        match operand {
            Operand::Register(id) => *into.entry(*id).or_default() += 1,
            Operand::Vector(parts) => parts.iter().for_each(|part| written(part, into)),
            Operand::Pair(first, second) => {
                written(first, into);
                written(second, into);
            }
            _ => {}
        }
    }
    let mut found = HashMap::new();
    for first in body.statements.iter().filter_map(|statement| statement.operands.first()) {
        written(first, &mut found);
    }
    found
}
