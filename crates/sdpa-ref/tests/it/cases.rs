//! Cases small enough to work out by hand.

use sdpa_core::{Dtype, KvScales, KvStorage, Layout, Mask, Operand, Problem};
use sdpa_ref::{ExtensionInputs, Ideal, Inputs, Oracle, ReferenceError, Rows};

use crate::data::{Data, Regime, fill, fill_stored};

/// head_dim 8, scale 1; each vector is given by its first element, the rest are 0.
fn oracle(mask: Mask, query: &[f64], key: &[f64], value: &[f64]) -> Oracle {
    let problem = Problem::new(1, 1, query.len(), 8).len_kv(key.len()).mask(mask).scale(1.0).build().expect("valid");
    let first = |operand, from: &[f64]| {
        fill(&problem, operand, |[_, _, row, column]| if column == 0 { from[row] } else { 0.0 })
    };
    let (query, key, value) = (first(Operand::Query, query), first(Operand::Key, key), first(Operand::Value, value));
    Oracle::compute(&problem, &Inputs { query: &query, key: &key, value: &value, ..Inputs::default() }, None)
        .expect("buffers fit")
}

fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() <= 1e-14 * expected.abs().max(1.0), "{found} is not {expected}");
}

#[test]
fn equal_scores_average() {
    let oracle = oracle(Mask::Full, &[0.0], &[1.0, 2.0, 3.0, 4.0], &[1.0, 2.0, 4.0, 9.0]);
    close(oracle.out[[0, 0, 0, 0]], 4.0);
    close(oracle.lse[[0, 0, 0]], 4f64.ln());
    close(oracle.weighted_abs[[0, 0, 0, 0]], 4.0);
    close(oracle.abs_per_normaliser[[0, 0, 0, 0]], 4.0);
}

#[test]
fn two_keys_are_a_logistic() {
    // Scores 1 and −1: weights e/(e + 1/e) and the rest.
    let oracle = oracle(Mask::Full, &[1.0], &[1.0, -1.0], &[3.0, -5.0]);
    let weight = 1.0 / (1.0 + (-2f64).exp());
    close(oracle.out[[0, 0, 0, 0]], 3.0 * weight - 5.0 * (1.0 - weight));
    close(oracle.weighted_abs[[0, 0, 0, 0]], 3.0 * weight + 5.0 * (1.0 - weight));
    close(oracle.abs_per_normaliser[[0, 0, 0, 0]], 8.0 * weight);
    close(oracle.lse[[0, 0, 0]], (1f64.exp() + (-1f64).exp()).ln());
    close(oracle.score_magnitude[[0, 0, 0]], 1.0);
}

#[test]
fn causal_rows_average_what_they_see() {
    let value = [1.0, 3.0, 8.0, 20.0];
    let out = |mask, queries: usize| {
        oracle(mask, &vec![0.0; queries], &[0.0; 4], &value).out.iter().step_by(8).copied().collect::<Vec<_>>()
    };
    assert_eq!(out(Mask::Causal, 4), [1.0, 2.0, 4.0, 8.0]);
    assert_eq!(out(Mask::Causal, 2), [4.0, 8.0]);
    assert_eq!(out(Mask::CausalTopLeft, 2), [1.0, 2.0]);
    assert_eq!(out(Mask::Causal, 6), [0.0, 0.0, 1.0, 2.0, 4.0, 8.0]);
    assert_eq!(out(Mask::CausalTopLeft, 6), [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]);
}

#[test]
fn values_may_be_wider_than_keys() {
    let problem =
        |value_dim| Problem::new(1, 1, 1, 8).len_kv(2).scale(1.0).value_dim(value_dim).build().expect("valid");
    let computed = |value_dim| {
        let problem = problem(value_dim);
        // Scores 1 and −1.
        let query = fill(&problem, Operand::Query, |[.., column]| if column == 0 { 1.0 } else { 0.0 });
        let key = fill(&problem, Operand::Key, |[_, _, row, _]| if row == 0 { 1.0 } else { -1.0 });
        let value = fill(&problem, Operand::Value, |[_, _, row, column]| (10 * row + column) as f64);
        let inputs = Inputs { query: &query, key: &key, value: &value, ..Inputs::default() };
        let ideal = Ideal::compute(&problem, &inputs, None).expect("buffers fit");
        (Oracle::compute(&problem, &inputs, None).expect("buffers fit"), ideal)
    };
    let (wide, narrow) = (computed(24), computed(8));
    assert_eq!((wide.0.out.len(), wide.1.out.len(), narrow.0.out.len()), (24, 24, 8));
    let behind = (-2f64).exp() / (1.0 + (-2f64).exp());
    for column in 0..24 {
        close(wide.0.out[[0, 0, 0, column]], column as f64 + 10.0 * behind);
    }
    for column in 0..8 {
        let at = [0, 0, 0, column];
        assert_eq!((wide.0.out[at], wide.1.out[at]), (narrow.0.out[at], narrow.1.out[at]));
        assert_eq!(wide.0.score_spread[at], narrow.0.score_spread[at]);
    }
    assert_eq!((wide.0.lse, wide.1.lse), (narrow.0.lse, narrow.1.lse));
}

#[test]
fn rows_without_keys_are_zero() {
    let rows = oracle(Mask::Causal, &[1.0, 1.0, 1.0], &[1.0], &[7.0]);
    assert_eq!(rows.lse.iter().copied().collect::<Vec<_>>(), [f64::NEG_INFINITY, f64::NEG_INFINITY, 1.0]);
    assert_eq!(rows.visible.iter().copied().collect::<Vec<_>>(), [0, 0, 1]);
    assert_eq!(rows.out[[0, 0, 1, 0]], 0.0);
    assert_eq!(oracle(Mask::Full, &[1.0], &[], &[]).lse[[0, 0, 0]], f64::NEG_INFINITY);
    assert!(oracle(Mask::Full, &[], &[1.0], &[1.0]).out.is_empty());
}

#[test]
fn one_key_is_its_value_at_any_logit() {
    for score in [0.0, -60000.0, 60000.0] {
        let oracle = oracle(Mask::Full, &[score], &[1.0], &[0.375]);
        assert_eq!(oracle.out[[0, 0, 0, 0]], 0.375);
        assert_eq!(oracle.lse[[0, 0, 0]], score);
    }
}

#[test]
fn grouped_heads_read_their_own_keys() {
    let problem = Problem::new(1, 4, 1, 8).heads_kv(2).build().expect("valid");
    let ones = fill(&problem, Operand::Query, |_| 1.0);
    let value = fill(&problem, Operand::Value, |[_, head, _, _]| head as f64 + 1.0);
    let inputs = Inputs { query: &ones, key: &ones, value: &value, ..Inputs::default() };
    let oracle = Oracle::compute(&problem, &inputs, None).expect("buffers fit");
    assert_eq!((0..4).map(|head| oracle.out[[0, head, 0, 0]]).collect::<Vec<_>>(), [1.0, 1.0, 2.0, 2.0]);
}

#[test]
fn strides_change_nothing() {
    let build = |layout| Problem::new(2, 3, 9, 16).layout(layout).build().expect("valid");
    let value = |[batch, head, row, column]: [usize; 4]| ((batch * 7 + head * 5 + row * 3 + column) % 11) as f64 - 5.0;
    let [contiguous, interleaved] = [Layout::Bhld, Layout::Blhd].map(|layout| {
        let problem = build(layout);
        let make = |operand| fill(&problem, operand, value);
        let (query, key, value) = (make(Operand::Query), make(Operand::Key), make(Operand::Value));
        Oracle::compute(&problem, &Inputs { query: &query, key: &key, value: &value, ..Inputs::default() }, None)
            .expect("buffers fit")
    });
    assert_eq!(contiguous.out, interleaved.out);
    assert_eq!(contiguous.lse, interleaved.lse);
}

#[test]
fn selected_rows_equal_those_of_the_whole() {
    let problem = Problem::new(3, 4, 150, 16).heads_kv(2).mask(Mask::Causal).build().expect("valid");
    let data = Data::new(&problem, Regime::Normal, 5);
    let rows = Rows { batches: vec![2, 0], heads: vec![3], queries: vec![149, 0, 77] };
    let whole = Oracle::compute(&problem, &data.inputs(), None).expect("buffers fit");
    let some = Oracle::compute(&problem, &data.inputs(), Some(&rows)).expect("buffers fit");
    let ideal = Ideal::compute(&problem, &data.inputs(), None).expect("buffers fit");
    let some_ideal = Ideal::compute(&problem, &data.inputs(), Some(&rows)).expect("buffers fit");
    for (b, &batch) in rows.batches.iter().enumerate() {
        for (i, &query) in rows.queries.iter().enumerate() {
            close(some.lse[[b, 0, i]], whole.lse[[batch, 3, query]]);
            close(some.out[[b, 0, i, 15]], whole.out[[batch, 3, query, 15]]);
            assert_eq!(some_ideal.out[[b, 0, i, 15]], ideal.out[[batch, 3, query, 15]]);
        }
    }
}

#[test]
fn the_ideal_rounds_weights_and_output_once() {
    // Scores 0 and −ln 3 as nearly as f16 has it: the second weight is rounded, the normaliser is not.
    for dtype in [Dtype::F16, Dtype::Bf16] {
        let problem = Problem::new(1, 1, 1, 8).len_kv(2).dtype(dtype).scale(1.0).build().expect("valid");
        let round = |value| dtype.round(value);
        let query = fill(&problem, Operand::Query, |[.., column]| if column == 0 { 1.0 } else { 0.0 });
        let key =
            fill(&problem, Operand::Key, |[_, _, row, column]| if column == 0 && row == 1 { -3f64.ln() } else { 0.0 });
        let value = fill(&problem, Operand::Value, |[_, _, row, _]| if row == 0 { 0.0 } else { 1.0 });
        let inputs = Inputs { query: &query, key: &key, value: &value, ..Inputs::default() };
        let ideal = Ideal::compute(&problem, &inputs, None).expect("buffers fit");
        let weight = round(-3f64.ln()).exp();
        assert_eq!(ideal.out[[0, 0, 0, 0]], round(round(weight) / (1.0 + weight)));
        assert_eq!(ideal.lse[[0, 0, 0]], f64::from((1.0 + weight).ln() as f32));
    }
}

#[test]
fn errors_name_what_does_not_fit() {
    let problem = Problem::new(1, 1, 2, 8).build().expect("valid");
    let bits = [0; 16];
    let inputs = Inputs { query: &bits, key: &bits[..9], value: &bits, ..Inputs::default() };
    let error = Oracle::compute(&problem, &inputs, None).expect_err("the key is too short");
    insta::assert_snapshot!(error, @"key has 9 elements: the problem's shape and strides need 16");
    let inputs = Inputs { key: &bits, ..inputs };
    let rows = Rows { batches: vec![0], heads: vec![0], queries: vec![1, 2] };
    let error = Ideal::compute(&problem, &inputs, Some(&rows)).expect_err("there is no row 2");
    assert_eq!(error, ReferenceError::RowOutOfRange { what: "query", found: 2, limit: 2 });
    insta::assert_snapshot!(error, @"row selection names query 2: the problem has 2");
}

/// What is stored, times its scale, is what is attended to: the same problem in f16 where the products are numbers of f16, to the
/// last bit; and the scale of another head, or of keys for values, shows.
#[test]
fn stored_keys_and_values_are_meant_times_their_scales() {
    let stored = |scales| {
        let storage = KvStorage::E4m3(scales);
        Problem::new(1, 2, 3, 8).len_kv(5).heads_kv(2).scale(0.25).kv_storage(storage).build().expect("valid")
    };
    let element = |[_, head, row, column]: [usize; 4]| ((3 * head + 5 * row + 2 * column) % 7) as f64 - 3.0;
    let compute = |problem: &Problem, key: &[u16], value: &[u16], scales: [&[f32]; 2]| {
        let query = fill(problem, Operand::Query, element);
        let extension = ExtensionInputs { key_scale: scales[0], value_scale: scales[1], ..ExtensionInputs::default() };
        let inputs = Inputs { query: &query, key, value, extension };
        let ideal = Ideal::compute(problem, &inputs, None).expect("buffers fit");
        (Oracle::compute(problem, &inputs, None).expect("buffers fit").out, ideal.out)
    };
    let plain = stored(KvScales::Head).to_builder().kv_storage(KvStorage::Dtype).build().expect("valid");
    let scaled = |operand, scales: [f64; 2]| fill(&plain, operand, |at| element(at) * scales[at[1]]);
    let bits = |operand| fill_stored(&stored(KvScales::Head), operand, element);
    let (key, value) = (bits(Operand::Key), bits(Operand::Value));
    for (scales, keys, values) in
        [(KvScales::Head, vec![0.5_f32, 1.5], vec![2.0_f32, 0.375]), (KvScales::Tensor, vec![0.75], vec![3.0])]
    {
        let of = |scales: &[f32]| [scales[0], scales[scales.len() - 1]].map(f64::from);
        let found = compute(&stored(scales), &key, &value, [&keys, &values]);
        let plain_key = scaled(Operand::Key, of(&keys));
        let plain_value = scaled(Operand::Value, of(&values));
        let expected = compute(&plain, &plain_key, &plain_value, [&[], &[]]);
        assert_eq!((&found.0, &found.1), (&expected.0, &expected.1));
        assert_ne!(found.0, compute(&stored(scales), &key, &value, [&values, &values]).0);
        let swapped: Vec<f32> = values.iter().rev().map(|scale| scale * 2.0).collect();
        assert_ne!(found.0, compute(&stored(scales), &key, &value, [&keys, &swapped]).0);
    }
    // As many scales as the problem has heads, and no others.
    let query = fill(&plain, Operand::Query, element);
    let extension = ExtensionInputs { key_scale: &[1.0], value_scale: &[1.0], ..ExtensionInputs::default() };
    let inputs = Inputs { query: &query, key: &key, value: &value, extension };
    let error = Oracle::compute(&stored(KvScales::Head), &inputs, None).unwrap_err().to_string();
    assert!(error.starts_with("key_scale has 1 numbers") && error.ends_with("needs 2"), "{error}");
    assert!(Oracle::compute(&plain, &inputs, None).is_err());
}

/// NaN of e4m3 is NaN where a row sees it, and nothing where it does not.
#[test]
fn a_stored_nan_shows_where_it_is_seen() {
    let storage = KvStorage::E4m3(KvScales::Tensor);
    let problem = Problem::new(1, 1, 2, 8).mask(Mask::Causal).kv_storage(storage).build().expect("valid");
    let query = fill(&problem, Operand::Query, |_| 1.0);
    let ones = fill_stored(&problem, Operand::Key, |_| 1.0);
    for nan in [0x7f, 0xff] {
        let mut value = ones.clone();
        value[8 + 3] = nan;
        let extension = ExtensionInputs { key_scale: &[1.0], value_scale: &[2.0], ..ExtensionInputs::default() };
        let inputs = Inputs { query: &query, key: &ones, value: &value, extension };
        let oracle = Oracle::compute(&problem, &inputs, None).expect("buffers fit");
        assert_eq!(oracle.out[[0, 0, 0, 3]], 2.0);
        assert!(oracle.out[[0, 0, 1, 3]].is_nan() && oracle.lse[[0, 0, 1]].is_finite());
        assert_eq!(oracle.out[[0, 0, 1, 4]], 2.0);
        let inputs = Inputs { key: &value, value: &ones, ..inputs };
        let oracle = Oracle::compute(&problem, &inputs, None).expect("buffers fit");
        assert!(oracle.lse[[0, 0, 0]].is_finite() && oracle.lse[[0, 0, 1]].is_nan());
    }
}
