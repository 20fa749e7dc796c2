//! Mutation scores as `sdpa mutate ID --record` leaves them in `results/mutation/`.

use std::path::Path;

use sdpa_core::Generation;
use sdpa_toolchain::Fingerprint;
use serde::Deserialize;

use super::ReportError;

/// How many of the mutations of a generation's kernels the harness noticed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct MutationScore {
    /// Whose.
    pub generation: String,
    /// Mutations that were noticed.
    pub killed: usize,
    /// Mutations tried that change something.
    pub total: usize,
    /// Mutations tried that change nothing, where the record says so.
    #[serde(default)]
    pub equivalent: Option<usize>,
    /// What the sample was drawn by; none where all were tried.
    #[serde(default)]
    pub seed: Option<u64>,
    /// Fingerprints of the kernels that were mutated, with `+` between them.
    #[serde(alias = "fingerprint", alias = "kernel_fingerprint")]
    pub kernel: String,
}

impl MutationScore {
    /// True where a kernel that was mutated is none of the generation's today.
    pub fn is_stale(&self, generation: &Generation) -> Result<bool, sdpa_core::Error> {
        are_stale(&self.kernel.split('+').collect::<Vec<_>>(), generation)
    }
}

/// True where a kernel with one of these fingerprints is none of the generation's today.
pub(super) fn are_stale(fingerprints: &[&str], generation: &Generation) -> Result<bool, sdpa_core::Error> {
    let today = generation.specialisations.iter().map(Fingerprint::of_packed);
    let today = today.collect::<Result<Vec<_>, sdpa_core::Error>>()?;
    let today: Vec<String> = today.into_iter().flatten().map(|kernel| kernel.to_string()).collect();
    Ok(!fingerprints.iter().all(|recorded| today.iter().any(|kernel| kernel == recorded)))
}

/// Reads every score in a folder, by name; none where there is no such folder.
///
/// # Errors
/// [`ReportError::System`] or [`ReportError::Format`].
pub fn read_scores(folder: &Path) -> Result<Vec<MutationScore>, ReportError> {
    super::read_folder(folder)
}

#[cfg(test)]
mod tests {
    use harness::mutate::{Kill, Mutant, MutationRecord, Score, mutations};

    use super::*;
    use sdpa::generations;

    #[test]
    fn a_score_is_of_the_kernels_that_were_mutated() {
        let generation = generations::ALL[0].generation();
        let kernels: Vec<String> = generation
            .specialisations
            .iter()
            .map(|kernel| Fingerprint::of_packed(kernel).unwrap().unwrap().to_string())
            .collect();
        let stale = |kernel: &str| {
            let json = format!(r#"{{ "generation": "x", "killed": 1, "total": 2, "kernel": "{kernel}", "more": [] }}"#);
            serde_json::from_str::<MutationScore>(&json).unwrap().is_stale(generation).unwrap()
        };
        assert_eq!(
            [stale(&kernels[0]), stale(&kernels.join("+")), stale("c0ffee"), stale("")],
            [false, false, true, true]
        );
    }

    #[test]
    fn what_is_kept_is_what_the_report_reads() {
        let generation = generations::ALL[0].generation();
        let fingerprint = |kernel| Fingerprint::of_packed(kernel).unwrap().unwrap().to_string();
        let score = |kernel: &str, fingerprint: String, killed: usize| {
            let found = mutations(".entry k() { bar.sync 0; bar.warp.sync -1; ret; }").into_iter().enumerate();
            let kill = || Kill { by: "race in shared memory".into(), case: "L1".into() };
            let mutants = found.map(|(index, mutation)| Mutant {
                mutation,
                killed: (index < killed).then(kill),
                equivalent: None,
            });
            Score { kernel: kernel.into(), fingerprint, possible: 2, mutants: mutants.collect() }
        };
        let kernels = &generation.specialisations[..2];
        let scores = [score("a", fingerprint(&kernels[0]), 2), score("b", fingerprint(&kernels[1]), 1)];
        let folder = tempfile::tempdir().unwrap();
        let text = serde_json::to_string(&MutationRecord::new(generation.id, &scores, None).unwrap()).unwrap();
        std::fs::write(folder.path().join("x.json"), text).unwrap();
        let read = read_scores(folder.path()).unwrap();
        assert_eq!((read[0].killed, read[0].total, read[0].generation.as_str()), (3, 4, generation.id));
        assert!(!read[0].is_stale(generation).unwrap());
    }

    #[test]
    fn no_folder_holds_no_score_and_a_broken_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read_scores(&folder.path().join("mutation")).unwrap(), []);
        std::fs::write(folder.path().join("v1.json"), "{}").unwrap();
        let error = read_scores(folder.path()).unwrap_err().to_string();
        assert!(error.contains("v1.json: missing field `generation`"), "{error}");
    }
}
