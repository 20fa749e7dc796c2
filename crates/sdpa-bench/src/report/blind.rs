//! The page of what the harness sees of each generation: places that its trials reach, and changes that it notices.

use std::fmt::Write as _;
use std::path::Path;

use sdpa_core::{Attention, Generation};
use serde::Deserialize;

use super::{MutationScore, ReportError};

/// The page's name in the folder of documents.
pub const FILE: &str = "harness.md";

/// What `sdpa coverage ID --record` left of a generation.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct CoverageScore {
    /// Whose.
    pub generation: String,
    /// Its kernels.
    pub kernels: Vec<KernelScore>,
    /// Features of its plans.
    pub plans: Vec<PlanScore>,
}

/// How much of one kernel the trials reach.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct KernelScore {
    /// What it was made of.
    pub fingerprint: String,
    /// Places of the source, and directions of their conditions.
    pub places: usize,
    /// Those that a trial reaches.
    pub reached: usize,
    /// Those that a comment says nothing can reach.
    pub explained: usize,
}

/// A feature that plans can have.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PlanScore {
    /// Whether a trial's plan has it.
    pub seen: bool,
}

/// Reads every record of coverage in a folder, by name; none where there is no such folder.
///
/// # Errors
/// [`ReportError::System`] or [`ReportError::Format`].
pub fn read_coverage(folder: &Path) -> Result<Vec<CoverageScore>, ReportError> {
    super::read_folder(folder)
}

/// The page, in the order of the generations.
///
/// # Errors
/// [`sdpa_core::Error`] if a pack does not read.
pub fn render(
    generations: &[&'static dyn Attention],
    mutation: &[MutationScore],
    coverage: &[CoverageScore],
) -> Result<String, sdpa_core::Error> {
    let mut text = "# What the harness sees\n\nWritten by `sdpa report` from `results/coverage` and `results/mutation`. \
                    *Reached*: lines and directions of conditions of all kernels that a trial of `sdpa check` executes; \
                    *explained*: those that a comment beside the line says nothing can reach. *Noticed*: changes to one \
                    statement of a kernel, drawn by a seed, that a trial fails for, of those that change something. \
                    (stale): the kernel has changed since.\n\n\
                    | id | reached | explained | features of plans | noticed | change nothing | seed |\n\
                    | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        .to_owned();
    for generation in generations {
        let who = generation.generation();
        let covered = coverage.iter().find(|score| score.generation == who.id);
        let mutated = mutation.iter().find(|score| score.generation == who.id);
        let [reached, explained, features] = match covered {
            Some(score) => cells_of_coverage(score, who)?,
            None => ["–", "–", "–"].map(str::to_owned),
        };
        let [noticed, nothing, seed] = match mutated {
            Some(score) => cells_of_mutation(score, who)?,
            None => ["–", "–", "–"].map(str::to_owned),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| **{}** | {reached} | {explained} | {features} | {noticed} | {nothing} | {seed} |",
            who.id
        );
    }
    Ok(text)
}

fn cells_of_coverage(score: &CoverageScore, who: &Generation) -> Result<[String; 3], sdpa_core::Error> {
    let sum = |figure: fn(&KernelScore) -> usize| score.kernels.iter().map(figure).sum::<usize>();
    let (reached, places) = (sum(|kernel| kernel.reached), sum(|kernel| kernel.places));
    let prints: Vec<&str> = score.kernels.iter().map(|kernel| kernel.fingerprint.as_str()).collect();
    let stale = if super::scores::are_stale(&prints, who)? { " (stale)" } else { "" };
    let seen = score.plans.iter().filter(|feature| feature.seen).count();
    Ok([
        format!("{reached}/{places}, {}{stale}", percent(reached, places)),
        sum(|kernel| kernel.explained).to_string(),
        format!("{seen}/{}", score.plans.len()),
    ])
}

fn cells_of_mutation(score: &MutationScore, who: &Generation) -> Result<[String; 3], sdpa_core::Error> {
    let stale = if score.is_stale(who)? { " (stale)" } else { "" };
    Ok([
        format!("{}/{}, {}{stale}", score.killed, score.total, percent(score.killed, score.total)),
        score.equivalent.map_or("–".to_owned(), |count| count.to_string()),
        score.seed.map_or("–".to_owned(), |seed| seed.to_string()),
    ])
}

fn percent(part: usize, of: usize) -> String {
    format!("{:.1} %", 100.0 * part as f64 / of.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sdpa::generations;

    #[test]
    fn a_generation_without_a_record_has_dashes_and_others_their_figures() {
        let (one, other) = (generations::ALL[0], generations::ALL[1]);
        let kernel = KernelScore { fingerprint: "c0ffee".into(), places: 200, reached: 199, explained: 1 };
        let id = one.generation().id.to_owned();
        let covered =
            CoverageScore { generation: id.clone(), kernels: vec![kernel], plans: vec![PlanScore { seen: true }] };
        let json = format!(
            r#"{{ "generation": "{id}", "killed": 97, "total": 100, "equivalent": 3, "seed": 5, "kernel": "c0ffee" }}"#
        );
        let mutated: MutationScore = serde_json::from_str(&json).unwrap();
        let text = render(&[one, other], &[mutated], &[covered]).unwrap();
        let lines: Vec<&str> = text.lines().skip_while(|line| !line.starts_with("| **")).collect();
        assert_eq!(
            lines[0],
            format!("| **{id}** | 199/200, 99.5 % (stale) | 1 | 1/1 | 97/100, 97.0 % (stale) | 3 | 5 |")
        );
        assert_eq!(lines[1], format!("| **{}** | – | – | – | – | – | – |", other.generation().id));
    }
}
