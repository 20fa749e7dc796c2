//! A sequence has the same bits alone and in a batch for which its generation takes another kernel.

use sdpa::generations;
use sdpa_core::{Device, DeviceChoice, Mask, Problem, Result, Tensors};

/// One sequence, the batch that it is put into, and the kernels for each.
struct Sequence {
    generation: &'static str,
    heads_kv: usize,
    /// Query heads of a key head.
    group: usize,
    queries: usize,
    keys: usize,
    head_dim: usize,
    mask: Mask,
    /// Sequences enough for the other kernel on an H200, which is what the interpreter has the limits of.
    batch: usize,
    alone: &'static str,
    together: &'static str,
}

/// Keys of three parts, of which the last ends within a strip and leaves others empty; and rows that fill a tile, or do not.
const OF_PARTS: Sequence = Sequence {
    generation: "v2j",
    heads_kv: 8,
    group: 8,
    queries: 2,
    keys: 600,
    head_dim: 64,
    mask: Mask::Causal,
    batch: 34,
    alone: "f16_d64_block",
    together: "f16_d64_warp",
};

const SEQUENCES: [Sequence; 5] = [
    Sequence {
        generation: "v2g",
        heads_kv: 1,
        group: 2,
        queries: 1,
        keys: 700,
        mask: Mask::Full,
        batch: 200,
        alone: "f16_d64_g8",
        together: "f16_d64_g4",
        ..OF_PARTS
    },
    OF_PARTS,
    Sequence { group: 3, head_dim: 128, alone: "f16_d128_block", together: "f16_d128_warp", ..OF_PARTS },
    Sequence { generation: "v2m", alone: "f16_d64_r16_block", together: "f16_d64_r16_warp", ..OF_PARTS },
    Sequence {
        generation: "v2m",
        group: 3,
        head_dim: 128,
        alone: "f16_d128_block",
        together: "f16_d128_warp",
        ..OF_PARTS
    },
];

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

impl Sequence {
    /// What becomes of it as the first of a batch, and by which kernel.
    fn first_of(&self, device: &dyn Device, batch: usize) -> Result<(Vec<u8>, &'static str)> {
        let generation = generations::find(self.generation).expect("is listed");
        let &Self { heads_kv, group, queries, keys, head_dim, mask, .. } = self;
        let problem =
            Problem::new(batch, group * heads_kv, queries, head_dim).heads_kv(heads_kv).len_kv(keys).mask(mask);
        let problem = problem.build()?;
        let plan = generation.plan(&problem, device.limits())?;
        let (rows, keys) = (group * heads_kv * queries * head_dim, heads_kv * keys * head_dim);
        let [query, key, value] =
            [(batch * rows, 1), (batch * keys, 2), (batch * keys, 3)].map(|(count, seed)| numbers(count, seed));
        let (query, key, value) = (device.upload(&query)?, device.upload(&key)?, device.upload(&value)?);
        let output = device.allocate(2 * batch * rows)?;
        generation.forward(device, &problem, &Tensors::new(&query, &key, &value, &output))?;
        let mut first = vec![0; 2 * rows];
        device.read(&output, 0, &mut first)?;
        Ok((first, plan.launches[0].kernel.name))
    }
}

#[test]
fn the_kernels_for_few_and_for_many_sequences_give_the_same_bits() {
    let device = sdpa_core::open(DeviceChoice::from_env().unwrap()).unwrap();
    for sequence in &SEQUENCES {
        let (alone, few) = sequence.first_of(&*device, 1).unwrap();
        let (together, many) = sequence.first_of(&*device, sequence.batch).unwrap();
        assert_eq!([few, many], [sequence.alone, sequence.together], "{}", sequence.generation);
        assert!(alone.chunks(2).any(|element| element != [0, 0]), "{few}");
        assert!(alone == together, "{}: {few} and {many}", sequence.generation);
    }
}
