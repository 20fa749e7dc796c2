//! The queries, keys and values of a real model's first layer, causal and not.

use safetensors::SafeTensors;
use sdpa_core::{Attention, Device, Mask, Problem};

use crate::regime::Data;
use crate::verify::{Thoroughness, verify_data};

/// Where it comes from is told beside the file.
const MINILM: &[u8] = include_bytes!("../../sdpa-ref/tests/data/minilm-layer0.safetensors");

/// Verifies all heads, causal and not: how near a generation comes to an ideal kernel.
///
/// # Errors
/// What is wrong, in words.
pub fn check(device: &dyn Device, generation: &dyn Attention) -> Result<String, String> {
    let tensors = SafeTensors::deserialize(MINILM).map_err(|error| error.to_string())?;
    let tensor = |name: &str| tensors.tensor(name).map_err(|error| error.to_string());
    let bits = |name: &str| -> Result<Vec<u16>, String> {
        Ok(tensor(name)?.data().chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect())
    };
    let data = Data { query: bits("q")?, key: bits("k")?, value: bits("v")? };
    let &[batch, heads, length, head_dim] = tensor("q")?.shape() else { return Err("q is no 4-D tensor".to_owned()) };
    let mut lines = Vec::new();
    for mask in [Mask::Full, Mask::Causal] {
        let problem =
            Problem::new(batch, heads, length, head_dim).mask(mask).build().map_err(|error| error.to_string())?;
        let measured =
            verify_data(device, generation, &problem, &data, 0, Thoroughness::default()).map_err(|reason| {
                format!("{} fails on MiniLM's first layer, {problem}:\n{reason}", generation.generation().id)
            })?;
        lines.push(format!("{} {:.2} × ideal", mask.name(), measured.rel_fro / measured.ideal_fro));
    }
    Ok(format!("MiniLM's first layer, error {}", lines.join(", ")))
}
