//! `docs/peers.md`: every problem that peers were timed on, and the fastest of ours beside the fastest of them.

use super::standing::Standing;
use super::table::{NOTHING, circumstances, line, tflops, time, title_of};
use super::{Entry, Evidence, EvidenceRecord, Pick};
use harness::acceptance::shape_of;

/// The page's name.
pub const FILE: &str = "peers.md";

/// The page, in Markdown.
pub fn render(evidence: &Evidence) -> String {
    let mut text =
        "# Beside the peers\n\nWritten by `sdpa report` from `results/`; edits are lost. Times are medians in \
                    µs; × is the fastest peer's time by that of the fastest of ours, both of the same run, and above 1 \
                    ours is the faster. Shapes are (batch, query heads/key heads, queries×keys, head dimension). –: not \
                    timed. (stale): the kernel has changed since.\n"
            .to_owned();
    let names: Vec<String> =
        evidence.peers(|_| true).iter().map(|peer| format!("{peer} is {}", title_of(peer))).collect();
    text += &format!(
        "\nPeers: {}. How they are timed, and what the verdicts mean: [benchmarking.md](benchmarking.md).\n",
        names.join(", ")
    );
    for record in &evidence.records {
        let Some(standing) = Standing::of_ours(record) else { continue };
        text += &format!("\n## {}\n\n{}.\n\n- The fastest of ours: {standing}.\n", record.file, circumstances(record));
        for rung in evidence.rungs.iter().rev() {
            if let Some(standing) = Standing::of_generation(record, &rung.id) {
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
    for problem in record.problems() {
        let own = record.fastest_of_ours(&problem);
        let mut row = vec![
            shape_of(&problem),
            problem.mask().name().to_owned(),
            problem.dtype().to_string(),
            own.map_or(NOTHING.to_owned(), |entry| entry.figure.contender.clone()),
            time(pick(record, own)),
            tflops(pick(record, own), &problem),
        ];
        row.extend(peers.iter().map(|peer| time(pick(record, record.of(peer, &problem)))));
        row.push(match own.zip(record.best_peer(&problem)) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::mission;
    use crate::report::table::tests::evidence;
    use crate::report::tests::{entry, record};
    use sdpa_core::{Dtype, Mask};

    #[test]
    fn every_problem_has_a_row_and_every_generation_a_line() {
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
        insta::assert_snapshot!(render(&evidence), @r"
        # Beside the peers

        Written by `sdpa report` from `results/`; edits are lost. Times are medians in µs; × is the fastest peer's time by that of the fastest of ours, both of the same run, and above 1 ours is the faster. Shapes are (batch, query heads/key heads, queries×keys, head dimension). –: not timed. (stale): the kernel has changed since.

        Peers: flash is FlashAttention-2, cudnn is cuDNN. How they are timed, and what the verdicts mean: [benchmarking.md](benchmarking.md).

        ## a.json

        it does not say under what circumstances.

        - The fastest of ours: faster on 1, ambiguous on 0, slower on 1; geometric mean 1.000 ×, least 0.500 ×.
        - v8 alone: faster on 1, ambiguous on 0, slower on 1; geometric mean 1.000 ×, least 0.500 ×.
        - v7 alone: faster on 0, ambiguous on 0, slower on 1; geometric mean 0.889 ×, least 0.889 ×.

        | problem | mask | dtype | ours | µs | TFLOP/s | flash | cudnn | × |
        | --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: |
        | (1,8,512,64) | full | f16 | v8 | 4.00 | 134 | 9.00 | 8.00 | 2.000 |
        | (2,8,2048,64) | causal | f16 | v8 | 60.0 | 143 | – | 30.0 | 0.500 |
        ");
    }
}
