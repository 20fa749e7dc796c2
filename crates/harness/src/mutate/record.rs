//! A score as it is kept: `results/mutation/ID.json`, which `sdpa report` reads.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Mutation, Score};

/// The scores of one generation's kernels, added up.
#[derive(Clone, Debug, Serialize)]
pub struct MutationRecord<'s> {
    /// Whose.
    pub generation: &'s str,
    /// Mutations that were noticed.
    pub killed: usize,
    /// Mutations tried that change something.
    pub total: usize,
    /// Mutations tried that change nothing, and are not counted.
    pub equivalent: usize,
    /// Mutations that there are.
    pub possible: usize,
    /// What the sample was drawn by; none where every mutation was tried.
    pub seed: Option<u64>,
    /// Fingerprints of the kernels that were mutated, with `+` between them.
    pub kernel: String,
    /// Their names.
    pub kernels: Vec<&'s str>,
    /// How many were noticed as what.
    pub killers: BTreeMap<&'s str, usize>,
    /// What was not noticed.
    pub survivors: Vec<&'s Mutation>,
}

impl<'s> MutationRecord<'s> {
    /// Adds up the scores of a generation; none for no kernel.
    ///
    /// # Errors
    /// A sentence, where there is no score: it would say that all of nothing was noticed.
    pub fn new(generation: &'s str, scores: &'s [Score], seed: Option<u64>) -> Result<Self, String> {
        if scores.iter().all(|score| score.total() == 0) {
            return Err(format!("nothing in {generation} was mutated, so there is no score"));
        }
        let mut killers = BTreeMap::new();
        for (by, count) in scores.iter().flat_map(Score::killers) {
            *killers.entry(by).or_default() += count;
        }
        let fingerprints: Vec<&str> = scores.iter().map(|score| score.fingerprint.as_str()).collect();
        Ok(Self {
            generation,
            killed: scores.iter().map(Score::killed).sum(),
            total: scores.iter().map(Score::total).sum(),
            equivalent: scores.iter().map(Score::equivalent).sum(),
            possible: scores.iter().map(|score| score.possible).sum(),
            seed,
            kernel: fingerprints.join("+"),
            kernels: scores.iter().map(|score| score.kernel.as_str()).collect(),
            killers,
            survivors: scores.iter().flat_map(Score::survivors).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_mutated_is_no_score() {
        let empty = Score { kernel: "a".into(), fingerprint: "0".into(), possible: 0, mutants: Vec::new() };
        assert!(MutationRecord::new("v9", &[empty], None).unwrap_err().contains("v9"));
        assert!(MutationRecord::new("v9", &[], Some(1)).is_err());
    }
}
