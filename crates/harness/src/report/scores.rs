//! Mutation scores as `sdpa mutate ID --record` leaves them in `results/mutation/`.

use std::path::Path;

use sdpa_core::Generation;
use serde::Deserialize;

use super::ReportError;

/// How many of the mutations of a generation's kernels the harness noticed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct MutationScore {
    /// Whose.
    pub generation: String,
    /// Mutations that were noticed.
    pub killed: usize,
    /// Mutations tried.
    pub total: usize,
    /// Fingerprints of the kernels that were mutated, with `+` between them.
    #[serde(alias = "fingerprint", alias = "kernel_fingerprint")]
    pub kernel: String,
}

impl MutationScore {
    /// True where a kernel that was mutated is none of the generation's today.
    pub fn is_stale(&self, generation: &Generation) -> Result<bool, sdpa_core::Error> {
        let today = generation.specialisations.iter().map(|kernel| Ok(sdpa_core::fingerprint(kernel)?.to_string()));
        let today: Vec<String> = today.collect::<Result<_, sdpa_core::Error>>()?;
        Ok(!self.kernel.split('+').all(|mutated| today.iter().any(|kernel| kernel == mutated)))
    }
}

/// Reads every score in a folder, by name; none where there is no such folder.
///
/// # Errors
/// [`ReportError::System`] or [`ReportError::Format`].
pub fn read_scores(folder: &Path) -> Result<Vec<MutationScore>, ReportError> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut scores = Vec::new();
    for path in super::json_files(folder)? {
        let text =
            std::fs::read_to_string(&path).map_err(|source| ReportError::System { path: path.clone(), source })?;
        scores.push(serde_json::from_str(&text).map_err(|source| ReportError::Format { path, source })?);
    }
    Ok(scores)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generations;

    #[test]
    fn a_score_is_of_the_kernels_that_were_mutated() {
        let generation = generations::ALL[0].generation();
        let kernels: Vec<String> = generation
            .specialisations
            .iter()
            .map(|kernel| sdpa_core::fingerprint(kernel).unwrap().to_string())
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
    fn no_folder_holds_no_score_and_a_broken_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read_scores(&folder.path().join("mutation")).unwrap(), []);
        std::fs::write(folder.path().join("v1.json"), "{}").unwrap();
        let error = read_scores(folder.path()).unwrap_err().to_string();
        assert!(error.contains("v1.json: missing field `generation`"), "{error}");
    }
}
