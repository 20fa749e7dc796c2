//! Keys and values in pages: what they mean is what the same keys mean where they lie behind one another.

use sdpa_core::{Operand, PageTable, Paging, Problem};

use crate::inputs::{ExtensionInputs, Inputs, ReferenceError};

/// A problem's keys and values, gathered from their pages.
#[derive(Clone, Debug)]
pub struct Unpaged {
    /// The same problem with contiguous keys; those of packed sequences are packed, too.
    pub problem: Problem,
    /// K, strided as [`problem`](Self::problem) says; zeros where a sequence has no key.
    pub key: Vec<u16>,
    /// V, likewise.
    pub value: Vec<u16>,
    /// Where each packed sequence's keys begin and the last one's end; empty for a dense batch.
    pub cu_seqlens_k: Vec<u32>,
    /// Keys that each sequence of a dense batch uses.
    pub key_lengths: Vec<u32>,
}

impl Unpaged {
    /// Gathers them; `None` for a problem without pages.
    ///
    /// # Errors
    /// [`ReferenceError`] where a length or an entry of the table contradicts the problem.
    pub fn new(problem: &Problem, inputs: &Inputs<'_>) -> Result<Option<Self>, ReferenceError> {
        let Some(paging) = problem.paging() else { return Ok(None) };
        inputs.check(problem, &crate::Rows { batches: vec![], heads: vec![], queries: vec![] })?;
        let lengths = inputs.extension.key_lengths;
        let contiguous = problem.unpaged(lengths).map_err(|error| ReferenceError::Extension {
            tensor: "key_lengths",
            found: format!("make no problem without pages: {error}"),
            needed: "others".to_owned(),
            problem: problem.to_string(),
        })?;
        let packed = problem.packing().is_some();
        let mut starts = vec![0];
        for length in lengths.iter().filter(|_| packed) {
            starts.push(starts[starts.len() - 1] + length);
        }
        let gather = |operand, bits: &[u16]| -> Result<Vec<u16>, ReferenceError> {
            let mut gathered = vec![0; contiguous.span(operand)];
            for (sequence, length) in lengths.iter().enumerate() {
                for position in 0..*length as usize {
                    let page = page(problem, paging, &inputs.extension, sequence, position / paging.page)?;
                    for head in 0..problem.heads_kv() {
                        let from = problem.row_offset(operand, page, head, position % paging.page);
                        let to = match packed {
                            true => contiguous.row_offset(operand, 0, head, starts[sequence] as usize + position),
                            false => contiguous.row_offset(operand, sequence, head, position),
                        };
                        let width = problem.width(operand);
                        gathered[to..to + width].copy_from_slice(&bits[from..from + width]);
                    }
                }
            }
            Ok(gathered)
        };
        let (key, value) = (gather(Operand::Key, inputs.key)?, gather(Operand::Value, inputs.value)?);
        let (cu_seqlens_k, key_lengths) = if packed { (starts, Vec::new()) } else { (Vec::new(), lengths.to_vec()) };
        Ok(Some(Self { problem: contiguous, key, value, cu_seqlens_k, key_lengths }))
    }

    /// The inputs with these keys and values instead.
    pub fn inputs<'a>(&'a self, others: &Inputs<'a>) -> Inputs<'a> {
        Inputs {
            query: others.query,
            key: &self.key,
            value: &self.value,
            extension: ExtensionInputs {
                cu_seqlens_k: &self.cu_seqlens_k,
                key_lengths: &self.key_lengths,
                block_table: &[],
                page_starts: &[],
                ..others.extension
            },
        }
    }
}

/// Page number `index` of a sequence.
fn page(
    problem: &Problem,
    paging: Paging,
    extension: &ExtensionInputs<'_>,
    sequence: usize,
    index: usize,
) -> Result<usize, ReferenceError> {
    let start = match paging.table {
        PageTable::Rows { width } => sequence * width,
        PageTable::Lists { .. } => extension.page_starts[sequence] as usize,
    };
    let found = extension.block_table.get(start + index).copied();
    match found.filter(|page| (*page as usize) < paging.pages) {
        Some(page) => Ok(page as usize),
        None => Err(ReferenceError::Extension {
            tensor: "block_table",
            found: format!("names page {found:?} for page {index} of sequence {sequence}"),
            needed: format!("a page below {}", paging.pages),
            problem: problem.to_string(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Reference;

    /// Two sequences of 9 and 3 keys in pages of 8, of one element vectors whose values are their numbers.
    fn problem(table: PageTable) -> Problem {
        Problem::new(2, 1, 1, 8).len_kv(10).paged(Paging { page: 8, pages: 4, table }).build().unwrap()
    }

    #[test]
    fn keys_are_found_through_the_table() {
        let bits: Vec<u16> = (0..4 * 8 * 8).map(|element| (element / 8) as u16).collect();
        let query = vec![0; 16];
        let inputs = |table, starts| Inputs {
            query: &query,
            key: &bits,
            value: &bits,
            extension: ExtensionInputs {
                key_lengths: &[9, 3],
                block_table: table,
                page_starts: starts,
                ..ExtensionInputs::default()
            },
        };
        // Rows of 3, of which the last one's end may be missing.
        let rows = problem(PageTable::Rows { width: 3 });
        let found = Unpaged::new(&rows, &inputs(&[3, 1, 99, 2, 99], &[])).unwrap().unwrap();
        let numbers: Vec<u16> = found.key.iter().step_by(8).copied().collect();
        let first = [24, 25, 26, 27, 28, 29, 30, 31, 8, 0];
        assert_eq!(numbers, [first, [16, 17, 18, 0, 0, 0, 0, 0, 0, 0]].concat());
        let lists = problem(PageTable::Lists { entries: 3 });
        let listed = Unpaged::new(&lists, &inputs(&[3, 1, 2], &[0, 2, 3])).unwrap().unwrap();
        assert_eq!((listed.key, listed.value, listed.key_lengths), (found.key, found.value, found.key_lengths));
        // An entry of a key in use that names no page.
        let error = Reference::compute(&rows, &inputs(&[3, 4, 99, 2, 99], &[]), None).unwrap_err().to_string();
        assert!(error.starts_with("block_table names page Some(4) for page 1 of sequence 0"), "{error}");
    }
}
