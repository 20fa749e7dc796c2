//! The module level: directives, variables, kernel headers, and the token cursor that all of parsing shares.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::lexer::{Token, TokenKind, tokenize};
use super::{
    Immediate, Initial, Parameter, ParseError, ParsedKernel, ParsedModule, RegisterClass, Sources, Variable,
    VariableSpace,
};

/// Counts modules.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Most parameter bytes that any device accepts.
const MAX_PARAMETER_BYTES: usize = 32_764;

pub(crate) fn parse_module(source: &str) -> Result<ParsedModule, ParseError> {
    let tokens = tokenize(source)?;
    let mut cursor = Cursor { source, tokens: &tokens, at: 0 };
    let mut module = ParsedModule {
        id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
        source: Arc::from(source),
        target: String::new(),
        debug: false,
        sources: Sources::default(),
        kernels: Vec::new(),
        functions: Vec::new(),
        variables: Vec::new(),
    };
    let mut has_version = false;
    while let Some(token) = cursor.peek() {
        match token.text {
            ".version" => {
                has_version = true;
                cursor.skip_line();
            }
            ".target" => {
                cursor.next()?;
                module.target = cursor.word()?.text.to_string();
                let mut options = cursor.tokens[cursor.at..].iter().take_while(|option| option.line == token.line);
                module.debug = options.any(|option| option.text == "debug");
                cursor.skip_rest_of_line(token.line);
            }
            ".address_size" => {
                cursor.next()?;
                let size = cursor.word()?;
                if size.text != "64" {
                    return Err(ParseError::new(size.line, "only 64-bit addresses are supported", size.text));
                }
            }
            ".file" => {
                let (index, name) = file(&mut cursor)?;
                module.sources.files.insert(index, name);
            }
            ".loc" | ".pragma" => cursor.skip_line(),
            ".section" if cursor.tokens.get(cursor.at + 1).is_some_and(|token| token.text == ".debug_str") => {
                cursor.at += 2;
                debug_strings(&mut cursor, &mut module.sources)?;
            }
            ".section" => {
                while let Some(next) = cursor.peek() {
                    if next.is(b'{') {
                        break;
                    }
                    cursor.at += 1;
                }
                cursor.skip_braces()?;
            }
            ".visible" | ".weak" | ".extern" | ".common" => {
                cursor.at += 1;
            }
            ".entry" => {
                cursor.at += 1;
                let kernel = kernel(&mut cursor, &mut module.sources)?;
                let twice = module.kernels.iter().any(|known| known.name == kernel.name);
                if twice && !kernel.is_external {
                    return Err(ParseError::new(token.line, "the module has two entries of this name", &kernel.name));
                }
                if !kernel.is_external {
                    module.kernels.push(kernel);
                }
            }
            ".func" => {
                cursor.at += 1;
                let function = function(&mut cursor, &mut module.sources)?;
                let known = module.functions.iter_mut().find(|known| known.name == function.name);
                match known {
                    Some(known) if known.is_external => *known = function,
                    Some(_) if function.is_external => {}
                    Some(_) => {
                        let message = "the module has two functions of this name";
                        return Err(ParseError::new(token.line, message, &function.name));
                    }
                    None => module.functions.push(function),
                }
            }
            ".alias" => cursor.skip_statement(),
            ".shared" | ".global" | ".const" => {
                let space = match token.text {
                    ".shared" => VariableSpace::Shared,
                    ".global" => VariableSpace::Global,
                    _ => VariableSpace::Constant,
                };
                cursor.at += 1;
                module.variables.push(variable(&mut cursor, space)?);
            }
            ";" => cursor.at += 1,
            _ => return Err(ParseError::new(token.line, "unexpected at module level", token.text)),
        }
    }
    if !has_version {
        return Err(ParseError::new(
            1,
            if source.trim().is_empty() { "the text is empty" } else { "not a PTX module: `.version` is missing" },
            &source.chars().take(40).collect::<String>(),
        ));
    }
    Ok(module)
}

/// `{ label: .b8 104,105,0 … }`
fn debug_strings(cursor: &mut Cursor<'_>, sources: &mut Sources) -> Result<(), ParseError> {
    cursor.expect(b'{')?;
    let (mut label, mut bytes) = (String::new(), Vec::new());
    loop {
        let token = cursor.next()?;
        if token.is(b'}') {
            return Ok(());
        }
        if token.kind != TokenKind::Word {
            continue;
        }
        if cursor.peek().is_some_and(|next| next.is(b':')) {
            label = token.text.to_string();
            bytes.clear();
        } else if let Ok(byte) = token.text.parse::<u8>() {
            if byte == 0 && !label.is_empty() {
                let name = String::from_utf8_lossy(&bytes).into_owned();
                sources.names.insert(std::mem::take(&mut label), name);
            } else {
                bytes.push(byte);
            }
        }
    }
}

pub(super) fn file(cursor: &mut Cursor<'_>) -> Result<(u32, String), ParseError> {
    let directive = cursor.next()?;
    let index = cursor.word()?;
    let number = index.text.parse().map_err(|_| ParseError::new(index.line, "file number", index.text))?;
    let name = cursor.next()?;
    if name.kind != TokenKind::Text {
        return Err(ParseError::new(name.line, "file name", name.text));
    }
    cursor.skip_rest_of_line(directive.line);
    Ok((number, name.text.to_string()))
}

/// `.func (results) name (parameters) { … }`, or a declaration without a body.
fn function(cursor: &mut Cursor<'_>, sources: &mut Sources) -> Result<ParsedKernel, ParseError> {
    let mut function = ParsedKernel { is_function: true, ..Default::default() };
    let start = cursor.at;
    match function_header(cursor, &mut function) {
        Ok(()) => {}
        Err(error) => {
            // Parameters in registers, say: nothing that calls of compilers need.
            function.unsupported = Some(error.to_string());
            cursor.at = start;
            let name = cursor.tokens[start..].iter().find(|token| token.text.starts_with(['_', '$']));
            function.name = name.map_or_else(String::new, |token| token.text.to_string());
        }
    }
    loop {
        let token = cursor.next()?;
        if token.is(b';') {
            function.is_external = true;
            return Ok(function);
        }
        if token.is(b'{') {
            cursor.at -= 1;
            if function.unsupported.is_some() {
                cursor.skip_braces()?;
            } else {
                super::body::parse(cursor, &mut function, sources)?;
            }
            return Ok(function);
        }
    }
}

fn function_header(cursor: &mut Cursor<'_>, function: &mut ParsedKernel) -> Result<(), ParseError> {
    while cursor.peek().is_some_and(|token| token.text == ".attribute") {
        while !cursor.next()?.is(b')') {}
    }
    if cursor.peek().is_some_and(|token| token.is(b'(')) {
        cursor.at += 1;
        parameters(cursor, &mut function.results)?;
    }
    function.name = cursor.word()?.text.to_string();
    if cursor.peek().is_some_and(|token| token.is(b'(')) {
        cursor.at += 1;
        parameters(cursor, &mut function.parameters)?;
    }
    Ok(())
}

fn kernel(cursor: &mut Cursor<'_>, sources: &mut Sources) -> Result<ParsedKernel, ParseError> {
    let mut kernel = ParsedKernel { name: cursor.word()?.text.to_string(), ..Default::default() };
    if cursor.peek().is_some_and(|token| token.is(b'(')) {
        cursor.at += 1;
        parameters(cursor, &mut kernel.parameters)?;
    }
    loop {
        let token = cursor.next()?;
        match token.text {
            "{" => break,
            // A declaration without a body.
            ";" => {
                kernel.is_external = true;
                return Ok(kernel);
            }
            ".maxntid" => kernel.max_threads = Some(cursor.triple()?),
            ".reqntid" => kernel.required_threads = Some(cursor.triple()?),
            ".reqnctapercluster" => kernel.required_cluster = Some(cursor.triple()?),
            ".maxnreg" => kernel.max_registers = Some(cursor.triple()?[0]),
            ".minnctapersm" => kernel.min_blocks = Some(cursor.triple()?[0]),
            ".explicitcluster" | ".blocksareclusters" => {}
            ".maxclusterrank" | ".noreturn" | ".maxnctapersm" | ".pragma" => {
                cursor.skip_rest_of_line(token.line);
            }
            _ => return Err(ParseError::new(token.line, "unknown kernel directive", token.text)),
        }
    }
    cursor.at -= 1;
    super::body::parse(cursor, &mut kernel, sources)?;
    Ok(kernel)
}

fn parameters(cursor: &mut Cursor<'_>, into: &mut Vec<Parameter>) -> Result<(), ParseError> {
    let mut end = 0usize;
    loop {
        let token = cursor.next()?;
        match token.text {
            ")" => return Ok(()),
            "," => continue,
            ".param" => {}
            _ => return Err(ParseError::new(token.line, "expected a parameter", token.text)),
        }
        let declared = declaration(cursor)?;
        let (align, size) = (declared.align as usize, declared.size.unwrap_or(0));
        if size > MAX_PARAMETER_BYTES as u64 {
            return Err(ParseError::new(token.line, "parameter is too large", &declared.name));
        }
        let offset = end.next_multiple_of(align);
        end = offset + size as usize;
        if end > MAX_PARAMETER_BYTES {
            return Err(ParseError::new(token.line, "parameters are too large", &declared.name));
        }
        into.push(Parameter { name: declared.name, offset, size: size as usize, align });
    }
}

struct Declaration {
    name: String,
    align: u64,
    /// Bytes of one element.
    element: u64,
    size: Option<u64>,
}

/// `.align 8 .ptr .global .align 4 .b8 name[16][2]`, everything after the state space.
fn declaration(cursor: &mut Cursor<'_>) -> Result<Declaration, ParseError> {
    let mut explicit_align = None;
    let mut element = None;
    let mut pointee = false;
    loop {
        let token = cursor.word()?;
        match token.text {
            ".align" => {
                let align = cursor.integer()?;
                if !align.is_power_of_two() || align > 4096 {
                    return Err(ParseError::new(token.line, "alignment is not a power of two", &align.to_string()));
                }
                // Inside `.ptr` it is the pointee that is aligned.
                if !pointee {
                    explicit_align = Some(align);
                }
            }
            ".ptr" => pointee = true,
            ".global" | ".shared" | ".const" | ".local" if pointee => {}
            ".attribute" => while !cursor.next()?.is(b')') {},
            directive if directive.starts_with('.') => {
                element = Some(match RegisterClass::of_type(&directive[1..]) {
                    Some(RegisterClass::Bits8) => 1u64,
                    Some(RegisterClass::Bits16) => 2,
                    Some(RegisterClass::Bits32) => 4,
                    Some(RegisterClass::Bits64) => 8,
                    Some(RegisterClass::Bits128) => 16,
                    _ => return Err(ParseError::new(token.line, "type of a variable", directive)),
                });
            }
            name => {
                let element = element.ok_or_else(|| ParseError::new(token.line, "variable without a type", name))?;
                let mut size = Some(element);
                while cursor.peek().is_some_and(|next| next.is(b'[')) {
                    cursor.at += 1;
                    if cursor.peek().is_some_and(|next| next.is(b']')) {
                        size = None;
                    } else {
                        let length = cursor.integer()?;
                        size = match size {
                            Some(size) => Some(
                                size.checked_mul(length)
                                    .filter(|&size| size <= 1 << 32)
                                    .ok_or_else(|| ParseError::new(token.line, "array is too large", name))?,
                            ),
                            None => None,
                        };
                    }
                    cursor.expect(b']')?;
                }
                return Ok(Declaration {
                    name: name.to_string(),
                    align: explicit_align.unwrap_or(element),
                    element,
                    size,
                });
            }
        }
    }
}

/// A variable declaration up to its semicolon, the state space already read.
pub(super) fn variable(cursor: &mut Cursor<'_>, space: VariableSpace) -> Result<Variable, ParseError> {
    let declared = declaration(cursor)?;
    let size = declared.size;
    let token = cursor.next()?;
    let mut initial = Ok(Initial::default());
    if token.is(b'=') {
        let start = cursor.at;
        initial = initializer(cursor, declared.element);
        cursor.at = start;
        cursor.skip_statement();
    } else if !token.is(b';') {
        return Err(ParseError::new(token.line, "expected `;` after a variable", token.text));
    }
    // An array without a length has that of its initial value.
    let size =
        size.or_else(|| initial.as_ref().ok().map(|initial| initial.bytes.len() as u64).filter(|size| *size > 0));
    Ok(Variable { name: declared.name, space, align: declared.align, size, initial })
}

/// `1`, `{1, -2, 0f3f800000}`, `{name, generic(name)+8}` and lists of such lists.
fn initializer(cursor: &mut Cursor<'_>, element: u64) -> Result<Initial, String> {
    let mut initial = Initial::default();
    let (mut depth, mut negative) = (0usize, false);
    loop {
        let token = cursor.next().map_err(|error| error.to_string())?;
        match token.kind {
            TokenKind::Punctuation(b';') => return Ok(initial),
            TokenKind::Punctuation(b'{') => depth += 1,
            TokenKind::Punctuation(b'}') => depth = depth.saturating_sub(1),
            TokenKind::Punctuation(b',') => negative = false,
            TokenKind::Punctuation(b'-') => negative = true,
            TokenKind::Punctuation(b'+') => {
                let more = cursor.integer().map_err(|error| error.to_string())?;
                let start = initial.bytes.len().checked_sub(8).ok_or("an offset without an address")?;
                let value = initial.bytes[start..].try_into().map_or(0, u64::from_le_bytes).wrapping_add(more);
                initial.bytes[start..].copy_from_slice(&value.to_le_bytes());
            }
            TokenKind::Punctuation(b'(' | b')') => {}
            TokenKind::Word if token.text == "generic" => {}
            TokenKind::Word if token.text.as_bytes()[0].is_ascii_digit() => {
                let value = match number(token.text).ok_or_else(|| format!("malformed number {}", token.text))? {
                    Immediate::Integer(value) if negative => value.wrapping_neg(),
                    Immediate::Integer(value) | Immediate::Double(value) if element == 8 => value,
                    Immediate::Integer(value) => value,
                    Immediate::Single(bits) => u64::from(bits),
                    Immediate::Double(bits) => u64::from((f64::from_bits(bits) as f32).to_bits()),
                };
                let sign = if negative && !token.text.starts_with("0f") { 0 } else { u64::from(negative) };
                let value = if sign == 1 { value ^ 1 << (element * 8 - 1) } else { value };
                initial.bytes.extend(&value.to_le_bytes()[..element.min(8) as usize]);
            }
            TokenKind::Word if element == 8 => {
                initial.addresses.push((initial.bytes.len(), token.text.to_string()));
                initial.bytes.extend([0; 8]);
            }
            _ => return Err(format!("initial value `{}` is not supported", token.text)),
        }
        if depth == 0 && cursor.peek().is_none() {
            return Err("the text ends too early".into());
        }
    }
}

/// A numeric literal without its sign.
pub(super) fn number(text: &str) -> Option<Immediate> {
    let first = *text.as_bytes().first()?;
    if !first.is_ascii_digit() {
        return None;
    }
    if let Some(hexadecimal) = text.strip_prefix("0f").or_else(|| text.strip_prefix("0F")) {
        if hexadecimal.len() == 8 {
            return u32::from_str_radix(hexadecimal, 16).ok().map(Immediate::Single);
        }
        return None;
    }
    if let Some(hexadecimal) = text.strip_prefix("0d").or_else(|| text.strip_prefix("0D")) {
        if hexadecimal.len() == 16 {
            return u64::from_str_radix(hexadecimal, 16).ok().map(Immediate::Double);
        }
        return None;
    }
    if text.contains('.') {
        return text.parse::<f64>().ok().map(|value| Immediate::Double(value.to_bits()));
    }
    let digits = text.trim_end_matches('U');
    let value = if let Some(hexadecimal) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        u64::from_str_radix(hexadecimal, 16).ok()?
    } else if let Some(binary) = digits.strip_prefix("0b").or_else(|| digits.strip_prefix("0B")) {
        u64::from_str_radix(binary, 2).ok()?
    } else if digits.len() > 1 && digits.starts_with('0') {
        u64::from_str_radix(digits, 8).ok()?
    } else {
        digits.parse().ok()?
    };
    Some(Immediate::Integer(value))
}

/// A position in the token list.
pub(super) struct Cursor<'a> {
    pub source: &'a str,
    pub tokens: &'a [Token<'a>],
    pub at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).copied()
    }

    /// The line of the token before.
    pub(super) fn line(&self) -> u32 {
        self.tokens.get(self.at.saturating_sub(1)).map_or(1, |token| token.line)
    }

    pub(super) fn next(&mut self) -> Result<Token<'a>, ParseError> {
        let token = self.peek().ok_or_else(|| {
            let line = self.tokens.last().map_or(1, |token| token.line);
            ParseError::new(line, "the text ends too early", "")
        })?;
        self.at += 1;
        Ok(token)
    }

    pub(super) fn word(&mut self) -> Result<Token<'a>, ParseError> {
        let token = self.next()?;
        if token.kind == TokenKind::Word {
            Ok(token)
        } else {
            Err(ParseError::new(token.line, "expected a name", token.text))
        }
    }

    pub(super) fn expect(&mut self, punctuation: u8) -> Result<(), ParseError> {
        let token = self.next()?;
        if token.is(punctuation) {
            Ok(())
        } else {
            Err(ParseError::new(token.line, format!("expected `{}`", char::from(punctuation)), token.text))
        }
    }

    pub(super) fn integer(&mut self) -> Result<u64, ParseError> {
        let token = self.word()?;
        match number(token.text) {
            Some(Immediate::Integer(value)) => Ok(value),
            _ => Err(ParseError::new(token.line, "expected an integer", token.text)),
        }
    }

    fn triple(&mut self) -> Result<[u32; 3], ParseError> {
        let mut values = [1u32; 3];
        for (index, value) in values.iter_mut().enumerate() {
            if index > 0 {
                if !self.peek().is_some_and(|token| token.is(b',')) {
                    break;
                }
                self.at += 1;
            }
            *value = u32::try_from(self.integer()?).unwrap_or(u32::MAX);
        }
        Ok(values)
    }

    pub(super) fn skip_rest_of_line(&mut self, line: u32) {
        while self.peek().is_some_and(|token| token.line == line && !token.is(b'{') && !token.is(b'}')) {
            self.at += 1;
        }
    }

    pub(super) fn skip_line(&mut self) {
        if let Some(token) = self.peek() {
            self.at += 1;
            self.skip_rest_of_line(token.line);
        }
    }

    pub(super) fn skip_statement(&mut self) {
        while let Some(token) = self.peek() {
            self.at += 1;
            if token.is(b';') {
                break;
            }
        }
    }

    fn skip_braces(&mut self) -> Result<(), ParseError> {
        let mut depth = 0usize;
        loop {
            let token = self.next()?;
            if token.is(b'{') {
                depth += 1;
            } else if token.is(b'}') {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return Ok(());
                }
            }
        }
    }
}
