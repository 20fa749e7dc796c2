//! What a wrong result looks like: other keys than it should have seen, another row's or column's numbers, or a multiple.
//!
//! A guess for people, made of a sample of rows after the verdict. It decides nothing.

use ndarray::{Array1, Array2};
use sdpa_core::{Dtype, Extensions, Operand, Problem};

use crate::inputs::Inputs;
use crate::verdict::{Found, Reference};

/// Wrong rows that are looked at, and how many of them must agree.
const ROWS: usize = 48;
const AGREE: f64 = 0.7;

/// Numbers of keys that tiles have.
const TILES: [usize; 4] = [16, 32, 64, 128];

/// In words what most of the wrong rows have in common, for example "one key too many is seen (…)". Empty if nothing known fits.
///
/// # Panics
/// If a buffer is shorter than its tensor.
pub fn likeness(reference: &Reference, inputs: &Inputs<'_>, found: &Found<'_>) -> Vec<String> {
    let wrong = WrongRows::of(reference, found);
    let mut said: Vec<String> = wrong.keys(inputs).into_iter().collect();
    if said.is_empty() {
        said.extend([wrong.rows(), wrong.columns(), wrong.multiple(), wrong.lse()].into_iter().flatten());
    }
    said
}

/// A row of the output: its indices among the rows of the reference, what was found, what belongs there.
struct Row {
    at: [usize; 3],
    found: Array1<f64>,
    expected: Array1<f64>,
}

struct WrongRows<'a> {
    reference: &'a Reference,
    found: &'a Found<'a>,
    rows: Vec<Row>,
}

/// As near as the element type allows, with room for the rounding of weights.
fn is_near(dtype: Dtype, left: &Array1<f64>, right: &Array1<f64>) -> bool {
    let relative = if dtype == Dtype::F16 { 4e-3 } else { 3e-2 };
    let distance = (left - right).mapv(|difference| difference * difference).sum().sqrt();
    distance <= relative * right.dot(right).sqrt() + 1e-6
}

impl<'a> WrongRows<'a> {
    fn of(reference: &'a Reference, found: &'a Found<'a>) -> Self {
        let oracle = &reference.oracle;
        let problem = &oracle.problem;
        let mut rows = Vec::new();
        let [batches, heads, queries] = oracle.rows.shape();
        for at in
            (0..batches * heads * queries).map(|row| [row / queries / heads, row / queries % heads, row % queries])
        {
            let [b, h, i] = at;
            let place = [oracle.rows.batches[b], oracle.rows.heads[h], oracle.rows.queries[i]];
            let start = problem.row_offset(Operand::Output, place[0], place[1], place[2]);
            let bits = &found.out[start..start + problem.value_dim()];
            let found = bits.iter().map(|bits| problem.dtype().decode(*bits)).collect();
            let expected = oracle.out.slice(ndarray::s![b, h, i, ..]).to_owned();
            if !is_near(problem.dtype(), &found, &expected) {
                rows.push(Row { at, found, expected });
            }
        }
        // Spread over all that is wrong.
        let step = rows.len().div_ceil(ROWS).max(1);
        Self { reference, found, rows: rows.into_iter().step_by(step).collect() }
    }

    fn problem(&self) -> &Problem {
        &self.reference.oracle.problem
    }

    fn query(&self, row: &Row) -> usize {
        self.reference.oracle.rows.queries[row.at[2]]
    }

    /// What most rows say; none if they say different things.
    fn agreed<T: PartialEq + Copy>(&self, said: &[Option<T>]) -> Option<(T, usize)> {
        let most = said.iter().flatten().map(|one| (*one, said.iter().filter(|other| **other == Some(*one)).count()));
        let (what, count) = most.max_by_key(|(_, count)| *count)?;
        (count as f64 >= AGREE * said.len() as f64).then_some((what, count))
    }

    /// Which keys the rows have seen instead of theirs.
    fn keys(&self, inputs: &Inputs<'_>) -> Option<String> {
        // Rows of dense attention see the first so many keys, which is all that is known here.
        let widths = Extensions { value_dim: true, ..Extensions::NONE };
        if self.problem().extensions().first_not_in(widths).is_some() {
            return None;
        }
        let seen: Vec<Vec<Seen>> = self.rows.iter().map(|row| self.seen(row, inputs)).collect();
        let first = |of: fn(&Seen) -> bool| -> Vec<Option<Seen>> {
            seen.iter().map(|one| one.iter().find(|seen| of(seen)).copied()).collect()
        };
        let of = self.rows.len();
        let ends = first(|seen| matches!(seen, Seen::More(_)));
        if let Some((Seen::More(more), count)) = self.agreed(&ends) {
            let keys = match more.unsigned_abs() {
                1 => "one key".to_owned(),
                more => format!("{more} keys"),
            };
            let is = if keys == "one key" { "is" } else { "are" };
            let until = self.agreed(&first(|seen| matches!(seen, Seen::Until(_))));
            let what = match until {
                _ if more > 0 => format!("{keys} too many {is} seen, behind a row's last"),
                Some((until, _)) => until.words(),
                None => format!("{keys} too few {is} seen, a row's last {is} missing"),
            };
            return Some(format!("{what} (in {count} of {of} wrong rows tried)"));
        }
        for kind in [
            (|seen: &Seen| matches!(seen, Seen::Until(_))) as fn(&Seen) -> bool,
            |seen| matches!(seen, Seen::Without(..)),
            |seen| matches!(seen, Seen::Instead(..)),
        ] {
            if let Some((what, count)) = self.agreed(&first(kind)) {
                return Some(format!("{} (in {count} of {of} wrong rows tried)", what.words()));
            }
        }
        None
    }

    /// Every explanation of a row by the keys it has seen, the plainest first.
    fn seen(&self, row: &Row, inputs: &Inputs<'_>) -> Vec<Seen> {
        let (problem, oracle) = (self.problem(), &self.reference.oracle);
        let (batch, head) = (oracle.rows.batches[row.at[0]], oracle.rows.heads[row.at[1]]);
        let [keys, query] = [problem.len_kv(), self.query(row)];
        let kv_head = problem.kv_head(head);
        let one = inputs.read(problem, Operand::Query, batch, head, std::iter::once(query));
        let key = inputs.read(problem, Operand::Key, batch, kv_head, 0..keys);
        let value = inputs.read(problem, Operand::Value, batch, kv_head, 0..keys);
        let scores = key.dot(&one.row(0)) * f64::from(problem.scale());
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        // Sums of weights and of weighted values over the first n keys.
        let mut sums = Array1::<f64>::zeros(keys + 1);
        let mut outputs = Array2::<f64>::zeros((keys + 1, problem.value_dim()));
        for index in 0..keys {
            let weight = (scores[index] - largest).exp();
            sums[index + 1] = sums[index] + weight;
            let next = &outputs.row(index) + &(&value.row(index) * weight);
            outputs.row_mut(index + 1).assign(&next);
        }
        let part = |from: usize, to: usize| (sums[to] - sums[from], &outputs.row(to) - &outputs.row(from));
        let fits = |(sum, output): (f64, Array1<f64>)| is_near(problem.dtype(), &row.found, &(output / sum));
        let visible = problem.visible_keys(query);
        let mut seen = Vec::new();
        let mut ends: Vec<usize> = (1..=keys).filter(|end| *end != visible && fits(part(0, *end))).collect();
        ends.sort_by_key(|end| end.abs_diff(visible));
        if let Some(&end) = ends.first() {
            seen.extend([Seen::More(end as isize - visible as isize), Seen::Until(end)]);
        }
        let all = part(0, visible);
        for tile in TILES {
            for from in (0..visible).step_by(tile) {
                let to = (from + tile).min(visible);
                let (sum, output) = part(from, to);
                if all.0 > sum && fits((all.0 - sum, &all.1 - &output)) {
                    seen.push(Seen::Without(from, to));
                }
                for other in [1, 2, 3].into_iter().filter_map(|back| from.checked_sub(back * tile)) {
                    let again = part(other, other + (to - from));
                    if fits((all.0 - sum + again.0, &all.1 - &output + &again.1)) {
                        seen.push(Seen::Instead(from, to, other));
                    }
                }
            }
        }
        seen
    }

    /// Whether rows hold the results of other rows of their head.
    fn rows(&self) -> Option<String> {
        let oracle = &self.reference.oracle;
        let dtype = self.problem().dtype();
        let from = |row: &Row| {
            let [b, h, i] = row.at;
            let mut others: Vec<usize> = (0..oracle.rows.queries.len()).filter(|other| *other != i).collect();
            others.sort_by_key(|other| other.abs_diff(i));
            let holds =
                |other: &usize| is_near(dtype, &row.found, &oracle.out.slice(ndarray::s![b, h, *other, ..]).to_owned());
            others.into_iter().find(holds).map(|other| oracle.rows.queries[other])
        };
        let pairs = self.rows.iter().map(|row| (self.query(row), from(row)));
        moved("row", "result", &pairs.collect::<Vec<_>>())
    }

    /// Whether columns hold the values of other columns.
    fn columns(&self) -> Option<String> {
        let width = self.problem().value_dim();
        let rows: Vec<&Row> = self.rows.iter().filter(|row| row.found.iter().all(|value| value.is_finite())).collect();
        if rows.len() < 4 {
            return None;
        }
        let column = |values: fn(&Row) -> &Array1<f64>, index: usize| -> Array1<f64> {
            rows.iter().map(|row| values(row)[index]).collect()
        };
        let expected: Vec<Array1<f64>> = (0..width).map(|index| column(|row| &row.expected, index)).collect();
        let near = |found: &Array1<f64>, index: &usize| is_near(self.problem().dtype(), found, &expected[*index]);
        let found = (0..width).map(|index| (index, column(|row| &row.found, index)));
        let wrong: Vec<(usize, Array1<f64>)> = found.filter(|(index, found)| !near(found, index)).collect();
        let pairs = wrong.iter().map(|(index, found)| (*index, (0..width).find(|other| near(found, other))));
        moved("column", "values", &pairs.collect::<Vec<_>>())
    }

    /// Whether rows are the same multiple of what they should be.
    fn multiple(&self) -> Option<String> {
        let factor = |row: &Row| {
            let factor = row.found.dot(&row.expected) / row.expected.dot(&row.expected);
            let fits = is_near(self.problem().dtype(), &row.found, &(&row.expected * factor));
            (fits && factor.abs() > 1e-3).then(|| (factor * 100.0).round() as i64)
        };
        let factors: Vec<Option<i64>> = self.rows.iter().map(factor).collect();
        let (factor, count) = self.agreed(&factors)?;
        let of = self.rows.len();
        Some(format!(
            "rows are {:.2} times what they should be (in {count} of {of} wrong rows tried)",
            factor as f64 / 100.0
        ))
    }

    /// Whether log-sum-exps stand in other rows.
    fn lse(&self) -> Option<String> {
        let (oracle, found) = (&self.reference.oracle, self.found.lse?);
        let problem = self.problem();
        let mut pairs = Vec::new();
        for (i, &query) in oracle.rows.queries.iter().enumerate() {
            let head = oracle.rows.batches.first()? * problem.heads_q() + oracle.rows.heads.first()?;
            let here = f64::from(found[head * problem.len_q() + query]);
            let near = |other: usize| {
                let expected = oracle.lse[[0, 0, other]];
                here == expected || (here - expected).abs() <= 2e-6 * expected.abs().max(1.0)
            };
            if !near(i) {
                let mut others: Vec<usize> = (0..oracle.rows.queries.len()).filter(|other| *other != i).collect();
                others.sort_by_key(|other| other.abs_diff(i));
                pairs.push((
                    query,
                    others.into_iter().find(|other| near(*other)).map(|other| oracle.rows.queries[other]),
                ));
            }
        }
        moved("row", "log-sum-exp", &pairs)
    }
}

/// Three examples of what stands in another's place, if most do.
fn moved(thing: &str, what: &str, pairs: &[(usize, Option<usize>)]) -> Option<String> {
    let known: Vec<(usize, usize)> = pairs.iter().filter_map(|(at, from)| Some((*at, (*from)?))).collect();
    if pairs.is_empty() || (known.len() as f64) < AGREE * pairs.len() as f64 {
        return None;
    }
    let examples: Vec<String> = known.iter().take(3).map(|(at, from)| format!("{thing} {at} that of {from}")).collect();
    let (count, of) = (known.len(), pairs.len());
    Some(format!("{thing}s hold the {what} of others: {} ({count} of {of} wrong ones tried)", examples.join(", ")))
}

/// Which keys a row has seen instead of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Seen {
    /// So many more than its own, in their order; fewer if negative.
    More(isize),
    /// Those before this one.
    Until(usize),
    /// Its own, but for those from the first number to before the second.
    Without(usize, usize),
    /// Its own, but in place of those from the first number to before the second as many from the third on.
    Instead(usize, usize, usize),
}

impl Seen {
    fn words(self) -> String {
        match self {
            Self::More(more) => format!("{more} keys more are seen"),
            Self::Until(end) => format!("keys from {end} on are missing"),
            Self::Without(from, to) => format!("keys {from} to {} are missing", to - 1),
            Self::Instead(from, to, other) => {
                format!("keys {other} to {} are seen in place of keys {from} to {}", other + (to - from) - 1, to - 1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use sdpa_core::Mask;

    use super::*;
    use crate::inputs::ExtensionInputs;

    /// Numbers between −1 and 1 that repeat after no tile's length.
    fn bits(count: usize, seed: u64) -> Vec<u16> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f64 / f64::from(1 << 23) - 1.0
        };
        (0..count).map(|_| Dtype::F16.encode(next())).collect()
    }

    struct Tensors {
        query: Vec<u16>,
        key: Vec<u16>,
        value: Vec<u16>,
    }

    const KEYS: usize = 100;

    fn tensors() -> Tensors {
        Tensors { query: bits(KEYS * 16, 1), key: bits(KEYS * 16, 2), value: bits(KEYS * 16, 3) }
    }

    impl Tensors {
        fn inputs(&self) -> Inputs<'_> {
            Inputs { query: &self.query, key: &self.key, value: &self.value, extension: ExtensionInputs::default() }
        }
    }

    fn problem(rows: usize, keys: usize, mask: Mask) -> Problem {
        Problem::new(1, 1, rows, 16).len_kv(keys).mask(mask).build().unwrap()
    }

    /// What the oracle says of a problem: the elements and log-sum-exps that a kernel for it would write.
    fn result(problem: &Problem, inputs: &Inputs<'_>) -> (Vec<u16>, Vec<f32>) {
        let oracle = Reference::compute(problem, inputs, None).unwrap().oracle;
        let out = oracle.out.iter().map(|value| Dtype::F16.encode(*value)).collect();
        (out, oracle.lse.iter().map(|value| *value as f32).collect())
    }

    /// What is said of this result of a causal problem, or one without a mask.
    fn said(mask: Mask, (out, lse): &(Vec<u16>, Vec<f32>)) -> String {
        let tensors = tensors();
        let reference = Reference::compute(&problem(90, KEYS, mask), &tensors.inputs(), None).unwrap();
        likeness(&reference, &tensors.inputs(), &Found { out, lse: Some(lse) }).join("; ")
    }

    #[test]
    fn a_right_result_looks_like_nothing() {
        for mask in [Mask::Full, Mask::Causal] {
            assert_eq!(said(mask, &result(&problem(90, KEYS, mask), &tensors().inputs())), "");
        }
        let unlike = (bits(90 * 16, 4), vec![9.0; 90]);
        assert_eq!(said(Mask::Causal, &unlike), "");
    }

    #[test]
    fn keys_too_many_too_few_and_missing_are_told() {
        // Rows of a problem with fewer rows or more see more keys or fewer: the mask is aligned at the end.
        let causal = |rows| {
            let (mut out, mut lse) = result(&problem(rows, KEYS, Mask::Causal), &tensors().inputs());
            out.resize(90 * 16, out[0]);
            lse.resize(90, lse[0]);
            said(Mask::Causal, &(out, lse))
        };
        assert!(causal(89).starts_with("one key too many is seen, behind a row's last (in 4"), "{}", causal(89));
        assert!(causal(92).starts_with("2 keys too few are seen"), "{}", causal(92));
        let until = result(&problem(90, 64, Mask::Full), &tensors().inputs());
        let found = said(Mask::Full, &until);
        assert!(found.starts_with("keys from 64 on are missing"), "{found}");
    }

    #[test]
    fn tiles_of_keys_left_out_and_taken_twice_are_told() {
        let tensors = tensors();
        let without = Tensors {
            key: [&tensors.key[..32 * 16], &tensors.key[64 * 16..]].concat(),
            value: [&tensors.value[..32 * 16], &tensors.value[64 * 16..]].concat(),
            ..self::tensors()
        };
        let found = said(Mask::Full, &result(&problem(90, KEYS - 32, Mask::Full), &without.inputs()));
        assert!(found.starts_with("keys 32 to 63 are missing"), "{found}");
        let mut stale = self::tensors();
        stale.key.copy_within(0..32 * 16, 32 * 16);
        stale.value.copy_within(0..32 * 16, 32 * 16);
        let found = said(Mask::Full, &result(&problem(90, KEYS, Mask::Full), &stale.inputs()));
        assert!(found.starts_with("keys 0 to 31 are seen in place of keys 32 to 63"), "{found}");
    }

    #[test]
    fn rows_columns_and_log_sum_exps_of_others_and_multiples_are_told() {
        let right = result(&problem(90, KEYS, Mask::Full), &tensors().inputs());
        let changed = |element: &dyn Fn(usize, usize) -> u16| -> (Vec<u16>, Vec<f32>) {
            ((0..90).flat_map(|row| (0..16).map(move |column| element(row, column))).collect(), right.1.clone())
        };
        let row = |row: usize| row / 16 * 16 + (row + 1) % 16;
        let found = said(Mask::Full, &changed(&|at, column| right.0[row(at).min(89) * 16 + column]));
        assert!(found.starts_with("rows hold the result of others: row 0 that of 1, row 2 that of 3"), "{found}");
        let found = said(Mask::Full, &changed(&|row, column| right.0[row * 16 + (column + 14) % 16]));
        assert!(
            found.starts_with("columns hold the values of others: column 0 that of 14, column 1 that of 15"),
            "{found}"
        );
        let half = |bits| Dtype::F16.encode(Dtype::F16.decode(bits) / 2.0);
        let found = said(Mask::Full, &changed(&|row, column| half(right.0[row * 16 + column])));
        assert!(found.starts_with("rows are 0.50 times what they should be"), "{found}");
        let lse = (0..90).map(|at| right.1[row(at).min(89)]).collect();
        let found = said(Mask::Full, &(right.0.clone(), lse));
        assert!(found.starts_with("rows hold the log-sum-exp of others: row 0 that of 1, row 1 that of 2"), "{found}");
    }
}
