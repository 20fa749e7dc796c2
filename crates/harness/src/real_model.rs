//! The queries, keys and values of a real model's first layer, causal, not, and its last position alone.

use safetensors::SafeTensors;
use sdpa_core::{Attention, Device, Mask, Problem};
use sdpa_ref::Judged;

use crate::regime::Data;
use crate::verify::{Reason, Thoroughness, verify_data};

/// Where it comes from is told beside the file.
const MINILM: &[u8] = include_bytes!("../../sdpa-ref/tests/data/minilm-layer0.safetensors");

/// Verifies all heads, each way that the generation takes: how near it comes to an ideal kernel.
///
/// # Errors
/// What is wrong, in words.
pub fn check(device: &dyn Device, generation: &dyn Attention) -> Result<String, String> {
    let tensors = SafeTensors::deserialize(MINILM).map_err(|error| error.to_string())?;
    let tensor = |name: &str| tensors.tensor(name).map_err(|error| error.to_string());
    let bits = |name: &str| -> Result<Vec<u16>, String> {
        Ok(tensor(name)?.data().chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect())
    };
    let data = Data { query: bits("q")?, key: bits("k")?, value: bits("v")?, ..Data::default() };
    let &[batch, heads, length, head_dim] = tensor("q")?.shape() else { return Err("q is no 4-D tensor".to_owned()) };
    // The layer as a whole, and as if its last position were decoded: generations may take one and decline the other.
    let last = Data {
        query: data
            .query
            .chunks_exact(length * head_dim)
            .flat_map(|head| &head[(length - 1) * head_dim..])
            .copied()
            .collect(),
        ..data.clone()
    };
    let (mut lines, mut judged) = (Vec::new(), Judged::default());
    for (what, mask, len_q, data) in [
        ("full", Mask::Full, length, &data),
        ("causal", Mask::Causal, length, &data),
        ("decoding", Mask::Causal, 1, &last),
    ] {
        let problem = Problem::new(batch, heads, len_q, head_dim).len_kv(length).mask(mask).build();
        let problem = problem.map_err(|error| error.to_string())?;
        match verify_data(device, generation, &problem, data, 0, Thoroughness::default()) {
            Ok(measured) => {
                judged += measured.judged;
                lines.push(format!("{what} {:.2} × ideal", measured.rel_fro / measured.ideal_fro));
            }
            Err(Reason::Device(error)) if error.is_unsupported() => lines.push(format!("{what} declined")),
            Err(reason) => {
                let id = generation.generation().id;
                return Err(format!("{id} fails on MiniLM's first layer, {problem}:\n{reason}"));
            }
        }
    }
    match judged.rows {
        0 => Err(format!("MiniLM's first layer: {}", lines.join(", "))),
        _ => Ok(format!("MiniLM's first layer, {judged}, error {}", lines.join(", "))),
    }
}
