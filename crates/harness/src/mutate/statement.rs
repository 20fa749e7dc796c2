//! The statements of a PTX text, each with its line of the CUDA source.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

use sdpa_toolchain::file_entry;
use serde::Serialize;

/// A line of the CUDA source, and the calls that it was inlined through.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Origin {
    /// File, as the compiler named it.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Who called it, the innermost first.
    pub callers: Vec<(String, u32)>,
}

impl Origin {
    /// File and line of the statement itself and of every call that it was inlined through, innermost first.
    pub fn chain(&self) -> impl Iterator<Item = (&str, u32)> {
        let callers = self.callers.iter().map(|(file, line)| (file.as_str(), *line));
        std::iter::once((self.file.as_str(), self.line)).chain(callers)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)?;
        for (index, (file, line)) in self.callers.iter().enumerate() {
            write!(f, "{}{file}:{line}", if index == 0 { ", called from " } else { ", " })?;
        }
        Ok(())
    }
}

/// A label, and the braces that it stands in: inline assembly has labels of one name in braces of their own.
pub(super) struct Label<'p> {
    pub(super) name: &'p str,
    pub(super) scope: usize,
}

impl Label<'_> {
    /// True where it stands in the statement's own braces or in the kernel's.
    pub(super) fn is_seen_from(&self, statement: &Statement<'_>) -> bool {
        self.scope == statement.scope || self.scope == KERNEL
    }
}

/// The scope of a kernel's own braces.
pub(super) const KERNEL: usize = 0;

/// One statement of a kernel's body.
pub(super) struct Statement<'p> {
    /// Without its semicolon.
    pub(super) text: &'p str,
    /// With it.
    pub(super) span: Range<usize>,
    pub(super) line: usize,
    /// The labels right before it.
    pub(super) labels: Vec<Label<'p>>,
    /// The innermost braces that it stands in.
    pub(super) scope: usize,
    pub(super) origin: Option<Origin>,
}

impl<'p> Statement<'p> {
    /// The predicate with its `@`, if there is one, and the instruction.
    pub(super) fn parts(&self) -> (Option<&'p str>, &'p str) {
        guard_and_instruction(self.text)
    }

    /// True for what reads or writes memory that others see.
    pub(super) fn touches_memory(&self) -> bool {
        let (_, instruction) = self.parts();
        let mut parts = instruction.split_whitespace().next().unwrap_or("").split('.');
        let first = parts.next();
        let private =
            parts.any(|part| matches!(part, "param" | "local" | "const" | "commit_group" | "wait_group" | "wait_all"));
        let touches = ["ld", "st", "red", "atom", "cp", "ldmatrix", "stmatrix", "wmma"];
        first.is_some_and(|first| touches.contains(&first)) && !private && !instruction.starts_with("wmma.mma")
    }
}

/// The predicate with its `@`, if there is one, and the rest of an instruction.
pub(super) fn guard_and_instruction(text: &str) -> (Option<&str>, &str) {
    match text.split_once(char::is_whitespace) {
        Some((guard, rest)) if guard.starts_with('@') => (Some(guard), rest.trim_start()),
        _ => (None, text),
    }
}

/// A place in the source, as `.loc` gives it: file number, line, column.
type Location = [u32; 3];

/// The statements of all kernels of a text.
pub(super) fn statements(ptx: &str) -> Vec<Statement<'_>> {
    let mut scanner = Scanner {
        ptx,
        at: 0,
        line: 1,
        files: files(ptx),
        location: None,
        inlined: HashMap::new(),
        labels: Vec::new(),
        scopes: Vec::new(),
        found: Vec::new(),
    };
    while scanner.find_body() {
        scanner.read_body();
    }
    scanner.found
}

/// The table of files, wherever in the text it stands.
fn files(ptx: &str) -> HashMap<u32, &str> {
    ptx.lines().filter_map(|line| file_entry(line).map(|(number, name)| (number, &line[name]))).collect()
}

struct Scanner<'p> {
    ptx: &'p str,
    at: usize,
    line: usize,
    files: HashMap<u32, &'p str>,
    location: Option<Location>,
    /// Where each place was inlined when it was last seen.
    inlined: HashMap<Location, Option<Location>>,
    labels: Vec<Label<'p>>,
    /// The braces that are open, the innermost last.
    scopes: Vec<usize>,
    found: Vec<Statement<'p>>,
}

impl<'p> Scanner<'p> {
    fn rest(&self) -> &'p str {
        &self.ptx[self.at..]
    }

    fn advance(&mut self, bytes: usize) -> &'p str {
        let text = &self.ptx[self.at..self.at + bytes];
        self.line += text.matches('\n').count();
        self.at += bytes;
        text
    }

    /// Everything up to the first of `ends`, or to the end of the text.
    fn until(&mut self, end: &str) -> &'p str {
        let bytes = self.rest().find(end).unwrap_or(self.rest().len());
        self.advance(bytes)
    }

    /// Steps over blanks and comments.
    fn skip(&mut self) {
        loop {
            let rest = self.rest();
            let blanks = rest.len() - rest.trim_start().len();
            self.advance(blanks);
            if self.rest().starts_with("//") {
                self.until("\n");
            } else if self.rest().starts_with("/*") {
                self.until("*/");
                self.advance(2.min(self.rest().len()));
            } else {
                return;
            }
        }
    }

    /// Goes to behind the brace that opens the next kernel's body; false where there is none.
    fn find_body(&mut self) -> bool {
        loop {
            self.skip();
            if self.rest().is_empty() {
                return false;
            }
            let line = self.rest().lines().next().unwrap_or("");
            let is_entry = line.split(';').next().unwrap_or("").split_whitespace().any(|word| word == ".entry");
            if is_entry {
                self.until("{");
                self.advance(1.min(self.rest().len()));
                return true;
            }
            self.until("\n");
        }
    }

    /// Reads to behind the brace that closes the body.
    fn read_body(&mut self) {
        let mut last = KERNEL;
        self.scopes = vec![KERNEL];
        while !self.scopes.is_empty() {
            self.skip();
            let rest = self.rest();
            if rest.is_empty() {
                return;
            } else if rest.starts_with(['{', '}']) {
                if rest.starts_with('{') {
                    last += 1;
                    self.scopes.push(last);
                } else {
                    self.scopes.pop();
                }
                self.advance(1);
            } else if rest.starts_with(".loc") {
                let line = self.until("\n");
                self.locate(line);
            } else if let Some(bytes) = label(rest) {
                let label = Label { name: &rest[..bytes], scope: self.scope() };
                self.labels.push(label);
                self.until(":");
                self.advance(1);
            } else {
                self.read_statement();
            }
        }
        // Labels at the very end belong to nothing; a branch there jumps over all that is left.
        let labels = std::mem::take(&mut self.labels);
        let (at, line) = (self.at, self.line);
        self.found.push(Statement { text: "", span: at..at, line, labels, scope: KERNEL, origin: None });
    }

    fn scope(&self) -> usize {
        self.scopes.last().copied().unwrap_or(KERNEL)
    }

    fn read_statement(&mut self) {
        let (start, line) = (self.at, self.line);
        let text = self.until(";").trim_end();
        if self.rest().is_empty() {
            return;
        }
        self.advance(1);
        let labels = std::mem::take(&mut self.labels);
        let origin = self.location.and_then(|location| self.origin(location));
        let scope = self.scope();
        self.found.push(Statement { text, span: start..self.at, line, labels, scope, origin });
    }

    /// `.loc 4 43 13, function_name $L__info_string7, inlined_at 1 201 13`.
    fn locate(&mut self, line: &str) {
        let mut parts = line.split(',');
        let numbers = |text: &str| -> Option<Location> {
            let mut words = text.split_whitespace().skip(1).map_while(|word| word.parse().ok());
            Some([words.next()?, words.next()?, words.next()?])
        };
        let here = parts.next().and_then(numbers);
        let caller = parts.find(|part| part.trim_start().starts_with("inlined_at")).and_then(numbers);
        if let Some(here) = here {
            self.inlined.insert(here, caller);
        }
        self.location = here.filter(|[_, line, _]| *line > 0);
    }

    fn origin(&self, location: Location) -> Option<Origin> {
        /// Deeper than any kernel calls, and an end for chains that bite their tails.
        const MOST_CALLERS: usize = 8;
        let place = |[file, line, _]: Location| Some((self.files.get(&file)?.to_string(), line));
        let (file, line) = place(location)?;
        let callers = std::iter::successors(self.caller(location), |location| self.caller(*location));
        Some(Origin { file, line, callers: callers.take(MOST_CALLERS).map_while(place).collect() })
    }

    fn caller(&self, location: Location) -> Option<Location> {
        self.inlined.get(&location).copied().flatten()
    }
}

/// Length of the label that a text begins with.
fn label(text: &str) -> Option<usize> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '%');
    let bytes = text.find(|c| !is_name(c))?;
    let after = text[bytes..].trim_start();
    (bytes > 0 && after.starts_with(':') && !after.starts_with("::")).then_some(bytes)
}
