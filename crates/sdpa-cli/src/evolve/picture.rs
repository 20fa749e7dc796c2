//! What a lineage looks like: a tree, a picture, why a candidate is where it is, and several runs side by side.

use std::collections::BTreeMap;

use harness::table::{Align, Table, microseconds};
use sdpa_toolchain::Sources;

use super::insight::insights;
use super::lineage::{Entry, Gain, Lineage, Standing};
use super::run::diff;
use crate::gate::Status;

/// Letters of a rationale that a line shows.
const SHOWN: usize = 60;

/// A candidate's line: its id, what it tried, what became of it.
pub fn headline(entry: &Entry) -> String {
    let first = entry.rationale.lines().next().unwrap_or_default();
    let mut tried: String = first.chars().take(SHOWN).collect();
    if first.chars().count() > SHOWN {
        tried.push('…');
    }
    let fate = match entry.judged.failed() {
        Some(step) => format!("rejected: {}: {}", step.name, step.detail.lines().next().unwrap_or_default()),
        None if entry.standing == Standing::Repeated => entry.judged.device.clone(),
        None => {
            let gains: Vec<String> =
                entry.gains.iter().map(|(niche, gain)| format!("{niche} {}", ratio(gain))).collect();
            format!("{} {}", entry.standing.name(), gains.join(", "))
        }
    };
    format!("{} {tried}: {}", entry.id, fate.trim_end())
}

/// `1.042 ×`, or `1.042 × (a guess)` of what was counted.
fn ratio(gain: &Gain) -> String {
    match gain.guess {
        true => format!("{:.3} × (a guess)", gain.ratio),
        false => format!("{:.3} × ({:.3} to {:.3})", gain.ratio, gain.low, gain.high),
    }
}

/// The tree of a lineage, its winners and its insights.
pub fn tree(lineage: &Lineage) -> String {
    let header = &lineage.header;
    let mut text = format!(
        "{} by {}, guide {}, population {}, seed {}, on {}\n",
        header.generation,
        header.generator,
        serde_json::to_value(header.guide).ok().and_then(|guide| guide.as_str().map(str::to_owned)).unwrap_or_default(),
        header.population,
        header.seed,
        header.device
    );
    for root in lineage.entries.iter().filter(|entry| entry.parents.is_empty()) {
        branch(lineage, root, "", "", &mut text);
    }
    for winner in &lineage.winners {
        let said = match (&winner.gain, winner.verdict) {
            (Some(gain), Some(verdict)) => format!("{}: {verdict}", ratio(gain)),
            _ => winner.judged.failed().map_or_else(String::new, |step| format!("no longer right: {}", step.name)),
        };
        text += &format!("measured again: {} on {}, {said}\n", winner.id, winner.niche);
    }
    for insight in insights(&lineage.entries) {
        let list = |ids: &[String]| if ids.is_empty() { "none".to_owned() } else { ids.join(", ") };
        text += &format!(
            "{} ({}): {}; supported by {}, contradicted by {}\n",
            insight.id,
            insight.from,
            insight.claim.text,
            list(&insight.supported_by),
            list(&insight.contradicted_by)
        );
    }
    text
}

fn branch(lineage: &Lineage, entry: &Entry, first: &str, indent: &str, text: &mut String) {
    *text += &format!("{first}{}\n", headline(entry));
    let children: Vec<&Entry> =
        lineage.entries.iter().filter(|child| child.parents.first() == Some(&entry.id)).collect();
    for (index, child) in children.iter().enumerate() {
        let (turn, bar) = if index + 1 == children.len() { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        branch(lineage, child, &format!("{indent}{turn}"), &format!("{indent}{bar}"), text);
    }
}

/// The tree as a picture: time goes to the right, gain upwards, and what was rejected lies below.
pub fn svg(lineage: &Lineage) -> String {
    const WIDTH: f64 = 900.0;
    const HEIGHT: f64 = 420.0;
    const MARGIN: f64 = 50.0;
    const FLOOR: f64 = HEIGHT - 30.0;
    let entries = &lineage.entries;
    let gains = entries.iter().filter_map(Entry::gain);
    let (least, most) = gains.fold((1.0_f64, 1.0_f64), |(least, most), gain| (least.min(gain), most.max(gain)));
    let (least, most) = (least - 0.01, most + 0.01);
    let x =
        |index: usize| MARGIN + index as f64 * (WIDTH - 2.0 * MARGIN) / entries.len().saturating_sub(1).max(1) as f64;
    let y = |entry: &Entry| match entry.gain() {
        Some(gain) => (FLOOR - 40.0) - (gain - least) / (most - least) * (FLOOR - 40.0 - MARGIN),
        None => FLOOR,
    };
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"{MARGIN}\" y=\"24\">{} by {}: {} candidates; up is better than the first, below the line is rejected</text>\n",
        escaped(&lineage.header.generation),
        escaped(&lineage.header.generator),
        entries.len().saturating_sub(1)
    );
    let line = FLOOR - 20.0;
    text +=
        &format!("<line x1=\"{MARGIN}\" y1=\"{line}\" x2=\"{}\" y2=\"{line}\" stroke=\"#bbbbbb\"/>\n", WIDTH - MARGIN);
    for (index, entry) in entries.iter().enumerate() {
        let parent = entry.parents.first().and_then(|id| entries.iter().position(|other| other.id == *id));
        if let Some(parent) = parent {
            text += &format!(
                "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"#cccccc\"/>\n",
                x(parent),
                y(&entries[parent]),
                x(index),
                y(entry)
            );
        }
    }
    for (index, entry) in entries.iter().enumerate() {
        let colour = match entry.standing {
            Standing::Rejected => "#c0392b",
            Standing::Repeated => "#95a5a6",
            Standing::Faster | Standing::Right => "#27ae60",
            Standing::Same | Standing::Ambiguous => "#2980b9",
            Standing::Slower => "#e67e22",
        };
        text += &format!(
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"5\" fill=\"{colour}\"><title>{}</title></circle>\n<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n",
            x(index),
            y(entry),
            escaped(&headline(entry)),
            x(index),
            y(entry) - 8.0,
            escaped(&entry.id)
        );
    }
    text + "</svg>\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Why a candidate is where it is: what it changed of its parent, what the judge said, and how counts, costs and times moved.
pub fn why(lineage: &Lineage, entry: &Entry, sources: &Sources) -> String {
    let mut text = format!("{}\n", headline(entry));
    let parent = entry.parents.first().and_then(|id| lineage.find(id));
    if let Some(parent) = parent {
        text += &format!("from {}\n", headline(parent));
    }
    if let Some(claim) = &entry.insight {
        text += &format!("claims: {}\n", claim.text);
    }
    for step in &entry.judged.steps {
        let mark = match step.status {
            Status::Passed => "ok",
            Status::Failed => "FAILED",
            Status::NotRun => "not run",
            Status::NotReached => "–",
        };
        let mut lines = step.detail.lines();
        text += &format!("  {:<12} {mark:<8} {}\n", step.name, lines.next().unwrap_or_default());
        if step.status == Status::Failed {
            lines.for_each(|line| text += &format!("      {line}\n"));
            step.look_at.iter().for_each(|look_at| text += &format!("      look at    {look_at}\n"));
        }
    }
    if let Some(parent) = parent {
        let before = &parent.genome.defines;
        for (name, value) in &entry.genome.defines {
            if before.get(name) != Some(value) {
                let was = before.get(name).map_or("the table's", String::as_str);
                text += &format!("{name}: {was} → {value}\n");
            }
        }
        for name in before.keys().filter(|name| !entry.genome.defines.contains_key(*name)) {
            text += &format!("{name}: {} → the table's\n", before[name]);
        }
        text += &diff(&parent.genome, &entry.genome, sources);
        text += &counts(parent, entry);
        text += &costs(parent, entry);
        text += &times(entry);
    }
    text
}

/// Figures that moved, of all niches together.
fn counts(parent: &Entry, entry: &Entry) -> String {
    use Align::{Left, Right};
    let figures = |entry: &Entry| -> BTreeMap<String, u64> {
        let names = entry.judged.counters.values().flat_map(BTreeMap::keys).cloned();
        names.filter_map(|name| Some((name.clone(), entry.count(&name)?))).collect()
    };
    let (before, now) = (figures(parent), figures(entry));
    if before.is_empty() || now.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&[("count", Left), ("parent", Right), (leak(&entry.id), Right), ("change", Right)]);
    let mut names: Vec<&String> = before.keys().chain(now.keys()).collect();
    names.sort();
    names.dedup();
    let mut moved = 0;
    for name in names {
        let (old, new) = (before.get(name).copied().unwrap_or(0), now.get(name).copied().unwrap_or(0));
        if old != new {
            moved += 1;
            let change =
                if old == 0 { "new".to_owned() } else { format!("{:+.1} %", (new as f64 / old as f64 - 1.0) * 100.0) };
            table.push(vec![name.as_str().into(), old.to_string().into(), new.to_string().into(), change.into()]);
        }
    }
    if moved == 0 { "every count is its parent's\n".to_owned() } else { table.render() }
}

/// A column's name for as long as the program runs.
fn leak(text: &str) -> &'static str {
    Box::leak(text.to_owned().into_boxed_str())
}

/// Registers, shared memory and spills that moved.
fn costs(parent: &Entry, entry: &Entry) -> String {
    let kernel = |name: &str| name.split('+').next().unwrap_or(name).to_owned();
    let mut text = String::new();
    for cost in &entry.judged.costs {
        let other = parent
            .judged
            .costs
            .iter()
            .find(|other| kernel(&other.kernel) == kernel(&cost.kernel) && other.architecture == cost.architecture);
        let Some(before) = other else { continue };
        let moved = [
            ("registers", before.registers, cost.registers),
            ("spill bytes", before.spill_bytes, cost.spill_bytes),
            ("bytes of shared memory", before.shared_bytes(), cost.shared_bytes()),
            ("blocks a multiprocessor", before.blocks_per_multiprocessor, cost.blocks_per_multiprocessor),
        ];
        let moved: Vec<String> = moved
            .iter()
            .filter(|(_, before, now)| before != now)
            .map(|(what, before, now)| format!("{what} {before} → {now}"))
            .collect();
        if !moved.is_empty() {
            text += &format!("{} {}: {}\n", kernel(&cost.kernel), cost.architecture, moved.join(", "));
        }
    }
    text
}

/// Times in turns with the parent.
fn times(entry: &Entry) -> String {
    let mut text = String::new();
    for (niche, times) in &entry.judged.times {
        text += &format!(
            "{niche}: {} µs, its parent {} µs in the same turns: {}; the first {} µs; not believed below {} µs\n",
            microseconds(times.own.median_us),
            microseconds(times.parent.median_us),
            times.verdict,
            microseconds(times.first.median_us),
            microseconds(times.floor_us)
        );
    }
    text
}

/// Several runs side by side: how good the best was after so many candidates.
pub fn compared(lineages: &[Lineage]) -> String {
    use Align::{Left, Right};
    const AFTER: [usize; 5] = [5, 10, 20, 40, 80];
    let longest = lineages.iter().map(|lineage| lineage.entries.len().saturating_sub(1)).max().unwrap_or(0);
    let after: Vec<usize> = AFTER.into_iter().filter(|count| *count <= longest).collect();
    let mut columns: Vec<(&'static str, Align)> =
        vec![("generator", Left), ("population", Left), ("candidates", Right), ("right", Right)];
    columns.extend(after.iter().map(|count| (leak(&format!("best of {count}")), Right)));
    columns.extend([("best", Right), ("which", Left)]);
    let mut table = Table::new(&columns);
    for lineage in lineages {
        let others = lineage.entries.get(1..).unwrap_or_default();
        // What is ahead by chance does not count: of a GPU's figures only those of whom the verdict said so.
        let counts = |entry: &&Entry| matches!(entry.standing, Standing::Right | Standing::Faster);
        let best = |count: usize| {
            let some = others.iter().take(count).filter(counts);
            let gains = some.filter_map(|entry| Some((entry.gain()?, &entry.id)));
            gains.fold((1.0, None), |(best, who), (gain, id)| if gain > best { (gain, Some(id)) } else { (best, who) })
        };
        let right = others.iter().filter(|entry| entry.standing.is_right()).count();
        let mut row = vec![
            lineage.header.generator.as_str().into(),
            lineage.header.population.to_string().into(),
            others.len().to_string().into(),
            right.to_string().into(),
        ];
        row.extend(after.iter().map(|count| match *count <= others.len() {
            true => format!("{:.3} ×", best(*count).0).into(),
            false => "–".into(),
        }));
        let (gain, who) = best(usize::MAX);
        row.push(format!("{gain:.3} ×").into());
        row.push(who.map_or("the first", String::as_str).into());
        table.push(row);
    }
    let guess = lineages
        .iter()
        .flat_map(|lineage| &lineage.entries)
        .flat_map(|entry| entry.gains.values())
        .any(|gain| gain.guess);
    let note = if guess { "by instructions: a guess, nothing was timed\n" } else { "" };
    table.render() + note
}

#[cfg(test)]
mod tests {
    use super::super::lineage::tests::{entry, header};
    use super::*;

    fn lineage() -> Lineage {
        let folder = tempfile::tempdir().unwrap();
        let mut lineage = Lineage::open(&folder.path().join("run"), header()).unwrap();
        for (id, parent, count) in [
            ("c0", None, Some(100)),
            ("c1", Some("c0"), Some(80)),
            ("c2", Some("c0"), None),
            ("c3", Some("c1"), Some(70)),
        ] {
            lineage.push(entry(id, parent, count)).unwrap();
        }
        lineage
    }

    #[test]
    fn a_tree_is_drawn() {
        insta::assert_snapshot!(tree(&lineage()), @r"
        v2d by numbers, guide full, population best, seed 1, on PTX interpreter
        c0 idea of c0: right short 1.000 × (a guess)
        ├─ c1 idea of c1: right short 1.250 × (a guess)
        │  └─ c3 idea of c3: right short 1.429 × (a guess)
        └─ c2 idea of c2: rejected: right: wrong result
        ");
        let picture = svg(&lineage());
        assert_eq!(picture.matches("<circle").count(), 4);
        assert!(picture.contains("<title>c3 idea of c3: right"), "{picture}");
    }

    #[test]
    fn why_shows_what_changed_and_what_moved() {
        let lineage = lineage();
        insta::assert_snapshot!(why(&lineage, lineage.find("c3").unwrap(), &Sources::default()), @r"
        c3 idea of c3: right short 1.429 × (a guess)
        from c1 idea of c1: right short 1.250 × (a guess)
        TILE_KEYS: c1 → c3
        count              parent  c3   change
        warp instructions      80  70  -12.5 %
        ");
        let said = why(&lineage, lineage.find("c2").unwrap(), &Sources::default());
        assert!(said.contains("  right        FAILED   wrong result\n      look at    the mask\n"), "{said}");
    }

    #[test]
    fn runs_are_compared_at_the_same_budget() {
        let (one, mut other) = (lineage(), lineage());
        other.header.generator = "random".to_owned();
        other.entries.truncate(2);
        insta::assert_snapshot!(compared(&[one, other]), @r"
        generator  population  candidates  right     best  which
        numbers    best                 3      2  1.429 ×  c3
        random     best                 1      1  1.250 ×  c1
        by instructions: a guess, nothing was timed
        ");
    }
}
