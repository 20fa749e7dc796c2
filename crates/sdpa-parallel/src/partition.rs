//! Which positions of a sequence each rank holds.

use std::ops::Range;

use crate::error::{Error, Result};

/// Which positions of a sequence each rank holds: chunks in ascending order, every position in exactly one.
///
/// A rank's tensors hold its chunks behind one another.
///
/// ```
/// use sdpa_parallel::Partition;
///
/// // Under a causal mask early positions see few keys: each rank takes an early and a late chunk.
/// let balanced = Partition::balanced(16, 2);
/// assert_eq!(balanced.chunks(0), [0..4, 12..16]);
/// assert_eq!(balanced.chunks(1), [4..12]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    ranks: Vec<Vec<Range<usize>>>,
    length: usize,
}

impl Partition {
    /// Chunks as you name them, for each rank in ascending order. A rank may have none.
    ///
    /// # Errors
    /// [`Error::Partition`] if a position is missing or named twice, or chunks do not ascend.
    pub fn new(length: usize, ranks: Vec<Vec<Range<usize>>>) -> Result<Self> {
        let mut all: Vec<(Range<usize>, usize)> = Vec::new();
        let mut merged = Vec::with_capacity(ranks.len());
        for (rank, chunks) in ranks.into_iter().enumerate() {
            let mut own: Vec<Range<usize>> = Vec::new();
            for chunk in chunks.into_iter().filter(|chunk| !chunk.is_empty()) {
                let wrong = |reason: &str| Error::Partition {
                    rank,
                    start: chunk.start,
                    end: chunk.end,
                    reason: reason.to_owned(),
                };
                all.push((chunk.clone(), rank));
                match own.last_mut() {
                    Some(last) if chunk.start < last.end => return Err(wrong("a rank's chunks must ascend")),
                    Some(last) if chunk.start == last.end => last.end = chunk.end,
                    _ => own.push(chunk),
                }
            }
            merged.push(own);
        }
        all.sort_by_key(|(chunk, _)| chunk.start);
        let mut next = 0;
        for (chunk, rank) in all {
            let wrong = |reason: String| Err(Error::Partition { rank, start: chunk.start, end: chunk.end, reason });
            if chunk.start > next {
                return wrong(format!("nobody holds positions {next}..{}", chunk.start));
            }
            if chunk.start < next {
                return wrong(format!("positions from {} on are held twice", chunk.start));
            }
            if chunk.end > length {
                return wrong(format!("the sequence has {length} positions"));
            }
            next = chunk.end;
        }
        if next < length {
            let rank = merged.len().saturating_sub(1);
            let reason = "nobody holds these positions".to_owned();
            return Err(Error::Partition { rank, start: next, end: length, reason });
        }
        Ok(Self { ranks: merged, length })
    }

    /// One chunk for each rank, of lengths that differ by at most 1: for problems without a causal mask.
    pub fn contiguous(length: usize, ranks: usize) -> Self {
        Self { ranks: (0..ranks).map(|rank| non_empty([share(length, ranks, rank)])).collect(), length }
    }

    /// Two chunks of 2 · ranks for each rank, the `r`-th and the `r`-th from the end: then every rank has the same work under
    /// a causal mask.
    pub fn balanced(length: usize, ranks: usize) -> Self {
        let chunk = |index: usize| share(length, 2 * ranks, index);
        let ranks = (0..ranks).map(|rank| non_empty([chunk(rank), chunk(2 * ranks - 1 - rank)])).collect();
        Self { ranks, length }
    }

    /// How many ranks there are.
    pub fn ranks(&self) -> usize {
        self.ranks.len()
    }

    /// Positions of the whole sequence.
    pub fn length(&self) -> usize {
        self.length
    }

    /// A rank's chunks.
    pub fn chunks(&self, rank: usize) -> &[Range<usize>] {
        &self.ranks[rank]
    }

    /// Positions that a rank holds.
    pub fn len(&self, rank: usize) -> usize {
        self.ranks[rank].iter().map(Range::len).sum()
    }

    /// True if a rank holds no position.
    pub fn is_empty(&self, rank: usize) -> bool {
        self.ranks[rank].is_empty()
    }

    /// A rank's positions in the order of its tensors' rows.
    pub fn positions(&self, rank: usize) -> impl Iterator<Item = usize> + '_ {
        self.ranks[rank].iter().cloned().flatten()
    }

    /// The positions of some of a rank's rows, if they follow one another.
    pub(crate) fn neighbours(&self, rank: usize, rows: &Range<usize>) -> Option<Range<usize>> {
        let mut before = 0;
        for chunk in &self.ranks[rank] {
            if rows.start < before + chunk.len() {
                let start = chunk.start + rows.start - before;
                return (rows.end <= before + chunk.len()).then(|| start..start + rows.len());
            }
            before += chunk.len();
        }
        None
    }

    /// Which of a rank's rows hold positions of this range. Its chunks ascend, so they are neighbours.
    pub fn rows_in(&self, rank: usize, range: &Range<usize>) -> Range<usize> {
        let before = |position: usize| -> usize {
            self.ranks[rank].iter().map(|chunk| position.clamp(chunk.start, chunk.end) - chunk.start).sum()
        };
        let start = before(range.start);
        start..before(range.end).max(start)
    }
}

/// The `index`-th of `count` shares of a length; the first ones are the longer ones.
pub(crate) fn share(length: usize, count: usize, index: usize) -> Range<usize> {
    let (each, rest) = (length / count, length % count);
    let start = index * each + index.min(rest);
    start..start + each + usize::from(index < rest)
}

fn non_empty<const N: usize>(chunks: [Range<usize>; N]) -> Vec<Range<usize>> {
    let mut kept: Vec<Range<usize>> = Vec::new();
    for chunk in chunks.into_iter().filter(|chunk| !chunk.is_empty()) {
        match kept.last_mut() {
            Some(last) if last.end == chunk.start => last.end = chunk.end,
            _ => kept.push(chunk),
        }
    }
    kept
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "a chunk is a range")]
mod tests {
    use super::*;

    #[test]
    fn every_position_is_held_once() {
        for ranks in 1..=9 {
            for length in [0, 1, 2, 7, 16, 33, 100] {
                for partition in [Partition::contiguous(length, ranks), Partition::balanced(length, ranks)] {
                    let again = Partition::new(length, partition.ranks.clone()).unwrap();
                    assert_eq!(again, partition);
                    let held: usize = (0..ranks).map(|rank| partition.len(rank)).sum();
                    assert_eq!((held, partition.ranks()), (length, ranks));
                }
            }
        }
    }

    #[test]
    fn what_is_no_partition_is_refused_in_words() {
        let said = |ranks: Vec<Vec<Range<usize>>>| Partition::new(10, ranks).unwrap_err().to_string();
        assert_eq!(said(vec![vec![0..4], vec![5..10]]), "rank 1 holds positions 5..10: nobody holds positions 4..5");
        assert_eq!(
            said(vec![vec![0..6], vec![5..10]]),
            "rank 1 holds positions 5..10: positions from 5 on are held twice"
        );
        assert_eq!(said(vec![vec![5..10, 0..5]]), "rank 0 holds positions 0..5: a rank's chunks must ascend");
        assert_eq!(said(vec![vec![0..11]]), "rank 0 holds positions 0..11: the sequence has 10 positions");
        assert_eq!(said(vec![vec![0..9]]), "rank 0 holds positions 9..10: nobody holds these positions");
    }

    #[test]
    fn rows_of_a_range_are_neighbours() {
        let partition = Partition::new(20, vec![vec![2..5, 10..14], vec![0..2, 5..10, 14..20]]).unwrap();
        assert_eq!(partition.rows_in(0, &(0..20)), 0..7);
        assert_eq!(partition.rows_in(0, &(4..11)), 2..4);
        assert_eq!(partition.rows_in(0, &(5..10)), 3..3);
        assert_eq!(partition.rows_in(1, &(1..15)), 1..8);
    }

    #[test]
    fn rows_of_one_chunk_are_neighbouring_positions() {
        let partition = Partition::new(20, vec![vec![2..5, 10..14], vec![0..2, 5..10, 14..20]]).unwrap();
        assert_eq!(partition.neighbours(0, &(1..3)), Some(3..5));
        assert_eq!(partition.neighbours(0, &(3..7)), Some(10..14));
        assert_eq!(partition.neighbours(0, &(2..4)), None, "they lie in two chunks");
        assert_eq!(partition.neighbours(1, &(2..7)), Some(5..10));
        assert_eq!(partition.neighbours(0, &(7..8)), None, "there is no such row");
    }
}
