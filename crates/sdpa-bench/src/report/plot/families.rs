//! Problems that make a line: they differ in one length only.

use std::collections::{BTreeMap, BTreeSet};

use super::axes::Scale;
use crate::report::Evidence;
use crate::timing::Figure;
use sdpa_core::Problem;

/// Fewer lengths make no line.
const LENGTHS: usize = 3;

/// Problems that differ in their length only, or in length and batch with as many positions in all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Family {
    head_dim: usize,
    mask: String,
    pub(super) dtype: String,
    heads_q: usize,
    heads_kv: usize,
    kept: Kept,
}

/// What all problems of a family share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kept {
    /// Self-attention: batch × length.
    Positions(usize),
    /// Self-attention: the batch.
    Batch(usize),
    /// One query per head, and the batch.
    OneQuery(usize),
}

impl Family {
    /// The families that a figure belongs to.
    fn of(figure: &Figure) -> Vec<Self> {
        let family = |kept| Self {
            head_dim: figure.head_dim,
            mask: figure.mask.clone(),
            dtype: figure.dtype.clone(),
            heads_q: figure.heads_q,
            heads_kv: figure.heads_kv,
            kept,
        };
        if figure.len_q == 1 {
            return vec![family(Kept::OneQuery(figure.batch))];
        }
        let square = figure.len_q == figure.len_kv && figure.heads_q == figure.heads_kv;
        let kept = [Kept::Positions(figure.batch * figure.len_q), Kept::Batch(figure.batch)];
        if square { kept.map(family).to_vec() } else { Vec::new() }
    }

    pub(super) fn holds(&self, figure: &Figure) -> bool {
        Self::of(figure).contains(self)
    }

    /// What the plot shows: of long problems the rate, of short ones and of decoding the time.
    pub(super) fn scale(&self) -> Scale {
        match self.kept {
            Kept::Positions(_) => Scale::Linear,
            Kept::Batch(_) | Kept::OneQuery(_) => Scale::Logarithmic,
        }
    }

    /// The value that the plot shows: TFLOP/s or µs.
    pub(super) fn value(&self, problem: &Problem, us: f64) -> f64 {
        match self.scale() {
            Scale::Linear => problem.flops() / us * 1e-6,
            Scale::Logarithmic => us,
        }
    }

    /// What its lengths are lengths of.
    pub(super) fn lengths_of(&self) -> &'static str {
        match self.kept {
            Kept::OneQuery(_) => "keys",
            Kept::Positions(_) | Kept::Batch(_) => "length",
        }
    }

    /// The dimension and the mask, and what else tells it from the papers' 16 K positions in f16, 2048 wide.
    pub(super) fn file(&self) -> String {
        let size = match self.kept {
            Kept::Positions(16384) if self.heads_q * self.head_dim == 2048 => String::new(),
            Kept::Positions(positions) => format!("-p{positions}h{}", self.heads_q),
            Kept::Batch(batch) => format!("-b{batch}h{}", self.heads_q),
            Kept::OneQuery(batch) => format!("-decoding-b{batch}h{}k{}", self.heads_q, self.heads_kv),
        };
        let dtype = if self.dtype == "f16" { String::new() } else { format!("-{}", self.dtype) };
        format!("{}d{}-{}{size}{dtype}.svg", super::SPEED, self.head_dim, self.mask)
    }

    pub(super) fn title(&self, device: &str) -> String {
        let mask = if self.mask == "full" { "no mask".to_owned() } else { format!("{} mask", self.mask) };
        let value = match self.scale() {
            Scale::Linear => "TFLOP/s",
            Scale::Logarithmic => "µs, shorter is faster",
        };
        let size = match self.kept {
            Kept::Positions(positions) => format!("batch × length {positions}, {} heads", self.heads_q),
            Kept::Batch(batch) => format!("batch {batch}, {} heads", self.heads_q),
            Kept::OneQuery(batch) => {
                format!("one query, batch {batch}, {} heads, {} of keys", self.heads_q, self.heads_kv)
            }
        };
        format!("{value}: {size}, head dimension {}, {}, {mask}; {device}", self.head_dim, self.dtype)
    }
}

/// The families with enough lengths, and their lengths.
pub(super) fn families(evidence: &Evidence) -> BTreeMap<Family, BTreeSet<usize>> {
    let mut found: BTreeMap<Family, BTreeSet<usize>> = BTreeMap::new();
    for entry in evidence.records.iter().flat_map(|record| &record.entries) {
        for family in Family::of(&entry.figure) {
            found.entry(family).or_default().insert(entry.figure.len_kv);
        }
    }
    found.retain(|_, lengths| lengths.len() >= LENGTHS);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{entry, record};

    fn files(problems: Vec<Problem>) -> Vec<String> {
        let entries = problems.iter().map(|problem| entry("v9", problem, 9.0)).collect();
        let evidence = Evidence { records: vec![record("a.json", entries)], ..Evidence::default() };
        families(&evidence).into_keys().map(|family| family.file()).collect()
    }

    #[test]
    fn problems_of_other_sizes_are_no_line() {
        let of = |shapes: &[[usize; 4]]| {
            let problem = |[batch, heads, length, head_dim]: &[usize; 4]| {
                Problem::new(*batch, *heads, *length, *head_dim).build().unwrap()
            };
            files(shapes.iter().map(problem).collect())
        };
        assert_eq!(of(&[[1, 8, 512, 64], [2, 8, 2048, 64], [4, 8, 1024, 64]]), [""; 0]);
        assert_eq!(of(&[[1, 8, 64, 64], [1, 8, 128, 64], [1, 8, 512, 64]]), ["speed-d64-full-b1h8.svg"]);
        assert_eq!(of(&[[8, 16, 2048, 128], [4, 16, 4096, 128], [2, 16, 8192, 128]]), ["speed-d128-full.svg"]);
    }

    #[test]
    fn decoding_has_a_plot_of_its_own() {
        let problem = |(batch, keys)| Problem::new(batch, 8, 1, 64).heads_kv(2).len_kv(keys).build().unwrap();
        assert_eq!(
            files([(1, 512), (1, 1024), (1, 2048), (4, 512), (4, 1024)].map(problem).to_vec()),
            ["speed-d64-full-decoding-b1h8k2.svg"]
        );
    }
}
