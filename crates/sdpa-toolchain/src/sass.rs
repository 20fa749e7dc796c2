//! The machine code that ptxas makes of a kernel, and how far two of them differ.

use std::path::Path;
use std::time::{Duration, Instant};

use object::{Object as _, ObjectSection as _};
use sdpa_core::Specialisation;
use similar::{Algorithm, DiffOp, capture_diff_slices_deadline};

use crate::ptxas::run_ptxas;
use crate::resources::{Multiprocessor, ResourceError};

/// One machine instruction with its scheduling bits: 128 bits since Volta.
type Instruction = [u8; 16];

/// The machine code of one kernel on one architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineCode {
    instructions: Vec<Instruction>,
}

/// How far two pieces of machine code differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Bit for bit the same.
    Same,
    /// They share fewer instructions in the same order than the longer one has.
    Differs {
        /// Instructions of the longer one that are not shared.
        changed: usize,
        /// Instructions of the longer one.
        of: usize,
    },
}

impl MachineCode {
    /// Assembles a PTX text, which stands for `kernel` in errors.
    ///
    /// # Errors
    /// [`ResourceError`] if ptxas cannot be run, refuses the text or writes a file without code.
    pub fn assemble(
        ptxas: &Path,
        kernel: &Specialisation,
        ptx: &str,
        arch: &Multiprocessor,
    ) -> Result<Self, ResourceError> {
        let (_, cubin) = run_ptxas(ptxas, kernel, ptx, arch.name)?;
        Self::read(&cubin).ok_or_else(|| ResourceError::NoCode { kernel: kernel.to_string(), architecture: arch.name })
    }

    /// The code in a cubin: its sections `.text.…`, in order. None where the bytes are no ELF file or hold no code.
    pub fn read(cubin: &[u8]) -> Option<Self> {
        let file = object::File::parse(cubin).ok()?;
        let mut instructions = Vec::new();
        for section in file.sections().filter(|section| section.name().is_ok_and(|name| name.starts_with(".text"))) {
            let (words, rest) = section.data().ok()?.as_chunks::<16>();
            if !rest.is_empty() {
                return None;
            }
            instructions.extend_from_slice(words);
        }
        (!instructions.is_empty()).then_some(Self { instructions })
    }

    /// How many instructions it has.
    pub fn len(&self) -> usize {
        self.instructions.len()
    }

    /// True if it has none, which [`read`](Self::read) never gives.
    pub fn is_empty(&self) -> bool {
        self.instructions.is_empty()
    }

    /// How far another one differs. An instruction that moves every later branch counts those, too: their targets changed.
    pub fn compare(&self, other: &Self) -> Comparison {
        if self == other {
            return Comparison::Same;
        }
        // Two unrelated kernels of ten thousand instructions would take minutes; then the count is an upper bound.
        let deadline = Instant::now() + Duration::from_secs(5);
        let operations =
            capture_diff_slices_deadline(Algorithm::Myers, &self.instructions, &other.instructions, Some(deadline));
        let kept = |operation: &DiffOp| match operation {
            DiffOp::Equal { len, .. } => *len,
            _ => 0,
        };
        let of = self.instructions.len().max(other.instructions.len());
        Comparison::Differs { changed: of - operations.iter().map(kept).sum::<usize>(), of }
    }
}

/// True if two PTX texts hold the same instructions: comments and lines of source aside, which ptxas does not see without
/// `-lineinfo`. Then their machine code is the same.
pub fn same_instructions(left: &str, right: &str) -> bool {
    instructions(left).eq(instructions(right))
}

/// The lines of a PTX text that decide its machine code.
pub(crate) fn instructions(ptx: &str) -> impl Iterator<Item = &str> {
    let is_code = |line: &&str| !line.is_empty() && !line.starts_with("//") && !line.starts_with(".loc");
    // The table of files and the names of inlined functions end the text.
    let lines = ptx.lines().map(str::trim);
    lines.take_while(|line| !line.starts_with(".file") && !line.starts_with(".section")).filter(is_code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(words: &[u8]) -> MachineCode {
        MachineCode { instructions: words.iter().map(|word| [*word; 16]).collect() }
    }

    #[test]
    fn differences_are_counted_in_instructions() {
        let one = code(&[1, 2, 3, 4, 5]);
        assert_eq!(one.compare(&code(&[1, 2, 3, 4, 5])), Comparison::Same);
        assert_eq!(one.compare(&code(&[1, 2, 9, 4, 5])), Comparison::Differs { changed: 1, of: 5 });
        assert_eq!(one.compare(&code(&[1, 2, 3, 7, 8, 4, 5])), Comparison::Differs { changed: 2, of: 7 });
        assert_eq!(one.compare(&code(&[6, 7, 8])), Comparison::Differs { changed: 5, of: 5 });
    }

    #[test]
    fn comments_and_lines_of_source_are_no_instructions() {
        let text = "// made of a.cu\n.version 9.0\n\t.loc\t1 2 3\n\tbar.sync \t0;\n\t.file\t1 \"a\"\n";
        assert!(same_instructions(text, ".version 9.0\n\tbar.sync \t0;\n\t.file\t1 \"b\"\n"));
        assert!(!same_instructions(text, ".version 9.0\n\tbar.sync \t1;\n"));
        assert!(!same_instructions(text, ".version 9.0\n"));
    }

    #[test]
    fn what_is_no_cubin_has_no_code() {
        assert_eq!(MachineCode::read(b"no ELF file"), None);
        assert_eq!(MachineCode::read(&[]), None);
    }
}
