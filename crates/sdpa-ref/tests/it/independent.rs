//! The oracle against a second formulation: no maximum, no division by a sum, one element at a time.

use proptest::prelude::*;
use sdpa_core::{Dtype, Mask, Operand, Problem};
use sdpa_ref::{Inputs, Oracle};

use crate::data::{Data, Regime, fill};

/// Sum of many numbers as if in twice the precision, whatever their order and sizes (Neumaier).
fn sum(numbers: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut lost) = (0.0_f64, 0.0);
    for number in numbers {
        let next = sum + number;
        lost += if sum.abs() >= number.abs() { (sum - next) + number } else { (number - next) + sum };
        sum = next;
    }
    // Beyond f64 there is nothing to compensate.
    if sum.is_finite() { sum + lost } else { sum }
}

/// p_j = 1 / Σ_k exp(s_k − s_j): each weight from its own differences, no maximum and no shared normaliser.
fn by_differences(problem: &Problem, data: &Data, [batch, head, query]: [usize; 3]) -> (Vec<f64>, f64) {
    let dtype = problem.dtype();
    let element = |bits: &[u16], operand, head, row, column| {
        dtype.decode(bits[problem.row_offset(operand, batch, head, row) + column])
    };
    let kv_head = problem.kv_head(head);
    let columns = 0..problem.head_dim();
    let scores: Vec<f64> = (0..problem.visible_keys(query))
        .map(|key| {
            let products = columns.clone().map(|column| {
                element(&data.query, Operand::Query, head, query, column)
                    * element(&data.key, Operand::Key, kv_head, key, column)
            });
            f64::from(problem.scale()) * sum(products)
        })
        .collect();
    let weights: Vec<f64> =
        scores.iter().map(|own| 1.0 / sum(scores.iter().map(|other| (other - own).exp()))).collect();
    let out = columns
        .map(|column| {
            let values = (0..scores.len()).map(|key| element(&data.value, Operand::Value, kv_head, key, column));
            sum(weights.iter().zip(values).map(|(weight, value)| weight * value))
        })
        .collect();
    // s_j − ln p_j is the log-sum-exp for every j; the heaviest key loses least.
    let lse = scores.iter().zip(&weights).max_by(|a, b| a.1.total_cmp(b.1)).map(|(score, weight)| score - weight.ln());
    (out, lse.unwrap_or(f64::NEG_INFINITY))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn oracle_equals_weights_by_differences(
        regime in prop::sample::select(&Regime::ALL[..]),
        mask in prop::sample::select(&[Mask::Full, Mask::Causal, Mask::CausalTopLeft][..]),
        dtype in prop::sample::select(&[Dtype::F16, Dtype::Bf16][..]),
        (heads_kv, group) in (1..3_usize, 1..3_usize),
        (len_q, len_kv) in (1..70_usize, 0..90_usize),
        head_dim in (1..5_usize).prop_map(|eights| 8 * eights),
        seed: u64,
    ) {
        let problem = Problem::new(2, heads_kv * group, len_q, head_dim)
            .heads_kv(heads_kv).len_kv(len_kv).mask(mask).dtype(dtype).build().expect("valid");
        let data = Data::new(&problem, regime, seed);
        let oracle = Oracle::compute(&problem, &data.inputs(), None).expect("buffers fit");
        for row in [[0, 0, 0], [1, heads_kv * group - 1, len_q - 1], [0, 0, len_q / 2]] {
            let [batch, head, query] = row;
            let (out, lse) = by_differences(&problem, &data, row);
            let magnitude = oracle.score_magnitude[row];
            // Errors of f64, the scores' included: products of d elements, each sum in another order.
            let unit = 1e-15 * (1.0 + magnitude * head_dim as f64);
            prop_assert!(oracle.lse[row] == lse || (oracle.lse[row] - lse).abs() <= unit * 10.0);
            for (column, expected) in out.into_iter().enumerate() {
                let found = oracle.out[[batch, head, query, column]];
                let bound = 100.0 * unit * oracle.weighted_abs[[batch, head, query, column]];
                prop_assert!((found - expected).abs() <= bound, "{row:?} {column}: {found} is not {expected}");
            }
        }
    }
}

/// Powers of two as weights: scale 1 and scores 0, −ln 2·k would not be exact, but repeated keys are. Key 0 stands
/// `count` times, key 1 once, all scores equal: the output is an exact rational number.
#[test]
fn repeated_keys_weigh_exactly_as_often_as_they_stand() {
    for count in [1_usize, 3, 7, 15, 31, 63, 127] {
        let problem = Problem::new(1, 1, 3, 8).len_kv(count + 1).build().expect("valid");
        let query = fill(&problem, Operand::Query, |[.., row, column]| (row * 5 + column) as f64 - 4.0);
        let key = fill(&problem, Operand::Key, |[.., column]| column as f64 - 3.0);
        let value =
            fill(&problem, Operand::Value, |[_, _, row, column]| if row < count { column as f64 } else { -64.0 });
        let inputs = Inputs { query: &query, key: &key, value: &value, ..Inputs::default() };
        let oracle = Oracle::compute(&problem, &inputs, None).expect("buffers fit");
        for ((_, _, _, column), found) in oracle.out.indexed_iter() {
            // The denominators are powers of two, so f64 holds every step exactly.
            assert_eq!(*found, (count as f64 * column as f64 - 64.0) / (count as f64 + 1.0));
        }
    }
}
