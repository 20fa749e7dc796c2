//! The queries, keys and values of a real model's first layer, causal, not, its last position alone, and cut into packed
//! sequences.

use sdpa_core::{Attention, Device, Layout, Mask, Operand, Packing, Problem, ProblemError, Window};
use sdpa_ref::Judged;

use crate::needs::as_needed;
use crate::regime::{Data, ExtensionData, GAP, cumulative};
use crate::verify::{Reason, Thoroughness, verify_data};

/// Where it comes from is told beside the file. It is whole only while this is compiled: a program carries what [`MINILM`] takes of it,
/// and not the 0.8 MB of outputs that tests of the oracle compare.
const RECORDED: &[u8] = include_bytes!("../../sdpa-ref/tests/data/minilm-layer0.safetensors");

/// Batch, heads, length, head dimension of each tensor.
const SHAPE: [usize; 4] = [1, 12, 256, 32];
const BYTES: usize = 2 * SHAPE[0] * SHAPE[1] * SHAPE[2] * SHAPE[3];

/// `k`, `q` and `v` in f16, which are the last in the file.
static MINILM: [u8; 3 * BYTES] = *RECORDED.last_chunk().expect("the file holds three tensors");

/// Lengths of the packed sequences that the layer's positions are cut into: one position, none, a whole tile of 64 and one
/// more, and lengths between.
const PACKED: [usize; 7] = [38, 1, 64, 0, 65, 17, 71];

/// Verifies all heads, each way that the generation takes: how near it comes to an ideal kernel.
///
/// # Errors
/// What is wrong, in words.
pub fn check(device: &dyn Device, generation: &dyn Attention) -> Result<String, String> {
    let data = recorded();
    let [batch, heads, length, head_dim] = SHAPE;
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

/// The layer as it was recorded.
fn recorded() -> Data {
    let mut tensors = MINILM.chunks_exact(BYTES).map(bits);
    let mut next = || tensors.next().expect("MINILM holds three tensors");
    // Fields are evaluated as they are written here, which is their order in the file.
    Data { key: next(), query: next(), value: next(), ..Data::default() }
}

fn bits(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect()
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

#[cfg(test)]
mod tests {
    use safetensors::{Dtype, SafeTensors};

    use super::*;

    #[test]
    fn the_layer_is_what_the_file_says_by_name() {
        let tensors = SafeTensors::deserialize(RECORDED).expect("the recorded file is safetensors");
        let Data { query, key, value, .. } = recorded();
        for (name, found) in [("q", query), ("k", key), ("v", value)] {
            let tensor = tensors.tensor(name).expect(name);
            assert_eq!((tensor.dtype(), tensor.shape()), (Dtype::F16, &SHAPE[..]), "{name}");
            assert!(found == bits(tensor.data()), "{name} is another tensor");
        }
    }
}
