//! Which queries of a rank see which keys of another, cut into problems that kernels take.

use std::ops::Range;

use sdpa_core::{Mask, Problem, Sequence, Window};

use crate::partition::Partition;

/// Neighbouring rows of a rank's queries and the keys of one rank that they see, such that one kernel computes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Rows of the rank's query tensor.
    pub rows: Range<usize>,
    /// Rows of the other rank's key tensor that any of them sees.
    pub keys: Range<usize>,
    /// Whether the last of these keys that a query sees moves by one with each row.
    pub causal: bool,
    /// Whether the first does.
    pub windowed: bool,
}

impl Part {
    /// The mask of this part alone: its last row sees its last key.
    pub fn mask(&self) -> Mask {
        if self.causal { Mask::Causal } else { Mask::Full }
    }

    /// The window of this part alone: its first row sees its first key.
    pub fn window(&self) -> Window {
        match self.windowed {
            // The first row's diagonal is at key len_kv − len_q of the part, and as many keys lie before it.
            true => Window::left(self.keys.len() - self.rows.len()),
            false => Window::ALL,
        }
    }
}

/// Whether the diagonal of a part alone is that of the whole problem. Slopes are multiplied with distances from it.
pub(crate) fn keeps_diagonal(
    part: &Part,
    problem: &Problem,
    sequences: &[Sequence],
    queries: &Partition,
    keys: &Partition,
    [rank, source]: [usize; 2],
) -> bool {
    let places = (queries.neighbours(rank, &part.rows), keys.neighbours(source, &part.keys));
    let (Some(rows), Some(seen)) = places else { return false };
    let Some(sequence) = sequences.iter().find(|sequence| sequence.queries.contains(&rows.start)) else { return false };
    let whole = problem.diagonal_of(sequence, rows.start) + sequence.keys.start as i64 - seen.start as i64;
    whole == part.keys.len() as i64 - part.rows.len() as i64
}

/// Cuts what `rank`'s queries see of `source`'s keys into parts. A row is in one part for each sequence at most, and in none
/// if it sees none of these keys.
///
/// Along a rank's rows the first and the last visible key each stay where they are or move by one with each row, but for
/// jumps from chunk to chunk. A part ends where that changes.
pub fn parts(
    problem: &Problem,
    sequences: &[Sequence],
    queries: &Partition,
    keys: &Partition,
    rank: usize,
    source: usize,
) -> Vec<Part> {
    let mut parts = Vec::new();
    for sequence in sequences {
        let mut run = Run::default();
        let first_row = queries.rows_in(rank, &sequence.queries);
        for (row, position) in first_row.clone().zip(positions_in(queries, rank, &sequence.queries)) {
            let visible = keys.rows_in(source, &problem.visible(sequence, position));
            if !run.takes(row, &visible) {
                parts.extend(run.end());
                run = Run::begin(row, &visible);
            }
        }
        parts.extend(run.end());
    }
    parts
}

fn positions_in<'a>(
    partition: &'a Partition,
    rank: usize,
    range: &'a Range<usize>,
) -> impl Iterator<Item = usize> + 'a {
    let clip = |chunk: &Range<usize>| chunk.start.max(range.start)..chunk.end.min(range.end);
    partition.chunks(rank).iter().flat_map(clip)
}

/// Rows that may yet become a part.
#[derive(Clone, Debug, Default)]
struct Run {
    rows: Range<usize>,
    first: Range<usize>,
    last: Range<usize>,
    /// By how much the first and the last key move with each row, once a second row has said so.
    steps: Option<(usize, usize)>,
}

impl Run {
    fn begin(row: usize, visible: &Range<usize>) -> Self {
        Self { rows: row..row + 1, first: visible.clone(), last: visible.clone(), steps: None }
    }

    /// Adds a row if it goes on as the ones before.
    fn takes(&mut self, row: usize, visible: &Range<usize>) -> bool {
        if self.rows.is_empty() || row != self.rows.end || visible.is_empty() != self.last.is_empty() {
            return false;
        }
        if !visible.is_empty() {
            let moved = (visible.start.wrapping_sub(self.last.start), visible.end.wrapping_sub(self.last.end));
            if moved.0 > 1 || moved.1 > 1 || self.steps.is_some_and(|steps| steps != moved) {
                return false;
            }
            self.steps = Some(moved);
        }
        self.rows.end += 1;
        self.last = visible.clone();
        true
    }

    fn end(self) -> Option<Part> {
        if self.rows.is_empty() || self.last.is_empty() {
            return None;
        }
        let (start, end) = self.steps.unwrap_or((0, 0));
        let keys = self.first.start..self.last.end;
        Some(Part { rows: self.rows, keys, causal: end == 1, windowed: start == 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dense(problem: &Problem) -> Vec<Sequence> {
        vec![Sequence { queries: 0..problem.len_q(), keys: 0..problem.len_kv() }]
    }

    /// Each row of each part sees exactly the keys that the whole problem says, by the part's own mask and window.
    fn check(problem: &Problem, sequences: &[Sequence], queries: &Partition, keys: &Partition) {
        for rank in 0..queries.ranks() {
            let positions: Vec<usize> = queries.positions(rank).collect();
            for source in 0..keys.ranks() {
                let mut seen = vec![Vec::new(); positions.len()];
                for part in parts(problem, sequences, queries, keys, rank, source) {
                    let own = Problem::new(1, 1, part.rows.len(), 8)
                        .len_kv(part.keys.len())
                        .mask(part.mask())
                        .window(part.window())
                        .build()
                        .unwrap();
                    let whole = Sequence { queries: 0..own.len_q(), keys: 0..own.len_kv() };
                    for row in part.rows.clone() {
                        let visible = own.visible(&whole, row - part.rows.start);
                        assert!(!visible.is_empty(), "{part:?}");
                        seen[row].extend(visible.map(|key| key + part.keys.start));
                    }
                }
                for (row, position) in positions.iter().enumerate() {
                    let sequence = sequences.iter().find(|sequence| sequence.queries.contains(position));
                    let visible = sequence.map_or(0..0, |sequence| problem.visible(sequence, *position));
                    let expected = keys.rows_in(source, &visible).collect::<Vec<_>>();
                    assert_eq!(seen[row], expected, "{problem}: rank {rank} row {row} of source {source}");
                }
            }
        }
    }

    #[test]
    fn parts_see_what_the_problem_says() {
        for ranks in [1, 2, 3, 8] {
            for (len_q, len_kv) in [(16, 16), (33, 33), (5, 40), (40, 5), (64, 64), (0, 8)] {
                for mask in [Mask::Full, Mask::Causal, Mask::CausalTopLeft] {
                    for window in [
                        Window::ALL,
                        Window::left(0),
                        Window::left(3),
                        Window::left(17),
                        Window { left: Some(4), right: Some(2) },
                        Window { left: None, right: Some(5) },
                    ] {
                        let builder = Problem::new(1, 1, len_q, 8).len_kv(len_kv).mask(mask).window(window);
                        let problem = builder.build().unwrap();
                        let of = |length| [Partition::contiguous(length, ranks), Partition::balanced(length, ranks)];
                        for queries in of(len_q) {
                            for keys in of(len_kv) {
                                check(&problem, &dense(&problem), &queries, &keys);
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn balanced_causal_parts_are_few() {
        let problem = Problem::new(1, 1, 64, 8).mask(Mask::Causal).build().unwrap();
        let balanced = Partition::balanced(64, 2);
        let of = |rank, source| parts(&problem, &dense(&problem), &balanced, &balanced, rank, source);
        let part = |rows, keys, causal| vec![Part { rows, keys, causal, windowed: false }];
        assert_eq!(of(0, 0), part(0..32, 0..32, true), "the late chunk sees the early one and itself");
        assert_eq!(of(0, 1), part(16..32, 0..32, false), "the early chunk sees nothing of what lies behind it");
        assert_eq!(of(1, 0), part(0..32, 0..16, false), "nobody sees the latest chunk");
        assert_eq!(of(1, 1), part(0..32, 0..32, true));
    }
}
