//! `docs/ragged.md`: packed sequences, windows, soft caps and sinks, every contender of every sitting.

use harness::acceptance::shape_of;
use sdpa_core::Attention;

use super::peers::absences;
use super::table::{NOTHING, circumstances, line, starred, title_of};
use super::{EvidenceSitting, ReportError, kernel_today, limits_of};
use crate::timing::{Figure, Record, Regime, Sittings};
use harness::table::microseconds;

/// The page's name.
pub const FILE: &str = "ragged.md";

/// The page, in Markdown; `None` where no record has a problem beyond dense attention.
///
/// # Errors
/// [`ReportError`] where a generation's packed PTX cannot be read.
pub fn render(generations: &[&dyn Attention], records: &[(String, Sittings)]) -> Result<Option<String>, ReportError> {
    let mut text = "# Packed sequences, windows, soft caps, sinks\n\nWritten by `sdpa report` from `results/`; edits are \
                    lost. Times are medians in µs, of short turns; × is the fastest peer's time by that of the fastest of \
                    ours, of the same run, and above 1 ours is the faster. Shapes are (batch, query heads/key heads, \
                    queries×keys, head dimension); of packed sequences queries and keys are those of all together, and \
                    `packed=` says how many there are and how long the longest. \\*: the kernel has changed since. How \
                    they are timed, and what the verdicts mean: [benchmarking.md](benchmarking.md).\n"
        .to_owned();
    let empty = text.len();
    for (file, record) in records {
        for (index, sitting) in record.sittings.iter().enumerate() {
            let figures: Vec<&Figure> = sitting
                .figures
                .iter()
                .filter(|figure| figure.extensions.is_some() && figure.regime == Regime::Short)
                .collect();
            if !figures.is_empty() {
                text += &format!("\n## {file}, sitting {}\n\n", index + 1);
                section(&mut text, generations, sitting, &figures)?;
            }
        }
    }
    Ok((text.len() > empty).then_some(text))
}

fn section(
    text: &mut String,
    generations: &[&dyn Attention],
    sitting: &Record,
    figures: &[&Figure],
) -> Result<(), ReportError> {
    let mut contenders: Vec<&str> = Vec::new();
    for figure in figures {
        if !contenders.contains(&figure.contender.as_str()) {
            contenders.push(&figure.contender);
        }
    }
    let is_ours = |name: &str| generations.iter().any(|generation| generation.generation().id == name);
    let (ours, peers): (Vec<&str>, Vec<&str>) = contenders.into_iter().partition(|name| is_ours(name));
    let environment = EvidenceSitting { environment: sitting.environment.clone(), ..EvidenceSitting::default() };
    *text += &format!("{}.\n\n", circumstances(&environment, &peers));
    let named: Vec<String> = peers.iter().map(|peer| format!("{peer} is {}", title_of(peer))).collect();
    if !named.is_empty() {
        *text += &format!("Peers: {}.\n\n", named.join(", "));
    }

    let mut titles = ["problem", "mask", "with"].map(str::to_owned).to_vec();
    titles.extend(ours.iter().chain(&peers).map(|name| (*name).to_owned()));
    titles.extend(["×", "verdict"].map(str::to_owned));
    let rules = (0..titles.len()).map(|column| if column < 3 { "---" } else { "---:" }.to_owned());
    *text += &(line(&titles) + &line(&rules.collect::<Vec<_>>()));
    let limits = limits_of(&sitting.device);
    let mut seen: Vec<&Figure> = Vec::new();
    for first in figures {
        if seen.iter().any(|known| known.is_beside(first)) {
            continue;
        }
        seen.push(first);
        let Some(problem) = first.problem() else { continue };
        let of =
            |name: &&str| figures.iter().find(|figure| figure.is_beside(first) && figure.contender == **name).copied();
        let fastest = ours.iter().filter_map(of).min_by(|a, b| a.median_us.total_cmp(&b.median_us));
        let words = first.extensions.as_deref().unwrap_or_default().split_whitespace();
        let words: Vec<&str> = words.filter(|word| !word.starts_with("lengths=")).collect();
        let mut row = vec![shape_of(&problem), problem.mask().name().to_owned(), words.join(" ")];
        for name in ours.iter().chain(&peers) {
            let Some(figure) = of(name) else {
                row.push(NOTHING.to_owned());
                continue;
            };
            let generation = generations.iter().find(|generation| generation.generation().id == *name);
            let today = match (generation, &limits) {
                (Some(generation), Some(limits)) => kernel_today(*generation, figure, limits)?,
                _ => figure.kernel.clone(),
            };
            let bold = if fastest.is_some_and(|fastest| std::ptr::eq(fastest, figure)) { "**" } else { "" };
            let time = format!("{bold}{}{bold}", microseconds(figure.median_us));
            row.push(starred(time, today != figure.kernel));
        }
        let beside = fastest.and_then(|fastest| fastest.best_peer.as_ref());
        row.push(beside.map_or(NOTHING.to_owned(), |beside| format!("{:.2}", beside.speedup)));
        row.push(beside.map_or(NOTHING.to_owned(), |beside| beside.verdict.to_string()));
        *text += &line(&row);
    }

    let absent = absences(sitting.absent.iter().filter(|absent| !is_ours(&absent.contender)));
    if !absent.is_empty() {
        *text += &format!("\n{absent}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::DEVICE;
    use crate::timing::{Comparison, Timing, Verdict};
    use sdpa_core::{Packing, Problem};

    #[test]
    fn problems_beyond_dense_attention_have_a_row_with_every_contender() {
        let packing = Packing { sequences: 2, longest_q: 30, longest_kv: 30 };
        let packed = Problem::packed(packing, 4, 40, 64).build().unwrap();
        let dense = Problem::new(1, 4, 40, 64).build().unwrap();
        let figure = |name: &str, problem: &Problem, us: f64, kernel: Option<&str>| Figure {
            kernel: kernel.map(str::to_owned),
            ..Figure::new(name, problem, &Timing::new(vec![us]))
        };
        let comparison = Comparison { with: "fa3".to_owned(), speedup: 2.25, verdict: Verdict::Faster };
        let ours = Figure { best_peer: Some(comparison), ..figure("v2i", &packed, 4.0, Some("c0ffee")) };
        let record = Record {
            device: DEVICE.to_owned(),
            figures: vec![
                figure("v2i", &dense, 1.0, Some("c0ffee")),
                ours,
                figure("v3f", &packed, 5.0, Some("c0ffee")),
                figure("fa3", &packed, 9.0, None),
            ],
            ..Record::default()
        };
        let records = [("a.json".to_owned(), Sittings { sittings: vec![record] })];
        let page = render(sdpa::generations::ALL, &records).unwrap().unwrap();
        insta::assert_snapshot!(page.split_once("\n## ").unwrap().1, @r"
        a.json, sitting 1

        it does not say under what circumstances.

        Peers: fa3 is FlashAttention-3.

        | problem | mask | with | v2i | v3f | fa3 | × | verdict |
        | --- | --- | --- | ---: | ---: | ---: | ---: | ---: |
        | (1,4,40,64) | full | packed=2,30,30 | **4.00**\* | 5.00\* | 9.00 | 2.25 | faster |
        ");
        let dense_alone = Record { figures: vec![figure("v2i", &dense, 1.0, None)], ..Record::default() };
        let records = [("a.json".to_owned(), Sittings { sittings: vec![dense_alone] })];
        assert_eq!(render(sdpa::generations::ALL, &records).unwrap(), None);
    }
}
