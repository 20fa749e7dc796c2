//! `docs/peers.md`: every problem that peers were timed on, and the fastest of ours beside the fastest of them.

use sdpa_core::Problem;

use super::table::{NOTHING, circumstances, line, tflops, time};
use super::{Entry, Evidence, EvidenceRecord, Pick};
use harness::acceptance::shape_of;

/// The page's name.
pub const FILE: &str = "peers.md";

/// How ours stand beside the peers over all problems of a record.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Standing {
    /// Problems that both sides have a figure of.
    pub problems: usize,
    /// On how many of them ours is the faster.
    pub ahead: usize,
    /// Geometric mean of the fastest peer's time by ours.
    pub mean: f64,
    /// The least of these ratios.
    pub least: f64,
    /// True where a kernel of ours has changed since.
    pub stale: bool,
}

/// Whose figures are ours: a contender by name, or the fastest generation of each problem.
#[derive(Clone, Copy, Debug)]
pub enum Ours<'a> {
    /// The fastest of each problem.
    Fastest,
    /// One generation wherever it has a figure.
    Generation(&'a str),
}

impl Standing {
    /// None where no problem has figures of both sides.
    pub fn of(record: &EvidenceRecord, ours: Ours<'_>) -> Option<Self> {
        let pairs: Vec<(&Entry, &Entry)> =
            problems(record).iter().filter_map(|problem| pair(record, problem, ours)).collect();
        let ratios: Vec<f64> = pairs.iter().map(|(own, peer)| peer.figure.median_us / own.figure.median_us).collect();
        if ratios.is_empty() {
            return None;
        }
        Some(Self {
            problems: ratios.len(),
            ahead: ratios.iter().filter(|ratio| **ratio > 1.0).count(),
            mean: (ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64).exp(),
            least: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            stale: pairs.iter().any(|(own, _)| own.stale),
        })
    }
}

impl std::fmt::Display for Standing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { problems, ahead, mean, least, stale } = self;
        write!(f, "geometric mean {mean:.3} × over {problems} problems, ahead in {ahead}, at least {least:.3} ×")?;
        f.write_str(if *stale { " (stale)" } else { "" })
    }
}

/// A line for each record that has peers, for the README.
pub fn summary(evidence: &Evidence) -> String {
    let mut text = String::new();
    for record in &evidence.records {
        if let Some(standing) = Standing::of(record, Ours::Fastest) {
            text += &format!("- `{}`: {standing}.\n", record.file);
        }
    }
    match text.is_empty() {
        true => text,
        false => format!(
            "The fastest of ours against the fastest peer of each problem, both in the same run ([all of them](docs/{FILE})):\n\n{text}"
        ),
    }
}

/// The page, in Markdown.
pub fn render(evidence: &Evidence) -> String {
    let mut text =
        "# Beside the peers\n\nWritten by `sdpa report` from `results/`; edits are lost. Times are medians in \
                    µs; × is the fastest peer's time by that of the fastest of ours, both of the same run, and above 1 \
                    ours is the faster. Shapes are (batch, query heads/key heads, queries×keys, head dimension).\n"
            .to_owned();
    for record in &evidence.records {
        let Some(standing) = Standing::of(record, Ours::Fastest) else { continue };
        text += &format!("\n## {}\n\n{}.\n\n- The fastest of ours: {standing}.\n", record.file, circumstances(record));
        for rung in evidence.rungs.iter().rev() {
            if let Some(standing) = Standing::of(record, Ours::Generation(&rung.id)) {
                text += &format!("- {} alone: {standing}.\n", rung.id);
            }
        }
        text += &format!("\n{}", rows(record));
    }
    text
}

fn rows(record: &EvidenceRecord) -> String {
    let peers = record.peers();
    let mut titles = ["problem", "mask", "dtype", "ours", "µs", "TFLOP/s"].map(str::to_owned).to_vec();
    titles.extend(peers.iter().map(|peer| (*peer).to_owned()));
    titles.push("×".to_owned());
    let rules = (0..titles.len()).map(|column| if column < 4 { "---" } else { "---:" }.to_owned());
    let mut text = line(&titles) + &line(&rules.collect::<Vec<_>>());
    for problem in problems(record) {
        let own = fastest(record, &problem, Ours::Fastest);
        let mut row = vec![
            shape_of(&problem),
            problem.mask().name().to_owned(),
            problem.dtype().to_string(),
            own.map_or(NOTHING.to_owned(), |entry| entry.figure.contender.clone()),
            time(pick(record, own)),
            tflops(pick(record, own), &problem),
        ];
        row.extend(peers.iter().map(|peer| time(pick(record, record.of(peer, &problem)))));
        row.push(match pair(record, &problem, Ours::Fastest) {
            Some((own, peer)) => format!("{:.3}", peer.figure.median_us / own.figure.median_us),
            None => NOTHING.to_owned(),
        });
        text += &line(&row);
    }
    text
}

fn pick<'s>(record: &'s EvidenceRecord, entry: Option<&'s Entry>) -> Option<Pick<'s>> {
    entry.map(|entry| Pick { record, entry })
}

/// In the order in which they were measured.
fn problems(record: &EvidenceRecord) -> Vec<Problem> {
    let mut problems: Vec<Problem> = Vec::new();
    for problem in record.entries.iter().filter_map(|entry| entry.figure.problem()) {
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }
    problems
}

fn fastest<'s>(record: &'s EvidenceRecord, problem: &Problem, ours: Ours<'_>) -> Option<&'s Entry> {
    record.fastest(problem, |entry| match ours {
        Ours::Fastest => !entry.peer,
        Ours::Generation(id) => !entry.peer && entry.figure.contender == id,
    })
}

fn pair<'s>(record: &'s EvidenceRecord, problem: &Problem, ours: Ours<'_>) -> Option<(&'s Entry, &'s Entry)> {
    Some((fastest(record, problem, ours)?, record.best_peer(problem)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::mission;
    use crate::report::table::tests::evidence;
    use crate::report::tests::{entry, record};
    use sdpa_core::{Dtype, Mask};

    #[test]
    fn ours_stand_beside_the_fastest_peer_of_the_same_record() {
        let long = crate::timing::Shape::square([2, 8, 2048, 64]).problem(Dtype::F16, Mask::Causal).unwrap();
        let entries = vec![
            entry("v7", &mission(), 9.0),
            entry("v8", &mission(), 4.0),
            entry("v8", &long, 60.0),
            entry("flash", &mission(), 9.0),
            entry("cudnn", &mission(), 8.0),
            entry("cudnn", &long, 30.0),
        ];
        let mut evidence = evidence();
        evidence.records = vec![
            record("a.json", entries),
            // Without a peer there is nothing to stand beside.
            record("b.json", vec![entry("v7", &mission(), 1.0)]),
        ];
        let standing = Standing::of(&evidence.records[0], Ours::Fastest).unwrap();
        assert_eq!((standing.problems, standing.ahead, standing.least), (2, 1, 0.5));
        assert!((standing.mean - 1.0).abs() < 1e-12, "the mean of 2 and 1/2 is {}", standing.mean);
        assert_eq!(Standing::of(&evidence.records[0], Ours::Generation("v7")).unwrap().problems, 1);
        assert_eq!(Standing::of(&evidence.records[1], Ours::Fastest), None);
        insta::assert_snapshot!(summary(&evidence), @r"
        The fastest of ours against the fastest peer of each problem, both in the same run ([all of them](docs/peers.md)):

        - `a.json`: geometric mean 1.000 × over 2 problems, ahead in 1, at least 0.500 ×.
        ");
        insta::assert_snapshot!(render(&evidence), @r"
        # Beside the peers

        Written by `sdpa report` from `results/`; edits are lost. Times are medians in µs; × is the fastest peer's time by that of the fastest of ours, both of the same run, and above 1 ours is the faster. Shapes are (batch, query heads/key heads, queries×keys, head dimension).

        ## a.json

        it does not say under what circumstances.

        - The fastest of ours: geometric mean 1.000 × over 2 problems, ahead in 1, at least 0.500 ×.
        - v8 alone: geometric mean 1.000 × over 2 problems, ahead in 1, at least 0.500 ×.
        - v7 alone: geometric mean 0.889 × over 1 problems, ahead in 0, at least 0.889 ×.

        | problem | mask | dtype | ours | µs | TFLOP/s | flash | cudnn | × |
        | --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: |
        | (1,8,512,64) | full | f16 | v8 | 4.00 | 134 | 9.00 | 8.00 | 2.000 |
        | (2,8,2048,64) | causal | f16 | v8 | 60.0 | 143 | – | 30.0 | 0.500 |
        ");
    }

    #[test]
    fn a_kernel_that_has_changed_since_marks_the_standing() {
        let mut entries = vec![entry("v7", &mission(), 9.0), entry("cudnn", &mission(), 9.0)];
        entries[0].stale = true;
        let standing = Standing::of(&record("a.json", entries), Ours::Fastest).unwrap();
        assert_eq!(
            standing.to_string(),
            "geometric mean 1.000 × over 1 problems, ahead in 0, at least 1.000 × (stale)"
        );
    }
}
