//! What generations execute for a problem, as the interpreter counts it: exact, and the same on every machine.

use std::collections::BTreeMap;

use sdpa_core::{Attention, Counters, Device as _};
use sdpa_toolchain::KernelTexts;
use serde::Serialize;

use crate::case::Case;
use crate::execute::{RunError, Surroundings, execute};
use crate::needs::case_as_needed;
use crate::table::{Align, Cell, Table};

/// What is counted by default: three tiles of 64 keys and a ragged fourth, two heads; and one
/// query a head over more keys.
pub const CASES: [&str; 3] = [
    "h2 L193 d64 f16 full normal seed=0",
    "h2 L193 d64 f16 causal normal seed=0",
    "h8/2 q1 kv700 d64 f16 causal normal seed=0",
];

/// What one generation executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Which generation.
    pub generation: &'static str,
    /// Its counts.
    pub counters: Counters,
}

/// Runs a case once, with the kernels of `texts`, and hands over what was counted.
///
/// # Errors
/// [`RunError`]: where the generation declines the case, or the interpreter finds something.
pub fn count(generation: &dyn Attention, case: &Case, texts: &KernelTexts) -> Result<Counted, RunError> {
    let device = texts.interpreter();
    device.set_schedule(case.schedule);
    let case = case_as_needed(generation, case);
    execute(&device, generation, &case.problem, &case.data(), Surroundings::Exact)?;
    let counters = device.take_reports().counters;
    Ok(Counted { generation: generation.generation().id, counters })
}

/// One figure of [`figures`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Figure {
    /// What is counted.
    pub name: String,
    /// How many.
    pub count: u64,
}

/// Every figure, in the order of the table. Instructions are those that warps issue; classes that are not used have
/// no figure.
pub fn figures(counters: &Counters) -> Vec<Figure> {
    let mut figures = Vec::new();
    let mut figure = |name: &str, count: u64| figures.push(Figure { name: name.to_owned(), count });
    figure("blocks", counters.blocks);
    figure(INSTRUCTIONS, counters.total_warp_instructions());
    let classes: BTreeMap<String, u64> =
        counters.warp_instructions.iter().map(|(class, count)| (words(&format!("{class:?}")), *count)).collect();
    for (class, count) in classes {
        figure(&format!("  {class}"), count);
    }
    figure("global bytes loaded", counters.global_load_bytes);
    figure("global bytes copied asynchronously", counters.async_copy_bytes + counters.bulk_copy_bytes);
    figure("global bytes stored", counters.global_store_bytes);
    figure("global sectors loaded", counters.global_load_sectors);
    figure("global sectors stored", counters.global_store_sectors);
    figure("shared bytes loaded", counters.shared_load_bytes);
    figure("shared bytes stored", counters.shared_store_bytes);
    figure("shared wavefronts", counters.shared_wavefronts);
    figure("  ideal", counters.shared_ideal_wavefronts);
    figure("  bank conflicts", counters.bank_conflicts());
    figure("tensor-core operations", counters.tensor_flops);
    figure("tensor-core instructions", counters.tensor_instructions);
    figure("block barriers", counters.block_barriers);
    figure("warp barriers", counters.warp_barriers);
    figure("cluster barriers", counters.cluster_barriers);
    figure("mbarrier arrivals", counters.mbarrier_arrivals);
    figure("shuffles", counters.shuffles);
    figure("atomics", counters.atomics);
    figure("bulk copies", counters.bulk_copies);
    figures
}

/// The name of the figure that counts all instructions that warps issue.
pub const INSTRUCTIONS: &str = "warp instructions";

/// One column per generation, one row per figure; rows without any count are left out.
pub fn render(counted: &[Counted]) -> String {
    let columns = counted.iter().map(|counted| (counted.generation, Align::Right));
    let columns: Vec<(&'static str, Align)> = std::iter::once(("", Align::Left)).chain(columns).collect();
    let mut table = Table::new(&columns);
    let figures: Vec<Vec<Figure>> = counted.iter().map(|counted| figures(&counted.counters)).collect();
    for name in names(&figures) {
        let counts: Vec<u64> = figures.iter().map(|figures| count_of(figures, &name)).collect();
        if counts.iter().any(|count| *count > 0) {
            let cells = counts.into_iter().map(|count| Cell::from(grouped(count)));
            table.push(std::iter::once(Cell::from(name.as_str())).chain(cells).collect());
        }
    }
    table.render()
}

/// The names of all figures: instructions of every class that one of them uses, among them.
fn names(figures: &[Vec<Figure>]) -> Vec<String> {
    let is_class = |name: &&Figure, after: &Figure| after.name == INSTRUCTIONS && name.name.starts_with("  ");
    let mut classes: Vec<&str> = Vec::new();
    for figures in figures {
        let total = figures.iter().skip_while(|figure| figure.name != INSTRUCTIONS);
        let Some(first) = total.clone().next() else { continue };
        classes.extend(total.skip(1).take_while(|figure| is_class(figure, first)).map(|figure| figure.name.as_str()));
    }
    classes.sort_unstable();
    classes.dedup();
    let mut names = Vec::new();
    let Some(longest) = figures.iter().max_by_key(|figures| figures.len()) else { return names };
    for figure in longest {
        if classes.contains(&figure.name.as_str()) {
            continue;
        }
        names.push(figure.name.clone());
        if figure.name == INSTRUCTIONS {
            names.extend(classes.iter().map(ToString::to_string));
        }
    }
    names
}

fn count_of(figures: &[Figure], name: &str) -> u64 {
    figures.iter().find(|figure| figure.name == name).map_or(0, |figure| figure.count)
}

/// `SharedMemory` → `shared memory`.
fn words(name: &str) -> String {
    let mut words = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(letter.to_lowercase());
    }
    words
}

/// `1234567` → `1 234 567`.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let first = digits.len() % 3;
    let mut text = digits[..first].to_owned();
    for (index, digit) in digits[first..].chars().enumerate() {
        if index % 3 == 0 && !text.is_empty() {
            text.push('\u{a0}');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_numbers_and_names_are_readable() {
        assert_eq!(
            [0, 12, 999, 1000, 1_234_567].map(|count| grouped(count).replace('\u{a0}', " ")),
            ["0", "12", "999", "1 000", "1 234 567"]
        );
        assert_eq!(words("SharedMemory"), "shared memory");
    }
}
