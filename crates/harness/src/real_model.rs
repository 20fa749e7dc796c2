//! The queries, keys and values of a real model's first layer, causal, not, its last position alone, and cut into packed
//! sequences.

use safetensors::SafeTensors;
use sdpa_core::{Attention, Device, Layout, Mask, Operand, Packing, Problem, ProblemError, Window};
use sdpa_ref::Judged;

use crate::needs::as_needed;
use crate::regime::{Data, ExtensionData, GAP, cumulative};
use crate::verify::{Reason, Thoroughness, verify_data};

/// Where it comes from is told beside the file.
const MINILM: &[u8] = include_bytes!("../../sdpa-ref/tests/data/minilm-layer0.safetensors");

/// Lengths of the packed sequences that the layer's positions are cut into: one position, none, a whole tile of 64 and one
/// more, and lengths between.
const PACKED: [usize; 7] = [38, 1, 64, 0, 65, 17, 71];

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
    let packed = Data { extension: packed(), ..data.clone() };
    let (mut lines, mut judged) = (Vec::new(), Judged::default());
    let dense = |len_q| Problem::new(batch, heads, len_q, head_dim).len_kv(length);
    let longest = PACKED.into_iter().max().unwrap_or(0);
    let packing = Packing { sequences: PACKED.len(), longest_q: longest, longest_kv: longest };
    // The tensors stay as they are, with the heads outermost.
    let of_sequences = || Problem::packed(packing, heads, length, head_dim).layout(Layout::Bhld);
    for (what, problem, data) in [
        ("full", dense(length), &data),
        ("causal", dense(length).mask(Mask::Causal), &data),
        ("decoding", dense(1).mask(Mask::Causal), &last),
        ("packed", of_sequences(), &packed),
        ("packed in a causal window", of_sequences().mask(Mask::Causal).window(Window::left(20)), &packed),
    ] {
        let problem = problem.build().map_err(|error: ProblemError| error.to_string())?;
        let (problem, data) = stored_as_needed(generation, &problem, data);
        match verify_data(device, generation, &problem, &data, 0, Thoroughness::default()) {
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

/// The layer as a generation takes it: with keys and values rounded to e4m3, under a scale for each head that makes the largest of
/// them the type's largest, if it takes no others.
fn stored_as_needed(generation: &dyn Attention, problem: &Problem, data: &Data) -> (Problem, Data) {
    let needed = as_needed(generation, problem);
    let mut stored = data.clone();
    if needed.kv_scale_count() == 0 {
        return (needed, stored);
    }
    let mut from = data.clone();
    for operand in [Operand::Key, Operand::Value] {
        *stored.operand_mut(operand) = vec![GAP; needed.span(operand)];
        let [batches, heads, length, _] = problem.shape(operand);
        let mut scales = Vec::new();
        for head in 0..heads {
            let rows = || (0..batches).flat_map(move |batch| (0..length).map(move |row| [batch, head, row]));
            let values: Vec<Vec<f64>> = rows().map(|at| from.values(problem, operand, at)).collect();
            let largest = values.iter().flatten().fold(0.0, |largest: f64, value| largest.max(value.abs()));
            let scale = (largest / 448.0) as f32;
            for (at, row) in rows().zip(&values) {
                let bits = row.iter().map(|value| needed.element(operand).encode(value / f64::from(scale)));
                stored.row_mut(&needed, operand, at).iter_mut().zip(bits).for_each(|(to, bits)| *to = bits);
            }
            scales.push(scale);
        }
        match operand {
            Operand::Key => stored.extension.key_scale = scales,
            _ => stored.extension.value_scale = scales,
        }
    }
    (needed, stored)
}

/// Where the sequences begin, in queries and in keys.
fn packed() -> ExtensionData {
    let cu_seqlens = cumulative(&PACKED);
    ExtensionData { cu_seqlens_q: cu_seqlens.clone(), cu_seqlens_k: cu_seqlens, ..ExtensionData::default() }
}
