//! A score as it is kept: `results/mutation/ID.json`, which `sdpa report` reads.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Mutation, Score};

/// The scores of one generation's kernels, added up.
#[derive(Clone, Debug, Serialize)]
pub struct Recorded<'s> {
    /// Whose.
    pub generation: &'s str,
    /// Mutations that were noticed.
    pub killed: usize,
    /// Mutations tried.
    pub total: usize,
    /// Fingerprints of the kernels that were mutated, with `+` between them.
    pub kernel: String,
    /// Their names.
    pub kernels: Vec<&'s str>,
    /// How many were noticed as what.
    pub killers: BTreeMap<&'s str, usize>,
    /// What was not noticed.
    pub survivors: Vec<&'s Mutation>,
}

impl<'s> Recorded<'s> {
    /// Adds up the scores of a generation; none for no kernel.
    ///
    /// # Errors
    /// A sentence, where there is no score: it would say that all of nothing was noticed.
    pub fn new(generation: &'s str, scores: &'s [Score]) -> Result<Self, String> {
        if scores.iter().all(|score| score.mutants.is_empty()) {
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
            total: scores.iter().map(|score| score.mutants.len()).sum(),
            kernel: fingerprints.join("+"),
            kernels: scores.iter().map(|score| score.kernel.as_str()).collect(),
            killers,
            survivors: scores.iter().flat_map(Score::survivors).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Kill, Mutant, mutations};
    use super::*;
    use crate::generations;
    use crate::report::read_scores;

    fn score(kernel: &str, fingerprint: String, killed: usize) -> Score {
        let found = mutations(".entry k() { bar.sync 0; bar.warp.sync -1; ret; }").into_iter().enumerate();
        let kill = || Kill { by: "race in shared memory".into(), case: "L1".into() };
        let mutants = found.map(|(index, mutation)| Mutant { mutation, killed: (index < killed).then(kill) });
        Score { kernel: kernel.into(), fingerprint, mutants: mutants.collect() }
    }

    #[test]
    fn what_is_kept_is_what_the_report_reads() {
        let generation = generations::ALL[0].generation();
        let kernels = &generation.specialisations[..2];
        let fingerprint = |kernel| sdpa_core::fingerprint(kernel).unwrap().to_string();
        let scores = [score("a", fingerprint(&kernels[0]), 2), score("b", fingerprint(&kernels[1]), 1)];
        let folder = tempfile::tempdir().unwrap();
        let text = serde_json::to_string(&Recorded::new(generation.id, &scores).unwrap()).unwrap();
        std::fs::write(folder.path().join("x.json"), text).unwrap();
        let read = read_scores(folder.path()).unwrap();
        assert_eq!((read[0].killed, read[0].total, read[0].generation.as_str()), (3, 4, generation.id));
        assert!(!read[0].is_stale(generation).unwrap());
    }

    #[test]
    fn nothing_mutated_is_no_score() {
        let empty = Score { kernel: "a".into(), fingerprint: "0".into(), mutants: Vec::new() };
        assert!(Recorded::new("v9", &[empty]).unwrap_err().contains("v9"));
        assert!(Recorded::new("v9", &[]).is_err());
    }
}
