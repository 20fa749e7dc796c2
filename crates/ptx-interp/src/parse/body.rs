//! A kernel's body: scopes, register declarations, labels and statements.

use std::collections::HashMap;

use super::lexer::TokenKind;
use super::module::{Cursor, file, number, variable};
use super::{
    CallSite, Immediate, Location, Operand, ParseError, ParsedKernel, RegisterClass, RegisterDeclaration, RegisterId,
    Sources, Statement, VariableSpace,
};

/// Deeper nesting than any compiler emits; keeps hostile input from exhausting memory.
const MAX_SCOPES: usize = 1 << 16;
/// Nested operands such as `{[…]}`; real ones have depth 2.
const MAX_OPERAND_DEPTH: usize = 8;

#[derive(Default)]
struct Scope {
    parent: Option<usize>,
    /// Registers declared one by one.
    registers: HashMap<String, RegisterId>,
    /// `%r<12>` declares %r0 to %r11; each exists once it is named.
    families: Vec<(String, u64, RegisterClass)>,
    labels: HashMap<String, u32>,
    /// `.param` variables and the names that they go by.
    parameters: HashMap<String, String>,
}

/// Label, scope, and the targets with their lines.
type BranchList = (String, usize, Vec<(String, u32)>);

struct Body<'k> {
    kernel: &'k mut ParsedKernel,
    scopes: Vec<Scope>,
    current: usize,
    location: Location,
    /// By file, line and column of the `.loc` lines so far: where that place was inlined.
    call_sites: HashMap<[u32; 3], u32>,
    /// Label, scope and targets of each `.branchtargets`.
    branch_lists: Vec<BranchList>,
}

pub(super) fn parse(
    cursor: &mut Cursor<'_>,
    kernel: &mut ParsedKernel,
    sources: &mut Sources,
) -> Result<(), ParseError> {
    let mut body = Body {
        kernel,
        scopes: vec![Scope::default()],
        current: 0,
        location: Location::default(),
        call_sites: HashMap::new(),
        branch_lists: Vec::new(),
    };
    cursor.expect(b'{')?;
    loop {
        let token = cursor.next()?;
        match token.text {
            "{" if token.is(b'{') => {
                if body.scopes.len() >= MAX_SCOPES {
                    return Err(ParseError::new(token.line, "too many scopes", "{"));
                }
                body.scopes.push(Scope { parent: Some(body.current), ..Default::default() });
                body.current = body.scopes.len() - 1;
            }
            "}" if token.is(b'}') => match body.scopes[body.current].parent {
                Some(parent) => body.current = parent,
                None => break,
            },
            ";" => {}
            ".loc" => {
                cursor.at -= 1;
                body.location(cursor, sources)?;
            }
            ".file" => {
                cursor.at -= 1;
                let (index, name) = file(cursor)?;
                sources.files.insert(index, name);
            }
            ".pragma" | ".callprototype" => cursor.skip_statement(),
            ".reg" => body.registers(cursor)?,
            ".shared" | ".local" => {
                let space = if token.text == ".shared" { VariableSpace::Shared } else { VariableSpace::Local };
                let declared = variable(cursor, space)?;
                body.kernel.variables.push(declared);
            }
            ".param" => {
                // Parameters of a call: another scope may have others of the same name.
                let mut declared = variable(cursor, VariableSpace::Local)?;
                let unique = format!("{}@{}", declared.name, body.current);
                let name = std::mem::replace(&mut declared.name, unique.clone());
                body.scopes[body.current].parameters.insert(name, unique);
                body.kernel.variables.push(declared);
            }
            _ if token.kind == TokenKind::Word && cursor.peek().is_some_and(|next| next.is(b':')) => {
                cursor.at += 1;
                body.label(cursor, token.text)?;
            }
            _ => {
                cursor.at -= 1;
                body.statement(cursor)?;
            }
        }
    }
    body.resolve_labels()
}

impl Body<'_> {
    /// `.loc file line column [, function_name label, inlined_at file line column]`
    fn location(&mut self, cursor: &mut Cursor<'_>, sources: &mut Sources) -> Result<(), ParseError> {
        let directive = cursor.next()?;
        let (mut numbers, mut inlined, mut function) = (Vec::new(), Vec::new(), String::new());
        let mut inside = false;
        while let Some(token) = cursor.peek().filter(|token| token.line == directive.line) {
            cursor.at += 1;
            if token.text == "inlined_at" {
                inside = true;
            } else if token.text == "function_name" {
                if let Some(name) = cursor.peek().filter(|name| name.line == directive.line) {
                    function = name.text.to_string();
                }
            } else if let Ok(value) = token.text.parse::<u32>() {
                if inside { inlined.push(value) } else { numbers.push(value) }
            }
        }
        let &[file, line, ..] = numbers.as_slice() else {
            return Err(ParseError::new(directive.line, "`.loc` needs a file and a line", directive.text));
        };
        let column = numbers.get(2).copied().unwrap_or(0);
        let call_site = match *inlined.as_slice() {
            [file, line, ref rest @ ..] => {
                // The call's own line has come before, and said where it was inlined itself.
                let position = [file, line, rest.first().copied().unwrap_or(0)];
                let parent = self.call_sites.get(&position).copied().unwrap_or(0);
                sources.call_site(CallSite { file, line, function, parent })
            }
            _ => 0,
        };
        self.call_sites.insert([file, line, column], call_site);
        // Line 0 marks compiler-made code: the line before it says more to a reader.
        if line != 0 {
            self.location = Location { file, line, call_site };
        }
        Ok(())
    }

    fn registers(&mut self, cursor: &mut Cursor<'_>) -> Result<(), ParseError> {
        let kind = cursor.word()?;
        let class = kind
            .text
            .strip_prefix('.')
            .and_then(RegisterClass::of_type)
            .ok_or_else(|| ParseError::new(kind.line, "type of a register", kind.text))?;
        loop {
            let name = cursor.word()?;
            let mut separator = cursor.next()?;
            if separator.is(b'<') {
                let count = cursor.integer()?;
                cursor.expect(b'>')?;
                self.scopes[self.current].families.push((name.text.to_string(), count, class));
                separator = cursor.next()?;
            } else {
                let id = self.declare(name.text, class);
                self.scopes[self.current].registers.insert(name.text.to_string(), id);
            }
            if separator.is(b';') {
                return Ok(());
            }
            if !separator.is(b',') {
                return Err(ParseError::new(separator.line, "expected `,` or `;`", separator.text));
            }
        }
    }

    fn declare(&mut self, name: &str, class: RegisterClass) -> RegisterId {
        let id = RegisterId(self.kernel.registers.len() as u32);
        self.kernel.registers.push(RegisterDeclaration { name: name.to_string(), class });
        id
    }

    fn register(&mut self, name: &str) -> Option<RegisterId> {
        let stem = name.trim_end_matches(|character: char| character.is_ascii_digit());
        let index = name[stem.len()..].parse::<u64>().ok();
        let mut scope = Some(self.current);
        while let Some(at) = scope {
            if let Some(&id) = self.scopes[at].registers.get(name) {
                return Some(id);
            }
            if let Some(index) = index {
                let family =
                    self.scopes[at].families.iter().find(|(prefix, count, _)| prefix == stem && index < *count);
                if let Some(&(_, _, class)) = family {
                    let id = self.declare(name, class);
                    self.scopes[at].registers.insert(name.to_string(), id);
                    return Some(id);
                }
            }
            scope = self.scopes[at].parent;
        }
        None
    }

    fn label(&mut self, cursor: &mut Cursor<'_>, name: &str) -> Result<(), ParseError> {
        if cursor.peek().is_some_and(|next| next.text == ".branchtargets") {
            cursor.at += 1;
            let mut targets = Vec::new();
            loop {
                let target = cursor.word()?;
                targets.push((target.text.to_string(), target.line));
                let separator = cursor.next()?;
                if separator.is(b';') {
                    break;
                }
                if !separator.is(b',') {
                    return Err(ParseError::new(separator.line, "expected `,` or `;`", separator.text));
                }
            }
            self.branch_lists.push((name.to_string(), self.current, targets));
        } else {
            let here = self.kernel.statements.len() as u32;
            if self.scopes[self.current].labels.insert(name.to_string(), here).is_some() {
                let line = cursor.line();
                return Err(ParseError::new(line, "this scope has two labels of this name", name));
            }
        }
        Ok(())
    }

    fn statement(&mut self, cursor: &mut Cursor<'_>) -> Result<(), ParseError> {
        let mut token = cursor.next()?;
        let (start, line) = (token.start, token.line);
        let mut guard = None;
        if token.is(b'@') {
            token = cursor.next()?;
            let negated = token.is(b'!');
            if negated {
                token = cursor.next()?;
            }
            let id = self
                .register(token.text)
                .ok_or_else(|| ParseError::new(token.line, "guard is not a register", token.text))?;
            guard = Some((id, negated));
            token = cursor.next()?;
        }
        if token.kind != TokenKind::Word || !token.text.as_bytes()[0].is_ascii_lowercase() {
            return Err(ParseError::new(token.line, "expected an instruction", token.text));
        }
        let opcode = token.text.to_string();
        let mut operands = Vec::new();
        if !cursor.peek().is_some_and(|next| next.is(b';')) {
            loop {
                operands.push(self.operand(cursor, 0)?);
                let separator = cursor.peek().ok_or_else(|| ParseError::new(line, "`;` is missing", &opcode))?;
                if separator.is(b',') {
                    cursor.at += 1;
                } else {
                    break;
                }
            }
        }
        let end = cursor.next()?;
        if !end.is(b';') {
            return Err(ParseError::new(line, "expected `;`", &cursor.source[start..end.start + end.text.len()]));
        }
        self.kernel.statements.push(Statement {
            guard,
            opcode,
            operands,
            line,
            location: self.location,
            span: (start, end.start),
            scope: self.current,
        });
        Ok(())
    }

    fn operand(&mut self, cursor: &mut Cursor<'_>, depth: usize) -> Result<Operand, ParseError> {
        let token = cursor.next()?;
        if depth > MAX_OPERAND_DEPTH {
            return Err(ParseError::new(token.line, "operands are nested too deeply", token.text));
        }
        let first = match token.kind {
            TokenKind::Punctuation(open @ (b'{' | b'(')) => {
                let close = if open == b'{' { b'}' } else { b')' };
                let mut elements = Vec::new();
                if cursor.peek().is_some_and(|next| next.is(close)) {
                    cursor.at += 1;
                    return Ok(Operand::Vector(elements));
                }
                loop {
                    elements.push(self.operand(cursor, depth + 1)?);
                    let separator = cursor.next()?;
                    if separator.is(close) {
                        return Ok(Operand::Vector(elements));
                    }
                    if !separator.is(b',') {
                        return Err(ParseError::new(separator.line, "expected `,` in a list", separator.text));
                    }
                }
            }
            TokenKind::Punctuation(b'[') => return self.address(cursor, depth),
            TokenKind::Punctuation(b'!') => Operand::Not(Box::new(self.operand(cursor, depth + 1)?)),
            TokenKind::Punctuation(b'-') => {
                let literal = cursor.word()?;
                Operand::Immediate(match number(literal.text) {
                    Some(Immediate::Integer(value)) => Immediate::Integer(value.wrapping_neg()),
                    Some(Immediate::Single(bits)) => Immediate::Single(bits ^ 1 << 31),
                    Some(Immediate::Double(bits)) => Immediate::Double(bits ^ 1 << 63),
                    None => return Err(ParseError::new(literal.line, "expected a number", literal.text)),
                })
            }
            TokenKind::Word => self.word(token.text, token.line)?,
            _ => return Err(ParseError::new(token.line, "expected an operand", token.text)),
        };
        if cursor.peek().is_some_and(|next| next.is(b'|')) {
            cursor.at += 1;
            let second = self.operand(cursor, depth + 1)?;
            return Ok(Operand::Pair(Box::new(first), Box::new(second)));
        }
        Ok(first)
    }

    fn word(&mut self, text: &str, line: u32) -> Result<Operand, ParseError> {
        if text == "_" {
            return Ok(Operand::Sink);
        }
        if let Some(id) = self.register(text) {
            return Ok(Operand::Register(id));
        }
        if text.as_bytes()[0].is_ascii_digit() {
            return match number(text) {
                Some(value) => Ok(Operand::Immediate(value)),
                None => Err(ParseError::new(line, "malformed number", text)),
            };
        }
        if text.starts_with('%') {
            return Ok(Operand::Special(text.to_string()));
        }
        let mut scope = Some(self.current);
        while let Some(at) = scope {
            if let Some(unique) = self.scopes[at].parameters.get(text) {
                return Ok(Operand::Symbol(unique.clone()));
            }
            scope = self.scopes[at].parent;
        }
        Ok(Operand::Symbol(text.to_string()))
    }

    /// What follows `[`.
    fn address(&mut self, cursor: &mut Cursor<'_>, depth: usize) -> Result<Operand, ParseError> {
        let base = self.operand(cursor, depth + 1)?;
        let token = cursor.next()?;
        match token.kind {
            TokenKind::Punctuation(b']') => Ok(Operand::Address { base: Box::new(base), offset: 0 }),
            TokenKind::Punctuation(sign @ (b'+' | b'-')) => {
                let negative_literal = cursor.peek().is_some_and(|next| next.is(b'-'));
                if negative_literal {
                    cursor.at += 1;
                }
                let magnitude = cursor.integer()? as i64;
                let negative = (sign == b'-') != negative_literal;
                cursor.expect(b']')?;
                let offset = if negative { magnitude.wrapping_neg() } else { magnitude };
                Ok(Operand::Address { base: Box::new(base), offset })
            }
            TokenKind::Punctuation(b',') => {
                let mut parts = vec![base];
                loop {
                    parts.push(self.operand(cursor, depth + 1)?);
                    let separator = cursor.next()?;
                    if separator.is(b']') {
                        return Ok(Operand::TensorAddress(parts));
                    }
                    if !separator.is(b',') {
                        return Err(ParseError::new(separator.line, "expected `]`", separator.text));
                    }
                }
            }
            _ => Err(ParseError::new(token.line, "expected `]`", token.text)),
        }
    }

    fn find_label(&self, name: &str, scope: usize) -> Option<u32> {
        let mut scope = Some(scope);
        while let Some(at) = scope {
            if let Some(&target) = self.scopes[at].labels.get(name) {
                return Some(target);
            }
            scope = self.scopes[at].parent;
        }
        None
    }

    /// Branches get the index of their target statement in place of its name.
    fn resolve_labels(mut self) -> Result<(), ParseError> {
        for (label, scope, targets) in std::mem::take(&mut self.branch_lists) {
            let mut resolved = Vec::with_capacity(targets.len());
            for (target, line) in targets {
                resolved.push(
                    self.find_label(&target, scope)
                        .ok_or_else(|| ParseError::new(line, "label does not exist", &target))?,
                );
            }
            self.kernel.branch_targets.insert(label, resolved);
        }
        let mut statements = std::mem::take(&mut self.kernel.statements);
        for statement in &mut statements {
            if !(statement.opcode == "bra" || statement.opcode == "bra.uni") {
                continue;
            }
            if let Some(Operand::Symbol(label)) = statement.operands.first() {
                let target = self
                    .find_label(label, statement.scope)
                    .ok_or_else(|| ParseError::new(statement.line, "label does not exist", label))?;
                statement.operands[0] = Operand::Immediate(Immediate::Integer(u64::from(target)));
            }
        }
        self.kernel.statements = statements;
        Ok(())
    }
}
