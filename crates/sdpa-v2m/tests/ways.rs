//! A part has the same bits whether a block's warps take its strips or one warp alone does.

use sdpa_core::{Attention as _, Device, DeviceChoice, Mask, Problem, Result, Tensors};
use sdpa_v2m::V2m;

/// Three parts, of which the last ends within a strip and leaves others empty.
const KEYS: usize = 600;
const HEADS_KV: usize = 8;
/// Query heads of a key head; with two queries each, all 16 rows of a tile are there at the first, and 6 at the second.
const GROUPS: [usize; 2] = [8, 3];
const QUERIES: usize = 2;

/// Parts enough for warps to take them alone on an H200, which is what the interpreter has the limits of.
const SEQUENCES: usize = 34;

/// f16 numbers between -1 and 1.
fn numbers(count: usize, mut state: u64) -> Vec<u8> {
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let bits = (state >> 33) as u16;
        // Any significand, exponents -5 to -1, either sign.
        (bits & 0x83ff) | ((10 + (bits >> 10) % 5) << 10)
    };
    (0..count).flat_map(|_| next().to_le_bytes()).collect()
}

/// Sequence 0 of a batch, and which kernel it was.
fn first_of(device: &dyn Device, batch: usize, group: usize, head_dim: usize) -> Result<(Vec<u8>, &'static str)> {
    let problem = Problem::new(batch, group * HEADS_KV, QUERIES, head_dim)
        .heads_kv(HEADS_KV)
        .len_kv(KEYS)
        .mask(Mask::Causal)
        .build()?;
    let plan = V2m.plan(&problem, device.limits())?;
    let (rows, keys) = (group * HEADS_KV * QUERIES * head_dim, HEADS_KV * KEYS * head_dim);
    let [query, key, value] =
        [(batch * rows, 1), (batch * keys, 2), (batch * keys, 3)].map(|(count, seed)| numbers(count, seed));
    let (query, key, value) = (device.upload(&query)?, device.upload(&key)?, device.upload(&value)?);
    let output = device.allocate(2 * batch * rows)?;
    V2m.forward(device, &problem, &Tensors::new(&query, &key, &value, &output))?;
    let mut first = vec![0; 2 * rows];
    device.read(&output, 0, &mut first)?;
    Ok((first, plan.launches[0].kernel.name))
}

#[test]
fn a_warp_alone_and_a_block_give_the_same_bits() {
    let device = sdpa_core::open(DeviceChoice::from_env().unwrap()).unwrap();
    for (group, head_dim, names) in [
        (GROUPS[0], 64, ["f16_d64_r16_block", "f16_d64_r16_warp"]),
        (GROUPS[1], 128, ["f16_d128_block", "f16_d128_warp"]),
    ] {
        let (alone, few) = first_of(&*device, 1, group, head_dim).unwrap();
        let (together, many) = first_of(&*device, SEQUENCES, group, head_dim).unwrap();
        assert_eq!([few, many], names);
        assert!(alone.chunks(2).any(|element| element != [0, 0]));
        assert!(alone == together, "head dimension {head_dim}");
    }
}
