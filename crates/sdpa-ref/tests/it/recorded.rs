//! The oracle against outputs recorded from a real model's attention.

use safetensors::SafeTensors;
use sdpa_core::{Mask, Problem};
use sdpa_ref::{Inputs, Oracle};

const RECORDED: &[u8] = include_bytes!("../data/minilm-layer0.safetensors");

#[test]
fn oracle_equals_recorded_outputs_to_f32_rounding() {
    let file = SafeTensors::deserialize(RECORDED).expect("a safetensors file");
    let bits = |name: &str| -> Vec<u16> {
        let tensor = file.tensor(name).expect("recorded");
        assert_eq!(tensor.shape(), [1, 12, 256, 32]);
        tensor.data().chunks_exact(2).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]])).collect()
    };
    let (query, key, value) = (bits("q"), bits("k"), bits("v"));
    let inputs = Inputs { query: &query, key: &key, value: &value, ..Inputs::default() };
    for (mask, name) in [(Mask::Full, "out"), (Mask::Causal, "out_causal")] {
        let problem = Problem::new(1, 12, 256, 32).mask(mask).build().expect("valid");
        let oracle = Oracle::compute(&problem, &inputs, None).expect("buffers fit");
        let scale_error = (f64::from(problem.scale()) * 32f64.sqrt() - 1.0).abs();
        let recorded = file.tensor(name).expect("recorded");
        let recorded =
            recorded.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four bytes")));
        for ((place, expected), recorded) in oracle.out.indexed_iter().zip(recorded) {
            // One rounding to f32, and the scores' shift by a scale that is f32 here and was f64 there.
            let (batch, head, query, _) = place;
            let shift = scale_error * oracle.score_magnitude[[batch, head, query]];
            let bound = 2f64.powi(-24) * expected.abs() + 2.0 * shift * oracle.weighted_abs[place];
            let error = (expected - f64::from(recorded)).abs();
            assert!(error <= bound, "{name}{place:?} is {expected}, recorded {recorded}");
        }
    }
}
