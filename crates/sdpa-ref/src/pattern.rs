//! Where failures lie, in words: a wrong head, tile, tail or column says more than any number.

use sdpa_core::Problem;

use crate::inputs::Rows;

/// Tile sizes in use; a boundary at a multiple of one is worth a word.
const TILES: [usize; 4] = [128, 64, 32, 16];

/// Which indices of each axis have failures.
pub(crate) struct Tally {
    axes: [Axis; 4],
}

struct Axis {
    name: &'static str,
    plural: &'static str,
    /// Length of the axis in the problem.
    extent: usize,
    /// The index in the problem and whether it failed, for each one checked.
    indices: Vec<(usize, bool)>,
}

impl Tally {
    pub(crate) fn new(problem: &Problem, rows: &Rows) -> Self {
        let columns: Vec<usize> = (0..problem.value_dim()).collect();
        Self {
            axes: [
                Axis::new("batch", "batches", problem.batch(), &rows.batches),
                Axis::new("head", "heads", problem.heads_q(), &rows.heads),
                Axis::new("query", "queries", problem.len_q(), &rows.queries),
                Axis::new("column", "columns", problem.value_dim(), &columns),
            ],
        }
    }

    /// Counts a failing element, by its position among the rows checked.
    pub(crate) fn element(&mut self, batch: usize, head: usize, query: usize, column: usize) {
        self.row(batch, head, query);
        self.axes[3].indices[column].1 = true;
    }

    /// Counts a failing row.
    pub(crate) fn row(&mut self, batch: usize, head: usize, query: usize) {
        for (axis, position) in self.axes.iter_mut().zip([batch, head, query]) {
            axis.indices[position].1 = true;
        }
    }

    /// One phrase for each axis of which only a part fails.
    pub(crate) fn pattern(&self) -> Vec<String> {
        self.axes.iter().filter_map(Axis::phrase).collect()
    }
}

impl Axis {
    fn new(name: &'static str, plural: &'static str, extent: usize, indices: &[usize]) -> Self {
        Self { name, plural, extent, indices: indices.iter().map(|index| (*index, false)).collect() }
    }

    fn phrase(&self) -> Option<String> {
        let mut checked: Vec<(usize, bool)> = self.indices.clone();
        checked.sort_unstable();
        let failing: Vec<usize> = checked.iter().filter(|(_, failed)| *failed).map(|(index, _)| *index).collect();
        let (&first, &last) = failing.first().zip(failing.last())?;
        if failing.len() == checked.len() {
            return None;
        }
        let (name, plural, extent) = (self.name, self.plural, self.extent);
        if failing.len() == 1 {
            return Some(format!("only {name} {first} of {extent}"));
        }
        let between = checked.iter().filter(|(index, _)| (first..=last).contains(index)).count();
        if failing.len() == between {
            let tile = TILES.into_iter().find(|tile| first > 0 && first.is_multiple_of(*tile));
            let from = tile.map_or(String::new(), |tile| format!(" ({first} is {} × {tile})", first / tile));
            return Some(format!("only {plural} {first} to {last} of {extent}{from}"));
        }
        if let Some((tile, low, high)) = residues(&checked) {
            let part = if low == high { low.to_string() } else { format!("{low} to {high}") };
            return Some(format!("only {plural} {part} modulo {tile}"));
        }
        // Half of an axis here and there is no pattern.
        (failing.len() <= checked.len() / 2)
            .then(|| format!("{} of {} {plural}, between {first} and {last}", failing.len(), checked.len()))
    }
}

/// The smallest tile of which one part, and nothing else, fails everywhere: `(tile, first, last)`.
fn residues(checked: &[(usize, bool)]) -> Option<(usize, usize, usize)> {
    TILES.into_iter().rev().find_map(|tile| {
        let failing = checked.iter().filter(|(_, failed)| *failed).map(|(index, _)| index % tile);
        let (low, high) = (failing.clone().min()?, failing.max()?);
        let exactly = checked.iter().all(|(index, failed)| *failed == (low..=high).contains(&(index % tile)));
        exactly.then_some((tile, low, high))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phrase(extent: usize, failing: impl Fn(usize) -> bool) -> String {
        let indices: Vec<usize> = (0..extent).collect();
        let mut axis = Axis::new("query", "queries", extent, &indices);
        axis.indices.iter_mut().for_each(|(index, failed)| *failed = failing(*index));
        axis.phrase().unwrap_or_default()
    }

    #[test]
    fn phrases() {
        insta::assert_snapshot!(
            [
                phrase(200, |index| index == 7),
                phrase(200, |index| index >= 128),
                phrase(200, |index| (5..9).contains(&index)),
                phrase(200, |index| index % 64 >= 48),
                phrase(200, |index| index % 16 == 3),
                phrase(200, |index| [3, 50, 51].contains(&index)),
                phrase(200, |_| true),
                phrase(200, |_| false),
            ]
            .join("\n"),
            @r"
        only query 7 of 200
        only queries 128 to 199 of 200 (128 is 1 × 128)
        only queries 5 to 8 of 200
        only queries 48 to 63 modulo 64
        only queries 3 modulo 16
        3 of 200 queries, between 3 and 51
        "
        );
    }
}
